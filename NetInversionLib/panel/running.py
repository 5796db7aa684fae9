"""A run, from Apply to the result in the views."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import slicer

from .. import jobs, models
from ..core import steps, words
from ..core.progress import Cancelled, Progress
from ..core.results import Result
from ..scene.results import Written
from . import job
from .packages import PackagesMissing, ensure_packages
from .pictures import curvePicture, durationText
from .stepper import Stepper
from .texts import literal
from .words import tr as _

if TYPE_CHECKING:
    from .job import QtJob
    from .logic import ModuleLogic

LOGGER = logging.getLogger(__name__)


@dataclass
class Run:
    """What a panel's Apply starts.

    ``request`` are steps whose value is a ``jobs.Request``: they read the volumes
    (``scene.read.read_volume``). ``inputs`` are nodes by name; the first is the one that results
    are put beside. If one of them, or of ``others`` (a mask), is removed from the scene before
    there is a result, the run stops. ``cost``: see ``ModuleLogic.secondsFor``; 0: unknown.
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
    def like(self) -> slicer.vtkMRMLNode | None:
        """The node that results are put beside."""
        return next(iter(self.inputs.values()), None)


class PanelProgress(Progress):
    """Progress of a run in this process.

    It hands on what the run reports, keeps the last intermediate result, and serves the panel.
    """

    def __init__(
        self,
        onProgress: Callable[[float, str], None],
        onLog: Callable[[str], None],
        onPoint: Callable[[str, float, float], None],
    ):
        self._onProgress = onProgress
        self._onLog = onLog
        self._onPoint = onPoint
        self.cancelled = False
        self.last: Result | None = None

    def _serve(self, tell: Callable[..., None], *arguments: Any) -> None:
        if not self.cancelled:
            tell(*arguments)
        slicer.app.processEvents()
        if self.cancelled:
            raise Cancelled

    def report(self, fraction: float, message: str) -> None:
        self._serve(self._onProgress, fraction, message)

    def log(self, message: str) -> None:
        self._serve(self._onLog, message)

    def point(self, curve: str, x: float, y: float) -> None:
        self._serve(self._onPoint, curve, x, y)

    def intermediate(self, result: Result) -> None:
        self.last = result


