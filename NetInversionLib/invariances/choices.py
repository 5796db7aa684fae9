"""Where to look for invariances, and an image's noise; needs neither torch nor a model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from ..core.volumes import (
    Region,
    Volume,
    VolumeError,
    as_region,
    axis_toward,
    crop,
    region_from_ras_points,
)
from ..models.card import Card
from .settings import InvariancesSettings

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
    """A square around a point in its axial slice, shifted to lie within the image.

    It is never larger than ``tile`` voxels. A point in the air around the body is moved into the
    body; air within, as in a lung, counts as body.

    Args:
        ct: [k, j, i], HU, any orientation.
        point_ras: RAS position, mm.
        side_mm: Of the square.
        tile: Its largest side, voxels.

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
        as_region(bound for pair in bounds for bound in pair),
        (float(sides[0] * spacing[0]), float(sides[1] * spacing[1])),
        moved,
    )


def voxel_of(ct: Volume, lesion_ras: tuple[float, float, float]) -> Region:
    """The region of the one voxel that holds a lesion's point.

    Args:
        ct: [k, j, i], any orientation.
        lesion_ras: RAS position, mm.

    Raises:
        VolumeError: None does.
    """
    try:
        return region_from_ras_points(ct, np.array([lesion_ras]))
    except VolumeError:
        raise VolumeError(
            f"The lesion's point lies outside of '{ct.name}': put it where the lesion is to be."
        ) from None


def only_slices(ct: Volume, settings: dict) -> tuple[Volume, dict]:
    """The axial slices of ``settings["region"]`` and of the lesion, and settings in their voxels.

    Args:
        ct: [k, j, i], any orientation.
        settings: Fields of ``InvariancesSettings``; without a region nothing is left out.

    Raises:
        VolumeError: The lesion's point lies outside of the image.
    """
    region = settings.get("region")
    if region is None:
        return ct, settings
    axis = axis_toward(ct, "S")[0]
    low, high = region[2 * axis : 2 * axis + 2]
    if settings.get("lesion") is not None:
        box = voxel_of(ct, settings["lesion"])
        low, high = min(low, box[2 * axis]), max(high, box[2 * axis + 1])
    kept = [bound for size in ct.shape for bound in (0, size)]
    kept[2 * axis : 2 * axis + 2] = low, high
    region = list(region)
    region[2 * axis : 2 * axis + 2] = region[2 * axis] - low, region[2 * axis + 1] - low
    return crop(ct, tuple(kept)), {**settings, "region": tuple(region)}


