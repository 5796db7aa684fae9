"""Tasks that do on request what real ones do only by accident, and a worker that knows them.

As a program it stands in for ``python -m NetInversionLib.jobs``: same arguments, more analyses.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from NetInversionLib import jobs
from NetInversionLib.core.results import Curve, Result, Table
from NetInversionLib.core.volumes import Volume
from NetInversionLib.jobs import storage

ROOT = Path(__file__).parents[2]
ANALYSES = {
    name: ("job_analyses", name)
    for name in ("double", "wait", "fail", "chatter", "large", "steps", "family", "no_room")
}


def double(volumes, model_paths, settings, progress):
    """Every volume times settings["factor"], with one of everything else a result holds."""
    progress.report(0.5, "doubling")
    progress.log("started")
    progress.point("loss", 1, 0.25)
    doubled = {
        key: volume.with_array(volume.array * settings["factor"]) for key, volume in volumes.items()
    }
    return Result(
        doubled,
        {"errors": Table("Errors", {"region": ["bone", "fat"], "MAE (HU)": [1.5, float("nan")]})},
        {"loss": Curve("Loss", "step", "loss", {"run": ([0.0, 1.0], [2.0, 1.0])}, log_y=True)},
        {"settings": settings, "models": model_paths, "seed": np.int64(7)},
        dict.fromkeys(doubled, "input"),
    )


def wait(volumes, model_paths, settings, progress):
    """Reports, leaves settings["kept"] intermediate results, then sleeps as good as for ever."""
    for number in range(settings.get("kept", 0)):
        progress.intermediate(Result(facts={"number": number + 1}, volumes=volumes))
    progress.report(0.1, "waiting")
    time.sleep(600)


def steps(volumes, model_paths, settings, progress):
    """An endless optimisation: every intermediate result is all of one number."""
    number = 0
    shape = settings["shape"]
    while True:
        number += 1
        volume = Volume(np.full(shape, number, np.float32), np.eye(4), "step")
        progress.intermediate(Result({"a": volume, "b": volume}, facts={"number": number}))
        progress.report(min(number / 1000, 1), f"step {number}")


def fail(volumes, model_paths, settings, progress):
    """Leaves an intermediate result and then ends badly in the way named by settings["how"]."""
    progress.intermediate(Result(facts={"number": 1}))
    time.sleep(0.1)
    how = settings["how"]
    print("words on standard output")
    print("words on standard error", file=sys.stderr, flush=True)
    if how == "error":
        return {}["missing key"]
    if how == "value":
        raise ValueError("The target holds no voxels. Choose another.")
    if how == "memory":
        return np.empty(2**58)
    if how == "card":
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
    if how == "import":
        import package_that_nobody_has  # noqa: F401
    if how == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        os._exit(3)
    if how == "sys.exit":
        sys.exit(4)
    if how == "disk":
        raise OSError(28, "No space left on device", "/somewhere")
    raise AssertionError(how)


def chatter(volumes, model_paths, settings, progress):
    """Reports thousands of times in settings["seconds"], and prints rubbish to standard output."""
    end = time.monotonic() + settings["seconds"]
    count = 0
    while time.monotonic() < end:
        count += 1
        time.sleep(1e-4)
        progress.report(0.5, f"{count}")
        progress.point("loss", count, 1 / count)
        if count % 100 == 1:
            progress.log(f"{count}")
            print('{"pid": 1}', flush=True)
            os.write(1, b"no message\n")
    progress.report(1.0, "last")
    return Result(facts={"count": count})


def large(volumes, model_paths, settings, progress):
    """settings["count"] volumes of settings["megabytes"] each, of known content."""
    size = settings["megabytes"] * 2**20 // 4
    progress.report(0.5, "large")
    return Result(
        {
            f"v{i}": Volume(
                np.arange(i, i + size, dtype=np.int32).reshape(1, 1, -1), np.eye(4), f"v{i}"
            )
            for i in range(settings["count"])
        }
    )


def family(volumes, model_paths, settings, progress):
    """Starts a child that starts a child, writes their numbers to settings["file"] and waits."""
    code = (
        "import subprocess, sys, time, os\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(os.getpid(), child.pid, flush=True)\n"
        "time.sleep(600)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    partial = Path(settings["file"] + ".partial")
    partial.write_text(f"{os.getpid()} {child.stdout.readline()}")
    partial.rename(settings["file"])
    if settings.get("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def open_full(path, mode):
    """Opens, in place of any file, the device that is always full."""
    return Path("/dev/full").open(mode)


def no_room(volumes, model_paths, settings, progress):
    """One intermediate result finds room, then the disk is full.

    The device refuses every byte of an array.
    """
    progress.intermediate(Result(facts={"number": 1}))
    storage.open = open_full
    time.sleep(0.2)
    result = large(volumes, model_paths, {"megabytes": 2, "count": 1}, progress)
    progress.intermediate(result)
    return result


LAUNCHER = """#!/bin/sh
echo "info: a launcher may say something"
echo 12
exec 3<&0
{command} <&3 3<&- &
wait $!
code=$?
[ $code -lt 128 ] && exit $code
echo "error: [python] exit abnormally - Report the problem." >&2
exit 1
"""


def launcher(folder: Path, exec_it: bool = True) -> str:
    """A program that starts the worker above in place of Python.

    Unless ``exec_it`` it stays, as Slicer's does.
    """
    script = folder / ("python-direct" if exec_it else "python-launcher")
    command = f'"{sys.executable}" "{__file__}" "$@"'
    script.write_text(
        f"#!/bin/sh\nexec {command}\n" if exec_it else LAUNCHER.format(command=command)
    )
    script.chmod(0o700)
    return str(script)


if __name__ == "__main__":
    sys.modules["job_analyses"] = sys.modules["__main__"]
    jobs.ANALYSES.update(ANALYSES)
    sys.exit(jobs.main(sys.argv[3:]))
