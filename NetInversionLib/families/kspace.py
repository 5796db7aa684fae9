"""K-space as a scanner would have measured it, simulated from magnitude images of real people.

A magnitude image has no phase, so one is made: smooth, and of two kinds, so that a network can be
judged on phases that it was never trained on. The k-space of one coil is then under-sampled along
the rows (whole lines stay or go), with noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ..networks.fourier import as_channels, centred_fft
from ..networks.reconstruction import IMAGE_RANGE, KSPACE_RANGE

PHASE_RADIANS = 1.0
"""Standard deviation of each term of a simulated phase."""


@dataclass(frozen=True)
class Scan:
    """Images and their k-space.

    Attributes:
        image: The truth, complex (N, H, W); its brightest tissue is about 1.
        measured: Its k-space with noise, complex (N, H, W), 0 where nothing was measured.
        mask: (N, H, W), 1 where it was measured.
        complete: The same k-space, noise included, if all of it had been measured.
    """

    image: Tensor
    measured: Tensor
    mask: Tensor
    complete: Tensor

    @property
    def given(self) -> Tensor:
        """What a network of ``networks.reconstruction`` takes, (N, 3, H, W)."""
        return given(self.measured, self.mask)

    @property
    def wanted(self) -> Tensor:
        """What it should give, (N, 2, H, W)."""
        return as_channels(self.image) / (2 * IMAGE_RANGE) + 0.5


def given(measured: Tensor, mask: Tensor) -> Tensor:
    """K-space and mask, (N, H, W), as a network's input in units of 0 to 1, (N, 3, H, W)."""
    return torch.cat([as_channels(measured) / (2 * KSPACE_RANGE) + 0.5, mask[:, None]], 1)


def image_of(output: Tensor) -> Tensor:
    """A network's output in units of 0 to 1, (N, 2, H, W), as complex images (N, H, W)."""
    channels = (output - 0.5) * (2 * IMAGE_RANGE)
    return torch.complex(channels[:, 0], channels[:, 1])


def scan(
    magnitudes: np.ndarray,
    rng: np.random.Generator,
    acceleration: float = 3.0,
    centre: float = 0.1,
    noise: float = 0.01,
    bumps: bool = False,
) -> Scan:
    """Magnitude images as a scan of one coil, each with a phase and a mask of its own.

    Args:
        magnitudes: (N, H, W), float32, the brightest tissue about 1.
        rng: Of phases, masks and noise.
        acceleration: All lines over those that are measured.
        centre: Share of the lines, in the middle, that always are.
        noise: Its standard deviation in either part of k-space, and so of the image.
        bumps: Phases of the second kind, for judging.
    """
    count, height, width = magnitudes.shape
    make = bumpy_phase if bumps else bent_phase
    phases = np.stack([make((height, width), rng) for _ in range(count)])
    masks = np.stack([line_mask(height, rng, acceleration, centre) for _ in range(count)])
    mask = torch.from_numpy(masks.astype(np.float32))[:, :, None].expand(-1, -1, width)
    image = torch.from_numpy((magnitudes * np.exp(1j * phases)).astype(np.complex64))
    error = rng.normal(size=(2, count, height, width)).astype(np.float32) * noise
    complete = centred_fft(image) + torch.complex(*map(torch.from_numpy, error))
    return Scan(image, mask * complete, mask.contiguous(), complete)


def bent_phase(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A polynomial of the second degree, in radians: what networks are trained on."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    terms = np.stack([np.ones(shape), x, y, x * x, x * y, y * y])
    return np.tensordot(rng.normal(0, PHASE_RADIANS, len(terms)), terms, 1)


def bumpy_phase(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Smooth bumps around a mean, in radians: what they are judged on."""
    coarse = rng.normal(0, PHASE_RADIANS, (4, 4))
    smooth = ndimage.zoom(coarse, [n / 4 for n in shape], order=3, mode="nearest", grid_mode=True)
    return smooth + rng.uniform(-np.pi, np.pi)


def line_mask(
    lines: int, rng: np.random.Generator, acceleration: float = 3.0, centre: float = 0.1
) -> np.ndarray:
    """Which lines are measured, (lines,) of 0 and 1: the middle, and others the rarer the farther.

    Raises:
        ValueError: The middle alone has more lines than the acceleration leaves.
    """
    wanted, inner = round(lines / acceleration), max(1, round(centre * lines))
    if not inner <= wanted <= lines:
        raise ValueError(
            f"of {lines} lines an acceleration of {acceleration:g} leaves {wanted}, but the middle"
            f" has {inner}: choose a smaller middle or a smaller acceleration"
        )
    place = np.arange(lines) - lines // 2
    mask = ((place >= -(inner // 2)) & (place < inner - inner // 2)).astype(np.float64)
    chance = np.where(mask > 0, 0, (1 - np.abs(place) / (lines / 2 + 1)) ** 2)
    if wanted > inner:
        others = rng.choice(lines, wanted - inner, replace=False, p=chance / chance.sum())
        mask[others] = 1
    return mask
