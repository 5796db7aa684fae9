"""The command ``netinversion`` in a process of its own, followed from the event loop."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import qt

from .. import jobs
from ..core import steps
from .job import find_python
from .stepper import Stepper
from .words import tr as _

MOST_WORDS = 4000
"""Characters of what the process said that are shown."""


class Command:
    """Runs ``netinversion WORDS --json``.

    Exactly one of the last two callbacks comes, unless it is closed.

    Args:
        words: Of the command line.
        on_line: ``f(line)``, each line of progress.
        on_answer: ``f(answer)``, the JSON object of a command that went well.
        on_failed: ``f(words)``, what went wrong.
    """

    def __init__(
        self,
        words: list[str],
        on_line: Callable[[str], None],
        on_answer: Callable[[dict[str, Any]], None],
        on_failed: Callable[[str], None],
    ):
        self._on_line, self._on_answer, self._on_failed = on_line, on_answer, on_failed
        environment = qt.QProcessEnvironment.systemEnvironment()
        environment.insert("PYTHONPATH", jobs.environment()["PYTHONPATH"])
        self._process = qt.QProcess()
        self._process.setProcessEnvironment(environment)
        self._stepper: Stepper | None = None
        try:
            program, *before = jobs.python_command("NetInversionLib.cli", find_python())
            self._process.start(program, [*before, *words, "--json"])
        except RuntimeError as error:  # no Python
            on_failed(str(error))
            return
        self._stepper = Stepper(self._follow())

    @property
    def running(self) -> bool:
        """Whether a callback is still to come."""
        return self._stepper is not None and self._stepper.running

    def close(self) -> None:
        """End it; no callback follows."""
        if self._stepper is not None and self._stepper.running:
            self._stepper.close()
            self._process.kill()
            self._process.waitForFinished(2000)

    def _follow(self) -> steps.Steps:
        said, told = b"", b""
        ended = False
        while not ended:
            ended = self._process.state() == qt.QProcess.NotRunning
            said += self._process.readAllStandardOutput().data()
            new = self._process.readAllStandardError().data()
            told += new
            lines = new.decode("utf-8", "replace").split("\n")
            if any(lines):
                self._on_line([line for line in lines if line][-1])
            yield False
        try:
            answer = json.loads(said.decode("utf-8", "replace"))
        except ValueError:
            answer = None
        if self._process.exitCode() == 0 and isinstance(answer, dict) and "error" not in answer:
            self._on_answer(answer)
            return
        words = told.decode("utf-8", "replace")[-MOST_WORDS:]
        if words.startswith("usage: "):  # of a wrong word: what argparse says of it comes last
            words = words.rpartition(": error: ")[2]
        words = (answer or {}).get("error") or words or _("It ended without a result.")
        self._on_failed(str(words))
