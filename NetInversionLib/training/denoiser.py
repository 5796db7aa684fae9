"""Training CT denoisers on low-dose images that are simulated from normal CT (``low_dose``), and
what they reach on others.

Two ways to train: "mse", the mean square error to the normal-dose image; "wgan", a Wasserstein GAN
with gradient penalty beside a perceptual loss, the distance in the features of another network of
ours. Yang et al. use VGG-19's features, which are not ours to ship: give them as a model file if
you have them, else the features of an "mse" denoiser serve.

Sources: Chen et al., ISBI 2017, 143; Yang et al., IEEE TMI 2018;37:1348, arXiv:1708.00961;
Gulrajani et al., arXiv:1704.00028.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import models, networks
from ..core import files, meaning, volumes
from ..core.progress import Progress
from ..core.results import Table
from ..core.volumes import Volume
from ..invariances.low_dose import LowDoseSettings, exposed, noise_image
from ..networks.critic import gradient_penalty
from ..networks.layers import UpTo
from .loop import Group, State, plain, run
from .people import read_people
from .synthetic_ct import SOURCES

# The published networks' units: (HU + 1024 - 481.454...) / 502.185...
LOW_HU = 481.45419786099086 - 1024
CHANNEL = models.Channel("CT", "ct", "HU", LOW_HU, LOW_HU + 502.18507379395044)
LOW_DOSE_SOURCES = SOURCES.replace(
    "The Dixon images are simulated from these CTs.", "Low dose is simulated from these CTs."
)
INTENDED_USE = (
    "Research and demonstration only, not for diagnosis or treatment. It was trained on a handful"
    " of CT scans with SIMULATED low dose, so that its invariances can be looked at; it was not"
    " made to improve images."
)


class PatchSettings(Protocol):
    """What ``draw_batch`` goes by.

    Attributes:
        batch: Patches in each step.
        patch: Voxels along their sides.
        seed: Everything random follows from it and the step's number.
    """

    @property
    def batch(self) -> int:
        raise NotImplementedError

    @property
    def patch(self) -> int:
        raise NotImplementedError

    @property
    def seed(self) -> int:
        raise NotImplementedError


@dataclass(frozen=True)
class DenoiserSettings:
    """How a denoiser is trained.

    Attributes:
        architecture, arguments: Of ``networks``: "cnn10", "wganvgg" or "redcnn".
        loss: "mse" or "wgan".
        steps, batch, patch: Optimiser steps, patches in each, voxels along their sides.
        learning_rate: Adam's, at its highest; warms up over 5 % of the steps and falls as a cosine.
        average: Decay per step of the running mean of the weights, which is what is kept.
        adversarial: Weight of the critic's score beside the perceptual term ("wgan"). critic_steps:
            Of the critic for each of the generator. warm_up: Share of the steps before them, in
            which the mean square error is learnt alone: a critic of something like an image teaches
            more.
        dose: Range of dose fractions drawn from, one per slice.
        noise_hu: Standard deviation of the noise added inside the body, at the middle of these
            doses; ``low_dose.exposed`` finds the photons for each volume's middle slice.
        electronic, views: As in ``low_dose.LowDoseSettings``.
        seed: Everything random follows from it and the step's number. checkpoint_every: Steps
            between checkpoints.
    """

    architecture: str = "cnn10"
    arguments: tuple = ()
    loss: str = "mse"
    steps: int = 3000
    batch: int = 16
    patch: int = 64
    learning_rate: float = 1e-3
    average: float = 0.998
    adversarial: float = 2e-3
    critic_steps: int = 1
    warm_up: float = 0.5
    dose: tuple[float, float] = (0.1, 0.25)
    noise_hu: float = 40.0
    electronic: float = 10.0
    views: int = 360
    seed: int = 0
    checkpoint_every: int = 100

    def __post_init__(self):
        if self.loss not in ("mse", "wgan"):
            raise ValueError(f"loss is 'mse' or 'wgan', not {self.loss!r}")
        if not 0 < self.dose[0] <= self.dose[1] < 1:
            raise ValueError("dose is a range above 0 and below 1, lower end first")


@dataclass(frozen=True)
class Pair:
    """One person's slice: normal dose and the noise that makes it low dose, (J, I) float32, HU."""

    person: str
    normal: np.ndarray
    noise: np.ndarray


def read_pairs(
    folder: Path | str, settings: DenoiserSettings, every: int = 1, progress: Progress = Progress()
) -> list[Pair]:
    """Every (n-th) axial slice of the CTs of a folder, with simulated noise.

    People are found as by ``people.read_people``.

    Raises:
        ValueError: No CT there, or one that is not in HU.
    """
    found, people = [], read_people(folder)
    for number, (path, person) in enumerate(people.items()):
        progress.report(number / len(people), f"Simulating low dose of {path.name}")
        found += pairs_of(files.load(path), person, settings, every, number)
    return found


