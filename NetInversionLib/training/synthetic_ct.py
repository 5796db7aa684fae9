"""The reference network: Dixon MR to synthetic CT.

It is trained on Dixon images simulated from real CT (``dixon.py``).

A 2-D network over axial slices: a part that sees single voxels, and a U-Net that corrects it.
``train`` makes one model; ``evaluation.synthetic_ct`` measures models on people they were not
trained on, beside predictors that look at no neighbourhood.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
from .level import begin_with
from .loop import Group, State, plain, run
from .people import KNOWN_PEOPLE, SLICE_OF_PERSON, file_stem, read_people

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
VOLUME_SOURCES = (
    "acrin_flt, cptac_pda, lung_fused, rider: ACRIN-FLT-Breast, CPTAC-PDA, Lung-Fused-CT-Pathology"
    " and RIDER Pilot, CC BY 3.0, via The Cancer Imaging Archive (Clark et al., J Digit Imaging"
    " 2013;26:1045)."
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
        views: Simulated Dixon scans of each CT.
        slices: At most so many neighbouring slices in each.
        learning_rate: Adam's, at its highest; warms up over 5 % of the steps and falls as a cosine.
        bone_weight: How much more an error counts in bone than in soft tissue; grows linearly
            from 1 at 100 HU to this at 300 HU, lest bone, which is rare, be drawn too soft.
        average: Decay per step of the running mean of the weights, which is what is kept.
        bf16_share: Share of the steps, the first ones, computed in bfloat16: half the time on a CPU
            that has it.
        spacing_mm: Range of in-plane voxel sizes drawn from, never finer than 0.85 times the scan's
            own.
        seed: Everything random follows from it and the step's number.
        checkpoint_every: Steps between checkpoints.
    """

    steps: int = setting(1000, at_least=1)
    batch: int = setting(16, at_least=1)
    patch: int = setting(64, at_least=1)
    features: tuple[int, ...] = setting((16, 32, 48, 64), filled=True, at_least=1)
    views: int = setting(6, at_least=1)
    slices: int = setting(32, at_least=1)
    learning_rate: float = setting(2e-3, above=0)
    bone_weight: float = setting(2.0, at_least=0)
    average: float = setting(0.995, at_least=0, below=1)
    bf16_share: float = setting(0.9, at_least=0, at_most=1)
    spacing_mm: tuple[float, float] = setting((1.5, 4.0), above=0)
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


def read_scans(
    *folders: Path | str, progress: Progress = Progress(), leave_out: Sequence[str] = ()
) -> list[CTScan]:
    """Every CT of ``folders``, as ``prepare`` makes it; warns of one person under two names.

    Raises:
        ValueError: A person of ``leave_out`` is in none of the folders, or a name comes twice.
    """
    found = [item for folder in folders for item in read_people(folder).items()]
    people = {person for _, person in found}
    if unknown := sorted(set(leave_out) - people):
        raise ValueError(
            f"no scan of {', '.join(unknown)} in {', '.join(map(str, folders))};"
            f" people there: {', '.join(sorted(people))}"
        )
    scans, doubles = [], Doubles(progress)
    for path, person in found:
        if person in leave_out:
            continue
        ct = files.load(path)
        doubles.add(path.name, person, ct)
        scans.append(prepare(ct, file_stem(path), person))
    if len({scan.name for scan in scans}) < len(scans):
        raise ValueError("two CT volumes have one name: rename one, or give the folders apart")
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
    start: models.Model | None = None,
) -> Path:
    """Train on ``scans`` and write the model file.

    Args:
        card: Fields of the model's card that the user chose, such as its name.
        checkpoint: Where the state is kept; if it is there already, training goes on from it, to
            the very weights that an uninterrupted run gives (same machine, same number of threads).
        start: Network whose weights the training begins with. The scans that it was trained on
            count as trained on.

    Raises:
        ValueError: No scans, a start with other layers, or the checkpoint is of other settings or
            other scans.
    """
    if not scans:
        raise ValueError("no CT volumes to train on")
    names = {s.name for s in scans} | set(start.card.trained_on if start else ())
    state = _State(settings, sorted(names), device, start)
    progress.report(0.0, "simulating the Dixon images to train on")
    seen = see(scans, settings)
    run(
        state,
        lambda: state.advance(*draw_batch(seen, settings, state.step)),
        ("loss", ""),
        checkpoint=checkpoint,
        progress=progress,
    )
    return naming.save(output, state.averaged(), make_card(names, settings, start), card)


@dataclass(frozen=True)
class Seen:
    """A piece of a scan as some Dixon scan sees it.

    ``images`` float16 [4, k, j, i]: the inputs and the CT, in the network's units; ``wanted``
    where there is bone, ``slices`` where there is a body.
    """

    person: str
    images: np.ndarray
    wanted: np.ndarray
    slices: np.ndarray


def see(scans: list[CTScan], settings: SyntheticCTSettings) -> list[Seen]:
    """Every scan as ``settings.views`` Dixon scans see a piece of it, for training.

    Each view draws some neighbouring slices, a voxel size and the settings of a scan; blur and
    scale are thus those of a volume. Everything follows from the seed.
    """
    return [
        _seen(scan, settings, np.random.default_rng([settings.seed, number, view]))
        for number, scan in enumerate(sorted(scans, key=lambda s: s.name))
        for view in range(settings.views)
    ]


