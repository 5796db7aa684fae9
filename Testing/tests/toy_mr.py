"""Networks for Ideal Input whose best input is known, and runs on them."""

import torch
from torch import nn
from toy_models import LPS, smooth, volume

from NetInversionLib.core.progress import Progress
from NetInversionLib.ideal_input import Settings, ideal_input
from NetInversionLib.ideal_input.settings import PRESETS

SHAPE = (3, 9, 11)


def run(volumes, network, progress=None, models=None, **settings):
    """The least error at any price, unless the settings say otherwise."""
    settings = {
        **({} if settings.get("optimiser") == "published" else PRESETS["free"]),
        "device": "cpu",
        "validity": False,
        "knobs": False,
        "trade_off": False,
        "max_evaluations": 150,
        **settings,
    }
    return ideal_input(
        volumes,
        {"network": network, **(models or {})},
        Settings(**settings),
        progress or Progress(),
    )


def mixer(seed=0, channels=2, outputs=1, dimensions=2):
    """A small nonlinear network with a receptive field of 5."""
    torch.manual_seed(seed)
    conv = nn.Conv2d if dimensions == 2 else nn.Conv3d
    return nn.Sequential(
        conv(channels, 6, 3, padding=1), nn.LeakyReLU(0.1), conv(6, outputs, 3, padding=1)
    )


def two_channels(matrix=LPS, shape=SHAPE):
    return {
        "mr": volume(smooth(shape, 1), "MR", matrix),
        "fat": volume(smooth(shape, 2), "Fat", matrix),
        "ct": volume(smooth(shape, 3), "CT", matrix),
    }


def array(result, key):
    return result.volumes[key].array
