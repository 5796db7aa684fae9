"""The brain in the image of a whole head, found by a mean brain.

The mean brain is aligned to the head, which says to about a centimetre where the brain is. Near
that outline brightness decides: fat and marrow are brighter than white matter, bone and air darker
than tissue, and what hangs on by thin bridges (meninges, nerves, muscle) is cut off. In the depth
nothing is asked: a ventricle, a lesion or a resection stays inside, whatever it looks like.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from ..core import volumes
from ..core.volumes import Volume
from .gate import Check
from .scan import Scan, ScanError

if TYPE_CHECKING:
    from .statistics import Target

FOUND = "found: the target's mean brain, aligned to the head"
"""What a result's facts say of its mask."""

HEAD_MM, MEAN_MM = 2.0, 4.0
# Distances from the aligned outline: farther inside all is brain, farther outside nothing is.
DEPTH_MM, REACH_MM = 12.0, 4.0
# Bridges thinner than twice this are cut; folds narrower than twice that are brain.
BRIDGE_MM, FOLD_MM = 4.0, 6.0
# Tissue is brighter than this share of white matter at the outline, and may be darker by so much
# for every millimetre that it lies deeper.
DARKEST, DARKER_PER_MM = 0.4, 0.01
# Fat is brighter than white matter by so many of its standard deviations.
FAT, FAT_TO_ALIGN = 2.5, 3.0
LEAST_DEVIATION = 0.05
"""Of white matter, as a share of its brightness."""
FIELD_MM = 15.0
# Of the mean brain's brightest tissue: brighter is brain in its image.
IN_MEAN_BRAIN = 0.12
# So near to a mask's border so much may be as bright as brain: around five masks of others it is
# 0.07 to 0.27, around the same 4 mm wider 0.23 to 0.52, 4 mm narrower 0.11 to 0.47, 8 mm narrower
# 0.42 to 0.76.
BORDER_MM, MOST_BRIGHT = 3.0, 0.35
LEAST_MM3 = 1e5
"""Of an outline: less is no brain."""
HEAD_BESIDE_BRAIN = 1.25
"""A head is larger than its brain by more than this, an extracted brain is not."""
AIR_MM = 60.0
STARTS_MM = (-20.0, 0.0, 20.0, 40.0)
"""A head's centre of mass is below its brain's, by how much depends on how much neck was taken."""
SIZES = (0.6, 1.35)
"""Of brains beside the mean brain, by volume: an alignment beyond them has left the brain."""
SMALLER = 0.92
"""Lengths begin so much smaller: from a larger size an alignment may end on the skull."""


def mean_brain(target: Target) -> tuple[Volume, Volume]:
    """A target's mean brain as ``find_brain`` takes it: its image and its mask, [k, j, i]."""
    inside = ndimage.binary_fill_holes(target.template.array > IN_MEAN_BRAIN)
    return target.template, target.template.with_array(inside.astype(np.uint8))


def find_brain(volume: Volume, template: Volume, brain: Volume) -> Volume:
    """The brain in a whole head of T1 contrast; the same bits every time.

    Args:
        volume: A whole head, [k, j, i], any axes and unit.
        template: A mean brain of the same contrast, [k, j, i] on any grid.
        brain: Its mask, nonzero inside.

    Returns:
        [k, j, i] uint8 on the volume's grid, 1 inside: one piece without holes.

    Raises:
        ScanError: ITK cannot align them, or they hardly overlap.
    """
    head, outline = rough_outline(volume, template, brain)
    mask = head.with_array(outlined(head.array, outline).astype(np.uint8))
    return on_grid(mask, volume)


def rough_outline(volume: Volume, template: Volume, brain: Volume) -> tuple[Volume, np.ndarray]:
    """Where the aligned mean brain lies, by nothing but the alignment.

    Args:
        volume, template, brain: See ``find_brain``, which raises as this does.

    Returns:
        The head in cubes of ``HEAD_MM``, and the outline as boolean of its shape.
    """
    head, mean = isotropic(volume, HEAD_MM), isotropic(template, MEAN_MM)
    inside = isotropic(brain.with_array((brain.array > 0).astype(np.float32)), MEAN_MM)
    try:
        found = alignment(head, mean, inside.array > 0.5)
    except RuntimeError as error:
        raise ScanError(
            "no brain was found in this image: is it a head, with the right axes? Else give a mask"
        ) from error
    soft = inside.with_array(ndimage.gaussian_filter(inside.array, 0.7))
    outline = _moved(soft, found.GetInverse(), head) > 0.5
    if outline.sum() * HEAD_MM**3 < LEAST_MM3:
        raise ScanError("no brain was found in this image: draw or choose a mask that covers it")
    return head, outline


