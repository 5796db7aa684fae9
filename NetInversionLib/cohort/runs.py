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

import contextlib
import json
import os
import shutil
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from . import page
from .claims import Claims
from .cluster import run_on_cluster
from .folders import OWN, one_of_runs_in, run_facts
from .items import is_bids, text_hash
from .local import WORKER, run_locally
from .records import (
    clear,
    finished,
    new_record,
    put_json,
    read_record,
    remove_all,
    temporary,
    without_pictures,
)
from .shares import Shares

if TYPE_CHECKING:
    from .cluster import Scheduler
    from .items import Item


PAGE = "summary"
"""The claim of who writes the summary."""
HOMEPAGE = "https://github.com/NetInversion/SlicerNetInversion"


# All of them --------------------------------------------------------------------------------------


def run(
    items: list[Item],
    processes: int = 1,
    scheduler: Scheduler | None = None,
    log: Callable[[str], None] = lambda line: None,
    worker: Sequence[str] | None = None,
    report: Callable[[float, str], None] = lambda fraction, words: None,
    everyone: Sequence[Item] = (),
) -> list[dict]:
    """Do what is not done yet, and write the summary.

    Several runs may do so in one folder at the same time, with the same or with different items:
    every volume is done by one of them, and a run ends when its volumes are done, whoever did them.

    Gives the records, without pictures, in the items' order.

    Args:
        items: From ``plan``: all with the same output folder.
        processes: Worker processes on this computer, each with one volume at a time.
        scheduler: Use the workers of this Dask cluster instead; they need this library and the same
            folders.
        log: Is given a line per volume.
        worker: Command of a worker process instead of ``WORKER``.
        report: Is given the share of the volumes that is done (0 to 1), and the next one's name.
        everyone: Where ``items`` are some of a plan's, all of them: the summary has those, too,
            that other runs have done.

    Raises:
        ValueError: A run of another kind, or with other settings, writes into the output folder, or
            it belongs to another data set.
        OSError, RuntimeError: Folder not writable, cluster not reached, package missing.
    """
    out = Path(items[0].out)
    _begin_round(out)
    with one_of_runs_in(out) as alone, Claims(out / OWN / "records") as claims:
        _require_same(out, items)
        clear(out)
        known = uuid.uuid4().hex if alone is None else _round(out)
        items = [replace(item, run=known) for item in items]
        records: dict[str, dict] = {}
        try:
            shares = Shares(_not_finished(items, records, log), claims, log)
            ends = (
                run_on_cluster(shares, scheduler)
                if scheduler
                else run_locally(shares, min(processes, len(items)), worker or WORKER)
            )
            with contextlib.closing(ends):
                _follow(ends, items, records, claims, log, report)
        finally:
            with _undisturbed():
                clear(out)
                _write_page(out, items, everyone, records, claims)
    return [records[item.source] for item in items]


def summarize(items: list[Item]) -> list[dict]:
    """Write the summary of what has been done, also with other settings, and do nothing else.

    Gives the records, without pictures, in the items' order; of a volume that was not done with
    status "not run".

    Args:
        items: From ``plan``: all with the same output folder.

    Raises:
        ValueError: Nothing has been done there.
    """
    out = Path(items[0].out)
    records = {item.source: record for item in items if (record := read_record(item))}
    if not records:
        raise ValueError(f"{out} has no results of these volumes; harmonize people first")
    with one_of_runs_in(out), Claims(out / OWN / "records") as claims:
        _write_page(out, items, (), records, claims)
    return [without_pictures(_reported(item, records)) for item in items]


def _not_finished(
    items: Sequence[Item], records: dict[str, dict], log: Callable[[str], None]
) -> list[Item]:
    """Items without a good record; the records of the others get into ``records``."""
    for item in items:
        record = finished(item)
        if record:
            records[item.source] = without_pictures(record)
    if records:
        log(f"{len(records)} of {len(items)} done before" + _by_others(records.values()))
    return [item for item in items if item.source not in records]


