"""Scans that a gate must stop: flipped, turned, disturbed, cut, or of another kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ..core import volumes
from ..harmonize import gate_figures, simulated_scanners
from ..harmonize import scan as harmonize_scan
from ..harmonize.scan import Scan

RIGHT, WRONG, ARTEFACT = "to be accepted", "to be caught", "artefact"
UNCHANGED = "unchanged"
# Largest share of the mask's 99.5th percentile that is still background in files that bring no
# mask.
BACKGROUND = 0.03


def changes(
    number: int,
) -> Iterator[tuple[str, str, Callable[[Scan, np.random.Generator], Scan] | None]]:
    """What is made of the fold's person of that number: (what is expected, kind, change)."""

    def fixed(change: Callable[[Scan], Scan]) -> Callable[[Scan, np.random.Generator], Scan]:
        return lambda scan, rng: change(scan)

    yield RIGHT, UNCHANGED, None
    yield from (
        (RIGHT, f"simulated: {domain.name}", fixed(domain)) for domain in simulated_scanners.parse()
    )
    yield WRONG, "flipped left to right", fixed(lambda scan: flipped(scan, (2,)))
    if (
        number < 2
    ):  # the rest takes long: the first two people of each fold, and the first one, have to do
        yield from ((WRONG, kind, fixed(change)) for kind, change in PLACEMENTS.items())
        yield from ((WRONG, kind, change) for kind, change in CONTRASTS.items())
    if number < 1:
        yield from ((ARTEFACT, kind, change) for kind, change in ARTEFACTS.items())


# Other people ------------------------------------------------------------------------------------

TURNED_DEGREES, STRETCHED = 10.0, 0.04


def lying_otherwise(scan: Scan, rng: np.random.Generator) -> Scan:
    """The person turned about each axis and stretched along each, on the same voxels.

    By up to ``TURNED_DEGREES`` and ``STRETCHED``, evenly drawn; cubic splines.
    """
    spacing = np.array(scan.volume.spacing_mm[::-1])
    turn = Rotation.from_euler("xyz", rng.uniform(-1, 1, 3) * TURNED_DEGREES, degrees=True)
    matrix = turn.as_matrix() * rng.uniform(1 - STRETCHED, 1 + STRETCHED, 3)
    matrix = matrix * spacing / spacing[:, None]
    margin = np.array(scan.mask.shape) // 8  # so that nothing is turned out of the volume
    centre = np.mean(np.nonzero(scan.mask), axis=1)
    shape = tuple((np.array(scan.mask.shape) + 2 * margin).tolist())

    def moved(array: np.ndarray, order: int) -> np.ndarray:
        offset = centre - matrix @ (centre + margin)
        return ndimage.affine_transform(array, matrix, offset, shape, order=order)

    image = np.clip(moved(scan.image * scan.mask, 3), 0, None)
    mask = moved(scan.mask.astype(np.float32), 1) > 0.5
    return _with(scan, harmonize_scan.rescaled(image * mask, mask), mask)


# Wrong placements: the header stays ---------------------------------------------------------------


def flipped(scan: Scan, axes: tuple[int, ...]) -> Scan:
    """The voxels reversed along array axes (0 k, 1 j, 2 i), the header as it was."""
    return _with(scan, np.flip(scan.image, axes), np.flip(scan.mask, axes))


def rotated(scan: Scan, axes: tuple[int, int], times: int = 1) -> Scan:
    """The voxels turned by 90 degrees in a plane of array axes.

    The header's axes and spacing stay as they were.
    """
    return _with(scan, np.rot90(scan.image, times, axes), np.rot90(scan.mask, times, axes))


def _with(scan: Scan, image: np.ndarray, mask: np.ndarray) -> Scan:
    image, mask = np.ascontiguousarray(image, np.float32), np.ascontiguousarray(mask)
    volume = volumes.Volume(image, scan.volume.ijk_to_ras, scan.volume.name)
    return Scan(volume, mask, scan.scale, volume)


PLACEMENTS: dict[str, Callable[[Scan], Scan]] = {
    "flipped front to back": lambda scan: flipped(scan, (1,)),
    "flipped upside down": lambda scan: flipped(scan, (0,)),
    "turned by 180 degrees, axial": lambda scan: flipped(scan, (1, 2)),
    "turned by 90 degrees, axial": lambda scan: rotated(scan, (1, 2)),
    "turned by 90 degrees, coronal": lambda scan: rotated(scan, (0, 2)),
    "turned by 90 degrees, sagittal": lambda scan: rotated(scan, (0, 1)),
}


# Wrong contents and artefacts ---------------------------------------------------------------------


