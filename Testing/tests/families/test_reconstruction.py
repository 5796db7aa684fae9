"""Networks that reconstruct: closed forms of their parts, and each row's small sibling."""

import numpy as np
import pytest
import torch
from toy_slices import SIDE, a_scan, heads, small

from NetInversionLib import networks
from NetInversionLib.families import analysis, kspace, quality, rows, training
from NetInversionLib.networks import reconstruction
from NetInversionLib.networks.fourier import as_channels, as_complex, centred_fft

TASK = training.TASKS[rows.RECONSTRUCTION]
KSPACE = [one for one in rows.ROWS if one.recipe in (rows.RECONSTRUCTION, rows.DENOISER_INSIDE)]
ROW = pytest.mark.parametrize("row", KSPACE, ids=lambda one: one.name)


# The scanner --------------------------------------------------------------------------------------


def test_a_complete_scan_without_noise_is_the_image():
    scan = a_scan(acceleration=1.0, centre=1.0, noise=0.0)
    assert torch.allclose(quality.zero_filled(scan), scan.image, atol=1e-6)
    assert min(quality.psnr(quality.zero_filled(scan), scan.image)) > 100
    assert np.allclose(scan.image.abs().numpy(), heads(2), atol=1e-6)


@pytest.mark.parametrize("lines", [31, 32, 80])
def test_a_mask_has_its_lines_and_the_middle_ones(lines):
    for seed in range(20):
        mask = kspace.line_mask(lines, np.random.default_rng(seed), 4.0, 0.1)
        assert mask.sum() == round(lines / 4) and set(mask) == {0, 1}
        assert mask[lines // 2 - 1 : lines // 2 + 1].all()
    with pytest.raises(ValueError, match="smaller middle"):
        kspace.line_mask(lines, np.random.default_rng(0), 4.0, 0.5)


def test_phases_of_both_kinds_are_smooth_and_differ():
    rng = np.random.default_rng(0)
    for make in (kspace.bent_phase, kspace.bumpy_phase):
        steps = [np.abs(np.diff(make((64, 64), rng), axis=n)).max() for n in (0, 1)]
        assert 0 < max(steps) < 0.6


# The networks -------------------------------------------------------------------------------------


@ROW
def test_what_was_not_measured_is_not_looked_at(row):
    network, scan = small(row), a_scan()
    with torch.no_grad():
        expected = network(scan.given)
        found = network(kspace.given(scan.measured + (1 - scan.mask) * 7, scan.mask))
    assert expected.shape == (2, 2, SIDE, SIDE) and torch.equal(found, expected)


@ROW
def test_scans_of_a_batch_do_not_see_each_other(row):
    network, scan = small(row).double(), a_scan()
    given = scan.given.double()
    with torch.no_grad():
        alone = torch.cat([network(one[None]) for one in given])
        assert torch.allclose(network(given), alone, atol=1e-10)


@pytest.mark.parametrize("name", ["post-processing", "unrolled-shared", "deep-cascade"])
def test_training_begins_with_the_zero_filled_image(name):
    row, scan = rows.row(name), a_scan()
    found = TASK.made(networks.build(row.architecture, **row.smaller), scan)
    assert torch.allclose(found, quality.zero_filled(scan), atol=1e-4)


def test_a_whole_step_of_data_consistency_says_what_was_measured():
    scan = a_scan()
    image = reconstruction.consistent(torch.randn(2, 2, SIDE, SIDE), scan.measured, scan.mask, 1.0)
    assert torch.allclose(scan.mask * centred_fft(as_complex(image)), scan.measured, atol=1e-4)


def test_plug_and_play_says_what_was_measured():
    scan = a_scan()
    images = TASK.made(small(rows.row("plug-and-play")), scan)
    for found in analysis.hallucination(scan, images):
        assert found.contradiction < 1e-4


def test_dense_layers_along_both_axes_hold_the_whole_inverse():
    network, scan = networks.build("learned_inverse", side=SIDE, width=2, depth=2), a_scan()
    inverse = _inverse_of_one_axis(SIDE)
    real = torch.stack(
        [
            torch.stack([inverse.real, -inverse.imag], -1),
            torch.stack([inverse.imag, inverse.real], -1),
        ],
        1,
    ).reshape(2 * SIDE, 2 * SIDE)
    for layer in (network.rows, network.columns):
        layer.weight.data, layer.bias.data = real.clone(), torch.zeros(2 * SIDE)
    found = TASK.made(network, scan)
    assert torch.allclose(found, quality.zero_filled(scan), atol=1e-4)


def _inverse_of_one_axis(side):
    """The centred, orthonormal inverse Fourier transform of one axis, (side, side)."""
    place = np.arange(side) - side // 2
    matrix = np.exp(2j * np.pi * np.outer(place, place) / side) / np.sqrt(side)
    return torch.from_numpy(matrix.astype(np.complex64))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("postprocessed_kspace", {"features": [0]}),
        ("plug_and_play", {"steps": 0}),
        ("plug_and_play", {"levels": [0.1]}),
        ("plug_and_play", {"levels": [0.1, 0]}),
        ("unrolled", {"shared": 1}),
        ("unrolled", {"steps": 10**6}),
        ("unrolled", {"width": True}),
        ("deep_cascade", {"depth": 1}),
        ("learned_inverse", {"side": 10**6}),
    ],
)
def test_arguments_that_make_no_sense_are_refused(name, wrong):
    with pytest.raises(ValueError):
        networks.build(name, **wrong)


