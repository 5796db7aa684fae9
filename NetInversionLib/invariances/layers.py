"""The layers of a denoiser that can be looked at. Only a call needs torch."""

from __future__ import annotations

from .. import models
from ..models.foreign import cards

PUBLISHED = {"cnn10": (1, 3, 5), "wganvgg": (1, 7, 13)}
"""By architecture, the numbers of the layers that the publications looked at."""


def layer_titles(denoiser: str) -> dict[str, str]:
    """{name: title} of the layers in the order of execution; the published ones have a star.

    Args:
        denoiser: Path of its model file.

    Raises:
        ValueError: The network cannot be used, or not on one image.
    """
    if cards.is_card(denoiser):  # read off when it was imported: a list runs nobody's code
        return dict(cards.read(denoiser).layers)
    from ..networks import layers

    published = PUBLISHED.get(models.read_card(denoiser).architecture, ())
    return {
        layer.name: layer.title + (" *" if layer.number in published else "")
        for layer in layers.layers(models.load(denoiser).network)
    }


def layers_with_flow(denoiser: str, sampler: str | None) -> set[str]:
    """All names of the denoiser's layers that a sampler has a flow for.

    Args:
        denoiser, sampler: Paths of their model files; without a sampler there are none.
    """
    if not sampler:
        return set()
    if cards.is_card(denoiser):
        return set(models.read_card(sampler).arguments["flows"])
    from ..networks import layers

    network = models.load(denoiser).network
    return {
        name
        for flow in models.read_card(sampler).arguments["flows"]
        for name in layers.same_values(network, flow)
    }


def names_of(denoiser: str, layer: str) -> set[str]:
    """All names of the layers whose values are those of ``layer``.

    Raises:
        LayerError: The denoiser has no such layer; says which it has.
        ValueError: The network cannot be used.
    """
    from ..networks import layers

    if cards.is_card(denoiser):
        return {layer}
    model = models.load(denoiser)
    return set(layers.same_values(model.network, layer, called=repr(model.card.name)))
