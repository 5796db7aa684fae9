"""NIfTI-1 and NIfTI-2, single files and pairs; nibabel reads the header, the standard decides.

The standard: Cox et al., "A (sort of) new image data format standard: NIfTI-1", 2004
(https://nifti.nimh.nih.gov/nifti-1).
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .header import Header, rescaled, say, stored, unpacked
from .volumes import Volume, VolumeError

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

SUFFIXES = (".nii.gz", ".nii", ".hdr.gz", ".hdr", ".img.gz", ".img")
SPACE_UNITS = {0: 1.0, 1: 1e3, 2: 1.0, 3: 1e-3}  # unknown, metre, millimetre, micron
FORM_CODES = range(6)
SAME = 1e-3
"""Relative difference of lengths, and cosines between axes, up to which they count as the same."""


def read(path: Path, name: str) -> Volume:
    """A NIfTI image, its values scaled, placed by the matrix that Slicer takes.

    Args:
        path: The file, or either file of a pair.
        name: Of the volume.

    Raises:
        VolumeError: It is damaged, not 3-D, not scalar, or contradicts itself where the standard
            has no rule.
    """
    head, data = _pair(path)
    fields = _fields(head)
    header, slope, intercept = _header(path, head, data, fields)
    values = stored(header)
    native = values.astype(values.dtype.newbyteorder("="), copy=False)
    most = float(np.iinfo(native.dtype).max) if native.dtype.kind in "iu" else 1.0
    if not math.isfinite(slope * most + intercept):
        raise _contradiction(path, f"scl_slope is {slope:g}, scl_inter {intercept:g}")
    assert header.ijk_to_ras is not None
    return Volume(rescaled(native, slope, intercept), header.ijk_to_ras, name)


def _pair(path: Path) -> tuple[Path, Path]:
    """The files of the header and of the voxels; the same one for .nii."""
    name = path.name
    for mine, other in ((".hdr", ".img"), (".img", ".hdr")):
        for packed in ("", ".gz"):
            if not name.lower().endswith(mine + packed):
                continue
            stem = name[: len(name) - len(mine + packed)]
            twins = [
                twin
                for twin in path.parent.iterdir()
                if twin.name.lower() in ((stem + other).lower(), (stem + other + ".gz").lower())
                and twin.name.startswith(stem)
            ]
            if not twins:
                raise VolumeError(
                    f"'{path}' is one file of a pair, and {stem}{other} is not beside it. Copy"
                    " both."
                )
            return (path, twins[0]) if mine == ".hdr" else (twins[0], path)
    return path, path


def _packed(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


# The header ---------------------------------------------------------------------------------------


def _fields(head: Path) -> Nifti1Header:
    """The fields of a NIfTI header, byte order found, nothing corrected."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    block = _first_bytes(head, Nifti2Header.template_dtype.itemsize)
    kind = {348: Nifti1Header, 540: Nifti2Header}.get(_header_size(block))
    if kind is None or len(block) < kind.template_dtype.itemsize:
        raise VolumeError(
            f"'{head}' is no complete NIfTI file: it does not begin with a NIfTI header. Copy or"
            " download it again."
        )
    order = "<" if int.from_bytes(block[:4], "little") in (348, 540) else ">"
    fields = kind(block[: kind.template_dtype.itemsize], endianness=order, check=False)
    magic = bytes(np.asarray(fields["magic"]).tobytes())
    if magic[:2] not in (b"n+", b"ni"):
        raise VolumeError(
            f"'{head}' is an Analyze 7.5 file, which does not say where left and right are. Save it"
            " as NIfTI in the program that wrote it."
        )
    second = kind is Nifti2Header
    ends_well = not second or bytes(fields["eol_check"].tobytes()) == b"\r\n\x1a\n"
    if magic[2:] != (b"2\0" if second else b"1\0") or not ends_well:
        raise _contradiction(head, f"its size is one standard's, its mark {magic[:4]!r} another's")
    return fields


def _first_bytes(path: Path, count: int) -> bytes:
    """The first bytes of a file, unpacked if it is packed, whatever its name says."""
    if not _packed(path):
        with open(path, "rb") as file:
            return file.read(count)
    block = b""
    try:
        for piece in unpacked(path, "gzip"):
            block += piece
            if len(block) >= count:
                break
    except (EOFError, zlib.error):
        pass  # what there is of it decides
    return block[:count]


def _header_size(block: bytes) -> int:
    sizes = [int.from_bytes(block[:4], order) for order in ("little", "big")]
    return next((size for size in sizes if size in (348, 540)), 0)


