"""Runs jobs from Slicer's event loop, which never waits for them, and sees to the packages that they need.

The one library file besides mrml.py that imports Slicer's modules.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import qt
import slicer

from . import jobs
from .results import Result

LOGGER = logging.getLogger(__name__)

TICK_MS = 20
"""Milliseconds between two looks at a running job."""

BUDGET = 0.02
"""Seconds that a job may take of the event loop at a time, callbacks apart."""

PACKAGES = {"torch": "2.2", "scikit-image": "0.22", "safetensors": "0.4"}
"""What the library needs and Slicer does not bring, with the oldest version that will do."""


class PackagesMissing(RuntimeError):
    """A package is not there and was not installed; the message says what to do."""


class QtJob:
    """A request running in a worker process; everything comes back through callbacks, in the main thread.

    The job starts when it is made; no callback is called before the event loop runs again. Exactly one of the last
    two is called, once, unless the job is discarded; by then the worker has ended and its temporary folder is gone.

    Args:
        request: What to run.
        on_progress: ``f(fraction, message)``, fraction from 0 to 1.
        on_log: ``f(message)``, a line worth keeping.
        on_point: ``f(curve, x, y)``, one more point of a live curve.
        on_finished: ``f(result, message)``; after ``cancel`` the last intermediate result, or None.
        on_failed: ``f(message, details, last_result)``: what to do about it, the traceback or the worker's last words,
            and the last intermediate result or None.
        python: Interpreter to use instead of Slicer's own.

    Raises:
        OSError: There is no room for a temporary folder.
        RuntimeError: See ``find_python``.
    """

    def __init__(
        self,
        request: jobs.Request,
        on_progress: Callable[[float, str], None] | None = None,
        on_log: Callable[[str], None] | None = None,
        on_point: Callable[[str, float, float], None] | None = None,
        on_finished: Callable[[Result | None, str], None] | None = None,
        on_failed: Callable[[str, str, Result | None], None] | None = None,
        python: str | None = None,
    ):
        self._callbacks = {"progress": on_progress, "log": on_log, "point": on_point}
        self._on_finished, self._on_failed = on_finished, on_failed
        self._python = python or find_python()
        self._temporary = tempfile.TemporaryDirectory(
            prefix="netinversion-", dir=slicer.app.temporaryPath, ignore_cleanup_errors=True
        )
        self._folder = Path(self._temporary.name)
        self._process = None
        self._pid = None  # of the worker, which Slicer's launcher stands before
        self._words: dict[str, str] = {}  # the worker's own account of a failure
        self._cancelled = self._over = False
        self._steps = self._life(request)
        self._started = time.monotonic()
        self._timer = qt.QTimer()
        self._timer.setInterval(TICK_MS)
        self._timer.timeout.connect(self._tick)
        self._timer.start()

    @property
    def running(self) -> bool:
        """Whether the final callback is still to come."""
        return not self._over

    def cancel(self) -> None:
        """End the worker now. The final callback follows within a second, with what there is; no other callback does.

        A result that is complete by now is still delivered. Calling this again, or after the end, does nothing.
        """
        self._cancelled = True
        self._kill()

    def discard(self) -> None:
        """End the job at once and without any callback: the scene or the application closes. May be called again."""
        if self.running:
            self._kill()
            if self._process is not None:
                self._process.waitForFinished(1000)
            self._end()

    def _tick(self) -> None:
        # Never entered twice: Qt fires no timer again while its slot runs, even if a callback runs the event loop.
        deadline = time.monotonic() + BUDGET
        while not self._over and next(self._steps, False) and time.monotonic() < deadline:
            pass

    def _life(self, request: jobs.Request):
        """All that the job does, in steps: each yields True if the next may follow at once, False if it must wait."""
        result = failure = last = None
        try:
            for more in jobs.save_request(self._folder, request):
                yield more
                if self._cancelled:
                    break
            del request  # its images
            if not self._cancelled:
                self._start()
                yield from self._follow()
            result = yield from jobs.load_result(self._folder)
            if result is None:
                failure = self._explain_exit()
                last = yield from jobs.load_intermediate(self._folder)
        except Exception as error:  # noqa: BLE001 - whatever it is, the user is told and the worker ended
            self._kill()
            failure = jobs.explain(error), traceback.format_exc()
        while self._alive():
            yield False
        yield from jobs.remove(self._folder)
        self._end()
        if result is not None:
            self._tell_finished(result, f"Done in {time.monotonic() - self._started:.0f} s.")
        elif self._cancelled:
            kept = "the best result so far is kept." if last else "there was no result yet."
            self._tell_finished(last, f"Cancelled; {kept}")
        elif self._on_failed:
            self._on_failed(*failure, last)

    def _tell_finished(self, result: Result | None, message: str) -> None:
        if self._on_finished:
            self._on_finished(result, message)

    def _start(self) -> None:
        environment = qt.QProcessEnvironment.systemEnvironment()
        paths = [str(Path(__file__).parent.parent), environment.value("PYTHONPATH", "")]
        environment.insert("PYTHONPATH", os.pathsep.join(path for path in paths if path))
        self._process = qt.QProcess()
        self._process.setProcessEnvironment(environment)
        self._process.setWorkingDirectory(str(self._folder))  # Python looks for modules there too: nobody else's
        self._process.setStandardErrorFile(str(self._folder / "stderr.txt"))
        self._process.start(self._python, ["-m", "NetInversionLib.jobs", str(self._folder), "--attached"])

    def _follow(self):
        """Hand on what the worker says until it has ended."""
        rest = b""
        ended = False
        while not ended:
            ended = self._process.state() == qt.QProcess.NotRunning
            *lines, rest = (rest + self._process.readAllStandardOutput().data()).split(b"\n")
            for line in lines:
                yield from self._hand_on(line)
            yield False

    def _hand_on(self, line: bytes):
        message = _parse(line)
        self._pid = message.get("pid", self._pid)
        if "failed" in message:
            self._words = message
        told = [("log", text) for text in message.get("logs", [])]
        told += [("point", *point) for point in message.get("points", [])]
        if "progress" in message:
            told.append(("progress", *message["progress"]))
        for kind, *arguments in told:
            self._tell(kind, *arguments)
            yield True

    def _tell(self, kind: str, *arguments) -> None:
        callback = self._callbacks[kind]
        if callback and not self._cancelled:
            try:
                callback(*arguments)
            except Exception:
                # A live plot whose node was deleted must not cost the computation.
                LOGGER.exception("Showing the %s of a running job failed; it is not shown any more.", kind)
                self._callbacks[kind] = None

    def _explain_exit(self) -> tuple[str, str]:
        """Message and details for a worker that has left no result."""
        if self._cancelled:
            return "", ""
        if self._words:
            return self._words["failed"], self._words["details"]
        if self._process.error() == qt.QProcess.FailedToStart:
            return f"Python could not be started ({self._python}). Install the application again.", ""
        if self._pid:
            jobs.kill_tree(self._pid)  # what a crashed worker may have left running
        words = (self._folder / "stderr.txt").read_bytes()[-20000:].decode(errors="replace")
        crashed = self._process.exitStatus() == qt.QProcess.CrashExit
        return jobs.explain_exit(self._process.exitCode(), crashed, words), words

    def _alive(self) -> bool:
        return self._process is not None and self._process.state() != qt.QProcess.NotRunning

    def _kill(self) -> None:
        if self._alive():
            if self._pid:
                jobs.kill_tree(self._pid)
            # Before the worker has said its number this ends the launcher, and with it the worker's input.
            self._process.kill()

    def _end(self) -> None:
        self._over = True
        self._timer.stop()
        self._timer.deleteLater()  # not at once: this may be its own timeout
        self._temporary.cleanup()


def _parse(line: bytes) -> dict:
    """A worker's message; what a launcher prints becomes a line of the log."""
    try:
        message = json.loads(line)
    except ValueError:
        message = None
    return message if isinstance(message, dict) else {"logs": [line.decode(errors="replace")]}


