"""Tumours that are put into people's heads in two ways, and found again.

Nobody among the open scans has one: all are simulated, and look as simple as they are made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from .. import models
from ..networks.reconstruction import IMAGE_RANGE
from . import contrasts, quality
from .adversarial import Adversarial, Made, PlaceCritic
from .settings import FamilySettings
from .slices import Slices, draw_cubes, judged_trials
from .tasks import UNITS

BRAIN = 0.3
"""Least grey value of the tissue in which a tumour can begin."""
RADIUS_MM = 10.0, 22.0
"""Of tumours with what surrounds them."""
CORE = 0.6
"""Of the radius, where the core ends."""
T1_CHANGE = {"core": -0.35, "around": -0.15}
T2_CHANGE = {"core": 0.45, "around": 0.35}
"""What tumours add to the grey values."""
CHANGE_JITTER = 0.25
"""Standard deviation of each of these, as a share of it."""
WHITE, SPREAD, GROWTH, GROWTH_STEPS = 0.75, 0.15, 0.25, 400
"""Of growing tumours: grey values from which tissue is white matter, where they spread five times
as fast; the speed of both, and how long they grow at most.
"""
OVERLAP = 5.0
"""What the missing overlap weighs beside the critic, as published."""
RARE = 20.0
"""What a voxel of tumour weighs in the cross entropy; with 1, none is found in 250 steps."""
SIDE = 32
SHARES = np.linspace(0.6, 0.95, 15)
"""Of a person's brightest T2: the thresholds that are tried without a network."""


@dataclass(frozen=True)
class Heads:
    """Volumes with a tumour each.

    Attributes:
        image: Where the tumour is, with what surrounds it, (N, K, J, I), 0 or 1: the truth.
        core: Where its core is.
        first, second: T1- and T2-weighted.
    """

    image: Tensor
    core: Tensor
    first: Tensor
    second: Tensor

    @property
    def given(self) -> Tensor:
        """What a network takes, (N, 2, K, J, I)."""
        return torch.stack([self.first, self.second], 1) / IMAGE_RANGE

    @property
    def wanted(self) -> Tensor:
        """What it should give, (N, 2, K, J, I)."""
        return torch.stack([self.image, self.core], 1)


# Two kinds of tumours -----------------------------------------------------------------------------


def lump(brain: np.ndarray, rng: np.random.Generator, spacing_mm: float) -> np.ndarray:
    """How deep in a tumour each voxel is, below 1 inside: a ball with bumps; for training.

    Args:
        brain: Grey values, (K, J, I).
        rng: Of place, radius and bumps.
        spacing_mm: Of the voxels.
    """
    distance = _from(_place(brain, rng), brain.shape) * spacing_mm
    bumps = ndimage.gaussian_filter(rng.normal(size=brain.shape), 10.0 / spacing_mm)
    radius = rng.uniform(*RADIUS_MM) * (1 + 0.25 * bumps / bumps.std())
    return distance / np.maximum(radius, 1.0)


def grown(brain: np.ndarray, rng: np.random.Generator, spacing_mm: float) -> np.ndarray:
    """The same of a tumour that grows and spreads, faster along white matter; for judging.

    Reaction and diffusion (Swanson, Alvord & Murray, Cell Prolif. 2000;33:317), until it is as
    large as a ball of the drawn radius; voxels are the deeper the earlier they were reached.
    """
    speed = SPREAD * np.where(brain > WHITE, 1.0, 0.2) * (brain > 0.1)
    wanted = 4 / 3 * np.pi * (rng.uniform(*RADIUS_MM) / spacing_mm) ** 3
    cells = np.zeros(brain.shape)
    cells[_place(brain, rng)] = 1
    reached = np.full(brain.shape, np.inf)
    for step in range(GROWTH_STEPS):
        flow = np.zeros_like(cells)
        for axis in range(cells.ndim):
            between = np.minimum(speed, np.roll(speed, -1, axis))
            moved = between * (np.roll(cells, -1, axis) - cells)
            flow += moved - np.roll(moved, 1, axis)
        cells = np.clip(cells + flow + GROWTH * cells * (1 - cells), 0, 1)
        reached = np.where((cells > 0.5) & np.isinf(reached), step, reached)
        if np.isfinite(reached).sum() >= wanted:
            break
    times = reached[np.isfinite(reached)]
    earlier = np.searchsorted(np.sort(times), times, side="right")
    depth = np.full(brain.shape, np.inf)
    depth[np.isfinite(reached)] = np.cbrt(earlier / (len(times) + 1))
    return depth


def _place(brain: np.ndarray, rng: np.random.Generator) -> tuple[int, ...]:
    """A voxel well inside the brain."""
    deep = ndimage.binary_erosion(brain > BRAIN, iterations=2)
    places = np.argwhere(deep if deep.any() else brain >= brain.max())
    return tuple(places[rng.integers(len(places))])


