"""Every network family of the field: how good its small example is on people that it has not seen,
beside what needs no network; what it lacked, what it adds, and what it does not look at.

python Testing/benchmarks/families.py [--models FOLDER] [--rows NAME ...]

Rows that are not built, or not trained, are said to be.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import common
import families_elsewhere
import numpy as np
import torch

from NetInversionLib import models
from NetInversionLib.core import files
from NetInversionLib.families import analysis, directions, kspace, quality, rows, slices, training
from NetInversionLib.families.operators import Coarse
from NetInversionLib.families.reconstruction import Reconstruction
from NetInversionLib.families.restoration import FACTOR, Pair, SuperResolution
from NetInversionLib.families.settings import FamilySettings
from NetInversionLib.families.synthesis import Synthesis, nearest
from NetInversionLib.families.tasks import Task
from NetInversionLib.ideal_input import ideal_input
from NetInversionLib.ideal_input.settings import Settings
from NetInversionLib.networks.reconstruction import IMAGE_RANGE
from NetInversionLib.training import people

DATA = Path(os.environ.get("NETINVERSION_DATA", common.ROOT.parent / "shared" / "data"))
PEOPLE = DATA / "brain_t1" / "site_a"
BAR = 3.0
"""dB above the zero-filled image, asked of every row that reconstructs. ``BEYOND_TRIVIAL`` must be
better than the first peer, synthesis than none, others than every one.
"""
BEYOND_TRIVIAL = rows.REGISTRATION, rows.TRANSLATION, rows.TUMOURS
EVALUATIONS = 60
"""Of the network, in the search of an ideal input: along what was measured, at no price."""
SPOT_MM, SPOT_HEIGHT = 3.0, 0.2
"""Standard deviation and height of a small spot; the brightest tissue is 1."""
CUBE, CUBE_CHANGED = 32, 4
"""Voxels along each side of a volume's middle that is looked at, and of what is changed of it."""
SQUARE = 16
"""The same of what is changed of a slice."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=Path, default=common.ROOT / "Resources" / "Models")
    parser.add_argument("--rows", nargs="+", choices=[one.name for one in rows.ROWS])
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    lines, facts, people_read = [], {}, {}
    for row in rows.ROWS:
        if options.rows and row.name not in options.rows:
            continue
        path = options.models / f"family-{row.name}.safetensors"
        if not row.built:
            lines.append(f"- {row.title} ({row.source}): not built")
        elif not row.learnt:
            facts[row.name] = without_learning(people_read)
        elif not path.exists():
            lines.append(
                f"- {row.title} ({row.source}): built, not trained: netinversion train family"
                f" {row.name} FOLDER --output {path.name}"
            )
        else:
            facts[row.name] = measure(row, path, people_read)
            lines += families_elsewhere.told(row, path, DATA)
        print(row.name, flush=True)
    common.write("families", facts, [*table(facts), "", *lines])


def left_out(
    card: models.Card | None, settings: FamilySettings, read: dict, dimensions: int = 2
) -> list[slices.Slices]:
    """The people that a model has not seen; the last fifth for what is not learnt.

    Args:
        card: Of the model, or None.
        settings: How large slices are.
        read: Those that were read before; more are put in.
        dimensions: 3 for cubes instead of slices.
    """
    found = sorted(scans())
    chosen = found[-(len(found) // 5) :]
    names = [name for name in chosen if card is None or name not in card.trained_on]
    return read_people(names, settings, read, dimensions)


def scans() -> dict:
    """All people's files."""
    found = people.find_scans(PEOPLE) if PEOPLE.is_dir() else {}
    if not found:
        sys.exit(f"This benchmark needs {PEOPLE}: set NETINVERSION_DATA to the folder above.")
    return found


def read_people(
    names, settings: FamilySettings, read: dict, dimensions: int
) -> list[slices.Slices]:
    """People's slices, or cubes; each is read once."""
    found, take = scans(), slices.cube_of if dimensions == 3 else slices.slices_of
    for name in names:
        asked = name, settings.size, settings.spacing_mm, dimensions
        if asked not in read:
            read[asked] = take(files.load(found[name][0]), name, *asked[1:3])
    return [read[name, settings.size, settings.spacing_mm, dimensions] for name in names]


def peers_of(task: Task, card: models.Card, settings: FamilySettings, read: dict) -> dict:
    """What needs no network; some of it looks at everybody who was trained on."""
    if type(task).peers_of is Task.peers_of:
        return task.peers
    return task.peers_of(read_people(card.trained_on, settings, read, task.dimensions), settings)


