"""What changed and whether to believe it.

The tests use known ramps, blurs and noise, and networks whose channels add up.
"""

import numpy as np
import pytest
import torch
from scipy import ndimage
from toy_models import LPS, channel, linear, model, smooth, volume
from toy_mr import SHAPE, array, mixer, run

from NetInversionLib.ideal_input.tables import (
    NOISE,
    autocorrelation,
    correlation,
    gradient_energy,
    spectrum_ratio,
)


def rows(table):
    return [dict(zip(table.columns, values)) for values in zip(*table.columns.values())]


def white(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# -- figures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dimensions, shape", [(2, (4, 5, 6)), (2, (1, 5, 6)), (2, (1, 4, 5, 6)), (3, (1, 4, 5, 6))]
)
def test_gradient_energy_of_a_ramp_is_its_slope_squared_per_mm(dimensions, shape):
    """Slopes of 3, 2 and 1 per mm along i, j and k, on anisotropic voxels."""
    spacing = (0.5, 1.5, 4.0)
    index = np.indices(shape)
    ramp = 3 * spacing[0] * index[-1] + 2 * spacing[1] * index[-2] + spacing[2] * index[-3]
    expected = 9 + 4 + (1 if dimensions == 3 else 0)
    np.testing.assert_allclose(
        gradient_energy(ramp, dimensions, spacing), np.full(shape, expected), rtol=1e-12
    )


def test_gradient_energy_of_one_row():
    np.testing.assert_allclose(
        gradient_energy(np.arange(5.0).reshape(1, 1, 5), 2, (2.0, 1.0, 1.0)), 0.25
    )


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 3.0), (1.0, 1.6, 2.0)])
def test_spectrum_ratio_of_a_blurred_image_is_the_transfer_function_squared(spacing):
    """Gaussian of 1.2 mm, many images of white noise: |exp(-2 (pi sigma f)^2)|^2."""
    before = white((20, 96, 80))
    sigma = 1.2
    after = ndimage.gaussian_filter(
        before, (0, sigma / spacing[1], sigma / spacing[0]), mode="wrap"
    )
    frequency, ratio = spectrum_ratio(after, before, spacing)
    nyquist = 0.5 / max(spacing[:2])
    assert 0 < frequency[0] < frequency[-1] <= nyquist and len(frequency) == len(ratio) >= 4
    expected = np.exp(-2 * (np.pi * sigma * frequency) ** 2) ** 2
    seen = expected > 0.02  # below, the sampled kernel is no Gaussian any more
    assert seen.sum() > 5
    np.testing.assert_allclose(ratio[seen], expected[seen], rtol=0.15)


def test_spectrum_ratio_is_one_for_the_same_image_and_blind_to_its_mean():
    image = white((3, 20, 22))
    np.testing.assert_allclose(spectrum_ratio(image, image, (1, 1, 1))[1], 1)
    np.testing.assert_allclose(spectrum_ratio(2 * image + 5, image, (1, 1, 1))[1], 4, rtol=1e-9)


def test_spectrum_ratio_along_one_direction_of_flow():
    """A wave of a known frequency in mm, along i or along j, stands in its own bin."""
    spacing, size = (0.8, 1.3, 1.0), (64, 72)
    j, i = np.indices(size)
    for wave in (
        np.sin(2 * np.pi * 0.21 * spacing[0] * i),
        np.sin(2 * np.pi * 0.21 * spacing[1] * j),
    ):
        frequency, ratio = spectrum_ratio(
            (white((1, *size)) * 0.01 + wave)[:, :, :], white((1, *size), 1) * 0.01, spacing
        )
        assert abs(frequency[ratio.argmax()] - 0.21) <= frequency[1] - frequency[0]


def test_autocorrelation_of_noise_and_of_anatomy():
    everywhere = np.ones((2, 40, 50), bool)
    assert abs(autocorrelation(white(everywhere.shape), everywhere)) < 0.05
    ramp = np.broadcast_to(np.arange(50.0), everywhere.shape)
    assert autocorrelation(ramp, everywhere) == pytest.approx(1)
    checks = np.indices(everywhere.shape)[2] % 2
    assert autocorrelation(checks.astype(float), everywhere) == pytest.approx(-1)
    # A moving average of two has a correlation of one half between neighbours.
    pairs = white((2, 200, 201))
    assert autocorrelation(
        pairs[..., 1:] + pairs[..., :-1], np.ones((2, 200, 200), bool)
    ) == pytest.approx(0.5, abs=0.02)


