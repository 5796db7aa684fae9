"""What the modules share, in the smallest module that uses it: a volume in, a multiple out."""

import sys

import host
import job_analyses
import numpy as np
import pytest
from test_ideal_input_module import NAME, save_model

from NetInversionLib.jobs import request

host.start()

from NetInversionLib.panel import job  # noqa: E402

CODE = """
import slicer
from slicer import vtkMRMLScalarVolumeNode
from slicer.parameterNodeWrapper import parameterNodeWrapper
from slicer.ScriptedLoadableModule import ScriptedLoadableModule

from NetInversionLib import jobs
from NetInversionLib.core import steps
from NetInversionLib.panel import logic, panel, running
from NetInversionLib.scene import read


class Doubler(ScriptedLoadableModule):
    pass


@parameterNodeWrapper
class DoublerParameterNode:
    inputVolume: vtkMRMLScalarVolumeNode
    model: str
    fromFile: bool
    modelFile: str
    device: str = "auto"
    worker: bool = False
    run: str


class DoublerWidget(panel.ModulePanel):
    APPLY_TIP = "Double it."
    CURVE_LABELS = ("step", "loss")

    def setup(self):
        self.setupPanel(DoublerLogic())
        self.initializeParameterNode()

    def problems(self):
        return [] if self._parameterNode.inputVolume else ["Choose a volume."]

    def prepareRun(self):
        node = self._parameterNode.inputVolume
        return running.Run(self.logic.requestSteps(node), self._card, {"volume": node})

    def showSteps(self):
        nodes = self.logic.resultNodes(self._parameterNode.run)
        slicer.util.setSliceViewerLayers(background=nodes["volume"])
        yield True


class DoublerLogic(logic.ModuleLogic):
    TITLE = "Doubler"
    PARAMETERS = DoublerParameterNode

    def requestSteps(self, node, factor=2):
        volume = yield from read.read_volume(node)
        return jobs.Request("double", {"volume": volume}, {}, {"factor": factor})

    def run(self, node, **settings):
        request = steps.finish(self.requestSteps(node, **settings))
        return self.addResult(jobs.run_here(request), node)
"""

WIDGETS = {
    "QComboBox": ("modelSelector", "deviceSelector", "shownRunSelector"),
    "ctkPathLineEdit": ("modelFileEdit",),
    "QLabel": ("modelFileLabel", "modelInfoLabel", "estimateLabel", "statusLabel", "curveLabel"),
    "ctkCollapsibleButton": (
        "inputsCollapsibleButton",
        "outputsCollapsibleButton",
        "advancedCollapsibleButton",
        "resultsCollapsibleButton",
    ),
    "QPushButton": ("applyButton", "deleteRunButton"),
    "QProgressBar": ("progressBar",),
    "QPlainTextEdit": ("logText",),
}
INSIDE = {"resultsCollapsibleButton": '<layout class="QFormLayout" name="results"></layout>'}
SELECTOR = """<item><widget class="qMRMLNodeComboBox" name="inputSelector">
<property name="nodeTypes">
<stringlist><string>vtkMRMLScalarVolumeNode</string></stringlist></property>
<property name="SlicerParameterName" stdset="0"><string>inputVolume</string></property>
</widget></item>"""


CONNECTION = """<connections><connection><sender>Doubler</sender>
<signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
<receiver>inputSelector</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections>"""


def ui():
    """All that ModulePanel asks for, and a selector."""
    items = "".join(
        f'<item><widget class="{kind}" name="{name}">{INSIDE.get(name, "")}</widget></item>'
        for kind, names in WIDGETS.items()
        for name in names
    )
    custom = "".join(
        f"<customwidget><class>{name}</class><extends>QWidget</extends><header>{name}.h</header></customwidget>"
        for name in ("ctkPathLineEdit", "ctkCollapsibleButton", "qMRMLNodeComboBox", "qMRMLWidget")
    )
    return (
        '<ui version="4.0"><class>Doubler</class><widget class="qMRMLWidget" name="Doubler"><layout'
        ' class="QVBoxLayout" '
        f'name="top">{items}{SELECTOR}</layout></widget><customwidgets>{custom}</customwidgets>{CONNECTION}</ui>'
    )


