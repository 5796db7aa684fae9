"""A run on images, from files to files: what is asked, computed, written and put on record."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import __version__, jobs
from ..cohort.folders import RunFolder
from ..core import files as core_files
from ..core import result_files
from ..core.results import Result
from ..core.volumes import Volume
from .output import Shell

REPORT = "report.html"
"""Name of the report beside the images of a result."""
RECORD = "run"
"""Of a result's facts: from what it was computed, for ``netinversion rerun``."""


@dataclass(frozen=True)
class Asked:
    """A run as files.

    Attributes:
        analysis: One of ``jobs.ANALYSES``.
        files, models: Paths of volumes and of model files, by what they are for.
        settings: Of the analysis, as JSON.
        format: Of the images that are written: as ``options.format_argument`` has it, or
            None for that of the first volume.
    """

    analysis: str
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
            "analysis": self.analysis,
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
        analysis = str(record.get("analysis") or record["task"])  # its name in the first versions
        volumes, models = record["volumes"], record["models"]
        found = {
            key: os.path.normpath(path.parent / one["path"])
            for key, one in [*volumes.items(), *models.items()]
        }
        asked = Asked(
            analysis,
            {key: found[key] for key in volumes},
            {key: found[key] for key in models},
            _todays(analysis, dict(record["settings"])),
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


def _todays(analysis: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a record that mean what they meant when it was written."""
    if analysis != "ideal_input":
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
    request = jobs.Request(asked.analysis, images, asked.models, asked.settings)
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
        suffix = result_files.suffix_for(asked.first, asked.format)
        result_files.write_result(result, folder.new, suffix, asked.first, shell.log)
        _write_report(
            asked.analysis, result, next(iter(images.values())), folder.new, shell, stopped
        )
        folder.deliver()
    if stopped:
        raise KeyboardInterrupt(f"the best so far is in {folder.folder}, marked partial")
    reading = importlib.import_module(f"NetInversionLib.{asked.analysis}.reading")
    answer = f"{reading.answer(result.facts, result.tables)} Research use only."
    if table in result.tables:
        shell.table(result.tables[table], table)
    shell.say(answer)
    shell.say(folder.folder)
    shell.tell(answer=answer, output=str(folder.folder), facts=result.facts)
    return 0


def _write_report(
    analysis: str, result: Result, source: Volume, folder: Path, shell: Shell, partial: bool
) -> None:
    report = importlib.import_module(f"NetInversionLib.{analysis}.report")
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
