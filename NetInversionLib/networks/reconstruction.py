"""Networks that make images of under-sampled k-space, one for each way that the field goes.

All take three channels of one size, real and imaginary part of the k-space of one coil and the mask
that says where it was measured, and give the real and the imaginary part of the image. K-space is
that of ``fourier.centred_fft``, with zero frequency in the middle; what stands where the mask is 0
is not looked at. Inside, the image's brightest tissue is about 1.

Sources: the ways are those of T. Knopp's lecture "Deep Learning Based Image Reconstruction"
(Hamburg University of Technology), section 3; Zhu, Liu, Cauley, Rosen & Rosen, Nature 2018;555:487
(AUTOMAP); Zhang, Zuo, Chen, Meng & Zhang, IEEE TIP 2017;26:3142 (the denoisers); Schlemper,
Caballero, Hajnal, Price & Rueckert, IEEE TMI 2018;37:491 (the cascade).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .fourier import as_channels, as_complex, centred_fft, middle_lines
from .registry import register
from .unet import UNet

KSPACE_RANGE, IMAGE_RANGE = 32.0, 1.5
"""Largest magnitude of either part, of k-space and of the image, that a model's card tells."""
MAX_WIDTH, MAX_DEPTH, MAX_STEPS, MAX_SIDE = 256, 16, 64, 256
MAX_LEVEL = 1.0
LEAST = 1e-12
"""Of a squared magnitude, so that its root has a gradient."""


def whole(name: str, value: object, most: int, least: int = 1) -> int:
    """A whole number within its limits.

    Raises:
        ValueError: It is none.
    """
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}, not {value!r}")
    return value


class Enhancer(nn.Module):
    """A small DnCNN for complex images: what its convolutions find is taken from the image.

    Args:
        width: Channels inside.
        depth: Convolutions of 3 x 3.
        told: Whether it is told the noise's level, a third channel; what is taken from the image is
            then found in units of it.
    """

    def __init__(self, width: int, depth: int, told: bool = False):
        super().__init__()
        whole("width", width, MAX_WIDTH)
        whole("depth", depth, MAX_DEPTH, 2)
        counts = [2 + told, *[width] * (depth - 1), 2]
        layers: list[nn.Module] = []
        for taken, given in zip(counts, counts[1:]):
            layers += [nn.Conv2d(taken, given, 3, padding=1), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers[:-1])
        nn.init.zeros_(self.layers[-1].weight)  # training begins with the image as it is
        nn.init.zeros_(self.layers[-1].bias)

    def forward(self, image: Tensor, level: Tensor | None = None) -> Tensor:
        """The enhanced image, (N, 2, H, W), with the noise's level (N, 1, 1, 1) if it is told."""
        if level is None:
            return image - self.layers(image)
        given = torch.cat([image, level.expand_as(image[:, :1])], 1)
        return image - level * self.layers(given)


class KSpaceNetwork(nn.Module):
    """What all have in common: the card's units, and the mask."""

    dimensions = 2
    size_multiple = 1
    in_channels, out_channels = 3, 2

    def forward(self, x: Tensor) -> Tensor:
        """K-space and mask to the image, both in units of 0 to 1.

        Args:
            x: (N, 3, H, W): 0.5 is a k-space of 0, and the mask is 0 or 1.

        Returns:
            (N, 2, H, W): 0.5 is an image of 0.
        """
        mask = x[:, 2]
        measured = mask * as_complex(x[:, :2] - 0.5) * (2 * KSPACE_RANGE)
        return self.image_of(measured, mask) / (2 * IMAGE_RANGE) + 0.5

    def image_of(self, measured: Tensor, mask: Tensor) -> Tensor:
        """The image, (N, 2, H, W), of k-space and mask, (N, H, W), in their own units."""
        raise NotImplementedError


def zero_filled(measured: Tensor) -> Tensor:
    """The image (N, 2, H, W) of k-space (N, H, W) with zeros where nothing was measured."""
    return as_channels(centred_fft(measured, inverse=True))


def consistent(image: Tensor, measured: Tensor, mask: Tensor, step: Tensor | float) -> Tensor:
    """A step towards what was measured: of Landweber's iteration, or all the way for a step of 1.

    Args:
        image: (N, 2, H, W).
        measured, mask: (N, H, W).
        step: 0 to 1.
    """
    misfit = mask * (measured - centred_fft(as_complex(image)))
    return image + step * zero_filled(misfit)


@register("postprocessed_kspace")
class Postprocessed(KSpaceNetwork):
    """The zero-filled image, a U-Net that finds what is wrong with it, and what was measured again.

    The U-Net is shown the image without its smooth phase, that of the middle lines: it need not
    learn the same errors anew for every phase.

    Args:
        features: Of the ``UNet``.
    """

    def __init__(self, features=(16, 32, 64)):
        super().__init__()
        self.unet = UNet(2, 2, 2, features)
        self.unet.begin_with_nothing()  # training begins with the zero-filled image

    def image_of(self, measured: Tensor, mask: Tensor) -> Tensor:
        """See ``KSpaceNetwork``."""
        coarse = centred_fft(middle_lines(mask) * measured, inverse=True)
        turn = coarse / (coarse.real.square() + coarse.imag.square() + LEAST).sqrt()
        image = as_channels(centred_fft(measured, inverse=True) * turn.conj())
        better = as_channels(as_complex(image - self.unet(image)) * turn)
        return consistent(better, measured, mask, 1.0)


