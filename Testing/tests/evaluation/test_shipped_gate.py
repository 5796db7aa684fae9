"""The gate as it ships: every image goes the whole way, and verdicts and reasons are counted."""

import csv
from pathlib import Path

import numpy as np
import pytest
import toy_brains

from NetInversionLib import cli
from NetInversionLib.core import files
from NetInversionLib.core.keys import Key
from NetInversionLib.core.results import Result
from NetInversionLib.core.volumes import Volume
from NetInversionLib.evaluation import shipped
from NetInversionLib.evaluation.shipped import ShippedCase
from NetInversionLib.evaluation.wrong_scans import RIGHT, UNCHANGED, WRONG
from NetInversionLib.harmonize import gate
from NetInversionLib.harmonize.gate import Check

SHIPPED = Path(__file__).resolve().parents[3] / "Resources" / "Models" / "t1-brain.safetensors"
GOOD = Check("noise", 0.1, 0.01, 0.5, True, "as in the target's people")
ODD = Check("sharpness", 0.1, 0.2, np.inf, False, "It is blurred.")
BAD = Check("white over grey", -0.1, 0.02, np.inf, False, "It is a T2.", "refused")


def case(name, kind="other scanner: b", expected=RIGHT):
    return ShippedCase(expected, kind, name, lambda: {"source": name})


@pytest.fixture
def verdicts(monkeypatch):
    """Checks by name of the image; those that were judged."""
    checks = {"good": [GOOD], "odd": [GOOD, ODD], "bad": [BAD], "both": [ODD, BAD], "T2": [BAD]}
    judged = []

    def judge(asked, model):
        judged.append(asked.name)
        return checks[asked.name]

    monkeypatch.setattr(shipped, "judge", judge)
    return judged


@pytest.mark.parametrize("checks", [[GOOD], [GOOD, ODD], [GOOD, ODD, BAD]])
def test_checks_come_back_from_their_table(checks):
    again = shipped.checks_of(gate.table(checks))
    assert gate.verdict(again) == gate.verdict(checks)
    assert [(c.name, c.low, c.high, c.passed) for c in again] == [
        (c.name, c.low, c.high, c.passed) for c in checks
    ]


def test_verdicts_and_reasons_are_counted(verdicts):
    cases = [case(name) for name in ("good", "odd", "bad", "both")]
    summary, reasons, judged = shipped.evaluate([*cases, case("T2", "wrong", WRONG)], None)
    told = ("kind", "cases", "accepted", "flagged", "refused")
    rows = list(zip(*(summary.columns[c] for c in told)))
    assert rows == [("other scanner: b", 4, 1, 1, 2), ("wrong", 1, 0, 0, 1)]
    lines = list(zip(*(reasons.columns[c] for c in ("kind", "check", "means", "cases", "of"))))
    assert lines == [
        ("other scanner: b", "white over grey", "refused", 2, 4),
        ("other scanner: b", "sharpness", "flagged", 2, 4),
        ("wrong", "white over grey", "refused", 1, 1),
    ]
    assert judged.columns["verdict"] == ["accepted", "flagged", "refused", "refused", "refused"]
    said = shipped.totals(summary)
    assert said[3].endswith("accepted: 1 of 4") and said[4].endswith("through: 0 of 1")


def test_what_was_judged_is_not_judged_again_unless_something_else_is_asked(verdicts, tmp_path):
    cases, record = [case(name) for name in ("good", "odd", "bad")], tmp_path / "cases.jsonl"
    whole = shipped.evaluate(cases, None, record=record, asked="one model")
    assert shipped.evaluate(cases, None, record=record, asked="one model") == whole
    assert len(verdicts) == 3
    shipped.evaluate(cases, None, record=record, asked="another model")
    assert len(verdicts) == 6


def test_what_cannot_be_used_is_refused_with_its_sentence(monkeypatch):
    def harmonized(volumes, models, settings):
        if volumes["source"] == "thin":
            raise ValueError("a single slice")
        return Result(tables={Key("verdict"): gate.table([GOOD, ODD])})

    monkeypatch.setattr(shipped.harmonize, "harmonize", harmonized)
    (one,) = shipped.judge(case("thin"), None)
    assert (one.severity, one.words, one.passed) == ("refused", "a single slice", False)
    assert [check.name for check in shipped.judge(case("whole"), None)] == ["noise", "sharpness"]


