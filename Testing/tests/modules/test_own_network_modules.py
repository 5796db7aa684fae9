"""A network of the user's own in the modules: from the console."""

import contextlib
import http.server
import os
import re
import sys
import threading
import time
from pathlib import Path

import host
import numpy as np
import pytest
import torch
from torch import nn

from NetInversionLib.jobs import JobError
from NetInversionLib.models.foreign import formats
from NetInversionLib.models.foreign.trust import sha256_of

host.start()
import qt

from NetInversionLib.panel import add_network


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


def test_the_form_speaks_german(scene, monkeypatch, tmp_path):
    """All its lines do, and what the import says of a file, with the form's line for an option."""
    import slicer

    from NetInversionLib.core import words

    monkeypatch.setenv("NETINVERSION_SETTINGS", str(tmp_path / "settings"))
    texts = {}
    for language in ("en", "de"):
        monkeypatch.setenv(words.VARIABLE, language)
        form = add_network.AddNetwork("denoising", lambda path: None)
        labels = [one for one in slicer.util.findChildren(form.dialog) if one.inherits("QLabel")]
        # Those that the layout makes of a text are Qt's own.
        shown = [one.text() if callable(one.text) else one.text for one in labels]
        texts[language] = [text for text in shown if text and "://" not in text]
        found = add_network.found_words({"inputs": [{"name": "CT", "scaling": "none"}]}, "LPS")
        texts[language] += [form.trustCheckBox.text, form.addButton.text, *found.split("\n")]
        form._failed(f"{NOT_KNOWN} --architecture")
        texts[language].append(form.statusLabel.text)
        form.dialog.close()
    assert len(texts["en"]) == len(texts["de"]) > 15
    assert not set(texts["en"]) & set(texts["de"])
    assert "CT (wie sie sind)" in " ".join(texts["de"])
    assert "--architecture" not in texts["de"][-1] and "Nennen Sie seine Klasse" in texts["de"][-1]


NOT_KNOWN = (
    "own.pt holds 2 weights (first: a) of a network that is not known here: name its class, as"
    " my_package:MyNet or net.py:MyNet, with"
)


@pytest.mark.skipif(
    formats.torch_is_unsafe(), reason="checkpoints: PyTorch before 2.6 opens none safely"
)
def test_a_network_is_added_from_the_panel_and_asked(module, tmp_path, monkeypatch):
    import slicer

    from NetInversionLib import models
    from NetInversionLib.models.foreign import shelf, trust

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
    form.outputsEdit.text = ""
    form.addButton.click()
    wait_for(lambda: form.useButton.isVisibleTo(form.dialog))
    # What was found waits for the user's word; what is changed has to be tried again.
    assert "Is this right?" in form.statusLabel.text and "T1 0..1" in form.statusLabel.text
    assert (
        "multiples of 1" in form.statusLabel.text and "finite differences" in form.statusLabel.text
    )
    assert form.outputsEdit.text == "output 1 0..1" and not shelf.folders()
    form.outputsEdit.text = "CT (HU) -500..500"
    assert not form.useButton.isVisibleTo(form.dialog) and not list(shelf.folder().iterdir())
    form.addButton.click()
    wait_for(lambda: form.useButton.isVisibleTo(form.dialog))
    form.useButton.click()
    kept = tmp_path / "settings" / "models" / "own"
    assert widget._parameterNode.modelFile == str(kept / "own.network")
    assert {path.name for path in kept.iterdir()} == {"own.network", "own.pt"}
    assert kept / "own.network" in models.list_models()
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

    entries.setCurrentIndex(entries.findText("Add a network..."))
    kept_networks = widget.addNetwork.kept
    assert kept_networks.keptSelector.itemText(0).startswith("own (")
    slicer.app.setTestingEnabled(False)  # else Slicer does not ask
    qt.replies.append(qt.QMessageBox.Cancel)
    kept_networks.deleteButton.click()
    assert kept.is_dir()
    qt.replies.append(qt.QMessageBox.Ok)
    kept_networks.deleteButton.click()
    assert not kept.exists() and not kept_networks.deleteButton.enabled
    assert not widget._parameterNode.modelFile and not widget._parameterNode.fromFile


