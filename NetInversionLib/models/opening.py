"""A model from wherever it is: the project's own file, a card beside a network's file, memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import files
from .card import Card
from .foreign import cards
from .model import Model

if TYPE_CHECKING:
    import torch


def load(path: Path | str | Model, device: torch.device | str = "cpu") -> Model:
    """The model of a file, ready for use; a model that is one already stays as it is.

    Args:
        path: A model file, or the card of an imported network (``foreign.cards``).
        device: Where its weights lie.

    Raises:
        ModelError: As ``files.load`` and ``foreign.cards.load``.
    """
    if isinstance(path, Model):
        return path
    if cards.is_card(path):
        return cards.load(path, device)
    return files.load(path, device)


def read_card(path: Path | str | Model) -> Card:
    """The card of a model, from its file's header alone.

    Raises:
        ModelError: As ``load``, as far as the header shows it.
    """
    if isinstance(path, Model):
        return path.card
    if cards.is_card(path):
        return cards.read_card(path)
    return files.read_card(path)


def opened(paths: Mapping[str, Any]) -> dict[str, Model]:
    """Models by what they are for, from their files or from memory.

    Raises:
        ModelError: As ``load``.
    """
    return {key: load(path) for key, path in paths.items()}
