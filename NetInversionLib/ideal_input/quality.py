"""Whether a network does its task at all, beside what needs no network."""

from __future__ import annotations

import torch


def quality_line(
    output: torch.Tensor,
    target: torch.Tensor,
    patient: torch.Tensor,
    weight: torch.Tensor,
    scale: tuple[float, str],
) -> tuple[str, dict[str, float]]:
    """How much a network errs on the patient's own images, beside what needs no network.

    Args:
        output: Of the network for the patient, (images, D, *space), normalised.
        target: What it should give, likewise.
        patient: Its input, (images, C, *space).
        weight: Where the error counts, (images, 1, *space).
        scale: What errors are multiplied by, and their unit.

    Returns:
        A sentence, and mean absolute errors by name: "network", "constant" (the target's median
        everywhere), "linear" (the best linear mix of the inputs).
    """
    here = (weight > 0).expand_as(target)
    wanted = target[here].double()
    errors = {
        "network": (output[here].double() - wanted).abs().mean(),
        "constant": (wanted - wanted.median()).abs().mean(),
        "linear": _linear_error(patient, target, weight),
    }
    figures = {name: float(error) * scale[0] for name, error in errors.items()}
    words = (
        f"On the patient's own images the network errs by {figures['network']:.4g} {scale[1]};"
        f" one value everywhere by {figures['constant']:.4g}, the best linear mix of its inputs by"
        f" {figures['linear']:.4g}."
    )
    if not figures["network"] < min(figures["constant"], figures["linear"]):
        words += (
            " It does no better than what needs no network: check its scaling, its channels'"
            " order and its orientation before you read anything into the result."
        )
    return words, figures


def _linear_error(
    patient: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """Mean absolute error of each target (images, D, *space) fitted by least squares from the
    patient's images (images, C, *space) and a constant.
    """
    here = weight[:, 0] > 0
    rows = patient.movedim(1, -1)[here].double()
    rows = torch.cat([rows, torch.ones_like(rows[:, :1])], 1).cpu()
    wanted = target.movedim(1, -1)[here].double().cpu()
    fitted = rows @ torch.linalg.pinv(rows.T @ rows) @ (rows.T @ wanted)
    return (fitted - wanted).abs().mean()
