"""The evaluation commands, on a cohort of small generated brains and on real ones."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import toy_brains
from scipy import ndimage

from NetInversionLib import cli
from NetInversionLib.core import files, results
from NetInversionLib.core.volumes import Volume
from NetInversionLib.evaluation import (
    comparison,
    gate,
    harmonize,
    two_scanners,
    visits,
    white_stripe,
)
from NetInversionLib.harmonize import matching, simulated_scanners
from NetInversionLib.harmonize import scan as harmonize_scan

FAST = "source,histogram*,Ny*,z-score"


def brain(seed, shape=(22, 26, 24), spacing=4.0, curve=lambda x: x, noise=0.02, grain=2):
    """Three tissues in a ball, in the intensities of an arbitrary scale.

    Each seed gives another anatomy.
    """
    rng = np.random.default_rng(seed)
    grids = np.meshgrid(*(np.linspace(-1.15, 1.15, n) for n in shape), indexing="ij")
    mask = sum(g**2 for g in grids) < 1
    pattern = ndimage.gaussian_filter(rng.normal(size=shape), grain)
    tissue = np.digitize(pattern, np.quantile(pattern[mask], (0.15, 0.6)))
    image = (
        curve(np.clip(np.array([0.25, 0.55, 0.85])[tissue] + rng.normal(0, noise, shape), 0.05, 1))
        * mask
    )
    volume = Volume(
        (image * 900).astype(np.float32), np.diag([spacing] * 3 + [1.0]), f"brain {seed}"
    )
    return volume, np.where(mask, tissue + 1, 0).astype(np.uint8)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Folders "target" (6 people), "source" (4) and "labels" of the source's tissues.

    The source is brighter by a curve.
    """
    root = tmp_path_factory.mktemp("cohort")
    for name in ("target", "source", "labels"):
        (root / name).mkdir()
    for n in range(6):
        files.save(brain(n)[0], root / "target" / f"sub-{n}.nii.gz")
    for n in range(4):
        volume, labels = brain(100 + n, curve=np.sqrt)
        files.save(volume, root / "source" / f"other-{n}.nii.gz")
        files.save(volume.with_array(labels), root / "labels" / f"other-{n}.nii.gz")
    return root


def fast_methods(target):
    return comparison.methods_of(target, wanted=FAST)


def test_people_by_patterns(cohort):
    names = [
        files.scan_name(p) for p in harmonize.find_people(cohort / "target", "sub-[0-2], sub-5")
    ]
    assert names == ["sub-0", "sub-1", "sub-2", "sub-5"]
    with pytest.raises(ValueError, match="holds sub-0, sub-1"):
        harmonize.find_people(cohort / "target", "sub-9")
    with pytest.raises(ValueError, match="no folder"):
        harmonize.find_people(cohort / "absent")


def test_methods_by_name():
    target = np.linspace(0, 1, 513)
    assert list(fast_methods(target)) == ["source", "histogram matching", "Nyúl", "z-score"]
    assert list(comparison.methods_of(target, wanted="N4*")) == [
        "source",
        "N4",
        "N4 + Nyúl",
        "N4 + histogram matching",
    ]


def test_a_method_that_knows_the_truth_is_perfect_and_the_source_is_not(cohort):
    path = harmonize.find_people(cohort / "target", "sub-0")
    truth = harmonize.read(path[0])
    methods = {
        "source": lambda scan: scan.image,
        "truth": lambda scan: truth.image,
        "off by 0.1": lambda scan: truth.image + np.float32(0.1),
    }
    table = harmonize.simulate(path, methods).columns
    assert list(dict.fromkeys(table["domain"])) == [d.name for d in simulated_scanners.parse()] + [
        "none"
    ]
    for domain, method, psnr, ssim, mae in zip(
        *(table[k] for k in ("domain", "method", "PSNR (dB)", "SSIM", "MAE"))
    ):
        if method == "truth" or (method, domain) == ("source", "none"):
            assert (psnr, mae) == (np.inf, 0) and ssim == pytest.approx(1)
        elif method == "source":
            assert 10 < psnr < 35 and ssim < 1
        else:
            assert psnr == pytest.approx(20, abs=0.01) and mae == pytest.approx(0.1, abs=1e-4)


