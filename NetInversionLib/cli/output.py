"""How the command speaks: progress on standard error, answers and tables on standard output."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import time
from typing import Any, TextIO

from ..core.progress import Progress
from ..core.results import Result, Table
from ..core.steps import json_value
from ..core.text import duration, shown
from ..core.words import tr

LONG_S = 600.0
"""Seconds above which a run says how long it will take, and how to take less."""
LOOK_S = 5.0
"""Seconds of a run before its length is judged."""
EVERY = 0.02
"""Share of a run between two lines of progress, where no bar can be drawn."""


class Clock:
    """How long a run goes on, from the shares of it that are done.

    A share that falls begins a new stretch: reading first, then computing.
    """

    def __init__(self) -> None:
        self._begun: tuple[float, float] | None = None
        self._now: tuple[float, float] = (0.0, 0.0)

    def tell(self, fraction: float) -> None:
        """``fraction``: share that is done, 0 to 1."""
        now = (time.monotonic(), fraction)
        if self._begun is None or fraction < self._now[1]:
            self._begun = now
        self._now = now

    def seconds_left(self) -> float | None:
        """Seconds, or None as long as nothing is known."""
        if self._begun is None:
            return None
        seconds, done = (now - begun for now, begun in zip(self._now, self._begun))
        if done <= 0 or seconds < LOOK_S:
            return None
        return seconds / done * max(0.0, 1 - self._now[1])


class Shell(Progress):
    """Where a command's words go.

    Progress is a bar with the time left where standard error is a terminal, else a line every few
    per cent. It never ends a run: a terminal that is gone is not written to any more.

    Args:
        quiet: No progress.
        as_json: Instead of answers and tables, one JSON object at the end.
        advice: What a user can do so that a long run takes less.

    Attributes:
        best: The best result so far of the run, or None.
    """

    def __init__(self, quiet: bool = False, as_json: bool = False, advice: str = ""):
        self.quiet, self.as_json, self.advice = quiet, as_json, advice
        self.best: Result | None = None
        self._told: dict[str, Any] = {}
        self._clock = Clock()
        self._warned = False
        self._bar: Any = None
        self._last = -1.0

    @classmethod
    def of(cls, options: argparse.Namespace) -> Shell:
        """As the options that all commands share ask for."""
        return cls(
            getattr(options, "quiet", False),
            getattr(options, "json", False),
            getattr(options, "advice", ""),
        )

    # Progress

    def report(self, fraction: float, message: str) -> None:
        self._clock.tell(fraction)
        left = self._clock.seconds_left()
        if left is not None and not self._warned:
            self._warned = True
            if left > LONG_S:
                advice = f" {self.advice}" if self.advice else ""
                self.log(f"This will take about {duration(left)}.{advice}")
        if self.quiet:
            return
        if sys.stderr is not None and sys.stderr.isatty():
            self._draw(fraction, message, left)
        elif fraction >= self._last + EVERY or fraction < self._last:
            self._last = fraction
            self.log(message + (f" (about {duration(left)} left)" if left else ""))

    def log(self, message: str) -> None:
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.clear()
        self.complain(message)

    def intermediate(self, result: Result) -> None:
        self.best = result

    def _draw(self, fraction: float, message: str, left: float | None) -> None:
        if self._bar is None:
            from tqdm import tqdm

            layout = "{percentage:3.0f} %|{bar:20}| {desc}"
            width = _width()
            self._bar = tqdm(
                total=1.0, bar_format=layout, leave=False, ncols=width, dynamic_ncols=width is None
            )
        self._bar.n = min(max(fraction, 0.0), 1.0)
        time_left = f"about {duration(left)} left, " if left is not None else ""
        self._bar.set_description_str(shown(time_left + tr(message)))

    def complain(self, message: str) -> None:
        """A line on standard error, whether quiet or not."""
        try:
            print(shown(tr(message)), file=sys.stderr, flush=True)
        except (OSError, ValueError):  # nobody reads it any more
            pass

    # Answers

    def alone(self) -> contextlib.AbstractContextManager[object]:
        """While it lasts, what other code prints goes to standard error if the answer is JSON."""
        return contextlib.redirect_stdout(sys.stderr) if self.as_json else contextlib.nullcontext()

    def say(self, line: object) -> None:
        """A line on standard output."""
        if not self.as_json:
            self._end_bar()
            print(shown(tr(str(line))), flush=True)

    def table(self, table: Table, name: str = "", digits: str = ".1f") -> None:
        """A table on standard output, or in the JSON object under its name."""
        if self.as_json:
            self._told.setdefault("tables", {})[name or table.title] = table.columns
            return
        columns = [
            [shown(text) for text in (heading, *(_cell(value, digits) for value in values))]
            for heading, values in table.columns.items()
        ]
        widths = [max(map(len, column)) for column in columns]
        for row in zip(*columns):
            self.say("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip())

    def tell(self, **facts: Any) -> None:
        """Parts of the JSON object."""
        self._told.update(facts)

    def close(self, **last: Any) -> None:
        """End the bar, and print the JSON object where one was asked for."""
        self._end_bar()
        if self.as_json:
            self.as_json = False
            print(json.dumps({**self._told, **last}, default=_json), flush=True)

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _width() -> int | None:
    """Letters of a line where the terminal does not say it; None where it does."""
    try:
        return None if os.get_terminal_size(sys.stderr.fileno()).columns else 80
    except (OSError, ValueError):
        return 80


def _cell(value: object, digits: str) -> str:
    return format(value, digits) if isinstance(value, float) else str(value)


def _json(value: Any) -> Any:
    try:
        return json_value(value)
    except TypeError:
        return str(value)


def make_safe(*streams: TextIO | None) -> None:
    """Let streams write every letter: what their encoding lacks stands as its code."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
