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
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from . import register
from .unet import _Block

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
# A channel that varies less than this in the first batch says nothing about its scale and keeps it.
CONSTANT = 1e-5
# No channel is stretched more than 1 / this by the first batch.
SMALLEST_DEVIATION = 1e-2


@register("conditional_flow")
class ConditionalFlow(nn.Module):
    """Invertible map from an image, given a condition (an edge map), to latents that training makes
    standard normal.

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
            _FeaturePyramid(condition_channels, features) if conditional else None
        )
        self.levels = nn.ModuleList()
        channels = in_channels
        for n in range(levels):
            width = features[n] if conditional else 0
            self.levels.append(
                _Level(
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
            x: (N, in_channels, H, W), H and W multiples of ``size_multiple``.
            condition: (N, condition_channels, H, W).

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
            condition: (N, condition_channels, H, W).

        Returns:
            The image, (N, in_channels, H, W).
        """
        return self._prepared(condition).inverse(z)

    def log_prob(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Density of an image given the condition.

        Args:
            x: (N, in_channels, H, W).
            condition: (N, condition_channels, H, W).

        Returns:
            Natural logarithm of the density, (N,), float64.
        """
        return log_prob_of(*self(x, condition))

    def sample(
        self, condition: Tensor, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Images from latents of standard deviation ``temperature``.

        Without ``conditional`` only the size of the condition counts. The generator lives on the
        CPU, whatever the device, so that one seed gives the same latents everywhere.

        Args:
            condition: (N, condition_channels, H, W).
            temperature: Standard deviation of the latents, at least 0.
            generator: Random numbers, on the CPU.

        Returns:
            Images, (N, in_channels, H, W).
        """
        z = [
            torch.randn(shape, generator=generator) for shape in self.latent_shapes(condition.shape)
        ]
        return self.inverse([temperature * part.to(condition) for part in z], condition)

    def prepared(self, condition: Tensor | None = None) -> Prepared:
        """The flow for one condition, with everything computed that depends on it or the weights
        alone.

        For many encodings and decodings under the same condition. It is a picture of the weights as
        they are now; gradients reach the image and the latents, but neither weights nor condition.
        On a CPU one image at a time is fastest: what it makes on the way then fits the cache.

        Args:
            condition: (N, condition_channels, H, W), or None for a flow without one.
        """
        with torch.no_grad():
            return self._prepared(condition)

    @torch.no_grad()
    def initialise(self, x: Tensor, condition: Tensor | None = None) -> None:
        """Set every ActNorm so that its output for this batch has mean 0 and deviation 1 in each
        channel.

        Args:
            x: (N, in_channels, H, W).
            condition: (N, condition_channels, H, W).
        """
        for level, features in zip(self.levels, self.features(condition)):
            x = level.initialise(x, features)
        self.initialised.fill_(True)

    def features(self, condition: Tensor | None) -> list[Tensor | None]:
        """The condition's features at each level, finest first.

        Args:
            condition: (N, condition_channels, H, W).

        Returns:
            For each level (N, features, h, w), or None where the flow has no condition.
        """
        if not self.conditional:
            return [None] * len(self.levels)
        if condition is None:
            raise ValueError("this flow is conditional: give the condition too")
        self._check_size(condition)
        return self.condition_network(condition)

    def latent_shapes(self, image_shape) -> list[tuple[int, ...]]:
        """Shapes of the latents for images of this shape (N, C, H, W)."""
        n, _, *size = image_shape
        shapes = [
            (n, level.channels // (2 if level.split else 1), *(s >> depth for s in size))
            for depth, level in enumerate(self.levels, 1)
        ]
        return shapes

    def _prepared(self, condition: Tensor | None) -> Prepared:
        return Prepared(
            [
                level.prepare(features)
                for level, features in zip(self.levels, self.features(condition))
            ]
        )

    def _check_size(self, x: Tensor) -> None:
        if x.ndim != 4 or any(n == 0 or n % self.size_multiple for n in x.shape[2:]):
            raise ValueError(
                f"height and width must be multiples of {self.size_multiple}; these images are {tuple(x.shape)}"
            )


class Prepared:
    """A flow under one condition; see ``ConditionalFlow.prepared``. A condition of one image serves
    any batch.
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
        """Latents (N, c, h, w) of each level to the image, as ``ConditionalFlow.inverse``."""
        x = None
        for level, latent in zip(reversed(self._levels), reversed(z)):
            x = level.decode(x, latent)
        return x

    def log_prob(self, x: Tensor) -> Tensor:
        """Density of images (N, in_channels, H, W), as ``ConditionalFlow.log_prob``."""
        return log_prob_of(*self(x))


class _Level(nn.Module):
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
        self.mixing = _Mixing(transition_steps + steps, channels)
        self.transition_steps = transition_steps
        self.steps = nn.ModuleList(_Step(channels, features, hidden, bound) for _ in range(steps))
        self.split = _Split(channels, features, bound) if split else None

    def forward(
        self, x: Tensor, features: Tensor | None, memory_saving: bool
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """(rest of the image, latents or None, log-determinant)."""
        if not (memory_saving and torch.is_grad_enabled()):
            return self.prepare(features).encode(x)
        x = F.pixel_unshuffle(x, 2)
        weights, offsets, mixing_log_det = self.affine_maps(x.dtype)
        parameters = [p for step in self.steps for p in step.parameters()]
        y, log_det = _Chain.apply(self, x, features, weights, offsets, *parameters)
        log_det = log_det + _pixels(x) * mixing_log_det
        if self.split is None:
            return y, None, log_det
        rest, latent, more = self.split.encode(y, self.split.prepare(features))
        return rest, latent, log_det + more

    def affine_maps(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Per flow step a matrix and an offset, the transition steps in the first; and their summed
        log-determinant.
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
            x = _mix(x, weights[n].to(x.dtype), offsets[n].to(x.dtype))
            if n >= self.transition_steps:
                step = self.steps[n - self.transition_steps]
                x = step.encode(x, step.prepare(features))[0]
        return x if self.split is None else self.split.encode(x, self.split.prepare(features))[0]


@dataclass
class _PreparedLevel:
    level: _Level
    weights: Tensor
    offsets: Tensor
    mixing_log_det: Tensor
    steps: list[_StepGiven]
    split: Tensor | None

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        x = F.pixel_unshuffle(x, 2)
        log_det = _pixels(x) * self.mixing_log_det
        x, more = _run(self.level.steps, x, self.weights, self.offsets, self.steps)
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
            x = _mix(x, self.inverses[n], self.inverse_offsets[n])
        return F.pixel_shuffle(x, 2)

    @cached_property
    def inverses(self) -> Tensor:
        return _inverses(self.weights)

    @cached_property
    def inverse_offsets(self) -> Tensor:
        return -(self.inverses @ self.offsets[..., None])[..., 0]


class _Mixing(nn.Module):
    """``count`` times ActNorm and invertible 1 x 1 convolution: y = W (exp(log_scale) (x + bias)).

    W = P L (U + D) with fixed permutation and signs: never singular, and its log-determinant is a
    sum.
    """

    def __init__(self, count: int, channels: int):
        super().__init__()
        rotations = torch.linalg.qr(torch.randn(count, channels, channels, dtype=torch.float64))[0]
        permutation, lower, upper = torch.linalg.lu(rotations)
        diagonal = upper.diagonal(dim1=-2, dim2=-1)
        dtype = torch.get_default_dtype()
        self.lower = nn.Parameter(lower.tril(-1).to(dtype))
        self.upper = nn.Parameter(upper.triu(1).to(dtype))
        self.log_diagonal = nn.Parameter(diagonal.abs().log().to(dtype))
        self.log_scale = nn.Parameter(torch.zeros(count, channels))
        self.bias = nn.Parameter(torch.zeros(count, channels))
        self.register_buffer("permutation", permutation.to(dtype))
        self.register_buffer("sign", diagonal.sign().to(dtype))

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """Matrices (count, C, C) and offsets (count, C) of x -> Wx + b, their summed
        log-determinant per pixel; float64.
        """
        permutation, sign, lower, upper, log_diagonal, log_scale, bias = (
            _double(t)
            for t in (
                self.permutation,
                self.sign,
                self.lower,
                self.upper,
                self.log_diagonal,
                self.log_scale,
                self.bias,
            )
        )
        lower = lower.tril(-1) + torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
        upper = upper.triu(1) + torch.diag_embed(sign * log_diagonal.exp())
        weights = permutation @ lower @ upper * log_scale.exp()[:, None]
        offsets = (weights @ bias[..., None])[..., 0]
        home = self.bias.device
        return weights.to(home), offsets.to(home), (log_diagonal.sum() + log_scale.sum()).to(home)

    def initialise(self, n: int, x: Tensor) -> None:
        """Set the n-th ActNorm from its input."""
        deviation, mean = torch.std_mean(x.double(), (0, 2, 3), correction=0)
        scale = torch.where(deviation < CONSTANT, 1.0, deviation.clamp_min(SMALLEST_DEVIATION))
        self.bias[n] = -mean
        self.log_scale[n] = -scale.log()


class _StepGiven(NamedTuple):
    """What a flow step takes from the condition: the injector's scale, shift and log-determinant;
    the coupling's input.
    """

    log_scale: Tensor | None
    scale: Tensor | None
    shift: Tensor | None
    log_det: Tensor | float
    hidden: Tensor


class _Step(nn.Module):
    """Affine injector and conditional affine coupling; the affine map before them belongs to the
    level.
    """

    def __init__(self, channels: int, features: int, hidden: int, bound: float):
        super().__init__()
        self.half, self.bound = channels // 2, bound
        # The features have seen their neighbourhood already: 1 x 1 is enough for them. One
        # convolution serves both.
        self.from_features = nn.Conv2d(features, 2 * hidden, 1) if features else None
        self.injector = _zero(nn.Conv2d(hidden, 2 * channels, 1)) if features else None
        self.first = nn.Conv2d(self.half, hidden, 3, padding=1, bias=not features)
        self.middle = nn.Conv2d(hidden, hidden, 1)
        self.last = _zero(nn.Conv2d(hidden, 2 * self.half, 3, padding=1))
        for layer in (self.first, self.middle):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def prepare(self, features: Tensor | None) -> _StepGiven:
        if self.from_features is None:
            return _StepGiven(None, None, None, 0.0, self.first.bias[None, :, None, None])
        for_injector, hidden = self.from_features(features).chunk(2, 1)
        log_scale, shift = self.injector(for_injector.relu()).chunk(2, 1)
        log_scale = _bounded(log_scale, self.bound)
        return _StepGiven(log_scale, log_scale.exp(), shift, _total(log_scale), hidden)

    def coupling(self, kept: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Log-scale and shift of the other half of the channels."""
        h = F.conv2d(kept, self.first.weight, padding=1).add_(hidden).relu_()
        h = self.middle(h).relu_()
        log_scale, shift = _conv_to_few(h, self.last.weight, self.last.bias).chunk(2, 1)
        return _bounded(log_scale, self.bound), shift

    def encode(self, x: Tensor, given: _StepGiven) -> tuple[Tensor, Tensor]:
        if given.scale is not None:
            x = torch.addcmul(given.shift, x, given.scale)
        kept, changed = x[:, : self.half], x[:, self.half :]
        log_scale, shift = self.coupling(kept, given.hidden)
        y = torch.cat([kept, torch.addcmul(shift, changed, log_scale.exp())], 1)
        return y, _total(log_scale) + given.log_det

    def decode(self, y: Tensor, given: _StepGiven) -> Tensor:
        kept, changed = y[:, : self.half], y[:, self.half :]
        log_scale, shift = self.coupling(kept, given.hidden)
        x = torch.cat([kept, (changed - shift).div_(log_scale.exp())], 1)
        return x if given.scale is None else (x - given.shift).div_(given.scale)

    def backward(
        self,
        y: Tensor,
        features: Tensor | None,
        grad_y: Tensor,
        grad_log_det: Tensor,
        sums: _Gradients,
    ):
        """Gradients through ``encode`` and ``prepare`` from the output y alone: (the input, its
        gradient).

        Those of the features and the parameters are added to ``sums``.
        """
        with torch.enable_grad():
            given = self.prepare(features)
            hidden = given.hidden.detach().requires_grad_()
            kept = y[:, : self.half].detach().requires_grad_()
            log_scale, shift = self.coupling(kept, hidden)
        scale = log_scale.detach().exp()
        changed = (y[:, self.half :] - shift.detach()) / scale

        # the coupling
        grad_kept, grad_changed = grad_y[:, : self.half], grad_y[:, self.half :]
        grad_scaled = grad_changed * scale
        parameters = [self.first.weight, *self.middle.parameters(), *self.last.parameters()]
        grad_through, grad_hidden = sums.add(
            (log_scale, shift),
            (grad_scaled * changed + grad_log_det, grad_changed),
            parameters,
            (kept, hidden),
        )
        x = torch.cat([kept.detach(), changed], 1)
        grad_x = torch.cat([grad_kept + grad_through, grad_scaled], 1)
        if given.scale is None:
            sums.add([given.hidden], [grad_hidden], [self.first.bias])
            return x, grad_x

        # the injector
        scale = given.scale.detach()
        x, grad_shift, grad_x = (x - given.shift.detach()) / scale, grad_x, grad_x * scale
        parameters = [features, *self.from_features.parameters(), *self.injector.parameters()]
        sums.add(
            (given.hidden, given.log_scale, given.shift),
            (grad_hidden, grad_x * x + grad_log_det, grad_shift),
            parameters,
        )
        return x, grad_x


class _Split(nn.Module):
    """Half of the channels become latents, standardised under a Gaussian predicted from the other
    half and features.
    """

    def __init__(self, channels: int, features: int, bound: float):
        super().__init__()
        self.half, self.bound = channels // 2, bound
        self.prior = _zero(nn.Conv2d(self.half, 2 * self.half, 3, padding=1))
        self.from_features = (
            _zero(nn.Conv2d(features, 2 * self.half, 3, padding=1, bias=False))
            if features
            else None
        )

    def prepare(self, features: Tensor | None) -> Tensor | None:
        return self.from_features(features) if self.from_features is not None else None

    def encode(self, x: Tensor, given: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        rest, latent = x.chunk(2, 1)
        mean, log_deviation = self._prior(rest, given)
        return rest, (latent - mean) * (-log_deviation).exp(), -_total(log_deviation)

    def decode(self, rest: Tensor, latent: Tensor, given: Tensor | None) -> Tensor:
        mean, log_deviation = self._prior(rest, given)
        return torch.cat([rest, torch.addcmul(mean, latent, log_deviation.exp())], 1)

    def _prior(self, rest: Tensor, given: Tensor | None) -> tuple[Tensor, Tensor]:
        prior = self.prior(rest) if given is None else self.prior(rest) + given
        mean, log_deviation = prior.chunk(2, 1)
        return mean, _bounded(log_deviation, self.bound)


class _FeaturePyramid(nn.Module):
    """U-Net on the squeezed condition; gives the features of its way up: at 1/2, 1/4, ... of the
    size.
    """

    def __init__(self, in_channels: int, features):
        super().__init__()
        inputs = [4 * in_channels, *features[:-1]]
        self.down = nn.ModuleList(_Block(nn.Conv2d, i, o) for i, o in zip(inputs, features))
        self.up = nn.ModuleList(
            _Block(nn.Conv2d, a + b, a) for a, b in zip(features[:-1], features[1:])
        )

    def forward(self, condition: Tensor) -> list[Tensor]:
        x = F.pixel_unshuffle(condition, 2)
        levels = []
        for n, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if n else x)
            levels.append(x)
        for n in reversed(range(len(self.up))):
            coarse = F.interpolate(
                levels[n + 1], scale_factor=2, mode="bilinear", align_corners=False
            )
            levels[n] = self.up[n](torch.cat([levels[n], coarse], 1))
        return levels


class _Chain(torch.autograd.Function):
    """The flow steps of a level, keeping only their last output for backward."""

    @staticmethod
    def forward(
        ctx,
        level: _Level,
        x: Tensor,
        features: Tensor | None,
        weights: Tensor,
        offsets: Tensor,
        *parameters,
    ):
        y, log_det = _run(
            level.steps, x, weights, offsets, (step.prepare(features) for step in level.steps)
        )
        ctx.steps = level.steps
        ctx.save_for_backward(y, features, weights, offsets, *parameters)
        return y, log_det

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y: Tensor, grad_log_det: Tensor):
        y, features, weights, offsets, *parameters = ctx.saved_tensors
        if features is not None:
            features = features.detach().requires_grad_(ctx.needs_input_grad[2])
        inverses = _inverses(weights)
        grad_log_det = grad_log_det.to(y.dtype)[:, None, None, None]
        grad_weights, grad_offsets = torch.empty_like(weights), torch.empty_like(offsets)
        sums = _Gradients([features, *parameters])
        for n in reversed(range(len(ctx.steps))):
            y, grad_y = ctx.steps[n].backward(y, features, grad_y, grad_log_det, sums)
            y = _mix(y - offsets[n][:, None, None], inverses[n])
            grad_weights[n] = torch.einsum("nchw,ndhw->cd", grad_y, y)
            grad_offsets[n] = grad_y.sum((0, 2, 3))
            grad_y = _mix(grad_y, weights[n].T)
        grad_features, *grad_parameters = sums.found
        return None, grad_y, grad_features, grad_weights, grad_offsets, *grad_parameters


class _Gradients:
    """Sums of gradients, allocated beforehand: small blocks kept between large ones that go would
    fragment the memory.
    """

    def __init__(self, tensors: list[Tensor | None]):
        self.found = [
            torch.zeros_like(t) if t is not None and t.requires_grad else None for t in tensors
        ]
        self._by_tensor = {
            id(t): found for t, found in zip(tensors, self.found) if found is not None
        }

    def add(self, outputs, grads, tensors, others=()) -> tuple[Tensor, ...]:
        """Back-propagate and add up for those of the tensors that are summed; gives the gradients
        of the others.
        """
        tensors = [t for t in tensors if id(t) in self._by_tensor]
        pairs = [pair for pair in zip(outputs, grads) if pair[0].requires_grad]
        if not tensors and not others:
            return ()
        found = torch.autograd.grad(
            [o for o, _ in pairs], (*others, *tensors), [g for _, g in pairs]
        )
        for tensor, more in zip(tensors, found[len(others) :]):
            self._by_tensor[id(tensor)].add_(more)
        return found[: len(others)]


def _run(
    steps: Iterable[_Step], x: Tensor, weights: Tensor, offsets: Tensor, given: Iterable[_StepGiven]
):
    """Affine map and flow step, one after the other: (output, log-determinant without the affine
    maps).
    """
    log_det = 0
    for step, weight, offset, part in zip(steps, weights, offsets, given):
        x, more = step.encode(_mix(x, weight, offset), part)
        log_det = log_det + more
    return x, log_det


def _mix(x: Tensor, weight: Tensor, offset: Tensor | None = None) -> Tensor:
    """The same affine map of the channels at every pixel."""
    return F.conv2d(x, weight[:, :, None, None], offset)


def _conv_to_few(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """3 x 3 convolution with zero padding; on a CPU without gradients as a matrix product and eight
    shifted sums.

    For few output channels and many pixels that is two to five times as fast as the libraries' own.
    """
    n, channels, height, width = h.shape
    if torch.is_grad_enabled() or h.device.type != "cpu" or height * width < 1000:
        return F.conv2d(h, weight, bias, padding=1)
    parts = weight.permute(2, 3, 0, 1).reshape(-1, channels) @ h.view(n, channels, -1)
    left, rows, right = parts.view(n, 3, 3, -1, height, width).unbind(2)
    rows[..., 1:] += left[..., :-1]
    rows[..., :-1] += right[..., 1:]
    above, out, below = rows.unbind(1)
    out = out + bias[:, None, None]
    out[:, :, 1:] += above[:, :, :-1]
    out[:, :, :-1] += below[:, :, 1:]
    return out


def _inverses(weights: Tensor) -> Tensor:
    return torch.linalg.inv(_double(weights)).to(weights)


def _bounded(log_scale: Tensor, bound: float) -> Tensor:
    return bound * torch.tanh(log_scale / bound)


def _total(log_scale: Tensor) -> Tensor:
    """(N,) sum over channels and pixels, in float64 where the device has it."""
    return log_scale.sum(
        (1, 2, 3), dtype=torch.float32 if log_scale.device.type == "mps" else torch.float64
    )


def _double(x: Tensor) -> Tensor:
    return x.cpu().double() if x.device.type == "mps" else x.double()


def _pixels(x: Tensor) -> int:
    return x.shape[2] * x.shape[3]


def log_prob_of(z: list[Tensor], log_det: Tensor) -> Tensor:
    """The normal density of latents, with the map's log-determinant.

    Args:
        z: Latents of each level, (N, c, h, w).
        log_det: (N,), nats.

    Returns:
        (N,) nats, of the shape of ``log_det``.
    """
    dimension = sum(part[0].numel() for part in z)
    square = sum(_total(part.square()) for part in z)
    return log_det - 0.5 * (square + dimension * math.log(2 * math.pi))


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


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
            f"features must list one number for each of the {given['levels']} levels, not {features!r}"
        )
    if any(type(n) is not int or not 1 <= n <= MAX_FEATURES for n in features):
        raise ValueError(
            f"features must be whole numbers from 1 to {MAX_FEATURES}, not {features!r}"
        )
    if type(bound) not in (int, float) or not 0 < bound <= 10:
        raise ValueError(f"max_log_scale must be a number above 0, up to 10, not {bound!r}")
