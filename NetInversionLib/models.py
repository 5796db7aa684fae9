"""Model files: one ``.safetensors`` with the weights and, in its header, a card that says what the
model is.

Nothing in a model file is code: the card names an architecture of ``networks`` and its arguments,
and every name, shape and type is checked before a weight is read. Reading a card needs neither
torch nor the weights.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .volumes import Volume

FORMAT = 1
SUFFIX = ".safetensors"
METADATA_KEY = "netinversion"
# A card and a list of some hundred tensors take some ten thousand bytes.
MAX_HEADER_BYTES = 1 << 20
BYTES_OF_TYPE = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "BOOL": 1}

IMAGE_TO_IMAGE, HARMONIZATION = "image-to-image", "harmonization"

# Where a patient's chosen percentile comes to lie, so that the brightest voxels still fit below 1.
PERCENTILE_LANDS_AT = 0.9


class ModelError(ValueError):
    """A model file that cannot be used; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class Channel:
    """One image that a network takes or gives; in the network's units it is ``(value - low) / (high
    - low)``.

    Attributes:
        name: For a person choosing the image: "Dixon in-phase".
        role: Identifier by which volumes are handed over: "in_phase".
        units: Of the image's values, such as "HU".
        low: Value that becomes 0.
        high: Value that becomes 1; None where ``percentile`` is given.
        percentile: For images without a scale of their own (MR): ``high`` is ``percentile_high`` of
            the patient's volume. 0 < percentile <= 100, and None where ``high`` is given.
    """

    name: str
    role: str
    units: str
    low: float
    high: float | None
    percentile: float | None = None

    def scaling_for(self, array: np.ndarray) -> dict:
        """{"role", "low", "high"} for a patient's volume, in its units."""
        high = self.high if self.percentile is None else percentile_high(array, self.percentile)
        return {"role": self.role, "low": self.low, "high": high}


def percentile_high(array: np.ndarray, percentile: float) -> float:
    """The value that becomes 1 for an image without a scale of its own.

    The percentile of all values above the volume's mean (the body, by and large), divided by 0.9.

    Raises:
        ModelError: No value lies above the mean (a constant image), or the percentile is not above
            0.
    """
    array = np.asarray(array, np.float32)
    inside = array[array > array.mean(dtype=np.float64)]
    high = float(np.percentile(inside, percentile)) / PERCENTILE_LANDS_AT if inside.size else 0.0
    if not high > 0:
        raise ModelError(
            "the image has no positive signal to scale by; choose another volume for this channel"
        )
    return high


@dataclass(frozen=True)
class Card:
    """What a model is, as its file's header says.

    Attributes:
        name, version: Of the model.
        architecture, arguments: Name in ``networks.ARCHITECTURES`` and what it is built with (JSON
            values).
        inputs, outputs: The channels, in the network's order.
        dimensions: 2 (one slice at a time) or 3.
        orientation: Axes that arrays [k, j, i] must have: "LPS" means i toward left, j posterior, k
            superior. "RAS" for other tasks than image-to-image.
        spacing_mm: Smallest and largest in-plane voxel size trained on, mm.
        size_multiple: Sizes that need no padding inside the network are multiples of it.
        trained_on: Names of the scans trained on.
        sources: Where those come from, with their licences.
        licence: Of the weights.
        intended_use: In words that a clinician reads.
        quality: Measured figures, each a number or a sentence.
        training: Settings of the training, numbers and strings.
        task: What the model is for: "image-to-image" (inputs to outputs, as Ideal Input needs it),
            "harmonization", or another word that this version may not know. Files without it are
            "image-to-image".
    """

    name: str
    version: str
    architecture: str
    arguments: dict
    inputs: tuple[Channel, ...]
    outputs: tuple[Channel, ...]
    dimensions: int
    orientation: str
    spacing_mm: tuple[float, float]
    size_multiple: int
    trained_on: tuple[str, ...]
    sources: str
    licence: str
    intended_use: str
    quality: dict = field(default_factory=dict)
    training: dict = field(default_factory=dict)
    task: str = IMAGE_TO_IMAGE


