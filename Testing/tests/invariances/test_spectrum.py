"""The Jacobian's spectrum: identity, projectors, ReLU networks, and density.

Convolutions are compared with matrices, ReLU networks with finite differences.
"""

import numpy as np
import pytest
import torch
from torch import nn

from NetInversionLib import networks
from NetInversionLib.core.progress import Progress
from NetInversionLib.invariances.level_set import LevelSet, Window
from NetInversionLib.invariances.spectrum import curve, float64_device, spectrum

HU = 500.0


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def frozen(network):
    return network.eval().requires_grad_(False)


class Keep(nn.Module):
    """Passes every other row, times a factor."""

    def __init__(self, factor=1.0, every=2):
        super().__init__()
        self.weight, self.every = nn.Parameter(torch.tensor(factor)), every

    def forward(self, x):
        rows = (torch.arange(x.shape[2]) % self.every == 0).to(x)[:, None]
        return x * rows * self.weight


class Narrow(nn.Module):
    """Chen's denoiser with half of its layers and an eighth of its channels.

    It has as many zeros, and is less work.
    """

    def __init__(self):
        super().__init__()
        sides = [1, *[8] * 4, 1]
        convolutions = [nn.Conv2d(*pair, 3, padding=1) for pair in zip(sides, sides[1:])]
        layers = [layer for each in convolutions for layer in (each, nn.ReLU())]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x):
        return self.layers(x)


def test_the_identity_loses_nothing_and_says_so():
    level_set = LevelSet(
        frozen(Keep(1.0, 1)), torch.rand(1, 1, 30, 30), Window(8, 20, 9, 19), scale=HU
    )
    found = spectrum(level_set)
    np.testing.assert_allclose(found.gains, HU, rtol=1e-9)
    assert found.whole and len(found.gains) == 120 and found.lost(1.0, 0.1) == 0
    assert "loses no direction" in found.words(1.0, 0.1, "layer 1")


def test_a_projector_loses_half_and_a_tolerance_decides():
    level_set = LevelSet(
        frozen(Keep(0.5)), torch.rand(1, 1, 30, 30), Window(8, 20, 9, 19), scale=HU
    )
    found = spectrum(level_set)
    assert found.lost(1.0, 0.1) == pytest.approx(0.5)
    # A change of 0.1 moves the rows that pass by 0.5 x 0.1 x 500 = 25 HU.
    assert found.lost(24.9, 0.1) == pytest.approx(0.5) and found.lost(25.1, 0.1) == 1.0
    assert "50 %" in found.words(1.0, 0.1, "output")


def test_a_convolution_has_the_singular_values_of_its_matrix():
    conv = frozen(nn.Conv2d(1, 3, 3, padding=1))
    region = Window(10, 18, 7, 17)
    level_set = LevelSet(conv, torch.rand(1, 1, 30, 31), region, 1, HU)
    found = spectrum(level_set)
    inputs = []
    for j in range(region.j0, region.j1):
        for i in range(region.i0, region.i1):
            x = torch.zeros(1, 1, 30, 31)
            x[0, 0, j, i] = 1
            inputs.append(x)
    with torch.no_grad():
        matrix = (conv(torch.cat(inputs)) - conv.bias[:, None, None]).flatten(1).double().T
    expected = torch.linalg.svdvals(matrix).numpy() * np.sqrt(80 / level_set.norm)
    np.testing.assert_allclose(found.gains, expected, rtol=1e-4)
    assert found.units == "relative" and next(conv.parameters()).dtype == torch.float32


@pytest.mark.parametrize("layer", [2, 3, "output"])
def test_a_relu_network_s_largest_gain_is_its_steepest_change(layer):
    """No random direction is steeper than the largest gain's.

    The whole spectrum explains the mean square of random changes.
    """
    network = frozen(networks.build("cnn10", last_kernel=3))
    x0 = torch.randn(1, 1, 56, 56)
    region = Window(24, 32, 24, 32)
    level_set = LevelSet(network, x0, region, layer, HU)
    found = spectrum(level_set)
    step = 1e-4
    directions = torch.randn(200, 1, 8, 8)
    directions /= directions.square().mean((1, 2, 3), keepdim=True).sqrt()
    exact = LevelSet(network.double(), x0.double(), region, layer, HU)
    slopes = exact.measure(exact.start + step * directions.double()).numpy() / step
    assert slopes.max() < found.gains[0] * 1.01
    assert (slopes**2).mean() == pytest.approx((found.gains**2).mean(), rel=0.15)


def test_the_density_agrees_with_the_whole_spectrum():
    network = frozen(Narrow())
    level_set = LevelSet(network, torch.randn(1, 1, 60, 60), Window(20, 36, 20, 36), scale=HU)
    whole = spectrum(level_set)
    import NetInversionLib.invariances.spectrum as module

    density = module._density(level_set, Progress(), seed=0, steps=40, probes=10)
    assert not density.whole and density.weights.sum() == pytest.approx(256)
    assert density.gains[0] == pytest.approx(whole.gains[0], rel=1e-3)
    for share in (0.1, 0.3, 0.6):
        threshold = np.quantile(whole.gains, share)
        assert density.lost(threshold, 1.0) == pytest.approx(share, abs=0.06)
    assert np.average(density.gains**2, weights=density.weights) == pytest.approx(
        (whole.gains**2).mean(), rel=0.1
    )


def test_regions_above_24_x_24_get_a_density_of_a_known_spectrum():
    level_set = LevelSet(
        frozen(Keep(2.0)), torch.rand(1, 1, 60, 60), Window(10, 40, 10, 40), scale=1.0
    )
    found = spectrum(level_set, probes=4)
    assert not found.whole and found.lost(1e-3, 1.0) == pytest.approx(0.5, abs=0.05)
    assert "about" in found.words(1e-3, 1.0, "output")
    lines = curve({"output": found}).lines["output"]
    assert lines[0][-1] == pytest.approx(1) and lines[1][0] == 1 and min(lines[1]) > 0


@pytest.mark.parametrize("whole", [True, False])
def test_everything_is_where_the_network_is_and_the_network_stays_as_it_is(whole):
    """What is made without saying where would be on the default device.

    Here the default device is one that holds no values.
    """
    network = frozen(networks.build("cnn10", last_kernel=3))
    side = 8 if whole else 25
    level_set = LevelSet(
        network, torch.randn(1, 1, 60, 60), Window(20, 20 + side, 20, 20 + side), scale=HU
    )
    expected, seen = spectrum(level_set, steps=3, probes=1), []

    class Watching(Progress):
        def report(self, fraction, message):
            seen.append({parameter.dtype for parameter in network.parameters()})

    with torch.device("meta"):
        found = spectrum(level_set, Watching(), steps=3, probes=1)
    np.testing.assert_array_equal(found.gains, expected.gains)
    assert found.whole == whole and seen and all(dtypes == {torch.float32} for dtypes in seen)


def test_an_apple_gpu_has_no_float64():
    assert [float64_device(torch.device(name)).type for name in ("mps", "cuda:1", "cpu")] == [
        "cpu",
        "cuda",
        "cpu",
    ]
