"""Small networks whose best input is known, as models with cards, and volumes to go with them."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from NetInversionLib.core.volumes import Volume
from NetInversionLib.models import Card, Channel, Model


def channel(role, units="", low=0.0, high=1.0, percentile=None):
    """By default in the network's own units, so that expected values can be read off."""
    return Channel(
        role.replace("_", " "), role, units, low, None if percentile else high, percentile
    )


def model(network, inputs=("mr",), outputs=("ct",), dimensions=2, multiple=1, name="toy"):
    """A network as a ``Model``: roles or ``Channel``s for its inputs and outputs."""
    inputs, outputs = (
        tuple(channel(c) if isinstance(c, str) else c for c in cs) for cs in (inputs, outputs)
    )
    card = Card(
        name,
        "1",
        "toy",
        {},
        inputs,
        outputs,
        dimensions,
        "LPS",
        (0.1, 10.0),
        multiple,
        ("nothing",),
        "none",
        "MIT",
        "tests",
    )
    return Model(network.eval().requires_grad_(False), card, Path(f"{name}.safetensors"), "0" * 64)


def linear(weights, bias=None, dimensions=2):
    """Every output voxel from the same input voxel: y = W x + b, W (outputs, inputs)."""
    weights = torch.as_tensor(np.asarray(weights), dtype=torch.float32)
    conv = (nn.Conv2d if dimensions == 2 else nn.Conv3d)(weights.shape[1], weights.shape[0], 1)
    with torch.no_grad():
        conv.weight.copy_(weights.reshape(conv.weight.shape))
        conv.bias.copy_(torch.zeros(len(weights)) if bias is None else torch.as_tensor(bias))
    return conv


def random_matrix(seed, spacing=(1.0, 1.0, 1.0)):
    """IJK-to-RAS of an oblique grid."""
    from scipy.spatial.transform import Rotation

    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.random(random_state=seed).as_matrix() * spacing
    matrix[:3, 3] = np.random.default_rng(seed).normal(scale=50, size=3)
    return matrix


LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def volume(array, name="image", matrix=LPS, units=""):
    return Volume(np.asarray(array, np.float32), matrix, name, units)


def smooth(shape, seed, low=0.2, high=0.8):
    """A random blurred image between ``low`` and ``high``."""
    from scipy import ndimage

    image = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.0)
    return (low + (high - low) * (image - image.min()) / np.ptp(image)).astype(np.float32)
