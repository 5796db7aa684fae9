"""What an ideal input changed, and whether to believe it: tables and curves for reading an
``ideal_input`` result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..core.keys import Column, Key
from ..core.results import Curve, Result, Table
from ..optimise.objective import Objective, Terms
from .dixon import body_mask
from .optima import common_and_spread, shared_part
from .reading import BODY, EVERYTHING, OWN, TISSUES, input_words, mae, start_words
from .served import blurred
from .settings import NOISE

if TYPE_CHECKING:
    from ..models import Model
    from .case import Case


def tissues(case: Case) -> dict[str, np.ndarray]:
    """Masks inside the region: "everything", "body" and, for CT targets, each of ``TISSUES``.

    Returns:
        By name, boolean of shape (images, *space).
    """
    inside = case.weight[:, 0].cpu().numpy() > 0
    masks = {EVERYTHING: inside}
    if case.model.card.outputs[0].units != "HU":
        return masks
    hu = case.model.denormalise_output(case.target)[:, 0].cpu().numpy()
    spacing = case.frame.spacing_mm
    body = inside & (body_mask(hu, spacing) if hu.ndim == 3 else body_mask(hu[0], spacing)[None])
    masks[BODY] = body
    for name, (low, high) in TISSUES.items():
        masks[name] = body & (hu > low) & (hu <= high)
    return masks


# -- error -----------------------------------------------------------------------------------------


def add_error_table(
    result: Result,
    case: Case,
    errors: dict[str, Tensor],
    images: dict[str, Tensor],
    evaluations: Tensor,
    kind: str = "ideal",
) -> None:
    """Table "error": mean absolute error by input and tissue, beside the patient's.

    Args:
        result: Receives the table.
        case: What is asked.
        errors: By input, absolute errors of shape (images, D, *space), in the card's units.
        images: By input, of shape (images, C, *space), normalised; how far they leave 0 to 1 is
            told.
        evaluations: Of the network, of shape (starts, images).
        kind: "ideal" or "worst", as the inputs are called.
    """
    units = _units(case)
    masks = {name: mask for name, mask in tissues(case).items() if mask.any()}
    columns: dict[str, list] = {"input": [input_words(name, kind) for name in errors]}
    for tissue, mask in masks.items():
        columns[Column(mae(tissue), units)] = [
            _mean(error.mean(1), mask) for error in errors.values()
        ]
    overall = columns[Column(mae(EVERYTHING), units)]
    columns[Column("share of the patient's own error", "%")] = [
        100 * value / overall[0] if overall[0] else 0.0 for value in overall
    ]
    columns[Column("values outside [0, 1]", "%")] = [
        100 * float(((x < 0) | (x > 1)).float().mean()) for x in images.values()
    ]
    columns["lowest value"] = [float(x.min()) for x in images.values()]
    columns["highest value"] = [float(x.max()) for x in images.values()]
    columns["evaluations per image"] = [0.0, *evaluations.float().mean(1).tolist()]
    result.tables[Key("error")] = Table("Error of the network's output", columns)
    result.facts["error"] = dict(zip(errors, overall))


# -- what changed ----------------------------------------------------------------------------------


def add_change(result: Result, case: Case, names: list[str], images: Tensor) -> None:
    """Table "change" and curves "spectrum <start>": how the ideal input differs from the patient's.

    Args:
        result: Receives table and curves.
        case: What is asked.
        names: Of the starts.
        images: Of shape (starts, images, C, *space), normalised.
    """
    masks = {name: mask for name, mask in tissues(case).items() if mask.any()}
    patient = case.patient.cpu().numpy()
    spacing = case.frame.spacing_mm
    columns: dict[str, list] = {
        heading: []
        for heading in (
            "start",
            "channel",
            "tissue",
            Column("mean change", "normalised"),
            "gradient-energy ratio",
            "correlation with the patient's own",
            "autocorrelation, patient's own",
            "autocorrelation, ideal",
            "mean, patient's own",
            "mean, ideal",
        )
    }
    for name, ideal in zip(names, images.cpu().numpy()):
        lines = {}
        for index, channel in enumerate(case.model.card.inputs):
            before, after = patient[:, index], ideal[:, index]
            energy = [
                gradient_energy(x, case.model.card.dimensions, spacing) for x in (before, after)
            ]
            for tissue, mask in masks.items():
                row = (
                    start_words(name),
                    channel.role,
                    tissue,
                    float((after - before)[mask].mean()),
                    _ratio(energy[1][mask].sum(), energy[0][mask].sum()),
                    correlation(before[mask], after[mask]),
                    autocorrelation(before, mask),
                    autocorrelation(after, mask),
                    float(before[mask].mean()),
                    float(after[mask].mean()),
                )
                for heading, value in zip(columns, row):
                    columns[heading].append(value)
            frequency, ratio = spectrum_ratio(after, before, spacing)
            lines[channel.name] = (frequency.tolist(), ratio.tolist())
        result.curves[Key("spectrum", start=name)] = Curve(
            f"Which frequencies does the ideal input (from {start_words(name)}) change?",
            "frequency (cycles/mm)",
            "power, ideal over patient's own",
            lines,
            log_y=True,
        )
    result.tables[Key("change")] = Table("What changed", columns)


def gradient_energy(
    image: np.ndarray, dimensions: int, spacing_mm: tuple[float, ...]
) -> np.ndarray:
    """Squared gradient magnitude of each voxel, per mm^2.

    Args:
        image: Shape (images, *space), any unit.
        dimensions: 2 for derivatives along j and i, 3 for k, j and i.
        spacing_mm: Voxel size along i, j and k, mm.

    Returns:
        Of the shape of ``image``, in its unit squared per mm^2.
    """
    axes = range(1, image.ndim) if dimensions == 3 else (image.ndim - 2, image.ndim - 1)
    steps = {
        image.ndim - 1: spacing_mm[0],
        image.ndim - 2: spacing_mm[1],
        image.ndim - 3: spacing_mm[2],
    }
    return sum(
        np.gradient(image, steps[axis], axis=axis) ** 2 for axis in axes if image.shape[axis] > 1
    )


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of two arrays of one shape; NaN where one of the two is constant."""
    a, b = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    norm = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / norm) if norm > 0 else float("nan")


