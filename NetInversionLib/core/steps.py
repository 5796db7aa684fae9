"""Long work in steps: generators that an event loop drives, or that run at once."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import numpy as np

PIECE = 4 * 2**20
"""Bytes saved or loaded between two yields."""
Steps = Generator[bool, None, Any]


def finish(steps: Steps) -> Any:
    """Run steps to their end and give their value."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def json_value(value: Any) -> Any:
    """What JSON does not know and may carry."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON: {value!r}")
