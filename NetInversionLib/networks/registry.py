"""Network architectures by name, and how one is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {}


def register(name: str) -> Callable:
    """Class decorator: ``ARCHITECTURES[name]`` becomes the class; a name is given once."""

    def add(architecture: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        if name in ARCHITECTURES:
            raise ValueError(f"there is already an architecture called {name!r}")
        ARCHITECTURES[name] = architecture
        return architecture

    return add


def build(name: str, /, **arguments: Any) -> nn.Module:
    """A new network with random weights.

    Raises:
        ValueError: Unknown name, or arguments that the architecture refuses; the message says
            which.
    """
    if name not in ARCHITECTURES:
        raise ValueError(
            f"unknown architecture {name!r}; this version knows {', '.join(sorted(ARCHITECTURES))}"
        )
    try:
        return ARCHITECTURES[name](**arguments)
    except TypeError as error:
        raise ValueError(f"architecture {name!r} does not take these arguments: {error}") from error
