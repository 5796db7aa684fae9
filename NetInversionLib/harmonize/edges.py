"""Where an MR image has edges, told from the order of its values alone.

So a change of contrast leaves them in place.

Along each axis the values of a small patch on one side of a voxel are compared with those of a
patch on the other side, every one with every one: the Mann-Whitney statistic. It is 1 where all of
one side is brighter than all of the other, 0 where neither is. Only the order counts: no strictly
monotone change of intensity moves it, and a smooth field only where there was next to no
difference.

Source:
    Bovik, Huang & Munson, "Nonparametric tests for edge detection in noise", Pattern Recognition
    1986;19:209-219.
"""

from __future__ import annotations

from itertools import product

import numpy as np

# Patches are 3 x 3 voxels, this far from the voxel and from each other (or one voxel, where that is
# more).
DISTANCE_MM = 2.0
# Separations of the three axes are joined as (u^4 + v^4 + w^4)^(1/4): 1 for a clean step along one
# axis. Up to the first value, which noise alone reaches, they give 0; from the second on 1.
NO_EDGE, SURE_EDGE = 0.82, 1.06


def edge_map(
    image: np.ndarray, mask: np.ndarray, spacing_mm: tuple[float, float, float]
) -> np.ndarray:
    """Edges of ``image`` [k, j, i], float32 from 0 (none) to 1, all 0 outside ``mask``.

    Args:
        image: Any scale; outside the mask its values do not matter: what lies there counts as
            darker than all inside.
        mask: Boolean [k, j, i].
        spacing_mm: Voxel size along i, j, k (as ``Volume.spacing_mm``).

    Raises:
        ValueError: Image and mask are not 3-D and of one size.
    """
    if image.ndim != 3 or image.shape != mask.shape:
        raise ValueError(f"image {image.shape} and mask {mask.shape} must be 3-D and of one size")
    edges = np.zeros(image.shape, np.float32)
    if not mask.any():
        return edges
    box = _box(mask)
    inside = mask[box]
    values = np.where(inside, image[box], -np.inf).astype(np.float32)
    steps = [max(1, round(DISTANCE_MM / s)) for s in spacing_mm[::-1]]
    separation = sum(_separation(values, axis, steps) ** 4 for axis in range(3)) ** 0.25
    edges[box] = np.where(inside, ((separation - NO_EDGE) / (SURE_EDGE - NO_EDGE)).clip(0, 1), 0)
    return edges


def _separation(values: np.ndarray, axis: int, steps: list[int]) -> np.ndarray:
    """|Mann-Whitney statistic| of the patches on both sides along an axis, 0 to 1, float32."""
    padded = np.pad(values, [(s, s) for s in steps], constant_values=-np.inf)
    sides: dict[int, list[np.ndarray]] = {-1: [], 1: []}
    for moves in product((-1, 0, 1), repeat=3):
        if moves[axis]:
            window = (
                slice(s + m * s, s + m * s + n) for m, s, n in zip(moves, steps, values.shape)
            )
            sides[moves[axis]].append(padded[tuple(window)])
    ahead = np.zeros(values.shape, np.int8)  # of 81 comparisons
    for one, other in product(sides[1], sides[-1]):
        ahead += one > other
        ahead -= one < other
    return np.abs(ahead).astype(np.float32) / (len(sides[1]) * len(sides[-1]))


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around the true voxels."""
    used = [np.flatnonzero(mask.any(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return tuple(slice(where[0], where[-1] + 1) for where in used)
