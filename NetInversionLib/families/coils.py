"""K-space as several coils would have measured it, simulated from magnitude images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from .. import models
from ..networks.fourier import as_channels, centred_fft, middle_lines
from ..networks.reconstruction import IMAGE_RANGE, KSPACE_RANGE
from ..networks.varnet import in_coils, root_sum_of_squares
from . import kspace
from .operators import Coils, Gradient
from .settings import FamilySettings
from .slices import Slices, draw_images, judged_trials
from .solvers import Sparse, admm
from .tasks import UNITS, Task

COILS = 8
TV_WEIGHT = 0.002
"""Best of 0.001 to 0.02 on a person that is trained on."""
TV_ITERATIONS, TV_INNER = 40, 3


@dataclass(frozen=True)
class CoilScan:
    """Images and their k-space.

    Attributes:
        coil_images: What each coil sees, complex (N, C, H, W).
        measured: Their k-space with noise, complex (N, C, H, W), 0 where nothing was measured.
        mask: (N, H, W), 1 where it was measured.
        complete: The same k-space, noise included, if all of it had been measured.
    """

    coil_images: Tensor
    measured: Tensor
    mask: Tensor
    complete: Tensor

    @property
    def image(self) -> Tensor:
        """The magnitude, (N, H, W): the root of the coils' sum of squares."""
        return root_sum_of_squares(self.coil_images)

    @property
    def given(self) -> Tensor:
        """What a network takes, (N, 2 C + 1, H, W)."""
        return given(self.measured, self.mask)

    @property
    def wanted(self) -> Tensor:
        """What it should give, (N, 1, H, W)."""
        return self.image[:, None] / IMAGE_RANGE


def given(measured: Tensor, mask: Tensor) -> Tensor:
    """K-space (N, C, H, W) and mask (N, H, W) as a network's input in units of 0 to 1."""
    parts = as_channels(measured.flatten(0, 1)).unflatten(0, measured.shape[:2]).flatten(1, 2)
    return torch.cat([parts / (2 * KSPACE_RANGE) + 0.5, mask[:, None]], 1)


# What coils see -----------------------------------------------------------------------------------


