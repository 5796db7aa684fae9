"""A case: volumes brought onto the network's grid, the region, and the starts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import models as model_files
from ..core import meaning
from ..core import volumes as core_volumes
from ..core.names import require_names
from ..core.progress import Progress
from ..core.volumes import Region, Volume
from ..models import Model
from .served import noise_deviations
from .settings import IdealInputSettings

OTHER = re.compile(r"other (\d+) ")
"""How the role of an input channel of another patient begins."""


@dataclass(frozen=True)
class Case:
    """The images of one run, as tensors in the network's units and axes.

    ``patient`` (images, C, *space), ``target`` (images, D, *space), ``weight`` and ``free``
    (images, 1, *space) and (images, C, *space): where the error counts, where the input may change.
    A 2-D network has one image per slice, a 3-D network one image. ``frame``: the window as a
    volume on the network's axes; ``original``: the same, cut out of the first input; ``whole``: the
    inputs before anything was cut out, on the first one's grid. ``others``: other patients' inputs,
    shaped like ``patient``.
    """

    model: Model
    patient: Tensor
    target: Tensor
    weight: Tensor
    free: Tensor
    frame: Volume
    original: Volume
    whole: list[Volume]
    scaling: list[dict]
    facts: dict
    others: list[Tensor] = field(default_factory=list)

    @cached_property
    def noise(self) -> Tensor:
        """Standard deviation of each channel's noise, (1, C, 1, ...), in the network's units."""
        return noise_deviations(self.patient)

    def volume(self, images: Tensor, channel: int, name: str, units: str) -> Volume:
        """A channel as a volume with the first input's voxel order.

        Args:
            images: Of shape (images, C, *space), already in ``units``.
            channel: Which of the C.
            name: Of the volume.
            units: Of its values.
        """
        array = (
            images[:, channel].cpu().numpy()
            if images.dim() == 4
            else images[0, channel].cpu().numpy()
        )
        return core_volumes.reorient_like(
            Volume(array, self.frame.ijk_to_ras, name, units), self.original
        )


# -- images ----------------------------------------------------------------------------------------


def prepare(
    volumes: dict[str, Volume],
    model: Model,
    settings: IdealInputSettings,
    progress: Progress,
    device: torch.device,
) -> Case:
    """Check the volumes and bring the region onto one grid, in the network's axes and units.

    Args:
        volumes: By role, [k, j, i] in scanner units; "mask" is optional.
        model: The network and its card.
        settings: See ``IdealInputSettings``.
        progress: Receives warnings.
        device: Where the case's images lie, of shape (images, C, *space), normalised.

    Raises:
        ValueError: Volumes are missing or unusable, or nothing may change; says what to do.
    """
    card = model.card
    roles = _required_roles(volumes, card, settings)
    original = volumes[card.inputs[0].role]
    gridded = {
        role: _on_grid(volume, original, role, progress)
        for role, volume in volumes.items()
        if role in (*roles, "mask")
    }
    facts: dict[str, Any] = {
        "warnings": [*_check_spacing(original, card), *_check_roles(gridded, card)]
    }
    for warning in facts["warnings"]:
        progress.log(f"Warning: {warning}")
    window, inside = _window(original, settings, card)
    turned = {role: _turned(volume, window, card) for role, volume in gridded.items()}
    inside = _turned(original.with_array(inside), window, card).array

    # Scalings come from the whole patient volume, not from the region, so that a region does not
    # change the problem.
    whole = [gridded[channel.role] for channel in card.inputs]
    scaling = model.scalings(whole)
    patient = model.normalise([turned[channel.role] for channel in card.inputs], scaling)
    target, clipped = model.normalise_target([turned[channel.role] for channel in card.outputs])
    if clipped:
        progress.log(
            f"{clipped} target voxels lie outside the range the network can give; they are clipped"
            " to it."
        )
    weight = model.as_images([inside])
    free = _free(weight.expand_as(patient).clone(), turned.get("mask"), model, settings)
    facts.update(
        inputs={role: volume.name for role, volume in volumes.items()},
        channels={channel.role: channel.name for channel in (*card.inputs, *card.outputs)},
        clipped_target_voxels=clipped,
        scaling=scaling,
        window=list(window),
        grid=f"{' x '.join(map(str, patient.shape[2:]))}, {len(patient)} image(s)",
    )
    return Case(
        model,
        patient.to(device),
        target.to(device),
        weight.to(device),
        free.to(device),
        turned[card.inputs[0].role],
        core_volumes.crop(original, window),
        whole,
        scaling,
        facts,
        [images.to(device) for images in _other_patients(volumes, original, window, model)],
    )


def _turned(volume: Volume, window: Region, card: model_files.Card) -> Volume:
    """A window of a volume in the network's axes."""
    return core_volumes.reorient(core_volumes.crop(volume, window), card.orientation)


