"""A volume as a DICOM series derived from another: same patient and study, a series of its own."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .read_dicom import is_dicom
from .volumes import RAS_FROM_LPS, Volume, VolumeError, check

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

KEPT = (
    "SpecificCharacterSet",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "StudyInstanceUID",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "PatientPosition",
    "BodyPartExamined",
)
"""What a derived series has from its source: patient, study and frame of reference."""
NEEDED = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate")
NEEDED_TOO = ("StudyTime", "AccessionNumber", "ReferringPhysicianName")
"""What the standard wants in every image, empty where it is not known."""
SERIES_NUMBER = 9000
"""Added to the source's series number."""


def save(volume: Volume, folder: Path | str, source: Path | str, description: str) -> Path:
    """Write a folder of single-frame DICOM images, one a slice k.

    Whole numbers that fit 16 bits come back exactly; others are rounded to one of 65,536 steps
    between the least and the greatest value (rescale slope and intercept).

    Args:
        volume: [k, j, i]; in units "HU" it becomes CT, otherwise MR.
        folder: Made; must not hold files.
        source: A DICOM file, or a folder with the series that the volume was made from.
        description: Of the series, such as "harmonized".

    Returns:
        The folder.

    Raises:
        VolumeError: The source is not DICOM, a value is not finite, or the disk refuses.
    """
    from pydicom.uid import generate_uid

    check(volume)
    folder = Path(folder)
    first = first_header(source)
    stored, slope, intercept = _stored(volume.array)
    general = _general(first, volume.units == "HU", description, slope, intercept)
    general.SeriesInstanceUID = generate_uid(prefix=None)
    if "FrameOfReferenceUID" not in general:
        general.FrameOfReferenceUID = generate_uid(prefix=None)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for k in range(len(stored)):
            one = _slice(general, volume, stored[k], k)
            one.save_as(folder / f"{k + 1:05d}.dcm", enforce_file_format=True)
    except OSError as error:
        raise VolumeError(f"'{folder}' cannot be written: {error.strerror or error}") from error
    return folder


def first_header(source: Path | str) -> Dataset:
    """The header of a DICOM file, or of the first one in a folder.

    Raises:
        VolumeError: There is none.
    """
    import pydicom
    from pydicom.errors import InvalidDicomError

    source = Path(source)
    paths = sorted(source.iterdir()) if source.is_dir() else [source]
    for path in paths:
        if path.name.startswith(".") or not path.is_file():
            continue
        try:
            found = pydicom.dcmread(path, stop_before_pixels=True)
        except (InvalidDicomError, OSError, ValueError):
            continue
        if "StudyInstanceUID" in found:
            return found
    raise VolumeError(
        f"'{source}' is not DICOM: a derived DICOM series takes patient and study from its source."
        " Choose another format."
    )


def _general(
    first: Dataset, hounsfield: bool, description: str, slope: float, intercept: float
) -> Dataset:
    """What all slices have in common."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

    one = Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for name in KEPT:
        if name in first:
            setattr(one, name, getattr(first, name))
    for name in (*NEEDED, *NEEDED_TOO):
        if name not in one:
            setattr(one, name, "")
    now = datetime.now()
    one.SOPClassUID = CTImageStorage if hounsfield else MRImageStorage
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID
    one.Modality = "CT" if hounsfield else "MR"
    one.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    one.SeriesDescription = description[:64]
    one.SeriesNumber = SERIES_NUMBER + int(getattr(first, "SeriesNumber", None) or 0)
    one.SeriesDate = one.ContentDate = now.strftime("%Y%m%d")
    one.SeriesTime = one.ContentTime = now.strftime("%H%M%S")
    one.Manufacturer = "NetInversion"
    one.DerivationDescription = "Computed by NetInversion. Research use only, never for diagnosis."
    one.SamplesPerPixel = 1
    one.PhotometricInterpretation = "MONOCHROME2"
    one.RescaleSlope, one.RescaleIntercept = _decimal(slope), _decimal(intercept)
    one.RescaleType = "HU" if hounsfield else "US"
    return one


def _slice(general: Dataset, volume: Volume, stored: np.ndarray, k: int) -> Dataset:
    """One image: ``stored`` (J, I) at index ``k``."""
    import copy

    from pydicom.uid import generate_uid

    one = copy.deepcopy(general)
    lps = RAS_FROM_LPS @ volume.ijk_to_ras
    along_i, along_j, step = (lps[:3, axis] for axis in range(3))
    lengths = [float(np.linalg.norm(axis)) for axis in (along_i, along_j)]
    normal = np.cross(along_i / lengths[0], along_j / lengths[1])
    one.SOPInstanceUID = generate_uid(prefix=None)
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
    one.InstanceNumber = k + 1
    one.ImagePositionPatient = [_decimal(x) for x in lps[:3, 3] + k * step]
    one.ImageOrientationPatient = [
        _decimal(x) for x in (*along_i / lengths[0], *along_j / lengths[1])
    ]
    one.PixelSpacing = [_decimal(lengths[1]), _decimal(lengths[0])]
    one.SliceThickness = one.SpacingBetweenSlices = _decimal(abs(float(normal @ step)))
    one.Rows, one.Columns = stored.shape
    one.BitsAllocated = one.BitsStored = 16
    one.HighBit = 15
    one.PixelRepresentation = int(stored.dtype == np.int16)
    one.PixelData = np.ascontiguousarray(stored).astype(stored.dtype.newbyteorder("<")).tobytes()
    return one


def _stored(array: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Values of 16 bits, with slope and intercept that give back the array's."""
    low, high = float(array.min()), float(array.max())
    if array.dtype.kind in "iub" or bool((array == np.round(array)).all()):
        for kind in (np.int16, np.uint16):
            if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
                return array.astype(kind), 1.0, 0.0
    slope = float(_decimal((high - low) / 65535)) or 1.0
    intercept = float(_decimal(low))
    steps = np.round((np.asarray(array, np.float64) - intercept) / slope)
    return np.clip(steps, 0, 65535).astype(np.uint16), slope, intercept


def _decimal(value: Any) -> str:
    """A number in the 16 letters that DICOM's decimal strings have."""
    value = float(value)
    for digits in range(16, 0, -1):
        text = f"{value:.{digits}g}"
        if len(text) <= 16:
            return text
    return "0"


def holds_dicom(source: Path | str) -> bool:
    """Whether a path is a DICOM file, or a folder of them."""
    source = Path(source)
    if source.is_file() and is_dicom(source):
        return True
    if not source.is_dir():
        return False
    return any(is_dicom(path) for path in sorted(source.iterdir()) if path.is_file())
