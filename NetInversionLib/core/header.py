"""The one check of image files: their sizes before memory is taken, what was read afterwards."""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .text import shown
from .volumes import Volume, VolumeError

STEP = 1 << 20
"""Bytes that are unpacked at a time."""

MILLIMETRES = {
    "mm": 1.0,
    "millimeter": 1.0,
    "millimeters": 1.0,
    "millimetre": 1.0,
    "millimetres": 1.0,
    "cm": 10.0,
    "m": 1e3,
    "meter": 1e3,
    "um": 1e-3,
    "µm": 1e-3,
    "micron": 1e-3,
    "microns": 1e-3,
    "micrometer": 1e-3,
}
"""Units of length that headers name."""


@dataclass(frozen=True)
class Header:
    """What a file says of its image before a voxel is read.

    Attributes:
        path: The file that was given.
        data: The file that holds the voxels.
        offset: Bytes of ``data`` before the voxels (before the packed stream, if it is packed).
        packing: How they are packed: "raw", "gzip" or "zlib".
        shape: (k, j, i).
        dtype: Of the stored values, with their byte order.
        ijk_to_ras: 4x4, millimetres; None where the file places the image nowhere.
        packed_offset: Bytes inside the packed stream before the voxels.
    """

    path: Path
    data: Path
    offset: int
    packing: str
    shape: tuple[int, int, int]
    dtype: np.dtype
    ijk_to_ras: np.ndarray | None
    packed_offset: int = 0

    @property
    def bytes_needed(self) -> int:
        """Bytes that the voxels take, unpacked. Python's numbers: they never overflow."""
        k, j, i = (int(length) for length in self.shape)
        return k * j * i * self.dtype.itemsize


def say(path: str | os.PathLike, sentence: str) -> None:
    """Tell how a file that contradicts itself was taken; a shell shows it on standard error."""
    logging.getLogger("NetInversionLib").warning("'%s': %s", shown(path), sentence)


