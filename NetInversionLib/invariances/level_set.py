"""Inputs that a network cannot tell apart.

They are projected onto its level set, and a point is proven to lie on it.

The level set of a CT slice x0 is {x : RMS of f(x) - f(x0) <= epsilon HU}, or, for a hidden layer,
{x : |Phi(x) - Phi(x0)| / |Phi(x0)| <= epsilon}. A proposal (fresh noise, a texture, a lesion, a
decoder's sample) that differs from x0 inside a region is moved there by the batched L-BFGS on the
mismatch, starting at the proposal and stopping as soon as it is accepted, and then back towards the
proposal as far as it stays accepted, so that as much of the change survives as the network lets
pass.

Everything is computed on a window of the slice that holds the region and twice the network's reach
around it, with the patient's values outside the region: the same numbers as on the whole slice. The
mismatch counts every output that the region can move, also those around it. It is the largest mean
over patches of a structure's size (``patches``), so that a larger region lets nothing more pass;
or, without a patch, the sum over the voxels of the region. Asked about one structure, such as a
nodule, what the output shows of just this structure counts beside the patches: a patch that it does
not fill would let more of it pass.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from ..core.devices import halving
from ..core.progress import Progress
from ..networks.denoisers import told
from ..networks.layers import UpTo
from ..optimise import lbfgs
from ..optimise.objective import WholeImage, receptive_halo
from . import patches

VOXELS_AT_ONCE = 8 * 128 * 128
BISECTIONS = 8
HALF_DONE = 15  # evaluations; for the progress alone
HELD = 0.4  # share of the evaluations that are made with the noise's level held
ENOUGH = 0.995  # of epsilon: a little below, so that float64 on the whole slice agrees


@dataclass(frozen=True)
class Window:
    """A region of a slice, voxel indices half-open: rows j0 to j1, columns i0 to i1."""

    j0: int
    j1: int
    i0: int
    i1: int

    def __post_init__(self):
        if not (0 <= self.j0 < self.j1 and 0 <= self.i0 < self.i1):
            raise ValueError(f"a region needs rows and columns in order, not {self}")

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.j0, self.j1), slice(self.i0, self.i1)

    @property
    def size(self) -> tuple[int, int]:
        return self.j1 - self.j0, self.i1 - self.i0

    def grown(self, margin: int, size: tuple[int, int]) -> Window:
        """With ``margin`` more voxels on each side, as far as a slice of ``size`` goes."""
        return Window(
            max(0, self.j0 - margin),
            min(size[0], self.j1 + margin),
            max(0, self.i0 - margin),
            min(size[1], self.i1 + margin),
        )

    def on_grid(self, multiple: int) -> Window:
        """Grown to where every ``multiple``-th row and column begins.

        It may leave the slice at its end.
        """
        return Window(
            self.j0 - self.j0 % multiple,
            self.j1 + -self.j1 % multiple,
            self.i0 - self.i0 % multiple,
            self.i1 + -self.i1 % multiple,
        )

    def within(self, outer: Window) -> Window:
        """The same region in the coordinates of ``outer``."""
        return Window(
            self.j0 - outer.j0, self.j1 - outer.j0, self.i0 - outer.i0, self.i1 - outer.i0
        )


class LevelSet:
    """What may not change: the output, or a layer, of a network for one slice.

    Args:
        network: f, (N, 1, H, W) to (N, 1, H, W), normalised; frozen, in eval mode.
        slice_image: x0, the whole slice (1, 1, J, I), normalised.
        region: Where the input may change.
        layer: "output", or a layer's name or number (``layers.UpTo``).
        scale: HU per normalised unit of the output; for a hidden layer the measure has no unit and
            ``scale`` is not used.
        patch: Rows and columns of the patches that an output's change is averaged over, of which
            the largest average counts (``patches``); None for one average over the region, which
            lets more pass the larger the region is. A hidden layer is compared as a whole.
        structure: A change of the region, (h, w), whose contrast in the output counts as well,
            beside patches: <f(x) - f(x0), s> / <s, s>, which is 1 for a network that shows it as
            it is.

    Attributes:
        window: The part of the slice that it computes on.
        near: All that the output inside the region depends on; less than that.

    Raises:
        LayerError: No such layer. ValueError: The region leaves the slice.
    """

    def __init__(
        self,
        network: nn.Module,
        slice_image: Tensor,
        region: Window,
        layer: str | int = "output",
        scale: float = 1.0,
        patch: tuple[int, int] | None = None,
        structure: Tensor | None = None,
    ):
        size = tuple(slice_image.shape[2:])
        if region.j1 > size[0] or region.i1 > size[1]:
            raise ValueError(
                f"the region {region} does not lie within the slice of {size[0]} x {size[1]} voxels"
            )
        self.part, self.network, self.region = UpTo(network, layer, slice_image), network, region
        self.told = told(network)
        self.hidden = self.part.layer != "output"
        self.patch = None if self.hidden else patch
        # MPS has no float64; its sums are then float32.
        self.wide = torch.float32 if slice_image.device.type == "mps" else torch.float64
        multiple = getattr(network, "size_multiple", 1)
        reach = _reach(network, slice_image, multiple)
        # A network with strides sees the slice's own grid only if its window begins on it.
        self.window = region.grown(2 * reach, size).on_grid(multiple).grown(0, size)
        inner = region.within(self.window)
        self.inside = inner.slices
        self.context = slice_image[(...,) + self.window.slices].clone()
        self.start = slice_image[(...,) + region.slices].clone()
        with torch.no_grad():
            self.wanted = self.part(self.context)
        # Outputs nearer than ``reach`` to a cut border are not those of the whole slice; the region
        # cannot move them. A layer of another size is compared whole.
        same_size = self.wanted.shape[2:] == self.context.shape[2:]
        exact = region.grown(reach, size)
        self.near = exact.on_grid(multiple).grown(0, size)
        self.counted = (..., *exact.within(self.window).slices) if same_size else (...,)
        self.wanted = self.wanted[self.counted]
        self.origin = exact.j0, exact.i0
        self.structure = None
        if structure is not None and same_size:
            weights = structure.to(slice_image.device, self.wide)
            self.structure = weights / weights.square().sum()
        self.scale = 1.0 if self.hidden else scale
        self.norm = (
            float(self.wanted.square().sum(dtype=self.wide))
            if self.hidden
            else float(region.size[0] * region.size[1])
        )
        if not self.norm > 0:
            raise ValueError(
                f"layer {self.part.layer!r} is zero in this region: nothing there can be compared;"
                " choose another layer or region"
            )

    @property
    def at_once(self) -> int:
        """How many windows pass through the network together."""
        return max(1, VOXELS_AT_ONCE // self.context[0].numel())

    @property
    def units(self) -> str:
        """Of the measure."""
        return "relative" if self.hidden else "HU"

    def images(self, x: Tensor) -> Tensor:
        """Region contents in their window, with the patient's values around.

        Args:
            x: Normalised contents of the region, (N, 1, H, W).

        Returns:
            The whole windows, (N, 1, J, I).
        """
        whole = self.context.expand(len(x), -1, -1, -1).clone()
        whole[(...,) + self.inside] = x
        return whole

    def measure(self, x: Tensor) -> Tensor:
        """How much the network notices of region contents.

        Args:
            x: Normalised contents of the region, (N, 1, H, W).

        Returns:
            RMS output change in HU, the largest over patches and of the structure, or relative
            change of the layer: (N,) float64.
        """
        with torch.no_grad():
            squares = torch.cat([self._squares(part) for part in x.split(self.at_once)])
        return (squares.sqrt() * self.scale).cpu().double()

    def levels(self, x: Tensor) -> Tensor | None:
        """The noise's level and grain by which the network judges region contents, (N, 1, H, W).

        Returns:
            Of their windows, (N, 2, J, I); None where the network estimates none.
        """
        if self.told is None:
            return None
        with torch.no_grad():
            parts = [self.told.measured(self.images(part)) for part in x.split(self.at_once)]
        return torch.cat(parts)

    def value_and_gradient(
        self, x: Tensor, items: Tensor, levels: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Squared measure and its gradient, for ``minimize``; of patches a smooth upper bound.

        Args:
            x: Normalised contents of the region, (N, 1, H, W).
            items: Which of ``levels`` each is to be judged by, (N,).
            levels: As ``levels`` gives them; None: by their own.

        Returns:
            Values (N,), and gradients of the shape of x.
        """
        values, gradients = [], []
        for part, numbers in zip(x.split(self.at_once), items.split(self.at_once)):
            part = part.detach().requires_grad_()
            with self._holding(levels, numbers), torch.enable_grad():
                value = self._squares(part, smooth=True) * self.scale**2
                gradients.append(torch.autograd.grad(value.sum(), part)[0])
            values.append(value.detach())
        return torch.cat(values), torch.cat(gradients)

    def _holding(self, levels: Tensor | None, items: Tensor) -> AbstractContextManager[None]:
        """While it lasts, the network judges by some of these levels, where there are any."""
        if self.told is None or levels is None:
            return nullcontext()
        return self.told.holding(levels[items])

    def _squares(self, x: Tensor, smooth: bool = False) -> Tensor:
        """Sum of squared mismatches over what counts, over the norm; (N,) ``wide`` sums.

        Of patches the largest mean, or what is smooth instead.
        """
        mismatch = self.part(self.images(x))[self.counted] - self.wanted
        if self.patch:
            means = self.local(mismatch.to(self.wide), self.origin)
            return patches.smooth_largest(means) if smooth else means.amax(1)
        return mismatch.square().sum(tuple(range(1, mismatch.ndim)), dtype=self.wide) / self.norm

    def local(self, mismatch: Tensor, origin: tuple[int, int]) -> Tensor:
        """Mean squares of an output's change over patches, and of the structure, if one is asked.

        Args:
            mismatch: (N, 1, H, W), normalised.
            origin: Row and column of the slice at which it begins.

        Returns:
            (N, patches), or (N, patches + 1) with the structure's.
        """
        means = patches.patch_means(mismatch.square(), self.patch or (1, 1))
        if self.structure is None:
            return means
        j, i = self.region.j0 - origin[0], self.region.i0 - origin[1]
        inside = mismatch[:, 0, j : j + self.region.size[0], i : i + self.region.size[1]]
        shown = (inside * self.structure.to(inside)).sum((1, 2))
        return torch.cat([means, shown.square()[:, None]], 1)


