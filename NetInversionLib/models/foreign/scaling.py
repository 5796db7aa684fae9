"""Which scaling a network expects of its images, found by trying where it is not told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ...core import volumes as core_volumes
from ...core.volumes import Volume
from ..card import ModelError
from .adapted import Adapted, Form
from .description import HU_RANGE, Description, Image, ScaledChannel, input_channel, output_channel

MOST_VOXELS = 160
"""Side of the part of a slice that scalings are tried on."""
AIR_HU = -500.0


def found_scaling(
    network: nn.Module,
    form: Form,
    told: Description,
    inputs: list[Volume] | None,
    targets: list[Volume] | None,
    log: Callable[[str], None],
) -> Description:
    """The description with a scaling for every image.

    Where volumes are given, usual scalings are tried and the one is taken with which the output
    comes closest to the target (of a denoiser: to its input). Without them values go in and come
    out as they are.

    Args:
        network: In eval mode.
        form: How it wants its images.
        told: With its images.
        inputs, targets: Volumes, [k, j, i], one an image; or None.
        log: Is told what was tried and chosen.

    Raises:
        ModelError: A range is needed and cannot be read off.
    """
    if not _open(told):
        return _filled(told, inputs, targets)
    if inputs is None:
        log("How its values are scaled is not told: they go in and come out as they are.")
        return _filled(told, None, None)
    wanted = targets if targets is not None else inputs[: len(told.outputs)]
    told = _filled(told, inputs, wanted, keep_open=True)
    if len(wanted) != len(told.outputs):
        return _filled(told, inputs, wanted)
    trials = _trials(network, form, told, inputs, wanted)
    if not trials:
        return _filled(told, inputs, wanted)
    # Where several come as close, as rounding tells them apart, the first is the simplest.
    enough = 1.001 * min(trial.error for trial in trials) + 1e-6
    best = next(trial for trial in trials if trial.error <= enough)
    words = ", ".join(f"{t.words} {t.error:.3g}" for t in sorted(trials, key=lambda t: t.error)[:4])
    log(
        f"How its values are scaled is not told: {len(trials)} ways were tried on the middle slice,"
        f" and {best.words} comes closest (mean absolute errors: {words})."
    )
    return best.told


@dataclass(frozen=True)
class _Trial:
    """A way of scaling, in words, as a description, and the mean absolute error it gives."""

    words: str
    told: Description
    error: float


def _open(told: Description) -> bool:
    return any(image.scaling is None for image in (*told.inputs, *told.outputs))


def _filled(
    told: Description,
    inputs: list[Volume] | None,
    targets: list[Volume] | None,
    keep_open: bool = False,
) -> Description:
    """Plausible values from the volumes; "none" as scaling where nothing is told."""
    for kind, volumes in (("inputs", inputs), ("outputs", targets)):
        images = []
        for n, image in enumerate(getattr(told, kind)):
            volume = volumes[n] if volumes is not None and n < len(volumes) else None
            image = _with_range(image, volume)
            if image.scaling is None and not keep_open:
                image = replace(image, scaling="none")
            images.append(image)
        told = told.with_images(kind, tuple(images))
    return told


def _with_range(image: Image, volume: Volume | None) -> Image:
    """An image with plausible values: told ones, those of CT, or the volume's."""
    known = image.low is not None and image.high is not None
    if known or image.scaling in ("percentile", "z-score"):
        return image
    if volume is None and image.scaling == "mean-std":
        return image
    if volume is None:
        low, high = HU_RANGE if image.units == "HU" else (0.0, 1.0)
    else:
        low, high = float(volume.array.min()), float(volume.array.max())
        if image.units == "HU" or (not image.units and low < AIR_HU):
            low, high = HU_RANGE
            image = replace(image, units="HU")
        elif not low < high:
            raise ModelError(f"the image for {image.name!r} is constant; choose another volume")
    return replace(
        image,
        low=low if image.low is None else image.low,
        high=high if image.high is None else image.high,
    )


def _input_ways(images: tuple[Image, ...]) -> list[tuple[str, tuple[Image, ...]]]:
    """Usual scalings of the inputs that tell none, in words and as images."""
    ways: list[tuple[str, dict]] = [
        ("values as they are", {"scaling": "none"}),
        ("the range to 0...1", {"scaling": "range", "to": (0.0, 1.0)}),
        ("the range to -1...1", {"scaling": "range", "to": (-1.0, 1.0)}),
        ("percentiles to 0...1", {"scaling": "percentile", "to": (0.0, 1.0)}),
        ("z-scores", {"scaling": "z-score"}),
    ]
    if all(image.units == "HU" for image in images if image.scaling is None):
        ways[3:4] = [("HU / 1000", {"scaling": "mean-std", "mean": 0.0, "std": 1000.0})]
    return _variants(images, ways)


