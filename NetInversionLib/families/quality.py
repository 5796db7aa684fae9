"""How near a reconstructed image is to the truth, and what reaches as much without learning."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from .kspace import Scan
from .operators import Fourier, Gradient
from .solvers import Sparse, admm

INSIDE = 0.05
"""Of the brightest tissue: where the truth is less, it is air and does not count."""
TV_WEIGHT = 0.005
"""Best of 0.005, 0.01, 0.02 and 0.05 on a person that is trained on."""
TV_ITERATIONS = 40
IN_HEAD = "PSNR in the head (dB)"
OF_REGION = "Dice of the region (%)"
"""What figures are called."""


def psnr(image: Tensor, truth: Tensor) -> list[float]:
    """Of each of complex images (N, ..., H, W): dB for a peak of 1, of the complex error inside."""
    inside = (truth.abs() > INSIDE).flatten(1)
    error = ((image - truth).abs().square().flatten(1) * inside).sum(1) / inside.sum(1)
    return [-10 * math.log10(max(float(one), 1e-12)) for one in error]


def dice(region: Tensor, truth: Tensor) -> list[float]:
    """Overlap of each of regions (N, ...) with the true one, of values above a half: percent."""
    found, wanted = ((one > 0.5).flatten(1).float() for one in (region, truth))
    both = (found * wanted).sum(1)
    return (200 * both / (found.sum(1) + wanted.sum(1)).clamp_min(1)).tolist()


def zero_filled(scan: Scan) -> Tensor:
    """Zeros where nothing was measured: (N, H, W)."""
    return Fourier(scan.mask).adjoint(scan.measured)


def total_variation(scan: Scan, weight: float = TV_WEIGHT) -> Tensor:
    """The image whose edges are sparse, by ADMM: (N, H, W)."""
    prior = Sparse(weight, Gradient(tuple(scan.mask.shape[1:])))
    return admm(Fourier(scan.mask), scan.measured, [prior], penalty=0.1, iterations=TV_ITERATIONS)


PEERS: dict[str, Callable[[Scan], Tensor]] = {
    "zero-filled": zero_filled,
    "total variation": total_variation,
}
"""By what one would do without a network: the trivial one first."""
