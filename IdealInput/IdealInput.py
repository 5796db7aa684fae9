"""The module Ideal Input: which input image would make this image-to-image network err least?"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import slicer
from slicer import vtkMRMLLabelMapVolumeNode, vtkMRMLMarkupsROINode, vtkMRMLSegmentationNode
from slicer.i18n import translate
from slicer.parameterNodeWrapper import Minimum, WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleTest

# Installed, the library lies beside this file; in a source checkout, beside this file's folder.
for _folder in (Path(__file__).resolve().parents[1], Path(__file__).resolve().parent):
    if (_folder / "NetInversionLib").is_dir() and str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

from IdealInputLib import channels, choices, own, views
from IdealInputLib.choices import Direction, Preset

from NetInversionLib import jobs, models
from NetInversionLib.core import steps
from NetInversionLib.core.keys import Key
from NetInversionLib.core.progress import Progress
from NetInversionLib.core.volumes import Volume
from NetInversionLib.ideal_input import dixon, reading
from NetInversionLib.ideal_input.settings import PRESETS
from NetInversionLib.models.card import Card, Channel, looked_at
from NetInversionLib.panel import lists, logic, packages, panel, placing, running, samples
from NetInversionLib.panel.channels import CHANNEL
from NetInversionLib.panel.choices import RegionChoice, show_region
from NetInversionLib.panel.words import tr as _
from NetInversionLib.scene import masks, read, write

SAMPLE = "IdealInputDixon"
Nodes = Mapping[str, Any] | Sequence[Any] | slicer.vtkMRMLNode | None
"""Volume nodes by channel role, or in the order of the model's card, or the only one."""

#
# IdealInput
#


class IdealInput(ScriptedLoadableModule):
    """Title, help, thanks and sample data of the module."""

    def __init__(self, parent: Any):
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


def registerSampleData() -> None:
    """Offer the module's sample in the Sample Data module."""
    picture = Path(__file__).resolve().parent / "Resources" / "Icons" / "IdealInputSample.png"
    samples.register(SAMPLE, picture, samples.ct_chest(), lambda: IdealInputLogic().addSample())


#
# IdealInputParameterNode
#


class InputRegion(RegionChoice):
    """Where the input may change."""

    WHOLE, DISPLAYED, SLICES, ROI = range(4)


@parameterNodeWrapper
class IdealInputParameterNode:
    """What the panel shows, kept in the scene. The volume of each channel is a node reference
    "channel.<role>".

    model - file name of a shipped model fromFile, modelFile - whether another model is used
    instead, and its path region, firstSlice, lastSlice, roiNode - where the input may change;
    lastSlice -1 is the last one maskNode - the input changes only where it is set locked - roles of
    the channels that stay the patient's, with commas between starts - where the search starts,
    likewise run - identifier of the result that
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
    starts: str = "patient"
    noiseSeeds: Annotated[int, WithinRange(1, 16)] = 1
    validity: bool = True
    knobs: bool = True
    tradeOff: bool = False
    optima: Annotated[int, WithinRange(0, 16)] = 0
    direction: Direction = Direction.BEST
    ball: Annotated[float, WithinRange(0, 1)] = 0.0
    preset: Preset = Preset.NEAR
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


class IdealInputWidget(channels.Channels):
    """The panel. It shows and hands on; what is computed, the logic's request says, a job runs."""

    APPLY_TIP = _("Compute the ideal input.")
    CURVE_LABELS = (_("network evaluations"), _("loss"))

    def setup(self) -> None:
        self.setupPanel(IdealInputLogic())
        ui = self.ui
        self._addStarts()
        ui.maskSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._onMaskChosen)
        ui.placeRegionButton.connect("clicked(bool)", self._onPlaceRegion)
        ui.showButton.connect("clicked(bool)", self.showResult)
        for selector in (ui.shownStartSelector, ui.shownChannelSelector, ui.shownTableSelector):
            selector.connect("activated(int)", self._onShown)
        self.initializeParameterNode()

    def initializeParameterNode(self) -> None:
        panel.ModulePanel.initializeParameterNode(self)
        self.logic.chooseMarkedVolumes(self._parameterNode, self._card)

    # What the user chooses and connectGui does not know

    def _onMaskChosen(self, node: slicer.vtkMRMLNode | None) -> None:
        self.setValues(maskNode=node)

    def _onPlaceRegion(self) -> None:
        node = self._parameterNode
        node.roiNode = placing.place_box(
            node.roiNode, _("Region"), *self.logic.boxInView(node, self._card)
        )
        node.region = InputRegion.ROI

    # What the panel shows

    def showChoices(self) -> None:
        node = self._parameterNode
        self.showSelectors()
        self.ui.maskSelector.setCurrentNode(node.maskNode)
        for role, box in self._locks.items():
            box.checked = role in node.locked.split(",")
        self.ui.noiseSeedsSpinBox.enabled = self._showStarts(node)
        for widget in (
            self.ui.evaluationsSpinBox,
            self.ui.boxCheckBox,
            self.ui.ballSpinBox,
            self.ui.aboveSpinBox,
            self.ui.belowSpinBox,
        ):
            widget.enabled = node.preset != Preset.PUBLISHED
        self.ui.placeRegionButton.enabled = self.logic.sliceCount(node, self._card) > 0
        show_region(self.ui, node.region, self.logic.sliceCount(node, self._card))

    def problems(self) -> list[str]:
        return self.logic.problems(self._parameterNode, self._card)

    def estimate(self) -> str:
        return self.logic.estimateText(self._parameterNode, self._card)

    def prepareRun(self) -> running.Run:
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

    def showResults(self, nodes: dict[str, slicer.vtkMRMLNode]) -> None:
        """Summary and choices of the run that the scene's parameter node names, if its nodes are
        still there.
        """
        self.ui.summaryLabel.setText(self.logic.summary(nodes))
        starts = {
            start: reading.start_words(start) for start in self.logic.startsOf(nodes, self._card)
        }
        channels = looked_at(self._card.inputs)
        for selector, entries in (
            (self.ui.shownStartSelector, starts),
            (self.ui.shownChannelSelector, channels),
            (self.ui.shownTableSelector, lists.table_titles(nodes)),
        ):
            lists.fill(selector, entries)
            selector.enabled = selector.count > 0

    def _onShown(self, index: int) -> None:
        self.showResult()

    def showSteps(self) -> steps.Steps:
        """Patient beside ideal in the views, with the chosen table and the curves."""
        nodes = self.logic.resultNodes(self._parameterNode.run)
        ui = self.ui
        chosen = [
            s.itemData(s.currentIndex)
            for s in (ui.shownStartSelector, ui.shownChannelSelector, ui.shownTableSelector)
        ]
        if nodes and self._card is not None:
            patient = nodes.get(Key("patient", chosen[1]))  # magnitudes and phases
            patient = patient or self.logic.chosen(self._parameterNode, chosen[1])
            yield from self.logic.showInViews(nodes, self._card, patient, *chosen)


