"""Denoisers of natural images that people use in medicine too, with published key names.

Sources: Zhang, Zuo, Chen, Meng & Zhang, IEEE TIP 2017;26:3142, arXiv:1608.03981 (DnCNN); Zhang, Li,
Zuo, Zhang, Van Gool & Timofte, IEEE TPAMI 2022;44:6360, arXiv:2008.13751 (DRUNet).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .registry import register

MAX_WIDTH, MAX_DEPTH = 1024, 64


def _require(name: str, value: object, most: int, least: int = 1) -> None:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}, not {value!r}")


@register("dncnn")
class DnCNN(nn.Module):
    """3 x 3 convolutions with ReLUs between them; what they give is subtracted from the image.

    Batch norms are those of the published weights: merged into the convolutions.

    Args:
        channels: Of the image.
        width: Channels inside.
        depth: Convolutions.

    Raises:
        ValueError: An argument is no whole number within its limits.
    """

    dimensions = 2
    size_multiple = 1

    def __init__(self, channels: int = 1, width: int = 64, depth: int = 17):
        super().__init__()
        _require("channels", channels, 64)
        _require("width", width, MAX_WIDTH)
        _require("depth", depth, MAX_DEPTH, 2)
        self.in_channels = self.out_channels = channels
        counts = [channels, *[width] * (depth - 1), channels]
        layers: list[nn.Module] = []
        for taken, given in zip(counts, counts[1:]):
            layers += [nn.Conv2d(taken, given, 3, padding=1), nn.ReLU(inplace=True)]
        self.model = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """The image without its noise, of the shape of x: (N, channels, H, W), values of 0 to 1."""
        return x - self.model(x)


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.res = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.res(x)


@register("drunet")
class DRUNet(nn.Module):
    """A U-Net of residual blocks without biases that is told the noise's level.

    Args:
        channels: Of the image.
        widths: Channels on its four levels.
        blocks: Residual blocks on each level and side.
        sigma: The noise's standard deviation, in the image's units of 0 to 1.

    Raises:
        ValueError: An argument is out of its limits.
    """

    dimensions = 2
    size_multiple = 8

    def __init__(
        self,
        channels: int = 1,
        widths: tuple[int, ...] = (64, 128, 256, 512),
        blocks: int = 4,
        sigma: float = 0.05,
    ):
        super().__init__()
        _require("channels", channels, 64)
        _require("blocks", blocks, 16)
        if not isinstance(widths, (list, tuple)) or len(widths) != 4:
            raise ValueError(f"widths are four numbers, not {widths!r}")
        for width in widths:
            _require("widths", width, MAX_WIDTH)
        if type(sigma) not in (int, float) or not 0 <= sigma <= 1:
            raise ValueError(f"sigma is a number from 0 to 1, not {sigma!r}")
        self.in_channels = self.out_channels = channels
        self.sigma = sigma
        self.m_head = nn.Conv2d(channels + 1, widths[0], 3, padding=1, bias=False)
        for level, (taken, given) in enumerate(zip(widths, widths[1:]), 1):
            down = nn.Conv2d(taken, given, 2, stride=2, bias=False)
            up = nn.ConvTranspose2d(given, taken, 2, stride=2, bias=False)
            around = [[_Residual(taken) for _ in range(blocks)] for _ in range(2)]
            setattr(self, f"m_down{level}", nn.Sequential(*around[0], down))
            setattr(self, f"m_up{level}", nn.Sequential(up, *around[1]))
        self.m_body = nn.Sequential(*(_Residual(widths[3]) for _ in range(blocks)))
        self.m_tail = nn.Conv2d(widths[0], channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The image without its noise, of the shape of x: (N, channels, H, W), values of 0 to 1."""
        height, width = x.shape[2:]
        margin = (0, -width % self.size_multiple, 0, -height % self.size_multiple)
        x = nn.functional.pad(x, margin, mode="replicate")
        kept = [self.m_head(torch.cat([x, torch.full_like(x[:, :1], self.sigma)], 1))]
        for level in (1, 2, 3):
            kept.append(getattr(self, f"m_down{level}")(kept[-1]))
        y = self.m_body(kept[-1])
        for level in (3, 2, 1):
            y = getattr(self, f"m_up{level}")(y + kept.pop())
        return self.m_tail(y + kept.pop())[..., :height, :width]
