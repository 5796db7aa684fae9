"""Images and their k-space, and complex images as the two channels that networks take."""

from __future__ import annotations

import torch
from torch import Tensor


def centred_fft(image: Tensor, inverse: bool = False) -> Tensor:
    """The orthonormal Fourier transform (..., H, W) of the last two axes.

    Zero frequency and the image's origin are in the middle.
    """
    transform = torch.fft.ifft2 if inverse else torch.fft.fft2
    shifted = torch.fft.ifftshift(image, (-2, -1))
    return torch.fft.fftshift(transform(shifted, norm="ortho"), (-2, -1))


def as_complex(channels: Tensor) -> Tensor:
    """Real and imaginary parts, (N, 2, ...), as complex images (N, ...)."""
    return torch.complex(channels[:, 0], channels[:, 1])


def as_channels(image: Tensor) -> Tensor:
    """Complex images (N, ...) as their real and imaginary parts, (N, 2, ...)."""
    return torch.stack([image.real, image.imag], 1)


def middle_lines(mask: Tensor) -> Tensor:
    """The measured lines that hang together with the middle one, (N, H, W), 1 where one is.

    Args:
        mask: (N, H, W), 1 where k-space was measured.
    """
    middle = mask.shape[1] // 2
    after = mask[:, middle:].cumprod(1)
    before = mask[:, :middle].flip(1).cumprod(1).flip(1)
    return torch.cat([before, after], 1) * mask[:, middle : middle + 1]
