"""Where a brain is unlike the target's people: against brute force, and on drawn brains."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_brains import scan

from NetInversionLib.harmonize import places, unlike
from NetInversionLib.harmonize.estimate import Estimate
from NetInversionLib.harmonize.fitting import Linear
from NetInversionLib.harmonize.statistics import FLOOR, Target
from NetInversionLib.harmonize.tone_field import ToneField
from NetInversionLib.networks.corrector import CONTROL, Corrector

BLOCKS, RANK, UNKNOWNS = 5, 3, 4
PLACES = [(2, 3, 2), (2, 3, 3), (2, 3, 5), (4, 6, 2), (0, 0, 0)]  # the first two are neighbours


@pytest.fixture(scope="module")
def target() -> Target:
    """Five blocks of invented people."""
    random = np.random.default_rng(0)
    corrector = Corrector(BLOCKS, RANK, 2)
    used = np.zeros(CONTROL, np.float32)
    used[tuple(np.transpose(sorted(PLACES)))] = 1
    with torch.no_grad():
        corrector.used.copy_(torch.from_numpy(used))
        corrector.deviations.copy_(torch.from_numpy(random.normal(0, 0.05, (RANK, 17 * BLOCKS))))
        corrector.variance.fill_(0.02**2)
    return Target(corrector)


@pytest.fixture
def linear() -> Linear:
    random = np.random.default_rng(1)
    jacobian = random.normal(0, 0.3, (17 * BLOCKS, UNKNOWNS))
    mean = random.normal(0, 1, UNKNOWNS)
    return Linear(
        jacobian,
        jacobian @ mean + random.normal(0, FLOOR, 17 * BLOCKS),
        np.diag([1.0, 2.0, 3.0, 4.0]),
        mean,
    )


def covariance(linear: Linear, target: Target, wide: np.ndarray) -> np.ndarray:
    """Of all quantiles, of which some blocks may deviate; rows as ``observed``."""
    whole = linear.jacobian @ np.linalg.inv(linear.precision) @ linear.jacobian.T
    whole += target.deviations.T @ target.deviations + np.diag(target.variance + FLOOR**2)
    for block in np.flatnonzero(wide):
        rows = np.arange(17) * BLOCKS + block
        whole[np.ix_(rows, rows)] += unlike.WIDE
    return whole


def log_evidence(linear: Linear, target: Target, wide: np.ndarray) -> float:
    whole = covariance(linear, target, wide)
    left = linear.observed - linear.jacobian @ linear.mean
    normal = -0.5 * (left @ np.linalg.solve(whole, left) + np.linalg.slogdet(whole)[1])
    return normal - unlike.PRICE * wide.sum()


def darkened(linear: Linear, block: int, by: float) -> Linear:
    observed = linear.observed.reshape(17, BLOCKS).copy()
    observed[:, block] += by
    return replace(linear, observed=observed.ravel())


def test_no_other_mind_about_a_block_has_more_evidence(linear, target):
    dark = darkened(darkened(linear, 1, 0.4), 3, -0.3)
    found = unlike.unlike_blocks(dark, target)
    assert found.tolist() == [False, True, False, True, False]
    best = log_evidence(dark, target, found)
    for block in range(BLOCKS):
        other = found.copy()
        other[block] = ~other[block]
        assert log_evidence(dark, target, other) < best


def test_an_unlike_block_stays_so_unless_others_foretell_it(linear, target):
    """Two of three blocks are as the model says, though all three were taken for unlike."""
    dark = darkened(linear, 0, 0.4)
    before = np.array([True, False, True, False, True])
    assert unlike.not_foretold(dark, target, before).tolist() == [True, False, False, False, False]


def test_people_like_the_target_have_no_unlike_place(linear, target):
    assert not unlike.unlike_blocks(linear, target).any()


def test_a_block_that_is_left_out_is_not_judged(linear, target):
    blind = target.leaving_out(np.arange(BLOCKS) == 1)
    assert not unlike.unlike_blocks(darkened(linear, 1, 0.4), blind)[1]


def test_blocks_are_foretold_as_by_the_whole_covariance(linear, target):
    """A block's likelihood given those neither in it nor beside it, by conditioning outright."""
    whole = covariance(linear, target, np.zeros(BLOCKS, bool))
    left = linear.observed - linear.jacobian @ linear.mean
    at = np.stack(np.unravel_index(np.flatnonzero(target.used), CONTROL), 1)
    for block, value in enumerate(unlike.foretold(linear, target)):
        mine = np.arange(17) * BLOCKS + block
        far = np.flatnonzero(np.abs(at - at[block]).max(1) > 1)
        rest = (np.arange(17)[:, None] * BLOCKS + far).ravel()
        gain = np.linalg.solve(whole[np.ix_(rest, rest)], whole[np.ix_(rest, mine)]).T
        spread = whole[np.ix_(mine, mine)] - gain @ whole[np.ix_(rest, mine)]
        miss = left[mine] - gain @ left[rest]
        expected = -0.5 * (miss @ np.linalg.solve(spread, miss) + np.linalg.slogdet(spread)[1])
        assert value == pytest.approx(expected, rel=1e-6)


