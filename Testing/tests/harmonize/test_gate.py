"""The gate, on generated brains of half the size and on a few real ones.

The tests say what passes, what is caught, and why.
"""

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from NetInversionLib.core import files, volumes
from NetInversionLib.core.volumes import Volume
from NetInversionLib.evaluation import gate, wrong_scans
from NetInversionLib.evaluation.wrong_scans import ARTEFACTS, CONTRASTS, PLACEMENTS, flipped
from NetInversionLib.harmonize import figures, gate_figures, matching, simulated_scanners
from NetInversionLib.harmonize import gate as harmonize_gate
from NetInversionLib.harmonize import scan as harmonize_scan
from NetInversionLib.harmonize.gate import Check, Limits, verdict
from NetInversionLib.harmonize.gate_figures import FIGURES
from NetInversionLib.training import gate as training_gate
from NetInversionLib.training.kept import Kept

SHAPE = (44, 52, 42)  # 2 mm
FLUID, GREY, WHITE = 0.25, 0.6, 0.95


def brain(seed: int, spacing: float = 2.0) -> harmonize_scan.Scan:
    """White matter with ventricles in a folded grey ribbon, and a cerebellum behind and below.

    One frontal lobe is the larger.
    """
    rng = np.random.default_rng(seed)
    steps = spacing / 2
    axes = [np.arange(0, n, steps) - (n - 1) / 2 for n in SHAPE]
    grids = np.stack(np.meshgrid(*axes, indexing="ij"))
    warp = np.stack(
        [simulated_scanners.smooth_field(grids.shape[1:], 10 * seed + n) for n in range(3)]
    )
    z, y, x = 2 * grids * rng.uniform(0.95, 1.05, (3, 1, 1, 1)) + 2.5 * warp

    def ball(centre, radii):
        return sum(((a - c) / r) ** 2 for a, c, r in zip((x, y, z), centre, radii))

    folds = 0.12 * np.sin(x / 3.2) * np.cos(y / 3.6 + 0.4) * np.cos(z / 3.4)
    parts = ((0, 2, 4), (30, 38, 27)), ((4, 27, 6), (18, 15, 15)), ((0, -26, -16), (19, 14, 12))
    whole = np.min([ball(*part) for part in parts], axis=0)
    depth = np.sqrt(whole)
    image = np.where(depth < 0.78 + folds, WHITE, GREY)
    image[depth > 0.97] = FLUID
    for centre, radii in (
        ((-6, 4, 8), (4, 12, 5)),
        ((6, 3, 8), (4, 10, 4)),
        ((0, -26, -16), (5, 6, 4)),
    ):
        image[ball(centre, radii) < 1] = FLUID
    image[ball((-14, -4, -2), (4, 7, 4)) < 1] = GREY
    image = ndimage.gaussian_filter(image, 0.5 / steps) + rng.normal(0, 0.02, image.shape)
    image = np.clip(image, 0.01, None) * (whole < 1)
    return harmonize_scan.prepare(
        Volume(image.astype(np.float32) * 800, np.diag([spacing] * 3 + [1.0]), f"brain {seed}")
    )


@pytest.fixture(scope="module")
def statistics():
    return training_gate.fit(brain(seed) for seed in range(10))


@pytest.fixture(scope="module")
def scan():
    return brain(20)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_training_that_was_stopped_goes_on_and_ends_the_same(share, tmp_path, monkeypatch):
    """Stopped after a share of the alignments, none of those is done again; to the last bit."""
    people = [brain(seed) for seed in range(3)]
    counted, fit = [], training_gate.fit_affine

    def counting(*arguments):
        if len(counted) == stop:
            raise KeyboardInterrupt
        counted.append(1)
        return fit(*arguments)

    monkeypatch.setattr(training_gate, "fit_affine", counting)
    stop = None
    whole, all_of_them = training_gate.fit(people), len(counted)
    after = int(share * all_of_them)
    for stop in (after, None):
        counted.clear()
        kept = Kept(tmp_path)
        if stop is None:
            found = training_gate.fit(people, kept=kept)
        else:
            with pytest.raises(KeyboardInterrupt):
                training_gate.fit(people, kept=kept)
    # A person's two turns are kept together.
    assert all_of_them - after <= len(counted) <= all_of_them - after + 1
    assert whole.keys() == found.keys()
    for name, values in whole.items():
        np.testing.assert_array_equal(values, found[name])
    counted.clear()
    training_gate.fit([brain(7), *people[1:]], kept=Kept(tmp_path))
    assert len(counted) == all_of_them, "other people have nothing in common with these"


