"""DICOM: one series of classic slices, or of multi-frame objects by their functional groups.

pydicom reads; PS3.3 of the standard says what the fields mean. Values are stored value x rescale
slope + intercept of each slice, whatever a viewer is told to show (MONOCHROME1, windows).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .dicom_frames import compressed, contradiction, incomplete, is_dicom, stored_frames
from .header import say, scaled_type
from .text import shown
from .volumes import RAS_FROM_LPS, Volume, VolumeError

if TYPE_CHECKING:
    from pydicom import Dataset

SAME_DIRECTION = 1e-3
SAME_LENGTH = 1e-3
"""Up to which cosines, and lengths relative to each other, count as the same."""
UNEVEN = 0.02
"""Share of the distance between slices by which a slice may lie off its place."""
MODALITIES = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
}
"""Classes of classic and enhanced images that have one modality."""
SLICE_ENDINGS = (".dcm", ".dicom", ".ima")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Plane:
    """One slice: a classic file, or a frame of a multi-frame one.

    Attributes:
        path: The file.
        frame: Number of the frame in it, from 0.
        size: (rows, columns).
        spacing: Millimetres between rows, and between columns.
        orientation: Cosines of a row's and a column's direction, (2, 3), LPS.
        position: Of the first pixel's centre, (3,), LPS mm.
        scale: Rescale slope and intercept; None for a modality LUT.
        stored: The lowest and highest value that can be stored.
        units: "HU" if the values are Hounsfield units.
        thickness: Millimetres; 0 where unknown.
        place: Frame of reference, modality and patient, which all slices share.
    """

    path: Path
    frame: int
    size: tuple[int, int]
    spacing: tuple[float, float]
    orientation: np.ndarray
    position: np.ndarray
    scale: tuple[float, float] | None
    stored: tuple[int, int]
    units: str
    thickness: float
    place: tuple[str, ...]


def read_folder(folder: Path) -> Volume:
    """The volume of a folder's one series, named after the folder.

    Raises:
        VolumeError: There is no series or several, a file of it is damaged, or see ``read_file``.
    """
    return _guarded(folder, lambda: _volume(_one_series(folder), folder, folder.resolve().name))


def read_file(path: Path) -> Volume:
    """The volume of one file: a slice, or the frames of a multi-frame object.

    Raises:
        VolumeError: It is damaged, no scalar image, lies nowhere in space, or its slices are not
            one stack: of one size and direction, evenly spaced.
    """

    def read() -> Volume:
        head = _head(path)
        if head is None or "Rows" not in head:
            raise VolumeError(f"'{path}' holds no image, or is not complete. Copy it again.")
        return _volume({path: head}, path, path.stem)

    return _guarded(path, read)


def _guarded(path: Path, read: Callable[[], Result]) -> Result:
    """Run a reader; what damaged files raise in pydicom becomes a sentence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, on values that the checks below judge
        try:
            return read()
        except (VolumeError, MemoryError):
            raise
        except Exception as error:  # a damaged file raises anything, from AttributeError to zlib's
            what = "The DICOM series in" if path.is_dir() else "The DICOM file"
            raise VolumeError(
                f"{what} '{path}' cannot be read. Copy or export it again."
                f" ({type(error).__name__}: {shown(error)[:200]})"
            ) from error


# Which files --------------------------------------------------------------------------------------


def _one_series(folder: Path) -> dict[Path, Dataset]:
    """The headers of a folder's images, by file, without their pixels."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    heads = {path: _head(path) for path in files}
    images = {path: head for path, head in heads.items() if head is not None and "Rows" in head}
    _require_whole(folder, heads, images)
    series = sorted({str(head.get("SeriesInstanceUID", "")) for head in images.values()})
    if len(series) != 1:
        found = f"{len(series)} DICOM series ({', '.join(series)})" if series else "no DICOM images"
        raise VolumeError(
            f"The folder '{folder}' holds {found}; one series is needed. Give the folder of one"
            " series."
        )
    return images


def _head(path: Path) -> Dataset | None:
    """A file's elements without its pixels; None if it is no DICOM file or damaged."""
    import pydicom

    marked = is_dicom(path)
    if not marked and path.suffix.lower() not in SLICE_ENDINGS:
        return None
    try:
        head = pydicom.dcmread(path, stop_before_pixels=True, force=not marked)
        return head if len(head) and "SOPClassUID" in head else None
    except MemoryError:
        raise
    except Exception:  # a damaged file raises anything
        return None


