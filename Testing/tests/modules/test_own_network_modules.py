"""A network of the user's own in the modules: from the console."""

import host
import numpy as np
import torch
from torch import nn

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
    assert errors["patient"] < 0.9 * errors["patient's"]
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
