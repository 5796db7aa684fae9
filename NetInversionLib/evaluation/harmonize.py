"""Measure harmonization on simulated scanners, between two real ones, between two visits.

On simulated scanners the truth is known.

A method takes a scaled source scan and gives the scaled result on the same grid. All evaluations
take named methods, so that ours and the classical peers (``intensity_matching.peers``) stand in the
same table; scans are read one at a time. People may have several scans (``person``): these stay
together wherever some people are judged by others, and a mean over people counts each person once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..core import files, meaning, volumes
from ..core.keys import Column
from ..core.progress import Progress
from ..core.results import Table, table_of_rows
from ..core.volumes import Volume
from ..harmonize import matching, similarity, simulated_scanners
from ..harmonize import scan as harmonize_scan
from ..harmonize.matching import Method
from ..harmonize.scan import Scan
from ..harmonize.simulated_scanners import UNCHANGED, Domain
from .comparison import Comparison, find_people, person, read
from .pictures import HISTOGRAM_BINS, draw_families, draw_histograms
from .visits import repeatability

MEASURES = {Column("PSNR", "dB"): similarity.psnr, "SSIM": similarity.ssim, "MAE": similarity.mae}
# Region numbers of MUSE/DLMUSE labels; every other one that is not 0 is grey matter.
MUSE_CSF = (1, 4, 11, 46, 49, 50, 51, 52)
MUSE_WHITE = (35, 40, 41, *range(81, 96))
# Columns of ``prospective``'s table with a row per scan and method.
PERSON_HEADINGS = [
    "person",
    "scan",
    "method",
    "Wasserstein",
    "white/grey contrast",
    "grey/CSF contrast",
    "white/grey in labels",
    "grey/CSF in labels",
    "CSF overlap",
    "grey overlap",
    "white overlap",
    "edge agreement",
    "slice score",
    "time (s)",
]


def compare_visits(
    visits: Sequence[str | Path],
    compared: Comparison,
    mask: str | Path | None,
    template: Sequence[str | Path] | None,
    progress: Progress,
) -> Iterator[tuple[Table, str]]:
    """How far apart two visits of a person are, as a table and its file name.

    Args:
        visits: The two volumes' files.
        compared: The methods.
        mask: File of the first visit's brain mask, or None.
        template: Files of a brain template and its brain mask, or None.
        progress: Receives what is done.

    Raises:
        ValueError: A volume cannot be used.
    """
    first, second = (files.load(path) for path in visits)
    brain = None
    if template:
        image, inside = (files.load(path) for path in template)
        brain = image, inside
    given = files.load(mask) if mask else None
    methods = compared.methods([], progress)
    yield repeatability(first, second, methods, given, brain), "visits"


def compare_scanners(
    source: str | Path,
    people: str,
    compared: Comparison,
    labels: str | Path | None,
    output: Path | None,
    progress: Progress,
) -> Iterator[tuple[Table, str]]:
    """One real scanner harmonized to another, as tables, each with a file name.

    Args:
        source: Folder of the scanner that is harmonized.
        people: Patterns of its people's names, see ``find_people``.
        compared: The methods, with the other scanner's folder as ``targets``.
        labels: Folder with region labels of the source's people, or None.
        output: A figure goes there, if named; the folder is made.
        progress: Receives what is done.

    Raises:
        ValueError: People or a volume cannot be used.
    """
    if compared.targets is None:
        raise ValueError("two scanners are compared: name the folder of the second too")
    sources = find_people(source, people)
    targets = find_people(compared.targets, compared.target_people)
    methods = compared.methods([], progress)
    table, means, histograms = prospective(
        sources, targets, methods, Path(labels) if labels else None, progress
    )
    if output:
        output.mkdir(parents=True, exist_ok=True)
        draw_histograms(histograms, output / "histograms.png")
    yield means, "prospective"
    yield table, "prospective_people"


def compare_simulated(
    folder: str | Path,
    people: str,
    domains: str,
    compared: Comparison,
    output: Path | None,
    progress: Progress,
) -> Iterator[tuple[Table, str]]:
    """The target's people on simulated scanners, harmonized, as tables, each with a file name.

    Args:
        folder: People of the target scanner.
        people: Patterns of the names of those who are evaluated, see ``find_people``.
        domains: List of simulated scanners, see ``simulated_scanners.parse``; "" for the standard
            ones.
        compared: The methods.
        output: Figures and a table by person go there, if named; the folder is made.
        progress: Receives what is done.

    Raises:
        ValueError: People, the list of domains, or a volume cannot be used.
    """
    evaluated = find_people(folder, people)
    shown = simulated_scanners.parse(domains) if domains else None
    methods = compared.methods(evaluated, progress)
    table = simulate(evaluated, methods, shown, progress)
    if output:
        output.mkdir(parents=True, exist_ok=True)
    for measure in MEASURES:
        name = Column.read(measure).name
        if output:
            draw_families(table, output / f"{name}.png", measure)
        yield family_means(table, measure), f"simulated_{name}"
    if output:
        yield table, "simulated_people"


# Simulated scanners -------------------------------------------------------------------------------


def simulate(
    people: Sequence[Path],
    methods: Mapping[str, Method],
    domains: Sequence[Domain] | None = None,
    progress: Progress | None = None,
) -> Table:
    """Show people as simulated scanners would, harmonize, compare with the truth in the mask.

    Args:
        people: Files of the target domain that no method has learnt from.
        domains: Default: the seven families, and the unchanged scan.

    Returns:
        A row for every scan, domain and method: PSNR in dB (peak 1.0), SSIM (range 1.0, 3-D, 7
        voxels), MAE (scaled units), and seconds.
    """
    domains = [*simulated_scanners.parse(), UNCHANGED] if domains is None else list(domains)
    progress = progress or Progress()
    rows = []
    for n, path in enumerate(people):
        truth = read(path)
        for m, domain in enumerate(domains):
            progress.report(
                (n + m / len(domains)) / len(people), f"{files.scan_name(path)}: {domain.name}"
            )
            seen = domain(truth)
            for name, method in methods.items():
                image, seconds = _timed(method, seen)
                measured = [
                    measure(image, truth.image, truth.mask) for measure in MEASURES.values()
                ]
                rows.append(
                    (person(path), files.scan_name(path), domain.name, name, *measured, seconds)
                )
    return table_of_rows(
        "Simulated scanners", ["person", "scan", "domain", "method", *MEASURES, "time (s)"], rows
    )


def family_means(table: Table, measure: str = "PSNR (dB)") -> Table:
    """A simulated evaluation's means over people.

    A row per domain, a column per method, and rows of means over domains.

    The mean of all domains, and the mean of those with a field, leave the unchanged scan out.
    """
    columns = table.columns
    domains, methods = (list(dict.fromkeys(columns[key])) for key in ("domain", "method"))
    means = {}
    for method in methods:
        cell = {d: _over_people(table, measure, domain=d, method=method) for d in domains}
        changed = [d for d in domains if d != UNCHANGED.name]
        spatial = [d for d in changed if simulated_scanners.parse(d)[0].spatial]
        cell |= {
            name: float(np.mean([cell[d] for d in some]))
            for name, some in (("mean", changed), ("mean of those with a field", spatial))
            if some
        }
        means[method] = cell
    rows = [
        (row, *(means[method][row] for method in methods)) for row in next(iter(means.values()), {})
    ]
    return table_of_rows(
        f"{measure}, mean over {len(set(columns['person']))} people", ["domain", *methods], rows
    )


def _over_people(
    table: Table, measure: str, average: Callable[[list[float]], float] = np.mean, **where: str
) -> float:
    """The average over people of the mean over each one's scans.

    It is taken in the rows whose columns hold what ``where`` says.
    """
    columns = table.columns
    values: dict[str, list[float]] = {}
    for n, value in enumerate(columns[measure]):
        if all(columns[key][n] == wanted for key, wanted in where.items()):
            values.setdefault(columns["person"][n], []).append(value)
    return float(average([float(np.mean(own)) for own in values.values()]))


# Two real scanners --------------------------------------------------------------------------------


def prospective(
    sources: Sequence[Path],
    targets: Sequence[Path],
    methods: Mapping[str, Method],
    labels: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Table, Table, dict[str, np.ndarray]]:
    """Harmonize one scanner's people to another's, and ask how alike the two groups are.

    Args:
        sources: Files of the scanner that is harmonized.
        targets: Files of the other scanner's people.
        methods: By name, from a scaled scan to the scaled image [k, j, i].
        labels: Folder with region labels (MUSE numbers, or 1, 2, 3 for CSF, grey, white) in files
            named as the sources.
        progress: Receives progress.

    Returns:
        A table with a row per scan and method, targets' own scans included as method "target"
        (their Wasserstein distance is to the mean of the other people's); a table with a row per
        method, the first being the target; and mean histograms by method, of shape (130,), shares
        of 0 to 1.3.
    """
    progress = progress or Progress()
    rows, looks = _target_rows(targets, progress)
    own = np.array([look["quantiles"] for look in looks])
    seen = {"target": looks}
    for n, path in enumerate(sources):
        progress.report(0.3 + 0.7 * n / len(sources), f"source: {files.scan_name(path)}")
        scan = read(path)
        classes = _label_classes(scan, files.load(labels / path.name)) if labels else None
        for name, method in methods.items():
            image, seconds = _timed(method, scan)
            look = _look(scan.with_image(image))
            seen.setdefault(name, []).append(look)
            distance = similarity.wasserstein(look["quantiles"], own.mean(axis=0))
            rows.append(
                (
                    person(path),
                    files.scan_name(path),
                    name,
                    distance,
                    *look["contrasts"],
                    *_in_labels(scan.with_image(image), classes),
                    similarity.edge_agreement(image, scan.image, scan.mask),
                    similarity.slice_score(image, scan.image, scan.mask),
                    seconds,
                )
            )
    table = table_of_rows("Two scanners, by person", PERSON_HEADINGS, rows)
    histograms = {
        name: np.mean([look["histogram"] for look in looks], axis=0) for name, looks in seen.items()
    }
    return table, _two_scanners(table, seen, [person(p) for p in [*targets, *sources]]), histograms


def _target_rows(targets: Sequence[Path], progress: Progress) -> tuple[list[tuple], list[dict]]:
    """Rows of the target's own scans, and what ``_look`` sees in each."""
    looks = []
    for n, path in enumerate(targets):
        progress.report(0.3 * n / len(targets), f"target: {files.scan_name(path)}")
        looks.append(_look(read(path)))
    own = np.array([look["quantiles"] for look in looks])
    unmeasured = [np.nan] * 7
    rows: list[tuple] = [
        (
            person(path),
            files.scan_name(path),
            "target",
            distance,
            *look["contrasts"],
            *unmeasured,
            0.0,
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
    histogram = (
        np.histogram(scan.inside, HISTOGRAM_BINS, (0, harmonize_scan.BRIGHTEST))[0]
        / scan.mask.sum()
    )
    return {
        "quantiles": matching.quantiles(scan),
        "contrasts": similarity.fit_tissues(scan.inside).contrasts,
        "histogram": histogram,
        **{"probe " + key: value for key, value in similarity.probe_features(scan).items()},
    }


def _two_scanners(table: Table, seen: dict, people: list[str]) -> Table:
    """A row per method: means over people, and what the site probe still tells.

    ``people``: of targets, then of sources.
    """
    picked = [key for key in table.columns if key not in ("person", "scan", "method")]
    # Somebody who was on both scanners is left out of both at once.
    sites = [0] * len(seen["target"]) + [1] * (len(people) - len(seen["target"]))
    rows = []
    for name, looks in seen.items():
        probes = [float("nan")] * 2
        if name != "target":
            kinds = ("probe histogram",), ("probe histogram", "probe texture")
            features = [
                np.array(
                    [np.concatenate([look[k] for k in kind]) for look in seen["target"] + looks]
                )
                for kind in kinds
            ]
            probes = [similarity.site_probe(f, sites, people) for f in features]
        rows.append(
            (
                name,
                _over_people(table, "Wasserstein", np.median, method=name),
                *(_over_people(table, key, method=name) for key in picked),
                *probes,
            )
        )
    return table_of_rows(
        "Two scanners",
        ["method", "median Wasserstein", *picked, "site probe (histogram)", "site probe (all)"],
        rows,
    )


def label_overlap(scan: Scan, labels: Volume) -> tuple[float, float, float]:
    """Dice overlap of the unsupervised classes with labelled CSF, grey and white matter.

    Args:
        scan: Scaled, with its mask.
        labels: [k, j, i]; see ``prospective``.
    """
    csf, grey, white = _in_labels(scan, _label_classes(scan, labels))[2:]
    return csf, grey, white


def _label_classes(scan: Scan, labels: Volume) -> np.ndarray:
    """0, 1, 2 for CSF, grey, white matter on the scan's grid; -1 elsewhere."""
    turned = volumes.reorient(meaning.require_labels(volumes.check(labels)), "RAS")
    numbers = volumes.resample(turned, scan.volume, "nearest", fill=0).array
    few = numbers.max() <= 3
    classes = np.where(numbers > 0, 1, -1)
    classes[np.isin(numbers, (1,) if few else MUSE_CSF)] = 0
    classes[np.isin(numbers, (3,) if few else MUSE_WHITE)] = 2
    return np.where(scan.mask, classes, -1)


def _in_labels(scan: Scan, classes: np.ndarray | None) -> tuple[float, ...]:
    """Two contrasts of tissues, and the overlap of three fitted classes.

    Contrasts of the labelled tissues' means as ``Tissues.contrasts``; the overlap is Dice's.
    """
    if classes is None:
        return (float("nan"),) * 5
    means = np.array([scan.image[classes == tissue].mean() for tissue in range(3)])
    labelled = classes >= 0
    fitted = similarity.fit_tissues(scan.inside).classify(scan.image[labelled])
    truth = classes[labelled]
    overlaps = [
        2 * np.sum((fitted == t) & (truth == t)) / max(np.sum(fitted == t) + np.sum(truth == t), 1)
        for t in range(3)
    ]
    return (*similarity.Tissues(means, np.ones(3), 1.0).contrasts, *map(float, overlaps))


def _timed(method: Method, scan: Scan) -> tuple[np.ndarray, float]:
    start = time.perf_counter()
    return method(scan), time.perf_counter() - start
