"""Two visits of one person: brought onto each other, and how alike they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import SimpleITK as sitk

from ..core import volumes
from ..core.results import Table, table_of_rows
from ..core.volumes import Volume
from ..harmonize import scan as harmonize_scan
from ..harmonize import similarity
from ..harmonize.heads import find_brain
from ..harmonize.matching import Method

# Two visits ---------------------------------------------------------------------------------------


def repeatability(
    first: Volume,
    second: Volume,
    methods: Mapping[str, Method],
    mask: Volume | None = None,
    template: tuple[Volume, Volume] | None = None,
) -> Table:
    """How much two visits of a person differ, harmonized in different ways.

    The second visit is aligned rigidly to the first; each is harmonized on its own grid, then the
    second is resampled to the first's, and they are compared inside the common mask.

    Args:
        mask: The first visit's brain, nonzero inside. Without it (and without a template) both must
            be brain-extracted.
        template: A mean brain (the MNI152 template) and its mask, to find the first's brain, see
            ``heads.find_brain``.

    Returns:
        A row per method: the mean absolute difference after division by each one's 99.5th
        percentile; the same after taking off the median and dividing by the interquartile range, so
        that a target of stronger contrast does not count as a larger difference; and the
        correlation.
    """
    if mask is None:
        mask = find_brain(first, *template) if template else _own_mask(first)
    between = rigid_transform(first, second, mask)
    brains = [
        harmonize_scan.prepare(first, mask),
        harmonize_scan.prepare(second, move(mask, between.GetInverse(), second, "nearest", 0)),
    ]
    target = brains[0].volume
    covered = (
        move(
            second.with_array(np.ones(second.shape, np.float32)), between, target, "nearest", 0
        ).array
        > 0
    )
    inside = brains[0].mask & covered
    rows = []
    for name, method in methods.items():
        one, other = (scan.volume.with_array(method(scan)) for scan in brains)
        pair = [one.array, move(other, between, target, "linear", 0).array]
        scaled = [harmonize_scan.rescaled(image, inside) for image in pair]
        quartiles = [np.percentile(image[inside], (25, 50, 75)) for image in pair]
        robust = [(image - q[1]) / max(q[2] - q[0], 1e-6) for image, q in zip(pair, quartiles)]
        rows.append(
            (
                name,
                similarity.mae(scaled[0], scaled[1], inside),
                similarity.mae(robust[0], robust[1], inside),
                float(np.corrcoef(pair[0][inside], pair[1][inside])[0, 1]),
            )
        )
    return table_of_rows(
        "Two visits",
        ["method", "mean absolute difference", "in interquartile ranges", "correlation"],
        rows,
    )


def _own_mask(volume: Volume) -> Volume:
    return volume.with_array(harmonize_scan.foreground(volume.float32()).astype(np.uint8))


def rigid_transform(first: Volume, second: Volume, mask: Volume | None = None) -> sitk.Transform:
    """The rigid transform from places in the first volume to the same anatomy in the second.

    Mutual information; the same bits every time.

    Args:
        first: [k, j, i], any unit.
        second: Likewise, on its own grid.
        mask: Of the first; it counts a little widened.

    Returns:
        In LPS mm, as ITK has it.
    """
    fixed, moving = _float_image(first), _float_image(second)
    wide = None if mask is None else sitk.BinaryDilate(volumes.to_image(mask) > 0, [3, 3, 1])
    return _register(fixed, moving, wide)


def _float_image(volume: Volume):
    return sitk.Cast(volumes.to_image(volume), sitk.sitkFloat32)


def _register(fixed, moving, mask) -> sitk.Transform:
    """Rigid, by mutual information, centre of mass on centre of mass first.

    For heads as scanned, with skull and of any contrast; at about 8, 4 and 2 mm, no finer than the
    fixed image's slices.
    """
    start = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    registration = sitk.ImageRegistrationMethod()
    registration.SetMetricAsMattesMutualInformation(48)
    registration.SetMetricSamplingStrategy(registration.REGULAR)
    registration.SetMetricSamplingPercentagePerLevel([1, 0.3, 0.1], 1)
    if mask is not None:
        registration.SetMetricFixedMask(mask)
    registration.SetInterpolator(sitk.sitkLinear)
    registration.SetOptimizerAsRegularStepGradientDescent(2.0, 1e-3, 150, 0.5, 1e-8)
    registration.SetOptimizerScalesFromPhysicalShift()
    registration.SetShrinkFactorsPerLevel(
        [max(1, round(mm / max(fixed.GetSpacing()))) for mm in (8, 4, 2)]
    )
    registration.SetSmoothingSigmasPerLevel([3, 1.5, 0])
    registration.SetNumberOfThreads(1)
    registration.SetInitialTransform(start, inPlace=False)
    found = registration.Execute(fixed, moving)
    while isinstance(found, sitk.CompositeTransform):
        found = found.GetNthTransform(0)
    return found.Downcast()


def move(
    volume: Volume, transform: sitk.Transform, reference: Volume, order: str, fill: float
) -> Volume:
    """A volume on a reference's grid.

    Args:
        volume: [k, j, i], any unit.
        transform: Takes the reference's places (LPS mm) to the volume's.
        reference: Its grid is taken.
        order: "nearest" or "linear".
        fill: Value outside the volume.
    """
    grid = volumes.to_image(reference.with_array(np.broadcast_to(np.uint8(0), reference.shape)))
    image = sitk.Resample(
        volumes.to_image(volume), grid, transform, volumes.INTERPOLATORS[order], fill
    )
    return replace(
        reference, array=sitk.GetArrayFromImage(image), name=volume.name, units=volume.units
    )
