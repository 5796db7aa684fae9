"""Small networks for super-resolution; the first two with the key names of published weights.

Sources: Dong, Loy, He & Tang, IEEE TPAMI 2016;38:295, arXiv:1501.00092 (SRCNN); Shi, Caballero,
Huszar, Totz, Aitken, Bishop, Rueckert & Wang, CVPR 2016, arXiv:1609.05158 (ESPCN); Liu, Wu, Yu,
Tang & Zhang, BioMed Eng OnLine 2018;17:114 (views of several scales, fused). Key names: the
repositories yjn870/SRCNN-pytorch and yjn870/ESPCN-pytorch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .reconstruction import whole
from .registry import register
from .unet import pad_to_multiple

MAX_WIDTH, MAX_DEPTH, MAX_FACTOR = 512, 32, 8
KERNELS = (1, 3, 5, 7, 9, 11)


def _checked(channels: object, widths: object) -> tuple[int, int, int]:
    if not isinstance(widths, (list, tuple)) or len(widths) != 2:
        raise ValueError(f"widths are two numbers, not {widths!r}")
    for name, value in (("channels", channels), *(("widths", width) for width in widths)):
        if type(value) is not int or not 1 <= value <= MAX_WIDTH:
            raise ValueError(f"{name} must be whole numbers from 1 to {MAX_WIDTH}, not {value!r}")
    return channels, *widths  # type: ignore[return-value]


@register("srcnn")
class SRCNN(nn.Module):
    """Three convolutions with ReLUs between them, on an image that was enlarged before.

    Args:
        channels: Of the image.
        widths: Channels after the first and the second convolution.
        kernels: Sides of the three kernels, odd; borders are padded with zeros.

    Raises:
        ValueError: An argument is out of its limits.
    """

    dimensions = 2
    size_multiple = 1

    def __init__(self, channels: int = 1, widths=(64, 32), kernels=(9, 5, 5)):
        super().__init__()
        channels, first, second = _checked(channels, widths)
        if not isinstance(kernels, (list, tuple)) or len(kernels) != 3:
            raise ValueError(f"kernels are three numbers, not {kernels!r}")
        if any(type(kernel) is not int or kernel not in KERNELS for kernel in kernels):
            raise ValueError(f"kernels are of {KERNELS}, not {kernels!r}")
        self.in_channels = self.out_channels = channels
        counts = (channels, first, second, channels)
        for n, kernel in enumerate(kernels):
            conv = nn.Conv2d(counts[n], counts[n + 1], kernel, padding=kernel // 2)
            setattr(self, f"conv{n + 1}", conv)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """The sharpened image, of the shape of x: (N, channels, H, W), values of 0 to 1."""
        return self.conv3(self.relu(self.conv2(self.relu(self.conv1(x)))))


@register("espcn")
class ESPCN(nn.Module):
    """Three convolutions on the small image; the last gives the fine voxels as channels.

    Args:
        scale: How many times the sides grow.
        channels: Of the image.
        widths: Channels after the first and the second convolution.

    Raises:
        ValueError: An argument is out of its limits.
    """

    dimensions = 2

    def __init__(self, scale: int = 3, channels: int = 1, widths=(64, 32)):
        super().__init__()
        channels, first, second = _checked(channels, widths)
        if type(scale) is not int or not 1 <= scale <= 8:
            raise ValueError(f"scale must be a whole number from 1 to 8, not {scale!r}")
        self.in_channels = self.out_channels = channels
        self.first_part = nn.Sequential(
            nn.Conv2d(channels, first, 5, padding=2),
            nn.Tanh(),
            nn.Conv2d(first, second, 3, padding=1),
            nn.Tanh(),
        )
        self.last_part = nn.Sequential(
            nn.Conv2d(second, channels * scale**2, 3, padding=1), nn.PixelShuffle(scale)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) of 0 to 1 to (N, channels, scale * H, scale * W)."""
        return self.last_part(self.first_part(x))


@register("multi_scale_super_resolution")
class MultiScale(nn.Module):
    """Convolutions in a row; what they find at every depth, each of a wider view, is fused.

    It takes a coarse image on the fine grid, each of its voxels repeated, and gives the fine one:
    cubic interpolation, and what the convolutions add. Only means over a coarse voxel are looked
    at.

    Args:
        factor: Fine voxels along each side of a coarse one, 2 to 8.
        width: Channels of each convolution.
        depth: How many there are.

    Raises:
        ValueError: An argument is out of its limits.
    """

    dimensions = 2
    in_channels = out_channels = 1

    def __init__(self, factor: int = 2, width: int = 20, depth: int = 6):
        super().__init__()
        self.factor = self.size_multiple = whole("factor", factor, MAX_FACTOR, 2)
        whole("width", width, MAX_WIDTH)
        whole("depth", depth, MAX_DEPTH)
        self.layers = nn.ModuleList(
            nn.Conv2d(width if number else 1, width, 3, padding=1) for number in range(depth)
        )
        self.fuse = nn.Conv2d(depth * width, width, 1)
        self.last = nn.Conv2d(width, factor**2, 3, padding=1)
        nn.init.zeros_(self.last.weight)  # training begins with cubic interpolation
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """The fine image, of the shape of x: (N, 1, H, W), values of 0 to 1."""
        height, width = x.shape[2:]
        coarse = F.avg_pool2d(pad_to_multiple(x, self.factor), self.factor)
        smooth = F.interpolate(
            coarse, scale_factor=self.factor, mode="bicubic", align_corners=False
        )
        views = []
        view = coarse
        for layer in self.layers:
            view = F.relu(layer(view))
            views.append(view)
        found = self.last(F.relu(self.fuse(torch.cat(views, 1))))
        fine = smooth + F.pixel_shuffle(found, self.factor)
        return fine[..., :height, :width]
