"""The voxels by which the tone curve goes: those in places that are not left out.

Without a place's voxels the whole brain's quantiles are others, in the target's people too. How
much others follows from what the target shows place by place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..networks.corrector import CELL, GRID, LEVELS, MATCHED, TONE_LEVELS
from .scan import SCALE_PERCENTILE, Scan
from .statistics import BLOCK_OF_VOXEL, Target, grid_to_template

if TYPE_CHECKING:
    from .brain import Tissue

SOME_VOXELS = 300_000
# Of a place's distribution between its known quantiles.
_BETWEEN = (np.arange(64) + 0.5) / 64


@dataclass(frozen=True)
class Kept:
    """Voxels spread evenly over the mask, without the places that are left out.

    Attributes:
        values: Scaled, (n,) float64.
        points: Their places, (3, n), RAS mm.
        target: Of the people, whose quantiles of the whole brain are those of the same places.
        scale: What the scan would have to be divided by for its 99.5th percentile to be 1 without
            the places left out; 1 if nothing is.
    """

    values: np.ndarray
    points: np.ndarray
    target: Target
    scale: float


def kept_voxels(scan: Scan, tissue: Tissue, target: Target, left_out: np.ndarray) -> Kept:
    """See ``Kept``.

    Args:
        scan: Scaled, with its mask.
        tissue: Its voxels in the template's grid.
        target: What is known of the people.
        left_out: Boolean, of the blocks in use, (blocks,).
    """
    places = np.flatnonzero(scan.mask)
    places = places[:: max(1, len(places) // SOME_VOXELS)]
    ijk = np.stack(np.unravel_index(places, scan.mask.shape)[::-1])
    matrix = scan.volume.ijk_to_ras
    points = matrix[:3, :3] @ ijk + matrix[:3, 3:]
    values = scan.image.ravel()[places].astype(np.float64)
    if not left_out.any():
        return Kept(values, points, target, 1.0)
    whole = np.zeros(target.used.shape, bool)
    whole[target.used] = left_out
    keep = ~whole[blocks_of(points, tissue.template_to_ras)]
    values, points = values[keep], points[:, keep]
    counts = np.bincount(BLOCK_OF_VOXEL[tissue.places], minlength=len(whole))[target.used]

    def moved(levels: np.ndarray) -> np.ndarray:
        """How much others the people's quantiles are without the places."""
        left, all_ = (_quantiles(target, counts * use, levels) for use in (~left_out, 1))
        return left - all_

    top = SCALE_PERCENTILE / 100
    scale = np.quantile(values, top) / (1 + moved(np.array([top]))[0])
    seen = target.with_tone(
        np.maximum.accumulate(target.tone + moved(np.array(TONE_LEVELS))),
        np.maximum.accumulate(target.whole + moved(np.linspace(0, 1, MATCHED))),
    )
    return Kept(values, points, seen, float(scale))


def blocks_of(points: np.ndarray, template_to_ras: np.ndarray) -> np.ndarray:
    """In which block of the template's box points lie; those beyond it in the nearest.

    Args:
        points: (3, n), RAS mm.
        template_to_ras: 4x4, mm to mm.

    Returns:
        Flat indices among the 288, (n,).
    """
    inverse = np.linalg.inv(template_to_ras @ grid_to_template())
    ijk = np.rint(inverse[:3, :3] @ points + inverse[:3, 3:]).astype(int)
    kji = [np.clip(i, 0, n - 1) // (2 * CELL) for i, n in zip(ijk[::-1], GRID)]
    return np.ravel_multi_index(kji, [n // (2 * CELL) for n in GRID])


def _quantiles(target: Target, counts: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The people's quantiles at some levels, of blocks that count so much each, (blocks,)."""
    values = np.stack([np.interp(_BETWEEN, LEVELS, one) for one in target.expected.T])
    weights = np.repeat(counts / counts.sum() / len(_BETWEEN), len(_BETWEEN))
    order = np.argsort(values, axis=None)
    sorted_weights = weights[order]
    middle = np.cumsum(sorted_weights) - sorted_weights / 2
    return np.interp(levels, middle, values.ravel()[order])
