"""`netinversion models import` and `models trust`: networks of the user's own, from files."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from .. import models
from ..models.foreign import formats, trust
from .fields import json_fields
from .options import command, overwrite_argument

if TYPE_CHECKING:
    from ..core.volumes import Volume

SHORTEST_SUM = 8


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        help=f"of a network: {formats.KNOWN}",
    )
    parser.add_argument(
        "--architecture",
        default="",
        metavar="CLASS",
        help="of a state dict: my_package:MyNet, net.py:MyNet, or a registered name",
    )
    parser.add_argument(
        "--arguments",
        type=json_fields,
        metavar="JSON",
        help="what the class is made with, such as '{\"channels\": 32}'",
    )
    parser.add_argument(
        "--describe",
        metavar="JSON",
        help=(
            "fields of NetInversionLib.models.Description, or a file with them, such as"
            ' \'{"inputs": ["T1w"], "outputs": ["CT"], "scaling": "z-score"}\'; what is left out'
            " is probed"
        ),
    )
    parser.add_argument(
        "--example",
        nargs="+",
        metavar="IMAGE",
        help="images that the network takes: scalings that are not described are tried on them",
    )
    parser.add_argument(
        "--target", nargs="+", metavar="IMAGE", help="what it should give for the examples"
    )
    parser.add_argument("--name", default="", help="of the model; default the file's")
    parser.add_argument("--output", metavar="FOLDER", help="default the file's folder")
    overwrite_argument(parser)
    parser.add_argument(
        "--flow", metavar="FILE", help="of a published autoencoder: the flow that belongs to it"
    )
    parser.add_argument(
        "--denoiser", metavar="MODEL", help="of a published autoencoder: its denoiser"
    )
    parser.add_argument(
        "--trust",
        nargs="+",
        default=[],
        metavar="SHA256",
        help=(
            "files that may run code, by the first letters of their SHA-256 (8 at least); without"
            " it you are asked"
        ),
    )


@command("models", "import", _import_arguments)
def models_import(options: argparse.Namespace) -> int:
    """Bring a network of your own in.

    Published weights become a model file; any other network keeps its file and gets a card beside
    it. What can run code is asked about once, with its SHA-256.
    """
    from ..models.foreign.importing import Wishes, import_network

    wishes = Wishes(
        architecture=options.architecture,
        arguments=options.arguments,
        description=_description(options.describe),
        name=options.name,
        folder=Path(options.output) if options.output else None,
        denoiser=Path(options.denoiser) if options.denoiser else None,
        flow=Path(options.flow) if options.flow else None,
        inputs=_images(options.example),
        targets=_images(options.target),
        overwrite=options.overwrite,
    )

    def ask(path: Path, kind: str, sha256: str) -> bool:
        if any(len(s) >= SHORTEST_SUM and sha256.startswith(s.lower()) for s in options.trust):
            return True
        return _asked(path, kind, sha256)

    shell = options.shell
    made = import_network(options.file, wishes, ask, log=shell.say)
    card = models.read_card(made)
    taken, given = (", ".join(c.name for c in cs) for cs in (card.inputs, card.outputs))
    shell.say(f"{card.name}: {taken} to {given}")
    shell.say(made)
    shell.tell(file=str(made), card=asdict(card))
    return 0


def _description(given: str | None) -> dict | None:
    """From JSON, or from the file that it names."""
    if given is None:
        return None
    if not given.lstrip().startswith("{"):
        path = Path(given)
        if not path.is_file():
            raise ValueError(f"--describe is JSON or a file with it; there is no file {given}")
        given = path.read_text(encoding="utf-8")
    try:
        values = json.loads(given)
    except ValueError as error:
        raise ValueError(f"--describe is not JSON ({error})") from error
    if not isinstance(values, dict):
        raise ValueError('--describe is names and values, such as \'{"inputs": ["T1w"]}\'')
    return values


def _images(paths: list[str] | None) -> list[Volume] | None:
    from ..core import files as core_files

    return None if paths is None else [core_files.load(path) for path in paths]


def _asked(path: Path, kind: str, sha256: str) -> bool:
    """Ask a person, if there is one at the terminal."""
    print(
        f"{path} ({kind}) can run any code on this computer, with your rights.\nSHA-256 {sha256}",
        file=sys.stderr,
    )
    if not sys.stdin.isatty():
        print(f"To trust it: --trust {sha256[:16]}", file=sys.stderr)
        return False
    return input("Do you trust where it comes from? [y/N] ").strip().lower() in ("y", "yes")


def _trust_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--forget", metavar="SHA256", help="no longer trust this content")


@command("models", "trust", _trust_arguments)
def models_trust(options: argparse.Namespace) -> int:
    """List the files that you said may run code, by their SHA-256."""
    if options.forget:
        trust.forget(options.forget)
    for sha256, name in trust.trusted().items():
        options.shell.say(f"{sha256} {name}")
    options.shell.tell(trusted=trust.trusted())
    return 0
