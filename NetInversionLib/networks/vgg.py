"""VGG-19's convolutions, for the perceptual term of WGAN-VGG, with the key names of torchvision.

The weights are not ours to ship: whoever has torchvision's file names it in a training.

Sources: Simonyan & Zisserman, ICLR 2015, arXiv:1409.1556; Yang et al., IEEE TMI 2018;37:1348 (the
    output of the sixteenth convolution).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .registry import register

CONVOLUTIONS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
LAST_CONVOLUTION = "features.34"
# A normalised CT (``training.pairs.CHANNEL``) from -1024 to 3071 HU becomes an image from 0 to 1.
LOWEST, SPAN = -481.45419786099086 / 502.18507379395044, 4095 / 502.18507379395044
MEANS, DEVIATIONS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours


@register("vgg19")
class VGG19(nn.Module):
    """The sixteen convolutions with their ReLUs and poolings."""

    dimensions = 2
    size_multiple = 1
    smallest_size = 32

    def __init__(self):
        super().__init__()
        layers: list[nn.Module] = []
        taken = 3
        for given, count in CONVOLUTIONS:
            for _ in range(count):
                layers += [nn.Conv2d(taken, given, 3, padding=1), nn.ReLU()]
                taken = given
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Features of CT images (N, 1, H, W), in the denoisers' units: (N, 512, H / 32, W / 32)."""
        grey = (x - LOWEST) / SPAN
        colours = [(grey - mean) / deviation for mean, deviation in zip(MEANS, DEVIATIONS)]
        return self.features(torch.cat(colours, 1))
