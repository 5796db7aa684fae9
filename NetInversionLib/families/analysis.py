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

from ..networks.varnet import root_sum_of_squares
from .coils import CoilScan
from .kspace import Scan, given, image_of
from .operators import Fourier, Operator
from .quality import psnr
from .solvers import cgnr, split

DEAF = 0.1
"""A measured line is not looked at where the image answers by less than this."""
AT_ONCE = 32
"""Images in a pass of a network."""

Reconstruct = Callable[[Tensor, Tensor], Tensor]
"""Of measured k-space and mask, (N, H, W), to complex images (N, H, W); or of the k-space of
several coils, (N, C, H, W), to magnitudes.
"""


def of_network(network: nn.Module) -> Reconstruct:
    """A network of ``networks.reconstruction`` as a function of k-space and mask."""
    return _in_parts(lambda measured, mask: image_of(network(given(measured, mask))))


def of_coils(network: nn.Module) -> Reconstruct:
    """A ``networks.varnet`` as a function of the coils' k-space and mask."""
    return _in_parts(
        lambda measured, mask: root_sum_of_squares(network.coil_images(measured, mask))
    )


def _in_parts(reconstruct: Reconstruct) -> Reconstruct:
    """The same for any number of scans."""

    def all_of(measured: Tensor, mask: Tensor) -> Tensor:
        parts = zip(measured.split(AT_ONCE), mask.split(AT_ONCE))
        return torch.cat([reconstruct(*part) for part in parts])

    return all_of


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
    """Of each scan and the complex image (N, H, W) that was made of it.

    Scans may be of several coils, with the images of all of them: (N, C, H, W).
    """
    return [
        hallucinated(Fourier(mask), truth, measured, image)
        for truth, measured, mask, image in zip(scan.image, scan.measured, scan.mask, images)
    ]


def hallucinated(
    operator: Operator, truth: Tensor, measured: Tensor, image: Tensor
) -> Hallucination:
    """What an image has that the shortest one which says what was measured does not.

    Args:
        operator: Of the scanner.
        truth: The image without anything lost, (..., *image_shape).
        measured: (..., *measured_shape).
        image: What was made of it, (..., *image_shape).
    """
    added = image - cgnr(operator, measured)
    _, invented = split(operator, added)
    _, missing = split(operator, truth)
    agreement = (invented.conj() * missing).sum().real
    return Hallucination(
        hidden=_ratio(invented, added) ** 2,
        error=_ratio(invented - missing, missing),
        agreement=float(agreement / (invented.norm() * missing.norm()).clamp_min(1e-12)),
        contradiction=_ratio(operator.forward(image) - measured, measured),
    )


def _under(masks: Tensor, complete: Tensor) -> Tensor:
    """What each of masks (N, H, W) leaves of k-space (H, W), or (C, H, W) of several coils."""
    return masks.unflatten(0, (-1, *[1] * (complete.ndim - 2))) * complete


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


def line_answers(
    reconstruct: Reconstruct, scan: Scan | CoilScan, size: float = 0.05, seed: int = 0
) -> Tensor:
    """How strongly the image answers to each line of k-space, (N, H); 1 keeps it as it is.

    Scans may be of several coils: a line is then that of all.

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
        measured, several = scan.measured[number], mask.repeat(len(lines), 1, 1)
        change = torch.zeros(len(lines), *measured.shape, dtype=torch.complex64)
        shape = len(lines), *measured.shape[:-2], mask.shape[1]
        noise = torch.randn(shape, dtype=torch.complex64, generator=generator)
        for one, line, added in zip(change, lines, noise):
            one[..., line, :] = added * size * measured.norm() / added.norm()
        after = reconstruct(measured + change, several)
        moved = (after - before[number]).flatten(1).norm(dim=1)
        answers[number, lines] = moved / change.flatten(1).norm(dim=1)
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


def ideal_acquisition(
    reconstruct: Reconstruct, scan: Scan | CoilScan, count: int = 2
) -> list[Acquisition]:
    """Which lines would have helped each scan's image most, found by trying every one.

    Scans may be of several coils.

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
            images = reconstruct(_under(masks, complete), masks)
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
