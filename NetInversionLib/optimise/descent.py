"""Batched annealed descent.

Many images are moved together towards the least absolute error of a network, each with its own
state and its own best point.

The absolute error has a kink at every voxel that is right, so curvature measured from its gradients
is mostly noise, and a method that looks at the size of the gradients alone goes further. The step
is that of a full-matrix AdaGrad with short memories, for every small block of voxels (all channels)
by itself: where the last gradients of a block were large or alike, along that direction it is
shorter. Its length falls as a cosine to 0 over the evaluations that there are, and the kinks are
rounded, ever less, in the gradient only. What counts is the true loss: each item keeps the best
point by it.

    def value_and_gradient(x, items, rounding):   # x: (rows, *shape), items: which problems
        return loss_per_row, gradient_like_x      # the gradient's kinks rounded over ``rounding``

    solution = minimize(value_and_gradient, start, Options(max_evaluations=200), lower=0, upper=1)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.settings import Checked, setting
from .lbfgs import LOW_ENOUGH, RUNNING, SMALL_GRADIENT, Solution


@dataclass(frozen=True)
class Options(Checked):
    """How far and with what steps.

    ``max_evaluations``: function evaluations per item, at least 1; the steps' lengths follow from
    it, so fewer evaluations are not the beginning of more. ``rate``: about the longest step of a
    variable, in the units of x. ``memories``: decays of the gradient's mean and of its square, 0
    to below 1; ``kept``: how many gradients both are taken over, at least 1. ``window``: voxels
    along the sides of a block. ``damping``: of the block's square, as a share of its mean
    eigenvalue. ``warm_up``: share of the evaluations over which the steps grow to ``rate``.
    ``rounding``: at the first and at the last evaluation, what the gradient rounds kinks over, in
    the units of the loss; falls geometrically. ``enough``: an item ends when its loss is at most
    this.
    """

    max_evaluations: int = setting(200, at_least=1)
    rate: float = setting(0.4, above=0)
    memories: tuple[float, float] = setting((0.6, 0.8), at_least=0, below=1)
    kept: int = setting(10, at_least=1)
    window: int = setting(4, at_least=1)
    damping: float = setting(0.01, above=0)
    warm_up: float = setting(0.05, at_least=0, at_most=1)
    rounding: tuple[float, float] = setting((0.2, 0.0005), above=0)
    enough: float = setting(-math.inf, infinite=True)

    def step(self, evaluation: int) -> float:
        """Length of the step after evaluation number ``evaluation``, counted from 1."""
        rising = max(1, round(self.warm_up * self.max_evaluations))
        falling = 0.5 * (1 + math.cos(math.pi * self.progress(evaluation)))
        return self.rate * min(1.0, evaluation / rising) * falling

    def rounded_over(self, evaluation: int) -> float:
        """What the gradient of evaluation number ``evaluation`` rounds kinks over."""
        first, last = self.rounding
        return first * (last / first) ** self.progress(evaluation)

    def progress(self, evaluation: int) -> float:
        return (evaluation - 1) / max(1, self.max_evaluations - 1)


@torch.no_grad()
def minimize(
    value_and_gradient: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]],
    start: Tensor,
    options: Options = Options(),
    *,
    lower: float | None = None,
    upper: float | None = None,
    shares: Tensor | None = None,
    callback: Callable[[int, Callable[[], tuple[Tensor, Tensor]]], None] | None = None,
) -> Solution:
    """Minimise every item of a batch by annealed descent.

    Args:
        value_and_gradient: ``(x (rows, *shape), items (rows,) int64, rounding) -> (loss (rows,),
            gradient like x)``. Called with the rows still running; ``items`` are their positions in
            ``start``. The loss is the true one; the gradient may be that of the loss with its kinks
            rounded over ``rounding``. Where either is not finite, the row goes back to its best
            point and takes half the steps from there.
        start: First points, (items, *shape), float32 or float64, on the device to work on.
        options: See ``Options``.
        lower, upper: Bounds for every variable, or None.
        shares: Of the rate, for each item, (items,); an item that starts near its goal needs less.
        callback: ``callback(evaluation, best)`` after every evaluation; ``best()`` gives the best
            points and losses of all items so far. What it raises ends the run.

    Returns:
        ``Solution``, the best points seen, detached. An item whose gradient vanishes, or whose loss
        is low enough, ends before the others.

    Raises:
        ValueError: Empty start, or lower above upper.
        FloatingPointError: The loss or gradient at a start is not finite.

    Source:
        Memories: Kingma & Ba, ICLR 2015, arXiv:1412.6980. Cosine: Loshchilov & Hutter, ICLR 2017,
        arXiv:1608.03983. The rounded absolute value, sqrt(r^2 + rounding^2): Charbonnier et al.,
        IEEE Trans. Image Process. 6, 1997, 298.
    """
    if start.numel() == 0:
        raise ValueError("start has no items or no variables: nothing to minimise")
    if lower is not None and upper is not None and lower > upper:
        raise ValueError(f"lower bound {lower} is above upper bound {upper}")
    run = _Run(value_and_gradient, start, options, lower, upper)
    if shares is not None:
        run.rows.share = shares.to(run.rows.share).clone()
    for evaluation in range(1, options.max_evaluations + 1):
        if not run.advance(evaluation):
            break
        if callback is not None:
            callback(evaluation, run.best)
    return run.solution()


@dataclass
class _Rows:
    """The state of the rows still running; every field has rows as its first axis."""

    items: Tensor  # which problem this row is
    x: Tensor  # (rows, C, *space)
    ring: Tensor  # the last gradients, (rows, kept, C, *space)
    products: Tensor  # of the ring's gradients with each other, (rows, *blocks, kept, kept)
    share: Tensor  # of the step that the row takes, halved when its loss is not finite
    best_x: Tensor
    best_f: Tensor  # float64
    status: Tensor

    def select(self, index: Tensor) -> None:
        """Keep only these rows; one field at a time, so that the ring is never held twice."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name).index_select(0, index))


