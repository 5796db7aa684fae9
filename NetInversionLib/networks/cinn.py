"""Conditional invertible network t(.|z): latents of an autoencoder to normal noise and back.

They are given a layer's activations z.

Blocks of ActNorm, two affine couplings (each half of the channels scales and shifts the other) and
a fixed shuffle. A shallow network H embeds z in h, and every coupling sees h beside its half. What
comes of h alone is the same for all samples of one condition: its part of each coupling's first
layer is computed once (``CINN.prepared``).

Latents are vectors, or maps: then the couplings are convolutions and h is a map of the same size.

Sources: Dinh, Sohl-Dickstein & Bengio, arXiv:1605.08803 (coupling); Kingma & Dhariwal,
    arXiv:1807.03039 (ActNorm); Rombach, Esser & Ommer, ECCV 2020, arXiv:2008.01777 (invariances by
    a conditional flow on the latents of an autoencoder, H); Eulig, Ommer & Kachelriess, Med. Phys.
    2025;52:188, doi:10.1002/mp.17413 (the published CT networks, which ``from_published`` reads).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .cinn_blocks import MAX_WIDTH, ActNorm, Embedder, Subnet, sum_of_items, sum_type
from .registry import register

# (least, most): refused beyond these, so that a hostile model file cannot ask for all the memory
# there is.
RANGES = {
    "channels": (2, 1024),
    "condition_channels": (1, 4096),
    "condition_size": (1, 4096),
    "blocks": (1, 64),
    "hidden": (1, 4096),
    "depth": (0, 8),
    "features": (1, 2048),
    "downs": (0, 8),
    "embedder_width": (1, 256),
    "latent_size": (1, 256),
}
MAX_PARAMETERS = 1_000_000_000
MAX_FINAL_KERNEL = 64


@register("cinn")
class CINN(nn.Module):
    """Invertible map from latents, given a condition, to noise that training makes standard normal.

    Args:
        channels: Of the latents; even.
        condition_channels: Of the layer's activations z.
        condition_size: Height and width of z in training; other sizes are averaged to what H's last
            layer expects.
        blocks: 4 as in the invariances paper on CT, 12 or 20 as published.
        hidden, depth: Channels inside the couplings' networks, and how many layers between first
            and last.
        features: Channels of h = H(z).
        downs: Strided convolutions in H; ``condition_size`` is at least ``2 ** downs``.
        embedder_width: Channels of H's first convolution; doubled by each further one, up to 1024.
        embedder_norm: "actnorm", or "none".
        spatial: The latents are maps (N, channels, h, w) and not vectors.
        latent_size: Height and width of the latents in training; only for maps.
        negative_slope: What negative values are multiplied by in each block, after its ActNorm: 1
            is nothing, 0.9 the published CT networks (whose own log-determinant leaves it out; here
            it is counted).
        max_log_scale: Bound of the couplings' log-scales.

    Raises:
        ValueError: For arguments out of range.
    """

    def __init__(
        self,
        channels: int = 256,
        condition_channels: int = 1,
        condition_size: int = 128,
        blocks: int = 4,
        hidden: int = 1024,
        depth: int = 2,
        features: int = 128,
        downs: int = 4,
        embedder_width: int = 64,
        embedder_norm: str = "actnorm",
        spatial: bool = False,
        latent_size: int = 8,
        negative_slope: float = 1.0,
        max_log_scale: float = 1.0,
    ):
        super().__init__()
        _check_arguments(locals())
        self.channels, self.features, self.spatial = channels, features, spatial
        self.embedder = Embedder(
            condition_channels,
            condition_size,
            downs,
            embedder_width,
            features,
            embedder_norm,
            latent_size if spatial else None,
        )
        self.blocks = nn.ModuleList(
            _Block(channels, features, hidden, depth, spatial, negative_slope, max_log_scale)
            for _ in range(blocks)
        )
        self.register_buffer("initialised", torch.tensor(False))

    def embed(self, z: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """h = H(z). The first batch in training mode sets H's ActNorms.

        Args:
            z: Of shape (N, condition_channels, H, W), or (N, condition_channels).
            size: Of the latents, where they are maps of another size than ``latent_size``.

        Returns:
            Of shape (N, features); for maps (N, features, h, w).
        """
        return self.embedder(z, size)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Latents to noise. The first batch in training mode sets every ActNorm.

        Args:
            x: (N, channels), (N, channels, 1, 1), or for maps (N, channels, h, w).
            h: From ``embed``: one for each item of x, one for all, or one for every K in turn (N =
                K times their number).

        Returns:
            v of the same shape, and (N,) log |det dv/dx|, summed in float64.
        """
        if self.training and not self.initialised:
            self.initialise(x, h)
        return self._prepared(h)(x)

    def inverse(self, v: Tensor, h: Tensor) -> Tensor:
        """Noise to latents.

        Args:
            v: Noise, (N, channels), or (N, channels, h, w) for latents that are maps.
            h: Features of the condition, from ``embed``.

        Returns:
            Latents of the shape of v.
        """
        return self._prepared(h).inverse(v)

    def log_prob(self, x: Tensor, h: Tensor) -> Tensor:
        """Density of latents given the condition.

        Args:
            x: Latents of shape (N, channels) or (N, channels, h, w).
            h: Features of the condition, from ``embed``.

        Returns:
            Natural logarithm of the density of shape (N,), float64.
        """
        return _log_prob(*self(x, h))

    def sample(
        self,
        h: Tensor,
        count: int = 1,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """``count`` latents for each condition, those of the first condition first.

        See ``PreparedCINN.sample``.

        Args:
            h: Features of the conditions, (N, features), or (N, features, h, w) for maps.
            count: Latents for each condition, at least 1.
            temperature: Standard deviation of the noise.
            generator: Random numbers, on the CPU.

        Returns:
            Latents of shape (N * count, channels) or (N * count, channels, h, w).
        """
        return self.prepared(h).sample(count, temperature, generator)

    def prepared(self, h: Tensor) -> PreparedCINN:
        """The network under given conditions, with everything computed that depends on them alone.

        It is a picture of the weights as they are now; gradients reach x and v, but neither weights
        nor h.

        Args:
            h: Features of the conditions, of shape (N, features), or (N, features, h, w) for maps.
        """
        with torch.no_grad():
            return self._prepared(h)

    @torch.no_grad()
    def initialise(self, x: Tensor, h: Tensor) -> None:
        """Set every block's ActNorm so that its output for this batch has mean 0 and deviation 1.

        Args:
            x: Latents of shape (N, channels) or (N, channels, h, w).
            h: Features of the condition, from ``embed``.
        """
        prepared = self._prepared(h)
        x, _ = prepared.take(x)
        for block, given in zip(self.blocks, prepared.given):
            block.norm.initialise(x)
            x, _ = block.encode(x, given)
        self.initialised.fill_(True)

    def _prepared(self, h: Tensor) -> PreparedCINN:
        return PreparedCINN(self, self._given(h), tuple(h.shape))

    def _given(self, h: Tensor) -> list[_Given]:
        if not self.spatial:
            h = h.flatten(1)
        if h.ndim != (4 if self.spatial else 2) or h.shape[1] != self.features:
            raise ValueError(
                f"a condition comes from embed, with {self.features} features; this one's shape is"
                f" {tuple(h.shape)}"
            )
        return [block.prepare(h) for block in self.blocks]

    def _as_inside(self, x: Tensor) -> tuple[Tensor, torch.Size]:
        """x as the blocks take it, and its own shape."""
        shape = x.shape
        if not self.spatial and x.ndim == 4 and shape[2:] == (1, 1):
            x = x.flatten(1)
        if x.ndim != (4 if self.spatial else 2) or x.shape[1] != self.channels:
            wanted = (
                f"(N, {self.channels}, h, w)"
                if self.spatial
                else f"(N, {self.channels}) or (N, {self.channels}, 1, 1)"
            )
            raise ValueError(f"latents must have the shape {wanted}, not {tuple(shape)}")
        return x, shape


class PreparedCINN:
    """The network under given conditions; see ``CINN.prepared``.

    K times as many latents as conditions: K in turn for each.
    """

    def __init__(self, flow: CINN, given: list[_Given], condition_shape: tuple[int, ...]):
        self.given = given
        self._flow, self._condition_shape = flow, condition_shape

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As ``CINN.forward``."""
        x, shape = self.take(x)
        log_det = torch.zeros(len(x), dtype=sum_type(x), device=x.device)
        for block, given in zip(self._flow.blocks, self.given):
            x, more = block.encode(x, given)
            log_det = log_det + more
        return x.view(shape), log_det

    def inverse(self, v: Tensor) -> Tensor:
        """Noise (N, channels, ...) to latents of the same shape; see ``CINN.inverse``."""
        v, shape = self.take(v)
        for block, given in zip(reversed(self._flow.blocks), reversed(self.given)):
            v = block.decode(v, given)
        return v.view(shape)

    def log_prob(self, x: Tensor) -> Tensor:
        """Density of latents; see ``CINN.log_prob``.

        Args:
            x: Latents of shape (N, channels) or (N, channels, h, w).

        Returns:
            Natural logarithm of the density, of shape (N,), float64.
        """
        return _log_prob(*self(x))

    def sample(
        self, count: int = 1, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Latents from noise of standard deviation ``temperature``.

        The generator lives on the CPU, whatever the device, so that one seed gives the same noise
        everywhere.

        Returns:
            Latents, shape (conditions * count, channels, ...).
        """
        size = self._condition_shape[2:] if self._flow.spatial else ()
        v = torch.randn(
            self._condition_shape[0] * count, self._flow.channels, *size, generator=generator
        )
        return self.inverse(temperature * v.to(self.given[0].first[0]))

    def take(self, x: Tensor) -> tuple[Tensor, torch.Size]:
        """x as the blocks take it, and its own shape.

        Raises:
            ValueError: x does not fit the network or the conditions.
        """
        x, shape = self._flow._as_inside(x)
        conditions = self._condition_shape[0]
        if len(x) % conditions:
            raise ValueError(f"{len(x)} latents do not divide among {conditions} conditions")
        if self._flow.spatial and x.shape[2:] != self._condition_shape[2:]:
            raise ValueError(
                f"latents of {tuple(x.shape[2:])} need a condition of that size, not"
                f" {self._condition_shape[2:]}: embed(z, size)"
            )
        return x, shape


class _Given(NamedTuple):
    """What a block takes from the condition.

    It holds for each coupling that of the log-scale's and that of the shift's network.
    """

    first: tuple[Tensor, Tensor]
    second: tuple[Tensor, Tensor]


class _Block(nn.Module):
    """ActNorm, perhaps a leaky activation, two couplings, shuffle."""

    def __init__(
        self,
        channels: int,
        features: int,
        hidden: int,
        depth: int,
        spatial: bool,
        slope: float,
        bound: float,
    ):
        super().__init__()
        self.slope = slope
        self.norm = ActNorm(channels)
        self.couplings = nn.ModuleList(
            _Coupling(channels // 2, features, hidden, depth, spatial, bound) for _ in range(2)
        )
        # Sorting these gives the order: whatever a model file holds, it is a permutation.
        self.register_buffer("shuffle_keys", torch.rand(channels))

    def prepare(self, h: Tensor) -> _Given:
        return _Given(*(coupling.prepare(h) for coupling in self.couplings))

    def encode(self, x: Tensor, given: _Given) -> tuple[Tensor, Tensor]:
        x, log_det = self.norm.encode(x)
        if self.slope != 1:
            log_det = log_det + math.log(self.slope) * (x < 0).flatten(1).sum(1)
            x = F.leaky_relu(x, self.slope)
        a, b = x.chunk(2, 1)
        b, more = self.couplings[0].encode(b, a, given.first)
        a, yet_more = self.couplings[1].encode(a, b, given.second)
        return torch.cat([b, a], 1)[:, self.shuffle_keys.argsort()], log_det + more + yet_more

    def decode(self, y: Tensor, given: _Given) -> Tensor:
        b, a = y[:, self.shuffle_keys.argsort().argsort()].chunk(2, 1)
        a = self.couplings[1].decode(a, b, given.second)
        b = self.couplings[0].decode(b, a, given.first)
        x = torch.cat([a, b], 1)
        return self.norm.decode(F.leaky_relu(x, 1 / self.slope) if self.slope != 1 else x)


class _Coupling(nn.Module):
    """One half of the channels times exp(s) plus t.

    Both are functions of the other half and the condition.
    """

    def __init__(
        self, half: int, features: int, hidden: int, depth: int, spatial: bool, bound: float
    ):
        super().__init__()
        self.bound = bound
        self.log_scale = Subnet(half, features, hidden, depth, spatial)
        self.shift = Subnet(half, features, hidden, depth, spatial)

    def prepare(self, h: Tensor) -> tuple[Tensor, Tensor]:
        return self.log_scale.condition(h), self.shift.condition(h)

    def encode(
        self, changed: Tensor, kept: Tensor, given: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        log_scale = self._log_scale(kept, given)
        return torch.addcmul(self.shift(kept, given[1]), changed, log_scale.exp()), sum_of_items(
            log_scale
        )

    def decode(self, changed: Tensor, kept: Tensor, given: tuple[Tensor, Tensor]) -> Tensor:
        return (changed - self.shift(kept, given[1])) * (-self._log_scale(kept, given)).exp()

    def _log_scale(self, kept: Tensor, given: tuple[Tensor, Tensor]) -> Tensor:
        return self.bound * torch.tanh(self.log_scale(kept, given[0]) / self.bound)


def _log_prob(v: Tensor, log_det: Tensor) -> Tensor:
    return log_det - 0.5 * (sum_of_items(v.square()) + v[0].numel() * math.log(2 * math.pi))


def _check_arguments(given: dict) -> None:
    for name, (least, most) in RANGES.items():
        if type(given[name]) is not int or not least <= given[name] <= most:
            raise ValueError(
                f"{name} must be a whole number from {least} to {most}, not {given[name]!r}"
            )
    if given["channels"] % 2:
        raise ValueError(
            f"channels must be even, not {given['channels']}: each half scales and shifts the other"
        )
    final = given["condition_size"] >> given["downs"]
    if not 1 <= final or (final > MAX_FINAL_KERNEL and not given["spatial"]):
        raise ValueError(
            f"condition_size must be 1 to {MAX_FINAL_KERNEL} times 2 ** downs"
            f" ({2 ** given['downs']}), not {given['condition_size']}"
        )
    if given["embedder_norm"] not in ("actnorm", "none"):
        raise ValueError(
            f"embedder_norm must be 'actnorm' or 'none', not {given['embedder_norm']!r}"
        )
    if type(given["spatial"]) is not bool:
        raise ValueError(f"spatial must be true or false, not {given['spatial']!r}")
    for name, most in (("negative_slope", 1), ("max_log_scale", 10)):
        if type(given[name]) not in (int, float) or not 0.01 <= given[name] <= most:
            raise ValueError(f"{name} must be a number from 0.01 to {most}, not {given[name]!r}")
    _check_total(given, final)


def _check_total(given: dict, final: int) -> None:
    """Numbers that are all in range can still ask for too much together."""
    hidden, area = given["hidden"], 9 if given["spatial"] else 1
    subnet = hidden * (area * (given["channels"] + given["features"]) + given["depth"] * hidden)
    last = (
        min(given["embedder_width"] << given["downs"] - 1, MAX_WIDTH)
        if given["downs"]
        else given["condition_channels"]
    )
    kernel = 9 if given["spatial"] else final**2
    total = 4 * given["blocks"] * subnet + last * given["features"] * kernel
    if total > MAX_PARAMETERS:
        raise ValueError(
            f"this network would have {total / 1e9:.1f} thousand million weights; at most 1 is"
            " allowed"
        )
