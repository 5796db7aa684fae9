"""Model files, read with suspicion: names, shapes, types and sums are checked before any use."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

from ..core.writing import replacing
from . import header as model_header
from . import sums
from .card import Card, ModelError
from .header import FORMAT, MAX_HEADER_BYTES, METADATA_KEY  # noqa: F401  (offered by the wing)
from .library import shipped
from .model import Model

# Largest side of the image that ``verify`` runs a network on, for one without a size of its own.
LARGEST_TRIED = 64


# Files --------------------------------------------------------------------------------------------


def save(path: Path | str, network: torch.nn.Module, card: Card) -> Path:
    """Write a model file with the sums of its content, whole or not at all.

    Raises:
        ModelError: The card is not valid, or the network is not what the card describes.
    """
    from safetensors.torch import save as to_bytes

    from .skeleton import skeleton

    path = Path(path)
    values = model_header.plain(card)
    card = model_header.as_card(values, path)
    # contiguous: safetensors refuses strided tensors (channels_last weights).
    state = {
        name: weight.detach().cpu().contiguous().clone()
        for name, weight in network.state_dict().items()
    }
    skeleton(card, {name: tuple(weight.shape) for name, weight in state.items()}, path)

    data = model_header.sealed(to_bytes(state, {METADATA_KEY: model_header.unsealed(values)}))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_bytes(data)
    sums.note(path, hashlib.sha256(data).hexdigest())
    return path


def load(path: Path | str, device: torch.device | str = "cpu") -> Model:
    """Read a model file.

    Raises:
        ModelError: Missing, truncated, foreign, damaged or hostile file; a network that this
            version does not know; weights that do not fit it or are not finite.
    """
    from .skeleton import skeleton

    path = Path(path)
    header = model_header.read(path)
    network = skeleton(header.card, {t.name: t.shape for t in header.tensors}, path)
    state, whole = _weights(path, header)
    sums.check_listed(path, whole)
    if header.weights_sum is None:
        sums.check_copy(path, header, shipped())
    network.load_state_dict(state, assign=True)
    network.to(device).eval().requires_grad_(False)
    return Model(network, header.card, path, whole, protected(path, header))


def read_card(path: Path | str) -> Card:
    """The card of a model file, from its header alone.

    Raises:
        ModelError: As ``load``, as far as the header shows it.
    """
    return model_header.read(Path(path)).card


def verify(path: Path | str, device: torch.device | str = "cpu") -> Model:
    """Load a model, and run it once with gradients to see that it works.

    Args:
        path: Of the model file.
        device: Where it runs.

    Raises:
        ModelError: As ``load``; or the network fails, gives another number of channels or size, or
            no finite output and gradient.
    """
    import torch

    model = load(path, device)
    multiple = getattr(model.network, "size_multiple", model.card.size_multiple)
    smallest = max(
        2 * min(multiple, LARGEST_TRIED // 2), getattr(model.network, "smallest_size", 1)
    )
    size = (smallest + 1,) * model.card.dimensions
    image = torch.full((1, len(model.card.inputs), *size), 0.5, device=device, requires_grad=True)
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


def protected(path: Path, header: model_header.Header) -> bool:
    """Whether any change of the file since it was written would be noticed."""
    return header.weights_sum is not None or path.name in sums.listed(path.parent)


# Weights ------------------------------------------------------------------------------------------


def _weights(path: Path, header: model_header.Header) -> tuple[dict[str, torch.Tensor], str]:
    """All weights as float32 (bool where they are that), and the whole file's SHA-256.

    One weight after the other is read, so that memory holds the file's numbers once. Shapes of the
    tensors are those of the header.
    """
    whole, weights = hashlib.sha256(header.raw), hashlib.sha256()
    state = {}
    try:
        with open(path, "rb") as file:
            if file.read(header.start) != header.raw:
                raise ModelError(f"{path.name} was changed while it was read; try again")
            for tensor in header.tensors:
                data = _read(file, tensor.size, path)
                whole.update(data)
                weights.update(data)
                state[tensor.name] = _as_tensor(data, tensor, path)
    except OSError as error:
        raise ModelError(
            f"cannot read the model {path}: {error.strerror}; check the path"
        ) from error
    if header.weights_sum is not None and header.weights_sum != weights.hexdigest():
        raise ModelError(
            f"{path.name} is damaged or was changed: its weights are not those that were written;"
            " get the file again"
        )
    return state, whole.hexdigest()


def _read(file: BufferedReader, size: int, path: Path) -> bytearray:
    data = bytearray(size)
    if file.readinto(data) != size:
        raise ModelError(f"{path.name} is incomplete; get the file again")
    return data


def _as_tensor(data: bytearray, tensor: model_header.Tensor, path: Path) -> torch.Tensor:
    """A weight's bytes as float32, or bool, of its shape.

    Raises:
        ModelError: They are not finite numbers, or neither true nor false.
    """
    import torch

    kinds = {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "BOOL": torch.uint8,
    }
    if not data:
        kind = torch.bool if tensor.kind == "BOOL" else torch.float32
        return torch.empty(tensor.shape, dtype=kind)
    values = torch.frombuffer(data, dtype=kinds[tensor.kind]).reshape(tensor.shape)
    if tensor.kind == "BOOL":
        if (values > 1).any():
            raise ModelError(
                f"{path.name} has flags that are neither true nor false ({tensor.name!r}); get the"
                " file again"
            )
        return values.bool()
    values = values.float()
    if not torch.isfinite(values).all():
        raise ModelError(
            f"{path.name} has weights that are not finite numbers ({tensor.name}); get the file"
            " again"
        )
    return values
