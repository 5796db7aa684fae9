"""Ideal input on networks whose answer is known.

Also: locks, masks and regions to the bit, geometry, and both directions.
"""

import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from toy_models import LPS, channel, linear, model, random_matrix, smooth, volume
from toy_mr import SHAPE, array, mixer, run, two_channels

from NetInversionLib.core.progress import Cancelled, Progress
from NetInversionLib.core.volumes import Volume, orientation
from NetInversionLib.ideal_input import Settings, ideal_input, search
from NetInversionLib.ideal_input.knobs import noise_sigma
from NetInversionLib.ideal_input.reading import start_words
from NetInversionLib.ideal_input.settings import PRESETS


class Log(Progress):
    def __init__(self):
        self.lines, self.fractions, self.points, self.results = [], [], [], []

    def report(self, fraction, message):
        self.fractions.append(fraction)

    def log(self, message):
        self.lines.append(message)

    def point(self, curve, x, y):
        self.points.append((curve, x, y))

    def intermediate(self, result):
        self.results.append(result)


def case(shape=SHAPE, matrix=LPS, low=0.2, high=0.8):
    """A patient's volume, and a target that x -> 0.5 x + 0.2 reaches from returned ``ideal``."""
    patient, ideal = smooth(shape, 1, low, high), smooth(shape, 2, low, high)
    return {
        "mr": volume(patient, "MR", matrix),
        "ct": volume(0.5 * ideal + 0.2, "CT", matrix),
    }, ideal


HALF = {"weights": [[0.5]], "bias": [0.2]}


def half(dimensions=2, **arguments):
    return model(linear(**HALF, dimensions=dimensions), dimensions=dimensions, **arguments)


def mostly_close(found, expected, tolerance):
    """An L1 error leaves a few voxels on the way when nearly all have arrived."""
    away = np.abs(found - expected)
    assert (away <= tolerance).mean() > 0.97 and away.mean() < tolerance, (
        f"off by {np.sort(away.ravel())[-10:]}"
    )


# -- the right answer ------------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("start", ["patient", "zeros", "noise"])
def test_the_inverse_of_an_invertible_network_is_found(start, dimensions):
    volumes, ideal = case()
    # Enough evaluations for the stragglers: after 150, rounding decides how many voxels are still
    # on the way.
    result = run(volumes, half(dimensions), starts=(start,), max_evaluations=400)
    mostly_close(array(result, f"ideal mr {start}"), ideal, 0.01)
    assert result.facts["error"][start] < 0.01 * result.facts["error"]["own"]
    np.testing.assert_allclose(
        array(result, f"change mr {start}"),
        array(result, f"ideal mr {start}") - volumes["mr"].array,
        atol=1e-6,
    )


def test_the_inverse_of_a_nonlinear_convolution_is_found():
    """y = leaky(A x): x = A^-1 leaky^-1(y), with A written out as a matrix."""
    j, i = 8, 9
    conv = nn.Conv2d(1, 1, 3, padding=1)
    with torch.no_grad():
        conv.weight.copy_(
            torch.tensor([[[[0.05, -0.1, 0.05], [0.1, 1.0, -0.15], [0.0, 0.1, -0.05]]]])
        )
        conv.bias.fill_(-0.1)
    matrix = (
        conv(torch.eye(j * i).reshape(-1, 1, j, i))
        .detach()
        .double()
        .reshape(j * i, j * i)
        .T.numpy()
        + 0.1
    )
    ideal = smooth((1, j, i), 5, 0.0, 0.9)
    before = matrix @ ideal.ravel() - 0.1
    target = np.where(before > 0, before, 0.1 * before).reshape(1, j, i)
    outputs = (channel("ct", low=-1.0, high=2.0),)
    shifted = nn.Sequential(
        conv, nn.LeakyReLU(0.1), linear([[1 / 3]], [1 / 3])
    )  # into the card's output range
    assert (before < 0).any()
    volumes = {"mr": volume(smooth((1, j, i), 6)), "ct": volume(target)}
    result = run(volumes, model(shifted, outputs=outputs), max_evaluations=300)
    # Below 0 the network is ten times flatter: 0.020 of the way is left in the few voxels there,
    # rounding moves it by 0.0005.
    assert (
        np.abs(array(result, "ideal mr patient") - ideal).mean()
        < 0.03 * np.abs(volumes["mr"].array - ideal).mean()
    )
    assert result.facts["error"]["patient"] < 0.01 * result.facts["error"]["own"]


def test_from_the_patient_only_what_the_network_sees_is_moved():
    """With more inputs than outputs, each voxel moves along the network's weights only.

    The exception is a voxel that is worth its price to keep in range.
    """
    volumes = two_channels()
    weights = np.array([0.6, -0.3])
    result = run(volumes, model(linear([weights], [0.3]), ("mr", "fat")), above=0, below=0)
    assert result.facts["error"]["patient"] < 0.02 * result.facts["error"]["own"]
    change = np.stack([array(result, f"change {role} patient") for role in ("mr", "fat")])
    unseen = change[0] * weights[1] - change[1] * weights[0]
    assert np.abs(change).max() > 0.1 and np.abs(unseen).max() < 1e-5


