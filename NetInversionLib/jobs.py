"""A job: an algorithm's call written down as data, run here or in a worker process.

Settings travel as JSON and arrays as .npy files through a private folder; nothing is ever unpickled. The worker
(``python -m NetInversionLib.jobs FOLDER``) tells how it goes in JSON lines on its standard output and leaves
its result, and on the way its best result so far, in the same folder.

Saving and loading are generators that yield between pieces of a few megabytes, so that an application can do
them between two events; ``finish`` runs one to its end.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import devices
from .results import Curve, Progress, Result, Table
from .volumes import Volume

TASKS = {
    "harmonize": ("NetInversionLib.harmonize", "run_task"),
    "ideal_input": ("NetInversionLib.ideal_input", "run_task"),
    "invariances": ("NetInversionLib.invariances", "run_task"),
}
"""Task name to (module, function); the function is ``f(volumes, model_paths, settings, progress) -> Result``."""

MESSAGE_INTERVAL = 0.05
"""Seconds between two messages of a worker; what is reported in between travels together."""

INTERMEDIATE_SHARE = 0.05
"""Largest share of a worker's time that goes into saving intermediate results."""

PIECE = 4 * 2**20
"""Bytes saved or loaded between two yields."""

GRAPHICS_MEMORY = (
    "The graphics card ran out of memory. Close other programs that use it, choose a smaller region or smaller tiles, "
    "or choose the CPU as device."
)
MEMORY = (
    "The computer ran out of memory. Close other programs, choose a smaller region or a coarser image, or use a "
    "computer with more memory."
)
KILLED = (
    "The computation was stopped from outside, most probably by the operating system because memory ran out. Close "
    "other programs, choose a smaller region or a coarser image, or use a computer with more memory."
)
DISK_FULL = (
    "The disk is full. Free space for a few copies of the images on the disk that holds temporary files, or choose "
    "another temporary folder in the application's settings."
)
LOST = "The computation ended without a result. The details hold its last words."

Steps = Generator[bool, None, Any]


class JobError(RuntimeError):
    """A job could not be written, read or found; the message says what to do."""


@dataclass
class Request:
    """What to run, on what: one of ``TASKS``, its volumes, model files and settings, each by name.

    Settings take part as JSON: tuples become lists, NumPy scalars numbers, paths strings, here as in a worker.

    Raises:
        TypeError: A setting is not JSON.
    """

    task: str
    volumes: dict[str, Volume]
    model_paths: dict[str, str] = field(default_factory=dict)
    settings: dict = field(default_factory=dict)

    def __post_init__(self):
        self.settings = json.loads(json.dumps(self.settings, default=_plain))
        self.model_paths = {key: os.path.abspath(path) for key, path in self.model_paths.items()}


def run_here(request: Request, progress: Progress | None = None) -> Result:
    """Run the request in this process and give its result.

    Raises:
        JobError: No such task.
        Exception: Whatever the task raises; ``explain`` turns it into words.
    """
    task = _find_task(request.task)
    return task(request.volumes, request.model_paths, request.settings, progress or Progress())


def _find_task(name: str) -> Callable[..., Result]:
    if name not in TASKS:
        raise JobError(f"There is no task '{name}'. Choose one of: {', '.join(TASKS)}.")
    module, function = TASKS[name]
    return getattr(importlib.import_module(module), function)


# Requests and results as files


def save_request(folder: Path, request: Request) -> Steps:
    facts = {"task": request.task, "model_paths": request.model_paths, "settings": request.settings}
    yield from _save(Path(folder) / "request", facts, request.volumes)


def load_request(folder: Path) -> Steps:
    facts, volumes = yield from _load(Path(folder) / "request")
    return Request(facts["task"], volumes, facts["model_paths"], facts["settings"])


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
        curve.lines = {key: tuple(line) for key, line in curve.lines.items()}
    return Result(volumes, tables, curves, facts["facts"], facts["roles"])


def load_intermediate(folder: Path) -> Steps:
    """Steps whose value is the newest intermediate Result, or None; may run while the worker replaces it."""
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


def finish(steps: Steps) -> Any:
    """Run steps to their end and give their value."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


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
            json.dumps({**facts, "volumes": described}, default=_plain)
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
    flags = ["external_loop", "buffered", "zerosize_ok"]
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for piece in np.nditer(array, flags, order="C", buffersize=PIECE // max(array.itemsize, 1)):
            file.write(piece.tobytes())
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
        target = memoryview(array.reshape(-1).view(np.uint8))
        for start in range(0, len(target), PIECE):
            file.readinto(target[start : start + PIECE])
            yield True
    return array


def _plain(value: Any) -> Any:
    """What JSON does not know and may carry."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON: {value!r}")


# What went wrong, in words


