"""Several optima: inputs that a network errs as little on, what they share and where they differ.

Many inputs lead to nearly the same output. Beside what the search found from each start, more are
found from the best one with noise added (seeds), searched again without a price. All are then
brought to one error: each goes back, on the straight line towards where it began, until it errs as
much as the worst. What still differs is the leeway that the network leaves: for a linear network,
its null space.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.progress import Progress
from ..optimise.objective import Objective
from .onward import gone_on
from .served import priced
from .settings import STEPS

DEVIATION = 0.1
"""Standard deviation of the noise that seeds begin with, as a share of a channel's range."""
SHARE = 0.2
"""Of the usual step: seeds begin near their goal."""
HALVINGS = 12
"""Of the stretch on which an input of the common error is looked for."""


@dataclass(frozen=True)
class Member:
    """An input that was found, and where its search began, each (images, C, *space)."""

    found: Tensor
    began: Tensor


@dataclass(frozen=True)
class Leeway:
    """What inputs of one error share, and where they differ.

    Attributes:
        common: Their mean, (images, C, *space).
        spread: Standard deviation of each voxel over the inputs, of the same shape.
        components: Directions in which they differ, the largest first, each of this shape and one
            standard deviation long, (members - 1, images, C, *space).
        shares: Of the spread's variance, of each component, (members - 1,).
    """

    common: Tensor
    spread: Tensor
    components: Tensor
    shares: Tensor


def seeded(
    best: Tensor,
    free: Tensor,
    objective: Objective,
    weight: float,
    seed: int,
    progress: Progress = Progress(),
) -> Member:
    """Another input, from ``best`` with noise added.

    Args:
        best: Normalised, (images, C, *space).
        free: Where it may change, of the same shape.
        objective: Of these images, a mean over voxels.
        weight: Of the blurred input's error.
        seed: Of the noise.
        progress: Receives progress; may raise ``Cancelled``.
    """
    noise = torch.randn(best.shape, generator=torch.Generator().manual_seed(seed)).to(best)
    began = best + DEVIATION * noise * free
    total = priced(objective, best, None, None, weight)

    def told(step: int) -> None:
        progress.report(0.98, f"Other inputs as good, step {step} of {STEPS}")

    return Member(gone_on(began, free, total, SHARE, told), began)


def of_one_error(
    members: Sequence[Member], objective: Objective, weight: float
) -> tuple[Tensor, Tensor]:
    """The members, each as far back towards its beginning as all err alike.

    Args:
        members: At least one.
        objective: Of their images, a mean over voxels.
        weight: Of the blurred input's error.

    Returns:
        Inputs (members, images, C, *space), and what is minimised at that error, (images,).
    """
    items = torch.arange(len(members[0].found), device=members[0].found.device)
    total = priced(objective, members[0].found, None, None, weight)
    level = torch.stack([total(member.found, items)[0] for member in members]).max(0).values
    column = [-1, *[1] * (members[0].found.dim() - 1)]
    moved = []
    for member in members:
        low, high = torch.zeros_like(level), torch.ones_like(level)
        back = member.began - member.found
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            still = total(member.found + middle.reshape(column) * back, items)[0] <= level
            low, high = torch.where(still, middle, low), torch.where(still, high, middle)
        moved.append(member.found + low.reshape(column) * back)
    return torch.stack(moved), level


def leeway(inputs: Tensor) -> Leeway:
    """What inputs share and where they differ.

    Args:
        inputs: At least two, (members, images, C, *space).

    Source:
        Principal components by the members' inner products: Turk & Pentland, J Cogn Neurosci
        1991;3:71.
    """
    count = len(inputs)
    common = inputs.mean(0)
    away = (inputs - common).flatten(1)
    values, vectors = torch.linalg.eigh((away @ away.T).double() / (count - 1))
    order = values.argsort(descending=True)[: count - 1]
    kept = values[order].clamp(min=0)
    directions = vectors[:, order].T.to(away) @ away / (count - 1) ** 0.5
    return Leeway(
        common,
        inputs.std(0),
        directions.reshape(-1, *common.shape),
        kept / kept.sum().clamp(min=1e-30),
    )


def common_and_spread(inputs: Tensor, patient: Tensor, free: Tensor) -> tuple[float, float]:
    """Root-mean-square change that all inputs share, and that in which they differ.

    Args:
        inputs: (members, images, ...), at least two.
        patient: What they are changes of, (images, ...).
        free: Where they may change, of the shape of ``patient``.

    Returns:
        Both in the inputs' units; the mean over few members holds some of what they differ in, and
        that is taken off.
    """
    voxels = free.sum().clamp(min=1)
    spread = (inputs.var(0) * free).sum() / voxels
    mean = ((inputs.mean(0) - patient).square() * free).sum() / voxels
    return float((mean - spread / len(inputs)).clamp(min=0).sqrt()), float(spread.sqrt())


def shared_part(shared: float, spread: float) -> float:
    """Part of the inputs' mean square change that all share, 0 to 1; NaN without a change.

    Args:
        shared, spread: As of ``common_and_spread``.
    """
    whole = shared**2 + spread**2
    return shared**2 / whole if whole else math.nan
