"""Devices: the choice, memory figures against independent ones, and halving.

Halving is tested against an allocator that can be counted on.
"""

import errno
import itertools
import os
import subprocess
import sys
import types
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from NetInversionLib.core import devices

GIB = 2**30
ROOT = Path(__file__).parents[3]


@pytest.fixture
def two_cards(monkeypatch):
    """Two CUDA cards of which the first works and the second was not built for."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    problems = {"cuda:1": "CUDA error: no kernel image is available"}
    monkeypatch.setattr(devices, "_problem", problems.get)
    return problems


@pytest.fixture
def no_card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_auto_takes_the_best_device_that_works(two_cards):
    said = []
    assert devices.choose() == torch.device("cuda:0") and said == []
    two_cards["cuda:0"] = "CUDA error: out of memory"
    assert devices.choose(log=said.append) == torch.device("cpu")
    assert [line.split(" is passed over")[0] for line in said] == ["cuda:0", "cuda:1"]
    assert "no kernel image" in said[1]


def test_cuda_means_the_first_card_and_numbers_are_kept(two_cards):
    assert devices.available() == ["cuda:0", "cuda:1", "cpu"]
    assert devices.choose("cuda") == devices.choose("cuda:0") == torch.device("cuda:0")
    with pytest.raises(devices.DeviceError, match="no kernel image.*choose cpu"):
        devices.choose("cuda:1")


def test_mps_comes_before_the_cpu(monkeypatch, no_card):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(devices, "_problem", lambda name: None)
    assert devices.choose() == torch.device("mps")


@pytest.mark.parametrize("name", ["cuda", "cuda:3", "mps", "tpu", ""])
def test_an_absent_device_is_refused_and_the_message_lists_what_is_there(no_card, name):
    with pytest.raises(devices.DeviceError, match="Choose one of: auto, cpu"):
        devices.choose(name)


def test_the_trial_runs_on_the_device_itself():
    assert devices._problem("cpu") is None
    absent = "mps" if not torch.backends.mps.is_available() else "cuda:99"
    assert isinstance(devices._problem(absent), str)


def test_versions_hold_what_is_needed_to_run_again_and_nothing_about_the_user():
    found = devices.versions("cpu")
    assert set(found) == {"netinversion", "python", "torch", "numpy", "platform", "device"}
    assert found["torch"] == torch.__version__ and found["numpy"] == np.__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert str(torch.get_num_threads()) in found["device"]
    text = " ".join(found.values())
    assert str(Path.home()) not in text and os.uname().nodename not in text


def test_a_card_is_described_by_name_and_memory(monkeypatch):
    card = types.SimpleNamespace(name="Test Card", total_memory=24 * GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    assert devices.describe("cuda:0") == "Test Card (24.0 GiB)"


# Memory


def linux_tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {
    "proc/meminfo": f"MemTotal: {64 * 2**20} kB\nMemFree: 1 kB\nMemAvailable:   {32 * 2**20} kB\n"
}
V2 = "sys/fs/cgroup/"
V1 = "sys/fs/cgroup/memory/"
JOB = {
    V2 + "slurm/job/memory.max": f"{6 * GIB}\n",
    V2 + "slurm/job/memory.current": f"{5 * GIB}\n",
    V2 + "slurm/job/memory.stat": f"anon 7\ninactive_file {1 * GIB}\n",
}


@pytest.mark.parametrize(
    ("files", "gib"),
    [
        ({}, 32),
        ({"proc/self/cgroup": "0::/\n"}, 32),
        # the parent group's limit; file cache is free
        ({"proc/self/cgroup": "0::/slurm/job/step\n", **JOB}, 2),
        (
            {
                "proc/self/cgroup": "0::/slurm/job/step\n",
                **JOB,
                V2 + "slurm/job/step/memory.max": "max\n",
                V2 + "slurm/memory.max": f"{5 * GIB}\n",
                V2 + "slurm/memory.current": f"{4 * GIB}\n",
                V2 + "slurm/memory.stat": "anon 7\n",
            },
            1,
        ),
        (  # a container of the older kind, whose own group is not below the mount point
            {
                "proc/self/cgroup": "5:cpu,memory:/docker/abc\n3:freezer:/\n",
                V1 + "memory.limit_in_bytes": f"{4 * GIB}\n",
                V1 + "memory.usage_in_bytes": f"{3 * GIB}\n",
                V1 + "memory.stat": f"cache 1\ninactive_file 5\ntotal_inactive_file {2 * GIB}\n",
            },
            1,
        ),
        (
            {
                "proc/self/cgroup": "0::/full\n",
                V2 + "full/memory.max": "10",
                V2 + "full/memory.current": "50",
                V2 + "full/memory.stat": "",
            },
            0,
        ),
    ],
    ids=["none", "root", "v2", "v2-nested", "v1", "overdrawn"],
)
def test_linux_memory_honours_every_control_group_above(tmp_path, files, gib):
    free = devices._linux_memory(linux_tree(tmp_path, {**MEMINFO, **files}))
    # In the older container both figures stand in memory.stat; the group's own one comes first.
    assert free == pytest.approx(gib * GIB, abs=10)


def test_macos_memory_counts_what_can_be_taken_back():
    report = (
        "Mach Virtual Memory Statistics: (page size of 16384 bytes)\nPages free:      1000.\nPages"
        " active:  9000.\nPages inactive:   200.\nPages speculative:   30.\nPages wired down: "
        " 8000.\nPages purgeable:    4.\n"
    )
    assert devices._macos_free(report) == 16384 * 1234


@pytest.mark.skipif(sys.platform != "linux", reason="compares with psutil's reading of /proc")
def test_available_memory_is_at_most_what_psutil_reports():
    psutil = pytest.importorskip("psutil")
    assert 0 < devices.available_memory("cpu") < 1.1 * psutil.virtual_memory().available


def test_a_cards_reserve_counts_as_available(monkeypatch):
    figures = {"memory_reserved": 5, "memory_allocated": 3, "mem_get_info": (100, 200)}
    for name, value in figures.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert devices.available_memory("cuda:0") == 102


def test_peak_memory_is_the_process_own_and_keeps_what_was_let_go():
    ours = np.ones(
        300 * 2**20 // 8
    )  # must not count in the new process, which getrusage would let it
    code = """if True:
        import numpy as np
        from NetInversionLib.core.devices import peak_memory
        print(peak_memory())
        block = np.ones(200 * 2**20 // 8)
        del block
        print(peak_memory())
    """
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    before, after = map(int, run.stdout.split())
    assert before < ours.nbytes
    assert after - before == pytest.approx(200 * 2**20, rel=0.05)


# Out of memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory: you"
            " tried"
        ),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:80] . DefaultCPUAllocator: not enough memory: you tried"
        ),
        RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"),
        RuntimeError("Invalid buffer size: 24.00 GiB"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_out_of_memory_is_recognised(error):
    assert devices.is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shape mismatch"),
        ValueError("the message 'out of memory' in a file name"),
        OSError(errno.ENOSPC, "No space left on device"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_are_not_out_of_memory(error):
    assert not devices.is_out_of_memory(error)


def test_real_allocation_failures_are_recognised():
    for allocate in (lambda: torch.empty(2**60), lambda: np.empty(2**58)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            allocate()
        assert devices.is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("size", "smallest", "fits"), [(100, 1, 100), (100, 1, 30), (96, 16, 16), (7, 2, 2), (1, 1, 1)]
)
def test_halving_ends_at_the_first_size_that_fits(size, smallest, fits):
    tried, said = [], []

    def run(n):
        tried.append(n)
        if n > fits:
            raise MemoryError
        return f"ran {n}"

    result = devices.halving(run, size, smallest, said.append)
    assert result == f"ran {tried[-1]}" and tried[-1] <= fits and all(n > fits for n in tried[:-1])
    assert all(b == max(smallest, a // 2) for a, b in itertools.pairwise(tried))
    assert len(said) == len(tried) - 1 and all(str(n) in line for n, line in zip(tried[1:], said))


def test_halving_gives_up_at_the_smallest_with_advice():
    with pytest.raises(MemoryError, match=r"smallest size \(8\).*smaller region"):
        devices.halving(lambda n: torch.empty(2**60), 32, 8)


def test_halving_lets_other_errors_through_at_once():
    tried = []
    with pytest.raises(ZeroDivisionError):
        devices.halving(lambda n: tried.append(n) or 1 / 0, 8)
    assert tried == [8]


def test_halving_frees_the_failed_run_before_the_next():
    references = []

    def run(n):
        assert all(reference() is None for reference in references)
        big = np.zeros(n)
        references.append(weakref.ref(big))
        if n > 1:
            raise RuntimeError("CUDA out of memory")

    devices.halving(run, 8)
    assert len(references) == 4


@pytest.mark.parametrize(("size", "smallest"), [(4, 8), (4, 0), (0, 0)])
def test_halving_refuses_sizes_out_of_order(size, smallest):
    with pytest.raises(ValueError, match="at least"):
        devices.halving(lambda n: n, size, smallest)


def test_a_core_is_left_free_only_where_there_are_more_than_two(monkeypatch):
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    for cores, default in [(8, 8), (8, 4), (2, 2), (1, 1)]:
        monkeypatch.setattr(
            os, "sched_getaffinity", lambda pid, cores=cores: set(range(cores)), raising=False
        )
        monkeypatch.setattr(torch, "get_num_threads", lambda default=default: default)
        devices.leave_a_core_free()
    assert threads == [7]
