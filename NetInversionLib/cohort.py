"""A folder of volumes or a BIDS tree, volume by volume through one task; what is done already is not done again.

A volume's job is plain data (``Item``): a ``jobs.Request`` whose volumes are files, so that a process of this
computer or a worker of a Dask cluster can do it, given only that it sees the same folders. Its image appears under
its name whole or not at all; then its record, which says that it is done, with what settings, model and source.

The output folder holds, besides the images: ``summary.csv``, ``summary.html`` and ``.netinversion`` with the records.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import hashlib
import json
import math
import os
import platform
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from . import __version__, cohort_page, devices, jobs, volumes
from .results import Result, Table

READABLE = (*volumes.SUFFIXES, ".nhdr", ".mhd")
OWN = ".netinversion"
"""Folder for records inside an output folder; a folder that has it is never searched for volumes."""

WORKER = (sys.executable, "-m", "NetInversionLib.cohort")
"""Command of a local worker: items as JSON lines on standard input, records as JSON lines on standard output."""

HOMEPAGE = "https://github.com/NetInversion/SlicerNetInversion"
WORKERS_LOST = (
    "The cluster's workers that had this volume ended one after the other, most probably because memory or their time "
    "ran out. Give the workers more memory, then run the command again: finished volumes are kept."
)
CLUSTER_LOST = (
    "The connection to the cluster was lost. Run the command again: finished volumes are kept."
)


@dataclass(frozen=True)
class Item:
    """One volume's job, JSON through and through.

    Attributes:
        source: The volume's path below the input folder, with forward slashes; its name in tables.
        out, output: The output folder, and the image's path below it.
        task, volumes, model_paths, settings: As in ``jobs.Request``, but volumes are paths.
        result: Which of the result's volumes is the image.
        fingerprint: Changes with settings, model contents, or size or time of a volume's file.
        force: Write the image of a refused volume too; the task is told by its setting "force".
        sidecar: Fields for the JSON file beside the image.
    """

    source: str
    out: str
    output: str
    task: str
    volumes: dict[str, str]
    model_paths: dict[str, str]
    settings: dict
    result: str
    fingerprint: str = ""
    force: bool = False
    sidecar: dict | None = None

    @property
    def image(self) -> Path:
        return Path(self.out) / self.output

    @property
    def sidecar_file(self) -> Path:
        return self.image.with_name(self.image.name[: -len(".nii.gz")] + ".json")

    @property
    def record_file(self) -> Path:
        return Path(self.out) / OWN / "records" / f"{_hash(self.source)[:32]}.json"

    def request(self) -> jobs.Request:
        """The job with its volumes read. Raises what ``volumes.load`` raises."""
        loaded = {key: volumes.load(_utf8(path)) for key, path in self.volumes.items()}
        return jobs.Request(
            self.task,
            loaded,
            self.model_paths,
            self.settings | ({"force": True} if self.force else {}),
        )


@dataclass(frozen=True)
class Scheduler:
    """Where a Dask scheduler listens ("tcp://host:8786"; "tls://host:8786" with the three PEM files)."""

    address: str
    tls_ca_file: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None


# What is to be done -------------------------------------------------------------------------------------------------


def plan(
    folder: str | os.PathLike,
    out: str | os.PathLike,
    model_paths: dict[str, str] | None = None,
    settings: dict | None = None,
    task: str = "harmonize",
    result: str = "harmonized",
    mask: str | None = None,
    suffix: str = "T1w",
    force: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> list[Item]:
    """An item for every volume of ``folder``; nothing is written.

    Args:
        folder: Volumes (NIfTI, NRRD, MetaImage, folders of one DICOM series) at any depth, symbolic links to folders
            not followed; or a BIDS data set, told by its dataset_description.json.
        out: Output folder; it may lie inside ``folder``, not the other way round.
        mask: Path of a volume's mask, from the volume's folder on; {name}, {folder}, {subject} and {session} stand for
            the volume's file name without its ending, its folder below ``folder``, and its BIDS labels. None: NAME_mask
            beside NAME is its mask. With or without a pattern, such a file is no volume.
        suffix: Which images of a BIDS data set: "T1w", "T2w", ...
        log: Is told what is taken for a mask by its name.

    Raises:
        ValueError: No volumes, folders that overlap, two volumes whose results would have the same name, or a volume with
            two masks.
    """
    folder, out = Path(folder), Path(_utf8(os.path.abspath(out)))
    _require_apart(folder, out)
    bids = is_bids(folder)
    sources = _bids_files(folder, suffix) if bids else list(_files(folder, out))
    masks, sources = _masks(sources, folder, mask, log)
    if not sources:
        what = (
            f"sub-*/[ses-*/]anat/*_{suffix}.nii.gz"
            if bids
            else f"{', '.join(READABLE)} or DICOM folders"
        )
        raise ValueError(f"no volumes in {folder} (looked for {what})")
    inside = [path for path in sources if out.resolve() in path.resolve().parents]
    if inside:
        raise ValueError(
            f"{inside[0]} lies in the output folder {out}; choose another output folder"
        )
    settings = jobs.Request(task, {}, {}, settings or {}).settings
    model_paths = {key: os.path.abspath(path) for key, path in (model_paths or {}).items()}
    models = {key: _file_hash(path) for key, path in model_paths.items()}
    items = []
    for path, output in _outputs(sources, folder, suffix if bids else None).items():
        files = {"source": os.path.abspath(path)}
        if path in masks:
            files["mask"] = _beside(path, masks[path])
        item = Item(
            _below(path, folder),
            str(out),
            output,
            task,
            files,
            model_paths,
            settings,
            result,
            force=force,
            sidecar=_sidecar(path, folder, models, bids, masks.get(path)),
        )
        identity = [
            item.source,
            task,
            settings,
            models,
            {key: _state(file) for key, file in files.items()},
        ]
        items.append(replace(item, fingerprint=_hash(json.dumps(identity, sort_keys=True))))
    return items


def is_bids(folder: str | os.PathLike) -> bool:
    """Whether a folder is a BIDS data set."""
    return (Path(folder) / "dataset_description.json").is_file()


def _require_apart(folder: Path, out: Path) -> None:
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    here, there = folder.resolve(), out.resolve()
    if here == there or there in here.parents:
        raise ValueError(
            f"results in {out} would mix with the volumes of {folder}; choose another output folder, "
            "beside it or inside it"
        )


def _files(folder: Path, out: Path) -> Iterator[Path]:
    """Volume files and DICOM folders at any depth, in order; hidden files and folders of results are left out."""
    for parent, folders, names in os.walk(folder):
        parent = Path(parent)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and not (parent / name / OWN).is_dir()
            and (parent / name).resolve() != out.resolve()
        )
        names = sorted(name for name in names if not name.startswith("."))
        if any(_is_dicom(parent / name) for name in names):
            yield parent
        yield from (parent / name for name in names if name.lower().endswith(READABLE))


def _is_dicom(path: Path) -> bool:
    if path.name == "DICOMDIR" or path.name.lower().endswith(READABLE) or not path.is_file():
        return False
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _bids_files(folder: Path, suffix: str) -> list[Path]:
    endings = (f"_{suffix}.nii.gz", f"_{suffix}.nii")
    files = [*folder.glob("sub-*/anat/*"), *folder.glob("sub-*/ses-*/anat/*")]
    ours = re.compile(r"_desc-(harmonized|[0-9A-Za-z]+Harmonized)_")
    return sorted(
        path for path in files if path.name.endswith(endings) and not ours.search(path.name)
    )


def _outputs(sources: list[Path], folder: Path, bids_suffix: str | None) -> dict[Path, str]:
    """Where each source's image goes below the output folder; files that differ in their ending only keep it."""
    named = {
        path: _bids_name(path, bids_suffix) if bids_suffix else f"{_name(path)}_harmonized.nii.gz"
        for path in sources
    }
    parent = {path: Path(_below(path, folder)).parent for path in sources}
    outputs = {path: (parent[path] / name).as_posix() for path, name in named.items()}
    if not bids_suffix:
        count = Counter(outputs.values())
        outputs = {
            path: output
            if count[output] == 1
            else (parent[path] / f"{path.name}_harmonized.nii.gz").as_posix()
            for path, output in outputs.items()
        }
    for output, number in Counter(outputs.values()).items():
        if number > 1:
            twins = [_below(path, folder) for path in sources if outputs[path] == output]
            raise ValueError(f"{' and '.join(twins)} would both become {output}; rename one")
    return outputs


