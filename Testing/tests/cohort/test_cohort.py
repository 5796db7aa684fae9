"""A cohort computes every volume once, whatever is killed or fails.

Nothing of the input changes, and names are only text.
"""

import base64
import csv
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import cohort_analyses
import numpy as np
import psutil
import pytest
import SimpleITK as sitk
from PIL import Image

from NetInversionLib import cohort, jobs
from NetInversionLib.cohort import cluster as cohort_cluster
from NetInversionLib.cohort import folders, runs
from NetInversionLib.cohort import page as cohort_page
from NetInversionLib.cohort import records as cohort_records
from NetInversionLib.core import files as core_files
from NetInversionLib.core import volumes
from NetInversionLib.core.text import shown
from NetInversionLib.core.volumes import Volume
from NetInversionLib.jobs import request as jobs_request

PATHS = os.pathsep.join(map(str, (Path(__file__).parent, Path(runs.__file__).parents[2])))
posix = pytest.mark.skipif(os.name != "posix", reason="signals and locks are POSIX's")
GRID = np.array([[-1.2, 0, 0.1, 30.0], [0, 0, 1.5, -20.0], [0.2, 1.0, 0, 5.0], [0, 0, 0, 1.0]])
GRID[:3, :3] = np.linalg.qr(GRID[:3, :3])[0] * [1.2, 1.0, 1.5]


@pytest.fixture(autouse=True)
def analyses(monkeypatch):
    """The tests' analyses, under the product's name too; elsewhere that stays the product's."""
    monkeypatch.setattr(
        jobs_request, "ANALYSES", {**jobs_request.ANALYSES, **cohort_analyses.ANALYSES}
    )


def picture(seed=0, shape=(5, 6, 7)):
    array = np.random.default_rng(seed).integers(1, 500, shape).astype(np.float32)
    return Volume(array, GRID, "picture")


def make(folder, *names, seed=0):
    """Volumes of known content; their arrays by name."""
    arrays = {}
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        volume = picture(seed + number)
        # by another name first: ITK cannot write every name that a file may have
        os.replace(
            core_files.save(
                volume, path.parent / ("plain.nrrd" if name.endswith("nrrd") else "plain.nii.gz")
            ),
            path,
        )
        arrays[name] = volume.array
    return arrays


