"""Shading as receive coils and other physics make it: fields by which harmonization is measured.

None of them is what the corrector's patterns are drawn from (splines over a box about the head, see
``training.corrector.random_field``), so that nothing is measured on what it was trained on.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

LOOP_POINTS = 24
FIELD_MM = 8.0


def coil_field(points: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Sensitivity of two to six loops about the head, by the law of Biot and Savart.

    The root of the summed squares of the loops' transverse fields.

    Args:
        points: (3, n), mm from the middle of the head.
        random: Draws the loops.

    Returns:
        (n,), largest magnitude 1 around a mean of 0.
    """
    total = np.zeros(points.shape[1])
    for _ in range(int(random.integers(2, 7))):
        outward = random.normal(size=3)
        outward /= np.linalg.norm(outward)
        middle = outward * random.uniform(130, 190)
        total += random.uniform(0.3, 1) * _loop(points - middle[:, None], outward, 60.0)
    return _unit(np.sqrt(total))


def _loop(places: np.ndarray, axis: np.ndarray, radius: float) -> np.ndarray:
    """Squared transverse field of a loop of wire around the origin, at (3, n), any unit."""
    side = np.cross(axis, (0.31, 0.57, 0.76))
    side /= np.linalg.norm(side)
    other = np.cross(axis, side)
    angles = np.arange(LOOP_POINTS) * 2 * np.pi / LOOP_POINTS
    field = np.zeros_like(places)
    for angle in angles:
        wire = radius * (np.cos(angle) * side + np.sin(angle) * other)
        along = np.cos(angle) * other - np.sin(angle) * side
        away = places - wire[:, None]
        field += np.cross(along, away, axisb=0).T / np.linalg.norm(away, axis=0) ** 3
    return field[0] ** 2 + field[1] ** 2


def exponential_field(points: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A sensitivity that falls off exponentially along one direction; as ``coil_field``."""
    direction = random.normal(size=3)
    direction /= np.linalg.norm(direction)
    return _unit(np.exp(direction @ points / random.uniform(60, 150)))


def polynomial_field(points: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A random polynomial of third order; as ``coil_field``."""
    x, y, z = points / 90
    terms = [x**i * y**j * z**k for i in range(4) for j in range(4 - i) for k in range(4 - i - j)]
    return _unit(sum(random.normal() * term for term in terms[1:]))


def _unit(field: np.ndarray) -> np.ndarray:
    field = field - (field.max() + field.min()) / 2
    return field / np.abs(field).max()


GENERATORS = {
    "coil": coil_field,
    "exponential": exponential_field,
    "polynomial": polynomial_field,
}
"""Fields by name."""


def within(field: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """A field of the same form whose largest magnitude among tissue is 1, around 0 there.

    Over a whole volume a coil's field is greatest at the coil, and nearly even in the head.

    Args:
        field: [k, j, i].
        tissue: Boolean, of the same shape; somewhere true.
    """
    low, high = field[tissue].min(), field[tissue].max()
    return (2 * field - low - high) / max(high - low, 1e-9)


def drawn(
    name: str, shape: tuple[int, ...], spacing_mm: tuple[float, ...], random: np.random.Generator
) -> np.ndarray:
    """A field on a grid about whose middle the head lies, drawn every ``FIELD_MM`` or less.

    Args:
        name: A key of ``GENERATORS``.
        shape: (k, j, i).
        spacing_mm: (i, j, k).
        random: Draws it.

    Returns:
        float64 of the shape, largest magnitude about 1.
    """
    sides = np.array(shape) * spacing_mm[::-1]
    coarse = np.maximum(np.ceil(sides / FIELD_MM).astype(int), 2)
    kji = np.indices(tuple(coarse.tolist())).reshape(3, -1)
    points = (kji / (coarse[:, None] - 1) - 0.5)[::-1] * sides[::-1, None]
    field = GENERATORS[name](points, random).reshape(coarse)
    return ndimage.zoom(field, np.array(shape) / coarse, order=1)