def pairs_of(
    ct: Volume, person: str, settings: DenoiserSettings, every: int = 1, number: int = 0
) -> list[Pair]:
    """The slices of one CT, with noise.

    Args:
        ct: [k, j, i], HU.
        person: Whose it is.
        settings: Of the training; the noise follows from their seed and ``number``.
        every: Take every n-th slice only.
        number: Of the volume.

    Raises:
        VolumeError: The volume is not in HU.
    """
    axial = volumes.reorient(meaning.require_hu(volumes.check(ct)), "LPS")
    hu = torch.from_numpy(np.ascontiguousarray(axial.float32()[every // 2 :: every])).clamp(
        -1024, 3071
    )
    rng = np.random.default_rng([settings.seed, number])
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    middle = LowDoseSettings(
        math.sqrt(math.prod(settings.dose)), electronic=settings.electronic, views=settings.views
    )
    middle = exposed(hu[len(hu) // 2][None], axial.spacing_mm[:2], middle, settings.noise_hu)
    pairs = []
    for image in hu:
        how = replace(middle, dose=float(np.exp(rng.uniform(*np.log(settings.dose)))))
        noise = noise_image(image[None], axial.spacing_mm[:2], how, generator)[0]
        pairs.append(Pair(person, image.numpy(), noise.numpy()))
    return pairs


def split_people(pairs: list[Pair], leave_out: str | None) -> tuple[list[Pair], list[Pair]]:
    """(training, held out). Raises ValueError: nobody is left, or nobody has this name."""
    training = [pair for pair in pairs if pair.person != leave_out]
    if not training or len(training) == len(pairs) and leave_out is not None:
        known = ", ".join(sorted({pair.person for pair in pairs}))
        raise ValueError(
            f"nobody is left to train on, or nobody is called {leave_out!r}; there are {known}"
        )
    return training, [pair for pair in pairs if pair.person == leave_out]


def draw_batch(pairs: list[Pair], settings: PatchSettings, step: int) -> tuple[Tensor, Tensor]:
    """Patches of low and of normal dose; people are drawn with equal chance.

    Noise may change its sign, and both are turned and mirrored: the same statistics, more examples.

    Args:
        pairs: Slices of everybody trained on.
        settings: Sizes, and the seed.
        step: Number of the step, from which the random numbers follow.

    Returns:
        Low and normal dose, normalised, of shape (batch, 1, patch, patch) each.
    """
    rng = np.random.default_rng([settings.seed, 1, step])
    people = sorted({pair.person for pair in pairs})
    size = settings.patch
    low: list[np.ndarray] = []
    normal: list[np.ndarray] = []
    while len(low) < settings.batch:
        person = people[rng.integers(len(people))]
        mine = [pair for pair in pairs if pair.person == person]
        pair = mine[rng.integers(len(mine))]
        corner = [int(rng.integers(max(1, n - size + 1))) for n in pair.normal.shape]
        window = tuple(slice(c, c + size) for c in corner)
        image, noise = pair.normal[window], pair.noise[window] * rng.choice((-1, 1))
        if image.shape != (size, size) or (image > -500).mean() < 0.1:  # mostly air
            if rng.random() < 0.98:
                continue
            image, noise = (
                np.pad(a, [(0, size - n) for n in a.shape], mode="reflect") for a in (image, noise)
            )
        turns, mirrored = int(rng.integers(4)), rng.random() < 0.5
        image, noise = (np.rot90(a[:, ::-1] if mirrored else a, turns) for a in (image, noise))
        normal.append(image.copy())
        low.append((image + noise).clip(-1024, 3071).astype(np.float32))
    return tuple(
        normalised(torch.from_numpy(np.stack(images)))[:, None] for images in (low, normal)
    )


def normalised(hu: Tensor) -> Tensor:
    return (hu - CHANNEL.low) / (CHANNEL.high - CHANNEL.low)


# Training -----------------------------------------------------------------------------------------


class Critic(nn.Module):
    """Yang's critic without batch norm: six 3 x 3 convolutions, every other with stride 2, then the
    mean of a last map.
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


def features_of(model: models.Model, layer: str | int = 4) -> UpTo:
    """The perceptual loss's features: a layer of another denoiser.

    The fourth by default, behind its second convolution.
    """
    return UpTo(model.network, layer, torch.zeros(1, 1, 64, 64))


class _State(State):
    """The denoiser in training and, for "wgan", what it is trained against."""

    def __init__(
        self,
        settings: DenoiserSettings,
        names: list[str],
        features: UpTo | None,
        device: torch.device,
    ):
        torch.manual_seed(settings.seed)
        network = networks.build(settings.architecture, **dict(settings.arguments)).to(device)
        parts = {"optimiser": torch.optim.Adam(network.parameters(), betas=(0.9, 0.999))}
        if settings.loss == "wgan":
            critic = Critic().to(device)
            parts |= {
                "critic": critic,
                "critic_optimiser": torch.optim.Adam(critic.parameters(), betas=(0.5, 0.9)),
            }
        super().__init__(settings, names, network, **parts)
        self.features, self.device = features, device

    def advance(self, draw: Callable[[int], tuple[Tensor, Tensor]], group: Group) -> float:
        """One step of the generator (and the critic's before it).

        The batch's root mean square error, HU.
        """
        s, critic = self.settings, self.parts.get("critic")
        if self.step < s.warm_up * s.steps:
            critic = None
        if critic is not None:
            for n in range(s.critic_steps):
                low, normal = group.share(*draw(s.steps + s.critic_steps * self.step + n))
                self.criticise(critic, low, normal, group)
        low, normal = (part.to(self.device) for part in group.share(*draw(self.step)))
        found = self.network.train()(low)
        loss = error = F.mse_loss(found, normal)
        if critic is not None:
            assert self.features is not None  # "wgan" is never trained without
            loss = (
                F.mse_loss(self.features(found), self.features(normal))
                - s.adversarial * critic(found).mean()
            )
        self.update(self.parts["optimiser"], list(self.network.parameters()), loss, group)
        return math.sqrt(float(error.detach())) * (CHANNEL.high - CHANNEL.low)

    def criticise(self, critic: Critic, low: Tensor, normal: Tensor, group: Group) -> None:
        """One step of the critic: real against denoised, the gradient's length drawn to 1 between
        them.
        """
        low, normal = low.to(self.device), normal.to(self.device)
        with torch.no_grad():
            made = self.network(low)
        penalty = gradient_penalty(critic, normal, made, place=self.places(group))
        loss = critic(made).mean() - critic(normal).mean() + 10 * penalty
        self.update(self.parts["critic_optimiser"], list(critic.parameters()), loss, group)

    def averaged(self) -> nn.Module:
        """The network with the mean weights."""
        network = networks.build(self.settings.architecture, **dict(self.settings.arguments))
        network.load_state_dict(self.averaged_state())
        return network.to(self.device).eval().requires_grad_(False)


def train(
    pairs: list[Pair],
    output: Path | str,
    settings: DenoiserSettings = DenoiserSettings(),
    leave_out: str | None = None,
    checkpoint: Path | str | None = None,
    features: models.Model | None = None,
    progress: Progress = Progress(),
    device: torch.device | str = "cpu",
) -> Path:
    """Train a denoiser and write its model file; goes on from the checkpoint if that is there.

    Under torchrun every process calls this; the first one writes.

    Args:
        leave_out: A person not trained on; their figures stand in the card.
        features: For "wgan": the denoiser whose features the perceptual term compares.

    Raises:
        ValueError: Nobody to train on, "wgan" without features, or a checkpoint of another
            training.
    """
    training, _ = split_people(pairs, leave_out)
    if settings.loss == "wgan" and features is None:
        raise ValueError(
            "the perceptual term needs a network to take features of: name a denoiser's model file"
            " with --features"
        )
    device = torch.device(device)
    group = Group.joined(device)
    group.check_batch(settings.batch)
    state = _State(
        settings,
        [pair.person for pair in training],
        features_of(features).to(device) if features else None,
        device,
    )
    run(
        state,
        lambda: state.advance(lambda step: draw_batch(training, settings, step), group),
        ("RMSE (HU)", ""),
        group,
        checkpoint,
        progress,
    )
    if group.rank == 0:
        network = state.averaged().cpu()
        table = evaluate(pairs, network, leave_out)
        models.save(output, network, make_card(settings, state.names, leave_out, table, features))
    group.leave()
    return Path(output)


def evaluate(pairs: list[Pair], network: nn.Module, leave_out: str | None = None) -> Table:
    """RMSE to normal dose inside the body, HU, of low dose and denoised, per person.

    Held-out people are marked.
    """
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
            "held out": [person == leave_out for person in means],
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
) -> models.Card:
    """The card of a trained denoiser."""
    quality = {}
    for person, apart, low, found in zip(*table.columns.values()):
        who = f"{person}, {'held out' if apart else 'trained on'}"
        quality[f"{who}, RMSE (HU)"] = f"{low:.1f} -> {found:.1f}"
    values = {k: str(v) if isinstance(v, list) else v for k, v in plain(settings).items()}
    if features is not None:
        values["features"] = f"{features.card.name}, layer 4, SHA-256 {features.sha256[:16]}"
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
        sources=LOW_DOSE_SOURCES,
        licence="MIT",
        intended_use=INTENDED_USE,
        quality=quality,
        training={**values, "left out": leave_out or "nobody"},
        task="denoising",
    )