def _header(
    path: Path, head: Path, data: Path, fields: Nifti1Header
) -> tuple[Header, float, float]:
    """What the header says, checked field by field; and the slope and intercept of the values."""
    single = bytes(np.asarray(fields["magic"]).tobytes())[1:2] == b"+"
    if single != (head == data):
        kind = "a single file" if single else "one of a pair, header and voxels"
        raise _contradiction(path, f"its header says that it is {kind}")
    shape, dtype = _shape(path, fields), _dtype(path, fields)
    offset = _vox_offset(path, fields, single)
    packed = _packed(data)
    header = Header(
        path,
        data,
        0 if packed else offset,
        "gzip" if packed else "raw",
        shape,
        dtype,
        _matrix(path, fields),
        offset if packed else 0,
    )
    return header, *_scale(path, fields)


def _shape(path: Path, fields: Nifti1Header) -> tuple[int, int, int]:
    lengths = [int(length) for length in fields["dim"]]
    dimensions = lengths[0]
    if not 1 <= dimensions <= 7 or min(lengths[1 : dimensions + 1]) < 1:
        raise _contradiction(path, f"dim is {lengths}")
    used = lengths[1 : dimensions + 1]
    if max(used[4:], default=1) > 1 and max(used[3:4], default=1) == 1:
        raise VolumeError(
            f"'{path}' has {math.prod(used[4:])} values per voxel (colour, vectors or a series); a"
            " scalar image is needed. Save one component as a volume of its own."
        )
    if dimensions < 3 or max(used[3:], default=1) > 1:
        raise VolumeError(
            f"'{path}' has {dimensions} dimensions, {tuple(used)}; a 3-D image is needed. Save one"
            " time point as a volume of its own."
        )
    return used[2], used[1], used[0]


def _dtype(path: Path, fields: Nifti1Header) -> np.dtype:
    from nibabel.nifti1 import data_type_codes

    code, bits = int(fields["datatype"]), int(fields["bitpix"])
    if code not in data_type_codes.value_set():
        raise _contradiction(path, f"there is no type of values {code}")
    dtype = np.dtype(data_type_codes.dtype[code])
    if dtype.fields or dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise VolumeError(
            f"'{path}' holds values of type {data_type_codes.label[code]}, so no scalar image of"
            " real numbers. Save one component as a volume of its own."
        )
    if dtype.itemsize * 8 != bits:
        raise _contradiction(path, f"its values are {dtype.name}, but of {bits} bits each")
    return dtype.newbyteorder(fields.endianness)


def _vox_offset(path: Path, fields: Nifti1Header, single: bool) -> int:
    offset = float(fields["vox_offset"])
    least = int(fields.single_vox_offset) if single else 0
    if not math.isfinite(offset) or not offset.is_integer() or offset < 0:
        raise _contradiction(path, f"vox_offset is {offset}")
    if offset < least:
        say(path, f"vox_offset is {offset:g}; by the standard the voxels begin at byte {least}.")
    return max(int(offset), least)


def _scale(path: Path, fields: Nifti1Header) -> tuple[float, float]:
    """Slope and intercept; a slope of 0 or not finite means: as stored."""
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if not math.isfinite(slope) or slope == 0:
        return 1.0, 0.0
    if not math.isfinite(intercept):
        raise _contradiction(path, f"scl_slope is {slope:g}, but scl_inter {intercept}")
    return slope, intercept


# Where the image is -------------------------------------------------------------------------------


def _matrix(path: Path, fields: Nifti1Header) -> np.ndarray:
    """IJK to RAS, 4x4, mm, by the form that Slicer takes; told where the forms disagree."""
    codes = {form: int(fields[f"{form}_code"]) for form in ("qform", "sform")}
    wrong = [f"{form}_code is {code}" for form, code in codes.items() if code not in FORM_CODES]
    if wrong:
        raise _contradiction(path, " and ".join(wrong))
    units = int(fields["xyzt_units"]) & 7
    if units not in SPACE_UNITS:
        raise _contradiction(path, f"xyzt_units is {int(fields['xyzt_units'])}")
    sizes = np.asarray(fields["pixdim"][1:4], dtype=np.float64)
    sform = _sform(path, fields) if codes["sform"] else None
    qform = _qform(path, fields, sform is None) if codes["qform"] else None
    if sform is None and qform is None:
        matrix = np.diag([*_positive(path, sizes), 1.0])
        say(path, "it does not say where it lies; i, j, k are taken as right, anterior, superior.")
    else:
        matrix = _chosen(path, codes["sform"], sform, qform, sizes)
    matrix[:3] *= SPACE_UNITS[units]
    return matrix


