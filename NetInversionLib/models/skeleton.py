"""A card's network, built no further than the weights of its file reach."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch.nn.modules import module as torch_module
from torch.overrides import TorchFunctionMode

from .. import networks
from .card import Card, ModelError

# A network nests at most so many modules for each of its weights; those shipped have 1 or 2.
MODULES_PER_WEIGHT, MODULES_BESIDES = 8, 100


class _Unfilled(TorchFunctionMode):
    """Draws no normal numbers where there is no memory for them.

    For those torch would import its compiler, which takes two seconds.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.normal_:
            return args[0]
        return function(*args, **(kwargs or {}))


class TooMuch(Exception):
    """The network wants more weights, numbers or modules than the file has."""


def skeleton(card: Card, shapes: dict[str, tuple[int, ...]], path: Path) -> torch.nn.Module:
    """The card's network without memory for its weights.

    Its building ends at the first weight beyond what the file holds, so that no card asks for more
    time or memory than a file of its size deserves.

    Args:
        card: What it is.
        shapes: Of the file's weights, by name.
        path: Of the file, for errors.

    Raises:
        ModelError: A network that this version does not know or that refuses its arguments; one
            that is not as the card says, or whose weights are not those of the file.
    """
    try:
        with torch.device("meta"), _Unfilled(), within(shapes.values()):
            network = networks.build(card.architecture, **card.arguments)
    except TooMuch as error:
        raise ModelError(
            f"{path.name}: its weights do not fit the network {card.architecture!r}, which has"
            f" more ({error}); get the file again"
        ) from error
    except (ValueError, TypeError, RuntimeError, RecursionError) as error:
        raise ModelError(f"{path.name}: {error}; a newer NetInversion may read it") from error
    _check_card(network, card, path)
    expected = {name: tuple(weight.shape) for name, weight in network.state_dict().items()}
    wrong = sorted(n for n in expected.keys() | shapes.keys() if expected.get(n) != shapes.get(n))
    if wrong:
        raise ModelError(
            f"{path.name}: {len(wrong)} weights do not fit the network {card.architecture!r}"
            f" (first: {wrong[0]!r}, wanted {expected.get(wrong[0])}, found"
            f" {shapes.get(wrong[0])}); get the file again"
        )
    return network


@contextmanager
def within(shapes: Iterable[tuple[int, ...]]) -> Iterator[None]:
    """Let this thread build a network only of as many weights and numbers as these shapes have.

    Raises:
        TooMuch: It wants more, or more modules than so many weights need.
    """
    sizes = [math.prod(shape) for shape in shapes]
    left = {"weights": len(sizes), "numbers": sum(sizes)}
    left["modules"] = MODULES_BESIDES + MODULES_PER_WEIGHT * len(sizes)
    mine = threading.get_ident()

    def take(**amounts: int) -> None:
        if threading.get_ident() != mine:
            return
        for kind, amount in amounts.items():
            left[kind] -= amount
            if left[kind] < 0:
                raise TooMuch(f"the file holds {len(sizes)} weights of {sum(sizes)} numbers")

    def weight(owner: torch.nn.Module, name: str, tensor: torch.Tensor | None) -> None:
        if tensor is not None:
            take(weights=1, numbers=tensor.numel())

    def child(owner: torch.nn.Module, name: str, part: torch.nn.Module | None) -> None:
        take(modules=1)

    with ExitStack() as hooks:
        for register, hook in (
            (torch_module.register_module_parameter_registration_hook, weight),
            (torch_module.register_module_buffer_registration_hook, weight),
            (torch_module.register_module_module_registration_hook, child),
        ):
            hooks.callback(register(hook).remove)
        yield


def _check_card(network: torch.nn.Module, card: Card, path: Path) -> None:
    for name, channels in (("in_channels", card.inputs), ("out_channels", card.outputs)):
        if getattr(network, name, len(channels)) != len(channels):
            raise ModelError(
                f"{path.name}: {name} does not match the {len(channels)} channels of its card"
            )
    if getattr(network, "dimensions", card.dimensions) != card.dimensions:
        raise ModelError(
            f"{path.name}: the network's dimensions are not the card's {card.dimensions}"
        )
