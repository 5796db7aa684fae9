"""What a running algorithm reports to, and how it is stopped."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .results import Result


class Cancelled(Exception):
    """The user asked the run to stop."""


class Progress:
    """Receives what a running algorithm reports; the default ignores it all.

    Every method may raise ``Cancelled``. Subclasses override what they show.
    """

    def report(self, fraction: float, message: str) -> None:
        """How far the run is (0 to 1) and what it does now, in words a clinician reads."""

    def log(self, message: str) -> None:
        """A line worth keeping: a choice made, a warning."""

    def point(self, curve: str, x: float, y: float) -> None:
        """One more point of a live curve (the loss while it falls)."""

    def intermediate(self, result: Result) -> None:
        """The best result so far; kept if the run is cancelled or dies."""


class Part(Progress):
    """A stretch of a longer run.

    Its fractions are put in their place, everything else is handed on.

    Args:
        whole: Of the run. first, last: The fractions of the run at which this part begins and ends.
        completed: Makes of a result of this part one of the run; without it results are handed on
            as they are.
    """

    def __init__(
        self,
        whole: Progress,
        first: float,
        last: float,
        completed: Callable[[Result], Result] | None = None,
    ):
        self.whole, self.first, self.last, self.completed = whole, first, last, completed

    def report(self, fraction: float, message: str) -> None:
        self.whole.report(self.first + fraction * (self.last - self.first), message)

    def log(self, message: str) -> None:
        self.whole.log(message)

    def point(self, curve: str, x: float, y: float) -> None:
        self.whole.point(curve, x, y)

    def intermediate(self, result: Result) -> None:
        self.whole.intermediate(self.completed(result) if self.completed else result)
