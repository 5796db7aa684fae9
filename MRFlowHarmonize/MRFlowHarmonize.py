"""The module MRFlow Harmonize: how would this MR image look on the scanner that the model knows?"""

import enum
import logging
import sys
from pathlib import Path
from typing import Annotated

import qt
import slicer
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleTest

# Installed, the library lies beside this file; in a source checkout, beside this file's folder.
for _folder in (Path(__file__).resolve().parents[1], Path(__file__).resolve().parent):
    if (_folder / "NetInversionLib").is_dir() and str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

from NetInversionLib import (
    jobs,  # noqa: E402
    models,  # noqa: E402
)
from NetInversionLib.core import steps  # noqa: E402
from NetInversionLib.core import volumes as core_volumes  # noqa: E402
from NetInversionLib.harmonize import reading  # noqa: E402
from NetInversionLib.harmonize.settings import Settings  # noqa: E402
from NetInversionLib.panel import (
    keyboard,  # noqa: E402
    logic,  # noqa: E402
    packages,  # noqa: E402
    panel,  # noqa: E402
    running,  # noqa: E402
    views,  # noqa: E402
)
from NetInversionLib.scene import (
    masks,  # noqa: E402
    read,  # noqa: E402
    write,  # noqa: E402
)
from NetInversionLib.scene import tables as scene_tables  # noqa: E402

BATCH = "batch"  # node references of the parameter node: more volumes to harmonize
SECONDS_PER_VOXEL = 1.6e-6  # on the machine that NetInversionLib.jobs.speed speaks of
LAYOUT = 4867  # identifier of the layout
SAMPLE = "MRFlowHarmonizeBrain"
SAMPLE_NODE = "MNI152 T1 brain (simulated scanner)"
# What the third view can show: keys of images, in words
MAPS = {
    "change": _("Change"),
    "multiplicative field": _("Multiplicative field"),
    "additive field": _("Additive field"),
}
COLORS = {
    "accepted": "#cdebd0",
    "flagged": "#ffe9a8",
    "refused": "#f6c4bf",
}  # behind the verdict, with dark letters

#
# MRFlowHarmonize
#


class MRFlowHarmonize(ScriptedLoadableModule):
    """Title, help, thanks and sample data of the module."""

    def __init__(self, parent):
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


def registerSampleData():
    """Offer the module's sample in the Sample Data module."""
    import SampleData

    folder = Path(__file__).resolve().parent / "Resources" / "Icons"
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="NetInversion",
        sampleName=SAMPLE,
        uris=(
            "https://raw.githubusercontent.com/nilearn/nilearn/a5fa8b96e3765dccd2a20005aead0c4229fa7653/nilearn/datasets/data/"
            "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
        ),
        fileNames="mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz",
        nodeNames="MNI152 T1 brain",
        checksums="SHA256:421a10e872fd6cadae7f61d358dffbcc1795a497d61ee76c5dda2503e1a1e9e6",
        customDownloader=lambda source: MRFlowHarmonizeLogic().addSample(),
        thumbnailFileName=str(folder / "MRFlowHarmonizeSample.png"),
    )


#
# MRFlowHarmonizeParameterNode
#


class Mode(enum.Enum):
    ANATOMY_SAFE, PUBLISHED, NO_FLOW = range(3)
    SEED = PUBLISHED  # its name in scenes of older versions

    def label(self):
        return [
            _("Anatomy-safe (recommended)"),
            _("Free-form, as published"),
            _("Free-form without the flow"),
        ][self.value]

    def key(self):
        """As NetInversionLib.harmonize.Settings has it."""
        return self.name.lower().replace("_", "-")


class OutputRange(enum.Enum):
    NATIVE, TARGET = range(2)

    def label(self):
        return [_("As the source's"), _("As the target scanner's")][self.value]


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