def _required_roles(
    volumes: dict[str, Volume], card: model_files.Card, settings: IdealInputSettings
) -> list[str]:
    """Roles of the network's inputs and outputs, each of which has a volume."""
    roles = [channel.role for channel in (*card.inputs, *card.outputs)]
    numbers = sorted({found[1] for found in map(OTHER.match, volumes) if found})
    others = [f"other {number} {channel.role}" for number in numbers for channel in card.inputs]
    require_names("volume", volumes, (), [*roles, "mask", *others])
    missing = [role for role in roles if role not in volumes]
    if missing:
        raise ValueError(
            f"the network {card.name!r} needs a volume for each of {', '.join(roles)}; "
            f"missing: {', '.join(missing)}"
        )
    wrong = set(settings.locked) - {channel.role for channel in card.inputs}
    if wrong:
        raise ValueError(
            f"cannot lock {', '.join(sorted(wrong))}: the network has no such input channel"
        )
    return roles


def _free(free: Tensor, mask: Volume | None, model: Model, settings: IdealInputSettings) -> Tensor:
    """What may change, 0 or 1 of shape (images, C, *space): of the region given, what the mask
    holds and no locked channel.
    """
    if mask is not None:
        free *= model.as_images([mask.array != 0])
        if not free.any():
            raise ValueError(
                "the mask is empty inside the region: nothing may change; choose another mask"
            )
    for index, channel in enumerate(model.card.inputs):
        if channel.role in settings.locked:
            free[:, index] = 0
    if not free.any():
        raise ValueError("every input channel is locked: unlock at least one")
    return free


def require_same_images(first: model_files.Card, second: model_files.Card) -> None:
    def takes(card):
        return (
            [channel.role for channel in (*card.inputs, *card.outputs)],
            card.dimensions,
            card.orientation,
        )

    if takes(first) != takes(second):
        kinds = [
            f"{', '.join(roles)}, {dimensions}-D"
            for roles, dimensions, _ in map(takes, (first, second))
        ]
        raise ValueError(
            f"the second network, {second.name!r}, is for other images ({kinds[1]}) than"
            f" {first.name!r} ({kinds[0]}): choose one for the same images, or none"
        )


def _on_grid(volume: Volume, reference: Volume, role: str, progress: Progress) -> Volume:
    core_volumes.check(volume)
    if core_volumes.same_grid(volume, reference):
        return volume
    is_mask = role == "mask"
    if not is_mask and core_volumes.overlap_fraction(volume, reference) < 0.5:
        raise ValueError(
            f"'{volume.name}' ({role}) covers less than half of '{reference.name}': they are"
            " probably not of the same patient or not registered. Check the volumes, or crop the"
            " first input to the part that both show"
        )
    progress.log(
        f"'{volume.name}' ({role}) is on another grid: resampled to that of '{reference.name}'."
    )
    # A mask is empty beyond its own grid.
    return (
        core_volumes.resample(volume, reference, "nearest", fill=0)
        if is_mask
        else core_volumes.resample(volume, reference)
    )


def _other_patients(
    volumes: dict[str, Volume], original: Volume, window: tuple[int, ...], model: Model
) -> list[Tensor]:
    """Normalised inputs of each other patient, seen through the same window of a grid moved onto
    that patient.
    """
    found, card = [], model.card
    for number in sorted({int(role.split()[1]) for role in volumes if role.startswith("other ")}):
        roles = [f"other {number} {channel.role}" for channel in card.inputs]
        missing = [role for role in roles if role not in volumes]
        if missing:
            raise ValueError(
                f"other patient {number} lacks {', '.join(missing)}: give every channel"
            )
        channels = [_recentred(core_volumes.check(volumes[role]), original, card) for role in roles]
        scaling = model.scalings([volumes[role] for role in roles])
        turned = [
            core_volumes.reorient(core_volumes.crop(channel, window), card.orientation)
            for channel in channels
        ]
        found.append(model.normalise(turned, scaling))
    return found


def _recentred(volume: Volume, grid: Volume, card: model_files.Card) -> Volume:
    """``volume`` sampled on ``grid`` moved so that both have the same centre.

    A 2-D network gets no empty slices: where the volume shows less of the body than the grid, its
    slices are repeated.
    """

    def centre(v: Volume) -> np.ndarray:
        return v.ijk_to_ras @ [*((np.array(v.array.shape[::-1]) - 1) / 2), 1]

    matrix = grid.ijk_to_ras.copy()
    matrix[:3, 3] += (centre(volume) - centre(grid))[:3]
    moved = Volume(grid.array, matrix, grid.name, grid.units)
    sampled = core_volumes.resample(volume, moved).array
    if card.dimensions == 2:
        axis = core_volumes.axis_toward(grid, card.orientation[2])[0]
        covered = core_volumes.resample(
            volume.with_array(np.ones(volume.array.shape, np.uint8)), moved, "nearest", fill=0
        ).array
        slices = np.flatnonzero(covered.any(tuple(a for a in range(3) if a != axis)))
        sampled = sampled.take(slices[np.arange(sampled.shape[axis]) % len(slices)], axis)
    return grid.with_array(sampled, volume.name)


