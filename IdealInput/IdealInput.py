"""The module Ideal Input: which input image would make this image-to-image network err least?"""

import enum
import os
import sys
from pathlib import Path
from typing import Annotated

import qt
import slicer
from slicer import (
    vtkMRMLLabelMapVolumeNode,
    vtkMRMLMarkupsROINode,
    vtkMRMLSegmentationNode,
)
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import Minimum, WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleTest,
)

# Installed, the library lies beside this file; in a source checkout, beside this file's folder.
for _folder in (Path(__file__).resolve().parents[1], Path(__file__).resolve().parent):
    if (_folder / "NetInversionLib").is_dir() and str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

from NetInversionLib import (
    jobs,  # noqa: E402
    models,  # noqa: E402
)
from NetInversionLib.core import (
    files,  # noqa: E402
    steps,  # noqa: E402
    volumes,  # noqa: E402
)
from NetInversionLib.ideal_input import (
    dixon,  # noqa: E402
    reading,  # noqa: E402
)
from NetInversionLib.ideal_input.settings import PRESETS  # noqa: E402
from NetInversionLib.panel import (
    keyboard,  # noqa: E402
    logic,  # noqa: E402
    packages,  # noqa: E402
    panel,  # noqa: E402
    placing,  # noqa: E402
    running,  # noqa: E402
    views,  # noqa: E402
)
from NetInversionLib.panel.texts import literal  # noqa: E402
from NetInversionLib.scene import (
    masks,  # noqa: E402
    read,  # noqa: E402
    write,  # noqa: E402
)
from NetInversionLib.scene import tables as scene_tables  # noqa: E402

CHANNEL = (  # attribute of a volume node: the channel it is, as sample data say it
    "NetInversion.channel"
)
CHOSEN = "channel."  # node references of the parameter node: the volume chosen for a channel
SECONDS_PER_VOXEL = (
    1.75e-6  # and evaluation, on the machine that NetInversionLib.jobs.speed speaks of
)
LAYOUT = 4866  # identifier of the layout; the number of the abstract that the method comes from
SAMPLE = "IdealInputDixon"

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
            "Finds the input images with which a trained image-to-image network (for example Dixon"
            " MR to synthetic CT) "
            "would err least, and shows how they differ from the patient's: what the network would"
            " have needed to see. "
            "<b>For research only, not for diagnosis or treatment.</b> The shipped network was"
            " trained on SIMULATED MR "
            "images. See the <a"
            ' href="https://github.com/NetInversion/SlicerNetInversion/blob/main/Resources/Docs/'
            'IdealInput.md">tutorial</a>.'
        )
        self.parent.acknowledgementText = _(
            'The method is that of A. P. Leynes and colleagues, <i>Visualizing the "ideal" input'
            " MRI for synthetic CT generation with a trained deep convolutional neural network</i>,"
            " ISMRM 2019, abstract 4866. Please cite it when you use this module.<br>The picture of"
            " the sample shows a CT of the TotalSegmentator dataset (Wasserthal et al., Radiology:"
            " Artificial Intelligence 2023;5:e230024, Apache-2.0) and an MR image simulated"
            " from it."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    """Offer the module's sample in the Sample Data module."""
    import SampleData

    folder = Path(__file__).resolve().parent / "Resources" / "Icons"
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="NetInversion",
        sampleName=SAMPLE,
        # Slicer wants a file even where customSample does the work: that of its own sample CTChest.
        uris=slicer.util.TESTING_DATA_URL
        + "SHA256/4507b664690840abb6cb9af2d919377ffc4ef75b167cb6fd0f747befdb12e38e",
        fileNames="CT-chest.nrrd",
        nodeNames="CTChest",
        checksums="SHA256:4507b664690840abb6cb9af2d919377ffc4ef75b167cb6fd0f747befdb12e38e",
        customDownloader=lambda source: IdealInputLogic().addSample(),
        thumbnailFileName=str(folder / "IdealInputSample.png"),
    )


#
# IdealInputParameterNode
#


class InputRegion(enum.Enum):
    WHOLE, DISPLAYED, SLICES, ROI = range(4)

    def label(self):
        return [_("Whole volume"), _("Displayed slice"), _("Some slices"), _("Region of interest")][
            self.value
        ]


