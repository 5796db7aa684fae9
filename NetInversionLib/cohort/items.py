"""What a cohort consists of: which files are read, which are written, under which names."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from .. import jobs
from ..core import files as core_files
from ..core import result_files, scans
from ..core.header import utf8
from .folders import OWN

GONE = "no file"
"""Why ``scans.find`` leaves out a link to nothing."""


@dataclass(frozen=True)
class Item:
    """One volume's job, JSON through and through.

    Attributes:
        source: The volume's path below the input folder, with forward slashes; its name in tables.
        out, output: The output folder, and the path below it of the image: a file whose ending
            names the format, or a folder for a DICOM series.
        analysis, volumes, model_paths, settings: As in ``jobs.Request``, but volumes are paths.
        result: Which of the result's volumes is the image.
        fingerprint: Changes with settings, model contents, or size or time of a volume's file.
        force: Write the image of a refused volume too; the analysis is told by its setting "force".
        sidecar: Fields for the JSON file beside the image.
        run: The same for runs beside each other in one output folder: what failed in one of them,
            the others do not try again.
    """

    source: str
    out: str
    output: str
    analysis: str
    volumes: dict[str, str]
    model_paths: dict[str, str]
    settings: dict
    result: str
    fingerprint: str = ""
    force: bool = False
    sidecar: dict | None = None
    run: str = ""

    @property
    def image(self) -> Path:
        return Path(self.out) / self.output

    @property
    def sidecar_file(self) -> Path:
        return self.image.with_name(f"{_name(Path(self.output))}.json")

    @property
    def mask_file(self) -> Path:
        """Where a mask goes that the analysis has found."""
        return found_mask(self.image)

    @property
    def record_file(self) -> Path:
        return Path(self.out) / OWN / "records" / f"{text_hash(self.source)[:32]}.json"

    def request(self) -> jobs.Request:
        """The job with its volumes read. Raises what ``volumes.load`` raises."""
        loaded = {key: core_files.load(utf8(path)) for key, path in self.volumes.items()}
        return jobs.Request(
            self.analysis,
            loaded,
            self.model_paths,
            self.settings | ({"force": True} if self.force else {}),
        )


def found_mask(image: Path) -> Path:
    """The place of a found mask beside a written image: NAME_mask, or as BIDS has it."""
    name = core_files.scan_name(image)
    bids = re.sub(r"_desc-harmonized_[0-9A-Za-z]+$", "_desc-brain", name)
    bids = re.sub(r"_desc-([0-9A-Za-z]+)Harmonized_[0-9A-Za-z]+$", r"_desc-\1Brain", bids)
    ending = next((s for s in core_files.SUFFIXES if image.name.endswith(s)), ".nii.gz")
    return image.with_name(f"{bids}_mask{ending}")


# What is to be done -------------------------------------------------------------------------------


def plan(
    folder: str | os.PathLike,
    out: str | os.PathLike,
    model_paths: dict[str, str] | None = None,
    settings: dict | None = None,
    analysis: str = "harmonize",
    result: str = "harmonized",
    mask: str | None = None,
    suffix: str = "T1w",
    force: bool = False,
    log: Callable[[str], None] = lambda line: None,
    format: str | None = None,
) -> list[Item]:
    """An item for every volume of ``folder``; nothing is written.

    Args:
        folder: Volumes (NIfTI, NRRD, MetaImage, folders of one DICOM series) at any depth, symbolic
            links to folders not followed; or a BIDS data set, told by its dataset_description.json.
        out: Output folder; it may lie inside ``folder``, not the other way round.
        mask: Path of a volume's mask, from the volume's folder on; {name}, {folder}, {subject} and
            {session} stand for the volume's file name without its ending, its folder below
            ``folder``, and its BIDS labels. None: NAME_mask beside NAME is its mask. With or
            without a pattern, such a file is no volume.
        suffix: Which images of a BIDS data set: "T1w", "T2w", ...
        log: Is told what is taken for a mask by its name.
        format: Of the images: "nii.gz", "nii", "nrrd", "mha" or "dicom"; None for each volume's.

    Raises:
        ValueError: No volumes, folders that overlap, two volumes whose results would have the same
            name, or a volume with two masks.
    """
    folder, out = Path(folder), Path(utf8(os.path.abspath(out)))
    _require_apart(folder, out)
    bids = is_bids(folder)
    sources = _bids_files(folder, suffix) if bids else _files(folder, out, log)
    masks, sources = _masks(sources, folder, mask, log)
    if not sources:
        what = (
            f"sub-*/[ses-*/]anat/*_{suffix}.nii.gz"
            if bids
            else f"{', '.join(core_files.READABLE)} or DICOM folders"
        )
        raise ValueError(f"no volumes in {folder} (looked for {what})")
    inside = [path for path in sources if out.resolve() in path.resolve().parents]
    if inside:
        raise ValueError(
            f"{inside[0]} lies in the output folder {out}; choose another output folder"
        )
    settings = jobs.Request(analysis, {}, {}, settings or {}).settings
    model_paths = {key: os.path.abspath(path) for key, path in (model_paths or {}).items()}
    models = {key: _file_hash(path) for key, path in model_paths.items()}
    items = []
    for path, output in _outputs(sources, folder, suffix if bids else None, format).items():
        files = {"source": os.path.abspath(path)}
        if path in masks:
            files["mask"] = _beside(path, masks[path])
        item = Item(
            _below(path, folder),
            str(out),
            output,
            analysis,
            files,
            model_paths,
            settings,
            result,
            force=force,
            sidecar=_sidecar(path, folder, models, bids, masks.get(path)),
        )
        identity = [
            item.source,
            analysis,
            settings,
            models,
            {key: _state(file) for key, file in files.items()},
        ]
        item = replace(item, fingerprint=text_hash(json.dumps(identity, sort_keys=True)))
        items.append(item if format else _as_it_was(item))
    return items


def _as_it_was(item: Item) -> Item:
    """The item, in the format of a result of the same that is there already."""
    try:
        record = json.loads(item.record_file.read_bytes())
        output = record["output"]
        if record["fingerprint"] != item.fingerprint or record["status"] == "failed":
            return item
    except (OSError, ValueError, KeyError, TypeError):
        return item
    same = _name(Path(output)) == _name(Path(item.output))
    return replace(item, output=output) if same and not Path(output).is_absolute() else item


def is_bids(folder: str | os.PathLike) -> bool:
    """Whether a folder is a BIDS data set."""
    return scans.is_bids(folder)


def _require_apart(folder: Path, out: Path) -> None:
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    here, there = folder.resolve(), out.resolve()
    if here == there or there in here.parents:
        raise ValueError(
            f"results in {out} would mix with the volumes of {folder}; choose another output"
            " folder, beside it or inside it"
        )


def _files(folder: Path, out: Path, log: Callable[[str], None]) -> list[Path]:
    """Volume files and DICOM folders at any depth, in order; folders of results are left out."""
    listing = scans.find(
        folder, skip=lambda path: (path / OWN).is_dir() or path.resolve() == out.resolve()
    )
    for reason, number in Counter(listing.left_out.values()).items():
        if reason not in ("a mask", GONE):  # of masks more is said
            log(f"{number} files are left out: by their names {reason}")
    return sorted([*listing.scans, *_gone(listing)], key=_place)


def _place(path: Path) -> tuple:
    """Orders volumes as one walks the folders: a folder's own, then those of its sub-folders."""
    if path.is_dir():
        return path.parts, ""
    return path.parent.parts, path.name


