"""Jobs from the event loop: one final callback, and nothing left behind.

The event loop is served throughout.
"""

import contextlib
import gc
import os
import signal
import stat
import subprocess
import sys
import threading
import time
import types
import weakref
from pathlib import Path

import host
import job_analyses
import numpy as np
import pytest
import torch
from timing import limit
from toy_jobs import alive, same_volume, until, volume

from NetInversionLib import jobs
from NetInversionLib.core.volumes import Volume
from NetInversionLib.jobs import request as jobs_request
from NetInversionLib.jobs import storage

host.start()

import qt  # noqa: E402
import slicer  # noqa: E402

from NetInversionLib.panel import job as panel_job  # noqa: E402
from NetInversionLib.panel import (
    packages,  # noqa: E402
)
from NetInversionLib.panel import stepper as panel_stepper  # noqa: E402

pytestmark = pytest.mark.skipif(
    os.name != "posix", reason="the test worker is started by a shell script"
)


class Heard:
    """Callbacks that note what they are called with."""

    def __init__(self):
        self.progress, self.logs, self.points, self.ends = [], [], [], []
        self.threads = set()

    def callbacks(self):
        def note(kind, where):
            def callback(*arguments):
                self.threads.add(threading.current_thread())
                where.append((kind, *arguments) if kind else arguments)

            return callback

        return {
            "on_progress": note("", self.progress),
            "on_log": note("", self.logs),
            "on_point": note("", self.points),
            "on_finished": note("finished", self.ends),
            "on_failed": note("failed", self.ends),
        }

    @property
    def end(self):
        assert len(self.ends) == 1
        return self.ends[0]


@pytest.fixture(params=["direct", "behind a launcher"])
def either_python(request, tmp_path):
    return job_analyses.launcher(tmp_path, request.param == "direct")


@pytest.fixture
def python(tmp_path):
    return job_analyses.launcher(tmp_path)


@pytest.fixture
def start(python, tmp_path, monkeypatch):
    """start(analysis, volumes, **settings) -> (job, heard).

    Afterwards no process, timer or folder may be left.
    """
    room = tmp_path / "temporary"
    room.mkdir()
    monkeypatch.setattr(type(slicer.app), "temporaryPath", property(lambda app: str(room)))
    started = []

    def start_(analysis, volumes=None, python=python, more=None, **settings):
        heard = Heard()
        request = jobs.Request(analysis, volumes or {}, settings=settings)
        job = panel_job.QtJob(request, python=python, **{**heard.callbacks(), **(more or {})})
        started.append(job)
        return job, heard

    yield start_
    for job in started:
        assert not job.running
        assert job._process is None or job._process.state() == qt.QProcess.NotRunning
        if job._pid is not None:
            until(
                lambda: not alive(job._pid)
            )  # what was killed may still wait for a processor to die on
    assert list(room.iterdir()) == []


def wait(job, timeout=20):
    return host.wait(lambda: not job.running, timeout)


def wait_for(items, job, timeout=20):
    host.wait(lambda: items or not job.running, timeout)
    assert items


# The way it should go


def test_a_job_gives_what_the_caller_would_get_and_hands_on_all_reports(
    start, either_python, monkeypatch
):
    monkeypatch.setattr(jobs_request, "ANALYSES", job_analyses.ANALYSES)
    volumes = {
        "x": volume(np.random.default_rng(1).random((3, 4, 5)).astype(np.float32), units="HU")
    }
    job, heard = start("double", volumes, either_python, factor=3)
    assert job.running and heard.ends == []
    wait(job)
    kind, result, message = heard.end
    here = jobs.run_here(jobs.Request("double", volumes, settings={"factor": 3}))
    assert kind == "finished" and message.startswith("Done in ")
    same_volume(result.volumes["x"], here.volumes["x"])
    assert result.facts == here.facts and result.curves == here.curves
    assert heard.progress[-1] == (0.5, "doubling") and heard.points == [("loss", 1, 0.25)]
    launchers = (
        [("info: a launcher may say something",), ("12",)] if "launcher" in either_python else []
    )
    assert heard.logs == [*launchers, ("started",)]
    assert heard.threads == {threading.main_thread()}


