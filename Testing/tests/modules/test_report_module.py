"""Reports from the panels: every module has the same buttons.

The page is the same after a scene was saved and opened again.
"""

import os
from pathlib import Path

import host
import pytest
import test_ideal_input_module as ideal
import test_invariances_module as inv
from pages import check_alone, check_same
from test_ideal_input_module import arrays, tiny  # noqa: F401 - fixtures
from test_invariances_module import denoiser  # noqa: F401 - fixture

from NetInversionLib.core.results import Result

host.start()


@pytest.fixture(params=["IdealInput", "Invariances"])
def panel(request, module, monkeypatch):
    """(panel of a module, function that chooses images for a short run and returns the first)."""
    file = request.getfixturevalue({"IdealInput": "tiny", "Invariances": "denoiser"}[request.param])
    monkeypatch.setenv("NETINVERSION_MODELS", str(file.parent))
    monkeypatch.delenv("NETINVERSION_DATA", raising=False)
    widget = module(request.param)

    def choose():
        if request.param == "Invariances":
            node = inv.add_ct()
            inv.choose(widget, node)
            return node
        nodes = ideal.add_nodes(request.getfixturevalue("arrays"))
        ideal.choose(widget, nodes)
        return nodes["in_phase"]

    return widget, choose


def run(widget):
    assert widget.ui.applyButton.enabled, widget.ui.applyButton.toolTip
    widget.ui.applyButton.click()
    host.wait(lambda: widget._going is None, 120, "The run's end")
    return widget.logic.resultNodes(widget._parameterNode.run)


def test_a_report_is_saved_and_shown_also_from_a_saved_scene(panel, tmp_path, monkeypatch):
    import qt
    import slicer

    widget, choose = panel
    buttons = widget.ui.saveReportButton, widget.ui.showReportButton
    assert not any(button.enabled for button in buttons) and "Apply" in buttons[0].toolTip
    source = choose()
    assert run(widget) and all(button.enabled for button in buttons)
    qt.replies.append(str(tmp_path / "first"))
    buttons[0].click()
    path = tmp_path / "first.html"
    page = path.read_text(encoding="utf-8")
    assert check_alone(page) and source.GetName() in page
    assert f"saved as {path}" in widget.ui.statusLabel.text
    offered = qt.dialogs[-1]["text"]
    assert f"{source.GetName()} {widget.logic.TITLE}.html" in offered

    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    host.close()
    assert not any(button.enabled for button in buttons)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    assert all(button.enabled for button in buttons)
    opened = []
    monkeypatch.setattr(
        qt.QDesktopServices, "openUrl", lambda url: opened.append(url.toLocalFile())
    )
    buttons[1].click()
    assert check_same(page, Path(opened[0]).read_text(encoding="utf-8")) >= 3
    if os.name == "posix":  # pictures of a patient are nobody else's
        assert not Path(opened[0]).parent.stat().st_mode & 0o077
    widget.cleanup()
    assert not Path(opened[0]).parent.exists(), "they go with the panel"


def test_what_is_missing_is_told(panel, tmp_path, monkeypatch):
    import qt
    import slicer

    widget, choose = panel
    source = choose()
    nodes = run(widget)
    with pytest.raises(ValueError, match="Press Apply"):
        widget.logic.saveReport({}, tmp_path / "a.html")

    # A dialog that is closed writes nothing; a folder that cannot be written is named.
    qt.replies.append("")
    widget.ui.saveReportButton.click()
    (tmp_path / "file").write_text("")
    qt.replies.append(str(tmp_path / "file" / "a.html"))
    widget.ui.saveReportButton.click()
    said = widget.ui.statusLabel.text
    assert "could not be written" in said and "Choose another folder" in said

    # Without the source there is a report all the same; without the figures there is none.
    slicer.mrmlScene.RemoveNode(source)
    check_alone(widget.logic.saveReport(nodes, tmp_path / "b.html").read_text(encoding="utf-8"))
    slicer.mrmlScene.RemoveNode(nodes["facts"])
    widget.refresh()
    assert not widget.ui.showReportButton.enabled
    assert "removed from the scene" in widget.ui.showReportButton.toolTip
    rest = widget.logic.resultNodes(widget._parameterNode.run)
    with pytest.raises(ValueError, match="Run .* again"):
        widget.logic.saveReport(rest, tmp_path / "c.html")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.html", "file"]


def test_no_browser_is_told_with_the_place(panel, monkeypatch):
    import qt

    widget, choose = panel
    choose()
    run(widget)
    monkeypatch.setattr(qt.QDesktopServices, "openUrl", lambda url: False)
    widget.ui.showReportButton.click()
    assert ".html: open it yourself" in widget.ui.statusLabel.text


def test_a_name_that_no_file_can_have_is_changed(panel):
    widget, choose = panel
    node = choose()
    node.SetName('CT <1>: "a/b"')
    nodes = widget.logic.addResult(Result(facts={"complete": True}), node).nodes
    name = widget.logic.reportName(nodes)
    assert name == f"CT -1-- -a-b- {widget.logic.TITLE}.html"