def _bids_name(path: Path, suffix: str) -> str:
    """The derivative's name: "desc" is the last entity; a label that is there already stays part of it."""
    entities = _name(path)[: -len(suffix) - 1]
    described = re.search(r"_desc-([0-9A-Za-z]+)$", entities)
    if described:
        return f"{entities}Harmonized_{suffix}.nii.gz"
    return f"{entities}_desc-harmonized_{suffix}.nii.gz"


def _masks(
    sources: list[Path], folder: Path, pattern: str | None, log: Callable[[str], None]
) -> tuple[dict[Path, str], list[Path]]:
    """The mask of each source that has one, seen from the source's folder; and the sources that are no masks.

    Masks are what the pattern names; without one, NAME_mask beside NAME, whatever the endings.
    """
    named = {}
    for path in sources:
        names = [f"{_name(path)}_mask{ending}" for ending in READABLE]
        named[path] = [
            name for name in names if path != folder and os.path.lexists(_beside(path, name))
        ]
        if len(named[path]) > 1 and not pattern:
            raise ValueError(
                f"{_below(path, folder)} has more than one mask: {' and '.join(named[path])}; keep one of them, "
                "or name them by a pattern"
            )
    masks = {
        path: _filled(pattern, path, folder) if pattern else named[path][0]
        for path in sources
        if pattern or named[path]
    }
    used = {_beside(path, name) for path, name in masks.items()}
    left = {_beside(path, name) for path, names in named.items() for name in names} - used
    if masks and not pattern:
        log(f"{len(used)} files are taken as masks, not as volumes: NAME_mask of NAME beside it")
    if left:
        log(
            f"{len(left)} files are left out: their names say that they are masks (NAME_mask of NAME beside it)"
        )
    return masks, [path for path in sources if os.path.abspath(path) not in used | left]


