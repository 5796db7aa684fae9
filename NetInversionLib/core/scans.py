"""Which files of a folder are scans: one finder for cohorts, trainings, evaluations and demo."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .files import READABLE, scan_name
from .read_dicom import is_dicom
from .read_nifti import SUFFIXES as NIFTI

LABELS = re.compile(r"[_-](labels?|seg|dseg|probseg)$|\.seg$", re.IGNORECASE)
"""Names, without their ending, of label maps; ``.seg`` is Slicer's segmentation."""
MASK = re.compile(r"_mask$", re.IGNORECASE)
PART = re.compile(r"(?:^|_)part-(phase|real|imag)(?=_|$)", re.IGNORECASE)
NO_SUBJECTS = ("derivatives", "sourcedata", "code", "stimuli")
"""Folders of a BIDS data set that hold no raw images."""


@dataclass
class Listing:
    """What a folder holds.

    Attributes:
        scans: Image files and folders of DICOM slices, in order.
        masks: For a scan, the files NAME_mask beside NAME.
        left_out: Image files that are no scans, with the reason.
    """

    scans: list[Path] = field(default_factory=list)
    masks: dict[Path, list[Path]] = field(default_factory=dict)
    left_out: dict[Path, str] = field(default_factory=dict)


def find(
    folder: str | os.PathLike, deep: bool = True, skip: Callable[[Path], bool] | None = None
) -> Listing:
    """The scans of a folder, by their names and DICOM's mark; no image is read.

    Hidden files and folders, what a ``.bidsignore`` names, masks (NAME_mask of a NAME that is
    there), label maps, Slicer's segmentations, phase images, and the folders of a BIDS data set
    without raw images are none. A pair of NIfTI files is one scan, its ``.hdr``; of two files that
    differ in their ending only both are scans. Links to folders are not followed.

    Args:
        folder: Where to look.
        deep: In its sub-folders too; else only in those that hold DICOM slices.
        skip: Folders for which it is true are not entered.

    Raises:
        ValueError: There is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    ignored = _bidsignore(folder)
    listing, images = Listing(), []
    for place, folders, names in os.walk(folder):
        parent = Path(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if parent == folder and is_bids(folder):
            folders[:] = [name for name in folders if name not in NO_SUBJECTS]
        folders[:] = [name for name in folders if not (skip and skip(parent / name))]
        visible = [name for name in sorted(names) if not name.startswith(".")]
        visible = [name for name in visible if not ignored((parent / name).relative_to(folder))]
        if _holds_dicom(parent, visible):
            images.append(parent)
        if parent == folder or deep:
            images += [parent / name for name in visible if name.lower().endswith(READABLE)]
        else:
            folders.clear()
    known = {scan_name(path).lower() for path in images}
    for path in images:
        reason = _no_scan(path, known)
        if reason:
            listing.left_out[path] = reason
        else:
            listing.scans.append(path)
    listing.masks = {path: found for path in listing.scans if (found := masks_beside(path))}
    return listing


def unique_names(folder: Path, paths: list[Path]) -> dict[str, Path]:
    """Scans by name; files beside each other that differ in their ending only keep it.

    Raises:
        ValueError: Two in different folders have one name.
    """
    plain = {path: scan_name(path) for path in paths}
    beside = Counter((path.parent, name) for path, name in plain.items())
    named: dict[str, Path] = {}
    for path, name in plain.items():
        chosen = name if beside[path.parent, name] == 1 else path.name
        if chosen in named:
            raise ValueError(f"two scans in {folder} are called {chosen}: rename one")
        named[chosen] = path
    return dict(sorted(named.items()))


def is_bids(folder: str | os.PathLike) -> bool:
    """Whether a folder is a BIDS data set."""
    return (Path(folder) / "dataset_description.json").is_file()


def masks_beside(path: Path) -> list[Path]:
    """The files NAME_mask, with any ending, beside a scan NAME."""
    names = (f"{scan_name(path)}_mask{ending}" for ending in READABLE)
    found = [path.with_name(name) for name in names if os.path.lexists(path.with_name(name))]
    return [other for other in found if not _second_of_pair(other)]


def _no_scan(path: Path, known: set[str]) -> str:
    """Why an image is no scan; "" if it is one. ``known``: names of all images, in lower case."""
    if path.is_dir():
        return ""
    name = scan_name(path)
    if MASK.search(name) and MASK.sub("", name).lower() in known:
        return "a mask"
    if LABELS.search(name):
        return "a label map"
    if PART.search(name):
        return "a phase, real or imaginary part"
    if _second_of_pair(path):
        return "the voxels of a pair"
    return "" if path.is_file() else "no file"


def _second_of_pair(path: Path) -> bool:
    """Whether a file holds the voxels of a NIfTI pair, whose header stands beside it."""
    name = path.name.lower()
    if not name.endswith(NIFTI) or not name.removesuffix(".gz").endswith(".img"):
        return False
    stem = path.name[: len(scan_name(path))]
    return any(path.with_name(stem + ending).exists() for ending in (".hdr", ".hdr.gz", ".HDR"))


def _holds_dicom(parent: Path, names: list[str]) -> bool:
    """Whether a folder holds DICOM slices, by their mark."""
    others = (name for name in names if not name.lower().endswith(READABLE))
    return any(name != "DICOMDIR" and is_dicom(parent / name) for name in others)


def _bidsignore(folder: Path) -> Callable[[Path], bool]:
    """Whether a path below a folder is named by its .bidsignore, in the manner of .gitignore."""
    rules = folder / ".bidsignore"
    if not rules.is_file():
        return lambda path: False
    import pathspec

    lines = rules.read_text(encoding="utf-8", errors="replace").splitlines()
    spec = pathspec.GitIgnoreSpec.from_lines(lines)
    return lambda path: spec.match_file(path.as_posix())
