"""What a network that is trained against critics has in common with the others of its kind.

By least squares: a critic gives 1 to what is real and 0 to what was made, place by place.

Sources: Mao, Li, Xie, Lau, Wang & Smolley, ICCV 2017, arXiv:1611.04076 (least squares); Isola, Zhu,
Zhou & Efros, CVPR 2017, arXiv:1611.07004 (place by place); Mescheder, Geiger & Nowozin, ICML 2018,
arXiv:1801.04406 (a price of steep critics).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .slices import Slices
from .tasks import Task


class PlaceCritic(nn.Module):
    """Strided convolutions that say of every place whether it looks real.

    Args:
        dimensions: 2 or 3, of the images.
        channels: Of the images.
        width: Channels of the first convolution, doubled by each further one.
        downs: Strided convolutions; images have at least ``2 ** downs`` voxels along each side.
    """

    def __init__(self, dimensions: int, channels: int = 1, width: int = 16, downs: int = 3):
        super().__init__()
        conv = nn.Conv2d if dimensions == 2 else nn.Conv3d
        widths = [channels, *(width * 2**number for number in range(downs))]
        layers: list[nn.Module] = []
        for taken, given in zip(widths, widths[1:]):
            layers += [conv(taken, given, 4, 2, 1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, conv(widths[-1], 1, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        """Scores of images (N, C, ...), one for each place: (N, 1, ...)."""
        return self.layers(images)


@dataclass(frozen=True)
class Made:
    """What a network made in a step of its training.

    Attributes:
        error: What is made smaller beside what the critics say.
        judged: By critic, what was made and what is real, each (N, C, ...).
    """

    error: Tensor
    judged: dict[str, tuple[Tensor, Tensor]]


class Adversarial(Task):
    """A task whose network is trained against critics.

    Attributes:
        weight: Of what the critics say, beside the error.
        price: Of a critic's mean squared slope at real images, which keeps both sides from chasing
            each other.
    """

    weight: float = 1.0
    price: float = 0.0

    @abstractmethod
    def critics(self) -> nn.ModuleDict:
        """New critics, by name."""

    def known(self, people: Sequence[Slices]) -> Any:
        """What ``make`` is told of everybody who is trained on, found before the first step."""
        return None

    @abstractmethod
    def make(self, network: nn.Module, drawn: Any, known: Any) -> Made:
        """What the network makes of what ``draw`` gave."""

    def against(self, critics: nn.ModuleDict, made: Made) -> Tensor:
        """What the network makes smaller: the error, and how far the critics are from 1."""
        told = [(critics[name](one) - 1).square().mean() for name, (one, _) in made.judged.items()]
        return made.error + self.weight * sum(told)

    def criticised(self, critics: nn.ModuleDict, made: Made) -> Tensor:
        """What the critics make smaller: how far they are from 1 for the real, from 0 otherwise."""
        found = made.error.new_zeros(())
        for name, (one, real) in made.judged.items():
            seen = real.detach().requires_grad_(self.price > 0)
            scores = critics[name](seen)
            found = found + (scores - 1).square().mean() / 2
            found = found + critics[name](one.detach()).square().mean() / 2
            if self.price:
                found = found + self.price * steepness(scores, seen)
        return found


def steepness(scores: Tensor, images: Tensor) -> Tensor:
    """Mean squared norm of the slope of a critic's mean score, at each of images (N, C, ...)."""
    each = scores.flatten(1).mean(1).sum()
    (slope,) = torch.autograd.grad(each, images, create_graph=True)
    return slope.flatten(1).square().sum(1).mean()