def explain(error: BaseException) -> str:
    """What an exception means for the user and what to do about it."""
    if devices.is_out_of_memory(error):
        return (
            GRAPHICS_MEMORY
            if re.search(r"cuda|cudnn|cublas|mps", str(error), re.IGNORECASE)
            else MEMORY
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DISK_FULL
    if isinstance(error, ImportError):
        return _missing_package(error.name, str(error))
    if isinstance(error, ValueError) or type(error).__module__.startswith("NetInversionLib."):
        return str(error)  # written for the user
    return f"The computation stopped on an unexpected error: {type(error).__name__}: {error}"


def explain_exit(code: int, crashed: bool, words: str) -> str:
    """Why a worker ended that did not say so itself.

    Args:
        code: Exit code; the signal number if ``crashed``, where the platform has signals.
        crashed: The process did not end by itself.
        words: The end of its standard error.
    """
    missing = re.search(r"No module named '?([\w.]+)'?", words)
    if missing:
        return _missing_package(missing[1], missing[0])
    if devices.OUT_OF_MEMORY.search(words):
        return GRAPHICS_MEMORY if re.search(r"cuda|mps backend", words, re.IGNORECASE) else MEMORY
    if os.strerror(errno.ENOSPC) in words:
        return DISK_FULL
    # Slicer's launcher stands between: a killed Python reaches us as exit code 1 and this line.
    launcher_lost_it = "exit abnormally" in words and "Fatal Python error" not in words
    if (crashed and code == 9) or code in (-9, 137) or launcher_lost_it:
        return KILLED
    if crashed or "Fatal Python error" in words:
        return f"The computation crashed (code {code}). Run it again; if it crashes again, try the CPU as device."
    return LOST


def _missing_package(name: str | None, detail: str) -> str:
    package = (name or "unknown").split(".")[0]
    if package == "NetInversionLib":
        return f"NetInversion's own files are not complete ({detail}). Install the extension again."
    return f"The Python package '{package}' is missing or does not load ({detail}). Install it again, then restart."


# The worker


class _Reporter(Progress):
    """Sends what a task reports to the parent process, gathered into one JSON line per ``MESSAGE_INTERVAL``.

    A thread of its own does it: the task never waits for a parent that is busy, and its last words before a long
    silence arrive too.
    """

    def __init__(self, output: int, folder: Path):
        self._output = output
        self._folder = folder
        self._pending: dict = {"pid": os.getpid()}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._next_save = 0.0
        self._saved = 0
        self._thread = threading.Thread(target=self._send_now_and_then, daemon=True)
        self._thread.start()

    def report(self, fraction: float, message: str) -> None:
        with self._lock:
            self._pending["progress"] = [float(fraction), str(message)]

    def log(self, message: str) -> None:
        with self._lock:
            self._pending.setdefault("logs", []).append(str(message))

    def point(self, curve: str, x: float, y: float) -> None:
        with self._lock:
            self._pending.setdefault("points", []).append([str(curve), float(x), float(y)])

    def intermediate(self, result: Result) -> None:
        start = time.monotonic()
        if start < self._next_save:
            return
        try:
            finish(save_result(self._folder, result, f"intermediate-{self._saved + 1}"))
        except OSError as error:
            self.log(f"The intermediate result was not kept. {explain(error)}")
        else:
            self._saved += 1
            # A reader that just found the one before this may be at it still.
            shutil.rmtree(self._folder / f"intermediate-{self._saved - 2}", ignore_errors=True)
        now = time.monotonic()
        self._next_save = now + (now - start) / INTERMEDIATE_SHARE

    def close(self, **last: str) -> None:
        self._closing.set()
        self._thread.join()
        self._pending.update(last)
        self._send()

    def _send_now_and_then(self) -> None:
        self._send()
        while not self._closing.wait(MESSAGE_INTERVAL):
            self._send()

    def _send(self) -> None:
        with self._lock:
            pending, self._pending = self._pending, {}
        data = (json.dumps(pending) + "\n").encode() if pending else b""
        while data:
            data = data[os.write(self._output, data) :]


def main(arguments: list[str] | None = None) -> int:
    """The worker: ``FOLDER [--attached]``; exit code 0 with a result in the folder, 1 with a message that says why not.

    Attached, it lives no longer than the process at the other end of its standard input.
    """
    folder, *options = sys.argv[1:] if arguments is None else arguments
    faulthandler.enable()
    devices.wait_asleep()
    devices.give_memory_back()
    if "--attached" in options:
        _live_with_parent(Path(folder))
    reporter = _Reporter(_own_output(), Path(folder))
    reporter.report(0.0, "Starting")  # loading torch takes seconds
    try:
        request = finish(load_request(Path(folder)))
        shutil.rmtree(Path(folder) / "request", ignore_errors=True)
        _find_task(request.task)
        if "torch" in sys.modules:
            devices.leave_a_core_free()
        finish(save_result(Path(folder), run_here(request, reporter)))
    except BaseException as error:  # noqa: BLE001 - also what a library raises to end the program
        reporter.close(failed=explain(error), details=traceback.format_exc())
        return 1
    reporter.close()
    return 0


def _own_output() -> int:
    """A file for messages alone: what libraries print goes to standard error from here on."""
    output = os.dup(1)
    os.dup2(2, 1)
    sys.stdout.reconfigure(
        line_buffering=True
    )  # words of a worker that then crashes would else be lost
    return output


def _live_with_parent(folder: Path) -> None:
    """Lead a process group that can be killed whole, and end when the application ends."""
    if os.name == "posix":
        os.setpgid(0, 0)

    def watch():
        while os.read(0, 1):
            pass
        shutil.rmtree(folder, ignore_errors=True)
        kill_tree(os.getpid())

    threading.Thread(target=watch, daemon=True).start()


def kill_tree(pid: int) -> None:
    """End an attached worker and the processes it started, at once; nothing happens if it has ended before."""
    if os.name == "nt":
        command = ["taskkill", "/F", "/T", "/PID", str(pid)]
        subprocess.Popen(
            command, creationflags=subprocess.CREATE_NO_WINDOW, stderr=subprocess.DEVNULL
        )
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    # Under its own name, so that there is one copy of this module and its classes.
    code = importlib.import_module("NetInversionLib.jobs").main()
    sys.stderr.flush()
    os._exit(
        code
    )  # the result is safe: taking torch down in good order would only keep the user waiting
