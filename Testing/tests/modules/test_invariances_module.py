"""The module Invariances driven as a user does: choose nodes, press Apply, wait, read the nodes."""

import json
from functools import partial
from pathlib import Path

import host
import numpy as np
import pytest
import torch
from panel_steps import choose_second_model, without_data
from toy_ct import body
from toy_sampler_files import saved

from NetInversionLib import models, networks
from NetInversionLib.core import steps
from NetInversionLib.core.results import Result, Table
from NetInversionLib.invariances.level_set import LevelSet, Window, verify
from NetInversionLib.invariances.settings import InvariancesSettings
from NetInversionLib.models import library
from NetInversionLib.training.denoiser import CHANNEL

host.start()

from NetInversionLib.panel import (
    packages,  # noqa: E402
    pictures,  # noqa: E402
)
from NetInversionLib.scene import tables  # noqa: E402

NAME = "averaging.safetensors"
SCALE = CHANNEL.high - CHANNEL.low
MATRIX = np.diag([-1.0, -1.0, 2.0, 1.0])
REGION = (1, 2, 10, 30, 12, 34)  # what ``roi`` below encloses


def card(**changes):
    fields = dict(
        name="Averaging",
        version="1",
        architecture="cnn10",
        arguments={"last_kernel": 3},
        inputs=(CHANNEL,),
        outputs=(CHANNEL,),
        dimensions=2,
        orientation="LPS",
        spacing_mm=(0.5, 4.0),
        size_multiple=1,
        trained_on=("nothing",),
        sources="none",
        licence="MIT",
        intended_use="Tests.",
        task="denoising",
    )
    return models.Card(**{**fields, **changes})


