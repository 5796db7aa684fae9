"""Limits of time that hold on a busy or a slow machine too."""

import os
import subprocess
import sys
import time

IDLE_START_S = 0.05  # a bare Python starts in less where nothing else runs
SERVED_S = (
    0.25  # between two turns of an event loop: 0.08 s on some processors, 0.15 s on slower ones
)


def limit(seconds: float) -> float:
    """``seconds`` on an idle machine, more on a busy one and on an old processor.

    On a busy one it is as many times as a bare Python starts later, or nearly twice as there are
    programs for each processor: one of eight programs on two was not served for 5 s on end. Ask for
    it after what was measured: a machine that was busy then is so a moment later.
    """
    later = max(_start_s() for _ in range(3)) / IDLE_START_S
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    waiting = 2 * load / (os.cpu_count() or 1) - 1
    return seconds * max(1.0, later, waiting) * old_processor()


def old_processor() -> float:
    """How many times longer torch may take: 2 where it knows no AVX, else 1."""
    torch = sys.modules.get("torch")
    return 2.0 if torch and torch.backends.cpu.get_cpu_capability() == "DEFAULT" else 1.0


def _start_s() -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-I", "-S", "-c", ""], check=True)
    return time.perf_counter() - begin


def copying(array) -> float:
    """Seconds that it takes to copy a NumPy array once, into memory that is new to the process."""
    begin = time.perf_counter()
    array.copy()
    return time.perf_counter() - begin
