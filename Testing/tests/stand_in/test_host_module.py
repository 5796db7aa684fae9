"""A small module, written like Slicer's template, lives its whole life in the host."""

import os
import sys
import time
from pathlib import Path

import host
import pytest

CODE = """
import logging
from typing import Annotated, Optional

import slicer
import vtk
from slicer import vtkMRMLScalarVolumeNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import *
from slicer.util import VTKObservationMixin

FACTOR = 1


class Scaler(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Scaler")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Filtering")]
        self.parent.contributors = ["A. Person"]
        self.parent.helpText = _("Multiplies by {factor}.").format(factor=FACTOR)
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    import SampleData
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="Scaler",
        sampleName="ScalerRamp",
        uris="RAMP_URI",
        fileNames="ramp.nrrd",
        nodeNames="ScalerRamp",
    )


@parameterNodeWrapper
class ScalerParameterNode:
    inputVolume: vtkMRMLScalarVolumeNode
    outputVolume: vtkMRMLScalarVolumeNode
    scale: Annotated[float, WithinRange(0, 10)] = 2


class ScalerWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self._node = self._tag = None

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/Scaler.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.logic = ScalerLogic()
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.ui.applyButton.connect("clicked(bool)", self.onApply)
        self.initialize()

    def cleanup(self):
        self.setNode(None)
        self.removeObservers()

    def enter(self):
        self.initialize()

    def exit(self):
        self.setNode(None)

    def onSceneStartClose(self, caller, event):
        self.setNode(None)

    def onSceneEndClose(self, caller, event):
        if self.parent.isEntered:
            self.initialize()

    def initialize(self):
        self.setNode(self.logic.getParameterNode())

    def setNode(self, node):
        if self._node:
            self._node.disconnectGui(self._tag)
            self.removeObserver(self._node, vtk.vtkCommand.ModifiedEvent, self.check)
        self._node = node
        if node:
            self._tag = node.connectGui(self.ui)
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self.check)
            self.check()

    def check(self, caller=None, event=None):
        ready = self._node is not None and bool(self._node.inputVolume and self._node.outputVolume)
        self.ui.applyButton.enabled = ready
        self.ui.applyButton.toolTip = _("Scale") if ready else _("Select input and output volume")

    def onApply(self):
        with slicer.util.tryWithErrorDisplay(_("Scaling failed."), waitCursor=True):
            self.logic.run(self._node.inputVolume, self._node.outputVolume, self._node.scale)
            slicer.util.setSliceViewerLayers(background=self._node.outputVolume, fit=True)


class ScalerLogic(ScriptedLoadableModuleLogic):
    def getParameterNode(self):
        return ScalerParameterNode(super().getParameterNode())

    def run(self, source, target, scale):
        if source is target:
            raise ValueError("input and output must differ")
        array = slicer.util.arrayFromVolume(source)
        slicer.util.updateVolumeFromArray(target, FACTOR * scale * array)
        target.CreateDefaultDisplayNodes()
        logging.info("scaled")


class ScalerTest(ScriptedLoadableModuleTest):
    def setUp(self):
        slicer.mrmlScene.Clear()

    def test_scale(self):
        import numpy as np
        source = slicer.util.addVolumeFromArray(np.ones((2, 3, 4)))
        target = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
        ScalerLogic().run(source, target, 3)
        self.assertEqual(slicer.util.arrayFromVolume(target).max(), 3 * FACTOR)
"""


def widget(kind, name, body=""):
    return f'<item><widget class="{kind}" name="{name}">{body}</widget></item>'


def prop(name, kind, value, own=True):
    dynamic = "" if own else ' stdset="0"'
    return f'<property name="{name}"{dynamic}><{kind}>{value}</{kind}></property>'


def selector(name, parameter, more=""):
    types = (
        "<property"
        ' name="nodeTypes"><stringlist><string>vtkMRMLScalarVolumeNode</string></stringlist>'
        "</property>"
    )
    return widget(
        "qMRMLNodeComboBox",
        name,
        types
        + prop("showChildNodeTypes", "bool", "false")
        + more
        + prop("SlicerParameterName", "string", parameter, own=False),
    )