@pytest.mark.parametrize("box", [False, True])
def test_the_price_of_leaving_stops_where_error_and_price_balance(box):
    """Each voxel stops sigma^2 / 2n from the patient's, or at the target.

    The network is a copy, so a voxel costs |x - t| + n ((x - p) / sigma)^2.
    """
    rng = np.random.default_rng(0)
    patient = (0.5 + 0.05 * rng.normal(size=(2, 12, 12))).astype(np.float32)
    target = np.clip(patient + 0.3 * rng.uniform(-1, 1, patient.shape), 0, 1).astype(np.float32)
    sigma = noise_sigma(patient)
    near = 1000 * sigma**2 / (2 * 0.1)
    volumes = {"mr": volume(patient), "ct": volume(target)}
    result = run(
        volumes,
        model(linear([[1.0]])),
        near=near,
        box=box,
        max_evaluations=300,
    )
    expected = patient + np.clip(target - patient, -0.1, 0.1)
    np.testing.assert_allclose(array(result, "ideal mr patient"), expected, atol=5e-3)


def test_values_come_in_scanner_units_and_leave_in_them():
    """The same problem in other units has the same answer in those units."""
    volumes, ideal = case()
    inputs, outputs = (
        (channel("mr", "a.u.", -100.0, 400.0),),
        (channel("ct", "HU", -1000.0, 2000.0),),
    )
    scaled = {
        "mr": volume(500 * volumes["mr"].array - 100),
        "ct": volume(3000 * volumes["ct"].array - 1000),
    }
    plain, result = run(volumes, half()), run(scaled, model(linear(**HALF), inputs, outputs))
    mostly_close(array(result, "ideal mr patient"), 500 * ideal - 100, 5)
    mostly_close(array(result, "change mr patient"), 500 * array(plain, "change mr patient"), 5)
    np.testing.assert_allclose(
        array(result, "output ct own"),
        3000 * array(plain, "output ct own") - 1000,
        atol=0.01,
    )
    assert result.facts["error"]["own"] == pytest.approx(
        3000 * plain.facts["error"]["own"], rel=1e-5
    )
    assert (
        result.volumes["ideal mr patient"].units == "a.u."
        and result.volumes["error ct patient"].units == "HU"
    )


def test_several_output_channels():
    volumes = two_channels()
    volumes["dose"] = volume(smooth(SHAPE, 7))
    network = model(linear([[0.8, 0.1], [-0.2, 0.7]], [0.05, 0.2]), ("mr", "fat"), ("ct", "dose"))
    result = run(volumes, network, max_evaluations=300)
    assert {"output ct patient", "error dose patient", "output dose own"} <= set(result.volumes)
    exact = np.linalg.solve(
        [[0.8, 0.1], [-0.2, 0.7]],
        [(volumes["ct"].array - 0.05).ravel(), (volumes["dose"].array - 0.2).ravel()],
    ).reshape(2, *SHAPE)
    for role, expected in zip(("mr", "fat"), exact):
        away = np.abs(array(result, f"ideal {role} patient") - expected)[
            (exact > 0).all(0) & (exact < 1).all(0)
        ]
        assert np.median(away) < 0.01
    errors = [array(result, f"error {role} patient").mean() for role in ("ct", "dose")]
    assert result.facts["error"]["patient"] == pytest.approx(np.mean(errors), rel=1e-5)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_error_and_output_are_those_of_the_image_given_back(dimensions):
    """Recomputed from the result's own volumes, in tiles or not."""
    network = mixer(dimensions=dimensions)
    volumes = two_channels(shape=(4, 40, 44))
    result = run(
        volumes,
        model(network, ("mr", "fat"), dimensions=dimensions),
        max_evaluations=20,
        memory_gb=0.002,
        starts=("patient", "zeros"),
    )
    for start in ("patient", "zeros"):
        x = torch.from_numpy(
            np.stack([array(result, f"ideal {role} {start}") for role in ("mr", "fat")])
        )
        y = network(x.transpose(0, 1))[:, 0] if dimensions == 2 else network(x[None])[0, 0]
        np.testing.assert_allclose(array(result, f"output ct {start}"), y.numpy(), atol=1e-5)
        error = np.abs(y.numpy() - volumes["ct"].array)
        np.testing.assert_allclose(array(result, f"error ct {start}"), error, atol=1e-5)
        assert result.facts["error"][start] == pytest.approx(error.mean(), rel=1e-4)