def test_family_means_are_means_over_people(cohort):
    people = harmonize.find_people(cohort / "target", "sub-[0-1]")
    domains = simulated_scanners.parse("gamma 0.7, field 0.3, none")
    table = harmonize.simulate(people, fast_methods(np.linspace(0, 1, 513)), domains)
    means = harmonize.family_means(table).columns
    assert means["domain"] == [
        "gamma 0.7",
        "field 0.3 seed 1",
        "none",
        "mean",
        "mean of those with a field",
    ]
    c = table.columns
    rows = list(zip(c["PSNR (dB)"], c["domain"], c["method"]))
    nyul = {
        domain: [value for value, *where in rows if where == [domain, "Nyúl"]]
        for domain in means["domain"]
    }
    assert means["Nyúl"][:2] == pytest.approx(
        [np.mean(nyul["gamma 0.7"]), np.mean(nyul["field 0.3 seed 1"])]
    )
    assert means["Nyúl"][3:] == pytest.approx([np.mean(means["Nyúl"][:2]), means["Nyúl"][1]])
    assert all(len(values) == 2 for values in list(nyul.values())[:3])


def test_histogram_matching_undoes_curves_and_not_fields(cohort):
    people = harmonize.find_people(cohort / "target", "sub-5")
    others = harmonize.find_people(cohort / "target", "sub-[0-4]")
    target = matching.mean_quantiles(map(harmonize.read, others))
    means = harmonize.family_means(harmonize.simulate(people, fast_methods(target))).columns
    undone = dict(zip(means["domain"], means["histogram matching"]))
    assert np.ptp([undone[d] for d in ("gamma 0.7", "gamma 1.5", "log 3", "exp 1.5")]) < 1
    assert min(undone["gamma 0.7"], undone["none"]) > undone["field 0.3 seed 1"] + 3


def by_method(table):
    """A table's rows as dictionaries, by method."""
    return {
        name: {key: column[n] for key, column in table.columns.items()}
        for n, name in enumerate(table.columns["method"])
    }


def test_prospective_before_and_after(cohort):
    people, targets = (harmonize.find_people(cohort / name) for name in ("source", "target"))
    target = matching.mean_quantiles(map(harmonize.read, targets))
    found = two_scanners.prospective(
        people, targets, fast_methods(target), cohort / "labels", seeds=2
    )
    row, sites = by_method(found.means), by_method(found.sites)
    assert list(row) == ["target", "source", "histogram matching", "Nyúl", "z-score"]
    matched, source, own = row["histogram matching"], row["source"], row["target"]
    assert matched["Wasserstein"] < own["Wasserstein"] < source["Wasserstein"]
    assert list(sites) == ["chance", "source", "histogram matching", "Nyúl", "z-score"]
    for asked in ("histogram: trained anew", "histogram: trained on the source"):
        assert sites["source"][asked] == 1 and sites["histogram matching"][asked] < 0.9
    effects = [sites[name]["additive site effect (sd)"] for name in ("source", "Nyúl", "chance")]
    assert effects[0] > 10 > 3 > max(effects[1:])
    assert (
        abs(matched["white/grey contrast"] / own["white/grey contrast"] - 1)
        < 0.1
        < abs(source["white/grey contrast"] / own["white/grey contrast"] - 1)
    )
    assert (
        source["grey overlap"] > 0.95
        and source["edge agreement"] == pytest.approx(1)
        and source["slice score"] == 0
    )
    expected = [
        0.5 * (np.sqrt(b) - np.sqrt(a)) / (0.5 * (np.sqrt(b) + np.sqrt(a)))
        for a, b in ((0.55, 0.85), (0.25, 0.55))
    ]
    assert (source["white/grey in labels"], source["grey/CSF in labels"]) == pytest.approx(
        expected, rel=0.03
    )
    assert np.isnan(own["white/grey in labels"])
    assert len(found.people.columns["person"]) == 6 + 4 * 4
    kept = found.kept.columns
    assert len(kept["method"]) == 2 * 4
    assert np.isnan(kept["correlation"]).all(), "all have as large ventricles here"
    for shares in found.histograms.values():
        assert shares.sum() == pytest.approx(1)


