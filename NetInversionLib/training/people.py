"""Which files show which person, so that nobody is both trained on and tested on."""

from __future__ import annotations

import csv
from pathlib import Path

from ..core import files as core_files

# Reading ------------------------------------------------------------------------------------------


def find_scans(folder: Path | str) -> dict[str, tuple[Path, Path | None]]:
    """Images of a folder and its sub-folders by name, each with its mask file where there is one.

    NIfTI, NRRD and MetaImage files (``NAME_mask`` beside ``NAME`` is its mask); a sub-folder
    without any is one DICOM series.

    Raises:
        ValueError: There is none, or a name comes twice.
    """
    folder = Path(folder)
    found: dict[str, tuple[Path, Path | None]] = {}
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    for place in [folder, *sorted(p for p in folder.rglob("*") if p.is_dir())]:
        files = {
            core_files.scan_name(p): p
            for p in sorted(place.iterdir())
            if p.name.endswith(core_files.SUFFIXES) and not p.name.startswith(".")
        }
        images = {
            s: (p, files.get(s + "_mask")) for s, p in files.items() if not s.endswith("_mask")
        }
        if not files and any(p.is_file() for p in place.iterdir()) and _holds_dicom(place):
            images = {place.resolve().name: (place, None)}
        twice = sorted(images.keys() & found.keys())
        if twice:
            raise ValueError(f"two scans in {folder} are called {twice[0]}: rename one")
        found.update(images)
    if not found:
        raise ValueError(
            f"no MR volume (.nii, .nii.gz, .nrrd, .mha, or folders of DICOM slices) in {folder}"
        )
    return dict(sorted(found.items()))


def person_of(name: str) -> str:
    """The person that a scan shows.

    ``sub-01`` of ``sub-01_ses-2_T1w`` (BIDS), otherwise the scan's name.
    """
    return name.split("_")[0] if name.startswith("sub-") else name


def _holds_dicom(folder: Path) -> bool:
    """Whether a file there has DICOM's mark."""
    for path in sorted(folder.iterdir()):
        if path.is_file():
            with open(path, "rb") as file:
                if file.read(132)[128:] == b"DICM":
                    return True
    return False


# Several scans of one person must be left out together. These are the development data's names; a
# folder with a people.csv (columns file,person) is read by that, and any other file is a person of
# its own.
KNOWN_PEOPLE = {
    "pelvis": "pelvis",
    "abdomen_slab": "pelvis",
    "upper_abdomen": "upper_abdomen",
    "chest_b70f": "chest",
    "chest_b40f": "chest",
}


def read_people(folder: Path | str) -> dict[Path, str]:
    """CT files of a folder and the person each shows; label maps (``*_labels``) are passed over.

    Raises:
        ValueError: No CT file there, or people.csv names a file that is not there.
    """
    folder = Path(folder)
    files = {file_stem(p): p for p in sorted(folder.glob("*")) if _is_image(p)}
    if not files:
        raise ValueError(f"no CT volume (.nii, .nii.gz, .nrrd, .mha) in {folder}")
    people = {stem: KNOWN_PEOPLE.get(stem, stem) for stem in files}
    table = folder / "people.csv"
    if table.exists():
        people = {file_stem(Path(file)): person for file, person in _read_table(table)}
        missing = sorted(set(people) - set(files))
        if missing:
            raise ValueError(
                f"{table} names files that are not in the folder: {', '.join(missing)}"
            )
    return {files[stem]: person for stem, person in people.items()}


def _read_table(path: Path) -> list[tuple[str, str]]:
    """(file, person) of each row, as spreadsheets write them: with a byte order mark or semicolons.

    Raises:
        ValueError: The columns are not there, or a row has no person.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text; save it as CSV, UTF-8") from None
    first = text.partition("\n")[0]
    mark = max(",;\t", key=first.count)
    rows = list(csv.reader(text.splitlines(), delimiter=mark))
    names = [name.strip().lower() for name in rows[0]] if rows else []
    if not {"file", "person"} <= set(names):
        raise ValueError(
            f"{path} needs the columns file and person in its first line, not"
            f" {', '.join(names) or 'nothing'}"
        )
    found = []
    for number, row in enumerate(rows[1:], 2):
        cells = dict(zip(names, (cell.strip() for cell in row)))
        if not any(cells.values()):
            continue
        if not cells.get("file") or not cells.get("person"):
            raise ValueError(f"line {number} of {path} names no file or no person")
        found.append((cells["file"], cells["person"]))
    return found


def file_stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rsplit(".", 1)[0]


def _is_image(path: Path) -> bool:
    return path.name.endswith((".nii", ".nii.gz", ".nrrd", ".mha")) and not file_stem(
        path
    ).endswith("_labels")
