"""The scanner's knobs: each does what its formula says, and is found again in its target."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from toy_models import linear, model, smooth, volume
from toy_mr import run

from NetInversionLib.core.progress import Progress
from NetInversionLib.ideal_input import knobs as ideal_input_knobs
from NetInversionLib.ideal_input.knobs import knobs, noise_sigma
from NetInversionLib.optimise.objective import Objective, Terms

ROLES = ["in_phase", "fat_fraction", "water_fraction"]


def images(shape=(3, 32, 30), seed=0):
    """Dixon-like (images, 3, *space): fat and water fractions add to 1 where there is signal."""
    phase, fat = smooth(shape, seed, 0.1, 0.9), smooth(shape, seed + 1, 0.0, 1.0)
    stack = torch.from_numpy(np.stack([phase, fat, 1 - fat], 0))
    return stack.transpose(0, 1).contiguous() if len(shape) == 3 and shape[0] != 1 else stack[None]


def knob(name, patient, roles=ROLES):
    return {k.name.split(" of ")[0]: k for k in knobs(patient, roles)}[name]


NAMES = ["echo mix", "receive field", "point spread", "noise level", "gain", "offset", "gamma"]


@pytest.mark.parametrize("three", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_knob_left_alone_is_the_identity(name, three):
    patient = images() if not three else images((8, 12, 10)).transpose(0, 1)[None].contiguous()
    found = knob(name, patient)
    off = torch.full((len(found.start),), -1.0 if name == "echo mix" else 0.0)
    torch.testing.assert_close(found.apply(patient, off), patient, rtol=0, atol=2e-6)
    turned = found.apply(patient, torch.full((len(found.start),), 0.5))
    assert turned.shape == patient.shape and (turned - patient).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_a_knob_agree_with_finite_differences(name):
    patient = images((2, 9, 10)).double()
    found = knob(name, patient)
    values = torch.linspace(-0.6, 0.4, len(found.start), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v: found.apply(patient, v).square().sum(), values, atol=1e-4
    )


def test_which_knobs_there_are():
    patient = images()
    assert [k.name.split(" of ")[0] for k in knobs(patient, ROLES)] == NAMES
    assert [k.name.split(" of ")[0] for k in knobs(patient[:, 1:], ROLES[1:])] == NAMES[2:]
    assert knob("gain", patient).start == (0.0,) * 3


@pytest.mark.parametrize("phase", [0.0, 30.0, 90.0, 150.0, 180.0])
def test_echo_mix_is_the_signal_equation(phase):
    """In phase W + F; at another echo time |W + F exp(i phi)|."""
    patient = images()
    mixed = knob("echo mix", patient).apply(patient, torch.tensor([phase / 90 - 1]))
    fat, water = patient[:, 1].double(), patient[:, 2].double()
    expected = (
        patient[:, 0]
        * (water + fat * torch.exp(torch.tensor(1j * math.radians(phase)))).abs()
        / (water + fat)
    )
    torch.testing.assert_close(mixed[:, 0].double(), expected, rtol=0, atol=2e-3)
    assert torch.equal(mixed[:, 1:], patient[:, 1:])
    assert (
        knob("echo mix", patient).describe([phase / 90 - 1])
        == f"water-fat phase {phase:.0f} degrees"
    )


def test_echo_mix_leaves_the_background_alone():
    patient = images()
    patient[:, 1:, :10] = 0.02  # no signal: fractions are noise there
    mixed = knob("echo mix", patient).apply(patient, torch.tensor([1.0]))
    assert torch.equal(mixed[:, 0, :10], patient[:, 0, :10])


@pytest.mark.parametrize("value", [-1.0, -0.4, 0.7, 1.0])
@pytest.mark.parametrize("three", [False, True])
def test_point_spread_has_the_transfer_function_it_says(value, three):
    """Measured on a point: exp(v ln 4 (k / Nyquist)^2), 1 / 4 to 4 at Nyquist; each slice by
    itself.
    """
    size, centre = (41, 47), (20, 23)
    point = (
        torch.zeros(1, 1, 3, *size, dtype=torch.float64)
        if three
        else torch.zeros(1, 1, *size, dtype=torch.float64)
    )
    place = (0, 0, 1, *centre) if three else (0, 0, *centre)
    point[place] = 1
    spread = knob("point spread", point, ["mr"]).apply(
        point, torch.tensor([value], dtype=torch.float64)
    )
    if three:
        assert spread[0, 0, [0, 2]].abs().max() < 1e-12
    response = torch.roll(spread[place[:-2]], (-centre[0], -centre[1]), (0, 1))
    measured = torch.fft.fft2(response).real
    k2 = (torch.fft.fftfreq(size[0])[:, None] ** 2 + torch.fft.fftfreq(size[1])[None] ** 2) / 0.25
    expected = 4.0 ** (value * k2)
    inside = (
        k2 < 0.8
    )  # the corner beyond Nyquist is held at Nyquist's, which rings beyond the borders
    np.testing.assert_allclose(measured[inside], expected[inside], rtol=0.03, atol=0.02)
    assert response.sum() == pytest.approx(1, abs=1e-2), "the mean stays"


def test_point_spread_keeps_a_constant_image():
    flat = torch.full((2, 1, 20, 21), 0.7)
    torch.testing.assert_close(
        knob("point spread", flat, ["mr"]).apply(flat, torch.tensor([1.0])), flat
    )


def test_gain_offset_and_gamma():
    patient = images()
    v = torch.tensor([1.0, 0.0, -1.0])
    torch.testing.assert_close(
        knob("gain", patient).apply(patient, v),
        patient * torch.tensor([2.0, 1.0, 0.5]).reshape(1, 3, 1, 1),
    )
    torch.testing.assert_close(
        knob("offset", patient).apply(patient, v),
        patient + torch.tensor([0.2, 0.0, -0.2]).reshape(1, 3, 1, 1),
    )
    power = knob("gamma", patient).apply(patient, v)
    torch.testing.assert_close(power[:, 0], patient[:, 0] ** 2, atol=1e-5, rtol=1e-5)
    inner = patient[:, 2] > 0.01
    torch.testing.assert_close(power[:, 2][inner], patient[:, 2][inner].sqrt())
    assert (
        knob("gain", patient).describe([1, 0, -1])
        == "in_phase x 2.00, fat_fraction x 1.00, water_fraction x 0.50"
    )


def test_gamma_has_finite_slopes_at_and_below_zero():
    x = torch.tensor([[[[-0.3, 0.0, 1e-6, 0.5]]]])
    values = torch.tensor([-0.9], requires_grad=True)
    y = knob("gamma", images(), ["mr"]).apply(x.requires_grad_(), values)
    slopes = torch.autograd.grad(y.sum(), (x, values))
    assert all(torch.isfinite(s).all() for s in slopes) and torch.isfinite(y).all()
    assert (y.diff() > 0).all(), "order is kept"


def test_receive_field_is_smooth_and_acts_on_magnitudes_only():
    patient = images()
    found = knob("receive field", patient)
    values = torch.linspace(-1, 1, len(found.start))
    turned = found.apply(patient, values)
    assert torch.equal(turned[:, 1:], patient[:, 1:])
    field = (turned[:, 0] / patient[:, 0]).log()
    assert (field[0] - field[1]).abs().max() < 1e-5, "one field for all slices"
    # A second-order polynomial: third differences vanish.
    assert field.diff(n=3, dim=-1).abs().max() < 1e-4 and field.diff(n=3, dim=-2).abs().max() < 1e-4
    for index in range(len(found.start)):
        one = torch.zeros(len(found.start))
        one[index] = 1
        ratio = (found.apply(patient, one)[:, 0] / patient[:, 0]).log().abs().max()
        assert 0.15 < ratio <= 0.3 + 1e-5


def test_noise_level_takes_noise_away_and_doubles_it():
    clean = ndimage.gaussian_filter(smooth((2, 64, 64), 1), (0, 5, 5))
    noisy = torch.from_numpy(
        clean + 0.03 * np.random.default_rng(0).normal(size=clean.shape).astype(np.float32)
    )[:, None]
    found = knob("noise level", noisy, ["mr"])
    away, twice = (found.apply(noisy, torch.tensor([v]))[:, 0].numpy() - clean for v in (-1.0, 1.0))
    assert away.std() < 0.6 * 0.03 and 1.5 * 0.03 < twice.std() < 2.2 * 0.03


# -- noise -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(120, 130), (12, 60, 50)])
@pytest.mark.parametrize("sigma", [0.001, 0.05, 3.0])
def test_noise_sigma_of_white_noise_on_linear_structure(shape, sigma):
    noise = sigma * np.random.default_rng(1).normal(size=shape)
    index = np.indices(shape)
    assert noise_sigma(noise) == pytest.approx(sigma, rel=0.05)
    assert noise_sigma(noise + 7 + 2 * index[-1] - 3 * index[-2]) == pytest.approx(sigma, rel=0.05)


def test_noise_sigma_without_noise():
    assert noise_sigma(np.ones((20, 20))) == 0
    edges = np.zeros((64, 64))
    edges[20:40, 15:50] = 1
    assert noise_sigma(edges) == 0  # few edges do not count


# -- the table -------------------------------------------------------------------------------------


def table(patient, target, roles=ROLES, weights=None, network=None, free_error=0.0):
    """The table on a network that copies its channels (or sums them by ``weights``)."""
    network = network or linear(np.eye(patient.shape[1]) if weights is None else weights)
    objective = Objective(network, target, terms=Terms(10, 10))
    found = ideal_input_knobs.acquirable(
        patient, objective, roles, "HU", 1000.0, free_error, Progress()
    )
    keys = ["knob", "setting", "MAE (HU)", "share of the free-voxel gain (%)"]
    assert list(found.columns) == keys
    rows = [
        dict(zip(("knob", "setting", "mae", "share"), values))
        for values in zip(*found.columns.values())
    ]
    return {row["knob"].split(" of ")[0]: row for row in rows}


TURNED = [
    ("gain", [-0.4, 0.1, -0.2]),
    ("offset", [0.3, -0.2, 0.1]),
    ("gamma", [0.5, 0.3, 0.4]),
    ("point spread", [-0.7]),
    ("receive field", [-0.5, 0.2, -0.3, 0.1, 0.0]),
    ("echo mix", [0.2]),
    ("noise level", [-0.8]),
]


@pytest.mark.parametrize("name, values", TURNED)
def test_the_knob_that_made_the_target_buys_it_all(name, values):
    patient = images()
    if name == "noise level":
        patient[:, 0] += 0.05 * torch.randn(
            patient[:, 0].shape, generator=torch.Generator().manual_seed(0)
        )
    target = knob(name, patient).apply(patient, torch.tensor(values))
    found = table(patient, target)
    before = found["none (patient's own input)"]["mae"]
    assert before == pytest.approx(1000 * (patient - target).abs().mean().item(), rel=1e-4)
    assert found[name]["mae"] < 0.05 * before, f"{found[name]['mae']} of {before}"
    assert found[name]["share"] > 95
    others = [row["share"] for key, row in found.items() if key in NAMES and key != name]
    assert max(others) < found[name]["share"]
    assert found["all together"]["share"] > 60
    assert found["free voxels"]["share"] == 100 and found["free voxels"]["mae"] == 0


def test_no_knob_is_worse_than_as_acquired():
    """Nothing can be better than a patient's input that fits already; nothing is made worse."""
    patient = images()
    found = table(patient, patient.clone())
    assert {row["mae"] for row in found.values()} == {0.0}
    assert {row["setting"] for row in found.values()} == {"as acquired", "ideal input"}
    target = torch.rand(patient.shape, generator=torch.Generator().manual_seed(0))
    found = table(patient, target, free_error=10.0)
    before = found["none (patient's own input)"]["mae"]
    for row in found.values():
        assert row["mae"] <= before
        assert row["share"] == pytest.approx(100 * (before - row["mae"]) / (before - 10), abs=1e-3)


