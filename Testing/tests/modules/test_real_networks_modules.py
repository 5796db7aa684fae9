"""Real networks come in by the form of a panel, and both modules give a result.

Each network goes the way of a user: the form, what was found, Apply, the result in the scene. Here
the command and the run are called in this process, and some networks stand for all of their kind;
with NETINVERSION_REAL_NETWORKS set (Testing/real_networks.sh) all come in, by processes as in
Slicer.
"""

import contextlib
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import real_networks
from real_networks import NETWORKS

WHOLE = bool(os.environ.get("NETINVERSION_REAL_NETWORKS"))
if WHOLE:
    import torchvision  # noqa: F401  (its triton ends a process that has loaded VTK before)
import host

from NetInversionLib import cli
from NetInversionLib.models.foreign import formats

host.start()
import qt
import slicer

from NetInversionLib.panel import add_network

QUICK = ("published RED-CNN", "timm's attention")
TESTS = str(Path(real_networks.__file__).parent)
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(
        formats.torch_is_unsafe(), reason="checkpoints: PyTorch before 2.6 opens none safely"
    ),
]


class Here:
    """The command, called in this process."""

    running = False

    def __init__(self, words, on_line, on_answer, on_failed):
        said, told = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
            status = cli.main([*words, "--json"])
        answer = json.loads(said.getvalue())
        on_failed(answer["error"]) if status else on_answer(answer)

    def close(self):
        pass


@pytest.fixture
def ways(tmp_path, monkeypatch):
    monkeypatch.setenv("NETINVERSION_SETTINGS", str(tmp_path / "settings"))
    paths = [TESTS, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    if not WHOLE:
        monkeypatch.setattr(add_network, "Command", Here)
        monkeypatch.setattr("NetInversionLib.panel.logic.ModuleLogic.runsApart", lambda *of: False)


def added(widget, entry, path):
    """The network comes in by the form, and is confirmed."""
    selector = widget.ui.modelSelector
    selector.setCurrentIndex(selector.findText("Add a network..."))
    form, told = widget.addNetwork, entry.description(widget.logic.TASK)
    form.fileEdit.currentPath = str(path)
    if path.suffix != ".zip" and not (entry.known and widget.logic.TASK == "denoising"):
        form.classEdit.text = entry.spec
        form.argumentsEdit.text = json.dumps(entry.arguments)
    elif entry.untold:
        form.argumentsEdit.text = json.dumps(entry.untold)
    if widget.logic.TASK == "denoising":
        form.inputsEdit.text = form.outputsEdit.text = "CT (HU) -1000..1000"
        form.inputsEdit.text = "Low dose (HU) -1000..1000"
        scaling = "signed", "signed"
    else:
        form.inputsEdit.text, form.outputsEdit.text = "MR", "CT (HU) -500..800"
        scaling = told["inputs"][0]["scaling"], "unit"
    for chooser, value in zip((form.takenSelector, form.givenSelector), scaling):
        chooser.setCurrentIndex(chooser.findData(value))
    if form.trustCheckBox.isVisibleTo(form.dialog):
        form.trustCheckBox.checked = True
    assert form.addButton.enabled, form.statusLabel.text
    form.addButton.click()
    host.wait(
        lambda: form._command is not None and not form._command.running, 180, "The import's end"
    )
    assert form.useButton.isVisibleTo(form.dialog), form.statusLabel.text
    form.useButton.click()
    kept = Path(widget._parameterNode.modelFile)
    assert kept.is_file() and kept.stem in ("own", "own-2")


def applied(widget):
    assert widget.ui.applyButton.enabled, widget.ui.applyButton.toolTip
    widget.ui.applyButton.click()
    host.wait(lambda: widget._going is None, 240, "The run's end")
    nodes = widget.logic.resultNodes(widget._parameterNode.run)
    assert nodes, widget.ui.logText.toPlainText()
    return nodes


def add_volume(array, name):
    return slicer.util.addVolumeFromArray(array.astype(np.float32), name=name)


@pytest.mark.parametrize("name", NETWORKS if WHOLE else QUICK)
def test_a_real_network_comes_in_by_the_panel_and_both_modules_answer(name, module, tmp_path, ways):
    entry = NETWORKS[name]
    path = entry.save(tmp_path)
    k, j, i = np.mgrid[:1, :24, :28]

    widget = module("IdealInput")
    added(widget, entry, path)
    images = {
        "mr": add_volume(300 + 200 * np.sin(i / 5) * np.cos(j / 4), "MR"),
        "ct": add_volume(150 + 300 * np.cos(i / 5), "CT"),
    }
    for role, selector in widget._selectors.items():
        selector.setCurrentNode(images[role])
    node = widget._parameterNode
    node.worker, node.maxEvaluations, node.knobs, node.validity = WHOLE, 5, False, False
    nodes = applied(widget)
    assert slicer.util.arrayFromVolume(nodes["ideal mr patient"]).shape == (1, 24, 28)
    errors = widget.logic.facts(nodes)["error"]
    assert errors["patient"] < errors["own"]
    assert widget.logic.facts(nodes)["quality"]["network"] > 0

    widget = module("Invariances")
    added(widget, entry, path)
    hu = np.full((1, 24, 28), -1000.0)
    hu[:, 4:20, 4:24] = 40 + 30 * np.random.default_rng(0).normal(size=(1, 16, 20))
    node = widget._parameterNode
    node.lowDose = add_volume(hu, "low dose")
    node.worker, node.samples, node.projected, node.shown = WHOLE, 2, 1, 1
    nodes = applied(widget)
    assert slicer.util.arrayFromVolume(nodes["std unproven"]).max() > 1
    assert widget.logic.facts(nodes)["model"]["file"].startswith("own")
    qt.QCoreApplication.processEvents()