def test_a_form_that_is_closed_leaves_nothing(module, tmp_path, monkeypatch):
    from NetInversionLib.models.foreign import shelf

    monkeypatch.setenv("NETINVERSION_SETTINGS", str(tmp_path / "settings"))
    form = add_network.AddNetwork("denoising", lambda path: None)
    (tmp_path / "own.onnx").write_bytes(b"x")
    form.fileEdit.currentPath = str(tmp_path / "own.onnx")
    assert form.trustCheckBox.isVisibleTo(form.dialog) and not form.addButton.enabled
    (tmp_path / "own.pt").write_bytes(b"\x80\x02x")
    form.fileEdit.currentPath = str(tmp_path / "own.pt")
    form.classEdit.text = "no_such_package_here:Net"
    assert "no package 'no_such_package_here'" in form.statusLabel.text
    form.onAdd()
    form.dialog.close()
    assert not list(shelf.folder().iterdir()) and not form._command.running


def test_the_form_says_what_its_lines_lack_in_its_own_words(module, tmp_path, monkeypatch):
    monkeypatch.setenv("NETINVERSION_SETTINGS", str(tmp_path / "settings"))
    form = add_network.AddNetwork("denoising", lambda path: None)
    chooser = form.takenSelector
    for text, chosen, words in (
        ("CT (HU) -1024 to 2000", "unit", "CT (HU) -1000..2000"),
        ("CT (HU)", "mean-std", "CT (HU) mean -500 std 500"),
        ("CT (HU) mean -500 std 500", "none", "Minus the mean"),
    ):
        form.inputsEdit.text = text
        chooser.setCurrentIndex(chooser.findData(chosen))
        form.onAdd()
        assert words in form.statusLabel.text and form._command is None
    form.inputsEdit.text = "CT (HU) -1024..2000 mean -500 std 480.5"
    chooser.setCurrentIndex(chooser.findData("mean-std"))
    assert form.description()["inputs"] == [
        {"name": "CT", "units": "HU", "low": -1024.0, "high": 2000.0}
        | {"scaling": "mean-std", "mean": -500.0, "std": 480.5}
    ]
    form.orientationSelector.setCurrentIndex(form.orientationSelector.findData("RAS"))
    form._found({"card": {"orientation": "LPS", "dimensions": 3}})  # the questions' own axes
    assert "Axes: RAS." in form.statusLabel.text and "3-D" not in form.statusLabel.text
    form._failed("Name the class with --architecture. Give them with --arguments")
    assert "--" not in form.statusLabel.text and "'Class in it'" in form.statusLabel.text
    form.dialog.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["models", "import", "x.pt", "--arguments", "{width: 3}"], "double quotes"),
        (["--version"], "ended without a result"),  # its answer is no JSON
    ],
)
def test_a_command_without_an_answer_has_failed_in_words(module, words, said):
    from NetInversionLib.panel.command import Command

    answers, failed = [], []
    command = Command(words, lambda line: None, answers.append, failed.append)
    wait_for(lambda: not command.running)
    assert not answers and said in failed[0] and "usage" not in failed[0]


