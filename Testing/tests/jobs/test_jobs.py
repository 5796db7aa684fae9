"""Jobs: what is saved comes back the same, and a worker gives what the caller would get.

Every bad end has its words.
"""

import contextlib
import errno
import inspect
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time

import job_analyses
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from toy_jobs import alive, same_volume, until, volume

from NetInversionLib import jobs
from NetInversionLib.core import steps
from NetInversionLib.core.progress import Cancelled, Progress
from NetInversionLib.core.results import Curve, Result, Table
from NetInversionLib.jobs import request as jobs_request
from NetInversionLib.jobs import storage
from NetInversionLib.jobs import worker as jobs_worker

posix = pytest.mark.skipif(os.name != "posix", reason="process groups and signals are POSIX's")


@pytest.fixture
def analyses(monkeypatch):
    monkeypatch.setattr(jobs_request, "ANALYSES", job_analyses.ANALYSES)


# Files


scalars = st.one_of(
    st_numpy.integer_dtypes(endianness="?"),
    st_numpy.unsigned_integer_dtypes(endianness="?"),
    st_numpy.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    st_numpy.boolean_dtypes(),
)
arrays = st_numpy.arrays(scalars, st_numpy.array_shapes(min_dims=3, max_dims=3, max_side=5))


@settings(max_examples=60, deadline=None)
@given(
    array=arrays,
    order=st.permutations([0, 1, 2]),
    name=st.text(),
    key=st.text(),
    piece=st.integers(1, 40),
)
def test_a_request_comes_back_bit_for_bit(tmp_path_factory, array, order, name, key, piece):
    folder = tmp_path_factory.mktemp("job")
    before = volume(array.transpose(order)[::-1], name=name, units="HU")  # not contiguous
    request = jobs.Request(
        "double", {key: before, "second": volume(np.zeros((1, 2, 3)))}, settings={"lambda": 0.1}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "PIECE", 8 * piece)
        steps.finish(jobs.save_request(folder, request))
        after = steps.finish(jobs.load_request(folder))
    assert (after.analysis, after.settings, list(after.volumes)) == (
        "double",
        {"lambda": 0.1},
        [key, "second"][: len(request.volumes)],
    )
    for part in request.volumes:
        same_volume(request.volumes[part], after.volumes[part])


def test_a_result_comes_back_with_tables_curves_facts_and_roles(tmp_path):
    before = Result(
        {"ideal": volume(np.ones((2, 3, 4), np.float32), units="HU")},
        {
            "t": Table(
                "Errors",
                {"region": ["bone"], "MAE (HU)": [np.float32(1.5)], "seed": [np.int64(2**40)]},
            )
        },
        {
            "c": Curve(
                "Loss",
                "step",
                "loss",
                {"noise": ([0.0, 1.0], [float("inf"), 0.1]), "zeros": ([], [])},
                log_y=True,
            )
        },
        {"seed": 1, "nested": {"devices": ["cpu"], "none": None, "yes": True}, "ratio": 0.1 + 0.2},
        {"ideal": "input"},
    )
    steps.finish(storage.save_result(tmp_path, before))
    after = steps.finish(jobs.load_result(tmp_path))
    same_volume(before.volumes["ideal"], after.volumes["ideal"])
    assert (after.tables, after.curves, after.facts, after.roles) == (
        before.tables,
        before.curves,
        before.facts,
        before.roles,
    )


def test_arrays_are_plain_npy_files_and_nothing_else_but_json(tmp_path):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    steps.finish(jobs.save_request(tmp_path, jobs.Request("double", {"x": volume(array)})))
    assert sorted(path.name for path in (tmp_path / "request").iterdir()) == ["0.npy", "facts.json"]
    assert np.array_equal(np.load(tmp_path / "request/0.npy", allow_pickle=False), array)


