"""Long work from the event loop, a few milliseconds at a time."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from typing import Any

import qt
import slicer

from ..core import steps as core_steps

TICK_MS = 20
"""Milliseconds between two turns of a ``Stepper``, which drives jobs and the writing of results."""
BUDGET = 0.02
"""Seconds that a stepper takes of the event loop at a time; a step that has begun ends first."""


class Stepper:
    """Does the steps of a generator from the event loop.

    It does as many as fit into ``BUDGET`` every ``TICK_MS``.

    A step yields True if the next may follow at once, False if it has to wait for something.

    Args:
        steps: What to do, begun at the event loop's next turn.
        on_end: ``f(value)``, with the generator's value.
        on_error: ``f(exception)``; without it, the exception leaves through the event loop.
    """

    def __init__(
        self,
        steps: core_steps.Steps,
        on_end: Callable[[Any], None] | None = None,
        on_error: Callable[[Exception], None] | None = None,
    ):
        self._steps = steps
        self._on_end = on_end
        self._on_error = on_error
        self.running = True
        """Whether there may be more to do."""
        self._timer = qt.QTimer()
        self._timer.setInterval(TICK_MS)
        self._timer.timeout.connect(self._tick)
        self._timer.start()

    def close(self) -> None:
        """Do no more steps, and have the generator undo what it has begun.

        No callback follows; may be called again.
        """
        self._stop()
        if not self._is_within_a_step():  # else the generator itself ends the matter
            self._steps.close()

    def finish(self) -> None:
        """Do the rest now, and serve the event loop in between."""
        while self.running:
            self._tick()
            slicer.app.processEvents()

    def _tick(self) -> None:
        # Never entered twice: Qt fires no timer again while its slot runs, even if a callback runs
        # the event loop.
        if self._is_within_a_step():  # a step under ``finish`` runs the event loop
            return
        deadline = time.monotonic() + BUDGET
        try:
            while self.running and next(self._steps) and time.monotonic() < deadline:
                pass
            if not self.running:  # closed by its own step
                self._steps.close()
            return
        except StopIteration as end:
            over: Callable[[Any], None] | None = self._on_end
            argument = end.value
        except Exception as error:  # noqa: BLE001 - for whoever started it
            if self._on_error is None:
                self._stop()
                raise
            over, argument = self._on_error, error
        wanted = self.running
        self._stop()
        if wanted and over is not None:
            over(argument)

    def _is_within_a_step(self) -> bool:
        """Whether this is called from a step that is being done."""
        return inspect.getgeneratorstate(self._steps) == inspect.GEN_RUNNING

    def _stop(self) -> None:
        if self.running:
            self.running = False
            self._timer.stop()
            self._timer.deleteLater()  # not at once: this may be its own timeout