def _reach(network: nn.Module, slice_image: Tensor, multiple: int) -> int:
    """How far the network looks, voxels; the whole slice (1, 1, J, I) where it sees all of it."""
    smallest = getattr(network, "smallest_size", 1)
    if getattr(network, "fixed_size", None):
        return max(slice_image.shape[2:])
    try:
        return receptive_halo(network, slice_image, multiple, smallest)
    except WholeImage:
        return max(slice_image.shape[2:])


@dataclass(frozen=True)
class Projected:
    """Proposals moved onto a level set.

    Attributes:
        images: (N, 1, h, w) region contents, the best found.
        measure: What is left of the mismatch, HU or relative (``LevelSet.units``), float64 (N,).
        accepted: measure <= epsilon, bool (N,).
        proposed: The proposals' own measure, (N,). change_before, change_after: root-mean-square
            difference from x0 inside the region, normalised units, (N,). survived: change_after
            over change_before, along the proposal (see ``survived``).
        evaluations: Network evaluations that each one's search took, (N,); the way back takes
            ``BISECTIONS`` more.
    """

    images: Tensor
    measure: Tensor
    accepted: Tensor
    proposed: Tensor
    change_before: Tensor
    change_after: Tensor
    survived: Tensor
    evaluations: Tensor


def project(
    level_set: LevelSet,
    proposals: Tensor,
    epsilon: float,
    max_evaluations: int = 150,
    progress: Progress = Progress(),
) -> Projected:
    """Move region contents onto the level set.

    Args:
        level_set: Of one slice and region.
        proposals: Normalised contents of the region, (N, 1, H, W).
        epsilon: Largest accepted measure: HU for the output, relative for a hidden layer; above 0.
        max_evaluations: Of the network, per proposal.
        progress: Receives progress; may raise ``Cancelled``.

    Raises:
        ValueError: ``epsilon`` is not above 0: with as many outputs as inputs, exactly equal
            outputs mean equal inputs.
    """
    if not epsilon > 0:
        raise ValueError(
            "epsilon must be above 0: a network with as many outputs as inputs lets nothing change"
            " at exactly the same output. Choose a fraction of the noise, 1 HU say"
        )
    enough = ENOUGH * epsilon

    def tell(evaluation: int) -> None:
        # Most are accepted long before the last evaluation.
        progress.report(
            1 - 0.5 ** (evaluation / HALF_DONE),
            f"Projecting {len(proposals)} samples, evaluation {evaluation}",
        )

    def run(size: int) -> list[tuple[Tensor, Tensor]]:
        return [
            _searched(level_set, part, enough, max_evaluations, tell)
            for part in proposals.split(size)
        ]

    solutions = halving(run, len(proposals), log=progress.log)
    images = returned(level_set, torch.cat([x for x, _ in solutions]), proposals, enough)
    measure, proposed = level_set.measure(images), level_set.measure(proposals)
    before, after = (rms(x - level_set.start) for x in (proposals, images))
    return Projected(
        images,
        measure,
        measure <= epsilon,
        proposed,
        before,
        after,
        survived(proposals, images, level_set.start),
        torch.cat([evaluations for _, evaluations in solutions]),
    )