class Direction(enum.Enum):
    BEST, WORST = range(2)

    def label(self):
        return [_("Best input (least error)"), _("Worst input (greatest error)")][self.value]


class Preset(enum.Enum):
    DEFAULT, PUBLISHED = range(2)
    SEED = PUBLISHED  # its name in scenes of older versions

    def label(self):
        return [_("Batched L-BFGS"), _("As published (fixed-step L-BFGS)")][self.value]


@parameterNodeWrapper
class IdealInputParameterNode:
    """What the panel shows, kept in the scene. The volume of each channel is a node reference
    "channel.<role>".

    model - file name of a shipped model fromFile, modelFile - whether another model is used
    instead, and its path region, firstSlice, lastSlice, roiNode - where the input may change;
    lastSlice -1 is the last one maskNode - the input changes only where it is set locked - roles of
    the channels that stay the patient's, with commas between run - identifier of the result that
    the panel shows The others are the fields of NetInversionLib.ideal_input.Settings; ball and
    memoryGb 0 mean none.
    """

    model: str
    fromFile: bool
    modelFile: str
    secondModel: str
    region: InputRegion = InputRegion.DISPLAYED
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
    ball: Annotated[float, WithinRange(0, 1)] = 0.0
    preset: Preset = Preset.DEFAULT
    maxEvaluations: Annotated[int, WithinRange(1, 100000)] = 200
    above: Annotated[float, WithinRange(0, 1e6)] = 10.0
    below: Annotated[float, WithinRange(0, 1e6)] = 10.0
    box: bool = False
    locked: str
    device: str = "auto"
    allowCpu: bool = True
    memoryGb: Annotated[float, WithinRange(0, 10000)] = 0.0
    worker: bool = True
    run: str


#
# IdealInputWidget
#


