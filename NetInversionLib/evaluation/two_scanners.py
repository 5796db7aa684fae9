"""One real scanner's people harmonized to another's: are the two groups alike, and people kept?

There is no truth here. Asked is how far distributions lie apart beside the target's own people,
whether a classifier still tells the scanners, and whether what is true of a person stays so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core import files
from ..core.progress import Progress
from ..core.results import Table, table_of_rows
from ..harmonize import matching, similarity
from ..harmonize import scan as harmonize_scan
from ..harmonize.matching import Method
from ..harmonize.scan import Scan
from . import biology, site_classifier
from .comparison import over_people, person, read, timed
from .pictures import HISTOGRAM_BINS

TARGET, SOURCE = "target", "source"
MEASURED = [
    "Wasserstein",
    "white/grey contrast",
    "grey/CSF contrast",
    "edge agreement",
    "slice score",
    "time (s)",
]
PERSON_HEADINGS = ["person", "scan", "method", *MEASURED, *biology.LABEL_HEADINGS]
KINDS = {"histogram": ("histogram",), "histogram and texture": ("histogram", "texture")}
KEPT = {
    "white matter's value": "white value",
    "fitted share of CSF": "fitted CSF share",
}
"""What should hang on the ventricles' share after harmonization as it did before, by name."""


@dataclass(frozen=True)
class TwoScanners:
    """What was found, as tables.

    Attributes:
        people: A row per scan and method (``PERSON_HEADINGS``), the target's own scans included as
            method "target": their Wasserstein distance is to the mean of the other people's.
        means: A row per method, the first being the target.
        sites: A row per method, what the site classifier tells and ComBat estimates; the first row
            is what chance reaches.
        kept: A row per method and measurement: its correlation with the ventricles' share; None
            without labels.
        histograms: By method, of shape (130,), mean shares of 0 to 1.3.
    """

    people: Table
    means: Table
    sites: Table
    kept: Table | None
    histograms: dict[str, np.ndarray]


def prospective(
    sources: Sequence[Path],
    targets: Sequence[Path],
    methods: Mapping[str, Method],
    labels: Path | None = None,
    progress: Progress | None = None,
    seeds: int = site_classifier.SEEDS,
) -> TwoScanners:
    """Harmonize one scanner's people to another's, and ask how alike the two groups are.

    Args:
        sources: Files of the scanner that is harmonized.
        targets: Files of the other scanner's people.
        methods: By name, from a scaled scan to the scaled image [k, j, i]; one is "source".
        labels: Folder with region labels (MUSE numbers, or 1, 2, 3 for CSF, grey, white) in files
            named as the sources.
        progress: Receives progress.
        seeds: Trainings of the site classifier.
    """
    progress = progress or Progress()
    rows, looks = _target_rows(targets, progress)
    own = np.mean([look["quantiles"] for look in looks], axis=0)
    seen = {TARGET: looks}
    for n, path in enumerate(sources):
        progress.report(0.3 + 0.6 * n / len(sources), f"source: {files.scan_name(path)}")
        scan = read(path)
        known = biology.read_labels(scan, files.load(labels / path.name)) if labels else None
        for name, method in methods.items():
            image, seconds = timed(method, scan)
            harmonized = scan.with_image(image)
            look = _look(harmonized)
            seen.setdefault(name, []).append(look)
            measured = (
                similarity.wasserstein(look["quantiles"], own),
                *look["tissues"].contrasts,
                similarity.edge_agreement(image, scan.image, scan.mask),
                similarity.slice_score(image, scan.image, scan.mask),
                seconds,
            )
            found = biology.in_labels(harmonized, known, look["tissues"])
            rows.append((person(path), files.scan_name(path), name, *measured, *found))
    progress.report(0.9, "site classifier")
    people = table_of_rows("Two scanners, by person", PERSON_HEADINGS, rows)
    whose = [person(path) for path in (*targets, *sources)]
    return TwoScanners(
        people,
        _means(people, list(seen)),
        _sites(seen, whose, seeds),
        _kept(people, list(methods)) if labels else None,
        {name: np.mean([look["histogram"] for look in looks], 0) for name, looks in seen.items()},
    )


def _target_rows(targets: Sequence[Path], progress: Progress) -> tuple[list[tuple], list[dict]]:
    """Rows of the target's own scans, and what ``_look`` sees in each."""
    looks = []
    for n, path in enumerate(targets):
        progress.report(0.3 * n / len(targets), f"target: {files.scan_name(path)}")
        looks.append(_look(read(path)))
    own = np.array([look["quantiles"] for look in looks])
    unmeasured = [np.nan] * (len(MEASURED) + len(biology.LABEL_HEADINGS) - 3)
    rows: list[tuple] = [
        (
            person(path),
            files.scan_name(path),
            TARGET,
            distance,
            *look["tissues"].contrasts,
            *unmeasured,
        )
        for path, look, distance in zip(targets, looks, _distances_to_others(own, targets))
    ]
    return rows, looks


