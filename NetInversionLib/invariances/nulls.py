"""Networks that a denoiser's blindness is compared with.

One shows everything, the other is a Gaussian blur that takes away as much noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IDENTITY, BLUR = "no network at all", "a blur of equal noise"
WIDEST = 12.0  # voxels, standard deviation
HALVINGS = 12


class Identity(nn.Module):
    """Gives what it is given: nothing is hidden from it above the tolerance."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) as they are."""
        return x.clone()


class Blur(nn.Module):
    """A Gaussian blur; beyond the image its border goes on.

    Args:
        sigma: Standard deviation, voxels.
    """

    def __init__(self, sigma: float):
        super().__init__()
        self.sigma = sigma
        reach = max(1, math.ceil(3 * sigma))
        taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / max(sigma, 1e-6)) ** 2)
        self.register_buffer("taps", taps / taps.sum())
        self.reach = reach

    def forward(self, x: Tensor) -> Tensor:
        """Blurred images, (N, 1, H, W)."""
        taps = self.get_buffer("taps").to(x)
        x = F.pad(x, (self.reach,) * 4, mode="replicate")
        return F.conv2d(F.conv2d(x, taps[None, None, None]), taps[None, None, :, None])


def equal_blur(network: nn.Module, image: Tensor, noise: Tensor) -> Blur:
    """The blur that leaves as much of some noise as a network does.

    Args:
        network: A denoiser.
        image: (1, 1, H, W), normalised, to which the noise is added.
        noise: (1, 1, H, W), normalised.
    """
    with torch.no_grad():
        left = float((network(image + noise) - network(image)).std())
        low, high = 0.0, WIDEST
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            if float(Blur(middle)(noise).std()) > left:
                low = middle
            else:
                high = middle
    return Blur((low + high) / 2)
