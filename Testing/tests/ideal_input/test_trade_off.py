"""The price of change and the blurred input: closed forms, SciPy's blur, and what they are for."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn
from toy_models import LPS, linear, model, smooth, volume
from toy_mr import mixer, run, two_channels

from NetInversionLib.ideal_input import served
from NetInversionLib.ideal_input.knobs import noise_sigma
from NetInversionLib.ideal_input.settings import PRESETS, PRICES, Settings
from NetInversionLib.ideal_input.trade_off import best_at, change_of_half, trade_off
from NetInversionLib.optimise.objective import Objective


@pytest.mark.parametrize("shape", [(9, 14), (1, 12), (7, 6, 5)])
def test_the_blur_is_scipys(shape):
    images = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    sigma = (0, 0, *[1.0] * len(shape))
    expected = ndimage.gaussian_filter(images.numpy(), sigma, mode="nearest")
    np.testing.assert_allclose(served.blurred(images, 1.0).numpy(), expected, atol=1e-5)


def asked(weight, near, generator):
    """An objective of one network with prices, and where it is asked for its gradient."""
    from NetInversionLib.optimise.objective import Objective

    patient, target = (torch.rand(2, 1, 6, 7, generator=generator) for _ in range(2))
    network = nn.Conv2d(1, 1, 3, padding=1)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    sigma = torch.full((1, 1, 1, 1), 0.1)
    total = served.priced(Objective(network, target), patient, sigma, near, weight)
    return total, network, patient, target


def test_the_gradient_is_that_of_the_loss():
    generator = torch.Generator().manual_seed(1)
    near = torch.tensor([0.0, 3.0, 50.0, 7.0])
    total, network, patient, target = asked(0.7, near, generator)
    x = torch.rand(3, 1, 6, 7, generator=generator)
    items = torch.tensor([3, 0, 2])  # images 1, 0 and 0
    value, gradient = total(x, items)
    free = x.clone().requires_grad_()

    def error(images):
        found = (network(images) - target[items % 2]).abs().mean((1, 2, 3))
        return found + ((images - 1).clamp(min=0) ** 2 + images.clamp(max=0) ** 2).mean((1, 2, 3))

    price = near[items] / 1000 * ((free - patient[items % 2]) / 0.1).square().mean((1, 2, 3))
    expected = (error(free) + 0.7 * error(served.blurred(free))) / 1.7 + price
    expected.sum().backward()
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, free.grad)


def test_what_is_usual_holds_where_it_can():
    usual = Settings()
    assert (usual.price, usual.blurred_weight, usual.passes) == (0.1, 1.0, 2)
    assert Settings(**PRESETS["near"]) == usual
    assert (usual.chosen().near, usual.chosen().blurred) == (0.1, 1.0)
    free = Settings(**PRESETS["free"])
    assert (free.price, free.blurred_weight, free.passes) == (0, 0, 1)
    for other in (
        PRESETS["published"],
        {"direction": "worst", "ball": 0.1},
        {"optimiser": "lbfgs"},
    ):
        assert (Settings(**other).price, Settings(**other).blurred_weight) == (0, 0)
    with pytest.raises(ValueError, match="published"):
        Settings(optimiser="published", blurred=1.0)


@pytest.mark.parametrize("record", [{}, {"near": None, "blurred": None}])
def test_a_record_without_a_price_had_none(record):
    read = Settings.from_json(Settings.in_todays_names(record))
    assert (read.price, read.blurred_weight) == (0, 0)
    for given in ({"near": 3.0}, {"near": 0.1, "blurred": 1.0}):
        assert Settings.in_todays_names({**record, **given}) == {"blurred": 0.0, **given}


def test_a_record_says_the_prices_that_were_paid():
    settings = {"near": None, "blurred": None, "max_evaluations": 6}
    facts = run(two_channels(), model(mixer(), ("mr", "fat")), **settings).facts
    assert (facts["settings"]["near"], facts["settings"]["blurred"]) == (0.1, 1.0)


def test_surroundings_make_a_change_no_cheaper():
    """The same region alone and within more image: the price of the same change is the same."""
    from NetInversionLib.optimise.objective import Objective

    prices = []
    for size in (6, 12):
        patient = torch.zeros(1, 2, size, size)
        weight = torch.zeros(1, 1, size, size)
        weight[..., :6, :6] = 1
        objective = Objective(lambda x: x[:, :1], torch.zeros(1, 1, size, size), weight)
        sigma, near = torch.full((1, 2, 1, 1), 0.1), torch.tensor([4.0])
        x = patient.clone()
        x[:, 1, :6, :6] = 0.2  # where the network does not look
        value, _ = served.priced(objective, patient, sigma, near, 0.0)(x, torch.tensor([0]))
        prices.append(float(value))
    # Two deviations in one of two channels: a mean square of 2.
    assert prices == pytest.approx([2 * 4 / 1000] * 2)


def test_a_change_is_told_in_units_of_the_noise_where_it_may_be():
    """A copy of one channel, off by 0.1 everywhere; half of it may change."""
    rng = np.random.default_rng(3)
    patient = (0.5 + 0.02 * rng.normal(size=(1, 40, 40))).astype(np.float32)
    mask = np.zeros(patient.shape, np.float32)
    mask[:, :, :20] = 1
    volumes = {"mr": volume(patient), "ct": volume(patient + 0.1), "mask": volume(mask)}
    result = run(volumes, model(linear([[1.0]])), max_evaluations=60)
    told = result.facts["change_in_noise"]["patient"]
    assert told == pytest.approx(0.1 / noise_sigma(patient), rel=0.05)
    volumes |= {"mr": volume(np.full_like(patient, 0.5)), "ct": volume(np.full_like(patient, 0.6))}
    still = run(volumes, model(linear([[1.0]])), max_evaluations=5)
    assert "change_in_noise" not in still.facts, "there is no noise to compare with"


class FinePatterns(nn.Module):
    """Sees the image without its fine patterns, and takes how strong these are for brightness."""

    def forward(self, x):
        fine = x - served.blurred(x)
        return served.blurred(x) + 20 * served.blurred(torch.sqrt(fine.square() + 1e-6) - 1e-3)


def gains(result):
    """What the ideal input gains, as it is and blurred, and how far it lies from the patient's."""
    error = dict(zip(*list(result.tables["validity"].columns.values())[:2]))
    own, found = "Patient's own input", "Ideal, from the patient's images"
    change = result.volumes["change mr patient"].array
    return [error[own + how] - error[found + how] for how in ("", ", blurred")], change


