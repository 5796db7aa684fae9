"""Several runs in one folder: every volume once, whoever is killed, and one complete summary."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cohort_analyses
import pytest
from test_cohort import PATHS, Page, analyses, done, entries, here, make, posix, wait_until

from NetInversionLib import cohort
from NetInversionLib.cohort import claims as cohort_claims
from NetInversionLib.cohort import folders, runs, shares
from NetInversionLib.cohort.claims import Claims

__all__ = ["analyses"]  # a fixture
ENVIRONMENT = {**os.environ, "PYTHONPATH": PATHS}


def rows(out):
    with (out / "summary.csv").open(encoding="utf-8") as file:
        return {row["source"].split(".")[0]: row for row in csv.DictReader(file)}


def left_behind(out):
    """Claims, and what is half written."""
    own = out / ".netinversion"
    return [*own.glob("records/*claim*"), *own.glob("temporary/*"), *out.rglob("*.part")]


def end_all(session):
    """End what a test that failed has left running."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)


# An array of jobs


@posix
def test_an_array_of_eight_of_which_two_are_killed_does_everything_once(tmp_path, request):
    folder, out, log = tmp_path / "in", tmp_path / "out", tmp_path / "log"
    names = [f"{n:02}" for n in range(13)]
    make(folder, *(f"{name}.nii.gz" for name in names), "bad.nii.gz")
    words = ["array", "8", folder, out, log, "03,11"]
    array = subprocess.Popen(
        [*cohort_analyses.WORKER, *map(str, words)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    request.addfinalizer(lambda: end_all(array.pid))

    def hanging():
        begun = entries(log, "start")
        return {"03", "11"} <= set(begun) and len(begun) == 14 and len(entries(log, "end")) == 11

    wait_until(hanging, 300)
    assert not (out / "summary.html").exists(), "nobody ends while somebody may be killed"
    holders = [
        line.split()[1] for line in log.read_text().splitlines() if line[-2:] in ("03", "11")
    ]
    for pid in holders:
        os.kill(int(pid), signal.SIGKILL)
    ends = json.loads(array.communicate(timeout=300)[0])

    assert sorted(ends) == [-9, -9, 1, 1, 1, 1, 1, 1], "1: a volume is bad"
    assert sorted(entries(log, "end")) == names
    assert sorted(entries(log, "start")) == sorted([*names, "03", "11", "bad"])
    assert {name: row["status"] for name, row in rows(out).items()} == {
        **dict.fromkeys(names, "accepted"),
        "bad": "failed",
    }
    assert "14 volumes: 1 failed, 13 accepted" in Page(out / "summary.html").text
    assert len(list(out.glob("*.nii.gz"))) == 13 and left_behind(out) == []


def test_runs_with_volumes_of_their_own_have_one_summary(tmp_path, monkeypatch):
    here(monkeypatch)
    make(tmp_path / "in", "a.nii.gz", "b.nii.gz", "c.nii.gz")
    items = cohort.plan(tmp_path / "in", tmp_path / "out", analysis="shade")
    for item in items[:2]:
        assert [r["source"] for r in cohort.run([item], everyone=items)] == [item.source]
    assert list(rows(tmp_path / "out")) == ["a", "b"], "c was not asked for"


def test_a_failure_is_not_tried_again_beside_but_by_the_next(tmp_path, monkeypatch):
    """While one run is there, another one takes its failures as they are."""
    log = tmp_path / "log"
    make(tmp_path / "in", "bad.nii.gz")
    settings = {"log": str(log)}
    items = cohort.plan(tmp_path / "in", tmp_path / "out", settings=settings, analysis="shade")

    def with_another(shares, *_):
        here(monkeypatch)
        yield done(next(shares))
        assert [record["status"] for record in cohort.run(items)] == ["failed"]

    monkeypatch.setattr(runs, "run_locally", with_another)
    cohort.run(items)
    assert entries(log, "start") == ["bad"]
    cohort.run(items)
    assert entries(log, "start") == ["bad", "bad"]


def test_a_run_with_other_settings_is_kept_out(tmp_path, monkeypatch):
    here(monkeypatch)
    make(tmp_path / "in", "a.nii.gz")
    plans = [
        cohort.plan(
            tmp_path / "in", tmp_path / "out", settings={"factor": factor}, analysis="shade"
        )
        for factor in (2, 3)
    ]
    cohort.prepare(tmp_path / "in", tmp_path / "out", plans[0])
    if os.name == "posix":
        with folders.one_of_runs_in(tmp_path / "out") as alone:
            assert alone is False
            for overwrite in (False, True):
                with pytest.raises(ValueError, match="another run writes .* other settings"):
                    cohort.prepare(tmp_path / "in", tmp_path / "out", plans[1], overwrite)
            cohort.prepare(tmp_path / "in", tmp_path / "out", plans[0])
    with pytest.raises(ValueError, match="another run, with other settings"):
        cohort.run(plans[1])
    assert cohort.run(plans[0])[0]["status"] == "accepted"


@posix
def test_stopped_by_sigterm_the_page_is_written(tmp_path, request):
    """Also if all processes get the signal, and get it twice, as on a cluster."""
    folder, out = tmp_path / "in", tmp_path / "out"
    make(folder, "a.nii.gz", "sleepy.nii.gz", "z.nii.gz")
    model = next(Path(runs.__file__).parents[2].glob("Resources/Models/t1-brain.safetensors"))
    program = (
        "import sys, cohort_analyses; from NetInversionLib import jobs;"
        "from NetInversionLib.cohort import runs; jobs.ANALYSES.update(cohort_analyses.ANALYSES);"
        "runs.WORKER = cohort_analyses.WORKER;"
        "from NetInversionLib.cli.entry import main; sys.exit(main())"
    )
    words = ["harmonize", str(folder), str(out), "--model", str(model)]
    command = subprocess.Popen(
        [sys.executable, "-c", program, *words],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    request.addfinalizer(lambda: end_all(command.pid))
    records = out / ".netinversion/records"
    wait_until(
        lambda: len(list(records.glob("*.json"))) == 1 and list(records.glob("*.claim-0")), 300
    )
    workers = subprocess.run(
        ["pgrep", "-P", str(command.pid)], capture_output=True, text=True
    ).stdout.split()
    for pid in (*map(int, workers), command.pid, command.pid):
        os.kill(pid, signal.SIGTERM)
    said = command.communicate(timeout=300)[1]
    assert command.returncode == 130 and "goes on from there" in said
    assert [row["status"] for row in rows(out).values()] == ["accepted", "not run", "not run"]
    assert "2 not run, 1 accepted" in Page(out / "summary.html").text and left_behind(out) == []


# Claims


def foreign(folder, text='{"machine": "elsewhere", "pid": 1}'):
    """A claim on "a" that a process of another computer has made."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "a.claim-0"
    path.write_text(text)
    return path


@pytest.mark.parametrize("text", ['{"machine": "elsewhere", "pid": 1}', "", '{"machine'])
def test_a_run_elsewhere_is_lost_when_it_gives_no_sign(tmp_path, monkeypatch, text):
    monkeypatch.setattr(cohort_claims, "LOST_S", 0.4)
    path = foreign(tmp_path, text)
    os.utime(path, (time.time() + 9e4,) * 2)  # clocks differ
    with Claims(tmp_path) as claims:
        for _ in range(6):
            assert claims.take("a") is None
            time.sleep(0.1)
            os.utime(path)
        wait_until(lambda: claims.take("a") == 1)
        assert claims.take("a") is None, "it is ours now"
    assert not list(tmp_path.iterdir())


@posix
def test_a_process_here_that_has_ended_is_lost_at_once(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for pid, taken in ((os.getpid(), None), (ended.pid, 1)):
        foreign(tmp_path, json.dumps({"machine": cohort_claims.machine(), "pid": pid}))
        with Claims(tmp_path) as claims:
            assert claims.take("a") == taken


def test_a_run_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(cohort_claims, "BEAT_S", 0.05)
    with Claims(tmp_path) as claims:
        assert claims.take("a") == 0
        (path,) = tmp_path.iterdir()
        os.utime(path, (0, 0))
        wait_until(lambda: path.stat().st_mtime > 0)


def test_of_many_who_see_a_lost_claim_one_gets_it(tmp_path, monkeypatch):
    monkeypatch.setattr(cohort_claims, "LOST_S", -1.0)
    monkeypatch.setattr(cohort_claims, "_is_gone", lambda text: b"elsewhere" in text)
    for turn in range(20):
        folder = tmp_path / str(turn)
        foreign(folder)
        monkeypatch.setattr(cohort_claims, "LOST_S", 1e6)
        everyone = [Claims(folder).__enter__() for _ in range(8)]
        got, start = [], threading.Barrier(8)

        def take(one):
            start.wait()
            got.append(one.take("a"))

        threads = [threading.Thread(target=take, args=(one,)) for one in everyone]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(got, key=str) == [1, *[None] * 7]
        for one in everyone:
            one.__exit__()


def test_a_volume_that_costs_run_after_run_counts_as_failed(tmp_path, monkeypatch):
    here(monkeypatch)
    make(tmp_path / "in", "a.nii.gz")
    (item,) = cohort.plan(tmp_path / "in", tmp_path / "out", analysis="shade")
    folder = item.record_file.parent
    folder.mkdir(parents=True)
    monkeypatch.setattr(cohort_claims, "_is_gone", lambda text: b"elsewhere" in text)
    for lost, status in ((shares.MOST_LOST, "failed"), (shares.MOST_LOST - 1, "accepted")):
        for number in range(lost):
            path = folder / f"{item.record_file.stem}.claim-{number}"
            path.write_text('{"machine": "elsewhere"}')
        (record,) = cohort.run([item])
        assert record["status"] == status and not list(folder.glob("*claim*"))
        assert status == "accepted" or record["error"] == shares.LOST.format(3)


def test_nothing_is_claimed_after_the_end(tmp_path):
    with Claims(tmp_path) as claims:
        pass
    assert claims.over and claims.take("a") is None and not list(tmp_path.iterdir())
