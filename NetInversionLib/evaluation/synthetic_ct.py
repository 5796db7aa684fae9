"""How well a network predicts CT, beside predictors that a child could write."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from .. import models
from ..core.progress import Progress
from ..core.results import Table
from ..ideal_input.dixon import DixonSettings, simulate_arrays
from ..training.synthetic_ct import BONE_HU, HU_LOW, WORKING_SPACING_MM, resampled

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
    scan: CTScan, settings: DixonSettings = DixonSettings(), seed: int = 0
) -> HeldOutCase:
    """``scan`` at the working spacing, with air around it, as a Dixon scan sees it."""
    scan = resampled(scan, WORKING_SPACING_MM)
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

    Two trivial predictors stand beside it.

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


def _trivial_predictors(fit: list[CTScan], model: models.Model, seed: int) -> dict:
    rng = np.random.default_rng(seed + 1)
    known = [make_case(s, seed=seed + 1) for s in fit]
    drawn = [make_case(s, DixonSettings.drawn(rng), seed + 2 + n) for s in fit for n in range(4)]
    return {
        "constant": _constant(known),
        "voxel by voxel": _voxelwise(drawn, model),
        "voxel by voxel, settings known": _voxelwise(known, model),
    }


def _constant(fit: list[HeldOutCase]):
    tissue = float(np.median(np.concatenate([c.hu[c.scan.body] for c in fit])))
    return lambda case: np.where(case.scan.body, np.float32(tissue), np.float32(HU_LOW))


def _voxelwise(fit: list[HeldOutCase], model: models.Model):
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


def _cells(case: HeldOutCase, model: models.Model) -> np.ndarray:
    images = model.as_images(list(case.images))
    values = (
        model.normalise_tensor(images, model.scalings_of(images)).transpose(0, 1).flatten(1).numpy()
    )
    a, b, c = (np.clip((v * n).astype(int), 0, n - 1) for v, n in zip(values, (24, 16, 16)))
    return (a * 16 + b) * 16 + c


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
