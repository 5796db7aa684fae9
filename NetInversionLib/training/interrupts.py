"""Interrupts that wait until a training can be kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Terminated(KeyboardInterrupt):
    """The process was told to end, as by ``kill``."""


class Interrupts:
    """While it is open, Ctrl-C and ``kill`` raise KeyboardInterrupt, but never within ``held``.

    There the first one waits for the end; a second one does not. Signals reach the main thread of a
    program only; in others nothing changes.

    Attributes:
        torn: A stretch was left halfway, by an error or a second interrupt.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._holding, self._waiting = False, 0
        self.torn = False

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A stretch that is not to be interrupted halfway."""
        self._holding = True
        try:
            yield
        except BaseException:
            self.torn = True
            raise
        finally:
            self._holding = False
        if self._waiting:
            self._raise(self._waiting)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self._holding and not self._waiting:
            self._waiting = number
        else:
            self._raise(number)

    def _raise(self, number: int) -> None:
        self._waiting = 0
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
