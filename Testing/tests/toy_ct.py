"""CT slices and denoisers whose invariances are known."""

import numpy as np
from torch import nn
from toy_models import LPS, channel, model

from NetInversionLib.core.progress import Progress
from NetInversionLib.core.volumes import Volume
from NetInversionLib.invariances import invariances
from NetInversionLib.invariances.settings import Settings

HU = (channel("ct", "HU", -542.5, -40.3),)


SCALE = 502.2


def denoiser(network):
    return model(network.eval().requires_grad_(False), inputs=HU, outputs=HU, name="denoiser")


def averaging(kernel=5):
    conv = nn.Conv2d(1, 1, kernel, padding=kernel // 2, padding_mode="zeros", bias=False)
    nn.init.constant_(conv.weight, 1 / kernel**2)
    return conv


def body(size=(40, 44), slices=2, noise=30.0, matrix=LPS, seed=0):
    """A disk of soft tissue in air, with noise."""
    rng = np.random.default_rng(seed)
    hu = np.full((slices, *size), -1000.0)
    inside = np.hypot(*(np.indices(size) - np.array(size)[:, None, None] / 2)) < 0.42 * min(size)
    hu[:, inside] = 40 + noise * rng.normal(size=(slices, int(inside.sum())))
    return Volume(hu.astype(np.float32), matrix, "low dose", "HU")


def run(volume, network, progress=None, **changes):
    chosen = {
        "samples": 12,
        "projected": 6,
        "shown": 2,
        "epsilon_hu": 1.0,
        "proposals": ("texture",),
        "device": "cpu",
        "max_evaluations": 200,
        **changes,
    }
    return invariances(
        {"low_dose": volume},
        {"denoiser": denoiser(network)},
        Settings(**chosen),
        progress or Progress(),
    )