class IdealInputWidget(panel.ModulePanel):
    """The panel. It shows and hands on; what is computed, the logic's request says and a job runs."""

    APPLY_TIP = _("Compute the ideal input.")
    CURVE_LABELS = (_("network evaluations"), _("loss"))

    def __init__(self, parent=None):
        self._selectors = {}  # role to node selector
        self._locks = {}  # role to check box
        panel.ModulePanel.__init__(self, parent)

    def setup(self):
        self.setupPanel(IdealInputLogic())
        ui = self.ui
        ui.maskSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._onMaskChosen)
        ui.placeRegionButton.connect("clicked(bool)", self._onPlaceRegion)
        ui.showButton.connect("clicked(bool)", self.showResult)
        for selector in (ui.shownStartSelector, ui.shownChannelSelector, ui.shownTableSelector):
            selector.connect("activated(int)", self._onShown)
        self.initializeParameterNode()

    def initializeParameterNode(self):
        panel.ModulePanel.initializeParameterNode(self)
        self.logic.chooseMarkedVolumes(self._parameterNode, self._card)

    # What the user chooses and connectGui does not know

    def _onMaskChosen(self, node):
        self.setValues(maskNode=node)

    def _onPlaceRegion(self):
        node = self._parameterNode
        node.roiNode = placing.place_box(
            node.roiNode, _("Region"), *self.logic.boxInView(node, self._card)
        )
        node.region = InputRegion.ROI

    def _onVolumeChosen(self, role, node):
        if not self._writing and self._parameterNode is not None:
            self._parameterNode.parameterNode.SetNodeReferenceID(
                CHOSEN + role, node.GetID() if node else None
            )

    def _onLock(self, state):
        self.setValues(locked=",".join(role for role, box in self._locks.items() if box.checked))

    # What the panel shows

    def modelChanged(self):
        """One selector for each image that the network takes and gives, one lock for each that it
        takes.
        """
        locks = self.ui.locksWidget.layout()
        for selector in self._selectors.values():
            selector.setMRMLScene(
                None
            )  # a selector that waits for its deletion must not answer any more
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
        keyboard.visit_after(self.ui.modelFileEdit, list(self._selectors.values()))
        keyboard.visit_after(self.ui.boxCheckBox, list(self._locks.values()))

    def _addSelector(self, channel, label):
        selector = self._selectors[channel.role] = slicer.qMRMLNodeComboBox()
        selector.objectName = f"{channel.role}Selector"
        selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        selector.showChildNodeTypes = False  # label maps and colour volumes
        selector.addEnabled = selector.removeEnabled = False
        selector.noneEnabled = True
        selector.noneDisplay = _("Select a volume")
        selector.setMRMLScene(slicer.mrmlScene)
        selector.toolTip = literal(
            _("{channel}, in {units}").format(
                channel=channel.name, units=channel.units or _("no units")
            )
        )
        selector.connect(
            "currentNodeChanged(vtkMRMLNode*)",
            lambda node, role=channel.role: self._onVolumeChosen(role, node),
        )
        self.ui.inputsLayout.insertRow(
            2 + len(self._selectors), literal(label), selector
        )  # the model takes three rows

    def showChoices(self):
        node = self._parameterNode
        for role, selector in self._selectors.items():
            selector.setCurrentNode(self.logic.chosen(node, role))
        self.ui.maskSelector.setCurrentNode(node.maskNode)
        for role, box in self._locks.items():
            box.checked = role in node.locked.split(",")
        self.ui.noiseSeedsSpinBox.enabled = node.startNoise
        for widget in (
            self.ui.evaluationsSpinBox,
            self.ui.boxCheckBox,
            self.ui.ballSpinBox,
            self.ui.aboveSpinBox,
            self.ui.belowSpinBox,
        ):
            widget.enabled = node.preset == Preset.DEFAULT
        self.ui.placeRegionButton.enabled = self.logic.sliceCount(node, self._card) > 0
        self._showRegion()

    def _showRegion(self):
        node, ui = self._parameterNode, self.ui
        for widgets, region in (
            ((ui.slicesLabel, ui.slicesWidget), InputRegion.SLICES),
            ((ui.roiLabel, ui.roiSelector), InputRegion.ROI),
        ):
            for widget in widgets:
                widget.setVisible(node.region == region)
        count = self.logic.sliceCount(node, self._card)
        if count:
            ui.firstSliceSpinBox.maximum = ui.lastSliceSpinBox.maximum = count - 1

    def problems(self):
        return self.logic.problems(self._parameterNode, self._card)

    def estimate(self):
        return self.logic.estimateText(self._parameterNode, self._card)

    def prepareRun(self):
        node = self._parameterNode
        chosen = {role: self.logic.chosen(node, role) for role in self._selectors}
        return running.Run(
            self.logic.stepsFromParameterNode(node, self._card),
            self._card,
            chosen,
            [node.maskNode] if node.maskNode is not None else [],
            self.logic.cost(node, self._card),
            node.device,
        )

    # Results

    def showResults(self, nodes):
        """Summary and choices of the run that the scene's parameter node names, if its nodes are
        still there.
        """
        self.ui.summaryLabel.setText(self.logic.summary(nodes))
        starts = {
            start: reading.start_words(start) for start in self.logic.startsOf(nodes, self._card)
        }
        channels = {channel.role: channel.name for channel in self._card.inputs}
        tables = {
            key: scene_tables.title_of(node)
            for key, node in nodes.items()
            if node.IsA("vtkMRMLTableNode")
        }
        for selector, entries in (
            (self.ui.shownStartSelector, starts),
            (self.ui.shownChannelSelector, channels),
            (self.ui.shownTableSelector, tables),
        ):
            if [selector.itemData(i) for i in range(selector.count)] != list(entries):
                selector.clear()
                for key, text in entries.items():
                    selector.addItem(text, key)
            selector.enabled = selector.count > 0

    def _onShown(self, index):
        self.showResult()

    def showSteps(self):
        """Patient beside ideal in the views, with the chosen table and the curves."""
        nodes = self.logic.resultNodes(self._parameterNode.run)
        ui = self.ui
        chosen = [
            s.itemData(s.currentIndex)
            for s in (ui.shownStartSelector, ui.shownChannelSelector, ui.shownTableSelector)
        ]
        if nodes and self._card is not None:
            patient = self.logic.chosen(self._parameterNode, chosen[1])
            yield from self.logic.showInViews(nodes, self._card, patient, *chosen)


#
# IdealInputLogic
#


