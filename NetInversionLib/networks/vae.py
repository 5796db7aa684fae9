"""Variational autoencoder g = D(E(x)) of CT patches, and the critic that it is trained against.

E is a ResNet, D a BigGAN generator that is told the latent where BigGAN is told a class. Both may
also see a condition, the denoised image. Latents are vectors, or maps, which blur less and fit
images of any size.

Nearest-neighbour upsampling followed by a 3 x 3 convolution is computed as one transposed 4 x 4
convolution at the smaller size: the same numbers for 4 / 9 of the multiplications, which are two
thirds of the decoder's. It is not worth it for the smallest maps.

Sources: Kingma & Welling, arXiv:1312.6114; He, Zhang, Ren & Sun, arXiv:1512.03385 (ResNet); Brock,
    Donahue & Simonyan, arXiv:1809.11096 (BigGAN-128); Miyato et al., arXiv:1802.05957 (spectral
    norm); Gulrajani et al., arXiv:1704.00028 (critic); Rombach, Esser & Ommer, arXiv:2008.01777
    (the class from the latent); Eulig, Ommer & Kachelriess, Med. Phys. 2025;52:188,
    doi:10.1002/mp.17413 (the published CT networks, which ``from_published`` reads).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .cinn_blocks import ActNorm
from .registry import register
from .vae_blocks import (
    Attention,
    BatchNorm,
    MapBlock,
    Spectral,
    SpectralConv,
    SpectralLinear,
    VectorBlock,
    beside,
)

# Bottleneck blocks in each stage of the encoder.
ENCODERS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "small": (1, 1, 1, 1)}
# (least, most): refused beyond these, so that a hostile model file cannot ask for all the memory
# there is.
RANGES = {
    "latents": (1, 1024),
    "image_channels": (1, 16),
    "condition_channels": (0, 16),
    "encoder_width": (1, 128),
    "decoder_width": (1, 192),
    "size": (8, 1024),
    "blocks": (1, 7),
    "code": (0, 128),
    "classes": (0, 2000),
    "class_hidden": (1, 4096),
}
MAX_PARAMETERS = 1_000_000_000
# Bounds of the logarithm of the posterior's variance.
LOG_VARIANCE = (-30.0, 10.0)
EMBEDDING = 128


@register("ct_vae")
class VAE(nn.Module):
    """Autoencoder of patches, in normalised units.

    Args:
        latents: Channels of the latents.
        image_channels: Of the images coded.
        condition_channels: Of the denoised image that encoder and decoder see too; 0 without.
        encoder: "resnet50", "resnet101" or "small".
        encoder_width: Channels of its first stage, before the bottleneck's factor of four.
        size: Height and width of the patches where latents are vectors; a multiple of ``2 **
            blocks``.
        blocks: Of the decoder, each doubling the size. Where latents are maps (5 at most) they are
            ``2 ** blocks`` times smaller than the image.
        decoder_width: Channels of the last block; doubled by each one before it, up to 16 times.
        code: Of vector latents, so many are told to each block alone; the first layer takes the
            others.
        classes: Vector latents become that many soft classes, embedded and told to every block; 0
            embeds them as they are.
        class_hidden: Width of the network that finds the classes.
        attention: Self-attention before the last block.
        spatial: Latents are maps (N, latents, h, w); each block sees them at their own places.
            ``size``, ``code`` and ``classes`` then mean nothing.

    Raises:
        ValueError: For arguments out of range.
    """

    def __init__(
        self,
        latents: int = 256,
        image_channels: int = 1,
        condition_channels: int = 1,
        encoder: str = "resnet50",
        encoder_width: int = 64,
        size: int = 128,
        blocks: int = 5,
        decoder_width: int = 96,
        code: int = 20,
        classes: int = 1000,
        class_hidden: int = 2000,
        attention: bool = True,
        spatial: bool = False,
    ):
        super().__init__()
        _check_arguments(locals())
        self.latents, self.image_channels, self.condition_channels = (
            latents,
            image_channels,
            condition_channels,
        )
        self.spatial, self.size, self.size_multiple = spatial, size, 2**blocks
        self.encoder = _Encoder(
            image_channels + condition_channels,
            2 * latents,
            ENCODERS[encoder],
            encoder_width,
            blocks if spatial else None,
        )
        decoder = _MapDecoder if spatial else _VectorDecoder
        arguments = (
            {}
            if spatial
            else {
                "start_size": size >> blocks,
                "code": code,
                "classes": classes,
                "hidden": class_hidden,
            }
        )
        self.decoder = decoder(
            latents,
            image_channels,
            condition_channels,
            blocks,
            decoder_width,
            attention,
            **arguments,
        )

    def encode(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of the posterior.

        Args:
            x: Of shape (N, image_channels, H, W); see ``forward``.
            condition: Of shape (N, condition_channels, H, W), or None.

        Returns:
            Two tensors of shape (N, latents) each; for maps (N, latents, h, w).
        """
        size = tuple(x.shape[2:])
        fits = (
            all(n and n % self.size_multiple == 0 for n in size)
            if self.spatial
            else size == (self.size, self.size)
        )
        if x.ndim != 4 or x.shape[1] != self.image_channels or not fits:
            wanted = (
                f"sides that are multiples of {self.size_multiple}"
                if self.spatial
                else f"{self.size} x {self.size} voxels"
            )
            raise ValueError(
                f"images must have {self.image_channels} channels and {wanted}; their shape is"
                f" {tuple(x.shape)}"
            )
        self._check_condition(condition, size)
        mean, log_variance = self.encoder(beside(x, condition)).chunk(2, 1)
        log_variance = log_variance.clamp(*LOG_VARIANCE)
        return (mean, log_variance) if self.spatial else (mean.flatten(1), log_variance.flatten(1))

    def decode(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Latents to images.

        Args:
            z: Of shape (N, latents) or (N, latents, 1, 1); for maps (N, latents, h, w).
            condition: Of the size of the images; one for each of z, one for all, or one for every K
                in turn.

        Returns:
            Images of shape (N, image_channels, H, W).
        """
        if not self.spatial:
            z = z.flatten(1)
        if z.ndim != (4 if self.spatial else 2) or z.shape[1] != self.latents:
            raise ValueError(
                f"latents must have {self.latents} channels; their shape is {tuple(z.shape)}"
            )
        size = (
            tuple(n * self.size_multiple for n in z.shape[2:])
            if self.spatial
            else (self.size, self.size)
        )
        self._check_condition(condition, size)
        return self.decoder(z, condition)

    def forward(
        self, x: Tensor, condition: Tensor | None = None, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """D(E(x)), and the posterior's mean and log-variance.

        Args:
            x: (N, image_channels, H, W); ``size`` high and wide, where latents are maps any
                multiple of ``size_multiple``.
            condition: (N, condition_channels, H, W).
            noise: Standard normal, of the shape of the latents, to draw from the posterior in
                training; without it its mean is decoded.

        Returns:
            Images of the shape of x; mean and log-variance as from ``encode``.
        """
        mean, log_variance = self.encode(x, condition)
        z = mean if noise is None else mean + (log_variance / 2).exp() * noise
        return self.decode(z, condition), mean, log_variance

    @torch.no_grad()
    def fold(self) -> VAE:
        """Work out spectral norms and upsampling kernels once and for all.

        In place, in eval mode, for decoding alone.

        The outputs stay the same. Afterwards the network can be neither trained nor saved.
        """
        self.eval().requires_grad_(False)
        for module in self.modules():
            if isinstance(module, Spectral):
                module.fold()
        return self

    def _check_condition(self, condition: Tensor | None, size: tuple[int, ...]) -> None:
        wanted = (self.condition_channels, *size) if self.condition_channels else None
        found = None if condition is None else tuple(condition.shape[1:])
        if found != wanted:
            raise ValueError(
                f"this autoencoder wants a condition of (channels, height, width) {wanted}, not"
                f" {found}"
            )


def kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Divergence of the posterior from a standard normal, nats.

    Args:
        mean: (N, latents) or (N, latents, h, w).
        log_variance: Of the same shape.

    Returns:
        (N,), summed over the latents.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1)


# Encoder ------------------------------------------------------------------------------------------


class _Encoder(nn.Module):
    """ResNet of bottlenecks.

    ``downs`` halvings and maps come out; None is all five, and their mean.
    """

    def __init__(
        self, inputs: int, outputs: int, depths: tuple[int, ...], width: int, downs: int | None
    ):
        super().__init__()
        strides = [2 if downs is None or n < downs else 1 for n in range(5)]
        self.pooled = downs is None
        self.conv1 = _conv(inputs, width, 7, strides[0])
        self.bn1 = BatchNorm(width)
        self.maxpool = nn.MaxPool2d(3, strides[1], 1)
        channels = width
        for n, depth in enumerate(depths):
            stages = []
            for k in range(depth):
                stages.append(
                    _Bottleneck(channels, width << n, strides[n + 1] if n and k == 0 else 1)
                )
                channels = 4 * (width << n)
            setattr(self, f"layer{n + 1}", nn.Sequential(*stages))
        self.fc = nn.Conv2d(channels, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.bn1(self.conv1(x)).relu_())
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3), keepdim=True) if self.pooled else x)


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, width, 1), BatchNorm(width)
        self.conv2, self.bn2 = _conv(width, width, 3, stride), BatchNorm(width)
        self.conv3, self.bn3 = _conv(width, 4 * width, 1), BatchNorm(4 * width)
        same = stride == 1 and inputs == 4 * width
        self.downsample = (
            None
            if same
            else nn.Sequential(_conv(inputs, 4 * width, 1, stride), BatchNorm(4 * width))
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu_()
        y = self.bn2(self.conv2(y)).relu_()
        y = self.bn3(self.conv3(y))
        return (y + (x if self.downsample is None else self.downsample(x))).relu_()


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


# Decoder ------------------------------------------------------------------------------------------


class _Decoder(nn.Module):
    """Blocks, attention and last convolution.

    What comes first, and what the blocks are told, depends on the latents.
    """

    def __init__(
        self,
        told: list[int],
        image_channels: int,
        condition_channels: int,
        width: int,
        attention: bool,
        block: type,
    ):
        super().__init__()
        blocks = len(told)
        widths = [width * min(16, 2 ** (blocks - n)) for n in range(blocks + 1)]
        self.blocks = nn.ModuleList(
            block(i + condition_channels, o, t) for i, o, t in zip(widths, widths[1:], told)
        )
        self.attention = Attention(widths[-2]) if attention else None
        self.norm = ActNorm(width)
        self.image = nn.Conv2d(width + condition_channels, image_channels, 3, padding=1)
        self.register_buffer("initialised", torch.tensor(False))

    def run(self, x: Tensor, told: list[Tensor], condition: Tensor | None) -> Tensor:
        for n, (block, known) in enumerate(zip(self.blocks, told), 1):
            if n == len(self.blocks) and self.attention is not None:
                x = self.attention(x)
            x = block(beside(x, condition), known)
        if self.training and not self.initialised:
            self.norm.initialise(x)
            self.initialised.fill_(True)
        return self.image(beside(self.norm(x), condition))


class _VectorDecoder(_Decoder):
    """From vectors: the first layer takes the first of them, each block a code of its own.

    All of them take the embedding as well.
    """

    def __init__(
        self,
        latents: int,
        image_channels: int,
        condition_channels: int,
        blocks: int,
        width: int,
        attention: bool,
        start_size: int,
        code: int,
        classes: int,
        hidden: int,
    ):
        super().__init__(
            [code + EMBEDDING] * blocks,
            image_channels,
            condition_channels,
            width,
            attention,
            VectorBlock,
        )
        self.start_size, self.parts = start_size, [latents - blocks * code, *[code] * blocks]
        self.start = SpectralLinear(self.parts[0], start_size**2 * width * min(16, 2**blocks))
        self.classes = (
            nn.Sequential(
                nn.Linear(latents, hidden),
                nn.LeakyReLU(),
                nn.Linear(hidden, hidden),
                nn.LeakyReLU(),
                nn.Linear(hidden, hidden),
                nn.LeakyReLU(),
                nn.Linear(hidden, classes),
                nn.Softmax(1),
            )
            if classes
            else None
        )
        self.embedding = nn.Linear(classes or latents, EMBEDDING, bias=False)

    def forward(self, z: Tensor, condition: Tensor | None) -> Tensor:
        first, *codes = z.split(self.parts, 1)
        embedded = self.embedding(z if self.classes is None else self.classes(z))
        x = (
            self.start(first)
            .view(len(z), self.start_size, self.start_size, -1)
            .permute(0, 3, 1, 2)
            .contiguous()
        )
        return self.run(x, [torch.cat([code, embedded], 1) for code in codes], condition)


class _MapDecoder(_Decoder):
    """From maps: every block is told the latents where they are."""

    def __init__(
        self,
        latents: int,
        image_channels: int,
        condition_channels: int,
        blocks: int,
        width: int,
        attention: bool,
    ):
        super().__init__(
            [latents] * blocks, image_channels, condition_channels, width, attention, MapBlock
        )
        self.start = SpectralConv(latents, width * min(16, 2**blocks), 3)

    def forward(self, z: Tensor, condition: Tensor | None) -> Tensor:
        return self.run(self.start(z), [z] * len(self.blocks), condition)


# Arguments ----------------------------------------------------------------------------------------


def require_whole(name: str, value: object, least: int, most: int) -> None:
    """Check a whole number.

    Raises:
        ValueError: It is none, or outside of ``least`` to ``most``.
    """
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}, not {value!r}")


def _check_arguments(given: dict) -> None:
    for name, (least, most) in RANGES.items():
        require_whole(name, given[name], least, most)
    if given["encoder"] not in list(ENCODERS):
        raise ValueError(f"encoder must be one of {', '.join(ENCODERS)}, not {given['encoder']!r}")
    for name in ("attention", "spatial"):
        if type(given[name]) is not bool:
            raise ValueError(f"{name} must be true or false, not {given[name]!r}")
    blocks = given["blocks"]
    if given["spatial"] and blocks > 5:
        raise ValueError(
            f"blocks must be at most 5 where latents are maps, not {blocks}: the encoder halves the"
            " size five times"
        )
    if not given["spatial"] and given["size"] % 2**blocks:
        raise ValueError(
            f"size must be a multiple of {2**blocks} (2 ** blocks), not {given['size']}"
        )
    if not given["spatial"] and given["latents"] <= blocks * given["code"]:
        raise ValueError(
            f"latents must be more than {blocks * given['code']} (a code of {given['code']} for"
            f" each of {blocks} blocks), not {given['latents']}"
        )
    _check_total(given, blocks)


def _check_total(given: dict, blocks: int) -> None:
    """Numbers that are all in range can still ask for too much together."""
    widths = [given["decoder_width"] * min(16, 2 ** (blocks - n)) for n in range(blocks + 1)]
    convolutions = sum(9 * (i + o) * o + i * o for i, o in zip(widths, widths[1:]))
    start = 9 if given["spatial"] else (given["size"] >> blocks) ** 2
    hidden = given["class_hidden"] if given["classes"] and not given["spatial"] else 0
    total = convolutions + widths[0] * given["latents"] * start + 2 * hidden**2
    if total > MAX_PARAMETERS:
        raise ValueError(
            f"this decoder would have {total / 1e9:.1f} thousand million weights; at most 1 is"
            " allowed"
        )