def _searched(
    level_set: LevelSet,
    proposals: Tensor,
    enough: float,
    max_evaluations: int,
    tell: Callable[[int], None],
) -> tuple[Tensor, Tensor]:
    """Proposals moved until the network notices no more than ``enough``, and the evaluations taken.

    A network that estimates the noise's level judges a change by an estimate that hears the change:
    a rough landscape. The first steps are taken with the level of the patient's image, those that
    decide with the network as it is.
    """
    options = lbfgs.Options(max_evaluations=max_evaluations, first_step=1e-3, enough=enough**2)
    began, used = proposals, torch.zeros(len(proposals), dtype=torch.int64).to(proposals.device)
    levels, first = level_set.levels(level_set.start), round(HELD * max_evaluations)
    if levels is not None and first:
        noticed = (level_set.measure(proposals) > enough).to(proposals.device).view(-1, 1, 1, 1)
        held = lbfgs.minimize(
            partial(level_set.value_and_gradient, levels=levels.expand(len(proposals), -1, -1, -1)),
            proposals,
            replace(options, max_evaluations=first),
            callback=lambda evaluation, best: tell(evaluation),
        )
        began, used = torch.where(noticed, held.x, proposals), noticed.flatten() * held.evaluations
        options = replace(options, max_evaluations=max(1, max_evaluations - first))
    found = lbfgs.minimize(
        level_set.value_and_gradient,
        began,
        options,
        callback=lambda evaluation, best: tell(int(used.max()) + evaluation),
    )
    return found.x, used + found.evaluations


