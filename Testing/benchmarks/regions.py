"""How much error the ideal input leaves on held-out regions, beside the unchanged input.

The regions are 96 x 96 voxels, and the search begins from every start. Also: what of the gain
survives a blur of a voxel, and the source's three observations.

python Testing/benchmarks/regions.py [--search near] [--evaluations 500 200 100] [--bounds price]
python Testing/benchmarks/regions.py --near 10 1 0.1 0.01     the third observation along the curve

Bars are those of the search "free", which looks for the least error at any price.
"""

from __future__ import annotations

import argparse
import time

import common
import numpy as np

from NetInversionLib.ideal_input import ideal_input
from NetInversionLib.ideal_input.reading import kept_of, start_words
from NetInversionLib.ideal_input.settings import OPTIMISERS, PRESETS, STARTS, Settings

# Median relative error asked of the search "free" by start, in percent of the patient input's, at
# evaluations.
BARS = {
    100: {"patient": 3, "zeros": 4, "noise": 3.5},
    200: {"patient": 1.8, "zeros": 1.8, "noise": 1.6},
    500: {"patient": 1, "zeros": 1, "noise": 1.1},
}
BOUNDS = {"price": (False,), "box": (True,), "both": (False, True)}
SEARCHES = ("free", "near")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--regions", type=int, default=2, help="per person")
    parser.add_argument("--evaluations", type=int, nargs="+", default=[500])
    parser.add_argument("--search", choices=SEARCHES, default="free")
    parser.add_argument("--seed", type=int, default=0, help="which regions")
    parser.add_argument("--starts", choices=STARTS, nargs="+", default=STARTS)
    parser.add_argument("--bounds", choices=BOUNDS, default="both")
    parser.add_argument("--optimiser", choices=OPTIMISERS[:2], default=OPTIMISERS[0])
    parser.add_argument(
        "--near", type=float, nargs="+", help="prices of leaving the patient's images, from there"
    )
    parser.add_argument("--optima", type=int, default=0, help="more inputs that are as good")
    parser.add_argument("--networks", choices=common.NETWORKS, default=common.NETWORKS[0])
    options = parser.parse_args()
    if options.near:
        options.starts, options.bounds, options.search = ("patient",), "price", "near"
        along(options)
        return
    lines, rows = [], []
    for evaluations in options.evaluations:
        found = [r for person in common.PEOPLE for r in measure(person, evaluations, options)]
        lines += [*report(found, evaluations, options), ""]
        rows += found
    common.write(f"regions-{options.search}", {"rows": rows}, lines[:-1])


def along(options) -> None:
    """Error left, change made and what the source saw, at each price of ``--near``."""
    evaluations = options.evaluations[0]
    lines = [
        "| price | error left (%) | change (times the noise) | correlation of fat, of water |"
        " gradient energy of in-phase in bone (x) | survives a blur (%) |",
        "|---|---|---|---|---|---|",
    ]
    kept = {}
    for near in options.near:
        rows = [r for p in common.PEOPLE for r in measure(p, evaluations, options, near=near)]
        kept[near] = rows
        left = np.median([100 * r["ideal_hu"] / r["patient_hu"] for r in rows])
        change = np.median([r["change"] for r in rows])
        fat, water = np.nanmedian([r["correlation"] for r in rows], axis=0)
        sharp = np.nanmedian([r["sharpness_bone"][0] for r in rows])
        survives = np.nanmedian([100 * r["survives_blur"] for r in rows])
        lines.append(
            f"| {near:g} | {left:.1f} | {change:.1f} | {fat:.2f}, {water:.2f} | {sharp:.1f} |"
            f" {survives:.0f} |"
        )
    common.write("regions-along", {"rows": kept}, lines)