def without_learning(read: dict) -> dict:
    """The row without a network: total variation."""
    settings = FamilySettings()
    row: dict = {"decibels": [], "peers": {"zero-filled": []}, "hallucination": []}
    began = time.process_time()
    for scan in Reconstruction().judged(left_out(None, settings, read), settings).values():
        image = quality.total_variation(scan)
        row["decibels"] += quality.psnr(image, scan.image)
        row["peers"]["zero-filled"] += quality.psnr(quality.zero_filled(scan), scan.image)
        row["hallucination"] += [vars(one) for one in analysis.hallucination(scan, image)]
    return {**row, "milliseconds": 1e3 * (time.process_time() - began) / len(row["decibels"])}


def measure(row: rows.Row, path: Path, read: dict) -> dict:
    """All figures of a model."""
    model, task = models.load(path), training.TASKS[row.recipe]
    told = {n: model.card.training[n] for n in ("size", "spacing_mm", *task.uses)}
    settings = training.settings_for(row.name, **told)
    peers = peers_of(task, model.card, settings, read)
    found: dict = {
        "file_kb": path.stat().st_size / 1e3,
        "decibels": [],
        "milliseconds": 0.0,
        "peers": {name: [] for name in peers},
        "people": [],
    }
    unseen = left_out(model.card, settings, read, task.dimensions)
    for name, trial in task.judged(unseen, settings).items():
        began = time.process_time()
        images = task.made(model.network, trial)
        found["milliseconds"] += 1e3 * (time.process_time() - began)
        decibels = task.scores(images, trial.image)
        found["decibels"] += decibels
        for peer, made in peers.items():
            found["peers"][peer] += task.scores(made(trial), trial.image)
        found["people"] += [name] * len(decibels)
        middle = part(trial, len(decibels) // 2)  # what asks often looks at one slice of each
        for what, values in invariances(task, model, trial, images, middle).items():
            found.setdefault(what, []).extend(values)
    found["milliseconds"] /= len(found["decibels"])
    found["ideal input"] = ideal(model, task, middle)
    return found


def part(trial: Any, number: int) -> Any:
    """One of a trial's slices, or the middle of one of its volumes."""
    every = {one.name: getattr(trial, one.name) for one in fields(trial)}
    kept = {n: v[number : number + 1] for n, v in every.items() if isinstance(v, torch.Tensor)}
    if trial.given.ndim == 5:
        kept = {name: middle_of(values) for name, values in kept.items()}
    return replace(trial, **kept)


def middle_of(volumes: torch.Tensor) -> torch.Tensor:
    """The middle of volumes (N, K, J, I), at a place that coarse voxels begin at."""
    for axis in (1, 2, 3):
        length = min(CUBE, volumes.shape[axis])
        volumes = volumes.narrow(axis, (volumes.shape[axis] - length) // 4 * 2, length)
    return volumes


def invariances(task, model, trial, images, middle) -> dict[str, list]:
    """What a network adds that was not measured, and what it does not show, as lists to join."""
    if "sampling" in task.held:
        return of_kspace(task, model, trial, images, middle)
    if isinstance(task, Synthesis):
        latents = nearest(model.network, middle.image)
        answered = directions.answers(
            lambda x: model.network.generate(x[:, 0]), latents, side=model.network.cells
        )
        return {"lost": [directions.lost(answered / answered.max())]}
    given, side = middle.given[0], CUBE_CHANGED if task.dimensions == 3 else SQUARE
    spot = directions.spot(given.shape[1:], SPOT_MM / model.card.spacing_mm[0], SPOT_HEIGHT)
    found = {
        "lost": [directions.lost(directions.answers(model.network, given, side=side))],
        "shown": [directions.shown(model.network, given, spot / IMAGE_RANGE)],
    }
    if isinstance(task, SuperResolution):
        found["hallucination"] = [vars(one) for one in beyond_the_coarse(trial, images)]
    return found


def beyond_the_coarse(pair: Pair, images: torch.Tensor) -> list[analysis.Hallucination]:
    """What super-resolved images have that the coarse ones do not."""
    operator = Coarse(FACTOR, pair.image.shape[1:])
    three = zip(pair.image, pair.coarse, images)
    return [analysis.hallucinated(operator, truth, coarse, image) for truth, coarse, image in three]


def of_kspace(task, model, scan, images, middle) -> dict[str, list]:
    """The same of what reconstructs."""
    if isinstance(task, Reconstruction):
        reconstruct, known = analysis.of_network(model.network), scan
    else:
        reconstruct = analysis.of_coils(model.network)
        known = kspace.Scan(scan.coil_images, scan.measured, scan.mask, scan.complete)
        images = model.network.coil_images(scan.measured, scan.mask)
    best = analysis.ideal_acquisition(reconstruct, middle, 1)
    return {
        "hallucination": [vars(one) for one in analysis.hallucination(known, images)],
        "acquisition": [vars(one) for one in best],
        "lost": analysis.lost(analysis.line_answers(reconstruct, middle)),
    }


def ideal(model: models.Model, task, trial) -> tuple[float, float]:
    """Mean absolute error with the input as it was, and with the ideal one (% of range)."""
    settings = Settings(
        near=0.0,
        blurred=0.0,
        locked=task.held,
        optimiser="lbfgs",
        max_evaluations=EVALUATIONS,
        validity=False,
        knobs=False,
    )
    volumes = task.volumes(trial, model.card.spacing_mm[0])
    with torch.enable_grad():
        result = ideal_input(volumes, {"network": model}, settings)
    columns = result.tables["error"].columns
    heading = next(name for name in columns if name.startswith("MAE everything"))
    return float(columns[heading][0]), float(columns[heading][1])


# The table ----------------------------------------------------------------------------------------

HEADINGS = (
    "family",
    "PSNR in the head (dB), or Dice (%)",
    "without a network (the same)",
    "above the trivial, above the best",
    "bar",
    "error left by the ideal input (%)",
    "best line to add (dB)",
    "line nearest the middle (dB)",
    "any line (dB)",
    "added by the network: in the null space (%)",
    "error there (1: adding nothing)",
    "agreement there",
    "contradicts the measured (%)",
    "directions lost to the scanner (%)",
    "to the network beside (%)",
    "of a small spot shown (%)",
    "ms an image",
    "file (kB)",
)


def table(facts: dict) -> list[str]:
    """The rows that are measured, as lines."""
    lines = [
        "Means over slices of people left out; one slice of each person where lines are tried,",
        f"directions counted or a spot of {SPOT_MM:g} mm added. Bar: {BAR:g} dB above zero-filled;"
        " registration, translation and tumours above the trivial, synthesis none, others above"
        " every peer. Synthesis is judged by the nearest image that it can make; its directions are"
        " its latents, beside the one that is answered to most.",
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|---" * len(HEADINGS) + "|",
    ]
    for name, row in facts.items():
        values = [
            rows.row(name).title if rows.row(name).learnt else "No learning: total variation",
            f"{np.mean(row['decibels']):.1f}",
            ", ".join(f"{peer} {np.mean(values):.1f}" for peer, values in row["peers"].items()),
            *_gains(name, row),
            _left(row),
            *(_mean(row, "acquisition", key, "+.2f") for key in ("gains", "usual", "any")),
            _mean(row, "hallucination", "hidden", ".0f", 100),
            _mean(row, "hallucination", "error", ".2f"),
            _mean(row, "hallucination", "agreement", ".2f"),
            _mean(row, "hallucination", "contradiction", ".1f", 100),
            *(_share(row, place) for place in (0, 1)),
            f"{100 * np.mean(row['shown']):.0f}" if "shown" in row else "-",
            f"{row['milliseconds']:.0f}",
            f"{row['file_kb']:.0f}" if "file_kb" in row else "-",
        ]
        lines.append("| " + " | ".join(values) + " |")
    return lines


def _gains(name: str, row: dict) -> tuple[str, str]:
    """How far above the peers it is, and whether that is enough."""
    own, peers = np.mean(row["decibels"]), [np.mean(one) for one in row["peers"].values()]
    gains = f"{own - peers[0]:+.1f}, {own - max(peers):+.1f}"
    if not rows.row(name).learnt:
        return gains, "-"
    recipe = rows.row(name).recipe
    if recipe == rows.SYNTHESIS:
        return gains, "-"
    if "sampling" in training.TASKS[recipe].held:
        met = own >= peers[0] + BAR
    else:
        met = own > (peers[0] if recipe in BEYOND_TRIVIAL else max(peers))
    return gains, "met" if met else "NOT met"


def _mean(row: dict, part: str, key: str, form: str, times: float = 1.0) -> str:
    if part not in row:
        return "-"
    return format(times * float(np.mean([one[key] for one in row[part]])), form)


def _share(row: dict, place: int) -> str:
    return f"{100 * np.mean([one[place] for one in row['lost']]):.0f}" if "lost" in row else "-"


def _left(row: dict) -> str:
    if "ideal input" not in row:
        return "-"
    before, after = row["ideal input"]
    return f"{100 * after / before:.0f}"


if __name__ == "__main__":
    main()
