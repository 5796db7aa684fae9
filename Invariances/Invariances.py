"""The module Invariances: what may change in a CT image without a denoising network noticing?"""

import enum
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import qt
import slicer
import vtk
from slicer import vtkMRMLMarkupsFiducialNode, vtkMRMLMarkupsROINode, vtkMRMLScalarVolumeNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import Minimum, WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleTest

# Installed, the library lies beside this file; in a source checkout, beside this file's folder.
for _folder in (Path(__file__).resolve().parents[1], Path(__file__).resolve().parent):
    if (_folder / "NetInversionLib").is_dir() and str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

from NetInversionLib import jobs, models
from NetInversionLib.core import files, steps, volumes
from NetInversionLib.core.text import readable  # noqa: E402
from NetInversionLib.invariances import choices, reading
from NetInversionLib.invariances import settings as invariances_settings
from NetInversionLib.models import library
from NetInversionLib.panel import (
    logic,
    packages,
    panel,
    pictures,
    placing,  # noqa: E402
    running,
    views,  # noqa: E402
)
from NetInversionLib.scene import masks, results, write
from NetInversionLib.scene import read as scene_read
from NetInversionLib.scene import tables as scene_tables

PRESETS = {
    "cnn10": (1, 3, 5),
    "wganvgg": (1, 7, 13),
}  # numbers of the layers that the publications looked at
SEGMENTATION = "segmentation"  # node reference of the parameter node: a segmentation or a label map
LAYOUT = 12304  # identifier of the smallest layout, see showInViews. The number of the method's proceedings
LAYOUTS = range(LAYOUT, LAYOUT + 4)
READ_LAYERS = "?"  # item of the list of layers
SAMPLE = "InvariancesLowDoseCT"
SHOWN = "shown component"  # key of the image that shows a component
KINDS = ("samples", "proposals")  # keys of the browsed sequences that can be chosen
ANSWERS = "answers"  # key of the sequence that follows: what the network makes of each sample
CHANGES = (
    "shown change",
    "shown change of answer",
)  # keys of what the shown image and its answer differ by
SECONDS_PER_VOXEL = 4.6e-7  # forwards, on the machine that NetInversionLib.jobs.speed speaks of
NOISE_SLICES = 4  # of so many the noise is measured while the panel is used
LESION = "lesion"  # in the keys of the images of a nodule

#
# Invariances
#


