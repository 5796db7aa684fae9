"""A folder of volumes or a BIDS tree, volume by volume through one analysis.

What is done already is not done again.

A volume's job is plain data (``Item``): a ``jobs.Request`` whose volumes are files, so that a
process of this computer or a worker of a Dask cluster can do it, given only that it sees the same
folders. Its image appears under its name whole or not at all; then its record, which says that it
is done, with what settings, model and source.

The output folder holds, besides the images: ``summary.csv``, ``summary.html`` and ``.netinversion``
with the records.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from . import page
from .cluster import run_on_cluster
from .folders import OWN, only_run_in, run_facts
from .items import is_bids, text_hash
from .local import WORKER, run_locally
from .records import (
    clear,
    finished,
    new_record,
    read_record,
    remove_all,
    without_pictures,
    write_json,
)

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
    report: Callable[[float, str], None] = lambda fraction, words: None,
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
        report: Is given the share of the volumes that is done (0 to 1), and the next one's name.

    Raises:
        ValueError: Another run writes into the output folder, or it belongs to another data set.
        OSError, RuntimeError: Folder not writable, cluster not reached, package missing.
    """
    out = Path(items[0].out)
    with only_run_in(out) as certain:
        if certain:
            clear(out)
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
            report(0.0, f"{len(rest)} volumes to do")
            for count, record in enumerate(ends, 1):
                report(count / len(rest), f"{count} of {len(rest)} volumes done")
                records[record["source"]] = record
                left = (time.monotonic() - start) / count * (len(rest) - count)
                log(_line(record, count, len(rest), left))
        finally:
            clear(out)
            page.write(out, (_reported(item, records) for item in items), out / OWN)
    return [records[item.source] for item in items]


def prepare(
    folder: str | os.PathLike,
    out: str | os.PathLike,
    items: Sequence[Item] = (),
    overwrite: bool = False,
) -> None:
    """Make the output folder.

    For a BIDS data set it gets the description that makes it a data set too.

    Args:
        folder: Input folder.
        out: Output folder.
        items: From ``plan``: what will be done. With them the folder is refused if it holds the
            results of another run: other settings, another model, another input folder.
        overwrite: Take those results away instead.

    Raises:
        ValueError: The folder is another data set, or holds the results of another run.
    """
    folder, out = Path(folder).resolve(), Path(out)
    description = out / "dataset_description.json"
    if description.exists() and not (out / OWN).is_dir():
        raise ValueError(f"{out} is a data set already; choose an empty output folder")
    with only_run_in(out):
        asked = _asked(folder, items) if items else {}
        other = _other_run(out, items, asked) if items else ""
        if other and not overwrite:
            raise ValueError(
                f"{out} holds the results of another run ({other}); choose another output folder,"
                " or replace them with --overwrite"
            )
        if other:
            _remove_results(out)
        if items:
            write_json(out / OWN / "run.json", {"command": "harmonize", "asked": asked})
    if is_bids(folder):
        place = _seen_from(folder, out)
        made = {
            "Name": f"{folder.name}, harmonized",
            "BIDSVersion": "1.9.0",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "NetInversion", "Version": __version__, "CodeURL": HOMEPAGE}],
            "SourceDatasets": [{"URL": place}],
            "DatasetLinks": {"source": place},
        }
        partial = out / OWN / f"{uuid.uuid4().hex}.json"
        write_json(partial, made)
        os.replace(partial, description)
        (out / ".bidsignore").write_text("summary.*\n", encoding="ascii")


def _seen_from(folder: Path, out: Path) -> str:
    """A folder's place as seen from another: results travel, and whose they are is private."""
    try:
        return Path(os.path.relpath(folder, out.resolve())).as_posix()
    except ValueError:  # another drive
        return folder.as_uri()


def _asked(folder: Path, items: Sequence[Item]) -> dict:
    """What makes a run the same run when it is called again; no path can be read from it."""
    one = items[0]
    return {
        "folder": text_hash(str(folder)),
        "analysis": one.analysis,
        "settings": one.settings,
        "models": (one.sidecar or {}).get("Models", {}),
    }


def _other_run(out: Path, items: Sequence[Item], asked: dict) -> str:
    """In what the run differs whose results are in the folder; "" if it is this one, or none."""
    before = run_facts(out)
    if before.get("command", "harmonize") != "harmonize" or any(
        (out / name).exists() for name in ("facts.json", "report.html")
    ):
        return "of another command"
    there = [record for item in items if (record := read_record(item))]
    if any(finished(item) for item in items) or "asked" not in before:
        return ""
    if not there and not any((out / OWN / "records").glob("*.json")):
        return ""
    names = {
        "folder": "another input folder",
        "models": "another model",
        "analysis": "another analysis",
    }
    kept = before["asked"]
    kept = {"analysis": kept.get("task"), **kept}  # its name in the first versions
    return ", ".join(
        names.get(key, f"other {key}") for key, value in asked.items() if kept.get(key) != value
    )


def _remove_results(out: Path) -> None:
    """Take away what an earlier run left, of whatever command."""
    remove_all(out)
    for name in map(str, run_facts(out).get("files", [])):
        path = out / Path(name).name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def counts(records: list[dict]) -> str:
    """In words: "5 volumes: 3 accepted, 1 refused, 1 failed"."""
    found = Counter(record["status"] for record in records)
    return f"{len(records)} volumes: " + ", ".join(
        f"{number} {status}" for status, number in found.items()
    )


def _reported(item: Item, records: dict[str, dict]) -> dict:
    """An item's record as the summary takes it.

    It is its file, which has the pictures, or what the run knows.
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
