"""The module MRFlow Harmonize: how would this MR image look on the scanner that the model knows?"""

import sys
from pathlib import Path
from typing import Annotated, Any

import slicer
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleTest

# Installed, the library lies beside this file; in a source checkout, beside this file's folder.
for _folder in (Path(__file__).resolve().parents[1], Path(__file__).resolve().parent):
    if (_folder / "NetInversionLib").is_dir() and str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

from MRFlowHarmonizeLib import choices, views
from MRFlowHarmonizeLib.choices import SAMPLE_NODE, Mode, OutputRange

from NetInversionLib import jobs, models
from NetInversionLib.core import steps
from NetInversionLib.core.progress import Progress
from NetInversionLib.core.results import Result
from NetInversionLib.core.volumes import Volume
from NetInversionLib.harmonize import reading
from NetInversionLib.harmonize.settings import Settings
from NetInversionLib.panel import batch, lists, logic, packages, panel, running, samples
from NetInversionLib.panel.words import tr as _
from NetInversionLib.scene import masks, read, write
from NetInversionLib.scene import tables as scene_tables

SAMPLE = "MRFlowHarmonizeBrain"
COLORS = {"accepted": "#cdebd0", "flagged": "#ffe9a8", "refused": "#f6c4bf"}
"""Behind the verdict, with dark letters."""

#
# MRFlowHarmonize
#


