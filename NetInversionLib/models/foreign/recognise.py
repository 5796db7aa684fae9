"""Published weights recognised by their names and shapes, as the project's own models.

Sources: ldct-benchmark (Eulig, Ommer & Kachelriess, Med. Phys. 2024;51:8776, arXiv:2401.04661) and
ldct-invariances (the same, Med. Phys. 2025;52:188), which work on (HU + 1024 - mean) / std; the
repositories of L. A. Zavala-Mondragon (``networks.shrinkage``), which work on HU; DnCNN and DRUNet
of KAIR, SRCNN and ESPCN, which work on images of 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ... import networks
from .. import published_flow, published_vae
from ..card import DENOISING, IMAGE_TO_IMAGE, SAMPLING, Card, Channel, ModelError
from ..model import Model
from .description import Description, Image
from .formats import without_prefix

LOW_HU = 481.45419786099086 - 1024
CT = Channel("CT", "ct", "HU", LOW_HU, LOW_HU + 502.18507379395044)
HU = Channel("CT", "ct", "HU", 0.0, 1000.0)
EULIG = (
    "The weights of ldct-benchmark were trained on LDCT-and-Projection-data (Mayo Clinic, TCIA,"
    " restricted licence); their repository is MIT-licensed and names no licence of the weights"
)
ZAVALA = (
    "The weights of L. A. Zavala-Mondragon were trained on LDCT-and-Projection-data (Mayo Clinic,"
    " TCIA, restricted licence) unless their name says no data; their repositories are licensed"
    " under BSD-3-Clause"
)


@dataclass(frozen=True)
class Published:
    """A file of weights that is known by its SHA-256.

    Attributes:
        title: Of the network.
        sources: What its authors say of the weights.
        arguments: What the weights alone do not tell.
    """

    title: str
    sources: str
    arguments: Mapping[str, object] = field(default_factory=dict)


PUBLISHED = {
    "ee96e494c8eda02e946464df29cf43c14163e63bc4b1df6d8907ee33a1a18c3e": Published("CNN-10", EULIG),
    "058ae58264a00116e5620ed88047e687c7e93c8b732bfd6d7796e76bae0c74f3": Published("RED-CNN", EULIG),
    "1ad87d16aefea99a9eeb474c33127971131cc21a07e129bf464c764cf9ca6003": Published(
        "WGAN-VGG", EULIG
    ),
    "c6faad8376994fe22eadc0a723f81705fda6f435f40ef0f999666e871216ac5e": Published(
        "DU-GAN's generator", EULIG
    ),
    "3313f1758c81fafe3994ef14e03b5adbe007c8ffee1d9b415f6cab12bfa010a3": Published(
        "LWFSN", ZAVALA, {"residual": False}
    ),
    "fce36e431f85c34ca4b308176ea8f40846c108519d7fe506dc35a485ac5ddc68": Published(
        "rLWFSN", ZAVALA, {"residual": True}
    ),
    "d9eeb50f536f062d3fcb0f87c0cd7ab32304176bdc6f79d4a07b528416ccf3fb": Published("DHSN1", ZAVALA),
    "88f76c953b3d3855081311a8a836da325f1c19cb9316bee7748fc100766a8890": Published(
        "DHSN1, new", ZAVALA
    ),
    "f6fb593b6d7213d90de770fa8142958a28c8b6ca6200cd71592889d61c6c045b": Published("DHSN2", ZAVALA),
    "0b43012c1097eecdb8f3c794df92a5d6c8a8709732234bf0fc8f3531cdaf5ab1": Published(
        "DHSN2, trained without data", ZAVALA
    ),
    "ba7db742f0dad337ef827bc88fd3348340a3f12d3251cf787f794776ef4fa4b4": Published(
        "RED with shared kernels", ZAVALA
    ),
}
INTENDED = "Denoising of low-dose CT, as published. Research use only, never for diagnosis."


@dataclass(frozen=True)
class Recognised:
    """Weights of an architecture that this version has.

    Attributes:
        architecture, arguments: As ``networks.build`` takes them.
        network: With the weights, in eval mode.
        words: What it is.
        task: Of its card.
        channel: Its image; None where its images are 0 to 1 of what the user says.
        undecided: An argument that the weights do not tell, or "".
    """

    architecture: str
    arguments: dict
    network: nn.Module
    words: str
    task: str
    channel: Channel | None = CT
    undecided: str = ""


def recognise(state: Mapping[str, Tensor]) -> Recognised | None:
    """The network that weights belong to, by their names and shapes; None where it is not known.

    Raises:
        ModelError: They are those of a known network, but not all there.
    """
    for weights in (state, without_prefix(state)):
        for names, make in _KNOWN.items():
            if set(names) <= weights.keys():
                return make(weights)
    return None


def _denoiser(
    architecture: str,
    words: str,
    arguments: Callable[[Mapping[str, Tensor]], dict],
    channel: Channel | None = CT,
    undecided: str = "",
) -> Callable[[Mapping[str, Tensor]], Recognised | None]:
    def make(state: Mapping[str, Tensor]) -> Recognised | None:
        try:
            given = arguments(state)
        except (KeyError, IndexError):
            return None
        try:
            with torch.device("meta"):
                network = networks.build(architecture, **given)
        except ValueError:
            return None
        if {n: w.shape for n, w in network.state_dict().items()} != {
            n: w.shape for n, w in state.items()
        }:
            return None
        network.load_state_dict({n: w.float() for n, w in state.items()}, assign=True)
        network.eval().requires_grad_(False)
        return Recognised(architecture, given, network, words, DENOISING, channel, undecided)

    return make


def _vae(state: Mapping[str, Tensor]) -> Recognised:
    try:
        network = published_vae.from_published(state)
    except ValueError as error:
        raise ModelError(str(error)) from error
    arguments = published_vae.published_arguments(state)
    return Recognised("vae", arguments, network, "the autoencoder of ldct-invariances", SAMPLING)


def _flow(state: Mapping[str, Tensor]) -> Recognised:
    try:
        network = published_flow.from_published(state)
    except ValueError as error:
        raise ModelError(str(error)) from error
    arguments = published_flow.published_arguments(state)
    words = (
        "the flow of ldct-invariances. Its published code leaves the last activation out of the"
        " log-determinant; here the true one is computed, which changes no sample"
    )
    return Recognised("cinn", arguments, network, words, SAMPLING)


def _dncnn(state: Mapping[str, Tensor]) -> dict:
    weights = [w for n, w in state.items() if n.endswith("weight")]
    first = state["model.0.weight"]
    if len(weights) == 7:
        raise ModelError(
            "seven convolutions called model.0 to model.12 are IRCNN's (with dilation) or a small"
            " DnCNN's: the names do not tell. Name the class with --architecture"
        )
    return {"channels": first.shape[1], "width": first.shape[0], "depth": len(weights)}


def _dncnn_of_deepinv(state: Mapping[str, Tensor]) -> Recognised | None:
    """deepinv's DnCNN adds what the convolutions give: the last one is turned round."""
    depth = 2 + sum(name.startswith("conv_list.") for name in state if name.endswith("weight"))
    renamed = {}
    for name, weight in state.items():
        layer, _, part = name.rpartition(".")
        place = {"in_conv": 0, "out_conv": depth - 1}.get(layer)
        if place is None:
            place = int(layer.rpartition(".")[2]) + 1
        renamed[f"model.{2 * place}.{part}"] = -weight if layer == "out_conv" else weight
    return _KNOWN[("model.0.weight", "model.2.weight")](renamed)


