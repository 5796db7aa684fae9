"""`netinversion models`: list, describe and verify model files. Needs neither torch nor scipy."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from .. import models
from .options import command, machine, machine_arguments

# Models -------------------------------------------------------------------------------------------


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="*", help="where to look; else the usual folders")


def _info_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file")


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="+")
    machine_arguments(parser)


@command("models", "list", _list_arguments)
def models_list(options: argparse.Namespace) -> int:
    """List the model files that are found, and say of each unusable one what is wrong."""
    shell = options.shell
    found = models.list_models(options.folder or None)
    listed = []
    for path, card in found.items():
        usable = isinstance(card, models.Card)
        shell.say(path)
        shell.say(
            f"  {card.name}, version {card.version}" if usable else f"  cannot be used: {card}"
        )
        facts = {"card": asdict(card)} if isinstance(card, models.Card) else {"error": str(card)}
        listed.append({"file": str(path), **facts})
    if not found:
        places = ", ".join(map(str, options.folder or models.model_folders()))
        shell.say(f"no models in {places}")
    shell.tell(models=listed)
    return 0


@command("models", "info", _info_arguments)
def models_info(options: argparse.Namespace) -> int:
    """Print a model's card.

    Channels, what it was trained on, licence, measured quality and intended use.
    """
    shell = options.shell
    card = asdict(models.read_card(options.file))
    for key, value in card.items():
        if key in ("inputs", "outputs"):
            shell.say(f"{key}: ")
            for channel in value:
                shell.say(f"  {channel}")
        elif isinstance(value, dict):
            shell.say(f"{key}: ")
            for name, one in value.items():
                shell.say(f"  {name}: {one}")
        else:
            shell.say(f"{key}: {value}")
    shell.tell(card=card)
    return 0


@command("models", "verify", _verify_arguments)
def models_verify(options: argparse.Namespace) -> int:
    """Check model files through and through.

    Header, shapes, sums of the content, finite weights, and one run with gradients.
    """
    shell, device = options.shell, machine(options)
    checked = []
    for path in options.file:
        try:
            model = models.verify(path, device)
        except models.ModelError as error:
            checked.append({"file": path, "error": str(error)})
            shell.complain(f"netinversion: {error}")
        else:
            card = model.card
            checked.append(
                {"file": path, "sha256": model.sha256, "protected": bool(model.protected)}
            )
            shell.say(f"{path}: good, {card.name} version {card.version}, SHA-256 {model.sha256}")
            if not model.protected:
                shell.say("  made by an older version, without sums: a change would not be noticed")
    shell.tell(models=checked)
    return 1 if any("error" in one for one in checked) else 0