def make_dicom(folder, slices=4):
    folder.mkdir(parents=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(slices):
        image = sitk.GetImageFromArray(np.full((1, 6, 7), 10 * k + 5, np.int16))
        tags = {
            "0008|0060": "MR",
            "0020|000e": "1.2.3.4",
            "0020|000d": "1.2.3",
            "0008|0018": f"1.2.3.4.{k + 1}",
            "0020|0013": str(k + 1),
            "0020|0032": f"0\\0\\{2 * k}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0018|0050": "2",
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        image.SetOrigin((0, 0, 2.0 * k))
        writer.SetFileName(str(folder / f"{k}.dcm"))
        writer.Execute(image)


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log.txt"


def go(
    folder,
    out,
    log=None,
    processes=1,
    force=False,
    mask=None,
    suffix="T1w",
    model_paths=None,
    scheduler=None,
    **settings,
):
    """Plan and run with the toy analysis; records by volume."""
    settings = {**({"log": str(log)} if log else {}), **settings}
    items = cohort.plan(
        folder, out, model_paths, settings, "shade", mask=mask, suffix=suffix, force=force
    )
    cohort.prepare(folder, out)
    records = cohort.run(items, processes, scheduler, worker=cohort_analyses.WORKER)
    return {record["source"]: record for record in records}


def here(monkeypatch):
    """Let workers be this process: quick, where it is not about processes."""
    monkeypatch.setattr(runs, "run_locally", lambda shares, *_: (done(one) for one in shares))


def done(one):
    """The record of what a run has to do, or of what another one has done."""
    return one if isinstance(one, dict) else cohort.work(vars(one))


def entries(log, what):
    """Volumes that the analysis noted: what it began, or ended."""
    return (
        [line.split(" ", 2)[2] for line in log.read_text().splitlines() if line.startswith(what)]
        if log.exists()
        else []
    )


def state(folder, *without):
    """Path to content and time of every file, but those below some folders."""
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and not any(other in path.parents for other in without)
    }


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


# Folders


def test_a_folder_of_all_formats(tmp_path):
    folder = tmp_path / "in"
    arrays = make(
        folder, "a.nii.gz", "deep/er/b.nrrd", "deep/c.nii.gz", ".hidden.nii.gz", ".cache/d.nii.gz"
    )
    make_dicom(folder / "deep/series 7")
    (folder / "notes.txt").write_text("no volume")
    before, out = state(folder), folder / "results"
    records = go(folder, out, processes=2)
    assert {name: record["status"] for name, record in records.items()} == dict.fromkeys(
        ["a.nii.gz", "deep/er/b.nrrd", "deep/c.nii.gz", "deep/series 7"], "accepted"
    )
    for name, output in [
        ("a.nii.gz", "a"),
        ("deep/er/b.nrrd", "deep/er/b"),
        ("deep/c.nii.gz", "deep/c"),
    ]:
        found = core_files.load(out / f"{output}_harmonized{name[name.index('.') :]}")
        assert np.array_equal(found.array, 2 * arrays[name])
        np.testing.assert_allclose(found.ijk_to_ras, GRID, atol=1e-5)
        sidecar = json.loads((out / f"{output}_harmonized.json").read_text())
        assert sidecar["Verdict"] == "accepted" and sidecar["Sources"] == [name]
    dicom = core_files.load(out / "deep/series 7_harmonized")
    assert (out / "deep/series 7_harmonized.json").is_file()
    assert np.array_equal(np.sort(dicom.array[:, 0, 0]), [10, 30, 50, 70])
    assert state(folder, out) == before, "the input stays as it was"
    go(folder, tmp_path / "again")
    assert sorted(path.name for path in (tmp_path / "again").rglob("*.nii.gz")) == sorted(
        path.name for path in out.rglob("*.nii.gz")
    ), "results of an earlier run are no volumes"


def test_a_dicom_folder_is_one_volume(tmp_path, monkeypatch):
    here(monkeypatch)
    make_dicom(tmp_path / "series")
    assert go(tmp_path / "series", tmp_path / "series/out")["series"]["status"] == "accepted"
    assert len(list((tmp_path / "series/out/series_harmonized").glob("*.dcm"))) == 4


def test_names_that_differ_in_their_ending_only(tmp_path, monkeypatch):
    here(monkeypatch)
    arrays = make(tmp_path / "in", "a.nii.gz", "a.nrrd")
    go(tmp_path / "in", tmp_path / "out")
    for name, array in arrays.items():
        assert np.array_equal(
            core_files.load(tmp_path / f"out/{name}_harmonized{name[1:]}").array, 2 * array
        )


def test_folders_that_overlap_are_refused(tmp_path):
    folder = tmp_path / "in"
    make(folder, "a/x.nii.gz")
    (tmp_path / "link").symlink_to(folder)
    for out in (folder, tmp_path, tmp_path / "link", folder / "a/.."):
        with pytest.raises(ValueError, match="choose another output folder"):
            cohort.plan(folder, out)
    (tmp_path / "out").mkdir()
    make(tmp_path / "out", "y.nii.gz")
    (folder / "y.nii.gz").symlink_to(tmp_path / "out/y.nii.gz")
    with pytest.raises(ValueError, match="y.nii.gz lies in the output folder"):
        cohort.plan(folder, tmp_path / "out")
    with pytest.raises(ValueError, match="there is no folder"):
        cohort.plan(tmp_path / "absent", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no volumes in"):
        cohort.plan(tmp_path / "empty", tmp_path / "out")


def test_masks_by_pattern(tmp_path, monkeypatch):
    here(monkeypatch)
    arrays = make(tmp_path / "in", "p/one.nii.gz", "p/two.nii.gz")
    inside = np.zeros((5, 6, 7), np.uint8)
    inside[2] = 1
    (tmp_path / "in/masks/p").mkdir(parents=True)
    core_files.save(Volume(inside, GRID, "mask"), tmp_path / "in/masks/p/one_mask.nii.gz")
    records = go(tmp_path / "in", tmp_path / "out", mask="../masks/{folder}/{name}_mask.nii.gz")
    assert list(records) == ["p/one.nii.gz", "p/two.nii.gz"]
    assert np.array_equal(
        core_files.load(tmp_path / "out/p/one_harmonized.nii.gz").array,
        2 * arrays["p/one.nii.gz"] * inside,
    )
    assert "two_mask.nii.gz" in records["p/two.nii.gz"]["error"], (
        "a mask that is not there is said, not left out"
    )


def test_masks_that_lie_beside_their_volumes(tmp_path, log, monkeypatch):
    """NAME_mask of NAME is used as its mask and is no volume, whatever the endings.

    A mask of nobody stays a volume.
    """
    here(monkeypatch)
    folder, out, said = tmp_path / "in", tmp_path / "out", []
    arrays = make(folder, "p/one.nii.gz", "p/two.nrrd", "three.nii.gz", "lonely_mask.nii.gz")
    inside = np.zeros((5, 6, 7), np.uint8)
    inside[2] = 1
    for name in ("p/one_mask.nrrd", "p/two_mask.nii.gz"):
        core_files.save(Volume(inside, GRID, "mask"), folder / name)
    make_dicom(folder / "series")
    series = core_files.load(folder / "series")
    core_files.save(series.with_array(series.array * 0 + 1), folder / "series_mask.nrrd")

    records = go(folder, out, log)
    assert sorted(records) == [
        "lonely_mask.nii.gz",
        "p/one.nii.gz",
        "p/two.nrrd",
        "series",
        "three.nii.gz",
    ]
    for name, mask in {"p/one": inside, "p/two": inside, "three": 1, "lonely_mask": 1}.items():
        file = next(file for file in arrays if file.startswith(name + "."))
        found = core_files.load(out / f"{name}_harmonized{file.removeprefix(name)}")
        assert np.array_equal(found.array, 2 * arrays[file] * mask)
    assert json.loads((out / "p/one_harmonized.json").read_text())["Mask"] == "one_mask.nrrd"
    assert "Mask" not in json.loads((out / "three_harmonized.json").read_text())

    cohort.plan(folder, out, analysis="shade", log=said.append)
    assert said == ["3 files are taken as masks, not as volumes: NAME_mask of NAME beside it"]
    said.clear()
    assert (
        len(cohort.plan(folder, out, analysis="shade", mask="{name}_mask.nrrd", log=said.append))
        == 5
    )
    assert said == [
        "1 files are left out: their names say that they are masks (NAME_mask of NAME beside it)"
    ]

    log.unlink()  # another mask: that volume is done again
    core_files.save(Volume(np.ones((5, 6, 7), np.uint8), GRID, "mask"), folder / "p/one_mask.nrrd")
    go(folder, out, log)
    assert entries(log, "start") == ["one"]
    make(folder, "p/one_mask.nii.gz")
    with pytest.raises(
        ValueError, match="p/one.nii.gz has more than one mask: one_mask.nii.gz and one_mask.nrrd"
    ):
        cohort.plan(folder, out)


# BIDS


def test_a_bids_data_set_gives_derivatives(tmp_path, monkeypatch):
    here(monkeypatch)
    folder = tmp_path / "study"
    arrays = make(
        folder,
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-02/ses-b/anat/sub-02_ses-b_run-2_T1w.nii.gz",
        "sub-02/ses-b/anat/sub-02_ses-b_T2w.nii.gz",
        "sub-harmonized/anat/sub-harmonized_desc-preproc_T1w.nii.gz",
        "derivatives/other/sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/func/sub-01_T1w.nii.gz",
    )
    (folder / "dataset_description.json").write_text('{"Name": "study", "BIDSVersion": "1.8.0"}')
    before, out = state(folder), folder / "derivatives/netinversion"
    records = go(folder, out)
    expected = {
        "sub-01/anat/sub-01_T1w.nii.gz": "sub-01/anat/sub-01_desc-harmonized_T1w",
        "sub-02/ses-b/anat/sub-02_ses-b_run-2_T1w.nii.gz": (
            "sub-02/ses-b/anat/sub-02_ses-b_run-2_desc-harmonized_T1w"
        ),
        "sub-harmonized/anat/sub-harmonized_desc-preproc_T1w.nii.gz": (
            "sub-harmonized/anat/sub-harmonized_desc-preprocHarmonized_T1w"
        ),
    }
    assert {name: record["output"] for name, record in records.items()} == {
        n: o + ".nii.gz" for n, o in expected.items()
    }
    for name, output in expected.items():
        assert np.array_equal(core_files.load(out / f"{output}.nii.gz").array, 2 * arrays[name])
        sidecar = json.loads((out / f"{output}.json").read_text())
        assert sidecar["Sources"] == [f"bids:source:{name}"] and sidecar["Verdict"] == "accepted"
        assert sidecar["NetInversion"]["facts"]["nothing"] is None, "JSON knows no infinity"
    description = json.loads((out / "dataset_description.json").read_text())
    assert (
        description["DatasetType"] == "derivative"
        and description["GeneratedBy"][0]["Name"] == "NetInversion"
    )
    assert description["DatasetLinks"]["source"] == os.path.relpath(folder, out)
    assert description["BIDSVersion"] and str(tmp_path) not in json.dumps(description)
    assert state(folder, out) == before
    assert list(go(folder, out, suffix="T2w")) == ["sub-02/ses-b/anat/sub-02_ses-b_T2w.nii.gz"]
    with pytest.raises(ValueError, match="no volumes"):  # all of them are results
        cohort.plan(out, tmp_path / "more")


def test_another_data_set_is_no_place_for_results(tmp_path):
    make(tmp_path / "in", "a.nii.gz")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/dataset_description.json").write_text("{}")
    with pytest.raises(ValueError, match="a data set already"):
        cohort.prepare(tmp_path / "in", tmp_path / "out")


# Verdicts, failures, summary


def test_what_fails_or_is_refused_does_not_stop_the_rest(tmp_path, log, monkeypatch):
    here(monkeypatch)
    folder, out = tmp_path / "in", tmp_path / "out"
    make(folder, "bad.nii.gz", "fine.nii.gz", "odd.nii.gz", "wrong.nii.gz")
    (folder / "damaged.nii.gz").write_bytes((folder / "fine.nii.gz").read_bytes()[:-20])
    (folder / "gone.nii.gz").symlink_to(folder / "nowhere.nii.gz")
    records = go(folder, out, log)
    assert {name.split(".")[0]: record["status"] for name, record in records.items()} == {
        "bad": "failed",
        "damaged": "failed",
        "fine": "accepted",
        "gone": "failed",
        "odd": "flagged",
        "wrong": "refused",
    }
    assert sorted(path.name for path in out.glob("*.nii.gz")) == [
        "fine_harmonized.nii.gz",
        "odd_harmonized.nii.gz",
    ]
    rows = {
        row["source"]: row for row in csv.DictReader((out / "summary.csv").open(encoding="utf-8"))
    }
    assert (
        rows["bad.nii.gz"]["error"] == "'bad' is <no> good"
        and "damaged or not complete" in rows["damaged.nii.gz"]["error"]
    )
    assert (
        rows["wrong.nii.gz"]["reasons"] == "contrast <b>inverted</b>"
        and rows["wrong.nii.gz"]["status"] == "refused"
    )
    mean = core_files.load(out / "fine_harmonized.nii.gz").array.mean()
    assert float(rows["fine.nii.gz"]["mean, harmonized"]) == pytest.approx(mean)
    assert (
        rows["fine.nii.gz"]["typical, harmonized"] == "0.5"
        and "typical, source" not in rows["fine.nii.gz"]
    )
    assert rows["bad.nii.gz"]["mean, harmonized"] == "" and list(rows) == sorted(records)
    page = Page(out / "summary.html")
    assert (
        "6 volumes: 3 failed, 1 refused, 1 flagged, 1 accepted" in page.text
        and "contrast <b>inverted</b>" in page.text
    )
    assert page.images == 5, "before and after of the two that have an image, the refused one's own"
    assert [row[1] for row in page.rows if row] == [
        *3 * ["failed"],
        "refused",
        "flagged",
        "accepted",
    ]
    assert (
        "Traceback"
        in json.loads(
            next(  # for whoever looks deeper
                path
                for path in (out / ".netinversion/records").iterdir()
                if b"<no> good" in path.read_bytes()
            ).read_bytes()
        )["details"]
    )

    # Refusals and verdicts stay; failures are tried again.
    log.unlink()
    (folder / "damaged.nii.gz").write_bytes((folder / "fine.nii.gz").read_bytes())
    again = go(folder, out, log)
    assert (
        sorted(entries(log, "start")) == ["bad", "damaged"]
        and again["damaged.nii.gz"]["status"] == "accepted"
    )

    # Forced, the refused volume has an image too, and only it is done again; not forced, it loses
    # it.
    (folder / "bad.nii.gz").unlink()
    log.unlink()
    forced = go(folder, out, log, force=True)
    assert entries(log, "start") == ["wrong"] and forced["wrong.nii.gz"]["status"] == "refused"
    assert json.loads((out / "wrong_harmonized.json").read_text())["Verdict"] == "refused"
    assert (out / "wrong_harmonized.nii.gz").is_file()
    go(folder, out, log)
    assert (
        not (out / "wrong_harmonized.nii.gz").exists()
        and not (out / "wrong_harmonized.json").exists()
    )


def test_only_what_changed_is_done_again(tmp_path, log, monkeypatch):
    here(monkeypatch)
    folder, out, model = tmp_path / "in", tmp_path / "out", tmp_path / "model"
    names = [f"{letter}.nii.gz" for letter in "abcd"]
    make(folder, *names)
    model.write_bytes(b"one")

    def done(**options):
        log.unlink(missing_ok=True)
        go(folder, out, log, model_paths={"model": str(model)}, **options)
        return "".join(entries(log, "start"))

    assert done() == "abcd" and done() == ""
    make(folder, "b.nii.gz", seed=9)  # another source
    (out / "c_harmonized.nii.gz").write_bytes(
        (out / "c_harmonized.nii.gz").read_bytes()[:-7]
    )  # half an image
    (out / "d_harmonized.nii.gz").unlink()
    assert done() == "bcd" and done() == ""
    assert np.array_equal(core_files.load(out / "b_harmonized.nii.gz").array, 2 * picture(9).array)
    assert core_files.load(out / "c_harmonized.nii.gz").array.shape == (5, 6, 7)
    assert done(factor=3) == "abcd" and done(factor=3) == ""
    model.write_bytes(b"two")
    assert done(factor=3) == "abcd"
    for record in (out / ".netinversion/records").iterdir():
        record.write_bytes(record.read_bytes()[:50])
    assert done(factor=3) == "abcd" and done(factor=3) == ""


def test_a_record_older_than_a_column_leaves_it_empty(tmp_path, monkeypatch):
    here(monkeypatch)
    make(tmp_path / "in", "a.nii.gz")
    monkeypatch.setattr(cohort_page, "COLUMNS", (*cohort_page.COLUMNS, "newer"))
    go(tmp_path / "in", tmp_path / "out")
    (row,) = csv.DictReader((tmp_path / "out/summary.csv").open(encoding="utf-8"))
    assert row["newer"] == "" and row["status"] == "accepted"


def test_results_of_another_version_are_kept_and_said(tmp_path, log, monkeypatch):
    here(monkeypatch)
    folder, out, said = tmp_path / "in", tmp_path / "out", []
    make(folder, "a.nii.gz", "b.nii.gz", "c.nii.gz")
    for module in (cohort_records, runs):
        monkeypatch.setattr(module, "__version__", "7.1")
    go(folder, out, log)
    page = Page(out / "summary.html").text
    assert "NetInversion 7.1." in page and "different versions" not in page
    (out / "b_harmonized.nii.gz").unlink()
    c = next(
        path
        for path in (out / ".netinversion/records").iterdir()
        if b"c.nii.gz" in path.read_bytes()
    )
    c.write_text(
        json.dumps(
            {key: value for key, value in json.loads(c.read_text()).items() if key != "version"}
        )
    )
    log.unlink()
    for module in (cohort_records, runs):
        monkeypatch.setattr(module, "__version__", "7.2")
    items = cohort.plan(folder, out, settings={"log": str(log)}, analysis="shade")
    cohort.run(items, log=said.append)
    assert entries(log, "start") == ["b"]
    assert said[0].startswith(
        "2 of 3 done before, not all by this version of NetInversion (7.2): 1 by version 7.1, "
        "1 by version unknown."
    )
    rows = csv.DictReader((out / "summary.csv").open(encoding="utf-8"))
    assert {row["source"][0]: row["version"] for row in rows} == {
        "a": "7.1",
        "b": "7.2",
        "c": "unknown",
    }
    page = Page(out / "summary.html").text
    assert (
        "different versions of NetInversion, whose results may differ: 7.1 (1), 7.2 (1), unknown"
        " (1)." in page
    )
    assert all(page.count(f"NetInversion: {version}") == 1 for version in ("7.1", "7.2", "unknown"))
    assert json.loads((out / "a_harmonized.json").read_text())["NetInversion"]["version"] == "7.1"


def test_results_of_other_settings_do_not_stay_beside_a_failure(tmp_path, monkeypatch):
    here(monkeypatch)
    make(tmp_path / "in", "a.nii.gz")
    go(tmp_path / "in", tmp_path / "out")
    assert go(tmp_path / "in", tmp_path / "out", factor="two")["a.nii.gz"]["status"] == "failed"
    assert not list((tmp_path / "out").glob("a*"))


TAGS = """html head meta title style body h1 p strong div table thead tbody tr th td span ul li img
details summary label input output script""".split()
ATTRIBUTES = """lang charset class src alt width loading http-equiv content hidden type aria-live
aria-label tabindex role rowspan colspan scope""".split()


class Page(HTMLParser):
    """The text of a page; fails on anything that a browser would load, or run but its own script.

    Rows are the cells of the table's body.
    """

    def __init__(self, path):
        super().__init__()
        self.text, self.images, self.rows, self.within, self.policy = "", 0, [], "", ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        assert tag in TAGS, tag
        attributes, self.within = dict(attributes), tag
        assert attributes.keys() <= set(ATTRIBUTES), attributes
        if tag == "img":
            assert attributes["src"].startswith("data:image/jpeg;base64,/9j/")
            self.images += 1
        if tag == "meta":
            self.policy = attributes.get("content", self.policy)
        if tag == "tbody" or (tag == "tr" and self.rows):
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.within = ""

    def handle_data(self, data):
        if self.within == "script":
            assert data == cohort_page.SCRIPT
            digest = base64.b64encode(hashlib.sha256(data.encode()).digest()).decode()
            assert (
                self.policy.startswith("default-src 'none'") and f"sha256-{digest}'" in self.policy
            )
        elif self.within != "style":
            self.text += data
            if self.rows and self.rows[-1]:
                self.rows[-1][-1] += data.strip()


def test_a_hundred_people_have_a_row_each_with_figures_in_columns(tmp_path):
    """What needs attention first, no figure as prose, nothing that a person cannot read."""
    names = ("Wasserstein distance, source", "Wasserstein distance, harmonized", "bits/dim, a, b")
    blank = {"error": "", "seconds": 3.25, "time": "", "version": "1", "output": "", "bytes": 0}
    records = [
        {
            **blank,
            "source": f"p{n:03}",
            "status": "flagged" if n in (40, 70) else "accepted",
            "reasons": ["too <coarse>", "second"] if n in (40, 70) else [],
            "figures": dict(zip(names, (3234.6, 0.01234, float("nan")))),
        }
        for n in range(100)
    ]
    cohort_page.write(tmp_path, iter(records), tmp_path)
    page = Page(tmp_path / "summary.html")
    rows = [row for row in page.rows if row]
    assert len(rows) == 100 and [row[0][:4] for row in rows[:3]] == ["p040", "p070", "p000"]
    assert rows[0][1:] == ["flagged", "too <coarse>", "3.25", "3235", "0.01234", "–"]
    assert "second" in rows[0][0] and page.text.count("Wasserstein distance") == 1
    assert "bits/dim, a" not in page.text
    assert not re.search(r"\bnan\b|\de[+]\d", page.text.lower())
    text = (tmp_path / "summary.html").read_text(encoding="utf-8")
    assert text.count("<details>") == 100 and len(text) < 1e5


def test_pictures_show_the_middle_as_a_radiologist_does():
    """The bright right half of a head is on the picture's left, whatever the file's axes.

    This holds in axial and coronal views.
    """
    array = np.zeros((40, 50, 60), np.float32)  # RAS: [superior, anterior, right]
    array[10:30, 5:45, 10:30], array[10:30, 5:45, 30:50] = 100, 400
    volume = Volume(array, np.diag([1.0, 1.0, 2.0, 1.0]), "head")
    for axes in ("RAS", "SPL", "ILA"):
        one, two = (
            np.asarray(Image.open(io.BytesIO(base64.b64decode(text))), float)
            for text in cohort_page.thumbnails(
                volumes.reorient(volume, axes), volume.with_array(array * 3)
            )
        )
        assert one.shape == (96, 3 * 96) and np.abs(one - two).max() < 8, (
            "each by its own brightness"
        )
        for left in (0, 96):  # axial, coronal: 40 of 40 mm high, 40 wide
            view = one[:, left : left + 96]
            assert view[20:76, 10:40].mean() > 240 and 55 < view[20:76, 56:86].mean() < 75
        assert np.ptp(one[20:76, 208:272]) < 12, "the sagittal view lies in one half"
        for place in range(6):  # a letter at both sides of each view
            x = place // 2 * 96 + (place % 2) * 86
            assert one[40:56, x : x + 10].max() > 200


@posix
def test_hostile_names(tmp_path, monkeypatch):
    here(monkeypatch)
    folder, out = tmp_path / "in", tmp_path / "out"
    names = [
        "<img src=x onerror=alert(1)>.nii.gz",
        "=1+cmd|'a'!A1.nii.gz",
        "line\nbreak\x1b[31m.nii.gz",
        "é 漢 '\"&amp;.nii.gz",
        "-rf.nii.gz",
        "nested/{name}%s.nii.gz",
        os.fsdecode(b"\xff\xfe.nii.gz"),
        "x" * 240 + ".nii.gz",
        "A.NII.GZ",
    ]
    make(folder, *names)
    records = go(folder, out, mask=None)
    cannot = {
        names[6],
        names[7],
    }  # ITK cannot open the one, the other's result would have too long a name
    assert {name for name, record in records.items() if record["status"] == "failed"} == cannot
    assert all(record["error"] for name, record in records.items() if name in cannot)
    page = Page(out / "summary.html")
    assert all(shown(name) in page.text for name in names) and "\x1b" not in page.text
    rows = list(csv.reader((out / "summary.csv").open(encoding="utf-8", newline="")))
    assert [row[0].lstrip("'") for row in rows[1:]] == [shown(name) for name in records]
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row)
    assert {path.relative_to(out).parts[0] for path in out.rglob("*.nii.gz")} >= {
        "nested",
        "A_harmonized.nii.gz",
    }


# Kills


@posix
def test_a_killed_run_goes_on_where_it_was(tmp_path, log):
    folder, out = tmp_path / "in", tmp_path / "out"
    arrays = make(folder, *(f"{n}.nii.gz" for n in range(5)))
    command = [*cohort_analyses.WORKER, str(folder), str(out), str(log), "2"]
    environment = {**os.environ, "PYTHONPATH": PATHS}
    first = subprocess.Popen(command, env=environment)
    wait_until(lambda: "2" in entries(log, "start"))
    worker = int(log.read_text().split()[1])
    first.kill()
    first.wait()
    wait_until(lambda: not psutil.pid_exists(worker))
    assert entries(log, "end") == ["0", "1"] and len(list(out.glob("*.nii.gz"))) == 2
    for age, name in [
        (0, "new"),
        (90000, "old"),
    ]:  # what killed ones leave; the new may be somebody's
        (out / f".netinversion/temporary/{name}").mkdir(parents=True)
        os.utime(out / f".netinversion/temporary/{name}", (time.time() - age,) * 2)
    subprocess.run(command, check=True, env=environment)
    assert entries(log, "start") == list("012234"), "what was finished is not done again"
    assert entries(log, "end") == list("01234")
    for name, array in arrays.items():
        assert np.array_equal(
            core_files.load(out / f"{name[0]}_harmonized.nii.gz").array, 2 * array
        )
    assert [path.name for path in (out / ".netinversion/temporary").iterdir()] == ["new"]


@posix
def test_a_dead_worker_costs_its_volume_only(tmp_path):
    make(tmp_path / "in", "a.nii.gz", "killer.nii.gz", "z.nii.gz")
    records = go(tmp_path / "in", tmp_path / "out")
    assert [record["status"] for record in records.values()] == ["accepted", "failed", "accepted"]
    assert records["killer.nii.gz"]["error"] == jobs.KILLED
    assert records["a.nii.gz"]["pid"] != records["z.nii.gz"]["pid"]


def test_the_librarys_own_worker_knows_the_librarys_analyses_only(tmp_path):
    make(tmp_path / "in", "a.nii.gz")
    (record,) = cohort.run(cohort.plan(tmp_path / "in", tmp_path / "out", analysis="shade"))
    assert (
        record["error"].startswith("There is no analysis 'shade'. Choose one of: ")
        and record["pid"] != os.getpid()
    )


def test_a_worker_that_does_not_start_fails_with_its_words(tmp_path):
    make(tmp_path / "in", "a.nii.gz")
    items = cohort.plan(tmp_path / "in", tmp_path / "out", analysis="shade")
    (record,) = cohort.run(items, worker=(sys.executable, "-c", "import nothing_of_that_name"))
    assert record["status"] == "failed" and "nothing_of_that_name" in record["error"]


def test_two_that_do_the_same_volume_leave_one_result(tmp_path, monkeypatch):
    make(tmp_path / "in", "a.nii.gz")
    (item,) = cohort.plan(tmp_path / "in", tmp_path / "out", analysis="shade")
    cohort.prepare(tmp_path / "in", tmp_path / "out")
    files, real = [], jobs_request.run_here

    def overtaken(request):
        monkeypatch.setattr(jobs_request, "run_here", real)
        assert cohort.work(vars(item))["status"] == "accepted"
        files.append(state(tmp_path / "out"))
        return real(request)

    monkeypatch.setattr(jobs_request, "run_here", overtaken)
    record = cohort_records._do(item)
    assert files == [state(tmp_path / "out")] and record["status"] == "accepted"
    assert cohort.failed_record(item, "too late")["status"] == "accepted" and files == [
        state(tmp_path / "out")
    ]


@posix
def test_no_run_beside_one_that_shares_nothing(tmp_path, monkeypatch):
    here(monkeypatch)
    monkeypatch.setattr(folders, "WAIT_S", 0.1)
    make(tmp_path / "in", "a.nii.gz")
    with folders.only_run_in(tmp_path / "out"):
        with pytest.raises(ValueError, match="another run writes into"):
            go(tmp_path / "in", tmp_path / "out")
    assert go(tmp_path / "in", tmp_path / "out")["a.nii.gz"]["status"] == "accepted"


def test_stopped_by_the_user_the_summary_says_what_is_missing(tmp_path, monkeypatch):
    make(tmp_path / "in", "a.nii.gz", "b.nii.gz")

    def stopped(shares, *_):
        yield done(next(shares))
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "run_locally", stopped)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "in", tmp_path / "out")
    assert "1 not run, 1 accepted" in Page(tmp_path / "out/summary.html").text


