"""One volume of a cohort: done, judged, written, and put on record."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import shutil
import threading
import time
import traceback
import uuid
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from .. import __version__, jobs
from ..core import files, result_files
from ..core.results import Result, Table
from ..core.volumes import Volume
from . import page
from .claims import lives, machine
from .folders import OWN
from .items import Item, found_mask

# One volume ---------------------------------------------------------------------------------------

_one_at_a_time = (
    threading.Lock()
)  # whatever the number of threads of a Dask worker: memory is for one volume


def work(data: dict) -> dict:
    """Do an item (its fields as a dict) unless it is done, and give its record without pictures.

    Never raises.

    Two processes may do the same item at the same time (a cluster gave a worker up that was not
    dead): each writes under a name of its own, and the second to come leaves the first one's files.
    """
    item = Item(**data)
    with _one_at_a_time:
        record = finished(item) or _do(item)
    return without_pictures(record)


def without_pictures(record: dict) -> dict:
    return {key: value for key, value in record.items() if key != "thumbnails"}


def finished(item: Item) -> dict | None:
    """The record of an item that needs not be done again, else None."""
    record = read_record(item)
    if (
        record is None
        or record.get("fingerprint") != item.fingerprint
        or record.get("output") != item.output
    ):
        return None
    forced, status = record.get("forced", False), record["status"]
    if status == "failed" or (forced and not item.force and status != "accepted"):
        return None
    if status == "refused" and not forced:
        return None if item.force else record
    return record if _size(item.image) == record["bytes"] else None


def read_record(item: Item) -> dict | None:
    """The record of the last time that this volume was done or failed, with whatever settings.

    Returns:
        None without any.
    """
    try:
        record = json.loads(item.record_file.read_bytes())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and {"status", "bytes"} <= record.keys() else None


def _do(item: Item) -> dict:
    record = new_record(item)
    start = time.monotonic()
    if not (Path(item.out) / OWN).is_dir():
        text = (
            f"The worker on {platform.node()} does not see {item.out}. Workers need the same"
            " folders under the same paths."
        )
        return {**record, "error": text}
    try:
        request = item.request()
        result = jobs.run_here(request)
        record["seconds"] = round(time.monotonic() - start, 2)
        record |= _judged(result)
        faster = _deliver(item, record, request, result)
    except (Exception, SystemExit) as error:  # SystemExit: what a library raises to end the program
        return failed_record(
            item, jobs.explain(error), traceback.format_exc(), round(time.monotonic() - start, 2)
        )
    return faster or record


def new_record(item: Item) -> dict:
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {
        "source": item.source,
        "output": item.output,
        "fingerprint": item.fingerprint,
        "status": "failed",
        "forced": item.force,
        "bytes": 0,
        "reasons": [],
        "error": "",
        "seconds": 0.0,
        "time": now,
        "version": __version__,
        "host": platform.node(),
        "pid": os.getpid(),
        "run": item.run,
    }


def _judged(result: Result) -> dict:
    """Verdict, reasons and figures (table "summary") of a result, as JSON.

    An analysis without a verdict is "done".
    """
    figures = _figures(result.tables["summary"]) if "summary" in result.tables else {}
    return _json(
        {
            "status": result.facts.get("verdict", "done"),
            "facts": result.facts,
            "figures": figures,
            "reasons": list(result.facts.get("reasons", [])),
        }
    )


def _figures(table: Table) -> dict:
    """A table as name and value: the first column names the rows; only what is finite stays."""
    (_, names), *columns = table.columns.items()
    cells = {
        (f"{heading}, {name}" if len(columns) > 1 else str(name)): value
        for heading, values in columns
        for name, value in zip(names, values)
    }
    return {
        name: value
        for name, value in cells.items()
        if not isinstance(value, (float, np.floating)) or np.isfinite(value)
    }


def _deliver(item: Item, record: dict, request: jobs.Request, result: Result) -> dict | None:
    """Write image, sidecar and record.

    Returns:
        None, or the record of somebody who was faster, whose files then stay.
    """
    image = result.volumes.get(item.result)
    if record["status"] == "refused" and not item.force:
        image = None
    elif image is None:
        raise ValueError(f"The analysis '{item.analysis}' gave no image '{item.result}'.")
    with _temporary(item) as folder:
        if image is not None:
            partial = _save(image, folder, item)
            record["bytes"] = _size(partial)
            write_json(folder / "sidecar.json", _provenance(item, record))
            mask = _save_mask(result.volumes.get("mask"), folder, item)
        shown = [one for one in (request.volumes["source"], image) if one is not None]
        record["thumbnails"] = page.thumbnails(*shown)
        faster = finished(item)
        if faster:
            return faster
        if image is None:
            _remove_output(item)
        else:
            item.image.parent.mkdir(parents=True, exist_ok=True)
            if partial.is_dir():
                _remove(item.image)
            os.replace(folder / "sidecar.json", item.sidecar_file)
            _remove(item.mask_file)
            if mask is not None:
                os.replace(mask, item.mask_file)
            os.replace(partial, item.image)
        write_json(folder / "record.json", record)
        os.replace(folder / "record.json", item.record_file)
    return None


def _save(image: Volume, folder: Path, item: Item) -> Path:
    """The image in a folder, in the format that its place among the results names."""
    suffix = next((s for s in files.SUFFIXES if item.output.endswith(s)), "")
    name, source = Path(item.output).name, item.volumes["source"]
    return result_files.save_image(image, folder / f"image{suffix}", source, name)


def _save_mask(mask: Volume | None, folder: Path, item: Item) -> Path | None:
    """A mask that was found, in a folder; None if there is none."""
    if mask is None:
        return None
    return files.save(mask, folder / f"mask-{item.mask_file.name}")


def _provenance(item: Item, record: dict) -> dict:
    kept = {
        key: record[key] for key in ("status", "reasons", "facts", "figures", "seconds", "time")
    }
    return {
        **(item.sidecar or {}),
        "Settings": item.settings,
        "Verdict": kept.pop("status"),
        "Reasons": kept.pop("reasons"),
        "NetInversion": {"version": __version__, "analysis": item.analysis, **kept},
    }


def failed_record(item: Item, error: str, details: str = "", seconds: float = 0.0) -> dict:
    """The record of a failure, written where that is possible.

    A good one that is there stays and is given.
    """
    record = {
        **new_record(item),
        "error": _below(error, item),
        "details": _below(details, item),
        "seconds": seconds,
    }
    with contextlib.suppress(OSError):
        good = finished(item)
        if good:
            return good
        _remove_output(item)
        with _temporary(item) as folder:
            write_json(folder / "record.json", record)
            os.replace(folder / "record.json", item.record_file)
    return record


def _below(text: str, item: Item) -> str:
    """Text without the folders of this computer: results travel, and whose they are is private."""
    for path in item.volumes.values():
        base = path.removesuffix(item.source)
        if base != path and len(base) > 1:
            text = text.replace(base, "")
    return text


def _remove_output(item: Item) -> None:
    """What an earlier run with other settings left: it would be taken for this one's."""
    for path in (item.image, item.sidecar_file, item.mask_file):
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_all(out: Path) -> None:
    """Take away what an earlier run left in an output folder: images, records and summary."""
    for file in sorted((out / OWN / "records").glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            image = (out / json.loads(file.read_bytes())["output"]).resolve()
            if out.resolve() in image.parents:
                name = next((s for s in files.SUFFIXES if image.name.endswith(s)), "")
                _remove(image)
                _remove(image.with_name(image.name.removesuffix(name) + ".json"))
                _remove(found_mask(image))
        file.unlink(missing_ok=True)
    for name in ("summary.csv", "summary.html"):
        (out / name).unlink(missing_ok=True)


@contextlib.contextmanager
def temporary(out: Path) -> Iterator[Path]:
    """A folder that nobody else has, on the file system of the results in ``out``."""
    folder = out / OWN / "temporary" / f"{machine()}-{os.getpid()}-{uuid.uuid4().hex}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _temporary(item: Item) -> Iterator[Path]:
    item.record_file.parent.mkdir(exist_ok=True)
    with temporary(Path(item.out)) as folder:
        yield folder


def clear(out: Path) -> None:
    """Remove what killed processes left half written.

    That of this computer's processes that are gone, and what is a day old: a cluster's worker on
    another computer may still be at the younger.
    """
    with contextlib.suppress(OSError):
        for path in (out / OWN / "temporary").iterdir():
            owner = path.name.removeprefix(f"{machine()}-").partition("-")[0]
            ours = path.name.startswith(f"{machine()}-") and owner.isdigit()
            if (ours and not lives(int(owner))) or path.stat().st_mtime < time.time() - 86400:
                shutil.rmtree(path, ignore_errors=True)


def clear_own(out: Path) -> None:
    """Remove what this process has half written: it is about to end."""
    with contextlib.suppress(OSError):
        for path in (out / OWN / "temporary").glob(f"{machine()}-{os.getpid()}-*"):
            shutil.rmtree(path, ignore_errors=True)


def _size(path: Path) -> int:
    """Bytes of a file, or of a folder's files; -1 if there is none."""
    try:
        if path.is_dir():
            return sum(entry.stat().st_size for entry in os.scandir(path))
        return os.stat(path).st_size
    except (OSError, ValueError):
        return -1


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=1, allow_nan=False), encoding="ascii")


def put_json(out: Path, path: Path, value: dict) -> None:
    """The same for a file of the results in ``out``, which appears whole."""
    with temporary(out) as folder:
        write_json(folder / path.name, value)
        os.replace(folder / path.name, path)


def _json(value):
    """The same in JSON's own types: what is not finite becomes null, what is unknown its text."""
    if isinstance(value, dict):
        return {str(key): _json(one) for key, one in value.items()}
    if isinstance(value, (np.generic, np.ndarray)):
        return _json(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_json(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
