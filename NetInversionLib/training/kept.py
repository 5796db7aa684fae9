"""What a training has worked out already, in a folder: stopped, it goes on from there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import checkpoint as checkpoints


class Kept:
    """Results by name, each in a file of the folder.

    Args:
        folder: Made with the first result; without one, nothing is kept.
    """

    def __init__(self, folder: Path | str | None = None):
        self.folder = None if folder is None else Path(folder)

    def keep(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What ``make`` gives, from the folder if it is there already.

        Args:
            name: Says all that the result depends on, such as a hash of it.
            make: Gives arrays and numbers by name, as ``checkpoint.save`` takes them.

        Raises:
            CheckpointError: The file there is damaged.
        """
        if self.folder is None:
            return make()
        file = self.folder / f"{name}.checkpoint"
        if not file.exists():
            checkpoints.save(file, make())
        return checkpoints.load(file)


def state_of(*files: Path | None) -> str:
    """Twelve letters that change with the files: place, size and time.

    Args:
        files: They are there; None for one that is not used.
    """
    there = [(file.resolve(), file.stat()) for file in files if file is not None]
    text = " ".join(f"{file} {stat.st_size} {stat.st_mtime_ns}" for file, stat in there)
    return sum_of(text.encode())


def sum_of(*parts: bytes) -> str:
    """Twelve letters of a hash."""
    return hashlib.sha256(b"\n".join(parts)).hexdigest()[:12]
