"""A network of the user's own, as the questions see it: LPS axes, units of 0 to 1, any size."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..card import ModelError
from .description import ScaledChannel


@dataclass(frozen=True)
class Form:
    """How a network wants its images.

    Attributes:
        dimensions: 2, 2.5 or 3, of the network.
        neighbours: Slices on each side that a 2.5-D network takes as channels.
        flipped: Whether rows and columns run the other way (RAS).
        reversed_axes: Whether the axes come as i, j, k.
        multiple: Sides of its images are multiples of it; others are padded.
        smallest: Shortest side that it takes.
        fixed: The only side that it takes, or None.
        reach: How far an output voxel looks, voxels.
        magnification: Sides of its output over sides of its input.
        takes: "channels" or "separately".
        gives: Which output counts, where there are several.
        meaning: "image", "logits" or "displacement".
        one_slice: Whether the questions hand over one slice at a time to a network of 2.5 or 3
            dimensions: its neighbours are then taken to be equal to it.
    """

    dimensions: float = 2
    neighbours: int = 1
    flipped: bool = False
    reversed_axes: bool = False
    multiple: int = 1
    smallest: int = 1
    fixed: int | None = None
    reach: int = 8
    magnification: float = 1.0
    takes: str = "channels"
    gives: int | str | None = None
    meaning: str = "image"
    one_slice: bool = False


class Called(nn.Module):
    """A callable on tensors as a module."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        self.function = function

    def forward(self, *images: Tensor) -> Any:
        return self.function(*images)


