"""Weights of a conditional flow as its authors published them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..networks.cinn import CINN

# Published checkpoints ----------------------------------------------------------------------------


def from_published(state: Mapping[str, Tensor]) -> CINN:
    """The network of a published checkpoint, in eval mode.

    Class ConditionalTransformer of ldct-invariances.

    Everything is read off the tensors, the last activation's slope of 0.9 excepted. The
    log-determinant is the true one.

    Args:
        state: Its ``model_state_dict``.

    Raises:
        ValueError: It is not one of these.
    """
    try:
        arguments = published_arguments(state)
        with torch.device("meta"):
            flow = CINN(**arguments)
        flow.load_state_dict(_converted(state, arguments), assign=True)
    except (KeyError, RuntimeError, IndexError) as error:
        raise ValueError(
            f"these are not the weights of a published ConditionalTransformer: {error}"
        ) from error
    return flow.eval()


def published_arguments(state: Mapping[str, Tensor]) -> dict:
    """What ``CINN`` is built with for a published checkpoint."""
    first = state["flow.sub_layers.0.coupling.s.0.main.0.weight"]
    downs = _count(state, "embedder.feature_layers.{}.sub_layers.0.weight")
    last = state["embedder.dense_encode.sub_layers.0.weight"]
    entry = (
        state["embedder.feature_layers.0.sub_layers.0.weight"] if downs else last.transpose(0, 1)
    )
    return {
        "channels": state["flow.sub_layers.0.norm_layer.loc"].shape[1],
        "condition_channels": entry.shape[1],
        "condition_size": last.shape[-1] << downs,
        "blocks": _count(state, "flow.sub_layers.{}.norm_layer.loc"),
        "hidden": first.shape[0],
        "depth": _count(state, "flow.sub_layers.0.coupling.s.0.main.{}.weight", step=2) - 2,
        "features": last.shape[0],
        "downs": downs,
        "embedder_width": entry.shape[0] if downs else 64,
        "negative_slope": 0.9,
    }


def _converted(state: Mapping[str, Tensor], arguments: dict) -> dict[str, Tensor]:
    """Our names and shapes.

    The first layers are cut into the latents' and the condition's part, and scales are logarithms.
    """
    half, yes = arguments["channels"] // 2, torch.tensor(True)
    new = {"initialised": yes, "embedder.initialised": yes.clone()}
    for n in range(arguments["blocks"]):
        ours, theirs = f"blocks.{n}.", f"flow.sub_layers.{n}."
        new |= converted_actnorm(state, theirs + "norm_layer.", ours + "norm.")
        new[ours + "shuffle_keys"] = state[theirs + "shuffle.backward_shuffle_idx"].float()
        for i in range(2):
            for name, letter in (("log_scale", "s"), ("shift", "t")):
                a, b = f"{ours}couplings.{i}.{name}.", f"{theirs}coupling.{letter}.{i}.main."
                weight = state[b + "0.weight"]
                new |= {
                    a + "first.weight": weight[:, :half].clone(),
                    a + "condition.weight": weight[:, half:].clone(),
                    a + "condition.bias": state[b + "0.bias"],
                }
                names = [f"middle.{k}" for k in range(arguments["depth"])] + ["last"]
                for k, layer in enumerate(names, 1):
                    new |= {
                        f"{a}{layer}.{part}": state[f"{b}{2 * k}.{part}"]
                        for part in ("weight", "bias")
                    }
    for n in range(arguments["downs"]):
        theirs = f"embedder.feature_layers.{n}.sub_layers."
        new[f"embedder.convolutions.{n}.weight"] = state[theirs + "0.weight"]
        new |= converted_actnorm(state, theirs + "1.", f"embedder.norms.{n}.")
    return new | {
        f"embedder.last.{part}": state[f"embedder.dense_encode.sub_layers.0.{part}"]
        for part in ("weight", "bias")
    }


def converted_actnorm(state: Mapping[str, Tensor], theirs: str, ours: str) -> dict[str, Tensor]:
    """A published ActNorm's weights by the names of ``ActNorm``.

    Args:
        state: A published ``state_dict``; its tensors have the shape (1, C, 1, 1).
        theirs: Prefix of the published names.
        ours: Prefix of the names here.

    Raises:
        ValueError: It never saw data.
    """
    if not state[theirs + "initialized"].item():
        raise ValueError(f"{theirs}initialized is 0: this network was never trained")
    scale = state[theirs + "scale"].flatten()
    return {
        ours + "bias": state[theirs + "loc"].flatten(),
        ours + "log_scale": scale.abs().log(),
        ours + "sign": scale.sign(),
    }


def _count(state: Mapping[str, Tensor], pattern: str, step: int = 1) -> int:
    n = 0
    while pattern.format(n * step) in state:
        n += 1
    return n