class Invariances(ScriptedLoadableModule):
    """Title, help, thanks and sample data of the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Invariances")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Image Synthesis")]
        self.parent.dependencies = []
        self.parent.contributors = ["The NetInversion developers"]
        self.parent.helpText = _(
            "Shows what may change in a low-dose CT without a denoising network noticing: samples,"
            " each with proof of how "
            "invariant it is, their standard-deviation map, and whether a lesion could vanish. "
            "<b>For research only, not for diagnosis or treatment.</b> See the "
            '<a href="https://github.com/NetInversion/SlicerNetInversion/blob/main/Resources/Docs/Invariances.md">tutorial</a>.'
        )
        self.parent.acknowledgementText = _(
            "The question is that of E. Eulig, B. Ommer and M. Kachelriess, <i>Reconstructing"
            " invariances of CT image denoising networks using invertible neural networks</i>,"
            " Proc. SPIE 12304, 123040S (2022). Please cite it when you use this module. The"
            " projection onto the network's level set is this project's own."
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
        customDownloader=lambda source: InvariancesLogic().addSample(),
        thumbnailFileName=str(folder / "InvariancesSample.png"),
    )


#
# InvariancesParameterNode
#


class InvariancesRegion(enum.Enum):
    AROUND, WHOLE, DISPLAYED, SLICES, ROI = range(5)

    def label(self):
        return [
            _("Around the view's centre"),
            _("Whole volume"),
            _("Displayed slice"),
            _("Some slices"),
            _("Region of interest"),
        ][self.value]


@parameterNodeWrapper
class InvariancesParameterNode:
    """What the panel shows, kept in the scene. The segmentation or label map is the node reference
    "segmentation".

    model, fromFile, modelFile, secondModel - file name of a shipped denoiser, or another one
    instead; a second one sampler - file name of a sampler that fits the denoiser, or nothing;
    samplerOf - the denoiser that it was chosen for region, firstSlice, lastSlice, roiNode - where
    the input may change; lastSlice -1 is the last one automatic - epsilon is a tenth of the noise;
    layerTolerance is in per cent, photons in thousands diameters, contrasts - of lesions, numbers
    with commas between run - identifier of the result that the panel shows The others are the
    fields of NetInversionLib.invariances.settings.Settings.
    """

    lowDose: vtkMRMLScalarVolumeNode
    normalDose: vtkMRMLScalarVolumeNode
    model: str
    fromFile: bool
    modelFile: str
    secondModel: str
    sampler: str
    samplerOf: str
    layer: str = "output"
    region: InvariancesRegion = InvariancesRegion.AROUND
    firstSlice: Annotated[int, Minimum(0)] = 0
    lastSlice: Annotated[int, Minimum(-1)] = -1
    roiNode: vtkMRMLMarkupsROINode
    lesionNode: vtkMRMLMarkupsFiducialNode
    flow: bool = False
    noise: bool = True
    texture: bool = False
    samples: Annotated[int, WithinRange(2, 100000)] = 250
    projected: Annotated[int, WithinRange(0, 10000)] = 16
    epsilon: Annotated[float, WithinRange(0, 20)] = 1.0
    automatic: bool = True
    shown: Annotated[int, WithinRange(0, 100)] = 5
    components: Annotated[int, WithinRange(0, 20)] = 3
    spectrum: bool = False
    textureHu: Annotated[float, WithinRange(0, 1000)] = 50.0
    dose: Annotated[float, WithinRange(0.01, 1)] = 0.25
    photons: Annotated[float, WithinRange(1, 10000)] = 150.0
    structureMm: Annotated[float, WithinRange(0.5, 100)] = 5.0
    diameters: str = "3, 5, 8, 12"
    contrasts: str = "-60, -20, 20, 60"
    layerTolerance: Annotated[float, WithinRange(0, 100)] = 1.0
    tile: Annotated[int, WithinRange(64, 1024)] = 128
    maxEvaluations: Annotated[int, WithinRange(1, 100000)] = 150
    seed: Annotated[int, WithinRange(0, 1000000)] = 0
    device: str = "auto"
    worker: bool = True
    run: str


#
# InvariancesWidget
#


class InvariancesWidget(panel.ModulePanel):
    """The panel. It shows and hands on; what is computed, the logic's request says and a job runs."""

    APPLY_TIP = _("Look for what may change unnoticed.")
    PREVIEW_EVERY_S = 5.0

    def setup(self):
        self.setupPanel(InvariancesLogic())
        ui = self.ui
        ui.previewLabel.setVisible(False)
        for slider, low, high, value in ((ui.shownSlider, 1, 5, 1), (ui.opacitySlider, 0, 1, 0.6)):
            slider.minimum, slider.maximum, slider.value = low, high, value
        ui.opacitySlider.singleStep = 0.05
        ui.segmentationSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._onSegmentation)
        ui.samplerSelector.connect("activated(int)", self._onSampler)
        ui.layerSelector.connect("activated(int)", self._onLayer)
        ui.simulateButton.connect("clicked(bool)", self._onSimulate)
        ui.placeRegionButton.connect("clicked(bool)", self._onPlaceRegion)
        ui.placeLesionButton.connect("clicked(bool)", self._onPlaceLesion)
        ui.showButton.connect("clicked(bool)", self.showResult)
        for selector in (ui.shownModelSelector, ui.shownTableSelector):
            selector.connect("activated(int)", self._onShown)
        ui.shownImageSelector.connect("activated(int)", self._onImage)
        ui.shownSlider.connect("valueChanged(double)", self._onAmount)
        ui.opacitySlider.connect("valueChanged(double)", self._onOpacity)
        self._layersOf = None  # (denoiser, sampler) that the list of layers shows
        self._withFlow = None  # names of those that the sampler has a flow for, once they are read
        self._second = (None, "")  # (second denoiser, layer, flow) and what is wrong with them
        self._watched = []  # (node, event, what is done): markups whose points decide on Apply, and the view
        self._viewTimer = qt.QTimer(self.parent)
        self._viewTimer.setSingleShot(True)
        self._viewTimer.setInterval(200)
        self._viewTimer.timeout.connect(self.refresh)
        self.initializeParameterNode()

    def cleanup(self):
        self._viewTimer.stop()
        panel.ModulePanel.cleanup(self)

    # What the user chooses and connectGui does not know

    def _onSegmentation(self, node):
        if not self._writing and self._parameterNode is not None:
            self._parameterNode.parameterNode.SetNodeReferenceID(
                SEGMENTATION, node.GetID() if node else None
            )

    def _onSampler(self, index):
        self.setValues(sampler=self.ui.samplerSelector.itemData(index))

    def _onLayer(self, index):
        layer = self.ui.layerSelector.itemData(index)
        if layer != READ_LAYERS:
            self.setValues(layer=layer)
            return
        try:
            with slicer.util.WaitCursor():
                packages.ensure_packages(self.logic.TITLE)
                self._fillLayers(read=True)
        except (ValueError, packages.PackagesMissing) as error:
            self.fail(str(error))
        self.refresh()

    def _onSimulate(self):
        node = self._parameterNode
        try:
            with slicer.util.WaitCursor():
                packages.ensure_packages(self.logic.TITLE)
                made = self.logic.simulateLowDose(
                    node.normalDose, node.dose, photons=1000 * node.photons
                )
        except (ValueError, packages.PackagesMissing) as error:
            self.fail(str(error))
            return
        node.lowDose = made
        self.say(_("'{name}' was added.").format(name=made.GetName()))

    def _onPlaceRegion(self):
        node = self._parameterNode
        try:
            grid, region = scene_read.grid_from_node(node.lowDose), self.logic.around(node).region
        except volumes.VolumeError as error:
            self.fail(str(error))
            return
        node.roiNode = placing.place_box(node.roiNode, _("Region"), grid, region)
        node.region = InvariancesRegion.ROI

    def _onPlaceLesion(self):
        self._parameterNode.lesionNode = placing.place_point(
            self._parameterNode.lesionNode, _("Lesion")
        )
        self.say(_("Click in a slice view, where the lesion is to be."))

    # What the panel shows

    def modelChanged(self):
        self._layersOf = None

    def _showSampler(self):
        """The samplers that fit the denoiser; where another denoiser was chosen, its first sampler
        is taken.
        """
        node, selector = self._parameterNode, self.ui.samplerSelector
        entries = {
            "": _("none"),
            **{path.name: card.name for path, card in self.logic.samplers(self._cardPath).items()},
        }
        denoiser = Path(self._cardPath or "").name
        if self._card is not None and node.samplerOf != denoiser:
            node.samplerOf, node.sampler = denoiser, next((name for name in entries if name), "")
            if node.flow != bool(node.sampler):
                node.flow, node.noise = bool(node.sampler), not node.sampler
        if node.sampler not in entries:
            entries[node.sampler] = (
                node.sampler
            )  # is not there, or of another denoiser: Apply says so
        if {selector.itemData(i): selector.itemText(i) for i in range(selector.count)} != entries:
            selector.clear()
            for name, title in entries.items():
                selector.addItem(title, name)
        selector.setCurrentIndex(selector.findData(node.sampler))
        selector.enabled = selector.count > 1

    def _showLayers(self):
        node, selector = self._parameterNode, self.ui.layerSelector
        if self._layersOf != (self._cardPath, node.sampler):
            try:
                self._fillLayers(read="torch" in sys.modules)
            except (
                ValueError,
                RuntimeError,
            ):  # the network can not be used, or not on one image: Apply says why
                self._fillLayers(read=False)
        if selector.findData(node.layer) < 0:  # of another network, or not read yet
            selector.addItem(node.layer, node.layer)
        selector.setCurrentIndex(selector.findData(node.layer))

    def _fillLayers(self, read):
        """The output, and the network's layers once they are read, which takes torch and so a
        second or two.
        """
        self._layersOf, self._withFlow = (self._cardPath, self._parameterNode.sampler), None
        selector = self.ui.layerSelector
        selector.clear()
        if not read or self._card is None:
            selector.addItem(_("The denoised image (output)"), "output")
        if self._card is None:
            return
        if not read:
            selector.addItem(_("Read the network's layers..."), READ_LAYERS)
            return
        samplerPath = self.logic.samplerPath(self._parameterNode, self._cardPath)
        for name, title in self.logic.layers(self._cardPath, samplerPath).items():
            selector.addItem(title, name)
        self._withFlow = self.logic.layersWithFlow(self._cardPath, samplerPath)

    def showChoices(self):
        node, ui = self._parameterNode, self.ui
        ui.segmentationSelector.setCurrentNode(self.logic.segmentation(node))
        self._showSampler()
        self._showLayers()
        for widgets, region in (
            ((ui.slicesLabel, ui.slicesWidget), InvariancesRegion.SLICES),
            ((ui.roiLabel, ui.roiSelector), InvariancesRegion.ROI),
        ):
            for widget in widgets:
                widget.setVisible(node.region == region)
        count = self.logic.sliceCount(node)
        if count:
            ui.firstSliceSpinBox.maximum = ui.lastSliceSpinBox.maximum = count - 1
        self._showRegion()
        self._showTolerance()
        ui.layerToleranceSpinBox.enabled = node.layer != "output"
        ui.simulateButton.enabled = node.normalDose is not None
        ui.placeRegionButton.enabled = node.lowDose is not None
        self._watch(node.lesionNode, node.roiNode)

    def _showTolerance(self):
        """The figure that counts: what is set here, or what automatic or a hidden layer makes of
        it.
        """
        words = self.logic.toleranceWords(self._parameterNode)
        self.ui.automaticLabel.setText(words)
        self.ui.automaticLabel.setVisible(bool(words))
        self.ui.epsilonSlider.setVisible(not words)
        self.ui.automaticCheckBox.enabled = self._parameterNode.layer == "output"

    def _showRegion(self):
        """Where the square around the view's centre lies; the views are followed, which do not
        change the parameter node.
        """
        words = self.logic.regionWords(self._parameterNode)
        self.ui.regionInfoLabel.setText(words)
        self.ui.regionInfoLabel.setVisible(bool(words))

    def _watch(self, *markups):
        """Follow points that are placed or moved, and the view, none of which changes the parameter
        node.
        """
        placed = slicer.vtkMRMLMarkupsNode
        events = (
            placed.PointPositionDefinedEvent,
            placed.PointRemovedEvent,
            placed.PointEndInteractionEvent,
        )
        watched = [
            (node, event, self.refresh) for node in markups if node is not None for event in events
        ]
        view = slicer.app.layoutManager().sliceWidget(shownView()).mrmlSliceNode()
        watched.append((view, vtk.vtkCommand.ModifiedEvent, self._onView))
        if watched != self._watched:
            for change, observers in (
                (self.removeObserver, self._watched),
                (self.addObserver, watched),
            ):
                for observer in observers:
                    change(*observer)
            self._watched = watched

    def _onView(self, caller, event):
        if (
            self._parameterNode is not None
            and self._parameterNode.region == InvariancesRegion.AROUND
        ):
            self._viewTimer.start()  # not at each step of a scroll

    def problems(self):
        node, found = self._parameterNode, self.logic.problems(self._parameterNode, self._card)
        if (
            not found
            and node.flow
            and self._withFlow is not None
            and node.layer not in self._withFlow
        ):
            found.append(
                _(
                    "The sampler has no flow for layer '{name}', only for {others}: choose one of"
                    " these, or noise or texture as proposals."
                ).format(name=node.layer, others=", ".join(sorted(self._withFlow)))
            )
        if not found and node.secondModel and "torch" in sys.modules:  # else the run says it
            asked = (self.logic.secondPath(node), node.layer, node.flow)
            if self._second[0] != asked:
                self._second = asked, self.logic.layerProblem(*asked)
            found += filter(None, [self._second[1]])
        return found

    def estimate(self):
        return self.logic.estimateText(self._parameterNode, self._card)

    def prepareRun(self):
        node = self._parameterNode
        others = [
            other for other in (self.logic.segmentation(node), node.lesionNode) if other is not None
        ]
        self._clearPreview()
        return running.Run(
            self.logic.stepsFromParameterNode(node),
            self._card,
            {"low_dose": node.lowDose},
            others,
            self.logic.cost(node),
            node.device,
        )

    def _clearPreview(self):
        self.ui.previewLabel.setVisible(False)

    def showPreview(self, result):
        self.ui.previewLabel.setPixmap(self.logic.preview(result))
        self.ui.previewLabel.setVisible(True)

    # Results

    def showResults(self, nodes):
        """Summary and choices of the run that the scene's parameter node names, if its nodes are
        still there.
        """
        ui = self.ui
        self._clearPreview()
        ui.summaryLabel.setText(self.logic.summary(nodes))
        suffix = ui.shownModelSelector.itemData(ui.shownModelSelector.currentIndex) or ""
        tables = {
            key: scene_tables.title_of(node)
            for key, node in nodes.items()
            if node.IsA("vtkMRMLTableNode")
        }
        for selector, entries in (
            (ui.shownModelSelector, self.logic.modelsOf(nodes)),
            (ui.shownImageSelector, self.logic.imagesOf(nodes, suffix)),
            (ui.shownTableSelector, tables),
        ):
            if {
                selector.itemData(i): selector.itemText(i) for i in range(selector.count)
            } != entries:
                selector.clear()
                for key, text in entries.items():
                    selector.addItem(text, key)
            selector.enabled = selector.count > 0
        for widget in (ui.shownModelLabel, ui.shownModelSelector):
            widget.setVisible(ui.shownModelSelector.count > 1)
        self._limitSlider(nodes)

    def _chosen(self):
        """(suffix of the denoiser, key of the image, key of the table)."""
        ui = self.ui
        selectors = (ui.shownModelSelector, ui.shownImageSelector, ui.shownTableSelector)
        return tuple(selector.itemData(selector.currentIndex) or "" for selector in selectors)

    def _limitSlider(self, nodes):
        slider, key = self.ui.shownSlider, self._chosen()[1]
        limits = (
            (1, max(1, self.logic.sampleCount(nodes, key))) if key.startswith(KINDS) else (-3, 3)
        )
        if (slider.minimum, slider.maximum) != limits:
            slider.blockSignals(True)  # each change of limits and decimals would draw the image
            slider.minimum, slider.maximum = limits
            slider.singleStep, slider.decimals = (1, 0) if key.startswith(KINDS) else (0.1, 1)
            slider.value = 1
            slider.blockSignals(False)
        slider.enabled = bool(key) and LESION not in key

    def _onShown(self, index):
        self.refresh()  # the other denoiser has other images
        self.showResult()

    def _onImage(self, index):
        self._limitSlider(self.logic.resultNodes(self._parameterNode.run))
        self.showResult()

    def _onAmount(self, value):
        if self._parameterNode is None or self._writing:
            return
        nodes, key = self.logic.resultNodes(self._parameterNode.run), self._chosen()[1]
        if nodes and key:
            self.logic.choose(nodes, key, value)
            self.logic.showChanges(nodes, key)
            self.ui.shownProofLabel.setText(self.logic.proofOf(nodes, key, value))

    def _onOpacity(self, value):
        self.logic.setOpacity(value)

    def showSteps(self):
        nodes = self.logic.resultNodes(self._parameterNode.run)
        if nodes:
            suffix, image, table = self._chosen()
            if image:
                self._onAmount(self.ui.shownSlider.value)
            yield from self.logic.showInViews(
                nodes,
                self._parameterNode.normalDose,
                suffix,
                image,
                table,
                self.ui.opacitySlider.value,
            )