def _gone(listing: scans.Listing) -> list[Path]:
    """Links to nothing, such as those of a data set that was not fetched: they fail by name."""
    return [path for path, reason in listing.left_out.items() if reason == GONE]


def _bids_files(folder: Path, suffix: str) -> list[Path]:
    endings = (f"_{suffix}.nii.gz", f"_{suffix}.nii")
    place = re.compile(r"sub-[^/]+/(ses-[^/]+/)?anat/[^/]+")
    ours = re.compile(r"_desc-(harmonized|[0-9A-Za-z]+Harmonized)_")
    listing = scans.find(folder)
    return [
        path
        for path in sorted([*listing.scans, *_gone(listing)])
        if path.name.endswith(endings)
        and place.fullmatch(_below(path, folder))
        and not ours.search(path.name)
    ]


def _outputs(
    sources: list[Path], folder: Path, bids_suffix: str | None, format: str | None
) -> dict[Path, str]:
    """Where each source's image goes below the output folder.

    Files that differ in their ending only keep it.
    """
    ending = {path: result_files.suffix_for(path, format) for path in sources}
    stem = {
        path: _bids_name(path, bids_suffix) if bids_suffix else f"{_name(path)}_harmonized"
        for path in sources
    }
    named = {path: stem[path] + ending[path] for path in sources}
    parent = {path: Path(_below(path, folder)).parent for path in sources}
    outputs = {path: (parent[path] / name).as_posix() for path, name in named.items()}
    if not bids_suffix:
        count = Counter((parent[path], stem[path]) for path in sources)
        outputs = {
            path: (
                output
                if count[parent[path], stem[path]] == 1
                else (parent[path] / f"{path.name}_harmonized{ending[path]}").as_posix()
            )
            for path, output in outputs.items()
        }
    for output, number in Counter(outputs.values()).items():
        if number > 1:
            twins = [_below(path, folder) for path in sources if outputs[path] == output]
            raise ValueError(f"{' and '.join(twins)} would both become {output}; rename one")
    return outputs