def _beside(path: Path, name: str) -> str:
    """The absolute path of what is called ``name``, seen from the folder of ``path``."""
    return os.path.abspath(path.parent / name)


def _filled(mask: str, path: Path, folder: Path) -> str:
    below = _below(path, folder)
    labels = {
        key: re.search(rf"(?:^|[/_]){key[:3]}-([0-9A-Za-z]+)", below)
        for key in ("subject", "session")
    }
    values = {
        "name": _name(path),
        "folder": Path(below).parent.as_posix(),
        **{key: found[1] if found else "" for key, found in labels.items()},
    }
    return re.sub(r"\{(name|folder|subject|session)\}", lambda found: values[found[1]], mask)


def _name(path: Path) -> str:
    """File name without the ending of an image; a DICOM folder's name."""
    name = path.name or path.resolve().name
    ending = next((ending for ending in READABLE if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)]


def _below(path: Path, folder: Path) -> str:
    """The path below the folder; the folder's own name if it is the volume (one DICOM series)."""
    return path.resolve().name if path == folder else path.relative_to(folder).as_posix()


def _sidecar(
    path: Path, folder: Path, models: dict[str, str], bids: bool, mask: str | None
) -> dict:
    source = f"bids:source:{_below(path, folder)}" if bids else _below(path, folder)
    return {
        "Description": "MR image with the intensities of another scanner. Research use only, never for diagnosis.",
        "Sources": [source],
        **({"Mask": mask} if mask else {}),
        "Models": models,
    }


def _state(path: str) -> list | None:
    """Size and time of a file, or of each file of a folder; None if it is not there."""
    try:
        if not os.path.isdir(path):
            status = os.stat(path)
            return [status.st_size, status.st_mtime_ns]
        files = sorted((entry.name, entry.stat()) for entry in os.scandir(path) if entry.is_file())
        return [[name, status.st_size, status.st_mtime_ns] for name, status in files]
    except OSError:
        return None


