"""The ``netinversion`` command: look at models, simulate, compute, harmonize, train, evaluate.

    netinversion models list
    netinversion simulate dixon ct.nii.gz --output folder
    netinversion harmonize one.nii.gz harmonized.nii.gz
    netinversion harmonize folder-of-mr folder-for-results
    netinversion train synthetic-ct folder-of-ct --leave-out pelvis --output model.safetensors
    netinversion train family unrolled-shared folder-of-mr --output model.safetensors
    netinversion evaluate synthetic-ct folder-of-ct --model model.safetensors --output folder
    netinversion evaluate harmonize folder-of-mr --simulate --people 'sub-2[5-9],sub-30' \\
        --model model.safetensors --output folder
    netinversion evaluate gate folder-of-mr --wrong other-contrasts --output folder
    netinversion compute ideal-input in_phase=ip.nrrd fat_fraction=f.nrrd \\
        water_fraction=w.nrrd ct=ct.nrrd --output folder
    netinversion compute invariances low_dose.nii.gz --model denoiser.safetensors --output folder
    netinversion rerun folder/facts.json

Each file of this wing adds its commands with ``@command``; ``options.GROUPS`` has their order.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from typing import Any

from .. import __version__
from ..core import devices
from ..core.progress import Cancelled
from . import (  # noqa: F401  (they register their commands)
    bids_app,
    change,
    completion,
    compute,
    evaluate,
    evaluate_gate,
    harmonize,
    models,
    models_download,
    models_import,
    rerun,
    simulate,
    train,
    train_family,
    train_low_dose,
)
from .fields import Parser
from .options import COMMANDS, GROUPS, Options, common_arguments
from .output import Shell, make_safe

TRACEBACK = "NETINVERSION_TRACEBACK"
"""Environment variable: if it is set, an unexpected error shows where in the code it arose."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command line.

    Args:
        arguments: Its words; those of this process by default.

    Returns:
        0 if it went well, 1 with a sentence on stderr if not, 2 for a wrong command line, 130 when
        stopped.
    """
    make_safe(sys.stdout, sys.stderr)
    devices.wait_asleep()
    words = sys.argv[1:] if arguments is None else arguments
    options = parser(words).parse_args(words, Options())
    shell = options.shell
    try:
        with shell.alone():
            status = options.run(options)
        shell.close()
        return status
    except BrokenPipeError:
        return _failed(shell, "the program that read the output has closed it", 1)
    except (KeyboardInterrupt, Cancelled) as stop:
        return _failed(shell, f"stopped{_kept(stop)}", 130)
    except Exception as error:  # noqa: BLE001 - whatever a library raises, the user gets a sentence
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        return _failed(shell, explain(error), 1)


def explain(error: BaseException) -> str:
    """What an error means, in one line."""
    from ..jobs.errors import explain as in_words

    if isinstance(error, OSError) and error.strerror and error.filename and not error.filename2:
        known = in_words(error)
        return known if "unexpected" not in known else f"{error.filename}: {error.strerror}"
    if isinstance(error, (OSError, RuntimeError)) and str(error):
        known = in_words(error)
        return known if "unexpected" not in known else str(error)
    return in_words(error)


def _kept(stop: BaseException) -> str:
    """What a run that was stopped has kept."""
    return f"; {stop}" if str(stop) else ""


def _failed(shell: Shell, sentence: str, status: int) -> int:
    try:
        shell.close(error=sentence)
    except (OSError, ValueError):
        pass
    shell.complain("netinversion: " + "; ".join(sentence.split("\n")))
    return status


# The parser ---------------------------------------------------------------------------------------


class _Help(argparse.HelpFormatter):
    """Help that says what an option is by default, where it is anything."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        told = action.help or ""
        silent = action.default in (None, False, argparse.SUPPRESS) or action.default == []
        if silent or not action.option_strings or "default" in told:
            return told
        value = action.default
        text = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        return f"{told} (default: {text})".strip().replace("%", "%%")


def parser(words: list[str] | None = None) -> argparse.ArgumentParser:
    """A parser for a command line.

    A command's arguments may import what they describe (their defaults), so only the command that
    the line names gets its own: ``netinversion models list`` imports neither torch nor scipy.

    Args:
        words: The command line; None for a parser of all commands.
    """
    root = Parser(
        "netinversion",
        description="Trained imaging networks, run backwards. Research use only, never for"
        " diagnosis.",
        epilog="netinversion GROUP --help lists a group's commands, netinversion GROUP COMMAND"
        " --help a command's options with their defaults.",
        formatter_class=_Help,
    )
    root.add_argument("--version", action="version", version=f"netinversion {__version__}")
    groups = root.add_subparsers(
        required=True,
        title="groups of commands",
        metavar="GROUP",
        parser_class=Parser,
    )
    names: dict[str, Any] = {}
    for c in sorted(COMMANDS, key=lambda c: list(GROUPS).index(c.group)):
        if c.name and c.group not in names:
            told = GROUPS[c.group]
            group = groups.add_parser(c.group, help=told, description=told, formatter_class=_Help)
            names[c.group] = group.add_subparsers(
                required=True, title="commands", metavar="COMMAND", parser_class=Parser
            )
        parent, name = (names[c.group], c.name) if c.name else (groups, c.group)
        told = c.summary if c.name else GROUPS[c.group]
        one = parent.add_parser(name, help=told, description=c.run.__doc__, formatter_class=_Help)
        if words is None or (c.group in words and (not c.name or c.name in words)):
            c.arguments(one)
        common_arguments(one)
        one.set_defaults(run=c.run, advice=c.advice)
    return root
