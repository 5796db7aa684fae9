"""An autoencoder with skip connections that removes noise from an image.

Source: Bermudez, Plassard, Davis, Newton, Resnick & Landman, Proc. SPIE 2018;10574:105742L.
"""

from __future__ import annotations

from torch import Tensor, nn

from .registry import register
from .unet import UNet


@register("denoising_autoencoder")
class DenoisingAutoencoder(nn.Module):
    """An encoder and a decoder with skips between their levels find the noise, which is taken away.

    Args:
        features: Of the ``UNet``.
    """

    dimensions = 2
    in_channels = out_channels = 1

    def __init__(self, features=(12, 24, 48)):
        super().__init__()
        self.unet = UNet(2, 1, 1, features)
        self.size_multiple = self.unet.size_multiple
        self.unet.begin_with_nothing()  # training begins with the image as it is

    def forward(self, x: Tensor) -> Tensor:
        """The image without its noise, of the shape of x: (N, 1, H, W), values of 0 to 1."""
        return x - self.unet(x)
