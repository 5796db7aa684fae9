"""The noise's level estimated from an image, and the denoisers that are told it.

The tests ask about known noise, a constant added, where they begin, and how far they look.
"""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from NetInversionLib import networks
from NetInversionLib.networks.layers import layers
from NetInversionLib.networks.noise_level import (
    AROUND,
    LEVEL_OF_ONE,
    SMALLEST,
    LearnedLevel,
    local_mean,
    noise_level,
)
from NetInversionLib.optimise.objective import receptive_halo
from NetInversionLib.training.noisy import kernel_response

NETWORKS = {"cnn10": {}, "wganvgg": {}, "redcnn": {"out_ch": 4}}
RAMP = 2 * torch.hypot(
    *torch.meshgrid(torch.fft.fftfreq(96), torch.fft.rfftfreq(96), indexing="ij")
)


def ct_noise(cutoff, sigma, seed=0):
    """Noise whose power rises with frequency as a reconstruction's does.

    A kernel's window multiplies it, and linear interpolation in the back-projection takes a sinc
    squared.
    """
    white = torch.randn(4, 96, 96, generator=torch.Generator().manual_seed(seed))
    response = RAMP.sqrt() * torch.sinc(RAMP / 2) ** 2 * kernel_response(96, torch.tensor([cutoff]))
    noise = torch.fft.irfft2(torch.fft.rfft2(white) * response, s=(96, 96))[:, None]
    return sigma * noise / noise.std()


@pytest.mark.parametrize("cutoff", [0.0, 1.4, 1.0, 0.6])
@pytest.mark.parametrize("sigma", [0.04, 0.1])
def test_the_level_is_the_noise_s_standard_deviation_whatever_the_kernel(cutoff, sigma):
    level, _ = noise_level(0.3 + ct_noise(cutoff, sigma))
    inner = level[..., 16:-16, 16:-16]
    assert float(inner.mean()) / LEVEL_OF_ONE == pytest.approx(sigma, rel=0.1)
    assert float(inner.std() / inner.mean()) < 0.2


def test_grain_tells_kernels_apart():
    means = [float(noise_level(ct_noise(c, 0.05))[1].mean()) for c in (0.0, 1.4, 1.0, 0.6)]
    assert all(a > b + 0.3 for a, b in zip(means, means[1:]))


def test_smooth_anatomy_is_no_noise_and_an_edge_is_heard_less_than_by_a_mean_square():
    j, i = torch.meshgrid(torch.linspace(-1, 1, 96), torch.linspace(-1, 1, 96), indexing="ij")
    level, _ = noise_level((j + 2 * i)[None, None])
    floor = SMALLEST * math.sqrt(1.553 + 4.699 + 11.596) / 0.676
    assert float(level.max()) < 1.05 * floor
    edge = (i > 0.02).float()[None, None] + ct_noise(1.0, 0.05)[:1]
    near = float(noise_level(edge)[0][..., 40:56, 40:56].mean())
    residue = F.conv2d(edge, torch.outer(*[torch.tensor([1.0, -2, 1])] * 2)[None, None] / 6)
    assert near < 3 * 0.05 and float(residue.square().mean().sqrt()) > 0


def test_local_mean_is_that_of_what_lies_in_the_image():
    x = torch.rand(1, 1, 30, 25, generator=torch.Generator().manual_seed(1))
    found = local_mean(x)
    for j, i in ((0, 0), (15, 12), (29, 3)):
        part = x[0, 0, max(0, j - AROUND) : j + AROUND + 1, max(0, i - AROUND) : i + AROUND + 1]
        assert float(found[0, 0, j, i]) == pytest.approx(float(part.mean()), rel=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("level", [False, True, "learned"])
def test_a_residual_network_begins_with_doing_nothing(name, level):
    network = networks.build(name, **NETWORKS[name], residual=True, level=level)
    network.begin_with_nothing()
    x = torch.randn(2, 1, 33, 26)
    assert torch.equal(network(x), x)


def made(name, level):
    """A network with random weights, its level's corrections too."""
    torch.manual_seed(0)
    network = networks.build(name, **NETWORKS[name], residual=True, level=level)
    for part in network.modules():
        if isinstance(part, LearnedLevel):
            for weight in part.parameters():
                torch.nn.init.normal_(weight, std=0.1)
    return network.eval().requires_grad_(False)


def test_a_learned_level_begins_with_the_one_that_is_not_learned():
    x = ct_noise(1.0, 0.05)[:, :, :40, :50]
    for learned, plain in zip(LearnedLevel()(x), noise_level(x)):
        torch.testing.assert_close(learned, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("level", [True, "learned"])
def test_an_image_plus_a_constant_gives_the_output_plus_this_constant(name, level):
    network = made(name, level).double()
    x = torch.randn(1, 1, 40, 37, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(network(x + 0.75), network(x) + 0.75, rtol=0, atol=1e-10)
        assert float((network(x) - x).abs().max()) > 1e-3


@pytest.mark.parametrize("level", [True, "learned"])
def test_gradients_are_finite_where_an_image_is_flat(level):
    network = made("cnn10", level)
    x = torch.full((1, 1, 32, 32), 0.4, requires_grad=True)
    (slope,) = torch.autograd.grad(network(x).square().sum(), x)
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize("level, more", [(True, 0), ("learned", 3)])
def test_a_network_that_is_told_the_level_looks_only_so_far(level, more):
    network = made("cnn10", level)
    x = torch.randn(1, 1, 160, 20, generator=torch.Generator().manual_seed(2))
    reach = receptive_halo(network, x, 1)
    assert AROUND + 7 < reach <= AROUND + 7 + 8 + more
    with torch.no_grad():
        part = network(x[:, :, 40 - reach : 60 + reach])[:, :, reach : reach + 20]
        torch.testing.assert_close(part, network(x)[:, :, 40:60], rtol=0, atol=1e-5)


@pytest.mark.parametrize("level", [True, "learned"])
def test_what_tells_the_level_is_no_layer(level):
    """Papers count the first convolution as layer 1."""
    found = layers(networks.build("cnn10", residual=True, level=level))
    assert [layer.name for layer in found] == [*(f"layers.{n}" for n in range(5)), "mul", "add"]


@pytest.mark.parametrize(
    "wrong",
    [{"level": True}, {"residual": 1}, {"residual": True, "level": "yes"}, {"level": "learned"}],
)
def test_wrong_ways_are_refused(wrong):
    for name in NETWORKS:
        with pytest.raises(ValueError):
            networks.build(name, **wrong)


def test_vgg_19_has_torchvision_s_keys_and_takes_ct():
    network = networks.build("vgg19").eval()
    keys = [key for key in network.state_dict() if key.endswith("weight")]
    assert len(keys) == 16 and keys[0] == "features.0.weight" and keys[-1] == "features.34.weight"
    assert network.features[34].weight.shape == (512, 512, 3, 3)
    seen = []
    network.features[0].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    hu = torch.tensor([-1024.0, 3071.0]).reshape(2, 1, 1, 1).expand(2, 1, 32, 32)
    with torch.no_grad():
        network((hu + 1024 - 481.45419786099086) / 502.18507379395044)
    colours = seen[0][:, :, 0, 0].numpy()
    expected = (np.array([[0.0], [1.0]]) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(colours, expected, atol=1e-5)
