"""Options for what the user says of a model in its card."""

from __future__ import annotations

import argparse


def card_arguments(parser: argparse.ArgumentParser) -> None:
    """What the user may say of the model in its card."""
    group = parser.add_argument_group("the model's card")
    group.add_argument(
        "--name", help="as users will see it (default: after the people it was trained on)"
    )
    group.add_argument("--model-version", help="of the model (default: follows from its weights)")
    group.add_argument("--sources", help="where the images come from, and their licence")


def card_of(options: argparse.Namespace) -> dict[str, str]:
    """Fields of the card that the user chose."""
    fields = {"name": "name", "version": "model_version", "sources": "sources"}
    return {field: v for field, option in fields.items() if (v := getattr(options, option))}
