"""Options that several commands share, and how a command is registered."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..core import devices
from .fields import number
from .output import Shell

if TYPE_CHECKING:
    import torch

DICOM = "dicom"
"""Beside the endings of ``core.files.SUFFIXES``, what images can be written as."""


@dataclass(frozen=True)
class Command:
    """``netinversion <group> <name>``.

    ``arguments`` fills a parser; ``run`` does the work and returns the exit status. ``advice`` says
    how a run takes less, where one can be long.

    Without a ``name`` the group is the command: ``netinversion <group>``.
    """

    group: str
    name: str
    summary: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    advice: str = ""


class Options(argparse.Namespace):
    """A command line as it was read: a value for each of its options, and where its words go."""

    @cached_property
    def shell(self) -> Shell:
        """One for the whole command, as the options that all commands share ask for."""
        return Shell.of(self)


COMMANDS: list[Command] = []
GROUPS = {
    "models": "model files: list, describe and check them",
    "simulate": "images to try the rest on",
    "compute": "run a network backwards on images: ideal inputs, invariances",
    "harmonize": "show MR images as the scanner that a model knows would",
    "change": "use what a harmonization found on another image of the visit, or take it back",
    "bids-app": "harmonize a BIDS data set, called as BIDS Apps are",
    "rerun": "compute a result again, from its own record",
    "train": "make networks from images of your own",
    "evaluate": "measure how good a model is, on people that it has not seen",
    "completion": "completion of commands and options with the tab key",
}
"""What each group of commands is for."""


def command(
    group: str,
    name: str,
    arguments: Callable[[argparse.ArgumentParser], None],
    advice: str = "",
) -> Callable:
    """Decorator that adds a function to ``COMMANDS``; its docstring's first line is the help."""

    def add(run: Callable[[argparse.Namespace], int]) -> Callable:
        summary = (run.__doc__ or "").partition("\n")[0]
        COMMANDS.append(Command(group, name, summary, arguments, run, advice))
        return run

    return add


# Options of all commands --------------------------------------------------------------------------


def common_arguments(parser: argparse.ArgumentParser) -> None:
    """What every command takes."""
    group = parser.add_argument_group("of all commands")
    group.add_argument(
        "--config", metavar="FILE", help="options by name, as JSON or TOML; the command line wins"
    )
    group.add_argument("--quiet", action="store_true", help="no progress, only answers and errors")
    group.add_argument(
        "--json", action="store_true", help="the answer as one JSON object on standard output"
    )
    group.add_argument("--version", action="version", version=f"netinversion {__version__}")


def output_arguments(
    parser: argparse.ArgumentParser, told: str, metavar: str = "FOLDER", required: bool = True
) -> None:
    """Where results go, and whether they may replace those of another run."""
    parser.add_argument("--output", required=required, metavar=metavar, help=told)
    overwrite_argument(parser)


def overwrite_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the results of another run that are there"
    )


def format_argument(parser: argparse.ArgumentParser) -> None:
    from ..core.files import SUFFIXES

    parser.add_argument(
        "--format",
        choices=(*(suffix[1:] for suffix in SUFFIXES), DICOM),
        help=(
            "of the images that are written; dicom makes derived series of the same patient and"
            " study (default: the input's)"
        ),
    )


def seed_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed", type=number(at_least=0), default=0, metavar="N", help="of all that is random"
    )


def machine_arguments(parser: argparse.ArgumentParser, device: str = "cpu") -> None:
    parser.add_argument("--device", default=device, help="cpu, cuda, cuda:1, mps or auto")
    threads_argument(parser)


def threads_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=number(at_least=1), metavar="N", help="CPU threads (default: all cores)"
    )


# Pieces -------------------------------------------------------------------------------------------


def process(options: argparse.Namespace) -> tuple[torch.device, bool]:
    """The device of this process, and whether it is the first that torchrun started.

    Without torchrun there is only one.
    """
    import os

    place, device = os.environ.get("LOCAL_RANK"), machine(options)
    if place and device.type == "cuda":
        device = devices.choose(f"cuda:{place}")
    return device, place in (None, "0")


def machine(options: argparse.Namespace) -> torch.device:
    """Set the threads, and the device that was asked for."""
    set_threads(options)
    return devices.choose(options.device)


def set_threads(options: argparse.Namespace) -> None:
    """As many CPU threads as were asked for."""
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)


def require_new(path: str | Path, overwrite: bool, *may_be: object) -> Path:
    """The path of a file to write, which is not there yet.

    Args:
        path: Of the file; whoever writes it makes its folder.
        overwrite: It may be there.
        may_be: What it may be although it is there: the file that is added to, or one whose
            training goes on (its checkpoint's existence).

    Raises:
        ValueError: It is there, is a folder, or cannot be written there.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file")
    if path.exists() and not overwrite and not any(may_be):
        raise ValueError(f"{path} is there already; choose another name, or --overwrite")
    require_writable(path)
    return path


def require_writable(path: Path) -> None:
    """See that a path could be written, before the work; its folder need not be there yet.

    Raises:
        ValueError: The nearest folder that is there is no folder, or may not be written.
    """
    place = next((folder for folder in path.absolute().parents if folder.exists()), path.parent)
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise ValueError(f"{path} cannot be written: check the folder {place}")
