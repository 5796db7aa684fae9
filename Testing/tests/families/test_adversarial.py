"""Rows that are trained against critics: closed forms of what is simulated and of their losses."""

import numpy as np
import pytest
import torch
from toy_slices import SIDE, cube, heads, people, small

from NetInversionLib import networks
from NetInversionLib.families import (
    adversarial,
    contrasts,
    directions,
    quality,
    restoration,
    rows,
    slices,
    synthesis,
    training,
    translation,
    tumours,
)
from NetInversionLib.families.settings import FamilySettings
from NetInversionLib.networks.synthesis import latent_image
from NetInversionLib.networks.volumes import fine_voxels


def begun(name, steps=4, size=SIDE):
    row = rows.row(name)
    dimensions = training.TASKS[row.recipe].dimensions
    settings = training.settings_for(name, steps=steps, size=size, batch=2)
    return training.begin(row, settings, people(2, dimensions), row.smaller)


def test_least_squares_of_critics_that_are_known():
    task, one, zero = training.TASKS[rows.SYNTHESIS], lambda x: x * 0 + 1, lambda x: x * 0
    images = torch.rand(2, 1, 4, 4)
    state = begun("gan-synthesis")
    made = state.make()
    made = type(made)(torch.tensor(0.25), {"image": (images, images)})
    assert task.against({"image": one}, made) == 0.25  # taken for real everywhere
    assert task.against({"image": zero}, made) == 1.25
    for critic in (one, zero):  # either is right about one of both
        assert task.criticised({"image": critic}, made) == 0.5


def test_a_step_changes_network_and_critics_and_goes_on_from_a_checkpoint(tmp_path):
    first, again = begun("gan-synthesis"), begun("gan-synthesis")
    before = {name: w.clone() for name, w in first.critics.named_parameters()}
    for step in range(4):
        first.advance(training.Group())
        first.stepped()
        if step == 1:
            first.save(tmp_path / "kept")
    assert all(not torch.equal(w, before[name]) for name, w in first.critics.named_parameters())
    again.load(tmp_path / "kept")
    for _ in range(2):
        again.advance(training.Group())
        again.stepped()
    for one, other in zip(first.network.parameters(), again.network.parameters()):
        assert torch.equal(one, other)


def test_the_steepness_of_a_plane_is_its_slope():
    images = torch.rand(3, 1, 4, 4, requires_grad=True)
    scores = 5 * images[..., :1, :1] + 1
    assert adversarial.steepness(scores, images).item() == pytest.approx(25)


# Contrasts ----------------------------------------------------------------------------------------


def test_both_kinds_of_t2_turn_fluid_bright_and_leave_air_dark():
    image = np.zeros((1, 40, 40), np.float32)
    image[0, 5:35, 5:35], image[0, 10:30, 10:30], image[0, 15:25, 15:25] = 0.9, 0.55, 0.2
    rng = np.random.default_rng(0)
    for made in (contrasts.by_curve(image[0], rng), contrasts.by_tissue(image, rng)[0]):
        white, grey, fluid = made[7, 20], made[12, 20], made[20, 20]
        assert 0.15 < white < grey < 0.7 * fluid
        assert made[0, 0] == 0


def test_a_spin_echo_at_once_and_for_ever_shows_the_density(monkeypatch):
    monkeypatch.setattr(contrasts, "ECHO_MS", 0.0)
    monkeypatch.setattr(contrasts, "REPETITION_MS", 1e9)
    assert contrasts.spin_echo(0.7, 900.0, 70.0) == pytest.approx(0.7)


def test_translations_peers_know_the_target_of_a_turned_image():
    first = torch.from_numpy(heads(2))
    inside = first > quality.INSIDE
    turned = torch.where(inside, 1.2 - first, torch.zeros(()))
    trial = translation.Contrasts(turned, first)
    quantiles = translation.quantiles_of(turned[0].numpy())
    matched = translation.turned_greys(first, quantiles)
    # Many voxels share a grey value; what their rank is among equals is not told by a quantile.
    assert (
        quality.psnr(matched, turned)[0] > quality.psnr(translation.best_constant(trial), turned)[0]
    )
    constant = translation.best_constant(trial)[0][inside[0]]
    assert torch.allclose(constant, turned[0][inside[0]].mean(), atol=1e-5)


