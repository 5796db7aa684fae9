"""The layers of any network, read off while it runs, and the network up to one of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


class LayerError(ValueError):
    """A layer that a network does not have; the message lists those that it has."""


@dataclass(frozen=True)
class Layer:
    """One call of an innermost module.

    Attributes:
        number: Counted from 1 in the order of execution, activations included, as the invariances
            paper counts.
        name: The module's path; where a module runs several times, its later calls have " (2)", "
            (3)" and so on.
        kind: The module's class, "Conv2d" say.
        shape: Of its output for the image looked at, (N, C, ...).
    """

    number: int
    name: str
    kind: str
    shape: tuple[int, ...]

    @property
    def title(self) -> str:
        """For a list to choose from: "3: layers.2, Conv2d, 32 channels"."""
        channels = f", {self.shape[1]} channels" if len(self.shape) > 1 else ""
        return f"{self.number}: {self.name}, {self.kind}{channels}"


def layers(network: nn.Module, image: Tensor | None = None) -> list[Layer]:
    """Every layer that gives one tensor while the network runs, in order of execution.

    Args:
        network: In eval mode.
        image: Of shape (N, C, *space); by default an empty one of one channel and 64 x 64 voxels.
    """
    found: list[Layer] = []
    image = torch.zeros(1, 1, 64, 64) if image is None else image

    def note(name: str, module: nn.Module, output: Tensor) -> bool:
        found.append(Layer(len(found) + 1, name, type(module).__name__, tuple(output.shape)))
        return False

    with torch.no_grad():
        _run(network, image, note)
    return found


class UpTo(nn.Module):
    """The network's first part: Phi in f = Psi(Phi(x)), ending with the output of one layer.

    Args:
        network: The whole network f, used as it is.
        layer: A layer's name, its number (also as text), or "output" for f itself.
        image: (N, C, *space), to find the layers with.
        called: The network in words, for errors.

    Raises:
        LayerError: There is no such layer.
    """

    def __init__(
        self, network: nn.Module, layer: str | int, image: Tensor, called: str = "the network"
    ):
        super().__init__()
        self.network = network
        available = layers(network, image)
        matching = [
            found.name for found in available if str(layer) in (found.name, str(found.number))
        ]
        if not matching and layer != "output":
            titles = "; ".join(found.title for found in available)
            raise LayerError(
                f"{called} has no layer {str(layer)!r}; choose 'output' or one of: {titles}"
            )
        self.layer = matching[0] if matching else "output"

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output; what comes after the layer is not computed.

        Args:
            x: Images, (N, C, J, I).
        """
        if self.layer == "output":
            return self.network(x)
        kept: list[Tensor] = []

        def stop(name: str, module: nn.Module, output: Tensor) -> bool:
            if name == self.layer:
                kept.append(output)
            return bool(kept)

        _run(self.network, x, stop)
        if not kept:
            raise LayerError(
                f"layer {self.layer!r} was not reached for an image of shape {tuple(x.shape)}"
            )
        return kept[0]


def same_values(
    network: nn.Module, layer: str | int, image: Tensor | None = None, called: str = "the network"
) -> tuple[str, ...]:
    """All names of what a layer gives: its own first, "output" too where it gives the network's.

    Args:
        network: In eval mode.
        layer: As for ``UpTo``.
        image: Of shape (N, C, *space), as for ``layers``.
        called: As for ``UpTo``.

    Raises:
        LayerError: There is no such layer.
    """
    image = torch.zeros(1, 1, 64, 64) if image is None else image
    given: list[tuple[str, Tensor]] = []
    with torch.no_grad():
        output = _run(network, image, lambda name, module, values: given.append((name, values)))
    ends = ["output", *(name for name, values in given if values is output)]
    own = UpTo(network, layer, image, called).layer
    return (own, *(name for name in ends if name != own)) if own in ends else (own,)


class _Reached(Exception):
    """Ends a forward pass at the wanted layer."""


def _run(network: nn.Module, image: Tensor, seen) -> Tensor | None:
    """The output, ``seen(name, module, output)`` called at every innermost module.

    Ends, with None, when that gives True.
    """
    calls: dict[str, int] = {}
    handles = []
    for path, module in network.named_modules():
        if next(module.children(), None) is None:
            handles.append(
                module.register_forward_hook(_hook(path or type(module).__name__, calls, seen))
            )
    try:
        return network(image)
    except _Reached:
        return None
    finally:
        for handle in handles:
            handle.remove()


def _hook(path: str, calls: dict[str, int], seen):
    def hook(module, inputs, output):
        if not isinstance(output, Tensor):
            return
        calls[path] = calls.get(path, 0) + 1
        name = path if calls[path] == 1 else f"{path} ({calls[path]})"
        if seen(name, module, output):
            raise _Reached

    return hook
