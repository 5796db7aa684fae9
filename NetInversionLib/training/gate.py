"""Trains the gate: what people of the target scanner look like."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from ..core.progress import Progress
from ..harmonize.gate import RIDGE
from ..harmonize.gate_figures import FIGURES, FRACTIONS, VERSION, histogram_distance, look, size
from ..harmonize.gate_template import (
    FIRST_STEPS,
    ROUNDS,
    SEARCH_STEPS,
    TURNS,
    Moving,
    Template,
    align,
    anatomy,
    asymmetry,
    likeness,
    place,
)
from ..harmonize.scan import Scan

if TYPE_CHECKING:
    from ..harmonize.gate_figures import Look


def _turned_likeness(moving: Moving, template: Template, turn: np.ndarray) -> float:
    affine = align(moving, template, moving.start(turn), 3, SEARCH_STEPS)[0]
    return likeness(moving.on_template(affine)[0], template)


# Learning the target ------------------------------------------------------------------------------


def fit(scans: Iterable[Scan], progress: Progress | None = None) -> dict[str, np.ndarray]:
    """What the gate needs to know of a target domain, float32 arrays; takes one scan at a time.

    Returns:
        "gate_version" (1,); "gate_template" and "gate_mask" (42, 52, 42): mean over people of the
        image freed of fields, and of the mask; "gate_asymmetry" (42, 52, 42): weights by which an
        asymmetry (see ``asymmetry``) tells an image from its mirror image; "gate_figures"
        (people, len(FIGURES)); "gate_turned" (people,): each one's greatest likeness when turned;
        "gate_quantiles" (65,): mean over people of the quantiles of scaled values inside the mask.

    Raises:
        ValueError: Fewer than two scans.
    """
    return fit_looks([look(scan) for scan in scans], progress)


def fit_looks(looks: list[Look], progress: Progress | None = None) -> dict[str, np.ndarray]:
    """As ``fit``, of people who have been looked at.

    Args:
        looks: One of each person.
        progress: Receives progress.

    Returns:
        By name, float32; ``fit`` says of which shape.

    Raises:
        ValueError: Fewer than two looks.
    """
    if len(looks) < 2:
        raise ValueError(
            "the gate's limits need at least two people of the target scanner; twenty or more make"
            " them useful"
        )
    progress = progress or Progress()
    moving = [Moving(seen) for seen in looks]
    affines = [one.start() for one in moving]
    total = None
    for turn in range(ROUNDS):
        placed = [one.on_template(affine) for one, affine in zip(moving, affines)]
        total = np.sum(placed, 0)
        template = Template(*total / len(looks))
        affines = [
            align(one, template, affine, 2, FIRST_STEPS)[0] for one, affine in zip(moving, affines)
        ]
        progress.report((turn + 1) / (ROUNDS + 2), "The gate learns the target's mean")
    placed = [
        one.on_template(align(one, template, affine)[0]) for one, affine in zip(moving, affines)
    ]
    total = np.sum(placed, 0)
    asymmetries = np.stack([asymmetry(one[0]) for one in placed])
    quantiles = [np.quantile(seen.inside, FRACTIONS) for seen in looks]
    figures, turned = [], []
    for number, (seen, one) in enumerate(zip(looks, moving)):
        flat, mask = (total - placed[number]) / (len(looks) - 1)
        others = Template(flat, mask, _handed(np.delete(asymmetries, number, 0)))
        mean = (np.sum(quantiles, 0) - quantiles[number]) / (len(looks) - 1)
        affine = place(one, others)
        found = {
            **size(seen),
            **anatomy(one.on_template(affine), others),
            **seen.quality,
            "histogram distance": histogram_distance(seen, mean),
        }
        figures.append([found[name] for name in FIGURES])
        turned.append(max(_turned_likeness(one, others, turn) for turn in TURNS[1:3]))
        progress.report(
            (ROUNDS + 2 * (number + 1) / len(looks)) / (ROUNDS + 2),
            "The gate learns the target's limits",
        )
    mean_flat, mean_mask = total / len(looks)
    statistics: dict[str, np.ndarray | list] = {
        "gate_version": [VERSION],
        "gate_template": mean_flat,
        "gate_mask": mean_mask,
        "gate_asymmetry": _handed(asymmetries),
        "gate_figures": figures,
        "gate_turned": turned,
        "gate_quantiles": np.mean(quantiles, 0),
    }
    return {name: np.asarray(values, np.float32) for name, values in statistics.items()}


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
