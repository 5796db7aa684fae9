"""Writes what Testing/benchmarks/families.py found into Resources/Docs/Families.md, and draws one
picture of each row; or how far total variation and an unrolled network come in so many iterations.

python Testing/benchmarks/families_page.py [--no-pictures] [--iterations]

Between the page's marks stands the part of the table that a reader of the two surveys wants; a row
that families.py did not measure keeps no line. Pictures are of the first person left out.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import common
import families
import numpy as np
import torch
from PIL import Image

from NetInversionLib import models
from NetInversionLib.core import files
from NetInversionLib.families import analysis, quality, question, report, rows, sample
from NetInversionLib.families.kspace import Scan
from NetInversionLib.families.operators import Fourier, Gradient
from NetInversionLib.families.reconstruction import Reconstruction
from NetInversionLib.families.settings import FamilySettings
from NetInversionLib.families.solvers import Sparse, admm

PAGE = common.ROOT / "Resources" / "Docs" / "Families.md"
PICTURES = common.ROOT / "Resources" / "Screenshots"
BEGIN, END = "<!-- families.py: begin -->", "<!-- families.py: end -->"
HEADINGS = (
    "family",
    "network",
    "trivial",
    "best without a network",
    "adds, of it in the null space (%)",
    "error there (1: adding nothing)",
    "contradicts (%)",
    "lost beside the scanner (%)",
    "spot shown (%)",
    "error left by the ideal input (%)",
)
SHOWN = ("given", "image", "truth", "added", "miss")
WIDTH = 900
"""Pixels of a picture."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=Path, default=common.ROOT / "Resources" / "Models")
    parser.add_argument("--no-pictures", dest="pictures", action="store_false")
    parser.add_argument("--iterations", action="store_true")
    parser.add_argument(
        "--facts",
        type=Path,
        nargs="+",
        default=[common.OUTPUT / "families.json"],
        help="what runs of families.py found, of different rows",
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.iterations:
        iterations(options.models)
        return
    facts: dict = {}
    for path in options.facts:
        facts |= json.loads(path.read_text(encoding="utf-8"))
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    for path in sorted(options.models.glob("family-*.safetensors")) if options.pictures else ():
        draw(path, PICTURES / f"{path.stem}.png")
    lines = [BEGIN, *table(facts), "", *pictures(), END]
    PAGE.write_text(before + "\n".join(lines) + after, encoding="utf-8")
    print("\n".join(lines))


def pictures() -> list[str]:
    """The pictures that are there, as Markdown."""
    lines = []
    for row in rows.ROWS:
        name = f"family-{row.name}.png"
        if (PICTURES / name).exists():
            lines += [f"{row.title}:", "", f"![{row.title}](../Screenshots/{name})", ""]
    return lines


def iterations(folder: Path) -> None:
    """PSNR of people left out by steps that look at what was measured, and seconds an image."""
    settings = FamilySettings()
    people = families.left_out(None, settings, {})
    scans = list(Reconstruction().judged(people, settings).values())
    ways: dict[str, Callable[[Scan], torch.Tensor]] = {}
    for steps in (1, 3, 10, 40, 160):
        ways[f"total variation by ADMM, {steps} iterations"] = partial(varied, steps=steps)
    for name in ("unrolled-shared", "unrolled-separate", "deep-cascade", "plug-and-play"):
        path = folder / f"family-{name}.safetensors"
        if path.exists():
            network = models.load(path).network
            arguments = rows.row(name).arguments
            steps = arguments.get("steps", arguments.get("cascades"))
            ways[f"{rows.row(name).title}: {steps} steps"] = partial(reconstructed, network)
    for name, way in ways.items():
        began = time.process_time()
        with torch.no_grad():
            found = [value for one in scans for value in quality.psnr(way(one), one.image)]
        seconds = (time.process_time() - began) / len(found)
        print(f"| {name} | {np.mean(found):.1f} | {1e3 * seconds:.0f} |", flush=True)


def varied(scan: Scan, steps: int) -> torch.Tensor:
    """Total variation after so many iterations, (N, H, W)."""
    prior = Sparse(quality.TV_WEIGHT, Gradient(tuple(scan.mask.shape[1:])))
    return admm(Fourier(scan.mask), scan.measured, [prior], penalty=0.1, iterations=steps)


def reconstructed(network: torch.nn.Module, scan: Scan) -> torch.Tensor:
    """A network's images, (N, H, W)."""
    return analysis.of_network(network)(scan.measured, scan.mask)


def table(facts: dict) -> list[str]:
    """The table of rows that were measured, as Markdown."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|---" * len(HEADINGS) + "|"]
    for name, row in facts.items():
        peers = {peer: float(np.mean(values)) for peer, values in row["peers"].items()}
        first, best = next(iter(peers), ""), max(peers, key=lambda one: peers[one], default="")
        values = [
            rows.row(name).title if rows.row(name).learnt else "no learning: total variation",
            f"{np.mean(row['decibels']):.1f}",
            f"{first} {peers[first]:.1f}" if first else "-",
            f"{best} {peers[best]:.1f}" if best else "-",
            families._mean(row, "hallucination", "hidden", ".0f", 100),
            families._mean(row, "hallucination", "error", ".2f"),
            families._mean(row, "hallucination", "contradiction", ".1f", 100),
            families._share(row, 1),
            f"{100 * np.mean(row['shown']):.0f}" if "shown" in row else "-",
            families._left(row),
        ]
        lines.append("| " + " | ".join(values) + " |")
    return lines


def draw(path: Path, picture: Path) -> None:
    """What a row is given, makes of it, the truth, what it adds and where it errs."""
    model = models.load(path)
    names = str(model.card.training["left out"]).split(", ")
    brains = [files.load(families.PEOPLE / f"{name}.nii.gz") for name in names[:2]]
    found = question.ask(sample.sample_for(model.card, *brains), model)
    sheet = Image.open(io.BytesIO(report.sheet(found, SHOWN, wide=len(SHOWN)))).convert("RGB")
    small = sheet.resize((WIDTH, round(sheet.height * WIDTH / sheet.width)))
    small.quantize(96, dither=Image.Dither.NONE).save(picture, optimize=True)
    print(picture, picture.stat().st_size)


if __name__ == "__main__":
    main()