# A cluster


@pytest.fixture
def quiet_dask(monkeypatch):
    pytest.importorskip("distributed", reason="the package 'distributed' is not installed")
    monkeypatch.setenv("PYTHONPATH", PATHS)
    import dask

    with dask.config.set(
        {"distributed.worker.daemon": True, "distributed.comm.timeouts.connect": "5s"}
    ):
        yield


@posix
def test_a_killed_workers_volumes_are_done_again_and_nothing_twice(tmp_path, log, quiet_dask):
    from distributed import LocalCluster

    folder, out = tmp_path / "in", tmp_path / "out"
    arrays = make(folder, *(f"{n}.nii.gz" for n in range(8)), "bad.nii.gz")
    items = cohort.plan(folder, out, settings={"log": str(log), "hangs": "3"}, analysis="shade")
    finished = []

    def watch(line):
        """When some volumes are finished and one hangs, kill the worker that has it."""
        begun = [line.split() for line in log.read_text().splitlines() if line.startswith("start")]
        hanging = [int(pid) for _, pid, name in begun if name == "3"]
        records = list((out / ".netinversion/records").glob("*.json"))
        if not finished and hanging and len(records) >= 3:
            finished.extend(path.name[0] for path in out.glob("*.nii.gz"))
            os.kill(hanging[0], signal.SIGKILL)

    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        dashboard_address=None,
        preload="cohort_analyses",
        silence_logs=50,
    ) as cluster:
        records = cohort.run(
            items, scheduler=cohort.Scheduler(cluster.scheduler_address), log=watch
        )
        assert [record["status"] for record in records] == ["accepted"] * 8 + ["failed"]
        assert "<no> good" in records[-1]["error"]
        assert sorted(entries(log, "start")) == [
            *"012334567",
            "bad",
        ], "only the killed worker's volume was begun again"
        assert sorted(entries(log, "end")) == list("01234567") and len(finished) >= 2
        assert os.getpid() not in {int(line.split()[1]) for line in log.read_text().splitlines()}
        for name, array in arrays.items():
            if name != "bad.nii.gz":
                assert np.array_equal(
                    core_files.load(out / f"{name[0]}_harmonized.nii.gz").array, 2 * array
                )
        log.write_text("start 0 3\n")
        cohort.run(items, scheduler=cohort.Scheduler(cluster.scheduler_address))
        assert entries(log, "start") == [
            "3",
            "bad",
        ], "the second run does what failed, and nothing else"


