"""How a wing offers its names: each is found on first use.

So reading a card or settings needs no torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def door(package: str, offers: dict[str, str]) -> Callable[[str], Any]:
    """A module-level ``__getattr__`` for a wing.

    Args:
        package: ``__name__`` of the wing.
        offers: Names that the wing offers, each with the file of the wing that defines it.

    Returns:
        A function that finds a name on first use; it raises AttributeError for a name that is not
        offered.
    """

    def find(name: str) -> Any:
        if name not in offers:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{offers[name]}"), name)

    return find
