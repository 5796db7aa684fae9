"""`netinversion change`: a harmonization's change on another image, or backwards."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .options import command, require_new


def _arguments(parser: argparse.ArgumentParser) -> None:
    from ..harmonize.reuse import WAYS

    parser.add_argument(
        "file",
        metavar="FACTS",
        help="JSON record that 'harmonize' wrote beside its image, or for each volume of a folder",
    )
    parser.add_argument(
        "image",
        metavar="IMAGE",
        help="volume of the same visit, in the coordinates of the one that was harmonized",
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="image to write")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the file if it is there already"
    )
    parser.add_argument(
        "--way",
        choices=WAYS,
        default=WAYS[0],
        help=(
            "shading: take only the multiplicative field out, as for a T2 or FLAIR of the visit;"
            " change: the whole change, for the same contrast; inverse: from the harmonized image"
            " back to the source"
        ),
    )


@command("change", "", _arguments)
def change(options: argparse.Namespace) -> int:
    """Apply what a harmonization found to another image of the visit, or take it back."""
    from ..core import files, result_files
    from ..harmonize import reuse

    place = require_new(options.output, options.overwrite)
    if not result_files.is_one_file(place):
        raise ValueError(f"{place}: name a file that ends in {', '.join(files.SUFFIXES)}")
    changed = reuse.apply_again(_facts(Path(options.file)), files.load(options.image), options.way)
    place.parent.mkdir(parents=True, exist_ok=True)
    files.save(changed, place)
    options.shell.say(place)
    options.shell.tell(output=str(place), way=options.way)
    return 0


def _facts(path: Path) -> dict:
    """The facts of a record: its own, a folder's volume's, or a BIDS sidecar's.

    Raises:
        ValueError: The file is no JSON record.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as the record of a harmonization: {error}")
    if not isinstance(record, dict):
        raise ValueError(f"{path} is no record of a harmonization")
    record = record.get("NetInversion", record)
    return record.get("facts", record)
