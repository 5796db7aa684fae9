"""Model files, read with suspicion: names, shapes and types are checked before any weight."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    import torch

from .card import CARD_RULES, IMAGE_TO_IMAGE, Card, ModelError, check_fields, read_channel
from .model import Model

FORMAT = 1
SUFFIX = ".safetensors"
METADATA_KEY = "netinversion"
# A card and a list of some hundred tensors take some ten thousand bytes.
MAX_HEADER_BYTES = 1 << 20
BYTES_OF_TYPE = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "BOOL": 1}


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
            f"{path.name} holds weights but no NetInversion card; use a model made by NetInversion,"
            " or convert this one with models.save"
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
                    f"{path.name} is not a safetensors file (perhaps a renamed checkpoint: those"
                    " can run code and are never opened); choose a NetInversion model"
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


def _offsets(entry: object, path: Path) -> list[int]:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not _whole_numbers(offsets) or len(offsets) != 2:
        raise ModelError(f"{path.name} has a damaged list of weights; get the file again")
    return offsets


def _tensor(entry: dict, start: int, path: Path) -> tuple[tuple[int, ...], int]:
    """Shape and end of one tensor, which must begin where the last one ended."""
    shape, kind = entry.get("shape"), entry.get("dtype")
    begin, end = entry["data_offsets"]
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


def _whole_numbers(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)


def _skeleton(card: Card, shapes: dict[str, tuple[int, ...]], path: Path) -> torch.nn.Module:
    """The card's network without memory for its weights, checked against the file's tensors."""
    import torch

    from .. import networks

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
            f"{path.name}: {len(wrong)} weights do not fit the network {card.architecture!r}"
            f" (first: {wrong[0]}, wanted {expected.get(wrong[0])}, found {shapes.get(wrong[0])});"
            " get the file again"
        )
    return network


def _card(text: str, path: Path) -> Card:
    values = _json(text, path)
    if values.pop("format", None) != FORMAT:
        raise ModelError(f"{path.name} has another file format than {FORMAT}; update NetInversion")
    values.setdefault("task", IMAGE_TO_IMAGE)
    try:
        values["inputs"] = tuple(read_channel(v) for v in values["inputs"])
        values["outputs"] = tuple(read_channel(v) for v in values["outputs"])
        check_fields(Card, values, CARD_RULES)
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
