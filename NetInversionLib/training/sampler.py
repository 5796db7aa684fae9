"""Training of what proposes invariances.

An autoencoder of low-dose CT is trained, then flows of its latents given a denoiser's layers.

``train_vae`` learns images x of low dose by g = D(E(x)): reconstruction, divergence from the normal
prior, and later a Wasserstein critic. ``train_cinn`` keeps g and the denoiser as they are, and
learns one conditional flow for each layer by the likelihood of latents drawn from E's posterior.

Sources: Eulig, Ommer & Kachelriess, Proc. SPIE 12304, 123040S (2022); Rombach, Esser & Ommer,
arXiv:2008.01777; Gulrajani et al., arXiv:1704.00028.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .. import models
from ..core.progress import Progress
from ..core.settings import Checked, setting
from ..models.card import SAMPLING
from ..networks.cinn import CINN
from ..networks.critic import Critic, gradient_penalty
from ..networks.layers import UpTo
from ..networks.sampler import Sampler
from ..networks.vae import VAE, kl
from . import naming
from .latent_flows import CINNSettings, bits_per_latent, fit_flows
from .loop import Group, State, plain, run
from .pairs import CHANNEL, Pair, draw_batch, split_people
from .sources import sources_of

SPAN_HU = CHANNEL.high - CHANNEL.low
HELD_OUT_BATCHES = 8
INTENDED_USE = (
    "Research and demonstration only, not for diagnosis or treatment. It proposes changes of"
    " low-dose CT images that one denoiser may not notice; only projected, proven samples say"
    " something about that denoiser. Trained on a handful of CT scans with SIMULATED low dose."
)


@dataclass(frozen=True)
class VAESettings(Checked):
    """How the autoencoder is built and trained.

    Attributes:
        arguments: Of ``networks.vae.VAE``, (name, value) pairs. Without a condition, so that it
            serves any denoiser.
        steps, batch, patch: Optimiser steps, patches in each, voxels along their sides.
        learning_rate: Adam's, at its highest. average: Decay per step of the running mean of the
            weights, which is what is kept.
        divergence: Weight of the divergence from the prior, nats per voxel, beside the mean
            absolute error.
        adversarial: Weight of the critic's score. critic_width: Channels of its first convolution.
        critic_from: Share of the steps after which the critic joins.
        seed: Everything random follows from it and the step's number. checkpoint_every: Steps
            between checkpoints.
    """

    arguments: tuple = (
        ("latents", 8),
        ("condition_channels", 0),
        ("encoder", "small"),
        ("encoder_width", 8),
        ("blocks", 2),
        ("decoder_width", 24),
        ("attention", False),
        ("spatial", True),
    )
    steps: int = setting(3000, at_least=1)
    batch: int = setting(4, at_least=1)
    patch: int = setting(128, at_least=1)
    learning_rate: float = setting(1e-3, above=0)
    average: float = setting(0.995, at_least=0, below=1)
    divergence: float = setting(1e-3, at_least=0)
    adversarial: float = setting(3e-3, at_least=0)
    critic_width: int = setting(16, at_least=1)
    critic_from: float = setting(0.5, at_least=0, at_most=1)
    seed: int = setting(0, at_least=0)
    checkpoint_every: int = setting(100, at_least=1)


def train_vae(
    pairs: list[Pair],
    output: Path | str,
    settings: VAESettings = VAESettings(),
    leave_out: str | None = None,
    checkpoint: Path | str | None = None,
    progress: Progress = Progress(),
    device: torch.device | str = "cpu",
    card: dict | None = None,
) -> Path:
    """Train the autoencoder, from the checkpoint if it is there; write a ``Sampler`` without flows.

    Under torchrun every process calls this; the first one writes.

    Args:
        leave_out: A person not trained on, whose errors are told during training and in the card.
        card: Fields of the model's card that the user chose, such as its name.

    Raises:
        ValueError: Nobody to train on, a batch that the processes cannot share evenly, or a
            checkpoint of another training.
    """
    training, apart = split_people(pairs, leave_out)
    group = Group.joined(torch.device(device))
    group.check_batch(settings.batch)
    state = _vae_state(training, settings, device)

    def averaged() -> Sampler:
        sampler = Sampler(dict(settings.arguments))
        sampler.vae.load_state_dict(state.averaged_state())
        return sampler.to(device).eval().requires_grad_(False)

    run(
        state,
        lambda: _vae_step(state, training, settings, group, device),
        ("mean absolute error (HU)", "held-out RMSE (HU)"),
        group,
        checkpoint,
        progress,
        lambda: held_out_error(averaged(), apart, settings),
    )
    if group.rank == 0:
        sampler = averaged().cpu()
        quality = {
            f"{title}, RMSE of D(E(x)) to x (HU)": held_out_error(
                sampler, [p for p in pairs if p.person == who], settings
            )
            for who, title in _people(pairs, leave_out).items()
        }
        made = _card(
            "Autoencoder of low-dose CT",
            {"vae": dict(settings.arguments)},
            settings,
            state.names,
            leave_out,
            quality,
        )
        naming.save(output, sampler, made, card)
    group.leave()
    return Path(output)


def _vae_state(training: list[Pair], settings: VAESettings, device: torch.device | str) -> State:
    """The autoencoder, what it is trained against, and their optimisers."""
    torch.manual_seed(settings.seed)
    vae = VAE(**dict(settings.arguments)).to(device)
    downs = min(5, settings.patch.bit_length() - 2)  # as many as so small a patch allows
    critic = Critic(condition_channels=0, width=settings.critic_width, downs=downs).to(device)
    rate = settings.learning_rate
    return State(
        settings,
        [p.person for p in training],
        vae,
        critic=critic,
        optimiser=torch.optim.Adam(vae.parameters(), rate, betas=(0.5, 0.999)),
        critic_optimiser=torch.optim.Adam(critic.parameters(), rate, betas=(0.5, 0.9)),
    )


def _vae_step(
    state: State,
    training: list[Pair],
    settings: VAESettings,
    group: Group,
    device: torch.device | str,
) -> float:
    """One step of the autoencoder (and the critic's before it); mean absolute error, HU."""
    vae, critic = state.network, state.parts["critic"]
    x, noise = group.share(*_images_and_noise(training, settings, state.step, vae))
    x, noise = x.to(device), noise.to(device)
    made, mean, log_variance = vae.train()(x, noise=noise)
    error = (made - x).abs().mean()
    loss = error + settings.divergence * kl(mean, log_variance).mean() / x[0].numel()
    if state.step >= settings.critic_from * settings.steps:
        penalty = gradient_penalty(critic, x, made, place=state.places(group))
        state.update(
            state.parts["critic_optimiser"],
            list(critic.parameters()),
            critic(made.detach()).mean() - critic(x).mean() + 10 * penalty,
            group,
        )
        loss = loss - settings.adversarial * critic(made).mean()
    state.update(state.parts["optimiser"], list(vae.parameters()), loss, group, clip=1.0)
    return float(error.detach()) * SPAN_HU


def train_cinn(
    pairs: list[Pair],
    output: Path | str,
    vae: models.Model,
    denoiser: models.Model,
    settings: CINNSettings = CINNSettings(),
    leave_out: str | None = None,
    checkpoint: Path | str | None = None,
    progress: Progress = Progress(),
    device: torch.device | str = "cpu",
    card: dict | None = None,
) -> Path:
    """Train a flow for each layer and write a ``Sampler`` of them and the autoencoder.

    Otherwise as ``train_vae``.

    Args:
        vae: From ``train_vae``. denoiser: The network whose layers condition the flows; the card
            names its SHA-256.

    Raises:
        ValueError, LayerError: As ``train_vae``; a network of another kind; the denoiser lacks a
            layer.
    """
    training, apart = split_people(pairs, leave_out)
    _check_networks(vae, denoiser)
    group = Group.joined(torch.device(device))
    group.check_batch(settings.batch)
    conditions = _Conditions(vae.network.to(device).vae, denoiser, settings, device)
    torch.manual_seed(settings.seed)
    flows = nn.ModuleList(CINN(**a) for a in conditions.arguments.values()).to(device)

    def averaged(state: State) -> Sampler:
        sampler = Sampler(vae.card.arguments["vae"], conditions.arguments)
        sampler.vae.load_state_dict(conditions.autoencoder.state_dict())
        sampler.flows.load_state_dict(state.averaged_state())
        return sampler.to(device).eval().requires_grad_(False)

    def judge(state: State) -> float:
        if not apart:
            return math.nan
        return float(conditions.judged(averaged(state).flows, apart).mean())

    people = sorted({pair.person for pair in training})
    state = fit_flows(
        flows,
        lambda step, group: conditions.batch(training, step, group),
        settings,
        [*people, denoiser.sha256, vae.sha256],
        group,
        checkpoint,
        judge,
        progress,
    )
    if group.rank == 0:
        sampler = averaged(state)
        quality = conditions.quality(sampler.flows, pairs, _people(pairs, leave_out))
        made = _card(
            f"Invariances of {denoiser.card.name}",
            {"vae": vae.card.arguments["vae"], "flows": conditions.arguments},
            settings,
            people,
            leave_out,
            {**vae.card.quality, **quality},
        )
        made = replace(made, training={**made.training, **_sources(vae, denoiser)})
        naming.save(output, sampler.cpu(), made, card)
    group.leave()
    return Path(output)


def _sources(vae: models.Model, denoiser: models.Model) -> dict[str, str]:
    """The networks that a sampler was made for, as its card names them."""
    return {
        "denoiser": denoiser.card.name,
        "denoiser SHA-256": denoiser.sha256,
        "autoencoder SHA-256": vae.sha256,
    }


class _Conditions:
    """Latents of low-dose images, and what each layer of the denoiser makes of these images.

    Attributes:
        parts: The denoiser up to each layer, by the layer's name.
        arguments: What the flow of each layer is built with.
    """

    def __init__(
        self,
        autoencoder: VAE,
        denoiser: models.Model,
        settings: CINNSettings,
        device: torch.device | str,
    ):
        self.autoencoder, self.settings, self.device = autoencoder, settings, device
        empty = torch.zeros(1, 1, 64, 64, device=device)
        network = denoiser.network.to(device)
        self.parts = {
            part.layer: part for part in (UpTo(network, layer, empty) for layer in settings.layers)
        }
        patch = torch.zeros(1, 1, settings.patch, settings.patch, device=device)
        with torch.no_grad():
            seen = {layer: part(patch) for layer, part in self.parts.items()}
        self.arguments = {
            layer: _flow_arguments(settings, autoencoder, z) for layer, z in seen.items()
        }

    def batch(
        self, pairs: list[Pair], step: int, group: Group = Group()
    ) -> tuple[Tensor, list[Tensor]]:
        """Latents of shape (N, latents, ...), and z of shape (N, C, H, W) of every layer."""
        drawn = _images_and_noise(pairs, self.settings, step, self.autoencoder)
        x, noise = (part.to(self.device) for part in group.share(*drawn))
        with torch.no_grad():
            mean, log_variance = self.autoencoder.encode(x)
            latents = mean + (log_variance / 2).exp() * noise
            return latents, [part(x) for part in self.parts.values()]

    def judged(self, flows: nn.ModuleList, pairs: list[Pair]) -> Tensor:
        """Bits per latent of each flow for some people, of shape (flows,)."""
        found = [bits_per_latent(flows, *self.batch(pairs, n)) for n in range(HELD_OUT_BATCHES)]
        return torch.stack(found).mean(0)

    def quality(
        self, flows: nn.ModuleList, pairs: list[Pair], people: dict[str, str]
    ) -> dict[str, float]:
        """Figures for the card: bits per latent of each person and layer."""
        found = {}
        for who, title in people.items():
            values = self.judged(flows, [pair for pair in pairs if pair.person == who])
            for layer, value in zip(self.parts, values):
                found[f"{title}, layer {layer} (bits per latent)"] = float(value)
        return found


# Pieces -------------------------------------------------------------------------------------------


def _check_networks(vae: models.Model, denoiser: models.Model) -> None:
    if (
        vae.card.architecture != "ct_sampler"
        or vae.network.vae.condition_channels
        or vae.network.vae.image_channels != 1
    ):
        raise ValueError(f"{vae.path.name} holds no autoencoder made by 'train vae'")
    scales = [(c.low, c.high) for c in denoiser.card.inputs]
    if scales != [(CHANNEL.low, CHANNEL.high)] or denoiser.card.dimensions != 2:
        raise ValueError(
            f"{denoiser.path.name} does not take CT slices in units as 'train denoiser' does: one"
            f" image, 0 at {CHANNEL.low:.1f} HU, 1 at {CHANNEL.high:.1f} HU"
        )


def _people(pairs: list[Pair], leave_out: str | None) -> dict[str, str]:
    """Each person's title in a card."""
    return {
        who: f"{who}, {'held out' if who == leave_out else 'trained on'}"
        for who in sorted({pair.person for pair in pairs})
    }


def _images_and_noise(pairs: list[Pair], settings, step: int, vae: VAE) -> tuple[Tensor, Tensor]:
    """Low-dose patches, normalised, and normal noise shaped as their latents.

    Patches are (batch, 1, patch, patch).
    """
    low, _ = draw_batch(pairs, settings, step)
    size = (settings.patch // vae.size_multiple,) * 2 if vae.spatial else ()
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    return low, torch.randn(settings.batch, vae.latents, *size, generator=generator)


def held_out_error(sampler: Sampler, pairs: list[Pair], settings: VAESettings) -> float:
    """Root mean square of D(E(x)) - x over random patches, HU; NaN without images."""
    if not pairs:
        return math.nan
    squares = []
    with torch.no_grad():
        for step in range(HELD_OUT_BATCHES):
            low, _ = draw_batch(pairs, settings, step)
            low = low.to(next(sampler.parameters()).device)
            squares.append(float((sampler(low) - low).square().mean()))
    return math.sqrt(np.mean(squares)) * SPAN_HU


def _flow_arguments(settings: CINNSettings, vae: VAE, z: Tensor) -> dict:
    maps = (
        {"spatial": True, "latent_size": settings.patch // vae.size_multiple} if vae.spatial else {}
    )
    return {
        "channels": vae.latents,
        "condition_channels": z.shape[1],
        "condition_size": z.shape[-1],
        "blocks": settings.blocks,
        "hidden": settings.hidden,
        "depth": settings.depth,
        "features": settings.features,
        "downs": settings.downs,
        "embedder_width": settings.embedder_width,
        **maps,
    }


def _card(
    name: str, arguments: dict, settings, people: list[str], leave_out: str | None, quality: dict
) -> models.Card:
    values = {
        key: str(value) if isinstance(value, list) else value
        for key, value in plain(settings).items()
    }
    return models.Card(
        name=name,
        version="1",
        architecture="ct_sampler",
        arguments=arguments,
        inputs=(CHANNEL,),
        outputs=(CHANNEL,),
        dimensions=2,
        orientation="LPS",
        spacing_mm=(0.5, 3.5),
        size_multiple=2 ** arguments["vae"]["blocks"],
        trained_on=tuple(people),
        sources=sources_of(people),
        licence="MIT",
        intended_use=INTENDED_USE,
        quality=quality,
        training={**values, "left out": leave_out or "nobody"},
        task=SAMPLING,
    )
