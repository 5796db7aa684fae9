"""Annealed descent agrees with known minimisers and its own formula written out.

It also agrees with itself, one item at a time.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from NetInversionLib.optimise import lbfgs
from NetInversionLib.optimise.descent import Options, minimize


def absolute(target, weight=1.0):
    """Sum of weight * |x - target| over an item, its kinks rounded in the gradient only."""

    def value_and_gradient(x, items, rounding):
        off = x - target[items]
        slope = weight * off / (off.square() + rounding**2).sqrt()
        return (weight * off.abs()).flatten(1).sum(1), slope

    return value_and_gradient


def quadratic(matrix, target):
    """Half (x - target)' matrix (x - target), x (rows, n)."""

    def value_and_gradient(x, items, rounding):
        off = x - target[items]
        return 0.5 * (off * (off @ matrix)).sum(1), off @ matrix

    return value_and_gradient


def random(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(3, 7), (3, 2, 9), (3, 3, 9, 6), (2, 1, 5, 6, 7)])
def test_an_absolute_error_is_minimised_where_it_is_known_to_be(shape):
    target = random(*shape)
    solution = minimize(absolute(target), torch.zeros(shape), Options(300))
    assert solution.x.shape == shape
    assert (solution.x - target).abs().max() < 2e-3
    assert torch.allclose(solution.loss, (solution.x - target).abs().flatten(1).sum(1).double())


def test_a_quadratic_with_unlike_curvatures_is_minimised_where_it_is_known_to_be():
    rotation = torch.linalg.qr(random(6, 6))[0]
    matrix = rotation @ torch.diag(torch.logspace(0, 2, 6)) @ rotation.T
    target = random(4, 6, seed=1)
    solution = minimize(quadratic(matrix, target), random(4, 6, seed=2), Options(400))
    assert (solution.x - target).abs().max() < 1e-3


def test_bounds_hold_exactly_and_hold_what_lies_beyond_them():
    target = 3 * random(2, 2, 8, 8) - 1
    points = []

    def kept(x, items, rounding):
        points.append(x.clone())
        return absolute(target)(x, items, rounding)

    start = 4 * random(2, 2, 8, 8, seed=1) - 2
    solution = minimize(kept, start, Options(300), lower=0.0, upper=1.0)
    assert all(0 <= x.min() and x.max() <= 1 for x in points)
    expected = target.clamp(0, 1)
    outside = target != expected
    assert torch.equal(solution.x[outside], expected[outside])
    assert (solution.x - expected).abs().max() < 2e-3


def test_an_item_ends_when_nothing_of_it_can_move_or_it_is_low_enough():
    target = torch.stack([torch.full((1, 4, 4), 2.0), torch.zeros(1, 4, 4), random(1, 4, 4)])
    start = torch.ones(3, 1, 4, 4)
    solution = minimize(absolute(target), start, Options(60), lower=0.0, upper=1.0)
    ends = [lbfgs.STATUS[status] for status in solution.status]
    assert ends[::2] == ["gradient small", "evaluation limit"]
    assert solution.evaluations[0] == 1 and solution.evaluations[2] == 60
    enough = minimize(absolute(target[2:]), start[2:], Options(60, enough=1.0))
    assert lbfgs.STATUS[enough.status[0]] == "loss low enough"
    assert enough.loss[0] <= 1.0 < enough.trace[-2, 0]


@pytest.mark.parametrize("scale", [2.0**-26, 2.0**26])
def test_the_scale_of_the_loss_changes_nothing(scale):
    target, start = random(2, 2, 6, 6), torch.zeros(2, 2, 6, 6)
    plain = minimize(absolute(target), start, Options(20))
    scaled = minimize(absolute(target, scale), start, Options(20))
    assert torch.allclose(plain.x, scaled.x, atol=1e-6)


def test_together_is_the_same_as_one_at_a_time():
    target, start = random(3, 2, 9, 6), random(3, 2, 9, 6, seed=1)
    together = minimize(absolute(target), start, Options(25))
    for n in range(3):
        alone = minimize(absolute(target[n : n + 1]), start[n : n + 1], Options(25))
        assert torch.allclose(alone.x[0], together.x[n], atol=1e-4)
        assert torch.allclose(alone.trace[:, 0], together.trace[:, n], rtol=1e-3)


