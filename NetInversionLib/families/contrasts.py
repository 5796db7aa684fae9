"""T2-weighted slices, simulated from T1-weighted ones in two ways.

Nobody's T2 is among the open scans of many people, so it is made: for training by a curve of grey
values, for judging of tissues, by the signal of a spin echo. Where the T1-weighted image is dark
inside the head there is fluid, which is bright in T2.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_multiotsu

T1_GREY = np.array([0.0, 0.2, 0.6, 0.9, 1.3])
T2_GREY = np.array([1.0, 0.9, 0.42, 0.3, 0.26])
"""What grey values become in training: fluid, grey matter, white matter, and beyond."""
GREY_JITTER = 0.06
"""Standard deviation of each of the curve's values, from slice to slice, as a share of it."""
EDGE = 0.15
"""Below this grey value a voxel is fluid with air in part."""

REPETITION_MS, ECHO_MS = 4000.0, 100.0
TISSUES = {
    "fluid": (1.0, 4300.0, 1500.0),
    "grey": (0.82, 1820.0, 99.0),
    "white": (0.7, 1084.0, 69.0),
}
"""Proton density, T1 and T2 (ms) at 3 T. T1 and T2 of grey and white matter: Stanisz and
colleagues, Magn. Reson. Med. 2005;54:507; densities and fluid are ASSUMED.
"""
BLUR_VOXELS, SHADING, NOISE = 0.5, 0.1, 0.02
"""Of judging: of its blur, the largest part of its smooth field, and the noise of either part."""


def by_curve(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """T2-weighted images as they are trained on, of T1-weighted ones (..., H, W), float32.

    Args:
        images: The brightest tissue is about 1, air is 0.
        rng: Of the curve.
    """
    heights = T2_GREY * (1 + GREY_JITTER * rng.normal(size=len(T2_GREY)))
    inside = np.clip(images / EDGE, 0, 1)
    return (inside * np.interp(images, T1_GREY, heights)).astype(np.float32)


def by_tissue(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """T2-weighted images as people are judged on, of T1-weighted ones (N, H, W) of one person.

    Three tissues are told apart by Otsu's thresholds; their signal is a spin echo's, blurred, under
    a smooth field and with Rice's noise.

    Args:
        images: The brightest tissue is about 1, air is 0.
        rng: Of field and noise.
    """
    head = images > 0.05
    kinds = np.digitize(images, threshold_multiotsu(images[head], 3))
    signal = np.array([spin_echo(*values) for values in TISSUES.values()])
    signal = signal / signal.max()
    axes = range(1, images.ndim)
    filled = np.stack([ndimage.binary_fill_holes(one) for one in head])
    sharp = np.where(filled, signal[kinds], 0)
    smooth = ndimage.gaussian_filter(sharp, [0, *[BLUR_VOXELS for _ in axes]])
    field = 1 + SHADING * smooth_field(images.shape[1:], rng)
    real, imaginary = NOISE * rng.normal(size=(2, *images.shape)) * filled
    return np.hypot(smooth * field + real, imaginary).astype(np.float32)


def spin_echo(density: float, t1_ms: float, t2_ms: float) -> float:
    """The signal of a tissue in a spin echo, 1 for all of its magnetisation."""
    return density * (1 - np.exp(-REPETITION_MS / t1_ms)) * np.exp(-ECHO_MS / t2_ms)


def smooth_field(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A smooth random field of a shape, -1 to 1 at its largest."""
    coarse = rng.uniform(-1, 1, (4,) * len(shape))
    smooth = ndimage.zoom(coarse, [n / 4 for n in shape], order=3, mode="nearest", grid_mode=True)
    return smooth / np.abs(smooth).max()
