"""The module Ideal Input: which input image would make this image-to-image network err least?"""

import enum
import json
import logging
import math
import os
import sys
import time
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import qt
import slicer
import vtk
from slicer import (
    vtkMRMLLabelMapVolumeNode,
    vtkMRMLMarkupsROINode,
    vtkMRMLSegmentationNode,
)
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import Decimals, Minimum, SingleStep, WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

# Installed, the library lies beside this file; in a source checkout, beside this file's folder.
for _folder in (Path(__file__).resolve().parents[1], Path(__file__).resolve().parent):
    if (_folder / "NetInversionLib").is_dir() and str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

from NetInversionLib import dixon, jobs, models, mrml, qtjobs, volumes  # noqa: E402
from NetInversionLib.results import Cancelled, Progress  # noqa: E402

CHANNEL = "NetInversion.channel"  # attribute of a volume node: the channel it is, as sample data say it
CHOSEN = "channel."  # node references of the parameter node: the volume chosen for a channel
KEY, RUN = "IdealInput.key", "IdealInput.run"  # attributes of a result node: which one of which run
OF = "IdealInput.input"  # node reference of a table, chart or text: the input it is about
LAYOUT = 4866  # identifier of the layout; the number of the abstract that the method comes from
SAMPLE = "IdealInputDixon"
PUBLISHED = {"optimiser": "fixed-step", "mean": False, "above": 1.0, "below": 1.0}  # ideal_input.PRESETS, without torch


def cardText(path, card):
    """What a person wants to know of a model before using it, as HTML."""
    def channels(group):
        return ", ".join(channel.name + (f" ({channel.units})" if channel.units else "") for channel in group)

    lines = [
        "<b>{name}</b>, {file}".format(name=card.name, file=Path(path).name),
        _("Takes {inputs}; gives {outputs}.").format(inputs=channels(card.inputs), outputs=channels(card.outputs)),
        _("Voxels of {low:g} to {high:g} mm, {how}.").format(
            low=card.spacing_mm[0], high=card.spacing_mm[1],
            how=_("slice by slice") if card.dimensions == 2 else _("in 3-D")),
        _("Trained on: {scans}.").format(scans=", ".join(card.trained_on) or _("not said")),
        card.intended_use]
    return "<br>".join(lines)


#
# IdealInput
#


class IdealInput(ScriptedLoadableModule):
    """Title, help, thanks and sample data of the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Ideal Input")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Image Synthesis")]
        self.parent.dependencies = []
        self.parent.contributors = ["The NetInversion developers"]
        self.parent.helpText = _(
            "Finds the input images with which a trained image-to-image network (for example Dixon MR to synthetic CT) "
            "would err least, and shows how they differ from the patient's: what the network would have needed to see. "
            "<b>For research only, not for diagnosis or treatment.</b> The shipped network was trained on SIMULATED MR "
            'images. See the <a href="https://github.com/NetInversion/SlicerNetInversion/blob/main/Resources/Docs/'
            'IdealInput.md">tutorial</a>.')
        self.parent.acknowledgementText = _(
            'The method is that of A. P. Leynes and colleagues, <i>Visualizing the "ideal" input MRI for synthetic CT '
            "generation with a trained deep convolutional neural network</i>, ISMRM 2019, abstract 4866. Please cite it "
            "when you use this module.<br>The picture of the sample shows a CT of the TotalSegmentator dataset (Wasserthal "
            "et al., Radiology: Artificial Intelligence 2023;5:e230024, Apache-2.0) and an MR image simulated from it.")
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    """Offer the module's sample in the Sample Data module."""
    import SampleData

    folder = Path(__file__).resolve().parent / "Resources" / "Icons"
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="NetInversion",
        sampleName=SAMPLE,
        # Slicer wants a file even where customSample does the work: that of its own sample CTChest.
        uris=slicer.util.TESTING_DATA_URL + "SHA256/4507b664690840abb6cb9af2d919377ffc4ef75b167cb6fd0f747befdb12e38e",
        fileNames="CT-chest.nrrd",
        nodeNames="CTChest",
        checksums="SHA256:4507b664690840abb6cb9af2d919377ffc4ef75b167cb6fd0f747befdb12e38e",
        customDownloader=lambda source: IdealInputLogic().addSample(),
        thumbnailFileName=str(folder / "IdealInputSample.png"))


#
# IdealInputParameterNode
#


class InputRegion(enum.Enum):
    WHOLE, DISPLAYED, SLICES, ROI = range(4)

    def label(self):
        return [_("Whole volume"), _("Displayed slice"), _("Some slices"), _("Region of interest")][self.value]


class Direction(enum.Enum):
    BEST, WORST = range(2)

    def label(self):
        return [_("Best input (least error)"), _("Worst input (greatest error)")][self.value]


class Preset(enum.Enum):
    DEFAULT, SEED = range(2)

    def label(self):
        return [_("Batched L-BFGS"), _("As published (fixed-step L-BFGS)")][self.value]


@parameterNodeWrapper
class IdealInputParameterNode:
    """What the panel shows, kept in the scene. The volume of each channel is a node reference "channel.<role>".

    model - file name of a shipped model
    fromFile, modelFile - whether another model is used instead, and its path
    region, firstSlice, lastSlice, roiNode - where the input may change; lastSlice -1 is the last one
    maskNode - the input changes only where it is set
    locked - roles of the channels that stay the patient's, with commas between
    run - identifier of the result that the panel shows
    The others are the fields of NetInversionLib.ideal_input.Settings; ball and memoryGb 0 mean none.
    """

    model: str
    fromFile: bool
    modelFile: str
    secondModel: str
    region: InputRegion = InputRegion.WHOLE
    firstSlice: Annotated[int, Minimum(0)] = 0
    lastSlice: Annotated[int, Minimum(-1)] = -1
    roiNode: vtkMRMLMarkupsROINode
    maskNode: vtkMRMLLabelMapVolumeNode | vtkMRMLSegmentationNode | None
    startPatient: bool = True
    startZeros: bool = False
    startNoise: bool = False
    noiseSeeds: Annotated[int, WithinRange(1, 16)] = 1
    validity: bool = True
    knobs: bool = True
    direction: Direction = Direction.BEST
    ball: Annotated[float, WithinRange(0, 1), Decimals(3), SingleStep(0.005)] = 0.0
    preset: Preset = Preset.DEFAULT
    maxEvaluations: Annotated[int, WithinRange(1, 100000)] = 200
    above: Annotated[float, WithinRange(0, 1e6), Decimals(3)] = 10.0
    below: Annotated[float, WithinRange(0, 1e6), Decimals(3)] = 10.0
    box: bool = False
    locked: str
    device: str = "auto"
    allowCpu: bool = True
    memoryGb: Annotated[float, WithinRange(0, 10000), Decimals(1)] = 0.0
    worker: bool = True
    run: str


