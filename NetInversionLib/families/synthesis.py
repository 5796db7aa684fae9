"""Slices made of random numbers, and the numbers that make a slice most like a person's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import models
from ..networks.reconstruction import IMAGE_RANGE
from ..networks.synthesis import CELL, LATENT_RANGE, latent_image
from .adversarial import Adversarial, Made, PlaceCritic
from .settings import FamilySettings
from .slices import Slices, draw_images, judged_trials

SEARCH_STEPS, SEARCH_RATE = 150, 0.1
PRICE = 1e-4
"""Of the latents' mean square, beside the image's mean square error: they stay likely."""


@dataclass(frozen=True)
class Drawn:
    """Images, and latents.

    Attributes:
        image: Of people, (N, H, W); their brightest tissue is about 1.
        latents: (N, H / 8, W / 8).
    """

    image: Tensor
    latents: Tensor

    @property
    def given(self) -> Tensor:
        """What a network takes, (N, 1, H, W)."""
        return latent_image(self.latents)

    @property
    def wanted(self) -> Tensor:
        """What it should give, (N, 1, H, W)."""
        return self.image[:, None] / IMAGE_RANGE


def nearest(network: nn.Module, images: Tensor, steps: int = SEARCH_STEPS) -> Tensor:
    """Latents (N, h, w) whose images come nearest to images (N, H, W), by Adam from 0."""
    shape = len(images), network.cells, network.cells
    with torch.enable_grad():
        latents = torch.zeros(shape, requires_grad=True)
        optimiser = torch.optim.Adam([latents], lr=SEARCH_RATE)
        for _ in range(steps):
            error = IMAGE_RANGE * network.generate(latents)[:, 0] - images
            loss = error.square().mean() + PRICE * latents.square().mean()
            optimiser.zero_grad()
            loss.backward(inputs=[latents])
            optimiser.step()
    return latents.detach()


def principal(images: np.ndarray, count: int) -> tuple[Tensor, Tensor]:
    """Mean (H W,) and the first principal directions (count, H W) of images (N, H, W)."""
    flat = torch.from_numpy(images).flatten(1)
    mean = flat.mean(0)
    _, _, directions = torch.linalg.svd(flat - mean, full_matrices=False)
    return mean, directions[:count]


class Synthesis(Adversarial):
    """Latents to an image that could be a person's."""

    inputs = (models.Channel("Latents", "latents", "1", -LATENT_RANGE, LATENT_RANGE),)
    simulated = "images MADE of random numbers"
    price = 0.1
    uses = ()
    peers = {}

    def draw(self, people: Sequence[Slices], settings: FamilySettings, step: int) -> Drawn:
        """See ``Task``; the latents are normal, and have nothing to do with the images."""
        rng = np.random.default_rng([settings.seed, step])
        images = draw_images(people, settings.batch, rng)
        shape = len(images), *(side // CELL for side in images.shape[1:])
        latents = rng.normal(size=shape).astype(np.float32)
        return Drawn(torch.from_numpy(images), torch.from_numpy(latents))

    def judged(self, people: Sequence[Slices], settings: FamilySettings) -> dict[str, Drawn]:
        """See ``Task``; the latents are 0, of which a search begins."""

        def shown(images: np.ndarray, rng: np.random.Generator) -> Drawn:
            shape = len(images), *(side // CELL for side in images.shape[1:])
            return Drawn(torch.from_numpy(images), torch.zeros(shape))

        return judged_trials(people, settings.seed, shown)

    def made(self, network: Any, trial: Any) -> Tensor:
        """The images nearest to those of the trial that the network can make, (N, H, W)."""
        with torch.no_grad():
            return IMAGE_RANGE * network.generate(nearest(network, trial.image))[:, 0]

    def peers_of(
        self, people: Sequence[Slices], settings: FamilySettings
    ) -> dict[str, Callable[[Any], Tensor]]:
        """See ``Task``; as many principal components as there are latents."""
        images = np.concatenate([one.images for one in people])
        count = (images.shape[1] // CELL) * (images.shape[2] // CELL)
        mean, directions = principal(np.concatenate([images, images[:, :, ::-1]]), count)

        def projected(trial: Drawn) -> Tensor:
            away = trial.image.flatten(1) - mean
            return (mean + away @ directions.T @ directions).view_as(trial.image)

        return {
            "mean image": lambda trial: mean.expand(len(trial.image), -1).view_as(trial.image),
            "principal components": projected,
        }

    def critics(self) -> nn.ModuleDict:
        """See ``Adversarial``; every place of the critic sees the whole head."""
        return nn.ModuleDict({"image": PlaceCritic(2, downs=4)})

    def make(self, network: nn.Module, drawn: Drawn) -> Made:
        """See ``Adversarial``; nothing is said beside what the critic says."""
        made = network.generate(drawn.latents)
        return Made(made.new_zeros(()), {"image": (made, drawn.wanted)})
