"""The critic of a Wasserstein GAN and its gradient penalty (Gulrajani et al., arXiv:1704.00028)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .registry import register
from .vae import require_whole

# Critic -------------------------------------------------------------------------------------------


@register("ct_critic")
class Critic(nn.Module):
    """How real images look, one number each.

    Strided 4 x 4 convolutions, a 3 x 3, a 1 x 1 and a linear layer.

    Args:
        image_channels, condition_channels: Of the images and of what they are judged beside (0:
            nothing).
        width: Channels of the first convolution; doubled by each further one, up to eight times.
        downs: Strided convolutions; images have at least ``2 ** (downs + 1)`` voxels in each
            direction.

    Raises:
        ValueError: For arguments out of range.
    """

    def __init__(
        self, image_channels: int = 1, condition_channels: int = 1, width: int = 64, downs: int = 5
    ):
        super().__init__()
        for name, value, least, most in (
            ("image_channels", image_channels, 1, 16),
            ("width", width, 1, 256),
            ("condition_channels", condition_channels, 0, 16),
            ("downs", downs, 1, 8),
        ):
            require_whole(name, value, least, most)
        self.smallest = 2 ** (downs + 1)
        widths = [
            image_channels + condition_channels,
            *(width * min(8, 2**n) for n in range(downs)),
        ]
        layers: list[nn.Module] = []
        for n, (i, o) in enumerate(zip(widths, widths[1:])):
            layers += [
                nn.Conv2d(i, o, 4, 2, 1),
                *[nn.InstanceNorm2d(o, affine=True)] * (n > 0),
                nn.LeakyReLU(0.2),
            ]
        last = widths[-1]
        layers += [
            nn.Conv2d(last, last, 3, padding=1),
            nn.InstanceNorm2d(last, affine=True),
            nn.LeakyReLU(0.2),
            nn.Conv2d(last, last, 1),
            nn.LeakyReLU(0.2),
        ]
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(last, 1)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Scores of images beside their condition.

        Args:
            x: Of shape (N, image_channels, H, W).
            condition: Of shape (N, condition_channels, H, W), or None.

        Returns:
            Of shape (N,) scores without a unit; higher is more like a real image.
        """
        if min(x.shape[2:]) < self.smallest:
            raise ValueError(
                f"the critic needs at least {self.smallest} x {self.smallest} voxels, not"
                f" {tuple(x.shape[2:])}"
            )
        x = x if condition is None else torch.cat([x, condition], 1)
        return self.linear(self.layers(x).mean((2, 3)))[:, 0]


def gradient_penalty(
    critic: nn.Module,
    real: Tensor,
    made: Tensor,
    condition: Tensor | None = None,
    place: Tensor | None = None,
) -> Tensor:
    """Mean square by which the critic's gradient misses length 1.

    Between made (place 0) and real images (place 1).

    WGAN-GP adds ten times this to the critic's loss.

    Args:
        place: (N, 1, 1, 1), 0 to 1; random if None.
    """
    place = torch.rand(len(real), 1, 1, 1) if place is None else place
    between = torch.lerp(made.detach(), real.detach(), place.to(real)).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between, condition).sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()