def test_autocorrelation_takes_neighbours_that_are_both_in_the_mask():
    image, mask = np.zeros((1, 1, 6)), np.array([[[1, 1, 0, 1, 1, 0]]], bool)
    image[0, 0] = [1, 2, 99, 3, 5, -99]  # pairs (1, 2) and (3, 5)
    assert autocorrelation(image, mask) == pytest.approx(1)
    assert np.isnan(autocorrelation(image, np.array([[[1, 0, 1, 0, 1, 0]]], bool)))


def test_correlation():
    a, b = white((7, 8)), white((7, 8), 1)
    assert correlation(a, b) == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    assert correlation(a, -3 * a + 2) == pytest.approx(-1) and np.isnan(
        correlation(a, np.ones((7, 8)))
    )


# -- tables ----------------------------------------------------------------------------------------


def ct_case():
    """A body of three tissues in air, 40 mm wide, and a table shell beside it; target in HU."""
    shape = (2, 60, 60)
    hu = np.full(shape, -1000.0)
    hu[:, 10:50, 10:50] = 40  # soft tissue
    hu[:, 10:50, 10:20] = -100  # fat
    hu[:, 25:35, 30:40] = 700  # bone
    hu[:, 56:58] = 100  # the table: too thin to be body
    masks = {
        "fat": hu == -100,
        "soft tissue": hu == 40,
        "bone": hu == 700,
        "everything": np.ones(shape, bool),
    }
    masks["body"] = masks["fat"] | masks["soft tissue"] | masks["bone"]
    return hu, masks


@pytest.mark.parametrize("dimensions", [2, 3])
def test_tissues_come_from_the_target_s_hounsfield_units(dimensions):
    """The network copies: every error is what was put there, and every change takes it away."""
    hu, masks = ct_case()
    off = {"fat": 30.0, "soft tissue": 10.0, "bone": -200.0}
    patient = hu.copy()
    for tissue, shift in off.items():
        patient[masks[tissue]] += shift
    hounsfield = (channel("mr", "HU", -1000.0, 1000.0),), (channel("ct", "HU", -1000.0, 1000.0),)
    network = model(linear([[1.0]], dimensions=dimensions), *hounsfield, dimensions=dimensions)
    result = run({"mr": volume(patient), "ct": volume(hu)}, network, max_evaluations=60)
    first = rows(result.tables["error"])[0]
    assert first["input"] == "Patient's own input" and first[
        "share of the patient's own error (%)"
    ] == pytest.approx(100)
    for tissue, shift in off.items():
        assert first[f"MAE {tissue} (HU)"] == pytest.approx(abs(shift), rel=1e-3)
    for tissue, tolerance in (
        ("everything", 1e-3),
        ("body", 0.02),
    ):  # the body's corners are rounded
        assert first[f"MAE {tissue} (HU)"] == pytest.approx(
            np.abs(patient - hu)[masks[tissue]].mean(), rel=tolerance
        )
    found = {(row["channel"], row["tissue"]): row for row in rows(result.tables["change"])}
    assert found["mr", "bone"]["mean change (normalised)"] == pytest.approx(200 / 2000, rel=0.02)
    assert found["mr", "fat"]["mean change (normalised)"] == pytest.approx(-30 / 2000, rel=0.02)


def test_a_target_in_other_units_has_no_tissues():
    volumes = {"mr": volume(smooth(SHAPE, 1)), "ct": volume(smooth(SHAPE, 2))}
    result = run(volumes, model(mixer(channels=1)), max_evaluations=2)
    assert set(result.tables["change"].columns["tissue"]) == {"everything"}


def test_the_error_table_counts_what_lies_outside_the_range():
    patient = smooth(SHAPE, 1)
    patient[0, 0, :3] = [1.5, -0.25, 1.25]
    result = run(
        {"mr": volume(patient), "ct": volume(smooth(SHAPE, 2))},
        model(mixer(channels=1)),
        max_evaluations=1,
    )
    row = rows(result.tables["error"])[0]
    assert row["values outside [0, 1] (%)"] == pytest.approx(100 * 3 / patient.size)
    assert (row["lowest value"], row["highest value"]) == (-0.25, 1.5)