def _check_spacing(volume: Volume, card: model_files.Card) -> list[str]:
    low, high = card.spacing_mm
    axes = core_volumes.reorient(volume, card.orientation).spacing_mm[: card.dimensions]
    if all(0.95 * low <= spacing <= 1.05 * high for spacing in axes):
        return []
    return [
        f"The network was trained on voxels of {low:g} to {high:g} mm; these measure "
        f"{' x '.join(f'{s:.2f}' for s in axes)} mm. Its errors may be larger than its card says."
    ]


def _check_roles(volumes: dict[str, Volume], card: model_files.Card) -> list[str]:
    """Signs that a volume was chosen for the wrong channel: values far off what the card says,
    another channel's name.
    """
    found = []
    roles = {channel.role: channel.name for channel in (*card.inputs, *card.outputs)}
    for channel in (*card.inputs, *card.outputs):
        volume = volumes[channel.role]
        if channel.units == "HU" and (reason := meaning.why_no_hu(volume)):
            found.append(f"{reason}, but is chosen as {channel.name}: is it a CT in HU?")
        sample = volume.array[:: max(1, len(volume.array) // 16)].astype(np.float32)
        low, high = np.percentile(sample, (0.5, 99.5))
        if channel.high is not None:
            margin = (0.1 if channel in card.inputs else 0.5) * (channel.high - channel.low)
            if low < channel.low - margin or high > channel.high + margin:
                found.append(
                    f"'{volume.name}' is chosen as {channel.name}, but its values reach from"
                    f" {low:.4g} to {high:.4g} instead of {channel.low:g} to {channel.high:g}"
                    f" {channel.units}. Is it the right volume, in the right units?".replace(
                        "  ", " "
                    )
                )
        elif channel.percentile is not None and (low < 0 or high <= 1.05):
            what = (
                "negative values"
                if low < 0
                else f"no value above {high:.3g}: it looks like a fraction"
            )
            found.append(
                f"'{volume.name}' is chosen as {channel.name}, but has {what}. Is it the right"
                " volume?"
            )
        named = [role for role in roles if _says(volume.name, role)]
        if named and channel.role not in named:
            found.append(
                f"'{volume.name}' is chosen as {channel.name}, but by its name it is the"
                f" {roles[named[0]]}. Are two volumes swapped?"
            )
    return found


def _says(name: str, role: str) -> bool:
    """Whether a volume's name holds all words of a role: "Subject 3 fat-fraction" is a
    "fat_fraction".
    """
    words = "".join(letter if letter.isalnum() else " " for letter in name.lower()).split()
    return all(word in words for word in role.lower().split("_"))


def _window(
    volume: Volume, settings: IdealInputSettings, card: model_files.Card
) -> tuple[Region, np.ndarray]:
    """The region plus its context; and an array [k, j, i] of uint8, 1 inside the region itself."""
    shape = volume.array.shape
    inside = np.zeros(shape, np.uint8)
    region = settings.region or tuple(x for n in shape for x in (0, n))
    low, high = region[::2], region[1::2]
    if len(region) != 6 or any(a < 0 or b > n or a >= b for a, b, n in zip(low, high, shape)):
        raise ValueError(
            f"the region {region} does not lie within the volume of {shape[::-1]} voxels (i, j, k):"
            " move it onto the image"
        )
    inside[tuple(slice(a, b) for a, b in zip(low, high))] = 1
    margins = [settings.context] * 3
    if card.dimensions == 2:  # slices do not see each other
        margins[core_volumes.axis_toward(volume, card.orientation[2])[0]] = 0
    grown = [(max(0, a - m), min(n, b + m)) for a, b, n, m in zip(low, high, shape, margins)]
    return core_volumes.as_region(x for pair in grown for x in pair), inside


def make_starts(case: Case, settings: IdealInputSettings) -> tuple[list[str], Tensor]:
    """The starts; what may not change is the patient's in each.

    Returns:
        Names of the starts, and their normalised images, shape (starts, images, C, *space).
    """
    names, images = [], []
    for start in settings.starts:
        for number in range(settings.noise_seeds if start == "noise" else 1):
            if start == "noise":
                generator = torch.Generator().manual_seed(settings.seed + number)
                image = torch.rand(case.patient.shape, generator=generator).to(case.patient)
            else:
                image = torch.zeros_like(case.patient) if start == "zeros" else case.patient.clone()
            names.append(
                f"{start} {number + 1}" if start == "noise" and settings.noise_seeds > 1 else start
            )
            images.append(torch.where(case.free > 0, image, case.patient))
    return names, torch.stack(images)
