"""Where to look for invariances, and an image's noise; needs neither torch nor a model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .volumes import Region, Volume, VolumeError, axis_toward

SOFT_TISSUE_HU = (-150.0, 150.0)  # where the noise of a CT image is measured
BODY_HU = -500.0
AROUND_MM = 80.0
"""Side of the square that is looked at where the user has chosen no region."""
GRIP_MM = 10.0  # what is thinner than this is no body: a couch, a tube


@dataclass(frozen=True)
class Around:
    """A square of one axial slice around a point.

    Attributes:
        region: (k0, k1, j0, j1, i0, i1), half-open voxel indices of the volume.
        size_mm: Its two sides within the slice, in the order of the array's axes.
        moved_mm: How far its middle lies from the point that was asked for, because that is in the
            air around the body.
    """

    region: Region
    size_mm: tuple[float, float]
    moved_mm: float

    @property
    def words(self) -> str:
        """Where it lies, for a result: "81 x 81 mm around the view's centre"."""
        where = " x ".join(f"{size:.0f}" for size in self.size_mm) + " mm around the view's centre"
        return where + (f", moved {self.moved_mm:.0f} mm into the body" if self.moved_mm else "")


def region_around(
    ct: Volume, point_ras: tuple[float, float, float], side_mm: float = AROUND_MM, tile: int = 128
) -> Around:
    """A square of ``side_mm`` around a point in its axial slice, shifted to lie within the image.

    It is never larger than ``tile`` voxels. A point in the air around the body is moved into the
    body; air within, as in a lung, counts as body.

    Args:
        ct: CT in HU, any orientation.
        point_ras: RAS position, mm.

    Raises:
        VolumeError: The point lies outside of the image.
    """
    index = np.linalg.solve(ct.ijk_to_ras, np.append(point_ras, 1.0))[2::-1]
    if (index < -0.5).any() or (index >= np.array(ct.shape) - 0.5).any():
        raise VolumeError(f"The region lies outside '{ct.name}'. Move it onto the volume.")
    axis = axis_toward(ct, "S")[0]
    k = int(index[axis] + 0.5)
    spacing = np.delete(np.array(ct.spacing_mm)[::-1], axis)
    asked = np.delete(index, axis)
    inside = body(np.take(ct.array, k, axis), spacing)
    centre = _into(inside, asked, spacing, side_mm / 4)
    shape = np.delete(np.array(ct.shape), axis)
    sides = np.minimum(
        np.maximum(np.rint(side_mm / spacing).astype(int), 8), np.minimum(tile, shape)
    )
    first = np.clip(np.rint(centre + 0.5 - sides / 2).astype(int), 0, shape - sides)
    bounds = [(int(a), int(a + n)) for a, n in zip(first, sides)]
    bounds.insert(axis, (k, k + 1))
    moved = float(np.linalg.norm((centre - asked) * spacing))
    return Around(
        tuple(bound for pair in bounds for bound in pair),
        tuple(float(x) for x in sides * spacing),
        moved,
    )


def body(slice_hu: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """The body in an axial slice, bool: the largest part that is not thin, and what it encloses."""
    dense = slice_hu > BODY_HU
    width = np.maximum(1, np.rint(GRIP_MM / np.asarray(spacing_mm))).astype(int)
    parts, count = ndimage.label(ndimage.binary_opening(dense, np.ones(width)))
    if not count:
        return dense
    largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    return ndimage.binary_fill_holes(parts == largest)


def _into(
    inside: np.ndarray, asked: np.ndarray, spacing_mm: np.ndarray, depth_mm: float
) -> np.ndarray:
    """The point, or where it is outside the body, the nearest one this deep in it (as can be)."""
    nearest = tuple(np.clip(np.rint(asked).astype(int), 0, np.array(inside.shape) - 1))
    if inside[nearest] or not inside.any():
        return asked
    # The image may end within the body: its edge is no skin.
    depth = ndimage.distance_transform_edt(np.pad(inside, 1, mode="edge"), sampling=spacing_mm)[
        1:-1, 1:-1
    ]
    places = np.argwhere(depth >= min(depth_mm, depth.max()))
    return places[np.argmin((((places - asked) * spacing_mm) ** 2).sum(1))].astype(float)


def image_noise(hu: np.ndarray, tissue_of: np.ndarray | None = None) -> float:
    """Standard deviation of the noise in soft tissue, HU, from slices (K, J, I).

    Where there is none, of the whole image. The median distance from the mean of 9 x 9 voxels:
    it counts noise of any texture finer than that, and few edges.
    ``tissue_of``: where to look for soft tissue, if not in the image itself.
    """
    where = ndimage.uniform_filter(hu if tissue_of is None else tissue_of, (1, 5, 5))
    soft = (where > SOFT_TISSUE_HU[0]) & (where < SOFT_TISSUE_HU[1])
    tissue = ndimage.binary_erosion(soft, np.ones((1, 9, 9)))
    rest = hu - ndimage.uniform_filter(hu, (1, 9, 9))
    return float(1.4826 * np.median(np.abs(rest[tissue] if tissue.sum() >= 100 else rest)))