class MRFlowHarmonizeWidget(panel.ModulePanel):
    """The panel. It shows and hands on; what is computed, the logic's request says and a job runs.

    A batch is one run after the other: ``_ends`` has name and end ("done", "failed", "stopped"; ""
    before) of each volume, ``_waiting`` place there and node of those still to come, ``_place`` is
    that of the one whose turn it is.
    """

    APPLY_TIP = _("Harmonize the source, and the volumes ticked below it.")
    CURVE_LABELS = (_("iteration"), _("correlation"))

    def __init__(self, parent=None):
        self._waiting, self._ends, self._place = [], [], 0
        self._boxes = {}  # identifier of a volume to its check box
        panel.ModulePanel.__init__(self, parent)

    def setup(self):
        self.setupPanel(MRFlowHarmonizeLogic())
        ui = self.ui
        ui.maskSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._onMaskChosen)
        for selector in (ui.shownMapSelector, ui.shownTableSelector):
            selector.connect("activated(int)", self._onShown)
        ui.overlayCheckBox.connect("clicked(bool)", self._onShown)
        ui.showButton.connect("clicked(bool)", self.showResult)
        self.addObserver(slicer.mrmlScene, slicer.vtkMRMLScene.NodeAddedEvent, self._onNodeAdded)
        self.initializeParameterNode()

    def initializeParameterNode(self):
        panel.ModulePanel.initializeParameterNode(self)
        self.logic.chooseSample(self._parameterNode)

    # What the user chooses and connectGui does not know

    def _onMaskChosen(self, node):
        self.setValues(maskNode=node)

    def _onTicked(self, state):
        if not self._writing and self._parameterNode is not None:
            self.logic.setBatch(
                self._parameterNode,
                [identifier for identifier, box in self._boxes.items() if box.checked],
            )

    def _onNodeAdded(self, caller, event):
        if self._going is None:  # else at the run's end: a result adds many
            self.refresh()

    def _onShown(self, *_arguments):
        ui = self.ui
        keys = [s.itemData(s.currentIndex) for s in (ui.shownMapSelector, ui.shownTableSelector)]
        self.setValues(
            shownMap=keys[0] or "change",
            shownTable=keys[1] or "verdict",
            overlay=ui.overlayCheckBox.checked,
        )
        self.showResult()

    # What the panel shows

    def showChoices(self):
        node, ui = self._parameterNode, self.ui
        ui.sourceSelector.setCurrentNode(
            node.sourceVolume
        )  # a scene that was loaded comes with its own
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

    def _showBatch(self):
        """A check box for each of the scene's volumes that can be ticked; they are made anew only
        for other volumes.
        """
        offered = {
            volume.GetID(): volume.GetName()
            for volume in self.logic.batchVolumes(self._parameterNode)
        }
        layout = self.ui.batchWidget.layout()
        if {identifier: box.text for identifier, box in self._boxes.items()} != offered:
            for box in self._boxes.values():
                layout.removeWidget(box)
                box.hide()  # at once; it is deleted when the event loop runs
                box.deleteLater()
            self._boxes = {identifier: qt.QCheckBox(name) for identifier, name in offered.items()}
            for box in self._boxes.values():
                box.connect("toggled(bool)", self._onTicked)
                layout.addWidget(box)
            keyboard.visit_after(self.ui.strengthSlider, list(self._boxes.values()))
        for widget in (self.ui.batchLabel, self.ui.batchGroupBox):
            widget.setVisible(bool(offered))
        chosen = {volume.GetID() for volume in self.logic.batch(self._parameterNode)}
        for identifier, box in self._boxes.items():
            box.checked = identifier in chosen

    def problems(self):
        return self.logic.problems(self._parameterNode, self._card)

    def estimate(self):
        return self.logic.estimateText(self._parameterNode, self._card)

    # A run, or several one after the other

    def onApplyButton(self):
        if self._going is None:
            sources = self.logic.sources(self._parameterNode)
            self._waiting, self._ends = (
                list(enumerate(sources)),
                [[source.GetName(), ""] for source in sources],
            )
        else:
            self._waiting = []  # Cancel ends the batch
        panel.ModulePanel.onApplyButton(self)

    def prepareRun(self):
        node = self._parameterNode
        self._place, source = self._waiting.pop(0)
        return running.Run(
            self.logic.stepsFromParameterNode(node, source),
            self._card,
            {"source": source},
            [node.maskNode] if node.maskNode is not None else [],
            self.logic.cost(node, source),
            node.device,
        )

    def _cancelTip(self):
        """There is no intermediate result that could be kept."""
        if len(self._ends) > 1:
            return _(
                "Stop the batch. Nothing is kept of this volume, those after it are left out, and"
                " earlier results stay."
            )
        return _("Stop. Nothing is kept of this run.")

    def _onProgress(self, fraction, message):
        if len(self._ends) > 1:
            message = _("{number} of {count}, {name}: {message}").format(
                number=self._place + 1,
                count=len(self._ends),
                name=self._ends[self._place][0],
                message=message,
            )
        panel.ModulePanel._onProgress(self, fraction, message)

    def _onFinished(self, result, message):
        if result is not None:
            message += " " + reading.verdict_text(result.facts)
            if result.facts.get("verdict") == "refused":
                self._going.cost = 0  # it took no time that could be learnt from
        panel.ModulePanel._onFinished(self, result, message)

    def _conclude(self, message, details=None):
        batch = len(self._ends) > 1
        if batch:
            end = self._ends[self._place]
            end[1] = (
                "failed" if details is not None else "done" if self._going.written else "stopped"
            )
            message = f"{end[0]}: {message}"
            if details:
                logging.error("%s\n%s", message, details)
            details = None  # a dialog would hold the others up
        panel.ModulePanel._conclude(self, message, details)
        if self._waiting:
            qt.QTimer.singleShot(0, self._next)
        elif batch:
            self.say(reading.batch_text(self._ends))

    def _next(self):
        """Start the next volume of the batch that is still there; without any, the batch is over."""
        self._waiting = [
            (place, node) for place, node in self._waiting if node.GetScene() is not None
        ]
        if self._going is not None or self._parameterNode is None:
            return
        if self._waiting:
            self._start(self.prepareRun())
        elif self._ends:
            self.say(reading.batch_text(self._ends))

    def _abandon(self, message):
        self._waiting, self._ends = [], []
        panel.ModulePanel._abandon(self, message)

    # Results

    def showResults(self, nodes):
        """Verdict and choices of the run that the scene's parameter node names, if its nodes are
        still there.
        """
        node, ui = self._parameterNode, self.ui
        word, text = self.logic.summary(nodes)
        ui.verdictLabel.setText(text)
        ui.verdictLabel.setStyleSheet(
            f"background-color: {COLORS[word]}; color: #202020" if word in COLORS else ""
        )
        tables = {
            key: scene_tables.title_of(n) for key, n in nodes.items() if n.IsA("vtkMRMLTableNode")
        }
        for selector, entries, chosen in (
            (
                ui.shownMapSelector,
                {key: label for key, label in MAPS.items() if key in nodes},
                node.shownMap,
            ),
            (ui.shownTableSelector, tables, node.shownTable),
        ):
            if {
                selector.itemData(i): selector.itemText(i) for i in range(selector.count)
            } != entries:
                selector.clear()
                for key, label in entries.items():
                    selector.addItem(label, key)
            selector.setCurrentIndex(max(0, selector.findData(chosen)))
            selector.enabled = selector.count > 0
        ui.overlayCheckBox.enabled = ui.shownMapSelector.enabled
        ui.overlayCheckBox.checked = node.overlay

    def showSteps(self):
        """Source beside result in the views, with the chosen map, the plots and the chosen table."""
        node = self._parameterNode
        nodes = self.logic.resultNodes(node.run)
        if nodes:
            yield from self.logic.showInViews(nodes, node.shownMap, node.shownTable, node.overlay)