def test_looks_are_kept_until_the_scan_changes(tmp_path, monkeypatch):
    read, seen = harmonize_scan.read, []
    monkeypatch.setattr(harmonize_scan, "read", lambda *of: seen.append(of) or read(*of))
    path = files.save(brain(0).volume, tmp_path / "a.nii.gz")
    both = {path: None, files.save(brain(2).volume, tmp_path / "b.nii.gz"): None}
    looks = [*training_gate.looks_of(both, Kept(tmp_path / "kept"))]
    again = [*training_gate.looks_of(both, Kept(tmp_path / "kept"))]
    assert len(seen) == 2
    for name in ("image", "flat", "mask", "matrix", "voxel_mm"):
        first, second = (getattr(one[0], name) for one in (looks, again))
        np.testing.assert_array_equal(first, second)
        assert np.asarray(first).dtype == np.asarray(second).dtype
    files.save(brain(1).volume, path)
    changed = [*training_gate.looks_of(both, Kept(tmp_path / "kept"))]
    assert len(seen) == 3 and not np.array_equal(changed[0].image, looks[0].image)


def judge(scan, statistics, result=None):
    checks = harmonize_gate.check_source(scan, statistics)
    return (*verdict(checks), checks)


# What passes --------------------------------------------------------------------------------------


def test_a_new_person_is_accepted(scan, statistics):
    checks = gate.gate(scan, scan, statistics)
    assert verdict(checks) == ("accepted", [])
    assert {"left and right of the source", "anatomy of the result", "noise of the result"} <= {
        c.name for c in checks
    }


@pytest.mark.parametrize(
    "domain",
    simulated_scanners.parse("gamma 1.5, gamma 0.75 + field 0.1 seed 3"),
    ids=lambda d: d.name,
)
def test_a_simulated_scanner_is_accepted_once_matched(domain, scan, statistics):
    target = matching.mean_quantiles(brain(seed) for seed in range(3))
    shown = domain(scan)
    result = shown.with_image(matching.match_histogram(shown, target))
    assert verdict(gate.gate(shown, result, statistics))[0] == "accepted"


@pytest.mark.parametrize("axes", ["LPS", "PSR"])
def test_the_order_of_voxels_does_not_matter(axes, scan, statistics):
    other = harmonize_scan.prepare(volumes.reorient(scan.original, axes))
    assert [c.value for c in harmonize_gate.check_source(other, statistics)] == pytest.approx(
        [c.value for c in harmonize_gate.check_source(scan, statistics)]
    )


def test_a_finer_grid_is_recognised_as_well(scan, statistics):
    finer, same = (
        {c.name: c for c in harmonize_gate.check_source(s, statistics)}
        for s in (brain(20, 1.5), scan)
    )
    for name in (
        "volume ml",
        "anatomy of the source",
        "white over grey in the source",
        "left and right of the source",
    ):
        assert finer[name].passed and finer[name].value == pytest.approx(same[name].value, rel=0.15)


def test_same_scan_same_figures(scan, statistics):
    assert harmonize_gate.check_source(scan, statistics) == harmonize_gate.check_source(
        scan, statistics
    )


# What is caught -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, words",
    [
        ("flipped front to back", "front to back"),
        ("flipped upside down", "upside down"),
        ("turned by 90 degrees, sagittal", "contradict the header|not recognised"),
    ],
)
def test_voxels_against_the_header(kind, words, scan, statistics):
    word, reasons, _ = judge(PLACEMENTS[kind](scan), statistics)
    assert word == "refused"
    assert re.search(words, " ".join(reasons))


