"""A folder of volumes or a BIDS tree, volume by volume through one task.

What is done already is not done again.

A volume's job is plain data (``Item``): a ``jobs.Request`` whose volumes are files, so that a
process of this computer or a worker of a Dask cluster can do it, given only that it sees the same
folders. Its image appears under its name whole or not at all; then its record, which says that it
is done, with what settings, model and source.

The output folder holds, besides the images: ``summary.csv``, ``summary.html`` and ``.netinversion``
with the records.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from . import page
from .cluster import run_on_cluster
from .items import OWN, is_bids
from .local import WORKER, run_locally
from .records import finished, new_record, read_record, without_pictures, write_json

if TYPE_CHECKING:
    from .cluster import Scheduler
    from .items import Item


HOMEPAGE = "https://github.com/NetInversion/SlicerNetInversion"


# All of them --------------------------------------------------------------------------------------


def run(
    items: list[Item],
    processes: int = 1,
    scheduler: Scheduler | None = None,
    log: Callable[[str], None] = lambda line: None,
    worker: Sequence[str] | None = None,
) -> list[dict]:
    """Do what is not done yet, and write the summary.

    Gives the records, without pictures, in the items' order.

    Args:
        items: From ``plan``: all with the same output folder.
        processes: Worker processes on this computer, each with one volume at a time.
        scheduler: Use the workers of this Dask cluster instead; they need this library and the same
            folders.
        log: Is given a line per volume.
        worker: Command of a worker process instead of ``WORKER``.

    Raises:
        ValueError: Another run writes into the output folder, or it belongs to another data set.
        OSError, RuntimeError: Folder not writable, cluster not reached, package missing.
    """
    out = Path(items[0].out)
    with _only_run_in(out):
        records = {
            item.source: without_pictures(record) for item in items if (record := finished(item))
        }
        rest = [item for item in items if item.source not in records]
        if records:
            log(f"{len(records)} of {len(items)} done before" + _by_others(records.values()))
        start = time.monotonic()
        try:
            ends = (
                run_on_cluster(rest, scheduler)
                if scheduler
                else run_locally(rest, processes, worker or WORKER)
            )
            for count, record in enumerate(ends, 1):
                records[record["source"]] = record
                left = (time.monotonic() - start) / count * (len(rest) - count)
                log(_line(record, count, len(rest), left))
        finally:
            page.write(out, (_reported(item, records) for item in items), out / OWN)
    return [records[item.source] for item in items]


def prepare(folder: str | os.PathLike, out: str | os.PathLike) -> None:
    """Make the output folder.

    For a BIDS data set it gets the description that makes it a data set too.
    """
    folder, out = Path(folder).resolve(), Path(out)
    description = out / "dataset_description.json"
    if description.exists() and not (out / OWN).is_dir():
        raise ValueError(f"{out} is a data set already; choose an empty output folder")
    (out / OWN).mkdir(parents=True, exist_ok=True)
    if is_bids(folder):
        made = {
            "Name": f"{folder.name}, harmonized",
            "BIDSVersion": "1.9.0",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "NetInversion", "Version": __version__, "CodeURL": HOMEPAGE}],
            "SourceDatasets": [{"URL": folder.as_uri()}],
            "DatasetLinks": {"source": folder.as_uri()},
        }
        partial = out / OWN / f"{uuid.uuid4().hex}.json"
        write_json(partial, made)
        os.replace(partial, description)
        (out / ".bidsignore").write_text("summary.*\n", encoding="ascii")


def counts(records: list[dict]) -> str:
    """In words: "5 volumes: 3 accepted, 1 refused, 1 failed"."""
    found = Counter(record["status"] for record in records)
    return f"{len(records)} volumes: " + ", ".join(
        f"{number} {status}" for status, number in found.items()
    )


def _reported(item: Item, records: dict[str, dict]) -> dict:
    """An item's record as the summary takes it: its file, which has the pictures, or what the run
    knows.
    """
    known, written = records.get(item.source), read_record(item)
    if (
        written
        and written.get("fingerprint") == item.fingerprint
        and (not known or written["status"] == known["status"])
    ):
        return written
    return known or {**new_record(item), "status": "not run", "time": "", "version": ""}


def _by_others(records: Iterable[dict]) -> str:
    """Which of the results that are kept another version of this library made."""
    others = Counter(record.get("version", page.UNKNOWN) for record in records)
    del others[__version__]
    if not others:
        return ""
    made = ", ".join(f"{number} by version {version}" for version, number in sorted(others.items()))
    return (
        f", not all by this version of NetInversion ({__version__}): {made}. They are kept; for one"
        " version throughout, choose another output folder"
    )


def _line(record: dict, count: int, total: int, seconds_left: float) -> str:
    why = record["error"] or "; ".join(record["reasons"])
    line = f"{count}/{total} {record['source']}: {record['status']}, {record['seconds']:.0f} s" + (
        f": {why}" if why else ""
    )
    return line + (f" (about {seconds_left / 60:.0f} min left)" if seconds_left >= 60 else "")


@contextlib.contextmanager
def _only_run_in(out: Path) -> Iterator[None]:
    """Keep a second run out of the folder, where the system can; clear what a killed one left."""
    (out / OWN).mkdir(parents=True, exist_ok=True)
    with open(out / OWN / "lock", "a") as file:
        with contextlib.suppress(ImportError):  # Windows
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"another run writes into {out}; wait for it, or choose another output folder"
                ) from None
            except OSError:  # a file system without locks
                pass
            else:
                _clear(out / OWN / "temporary")
        yield


def _clear(folder: Path) -> None:
    """Remove what is a day old: a cluster's worker may still be at the younger."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.stat().st_mtime < time.time() - 86400:
                shutil.rmtree(path, ignore_errors=True)