def test_each_slice_of_a_volume_finds_what_it_finds_alone():
    """A 2-D network's slices agree, also when memory makes the run take them in groups.

    They are compared before rounding grows.
    """
    volumes, network = two_channels(shape=(5, 9, 11)), model(mixer(), ("mr", "fat"))
    together = run(volumes, network, max_evaluations=12)
    grouped = run(volumes, network, max_evaluations=12, memory_gb=5e-5)
    np.testing.assert_allclose(
        array(grouped, "ideal mr patient"), array(together, "ideal mr patient"), atol=1e-4
    )
    alone = run(
        {role: volume(v.array[2:3]) for role, v in volumes.items()}, network, max_evaluations=12
    )
    np.testing.assert_allclose(
        array(alone, "ideal mr patient")[0], array(together, "ideal mr patient")[2], atol=1e-4
    )
    assert array(together, "change mr patient").std() > 0.01


def test_lambda_keeps_values_in_range_and_the_box_keeps_them_there_exactly():
    """The target asks for inputs from -0.5 to 1.5."""
    patient, wanted = smooth(SHAPE, 1), smooth(SHAPE, 2, -0.5, 1.5)
    volumes = {"mr": volume(patient), "ct": volume(0.2 * wanted + 0.4)}
    network = model(linear([[0.2]], [0.4]))
    free, dear, box = (
        run(volumes, network, **s)
        for s in ({"above": 0.0, "below": 0.0}, {"above": 100.0, "below": 100.0}, {"box": True})
    )
    key = "ideal mr patient"
    assert array(free, key).min() < -0.4 and array(free, key).max() > 1.4
    assert array(dear, key).min() > -0.1 and array(dear, key).max() < 1.1
    assert array(box, key).min() >= 0 and array(box, key).max() <= 1
    mostly_close(array(box, key), wanted.clip(0, 1), 0.02)
    assert free.facts["error"]["patient"] < box.facts["error"]["patient"]


# -- what may not change ---------------------------------------------------------------------------


def bright():
    """Two channels that exceed [0, 1] in places, as MR does above its percentile."""
    volumes = two_channels()
    for role in ("mr", "fat"):
        volumes[role].array[:, 2, 3], volumes[role].array[:, 5, 6] = 1.3, -0.2
    return volumes


LIMITS = pytest.mark.parametrize(
    "limit",
    [
        {},
        {"box": True},
        {"ball": 0.05},
        {"direction": "worst", "ball": 0.05},
        {"starts": ("zeros", "noise")},
    ],
)


@LIMITS
def test_a_locked_channel_stays_to_the_bit(limit):
    result = run(
        bright(), model(mixer(), ("mr", "fat")), locked=("fat",), max_evaluations=15, **limit
    )
    for start in limit.get("starts", ("patient",)):
        assert not array(result, f"change fat {start}").any()
        assert array(result, f"change mr {start}").any()


@LIMITS
def test_outside_the_mask_nothing_changes_to_the_bit(limit):
    volumes = bright()
    mask = np.zeros(SHAPE, np.uint8)
    mask[:, 3:7, 4:9] = 1
    volumes["mask"] = Volume(mask, LPS, "mask")
    result = run(volumes, model(mixer(), ("mr", "fat")), max_evaluations=15, **limit)
    for start in limit.get("starts", ("patient",)):
        for role in ("mr", "fat"):
            change = array(result, f"change {role} {start}")
            assert not change[mask == 0].any() and (change[mask == 1] != 0).mean() > 0.9
    assert array(result, "error ct own")[mask == 0].any(), "the error counts outside the mask too"


REGION = (0, 2, 20, 28, 24, 33)


@LIMITS
def test_outside_the_region_nothing_changes_and_the_figures_are_of_the_whole_image(limit):
    shape = (3, 48, 60)
    volumes, network = two_channels(shape=shape), mixer()
    for role in ("mr", "fat"):
        volumes[role].array[0, 22, 20] = 1.4  # in the context
    result = run(volumes, model(network, ("mr", "fat")), region=REGION, max_evaluations=15, **limit)
    k0, k1, j0, j1, i0, i1 = result.facts["window"]
    assert (k0, k1, j0, j1, i0, i1) == (0, 2, 4, 44, 8, 49)
    inside = np.zeros(shape, bool)
    inside[REGION[0] : REGION[1], REGION[2] : REGION[3], REGION[4] : REGION[5]] = True
    for start in limit.get("starts", ("patient",)):
        assembled = []
        for role in ("mr", "fat"):
            change = array(result, f"change {role} {start}")
            assert (
                not change[~inside[k0:k1, j0:j1, i0:i1]].any()
                and (change != 0).sum() > 0.9 * inside.sum()
            )
            whole = volumes[role].array.copy()
            whole[k0:k1, j0:j1, i0:i1] += change
            assembled.append(whole)
        output = network(torch.from_numpy(np.stack(assembled, 1)))[:, 0].numpy()
        error = np.abs(output - volumes["ct"].array)[inside].mean()
        assert result.facts["error"][start] == pytest.approx(error, rel=1e-4)


