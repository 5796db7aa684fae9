"""Training CT denoisers on simulated low-dose images, and what they reach on others.

The images are simulated from normal CT (``low_dose``).

Two ways to train: "mse", the mean square error to the normal-dose image; "wgan", a Wasserstein GAN
with gradient penalty beside a perceptual loss, the distance in the features of another network of
ours. Yang et al. use VGG-19's features, which are not ours to ship: give them as a model file if
you have them, else the features of an "mse" denoiser serve.

Sources: Chen et al., ISBI 2017, 143; Yang et al., IEEE TMI 2018;37:1348, arXiv:1708.00961;
Gulrajani et al., arXiv:1704.00028.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import models, networks
from ..core.progress import Progress
from ..core.results import Table
from ..core.settings import Checked, setting
from ..invariances.low_dose import HU_HIGH, HU_LOW
from ..networks.critic import gradient_penalty
from ..networks.layers import UpTo
from . import naming
from .features import features_of
from .level import begin_with, learned_level, level_error
from .loop import Group, State, plain, run
from .noisy import MARGIN, NoisySettings, Window, draw_noisy, weights
from .pairs import CHANNEL, Pair, draw_batch, normalised, split_by_patient, split_people
from .sources import sources_of

SPAN_HU = CHANNEL.high - CHANNEL.low
MEAN_OVER, MEAN_WEIGHT = 14, 0.3  # voxels, and the weight of the error of their mean
REAL_SPLIT = (0.7, 0.2, 0.1)  # of the LDCT-and-Projection-data's patients (Eulig et al.)
INTENDED_USE = (
    "Research and demonstration only, not for diagnosis or treatment. It was trained on a handful"
    " of CT scans with SIMULATED low dose, so that its invariances can be looked at; it was not"
    " made to improve images."
)


@dataclass(frozen=True)
class DenoiserSettings(Checked):
    """How a denoiser is trained.

    Attributes:
        architecture, arguments: Of ``networks``: one of ``denoisers()``.
        loss: "mse" or "wgan".
        steps, batch, patch: Optimiser steps, patches in each, voxels along their sides.
        learning_rate: The optimiser's, at its highest; warms up over 5 % of the steps and falls as
            a cosine.
        optimiser: "adam", or "sgd" with momentum 0.9.
        average: Decay per step of the running mean of the weights, which is what is kept.
        adversarial: Weight of the critic's score beside the perceptual term ("wgan"). critic_steps:
            Of the critic for each of the generator. warm_up: Share of the steps before them, in
            which the mean square error is learnt alone: a critic of something like an image teaches
            more. pixel: Weight of the mean square error that stays after them. window: The range in
            HU that the critic sees.
        dose: Range of dose fractions drawn from, one per slice.
        noise_hu: Standard deviation of the noise added inside the body, at the middle of these
            doses; ``low_dose.exposed`` finds the photons for each volume's middle slice.
        electronic, views: As in ``low_dose.LowDoseSettings``.
        listening: Share of the steps, the first, in which only the estimate of the noise's level is
            trained, where the network has one that learns.
        noisy: Windows and their noise, instead of ``dose`` to ``views``; the error is then weighed
            (``noisy.weights``).
        split: Shares of the patients who are trained on, who judge the training, and whose figures
            stand in the card; nobody but ``leave_out`` is apart without it.
        half: Multiply in bfloat16, which is some three times as fast where the processor can.
        seed: Everything random follows from it and the step's number. checkpoint_every: Steps
            between checkpoints.
    """

    architecture: str = "cnn10"
    arguments: tuple = ()
    loss: str = setting("mse", choices=("mse", "wgan"))
    steps: int = setting(3000, at_least=1)
    batch: int = setting(16, at_least=1)
    patch: int = setting(64, at_least=1)
    learning_rate: float = setting(1e-3, above=0)
    optimiser: str = setting("adam", choices=("adam", "sgd"))
    average: float = setting(0.998, at_least=0, below=1)
    adversarial: float = setting(2e-3, at_least=0)
    critic_steps: int = setting(1, at_least=1)
    warm_up: float = setting(0.5, at_least=0, at_most=1)
    pixel: float = setting(0.0, at_least=0)
    window: tuple[float, float] = (HU_LOW, HU_HIGH)
    dose: tuple[float, float] = setting((0.1, 0.25), above=0, below=1)
    noise_hu: float = setting(40.0, above=0)
    electronic: float = setting(10.0, at_least=0)
    views: int = setting(360, at_least=2)
    listening: float = setting(0.3, at_least=0, below=1)
    noisy: NoisySettings | None = None
    split: tuple[float, float, float] | None = setting(None, above=0)
    half: bool = False
    seed: int = setting(0, at_least=0)
    checkpoint_every: int = setting(100, at_least=1)

    def check(self) -> None:
        for name in ("dose", "window"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} is a range: its lower end comes first")


def recipe(architecture: str, loss: str = "mse", real: bool = False) -> DenoiserSettings:
    """How the shipped denoisers are trained: residual, told the noise's level, on windows.

    Args:
        architecture: Of ``networks``.
        loss: "mse" or "wgan".
        real: For real pairs, whose noise is not simulated.
    """
    arguments: dict[str, bool | int] = {"residual": True, "level": True}
    if architecture == "redcnn":
        arguments = {"out_ch": 24, **arguments}
    return DenoiserSettings(
        architecture,
        tuple(arguments.items()),
        loss,
        learning_rate=2e-3,
        warm_up=0.7,
        pixel=1.0,
        adversarial=0.02,
        window=(-160.0, 240.0),
        noisy=None if real else NoisySettings(),
        split=REAL_SPLIT if real else None,
        half=True,
    )


def as_published(architecture: str) -> DenoiserSettings:
    """The published networks and their papers' settings, as far as the papers give them.

    Chen et al. (CNN-10): patches of 33 x 33, SGD. Yang et al. (WGAN-VGG): patches of 64 x 64, Adam,
    four steps of the critic. Chen et al. (RED-CNN): patches of 55 x 55, Adam.

    Raises:
        ValueError: No paper's settings are known for this architecture.
    """
    if architecture not in PUBLISHED:
        raise ValueError(
            f"no paper's settings are known for {architecture!r}, only for"
            f" {', '.join(PUBLISHED)}: train it without --as-published"
        )
    return PUBLISHED[architecture]


PUBLISHED = {
    settings.architecture: settings
    for settings in (
        DenoiserSettings("cnn10", patch=33, optimiser="sgd", learning_rate=1e-2),
        DenoiserSettings("redcnn", patch=55, learning_rate=1e-4),
        DenoiserSettings(
            "wganvgg", loss="wgan", batch=128, learning_rate=1e-5, critic_steps=4, warm_up=0.0
        ),
    )
}
"""The papers' settings, by architecture."""