def _require_whole(
    folder: Path, heads: dict[Path, Dataset | None], images: dict[Path, Dataset]
) -> None:
    """Refuse a folder in which a slice is empty or cut: nobody would miss the last one."""
    endings = {_ending(path) for path in images} | set(SLICE_ENDINGS)
    classes = {str(head.SOPClassUID) for head in images.values()}
    for path, head in heads.items():
        if path in images or _ending(path) not in endings or path.name == "DICOMDIR":
            continue
        if head is not None and _is_another(head, classes):
            continue  # a report or another object without an image
        with open(path, "rb") as file:
            first = file.read(256)
        if not first or b"\0" in first or path.suffix.lower() in SLICE_ENDINGS:
            raise VolumeError(
                f"'{path.name}' in '{folder}' is empty, damaged or not complete. Copy the folder"
                " again, or remove the file if it does not belong to the series."
            )


def _is_another(head: Dataset, classes: set[str]) -> bool:
    """Whether an object is of another class than these; of a cut file the class may be cut too."""
    told = str(head.SOPClassUID)
    meta = str(head.file_meta.get("MediaStorageSOPClassUID") or told)
    return meta == told and not any(known.startswith(told) for known in classes)


def _ending(path: Path) -> str:
    """The ending of a slice's name; none where it is a number, as in IM.0001."""
    ending = path.suffix.lower()
    return "" if ending[1:].isdigit() else ending


# What the headers say -----------------------------------------------------------------------------


def _planes(path: Path, head: Dataset) -> list[Plane]:
    """Every slice of a file, as its header says."""
    _require_scalar(path, head)
    frames = int(head.get("NumberOfFrames", 1) or 1)
    per_frame = head.get("PerFrameFunctionalGroupsSequence")
    if per_frame is None and frames > 1:
        raise VolumeError(
            f"'{path}' holds {frames} frames without saying where each lies. Save them as a series"
            " of slices or as a volume."
        )
    if per_frame is not None and len(per_frame) != frames:
        raise contradiction(path, f"NumberOfFrames is {frames}, but {len(per_frame)} are described")
    _require_size(path, head, frames)
    return [_plane(path, head, frame) for frame in range(frames)]


def _require_scalar(path: Path, head: Dataset) -> None:
    samples = int(head.get("SamplesPerPixel", 1) or 1)
    colours = str(head.get("PhotometricInterpretation", "MONOCHROME2"))
    if samples != 1 or colours not in ("MONOCHROME1", "MONOCHROME2"):
        raise VolumeError(
            f"'{path}' is a colour image ({colours}, {samples} values per voxel); a scalar image is"
            " needed."
        )
    if "DoseGridScaling" in head:
        raise VolumeError(
            f"'{path}' is a radiotherapy dose, no image of a patient. Choose the CT or MR image."
        )
    if _is_mosaic(head):
        raise VolumeError(
            f"'{path}' is a mosaic: many slices drawn side by side in one. Convert it to NIfTI"
            " (dcm2niix), or export it as an enhanced or classic series."
        )
    _require_pixels(path, head)


def _is_mosaic(head: Dataset) -> bool:
    """Whether Siemens drew many slices into one: told by a word, or by their number."""
    kinds = [str(kind).upper() for kind in np.atleast_1d(head.get("ImageType", []) or [])]
    if "MOSAIC" in kinds:
        return True
    for block in range(0x10, 0x100):
        creator = head.get((0x0019, block))
        named = creator is not None and str(creator.value).strip().startswith("SIEMENS MR")
        # Without the creator's name, in its usual place.
        if named or (creator is None and block == 0x10):
            images = head.get((0x0019, block << 8 | 0x0A))
            if images is not None and _number(images.value) > 1:
                return True
    return False


def _require_pixels(path: Path, head: Dataset) -> None:
    """Compare the fields that say how pixels are stored, and which kind of image they are."""
    uid = head.SOPClassUID
    if not uid.is_valid:
        raise contradiction(path, f"its class is {shown(uid)}")
    bits = int(head.get("BitsAllocated", 0) or 0)
    if bits not in (8, 16, 32) or not 1 <= int(head.get("BitsStored", 0) or 0) <= bits:
        raise VolumeError(
            f"'{path}' holds values of {bits} bits, {head.get('BitsStored', 'none')} of them used:"
            " no image of whole numbers (a segmentation?)."
        )
    last = int(head.get("HighBit", head.BitsStored - 1))
    signed = int(head.get("PixelRepresentation", 0) or 0)
    if last != head.BitsStored - 1 or signed not in (0, 1):
        raise contradiction(
            path,
            f"BitsStored is {head.BitsStored}, HighBit {last}, PixelRepresentation {signed}",
        )


def _number(value: Any) -> float:
    """A number of a private element, which may be bytes; 0 if it is none."""
    try:
        return float(int.from_bytes(value, "little") if isinstance(value, bytes) else value)
    except (TypeError, ValueError):
        return 0.0


