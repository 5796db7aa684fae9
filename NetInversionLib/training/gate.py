"""Trains the gate: what people of the target scanner look like."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..core import files, volumes
from ..core.progress import Progress
from ..core.volumes import Volume
from ..harmonize import matching
from ..harmonize import scan as harmonize_scan
from ..harmonize.figures import bits_per_dim
from ..harmonize.gate import RIDGE
from ..harmonize.gate_figures import (
    FIGURES,
    FRACTIONS,
    VERSION,
    Look,
    histogram_distance,
    look,
    size,
)
from ..harmonize.gate_template import (
    FIRST_STEPS,
    ROUNDS,
    SEARCH_STEPS,
    TURNS,
    Moving,
    Template,
    anatomy,
    asymmetry,
    fit_affine,
    likeness,
    place,
)
from ..harmonize.scan import Scan
from .kept import Kept, state_of, sum_of

COARSE_PEOPLE = 6
"""People who are shown coarsely, to learn what coarseness adds to bits/dim."""

if TYPE_CHECKING:
    from pathlib import Path

    from ..models import Model
    from ..networks.mrflow import MRFlow


def _turned_likeness(moving: Moving, template: Template, turn: np.ndarray) -> float:
    affine = fit_affine(moving, template, moving.start(turn), 3, SEARCH_STEPS)[0]
    return likeness(moving.on_template(affine)[0], template)


# Learning the target ------------------------------------------------------------------------------


def looks_of(scans: Mapping[Path, Path | None], kept: Kept) -> Iterator[Look]:
    """A look at each scan, one after the other.

    Args:
        scans: {scan: its mask file, or None}.
        kept: Has the looks of before.

    Raises:
        ValueError: Fewer than two scans.
    """
    _require_two(len(scans))
    for path, mask in scans.items():
        name = f"look-{VERSION}-{state_of(path, mask)}"
        yield Look(**kept.keep(name, lambda: vars(look(harmonize_scan.read(path, mask)))))


def fit(
    scans: Iterable[Scan | Look], progress: Progress | None = None, kept: Kept = Kept()
) -> dict[str, np.ndarray]:
    """What the gate needs to know of a target domain, float32 arrays; takes one scan at a time.

    Args:
        scans: One of each person.
        progress: Receives progress.
        kept: Has the alignments of before.

    Returns:
        "gate_version" (1,); "gate_template" and "gate_mask" (42, 52, 42): mean over people of the
        image freed of fields, and of the mask; "gate_asymmetry" (42, 52, 42): weights by which an
        asymmetry (see ``asymmetry``) tells an image from its mirror image; "gate_figures"
        (people, len(FIGURES)); "gate_turned" (people,): each one's greatest likeness when turned;
        "gate_quantiles" (65,): mean over people of the quantiles of scaled values inside the mask.

    Raises:
        ValueError: Fewer than two scans.
    """
    return fit_looks([look(scan) for scan in scans], progress, kept)


def fit_looks(
    looks: list[Look], progress: Progress | None = None, kept: Kept = Kept()
) -> dict[str, np.ndarray]:
    """As ``fit``, of people who have been looked at.

    Args:
        looks: One of each person.
        progress: Receives progress.
        kept: Has the alignments of before.

    Returns:
        By name, float32; ``fit`` says of which shape.

    Raises:
        ValueError: Fewer than two looks.
    """
    _require_two(len(looks))
    progress = progress or Progress()
    key = _key(looks)
    moving = [Moving(seen) for seen in looks]
    placed = _placed(moving, key, kept, progress)
    total = np.sum(placed, 0)
    asymmetries = np.stack([asymmetry(one[0]) for one in placed])
    quantiles = [np.quantile(seen.inside, FRACTIONS) for seen in looks]
    people = []
    for number, one in enumerate(moving):
        flat, mask = (total - placed[number]) / (len(looks) - 1)
        others = Template(flat, mask, _handed(np.delete(asymmetries, number, 0)))
        mean = (np.sum(quantiles, 0) - quantiles[number]) / (len(looks) - 1)
        found = partial(_beside_others, looks[number], one, others, mean)
        people.append(kept.keep(f"{key}-person-{number}", found))
        done = (ROUNDS + 2 * (number + 1) / len(looks)) / (ROUNDS + 2)
        progress.report(done, "The gate learns the target's limits")
    mean_flat, mean_mask = total / len(looks)
    statistics: dict[str, np.ndarray | list] = {
        "gate_version": [VERSION],
        "gate_template": mean_flat,
        "gate_mask": mean_mask,
        "gate_asymmetry": _handed(asymmetries),
        "gate_figures": [person["figures"] for person in people],
        "gate_turned": [person["turned"] for person in people],
        "gate_quantiles": np.mean(quantiles, 0),
    }
    return {name: np.asarray(values, np.float32) for name, values in statistics.items()}


def _require_two(people: int) -> None:
    if people < 2:
        raise ValueError(
            "the gate's limits need at least two people of the target scanner; twenty or more make"
            " them useful"
        )


def _key(looks: list[Look]) -> str:
    """Twelve letters that change with what the people look like."""
    parts = [part for seen in looks for part in (seen.image, seen.mask, seen.matrix)]
    return sum_of(str(VERSION).encode(), *(np.ascontiguousarray(part).tobytes() for part in parts))


def _placed(moving: list[Moving], key: str, kept: Kept, progress: Progress) -> list[np.ndarray]:
    """Each person's image and mask, (2, 42, 52, 42), where they fit the mean of all best."""

    def aligned(name: str, start: np.ndarray, *how: int) -> np.ndarray:
        find = partial(fit_affine, one, template, start, *how)
        return kept.keep(f"{key}-{name}", lambda: {"affine": find()[0]})["affine"]

    affines = [one.start() for one in moving]
    for turn in range(ROUNDS):
        placed = [one.on_template(affine) for one, affine in zip(moving, affines)]
        template = Template(*np.sum(placed, 0) / len(moving))
        for number, one in enumerate(moving):
            name = f"round-{turn}-{number}"
            affines[number] = aligned(name, affines[number], 2, FIRST_STEPS)
            done = (turn + (number + 1) / len(moving)) / (ROUNDS + 2)
            progress.report(done, "The gate learns the target's mean")
    placed = []
    for number, one in enumerate(moving):
        placed.append(one.on_template(aligned(f"last-{number}", affines[number])))
    return placed