#
# IdealInputWidget
#


class IdealInputWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel. It shows and hands on; what is computed, the logic's request says and a job runs."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameterNode = None
        self._guiTag = None
        self._card = None  # of the chosen model
        self._cardPath = None
        self._selectors = {}  # role to node selector
        self._locks = {}  # role to check box
        self._going = None  # what is known of the run in progress
        self._writing = False  # the panel is being brought up to date: its signals are not the user's

    # Life

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/IdealInput.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = IdealInputLogic()
        for name in ("progressBar", "statusLabel", "curveLabel", "resultsCollapsibleButton"):
            getattr(self.ui, name).setVisible(False)
        self._fillModels()
        self._fillDevices()
        self._connect()
        self.initializeParameterNode()

    def _connect(self):
        ui, scene = self.ui, slicer.mrmlScene
        ui.modelSelector.connect("currentIndexChanged(int)", self._onModelChosen)
        ui.modelFileEdit.connect("currentPathChanged(QString)", self._onModelFile)
        ui.secondModelEdit.connect("currentPathChanged(QString)", self._onSecondModel)
        ui.maskSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._onMaskChosen)
        ui.deviceSelector.connect("currentIndexChanged(int)", self._onDeviceChosen)
        ui.advancedCollapsibleButton.connect("contentsCollapsed(bool)", self._onAdvanced)
        ui.applyButton.connect("clicked(bool)", self.onApplyButton)
        ui.showButton.connect("clicked(bool)", self.showResult)
        for selector in (ui.shownStartSelector, ui.shownChannelSelector, ui.shownTableSelector):
            selector.connect("activated(int)", self._onShown)
        self.addObserver(scene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(scene, slicer.mrmlScene.EndImportEvent, self._refresh)
        self.addObserver(scene, slicer.mrmlScene.NodeRemovedEvent, self._onNodeRemoved)

    def cleanup(self):
        self._abandon(None)
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self):
        self.initializeParameterNode()

    def exit(self):
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

    def initializeParameterNode(self):
        self.setParameterNode(self.logic.getParameterNode())
        self.logic.chooseMarkedVolumes(self._parameterNode, self._card)

    def setParameterNode(self, node):
        """Show the values of another parameter node (or none: the scene closes), and follow it."""
        if self._parameterNode is not None:
            if self._guiTag is not None:
                self._parameterNode.disconnectGui(self._guiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._refresh)
        self._parameterNode, self._guiTag = node, None
        if node is not None:
            self._guiTag = node.connectGui(self.ui)
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._refresh)
            self._refresh()

    # What the user chooses and connectGui does not know

    def _fillModels(self):
        for path, card in models.list_models().items():
            if not isinstance(card, models.ModelError):
                self.ui.modelSelector.addItem(card.name, str(path))
        self.ui.modelSelector.addItem(_("From file..."), "")
        self.ui.modelFileEdit.nameFilters = [_("NetInversion model") + " (*.safetensors)"]
        self.ui.secondModelEdit.nameFilters = self.ui.modelFileEdit.nameFilters

    def _fillDevices(self, names=("cpu",)):
        chosen = self._parameterNode.device if self._parameterNode is not None else "auto"
        self._writing = True
        self.ui.deviceSelector.clear()
        for name in dict.fromkeys(("auto", *names, chosen)):
            self.ui.deviceSelector.addItem(_("Automatic") if name == "auto" else name, name)
        self.ui.deviceSelector.setCurrentIndex(self.ui.deviceSelector.findData(chosen))
        self._writing = False

    def _onAdvanced(self, collapsed):
        """Look for devices when they are first wanted: that takes torch, which takes a second or two."""
        if not collapsed:
            self._fillDevices(self.logic.devices())

    def _onModelChosen(self, index):
        path = self.ui.modelSelector.itemData(index)
        self._set(fromFile=not path, **({"model": Path(path).name} if path else {}))

    def _onModelFile(self, path):
        self._set(modelFile=path)

    def _onSecondModel(self, path):
        self._set(secondModel=path)

    def _onMaskChosen(self, node):
        self._set(maskNode=node)

    def _onDeviceChosen(self, index):
        self._set(device=self.ui.deviceSelector.itemData(index))

    def _onVolumeChosen(self, role, node):
        if not self._writing and self._parameterNode is not None:
            self._parameterNode.parameterNode.SetNodeReferenceID(CHOSEN + role, node.GetID() if node else None)

    def _onLock(self, state):
        self._set(locked=",".join(role for role, box in self._locks.items() if box.checked))

    def _set(self, **values):
        if not self._writing and self._parameterNode is not None:
            for name, value in values.items():
                setattr(self._parameterNode, name, value)

    # What the panel shows

    def _refresh(self, caller=None, event=None):
        """Bring everything up to date with the parameter node."""
        if self._parameterNode is None or self._writing or slicer.mrmlScene.IsImporting():
            return
        self._writing = True
        try:
            self._showModel()
            self._showChoices()
            self._showRegion()
            self._showResults()
        finally:
            self._writing = False
        self._showApply()

    def _showModel(self):
        node, ui = self._parameterNode, self.ui
        if not node.fromFile and not node.model:
            self._chooseFirstModel()
        path = self.logic.modelPath(node)
        index = ui.modelSelector.findData("" if node.fromFile else str(path))
        ui.modelSelector.setCurrentIndex(index)
        ui.modelFileLabel.setVisible(node.fromFile)
        ui.modelFileEdit.setVisible(node.fromFile)
        for edit, text in ((ui.modelFileEdit, node.modelFile), (ui.secondModelEdit, node.secondModel)):
            if edit.currentPath != text:
                edit.currentPath = text
        if str(path) != self._cardPath:
            self._cardPath = str(path)
            self._card, problem = self.logic.card(path)
            ui.modelInfoLabel.setText(cardText(path, self._card) if self._card else problem)
            self._buildChannels()

    def _chooseFirstModel(self):
        path = self.ui.modelSelector.itemData(0)
        self._parameterNode.model, self._parameterNode.fromFile = Path(path).name, not path

    def _buildChannels(self):
        """One selector for each image that the network takes and gives, one lock for each that it takes."""
        locks = self.ui.locksLayout
        for selector in self._selectors.values():
            selector.setMRMLScene(None)  # a selector that waits for its deletion must not answer any more
            self.ui.inputsLayout.removeRow(selector)
        for box in self._locks.values():
            locks.removeWidget(box)
            box.hide()  # at once; it is deleted when the event loop runs
            box.deleteLater()
        self._selectors, self._locks = {}, {}
        for channel in self._card.inputs if self._card else ():
            self._addSelector(channel, _("{channel}:").format(channel=channel.name))
            box = self._locks[channel.role] = qt.QCheckBox(channel.name)
            box.connect("toggled(bool)", self._onLock)
            locks.addWidget(box)
        for channel in self._card.outputs if self._card else ():
            self._addSelector(channel, _("Target {channel}:").format(channel=channel.name))

    def _addSelector(self, channel, label):
        selector = self._selectors[channel.role] = slicer.qMRMLNodeComboBox()
        selector.objectName = f"{channel.role}Selector"
        selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        selector.showChildNodeTypes = False  # label maps and colour volumes
        selector.addEnabled = selector.removeEnabled = False
        selector.noneEnabled = True
        selector.noneDisplay = _("Select a volume")
        selector.setMRMLScene(slicer.mrmlScene)
        selector.toolTip = _("{channel}, in {units}").format(channel=channel.name, units=channel.units or _("no units"))
        selector.connect("currentNodeChanged(vtkMRMLNode*)",
                         lambda node, role=channel.role: self._onVolumeChosen(role, node))
        self.ui.inputsLayout.insertRow(2 + len(self._selectors), label, selector)  # the model takes three rows

    def _showChoices(self):
        node = self._parameterNode
        for role, selector in self._selectors.items():
            selector.setCurrentNode(self.logic.chosen(node, role))
        self.ui.maskSelector.setCurrentNode(node.maskNode)
        for role, box in self._locks.items():
            box.checked = role in node.locked.split(",")
        index = self.ui.deviceSelector.findData(node.device)
        if index < 0:
            self.ui.deviceSelector.addItem(node.device, node.device)
        self.ui.deviceSelector.setCurrentIndex(self.ui.deviceSelector.findData(node.device))
        self.ui.noiseSeedsSpinBox.enabled = node.startNoise
        for widget in (self.ui.evaluationsSpinBox, self.ui.boxCheckBox, self.ui.ballSpinBox, self.ui.aboveSpinBox,
                       self.ui.belowSpinBox):
            widget.enabled = node.preset == Preset.DEFAULT

    def _showRegion(self):
        node, ui = self._parameterNode, self.ui
        for widgets, region in (((ui.slicesLabel, ui.slicesWidget), InputRegion.SLICES),
                                ((ui.roiLabel, ui.roiSelector), InputRegion.ROI)):
            for widget in widgets:
                widget.setVisible(node.region == region)
        count = self.logic.sliceCount(node, self._card)
        if count:
            ui.firstSliceSpinBox.maximum = ui.lastSliceSpinBox.maximum = count - 1

    def _showApply(self):
        """Apply, or Cancel while a run goes on; disabled with all reasons why."""
        button, problems = self.ui.applyButton, self.logic.problems(self._parameterNode, self._card)
        if self._going is not None:
            problems = []
        button.text = _("Cancel") if self._going is not None else _("Apply")
        button.enabled = not problems
        if problems:
            button.toolTip = "\n".join(problems)
        else:
            button.toolTip = (_("Stop, and keep the best result so far.") if self._going is not None
                              else _("Compute the ideal input."))
        self.ui.inputsCollapsibleButton.enabled = self._going is None
        self.ui.outputsCollapsibleButton.enabled = self._going is None
        self.ui.advancedCollapsibleButton.enabled = self._going is None
        estimate = "" if problems or self._going else self.logic.estimateText(self._parameterNode, self._card)
        self.ui.estimateLabel.setText(estimate)
        self.ui.estimateLabel.setVisible(bool(estimate))

    # The run

    def onApplyButton(self):
        if self._going is not None:
            self._cancel(_("Cancelling"))
            return
        try:
            with slicer.util.WaitCursor():
                qtjobs.ensure_packages("Ideal Input")
                node = self._parameterNode
                request = self.logic.requestFromParameterNode(node, self._card)
        except (ValueError, qtjobs.PackagesMissing) as error:  # both are written for the user
            self._say(str(error))
            slicer.util.errorDisplay(str(error), windowTitle=_("Ideal Input"))
            return
        chosen = {role: self.logic.chosen(node, role) for role in self._selectors}
        self._going = SimpleNamespace(
            inputs=chosen, nodes=[n for n in (*chosen.values(), node.maskNode) if n is not None], job=None, progress=None,
            started=time.monotonic(), drawn=0.0, curves={}, problem="", cost=self.logic.cost(node, self._card))
        self._start(request)

    def _start(self, request):
        for widget in (self.ui.progressBar, self.ui.statusLabel, self.ui.curveLabel):
            widget.setVisible(True)
        self.ui.resultsCollapsibleButton.setVisible(False)
        self.ui.progressBar.setValue(0)
        self._drawCurves()
        self._say(_("Starting"))
        self._showApply()
        if self._parameterNode.worker:
            self._going.job = qtjobs.QtJob(request, self._onProgress, self._say, self._onPoint, self._onFinished,
                                           self._onFailed)
        else:
            self._runHere(request)

    def _runHere(self, request):
        """In this process, for when no other can be started; the panel is served whenever the run reports."""
        progress = self._going.progress = _PanelProgress(self._onProgress, self._say, self._onPoint)
        failure = None
        try:
            result, message = jobs.run_here(request, progress), _("Done.")
        except Cancelled:
            result, message = progress.last, _("Cancelled.")
        except Exception as error:  # whatever it is, the user is told
            failure = jobs.explain(error), traceback.format_exc()
        if self._going is None or self._going.progress is not progress:  # abandoned: the scene was closed
            return
        if failure:
            self._onFailed(*failure, progress.last)
        else:
            self._onFinished(result, message)

    def _cancel(self, message):
        self.ui.statusLabel.setText(message)
        if self._going.job is not None:
            self._going.job.cancel()
        else:
            self._going.progress.cancelled = True

    def _abandon(self, message):
        """Stop a run without a result: its scene goes away."""
        going, self._going = self._going, None
        if going is None:
            return
        if going.job is not None:
            going.job.discard()
        if going.progress is not None:
            going.progress.cancelled = True
        self.ui.progressBar.setVisible(False)
        if message:
            self._say(message)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeRemoved(self, caller, event, node):
        if self._going is not None and not self._going.problem and node in self._going.nodes:
            self._going.problem = _("'{name}' was removed from the scene: the run was stopped.").format(
                name=node.GetName())
            self._cancel(self._going.problem)

    def _onProgress(self, fraction, message):
        self.ui.progressBar.setValue(int(1000 * fraction))
        elapsed = time.monotonic() - self._going.started
        if fraction > 0.05:
            message = _("{message}; about {left} left").format(
                message=message, left=durationText(elapsed * (1 - fraction) / fraction))
        self.ui.statusLabel.setText(message)

    def _onPoint(self, curve, x, y):
        self._going.curves.setdefault(curve, []).append((x, y))
        if time.monotonic() - self._going.drawn > 0.2:
            self._going.drawn = time.monotonic()
            self._drawCurves()

    def _onFinished(self, result, message):
        going = self._end()
        if result is None:
            self._say(" ".join(filter(None, (going.problem, message))))
            return
        complete = result.facts.get("complete", True)
        try:
            output = self.logic.addResult(result, going.inputs[self._card.inputs[0].role], going.inputs)
        except Exception as error:
            self._fail(_("The result could not be added to the scene. {reason}").format(reason=jobs.explain(error)),
                       traceback.format_exc())
            return
        if complete:
            self.logic.learnSpeed(self._card, self._parameterNode.device, going.cost, time.monotonic() - going.started)
        self._parameterNode.run = output.run
        for warning in result.facts.get("warnings", []):
            message += " " + _("Warning: {warning}").format(warning=warning)
        self._say(" ".join(filter(None, (going.problem, message))))
        self.showResult()

    def _onFailed(self, message, details, last):
        going = self._end()
        if last is not None:
            last.facts["complete"] = False
            try:
                first = going.inputs[self._card.inputs[0].role]
                self._parameterNode.run = self.logic.addResult(last, first, going.inputs).run
                message += " " + _("The best result so far is kept, marked as incomplete.")
            except Exception:
                logging.exception("The intermediate result could not be added to the scene")
        self._fail(message, details)

    def _end(self):
        """The run is over: draw its last points and give the panel back."""
        self._drawCurves()
        going, self._going = self._going, None
        self.ui.progressBar.setVisible(False)
        self._refresh()
        return going

    def _fail(self, message, details):
        self._say(message)
        slicer.util.errorDisplay(message, windowTitle=_("Ideal Input"), detailedText=details)

    def _say(self, message):
        """A line in the log; the newest also stands under the button."""
        self.ui.logText.appendPlainText("{time}  {message}".format(time=time.strftime("%H:%M:%S"), message=message))
        self.ui.statusLabel.setVisible(True)
        self.ui.statusLabel.setText(message)

    def _drawCurves(self):
        """The loss so far, drawn into a picture: it adds nothing to the scene."""
        picture = qt.QPixmap(460, 150)
        picture.fill(qt.QColor("white"))
        painter = qt.QPainter()
        painter.begin(picture)
        lines, labels = curvePixels(self._going.curves, left=64, top=10, width=310, height=110)
        painter.setPen(qt.QColor("#606060"))
        painter.drawRect(64, 10, 310, 110)
        for text, x, y in labels:
            painter.drawText(x, y, text)
        for index, (name, points) in enumerate(lines.items()):
            painter.setPen(qt.QColor("#" + mrml.LINE_COLORS[index % len(mrml.LINE_COLORS)]))
            for (x0, y0), (x1, y1) in zip(points, points[1:]):
                painter.drawLine(x0, y0, x1, y1)
            painter.drawText(382, 22 + 14 * index, name)
        painter.end()
        self.ui.curveLabel.setPixmap(picture)

    # Results

    def _showResults(self):
        """Summary and choices of the run that the scene's parameter node names, if its nodes are still there."""
        nodes = self.logic.resultNodes(self._parameterNode.run)
        self.ui.resultsCollapsibleButton.setVisible(bool(nodes) and self._going is None)
        if not nodes or self._card is None:
            return
        self.ui.summaryLabel.setText(self.logic.summary(nodes))
        starts = self.logic.startsOf(nodes, self._card)
        channels = {channel.role: channel.name for channel in self._card.inputs}
        tables = {key: node.GetName() for key, node in nodes.items() if node.IsA("vtkMRMLTableNode")}
        for selector, entries in ((self.ui.shownStartSelector, {start: start for start in starts}),
                                  (self.ui.shownChannelSelector, channels), (self.ui.shownTableSelector, tables)):
            if [selector.itemData(i) for i in range(selector.count)] != list(entries):
                selector.clear()
                for key, text in entries.items():
                    selector.addItem(text, key)
            selector.enabled = selector.count > 0

    def _onShown(self, index):
        self.showResult()

    def showResult(self):
        """Patient beside ideal in the views, with the chosen table and the curves."""
        nodes = self.logic.resultNodes(self._parameterNode.run)
        ui = self.ui
        chosen = [s.itemData(s.currentIndex) for s in (ui.shownStartSelector, ui.shownChannelSelector,
                                                       ui.shownTableSelector)]
        if nodes and self._card is not None:
            patient = self.logic.chosen(self._parameterNode, chosen[1])
            self.logic.showInViews(nodes, self._card, patient, *chosen)


