"""Checkpoints: what a training needs to go on, in a file that holds no code and no pickle.

The format is that of model files: tensors as safetensors keeps them, everything else as JSON in the
header, and sums of both, so that no bit can change unnoticed.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.writing import replacing
from ..models.card import ModelError
from ..models.header import FORMAT, NO_SUM, checked_sum, parsed, raw_header, sealed

KEY = "netinversion checkpoint"
PIECE = 1 << 20
# An optimiser keeps several tensors for each of a network's weights.
LONGEST_HEADER, MOST_PARTS = 1 << 25, 3_000_000
# A state is nested some six deep; beyond this a file was not written here.
DEEPEST = 50


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and says what to do."""


def save(path: Path | str, state: dict) -> None:
    """Write a state, whole or not at all.

    Args:
        path: Of the checkpoint.
        state: Numbers, texts, None, tensors and arrays of any shape, in dictionaries (by texts or
            whole numbers), lists and tuples.

    Raises:
        TypeError: It holds something else.
    """
    from safetensors.torch import save as to_bytes

    tensors: list[Tensor] = []
    tree = _written(state, tensors)
    text = json.dumps({"format": FORMAT, "sha256": f"{NO_SUM} {NO_SUM}", "state": tree})
    data = to_bytes({str(n): tensor for n, tensor in enumerate(tensors)}, {KEY: text})
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_bytes(sealed(data))


def load(path: Path | str, device: torch.device | str = "cpu") -> dict:
    """The state that ``save`` wrote, to the last bit; tensors are on a device.

    Raises:
        CheckpointError: The file is not a checkpoint, of another version, incomplete or damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    try:
        raw = raw_header(path, LONGEST_HEADER, MOST_PARTS)
        metadata = parsed(raw[8:], path).get("__metadata__")
        if not isinstance(metadata, dict) or not isinstance(metadata.get(KEY), str):
            raise ModelError("it is another kind of file")
        values = parsed(metadata[KEY], path)
        if checked_sum(values, raw, path) != _sum_of_weights(path, len(raw)):
            raise ModelError("its numbers are not those that were written")
        with safe_open(path, "pt", device=str(device)) as file:
            return _read(values["state"], file.get_tensor, str(device))
    except (ValueError, SafetensorError, KeyError, TypeError, OSError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is no checkpoint that can be used: it is damaged, another version wrote it, or"
            " it is another kind of file; delete it to start afresh, or choose another name"
        ) from error


def _sum_of_weights(path: Path, start: int) -> str:
    found = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(start)
        while piece := file.read(PIECE):
            found.update(piece)
    return found.hexdigest()


# What JSON has no word for is a list that begins with one of these.
_TENSOR, _ARRAY, _TUPLE, _TABLE, _LIST = "tensor", "array", "tuple", "table", "list"
_NUMBER = "number"  # that is not finite


def _written(value: Any, tensors: list[Tensor]) -> Any:
    """A value as JSON; tensors and arrays are numbered."""
    if isinstance(value, float) and not math.isfinite(value):
        return [_NUMBER, repr(float(value))]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        tensors.append(value.detach().cpu().contiguous().clone())
        return [_TENSOR, len(tensors) - 1]
    if isinstance(value, np.ndarray):
        tensors.append(torch.from_numpy(np.array(value, order="C")))
        return [_ARRAY, len(tensors) - 1]
    if isinstance(value, dict):
        return [_TABLE, *([_written(k, tensors), _written(v, tensors)] for k, v in value.items())]
    if isinstance(value, (list, tuple)):
        kind = _TUPLE if isinstance(value, tuple) else _LIST
        return [kind, *(_written(part, tensors) for part in value)]
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__}")


def _read(value: Any, tensor: Any, device: str, depth: int = 0) -> Any:
    """A value as it was."""
    if not isinstance(value, list):
        return value
    if depth > DEEPEST:
        raise TypeError("it is nested too deeply")
    kind, *parts = value
    if kind == _NUMBER:
        return float(parts[0])
    if kind == _TENSOR:
        return tensor(str(parts[0]))
    if kind == _ARRAY:
        return tensor(str(parts[0])).cpu().numpy()
    if kind == _TABLE:
        return {key: _read(part, tensor, device, depth + 1) for key, part in parts}
    found = [_read(part, tensor, device, depth + 1) for part in parts]
    return tuple(found) if kind == _TUPLE else found