def test_sessions_of_a_person_stay_together(tmp_path):
    """Ten people of one scanner have two scans each.

    A probe that knows a person's other scan would tell the 'sites'.
    """
    for n in range(10):
        volume, _ = brain(n)
        for session in range(2):
            noise = (
                np.random.default_rng([n, session]).normal(0, 4, volume.shape).astype(np.float32)
            )
            seen = volume.with_array(
                np.where(volume.array > 0, np.maximum(volume.array + noise, 1), 0)
            )
            files.save(seen, tmp_path / f"sub-{n}_ses-{session}_T1w.nii.gz")
    paths = harmonize.find_people(tmp_path)
    methods = {"source": lambda scan: scan.image}
    found = two_scanners.prospective(paths[:10], paths[10:], methods)
    told = by_method(found.sites)["source"]
    assert told["histogram: trained anew"] <= 0.65
    assert told["histogram and texture: trained anew"] <= 0.65
    assert found.kept is None
    table = found.people
    assert (
        set(table.columns["person"]) == {f"sub-{n}" for n in range(10)}
        and len(set(table.columns["scan"])) == 20
    )
    own = dict(zip(table.columns["scan"], table.columns["Wasserstein"]))
    q = np.array([matching.quantiles(harmonize.read(p)) for p in paths[10:]])
    assert own["sub-5_ses-1_T1w"] == pytest.approx(
        np.abs(q[1] - q[2:].mean(axis=0)).mean(), rel=0.02
    )


def test_a_person_s_other_session_is_no_target_and_counts_no_person(tmp_path, capsys):
    for name, seed in (
        ("sub-1_ses-1", 1),
        ("sub-1_ses-2", 1),
        ("sub-2_ses-1", 2),
        ("sub-3_ses-1", 3),
    ):
        files.save(brain(seed)[0], tmp_path / f"{name}.nii.gz")
    line = ["evaluate", "harmonize", str(tmp_path), "--simulate", "gamma 0.7", "--methods", "hist*"]
    assert cli.main([*line, "--people", "sub-1_ses-1,sub-2*"]) == 0
    printed = capsys.readouterr()
    assert "target: 1 people" in printed.err and "mean over 2 people" in printed.out
    assert cli.main([*line, "--people", "*_ses-1"]) == 1
    assert "nobody is left to learn the target from" in capsys.readouterr().err


def test_a_mean_over_people_counts_each_once():
    rows = [
        ("a", "a_1", "none", "source", 1.0),
        ("a", "a_2", "none", "source", 3.0),
        ("b", "b_1", "none", "source", 8.0),
    ]
    table = results.table_of_rows("", ["person", "scan", "domain", "method", "MAE"], rows)
    assert harmonize.family_means(table, "MAE").columns["source"] == [5.0]


def moved(volume, degrees, shift_mm):
    """The same head lying otherwise in the scanner: voxels stay, their place changes."""
    a = np.deg2rad(degrees)
    turn = np.array(
        [
            [np.cos(a), -np.sin(a), 0, shift_mm[0]],
            [np.sin(a), np.cos(a), 0, shift_mm[1]],
            [0, 0, 1, shift_mm[2]],
            [0, 0, 0, 1],
        ]
    )
    return replace(volume, ijk_to_ras=turn @ volume.ijk_to_ras)


def test_align_finds_a_known_movement():
    volume, _ = brain(1, shape=(30, 34, 32), spacing=3.0)
    other = moved(volume, 6, (5, -4, 3))
    found = visits.rigid_transform(volume, other)
    back = visits.move(other, found, volume, "linear", 0)
    inside = ndimage.binary_erosion(volume.array > 0, iterations=2)
    assert np.abs(back.array - volume.array)[inside].mean() < 0.1 * volume.array[inside].std()