# -- swap back -------------------------------------------------------------------------------------


def test_swapping_back_a_channel_of_an_additive_network():
    """y = a + b, a locked: the error goes to 0 by b alone."""
    a, b = smooth(SHAPE, 1, 0.2, 0.3), smooth(SHAPE, 2, 0.2, 0.3)
    volumes = {"a": volume(a), "b": volume(b), "ct": volume(a + b + 0.16)}
    network = model(linear([[1.0, 1.0]]), ("a", "b"))
    result = run(volumes, network, locked=("a",), validity=True)
    table = {row["channel put back"]: row for row in rows(result.tables["swap back"])}
    assert table["a"]["share of the gain lost (%)"] == pytest.approx(0, abs=0.5)
    assert table["b"]["share of the gain lost (%)"] == pytest.approx(100, abs=0.5)
    assert table["b"]["MAE (a.u.)"] == pytest.approx(0.16, rel=1e-3)


def test_swapping_back_shares_of_a_weighted_sum():
    """With y = 2 a + b, a carries 4/5 of the change of y.

    From the patient both move along the weights.
    """
    a, b = smooth(SHAPE, 1, 0.3, 0.4), smooth(SHAPE, 2, 0.3, 0.4)
    volumes = {"a": volume(a), "b": volume(b), "ct": volume((2 * a + b) / 3 + 0.1)}
    result = run(volumes, model(linear([[2 / 3, 1 / 3]]), ("a", "b")), validity=True)
    lost = [row["share of the gain lost (%)"] for row in rows(result.tables["swap back"])]
    np.testing.assert_allclose(lost, [80, 20], atol=1)


# -- validity --------------------------------------------------------------------------------------


def test_other_inputs_are_worse_on_a_network_that_copies():
    """y = x: errors of blurred, noisy and shuffled inputs can be computed by hand."""
    patient = smooth((6, 20, 22), 1)
    target = patient + 0.2
    target[:, ::2] -= 0.4
    target = target.clip(0, 1)
    volumes = {"mr": volume(patient), "ct": volume(target)}
    result = run(
        volumes, model(linear([[1.0]])), validity=True, max_evaluations=200, above=0, below=0
    )
    table = dict(zip(*result.tables["validity"].columns.values()))
    assert table["Patient's own input"] == pytest.approx(np.abs(patient - target).mean(), rel=1e-4)
    blurred = ndimage.gaussian_filter(patient, (0, 1, 1), mode="nearest")
    assert table["Patient's own input, blurred"] == pytest.approx(
        np.abs(blurred - target).mean(), rel=1e-4
    )
    # E|noise| around an exact fit.
    assert table["Ideal, from the patient's images"] < 0.002
    assert table["Ideal, from the patient's images, noisier"] == pytest.approx(
        NOISE * np.sqrt(2 / np.pi), rel=0.05
    )
    shuffled = [np.abs(np.roll(patient, step, 0) - target).mean() for step in range(1, 6)]
    for label, figure in (("lowest", min), ("highest", max)):
        assert table[f"Patient's own input, slices shuffled, {label}"] == pytest.approx(
            figure(shuffled), rel=1e-4
        )


def test_the_null_distribution_lies_above_the_patient_s_error():
    """A target that is the network's own output, but for a little noise."""
    network = mixer(channels=1)
    patient = smooth((5, 20, 22), 1)
    output = network(torch.from_numpy(patient)[:, None])[:, 0].detach().numpy()
    ct = (channel("ct", low=float(output.min()) - 1, high=float(output.max()) + 1),)

    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            return (self.network(x) - ct[0].low) / (ct[0].high - ct[0].low)

    volumes = {"mr": volume(patient), "ct": volume(output + 0.01 * white(output.shape))}
    result = run(volumes, model(Scaled(), outputs=ct), validity=True, max_evaluations=5)
    table = dict(zip(*result.tables["validity"].columns.values()))
    assert table["Patient's own input"] == pytest.approx(0.01 * np.sqrt(2 / np.pi), rel=0.05)
    assert (
        table["Patient's own input, slices shuffled, lowest"] > 1.5 * table["Patient's own input"]
    )


