"""Training the small networks of the families (``families.rows``) on slices of people's brains.

Each learns in minutes of one core what its way of reconstructing can do; none is a clinical model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import models, networks
from ..core.progress import Progress
from ..core.settings import Checked, setting
from ..networks.reconstruction import IMAGE_RANGE, KSPACE_RANGE
from ..training import naming
from ..training.loop import Group, State, plain, run
from ..training.people import split_people
from . import kspace, quality, rows
from .rows import Row
from .slices import Slices, draw_images, draw_scan, judged_scan

SOURCES = "OpenNeuro ds002748 (Bezmaternykh et al.), CC0; k-space simulated from it"
INTENDED_USE = (
    "Research and teaching only, not for diagnosis or treatment. A small example of its family,"
    " trained for minutes on SIMULATED k-space of one coil, so that its ideal inputs and"
    " invariances can be looked at."
)
KSPACE_UNITS = "1 of the image's brightest tissue"
INPUTS = (
    models.Channel("K-space, real part", "kspace_real", KSPACE_UNITS, -KSPACE_RANGE, KSPACE_RANGE),
    models.Channel(
        "K-space, imaginary part", "kspace_imaginary", KSPACE_UNITS, -KSPACE_RANGE, KSPACE_RANGE
    ),
    models.Channel("Sampling mask", "sampling", "", 0.0, 1.0),
)
OUTPUTS = (
    models.Channel("Image, real part", "image_real", KSPACE_UNITS, -IMAGE_RANGE, IMAGE_RANGE),
    models.Channel(
        "Image, imaginary part", "image_imaginary", KSPACE_UNITS, -IMAGE_RANGE, IMAGE_RANGE
    ),
)


@dataclass(frozen=True)
class FamilySettings(Checked):
    """How a family's network is trained.

    Attributes:
        steps, batch: Optimiser steps (the row's where none are given), slices in each.
        learning_rate: Adam's, at its highest; warms up over 5 % of the steps and falls as a cosine.
        average: Decay per step of the running mean of the weights, which is what is kept.
        size, spacing_mm: Of a slice: voxels along each side, and their size.
        acceleration: All lines of k-space over those that are measured.
        centre: Share of the lines, in the middle, that always are.
        noise: Its standard deviation in either part of k-space; the brightest tissue is 1.
        seed: Everything random follows from it and the step's number. checkpoint_every: Steps
            between checkpoints.
    """

    steps: int | None = setting(None, at_least=1)
    batch: int = setting(2, at_least=1)
    learning_rate: float = setting(2e-3, above=0)
    average: float = setting(0.98, at_least=0, below=1)
    size: int = setting(80, at_least=16, at_most=256)
    spacing_mm: float = setting(2.4, above=0)
    acceleration: float = setting(3.0, at_least=1)
    centre: float = setting(0.1, above=0, at_most=1)
    noise: float = setting(0.01, at_least=0)
    seed: int = setting(0, at_least=0)
    checkpoint_every: int = setting(100, at_least=1)

    @property
    def scanner(self) -> dict[str, float]:
        """What ``kspace.scan`` is told."""
        return {name: getattr(self, name) for name in ("acceleration", "centre", "noise")}


class _State(State):
    """A network in training."""

    def __init__(self, row: Row, settings: FamilySettings, people: list[Slices], arguments: dict):
        torch.manual_seed(settings.seed)
        network = networks.build(row.architecture, **arguments)
        super().__init__(
            settings,
            [one.name for one in people],
            network,
            optimiser=torch.optim.Adam(network.parameters(), lr=settings.learning_rate),
        )
        self.people, self.loss, self.made = people, LOSSES[row.recipe], (row, arguments)

    def advance(self, group: Group) -> float:
        """One step; gives the root mean square error."""
        loss = self.loss(self)
        self.update(self.parts["optimiser"], list(self.network.parameters()), loss, group, clip=1.0)
        return math.sqrt(float(loss.detach()))

    def averaged(self) -> nn.Module:
        """The network with the mean weights."""
        row, arguments = self.made
        network = networks.build(row.architecture, **arguments)
        network.load_state_dict(self.averaged_state())
        return network.eval().requires_grad_(False)


def reconstruction_loss(state: _State) -> Tensor:
    """Mean square error of reconstructed images, in units of the brightest tissue."""
    drawn = draw_scan(state.people, state.settings, state.step)
    error = kspace.image_of(state.network.train()(drawn.given)) - drawn.image
    return error.abs().square().mean()


def denoiser_loss(state: _State) -> Tensor:
    """Mean square error of the denoiser inside, on images with white noise; no k-space."""
    s = state.settings
    rng = np.random.default_rng([s.seed, state.step])
    images = kspace.scan(draw_images(state.people, s.batch, rng), rng, 1.0, noise=0.0).image
    clean = torch.stack([images.real, images.imag], 1)
    low, high = min(state.network.levels), max(state.network.levels)
    levels = np.exp(rng.uniform(math.log(low), math.log(high), (s.batch, 1, 1, 1)))
    level = torch.from_numpy(levels.astype(np.float32))
    noise = torch.from_numpy(rng.normal(size=clean.shape).astype(np.float32))
    found = state.network.train().denoiser(clean + level * noise, level)
    # Each level counts as much as the other: the error is told in units of it.
    return ((found - clean) / level).square().mean()


LOSSES: dict[str, Callable[[_State], Tensor]] = {
    rows.RECONSTRUCTION: reconstruction_loss,
    rows.DENOISER_INSIDE: denoiser_loss,
}
"""By ``Row.recipe``."""


def train(
    name: str,
    cases: list[Slices],
    output: Path | str,
    settings: FamilySettings = FamilySettings(),
    hold_out: list[str] | None = None,
    checkpoint: Path | str | None = None,
    progress: Progress = Progress(),
    card: dict | None = None,
    arguments: dict | None = None,
) -> Path:
    """Train a family's network and write its model file.

    It goes on from the checkpoint if it is there.

    Args:
        name: Of the row.
        cases: Everybody's slices, of the settings' size.
        output: The model file.
        settings: See ``FamilySettings``.
        hold_out: People not trained on, whose figures stand in the card; the last fifth if None.
        checkpoint: Where the state is kept.
        progress: Receives progress; may raise ``Cancelled``.
        card: Fields of the model's card that the user chose, such as its name.
        arguments: Of the architecture; the row's if None.

    Raises:
        ValueError: The row has nothing to train, nobody to train on, or a checkpoint of another
            training.
    """
    row = trained_row(name)
    settings = replace(settings, steps=settings.steps or row.steps)
    training, held_out = split_people(cases, hold_out)
    state = _State(row, settings, training, row.arguments if arguments is None else arguments)
    judge = (lambda: _mean_psnr(state.averaged(), held_out[:1], settings)) if held_out else None
    run(
        state,
        lambda: state.advance(Group()),
        ("error", "PSNR of a person left out (dB)"),
        Group(),
        checkpoint,
        progress,
        judge,
    )
    network = state.averaged()
    progress.log("measuring the people left out, beside what needs no learning")
    made = make_card(row, state, figures(network, held_out, settings))
    naming.save(output, network, made, card)
    return Path(output)


def trained_row(name: str) -> Row:
    """A row that can be trained.

    Raises:
        ValueError: There is none of the name, or nothing to train.
    """
    row = rows.row(name)
    if not row.recipe:
        raise ValueError(f"{row.title} cannot be trained; these can: {', '.join(rows.trainable())}")
    return row


def reconstructed(network: nn.Module, scan: kspace.Scan) -> Tensor:
    """A network's complex images of scans, (N, H, W)."""
    with torch.no_grad():
        return kspace.image_of(network(scan.given))


def _mean_psnr(network: nn.Module, people: list[Slices], settings: FamilySettings) -> float:
    found = []
    for one in people:
        scan = judged_scan(one, settings)
        found += quality.psnr(reconstructed(network, scan), scan.image)
    return float(np.mean(found))


def figures(
    network: nn.Module, people: list[Slices], settings: FamilySettings
) -> dict[str, dict[str, float]]:
    """Mean PSNR in the head, dB, of each person: of the network and of ``quality.PEERS``."""
    found = {}
    for one in people:
        scan = judged_scan(one, settings)
        images = {name: peer(scan) for name, peer in quality.PEERS.items()}
        images["network"] = reconstructed(network, scan)
        found[one.name] = {
            name: float(np.mean(quality.psnr(image, scan.image))) for name, image in images.items()
        }
    return found


def make_card(row: Row, state: _State, found: dict[str, dict[str, float]]) -> models.Card:
    """The card of a family's network."""
    settings = state.settings
    told: dict[str, Any] = {}
    for person, values in found.items():
        text = ", ".join(f"{value:.1f} by {name}" for name, value in values.items())
        told[f"{person}, held out, PSNR in the head (dB)"] = text
    for name in next(iter(found.values()), {}):
        mean = float(np.mean([values[name] for values in found.values()]))
        told[f"held out, mean PSNR in the head (dB), {name}"] = round(mean, 2)
    settled: dict[str, Any] = {
        k: v if type(v) in (int, float, str) else str(v) for k, v in plain(settings).items()
    }
    return models.Card(
        name=row.title,
        version="1",
        architecture=row.architecture,
        arguments=dict(state.made[1]),
        inputs=INPUTS,
        outputs=OUTPUTS,
        dimensions=2,
        orientation="LPS",
        spacing_mm=(settings.spacing_mm, settings.spacing_mm),
        size_multiple=1,
        trained_on=tuple(state.names),
        sources=SOURCES,
        licence="MIT",
        intended_use=INTENDED_USE,
        quality=told,
        training={**settled, "family": row.name, "left out": ", ".join(found) or "nobody"},
    )
