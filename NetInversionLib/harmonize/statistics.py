"""What is known of the target scanner's people, on the template's grid."""

from __future__ import annotations

import copy
from functools import cached_property

import numpy as np
from scipy import ndimage

from ..core.volumes import Volume
from ..networks.corrector import (
    BINS,
    CELL,
    CELLS,
    CONTROL,
    GRID,
    LEVELS,
    MATCHED,
    TEMPLATE_STEP,
    VOXEL_MM,
    Corrector,
)
from . import tone_field
from .scan import BRIGHTEST

# Below this share of tissue in the mask's resampled copy, a voxel lies on the border and counts as
# air.
INSIDE = 0.7
# A brain at VOXEL_MM has about so many voxels: histograms of cells are scaled to it, whatever part
# of it is seen.
BRAIN_VOXELS = 185_000
# Deviations that too few people have shown, as standard deviations of local quantiles and of the
# whole brain's.
FLOOR, TONE_FLOOR = 0.06, 0.02


def grid_to_template(voxel_mm: float = VOXEL_MM) -> np.ndarray:
    """Indices of the template's grid, or of a coarser one over the same box, to its mm.

    Returns:
        Matrix of shape (4, 4), for (i, j, k, 1).
    """
    matrix = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    matrix[:3, 3] = [(voxel_mm - n * VOXEL_MM) / 2 for n in GRID[::-1]]
    return matrix


# What is known of the target ----------------------------------------------------------------------


