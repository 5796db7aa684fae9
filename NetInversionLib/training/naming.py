"""What a trained model is called: as its maker says, or after the people and weights it is made of.

Two models never share name and version unless their weights are the same, and none of a user's is
taken for one that came with NetInversion.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from .. import models
from ..models.library import shipped

MOST_NAMED = 3


def save(
    output: Path | str, network: nn.Module, card: models.Card, chosen: Mapping[str, Any] | None
) -> Path:
    """Write a trained network under a name and version of its own.

    Args:
        output: The model file.
        network: Trained.
        card: Its ``name`` says of what kind it is, its ``trained_on`` of whom.
        chosen: Fields of the card that the user chose, "name" and "version" among them.

    Raises:
        models.ModelError: As ``models.save``.
    """
    own = {"name": f"{card.name}, trained on {who(card.trained_on)}", "version": version(network)}
    return models.save(output, network, replace(card, **{**own, **(chosen or {})}))


def changed(
    network: nn.Module, old: models.Card, what: str, chosen: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Name and version of a model of which a part was learnt anew.

    Args:
        network: With the new part.
        old: Card of the model before; its name stays, unless a shipped model has it.
        what: The part, in a word.
        chosen: As for ``save``.
    """
    name = f"{old.name}, {what} learnt anew" if old.name in shipped_names() else old.name
    return {"name": name, "version": version(network), **(chosen or {})}


def version(network: nn.Module) -> str:
    """Eight letters and digits that follow from the weights."""
    found = hashlib.sha256()
    for name, weight in sorted(network.state_dict().items()):
        found.update(f"{name} {tuple(weight.shape)} ".encode())
        found.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:8]


def who(people: tuple[str, ...]) -> str:
    """People in a few words: their names, or how many they are."""
    return ", ".join(people) if len(people) <= MOST_NAMED else f"{len(people)} scans"


def shipped_names() -> set[str]:
    """The names of the models that came with NetInversion."""
    found = set()
    for path in shipped():
        try:
            found.add(models.read_card(path).name)
        except models.ModelError:
            continue
    return found
