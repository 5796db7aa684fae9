"""Denoising and super-resolution: closed forms of what is simulated, of peers and of networks."""

import math

import numpy as np
import pytest
import torch
from toy_slices import SIDE, heads, small

from NetInversionLib import networks
from NetInversionLib.families import Coarse, analysis, directions, restoration, rows


def test_noise_is_rices():
    noise = 0.2
    found = restoration.noisy(
        np.stack([np.zeros((200, 200)), np.full((200, 200), 3)]),
        np.random.default_rng(0),
        np.array(noise),
    )
    assert found[0].mean() == pytest.approx(noise * math.sqrt(math.pi / 2), rel=0.01)
    assert found[1].mean() == pytest.approx(3 + noise**2 / 6, rel=0.001)
    assert found[1].std() == pytest.approx(noise, rel=0.02)


def test_a_coarse_image_is_what_the_operator_measures():
    images = heads(2)
    pair = restoration.coarsened(images, np.random.default_rng(0), 0.0)
    expected = Coarse(2, (SIDE, SIDE)).forward(torch.from_numpy(images))
    assert torch.allclose(pair.coarse, expected)
    assert torch.equal(pair.poor, restoration.repeated(expected))
    with pytest.raises(ValueError, match="multiple"):
        restoration.coarsened(images[:, 1:], np.random.default_rng(0), 0.0)


@pytest.mark.parametrize(("peer", "error"), [(restoration.linear, 1e-5), (restoration.cubic, 1e-3)])
def test_interpolation_keeps_a_ramp_in_its_place(peer, error):
    ramp = torch.arange(SIDE, dtype=torch.float32).expand(1, SIDE, SIDE).contiguous() / SIDE
    found = peer(restoration.coarsened(ramp.numpy(), np.random.default_rng(0), 0.0))
    inner = slice(8, -8)
    assert torch.allclose(found[0, inner, inner], ramp[0, inner, inner], atol=error)


@pytest.mark.parametrize("peer", restoration.Denoising.peers)
def test_peers_leave_a_flat_image_and_take_away_noise(peer):
    flat = torch.full((1, SIDE, SIDE), 0.8)
    noise = 0.1 * torch.randn(1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    clean = restoration.Denoising.peers[peer](restoration.Pair(flat, flat, 0.1))
    assert torch.allclose(clean, flat, atol=1e-3)
    left = restoration.Denoising.peers[peer](restoration.Pair(flat, flat + noise, 0.1)) - flat
    assert left.std() < (1.001 if peer == "nothing done" else 0.6) * noise.std()


def test_denoising_begins_with_the_image_and_super_resolution_with_cubic_interpolation():
    images = torch.from_numpy(heads(2))[:, None]
    assert torch.equal(networks.build("denoising_autoencoder", features=[2, 4])(images), images)
    pair = restoration.coarsened(heads(2), np.random.default_rng(0), 0.0)
    found = networks.build("multi_scale_super_resolution", width=2, depth=2)(pair.given)
    expected = torch.nn.functional.interpolate(
        pair.coarse[:, None], scale_factor=2, mode="bicubic", align_corners=False
    )
    assert torch.allclose(found * restoration.IMAGE_RANGE, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["denoising-autoencoder", "super-resolution", "registration"])
@pytest.mark.parametrize("size", [(17, 22), (16, 31)])
def test_any_size_goes_in_and_images_of_a_batch_do_not_see_each_other(name, size):
    network = small(rows.row(name)).double()
    images = torch.rand(2, network.in_channels, *size, dtype=torch.float64)
    with torch.no_grad():
        together = network(images)
        alone = torch.cat([network(one[None]) for one in images])
    assert together.shape == (2, 1, *size) and torch.allclose(together, alone, atol=1e-10)


def test_only_means_over_coarse_voxels_are_looked_at():
    network = small(rows.row("super-resolution"))
    images = torch.rand(1, 1, SIDE, SIDE)
    means = torch.nn.functional.avg_pool2d(images, 2)
    flat = means.repeat_interleave(2, 2).repeat_interleave(2, 3)
    with torch.no_grad():
        assert torch.allclose(network(images), network(flat), atol=1e-5)


def test_what_super_resolution_adds_is_told_from_what_was_measured():
    operator = Coarse(2, (SIDE, SIDE))
    truth = torch.from_numpy(heads(1)[0])
    measured = operator.forward(truth)
    repeated = restoration.repeated(measured[None])[0]
    nothing = analysis.hallucinated(operator, truth, measured, repeated)
    assert nothing.error == pytest.approx(1) and nothing.contradiction < 1e-5
    right = analysis.hallucinated(operator, truth, measured, truth)
    assert right.error < 1e-4 and right.hidden == pytest.approx(1)
    assert right.agreement == pytest.approx(1, abs=1e-4)
    brighter = analysis.hallucinated(operator, truth, measured, repeated + 0.1)
    assert brighter.hidden < 1e-6 and brighter.contradiction > 0.1


# Directions ---------------------------------------------------------------------------------------


def test_directions_of_a_network_whose_derivative_is_known():
    given = torch.rand(1, 12, 12)
    assert torch.allclose(directions.answers(lambda x: 3 * x, given, side=4), torch.tensor(3.0))
    coarse = directions.answers(lambda x: torch.nn.functional.avg_pool2d(x, 2), given, side=4)
    # Of each four voxels one direction is seen, and at half its size.
    assert torch.allclose(coarse[:4], torch.tensor(0.5), atol=1e-4)
    assert directions.lost(coarse) == (0.75, 0.0)
    assert directions.lost(torch.tensor([1.0, 0.05, 0.0, 0.2])) == (0.25, 0.25)


def test_a_spot_is_shown_as_much_as_the_network_keeps_of_it():
    given, spot = torch.rand(2, 12, 12), directions.spot((12, 12), 1.5, 0.2)
    assert spot.max() == spot[6, 6] == pytest.approx(0.2)
    half = directions.shown(lambda x: 0.5 * x[:, 1:], given, spot, 1)
    assert half == pytest.approx(0.5, rel=1e-4)
    assert directions.shown(lambda x: 0.5 * x[:, 1:], given, spot, 0) == 0
