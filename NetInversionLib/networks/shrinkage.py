"""Denoisers of CT that shrink wavelet coefficients, with the key names of the published weights.

Both take and give one channel of any size, (N, 1, H, W). Their weights know HU (water is 0);
``unit`` says how many HU make 1 of the images here, so that the numbers inside stay those of the
publication.

Sources: Zavala-Mondragon, Rongen, Bescos, de With & van der Sommen, IEEE TMI 2022;41:2048 (learned
wavelet-frame shrinkage: LWFSN, and rLWFSN, which finds the noise); Zavala-Mondragon, de With & van
der Sommen, IEEE TIP 2021;30:9386 (shrinkage in an overcomplete Haar frame: DHSN1 and DHSN2).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .registry import register

MAX_LEVELS, MAX_WIDTH, MAX_THRESHOLDS = 6, 64, 32
LEAST_POWER = 1e-12  # under the square root, whose slope at 0 is infinite
LEAST_SIZE = 1e-4  # of a coefficient, HU: as published


def _whole(name: str, value: object, most: int, least: int = 1) -> None:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}, not {value!r}")


class _Shrinking(nn.Module):
    """What they share: values in HU inside, sizes that the levels divide.

    Args:
        levels: Of the wavelet transform.
        unit: HU that make 1 of the images.
    """

    dimensions = 2
    in_channels = out_channels = 1

    def __init__(self, levels: int, unit: float):
        super().__init__()
        _whole("levels", levels, MAX_LEVELS)
        if type(unit) not in (int, float) or not 0 < unit <= 1e6:
            raise ValueError(f"unit is a number of HU above 0, not {unit!r}")
        self.levels, self.unit = levels, unit
        self.size_multiple = 2**levels

    def forward(self, x: Tensor) -> Tensor:
        """Denoised images, (N, 1, H, W) in units of ``unit`` HU as ``x``."""
        height, width = x.shape[2:]
        margin = (0, -width % self.size_multiple, 0, -height % self.size_multiple)
        return self.found(F.pad(x * self.unit, margin, "replicate"))[..., :height, :width] / (
            self.unit
        )

    def found(self, x: Tensor) -> Tensor:
        """The same in HU."""
        raise NotImplementedError


# Learned frames ---------------------------------------------------------------------------------


def _haar() -> Tensor:
    """The four 2 x 2 Haar kernels, (4, 1, 2, 2): means, rows, columns, diagonals."""
    mean, step = torch.tensor([1.0, 1.0]), torch.tensor([1.0, -1.0])
    pairs = ((mean, mean), (step, mean), (mean, -step), (step, step))
    return torch.stack([torch.outer(a, b) / 2 for a, b in pairs])[:, None]


def _split(x: Tensor) -> tuple[Tensor, Tensor]:
    """Means (N, C, H/2, W/2), and details of three kinds, one after the other (N, 3C, ...)."""
    number, count = x.shape[:2]
    x = F.pad(x, (1, 0, 1, 0), "reflect").flatten(0, 1)[:, None]
    bands = F.conv2d(x, _haar().to(x), stride=2).unflatten(0, (number, count)).transpose(1, 2)
    return bands[:, 0], bands[:, 1:].flatten(1, 2)


def _joined(means: Tensor, details: Tensor) -> Tensor:
    """The transform of ``_split`` back."""
    number, count = means.shape[:2]
    bands = torch.cat([means[:, None], details.unflatten(1, (3, count))], 1).transpose(1, 2)
    bands = F.pad(bands.flatten(0, 1), (0, 1, 0, 1), "replicate")
    y = F.conv_transpose2d(bands, _haar().to(bands), stride=2)[..., 1:-1, 1:-1]
    return y.reshape(number, count, *y.shape[2:])


class _Threshold(nn.Module):
    """A mixture of smooth thresholds: small coefficients vanish, large ones stay."""

    def __init__(self, thresholds: int):
        super().__init__()
        self.t = nn.Parameter(torch.rand(thresholds, 1, 1) / thresholds)
        self.a = nn.Parameter(torch.ones(1, thresholds, 1, 1))

    def forward(self, details: Tensor) -> Tensor:
        shares = self.a.flatten().softmax(0)
        kept = torch.zeros_like(details)
        for t, share in zip(self.t.flatten(), shares):
            # Beyond 4 thresholds the exponential is 0 in any precision, and its slope not a number.
            ratio = (details / t).clamp(-4, 4)
            kept = kept + share * details * (1 - torch.tanh(5 * t) * torch.exp(-(ratio**4)))
        return kept


class _Kernel(nn.Module):
    def __init__(self, given: int, taken: int):
        super().__init__()
        self.kern = nn.Parameter(torch.empty(given, taken, 2, 2))
        nn.init.uniform_(self.kern, -((4 * taken) ** -0.5), (4 * taken) ** -0.5)


@register("lwfsn")
class LWFSN(_Shrinking):
    """Learned wavelet-frame shrinkage: two 2 x 2 convolutions and a Haar transform on each level.

    Args:
        levels: Of the transform.
        width: Channels of the first level, an even number; each further one has twice as many.
        residual: The details say the noise, which is taken from the image (rLWFSN). Weights do not
            tell which of the two they are.
        thresholds: In each mixture.
        unit: HU that make 1 of the images.

    Raises:
        ValueError: An argument is out of its limits.
    """

    def __init__(
        self,
        levels: int = 4,
        width: int = 8,
        residual: bool = False,
        thresholds: int = 5,
        unit: float = 1000.0,
    ):
        super().__init__(levels, unit)
        _whole("width", width, MAX_WIDTH, 2)
        _whole("thresholds", thresholds, MAX_THRESHOLDS)
        if width % 2:
            raise ValueError(f"width is an even number, not {width}")
        if type(residual) is not bool:
            raise ValueError(f"residual is true or false, not {residual!r}")
        self.residual = residual
        self.shrink = nn.ModuleList(_Threshold(thresholds) for _ in range(levels))
        counts = [1, *(width * 2**level for level in range(levels))]
        pairs = list(zip(counts, counts[1:]))
        self.ew1 = nn.ModuleList(_Kernel(given // 2, taken) for taken, given in pairs)
        self.ew2 = nn.ModuleList(_Kernel(given, given // 2) for _, given in pairs)
        self.dw1 = nn.ModuleList(_Kernel(given // 2, taken) for taken, given in pairs)
        self.dw2 = nn.ModuleList(_Kernel(given, given // 2) for _, given in pairs)

    def found(self, x: Tensor) -> Tensor:
        means, kept = x, []
        for level in range(self.levels):
            y = F.conv2d(F.pad(means, (1, 1, 1, 1)), self.ew1[level].kern)
            means, details = _split(F.conv2d(y, self.ew2[level].kern))
            shrunk = self.shrink[level](details)
            kept.append(details - shrunk if self.residual else shrunk)
        y = torch.zeros_like(means) if self.residual else means
        for level in reversed(range(self.levels)):
            y = F.pad(_joined(y, kept[level]), (1, 1, 1, 1))
            y = F.conv2d(y, self.dw2[level].kern.transpose(0, 1))
            y = F.conv2d(y, self.dw1[level].kern.transpose(0, 1))
        return x - y if self.residual else y


# An overcomplete frame --------------------------------------------------------------------------


def _frame() -> Tensor:
    """Kernels of the overcomplete Haar frame, (4, 4, 3, 3): kinds of detail, diagonals.

    Each is the sum or difference of one 2 x 2 block at two opposite corners.
    """
    mean, step = torch.tensor([1.0, 1.0]), torch.tensor([-1.0, 1.0])
    blocks = [torch.outer(a, b) for a, b in ((mean, mean), (mean, step), (step, mean))]
    blocks.append(torch.outer(step, step))
    kernels = []
    for block in blocks:
        here, there, right, below = (
            F.pad(block, pad) for pad in ((0, 1, 0, 1), (1, 0, 1, 0), (1, 0, 0, 1), (0, 1, 1, 0))
        )
        kernels += [here + there, there - here, right + below, below - right]
    return torch.stack(kernels).unflatten(0, (4, 4)) / 8**0.5


def _frame_split(x: Tensor) -> list[Tensor]:
    """Means and details of three kinds, each (N, 4C, H/2, W/2)."""
    number = x.shape[0]
    x = F.pad(x, (1, 1, 1, 1), "reflect").flatten(0, 1)[:, None]
    bands = (F.conv2d(x, kernels[:, None], stride=2) for kernels in _frame().to(x))
    return [band.reshape(number, -1, *band.shape[2:]) for band in bands]


def _frame_joined(bands: list[Tensor]) -> Tensor:
    """The transform of ``_frame_split`` back: its transpose over 4."""
    number, whole = bands[0].shape[0], torch.zeros(())
    for band, kernels in zip(bands, _frame().to(bands[0])):
        band = band.reshape(-1, 4, *band.shape[2:])
        band = F.pad(band, (0, 1, 0, 1), "replicate")
        whole = whole.to(band) + F.conv_transpose2d(band, kernels[:, None] / 4, stride=2)
    whole = whole[..., 1:-2, 1:-2]
    return whole.reshape(number, -1, *whole.shape[2:])


class _Gate1(nn.Module):
    """Gains of 0 to 1 from the sizes of a voxel's coefficients."""

    def __init__(self, count: int):
        super().__init__()
        for name, taken, last in (
            ("convblock1", 1, nn.ReLU()),
            ("convblock2", 1, nn.ReLU()),
            ("convblock1res", 2, nn.ReLU()),
            ("convblock2res", 2, nn.Sigmoid()),
        ):
            setattr(self, name, nn.Sequential(nn.Conv2d(taken * count, count, 1), last))

    def forward(self, details: Tensor) -> Tensor:
        size = details.abs()
        y = self.convblock1res(torch.cat([self.convblock1(size), size], 1))
        return details * self.convblock2res(torch.cat([self.convblock2(y), y], 1))


