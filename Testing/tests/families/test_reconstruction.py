"""Networks that reconstruct: closed forms of their parts, and each row's small sibling."""

import numpy as np
import pytest
import torch

from NetInversionLib import models, networks
from NetInversionLib.families import analysis, kspace, quality, rows, slices, training
from NetInversionLib.networks import reconstruction
from NetInversionLib.networks.fourier import as_channels, as_complex, centred_fft

SIDE = 32
LEARNT = [one for one in rows.ROWS if one.recipe]
ROW = pytest.mark.parametrize("row", LEARNT, ids=lambda one: one.name)


def heads(count, seed=0):
    """Ellipses in an ellipse, (N, SIDE, SIDE), the brightest about 1."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    images = np.zeros((count, SIDE, SIDE), np.float32)
    for image in images:
        head = (x / 11) ** 2 + (y / 14) ** 2 < 1
        image[head] = 0.4
        for _ in range(6):
            a, b, *radii = rng.uniform([-6, -8, 2, 2], [6, 8, 5, 5])
            image[head & (((x - a) / radii[0]) ** 2 + ((y - b) / radii[1]) ** 2 < 1)] += 0.2
    return images.clip(0, 1)


def people(count):
    return [slices.Slices(f"sub-{n}", heads(6, n)) for n in range(count)]


def a_scan(count=2, **chosen):
    return kspace.scan(heads(count), np.random.default_rng(1), **chosen)


def small(row):
    torch.manual_seed(0)
    network = networks.build(row.architecture, **row.smaller).eval()
    for weight in network.parameters():  # nothing stays at the zeros that training begins with
        weight.data += 0.02 * torch.randn_like(weight)
    return network


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
    found = training.reconstructed(networks.build(row.architecture, **row.smaller), scan)
    assert torch.allclose(found, quality.zero_filled(scan), atol=1e-4)


def test_a_whole_step_of_data_consistency_says_what_was_measured():
    scan = a_scan()
    image = reconstruction.consistent(torch.randn(2, 2, SIDE, SIDE), scan.measured, scan.mask, 1.0)
    assert torch.allclose(scan.mask * centred_fft(as_complex(image)), scan.measured, atol=1e-4)


def test_plug_and_play_says_what_was_measured():
    scan = a_scan()
    images = training.reconstructed(small(rows.row("plug-and-play")), scan)
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
    found = training.reconstructed(network, scan)
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


# Their training -----------------------------------------------------------------------------------


@ROW
def test_each_rows_small_sibling_learns(row):
    settings = training.FamilySettings(steps=1, batch=2, size=SIDE)
    state = training._State(row, settings, people(2), row.smaller)
    rate = 3e-3 if row.name == "post-processing" else 1e-2
    optimiser = torch.optim.Adam(state.network.parameters(), lr=rate)
    errors = []
    for _ in range(30):  # the same scans each time
        loss = state.loss(state)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < 0.9 * errors[0]


@ROW
def test_each_row_becomes_a_model_with_its_figures(row, tmp_path):
    settings = training.FamilySettings(steps=2, batch=2, size=SIDE)
    path = training.train(
        row.name, people(3), tmp_path / "small.safetensors", settings, arguments=row.smaller
    )
    model = models.load(path)
    assert model.card.trained_on == ("sub-0", "sub-1") and model.card.dimensions == 2
    assert model.card.training["family"] == row.name and model.card.training["left out"] == "sub-2"
    assert model.card.training["steps"] == 2 and model.card.training["size"] == SIDE
    told = model.card.quality
    assert "sub-2, held out, PSNR in the head (dB)" in told
    scan = slices.judged_scan(people(3)[2], settings)
    images = {"network": training.reconstructed(model.network, scan)}
    images |= {name: peer(scan) for name, peer in quality.PEERS.items()}
    for name, image in images.items():
        expected = np.mean(quality.psnr(image, scan.image))
        figure = told[f"held out, mean PSNR in the head (dB), {name}"]
        assert figure == pytest.approx(expected, abs=0.01)


def test_a_row_that_is_not_built_is_not_trained(tmp_path):
    with pytest.raises(ValueError, match="cannot be trained"):
        training.train("cycle-gan", people(2), tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="no family is called"):
        rows.row("cycle")


def test_every_row_of_the_table_is_there_once():
    names = [one.name for one in rows.ROWS]
    assert len(set(names)) == len(names) == 15
    assert all(one.source and one.network and one.optimised for one in rows.ROWS)
    assert [one.name for one in rows.ROWS if not one.learnt] == ["no-learning"]


def test_channels_and_complex_images_are_the_same():
    image = torch.randn(2, 4, 5, dtype=torch.complex64)
    assert torch.equal(as_complex(as_channels(image)), image)
