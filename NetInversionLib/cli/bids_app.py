"""`netinversion bids-app`: harmonization, called as the BIDS Apps are.

After the rules for BIDS Apps (Gorgolewski and colleagues, PLOS Computational Biology 13(3), 2017):
input folder, output folder and level by their places, people by their labels.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from .harmonize import (
    cohort_arguments,
    model_and_settings,
    model_arguments,
    run_cohort,
    say_cohort,
)
from .options import command, format_argument, overwrite_argument, set_threads

if TYPE_CHECKING:
    from ..cohort.items import Item

LEVELS = ("participant", "group")
COMMAND = "netinversion-bids"
IMAGE = "netinversion"
"""Name of the container's image that the descriptor tells."""
NOT_TOLD = ("help", "version", "config", "quiet", "json", "descriptor")
"""Options that a descriptor leaves out: they are about the call, not about the result."""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="BIDS_DIR", help="the BIDS data set; it is only read")
    parser.add_argument(
        "output_place",
        metavar="OUTPUT_DIR",
        help="for the derivatives, summary.csv and summary.html; many commands may share it",
    )
    parser.add_argument(
        "level",
        metavar="{participant,group}",
        help="participant: harmonize people; group: the page of all that has been done",
    )
    parser.add_argument(
        "--participant-label",
        "--participant_label",
        nargs="+",
        metavar="LABEL",
        help="people, with or without 'sub-' (default: all)",
    )
    overwrite_argument(parser)
    format_argument(parser)
    model_arguments(parser)
    cohort_arguments(parser)
    parser.add_argument(
        "--boutiques",
        dest="descriptor",
        action=_Descriptor,
        help="print the descriptor for Boutiques, made from these options, and end",
    )


@command("bids-app", "", _arguments)
def bids_app(options: argparse.Namespace) -> int:
    """Harmonize people of a BIDS data set, or write the page of all of them.

    netinversion bids-app BIDS_DIR OUTPUT_DIR participant --participant-label 01 02
    """
    from .. import cohort
    from ..core.scans import is_bids

    if options.level not in LEVELS:
        raise ValueError(f"the level is {' or '.join(LEVELS)}, not {options.level!r}")
    source, output = Path(options.folder), Path(options.output_place)
    if not source.is_dir() or not is_bids(source):
        raise ValueError(f"{source} is no BIDS data set: it has no dataset_description.json")
    model, settings = model_and_settings(options)
    set_threads(options)
    if options.level == "participant":
        return run_cohort(source, output, model, settings, options, _chosen)
    items = cohort.plan(
        source, output, {"model": model}, settings, suffix=options.suffix, log=options.shell.log
    )
    return say_cohort(cohort.summarize(_chosen(items, options)), output, options)


def _chosen(items: list[Item], options: argparse.Namespace) -> list[Item]:
    """The items of the people who were named."""
    if not options.participant_label:
        return items
    wanted = [f"sub-{label.removeprefix('sub-')}" for label in options.participant_label]
    people = {item.source.partition("/")[0] for item in items}
    missing = [name for name in wanted if name not in people]
    if missing:
        raise ValueError(f"no images of {', '.join(missing)} in {options.folder}")
    return [item for item in items if item.source.partition("/")[0] in wanted]


# The descriptor -----------------------------------------------------------------------------------


class _Descriptor(argparse.Action):
    """An option that prints the descriptor and ends, as ``--version`` does."""

    def __init__(self, **more: Any):
        super().__init__(nargs=0, **more)

    def __call__(self, parser: argparse.ArgumentParser, *of: Any) -> None:
        print(json.dumps(descriptor(parser), indent=1))
        parser.exit()


def descriptor(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """What Boutiques (schema 0.5) is told of the command."""
    told = [one for one in parser._actions if one.help != argparse.SUPPRESS]
    inputs = [_input(action) for action in told if action.dest not in NOT_TOLD]
    outputs = {
        "derivatives": "[OUTPUT_DIR]",
        "page": "[OUTPUT_DIR]/summary.html",
        "table": "[OUTPUT_DIR]/summary.csv",
    }
    return {
        "name": COMMAND,
        "description": "MR images of a BIDS data set as the scanner that a model knows would show"
        " them. Research use only, never for diagnosis.",
        "tool-version": __version__,
        "schema-version": "0.5",
        "container-image": {"type": "docker", "image": f"{IMAGE}:{__version__}"},
        "command-line": " ".join([COMMAND, *(one["value-key"] for one in inputs)]),
        "inputs": inputs,
        "output-files": [
            {"id": name, "name": name, "path-template": place} for name, place in outputs.items()
        ],
    }


def _input(action: argparse.Action) -> dict[str, Any]:
    """One option or place of the command line."""
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    key = re.sub(r"\W", "_", metavar if not action.option_strings and "{" not in metavar else "")
    told: dict[str, Any] = {
        "id": action.dest,
        "name": action.dest.replace("_", " "),
        "description": (action.help or action.dest).replace("%%", "%"),
        "type": _type(action, metavar),
        "value-key": f"[{key or action.dest.upper()}]",
        "optional": not action.required,
    }
    choices = list(action.choices or re.findall(r"[\w.-]+", metavar if "{" in metavar else ""))
    if action.option_strings:
        told["command-line-flag"] = action.option_strings[0]
    if choices:
        told["value-choices"] = choices
    if metavar == "N":
        told["integer"] = True
    if action.nargs in ("+", "*") or (isinstance(action.nargs, int) and action.nargs > 1):
        told["list"] = True
    return told


def _type(action: argparse.Action, metavar: str) -> str:
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return "Flag"
    if metavar in ("N", "X"):
        return "Number"
    return "File" if metavar in ("BIDS_DIR", "FILE", "PEM") else "String"