def _follow(
    ends: Iterable[dict],
    items: Sequence[Item],
    records: dict[str, dict],
    claims: Claims,
    log: Callable[[str], None],
    report: Callable[[float, str], None],
) -> None:
    """Take the records as they come, and tell of them."""
    names = {item.source: item.record_file.stem for item in items}
    total, start = len(items) - len(records), time.monotonic()
    report(0.0, f"{total} volumes to do")
    for count, record in enumerate(ends, 1):
        records[record["source"]] = without_pictures(record)
        claims.release(names[record["source"]])
        report(count / total, f"{count} of {total} volumes done")
        left = (time.monotonic() - start) / count * (total - count)
        log(_line(record, count, total, left))


def _write_page(
    out: Path,
    items: Sequence[Item],
    everyone: Sequence[Item],
    records: dict[str, dict],
    claims: Claims,
) -> None:
    """Write the summary of these items, and of those of everyone that are done.

    One run at a time, so that the last has what all others have done.
    """
    ours = {item.source for item in items}
    while claims.take(PAGE) is None:
        time.sleep(0.1)
    listed = [item for item in everyone if item.source in ours or _written(item)] or items
    with temporary(out) as folder:
        page.write(out, (_reported(item, records) for item in listed), folder)
    claims.release(PAGE)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """While it lasts a second SIGTERM does nothing: a cluster sends several before it kills."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# Runs beside each other ---------------------------------------------------------------------------


def _begin_round(out: Path) -> None:
    """Where no other run is in the folder, a new round of runs beside each other begins."""
    with one_of_runs_in(out, if_alone=True) as alone:
        if alone:
            put_json(out, out / OWN / "round.json", {"round": uuid.uuid4().hex})


def _round(out: Path) -> str:
    """Which round is in the folder; it stays the same as long as one of its runs is there."""
    return json.loads((out / OWN / "round.json").read_bytes())["round"]


def _require_same(out: Path, items: Sequence[Item]) -> None:
    """Raise ValueError if another run has made the folder its own since it was prepared."""
    asked = run_facts(out).get("asked", {})
    if any(asked.get(key, value) != value for key, value in _asked_of(items[0]).items()):
        raise ValueError(f"another run, with other settings or models, writes into {out}")


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
    with one_of_runs_in(out, if_alone=True) as alone:
        asked = _asked(folder, items) if items else {}
        other = _other_run(out, items, asked) if items else ""
        if alone is False and run_facts(out).get("asked", asked) != asked:
            raise ValueError(
                f"another run writes into {out}, with other settings, another model or input"
                " folder; wait for it, or choose another output folder"
            )
        if other and not overwrite:
            raise ValueError(
                f"{out} holds the results of another run ({other}); choose another output folder,"
                " or replace them with --overwrite"
            )
        if other:
            _remove_results(out)
        if items:
            put_json(out, out / OWN / "run.json", {"command": "harmonize", "asked": asked})
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
        put_json(out, description, made)
        (out / ".bidsignore").write_text("summary.*\n", encoding="ascii")


def _seen_from(folder: Path, out: Path) -> str:
    """A folder's place as seen from another: results travel, and whose they are is private."""
    try:
        return Path(os.path.relpath(folder, out.resolve())).as_posix()
    except ValueError:  # another drive
        return folder.as_uri()


def _asked(folder: Path, items: Sequence[Item]) -> dict:
    """What makes a run the same run when it is called again; no path can be read from it."""
    return {"folder": text_hash(str(folder)), **_asked_of(items[0])}


def _asked_of(item: Item) -> dict:
    """Of that, what a volume's job says."""
    models = (item.sidecar or {}).get("Models", {})
    return {"analysis": item.analysis, "settings": item.settings, "models": models}


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
    known, written = records.get(item.source), _written(item)
    if written and (not known or written["status"] == known["status"]):
        return written
    return known or {**new_record(item), "status": "not run", "time": "", "version": ""}


def _written(item: Item) -> dict | None:
    """The record of the item as it is now, not with other settings."""
    record = read_record(item)
    return record if record and record.get("fingerprint") == item.fingerprint else None


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
