"""The measures, against scikit-image, SciPy and cases whose answer is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from skimage import metrics
from toy_scans import make_scan

from NetInversionLib.core import files, volumes
from NetInversionLib.harmonize import scan as harmonize_scan
from NetInversionLib.harmonize import similarity, simulated_scanners
from NetInversionLib.harmonize.matching import FRACTIONS, quantiles


def two_tissues(shape=(28, 30, 26), seed=0):
    """A smooth random anatomy of two brightnesses in a ball, with noise."""
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    grids = np.meshgrid(*(np.linspace(-1.1, 1.1, n) for n in shape), indexing="ij")
    mask = sum(g**2 for g in grids) < 1
    image = np.where(
        ndimage.gaussian_filter(rng.normal(size=shape), 2.5) > 0, 0.8, 0.5
    ) + rng.normal(0, 0.03, shape)
    return (image * mask).astype(np.float32), mask


def test_errors_against_scikit_image_and_by_hand():
    truth, mask = two_tissues()
    image = np.where(mask, truth + 0.1, 5).astype(np.float32)  # outside must not count
    assert similarity.mae(image, truth, mask) == pytest.approx(0.1, abs=1e-6)
    assert similarity.psnr(image, truth, mask) == pytest.approx(20, abs=1e-4)
    other = truth + np.random.default_rng(1).normal(0, 0.05, truth.shape).astype(np.float32)
    assert similarity.psnr(other, truth, mask) == pytest.approx(
        metrics.peak_signal_noise_ratio(truth[mask], other[mask], data_range=1), abs=1e-4
    )
    assert similarity.psnr(truth, truth, mask) == np.inf and similarity.mae(truth, truth, mask) == 0


@pytest.mark.parametrize("shape", [(28, 30, 26), (5, 30, 26), (9, 12, 40)])
def test_ssim_is_scikit_images_averaged_inside(shape):
    truth, mask = two_tissues(shape)
    image = truth + np.random.default_rng(1).normal(0, 0.05, shape).astype(np.float32)
    window = min(7, *(n - 1 + n % 2 for n in shape))
    full = metrics.structural_similarity(image, truth, win_size=window, data_range=1.0, full=True)[
        1
    ]
    assert similarity.ssim(image, truth, mask) == pytest.approx(full[mask].mean(), abs=1e-5)


def test_ssim_bounds_and_limits():
    truth, mask = two_tissues()
    assert similarity.ssim(truth, truth, mask) == pytest.approx(1)
    assert similarity.ssim(1 - truth, truth, mask) < 0
    small = np.zeros_like(mask)
    small[3:5, 10:12, 0:2] = True  # a mask smaller than the window, at a border
    assert similarity.ssim(truth, truth, small) == pytest.approx(1)
    with pytest.raises(ValueError, match="three slices"):
        similarity.ssim(truth[:2], truth[:2], mask[:2])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 5), st.floats(-0.5, 0.5))
def test_wasserstein_against_scipy(seed, power, shift):
    rng = np.random.default_rng(seed)
    one, other = rng.uniform(size=20_000), rng.beta(power, 1, 20_000) + shift
    ours = similarity.wasserstein(np.quantile(one, FRACTIONS), np.quantile(other, FRACTIONS))
    assert ours == pytest.approx(stats.wasserstein_distance(one, other), abs=1e-3)


def test_wasserstein_is_a_distance_and_exact_where_the_two_cross():
    a, b, c = np.linspace(0, 1, 513), np.full(513, 0.3), np.linspace(0.2, 0.9, 513) ** 2
    assert similarity.wasserstein(a, a) == 0 and similarity.wasserstein(
        a, a + 0.07
    ) == pytest.approx(0.07)
    assert (
        similarity.wasserstein(a, b)
        == similarity.wasserstein(b, a)
        == pytest.approx((0.3**2 + 0.7**2) / 2, abs=1e-12)
    )
    assert similarity.wasserstein(a, c) <= similarity.wasserstein(a, b) + similarity.wasserstein(
        b, c
    )


def test_leave_one_out_distances():
    q = np.linspace(0, 1, 513) + np.array([[0.0], [0.0], [0.3]])
    np.testing.assert_allclose(similarity.leave_one_out_distances(q), [0.15, 0.15, 0.3])


def test_edge_agreement():
    image, mask = two_tissues()
    assert similarity.edge_agreement(image, image, mask) == pytest.approx(1)
    assert similarity.edge_agreement(0.3 * image + 0.2, image, mask) == pytest.approx(1, abs=1e-5)
    assert similarity.edge_agreement(1 - image, image, mask) == pytest.approx(-1, abs=1e-5)
    noise = np.random.default_rng(2).normal(size=image.shape).astype(np.float32)
    assert abs(similarity.edge_agreement(noise, image, mask)) < 0.1
    assert similarity.edge_agreement(image**0.7, image, mask) > 0.97
    assert (
        similarity.edge_agreement(np.ones_like(image), image, mask) == 1
    )  # no edges: none in a wrong place


def test_slice_score_sees_flicker_and_not_contrast():
    image, mask = two_tissues()
    assert similarity.slice_score(image, image, mask) == 0
    assert similarity.slice_score(0.5 * image + 0.1, image, mask) == pytest.approx(0, abs=1e-3)
    for axis in range(3):
        flicker = np.random.default_rng(axis).normal(0, 0.05, image.shape[axis])
        flickering = image + np.expand_dims(flicker, [a for a in range(3) if a != axis]).astype(
            np.float32
        )
        worse = image + (flickering - image) * 2
        assert (
            0.1
            < similarity.slice_score(flickering, image, mask)
            < similarity.slice_score(worse, image, mask)
        )
    field = simulated_scanners.smooth_field(image.shape, 1)
    assert abs(similarity.slice_score(image * (1 + 0.2 * field), image, mask)) < 0.15


def test_tissues_of_a_known_mixture():
    rng = np.random.default_rng(0)
    truth = rng.choice(3, 200_000, p=(0.2, 0.5, 0.3))
    values = np.array([0.25, 0.55, 0.8])[truth] + rng.normal(0, 0.07, truth.shape)
    fit = similarity.fit_tissues(values[values > 0])
    np.testing.assert_allclose(fit.means, (0.25, 0.55, 0.8), atol=0.01)
    np.testing.assert_allclose(fit.shares, (0.2, 0.5, 0.3), atol=0.02)
    assert fit.deviation == pytest.approx(0.07, abs=0.005)
    assert fit.contrasts == pytest.approx((0.25 / 1.35, 0.3 / 0.8), abs=0.01)
    densities = np.stack(
        [p * stats.norm(m, fit.deviation).pdf(values) for m, p in zip(fit.means, fit.shares)]
    )
    np.testing.assert_array_equal(fit.classify(values), densities.argmax(axis=0))


def test_tissues_scale_with_the_image_and_need_three_values():
    values = np.random.default_rng(0).choice([0.2, 0.5, 0.9], 5000) + np.random.default_rng(
        1
    ).normal(0, 0.02, 5000)
    one, twice = similarity.fit_tissues(values), similarity.fit_tissues(2 * values)
    np.testing.assert_allclose(twice.means, 2 * one.means, rtol=1e-6)
    assert one.contrasts == pytest.approx(twice.contrasts)
    with pytest.raises(ValueError, match="three different"):
        similarity.fit_tissues(np.repeat([0.1, 0.9], 50))


def test_box_holds_the_mask_and_no_more():
    mask = np.zeros((9, 8, 7), bool)
    mask[2:4, 5, 1:6] = True
    assert similarity.box(mask) == (slice(2, 4), slice(5, 6), slice(1, 6))
    assert similarity.box(mask, 3) == (slice(0, 7), slice(2, 8), slice(0, 7))


def test_tissues_of_real_brains_against_labels(data):
    """The unsupervised classes are the labelled ones, as far as brightness alone can tell."""
    from NetInversionLib.evaluation import biology

    folder = data / "brain_t1"
    scan = harmonize_scan.prepare(files.load(folder / "site_b" / "ixi150_1550.nii.gz"))
    labels = volumes.reorient(files.load(folder / "site_b_labels" / "ixi150_1550.nii.gz"), "RAS")
    fitted = similarity.fit_tissues(scan.inside)
    overlap = biology.overlaps(scan, biology.read_labels(scan, labels), fitted)
    assert min(overlap) > 0.5 and overlap[2] > 0.7
    white, grey = fitted.contrasts
    assert 0.1 < white < grey < 0.8


def test_measures_take_a_scan_of_the_simulated_domains():
    scan = make_scan()
    changed = simulated_scanners.parse()[0](scan)
    assert similarity.wasserstein(quantiles(scan), quantiles(changed)) > 0.05
