"""Sampler of what a denoiser's layer leaves open: an autoencoder of low-dose images and, for each layer, a conditional flow.

Samples are x = D(t^-1(v | z)), v standard normal, z the layer's activations: images that the layer should not tell apart, as
far as autoencoder and flow are right. Source: Eulig, Ommer & Kachelriess, Proc. SPIE 12304, 123040S (2022).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from . import register
from .cinn import CINN
from .vae import VAE

MAX_FLOWS = 64


@register("ct_sampler")
class Sampler(nn.Module):
    """One autoencoder, and flows of its latents by the name of the layer that they are conditioned on.

    Args:
        vae: Arguments of ``VAE``.
        flows: Arguments of ``CINN`` by layer, as ``layers.UpTo.layer`` names it; none for an autoencoder alone.

    Raises:
        ValueError: For arguments out of range, or flows that do not fit the autoencoder's latents.
    """

    dimensions = 2

    def __init__(self, vae: dict, flows: dict | None = None):
        super().__init__()
        flows = flows or {}
        if not isinstance(vae, dict) or not isinstance(flows, dict) or len(flows) > MAX_FLOWS:
            raise ValueError(f"vae and flows must be tables of arguments, at most {MAX_FLOWS} flows")
        self.vae = VAE(**vae)
        self.layers = list(flows)
        self.flows = nn.ModuleList(CINN(**arguments) for arguments in flows.values())
        for layer, flow in zip(self.layers, self.flows):
            if (flow.channels, flow.spatial) != (self.vae.latents, self.vae.spatial):
                raise ValueError(f"the flow of layer {layer!r} does not take the autoencoder's latents")
        self.size_multiple = self.vae.size_multiple

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """The autoencoder: D(E(x)), with the posterior's mean."""
        return self.vae(x, condition)[0]

    def flow(self, layer: str) -> CINN:
        """The flow of a layer.

        Raises:
            ValueError: It has none; says which have one.
        """
        if layer not in self.layers:
            raise ValueError(f"no flow was trained for layer {layer!r}; there are flows for {', '.join(self.layers) or 'none'}")
        return self.flows[self.layers.index(layer)]

    def given(self, layer: str, z: Tensor, condition: Tensor | None = None) -> Callable[[int, torch.Generator | None], Tensor]:
        """A function of (count, generator) that draws images (count, image_channels, H, W) which the layer sees as z.

        What depends on z alone is computed here, once.

        Args:
            z: (1, C, H, W), the layer's activations at the image's size; sides are multiples of ``size_multiple``, or, where
                latents are vectors, the autoencoder's size.
            condition: What the autoencoder sees beside the image, if it does.
        """
        flow = self.flow(layer)
        size = tuple(n // self.size_multiple for n in z.shape[2:]) if self.vae.spatial else None
        with torch.no_grad():
            prepared = flow.prepared(flow.embed(z, size))

        def draw(count: int, generator: torch.Generator | None = None) -> Tensor:
            with torch.no_grad():
                return self.vae.decode(prepared.sample(count, 1.0, generator), condition)

        return draw
