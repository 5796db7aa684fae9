"""Batched L-BFGS: many independent minimisations advance together.

They share one network evaluation at a time.

Each item (row) of the batch has its own history, step length, line search and stopping test. Rows
are small state machines: while one row brackets its step, another extends its step and a third
takes a new direction, all in the same evaluation. Rows that are done leave the batch. The host
waits for the device once per evaluation.

    def value_and_gradient(x, items):  # x: (rows, *shape), items: which problems these rows are
        return loss_per_row, gradient_like_x

    solution = minimize(by_autograd(loss), start, Options(max_evaluations=300))
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..core.settings import Checked, setting

RUNNING, SMALL_GRADIENT, STALLED, NO_DESCENT, LOW_ENOUGH = range(5)
STATUS = (
    "evaluation limit",
    "gradient small",
    "loss stalled",
    "no descent found",
    "loss low enough",
)


@dataclass(frozen=True)
class Options(Checked):
    """How far and how carefully to minimise.

    ``max_evaluations``: function evaluations per item, at least 1. ``history``: pairs (s, y) kept
    per item; memory is 2 * history * size of x. ``first_step``: root-mean-square change of x in the
    first trial along the gradient, in the units of x. ``armijo``, ``wolfe``: 0 < armijo < wolfe <
    1, the two constants of the weak Wolfe conditions. ``max_trials``: evaluations per line search
    before the history is dropped (and, without history, the item ends). ``gradient_tolerance``: an
    item ends when its (projected) gradient norm falls below this fraction of its first.
    ``stall_tolerance``, ``stall_window``: an item ends when its best loss falls by less than this
    fraction over this many evaluations. ``enough``: an item ends when its loss is at most this.
    """

    max_evaluations: int = setting(500, at_least=1)
    history: int = setting(20, at_least=1)
    first_step: float = setting(0.01, above=0)
    armijo: float = setting(1e-4, above=0)
    wolfe: float = setting(0.9, below=1)
    max_trials: int = setting(20, at_least=1)
    gradient_tolerance: float = 1e-9
    stall_tolerance: float = 1e-6
    stall_window: int = setting(50, at_least=1)
    enough: float = setting(-math.inf, infinite=True)

    def check(self) -> None:
        if self.armijo >= self.wolfe:
            raise ValueError(f"armijo must be below wolfe ({self.wolfe:g}), not {self.armijo:g}")


@dataclass(frozen=True)
class Solution:
    """``x``: best point of each item, (items, *shape). ``loss``: its value, float64 (items,).

    ``evaluations``: how many each item used, (items,). ``status``: why each ended, indices into
    ``STATUS``. ``trace``: best loss after each evaluation, float64 (evaluations, items); constant
    once an item has ended.
    """

    x: Tensor
    loss: Tensor
    evaluations: Tensor
    status: Tensor
    trace: Tensor


def by_autograd(
    loss: Callable[[Tensor, Tensor], Tensor],
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Turn a loss into the ``value_and_gradient`` that ``minimize`` takes.

    Args:
        loss: ``loss(x, items)`` with x of shape (rows, *shape) gives (rows,); the rows must not
            depend on each other.

    Returns:
        ``f(x, items)`` that gives the values, (rows,), and their gradient, of the shape of x.
    """

    def value_and_gradient(x: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            value = loss(x, items)
            (gradient,) = torch.autograd.grad(value.sum(), x)
        return value.detach(), gradient

    return value_and_gradient


@torch.no_grad()
def minimize(
    value_and_gradient: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    start: Tensor,
    options: Options = Options(),
    *,
    lower: float | None = None,
    upper: float | None = None,
    callback: Callable[[int, Callable[[], tuple[Tensor, Tensor]]], None] | None = None,
) -> Solution:
    """Minimise every item of a batch by its own L-BFGS with a weak-Wolfe line search.

    The weak conditions suit losses with kinks such as L1 (Lewis & Overton, Math. Program. 141,
    2013); the direction is L-BFGS in its compact form (Byrd, Nocedal & Schnabel, Math. Program. 63,
    1994). With bounds the search is projected: variables held at a bound are left out of the
    direction (Bertsekas, SIAM J. Control Optim. 20, 1982) and only sufficient decrease is asked of
    a step.

    Args:
        value_and_gradient: ``(x (rows, *shape), items (rows,) int64) -> (loss (rows,), gradient
            like x)``. Called with the rows still running; ``items`` are their positions in
            ``start``. Non-finite values shorten the step.
        start: First points, (items, *shape), float32 or float64, on the device to work on.
        options: See ``Options``.
        lower, upper: Bounds for every variable, or None.
        callback: ``callback(evaluation, best)`` after every evaluation; ``best()`` gives the best
            points and losses of all items so far. What it raises ends the run.

    Returns:
        ``Solution``, the best points seen, detached.

    Raises:
        ValueError: Empty start, or lower above upper.
        FloatingPointError: The loss or gradient at a start is not finite.
    """
    if start.numel() == 0:
        raise ValueError("start has no items or no variables: nothing to minimise")
    if lower is not None and upper is not None and lower > upper:
        raise ValueError(f"lower bound {lower} is above upper bound {upper}")
    run = _Run(value_and_gradient, start, options, lower, upper)
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
    x: Tensor  # accepted point (rows, n)
    f: Tensor  # its loss, float64
    g: Tensor  # its gradient
    d: Tensor  # search direction
    t: Tensor  # step length to try next, float64
    low: Tensor  # longest step known to be too short
    high: Tensor  # shortest step known to be too long, inf while unknown
    trials: Tensor  # evaluations spent in this line search
    pair: (
        Tensor  # steps s, then gradient changes y, (rows, 2 * history, n): two rings with one head
    )
    sy: Tensor  # s_i . y_j for s_i not newer than y_j, float64 (rows, history, history)
    yy: Tensor  # y_i . y_j
    pairs: Tensor  # pairs stored since the last reset; the rings' head is pairs % history
    gamma: Tensor  # s.y / y.y of the newest pair: the size of the first inverse Hessian
    best_x: Tensor
    best_f: Tensor
    first_norm: Tensor  # gradient norm at the start
    mark: Tensor  # best loss at the last stall check
    status: Tensor

    def select(self, index: Tensor) -> None:
        """Keep only these rows; one field at a time, so that the history is never held twice."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name).index_select(0, index))


class _Run:
    def __init__(
        self,
        value_and_gradient: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        start: Tensor,
        options: Options,
        lower: Tensor | float | None,
        upper: Tensor | float | None,
    ):
        self.value_and_gradient, self.options = value_and_gradient, options
        self.shape, self.bounded = start.shape, lower is not None or upper is not None
        self.lower = -math.inf if lower is None else lower
        self.upper = math.inf if upper is None else upper
        # MPS has no float64; its sums are then float32.
        self.wide = torch.float32 if start.device.type == "mps" else torch.float64
        x = self.project(start.detach().reshape(len(start), -1).clone())
        self.x = x.clone()
        self.f = torch.full((len(x),), math.inf, dtype=self.wide, device=x.device)
        self.evaluations = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self.status = torch.zeros_like(self.evaluations)
        self.trace: list[Tensor] = []
        self.rows: _Rows | None = None
        self.running = len(x)

    # -- one evaluation ----------------------------------------------------------------------------

    def advance(self, evaluation: int) -> bool:
        """Evaluate the network once for every running row and move each row on.

        False when none is left.
        """
        if self.running == 0:
            return False
        if self.rows is None:
            self.rows = self.begin()
        else:
            self.step(self.rows, evaluation)
        self.record(self.rows)
        # The only place where the host waits for the device.
        running = int((self.rows.status == RUNNING).sum())
        if running < self.running:
            order = torch.argsort((self.rows.status != RUNNING).to(torch.int8), stable=True)
            self.rows.select(order[:running])
            self.running = running
        return True

    def begin(self) -> _Rows:
        x, m = self.x, self.options.history
        rows, n = x.shape
        items = torch.arange(rows, device=x.device)
        f, g = self.evaluate(x, items)
        if not bool(torch.isfinite(f).all() & torch.isfinite(g).all()):
            raise FloatingPointError(
                "the loss or its gradient is not finite at the start: check the images for NaN "
                "and infinite values, and the network for overflow"
            )
        free_g = g * self.free(x, g)
        norm, zeros = self.dot(free_g, free_g).sqrt(), torch.zeros_like(f)
        r = _Rows(
            items=items,
            x=x.clone(),
            f=f,
            g=g,
            d=torch.zeros_like(x),
            t=zeros,
            low=zeros.clone(),
            high=torch.full_like(f, math.inf),
            trials=torch.zeros_like(items),
            pair=x.new_zeros(rows, 2 * m, n),
            sy=f.new_zeros(rows, m, m),
            yy=f.new_zeros(rows, m, m),
            pairs=torch.zeros_like(items),
            gamma=torch.ones_like(f),
            best_x=x.clone(),
            best_f=f.clone(),
            first_norm=norm,
            mark=f.clone(),
            status=self.satisfied(f, torch.where(norm > 0, RUNNING, SMALL_GRADIENT)),
        )
        self.aim(r, torch.ones_like(items, dtype=torch.bool), f.new_zeros(rows, 2 * m))
        return r

    def step(self, r: _Rows, evaluation: int) -> None:
        """Judge the trial point of every row by the weak Wolfe conditions.

        Accept, bracket, extend or reset.
        """
        o = self.options
        x = self.project(torch.addcmul(r.x, r.d, r.t.to(r.x.dtype)[:, None]))
        f, g = self.evaluate(x, r.items)
        s = x - r.x
        before, after = self.dot(r.g, s), self.dot(g, s)
        usable = torch.isfinite(f) & torch.isfinite(after)
        better = usable & (f < r.best_f)
        r.best_f = torch.where(better, f, r.best_f)
        r.best_x = torch.where(better[:, None], x, r.best_x)

        r.trials += 1
        # Losses computed in float32 cannot resolve a smaller decrease than their rounding.
        rounding = 4 * torch.finfo(r.x.dtype).eps * r.f.abs()
        lower_enough = usable & (f <= r.f + o.armijo * before + rounding)
        flat_enough = after >= o.wolfe * before
        if self.bounded:
            flat_enough = torch.ones_like(flat_enough)
        exhausted = r.trials >= o.max_trials
        accept = lower_enough & (flat_enough | exhausted)
        reset = ~accept & exhausted

        self.next_step(r, f, before, lower_enough)
        y = g - r.g
        r.x = torch.where(accept[:, None], x, r.x)
        r.g = torch.where(accept[:, None], g, r.g)
        r.f = torch.where(accept, f, r.f)
        with_g = self.remember(r, accept, s, y, usable)
        hopeless = reset & (r.pairs == 0)
        r.pairs = torch.where(reset, 0, r.pairs)
        self.aim(r, accept | reset, with_g)
        self.judge(r, evaluation, hopeless)

    def next_step(self, r: _Rows, f: Tensor, before: Tensor, lower_enough: Tensor) -> None:
        """The step to try next if this one is not taken.

        Bisect the bracket, or double while it is open.
        """
        t = r.t
        # The parabola through f(0), f'(0) and f(t) has its minimum here; kept within the middle of
        # [0, t].
        parabola = -0.5 * before * t / (f - r.f - before)
        parabola = torch.where(torch.isfinite(parabola), parabola, 0.5 * t).clamp(
            min=0.1 * t, max=0.5 * t
        )
        r.low = torch.where(lower_enough, t, r.low)
        r.high = torch.where(lower_enough, r.high, t)
        shorter = torch.where(r.low > 0, 0.5 * (r.low + r.high), parabola)
        r.t = torch.where(torch.isinf(r.high), 2 * t, shorter)

    def remember(self, r: _Rows, accept: Tensor, s: Tensor, y: Tensor, usable: Tensor) -> Tensor:
        """Store the pair of every accepted row whose curvature is clearly positive.

        It is clearly positive or not whatever the scale of the loss.

        Gives the products of the history with the gradient: one sweep over the history serves both.
        """
        sy, ss, yy = self.dot(s, y), self.dot(s, s), self.dot(y, y)
        store = accept & usable & (sy > 1e-8 * (ss * yy).sqrt())
        m = self.options.history
        slot, row = r.pairs % m, torch.arange(len(store), device=store.device)
        # Rows that do not store write back what is there: no row is singled out, so the host need
        # not wait.
        for index, new in ((slot, s), (slot + m, y)):
            r.pair[row, index] = torch.where(store[:, None], new, r.pair[row, index])
        with_y, with_g = self.products(r, y, r.g * self.free(r.x, r.g))
        r.sy[row, :, slot] = torch.where(store[:, None], with_y[:, :m], r.sy[row, :, slot])
        for ring in (r.yy, r.yy.mT):
            ring[row, slot] = torch.where(store[:, None], with_y[:, m:], ring[row, slot])
        r.gamma = torch.where(store, sy / yy, r.gamma)
        r.pairs = r.pairs + store
        return with_g

    def aim(self, r: _Rows, which: Tensor, with_g: Tensor) -> None:
        """New directions for the rows in ``which``.

        They are quasi-Newton, or the gradient where that does not descend.
        """
        free = self.free(r.x, r.g)
        g = r.g * free
        d = self.inverse_hessian(r, g, with_g).neg_() * free
        slope, norm = self.dot(g, d), self.dot(g, g).sqrt()
        bad = ~(slope < -1e-10 * norm * self.dot(d, d).sqrt())  # also catches NaN
        plain = bad | (r.pairs == 0)
        r.pairs = torch.where(which & bad, 0, r.pairs)
        d = torch.where(plain[:, None], -g, d)
        first = (
            self.options.first_step
            * math.sqrt(g.shape[1])
            / norm.clamp(min=torch.finfo(self.wide).tiny)
        )
        r.d = torch.where(which[:, None], d, r.d)
        r.t = torch.where(which, torch.where(plain, first, torch.ones_like(first)), r.t)
        r.low = torch.where(which, 0, r.low)
        r.high = torch.where(which, math.inf, r.high)
        r.trials = torch.where(which, 0, r.trials)

    def inverse_hessian(self, r: _Rows, g: Tensor, with_g: Tensor) -> Tensor:
        """Inverse-Hessian estimate times ``g`` by the compact form.

        ``with_g``: products of the history with ``g``.

        Byrd, Nocedal & Schnabel, Math. Program. 63, 1994, eq. 3.1: with S, Y the pairs from old to
        new, R the upper triangle of S'Y and D its diagonal, H g = gamma g + S u - gamma Y v, where
        v = R^-1 S'g and u = R^-T ((D + gamma Y'Y) v - gamma Y'g).
        """
        m, ages = self.options.history, torch.arange(self.options.history, device=g.device)
        age = (r.pairs[:, None] - 1 - ages) % m  # of each slot; 0 is the newest
        order = age.argsort(1, descending=True)  # old to new, empty slots first
        filled = age.gather(1, order) < r.pairs[:, None]
        both = filled[:, :, None] & filled[:, None, :]
        square = (order[:, :, None].expand_as(both), order[:, None, :].expand_as(both))
        sy, yy = (
            torch.where(both, x.gather(1, square[0]).gather(2, square[1]), 0) for x in (r.sy, r.yy)
        )
        sg, yg = (
            torch.where(filled, x.gather(1, order), 0)[..., None]
            for x in (with_g[:, :m], with_g[:, m:])
        )

        diagonal = sy.diagonal(dim1=1, dim2=2)
        upper = sy.triu() + torch.diag_embed(
            (~filled).to(sy.dtype)
        )  # an empty slot must not make R singular
        gamma = r.gamma[:, None, None]
        v = _solve(upper, sg, upper=True)
        u = _solve(upper.mT, diagonal[..., None] * v + gamma * (yy @ v - yg), upper=False)
        weights = torch.zeros_like(with_g)
        weights.scatter_(1, order, u[..., 0])
        weights.scatter_(1, order + m, -(gamma * v)[..., 0])
        h = torch.bmm(weights.to(g.dtype)[:, None], r.pair)[:, 0]
        return h.addcmul_(g, r.gamma.to(g.dtype)[:, None])

    def products(self, r: _Rows, *vectors: Tensor) -> tuple[Tensor, ...]:
        """Dot products of every stored s and y with each vector, (rows, 2 * history).

        They are float64 sums of float32 blocks.
        """
        columns = torch.stack(vectors, 2)
        return sum(
            torch.bmm(r.pair[:, :, i:j], columns[:, i:j]).to(self.wide)
            for i, j in _blocks(columns.shape[1])
        ).unbind(2)

    def judge(self, r: _Rows, evaluation: int, hopeless: Tensor) -> None:
        """Set the status of rows that are done."""
        o = self.options
        g = r.g * self.free(r.x, r.g)
        r.status = torch.where(hopeless, NO_DESCENT, r.status)
        if evaluation % o.stall_window == 0:
            stalled = r.mark - r.best_f <= o.stall_tolerance * r.mark.abs()
            r.status = torch.where(stalled, STALLED, r.status)
            r.mark = r.best_f.clone()
        small = self.dot(g, g).sqrt() <= o.gradient_tolerance * r.first_norm
        r.status = self.satisfied(r.best_f, torch.where(small, SMALL_GRADIENT, r.status))

    # -- pieces ------------------------------------------------------------------------------------

    def satisfied(self, f: Tensor, status: Tensor) -> Tensor:
        return torch.where(f <= self.options.enough, LOW_ENOUGH, status)

    def evaluate(self, x: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        f, g = self.value_and_gradient(x.reshape(-1, *self.shape[1:]), items)
        return f.to(self.wide), g.reshape(x.shape)

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Row-wise dot product, float64 sums of float32 blocks."""
        return sum(
            torch.linalg.vecdot(a[:, i:j], b[:, i:j]).to(self.wide) for i, j in _blocks(a.shape[1])
        )

    def project(self, x: Tensor) -> Tensor:
        return x.clamp(self.lower, self.upper) if self.bounded else x

    def free(self, x: Tensor, g: Tensor) -> Tensor | float:
        """1 where a variable may move along minus the gradient, 0 where a bound stops it."""
        if not self.bounded:
            return 1.0
        return (~(((x <= self.lower) & (g > 0)) | ((x >= self.upper) & (g < 0)))).to(x.dtype)

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


def _solve(triangle: Tensor, right: Tensor, upper: bool) -> Tensor:
    if triangle.device.type == "mps":  # small matrices; the CPU has float64
        return torch.linalg.solve_triangular(triangle.cpu(), right.cpu(), upper=upper).to(
            right.device
        )
    return torch.linalg.solve_triangular(triangle, right, upper=upper)


def _blocks(n: int) -> list[tuple[int, int]]:
    """Pieces of an axis, 8192 long or 32 in number.

    They are short enough that float32 sums over them lose little.
    """
    size = max(8192, -(-n // 32))
    return [(i, min(i + size, n)) for i in range(0, n, size)]
