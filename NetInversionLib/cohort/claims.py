"""Who has which piece of work, where several runs write into one folder.

A claim is a file that only the first can make (``O_EXCL``, which the file systems of networks keep,
too) and that its run touches every few seconds. A run that was killed leaves its claim behind:
whoever sees that makes the claim with the next number, and again only the first can. So nothing is
taken away from anybody, and the number says how many had the piece before and were lost.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import threading
import time
from pathlib import Path

BEAT_S = 10.0
"""Seconds between two signs of life of a run."""
LOST_S = 120.0
"""Seconds without a sign of life after which a run on another computer counts as lost: longer than
file systems of a network (NFS: 60 s) may show an old state.
"""


class Claims:
    """The claims of one run, while it lasts.

    Args:
        folder: Of the claims, where the results of the work are told: making a claim there also
            brings what others told up to date, on file systems that remember for a while.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._mine: dict[str, int] = {}
        self._seen: dict[Path, tuple[int, float]] = {}  # of others: last sign of life, seen when
        self._lock, self._end = threading.Lock(), threading.Event()

    def __enter__(self) -> Claims:
        self.folder.mkdir(parents=True, exist_ok=True)
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for name in list(self._mine):
            self.release(name)

    @property
    def over(self) -> bool:
        """Whether the run has ended: nothing can be claimed any more."""
        return self._end.is_set()

    def take(self, name: str) -> int | None:
        """Claim a piece of work, unless a run that lives has it (this one, too).

        Returns:
            How many had it before and were lost, or None if it is not to be had.
        """
        with self._lock:
            if self.over or name in self._mine:
                return None
            number = 0
            while self._is_lost(path := self._path(name, number)):
                number += 1
            try:
                file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            except FileExistsError:
                return None
            with os.fdopen(file, "w", encoding="ascii") as open_file:
                json.dump({"machine": machine(), "pid": os.getpid()}, open_file)
            self._mine[name] = number
            return number

    def release(self, name: str) -> None:
        """Give back what was claimed, with the claims of those who were lost."""
        with self._lock:
            for number in range(self._mine.pop(name, -1) + 1):
                with contextlib.suppress(OSError):
                    self._path(name, number).unlink()

    def _path(self, name: str, number: int) -> Path:
        return self.folder / f"{name}.claim-{number}"

    def _is_lost(self, path: Path) -> bool:
        """Whether a claim is there whose run is not.

        Its signs of life are only compared with each other: clocks of computers differ.
        """
        try:
            with open(path, "rb") as file:  # opening it asks a file system of a network anew
                sign, text = os.fstat(file.fileno()).st_mtime_ns, file.read()
        except OSError:
            return False
        now = time.monotonic()
        if self._seen.get(path, (None, now))[0] != sign:
            self._seen[path] = sign, now
        return _is_gone(text) or now - self._seen[path][1] > LOST_S

    def _beat(self) -> None:
        while not self._end.wait(BEAT_S):
            for name, number in list(self._mine.items()):
                with contextlib.suppress(OSError):
                    os.utime(self._path(name, number))


def _is_gone(text: bytes) -> bool:
    """Whether a claim is that of a process of this computer that has ended."""
    try:
        owner = json.loads(text)
        return owner["machine"] == machine() and not lives(int(owner["pid"]))
    except (ValueError, KeyError, TypeError):  # not written to its end
        return False


@functools.cache
def machine() -> str:
    """What process numbers are counted in: this computer since its start, or a container on it."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):  # only Linux has them
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def lives(pid: int) -> bool:
    """Whether a process of this computer is there; yes where that is not known.

    One that has ended, but that its parent has not asked about, is not (a container often has such
    ones).
    """
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    try:  # only Linux tells it so
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return True
    return state not in ("Z", "X")
