"""The module Invariances: what may change in a CT image without a denoising network noticing?"""

import sys
from pathlib import Path
from typing import Annotated, Any

import slicer
from slicer import vtkMRMLMarkupsFiducialNode, vtkMRMLMarkupsROINode, vtkMRMLScalarVolumeNode
from slicer.i18n import translate
from slicer.parameterNodeWrapper import Minimum, WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleTest

# Installed, the library lies beside this file; in a source checkout, beside this file's folder.
for _folder in (Path(__file__).resolve().parents[1], Path(__file__).resolve().parent):
    if (_folder / "NetInversionLib").is_dir() and str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

from InvariancesLib import choices as module_choices
from InvariancesLib import examples, views

from NetInversionLib import jobs, models
from NetInversionLib.core import steps, volumes
from NetInversionLib.core.keys import Key
from NetInversionLib.core.progress import Progress
from NetInversionLib.core.results import Result
from NetInversionLib.invariances import choices
from NetInversionLib.panel import browsing, logic, packages, placing, samples
from NetInversionLib.panel.choices import RegionChoice
from NetInversionLib.panel.words import tr as _
from NetInversionLib.scene import read as scene_read
from NetInversionLib.scene import tables as scene_tables
from NetInversionLib.scene import write
from NetInversionLib.scene.results import Written

SAMPLE = "InvariancesLowDoseCT"

#
# Invariances
#


class Invariances(ScriptedLoadableModule):
    """Title, help, thanks and sample data of the module."""

    def __init__(self, parent: Any):
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


def registerSampleData() -> None:
    """Offer the module's sample in the Sample Data module."""
    picture = Path(__file__).resolve().parent / "Resources" / "Icons" / "InvariancesSample.png"
    samples.register(SAMPLE, picture, samples.ct_chest(), lambda: InvariancesLogic().addSample())


#
# InvariancesParameterNode
#


class InvariancesRegion(RegionChoice):
    """Where the input may change."""

    AROUND, WHOLE, DISPLAYED, SLICES, ROI = range(5)


@parameterNodeWrapper
class InvariancesParameterNode:
    """What the panel shows, kept in the scene.

    The segmentation or label map is the node reference "segmentation".

    model, fromFile, modelFile, secondModel - a shipped denoiser's file name, or another; a second
    sampler, samplerOf - file name of a fitting sampler, or nothing; for which denoiser it is
    region, firstSlice, lastSlice, roiNode - where the input may change; lastSlice -1 is the last
    automatic - epsilon is a tenth of the noise
    layerTolerance, photons - in per cent, in thousands
    diameters, contrasts - of lesions, numbers with commas between
    run - identifier of the result that the panel shows

    The others are the fields of NetInversionLib.invariances.settings.Settings.
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
    draws: Annotated[int, WithinRange(20, 10000)] = 64
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


class InvariancesWidget(examples.ExampleSection):
    """The panel. It shows and hands on; what is computed, the logic's request says, a job runs."""

    APPLY_TIP = _("Look for what may change unnoticed.")
    PREVIEW_EVERY_S = 5.0

    def setup(self) -> None:
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
        self._followView()
        self.initializeParameterNode()

    # What the user chooses and connectGui does not know

    def _onSegmentation(self, node: slicer.vtkMRMLNode | None) -> None:
        if not self._writing and self._parameterNode is not None:
            self._parameterNode.parameterNode.SetNodeReferenceID(
                module_choices.SEGMENTATION, node.GetID() if node else None
            )

    def _onSimulate(self) -> None:
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

    def _onPlaceRegion(self) -> None:
        node = self._parameterNode
        try:
            grid, region = scene_read.grid_from_node(node.lowDose), self.logic.around(node).region
        except volumes.VolumeError as error:
            self.fail(str(error))
            return
        node.roiNode = placing.place_box(node.roiNode, _("Region"), grid, region)
        node.region = InvariancesRegion.ROI

    def _onPlaceLesion(self) -> None:
        self._parameterNode.lesionNode = placing.place_point(
            self._parameterNode.lesionNode, _("Lesion")
        )
        self.say(_("Click in a slice view, where the lesion is to be."))

    def showPreview(self, result: Result) -> None:
        self.ui.previewLabel.setPixmap(self.logic.preview(result))
        self.ui.previewLabel.setVisible(True)


