"""Blocks of the conditional invertible network: subnetworks, ActNorm, embedding of a condition."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import processes
from .flow_steps import CONSTANT, SMALLEST_DEVIATION

MAX_WIDTH = 1024


class Subnet(nn.Module):
    """Layers with LeakyReLUs between them.

    The first sees the latents' half and, through ``condition``, h.

    For maps the first and the last are 3 x 3 convolutions and those between them 1 x 1.
    """

    def __init__(self, half: int, features: int, hidden: int, depth: int, spatial: bool):
        super().__init__()
        self.first = _layer(half, hidden, 3 if spatial else 0, bias=False)
        self.condition = _layer(features, hidden, 3 if spatial else 0)
        self.middle = nn.ModuleList(
            _layer(hidden, hidden, 1 if spatial else 0) for _ in range(depth)
        )
        self.last = _layer(hidden, half, 3 if spatial else 0)
        seen = (half + features) * (9 if spatial else 1)
        for layer in (self.first, self.condition):
            nn.init.normal_(layer.weight, std=(2 / seen) ** 0.5)
        for layer in self.middle:
            nn.init.kaiming_normal_(layer.weight)
        for layer in (self.condition, *self.middle):
            nn.init.zeros_(layer.bias)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        x = F.leaky_relu(self._first(x, given), inplace=True)
        for layer in self.middle:
            x = F.leaky_relu(layer(x), inplace=True)
        return self.last(x)

    def _first(self, x: Tensor, given: Tensor) -> Tensor:
        one_each = len(given) in (1, len(x))
        if one_each and x.ndim == 2:
            return torch.addmm(given, x, self.first.weight.T)
        x = self.first(x)
        if one_each:
            return x + given
        return (x.unflatten(0, (len(given), -1)) + given[:, None]).flatten(0, 1)


class ActNorm(nn.Module):
    """y = sign exp(log_scale) (x + bias) in each channel; the scale never is zero."""

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.register_buffer("sign", torch.ones(channels))  # published weights have negative scales

    def forward(self, x: Tensor) -> Tensor:
        return self.encode(x)[0]

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and its log-determinant (the same for every item)."""
        scale = self.sign * self.log_scale.exp()
        log_det = x[0, 0].numel() * self.log_scale.sum(dtype=sum_type(x))
        return torch.addcmul(_column(scale * self.bias, x), x, _column(scale, x)), log_det

    def decode(self, y: Tensor) -> Tensor:
        return torch.addcmul(
            _column(-self.bias, y), y, _column(self.sign * (-self.log_scale).exp(), y)
        )

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Mean 0 and deviation 1 for x (N, C, ...) of all processes.

        A channel that hardly varies keeps its scale.
        """
        values = x.transpose(0, 1).flatten(1).to(sum_type(x))
        mean = processes.total(values.mean(1)) / processes.count()
        deviation = (
            processes.total((values - mean[:, None]).square().mean(1)) / processes.count()
        ).sqrt()
        scale = torch.where(deviation < CONSTANT, 1.0, deviation.clamp_min(SMALLEST_DEVIATION))
        self.bias.copy_(-mean)
        self.log_scale.copy_(-scale.log())
        self.sign.fill_(1)


class Embedder(nn.Module):
    """H: strided 4 x 4 convolutions with ActNorm and LeakyReLU.

    One more convolution gives a vector, where it is as large as the map, or a map.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        downs: int,
        width: int,
        features: int,
        norm: str,
        latent_size: int | None,
    ):
        super().__init__()
        self.channels, self.latent_size, self.final_size, self.smallest = (
            channels,
            latent_size,
            size >> downs,
            2**downs,
        )
        widths = [channels, *(min(width << n, MAX_WIDTH) for n in range(downs))]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(i, o, 4, 2, 1, bias=norm == "none") for i, o in zip(widths, widths[1:])
        )
        self.norms = nn.ModuleList(ActNorm(o) for o in widths[1:]) if norm == "actnorm" else None
        kernel, padding = (self.final_size, 0) if latent_size is None else (3, 1)
        self.last = nn.Conv2d(widths[-1], features, kernel, padding=padding)
        self.register_buffer("initialised", torch.tensor(False))

    def forward(self, z: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        z = z[:, :, None, None] if z.ndim == 2 else z
        if z.ndim != 4 or z.shape[1] != self.channels or min(z.shape[2:]) < self.smallest:
            raise ValueError(
                f"the condition must have {self.channels} channels and at least {self.smallest} x"
                f" {self.smallest} voxels; its shape is {tuple(z.shape)}"
            )
        first_time = self.norms is not None and self.training and not self.initialised
        for n, convolution in enumerate(self.convolutions):
            z = convolution(z)
            if self.norms is not None:
                if first_time:
                    self.norms[n].initialise(z)
                z = self.norms[n](z)
            z = F.leaky_relu(z, 0.2)
        if first_time:
            self.initialised.fill_(True)
        if self.latent_size is None:
            return self.last(_pooled(z, (self.final_size, self.final_size))).flatten(1)
        return self.last(_pooled(z, size or (self.latent_size, self.latent_size)))


# Small things -------------------------------------------------------------------------------------


def _layer(inputs: int, outputs: int, kernel: int, bias: bool = True) -> nn.Module:
    """A linear layer (kernel 0) or a convolution that keeps the size."""
    return (
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
        if kernel
        else nn.Linear(inputs, outputs, bias)
    )


def _pooled(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if tuple(x.shape[2:]) == tuple(size) else F.adaptive_avg_pool2d(x, size)


def _column(parameter: Tensor, x: Tensor) -> Tensor:
    """One value per channel, shaped to broadcast over x (N, C, ...)."""
    return parameter.view(-1, *[1] * (x.ndim - 2))


def sum_of_items(x: Tensor) -> Tensor:
    """Sum over all but the first axis, of shape (N,), in float64 where the device has it."""
    return x.flatten(1).sum(1, dtype=sum_type(x))


def sum_type(x: Tensor) -> torch.dtype:
    return torch.float32 if x.device.type == "mps" else torch.float64