def test_objects_are_never_pickled_nor_unpickled(tmp_path):
    with pytest.raises(TypeError, match="without pickle"):
        steps.finish(
            jobs.save_request(tmp_path, jobs.Request("double", {"x": volume(np.array([[[{}]]]))}))
        )
    assert list(tmp_path.iterdir()) == []
    steps.finish(
        jobs.save_request(tmp_path, jobs.Request("double", {"x": volume(np.zeros((1, 1, 1)))}))
    )
    pickled = io.BytesIO()
    np.save(pickled, np.array([print], dtype=object), allow_pickle=True)
    (tmp_path / "request/0.npy").write_bytes(pickled.getvalue())
    with pytest.raises(jobs.JobError, match="damaged"):
        steps.finish(jobs.load_request(tmp_path))


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0"])
def test_a_truncated_or_longer_array_is_refused(tmp_path, change):
    steps.finish(
        jobs.save_request(tmp_path, jobs.Request("double", {"x": volume(np.zeros((3, 3, 3)))}))
    )
    path = tmp_path / "request/0.npy"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(jobs.JobError, match=r"damaged \(0.npy\)"):
        steps.finish(jobs.load_request(tmp_path))


def test_settings_are_json_from_the_start_so_that_here_and_worker_agree(tmp_path):
    given_ = {
        "tuple": (1, 2),
        "number": np.float64(0.1),
        "count": np.int32(3),
        "array": np.arange(3),
        "path": tmp_path,
    }
    request = jobs.Request("double", {}, {"net": "model.safetensors"}, given_)
    assert request.settings == {
        "tuple": [1, 2],
        "number": 0.1,
        "count": 3,
        "array": [0, 1, 2],
        "path": str(tmp_path),
    }
    assert os.path.isabs(request.model_paths["net"])  # a worker has another working folder
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        jobs.Request("double", {}, settings={"function": print})


def test_nothing_is_left_under_the_name_when_saving_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "open", job_analyses.open_full, raising=False)
    with pytest.raises(OSError, match="No space left") as caught:
        steps.finish(storage.save_result(tmp_path, Result({"x": volume(np.zeros((4, 4, 4)))})))
    assert list(tmp_path.iterdir()) == []
    assert jobs.explain(caught.value) == jobs.DISK_FULL