def panel(
    connections=("inputSelector", "outputSelector"), slot="setMRMLScene(vtkMRMLScene*)", extra=""
):
    """The module's .ui file as Designer writes it."""
    inputs = selector("inputSelector", "inputVolume", prop("addEnabled", "bool", "false"))
    outputs = selector(
        "outputSelector",
        "outputVolume",
        prop("noneEnabled", "bool", "true") + prop("noneDisplay", "string", "Create new volume"),
    )
    slider = widget(
        "ctkSliderWidget",
        "scaleSlider",
        prop("decimals", "number", 3) + prop("SlicerParameterName", "string", "scale", own=False),
    )
    section = widget(
        "ctkCollapsibleButton",
        "inputsSection",
        prop("text", "string", "Inputs")
        + f'<layout class="QVBoxLayout" name="sectionLayout">{inputs}{outputs}{slider}</layout>',
    )
    advanced = widget(
        "ctkCollapsibleButton",
        "advancedSection",
        prop("collapsed", "bool", "true")
        + (
            '<layout class="QVBoxLayout" name="advancedLayout">'
            + widget("QLabel", "hint", prop("text", "string", "hint"))
            + widget(
                "ctkPathLineEdit",
                "pathEdit",
                '<property name="filters"><set>ctkPathLineEdit::Files|'
                "ctkPathLineEdit::Readable</set></property>",
            )
            + "</layout>"
        ),
    )
    button = widget(
        "QPushButton",
        "applyButton",
        prop("enabled", "bool", "false") + prop("text", "string", "Apply"),
    )
    spacer = (
        f'<item><spacer name="space">{prop("orientation", "enum", "Qt::Vertical")}</spacer></item>'
    )
    links = "".join(
        "<connection><sender>Scaler</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>"
        f"<receiver>{name}</receiver><slot>{slot}</slot></connection>"
        for name in connections
    )
    customs = "".join(
        f"<customwidget><class>{name}</class><extends>QWidget</extends>"
        f"<header>{name}.h</header>"
        f"<container>{int(name in ('qMRMLWidget', 'ctkCollapsibleButton'))}</container>"
        "</customwidget>"
        for name in (
            "qMRMLNodeComboBox",
            "qMRMLWidget",
            "ctkCollapsibleButton",
            "ctkSliderWidget",
            "ctkPathLineEdit",
        )
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ui version="4.0"><class>Scaler</class><widget'
        ' class="qMRMLWidget" '
        'name="Scaler"><layout class="QVBoxLayout"'
        f' name="top">{section}{advanced}{extra}{button}{spacer}</layout>'
        f"</widget><customwidgets>{customs}</customwidgets><resources/><connections>{links}</connections></ui>"
    )


@pytest.fixture
def write(tmp_path):
    """Writes the module's files (anew) and returns the path of its .py."""

    def write(code=CODE, ui=None):
        folder = tmp_path / "Scaler"
        (folder / "Resources" / "UI").mkdir(parents=True, exist_ok=True)
        (folder / "Resources" / "UI" / "Scaler.ui").write_text(ui or panel())
        (folder / "Scaler.py").write_text(
            code.replace("RAMP_URI", (tmp_path / "ramp source.nrrd").as_uri())
        )
        return folder / "Scaler.py"

    yield write
    sys.path[:] = [p for p in sys.path if not p.startswith(str(tmp_path))]


TEMPLATE = Path(
    os.environ.get("SLICER_BASE_PYTHON", "/nowhere"),
    "../../Utilities/Templates/Modules/Scripted/TemplateKey.py",
)


@pytest.mark.skipif(not TEMPLATE.is_file(), reason="Slicer's template: set SLICER_BASE_PYTHON")
def test_slicers_own_template_runs_unmodified(module, scene):
    widget = module(TEMPLATE)
    assert [
        e for e in host.errors if "TemplateKey1.png" not in e
    ] == []  # the template names a thumbnail that it lacks
    host.errors.clear()
    widget.ui.inputSelector.setCurrentNode(ramp())
    widget.ui.outputSelector.addNode()
    widget.ui.imageThresholdSliderWidget.value = 33.3
    assert widget.ui.applyButton.enabled and widget._parameterNode.imageThreshold == 33.3


@pytest.fixture
def scaler(write, module):
    return module(write())


def ramp(name="ramp"):
    import numpy as np
    import slicer

    return slicer.util.addVolumeFromArray(
        np.arange(60, dtype=np.float32).reshape(3, 4, 5), name=name
    )


def test_choose_apply_and_read_the_result(scaler, scene):
    import slicer

    source, ui = ramp(), scaler.ui
    assert not ui.applyButton.enabled and ui.applyButton.toolTip == "Select input and output volume"
    ui.applyButton.click()  # does nothing: it is disabled
    ui.inputSelector.setCurrentNode(source)
    target = ui.outputSelector.addNode()
    ui.scaleSlider.value = 2.5
    assert ui.applyButton.enabled and ui.applyButton.toolTip == "Scale"
    ui.applyButton.click()
    host.wait(lambda: target.GetImageData() is not None)
    assert (slicer.util.arrayFromVolume(target) == 2.5 * slicer.util.arrayFromVolume(source)).all()
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
    assert red.GetBackgroundVolumeID() == target.GetID()
    assert slicer.modules.scaler.title == "Scaler" and slicer.modules.ScalerWidget is scaler


