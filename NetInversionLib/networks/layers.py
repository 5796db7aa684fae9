"""The layers of any network, read off while it runs, and the network up to one of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class LayerError(ValueError):
    """A layer that a network does not have; the message lists those that it has."""


@dataclass(frozen=True)
class Layer:
    """One call of an innermost module, or of a function between modules: a sum, say.

    Attributes:
        number: Counted from 1 in the order of execution, activations included, as the invariances
            paper counts.
        name: The module's path, or the function's name behind the path of the module that calls it;
            where it runs several times, its later calls have " (2)", " (3)" and so on.
        kind: The module's class, "Conv2d" say, or the function's name, "add" say.
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

    def note(name: str, layer: nn.Module | str, output: Tensor) -> bool:
        kind = layer if isinstance(layer, str) else type(layer).__name__
        found.append(Layer(len(found) + 1, name, kind, tuple(output.shape)))
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

        def stop(name: str, layer: nn.Module | str, output: Tensor) -> bool:
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


# Functions that make a layer where no module does: sums, joints, activations, resampling. What only
# reshapes or scales is none.
FUNCTIONS = frozenset(
    """add cat stack relu leaky_relu elu gelu silu mish softplus tanh sigmoid softmax
    hardswish prelu conv1d conv2d conv3d conv_transpose2d conv_transpose3d convolution
    linear matmul bmm einsum interpolate upsample max_pool2d max_pool3d avg_pool2d
    avg_pool3d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d
    adaptive_max_pool3d pixel_shuffle pixel_unshuffle scaled_dot_product_attention
    batch_norm instance_norm group_norm layer_norm mul sub div grid_sample""".split()
)
OF_TWO = frozenset(("add", "sub", "mul", "div", "matmul", "bmm"))
"""Layers only where they bring two tensors together."""


def _run(network: nn.Module, image: Tensor, seen) -> Tensor | None:
    """The output, with ``seen(name, layer, output)`` called at every innermost module.

    And at every function (of ``FUNCTIONS``) that is called between them; ``layer`` is the module,
    or a name.

    Ends, with None, when that gives True.
    """
    running = _Running(network, seen)
    handles = [
        handle for path, module in network.named_modules() for handle in running.hooks(path, module)
    ]
    try:
        with running:
            return network(image)
    except _Reached:
        return None
    finally:
        for handle in handles:
            handle.remove()


class _Running(TorchFunctionMode):
    """One forward pass: which modules it is inside of, and what it has come by.

    A module with the attribute ``plumbing`` brings images into another's form: what it computes
    itself is no layer, and paths begin inside of it.
    """

    def __init__(self, network: nn.Module, seen):
        super().__init__()
        self.seen = seen
        self.calls: dict[str, int] = {}
        self.inside: list[tuple[str, bool]] = []
        self.start = "network." if getattr(network, "plumbing", False) else ""

    def hooks(self, path: str, module: nn.Module) -> list:
        """Handles of what follows a module."""
        if isinstance(module, torch.jit.ScriptModule):
            return []  # takes no hooks: of TorchScript only the output can be looked at
        innermost = next(module.children(), None) is None
        silent = getattr(module, "plumbing", False)
        name = f"{path}.".removeprefix(self.start).rstrip(".")

        def entered(module, inputs):
            self.inside.append((name, innermost or silent))

        def left(module, inputs, output):
            self.inside.pop()
            if innermost and isinstance(output, Tensor):
                self.tell(name or type(module).__name__, module, output)

        return [module.register_forward_pre_hook(entered), module.register_forward_hook(left)]

    def tell(self, path: str, layer: nn.Module | str, output: Tensor) -> None:
        self.calls[path] = self.calls.get(path, 0) + 1
        count = self.calls[path]
        if self.seen(path if count == 1 else f"{path} ({count})", layer, output):
            raise _Reached

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        output = function(*arguments, **(keywords or {}))
        if not self.inside or self.inside[-1][1] or not isinstance(output, Tensor):
            return output
        kind = getattr(function, "__name__", "").split(".")[0].strip("_")
        kind = kind if kind in FUNCTIONS else kind.removeprefix("i").removeprefix("r")
        tensors = [one for one in arguments if isinstance(one, Tensor) and one.dim() > 2]
        if kind in FUNCTIONS and output.dim() > 2 and (kind not in OF_TWO or len(tensors) > 1):
            path = self.inside[-1][0]
            self.tell(f"{path}.{kind}" if path else kind, kind, output)
        return output
