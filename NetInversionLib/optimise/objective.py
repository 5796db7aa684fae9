"""The error of a network's output as a function of its input.

It is taken whole or in tiles, within a memory budget.

``Objective`` evaluates eq. 2 of the ideal-input method and its gradient for many images at once.
Images go through the network a few at a time; an image too large for the budget goes through in
tiles whose surroundings are read from the same image, so that the tiled gradient equals the whole
one (no seams, nothing to blend).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.devices import is_out_of_memory


@dataclass(frozen=True)
class Terms:
    """Weights of the objective.

    ``above``, ``below``: lambda 1 and 2, the price of values above 1 and below 0. ``mean``: every
    term is a mean over voxels, else a sum as the source prints it. ``sign``: 1 to look for the
    least error, -1 for the greatest.
    """

    above: float = 1.0
    below: float = 1.0
    mean: bool = True
    sign: int = 1


class WholeImage(ValueError):
    """Every output voxel of a network depends on the whole image: tiles would not be exact.

    So it is with attention, global pooling or normalisation.
    """


class Objective:
    """sign * |f(x) - y|_1 + above * |relu(x - 1)|^2 + below * |relu(-x)|^2.

    For each image of a batch.

    Args:
        network: Differentiable, (N, C, *space) to (N, D, *space), no gradients of its parameters
            needed.
        target: y, (images, D, *space), in the network's normalised units.
        weight: (images, 1, *space), where the error counts (0 or 1), or None for everywhere.
        terms: See ``Terms``.
        budget: Bytes that one pass through the network may take.
        multiple: Tile borders lie at multiples of this (the network's pooling).
        log: Receives what is worth telling (tiles, halved batches).

    Source:
        Eq. 2 of "Visualizing the 'ideal' input MRI for synthetic CT generation with a trained deep
        CNN", ISMRM 2019, 4866, as a minimisation.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        target: Tensor,
        weight: Tensor | None = None,
        terms: Terms = Terms(),
        *,
        budget: float = 1e9,
        multiple: int = 1,
        log: Callable[[str], None] = lambda message: None,
    ):
        self.network, self.target, self.terms = network, target, terms
        self.weight = torch.ones_like(target[:, :1]) if weight is None else weight.to(target)
        self.space = target.shape[2:]
        self.multiple, self.log, self.budget = multiple, log, budget
        self.voxels = self.weight.flatten(1).sum(1).clamp(min=1) * target.shape[1]
        self.evaluations = 0
        self.bytes_per_voxel: float | None = None
        self.images, self.tile, self.halo = 0, tuple(self.space), 0

    # -- what is minimised -------------------------------------------------------------------------

    def value_and_gradient(
        self, x: Tensor, items: Tensor, rounding: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """The objective and its gradient.

        Args:
            x: Input images, shape (rows, C, *space).
            items: Row r belongs to image ``items[r]`` modulo images, (rows,).
            rounding: If above 0, the gradient (not the objective) is that of sqrt(r^2 +
                rounding^2) in place of each absolute difference |r|, in the network's units.

        Returns:
            The objective (rows,), and the gradient, of the shape of x.
        """
        image = items % len(self.target)
        error, gradient = self._error(x, image, rounding)
        penalty, slope = self._penalty(x)
        scale = self._scale(image)
        self.evaluations += 1
        return (
            self.terms.sign * error * scale + penalty,
            gradient.mul_(self.terms.sign).mul_(_column(scale, x)) + slope,
        )

    def error(self, x: Tensor, items: Tensor) -> Tensor:
        """Mean absolute error where it counts, in the network's normalised units.

        Args:
            x: Input images, shape (rows, C, *space).
            items: Row r belongs to image ``items[r]`` modulo images, (rows,).

        Returns:
            (rows,).
        """
        image = items % len(self.target)
        total = [
            (
                (self.forward(x[i : i + 1]) - self.target[j : j + 1]).abs() * self.weight[j : j + 1]
            ).sum()
            for i, j in enumerate(image.tolist())
        ]
        return torch.stack(total) / self.voxels[image]

    def mean_error(self, x: Tensor) -> float:
        """Mean absolute error over all images where it counts, in the network's normalised units.

        Args:
            x: One row an image, shape (images, C, *space).
        """
        items = torch.arange(len(x), device=x.device)
        return float((self.error(x, items).double() * self.voxels).sum() / self.voxels.sum())

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """f(x) without gradients; a few images at a time, tiled if that is needed.

        Args:
            x: Input images, shape (rows, C, *space).

        Returns:
            Outputs, shape (rows, D, *space).
        """
        return self._in_pieces(x, self._forward)

    # -- pieces ------------------------------------------------------------------------------------

    def _in_pieces(self, x: Tensor, run: Callable):
        """``run(x)`` in pieces that fit; on out-of-memory, again in smaller ones."""
        self._plan(x)
        while True:
            try:
                return run(x)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Out of the except block: the exception's traceback kept the tensors of the failed pass
            # alive.
            if not self._shrink(x):
                raise MemoryError(
                    "Memory ran out even with the smallest tiles. Close other programs, choose a"
                    " smaller region or a coarser image, or run on a device with more memory."
                )

    def _forward(self, x: Tensor) -> Tensor:
        output = x.new_empty(len(x), self.target.shape[1], *self.space)
        for rows in _slices(len(x), self.images):
            for window, core, inner in self._tiles():
                output[(rows, ...) + core] = self.network(x[(rows, ...) + window])[(...,) + inner]
        return output

    def _error(self, x: Tensor, image: Tensor, rounding: float) -> tuple[Tensor, Tensor]:
        """Summed absolute error per row and its gradient, kinks rounded over ``rounding``."""
        return self._in_pieces(x, lambda x: self._pass(x, image, rounding))

    def _pass(self, x: Tensor, image: Tensor, rounding: float) -> tuple[Tensor, Tensor]:
        total, gradient = x.new_zeros(len(x)), torch.zeros_like(x)
        for rows in _slices(len(x), self.images):
            for window, core, inner in self._tiles():
                with torch.enable_grad():
                    part = x[(rows, ...) + window].detach().requires_grad_()
                    output = self.network(part)[(...,) + inner]
                    y, w = self.target[image[rows]], self.weight[image[rows]]
                    off, w = output - y[(...,) + core], w[(...,) + core]
                    size = (off.square() + rounding**2).sqrt() if rounding else off.abs()
                    (slope,) = torch.autograd.grad((size * w).sum(), part)
                total[rows] += (off.detach().abs() * w).flatten(1).sum(1)
                gradient[(rows, ...) + window] += slope
        return total, gradient

    def _penalty(self, x: Tensor) -> tuple[Tensor, Tensor]:
        above, below = (x - 1).clamp(min=0), x.clamp(max=0)
        scale = 1 / x[0].numel() if self.terms.mean else 1.0
        value = scale * (
            self.terms.above * above.square().flatten(1).sum(1)
            + self.terms.below * below.square().flatten(1).sum(1)
        )
        return value, 2 * scale * (self.terms.above * above + self.terms.below * below)

    def _scale(self, image: Tensor) -> Tensor:
        return 1 / self.voxels[image] if self.terms.mean else torch.ones_like(self.voxels[image])

    def _tiles(self) -> Iterator[tuple[tuple, tuple, tuple]]:
        """For every tile the window to feed and the core to keep, twice.

        The core is in image coordinates, and the same inside the window.
        """
        axes = []
        for size, tile in zip(self.space, self.tile):
            axis = []
            for start in range(0, size, tile):
                stop = min(start + tile, size)
                first, last = max(0, start - self.halo), min(size, stop + self.halo)
                axis.append(
                    (slice(first, last), slice(start, stop), slice(start - first, stop - first))
                )
            axes.append(axis)
        for parts in itertools.product(*axes):
            yield tuple(zip(*parts))

    # -- memory ------------------------------------------------------------------------------------

    def _plan(self, x: Tensor) -> None:
        """Choose, once, how many images and how large a tile go through the network in one pass."""
        if self.images:
            return
        self.bytes_per_voxel = bytes_per_voxel(self.network, x, self.multiple)
        voxels = self.budget / self.bytes_per_voxel
        # On a CPU a pass is fastest while its feature maps stay in the cache: two slices of 96 x
        # 96, say.
        most = max(1, round(20_000 / math.prod(self.space))) if x.device.type == "cpu" else len(x)
        self.images = max(1, min(most, int(voxels // math.prod(self.space))))
        while math.prod(min(n, t + 2 * self.halo) for n, t in zip(self.space, self.tile)) > voxels:
            if not self._halve_tile(x):
                break

    def _shrink(self, x: Tensor) -> bool:
        """After out-of-memory: half the images, then half the tile.

        False when nothing smaller is possible.
        """
        if x.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.images > 1:
            self.images //= 2
            self.log(f"Out of memory: going on with {self.images} image(s) at a time.")
            return True
        return self._halve_tile(x)

    def _halve_tile(self, x: Tensor) -> bool:
        longest = max(range(len(self.tile)), key=lambda axis: self.tile[axis])
        half = -(-self.tile[longest] // 2)
        half += -half % self.multiple
        if half >= self.tile[longest]:
            return False
        if not self.halo:
            self.halo = receptive_halo(self.network, x, self.multiple)
        if half + 2 * self.halo >= self.space[longest]:
            return False
        self.tile = tuple(half if axis == longest else n for axis, n in enumerate(self.tile))
        self.log(
            f"The image goes through the network in tiles of {' x '.join(map(str, self.tile))}"
            f" voxels with {self.halo} voxels around them."
        )
        return True


def receptive_halo(
    network: Callable[[Tensor], Tensor], like: Tensor, multiple: int, smallest: int = 1
) -> int:
    """How far, in voxels, an output voxel looks along any axis: measured from gradients.

    Measured on thin rods, one along each axis, so that it takes less memory than the image.

    Args:
        network: Of images to outputs of the same spatial size.
        like: The image that is to be cut, of shape (N, C, *space).
        multiple: The answer is rounded up to it.
        smallest: Shortest side of an image that the network takes.

    Raises:
        WholeImage: An output voxel sees the whole image: tiles would not be exact.
        ValueError: The network does not react to its input at all.
    """
    longest, axes = max(like.shape[2:]), range(like.dim() - 2)
    reach, halo = 16 * multiple, 0
    for axis in axes:
        while (radius := _reach_along(axis, reach, network, like, multiple, smallest)) >= reach:
            if reach >= longest:
                raise WholeImage(
                    "every output voxel of this network depends on the whole image, so the image"
                    " cannot be cut into tiles: choose a smaller region, or a machine with more"
                    " memory"
                )
            reach *= 2
        halo = max(halo, radius)
    return halo + -halo % multiple + multiple


def _reach_along(
    axis: int,
    reach: int,
    network: Callable[[Tensor], Tensor],
    like: Tensor,
    multiple: int,
    smallest: int,
) -> int:
    """How far the middle of a rod, ``reach`` voxels from its ends, looks along it.

    At most ``reach``.
    """
    width = 2 * multiple
    thin = max(2 * width, smallest + -smallest % multiple)
    size = [2 * reach + width if a == axis else thin for a in range(like.dim() - 2)]
    middle = (slice(None),) * (2 + axis) + (slice(reach, reach + width),)
    generator, radii = torch.Generator().manual_seed(0), []
    for low, high in ((0, 1), (-2, 2)):
        noise = torch.rand(1, like.shape[1], *size, generator=generator)
        x = (low + (high - low) * noise).to(like).requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(network(x)[middle].abs().sum(), x)
        touched = slope.abs().movedim(2 + axis, 0).flatten(1).sum(1).nonzero()
        if len(touched):
            radii.append(max(reach - int(touched.min()), int(touched.max()) - reach - width + 1))
    if not radii:
        raise ValueError(
            "the network's output does not depend on its input, so there is nothing to optimise: "
            "choose another network"
        )
    return max(radii)


def bytes_per_voxel(network: Callable[[Tensor], Tensor], x: Tensor, multiple: int) -> float:
    """Memory of one forward and backward pass per input voxel, from the sizes of all layer outputs.

    Args:
        network: Takes and gives (N, C, *space).
        x: An image like those to come, shape (1, C, *space); a small part of it is tried.
        multiple: Sizes that need no padding inside the network are multiples of it.

    Returns:
        Bytes for each voxel of the input.
    """
    side = max(8 * multiple, 16)
    probe = x.new_zeros(1, x.shape[1], *(min(side, n + -n % multiple) for n in x.shape[2:]))
    sizes: list[int] = []
    module = network if isinstance(network, nn.Module) else getattr(network, "network", None)
    hooks = [
        layer.register_forward_hook(
            lambda layer, inputs, output: sizes.append(
                output.numel() if isinstance(output, Tensor) else 0
            )
        )
        for layer in (module.modules() if module else ())
    ]
    try:
        output = network(probe)
    finally:
        for hook in hooks:
            hook.remove()
    elements = max(sum(sizes), 64 * output.numel())
    # Kept activations, their gradients, and the library's scratch space: three copies, four bytes
    # each.
    return 12 * elements / math.prod(probe.shape[2:])


def _slices(count: int, step: int) -> Iterator[slice]:
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 1))
