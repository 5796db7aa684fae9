"""The reference network: Dixon MR to synthetic CT, trained on Dixon images simulated from real CT
(``dixon.py``).

A 2-D U-Net over axial slices. ``train`` makes one model, ``evaluate`` measures models on people
they were not trained on, beside two predictors that look at no neighbourhood.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from . import models, networks, volumes
from .dixon import DixonSettings, body_mask, simulate_arrays
from .results import Progress, Table
from .training import Group, State, plain, run
from .volumes import Volume

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

# Several scans of one person must be left out together. These are the development data's names; a
# folder with a people.csv (columns file,person) is read by that, and any other file is a person of
# its own.
KNOWN_PEOPLE = {
    "pelvis": "pelvis",
    "abdomen_slab": "pelvis",
    "upper_abdomen": "upper_abdomen",
    "chest_b70f": "chest",
    "chest_b40f": "chest",
}


SOURCES = (
    "pelvis, abdomen_slab, upper_abdomen: TotalSegmentator CT (Wasserthal et al., Radiology: Artificial Intelligence "
    "2023;5:e230024), Apache-2.0. chest_b70f, chest_b40f: Lung-PET-CT-Dx (Li et al., The Cancer Imaging Archive 2020, "
    "doi:10.7937/TCIA.2020.NNC2-0461; Clark et al., J Digit Imaging 2013;26:1045), CC BY 4.0. The Dixon images are "
    "simulated from these CTs."
)
INTENDED_USE = (
    "Research and demonstration only, not for diagnosis or treatment. It was trained on a handful of CT scans and on "
    "Dixon images SIMULATED from them, never on an acquired MR image."
)


@dataclass(frozen=True)
class TrainSettings:
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

    steps: int = 1200
    batch: int = 8
    patch: int = 96
    features: tuple[int, ...] = (16, 32, 64, 128)
    learning_rate: float = 2e-3
    bone_weight: float = 3.0
    average: float = 0.995
    bf16_share: float = 0.9
    spacing_mm: tuple[float, float] = (2.0, 4.0)
    seed: int = 0
    checkpoint_every: int = 100


@dataclass
class Scan:
    """One CT ready for use: axial slices [k, j, i], LPS, cut to the body, table removed, HU clipped
    to the range.
    """

    name: str
    person: str
    hu: np.ndarray
    body: np.ndarray
    spacing_mm: tuple[float, float, float]


def read_people(folder: Path | str) -> dict[Path, str]:
    """CT files of a folder and the person each shows; label maps (``*_labels``) are passed over.

    Raises:
        ValueError: No CT file there, or people.csv names a file that is not there.
    """
    folder = Path(folder)
    files = {_stem(p): p for p in sorted(folder.glob("*")) if _is_image(p)}
    if not files:
        raise ValueError(f"no CT volume (.nii, .nii.gz, .nrrd, .mha) in {folder}")
    people = {stem: KNOWN_PEOPLE.get(stem, stem) for stem in files}
    table = folder / "people.csv"
    if table.exists():
        with open(table, newline="", encoding="utf-8") as lines:
            people = {_stem(Path(row["file"])): row["person"] for row in csv.DictReader(lines)}
        missing = sorted(set(people) - set(files))
        if missing:
            raise ValueError(
                f"{table} names files that are not in the folder: {', '.join(missing)}"
            )
    return {files[stem]: person for stem, person in people.items()}


def read_scans(folder: Path | str) -> list[Scan]:
    """Every CT of ``folder``, as ``prepare`` makes it."""
    return [
        prepare(volumes.load(path), _stem(path), person)
        for path, person in read_people(folder).items()
    ]


def prepare(ct: Volume, name: str, person: str) -> Scan:
    """A CT volume [k, j, i] in any orientation (HU) as axial LPS slices of the body alone."""
    ct = volumes.reorient(volumes.check(ct), "LPS")
    hu = ct.float32()
    body = body_mask(hu, ct.spacing_mm)
    if not body.any():
        raise ValueError(f"{name}: no body found (nothing denser than -300 HU); is it a CT in HU?")
    _, j, i = np.nonzero(body)
    box = (slice(None), slice(j.min(), j.max() + 1), slice(i.min(), i.max() + 1))
    hu = np.where(body, hu, np.float32(HU_LOW)).clip(HU_LOW, HU_HIGH)
    return Scan(
        name, person, np.ascontiguousarray(hu[box]), np.ascontiguousarray(body[box]), ct.spacing_mm
    )


def resampled(scan: Scan, spacing_mm: float, slices=slice(None), smooth: bool = True) -> Scan:
    """``scan`` (or some of its slices) at another in-plane voxel size, first smoothed to it where
    that is coarser.
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
    scans: list[Scan],
    output: Path | str,
    settings: TrainSettings = TrainSettings(),
    checkpoint: Path | str | None = None,
    progress: Progress = Progress(),
    device: torch.device | str = "cpu",
) -> Path:
    """Train on ``scans`` and write the model file.

    Args:
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
    return models.save(output, state.averaged(), make_card(scans, settings))


def draw_batch(scans: list[Scan], settings: TrainSettings, step: int) -> tuple[Tensor, Tensor]:
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
    scan: Scan, settings: TrainSettings, rng: np.random.Generator
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
        self, settings: TrainSettings, names: list[str], device: torch.device | str = "cpu"
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


def _architecture(settings: TrainSettings) -> dict:
    return {
        "dimensions": 2,
        "in_channels": 3,
        "out_channels": 1,
        "features": list(settings.features),
    }


def make_card(scans: list[Scan], settings: TrainSettings) -> models.Card:
    """The card of a model trained on ``scans``; figures are added by ``evaluate``
    (``models.record_quality``).
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


