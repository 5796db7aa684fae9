"""Training and evaluation of the reference network, on CT that is drawn here and on real CT."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from NetInversionLib import cli, models
from NetInversionLib.core import files
from NetInversionLib.core.progress import Progress
from NetInversionLib.core.volumes import Volume
from NetInversionLib.evaluation import synthetic_ct as evaluation_synthetic_ct
from NetInversionLib.training import people as training_people
from NetInversionLib.training import synthetic_ct
from NetInversionLib.training.synthetic_ct import SyntheticCTSettings

TINY = SyntheticCTSettings(
    steps=6, batch=2, patch=32, features=(4, 8), views=2, checkpoint_every=2, bf16_share=0.5
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def generated_ct(seed, slices=4, size=(56, 64)) -> Volume:
    """An elliptic body with fat outside, muscle, a bone ring with marrow, gas, and CT noise.

    Voxels have 3 mm, and axes are RAS.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]].astype(float)
    hu = np.full((slices, *size), -1000.0)
    for k in range(slices):
        a, b = rng.uniform(24, 29), rng.uniform(20, 25)
        r = np.hypot((x - size[1] / 2) / a, (y - size[0] / 2) / b)
        hu[k][r < 1] = -100
        hu[k][r < 0.8] = 60
        spine = np.hypot(x - size[1] / 2 + rng.uniform(-4, 4), y - 0.7 * size[0])
        hu[k][spine < 7] = 900
        hu[k][spine < 5] = 220
        hu[k][np.hypot(x - 22, y - 20) < 4] = -1000
    hu += rng.normal(0, 10, hu.shape)
    return Volume(hu.astype(np.int16), np.diag([3.0, 3.0, 5.0, 1.0]), f"generated {seed}", "HU")


@pytest.fixture(scope="module")
def scans():
    return [synthetic_ct.prepare(generated_ct(n), f"ct{n}", f"person{n // 2}") for n in range(4)]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "ct").mkdir()
    for n in range(3):
        files.save(generated_ct(n), tmp_path / "ct" / f"ct{n}.nii.gz")
    return tmp_path / "ct"


class Recorder(Progress):
    def __init__(self):
        self.losses, self.lines = [], []

    def point(self, curve, x, y):
        self.losses.append(y)

    def log(self, message):
        self.lines.append(message)


# -- scans and people ------------------------------------------------------------------------------


def test_prepare_turns_cuts_and_clips():
    ct = generated_ct(0)
    ct.array[:, 30, 30] = 3000
    scan = synthetic_ct.prepare(ct, "a", "b")
    assert scan.spacing_mm == (3.0, 3.0, 5.0) and scan.hu.shape == scan.body.shape
    assert scan.hu.max() == 2000 and scan.hu.min() == -1000
    assert np.all(scan.hu[~scan.body] == -1000)
    # The body touches every border: nothing but air was cut off.
    assert all(
        scan.body.any(0)[edge].any() for edge in ((0,), (-1,), (slice(None), 0), (slice(None), -1))
    )
    # j rises toward posterior in LPS and toward anterior in the file: the spine, far in the file,
    # comes to lie near.
    gas, bone = (
        ((scan.hu[0] < -900) & scan.body[0]).nonzero()[0].mean(),
        (scan.hu[0] > 500).nonzero()[0].mean(),
    )
    assert bone < gas


def test_air_is_refused():
    with pytest.raises(ValueError, match="no body"):
        synthetic_ct.prepare(Volume(np.full((3, 20, 20), -1000), np.eye(4), "air"), "air", "nobody")


def test_resampling_keeps_extent_and_mean(scans):
    finer, coarser = (synthetic_ct.resampled(scans[0], s) for s in (1.5, 6.0))
    for scan in (finer, coarser):
        assert scan.hu.shape[0] == scans[0].hu.shape[0] and scan.spacing_mm[2] == 5.0
        assert scan.hu.mean() == pytest.approx(scans[0].hu.mean(), abs=25)
    assert finer.hu.shape[1] == 2 * scans[0].hu.shape[1]
    one = synthetic_ct.resampled(scans[0], 1.5, slice(2, 3))
    # Up to the rounding of a mean of values up to 3000 HU: one slice may be averaged in another
    # order than three.
    np.testing.assert_allclose(
        one.hu[0], finer.hu[2], rtol=0, atol=4 * 3000 * np.finfo(np.float32).eps
    )