#
# MRFlowHarmonizeLogic
#


class MRFlowHarmonizeLogic(logic.ModuleLogic):
    """Harmonizes volume nodes; needs no panel. In Slicer's Python console:

    logic = MRFlowHarmonizeLogic() output = logic.run(sourceNode) output.facts["verdict"],
    output.nodes["harmonized"], output.tables["summary"], output.charts["tone curve"]
    """

    TITLE = _("MRFlow Harmonize")
    TASK = models.HARMONIZATION
    REPORT = "harmonize.report"
    REPORT_NEEDS_SOURCE = True
    PARAMETERS = MRFlowHarmonizeParameterNode

    # A run

    def run(self, source, mask=None, model=None, progress=None, **settings):
        """Harmonize, here and now, and add the results to the scene.

        :param source: scalar volume node with an MR image. :param mask: label map, segmentation or
        scalar volume (above 0) that covers the brain; None if it was extracted. :param model: model
        file; default the first shipped one. :param progress:
        NetInversionLib.core.progress.Progress. :param settings: fields of
        NetInversionLib.harmonize.Settings: mode, strength, output_range, baselines, ... :return:
        see ``addResult``. A refused volume has facts and the table "verdict" only. Raises
        ValueError with what to do if the image, the mask, the model or a setting can not be used;
        nothing is added then.
        """
        packages.ensure_packages(self.TITLE)
        return self.addResult(
            jobs.run_here(self.request(source, mask, model, **settings), progress),
            source,
            {"source": source},
        )

    def request(self, *arguments, **settings):
        """The same as data, for NetInversionLib.jobs.run_here or qtjobs.QtJob (parameters: see
        ``run``).
        """
        return steps.finish(self.requestSteps(*arguments, **settings))

    def requestSteps(self, source, mask=None, model=None, **settings):
        """Steps whose value is the request: reading large volumes takes its time."""
        Settings.from_json(settings)  # raises before anything is read
        model = model or next(iter(self.models()), None)
        if model is None:
            raise models.ModelError(_("No model for harmonization is there; name a model file."))
        images = {"source": (yield from read.read_volume(source))}
        if mask is not None:
            images["mask"] = yield from self._readMask(mask, images["source"])
        return jobs.Request("harmonize", images, {"model": str(model)}, settings)

    def _readMask(self, mask, image):
        if mask.IsA("vtkMRMLScalarVolumeNode") and not mask.IsA("vtkMRMLLabelMapVolumeNode"):
            return (yield from read.read_volume(mask))
        return image.with_array(masks.mask_from_node(mask, image).view("uint8"), mask.GetName())

    def shownAs(self, result, inputs):
        """In its own intensities the result is shown with the source's window."""
        native = result.facts.get("settings", {}).get("output_range") == "native"
        return {"harmonized": inputs.get("source")} if native else {}

    # What the panel asks

    def batch(self, node):
        """The further volumes that are ticked."""
        references = range(node.parameterNode.GetNumberOfNodeReferences(BATCH))
        volumes = (node.parameterNode.GetNthNodeReference(BATCH, index) for index in references)
        return [
            volume for volume in volumes if volume is not None and volume is not node.sourceVolume
        ]

    def setBatch(self, node, identifiers):
        wasModifying = node.parameterNode.StartModify()
        node.parameterNode.RemoveNodeReferenceIDs(BATCH)
        for identifier in identifiers:
            node.parameterNode.AddNodeReferenceID(BATCH, identifier)
        node.parameterNode.EndModify(wasModifying)

    def batchVolumes(self, node):
        """The scene's volumes that could be ticked: neither the source, nor the mask, nor results."""
        return [
            volume
            for volume in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
            if volume.GetClassName() == "vtkMRMLScalarVolumeNode"
            and volume is not node.sourceVolume
            and volume is not node.maskNode
            and not volume.GetAttribute("MRFlowHarmonize.key")
            and not volume.GetHideFromEditors()
        ]

    def sources(self, node):
        return [node.sourceVolume, *self.batch(node)]

    def chooseSample(self, node):
        """If no volume is chosen yet, choose the module's sample, if it was loaded."""
        if node.sourceVolume is None:
            node.sourceVolume = slicer.mrmlScene.GetFirstNodeByName(SAMPLE_NODE)

    def isFreeForm(self, node):
        return node.mode != Mode.ANATOMY_SAFE or node.strength > 0

    def problems(self, node, card):
        """All reasons why Apply can not be pressed, in words."""
        if node is None:
            return [_("Wait until the scene is open.")]
        if card is None:
            return [self.card(self.modelPath(node))[1]]
        if node.sourceVolume is None:
            return [_("Choose a source volume.")]
        found = []
        if node.maskNode is node.sourceVolume:
            found.append(
                _("'{name}' is both source and mask: choose another mask, or none.").format(
                    name=node.sourceVolume.GetName()
                )
            )
        if node.maskNode is not None and self.batch(node):
            found.append(
                _(
                    "A mask belongs to one volume: choose no mask, or take the ticks off the"
                    " volumes under Batch."
                )
            )
        try:
            read.grid_from_node(node.sourceVolume)
            Settings.from_json(self.settings(node))
        except ValueError as error:
            found.append(str(error))
        return found

    def settings(self, node):
        """The fields of NetInversionLib.harmonize.Settings that the panel shows."""
        orientations = [name for name in ("axial", "coronal", "sagittal") if getattr(node, name)]
        safe = node.mode == Mode.ANATOMY_SAFE
        return dict(
            mode=node.mode.key(),
            strength=node.strength if safe else 0.0,
            iterations=node.iterations,
            alpha=node.alpha,
            beta_edges=node.betaEdges,
            beta_similarity=node.betaSimilarity,
            orientations=orientations,
            output_range=node.outputRange.name.lower(),
            baselines=node.baselines,
            force=node.force,
            device=node.device,
        )

    def stepsFromParameterNode(self, node, source):
        """Steps whose value is the request that the panel shows, for one of its volumes."""
        return self.requestSteps(source, node.maskNode, self.modelPath(node), **self.settings(node))

    def cost(self, node, source):
        """Voxels of the source, each as often as it is looked at; 0 if it can not be read."""
        try:
            grid = read.grid_from_node(source)
        except core_volumes.VolumeError:
            return 0.0
        size = grid.shape[0] * grid.shape[1] * grid.shape[2]
        orientations = node.axial + node.coronal + node.sagittal
        found = (
            1 if node.mode == Mode.ANATOMY_SAFE else 0.35
        )  # the change itself takes most of the time
        freeForm = 0.04 * node.iterations * orientations if self.isFreeForm(node) else 0
        return size * (found + freeForm + 1.3 * node.baselines)

    def estimateText(self, node, card):
        """Time of the run, or of the whole batch, in words; it is learnt from earlier runs of the
        same model.
        """
        seconds, known = 0, True
        for source in self.sources(node):
            more, known = self.secondsFor(
                card, node.device, self.cost(node, source), SECONDS_PER_VOXEL
            )
            seconds += more
        return self.timeText(seconds, known, node.device)

    # Results in words

    def summary(self, nodes):
        """(verdict, HTML): the verdict and the answer, the reasons, and what changed in figures."""
        return reading.summary(self.facts(nodes), self.tables(nodes))

    def runLabel(self, nodes):
        """A result in a few words: of which image, and the verdict."""
        facts = self.facts(nodes)
        if not facts:
            return logic.ModuleLogic.runLabel(self, nodes)
        return f"{facts.get('source', self.TITLE)} ({facts.get('verdict', _('incomplete'))})"

    # Results in views

    def showInViews(self, nodes, shownMap="change", table="verdict", overlay=False):
        """Steps that show source | result | map above histograms | tone curve | table, on one
        slice.
        """
        source, result, change = self.sourceOf(nodes), nodes.get("harmonized"), nodes.get("change")
        shownMap = shownMap if shownMap in nodes else "change"
        shown = nodes.get(shownMap)
        rows = [
            [
                views.Slice("MRFlowHarmonize1", _("Source"), source),
                views.Slice(
                    "MRFlowHarmonize2", _("Harmonized"), result, shown if overlay else None, 0.5
                ),
                views.over("MRFlowHarmonize3", MAPS[shownMap], source, shown),
            ],
            [
                views.Plot("MRFlowHarmonizePlot1", nodes.get("histograms")),
                views.Plot(
                    "MRFlowHarmonizePlot2", nodes.get("tone curve") or nodes.get("similarity")
                ),
                views.Table("MRFlowHarmonizeTable", nodes.get(table) or nodes.get("verdict")),
            ],
        ]
        yield from views.show(LAYOUT, rows, change, source or result)

    # Sample data

    def addSample(self, brain=None):
        """A brain as another scanner might have shown it, for a first try: the node.

        The brain is a NetInversionLib Volume without skull; default is the template that the Sample
        Data module downloads.
        """
        from NetInversionLib.harmonize import simulated_scanners

        node = write.volume_to_node(
            simulated_scanners.sample(brain or self._sampleBrain()), SAMPLE_NODE, role="input"
        )
        slicer.util.setSliceViewerLayers(background=node, fit=True)
        return node

    def _sampleBrain(self):
        import SampleData

        node = SampleData.SampleDataLogic().downloadSample(SAMPLE)
        brain = read.volume_from_node(node)
        slicer.mrmlScene.RemoveNode(node)
        return brain


#
# MRFlowHarmonizeTest
#


class MRFlowHarmonizeTest(ScriptedLoadableModuleTest):
    """A short run on a made-up image with the shipped model."""

    def setUp(self):
        slicer.mrmlScene.Clear(0)

    def runTest(self):
        self.setUp()
        self.test_anatomyIsKept()

    def test_anatomyIsKept(self):
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

    def madeUpVolume(self):
        """A brain of three nested ellipsoids."""
        import numpy as np

        k, j, i = np.mgrid[:40, :48, :40]
        radius = np.sqrt(((k - 19.5) / 17) ** 2 + ((j - 23.5) / 21) ** 2 + ((i - 19.5) / 16) ** 2)
        image = np.select([radius > 1, radius > 0.8, radius > 0.3], [0, 500, 850], 250)
        image += (20 * np.sin(i + 2 * j + 3 * k) * (radius < 1)).astype(int)
        node = slicer.util.addVolumeFromArray(image.astype("float32"), name="Made up")
        node.SetSpacing(3.5, 3.5, 3.5)
        return node
