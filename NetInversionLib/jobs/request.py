"""A job as data, and how it is run in the caller's process."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..core.progress import Progress
from ..core.results import Result
from ..core.steps import json_value
from ..core.volumes import Volume
from ..models.model import Model
from .errors import JobError

ANALYSES = {
    "families": ("NetInversionLib.families.question", "run_analysis"),
    "family_sample": ("NetInversionLib.families.sample", "run_analysis"),
    "family_training": ("NetInversionLib.families.training", "run_analysis"),
    "harmonize": ("NetInversionLib.harmonize", "run_analysis"),
    "ideal_input": ("NetInversionLib.ideal_input", "run_analysis"),
    "invariances": ("NetInversionLib.invariances", "run_analysis"),
}
"""Task name to (module, function); the function is ``f(volumes, model_paths, settings, progress) ->
Result``.
"""


@dataclass
class Request:
    """What to run: one of ``ANALYSES``, its volumes, model files and settings, each by name.

    Settings take part as JSON: tuples become lists, NumPy scalars numbers, paths strings, here as
    in a worker.

    Raises:
        TypeError: A setting is not JSON.
    """

    analysis: str
    volumes: dict[str, Volume]
    model_paths: dict[str, Any] = field(default_factory=dict)
    settings: dict = field(default_factory=dict)

    def __post_init__(self):
        self.settings = json.loads(json.dumps(self.settings, default=json_value))
        self.model_paths = {
            key: path if isinstance(path, Model) else os.path.abspath(path)
            for key, path in self.model_paths.items()
        }


def run_here(request: Request, progress: Progress | None = None) -> Result:
    """Run the request in this process and give its result.

    Raises:
        JobError: No such analysis.
        Exception: Whatever the analysis raises; ``explain`` turns it into words.
    """
    analysis = find_analysis(request.analysis)
    return analysis(request.volumes, request.model_paths, request.settings, progress or Progress())


def find_analysis(name: str) -> Callable[..., Result]:
    if name not in ANALYSES:
        raise JobError(f"There is no analysis '{name}'. Choose one of: {', '.join(ANALYSES)}.")
    module, function = ANALYSES[name]
    return getattr(importlib.import_module(module), function)
