"""What the header of a model file says, read with suspicion and without torch.

A file is in the format of safetensors. Format 2 also holds two sums: ``sha256`` in the card is the
SHA-256 of the header (with the sums' own letters as zeros but for that of the weights) and that of
the weights, so that no bit of a file can change unnoticed. Format 1, as older versions wrote it,
has none.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeGuard

from .card import CARD_RULES, IMAGE_TO_IMAGE, Card, ModelError, check_fields, read_channel

FORMAT, FORMAT_WITHOUT_SUMS = 2, 1
METADATA_KEY = "netinversion"
# A card and a list of some hundred tensors take some ten thousand bytes.
MAX_HEADER_BYTES = 1 << 20
# Brackets, braces and commas in it: each becomes a Python object many times its size.
MAX_HEADER_PARTS = 100_000
BYTES_OF_TYPE = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "BOOL": 1}
SUM = re.compile(r"[0-9a-f]{64}")
NO_SUM = "0" * 64
# Control characters but for line ends and tabs, halves of a character, and Unicode's marks that let
# the rest of a line be written from right to left.
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Tensor:
    """Where the numbers of a weight lie in a file.

    Attributes:
        name: In the network's ``state_dict``.
        kind: One of ``BYTES_OF_TYPE``.
        shape: Of the weight.
        size: Bytes that it takes.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    size: int


@dataclass(frozen=True)
class Header:
    """A header that was found to be right.

    Attributes:
        card: What the model is.
        tensors: The weights in the order in which they lie in the file, without gaps.
        start: Where the first of them begins, in bytes.
        raw: The header's bytes, those that tell its length among them.
        weights_sum: SHA-256 of all weights' bytes as the file says it is; None for format 1.
    """

    card: Card
    tensors: tuple[Tensor, ...]
    start: int
    raw: bytes
    weights_sum: str | None


def read(path: Path) -> Header:
    """The header of a model file.

    Raises:
        ModelError: Missing, truncated, foreign, damaged or hostile file; a card that is not valid.
    """
    found = _judged(raw_header(path), path.stat().st_size, Path(path.name))
    return replace(found, card=copy.deepcopy(found.card))  # a card holds dictionaries


@lru_cache(maxsize=64)
def _judged(raw: bytes, size: int, path: Path) -> Header:
    """The header that these bytes are; panels ask for the same ones at every change.

    Args:
        raw: As ``raw_header`` gives it.
        size: Of the file, in bytes.
        path: Its name, for errors.

    Raises:
        ModelError: As ``read``.
    """
    listed = parsed(raw[8:], path)
    metadata = listed.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not isinstance(metadata.get(METADATA_KEY), str):
        raise ModelError(
            f"{path.name} holds weights but no NetInversion card; use a model made by NetInversion,"
            " or convert this one with models.save"
        )
    tensors = _tensors(listed, path)
    if size != len(raw) + sum(tensor.size for tensor in tensors):
        raise ModelError(f"{path.name} is incomplete or has something appended; get the file again")
    values = parsed(metadata[METADATA_KEY], path)
    weights_sum = checked_sum(values, raw, path)
    return Header(as_card(values, path), tensors, len(raw), raw, weights_sum)


def sealed(data: bytes) -> bytes:
    """A file's bytes with their sums in the place of ``unsealed``'s zeros.

    Raises:
        ModelError: The place is not there, or there are several.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    empty = f"{NO_SUM} {NO_SUM}".encode()
    if data[:start].count(empty) != 1:
        raise ModelError("the card must not hold rows of zeros as long as a sum; shorten them")
    weights = hashlib.sha256(data[start:]).hexdigest()
    header = data[:start].replace(empty, f"{NO_SUM} {weights}".encode())
    own = hashlib.sha256(header).hexdigest()
    return (
        header.replace(f"{NO_SUM} {weights}".encode(), f"{own} {weights}".encode()) + data[start:]
    )


def unsealed(card: dict) -> str:
    """A card's values as a header holds them, with zeros for the sums."""
    return json.dumps({"format": FORMAT, "sha256": f"{NO_SUM} {NO_SUM}", **card}, allow_nan=False)