class PlainAverage(torch.nn.Module):
    """A quick network for runs in this process: an average, in the manner of a denoiser.

    It loses what is finer.
    """

    def __init__(self, side=5):
        super().__init__()
        first, last = torch.nn.Conv2d(1, 1, side, padding=side // 2), torch.nn.Conv2d(1, 1, 1)
        self.layers = torch.nn.Sequential(first, torch.nn.ReLU(), last)
        self.layers[0].weight.data.fill_(1 / side**2)
        self.layers[0].bias.data.fill_(4.0)  # above 0 all the way
        self.layers[2].weight.data.fill_(1.0)
        self.layers[2].bias.data.fill_(-4.0)

    def forward(self, x):
        return self.layers(x)


networks.ARCHITECTURES.setdefault("plain_average", PlainAverage)


def averaging():
    """The same as a published network, which a worker process knows too."""
    network = networks.build("cnn10", last_kernel=3).requires_grad_(False)
    convolutions = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    for module in convolutions:
        module.weight.zero_()
        module.bias.zero_()
    convolutions[0].weight[0, 0, 2:7, 2:7] = 1 / 25
    convolutions[0].bias[0] = 4.0
    convolutions[1].weight[0, 0, 1, 1] = convolutions[2].weight[0, 0, 1, 1] = 1.0
    convolutions[2].bias[0] = -4.0
    return network


def plain(path, side=5, **changes):
    return models.save(
        path,
        PlainAverage(side),
        card(architecture="plain_average", arguments={"side": side}, **changes),
    )


@pytest.fixture(scope="session")
def denoiser(tmp_path_factory):
    """Path of a small denoiser, alone in its folder."""
    return plain(tmp_path_factory.mktemp("denoisers") / NAME)


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    return models.save(
        tmp_path_factory.mktemp("published") / "cnn10.safetensors", averaging(), card()
    )


@pytest.fixture
def widget(module, denoiser, monkeypatch):
    """The module's panel, which offers the small denoiser first."""
    monkeypatch.setenv("NETINVERSION_MODELS", str(denoiser.parent))
    monkeypatch.delenv("NETINVERSION_DATA", raising=False)
    return module("Invariances")


def add_ct(volume=None, name="My CT"):
    import slicer

    volume = body((40, 44), 3) if volume is None else volume
    return slicer.util.addVolumeFromArray(
        volume.array.copy(), slicer.util.vtkMatrixFromArray(MATRIX), name
    )


def roi():
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Box")
    node.SetCenter(-22.5, -19.5, 2.0)
    node.SetSize(22.0, 20.0, 2.0)
    return node


def choose(widget, node, worker=False, region=True):
    """Choose the CT and settings for a short run in this process."""
    ui = widget.ui
    ui.lowDoseSelector.setCurrentNode(node)
    if region:
        choose_region(widget, "Region of interest")
        ui.roiSelector.setCurrentNode(roi())
    ui.samplesSpinBox.value, ui.projectedSpinBox.value, ui.shownSpinBox.value = 12, 6, 3
    ui.noiseCheckBox.checked, ui.textureCheckBox.checked = False, True
    ui.automaticCheckBox.checked, ui.epsilonSlider.value = False, 1.0
    ui.workerCheckBox.checked = worker
    ui.deviceSelector.setCurrentIndex(ui.deviceSelector.findData("cpu"))


def choose_region(widget, text):
    selector = widget.ui.regionSelector
    selector.setCurrentIndex([selector.itemText(i) for i in range(selector.count)].index(text))


def use_model(widget, path):
    widget.ui.modelSelector.setCurrentIndex(widget.ui.modelSelector.findData(""))
    widget.ui.modelFileEdit.currentPath = str(path)


def press(widget):
    assert widget.ui.applyButton.enabled, widget.ui.applyButton.toolTip
    widget.ui.applyButton.click()


def finish(widget, timeout_s=60):
    return host.wait(lambda: widget._going is None, timeout_s, "The run's end")


def results(widget):
    return widget.logic.resultNodes(widget._parameterNode.run)


def array(node):
    import slicer

    return slicer.util.arrayFromVolume(node)


def scene_ids():
    import slicer

    return {node.GetID() for node in slicer.mrmlScene.GetNodes()}


def facts(widget):
    return json.loads(results(widget)["facts"].GetText())


# ---- a run


def test_apply_finds_samples_that_the_network_does_not_notice(widget, published):
    import slicer

    volume = body((40, 44), 3)
    choose(widget, add_ct(volume), worker=True)
    use_model(widget, published)
    press(widget)
    assert widget.ui.applyButton.text == "Cancel" and not widget.ui.inputsCollapsibleButton.enabled
    finish(widget)
    assert "Done" in widget.ui.statusLabel.text, widget.ui.logText.toPlainText()
    found = results(widget)
    assert (
        facts(widget)["accepted"] == facts(widget)["projected"] == 6
        and "6 of 6" in widget.ui.summaryLabel.text
    )
    assert widget.ui.summaryLabel.text.startswith("<b>In the chosen region, images that differ by ")

    # Only the slice of the region, where it lies in the patient
    unproven, proven = (array(found[f"std {kind}"]) for kind in ("unproven", "proven"))
    assert unproven.shape == (1, 40, 44) and found["std proven"].GetOrigin()[2] == 2.0
    assert (
        40 < unproven[0, 12:28, 14:32].mean() < 60
        and 0 < proven[0, 12:28, 14:32].mean() < unproven[0, 12:28, 14:32].mean()
    )
    np.testing.assert_array_equal(array(found["patient"])[0], volume.array[1])

    # The browser shows each sample, and each is what it says when read back
    model = models.load(published)
    x0 = (torch.from_numpy(volume.array[1:2])[None] - CHANNEL.low) / SCALE
    patch = InvariancesSettings().patch(volume.spacing_mm)
    target = LevelSet(model.network, x0, Window(10, 30, 12, 34), scale=SCALE, patch=patch)
    selector, slider = widget.ui.shownImageSelector, widget.ui.shownSlider
    proofs = tables.columns_of(found["proof of samples"])
    for key, low, high, column in (
        ("samples", 0.0, 1.0, "projected"),
        ("proposals", 1.0, 200.0, "unproven"),
    ):
        selector.setCurrentIndex(selector.findData(key))
        slider.maximum, slider.decimals = 3, 2  # its first decimals, and by chance its limits
        widget._onImage(0)
        assert slider.decimals == 0, "samples are counted"
        seen = []
        for number in (1, 2, 3):
            slider.value = number
            seen.append(array(found[key]).copy())
            x = (torch.from_numpy(seen[-1])[None] - CHANNEL.low) / SCALE
            change = verify(target, x0, x)
            assert low < change <= high + 1e-4
            _check_differences(widget, model.network, x0, seen[-1], key)
            row = proofs["sample"].index(number)
            assert proofs[f"{column}, change of the output (HU)"][row] == pytest.approx(
                change, rel=2e-3
            )
            said = widget.ui.shownProofLabel.text
            assert f" {number}, " in said
            assert (
                "the network's output changes by"
                f" {proofs[f'{column}, change of the output (HU)'][row]:.2g} HU" in said
            )
            assert (
                f"{proofs['survived (%)'][row]:.0f} % of the proposed change survived" in said
            ) == (key == "samples")
        assert not np.array_equal(seen[0], seen[1]) and slider.maximum == 3
        assert (
            ", unproven:" if key == "proposals" else ", proven:"
        ) in widget.ui.shownProofLabel.text
    assert (
        found["browser"].GetNumberOfItems() == 3
        and found["sequence of samples"].GetNumberOfDataNodes() == 3
    )

    # A component, by the slider, which draws it once though its limits and decimals change
    drawn, choose_image = [], widget.logic.choose
    widget.logic.choose = lambda nodes, *chosen: (
        drawn.append(chosen),
        choose_image(nodes, *chosen),
    )
    selector.setCurrentIndex(selector.findData("component 1"))
    widget._onImage(0)
    assert drawn == [("component 1", 1.0)]
    slider.value = -2.0
    shown = results(widget)["shown component"]
    np.testing.assert_allclose(
        array(shown), array(found["patient"]) - 2 * array(found["component 1"]), atol=1e-3
    )
    assert "not proven" in widget.ui.shownProofLabel.text

    # Shown: both maps over the CT in one window and perceptual colours, the table of proofs
    widget.ui.showButton.click()
    manager = slicer.app.layoutManager()
    composites = {
        tag: manager.sliceWidget(f"Invariances{tag}").mrmlSliceCompositeNode()
        for tag in ("Low", "Denoised", "Sample", "Unproven", "Proven")
    }
    for tag in ("Unproven", "Proven"):
        assert composites[tag].GetBackgroundVolumeID() == found["patient"].GetID()
        assert composites[tag].GetForegroundVolumeID() == found[f"std {tag.lower()}"].GetID()
        assert composites[tag].GetForegroundOpacity() == pytest.approx(0.6)
        assert "spread" in found[f"std {tag.lower()}"].GetDisplayNode().GetColorNode().GetName()
    assert composites["Sample"].GetBackgroundVolumeID() == shown.GetID()
    assert (
        len(
            {
                found[f"std {kind}"].GetDisplayNode().GetWindowLevelMax()
                for kind in ("unproven", "proven")
            }
        )
        == 1
    )
    widget.ui.opacitySlider.value = 0.2
    assert composites["Proven"].GetForegroundOpacity() == pytest.approx(0.2)
    change = manager.sliceWidget("InvariancesChange").mrmlSliceCompositeNode()
    assert change.GetForegroundVolumeID() == results(widget)["shown change"].GetID()
    assert manager.sliceWidget("InvariancesProven").mrmlSliceNode().GetLayoutLabel() == "SD, proven"


def _check_differences(widget, network, x0, shown, key):
    """The shown image minus the patient's, and what the network makes of both.

    Both differences have one window around 0.
    """
    found = results(widget)
    np.testing.assert_allclose(
        array(found["shown change"]), shown - array(found["patient"]), atol=1e-3
    )
    if key == "samples":
        with torch.no_grad():
            pair = [
                network(x)[0].numpy() * SCALE
                for x in ((torch.from_numpy(shown)[None] - CHANNEL.low) / SCALE, x0)
            ]
        np.testing.assert_allclose(
            array(found["shown change of answer"]), pair[0] - pair[1], atol=0.02
        )
        windows = [
            found[name].GetDisplayNode() for name in ("shown change", "shown change of answer")
        ]
        assert (
            windows[0].GetWindowLevelMax()
            == windows[1].GetWindowLevelMax()
            == -windows[0].GetWindowLevelMin()
            > 0
        )


def test_three_lines_from_the_console(widget):
    from Invariances import InvariancesLogic

    output = InvariancesLogic().run(
        add_ct(),
        samples=4,
        projected=3,
        epsilon_hu=1.0,
        proposals=["texture"],
        region=REGION,
        device="cpu",
        shown=2,
    )
    assert (
        output.facts["accepted"] == 3
        and max(tables.columns_of(output.tables["proof"])["largest accepted (HU)"]) <= 1.0
    )
    assert output.nodes["std proven"].GetName().startswith("Proven SD: My CT")


def test_a_scene_saved_without_its_nodes_data_opens(widget):
    """Slicer saves the nodes whose data the user unticked, and opens them empty."""
    choose(widget, add_ct())
    press(widget)
    for kind in ("Table", "ScalarVolume", "Text"):
        for node in results(widget).values():
            if node.IsA(f"vtkMRML{kind}Node"):
                without_data(node)
        widget.refresh()
        widget.ui.showButton.click()
    assert "removed" in widget.ui.summaryLabel.text


def test_a_result_is_deleted_with_its_sequences_differences_and_legends(widget):
    import qt
    import slicer

    ct = add_ct()
    output = widget.logic.run(
        ct,
        samples=4,
        projected=3,
        epsilon_hu=1.0,
        proposals=["texture"],
        region=REGION,
        device="cpu",
        shown=2,
    )
    widget._parameterNode.run = output.run
    widget.ui.showButton.click()
    assert slicer.util.getNodesByClass(
        "vtkMRMLColorLegendDisplayNode"
    ) and "shown change" in results(widget)
    slicer.app.setTestingEnabled(False)  # else Slicer does not ask
    qt.replies.append(qt.QMessageBox.Ok)
    widget.ui.deleteRunButton.click()
    assert results(widget) == {} and not widget.logic.runs()
    assert len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")) == 1  # the low-dose CT
    for kind in (
        "ColorLegendDisplay",
        "Table",
        "PlotChart",
        "PlotSeries",
        "Text",
        "Sequence",
        "SequenceBrowser",
    ):
        assert not slicer.util.getNodesByClass(f"vtkMRML{kind}Node"), kind


def test_segments_lesion_spectrum_and_a_second_denoiser(widget, tmp_path):
    import slicer

    second = plain(tmp_path / "other.safetensors", 1, name="Keeping")
    labels = np.zeros((3, 40, 44), np.uint8)
    labels[:, 12:20, 14:24], labels[:, 22:28, 14:24] = 1, 3
    label = slicer.util.addVolumeFromArray(
        labels, slicer.util.vtkMatrixFromArray(MATRIX), "Organs", "vtkMRMLLabelMapVolumeNode"
    )
    point = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Lesion")
    choose(widget, add_ct())
    ui = widget.ui
    ui.lesionSelector.setCurrentNode(point)
    assert "Place a point in 'Lesion'" in ui.applyButton.toolTip
    point.AddControlPoint(-20.0, -20.0, 200.0)
    assert "The lesion's point lies outside of 'My CT'" in ui.applyButton.toolTip
    with pytest.raises(ValueError, match="lesion's point lies outside of 'My CT'"):
        steps.finish(
            widget.logic.requestSteps(widget._parameterNode.lowDose, point=point, region=REGION)
        )
    point.RemoveAllControlPoints()
    point.AddControlPoint(-20.0, -20.0, 2.0)
    assert ui.applyButton.enabled
    ui.segmentationSelector.setCurrentNode(label)
    ui.spectrumCheckBox.checked = True
    choose_second_model(widget, str(second))
    widget._parameterNode.diameters, widget._parameterNode.contrasts = "4, 8", "30"
    ui.evaluationsSpinBox.value = 60
    press(widget)
    finish(widget)
    found = results(widget)
    assert "Done" in ui.statusLabel.text, ui.logText.toPlainText()
    segments = tables.columns_of(found["segments"])
    assert len(segments["segment"]) == 2 and list(segments["voxels sampled"]) == [80, 60]
    for suffix in ("", " second"):
        assert list(tables.columns_of(found[f"lesions{suffix}"])["diameter (mm)"]) == [4, 8]
        assert {
            f"detectability{suffix}",
            f"gains{suffix}",
            f"spectrum{suffix}",
            f"sequence of samples{suffix}",
        } <= found.keys()
    losing, keeping = (tables.columns_of(found[f"spectrum{suffix}"]) for suffix in ("", " second"))
    assert (
        losing["lost (%)"][0] > 5
        and keeping["lost (%)"][0] == 0
        and "loses no direction" in keeping["in words"][0]
    )
    assert [ui.shownModelSelector.itemText(i) for i in range(ui.shownModelSelector.count)] == [
        "Averaging",
        "Keeping",
    ]
    plot = slicer.mrmlScene.GetSingletonNode("InvariancesPlot1", "vtkMRMLPlotViewNode")
    assert plot.GetPlotChartNodeID() == found["detectability"].GetID()
    ui.shownModelSelector.setCurrentIndex(1)
    widget._onShown(1)
    shown = (
        slicer.app.layoutManager()
        .sliceWidget("InvariancesProven")
        .mrmlSliceCompositeNode()
        .GetForegroundVolumeID()
    )
    assert shown == results(widget)["std proven second"].GetID()


def test_the_layers_are_read_off_the_network(widget, published):
    use_model(widget, published)
    selector = widget.ui.layerSelector
    titles = {selector.itemData(i): selector.itemText(i) for i in range(selector.count)}
    assert list(titles)[0] == "output" and len(titles) == 1 + len(list(averaging().layers))
    starred = [title.split(":")[0] for title in titles.values() if title.endswith("*")]
    assert starred == ["1", "3", "5"]
    choose(widget, add_ct())
    index = [i for i in range(selector.count) if selector.itemText(i).startswith("1:")][0]
    selector.setCurrentIndex(index)
    widget._onLayer(index)
    assert widget._parameterNode.layer == selector.itemData(index)
    assert widget.ui.epsilonSlider.isHidden() and widget.ui.layerToleranceSpinBox.enabled
    assert (
        widget.ui.automaticLabel.text == "1 % of the layer's size (Advanced)"
        and not widget.ui.automaticCheckBox.enabled
    )
    press(widget)
    finish(widget)
    assert facts(widget)["epsilon_units"] == "relative" and facts(widget)["epsilon"] == 0.01
    # Only that layer was bounded; what the output does is a figure of its own
    assert "to change the network's layer layers.0 by at most 1 %" in widget.ui.summaryLabel.text
    said = widget.logic.proofOf(results(widget), "samples", 1)
    proofs = tables.columns_of(results(widget)["proof of samples"])
    assert (
        "proven: the network's layer layers.0 changes by" in said
        and "at most 1 % are allowed" in said
    )
    assert (
        f"Its output changes by {proofs['projected, change of the output (HU)'][0]:.2g} HU." in said
    )


def test_what_is_said_of_a_sample_is_the_worst_of_its_accepted_slices(widget):
    import slicer

    def table(**columns):
        return tables.table_to_node(Table("Proof of each sample", columns))

    part = {"settings": {"layer": "3"}, "epsilon": 0.01, "epsilon_units": "relative"}
    text = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode")
    text.SetText(json.dumps({**part, "second": part}))
    nodes = {
        "sample 2": None,
        "sample 5": None,
        "facts": text,
        "proof of samples": table(
            **{
                "slice": [0, 1, 2, 0],
                "sample": [5, 5, 5, 2],
                "unproven, change of the layer 3 (relative)": [0.5, 0.6, 0.7, 0.9],
                "projected, change of the layer 3 (relative)": [0.008, 0.009, 0.4, 0.001],
                "accepted": [True, True, False, True],
                "projected, change of the output (HU)": [2.0, 1.0, 50.0, 9.0],
                "survived (%)": [10.0, 20.0, 90.0, 70.0],
            }
        ),
    }
    assert (
        widget.logic.proofOf(nodes, "samples", 2)
        == "Sample 5, proven: the network's layer 3 changes by 0.9 %, at most 1 % are allowed. Its"
        " output changes by 2 HU. 15 % of the proposed change survived."
    )
    nodes.update({"proposal 5": None})
    assert (
        widget.logic.proofOf(nodes, "proposals", 1)
        == "Proposal 5, unproven: the network's layer 3 changes by 70 %; 1 % count as unnoticed."
    )
    assert widget.logic.proofOf(nodes, "hidden lesion", 1).endswith(
        "the network's layer 3 changes by at most 1 %."
    )
    assert (
        widget.logic.proofOf(nodes, "samples second", 1)
        == "Proven: the network's layer 3 changes by at most 1 %."
    )


def test_the_preview_is_of_the_denoiser_that_is_worked_on(widget, monkeypatch):
    shown = {}
    monkeypatch.setattr(pictures, "mapsPicture", lambda maps, high: shown.update(maps))
    result = Result(
        tables={f"proof{suffix}": Table("", {"slice": [1]}) for suffix in ("", " second")}
    )
    for value, key in enumerate(("unproven", "proven", "unproven second", "proven second"), 1):
        result.volumes[f"std {key}"] = body(slices=2).with_array(
            np.full((2, 40, 44), value, np.float32)
        )
        if value % 2 == 0:
            shown.clear()
            widget.logic.preview(result)
            assert {float(array.max()) for array in shown.values()} == {value - 1, value}
            assert all(("second" in title) == ("second" in key) for title in shown)


def test_a_layer_that_the_second_denoiser_lacks_is_told_before_apply(widget, tmp_path):
    choose(widget, add_ct())
    second = models.save(tmp_path / "second.safetensors", averaging(), card(name="Published"))
    choose_second_model(widget, str(second))
    first = [layer for layer in entries(widget.ui.layerSelector) if layer != "output"]
    assert first == ["layers.0", "layers.1", "layers.2"]
    widget.setValues(layer="layers.2")  # of both
    assert widget.ui.applyButton.enabled
    use_model(widget, second)
    choose_second_model(widget, str(plain(tmp_path / "plain.safetensors", name="Plain")))
    widget.setValues(layer="layers.4")
    assert (
        "'Plain' has no layer 'layers.4'; choose 'output' or one of: 1: layers.0"
        in widget.ui.applyButton.toolTip
    )
    choose_second_model(widget, "")
    assert widget.ui.applyButton.enabled


def test_the_panel_starts_with_the_library_s_settings(widget):
    from NetInversionLib.invariances.settings import Settings

    widget.ui.lowDoseSelector.setCurrentNode(add_ct())
    choose_region(widget, "Whole volume")
    request = steps.finish(widget.logic.stepsFromParameterNode(widget._parameterNode))
    assert Settings.from_json(request.settings) == Settings()


@pytest.mark.parametrize(
    "region, slices", [("Whole volume", 3), ("Displayed slice", 1), ("Some slices", 2)]
)
def test_region(widget, region, slices):
    import slicer

    choose(widget, add_ct(), region=False)
    choose_region(widget, region)
    widget.ui.firstSliceSpinBox.value = 1  # to the last one
    slicer.app.layoutManager().sliceWidget("Red").sliceLogic().SetSliceOffset(4.0)
    request = steps.finish(widget.logic.stepsFromParameterNode(widget._parameterNode))
    assert request.volumes["low_dose"].shape == (slices, 40, 44)
    if slices < 3:
        assert tuple(request.settings["region"]) == (0, slices, 0, 40, 0, 44)
        assert request.volumes["low_dose"].ijk_to_ras[2, 3] == 2.0 * (3 - slices)


def test_the_first_region_is_a_square_around_the_view_s_centre(widget):
    import slicer

    volume = body((200, 220), 3)
    slicer.util.setSliceViewerLayers(background=add_ct(volume), fit=True)
    widget.ui.lowDoseSelector.setCurrentNode(slicer.util.getNode("My CT"))
    assert widget.ui.regionSelector.currentText == "Around the view's centre"
    node = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    node.JumpSliceByCentering(-60.0, -70.0, 2.0)
    request = steps.finish(widget.logic.stepsFromParameterNode(widget._parameterNode))
    assert request.volumes["low_dose"].shape == (1, 200, 220)
    region = np.array(request.settings["region"]).reshape(3, 2)
    np.testing.assert_array_equal(region[:, 1] - region[:, 0], [1, 80, 80])  # voxels of 1 mm
    np.testing.assert_allclose(region.mean(1), [0.5, 70.5, 60.5], atol=0.5)
    assert request.settings["region_from"] == "80 x 80 mm around the view's centre"
    host.wait(lambda: widget.ui.regionInfoLabel.text == request.settings["region_from"], 60)
    first = widget.logic.region(widget._parameterNode)
    choose(widget, widget._parameterNode.lowDose, region=False)
    widget.ui.samplesSpinBox.value, widget.ui.projectedSpinBox.value = 3, 2
    press(widget)
    finish(widget)
    assert widget.ui.summaryLabel.text.startswith(
        "<b>In 80 x 80 mm around the view's centre, images that differ by "
    )
    # The result's views stand on what changed, nearly the whole square: a second run is of the same
    # place.
    np.testing.assert_allclose(widget.logic.region(widget._parameterNode), first, atol=5)


def test_a_view_on_air_is_moved_into_the_body_and_says_so(widget):
    import slicer

    slicer.util.setSliceViewerLayers(background=add_ct(body((200, 220), 3)), fit=True)
    widget.ui.lowDoseSelector.setCurrentNode(slicer.util.getNode("My CT"))
    node = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    node.JumpSliceByCentering(-2.0, -2.0, 2.0)
    request = steps.finish(widget.logic.stepsFromParameterNode(widget._parameterNode))
    region = request.settings["region"]
    inside = request.volumes["low_dose"].array[0, region[2] : region[3], region[4] : region[5]]
    assert (inside > -500).mean() > 0.4 and "mm into the body" in request.settings["region_from"]


def test_a_button_places_a_box_around_the_view_s_centre_and_chooses_it(widget):
    import slicer

    node, ui = widget._parameterNode, widget.ui
    assert not ui.placeRegionButton.enabled
    ui.lowDoseSelector.setCurrentNode(add_ct(body((200, 220), 3)))
    around = widget.logic.region(node)
    ui.placeRegionButton.click()
    assert (
        ui.regionSelector.currentText == "Region of interest"
        and ui.roiSelector.currentNode().GetName() == "Region"
    )
    assert not ui.roiSelector.isHidden() and widget.logic.region(node) == around
    slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode().JumpSliceByCentering(
        -60.0, -70.0, 4.0
    )
    ui.placeRegionButton.click()  # moves the box, and makes no other
    assert (
        len(slicer.util.getNodesByClass("vtkMRMLMarkupsROINode")) == 1
        and widget.logic.region(node)[0] == 2
    )


def test_a_button_starts_to_place_the_lesion_s_point(widget):
    import slicer

    choose(widget, add_ct())
    ui = widget.ui
    ui.placeLesionButton.click()
    point = ui.lesionSelector.currentNode()
    interaction, selection = (
        slicer.mrmlScene.GetNodeByID(f"vtkMRML{kind}NodeSingleton")
        for kind in ("Interaction", "Selection")
    )
    assert (
        interaction.GetCurrentInteractionMode() == interaction.Place
        and not interaction.GetPlaceModePersistence()
    )
    assert (
        selection.GetActivePlaceNodeID() == point.GetID()
        and "Place a point in 'Lesion'" in ui.applyButton.toolTip
    )
    point.AddControlPoint(-20.0, -20.0, 2.0)  # the click
    assert ui.applyButton.enabled
    ui.placeLesionButton.click()  # another place for the same
    assert ui.lesionSelector.currentNode() is point and point.GetNumberOfControlPoints() == 0


@pytest.mark.parametrize("region", ["Displayed slice", "Region of interest"])
def test_automatic_shows_the_value_that_is_used(widget, region):
    choose(widget, add_ct(body((40, 44), 3, noise=31.0)))
    choose_region(widget, region)
    ui = widget.ui
    assert ui.automaticLabel.isHidden() and not ui.epsilonSlider.isHidden()
    ui.automaticCheckBox.checked = True
    shown = ui.automaticLabel.text
    noise = float(shown.split("(")[1].split()[0])
    assert not ui.automaticLabel.isHidden() and ui.epsilonSlider.isHidden()
    assert noise == pytest.approx(31, rel=0.15) and shown.endswith(
        f" HU, a tenth of the noise ({noise:.2g} HU)"
    )
    ui.samplesSpinBox.value, ui.projectedSpinBox.value = 3, 2
    press(widget)
    finish(widget)
    assert shown.startswith(f"{facts(widget)['epsilon']:.2g} HU, ")
    assert (
        f"within {facts(widget)['epsilon']:.2g} HU, 0.1 times the noise of {noise:.2g} HU"
        in ui.summaryLabel.text
    )


def test_automatic_of_many_slices_is_measured_by_the_run(widget):
    ui = widget.ui
    ui.lowDoseSelector.setCurrentNode(add_ct(body((40, 44), 6)))
    choose_region(widget, "Whole volume")
    assert ui.automaticLabel.text == "a tenth of the image's noise"
    ui.lowDoseSelector.setCurrentNode(None)
    assert ui.automaticLabel.text == "a tenth of the image's noise"


def test_a_lesion_beside_the_region_brings_its_slice(widget):
    volume = add_ct()
    request = steps.finish(
        widget.logic.requestSteps(volume, region=REGION, lesion=(-20.0, -20.0, 4.0))
    )
    assert request.volumes["low_dose"].shape == (2, 40, 44)
    assert tuple(request.settings["region"]) == (0, 1, *REGION[2:])


def test_of_the_normal_dose_ct_the_same_slices_are_sent(widget):
    asked = partial(widget.logic.requestSteps, add_ct(), region=REGION, lesion=(-20.0, -20.0, 4.0))
    assert set(steps.finish(asked()).volumes) == {"low_dose"}
    request = steps.finish(asked(normalDose=add_ct(body((40, 44), 3, noise=5.0))))
    low, normal = (request.volumes[role] for role in ("low_dose", "normal_dose"))
    assert normal.shape == low.shape == (2, 40, 44)
    np.testing.assert_array_equal(normal.ijk_to_ras, low.ijk_to_ras)


def test_low_dose_is_simulated_by_a_button(widget):
    normal = add_ct(body((40, 44), 1, noise=0.0))
    widget.ui.normalDoseSelector.setCurrentNode(normal)
    widget.ui.simulateButton.click()
    low = widget._parameterNode.lowDose
    assert low.GetName() == "My CT simulated at 25 % dose"
    noise = array(low)[0, 12:28, 14:30] - array(normal)[0, 12:28, 14:30]
    assert noise.std() > 1 and abs(noise.mean()) < 3 * noise.std()


# ---- a sampler


@pytest.fixture
def sampled(module, tmp_path, monkeypatch):
    """The panel with a denoiser, a sampler made for it, and one made for another."""
    files = saved(tmp_path)
    saved(tmp_path, "other", training={"denoiser": "Another", "denoiser SHA-256": "1" * 64})
    plain(tmp_path / "zzz.safetensors", name="Without")
    monkeypatch.setenv("NETINVERSION_MODELS", str(tmp_path))
    monkeypatch.delenv("NETINVERSION_DATA", raising=False)
    widget = module("Invariances")
    widget.files = files
    return widget


def entries(selector):
    return {selector.itemData(i): selector.itemText(i) for i in range(selector.count)}


def test_a_sampler_that_fits_is_taken_and_draws(sampled):
    import slicer

    ui, node = sampled.ui, sampled._parameterNode
    assert entries(ui.samplerSelector) == {
        "": "none",
        "sampler.safetensors": "Sampler of the denoiser",
    }
    assert (
        node.sampler == "sampler.safetensors"
        and ui.flowCheckBox.checked
        and not ui.noiseCheckBox.checked
    )
    layers = entries(ui.layerSelector)
    assert [name for name, title in layers.items() if "VAE + flow" in title] == [
        "output",
        "layers.0",
        "layers.4",
    ]
    choose(sampled, add_ct())
    ui.textureCheckBox.checked, ui.projectedSpinBox.value = False, 0
    for layer in ("layers.2", "output"):  # the second has a flow, by the name of the last layer
        sampled.setValues(layer=layer)
        assert ui.applyButton.enabled == (layer == "output") and (
            "no flow" in ui.applyButton.toolTip
        ) == (layer != "output")
    press(sampled)
    finish(sampled)
    assert "Done" in ui.statusLabel.text, ui.logText.toPlainText()
    assert (
        facts(sampled)["settings"]["proposals"] == ["cinn"]
        and facts(sampled)["sampler"]["flow"] == "layers.4"
    )
    ui.showButton.click()
    floor = slicer.app.layoutManager().sliceWidget("InvariancesFloor").mrmlSliceCompositeNode()
    assert floor.GetForegroundVolumeID() == results(sampled)["vae floor"].GetID()
    assert array(results(sampled)["vae floor"])[0, 10:30, 12:34].any()
    ui.opacitySlider.value = 0.3
    assert floor.GetForegroundOpacity() == pytest.approx(0.3)


def test_another_denoiser_has_another_sampler_or_none(sampled):
    ui, node = sampled.ui, sampled._parameterNode
    denoiser = sampled._cardPath
    ui.modelSelector.setCurrentIndex(
        [text for text in entries(ui.modelSelector).values()].index("Without")
    )
    assert (
        node.sampler == ""
        and not ui.samplerSelector.enabled
        and ui.noiseCheckBox.checked
        and not ui.flowCheckBox.checked
    )
    choose(sampled, add_ct())
    ui.flowCheckBox.checked = True
    assert "Choose a sampler" in ui.applyButton.toolTip
    ui.modelSelector.setCurrentIndex(ui.modelSelector.findData(denoiser))
    assert node.sampler == "sampler.safetensors" and ui.applyButton.enabled
    choose_second_model(sampled, str(sampled.files[0].with_name("zzz.safetensors")))
    assert "no sampler for the second denoiser" in ui.applyButton.toolTip
    choose_second_model(sampled, "")
    node.sampler = "other.safetensors"
    refused(sampled, "'other.safetensors' is not there, or was made for another denoiser")
    ui.samplerSelector.setCurrentIndex(0)
    sampled._onSampler(0)
    assert node.sampler == "" and "Choose a sampler" in ui.applyButton.toolTip
    sampled.parent.exit()
    sampled.parent.enter()
    assert node.sampler == ""  # what the user chose stays


def test_a_layer_without_flow_is_refused_with_those_that_have_one(sampled):
    choose(sampled, add_ct())
    sampled._parameterNode.layer = "layers.2"
    denoiser = str(sampled.files[0])
    assert (
        "no flow for layer 'layers.2', only for layers.0, layers.4"
        in sampled.logic.layerProblem(denoiser, "layers.2", True)
    )
    assert (
        sampled.logic.layerProblem(denoiser, "layers.2", False)
        == sampled.logic.layerProblem(denoiser, "output", True)
        == ""
    )
    assert (
        "has no flow for layer 'layers.2', only for layers.0, layers.4, output"
        in sampled.ui.applyButton.toolTip
    )
    sampled._withFlow = None  # the layers were not read yet: the run says it
    sampled._showApply()
    refused(sampled, "has no flow for layer 'layers.2'", "only for layers.0, layers.4")


def test_a_sampler_is_no_denoiser(sampled):
    choose(sampled, add_ct())
    use_model(sampled, sampled.files[1])
    refused(sampled, "is a network for another task (invariance sampling)")


def test_a_sampler_from_the_console(sampled):
    denoiser, sampler = sampled.files
    output = sampled.logic.run(
        add_ct(),
        model=str(denoiser),
        sampler=str(sampler),
        samples=3,
        projected=0,
        shown=1,
        region=REGION,
        device="cpu",
    )
    assert list(output.facts["settings"]["proposals"]) == ["cinn"] and "vae floor" in output.nodes
    request = steps.finish(
        sampled.logic.requestSteps(
            add_ct(), model=str(denoiser), proposals=["cinn"], secondModel=str(denoiser)
        )
    )
    assert request.model_paths["sampler"] == request.model_paths["second sampler"] == str(sampler)
    with pytest.raises(models.ModelError, match="not a sampler"):
        sampled.logic.run(
            add_ct(),
            model=str(denoiser),
            sampler=str(denoiser),
            samples=3,
            projected=0,
            shown=1,
            region=REGION,
            device="cpu",
        )


# ---- stopping, saving


@pytest.mark.parametrize("worker", [False, True])
def test_cancel_keeps_a_partial_map_that_says_so(widget, published, monkeypatch, worker):
    from NetInversionLib.invariances import findings

    monkeypatch.setattr(findings, "INTERMEDIATE_EVERY_S", 0)
    monkeypatch.setattr(type(widget), "PREVIEW_EVERY_S", 0.1)
    choose(widget, add_ct(), worker=worker)
    use_model(widget, published)
    widget.ui.samplesSpinBox.value = 100000
    if worker:
        press(widget)
        host.wait(
            lambda: (
                widget._going.job
                and any(Path(widget._going.job._folder).glob("intermediate-[0-9]*"))
            ),
            60,
        )
        host.wait(lambda: not widget.ui.previewLabel.isHidden(), 60)
        widget.ui.applyButton.click()
        finish(widget, 10)
    else:
        from host import qt

        timer = qt.QTimer(widget.parent)
        timer.timeout.connect(
            lambda: (
                widget._going
                and not widget.ui.previewLabel.isHidden()
                and widget.ui.applyButton.click()
            )
        )
        timer.start(50)
        press(widget)  # returns when the run has ended
        timer.stop()
    assert widget._going is None and "Cancelled" in widget.ui.statusLabel.text
    found = results(widget)
    assert (
        "partial" in found["std unproven"].GetName()
        and "(incomplete)" in found["std unproven"].GetName()
    )
    assert (
        array(found["std unproven"])[0, 12:28, 14:32].mean() > 30
        and "Incomplete" in widget.ui.summaryLabel.text
    )
    assert (
        facts(widget)["complete"] is False and facts(widget)["projected"] == 0
    )  # that comes after everything was tried
    assert (
        tables.columns_of(found["proof"])[
            next(c for c in tables.columns_of(found["proof"]) if c.startswith("unproven"))
        ][0]
        > 1
    )
    assert widget.ui.previewLabel.isHidden()


def test_closing_the_scene_stops_the_run(widget, published):
    import slicer

    choose(widget, add_ct(), worker=True)
    use_model(widget, published)
    widget.ui.samplesSpinBox.value = 100000
    press(widget)
    host.wait(lambda: "trying sample" in widget.ui.statusLabel.text, 60)
    host.close()
    assert widget._going is None and "scene was closed" in widget.ui.statusLabel.text
    assert (
        not slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        and "Choose a low-dose CT" in widget.ui.applyButton.toolTip
    )


def test_a_saved_scene_brings_the_result_back(widget, tmp_path):
    import slicer

    choose(widget, add_ct())
    press(widget)
    finish(widget)
    before = array(results(widget)["std proven"]).copy()
    path = tmp_path / "scene.mrb"
    assert slicer.mrmlScene.WriteToMRB(str(path), None)
    host.close()
    assert not results(widget)
    slicer.util.loadScene(str(path))
    found = results(widget)
    np.testing.assert_allclose(array(found["std proven"]), before, atol=1e-4)
    assert (
        widget._parameterNode.lowDose.GetName() == "My CT" and widget._parameterNode.samples == 12
    )
    assert (
        not widget.ui.resultsCollapsibleButton.isHidden()
        and found["sequence of samples"].GetNumberOfDataNodes() == 3
    )
    widget.ui.shownSlider.value = 3
    np.testing.assert_allclose(
        array(found["samples"]), array(found["sequence of samples"].GetNthDataNode(2)), atol=1e-3
    )


# ---- bad input: a message that says what to do, and the scene as it was


def refused(widget, *words):
    before = scene_ids()
    if widget.ui.applyButton.enabled:
        widget.ui.applyButton.click()
        finish(widget)
        said = widget.ui.statusLabel.text
    else:
        said = widget.ui.applyButton.toolTip
    for word in words:
        assert word in said
    assert scene_ids() == before and not results(widget)


def test_an_mr_image_and_raw_values_are_no_ct_in_hu(widget):
    from dataclasses import replace

    for values in (
        np.abs(body((40, 44), 3).array),
        (body((40, 44), 3).array + 1100).astype(np.uint16),
    ):
        choose(widget, add_ct(replace(body((40, 44), 3), array=values), "MR"))
        refused(widget, "'MR' holds no air", "is it a CT in HU?", "rescale slope")


def test_a_network_of_another_kind(widget, tmp_path):
    choose(widget, add_ct())
    unet = {"dimensions": 2, "in_channels": 2, "out_channels": 1, "features": [4, 4]}
    inputs = (CHANNEL, models.Channel("MR", "mr", "a.u.", 0.0, 1.0))
    two = card(architecture="unet", arguments=unet, inputs=inputs, size_multiple=2)
    use_model(
        widget, models.save(tmp_path / "two.safetensors", networks.build("unet", **unet), two)
    )
    refused(widget, "has 2 inputs and 1 outputs", "Choose another model")
    other = card(task="image-to-image")
    use_model(widget, models.save(tmp_path / "other.safetensors", averaging(), other))
    refused(widget, "is a network for another task")


def test_a_size_rule_is_no_obstacle_where_the_network_pads(widget, tmp_path):
    unet = {"dimensions": 2, "in_channels": 1, "out_channels": 1, "features": [4, 4]}
    path = models.save(
        tmp_path / "unet.safetensors",
        networks.build("unet", **unet),
        card(architecture="unet", arguments=unet, size_multiple=2),
    )
    choose(widget, add_ct(body((41, 45), 3)))
    use_model(widget, path)
    press(widget)
    finish(widget)
    assert array(results(widget)["std unproven"]).shape == (1, 41, 45)


def test_a_layer_that_does_not_exist(widget):
    choose(widget, add_ct())
    widget._parameterNode.layer = "conv99"
    assert widget.ui.layerSelector.currentText == "conv99"
    refused(widget, "no layer 'conv99'", "1: layers.0, Conv2d")


def test_weights_that_are_no_numbers(widget, tmp_path):
    broken = averaging()
    next(broken.parameters())[0, 0, 0, 0] = float("nan")
    choose(widget, add_ct())
    use_model(widget, models.save(tmp_path / "nan.safetensors", broken, card()))
    refused(widget, "not finite numbers", "get the file again")


def test_a_constant_patch(widget):
    from dataclasses import replace

    choose(
        widget,
        add_ct(replace(body((40, 44), 3), array=np.full((3, 40, 44), -1000, np.float32)), "Air"),
    )
    widget.ui.automaticCheckBox.checked = True
    refused(widget, "no noise could be measured", "give epsilon in HU")


def test_epsilon_of_nothing_and_other_settings(widget):
    choose(widget, add_ct())
    ui = widget.ui
    ui.epsilonSlider.value = 0
    refused(widget, "must be above 0")
    ui.epsilonSlider.value = 1
    ui.textureCheckBox.checked = False
    refused(widget, "at least one kind of proposals")
    ui.textureCheckBox.checked = True
    ui.projectedSpinBox.value = 500
    refused(widget, "Not more samples can be projected")
    ui.projectedSpinBox.value = 2
    for text in ("strong", "30, 0", ""):
        widget._parameterNode.contrasts = text
        refused(widget, "contrasts (Advanced) as numbers with commas between, none of them 0")
    widget._parameterNode.contrasts = "30"
    widget._parameterNode.diameters = "3, -1"
    refused(widget, "sizes (Advanced) as numbers with commas between, all above 0")
    widget._parameterNode.diameters = "3"
    ui.roiSelector.currentNode().SetCenter(500, 500, 500)
    widget.refresh()
    refused(widget, "outside")


def test_no_volume_no_model(widget, monkeypatch, tmp_path):
    assert "Choose a low-dose CT" in widget.ui.applyButton.toolTip
    monkeypatch.setattr(library, "model_folders", lambda: [tmp_path])
    with pytest.raises(ValueError, match="No denoiser is shipped"):
        widget.logic.run(add_ct())


def test_packages_that_are_not_installed(widget, monkeypatch):
    installed = packages.installed
    monkeypatch.setattr(
        packages, "installed", lambda name: () if name == "torch" else installed(name)
    )
    choose(widget, add_ct())
    refused(widget, "Invariances needs torch")


def test_self_test(widget):
    import slicer

    slicer.selfTests["Invariances"]()


# ---- sample data


def test_sample_data_are_registered_and_chosen(widget, monkeypatch):
    import SampleData
    import slicer

    sources = {
        source.sampleName: source for source in slicer.modules.sampleDataSources["NetInversion"]
    }
    assert Path(sources["InvariancesLowDoseCT"].thumbnailFileName).is_file()

    def download(self, name):
        assert name == "CTChest"
        return slicer.util.addVolumeFromArray(
            body((40, 44), 9).array, slicer.util.vtkMatrixFromArray(MATRIX), name
        )

    monkeypatch.setattr(SampleData.SampleDataLogic, "downloadSample", download)
    SampleData.press("InvariancesLowDoseCT")
    assert {node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")} == {
        "Sample CT, normal dose",
        "Sample CT, simulated low dose",
    }
    assert widget._parameterNode.lowDose.GetName() == "Sample CT, simulated low dose"
    assert (
        array(widget._parameterNode.normalDose).shape == (3, 40, 44)
        and widget.ui.applyButton.enabled
    )