def test_other_patients_are_the_null_distribution():
    """The error of another patient's input is the distance between two images.

    The network is a copy.
    """
    patient, others = smooth((4, 20, 22), 1), [smooth((4, 20, 22), 2), smooth((2, 20, 22), 3)]
    moved = LPS.copy()
    moved[:3, 3] = 40, -30, 200  # another patient lies elsewhere
    volumes = {
        "mr": volume(patient),
        "ct": volume(patient),
        "other 1 mr": volume(others[0], matrix=moved),
        "other 3 mr": volume(others[1]),
    }
    result = run(volumes, model(linear([[1.0]])), validity=True, max_evaluations=2)
    table = dict(zip(*result.tables["validity"].columns.values()))
    assert table["Other patient 1's input"] == pytest.approx(
        np.abs(others[0] - patient).mean(), rel=1e-4
    )
    # Two slices stand in the middle of four, and fill the rest again.
    assert table["Other patient 2's input"] == pytest.approx(
        np.abs(others[1][[0, 1, 0, 1]] - patient).mean(), rel=1e-4
    )


def test_other_patients_are_seen_through_the_region_in_any_orientation():
    patient, other = smooth((4, 20, 22), 1), smooth((4, 20, 22), 2)
    flipped = np.diag([1.0, -1.0, -1.0, 1.0])
    volumes = {
        "mr": volume(patient),
        "ct": volume(patient),
        "other 1 mr": volume(other[::-1, :, ::-1], matrix=flipped),
    }
    region = (1, 3, 4, 12, 6, 20)
    result = run(volumes, model(linear([[1.0]])), validity=True, max_evaluations=2, region=region)
    inside = (slice(1, 3), slice(4, 12), slice(6, 20))
    table = dict(zip(*result.tables["validity"].columns.values()))
    assert table["Other patient 1's input"] == pytest.approx(
        np.abs(other - patient)[inside].mean(), rel=1e-4
    )


def test_other_patients_need_every_channel():
    volumes = {
        role: volume(smooth(SHAPE, n)) for n, role in enumerate(("mr", "fat", "ct", "other 1 mr"))
    }
    with pytest.raises(ValueError, match="other patient 1 lacks other 1 fat"):
        run(
            volumes,
            model(linear([[1.0, 1.0]]), inputs=("mr", "fat")),
            validity=True,
            max_evaluations=2,
        )


def test_outputs_without_a_common_unit_err_alike_in_every_table():
    """Every table counts two outputs, HU and a fraction, in per cent of their range.

    So the tables agree.
    """
    patient = smooth((3, 16, 18), 1, 0.3, 0.6)
    outputs = channel("ct", "HU", -1000.0, 2000.0), channel("bone", "", 0.0, 1.0)
    ct, bone = -1000 + 3000 * (patient + 0.1), patient + 0.3
    volumes = {"mr": volume(patient), "ct": volume(ct), "bone": volume(bone)}
    result = run(
        volumes,
        model(linear([[1.0], [1.0]]), outputs=outputs),
        validity=True,
        knobs=True,
        max_evaluations=30,
    )
    heading = "MAE everything (% of range)"
    error = dict(
        zip(result.tables["error"].columns["input"], result.tables["error"].columns[heading])
    )
    error = {
        "own": error["Patient's own input"],
        "patient": error["Ideal, from the patient's images"],
    }
    assert error["own"] == pytest.approx(20, rel=1e-4)  # 10 % and 30 %
    validity = dict(zip(*result.tables["validity"].columns.values()))
    knobs = dict(
        zip(
            result.tables["acquirable"].columns["knob"],
            result.tables["acquirable"].columns["MAE (% of range)"],
        )
    )
    assert validity["Patient's own input"] == pytest.approx(20, rel=1e-4)
    assert knobs["none (patient's own input)"] == pytest.approx(20, rel=1e-4)
    assert validity["Ideal, from the patient's images"] == pytest.approx(error["patient"], rel=1e-4)
    assert knobs["free voxels"] == pytest.approx(error["patient"], rel=1e-4)
    swapped = rows(result.tables["swap back"])[0]
    assert swapped["MAE (% of range)"] == pytest.approx(20, rel=1e-4)


