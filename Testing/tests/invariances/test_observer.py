"""Model observers against closed forms: white and correlated noise, channels, ranks, words."""

import math

import numpy as np
import pytest
from scipy import stats

from NetInversionLib.invariances import observer

SIZE, SPACING = (15, 17), (0.8, 0.9)
PIXELS = SIZE[0] * SIZE[1]


def signal(contrast=1.0, diameter=5.0):
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    r = np.hypot((x - 8) * SPACING[0], (y - 7) * SPACING[1])
    return contrast * np.exp(-((r / diameter) ** 2) * 4).ravel()


def draws(count, root=None, seed=0):
    white = np.random.default_rng(seed).standard_normal((count, PIXELS))
    return white if root is None else white @ root


def smooth(weight):
    """A covariance that falls with the distance, and its symmetric root."""
    y, x = (n.ravel() for n in np.mgrid[: SIZE[0], : SIZE[1]])
    apart = np.hypot(x[:, None] - x, y[:, None] - y)
    covariance = np.exp(-apart / weight)
    values, vectors = np.linalg.eigh(covariance)
    return covariance, vectors * np.sqrt(values.clip(0)) @ vectors.T


def test_in_white_noise_the_matched_filter_has_signal_over_sigma():
    s, sigma = signal(0.5), 2.0
    absent = sigma * draws(2000)
    found = observer.cross_judged(observer.matched_filter, absent, absent + s)
    assert found.dprime == pytest.approx(np.linalg.norm(s) / sigma, abs=4 * found.error)
    assert found.error < 0.05 * found.dprime


def test_in_correlated_noise_channels_that_hold_the_best_template_reach_it():
    covariance, root = smooth(2.0)
    s = signal(1.5)
    best = np.linalg.solve(covariance, s)
    absent = draws(2000, root)
    channels = np.stack([best, s, *observer.laguerre_gauss(SIZE, (8, 7), SPACING, 5.0, 2)])
    found = observer.cross_judged(observer.hotelling(channels), absent, absent + s)
    assert found.dprime == pytest.approx(math.sqrt(s @ best), abs=4 * found.error)
    plain = observer.cross_judged(observer.matched_filter, absent, absent + s)
    closed = s @ s / math.sqrt(s @ covariance @ s)
    assert plain.dprime == pytest.approx(closed, abs=4 * plain.error)
    assert closed < 0.95 * math.sqrt(s @ best), "the two differ here"


def test_channels_reach_what_their_subspace_allows():
    covariance, root = smooth(3.0)
    s, channels = signal(2.0), observer.laguerre_gauss(SIZE, (8, 7), SPACING, 5.0)
    seen = channels @ s
    closed = math.sqrt(seen @ np.linalg.solve(channels @ covariance @ channels.T, seen))
    absent = draws(2000, root, seed=1)
    found = observer.cross_judged(observer.hotelling(channels), absent, absent + s)
    assert found.dprime == pytest.approx(closed, abs=4 * found.error)


def test_laguerre_gauss_channels_are_orthonormal_and_as_wide_as_the_nodule():
    channels = observer.laguerre_gauss((121, 141), (70.3, 60.2), (0.5, 0.6), 12.0)
    np.testing.assert_allclose(channels @ channels.T, np.eye(observer.CHANNELS), atol=1e-3)
    first = channels[0].reshape(121, 141)
    edge = np.exp(-np.pi / 4)  # half a diameter from the middle
    at_edge = observer.laguerre_gauss((1, 1), (-6.0 / 0.5, 0.0), (0.5, 0.6), 12.0, 1)[0, 0]
    middle = observer.laguerre_gauss((1, 1), (0.0, 0.0), (0.5, 0.6), 12.0, 1)[0, 0]
    assert at_edge / middle == pytest.approx(edge) and first.max() <= middle


def test_the_jackknife_tells_how_d_primes_scatter():
    rng = np.random.default_rng(3)
    found = [
        observer.detection(scores[0], scores[1] + 2) for scores in rng.standard_normal((400, 2, 40))
    ]
    values = np.array([one.dprime for one in found])
    assert values.mean() == pytest.approx(2.0, abs=0.1)
    told = np.mean([one.error for one in found])
    assert told == pytest.approx(values.std(), rel=0.12)


def test_an_affine_change_of_scores_changes_nothing():
    absent, present = np.random.default_rng(0).standard_normal((2, 30)) + [[0], [1]]
    one, other = (
        observer.detection(absent, present),
        observer.detection(7 * absent - 1e3, 7 * present - 1e3),
    )
    assert (one.dprime, one.error) == pytest.approx((other.dprime, other.error), rel=1e-6)
    swapped = observer.detection(-absent, -present)
    assert swapped.dprime == pytest.approx(-one.dprime)


def test_scores_that_do_not_vary_or_do_not_differ():
    flat = observer.detection(np.zeros(5), np.ones(5))
    assert flat.dprime == math.inf and math.isnan(flat.error)
    assert observer.detection(np.zeros(5), np.zeros(5)).dprime == 0
    scores = np.arange(5.0)
    assert observer.detection(scores, scores).dprime == 0


def test_the_lower_threshold_is_three_of_four_right():
    assert stats.norm.cdf(observer.HIDDEN_BELOW / math.sqrt(2)) == pytest.approx(0.76, abs=0.005)


@pytest.mark.parametrize(
    "before, after, said",
    [
        (6, 0.9, "could vanish"),
        (2, 0.5, "could vanish"),
        (6, 2, "could be missed"),
        (6, 5, "stays seen"),
        (2, 3, "uncertain as it is and denoised"),
        (0.5, 0.6, "not seen as it is either"),
        (3, 5.5, "better seen"),
    ],
)
def test_could_this_lesion_vanish(before, after, said):
    assert observer.verdict(surely(before), surely(after)) == said


def surely(dprime):
    return observer.Detection(dprime, 0.01)


def test_a_lesion_changes_its_class_only_by_more_than_the_error():
    before, after = observer.Detection(5.1, 0.3), observer.Detection(4.9, 0.3)
    assert observer.verdict(before, after) == observer.TOO_CLOSE
    assert observer.verdict(before, observer.Detection(4.2, 0.3)) == observer.MISSED
    assert observer.told_apart(surely(1.0), observer.Detection(math.inf, math.nan))
