import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_brains import brain, scan

from NetInversionLib import networks
from NetInversionLib.core import files as core_files
from NetInversionLib.core import volumes
from NetInversionLib.harmonize import (
    estimate,
    fitting,
    matching,
    simulated_scanners,
    statistics,
)
from NetInversionLib.harmonize import scan as harmonize_scan
from NetInversionLib.harmonize.fitting import FitSettings
from NetInversionLib.harmonize.similarity import psnr
from NetInversionLib.harmonize.tone_field import ToneField
from NetInversionLib.networks.corrector import CELLS, CONTROL, GRID, Corrector
from NetInversionLib.training import corrector
from NetInversionLib.training.corrector import CorrectorSettings

SHORT = CorrectorSettings(views=60, voxels=15_000, fields=200, rank=12, components=20, rounds=1)
FIELD = "field 0.3 seed 1"
OFFSET = "offset 0.15 seed 2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    for person in range(10):
        core_files.save(brain(person), folder / f"person{person}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def target(folder) -> Corrector:
    """Trained on ten drawn brains; persons from 20 on are new to it."""
    return corrector.train(sorted(folder.iterdir()), SHORT, folder.parent / "kept")


@pytest.fixture(scope="module")
def quantiles():
    return matching.mean_quantiles(scan(person) for person in range(10))


def psnr_of(
    domain: str, person: int, target: Corrector, quantiles
) -> tuple[float, float, estimate.Estimate]:
    """(ours, histogram matching, what was found) for a drawn brain under a simulated scanner."""
    truth = scan(person)
    source = simulated_scanners.parse(domain)[0](truth)
    found = estimate.explain(source, target)
    ours = estimate.harmonized(source, found.change)
    matched = matching.match_histogram(source, quantiles)
    return psnr(ours, truth.image, truth.mask), psnr(matched, truth.image, truth.mask), found


@pytest.mark.parametrize(
    ("domain", "explanation"),
    [(FIELD, "m"), (OFFSET, "a"), ("gamma 0.75 + field 0.25 seed 3", "m")],
)
def test_fields_of_a_new_person_are_found_and_named(target, quantiles, domain, explanation):
    ours, matched, found = psnr_of(domain, 21, target, quantiles)
    assert explanation in estimate.EXPLANATIONS[found.explanation]
    assert ours > matched + 3


@pytest.mark.parametrize("domain", ["gamma 0.7", "log 3", "exp 1.5", "none"])
def test_no_field_is_invented_where_there_is_none(target, quantiles, domain):
    ours, matched, found = psnr_of(domain, 22, target, quantiles)
    assert found.explanation == "tone curve"
    assert np.ptp(found.change.log_m) == 0 and np.ptp(found.change.a) == 0
    assert ours > matched - 0.2


def test_the_change_does_not_depend_on_how_the_voxels_are_stored(target):
    """The same scan turned to other axes, by another factor and in another type: the same T."""
    volume = brain(23)
    plain = estimate.explain(harmonize_scan.prepare(volume), target).change
    turned = volumes.reorient(volume, "PIL")
    again = estimate.explain(
        harmonize_scan.prepare(replace(turned, array=(turned.array * 17).astype(np.float64))),
        target,
    ).change
    points = np.random.default_rng(0).uniform(-40, 40, (3, 100))
    for a, b in zip(plain.fields_at(points), again.fields_at(points)):
        assert np.allclose(a, b, atol=1e-4)
    assert np.allclose(
        plain.curve(np.linspace(0, 1, 50)), again.curve(np.linspace(0, 1, 50)), atol=1e-4
    )


def test_another_grid_gives_nearly_the_same_change(target):
    truth = scan(24)
    fine = scan(24, shape=(69, 84, 75), spacing=(2.0, 2.13, 2.0))
    assert abs(len(fine.inside) / len(truth.inside) - 3.375) < 0.2
    changes = [
        estimate.explain(simulated_scanners.parse(FIELD)[0](s), target).change
        for s in (truth, fine)
    ]
    points = np.random.default_rng(0).uniform(-40, 40, (3, 100))
    (m, _), (m2, _) = (change.fields_at(points) for change in changes)
    # A factor that is the same everywhere belongs to the curve as much as to the field.
    assert np.abs(m / m2 / np.mean(m / m2) - 1).max() < 0.08
    assert np.ptp(m) > 0.15


def test_same_scan_same_bits(target):
    source = simulated_scanners.parse(OFFSET)[0](scan(25))
    first, second = (estimate.explain(source, target) for _ in range(2))
    assert first.change.to_dict() == second.change.to_dict() and first.evidence == second.evidence


def test_the_additive_field_stays_gentle_and_the_curve_strict(target):
    found = estimate.explain(simulated_scanners.parse("offset 0.4 seed 5")[0](scan(26)), target)
    assert found.change.steepest()[1] <= estimate.MAX_SLOPE_A * 1.0001
    assert (np.diff(found.change.knots) > 0).all()


def test_the_explanation_can_be_chosen(target):
    found = estimate.explain(scan(22), target, settings=FitSettings(fields="additive field"))
    assert (
        found.explanation == "additive field"
        and np.ptp(found.change.a) > 0
        and np.ptp(found.change.log_m) == 0
    )
    with pytest.raises(ValueError, match="fields must be"):
        FitSettings(fields="none of them")


def test_training_is_the_same_again_and_after_a_stop(folder, target, tmp_path):
    class Stop(Exception):
        pass

    class StopsInTheMiddle(corrector.Progress):
        def report(self, fraction, message):
            if fraction > 0.6:
                raise Stop

    paths = sorted(folder.iterdir())
    with pytest.raises(Stop):
        corrector.train(paths, SHORT, tmp_path / "kept", StopsInTheMiddle())
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "kept").iterdir()}
    assert len(kept) > len(paths)
    again = corrector.train(paths, SHORT, tmp_path / "kept")
    assert all(p.stat().st_mtime_ns == time for p, time in kept.items())
    for name, figure in target.named_buffers():
        assert torch.equal(figure, again.get_buffer(name)), name