@pytest.mark.skipif(
    formats.torch_is_unsafe(), reason="checkpoints: PyTorch before 2.6 opens none safely"
)
def test_published_weights_are_looked_at_then_downloaded_then_ready(module, tmp_path, monkeypatch):
    """Of a server on this computer, whose answers the command's process takes for the authors'."""
    from NetInversionLib import networks
    from NetInversionLib.models.foreign import shelf

    monkeypatch.setenv("NETINVERSION_SETTINGS", str(tmp_path / "settings"))
    torch.save(networks.build("cnn10").state_dict(), tmp_path / "cnn10.pt")
    added = []
    with serving(tmp_path, monkeypatch) as asked:
        form = add_network.AddNetwork("denoising", added.append)
        kept = form.kept
        assert "cnn10.pt" in kept.publishedLabel.text and asked == []
        kept.downloadButton.click()
        wait_for(lambda: not kept.command.running)
        size = (tmp_path / "cnn10.pt").stat().st_size / 1e6
        assert kept.downloadButton.text == f"Download {size:.1f} MB"
        assert sha256_of(tmp_path / "cnn10.pt") in kept.publishedLabel.text
        assert asked == ["HEAD"] and not shelf.entries()
        kept.downloadButton.click()
        wait_for(lambda: not kept.command.running)
    assert asked == ["HEAD", "HEAD", "GET"], kept.publishedLabel.text
    assert added == [str(shelf.folder() / "cnn10" / "cnn10.safetensors")]
    assert kept.keptSelector.count == 1 and not list(shelf.downloads().iterdir())
    form.dialog.close()


@contextlib.contextmanager
def serving(folder, monkeypatch):
    """A server of a folder's files, which gives the methods that were asked for.

    Processes that are started meanwhile know its address and sums as the published ones, from a
    sitecustomize.py.
    """
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *of):
            super().__init__(*of, directory=str(folder))

        def log_request(self, *of):
            asked.append(self.command)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/cnn10.pt"
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(
        "from NetInversionLib.models.foreign import download\n"
        f"download.WEIGHTS['cnn10'] = download.Published({url!r},"
        f" {sha256_of(folder / 'cnn10.pt')!r})\n"
    )
    paths = [str(folder / "site"), *filter(None, os.environ.get("PYTHONPATH", "").split(":"))]
    library = str(Path(formats.__file__).parents[3])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*paths, library]))
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()


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
    node.worker, node.samples, node.projected, node.shown = False, 2, 1, 1
    assert widget.ui.applyButton.enabled, widget.ui.applyButton.toolTip
    widget.ui.applyButton.click()
    assert widget._going.job is not None  # though the panel is told to start none
    host.wait(lambda: widget._going is None, 240, "The run's end")
    nodes = widget.logic.resultNodes(node.run)
    assert nodes, widget.ui.logText.toPlainText()
    assert slicer.util.arrayFromVolume(nodes["std unproven"]).max() > 1
    assert widget.logic.facts(nodes)["model"]["file"] == "own.network"


def test_the_tutorial_names_what_the_form_has(module):
    """Each bold name in its six steps is a title, a label or a button of the form or the panel."""
    page = Path(__file__).parents[3] / "Resources" / "Docs" / "OwnNetwork.md"
    text = page.read_text(encoding="utf-8")
    text = text[text.index("## 1.") : text.index("## 2.")]
    assert [line[:2] for line in text.split("\n") if line[1:3] == ". "] == [
        f"{n}." for n in range(1, 7)
    ]
    widget = module("IdealInput")
    widget.ui.modelSelector.setCurrentIndex(widget.ui.modelSelector.count - 1)
    form = widget.addNetwork
    form._found({"card": {}})
    kinds = (qt.QLabel, qt.QPushButton, qt.QCheckBox)
    parts = [part for kind in kinds for part in form.dialog.findChildren(kind)]
    shown = [part.text() if callable(part.text) else part.text for part in parts]
    shown += [form.addButton.text, widget.ui.applyButton.text]
    shown += [widget.ui.modelSelector.itemText(n) for n in range(widget.ui.modelSelector.count)]
    shown += [form.takenSelector.itemText(n) for n in range(form.takenSelector.count)]
    shown += ["Ideal Input", "Invariances", "Add"]
    for name in re.findall(r"\*\*(.+?)\*\*", " ".join(text.split())):
        words = name.removesuffix("...").lower()
        words = {"takes": "images it takes", "gives": "images it gives"}.get(words, words)
        assert any(words in text.lower() for text in shown), name
    form.dialog.close()
