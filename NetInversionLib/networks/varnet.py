"""A network that makes images of under-sampled k-space of several coils.

It takes real and imaginary part of each coil's k-space, then the mask that says where it was
measured, whole lines of it; what stands where the mask is 0 is not looked at. K-space is that of
``fourier.centred_fft``, and the image's brightest tissue is about 1.

Source: Sriram, Zbontar, Murrell, Defazio, Zitnick, Yakubova, Knoll & Johnson, MICCAI 2020,
arXiv:2004.06688 (end-to-end variational network).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .fourier import as_channels, as_complex, centred_fft, middle_lines
from .reconstruction import IMAGE_RANGE, KSPACE_RANGE, MAX_STEPS, Enhancer, whole
from .registry import register
from .unet import UNet

MAX_COILS = 31
LEAST = 1e-12
"""Of a squared magnitude, so that its root has a gradient."""


def in_coils(x: Tensor) -> tuple[Tensor, Tensor]:
    """K-space (N, coils, H, W) and mask (N, H, W) of a network's input of 0 to 1."""
    parts = (x[:, :-1] - 0.5) * (2 * KSPACE_RANGE)
    mask = x[:, -1]
    return mask[:, None] * torch.complex(parts[:, ::2], parts[:, 1::2]), mask


def root_sum_of_squares(images: Tensor) -> Tensor:
    """Complex images of coils, (N, coils, H, W), as one magnitude, (N, H, W)."""
    return (images.real.square() + images.imag.square()).sum(1).add(LEAST).sqrt()


@register("varnet")
class VarNet(nn.Module):
    """Steps towards what was measured, with a network beside each, on the k-space of all coils.

    What each coil sees is estimated inside: of the middle lines, by a small network.

    Args:
        coils: How many there are.
        cascades: Steps.
        width, depth: Of the networks beside them.
        features: Of the ``UNet`` that estimates what coils see.
    """

    dimensions = 2
    size_multiple = 1
    out_channels = 1

    def __init__(
        self, coils: int = 8, cascades: int = 5, width: int = 16, depth: int = 4, features=(4, 8)
    ):
        super().__init__()
        whole("coils", coils, MAX_COILS)
        whole("cascades", cascades, MAX_STEPS)
        self.in_channels = 2 * coils + 1
        self.estimate = UNet(2, 2, 2, features)
        self.estimate.begin_with_nothing()  # training begins with the middle lines alone
        self.enhancers = nn.ModuleList(Enhancer(width, depth) for _ in range(cascades))
        self.step = nn.Parameter(torch.ones(cascades))

    def sensitivities(self, measured: Tensor, mask: Tensor) -> Tensor:
        """What each coil sees, (N, coils, H, W), complex; the sum of squares is 1.

        Args:
            measured: K-space, (N, coils, H, W).
            mask: (N, H, W).
        """
        coarse = centred_fft(middle_lines(mask)[:, None] * measured, inverse=True)
        each = as_channels(coarse.flatten(0, 1))  # one image after the other
        found = as_complex(each + self.estimate(each)).view_as(coarse)
        return found / root_sum_of_squares(found)[:, None]

    def coil_images(self, measured: Tensor, mask: Tensor) -> Tensor:
        """The images of all coils, (N, coils, H, W), complex.

        Args:
            measured: K-space, (N, coils, H, W).
            mask: (N, H, W).
        """
        seen = self.sensitivities(measured, mask)
        kspace = measured
        for enhancer, step in zip(self.enhancers, self.step):
            images = centred_fft(kspace, inverse=True)
            image = as_channels((seen.conj() * images).sum(1))
            added = as_complex(enhancer(image) - image)
            misfit = mask[:, None] * (kspace - measured)
            kspace = kspace - step * misfit + centred_fft(seen * added[:, None])
        return centred_fft(kspace, inverse=True)

    def forward(self, x: Tensor) -> Tensor:
        """K-space of coils and mask to the image, in units of 0 to 1.

        Args:
            x: (N, 2 coils + 1, H, W): 0.5 is a k-space of 0, and the mask is 0 or 1.

        Returns:
            The magnitude, (N, 1, H, W): the root of the coils' sum of squares.
        """
        images = self.coil_images(*in_coils(x))
        return root_sum_of_squares(images)[:, None] / IMAGE_RANGE
