"""How a denoiser's own estimate of the noise's level is trained.

And how a training begins with the weights of another network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..networks.noise_level import LEVEL_OF_ONE, LearnedLevel, local_mean
from .pairs import CHANNEL

SPAN_HU = CHANNEL.high - CHANNEL.low
QUIETEST_HU = 5.0  # less noise is learnt as so much: images are divided by the level
LOUD_HU = 15.0  # what is quieter than this counts less: it cannot be told from a CT's own noise
BODY = (-500.0 - CHANNEL.low) / SPAN_HU
IN_AIR = 0.1  # what a voxel of air weighs


def learned_level(network: nn.Module) -> LearnedLevel | None:
    """The part of a denoiser that estimates the level, where that is trained."""
    return next((part for part in network.modules() if isinstance(part, LearnedLevel)), None)


def level_error(estimate: LearnedLevel, low: Tensor, normal: Tensor) -> Tensor:
    """Mean square of the logarithm of estimated to true level.

    Args:
        estimate: In training.
        low, normal: (N, 1, H, W), in the network's units.
    """
    level, _ = estimate(low)
    true = local_mean((low - normal).square()).sqrt().clamp(min=QUIETEST_HU / SPAN_HU)
    weight = torch.where(normal > BODY, 1.0, IN_AIR)
    weight = weight * true.square() / (true.square() + (LOUD_HU / SPAN_HU) ** 2)
    return (weight * torch.log(level / (LEVEL_OF_ONE * true)).square()).sum() / weight.sum()


def begin_with(network: nn.Module, other: nn.Module) -> None:
    """Take over another network's weights; an estimate that it does not have stays as it is.

    Raises:
        ValueError: It has other layers.
    """
    problem = "the network to begin with has other layers than the one to be trained"
    try:
        missing, unknown = network.load_state_dict(other.state_dict(), strict=False)
    except RuntimeError as error:
        raise ValueError(problem) from error
    if unknown or any(not name.startswith("told.") for name in missing):
        raise ValueError(problem)
