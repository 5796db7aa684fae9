"""NRRD and MetaImage: ITK reads, and what it gave is compared with the header."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .header import MILLIMETRES, Header, beside, compare, require_bytes, say, utf8
from .volumes import RAS_FROM_LPS, Volume, VolumeError, image_ijk_to_ras

NRRD, METAIMAGE = (".nrrd", ".nhdr"), (".mha", ".mhd")


def read(path: Path, name: str) -> Volume:
    """A NRRD or MetaImage file, in millimetres whatever its units.

    Args:
        path: .nrrd, .nhdr, .mha or .mhd.
        name: Of the volume.

    Raises:
        VolumeError: It is damaged, not 3-D, not scalar, contradicts itself, or names a data file
            outside its folder.
    """
    utf8(path)
    header, units = (_nrrd if path.name.lower().endswith(NRRD) else _metaimage)(path)
    require_bytes(header)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise VolumeError(
            f"'{path}' cannot be read as an image. Is it a complete NRRD or MetaImage file?"
            f" (ITK: {_reason(error)})"
        ) from error
    if image.GetNumberOfComponentsPerPixel() > 1 or image.GetDimension() > 4:
        raise VolumeError(f"'{path}' has several values per voxel; a scalar image is needed.")
    if image.GetDimension() == 4:
        image = image[:, :, :, 0]
    volume = Volume(sitk.GetArrayFromImage(image), image_ijk_to_ras(image), name)
    volume = compare(header, volume)
    if np.all(units == 1):
        return volume
    matrix = volume.ijk_to_ras.copy()
    matrix[:3] *= units[:, None]
    return replace(volume, ijk_to_ras=matrix)


def _reason(error: Exception) -> str:
    """The last line of an ITK message, where the cause stands."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


def _contradiction(path: Path, what: str) -> VolumeError:
    return VolumeError(
        f"'{path}' contradicts itself or its format: {what}. Write it again from its source."
    )


def _require_scalar(path: Path, shape: list[int], values: int) -> tuple[int, int, int]:
    """(i, j, k) of an image, axes of one voxel behind it left out; for both formats."""
    if values > 1:
        raise VolumeError(
            f"'{path}' has {values} values per voxel (colour, vectors or a series); a scalar image"
            " is needed. Save one component as a volume of its own."
        )
    if len(shape) < 3 or max(shape[3:], default=1) > 1:
        raise VolumeError(
            f"'{path}' has {len(shape)} dimensions, {tuple(shape)}; a 3-D image is needed. Save one"
            " time point as a volume of its own."
        )
    if min(shape) < 1:
        raise _contradiction(path, f"its sizes are {shape}")
    return shape[0], shape[1], shape[2]


# NRRD ---------------------------------------------------------------------------------------------

SPACES = {
    "right-anterior-superior": (1.0, 1.0, 1.0),
    "ras": (1.0, 1.0, 1.0),
    "left-anterior-superior": (-1.0, 1.0, 1.0),
    "las": (-1.0, 1.0, 1.0),
    "left-posterior-superior": (-1.0, -1.0, 1.0),
    "lps": (-1.0, -1.0, 1.0),
}


