"""What trainings share: the learning rate's curve, running means, and checkpoints.

Also: means over processes, and honest refusals.
"""

import math
import os
import pickle
import signal
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import save_file
from torch import nn

from NetInversionLib.core.progress import Cancelled, Progress
from NetInversionLib.training import (
    Group,
    State,
    corrector,
    denoiser,
    flow,
    latent_flows,
    plain,
    run,
    sampler,
    synthetic_ct,
)
from NetInversionLib.training import checkpoint as checkpoints


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
    with pytest.raises(ValueError, match="the settings are the same"):
        state(names=("a", "c")).load(tmp_path / "state")
    for other, words in (
        (Settings(learning_rate=0.2), "learning_rate: 0.1, now 0.2"),
        (Settings(nested=(("a", (1, 3)), ("b", 3))), "nested"),
    ):
        with pytest.raises(ValueError, match=f"other settings.*{words}"):
            state(other).load(tmp_path / "state")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "weights")
    (tmp_path / "text").write_text("not a checkpoint")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "torn").write_bytes((tmp_path / "state").read_bytes()[:-100])
    save_file({"a": torch.zeros(3)}, tmp_path / "model")
    for name in ("weights", "text", "empty", "torn", "model", "absent"):
        with pytest.raises(ValueError, match=f"{name} is no checkpoint.*delete it"):
            state().load(tmp_path / name)


def test_a_checkpoint_holds_no_pickle_and_no_old_one_is_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    s = state()
    step(s)
    s.save(tmp_path / "state")
    content = (tmp_path / "state").read_bytes()
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads(content)
    assert content[8:9] == b"{" and not zipfile.is_zipfile(tmp_path / "state")
    torch.save(Bomb(), tmp_path / "bomb")
    with pytest.raises(ValueError, match="no checkpoint"):
        state().load(tmp_path / "bomb")
    assert not (tmp_path / "exploded").exists()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_bit_of_a_checkpoint_changes_unnoticed(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("flipped")
    s = state()
    step(s)
    s.save(folder / "state")
    content = bytearray((folder / "state").read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (folder / "state").write_bytes(content)
    with pytest.raises(ValueError, match="state is no checkpoint.*delete it"):
        state().load(folder / "state")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]))
    | hnp.arrays(
        st.sampled_from(["float64", "float32", "int64", "bool", "uint8"]),
        hnp.array_shapes(min_dims=0),
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers() | st.text("abc", max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text("abc", max_size=4), VALUES, max_size=4))
def test_a_checkpoint_gives_back_what_it_was_given(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("kept") / "state"
    checkpoints.save(path, value)
    assert same(checkpoints.load(path), value)


def same(one, other):
    if isinstance(other, np.ndarray):
        return (
            one.dtype == other.dtype
            and one.shape == other.shape
            and (one.tobytes() == other.tobytes())
        )
    if isinstance(other, dict):
        return list(one) == list(other) and all(same(one[k], other[k]) for k in other)
    if isinstance(other, (list, tuple)):
        return (
            type(one) is type(other)
            and len(one) == len(other)
            and all(same(a, b) for a, b in zip(one, other))
        )
    return type(one) is type(other) and (one == other or other != other != one != one)


def test_what_a_checkpoint_cannot_hold_is_said(tmp_path):
    with pytest.raises(TypeError, match="cannot hold object"):
        checkpoints.save(tmp_path / "state", {"a": [object()]})
    assert not list(tmp_path.iterdir())


# -- going on --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Short(Settings):
    steps: int = 8
    checkpoint_every: int = 100


class Recorder(Progress):
    """Keeps what is logged; ``at`` is called with each step's number."""

    def __init__(self, at=None):
        self.lines, self.at = [], at or (lambda number: None)

    def log(self, message):
        self.lines.append(message)

    def point(self, curve, x, y):
        self.at(x)


def trained(checkpoint, settings=Short(), progress=None, during=None):
    s = state(settings)

    def advance():
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(s.step))
        loss = s.network(x).square().mean()
        if during:
            during(s.step)
        s.update(s.parts["optimiser"], list(s.network.parameters()), loss, Group())
        return float(loss.detach())

    run(s, advance, ("loss", ""), checkpoint=checkpoint, progress=progress or Progress())
    return s


def interrupt_at(number, how):
    return lambda step: how() if step == number else None


def cancel():
    raise Cancelled


def control_c():
    signal.raise_signal(signal.SIGINT)


def terminate():
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("how", [cancel, control_c, terminate])
def test_a_training_that_is_stopped_keeps_its_last_step_and_goes_on(tmp_path, how):
    whole, recorder = trained(None), Recorder(interrupt_at(3, how))
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises((KeyboardInterrupt, Cancelled)):
        trained(tmp_path / "state", progress=recorder)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert "stopped at step 3 of 8" in recorder.lines[-1] and "goes on" in recorder.lines[-1]
    recorder = Recorder()
    again = trained(tmp_path / "state", progress=recorder)
    assert "goes on from step 3 of 8" in recorder.lines[0]
    assert same_weights(whole, again)


@pytest.mark.parametrize("how", [control_c, terminate])
def test_an_interrupt_within_a_step_waits_for_its_end(tmp_path, how):
    whole = trained(None)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "state", during=interrupt_at(3, how))
    assert checkpoints.load(tmp_path / "state")["step"] == 4
    assert same_weights(whole, trained(tmp_path / "state"))


def test_a_second_interrupt_within_a_step_does_not_wait_and_keeps_nothing_torn(tmp_path):
    def twice():
        control_c()
        control_c()

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "state", during=interrupt_at(3, twice))
    assert not list(tmp_path.iterdir())


def test_more_steps_go_on_from_a_finished_training(tmp_path):
    trained(tmp_path / "state")
    recorder = Recorder()
    trained(tmp_path / "state", progress=recorder)
    assert "has made all 8 steps" in recorder.lines[0]
    more = trained(tmp_path / "state", Short(steps=20))
    assert more.step == 20 and checkpoints.load(tmp_path / "state")["step"] == 20
    assert [step for step, *_ in more.history] == [8, 20]
    with pytest.raises(ValueError, match="made 20 steps already, more than 8"):
        trained(tmp_path / "state", Short(steps=8))


def test_a_full_disk_leaves_the_checkpoint_before_and_nothing_else(tmp_path, monkeypatch):
    trained(tmp_path / "state", Short(steps=2))
    before = (tmp_path / "state").read_bytes()

    def full(path, data):
        path.open("wb").close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        trained(tmp_path / "state", Short(steps=3))
    assert (tmp_path / "state").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def same_weights(one, other):
    return all(
        torch.equal(a, b) for a, b in zip(one.network.parameters(), other.network.parameters())
    ) and all(torch.equal(one.mean[name], other.mean[name]) for name in one.mean)


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


@pytest.mark.parametrize(
    "kind",
    [
        synthetic_ct.SyntheticCTSettings,
        corrector.CorrectorSettings,
        flow.FlowSettings,
        sampler.VAESettings,
        latent_flows.CINNSettings,
        denoiser.DenoiserSettings,
    ],
)
def test_wrong_settings_of_a_training_are_refused_by_name(kind):
    assert kind.from_json(plain(kind())) == kind()
    for field in fields(kind):
        for wrong in ({"a": 1}, [None], "words", -1, math.nan):
            if (field.name, wrong) in (
                ("arguments", [None]),
                ("negative_margin", -1),
                ("architecture", "words"),  # the networks know their names
            ):
                continue
            with pytest.raises(ValueError, match=f"^{field.name} must"):
                kind(**{field.name: wrong})