@posix
def test_a_scheduler_with_tls(tmp_path, quiet_dask, monkeypatch):
    from distributed import LocalCluster, Security

    if not shutil.which("openssl"):
        pytest.skip("certificates: the program openssl is not installed")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=test",
            "-keyout",
            key,
            "-out",
            cert,
        ],
        check=True,
        capture_output=True,
    )
    both = {
        "tls_scheduler_cert": str(cert),
        "tls_scheduler_key": str(key),
        "tls_worker_cert": str(cert),
        "tls_worker_key": str(key),
        "tls_client_cert": str(cert),
        "tls_client_key": str(key),
    }
    security = Security(tls_ca_file=str(cert), require_encryption=True, **both)
    make(tmp_path / "in", "a.nii.gz")
    items = cohort.plan(tmp_path / "in", tmp_path / "out", analysis="shade")
    with LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        dashboard_address=None,
        security=security,
        protocol="tls://",
        silence_logs=50,
    ) as cluster:
        address = cluster.scheduler_address
        assert address.startswith("tls://")
        (record,) = cohort.run(
            items, scheduler=cohort.Scheduler(address, str(cert), str(cert), str(key))
        )
        assert record["status"] == "accepted"
    with pytest.raises(ValueError, match="there is no file"):
        cohort_cluster._client(cohort.Scheduler(address, str(tmp_path / "absent.pem")))


