"""The base of all modules' panels: their life, the list of models, what they show.

It derives from Slicer's classes, hence its names in camelCase. What a run needs stands in
``running``, what the buttons of reports need in ``reports``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import qt
import slicer
import vtk
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleWidget
from slicer.util import VTKObservationMixin

from ..core import steps, words
from ..core.results import Result
from ..models.card import Card
from . import add_network, estimates, optional_model, runs
from .job import find_python
from .packages import installed
from .pictures import cardText
from .reports import ReportPanel
from .running import Run, RunningPanel
from .texts import literal
from .words import tr as _
from .words import translate_panel

if TYPE_CHECKING:
    from .logic import ModuleLogic


ADD = "+"
"""Data of the entry that adds a network; no file is called so."""


class ModulePanel(RunningPanel, ReportPanel, ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Base of a module's widget.

    It has the life of its panel, the list of models, and a run from Apply to the result shown.

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
    - ``problems()``: reasons why Apply cannot be pressed; ``estimate()``: a line on time and
    memory;
    - ``prepareRun()``: the ``Run`` to start; it may raise ValueError with a message for the user;
    - ``showResults(nodes)``: bring the section with results up to date; ``showSteps()``: steps that
      show the result in the views; ``showPreview(result)``: draw in the panel what a run has so far
      (``PREVIEW_EVERY_S``).

    The .ui file has the widgets ``modelSelector`` (QComboBox), ``modelFileLabel``,
    ``modelFileEdit`` (ctkPathLineEdit), ``modelInfoLabel``, ``deviceSelector`` (QComboBox),
    ``advancedCollapsibleButton``, ``inputsCollapsibleButton``, ``outputsCollapsibleButton``,
    ``resultsCollapsibleButton`` (with a QFormLayout, which gets the buttons of reports),
    ``shownRunSelector`` (QComboBox), ``deleteRunButton``,
    ``estimateLabel``, ``applyButton``, ``progressBar`` (0 to 1000), ``statusLabel``, ``curveLabel``
    and ``logText`` (QPlainTextEdit). It may have ``secondModelSelector`` (QComboBox): the list for
    the parameter node's field ``secondModel``. Those with a dynamic property
    ``SlicerParameterName`` follow the parameter node by themselves.
    """

    APPLY_TIP = ""
    """What Apply does, as its tooltip."""

    def __init__(self, parent: qt.QWidget | None = None):
        self.logic: Any = None
        self._parameterNode: Any = None
        self._guiTag: int | None = None
        self._nodeTag: int | None = None
        self._card: Card | None = None  # of the chosen model
        self._cardPath: str | None = None
        self._secondModel: optional_model.OptionalModel | None = None
        self._going: Any = None  # a Run
        # The panel is being brought up to date: its signals are not the user's.
        self._writing = False
        self._catchingUp = False  # nodes were removed; the panel has still to look
        VTKObservationMixin.__init__(self)
        ScriptedLoadableModuleWidget.__init__(self, parent)

    # For the module to override

    def showChoices(self) -> None:
        """Bring the module's own widgets up to date."""

    def modelChanged(self) -> None:
        """Another ``_card`` (or None) was chosen."""

    def problems(self) -> list[str]:
        """Why Apply cannot be pressed."""
        return []

    def estimate(self) -> str:
        """A line on time and memory."""
        return ""

    def prepareRun(self) -> Run:
        """The run to start; it may raise ValueError with a message for the user."""
        raise NotImplementedError

    def showResults(self, nodes: dict[str, slicer.vtkMRMLNode]) -> None:
        """Bring the section with results up to date."""

    def showSteps(self) -> steps.Steps:
        """Steps that show the result in the views."""
        yield False

    def showPreview(self, result: Result) -> None:
        """Draw in the panel what a run has so far."""

    def addExamples(self) -> None:
        """Put the group of examples into the list of networks (``examples.ExamplePanel``)."""

    # Life

    def setupPanel(self, logic: ModuleLogic) -> None:
        """Load the panel's .ui file and connect what every module has."""
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath(f"UI/{self.moduleName}.ui"))
        translate_panel(panel)
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

    def cleanup(self) -> None:
        self._abandon("")
        self.forgetReports()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self) -> None:
        self.initializeParameterNode()
        self._measureSpeed()

    def _measureSpeed(self) -> None:
        """Have the computer's speed measured, in a process of its own.

        So the first estimate is right.
        """
        if self._parameterNode is None or not installed("torch") or slicer.app.testingEnabled():
            return
        try:
            estimates.MACHINE.measure(find_python(), self._parameterNode.device, self.refresh)
        except RuntimeError:  # no Python: Apply says so
            pass

    def exit(self) -> None:
        self._disconnectGui()

    def _disconnectGui(self) -> None:
        if self._parameterNode is not None and self._guiTag is not None:
            self._parameterNode.disconnectGui(self._guiTag)
        self._guiTag = None

    def onReload(self) -> None:
        """Also load the library and the module's own parts anew, which Python would keep."""
        anew = ("NetInversionLib", f"{self.moduleName}Lib")
        for name in [name for name in sys.modules if name.split(".")[0] in anew]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, caller: vtk.vtkObject, event: str) -> None:
        self._abandon(_("The scene was closed: the run was stopped and its result is not kept."))
        self.setParameterNode(None)

    def onSceneEndClose(self, caller: vtk.vtkObject, event: str) -> None:
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onSceneStartImport(self, caller: vtk.vtkObject, event: str) -> None:
        """Let no widget change the parameter node while a scene is read.

        At the end of the import the node selectors let go of their nodes, which is not the choice
        of the user.
        """
        self._disconnectGui()
        self._writing = True

    def onSceneEndImport(self, caller: vtk.vtkObject, event: str) -> None:
        self._writing = False
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self) -> None:
        """Show the scene's parameter node.

        It is read anew: Slicer's wrapper keeps the values of the node's last change, and while a
        scene is loaded that comes before the nodes that it refers to are there.
        """
        parameters = self.logic.getParameterNode()
        self.setParameterNode(None)
        parameters.parameterNode.InvokeEvent(vtk.vtkCommand.ModifiedEvent)
        self.setParameterNode(parameters)

    def setParameterNode(self, node: Any) -> None:
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

    def _showModelFile(self, path: str) -> None:
        writing, self._writing = self._writing, True
        self.ui.modelFileEdit.currentPath = path
        self._writing = writing

    # What the user chooses and connectGui does not know

    def _fillModels(self) -> None:
        if hasattr(self.ui, "secondModelSelector"):
            self._secondModel = optional_model.OptionalModel(
                self.ui.secondModelSelector, lambda chosen: self.setValues(secondModel=chosen)
            )
        for path, card in self.logic.models().items():
            if not card.family:
                self.ui.modelSelector.addItem(card.name, str(path))
        self.addExamples()
        self.ui.modelSelector.addItem(_("From file..."), "")
        if self.logic.OWN_NETWORKS:
            self.ui.modelSelector.addItem(_("Add a network..."), ADD)
        self.ui.modelFileEdit.nameFilters = [optional_model.file_filter()]

    def _fillDevices(self, names: Sequence[str] = ("cpu",)) -> None:
        chosen = self._parameterNode.device if self._parameterNode is not None else "auto"
        self._writing = True
        self.ui.deviceSelector.clear()
        for name in dict.fromkeys(("auto", *names, chosen)):
            self.ui.deviceSelector.addItem(_("Automatic") if name == "auto" else name, name)
        self.ui.deviceSelector.setCurrentIndex(self.ui.deviceSelector.findData(chosen))
        self._writing = False

    def _onAdvanced(self, collapsed: bool) -> None:
        """Look for devices when they are first wanted.

        That takes torch, which takes a second or two.
        """
        if not collapsed:
            self._fillDevices(self.logic.devices())

    def _onModelChosen(self, index: int) -> None:
        path = self.ui.modelSelector.itemData(index)
        if path == ADD:
            if not self._writing:
                self.refresh()  # the list shows the model that is chosen
                self.addNetwork = add_network.AddNetwork(
                    self.logic.TASK, self._onNetworkAdded, self._onNetworkDeleted
                )
            return
        self.setValues(fromFile=not path, **({"model": Path(path).name} if path else {}))

    def _onNetworkAdded(self, path: str) -> None:
        """A network of the user's own came in: it is the chosen one, if the module takes it."""
        card, problem = self.logic.card(path)
        if card is None:
            self.say(problem)
            return
        self.setValues(fromFile=True, modelFile=path)

    def _onNetworkDeleted(self, folder: str) -> None:
        """A network is gone: it is not the chosen one any more."""
        node = self._parameterNode
        if node is not None and folder and Path(node.modelFile).is_relative_to(folder):
            self.setValues(fromFile=False, modelFile="", model="")

    def _onModelFile(self, path: str) -> None:
        self.setValues(modelFile=path)

    def _onModelFileValid(self, valid: bool) -> None:
        """The line tells only of what could be a model file's path.

        It does not tell of a text that is cleared, for example.
        """
        if not valid:
            self.setValues(modelFile="")

    def _onDeviceChosen(self, index: int) -> None:
        self.setValues(device=self.ui.deviceSelector.itemData(index))

    def setValues(self, **values: Any) -> None:
        """Change fields of the parameter node, for a widget that the user has changed."""
        if not self._writing and self._parameterNode is not None:
            for name, value in values.items():
                setattr(self._parameterNode, name, value)

    # What the panel shows

    def refresh(self, caller: vtk.vtkObject | None = None, event: str | None = None) -> None:
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

    def _showModel(self) -> None:
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
            words = cardText(self._cardPath, self._card) if self._card else literal(problem)
            ui.modelInfoLabel.setText(words)
            self.modelChanged()
        if self._secondModel is not None:
            self._secondModel.show(self.logic.secondModels(node, self._card), node.secondModel)

    def _showDevice(self) -> None:
        selector, device = self.ui.deviceSelector, self._parameterNode.device
        if selector.findData(device) < 0:
            selector.addItem(device, device)
        selector.setCurrentIndex(selector.findData(device))

    def _showApply(self) -> None:
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

    def say(self, message: str) -> None:
        """A line in the log; the newest also stands under the button."""
        message = words.tr(message)
        self.ui.logText.appendPlainText(
            "{time}  {message}".format(time=time.strftime("%H:%M:%S"), message=message)
        )
        self.ui.statusLabel.setVisible(True)
        self.ui.statusLabel.setText(literal(message))

    def fail(self, message: str, details: str = "") -> None:
        """Say what went wrong, in the log and in a dialog."""
        message = words.tr(message)
        self.say(message)
        slicer.util.errorDisplay(
            literal(message), windowTitle=self.logic.TITLE, detailedText=details
        )

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeRemoved(self, caller: vtk.vtkObject, event: str, node: vtk.vtkObject) -> None:
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

    def _catchUpSoon(self) -> None:
        """Catch up once the scene has settled.

        A deleted result has dozens of nodes, and undoing removes some to put others.
        """
        if not self._catchingUp:
            self._catchingUp = True
            qt.QTimer.singleShot(0, self._catchUp)

    def _catchUp(self) -> None:
        """Follow a new parameter node if a person has removed the old one.

        Show no result that is gone.
        """
        self._catchingUp = False
        if self._parameterNode is None:  # the scene was closed, or the panel is gone
            return
        if self._parameterNode.parameterNode.GetScene() is None:
            self.initializeParameterNode()
        elif self._going is None:
            self.refresh()

    def showResult(self) -> None:
        """Show the result in the views, at once."""
        steps.finish(self.showSteps())
