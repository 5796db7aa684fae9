"""Batched L-BFGS agrees with SciPy, exact optima, and the two-loop recursion.

It also agrees with itself, one item at a time.
"""

import math

import numpy as np
import pytest
import scipy.optimize
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from NetInversionLib.optimise import lbfgs
from NetInversionLib.optimise.lbfgs import Options, by_autograd, minimize

LONG = Options(max_evaluations=400)


def rosenbrock(x, items=None):
    """Its minimum is 0 at ones."""
    return (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1)


def squares(x, items=None):
    return (x**2).sum(1)


def quadratics(rows, n, condition, seed=0, dtype=torch.float64):
    """(matrices (rows, n, n) with eigenvalues 1/condition to 1, minimisers (rows, n))."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(rows, n, n, generator=generator, dtype=torch.float64))[0]
    values = torch.logspace(-math.log10(condition), 0, n, dtype=torch.float64)
    matrices = turn @ torch.diag_embed(values.expand(rows, n)) @ turn.mT
    return matrices.to(dtype), torch.randn(rows, n, generator=generator, dtype=torch.float64).to(
        dtype
    )


def quadratic_loss(matrices, centres):
    def loss(x, items):
        away = x - centres[items]
        return 0.5 * (away[:, None] @ matrices[items] @ away[..., None])[:, 0, 0]

    return loss


def for_scipy(loss, item=0):
    """The loss of one item as SciPy wants it: value and gradient of a flat float64 array."""
    function = by_autograd(loss)

    def wrapped(x):
        value, gradient = function(torch.from_numpy(x)[None], torch.tensor([item]))
        return value.item(), gradient[0].numpy()

    return wrapped


class Recorder:
    """Keeps every point, value, gradient and item that the optimiser asked for."""

    def __init__(self, loss):
        self.function, self.calls = by_autograd(loss), []

    def __call__(self, x, items):
        f, g = self.function(x, items)
        self.calls.append((items.clone(), x.clone(), f.clone(), g.clone()))
        return f, g

    def path(self, item):
        """Points, values and gradients at which this item was evaluated."""
        found = [
            [y[items == item][0].double().numpy() for y in rest]
            for items, *rest in self.calls
            if item in items
        ]
        return [np.stack(column) for column in zip(*found)]


# -- optima ----------------------------------------------------------------------------------------


def test_rosenbrock_reaches_the_minimum_as_fast_as_scipy():
    starts = torch.tensor([[-1.2, 1.0], [0.0, 0.0], [2.0, -1.0]], dtype=torch.float64)
    solution = minimize(by_autograd(rosenbrock), starts, LONG)
    assert solution.loss.max() < 1e-12
    torch.testing.assert_close(solution.x, torch.ones_like(starts), atol=1e-5, rtol=0)
    scipys = [
        scipy.optimize.minimize(
            for_scipy(rosenbrock), start.numpy(), jac=True, method="L-BFGS-B"
        ).nfev
        for start in starts
    ]
    # Ours goes on to a gradient 1e-9 of the first; SciPy stops some digits earlier.
    assert all(ours <= 3 * theirs for ours, theirs in zip(solution.evaluations.tolist(), scipys))


def test_rosenbrock_in_twenty_dimensions():
    start = torch.full((1, 20), -1.0, dtype=torch.float64)
    start[:, ::2] = 1.2
    assert minimize(by_autograd(rosenbrock), start, LONG).loss.item() < 1e-10


@pytest.mark.parametrize("condition", [10, 1e3, 1e4])
def test_ill_conditioned_quadratics_need_no_more_than_twice_scipys_evaluations(condition):
    rows, n = 2, 50
    loss = quadratic_loss(*quadratics(rows, n, condition))
    start = torch.zeros(rows, n, dtype=torch.float64)
    trace = minimize(by_autograd(loss), start, Options(max_evaluations=500)).trace
    for row in range(rows):
        function, values = for_scipy(loss, row), []

        def watched(x):
            value, gradient = function(x)
            values.append(value)
            return value, gradient

        scipy.optimize.minimize(
            watched,
            np.zeros(n),
            jac=True,
            method="L-BFGS-B",
            options={"maxcor": 20, "maxiter": 1000, "ftol": 1e-14, "gtol": 1e-12},
        )
        goal = 1e-7 * values[0]
        theirs = next(i for i, value in enumerate(values) if value <= goal)
        ours = int((trace[:, row] <= goal).nonzero()[0])
        assert ours <= 2 * theirs + 10, f"{ours} evaluations, SciPy {theirs}"


@pytest.mark.parametrize("seed", range(3))
def test_l1_regression_reaches_the_optimum_of_the_linear_programme(seed):
    rng = np.random.default_rng(seed)
    m, n = 60, 8
    a, b = rng.normal(size=(m, n)), rng.normal(size=m)
    # min sum(u), -u <= A x - b <= u.
    exact = scipy.optimize.linprog(
        np.r_[np.zeros(n), np.ones(m)],
        A_ub=np.block([[a, -np.eye(m)], [-a, -np.eye(m)]]),
        b_ub=np.r_[b, -b],
        bounds=[(None, None)] * n + [(0, None)] * m,
    ).fun
    matrix, right = torch.from_numpy(a), torch.from_numpy(b)
    solution = minimize(
        by_autograd(lambda x, items: (x @ matrix.T - right).abs().sum(1)),
        torch.zeros(1, n, dtype=torch.float64),
        LONG,
    )
    assert (solution.loss >= exact - 1e-9).all()
    assert (solution.loss <= 1.005 * exact).all(), f"{solution.loss} for an optimum of {exact}"


@pytest.mark.parametrize("seed", range(3))
def test_bounded_quadratics_agree_with_scipy(seed):
    rows, n = 3, 20
    matrices, centres = quadratics(rows, n, 100, seed)
    loss = quadratic_loss(matrices, 2 * centres)
    start = torch.zeros(rows, n, dtype=torch.float64)
    solution = minimize(by_autograd(loss), start, LONG, lower=-1.0, upper=0.5)
    assert solution.x.min() >= -1.0 and solution.x.max() <= 0.5
    assert ((solution.x == -1) | (solution.x == 0.5)).any(1).all(), (
        "no bound is met exactly: the test tests nothing"
    )
    for row in range(rows):
        exact = scipy.optimize.minimize(
            for_scipy(loss, row),
            np.zeros(n),
            jac=True,
            method="L-BFGS-B",
            bounds=[(-1, 0.5)] * n,
            options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000},
        )
        assert solution.loss[row].item() == pytest.approx(exact.fun, rel=1e-6)
        np.testing.assert_allclose(solution.x[row], exact.x, atol=1e-3)


@pytest.mark.parametrize("bounds", [{"lower": 0.25}, {"upper": -0.25}])
def test_one_sided_bounds(bounds):
    solution = minimize(by_autograd(squares), torch.ones(1, 3, dtype=torch.float64), LONG, **bounds)
    assert (solution.x == next(iter(bounds.values()))).all()


def test_bounds_hold_at_every_point_evaluated():
    matrices, centres = quadratics(5, 30, 1e3)
    record = Recorder(quadratic_loss(matrices, 3 * centres))
    minimize(
        record,
        torch.full((5, 30), 7.0, dtype=torch.float64),
        Options(max_evaluations=80),
        lower=-0.1,
        upper=0.3,
    )
    assert all(x.min() >= -0.1 and x.max() <= 0.3 for _, x, _, _ in record.calls)


# -- the method ------------------------------------------------------------------------------------


def two_loop(g, pairs):
    """Nocedal & Wright, Numerical Optimization, algorithm 7.4: inverse-Hessian estimate times g."""
    q, alphas = g.copy(), []
    for s, y in reversed(pairs):
        alphas.append(s @ q / (s @ y))
        q -= alphas[-1] * y
    if pairs:
        s, y = pairs[-1]
        q *= s @ y / (y @ y)
    for (s, y), alpha in zip(pairs, reversed(alphas)):
        q += s * (alpha - y @ q / (s @ y))
    return q


def dense_bfgs(g, pairs):
    """The same from the formula H <- (1 - r s y') H (1 - r y s') + r s s', r = 1 / s'y."""
    s, y = pairs[-1]
    h = np.eye(len(g)) * (s @ y) / (y @ y)
    for s, y in pairs:
        left = np.eye(len(g)) - np.outer(s, y) / (s @ y)
        h = left @ h @ left.T + np.outer(s, s) / (s @ y)
    return h @ g


def replay(path, history, recursion, armijo=1e-4, wolfe=0.9):
    """Judge the recorded trial points by the weak Wolfe conditions.

    Returns (moves made, moves that the recursion predicts). Predicted are the first trials of each
    line search (step 1), from the second on.
    """
    points, values, gradients = path
    x, f, g, pairs, made, predicted, new = points[0], values[0], gradients[0], [], [], [], False
    for trial, f_trial, g_trial in zip(points[1:], values[1:], gradients[1:]):
        s = trial - x
        if new:
            made.append(s)
            predicted.append(-recursion(g, pairs))
        new = f_trial <= f + armijo * (g @ s) and g_trial @ s >= wolfe * (g @ s)
        if new:
            pairs = [*pairs, (s, g_trial - g)][-history:]
            x, f, g = trial, f_trial, g_trial
    return np.array(made), np.array(predicted)


@pytest.mark.parametrize("recursion", [two_loop, dense_bfgs])
@pytest.mark.parametrize("history", [1, 3, 50])
def test_directions_are_those_of_the_textbook(recursion, history):
    """Within, at and beyond the ring's length; without it the dense formula is BFGS itself."""
    matrices, centres = quadratics(3, 12, 50, seed=1)
    quadratic = quadratic_loss(matrices, centres)
    record = Recorder(
        lambda x, items: quadratic(x, items) + 0.1 * (x**4).sum(1)
    )  # all points accepted need differ
    minimize(
        record,
        torch.zeros(3, 12, dtype=torch.float64),
        Options(max_evaluations=25, history=history),
    )
    for item in range(3):
        made, predicted = replay(record.path(item), history, recursion)
        assert len(made) > 10
        error = np.linalg.norm(made - predicted, axis=1) / np.linalg.norm(predicted, axis=1)
        assert error.max() < 1e-6, f"directions {error.round(8)} off"


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-8), (torch.float32, 2e-3)])
def test_directions_of_many_variables(dtype, tolerance):
    """More variables than one block of the dot products holds."""
    generator = torch.Generator().manual_seed(3)
    scale = torch.rand(1, 20000, generator=generator).to(dtype) + 0.05
    record = Recorder(lambda x, items: (scale * (x - 1) ** 2 + 0.1 * x**4).sum(1))
    minimize(record, torch.zeros(1, 20000, dtype=dtype), Options(max_evaluations=14, history=4))
    made, predicted = replay(record.path(0), 4, two_loop)
    assert len(made) >= 5
    assert (
        np.linalg.norm(made - predicted, axis=1) / np.linalg.norm(predicted, axis=1)
    ).max() < tolerance