def test_callbacks_may_be_left_out(start):
    nothing = dict.fromkeys(("on_progress", "on_log", "on_point", "on_finished", "on_failed"))
    for analysis, settings in [("double", {"factor": 1}), ("fail", {"how": "error"})]:
        wait(start(analysis, more=nothing, **settings)[0])
    job, _ = start("wait", more=nothing)
    job.cancel()
    wait(job)


def test_the_temporary_folder_is_private(start):
    job, heard = start("wait")
    wait_for(heard.progress, job)
    folder = Path(job._folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} <= {
        ".txt",
        ".json",
        ".npy",
    }
    job.discard()


def test_a_flood_of_reports_reaches_the_callbacks_in_order(start):
    gaps = []
    for _ in range(3):  # the best of three, since other programs may take the processor away
        job, heard = start("chatter", seconds=0.5)
        gaps.append(wait(job).largest_gap_s)
        count = heard.end[1].facts["count"]
        assert [point[1] for point in heard.points] == list(range(1, count + 1))
        assert heard.progress[-1] == (1.0, "last") and len(heard.progress) < 60
        if gaps[-1] < limit(0.1):
            return
    pytest.fail(f"The event loop waited {min(gaps):.3f} s")


def test_the_event_loop_is_served_while_large_images_come_and_go(start):
    """The input has 200 MB and the result 200 MB.

    The best of three counts, since other programs may take the processor away.
    """
    # Float16 and every other row: the slow way, through NumPy's buffer.
    array = np.ones((200, 2, 2**19), np.float16)[:, ::2]
    big = {"x": Volume(array, np.eye(4), "big")}
    gaps = []
    for _ in range(3):
        job, heard = start("large", big, megabytes=100, count=2)
        gaps.append(wait(job).largest_gap_s)
        volumes = heard.end[1].volumes
        for i in range(2):
            array = volumes[f"v{i}"].array
            assert array.nbytes == 100 * 2**20 and np.array_equal(
                array.ravel(), np.arange(i, i + array.size)
            )
        if gaps[-1] < limit(0.1):
            return
    pytest.fail(f"The event loop waited {min(gaps):.3f} s")


def test_two_jobs_run_side_by_side(start):
    (a, heard_a), (b, heard_b) = (
        start("double", {"x": volume(np.full((2, 2, 2), n))}, factor=1) for n in (1, 2)
    )
    host.wait(lambda: not (a.running or b.running))
    assert [np.unique(h.end[1].volumes["x"].array).tolist() for h in (heard_a, heard_b)] == [
        [1],
        [2],
    ]


def test_a_callback_may_run_the_event_loop(start):
    depth, deepest = [0], [0]

    def nested(*_):
        depth[0] += 1
        deepest[0] = max(deepest[0], depth[0])
        with contextlib.suppress(TimeoutError):
            host.wait(lambda: not job.running, 0.03)  # as a dialog would
        depth[0] -= 1

    job, heard = start("chatter", more={"on_log": nested, "on_progress": nested}, seconds=0.1)
    wait(job)
    assert heard.end[0] == "finished" and deepest[0] == 1 and not host.errors


def test_a_callback_that_fails_costs_nothing_but_itself(start, caplog):
    calls = []

    def fail(*arguments):
        calls.append(arguments)
        raise ValueError("the plot's node is gone")

    job, heard = start("chatter", more={"on_point": fail}, seconds=0.2)
    wait(job)
    assert heard.end[0] == "finished" and heard.progress and len(calls) == 1
    assert "the plot's node is gone" in caplog.text


# Cancel and discard


def test_cancel_takes_effect_within_a_second_and_keeps_the_last_intermediate_result(
    start, either_python
):
    job, heard = start("steps", python=either_python, shape=(16, 256, 256))  # 4 MB each
    host.wait(lambda: heard.progress and heard.progress[-1][0] > 0.02, 20)
    steps = heard.progress[-1][0] * 1000
    before = time.monotonic()
    job.cancel()
    so_far = len(heard.progress)
    wait(job)
    assert time.monotonic() - before < limit(1)
    kind, result, message = heard.end
    assert kind == "finished" and message == "Cancelled; the best result so far is kept."
    assert len(heard.progress) == so_far  # silence after cancel
    assert 1 <= result.facts["number"] <= steps + 5000
    assert all(np.all(v.array == result.facts["number"]) for v in result.volumes.values())