class Target:
    """A ``Corrector``'s figures in double precision, and what follows from them.

    Attributes:
        template: Mean image of the aligned people, on every ``TEMPLATE_STEP``-th voxel.
        used: (288,) bool, the blocks that hold tissue in most people ("blocks" below).
        m, a: (blocks, components) patterns of log m and a as the blocks see them.
        matched, prior, expected, deviations, variance, patterns_m, patterns_a, tone,
            tone_deviations, whole: As ``Corrector`` documents its buffers of these names.
    """

    def __init__(self, corrector: Corrector | None):
        if corrector is None:
            raise ValueError(
                "this model has no corrector: add one with 'netinversion train corrector'"
            )
        stored = {name: buffer.detach().cpu().numpy() for name, buffer in corrector.named_buffers()}
        self.template = Volume(
            stored["template"], grid_to_template(VOXEL_MM * TEMPLATE_STEP), "template"
        )
        figures = {name: values.astype(np.float64) for name, values in stored.items()}
        self.matched = figures["matched"]
        self.prior = figures["prior"]
        self.used = figures["used"].ravel() > 0.5
        self.expected = figures["expected"]
        self.deviations = figures["deviations"]
        self.variance = figures["variance"]
        self.patterns_m = figures["patterns_m"]
        self.patterns_a = figures["patterns_a"]
        self.tone = figures["tone"]
        self.tone_deviations = figures["tone_deviations"]
        self.whole = figures["whole"]
        self.m, self.a = (
            np.apply_along_axis(lambda c: on_blocks(c.reshape(CONTROL)).ravel(), 0, patterns)[
                self.used
            ]
            for patterns in (self.patterns_m, self.patterns_a)
        )

    @cached_property
    def precision(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(d, B, C): the inverse of variance + deviations is 1/d - B C B' (Woodbury)."""
        d = self.variance + FLOOR**2
        b = self.deviations.T / d[:, None]
        return d, b, np.linalg.inv(np.eye(b.shape[1]) + self.deviations @ b)

    def leaving_out(self, blocks: np.ndarray) -> Target:
        """The same people, of whom some blocks tell nothing.

        Args:
            blocks: Boolean, of those in use, (blocks,).
        """
        blind = copy.copy(self)
        blind.__dict__.pop("precision", None)
        blind.variance = np.where(np.tile(blocks, len(LEVELS)), np.inf, self.variance)
        return blind

    def with_tone(self, tone: np.ndarray, whole: np.ndarray) -> Target:
        """The same people, with other quantiles of the whole brain, (55,) and (257,)."""
        other = copy.copy(self)
        other.tone, other.whole = tone, whole
        return other

    def weigh(self, x: np.ndarray) -> np.ndarray:
        """The inverse covariance of local quantiles times columns.

        Args:
            x: Of shape (17 * blocks, n).

        Returns:
            Of the same shape.
        """
        d, b, c = self.precision
        return x / d[:, None] - b @ (c @ (b.T @ x))


_CELL_OF_VOXEL = np.ravel_multi_index(
    np.meshgrid(*(np.arange(n) // CELL for n in GRID), indexing="ij"), CELLS
).ravel()

BLOCK_OF_VOXEL = np.ravel_multi_index(
    np.meshgrid(*(np.arange(n) // (2 * CELL) for n in GRID), indexing="ij"), CONTROL
).ravel()
"""Flat index of the block that each voxel of the template's grid lies in."""


def spline_matrix(controls: int, samples: int) -> np.ndarray:
    """Control values along an axis to the spline's values at evenly spread sample centres.

    Returns:
        Matrix of shape (samples, controls).
    """
    return tone_field.bspline_matrix(
        controls, (np.arange(samples) + 0.5) * controls / samples - 0.5
    )


def along_axes(matrices: list[np.ndarray], values: np.ndarray) -> np.ndarray:
    """Apply one matrix to each axis of a 3-D array.

    Args:
        matrices: For each axis (new size, old size).
        values: [k, j, i].
    """
    for axis, matrix in enumerate(matrices):
        values = np.moveaxis(np.tensordot(matrix, values, (1, axis)), 0, axis)
    return values


def _window(cells: int) -> np.ndarray:
    """(cells / 2, cells): the weights with which ``local_quantiles`` blends cells into blocks."""
    blurred = ndimage.convolve1d(np.eye(cells), [0.25, 0.5, 0.25], axis=0, mode="nearest")
    return blurred.reshape(cells // 2, 2, cells).mean(axis=1)


_TO_GRID = [spline_matrix(n, g) for n, g in zip(CONTROL, GRID)]
_TO_BLOCKS = [_window(c) @ spline_matrix(n, c) for n, c in zip(CONTROL, CELLS)]


def on_grid(control: np.ndarray) -> np.ndarray:
    """Control values as a field on the template's grid.

    Args:
        control: Of shape (6, 8, 6).

    Returns:
        Of shape (72, 96, 72).
    """
    return along_axes(_TO_GRID, control)


def on_blocks(control: np.ndarray) -> np.ndarray:
    """Control values as the field that each block of local quantiles sees, on average.

    Args:
        control: Of shape (6, 8, 6).
    """
    return along_axes(_TO_BLOCKS, control)


def matching_curve(
    values: np.ndarray, target_quantiles: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Knots of the curve that gives values the target's quantiles.

    Args:
        values: Scaled, of shape (n,).
        target_quantiles: At even fractions.

    Returns:
        x and y, of one shape, both strictly increasing.
    """
    own = np.quantile(values, np.linspace(0, 1, MATCHED))
    rise = np.arange(MATCHED) * 1e-6
    return np.maximum.accumulate(own) + rise, np.maximum.accumulate(target_quantiles) + rise


def local_quantiles(
    matched: np.ndarray, places: np.ndarray, prior: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles at ``LEVELS`` of overlapping cells, averaged in blocks.

    A cell that sees little tissue falls back on its prior histogram.

    Args:
        matched: Values near the target's, (n,).
        places: Index of each in the template's grid, (n,).
        prior: Histograms of the cells, shape (40, 12, 16, 12).

    Returns:
        Quantiles, shape (17, 288), and the blocks' share of tissue, (288,).
    """
    histogram = cell_histograms(matched, places)
    for axis in (1, 2, 3):
        histogram = ndimage.convolve1d(histogram, [0.25, 0.5, 0.25], axis=axis, mode="constant")
    share = histogram.sum(axis=0) / CELL**3
    cumulated = np.cumsum(histogram + prior, axis=0)
    cumulated = (cumulated / cumulated[-1]).reshape(BINS, -1)
    quantiles = np.empty((len(LEVELS), cumulated.shape[1]))
    columns = np.arange(cumulated.shape[1])
    for n, level in enumerate(LEVELS):
        upper = np.clip((cumulated < level).sum(axis=0), 1, BINS - 1)
        low, high = cumulated[upper - 1, columns], cumulated[upper, columns]
        quantiles[n] = (
            (upper - 0.5 + np.clip((level - low) / (high - low + 1e-9), 0, 1))
            / (BINS - 1)
            * BRIGHTEST
        )
    weights = _blocks(share) + 1e-6
    means = [_blocks(q.reshape(CELLS) * share) / weights for q in quantiles]
    return np.stack([m.ravel() for m in means]), weights.ravel()


def cell_histograms(matched: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Soft histograms of the cells, as many counts as if the whole brain had ``BRAIN_VOXELS``.

    Args:
        matched: Values near the target's, (n,).
        places: Index of each in the template's grid, (n,).

    Returns:
        Counts, shape (40, 12, 16, 12).
    """
    position = np.clip(matched, 0, BRIGHTEST - 1e-4) / BRIGHTEST * (BINS - 1)
    lower = position.astype(np.int64)
    part = position - lower
    index, size = _CELL_OF_VOXEL[places] * BINS + lower, int(np.prod(CELLS)) * BINS
    counts = np.bincount(index, 1 - part, size) + np.bincount(index + 1, part, size + 1)[:size]
    return np.moveaxis(counts.reshape(*CELLS, BINS), -1, 0) * (BRAIN_VOXELS / len(matched))


def _blocks(cells: np.ndarray) -> np.ndarray:
    return cells.reshape(CONTROL[0], 2, CONTROL[1], 2, CONTROL[2], 2).mean(axis=(1, 3, 5))
