"""Registration: closed forms of displacements, and the iterative peer on known ones."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from toy_slices import SIDE, people, small

from NetInversionLib import networks
from NetInversionLib.families import quality, registration, rows
from NetInversionLib.networks.registration import warp


def test_a_whole_step_moves_the_image_by_whole_voxels():
    image = torch.rand(1, 1, 8, 10)
    step = torch.zeros(1, 2, 8, 10)
    step[:, 0], step[:, 1] = 2, -3
    moved = warp(image, step)
    assert torch.allclose(moved[:, :, :6, 3:], image[:, :, 2:, :7], atol=1e-5)
    assert torch.allclose(moved[:, :, 7, 3:], image[:, :, 7, :7], atol=1e-5)  # as its edge
    half = warp(image, torch.full_like(step, 0.5) * torch.tensor([0.0, 1.0]).view(1, 2, 1, 1))
    assert torch.allclose(half[..., :9], (image[..., :9] + image[..., 1:]) / 2, atol=1e-5)


def test_labels_stay_whole_numbers():
    labels = torch.randint(0, 200, (1, 1, 8, 8)).float()
    moved = warp(labels, torch.rand(1, 2, 8, 8), "nearest")
    assert set(moved.unique().tolist()) <= set(labels.unique().tolist())


def test_what_folds_over_is_counted():
    still = torch.zeros(2, 2, 6, 6)
    flipped = still[:1].clone()
    flipped[:, 1] = -2 * torch.arange(6.0)  # left becomes right
    assert registration.folded(still).tolist() == [0, 0]
    assert registration.folded(flipped).item() == 1
    assert registration.roughness(flipped).item() == pytest.approx(4 / 4)


def test_a_displacement_of_whole_voxels_is_found_again_by_splines():
    grain = np.random.default_rng(0).random((SIDE, SIDE))
    smooth = ndimage.gaussian_filter(grain, 2, mode="wrap")  # nowhere flat
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    fixed = torch.from_numpy(smooth[None].astype(np.float32))
    moving = torch.roll(fixed, (2, -1), (1, 2))
    couple = registration.Couple(fixed, moving)
    inner = registration.iterative(couple)[0, :, 4:-4, 4:-4].flatten(1)
    assert inner.median(1).values.tolist() == pytest.approx([2, -1], abs=0.1)
    better = quality.psnr(registration.by_iterations(couple), fixed)[0]
    assert better > quality.psnr(moving, fixed)[0] + 10


def test_a_network_begins_by_leaving_the_moving_image_where_it_is():
    images = torch.rand(2, 2, SIDE, SIDE)
    network = networks.build("voxelmorph", features=[2, 4])
    assert torch.allclose(network(images), images[:, :1], atol=1e-5)


def test_a_network_gives_the_moving_image_where_its_displacement_says():
    images = torch.rand(1, 2, SIDE, SIDE)
    network = small(rows.row("registration"))
    with torch.no_grad():
        displacement = network.displacement(images)
        assert displacement.abs().max() > 1e-3
        assert torch.equal(network(images), warp(images[:, :1], displacement))


def test_the_next_person_is_moved_onto_each_and_the_last_onto_nobody_twice():
    cases = people(3)
    settings = registration.FamilySettings(size=SIDE)
    found = registration.Registration().judged(cases, settings)
    for number, (name, couple) in enumerate(found.items()):
        assert name == cases[number].name
        fixed, moving = (cases[n % 3].images[[1, 2, 3, 4]] for n in (number, number + 1))
        assert np.array_equal(couple.image, fixed) and np.array_equal(couple.moving, moving)
    (alone,) = registration.Registration().judged(cases[:1], settings).values()
    assert torch.equal(alone.moving, alone.image.flip(2))