@dataclass(frozen=True)
class Model:
    """A network ready for use (eval, weights frozen), its card, and the file it came from.

    Images are float32 tensors (images, C, *space): of a 2-D network one image per slice, (K, C, J,
    I); of a 3-D network the one volume, (1, C, K, J, I). Volumes must have the card's orientation.
    A scaling is a list of one ``Channel.scaling_for`` per input channel, plain JSON, found once
    from the patient's whole volumes.
    """

    network: torch.nn.Module
    card: Card
    path: Path
    sha256: str

    def __call__(self, images: Tensor) -> Tensor:
        """Normalised input images to normalised outputs of the same spatial size; gradients pass to
        the input.
        """
        return self.network(images)

    def scalings(self, volumes: list[Volume]) -> list[dict]:
        """The scaling of a patient's input volumes (whole, any orientation), in the card's channel
        order.

        Raises:
            ModelError: Another number of volumes than inputs, or an image without signal.
        """
        _require_count(volumes, self.card.inputs, self.card.name)
        return [c.scaling_for(v.array) for c, v in zip(self.card.inputs, volumes)]

    def scalings_of(self, images: Tensor) -> list[dict]:
        """The scaling of input images (images, C, *space) in the patient's units."""
        return [c.scaling_for(images[:, n].cpu().numpy()) for n, c in enumerate(self.card.inputs)]

    def normalise(self, volumes: list[Volume], scaling: list[dict]) -> Tensor:
        """Input volumes, in the card's channel order and of one size, as normalised images on the
        CPU.

        Raises:
            ModelError: Another number of volumes than inputs, or volumes of different sizes.
        """
        _require_count(volumes, self.card.inputs, self.card.name)
        return self.normalise_tensor(self.as_images([v.array for v in volumes]), scaling)

    def normalise_tensor(self, images: Tensor, scaling: list[dict]) -> Tensor:
        """Input images (images, C, J, I) in the patient's units, normalised."""
        return (images - _column(scaling, "low", images)) / _span(scaling, images)

    def denormalise(self, images: Tensor, scaling: list[dict]) -> Tensor:
        """Normalised input images (images, C, J, I) in the patient's units."""
        return self.denormalise_change(images, scaling) + _column(scaling, "low", images)

    def denormalise_change(self, images: Tensor, scaling: list[dict]) -> Tensor:
        """A difference or spread of normalised input images (images, C, J, I) in the patient's
        units.
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
        """Target images of shape (images, D, *space) in the card's units, normalised and clipped to
        0 to 1.
        """
        return self._normalised_output(images).clamp(0, 1)

    def denormalise_output(self, images: Tensor) -> Tensor:
        """Normalised outputs of shape (images, D, *space) in the card's units."""
        ranges = [asdict(c) for c in self.card.outputs]
        return images * _span(ranges, images) + _column(ranges, "low", images)

    @property
    def error_scale(self) -> tuple[float, str]:
        """What a normalised error is multiplied by to be told to a person, and its unit: (3000,
        "HU"), say.

        Outputs that differ in unit or range have no unit in common: their error is told in per cent
        of the range.
        """
        kinds = {(c.high - c.low, c.units) for c in self.card.outputs}
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
        """What a result records of its model: name, version, file, SHA-256 and what it was trained
        on.
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
            f"{name} needs {len(channels)} volumes ({wanted}) and got {len(volumes)}; choose one for each"
        )


def _column(scaling: list[dict], key: str, images: Tensor) -> Tensor:
    """One value per channel, shaped to broadcast over (images, C, *space)."""
    return images.new_tensor([s[key] for s in scaling]).reshape(-1, *[1] * (images.dim() - 2))


def _span(scaling: list[dict], images: Tensor) -> Tensor:
    return images.new_tensor([s["high"] - s["low"] for s in scaling]).reshape(
        -1, *[1] * (images.dim() - 2)
    )


# Files --------------------------------------------------------------------------------------------


def save(path: Path | str, network: torch.nn.Module, card: Card) -> Path:
    """Write a model file, whole or not at all.

    Raises:
        ModelError: The card is not valid, or the network is not what the card describes.
    """
    from safetensors.torch import save as to_bytes

    path = Path(path)
    text = json.dumps({"format": FORMAT, **asdict(card)}, allow_nan=False)
    card = _card(text, path)
    # contiguous: safetensors refuses strided tensors (channels_last weights).
    state = {
        name: weight.detach().cpu().contiguous().clone()
        for name, weight in network.state_dict().items()
    }
    _skeleton(card, {name: tuple(weight.shape) for name, weight in state.items()}, path)

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(to_bytes(state, {METADATA_KEY: text}))
    part.replace(path)
    return path


def load(path: Path | str, device: torch.device | str = "cpu") -> Model:
    """Read a model file.

    Raises:
        ModelError: Missing, truncated, foreign or hostile file; a network that this version does
            not know; weights that do not fit it or are not finite.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    path = Path(path)
    card, shapes = _read(path)
    network = _skeleton(card, shapes, path)
    data = path.read_bytes()
    try:
        state = {
            name: weight if weight.dtype == torch.bool else weight.float()
            for name, weight in from_bytes(data).items()
        }
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path.name} is damaged ({error}); get the file again") from error
    for name, weight in state.items():
        if not torch.isfinite(weight).all():
            raise ModelError(
                f"{path.name} has weights that are not finite numbers ({name}); get the file again"
            )
    network.load_state_dict(state, assign=True)
    network.to(device).eval().requires_grad_(False)
    return Model(network, card, path, hashlib.sha256(data).hexdigest())


