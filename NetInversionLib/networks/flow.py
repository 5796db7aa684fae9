"""Conditional multi-scale normalizing flow: an image to standard normal latents and exactly back.

Each level squeezes 2 x 2 pixels into channels, mixes them (transition steps), runs its flow steps
and splits half of the channels off as latents under a learned Gaussian prior. A flow step is
ActNorm, invertible 1 x 1 convolution, affine injector (scale and shift from the condition's
features alone) and affine coupling (scale and shift of one half of the channels from the other half
and the features).

Three things make it fast and small. ActNorm and 1 x 1 convolution are one affine map per pixel, and
maps that follow each other are multiplied out beforehand, in float64. What depends on the condition
alone can be computed once (``ConditionalFlow.prepared``). Training keeps only the output of each
level and finds the activations of its steps again from the inverse, so that memory does not grow
with the number of steps.

Sources: Dinh, Sohl-Dickstein & Bengio, arXiv:1605.08803 (squeeze, split, coupling); Kingma &
    Dhariwal, arXiv:1807.03039 (ActNorm, 1 x 1 convolution); Lugmayr, Danelljan, Van Gool & Timofte,
    arXiv:2006.14200 (transition steps, injector, conditional coupling); Gomez, Ren, Urtasun &
    Grosse, arXiv:1707.04585 (activations from the inverse).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .flow_steps import (
    Chain,
    FeaturePyramid,
    FlowStep,
    Mixing,
    Split,
    inverse_weights,
    mix,
    pixels,
    run,
    total,
)
from .registry import register

if TYPE_CHECKING:
    from .flow_steps import StepGiven


# Refused beyond these, so that a hostile model file cannot ask for all the memory there is.
MOST = {
    "in_channels": 16,
    "condition_channels": 16,
    "levels": 6,
    "steps": 128,
    "transition_steps": 8,
    "hidden": 512,
}
MAX_FEATURES = 512


@register("conditional_flow")
class ConditionalFlow(nn.Module):
    """Invertible map from an image, given a condition, to latents.

    The condition is an edge map; training makes the latents standard normal.

    Args:
        in_channels: Of the image.
        condition_channels: Of the condition, an image of the same size with values about 0 to 1.
        levels: Image sizes must be multiples of ``2 ** levels``.
        steps: Flow steps in each level.
        transition_steps: ActNorm and 1 x 1 convolution only, ahead of the flow steps of each level.
        hidden: Channels inside the injector's and the coupling's networks.
        features: Channels of the condition's features at 1/2, 1/4, ... of the size, one number per
            level.
        conditional: Without it the condition's values are ignored.
        max_log_scale: Bound of every log-scale that is a function of the image or the condition.
        memory_saving: Recompute activations in backward. Gradients are the same, but only first
            derivatives exist.

    Raises:
        ValueError: For arguments out of range.
    """

    dimensions = 2

    def __init__(
        self,
        in_channels: int = 1,
        condition_channels: int = 1,
        levels: int = 3,
        steps: int = 8,
        transition_steps: int = 2,
        hidden: int = 32,
        features=(16, 32, 64),
        conditional: bool = True,
        max_log_scale: float = 1.0,
        memory_saving: bool = True,
    ):
        super().__init__()
        _check_arguments(locals())
        self.in_channels, self.condition_channels = in_channels, condition_channels
        self.conditional, self.memory_saving = bool(conditional), bool(memory_saving)
        self.size_multiple = 2**levels
        self.condition_network = (
            FeaturePyramid(condition_channels, features) if conditional else None
        )
        self.levels = nn.ModuleList()
        channels = in_channels
        for n in range(levels):
            width = features[n] if conditional else 0
            self.levels.append(
                Level(
                    4 * channels,
                    width,
                    steps,
                    transition_steps,
                    hidden,
                    max_log_scale,
                    n < levels - 1,
                )
            )
            channels *= 2
        self.register_buffer("initialised", torch.tensor(False))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """Image to latents. The first batch in training mode sets every ActNorm.

        Args:
            x: Of shape (N, in_channels, H, W), H and W multiples of ``size_multiple``.
            condition: Of shape (N, condition_channels, H, W).

        Returns:
            The latents, outer (finest) level first, (N, c, h, w) each; and (N,) log |det dz/dx|,
            summed in float64.
        """
        self._check_size(x)
        if self.training and not self.initialised:
            self.initialise(x, condition)
        z, log_det = [], 0
        for level, features in zip(self.levels, self.features(condition)):
            x, latent, more = level(x, features, self.memory_saving)
            z.append(x if latent is None else latent)
            log_det = log_det + more
        return z, log_det

    def inverse(self, z: list[Tensor], condition: Tensor | None = None) -> Tensor:
        """Latents to the image.

        Args:
            z: Latents as ``forward`` gives them, (N, c, h, w) each.
            condition: Of shape (N, condition_channels, H, W).

        Returns:
            The image of shape (N, in_channels, H, W).
        """
        return self._prepared(condition).inverse(z)

    def log_prob(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Density of an image given the condition.

        Args:
            x: Of shape (N, in_channels, H, W).
            condition: Of shape (N, condition_channels, H, W).

        Returns:
            Natural logarithm of the density of shape (N,), float64.
        """
        return log_prob_of(*self(x, condition))

    def sample(
        self, condition: Tensor, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Images from latents of standard deviation ``temperature``.

        Without ``conditional`` only the size of the condition counts. The generator lives on the
        CPU, whatever the device, so that one seed gives the same latents everywhere.

        Args:
            condition: Of shape (N, condition_channels, H, W).
            temperature: Standard deviation of the latents, at least 0.
            generator: Random numbers, on the CPU.

        Returns:
            Images of shape (N, in_channels, H, W).
        """
        z = [
            torch.randn(shape, generator=generator) for shape in self.latent_shapes(condition.shape)
        ]
        return self.inverse([temperature * part.to(condition) for part in z], condition)

    def prepared(self, condition: Tensor | None = None) -> PreparedFlow:
        """The flow for one condition, with everything computed that no image changes.

        For many encodings and decodings under the same condition. It is a picture of the weights as
        they are now; gradients reach the image and the latents, but neither weights nor condition.
        On a CPU one image at a time is fastest: what it makes on the way then fits the cache.

        Args:
            condition: Of shape (N, condition_channels, H, W), or None for a flow without one.
        """
        with torch.no_grad():
            return self._prepared(condition)

    @torch.no_grad()
    def initialise(self, x: Tensor, condition: Tensor | None = None) -> None:
        """Set every ActNorm by a batch.

        Its output has mean 0 and deviation 1 in each channel then.

        Args:
            x: Of shape (N, in_channels, H, W).
            condition: Of shape (N, condition_channels, H, W).
        """
        for level, features in zip(self.levels, self.features(condition)):
            x = level.initialise(x, features)
        self.initialised.fill_(True)

    def features(self, condition: Tensor | None) -> list[Tensor | None]:
        """The condition's features at each level, finest first.

        Args:
            condition: Of shape (N, condition_channels, H, W).

        Returns:
            For each level (N, features, h, w), or None where the flow has no condition.
        """
        if self.condition_network is None:
            return [None] * len(self.levels)
        if condition is None:
            raise ValueError("this flow is conditional: give the condition too")
        self._check_size(condition)
        return self.condition_network(condition)

    def latent_shapes(self, image_shape: Sequence[int]) -> list[tuple[int, ...]]:
        """Shapes of the latents for images of this shape (N, C, H, W)."""
        n, _, *size = image_shape
        shapes = [
            (n, level.channels // (2 if level.split else 1), *(s >> depth for s in size))
            for depth, level in enumerate(self.levels, 1)
        ]
        return shapes

    def _prepared(self, condition: Tensor | None) -> PreparedFlow:
        return PreparedFlow(
            [
                level.prepare(features)
                for level, features in zip(self.levels, self.features(condition))
            ]
        )

    def _check_size(self, x: Tensor) -> None:
        if x.ndim != 4 or any(n == 0 or n % self.size_multiple for n in x.shape[2:]):
            raise ValueError(
                f"height and width must be multiples of {self.size_multiple}; these images are"
                f" {tuple(x.shape)}"
            )


class PreparedFlow:
    """A flow under one condition; see ``ConditionalFlow.prepared``.

    A condition of one image serves any batch.
    """

    def __init__(self, levels: list[_PreparedLevel]):
        self._levels = levels

    def __call__(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """As ``ConditionalFlow.forward``."""
        z, log_det = [], 0
        for level in self._levels:
            x, latent, more = level.encode(x)
            z.append(x if latent is None else latent)
            log_det = log_det + more
        return z, log_det

    def inverse(self, z: list[Tensor]) -> Tensor:
        """Latents to the image, as ``ConditionalFlow.inverse``.

        Of each level of shape (N, c, h, w).
        """
        x = None
        for level, latent in zip(reversed(self._levels), reversed(z)):
            x = level.decode(x, latent)
        return x

    def log_prob(self, x: Tensor) -> Tensor:
        """Density of images of shape (N, in_channels, H, W), as ``ConditionalFlow.log_prob``."""
        return log_prob_of(*self(x))


class Level(nn.Module):
    """Squeeze, transition steps, flow steps and, except in the last level, split."""

    def __init__(
        self,
        channels: int,
        features: int,
        steps: int,
        transition_steps: int,
        hidden: int,
        bound: float,
        split: bool,
    ):
        super().__init__()
        self.channels = channels
        self.mixing = Mixing(transition_steps + steps, channels)
        self.transition_steps = transition_steps
        self.steps = nn.ModuleList(
            FlowStep(channels, features, hidden, bound) for _ in range(steps)
        )
        self.split = Split(channels, features, bound) if split else None

    def forward(
        self, x: Tensor, features: Tensor | None, memory_saving: bool
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """(rest of the image, latents or None, log-determinant)."""
        if not (memory_saving and torch.is_grad_enabled()):
            return self.prepare(features).encode(x)
        x = F.pixel_unshuffle(x, 2)
        weights, offsets, mixing_log_det = self.affine_maps(x.dtype)
        parameters = [p for step in self.steps for p in step.parameters()]
        y, log_det = Chain.apply(self, x, features, weights, offsets, *parameters)
        log_det = log_det + pixels(x) * mixing_log_det
        if self.split is None:
            return y, None, log_det
        rest, latent, more = self.split.encode(y, self.split.prepare(features))
        return rest, latent, log_det + more

    def affine_maps(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Per flow step the affine map of the channels, the transition steps in the first.

        Returns:
            Matrices of shape (steps, C, C), offsets of shape (steps, C), and their summed
            log-determinant per pixel.
        """
        weights, offsets, log_det = self.mixing()
        weight, offset = weights[0], offsets[0]
        for n in range(1, self.transition_steps + 1):
            weight, offset = weights[n] @ weight, offsets[n] + weights[n] @ offset
        weights = torch.cat([weight[None], weights[self.transition_steps + 1 :]])
        offsets = torch.cat([offset[None], offsets[self.transition_steps + 1 :]])
        return weights.to(dtype), offsets.to(dtype), log_det

    def prepare(self, features: Tensor | None) -> _PreparedLevel:
        dtype = self.mixing.bias.dtype
        split = self.split.prepare(features) if self.split is not None else None
        return _PreparedLevel(
            self, *self.affine_maps(dtype), [step.prepare(features) for step in self.steps], split
        )

    def initialise(self, x: Tensor, features: Tensor | None) -> Tensor:
        x = F.pixel_unshuffle(x, 2)
        for n in range(len(self.mixing.bias)):
            self.mixing.initialise(n, x)
            weights, offsets, _ = self.mixing()
            x = mix(x, weights[n].to(x.dtype), offsets[n].to(x.dtype))
            if n >= self.transition_steps:
                step = self.steps[n - self.transition_steps]
                x = step.encode(x, step.prepare(features))[0]
        return x if self.split is None else self.split.encode(x, self.split.prepare(features))[0]


@dataclass
class _PreparedLevel:
    level: Level
    weights: Tensor
    offsets: Tensor
    mixing_log_det: Tensor
    steps: list[StepGiven]
    split: Tensor | None

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        x = F.pixel_unshuffle(x, 2)
        log_det = pixels(x) * self.mixing_log_det
        x, more = run(self.level.steps, x, self.weights, self.offsets, self.steps)
        log_det = log_det + more
        if self.level.split is None:
            return x, None, log_det
        rest, latent, more = self.level.split.encode(x, self.split)
        return rest, latent, log_det + more

    def decode(self, rest: Tensor | None, latent: Tensor) -> Tensor:
        x = (
            latent
            if self.level.split is None
            else self.level.split.decode(rest, latent, self.split)
        )
        for n in reversed(range(len(self.level.steps))):
            x = self.level.steps[n].decode(x, self.steps[n])
            x = mix(x, self.inverses[n], self.inverse_offsets[n])
        return F.pixel_shuffle(x, 2)

    @cached_property
    def inverses(self) -> Tensor:
        return inverse_weights(self.weights)

    @cached_property
    def inverse_offsets(self) -> Tensor:
        return -(self.inverses @ self.offsets[..., None])[..., 0]


def log_prob_of(z: list[Tensor], log_det: Tensor) -> Tensor:
    """The normal density of latents, with the map's log-determinant.

    Args:
        z: Latents of each level, (N, c, h, w).
        log_det: (N,), nats.

    Returns:
        (N,) nats, of the shape of ``log_det``.
    """
    dimension = sum(part[0].numel() for part in z)
    square = sum(total(part.square()) for part in z)
    return log_det - 0.5 * (square + dimension * math.log(2 * math.pi))


def _check_arguments(given: dict) -> None:
    for name, most in MOST.items():
        least = 0 if name == "transition_steps" else 1
        if type(given[name]) is not int or not least <= given[name] <= most:
            raise ValueError(
                f"{name} must be a whole number from {least} to {most}, not {given[name]!r}"
            )
    features, bound = given["features"], given["max_log_scale"]
    if not isinstance(features, (list, tuple)) or (
        given["conditional"] and len(features) != given["levels"]
    ):
        raise ValueError(
            f"features must list one number for each of the {given['levels']} levels, not"
            f" {features!r}"
        )
    if any(type(n) is not int or not 1 <= n <= MAX_FEATURES for n in features):
        raise ValueError(
            f"features must be whole numbers from 1 to {MAX_FEATURES}, not {features!r}"
        )
    if type(bound) not in (int, float) or not 0 < bound <= 10:
        raise ValueError(f"max_log_scale must be a number above 0, up to 10, not {bound!r}")
