"""How noisy a CT is around each voxel, and how fine its noise: estimated from the image itself.

A second difference along both axes is blind to anything smooth and leaves noise; the mean root of
its size, squared again, listens to edges less than a mean square would. Three of them, each of the
image smoothed once more and twice as wide, see fine, middle and coarse noise. Everything is local
and smooth, so that a network that is given the level has a finite reach and a gradient.

Anatomy is heard all the same: where little noise was added, this level is several times too high.
``LearnedLevel`` begins with it and learns what of it is noise.

Source: Immerkær, Computer Vision and Image Understanding 1996;64:300 (the second difference).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
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
HEARD, WIDTH = 4, 8  # channels that ``LearnedLevel`` sees of each voxel, and has inside
POOLED = 2 * HEARD  # of what it sees around each voxel: 3 sizes, 4 means and what counts
USUAL_LOGARITHM = -6.0  # of the square of a second difference, about 25 HU


def noise_level(x: Tensor) -> tuple[Tensor, Tensor]:
    """About 1.22 times the standard deviation of the noise around each voxel, and its grain.

    Args:
        x: Images (N, 1, H, W), in units of about 500 HU.

    Returns:
        The level in the image's unit and the grain, (N, 1, H, W) each; the grain is the logarithm
        of fine to coarse noise, 1.6 for the bare ramp, -1.8 for a soft kernel.
    """
    sizes = [local_mean((r.square() + SMALLEST**2) ** 0.25).square() for r in _differences(x)]
    return _level_of(*(size / SQUARED_MEAN_ROOT for size in sizes))


class LearnedLevel(nn.Module):
    """``noise_level`` that has learned to tell noise from anatomy.

    Two small convolutions say of each voxel how much its second differences count; of what is found
    around it, a network of single voxels says by how much level and grain are to be corrected. It
    begins with ``noise_level``. It sees differences only: a constant added changes nothing.

    It has no modules inside: for who looks at a denoiser's layers it is none of them.
    """

    def __init__(self) -> None:
        super().__init__()
        shapes = {
            "listen1": (WIDTH, HEARD, 3, 3),
            "listen2": (WIDTH, WIDTH, 3, 3),
            "listen3": (1, WIDTH, 1, 1),
            "correct1": (2 * WIDTH, POOLED, 1, 1),
            "correct2": (2 * WIDTH, 2 * WIDTH, 1, 1),
            "correct3": (2, 2 * WIDTH, 1, 1),
        }
        for name, shape in shapes.items():
            weight, bias = torch.zeros(shape), torch.zeros(shape[0])
            if not name.endswith("3"):  # the last ones begin with nothing
                nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
            self.register_parameter(f"{name}_weight", nn.Parameter(weight))
            self.register_parameter(f"{name}_bias", nn.Parameter(bias))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Level and grain of images (N, 1, H, W), as ``noise_level`` gives them."""
        squares = [r.square() + SMALLEST**2 for r in _differences(x)]
        heard = torch.log(torch.cat([*squares, _slope(x)], 1)) - USUAL_LOGARITHM
        counts = F.relu(self._through("listen1", heard, 1))
        counts = F.relu(self._through("listen2", counts, 2))
        counts = torch.sigmoid(self._through("listen3", counts))
        roots = torch.cat(squares, 1) ** 0.25
        pooled = local_mean(torch.cat([counts, counts * roots, counts * heard], 1))
        around = pooled[:, 1:] / pooled[:, :1]
        sizes = around[:, :3].square() / SQUARED_MEAN_ROOT
        level, grain = _level_of(*sizes.split(1, 1))
        given = torch.cat([2 * torch.log(sizes) - USUAL_LOGARITHM, around[:, 3:], pooled[:, :1]], 1)
        inner = F.relu(self._through("correct1", given))
        inner = F.relu(self._through("correct2", inner))
        finer, more = self._through("correct3", inner).split(1, 1)
        return level * torch.exp(finer), grain + more

    def _through(self, name: str, x: Tensor, reach: int = 0) -> Tensor:
        weight, bias = getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias")
        if reach:
            x = F.pad(x, (reach,) * 4, mode="replicate")
        return F.conv2d(x, weight, bias, dilation=max(1, reach))


def _level_of(fine: Tensor, middle: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
    """Level and grain of the sizes of second differences at three scales, (N, 1, H, W) each."""
    variance = sum(w * size.square() for w, size in zip(WEIGHTS, (fine, middle, coarse)))
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


def _differences(x: Tensor) -> list[Tensor]:
    """Second differences of an image (N, 1, H, W), and of it smoothed once and twice."""
    found = []
    for scale in range(3):
        found.append(_filtered(x, (1.0, -2.0, 1.0), 2**scale) / 6)
        x = _filtered(x, (0.25, 0.5, 0.25), 2**scale)
    return found


def _slope(x: Tensor) -> Tensor:
    """Square of the gradient of an image (N, 1, H, W), smoothed twice: edges, and little noise."""
    for step in (1, 2):
        x = _filtered(x, (0.25, 0.5, 0.25), step)
    wide = F.pad(x, (2, 2, 2, 2), mode="replicate")
    down = wide[..., 4:, 2:-2] - wide[..., :-4, 2:-2]
    right = wide[..., 2:-2, 4:] - wide[..., 2:-2, :-4]
    return down.square() + right.square() + SMALLEST**2


def _filtered(x: Tensor, taps: tuple[float, ...], step: int) -> Tensor:
    """The image filtered with three taps along both axes, ``step`` voxels apart."""
    row = x.new_tensor(taps)
    kernel = torch.outer(row, row)[None, None]
    wide = F.pad(x, (step, step, step, step), mode="replicate")
    return F.conv2d(wide, kernel, dilation=step)
