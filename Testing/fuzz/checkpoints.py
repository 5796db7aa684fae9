"""Fuzzes checkpoints: python Testing/fuzz/checkpoints.py [--count 600] [--first N] [--seed N].

Good files are those of short trainings. A mutant must be refused with a sentence, or hold the same
values to the last bit; and take at most 5 s and, beside Python's own objects, twice its size of
memory.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Base, Reading, main
from torch import nn

from NetInversionLib import networks
from NetInversionLib.training import Group, State
from NetInversionLib.training import checkpoint as checkpoints


@dataclass(frozen=True)
class Settings:
    steps: int = 4
    learning_rate: float = 1e-3
    average: float = 0.9
    layers: tuple = ("1", "output")


def bases(folder: Path, small: bool) -> list[Base]:
    torch.manual_seed(0)
    kept = {"small": trained(nn.Conv2d(1, 1, 3))}
    if not small:
        kept["cnn10"] = trained(networks.build("cnn10"))
    for name, state in kept.items():
        state.save(folder / name)
    arrays = {"image": np.random.default_rng(0).normal(size=(8, 9, 7)), "matrix": np.eye(4)}
    checkpoints.save(folder / "arrays", arrays)
    paths = [folder / name for name in (*kept, "arrays")]
    return [Base(path.name, path.read_bytes(), checkpoints.load(path)) for path in paths]


def trained(network: nn.Module) -> State:
    """A network after some steps."""
    optimiser = torch.optim.Adam(network.parameters())
    state = State(Settings(), ["a", "b"], network, optimiser=optimiser)
    for _ in range(state.settings.steps):
        loss = network(torch.randn(1, 1, 9, 9)).square().mean()
        state.update(optimiser, list(network.parameters()), loss, Group())
        state.stepped()
        state.recent.append(float(loss.detach()))
    state.history.append([4, 0.5, float("nan")])
    return state


def read(path: Path) -> Any:
    """What a checkpoint holds; a training that it is of goes on from it."""
    kept = checkpoints.load(path)
    if isinstance(kept, dict) and "image" not in kept:
        name = "cnn10" if len(dict(kept.get("mean") or {})) > 2 else "small"
        network = networks.build("cnn10") if name == "cnn10" else nn.Conv2d(1, 1, 3)
        trained(network).load(path)
    return kept


def same(one: Any, other: Any) -> bool:
    if isinstance(other, (torch.Tensor, np.ndarray)):
        return type(one) is type(other) and np.array_equal(
            np.asarray(one), np.asarray(other), equal_nan=np.asarray(other).dtype.kind == "f"
        )
    if isinstance(other, dict):
        return (
            isinstance(one, dict)
            and one.keys() == other.keys()
            and all(same(one[name], other[name]) for name in other)
        )
    if isinstance(other, (list, tuple)):
        return (
            type(one) is type(other)
            and len(one) == len(other)
            and all(same(a, b) for a, b in zip(one, other))
        )
    return type(one) is type(other) and one == other


READING = Reading(bases, read, same, (ValueError,), ".checkpoint")

if __name__ == "__main__":
    sys.exit(main(__doc__.partition("\n")[0], 600, READING, __file__))