class _PanelProgress(Progress):
    """For a run in this process: hands on what it reports, keeps the last intermediate result, serves the panel."""

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


#
# IdealInputLogic
#


class IdealInputLogic(ScriptedLoadableModuleLogic):
    """Computes ideal inputs from volume nodes; needs no panel. In Slicer's Python console:

        logic = IdealInputLogic()
        output = logic.run([inPhaseNode, fatNode, waterNode], ctNode, starts=["patient", "zeros"])
        output.nodes["ideal in_phase patient"], output.tables["error"], output.charts["convergence"]
    """

    def getParameterNode(self):
        return IdealInputParameterNode(super().getParameterNode())

    # A run

    def run(self, inputNodes, targetNode, modelPath=None, maskNode=None, roi=None, secondModelPath=None, progress=None,
            **settings):
        """Compute, here and now, and add the results to the scene.

        :param inputNodes: scalar volume nodes by channel role, or a list in the order of the model's card.
        :param targetNode: what the network should give (CT); a dict or list if it gives several images.
        :param modelPath: model file; default the first shipped model that takes as many images.
        :param maskNode: label map or segmentation outside of which the input stays as it is.
        :param roi: markups ROI node: the region, instead of ``settings["region"]``.
        :param secondModelPath: another network, on which the gain is tried.
        :param progress: NetInversionLib.results.Progress.
        :param settings: fields of NetInversionLib.ideal_input.Settings: starts, max_evaluations, device, ...
        :return: see ``addResult``.
        Raises ValueError with what to do if an image, the model or a setting can not be used; nothing is added then.
        """
        qtjobs.ensure_packages("Ideal Input")
        request = self.request(inputNodes, targetNode, modelPath, maskNode, roi, secondModelPath, **settings)
        inputs = self._byRole(inputNodes, models.read_card(request.model_paths["network"]).inputs)
        return self.addResult(jobs.run_here(request, progress), next(iter(inputs.values())), inputs)

    def request(self, inputNodes, targetNode, modelPath=None, maskNode=None, roi=None, secondModelPath=None, **settings):
        """The same as data, for NetInversionLib.jobs.run_here or qtjobs.QtJob (parameters: see ``run``)."""
        modelPath = modelPath or self._modelFor(inputNodes)
        card = models.read_card(modelPath)
        nodes = {**self._byRole(inputNodes, card.inputs), **self._byRole(targetNode, card.outputs)}
        images = {role: volumes.check(mrml.volume_from_node(node)) for role, node in nodes.items()}
        first = images[card.inputs[0].role]
        if maskNode is not None:
            images["mask"] = first.with_array(mrml.mask_from_node(maskNode, first).view("uint8"), maskNode.GetName())
        if roi is not None:
            settings["region"] = mrml.region_from_roi_node(roi, first)
        paths = {"network": modelPath, **({"second": secondModelPath} if secondModelPath else {})}
        return jobs.Request("ideal_input", images, {key: str(path) for key, path in paths.items()}, settings)

    def _modelFor(self, inputNodes):
        for path, card in models.list_models().items():
            if not isinstance(card, models.ModelError) and len(card.inputs) == len(inputNodes):
                return path
        raise models.ModelError(f"No shipped model takes {len(inputNodes)} images; name a model file (modelPath).")

    def _byRole(self, nodes, channels):
        """{role: node} in the card's order, from a dict, a list or one node."""
        if isinstance(nodes, slicer.vtkMRMLNode) or nodes is None:
            nodes = [nodes]
        wanted = ", ".join(f"{channel.role} ({channel.name})" for channel in channels)
        if len(nodes) != len(channels):
            raise models.ModelError(f"The network needs {len(channels)} volumes, {wanted}, and got {len(nodes)}; "
                                    "choose one for each, or another network.")
        if not isinstance(nodes, dict):
            return {channel.role: node for channel, node in zip(channels, nodes)}
        if set(nodes) != {channel.role for channel in channels}:
            raise models.ModelError(f"The network needs volumes for {wanted}, and got {', '.join(nodes)}.")
        return {channel.role: nodes[channel.role] for channel in channels}

    def addResult(self, result, inputNode, shownAs=None):
        """Write a result into the scene beside ``inputNode``: all of it, or nothing and an exception.

        Tables, charts and the text of an earlier run on the same input are filled anew. ``shownAs`` maps channel roles
        to nodes whose window the new images take.
        :return: object with ``nodes`` (by the result's keys), ``tables``, ``charts``, ``facts``, ``result`` and ``run``,
            the identifier that all its nodes carry.
        """
        inputNode = inputNode if inputNode is not None and inputNode.GetScene() is not None else None
        windows = {f"{kind} {role}": node for role, node in (shownAs or {}).items() for kind in ("ideal", "output")}
        shown = {key: windows.get(" ".join(key.split(" ")[:2])) for key in result.volumes}
        slicer.mrmlScene.StartState(slicer.vtkMRMLScene.BatchProcessState)  # selectors look once, not at every node
        try:
            nodes = mrml.add_result(result, inputNode, shown, self._earlier(inputNode))
            run = self._mark(nodes, inputNode, result.facts.get("complete", True))
            self._fileTogether(nodes, inputNode)
        finally:
            slicer.mrmlScene.EndState(slicer.vtkMRMLScene.BatchProcessState)
        return SimpleNamespace(nodes=nodes, tables={key: nodes[key] for key in result.tables},
                               charts={key: nodes[key] for key in result.curves}, facts=result.facts, result=result,
                               run=run)

    def _mark(self, nodes, inputNode, complete):
        """Write on every node which one of which run it is; show all errors in one window. Returns the run."""
        run = f"{time.time():.3f}"
        for key, node in nodes.items():
            node.SetAttribute(KEY, key)
            node.SetAttribute(RUN, run)
            node.SetNodeReferenceID(OF, inputNode.GetID() if inputNode is not None else None)
            if not complete:
                node.SetName(_("{name} (incomplete)").format(name=node.GetName()))
                node.SetAttribute("IdealInput.incomplete", "1")
            kind, role = (key.split(" ") + [""])[:2]
            before = nodes.get(f"error {role} patient's")
            if kind == "error" and before is not None:
                window = before.GetDisplayNode()
                node.GetDisplayNode().SetWindowLevelMinMax(window.GetWindowLevelMin(), window.GetWindowLevelMax())
        return run

    def _earlier(self, inputNode):
        """Tables, charts and texts about this input, by key."""
        found = {}
        for kind in ("vtkMRMLTableNode", "vtkMRMLPlotChartNode", "vtkMRMLTextNode") if inputNode is not None else ():
            for node in slicer.util.getNodesByClass(kind):
                if node.GetAttribute(KEY) and node.GetNodeReference(OF) is inputNode:
                    found[node.GetAttribute(KEY)] = node
        return found

    def _fileTogether(self, nodes, inputNode):
        """Put the results of a run into a folder beside their input, where there is a subject hierarchy."""
        hierarchy = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode")
        item = hierarchy.GetItemByDataNode(inputNode) if hierarchy is not None and inputNode is not None else 0
        if not item:
            return
        name = hierarchy.GenerateUniqueItemName(_("Ideal input for {name}").format(name=inputNode.GetName()))
        folder = hierarchy.CreateFolderItem(hierarchy.GetItemParent(item), name)
        charts = [node for node in nodes.values() if node.IsA("vtkMRMLPlotChartNode")]
        series = [chart.GetNthPlotSeriesNode(i) for chart in charts for i in range(chart.GetNumberOfPlotSeriesNodes())]
        for node in [*nodes.values(), *series, *(one.GetTableNode() for one in series)]:
            own = hierarchy.GetItemByDataNode(node)
            if own:
                hierarchy.SetItemParent(own, folder)

    # What the panel asks

    def modelPath(self, node):
        """Path of the model that the parameter node names; None if it is nowhere."""
        if node.fromFile:
            return node.modelFile or None
        return next((str(path) for path in models.list_models() if path.name == node.model), None)

    def card(self, path):
        """(card, problem): the card of a model file, or None and why it can not be used."""
        if not path:
            return None, _("Choose a network: a shipped one, or a model file.")
        try:
            return models.read_card(path), ""
        except models.ModelError as error:
            return None, str(error)

    def chosen(self, node, role):
        """The volume node chosen for a channel, or None."""
        return node.parameterNode.GetNodeReference(CHOSEN + role)

    def chooseMarkedVolumes(self, node, card):
        """If no volume is chosen yet, choose those that say which channel they are (sample data do)."""
        channels = (*card.inputs, *card.outputs) if card else ()
        if any(self.chosen(node, channel.role) for channel in channels):
            return
        marked = {volume.GetAttribute(CHANNEL): volume for volume in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")}
        for channel in channels:
            if channel.role in marked:
                node.parameterNode.SetNodeReferenceID(CHOSEN + channel.role, marked[channel.role].GetID())

    def devices(self):
        """Names of the devices that are there; none but the CPU before torch is installed."""
        from NetInversionLib import devices

        try:
            with slicer.util.WaitCursor():
                return devices.available()
        except ImportError:
            return ["cpu"]

    def problems(self, node, card):
        """All reasons why Apply can not be pressed, in words."""
        if node is None:
            return [_("Wait until the scene is open.")]
        if card is None:
            return [self.card(self.modelPath(node))[1]]
        return [*self._volumeProblems(node, card), *self._settingProblems(node, card)]

    def _volumeProblems(self, node, card):
        found, users = [], {}
        for channel in (*card.inputs, *card.outputs):
            volume = self.chosen(node, channel.role)
            if volume is None:
                found.append(_("Choose a volume for {channel}.").format(channel=channel.name))
                continue
            if volume in users:
                found.append(_("'{name}' is chosen for both {first} and {second}.").format(
                    name=volume.GetName(), first=users[volume], second=channel.name))
            users[volume] = channel.name
            try:
                mrml.grid_from_node(volume)
            except volumes.VolumeError as error:
                found.append(str(error))
        if not found:
            try:
                self.region(node, card)
            except ValueError as error:
                found.append(str(error))
        return found

    def _settingProblems(self, node, card):
        found = []
        starts = self._starts(node)
        if not starts:
            found.append(_("Choose at least one start: patient, zeros or noise."))
        if node.direction == Direction.WORST and not node.ball:
            found.append(_("For the worst input set the largest change (Advanced): without one the error has no limit."))
        if node.ball and (starts != ["patient"] or node.box or node.preset == Preset.SEED):
            found.append(_("A largest change (Advanced) needs the patient as the only start, no exact range, and the batched "
                           "optimiser."))
        if node.box and node.preset == Preset.SEED:
            found.append(_("The published optimiser has no exact range (Advanced): choose the batched one, or allow it to "
                           "leave the range."))
        if all(channel.role in node.locked.split(",") for channel in card.inputs):
            found.append(_("Every channel is kept as the patient's (Advanced): leave at least one free."))
        if node.secondModel:
            second, problem = self.card(node.secondModel)
            if second and [c.role for c in second.inputs + second.outputs] != [c.role for c in card.inputs + card.outputs]:
                problem = _("The second network (Advanced) takes or gives other images than the first.")
            found += [problem] if problem else []
        return found

    def _starts(self, node):
        choices = {"patient": node.startPatient, "zeros": node.startZeros, "noise": node.startNoise}
        return [start for start, wanted in choices.items() if wanted]

    def sliceCount(self, node, card):
        """How many slices the first chosen volume has, along the network's slice axis; 0 if none is chosen."""
        first = self.chosen(node, card.inputs[0].role) if card else None
        try:
            grid = mrml.grid_from_node(first)
        except volumes.VolumeError:
            return 0
        return grid.shape[volumes.axis_toward(grid, card.orientation[2])[0]]

    def region(self, node, card):
        """(k0, k1, j0, j1, i0, i1) in the first input's voxels, or None for all of it. VolumeError if it is outside."""
        grid = mrml.grid_from_node(self.chosen(node, card.inputs[0].role))
        if node.region == InputRegion.WHOLE:
            return None
        if node.region == InputRegion.ROI:
            if node.roiNode is None:
                raise volumes.VolumeError(_("Choose a region of interest, or place one in the views (Markups)."))
            return mrml.region_from_roi_node(node.roiNode, grid)
        axis = volumes.axis_toward(grid, card.orientation[2])[0]
        region = [bound for size in grid.shape for bound in (0, size)]
        if node.region == InputRegion.DISPLAYED:
            region[2 * axis:2 * axis + 2] = volumes.region_from_ras_points(grid, [displayedPoint()])[2 * axis:2 * axis + 2]
            return tuple(region)
        last = grid.shape[axis] - 1 if node.lastSlice < 0 else node.lastSlice
        if not node.firstSlice <= last < grid.shape[axis]:
            raise volumes.VolumeError(_("Choose slices between 0 and {last}, the first not after the last.").format(
                last=grid.shape[axis] - 1))
        region[2 * axis:2 * axis + 2] = node.firstSlice, last + 1
        return tuple(region)

    def requestFromParameterNode(self, node, card):
        """The job that the panel shows."""
        settings = dict(
            starts=self._starts(node), noise_seeds=node.noiseSeeds, direction=node.direction.name.lower(),
            ball=node.ball or None, above=node.above, below=node.below, box=node.box, max_evaluations=node.maxEvaluations,
            locked=[role for role in node.locked.split(",") if role in [channel.role for channel in card.inputs]],
            region=self.region(node, card), device=node.device, allow_cpu=node.allowCpu,
            memory_gb=node.memoryGb or None, validity=node.validity, knobs=node.knobs)
        if node.preset == Preset.SEED:
            settings.update(PUBLISHED)
        inputs, targets = ({channel.role: self.chosen(node, channel.role) for channel in channels}
                           for channels in (card.inputs, card.outputs))
        return self.request(inputs, targets, self.modelPath(node), node.maskNode, None, node.secondModel, **settings)

    # How long and how much, roughly

    def cost(self, node, card):
        """Voxels that will pass through the network, forwards and backwards, in all."""
        grid = mrml.grid_from_node(self.chosen(node, card.inputs[0].role))
        region = self.region(node, card) or [bound for size in grid.shape for bound in (0, size)]
        sizes = [high - low for low, high in zip(region[::2], region[1::2])]
        voxels = sizes[0] * sizes[1] * sizes[2]
        starts = len(self._starts(node)) + (node.noiseSeeds - 1) * node.startNoise
        evaluations = 2000 if node.preset == Preset.SEED else node.maxEvaluations
        slices = sizes[volumes.axis_toward(grid, card.orientation[2])[0]] if card.dimensions == 2 else 1
        knobs = 320 * min(1, 8 / slices) if node.knobs and node.direction == Direction.BEST else 0
        return voxels * (starts * (evaluations + 8 * node.validity) + knobs + 10)

    def estimateText(self, node, card):
        """Time and memory of the run in words; the time is learnt from earlier runs of the same network."""
        cost = self.cost(node, card)
        key = self._speedKey(card, node.device)
        known = qt.QSettings().value(key)
        seconds = 5 + cost * (float(known) if known else 4e-6)
        memory = node.memoryGb or 2
        text = _("Takes about {time} and at most {memory:.1f} GB of memory.").format(
            time=durationText(seconds), memory=0.5 + memory)
        return text if known else text + " " + _("(A first guess; after a run it is measured.)")

    def learnSpeed(self, card, device, cost, seconds):
        """Note how long a whole run took."""
        qt.QSettings().setValue(self._speedKey(card, device), f"{max(seconds - 5, 0.1) / max(cost, 1):.4g}")

    def _speedKey(self, card, device):
        name = "".join(letter if letter.isalnum() else "_" for letter in f"{card.name}_{card.version}_{device}")
        return f"IdealInput/SecondsPerVoxel/{name}"

    # Results in words and views

    def resultNodes(self, run):
        """The nodes of a run by their keys; empty if there is none."""
        nodes = slicer.mrmlScene.GetNodes() if run else ()
        return {node.GetAttribute(KEY): node for node in nodes if node.GetAttribute(RUN) == run}

    def startsOf(self, nodes, card):
        prefix = f"ideal {card.inputs[0].role} "
        return [key[len(prefix):] for key in nodes if key.startswith(prefix)]

    def summary(self, nodes):
        """One line per start: the error with the patient's input, and with the ideal one."""
        facts = json.loads(nodes["facts"].GetText()) if "facts" in nodes else {}
        table = nodes.get("error")
        if table is None:
            done, total = facts.get("images_done", 0), facts.get("images", 0)
            return _("<b>Incomplete</b>: the run was stopped with {done} of {total} images finished. Research use only."
                     ).format(done=done, total=total)
        units = table.GetColumnName(1).split("(")[-1].rstrip(")")
        errors = list(facts["error"].items())
        patient = errors[0][1]
        kind = _("ideal") if facts["settings"]["direction"] == "best" else _("worst")
        lines = [_("Mean error of the network's output with"),
                 _("- the patient's input: <b>{error:.1f} {units}</b>").format(error=patient, units=units)]
        for start, error in errors[1:]:
            lines.append(_("- the {kind} input (from {start}): <b>{error:.1f} {units}</b>, {share:.0f} %").format(
                kind=kind, start=start, error=error, units=units, share=100 * error / patient if patient else 100))
        lines.append(_("Network: {model}, research use only.").format(model=facts["model"]["name"]))
        return "<br>".join(lines)

    def showInViews(self, nodes, card, patient, start, channel, table):
        """Patient | ideal | change above error before | error after | table and plots, all on the same slice."""
        manager = slicer.app.layoutManager()
        if manager is None:
            return
        layout = manager.layoutLogic().GetLayoutNode()
        if not layout.IsLayoutDescription(LAYOUT):
            layout.AddLayoutDescription(LAYOUT, layoutDescription())
        manager.setLayout(LAYOUT)
        output = card.outputs[0].role
        ideal = nodes.get(f"ideal {channel} {start}")
        shown = (patient, ideal, nodes.get(f"change {channel} {start}"), nodes.get(f"error {output} patient's"),
                 nodes.get(f"error {output} {start}"))
        for index, volume in enumerate(shown):
            self._showSlice(manager.sliceWidget(f"IdealInput{index + 1}"), volume, ideal)
        if table in nodes:
            slicer.mrmlScene.GetSingletonNode("IdealInputTable", "vtkMRMLTableViewNode").SetTableNodeID(nodes[table].GetID())
        for tag, chart in (("IdealInputPlot1", "convergence"), ("IdealInputPlot2", f"spectrum {start}")):
            view = slicer.mrmlScene.GetSingletonNode(tag, "vtkMRMLPlotViewNode")
            view.SetPlotChartNodeID(nodes[chart].GetID() if chart in nodes else None)

    def _showSlice(self, widget, volume, framed):
        """Show a volume in a slice view, moved to where ``framed`` is; the views move together from then on."""
        logic, composite = widget.sliceLogic(), widget.mrmlSliceCompositeNode()
        composite.SetBackgroundVolumeID(volume.GetID() if volume is not None else None)
        composite.SetLinkedControl(1)
        if framed is not None:
            node = widget.mrmlSliceNode()
            node.RotateToVolumePlane(framed)
            logic.FitSliceToVolume(framed, *node.GetDimensions()[:2])
            logic.SnapSliceOffsetToIJK()

    # Sample data

    def addSample(self, ct=None, **options):
        """A small case for a first try: four slices of a CT and the Dixon images simulated from them, as nodes by role.

        The CT is a NetInversionLib Volume; default is Slicer's own sample CTChest, or ``ct/pelvis.nii.gz`` in the folder
        that NETINVERSION_DATA names. ``options``: of NetInversionLib.dixon.sample.
        """
        nodes = {}
        for role, volume in dixon.sample(ct or self._sampleCt(), **options).items():
            nodes[role] = node = mrml.volume_to_node(volume, None, role="ct" if role == "ct" else "input")
            node.SetAttribute(CHANNEL, role)
            if role.endswith("fraction"):
                node.GetDisplayNode().AutoWindowLevelOff()
                node.GetDisplayNode().SetWindowLevelMinMax(0, 1)
        slicer.util.setSliceViewerLayers(background=nodes["in_phase"], fit=True)
        return nodes

    def _sampleCt(self):
        folder = os.environ.get("NETINVERSION_DATA")
        if folder:
            return volumes.load(Path(folder) / "ct" / "pelvis.nii.gz")
        import SampleData

        node = SampleData.SampleDataLogic().downloadSample("CTChest")
        ct = mrml.volume_from_node(node)
        slicer.mrmlScene.RemoveNode(node)
        return ct


def displayedPoint():
    """RAS position (mm) of the centre of the slice that is displayed: the first of the module's views, or the red one."""
    manager = slicer.app.layoutManager()
    own = manager.layout == LAYOUT
    matrix = manager.sliceWidget("IdealInput1" if own else "Red").mrmlSliceNode().GetSliceToRAS()
    return [matrix.GetElement(row, 3) for row in range(3)]


def layoutDescription():
    """Five slice views, and a table and two plots behind tabs, as Slicer's layout XML."""
    def view(kind, tag, label, color=""):
        properties = f'<property name="viewlabel" action="default">{label}</property>'
        if kind == "Slice":
            properties += ('<property name="orientation" action="default">Axial</property>'
                           f'<property name="viewcolor" action="default">{color}</property>')
        return f'<view class="vtkMRML{kind}Node" singletontag="{tag}">{properties}</view>'

    slices = [f"<item>{view('Slice', f'IdealInput{index + 1}', *label)}</item>" for index, label in enumerate((
        ("Patient", "#6EB04B"), ("Ideal", "#6EB04B"), ("Change", "#EDD54C"), ("Error before", "#F34A33"),
        ("Error after", "#F34A33")))]
    tabs = "".join(f'<item name="{name}">{inside}</item>' for name, inside in (
        ("Table", view("TableView", "IdealInputTable", "T")), ("Convergence", view("PlotView", "IdealInputPlot1", "C")),
        ("Spectrum", view("PlotView", "IdealInputPlot2", "S"))))
    rows = ("".join(slices[:3]), "".join(slices[3:]) + f'<item><layout type="tab">{tabs}</layout></item>')
    return '<layout type="vertical" split="true">' + "".join(
        f'<item><layout type="horizontal" split="true">{row}</layout></item>' for row in rows) + "</layout>"


def curvePixels(curves, left, top, width, height):
    """(lines as pixels by name, labels as (text, x, y)) of a plot: logarithmic upwards where all values are above 0."""
    points = [point for line in curves.values() for point in line]
    if len(points) < 2:
        return {}, []
    log = min(y for _x, y in points) > 0
    scale = math.log10 if log else float
    high, low = scale(max(y for _x, y in points)), scale(min(y for _x, y in points))
    last = max(x for x, _y in points)

    def pixel(x, y):
        share = (high - scale(y)) / (high - low) if high > low else 0.5
        return left + round(width * x / max(last, 1)), top + 4 + round((height - 8) * share)

    labels = [("%.3g" % (10**high if log else high), 4, top + 12), ("%.3g" % (10**low if log else low), 4, top + height),
              ("0", left - 3, top + height + 16), ("%d" % last, left + width - 30, top + height + 16),
              (_("network evaluations"), left + width // 2 - 60, top + height + 16), (_("loss"), 4, top + height // 2)]
    return {name: [pixel(*point) for point in line] for name, line in curves.items()}, labels


def durationText(seconds):
    if seconds < 90:
        return _("{count} s").format(count=max(1, round(seconds)))
    if seconds < 5400:
        return _("{count} min").format(count=round(seconds / 60))
    return _("{count} h").format(count=round(seconds / 3600, 1))


#
# IdealInputTest
#


class IdealInputTest(ScriptedLoadableModuleTest):
    """A short run on a made-up image with the shipped network."""

    def setUp(self):
        slicer.mrmlScene.Clear(0)

    def runTest(self):
        self.setUp()
        self.test_idealInputErrsLess()

    def test_idealInputErrsLess(self):
        self.delayDisplay("Computing the ideal input of a small made-up image")
        path, card = next((p, c) for p, c in models.list_models().items() if not isinstance(c, models.ModelError))
        nodes = self.madeUpVolumes(card)
        output = IdealInputLogic().run([nodes[c.role] for c in card.inputs], [nodes[c.role] for c in card.outputs], path,
                                       max_evaluations=20, knobs=False, validity=False, device="cpu")
        errors = output.facts["error"]
        self.assertLess(errors["patient"], 0.8 * errors["patient's"])
        for key, node in output.nodes.items():
            if node.IsA("vtkMRMLScalarVolumeNode"):
                self.assertEqual(node.GetImageData().GetDimensions(), (24, 20, 2), key)
        self.delayDisplay("Test passed")

    def madeUpVolumes(self, card):
        """Two slices of smooth values within each channel's range."""
        import numpy as np

        k, j, i = np.mgrid[:2, :20, :24]
        nodes = {}
        for number, channel in enumerate((*card.inputs, *card.outputs), 1):
            high = channel.high if channel.high is not None else 1000.0
            share = 0.5 + 0.4 * np.sin(i * number / 7.0) * np.cos(j / 5.0 + k)
            nodes[channel.role] = slicer.util.addVolumeFromArray((channel.low + share * (high - channel.low)).astype("float32"))
            nodes[channel.role].SetSpacing(3.0, 3.0, 3.0)
        return nodes
