"""A network of the user's own in the modules: from the console."""

import sys
import time

import host
import numpy as np
import pytest
import torch
from torch import nn

from NetInversionLib.jobs import JobError
from NetInversionLib.models.foreign import formats

host.start()


class Own(nn.Module):
    """A small network as a user has one: it tells nothing of itself."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Conv2d(6, 1, 3, padding=1)

    def forward(self, x):
        return x + 0.1 * self.last(self.drop(torch.relu(self.first(x))))


def add_volume(array, name):
    import slicer

    return slicer.util.addVolumeFromArray(array.astype(np.float32), name=name)


def test_ideal_input_takes_a_module_in_three_lines(module):
    import slicer

    logic = module("IdealInput").logic
    k, j, i = np.mgrid[:2, :20, :24]
    mr = add_volume(300 + 200 * np.sin(i / 5) * np.cos(j / 4 + k), "T1")
    ct = add_volume(250 + 200 * np.cos(i / 5), "CT")
    quick = {"max_evaluations": 20, "device": "cpu", "knobs": False}
    output = logic.run([mr], ct, model=Own(), **quick)
    errors = output.facts["error"]
    assert errors["patient"] < 0.9 * errors["own"]
    assert output.facts["model"]["name"] == "Own" and output.facts["quality"]["network"] > 0
    shown = slicer.util.arrayFromVolume(output.nodes["ideal input patient"])
    assert shown.shape == (2, 20, 24)

    told = {"outputs": [{"name": "CT", "units": "HU"}], "scaling": "none"}
    output = logic.run({"T1": mr}, ct, model=Own(), description=told, **quick)
    assert slicer.util.arrayFromVolume(output.nodes["ideal t1 patient"]).shape == (2, 20, 24)


def test_invariances_take_a_module_in_three_lines(module):
    from NetInversionLib.scene import tables

    logic = module("Invariances").logic
    hu = np.full((2, 32, 36), -1000.0)
    hu[:, 6:26, 6:30] = 40 + 30 * np.random.default_rng(0).normal(size=(2, 20, 24))
    output = logic.run(
        add_volume(hu, "low dose"),
        model=Own(),
        description={"scaling": "mean-std", "mean": 0.0, "std": 1000.0},
        samples=4,
        projected=2,
        shown=2,
        epsilon_hu=1.0,
        proposals=["texture"],
        region=(0, 1, 8, 24, 8, 28),
        device="cpu",
    )
    assert max(tables.columns_of(output.tables["proof"])["largest accepted (HU)"]) <= 1.0
    assert output.facts["model"]["name"] == "Own"


# "Add a network..." from the panel

CODE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        return x + 0.1 * torch.tanh(self.conv(x))
"""


def wait_for(done, timeout_s=180):
    import qt

    end = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < end, "the import did not end"
        qt.QCoreApplication.processEvents()
        time.sleep(0.05)