def on_grid(mask: Volume, volume: Volume) -> Volume:
    """A mask in cubes of ``HEAD_MM`` on a volume's grid, with a smooth border; uint8."""
    fine = mask.with_array(ndimage.gaussian_filter(mask.float32(), 0.7))
    inside = volumes.resample(fine, volume, fill=0).array > 0.5
    return volume.with_array(inside.astype(np.uint8), "brain, found by alignment", "")


def is_more_than(scan: Scan, brain: Volume) -> bool:
    """Whether an image without a mask shows more than the brain that was found in it."""
    shown = scan.mask.sum() * np.prod(scan.volume.spacing_mm)
    return bool(shown > HEAD_BESIDE_BRAIN * brain.array.sum() * np.prod(brain.spacing_mm))


def isotropic(volume: Volume, mm: float) -> Volume:
    """A volume in RAS axes with cubic voxels, smoothed where it was finer; float32."""
    ras = volumes.reorient(volume, "RAS")
    spacing = np.array(ras.spacing_mm)
    sigma = np.where(spacing < mm, 0.42 * mm / spacing, 0)
    smooth = ndimage.gaussian_filter(ras.float32(), sigma[::-1])
    shape = np.ceil((np.array(ras.shape[::-1]) - 1) * spacing / mm).astype(int) + 1
    matrix = ras.ijk_to_ras @ np.diag([*(mm / spacing), 1.0])
    grid = Volume(np.broadcast_to(np.float32(0), shape[::-1]), matrix, ras.name)
    return volumes.resample(ras.with_array(smooth), grid, fill=0)


# Where it lies ------------------------------------------------------------------------------------


def alignment(head: Volume, mean: Volume, inside: np.ndarray) -> sitk.Transform:
    """From places in the mean brain to the same in the head, LPS mm: rigid, similar, affine.

    Mutual information in the mean brain and a dark rim around it, which stands for fluid and bone:
    without the rim the brain is taken for the whole head.

    Args:
        head: [k, j, i], cubes of ``HEAD_MM``.
        mean: A brain, [k, j, i], cubes of ``MEAN_MM``.
        inside: Its mask, boolean.

    Raises:
        RuntimeError: No overlap.
    """
    fixed = _image(mean)
    rim = volumes.to_image(mean.with_array(ndimage.binary_dilation(inside).astype(np.uint8))) > 0
    first = _levels(head)
    starts = [_start(fixed, _image(head), up) for up in STARTS_MM]
    tries = [_registered(fixed, first[0], start, rim, 4.0) for start in starts]
    rigid = min(tries, key=lambda one: one[1])[0]
    deep = ndimage.binary_erosion(inside, iterations=3).astype(np.float32)
    seen = _moved(mean.with_array(deep), rigid.GetInverse(), head) > 0.5
    if not seen.any():
        raise RuntimeError("no overlap")
    # Fat as dark as bone: around the brain all is dark then.
    lean = np.where(head.array > _brightest(head.array[seen], FAT_TO_ALIGN), 0, head.array)
    coarse, fine = _levels(head.with_array(lean.astype(np.float32)))
    similar = _like(sitk.Similarity3DTransform(), rigid)
    similar.SetScale(SMALLER)
    similar, _ = _registered(fixed, coarse, similar, rim, 1.0)
    found = _like(sitk.AffineTransform(3), similar)
    for image in (coarse, fine):
        richer, _ = _registered(fixed, image, found, rim, 0.5)
        if SIZES[0] < np.linalg.det(np.reshape(richer.GetMatrix(), (3, 3))) < SIZES[1]:
            found = richer
    return found


