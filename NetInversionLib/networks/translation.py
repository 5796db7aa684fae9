"""Two networks that turn one contrast into another and back.

Source: Zhu, Park, Isola & Efros, ICCV 2017, arXiv:1703.10593 (CycleGAN); on T1 and T2 Welander,
Karlsson & Eklund, arXiv:1806.07777.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .registry import register
from .unet import VoxelUNet


@register("cycle_translation")
class CycleTranslation(nn.Module):
    """A U-Net there, and another back: it gives the image in the other contrast and in its own.

    Args:
        features: Of either ``UNet``.
    """

    dimensions = 2
    in_channels, out_channels = 1, 2

    def __init__(self, features=(8, 16, 32)):
        super().__init__()
        self.there = VoxelUNet(2, 1, 1, features, 16)
        self.back = VoxelUNet(2, 1, 1, features, 16)
        self.size_multiple = self.there.size_multiple

    def forward(self, x: Tensor) -> Tensor:
        """The other contrast, and the image again that comes back of it: (N, 2, H, W).

        Args:
            x: (N, 1, H, W), values of 0 to 1.
        """
        other = self.there(x)
        return torch.cat([other, self.back(other)], 1)
