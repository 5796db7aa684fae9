"""Several optima: the leeway of a linear network is its null space."""

import numpy as np
import pytest
import torch
from toy_models import linear, model, smooth, volume
from toy_mr import run, two_channels

from NetInversionLib.ideal_input import optima
from NetInversionLib.ideal_input.optima import Member
from NetInversionLib.optimise.objective import Objective, Terms

ROW = (0.6, 0.8)
NULL = (0.8, -0.6)


def weighing(size=16):
    """y = 0.6 a + 0.8 b, images whose error is 0, and where they may change."""
    network = linear([ROW]).requires_grad_(False)
    best = torch.full((1, 2, size, size), 0.5)
    return Objective(network, network(best), terms=Terms(10, 10)), best, torch.ones_like(best)


def along(images, direction):
    """The part of images (..., 2, J, I) along a direction of the two channels."""
    return (images * images.new_tensor(direction)[:, None, None]).sum(-3)


def test_the_leeway_of_a_linear_network_is_its_null_space():
    """Along the null direction the seeds' noise stays; along the row nothing does."""
    objective, best, free = weighing()
    members = [optima.seeded(best, free, objective, 0.0, seed) for seed in range(3)]
    inputs, level = optima.of_one_error(members, objective, 0.0)
    assert float(level) < 0.01 * optima.DEVIATION
    away = inputs - inputs.mean(0)
    assert along(away, ROW).std() < 0.02 * optima.DEVIATION
    noise = torch.stack([member.began for member in members]) - best
    torch.testing.assert_close(along(inputs - best, NULL), along(noise, NULL), atol=2e-3, rtol=0)
    shared, spread = optima.common_and_spread(inputs, best, free)
    # The null direction is one of two channels.
    assert spread == pytest.approx(optima.DEVIATION / np.sqrt(2), rel=0.1)
    assert shared < 0.4 * spread


def test_a_channel_that_is_not_looked_at_is_all_leeway():
    network = linear([[1.0, 0.0]]).requires_grad_(False)
    best = torch.full((1, 2, 16, 16), 0.5)
    objective = Objective(network, network(best), terms=Terms(10, 10))
    members = [optima.seeded(best, torch.ones_like(best), objective, 0.0, n) for n in range(2)]
    spread = optima.leeway(optima.of_one_error(members, objective, 0.0)[0]).spread
    seen, unseen = spread.square().mean((0, 2, 3)).sqrt()
    assert seen < 0.03 * unseen and unseen == pytest.approx(optima.DEVIATION, rel=0.2)


def test_all_err_alike_and_lie_between_where_they_were_found_and_where_they_began():
    """A copy: the error is the distance, so each goes back to the distance of the farthest."""
    target = torch.full((2, 1, 8, 8), 0.5)
    objective = Objective(lambda x: x, target)
    members = [Member(target + d, target + 0.3) for d in (0.0, 0.02, 0.1)]
    inputs, level = optima.of_one_error(members, objective, 0.0)
    torch.testing.assert_close(level, torch.full((2,), 0.1), atol=1e-6, rtol=0)
    for found in inputs:
        torch.testing.assert_close(found, target + 0.1, atol=2e-4, rtol=0)


def test_components_are_those_of_a_singular_value_decomposition():
    inputs = torch.randn(5, 2, 3, 4, 6, generator=torch.Generator().manual_seed(1))
    found = optima.leeway(inputs.double())
    away = (inputs - inputs.mean(0)).double().flatten(1)
    _, values, rows = torch.linalg.svd(away, full_matrices=False)
    expected = values[:4] ** 2 / (values[:4] ** 2).sum()
    torch.testing.assert_close(found.shares, expected)
    products = (found.components.flatten(1) * rows[:4]).sum(1).abs()
    torch.testing.assert_close(products, values[:4] / 2, msg="one standard deviation long")
    torch.testing.assert_close(found.spread, inputs.double().std(0))


def test_what_all_share_is_told_from_what_differs():
    """A shift of 0.2 in all of them, and noise of 0.1 of each: few members mix the two."""
    generator = torch.Generator().manual_seed(2)
    patient, free = torch.zeros(1, 1, 60, 60), torch.ones(1, 1, 60, 60)
    inputs = 0.2 + 0.1 * torch.randn(3, 1, 1, 60, 60, generator=generator)
    shared, spread = optima.common_and_spread(inputs, patient, free)
    assert (shared, spread) == (pytest.approx(0.2, rel=0.03), pytest.approx(0.1, rel=0.03))


def test_the_table_of_a_run():
    """Beside the starts of the run: channel "b" is not looked at, "a" is copied."""
    volumes = two_channels(shape=(1, 12, 12))
    network = model(linear([[1.0, 0.0]]), ("mr", "fat"))
    result = run(volumes, network, optima=2, starts=("patient", "noise"), max_evaluations=60)
    facts, columns = result.facts["optima"], result.tables["optima"].columns
    assert facts["members"] == 4 and len(facts["components"]) == 3
    assert facts["error"] < 0.02 * facts["own"]
    shared = dict(zip(columns["channel"], columns["shared by all (%)"]))
    assert shared["mr"] > 95 > 30 > shared["fat"]
    assert sum(facts["components"]) == pytest.approx(100)
    spread = result.volumes["leeway fat"].array
    assert result.volumes["leeway mr"].array.mean() < 0.05 * spread.mean()
    assert {"shared mr", "direction mr"} <= result.volumes.keys()
    target = smooth((1, 12, 12), 3)
    np.testing.assert_allclose(result.volumes["shared mr"].array, target, atol=0.02)


def test_without_being_asked_there_are_none():
    result = run(
        {"mr": volume(smooth((1, 8, 8), 1)), "ct": volume(smooth((1, 8, 8), 2))},
        model(linear([[1.0]])),
        max_evaluations=5,
    )
    assert "optima" not in result.tables and "optima" not in result.facts