def test_an_input_that_must_serve_blurred_serves_blurred():
    patient = smooth((1, 24, 24), 1)
    volumes = {
        "mr": volume(patient, "MR", LPS),
        "ct": volume(np.clip(patient + 0.2 * smooth((1, 24, 24), 2), 0, 1), "CT", LPS),
    }
    free, usual = (
        run(volumes, model(FinePatterns()), validity=True, max_evaluations=100, **how)
        for how in ({}, {"near": 0.1, "blurred": 1.0})
    )
    (free_gain, free_blurred), far = gains(free)
    (gain, blurred), near = gains(usual)
    assert free_blurred < -0.5 * free_gain, "it fools the network with what a blur takes away"
    assert gain > 0.7 * free_gain and blurred > 0
    assert np.abs(near).mean() < 0.5 * np.abs(far).mean()


def test_only_the_search_from_the_patient_pays_for_leaving():
    volumes = two_channels()
    dear = {"near": 1e4, "max_evaluations": 40, "starts": ("patient", "zeros")}
    result = run(volumes, model(mixer(), ("mr", "fat")), **dear)
    kept, left = (
        np.abs(result.volumes[f"change mr {s}"].array).mean() for s in ("patient", "zeros")
    )
    assert kept < 1e-3 < 0.05 < left


def test_the_curve_goes_from_no_change_to_the_least_error():
    volumes = two_channels()
    rng = np.random.default_rng(0)
    for role in ("mr", "fat"):
        noise = 0.02 * rng.normal(size=volumes[role].array.shape)
        volumes[role] = volumes[role].with_array(volumes[role].array + noise.astype(np.float32))
    result = run(volumes, model(mixer(), ("mr", "fat")), trade_off=True, max_evaluations=40)
    curve, facts = result.curves["trade-off"], result.facts["trade_off"]
    assert list(curve.lines) == ["the input", "the input, blurred"]
    changes, errors = facts["change"], facts["error"]
    assert len(changes) == len(PRICES) + 1 and changes[0] == 0 and changes == sorted(changes)
    assert errors[0] == pytest.approx(result.facts["error"]["own"], rel=1e-3)
    assert np.all(np.diff(errors) < 0.05 * errors[0]) and errors[-1] < 0.9 * errors[0]
    assert 0 < facts["half"] < changes[-1] and facts["images"] == facts["of"] == 3


