"""Super-resolution in three dimensions, against a critic."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from torch import nn

from ..networks.reconstruction import IMAGE_RANGE
from .adversarial import Adversarial, Made, PlaceCritic
from .restoration import Pair, SuperResolution, coarsened
from .settings import FamilySettings
from .slices import Slices, draw_cubes, judged_trials

SIDE = 32
"""Voxels along each side of what a step of training sees, at most."""


class VolumeSuperResolution(Adversarial, SuperResolution):
    """A coarse volume, on the fine grid, to the fine one; a critic tells which looks real."""

    dimensions = 3
    simulated = "SIMULATED coarse volumes"
    weight = 1e-3

    def draw(self, people: Sequence[Slices], settings: FamilySettings, step: int) -> Pair:
        """See ``Task``."""
        rng = np.random.default_rng([settings.seed, step])
        cubes = draw_cubes(people, settings.batch, rng, min(SIDE, settings.size))
        return coarsened(cubes, rng, settings.noise)

    def judged(self, people: Sequence[Slices], settings: FamilySettings) -> dict[str, Pair]:
        """See ``Task``; everybody's whole volume."""
        shown = partial(coarsened, noise=settings.noise)
        return judged_trials(people, settings.seed, shown, self.dimensions)

    def critics(self) -> nn.ModuleDict:
        """See ``Adversarial``."""
        return nn.ModuleDict({"volume": PlaceCritic(3, width=8)})

    def make(self, network: nn.Module, drawn: Pair, known: None) -> Made:
        """See ``Adversarial``; the error is the mean square one."""
        made = network(drawn.given)
        error = (made - drawn.wanted).square().mean() * IMAGE_RANGE**2
        return Made(error, {"volume": (made, drawn.wanted)})
