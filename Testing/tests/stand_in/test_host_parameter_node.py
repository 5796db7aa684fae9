"""The host's parameterNodeWrapper stores what Slicer's stores.

With SLICER_BASE_PYTHON these run on Slicer's own.
"""

# ruff: noqa: E402 (the host must run before anything of Slicer's can be imported)

import enum
import math
import os
import pathlib
from contextlib import nullcontext
from typing import Annotated, Optional, Union

import host
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

host.start()
import ctk
import qt
import slicer
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLTableNode
from slicer.parameterNodeWrapper import (
    Choice,
    Decimals,
    Default,
    Maximum,
    Minimum,
    WithinRange,
    parameterNodeWrapper,
)

SLICERS_OWN = "SLICER_BASE_PYTHON" in os.environ
quick = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Start(enum.Enum):
    PATIENT = 1
    NOISE = 2

    def label(self):
        return self.name.capitalize()


@parameterNodeWrapper
class Parameters:
    volume: vtkMRMLScalarVolumeNode
    result: Optional[vtkMRMLScalarVolumeNode]
    either: Union[vtkMRMLScalarVolumeNode, vtkMRMLTableNode, None]
    steps: Annotated[int, WithinRange(1, 500)] = 100
    weight: Annotated[float, Minimum(0), Maximum(10), Decimals(3)] = 1.0
    bounds: bool = True
    note: str
    start: Start
    limit: Optional[int]
    device: Annotated[str, Choice(["auto", "cpu", "cuda"])] = "auto"
    model: pathlib.Path
    folder: pathlib.Path
    tolerance: Annotated[float, Default(0.5)]
    share: Annotated[float, WithinRange(0, 1)] = 0.25


@pytest.fixture
def node(scene):
    return scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "Parameters")


def stored(node):
    return {name: node.GetParameter(name) for name in node.GetParameterNames()}


def test_defaults_are_written_as_slicer_writes_them(node):
    Parameters(node)
    assert stored(node) == {
        "volume": "",
        "result.1": "True",
        "either.2": "True",
        "steps": "100",
        "weight": "1.0",
        "bounds": "True",
        "note": "",
        "start": "PATIENT",
        "limit.1": "True",
        "device": "auto",
        "model": ".",
        "folder": ".",
        "tolerance": "0.5",
        "share": "0.25",
    }


@quick
@given(
    steps=st.integers(1, 500),
    weight=st.floats(0, 10),
    bounds=st.booleans(),
    start=st.sampled_from(Start),
    note=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])),
    limit=st.none() | st.integers(-9, 9),
)
def test_values_come_back_exactly(node, **values):
    parameters = Parameters(node)
    for name, value in values.items():
        setattr(parameters, name, value)
    again = Parameters(node)
    assert {name: getattr(again, name) for name in values} == values
    assert type(again.steps) is int and math.copysign(1, again.weight) == math.copysign(
        1, values["weight"]
    )


def test_nodes_are_references_that_survive_the_scene_file(scene, node, tmp_path):
    parameters = Parameters(node)
    parameters.volume = parameters.result = parameters.either = volume = (
        slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "patient")
    )
    parameters.start, parameters.limit = Start.NOISE, 7
    assert node.GetNodeReference("volume") is node.GetNodeReference("result.0") is volume
    parameters.either = table = scene.AddNewNodeByClass("vtkMRMLTableNode", "table")
    assert node.GetNodeReference("either.1") is table and node.GetNodeReference("either.0") is None
    before = stored(node)
    assert slicer.util.saveScene(str(tmp_path / "scene.mrml"))
    host.close()
    assert scene.GetFirstNodeByName("Parameters") is None
    slicer.util.loadScene(str(tmp_path / "scene.mrml"))
    loaded = scene.GetFirstNodeByName("Parameters")
    again = Parameters(loaded)
    assert (
        stored(loaded) == before
        and again.volume.GetName() == "patient"
        and again.either.GetName() == "table"
    )
    assert again.start is Start.NOISE and again.limit == 7
    scene.RemoveNode(again.volume)
    assert again.volume is None


@pytest.mark.parametrize(
    ("name", "wrong", "error"),
    [
        ("steps", 0, ValueError),
        ("steps", 501, ValueError),
        ("weight", -0.1, ValueError),
        ("weight", 10.5, ValueError),
        ("steps", 1.5, TypeError),
        ("steps", None, (TypeError, ValueError)),
        ("note", 3, TypeError),
        ("start", "NOISE", TypeError),
        ("device", "mps", ValueError),
        ("bounds", "True", TypeError),
        ("volume", "patient", TypeError),
    ],
)
def test_a_wrong_value_raises_and_changes_nothing(node, name, wrong, error):
    parameters = Parameters(node)
    before = stored(node)
    with pytest.raises(error):
        setattr(parameters, name, wrong)
    assert stored(node) == before


def test_a_node_of_another_class_is_refused(node, scene):
    with pytest.raises(TypeError):
        Parameters(node).volume = scene.AddNewNodeByClass("vtkMRMLTableNode", "table")


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # the end of Slicer's half-made wrapper
def test_an_unknown_enum_name_in_an_old_scene_is_an_error(node):
    node.SetParameter("start", "ZEROS")
    with pytest.raises(ValueError, match="ZEROS"):
        Parameters(node).start  # noqa: B018


