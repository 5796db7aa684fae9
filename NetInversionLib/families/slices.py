"""Slices of people's brains for the network families, and what their networks are trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch.nn import functional as F

from ..core import volumes
from ..core.progress import Progress
from ..core.volumes import Volume
from ..training.doubles import read_scans

T = TypeVar("T")
PERCENTILE = 99.5
"""Of the voxels above 0, what becomes 1."""
LEAST_AREA = 0.4
"""Of the largest slice, what a slice has at least."""
SLICE_STEP_MM = 6.0
JUDGED_SHARES = np.linspace(0, 1, 6)[1:-1]
"""Of the way from the lowest to the highest slice: where people that are left out are judged."""


@dataclass(frozen=True)
class Slices:
    """A person's axial slices.

    Attributes:
        name: Of the scan.
        images: (S, size, size), float32; rows go to the back, columns to the left.
    """

    name: str
    images: np.ndarray


def read_slices(
    folder: Path | str,
    size: int,
    spacing_mm: float,
    progress: Progress | None = None,
    dimensions: int = 2,
) -> list[Slices]:
    """Every brain of a folder, in the order of their names.

    Args:
        folder: Brain-extracted scans, 0 outside the brain.
        size: Voxels along each side.
        spacing_mm: Their size in plane.
        dimensions: 3 for cubes (``cube_of``) instead of slices 6 mm apart.
        progress: Receives progress, and a warning for each two scans that look the same.

    Raises:
        ValueError: As ``find_scans`` and ``files.load``, or a scan without a brain.
    """
    found, progress = [], progress or Progress()
    take = cube_of if dimensions == 3 else slices_of
    for name, image, _mask in read_scans(folder, progress):
        found.append(take(image, name, size, spacing_mm))
    return found


def slices_of(image: Volume, name: str, size: int, spacing_mm: float) -> Slices:
    """A scan's axial slices, every 6 mm, with the brain in their middle.

    Raises:
        ValueError: There is no voxel above 0.
    """
    array, inside, voxel_mm = _brain(image, name)
    cut = _cut(array, inside, voxel_mm, size * spacing_mm)
    small = F.interpolate(
        torch.from_numpy(cut)[:, None], (size, size), mode="bilinear", antialias=True
    )
    return Slices(name, small[:, 0].numpy())


def cube_of(image: Volume, name: str, size: int, spacing_mm: float) -> Slices:
    """A scan as a cube with voxels of one size in all directions, the brain in its middle.

    Its slices (size, size, size) go from foot to head.

    Raises:
        ValueError: There is no voxel above 0.
    """
    array, inside, voxel_mm = _brain(image, name)
    for axis, spacing in zip((0, 1, 2), reversed(voxel_mm)):
        others = tuple(other for other in range(3) if other != axis)
        around = np.flatnonzero(inside.any(others))
        array = _field(array, around, axis, round(size * spacing_mm / spacing))
    # Linearly, after means over what becomes one voxel: so nothing finer folds over.
    means = F.adaptive_avg_pool3d(torch.from_numpy(np.ascontiguousarray(array))[None], size)
    return Slices(name, means[0].numpy())


def _brain(image: Volume, name: str) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """Grey values whose brightest tissue is 1, where the brain is, and the voxels' size (i, j, k).

    Raises:
        ValueError: There is no voxel above 0.
    """
    turned = volumes.reorient(image, "LPS")
    array = turned.float32()
    inside = array > 0
    if not inside.any():
        raise ValueError(f"{name} has no voxel above 0: choose a brain-extracted scan")
    scaled = (array / np.percentile(array[inside], PERCENTILE)).clip(0, 1.3)
    return scaled, inside, turned.spacing_mm


def label_slices(image: Volume, labels: Volume, size: int, spacing_mm: float) -> np.ndarray:
    """What regions the slices of ``slices_of`` show, (S, size, size), whole numbers.

    Args:
        image: Brain-extracted.
        labels: A number for each region, on the image's grid.
        size, spacing_mm: As of ``slices_of``.
    """
    turned, regions = (volumes.reorient(one, "LPS") for one in (image, labels))
    cut = _cut(regions.float32(), turned.array > 0, turned.spacing_mm, size * spacing_mm)
    small = F.interpolate(torch.from_numpy(cut)[:, None], (size, size), mode="nearest-exact")
    return small[:, 0].numpy().round().astype(int)


def _cut(
    array: np.ndarray, inside: np.ndarray, voxel_mm: tuple[float, float, float], side_mm: float
) -> np.ndarray:
    """Slices of an array, every 6 mm, square and with what is inside in their middle."""
    i_mm, j_mm, k_mm = voxel_mm
    area = inside.sum((1, 2))
    step = max(1, round(SLICE_STEP_MM / k_mm))
    chosen = np.flatnonzero(area >= LEAST_AREA * area.max())[::step]
    rows, columns = (np.flatnonzero(inside.any((0, axis))) for axis in (2, 1))
    cut = _field(array[chosen], rows, 1, round(side_mm / j_mm))
    return _field(cut, columns, 2, round(side_mm / i_mm))


def _field(images: np.ndarray, inside: np.ndarray, axis: int, length: int) -> np.ndarray:
    """A field of view of ``length`` voxels along an axis, around the middle of what is inside."""
    first = round((int(inside[0]) + int(inside[-1]) + 1 - length) / 2)
    kept = range(max(0, first), min(images.shape[axis], first + length))
    margin = [(0, 0)] * images.ndim
    margin[axis] = (max(0, -first), max(0, first + length - images.shape[axis]))
    return np.pad(images.take(kept, axis), margin)


def draw_images(cases: Sequence[Slices], count: int, rng: np.random.Generator) -> np.ndarray:
    """Magnitude images, (N, H, W), half of them mirrored left to right."""
    images = []
    for _ in range(count):
        slices = cases[int(rng.integers(len(cases)))].images
        image = slices[rng.integers(len(slices))]
        images.append(image[:, ::-1] if rng.random() < 0.5 else image)
    return np.stack(images)


def judged_trials(
    people: Sequence[Slices],
    seed: int,
    shown: Callable[[np.ndarray, np.random.Generator], T],
    dimensions: int = 2,
) -> dict[str, T]:
    """What is judged of each person, by name: the same each time.

    Args:
        people: Who is judged.
        seed: Of the random numbers, beside the person's name.
        shown: Makes it of a person's slices, (N, H, W), and random numbers.
        dimensions: 3 for the cube, (1, K, J, I), instead of slices.
    """
    found = {}
    for one in people:
        rng = np.random.default_rng([seed, 1_000_000, *one.name.encode()])
        images = one.images[None] if dimensions == 3 else at_shares(one, JUDGED_SHARES)
        found[one.name] = shown(images, rng)
    return found


def draw_cubes(
    cases: Sequence[Slices], count: int, rng: np.random.Generator, side: int
) -> np.ndarray:
    """Parts of people's cubes, (N, side, side, side), half of them mirrored left to right."""
    parts = []
    for _ in range(count):
        cube = cases[int(rng.integers(len(cases)))].images
        first = [int(rng.integers(max(1, length - side + 1))) for length in cube.shape]
        part = cube[tuple(slice(place, place + side) for place in first)]
        parts.append(part[..., ::-1] if rng.random() < 0.5 else part)
    return np.stack(parts)


def at_shares(case: Slices, shares: np.ndarray) -> np.ndarray:
    """A person's slices at shares of the way from the lowest to the highest: (N, H, W)."""
    places = np.round(shares * (len(case.images) - 1)).astype(int)
    return case.images[places]
