"""Model files: one ``.safetensors`` with the weights and a card.

The card, in the file's header, says what the model is.

Nothing in a model file is code: the card names an architecture of ``networks`` and its arguments,
and every name, shape and type is checked before a weight is read. Reading a card needs neither
torch nor the weights.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..core.volumes import Volume
from typing import TYPE_CHECKING

from .card import ModelError

if TYPE_CHECKING:
    from .card import Card, Channel


@dataclass(frozen=True)
class Model:
    """A network ready for use (eval, weights frozen), its card, and the file it came from.

    Images are float32 tensors (images, C, *space): of a 2-D network one image per slice, (K, C, J,
    I); of a 3-D network the one volume, (1, C, K, J, I). Volumes must have the card's orientation.
    A scaling is a list of one ``Channel.scaling_for`` per input channel, plain JSON, found once
    from the patient's whole volumes. ``sha256`` is that of the whole file; ``protected`` says
    whether any change of the file since it was written would have been noticed.
    """

    network: torch.nn.Module
    card: Card
    path: Path
    sha256: str
    protected: bool = True

    def __call__(self, images: Tensor) -> Tensor:
        """Normalised input images to normalised outputs of the same spatial size.

        Gradients pass to the input.
        """
        return self.network(images)

    def scalings(self, volumes: list[Volume]) -> list[dict]:
        """The scaling of a patient's input volumes, in the card's channel order.

        Args:
            volumes: Whole, [k, j, i], any orientation.

        Raises:
            ModelError: Another number of volumes than inputs, or an image without signal.
        """
        _require_count(volumes, self.card.inputs, self.card.name)
        return [c.scaling_for(v.array) for c, v in zip(self.card.inputs, volumes)]

    def scalings_of(self, images: Tensor) -> list[dict]:
        """The scaling of input images of shape (images, C, *space) in the patient's units."""
        return [c.scaling_for(images[:, n].cpu().numpy()) for n, c in enumerate(self.card.inputs)]

    def normalise(self, volumes: list[Volume], scaling: list[dict]) -> Tensor:
        """Input volumes as normalised images on the CPU.

        Args:
            volumes: In the card's channel order and of one size, [k, j, i].
            scaling: From ``scalings``.

        Returns:
            Of shape (images, C, *space).

        Raises:
            ModelError: Another number of volumes than inputs, or volumes of different sizes.
        """
        _require_count(volumes, self.card.inputs, self.card.name)
        return self.normalise_tensor(self.as_images([v.array for v in volumes]), scaling)

    def normalise_tensor(self, images: Tensor, scaling: list[dict]) -> Tensor:
        """Input images of shape (images, C, *space) in the patient's units, normalised."""
        return (images - _column(scaling, "low", images)) / _span(scaling, images)

    def denormalise(self, images: Tensor, scaling: list[dict]) -> Tensor:
        """Normalised input images of shape (images, C, *space) in the patient's units."""
        return self.denormalise_change(images, scaling) + _column(scaling, "low", images)

    def denormalise_change(self, images: Tensor, scaling: list[dict]) -> Tensor:
        """A difference of normalised input images in the patient's units.

        Of shape (images, C, *space).
        """
        return images * _span(scaling, images)

    def normalise_target(self, volumes: list[Volume]) -> tuple[Tensor, int]:
        """Target volumes as normalised images on the CPU, and how many voxels were clipped.

        Values beyond the range that the network was trained to give (0 to 1) are clipped to it.

        Args:
            volumes: In the card's output order, [k, j, i] of one size.

        Returns:
            Images of shape (images, D, *space), and the count.

        Raises:
            ModelError: Another number of volumes than outputs, or volumes of different sizes.
        """
        _require_count(volumes, self.card.outputs, self.card.name)
        images = self._normalised_output(self.as_images([v.array for v in volumes]))
        return images.clamp(0, 1), int(((images < 0) | (images > 1)).sum())

    def normalise_target_tensor(self, images: Tensor) -> Tensor:
        """Target images in the card's units, normalised and clipped to 0 to 1.

        Of shape (images, D, *space).
        """
        return self._normalised_output(images).clamp(0, 1)

    def denormalise_output(self, images: Tensor) -> Tensor:
        """Normalised outputs of shape (images, D, *space) in the card's units."""
        ranges = [asdict(c) for c in self.card.outputs]
        return images * _span(ranges, images) + _column(ranges, "low", images)

    @property
    def error_scale(self) -> tuple[float, str]:
        """What a normalised error is multiplied by to be told to a person, and its unit.

        (3000, "HU"), say.

        Outputs that differ in unit or range have no unit in common: their error is told in per cent
        of the range.
        """
        # ``read_card`` takes no output whose range is not fixed.
        kinds = {(float(c.high or 0) - c.low, c.units) for c in self.card.outputs}
        span, units = kinds.pop() if len(kinds) == 1 else (100.0, "% of range")
        return span, units or "a.u."

    def as_images(self, arrays: list) -> Tensor:
        """Arrays or tensors [k, j, i], one per channel, as images; values stay.

        Raises:
            ModelError: The arrays are not 3-D or not of one size.
        """
        import torch

        shapes = {tuple(a.shape) for a in arrays}
        if len(shapes) != 1 or len(arrays[0].shape) != 3:
            raise ModelError(
                f"the volumes must be 3-D and of one size, not {sorted(shapes)}: resample them"
            )
        # ascontiguousarray: torch takes neither negative strides nor unsigned 16-bit integers.
        stack = torch.stack([torch.from_numpy(np.ascontiguousarray(a, np.float32)) for a in arrays])
        return stack.transpose(0, 1).contiguous() if self.card.dimensions == 2 else stack[None]

    def facts(self) -> dict:
        """What a result records of its model.

        Name, version, file, SHA-256 and what it was trained on.
        """
        card = self.card
        return {
            "name": card.name,
            "version": card.version,
            "file": self.path.name,
            "sha256": self.sha256,
            "trained_on": list(card.trained_on),
            "licence": card.licence,
            "intended_use": card.intended_use,
        }

    def _normalised_output(self, images: Tensor) -> Tensor:
        ranges = [asdict(c) for c in self.card.outputs]
        return (images - _column(ranges, "low", images)) / _span(ranges, images)


def _require_count(volumes: list[Volume], channels: tuple[Channel, ...], name: str) -> None:
    if len(volumes) != len(channels):
        wanted = ", ".join(c.name for c in channels)
        raise ModelError(
            f"{name} needs {len(channels)} volumes ({wanted}) and got {len(volumes)}; choose one"
            " for each"
        )


def _column(scaling: list[dict], key: str, images: Tensor) -> Tensor:
    """One value per channel, shaped to broadcast over (images, C, *space)."""
    return images.new_tensor([s[key] for s in scaling]).reshape(-1, *[1] * (images.dim() - 2))


def _span(scaling: list[dict], images: Tensor) -> Tensor:
    return images.new_tensor([s["high"] - s["low"] for s in scaling]).reshape(
        -1, *[1] * (images.dim() - 2)
    )