class _Gate2(nn.Module):
    """Gains of 0 to 1 from the sizes of a voxel's coefficients and of their neighbours'.

    The published code computes no gradient of the sizes; here it is computed.
    """

    def __init__(self, count: int):
        super().__init__()
        self.w_1, self.w_2 = (nn.Parameter(torch.rand(count, count, 1, 1) / 2) for _ in range(2))
        self.wp_1 = nn.Parameter(torch.rand(2 * count, 2 * count, 1, 1) / 2)
        self.bi_1 = nn.Parameter(torch.rand(2 * count))
        self.wp_2 = nn.Parameter(torch.rand(count, 2 * count, 1, 1) / 2)
        self.bi_2 = nn.Parameter(torch.rand(count))

    def forward(self, details: Tensor) -> Tensor:
        power = F.avg_pool2d(details**2, 3, stride=1, padding=1).clamp(min=LEAST_POWER)
        sizes = (details.abs(), power.sqrt())
        shares = [
            F.relu(1 - F.conv2d(1 / (size + LEAST_SIZE), F.relu(weight)))
            for size, weight in zip(sizes, (self.w_1, self.w_2))
        ]
        y = F.relu(F.conv2d(torch.cat(shares, 1), self.wp_1, self.bi_1))
        return details * F.conv2d(y, self.wp_2, self.bi_2).sigmoid()


@register("dhsn")
class DHSN(_Shrinking):
    """Shrinkage in an overcomplete Haar frame, by a small network on each level.

    Args:
        levels: Of the transform; each has four times the channels of the one before.
        kind: 1 (DHSN1) or 2 (DHSN2, which also looks at a coefficient's neighbours).
        unit: HU that make 1 of the images.

    Raises:
        ValueError: An argument is out of its limits.
    """

    def __init__(self, levels: int = 3, kind: int = 2, unit: float = 1000.0):
        super().__init__(levels, unit)
        _whole("kind", kind, 2)
        if levels > 4:
            raise ValueError(f"levels must be a whole number from 1 to 4, not {levels}")
        gate = _Gate1 if kind == 1 else _Gate2
        self.shrink = nn.ModuleList(gate(4 ** (level + 1)) for level in range(levels))

    def found(self, x: Tensor) -> Tensor:
        kept = []
        for shrink in self.shrink:
            x, *details = _frame_split(x)
            kept.append([shrink(band) for band in details])
        while kept:
            x = _frame_joined([x, *kept.pop()])
        return x