def test_images_come_with_their_mask_or_one_that_is_found(tmp_path, monkeypatch):
    one = Volume(np.ones((3, 4, 5), np.float32), np.eye(4), "one")
    for name in ("a", "a_mask", "b"):
        files.save(one, tmp_path / f"{name}.nii.gz")
    monkeypatch.setattr(shipped, "find_brain", lambda *of: "found")
    as_they_are, with_template = (
        list(shipped.of_files([str(tmp_path)], RIGHT, "other", template))
        for template in (None, {"source": one, "mask": one})
    )
    assert [one.name for one in as_they_are] == ["a.nii.gz", "b.nii.gz"]
    assert {one.kind for one in as_they_are} == {f"other: {tmp_path.name}"}
    assert set(as_they_are[0].images()) == {"source", "mask"}
    assert set(as_they_are[1].images()) == {"source"}
    assert isinstance(with_template[0].images()["mask"], Volume), "its own mask goes first"
    assert with_template[1].images()["mask"] == "found"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no image"):
        list(shipped.of_files([str(tmp_path / "empty")], RIGHT, "other"))


def test_people_come_as_they_are_and_changed(tmp_path):
    files.save(toy_brains.brain(0), tmp_path / "sub-0.nii.gz")
    path = tmp_path / "sub-0.nii.gz"
    alone, changed = (list(shipped.of_people([path], more)) for more in (False, True))
    assert [one.kind for one in alone] == [UNCHANGED]
    assert [one.kind for one in changed].count(UNCHANGED) == 1 and len(changed) > 20
    whole = alone[0].images()["source"]
    flipped = next(one for one in changed if one.kind == "flipped left to right").images()
    assert whole.spacing_mm == pytest.approx(toy_brains.SPACING)
    assert flipped["source"].spacing_mm == pytest.approx([2, 2, 2], rel=0.01)
    assert flipped["source"].shape == flipped["mask"].shape


def test_people_are_drawn_from_others_by_turning_and_stretching(tmp_path):
    files.save(toy_brains.brain(0), tmp_path / "sub-0.nii.gz")
    cases = list(shipped.of_people([tmp_path / "sub-0.nii.gz"], True))
    first, second = [one for one in cases if one.kind == shipped.DRAWN_KIND][:2]
    own, one, other = (case.images() for case in (cases[0], first, second))
    assert (first.expected, first.name != second.name) == (RIGHT, True)
    own_ml = (own["source"].array > 0).sum() * np.prod(own["source"].spacing_mm)
    sizes = [(x["mask"].array > 0).sum() * np.prod(x["mask"].spacing_mm) for x in (one, other)]
    assert sizes == pytest.approx([own_ml] * 2, rel=0.15) and sizes[0] != sizes[1]
    assert not one["mask"].array[[0, -1]].any(), "nothing is turned out of the volume"


def test_command_with_the_shipped_model(tmp_path, capsys):
    """Boxes are no brains: refused, and counted."""
    for name in ("people", "other"):
        (tmp_path / name).mkdir()
    box = np.zeros((12, 12, 12), np.float32)
    box[2:-2, 2:-2, 2:-2] = np.random.default_rng(0).uniform(300, 900, (8, 8, 8))
    for name in ("people/sub-1", "people/sub-2", "other/box"):
        files.save(Volume(box, np.diag([4.0, 4, 4, 1]), name), tmp_path / f"{name}.nii.gz")
    line = ["evaluate", "gate", str(tmp_path / "people"), "--model", str(SHIPPED)]
    line += ["--other", str(tmp_path / "other"), "--people", "sub-2", "--no-changes"]
    assert cli.main([*line, "--output", str(tmp_path / "out")]) == 0
    assert "people of other scanners, accepted: 0 of 1" in capsys.readouterr().out
    with open(tmp_path / "out" / "gate_reasons.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["kind"] for row in rows} == {UNCHANGED, "other scanner: other"}
    assert all(row["means"] == "refused" and row["of"] == "1" for row in rows)
    with open(tmp_path / "out" / "gate_cases.csv", encoding="utf-8") as file:
        assert {row["name"] for row in csv.DictReader(file)} == {"sub-2.nii.gz", "box.nii.gz"}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--model", "m", "--folds", "3"], "learned anew"),
        (["--people", "sub-1"], "need --model"),
        (["--no-changes"], "need --model"),
        (["--model", "m", "--template", "t", "t"], "for --heads"),
    ],
)
def test_options_that_have_no_say_are_refused(more, says, capsys):
    assert cli.main(["evaluate", "gate", "folder", *more]) == 1
    assert says in capsys.readouterr().err