#
# InvariancesLogic
#


class InvariancesLogic(logic.ModuleLogic):
    """Finds invariances from volume nodes; needs no panel. In Slicer's Python console:

    logic = InvariancesLogic()
    output = logic.run(lowDoseNode, samples=50, epsilon_hu=1.0)
    output.nodes["std proven"], output.tables["proof"], output.facts["accepted"]
    """

    TITLE = _("Invariances")
    TASK = "denoising"
    REPORT = "invariances.report"
    PARAMETERS = InvariancesParameterNode

    def __init__(self):
        logic.ModuleLogic.__init__(self)
        self._around = self._noise = (
            None,
            None,
        )  # what ``around`` and ``noise`` were asked last, and their answers

    # A run

    def run(self, lowDose, model=None, progress=None, **options):
        """Compute, here and now, and add the results to the scene.

        :param lowDose: scalar volume node, CT in HU. :param model: model file of a denoiser;
        default the first shipped one. :param progress: NetInversionLib.core.progress.Progress.
        :param options: segmentation, point, roi (nodes), sampler, secondModel and secondSampler
        (files), see ``requestSteps``;
            and fields of NetInversionLib.invariances.settings.Settings: region, samples,
            epsilon_hu, layer, device, ...
        :return: see ``addResult``. Raises ValueError with what to do if the image, the model or a
        setting can not be used; nothing is added then.
        """
        packages.ensure_packages(self.TITLE)
        request = steps.finish(self.requestSteps(lowDose, model, **options))
        return self.addResult(jobs.run_here(request, progress), lowDose)

    def requestSteps(
        self,
        lowDose,
        model=None,
        segmentation=None,
        point=None,
        roi=None,
        secondModel=None,
        sampler=None,
        secondSampler=None,
        **settings,
    ):
        """Steps whose value is the request, for NetInversionLib.jobs.run_here or qtjobs.QtJob.

        :param segmentation: segmentation or label map node: statistics inside its segments. :param
        point: markups fiducial node: its first point is where lesions are tried. :param roi:
        markups ROI node: the region, instead of ``settings["region"]``. :param secondModel: file of
        another denoiser, asked about the same noise and textures; "cinn" draws for each denoiser
            with its own sampler.
        :param sampler: file of a sampler made for the denoiser, ``secondSampler`` of one made for
            the second. Where no ``proposals`` are named it draws them; where "cinn" is named and no
            file, the first installed that fits is taken.
        Only the slices that are needed are sent. The others: see ``run``.
        """
        volume = yield from scene_read.read_volume(lowDose)
        if roi is not None:
            settings["region"] = scene_read.region_from_roi_node(roi, volume)
        if point is not None:
            settings["lesion"] = placing.point_of(point)
        volume, settings = choices.only_slices(volume, settings)
        images = {"low_dose": volume}
        if segmentation is not None:
            images["segments"], settings["segments"] = masks.segments_from_node(
                segmentation, volume
            )
        if sampler:
            settings.setdefault("proposals", ["cinn"])
        paths = {
            "denoiser": model or self._firstModel(),
            "second": secondModel,
            "sampler": sampler,
            "second sampler": secondSampler,
        }
        for denoiser, key in (("denoiser", "sampler"), ("second", "second sampler")):
            if not paths[key] and "cinn" in settings.get("proposals", ()):
                paths[key] = next(iter(self.samplers(paths[denoiser])), None)
        return jobs.Request(
            "invariances", images, {key: str(path) for key, path in paths.items() if path}, settings
        )

    def _firstModel(self):
        for path in self.models():
            return path
        raise models.ModelError(
            "No denoiser is shipped or installed; name a model file (model=...), which"
            " 'netinversion train denoiser' makes."
        )

    def writeResult(self, result, inputNode, inputs=None):
        written = yield from super().writeResult(result, inputNode, inputs)
        for suffix in self._suffixes(written.nodes):
            numbers = self._numbers(written.nodes, suffix)
            sequences = {
                f"{kind}{suffix}": [f"{kind[:-1]} {number}{suffix}" for number in numbers]
                for kind in (*KINDS, ANSWERS)
            }
            titles = {
                f"samples{suffix}": _("Samples, proven"),
                f"proposals{suffix}": _("Proposals, unproven"),
                f"{ANSWERS}{suffix}": _("Denoised samples"),
                f"browser{suffix}": _("Samples and proposals"),
            }
            written.nodes = results.add_browser(
                written.nodes, sequences, titles, self.moduleName, f"browser{suffix}"
            )
        return written

    def _suffixes(self, nodes):
        return [suffix for suffix in ("", " second") if f"output{suffix}" in nodes]

    def _numbers(self, nodes, suffix):
        """Of the proposals whose samples were accepted."""
        return sorted(
            int(key.split()[1])
            for key in nodes
            if key.startswith("sample ") and key == f"sample {key.split()[1]}{suffix}"
        )

    # Low dose, sample data

    def simulateLowDose(self, node, dose=0.25, **options):
        """A new volume node: the CT as a scan at ``dose`` (share) would show it.

        :param options: fields of NetInversionLib.invariances.low_dose.LowDoseSettings: photons,
        seed, ...
        """
        from NetInversionLib.invariances import low_dose

        ct = steps.finish(scene_read.read_volume(node))
        made = low_dose.simulate_low_dose(
            ct, low_dose.LowDoseSettings(dose=dose, **{"views": 360, **options})
        )
        return write.volume_to_node(made, None, node, "ct")

    def addSample(self, ct=None, slices=3):
        """Some slices of a CT and the same at a quarter of the dose, as nodes "normal dose" and
        "low dose".

        The CT is a NetInversionLib Volume; default is Slicer's own sample CTChest, or
        ``ct/pelvis.nii.gz`` in the folder that NETINVERSION_DATA names.
        """
        ct = volumes.reorient(ct or self._sampleCt(), "LPS")
        first = max(0, (ct.shape[0] - slices) // 2)
        ct = volumes.crop(
            ct, (first, min(ct.shape[0], first + slices), 0, ct.shape[1], 0, ct.shape[2])
        )
        normal = write.volume_to_node(ct, _("Sample CT, normal dose"), role="ct")
        low = self.simulateLowDose(normal)
        low.SetName(_("Sample CT, simulated low dose"))
        node = self.getParameterNode()
        if node.lowDose is None:
            node.lowDose, node.normalDose = low, normal
        slicer.util.setSliceViewerLayers(background=low, fit=True)
        return {"normal dose": normal, "low dose": low}

    def _sampleCt(self):
        folder = os.environ.get("NETINVERSION_DATA")
        if folder:
            return files.load(Path(folder) / "ct" / "pelvis.nii.gz")
        import SampleData

        node = SampleData.SampleDataLogic().downloadSample("CTChest")
        ct = scene_read.volume_from_node(node)
        slicer.mrmlScene.RemoveNode(node)
        return ct

    # What the panel asks

    def segmentation(self, node):
        return node.parameterNode.GetNodeReference(SEGMENTATION)

    def samplers(self, path):
        """{path: card} of the samplers that were made for a denoiser's file."""
        return library.samplers_for(path) if path and os.path.isfile(path) else {}

    def samplerPath(self, node, path):
        """Path of the sampler that a parameter node names for the denoiser at ``path``; None if
        there is none.
        """
        return next(
            (str(found) for found in self.samplers(path) if found.name == node.sampler), None
        )

    def layers(self, path, sampler=None):
        """{name: title} of the output and of a model's layers, in the order of execution.

        Those of the publications have a star; those that the sampler (a file) has a flow for say
        so.
        """
        from NetInversionLib.networks import layers as networks_layers

        presets = PRESETS.get(models.read_card(path).architecture, ())
        network, flows = models.load(path).network, self.layersWithFlow(path, sampler)
        titles = {"output": _("The denoised image (output)")}
        titles.update(
            {
                layer.name: layer.title + (" *" if layer.number in presets else "")
                for layer in networks_layers.layers(network)
            }
        )
        return {
            name: title + (", " + _("VAE + flow") if name in flows else "")
            for name, title in titles.items()
        }

    def layersWithFlow(self, path, sampler):
        """All names of the layers that a sampler (a file, or None) has a flow for."""
        from NetInversionLib.networks import layers as networks_layers

        network = models.load(path).network
        return {
            name
            for flow in (models.read_card(sampler).arguments["flows"] if sampler else ())
            for name in networks_layers.same_values(network, flow)
        }

    def layerProblem(self, path, layer, flow):
        """Why a layer of the denoiser at ``path`` cannot be looked at; "" if it can.

        :param flow: whether the first sampler that fits has to have a flow for it.
        """
        from NetInversionLib.networks import layers as networks_layers

        try:
            model = models.load(path)
            names = networks_layers.same_values(model.network, layer, called=repr(model.card.name))
            known = (
                self.layersWithFlow(path, next(iter(self.samplers(path)), None))
                if flow
                else set(names)
            )
        except networks_layers.LayerError as error:
            return str(error)
        except (
            ValueError,
            RuntimeError,
        ):  # the network cannot be used, or not on one image: the run says why
            return ""
        return (
            ""
            if known & set(names)
            else _(
                "The sampler of '{model}' has no flow for layer '{name}', only for {others}: choose"
                " one of these, or noise or texture as proposals."
            ).format(model=model.card.name, name=layer, others=", ".join(sorted(known)))
        )

    def problems(self, node, card):
        """All reasons why Apply can not be pressed, in words."""
        if node is None:
            return [_("Wait until the scene is open.")]
        if card is None:
            return [self.card(self.modelPath(node))[1]]
        return [*self._volumeProblems(node), *self._settingProblems(node)]

    def _volumeProblems(self, node):
        if node.lowDose is None:
            return [_("Choose a low-dose CT.")]
        try:
            self.region(node)
        except ValueError as error:
            return [str(error)]
        return self._lesionProblems(node)

    def _lesionProblems(self, node):
        if node.lesionNode is None:
            return []
        if not node.lesionNode.GetNumberOfControlPoints():
            return [
                _("Place a point in '{name}', or choose no lesion.").format(
                    name=node.lesionNode.GetName()
                )
            ]
        try:
            choices.voxel_of(
                scene_read.grid_from_node(node.lowDose), placing.point_of(node.lesionNode)
            )
        except volumes.VolumeError as error:
            return [str(error)]
        return []

    def _settingProblems(self, node):
        found = []
        if not (node.flow or node.noise or node.texture):
            found.append(_("Choose at least one kind of proposals: VAE + flow, noise or texture."))
        found += self._samplerProblems(node)
        tolerance = (
            node.layerTolerance if node.layer != "output" else 1 if node.automatic else node.epsilon
        )
        if not tolerance > 0:
            found.append(
                _(
                    "What counts as unnoticed must be above 0: at exactly the same output nothing"
                    " can change. Choose a fraction of the noise, 1 HU say."
                )
            )
        if max(node.projected, node.shown) > node.samples:
            found.append(_("Not more samples can be projected or shown than are tried."))
        if node.secondModel:
            problem = self.card(self.secondPath(node))[1]
            found += [problem] if problem else []
        for name, text, problem in (
            (
                "lesion_diameters_mm",
                node.diameters,
                _("Write the lesion sizes (Advanced) as numbers with commas between, all above 0."),
            ),
            (
                "lesion_contrasts_hu",
                node.contrasts,
                _(
                    "Write the lesion contrasts (Advanced) as numbers with commas between, none of"
                    " them 0."
                ),
            ),
        ):
            try:
                invariances_settings.Settings(**{name: numbers(text)})
            except ValueError:
                found.append(problem)
        return found

    def _samplerProblems(self, node):
        if node.sampler and not self.samplerPath(node, self.modelPath(node)):
            return [
                _(
                    "The sampler '{name}' is not there, or was made for another denoiser. Choose"
                    " another, or none."
                ).format(name=node.sampler)
            ]
        if node.flow and not node.sampler:
            return [
                _(
                    "Choose a sampler for the proposals VAE + flow, or choose noise or texture."
                    " 'netinversion train cinn' makes one for a denoiser."
                )
            ]
        if node.flow and node.secondModel and not self.samplers(self.secondPath(node)):
            return [
                _(
                    "There is no sampler for the second denoiser: choose noise or texture, or no"
                    " second denoiser."
                )
            ]
        return []

    def sliceCount(self, node):
        """How many axial slices the chosen volume has; 0 if none is chosen."""
        try:
            grid = scene_read.grid_from_node(node.lowDose)
        except volumes.VolumeError:
            return 0
        return grid.shape[volumes.axis_toward(grid, "S")[0]]

    def around(self, node):
        """The square around the view's centre (NetInversionLib.invariances.choices.Around);
        VolumeError if there is no volume.
        """
        grid, image = scene_read.grid_from_node(node.lowDose), node.lowDose.GetImageData()
        point = placing.point_in(grid, placing.view_centre(shownView()))
        asked = (
            node.lowDose.GetID(),
            image.GetMTime(),
            grid.ijk_to_ras.tobytes(),
            tuple(point),
            node.tile,
        )
        if (
            self._around[0] != asked
        ):  # looking for the body takes its time, and the panel asks often
            ct = grid.with_array(slicer.util.arrayFromVolume(node.lowDose))
            self._around = asked, choices.region_around(ct, point, tile=node.tile)
        return self._around[1]

    def regionWords(self, node):
        """Where the input may change, where the panel's other choices do not say it already."""
        if node.region != InvariancesRegion.AROUND or node.lowDose is None:
            return ""
        try:
            return self.around(node).words
        except volumes.VolumeError:  # Apply says it
            return ""

    def toleranceWords(self, node):
        """What counts as unnoticed, where it is not what the slider says."""
        if node.layer != "output":
            return _("{share:g} % of the layer's size (Advanced)").format(share=node.layerTolerance)
        if not node.automatic:
            return ""
        noise = self.noise(node)
        if noise is None:
            return _("a tenth of the image's noise")
        return _("{epsilon} HU, a tenth of the noise ({noise} HU)").format(
            epsilon=readable(noise / 10, 2), noise=readable(noise, 2)
        )

    def noise(self, node):
        """Noise of the slices that are looked at, HU; None if there is no volume, or too many to
        look now.
        """
        try:
            grid, box = scene_read.grid_from_node(node.lowDose), self.region(node)
        except volumes.VolumeError:
            return None
        axis = volumes.axis_toward(grid, "S")[0]
        first, last = box[2 * axis : 2 * axis + 2] if box else (0, grid.shape[axis])
        if last - first > NOISE_SLICES:
            return None
        asked = (node.lowDose.GetID(), node.lowDose.GetImageData().GetMTime(), first, last)
        if self._noise[0] != asked:
            slices = np.moveaxis(slicer.util.arrayFromVolume(node.lowDose), axis, 0)[first:last]
            self._noise = asked, choices.image_noise(slices.astype(np.float32))
        return self._noise[1]

    def region(self, node):
        """(k0, k1, j0, j1, i0, i1) in the volume's voxels, or None for all of it. VolumeError if it
        is outside.
        """
        grid = scene_read.grid_from_node(node.lowDose)
        if node.region == InvariancesRegion.WHOLE:
            return None
        if node.region == InvariancesRegion.AROUND:
            return self.around(node).region
        if node.region == InvariancesRegion.ROI:
            if node.roiNode is None:
                raise volumes.VolumeError(
                    _("Choose a region of interest, or place one in the views (Markups).")
                )
            return scene_read.region_from_roi_node(node.roiNode, grid)
        axis = volumes.axis_toward(grid, "S")[0]
        region = [bound for size in grid.shape for bound in (0, size)]
        if node.region == InvariancesRegion.DISPLAYED:
            shown = volumes.region_from_ras_points(
                grid, [placing.point_in(grid, placing.slice_point(shownView()))]
            )
            region[2 * axis : 2 * axis + 2] = shown[2 * axis : 2 * axis + 2]
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

    def settings(self, node):
        """The fields of NetInversionLib.invariances.settings.Settings that the panel shows."""
        kinds = {"cinn": node.flow, "noise": node.noise, "texture": node.texture}
        return dict(
            region=self.region(node),
            region_from=self.regionWords(node),
            layer=node.layer,
            samples=node.samples,
            projected=node.projected,
            shown=node.shown,
            proposals=[kind for kind, wanted in kinds.items() if wanted],
            epsilon_hu=None if node.automatic else node.epsilon,
            epsilon_layer=node.layerTolerance / 100,
            components=node.components,
            spectrum=[node.layer] if node.spectrum else [],
            texture_hu=node.textureHu,
            dose=node.dose,
            photons=1000 * node.photons,
            structure_mm=node.structureMm,
            tile=node.tile,
            lesion_diameters_mm=numbers(node.diameters),
            lesion_contrasts_hu=numbers(node.contrasts),
            max_evaluations=node.maxEvaluations,
            seed=node.seed,
            device=node.device,
        )

    def stepsFromParameterNode(self, node):
        """Steps whose value is the request that the panel shows."""
        path = self.modelPath(node)
        return self.requestSteps(
            node.lowDose,
            path,
            self.segmentation(node),
            node.lesionNode,
            None,
            node.secondModel,
            self.samplerPath(node, path),
            **self.settings(node),
        )

    def cost(self, node):
        """What a run costs, see NetInversionLib.invariances.choices.network_voxels."""
        grid, settings = scene_read.grid_from_node(node.lowDose), self.settings(node)
        box = settings["region"] or [bound for size in grid.shape for bound in (0, size)]
        sizes, axis = (
            [high - low for low, high in zip(box[::2], box[1::2])],
            volumes.axis_toward(grid, "S")[0],
        )
        image, region = (tuple(np.delete(of, axis).tolist()) for of in (grid.shape, sizes))
        if node.lesionNode is not None:
            settings["lesion"] = placing.point_of(node.lesionNode)
        chosen = invariances_settings.Settings.from_json(settings)
        return (1 + bool(node.secondModel)) * choices.network_voxels(
            image, region, sizes[axis], chosen
        )

    def estimateText(self, node, card):
        """Time of the run in words; it is learnt from earlier runs of the same network."""
        return self.timeText(
            *self.secondsFor(card, node.device, self.cost(node), SECONDS_PER_VOXEL), node.device
        )

    def preview(self, result):
        """A picture of both maps of the slice, and of the denoiser, that is being worked on."""
        suffix = " second" if "std unproven second" in result.volumes else ""
        maps, table = {}, result.tables[f"proof{suffix}"].columns
        turned = {
            kind: volumes.reorient(result.volumes[f"std {kind}{suffix}"], "LPS").array
            for kind in ("unproven", "proven")
        }
        slice_ = table["slice"][-1] if table.get("slice") else 0
        rows, columns = (np.flatnonzero(turned["unproven"][slice_].any(axis)) for axis in (1, 0))
        seen = (
            (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)) if len(rows) else ()
        )  # the region
        titles = {"unproven": _("Unproven, HU"), "proven": _("Proven, HU")}
        if suffix:
            titles = {
                "unproven": _("Unproven, HU, second denoiser"),
                "proven": _("Proven, HU, second denoiser"),
            }
        for kind, title in titles.items():
            maps[title] = turned[kind][slice_][seen]
        return pictures.mapsPicture(maps, max(float(array.max()) for array in maps.values()))

    # Results in words and views

    def facts(self, nodes):
        return json.loads(nodes["facts"].GetText()) if "facts" in nodes else None

    def modelsOf(self, nodes):
        """{suffix: name} of the denoisers."""
        facts = self.facts(nodes) or {}
        names = {"": facts.get("model", {}), " second": facts.get("second", {}).get("model", {})}
        return {suffix: names[suffix].get("name", suffix) for suffix in self._suffixes(nodes)}

    def imagesOf(self, nodes, suffix):
        """{key: title} of what can be shown as image, of a denoiser."""
        found = {
            f"samples{suffix}": _("Samples (proven)"),
            f"proposals{suffix}": _("Proposals (unproven)"),
        }
        found.update(
            {f"component {n}{suffix}": _("Component {n}").format(n=n) for n in range(1, 21)}
        )
        found.update(
            {
                f"lesion{suffix}": _("Nodule put in"),
                f"hidden lesion{suffix}": _("Nodule as far as it stays unnoticed"),
            }
        )
        return {
            key: title for key, title in found.items() if key in nodes or self._single(nodes, key)
        }

    def _single(self, nodes, key):
        """Keys of the images of a kind that are not in a sequence."""
        kind, *second = key.split()
        return [
            name
            for name in (f"{kind[:-1]} {n}{' second' if second else ''}" for n in range(1, 101))
            if name in nodes
        ]

    def sampleCount(self, nodes, key):
        sequence = nodes.get(f"sequence of {key}")
        return (
            sequence.GetNumberOfDataNodes()
            if sequence is not None
            else len(self._single(nodes, key))
        )

    def _sampleNumber(self, nodes, key, value):
        """The number of a sample or proposal in its name, of the one at place ``value`` (from 1) of
        those that are kept.
        """
        sequence, place = nodes.get(f"sequence of {key}"), round(value) - 1
        if sequence is not None and place < sequence.GetNumberOfDataNodes():
            return int(sequence.GetNthIndexValue(place))
        single = self._single(nodes, key)
        return int(single[place].split()[1]) if place < len(single) else None

    def choose(self, nodes, key, value):
        """Select a sample in the browser by its number, or show the patient's image with ``value``
        times a component added.
        """
        if LESION in key:
            return
        if key.startswith(KINDS):
            browser = nodes.get("browser second" if key.endswith("second") else "browser")
            if browser is not None:
                browser.SetSelectedItemNumber(round(value) - 1)
                slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
            return
        shown = nodes.get(SHOWN)
        if shown is None:
            patient = nodes["patient"]
            shown = slicer.modules.volumes.logic().CloneVolume(
                slicer.mrmlScene, patient, _("Patient with component")
            )
            shown.SetAttribute(f"{self.moduleName}.key", SHOWN)
            shown.SetAttribute(
                f"{self.moduleName}.run", patient.GetAttribute(f"{self.moduleName}.run")
            )
        component, patient = (slicer.util.arrayFromVolume(nodes[name]) for name in (key, "patient"))
        slicer.util.updateVolumeFromArray(shown, patient + value * component)

    def showChanges(self, nodes, key):
        """(what the shown image differs by from the patient's, what its answer does from the
        denoised), as nodes, in one window.

        The answer is known of samples only; else its node is None.
        """
        suffix = " second" if key.endswith("second") else ""
        patient, image, answer = nodes.get("patient"), self.imageNode(nodes, key, 1), None
        if patient is None or image is None:
            return None, None
        if key == f"samples{suffix}":
            answer = self.imageNode(nodes, f"{ANSWERS}{suffix}", 1)
        change, after = (
            words.format(name=image.GetName())
            for words in (_("Change: {name}"), _("Change of the denoised: {name}"))
        )
        change = results.show_difference(image, patient, change, self.moduleName, CHANGES[0])
        if answer is None or nodes.get(f"output{suffix}") is None:
            return change, None
        after = results.show_difference(
            answer, nodes[f"output{suffix}"], after, self.moduleName, CHANGES[1], change
        )
        return change, after

    def imageLabel(self, nodes, key):
        """What the shown image is, in a few words."""
        return self.imagesOf(nodes, " second" if key.endswith("second") else "").get(
            key, _("Sample")
        )

    def imageNode(self, nodes, key, value):
        """The node that shows what was chosen."""
        if key in nodes and not key.startswith("component"):
            return nodes[key]
        if key.startswith((*KINDS, ANSWERS)):
            single = self._single(nodes, key)
            return nodes[single[min(len(single), round(value)) - 1]] if single else None
        return (
            self.resultNodes(nodes["patient"].GetAttribute(f"{self.moduleName}.run")).get(SHOWN)
            if key
            else None
        )

    def proofOf(self, nodes, key, value):
        """What is known of the shown image, in a sentence."""
        facts = self.facts(nodes)
        number = self._sampleNumber(nodes, key, value) if key.startswith(KINDS) else None
        return reading.proof(facts, self.tables(nodes), key, number) if facts else ""

    def summary(self, nodes):
        """The answer, and what it rests on, as HTML."""
        return reading.summary(self.facts(nodes), self.tables(nodes))

    def showInViews(self, nodes, normalDose, suffix="", image="", table="", opacity=0.6):
        """Steps that show low dose, (normal dose,) denoised and sample above the maps over the CT,
        tables and plots.

        The maps are the two standard deviations and, where there is one, the autoencoder's error,
        their floor.
        """
        patient, floor = nodes.get("patient"), nodes.get(f"vae floor{suffix}")
        unproven, proven = (nodes.get(f"std {kind}{suffix}") for kind in ("unproven", "proven"))
        if unproven is not None and proven is not None:  # one window for both
            display = unproven.GetDisplayNode()
            proven.GetDisplayNode().SetWindowLevelMinMax(
                display.GetWindowLevelMin(), display.GetWindowLevelMax()
            )
        changes = self.showChanges(nodes, image)
        normal = (
            [views.Slice("InvariancesNormal", _("Normal dose"), normalDose)]
            if normalDose is not None
            else []
        )
        tabs = {
            _("Table"): views.Table("InvariancesTable", nodes.get(table)),
            _("Lesion"): views.Plot("InvariancesPlot1", nodes.get(f"detectability{suffix}")),
            _("Spectrum"): views.Plot("InvariancesPlot2", nodes.get(f"gains{suffix}")),
        }
        if floor is not None:
            tabs[_("Autoencoder")] = views.over(
                "InvariancesFloor", _("Autoencoder's error"), patient, floor, opacity, views.MAP
            )
        rows = [
            [
                views.Slice("InvariancesLow", _("Low dose"), patient),
                *normal,
                views.Slice("InvariancesDenoised", _("Denoised"), nodes.get(f"output{suffix}")),
            ],
            [
                views.Slice(
                    "InvariancesSample",
                    self.imageLabel(nodes, image),
                    self.imageNode(nodes, image, 1),
                ),
                views.over("InvariancesChange", _("Difference to low dose"), patient, changes[0]),
                views.over(
                    "InvariancesAnswer", _("Difference of the denoised"), patient, changes[1]
                ),
            ],
            [
                views.over(
                    "InvariancesUnproven", _("SD, unproven"), patient, unproven, opacity, views.MAP
                ),
                views.over(
                    "InvariancesProven", _("SD, proven"), patient, proven, opacity, views.MAP
                ),
                views.Tabs(tabs),
            ],
        ]
        yield from views.show(
            LAYOUT + (normalDose is not None) + 2 * (floor is not None), rows, unproven, patient
        )

    def setOpacity(self, opacity):
        """Of the maps over the CT, where the module's views show them."""
        manager = slicer.app.layoutManager()
        if manager is not None and manager.layout in LAYOUTS:
            views.set_opacity(
                ["InvariancesUnproven", "InvariancesProven", "InvariancesFloor"], opacity
            )