def test_one_image_cannot_be_shuffled():
    result = run(
        {"mr": volume(smooth((1, 9, 9), 1)), "ct": volume(smooth((1, 9, 9), 2))},
        model(mixer(channels=1)),
        validity=True,
        max_evaluations=3,
    )
    assert not [
        label for label in result.tables["validity"].columns["input"] if "shuffled" in label
    ]


@pytest.mark.parametrize("region", [None, (0, 2, 20, 32, 16, 30)])
def test_the_whole_gain_transfers_to_the_same_network(region):
    """Also in a region, although the images are scaled by a percentile of the whole volume."""
    shape = (2, 40, 44)
    patient = smooth(shape, 1)
    patient[:, :8] *= 3
    volumes = {"mr": volume(patient), "ct": volume(smooth(shape, 2))}
    network = model(mixer(channels=1), (channel("mr", "a.u.", percentile=95.0),))
    result = run(
        volumes,
        network,
        models={"second": network},
        region=region,
        validity=True,
        max_evaluations=10,
    )
    assert result.facts["gain that transfers"]["ideal patient"] == pytest.approx(1, abs=1e-3)
    columns = list(result.tables["validity"].columns.values())
    np.testing.assert_allclose(columns[2][:6], columns[1][:6], rtol=1e-4)


def test_the_same_network_in_other_units_gains_the_same():
    """A second network that expects its images in other ranges."""
    first = model(
        mixer(channels=1), (channel("mr", "a.u.", 0.0, 1.0),), (channel("ct", "HU", 0.0, 1000.0),)
    )

    class Other(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = first.network

        def forward(self, x):
            return 0.5 * self.network(2 * x)

    second = model(
        Other(),
        (channel("mr", "a.u.", 0.0, 2.0),),
        (channel("ct", "HU", 0.0, 2000.0),),
        name="other",
    )
    volumes = {"mr": volume(smooth(SHAPE, 1)), "ct": volume(1000 * smooth(SHAPE, 2))}
    result = run(volumes, first, models={"second": second}, validity=True, max_evaluations=10)
    assert result.facts["gain that transfers"]["ideal patient"] == pytest.approx(1, abs=1e-3)


def test_a_blind_second_network_gains_nothing():
    volumes = {"mr": volume(smooth(SHAPE, 1)), "ct": volume(smooth(SHAPE, 2))}
    result = run(
        volumes,
        model(mixer(channels=1)),
        models={"second": model(linear([[0.0]], [0.5]), name="blind")},
        validity=True,
        max_evaluations=5,
    )
    assert result.facts["gain that transfers"]["ideal patient"] == 0


def test_the_spectrum_curve_of_a_sharpened_input():
    """The network blurs: its ideal input is sharper, so that its power rises with frequency.

    A price of leaving the patient's image keeps out what the blur hides.
    """
    blur = torch.nn.Conv2d(1, 1, 3, padding=1, padding_mode="replicate", bias=False)
    with torch.no_grad():
        blur.weight.copy_(torch.tensor([[[[1, 2, 1], [2, 4, 2], [1, 2, 1]]]]) / 16)
    ideal = ndimage.gaussian_filter(white((2, 32, 32)), (0, 0.7, 0.7))
    ideal = (0.5 + 0.15 * ideal / ideal.std()).astype(np.float32)
    target = blur(torch.from_numpy(ideal)[:, None])[:, 0].detach().numpy()
    volumes = {"mr": volume(target), "ct": volume(target)}
    result = run(volumes, model(blur), max_evaluations=200, near=0.01)
    frequency, ratio = result.curves["spectrum patient"].lines["mr"]
    assert ratio[0] == pytest.approx(1, abs=0.2) and ratio[len(ratio) // 2] > 1.5
    assert rows(result.tables["change"])[0]["gradient-energy ratio"] > 1.2
    np.testing.assert_allclose(result.volumes["ideal mr patient"].ijk_to_ras, LPS)
    assert (
        np.abs(array(result, "ideal mr patient") - ideal).mean()
        < 0.5 * np.abs(target - ideal).mean()
    )
