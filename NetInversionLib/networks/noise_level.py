"""How noisy a CT is around each voxel, and how fine its noise: estimated from the image itself.

A second difference along both axes is blind to anything smooth and leaves noise; the mean root of
its size, squared again, listens to edges less than a mean square would. Three of them, each of the
image smoothed once more and twice as wide, see fine, middle and coarse noise. Everything is local
and smooth, so that a network that is given the level has a finite reach and a gradient.

Source: Immerkær, Computer Vision and Image Understanding 1996;64:300 (the second difference).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

AROUND = 10  # voxels that a mean looks at, on either side
# E|n|^(1/2) of standard normal n, squared: 2^(1/2) Gamma(3/4)^2 / pi.
SQUARED_MEAN_ROOT = 0.6760
SMALLEST = 2e-3  # about 1 HU: keeps the gradient finite where an image is flat
# What the squares of the three levels weigh: fitted to reconstructions of bodies with the bare ramp
# and with Hann windows that end at 0.5 to 1.4 of the Nyquist frequency, so that the level is the
# same multiple of the standard deviation for each. The multiple is past choosing: networks are
# trained with it.
WEIGHTS = (1.553, 4.699, 11.596)
LEVEL_OF_ONE = 1.22  # the level where noise has a standard deviation of 1


def noise_level(x: Tensor) -> tuple[Tensor, Tensor]:
    """About 1.22 times the standard deviation of the noise around each voxel, and its grain.

    Args:
        x: Images (N, 1, H, W), in units of about 500 HU.

    Returns:
        The level in the image's unit and the grain, (N, 1, H, W) each; the grain is the logarithm
        of fine to coarse noise, 1.6 for the bare ramp, -1.8 for a soft kernel.
    """
    fine, middle, coarse = (_second_difference(x, scale) for scale in range(3))
    variance = sum(w * level.square() for w, level in zip(WEIGHTS, (fine, middle, coarse)))
    return torch.sqrt(variance), torch.log(fine / coarse)


def local_mean(values: Tensor) -> Tensor:
    """Mean over a square of 21 x 21 voxels, or what of it lies in the image.

    Args:
        values: (N, C, H, W).

    Returns:
        Of the same shape.
    """
    side = 2 * AROUND + 1
    for kernel in ((side, 1), (1, side)):
        padding = (kernel[0] // 2, kernel[1] // 2)
        values = F.avg_pool2d(values, kernel, 1, padding, count_include_pad=False)
    return values


def _second_difference(x: Tensor, scale: int) -> Tensor:
    """Robust size of second differences of an image (N, 1, H, W), smoothed ``scale`` times."""
    for finer in range(scale):
        x = _filtered(x, (0.25, 0.5, 0.25), 2**finer)
    residue = _filtered(x, (1.0, -2.0, 1.0), 2**scale) / 6
    root = (residue.square() + SMALLEST**2) ** 0.25
    return local_mean(root).square() / SQUARED_MEAN_ROOT


def _filtered(x: Tensor, taps: tuple[float, ...], step: int) -> Tensor:
    """The image filtered with three taps along both axes, ``step`` voxels apart."""
    row = x.new_tensor(taps)
    kernel = torch.outer(row, row)[None, None]
    wide = F.pad(x, (step, step, step, step), mode="replicate")
    return F.conv2d(wide, kernel, dilation=step)
