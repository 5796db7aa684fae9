"""What a reconstruction network adds that nobody measured, what it hides, and what it lacked.

The operator's null space is split off exactly, so that two things can be told apart: what the
scanner cannot see, which no network can know, and what a network does not look at although it was
measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .kspace import Scan, given, image_of
from .operators import Fourier
from .quality import psnr
from .solvers import split

DEAF = 0.1
"""A measured line is not looked at where the image answers by less than this."""
AT_ONCE = 32
"""Images in a pass of a network."""

Reconstruct = Callable[[Tensor, Tensor], Tensor]
"""Of measured k-space and mask, (N, H, W), to complex images (N, H, W)."""


def of_network(network: nn.Module) -> Reconstruct:
    """A network of ``networks.reconstruction`` as a function of k-space and mask."""

    def reconstruct(measured: Tensor, mask: Tensor) -> Tensor:
        found = [
            image_of(network(given(k, m)))
            for k, m in zip(measured.split(AT_ONCE), mask.split(AT_ONCE))
        ]
        return torch.cat(found)

    return reconstruct


@dataclass(frozen=True)
class Hallucination:
    """What was added to the zero-filled image, of one scan.

    Attributes:
        hidden: Share of its energy that lies in the operator's null space, 0 to 1: nobody measured
            it.
        error: Norm of what is wrong in the null space over that of the truth there; adding nothing
            there has 1, and more than 1 is worse than nothing.
        agreement: Cosine of what was added there with the truth there; 0 for a guess.
        contradiction: Norm of what the image says against the measurements over theirs.
    """

    hidden: float
    error: float
    agreement: float
    contradiction: float


def hallucination(scan: Scan, images: Tensor) -> list[Hallucination]:
    """Of each scan and the complex image (N, H, W) that was made of it."""
    found = []
    for truth, measured, mask, image in zip(scan.image, scan.measured, scan.mask, images):
        operator = Fourier(mask)
        added = image - operator.adjoint(measured)
        _, invented = split(operator, added)
        _, missing = split(operator, truth)
        agreement = (invented.conj() * missing).sum().real
        found.append(
            Hallucination(
                hidden=_ratio(invented, added) ** 2,
                error=_ratio(invented - missing, missing),
                agreement=float(agreement / (invented.norm() * missing.norm()).clamp_min(1e-12)),
                contradiction=_ratio(operator.forward(image) - measured, measured),
            )
        )
    return found


def _ratio(part: Tensor, whole: Tensor) -> float:
    return float(part.norm() / whole.norm().clamp_min(1e-12))


# What it hides ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hidden:
    """How much of a change of the patient an image shows.

    Attributes:
        unseen: Norm of the answer to the change's part in the null space over that of this part: 0
            for every network, since it is given the same.
        seen: The same of the part that is measured.
        share: Of the change's energy, what lies in the null space.
    """

    unseen: float
    seen: float
    share: float


def hides(reconstruct: Reconstruct, scan: Scan, change: Tensor) -> list[Hidden]:
    """What becomes of a change of the patient.

    Args:
        reconstruct: See ``of_network``.
        scan: Of patients.
        change: Added to their images, complex (N, H, W).
    """
    before = reconstruct(scan.measured, scan.mask)
    found = []
    for number, (mask, one) in enumerate(zip(scan.mask, change)):
        operator = Fourier(mask)
        seen, unseen = split(operator, one)
        answers = []
        for part in (seen, unseen):
            measured = scan.measured[number] + operator.forward(part)
            answers.append(
                _ratio(reconstruct(measured[None], mask[None])[0] - before[number], part)
            )
        found.append(Hidden(answers[1], answers[0], _ratio(unseen, one) ** 2))
    return found


def line_answers(reconstruct: Reconstruct, scan: Scan, size: float = 0.05, seed: int = 0) -> Tensor:
    """How strongly the image answers to each line of k-space, (N, H); 1 keeps it as it is.

    A line is changed at random by a share of the head's energy, and the norm of the image's change
    is divided by that of the line's. Lines that were not measured have exactly 0.

    Args:
        reconstruct: See ``of_network``.
        scan: Of patients.
        size: Norm of the change over that of the patient's k-space.
        seed: Of the changes.
    """
    generator = torch.Generator().manual_seed(seed)
    before = reconstruct(scan.measured, scan.mask)
    answers = torch.zeros(scan.mask.shape[:2])
    for number, mask in enumerate(scan.mask):
        lines = mask[:, 0].nonzero()[:, 0]
        change = torch.zeros(len(lines), *mask.shape, dtype=torch.complex64)
        noise = torch.randn(len(lines), mask.shape[1], dtype=torch.complex64, generator=generator)
        noise *= size * scan.measured[number].norm() / noise.norm(dim=1, keepdim=True)
        change[torch.arange(len(lines)), lines] = noise
        after = reconstruct(scan.measured[number] + change, mask.expand_as(change))
        moved = (after - before[number]).flatten(1).norm(dim=1)
        answers[number, lines] = moved / noise.norm(dim=1)
    return answers


def lost(answers: Tensor) -> list[tuple[float, float]]:
    """Shares of an image's directions that are lost: by the scanner, and by the network beside.

    Args:
        answers: Of ``line_answers``, (N, H).
    """
    return [
        (float((one == 0).float().mean()), float(((one > 0) & (one < DEAF)).float().mean()))
        for one in answers
    ]


# What it lacked -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Acquisition:
    """Lines of k-space that would have helped, of one scan.

    Attributes:
        lines: The best to add, one after the other.
        gains: dB of each of them, above those before.
        usual: dB of the missing line that is nearest the middle, as the first.
        any: dB of a missing line at random, on average, as the first.
    """

    lines: list[int]
    gains: list[float]
    usual: float
    any: float


def ideal_acquisition(reconstruct: Reconstruct, scan: Scan, count: int = 2) -> list[Acquisition]:
    """Which lines would have helped each scan's image most, found by trying every one.

    Args:
        reconstruct: See ``of_network``.
        scan: Its ``complete`` says what the lines would have been.
        count: How many lines are added, each time the best.
    """
    found = []
    for number in range(len(scan.mask)):
        truth, complete = scan.image[number], scan.complete[number]
        mask, lines, gains = scan.mask[number].clone(), [], []
        first: dict[int, float] = {}
        for _ in range(count):
            missing = (mask[:, 0] == 0).nonzero()[:, 0].tolist()
            masks = mask.repeat(1 + len(missing), 1, 1)
            masks[torch.arange(len(missing)) + 1, missing] = 1
            images = reconstruct(masks * complete, masks)
            before, *after = psnr(images, truth.expand_as(images))
            tried = {line: value - before for line, value in zip(missing, after)}
            first = first or tried
            best = max(tried, key=lambda line: tried[line])
            lines.append(best)
            gains.append(tried[best])
            mask[best] = 1
        middle = len(mask) // 2
        usual = first[min(first, key=lambda line: abs(line - middle))]
        found.append(Acquisition(lines, gains, usual, sum(first.values()) / len(first)))
    return found
