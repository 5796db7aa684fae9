"""Weights of an autoencoder as its authors published them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..networks.vae import VAE
from .published_flow import converted_actnorm

# Published checkpoints ----------------------------------------------------------------------------

# Published names and ours; what is not listed has the same name after "encoder.model." or
# "decoder.decoder.".
_RENAMED = (
    ("encoder.model.fc.sub_layers.0.", "encoder.fc."),
    ("encoder.model.", "encoder."),
    ("decoder.map_to_class_embedding.main.", "decoder.classes."),
    ("decoder.decoder.", "decoder."),
    (".module.", "."),
    (".weight_bar", ".weight"),
    (".weight_u", ".u"),
    (".GBlock.", ".blocks."),
    (".HyperBN.", ".norm0."),
    (".HyperBN_1.", ".norm1."),
    (".bn.", "."),
    ("_embed.", "."),
    (".conv_sc.", ".shortcut."),
    ("decoder.linear.", "decoder.embedding."),
    (".G_linear.", ".start."),
    (".colorize.", ".image."),
)


def from_published(state: Mapping[str, Tensor]) -> VAE:
    """The network of a published checkpoint (class BigAE of ldct-invariances), in eval mode.

    Args:
        state: Its ``model_state_dict``.

    Raises:
        ValueError: It is not one of these.
    """
    try:
        with torch.device("meta"):
            network = VAE(**published_arguments(state))
        network.load_state_dict(_converted(state), assign=True)
    except (KeyError, RuntimeError, IndexError) as error:
        raise ValueError(f"these are not the weights of a published BigAE: {error}") from error
    return network.eval()


def published_arguments(state: Mapping[str, Tensor]) -> dict:
    """What ``VAE`` is built with for a published checkpoint."""
    blocks = 0
    while f"decoder.decoder.GBlock.{blocks}.conv0.module.bias" in state:
        blocks += 1
    entry, last = (
        state[f"decoder.decoder.GBlock.{n}.conv_sc.module.weight_bar"] for n in (0, blocks - 1)
    )
    start, image = (
        state["decoder.decoder.G_linear.module.weight_bar"],
        state["decoder.decoder.colorize.weight"],
    )
    latents, width = state["encoder.model.fc.sub_layers.0.weight"].shape[0] // 2, last.shape[0]
    condition = image.shape[1] - width
    start_size = round((start.shape[0] / (entry.shape[1] - condition)) ** 0.5)
    classes = state["decoder.decoder.linear.weight"].shape[1]
    return {
        "latents": latents,
        "image_channels": image.shape[0],
        "condition_channels": condition,
        "encoder": "resnet101" if "encoder.model.layer3.22.conv1.weight" in state else "resnet50",
        "encoder_width": state["encoder.model.conv1.weight"].shape[0],
        "size": start_size << blocks,
        "blocks": blocks,
        "decoder_width": width,
        "code": (latents - start.shape[1]) // blocks,
        "classes": classes,
        "class_hidden": state["decoder.map_to_class_embedding.main.0.weight"].shape[0],
    }


def _converted(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state under our names.

    The second vectors of the spectral norms are never read, nor are counts of batches.
    """
    last_norm = "decoder.decoder.ScaledCrossReplicaBN."
    new = {
        "decoder.initialised": torch.tensor(True),
        **converted_actnorm(state, last_norm, "decoder.norm."),
    }
    for name, value in state.items():
        if name.endswith((".weight_v", ".num_batches_tracked")) or name.startswith(last_norm):
            continue
        for theirs, ours in _RENAMED:
            name = name.replace(theirs, ours)
        new[name] = value
    return new