class MRFlowHarmonize(ScriptedLoadableModule):
    """Title, help, thanks and sample data of the module."""

    def __init__(self, parent: Any):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("MRFlow Harmonize")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Image Synthesis")]
        self.parent.dependencies = []
        self.parent.contributors = ["The NetInversion developers"]
        self.parent.helpText = _(
            "Shows an MR volume of any scanner as the scanner that a model knows would have shown"
            " it, with the anatomy "
            "untouched, and says how much changed, where, and whether to trust it. The model has"
            " seen images of the target "
            "scanner alone. <b>For research only, not for diagnosis or treatment.</b> See the "
            '<a href="https://github.com/NetInversion/SlicerNetInversion/blob/main/Resources/Docs/MRFlowHarmonize.md">'
            "tutorial</a>."
        )
        self.parent.acknowledgementText = _(
            "The free-form mode follows H. Jeong, D. U. Kang, J. Kim and J. Lee, <i>MRFlow</i>, an"
            " abstract of the ISMRM. Please cite it when you use this module.<br>The sample is the"
            " ICBM 152 nonlinear symmetric template, 2009a (copyright 1993-2009 Louis Collins,"
            " McConnell Brain Imaging Centre), as the nilearn project distributes it."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData() -> None:
    """Offer the module's sample in the Sample Data module."""
    picture = Path(__file__).resolve().parent / "Resources" / "Icons" / "MRFlowHarmonizeSample.png"
    source = samples.brain_template()
    samples.register(SAMPLE, picture, source, lambda: MRFlowHarmonizeLogic().addSample())


#
# MRFlowHarmonizeParameterNode
#


@parameterNodeWrapper
class MRFlowHarmonizeParameterNode:
    """What the panel shows, kept in the scene. More volumes of a batch are node references "batch".

    maskNode - nonzero inside the brain (or head) model - file name of a shipped model fromFile,
    modelFile - whether another model is used instead, and its path run - identifier of the result
    that the panel shows shownMap, shownTable, overlay - how it is shown: keys of an image and a
    table, and whether the image is laid over the result The others are the fields of
    NetInversionLib.harmonize.Settings.
    """

    sourceVolume: vtkMRMLScalarVolumeNode
    maskNode: vtkMRMLScalarVolumeNode | vtkMRMLSegmentationNode | None
    findBrain: bool = False
    model: str
    fromFile: bool
    modelFile: str
    mode: Mode = Mode.ANATOMY_SAFE
    strength: Annotated[float, WithinRange(0, 1)] = 0.0
    outputRange: OutputRange = OutputRange.NATIVE
    baselines: bool = False
    iterations: Annotated[int, WithinRange(1, 1000)] = 10
    alpha: Annotated[float, WithinRange(0, 0.99)] = 0.01
    betaEdges: Annotated[float, WithinRange(0, 100)] = 0.01
    betaSimilarity: Annotated[float, WithinRange(0, 100)] = 0.1
    axial: bool = True
    coronal: bool = True
    sagittal: bool = True
    force: bool = False
    device: str = "auto"
    worker: bool = True
    run: str
    shownMap: str = "change"
    shownTable: str = "verdict"
    overlay: bool = False


#
# MRFlowHarmonizeWidget
#


class MRFlowHarmonizeWidget(batch.BatchPanel):
    """The panel. It shows and hands on; what is computed, the logic's request says, a job runs."""

    APPLY_TIP = _("Harmonize the source, and the volumes ticked below it.")
    CURVE_LABELS = (_("iteration"), _("correlation"))

    def setup(self) -> None:
        self.setupPanel(MRFlowHarmonizeLogic())
        ui = self.ui
        ui.maskSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._onMaskChosen)
        for selector in (ui.shownMapSelector, ui.shownTableSelector):
            selector.connect("activated(int)", self._onShown)
        ui.overlayCheckBox.connect("clicked(bool)", self._onShown)
        ui.showButton.connect("clicked(bool)", self.showResult)
        ui.otherSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._onOtherChosen)
        ui.useChangeButton.connect("clicked(bool)", self._onUseChange)
        lists.fill(ui.waySelector, views.WAYS)
        ui.headMaskButton.connect("clicked(bool)", self._onHeadMask)
        self.addObserver(slicer.mrmlScene, slicer.vtkMRMLScene.NodeAddedEvent, self._onNodeAdded)
        self.initializeParameterNode()

    def initializeParameterNode(self) -> None:
        panel.ModulePanel.initializeParameterNode(self)
        self.logic.chooseSample(self._parameterNode)

    # What the user chooses and connectGui does not know

    def _onMaskChosen(self, node: slicer.vtkMRMLNode | None) -> None:
        self.setValues(maskNode=node)

    def _onHeadMask(self, clicked: bool = False) -> None:
        """Take the mask that is offered for a whole head, and run again."""
        source = self.logic.sourceOf(self.logic.resultNodes(self._parameterNode.run))
        if self._going is not None or source is None:
            return
        mask = slicer.mrmlScene.GetNodeByID(lists.chosen(self.ui.headMaskSelector))
        self.setValues(sourceVolume=source, maskNode=mask, findBrain=mask is None)
        if self.ui.applyButton.enabled:
            self.onApplyButton()
        else:
            self.say("\n".join(self.problems()))

    def _onShown(self, *_arguments: Any) -> None:
        ui = self.ui
        self.setValues(
            shownMap=lists.chosen(ui.shownMapSelector) or "change",
            shownTable=lists.chosen(ui.shownTableSelector) or "verdict",
            overlay=ui.overlayCheckBox.checked,
        )
        self.showResult()

    def _onOtherChosen(self, node: slicer.vtkMRMLNode | None) -> None:
        nodes = self.logic.resultNodes(self._parameterNode.run)
        self.ui.useChangeButton.enabled = node is not None and "facts" in nodes

    def _onUseChange(self, *_arguments: Any) -> None:
        ui, nodes = self.ui, self.logic.resultNodes(self._parameterNode.run)
        other = ui.otherSelector.currentNode()
        try:
            made = self.logic.useChange(nodes, other, lists.chosen(ui.waySelector))
        except ValueError as error:
            self.fail(str(error))
            return
        slicer.util.setSliceViewerLayers(background=made)
        self.say(_("{name} is in the scene.").format(name=made.GetName()))

    # What the panel shows

    def showChoices(self) -> None:
        node, ui = self._parameterNode, self.ui
        # A scene that was loaded comes with its own.
        ui.sourceSelector.setCurrentNode(node.sourceVolume)
        ui.maskSelector.setCurrentNode(node.maskNode)
        safe, freeForm = node.mode == Mode.ANATOMY_SAFE, self.logic.isFreeForm(node)
        ui.strengthSlider.enabled = safe
        for widget in (
            ui.iterationsSpinBox,
            ui.betaEdgesSpinBox,
            ui.betaSimilaritySpinBox,
            ui.orientationsWidget,
        ):
            widget.enabled = freeForm
        ui.alphaSpinBox.enabled = freeForm and node.mode != Mode.NO_FLOW
        self._showBatch()

    def problems(self) -> list[str]:
        return self.logic.problems(self._parameterNode, self._card)

    def estimate(self) -> str:
        return self.logic.estimateText(self._parameterNode, self._card)

    # A run, or several one after the other

    def batchFollows(self) -> Any:
        return self.ui.strengthSlider

    def batchText(self, ends: list[list[str]]) -> str:
        return reading.batch_text(ends)

    def prepareRun(self) -> running.Run:
        node = self._parameterNode
        source = self.nextSource()
        return running.Run(
            self.logic.stepsFromParameterNode(node, source),
            self._card,
            {"source": source},
            [node.maskNode] if node.maskNode is not None else [],
            self.logic.cost(node, source),
            node.device,
        )

    def _onFinished(self, result: Result | None, message: str) -> None:
        if result is not None:
            message += " " + reading.verdict_text(result.facts)
            if result.facts.get("verdict") == "refused":
                self._going.cost = 0  # it took no time that could be learnt from
        panel.ModulePanel._onFinished(self, result, message)

    # Results

    def showResults(self, nodes: dict[str, slicer.vtkMRMLNode]) -> None:
        """Verdict and choices of the run that the scene's parameter node names.

        A run whose nodes are gone is not shown.
        """
        node, ui = self._parameterNode, self.ui
        word, text = self.logic.summary(nodes)
        ui.verdictLabel.setText(text)
        ui.verdictLabel.setStyleSheet(
            f"background-color: {COLORS[word]}; color: #202020" if word in COLORS else ""
        )
        self._showHeadMasks(nodes)
        maps = {key: label for key, label in views.MAPS.items() if key in nodes}
        for selector, entries, chosen in (
            (ui.shownMapSelector, maps, node.shownMap),
            (ui.shownTableSelector, lists.table_titles(nodes), node.shownTable),
        ):
            lists.fill(selector, entries)
            selector.setCurrentIndex(max(0, selector.findData(chosen)))
            selector.enabled = selector.count > 0
        self._onOtherChosen(ui.otherSelector.currentNode())
        ui.overlayCheckBox.enabled = ui.shownMapSelector.enabled
        ui.overlayCheckBox.checked = node.overlay

    def _showHeadMasks(self, nodes: dict[str, slicer.vtkMRMLNode]) -> None:
        """Offer brain masks if the result is of a whole head."""
        offered = self.logic.headMasks(nodes)
        self.ui.headWidget.setVisible(bool(offered))
        lists.fill(self.ui.headMaskSelector, offered)

    def showSteps(self) -> steps.Steps:
        """Source beside result in the views, with the chosen map and table, and the plots."""
        node = self._parameterNode
        nodes = self.logic.resultNodes(node.run)
        if nodes:
            yield from self.logic.showInViews(nodes, node.shownMap, node.shownTable, node.overlay)