def test_left_and_right(scan, statistics):
    right, wrong = (
        next(c for c in harmonize_gate.check_source(s, statistics) if c.name.startswith("left"))
        for s in (scan, flipped(scan, (2,)))
    )
    assert right.passed and not wrong.passed and "Left and right" in wrong.words
    # Alignment is to the mirror-symmetric mean, so the mirror image's figure is the negative one.
    assert wrong.value == pytest.approx(-right.value, abs=0.05)


def test_a_symmetric_brain_is_not_decided(scan, statistics):
    mirrored = flipped(scan, (2,))
    even = replace(
        scan.with_image((scan.image + mirrored.image) / 2), mask=scan.mask | mirrored.mask
    )
    check = next(
        c for c in harmonize_gate.check_source(even, statistics) if c.name.startswith("left")
    )
    assert (
        check.passed and "not decided" in check.words and check.value == pytest.approx(0, abs=0.05)
    )


def test_inverted_contrast_is_caught_though_its_histogram_matches(scan, statistics):
    t2 = CONTRASTS["contrast inverted"](scan, np.random.default_rng(0))
    matched = t2.with_image(matching.match_histogram(t2, matching.quantiles(scan)))
    quantile_error = np.abs(matching.quantiles(matched) - matching.quantiles(scan))
    assert quantile_error.mean() < 0.01
    for checks in (
        harmonize_gate.check_source(t2, statistics),
        harmonize_gate.check_result(t2, matched, statistics),
    ):
        word, reasons = verdict(checks)
        assert word == "refused" and "another contrast" in reasons[0]


def test_noise_and_other_sizes(scan, statistics):
    noise = CONTRASTS["noise in the shape of a brain"](scan, np.random.default_rng(0))
    assert judge(noise, statistics)[0] == "refused"
    box = harmonize_scan.prepare(
        Volume(np.random.default_rng(0).uniform(1, 2, (60, 70, 80)), np.diag([2.0, 2, 2, 1]), "box")
    )
    word, reasons, checks = judge(box, statistics)
    assert word == "refused" and "too large" in reasons[0] and len(checks) == 4
    small = replace(scan.original, ijk_to_ras=np.diag([0.8, 0.8, 0.8, 1.0]))
    word, reasons, checks = judge(harmonize_scan.prepare(small), statistics)
    assert word == "refused" and "too small" in reasons[0]


@pytest.mark.parametrize(
    "kind, figure",
    [
        ("noise, 20 % of white matter", "noise"),
        ("spike in the raw data, 4 %", "stripes"),
        ("top quarter cut off", "cut face"),
        ("two slices (4 mm) empty", "slice jump"),
        ("blurred, sigma 3 mm", "sharpness"),
        ("motion, 8 mm", "unevenness"),
        ("noise, 5 % of white matter", "unevenness"),
    ],
)
def test_artefacts(kind, figure, scan, statistics):
    shown = ARTEFACTS[kind](scan, np.random.default_rng(0))
    if (
        figure == "stripes"
    ):  # in so small a volume one spike hides among the frequencies of the folds
        shown = ARTEFACTS[kind](
            ARTEFACTS[kind](shown, np.random.default_rng(0)), np.random.default_rng(0)
        )
    word, _, checks = judge(shown, statistics)
    assert word != "accepted"
    clean = {c.name: c.passed for c in harmonize_gate.check_source(scan, statistics)}
    assert clean[f"{figure} of the source"] and f"{figure} of the source" in [
        c.name for c in checks if not c.passed
    ]


def test_a_result_that_lost_its_detail_is_flagged(scan, statistics):
    blurred = scan.with_image(ndimage.gaussian_filter(scan.image, 1.0) * scan.mask)
    failed = [
        c.name for c in harmonize_gate.check_result(scan, blurred, statistics) if not c.passed
    ]
    assert "sharpness of the result" in failed


def test_a_result_with_other_intensities_is_flagged(scan, statistics):
    dark = scan.with_image(scan.image * 0.5)
    failed = [c for c in harmonize_gate.check_result(scan, dark, statistics) if not c.passed]
    assert {c.name for c in failed} == {
        "histogram distance of the result",
        "histogram distance beside the source's",
    }
    word, reasons = verdict(failed)
    assert word == "flagged" and len(reasons) == 1 and "not bring the image closer" in reasons[0]


