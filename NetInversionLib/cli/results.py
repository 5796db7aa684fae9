"""A run on images, from files to files: what is asked, computed, written and put on record."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import __version__, jobs
from ..cohort.folders import RunFolder
from ..core import derived_series
from ..core import files as core_files
from ..core.keys import Key
from ..core.results import Curve, Result, Table
from ..core.steps import json_value
from ..core.volumes import Volume, VolumeError
from .output import Shell, write_table

REPORT = "report.html"
"""Name of the report beside the images of a result."""
FACTS = "facts.json"
RECORD = "run"
"""Of a result's facts: from what it was computed, for ``netinversion rerun``."""
DICOM = "dicom"


@dataclass(frozen=True)
class Asked:
    """A run as files.

    Attributes:
        task: One of ``jobs.TASKS``.
        files, models: Paths of volumes and of model files, by what they are for.
        settings: Of the task, as JSON.
        format: Of the images that are written: one of ``options.FORMATS``, or None for that of the
            first volume.
    """

    task: str
    files: dict[str, str]
    models: dict[str, str]
    settings: dict[str, Any] = field(default_factory=dict)
    format: str | None = None

    @property
    def first(self) -> str:
        """Path of the volume that the results are shown beside."""
        return next(iter(self.files.values()))

    def record(self, folder: Path) -> dict[str, Any]:
        """What ``netinversion rerun`` needs; paths as seen from ``folder``: no names of users."""
        return {
            "task": self.task,
            "volumes": {key: _described(path, folder) for key, path in self.files.items()},
            "models": {key: _described(path, folder) for key, path in self.models.items()},
            "settings": self.settings,
            "format": self.format,
            "version": __version__,
        }


