"""Do lesions keep their contrast, and is shading invented on them?

Lesions of known size, place and contrast are put into people of the target scanner, with and
without real shading; every method harmonizes the image. The truth is the image with its lesion and
without shading. Lesions are grown here by distances bent at random, and shading is physics's
(``shading``): neither is what thresholds were calibrated on, nor what any model was trained on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from .. import harmonize
from ..core import volumes
from ..core.progress import Progress
from ..core.results import Table, table_of_rows
from ..harmonize import estimate, gate, matching, shading, similarity
from ..harmonize import scan as harmonize_scan
from ..harmonize.gate_figures import look
from ..harmonize.places import unlike_places
from ..harmonize.run import estimate_checks
from ..harmonize.scan import Scan
from ..models import Model
from .comparison import person, read

if TYPE_CHECKING:
    from ..harmonize.estimate import Estimate

PLACES = ("deep", "cortical", "periventricular")
CONTRASTS = (-0.35, 0.3, -0.5, -0.2)
SMALLEST_ML, LARGEST_ML = 1.0, 150.0
SHADING = (0.15, 0.3)
LOST = 0.10  # of a lesion's contrast: a result to warn of
EDGE_MM, AROUND_MM = 0.7, 15.0
OURS = "anatomy-safe"
METHODS = ("source", "histogram matching", "N4 + histogram matching", OURS)
HEADINGS = [
    "person",
    "place",
    "ml",
    "contrast",
    "shading",
    "method",
    "contrast before",
    "contrast after",
    "change of contrast",
    "PSNR of healthy tissue (dB)",
    "field",
    "unlike (ml)",
    "verdict",
    "time (s)",
]


@dataclass(frozen=True)
class Lesion:
    """What is put into a brain.

    Attributes:
        place: One of ``PLACES``.
        ml: Its size.
        contrast: By what share it is brighter (or, below 0, darker) than the tissue it replaces.
        shading: A key of ``shading.GENERATORS``, or "" for none.
        seed: Of everything random.
    """

    place: str
    ml: float
    contrast: float
    shading: str
    seed: int


def plan(people: int, cases: int, seed: int = 0) -> list[list[Lesion]]:
    """Lesions for each person: sizes even in their logarithm, every second with shading."""
    random = np.random.default_rng(seed)
    sizes = np.geomspace(SMALLEST_ML, LARGEST_ML, max(cases, 2))
    orders = [random.permutation(cases) for _ in range(4)]
    shadings = [name for one in shading.GENERATORS for name in ("", one)]
    planned: list[list[Lesion]] = [[] for _ in range(people)]
    for n, (size, where, bright, shade) in enumerate(zip(*orders)):
        planned[n % people].append(
            Lesion(
                PLACES[where % len(PLACES)],
                float(sizes[size]),
                CONTRASTS[bright % len(CONTRASTS)],
                shadings[shade % len(shadings)],
                1000 * seed + n,
            )
        )
    return planned


def evaluate(
    people: Sequence[Path],
    model: Model,
    cases: int = 60,
    seed: int = 0,
    wanted: str = "*",
    progress: Progress | None = None,
) -> Table:
    """Every lesion, by every method.

    Args:
        people: Files of the target's people, whom the model was not trained on.
        model: Of the target.
        cases: Lesions altogether.
        seed: Of everything random.
        wanted: Patterns of methods' names (``METHODS``) with commas between; "source" always stays.

    Returns:
        A row for each lesion and method (``HEADINGS``).
    """
    progress = progress or Progress()
    methods = wanted_methods(wanted)
    rows: list[tuple] = []
    for path, lesions in zip(people, plan(len(people), cases, seed)):
        healthy = cropped(read(path)) if lesions else None
        for lesion in lesions:
            assert healthy is not None
            done = len(rows) / (len(methods) * cases)
            progress.report(done, f"{person(path)}: {lesion.ml:.0f} ml, {lesion.place}")
            truth, share = with_lesion(healthy, lesion)
            rows += [
                (person(path), lesion.place, lesion.ml, lesion.contrast, lesion.shading, *row)
                for row in _measured(healthy, truth, share, lesion, model, methods)
            ]
    return table_of_rows("Lesions, one by one", HEADINGS, rows)


def wanted_methods(patterns: str) -> list[str]:
    """Those of ``METHODS`` that fit patterns with commas between, and "source"."""
    wanted = ["source", *map(str.strip, patterns.split(","))]
    return [name for name in METHODS if any(fnmatch(name, one) for one in wanted)]


def _measured(
    healthy: Scan,
    truth: np.ndarray,
    share: np.ndarray,
    lesion: Lesion,
    model: Model,
    methods: Sequence[str],
) -> Iterator[tuple]:
    source = shaded(healthy, truth, lesion)
    away = healthy.mask & (share < 0.05)
    like = control(healthy, share)
    before = contrast(truth, share, like)
    for name in methods:
        start = time.perf_counter()
        done = by_method(name, source, model)
        after = contrast(done.image, share, like)
        yield (
            name,
            before,
            after,
            after / before - 1,
            similarity.psnr(done.image, truth, away),
            done.field,
            done.unlike_ml,
            done.verdict,
            time.perf_counter() - start,
        )


@dataclass(frozen=True)
class Done:
    """What a method made of a scan.

    Attributes:
        image: Scaled, [k, j, i].
        field: The explanation with fields that was taken, or "".
        unlike_ml: How much looks like a lesion.
        verdict: The gate's word, or "" where nothing judges the method.
    """

    image: np.ndarray
    field: str = ""
    unlike_ml: float = 0.0
    verdict: str = ""


def by_method(name: str, scan: Scan, model: Model) -> Done:
    """A scan harmonized by one of ``METHODS``.

    Args:
        name: Of the method.
        scan: Scaled, with its mask.
        model: Of the target; the classical methods go by its quantiles.
    """
    network = harmonize.harmonizer(model)
    if name == "source":
        return Done(scan.image)
    if name == OURS:
        found = estimate.explain(scan, network)
        image = estimate.harmonized(scan, found.change)
        field = "" if found.explanation == "tone curve" else found.explanation
        unlike = sum(place["ml"] for place in unlike_places(found, scan))
        return Done(image, field, unlike, _verdict(scan, image, found, model))
    target = network.needed("quantiles").double().cpu().numpy()
    plain = matching.remove_field(scan) if name.startswith("N4") else scan.image
    return Done(matching.match_histogram(scan.with_image(plain), target))


def _verdict(scan: Scan, image: np.ndarray, found: Estimate, model: Model) -> str:
    """The gate's word, as a user would get it."""
    network = harmonize.harmonizer(model)
    statistics, seen, result = (
        harmonize.gate_statistics(network),
        look(scan),
        scan.with_image(image),
    )
    bits = harmonize.bits_per_dim(network, result, model)
    checks = gate.check_source(seen, statistics)
    checks += gate.check_result(seen, result, statistics, bits)
    checks += estimate_checks(found, scan, result)
    return gate.verdict(checks)[0]


