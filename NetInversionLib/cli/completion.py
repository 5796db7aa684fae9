"""`netinversion completion`: commands and options complete with the tab key."""

from __future__ import annotations

import argparse

from .options import command

SHELLS = ("bash", "zsh", "tcsh")
PATHS = ("FILE", "FOLDER", "PATH", "SOURCE", "TARGET", "IMAGE", "MASK", "PEM", "ROLE=FILE")
FOLDERS = ("folder", "file", "model", "output", "ct", "low_dose", "input")


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell_name", metavar="SHELL", help=", ".join(SHELLS))


@command("completion", "", _arguments)
def completion(options: argparse.Namespace) -> int:
    """Print a script for a shell, after which the tab key completes commands, options and files.

    For bash: netinversion completion bash >> ~/.bash_completion
    """
    if options.shell_name not in SHELLS:
        raise ValueError(f"there is completion for {', '.join(SHELLS)}, not {options.shell_name}")
    import shtab

    from .program import parser

    root = parser()
    for one in _all(root):
        for action in one._actions:
            names = action.metavar if isinstance(action.metavar, tuple) else (action.metavar,)
            if set(names) & set(PATHS) or action.dest in FOLDERS:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    for line in shtab.complete(root, options.shell_name).splitlines():
        print(line)
    return 0


def _all(parser: argparse.ArgumentParser):
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in dict.fromkeys(action.choices.values()):
                yield from _all(one)
