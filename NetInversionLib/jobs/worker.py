"""A job: an algorithm's call written down as data, run here or in a worker process.

Settings travel as JSON and arrays as .npy files through a private folder; nothing is ever
unpickled. The worker (``python_command("NetInversionLib.jobs")`` and a folder) tells how it goes in
JSON lines on its standard output and leaves its result, and on the way its best result so far, in
the same folder.

Saving and loading are generators that yield between pieces of a few megabytes, so that an
application can do them between two events; ``finish`` runs one to its end.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

from ..core import devices
from ..core.progress import Progress
from ..core.results import Result
from ..core.steps import finish
from .errors import explain
from .request import find_analysis, run_here
from .storage import load_request, save_result

MESSAGE_INTERVAL = 0.05
"""Seconds between two messages of a worker; what is reported in between travels together."""
INTERMEDIATE_SHARE = 0.05
"""Largest share of a worker's time that goes into saving intermediate results."""


# The worker


class _Reporter(Progress):
    """Sends what an analysis reports to the parent process.

    It is gathered into one JSON line per ``MESSAGE_INTERVAL``.

    A thread of its own does it: the analysis never waits for a parent that is busy, and its
    last words before a long silence arrive too.
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
    """The worker: ``FOLDER [--attached]``.

    Exit code 0 with a result in the folder, 1 with a message that says why not.

    Attached, it lives no longer than the process at the other end of its standard input.
    """
    folder, *options = sys.argv[1:] if arguments is None else arguments
    faulthandler.enable()
    devices.wait_asleep()
    if "--attached" in options:
        _live_with_parent(Path(folder))
    reporter = _Reporter(_own_output(), Path(folder))
    reporter.report(0.0, "Starting")  # loading torch takes seconds
    try:
        request = finish(load_request(Path(folder)))
        shutil.rmtree(Path(folder) / "request", ignore_errors=True)
        find_analysis(request.analysis)
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
    # Words of a worker that then crashes would else be lost.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
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
    """End an attached worker and the processes it started, at once.

    Nothing happens if it has ended before.
    """
    if os.name == "nt":
        command = ["taskkill", "/F", "/T", "/PID", str(pid)]
        hidden = getattr(subprocess, "CREATE_NO_WINDOW")  # there on Windows only
        subprocess.Popen(command, creationflags=hidden, stderr=subprocess.DEVNULL)
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
