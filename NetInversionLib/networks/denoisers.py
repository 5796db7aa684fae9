"""Networks that remove noise from low-dose CT.

They have the key names of the published weights (ldct-benchmark).

All take and give one channel of any size, (N, 1, H, W), in normalised units; none ends in a ReLU,
since the units are centred on zero. The layers that the sources count include the ReLUs: 1 is the
first convolution, 2 its ReLU.

Sources: Chen, Zhang, Zhang et al., ISBI 2017, 143 (three layers); Chen, Zhang, Kalra et al., IEEE
    TMI 2017;36:2524, arXiv:1702.00288 (RED-CNN); Yang, Yan, Zhang et al., IEEE TMI 2018;37:1348,
    arXiv:1708.00961 (the generator of WGAN-VGG). Key names and the missing last ReLU: Eulig, Ommer
    & Kachelriess, Med. Phys. 2024;51:8776, arXiv:2401.04661.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .noise_level import LearnedLevel, local_mean, noise_level
from .registry import ARCHITECTURES, register

MAX_CHANNELS = 512
USUAL_LEVEL = 0.05  # about 25 HU: the logarithm of the level is given in units of it
LEARNED = "learned"


class Told(nn.Module):
    """What the layers are told of an image: the image in units of its noise, grain and level.

    It gives two tensors and is therefore none of the layers that people look at.

    Args:
        learned: Whether the level is ``LearnedLevel``'s, and part of the network.
    """

    plumbing = True

    def __init__(self, learned: bool):
        super().__init__()
        self.estimate = LearnedLevel() if learned else None
        self.held: Tensor | None = None

    def measured(self, x: Tensor) -> Tensor:
        """Level and grain of images (N, 1, H, W): (N, 2, H, W)."""
        with torch.autocast(x.device.type, enabled=False):
            return torch.cat((self.estimate or noise_level)(x), 1)

    @contextmanager
    def holding(self, measured: Tensor) -> Iterator[None]:
        """The layers are told these levels and grains, (N, 2, H, W), whatever the images are."""
        self.held = measured
        try:
            yield
        finally:
            self.held = None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) for the layers, and the level (N, 1, H, W), of images (N, 1, H, W)."""
        with torch.autocast(x.device.type, enabled=False):
            level, grain = (self.measured(x) if self.held is None else self.held).split(1, 1)
            scaled = (x - local_mean(x)) / level
            return torch.cat([scaled, grain, torch.log(level / USUAL_LEVEL)], 1), level


class Denoiser(nn.Module):
    """What the denoisers share: two ways beside the published one.

    Args:
        residual: The layers find the noise, which is taken from the image; as published they find
            the image. (RED-CNN adds its input in either case.)
        level: The layers are told the level of the noise and its grain, two channels beside the
            image, both estimated from the image (``noise_level``). The image is then given as
            differences from the mean around each voxel in units of that level, and the noise is
            found in these units too: an image plus a constant gives the output plus this constant,
            and the same weights serve any dose. "learned": the estimate is trained too
            (``LearnedLevel``).

    Raises:
        ValueError: Neither a truth value (nor "learned"), or ``level`` without ``residual``.
    """

    dimensions = 2
    size_multiple = 1

    def __init__(self, residual: bool = False, level: bool | str = False):
        super().__init__()
        if type(residual) is not bool:
            raise ValueError(f"residual is true or false, not {residual!r}")
        if type(level) is not bool and level != LEARNED:
            raise ValueError(f'level is true, false or "{LEARNED}", not {level!r}')
        if level and not residual:
            raise ValueError("level needs residual: the noise is found in units of its level")
        self.residual, self.level = residual, bool(level)
        self.given_channels = 3 if level else 1
        if level:
            self.told = Told(level == LEARNED)

    def found(self, x: Tensor) -> Tensor:
        """What the layers give for their input, (N, 1 or 3, H, W): (N, 1, H, W)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Denoised images, (N, 1, H, W) in normalised units as ``x``."""
        if not self.residual:
            return self.found(x)
        if not self.level:
            return x + self.found(x)
        given, level = self.told(x)
        return x + level * self.found(given)

    def begin_with_nothing(self) -> None:
        """Set the last layer to zero: a residual network then gives its input."""
        *_, last = (m for m in self.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d))
        nn.init.zeros_(last.weight)
        if last.bias is not None:
            nn.init.zeros_(last.bias)


