"""A network that says how one image has to be moved to look like another.

Source: Balakrishnan, Zhao, Sabuncu, Guttag & Dalca, IEEE TMI 2019;38:1788, arXiv:1809.05231
(VoxelMorph).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .registry import register
from .unet import UNet


def warp(image: Tensor, displacement: Tensor, mode: str = "bilinear") -> Tensor:
    """An image (N, C, H, W), read where a displacement says, linearly between its voxels.

    Args:
        image: What is moved; beyond its edges it has their values.
        displacement: (N, 2, H, W), in voxels along rows and columns: at (y, x) the image's value at
            (y, x) + displacement is put.
        mode: "nearest" for labels, which have nothing between them.
    """
    height, width = image.shape[2:]
    rows, columns = torch.meshgrid(
        torch.arange(height, dtype=image.dtype, device=image.device),
        torch.arange(width, dtype=image.dtype, device=image.device),
        indexing="ij",
    )
    # From -1 at the first voxel's centre to 1 at the last one's; columns come first.
    y = 2 * (rows + displacement[:, 0]) / max(1, height - 1) - 1
    x = 2 * (columns + displacement[:, 1]) / max(1, width - 1) - 1
    places = torch.stack([x, y], -1)
    return F.grid_sample(image, places, mode, padding_mode="border", align_corners=True)


@register("voxelmorph")
class VoxelMorph(nn.Module):
    """A U-Net that sees both images finds the displacement; the moving image is moved by it.

    It takes the moving and the fixed image, and gives the moved one.

    Args:
        features: Of the ``UNet``.
    """

    dimensions = 2
    in_channels, out_channels = 2, 1

    def __init__(self, features=(12, 24, 24, 24)):
        super().__init__()
        self.unet = UNet(2, 2, 2, features)
        self.size_multiple = self.unet.size_multiple
        self.unet.begin_with_nothing()  # training begins with the image where it is

    def displacement(self, x: Tensor) -> Tensor:
        """Of images (N, 2, H, W), moving and fixed: (N, 2, H, W), as ``warp`` takes it."""
        return self.unet(x)

    def forward(self, x: Tensor) -> Tensor:
        """The moved image, (N, 1, H, W), of moving and fixed image, (N, 2, H, W)."""
        return warp(x[:, :1], self.displacement(x))
