"""Every network family of the field: how well its small example reconstructs people that it has not
seen, beside what needs no network; what it lacked, what it adds, and what it does not look at.

python Testing/benchmarks/families.py [--models FOLDER] [--rows NAME ...]

Rows that are not built, or not trained, are said to be.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import common
import numpy as np
import torch

from NetInversionLib import models
from NetInversionLib.core import files
from NetInversionLib.families import analysis, kspace, quality, rows, slices, training
from NetInversionLib.ideal_input import ideal_input
from NetInversionLib.ideal_input.settings import Settings
from NetInversionLib.training import people

DATA = Path(os.environ.get("NETINVERSION_DATA", common.ROOT.parent / "shared" / "data"))
PEOPLE = DATA / "brain_t1" / "site_a"
BAR = 3.0
"""dB above the zero-filled image, asked of every row that reconstructs."""
EVALUATIONS = 60
"""Of the network, in the search of an ideal input: along what was measured, at no price."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=Path, default=common.ROOT / "Resources" / "Models")
    parser.add_argument("--rows", nargs="+", choices=[one.name for one in rows.ROWS])
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    lines, facts, scans = [], {}, {}
    for row in rows.ROWS:
        if options.rows and row.name not in options.rows:
            continue
        path = options.models / f"family-{row.name}.safetensors"
        if not row.built:
            lines.append(f"- {row.title} ({row.source}): not built")
        elif not row.learnt:
            facts[row.name] = without_learning(scans)
        elif not path.exists():
            lines.append(
                f"- {row.title} ({row.source}): built, not trained: netinversion train family"
                f" {row.name} FOLDER --output {path.name}"
            )
        else:
            facts[row.name] = measure(path, scans)
        print(row.name, flush=True)
    common.write("families", facts, [*table(facts), "", *lines])


