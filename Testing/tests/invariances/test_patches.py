"""The local criterion: the same verdict for any region.

What is large in one place does not hide in a mean. Also: bounds and gradients, proof on whole
slices, and the nulls beside a denoiser.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from NetInversionLib import networks
from NetInversionLib.invariances import nulls
from NetInversionLib.invariances.lesions import Nodule, detectability, draw, hide
from NetInversionLib.invariances.level_set import LevelSet, Window, project, rms, verify
from NetInversionLib.invariances.patches import (
    patch_means,
    patch_voxels,
    smooth_largest,
)
from NetInversionLib.invariances.settings import InvariancesSettings

HU = 500.0


def denoiser():
    torch.manual_seed(3)
    return networks.build("wganvgg").eval().requires_grad_(False)


def test_patches_have_the_size_asked_for():
    assert patch_voxels(5.0, (0.5, 1.0)) == (5, 10) and patch_voxels(0.1, (1.0, 1.0)) == (1, 1)
    assert InvariancesSettings(patch_mm=3.0).patch((1.0, 0.5, 8.0)) == (6, 3)
    assert InvariancesSettings(patch_mm=None).patch((1.0, 1.0)) is None


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 5))
def test_the_largest_mean_is_that_of_every_patch_looked_at(rows, columns, seed):
    squares = torch.rand(2, 1, 9, 11, generator=torch.Generator().manual_seed(seed)).double()
    windows = np.lib.stride_tricks.sliding_window_view(squares.numpy(), (rows, columns), (2, 3))
    expected = windows.mean((-1, -2)).max((1, 2, 3))
    means = patch_means(squares, (rows, columns))
    np.testing.assert_allclose(means.amax(1), expected, rtol=1e-9)
    assert (smooth_largest(means) >= (1 - 1e-9) * means.amax(1)).all()


def test_a_map_smaller_than_a_patch_has_nothing_around_it():
    assert float(patch_means(torch.ones(1, 1, 2, 3), (4, 6))) == pytest.approx(6 / 24)


def test_the_smooth_largest_of_one_patch_is_it_and_has_a_gradient_where_nothing_changed():
    squares = torch.rand(1, 1, 5, 5)
    one = smooth_largest(patch_means(squares, (5, 5)))
    assert float(one) == pytest.approx(float(squares.mean()), rel=1e-5)
    x = torch.zeros(1, 1, 5, 5, requires_grad=True)
    (slope,) = torch.autograd.grad(smooth_largest(patch_means(x.square(), (2, 2))).sum(), x)
    assert torch.isfinite(slope).all()


def test_regions_of_64_to_512_voxels_give_the_same_verdict():
    """A nodule of 5 mm: the local measure ignores the region, the mean's falls with it."""
    network, image = (
        denoiser(),
        torch.rand(1, 1, 512, 512, generator=torch.Generator().manual_seed(0)),
    )
    local, mean = [], []
    for side in (64, 128, 512):
        first = 256 - side // 2
        region = Window(first, first + side, first, first + side)
        change = draw(Nodule((256.0, 256.0), 5.0, 100.0), region, (1.0, 1.0))[None, None] / HU
        for patch, found in (((5, 5), local), (None, mean)):
            target = LevelSet(network, image, region, scale=HU, patch=patch)
            found.append(float(target.measure(target.start + change)))
    assert local == pytest.approx([local[0]] * 3, rel=1e-4)
    assert mean[2] < 0.2 * mean[0] < 0.2 * local[0]


def asked_about(network, image, region, diameter, centre=(80.0, 80.0)):
    """The level set of a nodule in the middle of a region, patches of 5 x 5 voxels of 1 mm."""
    nodule = draw(Nodule(centre, diameter, 1.0), region, (1.0, 1.0))
    return LevelSet(network, image, region, scale=HU, patch=(5, 5), structure=nodule)


@pytest.mark.parametrize("diameter", [2.0, 3.7, 5.0, 5.6, 9.0, 20.0])
def test_the_network_that_shows_everything_hides_nothing_above_the_tolerance(diameter):
    """Of any size; patches alone let more of a nodule pass that does not fill one."""
    image = torch.rand(1, 1, 160, 160, generator=torch.Generator().manual_seed(0))
    region = Window(16, 144, 16, 144)
    nodules = [Nodule((80.0, 80.0), diameter, contrast) for contrast in (-40.0, 5.0, 100.0)]
    local = asked_about(nulls.Identity(), image, region, diameter)
    found = hide(local, nodules, (1.0, 1.0), HU, 4.0)
    assert found.accepted.all() and (found.survived_hu.abs() <= 4.0).all()
    # Nearly all of the tolerance is used: nothing is refused that may pass.
    assert (found.survived_hu.abs() > 0.99 * 4.0).all()
    assert found.shown.numpy() == pytest.approx([40.0, 5.0, 100.0], rel=1e-5)


