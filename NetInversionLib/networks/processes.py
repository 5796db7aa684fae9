"""Sums over the processes that train together (``training.Group``).

They are for what a network measures of a whole batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def count() -> int:
    """How many processes train together, 1 if this one is alone."""
    return (
        distributed.get_world_size()
        if distributed.is_available() and distributed.is_initialized()
        else 1
    )


def total(x: Tensor) -> Tensor:
    """The sum of all processes' tensors, of the shape of x; gradients are summed too."""
    return _Sum.apply(x) if count() > 1 else x


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        everybody = x.clone()
        distributed.all_reduce(everybody)
        return everybody

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)
