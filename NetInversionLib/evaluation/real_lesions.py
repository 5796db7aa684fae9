"""Do the lesions of real patients keep their contrast?

Lesions of white matter are outlined by rules on a T1 and a T2 of the same visit, before anything is
harmonized; every method then harmonizes the T1. There is no truth: what is told is how far the
contrast moves, and how well lesions can still be told from white matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from scipy import ndimage, stats

from ..core import files, scans
from ..core.progress import Progress
from ..core.results import Table, table_of_rows
from ..core.volumes import Volume
from ..harmonize import scan as harmonize_scan
from ..harmonize.heads import find_brain
from ..harmonize.scan import Scan
from ..models import Model
from .comparison import person
from .lesions import by_method, cropped, wanted_methods
from .visits import move, rigid_transform

T1, T2 = "_T1", "_T2"
# The rules. Around a lesion most of a neighbourhood is white matter, than which it is brighter in
# T2; it is away from fluid, and not a speck. With a neighbourhood half white, sulci were outlined.
NEIGHBOURHOOD_MM, MOSTLY, ABOVE_WHITE, FROM_FLUID_MM, LEAST_ML = 4.0, 0.7, 4.0, 2.0, 0.03
AROUND_MM = 15.0
HEADINGS = [
    "person",
    "scan",
    "lesions",
    "ml",
    "method",
    "contrast before",
    "contrast after",
    "change of contrast",
    "AUC before",
    "AUC after",
    "field",
    "verdict",
]


class NoLesionError(ValueError):
    """The rules found no lesion; the message says where."""


@dataclass(frozen=True)
class Outlines:
    """What the rules found, boolean [k, j, i] on the T1's grid.

    Attributes:
        lesions: Of white matter.
        white: White matter within ``AROUND_MM`` of a lesion, without lesions and their edges.
    """

    lesions: np.ndarray
    white: np.ndarray


def find_pairs(folders: Sequence[str | Path], patterns: str = "*") -> list[tuple[Path, Path]]:
    """The files NAME_T1 and NAME_T2 of folders, sorted.

    Args:
        folders: Where they are.
        patterns: Of NAME_T1, with commas between.

    Raises:
        ValueError: A folder holds no such pair.
    """
    chosen = [one.strip() for one in patterns.split(",")]
    found = []
    for folder in map(Path, folders):
        by_name = {files.scan_name(path): path for path in scans.find(folder, deep=False).scans}
        pairs = [
            (path, by_name[name.removesuffix(T1) + T2])
            for name, path in sorted(by_name.items())
            if name.endswith(T1) and name.removesuffix(T1) + T2 in by_name
            if any(fnmatch(name, one) for one in chosen)
        ]
        if not pairs:
            raise ValueError(f"no NAME{T1} with a NAME{T2} in {folder} fits '{patterns}'")
        found += pairs
    return found


def evaluate(
    pairs: Sequence[tuple[Path, Path]],
    model: Model,
    template: tuple[Volume, Volume] | None = None,
    wanted: str = "*",
    progress: Progress | None = None,
) -> Table:
    """Every patient, by every method.

    Args:
        pairs: Files of a T1 and a T2 of the same visit.
        model: Of the target scanner.
        template: A brain template and its mask, by which the brain is found where an image has air
            only beyond a head; without it images have to be brain-extracted.
        wanted: Patterns of methods' names (``lesions.METHODS``) with commas between; "source"
            always stays.

    Returns:
        A row for each T1 and method (``HEADINGS``).

    Raises:
        ValueError: An image cannot be used.
        NoLesionError: None was found in any image; one without is named and left out.
    """
    progress = progress or Progress()
    methods = wanted_methods(wanted)
    rows: list[tuple] = []
    for n, (first, second) in enumerate(pairs):
        progress.report(n / len(pairs), files.scan_name(first))
        scan, t2 = read_pair(first, second, template)
        try:
            found = outline(scan, t2)
        except NoLesionError as error:
            progress.log(f"left out: {error}")
            continue
        rows += [
            (person(first), files.scan_name(first), *row)
            for row in _measured(scan, found, model, methods)
        ]
    if not rows:
        raise NoLesionError("no lesion was found in any image")
    return table_of_rows("Real lesions, one patient after the other", HEADINGS, rows)


def read_pair(
    first: Path, second: Path, template: tuple[Volume, Volume] | None = None
) -> tuple[Scan, np.ndarray]:
    """The T1, scaled, and the T2 on its grid, [k, j, i], aligned rigidly (mutual information)."""
    volume, other = files.load(first), files.load(second)
    beside = harmonize_scan.mask_beside(first)
    mask = files.load(beside) if beside else None
    if mask is None and template is not None and not _is_brain(volume):
        mask = find_brain(volume, *template)
    scan = cropped(harmonize_scan.prepare(volume, mask))
    inside = scan.volume.with_array(scan.mask.astype(np.uint8))
    between = rigid_transform(scan.volume, other, inside)
    moved = move(other.with_array(other.float32()), between, scan.volume, "linear", 0)
    return scan, moved.array


def _is_brain(volume: Volume) -> bool:
    """Whether most of it is exactly 0, as where the brain was extracted."""
    return bool((volume.array == 0).mean() > 0.5)


def _measured(scan: Scan, found: Outlines, model: Model, methods: Sequence[str]) -> Iterator[tuple]:
    voxel_ml = float(np.prod(scan.volume.spacing_mm)) / 1000
    count, ml = int(ndimage.label(found.lesions)[1]), float(found.lesions.sum() * voxel_ml)
    before, told = contrast(scan.image, found), auc(scan.image, found)
    for name in methods:
        done = by_method(name, scan, model)
        after = contrast(done.image, found)
        yield (
            count,
            ml,
            name,
            before,
            after,
            after / before - 1,
            told,
            auc(done.image, found),
            done.field,
            done.verdict,
        )


# Outlines -----------------------------------------------------------------------------------------


def outline(scan: Scan, t2: np.ndarray) -> Outlines:
    """Lesions of white matter by rules on both contrasts.

    Fluid, grey and white matter are what Otsu's thresholds make of the T1. Lesions lie where most
    of a neighbourhood is white, away from fluid, and are brighter in T2 than white matter's median
    by ``ABOVE_WHITE`` robust deviations. The T1's own darkness there has no say, so that it can be
    judged.

    Args:
        scan: The T1, scaled, with its mask.
        t2: On the same grid, [k, j, i], any unit.

    Raises:
        NoLesionError: No lesion was found.
    """
    spacing = np.array(scan.volume.spacing_mm[::-1])
    fluid_below, white_above = _otsu(scan.inside)
    fluid = scan.mask & (scan.image < fluid_below)
    white = scan.mask & (scan.image > white_above)
    share = ndimage.gaussian_filter(white.astype(np.float32), NEIGHBOURHOOD_MM / spacing)
    far = ndimage.distance_transform_edt(~fluid & scan.mask, spacing) > FROM_FLUID_MM
    usual = np.median(t2[white])
    spread = stats.median_abs_deviation(t2[white], scale="normal")
    bright = scan.mask & (t2 > usual + ABOVE_WHITE * spread)
    labels, count = ndimage.label(bright & far & (share > MOSTLY))
    voxel_ml = float(spacing.prod()) / 1000
    large = np.bincount(labels.ravel(), minlength=count + 1) * voxel_ml >= LEAST_ML
    large[0] = False
    lesions = large[labels]
    if not lesions.any():
        raise NoLesionError(f"no lesion was found in {scan.volume.name}")
    away = ndimage.distance_transform_edt(~lesions, spacing)
    near = (away > FROM_FLUID_MM) & (away < AROUND_MM)
    return Outlines(lesions, near & far & (share > MOSTLY) & (t2 < usual + 2 * spread))


def _otsu(values: np.ndarray) -> tuple[float, float]:
    """The two thresholds that part values (n,) into three most different classes."""
    edges = np.linspace(values.min(), values.max(), 129)
    counts, _ = np.histogram(values, edges)
    middles = (edges[1:] + edges[:-1]) / 2
    weight = np.r_[0, np.cumsum(counts)].astype(float)
    total = np.r_[0, np.cumsum(counts * middles)]
    low, high = np.triu_indices(len(middles) - 1, 1)
    cuts = np.stack([np.zeros_like(low), low + 1, high + 1, np.full_like(low, len(middles))])
    inside, sums = np.diff(weight[cuts], axis=0), np.diff(total[cuts], axis=0)
    between = (sums**2 / np.maximum(inside, 1)).sum(0)
    best = int(np.argmax(between))
    return float(edges[low[best] + 1]), float(edges[high[best] + 1])


# Measures -----------------------------------------------------------------------------------------


def contrast(image: np.ndarray, found: Outlines) -> float:
    """The lesions' mean over that of white matter about them, minus 1; image [k, j, i]."""
    return float(image[found.lesions].mean() / image[found.white].mean() - 1)


def auc(image: np.ndarray, found: Outlines) -> float:
    """How often a voxel of white matter is brighter than one of a lesion, ties by half."""
    dark, bright = image[found.lesions], image[found.white]
    ranks = stats.rankdata(np.concatenate([dark, bright]))[len(dark) :]
    wins = ranks.sum() - len(bright) * (len(bright) + 1) / 2
    return float(wins / (len(dark) * len(bright)))


def summary(table: Table) -> Table:
    """A row for each method: means over people of the means over each one's scans."""
    columns = table.columns
    people = list(dict.fromkeys(columns["person"]))

    def mean(name: str, method: str) -> float:
        def own(one: str) -> float:
            rows = zip(columns["person"], columns["method"], columns[name])
            return float(np.mean([value for p, m, value in rows if (p, m) == (one, method)]))

        return float(np.mean([own(one) for one in people]))

    names = ("contrast before", "contrast after", "change of contrast", "AUC before", "AUC after")
    rows = [
        (method, len(people), *(mean(name, method) for name in names))
        for method in dict.fromkeys(columns["method"])
    ]
    return table_of_rows("Real lesions", ["method", "people", *names], rows)
