"""A generator that makes images of random numbers.

Source: Bermudez, Plassard, Davis, Newton, Resnick & Landman, Proc. SPIE 2018;10574:105741L.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .reconstruction import whole
from .registry import register

MAX_WIDTH, MAX_CELLS = 128, 16
CELL = 8
"""Voxels of the image along each side of a latent's place."""
LATENT_RANGE = 4.0
"""Of the latents, whose prior is normal: what a model's card tells."""


@register("latent_generator")
class LatentGenerator(nn.Module):
    """A dense layer, then convolutions on grids of twice the sides three times.

    It takes the latents as an image, each of them a square of voxels, so that it opens like any
    other network: only the squares' means are looked at. An image of another size than it was made
    for is resized.

    Args:
        cells: Latents along each side of the image.
        width: Channels on the finest grid; twice as many on those before.

    Raises:
        ValueError: An argument is out of its limits.
    """

    dimensions = 2
    in_channels = out_channels = 1

    def __init__(self, cells: int = 10, width: int = 12):
        super().__init__()
        self.cells = whole("cells", cells, MAX_CELLS)
        self.width = whole("width", width, MAX_WIDTH)
        self.size_multiple = 1
        self.dense = nn.Linear(cells**2, 2 * width * cells**2)
        widths = [2 * width, 2 * width, 2 * width, width]
        self.layers = nn.ModuleList(
            nn.Conv2d(taken, given, 3, padding=1) for taken, given in zip(widths, widths[1:])
        )
        self.last = nn.Conv2d(width, 1, 3, padding=1)

    def generate(self, latents: Tensor) -> Tensor:
        """Images (N, 1, 8 cells, 8 cells), brightest about 2 / 3, of latents (N, cells, cells)."""
        x = self.dense(latents.flatten(1)).unflatten(1, (-1, self.cells, self.cells))
        for layer in self.layers:
            x = F.leaky_relu(x, 0.2)
            x = layer(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))
        return self.last(F.leaky_relu(x, 0.2))

    def forward(self, x: Tensor) -> Tensor:
        """An image of the latents that x shows, of its shape (N, 1, H, W); both of 0 to 1."""
        means = F.adaptive_avg_pool2d(x, self.cells)[:, 0]
        image = self.generate((means - 0.5) * (2 * LATENT_RANGE))
        if image.shape[2:] == x.shape[2:]:
            return image
        return F.interpolate(image, x.shape[2:], mode="bilinear", align_corners=False)


def latent_image(latents: Tensor) -> Tensor:
    """Latents (N, h, w) as ``LatentGenerator`` takes them, (N, 1, 8 h, 8 w), of 0 to 1."""
    squares = latents.repeat_interleave(CELL, 1).repeat_interleave(CELL, 2)
    return torch.clamp(squares[:, None] / (2 * LATENT_RANGE) + 0.5, 0, 1)