def _utf8(path: str) -> str:
    """The path. Raises ValueError if it holds bytes that are not UTF-8: ITK ends the whole program over one."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"The path {cohort_page.shown(path)} is not valid UTF-8. Rename the file or folder."
        ) from None
    return path


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _file_hash(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


# One volume ---------------------------------------------------------------------------------------------------------

_one_at_a_time = (
    threading.Lock()
)  # whatever the number of threads of a Dask worker: memory is for one volume


def work(data: dict) -> dict:
    """Do an item (its fields as a dict) unless it is done, and give its record without pictures; never raises.

    Two processes may do the same item at the same time (a cluster gave a worker up that was not dead): each writes
    under a name of its own, and the second to come leaves the first one's files.
    """
    item = Item(**data)
    with _one_at_a_time:
        record = finished(item) or _do(item)
    return _without_pictures(record)


def _without_pictures(record: dict) -> dict:
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
    """The record of the last time that this volume was done or failed, with whatever settings; None without any."""
    try:
        record = json.loads(item.record_file.read_bytes())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and {"status", "bytes"} <= record.keys() else None


def _do(item: Item) -> dict:
    record = _new_record(item)
    start = time.monotonic()
    if not (Path(item.out) / OWN).is_dir():
        text = f"The worker on {platform.node()} does not see {item.out}. Workers need the same folders under the same paths."
        return {**record, "error": text}
    try:
        request = item.request()
        result = jobs.run_here(request)
        record["seconds"] = round(time.monotonic() - start, 2)
        record |= _judged(result)
        faster = _deliver(item, record, request, result)
    except (Exception, SystemExit) as error:  # SystemExit: what a library raises to end the program
        return _failed(
            item, jobs.explain(error), traceback.format_exc(), round(time.monotonic() - start, 2)
        )
    return faster or record


def _new_record(item: Item) -> dict:
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
    }


def _judged(result: Result) -> dict:
    """Verdict, reasons and figures (table "summary") of a result, as JSON; a task without a verdict is "done"."""
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
    """A table as name and value: the first column names the rows; what is not finite is left out."""
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
    """Write image, sidecar and record; None, or the record of somebody who was faster, whose files then stay."""
    image = result.volumes.get(item.result)
    if record["status"] == "refused" and not item.force:
        image = None
    elif image is None:
        raise ValueError(f"The task '{item.task}' gave no image '{item.result}'.")
    with _temporary(item) as folder:
        if image is not None:
            partial = volumes.save(image, folder / "image.nii.gz")
            record["bytes"] = _size(partial)
            _write_json(folder / "sidecar.json", _provenance(item, record))
            record["thumbnails"] = cohort_page.thumbnails(request.volumes["source"], image)
        faster = finished(item)
        if faster:
            return faster
        if image is None:
            _remove_output(item)
        else:
            item.image.parent.mkdir(parents=True, exist_ok=True)
            os.replace(folder / "sidecar.json", item.sidecar_file)
            os.replace(partial, item.image)
        _write_json(folder / "record.json", record)
        os.replace(folder / "record.json", item.record_file)
    return None


def _provenance(item: Item, record: dict) -> dict:
    kept = {
        key: record[key] for key in ("status", "reasons", "facts", "figures", "seconds", "time")
    }
    return {
        **(item.sidecar or {}),
        "Settings": item.settings,
        "Verdict": kept.pop("status"),
        "Reasons": kept.pop("reasons"),
        "NetInversion": {"version": __version__, "task": item.task, **kept},
    }


def _failed(item: Item, error: str, details: str = "", seconds: float = 0.0) -> dict:
    """The record of a failure, written where that is possible; a good one that is there stays and is given."""
    record = {**_new_record(item), "error": error, "details": details, "seconds": seconds}
    with contextlib.suppress(OSError):
        good = finished(item)
        if good:
            return good
        _remove_output(item)
        with _temporary(item) as folder:
            _write_json(folder / "record.json", record)
            os.replace(folder / "record.json", item.record_file)
    return record


def _remove_output(item: Item) -> None:
    """What an earlier run with other settings left: it would be taken for this one's."""
    for path in (item.image, item.sidecar_file):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _temporary(item: Item) -> Iterator[Path]:
    """A folder that nobody else has, on the file system of the results."""
    folder = Path(item.out) / OWN / "temporary" / uuid.uuid4().hex
    folder.mkdir(parents=True)
    item.record_file.parent.mkdir(exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _size(path: Path) -> int:
    """Bytes of a file; -1 if there is none."""
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return -1


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=1, allow_nan=False), encoding="ascii")


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


# All of them --------------------------------------------------------------------------------------------------------