def utf8(path: str | os.PathLike) -> str:
    """The same path, where ITK can read it.

    Raises:
        VolumeError: It holds bytes that are not UTF-8: ITK ends the whole program over one.
    """
    text = os.fspath(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise VolumeError(
            f"The path {shown(text)} is not valid UTF-8. Rename the file or folder."
        ) from None
    return text


def beside(header: Path, name: str) -> Path:
    """The data file that a header names.

    Raises:
        VolumeError: It is not there, or lies outside the header's folder.
    """
    folder = header.parent
    data = Path(os.path.normpath(folder / name))
    inside = data.resolve().is_relative_to(folder.resolve())
    if not inside or not data.is_relative_to(os.path.normpath(folder)):
        raise VolumeError(
            f"'{header}' names a data file outside its folder: {shown(name)}. Put both into one"
            " folder and correct the header, if you trust it."
        )
    if not data.is_file():
        raise VolumeError(
            f"The data file that '{header}' names is not there: {shown(name)}. Copy it beside the"
            " header."
        )
    return data


# Before ------------------------------------------------------------------------------------------


def require_bytes(header: Header) -> None:
    """Compare the voxels that a header announces with the bytes that are there.

    Packed files are unpacked piece by piece and only counted, so that no header can ask for memory.

    Raises:
        VolumeError: Bytes are missing, or there are more than the header says.
    """
    needed = header.packed_offset + header.bytes_needed
    if header.packing == "raw":
        found = header.data.stat().st_size - header.offset
    else:
        found = _count(header, needed)
    if found < needed:
        raise VolumeError(
            f"'{header.path}' is damaged or not complete: its header says {_size(header)}, which"
            f" needs {needed} bytes, but {max(found, 0)} are there. Copy or download it again."
        )
    if found > needed:
        raise VolumeError(
            f"'{header.path}' contradicts itself: its header says {_size(header)}, which needs"
            f" {needed} bytes, but more are there. Write it again from its source."
        )


def stored(header: Header) -> np.ndarray:
    """The stored values of a file, [k, j, i], in its own byte order.

    Raises:
        VolumeError: As ``require_bytes``.
    """
    require_bytes(header)
    if header.packing == "raw":
        values = np.fromfile(header.data, header.dtype, offset=header.offset)
    else:
        voxels = b"".join(_pieces(header, header.packed_offset + header.bytes_needed))
        values = np.frombuffer(voxels, header.dtype, offset=header.packed_offset)
    return values.reshape(header.shape)


def _size(header: Header) -> str:
    k, j, i = header.shape
    return f"{i} x {j} x {k} voxels of {header.dtype.name}"


def _count(header: Header, needed: int) -> int:
    """How many bytes a packed file holds, 0 if it is damaged."""
    try:
        return sum(map(len, _pieces(header, needed)))
    except (zlib.error, EOFError):
        return 0


def _pieces(header: Header, needed: int) -> Iterator[bytes]:
    """The unpacked bytes of a file until ``needed`` is exceeded. Raises as ``unpacked``."""
    found = 0
    for piece in unpacked(header.data, header.packing, header.offset):
        yield piece
        found += len(piece)
        if found > needed:
            return


def unpacked(path: Path, packing: str, offset: int = 0) -> Iterator[bytes]:
    """The unpacked bytes of a file, in pieces of at most ``STEP``.

    Raises:
        EOFError: The stream ends too early.
        zlib.error: The stream is damaged.
    """
    with open(path, "rb") as file:
        file.seek(offset)
        rest = file.read(STEP)
        while True:
            stream = zlib.decompressobj({"gzip": 31, "zlib": 15}[packing])
            while not stream.eof:
                piece = stream.decompress(rest, STEP)
                rest = stream.unconsumed_tail or file.read(STEP)
                if not piece and not rest and not stream.eof:
                    raise EOFError(f"{path} ends too early")
                yield piece
            # A gzip file may hold several streams, one behind the other.
            rest = stream.unused_data + rest
            if packing != "gzip" or not rest.startswith(b"\x1f\x8b"):
                break
    if rest.strip(b"\0"):
        say(path, "bytes behind the packed image are passed over.")


# After -------------------------------------------------------------------------------------------


def compare(header: Header, volume: Volume) -> Volume:
    """What a reader gave, where it is what the header says.

    Args:
        header: Of the file.
        volume: [k, j, i], as it was read.

    Returns:
        The volume, with the header's position in space where the header has one.

    Raises:
        VolumeError: Shape, type or position differ.
    """
    if volume.shape != header.shape:
        raise _contradiction(header, f"shape {volume.shape[::-1]} was read", header.shape[::-1])
    if volume.array.dtype.kind != header.dtype.kind:
        raise _contradiction(header, f"{volume.array.dtype} was read", header.dtype)
    if not _same_values(header, volume.array):
        raise _contradiction(header, "other values were read", "where they lie")
    if header.ijk_to_ras is None:
        return volume
    scale = np.abs(header.ijk_to_ras[:3]).max() + 1e-30
    if not np.allclose(volume.ijk_to_ras, header.ijk_to_ras, rtol=1e-5, atol=1e-5 * scale):
        raise _contradiction(
            header,
            f"the matrix {volume.ijk_to_ras[:3].tolist()} was read",
            header.ijk_to_ras[:3].tolist(),
        )
    return replace(volume, ijk_to_ras=header.ijk_to_ras)


def _same_values(header: Header, array: np.ndarray) -> bool:
    """Whether an array [k, j, i] holds the file's bytes, which are read again piece by piece."""
    values = np.ascontiguousarray(array).reshape(-1)
    size = header.dtype.itemsize
    rest, place = b"", 0
    for piece in _voxel_pieces(header):
        rest += piece
        count = len(rest) // size
        there = np.frombuffer(rest, header.dtype, count)
        mine = values[place : place + count]
        # Bytes, not numbers: what is not a number is the same too.
        if mine.astype(header.dtype, copy=False).tobytes() != there.tobytes():
            return False
        rest, place = rest[count * size :], place + count
    return place == values.size


def _voxel_pieces(header: Header) -> Iterator[bytes]:
    """The bytes of a file's voxels, unpacked, in pieces."""
    if header.packing != "raw":
        yield from _pieces(header, header.bytes_needed)
        return
    with open(header.data, "rb") as file:
        file.seek(header.offset)
        while piece := file.read(STEP):
            yield piece


def _contradiction(header: Header, got: str, said: object) -> VolumeError:
    return VolumeError(
        f"'{header.path}' cannot be read safely: {got}, but its header says {said}. Write it again"
        " from its source."
    )


def rescaled(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Stored values x slope + intercept, exact: whole numbers stay whole.

    Args:
        stored: Any shape and real type.
        slope: Finite, as is the intercept.
        intercept: Is added.

    Returns:
        The same array where nothing changes, else one of the type of ``scaled_type``.
    """
    if slope == 1 and intercept == 0:
        return stored
    edges = (0.0, 0.0)
    if stored.dtype.kind in "iu":
        edges = (np.iinfo(stored.dtype).min, np.iinfo(stored.dtype).max)
    kind = scaled_type(*edges, [(slope, intercept)])
    if stored.dtype.kind == "f" or kind.kind == "f":
        return stored.astype(np.float64) * slope + intercept
    return stored.astype(kind) * kind.type(slope) + kind.type(intercept)


def scaled_type(low: float, high: float, scales: list[tuple[float, float]]) -> np.dtype:
    """The smallest type that holds whole stored values after rescaling.

    Args:
        low: The lowest value that can be stored.
        high: The highest.
        scales: All pairs of slope and intercept.

    Returns:
        int16, int32 or int64 for whole slopes and intercepts, else float64.
    """
    if all(float(number).is_integer() for pair in scales for number in pair):
        ends = [edge * int(slope) + int(add) for slope, add in scales for edge in (low, high)]
        for kind in (np.int16, np.int32, np.int64):
            limits = np.iinfo(kind)
            if limits.min <= min(*ends, 0) and max(*ends, 0) <= limits.max:
                return np.dtype(kind)
    return np.dtype(np.float64)
