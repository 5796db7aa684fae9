"""How long a run will take: what this computer needs for a small convolution, measured once.

The measurement is a process of its own, so that the panel never waits for torch.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable

import qt

from ..jobs import speed, start

LOGGER = logging.getLogger(__name__)

KEY = "NetInversion/Speed"
"""In Slicer's settings: what was measured last, by device."""


class Machine:
    """The speed of this computer, by device; before it is measured, that of the reference."""

    def __init__(self) -> None:
        self._measured: dict[str, dict[str, float]] = {}
        self._processes: dict[str, object] = {}

    def start_seconds(self, device: str) -> float:
        """Seconds from the start of a worker to its first step."""
        return self._known(device).get("start_s", speed.REFERENCE_START_S)

    def slowness(self, device: str) -> float:
        """How many times longer than on the reference a network takes here."""
        return self._known(device).get("pass_s", speed.REFERENCE_PASS_S) / speed.REFERENCE_PASS_S

    def is_measured(self, device: str) -> bool:
        """In this session or an earlier one."""
        return bool(self._known(device))

    def measure(self, python: str, device: str, done: Callable[[], None]) -> None:
        """Start to measure, if that was not done yet in this session; ``done`` follows at its end.

        Args:
            python: Interpreter that starts workers.
            device: As for ``devices.choose``.
        """
        if device in self._processes:
            return
        process = self._processes[device] = qt.QProcess()
        environment = qt.QProcessEnvironment.systemEnvironment()
        environment.insert("PYTHONPATH", start.environment()["PYTHONPATH"])
        process.setProcessEnvironment(environment)
        process.connect(
            "finished(int,QProcess::ExitStatus)",
            lambda code, status: self._keep(device, process, done),
        )
        program, *words = start.python_command("NetInversionLib.jobs.speed", python)
        process.start(program, [*words, device, repr(time.time())])

    def _keep(self, device: str, process: qt.QProcess, done: Callable[[], None]) -> None:
        try:
            line = process.readAllStandardOutput().data().decode().strip().splitlines()[-1]
            found = json.loads(line)
            self._measured[device] = {name: float(found[name]) for name in ("pass_s", "start_s")}
        except (IndexError, KeyError, TypeError, ValueError):
            words = process.readAllStandardError().data().decode(errors="replace")
            LOGGER.info("The speed of %s could not be measured: %s", device, words[-500:])
            return
        qt.QSettings().setValue(f"{KEY}/{device}", json.dumps(self._measured[device]))
        done()

    def _known(self, device: str) -> dict[str, float]:
        if device not in self._measured:
            kept = qt.QSettings().value(f"{KEY}/{device}")
            self._measured[device] = json.loads(kept) if kept else {}
        return self._measured[device]


MACHINE = Machine()