def test_nobody_is_seen_in_both_contrasts_in_training():
    cases = [slices.Slices(f"sub-{n}", np.full((3, 8, 8), 0.1 + n, np.float32)) for n in range(4)]
    task, settings = training.TASKS[rows.TRANSLATION], FamilySettings(batch=8)
    drawn = [task.draw(cases, settings, step) for step in range(8)]
    firsts = torch.cat([one.first for one in drawn]).unique().tolist()
    assert max(firsts) < 2  # the first two people only


def test_the_cycle_is_the_way_back_of_what_was_made():
    network, images = small(rows.row("cycle-gan")), torch.rand(1, 1, SIDE, SIDE)
    with torch.no_grad():
        there, again = network(images).split(1, 1)
        assert torch.equal(again, network.back(there))


# Latents ------------------------------------------------------------------------------------------


def test_a_generator_looks_at_its_latents_means_only():
    network = small(rows.row("gan-synthesis"))
    latents = torch.randn(1, 4, 4).clamp(-3, 3)
    with torch.no_grad():
        image = network.generate(latents)
        shown = latent_image(latents)
        assert torch.allclose(network(shown), image, atol=1e-5)
        swapped = shown.clone()
        swapped[..., 0, 0], swapped[..., 0, 1] = shown[..., 0, 0] + 0.05, shown[..., 0, 1] - 0.05
        assert torch.allclose(network(swapped), image, atol=1e-5)
        assert network(torch.rand(1, 1, 17, 20)).shape == (1, 1, 17, 20)


def test_latents_are_found_again_from_the_image_that_they_make(monkeypatch):
    monkeypatch.setattr(synthesis, "PRICE", 0.0)
    network = small(rows.row("gan-synthesis"))
    wanted = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        image = synthesis.IMAGE_RANGE * network.generate(wanted)[:, 0]
        begun = synthesis.IMAGE_RANGE * network.generate(torch.zeros(1, 4, 4))[:, 0]
        found = network.generate(synthesis.nearest(network, image))[:, 0] * synthesis.IMAGE_RANGE
    assert (found - image).norm() < 0.2 * (begun - image).norm()


def test_principal_components_of_images_in_a_plane_are_exact():
    rng = np.random.default_rng(0)
    corners = rng.random((2, 16, 16), np.float32)
    weights = rng.random((20, 2), np.float32)
    images = np.tensordot(weights / weights.sum(1, keepdims=True), corners, 1).astype(np.float32)
    found = synthesis.components([slices.Slices("one", images)])  # mirrored: three directions
    shown = torch.from_numpy(images)
    assert torch.allclose(found.nearest(shown), shown, atol=1e-5)
    both = torch.cat([shown, shown.flip(2)])
    latents = found.latents(both).flatten(1)[:, :3]
    assert torch.allclose(latents.T @ latents / 40, torch.eye(3), atol=1e-3)


# Volumes ------------------------------------------------------------------------------------------


def test_super_resolution_of_volumes_begins_with_linear_interpolation():
    rng = np.random.default_rng(0)
    pair = restoration.coarsened(cube(0)[None], rng, 0.0)
    network = networks.build("volume_super_resolution", width=2, depth=1)
    with torch.no_grad():
        found = network(pair.given)[:, 0] * restoration.IMAGE_RANGE
    assert torch.allclose(found, restoration.linear(pair), atol=1e-5)
    assert torch.equal(restoration.repeated(pair.coarse), pair.poor)
    ramp = np.linspace(0, 1, 32, dtype=np.float32)[None, :, None, None] * np.ones((8, 8), "f4")
    found = restoration.cubic(restoration.coarsened(ramp, rng, 0.0)).numpy()
    assert np.allclose(found[0, 8:-8], ramp[0, 8:-8], atol=1e-3)