def test_the_first_step_has_the_length_asked_for():
    record = Recorder(lambda x, items: 1e6 * (x**2).sum(1))
    minimize(
        record,
        torch.rand(2, 50, dtype=torch.float64) + 1,
        Options(max_evaluations=2, first_step=0.03),
    )
    moved = record.calls[1][1] - record.calls[0][1]
    torch.testing.assert_close(
        moved.square().mean(1).sqrt(), torch.full((2,), 0.03, dtype=torch.float64)
    )


def test_only_points_that_satisfy_the_weak_wolfe_conditions_are_gone_to():
    """On a kinked function steps are bracketed.

    They are longer after a too short one, and shorter after a too long one.
    """
    weights = torch.logspace(0, 2, 10, dtype=torch.float64)
    record = Recorder(lambda x, items: (weights * (x - 0.3).abs()).sum(1))
    minimize(record, torch.ones(1, 10, dtype=torch.float64), Options(max_evaluations=120))
    points, values, gradients = record.path(0)
    x, f, g, low, high, seen = points[0], values[0], gradients[0], 0.0, math.inf, 0
    direction, trials = None, 0
    for trial, f_trial, g_trial in zip(points[1:], values[1:], gradients[1:]):
        s = trial - x
        length, slope = np.linalg.norm(s), g @ s
        if direction is None:
            direction = s / length
        elif s @ direction < (1 - 1e-9) * length:
            assert trials >= Options().max_trials, (
                "another direction, or another base, before the search was over"
            )
            direction, trials, low, high = s / length, 0, 0.0, math.inf
        trials += 1
        assert low * (1 - 1e-9) <= length <= high * (1 + 1e-9), "a trial outside its bracket"
        seen += low > 0 or high < math.inf
        if f_trial > f + 1e-4 * slope + 1e-14 * abs(f):
            high = length
        elif g_trial @ s < 0.9 * slope:
            low = length
        else:
            x, f, g, low, high, direction, trials = trial, f_trial, g_trial, 0.0, math.inf, None, 0
    assert seen > 20, "the searches were never bracketed: the test tests nothing"


