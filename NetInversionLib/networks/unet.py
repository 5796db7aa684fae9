"""A U-Net made to be run backwards: smooth in its input, the same for every image of a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .registry import register

# Refused beyond these, so that a hostile model file cannot ask for all the memory there is.
MAX_CHANNELS = 64
MAX_LEVELS = 6
MAX_FEATURES = 512
ACTIVATIONS = {"leaky_relu": lambda: nn.LeakyReLU(0.1, inplace=True), "silu": nn.SiLU}


@register("unet")
class UNet(nn.Module):
    """Encoder-decoder with skip connections, for 2-D or 3-D images of any size.

    No batch or instance normalisation: one image's output must not depend on the others, and
    absolute intensity must stay visible to the network. Average pooling, linear upsampling and a
    leaky activation let a gradient reach every input voxel, from an input of zeros too.

    Args:
        dimensions: 2 for (N, C, J, I), 3 for (N, C, K, J, I).
        in_channels, out_channels: 1 to 64.
        features: Channels at each level, finest first; 1 to 6 levels of 1 to 512.
        activation: One of ``ACTIVATIONS``. "silu" is smooth: second derivatives exist too.

    Source:
        Ronneberger, Fischer & Brox, MICCAI 2015, arXiv:1505.04597.
    """

    def __init__(
        self,
        dimensions: int = 2,
        in_channels: int = 1,
        out_channels: int = 1,
        features=(16, 32, 64, 128),
        activation: str = "leaky_relu",
    ):
        super().__init__()
        features = _checked(dimensions, in_channels, out_channels, features)
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be {' or '.join(ACTIVATIONS)}, not {activation!r}")
        act = ACTIVATIONS[activation]
        conv = nn.Conv2d if dimensions == 2 else nn.Conv3d
        self.dimensions, self.in_channels, self.out_channels = dimensions, in_channels, out_channels
        # Sizes that are multiples of it need no padding.
        self.size_multiple = 2 ** (len(features) - 1)
        inputs = [in_channels, *features[:-1]]
        self.down = nn.ModuleList(_Block(conv, i, o, act) for i, o in zip(inputs, features))
        self.up = nn.ModuleList(
            _Block(conv, a + b, a, act) for a, b in zip(features[:-1], features[1:])
        )
        self.out = conv(features[0], out_channels, 1)

    def begin_with_nothing(self) -> None:
        """Set the last layer to zero: the network then gives 0 for every image."""
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, image: Tensor) -> Tensor:
        """An image to the network's output.

        Args:
            image: (N, C, J, I), or (N, C, K, J, I) for a network in three dimensions, C =
                ``in_channels``.

        Returns:
            ``out_channels`` images of the same spatial size.
        """
        size = image.shape[2:]
        x = pad_to_multiple(image, self.size_multiple)
        pool = F.avg_pool2d if self.dimensions == 2 else F.avg_pool3d
        mode = "bilinear" if self.dimensions == 2 else "trilinear"

        skips = []
        for level, block in enumerate(self.down):
            x = block(pool(x, 2) if level else x)
            skips.append(x)
        for block, skip in zip(reversed(self.up), reversed(skips[:-1])):
            x = F.interpolate(x, size=skip.shape[2:], mode=mode, align_corners=False)
            x = block(torch.cat([skip, x], 1))
        unpadded = tuple(slice(n) for n in size)
        return self.out(x)[(...,) + unpadded]


@register("voxel_unet")
class VoxelUNet(nn.Module):
    """What a voxel's own values tell, and what its surroundings add.

    A small network that sees one voxel at a time, as a look-up table does but smooth, and a U-Net
    that sees the image and that first answer and corrects it. Every activation is smooth, so that
    an input search goes on from any start.

    Args:
        dimensions, in_channels, out_channels, features: As of ``UNet``.
        voxel_features: Channels of the two hidden layers of the voxel's part, 1 to 512.
    """

    def __init__(
        self,
        dimensions: int = 2,
        in_channels: int = 1,
        out_channels: int = 1,
        features=(16, 32, 48, 64),
        voxel_features: int = 32,
    ):
        super().__init__()
        if type(voxel_features) is not int or not 1 <= voxel_features <= MAX_FEATURES:
            raise ValueError(
                f"voxel_features must be a whole number from 1 to {MAX_FEATURES}, not"
                f" {voxel_features!r}"
            )
        self.space = UNet(dimensions, in_channels + out_channels, out_channels, features, "silu")
        conv = nn.Conv2d if dimensions == 2 else nn.Conv3d
        self.dimensions, self.in_channels, self.out_channels = dimensions, in_channels, out_channels
        self.size_multiple = self.space.size_multiple
        self.voxel = nn.Sequential(
            conv(in_channels, voxel_features, 1),
            nn.SiLU(),
            conv(voxel_features, voxel_features, 1),
            nn.SiLU(),
            conv(voxel_features, out_channels, 1),
        )
        self.space.begin_with_nothing()  # training begins as the voxel's part alone

    def forward(self, image: Tensor) -> Tensor:
        """An image to the network's output.

        Args:
            image: (N, C, J, I), or (N, C, K, J, I) for a network in three dimensions, C =
                ``in_channels``.

        Returns:
            ``out_channels`` images of the same spatial size.
        """
        alone = self.voxel(image)
        return alone + self.space(torch.cat([image, alone], 1))


class _Block(nn.Sequential):
    """Two 3-wide convolutions, each with its activation.

    Sized so that activations keep their variance.
    """

    def __init__(
        self, conv, in_channels: int, out_channels: int, activation=ACTIVATIONS["leaky_relu"]
    ):
        first = conv(in_channels, out_channels, 3, padding=1)
        second = conv(out_channels, out_channels, 3, padding=1)
        for layer in (first, second):
            nn.init.kaiming_normal_(layer.weight, a=0.1)
            nn.init.zeros_(layer.bias)
        super().__init__(first, activation(), second, activation())


def _checked(dimensions, in_channels, out_channels, features) -> tuple[int, ...]:
    if dimensions not in (2, 3):
        raise ValueError(f"dimensions must be 2 or 3, not {dimensions!r}")
    for name, value, most in (
        ("in_channels", in_channels, MAX_CHANNELS),
        ("out_channels", out_channels, MAX_CHANNELS),
    ):
        if type(value) is not int or not 1 <= value <= most:
            raise ValueError(f"{name} must be a whole number from 1 to {most}, not {value!r}")
    if not isinstance(features, (list, tuple)) or not 1 <= len(features) <= MAX_LEVELS:
        raise ValueError(f"features must list 1 to {MAX_LEVELS} levels, not {features!r}")
    if any(type(n) is not int or not 1 <= n <= MAX_FEATURES for n in features):
        raise ValueError(
            f"features must be whole numbers from 1 to {MAX_FEATURES}, not {features!r}"
        )
    return tuple(features)


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Repeat the far edges until every spatial size is a multiple."""
    missing = [-n % multiple for n in image.shape[2:]]
    if not any(missing):
        return image
    padding = [p for n in reversed(missing) for p in (0, n)]
    return F.pad(image, padding, mode="replicate")
