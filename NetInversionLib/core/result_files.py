"""A result as files: images in the format of their source, tables and curves as CSV, facts as JSON.

Cohorts and the command write their results here; a job's own folders are ``jobs.storage``'s.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import derived_series, files
from .keys import Key
from .results import Result
from .steps import json_value
from .table_files import curve_table, write_table
from .volumes import Volume, VolumeError

FACTS = "facts.json"
DICOM = ""
"""Ending of an image that is a folder with a DICOM series."""


def suffix_for(source: str | Path, wanted: str | None = None) -> str:
    """The ending of the images that are written, or ``DICOM``: as wanted, else the source's."""
    if wanted:
        return DICOM if wanted == "dicom" else f".{wanted}"
    if derived_series.holds_dicom(source):
        return DICOM
    return files.written_like(source)


def is_one_file(path: str | Path) -> bool:
    """Whether an image of this name is one file; any other name is a folder of DICOM slices."""
    return str(path).lower().endswith(files.SUFFIXES)


def save_image(volume: Volume, path: Path, source: str | Path, description: str) -> Path:
    """Write an image as a file or as a folder of DICOM slices, whichever its name says.

    Args:
        volume: [k, j, i].
        path: See ``is_one_file``.
        source: The file or folder that the image was made from.
        description: Of the DICOM series.

    Returns:
        The path.

    Raises:
        VolumeError: The format cannot hold the image, or the disk refuses.
    """
    if is_one_file(path):
        return files.save(volume, path)
    return derived_series.save(volume, path, source, description)


def write_image(
    volume: Volume,
    folder: Path,
    name: str,
    suffix: str,
    source: str | Path,
    log: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write an image into a folder, as NRRD where the format cannot hold it.

    Args:
        volume: [k, j, i].
        folder: Is there.
        name: Without ending.
        suffix: From ``suffix_for``.
        source: The file or folder that the image was made from.
        log: Is told where the format cannot hold the image, and which one it gets instead.

    Returns:
        The path.

    Raises:
        VolumeError: NRRD cannot hold it either, or the disk refuses.
    """
    name = re.sub(r'[/\\:*?"<>|]', "_", name)
    if suffix == DICOM:
        return derived_series.save(volume, folder / name, source, name)
    try:
        return files.save(volume, folder / f"{name}{suffix}")
    except VolumeError:
        if suffix == ".nrrd":
            raise
        path = files.save(volume, folder / f"{name}.nrrd")
        log(f"{name} is written as NRRD: {suffix} cannot hold its position or type")
        return path


def write_facts(facts: dict[str, Any], path: Path) -> None:
    """Write facts as JSON.

    Raises:
        OSError: The file cannot be written.
    """
    path.write_text(json.dumps(facts, indent=1, default=json_value), encoding="utf-8")


def write_result(
    result: Result,
    folder: Path,
    suffix: str = ".nrrd",
    source: str | Path = "",
    log: Callable[[str], None] = lambda line: None,
) -> None:
    """Write images, tables and curves (CSV), and all facts (JSON).

    Args:
        result: Of any task.
        folder: Made.
        suffix, source, log: As for ``write_image``.

    Raises:
        VolumeError, OSError: The disk refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for key, volume in result.volumes.items():
        write_image(volume, folder, Key.read(key).file_name, suffix, source, log)
    for key, table in result.tables.items():
        write_table(table, folder, Key.read(key).file_name)
    for key, curve in result.curves.items():
        name = Key.read(key).file_name + ("_curve" if key in result.tables else "")
        write_table(curve_table(curve), folder, name)
    write_facts(result.facts, folder / FACTS)