def read_card(path: Path | str) -> Card:
    """The card of a model file, from its header alone.

    Raises:
        ModelError: As ``load``, as far as the header shows it.
    """
    return _read(Path(path))[0]


def verify(path: Path | str) -> Model:
    """Load a model, and run it once with gradients to see that it works.

    Raises:
        ModelError: As ``load``; or the network fails, gives another number of channels or size, or
            no finite output and gradient.
    """
    import torch

    model = load(path)
    smallest = max(2 * model.card.size_multiple, getattr(model.network, "smallest_size", 1))
    size = (smallest + 1,) * model.card.dimensions
    image = torch.full((1, len(model.card.inputs), *size), 0.5, requires_grad=True)
    try:
        output = model(image)
        output.sum().backward()
    except RuntimeError as error:
        raise ModelError(
            f"{model.path.name}: the network does not run ({error}); get the file again"
        ) from error
    expected = (1, len(model.card.outputs), *size)
    if tuple(output.shape) != expected:
        raise ModelError(
            f"{model.path.name}: the network gives {tuple(output.shape)} instead of {expected}"
        )
    if not (torch.isfinite(output).all() and torch.isfinite(image.grad).all() and image.grad.any()):
        raise ModelError(
            f"{model.path.name}: output or gradient is not finite, or the gradient is zero"
        )
    return model


def model_folders() -> list[Path]:
    """Where models are looked for: the folders of ``NETINVERSION_MODELS``, then those that came
    with the extension.
    """
    named = [Path(p) for p in os.environ.get("NETINVERSION_MODELS", "").split(os.pathsep) if p]
    library = Path(__file__).resolve().parent
    # In a source checkout and in Slicer the models lie beside the library; pip can put them only
    # inside it.
    return [*named, library.parent / "Resources" / "Models", library / "reference_models"]


