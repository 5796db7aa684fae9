"""A request run in a worker process, waited for: for networks whose files can run code."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from ..core.progress import Progress
from ..core.results import Result
from ..core.steps import finish
from .errors import JobError, explain_exit
from .request import Request
from .start import environment, python_command
from .storage import load_result, save_request

WORDS = 4000
"""Characters of a worker's last words that are looked at."""


def run_apart(
    request: Request, progress: Progress | None = None, python: str = sys.executable
) -> Result:
    """Run the request in a process of its own and give its result.

    Args:
        request: What to run.
        progress: Is told what the worker tells; where it raises (``Cancelled``), the worker ends.
        python: The interpreter.

    Raises:
        JobError: The worker failed; in its own words.
    """
    progress = progress or Progress()
    with tempfile.TemporaryDirectory(prefix="netinversion-", ignore_cleanup_errors=True) as place:
        folder = Path(place)
        finish(save_request(folder, request))
        with open(folder / "stderr.txt", "wb") as errors:
            worker = subprocess.Popen(
                [*python_command("NetInversionLib.jobs", python), str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=folder,
                env=environment(),
            )
        failed = ""
        try:
            assert worker.stdout is not None
            for line in worker.stdout:
                failed = _hand_on(line, progress) or failed
        finally:
            worker.kill()
            code = worker.wait()
        result = finish(load_result(folder))
        if result is not None:
            return result
        words = (folder / "stderr.txt").read_text(errors="replace")[-WORDS:]
    raise JobError(failed or explain_exit(abs(code), code < 0, words))


def _hand_on(line: bytes, progress: Progress) -> str:
    """Tell what a worker's line says; gives why it failed, if it says so."""
    try:
        message = json.loads(line)
    except ValueError:  # a library has printed something
        return ""
    if not isinstance(message, dict):
        return ""
    for text in message.get("logs", []):
        progress.log(str(text))
    for point in message.get("points", []):
        progress.point(*point)
    if "progress" in message:
        progress.report(*message["progress"])
    return str(message.get("failed", ""))
