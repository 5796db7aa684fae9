"""Images of the under-sampled k-space of one coil, simulated from people's brains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from .. import models
from ..networks.reconstruction import IMAGE_RANGE, KSPACE_RANGE
from ..networks.varnet import in_coils
from . import kspace, quality
from .settings import FamilySettings
from .slices import Slices, draw_images, judged_trials
from .tasks import UNITS, Task


class Reconstruction(Task):
    """K-space and mask to the complex image."""

    inputs = (
        models.Channel("K-space, real part", "kspace_real", UNITS, -KSPACE_RANGE, KSPACE_RANGE),
        models.Channel(
            "K-space, imaginary part", "kspace_imaginary", UNITS, -KSPACE_RANGE, KSPACE_RANGE
        ),
        models.Channel("Sampling mask", "sampling", "", 0.0, 1.0),
    )
    outputs = (
        models.Channel("Image, real part", "image_real", UNITS, -IMAGE_RANGE, IMAGE_RANGE),
        models.Channel(
            "Image, imaginary part", "image_imaginary", UNITS, -IMAGE_RANGE, IMAGE_RANGE
        ),
    )
    held = ("sampling",)
    simulated = "SIMULATED k-space of one coil"
    uses = ("acceleration", "centre", "noise")
    peers = quality.PEERS

    def draw(self, people: Sequence[Slices], settings: FamilySettings, step: int) -> kspace.Scan:
        """See ``Task``."""
        rng = np.random.default_rng([settings.seed, step])
        return kspace.scan(draw_images(people, settings.batch, rng), rng, **settings.scanner)

    def judged(self, people: Sequence[Slices], settings: FamilySettings) -> dict[str, kspace.Scan]:
        """See ``Task``; the phases are of another kind than those of ``draw``."""
        shown = partial(kspace.scan, **settings.scanner, bumps=True)
        return judged_trials(people, settings.seed, shown)

    def trial_of(self, given: Tensor, wanted: Tensor, settings: FamilySettings) -> kspace.Scan:
        """See ``Task``."""
        measured, mask = in_coils(given)
        return kspace.Scan(self.image_of(wanted), measured[:, 0], mask, measured[:, 0])

    def image_of(self, output: Tensor) -> Tensor:
        """See ``Task``."""
        return kspace.image_of(output)


class DenoiserInside(Reconstruction):
    """The same; what is trained is a denoiser inside, which never sees k-space."""

    def loss(
        self, network: nn.Module, people: Sequence[Slices], settings: FamilySettings, step: int
    ) -> Tensor:
        """Mean square error of the denoiser, on images with white noise, in units of the noise."""
        count = settings.batch
        rng = np.random.default_rng([settings.seed, step])
        images = kspace.scan(draw_images(people, count, rng), rng, 1.0, noise=0.0).image
        clean = torch.stack([images.real, images.imag], 1)
        low, high = min(network.levels), max(network.levels)
        levels = np.exp(rng.uniform(math.log(low), math.log(high), (count, 1, 1, 1)))
        level = torch.from_numpy(levels.astype(np.float32))
        noise = torch.from_numpy(rng.normal(size=clean.shape).astype(np.float32))
        found = network.denoiser(clean + level * noise, level)
        # Each level counts as much as the other: the error is told in units of it.
        return ((found - clean) / level).square().mean()
