"""A cohort on this machine: one process a volume at a time, several beside each other."""

from __future__ import annotations

import faulthandler
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from .. import jobs
from ..core import devices
from .records import clear_own, failed_record, work

if TYPE_CHECKING:
    from .items import Item


WORKER = jobs.python_command("NetInversionLib.cohort")
"""Command of a local worker: items as JSON lines on standard input, records as JSON lines on
standard output.
"""


# Workers of this computer -------------------------------------------------------------------------


def run_locally(
    shares: Iterable[Item | dict], processes: int, command: Sequence[str]
) -> Generator[dict, None, None]:
    """Do items, several at a time.

    Args:
        shares: Gives, also to several threads at once, an item to do, or the record of one that
            needs not be done.
        processes: Items at the same time.
        command: Of a worker.

    Yields:
        The record of each, as it is done.
    """
    source = iter(shares)
    ends: queue.SimpleQueue[dict | Exception | None] = queue.SimpleQueue()
    workers = [_Worker(command, processes) for _ in range(processes)]

    def serve(worker: _Worker) -> None:
        try:
            while not worker.stopped:
                one = next(source, None)
                if one is None:
                    break
                ends.put(one if isinstance(one, dict) else worker.do(one))
        except Exception as error:  # noqa: BLE001 - raised again where it is waited for
            ends.put(error)
        ends.put(None)

    for worker in workers:
        threading.Thread(target=serve, args=(worker,), daemon=True).start()
    try:
        serving = len(workers)
        while serving:
            end = ends.get()
            if isinstance(end, Exception):
                raise end
            if end is None:
                serving -= 1
            else:
                yield end
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process that does items one by one.

    If it dies, the item it had has failed, and the next gets a new process.
    """

    def __init__(self, command: Sequence[str], share: int):
        self._command, self.stopped = command, False
        self._process: subprocess.Popen[str] | None = None
        self._environment = jobs.environment()
        if share > 1:
            self._environment.setdefault(
                "OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // share))
            )

    def do(self, item: Item) -> dict | None:
        """The item's record, or None after ``stop``."""
        process = self._process or self._start()
        assert process.stdin is not None and process.stdout is not None  # both are pipes
        try:
            process.stdin.write(json.dumps(asdict(item)) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except OSError:
            answer = ""
        if answer.endswith("\n"):
            return json.loads(answer)
        if self.stopped:
            return None
        code, self._process = process.wait(), None
        self._words.seek(max(0, self._words.seek(0, os.SEEK_END) - 4000))
        words = self._words.read().decode(errors="replace")
        return failed_record(item, jobs.explain_exit(abs(code), code < 0, words), words)

    def _start(self) -> subprocess.Popen[str]:
        self._words = tempfile.TemporaryFile()
        # A session of its own: Ctrl-C reaches the runner alone, which stops the workers.
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            text=True,
            encoding="ascii",
            start_new_session=True,
        )
        return self._process

    def stop(self) -> None:
        self.stopped = True
        if self._process is not None and self._process.poll() is None:
            jobs.kill_tree(self._process.pid)
            self._process.wait()


def main() -> int:
    """A local worker (see ``WORKER``); it ends, whatever it does, when the runner does."""
    faulthandler.enable()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # clusters send it to all; the runner ends us
    devices.wait_asleep()
    output = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what libraries print does not mix with the records
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    folders: set[Path] = set()

    def read() -> None:
        for line in sys.stdin:
            folders.add(Path(json.loads(line)["out"]))
            lines.put(line)
        for out in folders:
            clear_own(out)
        jobs.kill_tree(os.getpid())
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        print(json.dumps(work(json.loads(lines.get()))), file=output, flush=True)