def test_patches_alone_let_a_nodule_pass_that_does_not_fill_one_and_a_mean_lets_all_pass():
    image = torch.rand(1, 1, 160, 160, generator=torch.Generator().manual_seed(0))
    region, nodule = Window(16, 144, 16, 144), [Nodule((80.0, 80.0), 5.0, 100.0)]
    patches = LevelSet(nulls.Identity(), image, region, scale=HU, patch=(5, 5))
    assert float(hide(patches, nodule, (1.0, 1.0), HU, 4.0).survived_hu) > 1.2 * 4.0
    whole = LevelSet(nulls.Identity(), image, region, scale=HU)
    assert float(hide(whole, nodule, (1.0, 1.0), HU, 8.0).survived_hu) > 80


@pytest.mark.parametrize("diameter", [3.0, 4.0, 8.0])
def test_a_wider_blur_hides_more(diameter):
    image = torch.rand(1, 1, 72, 72, generator=torch.Generator().manual_seed(0))
    left = []
    for sigma in (0.6, 1.2, 2.4):
        region, centre = Window(18, 54, 18, 54), (36.0, 36.0)
        target = asked_about(nulls.Blur(sigma), image, region, diameter, centre)
        found = hide(target, [Nodule(centre, diameter, 60.0)], (1.0, 1.0), HU, 2.0)
        assert found.accepted.all()
        left.append(float(found.survived_hu))
    assert left[0] < left[1] < left[2]


@pytest.mark.parametrize("nodule", [False, True])
def test_projection_ends_within_the_tolerance_and_is_proven_on_the_whole_slice(nodule):
    network = denoiser()
    image = torch.rand(1, 1, 96, 80, generator=torch.Generator().manual_seed(1))
    region = Window(24, 64, 20, 60)
    structure = draw(Nodule((40.0, 44.0), 5.0, 1.0), region, (1.0, 1.0)) if nodule else None
    target = LevelSet(network, image, region, scale=HU, patch=(6, 6), structure=structure)
    noise = 0.1 * torch.randn(3, 1, 40, 40, generator=torch.Generator().manual_seed(2))
    found = project(
        target, target.start + noise, 0.2 * float(target.measure(target.start + noise).min())
    )
    assert found.accepted.all() and (found.survived > 0).all()
    for one, measure in zip(found.images, found.measure):
        after = image.clone()
        after[..., 24:64, 20:60] = one
        assert verify(target, image, after) == pytest.approx(float(measure), rel=1e-3)


def test_a_blur_of_equal_noise_leaves_as_much_as_the_network():
    noise = 0.05 * torch.randn(1, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    network = nn.Conv2d(1, 1, 5, padding=2, padding_mode="replicate", bias=False)
    nn.init.constant_(network.weight, 1 / 25)
    network.requires_grad_(False)
    found = nulls.equal_blur(network.eval(), torch.zeros(1, 1, 128, 128), noise)
    assert float(found(noise).std()) == pytest.approx(float(network(noise).std()), rel=0.02)
    # A Gaussian leaves 1 / (2 sigma sqrt(pi)) of white noise, the mean of 25 voxels a fifth.
    assert found.sigma == pytest.approx(5 / (2 * np.pi**0.5), rel=0.05)


def test_the_table_of_lesions_has_the_nulls_beside():
    image = torch.rand(1, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    region = Window(8, 32, 8, 32)
    own, null = (
        {6.0: LevelSet(network, image, region, scale=HU, patch=(5, 5))}
        for network in (nulls.Blur(1.5), nulls.Identity())
    )
    table = detectability(
        own, (20.0, 20.0), [40.0], (1.0, 1.0), HU, 2.0, nulls={nulls.IDENTITY: null}
    )[0].columns
    beside = table[f"the same with {nulls.IDENTITY} (HU)"]
    assert len(beside) == 1 and 0 < beside[0] < table["contrast that survives (HU)"][0]
    assert float(rms(own[6.0].start - null[6.0].start)) == 0