# Evaluation ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One person's scan at the working spacing, its simulated Dixon images, and where the body is.

    ``images`` float32 [3, k, j, i] in the order of ``INPUTS``, scanner units; ``hu`` clipped to the
    network's range.
    """

    scan: Scan
    images: np.ndarray

    @property
    def hu(self) -> np.ndarray:
        return self.scan.hu


def make_case(scan: Scan, settings: DixonSettings = DixonSettings(), seed: int = 0) -> Case:
    """``scan`` at the working spacing, with air around it, as a Dixon scan sees it."""
    scan = resampled(scan, WORKING_SPACING_MM)
    around = ((0, 0), (12, 12), (12, 12))
    scan = replace(
        scan, hu=np.pad(scan.hu, around, constant_values=HU_LOW), body=np.pad(scan.body, around)
    )
    return Case(
        scan, simulate_arrays(scan.hu, scan.spacing_mm, settings, np.random.default_rng(seed))
    )


def evaluate(
    scans: list[Scan], trained: list[models.Model], seed: int = 0, progress: Progress | None = None
) -> Table:
    """Mean absolute error in HU on people that a model was not trained on, beside two trivial
    predictors.

    Every model is measured on every person of whom it saw no scan, as a Dixon scan of default
    settings sees them; the predictors are fitted on the scans that it did see:

    - "constant": the median HU of the body wherever the body is (which it is told), air elsewhere;
    - "voxel by voxel": the median HU of the training voxels with like in-phase, fat and water
      values; the scans' settings are drawn as in training;
    - "voxel by voxel, settings known": the same, fitted on scans of exactly the settings it is
      tested on, which no network is given.

    Returns:
        A row per model and scan, and at the end the mean over people: columns "model", "person",
        "scan", "predictor", "MAE in the body (HU)", "MAE in bone (HU)" (above 200 HU), "mean error
        in bone (HU)".

    Raises:
        ValueError: No model leaves any of these people out.
    """
    progress = progress or Progress()
    rows = []
    for number, model in enumerate(trained):
        seen = {s.person for s in scans if s.name in model.card.trained_on}
        fit = [s for s in scans if s.person in seen]
        tests = [s for s in scans if s.person not in seen]
        if not tests or not fit:
            progress.log(f"{model.path.name}: leaves nobody of this folder out; passed over")
            continue
        predictors = {"network": predictor(model), **_trivial_predictors(fit, model, seed)}
        for scan in tests:
            progress.report(number / len(trained), f"{model.path.name} on {scan.name}")
            case = make_case(scan, seed=seed)
            rows += [
                (model.path.stem, scan.person, scan.name, name, *_errors(case, predict(case)))
                for name, predict in predictors.items()
            ]
    if not rows:
        raise ValueError(
            "every model was trained on every person of the folder: train with --leave-out first"
        )
    return Table(
        "Synthetic CT of people left out", dict(zip(COLUMNS, map(list, zip(*rows, *_means(rows)))))
    )


COLUMNS = (
    "model",
    "person",
    "scan",
    "predictor",
    "MAE in the body (HU)",
    "MAE in bone (HU)",
    "mean error in bone (HU)",
)


def quality(table: Table) -> dict:
    """The closing means of ``evaluate`` as facts for a model's card."""
    columns = table.columns
    facts = {
        "how": "mean absolute error in HU, leave one person out, mean over people, "
        f"simulated Dixon, {WORKING_SPACING_MM:g} mm in plane",
        "people left out": ", ".join(sorted(set(columns["person"]) - {"all"})),
    }
    for n, person in enumerate(columns["person"]):
        if person == "all":
            for where in COLUMNS[4:]:
                facts[f"{columns['predictor'][n]}: {where}"] = round(columns[where][n], 1)
    return facts


