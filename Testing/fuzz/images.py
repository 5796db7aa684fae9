"""Fuzzes image headers: python Testing/fuzz/images.py [--count 6000] [--first N] [--seed N].

Good files are small images of every format (600 mutants of each by default). A mutant must be
refused with a sentence; or hold the same values in the same place; or others, if an independent
reader finds the same in it and nothing in its header contradicts the rest or leaves the standard;
or the reader says how a contradiction was taken. It takes at most 5 s and 50 MB of memory.
"""

from __future__ import annotations

import gzip
import logging
import os
import re
import struct
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import highdicom
import nibabel
import nrrd
import numpy as np
import pydicom
import SimpleITK as sitk
from common import Base, Reading, main

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import image_files

from NetInversionLib.core import files
from NetInversionLib.core.volumes import VolumeError

EACH = 600
MOST_BYTES = 50_000_000
SHAPE = (7, 9, 11)
PLACE = np.array([[-2, 0, 0, 40], [0, -1.5, 0, 30], [0, 0, 3, -20], [0, 0, 0, 1.0]])
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass
class Seen:
    """What was read: values, place, units; and whether the reader said how it took the file."""

    path: Path
    array: np.ndarray
    matrix: np.ndarray
    units: str
    said: bool


class Told(logging.Handler):
    """Counts what the library says of files."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


TOLD = Told()


def read(path: Path) -> Seen:
    logger = logging.getLogger("NetInversionLib")
    logger.propagate = False
    if TOLD not in logger.handlers:
        logger.addHandler(TOLD)
    before = TOLD.count
    volume = files.load(path)
    return Seen(path, volume.array, volume.ijk_to_ras, volume.units, TOLD.count > before)


def same(one: Seen, other: Seen) -> bool:
    """The same image, or rightly another."""
    return _equal(one, other.array, other.matrix) or one.said or _rightly_other(one)


def _equal(one: Seen, array: np.ndarray, matrix: np.ndarray) -> bool:
    return (
        one.array.shape == array.shape
        and np.array_equal(one.array, array, equal_nan=array.dtype.kind == "f")
        and np.allclose(one.matrix, matrix, rtol=1e-5, atol=1e-4 * np.abs(matrix).max())
    )


# Good files ---------------------------------------------------------------------------------------


def bases(folder: Path, small: bool) -> list[Base]:
    """One small file of each format; what lies beside a header is left in the folder."""
    rng = np.random.default_rng(0)
    array = rng.integers(-900, 1200, SHAPE).astype(np.int16)
    found = []
    for name, make in MAKERS.items():
        path, suffix = make(folder, array)
        data = path.read_bytes()
        path.unlink()
        good = folder / f"mutant{suffix}"
        good.write_bytes(data)
        seen = read(good)
        if not _rightly_other(seen):  # what the other readers load once is there now, too
            raise AssertionError(f"{name}: the readers do not agree on a good file")
        found.append(Base(name, data, seen, suffix))
    return found


def _nifti(name: str, kind: type = nibabel.Nifti1Image):
    def make(folder: Path, array: np.ndarray) -> tuple[Path, str]:
        image = kind(array.T, PLACE)
        image.set_qform(PLACE, 1)
        image.set_sform(PLACE, 1)
        nibabel.save(image, folder / f"made{name}")
        if name == ".hdr":
            (folder / "made.img").rename(folder / "mutant.img")
        return folder / f"made{name}", name

    return make


def _itk(name: str, packed: bool = False):
    def make(folder: Path, array: np.ndarray) -> tuple[Path, str]:
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((2, 1.5, 3))
        image.SetOrigin((-40, -30, -20))
        sitk.WriteImage(image, str(folder / f"made{name}"), useCompression=packed)
        return folder / f"made{name}", name

    return make


def _dicom(folder: Path, array: np.ndarray) -> tuple[Path, str]:
    data = image_files.slice_of(1, array[0] + 1024, (-40, -30, -20), RescaleType="HU")
    data.save_as(folder / "made.dcm", enforce_file_format=True)
    return folder / "made.dcm", ".dcm"


def _enhanced(folder: Path, array: np.ndarray) -> tuple[Path, str]:
    data = image_files.enhanced(array + 1024, 3.0 * np.arange(len(array)))
    data.save_as(folder / "made.dcm", enforce_file_format=True)
    return folder / "made.dcm", ".dcm"


MAKERS = {
    "nifti": _nifti(".nii"),
    "nifti, packed": _nifti(".nii.gz"),
    "nifti-2": _nifti(".nii", nibabel.Nifti2Image),
    "nifti, pair": _nifti(".hdr", nibabel.Nifti1Pair),
    "nrrd": _itk(".nrrd"),
    "nrrd, packed": _itk(".nrrd", True),
    "nrrd, detached": _itk(".nhdr"),
    "metaimage": _itk(".mha"),
    "metaimage, packed": _itk(".mha", True),
    "metaimage, detached": _itk(".mhd"),
    "dicom": _dicom,
    "dicom, enhanced": _enhanced,
}


# Mutants ------------------------------------------------------------------------------------------

NUMBERS = (0, 1, 2, 3, 7, -1, 100, 255, 32767, 65535, 2**31 - 1, 2**40)
REALS = (0.0, -1.0, 0.5, 1e-30, 1e30, float("nan"), float("inf"), 352.5, 2.0)
WORDS = (b"0", b"-1", b"nan", b"1e30", b"99999999", b"", b"LIST", b"../x", b"\xff\xfe", b"True")


def mutant(data: bytes, random: np.random.Generator) -> tuple[bytes, bool]:
    """A file with its header changed: bits, numbers, digits or lines; rarely its end cut."""
    packed = data[:2] == b"\x1f\x8b" and random.random() < 0.7
    whole = gzip.decompress(data) if packed else data
    for _ in range(int(random.integers(1, 4)) if random.random() < 0.3 else 1):
        whole = _changed(whole, random)
    return (gzip.compress(whole, mtime=0) if packed else whole), True


def _changed(data: bytes, random: np.random.Generator) -> bytes:
    end = max(_header_end(data), 1)
    text = data[:4] in (b"NRRD", b"Obje")
    kinds = ["flip", "bytes", "digit", "cut", "copy", "line" if text else "number"]
    kind = random.choice(kinds, p=[0.2, 0.1, 0.25, 0.05, 0.1, 0.3])
    place = int(random.integers(end))
    changed = bytearray(data)
    if not changed:
        return data
    if kind == "flip":
        changed[place] ^= 1 << int(random.integers(8))
    elif kind == "bytes":
        count = int(random.integers(1, 9))
        changed[place : place + count] = random.bytes(count)
    elif kind == "digit":
        digits = [found.start() for found in re.finditer(rb"[0-9]", data[:end])] or [place]
        changed[int(random.choice(digits))] = int(random.choice(list(b"0123456789-.")))
    elif kind == "cut":
        return data[: int(random.integers(len(data)))]
    elif kind == "copy":
        count, source = int(random.choice([2, 4, 8])), int(random.integers(end))
        changed[place : place + count] = data[source : source + count]
    elif kind == "number":
        packed = _number(random)
        place -= place % len(packed)
        changed[place : place + len(packed)] = packed
    else:
        return _line(data, end, random)
    return bytes(changed)


def _number(random: np.random.Generator) -> bytes:
    """An odd value as a header stores it."""
    if random.random() < 0.5:
        return struct.pack("<f", float(random.choice(REALS)))
    value, size = int(random.choice(NUMBERS)), int(random.choice([2, 4]))
    return (value % (1 << 8 * size)).to_bytes(size, "little")


def _line(data: bytes, end: int, random: np.random.Generator) -> bytes:
    """A text header with a line less, twice, or with another word in it."""
    lines = data[:end].split(b"\n")
    n = int(random.integers(max(len(lines) - 1, 1)))
    kind = random.choice(["less", "twice", "word"])
    if kind == "less":
        del lines[n]
    elif kind == "twice":
        lines.insert(n, lines[int(random.integers(len(lines)))])
    else:
        words = lines[n].split(b" ")
        words[int(random.integers(len(words)))] = WORDS[int(random.integers(len(WORDS)))]
        lines[n] = b" ".join(words)
    return b"\n".join(lines) + data[end:]


def _header_end(data: bytes) -> int:
    """Where the voxels begin; the whole file where that is unknown."""
    if data[:4] == b"NRRD":
        return data.find(b"\n\n") + 2 or len(data)
    if data[:4] == b"Obje":
        found = re.search(rb"ElementDataFile = .*\n", data)
        return found.end() if found else len(data)
    if data[128:132] == b"DICM":
        found = data.find(b"\xe0\x7f\x10\x00")
        return found + 12 if found > 0 else len(data)
    size = int.from_bytes(data[:4], "little")
    return min(size + 4, len(data)) if size in (348, 540) else len(data)


# Independent readers ------------------------------------------------------------------------------


def _rightly_other(one: Seen) -> bool:
    """Whether another reader finds the same, in a header that keeps to its standard."""
    name = one.path.name
    other = _by_nibabel
    if name.endswith((".nrrd", ".nhdr")):
        other = _by_pynrrd
    elif name.endswith((".mha", ".mhd")):
        other = _by_itk
    elif name.endswith(".dcm"):
        other = _by_pydicom
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _equal(one, *other(one.path))
        except Exception:  # what no other reader takes is not rightly read
            return False


def _by_nibabel(path: Path) -> tuple[np.ndarray, np.ndarray]:
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)
    image = nibabel.load(path)
    header = image.header
    with open(path, "rb") as file:
        block = file.read()
    block = gzip.decompress(block) if block[:2] == b"\x1f\x8b" else block
    complaints = type(header).diagnose_binaryblock(
        block[: header.template_dtype.itemsize], header.endianness
    )
    array = np.asarray(image.dataobj).T
    voxels = image.get_data_dtype().itemsize * array.size
    offset = int(type(header)(block[: len(header.binaryblock)], check=False)["vox_offset"])
    there = len(block) if path.suffix != ".hdr" else path.with_suffix(".img").stat().st_size
    sizes = np.linalg.norm(image.affine[:3, :3], axis=0)
    forms = [image.get_sform(coded=True)[0], image.get_qform(coded=True)[0]]
    forms = [form for form in forms if form is not None]
    units = {0: 1.0, 1: 1e3, 2: 1.0, 3: 1e-3}[int(header["xyzt_units"]) & 7]
    right = (
        not complaints
        and there == offset + voxels
        and np.allclose(sizes, header["pixdim"][1:4], rtol=1e-2)
        and all(np.allclose(form, forms[0], rtol=1e-2, atol=0.5) for form in forms)
    )
    if not right:
        raise ValueError(f"contradiction: {complaints}")
    return array, np.diag([units] * 3 + [1.0]) @ image.affine


def _by_pynrrd(path: Path) -> tuple[np.ndarray, np.ndarray]:
    array, header = nrrd.read(str(path), index_order="C")
    flips = {"left-posterior-superior": (-1, -1, 1), "right-anterior-superior": (1, 1, 1)}
    flips["left-anterior-superior"] = (-1, 1, 1)
    matrix = np.eye(4)
    matrix[:3, :3] = header["space directions"].T
    matrix[:3, 3] = header.get("space origin", (0, 0, 0))
    return array, np.diag([*flips[header["space"]], 1.0]) @ matrix


def _by_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    text = path.read_bytes()[: _header_end(path.read_bytes())].decode("latin-1")
    lines = {line.replace(" ", "") for line in text.splitlines()}
    if len({line.split("=")[0] for line in lines}) < len(lines):
        raise ValueError("contradiction: a field stands there twice")
    image = sitk.ReadImage(str(path))
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image), LPS @ matrix


def _by_pydicom(path: Path) -> tuple[np.ndarray, np.ndarray]:
    data = pydicom.dcmread(path)
    frames = highdicom.Image.from_dataset(data).get_frames(
        apply_real_world_transform=False, apply_presentation_lut=False
    )
    groups = data.get("PerFrameFunctionalGroupsSequence")
    if groups is None:
        holder, positions, step = data, [data.ImagePositionPatient], float(data.SliceThickness)
        spacing, orientation = data.PixelSpacing, data.ImageOrientationPatient
    else:
        holder = data.SharedFunctionalGroupsSequence[0]
        positions = [g.PlanePositionSequence[0].ImagePositionPatient for g in groups]
        spacing = holder.PixelMeasuresSequence[0].PixelSpacing
        orientation = holder.PlaneOrientationSequence[0].ImageOrientationPatient
        step = None
    axes = np.reshape(np.array(orientation, float), (2, 3))
    normal = np.cross(*axes)
    places = np.array(positions, float)
    order = np.argsort(places @ normal)
    places = places[order]
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = axes[0] * float(spacing[1]), axes[1] * float(spacing[0])
    lps[:3, 2] = normal * step if step else (places[-1] - places[0]) / (len(places) - 1)
    lps[:3, 3] = places[0]
    return frames[order], LPS @ lps


READING = Reading(bases, read, same, (VolumeError,), "", mutant, MOST_BYTES)

if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    sys.exit(main(__doc__.partition("\n")[0], EACH * len(MAKERS), READING, __file__))