class RunningPanel:
    """Part of a module's widget that has its run: from Apply to the result in the views.

    ``_going`` is the run that goes on, or None. What it shows and asks of the panel is named here
    and stands in ``panel.ModulePanel`` and in the module's own widget.
    """

    CURVE_LABELS = ("", "")
    """Of the live curve: x axis and y axis."""

    PREVIEW_EVERY_S = 0.0
    """How often ``showPreview`` is given the newest intermediate result of a run that goes on; 0:
    never.
    """

    if TYPE_CHECKING:
        logic: ModuleLogic
        ui: Any
        parent: Any
        _parameterNode: Any
        _going: Any

        def say(self, message: str) -> None: ...
        def fail(self, message: str, details: str = "") -> None: ...
        def refresh(self, caller: Any = None, event: Any = None) -> None: ...
        def prepareRun(self) -> Run: ...
        def showSteps(self) -> steps.Steps: ...
        def showPreview(self, result: Result) -> None: ...
        def _showApply(self) -> None: ...

    # Computing

    def onApplyButton(self, clicked: bool = False) -> None:
        """Start a run; while one goes on, cancel it."""
        if self._going is not None:
            self._cancel(_("Cancelling"))
            return
        try:
            with slicer.util.WaitCursor():
                ensure_packages(self.logic.TITLE)
                run = self.prepareRun()
        except (ValueError, PackagesMissing) as error:  # both are written for the user
            self.fail(str(error))
            return
        self._start(run)

    def _start(self, run: Run) -> None:
        self._going = run
        for widget in (self.ui.progressBar, self.ui.statusLabel, self.ui.curveLabel):
            widget.setVisible(True)
        self.ui.resultsCollapsibleButton.setVisible(False)
        self.ui.progressBar.setValue(0)
        self._drawCurves()
        self.say(_("Starting"))
        self._showApply()
        run.reader = Stepper(
            run.request, lambda request: self._compute(run, request), self._onRefused
        )
        if not self._parameterNode.worker:
            run.reader.finish()

    def _onRefused(self, error: Exception) -> None:
        """No job can be made of the images or settings, or it cannot be started."""
        for_user = isinstance(error, ValueError)
        self._conclude(
            jobs.explain(error), "" if for_user else "".join(traceback.format_exception(error))
        )

    def _compute(self, run: Run, request: jobs.Request) -> None:
        run.started = time.monotonic()
        if not self._parameterNode.worker and not self.logic.runsApart(request):
            self._runHere(run, request)
            return
        try:
            run.job = job.QtJob(
                request, self._onProgress, self.say, self._onPoint, self._onFinished, self._onFailed
            )
        except (OSError, RuntimeError) as error:  # no room for the job's folder, no Python
            self._onRefused(error)

    def _runHere(self, run: Run, request: jobs.Request) -> None:
        """Run in this process, for when no other can be started.

        The panel is served whenever the run reports.
        """
        progress = run.progress = PanelProgress(self._onProgress, self.say, self._onPoint)
        failure = None
        try:
            result, message = jobs.run_here(request, progress), _("Done.")
        except Cancelled:
            result, message = progress.last, _("Cancelled.")
        except Exception as error:  # noqa: BLE001 - whatever it is, the user is told
            failure = jobs.explain(error), traceback.format_exc()
        if self._going is not run:  # abandoned: the scene was closed
            return
        if failure:
            self._onFailed(*failure, progress.last)
        else:
            self._onFinished(result, message)
        while self._going is run and run.writer is not None:
            run.writer.finish()

    def _cancel(self, message: str) -> None:
        run = self._going
        if run.written:  # and nearly shown
            return
        self.ui.statusLabel.setText(literal(message))
        if run.writer is not None:
            run.writer.close()
            self._conclude(_("Cancelled while the result was written: it is not kept."))
            return
        if run.job is None and run.progress is None:
            run.reader.close()
            self._conclude(_("Cancelled."))
            return
        run.stopping = True  # pressed again, the button must not take the best result so far away
        self._showApply()
        if run.job is not None:
            run.job.cancel()
        else:
            run.progress.cancelled = True

    def _abandon(self, message: str) -> None:
        """Stop a run without a result: its scene goes away."""
        run, self._going = self._going, None
        if run is None:
            return
        for stepper in (run.reader, run.viewer, run.writer):
            if stepper is not None:
                stepper.close()
        if run.job is not None:
            run.job.discard()
        if run.progress is not None:
            run.progress.cancelled = True
        self.ui.progressBar.setVisible(False)
        if message:
            self.say(message)

    def _cancelTip(self) -> str:
        if self._going.writer is None:
            return _("Stop, and keep the best result so far.")
        return _("Stop, and remove what is written of the result.")

    def _onProgress(self, fraction: float, message: str) -> None:
        self.ui.progressBar.setValue(int(1000 * fraction))
        message = words.tr(message)
        elapsed = time.monotonic() - self._going.started
        if fraction > 0.05:
            message = _("{message}; about {left} left").format(
                message=message, left=durationText(elapsed * (1 - fraction) / fraction)
            )
        self.ui.statusLabel.setText(literal(message))
        if self.PREVIEW_EVERY_S and time.monotonic() - self._going.previewed > self.PREVIEW_EVERY_S:
            self._preview(self._going)

    def _preview(self, run: Run) -> None:
        """Have the newest intermediate result shown.

        One that cannot be read (the job may end meanwhile) is not.
        """
        run.previewed = time.monotonic()

        def show(result: Result | None) -> None:
            if result is not None and self._going is run and run.writer is None:
                self.showPreview(result)

        if run.job is None:
            show(run.progress.last if run.progress is not None else None)
        elif run.viewer is None or not run.viewer.running:
            run.viewer = Stepper(run.job.intermediate(), show, lambda error: None)

    def _onPoint(self, curve: str, x: float, y: float) -> None:
        self._going.curves.setdefault(curve, []).append((x, y))
        if time.monotonic() - self._going.drawn > 0.2:
            self._going.drawn = time.monotonic()
            self._drawCurves()

    def _drawCurves(self) -> None:
        self.ui.curveLabel.setPixmap(curvePicture(self._going.curves, *self.CURVE_LABELS))
        self.ui.curveLabel.setVisible(bool(self._going.curves))  # not every run has some

    # Its result

    def _onFinished(self, result: Result | None, message: str) -> None:
        run = self._going
        if result is None:
            self._conclude(message)
            return
        if result.facts.get("complete", True) and run.cost:
            self.logic.learnSpeed(run.card, run.device, run.cost, time.monotonic() - run.started)
        for warning in result.facts.get("warnings", []):
            message += " " + _("Warning: {warning}").format(warning=warning)
        self._write(
            result,
            lambda: self._conclude(message),
            lambda error: self._conclude(
                _("The result could not be added to the scene. {reason}").format(
                    reason=jobs.explain(error)
                ),
                "".join(traceback.format_exception(error)),
            ),
        )

    def _onFailed(self, message: str, details: str, last: Result | None) -> None:
        if last is None:
            self._conclude(message, details)
            return
        last.facts["complete"] = False
        kept = message + " " + _("The best result so far is kept, marked as incomplete.")

        def lost(error: Exception) -> None:
            LOGGER.error("The intermediate result could not be added to the scene", exc_info=error)
            self._conclude(message, details)

        self._write(last, lambda: self._conclude(kept, details), lost)

    def _write(
        self,
        result: Result,
        done: Callable[[], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """Write a result into the scene and show it.

        Then ``done()``, or ``failed(error)`` with the scene as it was.
        """
        run = self._going
        self.ui.progressBar.setValue(1000)
        self.ui.statusLabel.setText(_("Writing the results into the scene"))

        def written(value: Written) -> None:
            run.written = True
            self._parameterNode.run = value.run
            if self.parent.isEntered:  # else the user works elsewhere by now
                run.writer = Stepper(self.showSteps(), lambda _: done(), not_shown)
            else:
                done()

        def not_shown(error: Exception) -> None:
            LOGGER.error("The result could not be shown", exc_info=error)
            done()

        run.writer = Stepper(self.logic.writeResult(result, run.like, run.inputs), written, failed)
        self._showApply()

    def _conclude(self, message: str, details: str | None = None) -> None:
        """The run is over: say how; ``details`` if it failed."""
        run = self._end()
        message = " ".join(filter(None, (run.problem, message)))
        if details is not None:
            self.fail(message, details)
        else:
            self.say(message)

    def _end(self) -> Run:
        """Draw the last points and give the panel back."""
        self._drawCurves()
        run, self._going = self._going, None
        self.ui.progressBar.setVisible(False)
        self.refresh()
        return run
