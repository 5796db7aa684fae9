"""Options that several commands share, and how a command is registered."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..core import devices

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Command:
    """``netinversion <group> <name>``.

    ``arguments`` fills a parser; ``run`` does the work and returns the exit status.

    Without a ``name`` the group is the command: ``netinversion <group>``.
    """

    group: str
    name: str
    summary: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


COMMANDS: list[Command] = []


def command(
    group: str, name: str, arguments: Callable[[argparse.ArgumentParser], None]
) -> Callable:
    """Decorator that adds a function to ``COMMANDS``; its docstring's first line is the help."""

    def add(run: Callable[[argparse.Namespace], int]) -> Callable:
        summary = (run.__doc__ or "").partition("\n")[0]
        COMMANDS.append(Command(group, name, summary, arguments, run))
        return run

    return add


def json_fields(text: str) -> dict:
    """Names and values given as JSON on the command line."""
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text} is not JSON ({error}); write names in double quotes, such as '{{\"name\": 1}}'"
        ) from error
    if not isinstance(fields, dict):
        raise argparse.ArgumentTypeError(
            f"{text} has no names; write names and values, such as '{{\"name\": 1}}'"
        )
    return fields


def machine_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps or auto")
    parser.add_argument("--threads", type=int, help="CPU threads")


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
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    return devices.choose(options.device)