def test_saving_and_loading_pause_between_pieces(tmp_path):
    size = 10 * steps.PIECE
    big = volume(np.arange(size // 8).reshape(1, 1, -1))
    for make in (
        lambda: storage.save_result(tmp_path, Result({"x": big})),
        lambda: jobs.load_result(tmp_path),
    ):
        assert 10 <= sum(1 for _ in make()) <= 12


def test_an_intermediate_result_can_be_read_at_any_time_while_it_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs_worker, "INTERMEDIATE_SHARE", 1)
    monkeypatch.setattr(steps, "PIECE", 1024)
    reporter = jobs_worker._Reporter(os.open(os.devnull, os.O_WRONLY), tmp_path)
    stop, seen = threading.Event(), []

    def stopping(fraction, message):
        if stop.is_set():
            raise Cancelled

    def write():
        with contextlib.suppress(Cancelled):
            job_analyses.steps({}, {}, {"shape": (4, 32, 32)}, reporter)

    reporter.report = stopping
    assert steps.finish(jobs.load_intermediate(tmp_path)) is None
    writer = threading.Thread(target=write)
    writer.start()
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        result = steps.finish(jobs.load_intermediate(tmp_path))
        if result is not None:
            values = {float(value) for v in result.volumes.values() for value in np.unique(v.array)}
            assert values == {
                float(result.facts["number"])
            }  # never half of one and half of another
            seen.append(result.facts["number"])
    stop.set()
    writer.join()
    reporter.close()
    assert seen == sorted(seen) and len(set(seen)) > 10
    assert (
        len([p for p in tmp_path.iterdir() if p.name.startswith("intermediate")]) <= 3
    )  # two, and one being written


def test_a_damaged_intermediate_result_is_none_and_not_an_endless_search(tmp_path):
    steps.finish(
        storage.save_result(tmp_path, Result({"x": volume(np.zeros((2, 2, 2)))}), "intermediate-4")
    )
    (tmp_path / "intermediate-4/0.npy").unlink()
    assert steps.finish(jobs.load_intermediate(tmp_path)) is None


# Running


class Recorder(Progress):
    def __init__(self):
        self.heard = []

    def report(self, fraction, message):
        self.heard.append(("progress", fraction, message))

    def log(self, message):
        self.heard.append(("log", message))

    def point(self, curve, x, y):
        self.heard.append(("point", curve, x, y))


def test_run_here_gives_the_analyses_result_and_its_reports(analyses):
    recorder = Recorder()
    request = jobs.Request(
        "double", {"x": volume(np.ones((2, 2, 2)), units="HU")}, settings={"factor": 2.0}
    )
    result = jobs.run_here(request, recorder)
    assert np.all(result.volumes["x"].array == 2) and result.volumes["x"].units == "HU"
    assert recorder.heard == [
        ("progress", 0.5, "doubling"),
        ("log", "started"),
        ("point", "loss", 1, 0.25),
    ]
    assert np.all(jobs.run_here(request).volumes["x"].array == 2)  # without anybody listening


def test_an_unknown_analysis_is_refused_with_the_known_ones():
    with pytest.raises(jobs.JobError, match="no analysis 'nonsense'.*ideal_input"):
        jobs.run_here(jobs.Request("nonsense", {}))


@pytest.mark.parametrize("name", jobs_request.ANALYSES)
def test_every_analysis_is_a_function_of_this_library_with_the_four_arguments(name):
    analysis = jobs.find_analysis(name)
    assert analysis.__module__.startswith("NetInversionLib.")
    assert list(inspect.signature(analysis).parameters) == [
        "volumes",
        "model_paths",
        "settings",
        "progress",
    ]


def worker(folder, request, *options, **kwargs):
    """Start a worker on the request; its messages come from ``messages``."""
    steps.finish(jobs.save_request(folder, request))
    command = [
        sys.executable,
        job_analyses.__file__,
        "-m",
        "NetInversionLib.jobs",
        str(folder),
        *options,
    ]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    environment = {**os.environ, "PYTHONPATH": str(job_analyses.ROOT)}
    return subprocess.Popen(command, env=environment, **{**pipes, **kwargs})


def messages(process):
    output, words = process.communicate(timeout=30)
    return [json.loads(line) for line in output.splitlines()], words.decode()


def gather(found, kind):
    return [item for message in found for item in message.get(kind, [])]


def test_a_worker_gives_bit_for_bit_what_the_caller_gets(tmp_path, analyses):
    settings_ = {"factor": 0.1, "tuple": (1, 2)}
    request = jobs.Request(
        "double", {"x": volume(np.random.default_rng(0).random((3, 4, 5)))}, {"net": "m"}, settings_
    )
    here = jobs.run_here(request)
    process = worker(tmp_path, request)
    found, _ = messages(process)
    there = steps.finish(jobs.load_result(tmp_path))
    assert process.returncode == 0
    same_volume(here.volumes["x"], there.volumes["x"])
    assert there.facts == here.facts and there.curves == here.curves and there.roles == here.roles
    assert str(there.tables) == str(here.tables)  # NaN is there too
    assert found[0]["pid"] == process.pid
    assert gather(found, "logs") == ["started"] and gather(found, "points") == [["loss", 1, 0.25]]
    assert not (tmp_path / "request").exists()  # disk space for the result


def test_the_installed_command_runs_the_analyses_of_the_library(tmp_path):
    steps.finish(jobs.save_request(tmp_path, jobs.Request("nonsense", {})))
    command = [sys.executable, "-m", "NetInversionLib.jobs", str(tmp_path)]
    run = subprocess.run(
        command, capture_output=True, stdin=subprocess.DEVNULL, check=False, cwd=job_analyses.ROOT
    )
    last = json.loads(run.stdout.splitlines()[-1])
    assert (
        run.returncode == 1 and "ideal_input" in last["failed"] and "Traceback" in last["details"]
    )


def test_messages_are_gathered_and_none_but_outdated_progress_is_lost(tmp_path):
    start = time.monotonic()
    found, words = messages(
        worker(tmp_path, jobs.Request("chatter", {}, settings={"seconds": 1.0}))
    )
    elapsed = time.monotonic() - start
    count = steps.finish(jobs.load_result(tmp_path)).facts["count"]
    assert count > 500
    assert len(found) <= 20 * elapsed + 2
    assert [point[1] for point in gather(found, "points")] == list(range(1, count + 1))
    assert gather(found, "logs") == [f"{n}" for n in range(1, count + 1, 100)]
    progress = [message["progress"] for message in found if "progress" in message]
    assert progress[-1] == [1.0, "last"] and len(progress) > 10
    assert "no message" in words and '{"pid": 1}' in words  # prints of libraries are no messages


def test_a_report_before_a_long_silence_arrives(tmp_path):
    process = worker(tmp_path, jobs.Request("wait", {}))
    heard = []
    while [0.1, "waiting"] not in heard:
        heard.append(json.loads(process.stdout.readline()).get("progress"))
    process.kill()
    process.communicate()


FAILURES = {
    "error": "KeyError: 'missing key'",
    "value": "The target holds no voxels. Choose another.",
    "memory": jobs.MEMORY,
    "card": jobs.GRAPHICS_MEMORY,
    "import": "'package_that_nobody_has' is missing",
    "disk": jobs.DISK_FULL,
    "sys.exit": "SystemExit: 4",
}


@pytest.mark.parametrize("how", FAILURES)
def test_a_failing_analysis_says_what_to_do_and_keeps_its_traceback(tmp_path, how):
    process = worker(tmp_path, jobs.Request("fail", {}, settings={"how": how}))
    found, words = messages(process)
    assert process.returncode == 1
    assert FAILURES[how] in found[-1]["failed"]
    assert "job_analyses.py" in found[-1]["details"] and "Traceback" in found[-1]["details"]
    assert "words on standard output" in words and "words on standard error" in words
    assert steps.finish(jobs.load_result(tmp_path)) is None
    assert steps.finish(jobs.load_intermediate(tmp_path)).facts == {"number": 1}


@posix
@pytest.mark.parametrize(
    ("how", "code", "said"),
    [("killed", 9, jobs.KILLED), ("segfault", 11, "crashed (code 11)"), ("exit", 3, jobs.LOST)],
)
def test_a_worker_that_dies_without_a_word_is_explained_by_its_exit(tmp_path, how, code, said):
    process = worker(tmp_path, jobs.Request("fail", {}, settings={"how": how}))
    _, words = messages(process)
    assert abs(process.returncode) == code
    assert said in jobs.explain_exit(abs(process.returncode), process.returncode < 0, words)
    assert ("Segmentation fault" in words and "job_analyses.py" in words) == (
        how == "segfault"
    )  # where it happened
    assert steps.finish(jobs.load_intermediate(tmp_path)).facts == {"number": 1}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_costs_an_intermediate_result_nothing_but_itself(tmp_path):
    found, _ = messages(worker(tmp_path, jobs.Request("no_room", {})))
    assert ["not kept" in line and "disk is full" in line for line in gather(found, "logs")] == [
        True
    ]
    assert found[-1]["failed"] == jobs.DISK_FULL
    assert steps.finish(jobs.load_intermediate(tmp_path)).facts == {"number": 1}


def test_saving_intermediate_results_takes_a_small_share_of_the_time(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(jobs_worker.time, "monotonic", lambda: clock[0])
    saved = []

    def save(folder, result, name):
        saved.append((clock[0], name))
        clock[0] += 2.0
        yield True

    monkeypatch.setattr(jobs_worker, "save_result", save)
    reporter = jobs_worker._Reporter(os.open(os.devnull, os.O_WRONLY), tmp_path)
    for _ in range(1000):
        clock[0] += 0.1
        reporter.intermediate(Result())
    reporter.close()
    assert [name for _, name in saved] == [f"intermediate-{n + 1}" for n in range(len(saved))]
    assert 2 * len(saved) <= 0.06 * clock[0] + 2 and len(saved) >= 3


# Life and death of an attached worker


@pytest.fixture
def relatives(tmp_path):
    """Process numbers of a worker, its child and grandchild; the worker's Popen and folder."""
    if not os.path.isdir("/proc/self"):
        pytest.skip("reads /proc")
    folder = tmp_path / "job"
    folder.mkdir()
    file = tmp_path / "pids"
    process = worker(folder, jobs.Request("family", {}, settings={"file": str(file)}), "--attached")
    until(file.exists)
    yield [int(pid) for pid in file.read_text().split()], process, folder
    jobs.kill_tree(process.pid)
    process.stdout.read()
    process.wait()


@posix
def test_kill_tree_ends_children_and_grandchildren_at_once_and_nobody_else(relatives):
    pids, process, _ = relatives
    assert pids[0] == process.pid and len(pids) == 3 and all(map(alive, pids))
    assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
    jobs.kill_tree(process.pid)
    until(lambda: not any(map(alive, pids)))
    assert process.wait(10) == -signal.SIGKILL
    jobs.kill_tree(process.pid)  # once more does nothing


@posix
def test_an_attached_worker_ends_with_its_parent_and_leaves_nothing(relatives):
    pids, process, folder = relatives
    process.stdin.close()  # what the end of the parent does, however it ends
    until(lambda: not any(map(alive, pids)))
    assert not folder.exists()


def test_a_worker_that_is_not_attached_needs_no_input(tmp_path):
    process = worker(
        tmp_path, jobs.Request("double", {}, settings={"factor": 1}), stdin=subprocess.DEVNULL
    )
    messages(process)
    assert process.returncode == 0 and steps.finish(jobs.load_result(tmp_path)).facts["seed"] == 7


# Words


@pytest.mark.parametrize(
    ("code", "crashed", "words", "said"),
    [
        (
            1,
            False,
            "x\nModuleNotFoundError: No module named 'safetensors.torch'\n",
            "'safetensors' is missing",
        ),
        (
            1,
            False,
            "/usr/bin/python: No module named NetInversionLib\n",
            "Install the extension again",
        ),
        (1, False, "MemoryError\n", jobs.MEMORY),
        (1, False, "torch.OutOfMemoryError: CUDA out of memory.", jobs.GRAPHICS_MEMORY),
        (6, True, "terminate called after throwing an instance of 'std::bad_alloc'", jobs.MEMORY),
        (1, False, "OSError: [Errno 28] No space left on device", jobs.DISK_FULL),
        (9, True, "", jobs.KILLED),
        (-9, False, "", jobs.KILLED),
        (137, False, "", jobs.KILLED),
        (9, False, "", jobs.LOST),
        (1, False, "error: [/opt/python-real] exit abnormally - Report the problem.", jobs.KILLED),
        (
            1,
            False,
            "Fatal Python error: Segmentation fault\nerror: [python] exit abnormally - Report",
            "crashed",
        ),
        (-1073741819, True, "", "crashed"),
        (0, False, "", jobs.LOST),
    ],
)
def test_every_exit_has_its_words(code, crashed, words, said):
    assert said in jobs.explain_exit(code, crashed, words)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (jobs.JobError("do this"), "do this"),
        (ValueError("do that"), "do that"),
        (
            ModuleNotFoundError("No module named 'skimage.x'", name="skimage.x"),
            "'skimage' is missing",
        ),
        (
            ImportError("DLL load failed while importing _C", name="torch._C"),
            "'torch' is missing or does not load (DLL",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), jobs.DISK_FULL),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x"),
            "PermissionError: [Errno 13] Permission denied",
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), jobs.GRAPHICS_MEMORY),
        (MemoryError("Unable to allocate 2 EiB for an array"), jobs.MEMORY),
    ],
)
def test_every_exception_has_its_words(error, said):
    assert said in jobs.explain(error)