def returned(level_set: LevelSet, images: Tensor, proposals: Tensor, epsilon: float) -> Tensor:
    """Images on the way to their proposals.

    As far along as their measure stays at most ``epsilon``.

    Found by bisection: a step of the search may land far inside the level set, where less of the
    change is left than could be.

    Args:
        level_set: Of one slice and region.
        images: Accepted contents of the region, (N, 1, H, W).
        proposals: What they were moved from, of the same shape.
        epsilon: Largest accepted measure.

    Returns:
        Contents of the region, of the same shape.
    """
    low, high = torch.zeros(len(images)).to(images), torch.ones(len(images)).to(images)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        good = (
            level_set.measure(torch.lerp(images, proposals, middle.view(-1, 1, 1, 1))).to(
                middle.device
            )
            <= epsilon
        )
        low, high = torch.where(good, middle, low), torch.where(good, high, middle)
    return torch.lerp(images, proposals, low.view(-1, 1, 1, 1))


def rms(x: Tensor) -> Tensor:
    """Root mean square of each item of x (N, C, H, W), float64 (N,)."""
    return x.cpu().double().square().flatten(1).mean(1).sqrt()


def survived(proposals: Tensor, images: Tensor, start: Tensor) -> Tensor:
    """Share of each proposed change that is still there: <x - x0, p - x0> / |p - x0|^2.

    Args:
        proposals: p, (N, 1, H, W).
        images: x, what became of them, of the same shape.
        start: x0, the patient's, (1, 1, H, W).

    Returns:
        (N,) float64; NaN where nothing was proposed.
    """
    proposed, found = ((x - start).cpu().double().flatten(1) for x in (proposals, images))
    return (proposed * found).sum(1) / proposed.square().sum(1)


def verify(level_set: LevelSet, before: Tensor, after: Tensor) -> float:
    """The measure again, independently: in float64, on whole slices, every output counted.

    The network is converted to float64 on the CPU for this and back; one that cannot be (exported
    programs) stays in float32.

    Args:
        level_set: Of one slice and region.
        before: The patient's slice, normalised, of shape (1, 1, J, I).
        after: The changed slice. It may differ only inside the region, else the figure says so by
            being larger.

    Returns:
        HU for the output, relative for a hidden layer.
    """
    network = level_set.network
    weights = next(network.parameters(), before)
    place = weights.device, weights.dtype
    try:
        try:
            network.cpu().double()
            difference = _squared_difference(level_set, before.double(), after.double())
        except (RuntimeError, NotImplementedError):  # its file fixes the type of its numbers
            network.float()
            difference = _squared_difference(level_set, before, after)
    finally:
        network.to(*place)
    return float(difference.sqrt()) * level_set.scale


def _squared_difference(level_set: LevelSet, before: Tensor, after: Tensor) -> Tensor:
    """Of all that the network's part gives for two slices (1, 1, J, I), on the CPU.

    It is summed over the norm, or is the largest mean over patches.
    """
    with torch.no_grad():
        mismatch = (level_set.part(after.cpu()) - level_set.part(before.cpu())).double()
    if level_set.patch:
        return level_set.local(mismatch, (0, 0)).amax()
    return mismatch.square().sum() / level_set.norm
