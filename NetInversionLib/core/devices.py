"""Where a network runs, how much memory it may use, and what to do when that ran out.

A device is CUDA, Apple MPS or the CPU.

torch is imported inside the functions that need it, so that the rest can be used without it.
"""

from __future__ import annotations

import errno
import gc
import os
import platform
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch


T = TypeVar("T")
OUT_OF_MEMORY = re.compile(
    r"out of memory|not enough memory|can(?:'t|not) allocate memory|unable to"
    r" allocate|bad_alloc|MemoryError"
    r"|ALLOC_FAILED|cudaErrorMemoryAllocation|invalid buffer size",
    re.IGNORECASE,
)


class DeviceError(RuntimeError):
    """The device asked for is not there or does not work; the message says what is."""


def _ignore(message: str) -> None:
    pass


def available() -> list[str]:
    """Names of the devices of this machine, best first: "cuda:0", "cuda:1", ..., "mps", "cpu"."""
    import torch

    names = (
        [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        if torch.cuda.is_available()
        else []
    )
    if torch.backends.mps.is_available():
        names.append("mps")
    return [*names, "cpu"]


def choose(name: str = "auto", log: Callable[[str], None] = _ignore) -> torch.device:
    """The device called ``name``: "auto" (the best that works), "cuda", "cuda:1", "mps" or "cpu".

    A GPU is tried with one small computation: a driver can offer a card that this PyTorch was not
    built for. With "auto" such a card is passed over, which ``log`` is told.

    Raises:
        DeviceError: The named device is absent or fails the trial.
    """
    import torch

    names = available()
    if name == "auto":
        for candidate in names:
            problem = _problem(candidate)
            if problem is None:
                return torch.device(candidate)
            log(f"{candidate} is passed over: {problem}")
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in names:
        raise DeviceError(
            f"There is no device '{name}' here. Choose one of: auto, {', '.join(names)}."
        )
    problem = _problem(wanted)
    if problem is not None:
        raise DeviceError(
            f"'{name}' does not work here ({problem}). Install a PyTorch that fits it, or choose"
            " cpu."
        )
    return torch.device(wanted)


def _problem(name: str) -> str | None:
    """The first line of the error that a small computation on the device gives, or None."""
    import torch

    try:
        torch.ones(2, device=name).mul_(2).sum().item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        return (str(error) or type(error).__name__).splitlines()[0]
    return None


def describe(device: torch.device | str = "cpu") -> str:
    """The device in words, such as "NVIDIA H200 (139.8 GiB)" or "CPU x86_64, 8 threads"."""
    import torch

    device = torch.device(device)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name} ({properties.total_memory / 2**30:.1f} GiB)"
    if device.type == "mps":
        return f"Apple GPU ({platform.machine()})"
    return f"CPU {platform.machine()}, {torch.get_num_threads()} threads"


def versions(device: torch.device | str = "cpu") -> dict[str, str]:
    """What a result records so that it can be run again: versions, platform and device.

    No names, no paths.
    """
    import numpy
    import torch

    from .. import __version__

    return {
        "netinversion": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "device": describe(device),
    }


def wait_asleep() -> None:
    """Let waiting threads of torch sleep instead of spin.

    Only of use before torch is first imported.

    Spinning threads hold cores that another program needs: on two busy cores a network ran up to 20
    times slower.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def leave_a_core_free() -> int:
    """Keep torch off one core where there are more than two, for the application.

    Returns the number of threads.
    """
    import torch

    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    if cores > 2 and torch.get_num_threads() >= cores:
        torch.set_num_threads(cores - 1)
    return torch.get_num_threads()


def available_memory(device: torch.device | str = "cpu") -> int:
    """Bytes that a run on a device may still take.

    Free ones, and those that torch only holds in reserve.

    On the CPU of a Linux machine this honours the limits of the control groups (containers, cluster
    jobs).
    """
    import torch

    device = torch.device(device)
    if device.type == "cuda":
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserve
    free = _free_system_memory()
    if device.type == "mps" and hasattr(torch.mps, "recommended_max_memory"):  # from torch 2.5
        return min(free, torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    return free


def _free_system_memory() -> int:
    if sys.platform == "win32":
        return _windows_free()
    if sys.platform == "darwin":
        return _macos_memory()
    return _linux_memory(Path("/"))


def _linux_memory(root: Path) -> int:
    """What /proc/meminfo calls available, or less where a control group allows less."""
    meminfo = (root / "proc/meminfo").read_text()
    available = 1024 * _number(r"MemAvailable:\s+(\d+)", meminfo)
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return available
    free = float(available)
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            free = min(
                free, _cgroup_memory(root / "sys/fs/cgroup", path, "memory.max", "memory.current")
            )
        elif "memory" in controllers.split(","):
            limit, usage = "memory.limit_in_bytes", "memory.usage_in_bytes"
            free = min(free, _cgroup_memory(root / "sys/fs/cgroup/memory", path, limit, usage))
    return int(max(free, 0))


def _number(pattern: str, text: str) -> int:
    """The whole number that a pattern's group finds in a text of the system."""
    found = re.search(pattern, text)
    if found is None:
        raise OSError(f"the system does not say {pattern!r}")
    return int(found[1])


