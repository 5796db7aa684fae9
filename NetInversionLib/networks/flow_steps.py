"""The steps of a flow's level, with gradients that keep only the last output."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .unet import _Block

if TYPE_CHECKING:
    from .flow import Level


# A channel that varies less than this in the first batch says nothing about its scale and keeps it.
CONSTANT = 1e-5
# No channel is stretched more than 1 / this by the first batch.
SMALLEST_DEVIATION = 1e-2


class Mixing(nn.Module):
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
        """Matrices and offsets of x -> Wx + b, and their summed log-determinant per pixel.

        Of shape (count, C, C) and (count, C); float64.
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


class StepGiven(NamedTuple):
    """What a flow step takes from the condition.

    The injector's scale, shift and log-determinant, and the coupling's input.
    """

    log_scale: Tensor | None
    scale: Tensor | None
    shift: Tensor | None
    log_det: Tensor | float
    hidden: Tensor


class FlowStep(nn.Module):
    """Affine injector and conditional affine coupling.

    The affine map before them belongs to the level.
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

    def prepare(self, features: Tensor | None) -> StepGiven:
        if self.from_features is None:
            return StepGiven(None, None, None, 0.0, self.first.bias[None, :, None, None])
        assert self.injector is not None  # it and ``from_features`` exist together
        for_injector, hidden = self.from_features(features).chunk(2, 1)
        log_scale, shift = self.injector(for_injector.relu()).chunk(2, 1)
        log_scale = bounded_scale(log_scale, self.bound)
        return StepGiven(log_scale, log_scale.exp(), shift, total(log_scale), hidden)

    def coupling(self, kept: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Log-scale and shift of the other half of the channels.

        Args:
            kept: The first half, of shape (N, C / 2, H, W).
            hidden: What the condition adds, of shape (N, hidden, H, W).

        Returns:
            Two of shape (N, C / 2, H, W).
        """
        h = F.conv2d(kept, self.first.weight, padding=1).add_(hidden).relu_()
        h = self.middle(h).relu_()
        log_scale, shift = _conv_to_few(h, self.last.weight, self.last.bias).chunk(2, 1)
        return bounded_scale(log_scale, self.bound), shift

    def encode(self, x: Tensor, given: StepGiven) -> tuple[Tensor, Tensor]:
        if given.scale is not None:
            x = torch.addcmul(given.shift, x, given.scale)
        kept, changed = x[:, : self.half], x[:, self.half :]
        log_scale, shift = self.coupling(kept, given.hidden)
        y = torch.cat([kept, torch.addcmul(shift, changed, log_scale.exp())], 1)
        return y, total(log_scale) + given.log_det

    def decode(self, y: Tensor, given: StepGiven) -> Tensor:
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
    ) -> tuple[Tensor, Tensor]:
        """Gradients through ``encode`` and ``prepare`` from the output alone.

        Args:
            y: The output, (N, C, H, W).
            features: Of the condition, (N, features, H, W), or None.
            grad_y: Of the output, (N, C, H, W).
            grad_log_det: Of the log-determinant, (N, 1, 1, 1).
            sums: Those of the features and the parameters are added to it.

        Returns:
            The input and its gradient, (N, C, H, W) each.
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
        assert given.shift is not None and self.from_features is not None
        assert self.injector is not None
        scale = given.scale.detach()
        grad_shift = grad_x
        x, grad_x = (x - given.shift.detach()) / scale, grad_x * scale
        parameters = [features, *self.from_features.parameters(), *self.injector.parameters()]
        sums.add(
            (given.hidden, given.log_scale, given.shift),
            (grad_hidden, grad_x * x + grad_log_det, grad_shift),
            parameters,
        )
        return x, grad_x


class Split(nn.Module):
    """Half of the channels become latents.

    They are standardised under a Gaussian predicted from the other half and features.
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
        return rest, (latent - mean) * (-log_deviation).exp(), -total(log_deviation)

    def decode(self, rest: Tensor, latent: Tensor, given: Tensor | None) -> Tensor:
        mean, log_deviation = self._prior(rest, given)
        return torch.cat([rest, torch.addcmul(mean, latent, log_deviation.exp())], 1)

    def _prior(self, rest: Tensor, given: Tensor | None) -> tuple[Tensor, Tensor]:
        prior = self.prior(rest) if given is None else self.prior(rest) + given
        mean, log_deviation = prior.chunk(2, 1)
        return mean, bounded_scale(log_deviation, self.bound)