def told(network: nn.Module) -> Told | None:
    """The part of a network that tells its layers the noise's level, where there is one."""
    return next((part for part in network.modules() if isinstance(part, Told)), None)


def denoisers() -> list[str]:
    """Names of the architectures that are denoisers, in the order in which they were registered."""
    return [
        name
        for name, made in ARCHITECTURES.items()
        if isinstance(made, type) and issubclass(made, Denoiser)
    ]


@register("cnn10")
class CNN10(Denoiser):
    """Chen's three convolutions: 9 x 9 to 64 channels, 3 x 3 to 32, and a last one to the image.

    Args:
        last_kernel: Side of the last kernel: 5 as published with weights, 3 as in the invariances
            paper's table.
        residual, level: As for ``Denoiser``.

    Raises:
        ValueError: ``last_kernel`` is not 3 or 5, or as ``Denoiser``.
    """

    def __init__(self, last_kernel: int = 5, residual: bool = False, level: bool | str = False):
        super().__init__(residual, level)
        if last_kernel not in (3, 5):
            raise ValueError(f"last_kernel is 3 or 5, not {last_kernel!r}")
        self.layers = nn.Sequential(
            nn.Conv2d(self.given_channels, 64, 9, padding=4),
            nn.ReLU(inplace=True),
            nn.Conv2d(64, 32, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 1, last_kernel, padding=last_kernel // 2),
        )

    def found(self, x: Tensor) -> Tensor:
        return self.layers(x)


@register("wganvgg")
class WGANVGG(Denoiser):
    """Yang's generator: eight 3 x 3 convolutions of 32 channels, ReLUs between them.

    Args:
        residual, level: As for ``Denoiser``.
    """

    def __init__(self, residual: bool = False, level: bool | str = False):
        super().__init__(residual, level)
        channels = [self.given_channels, *[32] * 7, 1]
        layers = []
        for taken, given in zip(channels, channels[1:]):
            layers += [nn.Conv2d(taken, given, 3, padding=1), nn.ReLU(inplace=True)]
        self.net = nn.Sequential(*layers[:-1])

    def found(self, x: Tensor) -> Tensor:
        return self.net(x)


@register("redcnn")
class REDCNN(Denoiser):
    """Chen's residual encoder-decoder.

    Five 5 x 5 convolutions without padding, five transposed ones, three shortcuts.

    Args:
        out_ch: Channels inside (96 as published).
        residual, level: As for ``Denoiser``; the last shortcut is then the base class's.

    Raises:
        ValueError: ``out_ch`` is not a whole number from 1 to 512, or as ``Denoiser``. In use: an
            image smaller than 21 x 21.
    """

    smallest_size = 21

    def __init__(self, out_ch: int = 96, residual: bool = False, level: bool | str = False):
        super().__init__(residual, level)
        if type(out_ch) is not int or not 1 <= out_ch <= MAX_CHANNELS:
            raise ValueError(
                f"out_ch must be a whole number from 1 to {MAX_CHANNELS}, not {out_ch!r}"
            )
        for n in range(1, 6):
            taken = self.given_channels if n == 1 else out_ch
            setattr(self, f"conv{n}", nn.Conv2d(taken, out_ch, 5))
            setattr(self, f"tconv{n}", nn.ConvTranspose2d(out_ch, 1 if n == 5 else out_ch, 5))
        self.relu = nn.ReLU(inplace=True)

    def found(self, x: Tensor) -> Tensor:
        if min(x.shape[2:]) < self.smallest_size:
            raise ValueError(
                f"RED-CNN needs images of at least 21 x 21 voxels, not {tuple(x.shape[2:])}"
            )
        kept = [] if self.residual else [x]
        for n in range(1, 6):
            x = self.relu(getattr(self, f"conv{n}")(x))
            if n in (2, 4):
                kept.append(x)
        for n in range(1, 6):
            x = getattr(self, f"tconv{n}")(x)
            if n % 2 and kept:
                x = x + kept.pop()
            if n < 5:
                x = self.relu(x)
        return x