def left_out(card: models.Card | None, scans: dict) -> dict[str, kspace.Scan]:
    """The scans of the people that a model has not seen; of those of the first by default."""
    settings = training.FamilySettings()
    if card is not None:
        told = card.training
        settings = training.FamilySettings(
            **{n: told[n] for n in ("size", "spacing_mm", "acceleration", "centre", "noise")}
        )
    if settings not in scans:
        found = people.find_scans(PEOPLE) if PEOPLE.is_dir() else {}
        if not found:
            sys.exit(f"This benchmark needs {PEOPLE}: set NETINVERSION_DATA to the folder above.")
        names = sorted(found)[-(len(found) // 5) :]
        scans[settings] = {
            name: slices.judged_scan(
                slices.slices_of(
                    files.load(found[name][0]), name, settings.size, settings.spacing_mm
                ),
                settings,
            )
            for name in names
        }
    seen = set(card.trained_on) if card else set()
    return {name: scan for name, scan in scans[settings].items() if name not in seen}


def without_learning(scans: dict) -> dict:
    """The row without a network: total variation."""
    row: dict = {"decibels": [], "peers": {"zero-filled": []}}
    began = time.process_time()
    for scan in left_out(None, scans).values():
        image = quality.total_variation(scan)
        row["decibels"] += quality.psnr(image, scan.image)
        row["peers"]["zero-filled"] += quality.psnr(quality.zero_filled(scan), scan.image)
        row.setdefault("hallucination", []).extend(
            vars(one) for one in analysis.hallucination(scan, image)
        )
    return {**row, "milliseconds": 1e3 * (time.process_time() - began) / len(row["decibels"])}


def measure(path: Path, scans: dict) -> dict:
    """All figures of a model."""
    model = models.load(path)
    reconstruct = analysis.of_network(model.network)
    row: dict = {"file_kb": path.stat().st_size / 1e3, "decibels": [], "milliseconds": 0.0}
    row["peers"] = {name: [] for name in quality.PEERS}
    several: dict = {"hallucination": [], "acquisition": [], "lost": [], "people": []}
    for name, scan in left_out(model.card, scans).items():
        began = time.process_time()
        images = reconstruct(scan.measured, scan.mask)
        row["milliseconds"] += 1e3 * (time.process_time() - began)
        found = quality.psnr(images, scan.image)
        row["decibels"] += found
        for peer, made in quality.PEERS.items():
            row["peers"][peer] += quality.psnr(made(scan), scan.image)
        several["people"] += [name] * len(found)
        several["hallucination"] += [vars(one) for one in analysis.hallucination(scan, images)]
        middle = part(scan, len(found) // 2)  # what tries every line looks at one slice of each
        several["acquisition"] += [
            vars(one) for one in analysis.ideal_acquisition(reconstruct, middle, 1)
        ]
        several["lost"] += analysis.lost(analysis.line_answers(reconstruct, middle))
    row["milliseconds"] /= len(row["decibels"])
    row["ideal input"] = ideal(model, middle)
    return {**row, **several}


def part(scan: kspace.Scan, number: int) -> kspace.Scan:
    """One of a scan's slices."""
    one = slice(number, number + 1)
    return kspace.Scan(scan.image[one], scan.measured[one], scan.mask[one], scan.complete[one])


def ideal(model: models.Model, scan: kspace.Scan) -> tuple[float, float]:
    """Mean absolute error with the k-space that was measured, and with the ideal one (% of range).

    Only measured lines can change anything.
    """
    spacing = model.card.spacing_mm[0]
    volumes = kspace.as_volumes(scan, spacing, slices.SLICE_STEP_MM)
    settings = Settings(
        near=0.0,
        blurred=0.0,
        locked=("sampling",),
        optimiser="lbfgs",
        max_evaluations=EVALUATIONS,
        validity=False,
        knobs=False,
    )
    with torch.enable_grad():
        result = ideal_input(volumes, {"network": model}, settings)
    columns = result.tables["error"].columns
    heading = next(name for name in columns if name.startswith("MAE everything"))
    return float(columns[heading][0]), float(columns[heading][1])


HEADINGS = (
    "family",
    "PSNR in the head (dB)",
    "zero-filled",
    "total variation",
    f"bar of {BAR:g} dB above zero-filled",
    "error left by the ideal k-space (%)",
    "best line to add (dB)",
    "line nearest the middle (dB)",
    "any line (dB)",
    "added by the network: in the null space (%)",
    "error there (1: adding nothing)",
    "agreement there",
    "contradicts the measured (%)",
    "directions lost to the scanner (%)",
    "to the network beside (%)",
    "ms an image",
    "file (kB)",
)


def table(facts: dict) -> list[str]:
    """The rows that are measured, as lines."""
    lines = [
        "Means over slices of people left out; one slice of each person where lines are tried.",
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|---" * len(HEADINGS) + "|",
    ]
    for name, row in facts.items():
        gain = np.mean(row["decibels"]) - np.mean(row["peers"]["zero-filled"])
        asked = rows.row(name).learnt
        values = [
            rows.row(name).title if asked else "No learning: total variation",
            f"{np.mean(row['decibels']):.1f}",
            f"{np.mean(row['peers']['zero-filled']):.1f}",
            f"{np.mean(row['peers']['total variation']):.1f}" if asked else "-",
            f"{gain:+.1f}" + (f" {'met' if gain >= BAR else 'NOT met'}" if asked else ""),
            _left(row),
            *(_mean(row, "acquisition", key, "+.2f") for key in ("gains", "usual", "any")),
            _mean(row, "hallucination", "hidden", ".0f", 100),
            _mean(row, "hallucination", "error", ".2f"),
            _mean(row, "hallucination", "agreement", ".2f"),
            _mean(row, "hallucination", "contradiction", ".1f", 100),
            *(_share(row, place) for place in (0, 1)),
            f"{row['milliseconds']:.0f}",
            f"{row['file_kb']:.0f}" if "file_kb" in row else "-",
        ]
        lines.append("| " + " | ".join(values) + " |")
    return lines


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
