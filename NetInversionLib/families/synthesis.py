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

ANCHOR = 30.0
"""What the mean square error of people's images weighs, each made of its principal components in
units of their spread. Against a critic alone nothing like a head was made in 1000 steps.
"""
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


@dataclass(frozen=True)
class Components:
    """The principal components of images, as many as there are latents.

    Attributes:
        mean, directions: Of images in a row, (H W,) and (C, H W).
        spread: Standard deviation along each, (C,).
        cells: Latents along the sides of an image.
    """

    mean: Tensor
    directions: Tensor
    spread: Tensor
    cells: tuple[int, int]

    def latents(self, images: Tensor) -> Tensor:
        """Coordinates of images (N, H, W) in units of their spread, (N, H / 8, W / 8)."""
        along = (images.flatten(1) - self.mean) @ self.directions.T
        return (along / self.spread).unflatten(1, self.cells)

    def nearest(self, images: Tensor) -> Tensor:
        """What the components can show of images, (N, H, W)."""
        away = images.flatten(1) - self.mean
        return (self.mean + away @ self.directions.T @ self.directions).view_as(images)


def components(people: Sequence[Slices]) -> Components:
    """The components of everybody's slices and their mirror images."""
    images = np.concatenate([one.images for one in people])
    cells = images.shape[1] // CELL, images.shape[2] // CELL
    flat = torch.from_numpy(np.concatenate([images, images[:, :, ::-1]])).flatten(1)
    mean = flat.mean(0)
    _, sizes, directions = torch.linalg.svd(flat - mean, full_matrices=False)
    missing = max(0, cells[0] * cells[1] - len(sizes))  # of few images, directions of nothing
    directions = torch.nn.functional.pad(directions, (0, 0, 0, missing))
    spread = torch.nn.functional.pad(sizes, (0, missing)).clamp_min(1e-3) / len(flat) ** 0.5
    count = cells[0] * cells[1]
    return Components(mean, directions[:count], spread[:count], cells)


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
        found = components(people)
        mean = found.mean.view(people[0].images.shape[1:])
        return {
            "mean image": lambda trial: mean.expand_as(trial.image),
            "principal components": lambda trial: found.nearest(trial.image),
        }

    def critics(self) -> nn.ModuleDict:
        """See ``Adversarial``; every place of the critic sees the whole head."""
        return nn.ModuleDict({"image": PlaceCritic(2, downs=4)})

    def known(self, people: Sequence[Slices]) -> Components | None:
        """See ``Adversarial``."""
        return components(people) if people else None

    def make(self, network: nn.Module, drawn: Drawn, known: Components) -> Made:
        """See ``Adversarial``; the error is that of people's images, made of their latents."""
        made = network.generate(drawn.latents)
        error = network.generate(known.latents(drawn.image)) - drawn.wanted
        return Made(ANCHOR * error.square().mean(), {"image": (made, drawn.wanted)})