def test_a_head_with_a_mask_file_is_learnt_from_as_the_brain_in_it(tmp_path):
    one = brain(3)
    inside = harmonize_scan.prepare(one).mask
    files = {
        "brain": one.with_array(np.where(inside, one.array, 0)),
        "head": one.with_array(np.where(inside, one.array, 700)),
        "head_mask": one.with_array(inside.astype(np.uint8)),
    }
    files = {
        name: core_files.save(volume, tmp_path / f"{name}.nii.gz") for name, volume in files.items()
    }

    def read(name, masks=None):
        (image, mask), *figures = corrector._Store(tmp_path / "kept", [files[name]], masks).brain(
            files[name]
        )
        return image.array, mask.array, *figures

    wanted, found = read("brain"), read("head", {files["head"]: files["head_mask"]})
    assert all(np.array_equal(a, b) for a, b in zip(wanted, found, strict=True))
    assert not np.array_equal(read("head")[2], wanted[2]), (
        "what was kept with the mask is not taken without it"
    )


def test_too_few_people_are_refused(folder):
    with pytest.raises(ValueError, match="at least three"):
        corrector.train(sorted(folder.iterdir())[:2])


def test_what_is_no_brain_is_refused(target):
    random = np.random.default_rng(0)
    sliver = np.zeros((40, 40, 40), np.float32)
    sliver[18:22, 18:22, 10:30] = random.uniform(0.5, 1, (4, 4, 20))
    with pytest.raises(harmonize_scan.ScanError, match="template"):
        estimate.explain(
            harmonize_scan.prepare(volumes.Volume(sliver, np.diag([2.0, 2, 2, 1]), "sliver")),
            target,
        )


@pytest.mark.parametrize(("thickness", "slices"), [(0.8, 2), (6.0, 3)])
def test_a_slab_too_thin_to_align_is_refused(target, thickness, slices):
    with pytest.raises(harmonize_scan.ScanError, match="covers more of the brain"):
        estimate.explain(scan(21, shape=(slices, 56, 50), spacing=(3.0, 3.2, thickness)), target)


