"""Small networks for super-resolution, with the key names of published weights.

Sources: Dong, Loy, He & Tang, IEEE TPAMI 2016;38:295, arXiv:1501.00092 (SRCNN); Shi, Caballero,
Huszar, Totz, Aitken, Bishop, Rueckert & Wang, CVPR 2016, arXiv:1609.05158 (ESPCN). Key names: the
repositories yjn870/SRCNN-pytorch and yjn870/ESPCN-pytorch.
"""

from __future__ import annotations

from torch import Tensor, nn

from .registry import register

MAX_WIDTH = 512
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