@register("plug_and_play")
class PlugAndPlay(KSpaceNetwork):
    """Data consistency and a denoiser in turns; the denoiser never saw k-space in its training.

    Args:
        width, depth: Of the denoiser.
        steps: How often both come.
        levels: Of the noise that the denoiser is told, at the first and at the last step; they
            fall as a geometric series.
    """

    def __init__(self, width: int = 24, depth: int = 5, steps: int = 20, levels=(0.15, 0.01)):
        super().__init__()
        whole("steps", steps, MAX_STEPS)
        if not isinstance(levels, (list, tuple)) or len(levels) != 2:
            raise ValueError(f"levels are two numbers, not {levels!r}")
        if any(type(level) not in (int, float) or not 0 < level <= MAX_LEVEL for level in levels):
            raise ValueError(f"levels are numbers above 0 to {MAX_LEVEL:g}, not {levels!r}")
        self.denoiser = Enhancer(width, depth, told=True)
        first, last = map(math.log, levels)
        places = [n / max(1, steps - 1) for n in range(steps)]
        self.levels = [math.exp(first + (last - first) * place) for place in places]

    def image_of(self, measured: Tensor, mask: Tensor) -> Tensor:
        """See ``KSpaceNetwork``."""
        image = zero_filled(measured)
        for level in self.levels:
            image = self.denoiser(image, image.new_full((len(image), 1, 1, 1), level))
            image = consistent(image, measured, mask, 1.0)
        return image


@register("unrolled")
class Unrolled(KSpaceNetwork):
    """A Landweber iteration of a fixed number of steps, each with a network behind it.

    Args:
        steps: P of the lecture.
        shared: Whether all steps have the same weights.
        width, depth: Of the networks.
    """

    def __init__(self, steps: int = 10, shared: bool = True, width: int = 16, depth: int = 4):
        super().__init__()
        whole("steps", steps, MAX_STEPS)
        if type(shared) is not bool:
            raise ValueError(f"shared is true or false, not {shared!r}")
        count = 1 if shared else steps
        self.enhancers = nn.ModuleList(Enhancer(width, depth) for _ in range(count))
        self.step = nn.Parameter(torch.ones(count))
        self.steps = steps

    def image_of(self, measured: Tensor, mask: Tensor) -> Tensor:
        """See ``KSpaceNetwork``."""
        image = zero_filled(measured)
        for number in range(self.steps):
            place = number % len(self.enhancers)
            image = consistent(image, measured, mask, self.step[place])
            image = self.enhancers[place](image)
        return image


@register("deep_cascade")
class DeepCascade(KSpaceNetwork):
    """Networks in a row, each followed by what was measured, which has the last word.

    Where it was measured, k-space becomes (k + lambda b) / (1 + lambda), with a lambda that is
    learnt.

    Args:
        cascades: How many.
        width, depth: Of the networks.
    """

    def __init__(self, cascades: int = 5, width: int = 24, depth: int = 5):
        super().__init__()
        whole("cascades", cascades, MAX_STEPS)
        self.enhancers = nn.ModuleList(Enhancer(width, depth) for _ in range(cascades))
        self.log_weight = nn.Parameter(torch.full((cascades,), 2.0))

    def image_of(self, measured: Tensor, mask: Tensor) -> Tensor:
        """See ``KSpaceNetwork``."""
        image = zero_filled(measured)
        for enhancer, log_weight in zip(self.enhancers, self.log_weight):
            # lambda / (1 + lambda) of the way to what was measured
            step = torch.sigmoid(log_weight)
            image = consistent(enhancer(image), measured, mask, step)
        return image


@register("learned_inverse")
class LearnedInverse(KSpaceNetwork):
    """Dense layers from k-space to the image, told nothing of Fourier, then convolutions.

    The dense layers act on all of one axis, then on all of the other: enough to hold any Fourier
    transform, and small. AUTOMAP's dense layer joins every place with every other, which takes 134
    MB at 64 x 64.

    Args:
        side: Of k-space and image, which are square.
        width, depth: Of the convolutions behind them.

    Raises:
        ValueError: In use: another size of k-space.
    """

    def __init__(self, side: int = 64, width: int = 16, depth: int = 4):
        super().__init__()
        self.side = whole("side", side, MAX_SIDE, 2)
        self.rows = nn.Linear(2 * side, 2 * side)
        self.columns = nn.Linear(2 * side, 2 * side)
        self.enhancer = Enhancer(width, depth)

    def image_of(self, measured: Tensor, mask: Tensor) -> Tensor:
        """See ``KSpaceNetwork``."""
        if measured.shape[1:] != (self.side, self.side):
            raise ValueError(
                f"this network was made for a k-space of {self.side} x {self.side}, not"
                f" {tuple(measured.shape[1:])}"
            )
        x = torch.view_as_real(measured).flatten(2)  # (N, H, 2 W)
        x = self.rows(x).unflatten(2, (self.side, 2))  # (N, H, W, 2)
        x = self.columns(x.transpose(1, 2).flatten(2)).unflatten(2, (self.side, 2))  # (N, W, H, 2)
        return self.enhancer(x.permute(0, 3, 2, 1))
