"""How well a network predicts CT, beside predictors that a child could write."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from .. import models
from ..core.progress import Progress
from ..core.results import Table
from ..ideal_input.dixon import DixonSettings, simulate_arrays
from ..training.synthetic_ct import BONE_HU, HU_HIGH, HU_LOW, WORKING_SPACING_MM, resampled

if TYPE_CHECKING:
    from ..training.synthetic_ct import CTScan


# Evaluation ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeldOutCase:
    """One person's scan at the working spacing, its simulated Dixon images, and where the body is.

    ``images`` float32 [3, k, j, i] in the order of ``INPUTS``, scanner units; ``hu`` clipped to the
    network's range.
    """

    scan: CTScan
    images: np.ndarray

    @property
    def hu(self) -> np.ndarray:
        return self.scan.hu


def make_case(
    scan: CTScan,
    settings: DixonSettings = DixonSettings(),
    seed: int = 0,
    spacing_mm: float = WORKING_SPACING_MM,
) -> HeldOutCase:
    """``scan`` at a voxel size, with air around it, as a Dixon scan sees it."""
    scan = resampled(scan, spacing_mm)
    around = ((0, 0), (12, 12), (12, 12))
    scan = replace(
        scan, hu=np.pad(scan.hu, around, constant_values=HU_LOW), body=np.pad(scan.body, around)
    )
    return HeldOutCase(
        scan, simulate_arrays(scan.hu, scan.spacing_mm, settings, np.random.default_rng(seed))
    )


def evaluate(
    scans: list[CTScan],
    trained: list[models.Model],
    seed: int = 0,
    progress: Progress | None = None,
) -> Table:
    """Mean absolute error on people that a model was not trained on, in HU.

    Predictors that look at no neighbourhood stand beside it.

    Every model is measured on every person of whom it saw no scan, as a Dixon scan of default
    settings sees them; the predictors are fitted on the scans that it did see:

    - "constant": the median HU of the body wherever the body is (which it is told), air elsewhere;
    - "linear regression": least squares on the three normalised images of the same scans as next;
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
    rows: list[tuple] = []
    known: dict = {}
    for number, model in enumerate(trained):
        seen = {s.person for s in scans if s.name in model.card.trained_on}
        fit = [s for s in scans if s.person in seen]
        tests = [s for s in scans if s.person not in seen]
        if not tests or not fit:
            progress.log(f"{model.path.name}: leaves nobody of this folder out; passed over")
            continue
        by_name = predictors(fit, model, seed, known, progress)
        for scan in tests:
            progress.report(number / len(trained), f"{model.path.name} on {scan.name}")
            case = make_case(scan, seed=seed)
            rows += [
                (model.path.stem, scan.person, scan.name, name, *_errors(case, predict(case)))
                for name, predict in by_name.items()
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
    """The figures of ``evaluate`` as facts for a model's card.

    They are the closing means, and each person's beside the trivial predictors'.
    """
    columns = table.columns
    people = sorted(set(columns["person"]) - {"all"})
    facts = {
        "how": "mean absolute error in HU, leave one person out, mean over people, "
        f"simulated Dixon, {WORKING_SPACING_MM:g} mm in plane",
        "people left out": ", ".join(people),
    }
    for n, person in enumerate(columns["person"]):
        if person == "all":
            for where in COLUMNS[4:]:
                facts[f"{columns['predictor'][n]}: {where}"] = round(columns[where][n], 1)
    for where in COLUMNS[4:6]:
        means = people_means(table, where)
        for person in people:
            figures = (f"{name} {means[person, name]:.1f}" for name in PREDICTORS)
            facts[f"{person}: {where}"] = ", ".join(figures)
    return facts


def people_means(table: Table, column: str) -> dict[tuple[str, str], float]:
    """One column of ``evaluate`` by person and predictor: the mean over the person's scans."""
    found: dict[tuple[str, str], list[float]] = {}
    rows = zip(table.columns["person"], table.columns["predictor"], table.columns[column])
    for person, name, value in rows:
        found.setdefault((person, name), []).append(value)
    return {key: float(np.mean(values)) for key, values in found.items()}


def below(table: Table) -> dict[str, tuple[int, int]]:
    """Of how many people the network's error is below the look-up's, and of how many there are.

    Returns:
        By column: mean absolute error in the body, and in bone.
    """
    people = set(table.columns["person"]) - {"all"}
    found = {}
    for where in COLUMNS[4:6]:
        means = people_means(table, where)
        won = sum(means[p, "network"] < means[p, "voxel by voxel"] for p in people)
        found[where] = won, len(people)
    return found


def predictor(model: models.Model) -> Callable[[HeldOutCase], np.ndarray]:
    """A function from ``HeldOutCase`` to predicted HU [k, j, i]."""
    device = next(model.network.parameters()).device

    def predict(case: HeldOutCase) -> np.ndarray:
        images = model.as_images(list(case.images))
        images = model.normalise_tensor(images, model.scalings_of(images))
        with torch.no_grad():
            # A few slices at a time: memory does not grow with the volume.
            output = torch.cat([model(part.to(device)).cpu() for part in images.split(8)])
        return model.denormalise_output(output)[:, 0].numpy()

    return predict


PREDICTORS = (
    "network",
    "constant",
    "linear regression",
    "voxel by voxel",
    "voxel by voxel, settings known",
)
CELLS = (24, 16, 16)
BIN_HU = 5.0
_BINS = int((HU_HIGH - HU_LOW) / BIN_HU)


def predictors(
    fit: list[CTScan],
    model: models.Model,
    seed: int = 0,
    known: dict | None = None,
    progress: Progress | None = None,
) -> dict[str, Callable[[HeldOutCase], np.ndarray]]:
    """The network and the trivial predictors by name, each from a case to HU [k, j, i].

    The trivial ones are fitted on ``fit``; what was counted of a scan stays in ``known``.
    """
    known, progress = {} if known is None else known, progress or Progress()
    for scan in fit:
        key = (scan.name, model.card.inputs)
        if key not in known:
            progress.report(0.0, f"looking at {scan.name}")
            known[key] = _looked_at(scan, model, seed)
    bodies, exact, drawn = zip(*(known[scan.name, model.card.inputs] for scan in fit))
    return {
        "network": predictor(model),
        "constant": _constant(bodies),
        "linear regression": _linear(drawn, model),
        "voxel by voxel": _voxelwise(drawn, model),
        "voxel by voxel, settings known": _voxelwise(exact, model),
    }


def _looked_at(scan: CTScan, model: models.Model, seed: int) -> tuple[np.ndarray, Counts, Counts]:
    """The body's HU; what is counted of the scan with the test's settings, and with drawn ones."""
    rng = np.random.default_rng([seed + 1, *scan.name.encode()])
    exact = make_case(scan, seed=seed + 1)
    drawn = [make_case(scan, DixonSettings.drawn(rng), seed + 2 + n) for n in range(4)]
    counts = sum((Counts.of(case, model) for case in drawn), Counts())
    return exact.hu[exact.scan.body], Counts.of(exact, model), counts


@dataclass(frozen=True)
class Counts:
    """What the predictors need to know of cases; of several cases together the sum.

    Attributes:
        places, times: Which pairs of cell and HU bin occur (numbers ``cell * bins + bin``), and
            how often; each of shape (n,).
        moments: Sum of ``x x'``, x being 1, the three normalised values and the HU, (5, 5).
    """

    places: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    times: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    moments: np.ndarray = field(default_factory=lambda: np.zeros((5, 5)))

    @classmethod
    def of(cls, case: HeldOutCase, model: models.Model) -> Counts:
        """What is counted of one case."""
        values, hu = _normalised(case, model), case.hu.ravel()
        bins = ((hu - HU_LOW) / BIN_HU).astype(np.int64).clip(0, _BINS - 1)
        places, times = np.unique(_cells(values) * _BINS + bins, return_counts=True)
        rows = np.stack([np.ones_like(hu), *values, hu]).astype(np.float64)
        return cls(places, times, rows @ rows.T)

    def __add__(self, other: Counts) -> Counts:
        places, at = np.unique(np.concatenate([self.places, other.places]), return_inverse=True)
        times = np.bincount(at, np.concatenate([self.times, other.times]), len(places))
        return Counts(places, times.astype(np.int64), self.moments + other.moments)


def _constant(bodies: Sequence[np.ndarray]):
    tissue = float(np.median(np.concatenate(bodies)))
    return lambda case: np.where(case.scan.body, np.float32(tissue), np.float32(HU_LOW))


def _linear(counts: Sequence[Counts], model: models.Model):
    """Least squares with an offset, clipped to the range."""
    moments = sum(counts, Counts()).moments
    offset, *weights = np.linalg.lstsq(moments[:4, :4], moments[:4, 4], rcond=None)[0]

    def predict(case: HeldOutCase) -> np.ndarray:
        hu = offset + np.tensordot(weights, _normalised(case, model), 1)
        return hu.clip(HU_LOW, HU_HIGH).reshape(case.hu.shape)

    return predict


def _voxelwise(counts: Sequence[Counts], model: models.Model):
    """Median HU of the training voxels in the same cell of a grid over the channels.

    The grid is 24 x 16 x 16 over the normalised channels; medians are right to within a bin of 5
    HU.
    """
    total = sum(counts, Counts())
    table = np.zeros((math.prod(CELLS), _BINS))
    table.ravel()[total.places] = total.times
    everywhere = _medians(table.sum(0)[None])[0]
    medians = np.where(table.any(1), _medians(table), everywhere).astype(np.float32)
    return lambda case: medians[_cells(_normalised(case, model))].reshape(case.hu.shape)


def _medians(times: np.ndarray) -> np.ndarray:
    """The median of each row of a histogram over HU, [row, bin], linear inside the bin."""
    sums = times.cumsum(1)
    half = sums[:, -1:] / 2
    at = (sums >= half).argmax(1)[:, None]
    inside = np.take_along_axis(times, at, 1)
    before = np.take_along_axis(sums, at, 1) - inside
    return (HU_LOW + BIN_HU * (at + (half - before) / np.maximum(inside, 1)))[:, 0]


def _normalised(case: HeldOutCase, model: models.Model) -> np.ndarray:
    """The three images as the network sees them, [3, voxel]."""
    images = model.as_images(list(case.images))
    images = model.normalise_tensor(images, model.scalings_of(images))
    return images.transpose(0, 1).flatten(1).numpy()


def _cells(values: np.ndarray) -> np.ndarray:
    """The cell of each voxel, from its three values, [3, voxel]."""
    a, b, c = (np.clip((v * n).astype(np.int64), 0, n - 1) for v, n in zip(values, CELLS))
    return (a * CELLS[1] + b) * CELLS[2] + c


def _errors(case: HeldOutCase, predicted: np.ndarray) -> tuple[float, float, float]:
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