def list_models(folders: Iterable[Path | str] | None = None) -> dict[Path, Card | ModelError]:
    """Model files of ``folders`` (``model_folders()`` unless given), each with its card, or why it
    cannot be used.
    """
    found: dict[Path, Card | ModelError] = {}
    for folder in model_folders() if folders is None else folders:
        for path in sorted(Path(folder).glob("*" + SUFFIX)):
            try:
                found[path] = read_card(path)
            except ModelError as error:
                found[path] = error
    return found


def record_quality(path: Path | str, quality: dict) -> None:
    """Write measured figures into a model file's card; the weights stay."""
    model = load(path)
    save(path, model.network, replace(model.card, quality=quality))


# Reading, with nothing taken on trust -------------------------------------------------------------


def _read(path: Path) -> tuple[Card, dict[str, tuple[int, ...]]]:
    """Card and tensor shapes from a file's header."""
    header = _json(_header_bytes(path), path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not isinstance(metadata.get(METADATA_KEY), str):
        raise ModelError(
            f"{path.name} holds weights but no NetInversion card; use a model made by NetInversion, "
            "or convert this one with models.save"
        )
    shapes, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: _offsets(item[1], path)):
        shapes[name], end = _tensor(entry, end, path)
    if path.stat().st_size != end + _data_start(path):
        raise ModelError(f"{path.name} is incomplete or has something appended; get the file again")
    return _card(metadata[METADATA_KEY], path), shapes


def _data_start(path: Path) -> int:
    with open(path, "rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def _header_bytes(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or not 2 <= length <= MAX_HEADER_BYTES:
                raise ModelError(
                    f"{path.name} is not a safetensors file (perhaps a renamed checkpoint: those can run code and are "
                    "never opened); choose a NetInversion model"
                )
            header = file.read(length)
    except OSError as error:
        raise ModelError(
            f"cannot read the model {path}: {error.strerror}; check the path"
        ) from error
    if len(header) < length:
        raise ModelError(f"{path.name} is incomplete; get the file again")
    return header


def _json(text: bytes | str, path: Path) -> dict:
    def refuse(constant):
        raise ValueError(f"{constant} is not a number")

    try:
        value = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{path.name} has an unreadable header ({error}); get the file again"
        ) from error
    if not isinstance(value, dict):
        raise ModelError(
            f"{path.name} has an unreadable header (not an object); get the file again"
        )
    return value


def _offsets(entry, path: Path) -> list[int]:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not _whole_numbers(offsets) or len(offsets) != 2:
        raise ModelError(f"{path.name} has a damaged list of weights; get the file again")
    return offsets


def _tensor(entry: dict, start: int, path: Path) -> tuple[tuple[int, ...], int]:
    """Shape and end of one tensor, which must begin where the last one ended."""
    shape, kind, (begin, end) = entry.get("shape"), entry.get("dtype"), entry["data_offsets"]
    if (
        not _whole_numbers(shape)
        or not isinstance(kind, str)
        or kind not in BYTES_OF_TYPE
        or begin != start
    ):
        raise ModelError(f"{path.name} has a damaged list of weights; get the file again")
    if end - begin != math.prod(shape) * BYTES_OF_TYPE[kind]:
        raise ModelError(
            f"{path.name} has weights whose size does not match their shape; get the file again"
        )
    return tuple(shape), end


def _whole_numbers(values) -> bool:
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)


def _skeleton(card: Card, shapes: dict[str, tuple[int, ...]], path: Path) -> torch.nn.Module:
    """The card's network without memory for its weights, checked against the file's tensors."""
    import torch

    from . import networks

    try:
        with torch.device("meta"):
            network = networks.build(card.architecture, **card.arguments)
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"{path.name}: {error}; a newer NetInversion may read it") from error
    for name, channels in (("in_channels", card.inputs), ("out_channels", card.outputs)):
        if getattr(network, name, len(channels)) != len(channels):
            raise ModelError(
                f"{path.name}: {name} does not match the {len(channels)} channels of its card"
            )
    if getattr(network, "dimensions", card.dimensions) != card.dimensions:
        raise ModelError(
            f"{path.name}: the network's dimensions are not the card's {card.dimensions}"
        )
    expected = {name: tuple(weight.shape) for name, weight in network.state_dict().items()}
    wrong = sorted(n for n in expected.keys() | shapes.keys() if expected.get(n) != shapes.get(n))
    if wrong:
        raise ModelError(
            f"{path.name}: {len(wrong)} weights do not fit the network {card.architecture!r} "
            f"(first: {wrong[0]}, wanted {expected.get(wrong[0])}, found {shapes.get(wrong[0])}); get the file again"
        )
    return network


