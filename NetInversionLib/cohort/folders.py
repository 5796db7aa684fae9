"""A folder that belongs to one run: nobody else writes into it, and no two runs mix in it.

A results folder holds, in ``.netinversion``, the list of its files (``run.json``) and what is not
ready yet. A folder with ``.netinversion`` is never searched for volumes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

OWN = ".netinversion"
"""Folder for records inside an output folder; a folder that has it is never searched for volumes.
"""
MARKS = ("facts.json", "summary.csv", "report.html")
"""Files by which the results of older versions, which kept no list, are told."""


WAIT_S = 20.0
"""Seconds that a run waits for others that are about to begin."""


@contextlib.contextmanager
def only_run_in(out: Path) -> Iterator[bool]:
    """Keep a second run out of the folder, where the system can.

    Yields:
        Whether this is certain: not on Windows, nor where the file system has no locks.

    Raises:
        ValueError: Another run writes into the folder.
    """
    with _locked(out, ["LOCK_EX"]) as way:
        yield way is not None


@contextlib.contextmanager
def one_of_runs_in(out: Path, if_alone: bool = False) -> Iterator[bool | None]:
    """Be one of several runs that share the folder, and keep runs out that do not share it.

    Args:
        out: The folder, made if it is not there.
        if_alone: Keep all others out, too, if there are none yet.

    Yields:
        Whether no other is there; None where that is not known (see ``only_run_in``), and False
        where it was not asked.

    Raises:
        ValueError: A run that does not share the folder writes into it.
    """
    with _locked(out, ["LOCK_EX", "LOCK_SH"] if if_alone else ["LOCK_SH"], WAIT_S) as way:
        yield None if way is None else way == "LOCK_EX"


@contextlib.contextmanager
def _locked(out: Path, ways: Sequence[str], wait_s: float = 0.0) -> Iterator[str | None]:
    """Lock the folder in the first of some ways that is free; None where there are no locks."""
    (out / OWN).mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + wait_s
    with open(out / OWN / "lock", "a+") as file:
        way = None
        with contextlib.suppress(ImportError, OSError):  # Windows; a file system without locks
            while not (way := _first_free(file, ways)):
                if time.monotonic() >= end:
                    raise ValueError(
                        f"another run writes into {out}; wait for it, or choose another output"
                        " folder"
                    )
                time.sleep(0.05)
        yield way


def _first_free(file: IO[str], ways: Sequence[str]) -> str | None:
    import fcntl

    for way in ways:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, getattr(fcntl, way) | fcntl.LOCK_NB)
            return way
    return None


class RunFolder:
    """A folder for the results of one run, which appear together at its end or not at all.

    Args:
        folder: Made if it is not there.
        command: What runs, for the list and for sentences.
        overwrite: Take away the results of an earlier run when this one's are ready.
        told_by: Names, without endings, of the files that tell this command's results; then no list
            of them is kept.

    Raises:
        ValueError: The folder is a file, holds the results of another run (without ``overwrite``,
            or of a version that kept no list), or another run writes into it.
    """

    def __init__(
        self,
        folder: Path | str,
        command: str,
        overwrite: bool = False,
        told_by: Sequence[str] = (),
    ):
        self.folder, self.command, self.overwrite = Path(folder), command, overwrite
        self.told_by = told_by
        self.new = self.folder / OWN / f"new-{os.getpid()}"
        self._was_there = self.folder.exists()
        self._require_ours()

    def __enter__(self) -> RunFolder:
        self._lock = only_run_in(self.folder)
        certain = self._lock.__enter__()
        if certain:  # what a killed run left
            for old in (self.folder / OWN).glob("new-*"):
                shutil.rmtree(old, ignore_errors=True)
        self.new.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self.new, ignore_errors=True)
        self._lock.__exit__(None, None, None)
        if not run_facts(self.folder):
            self._forget()

    def deliver(self) -> Path:
        """Put what stands in ``new`` into the folder, in place of an earlier run's files.

        Raises:
            ValueError: A file that no run made would be overwritten; the results stay in a folder
                that the sentence names.
        """
        names = sorted(path.name for path in self.new.iterdir())
        earlier = self._earlier() or []
        foreign = [n for n in names if (self.folder / n).exists() and n not in earlier]
        if foreign and not self.overwrite:
            kept = self.folder / f"results of {self.command}"
            os.replace(self.new, kept)
            raise ValueError(
                f"{self.folder / foreign[0]} was there before and is kept; the results are in"
                f" {kept}"
            )
        for name in earlier:
            _remove(self.folder / name)
        for name in names:
            _remove(self.folder / name)
            os.replace(self.new / name, self.folder / name)
        if self.told_by:
            return self.folder
        listed = json.dumps({"command": self.command, "files": names}, indent=1)
        (self.folder / OWN / "run.json").write_text(listed, encoding="utf-8")
        return self.folder

    def _earlier(self) -> list[str] | None:
        """Names of the files of the run whose results are there; None without any."""
        found = run_facts(self.folder)
        if "files" in found:
            return [Path(str(name)).name for name in found["files"]]
        if not self.folder.is_dir():
            return None
        return [
            path.name
            for path in sorted(self.folder.iterdir())
            if path.name.partition(".")[0] in self.told_by
        ] or None

    def _require_ours(self) -> None:
        if self._was_there and not self.folder.is_dir():
            raise ValueError(f"{self.folder} is a file; name a folder for the results")
        if self._earlier() is not None:
            if not self.overwrite:
                raise ValueError(
                    f"{self.folder} holds the results of another run; choose another folder, or"
                    " replace them with --overwrite"
                )
            return
        marks = [name for name in MARKS if (self.folder / name).exists()]
        if marks or (self.folder / OWN / "records").is_dir():
            raise ValueError(
                f"{self.folder} holds the results of another run, without a list of its files;"
                " choose another folder"
            )

    def _forget(self) -> None:
        """Leave no trace of a run that gave nothing."""
        with contextlib.suppress(OSError):
            (self.folder / OWN / "lock").unlink()
            (self.folder / OWN).rmdir()
            if not self._was_there:
                self.folder.rmdir()


def go_on(folder: Path, command: str, asked: str, names: Sequence[str], overwrite: bool) -> None:
    """Make a folder for a run that goes on when it is called again.

    Args:
        folder: Made if it is not there.
        command: What runs.
        asked: Text that is the same for the same run.
        names: Of the files that it writes.
        overwrite: Take away the results of another run.

    Raises:
        ValueError: The folder holds the results of another run.
    """
    before = run_facts(folder)
    same = before.get("asked") == asked and before.get("command") == command
    others = before and not same
    marked = not before and any((folder / name).exists() for name in MARKS)
    if marked or (others and not overwrite):
        raise ValueError(
            f"{folder} holds the results of another run; choose another folder, or replace them"
            " with --overwrite"
        )
    if others:
        for name in map(str, before.get("files", [])):
            _remove(folder / Path(name).name)
    (folder / OWN).mkdir(parents=True, exist_ok=True)
    listed = {"command": command, "asked": asked, "files": list(names)}
    (folder / OWN / "run.json").write_text(json.dumps(listed, indent=1), encoding="utf-8")


def run_facts(folder: Path) -> dict[str, Any]:
    """What ``run.json`` says; empty without it."""
    try:
        found = json.loads((folder / OWN / "run.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
