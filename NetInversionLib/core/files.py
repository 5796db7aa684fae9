"""Volumes from and to files: NIfTI, NRRD, MetaImage and DICOM.

Each format has a reader of its own (``read_nifti``, ``read_itk``, ``read_dicom``); one check
(``header``) compares sizes before memory is taken, and what was read with what the file says.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import SimpleITK as sitk

from . import read_dicom, read_itk, read_nifti
from .header import utf8
from .text import shown
from .volumes import Volume, VolumeError, check, image_ijk_to_ras, same_grid, to_image

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
"""Endings that can be written."""
READABLE = (*SUFFIXES, ".nhdr", ".mhd", ".hdr", ".img", ".hdr.gz", ".img.gz")
"""Endings that can be read, besides DICOM's."""

WHOLE = {
    ".nhdr": ".nrrd",
    ".mhd": ".mha",
    ".hdr.gz": ".nii.gz",
    ".img.gz": ".nii.gz",
    ".hdr": ".nii",
    ".img": ".nii",
}
"""Endings of headers with data beside them, and of the one file that is written instead."""

# ------------------------------------------------------------------------------------------ reading


def load(path: str | os.PathLike) -> Volume:
    """Read a scalar 3-D image.

    NIfTI, NRRD, MetaImage, a DICOM file, or a folder of one DICOM series; see ``read_nifti``,
    ``read_itk`` and ``read_dicom``. A file that contradicts itself is refused, or taken by its
    format's rule and said so on the log "NetInversionLib".

    Rescale slope and intercept are applied; a DICOM CT in Hounsfield units has units "HU", other
    files none. Where a NIfTI file's two matrices differ, the one is taken that Slicer takes.

    Returns:
        The volume, its array [k, j, i].

    Raises:
        VolumeError: There is no such image, it is damaged, 4-D or has several components, slices
            are missing, or the file contradicts itself.
    """
    path = Path(path)
    try:
        return _read(path)
    except VolumeError as error:
        if str(error).isprintable():
            raise
        raise VolumeError(shown(error)) from error  # words of a damaged header
    except OSError as error:
        reason = error.strerror or error
        raise VolumeError(f"'{shown(path)}' cannot be read: {reason}.") from error


def _read(path: Path) -> Volume:
    if not path.exists():
        raise VolumeError(f"There is no file or folder '{path}'. Check the path.")
    if path.is_dir():
        return read_dicom.read_folder(path)
    name = path.name.lower()
    if name.endswith((*read_itk.NRRD, *read_itk.METAIMAGE)):
        return read_itk.read(path, scan_name(path))
    if name.endswith(read_nifti.SUFFIXES):
        return read_nifti.read(path, scan_name(path))
    if read_dicom.is_dicom(path):
        return read_dicom.read_file(path)
    raise VolumeError(
        f"'{path}' cannot be read: its ending is none of {', '.join(READABLE)}, and it is no DICOM"
        " file. Save it in one of these formats."
    )


# ------------------------------------------------------------------------------------------ writing


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
    utf8(path)
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


def written_like(path: str | os.PathLike) -> str:
    """The ending of an image that is written in the format of another; ".nii.gz" if it has none.

    Of a header with data beside it, that of the whole file.
    """
    name = os.fspath(path).lower()
    found = next((ending for ending in (*SUFFIXES, *WHOLE) if name.endswith(ending)), ".nii.gz")
    return WHOLE.get(found, found)


def scan_name(path: Path) -> str:
    """What a scan is called in tables and lists.

    Its file's name without the ending of an image (in any case), a folder's whole name.
    """
    name = path.name or path.resolve().name
    ending = next((ending for ending in READABLE if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)] or name


def _reason(error: Exception) -> str:
    """The last line of an ITK message, where the cause stands."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