def _nrrd(path: Path) -> tuple[Header, np.ndarray]:
    """What a NRRD header says, and its units in mm for each axis of space."""
    import nrrd

    try:
        with open(path, "rb") as file:
            fields = nrrd.read_header(file)
            end = file.tell()
    except Exception as error:  # pynrrd lets any error of parsing through
        if isinstance(error, (MemoryError, OSError)):
            raise
        raise VolumeError(
            f"'{path}' is no complete NRRD file: its header cannot be read ({error}). Copy or"
            " download it again."
        ) from error
    try:
        return _nrrd_header(path, fields, end)
    except (KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise _contradiction(path, f"a field is missing or wrong ({error})") from error


def _nrrd_header(path: Path, fields: dict, end: int) -> tuple[Header, np.ndarray]:
    sizes = [int(size) for size in fields["sizes"]]
    if len(sizes) != int(fields["dimension"]):
        raise _contradiction(path, f"dimension is {fields['dimension']}, sizes are {sizes}")
    space = [axis for axis, kind in enumerate(_nrrd_kinds(fields, sizes)) if kind == "space"]
    others = [size for axis, size in enumerate(sizes) if axis not in space]
    shape = _require_scalar(path, [sizes[axis] for axis in space], int(np.prod(others or [1])))
    dtype = _nrrd_type(path, fields)
    data, offset = _nrrd_data(path, fields, end)
    packing = str(fields["encoding"]).lower()
    packings = {"raw": "raw", "gzip": "gzip", "gz": "gzip"}
    if packing not in packings:
        raise VolumeError(
            f"'{path}' is encoded as {packing}, which is not read here. Save it as raw or gzip."
        )
    matrix = _nrrd_matrix(path, fields, space)
    header = Header(path, data, offset, packings[packing], shape[::-1], dtype, matrix)
    if offset < 0:  # byte skip -1: the voxels are the last bytes
        header = replace(header, offset=data.stat().st_size - header.bytes_needed)
    return header, _nrrd_units(path, fields, space)


def _nrrd_kinds(fields: dict, sizes: list[int]) -> list[str]:
    """For each axis "space", or "other" where it has no direction in space."""
    directions = fields.get("space directions")
    if directions is not None:
        empty = [row is None or np.isnan(np.asarray(row, float)).all() for row in directions]
        return ["other" if none else "space" for none in empty]
    kinds = [str(kind).lower() for kind in fields.get("kinds", ["domain"] * len(sizes))]
    return ["space" if kind in ("domain", "space", "none", "???") else "other" for kind in kinds]


NUMBERS = {
    "char": "i1",
    "int8": "i1",
    "short": "i2",
    "int16": "i2",
    "int": "i4",
    "int32": "i4",
    "longlong": "i8",
    "long long": "i8",
    "int64": "i8",
    "float": "f4",
    "double": "f8",
}


def _nrrd_type(path: Path, fields: dict) -> np.dtype:
    """The type of a NRRD's values, whose names are those of C with all their synonyms."""
    name = str(fields["type"]).lower()
    word = re.sub(r"^(unsigned |signed |u(?!nsigned))", "", name)
    word = re.sub(r"(?<=\w)(_t| int)$", "", word)
    if word not in NUMBERS:
        raise VolumeError(f"'{path}' holds values of type {name}; numbers are needed.")
    code = NUMBERS[word].replace("i", "u" if name.startswith("u") else "i")
    if code[1] == "1":
        return np.dtype(code)
    if fields.get("endian") not in ("little", "big"):
        raise _contradiction(path, f"endian is {fields.get('endian')}")
    return np.dtype(("<" if fields["endian"] == "little" else ">") + code)


def _nrrd_data(path: Path, fields: dict, end: int) -> tuple[Path, int]:
    """The file that holds the voxels, and the bytes before them; -1 if they are its last."""
    named = fields.get("data file", fields.get("datafile"))
    data = path
    if named is not None:
        if "%" in str(named) or str(named).split()[0] == "LIST":
            raise VolumeError(
                f"'{path}' names several data files, which are not read here. Save it as one .nrrd."
            )
        data, end = beside(path, str(named)), 0
    lines = int(fields.get("line skip", fields.get("lineskip", 0)))
    skip = int(fields.get("byte skip", fields.get("byteskip", 0)))
    if lines < 0 or skip < -1 or (skip == -1 and str(fields["encoding"]).lower() != "raw"):
        raise _contradiction(path, f"line skip is {lines}, byte skip {skip}")
    if lines:
        with open(data, "rb") as file:
            file.seek(end)
            for _ in range(min(lines, 1 << 16)):
                file.readline(1 << 16)
            end = file.tell()
    if skip > 0 and str(fields["encoding"]).lower() != "raw":
        raise VolumeError(f"'{path}' skips packed bytes, which is not read here. Save it again.")
    return data, -1 if skip == -1 else end + skip


def _nrrd_matrix(path: Path, fields: dict, space: list[int]) -> np.ndarray | None:
    """IJK to RAS in the file's own units, as ITK reads it; None without directions."""
    directions = fields.get("space directions")
    if directions is None:
        say(
            path,
            "it does not say how its axes lie; i, j, k are taken as left, posterior, superior.",
        )
        return None
    name = str(fields.get("space", "")).lower()
    if name not in SPACES:
        say(path, f"its space is '{name}'; left, posterior, superior is taken.")
    columns = np.array([np.asarray(directions[axis], float) for axis in space[:3]]).T
    if columns.shape != (3, 3) or not np.isfinite(columns).all():
        raise _contradiction(path, f"its space directions are {np.asarray(directions).tolist()}")
    lengths = np.linalg.norm(columns, axis=0)
    if lengths.min() == 0 or abs(np.linalg.det(columns / np.maximum(lengths, 1e-300))) < 1e-6:
        raise _contradiction(path, "its space directions do not span space")
    matrix = np.eye(4)
    matrix[:3, :3] = columns
    origin = np.asarray(fields.get("space origin", (0, 0, 0)), float)
    if origin.shape != (3,) or not np.isfinite(origin).all():
        raise _contradiction(path, f"its space origin is {origin.tolist()}")
    matrix[:3, 3] = origin
    return np.diag([*SPACES.get(name, SPACES["lps"]), 1.0]) @ matrix


def _nrrd_units(path: Path, fields: dict, space: list[int]) -> np.ndarray:
    """Millimetres in a unit of each axis of space, (3,)."""
    units = fields.get("space units")
    if units is None and fields.get("units") is not None:
        units = [fields["units"][axis] for axis in space]
    if units is None:
        return np.ones(3)
    names = [str(unit).strip().strip('"').lower() for unit in units][:3]
    unknown = [
        unit for unit in names if unit not in MILLIMETRES and unit not in ("", "none", "???")
    ]
    if unknown or len(names) != 3:
        raise _contradiction(path, f"its units are {', '.join(map(str, units))}, not mm")
    return np.array([MILLIMETRES.get(unit, 1.0) for unit in names])


# MetaImage ----------------------------------------------------------------------------------------

ELEMENTS = {
    "MET_CHAR": np.int8,
    "MET_UCHAR": np.uint8,
    "MET_SHORT": np.int16,
    "MET_USHORT": np.uint16,
    "MET_INT": np.int32,
    "MET_UINT": np.uint32,
    "MET_LONG": np.int64,
    "MET_ULONG": np.uint64,
    "MET_LONG_LONG": np.int64,
    "MET_ULONG_LONG": np.uint64,
    "MET_FLOAT": np.float32,
    "MET_DOUBLE": np.float64,
}
LONGEST_HEADER = 1 << 16
SYNONYMS = {
    "Position": "Offset",
    "Origin": "Offset",
    "Rotation": "TransformMatrix",
    "Orientation": "TransformMatrix",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}


def _metaimage(path: Path) -> tuple[Header, np.ndarray]:
    """What a MetaImage header says, and its unit in mm for each axis of space."""
    fields, end = _metaimage_fields(path)
    try:
        return _metaimage_header(path, fields, end)
    except KeyError as error:
        raise _contradiction(path, f"the field {error} is missing") from error
    except VolumeError:
        raise
    except ValueError as error:
        raise _contradiction(path, f"a field cannot be read ({error})") from error


def _metaimage_fields(path: Path) -> tuple[dict[str, str], int]:
    """The header's fields by name, and the byte behind it."""
    fields: dict[str, str] = {}
    with open(path, "rb") as file:
        while "ElementDataFile" not in fields:
            line = file.readline(LONGEST_HEADER)
            key, equals, value = line.decode("utf-8", "replace").partition("=")
            if not equals or "\ufffd" in line.decode("utf-8", "replace"):
                raise VolumeError(
                    f"'{path}' is no complete MetaImage file: its header has no end. Copy or"
                    " download it again."
                )
            key = SYNONYMS.get(key.strip(), key.strip())
            if key in fields and fields[key] != value.strip():
                raise _contradiction(path, f"the field {key} stands there twice")
            fields[key] = value.strip()
        return fields, file.tell()


def _metaimage_header(path: Path, fields: dict[str, str], end: int) -> tuple[Header, np.ndarray]:
    sizes = [int(size) for size in fields["DimSize"].split()]
    if len(sizes) != int(fields["NDims"]):
        raise _contradiction(path, f"NDims is {fields['NDims']}, DimSize {fields['DimSize']}")
    values = int(fields.get("ElementNumberOfChannels", "1"))
    if values < 1:
        raise _contradiction(path, f"ElementNumberOfChannels is {values}")
    shape = _require_scalar(path, sizes, values)
    element = fields["ElementType"]
    if element not in ELEMENTS:
        raise VolumeError(f"'{path}' holds values of type {element}; numbers are needed.")
    if not _true(path, fields, "BinaryData", "True"):
        raise VolumeError(f"'{path}' holds its voxels as text; save it as binary.")
    big = _true(path, fields, "BinaryDataByteOrderMSB", "False")
    dtype = np.dtype(ELEMENTS[element]).newbyteorder(">" if big else "<")
    data = path
    if fields["ElementDataFile"].upper() != "LOCAL":
        if len(fields["ElementDataFile"].split()) > 1 or "%" in fields["ElementDataFile"]:
            raise VolumeError(f"'{path}' names several data files. Save it as one .mha.")
        data, end = beside(path, fields["ElementDataFile"]), 0
    packed = _true(path, fields, "CompressedData", "False")
    header = Header(
        path,
        data,
        end,
        "zlib" if packed else "raw",
        shape[::-1],
        dtype,
        _metaimage_matrix(path, fields),
    )
    _require_packed_size(header, fields)
    skip = int(fields.get("HeaderSize", "0"))
    if skip and (packed or data == path or skip < -1):
        raise _contradiction(path, f"HeaderSize is {skip}")
    if skip:
        last = data.stat().st_size - header.bytes_needed
        header = replace(header, offset=last if skip == -1 else skip)
    unit = fields.get("DistanceUnits", "mm").lower()
    if unit not in MILLIMETRES and unit not in ("?", ""):
        raise _contradiction(path, f"DistanceUnits is {unit}")
    return header, np.full(3, MILLIMETRES.get(unit, 1.0))


def _require_packed_size(header: Header, fields: dict[str, str]) -> None:
    """Compare CompressedDataSize with the bytes that are there."""
    if header.packing == "raw" or "CompressedDataSize" not in fields:
        return
    told = int(fields["CompressedDataSize"])
    there = header.data.stat().st_size - header.offset
    if told != there:
        what = "more are there" if told < there else "it is damaged or not complete"
        raise _contradiction(
            header.path, f"CompressedDataSize is {told}, {there} bytes are there: {what}"
        )


def _true(path: Path, fields: dict[str, str], key: str, otherwise: str) -> bool:
    value = fields.get(key, otherwise)
    if value not in ("True", "False"):
        raise _contradiction(path, f"{key} is {value}, not True or False")
    return value == "True"


def _metaimage_matrix(path: Path, fields: dict[str, str]) -> np.ndarray:
    """IJK to RAS in the file's own unit, as ITK reads it."""
    n = int(fields["NDims"])
    identity = " ".join("1" if row == column else "0" for row in range(n) for column in range(n))
    spacing = fields.get("ElementSpacing", fields.get("ElementSize", " ".join("1" * n)))
    numbers = [
        np.array([float(number) for number in text.split()])
        for text in (
            spacing,
            fields.get("TransformMatrix", identity),
            fields.get("Offset", " ".join("0" * n)),
        )
    ]
    sizes, axes, origin = numbers
    whole = all(np.isfinite(numbers).all() for numbers in (sizes, axes, origin))
    if not whole or (len(sizes), len(axes), len(origin)) != (n, n * n, n) or sizes.min() <= 0:
        raise _contradiction(path, "its ElementSpacing, TransformMatrix or Offset has no sense")
    columns = axes.reshape(n, n)[:3, :3].T
    lengths = np.linalg.norm(columns, axis=0)
    if np.abs(lengths - 1).max() > 1e-3 or abs(np.linalg.det(columns)) < 1e-3:
        raise _contradiction(path, f"its TransformMatrix is {columns.T.tolist()}, no directions")
    _say_orientation(path, fields, columns)
    matrix = np.eye(4)
    matrix[:3, :3] = columns * sizes[:3]
    matrix[:3, 3] = origin[:3]
    return RAS_FROM_LPS @ matrix


def _say_orientation(path: Path, fields: dict[str, str], columns: np.ndarray) -> None:
    """Tell where AnatomicalOrientation names other directions than the matrix, which is taken."""
    told = fields.get("AnatomicalOrientation", "").upper()
    axes = np.abs(columns).argmax(axis=0)
    if len(told) != 3 or not set(told) <= set("RLAPIS") or len(set(axes)) != 3:
        return
    # The letters say where an axis comes from: RAI is from right to left, and so on.
    meant = "".join(("RAI" if columns[axis, n] > 0 else "LPS")[axis] for n, axis in enumerate(axes))
    if told != meant:
        say(path, f"AnatomicalOrientation is {told}, its TransformMatrix {meant}, which is taken.")