def _card(text: str, path: Path) -> Card:
    values = _json(text, path)
    if values.pop("format", None) != FORMAT:
        raise ModelError(f"{path.name} has another file format than {FORMAT}; update NetInversion")
    values.setdefault("task", IMAGE_TO_IMAGE)
    try:
        values["inputs"] = tuple(_channel(v) for v in values["inputs"])
        values["outputs"] = tuple(_channel(v) for v in values["outputs"])
        _fields(Card, values, _CARD_RULES)
        if values["task"] == IMAGE_TO_IMAGE and values["orientation"] != "LPS":
            raise ValueError("an image-to-image network takes volumes in LPS axes")
        values["spacing_mm"], values["trained_on"] = (
            tuple(values["spacing_mm"]),
            tuple(values["trained_on"]),
        )
        return Card(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path.name} has a card that is not valid ({error}); get the file again"
        ) from error


def _channel(values) -> Channel:
    _fields(Channel, values, _CHANNEL_RULES)
    high, percentile = values["high"], values["percentile"]
    if (high is None) == (percentile is None) or (high is not None and high <= values["low"]):
        raise ValueError("a channel needs either high above low, or a percentile")
    return Channel(**values)


def _fields(kind: type, values, rules: dict[str, Callable]) -> None:
    if not isinstance(values, dict) or values.keys() != {f.name for f in fields(kind)}:
        raise ValueError(f"{kind.__name__} needs exactly {', '.join(f.name for f in fields(kind))}")
    for name, rule in rules.items():
        if not rule(values[name]):
            raise ValueError(f"{kind.__name__}.{name} is not valid: {str(values[name])[:80]}")


def _text(value, longest: int = 20_000) -> bool:
    return isinstance(value, str) and len(value) <= longest


def _number(value) -> bool:
    return type(value) in (int, float) and abs(value) < 1e12


def _facts(value) -> bool:
    return isinstance(value, dict) and all(
        _text(k) and (_text(v) or _number(v)) for k, v in value.items()
    )


def _spacing(value) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(map(_number, value))
        and 0 < value[0] <= value[1]
    )


_CHANNEL_RULES = {
    "name": _text,
    "role": lambda v: _text(v, 100) and v.isidentifier(),
    "units": _text,
    "low": _number,
    "high": lambda v: v is None or _number(v),
    "percentile": lambda v: v is None or (_number(v) and 0 < v <= 100),
}
_CARD_RULES = {
    **dict.fromkeys(
        ("name", "version", "architecture", "sources", "licence", "intended_use"), _text
    ),
    "arguments": lambda v: isinstance(v, dict),
    "inputs": lambda v: 0 < len(v) == len({c.role for c in v}),
    "outputs": lambda v: (
        0 < len(v) == len({c.role for c in v}) and all(c.high is not None for c in v)
    ),
    "dimensions": lambda v: type(v) is int and v in (2, 3),
    "orientation": lambda v: v in ("LPS", "RAS"),
    "spacing_mm": _spacing,
    "size_multiple": lambda v: type(v) is int and 1 <= v <= 1024,
    "trained_on": lambda v: isinstance(v, list) and all(map(_text, v)),
    "quality": _facts,
    "training": _facts,
    "task": lambda v: _text(v, 100) and bool(v),
}
