"""The sampler of invariances: by hand the same images, and any size.

Also: files that ask for what does not fit or for too much.
"""

import json
import math
import struct
from dataclasses import asdict

import pytest
import torch
from toy_samplers import FLOW, VAE_MAPS

from NetInversionLib import models, networks
from NetInversionLib.networks.cinn import CINN
from NetInversionLib.networks.sampler import MAX_FLOWS, Sampler
from NetInversionLib.training.denoiser import CHANNEL

VAE_VECTORS = {
    "latents": 6,
    "condition_channels": 0,
    "encoder": "small",
    "encoder_width": 2,
    "size": 16,
    "blocks": 2,
    "decoder_width": 2,
    "code": 1,
    "classes": 0,
    "attention": False,
}
MAP_FLOW = {
    **FLOW,
    "channels": 4,
    "condition_channels": 3,
    "condition_size": 32,
    "spatial": True,
    "latent_size": 8,
}
VECTOR_FLOW = {**FLOW, "channels": 6, "condition_channels": 3, "condition_size": 16}


def as_if_trained(vae: dict, flow: dict) -> Sampler:
    """Couplings that do something."""
    torch.manual_seed(0)
    sampler = Sampler(vae, {"layers.2": flow, "output": {**flow, "condition_channels": 1}})
    with torch.no_grad():
        for weight in sampler.flows.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return sampler.eval().requires_grad_(False)