def plain(card: Card) -> dict:
    """A card's values as JSON gives them back: lists for tuples.

    Raises:
        ModelError: They are not JSON.
    """
    try:
        return json.loads(json.dumps(asdict(card), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ModelError(f"the card holds values that a file cannot hold: {error}") from error


def as_card(values: dict, path: Path) -> Card:
    """The card of a file's values.

    Raises:
        ModelError: They are not those of a card.
    """
    values = {"task": IMAGE_TO_IMAGE, **values}
    try:
        require_text(values)
        values["inputs"] = tuple(read_channel(v) for v in values["inputs"])
        values["outputs"] = tuple(read_channel(v) for v in values["outputs"])
        check_fields(Card, values, CARD_RULES)
        if values["task"] == IMAGE_TO_IMAGE and values["orientation"] != "LPS":
            raise ValueError("an image-to-image network takes volumes in LPS axes")
        values["spacing_mm"] = tuple(values["spacing_mm"])
        values["trained_on"] = tuple(values["trained_on"])
        return Card(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path.name} has a card that is not valid ({error}); get the file again"
        ) from error


def require_text(value: object) -> None:
    """Check that a JSON value's texts hold nothing that steers a terminal or cannot be written.

    Raises:
        ValueError: One holds control characters, marks that turn the direction of writing, or
            halves of a character; line ends and tabs are text.
    """
    if isinstance(value, str):
        steering = STEERING.search(value)
        if steering:
            raise ValueError(f"a text holds control characters, {ascii(steering[0])} for one")
    elif isinstance(value, dict):
        for name, part in value.items():
            require_text(name)
            require_text(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            require_text(part)


def checked_sum(values: dict, raw: bytes, path: Path) -> str | None:
    """The sum of the weights; format and sums are taken out of the values.

    Args:
        values: What stands in the header, with "format" and "sha256".
        raw: The header.
        path: Of the file, for errors.

    Returns:
        SHA-256 of the weights' bytes, or None for format 1.

    Raises:
        ModelError: Another format, or a header that is not the one that was written.
    """
    version = values.pop("format", None)
    if version == FORMAT_WITHOUT_SUMS and type(version) is int:
        return None
    if version != FORMAT or type(version) is not int:
        raise ModelError(f"{path.name} has another file format than {FORMAT}; update NetInversion")
    sums = values.pop("sha256", None)
    parts = sums.split(" ") if isinstance(sums, str) else []
    if len(parts) != 2 or not all(map(SUM.fullmatch, parts)) or raw.count(sums.encode()) != 1:
        raise ModelError(f"{path.name} has no valid sums of its content; get the file again")
    blank = raw.replace(sums.encode(), f"{NO_SUM} {parts[1]}".encode())
    if hashlib.sha256(blank).hexdigest() != parts[0]:
        raise ModelError(
            f"{path.name} is damaged or was changed: its header is not the one that was written;"
            " get the file again"
        )
    return parts[1]


def raw_header(
    path: Path, longest: int = MAX_HEADER_BYTES, most_parts: int = MAX_HEADER_PARTS
) -> bytes:
    """The bytes of a safetensors file's header, those that tell its length among them.

    Args:
        path: Of the file.
        longest: Bytes that it may have.
        most_parts: Brackets, braces and commas that it may hold.

    Raises:
        ModelError: The file cannot be read, is none of these, or has a header beyond all measure.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or not 2 <= length <= longest:
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
    if sum(map(header.count, (b"[", b"{", b","))) > most_parts:
        raise ModelError(
            f"{path.name} has an unreadable header (more than {most_parts} parts);"
            " get the file again"
        )
    return start + header


def parsed(text: bytes | str, path: Path) -> dict:
    """A JSON object, in which no name comes twice.

    Raises:
        ModelError: It is none.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number")

    def once(pairs: list[tuple[str, object]]) -> dict:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name comes twice")
        return found

    try:
        value = json.loads(text, parse_constant=refuse, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{path.name} has an unreadable header ({error}); get the file again"
        ) from error
    if not isinstance(value, dict):
        raise ModelError(
            f"{path.name} has an unreadable header (not an object); get the file again"
        )
    return value


def _tensors(listed: dict, path: Path) -> tuple[Tensor, ...]:
    """The tensors in the order of their places, each beginning where the last one ended."""
    found, end = [], 0
    for name, entry in sorted(listed.items(), key=lambda item: _offsets(item[1], path)):
        tensor = _tensor(name, entry, end, path)
        found.append(tensor)
        end += tensor.size
    return tuple(found)


def _offsets(entry: object, path: Path) -> list[int]:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not _whole_numbers(offsets) or len(offsets) != 2:
        raise ModelError(f"{path.name} has a damaged list of weights; get the file again")
    return offsets


def _tensor(name: str, entry: dict, start: int, path: Path) -> Tensor:
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
    return Tensor(name, kind, tuple(shape), end - begin)


def _whole_numbers(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)
