"""The user's own networks as the panel keeps them: a folder each, listed, and deleted as a whole.

They lie in ``models`` beside the list of what is trusted (``trust.folder``). A network comes in
through a folder that no list shows, and takes its name there at the end.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

from ..card import ModelError
from . import trust

NEW = ".new-"
DOWNLOADS = "downloads"
PART = ".part"
SUFFIXES = (".network", ".safetensors")
LEFT_S = 24 * 3600.0
"""Seconds after which a network that has not come in never will."""


def folder() -> Path:
    """Where they lie; it need not be there."""
    return trust.folder() / "models"


def downloads() -> Path:
    """Where files are fetched to before they are read."""
    return folder() / DOWNLOADS


def folders() -> list[Path]:
    """The folder of each network that was kept."""
    try:
        found = sorted(path for path in folder().iterdir() if path.is_dir())
    except OSError:
        return []
    return [path for path in found if path.name[0] != "." and path.name != DOWNLOADS]


def begin() -> Path:
    """A folder for a network that comes in; what one that never did has left is removed."""
    folder().mkdir(parents=True, exist_ok=True)
    for left in folder().glob(NEW + "*"):
        if time.time() - left.stat().st_mtime > LEFT_S:
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=NEW, dir=folder()))


def keep(model: Path | str) -> Path:
    """Give a network that came in its name.

    Args:
        model: Its card or model file, in a folder from ``begin``.

    Returns:
        The same file in its place.

    Raises:
        ModelError: It lies elsewhere.
    """
    model = Path(model)
    if model.parent.parent != folder() or not model.parent.name.startswith(NEW):
        raise ModelError(f"{model} did not come in here")
    taken, stem = {path.name for path in (*folders(), downloads())}, model.stem
    names = (stem, *(f"{stem}-{n}" for n in range(2, len(taken) + 3)))
    name = next(name for name in names if name not in taken)
    os.replace(model, model.with_name(name + model.suffix))
    os.replace(model.parent, folder() / name)
    return folder() / name / (name + model.suffix)


def drop(place: Path | str) -> None:
    """Take away a network that came in and was not kept."""
    place = Path(place)
    if place.parent == folder() and place.name.startswith(NEW):
        shutil.rmtree(place, ignore_errors=True)


def entries() -> dict[Path, int]:
    """{folder of a network, or the part of a file that was not fetched whole: its bytes}."""
    parts = sorted(downloads().glob("*" + PART)) if downloads().is_dir() else []
    return {path: _bytes(path) for path in (*folders(), *parts)}


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def model_in(place: Path) -> Path | None:
    """The card or model file in the folder of a network; a card where there are both."""
    for suffix in SUFFIXES:
        for path in sorted(place.glob("*" + suffix)):
            return path
    return None


def delete(entry: Path | str) -> None:
    """Delete a network with all its files.

    Args:
        entry: As ``entries`` lists it.

    Raises:
        ModelError: It is not listed, or cannot be deleted.
    """
    entry = Path(entry)
    if entry not in entries():
        raise ModelError(f"{entry} is none of the networks that you added")
    try:
        if entry.is_dir():
            gone = begin()
            os.replace(entry, gone / entry.name)  # no longer listed, whatever comes
            shutil.rmtree(gone)
        else:
            entry.unlink()
    except OSError as error:
        raise ModelError(f"{entry} cannot be deleted ({error.strerror}); is it in use?") from error