def _require_size(path: Path, head: Dataset, frames: int) -> None:
    """Compare the pixels announced with the file's size before any memory is taken."""
    rows, columns = int(head.Rows), int(head.Columns)
    needed = rows * columns * frames * int(head.BitsAllocated) // 8
    if not needed:
        raise contradiction(path, f"its size is {rows} x {columns} x {frames}")
    if not compressed(head) and needed > path.stat().st_size:
        raise incomplete(path, needed)


def _plane(path: Path, head: Dataset, frame: int) -> Plane:
    measures = _group(head, frame, "PixelMeasuresSequence")
    oriented = _group(head, frame, "PlaneOrientationSequence")
    placed = _group(head, frame, "PlanePositionSequence")
    spacing = _numbers(path, measures, "PixelSpacing", 2, "no size of its pixels")
    if min(spacing) <= 0:
        raise contradiction(path, f"PixelSpacing is {spacing}")
    orientation = np.reshape(
        _numbers(path, oriented, "ImageOrientationPatient", 6, "no direction in space"), (2, 3)
    )
    if np.abs(orientation @ orientation.T - np.eye(2)).max() > SAME_DIRECTION:
        raise contradiction(path, f"ImageOrientationPatient is {orientation.ravel().tolist()}")
    position = _numbers(path, placed, "ImagePositionPatient", 3, "no position in space")
    bits = int(head.BitsStored)
    signed = int(head.get("PixelRepresentation", 0) or 0) == 1
    scale, units = _scale(path, head, frame)
    return Plane(
        path,
        frame,
        (int(head.Rows), int(head.Columns)),
        (spacing[0], spacing[1]),
        orientation,
        np.array(position),
        scale,
        (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1),
        units,
        abs(_number(measures.get("SliceThickness") or 0)),
        tuple(str(head.get(key, "")) for key in ("FrameOfReferenceUID", "Modality", "PatientID")),
    )


def _group(head: Dataset, frame: int, sequence: str) -> Dataset:
    """A functional group of a frame: its own, else the shared one; of a classic slice all."""
    from pydicom import Dataset

    if "PerFrameFunctionalGroupsSequence" not in head:
        return head
    shared = head.get("SharedFunctionalGroupsSequence") or []
    for holder in (head.PerFrameFunctionalGroupsSequence[frame], *shared[:1]):
        if holder.get(sequence):
            return holder[sequence].value[0]
    return Dataset()


def _numbers(path: Path, group: Dataset, key: str, count: int, missing: str) -> list[float]:
    """The finite numbers of an element. Raises VolumeError if they are not there."""
    value = group.get(key)
    if value is None or value == "" or len(np.atleast_1d(value)) == 0:
        raise VolumeError(
            f"'{path}' has {missing} ({key} is missing), so no volume can be made of it. Is it a"
            " screen shot or a projection? Export the original series."
        )
    numbers = [float(number) for number in np.atleast_1d(value)]
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise contradiction(path, f"{key} is {numbers}")
    return numbers


def _scale(path: Path, head: Dataset, frame: int) -> tuple[tuple[float, float] | None, str]:
    """Slope and intercept, None for a table of values; and the unit of what comes out."""
    group = _group(head, frame, "PixelValueTransformationSequence")
    ct = str(head.get("Modality", "")) == "CT"
    if head.get("ModalityLUTSequence"):
        kind = str(head.ModalityLUTSequence[0].get("ModalityLUTType", ""))
        return None, "HU" if kind == "HU" else ""
    given = [group.get(key) for key in ("RescaleSlope", "RescaleIntercept")]
    if all(value in (None, "") for value in given):
        return (1.0, 0.0), ""
    if any(value in (None, "") for value in given):
        raise contradiction(path, f"RescaleSlope is {given[0]}, RescaleIntercept {given[1]}")
    slope, intercept = (float(value) for value in given)
    if not (math.isfinite(slope) and math.isfinite(intercept)) or slope == 0:
        raise contradiction(path, f"RescaleSlope is {slope}, RescaleIntercept {intercept}")
    hounsfield = ct and str(group.get("RescaleType") or "HU") == "HU"
    return (slope, intercept), "HU" if hounsfield else ""


# The volume ---------------------------------------------------------------------------------------


def _volume(heads: dict[Path, Dataset], source: Path, name: str) -> Volume:
    planes: list[Plane] = []
    for path, head in heads.items():
        planes += _guarded(path, partial(_planes, path, head))
    first = planes[0]
    for plane in planes:
        _require_alike(first, plane, source)
    normal = np.cross(*first.orientation)
    planes.sort(key=lambda plane: float(plane.position @ normal))
    step = _step(planes, normal, source)
    units = planes[0].units if len({plane.units for plane in planes}) == 1 else ""
    _say_class(next(iter(heads.values())), source)
    if planes[0].place[1] == "CT" and units != "HU":
        say(source, "it is a CT without a rescale to Hounsfield units; values are as stored.")
    lps = np.eye(4)
    lps[:3, 0] = first.orientation[0] * first.spacing[1]
    lps[:3, 1] = first.orientation[1] * first.spacing[0]
    lps[:3, 2] = step
    lps[:3, 3] = planes[0].position
    _say_spacing(heads, float(step @ normal), source, len(planes))
    return Volume(_values(planes, heads), RAS_FROM_LPS @ lps, name, units)