def autocorrelation(image: np.ndarray, mask: np.ndarray) -> float:
    """Correlation of each voxel with its neighbour along i: near 0 for noise, near 1 for anatomy.

    Args:
        image: [k, j, i], any unit.
        mask: Boolean, of the same shape; both neighbours must lie in it.
    """
    both = mask[..., 1:] & mask[..., :-1]
    return correlation(image[..., 1:][both], image[..., :-1][both]) if both.any() else float("nan")


def spectrum_ratio(
    after: np.ndarray, before: np.ndarray, spacing_mm: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Radially averaged in-plane power of one image over that of another.

    Args:
        after: [k, j, i], any unit.
        before: Of the same shape and unit.
        spacing_mm: Voxel size along i, j and k, mm.

    Returns:
        Frequencies up to Nyquist's (cycles/mm), and the ratio at each.
    """
    size = after.shape[-2:]
    window = np.hanning(size[0] + 2)[1:-1, None] * np.hanning(size[1] + 2)[None, 1:-1]
    power = [
        (np.abs(np.fft.rfft2((x - x.mean((-2, -1), keepdims=True)) * window)) ** 2)
        .reshape(-1, size[0], size[1] // 2 + 1)
        .mean(0)
        for x in (after, before)
    ]
    radius = np.hypot(
        np.fft.fftfreq(size[0], spacing_mm[1])[:, None],
        np.fft.rfftfreq(size[1], spacing_mm[0])[None],
    )
    nyquist = 0.5 / max(spacing_mm[:2])
    bins = max(4, min(size) // 4)
    index = np.minimum((radius / nyquist * bins).astype(int), bins)
    sums = [np.bincount(index.ravel(), p.ravel(), bins + 1)[:bins] for p in power]
    return (np.arange(bins) + 0.5) * nyquist / bins, sums[0] / np.maximum(sums[1], 1e-30)


# -- whether to believe it -------------------------------------------------------------------------


def add_swap_back(
    result: Result, case: Case, names: list[str], images: Tensor, objective: Objective
) -> None:
    """Table "swap back": the error when one channel of the ideal input returns to the patient's.

    Args:
        result: Receives the table.
        case: What is asked.
        names: Of the starts.
        images: Of shape (starts, images, C, *space), normalised.
        objective: Of the same images, a mean over voxels.
    """
    columns: dict[str, list] = {
        heading: []
        for heading in (
            "start",
            "channel put back",
            Column("MAE", _units(case)),
            Column("share of the gain lost", "%"),
        )
    }
    before = output_error(case, objective, case.patient)
    for name, ideal in zip(names, images):
        best = output_error(case, objective, ideal)
        for index, channel in enumerate(case.model.card.inputs):
            mixed = ideal.clone()
            mixed[:, index] = case.patient[:, index]
            error = output_error(case, objective, mixed)
            for heading, value in zip(
                columns,
                (start_words(name), channel.role, error, 100 * _ratio(error - best, before - best)),
            ):
                columns[heading].append(value)
    result.tables[Key("swap back")] = Table("One channel back to the patient's own", columns)


def add_validity(
    result: Result,
    case: Case,
    names: list[str],
    images: Tensor,
    objective: Objective,
    second: Model | None,
    seed: int,
    kind: str = "ideal",
) -> None:
    """Table "validity": the error of inputs that should not be better.

    And of the ideal ones under noise and blur; images are of shape (starts, images, C, *space).

    Null distribution (random pairs, as in Feather et al., Nat Neurosci 26, 2023): each target
    against the inputs of other patients, and against the input of another image of the same
    patient, which needs at least two images.
    """
    noise = NOISE * torch.randn(
        case.patient.shape, generator=torch.Generator().manual_seed(seed)
    ).to(case.patient)
    rows = []
    for name, image in [(OWN, case.patient), *zip(names, images)]:
        words = input_words(name, kind)
        rows += [
            (words, image),
            (f"{words}, blurred", blurred(image)),
            (f"{words}, noisier", image + noise),
        ]
    rows += [
        (f"Other patient {number}'s input", images) for number, images in enumerate(case.others, 1)
    ]
    labels = [label for label, _ in rows]
    values = [output_error(case, objective, image) for _, image in rows]
    count = len(case.patient)
    shuffled = (
        [
            output_error(case, objective, case.patient.roll(step, 0))
            for step in sorted({max(1, count * part // 8) for part in range(1, 8)})
        ]
        if count > 1
        else []
    )
    for label, figure in (
        (("lowest", np.min), ("median", np.median), ("highest", np.max)) if shuffled else ()
    ):
        labels.append(f"{input_words(OWN)}, slices shuffled, {label}")
        values.append(float(figure(shuffled)))
    columns: dict[str, list] = {"input": labels, Column("MAE", _units(case)): values}
    if second is not None:
        errors = [_second_error(case, second, image) for _, image in rows]
        columns[Column(f"MAE of {second.card.name}", _units(case))] = errors + [float("nan")] * (
            len(labels) - len(errors)
        )
        gain = [(errors[0] - e) / max(values[0] - v, 1e-9) for e, v in zip(errors, values)]
        result.facts["gain that transfers"] = {
            f"ideal {name}": gain[labels.index(input_words(name, kind))] for name in names
        }
    result.tables[Key("validity")] = Table("Would other inputs do as well?", columns)


def add_optima(result: Result, case: Case, inputs: Tensor) -> None:
    """Table "optima": by channel what inputs that are as good share, and where they differ.

    Args:
        result: Receives the table.
        case: What is asked.
        inputs: At least two, of one error, (members, images, C, *space), normalised.
    """
    roles = [channel.role for channel in case.model.card.inputs]
    columns: dict[str, list] = {
        heading: []
        for heading in (
            "channel",
            Column("shared change", "normalised"),
            Column("spread", "normalised"),
            Column("shared by all", "%"),
        )
    }
    for name, place in [*((r, slice(n, n + 1)) for n, r in enumerate(roles)), ("all", slice(None))]:
        patient, free = case.patient[:, place], case.free[:, place]
        both = common_and_spread(inputs[:, :, place], patient, free)
        for heading, value in zip(columns, (name, *both, 100 * shared_part(*both))):
            columns[heading].append(value)
    result.tables[Key("optima")] = Table("Which inputs do as well?", columns)


def output_error(case: Case, objective: Objective, images: Tensor) -> float:
    """Mean absolute error inside the region over all images, in ``Model.error_scale``.

    Args:
        case: Region and scaling.
        objective: For these images.
        images: Normalised inputs, shape (images, C, *space).
    """
    return objective.mean_error(images) * case.model.error_scale[0]


def _second_error(case: Case, second: Model, images: Tensor) -> float:
    """The same error, of another network: images and target pass through scanner units."""
    model = case.model
    scaling = second.scalings(case.whole)
    x = second.normalise_tensor(model.denormalise(images, case.scaling), scaling)
    target = second.normalise_target_tensor(model.denormalise_output(case.target))
    objective = Objective(second, target, case.weight, Terms(), multiple=second.card.size_multiple)
    return objective.mean_error(x) * second.error_scale[0]


def _mean(values: Tensor, mask: np.ndarray) -> float:
    return float(values.cpu().numpy()[mask].mean(dtype=np.float64))


def _ratio(a: float, b: float) -> float:
    return float(a / b) if b else float("nan")


def _units(case: Case) -> str:
    return case.model.error_scale[1]
