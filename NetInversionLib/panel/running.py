"""A run, from Apply to the result in the views."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import slicer

from .. import models
from ..core import steps
from ..core.progress import Cancelled, Progress

if TYPE_CHECKING:
    from .job import QtJob
    from .stepper import Stepper


@dataclass
class Run:
    """What a panel's Apply starts.

    ``request`` are steps whose value is a ``jobs.Request``: they read the volumes
    (``mrml.read_volume``). ``inputs`` are nodes by name; the first is the one that results are put
    beside. If one of them, or of ``others`` (a mask), is removed from the scene before there is a
    result, the run stops. ``cost``: see ``ModuleLogic.secondsFor``; 0: unknown.
    """

    request: steps.Steps
    card: models.Card
    inputs: dict[str, Any]
    others: list = field(default_factory=list)
    cost: float = 0.0
    device: str = "auto"

    # The panel's own
    reader: Stepper | None = None
    job: QtJob | None = None
    progress: PanelProgress | None = None
    viewer: Stepper | None = None  # loads an intermediate result for the preview
    previewed: float = field(default_factory=time.monotonic)
    writer: Stepper | None = None  # from here on there is a result
    written: bool = False
    started: float = field(default_factory=time.monotonic)
    drawn: float = 0.0
    curves: dict = field(default_factory=dict)
    problem: str = ""
    stopping: bool = False

    @property
    def like(self):
        return next(iter(self.inputs.values()), None)


class PanelProgress(Progress):
    """For a run in this process: hands on what it reports, keeps the last intermediate result,
    serves the panel.
    """

    def __init__(self, onProgress, onLog, onPoint):
        self._onProgress, self._onLog, self._onPoint = onProgress, onLog, onPoint
        self.cancelled, self.last = False, None

    def _serve(self, tell, *arguments):
        if not self.cancelled:
            tell(*arguments)
        slicer.app.processEvents()
        if self.cancelled:
            raise Cancelled

    def report(self, fraction, message):
        self._serve(self._onProgress, fraction, message)

    def log(self, message):
        self._serve(self._onLog, message)

    def point(self, curve, x, y):
        self._serve(self._onPoint, curve, x, y)

    def intermediate(self, result):
        self.last = result