def _bids_name(path: Path, suffix: str) -> str:
    """The derivative's name, without ending: "desc" is the last entity.

    A label that is there already stays part of it.
    """
    entities = _name(path)[: -len(suffix) - 1]
    described = re.search(r"_desc-([0-9A-Za-z]+)$", entities)
    if described:
        return f"{entities}Harmonized_{suffix}"
    return f"{entities}_desc-harmonized_{suffix}"


def _masks(
    sources: list[Path], folder: Path, pattern: str | None, log: Callable[[str], None]
) -> tuple[dict[Path, str], list[Path]]:
    """Which sources are masks of others.

    Returns:
        The mask of each source that has one, seen from the source's folder; and the sources that
        are no masks.
    """
    named = {}
    for path in sources:
        named[path] = [mask.name for mask in scans.masks_beside(path) if path != folder]
        if len(named[path]) > 1 and not pattern:
            raise ValueError(
                f"{_below(path, folder)} has more than one mask: {' and '.join(named[path])}; keep"
                " one of them, or name them by a pattern"
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
            f"{len(left)} files are left out: their names say that they are masks (NAME_mask of"
            " NAME beside it)"
        )
    return masks, [path for path in sources if os.path.abspath(path) not in used | left]


def _beside(path: Path, name: str) -> str:
    """The absolute path of what is called ``name``, seen from the folder of ``path``."""
    return os.path.abspath(path.parent / name)


def mask_of(path: Path, pattern: str | None = None) -> str | None:
    """The mask of one volume: by a pattern as in ``plan``, else NAME_mask beside NAME; or None.

    Raises:
        ValueError: It has two.
    """
    masks, _ = _masks([path], path.parent, pattern, lambda line: None)
    return _beside(path, masks[path]) if path in masks else None


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
    return core_files.scan_name(path)


def _below(path: Path, folder: Path) -> str:
    """The path below the folder; the folder's own name if it is the volume (one DICOM series)."""
    return path.resolve().name if path == folder else path.relative_to(folder).as_posix()


def _sidecar(
    path: Path, folder: Path, models: dict[str, str], bids: bool, mask: str | None
) -> dict:
    source = f"bids:source:{_below(path, folder)}" if bids else _below(path, folder)
    return {
        "Description": (
            "MR image with the intensities of another scanner. Research use only, never for"
            " diagnosis."
        ),
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


def text_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _file_hash(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()
