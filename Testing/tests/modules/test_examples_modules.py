"""Examples of the network families in both panels: the list, the sample, an answer; training."""

import time

import host
import pytest
from test_families_in_questions import a_model
from test_question import SIDE, brain

from NetInversionLib import models
from NetInversionLib.core.results import Result
from NetInversionLib.families import rows, training
from NetInversionLib.models.foreign import shelf

host.start()

from NetInversionLib.panel import samples, train_example  # noqa: E402
from NetInversionLib.scene import tables  # noqa: E402

MODULES = ("IdealInput", "Invariances")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """A folder with a small example that reconstructs and one that takes images."""
    folder = tmp_path_factory.mktemp("examples")
    for name in ("deep-cascade", "super-resolution"):
        own = folder / name
        own.mkdir()
        a_model(name, own, SIDE)
        (own / "m.safetensors").rename(folder / f"family-{name}.safetensors")
    return folder


@pytest.fixture
def opened(module, shipped, monkeypatch):
    """Opens a module whose brain is a made-up one."""
    monkeypatch.setenv("NETINVERSION_MODELS", str(shipped))
    monkeypatch.setattr(models.library, "shipped", lambda: [])
    monkeypatch.setattr(samples, "sample_brains", lambda card: [brain()])
    return module


def entries(widget):
    selector = widget.ui.modelSelector
    return {selector.itemText(i): i for i in range(selector.count)}


def choose(widget, words):
    found = [place for text, place in entries(widget).items() if words in text]
    widget.ui.modelSelector.setCurrentIndex(found[0])


def press(widget):
    widget.ui.workerCheckBox.checked = False
    assert widget.ui.applyButton.enabled, widget.ui.applyButton.toolTip
    widget.ui.applyButton.click()
    host.wait(lambda: widget._going is None, 120, "the run")
    nodes = widget.logic.resultNodes(widget._parameterNode.run)
    assert nodes, widget.ui.logText.toPlainText()
    return nodes


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_a_group_of_the_list(opened, name):
    texts = list(entries(opened(name)))
    kinds = [text.partition(":")[0] for text in texts]
    first, last = kinds.index("Example"), len(kinds) - kinds[::-1].index("Example, to be trained")
    assert 0 < first and all(kind.startswith("Example") for kind in kinds[first:last])
    assert {"From file...", "Add a network..."} <= set(texts[last:])
    offered = " ".join(texts)
    for row in rows.ROWS:
        assert (row.title in offered) == bool(row.recipe)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("IdealInput", "Deep cascade"),
        ("Invariances", "Deep cascade"),
        ("Invariances", "super-resolution"),
    ],
)
def test_choosing_an_example_brings_its_sample_and_apply_an_answer(opened, name, words):
    import slicer

    widget = opened(name)
    choose(widget, words)
    card = widget._card
    for channel in (*card.inputs, *card.outputs):
        node = widget._selectors[channel.role].currentNode()
        assert node.GetAttribute("NetInversion.channel") == channel.role
    before = len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"))
    choose(widget, "From file")
    choose(widget, words)  # the sample is there already
    assert len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")) == before
    if name == "IdealInput":
        assert widget._parameterNode.maxEvaluations == 60
        widget.ui.evaluationsSpinBox.value = 2
        assert widget._parameterNode.locked == "sampling"
    nodes = press(widget)
    assert card.name in widget.ui.summaryLabel.text
    assert widget.ui.shownTableSelector.count > 1
    if name == "Invariances":
        assert "nobody measured" in widget.ui.summaryLabel.text
        assert nodes["added"].GetDisplayNode().GetWindowLevelMax() == pytest.approx(
            nodes["missing"].GetDisplayNode().GetWindowLevelMax()
        )
    else:
        shown = [widget.ui.shownChannelSelector.itemText(i) for i in range(3)]
        assert shown == ["K-space, magnitude", "K-space, phase", "K-space, real part"]
        assert "mean error of the phase (rad)" in tables.columns_of(nodes["complex"])


def test_other_samples_are_not_taken_and_what_was_set_is_put_back(opened):
    widget = opened("IdealInput")
    choose(widget, "Deep cascade")
    assert not widget._parameterNode.knobs
    choose(widget, "super-resolution")
    names = {
        one.currentNode().GetAttribute("NetInversion.family") for one in widget._selectors.values()
    }
    assert names == {"super-resolution"} and widget._parameterNode.locked == ""
    widget.ui.modelSelector.setCurrentIndex(0)
    assert not widget._card.family and widget._parameterNode.knobs
    assert widget._parameterNode.maxEvaluations == 200


