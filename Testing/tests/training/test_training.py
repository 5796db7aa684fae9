"""What trainings share: the learning rate's curve, running means, checkpoints, means over
processes, honest refusals.
"""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from NetInversionLib.training import Group, State, plain


@dataclass(frozen=True)
class Settings:
    steps: int = 100
    learning_rate: float = 0.1
    average: float = 0.9
    nested: tuple = (("a", (1, 2)), ("b", 3))


def state(settings=Settings(), names=("b", "a", "b"), seed=0) -> State:
    torch.manual_seed(seed)
    network = nn.Linear(3, 2)
    return State(
        settings,
        list(names),
        network,
        optimiser=torch.optim.Adam(network.parameters()),
        other=nn.Linear(1, 1),
    )


def step(state: State, clip=None) -> None:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(state.step))
    weights = list(state.network.parameters())
    state.update(state.parts["optimiser"], weights, state.network(x).square().mean(), Group(), clip)
    state.stepped()


def test_the_learning_rate_rises_over_a_twentieth_and_falls_as_half_a_cosine():
    s, rates = state(), []
    for s.step in range(100):
        rates.append(s.rate)
    assert rates[:4] == pytest.approx([0.02, 0.04, 0.06, 0.08])
    assert rates[50] == pytest.approx(0.05) and rates[25] == pytest.approx(
        0.05 * (1 + math.sqrt(0.5))
    )
    assert (
        0 < rates[-1] < 1e-4 and rates[5:] == sorted(rates[5:], reverse=True) and max(rates) < 0.1
    )


def test_an_update_is_adams_at_this_rate():
    """Adam's first step moves every weight by the learning rate, whatever the gradient."""
    s = state()
    before = [w.detach().clone() for w in s.network.parameters()]
    step(s)
    for old, new in zip(before, s.network.parameters()):
        torch.testing.assert_close((new - old).abs(), torch.full_like(old, 0.02), rtol=1e-4, atol=0)


def test_gradients_are_clipped_to_a_length():
    s = state()
    s.parts["optimiser"] = torch.optim.SGD(s.network.parameters())
    before = torch.cat([w.detach().flatten().clone() for w in s.network.parameters()])
    step(s, clip=1e-3)
    after = torch.cat([w.detach().flatten() for w in s.network.parameters()])
    assert float((after - before).norm()) == pytest.approx(1e-3 * 0.02, rel=1e-2)


def test_the_running_mean_in_closed_form():
    """Its decay grows as n / (n + 10) up to the setting: early weights are forgotten."""
    s = state()
    expected = s.network.weight.detach().double()
    for n in range(1, 121):
        with torch.no_grad():
            s.network.weight.fill_(n)
        s.stepped()
        decay = min(0.9, n / (n + 10))
        expected = decay * expected + (1 - decay) * n
    torch.testing.assert_close(s.mean["weight"].double(), expected, rtol=1e-5, atol=0)
    assert s.averaged_state()["weight"].mean() < 120 and torch.equal(
        s.averaged_state()["bias"], s.mean["bias"]
    )


def test_a_checkpoint_goes_on_bit_for_bit(tmp_path):
    whole, first, second = state(), state(), state(seed=9)
    for _ in range(7):
        step(whole)
    for _ in range(4):
        step(first)
    first.history.append([4, 0.5, math.nan])
    first.recent.append(0.25)
    first.save(tmp_path / "deep" / "state")
    second.load(tmp_path / "deep" / "state")
    assert second.step == 4 and second.history[0][:2] == [4, 0.5] and second.recent == [0.25]
    assert not list(tmp_path.rglob("*.part"))
    for _ in range(3):
        step(second)
    assert all(
        torch.equal(a, b) for a, b in zip(whole.network.parameters(), second.network.parameters())
    )
    assert all(torch.equal(whole.mean[n], second.mean[n]) for n in whole.mean)
    assert torch.equal(first.parts["other"].weight, second.parts["other"].weight)


def test_checkpoints_of_other_trainings_and_other_files_are_refused(tmp_path):
    state().save(tmp_path / "state")
    state(names=("a", "b")).load(tmp_path / "state")
    for other in (
        state(names=("a", "c")),
        state(Settings(steps=101)),
        state(Settings(nested=(("a", (1, 3)), ("b", 3)))),
    ):
        with pytest.raises(ValueError, match="other settings"):
            other.load(tmp_path / "state")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "weights")
    (tmp_path / "text").write_text("not a checkpoint")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "torn").write_bytes((tmp_path / "state").read_bytes()[:-100])
    for name in ("weights", "text", "empty", "torn"):
        with pytest.raises(ValueError, match="no checkpoint"):
            state().load(tmp_path / name)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_training_gone_astray_says_so_and_leaves_the_weights(value):
    s = state()
    before = s.network.weight.detach().clone()
    with pytest.raises(ValueError, match="astray at step 0.*lower learning rate"):
        s.update(
            s.parts["optimiser"],
            list(s.network.parameters()),
            s.network.weight.sum() * value,
            Group(),
        )
    assert torch.equal(s.network.weight, before)


def test_processes_share_a_batch_without_rest():
    x, y = torch.arange(6), torch.arange(12).reshape(6, 2)
    parts = [Group(rank, 3).share(x, y) for rank in range(3)]
    assert sorted(torch.cat([p[0] for p in parts]).tolist()) == list(range(6))
    assert all(torch.equal(b[:, 0], 2 * a) for a, b in parts)


def test_settings_as_json_values():
    assert plain(Settings())["nested"] == [["a", [1, 2]], ["b", 3]]
