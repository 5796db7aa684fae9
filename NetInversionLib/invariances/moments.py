"""Means and standard deviations of samples, tile by tile, blended where tiles overlap."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..core.keys import Column, Key
from . import components as invariances_components
from .level_set import LevelSet, Projected, Window

# Moments ------------------------------------------------------------------------------------------


class Moments:
    """Running first and second moments of images, float64.

    Each image passes through one buffer, so that neither memory nor its gaps grow with them.
    """

    def __init__(self, size: tuple[int, int]):
        self.count = 0
        self.first, self.second, self._image = (
            torch.zeros(size, dtype=torch.float64) for _ in range(3)
        )

    def add(self, changes: Tensor) -> None:
        """Images (N, H, W) as changes from the patient's, so that no digits are lost."""
        self.count += len(changes)
        for change in changes:
            self._image.copy_(change)
            self.first += self._image
            self.second.addcmul_(self._image, self._image)


class Blended:
    """Moments of a slice put together from overlapping tiles.

    Moments are averaged by weight, never the samples.
    """

    def __init__(self, size: tuple[int, int]):
        self.weight, self.first, self.second = (
            torch.zeros(size, dtype=torch.float64) for _ in range(3)
        )

    def add(self, moments: Moments, tile: Window, weight: Tensor) -> None:
        if moments.count < 2:  # one sample says nothing of its spread
            return
        mean = moments.first / moments.count
        variance = (moments.second - moments.count * mean.square()) / (moments.count - 1)
        for total, part in (
            (self.weight, 1.0),
            (self.first, mean),
            (self.second, variance + mean.square()),
        ):
            total[tile.slices] += weight * part

    def deviation(self) -> np.ndarray:
        """Standard deviation, NaN where no tile had two samples."""
        mean, square = self.first / self.weight, self.second / self.weight
        return (square - mean.square()).clamp(min=0).sqrt().numpy()


def tiles(region: Window, tile: int, overlap: int) -> Iterator[tuple[Window, Tensor]]:
    """Tiles that cover a region, each with its weights in ``Blended``.

    Weights of shape (h, w) fall linearly towards a neighbour.
    """
    rows, columns = (
        _steps(region.j0, region.j1, tile, overlap),
        _steps(region.i0, region.i1, tile, overlap),
    )
    for j0, j1, up, down in rows:
        for i0, i1, left, right in columns:
            yield (
                Window(j0, j1, i0, i1),
                _ramp(j1 - j0, up, down)[:, None] * _ramp(i1 - i0, left, right)[None],
            )


def _steps(start: int, stop: int, tile: int, overlap: int) -> list[tuple[int, int, int, int]]:
    """(first, last, overlap before, overlap after) along one axis.

    Tiles of equal length as far as that goes.
    """
    length = stop - start
    count = max(1, -(-(length - overlap) // (tile - overlap))) if length > tile else 1
    edges = (
        np.linspace(0, length - overlap, count + 1).round().astype(int)
        if count > 1
        else np.array([0, length])
    )
    extra = overlap if count > 1 else 0
    return [
        (start + int(a), start + int(b) + extra, extra if n else 0, extra if n < count - 1 else 0)
        for n, (a, b) in enumerate(zip(edges, edges[1:]))
    ]


def _ramp(length: int, before: int, after: int) -> Tensor:
    weight = torch.ones(length, dtype=torch.float64)
    if before:
        weight[:before] = (torch.arange(before, dtype=torch.float64) + 0.5) / before
    if after:
        weight[length - after :] = (
            weight[length - after :]
            * (torch.arange(after, dtype=torch.float64).flip(0) + 0.5)
            / after
        )
    return weight


# The run ------------------------------------------------------------------------------------------

MAPS = [
    f"{kind}{band}"
    for kind in ("unproven", "proven")
    for band in ("", *(f" {b}" for b in invariances_components.BANDS))
]


@dataclass
class SliceState:
    """What was found in one slice so far.

    Attributes:
        deviations: By ``MAPS``, while the slice is worked on.
        output: What the network makes of it, (J, I), HU.
        maps: What ``deviations`` come to, (J, I) float32, HU, once the slice is done.
        references: Columns of table "proof" and what the samples are to be compared with.
        floor: What the sampler's autoencoder changes by itself, (J, I), HU.
        samples: Samples and proposals that are kept, (J, I), HU, by key.
        answers: What the network makes of the samples, likewise.
        components: Principal components, likewise.
    """

    deviations: dict[str, Blended]
    output: Tensor
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    references: dict[Column, float] = field(default_factory=dict)
    floor: Tensor | None = None
    samples: dict[Key, Tensor] = field(default_factory=dict)
    answers: dict[Key, Tensor] = field(default_factory=dict)
    components: dict[Key, Tensor] = field(default_factory=dict)


@dataclass
class TileState:
    """What was found in one tile of a slice, or in its whole region, so far.

    Attributes:
        k: The slice.
        window: The tile.
        weight: Its weights in ``Blended``, (H, W).
        target: What may not change.
        output: The same of the network's output, beside a hidden layer.
        of_region: Whether it is the slice's whole region, on which every change is tried.
        measures: The layer's changes by what was tried, (N,) each.
        moved: What was projected.
        outputs: Changes of the output by what was projected, HU, (N,) each.
        accepted: Accepted changes, (N, H, W) each, HU.
        moments: Of the changes, by ``MAPS``.
    """

    k: int
    window: Window
    weight: Tensor
    target: LevelSet
    output: LevelSet | None
    of_region: bool
    measures: list[Tensor] = field(default_factory=list)
    moved: list[Projected] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    accepted: list[Tensor] = field(default_factory=list)
    moments: dict[str, Moments] = field(init=False)

    def __post_init__(self) -> None:
        self.moments = {key: Moments(self.window.size) for key in MAPS}