def run(
    items: list[Item],
    processes: int = 1,
    scheduler: Scheduler | None = None,
    log: Callable[[str], None] = lambda line: None,
    worker: Sequence[str] | None = None,
) -> list[dict]:
    """Do what is not done yet, and write the summary; gives the records, without pictures, in the items' order.

    Args:
        items: From ``plan``: all with the same output folder.
        processes: Worker processes on this computer, each with one volume at a time.
        scheduler: Use the workers of this Dask cluster instead; they need this library and the same folders.
        log: Is given a line per volume.
        worker: Command of a worker process instead of ``WORKER``.

    Raises:
        ValueError: Another run writes into the output folder, or it belongs to another data set.
        OSError, RuntimeError: Folder not writable, cluster not reached, package missing.
    """
    out = Path(items[0].out)
    with _only_run_in(out):
        records = {
            item.source: _without_pictures(record) for item in items if (record := finished(item))
        }
        rest = [item for item in items if item.source not in records]
        if records:
            log(f"{len(records)} of {len(items)} done before" + _by_others(records.values()))
        start = time.monotonic()
        try:
            ends = (
                _on_cluster(rest, scheduler)
                if scheduler
                else _locally(rest, processes, worker or WORKER)
            )
            for count, record in enumerate(ends, 1):
                records[record["source"]] = record
                left = (time.monotonic() - start) / count * (len(rest) - count)
                log(_line(record, count, len(rest), left))
        finally:
            cohort_page.write(out, (_reported(item, records) for item in items), out / OWN)
    return [records[item.source] for item in items]


def prepare(folder: str | os.PathLike, out: str | os.PathLike) -> None:
    """Make the output folder; for a BIDS data set with the description that makes it a data set too.

    Raises:
        ValueError: ``out`` is somebody else's data set.
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
        _write_json(partial, made)
        os.replace(partial, description)
        (out / ".bidsignore").write_text("summary.*\n", encoding="ascii")


def counts(records: list[dict]) -> str:
    """In words: "5 volumes: 3 accepted, 1 refused, 1 failed"."""
    found = Counter(record["status"] for record in records)
    return f"{len(records)} volumes: " + ", ".join(
        f"{number} {status}" for status, number in found.items()
    )


def _reported(item: Item, records: dict[str, dict]) -> dict:
    """An item's record as the summary takes it: its file, which has the pictures, or what the run knows."""
    known, written = records.get(item.source), read_record(item)
    if (
        written
        and written.get("fingerprint") == item.fingerprint
        and (not known or written["status"] == known["status"])
    ):
        return written
    return known or {**_new_record(item), "status": "not run", "time": "", "version": ""}


def _by_others(records: Iterable[dict]) -> str:
    """Which of the results that are kept another version of this library made."""
    others = Counter(record.get("version", cohort_page.UNKNOWN) for record in records)
    del others[__version__]
    if not others:
        return ""
    made = ", ".join(f"{number} by version {version}" for version, number in sorted(others.items()))
    return (
        f", not all by this version of NetInversion ({__version__}): {made}. They are kept; for one version throughout, "
        "choose another output folder"
    )


def _line(record: dict, count: int, total: int, seconds_left: float) -> str:
    why = record["error"] or "; ".join(record["reasons"])
    line = f"{count}/{total} {record['source']}: {record['status']}, {record['seconds']:.0f} s" + (
        f": {why}" if why else ""
    )
    return line + (f" (about {seconds_left / 60:.0f} min left)" if seconds_left >= 60 else "")


@contextlib.contextmanager
def _only_run_in(out: Path) -> Iterator[None]:
    """Keep a second run out of the folder, where the system can, and clear what a killed one left."""
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


# Workers of this computer -------------------------------------------------------------------------------------------