@pytest.mark.parametrize("hint", [list[int], dict, complex, tuple[int, int]])
def test_an_unknown_type_is_refused(hint):
    known = SLICERS_OWN and hint is not complex  # Slicer has more types than the host
    with (
        nullcontext()
        if known
        else pytest.raises(Exception, match="no type|Unable to create serializer")
    ):
        parameterNodeWrapper(type("Lists", (), {"__annotations__": {"values": hint}}))


@pytest.fixture
def panel(scene):
    """One widget per parameter, named by the dynamic property as in a .ui file."""
    panel = qt.QWidget()
    widgets = {
        "volume": slicer.qMRMLNodeComboBox,
        "result": slicer.qMRMLNodeComboBox,
        "steps": qt.QSpinBox,
        "weight": ctk.ctkSliderWidget,
        "bounds": qt.QCheckBox,
        "note": qt.QLineEdit,
        "start": qt.QComboBox,
        "device": qt.QComboBox,
        "model": ctk.ctkPathLineEdit,
        "folder": ctk.ctkDirectoryButton,
        "tolerance": qt.QDoubleSpinBox,
        "share": ctk.ctkDoubleSlider,
    }
    for name, kind in widgets.items():
        widgets[name] = kind(panel)
        widgets[name].setObjectName(name)
        widgets[name].setProperty("SlicerParameterName", name)
    for name in ("volume", "result"):
        widgets[name].noneEnabled = True
        widgets[name].setMRMLScene(scene)
    return panel


def test_the_gui_follows_the_node_and_the_node_the_gui(panel, node, scene):
    a, b = (scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name) for name in "ab")
    parameters = Parameters(node)
    parameters.volume, parameters.weight, parameters.start = a, 2.5, Start.NOISE
    tag = parameters.connectGui(panel)
    assert (
        panel.volume.currentNode() is a
        and panel.weight.value == 2.5
        and panel.start.currentText == "Noise"
    )
    assert (panel.weight.minimum, panel.weight.maximum, panel.weight.decimals) == (0, 10, 3)
    assert (panel.steps.minimum, panel.steps.maximum) == (1, 500) and panel.device.count == 3

    panel.volume.setCurrentNode(b)
    panel.result.setCurrentNode(a)
    panel.steps.value, panel.weight.value, panel.bounds.checked = 33, 0.125, False
    panel.device.setCurrentText("cpu")
    panel.note.text, panel.start.currentIndex, panel.tolerance.value = "seen", 0, 0.25
    panel.model.currentPath, panel.folder.directory, panel.share.value = (
        "/models/unet.safetensors",
        "/cohort",
        0.125,
    )
    assert (
        parameters.volume,
        parameters.result,
        parameters.steps,
        parameters.weight,
        parameters.bounds,
    ) == (b, a, 33, 0.125, False)
    assert (parameters.note, parameters.start, parameters.device) == ("seen", Start.PATIENT, "cpu")
    assert (
        parameters.tolerance == 0.25
        and parameters.share == 0.125
        and parameters.folder == pathlib.Path("/cohort")
    )
    assert parameters.model == pathlib.Path("/models/unet.safetensors")

    parameters.steps, parameters.note = 44, "written"
    assert panel.steps.value == 44 and panel.note.text == "written"
    parameters.disconnectGui(tag)
    parameters.steps, panel.note.text = 55, "alone"
    assert panel.steps.value == 44 and parameters.note == "written"


def test_a_removed_node_leaves_the_selector_and_the_parameter(panel, node, scene):
    parameters = Parameters(node)
    parameters.connectGui(panel)
    parameters.volume = volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "gone")
    assert panel.volume.currentNode() is volume
    scene.RemoveNode(volume)
    assert panel.volume.currentNode() is None and parameters.volume is None


@pytest.mark.parametrize(
    ("widget", "name", "error"),
    [
        (qt.QSpinBox, "note", RuntimeError),
        (qt.QLineEdit, "steps", RuntimeError),
        (qt.QComboBox, "steps", RuntimeError),
        (qt.QWidget, "bounds", RuntimeError),
        (ctk.ctkSliderWidget, "tolerance", RuntimeError),
        (qt.QLineEdit, "missing", ValueError),
    ],
)
def test_a_binding_that_slicer_refuses_is_refused(node, widget, name, error):
    panel = qt.QWidget()
    widget(panel).setProperty("SlicerParameterName", name)
    with pytest.raises(error):
        Parameters(node).connectGui(panel)


def test_only_exact_widget_classes_are_bound(node):
    class Mine(qt.QSpinBox):
        pass

    panel = qt.QWidget()
    Mine(panel).setProperty("SlicerParameterName", "steps")
    with pytest.raises(RuntimeError, match="Unable to create GUI connector"):
        Parameters(node).connectGui(panel)


def test_changes_in_one_modify_block_arrive_once(panel, node):
    parameters, calls = Parameters(node), []
    parameters.AddObserver("ModifiedEvent", lambda *_: calls.append(1))
    with slicer.util.NodeModify(parameters):
        parameters.steps, parameters.note = 5, "x"
    assert len(calls) == 1