def test_a_region_does_not_change_the_scaling():
    """An MR percentile is the whole volume's."""
    volumes, _ = case(shape=(2, 40, 40))
    volumes["mr"].array[:, :5] *= 3
    network = model(linear(**HALF), (channel("mr", percentile=95.0),))
    regional, whole = (
        run(volumes, network, max_evaluations=3, **s)
        for s in ({"region": (0, 2, 20, 30, 20, 30)}, {})
    )
    assert regional.facts["scaling"] == whole.facts["scaling"]


def test_the_box_and_the_voxels_that_may_change():
    """Values outside [0, 1] that may change are brought into it; those that may not stay."""
    volumes = bright()
    mask = np.zeros(SHAPE, np.uint8)
    mask[:, :4] = 1  # one of the two voxels out of range
    volumes["mask"] = Volume(mask, LPS, "mask")
    ideal = array(
        run(volumes, model(mixer(), ("mr", "fat")), box=True, max_evaluations=10),
        "ideal mr patient",
    )
    assert (ideal[:, 2, 3] <= 1).all() and (ideal[:, 5, 6] < -0.1).all()


@pytest.mark.parametrize(
    "what, match",
    [
        ({"locked": ("mr", "fat")}, "unlock at least one"),
        ({"locked": ("ct",)}, "no such input"),
        ({"region": (0, 3, 0, 9, 5, 12)}, "does not lie within"),
        ({"region": (1, 1, 0, 9, 0, 11)}, "does not lie within"),
        ({"region": (0, 1)}, "does not lie within"),
    ],
)
def test_nothing_may_change(what, match):
    with pytest.raises(ValueError, match=match):
        run(two_channels(), model(mixer(), ("mr", "fat")), **what)


def test_an_empty_mask():
    volumes = {**two_channels(), "mask": Volume(np.zeros(SHAPE, np.uint8), LPS, "mask")}
    with pytest.raises(ValueError, match="mask is empty"):
        run(volumes, model(mixer(), ("mr", "fat")))


# -- geometry --------------------------------------------------------------------------------------


def orientations():
    flips = [np.diag([-1.5, -1.5, 3.0, 1.0]), np.diag([1.5, -1.5, -3.0, 1.0])]
    sagittal = np.array(
        [[0, 0, 2.0, 5], [-1, 0, 0, 7], [0, -1.5, 0, -9], [0, 0, 0, 1]]
    )  # i anterior to posterior
    return [*flips, sagittal, random_matrix(1, (1, 1.2, 2)), random_matrix(2, (2, 1, 1.5))]


@pytest.mark.parametrize(
    "matrix", orientations(), ids=lambda m: orientation(volume(np.zeros((2, 2, 2)), matrix=m))
)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_results_lie_where_the_input_lies(matrix, dimensions):
    """The voxel at which the target asks for another input is changed there.

    The change lies in the window of the region.
    """
    shape = (6, 7, 8)
    patient = np.full(shape, 0.5, np.float32)
    target, marker = 0.5 * patient + 0.2, (3, 2, 5)
    target[marker] += 0.1
    volumes = {"mr": volume(patient, matrix=matrix), "ct": volume(target, matrix=matrix)}
    result = run(
        volumes, half(dimensions), region=(1, 5, 1, 6, 2, 8), context=1, max_evaluations=40
    )
    k0, k1, j0, j1, i0, i1 = result.facts["window"]
    assert k0 <= 1 and k1 >= 5 and j0 <= 1 and j1 >= 6 and i0 <= 2 and i1 == 8
    expected = matrix.copy()
    expected[:3, 3] += matrix[:3, :3] @ (i0, j0, k0)
    for key, found in result.volumes.items():
        assert found.shape == (k1 - k0, j1 - j0, i1 - i0), key
        np.testing.assert_allclose(found.ijk_to_ras, expected, atol=1e-9)
    change = array(result, "change mr patient")
    at = np.unravel_index(np.abs(change).argmax(), change.shape)
    assert tuple(at + np.array([k0, j0, i0])) == marker
    assert change[at] == pytest.approx(0.2, abs=0.01) and np.sort(np.abs(change).ravel())[-2] < 0.01
    error = array(result, "error ct own")
    assert np.unravel_index(error.argmax(), error.shape) == at


def test_the_context_of_a_two_dimensional_network_stays_in_its_slices():
    matrix = orientations()[2]  # sagittal: the network's slices are stacked along the array's j
    result = run(
        {
            "mr": volume(smooth((9, 8, 7), 1), matrix=matrix),
            "ct": volume(smooth((9, 8, 7), 2), matrix=matrix),
        },
        half(),
        region=(4, 6, 3, 5, 2, 4),
        context=2,
        max_evaluations=2,
    )
    assert result.facts["window"] == [2, 8, 3, 5, 0, 6]