#
# MRFlowHarmonizeLogic
#


class MRFlowHarmonizeLogic(choices.Choices, views.ResultViews):
    """Harmonizes volume nodes; needs no panel. In Slicer's Python console:

    logic = MRFlowHarmonizeLogic()
    output = logic.run(sourceNode)
    output.facts["verdict"], output.nodes["harmonized"], output.tables["summary"]
    """

    TITLE = _("MRFlow Harmonize")
    TASK = models.HARMONIZATION
    REPORT = "harmonize.report"
    REPORT_NEEDS_SOURCE = True
    PARAMETERS = MRFlowHarmonizeParameterNode

    # A run

    def run(
        self,
        source: vtkMRMLScalarVolumeNode,
        *,
        model: str | Path | None = None,
        mask: slicer.vtkMRMLNode | None = None,
        settings: Any = None,
        progress: Progress | None = None,
        **single: Any,
    ) -> Any:
        """Harmonize, here and now, and add the results to the scene.

        Args:
            source: Scalar volume node with an MR image.
            model: Model file; default is the first shipped one.
            mask: Label map, segmentation or scalar volume (above 0) that covers the brain; None if
                it was extracted.
            settings: Fields of NetInversionLib.harmonize.Settings: mode, strength, output_range,
                baselines, ...; each can also be given by its name.
            progress: What is told meanwhile.
            single: Settings by name, which count before ``settings``.

        Returns:
            See ``addResult``. A refused volume has facts and the table "verdict" only.

        Raises:
            ValueError: The image, the mask, the model or a setting cannot be used; says what to do.
                Nothing is added then.
        """
        packages.ensure_packages(self.TITLE)
        request = self.request(source, model=model, mask=mask, settings=settings, **single)
        return self.addResult(jobs.run_here(request, progress), source, {"source": source})

    def requestSteps(  # type: ignore[override]  # says which inputs and choices
        self,
        source: slicer.vtkMRMLNode,
        *,
        model: str | Path | None = None,
        mask: slicer.vtkMRMLNode | None = None,
        settings: Any = None,
        progress: Progress | None = None,
        **single: Any,
    ) -> steps.Steps:
        """Steps whose value is the request: reading large volumes takes its time.

        Args:
            source, model, mask, settings, progress, single: See ``run``.
        """
        chosen = logic.settings_of(settings, single)
        Settings.from_json(chosen)  # raises before anything is read
        model = model or models.default_model(
            self.takes, _("No model for harmonization is there; name a model file.")
        )
        images = {"source": (yield from read.read_volume(source))}
        if mask is not None:
            images["mask"] = yield from self._readMask(mask, images["source"])
        return jobs.Request("harmonize", images, {"model": str(model)}, chosen)

    def _readMask(self, mask: slicer.vtkMRMLNode, image: Volume) -> steps.Steps:
        if mask.IsA("vtkMRMLScalarVolumeNode") and not mask.IsA("vtkMRMLLabelMapVolumeNode"):
            return (yield from read.read_volume(mask))
        return image.with_array(masks.mask_from_node(mask, image).view("uint8"), mask.GetName())

    # Sample data

    def addSample(self, brain: Volume | None = None) -> vtkMRMLScalarVolumeNode:
        """A brain as another scanner might have shown it, for a first try: the node.

        The brain is a NetInversionLib Volume (K, J, I) without skull; default is the template that
        the Sample Data module downloads.
        """
        from NetInversionLib.harmonize import simulated_scanners

        node = write.volume_to_node(
            simulated_scanners.sample(brain or samples.downloaded(SAMPLE)),
            SAMPLE_NODE,
            role="input",
        )
        slicer.util.setSliceViewerLayers(background=node, fit=True)
        return node