# Training -----------------------------------------------------------------------------------------


class NoiseCritic(nn.Module):
    """Yang's critic without batch norm.

    It has six 3 x 3 convolutions, every other with stride 2, then the mean of a last map.
    """

    def __init__(self, width: int = 32):
        super().__init__()
        layers, channels = [], 1
        for n in range(6):
            given = width * 2 ** (n // 2)
            layers += [
                nn.Conv2d(channels, given, 3, stride=1 + n % 2, padding=1),
                nn.LeakyReLU(0.2),
            ]
            channels = given
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 1, 1))

    def forward(self, x: Tensor, condition: None = None) -> Tensor:
        """Scores of images (N, 1, H, W), (N,); nothing is judged beside the image."""
        return self.layers(x).mean((1, 2, 3))


class _State(State):
    """The denoiser in training and, for "wgan", what it is trained against."""

    def __init__(
        self,
        settings: DenoiserSettings,
        names: list[str],
        features: UpTo | None,
        start: models.Model | None,
        device: torch.device,
    ):
        torch.manual_seed(settings.seed)
        network = networks.build(settings.architecture, **dict(settings.arguments)).to(device)
        if getattr(network, "residual", False):
            network.begin_with_nothing()
        if start is not None:
            begin_with(network, start.network)
        parts = {"optimiser": _optimiser(settings, network)}
        if settings.loss == "wgan":
            critic = NoiseCritic().to(device)
            parts |= {
                "critic": critic,
                "critic_optimiser": torch.optim.Adam(critic.parameters(), betas=(0.5, 0.9)),
            }
        super().__init__(settings, names, network, **parts)
        self.features, self.device = features, device

    def advance(self, draw: Callable[[int], tuple[Tensor, ...]], group: Group) -> float:
        """One step of the generator (and the critic's before it).

        The batch's root mean square error, HU.
        """
        s, critic = self.settings, self.parts.get("critic")
        if self.step < s.warm_up * s.steps:
            critic = None
        if critic is not None:
            for n in range(s.critic_steps):
                low, normal, *_ = group.share(*draw(s.steps + s.critic_steps * self.step + n))
                self.criticise(critic, low, normal, group)
        low, normal, *weight = (part.to(self.device) for part in group.share(*draw(self.step)))
        estimate = learned_level(self.network)
        of_level = level_error(estimate, low, normal) if estimate else torch.zeros(())
        if estimate and self.step < s.listening * s.steps:
            self.update(self.parts["optimiser"], list(estimate.parameters()), of_level, group, 1.0)
            return float((low - normal).square().mean().sqrt()) * SPAN_HU
        found = self.denoised(low)
        loss = self.error(found, normal, *weight) + of_level
        if critic is not None:
            assert self.features is not None  # "wgan" is never trained without
            loss = (
                s.pixel * loss
                + F.mse_loss(self.features(found), self.features(normal))
                - s.adversarial * critic(self.judged(found)).mean()
            )
        self.update(
            self.parts["optimiser"], list(self.network.parameters()), loss, group, s.noisy and 1.0
        )
        return float((found.detach() - normal).square().mean().sqrt()) * SPAN_HU

    def denoised(self, low: Tensor) -> Tensor:
        """The network's images, (N, 1, H, W), with gradients for its weights."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.half):
            return self.network.train()(low).float()

    def error(self, found: Tensor, normal: Tensor, weight: Tensor | None = None) -> Tensor:
        """Mean square error, of images (N, 1, H, W).

        With weights of the same shape, in 1 / HU^2: without the border, where zeros stand for what
        lies beyond the patch, and with that of the local mean, so that no tissue is shifted.
        """
        if weight is None:
            return F.mse_loss(found, normal)
        inner = (..., slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))
        error, weight = SPAN_HU * (found - normal)[inner], weight[inner]
        of_means = F.avg_pool2d(weight, MEAN_OVER) * F.avg_pool2d(error, MEAN_OVER).square()
        return (weight * error.square()).mean() + MEAN_WEIGHT * of_means.mean()

    def judged(self, images: Tensor) -> Tensor:
        """What the critic sees of images (N, 1, H, W): the window's values, in its units."""
        low, high = self.settings.window
        if (low, high) == (HU_LOW, HU_HIGH):
            return images
        return ((SPAN_HU * images + CHANNEL.low).clamp(low, high) - low) / (high - low) * 4

    def criticise(self, critic: NoiseCritic, low: Tensor, normal: Tensor, group: Group) -> None:
        """One step of the critic.

        It tells real from denoised, and draws the gradient's length to 1 between them.
        """
        low, normal = low.to(self.device), normal.to(self.device)
        with torch.no_grad():
            made = self.judged(self.denoised(low))
        normal = self.judged(normal)
        penalty = gradient_penalty(critic, normal, made, place=self.places(group))
        loss = critic(made).mean() - critic(normal).mean() + 10 * penalty
        self.update(self.parts["critic_optimiser"], list(critic.parameters()), loss, group)

    def averaged(self) -> nn.Module:
        """The network with the mean weights."""
        network = networks.build(self.settings.architecture, **dict(self.settings.arguments))
        network.load_state_dict(self.averaged_state())
        return network.to(self.device).eval().requires_grad_(False)


