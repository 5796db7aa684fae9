"""`netinversion models`: list, describe and verify model files. Needs neither torch nor scipy."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from .. import models
from .options import command

# Models -------------------------------------------------------------------------------------------


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="*", help="where to look; else the usual folders")


def _info_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file")


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="+")


@command("models", "list", _list_arguments)
def models_list(options: argparse.Namespace) -> int:
    """List the model files that are found, and say of each unusable one what is wrong."""
    found = models.list_models(options.folder or None)
    for path, card in found.items():
        usable = isinstance(card, models.Card)
        print(
            path,
            f"{card.name}, version {card.version}" if usable else f"cannot be used: {card}",
            sep="\n  ",
        )
    if not found:
        print("no models in", ", ".join(map(str, options.folder or models.model_folders())))
    return 0


@command("models", "info", _info_arguments)
def models_info(options: argparse.Namespace) -> int:
    """Print a model's card.

    Channels, what it was trained on, licence, measured quality and intended use.
    """
    for key, value in asdict(models.read_card(options.file)).items():
        if key in ("inputs", "outputs"):
            value = "".join(f"\n  {channel}" for channel in value)
        elif isinstance(value, dict):
            value = "".join(f"\n  {k}: {v}" for k, v in value.items())
        print(f"{key}: {value}")
    return 0


@command("models", "verify", _verify_arguments)
def models_verify(options: argparse.Namespace) -> int:
    """Check model files through and through.

    Header, shapes, sums of the content, finite weights, and one run with gradients.
    """
    wrong = 0
    for path in options.file:
        try:
            model = models.verify(path)
            print(
                f"{path}: good, {model.card.name} version {model.card.version}, SHA-256"
                f" {model.sha256}"
            )
            if not model.protected:
                print("  made by an older version, without sums: a change would not be noticed")
        except models.ModelError as error:
            wrong += 1
            print(error, file=sys.stderr)
    return 1 if wrong else 0