@pytest.mark.parametrize(
    "vae, flow, size",
    [
        (VAE_MAPS, MAP_FLOW, (32, 32)),
        (VAE_MAPS, MAP_FLOW, (20, 48)),
        (VAE_VECTORS, VECTOR_FLOW, (16, 16)),
    ],
)
def test_samples_are_decoded_samples_of_the_layers_flow(vae, flow, size):
    sampler, z = as_if_trained(vae, flow), torch.randn(1, 3, *size)
    found = sampler.given("layers.2", z)(5, torch.Generator().manual_seed(3))
    maps = [n // 4 for n in size] if flow.get("spatial") else []
    noise = torch.randn(5, flow["channels"], *maps, generator=torch.Generator().manual_seed(3))
    mine = sampler.flows[0]
    latents = mine.inverse(noise, mine.embed(z, tuple(maps) or None))
    torch.testing.assert_close(found, sampler.vae.decode(latents), rtol=1e-5, atol=1e-5)
    assert found.shape == (5, 1, *size) and found.std(0).min() > 0
    other = sampler.given("layers.2", z + 1)(5, torch.Generator().manual_seed(3))
    assert (other - found).abs().max() > 1e-4


def test_a_layer_smaller_than_the_image_is_told_the_images_size():
    sampler, z = as_if_trained(VAE_MAPS, MAP_FLOW), torch.randn(1, 3, 26, 26)
    assert sampler.given("layers.2", z, size=(32, 32))(2).shape == (2, 1, 32, 32)
    with pytest.raises(ValueError, match="multiples of 4"):
        sampler.given("layers.2", z)


def test_the_whole_is_the_autoencoder():
    sampler, x = as_if_trained(VAE_MAPS, MAP_FLOW), torch.randn(2, 1, 16, 16)
    assert torch.equal(sampler(x), sampler.vae(x)[0])
    odd = sampler(x[..., :13, :14])
    assert odd.shape == (2, 1, 13, 14)
    repeated = torch.cat([x[..., :13, :], x[..., 12:13, :].expand(-1, -1, 3, -1)], 2)
    repeated = torch.cat([repeated[..., :14], repeated[..., 13:14].expand(-1, -1, -1, 2)], 3)
    torch.testing.assert_close(odd, sampler.vae(repeated)[0][..., :13, :14])


def test_wrong_uses_are_refused():
    sampler = as_if_trained(VAE_MAPS, MAP_FLOW)
    with pytest.raises(
        ValueError,
        match="no flow was trained for layer 'layers.9'; there are flows for layers.2, output",
    ):
        sampler.given("layers.9", torch.randn(1, 3, 32, 32))
    with pytest.raises(ValueError, match="for none"):
        Sampler(VAE_MAPS).flow("output")
    for shape in ((2, 3, 32, 32), (1, 2, 32, 32), (1, 3, 34, 32)):
        with pytest.raises(ValueError):
            sampler.given("layers.2", torch.randn(shape))


@pytest.mark.parametrize(
    "arguments, reason",
    [
        ({"vae": {**VAE_MAPS, "latents": 10**9}}, "latents"),
        ({"vae": VAE_MAPS, "flows": {"a": {**MAP_FLOW, "hidden": 10**9}}}, "hidden"),
        ({"vae": VAE_MAPS, "flows": {"a": {**MAP_FLOW, "channels": 6}}}, "layer 'a' does not take"),
        ({"vae": VAE_MAPS, "flows": {"a": VECTOR_FLOW}}, "layer 'a' does not take"),
        ({"vae": VAE_MAPS, "flows": {str(n): MAP_FLOW for n in range(MAX_FLOWS + 1)}}, "at most"),
        ({"vae": VAE_MAPS, "flows": [MAP_FLOW]}, "tables"),
        ({"vae": 3}, "tables"),
        ({}, "vae"),
        ({"vae": VAE_MAPS, "flows": {"a": 3}}, "arguments"),
        ({"vae": {**VAE_MAPS, "surprise": 1}}, "surprise"),
    ],
)
def test_hostile_arguments_are_refused_before_there_are_weights(tmp_path, arguments, reason):
    with pytest.raises(ValueError, match=reason), torch.device("meta"):
        networks.build("ct_sampler", **arguments)
    path = tmp_path / "hostile.safetensors"
    card = {"format": models.FORMAT, **asdict(card_of(arguments))}
    header = json.dumps({"__metadata__": {models.METADATA_KEY: json.dumps(card)}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(models.ModelError):
        models.load(path)


def card_of(arguments: dict) -> models.Card:
    return models.Card(
        "s",
        "1",
        "ct_sampler",
        arguments,
        (CHANNEL,),
        (CHANNEL,),
        2,
        "LPS",
        (0.5, 3.5),
        4,
        ("a",),
        "none",
        "MIT",
        "tests",
    )


def test_a_file_gives_back_the_same_samples(tmp_path):
    """Layers in their order, not the alphabet's: weights belong to places."""
    sampler = as_if_trained(VAE_MAPS, MAP_FLOW)
    backwards = {"output": {**MAP_FLOW, "condition_channels": 1}, "layers.2": MAP_FLOW}
    turned = Sampler(VAE_MAPS, backwards)
    turned.vae, turned.flows = sampler.vae, torch.nn.ModuleList(reversed(sampler.flows))
    models.save(tmp_path / "s.safetensors", turned, card_of({"vae": VAE_MAPS, "flows": backwards}))
    loaded = models.load(tmp_path / "s.safetensors").network
    assert loaded.layers == ["output", "layers.2"] and loaded.size_multiple == 4
    z = torch.randn(1, 3, 16, 16)
    draws = [s.given("layers.2", z)(3, torch.Generator().manual_seed(1)) for s in (sampler, loaded)]
    assert torch.equal(*draws)


def test_an_untrained_flow_draws_from_the_prior():
    """Latents are the noise, in another order, and their likelihood is that of the normal.

    This is because last layers start at zero.
    """
    flow = CINN(**MAP_FLOW).eval()
    z, x = torch.randn(1, 3, 32, 32), torch.randn(2, 4, 8, 8)
    expected = -0.5 * x.double().square().sum((1, 2, 3)) - 0.5 * x[0].numel() * math.log(
        2 * math.pi
    )
    torch.testing.assert_close(flow.log_prob(x, flow.embed(z)), expected)