def test_a_result_further_from_the_target_than_its_source_is_never_accepted(scan, statistics):
    """Even where the result, looked at alone, might be one of the target's people."""
    own, limit = (
        harmonize_gate.Limits(statistics).normal("histogram distance")[1] * share
        for share in (0.6, 0.95)
    )
    checks = harmonize_gate._distance_checks(own, limit, harmonize_gate.Limits(statistics))
    assert [c.passed for c in checks] == [True, False]
    assert all(
        c.passed
        for c in harmonize_gate._distance_checks(limit, own, harmonize_gate.Limits(statistics))
    )


def test_resolution_and_noise_stand_beside_the_people_s(scan, statistics):
    random = np.random.default_rng(0)
    noisy = scan.with_image((scan.image + random.normal(0, 0.1, scan.image.shape)) * scan.mask)
    seen = [gate_figures.look(one) for one in (noisy, scan)]
    columns = figures.detail(*seen, statistics).columns
    assert columns["image"] == ["source", "harmonized", "target, median person"]
    assert columns["voxel (mm)"][:2] == [max(scan.original.spacing_mm)] * 2
    assert np.isnan(columns["voxel (mm)"][2]), "people may have any"
    assert columns["noise"][:2] == [one.quality["noise"] for one in seen]
    assert columns["noise"][0] > 1.5 * columns["noise"][2]
    people = harmonize_gate.Limits(statistics).column("sharpness")
    assert columns["sharpness"][2] == pytest.approx(np.median(people))


def test_a_distance_that_people_keep_is_no_worse_than_a_smaller_one(statistics):
    """They are as far from the others' mean without any scanner's doing."""
    limits = harmonize_gate.Limits(statistics)
    kept = np.sort(limits.column("histogram distance"))
    near, far = kept[0], np.quantile(kept, 0.9)
    for after, passed in ((0.99 * far, True), (1.01 * far, False)):
        checks = harmonize_gate._distance_checks(near, after, limits)
        assert checks[1].passed == passed


@pytest.mark.parametrize("bits, passed", [(2.0, True), (3.0, False), (1.0, False)])
def test_bits_are_judged_on_both_sides_by_held_out_people(bits, passed, scan, statistics):
    people = np.array([[0, 0, 0, v] for v in (0.1, 0.2, 1.9, 2.0, 2.1, 1.95, 2.05)], np.float32)
    flow = {"bits_per_dim": people, "held_out": np.array([0, 0, 1, 1, 1, 1, 1], np.float32)}
    check = harmonize_gate.check_result(scan, scan, {**statistics, **flow}, bits)[-1]
    assert (check.name, check.passed) == ("bits/dim of the result", passed)


# Rules and forms ----------------------------------------------------------------------------------


def test_statistics_are_named_arrays(statistics):
    assert all(
        name.isidentifier() and array.dtype == np.float32 for name, array in statistics.items()
    )
    assert (
        statistics["gate_figures"].shape == (10, len(FIGURES))
        and np.isfinite(statistics["gate_figures"]).all()
    )


def test_a_new_check_does_not_disable_models_made_before_it(scan, statistics, monkeypatch):
    """A file knows the figures that there were when it was made; the others are not judged."""
    before = harmonize_gate.check_source(scan, statistics)
    seen = gate_figures.look(scan)
    seen.quality["sparkle"] = 1e9
    monkeypatch.setattr(harmonize_gate, "FIGURES", (*FIGURES, "sparkle"))
    monkeypatch.setattr(harmonize_gate, "LOGARITHMIC", (*gate_figures.LOGARITHMIC, "sparkle"))
    words = {**harmonize_gate.QUALITY_WORDS, "sparkle": ("dull", "It sparkles.")}
    monkeypatch.setattr(harmonize_gate, "QUALITY_WORDS", words)
    monkeypatch.setitem(harmonize_gate.OTHER_SCANNERS, "sparkle", 1.0)
    old = {name: values for name, values in statistics.items() if name != "gate_version"}
    after = harmonize_gate.check_source(seen, old)
    assert [(c.name, c.passed) for c in after] == [(c.name, c.passed) for c in before]
    people = statistics["gate_figures"]
    sparkle = np.linspace(1, 2, len(people), dtype=np.float32)[:, None]
    new = {**statistics, "gate_figures": np.hstack([people, sparkle])}
    assert harmonize_gate.check_source(seen, new)[-1].words == "It sparkles."


