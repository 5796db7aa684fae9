"""Training of conditional flows by the likelihood of latents."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..core.progress import Progress
from ..core.settings import Checked, setting
from .loop import Group, State, run


@dataclass(frozen=True)
class CINNSettings(Checked):
    """How the flows are built and trained.

    Attributes:
        layers: Of the denoiser, by name or number, or "output".
        blocks, hidden, depth, features, downs, embedder_width: Of ``networks.cinn.CINN``.
        steps, batch, patch: Optimiser steps, patches in each, voxels along their sides.
        learning_rate: Adam's, at its highest.
        average: Decay per step of the running mean of the weights, which is what is kept.
        seed: Everything random follows from it and the step's number.
        checkpoint_every: Steps between checkpoints.
    """

    layers: tuple[str, ...] = setting(("output",), filled=True)
    blocks: int = setting(4, at_least=1)
    hidden: int = setting(64, at_least=1)
    depth: int = setting(1, at_least=0)
    features: int = setting(16, at_least=1)
    downs: int = setting(2, at_least=0)
    embedder_width: int = setting(16, at_least=1)
    steps: int = setting(1500, at_least=1)
    batch: int = setting(4, at_least=1)
    patch: int = setting(128, at_least=1)
    learning_rate: float = setting(1e-3, above=0)
    average: float = setting(0.995, at_least=0, below=1)
    seed: int = setting(0, at_least=0)
    checkpoint_every: int = setting(100, at_least=1)


def fit_flows(
    flows: nn.ModuleList,
    batch: Callable[[int, Group], tuple[Tensor, list[Tensor]]],
    settings: CINNSettings,
    names: list[str],
    group: Group = Group(),
    checkpoint: Path | str | None = None,
    judge: Callable[[State], float] | None = None,
    progress: Progress = Progress(),
) -> State:
    """Train flows by the likelihood of latents given conditions.

    All ActNorms are set from the first batch.

    Args:
        flows: Of the class ``CINN``.
        batch: Of a step and the processes: this one's part of latents (N, latents) or
            (N, latents, h, w), and of each flow's conditions z (N, C, H, W).
        settings: Its ``steps``, ``learning_rate``, ``average`` and ``checkpoint_every``.
        names: Of all that the training depends on beside the settings.
        judge: A figure of held-out people, lower is better.

    Returns:
        The trained state; its ``averaged_state()`` are the weights to use.
    """
    state = State(
        settings,
        names,
        flows,
        optimiser=torch.optim.Adam(flows.parameters(), settings.learning_rate),
    )

    def begin() -> None:
        with torch.no_grad():  # from the whole first batch, the same in every process
            bits_per_latent(flows.train(), *batch(0, Group()))
        state.begin_mean()

    def advance() -> float:
        loss = bits_per_latent(flows.train(), *batch(state.step, group)).mean()
        state.update(state.parts["optimiser"], list(flows.parameters()), loss, group, clip=10.0)
        return float(loss.detach())

    run(
        state,
        advance,
        ("bits per latent", "held-out bits per latent"),
        group,
        checkpoint,
        progress,
        (lambda: judge(state)) if judge else None,
        begin=begin,
    )
    return state


def bits_per_latent(flows: nn.ModuleList, latents: Tensor, conditions: list[Tensor]) -> Tensor:
    """Mean negative log2 of each flow's density of the latents, over the number of latents.

    Args:
        flows: Of the class ``CINN``.
        latents: Of shape (N, latents) or (N, latents, h, w).
        conditions: Of each flow, of shape (N, C, H, W).

    Returns:
        Of shape (flows,).
    """
    found = [
        flow.log_prob(latents, flow.embed(z, tuple(latents.shape[2:]) or None)).mean()
        for flow, z in zip(flows, conditions)
    ]
    return -torch.stack(found) / (latents[0].numel() * math.log(2))