def test_steps_are_those_of_the_formula_written_out():
    """Block by block with whole matrices in float64, where the library has only products."""
    options = Options(6, kept=3, window=2, damping=0.1)
    target = random(1, 2, 4, 4, seed=3)
    points, gradients = [], []

    def kept(x, items, rounding):
        value, gradient = absolute(target)(x, items, rounding)
        points.append(x[0].numpy().astype(float))
        gradients.append(gradient[0].numpy().astype(float))
        return value, gradient

    minimize(kept, random(1, 2, 4, 4), options)
    for n in range(5):
        used = gradients[max(0, n - 2) : n + 1][::-1]
        weights = [np.power(memory, range(len(used))) for memory in options.memories]
        mean, square = (w / w.sum() for w in weights)
        for j, i in np.ndindex(2, 2):
            block = (slice(None), slice(2 * j, 2 * j + 2), slice(2 * i, 2 * i + 2))
            g = np.stack([gradient[block].ravel() for gradient in used], 1)
            matrix = g @ np.diag(square) @ g.T
            matrix += np.eye(8) * options.damping * np.trace(matrix) / min(n + 1, 3)
            values, vectors = np.linalg.eigh(matrix)
            direction = vectors @ np.diag(values**-0.5) @ vectors.T @ (g @ mean)
            moved = (points[n + 1] - points[n])[block].ravel()
            np.testing.assert_allclose(moved, -options.step(n + 1) * direction, atol=2e-4)


def test_a_row_that_leaves_the_finite_comes_back_to_its_best_point():
    target = random(2, 1, 6, 6)

    def cliff(x, items, rounding):
        value, gradient = absolute(target)(x, items, rounding)
        fallen = (items == 0) & ((x - target[items]).flatten(1).max(1).values > 0.1)
        return torch.where(fallen, torch.nan, value), gradient

    solution = minimize(cliff, torch.zeros(2, 1, 6, 6), Options(200))
    assert torch.isfinite(solution.x).all() and torch.isfinite(solution.loss).all()
    assert (solution.loss < 0.2 * target.flatten(1).sum(1)).all()
    alone = minimize(absolute(target[1:]), torch.zeros(1, 1, 6, 6), Options(200))
    assert torch.allclose(alone.x[0], solution.x[1], atol=1e-4)


def test_what_a_callback_stops_has_the_best_points_so_far():
    target, best = random(2, 1, 6, 6), []

    class Stop(Exception):
        pass

    def callback(evaluation, found):
        best.append([part.clone() for part in found()])
        if evaluation == 30:
            raise Stop

    with pytest.raises(Stop):
        minimize(absolute(target), random(2, 1, 6, 6, seed=1), Options(60), callback=callback)
    losses = torch.stack([loss for _, loss in best])
    assert (losses.diff(dim=0) <= 0).all() and (losses[-1] < 0.5 * losses[0]).all()
    x, loss = best[-1]
    assert torch.allclose(loss, (x - target).abs().flatten(1).sum(1).double())


def test_an_item_with_half_the_share_takes_half_the_first_step():
    start, target = random(2, 1, 6, 6, seed=1), random(2, 1, 6, 6)
    start[1], target[1] = start[0], target[0]
    points = []

    def kept(x, items, rounding):
        points.append(x.clone())
        return absolute(target)(x, items, rounding)

    minimize(kept, start, Options(2), shares=torch.tensor([1.0, 0.5]))
    first = points[1] - points[0]
    assert torch.allclose(first[1], 0.5 * first[0], atol=1e-6) and first.abs().max() > 0.1


def test_variables_without_a_gradient_stay():
    target, held = random(1, 2, 6, 6), torch.ones(1, 2, 6, 6)
    held[:, 1, 2:4] = 0

    def partly(x, items, rounding):
        value, gradient = absolute(target)(x, items, rounding)
        return value, gradient * held

    start = random(1, 2, 6, 6, seed=1)
    solution = minimize(partly, start, Options(100))
    assert torch.equal(solution.x[held == 0], start[held == 0])
    assert (solution.x - target)[held == 1].abs().max() < 0.02


def test_what_cannot_be_minimised_is_refused():
    with pytest.raises(ValueError, match="nothing to minimise"):
        minimize(absolute(torch.zeros(0, 3)), torch.zeros(0, 3))
    with pytest.raises(ValueError, match="above upper bound"):
        minimize(absolute(torch.zeros(1, 3)), torch.zeros(1, 3), lower=1, upper=0)
    with pytest.raises(FloatingPointError, match="not finite at the start"):
        minimize(absolute(torch.full((1, 3), torch.nan)), torch.zeros(1, 3))
    for wrong in ({"rate": 0}, {"memories": (1.0, 0.5)}, {"kept": 0}, {"rounding": (0.1, 0)}):
        with pytest.raises(ValueError):
            Options(**wrong)
