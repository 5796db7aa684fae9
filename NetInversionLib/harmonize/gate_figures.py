"""The figures that the gate judges: size, noise, ghosts, histograms."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import fft, ndimage

from ..core import volumes
from ..core.volumes import Volume
from .scan import Scan

LOOK_MM, FIELD_MM = 2.0, 14.0
# Asymmetry is judged between these standard deviations of blur, in mm.
FOLDS_MM, SHADES_MM = 4.0, 8.0
GHOST_MM, OVERLAP = 20.0, 0.02
FRACTIONS = np.linspace(0, 1, 65)
# Of what a model file holds for the gate ("gate_version"); files without it have 1. It grows only
# where a figure is measured in another way, so that older people cannot be compared any more.
VERSION = 1
# What is measured of a person, in the order of the columns of "gate_figures". New figures go to the
# end: a file with fewer columns knows the first ones, and only their checks are made.
FIGURES = (
    "volume ml",
    "extent right-left mm",
    "extent front-back mm",
    "extent up-down mm",
    "likeness",
    "grey over fluid",
    "white over grey",
    "asymmetry",
    "cut face",
    "slice jump",
    "noise",
    "sharpness",
    "stripes",
    "histogram distance",
    "unevenness",
    "repetition",
)
LOGARITHMIC = FIGURES[10:]
SIZES = FIGURES[:4]


# Looking ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """A scan as the gate sees it: cropped to its mask, about 2 mm, axes as the scan's.

    Arrays [k, j, i].

    Attributes:
        image: Scaled intensities, 0 outside the mask.
        flat: Freed of smooth fields: mean 0 and deviation 1 in every neighbourhood, 0 outside the
            mask.
        mask: Boolean.
        matrix: Indices (i, j, k, 1) to RAS mm.
        voxel_mm: Longest side of the voxels that the scan came with.
    """

    image: np.ndarray
    flat: np.ndarray
    mask: np.ndarray
    matrix: np.ndarray
    voxel_mm: float = LOOK_MM

    @property
    def inside(self) -> np.ndarray:
        return self.image[self.mask]

    @cached_property
    def quality(self) -> dict[str, float]:
        """See ``quality``."""
        return quality(self)


def look(scan: Scan | Look) -> Look:
    """See ``Look``; what was looked at already stays as it is."""
    if isinstance(scan, Look):
        return scan
    small = shrink(scan)
    image = small.image * small.mask
    flat = flattened(image, small.mask)
    return Look(image, flat, small.mask, small.volume.ijk_to_ras, max(scan.original.spacing_mm))


def shrink(scan: Scan) -> Scan:
    """The scan on the grid that the gate looks at.

    Cropped to its mask, smoothed where it is finer, and taken at 2 mm.

    What is at 2 mm already keeps its values: looking at a shrunk scan is looking at the scan.
    """
    region = [bound for axis in range(3) for bound in _extent(scan.mask, axis, 3)]
    image = volumes.crop(scan.volume, tuple(region))
    mask = scan.mask[region[0] : region[1], region[2] : region[3], region[4] : region[5]]
    step = LOOK_MM / np.array(image.spacing_mm[::-1])
    if np.allclose(step, 1, atol=0.01):
        return Scan(image, mask, scan.scale, image)
    sigma = np.where(step > 1, 0.42 * step, 0)
    shape = [int(np.floor((n - 1) / s + 1e-6)) + 1 for n, s in zip(image.shape, step)]

    def taken(array):
        smooth = ndimage.gaussian_filter(array.astype(np.float32), sigma)
        return ndimage.affine_transform(smooth, step, output_shape=shape, order=1, mode="nearest")

    matrix = image.ijk_to_ras.copy()
    matrix[:3, :3] *= step[::-1]
    small = Volume(taken(image.array), matrix, image.name, image.units)
    inside = taken(mask) > 0.5
    return Scan(small, inside if inside.any() else taken(mask) > 0, scan.scale, small)


def _extent(mask: np.ndarray, axis: int, margin: int = 0) -> tuple[int, int]:
    there = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
    return max(int(there[0]) - margin, 0), min(int(there[-1]) + 1 + margin, mask.shape[axis])


def flattened(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """An image freed of what varies slowly: inside the mask minus the mean of the neighbourhood.

    It is divided by the neighbourhood's deviation (Gaussian of 14 mm).

    Args:
        image: [k, j, i], any unit.
        mask: Boolean, of the same shape.

    Returns:
        Of the same shape; 0 outside the mask.
    """

    def blur(array):
        return ndimage.gaussian_filter(
            array.astype(np.float32), FIELD_MM / LOOK_MM, mode="constant", truncate=3
        )

    weight = np.maximum(blur(mask), 1e-3)
    centred = (image - blur(image * mask) / weight) * mask
    deviation = np.sqrt(blur(centred**2) / weight)
    floor = 0.1 * np.median(deviation[mask]) + 1e-6
    return np.clip(centred / np.maximum(deviation, floor), -4, 4).astype(np.float32) * mask


# Figures ------------------------------------------------------------------------------------------


def size(seen: Look) -> dict[str, float]:
    """Volume of the mask in ml; its extents in mm, each along the voxel axis nearest to it."""
    spacing = np.linalg.norm(seen.matrix[:3, :3], axis=0)
    extents = [
        float(np.subtract(*_extent(seen.mask, axis)[::-1]) * spacing[2 - axis])
        for axis in (2, 1, 0)
    ]
    return {
        "volume ml": float(seen.mask.sum() * spacing.prod() / 1000),
        **dict(zip(FIGURES[1:4], extents)),
    }


def quality(seen: Look) -> dict[str, float]:
    """What artefacts change.

    "cut face": largest cross-section within 4 mm of an end of the mask, over the largest anywhere;
    "slice jump": largest difference of a slice's sum from its neighbours' mean, over the largest
    sum; "noise" and "sharpness": root mean square of what a Gaussian of 2 mm takes away, in the
    quiet tenth and at the upper quarter of places; "unevenness": the former over the latter (detail
    lies at edges, noise and what motion spreads lie everywhere); "stripes": strongest single
    frequency over the median of its length's; "repetition": see ``repetition``.
    """
    core = ndimage.binary_erosion(seen.mask, iterations=2)
    core = core if core.any() else seen.mask
    detail = seen.flat - ndimage.gaussian_filter(seen.flat, 1.0)
    fine = ndimage.uniform_filter(detail**2, 5)[core]
    noise, sharpness = np.sqrt(np.maximum(np.percentile(fine, [10, 75]), 1e-12))
    cuts, jumps = [], []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        low, high = _extent(seen.mask, axis)
        area = seen.mask.sum(axis=others)[low:high]
        cuts.append(max(area[:2].max(), area[-2:].max()) / area.max())
        total = np.pad(seen.image.sum(axis=others)[low:high], 1)
        jumps.append(
            np.abs(total[1:-1] - (total[2:] + total[:-2]) / 2)[1:-1].max(initial=0)
            / max(total.max(), 1e-6)
        )
    return {
        "cut face": float(max(cuts)),
        "slice jump": float(max(jumps)),
        "noise": float(noise),
        "sharpness": float(sharpness),
        "stripes": stripes(seen.flat),
        "unevenness": float(noise / sharpness),
        "repetition": repetition(detail * core, core),
    }


def stripes(flat: np.ndarray) -> float:
    """The strongest single frequency beyond 0.1 per voxel, over the median of frequencies as high.

    Args:
        flat: A flat image, [k, j, i].
    """
    amplitude = np.abs(np.fft.rfftn(flat))
    frequencies = np.meshgrid(
        *(np.fft.fftfreq(n) for n in flat.shape[:2]), np.fft.rfftfreq(flat.shape[2]), indexing="ij"
    )
    shell = np.digitize(np.sqrt(sum(f**2 for f in frequencies)), np.linspace(0.1, 0.5, 17))
    shells = [amplitude[shell == number] for number in range(1, 17) if (shell == number).any()]
    return float(max((one.max() / max(np.median(one), 1e-9) for one in shells), default=1.0))


def repetition(detail: np.ndarray, mask: np.ndarray) -> float:
    """How strongly fine detail repeats itself, as a ghost or a folded image has it.

    The largest correlation of the detail with itself 20 mm or farther along a voxel axis, over the
    root mean square of those at all such distances, which is what chance gives. Each correlation is
    multiplied by the square root of the share of the mask that overlaps its shifted self (2 % at
    least), for chance correlations grow with its inverse.

    Args:
        detail: [k, j, i], 0 outside the mask.
        mask: Boolean, of the same shape.
    """
    found = []
    for axis in range(3):
        lines, inside = (np.moveaxis(a, axis, 2).astype(np.float32) for a in (detail, mask))
        length, padded = lines.shape[2], fft.next_fast_len(2 * lines.shape[2], real=True)
        image, square, inside = (fft.rfft(a, padded) for a in (lines, lines**2, inside))

        def at_shifts(
            one, other, length=length, padded=padded
        ):  # sums over the overlap, for every shift
            return fft.irfft(np.einsum("kjf,kjf->f", one.conj(), other), padded)[:length]

        together, first, second = (
            at_shifts(image, image),
            at_shifts(square, inside),
            at_shifts(inside, square),
        )
        share = at_shifts(inside, inside) / mask.sum()
        far = (share > OVERLAP) & (np.arange(length) * LOOK_MM >= GHOST_MM)
        found += list(
            together[far] / np.sqrt(np.maximum(first * second, 1e-9))[far] * np.sqrt(share[far])
        )
    usual = np.sqrt(np.mean(np.square(found))) if found else 0.0
    return float(max(max(found) / usual, 0.1)) if usual > 0 else 1.0


def histogram_distance(seen: Look, quantiles: np.ndarray) -> float:
    """Wasserstein distance of the scaled values inside the mask to a known distribution.

    Args:
        seen: Of the scan.
        quantiles: Of the distribution, at even fractions, of shape (65,).
    """
    return float(np.mean(np.abs(np.quantile(seen.inside, FRACTIONS) - quantiles)))
