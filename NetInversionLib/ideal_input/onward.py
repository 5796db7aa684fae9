"""A short search that goes on from images near their goal."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..optimise import descent
from .served import ValueAndGradient
from .settings import STEPS


def gone_on(
    began: Tensor,
    free: Tensor,
    total: ValueAndGradient,
    share: float,
    told: Callable[[int], None],
) -> Tensor:
    """What ``STEPS`` steps find from ``began``, (images, C, *space).

    Args:
        began: Where the search begins, normalised, of that shape.
        free: 1 where the images may change and 0 elsewhere, of the same shape.
        total: What is made small, as of ``served.priced``.
        share: Of the usual step, above 0 to 1: the nearer the goal, the less.
        told: Called with the number of each step, from 1; what it raises ends the search.
    """

    def value_and_gradient(x: Tensor, items: Tensor, rounding: float) -> tuple[Tensor, Tensor]:
        value, gradient = total(x, items, rounding)
        return value, gradient * free[items]

    return descent.minimize(
        value_and_gradient,
        began,
        descent.Options(max_evaluations=STEPS),
        shares=torch.full((len(began),), share),
        callback=lambda step, best: told(step),
    ).x
