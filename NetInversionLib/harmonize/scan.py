"""MR volumes as the harmonization methods take them.

They have a brain or head mask, one robust scale per volume, and RAS axes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from ..core import files, meaning, scans, volumes
from ..core.volumes import Volume

# MR intensities have no unit: the 99.5th percentile inside the mask becomes 1, and what is brighter
# is cut at 1.3.
SCALE_PERCENTILE = 99.5
BRIGHTEST = 1.3


class ScanError(ValueError):
    """An MR volume that cannot be used; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class Scan:
    """One MR volume, scaled, in RAS axes (array [k, j, i]: i toward right, j anterior, k superior).

    Attributes:
        volume: Geometry, name and units; its array is the scaled image, float32, 0 to 1.3.
        mask: Boolean, the same shape: brain (or head) voxels.
        scale: What the original intensities were divided by.
        original: The volume as it came, any axes and type.
    """

    volume: Volume
    mask: np.ndarray
    scale: float
    original: Volume

    @property
    def image(self) -> np.ndarray:
        """The scaled image, float32 [k, j, i]."""
        return self.volume.array

    @property
    def inside(self) -> np.ndarray:
        """Scaled values inside the mask, one-dimensional."""
        return self.volume.array[self.mask]

    def with_image(self, image: np.ndarray) -> Scan:
        """The same scan with another scaled image [k, j, i] (a change, a harmonized result)."""
        return replace(self, volume=self.volume.with_array(np.ascontiguousarray(image, np.float32)))


def mask_beside(path: Path) -> Path | None:
    """The mask of an image NAME: the file NAME_mask in its folder, if there is one."""
    return next(iter(scans.masks_beside(path)), None)


def read(path: Path | str, mask: Path | str | None = None) -> Scan:
    """A scan from its file (or folder of DICOM slices) and that of its mask; see ``prepare``.

    Raises:
        VolumeError: A file cannot be read; ScanError if it cannot be used.
    """
    return prepare(files.load(path), None if mask is None else files.load(mask))


def prepare(volume: Volume, mask: Volume | None = None, signal: bool = True) -> Scan:
    """Reorient to RAS, find the mask unless one is given, and scale.

    Args:
        volume: MR image [k, j, i], any orientation and type; negative values count as background.
        mask: Nonzero inside; resampled to the volume's grid by nearest neighbour where grids
            differ.
        signal: Refuse what cannot be an MR signal; else that is left to the caller.

    Raises:
        VolumeError: It is no MR signal (z-scored, say).
        ScanError: Empty mask, constant image, no positive signal, or fewer than two slices along an
            axis.
    """
    original = volumes.check(volume)
    ras = volumes.reorient(original, "RAS")
    if min(ras.shape) < 2:
        raise ScanError(
            f"{volume.name} has a single slice: harmonization needs a volume of at least two"
        )
    image = ras.float32()
    if image.max() == image.min():
        raise ScanError(
            f"{volume.name} is constant (every voxel is {image.flat[0]:g}): choose another volume"
        )
    inside = foreground(image) if mask is None else _given_mask(mask, ras)
    if not inside.any():
        raise ScanError(
            f"the mask of {volume.name} is empty: draw or choose one that covers the brain, or"
            " leave the mask out"
        )
    if signal:
        meaning.require_mr(ras, None if mask is None else inside)
    scale = scale_of(image, inside, volume.name)
    scaled = np.clip(image / np.float32(scale), 0, BRIGHTEST)
    return Scan(replace(ras, array=np.ascontiguousarray(scaled)), inside, scale, original)


def foreground(image: np.ndarray) -> np.ndarray:
    """Mask of a brain-extracted volume: voxels above 0, opened (6-neighbourhood), holes filled.

    Boolean [k, j, i].

    Opening removes loose voxels; a slab too thin to survive it is kept as it is.
    """
    positive = image > 0
    opened = ndimage.binary_opening(positive)
    return ndimage.binary_fill_holes(opened if opened.any() else positive)


def scale_of(image: np.ndarray, mask: np.ndarray, name: str = "the volume") -> float:
    """The 99.5th percentile inside the mask, in the image's unit.

    Args:
        image: [k, j, i].
        mask: Boolean, of the same shape.
        name: Of the volume, for the message.

    Raises:
        ScanError: It is not positive.
    """
    scale = float(np.percentile(image[mask], SCALE_PERCENTILE))
    if not scale > 0:
        raise ScanError(
            f"{name} has no positive signal inside its mask: choose another volume or mask"
        )
    return scale


def rescaled(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """An image divided by its 99.5th percentile inside the mask.

    Args:
        image: [k, j, i].
        mask: Boolean, of the same shape.

    Returns:
        float32 of the same shape, cut to [0, 1.3].
    """
    return np.clip(image / np.float32(scale_of(image, mask)), 0, BRIGHTEST).astype(np.float32)


def _given_mask(mask: Volume, reference: Volume) -> np.ndarray:
    mask = volumes.resample(volumes.check(mask), reference, order="nearest", fill=0)
    return np.asarray(mask.array) > 0
