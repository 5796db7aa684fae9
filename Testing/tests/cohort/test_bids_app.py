"""The BIDS App: people by label into one folder, the page of all, the container and descriptor."""

import argparse
import csv
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from test_cohort import Page, analyses, here, make

from NetInversionLib import cli
from NetInversionLib.cli import bids_app, entry

__all__ = ["analyses"]  # a fixture
ROOT = Path(__file__).resolve().parents[3]
CONTAINER = ROOT / "Container"


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A data set of three people; volumes are done in this process."""
    here(monkeypatch)
    folder = tmp_path / "study"
    make(folder, *(f"sub-{n}/anat/sub-{n}_T1w.nii.gz" for n in ("01", "02", "03")))
    make(folder, "sub-03/ses-b/anat/sub-03_ses-b_T1w.nii.gz")
    (folder / "dataset_description.json").write_text('{"Name": "s", "BIDSVersion": "1.9.0"}')
    return folder


def rows(out):
    with (out / "summary.csv").open(encoding="utf-8") as file:
        return {row["source"].partition("/")[0][4:]: row["status"] for row in csv.DictReader(file)}


def call(monkeypatch, *words):
    """The exit status of the installed command ``netinversion-bids``."""
    monkeypatch.setattr(sys, "argv", ["netinversion-bids", *map(str, words)])
    with monkeypatch.context() as patched:
        patched.setattr(entry.signal, "signal", lambda *of: None)
        return entry.bids()


def test_people_by_label_and_the_page_of_all(study, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert call(monkeypatch, study, out, "participant", "--participant-label", "sub-01") == 0
    assert sorted(rows(out)) == ["01"]
    assert call(monkeypatch, study, out, "participant", "--participant-label", "03", "01") == 0
    assert sorted(rows(out)) == ["01", "03"]
    assert len(list(out.rglob("*_desc-harmonized_T1w.nii.gz"))) == 3
    assert json.loads((out / "dataset_description.json").read_text())["DatasetType"] == "derivative"

    assert call(monkeypatch, study, out, "group") == 0
    assert rows(out) == {"01": "accepted", "02": "not run", "03": "accepted"}
    assert "4 volumes: 1 not run, 3 accepted" in Page(out / "summary.html").text
    assert len(list(out.rglob("*_desc-harmonized_T1w.nii.gz"))) == 3, "group computes nothing"
    assert call(monkeypatch, study, out, "participant") == 0
    assert set(rows(out).values()) == {"accepted"}


def test_masks_that_are_found_lie_beside_the_results(study, tmp_path, monkeypatch):
    """By BIDS' names; they go with the results when another run takes the folder."""
    out, mask = tmp_path / "out", study / "sub-01" / "anat" / "sub-01_T1w_mask.nii.gz"
    shutil.copy(study / "sub-01" / "anat" / "sub-01_T1w.nii.gz", mask)
    assert call(monkeypatch, study, out, "participant", "--mask", "auto") == 0
    found = sorted(path.relative_to(out).as_posix() for path in out.rglob("*_mask.nii.gz"))
    assert found == [
        "sub-02/anat/sub-02_desc-brain_mask.nii.gz",
        "sub-03/anat/sub-03_desc-brain_mask.nii.gz",
        "sub-03/ses-b/anat/sub-03_ses-b_desc-brain_mask.nii.gz",
    ], "whoever has a mask keeps it"
    mask.unlink()
    assert call(monkeypatch, study, out, "participant", "--overwrite") == 0
    assert not list(out.rglob("*_mask.nii.gz"))
    assert len(list(out.rglob("*_desc-harmonized_T1w.nii.gz"))) == 4


@pytest.mark.parametrize(
    ("level", "more", "words"),
    [
        ("participant", ["--participant-label", "09", "01"], "no images of sub-09"),
        ("session", [], "participant or group"),
        ("group", [], "harmonize people first"),
    ],
)
def test_what_cannot_be_is_a_sentence(study, tmp_path, capsys, level, more, words):
    line = ["bids-app", str(study), str(tmp_path / "out"), level, *more]
    assert cli.main(line) == 1 and words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_data_set(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    assert cli.main(["bids-app", str(tmp_path / "in"), str(tmp_path / "out"), "participant"]) == 1
    assert "no BIDS data set" in capsys.readouterr().err


# What stands in Container


def test_the_descriptor_is_current(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["bids-app", "--boutiques"])
    assert stop.value.code == 0
    said = "netinversion-bids --boutiques > Container/boutiques.json makes it anew"
    assert capsys.readouterr().out == (CONTAINER / "boutiques.json").read_text("utf-8"), said


def test_the_descriptor_says_all_that_the_command_takes():
    """Every key once on the command line; a command line that is made of it is understood."""
    told = json.loads((CONTAINER / "boutiques.json").read_text(encoding="utf-8"))
    keys = re.findall(r"\[\w+\]", told["command-line"])
    assert keys == [one["value-key"] for one in told["inputs"]] and len(keys) == len(set(keys))
    assert all(re.fullmatch(r"[0-9a-zA-Z_]+", one["id"]) for one in told["inputs"])
    values = {"File": "a", "String": "a", "Number": "1"}
    words = []
    for one in told["inputs"]:
        flag = [one["command-line-flag"]] if "command-line-flag" in one else []
        value = one.get("value-choices", [values.get(one["type"])])[:1]
        words += [*flag, *(value if one["type"] != "Flag" else [])]
    parser = argparse.ArgumentParser()
    bids_app._arguments(parser)
    read = parser.parse_args(words)
    assert read.level == "participant" and read.participant_label == ["a"] and read.overwrite
    left_out = {*bids_app.NOT_TOLD, "settings"}
    assert {one["id"] for one in told["inputs"]} == {a.dest for a in parser._actions} - left_out


def test_the_container_is_called_as_the_app():
    recipe = (CONTAINER / "Containerfile").read_text(encoding="utf-8")
    assert re.findall(r"^FROM (.*)$", recipe, re.M) == ["python:3.11-slim"]
    assert 'ENTRYPOINT ["netinversion-bids"]' in recipe and "://" not in recipe
    assert 'netinversion-bids = "NetInversionLib.cli.entry:bids"' in (
        (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    )
