"""The reference network: Dixon MR to synthetic CT, trained on Dixon images simulated from real CT
(``dixon.py``).

A 2-D U-Net over axial slices. ``train`` makes one model, ``evaluate`` measures models on people
they were not trained on, beside two predictors that look at no neighbourhood.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .. import models, networks
from ..core import files, meaning, volumes
from ..core.progress import Progress
from ..core.settings import Checked, setting
from ..core.volumes import Volume
from ..ideal_input.dixon import DixonSettings, body_mask, simulate_arrays
from . import naming
from .doubles import Doubles
from .loop import Group, State, plain, run
from .people import KNOWN_PEOPLE, file_stem, read_people

# Hounsfield range of the output, 0 to 1 in the network's units; what lies outside is clipped. Wide
# enough for cortical bone; 1 HU is 1/3000, so an error of 45 HU weighs as 0.015 against the input's
# range of 0 to 1.
HU_LOW, HU_HIGH = -1000.0, 2000.0
BONE_HU = 200.0
WORKING_SPACING_MM = 3.0
INPUTS = (
    models.Channel("Dixon in-phase", "in_phase", "a.u.", 0.0, None, percentile=99.5),
    models.Channel("Dixon fat fraction", "fat_fraction", "", 0.0, 1.0),
    models.Channel("Dixon water fraction", "water_fraction", "", 0.0, 1.0),
)
OUTPUTS = (models.Channel("CT", "ct", "HU", HU_LOW, HU_HIGH),)
SOURCES = (
    "pelvis, abdomen_slab, upper_abdomen: TotalSegmentator CT (Wasserthal et al., Radiology:"
    " Artificial Intelligence 2023;5:e230024), Apache-2.0. chest_b70f, chest_b40f: Lung-PET-CT-Dx"
    " (Li et al., The Cancer Imaging Archive 2020, doi:10.7937/TCIA.2020.NNC2-0461; Clark et al., J"
    " Digit Imaging 2013;26:1045), CC BY 4.0. The Dixon images are simulated from these CTs."
)
INTENDED_USE = (
    "Research and demonstration only, not for diagnosis or treatment. It was trained on a handful"
    " of CT scans and on Dixon images SIMULATED from them, never on an acquired MR image."
)


@dataclass(frozen=True)
class SyntheticCTSettings(Checked):
    """How the network is trained.

    Attributes:
        steps: Optimiser steps.
        batch: Slices in each.
        patch: Voxels along each side of a training patch.
        features: Channels of the U-Net's levels.
        learning_rate: Adam's, at its highest; warms up over 5 % of the steps and falls as a cosine.
        bone_weight: How much more an error counts at 1000 HU than in soft tissue; grows linearly
            from 1 at 200 HU, so that dense bone, which is rare and as dark as air, is learnt
            without a bias where bone begins.
        average: Decay per step of the running mean of the weights, which is what is kept.
        bf16_share: Share of the steps, the first ones, computed in bfloat16: half the time on a CPU
            that has it.
        spacing_mm: Range of in-plane voxel sizes drawn from, never finer than 0.85 times the scan's
            own.
        seed: Everything random follows from it and the step's number.
        checkpoint_every: Steps between checkpoints.
    """

    steps: int = setting(1200, at_least=1)
    batch: int = setting(8, at_least=1)
    patch: int = setting(96, at_least=1)
    features: tuple[int, ...] = setting((16, 32, 64, 128), filled=True, at_least=1)
    learning_rate: float = setting(2e-3, above=0)
    bone_weight: float = setting(3.0, at_least=0)
    average: float = setting(0.995, at_least=0, below=1)
    bf16_share: float = setting(0.9, at_least=0, at_most=1)
    spacing_mm: tuple[float, float] = setting((2.0, 4.0), above=0)
    seed: int = setting(0, at_least=0)
    checkpoint_every: int = setting(100, at_least=1)

    def check(self) -> None:
        if self.spacing_mm[0] > self.spacing_mm[1]:
            raise ValueError("spacing_mm is a range: its lower end comes first")


@dataclass
class CTScan:
    """One CT ready for use: axial slices [k, j, i], LPS.

    Cut to the body, table removed, HU clipped to the range.
    """

    name: str
    person: str
    hu: np.ndarray
    body: np.ndarray
    spacing_mm: tuple[float, float, float]


def read_scans(folder: Path | str, progress: Progress = Progress()) -> list[CTScan]:
    """Every CT of ``folder``, as ``prepare`` makes it; warns of one person under two names."""
    scans, doubles = [], Doubles(progress)
    for path, person in read_people(folder).items():
        ct = files.load(path)
        doubles.add(path.name, person, ct)
        scans.append(prepare(ct, file_stem(path), person))
    return scans


def prepare(ct: Volume, name: str, person: str) -> CTScan:
    """A CT volume [k, j, i] in any orientation (HU) as axial LPS slices of the body alone."""
    ct = volumes.reorient(meaning.require_hu(volumes.check(ct)), "LPS")
    hu = ct.float32()
    body = body_mask(hu, ct.spacing_mm)
    if not body.any():
        raise ValueError(f"{name}: no body found (nothing denser than -300 HU); is it a CT in HU?")
    _, j, i = np.nonzero(body)
    box = (slice(None), slice(j.min(), j.max() + 1), slice(i.min(), i.max() + 1))
    hu = np.where(body, hu, np.float32(HU_LOW)).clip(HU_LOW, HU_HIGH)
    return CTScan(
        name, person, np.ascontiguousarray(hu[box]), np.ascontiguousarray(body[box]), ct.spacing_mm
    )


def resampled(
    scan: CTScan, spacing_mm: float, slices: slice | np.ndarray = slice(None), smooth: bool = True
) -> CTScan:
    """A scan at another in-plane voxel size, first smoothed to it where that is coarser.

    Args:
        scan: [k, j, i].
        spacing_mm: Voxel size of the result along i and j.
        slices: Which slices; all by default.
        smooth: Whether it is smoothed.
    """
    hu = torch.from_numpy(scan.hu[slices])[:, None]
    body = torch.from_numpy(scan.body[slices])[:, None].float()
    size = [max(1, round(n * s / spacing_mm)) for n, s in zip(hu.shape[2:], scan.spacing_mm[1::-1])]
    hu, body = (
        F.interpolate(x, size=size, mode="bilinear", antialias=smooth)[:, 0].numpy()
        for x in (hu, body)
    )
    # Rounding in the weights of the average may leave the range by a hair.
    hu = hu.clip(HU_LOW, HU_HIGH)
    return replace(
        scan, hu=hu, body=body > 0.5, spacing_mm=(spacing_mm, spacing_mm, scan.spacing_mm[2])
    )


# Training -----------------------------------------------------------------------------------------


def train(
    scans: list[CTScan],
    output: Path | str,
    settings: SyntheticCTSettings = SyntheticCTSettings(),
    checkpoint: Path | str | None = None,
    progress: Progress = Progress(),
    device: torch.device | str = "cpu",
    card: dict | None = None,
) -> Path:
    """Train on ``scans`` and write the model file.

    Args:
        card: Fields of the model's card that the user chose, such as its name.
        checkpoint: Where the state is kept; if it is there already, training goes on from it, to
            the very weights that an uninterrupted run gives (same machine, same number of threads).

    Raises:
        ValueError: No scans, or the checkpoint is of other settings or other scans.
    """
    if not scans:
        raise ValueError("no CT volumes to train on")
    state = _State(settings, [s.name for s in scans], device)
    run(
        state,
        lambda: state.advance(*draw_batch(scans, settings, state.step)),
        ("loss", ""),
        checkpoint=checkpoint,
        progress=progress,
    )
    return naming.save(output, state.averaged(), make_card(scans, settings), card)


def draw_batch(
    scans: list[CTScan], settings: SyntheticCTSettings, step: int
) -> tuple[Tensor, Tensor]:
    """Inputs and targets of one step, in normalised units.

    People are drawn with equal chance, then one of their scans, a slice, a voxel size, a scan's
    settings, a patch.

    Args:
        scans: Of everybody trained on.
        settings: Sizes, and the seed.
        step: Number of the step, from which the random numbers follow.

    Returns:
        Inputs of shape (batch, 3, patch, patch), HU targets of shape (batch, 1, patch, patch).
    """
    rng = np.random.default_rng([settings.seed, step])
    people = sorted({s.person for s in scans})
    patches = []
    for _ in range(settings.batch):
        person = people[rng.integers(len(people))]
        own = [s for s in scans if s.person == person]
        patches.append(_draw_patch(own[rng.integers(len(own))], settings, rng))
    inputs, targets = (torch.from_numpy(np.stack(x)) for x in zip(*patches))
    return inputs, targets


def _draw_patch(
    scan: CTScan, settings: SyntheticCTSettings, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    finest, coarsest = settings.spacing_mm
    finest = min(max(finest, 0.85 * max(scan.spacing_mm[:2])), coarsest)
    spacing = float(np.exp(rng.uniform(np.log(finest), np.log(coarsest))))
    k = int(rng.choice(np.flatnonzero(scan.body.any((1, 2)))))
    # Scans differ in how sharp and how noisy they are at a given voxel size: smoothed before
    # sampling or not.
    slice_ = resampled(scan, spacing, slice(k, k + 1), smooth=bool(rng.random() < 0.5))

    # The body may lie anywhere in the image, with air around it.
    margin = settings.patch // 4
    hu = np.pad(slice_.hu, ((0, 0), (margin, margin), (margin, margin)), constant_values=HU_LOW)
    images = simulate_arrays(hu, slice_.spacing_mm, DixonSettings.drawn(rng), rng)
    # The rule is for whole volumes; one slice's scale differs from its volume's, hence the spread.
    images[0] /= models.percentile_high(images[0], INPUTS[0].percentile) * rng.uniform(0.97, 1.03)

    both = np.concatenate([images[:, 0], (hu - HU_LOW) / (HU_HIGH - HU_LOW)])
    both = _cut(both, settings.patch, hu[0] > BONE_HU, rng)
    both = both[:, :: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
    return np.ascontiguousarray(both[:3]), np.ascontiguousarray(both[3:])


def _cut(images: np.ndarray, size: int, wanted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A square of [channel, j, i]: one in two holds a voxel of ``wanted`` [j, i], the others lie
    anywhere.

    What is smaller than the square gets air at the far side.
    """
    missing = [max(0, size - n) for n in images.shape[1:]]
    images = np.pad(images, ((0, 0), (0, missing[0]), (0, missing[1])))
    corner = [int(rng.integers(n - size + 1)) for n in images.shape[1:]]
    places = np.argwhere(wanted)
    if len(places) and rng.random() < 0.5:
        place = places[rng.integers(len(places))] - rng.integers(size, size=2)
        corner = [int(np.clip(p, 0, n - size)) for p, n in zip(place, images.shape[1:])]
    j, i = corner
    return images[:, j : j + size, i : i + size]


