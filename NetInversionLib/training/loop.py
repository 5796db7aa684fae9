"""What every training has in common.

These are processes side by side, steps, checkpoints, learning rates and running means of the
weights.
"""

from __future__ import annotations

import math
import operator
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn

from ..core.progress import Cancelled, Progress
from . import checkpoint as checkpoints
from .interrupts import Interrupts


@dataclass(frozen=True)
class Group:
    """The processes that train together, or just this one.

    ``torchrun`` starts them and tells each its place.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def joined(cls, device: torch.device) -> Group:
        """This process' group, from torchrun's environment; alone without it."""
        if int(os.environ.get("WORLD_SIZE", 1)) == 1:
            return cls()
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if not distributed.is_initialized():
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(distributed.get_rank(), distributed.get_world_size())

    def leave(self) -> None:
        """Wait for the others, then part."""
        if self.size > 1:
            distributed.barrier()
            distributed.destroy_process_group()

    def check_batch(self, size: int) -> None:
        """Raises ValueError where the processes cannot share a batch of this size evenly."""
        if size % self.size:
            raise ValueError(
                f"a batch of {size} cannot be shared by {self.size} processes: choose a multiple"
            )

    def share(self, *batch: Tensor) -> list[Tensor]:
        """This process' part of a batch.

        Of each tensor of shape (N, ...) every ``size``-th part of its first axis.
        """
        return [part[self.rank :: self.size] for part in batch]

    def average(self, tensors: list[Tensor]) -> None:
        """Replace each tensor, of any shape, by its mean over the processes.

        The same bits everywhere.
        """
        if self.size > 1 and tensors:
            flat = torch.cat([t.flatten() for t in tensors])
            distributed.all_reduce(flat)
            flat /= self.size
            for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors])):
                tensor.copy_(part.view_as(tensor))


class State:
    """Networks and optimisers in training, step and history: all that a checkpoint holds.

    And the values since the history's last entry.

    Args:
        settings: A dataclass with ``steps``, ``learning_rate`` and ``average``, the decay per step
            of the running mean.
        names: Of people and networks trained on; a checkpoint of other names or settings is
            refused.
        network: The network whose weights are averaged.
        parts: Other networks, and the optimisers, by name.
    """

    def __init__(self, settings, names: list[str], network: nn.Module, **parts):
        self.settings, self.names, self.network = settings, sorted(set(names)), network
        self.parts = {"network": network, **parts}
        self.step = 0
        self.history: list = []
        self.recent: list = []
        self.begin_mean()

    def begin_mean(self) -> None:
        """Let the running mean be the weights as they are, before the first step."""
        self.mean = {
            name: weight.detach().clone() for name, weight in self.network.named_parameters()
        }

    @property
    def rate(self) -> float:
        """The learning rate now.

        It rises over the first twentieth of the steps and falls as half a cosine.
        """
        s = self.settings
        return s.learning_rate * min(
            (self.step + 1) / (0.05 * s.steps), 0.5 + 0.5 * math.cos(math.pi * self.step / s.steps)
        )

    def update(
        self,
        optimiser: torch.optim.Optimizer,
        weights: list[nn.Parameter],
        loss: Tensor,
        group: Group,
        clip: float | None = None,
    ) -> None:
        """One step of an optimiser with the gradients' mean over the processes.

        Raises:
            ValueError: The loss is not finite; the weights stay as they were.
        """
        if not torch.isfinite(loss):
            raise ValueError(
                f"training went astray at step {self.step}: start afresh with a lower learning rate"
            )
        for setting in optimiser.param_groups:
            setting["lr"] = self.rate
        optimiser.zero_grad()
        loss.backward(inputs=weights)
        group.average([w.grad for w in weights if w.grad is not None])
        if clip is not None:
            nn.utils.clip_grad_norm_(weights, clip)
        optimiser.step()

    def places(self, group: Group) -> Tensor:
        """Random places, 0 to 1, for this step's gradient penalty: this process' part of the batch.

        Returns:
            Of shape (n, 1, 1, 1).
        """
        generator = torch.Generator().manual_seed(self.settings.seed + self.step)
        return group.share(torch.rand(self.settings.batch, 1, 1, 1, generator=generator))[0]

    def stepped(self) -> None:
        """Count a step, and let the running mean follow the weights."""
        self.step += 1
        decay = min(self.settings.average, self.step / (self.step + 10))
        for name, weight in self.network.named_parameters():
            self.mean[name].lerp_(weight.detach(), 1 - decay)

    def averaged_state(self) -> dict[str, Tensor]:
        """The network's ``state_dict`` with the running means as weights."""
        return {**self.network.state_dict(), **self.mean}

    def save(self, path: Path | str) -> None:
        """Write a checkpoint, whole or not at all."""
        own = {
            "settings": plain(self.settings),
            "names": self.names,
            "step": self.step,
            # (entries, 3) and (values,): as numbers they take no room in the header.
            "history": np.array(self.history, np.float64).reshape(-1, 3),
            "recent": np.array(self.recent, np.float64),
            "mean": self.mean,
        }
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        checkpoints.save(path, {**own, "parts": parts})

    def load(self, path: Path | str) -> None:
        """Go on from a checkpoint; it may be of fewer steps than this training is to have.

        Raises:
            ValueError: It belongs to another training, has more steps than this one is to have, or
                cannot be used.
        """
        kept = checkpoints.load(path, next(self.network.parameters()).device)
        try:
            theirs, names, step = (
                dict(kept["settings"]),
                kept["names"],
                operator.index(kept["step"]),
            )
            history, recent = kept["history"].tolist(), kept["recent"].tolist()
            entries = [[int(at), *figures] for at, *figures in history]
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ValueError(_foreign(path)) from error
        self._check_same(theirs, names, step, path)
        try:
            mean = {name: kept["mean"][name].view_as(weight) for name, weight in self.mean.items()}
            for name, part in self.parts.items():
                part.load_state_dict(kept["parts"][name])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ValueError(_foreign(path)) from error
        self.step, self.history, self.recent, self.mean = step, entries, recent, mean

    def _check_same(self, theirs: dict, names: list, step: int, path: Path | str) -> None:
        mine = plain(self.settings)
        different = sorted(
            name
            for name in map(str, mine.keys() | theirs.keys())
            if name not in MAY_CHANGE and mine.get(name) != theirs.get(name)
        )
        which = ", ".join(f"{n}: {theirs.get(n)}, now {mine.get(n)}" for n in different)
        if different or names != self.names:
            raise ValueError(
                f"{path} belongs to a training with other settings, or of other people, scans or"
                f" networks ({which or 'the settings are the same'}); ask for the same again, or"
                " delete it to start afresh"
            )
        if step > self.settings.steps:
            raise ValueError(
                f"{path} has made {step} steps already, more than {self.settings.steps}:"
                " ask for as many or more, or delete it to start afresh"
            )