def test_volumes_on_other_grids_are_resampled_and_it_is_said():
    """Linear images, so that linear resampling is exact away from the border."""
    matrix = random_matrix(4, (1.0, 1.0, 1.0))
    fine = matrix @ np.diag([0.5, 0.5, 0.5, 1.0])
    fine[:3, 3] = (matrix @ (-1, -1, -1, 1))[:3]

    def ramp(shape, grid):
        k, j, i = np.indices(shape)
        places = np.linalg.inv(matrix) @ grid @ np.stack([i, j, k, np.ones(shape)]).reshape(4, -1)
        return volume(
            (0.1 + 0.04 * places[0] + 0.03 * places[1] + 0.02 * places[2]).reshape(shape),
            "ramp",
            grid,
        )

    log, shape = Log(), (5, 6, 7)
    wide = {"mr": ramp(shape, matrix), "ct": ramp((14, 16, 18), fine)}
    identity = model(linear([[1.0]]))
    result = run(wide, identity, log, max_evaluations=5)
    assert any("ramp" in line and "resampled" in line for line in log.lines)
    assert result.facts["error"]["own"] < 1e-5
    # A target that shows more than the input does is fine; one that shows less than half of it is
    # not.
    with pytest.raises(ValueError, match="less than half"):
        run({"mr": wide["ct"], "ct": volume(np.ones((4, 4, 4)), matrix=matrix)}, identity)


def test_a_mask_on_its_own_small_grid():
    """As segment editors export them: cut to what is painted, all ones. Outside it is 0."""
    volumes = two_channels()
    matrix = LPS.copy()
    matrix[:3, 3] = LPS[:3, :3] @ (4, 3, 1)
    volumes["mask"] = Volume(np.ones((1, 2, 3), np.uint8), matrix, "mask")
    change = array(
        run(volumes, model(mixer(), ("mr", "fat")), max_evaluations=5), "change mr patient"
    )
    assert {tuple(place) for place in np.argwhere(change)} <= {
        (1, j, i) for j in (3, 4) for i in (4, 5, 6)
    }
    assert change.any()


# -- starts and seeds ------------------------------------------------------------------------------


def test_noise_seeds_differ_and_can_be_had_again():
    volumes, network = two_channels(), model(mixer(), ("mr", "fat"))
    first = run(volumes, network, starts=("noise",), noise_seeds=3, seed=5, max_evaluations=1)
    again = run(volumes, network, starts=("noise",), noise_seeds=1, seed=7, max_evaluations=1)
    images = [array(first, f"ideal mr noise {n}") for n in (1, 2, 3)]
    assert np.array_equal(array(again, "ideal mr noise"), images[2])
    for image in images:
        assert 0 <= image.min() < 0.1 and 0.9 < image.max() <= 1
    assert (
        max(
            abs(np.corrcoef(images[a].ravel(), images[b].ravel())[0, 1])
            for a, b in ((0, 1), (1, 2))
        )
        < 0.3
    )
    spread = np.std(images, axis=0)
    np.testing.assert_allclose(array(first, "spread mr"), spread, atol=1e-5)


def test_the_same_call_gives_the_same_bits():
    volumes, network = two_channels(), model(mixer(), ("mr", "fat"))
    settings = {"starts": ("patient", "noise"), "max_evaluations": 30, "validity": True}
    one, two = (run(volumes, network, **settings) for _ in range(2))
    assert all(
        np.array_equal(one.volumes[key].array, two.volumes[key].array) for key in one.volumes
    )
    assert one.tables == two.tables


def test_one_evaluation_gives_the_starts_back():
    volumes = two_channels()
    result = run(
        volumes, model(mixer(), ("mr", "fat")), starts=("patient", "zeros"), max_evaluations=1
    )
    assert (
        not array(result, "change mr patient").any() and not array(result, "ideal fat zeros").any()
    )
    assert result.facts["error"]["patient"] == result.facts["error"]["own"]


# -- the worst, and the ball -----------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["best", "worst"])
@pytest.mark.parametrize("locked", [(), ("fat",)])
def test_the_ball_holds(direction, locked):
    volumes, ball = two_channels(), 0.03
    result = run(
        volumes,
        model(mixer(), ("mr", "fat")),
        direction=direction,
        ball=ball,
        locked=locked,
        max_evaluations=60,
    )
    change = np.stack(
        [array(result, f"change {role} patient") for role in ("mr", "fat") if role not in locked]
    )
    rms = np.sqrt(
        (change.astype(np.float64) ** 2).mean((0, 2, 3))
    )  # per slice: each has its own ball
    assert (rms <= ball * (1 + 1e-5)).all() and (rms > 0.9 * ball).all()
    better = result.facts["error"]["patient"] < result.facts["error"]["own"]
    assert better == (direction == "best")