#
# MRFlowHarmonizeTest
#


class MRFlowHarmonizeTest(ScriptedLoadableModuleTest):
    """A short run on a made-up image with the shipped model."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear(0)

    def runTest(self) -> None:
        self.setUp()
        self.test_anatomyIsKept()

    def test_anatomyIsKept(self) -> None:
        self.delayDisplay("Harmonizing a small made-up image")
        import numpy as np

        source = self.madeUpVolume()
        output = MRFlowHarmonizeLogic().run(source, force=True, device="cpu")
        self.assertIn(output.facts["verdict"], ("accepted", "flagged"))
        harmonized = output.nodes["harmonized"]
        self.assertEqual(
            harmonized.GetImageData().GetDimensions(), source.GetImageData().GetDimensions()
        )
        air = slicer.util.arrayFromVolume(source) == 0
        self.assertFalse(np.any(slicer.util.arrayFromVolume(harmonized)[air]))
        knots = scene_tables.columns_of(output.tables["curve"])["output (scaled)"]
        self.assertTrue(
            all(a < b for a, b in zip(knots, knots[1:])), "the tone curve rises everywhere"
        )
        self.delayDisplay("Test passed")

    def madeUpVolume(self) -> vtkMRMLScalarVolumeNode:
        """A brain of three nested ellipsoids."""
        import numpy as np

        k, j, i = np.mgrid[:40, :48, :40]
        radius = np.sqrt(((k - 19.5) / 17) ** 2 + ((j - 23.5) / 21) ** 2 + ((i - 19.5) / 16) ** 2)
        image = np.select([radius > 1, radius > 0.8, radius > 0.3], [0, 500, 850], 250)
        image += (20 * np.sin(i + 2 * j + 3 * k) * (radius < 1)).astype(int)
        node = slicer.util.addVolumeFromArray(image.astype("float32"), name="Made up")
        node.SetSpacing(3.5, 3.5, 3.5)
        return node