def test_errors_at_apply_are_shown_once_and_recorded(scaler):
    import qt
    import slicer

    slicer.app.setTestingEnabled(False)
    node = ramp()
    scaler.ui.inputSelector.setCurrentNode(node)
    scaler.ui.outputSelector.setCurrentNode(node)
    qt.replies.append(qt.QMessageBox.Ok)
    scaler.ui.applyButton.click()
    assert [d["text"] for d in qt.dialogs] == ["Scaling failed.\n\ninput and output must differ"]
    assert len(host.errors) == 1 and "input and output must differ" in host.errors.pop()


@pytest.mark.parametrize("file", ["scene.mrml", "scene.mrb"])
def test_choices_survive_saving_closing_and_loading(scaler, scene, tmp_path, file):
    import slicer

    scaler.ui.inputSelector.setCurrentNode(ramp())
    scaler.ui.outputSelector.addNode().SetName("scaled")
    scaler.ui.scaleSlider.value = 3.25
    scaler.ui.applyButton.click()
    slicer.util.saveNode(slicer.util.getNode("ramp"), str(tmp_path / "ramp.nrrd"))
    slicer.util.saveNode(slicer.util.getNode("scaled"), str(tmp_path / "scaled.nrrd"))
    assert slicer.util.saveScene(str(tmp_path / file))
    host.close()
    ui = scaler.ui
    assert (
        ui.inputSelector.currentNode() is None
        and ui.scaleSlider.value == 2
        and not ui.applyButton.enabled
    )
    slicer.util.loadScene(str(tmp_path / file))
    scaler.initialize()
    assert (
        ui.inputSelector.currentNode().GetName() == "ramp"
        and ui.outputSelector.currentNode().GetName() == "scaled"
    )
    assert ui.scaleSlider.value == 3.25 and ui.applyButton.enabled
    assert slicer.util.arrayFromVolume(slicer.util.getNode("scaled")).max() == 59 * 3.25


def test_reload_takes_the_new_source_and_keeps_the_choices(scaler, write, scene):
    import slicer

    source = ramp()
    scaler.ui.inputSelector.setCurrentNode(source)
    target = scaler.ui.outputSelector.addNode()
    write(CODE.replace("FACTOR = 1", "FACTOR = 100"), panel().replace(">Apply<", ">Scale now<"))
    scaler.onReload()
    new = slicer.modules.ScalerWidget
    assert new is not scaler and new.parent is scaler.parent and new.parent.isEntered
    assert new.ui.applyButton.text == "Scale now" and new.ui.inputSelector.currentNode() is source
    new.ui.applyButton.click()
    assert slicer.util.arrayFromVolume(target).max() == 59 * 100 * 2
    assert not scaler.ui.applyButton.isVisible()


def test_modules_are_left_entered_and_unloaded(scaler, write, module, tmp_path, scene):
    import slicer

    other = tmp_path / "Other.py"
    other.write_text(
        "from slicer.ScriptedLoadableModule import *\nclass Other(ScriptedLoadableModule):\n   "
        " pass\nclass OtherWidget(ScriptedLoadableModuleWidget):\n    pass\n"
    )
    module(other)
    assert (
        not scaler.parent.isEntered
        and scaler._node is None
        and slicer.util.selectedModule() == "Other"
    )
    slicer.util.selectModule("Scaler")
    assert scaler.parent.isEntered and slicer.util.getModuleWidget("Scaler") is scaler
    host.unload_module("Scaler")
    assert (
        not hasattr(slicer.modules, "scaler")
        and "Scaler" not in sys.modules
        and scaler._node is None
    )
    before = scaler.ui.inputSelector.nodeCount()
    ramp()
    assert scaler._node is None and before == 0


def test_the_self_test_runs(scaler):
    import slicer

    slicer.selfTests["Scaler"]()


def test_sample_data_is_registered_and_loads(scaler, tmp_path, scene):
    import SampleData
    import slicer

    assert slicer.util.saveNode(ramp(), str(tmp_path / "ramp source.nrrd"))
    node = SampleData.downloadSample("ScalerRamp")
    assert node.GetName() == "ScalerRamp" and slicer.util.arrayFromVolume(node).max() == 59
    calls = []
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        sampleName="Made", uris="made", nodeNames="Made", customDownloader=calls.append
    )
    SampleData.press("Made")
    assert [source.sampleName for source in calls] == ["Made"]
    with pytest.raises(ValueError, match="uris"):
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            sampleName="NoUri", customDownloader=print
        )


def test_developer_mode_shows_the_reload_section(write, module):
    import qt

    qt.QSettings().setValue("Developer/DeveloperMode", True)
    try:
        widget = module(write())
        widget.reloadButton.click()
        import slicer

        assert slicer.modules.ScalerWidget is not widget
    finally:
        qt.QSettings().remove("Developer/DeveloperMode")