def _changed(change: Callable) -> Callable[[Scan, np.random.Generator], Scan]:
    """A change of the image inside its mask, scaled anew."""

    def apply(scan: Scan, rng: np.random.Generator) -> Scan:
        image = np.abs(change(scan.image * scan.mask, rng)).astype(np.float32) * scan.mask
        return _with(scan, harmonize_scan.rescaled(image, scan.mask), scan.mask)

    return apply


def _noise(amount: float) -> Callable:
    return _changed(lambda image, rng: image + rng.normal(0, amount, image.shape))


def _spike(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    waves = np.fft.fftn(image)
    waves[tuple(n // d for n, d in zip(image.shape, (7, 4, 3)))] += 0.02 * image.size
    return np.fft.ifftn(waves).real


def _ghost(amount: float) -> Callable:
    return _changed(lambda image, rng: image + amount * np.roll(image, image.shape[1] // 2, 1))


def _wrap(scan: Scan, rng: np.random.Generator) -> Scan:
    """A field of view too short by a quarter.

    What lies beyond its front appears at the back, and is missing at its place.
    """
    image, mask = scan.image * scan.mask, scan.mask.copy()
    depth = image.shape[1] // 4
    for array in (image, mask):
        array[:, :depth] += array[:, -depth:]
        array[:, -depth:] = 0
    return _with(scan, harmonize_scan.rescaled(image, mask), mask)


def _copied(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The front quarter a second time, over the back."""
    folded, depth = image.copy(), image.shape[1] // 4
    folded[:, :depth] += image[:, -depth:]
    return folded


def _motion(mm: float) -> Callable:
    """Sixteen blocks of phase-encoding lines, each acquired at another place.

    The middle one, most of the signal, at rest.
    """

    def change(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        lines, along = np.fft.fftfreq(image.shape[1]), np.fft.fftfreq(image.shape[2])
        block = np.minimum((np.abs(lines) * 32).astype(int), 15)
        shifts = rng.normal(0, mm / gate_figures.LOOK_MM, (16, 2)) * (np.arange(16) > 0)[:, None]
        phase = lines * shifts[block, 0]
        waves = np.fft.fftn(image) * np.exp(
            -2j * np.pi * (phase[:, None] + shifts[block, 1][:, None] * along)
        )
        return np.fft.ifftn(waves)

    return _changed(change)


def _cut(axis: int, share: float) -> Callable[[Scan, np.random.Generator], Scan]:
    """The far end of an axis missing, as if the field of view had been too small."""

    def apply(scan: Scan, rng: np.random.Generator) -> Scan:
        there = np.flatnonzero(scan.mask.any(axis=tuple(a for a in range(3) if a != axis)))
        keep = np.moveaxis(np.zeros(scan.mask.shape, bool), axis, 0)
        keep[: int(there[-1] - share * len(there)) + 1] = True
        mask = scan.mask & np.moveaxis(keep, 0, axis)
        return _with(scan, scan.image * mask, mask)

    return apply


def _empty_slices(scan: Scan, rng: np.random.Generator) -> Scan:
    image = scan.image.copy()
    image[image.shape[0] // 2 :][:2] = 0
    return _with(scan, image, harmonize_scan.foreground(image * scan.mask))


def _only_noise(scan: Scan, rng: np.random.Generator) -> Scan:
    return _with(scan, rng.rayleigh(0.3, scan.image.shape) * scan.mask, scan.mask)


CONTRASTS: dict[str, Callable[[Scan, np.random.Generator], Scan]] = {
    "noise in the shape of a brain": _only_noise,
    "contrast inverted": _changed(lambda image, rng: 1.2 - 0.9 * image),
}
ARTEFACTS: dict[str, Callable[[Scan, np.random.Generator], Scan]] = {
    "noise, 3 % of white matter": _noise(0.03),
    "noise, 5 % of white matter": _noise(0.05),
    "noise, 10 % of white matter": _noise(0.1),
    "noise, 20 % of white matter": _noise(0.2),
    "spike in the raw data, 4 %": _changed(_spike),
    "ghost, 10 %": _ghost(0.1),
    "ghost, 20 %": _ghost(0.2),
    "ghost, 30 %": _ghost(0.3),
    "ghost, 60 %": _ghost(0.6),
    "motion, 2 mm": _motion(2),
    "motion, 4 mm": _motion(4),
    "motion, 8 mm": _motion(8),
    "wrapped, a quarter of the front": _wrap,
    "the front quarter again over the back": _changed(_copied),
    "top tenth cut off": _cut(0, 0.1),
    "top quarter cut off": _cut(0, 0.25),
    "front fifth cut off": _cut(1, 0.2),
    "two slices (4 mm) empty": _empty_slices,
    "blurred, sigma 2 mm": _changed(lambda image, rng: ndimage.gaussian_filter(image, 1.0)),
    "blurred, sigma 3 mm": _changed(lambda image, rng: ndimage.gaussian_filter(image, 1.5)),
}
