"""Sums of model files that lie beside them: ``SHA256SUMS``, as ``sha256sum`` writes and checks it.

Files of format 1 hold no sums of their own. Of those that came with NetInversion a list stands in
their folder; a copy of one of them in another folder is compared with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..core.writing import replacing
from .card import ModelError
from .header import Header

NAME = "SHA256SUMS"
LONGEST = 1 << 20
LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
PIECE = 1 << 20
# Of the weights' bytes: a network that was trained again shares a few in a hundred.
SAME_SHARE = 0.99


def listed(folder: Path) -> dict[str, str]:
    """SHA-256 by file name of a folder's list; empty where there is none.

    Raises:
        ModelError: There is a list, and it cannot be read.
    """
    path = folder / NAME
    if not path.is_file():
        return {}
    try:
        with open(path, encoding="ascii") as file:
            lines = file.read(LONGEST).splitlines()
    except (OSError, UnicodeError) as error:
        raise ModelError(f"cannot read the list of sums {path}: get the folder again") from error
    found = {}
    for line in lines:
        match = LINE.fullmatch(line)
        if match is None:
            raise ModelError(f"the list of sums {path} is damaged; get the folder again")
        found[match[2]] = match[1]
    return found


def check_listed(path: Path, sha256: str) -> None:
    """Compare a file with the list of its folder.

    Raises:
        ModelError: It stands there with another sum.
    """
    if listed(path.parent).get(path.name, sha256) != sha256:
        raise ModelError(
            f"{path.name} is damaged or was changed: its SHA-256 is not the one that stands in"
            f" {NAME} beside it; get the file again"
        )


def note(path: Path, sha256: str) -> None:
    """Let the list of a file's folder know of its new content, if it names the file."""
    found = listed(path.parent)
    if path.name not in found:
        return
    found[path.name] = sha256
    with replacing(path.with_name(NAME)) as part:
        part.write_text("".join(f"{value}  {name}\n" for name, value in found.items()), "ascii")


def check_copy(path: Path, header: Header, originals: Iterable[Path]) -> None:
    """Compare a file of format 1 with those that it may be a damaged copy of.

    Args:
        path: Of the file.
        header: Of it.
        originals: Files to compare with, as they came with NetInversion.

    Raises:
        ModelError: It has the header of one of them and other weights, or its weights and another
            header.
    """
    length = sum(tensor.size for tensor in header.tensors)
    for original in originals:
        found = _compared(path, header, length, original)
        if found is None:
            continue
        same_header, share = found
        if same_header and share == 1:
            return
        if same_header or share >= SAME_SHARE:
            raise ModelError(
                f"{path.name} is a damaged or changed copy of {original.name}; get the file again"
            )


def _compared(path: Path, header: Header, length: int, original: Path) -> tuple[bool, float] | None:
    """Whether both have one header, and the share of the weights' bytes that are the same.

    None where their sizes differ or a file cannot be read.
    """
    try:
        with open(path, "rb") as mine, open(original, "rb") as other:
            size = int.from_bytes(other.read(8), "little")
            if original.stat().st_size != 8 + size + length or not length:
                return None
            other.seek(0)
            same_header = other.read(8 + size) == header.raw
            mine.seek(header.start)
            same = sum(_same(mine.read(PIECE), other.read(PIECE)) for _ in range(0, length, PIECE))
    except OSError:
        return None
    return same_header, same / length


def _same(one: bytes, other: bytes) -> int:
    """How many bytes are the same."""
    count = min(len(one), len(other))
    return int(
        np.count_nonzero(
            np.frombuffer(one, np.uint8, count) == np.frombuffer(other, np.uint8, count)
        )
    )
