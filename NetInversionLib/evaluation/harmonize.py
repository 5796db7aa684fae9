"""Measure harmonization on simulated scanners, between two real ones, between two visits.

On simulated scanners the truth is known.

A method takes a scaled source scan and gives the scaled result on the same grid. All evaluations
take named methods, so that ours and the classical peers (``intensity_matching.peers``) stand in the
same table; scans are read one at a time. People may have several scans (``person``): these stay
together wherever some people are judged by others, and a mean over people counts each person once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..core import files
from ..core.keys import Column
from ..core.progress import Progress
from ..core.results import Table, table_of_rows
from ..harmonize import similarity, simulated_scanners
from ..harmonize.matching import Method
from ..harmonize.simulated_scanners import UNCHANGED, Domain
from .comparison import Comparison, find_people, over_people, person, read, timed, with_absent
from .pictures import draw_families, draw_histograms
from .two_scanners import prospective
from .visits import repeatability

MEASURES = {Column("PSNR", "dB"): similarity.psnr, "SSIM": similarity.ssim, "MAE": similarity.mae}


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
    found = prospective(sources, targets, methods, Path(labels) if labels else None, progress)
    if output:
        output.mkdir(parents=True, exist_ok=True)
        draw_histograms(found.histograms, output / "histograms.png")
    yield with_absent(found.means, compared.wanted), "prospective"
    yield found.sites, "prospective_sites"
    if found.kept is not None:
        yield found.kept, "prospective_kept"
    yield found.people, "prospective_people"


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
                image, seconds = timed(method, seen)
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
        cell = {d: over_people(table, measure, domain=d, method=method) for d in domains}
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
