"""Network architectures by name: a model file names one, and never carries code.

To add one, decorate its class with ``register`` and import its file at the end of this one. Its constructor takes plain
JSON values and checks them (they come from files that nobody vouches for); every tensor it needs is in its
``state_dict``. Attributes that are compared with a model's card where they exist: ``in_channels``, ``out_channels``,
``dimensions``.
"""

from __future__ import annotations

from collections.abc import Callable

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


def build(name: str, /, **arguments) -> nn.Module:
    """A new network with random weights.

    Raises:
        ValueError: Unknown name, or arguments that the architecture refuses; the message says which.
    """
    if name not in ARCHITECTURES:
        raise ValueError(
            f"unknown architecture {name!r}; this version knows {', '.join(sorted(ARCHITECTURES))}"
        )
    try:
        return ARCHITECTURES[name](**arguments)
    except TypeError as error:
        raise ValueError(f"architecture {name!r} does not take these arguments: {error}") from error


from . import cinn, corrector, denoisers, flow, mrflow, sampler, unet, vae  # noqa: E402, F401  (register themselves)