@pytest.mark.skipif(
    formats.torch_is_unsafe(), reason="checkpoints: PyTorch before 2.6 opens none safely"
)
def test_a_network_is_added_from_the_panel_and_asked(module, tmp_path, monkeypatch):
    import slicer

    from NetInversionLib.models.foreign import trust

    monkeypatch.setenv("NETINVERSION_SETTINGS", str(tmp_path / "settings"))
    (tmp_path / "net.py").write_text(CODE)
    conv = nn.Conv2d(1, 1, 3, padding=1)
    state = {f"conv.{name}": weight for name, weight in conv.state_dict().items()}
    torch.save(state, tmp_path / "own.pt")
    widget = module("IdealInput")
    entries = widget.ui.modelSelector
    before = entries.currentIndex
    entries.setCurrentIndex(entries.findText("Add a network..."))
    assert entries.currentIndex == before
    form = widget.addNetwork
    assert not form.addButton.enabled

    form.fileEdit.currentPath = str(tmp_path / "own.pt")
    assert form.addButton.enabled and not form.trustCheckBox.isVisibleTo(form.dialog)
    form.codeEdit.currentPath = str(tmp_path / "net.py")
    assert trust.sha256_of(tmp_path / "net.py") in form.statusLabel.text
    assert form.trustCheckBox.isVisibleTo(form.dialog) and not form.addButton.enabled
    form.trustCheckBox.checked = True
    form.classEdit.text = "Other"
    form.inputsEdit.text, form.outputsEdit.text = "T1 0..1", "CT (HU) -500..500"
    form.givenSelector.setCurrentIndex(form.givenSelector.findData("signed"))
    assert form.description() == {
        "task": "image-to-image",
        "inputs": [{"name": "T1", "units": "", "low": 0.0, "high": 1.0, "scaling": "none"}],
        "outputs": [
            {"name": "CT", "units": "HU", "low": -500.0, "high": 500.0}
            | {"scaling": "range", "to": (-1.0, 1.0)}
        ],
    }
    form.addButton.click()
    wait_for(lambda: "Net" in form.statusLabel.text)
    assert "has no 'Other'; it has Net" in form.statusLabel.text
    form.trustCheckBox.checked = True
    form.classEdit.text = "Net"
    form.addButton.click()
    wait_for(lambda: widget._parameterNode.modelFile)
    assert widget._parameterNode.modelFile == str(tmp_path / "own.network")
    assert [channel.name for channel in widget._card.inputs] == ["T1"]
    assert set(widget._selectors) == {"t1", "ct"} and "own" in widget.ui.modelInfoLabel.text

    k, j, i = np.mgrid[:2, :16, :18]
    mr = add_volume(0.5 + 0.3 * np.sin(i / 5) * np.cos(j / 4 + k), "T1")
    ct = add_volume(100 * np.cos(i / 5), "CT")
    quick = {"max_evaluations": 5, "device": "cpu", "knobs": False, "validity": False}
    loaded = set(sys.modules)
    output = widget.logic.run([mr], ct, model=widget._parameterNode.modelFile, **quick)
    assert not any("netinversion_own" in name for name in set(sys.modules) - loaded)
    with pytest.raises(JobError, match="max_evaluations"):
        widget.logic.run([mr], ct, model=widget._parameterNode.modelFile, max_evaluations=0)
    assert slicer.util.arrayFromVolume(output.nodes["ideal t1 patient"]).shape == (2, 16, 18)


def test_a_denoiser_of_the_users_own_runs_from_the_panel_in_a_worker(module, tmp_path, monkeypatch):
    import slicer

    from NetInversionLib.models.foreign.importing import Wishes, import_network

    monkeypatch.setenv("NETINVERSION_SETTINGS", str(tmp_path / "settings"))
    torch.jit.script(Own().eval()).save(tmp_path / "own.pt")
    told = {"task": "denoising", "scaling": "mean-std", "mean": 0.0, "std": 1000.0}
    made = import_network(tmp_path / "own.pt", Wishes(description=told), lambda *asked: True)
    widget = module("Invariances")
    hu = np.full((2, 32, 36), -1000.0)
    hu[:, 6:26, 6:30] = 40 + 30 * np.random.default_rng(0).normal(size=(2, 20, 24))
    node = widget._parameterNode
    node.lowDose = add_volume(hu, "low dose")
    widget.setValues(fromFile=True, modelFile=str(made))
    assert widget._card.name == "own" and widget._card.task == "denoising"
    node.worker, node.samples, node.projected, node.shown = True, 2, 1, 1
    assert widget.ui.applyButton.enabled, widget.ui.applyButton.toolTip
    widget.ui.applyButton.click()
    host.wait(lambda: widget._going is None, 240, "The run's end")
    nodes = widget.logic.resultNodes(node.run)
    assert nodes, widget.ui.logText.toPlainText()
    assert slicer.util.arrayFromVolume(nodes["std unproven"]).max() > 1
    assert widget.logic.facts(nodes)["model"]["file"] == "own.network"