def test_visits_are_as_far_apart_as_their_curve_makes_them():
    """The same head is moved and seen through a curve.

    What is left after histogram matching is interpolation.
    """
    volume, _ = brain(1, shape=(30, 34, 32), spacing=3.0)
    second = moved(brain(1, shape=(30, 34, 32), spacing=3.0, curve=np.sqrt)[0], 4, (3, 2, -2))
    target = matching.quantiles(harmonize_scan.prepare(brain(2)[0]))
    table = visits.repeatability(volume, second, fast_methods(target)).columns
    difference = dict(zip(table["method"], table["mean absolute difference"]))
    assert difference["histogram matching"] < 0.5 * difference["source"]
    robust = dict(zip(table["method"], table["in interquartile ranges"]))
    assert (
        robust["histogram matching"] < robust["source"] == pytest.approx(robust["z-score"], rel=0.1)
    )
    again = visits.repeatability(volume, second, fast_methods(target)).columns
    assert again == table


def test_a_mask_beside_an_image_is_its_mask_and_no_person(tmp_path):
    """For both evaluations, as for the trainings."""
    image = toy_brains.brain(0)
    mask = np.zeros(image.array.shape, np.uint8)
    mask[12:-12, 14:-14, 12:-12] = 1
    for folder in ("masked", "alone"):
        (tmp_path / folder).mkdir()
        files.save(image, tmp_path / folder / "sub-0.nii.gz")
    files.save(image.with_array(mask), tmp_path / "masked" / "sub-0_mask.nrrd")
    people = harmonize.find_people(tmp_path / "masked")
    assert people == [tmp_path / "masked" / "sub-0.nii.gz"]
    assert 0 < harmonize.read(people[0]).mask.sum() <= mask.sum() < (image.array > 0).sum()
    masked, alone = (
        gate.read_all([tmp_path / folder], log=pytest.fail) for folder in ("masked", "alone")
    )
    assert list(masked) == ["masked/sub-0.nii.gz"] and list(alone) == ["alone/sub-0.nii.gz"]
    assert masked.popitem()[1].mask.sum() < alone.popitem()[1].mask.sum()