def _foreign(path: Path | str) -> str:
    return (
        f"{path} is no checkpoint of this training: another version wrote it; delete it to start"
        " afresh"
    )


MAY_CHANGE = ("steps", "checkpoint_every")
"""Settings with which a training may go on from a checkpoint that had others."""


def run(
    state: State,
    advance: Callable[[], float],
    titles: tuple[str, str],
    group: Group = Group(),
    checkpoint: Path | str | None = None,
    progress: Progress = Progress(),
    judge: Callable[[], float] | None = None,
    every: int | None = None,
    begin: Callable[[], None] | None = None,
) -> None:
    """Train to the last step, with checkpoints, learning curve and time left.

    Goes on from the checkpoint if it is there. An interrupt (Ctrl-C, the signal of ``kill``, a
    progress that raises ``Cancelled``) ends the training after the step that is being made; the
    checkpoint then holds it.

    Args:
        advance: Makes step ``state.step`` and returns the figure that it reached on this process'
            part of the batch.
        titles: Of that figure, and of what ``judge`` says of held-out people, which the first
            process asks at every entry.
        every: Steps between entries of ``state.history`` [step, mean figure since the last entry,
            the judge's or NaN]; as between checkpoints if None. ``state.settings`` has
            ``checkpoint_every`` too.
        begin: Called before a training that does not go on from a checkpoint.

    Raises:
        ValueError: As ``State.load`` and ``State.update``.
        KeyboardInterrupt, Cancelled: It was stopped; the checkpoint is written.
    """
    if checkpoint and Path(checkpoint).exists():
        state.load(checkpoint)
        progress.log(_goes_on(state, checkpoint))
    elif begin is not None:
        begin()
    s, clock = state.settings, _Clock(state.step, state.settings.steps)
    kept = checkpoint if group.rank == 0 else None
    with Interrupts() as interrupts:
        try:
            while state.step < s.steps:
                with interrupts.held():
                    state.recent.append(advance())
                    state.stepped()
                progress.point(titles[0], state.step, state.recent[-1])
                known, last = np.mean(state.recent), state.step == s.steps
                if last or state.step % (every or s.checkpoint_every) == 0:
                    _enter(state, titles, group, progress, judge)
                if (
                    checkpoint
                    and group.rank == 0
                    and (last or state.step % s.checkpoint_every == 0)
                ):
                    state.save(checkpoint)
                progress.report(
                    state.step / s.steps,
                    f"step {state.step} of {s.steps}, {titles[0]} {known:.4g}, "
                    f"{clock.left(state.step)} left",
                )
        except (KeyboardInterrupt, Cancelled):
            if kept and not interrupts.torn:
                state.save(kept)
                progress.log(_stopped(state, kept))
            raise


def _goes_on(state: State, checkpoint: Path | str) -> str:
    if state.step < state.settings.steps:
        return f"goes on from step {state.step} of {state.settings.steps}, kept in {checkpoint}"
    return (
        f"{checkpoint} has made all {state.step} steps: the model is written again; more steps go"
        " on from there"
    )


def _stopped(state: State, checkpoint: Path | str) -> str:
    return (
        f"stopped at step {state.step} of {state.settings.steps}, kept in {checkpoint}: the same"
        " command goes on from there, with more steps too; with no more steps than these it writes"
        " the model"
    )


def _enter(
    state: State,
    titles: tuple[str, str],
    group: Group,
    progress: Progress,
    judge: Callable[[], float] | None,
) -> None:
    """One more entry of the history."""
    known = torch.tensor(float(np.mean(state.recent)))
    group.average([known])
    new = judge() if judge is not None and group.rank == 0 else math.nan
    state.history.append([state.step, float(known), new])
    state.recent = []
    if not math.isnan(new):
        progress.point(titles[1], state.step, new)
        progress.log(f"step {state.step}: {titles[0]} {float(known):.4g}, {titles[1]} {new:.4g}")


class _Clock:
    """Time left, from the speed since this process began."""

    def __init__(self, first: int, last: int):
        self.first, self.last, self.start = first, last, time.monotonic()

    def left(self, step: int) -> str:
        seconds = (time.monotonic() - self.start) / max(1, step - self.first) * (self.last - step)
        return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


def plain(settings: Any) -> dict:
    """A dataclass as JSON values: tuples as lists."""
    return {name: _listed(value) for name, value in asdict(settings).items()}


def _listed(value):
    return [_listed(v) for v in value] if isinstance(value, (list, tuple)) else value
