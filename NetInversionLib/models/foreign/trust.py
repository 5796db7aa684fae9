"""Which files that can run code the user trusts: by their SHA-256, in the user's own folder."""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from ...core.writing import replacing
from ..card import ModelError

FILE = "trusted.json"
ENTRY_POINTS = "netinversion.architectures"


def sha256_of(path: Path | str) -> str:
    """SHA-256 of a file, or of all files of a folder with their names.

    Raises:
        ModelError: It cannot be read.
    """
    path = Path(path)
    return _sum(path, path.rglob("*") if path.is_dir() else [path])


def _sum(path: Path, files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    try:
        for file in sorted(file for file in files if file.is_file() or file == path):
            if file != path:
                digest.update(file.relative_to(path).as_posix().encode() + b"\0")
            with open(file, "rb") as opened:
                while part := opened.read(1 << 20):
                    digest.update(part)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}; check the path") from error
    return digest.hexdigest()


# Code that a user names -------------------------------------------------------------------------


def spelt_out(spec: str) -> str:
    """The specification that an entry point stands for; any other stays as it is."""
    if ":" not in spec:
        for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
            if entry.name == spec:
                return entry.value
    return spec


def code_of(spec: str) -> Path | None:
    """The Python file, or the folder of the installed package, that a specification names.

    Nothing of it is run to find it.

    Args:
        spec: See ``own.class_of``.

    Returns:
        None for a registered architecture, which is the project's own code.

    Raises:
        ModelError: There is none.
    """
    place = spelt_out(spec).rpartition(":")[0]
    if not place:
        return None
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise ModelError(
                f"there is no file {place}: check the path; if it has moved since its network came"
                " in, put it back or import the network again"
            )
        return Path(place)
    name = place.partition(".")[0]
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise ModelError(f"there is no package {name!r}: install it first")
    if found.submodule_search_locations:
        return Path(next(iter(found.submodule_search_locations)))
    if not found.origin or not Path(found.origin).is_file():
        raise ModelError(f"{name!r} is a part of Python itself and has no network")
    return Path(found.origin)


def code_sha256(path: Path) -> str:
    """SHA-256 of a Python file, or of all code of a package: what Python compiles is left out.

    Raises:
        ModelError: It cannot be read.
    """
    suffixes = (".py", *importlib.machinery.EXTENSION_SUFFIXES)
    files = path.rglob("*") if path.is_dir() else [path]
    return _sum(path, (file for file in files if file == path or file.name.endswith(suffixes)))


# What is trusted --------------------------------------------------------------------------------


def folder() -> Path:
    """Where the list lies: ``NETINVERSION_SETTINGS``, or the platform's folder of settings."""
    named = os.environ.get("NETINVERSION_SETTINGS")
    if named:
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA", Path.home())) / "NetInversion"
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "netinversion"


def trusted() -> dict[str, str]:
    """{SHA-256: name} of what is trusted; nothing where the list is missing or damaged."""
    try:
        values = json.loads((folder() / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(values, dict):
        return {}
    return {str(key): str(value) for key, value in values.items()}


def is_trusted(sha256: str) -> bool:
    """Whether the user has said so, of exactly this content."""
    return sha256 in trusted()


def trust(sha256: str, name: str) -> None:
    """Remember that the user trusts a content."""
    _write({**trusted(), sha256: name})


def forget(start: str) -> None:
    """No longer trust what has a SHA-256 that starts like this.

    Raises:
        ModelError: Nothing has.
    """
    kept = {sha256: name for sha256, name in trusted().items() if not sha256.startswith(start)}
    if not start or len(kept) == len(trusted()):
        raise ModelError(f"nothing that is trusted has a SHA-256 that starts with {start!r}")
    _write(kept)


def _write(values: dict[str, str]) -> None:
    folder().mkdir(parents=True, exist_ok=True)
    with replacing(folder() / FILE) as part:
        part.write_text(json.dumps(values, indent=1), encoding="utf-8")


def require(path: Path | str, sha256: str) -> None:
    """Refuse what is not trusted.

    Raises:
        ModelError: The user has not said that this content may run; says how to.
    """
    if not is_trusted(sha256):
        raise ModelError(
            f"{Path(path).name} can run code on this computer, and you have not said that you trust"
            f" it (SHA-256 {sha256}). If you know where it comes from, import it with 'netinversion"
            f" models import {Path(path).name}', which asks"
        )