def _output_ways(images: tuple[Image, ...]) -> list[tuple[str, tuple[Image, ...]]]:
    """Usual scalings of the outputs that tell none."""
    ways: list[tuple[str, dict]] = [
        ("values as they are", {"scaling": "none"}),
        ("0...1", {"scaling": "range", "to": (0.0, 1.0)}),
        ("-1...1", {"scaling": "range", "to": (-1.0, 1.0)}),
        ("units of its input", {"scaling": "as input"}),
    ]
    if all(image.units == "HU" for image in images if image.scaling is None):
        ways.append(("HU / 1000", {"scaling": "mean-std", "mean": 0.0, "std": 1000.0}))
    return _variants(images, ways)


def _variants(
    images: tuple[Image, ...], ways: list[tuple[str, dict]]
) -> list[tuple[str, tuple[Image, ...]]]:
    if all(image.scaling is not None for image in images):
        return [("as told", images)]
    return [
        (words, tuple(i if i.scaling is not None else replace(i, **fields) for i in images))
        for words, fields in ways
    ]


def _trials(
    network: nn.Module,
    form: Form,
    told: Description,
    inputs: list[Volume],
    wanted: list[Volume],
) -> list[_Trial]:
    """Every way of scaling that works, with its error on the middle of the volumes."""
    trials = []
    unit = tuple(ScaledChannel("", f"o{n}", "", 0.0, 1.0) for n in range(len(told.outputs)))
    target = _middle(wanted, form)
    span = [max(float((v.array.max() - v.array.min())), 1e-12) for v in wanted]
    for words, images in _input_ways(told.inputs):
        taken = tuple(input_channel(image) for image in images)
        try:
            scaling = [c.scaling_for(v.array) for c, v in zip(taken, inputs)]
            x = _normalised(_middle(inputs, form), scaling)
            with torch.no_grad():
                raw = Adapted(network, form, taken, unit)(x)
        except (ModelError, RuntimeError, ValueError):
            continue
        for given_words, outputs in _output_ways(told.outputs):
            error = _error(raw, outputs, taken, scaling, target, span)
            if error is None:
                continue
            resolved = _resolved(outputs, taken, scaling)
            trials.append(
                _Trial(
                    f"in: {words}, out: {given_words}",
                    replace(told, inputs=images, outputs=resolved),
                    error,
                )
            )
    return trials


def _resolved(
    outputs: tuple[Image, ...], taken: tuple[ScaledChannel, ...], scaling: list[dict]
) -> tuple[Image, ...]:
    """Outputs that are scaled as the patient's input, with what the network has for their own
    plausible values.
    """
    low, high = scaling[0]["low"], scaling[0]["high"]
    start, stop = taken[0].network
    slope = (stop - start) / (high - low)
    resolved = []
    for image in outputs:
        if image.scaling == "as input":
            ends = [start + slope * ((v or 0.0) - low) for v in (image.low, image.high)]
            image = replace(image, scaling="range", to=(ends[0], ends[1]))
        resolved.append(image)
    return tuple(resolved)


def _error(
    raw: Tensor,
    outputs: tuple[Image, ...],
    taken: tuple[ScaledChannel, ...],
    scaling: list[dict],
    target: Tensor,
    span: list[float],
) -> float | None:
    """Mean absolute error over the span of each target, or None where it cannot be taken."""
    if raw.shape != target.shape:
        return None
    total = 0.0
    for n, image in enumerate(_resolved(outputs, taken, scaling)):
        channel = output_channel(image, taken)
        low, high = channel.network
        values = channel.low + (raw[:, n] - low) / (high - low) * (
            (channel.high or 1) - channel.low
        )
        total += float((values - target[:, n]).abs().mean()) / span[n]
    error = total / len(outputs)
    return error if error == error else None


def _middle(volumes: list[Volume], form: Form) -> Tensor:
    """The middle of volumes in their units, axes LPS: (1, C, J, I) or (1, C, K, J, I)."""
    depth = max(form.smallest, form.multiple, 2 * form.neighbours + 1)
    arrays = []
    for volume in volumes:
        on_grid = volume
        if not core_volumes.same_grid(volume, volumes[0]):
            on_grid = core_volumes.resample(volume, volumes[0])
        array = torch.from_numpy(core_volumes.reorient(on_grid, "LPS").float32().copy())
        parts = []
        for size, most in zip(array.shape, (depth, MOST_VOXELS, MOST_VOXELS)):
            first = max(0, (size - most) // 2)
            parts.append(slice(first, min(size, first + most)))
        arrays.append(array[tuple(parts)])
    stack = torch.stack(arrays)[None]
    return stack[:, :, stack.shape[2] // 2] if form.dimensions == 2 else stack


def _normalised(images: Tensor, scaling: list[dict]) -> Tensor:
    """Images (N, C, *space) in units of 0 to 1."""
    shape = (1, -1, *[1] * (images.dim() - 2))
    low, high = (
        images.new_tensor([s[key] for s in scaling]).reshape(shape) for key in ("low", "high")
    )
    return (images - low) / (high - low)