def body(slice_hu: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """The body in an axial slice: the largest part that is not thin, and what it encloses.

    Args:
        slice_hu: Of shape (rows, columns), HU.
        spacing_mm: Distance between rows and between columns.

    Returns:
        Boolean, of the same shape.
    """
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


# How long a run takes, fitted on two cores: everything in voxels that pass through a denoiser of
# the published size, forwards.
GRADIENT = 3  # a pass there and back, in passes forwards
BACK_PASSES = 10  # the way back to the proposal, and measuring
DECODED = 3.1  # an image that a sampler draws, in passes
DECODED_MARGIN = 48
NOISE_DRAWN = (17_000, 0.72)  # fresh noise, whatever the region: fixed, and per voxel of the slice
SLICE_FIXED = (740_000, 11.0)  # of each slice: simulation and references, likewise
HIDING_SIDE = 64  # of what the network sees around a nodule
SEEN_SIDE = 34  # of the square around the largest nodule
SEEN_MARGIN = 50  # that a network told the noise's level sees around it, both sides together
LARGEST_DENSE = 24 * 24  # voxels of a square whose spectrum is taken whole; above, its density
LANCZOS_STEPS, PROBES = 60, 8
SPECTRUM = 37  # a product with the Jacobian, in float64, in passes
SPECTRUM_MARGIN = 100


@dataclass(frozen=True)
class Pass:
    """What a network's pass costs.

    Attributes:
        weight: Of a voxel, beside that of a denoiser of the published size.
        margin: Voxels that the network sees around a region, both sides together.
        evaluations: Of a projected sample; those that are slow set the mean.
    """

    weight: float = 1.0
    margin: int = 40
    evaluations: int = 70


TOLD = Pass(2.5, 100, 87)
"""Of a denoiser that is told the noise's level, which it estimates from a neighbourhood."""
WEIGHTS = {"redcnn": 2.3}
"""Of larger architectures."""


def pass_of(card: Card) -> Pass:
    """What a pass of a denoiser costs, as its card lets expect."""
    own = TOLD if card.arguments.get("level") else Pass()
    return replace(own, weight=own.weight * WEIGHTS.get(card.architecture, 1.0))


def network_voxels(
    image: tuple[int, int],
    region: tuple[int, int],
    slices: int,
    settings: InvariancesSettings,
    one: Pass = Pass(),
) -> float:
    """What a run costs, in voxels that pass through the denoiser forwards.

    Args:
        image: Voxels of an axial slice along its two axes. region: The same of the region.
        slices: How many slices are looked at.
        settings: Its proposals, samples, projected, max_evaluations, tile, overlap, lesion, sizes
            and contrasts of lesions, and spectrum count.
        one: A pass of the denoiser.
    """
    passes = GRADIENT * min(one.evaluations, settings.max_evaluations) + BACK_PASSES
    draws = {
        "cinn": DECODED * _grown(region, DECODED_MARGIN, image),
        "noise": NOISE_DRAWN[0] + NOISE_DRAWN[1] * image[0] * image[1],
        "texture": 0.0,
    }
    draw = sum(draws[kind] for kind in settings.proposals) / len(settings.proposals)
    sampled = settings.samples * (draw + one.weight * _grown(region, one.margin, image))
    tiles = [_tiles(side, settings.tile, settings.overlap) for side in region]
    tile = min(region[0], settings.tile), min(region[1], settings.tile)
    moved = settings.projected * passes * one.weight * _grown(tile, one.margin, image)
    fixed = SLICE_FIXED[0] + SLICE_FIXED[1] * image[0] * image[1]
    return (
        slices * (fixed + sampled + tiles[0] * tiles[1] * moved)
        + _nodules(settings, passes, image)
        + SPECTRUM
        * len(settings.spectrum)
        * _products(settings.spectrum_size)
        * (settings.spectrum_size + SPECTRUM_MARGIN) ** 2
    )


def _products(side: int) -> int:
    """How many products with the Jacobian the spectrum of a square of ``side`` voxels takes."""
    return side**2 if side**2 <= LARGEST_DENSE else 2 * LANCZOS_STEPS * PROBES


def _nodules(settings: InvariancesSettings, passes: int, image: tuple[int, int]) -> float:
    """What it costs to hide each nodule, in so many passes, and to look for it in each draw."""
    if settings.lesion is None:
        return 0.0
    nodules = len(settings.lesion_diameters_mm) * len(settings.lesion_contrasts_hu)
    hidden = nodules * passes * HIDING_SIDE**2
    # Noise is drawn at two doses, each with half of the usual projections.
    drawn = NOISE_DRAWN[0] + NOISE_DRAWN[1] * image[0] * image[1]
    seen = (nodules + 1) * _grown((SEEN_SIDE, SEEN_SIDE), SEEN_MARGIN, image)
    return hidden + settings.draws * (drawn + seen)


def _grown(region: tuple[int, int], margin: int, image: tuple[int, int]) -> float:
    sides = [min(side + margin, whole) for side, whole in zip(region, image)]
    return float(sides[0] * sides[1])


def _tiles(side: int, tile: int, overlap: int) -> int:
    """How many tiles cover a side, as ``invariances.tiles`` makes them."""
    return max(1, -(-(side - overlap) // (tile - overlap))) if side > tile else 1
