"""What is asked: what of one region of one CT may change without one denoiser noticing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from .. import models as model_files
from ..core import devices, meaning
from ..core import volumes as core_volumes
from ..core.volumes import Volume
from ..models import Model
from ..models.card import SAMPLING
from ..networks.layers import UpTo
from . import experiments
from .choices import image_noise
from .level_set import LevelSet, Window
from .sampler import Sampling
from .settings import InvariancesSettings

AIR_HU = -1024.0


@dataclass(frozen=True)
class Question:
    """One denoiser and the region of a CT that it is asked about.

    Attributes:
        original: The CT as it was given, HU, any axes.
        volume: The same with axes LPS.
        hu: Its voxels, (K, J, I) float32, HU, on the CPU.
        model: The denoiser, on ``device``.
        sampling: The sampler made for it, where there is one.
        slices: The axial slices that are looked at.
        region: The part of each slice in which the input may change.
        epsilon: What counts as unnoticed: HU for the output, relative for a hidden layer.
        segments: Labels (K, J, I) on the grid of ``volume``, where there are any.
        normal: The CT at normal dose on the grid of ``volume``, HU, where there is one.
        inputs: Names of the images by role.
        label: What stands behind the names of the images that are made.
    """

    original: Volume
    volume: Volume
    hu: Tensor
    model: Model
    settings: InvariancesSettings
    device: torch.device
    sampling: Sampling | None
    slices: range
    region: Window
    epsilon: float
    segments: np.ndarray | None
    normal: Volume | None
    inputs: dict[str, str]
    label: str

    @property
    def low(self) -> float:
        """HU that the network takes as 0."""
        return self.model.card.inputs[0].low

    @property
    def scale(self) -> float:
        """HU per normalised unit."""
        return self.model.card.inputs[0].high - self.model.card.inputs[0].low

    def normalised(self, hu: Tensor) -> Tensor:
        """Images as the network takes them: HU of any shape (..., H, W) to normalised units."""
        return (hu - self.low) / self.scale

    def batch(self, hu: Tensor) -> Tensor:
        """Images (N, H, W) in HU as a normalised batch (N, 1, H, W) on the device."""
        return self.normalised(hu)[:, None].to(self.device)

    def moved(self, target: LevelSet, changes: Tensor) -> Tensor:
        """Changes (N, H, W) of the patient's image in HU as normalised contents.

        Those are (N, 1, H, W), of the region.
        """
        return target.start + (changes / self.scale)[:, None].to(self.device)

    def measured(self, target: LevelSet, changes: Tensor) -> Tensor:
        """The measure (N,) of changes (N, H, W) in HU."""
        return target.measure(self.moved(target, changes))

    def level_set(self, x0: Tensor, window: Window, layer: str) -> LevelSet:
        """What may not change in a window of a normalised slice of shape (1, 1, J, I)."""
        patch = self.settings.patch(self.volume.spacing_mm)
        return LevelSet(self.model.network, x0, window, layer, self.scale, patch)

    def height_mm(self, k: int) -> float:
        """Where a slice's first voxel lies, S in mm."""
        return float((self.volume.ijk_to_ras @ (0, 0, k, 1.0))[2])

    def denoised(self, x0: Tensor) -> Tensor:
        """The network's output for a slice.

        Args:
            x0: The slice, (1, 1, J, I), normalised.

        Returns:
            The denoised slice (J, I), HU, on the CPU.

        Raises:
            ModelError: The network cannot run on slices of this size, or changes it.
        """
        name, size = self.model.card.name, tuple(x0.shape[2:])
        try:
            with torch.no_grad():
                output = self.model.network(x0)
        except RuntimeError as error:
            if devices.is_out_of_memory(error):
                raise
            multiple = self.model.card.size_multiple
            raise model_files.ModelError(
                f"{name!r} cannot run on slices of {size[0]} x {size[1]} voxels ({error}): sizes"
                f" must be multiples of {multiple}. Crop the volume or choose another model"
            ) from error
        if tuple(output.shape) != tuple(x0.shape):
            raise model_files.ModelError(
                f"{name!r} makes {tuple(output.shape)} of {tuple(x0.shape)}: a CT denoiser gives an"
                " image of the same size. Choose another model"
            )
        return output[0, 0].cpu() * self.scale + self.low


