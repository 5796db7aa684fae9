"""Limits of time that hold on a busy or a slow machine too."""

import subprocess
import sys
import time

IDLE_START_S = 0.05  # a bare Python starts in less where nothing else runs


def limit(seconds: float) -> float:
    """``seconds`` on an idle machine, more on a busy one: as many times as a bare Python starts
    later.

    Ask for it after what was measured: a machine that was busy then is so a moment later.
    """
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-I", "-S", "-c", ""], check=True)
    return seconds * max(1.0, (time.perf_counter() - begin) / IDLE_START_S)


def copying(array) -> float:
    """Seconds that it takes to copy a NumPy array once, into memory that is new to the process."""
    begin = time.perf_counter()
    array.copy()
    return time.perf_counter() - begin
