"""What the search makes small beside the error: the error of the input blurred, and the distance
from the patient's images.

Fine patterns below a scanner's resolution move a network most; an input that has to serve blurred
too cannot live on them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..optimise.objective import Objective
from .knobs import noise_sigma
from .settings import BLUR_VOXELS

LEAST_NOISE = 0.01
"""Of a channel's range: images without noise, or nearly, may change as those with this much."""
REACH = 4
"""Standard deviations after which a blur ends."""

ValueAndGradient = Callable[..., tuple[Tensor, Tensor]]


def blurred(images: Tensor, sigma: float = BLUR_VOXELS) -> Tensor:
    """Images (N, C, *space) blurred by a Gaussian, each channel by itself; differentiable.

    Args:
        images: With two or three axes of space; beyond the border their last values go on.
        sigma: Standard deviation, voxels.
    """
    reach = math.ceil(REACH * sigma)
    places = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    taps = torch.exp(-0.5 * (places / sigma) ** 2)
    taps = taps / taps.sum()
    for axis in range(2, images.dim()):
        lines = images.movedim(axis, -1)
        flat = F.pad(lines.reshape(-1, 1, lines.shape[-1]), (reach, reach), mode="replicate")
        images = F.conv1d(flat, taps[None, None]).reshape(lines.shape).movedim(-1, axis)
    return images


def noise_deviations(patient: Tensor) -> Tensor:
    """Standard deviation of each channel's noise, (1, C, 1, ...), at least ``LEAST_NOISE``.

    Args:
        patient: Normalised, shape (images, C, *space).
    """
    found = [max(LEAST_NOISE, noise_sigma(channel.cpu().numpy())) for channel in patient.unbind(1)]
    return patient.new_tensor(found).reshape(1, -1, *[1] * (patient.dim() - 2))


def priced(
    objective: Objective,
    patient: Tensor,
    sigma: Tensor | None,
    near: Tensor | None,
    weight: float,
) -> ValueAndGradient:
    """The objective, with that of the blurred input and the price of distance.

    Args:
        objective: Of the images.
        patient: Normalised, shape (images, C, *space).
        sigma: Standard deviation of each channel's noise, (1, C, 1, ...); None without a price.
        near: Price for each row, (rows,): near / 1000 at a root-mean-square distance of one
            standard deviation over the voxels whose error counts, and with its square. None:
            distance costs nothing.
        weight: Of the blurred input's objective beside the input's own; the two are averaged.

    Returns:
        As ``Objective.value_and_gradient``; row r is about image ``items[r]`` modulo images, at
        price ``near[items[r]]``.
    """

    counted = counted_voxels(objective, patient)

    def value_and_gradient(
        x: Tensor, items: Tensor, rounding: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        value, gradient = objective.value_and_gradient(x, items, rounding)
        if weight:
            with torch.enable_grad():
                free = x.detach().requires_grad_()
                soft = blurred(free)
            other, slope = objective.value_and_gradient(soft.detach(), items, rounding)
            (slope,) = torch.autograd.grad(soft, free, slope)
            value = (value + weight * other) / (1 + weight)
            gradient = (gradient + weight * slope) / (1 + weight)
        if near is None or sigma is None:
            return value, gradient
        prices = near[items] / 1000 / counted[items % len(patient)]
        scaled = (x - patient[items % len(patient)]) / sigma
        column = prices.reshape(-1, *[1] * (x.dim() - 1))
        value = value + prices * scaled.square().flatten(1).sum(1)
        return value, gradient + 2 * column * scaled / sigma

    return value_and_gradient


def counted_voxels(objective: Objective, patient: Tensor) -> Tensor:
    """Voxels of all channels where the error counts, for each image, (images,).

    Per such voxel a price weighs against the error, whatever lies around the region.

    Args:
        objective: Of the images.
        patient: Of shape (images, C, *space).
    """
    return objective.weight.flatten(1).sum(1).clamp(min=1) * patient.shape[1]


def squared_change(images: Tensor, patient: Tensor, sigma: Tensor) -> Tensor:
    """Sum of the squared changes of each image, (images,), in its noise's deviations.

    Args:
        images: (images, C, *space).
        patient: Of the same shape and unit.
        sigma: Standard deviation of each channel's noise, (1, C, 1, ...), in that unit.
    """
    return ((images - patient) / sigma).square().flatten(1).sum(1)


def distance(images: Tensor, patient: Tensor, sigma: Tensor, free: Tensor) -> float:
    """Root-mean-square change of images, in standard deviations of their own noise, over the voxels
    that may change.

    Args:
        images: (images, C, *space).
        patient: Of the same shape and unit.
        sigma: Standard deviation of each channel's noise, (1, C, 1, ...), in that unit.
        free: 1 where they may change and 0 elsewhere, of the shape of ``images``.
    """
    squares = ((images - patient) / sigma).square() * free
    return float((squares.sum() / free.sum().clamp(min=1)).sqrt())


def has_noise(sigma: Tensor) -> bool:
    """Whether each channel has noise that a change can be compared with.

    Args:
        sigma: Of ``noise_deviations``.
    """
    return bool((sigma > LEAST_NOISE).all())
