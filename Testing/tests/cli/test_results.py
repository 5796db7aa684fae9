"""Results of the command: formats, tables, curves, and folders that never mix.

Also: runs that are stopped, and results computed again from their record.
"""

import copy
import csv
import json
import os
import signal
import time

import numpy as np
import pydicom
import pytest
from test_cli import image_files
from toy_cards import make_card, make_network

from NetInversionLib import cli, models
from NetInversionLib.cli import output
from NetInversionLib.cli import results as cli_results
from NetInversionLib.cohort.folders import RunFolder
from NetInversionLib.core import derived_series, files, result_files, table_files, text
from NetInversionLib.core.keys import Key
from NetInversionLib.core.results import Curve, Result, Table
from NetInversionLib.core.volumes import Volume
from NetInversionLib.ideal_input import dixon
from NetInversionLib.invariances import findings
from NetInversionLib.jobs import request as jobs_request

MATRIX = np.array([[0.0, -1.5, 0, 10], [2.0, 0.0, 0, -4], [0.0, 0, 1.25, 7], [0, 0, 0, 1.0]])


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Words of a short run, and its result."""
    folder = tmp_path_factory.mktemp("case")
    file = models.save(folder / "tiny.safetensors", make_network(), make_card())
    card = models.read_card(file)
    roles = [c.role for c in (*card.inputs, *card.outputs)]
    arguments, _ = image_files(folder, roles)
    words = ["compute", "ideal-input", *arguments, "--model", str(file), "--no-knobs"]
    words += ["--max-evaluations", "3"]
    kept = {}
    run_here = jobs_request.run_here

    def noted(request, progress):
        kept["result"] = run_here(request, progress)
        return copy.deepcopy(kept["result"])

    patch = pytest.MonkeyPatch()
    patch.setattr(jobs_request, "run_here", noted)
    assert cli.main([*words, "--output", str(folder / "first")]) == 0
    patch.undo()
    return words, kept["result"], folder


@pytest.fixture
def quick(case, monkeypatch):
    """The same run without its computing; its words."""
    words, result, _ = case
    monkeypatch.setattr(jobs_request, "run_here", lambda request, progress: copy.deepcopy(result))
    return words


def listing(folder):
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_all_tables_and_curves_are_written(case):
    _, result, folder = case
    assert result.curves and result.tables
    for key, table in result.tables.items():
        rows = list(csv.reader((folder / f"first/{Key.read(key).file_name}.csv").open(newline="")))
        assert len(rows) == 1 + len(next(iter(table.columns.values())))
    for key, curve in result.curves.items():
        name = Key.read(key).file_name + ("_curve" if key in result.tables else "")
        rows = list(csv.reader((folder / f"first/{name}.csv").open(newline="")))
        points = [
            (n, float(x), float(y)) for n, (xs, ys) in curve.lines.items() for x, y in zip(xs, ys)
        ]
        assert [(n, float(x), float(y)) for n, x, y in rows[1:]] == points


# Folders


def test_two_runs_never_mix(quick, tmp_path, capsys):
    out = tmp_path / "out"
    line = [*quick, "--output", str(out)]
    assert cli.main(line) == 0
    first = listing(out)
    assert cli.main(line) == 1 and "--overwrite" in capsys.readouterr().err
    assert cli.main([*line, "--format", "mha"]) == 1 and listing(out) == first
    assert cli.main([*line, "--format", "mha", "--overwrite"]) == 0
    assert list(out.glob("*.mha")) and not list(out.glob("*.nrrd")), "nothing of the first is left"
    (out / "mine.txt").write_text("mine")
    assert cli.main([*line, "--overwrite"]) == 0
    assert (out / "mine.txt").read_text() == "mine" and not list(out.glob("*.mha"))
    assert not list((out / ".netinversion").glob("new-*"))


def test_results_of_an_older_version_are_not_mixed_with(quick, tmp_path, capsys):
    (tmp_path / "facts.json").write_text("{}")
    assert cli.main([*quick, "--output", str(tmp_path), "--overwrite"]) == 1
    assert "another run" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["facts.json"]


def test_files_of_the_user_are_kept(tmp_path):
    (tmp_path / "a.txt").write_text("the user's")
    with pytest.raises(ValueError, match="was there before"):
        with RunFolder(tmp_path, "compute this") as folder:
            (folder.new / "a.txt").write_text("result")
            folder.deliver()
    assert (tmp_path / "a.txt").read_text() == "the user's"
    assert (tmp_path / "results of compute this/a.txt").read_text() == "result"


@pytest.mark.skipif(os.name != "posix", reason="locks are POSIX's")
def test_a_folder_has_one_run_at_a_time(tmp_path):
    with RunFolder(tmp_path / "out", "compute this"):
        with pytest.raises(ValueError, match="another run writes"):
            with RunFolder(tmp_path / "out", "compute this"):
                pass
    assert not (tmp_path / "out").exists()


def test_a_run_that_fails_leaves_nothing(quick, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(result_files, "write_table", full)
    assert cli.main([*quick, "--output", str(tmp_path / "out")]) == 1
    assert not (tmp_path / "out").exists()


# Ctrl-C


def interrupt():
    signal.raise_signal(signal.SIGINT)


def test_stopped_before_there_is_a_result(quick, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(files, "load", lambda path: interrupt())
    assert cli.main([*quick, "--output", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err.startswith("netinversion: stopped")
    assert not (tmp_path / "out").exists()


def test_stopped_in_the_middle_the_best_is_kept(case, tmp_path, capsys, monkeypatch):
    words, result, _ = case
    part = Result(dict(result.volumes), facts={**result.facts, "complete": False})

    def stopped(request, progress):
        progress.report(0.1, "Optimising")
        progress.intermediate(part)
        interrupt()

    monkeypatch.setattr(jobs_request, "run_here", stopped)
    out = tmp_path / "out"
    assert cli.main([*words, "--output", str(out), "--json"]) == 130
    said = capsys.readouterr()
    assert str(out) in said.err and "partial" in said.err and "Traceback" not in said.err
    assert str(out) in json.loads(said.out)["error"]
    facts = json.loads((out / "facts.json").read_text())
    assert facts["partial"] is True and facts["complete"] is False
    assert len(list(out.glob("*.nrrd"))) == len(result.volumes)


def test_stopped_while_it_writes_everything_is_written(quick, tmp_path, capsys, monkeypatch):
    write = result_files.write_table

    def stopped(*arguments):
        interrupt()
        return write(*arguments)

    monkeypatch.setattr(result_files, "write_table", stopped)
    out = tmp_path / "out"
    assert cli.main([*quick, "--output", str(out)]) == 130
    assert "is written" in capsys.readouterr().err and (out / "report.html").is_file()
    assert not list((out / ".netinversion").glob("new-*"))


# From the record


def test_a_result_is_computed_again_from_its_record(case, tmp_path, capsys):
    _, result, folder = case
    facts = json.loads((folder / "first/facts.json").read_text())
    assert str(folder) not in json.dumps(facts), "no folder of this computer is named"
    again = tmp_path / "again"
    assert cli.main(["rerun", str(folder / "first/facts.json"), "--output", str(again)]) == 0
    for key, volume in result.volumes.items():
        found = files.load(again / f"{Key.read(key).file_name}.nrrd")
        assert np.array_equal(found.array, volume.array), "the same to the last bit"
    first, second = listing(folder / "first"), listing(again)
    assert first.keys() == second.keys()
    assert all(first[n] == second[n] for n in first if n.endswith(".csv"))


def test_a_record_of_before_there_was_a_price_is_computed_without_one(case, tmp_path, capsys):
    words, _, folder = case
    facts = json.loads((folder / "first/facts.json").read_text())
    prices = {name: facts["run"]["settings"].pop(name) for name in ("near", "blurred")}
    assert prices == {"near": 0.1, "blurred": 1.0}, "a record says what was paid"
    (folder / "first/old.json").write_text(json.dumps(facts))
    old, free = tmp_path / "old", tmp_path / "free"
    assert cli.main(["rerun", str(folder / "first/old.json"), "--output", str(old)]) == 0
    assert cli.main([*words, "--search", "free", "--output", str(free)]) == 0
    first, second = listing(old), listing(free)
    assert all(first[n] == second[n] for n in first if n.endswith((".csv", ".nrrd")))
    assert any(first[n] != listing(folder / "first")[n] for n in first if n.endswith(".nrrd"))
    (folder / "first/old.json").unlink()


def test_a_search_has_a_name_and_single_settings_count_before_it(quick, tmp_path):
    def asked(*more):
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        assert cli.main([*quick, *more, "--output", str(out)]) == 0
        return json.loads((out / "facts.json").read_text())["run"]["settings"]

    assert asked() == asked("--search", "near")
    free = asked("--search", "free")
    assert (free["near"], free["blurred"]) == (0, 0)
    assert asked("--search", "free", "--near", "2")["near"] == 2
    published = asked("--search", "published", "--starts", "patient")
    assert published["optimiser"] == "published" and published["starts"] == ["patient"]
    assert (published["near"], published["blurred"], published["mean"]) == (0, 0, False)
    config = tmp_path / "config.toml"
    config.write_text('search = "free"')
    assert asked("--config", str(config)) == free


def test_images_that_changed_are_told(case, tmp_path, capsys):
    _, _, folder = case
    facts = json.loads((folder / "first/facts.json").read_text())
    image = next(iter(facts["run"]["volumes"].values()))
    image["sha256"] = "0" * 64
    (folder / "first/changed.json").write_text(json.dumps(facts))
    assert cli.main(["rerun", str(folder / "first/changed.json")]) == 1
    assert "not what it was" in capsys.readouterr().err
    image["path"] = "nowhere.nrrd"
    (folder / "first/changed.json").write_text(json.dumps(facts))
    assert cli.main(["rerun", str(folder / "first/changed.json")]) == 1
    assert "is gone" in capsys.readouterr().err
    (folder / "first/changed.json").unlink()


def test_a_record_of_the_first_versions_still_runs(case, capsys):
    """Theirs call the analysis "task"."""
    _, _, folder = case
    facts = json.loads((folder / "first/facts.json").read_text())
    facts["run"]["task"] = facts["run"].pop("analysis")
    (folder / "first/old.json").write_text(json.dumps(facts))
    found = cli_results.from_record(folder / "first/old.json")
    assert found == cli_results.from_record(folder / "first/facts.json")
    (folder / "first/old.json").unlink()


@pytest.mark.parametrize("record", ["[]", "{}", '{"run": 3}', "no JSON", '{"run": {"task": "x"}}'])
def test_what_is_no_record_is_a_sentence(record, tmp_path, capsys):
    (tmp_path / "facts.json").write_text(record)
    assert cli.main(["rerun", str(tmp_path / "facts.json")]) == 1
    assert "no record of a run" in capsys.readouterr().err


# Formats


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_images_keep_the_format_of_the_input(ending, tmp_path):
    hu = np.full((3, 24, 24), -1000, np.int16)
    hu[:, 4:20, 4:20] = 40
    files.save(Volume(hu, np.diag([3.0, 3.0, 3.0, 1.0]), "ct"), tmp_path / f"ct{ending}")
    line = ["simulate", "dixon", str(tmp_path / f"ct{ending}"), "--output"]
    assert cli.main([*line, str(tmp_path / "out")]) == 0
    assert (
        len(list((tmp_path / "out").glob(f"*{ending}"))) == len(os.listdir(tmp_path / "out")) == 3
    )
    assert cli.main([*line, str(tmp_path / "out")]) == 1, "they are there already"
    assert cli.main([*line, str(tmp_path / "out"), "--overwrite", "--format", "mha"]) == 0
    assert len(list((tmp_path / "out").glob("*.mha"))) == len(os.listdir(tmp_path / "out")) == 3


@pytest.fixture
def series(tmp_path):
    """A DICOM series of a patient; what it derives from is written by the library itself."""
    array = np.random.default_rng(0).integers(-900, 1500, (4, 6, 5)).astype(np.int16)
    plain = pydicom.Dataset()
    plain.file_meta = pydicom.dataset.FileMetaDataset()
    plain.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    plain.SOPClassUID = plain.file_meta.MediaStorageSOPClassUID = pydicom.uid.MRImageStorage
    plain.SOPInstanceUID = plain.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    plain.PatientName, plain.PatientID, plain.StudyInstanceUID = "Doe^Jo", "id 7", "1.2.3"
    plain.FrameOfReferenceUID, plain.SeriesNumber, plain.Modality = "1.2.9", 5, "MR"
    plain.SeriesInstanceUID = "1.2.3.5"
    (tmp_path / "head").mkdir()
    plain.save_as(tmp_path / "head/one.dcm", enforce_file_format=True)
    return array, tmp_path / "head"


@pytest.mark.parametrize("units", ["", "HU"])
def test_a_derived_series_is_of_the_same_patient_and_study(series, tmp_path, units):
    array, source = series
    out = derived_series.save(Volume(array, MATRIX, "x", units), tmp_path / "out", source, "ideal")
    found = files.load(out)
    order = (
        slice(None) if np.allclose(found.ijk_to_ras, MATRIX, atol=1e-6) else slice(None, None, -1)
    )
    assert np.array_equal(found.array[order], array) and found.units == units
    corner = MATRIX @ [0, 0, 0, 1] if order.step is None else MATRIX @ [0, 0, 3, 1]
    np.testing.assert_allclose(found.ijk_to_ras[:, 3], corner, atol=1e-6)
    images = [pydicom.dcmread(path) for path in sorted(out.iterdir())]
    assert {(i.PatientID, str(i.PatientName), i.StudyInstanceUID) for i in images} == {
        ("id 7", "Doe^Jo", "1.2.3")
    }
    assert {i.FrameOfReferenceUID for i in images} == {"1.2.9"}
    assert len({i.SeriesInstanceUID for i in images}) == 1 != images[0].SeriesInstanceUID
    assert images[0].SeriesInstanceUID != "1.2.3.5" and images[0].ImageType[0] == "DERIVED"
    assert len({i.SOPInstanceUID for i in images}) == len(array)


def test_a_derived_series_rounds_fractions_by_a_step(series, tmp_path):
    _, source = series
    array = np.random.default_rng(1).normal(0, 3, (3, 4, 5)).astype(np.float32)
    out = derived_series.save(Volume(array, np.eye(4), "x"), tmp_path / "out", source, "x")
    found = files.load(out).array
    found = found if abs(found[0] - array[0]).max() < 1e-3 else found[::-1]
    np.testing.assert_allclose(found, array, atol=np.ptp(array) / 65535)


def test_without_a_dicom_source_there_is_no_derived_series(tmp_path):
    files.save(Volume(np.ones((2, 3, 4)), np.eye(4), "x"), tmp_path / "x.nrrd")
    with pytest.raises(ValueError, match="is not DICOM"):
        derived_series.first_header(tmp_path / "x.nrrd")


# What is said


def test_text_of_cards_reaches_no_terminal_and_no_spreadsheet(tmp_path, capsys):
    evil = ["\x1b[31mred", "=1+1", "@sum", "\t=2", "\uff1d3", "-4", "plain", "a\nb"]
    table = Table("t", {"=name": evil, "value": [1.0, 2, -3.5, np.int64(-4), 0, 0, 0, 0]})
    output.Shell().table(table)
    said = capsys.readouterr().out
    assert "\x1b" not in said and len(said.splitlines()) == 1 + len(evil)
    path = table_files.write_table(table, tmp_path, "t")
    rows = list(csv.reader(path.open(newline="", encoding="utf-8")))
    cells = [cell for row in rows for cell in row[:1]]
    assert not any(c.lstrip().startswith(text.FORMULA_BEGINS) for c in cells)
    assert [float(row[1]) for row in rows[1:5]] == [1.0, 2, -3.5, -4]


@pytest.mark.parametrize("command", ["list", "info", "verify"])
def test_a_card_cannot_draw_on_the_terminal(command, tmp_path, capsys, monkeypatch):
    from dataclasses import replace

    from NetInversionLib.models import files as model_files
    from NetInversionLib.models import library

    card = replace(make_card(), name="\x1b]0;title\x07\nnetinversion: all good", licence="\x9b2J")
    path = tmp_path / "x.safetensors"
    if command == "verify":
        error = models.ModelError(f"{card.name} is wrong")
        monkeypatch.setattr(model_files, "verify", lambda path: (_ for _ in ()).throw(error))
    monkeypatch.setattr(library, "list_models", lambda folders=None: {path: card})
    monkeypatch.setattr(model_files, "read_card", lambda path: card)
    cli.main(["models", command, *([] if command == "list" else [str(path)])])
    said = capsys.readouterr()
    assert not set("\x1b\x07\x9b") & set(said.out + said.err)
    assert not any(line.startswith("netinversion: all good") for line in said.out.splitlines())


def test_time_left_is_that_of_the_share_that_is_done(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = output.Clock()
    clock.tell(0.0)
    assert clock.seconds_left() is None
    now[0] = 20.0
    clock.tell(0.1)
    assert clock.seconds_left() == pytest.approx(180)
    now[0] = 30.0
    clock.tell(0.0)  # another stretch begins
    assert clock.seconds_left() is None


def test_a_long_run_says_so_once_and_how_to_take_less(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    shell = output.Shell(advice="Fewer --samples take less.")
    for step in range(6):
        now[0] = 10.0 * step
        shell.report(0.01 * step, "Working")
    said = capsys.readouterr().err
    assert said.count("This will take about") == 1 and said.count("Fewer --samples") == 1
    assert "min left" in said


def test_quiet_says_answers_only(quick, tmp_path, capsys):
    assert cli.main([*quick, "--output", str(tmp_path / "out"), "--quiet"]) == 0
    said = capsys.readouterr()
    assert said.err == "" and str(tmp_path / "out") in said.out


def test_json_is_one_object(quick, tmp_path, capsys):
    assert cli.main([*quick, "--output", str(tmp_path / "out"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["output"] == str(tmp_path / "out") and told["answer"] and "error" in told["tables"]


# Settings from a file


@pytest.mark.parametrize("ending", ["json", "toml"])
def test_the_command_line_wins_over_the_file(case, tmp_path, monkeypatch, ending):
    words, result, _ = case
    asked = {}

    def noted(request, progress):
        asked.update(request.settings)
        return copy.deepcopy(result)

    monkeypatch.setattr(jobs_request, "run_here", noted)
    config = tmp_path / f"config.{ending}"
    content = {"max-evaluations": 9, "noise_seeds": 2, "starts": ["patient", "zeros"], "box": True}
    lines = [f"{key} = {json.dumps(value)}" for key, value in content.items()]
    config.write_text(json.dumps(content) if ending == "json" else "\n".join(lines))
    line = [*words, "--config", str(config), "--output", str(tmp_path / "out")]
    assert cli.main(line) == 0
    assert asked["max_evaluations"] == 3, "the command line has it"
    assert asked["noise_seeds"] == 2 and asked["starts"] == ["patient", "zeros"] and asked["box"]


def test_a_curve_without_points_is_a_table_with_headings():
    assert table_files.curve_table(Curve("c", "x", "x", {})).columns == {
        "line": [],
        "x": [],
        "x (y)": [],
    }


# Trainings, cohorts and evaluations that are stopped


@pytest.mark.parametrize("kept", [True, False])
def test_a_stopped_training_says_how_it_goes_on(kept, tmp_path, capsys, monkeypatch):
    from NetInversionLib.training import synthetic_ct

    def stopped(scans, path, settings, checkpoint, *more):
        if kept:
            checkpoint.write_bytes(b"state")
        interrupt()

    monkeypatch.setattr(synthetic_ct, "read_scans", lambda *arguments, **keywords: [])
    monkeypatch.setattr(synthetic_ct, "train", stopped)
    line = ["train", "synthetic-ct", str(tmp_path), "--output", str(tmp_path / "m.safetensors")]
    assert cli.main(line) == 130
    said = capsys.readouterr().err
    assert ("same command goes on" in said) == kept and ("nothing is kept" in said) != kept
    assert not (tmp_path / "m.safetensors").exists()


def test_the_gate_of_one_person_leaves_nothing_and_scans_once_looked_at_replace_no_model(
    tmp_path, capsys, monkeypatch
):
    from NetInversionLib.training import corrector, flow_file

    monkeypatch.setattr(flow_file, "what_is_missing", lambda model: "")
    monkeypatch.setattr(corrector, "find_scans", lambda *of: {tmp_path / "one.nii.gz": None})
    out = tmp_path / "out"
    line = ["train", "gate", str(tmp_path), "--model", "x", "--output", str(out / "m.safetensors")]
    assert cli.main(line) == 1 and "at least two people" in capsys.readouterr().err
    assert not out.exists()
    (out / "m.looks").mkdir(parents=True)
    (out / "m.safetensors").write_bytes(b"a model")
    assert cli.main(line) == 1 and "--overwrite" in capsys.readouterr().err
    assert (out / "m.safetensors").read_bytes() == b"a model"


def test_one_volume_is_not_computed_for_a_place_that_cannot_be_written(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(jobs_request, "run_here", lambda *of: pytest.fail("it was computed"))
    source = files.save(Volume(np.ones((4, 5, 6), np.int16), MATRIX, "a"), tmp_path / "a.nii.gz")
    (tmp_path / "file").write_text("no folder")
    line = ["harmonize", str(source), str(tmp_path / "file/out.nii.gz")]
    assert cli.main(line) == 1 and "cannot be written" in capsys.readouterr().err


def test_a_model_is_not_replaced_unasked(tmp_path, capsys):
    (tmp_path / "m.safetensors").write_bytes(b"a model")
    line = ["train", "synthetic-ct", str(tmp_path), "--output", str(tmp_path / "m.safetensors")]
    assert cli.main(line) == 1 and "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "m.safetensors").read_bytes() == b"a model"


def test_a_stopped_evaluation_keeps_its_tables(tmp_path, capsys, monkeypatch):
    from NetInversionLib.evaluation import harmonize

    def tables(*arguments):
        yield Table("first", {"a": [1.0]}), "first"
        interrupt()

    monkeypatch.setattr(harmonize, "compare_simulated", tables)
    out = tmp_path / "out"
    line = ["evaluate", "harmonize", str(tmp_path), "--simulate", "--output", str(out)]
    assert cli.main(line) == 130 and "partial" in capsys.readouterr().err
    assert sorted(p.name for p in out.glob("*.*") if p.is_file()) == ["first.csv", "partial.json"]


def cohort_of_one(tmp_path, monkeypatch):
    """A cohort whose work is taken away; its command line and its planned item."""
    from NetInversionLib.cohort import runs

    folder = tmp_path / "in"
    folder.mkdir()
    files.save(Volume(np.ones((4, 5, 6), np.int16), MATRIX, "a"), folder / "a.nii.gz")
    monkeypatch.setattr(runs, "run_locally", lambda items, *more: (_ for _ in ()).throw(Halt()))
    return ["harmonize", str(folder), str(tmp_path / "out")]


class Halt(KeyboardInterrupt):
    pass


def test_a_stopped_cohort_says_where_it_is(tmp_path, capsys, monkeypatch):
    line = cohort_of_one(tmp_path, monkeypatch)
    assert cli.main(line) == 130
    assert f"kept in {tmp_path / 'out'}" in capsys.readouterr().err
    assert "not run" in (tmp_path / "out/summary.csv").read_text()


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd"])
def test_one_volume_is_not_harmonized_over_another(name, tmp_path, capsys, monkeypatch):
    source = files.save(Volume(np.ones((4, 5, 6), np.int16), MATRIX, "a"), tmp_path / name)
    before = source.read_bytes()
    assert cli.main(["harmonize", str(source), str(source)]) == 1
    assert "there already" in capsys.readouterr().err
    assert cli.main(["harmonize", str(source), str(source), "--overwrite"]) == 1
    assert "made from" in capsys.readouterr().err and source.read_bytes() == before


def harmonized(request, progress):
    volume = request.volumes["source"]
    facts = {"verdict": "accepted", "reasons": [], "model": {}}
    return Result({"harmonized": volume.with_array(volume.array * 2)}, facts=facts)


def test_one_volume_into_one_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(jobs_request, "run_here", harmonized)
    source = Volume(np.arange(120, dtype=np.int16).reshape(4, 5, 6), MATRIX, "a")
    files.save(source, tmp_path / "a.nii.gz")
    line = ["harmonize", str(tmp_path / "a.nii.gz")]
    assert cli.main([*line, str(tmp_path / "b.nii.gz")]) == 0
    assert np.array_equal(files.load(tmp_path / "b.nii.gz").array, 2 * source.array)
    assert cli.main([*line, str(tmp_path / "folder")]) == 0
    assert (tmp_path / "folder/a_harmonized.nii.gz").is_file()
    assert cli.main([*line, str(tmp_path / "c.nii.gz"), "--format", "mha"]) == 1
    again = ["rerun", str(tmp_path / "b.json"), "--output", str(tmp_path / "d.nrrd")]
    assert cli.main(again) == 0
    assert np.array_equal(files.load(tmp_path / "d.nrrd").array, 2 * source.array)


MOMENTS = {
    "harmonize": {
        "reading": (files, "load"),
        "computing": (jobs_request, "run_here"),
        "writing": (files, "save"),
    },
    "simulate dixon": {
        "reading": (files, "load"),
        "computing": (dixon, "simulate_dixon"),
        "writing": (result_files, "write_image"),
    },
}


@pytest.mark.parametrize("moment", ["reading", "computing", "writing"])
@pytest.mark.parametrize("command", MOMENTS)
def test_a_stopped_command_leaves_all_or_nothing(command, moment, tmp_path, capsys, monkeypatch):
    """Stopped before or while it computes it leaves nothing, while it writes it writes all."""
    array = np.full((4, 24, 24), -1000, np.int16)
    array[:, 6:18, 6:18] = 40
    source = files.save(Volume(array, MATRIX, "a"), tmp_path / "a.nii.gz")
    out = tmp_path / ("out" if command == "simulate dixon" else "out.nii.gz")
    if command == "harmonize":
        monkeypatch.setattr(jobs_request, "run_here", harmonized)
    owner, name = MOMENTS[command][moment]
    done = getattr(owner, name)

    def stopped(*arguments, **options):
        interrupt()
        return done(*arguments, **options)

    monkeypatch.setattr(owner, name, stopped)
    status = cli.main([*command.split(), str(source), *output_of(command, out)])
    said = capsys.readouterr().err
    assert "Traceback" not in said and status == 130
    if moment == "writing":
        assert f"written to {out}" in said or f"{out} is written" in said
    elif command == "harmonize":
        assert "nothing is written" in said
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()} - {"a.nii.gz"}
    images = {name for name in left if name.endswith(".nii.gz")}
    assert images == (MADE[command] if moment == "writing" else set())
    assert moment == "writing" or not left


MADE = {
    "harmonize": {"out.nii.gz"},
    "simulate dixon": {f"simulated_{role}.nii.gz" for role in dixon.CHANNELS},
}


def output_of(command, out):
    return [str(out)] if command == "harmonize" else ["--output", str(out)]


INVARIANCES = ["compute", "invariances", "--slices", "1", "1", "--samples", "4", "--shown", "2"]


@pytest.fixture(scope="module")
def low_dose(tmp_path_factory):
    """Words of a short run on a CT, and the files of its result."""
    folder = tmp_path_factory.mktemp("low dose")
    array = np.random.default_rng(0).normal(40, 20, (4, 40, 40)).astype(np.int16)
    array[:, :4] = -1000
    ct = files.save(Volume(array, MATRIX, "ct"), folder / "ct.nii.gz")
    words = [*INVARIANCES, "--projected", "2", "--max-evaluations", "20", str(ct)]
    assert cli.main([*words, "--output", str(folder / "whole")]) == 0
    return words, listing(folder / "whole")


@pytest.mark.parametrize("moment", ["reading", "computing", "midway", "writing"])
def test_a_stopped_run_of_invariances_keeps_what_it_has(
    moment, low_dose, tmp_path, capsys, monkeypatch
):
    owner, name = {
        "reading": (files, "load"),
        "computing": (jobs_request, "run_here"),
        "midway": (output.Shell, "intermediate"),
        "writing": (result_files, "write_image"),
    }[moment]
    done = getattr(owner, name)

    def stopped(*arguments, **options):
        if moment == "midway":
            done(*arguments)
        interrupt()
        return done(*arguments, **options)

    monkeypatch.setattr(owner, name, stopped)
    monkeypatch.setattr(findings, "INTERMEDIATE_EVERY_S", 0.0)
    words, whole = low_dose
    out = tmp_path / "out"
    assert cli.main([*words, "--output", str(out)]) == 130
    said = capsys.readouterr().err
    assert "Traceback" not in said
    if moment in ("reading", "computing"):
        assert not list(tmp_path.iterdir()) and "stopped" in said
        return
    made = listing(out)
    facts = json.loads(made["facts.json"])
    assert str(out) in said and facts.get("partial", False) == (moment == "midway")
    if moment == "writing":
        assert made.keys() == whole.keys()
    else:
        assert {name for name in made if name.endswith(".nii.gz")} and "partial" in said
    assert not [name for name in made if "/new-" in name]


def test_a_dicom_folder_becomes_a_derived_series(series, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs_request, "run_here", harmonized)
    array, head = series
    source = derived_series.save(Volume(array, MATRIX, "x"), tmp_path / "in", head, "source")
    assert cli.main(["harmonize", str(source), str(tmp_path / "out.nii.gz")]) == 0
    found = files.load(tmp_path / "out.nii.gz").array
    assert np.array_equal(found, 2 * files.load(source).array)
    one = str(sorted(source.iterdir())[0])
    assert cli.main(["harmonize", one, str(tmp_path / "derived")]) == 0
    header = derived_series.first_header(tmp_path / "derived")
    assert header.PatientID == "id 7" and header.StudyInstanceUID == "1.2.3"


def test_a_cohort_of_other_settings_is_refused(tmp_path, capsys, monkeypatch):
    from NetInversionLib.cohort import records, runs

    line = cohort_of_one(tmp_path, monkeypatch)

    def done(items, *more):
        for item in items:
            item.image.parent.mkdir(parents=True, exist_ok=True)
            files.save(Volume(np.ones((2, 2, 2)), np.eye(4), "x"), item.image)
            record = {**runs.new_record(item), "status": "accepted"}
            record["bytes"] = item.image.stat().st_size
            item.record_file.parent.mkdir(parents=True, exist_ok=True)
            records.write_json(item.record_file, record)
            yield record

    monkeypatch.setattr(runs, "run_locally", done)
    out = tmp_path / "out"
    assert cli.main(line) == 0
    assert cli.main(line) == 0, "the same run goes on"
    facts = json.loads((out / ".netinversion/run.json").read_text())
    facts["asked"]["task"] = facts["asked"].pop("analysis")
    records.write_json(out / ".netinversion/run.json", facts)  # as the first versions named it
    before = listing(out)
    assert cli.main([*line, "--strength", "0.5"]) == 1
    assert "another run (other settings)" in capsys.readouterr().err and listing(out) == before
    (tmp_path / "in").rename(tmp_path / "moved")
    assert cli.main([line[0], str(tmp_path / "moved"), line[2]]) == 0, "a folder may be moved"
    assert (
        cli.main([line[0], str(tmp_path / "moved"), line[2], "--strength", "1", "--overwrite"]) == 0
    )
    assert str(tmp_path) not in (out / ".netinversion/run.json").read_text()


BAR = """
from NetInversionLib.cli.output import Shell

