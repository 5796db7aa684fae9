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

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import processes, register
from .cinn import ActNorm, converted_actnorm

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
# Spectral norms and conditional batch norms of the published networks divide by a little more than
# the norm.
EPSILON = 1e-4
# Bounds of the logarithm of the posterior's variance.
LOG_VARIANCE = (-30.0, 10.0)
EMBEDDING = 128
# Voxels below which upsampling and convolving one after the other is faster.
FEW = 256


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
            x: (N, image_channels, H, W); see ``forward``.
            condition: (N, condition_channels, H, W), or None.

        Returns:
            Two tensors, (N, latents) each; for maps (N, latents, h, w).
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
                f"images must have {self.image_channels} channels and {wanted}; their shape is {tuple(x.shape)}"
            )
        self._check_condition(condition, size)
        mean, log_variance = self.encoder(_beside(x, condition)).chunk(2, 1)
        log_variance = log_variance.clamp(*LOG_VARIANCE)
        return (mean, log_variance) if self.spatial else (mean.flatten(1), log_variance.flatten(1))

    def decode(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Latents to images.

        Args:
            z: (N, latents) or (N, latents, 1, 1); for maps (N, latents, h, w).
            condition: Of the size of the images; one for each of z, one for all, or one for every K
                in turn.

        Returns:
            Images, (N, image_channels, H, W).
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
        """Work out spectral norms and upsampling kernels once and for all; in place, in eval mode,
        for decoding alone.

        The outputs stay the same. Afterwards the network can be neither trained nor saved.
        """
        self.eval().requires_grad_(False)
        for module in self.modules():
            if isinstance(module, _Spectral):
                module.fold()
        return self

    def _check_condition(self, condition: Tensor | None, size: tuple[int, ...]) -> None:
        wanted = (self.condition_channels, *size) if self.condition_channels else None
        found = None if condition is None else tuple(condition.shape[1:])
        if found != wanted:
            raise ValueError(
                f"this autoencoder wants a condition of (channels, height, width) {wanted}, not {found}"
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
    """ResNet of bottlenecks. ``downs`` halvings and maps come out; None is all five, and their
    mean.
    """

    def __init__(
        self, inputs: int, outputs: int, depths: tuple[int, ...], width: int, downs: int | None
    ):
        super().__init__()
        strides = [2 if downs is None or n < downs else 1 for n in range(5)]
        self.pooled = downs is None
        self.conv1 = _conv(inputs, width, 7, strides[0])
        self.bn1 = _BatchNorm(width)
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
        self.conv1, self.bn1 = _conv(inputs, width, 1), _BatchNorm(width)
        self.conv2, self.bn2 = _conv(width, width, 3, stride), _BatchNorm(width)
        self.conv3, self.bn3 = _conv(width, 4 * width, 1), _BatchNorm(4 * width)
        same = stride == 1 and inputs == 4 * width
        self.downsample = (
            None
            if same
            else nn.Sequential(_conv(inputs, 4 * width, 1, stride), _BatchNorm(4 * width))
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


class _BatchNorm(nn.Module):
    """Batch normalisation with nothing but float tensors in its state."""

    epsilon = 1e-5

    def __init__(self, channels: int, affine: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and processes.count() > 1:
            return self._together(x)
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            0.1,
            self.epsilon,
        )

    def _together(self, x: Tensor) -> Tensor:
        """By mean and variance over the batches of all processes, so that they learn what one would
        from the whole.

        torch's SyncBatchNorm does this on GPUs only.
        """
        count = x.numel() / x.shape[1] * processes.count()
        mean = processes.total(x.sum((0, 2, 3))) / count
        centred = x - mean[:, None, None]
        variance = processes.total(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, 0.1)
            self.running_var.lerp_(variance * count / max(count - 1, 1), 0.1)
        found = centred * (variance + self.epsilon).rsqrt()[:, None, None]
        return (
            found
            if self.weight is None
            else found * self.weight[:, None, None] + self.bias[:, None, None]
        )


# Decoder ------------------------------------------------------------------------------------------


class _Decoder(nn.Module):
    """Blocks, attention and last convolution. What comes first, and what the blocks are told,
    depends on the latents.
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
        self.attention = _Attention(widths[-2]) if attention else None
        self.norm = ActNorm(width)
        self.image = nn.Conv2d(width + condition_channels, image_channels, 3, padding=1)
        self.register_buffer("initialised", torch.tensor(False))

    def run(self, x: Tensor, told: list[Tensor], condition: Tensor | None) -> Tensor:
        for n, (block, known) in enumerate(zip(self.blocks, told), 1):
            if n == len(self.blocks) and self.attention is not None:
                x = self.attention(x)
            x = block(_beside(x, condition), known)
        if self.training and not self.initialised:
            self.norm.initialise(x)
            self.initialised.fill_(True)
        return self.image(_beside(self.norm(x), condition))


class _VectorDecoder(_Decoder):
    """From vectors: the first layer takes the first of them, each block a code of its own; and all
    of them the embedding.
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
            _VectorBlock,
        )
        self.start_size, self.parts = start_size, [latents - blocks * code, *[code] * blocks]
        self.start = _SpectralLinear(self.parts[0], start_size**2 * width * min(16, 2**blocks))
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
            [latents] * blocks, image_channels, condition_channels, width, attention, _MapBlock
        )
        self.start = _SpectralConv(latents, width * min(16, 2**blocks), 3)

    def forward(self, z: Tensor, condition: Tensor | None) -> Tensor:
        return self.run(self.start(z), [z] * len(self.blocks), condition)


class _VectorBlock(nn.Module):
    """Norm, ReLU, upsampling, convolution, norm, ReLU, convolution; beside them upsampling and a 1
    x 1 convolution.
    """

    def __init__(self, inputs: int, outputs: int, told: int):
        super().__init__()
        self.norm0, self.norm1 = (
            self.conditional_norm(channels, told) for channels in (inputs, outputs)
        )
        self.conv0, self.conv1 = (
            _UpsamplingConv(inputs, outputs),
            _SpectralConv(outputs, outputs, 3),
        )
        self.shortcut = _SpectralConv(inputs, outputs, 1)

    def conditional_norm(self, channels: int, told: int) -> nn.Module:
        return _ConditionalNorm(
            channels, *(_SpectralLinear(told, channels, bias=False) for _ in range(2))
        )

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        y = self.conv0(self.norm0(x, told).relu_())
        y = self.conv1(self.norm1(y, told).relu_())
        return y + F.interpolate(self.shortcut(x), scale_factor=2, mode="nearest")


class _MapBlock(_VectorBlock):
    def conditional_norm(self, channels: int, told: int) -> nn.Module:
        return _ConditionalNorm(
            channels, *(_SpectralConv(told, channels, 1, bias=False) for _ in range(2))
        )


class _ConditionalNorm(_BatchNorm):
    """Batch normalisation whose scale and shift are functions of what the block is told."""

    epsilon = EPSILON

    def __init__(self, channels: int, gamma: nn.Module, beta: nn.Module):
        super().__init__(channels, affine=False)
        self.gamma, self.beta = gamma, beta

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        scale, shift = 1 + self.gamma(told), self.beta(told)
        if self.training:
            return _modulated(super().forward(x), scale, shift)
        mean, deviation = (
            t.view(-1, *[1] * (scale.ndim - 2))
            for t in (self.running_mean, (self.running_var + EPSILON).sqrt())
        )
        scale = scale / deviation
        return _modulated(x, scale, shift - mean * scale)


def _modulated(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x times scale plus shift, (N, C) or maps of a smaller size, each value for the square of
    voxels that it covers.
    """
    if scale.ndim == 2:
        return torch.addcmul(shift[:, :, None, None], x, scale[:, :, None, None])
    height, width = scale.shape[2:]
    squares = x.unflatten(3, (width, -1)).unflatten(2, (height, -1))
    return torch.addcmul(
        shift[:, :, :, None, :, None], squares, scale[:, :, :, None, :, None]
    ).reshape(x.shape)


class _Attention(nn.Module):
    """Each place looks at all places of the half-sized image, by likeness, and adds what it finds
    there.
    """

    def __init__(self, channels: int):
        super().__init__()
        few, half = max(channels // 8, 1), max(channels // 2, 1)
        self.theta, self.phi = (_SpectralConv(channels, few, 1, bias=False) for _ in range(2))
        self.g, self.o_conv = (
            _SpectralConv(channels, half, 1, bias=False),
            _SpectralConv(half, channels, 1, bias=False),
        )
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.theta(x), F.max_pool2d(self.phi(x), 2), F.max_pool2d(self.g(x), 2)
        query, key, value = (t.flatten(2).transpose(1, 2) for t in (query, key, value))
        found = F.scaled_dot_product_attention(query, key, value, scale=1.0).transpose(1, 2)
        return x + self.gamma * self.o_conv(found.reshape(len(x), -1, *x.shape[2:]))


def _beside(x: Tensor, condition: Tensor | None) -> Tensor:
    """The condition's voxels at x's size (every k-th one) as further channels; a condition serves
    several of x in turn.
    """
    if condition is None:
        return x
    step = condition.shape[2] // x.shape[2]
    return torch.cat(
        [x, condition[:, :, ::step, ::step].repeat_interleave(len(x) // len(condition), 0)], 1
    )


# Layers with spectral norm ------------------------------------------------------------------------


class _Spectral(nn.Module):
    """A weight divided by an estimate of its largest singular value: one power iteration from the
    vector u.

    Training keeps the iteration's result, so that the estimate becomes exact in time. Published
    weights come with vectors that were never iterated, and mean the estimate from those.
    """

    def __init__(self, *shape: int, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(shape))
        self.bias = nn.Parameter(torch.zeros(shape[0])) if bias else None
        self.register_buffer("u", _unit(torch.randn(shape[0])))
        self.folded = False

    def effective(self) -> Tensor:
        """The weight as the layer applies it."""
        if self.folded:
            return self.weight
        matrix = self.weight.flatten(1)
        with torch.no_grad():
            v = _unit(matrix.T @ self.u)
            u = _unit(matrix @ v)
            if self.training:
                self.u.copy_(u)
        return self.weight / (u @ (matrix @ v))

    def fold(self) -> None:
        self.weight, self.folded = nn.Parameter(self.effective(), requires_grad=False), True


class _SpectralLinear(_Spectral):
    def __init__(self, inputs: int, outputs: int, bias: bool = True):
        super().__init__(outputs, inputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.effective(), self.bias)


class _SpectralConv(_Spectral):
    def __init__(self, inputs: int, outputs: int, kernel: int, bias: bool = True):
        super().__init__(outputs, inputs, kernel, kernel, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.effective(), self.bias, padding=self.weight.shape[-1] // 2)


class _UpsamplingConv(_Spectral):
    """Every voxel doubled in both directions, then a 3 x 3 convolution; see the top of this file.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__(outputs, inputs, 3, 3)
        self.register_buffer("_kernel", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] * x.shape[3] < FEW:
            return F.conv2d(
                F.interpolate(x, scale_factor=2, mode="nearest"),
                self.effective(),
                self.bias,
                padding=1,
            )
        return F.conv_transpose2d(x, self._upsampling_kernel(), self.bias, stride=2, padding=1)

    def _upsampling_kernel(self) -> Tensor:
        if self._kernel is not None:
            return self._kernel
        # Of three neighbours at the larger size two are the same voxel at the smaller one: their
        # weights are added.
        sums = self.weight.new_tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
        kernel = torch.einsum("ap,oipq,bq->ioab", sums, self.effective(), sums)
        if self.folded:
            self._kernel = kernel
        return kernel


def _unit(vector: Tensor) -> Tensor:
    return vector / (vector.norm() + EPSILON)


# Critic -------------------------------------------------------------------------------------------


@register("ct_critic")
class Critic(nn.Module):
    """How real images look, one number each: strided 4 x 4 convolutions, a 3 x 3, a 1 x 1 and a
    linear layer.

    Args:
        image_channels, condition_channels: Of the images and of what they are judged beside (0:
            nothing).
        width: Channels of the first convolution; doubled by each further one, up to eight times.
        downs: Strided convolutions; images have at least ``2 ** (downs + 1)`` voxels in each
            direction.

    Raises:
        ValueError: For arguments out of range.
    """

    def __init__(
        self, image_channels: int = 1, condition_channels: int = 1, width: int = 64, downs: int = 5
    ):
        super().__init__()
        for name, value, least, most in (
            ("image_channels", image_channels, 1, 16),
            ("width", width, 1, 256),
            ("condition_channels", condition_channels, 0, 16),
            ("downs", downs, 1, 8),
        ):
            _require_whole(name, value, least, most)
        self.smallest = 2 ** (downs + 1)
        widths = [
            image_channels + condition_channels,
            *(width * min(8, 2**n) for n in range(downs)),
        ]
        layers: list[nn.Module] = []
        for n, (i, o) in enumerate(zip(widths, widths[1:])):
            layers += [
                nn.Conv2d(i, o, 4, 2, 1),
                *[nn.InstanceNorm2d(o, affine=True)] * (n > 0),
                nn.LeakyReLU(0.2),
            ]
        last = widths[-1]
        layers += [
            nn.Conv2d(last, last, 3, padding=1),
            nn.InstanceNorm2d(last, affine=True),
            nn.LeakyReLU(0.2),
            nn.Conv2d(last, last, 1),
            nn.LeakyReLU(0.2),
        ]
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(last, 1)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Scores of images beside their condition.

        Args:
            x: (N, image_channels, H, W).
            condition: (N, condition_channels, H, W), or None.

        Returns:
            (N,) scores without a unit; higher is more like a real image.
        """
        if min(x.shape[2:]) < self.smallest:
            raise ValueError(
                f"the critic needs at least {self.smallest} x {self.smallest} voxels, not {tuple(x.shape[2:])}"
            )
        x = x if condition is None else torch.cat([x, condition], 1)
        return self.linear(self.layers(x).mean((2, 3)))[:, 0]


def gradient_penalty(
    critic: nn.Module,
    real: Tensor,
    made: Tensor,
    condition: Tensor | None = None,
    place: Tensor | None = None,
) -> Tensor:
    """Mean square by which the critic's gradient misses length 1 between made (place 0) and real
    images (place 1).

    WGAN-GP adds ten times this to the critic's loss.

    Args:
        place: (N, 1, 1, 1), 0 to 1; random if None.
    """
    place = torch.rand(len(real), 1, 1, 1) if place is None else place
    between = torch.lerp(made.detach(), real.detach(), place.to(real)).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between, condition).sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


# Published checkpoints ----------------------------------------------------------------------------

# Published names and ours; what is not listed has the same name after "encoder.model." or
# "decoder.decoder.".
_RENAMED = (
    ("encoder.model.fc.sub_layers.0.", "encoder.fc."),
    ("encoder.model.", "encoder."),
    ("decoder.map_to_class_embedding.main.", "decoder.classes."),
    ("decoder.decoder.", "decoder."),
    (".module.", "."),
    (".weight_bar", ".weight"),
    (".weight_u", ".u"),
    (".GBlock.", ".blocks."),
    (".HyperBN.", ".norm0."),
    (".HyperBN_1.", ".norm1."),
    (".bn.", "."),
    ("_embed.", "."),
    (".conv_sc.", ".shortcut."),
    ("decoder.linear.", "decoder.embedding."),
    (".G_linear.", ".start."),
    (".colorize.", ".image."),
)


def from_published(state: Mapping[str, Tensor]) -> VAE:
    """The network of a published checkpoint (class BigAE of ldct-invariances), in eval mode.

    Args:
        state: Its ``model_state_dict``.

    Raises:
        ValueError: It is not one of these.
    """
    try:
        with torch.device("meta"):
            network = VAE(**published_arguments(state))
        network.load_state_dict(_converted(state), assign=True)
    except (KeyError, RuntimeError, IndexError) as error:
        raise ValueError(f"these are not the weights of a published BigAE: {error}") from error
    return network.eval()


def published_arguments(state: Mapping[str, Tensor]) -> dict:
    """What ``VAE`` is built with for a published checkpoint."""
    blocks = 0
    while f"decoder.decoder.GBlock.{blocks}.conv0.module.bias" in state:
        blocks += 1
    entry, last = (
        state[f"decoder.decoder.GBlock.{n}.conv_sc.module.weight_bar"] for n in (0, blocks - 1)
    )
    start, image = (
        state["decoder.decoder.G_linear.module.weight_bar"],
        state["decoder.decoder.colorize.weight"],
    )
    latents, width = state["encoder.model.fc.sub_layers.0.weight"].shape[0] // 2, last.shape[0]
    condition = image.shape[1] - width
    start_size = round((start.shape[0] / (entry.shape[1] - condition)) ** 0.5)
    classes = state["decoder.decoder.linear.weight"].shape[1]
    return {
        "latents": latents,
        "image_channels": image.shape[0],
        "condition_channels": condition,
        "encoder": "resnet101" if "encoder.model.layer3.22.conv1.weight" in state else "resnet50",
        "encoder_width": state["encoder.model.conv1.weight"].shape[0],
        "size": start_size << blocks,
        "blocks": blocks,
        "decoder_width": width,
        "code": (latents - start.shape[1]) // blocks,
        "classes": classes,
        "class_hidden": state["decoder.map_to_class_embedding.main.0.weight"].shape[0],
    }


def _converted(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names. The second vectors of the spectral norms are never read, nor are counts of
    batches.
    """
    last_norm = "decoder.decoder.ScaledCrossReplicaBN."
    new = {
        "decoder.initialised": torch.tensor(True),
        **converted_actnorm(state, last_norm, "decoder.norm."),
    }
    for name, value in state.items():
        if name.endswith((".weight_v", ".num_batches_tracked")) or name.startswith(last_norm):
            continue
        for theirs, ours in _RENAMED:
            name = name.replace(theirs, ours)
        new[name] = value
    return new


# Arguments ----------------------------------------------------------------------------------------


def _require_whole(name: str, value, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}, not {value!r}")


def _check_arguments(given: dict) -> None:
    for name, (least, most) in RANGES.items():
        _require_whole(name, given[name], least, most)
    if given["encoder"] not in list(ENCODERS):
        raise ValueError(f"encoder must be one of {', '.join(ENCODERS)}, not {given['encoder']!r}")
    for name in ("attention", "spatial"):
        if type(given[name]) is not bool:
            raise ValueError(f"{name} must be true or false, not {given[name]!r}")
    blocks = given["blocks"]
    if given["spatial"] and blocks > 5:
        raise ValueError(
            f"blocks must be at most 5 where latents are maps, not {blocks}: the encoder halves the size five times"
        )
    if not given["spatial"] and given["size"] % 2**blocks:
        raise ValueError(
            f"size must be a multiple of {2**blocks} (2 ** blocks), not {given['size']}"
        )
    if not given["spatial"] and given["latents"] <= blocks * given["code"]:
        raise ValueError(
            f"latents must be more than {blocks * given['code']} (a code of {given['code']} for each of {blocks} "
            f"blocks), not {given['latents']}"
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
            f"this decoder would have {total / 1e9:.1f} thousand million weights; at most 1 is allowed"
        )
