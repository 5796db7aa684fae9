"""Samplers with random weights, and files of a denoiser with one made for it."""

import torch
from toy_ct import HU

from NetInversionLib import models, networks
from NetInversionLib.models.card import SAMPLING
from NetInversionLib.networks.sampler import Sampler
from NetInversionLib.training.denoiser import CHANNEL

VAE = {
    "latents": 4,
    "condition_channels": 0,
    "encoder": "small",
    "encoder_width": 2,
    "blocks": 2,
    "decoder_width": 4,
    "attention": False,
    "spatial": True,
}


FLOW = {
    "channels": 4,
    "condition_size": 32,
    "blocks": 2,
    "hidden": 8,
    "depth": 1,
    "features": 4,
    "downs": 2,
    "embedder_width": 4,
    "spatial": True,
    "latent_size": 8,
}


def random_sampler(layers=("output",), vae=None, **flow):
    """A sampler with random weights whose flows do something.

    ``layers`` may give the channels of each.
    """
    torch.manual_seed(0)
    channels = layers if isinstance(layers, dict) else dict.fromkeys(layers, 1)
    network = Sampler(
        vae or VAE,
        {name: {**FLOW, "condition_channels": n, **flow} for name, n in channels.items()},
    )
    with torch.no_grad():
        for flow in network.flows:
            for weight in flow.blocks.parameters():
                weight.add_(0.05 * torch.randn_like(weight))
    return network.eval().requires_grad_(False)


def card(network, **changes):
    fields = dict(
        name="Sampler of the denoiser",
        version="1",
        architecture="ct_sampler",
        arguments={},
        inputs=HU,
        outputs=HU,
        dimensions=2,
        orientation="LPS",
        spacing_mm=(0.5, 3.5),
        size_multiple=getattr(network, "size_multiple", 1),
        trained_on=("nothing",),
        sources="none",
        licence="MIT",
        intended_use="Tests.",
        task=SAMPLING,
        training={"denoiser": "denoiser", "denoiser SHA-256": "0" * 64},
    )
    return models.Card(**{**fields, **changes})


def saved(folder, name="sampler", **changes):
    """Paths of a denoiser's file and of a sampler made for it."""
    torch.manual_seed(1)
    one = card(
        None,
        architecture="cnn10",
        arguments={"last_kernel": 3},
        inputs=(CHANNEL,),
        outputs=(CHANNEL,),
        size_multiple=1,
        task="denoising",
        training={},
        name="Denoiser",
    )
    network = random_sampler({"layers.0": 64, "layers.4": 1})
    path = models.save(folder / "denoiser.safetensors", networks.build("cnn10", last_kernel=3), one)
    flows = {
        name: {**FLOW, "condition_channels": n} for name, n in (("layers.0", 64), ("layers.4", 1))
    }
    arguments = {"vae": VAE, "flows": flows}
    training = {"denoiser": "Denoiser", "denoiser SHA-256": models.load(path).sha256}
    made = card(
        network,
        arguments=arguments,
        inputs=(CHANNEL,),
        outputs=(CHANNEL,),
        **{"training": training, **changes},
    )
    return path, models.save(folder / f"{name}.safetensors", network, made)