def test_it_is_built_by_name_and_small_and_refuses_hostile_sizes(target):
    arguments = {
        "blocks": target.expected.shape[1],
        "rank": len(target.deviations),
        "components": target.patterns_m.shape[1],
    }
    again = networks.build("corrector", **json.loads(json.dumps(arguments)))
    again.load_state_dict(target.state_dict())
    assert sum(b.numel() * 4 for b in again.buffers()) < 8e6
    for wrong in (
        {"blocks": 0},
        {"blocks": 10**9},
        {"rank": 1e3},
        {"components": True},
        {"layers": 3},
    ):
        with pytest.raises(ValueError):
            networks.build("corrector", **wrong)


def test_local_quantiles_of_a_plain_brain_are_its_value():
    """Oracle: where everything has one value, every local quantile is that value, to a bin."""
    prior = np.full((40, *CELLS), 1e-6)
    places = np.arange(np.prod(GRID))
    quantiles, share = statistics.local_quantiles(np.full(len(places), 0.6), places, prior)
    assert np.abs(quantiles - 0.6).max() < 1.3 / 39
    assert np.allclose(
        share.reshape(CONTROL)[2:4, 3:5, 2:4], statistics.BRAIN_VOXELS / len(places), atol=1e-5
    )


def test_local_quantiles_follow_a_ramp():
    """Oracle: values that rise along j have local medians that rise by as much."""
    places = np.arange(np.prod(GRID))
    ramp = np.unravel_index(places, GRID)[1] / GRID[1]
    quantiles, _ = statistics.local_quantiles(ramp, places, np.full((40, *CELLS), 1e-6))
    median = quantiles[8].reshape(CONTROL)[3, :, 3]
    assert np.allclose(median[1:-1], (np.arange(8)[1:-1] + 0.5) / 8, atol=0.01)


def test_on_blocks_is_what_local_quantiles_see():
    """The block's mean quantile equals the field as on_blocks averages it.

    This is the oracle: a smooth field lies over a plain brain.
    """
    control = 0.6 + 0.15 * np.sin(np.indices(CONTROL).sum(0) / 2)
    places = np.arange(np.prod(GRID))
    quantiles, _ = statistics.local_quantiles(
        statistics.on_grid(control).ravel(), places, np.full((40, *CELLS), 1e-6)
    )
    middle = (slice(1, -1),) * 3
    assert np.allclose(
        quantiles.mean(0).reshape(CONTROL)[middle],
        statistics.on_blocks(control)[middle],
        atol=0.012,
    )


@pytest.mark.parametrize(
    "curve",
    [lambda x: x**0.7, lambda x: x**1.5, lambda x: np.log1p(3 * x), lambda x: np.expm1(1.5 * x)],
)
def test_the_tone_curve_of_the_same_values_is_undone(target, curve):
    """Oracle: a brain that IS the target's mean, seen through a curve: the inverse comes out."""
    figures = statistics.Target(target)
    values = np.interp(
        np.random.default_rng(0).uniform(0.002, 0.998, 40_000), estimate.TONE_LEVELS, figures.tone
    )
    seen = curve(values) / curve(1.0)
    knots = estimate.tone_curve(seen, figures)
    change = ToneField(knots, np.zeros((1, 1, 1)), np.zeros((1, 1, 1)), np.eye(4))
    assert (np.diff(knots) > 0).all()
    assert np.sqrt(np.mean((change.curve(seen) - values) ** 2)) < 0.012


