"""The site classifier and the site effects, against what is put in and against SciPy."""

import numpy as np
import pytest
from scipy import optimize

from NetInversionLib.core.volumes import Volume
from NetInversionLib.evaluation import site_classifier
from NetInversionLib.harmonize import scan as harmonize_scan


def a_set(shift, people=10, seed=0):
    """Five features of people on two sites, apart by ``shift`` standard deviations."""
    rng = np.random.default_rng(seed)
    sites = np.repeat([0, 1], people)
    features = rng.normal(size=(2 * people, 5)) + shift * sites[:, None]
    return features, sites, np.array([f"p{n}" for n in range(2 * people)])


def test_a_difference_is_found_and_only_a_difference():
    x, sites, people = a_set(5)
    assert site_classifier.told_apart({"source": x}, sites, people)["source"].anew == (1.0,) * 5
    of_nothing = [
        site_classifier.told_apart({"source": x}, sites, people, 2)["source"].anew
        for x, sites, people in (a_set(0, seed=seed) for seed in range(12))
    ]
    assert 0.4 < np.mean(of_nothing) < 0.6


def test_chance_is_what_sites_given_at_random_reach():
    x, sites, people = a_set(5)
    chance = site_classifier.told_apart({"source": x}, sites, people, 12)["chance"]
    assert 0.35 < np.mean(chance.anew) < 0.65 and chance.frozen == ()


def test_a_frozen_classifier_does_not_see_what_is_new():
    """The harmonized images lack the source's difference and have another one.

    A classifier trained on them finds it; one trained on the source's guesses.
    """
    x, sites, people = a_set(0, people=16)
    source, other = x.copy(), x.copy()
    source[:, 0] += 6 * sites
    other[:, 1] += 6 * sites
    told = site_classifier.told_apart({"source": source, "other": other}, sites, people)
    assert told["source"].anew == told["source"].frozen == (1.0,) * 5
    assert np.mean(told["other"].anew) > 0.95 > 0.8 > np.mean(told["other"].frozen)


def test_a_feature_counts_no_further_than_the_training_has_seen_it():
    """Four features tell the source; of the harmonized images three are as the target's.

    The fourth, which hardly varies, lies a thousand deviations out: one against three.
    """
    x, sites, people = a_set(0, people=16)
    x[:, 3] *= 1e-4
    source, other = x.copy(), x.copy()
    source[:, :4] += 8 * sites[:, None] * [1, 1, 1, 1e-4]
    other[:, 3] += 0.1 * sites
    told = site_classifier.told_apart({"source": source, "other": other}, sites, people, 2)
    assert told["source"].frozen == (1.0, 1.0) and told["other"].frozen == (0.5, 0.5)
    assert told["other"].anew == (1.0, 1.0)


def test_people_are_kept_apart():
    """Scans of one person are alike: who has seen one of them knows the other's site."""
    rng = np.random.default_rng(3)
    person = rng.normal(size=(12, 40))
    x = np.repeat(person, 2, axis=0) + rng.normal(0, 0.01, (24, 40))
    sites, people = np.repeat([0, 1], 12), np.repeat(np.arange(12), 2)
    apart, mixed = (
        np.mean(site_classifier.told_apart({"source": x}, sites, whose, 2)["source"].anew)
        for whose in (people, np.arange(24))
    )
    assert mixed > 0.85 and apart < 0.75
    with pytest.raises(ValueError, match="two people"):
        site_classifier.told_apart({"source": x[:13]}, sites[:13], people[:13])


def test_who_was_on_both_sites_is_in_one_fold():
    sites, people = np.array([0, 0, 0, 1, 1, 1, 0]), np.array(list("abcabdb"))
    for seed in range(5):
        fold = site_classifier._folds(sites, people, np.random.default_rng(seed))
        assert all(len(set(fold[people == name])) == 1 for name in "abcd")
        assert all(len(set(sites[fold != out])) == 2 for out in range(fold.max() + 1))


def test_shuffled_sites_stay_with_a_person_and_keep_their_number():
    sites, people = np.array([0, 0, 0, 0, 1, 1, 0, 1]), np.array(list("aabcddee"))
    for seed in range(6):
        given = site_classifier.shuffled(sites, people, np.random.default_rng(seed))
        single = people != "e"
        assert all(len(set(given[people == name])) == 1 for name in "abcd")
        assert set(given[~single]) == {0, 1}
        firsts = [given[list(people).index(name)] for name in "abcd"]
        assert sorted(firsts) == [0, 0, 0, 1]


def test_the_training_ends_where_the_gradient_does():
    x, sites, _ = a_set(0.5)
    w = site_classifier.converged(x, sites, 1.0)

    def loss(w):
        margin = (2 * sites - 1) * (x @ w[1:] + w[0])
        return np.sum(np.log1p(np.exp(-margin))) + np.sum(w[1:] ** 2) / 2

    assert np.abs(optimize.approx_fprime(w, loss, 1e-6)).max() < 1e-4
    assert optimize.minimize(loss, np.zeros(6)).fun == pytest.approx(loss(w), abs=1e-6)


def test_site_effects_are_those_that_were_put_in():
    rng = np.random.default_rng(1)
    sites = np.repeat([0, 1], 4000)
    values = rng.normal(size=(8000, 3))
    values[sites == 1] = 2 * values[sites == 1] + 3
    apart, factor = site_classifier.site_effects(10 * values + 7, sites)
    assert factor == pytest.approx(2, rel=0.05)
    assert apart == pytest.approx(3 / np.sqrt((1 + 4) / 2), rel=0.05)


def test_features_do_not_depend_on_the_grid():
    """The same ball on 1 mm and 2 mm voxels looks alike: resolution alone must not tell."""
    found = []
    for spacing in (1.0, 2.0):
        n = int(60 / spacing)
        grid = [(np.arange(n) - (n - 1) / 2) * spacing] * 3
        z, y, x = np.meshgrid(*grid, indexing="ij")
        image = (np.sqrt(x**2 + y**2 + z**2) < 25) * (0.6 + 0.3 * np.sin(x / 6) * np.cos(y / 7))
        ball = Volume(image.astype(np.float32), np.diag([spacing] * 3 + [1.0]), "ball")
        found.append(site_classifier.features(harmonize_scan.prepare(ball)))
    one, other = found
    assert one["histogram"].sum() == pytest.approx(1) and one["texture"].shape == (12,)
    assert np.abs(np.cumsum(one["histogram"] - other["histogram"])).max() < 0.05
    np.testing.assert_allclose(one["texture"], other["texture"], rtol=0.3, atol=0.003)
