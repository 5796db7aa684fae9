"""Runs jobs from Slicer's event loop, which never waits for them, and sees to the packages that
they need.

``ModulePanel`` and ``ModuleLogic`` are what the extension's modules have in common: a panel whose
Apply starts a job and whose results appear in the scene. They derive from Slicer's classes, hence
their names in camelCase.

The one library file besides mrml.py that imports Slicer's modules.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleWidget
from slicer.util import VTKObservationMixin

from .. import jobs
from ..core import steps
from ..core.progress import Cancelled
from ..core.results import Result
from . import estimates, optional_model, runs
from .job import QtJob, find_python
from .packages import PackagesMissing, ensure_packages, installed
from .pictures import cardText, curvePicture, durationText
from .reports import ReportPanel
from .running import PanelProgress
from .stepper import Stepper
from .texts import literal

if TYPE_CHECKING:
    from .logic import ModuleLogic
    from .running import Run


LOGGER = logging.getLogger(__name__)


class ModulePanel(ReportPanel, ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Base of a module's widget: the life of its panel, the list of models, and a run from Apply to
    the result shown.

    The panel is idle (``_going`` is None), or a run goes on: it reads its volumes, computes, then
    writes its result (``_going.writer``). All that time Apply is Cancel. Cancel, an input node that
    is removed, a scene that is closed and a module that is reloaded all end a run; what was written
    of a result by then is removed, except by a node's removal, which a result survives. The event
    loop is served all the time.

    A module's widget has ``setup`` call ``setupPanel(logic)``, which loads ``UI/<module>.ui``, then
    connect what is its own and call ``initializeParameterNode()``. It overrides

    - ``showChoices()``: bring the module's own widgets up to date with ``_parameterNode`` and
    ``_card``;
    - ``modelChanged()``: another ``_card`` (or None) was chosen;
    - ``problems()``: reasons why Apply can not be pressed; ``estimate()``: a line on time and
    memory;
    - ``prepareRun()``: the ``Run`` to start; it may raise ValueError with a message for the user;
    - ``showResults(nodes)``: bring the section with results up to date; ``showSteps()``: steps that
      show the result in the views; ``showPreview(result)``: draw in the panel what a run has so far
      (``PREVIEW_EVERY_S``).

    The .ui file has the widgets ``modelSelector`` (QComboBox), ``modelFileLabel``,
    ``modelFileEdit`` (ctkPathLineEdit), ``modelInfoLabel``, ``deviceSelector`` (QComboBox),
    ``advancedCollapsibleButton``, ``inputsCollapsibleButton``, ``outputsCollapsibleButton``,
    ``resultsCollapsibleButton``, ``shownRunSelector`` (QComboBox), ``deleteRunButton``,
    ``estimateLabel``, ``applyButton``, ``progressBar`` (0 to 1000), ``statusLabel``, ``curveLabel``
    and ``logText`` (QPlainTextEdit). It may have ``secondModelSelector`` (QComboBox): the list for
    the parameter node's field ``secondModel``. Those with a dynamic property
    ``SlicerParameterName`` follow the parameter node by themselves.
    """

    APPLY_TIP = ""
    """What Apply does, as its tooltip."""

    CURVE_LABELS = ("", "")
    """Of the live curve: x axis and y axis."""

    PREVIEW_EVERY_S = 0.0
    """How often ``showPreview`` is given the newest intermediate result of a run that goes on; 0:
    never.
    """

    def __init__(self, parent=None):
        self.logic = None
        self._parameterNode = self._guiTag = self._nodeTag = None
        self._card = self._cardPath = None  # of the chosen model
        self._secondModel: optional_model.OptionalModel | None = None
        self._going: Run | None = None
        self._writing = (
            False  # the panel is being brought up to date: its signals are not the user's
        )
        self._catchingUp = False  # nodes were removed; the panel has still to look
        VTKObservationMixin.__init__(self)
        ScriptedLoadableModuleWidget.__init__(self, parent)

    # For the module to override

    def showChoices(self):
        pass

    def modelChanged(self):
        pass

    def problems(self) -> list[str]:
        return []

    def estimate(self) -> str:
        return ""

    def prepareRun(self) -> Run:
        raise NotImplementedError

    def showResults(self, nodes: dict):
        pass

    def showSteps(self) -> steps.Steps:
        yield False

    def showPreview(self, result: Result):
        pass

    # Life

    def setupPanel(self, logic: ModuleLogic):
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath(f"UI/{self.moduleName}.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.logic = logic
        self.addReportButtons()
        for name in ("progressBar", "statusLabel", "curveLabel", "resultsCollapsibleButton"):
            getattr(self.ui, name).setVisible(False)
        self._fillModels()
        self._fillDevices()
        self.ui.modelSelector.connect("currentIndexChanged(int)", self._onModelChosen)
        self.ui.modelFileEdit.connect("currentPathChanged(QString)", self._onModelFile)
        self.ui.modelFileEdit.connect("validInputChanged(bool)", self._onModelFileValid)
        self.ui.deviceSelector.connect("currentIndexChanged(int)", self._onDeviceChosen)
        self.ui.advancedCollapsibleButton.connect("contentsCollapsed(bool)", self._onAdvanced)
        self.ui.applyButton.connect("clicked(bool)", self.onApplyButton)
        self._runs = runs.RunList(self)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.StartImportEvent, self.onSceneStartImport)
        # After the node selectors, which know the scene's nodes only then, whenever they were made.
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose, priority=-1.0)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneEndImport, priority=-1.0)
        self.addObserver(scene, scene.NodeRemovedEvent, self._onNodeRemoved)

    def cleanup(self):
        self._abandon("")
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self):
        self.initializeParameterNode()
        self._measureSpeed()

    def _measureSpeed(self):
        """Have the computer's speed measured, in a process of its own, so that the first estimate
        is right.
        """
        if self._parameterNode is None or not installed("torch") or slicer.app.testingEnabled():
            return
        try:
            estimates.MACHINE.measure(find_python(), self._parameterNode.device, self.refresh)
        except RuntimeError:  # no Python: Apply says so
            pass

    def exit(self):
        self._disconnectGui()

    def _disconnectGui(self):
        if self._parameterNode is not None and self._guiTag is not None:
            self._parameterNode.disconnectGui(self._guiTag)
        self._guiTag = None

    def onReload(self):
        """Also load the library anew, whose modules Python would keep."""
        for name in [name for name in sys.modules if name.split(".")[0] == "NetInversionLib"]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, caller, event):
        self._abandon(_("The scene was closed: the run was stopped and its result is not kept."))
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onSceneStartImport(self, caller, event):
        """At the import's end the node selectors let go of their nodes, which is not the user's
        choice.
        """
        self._disconnectGui()
        self._writing = True

    def onSceneEndImport(self, caller, event):
        self._writing = False
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self):
        """Show the scene's parameter node.

        It is read anew: Slicer's wrapper keeps the values of the node's last change, and while a
        scene is loaded that comes before the nodes that it refers to are there.
        """
        parameters = self.logic.getParameterNode()
        self.setParameterNode(None)
        parameters.parameterNode.InvokeEvent(vtk.vtkCommand.ModifiedEvent)
        self.setParameterNode(parameters)

    def setParameterNode(self, node):
        """Show the values of another parameter node (or none: the scene closes), and follow it."""
        self._disconnectGui()
        if self._parameterNode is not None:
            self._parameterNode.parameterNode.RemoveObserver(self._nodeTag)
        self._parameterNode = node
        if node is not None:
            self._guiTag = node.connectGui(self.ui)
            # Not by addObserver, which would keep every wrapper and node that it was ever given.
            self._nodeTag = node.parameterNode.AddObserver(
                vtk.vtkCommand.ModifiedEvent, self.refresh
            )
            self._showModelFile(node.modelFile)
            self.refresh()

    def _showModelFile(self, path):
        writing, self._writing = self._writing, True
        self.ui.modelFileEdit.currentPath = path
        self._writing = writing

    # What the user chooses and connectGui does not know

    def _fillModels(self):
        if hasattr(self.ui, "secondModelSelector"):
            self._secondModel = optional_model.OptionalModel(
                self.ui.secondModelSelector, lambda chosen: self.setValues(secondModel=chosen)
            )
        for path, card in self.logic.models().items():
            self.ui.modelSelector.addItem(card.name, str(path))
        self.ui.modelSelector.addItem(_("From file..."), "")
        self.ui.modelFileEdit.nameFilters = [optional_model.file_filter()]

    def _fillDevices(self, names=("cpu",)):
        chosen = self._parameterNode.device if self._parameterNode is not None else "auto"
        self._writing = True
        self.ui.deviceSelector.clear()
        for name in dict.fromkeys(("auto", *names, chosen)):
            self.ui.deviceSelector.addItem(_("Automatic") if name == "auto" else name, name)
        self.ui.deviceSelector.setCurrentIndex(self.ui.deviceSelector.findData(chosen))
        self._writing = False

    def _onAdvanced(self, collapsed):
        """Look for devices when they are first wanted: that takes torch, which takes a second or
        two.
        """
        if not collapsed:
            self._fillDevices(self.logic.devices())

    def _onModelChosen(self, index):
        path = self.ui.modelSelector.itemData(index)
        self.setValues(fromFile=not path, **({"model": Path(path).name} if path else {}))

    def _onModelFile(self, path):
        self.setValues(modelFile=path)

    def _onModelFileValid(self, valid):
        """The line tells only of what could be a model file's path: not of a text that is cleared,
        for example.
        """
        if not valid:
            self.setValues(modelFile="")

    def _onDeviceChosen(self, index):
        self.setValues(device=self.ui.deviceSelector.itemData(index))

    def setValues(self, **values):
        """Change fields of the parameter node, for a widget that the user has changed."""
        if not self._writing and self._parameterNode is not None:
            for name, value in values.items():
                setattr(self._parameterNode, name, value)

    # What the panel shows

    def refresh(self, caller=None, event=None):
        """Bring everything up to date with the parameter node."""
        if self._parameterNode is None or self._writing or slicer.mrmlScene.IsImporting():
            return
        self._writing = True
        try:
            self._showModel()
            self._showDevice()
            self.showChoices()
            nodes = self.logic.resultNodes(self._parameterNode.run)
            self.ui.resultsCollapsibleButton.setVisible(bool(nodes) and self._going is None)
            if nodes:
                self._runs.show()
            if nodes and self._card is not None:
                self.showResults(nodes)
            self.showReportButtons(nodes)
        finally:
            self._writing = False
        self._showApply()

    def _showModel(self):
        node, ui = self._parameterNode, self.ui
        if not node.fromFile and not node.model:
            path = ui.modelSelector.itemData(0)
            node.model, node.fromFile = Path(path).name, not path
        path = self.logic.modelPath(node)
        ui.modelSelector.setCurrentIndex(
            ui.modelSelector.findData("" if node.fromFile else str(path))
        )
        ui.modelFileLabel.setVisible(node.fromFile)
        ui.modelFileEdit.setVisible(node.fromFile)
        if (
            node.modelFile and ui.modelFileEdit.currentPath != node.modelFile
        ):  # else the user may be typing
            ui.modelFileEdit.currentPath = node.modelFile
        if str(path) != self._cardPath:
            self._cardPath = str(path)
            self._card, problem = self.logic.card(path)
            ui.modelInfoLabel.setText(
                cardText(path, self._card) if self._card else literal(problem)
            )
            self.modelChanged()
        if self._secondModel is not None:
            self._secondModel.show(self.logic.secondModels(node, self._card), node.secondModel)

    def _showDevice(self):
        selector, device = self.ui.deviceSelector, self._parameterNode.device
        if selector.findData(device) < 0:
            selector.addItem(device, device)
        selector.setCurrentIndex(selector.findData(device))

    def _showApply(self):
        """Apply, or Cancel while a run goes on; disabled with all reasons why."""
        going, button = self._going is not None, self.ui.applyButton
        problems = [] if going else self.problems()
        button.text = _("Cancel") if going else _("Apply")
        button.enabled = not problems and not (going and self._going.stopping)
        if problems:
            button.toolTip = literal("\n".join(problems))
        else:
            button.toolTip = self._cancelTip() if going else self.APPLY_TIP
        for name in (
            "inputsCollapsibleButton",
            "outputsCollapsibleButton",
            "advancedCollapsibleButton",
        ):
            getattr(self.ui, name).enabled = not going
        estimate = "" if problems or going else self.estimate()
        self.ui.estimateLabel.setText(estimate)
        self.ui.estimateLabel.setVisible(bool(estimate))

    def _cancelTip(self):
        if self._going.writer is None:
            return _("Stop, and keep the best result so far.")
        return _("Stop, and remove what is written of the result.")

    def say(self, message):
        """A line in the log; the newest also stands under the button."""
        self.ui.logText.appendPlainText(
            "{time}  {message}".format(time=time.strftime("%H:%M:%S"), message=message)
        )
        self.ui.statusLabel.setVisible(True)
        self.ui.statusLabel.setText(literal(message))

    def fail(self, message, details=""):
        """Say what went wrong, in the log and in a dialog."""
        self.say(message)
        slicer.util.errorDisplay(
            literal(message), windowTitle=self.logic.TITLE, detailedText=details
        )

    # A run: computing

    def onApplyButton(self):
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

    def _start(self, run):
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

    def _onRefused(self, error):
        """No job can be made of the images or settings, or it can not be started."""
        for_user = isinstance(error, ValueError)
        self._conclude(
            jobs.explain(error), "" if for_user else "".join(traceback.format_exception(error))
        )

    def _compute(self, run, request):
        run.started = time.monotonic()
        if not self._parameterNode.worker:
            self._runHere(run, request)
            return
        try:
            run.job = QtJob(
                request, self._onProgress, self.say, self._onPoint, self._onFinished, self._onFailed
            )
        except (OSError, RuntimeError) as error:  # no room for the job's folder, no Python
            self._onRefused(error)

    def _runHere(self, run, request):
        """In this process, for when no other can be started; the panel is served whenever the run
        reports.
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
        while self._going is run:
            run.writer.finish()

    def _cancel(self, message):
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

    def _abandon(self, message):
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

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeRemoved(self, caller, event, node):
        if self._parameterNode is not None:
            of_result = node.GetAttribute(f"{self.moduleName}.run") is not None
            if of_result or node is self._parameterNode.parameterNode:
                self._catchUpSoon()
        run = self._going
        if (
            run is None
            or run.writer is not None
            or run.problem
            or node not in (*run.inputs.values(), *run.others)
        ):
            return
        run.problem = _("'{name}' was removed from the scene: the run was stopped.").format(
            name=node.GetName()
        )
        self._cancel(run.problem)

    def _catchUpSoon(self):
        """Once the scene has settled: a deleted result has dozens of nodes, and undoing removes
        some to put others.
        """
        if not self._catchingUp:
            self._catchingUp = True
            qt.QTimer.singleShot(0, self._catchUp)

    def _catchUp(self):
        """Follow a new parameter node if a person has removed the old one; show no result that is
        gone.
        """
        self._catchingUp = False
        if self._parameterNode is None:  # the scene was closed, or the panel is gone
            return
        if self._parameterNode.parameterNode.GetScene() is None:
            self.initializeParameterNode()
        elif self._going is None:
            self.refresh()

    def _onProgress(self, fraction, message):
        self.ui.progressBar.setValue(int(1000 * fraction))
        elapsed = time.monotonic() - self._going.started
        if fraction > 0.05:
            message = _("{message}; about {left} left").format(
                message=message, left=durationText(elapsed * (1 - fraction) / fraction)
            )
        self.ui.statusLabel.setText(literal(message))
        if self.PREVIEW_EVERY_S and time.monotonic() - self._going.previewed > self.PREVIEW_EVERY_S:
            self._preview(self._going)

    def _preview(self, run):
        """Have the newest intermediate result shown; one that cannot be read (the job may end
        meanwhile) is not.
        """
        run.previewed = time.monotonic()

        def show(result):
            if result is not None and self._going is run and run.writer is None:
                self.showPreview(result)

        if run.job is None:
            show(run.progress.last)
        elif run.viewer is None or not run.viewer.running:
            run.viewer = Stepper(run.job.intermediate(), show, lambda error: None)

    def _onPoint(self, curve, x, y):
        self._going.curves.setdefault(curve, []).append((x, y))
        if time.monotonic() - self._going.drawn > 0.2:
            self._going.drawn = time.monotonic()
            self._drawCurves()

    def _drawCurves(self):
        self.ui.curveLabel.setPixmap(curvePicture(self._going.curves, *self.CURVE_LABELS))
        self.ui.curveLabel.setVisible(bool(self._going.curves))  # not every run has some

    # A run: its result

    def _onFinished(self, result, message):
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

    def _onFailed(self, message, details, last):
        if last is None:
            self._conclude(message, details)
            return
        last.facts["complete"] = False
        kept = message + " " + _("The best result so far is kept, marked as incomplete.")

        def lost(error):
            LOGGER.error("The intermediate result could not be added to the scene", exc_info=error)
            self._conclude(message, details)

        self._write(last, lambda: self._conclude(kept, details), lost)

    def _write(self, result, done, failed):
        """Write a result into the scene and show it; then ``done()``, or ``failed(error)`` with the
        scene as it was.
        """
        run = self._going
        self.ui.progressBar.setValue(1000)
        self.ui.statusLabel.setText(_("Writing the results into the scene"))

        def written(value):
            run.written = True
            self._parameterNode.run = value.run
            if self.parent.isEntered:  # else the user works elsewhere by now
                run.writer = Stepper(self.showSteps(), lambda _: done(), not_shown)
            else:
                done()

        def not_shown(error):
            LOGGER.error("The result could not be shown", exc_info=error)
            done()

        run.writer = Stepper(self.logic.writeResult(result, run.like, run.inputs), written, failed)
        self._showApply()

    def _conclude(self, message, details=None):
        """The run is over: say how; ``details`` if it failed."""
        run = self._end()
        message = " ".join(filter(None, (run.problem, message)))
        if details is not None:
            self.fail(message, details)
        else:
            self.say(message)

    def _end(self):
        """Draw the last points and give the panel back."""
        self._drawCurves()
        run, self._going = self._going, None
        self.ui.progressBar.setVisible(False)
        self.refresh()
        return run

    def showResult(self):
        """Show the result in the views, at once."""
        steps.finish(self.showSteps())
