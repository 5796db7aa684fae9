"""How much of the gain needs how much change: the search at several prices of leaving the patient's
images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.progress import Progress
from ..core.results import Curve
from ..optimise.objective import Objective
from .onward import gone_on
from .served import blurred, counted_voxels, distance, priced, squared_change
from .settings import PRICES, STEPS

SHARE = 0.2
"""Of the search's usual step: each price starts near its goal. With 60 steps at each price what is
minimised is within 2 % of that with 120 (at the lowest price 8 %); 25 steps from the patient's
images leave up to half as much again.
"""
TITLE = "How much change buys how much?"


def trade_off(
    patient: Tensor,
    free: Tensor,
    objective: Objective,
    weight: float,
    sigma: Tensor,
    scale: float,
    units: str,
    found: Sequence[Tensor] = (),
    progress: Progress = Progress(),
) -> tuple[Curve, dict]:
    """The error left against the change made, from the patient's images.

    Args:
        patient: Normalised, shape (images, C, *space).
        free: Where they may change, of the same shape.
        objective: Of these images, a mean over voxels.
        weight: Of the blurred input's error in the search (``Settings.blurred_weight``).
        sigma: Standard deviation of each channel's noise, (1, C, 1, ...).
        scale: ``units`` per normalised unit of the error.
        units: Of the error.
        found: Inputs known already, each of the shape of ``patient``: they count where they are
            better. Half of the gain is that of the first.
        progress: Receives progress; may raise ``Cancelled``.

    Returns:
        The curve, and its figures: lists "change" (in standard deviations of the images' own
        noise), "error" and "error blurred", from no change on; "images", their number; and "half",
        the change that half of the gain needs, or None if the curve does not reach it.
    """
    path = _searched(patient, free, objective, weight, sigma, progress)
    images = [
        patient,
        *best_at(PRICES, [patient, *path, *found], patient, objective, weight, sigma),
    ]
    changes = [distance(image, patient, sigma, free) for image in images]
    errors = [scale * objective.mean_error(image) for image in images]
    soft = [scale * objective.mean_error(blurred(image)) for image in images]
    curve = Curve(
        TITLE,
        "change (times the images' own noise, that at least 1 % of the range)",
        f"error ({units})",
        {"the input": (changes, errors), "the input, blurred": (changes, soft)},
    )
    least = scale * objective.mean_error(found[0]) if found else min(errors)
    figures = {"change": changes, "error": errors, "error blurred": soft, "images": len(patient)}
    return curve, {**figures, "half": change_of_half(changes, errors, least)}


def _searched(
    patient: Tensor,
    free: Tensor,
    objective: Objective,
    weight: float,
    sigma: Tensor,
    progress: Progress,
) -> list[Tensor]:
    """What the search finds at each price, each time from what it found at the price before."""
    path, x = [], patient
    for number, price in enumerate(PRICES):
        total = priced(objective, patient, sigma, patient.new_full((len(x),), price), weight)

        def told(step: int) -> None:
            done = (number * STEPS + step) / (len(PRICES) * STEPS)
            progress.report(0.96 + 0.02 * done, f"{TITLE} Price {number + 1} of {len(PRICES)}")

        x = gone_on(x, free, total, SHARE, told)
        path.append(x)
    return path


def best_at(
    prices: Sequence[float],
    candidates: Sequence[Tensor],
    patient: Tensor,
    objective: Objective,
    weight: float,
    sigma: Tensor,
) -> list[Tensor]:
    """For each price the best of some inputs, image by image: as prices fall, change rises and the
    error that is minimised falls.

    Args:
        prices: As the setting ``near``.
        candidates: Each normalised, of the shape of ``patient``.
        patient: (images, C, *space).
        objective: Of these images, a mean over voxels.
        weight: Of the blurred input's error.
        sigma: Standard deviation of each channel's noise, (1, C, 1, ...).

    Returns:
        For each price, images of the shape of ``patient``.
    """
    items = torch.arange(len(patient), device=patient.device)
    counted = counted_voxels(objective, patient)
    unpriced = priced(objective, patient, None, None, weight)
    losses = torch.stack([unpriced(x, items)[0] for x in candidates])
    changes = torch.stack([squared_change(x, patient, sigma) / counted for x in candidates])
    stacked = torch.stack(list(candidates))
    return [stacked[(losses + price / 1000 * changes).argmin(0), items] for price in prices]


def change_of_half(
    changes: list[float], errors: list[float], least: float | None = None
) -> float | None:
    """The change at which half of the gain is reached, on straight lines between the points.

    Args:
        changes: Rising, from 0.
        errors: At each; the first is that of no change.
        least: The error with all of the gain; the least of ``errors`` if None.

    Returns:
        None where there is no gain, or no point reaches half of it.
    """
    least = min(errors) if least is None else least
    half = (errors[0] + least) / 2
    if not least < errors[0]:
        return None
    for n in range(1, len(errors)):
        if errors[n] <= half:
            above, below = errors[n - 1], errors[n]
            share = (above - half) / (above - below) if above > below else 0.0
            return changes[n - 1] + share * (changes[n] - changes[n - 1])
    return None