# -- a batch is its items --------------------------------------------------------------------------

# Points as near as this have the same loss near a minimum, up to rounding: any of them may be
# called the best.
SAME_LOSS = 10 * torch.finfo(torch.float64).eps ** 0.5


def mixed(rows=6, n=15):
    """Items that take very different numbers of evaluations."""
    matrices = torch.cat([quadratics(1, n, 10.0 ** (k % 3), seed=k)[0] for k in range(rows)])
    quadratic = quadratic_loss(matrices, quadratics(rows, n, 1, seed=9)[1])
    return lambda x, items: quadratic(x, items) + (0.02 * items[:, None] * (x**4)).sum(1)


@pytest.mark.parametrize("bounds", [{}, {"lower": -0.5, "upper": 0.8}])
def test_each_item_goes_the_way_it_goes_alone(bounds):
    loss, start = (
        mixed(),
        torch.randn(6, 15, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
    )
    options = Options(max_evaluations=150, history=6)
    together = Recorder(loss)
    solution = minimize(together, start, options, **bounds)
    for item in range(6):
        alone = Recorder(lambda x, items: loss(x, items + item))
        own = minimize(alone, start[item : item + 1], options, **bounds)
        ours, theirs = together.path(item)[0], alone.path(0)[0]
        assert len(ours) == len(theirs) == own.evaluations[0] == solution.evaluations[item]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-8)
        assert own.status[0] == solution.status[item]
        torch.testing.assert_close(own.x[0], solution.x[item], rtol=0, atol=SAME_LOSS)


