"""Images that are noisy or coarse, simulated from people's brains, and what they were before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy import ndimage
from skimage.restoration import denoise_nl_means
from torch import Tensor
from torch.nn import functional as F

from .. import models
from ..networks.reconstruction import IMAGE_RANGE
from .operators import Coarse, Gradient, Identity
from .settings import FamilySettings
from .slices import Slices, draw_images, judged_trials
from .solvers import Sparse, admm
from .tasks import UNITS, Task

FACTOR = 2
"""Fine voxels along each side of a coarse one."""
GAUSSIAN_VOXELS = 0.6
"""Best of 0.5 to 1 at a noise of 0.08 on a person that is trained on."""
NLM_STRENGTH = 1.1
"""In units of the noise; best of 0.5 to 1.2 on the same."""
TV_STRENGTH = 0.8
"""Weight over the noise; best of 0.4 to 2 on the same."""
TV_ITERATIONS = 40


@dataclass(frozen=True)
class Pair:
    """Images or volumes, and what a scanner shows of them.

    Attributes:
        image: The truth, (N, H, W); its brightest tissue is about 1.
        poor: What is shown, (N, H, W); of a coarse image every voxel stands there repeated.
        noise: Standard deviation of the noise.
    """

    image: Tensor
    poor: Tensor
    noise: float

    @property
    def given(self) -> Tensor:
        """What a network takes, (N, 1, H, W)."""
        return self.poor[:, None] / IMAGE_RANGE

    @property
    def wanted(self) -> Tensor:
        """What it should give, (N, 1, H, W)."""
        return self.image[:, None] / IMAGE_RANGE

    @property
    def coarse(self) -> Tensor:
        """A coarse image on its own grid, (N, H / 2, W / 2)."""
        every = slice(None), *[slice(None, None, FACTOR)] * (self.poor.ndim - 1)
        return self.poor[every]


# Noise --------------------------------------------------------------------------------------------


def noisy(images: np.ndarray, rng: np.random.Generator, noise: np.ndarray) -> Tensor:
    """Magnitude images as they are with white noise in real and imaginary part (Rice's).

    Args:
        images: (N, H, W), float32.
        rng: Of the noise.
        noise: Its standard deviation in either part, one for each image or one for all.
    """
    real, imaginary = rng.normal(size=(2, *images.shape)) * np.reshape(noise, (-1, 1, 1))
    return torch.from_numpy(np.hypot(images + real, imaginary).astype(np.float32))


def gaussian(pair: Pair) -> Tensor:
    """Noisy images, smoothed: (N, H, W)."""
    blurred = ndimage.gaussian_filter(pair.poor.numpy(), (0, GAUSSIAN_VOXELS, GAUSSIAN_VOXELS))
    return torch.from_numpy(blurred)


def non_local_means(pair: Pair) -> Tensor:
    """Means over patches that look alike; the noise's level is told: (N, H, W)."""
    found = [
        denoise_nl_means(
            image,
            patch_size=5,
            patch_distance=6,
            h=NLM_STRENGTH * pair.noise,
            sigma=pair.noise,
            fast_mode=False,
        )
        for image in pair.poor.numpy()
    ]
    return torch.from_numpy(np.stack(found).astype(np.float32))


def total_variation(pair: Pair) -> Tensor:
    """Images whose edges are sparse; the noise's level is told: (N, H, W)."""
    shape = tuple(pair.poor.shape[1:])
    prior = Sparse(TV_STRENGTH * pair.noise, Gradient(shape))
    return admm(Identity(shape), pair.poor, [prior], penalty=1.0, iterations=TV_ITERATIONS)


class Denoising(Task):
    """A noisy magnitude image to the one without noise."""

    inputs = (models.Channel("Image with noise", "noisy", UNITS, 0.0, IMAGE_RANGE),)
    simulated = "images with SIMULATED noise"
    peers = {
        "nothing done": lambda pair: pair.poor,
        "Gaussian filter": gaussian,
        "total variation": total_variation,
        "non-local means": non_local_means,
    }

    def draw(self, people: Sequence[Slices], settings: FamilySettings, step: int) -> Pair:
        """See ``Task``; the noise is half to twice of what people are judged with."""
        rng = np.random.default_rng([settings.seed, step])
        images = draw_images(people, settings.batch, rng)
        levels = settings.noise * 2.0 ** rng.uniform(-1, 1, len(images))
        return Pair(torch.from_numpy(images), noisy(images, rng, levels), settings.noise)

    def judged(self, people: Sequence[Slices], settings: FamilySettings) -> dict[str, Pair]:
        """See ``Task``."""

        def shown(images: np.ndarray, rng: np.random.Generator) -> Pair:
            poor = noisy(images, rng, np.array(settings.noise))
            return Pair(torch.from_numpy(images), poor, settings.noise)

        return judged_trials(people, settings.seed, shown)

    def trial_of(self, given: Tensor, wanted: Tensor, settings: FamilySettings) -> Pair:
        """See ``Task``."""
        return Pair(self.image_of(wanted), self.image_of(given), settings.noise)


# Resolution ---------------------------------------------------------------------------------------


def coarsened(images: np.ndarray, rng: np.random.Generator, noise: float) -> Pair:
    """Images, and what a scan of coarser voxels shows of them: means over each, with noise.

    Args:
        images: (N, H, W) or (N, K, J, I), float32, sides divisible by ``FACTOR``.
        rng: Of the noise.
        noise: Its standard deviation.

    Raises:
        ValueError: The sides are not divisible.
    """
    if any(side % FACTOR for side in images.shape[1:]):
        raise ValueError(f"the size of a slice must be a multiple of {FACTOR}")
    fine = torch.from_numpy(images)
    coarse = Coarse(FACTOR, images.shape[1:]).forward(fine)
    coarse = coarse + noise * torch.from_numpy(rng.normal(size=coarse.shape).astype(np.float32))
    return Pair(fine, repeated(coarse), noise)


def repeated(coarse: Tensor) -> Tensor:
    """Coarse images (N, H, W) or (N, K, J, I) on the fine grid, each voxel repeated."""
    for axis in range(1, coarse.ndim):
        coarse = coarse.repeat_interleave(FACTOR, axis)
    return coarse


def linear(pair: Pair) -> Tensor:
    """Coarse images on the fine grid by linear interpolation: (N, H, W) or (N, K, J, I)."""
    mode = "bilinear" if pair.coarse.ndim == 3 else "trilinear"
    fine = F.interpolate(pair.coarse[:, None], scale_factor=FACTOR, mode=mode)
    return fine[:, 0]


def cubic(pair: Pair) -> Tensor:
    """Coarse images on the fine grid by cubic splines: (N, H, W) or (N, K, J, I)."""
    zoom = (1, *[FACTOR] * (pair.coarse.ndim - 1))
    fine = ndimage.zoom(pair.coarse.numpy(), zoom, order=3, mode="nearest", grid_mode=True)
    return torch.from_numpy(fine)


class SuperResolution(Task):
    """A coarse image, on the fine grid, to the fine one."""

    inputs = (models.Channel("Coarse image", "coarse", UNITS, 0.0, IMAGE_RANGE),)
    simulated = "SIMULATED coarse images"
    peers = {
        "voxels repeated": lambda pair: pair.poor,
        "linear interpolation": linear,
        "cubic splines": cubic,
    }

    def draw(self, people: Sequence[Slices], settings: FamilySettings, step: int) -> Pair:
        """See ``Task``."""
        rng = np.random.default_rng([settings.seed, step])
        return coarsened(draw_images(people, settings.batch, rng), rng, settings.noise)

    def judged(self, people: Sequence[Slices], settings: FamilySettings) -> dict[str, Pair]:
        """See ``Task``."""
        return judged_trials(people, settings.seed, partial(coarsened, noise=settings.noise))

    def trial_of(self, given: Tensor, wanted: Tensor, settings: FamilySettings) -> Pair:
        """See ``Task``."""
        return Pair(self.image_of(wanted), self.image_of(given), settings.noise)