def test_the_curve_of_a_copy_is_known():
    """The change at a price is the root mean square over voxels of min(off, sigma^2 / 2n).

    The network copies one channel: at price n each voxel that is off by more stops sigma^2 / 2n
    from the patient's.
    """
    rng = np.random.default_rng(0)
    patient = (0.5 + 0.02 * rng.normal(size=(2, 16, 16))).astype(np.float32)
    target = np.clip(patient + 0.1 * rng.uniform(-1, 1, patient.shape), 0, 1).astype(np.float32)
    volumes = {"mr": volume(patient), "ct": volume(target)}
    result = run(volumes, model(linear([[1.0]])), trade_off=True, max_evaluations=5)
    facts = result.facts["trade_off"]
    sigma = noise_sigma(patient)
    for price, change, error in zip(PRICES, facts["change"][1:], facts["error"][1:]):
        reach = np.minimum(np.abs(target - patient), 1000 * sigma**2 / (2 * price))
        assert change == pytest.approx(np.sqrt((reach**2).mean()) / sigma, rel=0.1)
        assert error == pytest.approx(np.abs(target - patient).mean() - reach.mean(), abs=6e-3)


def copy_of_noise():
    """A copy's objective, the patient's images with noise of 0.02, and a target 0.3 above."""
    generator = torch.Generator().manual_seed(5)
    patient = 0.4 + 0.02 * torch.randn(2, 1, 24, 24, generator=generator)
    return Objective(lambda x: x, patient + 0.3), patient


def test_at_each_price_the_best_of_what_is_known_is_taken():
    """Going a share s of the way leaves an error of 0.3 (1 - s), at a change of 0.3 s."""
    objective, patient = copy_of_noise()
    shares = [1.0, 0.5, 0.0, 0.2, 0.05]
    candidates = [patient + 0.3 * share for share in shares]
    noise = served.noise_deviations(patient)
    sigma = float(noise)
    found = best_at(PRICES, candidates, patient, objective, 0.0, noise)
    for price, image in zip(PRICES, found):
        costs = [0.3 * (1 - s) + price / 1000 * (0.3 * s / sigma) ** 2 for s in shares]
        expected = patient + 0.3 * shares[int(np.argmin(costs))]
        torch.testing.assert_close(image, expected)


def test_what_was_found_already_counts_and_half_is_of_its_gain():
    objective, patient = copy_of_noise()
    found = patient + 0.24  # four fifths of the way
    sigma = served.noise_deviations(patient)
    dear = {"scale": 100.0, "units": "%", "weight": 0.0, "sigma": sigma}
    _, alone = trade_off(patient, torch.ones_like(patient), objective, **dear)
    _, known = trade_off(patient, torch.ones_like(patient), objective, found=[found], **dear)
    assert known["half"] == pytest.approx(0.12 / float(sigma), rel=0.02)
    assert alone["half"] == pytest.approx(0.15 / float(sigma), rel=0.02)
    assert known["images"] == 2


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_as_prices_fall_change_rises_and_the_error_falls(weight):
    generator = torch.Generator().manual_seed(6)
    patient = 0.4 + 0.02 * torch.randn(2, 2, 16, 16, generator=generator)
    target = torch.rand(2, 1, 16, 16, generator=generator)
    network = mixer(channels=2).requires_grad_(False)
    objective = Objective(network, target)
    free = torch.ones_like(patient)
    sigma = served.noise_deviations(patient)
    _, told = trade_off(patient, free, objective, weight, sigma, 1.0, "", ())
    least = [(a + weight * b) / (1 + weight) for a, b in zip(told["error"], told["error blurred"])]
    assert told["change"] == sorted(told["change"]) and told["change"][-1] > 2 * told["change"][1]
    assert np.all(np.diff(least) < 1e-3 * least[0]), "but for the price of leaving the range"


@pytest.mark.parametrize(
    "changes, errors, half",
    [
        ([0, 1, 2], [10, 4, 2], 4 / 6),
        ([0, 1, 3], [10, 8, 2], 1 + 2 * 2 / 6),
        ([0, 1], [10, 0], 0.5),
        ([0, 1], [10, 12], None),
        ([0, 1, 2], [10, 11, 4], 1 + 4 / 7),
    ],
)
def test_half_of_the_gain_is_found_between_the_points(changes, errors, half):
    assert change_of_half(changes, errors, 1e3) is None, "no gain"
    assert change_of_half(changes, errors, -1e3) is None, "not reached"
    assert change_of_half(changes, errors) == (half if half is None else pytest.approx(half))


def test_a_price_is_of_means_and_sums_have_none():
    """A sum of errors grows with the image, and would leave the price behind."""
    assert Settings().price > 0 and Settings(mean=False).price == 0
    with pytest.raises(ValueError, match="needs mean errors"):
        Settings(mean=False, near=0.1)