def _from(place: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Distance of every voxel from one, in voxels."""
    away = np.indices(shape) - np.reshape(place, (-1, *[1] * len(shape)))
    return np.sqrt((away**2).sum(0))


def heads(
    brains: np.ndarray, rng: np.random.Generator, spacing_mm: float, judged: bool = False
) -> Heads:
    """Brains in two contrasts, with a tumour each.

    Args:
        brains: T1-weighted, (N, K, J, I), float32, the brightest tissue about 1.
        rng: Of all that is random.
        spacing_mm: Of the voxels.
        judged: Tumours and T2 of the second kind.
    """
    deep_in = grown if judged else lump
    depth = np.stack([deep_in(one, rng, spacing_mm) for one in brains])
    tissue = brains > 0.1
    tumour, core = tissue & (depth < 1), tissue & (depth < CORE)
    second = np.stack([_second(one, rng, judged) for one in brains])
    first = _changed(brains, tumour, core, T1_CHANGE, rng)
    second = _changed(second, tumour, core, T2_CHANGE, rng)
    return Heads(*(torch.from_numpy(a.astype(np.float32)) for a in (tumour, core, first, second)))


def _second(brain: np.ndarray, rng: np.random.Generator, judged: bool) -> np.ndarray:
    return contrasts.by_tissue(brain[None], rng)[0] if judged else contrasts.by_curve(brain, rng)


def _changed(
    images: np.ndarray,
    tumour: np.ndarray,
    core: np.ndarray,
    change: dict[str, float],
    rng: np.random.Generator,
) -> np.ndarray:
    """Images with the tumours' grey values added, their edges a voxel wide."""
    shape = (len(images), *[1] * (images.ndim - 1))
    inner, outer = (
        change[part] * (1 + CHANGE_JITTER * rng.normal(size=shape)) for part in ("core", "around")
    )
    added = np.where(core, inner, np.where(tumour, outer, 0))
    soft = ndimage.gaussian_filter(added, [0, *[0.5] * (images.ndim - 1)])
    return np.clip(images + soft, 0, IMAGE_RANGE).astype(np.float32)


# Without a network --------------------------------------------------------------------------------


def nothing(trial: Heads) -> Tensor:
    """No tumour anywhere: (N, K, J, I)."""
    return torch.zeros_like(trial.image)


def brightest(trial: Heads, share: float) -> Tensor:
    """The largest piece that is brighter than a threshold in T2, smoothed before: (N, K, J, I).

    Args:
        trial: Its T2-weighted volumes are looked at.
        share: The threshold, of the volume's 99.5th percentile inside.
    """
    found = []
    for volume in trial.second.numpy():
        smooth = ndimage.gaussian_filter(volume, 1.0)
        level = share * np.percentile(volume[volume > quality.INSIDE], 99.5)
        pieces, count = ndimage.label(ndimage.binary_opening(smooth > level))
        sizes = ndimage.sum_labels(np.ones_like(volume), pieces, range(1, count + 1))
        largest = 1 + int(np.argmax(sizes)) if count else 1
        found.append(pieces == largest)
    return torch.from_numpy(np.stack(found).astype(np.float32))


class Tumours(Adversarial):
    """T1- and T2-weighted volumes to the probability of tumour, and of its core."""

    dimensions = 3
    inputs = (
        models.Channel("T1-weighted image", "t1", UNITS, 0.0, IMAGE_RANGE),
        models.Channel("T2-weighted image", "t2", UNITS, 0.0, IMAGE_RANGE),
    )
    outputs = (
        models.Channel("Tumour", "tumour", "probability", 0.0, 1.0),
        models.Channel("Core of the tumour", "core", "probability", 0.0, 1.0),
    )
    simulated = "SIMULATED tumours and T2-weighted images"
    uses = ()
    peers = {"nothing marked": nothing}
    figure = quality.OF_REGION

    def draw(self, people: Sequence[Slices], settings: FamilySettings, step: int) -> Heads:
        """See ``Task``."""
        rng = np.random.default_rng([settings.seed, step])
        cubes = draw_cubes(people, settings.batch, rng, min(SIDE, settings.size))
        return heads(cubes, rng, settings.spacing_mm)

    def judged(self, people: Sequence[Slices], settings: FamilySettings) -> dict[str, Heads]:
        """See ``Task``; tumours grow, and T2 is made of tissues."""
        shown = partial(heads, spacing_mm=settings.spacing_mm, judged=True)
        return judged_trials(people, settings.seed, shown, self.dimensions)

    def peers_of(
        self, people: Sequence[Slices], settings: FamilySettings
    ) -> dict[str, Callable[[Any], Tensor]]:
        """See ``Task``; the threshold is the best one on people that are trained on."""
        trials = self.judged(people[:4], settings).values()
        reached = [
            np.mean([np.mean(quality.dice(brightest(t, share), t.image)) for t in trials])
            for share in SHARES
        ]
        best = float(SHARES[int(np.argmax(reached))])
        return {**self.peers, "threshold of T2": partial(brightest, share=best)}

    def scores(self, images: Tensor, truth: Tensor) -> list[float]:
        """See ``Task``."""
        return quality.dice(images, truth)

    def image_of(self, output: Tensor) -> Tensor:
        """See ``Task``."""
        return output[:, 0]

    def critics(self) -> nn.ModuleDict:
        """See ``Adversarial``; the critic sees the contrasts too."""
        return nn.ModuleDict({"regions": PlaceCritic(3, 4, width=8)})

    def make(self, network: nn.Module, drawn: Heads, known: None) -> Made:
        """See ``Adversarial``; the error is the missing overlap, and the cross entropy."""
        given, wanted = drawn.given, drawn.wanted
        made = network(given)
        both = (made * wanted).flatten(2).sum((0, 2))
        overlap = (2 * both + 1) / ((made + wanted).flatten(2).sum((0, 2)) + 1)
        rare = F.binary_cross_entropy(made, wanted, 1 + (RARE - 1) * wanted)
        error = OVERLAP * (1 - overlap).mean() + rare
        beside = (torch.cat([given, regions], 1) for regions in (made, wanted))
        return Made(error, {"regions": tuple(beside)})
