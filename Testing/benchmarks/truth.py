"""What Invariances says of a low-dose CT whose normal dose is known, and what it says without that.

python Testing/benchmarks/truth.py [--model NAME] [--side 64] [--samples 64] [--projected 8]

The middle slice of a chest CT that no shipped model was trained on, and the same at a quarter of
the dose, simulated. d' of nodules in the body's middle, with noise drawn on the truth, and on what
the denoiser makes of the low-dose image, as where there is no truth. Then how often the truth lies
inside the maps of a square around them.
"""

from __future__ import annotations

import argparse

import common
import numpy as np
import torch

from NetInversionLib import models
from NetInversionLib.core import files, volumes
from NetInversionLib.core.results import Table
from NetInversionLib.core.volumes import Volume
from NetInversionLib.invariances import experiments, invariances, low_dose, observer, reading
from NetInversionLib.invariances.settings import Settings

SHIPPED = common.ROOT / "Resources" / "Models"
DOSE = 0.25


def chest() -> tuple[Volume, Volume, tuple[int, int]]:
    """A slice at normal and at low dose, and (j, i) of the body's middle."""
    whole = volumes.reorient(files.load(common.DATA / "chest_b40f.nii.gz"), "LPS")
    k = whole.shape[0] // 2
    normal = volumes.crop(whole, (k, k + 1, 0, whole.shape[1], 0, whole.shape[2]))
    low = low_dose.simulate_low_dose(normal, low_dose.LowDoseSettings(dose=DOSE, views=360))
    j, i = (round(x) for x in np.argwhere(normal.array[0] > -500).mean(0))
    return normal, low, (j, i)


def seen(low: Volume, normal: Volume | None, model: models.Model, settings: Settings) -> Table:
    """The table of lesions; none is hidden, which would take long."""
    cpu = torch.device("cpu")
    return experiments.lesion(low, model, settings, 1e9, cpu, normal=normal)[0]


def lines_of(table: Table, background: str) -> list[str]:
    """A line for each nodule, and how denoising compares."""
    columns = [table.values("diameter"), table.values("contrast")]
    for way in observer.WAYS:
        pairs = zip(table.values(f"d' {way}"), table.values(f"standard error of d' {way}"))
        columns.append([f"{value:.1f} ± {error:.1f}" for value, error in pairs])
    columns.append(table.values(observer.IN_WORDS))
    rows = [f"| {background} | {' | '.join(map(str, row))} |" for row in zip(*columns)]
    told = {"lesions": table}
    return [*rows, "", " ".join([*reading.seen(told), reading.compared(told)]), ""]


def covered(
    low: Volume, normal: Volume, model: models.Model, settings: Settings
) -> tuple[dict, list[str]]:
    """How often the truth lies inside the maps, and what it changes the output by."""
    found = invariances({"low_dose": low, "normal_dose": normal}, {"denoiser": model}, settings)
    table = found.tables["coverage"].columns
    truth = found.tables["proof"].values("reference: the normal-dose image")[0]
    lines = [f"| {' | '.join(table)} |", "|---" * len(table) + "|"]
    for name, *shares in zip(*table.values()):
        lines.append(f"| {name} | {' | '.join(f'{share:.0f}' for share in shares)} |")
    limit = found.facts["epsilon"]
    lines.append(f"\nThe truth changes the output by {truth:.1f} HU; {limit:.1f} are the limit.")
    return {**table, "truth (HU)": truth, "limit (HU)": limit}, lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="level-cnn10")
    parser.add_argument("--side", type=int, default=64, help="of the square, voxels")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--projected", type=int, default=8)
    options = parser.parse_args()
    model = models.load(SHIPPED / f"ct-denoiser-{options.model}.safetensors")
    normal, low, (j, i) = chest()
    point = tuple(float(x) for x in (low.ijk_to_ras @ (i, j, 0, 1))[:3])
    half = options.side // 2
    asked = Settings(lesion=point, max_evaluations=1, device="cpu")
    ways = " | ".join(observer.WAYS)
    lines = [f"| noise drawn on | mm | HU | {ways} | in words |", "|---" * 8 + "|"]
    facts: dict = {}
    for background, truth in (("the truth", normal), ("the denoised image", None)):
        table = seen(low, truth, model, asked)
        facts[background] = table.columns
        lines += lines_of(table, background)
        print("\n".join(lines), flush=True)
    square = Settings(
        region=(0, 1, j - half, j + half, i - half, i + half),
        samples=options.samples,
        projected=options.projected,
        device="cpu",
    )
    facts["coverage"], more = covered(low, normal, model, square)
    common.write("truth", facts, lines + more)


if __name__ == "__main__":
    main()
