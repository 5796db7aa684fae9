"""Which changes of its input a network answers to, and which are lost."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

UNSEEN = 1e-4
"""An answer below this is none: of single precision nothing is left."""
DEAF = 0.1
"""A direction is lost to the network where it answers by less than this."""
STEP = 0.01
"""Of the changes, in the network's units of 0 to 1."""
AT_ONCE = 32

Network = Callable[[Tensor], Tensor]


def answers(network: Network, given: Tensor, channel: int = 0, side: int = 16) -> Tensor:
    """How strongly a network answers to each direction of a square in the middle of its input.

    Args, returns:
        As ``spectrum``; the strengths alone.
    """
    return torch.linalg.svdvals(_derivative(network, given, channel, side)[0])


def spectrum(
    network: Network, given: Tensor, channel: int = 0, side: int = 16
) -> tuple[Tensor, Tensor]:
    """How strongly a network answers to each direction of a square, and which shows least.

    These are the singular values of its derivative there, by finite differences.

    Args:
        network: Of images (N, C, H, W), or of volumes.
        given: One image, (C, H, W), or volume.
        channel: What is changed of it.
        side: Of the square, or cube, in the middle, in voxels.

    Returns:
        (side^2,) or (side^3,), the strongest first; 1 shows a change at its own size. And the
        direction of the last one, (H, W) or (K, J, I), of norm 1.
    """
    rows, places = _derivative(network, given, channel, side)
    directions, values, _ = torch.linalg.svd(rows, full_matrices=False)
    least = torch.zeros(given.shape[1:])
    least[places.unbind(1)] = directions[:, -1]
    return values, least


def _derivative(network: Network, given: Tensor, channel: int, side: int) -> tuple[Tensor, Tensor]:
    """What each voxel of the square changes, (side^2, all of the output), and where they are."""
    corner = [(length - side) // 2 for length in given.shape[1:]]
    places = torch.cartesian_prod(*(first + torch.arange(side) for first in corner))
    before = network(given[None])
    answered = []
    for some in places.split(AT_ONCE):
        changed = given.repeat(len(some), *[1] * given.ndim)
        which = torch.arange(len(some)), torch.tensor(channel), *some.unbind(1)
        changed[which] += STEP
        answered.append((network(changed) - before).flatten(1) / STEP)
    return torch.cat(answered), places


def lost(values: Tensor) -> tuple[float, float]:
    """Shares of the directions that nothing answers to, and to which the answer is below 0.1.

    Args:
        values: Of ``answers``.
    """
    unseen = values < UNSEEN
    return float(unseen.float().mean()), float(((values < DEAF) & ~unseen).float().mean())


def spot(shape: tuple[int, ...], radius: float, height: float) -> Tensor:
    """A small bright spot in the middle of an image, (H, W), or of a volume.

    Args:
        shape: Of the image.
        radius: Standard deviation of its bell, in voxels.
        height: Of its top.
    """
    away = torch.meshgrid(*(torch.arange(n) - n // 2 for n in shape), indexing="ij")
    squared = torch.stack(away).square().sum(0)
    return height * torch.exp(-squared / (2 * radius**2))


def shown(network: Network, given: Tensor, change: Tensor, channel: int = 0) -> float:
    """How much of a change of its input a network shows: norm of the answer over the change's.

    Args:
        network: Of images (N, C, H, W).
        given: One image, (C, H, W).
        change: Of one channel, (H, W).
        channel: Which it is.
    """
    changed = given.clone()
    changed[channel] += change
    before, after = network(torch.stack([given, changed]))
    return float((after - before).norm() / change.norm())