@pytest.fixture
def widget(module, tmp_path, monkeypatch):
    folder = tmp_path / "Doubler"
    (folder / "Resources" / "UI").mkdir(parents=True)
    (folder / "Doubler.py").write_text(CODE)
    (folder / "Resources" / "UI" / "Doubler.ui").write_text(ui())
    (tmp_path / "models").mkdir()
    save_model(tmp_path / "models" / NAME)
    monkeypatch.setenv("NETINVERSION_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(request, "ANALYSES", job_analyses.ANALYSES)
    monkeypatch.setattr(job, "find_python", lambda: job_analyses.launcher(tmp_path))
    return module(folder / "Doubler.py")


@pytest.fixture
def node(widget):
    import slicer

    node = slicer.util.addVolumeFromArray(np.arange(24.0).reshape(2, 3, 4), name="mine")
    widget.ui.inputSelector.setCurrentNode(node)
    return node


def test_a_panel_needs_little_code(widget):
    own = CODE[CODE.index("class DoublerWidget") : CODE.index("class DoublerLogic")]
    assert len([line for line in own.splitlines() if line.strip()]) < 20
    assert not widget.ui.applyButton.enabled and widget.ui.applyButton.toolTip == "Choose a volume."
    assert (
        "Tiny" in widget.ui.modelInfoLabel.text
        and widget.ui.deviceSelector.currentText == "Automatic"
    )


@pytest.mark.parametrize("worker", [False, True])
def test_apply_runs_writes_and_shows(widget, node, worker):
    import slicer

    widget._parameterNode.worker = worker
    assert widget.ui.applyButton.toolTip == "Double it."
    for _ in range(2):
        widget.ui.applyButton.click()
        host.wait(lambda: widget._going is None, 60)
        found = widget.logic.resultNodes(widget._parameterNode.run)
        assert found.keys() == {"volume", "errors", "loss", "facts"}
        np.testing.assert_array_equal(
            slicer.util.arrayFromVolume(found["volume"]), 2 * np.arange(24.0).reshape(2, 3, 4)
        )
        shown = (
            slicer.app.layoutManager()
            .sliceWidget("Red")
            .mrmlSliceCompositeNode()
            .GetBackgroundVolumeID()
        )
        assert shown == found["volume"].GetID()
    assert "Done" in widget.ui.statusLabel.text and "started" in widget.ui.logText.toPlainText()
    assert (
        not widget.ui.resultsCollapsibleButton.isHidden() and widget.ui.applyButton.text == "Apply"
    )


def test_the_console_runs_at_once(widget, node):
    import slicer

    output = widget.logic.run(node, factor=3)
    np.testing.assert_array_equal(
        slicer.util.arrayFromVolume(output.nodes["volume"]), 3 * np.arange(24.0).reshape(2, 3, 4)
    )
    assert output.tables["errors"] is output.nodes["errors"] and output.facts["seed"] == 7


def test_a_failure_is_said_and_the_panel_goes_on(widget, node, monkeypatch):
    monkeypatch.setattr(request, "ANALYSES", {"double": ("job_analyses", "fail")})
    before = widget.ui.logText.toPlainText()
    widget.ui.applyButton.click()
    assert "unexpected error: KeyError: 'how'" in widget.ui.statusLabel.text
    assert (
        widget._going is None
        and widget.ui.applyButton.enabled
        and widget.ui.logText.toPlainText() != before
    )
    assert "facts" in widget.logic.resultNodes(widget._parameterNode.run)  # its intermediate result


def test_a_result_that_was_removed_is_shown_no_longer(widget, node):
    import slicer

    widget.ui.applyButton.click()
    host.wait(lambda: widget._going is None, 60)
    section = widget.ui.resultsCollapsibleButton
    assert section.visible
    for part in widget.logic.resultNodes(widget._parameterNode.run).values():
        slicer.mrmlScene.RemoveNode(part)
    host.wait(lambda: not section.visible, 10, "The result's section hides")


def test_a_parameter_node_that_was_removed_is_followed_by_a_new_one(widget, node):
    import slicer

    old = widget._parameterNode.parameterNode
    slicer.mrmlScene.RemoveNode(old)
    host.wait(lambda: widget._parameterNode.parameterNode is not old, 10, "A new parameter node")
    assert not widget.ui.applyButton.enabled and widget.ui.applyButton.toolTip == "Choose a volume."
    widget.ui.inputSelector.setCurrentNode(None)
    widget.ui.inputSelector.setCurrentNode(node)
    widget.ui.applyButton.click()
    host.wait(lambda: widget._going is None, 60)
    saved = slicer.mrmlScene.GetSingletonNode("Doubler", "vtkMRMLScriptedModuleNode")
    assert saved.GetParameter("run") and widget.ui.resultsCollapsibleButton.visible


def test_a_run_survives_the_removal_of_the_parameter_node(widget, node):
    import slicer

    widget._parameterNode.worker = True
    widget.ui.applyButton.click()
    slicer.mrmlScene.RemoveNode(widget._parameterNode.parameterNode)
    host.wait(lambda: widget._going is None, 60)
    saved = slicer.mrmlScene.GetSingletonNode("Doubler", "vtkMRMLScriptedModuleNode")
    assert saved is not None and widget.logic.resultNodes(saved.GetParameter("run"))


def nodes_of_the_scene():
    """All but what the application makes for views, by class and name."""
    import slicer

    return sorted(
        (node.GetClassName(), node.GetName() or "")
        for node in slicer.mrmlScene.GetNodes()
        if not node.IsA("vtkMRMLAbstractViewNode") and "Slice" not in node.GetClassName()
    )


def test_an_older_result_is_shown_when_it_is_chosen(widget, node):
    widget._parameterNode.worker = False
    for _ in range(2):
        widget.ui.applyButton.click()
        host.wait(lambda: widget._going is None, 60)
    first, second = widget.logic.runs()
    widget.ui.shownRunSelector.setCurrentIndex(0)
    widget.ui.shownRunSelector.activated.emit(0)
    assert widget._parameterNode.run == first != second
    widget.refresh()
    assert widget.ui.shownRunSelector.currentIndex == 0


@pytest.mark.parametrize("reloaded", [False, True])
def test_one_result_is_deleted_with_all_its_nodes_and_the_one_before_is_shown(
    widget, node, reloaded, monkeypatch
):
    """The scene's nodes are those from before the run, also after a reload of the panel."""
    import qt
    import slicer

    widget._parameterNode.worker = False

    def run():
        widget.ui.applyButton.click()
        host.wait(lambda: widget._going is None, 60)

    run()
    first, before = widget._parameterNode.run, nodes_of_the_scene()
    run()
    second, after = widget._parameterNode.run, nodes_of_the_scene()
    assert len(after) > len(before) and list(widget.logic.runs().values()) == ["mine", "mine (2)"]
    if reloaded:  # with the library, which the other tests hold on to
        for name in [name for name in sys.modules if name.split(".")[0] == "NetInversionLib"]:
            monkeypatch.setitem(sys.modules, name, sys.modules[name])
        widget.onReload()
        widget = slicer.modules.doubler.widgetRepresentation().self()
    selector = widget.ui.shownRunSelector
    assert selector.count == 2 and selector.itemData(selector.currentIndex) == second

    slicer.app.setTestingEnabled(False)  # else Slicer does not ask
    qt.replies.append(qt.QMessageBox.Cancel)
    widget.ui.deleteRunButton.click()
    assert "mine (2)" in str(qt.dialogs[-1]) and nodes_of_the_scene() == after
    qt.replies.append(qt.QMessageBox.Ok)
    widget.ui.deleteRunButton.click()
    assert nodes_of_the_scene() == before and widget._parameterNode.run == first
    assert selector.count == 1 and "deleted" in widget.ui.statusLabel.text

    qt.replies.append(qt.QMessageBox.Ok)
    widget.ui.deleteRunButton.click()
    assert not widget.logic.runs() and widget._parameterNode.run == ""
    assert (
        not widget.ui.resultsCollapsibleButton.isVisible() and node.GetScene() is slicer.mrmlScene
    )
