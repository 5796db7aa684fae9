"""The classical peers, against what they must undo and must not touch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_scans import make_scan

from NetInversionLib.core import files
from NetInversionLib.core.volumes import Volume
from NetInversionLib.harmonize import matching, simulated_scanners
from NetInversionLib.harmonize import scan as harmonize_scan
from NetInversionLib.harmonize.matching import (
    FRACTIONS,
    match_histogram,
    match_landmarks,
    match_moments,
    quantiles,
)

CURVES = simulated_scanners.parse("gamma 0.7, gamma 1.5, log 3, exp 1.5")


def with_values(values, air=40):
    """A thin scan whose mask holds exactly these scaled values, in air."""
    flat = np.zeros(len(values) + air, np.float32)
    flat[: len(values)] = values
    image = (
        flat.reshape(2, 1, -1)
        if flat.size % 2 == 0
        else np.append(flat, 0).astype(np.float32).reshape(2, 1, -1)
    )
    mask = np.arange(image.size).reshape(image.shape) < len(values)
    volume = Volume(image, np.eye(4), "values")
    return harmonize_scan.Scan(volume, mask, 1.0, volume)


def smooth_scan(shape=(46, 50, 48)):
    """A ball with two tissues and a little texture, large enough for N4."""
    grids = np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in shape), indexing="ij")
    r = np.sqrt(sum(g**2 for g in grids))
    texture = np.random.default_rng(1).normal(0, 0.02, shape)
    image = (r < 1) * (
        np.where(np.sin(9 * grids[0]) * np.cos(8 * grids[1]) > 0, 0.9, 0.6) + texture
    )
    return harmonize_scan.prepare(
        Volume((image * 500).astype(np.float32), np.diag([2.0, 2, 2, 1]), "two tissues")
    )


@pytest.mark.parametrize("domain", CURVES, ids=lambda d: d.name)
@pytest.mark.parametrize("method, tolerance", [(match_histogram, 2e-3), (match_landmarks, 0.03)])
def test_own_quantiles_undo_a_tone_curve(domain, method, tolerance):
    """What the curve did comes undone at the knots; between them a straight line stands for it."""
    scan = make_scan(shape=(24, 25, 26))
    back = method(domain(scan), quantiles(scan))
    error = np.abs(back - scan.image)[scan.mask & (scan.image > 0.02) & (scan.image < 0.98)]
    assert error.max() < tolerance


def test_histogram_matching_is_exact_where_every_value_is_a_quantile():
    values = np.sort(np.random.default_rng(0).uniform(0.1, 1, 513)).astype(np.float32)
    scan = with_values(values)
    for change in (np.square, np.sqrt, lambda x: np.exp(x) / 3):
        back = match_histogram(with_values(change(values)), quantiles(scan))
        np.testing.assert_allclose(back[scan.mask], values, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=4, max_size=60), st.integers(0, 5))
def test_ties_stay_ties_and_order_stays(numbers, seed):
    """No value splits, none overtakes another, and nothing is not a number.

    The values are few, so most quantiles are equal.
    """
    scan = with_values(np.array(numbers) / 12)
    target = np.sort(np.random.default_rng(seed).uniform(0, 1.2, 513))
    for method in (match_histogram, match_landmarks, match_moments):
        image = method(scan, target)
        assert (
            np.isfinite(image).all()
            and image.min() >= 0
            and image.max() <= np.float32(1.3)
            and image.dtype == np.float32
        )
        order = np.argsort(scan.inside, kind="stable")
        before, after = scan.inside[order], image[scan.mask][order]
        assert (np.diff(after) >= 0).all() and (np.diff(after)[np.diff(before) == 0] == 0).all()
        assert (image[~scan.mask] == 0).all()


def test_the_result_has_the_targets_quantiles():
    scan, target = make_scan(shape=(24, 25, 26)), np.linspace(0.2, 1.1, 513) ** 2
    matched = quantiles(scan.with_image(match_histogram(scan, target)))
    np.testing.assert_allclose(matched, target, atol=5e-3)
    landmarks = quantiles(scan.with_image(match_landmarks(scan, target)))
    np.testing.assert_allclose(
        np.interp(matching.LANDMARKS, FRACTIONS, landmarks),
        np.interp(matching.LANDMARKS, FRACTIONS, target),
        atol=5e-3,
    )


def test_landmarks_go_on_straight_beyond_the_outer_ones():
    values = np.linspace(0.2, 0.8, 1001)
    image = match_landmarks(with_values(values), quantiles(with_values(0.5 * values + 0.1)))
    np.testing.assert_allclose(image[with_values(values).mask], 0.5 * values + 0.1, atol=1e-6)


def test_moments():
    scan = make_scan()
    target = np.linspace(0.3, 0.9, 513)  # a uniform distribution: its moments are known
    assert matching.moments(target) == pytest.approx((0.6, 0.6 / np.sqrt(12)))
    inside = match_moments(scan, target)[scan.mask]
    assert inside.mean() == pytest.approx(0.6, abs=1e-6) and inside.std() == pytest.approx(
        0.6 / np.sqrt(12), abs=1e-6
    )


def test_a_target_with_falling_quantiles_is_refused():
    with pytest.raises(ValueError, match="never fall"):
        match_histogram(make_scan(), np.linspace(1, 0, 513))
    with pytest.raises(ValueError, match="513"):
        match_histogram(make_scan(), np.linspace(0, 1, 11))
    with pytest.raises(ValueError, match="no scans"):
        matching.mean_quantiles([])


def test_a_constant_inside_goes_to_the_targets_middle():
    target = np.linspace(0, 1, 513)
    for method in (match_histogram, match_landmarks, match_moments):
        image = method(with_values(np.full(50, 0.7)), target)
        np.testing.assert_allclose(image[image > 0], 0.5, atol=1e-6)


def test_mean_quantiles_of_one_person_are_its_own():
    scan = make_scan()
    np.testing.assert_allclose(matching.mean_quantiles([scan, scan]), quantiles(scan))
    np.testing.assert_allclose(
        quantiles(scan)[[0, 256, 512]], np.quantile(scan.inside, (0, 0.5, 1)), atol=1e-7
    )


def test_n4_flattens_a_field_that_multiplies():
    scan = smooth_scan()
    seen = simulated_scanners.parse("field 0.3 seed 1")[0](scan)
    flat = matching.remove_field(seen)
    spread = [
        np.std(np.log(image[scan.mask] / scan.image[scan.mask])) for image in (seen.image, flat)
    ]
    assert spread[1] < 0.5 * spread[0]
    assert (
        np.percentile(flat[scan.mask], 99.5) == pytest.approx(1, abs=1e-4)
        and (flat[scan.image == 0] == 0).all()
    )


def test_peers_by_name():
    scan = smooth_scan()
    peers = matching.peers(quantiles(scan))
    assert list(peers) == ["source", "histogram matching", "Nyúl", "N4", "N4 + Nyúl", "z-score"]
    for name, method in peers.items():
        image = method(scan)
        assert (
            image.shape == scan.image.shape
            and image.dtype == np.float32
            and (image[scan.image == 0] == 0).all()
        ), name
    np.testing.assert_array_equal(peers["source"](scan), scan.image)
    np.testing.assert_array_equal(
        peers["N4"](scan), matching.remove_field(scan)
    )  # the same bits again
    corrected = scan.with_image(peers["N4"](scan))
    np.testing.assert_array_equal(
        peers["N4 + Nyúl"](scan), match_landmarks(corrected, quantiles(scan))
    )


def test_on_a_real_brain(data):
    """Histogram matching to the brain's own quantiles undoes curves almost fully.

    It hardly undoes a field at all.
    """
    scan = harmonize_scan.prepare(files.load(data / "brain_t1" / "site_b" / "ixi012_1211.nii.gz"))
    error = {}
    for domain in simulated_scanners.parse("gamma 0.7, field 0.3"):
        seen = domain(scan)
        back = match_histogram(seen, quantiles(scan))
        error[domain.name] = [
            np.sqrt(np.mean((x[scan.mask] - scan.inside) ** 2)) for x in (seen.image, back)
        ]
    assert error["gamma 0.7"][1] < 0.02 * error["gamma 0.7"][0]
    assert error["field 0.3 seed 1"][1] > 0.6 * error["field 0.3 seed 1"][0]