def from_record(path: Path) -> Asked:
    """What a facts.json says was asked; its files are looked for as seen from its folder.

    Raises:
        ValueError: It is no record of a run, or a file is gone or not what it was.
        OSError: It cannot be read.
    """
    try:
        facts = json.loads(path.read_bytes())
        record = facts[RECORD]
        volumes, models = record["volumes"], record["models"]
        found = {
            key: os.path.normpath(path.parent / one["path"])
            for key, one in [*volumes.items(), *models.items()]
        }
        asked = Asked(
            str(record["task"]),
            {key: found[key] for key in volumes},
            {key: found[key] for key in models},
            _todays(str(record["task"]), dict(record["settings"])),
            record.get("format"),
        )
        sums = {found[key]: one["sha256"] for key, one in [*volumes.items(), *models.items()]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no record of a run: name the facts.json of a result (those of versions"
            " before 'rerun' do not say where their images are)"
        ) from error
    for file, wanted in sums.items():
        if not os.path.exists(file):
            raise ValueError(f"{file} is gone; put it back where it was")
        if sha256(file) != wanted:
            raise ValueError(f"{file} is not what it was when the result was computed")
    return asked


def _todays(task: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a record that mean what they meant when it was written."""
    if task != "ideal_input":
        return settings
    from ..ideal_input.settings import Settings

    return Settings.in_todays_names(settings)


def _described(path: str, folder: Path) -> dict[str, str]:
    path = os.path.abspath(path)
    try:
        seen = os.path.relpath(path, os.path.abspath(folder))
    except ValueError:  # another drive
        seen = path
    return {"path": Path(seen).as_posix(), "sha256": sha256(path)}


def sha256(path: str | Path) -> str:
    """Of a file; of a folder that of its files' names and sums."""
    digest = hashlib.sha256()
    if os.path.isdir(path):
        for one in sorted(Path(path).iterdir()):
            if one.is_file() and not one.name.startswith("."):
                digest.update(f"{one.name} {sha256(one)}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


# Computing ----------------------------------------------------------------------------------------


def compute(asked: Asked, folder: RunFolder, shell: Shell, table: str) -> int:
    """Run what is asked and write everything; stopped, what was best until then.

    Args:
        asked: The run.
        folder: Entered.
        shell: Gets progress, table ``table`` and the answer.
        table: Key of the result's table that is printed.

    Returns:
        The exit status.

    Raises:
        KeyboardInterrupt: The run was stopped; says what is kept, and where.
    """
    images = {key: core_files.load(path) for key, path in asked.files.items()}
    request = jobs.Request(asked.task, images, asked.models, asked.settings)
    stopped = False
    try:
        result = jobs.run_here(request, shell)
    except KeyboardInterrupt:
        stopped = True
        if shell.best is None:
            raise KeyboardInterrupt("there was no result yet, and nothing is written") from None
        result = shell.best
    with undisturbed(f"what was computed is written to {folder.folder}"):
        record = asked.record(folder.folder)
        result.facts |= {RECORD: record} | ({"complete": False, "partial": True} if stopped else {})
        suffix = suffix_for(asked.first, asked.format)
        write_result(result, folder.new, suffix, asked.first, shell.log)
        _write_report(asked.task, result, next(iter(images.values())), folder.new, shell, stopped)
        folder.deliver()
    if stopped:
        raise KeyboardInterrupt(f"the best so far is in {folder.folder}, marked partial")
    reading = importlib.import_module(f"NetInversionLib.{asked.task}.reading")
    answer = f"{reading.answer(result.facts, result.tables)} Research use only."
    if table in result.tables:
        shell.table(result.tables[table], table)
    shell.say(answer)
    shell.say(folder.folder)
    shell.tell(answer=answer, output=str(folder.folder), facts=result.facts)
    return 0


def _write_report(
    task: str, result: Result, source: Volume, folder: Path, shell: Shell, partial: bool
) -> None:
    report = importlib.import_module(f"NetInversionLib.{task}.report")
    try:
        report.write(result, source, folder / REPORT)
    except Exception as error:
        if not partial:
            raise
        shell.log(f"no report: the part that is there is too little for it ({error})")


@contextmanager
def undisturbed(written: str) -> Iterator[None]:
    """Ctrl-C has to wait: files that are half written help nobody.

    Args:
        written: What there is afterwards, and where.

    Raises:
        KeyboardInterrupt: It came meanwhile; says what is written.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, frame: waiting.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if waiting:
        raise KeyboardInterrupt(written)


# Writing ------------------------------------------------------------------------------------------


def suffix_for(source: str | Path, wanted: str | None = None) -> str:
    """The ending of the images that are written, or ``DICOM``: as wanted, else the source's."""
    if wanted:
        return DICOM if wanted == DICOM else f".{wanted}"
    if derived_series.holds_dicom(source):
        return DICOM
    return core_files.written_like(source)


def write_image(
    volume: Volume,
    folder: Path,
    name: str,
    suffix: str,
    source: str | Path,
    log: Callable[[str], None] = lambda line: None,
) -> Path:
    """An image in a folder.

    Args:
        volume: [k, j, i].
        folder: Is there.
        name: Without ending.
        suffix: From ``suffix_for``.
        source: The file or folder that the image was made from.
        log: Is told where the format cannot hold the image, and which one it gets instead.
    """
    name = re.sub(r'[/\\:*?"<>|]', "_", name)
    if suffix == DICOM:
        return derived_series.save(volume, folder / name, source, name)
    try:
        return core_files.save(volume, folder / f"{name}{suffix}")
    except VolumeError:
        if suffix == ".nrrd":
            raise
        path = core_files.save(volume, folder / f"{name}.nrrd")
        log(f"{name} is written as NRRD: {suffix} cannot hold its position or type")
        return path


def write_result(
    result: Result,
    folder: Path,
    suffix: str = ".nrrd",
    source: str | Path = "",
    log: Callable[[str], None] = lambda line: None,
) -> None:
    """Images, tables and curves (CSV), and all facts (JSON).

    Args:
        result: Of any task.
        folder: Made.
        suffix, source, log: As for ``write_image``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for key, volume in result.volumes.items():
        write_image(volume, folder, Key.read(key).file_name, suffix, source, log)
    for key, table in result.tables.items():
        write_table(table, folder, Key.read(key).file_name)
    for key, curve in result.curves.items():
        name = Key.read(key).file_name + ("_curve" if key in result.tables else "")
        write_table(curve_table(curve), folder, name)
    text = json.dumps(result.facts, indent=1, default=json_value)
    (folder / FACTS).write_text(text, encoding="utf-8")


def curve_table(curve: Curve) -> Table:
    """A curve's points as a table: line, x and y."""
    rows = [(name, x, y) for name, (xs, ys) in curve.lines.items() for x, y in zip(xs, ys)]
    headings = ["line", curve.x_label or "x", curve.y_label or "y"]
    if headings[1] == headings[2]:
        headings[2] += " (y)"
    columns = zip(*rows) if rows else ((), (), ())
    return Table(curve.title, {h: list(c) for h, c in zip(headings, columns)})