def _optimiser(settings: DenoiserSettings, network: nn.Module) -> torch.optim.Optimizer:
    if settings.optimiser == "sgd":
        return torch.optim.SGD(network.parameters(), lr=settings.learning_rate, momentum=0.9)
    return torch.optim.Adam(network.parameters(), betas=(0.9, 0.999))


def train(
    pairs: list[Pair] | list[Window],
    output: Path | str,
    settings: DenoiserSettings = DenoiserSettings(),
    leave_out: str | None = None,
    checkpoint: Path | str | None = None,
    features: models.Model | None = None,
    progress: Progress = Progress(),
    device: torch.device | str = "cpu",
    card: dict | None = None,
    start: models.Model | None = None,
) -> Path:
    """Train a denoiser and write its model file; goes on from the checkpoint if that is there.

    Under torchrun every process calls this; the first one writes.

    Args:
        pairs: Slices of everybody, or windows of them if ``settings.noisy`` says which.
        leave_out: A person not trained on; of pairs, their figures stand in the card.
        features: For "wgan": the denoiser whose features the perceptual term compares.
        card: Fields of the model's card that the user chose, such as its name.
        start: Network whose weights the training begins with.

    Raises:
        ValueError: Nobody to train on, "wgan" without features, a start with other layers, or a
            checkpoint of another training.
    """
    training, judging, apart = _people(pairs, settings, leave_out)
    draw = _drawing(training, settings)
    if settings.loss == "wgan" and features is None:
        raise ValueError(
            "the perceptual term needs a network to take features of: name a denoiser's or VGG-19's"
            " model file with --features"
        )
    device = torch.device(device)
    group = Group.joined(device)
    group.check_batch(settings.batch)
    state = _State(
        settings,
        [one.person for one in training],
        features_of(features).to(device) if features else None,
        start,
        device,
    )
    run(
        state,
        lambda: state.advance(draw, group),
        ("RMSE (HU)", "RMSE of the patients who judge (HU)"),
        group,
        checkpoint,
        progress,
        (lambda: _judged(state.averaged().cpu(), judging)) if judging else None,
    )
    if group.rank == 0:
        network = state.averaged().cpu()
        judges = {pair.person for pair in judging}
        told = [pair for pair in pairs if isinstance(pair, Pair) and pair.person not in judges]
        table = evaluate(told, network, {pair.person for pair in apart})
        made = make_card(settings, state.names, leave_out, table, features, start)
        naming.save(output, network, made, card)
    group.leave()
    return Path(output)


