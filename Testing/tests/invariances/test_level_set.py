"""Level sets: exact projection for linear networks, and honest refusals.

Also: the whole slice's numbers on a window, and proof in float64.
"""

import numpy as np
import pytest
import torch
from torch import nn

from NetInversionLib import networks
from NetInversionLib.invariances.level_set import LevelSet, Window, project, rms, survived, verify
from NetInversionLib.networks.layers import LayerError

HU = 502.0


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def frozen(network):
    return network.eval().requires_grad_(False)


def averaging(kernel=5):
    """A linear network that loses fine detail: the mean of each neighbourhood."""
    conv = nn.Conv2d(1, 1, kernel, padding=kernel // 2, bias=False)
    nn.init.constant_(conv.weight, 1 / kernel**2)
    return frozen(conv)


def matrix_of(network, size):
    """The network as a matrix acting on flattened images of this size, float64."""
    basis = torch.eye(size[0] * size[1], dtype=torch.float64).reshape(-1, 1, *size)
    return network.double()(basis).flatten(1).T


def test_projection_on_a_linear_network_lands_on_the_exact_level_set():
    """Once on the level set of A, only components in A's range have moved.

    The null space keeps all of the change.
    """
    network = averaging(4 + 1)
    size = (12, 11)
    x0 = torch.rand(1, 1, *size)
    level_set = LevelSet(network, x0, Window(0, 12, 0, 11), scale=HU)
    proposals = x0 + 0.05 * torch.randn(3, 1, *size)
    found = project(level_set, proposals, 0.02, max_evaluations=2000)
    assert found.accepted.all() and (found.measure <= 0.02).all()
    a = matrix_of(averaging(5), size)
    change, proposed = ((x - x0).double().flatten(1) for x in (found.images, proposals))
    exact = (change @ a.T).square().mean(1).sqrt() * HU
    torch.testing.assert_close(found.measure, exact, rtol=1e-3, atol=1e-6)
    _, s, v = torch.linalg.svd(a)
    lost = v[s < 1e-6 * s[0]]
    torch.testing.assert_close(change @ lost.T, proposed @ lost.T, rtol=0, atol=1e-4)


def test_the_level_set_of_a_projector_is_reached_to_rounding():
    """The accepted point is the proposal with its rows put back.

    The network f keeps rows only, so x may change anywhere else.
    """

    class EvenRows(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x):
            keep = torch.zeros(x.shape[2], 1)
            keep[::2] = 1
            return x * keep * self.weight

    x0 = torch.rand(1, 1, 16, 16)
    level_set = LevelSet(frozen(EvenRows()), x0, Window(0, 16, 0, 16))
    proposal = torch.rand(2, 1, 16, 16)
    found = project(level_set, proposal, 1e-4)
    expected = proposal.clone()
    expected[:, :, ::2] = x0[:, :, ::2]
    assert found.accepted.all()
    torch.testing.assert_close(found.images, expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(found.images[:, :, 1::2], proposal[:, :, 1::2])
    assert (found.measure / rms(level_set.start) < 1e-3).all()


@pytest.mark.parametrize(
    "name, arguments", [("cnn10", {"last_kernel": 3}), ("wganvgg", {}), ("redcnn", {"out_ch": 3})]
)
@pytest.mark.parametrize("place", [Window(0, 12, 30, 44), Window(52, 66, 48, 62)])
def test_a_window_gives_the_whole_slice_s_numbers(name, arguments, place):
    """The measure equals that of f on the whole slice, in the middle and at a corner.

    It is taken in float64, and every output counts.
    """
    network = frozen(networks.build(name, **arguments))
    x0 = torch.randn(1, 1, 120, 112)
    level_set = LevelSet(network, x0, place, scale=HU)
    assert level_set.window.size != (120, 112)
    x = level_set.start + 0.1 * torch.randn(2, 1, *place.size)
    for content, measured in zip(x, level_set.measure(x)):
        after = x0.clone()
        after[(0, 0, *place.slices)] = content[0]
        assert verify(level_set, x0, after) == pytest.approx(float(measured), rel=1e-4)
        assert next(network.parameters()).dtype == torch.float32
        with torch.no_grad():
            whole = (network(after) - network(x0)).double()
        assert float(whole.square().sum() / np.prod(place.size)) ** 0.5 * HU == pytest.approx(
            float(measured), rel=1e-4
        )


@pytest.mark.parametrize("place", [Window(48, 62, 48, 62), Window(49, 63, 51, 66)])
def test_a_window_begins_on_the_grid_of_a_network_with_strides(place):
    """The window begins on the grid, wherever the region begins.

    Elsewhere the squares that are pooled would be others than the whole slice's.
    """

    class Pooled(nn.Module):
        size_multiple = 4

        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 1, 3, padding=1)

        def forward(self, x):
            return self.last(
                nn.functional.interpolate(
                    nn.functional.max_pool2d(self.first(x), 4), scale_factor=4
                )
            )

    x0 = torch.randn(1, 1, 128, 112)
    level_set = LevelSet(frozen(Pooled()), x0, place, scale=HU)
    assert level_set.window.size != (128, 112)
    after = x0.clone()
    after[(0, 0, *place.slices)] += 0.3 * torch.randn(place.size)
    assert verify(level_set, x0, after) == pytest.approx(
        float(level_set.measure(after[(..., *place.slices)])), rel=1e-4
    )


@pytest.mark.parametrize("layer", [1, 3, "layers.3", "output"])
def test_hidden_layers_are_measured_relative_to_themselves(layer):
    network = frozen(networks.build("cnn10", last_kernel=3))
    x0 = torch.randn(1, 1, 64, 64)
    region = Window(24, 40, 24, 40)
    level_set = LevelSet(network, x0, region, layer, HU)
    assert level_set.units == ("HU" if layer == "output" else "relative")
    x = level_set.start + 0.2 * torch.randn(1, 1, 16, 16)
    after = x0.clone()
    after[(0, 0, *region.slices)] = x[0, 0]
    assert verify(level_set, x0, after) == pytest.approx(float(level_set.measure(x)), rel=1e-4)
    value, gradient = level_set.value_and_gradient(x, torch.tensor([0]))
    assert float(value) == pytest.approx(float(level_set.measure(x)) ** 2, rel=1e-4)
    step = 1e-3 * torch.randn_like(x)
    slope = (
        level_set.value_and_gradient(x + step, torch.tensor([0]))[0]
        - level_set.value_and_gradient(x - step, torch.tensor([0]))[0]
    ) / 2
    assert float(slope) == pytest.approx(float((gradient * step).sum()), rel=0.02, abs=1e-7)


def test_what_is_accepted_is_on_the_level_set_and_keeps_a_share_of_the_change():
    network = frozen(networks.build("cnn10", last_kernel=3))
    x0 = torch.randn(1, 1, 48, 48)
    region = Window(12, 36, 12, 36)
    level_set = LevelSet(network, x0, region, scale=HU)
    proposals = level_set.start + 0.2 * torch.randn(4, 1, 24, 24)
    epsilon = 0.1 * float(level_set.measure(proposals).min())
    found = project(level_set, proposals, epsilon, 100)
    assert (
        found.accepted.all()
        and (found.measure <= epsilon).all()
        and (found.proposed > epsilon).all()
    )
    assert ((0 < found.survived) & (found.survived < 1)).all()
    assert (found.change_after > 0).all() and found.images.shape == proposals.shape
    # One at a time gives the same.
    alone = project(level_set, proposals[2:3], epsilon, 100)
    torch.testing.assert_close(alone.measure, found.measure[2:3], rtol=0.05, atol=0)
    assert torch.equal(*(project(level_set, proposals, epsilon, 30).images for _ in range(2)))


@pytest.fixture
def estimating():
    """A denoiser that estimates the noise's level itself, and a noisy slice."""
    network = networks.build("cnn10", last_kernel=3, residual=True, level="learned")
    for weight in network.told.parameters():
        nn.init.normal_(weight, std=0.1)
    return frozen(network), 0.05 * torch.randn(1, 1, 48, 48)


def test_the_search_may_hold_the_level_and_the_proof_may_not(estimating):
    network, x0 = estimating
    region = Window(14, 34, 14, 34)
    level_set = LevelSet(network, x0, region, scale=HU)
    proposals = level_set.start + 0.02 * torch.randn(2, 1, 20, 20)
    epsilon = 0.2 * float(level_set.measure(proposals).min())
    found = project(level_set, proposals, epsilon, 100)
    assert found.accepted.all() and network.told.held is None
    for content in found.images:
        after = x0.clone()
        after[(0, 0, *region.slices)] = content[0]
        assert verify(level_set, x0, after) <= epsilon
    # The estimate does react to the proposal.
    levels = level_set.levels(level_set.start)
    judged = [
        float(level_set.value_and_gradient(proposals[:1], torch.tensor([0]), held)[0])
        for held in (levels, None, level_set.levels(proposals[:1]))
    ]
    assert judged[1] == pytest.approx(judged[2], rel=1e-4) and judged[0] != judged[1]


def test_the_gradient_with_the_level_held_is_that_of_the_layers_alone(estimating):
    network, x0 = estimating
    level_set = LevelSet(network, x0, Window(14, 34, 14, 34), scale=HU)
    levels, item = level_set.levels(level_set.start), torch.tensor([0])
    x = level_set.start + 0.02 * torch.randn(1, 1, 20, 20)
    _, gradient = level_set.value_and_gradient(x, item, levels)
    step = 1e-4 * torch.randn_like(x)
    ahead, behind = (level_set.value_and_gradient(x + s, item, levels)[0] for s in (step, -step))
    assert float(ahead - behind) / 2 == pytest.approx(float((gradient * step).sum()), rel=0.02)


def test_a_proposal_on_the_level_set_stays():
    network = averaging()
    x0 = torch.rand(1, 1, 20, 20)
    level_set = LevelSet(network, x0, Window(4, 16, 4, 16), scale=HU)
    found = project(level_set, level_set.start.clone(), 1.0)
    assert torch.equal(found.images, level_set.start) and found.evaluations == 1 and found.accepted


def test_too_few_evaluations_are_not_accepted():
    network = frozen(networks.build("wganvgg"))
    x0 = torch.randn(1, 1, 40, 40)
    level_set = LevelSet(network, x0, Window(10, 30, 10, 30), scale=HU)
    found = project(level_set, level_set.start + torch.randn(1, 1, 20, 20), 1e-3, 2)
    assert not found.accepted and found.measure > 1e-3


def test_survived_is_one_for_everything_and_zero_for_nothing():
    start, proposals = torch.rand(1, 1, 6, 6), torch.rand(2, 1, 6, 6)
    assert survived(proposals, proposals, start).tolist() == pytest.approx([1, 1])
    assert survived(proposals, start.expand(2, -1, -1, -1), start).tolist() == [0, 0]
    assert survived(proposals, start + 0.25 * (proposals - start), start).tolist() == pytest.approx(
        [0.25] * 2
    )


def test_exactly_the_same_output_is_refused():
    level_set = LevelSet(averaging(), torch.rand(1, 1, 16, 16), Window(2, 10, 2, 10))
    with pytest.raises(ValueError, match="epsilon must be above 0.*fraction of the noise"):
        project(level_set, level_set.start, 0.0)


def test_a_region_outside_the_slice_and_a_layer_that_is_not_there_are_refused():
    with pytest.raises(ValueError, match="does not lie within the slice of 16 x 16"):
        LevelSet(averaging(), torch.rand(1, 1, 16, 16), Window(2, 17, 2, 10))
    with pytest.raises(ValueError, match="rows and columns in order"):
        Window(5, 5, 0, 3)
    with pytest.raises(LayerError, match="choose 'output' or one of"):
        LevelSet(frozen(networks.build("cnn10")), torch.rand(1, 1, 32, 32), Window(2, 10, 2, 10), 9)


def test_a_dead_layer_is_refused():
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Conv2d(1, 1, 1))
    with torch.no_grad():
        network[0].weight.fill_(1.0)
        network[0].bias.fill_(-5.0)
    # It reacts to wilder inputs, so there is something to measure its reach with, but not here.
    with pytest.raises(ValueError, match="is zero in this region|does not depend"):
        LevelSet(frozen(network), torch.rand(1, 1, 16, 16), Window(2, 10, 2, 10), 2)
