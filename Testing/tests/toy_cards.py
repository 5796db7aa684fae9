"""Model files for tests: a card and a small network that fits it."""

from dataclasses import replace

import torch

from NetInversionLib import networks
from NetInversionLib.models import Card, Channel

INPUTS = (
    Channel("MR", "mr", "a.u.", 0.0, None, percentile=99.0),
    Channel("Fat fraction", "fat", "", -0.5, 1.5),
)


OUTPUTS = (Channel("CT", "ct", "HU", -1000.0, 2000.0),)


def make_card(**changes) -> Card:
    card = Card(
        name="tiny",
        version="1",
        architecture="unet",
        arguments={"in_channels": 2, "features": [3, 4]},
        inputs=INPUTS,
        outputs=OUTPUTS,
        dimensions=2,
        orientation="LPS",
        spacing_mm=(1.0, 3.0),
        size_multiple=2,
        trained_on=("nothing",),
        sources="random numbers",
        licence="MIT",
        intended_use="tests",
    )
    return replace(card, **changes)


def make_network(seed=0, **changes):
    torch.manual_seed(seed)
    return networks.build("unet", **{"in_channels": 2, "features": [3, 4], **changes})