def _people(
    pairs: list[Pair] | list[Window], settings: DenoiserSettings, leave_out: str | None
) -> tuple[list, list[Pair], list[Pair]]:
    """What is trained on, what judges the training, and what is kept for its end."""
    real = [pair for pair in pairs if isinstance(pair, Pair)]
    if settings.noisy is not None:
        return [window for window in pairs if isinstance(window, Window)], [], []
    if settings.split is None:
        training, apart = split_people(real, leave_out)
        return training, [], apart
    names = [pair.person for pair in real if pair.person != leave_out]
    groups = split_by_patient(names, settings.split, settings.seed)
    if leave_out:
        groups[2].add(leave_out)
    first, second, third = ([p for p in real if p.person in group] for group in groups)
    return first, second, third


def _drawing(training: list, settings: DenoiserSettings) -> Callable[[int], tuple[Tensor, ...]]:
    """How the batch of a step is drawn.

    It gives normalised low and normal dose, and the weights of the errors where there are windows.
    """
    if settings.noisy is None:
        return lambda step: draw_batch(training, settings, step)
    noisy = settings.noisy

    def draw(step: int) -> tuple[Tensor, ...]:
        low, normal, soft = draw_noisy(
            training, noisy, settings.batch, settings.patch, step, settings.seed
        )
        return normalised(low), normalised(normal), weights(low, normal, soft)

    return draw


def _judged(network: nn.Module, pairs: list[Pair]) -> float:
    """Mean error of pairs, HU."""
    errors = evaluate(pairs, network).columns["denoised"]
    return float(np.mean(errors)) if errors else float("nan")


def evaluate(
    pairs: list[Pair], network: nn.Module, leave_out: str | Collection[str] | None = None
) -> Table:
    """RMSE to normal dose inside the body, HU, of low dose and denoised, per person.

    Held-out people are marked.
    """
    apart = {leave_out} if isinstance(leave_out, str) else set(leave_out or ())
    rows: dict[str, list[list[float]]] = {}
    for pair in pairs:
        body = pair.normal > -500
        if body.mean() < 0.01:
            continue
        low = (pair.normal + pair.noise).clip(-1024, 3071)
        with torch.no_grad():
            found = network(normalised(torch.from_numpy(low))[None, None])[0, 0].numpy()
        found = found * (CHANNEL.high - CHANNEL.low) + CHANNEL.low
        rows.setdefault(pair.person, []).append(
            [np.sqrt(np.mean((x - pair.normal)[body] ** 2)) for x in (low, found)]
        )
    means = {person: np.mean(values, 0) for person, values in rows.items()}
    return Table(
        "RMSE to normal dose inside the body (HU)",
        {
            "person": list(means),
            "held out": [person in apart for person in means],
            "low dose": [float(m[0]) for m in means.values()],
            "denoised": [float(m[1]) for m in means.values()],
        },
    )


def make_card(
    settings: DenoiserSettings,
    people: list[str],
    leave_out: str | None,
    table: Table,
    features: models.Model | None,
    start: models.Model | None = None,
) -> models.Card:
    """The card of a trained denoiser."""
    simulated = settings.split is None  # real pairs are split
    quality = {}
    for person, apart, low, found in zip(*table.columns.values()):
        who = f"{person}, {'held out' if apart else 'trained on'}"
        quality[f"{who}, RMSE (HU)"] = f"{low:.1f} -> {found:.1f}"
    values = {k: v if type(v) in (int, float, str) else str(v) for k, v in plain(settings).items()}
    for said, other in (("features", features), ("begun with", start)):
        if other is not None:
            values[said] = f"{other.card.name}, SHA-256 {other.sha256[:16]}"
    return models.Card(
        name=f"CT denoiser {settings.architecture}, {settings.loss}",
        version="1",
        architecture=settings.architecture,
        arguments=dict(settings.arguments),
        inputs=(CHANNEL,),
        outputs=(CHANNEL,),
        dimensions=2,
        orientation="LPS",
        spacing_mm=(0.5, 3.5),
        size_multiple=1,
        trained_on=tuple(people),
        sources=sources_of(people, simulated),
        licence="MIT",
        intended_use=INTENDED_USE,
        quality=quality,
        training={**values, "left out": leave_out or "nobody"},
        task=models.DENOISING,
    )