def question(
    volumes: Mapping[str, Volume],
    model: Model,
    sampling: Sampling | None,
    settings: InvariancesSettings,
    device: torch.device,
    label: str = "",
) -> Question:
    """What is asked of one denoiser, checked.

    Args:
        volumes: "low_dose", HU, [k, j, i], any orientation; where there are any, on any grids,
            "normal_dose", HU, and "segments", whole numbers.
        model: The denoiser, on ``device``.
        sampling: Its sampler at work, or None.
        settings: Say where, and what counts as unnoticed.
        device: Where the network runs.
        label: What stands behind the names of the images that are made.

    Raises:
        ValueError: A volume is not in HU or holds no noise, or the region or the lesion miss it, or
            the other volumes lie elsewhere.
    """
    ct = volumes["low_dose"]
    meaning.require_hu(core_volumes.check(ct))
    volume = core_volumes.reorient(ct, "LPS")
    hu = torch.from_numpy(np.ascontiguousarray(volume.float32()))
    experiments.check_lesion(volume, settings)
    slices, region = _region(ct, settings.region)
    labels = normal = None
    if "segments" in volumes:
        segments = meaning.require_labels(volumes["segments"])
        same = core_volumes.resample(segments, ct, "nearest", 0)
        labels = core_volumes.reorient(same, "LPS").array
    if "normal_dose" in volumes:
        full = meaning.require_hu(core_volumes.check(volumes["normal_dose"]))
        normal = core_volumes.reorient(core_volumes.resample(full, ct), "LPS")
    return Question(
        original=ct,
        volume=volume,
        hu=hu,
        model=model,
        settings=settings,
        device=device,
        sampling=sampling,
        slices=slices,
        region=region,
        epsilon=_epsilon(settings, hu[slices.start : slices.stop]),
        segments=labels,
        normal=normal,
        inputs={role: volume.name for role, volume in volumes.items()},
        label=label,
    )


def _region(ct: Volume, asked: tuple[int, ...] | None) -> tuple[range, Window]:
    """The slices and the part of each, with axes LPS, of a region with the CT's own axes."""
    box = asked or tuple(bound for size in ct.shape for bound in (0, size))
    low, high = box[::2], box[1::2]
    if len(box) != 6 or any(a < 0 or b > n or a >= b for a, b, n in zip(low, high, ct.shape)):
        raise ValueError(
            f"the region {box} does not lie within the volume of {ct.shape[::-1]}"
            " voxels (i, j, k): move it onto the image"
        )
    inside = np.zeros(ct.shape, bool)
    inside[tuple(slice(a, b) for a, b in zip(low, high))] = True
    turned = core_volumes.reorient(ct.with_array(inside), "LPS").array
    ((k, j, i),) = ndimage.find_objects(turned.astype(np.uint8))
    return range(k.start, k.stop), Window(j.start, j.stop, i.start, i.stop)


def _epsilon(settings: InvariancesSettings, hu: Tensor) -> float:
    """What counts as unnoticed in slices (K, J, I), HU, in the measure's units."""
    if settings.layer != "output":
        return settings.epsilon_layer
    if settings.epsilon_hu is not None:
        return settings.epsilon_hu
    noise_hu = image_noise(hu.numpy())
    if not noise_hu > 0:
        raise ValueError(
            "no noise could be measured in this region (is it constant?): give epsilon in HU"
        )
    return settings.epsilon_noise * noise_hu


# Models that are asked ----------------------------------------------------------------------------


def checked_denoiser(model: Model, layers: tuple[str, ...]) -> Model:
    """The model, if it is a denoiser that has these layers.

    Raises:
        ModelError: It is not; says what to choose.
        LayerError: It has no such layer.
    """
    card = model.card
    if card.task == SAMPLING:
        raise model_files.ModelError(
            f"{card.name!r} is no denoiser but a sampler made for one: choose the denoiser, and"
            " this file as its sampler"
        )
    if len(card.inputs) != 1 or len(card.outputs) != 1 or card.dimensions != 2:
        raise model_files.ModelError(
            f"{card.name!r} has {len(card.inputs)} inputs and {len(card.outputs)} outputs in"
            f" {card.dimensions}-D: a CT denoiser has one of each, slice by slice. Choose another"
            " model"
        )
    if {card.inputs[0].units, card.outputs[0].units} != {"HU"}:
        raise model_files.ModelError(f"{card.name!r} does not work in HU: choose a CT denoiser")
    if not all(torch.isfinite(p).all() for p in model.network.parameters()):
        raise model_files.ModelError(
            f"{card.name!r} holds weights that are not numbers: its training has failed. Choose"
            " another"
        )
    device = next((p.device for p in model.network.parameters()), "cpu")
    image = torch.zeros(1, 1, 64, 64, device=device)
    for layer in layers:
        try:
            UpTo(model.network, layer, image, repr(card.name))
        except RuntimeError as error:
            raise model_files.ModelError(
                f"{card.name!r} does not run on images of one channel ({error}): choose a CT"
                " denoiser"
            ) from error
    return model


def sampler_at_work(
    sampler: Model | None, denoiser: Model, settings: InvariancesSettings, device: torch.device
) -> Sampling | None:
    """The sampler at work, if there is one.

    Raises:
        ModelError: There is none and the proposals need one, or it is not the denoiser's.
    """
    draws = "cinn" in settings.proposals
    if sampler is not None:
        return Sampling(sampler, denoiser, settings.layer if draws else None, device)
    if draws:
        raise model_files.ModelError(
            "proposals 'cinn' are drawn by a sampler, and there is none for"
            f" {denoiser.card.name!r}: name one made by 'netinversion train cinn', or choose noise"
            " or texture"
        )
    return None
