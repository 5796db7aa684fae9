"""What a failure means, in words that say what to do."""

from __future__ import annotations

import errno
import os
import re

from ..core import devices

GRAPHICS_MEMORY = (
    "The graphics card ran out of memory. Close other programs that use it, choose a smaller region"
    " or smaller tiles, or choose the CPU as device."
)
MEMORY = (
    "The computer ran out of memory. Close other programs, choose a smaller region or a coarser"
    " image, or use a computer with more memory."
)
KILLED = (
    "The computation was stopped from outside, most probably by the operating system because memory"
    " ran out. Close other programs, choose a smaller region or a coarser image, or use a computer"
    " with more memory."
)
DISK_FULL = (
    "The disk is full. Free space for a few copies of the images on the disk that holds temporary"
    " files, or choose another temporary folder in the application's settings."
)
LOST = "The computation ended without a result. The details hold its last words."


NO_ROOM = re.compile(r"failed to map segment|cannot allocate|not enough memory", re.IGNORECASE)
"""What a system's loader says of a library that does not fit into memory."""


class JobError(RuntimeError):
    """A job could not be written, read or found; the message says what to do."""


# What went wrong, in words


def explain(error: BaseException) -> str:
    """What an exception means for the user and what to do about it."""
    if devices.is_out_of_memory(error):
        return (
            GRAPHICS_MEMORY
            if re.search(r"cuda|cudnn|cublas|mps", str(error), re.IGNORECASE)
            else MEMORY
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DISK_FULL
    if isinstance(error, ImportError):
        return _does_not_load(error)
    if isinstance(error, ValueError) or type(error).__module__.startswith("NetInversionLib."):
        return str(error)  # written for the user
    return f"The computation stopped on an unexpected error: {type(error).__name__}: {error}"


def explain_exit(code: int, crashed: bool, words: str) -> str:
    """Why a worker ended that did not say so itself.

    Args:
        code: Exit code; the signal number if ``crashed``, where the platform has signals.
        crashed: The process did not end by itself.
        words: The end of its standard error.
    """
    missing = re.search(r"No module named '?([\w.]+)'?", words)
    if missing:
        return _missing_package(missing[1], missing[0])
    if devices.OUT_OF_MEMORY.search(words):
        return GRAPHICS_MEMORY if re.search(r"cuda|mps backend", words, re.IGNORECASE) else MEMORY
    if os.strerror(errno.ENOSPC) in words:
        return DISK_FULL
    # Slicer's launcher stands between: a killed Python reaches us as exit code 1 and this line.
    launcher_lost_it = "exit abnormally" in words and "Fatal Python error" not in words
    if (crashed and code == 9) or code in (-9, 137) or launcher_lost_it:
        return KILLED
    if crashed or "Fatal Python error" in words:
        return (
            f"The computation crashed (code {code}). Run it again; if it crashes again, try the CPU"
            " as device."
        )
    return LOST


def _does_not_load(error: ImportError) -> str:
    """Which package it is that the code asked for, whichever of its parts did not load."""
    if NO_ROOM.search(str(error)):
        return MEMORY
    name = error.name
    if isinstance(error, ModuleNotFoundError) and name and not name.startswith("_"):
        return _missing_package(name, str(error))
    return _missing_package(_outermost(error) or name, str(error))


def _outermost(error: ImportError) -> str | None:
    """The installed package whose import failed: the first that the traceback enters."""
    trace = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_globals.get("__name__", "")
        path = trace.tb_frame.f_code.co_filename
        if os.path.basename(path) == "__init__.py" and not name.startswith("NetInversionLib"):
            return name
        trace = trace.tb_next
    return None


def _missing_package(name: str | None, detail: str) -> str:
    package = (name or "unknown").split(".")[0]
    if package == "NetInversionLib":
        return f"NetInversion's own files are not complete ({detail}). Install the extension again."
    return (
        f"The Python package '{package}' is missing or does not load ({detail}). Install it again,"
        " then restart."
    )