def numbers(text):
    """ "3, 5" as [3.0, 5.0]; ValueError if that is not what it is."""
    return [float(word) for word in text.split(",")]


def shownView():
    """The view whose slice the user looks at: the first of the module's own, or the red one."""
    return "InvariancesLow" if slicer.app.layoutManager().layout in LAYOUTS else "Red"


#
# InvariancesTest
#


class InvariancesTest(ScriptedLoadableModuleTest):
    """A short run on a made-up image with the first denoiser that is there."""

    def setUp(self):
        slicer.mrmlScene.Clear(0)

    def runTest(self):
        self.setUp()
        self.test_acceptedSamplesChangeNothing()

    def test_acceptedSamplesChangeNothing(self):
        if not InvariancesLogic().models():
            self.delayDisplay("No denoiser is there: nothing to test")
            return
        self.delayDisplay("Looking for invariances of a small made-up image")
        output = InvariancesLogic().run(
            self.madeUpVolume(),
            samples=4,
            projected=2,
            shown=2,
            epsilon_hu=1.0,
            proposals=["texture"],
            region=(0, 1, 8, 24, 8, 28),
            device="cpu",
        )
        self.assertGreater(slicer.util.arrayFromVolume(output.nodes["std unproven"]).max(), 10)
        self.assertLessEqual(
            max(scene_tables.columns_of(output.tables["proof"])["largest accepted (HU)"]), 1.0
        )
        self.delayDisplay("Test passed")

    def madeUpVolume(self):
        """Two slices of a noisy block of tissue in air."""
        import numpy as np

        hu = np.full((2, 32, 36), -1000.0)
        hu[:, 6:26, 6:30] = 40 + 30 * np.random.default_rng(0).normal(size=(2, 20, 24))
        return slicer.util.addVolumeFromArray(hu.astype(np.float32), name="Made up")