#
# IdealInputLogic
#


class IdealInputLogic(choices.Choices, views.ResultViews):
    """Computes ideal inputs from volume nodes; needs no panel. In Slicer's Python console:

    logic = IdealInputLogic()
    output = logic.run([inPhaseNode, fatNode, waterNode], ctNode, starts=["patient", "zeros"])
    output.nodes["ideal in_phase patient"], output.tables["error"], output.charts["convergence"]
    """

    TITLE = _("Ideal Input")
    OWN_NETWORKS = True
    REPORT = "ideal_input.report"
    PARAMETERS = IdealInputParameterNode

    def getParameterNode(self) -> IdealInputParameterNode:
        """The scene's parameter node; one of an older version says its starts as today's do."""
        node = choices.Choices.getParameterNode(self)
        choices.take_older_starts(node.parameterNode)
        return node

    # A run

    def run(
        self,
        inputs: Nodes,
        target: Nodes,
        *,
        model: Any = None,
        mask: vtkMRMLLabelMapVolumeNode | vtkMRMLSegmentationNode | None = None,
        settings: Any = None,
        progress: Progress | None = None,
        **more: Any,
    ) -> Any:
        """Compute, here and now, and add the results to the scene.

        Args:
            inputs: Scalar volume nodes by channel role, or a list in the order of the model's card.
            target: What the network should give (CT); a dict or list if it gives several.
            model: Model file, or a network of your own: a torch.nn.Module, or any function of
                tensors (N, C, J, I) that gradients pass through. Default is the first shipped model
                that takes as many images.
            mask: Label map or segmentation outside of which the input stays as it is.
            settings: Fields of NetInversionLib.ideal_input.Settings: starts, max_evaluations,
                device, ...; each can also be given by its name.
            progress: What is told meanwhile.
            more: Single settings, and what else ``requestSteps`` takes.

        Returns:
            See ``addResult``.

        Raises:
            ValueError: An image, the model or a setting cannot be used; says what to do. Nothing is
                added then.
        """
        packages.ensure_packages(self.TITLE)
        chosen = {"model": model, "mask": mask, "settings": settings, "progress": progress}
        request = self.request(inputs, target, **chosen, **more)
        nodes = self._byRole(inputs, models.read_card(request.model_paths["network"]).inputs)
        return self.addResult(self.computed(request, progress), next(iter(nodes.values())), nodes)

    def requestSteps(  # type: ignore[override]  # says which inputs and choices
        self,
        inputs: Nodes,
        target: Nodes,
        *,
        model: Any = None,
        mask: vtkMRMLLabelMapVolumeNode | vtkMRMLSegmentationNode | None = None,
        settings: Any = None,
        progress: Progress | None = None,
        roi: vtkMRMLMarkupsROINode | None = None,
        secondModel: str | Path | None = None,
        otherInputs: Sequence[Nodes] = (),
        description: Any = None,
        **single: Any,
    ) -> steps.Steps:
        """Steps whose value is the request: reading large volumes takes its time.

        Args:
            inputs, target, model, mask, settings, progress: See ``run``.
            roi: Markups ROI node: the region, instead of the setting "region".
            secondModel: File of another network, on which the gain is tried.
            otherInputs: For each other patient their input volumes, as ``inputs``: the table of
                validity shows what error the images of other people make.
            description: Of a network of your own, as far as you like: see
                NetInversionLib.models.adopt.
            single: Settings by name, which count before ``settings``.
        """
        chosen = logic.settings_of(settings, single)
        if model is not None and not isinstance(model, (str, Path)):
            log = (progress or Progress()).log
            model = yield from own.adopted(model, description, inputs, target, log)
        model = model or self._modelFor(inputs)
        card = models.read_card(model)
        nodes = {**self._byRole(inputs, card.inputs), **self._byRole(target, card.outputs)}
        for number, others in enumerate(otherInputs, 1):
            nodes |= {
                f"other {number} {role}": node
                for role, node in self._byRole(others, card.inputs).items()
            }
        images = {}
        for role, node in nodes.items():
            images[role] = yield from read.read_volume(node)
        first = images[card.inputs[0].role]
        if mask is not None:
            images["mask"] = first.with_array(
                masks.mask_from_node(mask, first).view("uint8"), mask.GetName()
            )
        if roi is not None:
            chosen["region"] = read.region_from_roi_node(roi, first)
        paths = {"network": model, **({"second": secondModel} if secondModel else {})}
        return jobs.Request("ideal_input", images, paths, chosen)

    def _modelFor(self, inputNodes: Nodes) -> Path:
        for path, card in self.models().items():
            if len(card.inputs) == len(inputNodes):
                return path
        raise models.ModelError(
            f"No shipped model takes {len(inputNodes)} images; name a model file (model=...)."
        )

    def _byRole(self, nodes: Nodes, channels: Sequence[Channel]) -> dict[str, slicer.vtkMRMLNode]:
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
        if list(nodes) == [channel.name for channel in channels]:
            nodes = {channel.role: nodes[channel.name] for channel in channels}
        if set(nodes) != {channel.role for channel in channels}:
            raise models.ModelError(
                f"The network needs volumes for {wanted}, and got {', '.join(nodes)}."
            )
        return {channel.role: nodes[channel.role] for channel in channels}

    # Sample data

    def addSample(self, ct: Volume | None = None, **options: Any) -> dict[str, slicer.vtkMRMLNode]:
        """A small case for a first try: four slices of a CT and the Dixon images simulated from
        them, as nodes by role.

        The CT is a NetInversionLib Volume (K, J, I); default is Slicer's own sample CTChest, or
        ``ct/pelvis.nii.gz`` in the folder that NETINVERSION_DATA names. ``options``: of
        NetInversionLib.ideal_input.dixon.sample.
        """
        nodes = {}
        for role, volume in dixon.sample(ct or samples.sample_ct(), **options).items():
            nodes[role] = node = write.volume_to_node(
                volume, None, role="ct" if role == "ct" else "input"
            )
            node.SetAttribute(CHANNEL, role)
            if role.endswith("fraction"):
                node.GetDisplayNode().AutoWindowLevelOff()
                node.GetDisplayNode().SetWindowLevelMinMax(0, 1)
        slicer.util.setSliceViewerLayers(background=nodes["in_phase"], fit=True)
        return nodes


#
# IdealInputTest
#


class IdealInputTest(ScriptedLoadableModuleTest):
    """A short run on a made-up image with the shipped network."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear(0)

    def runTest(self) -> None:
        self.setUp()
        self.test_idealInputErrsLess()

    def test_idealInputErrsLess(self) -> None:
        self.delayDisplay("Computing the ideal input of a small made-up image")
        path, card = next(iter(IdealInputLogic().models().items()))
        nodes = self.madeUpVolumes(card)
        output = IdealInputLogic().run(
            [nodes[c.role] for c in card.inputs],
            [nodes[c.role] for c in card.outputs],
            model=path,
            settings={**PRESETS["free"], "knobs": False, "validity": False},
            max_evaluations=20,
            device="cpu",
        )
        errors = output.facts["error"]
        self.assertLess(errors["patient"], 0.8 * errors["own"])
        for key, node in output.nodes.items():
            if node.IsA("vtkMRMLScalarVolumeNode"):
                self.assertEqual(node.GetImageData().GetDimensions(), (24, 20, 2), key)
        self.delayDisplay("Test passed")

    def madeUpVolumes(self, card: Card) -> dict[str, slicer.vtkMRMLNode]:
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
