"""Files that appear under their name whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path | str, ending: str = ".part") -> Iterator[Path]:
    """A file beside ``path`` to write, which takes its name at the end.

    Whatever fails, on a full disk say, leaves what was there before, and nothing else.

    Args:
        path: Of the file; its folder is there.
        ending: Of the file until then.

    Raises:
        OSError: The folder cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}{ending}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
