"""What is true of a person and has to stay so, against closed forms and SciPy."""

import numpy as np
import pytest
from scipy import stats

from NetInversionLib.core.volumes import Volume
from NetInversionLib.evaluation import biology
from NetInversionLib.harmonize import matching, similarity
from NetInversionLib.harmonize import scan as harmonize_scan
from NetInversionLib.harmonize.similarity import Tissues

VALUES = np.array([0.2, 0.5, 0.9])


def person(fluid, noise=0.02, seed=0):
    """A brain with a given share of fluid, as much grey as white matter; and its labels."""
    rng = np.random.default_rng(seed)
    shape, inner = (14, 14, 14), (slice(1, -1),) * 3
    number = 12**3
    tissue = np.full(number, 2)
    tissue[: round(fluid * number)] = 0
    tissue[round(fluid * number) :][: round((1 - fluid) / 2 * number)] = 1
    labels = np.zeros(shape, np.uint8)
    labels[inner] = tissue.reshape(12, 12, 12) + 1
    image = np.zeros(shape, np.float32)
    image[inner] = (VALUES[tissue] + rng.normal(0, noise, number)).reshape(12, 12, 12)
    return Volume(700 * image, np.eye(4), "person"), labels


def scan_of(volume, labels):
    """Its mask is all that has a label."""
    return harmonize_scan.prepare(volume, volume.with_array((labels > 0).astype(np.uint8)))


def test_joint_variation_is_its_formula_and_has_no_unit():
    white, grey = np.array([4.0, 6.0]), np.array([1.0, 2.0, 3.0])
    spread = 1 + np.sqrt(2 / 3)
    assert biology.joint_variation(white, grey) == pytest.approx(spread / 3)
    assert biology.joint_variation(7 * white, 7 * grey) == pytest.approx(spread / 3)
    assert biology.joint_variation(grey, grey) == np.inf


@pytest.mark.parametrize("numbers", [(0, 1, 2, 3), (0, 51, 100, 81)], ids=["tissues", "regions"])
def test_figures_in_labels_are_those_that_were_put_in(numbers):
    volume, labels = person(0.25)
    scan = scan_of(volume, labels)
    named = volume.with_array(np.array(numbers, np.uint8)[labels])
    found = dict(
        zip(
            biology.LABEL_HEADINGS,
            biology.in_labels(
                scan, biology.read_labels(scan, named), similarity.fit_tissues(scan.inside)
            ),
        )
    )
    scaled = VALUES * 700 / scan.scale
    assert found["ventricle share"] == pytest.approx(0.25, abs=0.001)
    assert found["fitted CSF share"] == pytest.approx(0.25, abs=0.01)
    assert found["white value"] == pytest.approx(scaled[2], rel=0.01)
    assert found["white/grey in labels"] == pytest.approx(0.4 / 1.4, rel=0.01)
    assert found["joint variation"] == pytest.approx(2 * 0.02 / 0.4, rel=0.05)
    assert min(found[f"{tissue} overlap"] for tissue in ("CSF", "grey", "white")) > 0.99


def test_other_fluid_than_the_ventricles_is_fluid_and_no_ventricle():
    volume, labels = person(0.25)
    scan = scan_of(volume, labels)
    outer = biology.read_labels(
        scan, volume.with_array(np.array((0, 46, 100, 81), np.uint8)[labels])
    )
    assert outer.ventricles == 0 and (outer.classes == 0).sum() == (labels == 1).sum()


def test_without_labels_nothing_is_said():
    scan = scan_of(*person(0.25))
    found = biology.in_labels(scan, None, Tissues(VALUES, np.ones(3) / 3, 0.1))
    assert len(found) == len(biology.LABEL_HEADINGS) and np.isnan(found).all()


def test_kept_is_pearson_s_and_an_unchanged_measurement_is_kept():
    rng = np.random.default_rng(0)
    x = rng.normal(size=30)
    before, after = x + rng.normal(size=30), -x + rng.normal(size=30)
    found, difference, low, high = biology.kept(x, before, after)
    assert found == pytest.approx(stats.pearsonr(x, after)[0])
    assert difference == pytest.approx(found - stats.pearsonr(x, before)[0])
    assert -2 <= low < difference < high < 0
    assert biology.kept(x, before, before)[1:] == (0, 0, 0)
    assert biology.kept(x, before, 3 * before + 5)[1:] == pytest.approx((0, 0, 0), abs=1e-12)
    assert np.isnan(biology.kept(x, before, np.ones(30))).all()
    assert np.isnan(biology.kept(x[:2], before[:2], after[:2])).all()


def test_exact_matching_wipes_the_share_of_fluid_and_is_found_out():
    """Everybody's white matter is as bright; who has more fluid loses that by matching."""
    people = [person(share, seed=n) for n, share in enumerate((0.1, 0.15, 0.2, 0.25, 0.3, 0.35))]
    scans = [scan_of(*one) for one in people]
    target = matching.quantiles(scans[2])
    rows = []
    for scan, (volume, labels) in zip(scans, people):
        known = biology.read_labels(scan, volume.with_array(labels))
        matched = scan.with_image(matching.match_histogram(scan, target))
        rows.append(
            [
                biology.in_labels(one, known, similarity.fit_tissues(one.inside))
                for one in (scan, matched)
            ]
        )
    of = {key: np.array(rows)[:, :, n] for n, key in enumerate(biology.LABEL_HEADINGS)}
    share = of["ventricle share"][:, 0]
    fitted = of["fitted CSF share"]
    assert biology.correlation(share, fitted[:, 0]) > 0.99
    assert np.ptp(fitted[:, 1]) < 0.2 * np.ptp(fitted[:, 0])
    before, after = of["white value"].T
    assert biology.kept(share, before, after)[0] > 0.8
    assert np.ptp(after) > 3 * np.ptp(before)