def cropped(scan: Scan) -> Scan:
    """The scan without the air around its mask: most of a file is air, and costs time."""
    ends = []
    for axis in range(3):
        there = np.flatnonzero(scan.mask.any(axis=tuple({0, 1, 2} - {axis})))
        ends += [max(int(there[0]) - 2, 0), min(int(there[-1]) + 3, scan.mask.shape[axis])]
    k0, k1, j0, j1, i0, i1 = ends
    volume = volumes.crop(scan.volume, (k0, k1, j0, j1, i0, i1))
    return replace(scan, volume=volume, mask=scan.mask[k0:k1, j0:j1, i0:i1])


# Lesions ------------------------------------------------------------------------------------------


def with_lesion(scan: Scan, lesion: Lesion) -> tuple[np.ndarray, np.ndarray]:
    """The scaled image [k, j, i] with the lesion in it, and the lesion's share of each voxel."""
    random = np.random.default_rng(lesion.seed)
    share = grown(scan, lesion.place, lesion.ml, random)
    texture = 1 + 0.1 * _noise(scan.mask.shape, scan.volume.spacing_mm, 3.0, random)
    changed = scan.image * (1 + lesion.contrast * texture * share)
    return np.clip(changed, 0, harmonize_scan.BRIGHTEST).astype(np.float32), share


def grown(scan: Scan, place: str, ml: float, random: np.random.Generator) -> np.ndarray:
    """A lesion's share of each voxel, float32 [k, j, i].

    The voxels nearest to a seed, by a distance that smooth noise bends, inside the mask.
    """
    spacing = np.array(scan.volume.spacing_mm[::-1])
    seeds = np.argwhere(_seeds(scan, place))
    seed = seeds[random.integers(len(seeds))]
    grids = np.ogrid[tuple(slice(n) for n in scan.mask.shape)]
    square = sum(((g - s) * mm) ** 2 for g, s, mm in zip(grids, seed, spacing))
    bend = 0.35 * _noise(scan.mask.shape, scan.volume.spacing_mm, 9.0, random)
    distance = np.where(scan.mask, np.sqrt(square) * np.exp(bend), np.inf)
    count = min(max(int(ml * 1000 / spacing.prod()), 1), int(scan.mask.sum()))
    reach = np.partition(distance[scan.mask], count - 1)[count - 1]
    inside = (distance <= reach).astype(np.float32)
    return (ndimage.gaussian_filter(inside, EDGE_MM / spacing) * scan.mask).astype(np.float32)