# What is said of them -----------------------------------------------------------------------------


def test_hallucination_of_the_truth_and_of_nothing():
    scan = a_scan(noise=0.0)
    for found in analysis.hallucination(scan, scan.image):
        assert found.error < 1e-4 and found.agreement == pytest.approx(1, abs=1e-4)
        assert found.hidden == pytest.approx(1, abs=1e-4) and found.contradiction < 1e-4
    for found in analysis.hallucination(scan, quality.zero_filled(scan)):
        assert found.error == pytest.approx(1, abs=1e-4)


def test_hallucination_counts_what_lies_in_the_null_space():
    scan = a_scan(noise=0.0)
    added = centred_fft(torch.ones_like(scan.image), inverse=True)  # alike on every line
    found = analysis.hallucination(scan, quality.zero_filled(scan) + added)
    for mask, one in zip(scan.mask, found):
        assert one.hidden == pytest.approx(float((mask == 0).float().mean()), abs=1e-4)


@ROW
def test_no_network_sees_the_null_space(row):
    scan = a_scan()
    change = torch.randn(2, SIDE, SIDE, dtype=torch.complex64)
    with torch.no_grad():
        found = analysis.hides(analysis.of_network(small(row)), scan, change)
    for mask, one in zip(scan.mask, found):
        assert one.unseen < 1e-4 and one.seen > 0.01
        assert one.share == pytest.approx(float((mask == 0).float().mean()), abs=0.1)


def direct(measured, mask):
    return centred_fft(measured, inverse=True)


def test_the_zero_filled_image_answers_to_each_measured_line_as_it_is():
    scan = a_scan()
    answers = analysis.line_answers(direct, scan)
    assert torch.allclose(answers, scan.mask[:, :, 0], atol=1e-4)
    (unseen, deaf), *_ = analysis.lost(answers)
    assert unseen == pytest.approx(1 - 1 / 3, abs=0.02) and deaf == 0
    answers[:, SIDE // 2] = 0.05
    assert analysis.lost(answers)[0][1] == pytest.approx(1 / SIDE)


def test_the_best_line_of_the_zero_filled_image_is_the_strongest_that_is_missing():
    # No air: every line's error counts as its energy.
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, SIDE, SIDE, dtype=torch.complex64, generator=generator)
    image += 0.1 * image / image.abs()
    complete = centred_fft(image)
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, SIDE // 2 - 2 : SIDE // 2 + 2] = 1
    scan = kspace.Scan(image, mask * complete, mask, complete)
    (found,) = analysis.ideal_acquisition(direct, scan, 3)
    energy = ((1 - mask) * complete).abs().square().sum(-1)[0]
    assert found.lines == energy.argsort(descending=True)[:3].tolist()
    assert found.gains[0] >= max(found.usual, found.any) and min(found.gains) > 0


def test_channels_and_complex_images_are_the_same():
    image = torch.randn(2, 4, 5, dtype=torch.complex64)
    assert torch.equal(as_complex(as_channels(image)), image)