def test_command_on_simulated_scanners(cohort, tmp_path, capsys):
    line = [
        "evaluate",
        "harmonize",
        str(cohort / "target"),
        "--simulate",
        "gamma 0.7, none",
        "--people",
        "sub-[45]",
        "--methods",
        FAST,
        "--output",
        str(tmp_path / "out"),
    ]
    assert cli.main(line) == 0
    printed = capsys.readouterr()
    assert "mean over 2 people" in printed.out and "target: 4 people" in printed.err
    with open(tmp_path / "out" / "simulated_people.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 4 and {r["person"] for r in rows} == {"sub-4", "sub-5"}
    for name in ("PSNR", "SSIM", "MAE"):
        assert (tmp_path / "out" / f"simulated_{name}.csv").is_file()
        assert (tmp_path / "out" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_command_on_two_scanners(cohort, tmp_path, capsys):
    line = [
        "evaluate",
        "harmonize",
        "--prospective",
        str(cohort / "source"),
        str(cohort / "target"),
        "--methods",
        "histogram*",
        "--labels",
        str(cohort / "labels"),
        "--output",
        str(tmp_path),
    ]
    assert cli.main(line) == 0
    printed = capsys.readouterr().out
    assert "told apart" in printed and "ventricles' share" in printed
    assert "WhiteStripe" not in printed, "it was not asked for"
    assert {p.name for p in tmp_path.iterdir() if p.is_file()} == {
        "histograms.png",
        "prospective.csv",
        "prospective_kept.csv",
        "prospective_people.csv",
        "prospective_sites.csv",
    }


def test_a_method_whose_package_is_missing_has_a_row_that_says_so(monkeypatch):
    table = results.table_of_rows("Two", ["method", "Wasserstein"], [("source", 0.1)])
    monkeypatch.setattr(white_stripe, "installed", lambda: False)
    rows = comparison.with_absent(table, "*").columns
    assert "not installed" in rows["method"][1] and np.isnan(rows["Wasserstein"][1])
    assert comparison.with_absent(table, "hist*") is table
    assert "WhiteStripe" not in comparison.methods_of(np.linspace(0, 1, 513))
    with pytest.raises(ValueError, match="pip install intensity-normalization"):
        white_stripe.white_stripe(np.linspace(0, 1, 513))


@pytest.mark.skipif(not white_stripe.installed(), reason="intensity-normalization is not there")
def test_the_package_s_methods_undo_a_scale_and_agree_with_ours():
    from intensity_normalization import NyulNormalizer, create_image

    volume, _ = brain(3)
    scan = harmonize_scan.prepare(volume)
    target = 0.7 * matching.quantiles(scan) + 0.1
    method = comparison.methods_of(target, wanted="WhiteStripe")["WhiteStripe"]
    inside = scan.mask
    np.testing.assert_allclose(method(scan)[inside], 0.7 * scan.inside + 0.1, atol=0.01)

    package = NyulNormalizer()
    stand_in = np.interp(np.linspace(0, 1, 20001), matching.FRACTIONS, target)[None, None]
    package.fit_population([create_image(stand_in)], [create_image(np.ones_like(stand_in))])
    theirs = package.transform(create_image(scan.image), create_image(inside.astype(np.float32)))
    low, high = np.percentile(stand_in, (1, 99))
    theirs = (theirs.get_data() - 1) / 99 * (high - low) + low
    ours = matching.match_landmarks(scan, target)
    np.testing.assert_allclose(ours[inside], theirs[inside].clip(0, 1.3), atol=0.002)


def test_command_on_two_visits(cohort, tmp_path, capsys):
    one, other = brain(1)[0], moved(brain(1, curve=np.sqrt)[0], 2, (2, 1, 0))
    for name, volume in (
        ("first", one),
        ("second", other),
        ("mask", one.with_array((one.array > 0).astype(np.uint8))),
    ):
        files.save(volume, tmp_path / f"{name}.nii.gz")
    line = [
        "evaluate",
        "harmonize",
        str(cohort / "target"),
        "--visits",
        str(tmp_path / "first.nii.gz"),
        str(tmp_path / "second.nii.gz"),
        "--mask",
        str(tmp_path / "mask.nii.gz"),
        "--methods",
        FAST,
    ]
    assert cli.main(line) == 0
    assert "mean absolute difference" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line, says",
    [
        ([], "say what to evaluate"),
        (["--simulate"], "needs the folder"),
        (["absent", "--simulate"], "no folder absent"),
        (["FOLDER", "--simulate", "gamma"], "no simulated domain"),
        (["FOLDER", "--simulate", "--people", "nobody"], "holds sub-0"),
        (["FOLDER", "--simulate", "none", "--visits", "a", "b"], "say what to evaluate"),
    ],
)
def test_wrong_command_lines_say_what_to_do(line, says, cohort, capsys):
    assert (
        cli.main(
            [
                "evaluate",
                "harmonize",
                *(str(cohort / "target") if word == "FOLDER" else word for word in line),
            ]
        )
        == 1
    )
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error


def test_real_scanners(data):
    """The second scanner's two batches as they come: apart before, together after matching."""
    folder = data / "brain_t1" / "site_b"
    targets = harmonize.find_people(folder, "ixi07*,ixi136*,ixi15*")
    people = harmonize.find_people(folder, "ixi012*,ixi014*")
    target = matching.mean_quantiles(map(harmonize.read, targets))
    methods = comparison.methods_of(target, wanted="histogram*")
    found = two_scanners.prospective(
        people, targets, methods, data / "brain_t1" / "site_b_labels", seeds=2
    )
    c = found.means.columns
    assert c["Wasserstein"][2] < 0.2 * c["Wasserstein"][1] and min(c["white overlap"][1:]) > 0.6
    assert min(c["edge agreement"][1:]) > 0.95