def _levels(head: Volume) -> tuple[sitk.Image, sitk.Image]:
    """A head with air all around, smoothed by 3 mm on every second voxel, and by 1.5 mm.

    Points beyond the image do not count, so that without air a wrong place would be judged by few,
    well-fitting ones.
    """
    padded = sitk.ConstantPad(_image(head), *[[int(AIR_MM / HEAD_MM)] * 3] * 2)
    coarse, fine = (sitk.SmoothingRecursiveGaussian(padded, [mm] * 3) for mm in (3.0, 1.5))
    return sitk.Shrink(coarse, [2] * 3), fine


def _image(volume: Volume) -> sitk.Image:
    return sitk.Cast(volumes.to_image(volume), sitk.sitkFloat32)


def _start(fixed: sitk.Image, moving: sitk.Image, up: float) -> sitk.Transform:
    """Centre of mass on a place so many mm above the head's centre of mass."""
    start = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    start = sitk.Euler3DTransform(start)
    x, y, z = start.GetTranslation()
    start.SetTranslation([x, y, z + up])
    return start


def _like(transform: sitk.Transform, other: sitk.Transform) -> sitk.Transform:
    """A transform of a richer kind that does what the other does."""
    transform.SetCenter(other.GetCenter())
    transform.SetMatrix(other.GetMatrix())
    transform.SetTranslation(other.GetTranslation())
    return transform


def _registered(
    fixed: sitk.Image, moving: sitk.Image, start: sitk.Transform, mask: sitk.Image, step: float
) -> tuple[sitk.Transform, float]:
    """(transform, metric); ``step``: mm, the optimiser's first."""
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetMetricFixedMask(mask)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(step, 1e-3, 100, 0.5, 1e-8)
    method.SetOptimizerScalesFromPhysicalShift()
    # Sums of several threads differ in their last bits from run to run.
    method.SetNumberOfThreads(1)
    method.SetInitialTransform(start, inPlace=False)
    found = method.Execute(fixed, moving)
    while isinstance(found, sitk.CompositeTransform):
        found = found.GetNthTransform(0)
    return found.Downcast(), method.GetMetricValue()


def _moved(volume: Volume, transform: sitk.Transform, reference: Volume) -> np.ndarray:
    """A volume on a reference's grid, linear, 0 outside; [k, j, i]."""
    image = sitk.Resample(_image(volume), _image(reference), transform, sitk.sitkLinear, 0.0)
    return sitk.GetArrayFromImage(image)


# What is brain ------------------------------------------------------------------------------------


def outlined(image: np.ndarray, outline: np.ndarray) -> np.ndarray:
    """The brain near an outline.

    Args:
        image: A head, [k, j, i], voxels of ``HEAD_MM``.
        outline: Roughly where the brain is, boolean of the same shape.

    Returns:
        Boolean of the same shape: one piece without holes.
    """
    depth = _distance(outline) - _distance(~outline)
    near, deep = depth > -REACH_MM, depth > DEPTH_MM
    even = image / _shading(image, depth)
    values = even[depth > BRIDGE_MM]
    white = tissues(values)[2]
    dark = (DARKEST - DARKER_PER_MM * np.clip(depth, -REACH_MM, DEPTH_MM)) * white
    tissue = near & (even > dark) & (even < _brightest(values, FAT)) | deep
    body = _largest(_distance(tissue) > BRIDGE_MM, deep)
    body = _largest(tissue & (_distance(~body) <= BRIDGE_MM + HEAD_MM / 2), deep)
    return ndimage.binary_fill_holes(_closed(body) & near | deep)


def _closed(mask: np.ndarray) -> np.ndarray:
    """A mask with what is narrower than twice ``FOLD_MM`` filled; folds also at an image's edge."""
    room = int(FOLD_MM / HEAD_MM) + 1
    wide = _distance(~np.pad(mask, room)) <= FOLD_MM
    return (_distance(wide) > FOLD_MM)[(slice(room, -room),) * 3]


def _distance(mask: np.ndarray) -> np.ndarray:
    """Of what is inside to what is not, mm; 0 outside."""
    if mask.all():
        return np.full(mask.shape, np.inf)
    return ndimage.distance_transform_edt(mask) * HEAD_MM