def _beside_others(
    seen: Look, one: Moving, others: Template, mean: np.ndarray
) -> dict[str, np.ndarray | float]:
    """What the gate measures of a person, beside all others of the target.

    Args:
        seen, one: The person.
        others: Mean of the others.
        mean: Of the others' quantiles.

    Returns:
        "figures" (len(FIGURES),), and "turned", the greatest likeness when turned.
    """
    found = {
        **size(seen),
        **anatomy(one.on_template(place(one, others)), others),
        **seen.quality,
        "histogram distance": histogram_distance(seen, mean),
    }
    turned = max(_turned_likeness(one, others, turn) for turn in TURNS[1:3])
    return {"figures": np.array([found[name] for name in FIGURES]), "turned": float(turned)}


def few_of(paths: list[Path], model: Model) -> list[Path]:
    """Scans of people whom a model was not trained on, or of anybody if there are none; a few.

    The flow knows its own people too well.
    """
    new = [path for path in paths if files.scan_name(path) not in model.card.trained_on]
    return (new or paths)[:COARSE_PEOPLE]


def coarse(
    network: MRFlow,
    model: Model,
    scans: Mapping[Path, Path | None],
    progress: Progress | None = None,
    kept: Kept = Kept(),
) -> np.ndarray:
    """How many bits/dim the target's people have when they are shown coarsely.

    Sampled every 2 mm without smoothing and with a hard border, as volumes of other scanners often
    come: what a flow finds unlikely in these is not the scanner's style.

    Args:
        network: Trained on the target's people, better on others than these.
        model: Whose network it is.
        scans: People of the target, {scan: its mask file, or None}.
        progress: Receives progress.
        kept: Has the rows of before.

    Returns:
        (people, 4) float32: noise (``gate_figures.quality``) and bits/dim of the scan as it is,
        and of the same shown coarsely.
    """
    progress = progress or Progress()

    def row() -> dict[str, np.ndarray]:
        scan = harmonize_scan.read(path, mask)
        figures: list[float] = []
        for one in (scan, shown_coarsely(scan)):
            figures += [look(one).quality["noise"], bits_per_dim(network, one, model)]
        return {"row": np.array(figures)}

    rows = []
    for path, mask in scans.items():
        progress.report(1.0, f"shown coarsely: {path.name}")
        name = f"coarse-{VERSION}-{model.sha256[:12]}-{state_of(path, mask)}"
        rows.append(kept.keep(name, row)["row"])
    return np.array(rows, np.float32)


def shown_coarsely(scan: Scan, voxel_mm: float = 2.0) -> Scan:
    """A scan sampled at fewer points, linearly and without smoothing, 0 outside its mask.

    Args:
        scan: Scaled, with its mask.
        voxel_mm: Distance of the points.

    Returns:
        On the coarse grid, with the scaled quantiles of the scan as it was.
    """
    volume = scan.volume
    step = voxel_mm / np.array(volume.spacing_mm)
    size = np.maximum((np.array(volume.shape[::-1]) / step).astype(int), 2)
    matrix = volume.ijk_to_ras @ np.diag([*step, 1])
    grid = Volume(np.broadcast_to(np.float32(0), size[::-1]), matrix, volume.name)
    image = volumes.resample(volume, grid, fill=0).array
    inside = volumes.resample(volume.with_array(scan.mask.astype(np.float32)), grid, fill=0).array
    mask = inside > 0.5
    small = grid.with_array(np.where(mask, image, 0).astype(np.float32))
    few = replace(scan, volume=small, mask=mask, original=small)
    return few.with_image(matching.match_histogram(few, matching.quantiles(scan)))


def _handed(asymmetries: np.ndarray) -> np.ndarray:
    """The weights that tell people best from their mirror images, by Fisher's linear discriminant.

    The mean person gets 1.

    The covariance of so few people is made invertible by a share of its mean variance (Woodbury's
    identity spares the matrix).
    """
    count = len(asymmetries)
    flat = asymmetries.reshape(count, -1).astype(np.float64)
    mean, variance = flat.mean(0), flat.var(0)
    scale = np.sqrt(variance + 0.1 * variance.mean() + 1e-12)
    mean, apart = mean / scale, (flat - mean) / scale
    gram = apart @ apart.T
    ridge = RIDGE * np.trace(gram) / count + 1e-9
    weights = (mean - apart.T @ np.linalg.solve(gram + ridge * np.eye(count), apart @ mean)) / scale
    return (weights / max(weights @ (mean * scale), 1e-12)).reshape(asymmetries.shape[1:])
