"""Volumes from and to files: NIfTI, NRRD, MetaImage and DICOM."""

from __future__ import annotations

import gzip
import os
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .volumes import RAS_FROM_LPS, Volume, VolumeError, check, image_ijk_to_ras, same_grid, to_image

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")


# -------------------------------------------------------------------------------------------- files


def load(path: str | os.PathLike) -> Volume:
    """Read a scalar 3-D image.

    NIfTI, NRRD, MHA (whatever ITK reads), or a folder of one DICOM series.

    Rescale slope and intercept are applied; a DICOM CT has units "HU", other files none. Where a
    NIfTI file's two matrices differ, ITK chooses, as in Slicer.

    Returns:
        The volume, its array [k, j, i].

    Raises:
        VolumeError: There is no such image, it is damaged, 4-D or has several components, or slices
            are missing.
    """
    path = Path(path)
    if not path.exists():
        raise VolumeError(f"There is no file or folder '{path}'. Check the path.")
    if path.is_dir():
        return _load_dicom(path)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        hint = (
            "Its axes are not at right angles; resample it in the program that wrote it, or save it"
            " as NRRD."
            if "orthonormal" in str(error)
            else "Is it a complete NIfTI, NRRD or MHA file?"
        )
        raise VolumeError(
            f"'{path}' cannot be read as an image. {hint} (ITK: {_reason(error)})"
        ) from error
    if image.HasMetaDataKey("vox_offset"):
        _require_whole_nifti(image, path)
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    return Volume(_pixels(image, path), image_ijk_to_ras(image), _stem(path))


def _require_whole_nifti(image: sitk.Image, path: Path) -> None:
    """ITK silently fills a NIfTI file that was cut short with anything: count the bytes."""
    header = [float(image.GetMetaData(key)) for key in ("vox_offset", "bitpix")]
    needed = header[0] + header[1] / 8 * image.GetNumberOfPixels()
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with (gzip.open if packed else open)(path, "rb") as file:
            found = sum(map(len, iter(lambda: file.read(1 << 20), b"")))
    except (EOFError, zlib.error, gzip.BadGzipFile):
        found = 0
    if found < needed:
        raise VolumeError(f"'{path}' is damaged or not complete. Copy or download it again.")


def _pixels(image: sitk.Image, path: Path) -> np.ndarray:
    size = image.GetSize()
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise VolumeError(
            f"'{path}' has {image.GetNumberOfComponentsPerPixel()} values per voxel (colour,"
            " vectors or a series); a scalar image is needed. Save one component as a volume of"
            " its own."
        )
    if image.GetDimension() != 3:
        raise VolumeError(
            f"'{path}' has {image.GetDimension()} dimensions, {size}; a 3-D image is needed. "
            "Save one time point as a volume of its own."
        )
    return sitk.GetArrayFromImage(image)


def _load_dicom(folder: Path) -> Volume:
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        found = f"{len(series)} DICOM series ({', '.join(series)})" if series else "no DICOM images"
        raise VolumeError(
            f"The folder '{folder}' holds {found}; one series is needed. Give the folder of one"
            " series."
        )
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0]))
    reader.MetaDataDictionaryArrayUpdateOn()
    try:
        image = reader.Execute()
        if len(set(map(tuple, _slice_tags(reader, *RESCALE_TAGS)))) > 1:
            reader.SetOutputPixelType(
                sitk.sitkFloat64
            )  # ITK took the type that fits the first slice
            image = reader.Execute()
    except RuntimeError as error:
        raise VolumeError(
            f"The DICOM series in '{folder}' cannot be read. ({_reason(error)})"
        ) from error
    array, matrix = _pixels(image, folder), image_ijk_to_ras(image)
    if len(array) > 1:
        matrix[:3, 2] = _slice_step(_slice_tags(reader, "0020|0032"), folder)
    units = "HU" if _slice_tags(reader, "0008|0060")[0] == ["CT"] else ""
    return Volume(array, matrix, folder.resolve().name, units)


RESCALE_TAGS = (
    "0028|1053",
    "0028|1052",
    "0028|0101",
    "0028|0103",
)  # slope, intercept, bits stored, signed


def _slice_tags(reader: sitk.ImageSeriesReader, *tags: str) -> list[list[str]]:
    """The values of some DICOM tags, slice by slice; "" where absent."""
    return [
        [
            reader.GetMetaData(k, tag).strip() if reader.HasMetaDataKey(k, tag) else ""
            for tag in tags
        ]
        for k in range(len(reader.GetFileNames()))
    ]


def _slice_step(positions: list[list[str]], folder: Path) -> np.ndarray:
    """The RAS step in mm from slice to slice (a tilted gantry's slant included), from
    ImagePositionPatient.

    Raises VolumeError if the slices are not evenly spaced: a gap would put everything behind it in
    the wrong place.
    """
    lps = np.array([[float(number) for number in text.split("\\")] for (text,) in positions])
    step = (lps[-1] - lps[0]) / (len(lps) - 1)
    off = np.linalg.norm(lps - lps[0] - np.arange(len(lps))[:, None] * step, axis=1).max()
    if off > 0.02 * np.linalg.norm(step):
        raise VolumeError(
            f"The slices in '{folder}' are not evenly spaced (off by up to {off:.2f} mm). "
            "Look for missing or repeated slices, or resample the series evenly in Slicer first."
        )
    return RAS_FROM_LPS[:3, :3] @ step


def save(volume: Volume, path: str | os.PathLike) -> Path:
    """Write NIfTI (.nii.gz, .nii), NRRD (.nrrd) or MetaImage (.mha); all or nothing.

    Values come back exactly (bool as uint8, float16 as float32); positions too, in NIfTI to its
    single precision.

    Args:
        volume: [k, j, i].
        path: Its suffix names the format.

    Returns:
        The path.

    Raises:
        VolumeError: The format is unknown, cannot hold this geometry, or the disk refuses.
    """
    path = Path(path)
    suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        raise VolumeError(
            f"'{path.name}' has no ending that can be written; use one of {', '.join(SUFFIXES)}."
        )
    check(volume)
    partial = path.with_name(f".{path.name[: -len(suffix)]}.partial{os.getpid()}{suffix}")
    try:
        sitk.WriteImage(to_image(volume), str(partial), useCompression=True)
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(partial))
        reader.ReadImageInformation()
        if not same_grid(volume, replace(volume, ijk_to_ras=image_ijk_to_ras(reader))):
            raise VolumeError(
                f"{suffix} cannot hold the position of '{volume.name}': its axes are not at right"
                " angles. Save it as .nrrd, or resample it first."
            )
        os.replace(partial, path)
    except (RuntimeError, OSError) as error:
        raise VolumeError(
            f"'{path}' cannot be written. Is the folder there, writable, and the disk not full? "
            f"({_reason(error)})"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def scan_name(path: Path) -> str:
    """What a scan is called in tables and lists.

    Its file's name without the suffix, a folder's whole name.
    """
    return next(
        (path.name[: -len(suffix)] for suffix in SUFFIXES if path.name.endswith(suffix)), path.name
    )


def _stem(path: Path) -> str:
    return next(
        (path.name[: -len(suffix)] for suffix in SUFFIXES if path.name.lower().endswith(suffix)),
        path.stem,
    )


def _reason(error: Exception) -> str:
    """The last line of an ITK message, where the cause stands."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