def _drunet(state: Mapping[str, Tensor]) -> dict:
    blocks = {n.split(".")[1] for n in state if n.startswith("m_body.")}
    downs = [state[f"m_down{level}.{len(blocks)}.weight"] for level in (1, 2, 3)]
    return {
        "channels": state["m_tail.weight"].shape[0],
        "widths": [downs[0].shape[1], *(down.shape[0] for down in downs)],
        "blocks": len(blocks),
    }


def _shared_red(state: Mapping[str, Tensor]) -> Recognised | None:
    """RED-CNN with one kernel for four layers, on HU: as one with four equal ones, on HU / 1000."""
    shared = {"conv_first": ["conv1"], "conv_t_last": ["tconv5"]}
    shared["conv"] = ["conv2", "conv3", "conv4", "conv5"]
    shared["conv_t"] = ["tconv1", "tconv2", "tconv3", "tconv4"]
    whole: dict[str, Tensor] = {}
    for name, weight in state.items():
        layer, _, part = name.rpartition(".")
        # Of an image in other units the biases change alone: between them are only ReLUs and sums.
        scale = (HU.high or 1.0) - HU.low if part == "bias" else 1.0
        whole |= {f"{n}.{part}": weight / scale for n in shared.get(layer, ())}
    found = _redcnn(whole)
    return None if found is None else replace(found, words="RED with shared kernels", channel=HU)


