"""A criterion that is local in space: the largest mean over patches of the size of a structure.

A mean over a whole region lets a change pass that is large in one place and nothing elsewhere, the
more so the larger the region. The largest mean over patches does not: patches that nothing reaches
add nothing to it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SHARPNESS = 8  # of the smooth largest: its power mean's exponent


def patch_voxels(patch_mm: float, spacing_mm: tuple[float, float]) -> tuple[int, int]:
    """Rows and columns of a patch, at least one each.

    Args:
        patch_mm: Its side.
        spacing_mm: Voxel size along i, j.
    """
    rows, columns = (max(1, round(patch_mm / mm)) for mm in reversed(spacing_mm[:2]))
    return rows, columns


def patch_means(squares: Tensor, patch: tuple[int, int]) -> Tensor:
    """Means over every patch that lies in a map.

    Args:
        squares: (N, C, H, W), zero beyond; channels are averaged.
        patch: Rows and columns.

    Returns:
        (N, patches).
    """
    squares = squares.mean(1, keepdim=True)
    short = [max(0, p - n) for p, n in zip(patch, squares.shape[2:])]
    if any(short):  # a map smaller than a patch, with nothing around it
        squares = F.pad(squares, (0, short[1], 0, short[0]))
    means = F.avg_pool2d(F.avg_pool2d(squares, (patch[0], 1), 1), (1, patch[1]), 1)
    return means.flatten(1)


def smooth_largest(means: Tensor) -> Tensor:
    """An upper bound of the largest that has a gradient everywhere: a power sum.

    Args:
        means: At least 0, (N, patches).

    Returns:
        (N,), at least the largest of each row.
    """
    top = means.amax(1, keepdim=True).detach().clamp(min=torch.finfo(means.dtype).tiny)
    powers = (means / top).pow(SHARPNESS).sum(1)
    # At 0, where nothing changed, a root has no slope.
    return top[:, 0] * powers.clamp(min=torch.finfo(means.dtype).tiny).pow(1 / SHARPNESS)
