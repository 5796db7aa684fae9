"""Where a brain lies: found in a scan, and placed in the template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from ..core import volumes
from ..core.volumes import Volume
from ..networks.corrector import (
    GRID,
    VOXEL_MM,
)
from .scan import BRIGHTEST, Scan, ScanError
from .statistics import BRAIN_VOXELS, INSIDE, grid_to_template, matching_curve

if TYPE_CHECKING:
    from .statistics import Target


FINE_MM, ANTI_ALIAS_MM = 1.5, 0.7
SMOOTHED_VOXELS = (
    4  # along each axis: with fewer, ITK's recursive Gaussian has nothing to start from
)


# Into the template's space ------------------------------------------------------------------------


@dataclass(frozen=True)
class Tissue:
    """A brain's voxels in the template's grid.

    Scaled ``values`` (n,) float64 at flat indices ``places`` (n,).
    """

    values: np.ndarray
    places: np.ndarray
    template_to_ras: np.ndarray
    alignment: float


def reduced(scan: Scan) -> tuple[Volume, Volume]:
    """Image inside the mask (air 0), and share of mask, cut to the mask.

    Where the scan is finer they have voxels of ``VOXEL_MM``.

    Returns:
        Two volumes [k, j, i] of one grid, float32.
    """
    region = []
    for axis in range(3):
        filled = np.flatnonzero(scan.mask.any(axis=tuple(a for a in range(3) if a != axis)))
        region += [max(int(filled[0]) - 2, 0), min(int(filled[-1]) + 3, scan.mask.shape[axis])]
    brain = np.where(scan.mask, scan.image, 0).astype(np.float32)
    share = scan.mask.astype(np.float32)
    image, mask = (
        _reduced(volumes.crop(scan.volume.with_array(a), region)) for a in (brain, share)
    )
    return image, mask


def _reduced(volume: Volume) -> Volume:
    spacing = np.array(volume.spacing_mm)
    fine = spacing < FINE_MM
    if not fine.any():
        return volume
    sigma = np.where(fine, ANTI_ALIAS_MM, 0) / spacing
    smooth = ndimage.gaussian_filter(volume.array, sigma[::-1], mode="constant", truncate=4)
    step = np.where(fine, VOXEL_MM / spacing, 1)
    size = np.ceil((np.array(volume.shape[::-1]) - 1) / step).astype(int) + 1
    matrix = volume.ijk_to_ras @ np.diag([*step, 1])
    grid = Volume(np.broadcast_to(np.float32(0), size[::-1]), matrix, volume.name)
    return volumes.resample(volume.with_array(smooth), grid, fill=0)


def aligned_tissue(brain: tuple[Volume, Volume], target: Target) -> Tissue:
    """A reduced brain in the template's grid, aligned to its template.

    Args:
        brain: Image and share of mask, [k, j, i] of one grid, from ``reduced``.
        target: The people it is aligned to.

    Raises:
        ScanError: It is too thin or cannot be aligned, or hardly overlaps the template afterwards.
    """
    image, mask = brain
    inside = mask.array > INSIDE
    if min(image.shape) < SMOOTHED_VOXELS or not inside.any():
        raise ScanError(
            "what the mask covers is too thin to be aligned to the brain template: use a volume, or"
            " a mask, that covers more of the brain, or another mode than anatomy-safe"
        )
    matched = np.zeros_like(image.array)
    matched[inside] = np.interp(
        image.array[inside], *matching_curve(image.array[inside], target.matched)
    )
    matrix, alignment = register(target.template, image.with_array(matched))
    return in_template(brain, matrix, alignment)


def in_template(
    brain: tuple[Volume, Volume], template_to_ras: np.ndarray, alignment: float = 1.0
) -> Tissue:
    """A reduced brain's voxels in the template's grid, by a known alignment.

    Args:
        brain: Image and share of mask, [k, j, i] of one grid, from ``reduced``.
        template_to_ras: 4x4, mm to mm.
        alignment: The correlation that was reached.
    """
    reference = Volume(
        np.broadcast_to(np.float32(0), GRID), template_to_ras @ grid_to_template(), ""
    )
    image, mask = (sampled(v, reference) for v in brain)
    places = np.flatnonzero(mask > INSIDE)
    if len(places) < BRAIN_VOXELS // 10:
        raise ScanError(
            "the scan hardly overlaps the brain template after alignment: is it a brain, with the"
            " right axes?"
        )
    values = np.clip(image.ravel()[places] / mask.ravel()[places], 0, BRIGHTEST)
    return Tissue(values.astype(np.float64), places, template_to_ras, alignment)


def sampled(volume: Volume, reference: Volume) -> np.ndarray:
    """Linear interpolation on a grid that may be sheared, which ITK's images cannot be.

    Returns:
        [k, j, i] of the reference's grid, float32; 0 outside.
    """
    matrix = np.linalg.inv(volume.ijk_to_ras) @ reference.ijk_to_ras
    matrix = matrix[[2, 1, 0, 3]][:, [2, 1, 0, 3]]
    return ndimage.affine_transform(
        volume.array, matrix[:3, :3], matrix[:3, 3], reference.shape, order=1, mode="constant"
    )


def register(fixed: Volume, moving: Volume) -> tuple[np.ndarray, float]:
    """Affine alignment by correlation.

    For brains that look alike: the scan's histogram was matched to the people's. The gate, which
    may not trust brightness, has an alignment of its own (``gate_template.fit_affine``).

    Args:
        fixed: [k, j, i], any unit.
        moving: Likewise, on its own grid.

    Returns:
        4x4 that takes mm in ``fixed`` to mm in ``moving``, and the correlation reached, -1 to 1.

    Raises:
        ScanError: ITK finds no overlap.
    """
    fixed_image, moving_image = (
        volumes.to_image(fixed),
        sitk.SmoothingRecursiveGaussian(volumes.to_image(moving), [2.0] * 3),
    )
    middle, start = centre_of(fixed), centre_of(moving)
    transform = sitk.AffineTransform(3)
    transform.SetCenter((middle * (-1, -1, 1)).tolist())
    transform.SetTranslation(((start - middle) * (-1, -1, 1)).tolist())
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(
        1
    )  # sums of several threads differ in their last bits from run to run
    method.SetMetricAsCorrelation()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 0.02, 80, relaxationFactor=0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([4, 2])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(fixed_image, moving_image)
    except RuntimeError as error:
        raise ScanError(
            "the scan cannot be aligned to the brain template: is it a brain, with the right axes?"
        ) from error
    linear, centre = np.reshape(transform.GetMatrix(), (3, 3)), np.array(transform.GetCenter())
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = centre + np.array(transform.GetTranslation()) - linear @ centre
    flip = volumes.RAS_FROM_LPS
    return flip @ matrix @ flip, -method.GetMetricValue()


def centre_of(volume: Volume) -> np.ndarray:
    """Centre of the bright voxels of a [k, j, i] volume, RAS mm."""
    kji = np.argwhere(volume.array > 0.05).mean(axis=0)
    return volume.ijk_to_ras[:3, :3] @ kji[::-1] + volume.ijk_to_ras[:3, 3]