class IdealInputLogic(logic.ModuleLogic):
    """Computes ideal inputs from volume nodes; needs no panel. In Slicer's Python console:

    logic = IdealInputLogic()
    output = logic.run([inPhaseNode, fatNode, waterNode], ctNode, starts=["patient", "zeros"])
    output.nodes["ideal in_phase patient"], output.tables["error"], output.charts["convergence"]
    """

    TITLE = _("Ideal Input")
    REPORT = "ideal_input.report"
    PARAMETERS = IdealInputParameterNode

    # A run

    def run(
        self,
        inputNodes,
        targetNode,
        modelPath=None,
        maskNode=None,
        roi=None,
        secondModelPath=None,
        otherInputs=(),
        progress=None,
        **settings,
    ):
        """Compute, here and now, and add the results to the scene.

        :param inputNodes: scalar volume nodes by channel role, or a list in the order of the
        model's card. :param targetNode: what the network should give (CT); a dict or list if it
        gives several images. :param modelPath: model file; default the first shipped model that
        takes as many images. :param maskNode: label map or segmentation outside of which the input
        stays as it is. :param roi: markups ROI node: the region, instead of ``settings["region"]``.
        :param secondModelPath: another network, on which the gain is tried. :param otherInputs: for
        each other patient their input volumes, as ``inputNodes``: the table of validity shows what
        error
            the images of other people make.
        :param progress: NetInversionLib.core.progress.Progress. :param settings: fields of
        NetInversionLib.ideal_input.Settings: starts, max_evaluations, device, ... :return: see
        ``addResult``. Raises ValueError with what to do if an image, the model or a setting can not
        be used; nothing is added then.
        """
        packages.ensure_packages(self.TITLE)
        request = self.request(
            inputNodes,
            targetNode,
            modelPath,
            maskNode,
            roi,
            secondModelPath,
            otherInputs,
            **settings,
        )
        inputs = self._byRole(inputNodes, models.read_card(request.model_paths["network"]).inputs)
        return self.addResult(jobs.run_here(request, progress), next(iter(inputs.values())), inputs)

    def request(self, *arguments, **settings):
        """The same as data, for NetInversionLib.jobs.run_here or qtjobs.QtJob (parameters: see
        ``run``).
        """
        return steps.finish(self.requestSteps(*arguments, **settings))

    def requestSteps(
        self,
        inputNodes,
        targetNode,
        modelPath=None,
        maskNode=None,
        roi=None,
        secondModelPath=None,
        otherInputs=(),
        **settings,
    ):
        """Steps whose value is the request: reading large volumes takes its time."""
        modelPath = modelPath or self._modelFor(inputNodes)
        card = models.read_card(modelPath)
        nodes = {**self._byRole(inputNodes, card.inputs), **self._byRole(targetNode, card.outputs)}
        for number, others in enumerate(otherInputs, 1):
            nodes |= {
                f"other {number} {role}": node
                for role, node in self._byRole(others, card.inputs).items()
            }
        images = {}
        for role, node in nodes.items():
            images[role] = yield from read.read_volume(node)
        first = images[card.inputs[0].role]
        if maskNode is not None:
            images["mask"] = first.with_array(
                masks.mask_from_node(maskNode, first).view("uint8"), maskNode.GetName()
            )
        if roi is not None:
            settings["region"] = read.region_from_roi_node(roi, first)
        paths = {"network": modelPath, **({"second": secondModelPath} if secondModelPath else {})}
        return jobs.Request(
            "ideal_input", images, {key: str(path) for key, path in paths.items()}, settings
        )

    def _modelFor(self, inputNodes):
        for path, card in self.models().items():
            if len(card.inputs) == len(inputNodes):
                return path
        raise models.ModelError(
            f"No shipped model takes {len(inputNodes)} images; name a model file (modelPath)."
        )

    def _byRole(self, nodes, channels):
        """{role: node} in the card's order, from a dict, a list or one node."""
        if isinstance(nodes, slicer.vtkMRMLNode) or nodes is None:
            nodes = [nodes]
        wanted = ", ".join(f"{channel.role} ({channel.name})" for channel in channels)
        if len(nodes) != len(channels):
            raise models.ModelError(
                f"The network needs {len(channels)} volumes, {wanted}, and got {len(nodes)}; "
                "choose one for each, or another network."
            )
        if not isinstance(nodes, dict):
            return {channel.role: node for channel, node in zip(channels, nodes)}
        if set(nodes) != {channel.role for channel in channels}:
            raise models.ModelError(
                f"The network needs volumes for {wanted}, and got {', '.join(nodes)}."
            )
        return {channel.role: nodes[channel.role] for channel in channels}

    def shownAs(self, result, inputs):
        """Images are shown as the patient's of that channel, errors of one channel all as the
        patient's.
        """
        shown = {}
        for key in result.volumes:
            kind, role = (key.split(" ") + [""])[:2]
            shown[key] = f"error {role} patient's" if kind == "error" else inputs.get(role)
            if kind not in ("ideal", "output", "error"):
                del shown[key]
        return shown

    # What the panel asks

    def chosen(self, node, role):
        """The volume node chosen for a channel, or None."""
        return node.parameterNode.GetNodeReference(CHOSEN + role)

    def chooseMarkedVolumes(self, node, card):
        """If no volume is chosen yet, choose those that say which channel they are (sample data
        do).
        """
        channels = (*card.inputs, *card.outputs) if card else ()
        if any(self.chosen(node, channel.role) for channel in channels):
            return
        marked = {
            volume.GetAttribute(CHANNEL): volume
            for volume in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        }
        for channel in channels:
            if channel.role in marked:
                node.parameterNode.SetNodeReferenceID(
                    CHOSEN + channel.role, marked[channel.role].GetID()
                )

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
                found.append(
                    _("'{name}' is chosen for both {first} and {second}.").format(
                        name=volume.GetName(), first=users[volume], second=channel.name
                    )
                )
            users[volume] = channel.name
            try:
                read.grid_from_node(volume)
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
            found.append(
                _(
                    "For the worst input set the largest change (Advanced): without one the error"
                    " has no limit."
                )
            )
        if node.ball and (starts != ["patient"] or node.box or node.preset == Preset.PUBLISHED):
            found.append(
                _(
                    "A largest change (Advanced) needs the patient as the only start, no exact"
                    " range, and the batched optimiser."
                )
            )
        if node.box and node.preset == Preset.PUBLISHED:
            found.append(
                _(
                    "The published optimiser has no exact range (Advanced): choose the batched one,"
                    " or allow it to leave the range."
                )
            )
        if all(channel.role in node.locked.split(",") for channel in card.inputs):
            found.append(
                _("Every channel is kept as the patient's own (Advanced): leave at least one free.")
            )
        if node.secondModel:
            second, problem = self.card(self.secondPath(node))
            if second and not self._fits(second, card):
                problem = _(
                    "The second network (Advanced) takes or gives other images than the first."
                )
            found += [problem] if problem else []
        return found

    def _fits(self, second, card):
        """Whether a second network takes and gives the same images as the first."""
        return [c.role for c in second.inputs + second.outputs] == [
            c.role for c in card.inputs + card.outputs
        ]

    def secondModels(self, node, card):
        others = logic.ModuleLogic.secondModels(self, node, card)
        return {
            path: other for path, other in others.items() if card is None or self._fits(other, card)
        }

    def _starts(self, node):
        choices = {"patient": node.startPatient, "zeros": node.startZeros, "noise": node.startNoise}
        return [start for start, wanted in choices.items() if wanted]

    def sliceCount(self, node, card):
        """How many slices the first chosen volume has, along the network's slice axis; 0 if none is
        chosen.
        """
        first = self.chosen(node, card.inputs[0].role) if card else None
        try:
            grid = read.grid_from_node(first)
        except volumes.VolumeError:
            return 0
        return grid.shape[volumes.axis_toward(grid, card.orientation[2])[0]]

    def region(self, node, card):
        """(k0, k1, j0, j1, i0, i1) in the first input's voxels, or None for all of it. VolumeError
        if it is outside.
        """
        grid = read.grid_from_node(self.chosen(node, card.inputs[0].role))
        if node.region == InputRegion.WHOLE:
            return None
        if node.region == InputRegion.ROI:
            if node.roiNode is None:
                raise volumes.VolumeError(_("Choose a region of interest, or press 'Place a box'."))
            return read.region_from_roi_node(node.roiNode, grid)
        axis = volumes.axis_toward(grid, card.orientation[2])[0]
        region = [bound for size in grid.shape for bound in (0, size)]
        if node.region == InputRegion.DISPLAYED:
            region[2 * axis : 2 * axis + 2] = self._displayed(grid)[2 * axis : 2 * axis + 2]
            return tuple(region)
        last = grid.shape[axis] - 1 if node.lastSlice < 0 else node.lastSlice
        if not node.firstSlice <= last < grid.shape[axis]:
            raise volumes.VolumeError(
                _("Choose slices between 0 and {last}, the first not after the last.").format(
                    last=grid.shape[axis] - 1
                )
            )
        region[2 * axis : 2 * axis + 2] = node.firstSlice, last + 1
        return tuple(region)

    def _displayed(self, grid, whereInView=placing.slice_point):
        """The region of a voxel in the slice that is displayed: by the first of the module's views,
        or the red one.
        """
        own = slicer.app.layoutManager().layout == LAYOUT
        point = placing.point_in(grid, whereInView("IdealInput1" if own else "Red"))
        return volumes.region_from_ras_points(grid, [point])

    def boxInView(self, node, card):
        """(grid, region): half of the first volume's displayed slice each way, around the view's
        centre.
        """
        grid = read.grid_from_node(self.chosen(node, card.inputs[0].role))
        through = volumes.axis_toward(grid, card.orientation[2])[0]
        region = self._displayed(grid, placing.view_centre)
        for axis in {0, 1, 2} - {through}:
            half = (grid.shape[axis] + 1) // 2
            low = min(max(0, region[2 * axis] - half // 2), grid.shape[axis] - half)
            region = *region[: 2 * axis], low, low + half, *region[2 * axis + 2 :]
        return grid, region

    def stepsFromParameterNode(self, node, card):
        """Steps whose value is the request that the panel shows."""
        settings = dict(
            starts=self._starts(node),
            noise_seeds=node.noiseSeeds,
            direction=node.direction.name.lower(),
            ball=node.ball or None,
            above=node.above,
            below=node.below,
            box=node.box,
            max_evaluations=node.maxEvaluations,
            locked=[
                role
                for role in node.locked.split(",")
                if role in [channel.role for channel in card.inputs]
            ],
            region=self.region(node, card),
            device=node.device,
            allow_cpu=node.allowCpu,
            memory_gb=node.memoryGb or None,
            validity=node.validity,
            knobs=node.knobs,
        )
        if node.preset == Preset.PUBLISHED:
            settings.update({**PRESETS["published"], "starts": settings["starts"]})
        inputs, targets = (
            {channel.role: self.chosen(node, channel.role) for channel in channels}
            for channels in (card.inputs, card.outputs)
        )
        return self.requestSteps(
            inputs,
            targets,
            self.modelPath(node),
            node.maskNode,
            None,
            self.secondPath(node),
            **settings,
        )

    # How long and how much, roughly

    def cost(self, node, card):
        """Voxels that will pass through the network, forwards and backwards, in all."""
        grid = read.grid_from_node(self.chosen(node, card.inputs[0].role))
        region = self.region(node, card) or [bound for size in grid.shape for bound in (0, size)]
        sizes = [high - low for low, high in zip(region[::2], region[1::2])]
        voxels = sizes[0] * sizes[1] * sizes[2]
        starts = len(self._starts(node)) + (node.noiseSeeds - 1) * node.startNoise
        evaluations = 2000 if node.preset == Preset.PUBLISHED else node.maxEvaluations
        slices = (
            sizes[volumes.axis_toward(grid, card.orientation[2])[0]] if card.dimensions == 2 else 1
        )
        knobs = 320 * min(1, 8 / slices) if node.knobs and node.direction == Direction.BEST else 0
        return voxels * (starts * (evaluations + 8 * node.validity) + knobs + 10)

    def estimateText(self, node, card):
        """Time and memory of the run in words; the time is learnt from earlier runs of the same
        network.
        """
        seconds, known = self.secondsFor(
            card, node.device, self.cost(node, card), SECONDS_PER_VOXEL
        )
        memory = _("At most {memory:.1f} GB of memory.").format(memory=0.5 + (node.memoryGb or 2))
        text = f"{self.timeText(seconds, known, node.device)} {memory}"
        if node.region == InputRegion.DISPLAYED:
            text = (
                _("Only the displayed slice is searched; choose another region for more.")
                + " "
                + text
            )
        return text

    # Results in words and views

    def startsOf(self, nodes, card):
        prefix = f"ideal {card.inputs[0].role} "
        return [key[len(prefix) :] for key in nodes if key.startswith(prefix)]

    def summary(self, nodes):
        """The answer, and the errors that it rests on, as HTML."""
        return reading.summary(self.facts(nodes), self.tables(nodes))

    def showInViews(self, nodes, card, patient, start, channel, table):
        """Steps that show patient | ideal | change above error before | error after | table and
        plots, on one slice.
        """
        output = card.outputs[0].role
        worst = self.facts(nodes).get("settings", {}).get("direction") == "worst"
        kind = _("Worst") if worst else _("Ideal")
        change = nodes.get(f"change {channel} {start}")
        errors = [nodes.get(f"error {output} {name}") for name in ("patient's", start)]
        rows = [
            [
                views.Slice("IdealInput1", _("Patient's own input"), patient),
                views.Slice(
                    "IdealInput2",
                    _("{kind} input").format(kind=kind),
                    nodes.get(f"ideal {channel} {start}"),
                ),
                views.over(
                    "IdealInput3",
                    _("{kind} minus patient's own").format(kind=kind),
                    patient,
                    change,
                ),
            ],
            [
                views.Slice(
                    "IdealInput4", _("Error with patient's own input"), errors[0], color=views.MAP
                ),
                views.Slice(
                    "IdealInput5",
                    _("Error with {kind} input").format(kind=kind.lower()),
                    errors[1],
                    color=views.MAP,
                ),
                views.Tabs(
                    {
                        _("Table"): views.Table("IdealInputTable", nodes.get(table)),
                        _("Convergence"): views.Plot("IdealInputPlot1", nodes.get("convergence")),
                        _("Spectrum"): views.Plot(
                            "IdealInputPlot2", nodes.get(f"spectrum {start}")
                        ),
                    }
                ),
            ],
        ]
        yield from views.show(LAYOUT, rows, change, nodes.get(f"ideal {channel} {start}"))

    # Sample data

    def addSample(self, ct=None, **options):
        """A small case for a first try: four slices of a CT and the Dixon images simulated from
        them, as nodes by role.

        The CT is a NetInversionLib Volume; default is Slicer's own sample CTChest, or
        ``ct/pelvis.nii.gz`` in the folder that NETINVERSION_DATA names. ``options``: of
        NetInversionLib.ideal_input.dixon.sample.
        """
        nodes = {}
        for role, volume in dixon.sample(ct or self._sampleCt(), **options).items():
            nodes[role] = node = write.volume_to_node(
                volume, None, role="ct" if role == "ct" else "input"
            )
            node.SetAttribute(CHANNEL, role)
            if role.endswith("fraction"):
                node.GetDisplayNode().AutoWindowLevelOff()
                node.GetDisplayNode().SetWindowLevelMinMax(0, 1)
        slicer.util.setSliceViewerLayers(background=nodes["in_phase"], fit=True)
        return nodes

    def _sampleCt(self):
        folder = os.environ.get("NETINVERSION_DATA")
        if folder:
            return files.load(Path(folder) / "ct" / "pelvis.nii.gz")
        import SampleData

        node = SampleData.SampleDataLogic().downloadSample("CTChest")
        ct = read.volume_from_node(node)
        slicer.mrmlScene.RemoveNode(node)
        return ct


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
        path, card = next(iter(IdealInputLogic().models().items()))
        nodes = self.madeUpVolumes(card)
        output = IdealInputLogic().run(
            [nodes[c.role] for c in card.inputs],
            [nodes[c.role] for c in card.outputs],
            path,
            max_evaluations=20,
            knobs=False,
            validity=False,
            device="cpu",
        )
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
            nodes[channel.role] = slicer.util.addVolumeFromArray(
                (channel.low + share * (high - channel.low)).astype("float32")
            )
            nodes[channel.role].SetSpacing(3.0, 3.0, 3.0)
        return nodes
