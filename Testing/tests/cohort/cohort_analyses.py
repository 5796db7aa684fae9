"""An analysis that does to a volume what its name says, and keeps a log.

A worker and a command that know it are here as well.

As a program it stands in for ``python -m NetInversionLib.cohort``; with arguments, for the
``netinversion`` command, or for an array of them side by side. A Dask worker learns the analysis by
preloading this module; the tests put it in themselves.
"""

import os
import signal
import sys
import time
from pathlib import Path

from NetInversionLib import cohort, jobs
from NetInversionLib.cohort import runs, shares
from NetInversionLib.core.results import Result, Table

WORKER = (sys.executable, str(Path(__file__).resolve()))


def shade(volumes, model_paths, settings, progress):
    """Multiply the source by settings["factor"].

    Volumes whose names begin with "bad", "killer", "odd", "sleepy" or "wrong" have their fate. The
    volumes that settings["hangs"] names, with commas, hang when they are begun for the first time.
    With settings["find_brain"] what is brighter than the mean is a mask that was found.
    """
    source = volumes["source"]
    note(settings, "start", source.name)
    if (
        source.name in settings.get("hangs", "").split(",")
        and Path(settings["log"]).read_text().count(f" {source.name}\n") == 1
    ):
        time.sleep(600)
    if source.name.startswith("bad"):
        raise ValueError(f"'{source.name}' is <no> good")
    if source.name.startswith("sleepy"):
        time.sleep(600)
    if source.name.startswith("killer"):
        os.kill(os.getpid(), signal.SIGKILL)
    verdict = {"odd": "flagged", "wro": "refused"}.get(source.name[:3], "accepted")
    array = source.array * settings.get("factor", 2)
    if "mask" in volumes:
        array = array * (volumes["mask"].array > 0)
    images = {"harmonized": source.with_array(array)}
    if settings.get("find_brain") and "mask" not in volumes:
        images["mask"] = source.with_array((source.array > source.array.mean()).astype("uint8"))
    note(settings, "end", source.name)
    return Result(
        images,
        {
            "summary": Table(
                "Summary",
                {
                    "image": ["source", "harmonized"],
                    "mean": [source.array.mean(), array.mean()],
                    "typical": [float("nan"), 0.5],
                },
            )
        },
        facts={
            "verdict": verdict,
            "nothing": float("inf"),
            "reasons": [] if verdict == "accepted" else ["contrast <b>inverted</b>"],
        },
    )


def note(settings, what, name):
    """One line, in one write: several processes log to the same file."""
    if "log" in settings:
        file = os.open(settings["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{what} {os.getpid()} {name}\n".encode())
        os.close(file)


ANALYSES = dict.fromkeys(("shade", "harmonize"), ("cohort_analyses", "shade"))


def dask_setup(worker):
    """Dask calls this in a worker that preloads the module."""
    jobs.ANALYSES.update(ANALYSES)


def command(folder, out, log, hangs):
    """What the ``netinversion`` command does."""
    items = cohort.plan(folder, out, settings={"log": log, "hangs": hangs}, analysis="shade")
    cohort.prepare(folder, out, items)
    return cohort.run(items, worker=WORKER)


def array(number, *words):
    """So many commands at the same time, each doing its volumes itself; their exit statuses."""
    runs.run_locally = lambda shares, *_: (
        one if isinstance(one, dict) else cohort.work(vars(one)) for one in shares
    )
    shares.LOOK_S = 0.1
    children = []
    for _ in range(number):
        child = os.fork()
        if not child:
            records = command(*words)
            os._exit(sum(record["status"] == "failed" for record in records))
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


if __name__ == "__main__":
    jobs.ANALYSES.update(ANALYSES)
    sys.modules["cohort_analyses"] = sys.modules["__main__"]
    if sys.argv[1:2] == ["array"]:
        print(array(int(sys.argv[2]), *sys.argv[3:]))
    elif sys.argv[1:]:
        command(*sys.argv[1:])
    else:
        sys.exit(cohort.main())