def test_no_single_block_proves_a_field(linear, target):
    """However much better one block is foretold, it counts for no more than the limit."""
    wrong = darkened(linear, 4, 5.0)
    assert abs(unlike.foresight(linear, wrong, target)) <= unlike.CLIP * BLOCKS
    gain = unlike.foretold(linear, target) - unlike.foretold(wrong, target)
    assert gain[4] > 100 * unlike.CLIP


def test_neighbours_are_left_out_too_and_the_map_tells_them_apart(target):
    found = np.zeros(BLOCKS, bool)
    found[np.flatnonzero(target.used).tolist().index(np.ravel_multi_index((2, 3, 2), CONTROL))] = 1
    seen = unlike.on_template(found, target.used)
    assert seen[2, 3, 2] == 2 and seen[2, 3, 3] == 1
    assert seen.sum() == 3


def test_places_are_named_as_the_patient_has_them():
    """A block to the patient's right, in front and high, of a head that lies 5 mm off."""
    shift = np.eye(4)
    shift[:3, 3] = (5.0, 0.0, 0.0)
    blocks = np.zeros(CONTROL, np.uint8)
    blocks[3, 5, 4] = 2
    blocks[3, 4, 4] = 1
    found = Estimate(ToneField.identity(), "tone curve", {}, 0.0, 0.9, shift, {}, blocks)
    brain = scan(21)
    seen = places.unlike_map(found, brain)
    assert set(np.unique(seen[brain.mask])) == {0, 1, 2} and not seen[~brain.mask].any()
    (place,) = places.unlike_places(found, brain)
    voxel = np.prod(brain.volume.spacing_mm) / 1000
    assert place["ml"] == pytest.approx((seen == 2).sum() * voxel, abs=0.06)
    assert place["where"].split(", ")[:2] == ["right", "front"]
    assert place["centre"][0] > 12
    check = places.unlike_check([place])
    assert check.passed and "looks like a lesion, not shading" in check.words.lower()
    assert places.unlike_check([]).value == 0


@pytest.mark.parametrize("bright", [True, False])
def test_a_place_keeps_so_much_of_its_contrast(bright):
    """A result that halves differences from the median halves the place's contrast to it."""
    blocks = np.zeros(CONTROL, np.uint8)
    blocks[3, 4, 3] = 2
    blocks[2, 4, 3] = blocks[4, 4, 3] = 1
    found = Estimate(ToneField.identity(), "tone curve", {}, 0.0, 0.9, np.eye(4), {}, blocks)
    brain = scan(21)
    where = places.unlike_map(found, brain)
    source = brain.with_image(np.where(where == 2, 1.2 if bright else 0.1, brain.image))
    usual = np.median(source.image[where == 1])
    halved = usual + (source.image - usual) / 2
    assert places.contrast_kept(found, source, source.image * 3) == pytest.approx(1)
    kept = places.contrast_kept(found, source, halved)
    assert kept == pytest.approx(0.5, abs=1e-3)
    assert not places.contrast_check(kept).passed and "50 %" in places.contrast_check(kept).words
    assert places.contrast_check(1.0).passed
    nowhere = replace(found, unlike=np.zeros(CONTROL, np.uint8))
    assert places.contrast_kept(nowhere, source, halved) == 1