class FeaturePyramid(nn.Module):
    """U-Net on the squeezed condition; gives the features of its way up, coarse and fine.

    They are at 1/2, 1/4, ... of the size.
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


class Chain(torch.autograd.Function):
    """The flow steps of a level, keeping only their last output for backward."""

    @staticmethod
    def forward(
        ctx: Any,
        level: Level,
        x: Tensor,
        features: Tensor | None,
        weights: Tensor,
        offsets: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor | float]:
        y, log_det = run(
            level.steps, x, weights, offsets, (step.prepare(features) for step in level.steps)
        )
        ctx.steps = level.steps
        ctx.save_for_backward(y, features, weights, offsets, *parameters)
        return y, log_det

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_log_det: Tensor) -> tuple[Tensor | None, ...]:
        y, features, weights, offsets, *parameters = ctx.saved_tensors
        if features is not None:
            features = features.detach().requires_grad_(ctx.needs_input_grad[2])
        inverses = inverse_weights(weights)
        grad_log_det = grad_log_det.to(y.dtype)[:, None, None, None]
        grad_weights, grad_offsets = torch.empty_like(weights), torch.empty_like(offsets)
        sums = _Gradients([features, *parameters])
        for n in reversed(range(len(ctx.steps))):
            y, grad_y = ctx.steps[n].backward(y, features, grad_y, grad_log_det, sums)
            y = mix(y - offsets[n][:, None, None], inverses[n])
            grad_weights[n] = torch.einsum("nchw,ndhw->cd", grad_y, y)
            grad_offsets[n] = grad_y.sum((0, 2, 3))
            grad_y = mix(grad_y, weights[n].T)
        grad_features, *grad_parameters = sums.found
        return None, grad_y, grad_features, grad_weights, grad_offsets, *grad_parameters


class _Gradients:
    """Sums of gradients, allocated beforehand.

    Small blocks kept between large ones that go would fragment the memory.
    """

    def __init__(self, tensors: list[Tensor | None]):
        self.found = [
            torch.zeros_like(t) if t is not None and t.requires_grad else None for t in tensors
        ]
        self._by_tensor = {
            id(t): found for t, found in zip(tensors, self.found) if found is not None
        }

    def add(self, outputs, grads, tensors, others=()) -> tuple[Tensor, ...]:
        """Back-propagate and add up for those of the tensors that are summed.

        Gives the gradients of the others.
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


def run(
    steps: Iterable[FlowStep],
    x: Tensor,
    weights: Tensor,
    offsets: Tensor,
    given: Iterable[StepGiven],
) -> tuple[Tensor, Tensor | float]:
    """Affine map and flow step, one after the other.

    Args:
        steps: The flow steps.
        x: (N, C, H, W).
        weights: Of the affine maps, (steps, C, C).
        offsets: Of the affine maps, (steps, C).
        given: What each step has computed of the condition.

    Returns:
        The output (N, C, H, W), and the log-determinant (N, 1, 1, 1) without the affine maps; 0
        without any step.
    """
    log_det = 0
    for step, weight, offset, part in zip(steps, weights, offsets, given):
        x, more = step.encode(mix(x, weight, offset), part)
        log_det = log_det + more
    return x, log_det


def mix(x: Tensor, weight: Tensor, offset: Tensor | None = None) -> Tensor:
    """The same affine map of the channels at every pixel.

    Args:
        x: Of shape (N, C, H, W).
        weight: Of shape (C, C).
        offset: Of shape (C,), or None.
    """
    return F.conv2d(x, weight[:, :, None, None], offset)


def _conv_to_few(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """3 x 3 convolution with zero padding.

    On a CPU without gradients as a matrix product and eight shifted sums.

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


def inverse_weights(weights: Tensor) -> Tensor:
    return torch.linalg.inv(_double(weights)).to(weights)


def bounded_scale(log_scale: Tensor, bound: float) -> Tensor:
    return bound * torch.tanh(log_scale / bound)


def total(log_scale: Tensor) -> Tensor:
    """(N,) sum over channels and pixels, in float64 where the device has it."""
    return log_scale.sum(
        (1, 2, 3), dtype=torch.float32 if log_scale.device.type == "mps" else torch.float64
    )


def _double(x: Tensor) -> Tensor:
    return x.cpu().double() if x.device.type == "mps" else x.double()


def pixels(x: Tensor) -> int:
    return x.shape[2] * x.shape[3]


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