def _cgroup_memory(mount: Path, path: str, limit_name: str, usage_name: str) -> float:
    """Smallest of (limit - usage + file cache) over a control group and those that hold it.

    Infinite without a limit.

    Inside a container the path may not exist below the mount point: its own group is then the mount
    point itself.
    """
    free = float("inf")
    group = mount / path.lstrip("/")
    while group == mount or mount in group.parents:
        try:
            limit = (group / limit_name).read_text().strip()
            if limit != "max":
                cache = re.search(
                    r"^(?:total_)?inactive_file (\d+)",
                    (group / "memory.stat").read_text(),
                    re.MULTILINE,
                )
                used = int((group / usage_name).read_text()) - (int(cache[1]) if cache else 0)
                free = min(free, int(limit) - max(used, 0))
        except OSError:
            pass  # the outermost group has no limit file
        group = group.parent
    return free


def _macos_memory() -> int:
    import subprocess

    return _macos_free(
        subprocess.run(["vm_stat"], capture_output=True, text=True, check=True).stdout
    )


def _macos_free(vm_stat: str) -> int:
    page = _number(r"page size of (\d+) bytes", vm_stat)
    kinds = ("free", "inactive", "speculative", "purgeable")
    return page * sum(_number(rf"Pages {kind}:\s+(\d+)", vm_stat) for kind in kinds)


def _windows_free() -> int:
    import ctypes

    # MEMORYSTATUSEX: its own length, load; total, available physical bytes; ...
    status = (ctypes.c_uint64 * 8)(64)
    windll = getattr(ctypes, "windll")  # there on Windows only
    windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
    return status[2]


def _windows_peak() -> int:
    import ctypes

    # PROCESS_MEMORY_COUNTERS: length, page faults; peak working set; ...
    counters = (ctypes.c_size_t * 9)()
    windll = getattr(ctypes, "windll")  # there on Windows only
    process = ctypes.c_void_p(windll.kernel32.GetCurrentProcess())
    windll.psapi.GetProcessMemoryInfo(process, ctypes.byref(counters), ctypes.sizeof(counters))
    return counters[1]


def peak_memory(device: torch.device | str = "cpu") -> int:
    """Most bytes used so far.

    Of the card by torch for a CUDA ``device``, else of the computer by this process.
    """
    if str(device).startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return _windows_peak()
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # getrusage would count what the parent process held before it started this one.
    return 1024 * _number(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on any device, in any version of torch."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error)) is not None


def halving(
    run: Callable[[int], T], size: int, smallest: int = 1, log: Callable[[str], None] = _ignore
) -> T:
    """``run(size)``, or of half the size each time that memory runs out.

    The size goes down to ``smallest``.

    Args:
        run: Called with a size (a tile's edge, a number of items at once); starts again at every
            call.
        size: First size, at least ``smallest``.
        smallest: Last size tried, at least 1.
        log: Told, in words, of every halving.

    Raises:
        MemoryError: ``run(smallest)`` ran out of memory; the message says what to do.
        ValueError: Sizes out of order.
    """
    if not 1 <= smallest <= size:
        raise ValueError(f"size {size} must be at least smallest {smallest}, and that at least 1")
    while True:
        try:
            return run(size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Out of the except block: the exception's traceback kept the tensors of the failed run
        # alive.
        _free_caches()
        if size == smallest:
            raise MemoryError(
                f"Memory ran out even with the smallest size ({smallest}). Close other programs,"
                " choose a smaller region or a coarser image, or run on a device with more memory."
            )
        smaller = max(smallest, size // 2)
        log(f"Memory ran out with size {size}; going on with {smaller}.")
        size = smaller


def _free_caches() -> None:
    gc.collect()
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if torch.backends.mps.is_available():
            torch.mps.empty_cache()