def _largest(mask: np.ndarray, part: np.ndarray) -> np.ndarray:
    """The piece that holds most of a part of it."""
    labels, count = ndimage.label(mask | part)
    held = np.bincount(labels[part], minlength=count + 1)
    return labels == np.argmax(held)


def tissues(values: np.ndarray) -> np.ndarray:
    """How bright fluid, grey and white matter are: the means of three classes.

    Args:
        values: Of a brain, any unit and order, (n,).

    Returns:
        Three, rising.
    """
    values = np.clip(values, *np.percentile(values, [0.5, 99.5]))
    means = np.percentile(values, [5, 40, 85]).astype(float)
    for _ in range(50):
        which = np.searchsorted((means[1:] + means[:-1]) / 2, values)
        counts = np.bincount(which, minlength=3)
        sums = np.bincount(which, values, minlength=3)
        new = np.where(counts > 0, sums / np.maximum(counts, 1), means)
        if np.allclose(new, means):
            break
        means = new
    return means


def _brightest(values: np.ndarray, deviations: float) -> float:
    """White matter's brightness and so many of its standard deviations."""
    grey, white = tissues(values)[1:]
    spread = float(values[values > (grey + white) / 2].std())
    return float(white + deviations * max(spread, LEAST_DEVIATION * white))


def _shading(image: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """White matter's brightness all over a head, [k, j, i]: what is told apart is told by it."""
    values = image[depth > BRIDGE_MM]
    grey, white = tissues(values)[1:]
    bright = (depth > BRIDGE_MM) & (image > (grey + white) / 2) & (image < _brightest(values, 2.0))
    wide, narrow = (_blurred_mean(image, bright, mm) for mm in (3 * FIELD_MM, FIELD_MM))
    trust = 0.02
    there = ndimage.gaussian_filter(bright.astype(np.float32), FIELD_MM / HEAD_MM)
    field = (narrow * there + trust * wide) / (there + trust)
    return np.maximum(field, 1e-3 * white)


def _blurred_mean(image: np.ndarray, where: np.ndarray, mm: float) -> np.ndarray:
    """Mean of an image over places nearby; 0 far from all of them."""
    sums, counts = (
        ndimage.gaussian_filter(a.astype(np.float32), mm / HEAD_MM) for a in (image * where, where)
    )
    return sums / np.maximum(counts, 1e-6)


# How good a mask is -------------------------------------------------------------------------------


def mask_check(scan: Scan) -> Check:
    """The gate's word on a mask that was given or found, by what lies just outside it.

    Around a brain there are fluid and bone, both dark. A rough check: see ``MOST_BRIGHT``.
    """
    inside = isotropic(scan.volume.with_array(scan.mask.astype(np.float32)), HEAD_MM)
    share = bright_outside(isotropic(scan.volume, HEAD_MM).array, inside.array > 0.5)
    percent, good = 100 * share, share <= MOST_BRIGHT
    words = (
        f"the mask's border looks right: {percent:.0f} % of what lies within {BORDER_MM:.0f} mm"
        " outside of it is as bright as brain"
        if good
        else f"The mask may leave out brain, or reach into the skull: {percent:.0f} % of what lies"
        f" within {BORDER_MM:.0f} mm outside of it is as bright as brain. Look at its outline over"
        " the source; it can be edited."
    )
    return Check("brightness around the mask", share, -np.inf, MOST_BRIGHT, good, words)


def bright_outside(image: np.ndarray, mask: np.ndarray) -> float:
    """How much of what lies within ``BORDER_MM`` outside a mask is as bright as brain.

    Args:
        image: A head or a brain, any unit, [k, j, i], voxels of ``HEAD_MM``.
        mask: Boolean, of the same shape.

    Returns:
        The share that is nearer to grey matter than to fluid and no brighter than white matter, 0
        to 1.
    """
    beyond = image[~mask & (_distance(~mask) <= BORDER_MM)]
    if not mask.any() or not beyond.size:
        return 0.0
    dark = tissues(image[mask])[:2].mean()
    return float(np.mean((beyond > dark) & (beyond < _brightest(image[mask], FAT))))