class _State(State):
    """The network in training."""

    def __init__(
        self, settings: SyntheticCTSettings, names: list[str], device: torch.device | str = "cpu"
    ):
        torch.manual_seed(settings.seed)
        self.device = torch.device(device)
        network = networks.build("unet", **_architecture(settings)).to(
            self.device, memory_format=torch.channels_last
        )
        super().__init__(
            settings,
            names,
            network,
            optimiser=torch.optim.Adam(network.parameters(), lr=settings.learning_rate),
        )

    def advance(self, inputs: Tensor, targets: Tensor) -> float:
        """One optimiser step; returns the loss in normalised units."""
        s = self.settings
        inputs, targets = inputs.to(self.device), targets.to(self.device)
        hu = targets * (HU_HIGH - HU_LOW) + HU_LOW
        weight = 1 + (s.bone_weight - 1) * ((hu - BONE_HU) / (1000 - BONE_HU)).clamp(min=0)
        with torch.autocast(
            inputs.device.type, torch.bfloat16, enabled=self.step < s.bf16_share * s.steps
        ):
            outputs = self.network(inputs.contiguous(memory_format=torch.channels_last))
        loss = ((outputs.float() - targets).abs() * weight).mean()
        self.update(
            self.parts["optimiser"], list(self.network.parameters()), loss, Group(), clip=1.0
        )
        return loss.item()

    def averaged(self) -> torch.nn.Module:
        """A network with the mean weights."""
        network = networks.build("unet", **_architecture(self.settings))
        network.load_state_dict(self.averaged_state())
        return network.eval().requires_grad_(False)


def _architecture(settings: SyntheticCTSettings) -> dict:
    return {
        "dimensions": 2,
        "in_channels": 3,
        "out_channels": 1,
        "features": list(settings.features),
    }


def make_card(scans: list[CTScan], settings: SyntheticCTSettings) -> models.Card:
    """The card of a model trained on ``scans``.

    Figures are added by ``evaluate`` (``models.record_quality``).
    """
    names = tuple(sorted(s.name for s in scans))
    size_multiple = 2 ** (len(settings.features) - 1)
    return models.Card(
        name="Dixon to synthetic CT",
        version="1",
        architecture="unet",
        arguments=_architecture(settings),
        inputs=INPUTS,
        outputs=OUTPUTS,
        dimensions=2,
        orientation="LPS",
        spacing_mm=settings.spacing_mm,
        size_multiple=size_multiple,
        trained_on=names,
        sources=SOURCES if set(names) <= set(KNOWN_PEOPLE) else "CT of the person who trained it",
        licence="MIT",
        intended_use=INTENDED_USE,
        training={k: str(v) if isinstance(v, list) else v for k, v in plain(settings).items()},
    )