def find_python() -> str:
    """Slicer's Python interpreter; outside Slicer the one that runs this.

    Raises:
        RuntimeError: The application holds no interpreter that could be started.
    """
    beside = os.path.join(os.path.dirname(sys.executable), "PythonSlicer")
    found = shutil.which("PythonSlicer") or shutil.which(beside)
    if not found and os.path.basename(sys.executable).lower().startswith("python"):
        found = sys.executable  # never Slicer itself, which would open another window
    if not found:
        raise RuntimeError("Slicer's Python interpreter (PythonSlicer) was not found. Install Slicer again.")
    return found


def ensure_packages(requester: str) -> None:
    """See to it that everything a job imports is installed, asking the user first; call it on Apply.

    Nothing is downloaded without the user's consent, and nothing at all in Slicer's testing mode.

    Args:
        requester: Name of the module that asks, shown to the user.

    Raises:
        PackagesMissing: Something is missing and was not installed.
        RuntimeError: Called outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("Packages can only be installed from the main thread.")
    missing = _missing()
    if missing and slicer.app.testingEnabled():
        raise PackagesMissing(f"{requester} needs {', '.join(missing)}, and testing mode installs nothing.")
    if "torch" in missing:
        _install_torch(requester, missing.pop("torch"))
    if missing:
        _install(requester, list(missing.values()))
    missing = _missing()
    if missing:
        raise PackagesMissing(
            f"{requester} needs {', '.join(missing.values())}, which the installation did not bring. Restart Slicer "
            "and try again."
        )


def _missing() -> dict[str, str]:
    """Packages that are absent or too old: name to requirement."""
    importlib.invalidate_caches()
    return {name: f"{name}>={minimum}" for name, minimum in PACKAGES.items() if _installed(name) < _numbers(minimum)}


def _installed(name: str) -> tuple[int, ...]:
    try:
        return _numbers(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return ()


def _numbers(version: str) -> tuple[int, ...]:
    """Major and minor number: "2.13.0+cpu" gives (2, 13)."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _install_torch(requester: str, requirement: str) -> None:
    """Through the PyTorch extension, which knows which build fits the computer."""
    if _installed("torch"):
        raise PackagesMissing(
            f"{requester} needs {requirement}, and an older PyTorch is installed. Open the module PyTorch Utils, press "
            "Uninstall, restart Slicer and try again."
        )
    try:
        logic = importlib.import_module("PyTorchUtils").PyTorchUtilsLogic()
    except ImportError:
        raise PackagesMissing(
            f"{requester} needs the PyTorch extension. Install it with the Extensions Manager, restart Slicer and try "
            "again."
        ) from None
    version = requirement.removeprefix("torch")
    try:
        torch = logic.installTorch(askConfirmation=True, torchVersionRequirement=version)
    except (subprocess.CalledProcessError, ImportError, OSError) as error:
        raise PackagesMissing(_failed("PyTorch", error)) from error
    if torch is None:
        raise PackagesMissing(_declined(requester, "PyTorch"))


def _install(requester: str, requirements: list[str]) -> None:
    """Through slicer.packaging, or in a Slicer before 5.12 through slicer.util after the same question."""
    wanted = ", ".join(requirements)
    try:
        packaging = importlib.import_module("slicer.packaging")
    except ImportError:
        question = f"{requester} needs Python packages that are not installed: {wanted}. Download and install them now?"
        if not slicer.util.confirmOkCancelDisplay(question, f"{requester}: install Python packages"):
            raise PackagesMissing(_declined(requester, wanted)) from None
        packaging = None
    try:
        if packaging:
            packaging.pip_ensure(requirements, requester=requester)
        else:
            slicer.util.pip_install(" ".join(requirements))
    except subprocess.CalledProcessError as error:
        raise PackagesMissing(_failed(wanted, error)) from error
    except RuntimeError as error:
        raise PackagesMissing(_declined(requester, wanted)) from error


def _declined(requester: str, wanted: str) -> str:
    return f"{requester} cannot run without {wanted}. Press Apply again and agree to the installation."


def _failed(wanted: str, error: Exception) -> str:
    return f"{wanted} could not be installed ({error}). Check the connection to the internet and try again."
