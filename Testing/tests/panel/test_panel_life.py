"""What a panel leaves behind, and what it shows.

This is asked when it is visited, and when scenes are loaded and added.
"""

import gc
import logging

import host
import numpy as np
import pytest
from extension import PANELS


def volume(name):
    import slicer

    return slicer.util.addVolumeFromArray(np.arange(24.0).reshape(2, 3, 4), name=name)


def wrappers(widget):
    """How many parameter node wrappers of a panel's kind are alive."""
    gc.collect()
    return sum(type(thing) is type(widget._parameterNode) for thing in gc.get_objects())


@pytest.mark.parametrize("name", PANELS)
def test_a_visit_leaves_nothing_behind(module, name):
    widget = module(name)
    node, tags = widget._parameterNode.parameterNode, set()
    add, remove = node.AddObserver, node.RemoveObserver

    def counted(*arguments):
        tags.add(tag := add(*arguments))
        return tag

    node.AddObserver, node.RemoveObserver = counted, lambda tag: (tags.discard(tag), remove(tag))
    widget.parent.exit()
    widget.parent.enter()
    before = len(tags)
    assert before > 0 and wrappers(widget) == 1
    for _ in range(40):
        widget.parent.exit()
        widget.parent.enter()
    assert widget._parameterNode.parameterNode is node
    assert len(tags) == before and wrappers(widget) == 1
    del node.AddObserver, node.RemoveObserver


@pytest.mark.parametrize("name", PANELS)
def test_nothing_is_said_at_load(module, name, caplog):
    with caplog.at_level(logging.WARNING):
        module(name)
    assert [record.getMessage() for record in caplog.records] == []


def shown(selector):
    """The name that a node selector shows; None where it shows none."""
    node = selector.currentNode()
    return None if node is None else node.GetName()


def selectors(widget):
    """The node selectors that a panel makes in code or fills by itself, with what they show."""
    names = {
        "IdealInput": "maskSelector",
        "Invariances": "segmentationSelector",
        "MRFlowHarmonize": "maskSelector",
    }
    made = getattr(widget, "_selectors", {})
    return {**made, "": getattr(widget.ui, names[widget.moduleName])}


def choose(widget):
    """Choose another node in each of these selectors."""
    import slicer

    for number, (role, selector) in enumerate(selectors(widget).items()):
        label = (
            slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mask")
            if role == ""
            else None
        )
        selector.setCurrentNode(label or volume(f"image {number}"))
    return {role: shown(selector) for role, selector in selectors(widget).items()}


@pytest.mark.parametrize("name", PANELS)
def test_the_selectors_show_what_a_loaded_scene_has_chosen(module, name, scene, tmp_path):
    import slicer

    widget = module(name)
    chosen = choose(widget)
    assert None not in chosen.values()
    assert slicer.util.saveScene(str(tmp_path / "scene.mrml"))
    host.close()
    assert set(map(shown, selectors(widget).values())) == {None}
    slicer.util.loadScene(str(tmp_path / "scene.mrml"))
    assert {role: shown(selector) for role, selector in selectors(widget).items()} == chosen


@pytest.mark.parametrize("entered", [True, False])
@pytest.mark.parametrize("name", PANELS)
def test_what_is_added_to_the_scene_takes_no_choice_away(module, name, scene, tmp_path, entered):
    import slicer

    volume("more")
    assert slicer.util.saveScene(str(tmp_path / "more.mrml"))
    host.close()
    widget = module(name)
    chosen = choose(widget)
    if not entered:
        widget.parent.exit()
    scene.SetURL(str(tmp_path / "more.mrml"))
    assert scene.Import() and scene.GetFirstNodeByName("more") is not None
    if not entered:
        widget.parent.enter()
    assert {role: shown(selector) for role, selector in selectors(widget).items()} == chosen


EVIL = '<b>CT</b> & "mask" <script>'
"""What a node or a model may be called."""


@pytest.mark.parametrize(
    "text", ["plain, 3 < 4", EVIL, "&lt;b&gt;", "first\n<i>second</i>", "<b>CT", "a < b > c"]
)
def test_a_text_is_shown_as_it_is(module, text):
    from NetInversionLib.panel.texts import literal

    assert host.shown_text(literal(text)) == text
    if "<" not in text and "&" not in text:
        assert literal(text) == text


def test_a_model_s_card_is_shown_as_it_is_written(module, scene):
    from dataclasses import replace

    from NetInversionLib import models
    from NetInversionLib.panel import pictures

    _path, card = next(iter(models.list_models().items()))
    channel = replace(card.inputs[0], name=EVIL, units="<u>HU</u>")
    card = replace(card, name=EVIL, inputs=(channel,), trained_on=(EVIL,), intended_use=EVIL)
    shown = host.shown_text(pictures.cardText("/folder/<i>file.safetensors", card))
    lines = shown.split("\n")
    assert lines[0] == f"{EVIL}, <i>file.safetensors" and lines[-1] == EVIL
    assert f"Takes {EVIL} (<u>HU</u>)" in lines[1] and f"Trained on: {EVIL}." in lines


def test_a_name_that_looks_like_html_stays_what_it_is(module, scene):
    widget = module("MRFlowHarmonize")
    widget.say(f"'{EVIL}' was removed")
    assert host.shown_text(widget.ui.statusLabel.text) == f"'{EVIL}' was removed"
    assert widget.ui.logText.toPlainText().endswith(f"'{EVIL}' was removed")


@pytest.mark.parametrize("name", PANELS)
def test_a_panel_speaks_german(module, name, monkeypatch):
    """Labels, tooltips, units and what an empty selector says; the code finds its choices still."""
    monkeypatch.setenv("NETINVERSION_LANGUAGE", "de")
    ui = module(name).ui
    assert ui.modelSelector.toolTip.startswith("D")
    assert ui.regionLabel.text == "&Bereich:" if hasattr(ui, "regionLabel") else name[0] == "M"
    assert ui.advancedCollapsibleButton.text == "Erweitert"
    assert ui.applyButton.text == "Anwenden"
    if name == "IdealInput":
        assert (
            ui.memorySpinBox.suffix == " GB" and ui.memorySpinBox.specialValueText == "automatisch"
        )
    if name == "Invariances":
        assert ui.epsilonSlider.suffix == ui.textureSpinBox.suffix == " HE"
        assert ui.segmentationSelector.noneDisplay == "Keine Auswahl"