class _Run:
    def __init__(
        self,
        value_and_gradient: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]],
        start: Tensor,
        options: Options,
        lower: float | None,
        upper: float | None,
    ):
        self.value_and_gradient, self.options = value_and_gradient, options
        self.shape, self.lower, self.upper = start.shape, lower, upper
        # MPS has no float64; its losses are then float32.
        wide = torch.float32 if start.device.type == "mps" else torch.float64
        # Vectors are lines of one channel.
        image = start.detach().clone() if start.dim() > 2 else start.detach().clone()[:, None]
        x = self.project(image)
        self.x = x.clone()
        self.f = torch.full((len(x),), math.inf, dtype=wide, device=x.device)
        self.evaluations = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self.status = torch.zeros_like(self.evaluations)
        self.trace: list[Tensor] = []
        kept, blocks = options.kept, [-(-n // options.window) for n in x.shape[2:]]
        self.rows = _Rows(
            items=torch.arange(len(x), device=x.device),
            x=x,
            ring=x.new_zeros(len(x), kept, *x.shape[1:]),
            products=x.new_zeros(len(x), *blocks, kept, kept),
            share=x.new_ones(len(x)),
            best_x=x.clone(),
            best_f=self.f.clone(),
            status=self.status.clone(),
        )

    def advance(self, evaluation: int) -> bool:
        """Evaluate the network once for every running row and move each row on.

        False when none is left.
        """
        r = self.rows
        if len(r.items) == 0:
            return False
        f, g = self.value_and_gradient(
            r.x.reshape(-1, *self.shape[1:]), r.items, self.options.rounded_over(evaluation)
        )
        f, g = f.to(self.f.dtype), g.reshape(r.x.shape)
        usable = torch.isfinite(f) & torch.isfinite(g.flatten(1).sum(1))
        if evaluation == 1 and not bool(usable.all()):
            raise FloatingPointError(
                "the loss or its gradient is not finite at the start: check the images for NaN "
                "and infinite values, and the network for overflow"
            )
        better = usable & (f < r.best_f)
        r.best_f = torch.where(better, f, r.best_f)
        r.best_x = torch.where(_column(better, r.x), r.x, r.best_x)
        r.status = torch.where(usable & (self.movable(r.x, g) == 0), SMALL_GRADIENT, r.status)
        r.status = torch.where(r.best_f <= self.options.enough, LOW_ENOUGH, r.status)
        self.move(r, g, usable, evaluation)
        self.record(r)
        # The only place where the host waits for the device.
        left = torch.nonzero(r.status == RUNNING)[:, 0]
        if len(left) < len(r.items):
            r.select(left)
        return True

    def move(self, r: _Rows, g: Tensor, usable: Tensor, evaluation: int) -> None:
        """A step against the gradients kept.

        A row that is not usable goes back to its best point and forgets them.
        """
        usable_x = _column(usable, r.x)
        slot = (evaluation - 1) % self.options.kept
        r.ring[:, slot] = torch.where(usable_x, g, 0)
        r.ring.mul_(_column(usable, r.ring))
        r.products.mul_(_column(usable, r.products))
        with_g = self.in_blocks((r.ring * r.ring[:, slot, None]).sum(2)).movedim(1, -1)
        r.products[..., slot, :] = with_g
        r.products[..., slot] = with_g
        r.share = torch.where(usable, r.share, 0.5 * r.share)

        step = self.options.step(evaluation) * _column(r.share, r.x)
        direction = self.combined(r.ring, self.coefficients(r.products, evaluation))
        r.x = self.project(torch.where(usable_x, r.x - step * direction, r.best_x))

    def coefficients(self, products: Tensor, evaluation: int) -> Tensor:
        """How much of each gradient kept the step takes, (rows, *blocks, kept).

        With the gradients of a block as columns of G, their weights in the mean m and w in the
        square, the direction is (G diag(w) G' + damping)^-1/2 G m. It lies in the span of the
        gradients, so it needs their products with each other only: G diag(w)^1/2 (P + damping)^-1/2
        diag(w)^-1/2 m with P = diag(w)^1/2 G'G diag(w)^1/2.

        Source:
            Agarwal et al., "Efficient full-matrix adaptive regularization", ICML 2019,
            arXiv:1806.02958, here in blocks.
        """
        o = self.options
        ages = (evaluation - 1 - torch.arange(o.kept)) % o.kept
        there = ages < evaluation
        mean, square = (
            weight / weight.sum()
            for weight in (torch.where(there, memory**ages, 0.0) for memory in o.memories)
        )
        root = square.sqrt().to(products)
        ratio = torch.where(there, mean / square.sqrt(), 0.0).to(products)
        p = products * root[:, None] * root
        size = p.diagonal(dim1=-2, dim2=-1).sum(-1) / min(evaluation, o.kept, self.block)
        size = torch.where(size > 0, size, 1)[..., None]
        values, vectors = _eigh(p / size[..., None])
        along = (vectors.mT @ ratio[:, None])[..., 0] * (values.clamp(min=0) + o.damping).rsqrt()
        return (vectors @ along[..., None])[..., 0] * root * size.rsqrt()

    # -- pieces ------------------------------------------------------------------------------------

    @property
    def block(self) -> int:
        """Variables in a block."""
        return self.x.shape[1] * math.prod(min(self.options.window, n) for n in self.x.shape[2:])

    def in_blocks(self, images: Tensor) -> Tensor:
        """Sums over blocks, (rows, kept, *blocks) of (rows, kept, *space).

        Blocks cut by the image's end count as whole ones.
        """
        pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[images.dim() - 3]
        sides = [min(self.options.window, n) for n in images.shape[2:]]
        means = pool(images, sides, sides, ceil_mode=True, count_include_pad=False)
        return means * (self.block / self.x.shape[1])

    def combined(self, ring: Tensor, coefficients: Tensor) -> Tensor:
        """The gradients of the ring times the coefficients of their block, summed.

        Gradients are (rows, kept, C, *space), coefficients (rows, *blocks, kept), the sum (rows, C,
        *space).
        """
        weights = coefficients.movedim(-1, 1)
        for axis, size in enumerate(ring.shape[3:], 2):
            weights = weights.repeat_interleave(self.options.window, axis).narrow(axis, 0, size)
        return (ring * weights[:, :, None]).sum(1)

    def movable(self, x: Tensor, g: Tensor) -> Tensor:
        """The largest gradient of each row, (rows,), where no bound stops the variable."""
        size = g.abs()
        if self.lower is not None:
            size = torch.where((x <= self.lower) & (g > 0), 0, size)
        if self.upper is not None:
            size = torch.where((x >= self.upper) & (g < 0), 0, size)
        return size.flatten(1).amax(1)

    def project(self, x: Tensor) -> Tensor:
        return x if self.lower is None and self.upper is None else x.clamp(self.lower, self.upper)

    # -- results -----------------------------------------------------------------------------------

    def record(self, r: _Rows) -> None:
        self.f = self.f.index_copy(0, r.items, r.best_f)
        self.evaluations[r.items] += 1
        self.status[r.items] = r.status
        self.x.index_copy_(0, r.items, r.best_x)
        self.trace.append(self.f)

    def best(self) -> tuple[Tensor, Tensor]:
        """Best points and losses of all items so far."""
        return self.x.reshape(self.shape), self.f

    def solution(self) -> Solution:
        return Solution(
            self.x.reshape(self.shape),
            self.f,
            self.evaluations,
            self.status,
            torch.stack(self.trace),
        )


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 1))


def _eigh(matrices: Tensor) -> tuple[Tensor, Tensor]:
    if matrices.device.type == "mps":  # it has no eigenvalues
        values, vectors = torch.linalg.eigh(matrices.cpu())
        return values.to(matrices.device), vectors.to(matrices.device)
    return torch.linalg.eigh(matrices)