def measure(person: str, evaluations: int, options, **more: float) -> list[dict]:
    """A row for each region, bounds and start of a person; ``more`` settings of the search."""
    volumes, body = common.case_volumes(person)
    model, rows = common.held_out_model(person, options.networks), []
    for region in common.regions(body, options.regions, options.seed):
        for box in BOUNDS[options.bounds]:
            settings = Settings(
                **{**PRESETS[options.search], **more},
                starts=tuple(options.starts),
                optimiser=options.optimiser,
                max_evaluations=evaluations,
                region=region,
                context=0,
                box=box,
                knobs=False,
                optima=options.optima,
            )
            began = time.perf_counter()
            result = ideal_input(volumes, {"network": model}, settings)
            error = result.tables["error"].columns
            shared = shared_by_all(result)
            for n, start in enumerate(options.starts, 1):
                rows.append(
                    {
                        "person": person,
                        "region": region,
                        "start": start,
                        "box": box,
                        "evaluations": evaluations,
                        "survives_blur": (kept_of(result.tables, start) or (np.nan, np.nan))[1],
                        "change": result.facts["change_in_noise"][start],
                        "patient_hu": error["MAE everything (HU)"][0],
                        "ideal_hu": error["MAE everything (HU)"][n],
                        "outside": share_outside(result, start, model),
                        "seconds": time.perf_counter() - began,
                        "shared": shared,
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


def shared_by_all(result) -> dict[str, float]:
    """Figures of inputs that are as good, by name; {} if they were not asked for."""
    if "optima" not in result.tables:
        return {}
    columns = result.tables["optima"].columns
    shared = zip(columns["channel"], columns["shared by all (%)"])
    facts, told = result.facts["optima"], {f"{name}, shared by all (%)": v for name, v in shared}
    more = {"error of each (HU)": facts["error"], "patient's (HU)": facts["own"]}
    return {**told, **more, "largest direction (%)": facts["components"][0]}


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
                start_words(start),
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


def report(rows: list[dict], evaluations: int, options) -> list[str]:
    """The table of a number of evaluations, and the observations, as lines."""
    count = len({(r["person"], tuple(r["region"])) for r in rows})
    lines = [
        (
            f"Ideal input (search {options.search}, {options.optimiser}) on {count} held-out"
            f" regions (seed {options.seed}) of {len(common.PEOPLE)} people, networks of the"
            f" {options.networks} training, {evaluations} evaluations"
        ),
        "",
        (
            "| start | bounds | median error left (%) | worst (%) | bar | of the gain survives a"
            " blur of a voxel, median (%) | least (%) | change (times the noise) | beyond"
            " [-0.05, 1.05] (%) | median HU |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|",
        (
            "| none: the patient's unchanged | - | 100 | 100 | - | - | - | 0 | - |"
            f" {np.median([r['patient_hu'] for r in rows]):.1f} |"
        ),
    ]
    for box in BOUNDS[options.bounds]:
        for start in options.starts:
            mine = [r for r in rows if r["start"] == start and r["box"] == box]
            left = [100 * r["ideal_hu"] / r["patient_hu"] for r in mine]
            bars = BARS.get(evaluations, {}) if options.search == "free" else {}
            survives = [100 * r["survives_blur"] for r in mine]
            lines.append(
                f"| {start} | {'[0, 1]' if box else 'price'} | {np.median(left):.1f} |"
                f" {max(left):.1f} | {bars.get(start, '-')} | {np.nanmedian(survives):.0f} |"
                f" {np.nanmin(survives):.0f} | {np.median([r['change'] for r in mine]):.1f} |"
                f" {100 * np.mean([r['outside'] for r in mine]):.3f} |"
                f" {np.median([r['patient_hu'] for r in mine]):.1f} ->"
                f" {np.median([r['ideal_hu'] for r in mine]):.1f} |"
            )
    return [*lines, *_as_good(rows), *observed(rows, options)]


def _as_good(rows: list[dict]) -> list[str]:
    """Figures of inputs that are as good, as lines: median over regions, least and most."""
    told = [r["shared"] for r in rows if r["shared"]]
    if not told:
        return []
    lines = ["", "Inputs that are as good:", ""]
    for name in told[0]:
        values = [one[name] for one in told]
        lines.append(f"- {name}: {np.median(values):.1f} ({min(values):.1f} to {max(values):.1f})")
    return lines


def observed(rows: list[dict], options) -> list[str]:
    """The source's observations on these rows, as lines; those of starts that there are."""
    lines = [
        "",
        f"The source's observations (medians over regions, bounds by {options.bounds}):",
        "",
    ]

    def median(start: str, name: str) -> list[float]:
        return (
            np.nanmedian(
                [
                    r[name]
                    for r in rows
                    if r["start"] == start and r["box"] == BOUNDS[options.bounds][0]
                ],
                axis=0,
            )
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
    words = {"noise": lines[-4], "zeros": lines[-3], "patient": lines[-2]}
    unseen = [line for start, line in words.items() if start not in options.starts]
    if "patient" not in options.starts:
        unseen.append(lines[-1])
    return [line for line in lines if line not in unseen]


if __name__ == "__main__":
    main()
