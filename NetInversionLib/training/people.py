"""Which files show which person, so that nobody is both trained on and tested on."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Protocol, TypeVar

from ..core import files as core_files
from ..core import scans


class Named(Protocol):
    """Whatever has a scan's name."""

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)

# Reading ------------------------------------------------------------------------------------------


def find_scans(folder: Path | str) -> dict[str, tuple[Path, Path | None]]:
    """Images of a folder and its sub-folders by name, each with its mask file where there is one.

    Found as by ``core.scans.find``; the first NAME_mask beside NAME is its mask.

    Raises:
        ValueError: There is none, or a name comes twice.
    """
    folder = Path(folder)
    listing = scans.find(folder)
    if not listing.scans:
        raise ValueError(
            f"no MR volume (.nii, .nii.gz, .nrrd, .mha, or folders of DICOM slices) in {folder}"
        )
    named = scans.unique_names(folder, listing.scans)
    return {
        name: (path, next(iter(listing.masks.get(path, [])), None)) for name, path in named.items()
    }


def person_of(name: str) -> str:
    """The person that a scan shows.

    ``sub-01`` of ``sub-01_ses-2_T1w`` (BIDS), otherwise the scan's name.
    """
    name = file_stem(Path(name))
    return name.split("_")[0] if name.startswith("sub-") else name


def split_people(cases: list[T], hold_out: list[str] | None) -> tuple[list[T], list[T]]:
    """(training, held out), by person or by scan name.

    None holds out the last fifth of people by name, one at least.
    """
    people = sorted({person_of(c.name) for c in cases})
    if hold_out is None:
        hold_out = people[-max(1, len(people) // 5) :] if len(people) > 1 else []
    known = set(people) | {c.name for c in cases}
    unknown = sorted(set(hold_out) - known)
    if unknown:
        raise ValueError(
            f"nobody to hold out is called {', '.join(unknown)}; there are {', '.join(people)}"
        )
    held_out = [c for c in cases if {c.name, person_of(c.name)} & set(hold_out)]
    training = [c for c in cases if not {c.name, person_of(c.name)} & set(hold_out)]
    if not training:
        raise ValueError("nobody is left to train on: hold out fewer people, or give more scans")
    return training, held_out


# Several scans of one person must be left out together. These are the development data's names; a
# folder with a people.csv (columns file,person) is read by that, and any other file is a person of
# its own.
SLICE_OF_PERSON = re.compile(
    r"(TCGA-\d\d-\w{4}|A\d{6}|acrin_flt_\d{3}|cptac_pda_\d{5}|lung_fused_\d{4}|rider_\d{4})"
    r"_\w+"
)
KNOWN_PEOPLE = {
    "pelvis": "pelvis",
    "abdomen_slab": "pelvis",
    "upper_abdomen": "upper_abdomen",
    "chest_b70f": "chest",
    "chest_b40f": "chest",
}


def read_people(folder: Path | str) -> dict[Path, str]:
    """CT scans of a folder (found as by ``core.scans.find``) and the person each shows.

    Raises:
        ValueError: No CT file there, or people.csv names a file that is not there.
    """
    folder = Path(folder)
    found = scans.find(folder, deep=False).scans if folder.is_dir() else []
    files = scans.unique_names(folder, found)
    if not files:
        raise ValueError(f"no CT volume (.nii, .nii.gz, .nrrd, .mha) in {folder}")
    people = {name: _person_of_ct(file_stem(path)) for name, path in files.items()}
    table = folder / "people.csv"
    if table.exists():
        people = {_key(files, file): person for file, person in _read_table(table)}
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


def _key(files: dict[str, Path], file: str) -> str:
    """The name in ``files`` of what a table calls a file, with or without its ending."""
    return file if file in files else file_stem(Path(file))


def _person_of_ct(stem: str) -> str:
    """The person of a CT file, by the development data's names."""
    known = SLICE_OF_PERSON.fullmatch(stem)
    return known[1] if known else KNOWN_PEOPLE.get(stem, stem)


def file_stem(path: Path) -> str:
    return core_files.scan_name(path)