def _chosen(
    path: Path,
    sform_code: int,
    sform: np.ndarray | None,
    qform: np.ndarray | None,
    sizes: np.ndarray,
) -> np.ndarray:
    """Of two forms the scanner's, as ITK; the sform where only it has the voxels' sizes."""
    if sform is None or qform is None:
        matrix = qform if sform is None else sform
        assert matrix is not None
        if sform is not None and not _same_sizes(sform, sizes):
            say(path, "pixdim has other voxel sizes than the sform; the sform is taken.")
        return matrix
    if not _same_sizes(sform, sizes):
        say(path, "pixdim has other voxel sizes than the sform; the sform is taken.")
        return sform
    scale = np.abs(sform[:3]).max()
    if np.allclose(sform, qform, rtol=SAME, atol=SAME * scale):
        return sform
    name, matrix = ("sform", sform) if sform_code == 1 else ("qform", qform)
    say(path, f"its qform and sform place it differently; the {name} is taken, as in Slicer.")
    return matrix


def _same_sizes(matrix: np.ndarray, sizes: np.ndarray) -> bool:
    return np.allclose(np.linalg.norm(matrix[:3, :3], axis=0), sizes, rtol=SAME, atol=0)


def _positive(path: Path, sizes: np.ndarray) -> np.ndarray:
    """The voxels' sizes, their sign dropped: the standard has none."""
    if not np.isfinite(sizes).all() or (sizes == 0).any():
        raise _contradiction(path, f"pixdim is {sizes.tolist()}, no sizes of voxels")
    if (sizes < 0).any():
        say(path, f"pixdim is {sizes.tolist()}; sizes of voxels are taken without their sign.")
    return np.abs(sizes)


def _sform(path: Path, fields: Nifti1Header) -> np.ndarray | None:
    """The sform; None where its axes are not at right angles and the qform can stand for it."""
    matrix = np.eye(4)
    matrix[:3] = [fields[row] for row in ("srow_x", "srow_y", "srow_z")]
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    if not np.isfinite(matrix).all() or lengths.min() == 0:
        raise _contradiction(path, f"its sform is {matrix[:3].tolist()}")
    unit = matrix[:3, :3] / lengths
    between = np.abs(unit.T @ unit - np.eye(3)).max()
    if between > SAME:
        if int(fields["qform_code"]):
            say(path, "the axes of its sform are not at right angles; the qform is taken.")
            return None
        raise VolumeError(
            f"'{path}' cannot be placed in space: its axes are not at right angles. Resample it in"
            " the program that wrote it, or save it as NRRD."
        )
    if between > 1e-6:
        # Rounded numbers: the nearest axes at right angles, which every format can hold.
        left, _, right = np.linalg.svd(unit)
        matrix[:3, :3] = left @ right * lengths
    return matrix


def _qform(path: Path, fields: Nifti1Header, needed: bool) -> np.ndarray | None:
    """The qform from its quaternion; None where it is broken and not needed."""
    from nibabel.quaternions import quat2mat

    b, c, d = (float(fields[f"quatern_{letter}"]) for letter in "bcd")
    offset = [float(fields[f"qoffset_{letter}"]) for letter in "xyz"]
    squares = b * b + c * c + d * d
    handed = float(fields["pixdim"][0])
    sizes = np.asarray(fields["pixdim"][1:4], dtype=np.float64)
    whole = np.isfinite([squares, handed, *offset, *sizes]).all() and (sizes != 0).all()
    if not whole or squares > 1 + SAME or handed not in (-1, 0, 1):
        if not needed:
            say(path, "its qform is no rotation; the sform is taken.")
            return None
        raise _contradiction(
            path,
            f"its qform is no rotation (quaternion {b:g}, {c:g}, {d:g}, pixdim {handed:g},"
            f" {sizes.tolist()})",
        )
    rotation = quat2mat([math.sqrt(max(1 - squares, 0)), b, c, d])
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * _positive(path, sizes) * (1, 1, -1 if handed < 0 else 1)
    matrix[:3, 3] = offset
    return matrix


def _contradiction(path: Path, what: str) -> VolumeError:
    return VolumeError(
        f"'{path}' contradicts itself or the NIfTI standard: {what}. Write it again from its"
        " source."
    )