def bells(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """What coils see, (C, H, W), complex: bells with a phase that is linear; for training.

    Args:
        shape: Of the images.
        rng: Of the coils' places, widths and phases.
    """
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    angles = 2 * np.pi * np.arange(COILS) / COILS + rng.uniform(0, 2 * np.pi)
    seen = []
    for angle in angles + rng.normal(0, 0.15, COILS):
        distance, width = rng.uniform(1.0, 1.5), rng.uniform(0.7, 1.3)
        squared = (x - distance * np.cos(angle)) ** 2 + (y - distance * np.sin(angle)) ** 2
        bend, tilt, lean = rng.normal(0, 1, 3)
        phase = np.pi * bend + tilt * x + lean * y
        seen.append(np.exp(-squared / (2 * width**2) + 1j * phase))
    return _of_unit_sum(np.stack(seen))


def birdcage(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """What coils see, (C, H, W), complex: loops on a circle around the head; for judging.

    Each falls off as one over the distance, and its phase turns with the direction.

    Args:
        shape: Of the images.
        rng: Of the circle's radius, 1.2 to 1.8 of half the field of view, and its turn.
    """
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    radius, turn = rng.uniform(1.2, 1.8), rng.uniform(0, 2 * np.pi)
    seen = []
    for number in range(COILS):
        angle = 2 * np.pi * number / COILS
        across = x - radius * np.cos(angle + turn)
        along = y - radius * np.sin(angle + turn)
        phase = np.arctan2(across, -along) - angle
        seen.append(np.exp(1j * phase) / np.hypot(across, along))
    return _of_unit_sum(np.stack(seen))


def _of_unit_sum(seen: np.ndarray) -> np.ndarray:
    """With 1 as the sum of the coils' squares at each place."""
    return seen / np.sqrt((np.abs(seen) ** 2).sum(0))


def coil_scan(
    magnitudes: np.ndarray,
    rng: np.random.Generator,
    acceleration: float,
    centre: float,
    noise: float,
    judged: bool = False,
) -> CoilScan:
    """Magnitude images as a scan of several coils, each with phase, coils and mask of its own.

    Args:
        magnitudes: (N, H, W), float32, the brightest tissue about 1.
        rng: Of all that is random.
        acceleration, centre, noise: As ``kspace.scan``; the noise is that of each coil.
        judged: Phases and coils of the second kind.
    """
    one = kspace.scan(magnitudes, rng, acceleration, centre, 0.0, judged)
    see = birdcage if judged else bells
    shape = magnitudes.shape[1:]
    seen = np.stack([see(shape, rng) for _ in magnitudes]).astype(np.complex64)
    images = torch.from_numpy(seen) * one.image[:, None]
    error = noise * rng.normal(size=(2, *images.shape)).astype(np.float32)
    return measured_scan(images, one.mask, torch.complex(*map(torch.from_numpy, error)))


def measured_scan(coil_images: Tensor, mask: Tensor, error: Tensor | float = 0.0) -> CoilScan:
    """Coils' images (N, C, H, W) and masks (N, H, W) as a scan, with noise added to k-space."""
    complete = centred_fft(coil_images) + error
    return CoilScan(coil_images, mask[:, None] * complete, mask, complete)


# Without learning ---------------------------------------------------------------------------------


def zero_filled(scan: CoilScan) -> Tensor:
    """Zeros where nothing was measured: magnitudes (N, H, W)."""
    return root_sum_of_squares(centred_fft(scan.measured, inverse=True))


def total_variation(scan: CoilScan, weight: float = TV_WEIGHT) -> Tensor:
    """The image whose edges are sparse, with what coils see taken from the middle lines.

    Args:
        scan: Of any number of coils.
        weight: Of total variation.

    Returns:
        Magnitudes (N, H, W).
    """
    coarse = centred_fft(middle_lines(scan.mask)[:, None] * scan.measured, inverse=True)
    seen = coarse / root_sum_of_squares(coarse)[:, None]
    prior = Sparse(weight, Gradient(tuple(scan.mask.shape[1:])))
    found = [
        admm(Coils(coils, mask), measured, [prior], 0.1, TV_ITERATIONS, TV_INNER)
        for coils, mask, measured in zip(seen, scan.mask, scan.measured)
    ]
    return torch.stack(found).abs()


def _coil_channels() -> tuple[models.Channel, ...]:
    """Real and imaginary part of each coil."""
    return tuple(
        models.Channel(
            f"K-space of coil {number + 1}, {part} part",
            f"coil_{number + 1}_{part}",
            UNITS,
            -KSPACE_RANGE,
            KSPACE_RANGE,
        )
        for number in range(COILS)
        for part in ("real", "imaginary")
    )


class SeveralCoils(Task):
    """K-space of several coils, and the mask, to the image's magnitude."""

    inputs = (*_coil_channels(), models.Channel("Sampling mask", "sampling", "", 0.0, 1.0))
    held = ("sampling",)
    simulated = f"SIMULATED k-space of {COILS} coils"
    uses = ("acceleration", "centre", "noise")
    peers = {"zero-filled": zero_filled, "total variation": total_variation}

    def draw(self, people: Sequence[Slices], settings: FamilySettings, step: int) -> CoilScan:
        """See ``Task``."""
        rng = np.random.default_rng([settings.seed, step])
        return coil_scan(draw_images(people, settings.batch, rng), rng, **settings.scanner)

    def judged(self, people: Sequence[Slices], settings: FamilySettings) -> dict[str, CoilScan]:
        """See ``Task``; phases and coils are of another kind than those of ``draw``."""
        shown = partial(coil_scan, **settings.scanner, judged=True)
        return judged_trials(people, settings.seed, shown)

    def trial_of(self, given: Tensor, wanted: Tensor, settings: FamilySettings) -> CoilScan:
        """See ``Task``; what each coil sees is not known: the magnitude stands as one coil's."""
        measured, mask = in_coils(given)
        return CoilScan(self.image_of(wanted)[:, None].to(measured.dtype), measured, mask, measured)
