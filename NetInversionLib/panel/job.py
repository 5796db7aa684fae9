"""A job in a worker process, followed from the event loop."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer

from .. import jobs
from ..core import steps
from ..core.results import Result
from .stepper import Stepper

LOGGER = logging.getLogger(__name__)


class QtJob:
    """A request running in a worker process.

    Everything comes back through callbacks, in the main thread.

    The job starts when it is made; no callback is called before the event loop runs again. Exactly
    one of the last two is called, once, unless the job is discarded; by then the worker has ended
    and its temporary folder is gone.

    Args:
        request: What to run.
        on_progress: ``f(fraction, message)``, fraction from 0 to 1.
        on_log: ``f(message)``, a line worth keeping.
        on_point: ``f(curve, x, y)``, one more point of a live curve.
        on_finished: ``f(result, message)``; after ``cancel`` the last intermediate result, or None.
        on_failed: ``f(message, details, last_result)``: what to do about it, the traceback or the
            worker's last words, and the last intermediate result or None.
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
        self._process: Any = None  # a QProcess, once the request is written
        self._pid: int | None = None  # of the worker, which Slicer's launcher stands before
        self._words: dict[str, str] = {}  # the worker's own account of a failure
        self._cancelled = self._over = False
        self._started = time.monotonic()
        self._stepper = Stepper(self._life(request))

    @property
    def running(self) -> bool:
        """Whether the final callback is still to come."""
        return not self._over

    def cancel(self) -> None:
        """End the worker now.

        The final callback follows within a second, with what there is; no other callback does.

        A result that is complete by now is still delivered. Calling this again, or after the end,
        does nothing.
        """
        self._cancelled = True
        self._kill()

    def intermediate(self) -> steps.Steps:
        """Steps whose value is the newest intermediate result, or None.

        They raise OSError if the job ends meanwhile.
        """
        return jobs.load_intermediate(self._folder)

    def discard(self) -> None:
        """End the job at once and without any callback: the scene or the application closes.

        May be called again.
        """
        if self.running:
            self._kill()
            if self._process is not None:
                self._process.waitForFinished(1000)
            self._end()

    def _life(self, request: jobs.Request) -> steps.Steps:
        """All that the job does, in steps.

        Each yields True if the next may follow at once, False if it must wait.
        """
        result: Result | None = None
        last: Result | None = None
        failure = ("", "")
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
        environment.insert("PYTHONPATH", jobs.environment()["PYTHONPATH"])
        self._process = qt.QProcess()
        self._process.setProcessEnvironment(environment)
        self._process.setWorkingDirectory(
            str(self._folder)
        )  # Python looks for modules there too: nobody else's
        self._process.setStandardErrorFile(str(self._folder / "stderr.txt"))
        program, *words = jobs.python_command("NetInversionLib.jobs", self._python)
        self._process.start(program, [*words, str(self._folder), "--attached"])

    def _follow(self) -> steps.Steps:
        """Hand on what the worker says until it has ended."""
        rest = b""
        ended = False
        while not ended:
            ended = self._process.state() == qt.QProcess.NotRunning
            *lines, rest = (rest + self._process.readAllStandardOutput().data()).split(b"\n")
            for line in lines:
                yield from self._hand_on(line)
            yield False

    def _hand_on(self, line: bytes) -> steps.Steps:
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
                LOGGER.exception(
                    "Showing the %s of a running job failed; it is not shown any more.", kind
                )
                self._callbacks[kind] = None

    def _explain_exit(self) -> tuple[str, str]:
        """Message and details for a worker that has left no result."""
        if self._cancelled:
            return "", ""
        if self._words:
            return self._words["failed"], self._words["details"]
        if self._process.error() == qt.QProcess.FailedToStart:
            return (
                f"Python could not be started ({self._python}). Install the application again.",
                "",
            )
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
            # Before the worker has said its number this ends the launcher, and with it the worker's
            # input.
            self._process.kill()

    def _end(self) -> None:
        self._over = True
        self._stepper.close()
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
        raise RuntimeError(
            "Slicer's Python interpreter (PythonSlicer) was not found. Install Slicer again."
        )
    return found