def test_the_order_of_the_items_does_not_matter():
    loss, start = (
        mixed(),
        torch.randn(6, 15, generator=torch.Generator().manual_seed(2), dtype=torch.float64),
    )
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    options = Options(max_evaluations=150)
    a = minimize(by_autograd(loss), start, options)
    b = minimize(by_autograd(lambda x, items: loss(x, order[items])), start[order], options)
    assert torch.equal(a.evaluations[order], b.evaluations) and torch.equal(
        a.status[order], b.status
    )
    torch.testing.assert_close(a.x[order], b.x, rtol=0, atol=SAME_LOSS)
    torch.testing.assert_close(a.loss[order], b.loss, rtol=1e-10, atol=1e-14)


def test_items_that_are_done_leave_the_batch():
    record = Recorder(mixed())
    solution = minimize(
        record,
        torch.ones(6, 15, dtype=torch.float64),
        Options(max_evaluations=400, stall_window=20),
    )
    rows = [len(items) for items, *_ in record.calls]
    assert rows[0] == 6 and rows[-1] < 6 and all(a >= b for a, b in zip(rows, rows[1:]))
    assert sum(rows) == solution.evaluations.sum()
    assert len(set(solution.evaluations.tolist())) > 2
    asked = torch.cat([items for items, *_ in record.calls])
    assert torch.equal(torch.bincount(asked, minlength=6), solution.evaluations)
    assert len(solution.trace) == len(record.calls) == solution.evaluations.max()