def test_cancel_ends_the_whole_family(start, either_python, tmp_path):
    file = tmp_path / "pids"
    job, heard = start("family", python=either_python, file=str(file))
    host.wait(file.exists, 20)
    pids = [int(pid) for pid in file.read_text().split()]
    assert len(pids) == 3 and all(map(alive, pids))
    before = time.monotonic()
    job.cancel()
    wait(job)
    until(lambda: not any(map(alive, pids)))
    assert time.monotonic() - before < limit(1)
    assert heard.end == ("finished", None, "Cancelled; there was no result yet.")


@pytest.mark.parametrize("delay", [0, 0.02, 0.06, 0.1, 0.2, 0.3])
def test_cancel_works_at_any_time_and_any_number_of_times(start, either_python, delay):
    job, heard = start("wait", {"x": volume(np.zeros((8, 512, 512)))}, either_python, kept=1)
    before = time.monotonic()
    with contextlib.suppress(TimeoutError):
        host.wait(lambda: False, delay)
    cancelled = time.monotonic()
    for _ in range(3):
        job.cancel()
    wait(job)
    job.cancel()
    assert time.monotonic() - cancelled < limit(1), f"cancelled after {cancelled - before:.2f} s"
    assert heard.end[0] == "finished" and heard.end[2].startswith("Cancelled; ")
    until(lambda: not processes_of(job))  # a Python that still starts notices only then


