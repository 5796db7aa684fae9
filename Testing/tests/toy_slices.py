"""Small slices of made-up heads for the network families, and each row's small sibling."""

import numpy as np
import torch

from NetInversionLib import networks
from NetInversionLib.families import kspace, slices

SIDE = 32


def heads(count, seed=0):
    """Ellipses in an ellipse, (N, SIDE, SIDE), the brightest about 1."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    images = np.zeros((count, SIDE, SIDE), np.float32)
    for image in images:
        head = (x / 11) ** 2 + (y / 14) ** 2 < 1
        image[head] = 0.4
        for _ in range(6):
            a, b, *radii = rng.uniform([-6, -8, 2, 2], [6, 8, 5, 5])
            image[head & (((x - a) / radii[0]) ** 2 + ((y - b) / radii[1]) ** 2 < 1)] += 0.2
    return images.clip(0, 1)


def people(count, dimensions=2):
    made = cube if dimensions == 3 else lambda seed: heads(6, seed)
    return [slices.Slices(f"sub-{n}", made(n)) for n in range(count)]


def cube(seed):
    """Ellipses in every slice, of a head that gets narrower upwards and downwards."""
    away = np.abs(np.linspace(-1, 1, SIDE, dtype=np.float32))[:, None, None]
    return np.ascontiguousarray(heads(1, seed) * (away < 0.8) * (1 - 0.3 * away))


def a_scan(count=2, **chosen):
    return kspace.scan(heads(count), np.random.default_rng(1), **chosen)


def small(row):
    """A row's small sibling; nothing stays at the zeros that training begins with."""
    torch.manual_seed(0)
    network = networks.build(row.architecture, **row.smaller).eval()
    for weight in network.parameters():
        weight.data += 0.02 * torch.randn_like(weight)
    return network