def test_a_denoisers_panel_is_as_it_was_behind_an_example(opened):
    widget = opened("Invariances")
    seen = {
        name: widget.ui.__dict__[name].isHidden() for name in ("lowDoseSelector", "roiSelector")
    }
    choose(widget, "Deep cascade")
    assert widget.ui.lowDoseSelector.isHidden() and widget.ui.modelLabel.text == "&Network:"
    widget.ui.modelSelector.setCurrentIndex(0)
    assert {name: widget.ui.__dict__[name].isHidden() for name in seen} == seen
    assert not widget._selectors and widget.ui.modelLabel.text == "&Denoiser:"
    assert "Choose a low-dose CT." in widget.ui.applyButton.toolTip


def test_the_console_asks_an_example(opened, shipped, tmp_path):
    logic = opened("Invariances").logic
    path = shipped / "family-deep-cascade.safetensors"
    output = logic.runExample(logic.addExample(path, brain(2)), path)
    assert output.facts["family"] == "deep-cascade" and "hallucination" in output.tables
    page = logic.saveReport(output.nodes, tmp_path / "report.html").read_text()
    assert "where nobody measured" in page


def test_a_sample_that_cannot_be_made_is_told(opened, monkeypatch):
    def offline(card):
        raise RuntimeError("the network is down")

    monkeypatch.setattr(samples, "sample_brains", offline)
    widget = opened("Invariances")
    choose(widget, "Deep cascade")
    assert "the network is down" in widget.ui.logText.toPlainText()
    assert not widget.ui.applyButton.enabled


# Trained on request


@pytest.fixture
def kept(monkeypatch, tmp_path):
    monkeypatch.setenv("NETINVERSION_SETTINGS", str(tmp_path / "settings"))
    return shelf.folder()


def test_an_example_that_is_not_there_is_trained_on_request(opened, kept, tmp_path, shipped):
    widget = opened("Invariances")
    before = widget._cardPath
    choose(widget, "to be trained: Learned inverse")
    form = widget.trainExample
    assert widget._cardPath == before and form.dialog.isVisible()
    form.trainButton.click()
    assert form.statusLabel.text == "Choose the folder with scans first."
    place = shelf.begin()
    trained = place / "family-learned-inverse.safetensors"
    trained.write_bytes((shipped / "family-deep-cascade.safetensors").read_bytes())
    form._place = place
    form._onFinished(Result(facts={"file": str(trained)}), "Done")
    assert widget._parameterNode.fromFile and str(kept) in widget._parameterNode.modelFile
    assert widget.ui.applyButton.enabled  # its sample is loaded


def test_training_can_be_cancelled_and_leaves_nothing(scene, kept, tmp_path):
    from NetInversionLib.core import files

    scans = tmp_path / "scans"
    scans.mkdir()
    for person in range(3):
        files.save(brain(person), scans / f"sub-{person}.nii.gz")
    form = train_example.TrainExample("learned-inverse", "Learned inverse", lambda path: None)
    form.folderEdit.currentPath = str(scans)
    form.trainButton.click()
    assert form.trainButton.text == "Cancel"
    host.wait(lambda: form.progressBar.value > 0, 90, "the first steps")
    began = time.monotonic()
    form.trainButton.click()
    host.wait(lambda: form.trainButton.text == "Train", 20, "the end")
    assert time.monotonic() - began < 10 and not list(kept.iterdir())
    form.dialog.close()


def test_the_job_trains_what_it_is_told(tmp_path):
    from NetInversionLib.core import files
    from NetInversionLib.core.progress import Progress

    for person in range(2):
        files.save(brain(person), tmp_path / f"sub-{person}.nii.gz")
    asked = {"name": "super-resolution", "folder": str(tmp_path), "steps": 1, "size": SIDE}
    output = tmp_path / "family-super-resolution.safetensors"
    found = training.run_analysis({}, {}, {**asked, "output": str(output)}, Progress())
    assert models.read_card(found.facts["file"]).family == "super-resolution"


def test_without_a_folder_of_scans_the_brain_is_the_template_that_slicer_downloads(
    scene, monkeypatch, shipped
):
    import SampleData
    import slicer

    monkeypatch.delenv("NETINVERSION_DATA", raising=False)
    made = brain(3)
    asked = []

    def download(self, source):
        asked.append((source.uris[0], source.checksums[0]))
        matrix = slicer.util.vtkMatrixFromArray(made.ijk_to_ras)
        return [slicer.util.addVolumeFromArray(made.array, matrix, source.nodeNames[0])]

    monkeypatch.setattr(SampleData.SampleDataLogic, "downloadFromSource", download)
    card = models.read_card(shipped / "family-deep-cascade.safetensors")
    (found,) = samples.sample_brains(card)
    assert found.shape == made.shape and found.name == "MNI152 T1 brain"
    assert asked[0][0].startswith("https://") and asked[0][1].startswith("SHA256:")
    assert not slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")  # it does not stay
