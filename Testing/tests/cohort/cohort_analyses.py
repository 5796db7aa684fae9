"""An analysis that does to a volume what its name says, and keeps a log.

A worker and a command that know it are here as well.

As a program it stands in for ``python -m NetInversionLib.cohort``; with arguments, for the
``netinversion`` command. A Dask worker learns the analysis by preloading this module; the tests put
it in themselves.
"""

import os
import signal
import sys
import time
from pathlib import Path

from NetInversionLib import cohort, jobs
from NetInversionLib.core.results import Result, Table

WORKER = (sys.executable, str(Path(__file__).resolve()))


def shade(volumes, model_paths, settings, progress):
    """Source times settings["factor"]; names that begin with "bad", "killer", "odd" or "wrong" have
    their fate.

    The volume that settings["hangs"] names does so when it is begun for the first time.
    """
    source = volumes["source"]
    note(settings, "start", source.name)
    if (
        settings.get("hangs") == source.name
        and Path(settings["log"]).read_text().count(f" {source.name}\n") == 1
    ):
        time.sleep(600)
    if source.name.startswith("bad"):
        raise ValueError(f"'{source.name}' is <no> good")
    if source.name.startswith("killer"):
        os.kill(os.getpid(), signal.SIGKILL)
    verdict = {"odd": "flagged", "wro": "refused"}.get(source.name[:3], "accepted")
    array = source.array * settings.get("factor", 2)
    if "mask" in volumes:
        array = array * (volumes["mask"].array > 0)
    note(settings, "end", source.name)
    return Result(
        {"harmonized": source.with_array(array)},
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


if __name__ == "__main__":
    jobs.ANALYSES.update(ANALYSES)
    sys.modules["cohort_analyses"] = sys.modules["__main__"]
    if sys.argv[1:]:
        folder, out, log, hangs = sys.argv[1:]
        items = cohort.plan(folder, out, settings={"log": log, "hangs": hangs}, analysis="shade")
        cohort.run(items, worker=WORKER)
    else:
        sys.exit(cohort.main())