def predictor(model: models.Model):
    """A function from ``Case`` to predicted HU [k, j, i]."""

    device = next(model.network.parameters()).device

    def predict(case: Case) -> np.ndarray:
        images = model.as_images(list(case.images))
        images = model.normalise_tensor(images, model.scalings_of(images))
        with torch.no_grad():
            # A few slices at a time: memory does not grow with the volume.
            output = torch.cat([model(part.to(device)).cpu() for part in images.split(8)])
        return model.denormalise_output(output)[:, 0].numpy()

    return predict


def _trivial_predictors(fit: list[Scan], model: models.Model, seed: int) -> dict:
    rng = np.random.default_rng(seed + 1)
    known = [make_case(s, seed=seed + 1) for s in fit]
    drawn = [make_case(s, DixonSettings.drawn(rng), seed + 2 + n) for s in fit for n in range(4)]
    return {
        "constant": _constant(known),
        "voxel by voxel": _voxelwise(drawn, model),
        "voxel by voxel, settings known": _voxelwise(known, model),
    }


def _constant(fit: list[Case]):
    tissue = float(np.median(np.concatenate([c.hu[c.scan.body] for c in fit])))
    return lambda case: np.where(case.scan.body, np.float32(tissue), np.float32(HU_LOW))


def _voxelwise(fit: list[Case], model: models.Model):
    """Median HU of the training voxels in the same cell of a 24 x 16 x 16 grid over the normalised
    channels.
    """
    cells = np.concatenate([_cells(c, model) for c in fit])
    hu = np.concatenate([c.hu.ravel() for c in fit])
    order = np.lexsort((hu, cells))
    cells, hu = cells[order], hu[order]
    occupied, first, count = np.unique(cells, return_index=True, return_counts=True)
    table = np.full(24 * 16 * 16, float(np.median(hu)), np.float32)
    table[occupied] = hu[first + count // 2]
    return lambda case: table[_cells(case, model)].reshape(case.hu.shape)


def _cells(case: Case, model: models.Model) -> np.ndarray:
    images = model.as_images(list(case.images))
    values = (
        model.normalise_tensor(images, model.scalings_of(images)).transpose(0, 1).flatten(1).numpy()
    )
    a, b, c = (np.clip((v * n).astype(int), 0, n - 1) for v, n in zip(values, (24, 16, 16)))
    return (a * 16 + b) * 16 + c


def _errors(case: Case, predicted: np.ndarray) -> tuple[float, float, float]:
    body, error = case.scan.body, predicted - case.hu
    bone = body & (case.hu > BONE_HU)
    if not bone.any():
        return float(np.abs(error[body]).mean()), math.nan, math.nan
    return (
        float(np.abs(error[body]).mean()),
        float(np.abs(error[bone]).mean()),
        float(error[bone].mean()),
    )


def _means(rows: list[tuple]) -> list[tuple]:
    """Per predictor: the mean over people of the mean over each person's scans."""
    means = []
    for name in dict.fromkeys(r[3] for r in rows):
        people = {
            p: np.mean([r[4:] for r in rows if r[3] == name and r[1] == p], 0)
            for p in {r[1] for r in rows}
        }
        means.append(
            ("all", "all", "mean over people", name, *map(float, np.mean(list(people.values()), 0)))
        )
    return means


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rsplit(".", 1)[0]


def _is_image(path: Path) -> bool:
    return path.name.endswith((".nii", ".nii.gz", ".nrrd", ".mha")) and not _stem(path).endswith(
        "_labels"
    )