def _seeds(scan: Scan, place: str) -> np.ndarray:
    spacing = scan.volume.spacing_mm[::-1]
    depth = ndimage.distance_transform_edt(scan.mask, spacing)
    if place == "cortical":
        return scan.mask & (depth < 8)
    if place == "deep":
        return depth > 20
    smooth = ndimage.gaussian_filter(scan.image, 1.5 / np.array(spacing))
    fluid = (depth > 25) & (smooth < 0.5 * np.median(scan.inside))
    if not fluid.any():
        return depth > 25
    return (ndimage.distance_transform_edt(~fluid, spacing) < 6) & ~fluid & scan.mask


def _noise(shape, spacing_mm, width_mm: float, random: np.random.Generator) -> np.ndarray:
    """Smooth noise of standard deviation 1, [k, j, i]."""
    coarse = np.maximum(np.ceil(np.array(shape) * spacing_mm[::-1] / width_mm).astype(int), 2)
    field = ndimage.zoom(random.normal(size=coarse), np.array(shape) / coarse, order=1)
    return field / field.std()


def shaded(scan: Scan, image: np.ndarray, lesion: Lesion) -> Scan:
    """The image under the lesion's shading, scaled anew; without shading as it is.

    Args:
        scan: Whose image it is.
        image: Scaled, [k, j, i].
        lesion: Names the shading.
    """
    if not lesion.shading:
        return scan.with_image(image)
    random = np.random.default_rng(lesion.seed + 500_000)
    field = shading.drawn(lesion.shading, image.shape, scan.volume.spacing_mm, random)
    changed = image * (1 + random.uniform(*SHADING) * field) * scan.mask
    return scan.with_image(harmonize_scan.rescaled(changed, scan.mask))


# Measures -----------------------------------------------------------------------------------------


def control(scan: Scan, share: np.ndarray) -> np.ndarray:
    """Healthy voxels about a lesion that are as bright as what it replaced, boolean [k, j, i].

    Within the middle half of what was there; else the lesion's contrast would depend on what
    tissues happen to lie about it.

    Args:
        scan: Without the lesion.
        share: The lesion's share of each voxel, [k, j, i].
    """
    low, high = np.percentile(scan.image[share > 0.9 * share.max()], [25, 75])
    near = ndimage.distance_transform_edt(share < 0.05, scan.volume.spacing_mm[::-1]) < AROUND_MM
    there = scan.mask & (share < 0.02)
    alike = there & (scan.image >= low) & (scan.image <= high)
    return alike & near if (alike & near).any() else alike


def contrast(image: np.ndarray, share: np.ndarray, like: np.ndarray) -> float:
    """The lesion's mean over that of voxels as bright before, minus 1; images [k, j, i]."""
    return float(image[share > 0.9 * share.max()].mean() / image[like].mean() - 1)


def summary(table: Table) -> Table:
    """A row for each method without and with shading: what the lesions kept, and healthy tissue."""
    columns = {name: np.array(column) for name, column in table.columns.items()}
    rows = []
    for shaded_ in (False, True):
        for method in dict.fromkeys(table.columns["method"]):
            chosen = (columns["method"] == method) & ((columns["shading"] != "") == shaded_)
            if not chosen.any():
                continue
            change = columns["change of contrast"][chosen]
            dark = columns["contrast"][chosen] < 0
            rows.append(
                (
                    "with" if shaded_ else "none",
                    method,
                    int(chosen.sum()),
                    _share(np.abs(change[dark]) <= 0.05),
                    _share(np.abs(change[~dark]) <= 0.10),
                    100 * float(np.median(np.abs(change))),
                    100 * float(change.min()),
                    int((columns["field"][chosen] != "").sum()),
                    int((columns["verdict"][chosen] == "accepted").sum()),
                    int(((columns["verdict"][chosen] == "accepted") & (change < -LOST)).sum()),
                    float(columns["PSNR of healthy tissue (dB)"][chosen].mean()),
                )
            )
    return table_of_rows(
        "Lesions",
        [
            "shading",
            "method",
            "cases",
            "dark, contrast within 5 % (%)",
            "bright, within 10 % (%)",
            "median change of contrast (%)",
            "greatest loss of contrast (%)",
            "fields found",
            "accepted",
            "accepted though contrast fell by more than 10 %",
            "healthy tissue, mean PSNR (dB)",
        ],
        rows,
    )


def _share(good: np.ndarray) -> float:
    return 100 * float(good.mean()) if good.size else float("nan")
