"""Error left by the ideal input on held-out 96 x 96 regions, from every start, and the source's
three observations.

python Testing/benchmarks/regions.py [--regions 2] [--evaluations 500]
"""

from __future__ import annotations

import argparse
import time

import common
import numpy as np

from NetInversionLib.ideal_input import ideal_input
from NetInversionLib.ideal_input.settings import STARTS, Settings

# Median and worst relative error asked for, in percent of the patient input's.
BARS = {"patient": (12, 20), "zeros": (20, 30), "noise": (20, 30)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--regions", type=int, default=2, help="per person")
    parser.add_argument("--evaluations", type=int, default=500)
    options = parser.parse_args()
    rows = [row for person in common.PEOPLE for row in measure(person, options)]
    report(rows, options)


def measure(person: str, options) -> list[dict]:
    volumes, body = common.case_volumes(person)
    model, rows = common.held_out_model(person), []
    for region in common.regions(body, options.regions):
        for box in (False, True):
            settings = Settings(
                starts=STARTS,
                max_evaluations=options.evaluations,
                region=region,
                context=0,
                box=box,
                validity=False,
                knobs=False,
            )
            began = time.perf_counter()
            result = ideal_input(volumes, {"network": model}, settings)
            error = result.tables["error"].columns
            for n, start in enumerate(error["input"][1:], 1):
                rows.append(
                    {
                        "person": person,
                        "region": region,
                        "start": start,
                        "box": box,
                        "patient_hu": error["MAE everything (HU)"][0],
                        "ideal_hu": error["MAE everything (HU)"][n],
                        "outside": share_outside(result, start, model),
                        "seconds": time.perf_counter() - began,
                        **observations(result, start),
                    }
                )
            print(
                person,
                region,
                "box" if box else "price",
                f"{error['MAE everything (HU)'][0]:.1f} HU ->",
                ", ".join(f"{v:.1f}" for v in error["MAE everything (HU)"][1:]),
                flush=True,
            )
    return rows


def share_outside(result, start: str, model) -> float:
    """Share of values beyond [-0.05, 1.05], in the network's units."""
    values = [
        (result.volumes[f"ideal {s['role']} {start}"].array - s["low"]) / (s["high"] - s["low"])
        for s in result.facts["scaling"]
    ]
    return float(np.mean([(v < -0.05) | (v > 1.05) for v in values]))


def observations(result, start: str) -> dict:
    """What the source saw by eye, as numbers, for this start."""
    table = result.tables["change"].columns

    def value(heading: str, channel: str, tissue: str = "everything") -> float:
        for n in range(len(table["start"])):
            if (table["start"][n], table["channel"][n], table["tissue"][n]) == (
                start,
                channel,
                tissue,
            ):
                return table[heading][n]
        return float("nan")

    return {
        "autocorrelation": [
            value("autocorrelation, ideal", c) for c in ("fat_fraction", "water_fraction")
        ],
        "autocorrelation_patient": [
            value("autocorrelation, patient's own", c) for c in ("fat_fraction", "water_fraction")
        ],
        "mean": [value("mean, ideal", c) for c in ("in_phase", "fat_fraction", "water_fraction")],
        "mean_patient": [
            value("mean, patient's own", c) for c in ("in_phase", "fat_fraction", "water_fraction")
        ],
        "correlation": [
            value("correlation with the patient's own", c)
            for c in ("fat_fraction", "water_fraction")
        ],
        "sharpness_bone": [
            value("gradient-energy ratio", c, "bone")
            for c in ("in_phase", "fat_fraction", "water_fraction")
        ],
    }


def report(rows: list[dict], options) -> None:
    count = len({(r["person"], tuple(r["region"])) for r in rows})
    lines = [
        (
            f"Ideal input on {count} held-out regions of {len(common.PEOPLE)} people,"
            f" {options.evaluations} evaluations"
        ),
        "",
        (
            "| start | bounds | median error left (%) | worst (%) | bar | beyond [-0.05, 1.05] (%)"
            " | median HU |"
        ),
        "|---|---|---|---|---|---|---|",
    ]
    for box in (False, True):
        for start in STARTS:
            mine = [r for r in rows if r["start"] == start and r["box"] == box]
            left = [100 * r["ideal_hu"] / r["patient_hu"] for r in mine]
            bar = "" if box else f"{BARS[start][0]} / {BARS[start][1]}"
            lines.append(
                f"| {start} | {'[0, 1]' if box else 'price'} | {np.median(left):.1f} |"
                f" {max(left):.1f} | {bar} | {100 * np.mean([r['outside'] for r in mine]):.3f} |"
                f" {np.median([r['patient_hu'] for r in mine]):.1f} ->"
                f" {np.median([r['ideal_hu'] for r in mine]):.1f} |"
            )
    lines += [
        "",
        "The source's observations (medians over regions, values kept in range by price):",
        "",
    ]

    def median(start: str, name: str) -> list[float]:
        return (
            np.nanmedian([r[name] for r in rows if r["start"] == start and not r["box"]], axis=0)
            .round(2)
            .tolist()
        )

    lines += [
        (
            "- noise start, fat and water stay noise-like: neighbour correlation"
            f" {median('noise', 'autocorrelation')} (patient's"
            f" {median('noise', 'autocorrelation_patient')})"
        ),
        (
            "- zeros start gives low intensities: mean of in-phase, fat, water"
            f" {median('zeros', 'mean')} (patient's {median('zeros', 'mean_patient')})"
        ),
        (
            "- patient start leaves fat and water nearly unchanged: correlation"
            f" {median('patient', 'correlation')}"
        ),
        (
            "- and sharpens in-phase near bone: gradient-energy ratio of in-phase, fat, water in"
            f" bone {median('patient', 'sharpness_bone')}"
        ),
    ]
    common.write("regions", {"rows": rows, "evaluations": options.evaluations}, lines)


if __name__ == "__main__":
    main()
