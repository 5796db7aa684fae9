"""The pixels of a DICOM file: their number compared with the header, then decoded by pydicom."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .header import say
from .volumes import VolumeError

if TYPE_CHECKING:
    from pydicom import Dataset


def is_dicom(path: Path) -> bool:
    """Whether a file has DICOM's mark; never raises."""
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def compressed(head: Dataset) -> bool:
    syntax = head.file_meta.get("TransferSyntaxUID") if hasattr(head, "file_meta") else None
    return bool(syntax is not None and (syntax.is_encapsulated or syntax.is_deflated))


def contradiction(path: Path, what: str) -> VolumeError:
    return VolumeError(
        f"'{path}' contradicts itself or the DICOM standard: {what}. Export it again."
    )


def incomplete(path: Path, needed: int) -> VolumeError:
    return VolumeError(
        f"'{path}' is not complete: its header announces {needed} bytes of pixels. Copy it again."
    )


def stored_frames(path: Path, count: int, told: list[Path]) -> Iterator[np.ndarray]:
    """The stored values of a file's frames in order, (rows, columns) each, a LUT applied.

    Args:
        path: The file.
        count: How many frames its header announces.
        told: What is odd but harmless is told if this is empty, which it then is no more.

    Raises:
        VolumeError: Pixels are missing, or there are others than announced.
    """
    import pydicom
    from pydicom.pixels import apply_modality_lut, iter_pixels

    data = pydicom.dcmread(path, force=not is_dicom(path))
    if "PixelData" not in data:
        raise VolumeError(f"'{path}' is not complete: it has no pixels. Copy it again.")
    if compressed(data):
        _require_coded_size(path, data, count)
    else:
        needed = int(data.Rows) * int(data.Columns) * count * int(data.BitsAllocated) // 8
        found = len(data.PixelData)
        if found < needed:
            raise incomplete(path, needed)
        if any(data.PixelData[needed:]):
            raise contradiction(path, f"{found} bytes of pixels, where {needed} are announced")
        if found > needed + needed % 2 and not told:
            told.append(path)
            say(path, f"{found - needed} empty bytes behind its pixels are passed over.")
        if not told and _has_odd_bits(data):
            told.append(path)
            say(path, "some values have bits beyond BitsStored, which are dropped.")
    for frame in iter_pixels(data) if count > 1 else [data.pixel_array]:
        yield apply_modality_lut(frame, data) if data.get("ModalityLUTSequence") else frame


def _has_odd_bits(data: Dataset) -> bool:
    """Whether a value uses bits above BitsStored for more than its sign."""
    bits, stored = int(data.BitsAllocated), int(data.BitsStored)
    order = "<" if data.file_meta.TransferSyntaxUID.is_little_endian else ">"
    whole = len(data.PixelData) // (bits // 8) * (bits // 8)
    values = np.frombuffer(data.PixelData[:whole], f"{order}u{bits // 8}")
    if stored == bits or not values.any() or int(values.max()) < 1 << stored:
        return False
    signed = values.view(f"{order}i{bits // 8}")
    low, high = -(1 << stored - 1), (1 << stored - 1) - 1
    extended = low <= int(signed.min()) and int(signed.max()) <= high
    return not (int(data.get("PixelRepresentation", 0) or 0) and extended)


def _require_coded_size(path: Path, data: Dataset, count: int) -> None:
    """Compare the size in each compressed frame's own header with the file's, before decoding."""
    from pydicom.encaps import generate_frames

    size = (int(data.Rows), int(data.Columns))
    if data.file_meta.TransferSyntaxUID.is_deflated:
        return
    frames = 0
    for coded in generate_frames(data.PixelData, number_of_frames=count):
        frames += 1
        found = coded_size(coded)
        if found is None and size[0] * size[1] > 128 * len(coded):
            raise incomplete(path, size[0] * size[1])
        if found is not None and found != size:
            raise contradiction(path, f"it says {size} pixels, its compressed frame {found}")
    if frames != count:
        raise contradiction(path, f"NumberOfFrames is {count}, but {frames} are there")


def coded_size(coded: bytes) -> tuple[int, int] | None:
    """(rows, columns) of a JPEG, JPEG-LS or JPEG 2000 stream by its own header; None for others."""
    if coded[:4] == b"\xff\x4f\xff\x51":  # JPEG 2000: the size stands at the beginning
        right, low, left, top = (int.from_bytes(coded[n : n + 4], "big") for n in (8, 12, 16, 20))
        return low - top, right - left
    place = 2 if coded[:2] == b"\xff\xd8" else len(coded)
    while place + 9 <= len(coded) and coded[place] == 0xFF:
        marker = coded[place + 1]
        frame = 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)
        if frame or marker == 0xF7:
            height = int.from_bytes(coded[place + 5 : place + 7], "big")
            return height, int.from_bytes(coded[place + 7 : place + 9], "big")
        place += 2 + int.from_bytes(coded[place + 2 : place + 4], "big")
    return None