def test_items_end_for_their_own_reason():
    def loss(x, items):
        smooth, endless = (x**2).sum(1), x.sum(1).exp()
        return torch.where(
            items == 0, smooth, torch.where(items == 1, endless, smooth * 0 + 5 + 0 * x.sum(1))
        )

    solution = minimize(
        by_autograd(loss),
        torch.ones(3, 2, dtype=torch.float64),
        Options(max_evaluations=40, gradient_tolerance=1e-300),
    )
    first = minimize(
        by_autograd(loss), torch.ones(3, 2, dtype=torch.float64), Options(max_evaluations=40)
    )
    assert lbfgs.STATUS[first.status[0]] == "gradient small"
    assert lbfgs.STATUS[solution.status[1]] == "evaluation limit"
    assert solution.evaluations[1] == 40 and first.evaluations[0] < 10


def test_a_stalled_item_ends():
    """It falls, but by less than a millionth in ten evaluations."""
    options = Options(
        max_evaluations=500, stall_tolerance=1e-6, stall_window=10, gradient_tolerance=0
    )
    far = by_autograd(lambda x, items: 1e9 + rosenbrock(x))
    solution = minimize(far, torch.zeros(1, 8, dtype=torch.float64), options)
    assert lbfgs.STATUS[solution.status[0]] == "loss stalled" and solution.evaluations[0] == 10


