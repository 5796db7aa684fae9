"""What a family's network is asked: what it takes and gives, how it is trained and judged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from .. import models
from ..core.volumes import Volume
from ..networks.reconstruction import IMAGE_RANGE
from . import quality
from .settings import FamilySettings
from .slices import SLICE_STEP_MM, Slices

UNITS = "1 of the image's brightest tissue"


class Trial(Protocol):
    """Images that are known, and what a network is given of them.

    Those of networks in three dimensions are volumes, (N, K, J, I).
    """

    @property
    def image(self) -> Tensor:
        """The truth, (N, H, W), complex or real; the brightest tissue is about 1."""

    @property
    def given(self) -> Tensor:
        """What a network takes, in units of 0 to 1: (N, C, H, W)."""

    @property
    def wanted(self) -> Tensor:
        """What it should give, in units of 0 to 1: (N, D, H, W)."""


class Task(ABC):
    """What the networks of one kind are asked.

    Attributes:
        inputs, outputs: The channels of their cards.
        held: Roles of the inputs that Ideal Input leaves alone.
        simulated: What the images are, for the card.
        uses: Settings beside those of every training that count.
        peers: Images (N, H, W) of a trial, by what one would do without a network; the trivial one
            first.
        dimensions: 3 for networks of volumes, not of slices.
        figure: What ``scores`` gives.
    """

    inputs: tuple[models.Channel, ...]
    outputs: tuple[models.Channel, ...] = (
        models.Channel("Image", "image", UNITS, 0.0, IMAGE_RANGE),
    )
    held: tuple[str, ...] = ()
    simulated: str
    uses: tuple[str, ...] = ("noise",)
    peers: dict[str, Callable[[Any], Tensor]]
    dimensions = 2
    figure = quality.IN_HEAD

    @abstractmethod
    def draw(self, people: Sequence[Slices], settings: FamilySettings, step: int) -> Any:
        """What a step of training sees.

        Args:
            people: Everybody trained on.
            settings: Of the training.
            step: Its number, from which the random numbers follow.
        """

    @abstractmethod
    def judged(self, people: Sequence[Slices], settings: FamilySettings) -> dict[str, Any]:
        """What is judged, by the name of each person: the same each time."""

    def trial_of(self, given: Tensor, wanted: Tensor, settings: FamilySettings) -> Any:
        """A trial of images that were not simulated here, for ``peers``; None where there is none.

        Args:
            given, wanted: (N, C, H, W) and (N, D, H, W), in units of 0 to 1.
            settings: How strong noise is, where a peer is told.
        """
        return None

    def peers_of(
        self, people: Sequence[Slices], settings: FamilySettings
    ) -> dict[str, Callable[[Any], Tensor]]:
        """The peers, which may have looked at everybody who is trained on."""
        return self.peers

    def scores(self, images: Tensor, truth: Tensor) -> list[float]:
        """How good images (N, ...) are, each; more is better."""
        return quality.psnr(images, truth)

    def image_of(self, output: Tensor) -> Tensor:
        """A network's output (N, D, H, W) as images like the truth."""
        return output[:, 0] * IMAGE_RANGE

    def loss(
        self, network: nn.Module, people: Sequence[Slices], settings: FamilySettings, step: int
    ) -> Tensor:
        """What a step makes smaller: the mean square error, in units of the brightest tissue."""
        drawn = self.draw(people, settings, step)
        error = self.image_of(network(drawn.given)) - drawn.image
        return error.abs().square().mean()

    def made(self, network: Callable[[Tensor], Tensor], trial: Trial) -> Tensor:
        """A network's images of a trial, (N, H, W)."""
        with torch.no_grad():
            return self.image_of(network(trial.given))

    def volumes(
        self, trial: Trial, spacing_mm: float, slice_mm: float = SLICE_STEP_MM
    ) -> dict[str, Volume]:
        """A trial as volumes by the channels' roles, as Ideal Input takes them.

        K-space has the image's grid, its zero frequency in the middle.

        Args:
            trial: Slices from foot to head, rows to the back, columns to the left; of volumes the
                first is taken.
            spacing_mm: Voxel size in plane.
            slice_mm: From slice to slice.
        """
        apart = spacing_mm if self.dimensions == 3 else slice_mm
        geometry = np.diag([-spacing_mm, -spacing_mm, apart, 1.0])
        found = {}
        channels = [*self.inputs, *self.outputs]
        for channel, values in zip(channels, torch.cat([trial.given, trial.wanted], 1).unbind(1)):
            assert channel.high is not None
            array = values.numpy() * (channel.high - channel.low) + channel.low
            array = array[0] if self.dimensions == 3 else array
            found[channel.role] = Volume(array, geometry, channel.role, channel.units)
        return found
