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
        template: A brain template (the MNI152 template) and its brain mask; registered affinely to
            find the first's brain.

    Returns:
        A row per method: the mean absolute difference after division by each one's 99.5th
        percentile; the same after taking off the median and dividing by the interquartile range, so
        that a target of stronger contrast does not count as a larger difference; and the
        correlation.
    """
    if mask is None:
        mask = template_mask(first, *template) if template else _own_mask(first)
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


def template_mask(volume: Volume, template: Volume, brain: Volume) -> Volume:
    """The brain in a whole-head volume: a template's brain mask, moved by an affine registration.

    Mutual information inside the template's brain, since a template without a head says nothing
    outside; rigid, then affine, from several starts; the same bits every time.

    Args:
        volume: A whole head, [k, j, i].
        template: A brain, [k, j, i] on any grid.
        brain: The template's mask on its grid, nonzero inside.

    Returns:
        [k, j, i] uint8 on the volume's grid.
    """
    # The MNI brain is a tenth larger than most; from its own size the registration may end on the
    # skull.
    smaller = np.diag([0.92, 0.92, 0.92, 1.0])
    template, brain = (
        replace(one, ijk_to_ras=smaller @ one.ijk_to_ras) for one in (template, brain)
    )
    fixed, moving = _float_image(template), _float_image(volume)
    # Air all around: points beyond the image do not count, so that a wrong place would be judged by
    # few, well-fitting ones.
    moving = sitk.ConstantPad(moving, *[[int(60 / length) for length in moving.GetSpacing()]] * 2)
    inside = volumes.to_image(brain) > 0
    # A head's centre of mass is below its brain's, by how much depends on how much neck was taken.
    tries = [_affine(fixed, moving, _start(fixed, moving, up), inside) for up in (-20, 0, 20, 40)]
    found = min(tries, key=lambda one: one[1])[0]
    return move(
        replace(brain, array=(brain.array > 0).astype(np.uint8)),
        found.GetInverse(),
        volume,
        "nearest",
        0,
    )


def _affine(fixed, moving, start, mask):
    rigid, _ = _register(fixed, moving, start, mask, levels=1)
    affine = sitk.AffineTransform(3)
    affine.SetCenter(rigid.GetCenter())
    affine.SetMatrix(rigid.GetMatrix())
    affine.SetTranslation(rigid.GetTranslation())
    return _register(fixed, moving, affine, mask, levels=1, step=0.3)


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
    return _register(fixed, moving, _start(fixed, moving), wide, levels=3)[0]


def _float_image(volume: Volume):
    return sitk.Cast(volumes.to_image(volume), sitk.sitkFloat32)


def _start(fixed, moving, up: float = 0.0):
    """Centre of mass on centre of mass, or that many mm above it in the moving image."""
    start = sitk.Euler3DTransform(
        sitk.CenteredTransformInitializer(
            fixed, moving, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
        )
    )
    start.SetTranslation([*start.GetTranslation()[:2], start.GetTranslation()[2] + up])
    return start


def _register(fixed, moving, start, mask, levels: int, step: float = 2.0):
    """(transform, metric) by mutual information.

    For heads as scanned, with skull and of any contrast; the alignments of ``harmonize`` are for
    extracted brains.

    ``levels``: 1 stops at about 8 mm, 2 at 4 mm, 3 at 2 mm, no finer than the fixed image's slices.

    ``step``: mm, the optimiser's first; it halves whenever the direction turns. An affine transform
    runs away at 2 mm.
    """
    registration = sitk.ImageRegistrationMethod()
    registration.SetMetricAsMattesMutualInformation(48)
    registration.SetMetricSamplingStrategy(registration.REGULAR)
    registration.SetMetricSamplingPercentagePerLevel([1, 0.3, 0.1][:levels], 1)
    if mask is not None:
        registration.SetMetricFixedMask(mask)
    registration.SetInterpolator(sitk.sitkLinear)
    registration.SetOptimizerAsRegularStepGradientDescent(step, 1e-3, 150, 0.5, 1e-8)
    registration.SetOptimizerScalesFromPhysicalShift()
    registration.SetShrinkFactorsPerLevel(
        [max(1, round(mm / max(fixed.GetSpacing()))) for mm in (8, 4, 2)][:levels]
    )
    registration.SetSmoothingSigmasPerLevel([3, 1.5, 0][:levels])
    registration.SetNumberOfThreads(1)
    registration.SetInitialTransform(start, inPlace=False)
    found = registration.Execute(fixed, moving)
    while isinstance(found, sitk.CompositeTransform):
        found = found.GetNthTransform(0)
    return found.Downcast(), registration.GetMetricValue()


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
