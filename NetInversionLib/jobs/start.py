"""How a process of this library is started: it imports nothing from the folder it is called in."""

from __future__ import annotations

import os
import sys
from pathlib import Path

LIBRARY = Path(__file__).parents[2]
"""The folder that holds the library."""


def python_command(package: str, python: str = sys.executable) -> tuple[str, ...]:
    """The command that runs a package's ``__main__``.

    Not ``python -m``: that puts the working folder before the standard library, and a queue.py
    which lies there would be run.

    Args:
        package: Such as "NetInversionLib.jobs"; its arguments follow the command.
        python: Interpreter.
    """
    program = (
        "import sys; sys.path[:1] = []; import runpy;"
        f" runpy.run_module({package!r}, run_name='__main__', alter_sys=True)"
    )
    return (python, "-c", program)


def without_working_folder() -> None:
    """Import nothing from the folder that a program is called in, as ``python -m`` would.

    Every ``__main__`` calls it before it imports anything else, for those who start it by hand.
    """
    if sys.path and sys.path[0] in ("", os.getcwd()):
        del sys.path[0]


def environment(inherited: dict[str, str] | None = None) -> dict[str, str]:
    """The environment in which such a process finds the library.

    Args:
        inherited: Of the parent; that of this process by default. Empty parts of its PYTHONPATH,
            which mean the working folder, are left out.
    """
    found = dict(os.environ if inherited is None else inherited)
    paths = [str(LIBRARY), *filter(None, found.get("PYTHONPATH", "").split(os.pathsep))]
    return {**found, "PYTHONPATH": os.pathsep.join(paths)}