def _say_class(head: Dataset, source: Path) -> None:
    """Tell where the class of an object is unknown, or of another modality than it says."""
    uid, modality = head.SOPClassUID, str(head.get("Modality", ""))
    kind = MODALITIES.get(str(uid))
    if kind is not None and modality != kind:
        say(source, f"its class is {kind}, its modality '{shown(modality)}', which is taken.")
    if kind is None and uid.name == str(uid) and not uid.is_private:
        say(source, f"its class {uid} is not known.")


def _require_alike(first: Plane, plane: Plane, source: Path) -> None:
    """All slices are of one kind; the first that is not is named."""
    turned = np.abs(plane.orientation - first.orientation).max() > SAME_DIRECTION
    scaled = not np.allclose(plane.spacing, first.spacing, rtol=SAME_LENGTH, atol=0)
    differences = {
        "direction (ImageOrientationPatient)": turned,
        "size of their pixels (PixelSpacing)": scaled,
        "rows and columns": plane.size != first.size,
        "frame of reference, modality or patient": plane.place != first.place,
    }
    differs = [what for what, different in differences.items() if different]
    if differs:
        raise VolumeError(
            f"The slices in '{source}' differ in {' and '.join(differs)}: {_named(first)} and"
            f" {_named(plane)}. Keep those of one stack (no localizers) in the folder."
        )


def _named(plane: Plane) -> str:
    return shown(plane.path.name) + (f", frame {plane.frame + 1}" if plane.frame else "")


def _step(planes: list[Plane], normal: np.ndarray, source: Path) -> np.ndarray:
    """The step in mm, LPS, from slice to slice, a tilted gantry's slant included.

    Raises VolumeError if the slices are not evenly spaced: a gap would put everything behind it in
    the wrong place.
    """
    if len(planes) == 1:
        thickness = planes[0].thickness
        if not math.isfinite(thickness) or thickness <= 0:
            say(source, "it does not say how thick its one slice is; 1 mm is taken.")
            thickness = 1.0
        return normal * thickness
    lps = np.array([plane.position for plane in planes])
    step = (lps[-1] - lps[0]) / (len(lps) - 1)
    off = np.linalg.norm(lps - lps[0] - np.arange(len(lps))[:, None] * step, axis=1).max()
    if not off <= UNEVEN * np.linalg.norm(step) or step @ normal <= 0:
        raise VolumeError(
            f"The slices in '{source}' are not evenly spaced (off by up to {off:.2f} mm). Look for"
            " missing or repeated slices, or several echoes or times, or resample the series evenly"
            " in Slicer first."
        )
    return step


def _say_spacing(heads: dict[Path, Dataset], distance: float, source: Path, slices: int) -> None:
    """Tell where SpacingBetweenSlices says another distance than the slices' positions."""
    if slices == 1:
        return
    head = next(iter(heads.values()))
    told = abs(_number(_group(head, 0, "PixelMeasuresSequence").get("SpacingBetweenSlices") or 0))
    if told and abs(told - distance) > UNEVEN * distance:
        say(
            source,
            f"SpacingBetweenSlices is {told:g} mm, but its slices lie {distance:g} mm apart, which"
            " is taken.",
        )


def _values(planes: list[Plane], heads: dict[Path, Dataset]) -> np.ndarray:
    """All slices' values [k, j, i], each with its own rescale, exact."""
    scales = [plane.scale or (1.0, 0.0) for plane in planes]
    low = min(0 if plane.scale is None else plane.stored[0] for plane in planes)
    high = max(65535 if plane.scale is None else plane.stored[1] for plane in planes)
    kind = scaled_type(low, high, scales)
    places: dict[Path, list[int]] = {path: [] for path in heads}
    for place, plane in enumerate(planes):
        places[plane.path].append(place)
    values: np.ndarray | None = None
    told: list[Path] = []
    for path, mine in places.items():
        frames = sorted(mine, key=lambda place: planes[place].frame)
        for place, stored in zip(frames, stored_frames(path, len(frames), told)):
            if values is None:
                values = np.empty((len(planes), *stored.shape), kind)
            if stored.shape != values.shape[1:]:
                raise contradiction(path, f"a slice of {stored.shape} was read")
            slope, intercept = scales[place]
            values[place] = stored
            if (slope, intercept) != (1, 0):
                values[place] *= kind.type(slope)
                values[place] += kind.type(intercept)
    assert values is not None
    return values