def test_all_together_is_not_worse_than_the_best_knob_alone():
    patient = images()
    target = knob("gain", patient).apply(patient, torch.tensor([-0.4, 0.1, -0.2]))
    target = knob("offset", patient).apply(target, torch.tensor([0.1, 0.1, -0.1]))
    found = table(patient, target)
    assert found["all together"]["mae"] <= 1.2 * min(found[name]["mae"] for name in NAMES)


def test_the_error_given_is_that_of_the_setting_given():
    """Read the gain off the table, apply it, and measure."""
    patient = images()
    target = 0.8 * patient
    found = table(patient, target)["gain"]
    gains = [float(part.split(" x ")[1]) for part in found["setting"].split(", ")]
    np.testing.assert_allclose(gains, 0.8, atol=0.01)
    error = 1000 * (patient * torch.tensor(gains).reshape(1, 3, 1, 1) - target).abs().mean().item()
    assert found["mae"] == pytest.approx(error, abs=5)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_table_of_a_run(dimensions):
    """Through ``ideal_input``: on the region and the images of the run, against its best start."""
    patient = smooth((4, 20, 22), 1, 0.3, 0.7)
    volumes = {"mr": volume(patient), "ct": volume(1.2 * patient)}
    result = run(
        volumes,
        model(linear([[1.0]], dimensions=dimensions), dimensions=dimensions),
        knobs=True,
        starts=("zeros", "patient"),
    )
    columns = list(result.tables["acquirable"].columns.values())
    found = dict(zip(columns[0], zip(columns[2], columns[3])))
    assert found["none (patient's own input)"] == (
        pytest.approx(result.facts["error"]["own"], rel=1e-4),
        0.0,
    )
    best = min(result.facts["error"][start] for start in ("zeros", "patient"))
    assert found["free voxels"][0] == pytest.approx(best, rel=1e-3, abs=1e-6)
    assert found["gain of each channel"][1] > 95
