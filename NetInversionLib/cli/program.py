"""The ``netinversion`` command: look at models, simulate, train, evaluate.

    netinversion models list
    netinversion simulate dixon ct.nii.gz --output folder
    netinversion harmonize folder-of-mr folder-for-results
    netinversion train synthetic-ct folder-of-ct --leave-out pelvis --output model.safetensors
    netinversion evaluate synthetic-ct folder-of-ct model.safetensors --output folder
    netinversion evaluate harmonize folder-of-mr --simulate --people 'sub-2[5-9],sub-30' \\
        --model model.safetensors --output folder
    netinversion evaluate gate folder-of-mr --wrong other-contrasts --output folder
    netinversion compute ideal-input in_phase=ip.nrrd fat_fraction=f.nrrd \\
        water_fraction=w.nrrd ct=ct.nrrd --output folder
    netinversion compute invariances low_dose.nii.gz --model denoiser.safetensors --output folder

Each file of this wing adds its commands with ``@command``, in the order of the imports below.
"""

from __future__ import annotations

import argparse
import sys

from .. import __version__
from ..core import devices
from . import compute, evaluate, models, train  # noqa: F401, I001  (register their commands)
from .options import COMMANDS


def main(arguments: list[str] | None = None) -> int:
    """Run a command line.

    Args:
        arguments: Its words; those of this process by default.

    Returns:
        0 if it went well, 1 with a sentence on stderr if not, 2 for a wrong command line.
    """
    devices.wait_asleep()
    words = sys.argv[1:] if arguments is None else arguments
    options = _parser(words).parse_args(words)
    try:
        return options.run(options)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"netinversion: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("netinversion: stopped", file=sys.stderr)
        return 130


def _parser(words: list[str]) -> argparse.ArgumentParser:
    """A parser for a command line.

    A command's arguments may import what they describe (their defaults), so only the groups that
    the line names get theirs: ``netinversion models list`` imports neither torch nor scipy.
    """
    parser = argparse.ArgumentParser(
        "netinversion", description="Research use only, never for diagnosis."
    )
    parser.add_argument("--version", action="version", version=f"netinversion {__version__}")
    groups = parser.add_subparsers(
        required=True, metavar="|".join(dict.fromkeys(c.group for c in COMMANDS))
    )
    names: dict[str, argparse._SubParsersAction] = {}
    for c in COMMANDS:
        if c.name and c.group not in names:
            names[c.group] = groups.add_parser(c.group).add_subparsers(required=True)
        parent, name = (names[c.group], c.name) if c.name else (groups, c.group)
        one = parent.add_parser(name, help=c.summary, description=c.run.__doc__)
        if c.group in words:
            c.arguments(one)
        one.set_defaults(run=c.run)
    return parser