def test_people_of_known_names_of_others_and_of_a_table(tmp_path):
    for name in (
        "pelvis.nii.gz",
        "abdomen_slab.nii.gz",
        "a.nrrd",
        "b.mha",
        "a_labels.nii.gz",
        "notes.txt",
    ):
        (tmp_path / name).touch()
    people = {p.name: who for p, who in training_people.read_people(tmp_path).items()}
    assert people == {
        "pelvis.nii.gz": "pelvis",
        "abdomen_slab.nii.gz": "pelvis",
        "a.nrrd": "a",
        "b.mha": "b",
    }
    (tmp_path / "people.csv").write_text("file,person\na.nrrd,anna\nb,anna\n")
    assert {p.name: w for p, w in training_people.read_people(tmp_path).items()} == {
        "a.nrrd": "anna",
        "b.mha": "anna",
    }
    (tmp_path / "people.csv").write_text("file,person\nc.nrrd,anna\n")
    with pytest.raises(ValueError, match="not in the folder: c"):
        training_people.read_people(tmp_path)
    with pytest.raises(ValueError, match="no CT volume"):
        training_people.read_people(tmp_path / "absent")


# -- training --------------------------------------------------------------------------------------


def test_batches_depend_on_seed_and_step_only(scans):
    seen, twice = (synthetic_ct.see(scans, TINY) for _ in range(2))
    assert all(np.array_equal(a.images, b.images) for a, b in zip(seen, twice))
    first, again, later = (synthetic_ct.draw_batch(seen, TINY, step) for step in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, again)) and not torch.equal(
        first[0], later[0]
    )
    inputs, targets = first
    assert inputs.shape == (2, 3, 32, 32) and targets.shape == (2, 1, 32, 32)
    assert inputs.min() >= 0 and inputs.max() < 1.3 and 0 <= targets.min() and targets.max() <= 1
    assert torch.isfinite(inputs).all()


def test_pieces_are_drawn_by_the_root_of_their_slices(scans):
    """Neither the longest scan nor the many short ones fill the batches."""
    image = np.zeros((4, 9, 32, 32), np.float16)
    wanted = np.zeros((9, 32, 32), bool)
    long, short = (
        synthetic_ct.Seen("a", image + np.float16(hu), wanted, np.arange(n))
        for hu, n in ((0.0, 9), (0.25, 1))
    )
    settings = replace(TINY, batch=4000)
    targets = synthetic_ct.draw_batch([long, short], settings, 0)[1][:, 0, 0, 0]
    assert (targets == 0.25).float().mean() == pytest.approx(1 / 4, abs=4 * 0.5 / 4000**0.5)


def test_interrupted_training_ends_with_the_same_weights(scans, tmp_path):
    class Stop(Progress):
        def report(self, fraction, message):
            if fraction >= 0.5:
                raise KeyboardInterrupt

    whole = synthetic_ct.train(scans, tmp_path / "whole.safetensors", TINY)
    with pytest.raises(KeyboardInterrupt):
        synthetic_ct.train(scans, tmp_path / "cut.safetensors", TINY, tmp_path / "state", Stop())
    assert not (tmp_path / "cut.safetensors").exists()
    recorder = Recorder()
    cut = synthetic_ct.train(
        scans, tmp_path / "cut.safetensors", TINY, tmp_path / "state", recorder
    )
    assert "goes on from step 3 of 6" in recorder.lines[0] and len(recorder.losses) == 3
    assert whole.read_bytes() == cut.read_bytes()


def test_checkpoint_of_another_training_is_refused(scans, tmp_path):
    synthetic_ct.train(scans, tmp_path / "a.safetensors", TINY, tmp_path / "state")
    for other in (replace(TINY, seed=1), replace(TINY, features=(4, 6))):
        with pytest.raises(ValueError, match="other settings"):
            synthetic_ct.train(scans, tmp_path / "b.safetensors", other, tmp_path / "state")
    with pytest.raises(ValueError, match="other settings"):
        synthetic_ct.train(scans[1:], tmp_path / "b.safetensors", TINY, tmp_path / "state")