def processes_of(job):
    """Numbers of all processes whose command line names the job's folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(job._folder).encode() in entry.read_bytes():
                found.append(entry.parent.name)
    return found


def test_cancel_does_not_wait_for_a_large_request_to_be_written(start):
    terabyte = np.broadcast_to(np.float32(0), (1024, 2**14, 2**14))
    job, heard = start("double", {"x": volume(terabyte)})
    host.wait(lambda: list(job._folder.iterdir()), 20)
    before = time.monotonic()
    job.cancel()
    wait(job)
    assert time.monotonic() - before < limit(1) and heard.end[0] == "finished"


def test_nothing_is_handed_on_after_cancel_not_even_the_rest_of_a_message(start):
    points = []

    def cancel_at_the_fifth(*point):
        points.append(point)
        if len(points) == 5:
            job.cancel()

    job, heard = start("chatter", more={"on_point": cancel_at_the_fifth}, seconds=20)
    wait(job)
    assert len(points) == 5 and heard.end[0] == "finished"


def test_cancel_from_a_callback(start):
    job, heard = start(
        "wait", more={"on_progress": lambda fraction, _: fraction and job.cancel()}, kept=1
    )
    wait(job)
    assert heard.end[0] == "finished" and heard.end[1].facts == {"number": 1}


def test_cancel_after_the_end_does_nothing(start):
    job, heard = start("double", factor=1)
    wait(job)
    job.cancel()
    job.discard()
    assert heard.end[0] == "finished" and heard.end[2].startswith("Done")


def test_a_result_that_is_complete_when_cancel_comes_is_delivered(start):
    job, heard = start("double", {"x": volume(np.zeros((16, 512, 512)))}, factor=1)
    host.wait(lambda: (job._folder / "result").exists(), 20)
    job.cancel()
    wait(job)
    assert heard.end[0] == "finished" and heard.end[1].facts["seed"] == 7


@pytest.mark.parametrize("when", ["at once", "running", "loading"])
def test_discard_ends_it_at_once_and_in_silence(start, either_python, when):
    job, heard = start(
        "large", {"x": volume(np.zeros((4, 4, 4)))}, either_python, megabytes=20, count=4
    )
    if when == "running":
        host.wait(lambda: job._pid, 20)
    if when == "loading":
        host.wait(lambda: (job._folder / "result").exists(), 20)
    job.discard()
    job.discard()
    assert not job.running and not job._folder.exists()
    with contextlib.suppress(TimeoutError):
        host.wait(lambda: False, 0.2)
    assert heard.ends == []


def test_discard_from_a_callback(start):
    job, heard = start("chatter", more={"on_point": lambda *_: job.discard()}, seconds=5)
    wait(job)
    with contextlib.suppress(TimeoutError):
        host.wait(lambda: False, 0.1)
    assert heard.ends == [] and not host.errors


def test_the_worker_ends_with_the_application_however_that_ends(tmp_path):
    """The application is a process of its own here, and it is killed."""
    pids = tmp_path / "pids"
    places = [str(job_analyses.ROOT / part) for part in ("", "Testing", "Testing/tests")]
    code = f"""if True:
        import sys
        sys.path[:0] = {places!r}
        import host, job_analyses
        host.start()
        from NetInversionLib import jobs
        from NetInversionLib.panel.job import QtJob
        request = jobs.Request("family", {{}}, settings={{"file": {str(pids)!r}}})
        job = QtJob(request, python={job_analyses.launcher(tmp_path, False)!r})
        print(job._folder, flush=True)
        host.wait(lambda: False, 60)
    """
    application = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    folder = Path(application.stdout.readline().strip())
    until(pids.exists, 20)
    family = [int(pid) for pid in pids.read_text().split()]
    application.send_signal(signal.SIGKILL)
    application.wait()
    application.stdout.close()
    until(lambda: not any(map(alive, family)) and not folder.exists())


# The ways it may go wrong


@pytest.mark.parametrize(
    ("how", "said", "in_details"),
    [
        ("card", jobs.GRAPHICS_MEMORY, "Tried to allocate"),
        ("killed", jobs.KILLED, "words on standard error"),
        ("segfault", "crashed", "job_analyses.py"),
        ("exit", jobs.LOST, "words on standard output"),
    ],
)
def test_a_bad_end_has_its_message_its_details_and_the_last_result(
    start, either_python, how, said, in_details, monkeypatch
):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # Slicer does not set it
    job, heard = start("fail", python=either_python, how=how)
    wait(job)
    kind, message, details, last = heard.end
    assert kind == "failed" and said in message
    assert in_details in details
    assert last.facts == {"number": 1}


def test_children_of_a_worker_that_was_killed_do_not_stay(start, tmp_path):
    file = tmp_path / "pids"
    job, heard = start("family", file=str(file), die=True)
    wait(job)
    assert heard.end[0] == "failed" and heard.end[1] == jobs.KILLED
    pids = [int(pid) for pid in file.read_text().split()]
    until(lambda: not any(map(alive, pids)))


@pytest.mark.parametrize("python", ["/nowhere/python", "/etc/passwd"])
def test_a_python_that_cannot_be_started_is_named(start, python):
    job, heard = start("double", python=python)
    wait(job)
    kind, message, _, last = heard.end
    assert (
        kind == "failed" and f"Python could not be started ({python})" in message and last is None
    )


def test_a_python_without_numpy_names_it(start, tmp_path):
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')  # no site-packages
    bare.chmod(0o700)
    job, heard = start("double", python=str(bare))
    wait(job)
    assert "'numpy' is missing" in heard.end[1] and "Traceback" in heard.end[2]


def test_a_disk_that_is_full_at_the_request_is_said_and_nothing_started(start, monkeypatch):
    monkeypatch.setattr(storage, "open", job_analyses.open_full, raising=False)
    job, heard = start("double", {"x": volume(np.zeros((4, 4, 4)))}, factor=1)
    wait(job)
    assert heard.end[:2] == ("failed", jobs.DISK_FULL) and job._process is None


def test_a_damaged_result_is_said(start):
    job, heard = start("double", {"x": volume(np.zeros((4, 4, 4)))}, factor=1)
    load = storage.load_result

    def damaged(folder, name="result"):
        (folder / "result/0.npy").write_bytes(b"nonsense")
        return load(folder, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "load_result", damaged)
        wait(job)
    assert heard.end[0] == "failed" and heard.end[3] is None


def test_a_job_lets_go_of_its_images_once_they_are_written(start):
    array = np.zeros((4, 4, 4))
    reference = weakref.ref(array)
    job, heard = start("wait", {"x": volume(array)})
    del array
    wait_for(heard.progress, job)
    gc.collect()
    assert reference() is None
    job.discard()


def test_the_library_is_found_whatever_the_working_folder(start, monkeypatch, tmp_path):
    """The real command line runs, with the interpreter that runs this.

    Modules lying about in folders are not picked up.
    """
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "somewhere"))
    job, heard = start("nonsense", python=panel_job.find_python())
    wait(job)
    assert "There is no analysis 'nonsense'" in heard.end[1]


# Steps


class Steps:
    """A generator of steps that notes what is done, and what came of it."""

    def __init__(self, count=5, fail=None, more=True):
        self.done, self.undone, self.ends = 0, 0, []
        self.stepper = panel_stepper.Stepper(
            self._steps(count, fail, more),
            lambda value: self.ends.append(value),
            lambda error: self.ends.append(error),
        )

    def _steps(self, count, fail, more):
        try:
            for _ in range(count):
                self.done += 1
                if self.done == fail:
                    raise ValueError("no")
                yield more
        except GeneratorExit:
            self.undone += 1
            raise
        return "value"


def test_steps_run_from_the_event_loop_and_give_their_value():
    steps = Steps()
    assert steps.done == 0 and steps.stepper.running
    host.wait(lambda: not steps.stepper.running)
    assert (steps.done, steps.undone, steps.ends) == (5, 0, ["value"])
    steps.stepper.close()
    assert steps.undone == 0


def test_a_step_that_waits_is_followed_a_tick_later():
    steps = Steps(more=False)
    waited = host.wait(lambda: not steps.stepper.running)
    assert steps.done == 5 and waited.elapsed_s > 4 * panel_stepper.TICK_MS / 1000


def test_steps_that_fail_say_so_once():
    steps = Steps(fail=3)
    host.wait(lambda: not steps.stepper.running)
    assert steps.done == 3 and [str(end) for end in steps.ends] == ["no"]


def test_closed_steps_are_undone_and_end_in_silence():
    steps = Steps(1000, more=False)
    host.wait(lambda: steps.done)
    steps.stepper.close()
    steps.stepper.close()
    done = steps.done
    with contextlib.suppress(TimeoutError):
        host.wait(lambda: False, 0.1)
    assert (steps.done, steps.undone, steps.ends) == (done, 1, []) and not steps.stepper.running


def test_a_step_may_close_its_own_stepper():
    undone = []

    def steps():
        try:
            stepper.close()
            yield True
            undone.append("never")
        finally:
            undone.append("undone")

    stepper = panel_stepper.Stepper(steps(), undone.append, undone.append)
    host.wait(lambda: not stepper.running)
    assert undone == ["undone"]


def test_steps_can_be_finished_at_once_with_the_event_loop_served():
    steps, heard = Steps(50), []
    qt.QTimer.singleShot(0, lambda: heard.append("event"))
    steps.stepper.finish()
    assert steps.ends == ["value"] and heard == ["event"]


# Python and packages


def test_slicers_python_is_preferred_and_slicer_itself_never_taken(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "SlicerApp-real"))
    with pytest.raises(RuntimeError, match="PythonSlicer.*was not found"):
        panel_job.find_python()
    for folder in ("bin", "path"):
        program = tmp_path / folder / "PythonSlicer"
        program.parent.mkdir()
        program.write_text("#!/bin/sh\n")
        program.chmod(0o700)
        assert panel_job.find_python() == str(program)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3.12")
    assert panel_job.find_python() == "/usr/bin/python3.12"


@pytest.fixture
def shop(monkeypatch):
    """A computer on which packages can be missing and are installed in a dictionary.

    Its ``log`` tells what was asked.
    """
    installed = {name: "99.0" for name in packages.PACKAGES}
    log = []

    def version(name):
        if name not in installed:
            raise packages.importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    class PyTorchUtilsLogic:
        def installTorch(self, askConfirmation=False, torchVersionRequirement=None, **_):
            log.append(("torch", askConfirmation, torchVersionRequirement))
            if shop_.answer:
                installed["torch"] = "2.9.0+cu128"
                return torch
            return None

    def pip_ensure(requirements, requester=None):
        log.append(("pip_ensure", requirements, requester))
        if not shop_.answer:
            raise RuntimeError("User declined package installation")
        installed.update((r.split(">=")[0], r.split(">=")[1]) for r in requirements)

    def pip_install(requirements):
        log.append(("pip_install", requirements))
        if shop_.broken:
            raise subprocess.CalledProcessError(1, "pip")
        installed.update((r.split(">=")[0], r.split(">=")[1] + ".5") for r in requirements.split())

    def confirm(text, title, **_):
        log.append(("confirm", text))
        return shop_.answer

    shop_ = types.SimpleNamespace(installed=installed, log=log, answer=True, broken=False)
    shop_.modern = types.SimpleNamespace(pip_ensure=pip_ensure)
    monkeypatch.setattr(packages.importlib.metadata, "version", version)
    monkeypatch.setitem(
        sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=PyTorchUtilsLogic)
    )
    monkeypatch.setitem(sys.modules, "slicer.packaging", shop_.modern)
    monkeypatch.setattr(slicer.util, "pip_install", pip_install)
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", confirm)
    slicer.app.setTestingEnabled(False)
    yield shop_
    slicer.app.setTestingEnabled(True)


def test_nothing_is_asked_when_all_is_there(shop):
    packages.ensure_packages("IdealInput")
    assert shop.log == []


def test_missing_packages_come_from_the_pytorch_extension_and_slicers_packaging(shop):
    shop.installed.clear()
    packages.ensure_packages("IdealInput")
    assert shop.log == [
        ("torch", True, ">=2.2"),
        ("pip_ensure", ["scikit-image>=0.22", "safetensors>=0.4"], "IdealInput"),
    ]


def test_older_slicers_ask_and_use_their_own_installer(shop, monkeypatch):
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)  # import fails
    shop.installed["safetensors"] = "0.3.9"
    packages.ensure_packages("IdealInput")
    assert [entry[0] for entry in shop.log] == ["confirm", "pip_install"]
    assert "IdealInput" in shop.log[0][1] and "safetensors>=0.4" in shop.log[0][1]
    assert shop.log[1][1] == "safetensors>=0.4"


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize("missing", ["torch", "safetensors"])
def test_declining_installs_nothing_and_says_how_to_go_on(shop, monkeypatch, missing, modern):
    if not modern:
        monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    shop.answer = False
    del shop.installed[missing]
    with pytest.raises(
        packages.PackagesMissing, match="cannot run without.*agree to the installation"
    ):
        packages.ensure_packages("IdealInput")
    assert missing not in shop.installed and not any(
        entry[0] == "pip_install" for entry in shop.log
    )


def test_no_pytorch_extension(shop, monkeypatch):
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    del shop.installed["torch"]
    with pytest.raises(
        packages.PackagesMissing, match="needs the PyTorch extension.*Extensions Manager"
    ):
        packages.ensure_packages("IdealInput")


def test_a_torch_that_is_too_old_is_not_replaced_under_the_users_feet(shop):
    shop.installed["torch"] = "2.1.2"
    with pytest.raises(packages.PackagesMissing, match="older PyTorch is installed.*Uninstall"):
        packages.ensure_packages("IdealInput")
    assert shop.log == []


def test_an_installation_that_fails_or_brings_nothing_is_said(shop, monkeypatch):
    del shop.installed["safetensors"]
    shop.modern.pip_ensure = lambda requirements, requester=None: None
    with pytest.raises(
        packages.PackagesMissing, match="safetensors>=0.4, which the installation did not bring"
    ):
        packages.ensure_packages("IdealInput")
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    shop.broken = True
    with pytest.raises(packages.PackagesMissing, match="could not be installed.*connection"):
        packages.ensure_packages("IdealInput")


def test_testing_mode_installs_nothing(shop):
    slicer.app.setTestingEnabled(True)
    shop.installed.clear()
    with pytest.raises(packages.PackagesMissing, match="testing mode installs nothing"):
        packages.ensure_packages("IdealInput")
    assert shop.log == []


def test_installing_is_for_the_main_thread(shop):
    caught = []

    def ask():
        try:
            packages.ensure_packages("IdealInput")
        except RuntimeError as error:
            caught.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert caught == ["Packages can only be installed from the main thread."]


def test_the_packages_asked_for_are_those_of_the_project_file():
    text = (job_analyses.ROOT / "pyproject.toml").read_text()
    for name, minimum in packages.PACKAGES.items():
        assert f'"{name}>={minimum}"' in text or f'"{name}>={minimum},<' in text