@pytest.mark.parametrize("length", [0.3, 3.0])
def test_the_slope_in_the_ball_is_the_slope_of_what_is_measured(length):
    """Inside the ball and outside, where the point is drawn to the sphere; some voxels held."""
    generator = torch.Generator().manual_seed(0)
    patient, v = (
        torch.rand(2, 1, 3, 4, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    free = (torch.rand(2, 1, 3, 4, generator=generator) > 0.3).double()
    ball, items = search._Ball(patient, free, 0.1), torch.tensor([1, 0])
    v = v * free[items]
    v = (
        length
        * ball.radius[items].reshape(2, 1, 1, 1)
        * v
        / v.flatten(1).norm(dim=1).reshape(2, 1, 1, 1)
    )

    def value_and_gradient(x, items):
        return x.pow(3).flatten(1).sum(1), 3 * x**2 * free[items]

    value, slope = ball.wrap(value_and_gradient)(v, items)
    v.requires_grad_()
    expected = ball.point(v, items).pow(3).flatten(1).sum(1)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(slope, torch.autograd.grad(expected.sum(), v)[0] * free[items])


def test_the_worst_input_is_worse_than_random_ones():
    volumes, network, ball = two_channels(), mixer(), 0.05
    result = run(
        volumes, model(network, ("mr", "fat")), direction="worst", ball=ball, above=0, below=0
    )
    patient = torch.from_numpy(np.stack([volumes[role].array for role in ("mr", "fat")], 1))
    target = torch.from_numpy(volumes["ct"].array)[:, None]
    generator = torch.Generator().manual_seed(1)
    errors = []
    for _ in range(200):
        noise = torch.randn(patient.shape, generator=generator)
        noise *= ball / noise.square().mean((1, 2, 3), keepdim=True).sqrt()
        errors.append(float((network(patient + noise) - target).abs().mean()))
    patients, found = result.facts["error"]["own"], result.facts["error"]["patient"]
    assert found - patients > 2 * (max(errors) - patients)


@pytest.mark.parametrize("weights", [[0.7], [0.5, -0.4]])
def test_the_worst_input_of_a_linear_network_is_the_closed_form(weights):
    """|r + w . d| summed is greatest, in a ball, where all voxels move along w, away from zero.

    Every voxel moves by the same length.
    """
    roles = ("mr", "fat")[: len(weights)]
    volumes = {role: v for role, v in two_channels().items() if role in (*roles, "ct")}
    ball, w = 0.05, np.array(weights)
    result = run(
        volumes,
        model(linear([weights], [0.1]), roles),
        direction="worst",
        ball=ball,
        above=0,
        below=0,
        max_evaluations=300,
    )
    residual = sum(a * volumes[role].array for a, role in zip(w, roles)) + 0.1 - volumes["ct"].array
    length = ball * np.sqrt(len(w))
    largest = np.abs(residual).mean() + np.linalg.norm(w) * length
    # Voxels that fit well already may be pushed the wrong way: the error has many local maxima.
    assert 0.97 * largest < result.facts["error"]["patient"] <= 1.0001 * largest
    for a, role in zip(w, roles):
        change = array(result, f"change {role} patient")
        agrees = np.sign(change) == np.sign(residual * a)
        assert agrees[np.abs(residual) > 0.1].all()
        np.testing.assert_allclose(
            np.abs(change)[np.abs(residual) > 0.1], length * abs(a) / np.linalg.norm(w), rtol=0.15
        )


# -- the source's setting --------------------------------------------------------------------------


@pytest.fixture
def short_steps(monkeypatch):
    """torch's L-BFGS that does its first steps only, keeping what it was asked for.

    So the test need not take minutes.
    """
    asked = []

    class Short(torch.optim.LBFGS):
        def __init__(self, parameters, **arguments):
            super().__init__(parameters, **arguments)
            asked.append([arguments, 0])

        def step(self, closure):
            asked[-1][1] += 1
            return super().step(closure) if asked[-1][1] <= 5 else None

    monkeypatch.setattr(torch.optim, "LBFGS", Short)
    return asked


def test_the_seed_preset_is_torch_s_lbfgs_on_the_printed_formula(short_steps):
    network = mixer(channels=1)
    volumes = {"mr": volume(smooth((1, 7, 8), 1)), "ct": volume(smooth((1, 7, 8), 2))}
    assert PRESETS["published"]["starts"] == ("patient", "zeros", "noise")
    result = run(volumes, model(network), **{**PRESETS["published"], "starts": ("patient",)})
    assert short_steps == [[{"lr": 1, "max_iter": 20}, 100]]

    y = torch.from_numpy(volumes["ct"].array)[None]
    x = torch.from_numpy(volumes["mr"].array)[None].clone().requires_grad_()
    optimiser, losses = torch.optim.LBFGS([x], lr=1, max_iter=20), []

    def closure():
        optimiser.zero_grad()
        loss = (network(x) - y).abs().sum() + (x - 1).relu().norm() ** 2 + (-x).relu().norm() ** 2
        loss.backward()
        losses.append(loss.item())
        return loss

    for _ in range(5):
        optimiser.step(closure)
    ours = np.minimum.accumulate(result.curves["convergence"].lines["from the patient's images"][1])
    np.testing.assert_allclose(ours[:15], np.minimum.accumulate(losses)[:15], rtol=1e-3)
    assert abs(len(ours) - len(losses)) <= 20 and ours[-1] == pytest.approx(min(losses), rel=0.05)
    error = (network(x) - y).abs().mean().item()
    assert (
        result.facts["error"]["patient"] == pytest.approx(error, rel=0.05)
        and error < result.facts["error"]["own"]
    )


def test_the_fixed_step_optimiser_holds_locks_and_does_several_images(short_steps):
    result = run(
        two_channels(shape=(2, 6, 7)),
        model(mixer(), ("mr", "fat")),
        optimiser="published",
        mean=False,
        locked=("fat",),
        starts=("zeros", "patient"),
    )
    assert len(short_steps) == 4 and {steps for _, steps in short_steps} == {100}
    for start in ("zeros", "patient"):
        assert not array(result, f"change fat {start}").any()
        assert result.facts["error"][start] < result.facts["error"]["own"]


def test_a_fixed_step_that_runs_away_leaves_a_finite_input():
    """Sums make steps of length 1 too long for a steep network."""

    class Steep(nn.Module):
        def forward(self, x):
            return torch.exp(60 * x) - 1e3 * x.pow(3)

    volumes = {"mr": volume(smooth((1, 5, 6), 1)), "ct": volume(smooth((1, 5, 6), 2))}
    result = run(volumes, model(Steep()), optimiser="published", mean=False)
    assert all(
        np.isfinite(v.array).all()
        for key, v in result.volumes.items()
        if key.startswith(("ideal", "change"))
    )


# -- what a run says -------------------------------------------------------------------------------


def test_a_result_holds_what_is_needed_to_run_it_again_as_json():
    volumes, network = two_channels(), model(mixer(), ("mr", "fat"))
    settings = {
        "starts": ("patient", "noise"),
        "locked": ("fat",),
        "region": (0, 2, 1, 8, 0, 9),
        "max_evaluations": 12,
        "validity": True,
        "knobs": True,
    }
    result = run(volumes, network, **settings)
    facts = json.loads(json.dumps(result.facts))
    assert (
        facts["complete"] is True
        and facts["model"]["sha256"] == "0" * 64
        and facts["versions"]["torch"]
    )
    again = ideal_input(volumes, {"network": network}, Settings.from_json(facts["settings"]))
    assert np.array_equal(array(again, "ideal mr noise"), array(result, "ideal mr noise"))
    assert set(result.roles) == set(result.volumes)
    for table in result.tables.values():
        assert len({len(column) for column in table.columns.values()}) == 1
        json.dumps(table.columns)
    assert {"error", "change", "swap back", "validity", "acquirable"} == set(result.tables)
    for curve in result.curves.values():
        json.dumps(curve.lines)


def test_convergence_falls_and_ends_at_the_objective_of_the_result():
    volumes, _ = case()
    result = run(volumes, half(), above=3.0, starts=("patient", "noise"))
    for start in ("patient", "noise"):
        x, y = result.curves["convergence"].lines[f"from {start_words(start)}"]
        assert list(x) == list(range(1, len(y) + 1)) and (np.diff(y) <= 1e-12).all()
        ideal = array(result, f"ideal mr {start}")
        penalty = (
            3 * np.square((ideal - 1).clip(0)).mean() + 10 * np.square((-ideal).clip(0)).mean()
        )
        assert y[-1] == pytest.approx(result.facts["error"][start] + penalty, rel=0.01, abs=1e-6)


def test_progress_rises_to_one_and_points_follow_the_curve():
    log = Log()
    run(
        two_channels(),
        model(mixer(), ("mr", "fat")),
        log,
        validity=True,
        knobs=True,
        starts=("patient", "zeros"),
    )
    assert log.fractions[0] == 0 and log.fractions[-1] == 1
    assert all(a <= b + 1e-9 for a, b in zip(log.fractions, log.fractions[1:]))
    assert {curve for curve, _, _ in log.points} == {"from the patient's images", "from zeros"}


def clock(monkeypatch, step=10.0):
    """Time that passes by ``step`` seconds each time it is asked for."""
    now = [0.0]

    def monotonic():
        now[0] += step
        return now[0]

    monkeypatch.setattr(search, "time", SimpleNamespace(monotonic=monotonic))


@pytest.mark.parametrize(
    "settings",
    [{}, {"ball": 0.05}, {"box": True}, {"optimiser": "published"}, {"memory_gb": 5e-5}],
)
def test_cancelling_keeps_the_best_so_far(monkeypatch, settings):
    """After a cancel, the last intermediate result is an input with a lower error.

    The run is cancelled after some evaluations.
    """
    clock(monkeypatch)
    volumes, network = two_channels(), mixer()

    class Impatient(Log):
        def point(self, curve, x, y):
            if len(self.results) >= 12:
                raise Cancelled

    log = Impatient()
    with pytest.raises(Cancelled):
        run(
            volumes,
            model(network, ("mr", "fat")),
            log,
            max_evaluations=60,
            locked=("fat",),
            **settings,
        )
    last = log.results[-1]
    assert last.facts["complete"] is False and json.dumps(last.facts)
    assert not array(last, "change fat patient").any()

    def error(mr):
        x = torch.from_numpy(np.stack([mr, volumes["fat"].array], 1))
        return np.abs(network(x)[:, 0].numpy() - volumes["ct"].array).mean()

    assert error(array(last, "ideal mr patient")) < error(volumes["mr"].array)
    np.testing.assert_allclose(last.volumes["ideal mr patient"].ijk_to_ras, LPS)


def test_warnings_are_logged_and_recorded():
    log = Log()
    volumes = {
        "mr": volume(smooth(SHAPE, 1), "CT of the pelvis"),
        "ct": volume(500 * smooth(SHAPE, 2)),
    }
    network = model(linear(**HALF), outputs=(channel("ct", "HU", 0.0, 1.0),))
    result = run(volumes, network, log, max_evaluations=2)
    assert any("values reach from" in w for w in result.facts["warnings"])
    assert any("swapped" in w for w in result.facts["warnings"])
    assert all(f"Warning: {w}" in log.lines for w in result.facts["warnings"])


# -- refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"starts": ()},
        {"starts": ("patients",)},
        {"direction": "up"},
        {"optimiser": "adam"},
        {"direction": "worst"},
        {"ball": 0.0},
        {"ball": -1.0},
        {"ball": 0.1, "starts": ("zeros",)},
        {"ball": 0.1, "box": True},
        {"optimiser": "published", "box": True},
        {"optimiser": "published", "near": 1.0},
        {"near": -1.0},
        {"optimiser": "published", "ball": 0.1},
        {"max_evaluations": 0},
        {"noise_seeds": 0},
        {"context": -1},
        {"above": -1.0},
        {"below": -0.1},
    ],
)
def test_settings_that_contradict_each_other(wrong):
    with pytest.raises(ValueError, match="."):
        Settings(**wrong)