class Future:
    """As Dask gives it for a volume that did not come to an end."""

    def __init__(self, status, error=None):
        self.status, self.exception = status, lambda: error

    def cancelled(self):
        return self.status == "cancelled"


def test_what_the_cluster_could_not_do_is_said(tmp_path):
    killed = type("KilledWorker", (Exception,), {})("attempted to run task 4 times")
    make(tmp_path / "in", "a.nii.gz")
    (item,) = cohort.plan(tmp_path / "in", tmp_path / "out", analysis="shade")
    cohort.prepare(tmp_path / "in", tmp_path / "out")
    for future, error in [
        (Future("error", killed), cohort.WORKERS_LOST),
        (Future("cancelled"), cohort.CLUSTER_LOST),
        (Future("lost"), cohort.CLUSTER_LOST),
    ]:
        record = cohort_cluster._outcome(item, future)
        assert (
            record["status"] == "failed"
            and record["error"] == error == cohort.read_record(item)["error"]
        )
    missing = ModuleNotFoundError("No module named 'NetInversionLib'", name="NetInversionLib")
    assert (
        "Install 'netinversion[cluster]'"
        in cohort_cluster._outcome(item, Future("error", missing))["error"]
    )
    assert cohort.work(vars(item))["status"] == "accepted"
    assert cohort_cluster._outcome(item, Future("lost"))["status"] == "accepted", (
        "a worker that finished in spite of all counts"
    )


