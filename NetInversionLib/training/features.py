"""What the perceptual term of a training compares: a layer of another network."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from .. import models, networks
from ..models.foreign.formats import weights_of
from ..models.library import SUFFIX
from ..networks.layers import UpTo
from ..networks.vgg import LAST_CONVOLUTION
from .pairs import CHANNEL

SECOND_CONVOLUTION = 4  # with its ReLU, of a denoiser


def read_features(path: Path | str, device: torch.device | str = "cpu") -> models.Model:
    """A network to take features of: a model file, or torchvision's file of VGG-19 (.pth).

    Raises:
        models.ModelError: It is neither, or PyTorch, before 2.6, cannot open the latter safely.
    """
    path = Path(path)
    if path.suffix == SUFFIX:
        return models.load(path, device)
    state = weights_of(path)
    try:
        network = networks.build("vgg19")
        network.load_state_dict({k: v for k, v in state.items() if k.startswith("features.")})
    except RuntimeError as error:
        raise models.ModelError(
            f"{path.name} is neither a model file nor torchvision's VGG-19 ({error})"
        ) from error
    card = models.Card(
        name="VGG-19",
        version="torchvision",
        architecture="vgg19",
        arguments={},
        inputs=(CHANNEL,),
        outputs=(CHANNEL,),
        dimensions=2,
        orientation="LPS",
        spacing_mm=(0.1, 10.0),
        size_multiple=1,
        trained_on=("ImageNet",),
        sources="torchvision",
        licence="as torchvision's weights",
        intended_use="Features for the perceptual term of a training.",
        task=models.FEATURES,
    )
    identity = hashlib.sha256(path.read_bytes()).hexdigest()
    return models.Model(network.to(device).eval().requires_grad_(False), card, path, identity)


def features_of(model: models.Model, layer: str | int | None = None) -> UpTo:
    """The perceptual loss's features: a layer of another network.

    Of VGG-19 the sixteenth convolution, of a denoiser what comes behind its second, unless a layer
    is named.
    """
    usual = LAST_CONVOLUTION if model.card.architecture == "vgg19" else SECOND_CONVOLUTION
    return UpTo(model.network, layer or usual, torch.zeros(1, 1, 64, 64))
