"""Requests and results as files in a folder: JSON and arrays, never pickle."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.results import Curve, Result, Table
from ..core.steps import PIECE, json_value
from ..core.volumes import Volume
from .errors import JobError
from .request import Request

if TYPE_CHECKING:
    from ..core.steps import Steps


# Requests and results as files


def save_request(folder: Path, request: Request) -> Steps:
    in_memory = [key for key, path in request.model_paths.items() if not isinstance(path, str)]
    if in_memory:
        raise JobError(
            f"The network for '{in_memory[0]}' is in this process's memory: run it here, or save it"
            " and import the file with 'netinversion models import'."
        )
    facts = {
        "analysis": request.analysis,
        "model_paths": request.model_paths,
        "settings": request.settings,
    }
    yield from _save(Path(folder) / "request", facts, request.volumes)


def load_request(folder: Path) -> Steps:
    facts, volumes = yield from _load(Path(folder) / "request")
    return Request(facts["analysis"], volumes, facts["model_paths"], facts["settings"])


def save_result(folder: Path, result: Result, name: str = "result") -> Steps:
    facts = {
        "tables": {key: vars(table) for key, table in result.tables.items()},
        "curves": {key: vars(curve) for key, curve in result.curves.items()},
        "facts": result.facts,
        "roles": result.roles,
    }
    yield from _save(Path(folder) / name, facts, result.volumes)


def load_result(folder: Path, name: str = "result") -> Steps:
    """Steps whose value is the Result saved under ``name``, or None if there is none."""
    try:
        facts, volumes = yield from _load(Path(folder) / name)
    except FileNotFoundError:
        return None
    tables = {key: Table(**table) for key, table in facts["tables"].items()}
    curves = {key: Curve(**curve) for key, curve in facts["curves"].items()}
    for curve in curves.values():
        curve.lines = {key: (x, y) for key, (x, y) in curve.lines.items()}
    return Result(volumes, tables, curves, facts["facts"], facts["roles"])


def load_intermediate(folder: Path) -> Steps:
    """Steps whose value is the newest intermediate Result, or None.

    May run while the worker replaces it.
    """
    tried = None
    while (newest := _newest(folder)) != tried:  # else it is damaged: nothing newer took its place
        result = yield from load_result(folder, f"intermediate-{newest}")
        if result is not None:
            return result
        tried = newest
    return None


def remove(folder: Path) -> Steps:
    """Delete all files of a job, one a step: a file system takes its time over large ones."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(parent, name))
            yield True


def _newest(folder: Path) -> int | None:
    """Number of the newest intermediate result that is there."""
    names = (re.fullmatch(r"intermediate-(\d+)", path.name) for path in Path(folder).iterdir())
    return max((int(name[1]) for name in names if name), default=None)


def _save(folder: Path, facts: dict, volumes: dict[str, Volume]) -> Steps:
    """Write a new folder that appears under its name whole or not at all."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        described = {}
        for index, (key, volume) in enumerate(volumes.items()):
            yield from _save_array(partial / f"{index}.npy", volume.array)
            geometry = np.asarray(volume.ijk_to_ras, np.float64).tolist()
            described[key] = {"ijk_to_ras": geometry, "name": volume.name, "units": volume.units}
        (partial / "facts.json").write_text(
            json.dumps({**facts, "volumes": described}, default=json_value)
        )
        partial.rename(folder)
    except Exception:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _load(folder: Path) -> Steps:
    facts = json.loads((folder / "facts.json").read_text())
    volumes = {}
    for index, (key, described) in enumerate(facts["volumes"].items()):
        array = yield from _load_array(folder / f"{index}.npy")
        volumes[key] = Volume(
            array, np.array(described["ijk_to_ras"]), described["name"], described["units"]
        )
    return facts, volumes


def _save_array(path: Path, array: np.ndarray) -> Steps:
    """A .npy file like np.save's, C order, in pieces."""
    if array.dtype.hasobject:
        raise TypeError(f"an array of {array.dtype} cannot be saved without pickle")
    header = {
        "descr": np.lib.format.dtype_to_descr(array.dtype),
        "fortran_order": False,
        "shape": array.shape,
    }
    length = PIECE // max(array.itemsize, 1)
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        pieces = np.nditer(
            array, ["external_loop", "buffered", "zerosize_ok"], order="C", buffersize=length
        )
        for piece in pieces:
            file.write(np.asarray(piece).tobytes())
            yield True


def _load_array(path: Path) -> Steps:
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        missing = int(np.prod(shape)) * dtype.itemsize - (
            os.fstat(file.fileno()).st_size - file.tell()
        )
        if dtype.hasobject or missing:
            raise JobError(f"A file of the computation is damaged ({path.name}); run it again.")
        array = np.empty(shape, dtype)
        target = array.reshape(-1).view(np.uint8).data
        for start in range(0, len(target), PIECE):
            file.readinto(target[start : start + PIECE])
            yield True
    return array