def _seen(scan: CTScan, settings: SyntheticCTSettings, rng: np.random.Generator) -> Seen:
    finest, coarsest = settings.spacing_mm
    finest = min(max(finest, 0.85 * max(scan.spacing_mm[:2])), coarsest)
    spacing = float(np.exp(rng.uniform(np.log(finest), np.log(coarsest))))
    first = int(rng.integers(max(0, len(scan.hu) - settings.slices) + 1))
    # Scans differ in how sharp and how noisy they are at a given voxel size: smoothed before
    # sampling or not.
    part = resampled(
        scan, spacing, slice(first, first + settings.slices), smooth=bool(rng.random() < 0.5)
    )
    # The body may lie anywhere in the image, with air around it.
    around = ((0, 0), *((settings.patch // 4,) * 2,) * 2)
    hu = np.pad(part.hu, around, constant_values=HU_LOW)
    images = simulate_arrays(hu, part.spacing_mm, DixonSettings.drawn(rng), rng)
    images[0] /= models.percentile_high(images[0], INPUTS[0].percentile)
    both = np.concatenate([images, (hu[None] - HU_LOW) / (HU_HIGH - HU_LOW)]).astype(np.float16)
    slices = np.flatnonzero(part.body.any((1, 2)))
    return Seen(scan.person, both, hu > BONE_HU, slices if len(slices) else np.arange(len(hu)))


def draw_batch(seen: list[Seen], settings: SyntheticCTSettings, step: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets of one step, in normalised units.

    A piece is drawn, more often where it has more slices (by the root of their number, so that
    neither a few long scans nor many short ones fill the batch), then a slice, and a patch.

    Args:
        seen: From ``see``.
        settings: Sizes, and the seed.
        step: Number of the step, from which the random numbers follow.

    Returns:
        Inputs of shape (batch, 3, patch, patch), HU targets of shape (batch, 1, patch, patch).
    """
    rng = np.random.default_rng([settings.seed, step])
    weights = np.sqrt([len(piece.slices) for piece in seen])
    patches = []
    for n in rng.choice(len(seen), settings.batch, p=weights / weights.sum()):
        piece = seen[n]
        k = int(rng.choice(piece.slices))
        both = _cut(piece.images[:, k], settings.patch, piece.wanted[k], rng).astype(np.float32)
        both[0] *= rng.uniform(0.95, 1.05)  # one volume's percentile is not another's
        patches.append(np.ascontiguousarray(both[..., :: rng.choice((-1, 1))]))
    images = torch.from_numpy(np.stack(patches))
    return images[:, :3].contiguous(), images[:, 3:].contiguous()


def _cut(images: np.ndarray, size: int, wanted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A square of [channel, j, i].

    One in two holds a voxel of ``wanted`` [j, i], the others lie anywhere.

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
        self,
        settings: SyntheticCTSettings,
        names: list[str],
        device: torch.device | str = "cpu",
        start: models.Model | None = None,
    ):
        torch.manual_seed(settings.seed)
        self.device = torch.device(device)
        network = networks.build("voxel_unet", **_architecture(settings)).to(
            self.device, memory_format=torch.channels_last
        )
        if start is not None:
            begin_with(network, start.network)
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
        weight = 1 + (s.bone_weight - 1) * ((hu - 100) / 200).clamp(0, 1)
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
        network = networks.build("voxel_unet", **_architecture(self.settings))
        network.load_state_dict(self.averaged_state())
        return network.eval().requires_grad_(False)


def _architecture(settings: SyntheticCTSettings) -> dict:
    return {
        "dimensions": 2,
        "in_channels": 3,
        "out_channels": 1,
        "features": list(settings.features),
    }


def make_card(
    scan_names: Iterable[str], settings: SyntheticCTSettings, start: models.Model | None = None
) -> models.Card:
    """The card of a model trained on scans of these names.

    Figures are added by ``evaluate`` (``models.record_quality``).
    """
    names = tuple(sorted(scan_names))
    values = {k: str(v) if isinstance(v, list) else v for k, v in plain(settings).items()}
    if start is not None:
        values["begun with"] = f"{start.card.name}, SHA-256 {start.sha256[:16]}"
    size_multiple = 2 ** (len(settings.features) - 1)
    return models.Card(
        name="Dixon to synthetic CT",
        version="1",
        architecture="voxel_unet",
        arguments=_architecture(settings),
        inputs=INPUTS,
        outputs=OUTPUTS,
        dimensions=2,
        orientation="LPS",
        spacing_mm=settings.spacing_mm,
        size_multiple=size_multiple,
        trained_on=names,
        sources=_sources(names),
        licence="MIT",
        intended_use=INTENDED_USE,
        training=values,
    )


def _sources(names: tuple[str, ...]) -> str:
    others = [name for name in names if name not in KNOWN_PEOPLE]
    if not all(SLICE_OF_PERSON.fullmatch(name) for name in others):
        return "CT of the person who trained it"
    parts = (SOURCES, len(others) < len(names)), (VOLUME_SOURCES, bool(others))
    return " ".join(part for part, used in parts if used)