def test_people_measured_in_another_way_are_not_compared(scan, statistics):
    other = {**statistics, "gate_version": np.array([gate_figures.VERSION + 1], np.float32)}
    (check,) = harmonize_gate.check_source(scan, other)
    assert not check.passed and "nothing was checked" in check.words


def test_everybody_learned_from_is_within_the_limits(statistics):
    limits = Limits(statistics)
    assert (limits.column("likeness") > limits.likeness()[0]).all() and (
        limits.column("asymmetry") > 0
    ).all()
    for name in FIGURES[8:]:
        low, high = limits.normal(name)
        assert ((limits.column(name) >= low) & (limits.column(name) <= high)).all()


def test_prediction_interval_holds_its_share():
    """Of normal figures, 0.1 % lie outside, whatever the number of people learned from."""
    rng = np.random.default_rng(0)
    outside = 0
    for _ in range(4000):
        figures = rng.normal(5, 2, 13)
        low, high = harmonize_gate.prediction(figures[:12])
        outside += not low <= figures[12] <= high
    assert outside <= 14  # 4 expected; more than 14 by chance in 1 of 30 000


def test_flattening_undoes_smooth_fields(scan):
    bent = simulated_scanners.parse("field 0.3")[0](scan)
    flat, other = (
        gate_figures.flattened(s.image * s.mask, s.mask)[scan.mask] for s in (scan, bent)
    )
    # On so small a brain the field is hardly smooth.
    assert 1 - np.corrcoef(flat, other)[0, 1] < 0.5 * (
        1 - np.corrcoef(scan.inside, bent.inside)[0, 1]
    )


@pytest.mark.parametrize("axis", range(3))
def test_repetition_is_the_correlation_at_the_ghost_s_distance(axis):
    """x + a x(shifted by a third) correlates by a / (1 + a^2) at a third and at two thirds.

    At a third this is over two thirds of the volume, at two thirds over one; all other distances
    are chance, next to nothing.
    """
    noise = np.random.default_rng(axis).normal(size=(60, 60, 60))
    full = np.ones(noise.shape, bool)
    near, distant, distances = 0.4 * np.sqrt(2 / 3), 0.4 * np.sqrt(1 / 3), 3 * 49
    found = gate_figures.repetition(noise + 0.5 * np.roll(noise, 20, axis), full)
    assert found == pytest.approx(near / np.sqrt((near**2 + distant**2) / distances), rel=0.03)
    assert gate_figures.repetition(noise, full) < 4.5


def test_handedness_is_fisher_s_discriminant():
    people = np.random.default_rng(0).normal(0.3, 1, (6, 2, 3, 2))
    flat = people.reshape(6, 12)
    scale = np.sqrt(flat.var(0) + 0.1 * flat.var(0).mean())
    whitened = flat / scale
    covariance = np.cov(whitened.T, bias=True)
    ridge = (
        harmonize_gate.RIDGE * np.trace(covariance) / 6
    )  # the mean variance over the six people that span it
    expected = np.linalg.solve(covariance + ridge * np.eye(12), whitened.mean(0)) / scale
    weights = training_gate._handed(people).ravel()
    assert weights / np.linalg.norm(weights) == pytest.approx(
        expected / np.linalg.norm(expected), abs=1e-6
    )
    assert weights @ flat.mean(0) == pytest.approx(1)