def test_fine_voxels_stand_where_their_channel_says():
    numbers = torch.arange(8.0).view(1, 8, 1, 1, 1).expand(1, 8, 2, 3, 4)
    fine = fine_voxels(numbers, 2)
    assert fine.shape == (1, 1, 4, 6, 8)
    for channel in range(8):
        k, j, i = channel // 4, channel // 2 % 2, channel % 2
        assert (fine[..., k::2, j::2, i::2] == channel).all()


@pytest.mark.parametrize("name", ["srgan-3d", "vox2vox"])
def test_volumes_of_any_size_go_in_and_do_not_see_each_other(name):
    network = small(rows.row(name)).double()
    volumes = torch.rand(2, network.in_channels, 7, 10, 9, dtype=torch.float64)
    with torch.no_grad():
        together = network(volumes)
        alone = torch.cat([network(one[None]) for one in volumes])
    assert together.shape == (2, network.out_channels, 7, 10, 9)
    assert torch.allclose(together, alone, atol=1e-10)


def test_directions_and_spots_of_a_volume():
    given = torch.rand(1, 8, 8, 8)
    assert torch.allclose(directions.answers(lambda x: 3 * x, given, side=2), torch.tensor(3.0))
    spot = directions.spot((8, 8, 8), 1.5, 0.2)
    assert spot.max() == spot[4, 4, 4] == pytest.approx(0.2)


# Tumours ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deep_in", [tumours.lump, tumours.grown])
def test_a_tumour_is_as_large_as_it_was_drawn_and_begins_in_the_brain(deep_in, monkeypatch):
    monkeypatch.setattr(tumours, "RADIUS_MM", (12.0, 12.0))
    brain = np.full((24, 24, 24), 0.9, np.float32)
    depth = deep_in(brain, np.random.default_rng(3), 3.0)
    radius = (3 / (4 * np.pi) * (depth < 1).sum()) ** (1 / 3)
    assert radius == pytest.approx(4, rel=0.3)
    assert 0 < (depth < tumours.CORE).sum() < 0.5 * (depth < 1).sum()


def test_growing_tumours_keep_to_the_brain_and_go_along_white_matter(monkeypatch):
    monkeypatch.setattr(tumours, "RADIUS_MM", (12.0, 12.0))
    monkeypatch.setattr(tumours, "_place", lambda brain, rng: (12, 12, 12))
    brain = np.zeros((24, 24, 24), np.float32)
    brain[4:20, 4:20, 4:12], brain[4:20, 4:20, 12:20] = 0.5, 0.9
    inside = tumours.grown(brain, np.random.default_rng(0), 3.0) < 1
    assert not inside[brain == 0].any()
    assert inside[brain > 0.7].sum() > 2 * inside[(brain > 0) & (brain < 0.7)].sum()


def test_a_tumour_is_dark_in_t1_and_bright_in_t2():
    found = tumours.heads(cube(0)[None], np.random.default_rng(0), 4.0)
    core = found.core > 0
    before = torch.from_numpy(cube(0)[None])
    assert core.any() and (found.core <= found.image).all()
    assert found.first[core].mean() < before[core].mean()
    healthy = (before > 0.3) & (found.image == 0)
    assert found.second[core].mean() > found.second[healthy].mean() + 0.1


def test_overlap_of_regions_that_are_known():
    truth = torch.zeros(2, 4, 4, 4)
    truth[:, :2] = 1
    half = truth.clone()
    half[:, 1] = 0
    assert quality.dice(truth, truth) == pytest.approx([100, 100])
    assert quality.dice(half, truth) == pytest.approx([200 / 3] * 2)
    assert quality.dice(1 - truth, truth) == quality.dice(0 * truth, truth) == [0, 0]


def test_the_brightest_piece_of_t2_is_found():
    second = torch.full((1, 12, 12, 12), 0.3)
    second[0, 2:8, 2:8, 2:8], second[0, 10:, 10:, 10:] = 1.0, 1.0
    truth = (second > 0.5).float()
    truth[0, 10:, 10:, 10:] = 0
    trial = tumours.Heads(truth, truth, second, second)
    assert quality.dice(tumours.brightest(trial, 0.5), truth)[0] > 75