def test_a_training_begins_with_another_networks_weights(scans, tmp_path):
    """At a learning rate of next to nothing they stay; who taught them counts as trained on."""
    first = synthetic_ct.train(scans[:2], tmp_path / "first.safetensors", TINY)
    start, still = models.load(first), replace(TINY, learning_rate=1e-12, seed=1)
    path = tmp_path / "then.safetensors"
    model = models.load(synthetic_ct.train(scans[2:3], path, still, start=start))
    assert model.card.trained_on == ("ct0", "ct1", "ct2")
    assert start.sha256[:16] in model.card.training["begun with"]
    for name, weight in start.network.state_dict().items():
        torch.testing.assert_close(model.network.state_dict()[name], weight, rtol=0, atol=1e-6)
    other = replace(TINY, features=(4, 6))
    with pytest.raises(ValueError, match="other layers"):
        synthetic_ct.train(scans, path, other, start=start)


def test_training_lowers_the_loss(scans, tmp_path):
    recorder = Recorder()
    settings = replace(TINY, steps=100, batch=4, features=(8, 16), learning_rate=5e-3)
    model = models.verify(
        synthetic_ct.train(scans, tmp_path / "a.safetensors", settings, progress=recorder)
    )
    assert np.mean(recorder.losses[-8:]) < 0.6 * np.mean(recorder.losses[:4])
    assert (
        model.card.trained_on == ("ct0", "ct1", "ct2", "ct3")
        and model.card.spacing_mm == settings.spacing_mm
    )
    assert "SIMULATED" in model.card.intended_use and [c.role for c in model.card.inputs] == [
        "in_phase",
        "fat_fraction",
        "water_fraction",
    ]


# -- evaluation ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(scans, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "without-person1.safetensors"
    torch.set_num_threads(1)
    return models.load(synthetic_ct.train([s for s in scans if s.person == "person0"], path, TINY))


def rows_of(table):
    _, _, scans, predictors, *figures = table.columns.values()
    return {
        (s, p): dict(zip(evaluation_synthetic_ct.COLUMNS[4:], f))
        for s, p, *f in zip(scans, predictors, *figures)
    }


def test_only_people_left_out_are_evaluated(scans, trained):
    table = evaluation_synthetic_ct.evaluate(scans, [trained])
    assert set(table.columns["person"]) == {"person1", "all"} and set(
        table.columns["scan"][:-1]
    ) >= {"ct2", "ct3"}
    assert len({len(c) for c in table.columns.values()}) == 1
    rows = rows_of(table)
    for name in set(table.columns["predictor"]):
        for column in evaluation_synthetic_ct.COLUMNS[4:]:
            mean = (rows["ct2", name][column] + rows["ct3", name][column]) / 2
            assert rows["mean over people", name][column] == pytest.approx(mean)


def test_constant_predictor_in_closed_form(scans, trained):
    fit = [evaluation_synthetic_ct.make_case(s) for s in scans if s.person == "person0"]
    median = np.median(np.concatenate([c.hu[c.scan.body] for c in fit]))
    case = evaluation_synthetic_ct.make_case(scans[2])
    body, bone = case.scan.body, case.scan.body & (case.hu > 200)
    row = rows_of(evaluation_synthetic_ct.evaluate(scans, [trained]))["ct2", "constant"]
    assert row["MAE in the body (HU)"] == pytest.approx(
        np.abs(case.hu[body] - median).mean(), rel=1e-5
    )
    assert row["MAE in bone (HU)"] == pytest.approx(np.abs(case.hu[bone] - median).mean(), rel=1e-5)
    assert row["mean error in bone (HU)"] == pytest.approx(
        (median - case.hu[bone]).mean(), rel=1e-5
    )