def test_verdicts():
    good, flag, bad = (
        Check("a", 0, 0, 1, passed, words, severity)
        for passed, words, severity in (
            (True, "fine", "refused"),
            (False, "look at it", "flagged"),
            (False, "wrong", "refused"),
        )
    )
    assert verdict([good]) == ("accepted", [])
    assert verdict([good, flag, flag]) == ("flagged", ["look at it"])
    assert verdict([flag, good, bad]) == ("refused", ["wrong", "look at it"])
    assert harmonize_gate.table([good, bad]).columns["passed"] == ["yes", "no, refused"]


def test_a_model_without_these_statistics_checks_nothing_and_says_so(scan):
    for checks in (
        harmonize_gate.check_source(scan, {}),
        harmonize_gate.check_result(scan, scan, {}),
    ):
        assert verdict(checks)[0] == "flagged" and "nothing was checked" in checks[0].words


def test_one_person_is_no_domain():
    with pytest.raises(ValueError, match="two people"):
        training_gate.fit([brain(0)])


@pytest.fixture
def little(monkeypatch):
    """One change of each sort."""
    for name in ("PLACEMENTS", "ARTEFACTS", "CONTRASTS"):
        monkeypatch.setattr(wrong_scans, name, dict(list(getattr(wrong_scans, name).items())[:1]))
    one = simulated_scanners.parse("gamma 1.5")
    monkeypatch.setattr(simulated_scanners, "parse", lambda: one)


def test_evaluation_in_folds(scan, little):
    summary, cases = gate.evaluate(
        {f"person {seed}": brain(seed) for seed in range(4)}, {}, {"box": scan}, 2
    )
    rows = dict(
        zip(
            summary.columns["kind"],
            zip(*(summary.columns[c] for c in ("cases", "accepted", "flagged", "refused"))),
        )
    )
    assert (
        rows["unchanged"][0] == 4
        and rows["flipped front to back"] == (4, 0, 0, 4)
        and rows["wrong files"][0] == 1
    )
    assert all(n == sum(parts) for n, *parts in rows.values()) and sum(
        r[0] for r in rows.values()
    ) == len(cases.columns["name"])
    assert gate.totals(summary)[1].endswith("of 4")


def test_an_evaluation_goes_on_where_it_was(tmp_path, little, monkeypatch):
    people, record = (
        {f"person {seed}": brain(seed) for seed in range(4)},
        tmp_path / "folder" / "cases.jsonl",
    )

    def run(seed=0):
        return gate.evaluate(people, {}, {}, 2, seed, record=record)

    judged = []
    check = Check("left and right", 0.1, -np.inf, 0.5, True, "not decided")
    monkeypatch.setattr(gate, "gate", lambda *images: judged.append(1) or [check])
    monkeypatch.setattr(training_gate, "fit_looks", lambda looks: {})
    whole = run()
    all_cases = len(judged)
    lines = record.read_text().splitlines()
    record.write_text("\n".join(lines[:4]) + "\n" + lines[4][:20])  # killed while it wrote
    judged.clear()
    assert run() == whole and len(judged) == all_cases - 3
    judged.clear()
    assert run() == whole and not judged
    run(seed=1)
    assert len(judged) == all_cases


# Real images --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(data):
    """Three people learned from, and one more, at 2 mm."""
    people = [gate.read(data / "brain_t1" / "site_a" / f"sub-{n:02d}.nii.gz") for n in range(3, 7)]
    return training_gate.fit(people[:3]), people[3]


def test_real_person_flips_and_contrasts(real, data):
    statistics, person = real
    assert verdict(gate.gate(person, person, statistics))[0] == "accepted"
    assert judge(flipped(person, (0,)), statistics)[0] == "refused"
    ghost = ARTEFACTS["ghost, 30 %"](
        person, np.random.default_rng(0)
    )  # generated brains repeat themselves anyway
    assert (
        gate_figures.look(ghost).quality["repetition"]
        > 1.5 * Limits(statistics).column("repetition").max()
    )
    for name, expected in (
        ("brain_multicontrast/patient07_T2", "another contrast"),
        ("mr_body/abdomen_slab", "too large"),
    ):
        word, reasons, _ = judge(gate.read(data / f"{name}.nii.gz"), statistics)
        assert word == "refused" and expected in reasons[0]