def _distances_to_others(quantiles: np.ndarray, paths: Sequence[Path]) -> list[float]:
    """Of each scan, (scans, 513), the Wasserstein distance to the mean of the other people's.

    NaN where there are none.
    """
    people = np.array([person(path) for path in paths])
    return [
        (
            similarity.wasserstein(own, quantiles[people != whose].mean(axis=0))
            if (people != whose).any()
            else np.nan
        )
        for own, whose in zip(quantiles, people)
    ]


def _look(scan: Scan) -> dict:
    counts = np.histogram(scan.inside, HISTOGRAM_BINS, (0, harmonize_scan.BRIGHTEST))[0]
    return {
        "quantiles": matching.quantiles(scan),
        "tissues": similarity.fit_tissues(scan.inside),
        "histogram": counts / scan.mask.sum(),
        "features": site_classifier.features(scan),
    }


# Tables ------------------------------------------------------------------------------------------


def _means(table: Table, methods: Sequence[str]) -> Table:
    """A row per method: medians of distances, and means over people."""
    picked = [key for key in table.columns if key not in ("person", "scan", "method")]
    rows = [
        (
            name,
            over_people(table, "Wasserstein", np.median, method=name),
            *(over_people(table, key, method=name) for key in picked),
        )
        for name in methods
    ]
    return table_of_rows("Two scanners", ["method", "median Wasserstein", *picked], rows)


def _sites(seen: Mapping[str, list[dict]], people: Sequence[str], seeds: int) -> Table:
    """A row per method: what the classifier tells, and the site effects of the tissues' means.

    ``people``: of targets, then of sources.
    """
    target = seen[TARGET]
    # Somebody who was on both scanners is left out of both at once.
    sites = np.array([0] * len(target) + [1] * (len(people) - len(target)))
    harmonized = {name: [*target, *looks] for name, looks in seen.items() if name != TARGET}
    told = {
        kind: site_classifier.told_apart(
            {name: _features(looks, of) for name, looks in harmonized.items()},
            sites.tolist(),
            people,
            seeds,
        )
        for kind, of in KINDS.items()
    }
    means = {name: _tissue_means(looks) for name, looks in harmonized.items()}
    effects = {name: site_classifier.site_effects(x, sites) for name, x in means.items()}
    effects["chance"] = _effects_by_chance(means[SOURCE], sites, np.array(people), seeds)
    rows = [
        (name, *(value for kind in KINDS for value in _of(told[kind][name])), *effects[name])
        for name in ("chance", *harmonized)
    ]
    headings = [
        f"{kind}: {what}"
        for kind in KINDS
        for what in ("trained anew", "least", "most", "trained on the source")
    ]
    return table_of_rows(
        "How well the scanners are told apart (0.5 is guessing)",
        ["method", *headings, "additive site effect (sd)", "multiplicative site effect"],
        rows,
    )


def _features(looks: Sequence[dict], of: Sequence[str]) -> np.ndarray:
    return np.array([np.concatenate([look["features"][one] for one in of]) for look in looks])


def _tissue_means(looks: Sequence[dict]) -> np.ndarray:
    return np.array([look["tissues"].means for look in looks])


def _of(told: site_classifier.Told) -> tuple[float, float, float, float]:
    frozen = float(np.mean(told.frozen)) if told.frozen else float("nan")
    return float(np.mean(told.anew)), min(told.anew), max(told.anew), frozen


def _effects_by_chance(
    means: np.ndarray, sites: np.ndarray, people: np.ndarray, seeds: int
) -> tuple[float, float]:
    """The mean of both effects with sites given at random: few people differ, whatever they are."""
    random = np.random.default_rng(0)
    drawn = [site_classifier.shuffled(sites, people, random) for _ in range(max(seeds, 2))]
    found = np.array([site_classifier.site_effects(means, one) for one in drawn])
    return float(found[:, 0].mean()), float(found[:, 1].mean())


def _kept(table: Table, methods: Sequence[str]) -> Table:
    """A row per method and measurement; people with several scans count each scan."""
    columns = {key: np.array(values) for key, values in table.columns.items()}

    def of(name: str, key: str) -> np.ndarray:
        return columns[key][columns["method"] == name].astype(float)

    rows = [
        (what, name, *biology.kept(of(name, "ventricle share"), of(SOURCE, key), of(name, key)))
        for what, key in KEPT.items()
        for name in methods
    ]
    return table_of_rows(
        "What hangs on the ventricles' share",
        ["measurement", "method", "correlation", "after - before", "from", "to"],
        rows,
    )