def _srcnn(state: Mapping[str, Tensor]) -> dict:
    first, second, third = (state[f"conv{n}.weight"] for n in (1, 2, 3))
    return {
        "channels": first.shape[1],
        "widths": [first.shape[0], second.shape[0]],
        "kernels": [weight.shape[-1] for weight in (first, second, third)],
    }


def _srcnn_of_lornatang(state: Mapping[str, Tensor]) -> Recognised | None:
    names = {"features.0": "conv1", "map.0": "conv2", "reconstruction": "conv3"}
    parts = {name: name.rpartition(".") for name in state}
    return _KNOWN[SRCNN](
        {f"{names.get(parts[n][0], n)}.{parts[n][2]}": weight for n, weight in state.items()}
    )


def _espcn(state: Mapping[str, Tensor]) -> dict:
    first, second = (state[f"first_part.{n}.weight"] for n in (0, 2))
    fine, channels = state["last_part.0.weight"].shape[0], first.shape[1]
    return {
        "scale": math.isqrt(fine // channels),
        "channels": channels,
        "widths": [first.shape[0], second.shape[0]],
    }


def _levels(state: Mapping[str, Tensor]) -> int:
    return len({name.split(".")[1] for name in state if name.startswith("shrink.")})


_redcnn = _denoiser(
    "redcnn",
    "RED-CNN (DU-GAN's generator has the same layers)",
    lambda state: {"out_ch": state["conv1.weight"].shape[0]},
)
SRCNN = ("conv1.weight", "conv2.weight", "conv3.weight")
_KNOWN: dict[tuple[str, ...], Callable[[Mapping[str, Tensor]], Recognised | None]] = {
    ("layers.0.weight", "layers.4.weight"): _denoiser(
        "cnn10", "CNN-10", lambda state: {"last_kernel": state["layers.4.weight"].shape[-1]}
    ),
    ("net.0.weight", "net.14.weight"): _denoiser(
        "wganvgg", "the generator of WGAN-VGG", lambda state: {}
    ),
    ("conv1.weight", "tconv5.weight"): _redcnn,
    ("model.0.weight", "model.2.weight"): _denoiser("dncnn", "DnCNN", _dncnn, None),
    ("in_conv.weight", "conv_list.0.weight", "out_conv.weight"): _dncnn_of_deepinv,
    ("m_head.weight", "m_body.0.res.0.weight", "m_tail.weight"): _denoiser(
        "drunet", "DRUNet", _drunet, None
    ),
    ("decoder.decoder.colorize.weight",): _vae,
    ("flow.sub_layers.0.norm_layer.loc",): _flow,
    ("conv_first.weight", "conv.weight", "conv_t.weight", "conv_t_last.weight"): _shared_red,
    ("shrink.0.t", "ew1.0.kern", "dw2.0.kern"): _denoiser(
        "lwfsn",
        "a learned wavelet-frame shrinkage network (LWFSN or rLWFSN)",
        lambda state: {
            "levels": _levels(state),
            "width": state["ew2.0.kern"].shape[0],
            "thresholds": state["shrink.0.t"].shape[0],
        },
        HU,
        "residual",
    ),
    ("shrink.0.convblock1.0.weight",): _denoiser(
        "dhsn", "DHSN1", lambda state: {"levels": _levels(state), "kind": 1}, HU
    ),
    ("shrink.0.w_1", "shrink.0.wp_2"): _denoiser(
        "dhsn", "DHSN2", lambda state: {"levels": _levels(state), "kind": 2}, HU
    ),
    ("first_part.0.weight", "last_part.0.weight"): _denoiser("espcn", "ESPCN", _espcn, None),
    ("features.0.weight", "map.0.weight", "reconstruction.weight"): _srcnn_of_lornatang,
    # Last: others have layers of these names too.
    SRCNN: _denoiser("srcnn", "SRCNN", _srcnn, None),
}


# As models ----------------------------------------------------------------------------------------


def denoiser_card(found: Recognised, sha256: str, file: str, name: str = "") -> Card:
    """The card of a published denoiser with its own normalisation."""
    published = PUBLISHED.get(sha256)
    title = f"{published.title}, as published" if published else f"{found.words}, {Path(file).stem}"
    channel = found.channel or CT
    return Card(
        name=name or title,
        version="published" if published else "own",
        architecture=found.architecture,
        arguments=found.arguments,
        inputs=(channel,),
        outputs=(channel,),
        dimensions=2,
        orientation="LPS",
        spacing_mm=(0.3, 1.5),
        size_multiple=found.network.size_multiple,
        trained_on=("not told by the file",),
        sources=published.sources if published else "not told by the file",
        licence="not told by the file",
        intended_use=INTENDED,
        training={"file": file, "file SHA-256": sha256},
        task=found.task,
    )


def image_card(
    found: Recognised, sha256: str, file: str, told: Description, name: str = ""
) -> Card:
    """The card of a denoiser of images between 0 and 1, whatever these mean.

    Args:
        found: As ``recognise`` gives it.
        sha256, file: Where it comes from.
        told: Its first input says what 0 and 1 are.
        name: Of the model.

    Raises:
        ModelError: The description scales otherwise than by a range.
    """
    count = found.network.in_channels
    names = [f"Image {n + 1}" for n in range(count)] if count > 1 else ["Image"]
    images = told.inputs or tuple(Image(n, "", "range", 0.0, 1.0) for n in names)
    if len(images) != count or any(i.low is None or i.high is None for i in images):
        raise ModelError(
            f"inputs: this {found.words} takes {count} images; say of each its low and high, which"
            " become 0 and 1"
        )
    if any(i.scaling not in (None, "range") or i.to != (0.0, 1.0) for i in images):
        raise ModelError(f"scaling: images of a {found.words} are 0 to 1: give low and high only")
    taken = tuple(
        Channel(i.name, i.role, i.units, float(i.low or 0), float(i.high or 0)) for i in images
    )
    given = tuple(replace(c, name=f"Denoised {c.name}", role=f"denoised_{c.role}") for c in taken)
    of_ct = all(channel.units == "HU" for channel in taken)
    return replace(
        denoiser_card(found, sha256, file, name),
        inputs=taken,
        outputs=given,
        size_multiple=found.network.size_multiple,
        spacing_mm=told.spacing_mm,
        intended_use="Denoising of images, as published. Research use only.",
        task=DENOISING if of_ct and count == 1 else IMAGE_TO_IMAGE,
    )


def sampler_of(vae: Recognised, flow: Recognised, denoiser: Model, name: str = "") -> Model:
    """A published autoencoder and its flow as the sampler of their denoiser.

    Both are conditioned on what the denoiser gives.

    Args:
        vae, flow: As ``recognise`` gives them.
        denoiser: Whose output they were trained on.

    Raises:
        ModelError: They are not such a pair, or do not fit each other.
    """
    if (vae.architecture, flow.architecture) != ("vae", "cinn"):
        raise ModelError(
            f"a sampler is an autoencoder and a flow; these are {vae.words} and {flow.words}"
        )
    arguments = {"vae": vae.arguments, "flows": {"output": flow.arguments}}
    try:
        with torch.device("meta"):
            network = networks.build("ct_sampler", **arguments)
    except ValueError as error:
        raise ModelError(f"the autoencoder and the flow do not fit each other: {error}") from error
    state = {f"vae.{key}": value for key, value in vae.network.state_dict().items()}
    state |= {f"flows.0.{key}": value for key, value in flow.network.state_dict().items()}
    network.load_state_dict(state, assign=True)
    card = Card(
        name=name or f"Published sampler of {denoiser.card.name}",
        version="published",
        architecture="ct_sampler",
        arguments=arguments,
        inputs=(CT,),
        outputs=(CT,),
        dimensions=2,
        orientation="LPS",
        spacing_mm=(0.3, 1.5),
        size_multiple=network.size_multiple,
        trained_on=("not told by the files",),
        sources=EULIG,
        licence="not told by the files",
        intended_use="Drawing what a CT denoiser does not notice. Research use only.",
        quality={"log-determinant": flow.words},
        training={"denoiser": denoiser.card.name, "denoiser SHA-256": denoiser.sha256},
        task=SAMPLING,
    )
    return Model(network.eval().requires_grad_(False), card, Path("sampler"), "")
