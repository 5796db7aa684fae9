"""Which files that can run code the user trusts: by their SHA-256, in the user's own folder."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

from ...core.writing import replacing
from ..card import ModelError

FILE = "trusted.json"


def sha256_of(path: Path | str) -> str:
    """SHA-256 of a file, or of all files of a folder with their names.

    Raises:
        ModelError: It cannot be read.
    """
    path = Path(path)
    digest = hashlib.sha256()
    try:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            if path.is_dir():
                digest.update(file.relative_to(path).as_posix().encode() + b"\0")
            with open(file, "rb") as opened:
                while part := opened.read(1 << 20):
                    digest.update(part)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}; check the path") from error
    return digest.hexdigest()


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
