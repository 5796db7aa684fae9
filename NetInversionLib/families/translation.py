"""T1-weighted slices to T2-weighted ones, and back again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import models
from ..networks.reconstruction import IMAGE_RANGE
from . import contrasts
from .adversarial import Adversarial, Made, PlaceCritic
from .quality import INSIDE
from .settings import FamilySettings
from .slices import Slices, draw_images, judged_trials
from .tasks import UNITS

CYCLE = 10.0
"""What an image that does not come back weighs beside the critics, as published."""
GREYS = 256
"""Steps of the curve that matches histograms."""
ANCHOR = 100.0
"""What being far from turned and matched grey values weighs. Without it the networks mistake one
tissue for another for as long as they were trained here.
"""


@dataclass(frozen=True)
class Contrasts:
    """Slices in two contrasts.

    Attributes:
        image: T2-weighted, (N, H, W), the truth; in training those of others than the T1's.
        first: T1-weighted, (N, H, W).
    """

    image: Tensor
    first: Tensor

    @property
    def given(self) -> Tensor:
        """What a network takes, (N, 1, H, W)."""
        return self.first[:, None] / IMAGE_RANGE

    @property
    def wanted(self) -> Tensor:
        """What it should give, (N, 2, H, W)."""
        return torch.stack([self.image, self.first], 1) / IMAGE_RANGE


def best_constant(trial: Contrasts) -> Tensor:
    """The mean of the true T2-weighted image, inside: (N, H, W)."""
    inside = trial.image.abs() > INSIDE
    means = (trial.image * inside).sum((1, 2)) / inside.sum((1, 2))
    return inside * means[:, None, None]


def quantiles_of(images: np.ndarray) -> np.ndarray:
    """Grey values of images inside, (256,), at shares of 0 to 1."""
    return np.quantile(images[images > INSIDE], np.linspace(0, 1, GREYS))


def turned_greys(images: Tensor, quantiles: np.ndarray) -> Tensor:
    """The darkest becomes the brightest, so that grey values are as frequent as wanted.

    Args:
        images: (N, H, W).
        quantiles: Of the wanted grey values, as ``quantiles_of`` gives them.

    Returns:
        (N, H, W).
    """
    shares = np.linspace(0, 1, len(quantiles))
    found = []
    for image in images.numpy():
        inside = image > INSIDE
        own = np.quantile(image[inside], shares)
        ranks = np.interp(image, own, shares)
        found.append(inside * np.interp(1 - ranks, shares, quantiles))
    return torch.from_numpy(np.stack(found).astype(np.float32))


class Translation(Adversarial):
    """A T1-weighted image to the T2-weighted one; nobody is seen in both contrasts in training."""

    inputs = (models.Channel("T1-weighted image", "t1", UNITS, 0.0, IMAGE_RANGE),)
    outputs = (
        models.Channel("T2-weighted image", "t2", UNITS, 0.0, IMAGE_RANGE),
        models.Channel("T1-weighted image again", "t1_again", UNITS, 0.0, IMAGE_RANGE),
    )
    simulated = "SIMULATED T2-weighted images"
    weight = 0.1
    price = 0.03
    uses = ()
    peers = {"mean of the target": best_constant}

    def draw(self, people: Sequence[Slices], settings: FamilySettings, step: int) -> Contrasts:
        """See ``Task``."""
        rng = np.random.default_rng([settings.seed, step])
        half = (len(people) + 1) // 2  # of others than those whose T1 is seen
        first = draw_images(people[:half], settings.batch, rng)
        others = draw_images(people[half:] or people, settings.batch, rng)
        second = np.stack([contrasts.by_curve(one, rng) for one in others])
        return Contrasts(torch.from_numpy(second), torch.from_numpy(first))

    def judged(self, people: Sequence[Slices], settings: FamilySettings) -> dict[str, Contrasts]:
        """See ``Task``; the T2 is simulated in another way than that of ``draw``."""

        def shown(images: np.ndarray, rng: np.random.Generator) -> Contrasts:
            second = contrasts.by_tissue(images, rng)
            return Contrasts(torch.from_numpy(second), torch.from_numpy(images))

        return judged_trials(people, settings.seed, shown)

    def peers_of(
        self, people: Sequence[Slices], settings: FamilySettings
    ) -> dict[str, Callable[[Any], Tensor]]:
        """See ``Task``."""
        rng = np.random.default_rng(settings.seed)
        images = np.concatenate([one.images for one in people])
        quantiles = quantiles_of(np.stack([contrasts.by_curve(one, rng) for one in images]))
        return {
            **self.peers,
            "grey values turned and matched": lambda trial: turned_greys(trial.first, quantiles),
        }

    def critics(self) -> nn.ModuleDict:
        """See ``Adversarial``."""
        return nn.ModuleDict({"t1": PlaceCritic(2), "t2": PlaceCritic(2)})

    def make(self, network: nn.Module, drawn: Contrasts, known: None) -> Made:
        """See ``Adversarial``; the error is what does not come back, either way, and the anchor."""
        first, second = drawn.given, drawn.wanted[:, :1]
        there, again = network(first).split(1, 1)
        back = network.back(second)
        missed = (again - first).abs().mean() + (network.there(back) - second).abs().mean()
        away = far(there, drawn.first, drawn.image) + far(back, drawn.image, drawn.first)
        error = CYCLE * missed + ANCHOR * away
        return Made(error, {"t1": (back, first), "t2": (there, second)})


def far(made: Tensor, images: Tensor, others: Tensor) -> Tensor:
    """Mean square distance of what was made from turned grey values.

    Args:
        made: Of images, (N, 1, H, W), in a network's units.
        images: (N, H, W).
        others: In the other contrast, as frequent as whose the grey values are to be.
    """
    turned = turned_greys(images, quantiles_of(others.numpy()))
    return (made - turned[:, None] / IMAGE_RANGE).square().mean()
