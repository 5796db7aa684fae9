"""Conditional invertible network t(.|z): latents of an autoencoder, given a layer's activations z,
to normal noise and back.

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
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import processes, register
from .flow import CONSTANT, SMALLEST_DEVIATION

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
MAX_WIDTH = 1024
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
        self.embedder = _Embedder(
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
            z: (N, condition_channels, H, W), or (N, condition_channels).
            size: Of the latents, where they are maps of another size than ``latent_size``.

        Returns:
            (N, features); for maps (N, features, h, w).
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
            x: Latents, (N, channels) or (N, channels, h, w).
            h: Features of the condition, from ``embed``.

        Returns:
            Natural logarithm of the density, (N,), float64.
        """
        return _log_prob(*self(x, h))

    def sample(
        self,
        h: Tensor,
        count: int = 1,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """``count`` latents for each condition, those of the first condition first; see
        ``Prepared.sample``.

        Args:
            h: Features of the conditions, (N, features), or (N, features, h, w) for maps.
            count: Latents for each condition, at least 1.
            temperature: Standard deviation of the noise.
            generator: Random numbers, on the CPU.

        Returns:
            Latents, (N * count, channels) or (N * count, channels, h, w).
        """
        return self.prepared(h).sample(count, temperature, generator)

    def prepared(self, h: Tensor) -> Prepared:
        """The network under given conditions, with everything computed that depends on them alone.

        It is a picture of the weights as they are now; gradients reach x and v, but neither weights
        nor h.

        Args:
            h: Features of the conditions, (N, features), or (N, features, h, w) for maps.
        """
        with torch.no_grad():
            return self._prepared(h)

    @torch.no_grad()
    def initialise(self, x: Tensor, h: Tensor) -> None:
        """Set every block's ActNorm so that its output for this batch has mean 0 and deviation 1.

        Args:
            x: Latents, (N, channels) or (N, channels, h, w).
            h: Features of the condition, from ``embed``.
        """
        prepared = self._prepared(h)
        x, _ = prepared.take(x)
        for block, given in zip(self.blocks, prepared.given):
            block.norm.initialise(x)
            x, _ = block.encode(x, given)
        self.initialised.fill_(True)

    def _prepared(self, h: Tensor) -> Prepared:
        return Prepared(self, self._given(h), tuple(h.shape))

    def _given(self, h: Tensor) -> list[_Given]:
        if not self.spatial:
            h = h.flatten(1)
        if h.ndim != (4 if self.spatial else 2) or h.shape[1] != self.features:
            raise ValueError(
                f"a condition comes from embed, with {self.features} features; this one's shape is {tuple(h.shape)}"
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


class Prepared:
    """The network under given conditions; see ``CINN.prepared``. K times as many latents as
    conditions: K in turn for each.
    """

    def __init__(self, flow: CINN, given: list[_Given], condition_shape: tuple[int, ...]):
        self.given = given
        self._flow, self._condition_shape = flow, condition_shape

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As ``CINN.forward``."""
        x, shape = self.take(x)
        log_det = torch.zeros(len(x), dtype=_sum_type(x), device=x.device)
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
        """Density of latents (N, channels, ...), (N,) float64; see ``CINN.log_prob``."""
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
                f"latents of {tuple(x.shape[2:])} need a condition of that size, not {self._condition_shape[2:]}: "
                "embed(z, size)"
            )
        return x, shape


class _Given(NamedTuple):
    """What a block takes from the condition: for each coupling that of the log-scale's and that of
    the shift's network.
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
    """One half of the channels times exp(s) plus t, both functions of the other half and the
    condition.
    """

    def __init__(
        self, half: int, features: int, hidden: int, depth: int, spatial: bool, bound: float
    ):
        super().__init__()
        self.bound = bound
        self.log_scale = _Subnet(half, features, hidden, depth, spatial)
        self.shift = _Subnet(half, features, hidden, depth, spatial)

    def prepare(self, h: Tensor) -> tuple[Tensor, Tensor]:
        return self.log_scale.condition(h), self.shift.condition(h)

    def encode(
        self, changed: Tensor, kept: Tensor, given: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        log_scale = self._log_scale(kept, given)
        return torch.addcmul(self.shift(kept, given[1]), changed, log_scale.exp()), _total(
            log_scale
        )

    def decode(self, changed: Tensor, kept: Tensor, given: tuple[Tensor, Tensor]) -> Tensor:
        return (changed - self.shift(kept, given[1])) * (-self._log_scale(kept, given)).exp()

    def _log_scale(self, kept: Tensor, given: tuple[Tensor, Tensor]) -> Tensor:
        return self.bound * torch.tanh(self.log_scale(kept, given[0]) / self.bound)


class _Subnet(nn.Module):
    """Layers with LeakyReLUs between them; the first sees the latents' half and, through
    ``condition``, h.

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
        log_det = x[0, 0].numel() * self.log_scale.sum(dtype=_sum_type(x))
        return torch.addcmul(_column(scale * self.bias, x), x, _column(scale, x)), log_det

    def decode(self, y: Tensor) -> Tensor:
        return torch.addcmul(
            _column(-self.bias, y), y, _column(self.sign * (-self.log_scale).exp(), y)
        )

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Mean 0 and deviation 1 for x (N, C, ...) of all processes; a channel that hardly varies
        keeps its scale.
        """
        values = x.transpose(0, 1).flatten(1).to(_sum_type(x))
        mean = processes.total(values.mean(1)) / processes.count()
        deviation = (
            processes.total((values - mean[:, None]).square().mean(1)) / processes.count()
        ).sqrt()
        scale = torch.where(deviation < CONSTANT, 1.0, deviation.clamp_min(SMALLEST_DEVIATION))
        self.bias.copy_(-mean)
        self.log_scale.copy_(-scale.log())
        self.sign.fill_(1)


class _Embedder(nn.Module):
    """H: strided 4 x 4 convolutions with ActNorm and LeakyReLU; to a vector by one as large as the
    map, or to a map.
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
                f"the condition must have {self.channels} channels and at least {self.smallest} x {self.smallest} "
                f"voxels; its shape is {tuple(z.shape)}"
            )
        first_time = self.norms is not None and self.training and not self.initialised
        for n, convolution in enumerate(self.convolutions):
            z = convolution(z)
            if first_time:
                self.norms[n].initialise(z)
            z = F.leaky_relu(self.norms[n](z) if self.norms is not None else z, 0.2)
        if first_time:
            self.initialised.fill_(True)
        if self.latent_size is None:
            return self.last(_pooled(z, (self.final_size, self.final_size))).flatten(1)
        return self.last(_pooled(z, size or (self.latent_size, self.latent_size)))


# Published checkpoints ----------------------------------------------------------------------------


def from_published(state: Mapping[str, Tensor]) -> CINN:
    """The network of a published checkpoint (class ConditionalTransformer of ldct-invariances), in
    eval mode.

    Everything is read off the tensors, the last activation's slope of 0.9 excepted. The
    log-determinant is the true one.

    Args:
        state: Its ``model_state_dict``.

    Raises:
        ValueError: It is not one of these.
    """
    try:
        arguments = published_arguments(state)
        with torch.device("meta"):
            flow = CINN(**arguments)
        flow.load_state_dict(_converted(state, arguments), assign=True)
    except (KeyError, RuntimeError, IndexError) as error:
        raise ValueError(
            f"these are not the weights of a published ConditionalTransformer: {error}"
        ) from error
    return flow.eval()


def published_arguments(state: Mapping[str, Tensor]) -> dict:
    """What ``CINN`` is built with for a published checkpoint."""
    first = state["flow.sub_layers.0.coupling.s.0.main.0.weight"]
    downs = _count(state, "embedder.feature_layers.{}.sub_layers.0.weight")
    last = state["embedder.dense_encode.sub_layers.0.weight"]
    entry = (
        state["embedder.feature_layers.0.sub_layers.0.weight"] if downs else last.transpose(0, 1)
    )
    return {
        "channels": state["flow.sub_layers.0.norm_layer.loc"].shape[1],
        "condition_channels": entry.shape[1],
        "condition_size": last.shape[-1] << downs,
        "blocks": _count(state, "flow.sub_layers.{}.norm_layer.loc"),
        "hidden": first.shape[0],
        "depth": _count(state, "flow.sub_layers.0.coupling.s.0.main.{}.weight", step=2) - 2,
        "features": last.shape[0],
        "downs": downs,
        "embedder_width": entry.shape[0] if downs else 64,
        "negative_slope": 0.9,
    }


def _converted(state: Mapping[str, Tensor], arguments: dict) -> dict[str, Tensor]:
    """Our names and shapes: the first layers cut into the latents' and the condition's part, scales
    as logarithms.
    """
    half, yes = arguments["channels"] // 2, torch.tensor(True)
    new = {"initialised": yes, "embedder.initialised": yes.clone()}
    for n in range(arguments["blocks"]):
        ours, theirs = f"blocks.{n}.", f"flow.sub_layers.{n}."
        new |= converted_actnorm(state, theirs + "norm_layer.", ours + "norm.")
        new[ours + "shuffle_keys"] = state[theirs + "shuffle.backward_shuffle_idx"].float()
        for i in range(2):
            for name, letter in (("log_scale", "s"), ("shift", "t")):
                a, b = f"{ours}couplings.{i}.{name}.", f"{theirs}coupling.{letter}.{i}.main."
                weight = state[b + "0.weight"]
                new |= {
                    a + "first.weight": weight[:, :half].clone(),
                    a + "condition.weight": weight[:, half:].clone(),
                    a + "condition.bias": state[b + "0.bias"],
                }
                names = [f"middle.{k}" for k in range(arguments["depth"])] + ["last"]
                for k, layer in enumerate(names, 1):
                    new |= {
                        f"{a}{layer}.{part}": state[f"{b}{2 * k}.{part}"]
                        for part in ("weight", "bias")
                    }
    for n in range(arguments["downs"]):
        theirs = f"embedder.feature_layers.{n}.sub_layers."
        new[f"embedder.convolutions.{n}.weight"] = state[theirs + "0.weight"]
        new |= converted_actnorm(state, theirs + "1.", f"embedder.norms.{n}.")
    return new | {
        f"embedder.last.{part}": state[f"embedder.dense_encode.sub_layers.0.{part}"]
        for part in ("weight", "bias")
    }


def converted_actnorm(state: Mapping[str, Tensor], theirs: str, ours: str) -> dict[str, Tensor]:
    """A published ActNorm's weights by the names of ``ActNorm``.

    Args:
        state: A published ``state_dict``; its tensors have the shape (1, C, 1, 1).
        theirs: Prefix of the published names.
        ours: Prefix of the names here.

    Raises:
        ValueError: It never saw data.
    """
    if not state[theirs + "initialized"].item():
        raise ValueError(f"{theirs}initialized is 0: this network was never trained")
    scale = state[theirs + "scale"].flatten()
    return {
        ours + "bias": state[theirs + "loc"].flatten(),
        ours + "log_scale": scale.abs().log(),
        ours + "sign": scale.sign(),
    }


def _count(state: Mapping[str, Tensor], pattern: str, step: int = 1) -> int:
    n = 0
    while pattern.format(n * step) in state:
        n += 1
    return n


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


def _total(x: Tensor) -> Tensor:
    """(N,) sum over all but the first axis, in float64 where the device has it."""
    return x.flatten(1).sum(1, dtype=_sum_type(x))


def _sum_type(x: Tensor) -> torch.dtype:
    return torch.float32 if x.device.type == "mps" else torch.float64


def _log_prob(v: Tensor, log_det: Tensor) -> Tensor:
    return log_det - 0.5 * (_total(v.square()) + v[0].numel() * math.log(2 * math.pi))


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
            f"condition_size must be 1 to {MAX_FINAL_KERNEL} times 2 ** downs ({2 ** given['downs']}), not "
            f"{given['condition_size']}"
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
            f"this network would have {total / 1e9:.1f} thousand million weights; at most 1 is allowed"
        )