shell = Shell()
for step in range(5):
    shell.report(step / 4, f"Step {step}")
shell.say("answer")
shell.close()
"""


@pytest.mark.skipif(os.name != "posix", reason="a terminal of POSIX")
@pytest.mark.parametrize("width", [0, 60])
def test_a_terminal_shows_a_bar(width):
    import fcntl
    import pty
    import struct
    import subprocess
    import sys
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 20, width, 0, 0))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", BAR]
    subprocess.run(command, stdout=theirs, stderr=theirs, env=environment, check=True)
    os.close(theirs)
    said = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "100 %|" in said and "Step 4" in said and said.rstrip().endswith("answer")


def test_an_evaluation_that_goes_on_is_the_same_one(tmp_path):
    from NetInversionLib.cohort.folders import go_on

    out, names = tmp_path / "out", ["gate.csv", "gate_cases.jsonl"]
    go_on(out, "evaluate gate", "one", names, overwrite=False)
    (out / "gate_cases.jsonl").write_text("half")
    go_on(out, "evaluate gate", "one", names, overwrite=False)
    assert (out / "gate_cases.jsonl").read_text() == "half", "it goes on"
    with pytest.raises(ValueError, match="another run"):
        go_on(out, "evaluate gate", "two", names, overwrite=False)
    with pytest.raises(ValueError, match="another run"):
        RunFolder(out, "compute this")
    go_on(out, "evaluate gate", "two", names, overwrite=True)
    assert not (out / "gate_cases.jsonl").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_every_command(shell, capsys):
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for command in cli.COMMANDS:
        assert command.group in script and command.name in script
    assert "--max-evaluations" in script or "max-evaluations" in script