def test_settings_survive_json():
    settings = Settings(
        starts=("noise", "zeros"),
        locked=("fat",),
        region=(0, 1, 2, 3, 4, 5),
        memory_gb=1.5,
        box=True,
    )
    assert Settings.from_json(json.loads(json.dumps(asdict(settings)))) == settings
    with pytest.raises(ValueError, match="unknown settings: stars"):
        Settings.from_json({"stars": ["zeros"]})


def test_missing_and_unusable_volumes():
    volumes, network = two_channels(), model(mixer(), ("mr", "fat"))
    with pytest.raises(ValueError, match="missing: fat"):
        run({role: v for role, v in volumes.items() if role != "fat"}, network)
    volumes["fat"].array[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match="1 of 297 voxels"):
        run(volumes, network)


@pytest.mark.parametrize("kind", ["uint8", "int16", "uint16", "int64", "float64", "bool"])
def test_any_type_of_voxel(kind):
    patient = (smooth(SHAPE, 1) * (1 if kind == "bool" else 100) + 0.3).astype(kind)
    volumes = {"mr": Volume(patient, LPS, "MR"), "ct": Volume(np.ones(SHAPE, kind), LPS, "CT")}
    inputs, outputs = (
        (channel("mr", high=1.0 if kind == "bool" else 100.0),),
        (channel("ct", high=2.0),),
    )
    result = run(volumes, model(linear(**HALF), inputs, outputs))
    np.testing.assert_allclose(array(result, "ideal mr patient"), 0.6 * inputs[0].high, rtol=0.05)


