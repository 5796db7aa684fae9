"""Small networks in three dimensions: finer voxels, and the place of a tumour.

Sources: Sanchez & Vilaplana, arXiv:1812.11440 (SRGAN in three dimensions); Cirillo, Abramian &
Eklund, arXiv:2003.13653 (Vox2Vox).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .reconstruction import whole
from .registry import register
from .unet import UNet, pad_to_multiple

MAX_WIDTH, MAX_DEPTH, MAX_FACTOR = 128, 16, 4


@register("volume_super_resolution")
class VolumeSuperResolution(nn.Module):
    """Residual blocks on the coarse grid; the last layer gives the fine voxels as channels.

    It takes a coarse volume on the fine grid, each of its voxels repeated, and gives the fine one:
    linear interpolation, and what the blocks add. Only means over a coarse voxel are looked at.

    Args:
        factor: Fine voxels along each side of a coarse one, 2 to 4.
        width: Channels of each convolution.
        depth: How many blocks of two convolutions there are.

    Raises:
        ValueError: An argument is out of its limits.
    """

    dimensions = 3
    in_channels = out_channels = 1

    def __init__(self, factor: int = 2, width: int = 16, depth: int = 4):
        super().__init__()
        self.factor = self.size_multiple = whole("factor", factor, MAX_FACTOR, 2)
        whole("width", width, MAX_WIDTH)
        whole("depth", depth, MAX_DEPTH)
        self.first = nn.Conv3d(1, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(width, width, 3, padding=1),
                nn.LeakyReLU(0.2),
                nn.Conv3d(width, width, 3, padding=1),
            )
            for _ in range(depth)
        )
        self.last = nn.Conv3d(width, factor**3, 3, padding=1)
        nn.init.zeros_(self.last.weight)  # training begins with linear interpolation
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """The fine volume, of the shape of x: (N, 1, K, J, I), values of 0 to 1."""
        kept = tuple(slice(length) for length in x.shape[2:])
        coarse = F.avg_pool3d(pad_to_multiple(x, self.factor), self.factor)
        smooth = F.interpolate(
            coarse, scale_factor=self.factor, mode="trilinear", align_corners=False
        )
        found = self.first(coarse)
        for block in self.blocks:
            found = found + block(found)
        fine = smooth + fine_voxels(self.last(F.leaky_relu(found, 0.2)), self.factor)
        return fine[(...,) + kept]


def fine_voxels(channels: Tensor, factor: int) -> Tensor:
    """Channels (N, factor^3, K, J, I) as the fine voxels of each: (N, 1, fK, fJ, fI)."""
    parts = channels.unflatten(1, (factor, factor, factor))
    woven = parts.permute(0, 4, 1, 5, 2, 6, 3)
    return woven.flatten(5, 6).flatten(3, 4).flatten(1, 2)[:, None]


@register("vox2vox")
class Vox2Vox(nn.Module):
    """A U-Net of two contrasts says of each voxel whether it is tumour, and whether its core.

    Args:
        features: Of the ``UNet``.
    """

    dimensions = 3
    in_channels = out_channels = 2

    def __init__(self, features=(8, 16, 32)):
        super().__init__()
        self.unet = UNet(3, 2, 2, features)
        self.size_multiple = self.unet.size_multiple

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities, (N, 2, K, J, I), of volumes (N, 2, K, J, I), values of 0 to 1."""
        return torch.sigmoid(self.unet(x))