def test_shape_of_the_items_is_kept():
    centre = torch.rand(3, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    away = by_autograd(lambda x, items: (x - centre[items]).square().flatten(1).sum(1))
    solution = minimize(away, torch.zeros(3, 2, 4, 5))
    assert solution.x.shape == (3, 2, 4, 5) and not solution.x.requires_grad
    torch.testing.assert_close(solution.x, centre, atol=1e-5, rtol=0)


# -- numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [-40, -27, 27, 40])
@pytest.mark.parametrize("bounds", [{}, {"lower": -0.4, "upper": 0.9}])
def test_the_scale_of_the_loss_does_not_matter(power, bounds):
    """By powers of two, which rounding does not see: the same bits."""
    loss, start = mixed(4), torch.ones(4, 15, dtype=torch.float64)
    options = Options(max_evaluations=100)
    a, b = Recorder(loss), Recorder(lambda x, items: 2.0**power * loss(x, items))
    one, two = minimize(a, start, options, **bounds), minimize(b, start, options, **bounds)
    assert torch.equal(one.evaluations, two.evaluations) and torch.equal(one.status, two.status)
    assert torch.equal(one.x, two.x)
    assert all(torch.equal(p[1], q[1]) for p, q in zip(a.calls, b.calls))


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_the_scale_of_a_float32_loss_does_not_matter_much(scale):
    matrices, centres = quadratics(2, 20, 100, dtype=torch.float32)
    loss = quadratic_loss(matrices, centres)
    for factor in (1.0, scale):
        solution = minimize(
            by_autograd(lambda x, items: factor * loss(x, items)), torch.zeros(2, 20)
        )
        assert (solution.loss < 1e-5 * factor).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_regions_without_a_value_are_stepped_back_from(bad):
    """The minimum lies at the edge of a region where the loss does not exist."""

    def loss(x, items):
        inside = (x > -0.1).all(1)
        return torch.where(
            inside, (x**2).sum(1), bad * torch.ones(len(x), dtype=x.dtype) + 0 * x.sum(1)
        )

    record = Recorder(loss)
    start = torch.full((1, 3), 5.0, dtype=torch.float64)
    solution = minimize(record, start, Options(max_evaluations=100, first_step=20.0))
    assert any(not torch.isfinite(f).all() for _, _, f, _ in record.calls), (
        "the region was never entered"
    )
    assert solution.loss.item() < 1e-8 and torch.isfinite(solution.x).all()


def test_an_item_without_a_value_does_not_touch_the_others():
    def loss(x, items):
        return torch.where((items == 1) & (x < 1).any(1), math.nan, (x**2).sum(1))

    start = torch.full((3, 2), 2.0, dtype=torch.float64)
    solution = minimize(by_autograd(loss), start, Options(max_evaluations=60))
    assert (solution.loss[[0, 2]] < 1e-10).all() and 2 <= solution.loss[1] < 8
    assert torch.isfinite(solution.x).all()


def test_gradients_without_a_value_are_stepped_back_from():
    def function(x, items):
        return (x**2).sum(1), torch.where(x < 0, math.nan, 2 * x)

    start = torch.full((1, 2), 3.0, dtype=torch.float64)
    solution = minimize(function, start, Options(max_evaluations=80, first_step=9.0))
    assert torch.isfinite(solution.x).all() and solution.loss < 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_best_so_far_only_falls_and_is_the_function_at_the_point_given_back(dtype):
    """Also where the function wiggles, so that accepted points need not be the best seen."""

    def loss(x, items):
        return (x.abs() + 0.3 * torch.sin(20 * x)).sum(1)

    record = Recorder(loss)
    solution = minimize(
        record,
        torch.rand(5, 7, generator=torch.Generator().manual_seed(4)).to(dtype) * 3,
        Options(max_evaluations=120),
    )
    assert (solution.trace.diff(dim=0) <= 0).all()
    assert torch.equal(solution.trace[-1], solution.loss)
    # Not to the last bit: by then some items had left the batch, and sums of fewer rows may go
    # another way.
    torch.testing.assert_close(
        loss(solution.x, None).double(), solution.loss, rtol=16 * torch.finfo(dtype).eps, atol=0
    )
    for item in range(5):
        assert record.path(item)[1].min() == solution.loss[item]


@pytest.mark.parametrize("limit", [1, 2, 7, 30])
def test_the_evaluation_budget_is_kept(limit):
    record = Recorder(rosenbrock)
    solution = minimize(
        record, torch.zeros(3, 4, dtype=torch.float64), Options(max_evaluations=limit)
    )
    assert len(record.calls) == limit and (solution.evaluations == limit).all()
    assert [lbfgs.STATUS[s] for s in solution.status] == ["evaluation limit"] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bounds", [{}, {"lower": 0.0}])
def test_a_start_without_gradient_ends_at_once(dtype, bounds):
    """The search ends at a minimum, or where a network is dead.

    The function is never shown anything but finite points.
    """
    record = Recorder(lambda x, items: (x**2).sum(1) * items)
    start = torch.tensor([[1.0, 1.0], [0.0, 0.0], [2.0, 1.0]], dtype=dtype)
    solution = minimize(record, start, Options(max_evaluations=50), **bounds)
    assert all(torch.isfinite(x).all() for _, x, _, _ in record.calls), "the function was shown NaN"
    assert solution.evaluations.tolist()[:2] == [1, 1]
    assert [lbfgs.STATUS[s] for s in solution.status[:2]] == ["gradient small"] * 2
    assert torch.equal(solution.x[:2], start[:2]) and solution.loss[2] < 1e-8


def test_a_start_held_by_its_bounds_ends_at_once():
    solution = minimize(
        by_autograd(lambda x, items: x.sum(1)), torch.zeros(1, 3), lower=0.0, upper=1.0
    )
    assert solution.evaluations.item() == 1 and (solution.x == 0).all()


def test_float32_reaches_what_float32_can():
    solution = minimize(
        by_autograd(rosenbrock), torch.tensor([[-1.2, 1.0]]), Options(max_evaluations=300)
    )
    assert solution.x.dtype == torch.float32 and solution.loss.dtype == torch.float64
    assert solution.loss.item() < 1e-6


def test_the_same_call_gives_the_same_bits():
    start = torch.randn(4, 9, generator=torch.Generator().manual_seed(5))
    a, b = (minimize(by_autograd(rosenbrock), start, Options(max_evaluations=60)) for _ in range(2))
    assert torch.equal(a.x, b.x) and torch.equal(a.trace, b.trace)


def test_the_start_is_not_written_to():
    start = torch.ones(2, 3)
    minimize(by_autograd(squares), start, lower=-1.0, upper=0.5)
    assert (start == 1).all()


# -- cost and contract -----------------------------------------------------------------------------


class Waits(TorchDispatchMode):
    """Counts the operations for which a host waits for its device."""

    NAMES = (
        "_local_scalar_dense",
        "nonzero",
        "is_nonzero",
        "masked_select",
        "equal",
        "_unique2",
        "repeat_interleave",
    )

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket.__name__ in self.NAMES
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("bounds", [{}, {"lower": -0.5, "upper": 0.8}])
def test_the_host_waits_once_per_evaluation(bounds):
    start = torch.ones(6, 15, dtype=torch.float64)
    with Waits() as waits:
        solution = minimize(by_autograd(mixed()), start, Options(max_evaluations=60), **bounds)
    assert (
        1 <= waits.count <= len(solution.trace) + 1
    )  # and once to see whether the start is finite


def test_the_callback_sees_every_evaluation_and_the_best_so_far():
    seen = []

    def callback(evaluation, best):
        x, loss = best()
        seen.append((evaluation, x.clone(), loss.clone()))

    start = torch.zeros(2, 4, dtype=torch.float64)
    solution = minimize(
        by_autograd(rosenbrock), start, Options(max_evaluations=25), callback=callback
    )
    assert [evaluation for evaluation, _, _ in seen] == list(range(1, 26))
    for (_, x, loss), trace in zip(seen, solution.trace):
        assert x.shape == start.shape and torch.equal(loss, trace)
        torch.testing.assert_close(rosenbrock(x), loss)
    assert torch.equal(seen[-1][1], solution.x)


def test_what_the_callback_raises_ends_the_run():
    class Stop(Exception):
        pass

    record = Recorder(rosenbrock)

    def callback(evaluation, best):
        if evaluation == 3:
            raise Stop

    with pytest.raises(Stop):
        minimize(record, torch.zeros(1, 2), callback=callback)
    assert len(record.calls) == 3


@pytest.mark.parametrize("start", [torch.zeros(0, 3), torch.zeros(2, 0)])
def test_nothing_to_minimise(start):
    with pytest.raises(ValueError, match="nothing to minimise"):
        minimize(by_autograd(rosenbrock), start)


def test_crossed_bounds():
    with pytest.raises(ValueError, match="above upper"):
        minimize(by_autograd(rosenbrock), torch.zeros(1, 2), lower=1.0, upper=0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_start_without_a_value_is_refused(bad):
    start = torch.zeros(3, 2)
    start[1, 0] = bad
    with pytest.raises(FloatingPointError, match="not finite at the start"):
        minimize(by_autograd(squares), start)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_evaluations": 0},
        {"history": 0},
        {"max_trials": 0},
        {"stall_window": 0},
        {"armijo": 0.95},
        {"wolfe": 1.0},
        {"armijo": 0.0},
        {"first_step": 0.0},
    ],
)
def test_options_are_checked(wrong):
    with pytest.raises(ValueError):
        Options(**wrong)


def test_items_end_as_soon_as_their_loss_is_low_enough():
    """Each at its first evaluation below, one that starts there at once and untouched."""
    matrices, centres = quadratics(3, 12, 1e3)
    loss = quadratic_loss(matrices, centres)
    start = torch.zeros(3, 12, dtype=torch.float64)
    start[1] = centres[1]
    solution = minimize(by_autograd(loss), start, Options(max_evaluations=200, enough=1e-3))
    full = minimize(by_autograd(loss), start, Options(max_evaluations=200))
    assert [lbfgs.STATUS[s] for s in solution.status] == ["loss low enough"] * 3
    assert solution.evaluations[1] == 1 and torch.equal(solution.x[1], start[1])
    for item in (0, 2):
        first = int((full.trace[:, item] <= 1e-3).nonzero()[0]) + 1
        assert solution.evaluations[item] == first
        assert float(solution.loss[item]) == pytest.approx(
            float(full.trace[first - 1, item]), rel=1e-9
        )