def test_a_worker_without_the_shared_folders_writes_nothing(tmp_path, monkeypatch):
    make(tmp_path / "in", "a.nii.gz")
    items = cohort.plan(tmp_path / "in", tmp_path / "out", analysis="shade")
    record = cohort.work(vars(items[0]))
    assert "does not see" in record["error"] and not (tmp_path / "out").exists()
    monkeypatch.setattr(runs, "run_locally", lambda *_: (one for one in [record]))
    assert cohort.run(items) == [record]
    assert "does not see" in Page(tmp_path / "out/summary.html").text


def test_no_scheduler_at_the_address(quiet_dask):
    import dask

    with dask.config.set({"distributed.comm.timeouts.connect": "300ms"}):
        with pytest.raises(ConnectionError, match="no Dask scheduler answers at tcp://127.0.0.1:9"):
            cohort_cluster._client(cohort.Scheduler("tcp://127.0.0.1:9"))


def test_without_dask_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(RuntimeError, match=r"pip install 'netinversion\[cluster\]'"):
        cohort_cluster._client(cohort.Scheduler("tcp://localhost:8786"))


# The command


def test_command(tmp_path, capsys, monkeypatch):
    from NetInversionLib import cli  # they need torch, nothing else here does
    from NetInversionLib.models import (
        files as models_files,  # they need torch, nothing else here does
    )
    from NetInversionLib.models import library  # they need torch, nothing else here does

    here(monkeypatch)
    monkeypatch.setattr(library, "list_models", lambda: {})
    make(tmp_path / "in", "a.nii.gz", "bad.nii.gz")
    model, other = (str(tmp_path / task) for task in ("harmonization", "image-to-image"))
    for path in (model, other):
        Path(path).write_bytes(b"weights")
    monkeypatch.setattr(
        models_files, "read_card", lambda path: SimpleNamespace(task=Path(path).name)
    )
    line = ["harmonize", str(tmp_path / "in"), str(tmp_path / "out")]
    assert cli.main(line) == 1 and "name one with --model" in capsys.readouterr().err
    assert (
        cli.main([*line, "--model", model, "--mode", "nonsense"]) == 1
        and "anatomy-safe" in capsys.readouterr().err
    )
    assert (
        cli.main([*line, "--model", other]) == 1
        and "is for image-to-image" in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()
    assert cli.main([*line, "--model", model, "--strength", "0.5"]) == 1
    said = capsys.readouterr()
    assert said.out == f"2 volumes: 1 accepted, 1 failed\n{tmp_path / 'out/summary.html'}\n"
    assert "1/2 a.nii.gz: accepted" in said.err and "1 of 2 volumes failed" in said.err
    settings = json.loads((tmp_path / "out/a_harmonized.json").read_text())["Settings"]
    assert settings == {"strength": 0.5}
    (tmp_path / "in/bad.nii.gz").unlink()
    assert cli.main([*line, "--model", model, "--strength", "0.5"]) == 0
    assert "1 of 1 done before" in capsys.readouterr().err