@pytest.mark.parametrize(
    ("ui", "says"),
    [
        (
            panel(extra=widget("qMRMLVolumeThresholdWidget", "threshold")),
            "qMRMLVolumeThresholdWidget",
        ),
        (panel(slot="setScene(vtkMRMLScene*)"), "setScene"),
        (panel(connections=["missing"]), "missing"),
    ],
)
def test_a_ui_file_that_slicer_could_not_use_is_an_error(write, module, ui, says):
    with pytest.raises((RuntimeError, AttributeError, KeyError), match=says):
        module(write(ui=ui))


def test_a_selector_that_is_not_connected_gets_no_scene(write, module, scene):
    ui = module(write(ui=panel(connections=["outputSelector"]))).ui
    assert ui.inputSelector.mrmlScene() is None and not ui.inputSelector.enabled
    assert ui.outputSelector.mrmlScene() is scene


def test_ui_details_arrive(scaler):
    import ctk
    import qt
    import slicer

    ui = scaler.ui
    assert (
        type(ui.inputSelector) is slicer.qMRMLNodeComboBox
        and type(ui.scaleSlider) is ctk.ctkSliderWidget
    )
    assert ui.pathEdit.filters == ctk.ctkPathLineEdit.Files | ctk.ctkPathLineEdit.Readable
    assert ui.advancedSection.collapsed and not ui.hint.isVisibleTo(ui.advancedSection)
    ui.advancedSection.collapsed = False
    assert (
        ui.hint.isVisibleTo(ui.advancedSection)
        and ui.outputSelector.noneDisplay == "Create new volume"
    )
    assert ui.inputSelector.parent() is ui.inputsSection and scaler.parent.layout().count() == 1
    assert isinstance(scaler.layout, qt.QVBoxLayout)


def test_selectors_offer_what_slicers_would(scaler, scene):
    import slicer

    ui, volume = scaler.ui, ramp()
    scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "rgb")
    scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    hidden = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "hidden")
    assert hidden.IsA("vtkMRMLScalarVolumeNode") and ui.inputSelector.nodeCount() == 2
    hidden.SetHideFromEditors(True)
    ui.inputSelector.showHidden = False
    assert ui.inputSelector.nodeCount() == 1
    ui.inputSelector.setCurrentNode(volume)
    got = []
    ui.inputSelector.connect("currentNodeChanged(vtkMRMLNode*)", got.append)
    ui.inputSelector.connect("currentNodeChanged(bool)", got.append)
    renamed = []
    ui.inputSelector.connect("currentNodeRenamed(QString)", renamed.append)
    volume.SetName("pelvis")
    assert renamed == [] and got == [
        volume,
        True,
    ]  # only the selector's own dialog says that it renames
    scene.RemoveNode(volume)
    assert got[2:] == [None, False] and ui.inputSelector.currentNodeID == ""
    ui.outputSelector.baseName = "ideal input"
    names = [ui.outputSelector.addNode().GetName() for _ in range(2)]
    assert names == ["ideal input", "ideal input_1"]
    assert ui.outputSelector.currentNode() is slicer.util.getNode("ideal input_1")


@pytest.mark.parametrize("line", ["self.parent.titel = 'x'", "slicer.app.noSuchThing()", "_(3)"])
def test_mistakes_in_the_module_are_found(write, line):
    code = CODE.replace(
        "        self.parent.contributors", f"        {line}\n        self.parent.contributors"
    )
    with pytest.raises((AttributeError, TypeError)):
        host.load_module(write(code))


def test_waiting_measures_how_long_the_event_loop_was_not_served(scene):
    import qt

    done = []
    qt.QTimer.singleShot(300, lambda: (time.sleep(0.2), done.append(1)))
    waited = host.wait(lambda: done)
    assert 0.2 <= waited.largest_gap_s < 0.8 * waited.elapsed_s
    with pytest.raises(TimeoutError, match="never"):
        host.wait(lambda: False, 0.05, "never")
    smooth = [
        host.wait(lambda until=time.perf_counter() + 0.3: time.perf_counter() > until)
        for _ in range(3)
    ]
    assert min(other.largest_gap_s for other in smooth) < waited.largest_gap_s / 2


def test_modules_come_from_the_installed_folder_when_one_is_named(write, scene, monkeypatch):
    path = write()
    monkeypatch.setenv("NETINVERSION_MODULES", str(path.parent))
    assert (
        host.open_module("Scaler").moduleName == "Scaler"
        and Path(sys.modules["Scaler"].__file__) == path
    )
    assert os.path.normpath(sys.path[-1]) == str(path.parent)
    with pytest.raises(FileNotFoundError, match="Missing"):
        host.load_module("Missing")


def test_the_panel_can_be_pictured(scaler, tmp_path):
    ramp("CT of the pelvis")
    path = host.grab(scaler.parent, tmp_path / "panel.png")
    assert path.stat().st_size > 2000