def test_one_slice_and_one_row():
    for shape in ((1, 9, 11), (1, 1, 5)):
        volumes, ideal = case(shape)
        result = run(volumes, half(), validity=True, knobs=True)
        np.testing.assert_allclose(array(result, "ideal mr patient"), ideal, atol=0.02)


def test_a_second_network():
    volumes = two_channels()
    first, second = model(mixer(0), ("mr", "fat")), model(mixer(1), ("mr", "fat"), name="other")
    result = run(volumes, first, models={"second": second}, validity=True, max_evaluations=60)
    gain = result.facts["gain that transfers"]
    assert set(gain) == {"ideal patient"} and abs(gain["ideal patient"]) < 0.9
    column = result.tables["validity"].columns["MAE of other (a.u.)"]
    x = torch.from_numpy(np.stack([volumes[role].array for role in ("mr", "fat")], 1))
    assert column[0] == pytest.approx(
        np.abs(second(x)[:, 0].numpy() - volumes["ct"].array).mean(), rel=1e-5
    )


def test_a_second_network_for_other_images_is_refused():
    first, second = model(mixer(0), ("mr", "fat")), model(mixer(1), ("fat", "mr"), name="other")
    with pytest.raises(ValueError, match="other"):
        run(two_channels(), first, models={"second": second}, validity=True, max_evaluations=2)