def _locally(items: list[Item], processes: int, command: Sequence[str]) -> Iterator[dict]:
    waiting, ends = queue.SimpleQueue(), queue.SimpleQueue()
    for item in items:
        waiting.put(item)
    workers = [_Worker(command, processes) for _ in range(min(processes, len(items)))]

    def serve(worker: _Worker) -> None:
        with contextlib.suppress(queue.Empty):
            while not worker.stopped:
                item = waiting.get_nowait()
                try:
                    ends.put(worker.do(item))
                except Exception as error:  # noqa: BLE001 - raised again where it is waited for
                    ends.put(error)

    for worker in workers:
        threading.Thread(target=serve, args=(worker,), daemon=True).start()
    try:
        for _ in items:
            end = ends.get()
            if isinstance(end, Exception):
                raise end
            yield end
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process that does items one by one; if it dies, the item it had has failed, and the next gets a new process."""

    def __init__(self, command: Sequence[str], share: int):
        self._command, self._process, self.stopped = command, None, False
        library = str(Path(__file__).parent.parent)
        paths = [library, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        if share > 1:
            self._environment.setdefault(
                "OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // share))
            )

    def do(self, item: Item) -> dict | None:
        """The item's record, or None after ``stop``."""
        if self._process is None:
            self._start()
        process = self._process
        try:
            process.stdin.write(json.dumps(asdict(item)) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except OSError:
            answer = ""
        if answer.endswith("\n"):
            return json.loads(answer)
        if self.stopped:
            return None
        code, self._process = process.wait(), None
        self._words.seek(max(0, self._words.seek(0, os.SEEK_END) - 4000))
        words = self._words.read().decode(errors="replace")
        return _failed(item, jobs.explain_exit(abs(code), code < 0, words), words)

    def _start(self) -> None:
        self._words = tempfile.TemporaryFile()
        # A session of its own: Ctrl-C reaches the runner alone, which stops the workers.
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            text=True,
            encoding="ascii",
            start_new_session=True,
        )

    def stop(self) -> None:
        self.stopped = True
        if self._process is not None and self._process.poll() is None:
            jobs.kill_tree(self._process.pid)
            self._process.wait()


def main() -> int:
    """A local worker (see ``WORKER``); it ends, whatever it does, when the runner does."""
    faulthandler.enable()
    devices.wait_asleep()
    devices.give_memory_back()
    output = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what libraries print does not mix with the records
    lines = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        jobs.kill_tree(os.getpid())
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        print(json.dumps(work(json.loads(lines.get()))), file=output, flush=True)


# Workers of a cluster -----------------------------------------------------------------------------------------------


def _on_cluster(items: list[Item], scheduler: Scheduler) -> Iterator[dict]:
    """A worker's death puts its volume back on Dask's list; one whose record was lost with it is not done again."""
    with _client(scheduler) as client:
        waiting = {}
        for item in items:
            key = f"{item.task}-{_hash(json.dumps(asdict(item), sort_keys=True))[:32]}"
            waiting[key] = item, client.submit(work, asdict(item), key=key, pure=False)
        for future in _distributed().as_completed(
            [future for _, future in waiting.values()], loop=client.loop
        ):
            item, _ = waiting.pop(future.key)
            record = _outcome(item, future)
            future.release()  # else its record would stay on the worker, and die with it
            yield record


def _client(scheduler: Scheduler):
    distributed = _distributed()
    security = None
    files = {
        "tls_ca_file": scheduler.tls_ca_file,
        "tls_client_cert": scheduler.tls_cert,
        "tls_client_key": scheduler.tls_key,
    }
    if any(files.values()):
        missing = [path for path in files.values() if path and not os.path.isfile(path)]
        if missing:
            raise ValueError(f"there is no file {missing[0]}")
        security = distributed.Security(
            require_encryption=True, **{key: path for key, path in files.items() if path}
        )
    try:
        return distributed.Client(scheduler.address, security=security, set_as_default=False)
    except (OSError, TimeoutError, asyncio.TimeoutError) as error:  # two types until Python 3.11
        raise ConnectionError(
            f"no Dask scheduler answers at {scheduler.address}: is the address right, the scheduler "
            f"running, and do both sides use TLS or neither? ({error})"
        ) from error


def _distributed():
    try:
        import distributed
    except ImportError as error:
        raise RuntimeError(
            "runs on a cluster need the Python package 'distributed', here and on the workers: "
            f"pip install 'netinversion[cluster]' ({error})"
        ) from error
    return distributed


def _outcome(item: Item, future) -> dict:
    if future.cancelled() or future.status == "lost":
        return _failed(item, CLUSTER_LOST)
    if future.status != "error":
        return future.result()
    error = future.exception()
    if isinstance(error, ImportError):
        return _failed(
            item,
            f"The cluster's workers lack something ({error}). Install 'netinversion[cluster]' where they run.",
        )
    lost = type(error).__name__ == "KilledWorker"
    return _failed(
        item, WORKERS_LOST if lost else f"On the cluster: {jobs.explain(error)}", str(error)
    )


if __name__ == "__main__":
    # Under its own name, so that there is one copy of this module and its classes.
    import NetInversionLib.cohort

    sys.exit(NetInversionLib.cohort.main())