@pytest.mark.parametrize("share", [0.003, 0.02])
def test_a_bright_lesion_does_not_bend_the_curve(target, share):
    """A brain that IS the target's mean, but for voxels brighter than any of the people's."""
    figures = statistics.Target(target)
    values = np.interp(
        np.random.default_rng(0).uniform(0.002, 0.998, 40_000), estimate.TONE_LEVELS, figures.tone
    )
    lesion = np.full(int(share * len(values)), 1.25 * np.quantile(values, 0.9))
    knots = estimate.tone_curve(np.r_[values, lesion], figures)
    change = ToneField(knots, np.zeros((1, 1, 1)), np.zeros((1, 1, 1)), np.eye(4))
    after = change.curve(np.r_[values, lesion[:1]])
    white = (values > np.quantile(values, 0.85)) & (values < np.quantile(values, 0.9))
    assert np.sqrt(np.mean((after[:-1] - values) ** 2)) < 0.012
    kept = (after[-1] / after[:-1][white].mean() - 1) / (lesion[0] / values[white].mean() - 1)
    assert 0.9 < kept < 1.1


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.2])
def test_where_a_factor_explains_all_no_contrast_changes(target, factor):
    """A brain that IS the target's mean, scaled: the curve is a line through 0 of known slope."""
    figures = statistics.Target(target)
    values = np.interp(
        np.random.default_rng(0).uniform(0.002, 0.998, 40_000), estimate.TONE_LEVELS, figures.tone
    )
    x, y = estimate.tone_curve(factor * values, figures)
    tissue = (x > np.quantile(factor * values, 0.2)) & (x < np.quantile(factor * values, 0.8))
    assert np.abs(y[tissue] / x[tissue] * factor - 1).max() < 0.01


def test_a_stiff_curve_leaves_a_power_law_by_less(target):
    """Only the prior of the curve's rest changes, by the square of the deviations' ratio."""
    unknown = fitting._Unknown(statistics.Target(target), "")
    precision = unknown.curve_precision
    linear = fitting.Linear(np.zeros((1, 15)), np.zeros(1), precision, np.zeros(15))
    stiffer = fitting.stiff(linear).precision
    assert np.array_equal(stiffer[:2], precision[:2])
    ratio = (fitting.REST_DEVIATION / fitting.STIFF_DEVIATION) ** 2
    assert np.allclose(stiffer[2:, 2:], ratio * precision[2:, 2:])
    assert ratio > 1 and linear.precision is precision


def test_a_scan_of_the_target_keeps_a_part_of_itself(target):
    same, other = (
        estimate.explain(simulated_scanners.parse(d)[0](scan(22)), target)
        for d in ("none", "gamma 0.5")
    )
    assert same.unchanged > 0.5 and other.unchanged < 0.01


def test_the_mean_of_the_deviations_and_the_rest_make_up_all_variance():
    random = np.random.default_rng(0)
    views = random.normal(size=(40, 3)) @ random.normal(size=(3, 30)) + 0.1 * random.normal(
        size=(40, 30)
    )
    views -= views.mean(0)
    directions, rest = corrector._low_rank(views, 3)
    assert np.allclose((directions**2).sum(0) + rest, (views**2).mean(0))
    assert rest.max() < 0.03 < 0.1 < (directions**2).sum(0).max()


def test_random_fields_are_smooth_and_bounded():
    random = np.random.default_rng(0)
    for _ in range(10):
        field = corrector.random_field(random)
        assert field.shape == CELLS and 0.05 < np.abs(field).max() < 1.15
        assert max(np.abs(np.diff(field, axis=axis)).max() for axis in range(3)) < 0.6


def test_a_dark_lesion_makes_no_field_and_keeps_its_contrast(target, quantiles):
    """A third of the brightness is gone in a ball of 65 ml: found, named, and left as it is."""
    truth = scan(21)
    where = np.argwhere(truth.mask).mean(axis=0) + (3, 6, 5)
    away = (np.indices(truth.mask.shape).T - where).T * np.array(truth.volume.spacing_mm[::-1])[
        :, None, None, None
    ]
    ball = truth.mask & (np.sqrt((away**2).sum(axis=0)) < 25)
    ill = truth.with_image(np.where(ball, truth.image * 0.65, truth.image))
    found = estimate.explain(ill, target)
    assert found.explanation == "tone curve" and (found.unlike == 2).any()
    image = estimate.harmonized(ill, found.change)
    around = truth.mask & ~ball
    before = ill.image[ball].mean() / ill.image[around].mean() - 1
    after = image[ball].mean() / image[around].mean() - 1
    assert after == pytest.approx(before, rel=0.05)
    matched = matching.match_histogram(ill, quantiles)
    assert psnr(image, ill.image, around) > psnr(matched, ill.image, around)