def test_look_up_and_regression_against_others(scans, trained):
    """Medians of the voxels themselves, and numpy's least squares, over all voxels at once."""
    cases = [evaluation_synthetic_ct.make_case(s, seed=n) for n, s in enumerate(scans[:2])]
    counts = [evaluation_synthetic_ct.Counts.of(c, trained) for c in cases]
    values = np.concatenate([evaluation_synthetic_ct._normalised(c, trained) for c in cases], 1)
    hu = np.concatenate([c.hu.ravel() for c in cases])
    cells = evaluation_synthetic_ct._cells(values)
    found = evaluation_synthetic_ct._voxelwise(counts, trained)(cases[0]).ravel()
    own = cells[: found.size]
    for cell in np.unique(own)[:: max(1, len(np.unique(own)) // 50)]:
        low, high = (np.percentile(hu[cells == cell], 50, method=m) for m in ("lower", "higher"))
        inside = found[own == cell]
        assert np.all((inside > low - 5.01) & (inside < high + 5.01))
    design = np.stack([np.ones_like(hu), *values], 1)
    weights = np.linalg.lstsq(design.astype(np.float64), hu.astype(np.float64), rcond=None)[0]
    expected = (design @ weights)[: found.size].clip(-1000, 2000)
    line = evaluation_synthetic_ct._linear(counts, trained)(cases[0]).ravel()
    np.testing.assert_allclose(line, expected, atol=0.5)


def test_people_below_the_look_up_are_counted():
    rows = [
        ("m", person, scan, name, body, bone, 0.0)
        for person, scan, name, body, bone in (
            ("a", "a1", "network", 10.0, 90.0),
            ("a", "a2", "network", 30.0, 90.0),
            ("a", "a1", "voxel by voxel", 21.0, 80.0),
            ("a", "a2", "voxel by voxel", 21.0, 80.0),
            ("b", "b", "network", 22.0, 70.0),
            ("b", "b", "voxel by voxel", 21.0, 80.0),
            ("all", "mean over people", "network", 1.0, 1.0),
        )
    ]
    columns = dict(zip(evaluation_synthetic_ct.COLUMNS, map(list, zip(*rows))))
    table = evaluation_synthetic_ct.Table("t", columns)
    assert list(evaluation_synthetic_ct.below(table).values()) == [(1, 2), (1, 2)]


def test_perfect_network_has_no_error(scans, trained):
    case = evaluation_synthetic_ct.make_case(scans[0])
    assert evaluation_synthetic_ct._errors(case, case.hu) == (0, 0, 0)
    assert evaluation_synthetic_ct._errors(case, case.hu + 10) == pytest.approx(
        (10, 10, 10), abs=1e-3
    )


def test_voxelwise_predictor_beats_the_constant(scans, trained):
    rows = rows_of(evaluation_synthetic_ct.evaluate(scans, [trained]))
    for column in ("MAE in the body (HU)", "MAE in bone (HU)"):
        assert (
            rows["mean over people", "voxel by voxel"][column]
            < 0.5 * rows["mean over people", "constant"][column]
        )


def test_prediction_is_in_hounsfield_units(scans, trained):
    case = evaluation_synthetic_ct.make_case(scans[0])
    images = trained.as_images(list(case.images))
    output = trained(trained.normalise_tensor(images, trained.scalings_of(images)))
    expected = output[:, 0].numpy() * 3000 - 1000
    np.testing.assert_allclose(
        evaluation_synthetic_ct.predictor(trained)(case), expected, rtol=1e-4, atol=0.05
    )


def test_nobody_left_out(scans, tmp_path):
    model = models.load(
        synthetic_ct.train(scans, tmp_path / "all.safetensors", replace(TINY, steps=1))
    )
    with pytest.raises(ValueError, match="--leave-out"):
        evaluation_synthetic_ct.evaluate(scans, [model])


# -- the command line ------------------------------------------------------------------------------


def test_train_evaluate_and_record(folder, tmp_path, capsys):
    out = tmp_path / "without-ct1.safetensors"
    line = [
        "train",
        "synthetic-ct",
        str(folder),
        "--leave-out",
        "ct1",
        "--output",
        str(out),
        "--steps",
        "2",
    ]
    assert cli.main([*line, "--threads", "1"]) == 0
    assert models.read_card(out).trained_on == ("ct0", "ct2")
    line = ["evaluate", "synthetic-ct", str(folder), "--model", str(out)]
    line += ["--output", str(tmp_path / "table")]
    assert cli.main([*line, "--record", str(out)]) == 0
    printed = capsys.readouterr().out
    table = json.loads((tmp_path / "table" / "evaluation.json").read_text())
    lines = list(csv.DictReader(open(tmp_path / "table" / "evaluation.csv", newline="")))
    assert [r["scan"] for r in lines] == table["columns"]["scan"]
    assert all(
        math.isclose(float(r["MAE in bone (HU)"]), v)
        for r, v in zip(lines, table["columns"]["MAE in bone (HU)"])
    )
    quality = models.read_card(out).quality
    mean = table["columns"]["MAE in the body (HU)"][
        table["columns"]["scan"].index("mean over people")
    ]
    assert (
        quality["network: MAE in the body (HU)"] == round(mean, 1) and "voxel by voxel" in printed
    )


def test_leaving_out_a_stranger(folder, tmp_path, capsys):
    line = [
        "train",
        "synthetic-ct",
        str(folder),
        "--leave-out",
        "nobody",
        "--output",
        str(tmp_path / "a.safetensors"),
    ]
    assert cli.main(line) == 1
    assert "people there: ct0, ct1, ct2" in capsys.readouterr().err


# -- real CT and the models that are shipped -------------------------------------------------------


def test_one_person_in_the_data_has_two_scans(data):
    people = {p.name: who for p, who in training_people.read_people(data / "ct").items()}
    assert people["pelvis.nii.gz"] == people["abdomen_slab.nii.gz"]
    assert people["chest_b70f.nii.gz"] == people["chest_b40f.nii.gz"]
    assert len(set(people.values())) == 3


ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ROOT / "Resources" / "Models" / "dixon-to-synthetic-ct.safetensors"
VOLUMES = {
    f"{person}_3mm": person
    for person in (
        "acrin_flt_001",
        "acrin_flt_013",
        "cptac_pda_00189",
        "lung_fused_0001",
        "rider_0117",
    )
}
SCANS = {**training_people.KNOWN_PEOPLE, **VOLUMES}
HELD_OUT = {
    p: ROOT / "Testing" / "models" / f"synthetic-ct-without-{p}.safetensors"
    for p in sorted(set(SCANS.values()))
}

FURTHER = {p: path.parent / "second" / path.name for p, path in HELD_OUT.items()}
KEPT = [SHIPPED, *HELD_OUT.values(), *FURTHER.values()]


@pytest.mark.parametrize("path", KEPT, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_models_in_the_repository_are_whole_and_say_what_they_are(path):
    card = models.verify(path).card
    assert path.stat().st_size < 2e6
    assert (
        card.licence == "MIT" and "SIMULATED" in card.intended_use and "CC BY 4.0" in card.sources
    )
    assert (
        card.quality["network: MAE in the body (HU)"]
        < card.quality["voxel by voxel: MAE in the body (HU)"]
    )
    assert (
        card.quality["network: MAE in bone (HU)"] < card.quality["voxel by voxel: MAE in bone (HU)"]
    )
    assert sum(name.endswith(": MAE in bone (HU)") for name in card.quality) == 8 + 5


def test_models_were_trained_on_whom_they_say():
    everyone = set(SCANS)
    assert set(models.read_card(SHIPPED).trained_on) == everyone
    for person, path in (*HELD_OUT.items(), *FURTHER.items()):
        own = {scan for scan, who in SCANS.items() if who == person}
        assert set(models.read_card(path).trained_on) == everyone - own


def check_against_record(scan, table, trained):
    """The figures in Resources/Docs are what the model in the repository gives.

    The person is one that the model has not seen.
    """
    with open(
        ROOT / "Resources" / "Docs" / "synthetic-ct" / table, newline="", encoding="utf-8"
    ) as file:
        row = next(
            r for r in csv.DictReader(file) if (r["scan"], r["predictor"]) == (scan.name, "network")
        )
    case = evaluation_synthetic_ct.make_case(scan)
    found = evaluation_synthetic_ct._errors(
        case, evaluation_synthetic_ct.predictor(models.load(trained[scan.person]))(case)
    )
    assert found == pytest.approx(
        [float(row[c]) for c in evaluation_synthetic_ct.COLUMNS[4:]], abs=0.1
    )


def test_recorded_figures_on_real_ct(data):
    path = data / "ct" / "abdomen_slab.nii.gz"
    scan = synthetic_ct.prepare(files.load(path), "abdomen_slab", "pelvis")
    check_against_record(scan, "evaluation.csv", HELD_OUT)
    check_against_record(scan, "evaluation-further.csv", FURTHER)


def test_network_on_generated_ct(scans):
    # A person as drawn here was in nobody's training: the network must still do better than the
    # best constant.
    case = evaluation_synthetic_ct.make_case(scans[0])
    mae, bone, _ = evaluation_synthetic_ct._errors(
        case, evaluation_synthetic_ct.predictor(models.load(SHIPPED))(case)
    )
    constant = evaluation_synthetic_ct._errors(
        case, evaluation_synthetic_ct._constant([case.hu[case.scan.body]])(case)
    )
    assert mae < 0.6 * constant[0] and bone < constant[1]