class Adapted(nn.Module):
    """The network between the units and axes of the questions and its own.

    Everything between them is in the graph: gradients pass through scaling, padding and turning.

    Args:
        network: The user's, in eval mode.
        form: How it wants its images.
        inputs, outputs: Its channels, as ``ScaledChannel`` says what it has for 0 and 1.
    """

    plumbing = True
    """Its own computations are no layers of the network (``networks.layers``)."""

    def __init__(
        self,
        network: nn.Module,
        form: Form,
        inputs: tuple[ScaledChannel, ...],
        outputs: tuple[ScaledChannel, ...],
    ):
        super().__init__()
        self.network, self.form = network, form
        self.size_multiple, self.smallest_size = form.multiple, form.smallest
        self.fixed_size = form.fixed
        self.dimensions = 2 if form.one_slice or form.dimensions == 2 else 3
        self.clipped = any(channel.clipped for channel in inputs)
        self.register_buffer("cut", torch.tensor([channel.clipped for channel in inputs]))
        for name, channels in (("taken", inputs), ("given", outputs)):
            ends = torch.tensor([channel.network for channel in channels], dtype=torch.float64)
            self.register_buffer(f"{name}_low", ends[:, 0].float())
            self.register_buffer(f"{name}_span", (ends[:, 1] - ends[:, 0]).float())

    def forward(self, x: Tensor) -> Tensor:
        """Images in LPS, values of 0 to 1, to outputs of the same kind and size.

        Args:
            x: (N, C, *space); a 2.5-D network's are whole volumes (N, C, K, J, I).

        Returns:
            (N, D, *space).

        Raises:
            ModelError: The network gives something else than images; says what.
        """
        space = x.shape[2:]
        if self.clipped:
            x = torch.where(_column(self.cut, x), x.clamp(0, 1), x)
        x = x * _column(self.taken_span, x) + _column(self.taken_low, x)
        x = self._to_own_axes(self._thickened(x))
        size = tuple(x.shape[2:])
        y = self._meant(chosen(self._called(self._padded(x)), self.form.gives))
        y = self._of_size(y, size)
        y = self._thinned(self._from_own_axes(y), space)
        if y.shape[1] != len(self.given_low):
            raise ModelError(
                f"the network gives {y.shape[1]} channels, and {len(self.given_low)} are described:"
                " name each of its outputs in the description"
            )
        return (y - _column(self.given_low, y)) / _column(self.given_span, y)

    def train(self, mode: bool = True) -> Adapted:
        """The network stays in the mode it is in: exported programs have none to change."""
        self.training = mode
        return self

    def _called(self, x: Tensor) -> Any:
        if self.form.takes == "separately":
            return self.network(*x.split(1, dim=1))
        return self.network(x)

    def _meant(self, y: Tensor) -> Tensor:
        if self.form.meaning == "logits":
            return y.softmax(1) if y.shape[1] > 1 else y.sigmoid()
        return y

    def _to_own_axes(self, x: Tensor) -> Tensor:
        if self.form.flipped:
            x = x.flip((-1, -2))
        return x.permute(0, 1, *range(x.dim() - 1, 1, -1)) if self.form.reversed_axes else x

    def _from_own_axes(self, y: Tensor) -> Tensor:
        if self.form.reversed_axes:
            y = y.permute(0, 1, *range(y.dim() - 1, 1, -1))
        return y.flip((-1, -2)) if self.form.flipped else y

    def _thickened(self, x: Tensor) -> Tensor:
        """Slices with their neighbours: as channels of a 2.5-D network, as depth of a 3-D one."""
        form = self.form
        if form.dimensions == 2 or (form.dimensions == 3 and not form.one_slice):
            return x
        if form.dimensions == 3:
            # As many equal slices as the middle one can see.
            depth = form.fixed or max(form.smallest, form.multiple, 2 * form.reach + 1)
            return x[:, :, None].expand(-1, -1, depth, -1, -1)
        around = 2 * form.neighbours + 1
        if form.one_slice:
            return x[:, :, None].expand(-1, -1, around, -1, -1).flatten(1, 2)
        last = x.shape[2] - 1
        steps = range(-form.neighbours, form.neighbours + 1)
        layers = [x[:, :, [min(max(k + step, 0), last) for k in range(last + 1)]] for step in steps]
        # (N, C, 2n + 1, K, J, I) to slices as images: (N * K, C * (2n + 1), J, I).
        return torch.stack(layers, 2).movedim(3, 1).flatten(0, 1).flatten(1, 2)

    def _thinned(self, y: Tensor, space: torch.Size) -> Tensor:
        """The questions' images again."""
        form = self.form
        if form.dimensions == 3 and form.one_slice:
            return y[:, :, y.shape[2] // 2]
        if form.dimensions == 2.5 and not form.one_slice:
            return y.unflatten(0, (-1, space[0])).movedim(2, 1)
        return y

    def _padded(self, x: Tensor) -> Tensor:
        """Sides grown to what the network takes, border values repeated."""
        form, sides = self.form, []
        for size in x.shape[2:]:
            wanted = max(size, form.smallest)
            wanted += -wanted % form.multiple
            if form.fixed is not None:
                if size > form.fixed:
                    raise ModelError(
                        f"the network takes images of {form.fixed} voxels a side only, and this one"
                        f" has {size}: choose a region that is not larger"
                    )
                wanted = form.fixed
            sides.append(wanted - size)
        if not any(sides):
            return x
        return F.pad(x, [p for side in reversed(sides) for p in (0, side)], mode="replicate")

    def _of_size(self, y: Tensor, size: tuple[int, ...]) -> Tensor:
        """Outputs on the input's grid: cut where padded, averaged or repeated where the network
        changes the size.
        """
        scale = self.form.magnification
        if y.dim() != len(size) + 2:
            raise ModelError(
                f"the network gives a tensor of shape {tuple(y.shape)}, and an image of {len(size)}"
                " axes is needed: say with 'gives' which output counts, or wrap the network"
            )
        if scale != 1:
            whole = [round(n / scale) for n in y.shape[2:]]
            y = F.interpolate(y, size=whole, mode="area" if scale > 1 else "nearest")
        if any(n < m for n, m in zip(y.shape[2:], size)):
            raise ModelError(
                f"the network gives images of {tuple(y.shape[2:])} voxels for {size}: its borders"
                " are not kept. Wrap it so that it pads its input"
            )
        return y[(...,) + tuple(slice(0, n) for n in size)]


def chosen(output: Any, gives: int | str | None = None) -> Tensor:
    """The one tensor that counts of all that a network gives.

    Args:
        output: A tensor, or a tuple, list or dictionary of them.
        gives: An index or a key; without it the first tensor of the shape (N, D, *space) is taken.

    Raises:
        ModelError: There is none.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        entries = dict(output)
    elif isinstance(output, (tuple, list)):
        entries = dict(enumerate(output))
    else:
        raise ModelError(f"the network gives {type(output).__name__} and no tensor")
    if gives is not None:
        if gives not in entries or not isinstance(entries[gives], Tensor):
            raise ModelError(
                f"the network gives no tensor {gives!r}; it gives {', '.join(map(str, entries))}"
            )
        return entries[gives]
    for entry in entries.values():
        if isinstance(entry, Tensor) and entry.dim() >= 3 and math.prod(entry.shape[2:]) > 1:
            return entry
    raise ModelError("the network gives no tensor of the shape (N, channels, *space)")


def by_slice(adapted: Adapted) -> Adapted:
    """The same for questions that hand over one slice at a time, (N, C, J, I)."""
    if adapted.form.dimensions == 2:
        return adapted
    one = copy.copy(adapted)  # the network and the buffers are shared
    one.form, one.dimensions = replace(adapted.form, one_slice=True), 2
    return one


def _column(values: Tensor, like: Tensor) -> Tensor:
    """One value a channel, (C,), shaped to broadcast over (N, C, *space)."""
    return values.reshape(-1, *[1] * (like.dim() - 2))
