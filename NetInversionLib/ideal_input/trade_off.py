"""How much of the gain needs how much change: the search at several prices of leaving the patient's
images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.progress import Progress
from ..core.results import Curve
from ..optimise import descent
from ..optimise.objective import Objective
from .served import blurred, distance, noise_deviations, priced

PRICES = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.01)
"""As the setting ``near``, from dear to cheap."""
STEPS = 25
"""Of the search at each price; a price leaves less to find than none."""
TITLE = "How much change buys how much?"


def trade_off(
    patient: Tensor,
    free: Tensor,
    objective: Objective,
    weight: float,
    scale: float,
    units: str,
    progress: Progress = Progress(),
) -> tuple[Curve, dict]:
    """The error left against the change made, from the patient's images.

    Args:
        patient: Normalised, shape (images, C, *space).
        free: Where they may change, of the same shape.
        objective: Of these images, a mean over voxels.
        weight: Of the blurred input's error in the search (``Settings.blurred_weight``).
        scale: ``units`` per normalised unit of the error.
        units: Of the error.
        progress: Receives progress; may raise ``Cancelled``.

    Returns:
        The curve, and its figures: lists "change" (in standard deviations of the images' own
        noise), "error" and "error blurred", from no change on; and "half", the change that half of
        the gain needs, or None if there is none.
    """
    count, sigma = len(patient), noise_deviations(patient)
    near = patient.new_tensor(PRICES).repeat_interleave(count)
    total = priced(objective, patient, sigma, near, weight)

    def value_and_gradient(x: Tensor, items: Tensor, rounding: float) -> tuple[Tensor, Tensor]:
        value, gradient = total(x, items, rounding)
        return value, gradient * free[items % count]

    def told(step: int, best: object) -> None:
        progress.report(0.98, f"{TITLE} Step {step} of {STEPS}")

    start = patient.repeat(len(PRICES), *[1] * (patient.dim() - 1))
    found = descent.minimize(
        value_and_gradient,
        start,
        descent.Options(max_evaluations=STEPS),
        shares=torch.full((len(start),), 0.5),
        callback=told,
    )
    images = [patient, *found.x.reshape(len(PRICES), *patient.shape)]
    points = sorted(
        (
            distance(image, patient, sigma, free),
            scale * objective.mean_error(image),
            scale * objective.mean_error(blurred(image)),
        )
        for image in images
    )
    changes, errors, soft = (list(column) for column in zip(*points))
    curve = Curve(
        TITLE,
        "change (times the images' own noise)",
        f"error ({units})",
        {"the input": (changes, errors), "the input, blurred": (changes, soft)},
    )
    figures = {"change": changes, "error": errors, "error blurred": soft}
    return curve, {**figures, "half": change_of_half(changes, errors)}


def change_of_half(changes: list[float], errors: list[float]) -> float | None:
    """The change at which half of the gain is reached, on straight lines between the points.

    Args:
        changes: Rising, from 0.
        errors: At each; the first is that of no change.

    Returns:
        None where no point errs less than the first.
    """
    half = (errors[0] + min(errors)) / 2
    if not min(errors) < errors[0]:
        return None
    for n in range(1, len(errors)):
        if errors[n] <= half:
            above, below = errors[n - 1], errors[n]
            share = (above - half) / (above - below) if above > below else 0.0
            return changes[n - 1] + share * (changes[n] - changes[n - 1])
    return None