#
# InvariancesLogic
#


class InvariancesLogic(examples.ExampleChoices):
    """Finds invariances from volume nodes; needs no panel. In Slicer's Python console:

    logic = InvariancesLogic()
    output = logic.run(lowDoseNode, samples=50, epsilon_hu=1.0)
    output.nodes["std proven"], output.tables["proof"], output.facts["accepted"]
    """

    TITLE = _("Invariances")
    OWN_NETWORKS = True
    TASK = models.DENOISING
    REPORT = "invariances.report"
    PARAMETERS = InvariancesParameterNode

    # A run

    def run(
        self,
        lowDose: slicer.vtkMRMLNode,
        *,
        model: Any = None,
        settings: Any = None,
        progress: Progress | None = None,
        **more: Any,
    ) -> Any:
        """Compute, here and now, and add the results to the scene.

        Args:
            lowDose: Scalar volume node, CT in HU.
            model: Model file of a denoiser, or a network of your own: a torch.nn.Module, or any
                function of tensors (N, 1, J, I) that gradients pass through. Default is the first
                shipped one.
            settings: Fields of NetInversionLib.invariances.settings.Settings: region, samples,
                epsilon_hu, layer, device, ...; each can also be given by its name.
            progress: What is told meanwhile.
            more: Single settings, and what else ``requestSteps`` takes.

        Returns:
            See ``addResult``.

        Raises:
            ValueError: The image, the model or a setting cannot be used; says what to do. Nothing
                is added then.
        """
        packages.ensure_packages(self.TITLE)
        chosen = {"model": model, "settings": settings, "progress": progress}
        request = self.request(lowDose, **chosen, **more)
        return self.addResult(self.computed(request, progress), lowDose)

    def requestSteps(  # type: ignore[override]  # says which inputs and choices
        self,
        lowDose: slicer.vtkMRMLNode,
        *,
        model: Any = None,
        settings: Any = None,
        progress: Progress | None = None,
        normalDose: slicer.vtkMRMLNode | None = None,
        segmentation: slicer.vtkMRMLNode | None = None,
        point: vtkMRMLMarkupsFiducialNode | None = None,
        roi: vtkMRMLMarkupsROINode | None = None,
        secondModel: str | Path | None = None,
        sampler: str | Path | None = None,
        secondSampler: str | Path | None = None,
        description: Any = None,
        **single: Any,
    ) -> steps.Steps:
        """Steps whose value is the request. Only the slices that are needed are sent.

        Args:
            lowDose, model, settings, progress: See ``run``.
            normalDose: The CT at normal dose: the truth for lesions that are seen, and the maps.
            segmentation: Segmentation or label map node: statistics inside its segments.
            point: Markups fiducial node: its first point is where lesions are tried.
            roi: Markups ROI node: the region, instead of the setting "region".
            secondModel: File of another denoiser, asked about the same noise and textures; "cinn"
                draws for each denoiser with its own sampler.
            sampler, secondSampler: Files of samplers made for the denoiser and for the second.
                Where no ``proposals`` are named ``sampler`` draws them; where "cinn" is named and
                no file, the first installed that fits is taken.
            description: Of a network of your own: see NetInversionLib.models.adopt_denoiser.
            single: Settings by name, which count before ``settings``.
        """
        chosen = logic.settings_of(settings, single)
        volume = yield from scene_read.read_volume(lowDose)
        if callable(model):
            log = (progress or Progress()).log
            model = models.adopt_denoiser(model, description, volume, log)
        if roi is not None:
            chosen["region"] = scene_read.region_from_roi_node(roi, volume)
        if point is not None:
            chosen["lesion"] = placing.point_of(point)
        volume, chosen = choices.only_slices(volume, chosen)
        images = yield from self.imageSteps(volume, chosen, segmentation, normalDose)
        if sampler:
            chosen.setdefault("proposals", ["cinn"])
        paths = {
            "denoiser": model or self._firstModel(),
            "second": secondModel,
            "sampler": sampler,
            "second sampler": secondSampler,
        }
        for denoiser, key in (("denoiser", "sampler"), ("second", "second sampler")):
            if not paths[key] and "cinn" in chosen.get("proposals", ()):
                paths[key] = self.defaultSampler(paths[denoiser])
        return jobs.Request("invariances", images, {k: p for k, p in paths.items() if p}, chosen)

    def _firstModel(self) -> Path:
        return models.default_model(
            lambda card: card.task == self.TASK,
            "No denoiser is shipped or installed; name a model file (model=...), which"
            " 'netinversion train denoiser' makes.",
        )

    def writeResult(
        self,
        result: Result,
        inputNode: slicer.vtkMRMLNode | None,
        inputs: dict[str, slicer.vtkMRMLNode] | None = None,
    ) -> steps.Steps:
        """As ModuleLogic; samples, proposals and their answers go into sequences to browse."""
        written: Written = yield from super().writeResult(result, inputNode, inputs)
        for network in self.networks(written.nodes):
            kinds = {
                "samples": _("Samples, proven"),
                "proposals": _("Proposals, unproven"),
                views.ANSWERS: _("Denoised samples"),
                "browser": _("Samples and proposals"),
            }
            titles = {Key(kind, network=network): title for kind, title in kinds.items()}
            browser = Key("browser", network=network)
            written.nodes = browsing.browsed(written.nodes, titles, self.moduleName, browser)
        return written

    # Low dose, sample data

    def simulateLowDose(
        self, node: vtkMRMLScalarVolumeNode, dose: float = 0.25, **options: Any
    ) -> vtkMRMLScalarVolumeNode:
        """A new volume node: the CT as a scan at ``dose`` (share) would show it.

        Args:
            node: A CT, HU.
            dose: As a share of the dose that the CT was taken with.
            options: Fields of NetInversionLib.invariances.low_dose.LowDoseSettings: photons, seed,
                ...
        """
        from NetInversionLib.invariances import low_dose

        ct = steps.finish(scene_read.read_volume(node))
        made = low_dose.simulate_low_dose(
            ct, low_dose.LowDoseSettings(dose=dose, **{"views": 360, **options})
        )
        return write.volume_to_node(made, None, node, "ct")

    def addSample(
        self, ct: volumes.Volume | None = None, slices: int = 3
    ) -> dict[str, vtkMRMLScalarVolumeNode]:
        """Nodes "normal dose", some slices of a CT, and "low dose", a quarter of its dose.

        The CT is a NetInversionLib Volume (K, J, I); default is Slicer's own sample CTChest, or
        ``ct/pelvis.nii.gz`` in the folder that NETINVERSION_DATA names.
        """
        ct = volumes.reorient(ct or samples.sample_ct(), "LPS")
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


#
# InvariancesTest
#


class InvariancesTest(ScriptedLoadableModuleTest):
    """A short run on a made-up image with the first denoiser that is there."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear(0)

    def runTest(self) -> None:
        self.setUp()
        self.test_acceptedSamplesChangeNothing()

    def test_acceptedSamplesChangeNothing(self) -> None:
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

    def madeUpVolume(self) -> vtkMRMLScalarVolumeNode:
        """Two slices of a noisy block of tissue in air."""
        import numpy as np

        hu = np.full((2, 32, 36), -1000.0)
        hu[:, 6:26, 6:30] = 40 + 30 * np.random.default_rng(0).normal(size=(2, 20, 24))
        return slicer.util.addVolumeFromArray(hu.astype(np.float32), name="Made up")
