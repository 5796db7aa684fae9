"""Sampler of what a denoiser's layer leaves open.

It is an autoencoder of low-dose images and, for each layer, a conditional flow.

Samples are x = D(t^-1(v | z)), v standard normal, z the layer's activations: images that the layer
should not tell apart, as far as autoencoder and flow are right. Source: Eulig, Ommer & Kachelriess,
Proc. SPIE 12304, 123040S (2022).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .cinn import CINN
from .registry import register
from .vae import VAE

MAX_FLOWS = 64


@register("ct_sampler")
class Sampler(nn.Module):
    """One autoencoder, and flows of its latents.

    Each flow goes by the name of the layer that it is conditioned on.

    Args:
        vae: Arguments of ``VAE``.
        flows: Arguments of ``CINN`` by layer, as ``layers.UpTo.layer`` names it; none for an
            autoencoder alone.

    Raises:
        ValueError: For arguments out of range, or flows that do not fit the autoencoder's latents.
    """

    dimensions = 2

    def __init__(self, vae: dict, flows: dict | None = None):
        super().__init__()
        flows = flows or {}
        if not isinstance(vae, dict) or not isinstance(flows, dict) or len(flows) > MAX_FLOWS:
            raise ValueError(
                f"vae and flows must be tables of arguments, at most {MAX_FLOWS} flows"
            )
        self.vae = VAE(**vae)
        self.layers = list(flows)
        self.flows = nn.ModuleList(CINN(**arguments) for arguments in flows.values())
        for layer, flow in zip(self.layers, self.flows):
            if (flow.channels, flow.spatial) != (self.vae.latents, self.vae.spatial):
                raise ValueError(
                    f"the flow of layer {layer!r} does not take the autoencoder's latents"
                )
        self.size_multiple = self.vae.size_multiple

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """The autoencoder: D(E(x)), with the posterior's mean.

        Args:
            x: (N, image_channels, H, W); any size where latents are maps.
            condition: (N, condition_channels, H, W), or None.

        Returns:
            Images of the shape of x.
        """
        height, width = x.shape[2:]
        margin = (
            (0, -width % self.size_multiple, 0, -height % self.size_multiple)
            if self.vae.spatial
            else (0, 0, 0, 0)
        )
        x, condition = (
            t if t is None or not any(margin) else F.pad(t, margin, mode="replicate")
            for t in (x, condition)
        )
        return self.vae(x, condition)[0][..., :height, :width]

    def flow(self, layer: str) -> CINN:
        """The flow of a layer.

        Raises:
            ValueError: It has none; says which have one.
        """
        if layer not in self.layers:
            raise ValueError(
                f"no flow was trained for layer {layer!r}; there are flows for"
                f" {', '.join(self.layers) or 'none'}"
            )
        return self.flows[self.layers.index(layer)]

    def given(
        self,
        layer: str,
        z: Tensor,
        condition: Tensor | None = None,
        size: tuple[int, int] | None = None,
    ) -> Callable[[int, torch.Generator | None], Tensor]:
        """A function of (count, generator) that draws images which the layer sees as z.

        Of shape (count, image_channels, H, W).

        What depends on z alone is computed here, once.

        Args:
            z: (1, C, H, W), the layer's activations.
            condition: What the autoencoder sees beside the image, if it does.
            size: (H, W) of the images, multiples of ``size_multiple``; by default z's. Where
                latents are vectors the autoencoder has a size of its own, and this is not used.

        Raises:
            ValueError: No flow for this layer, or z or size does not fit.
        """
        flow, size = self.flow(layer), tuple(size or z.shape[2:])
        if len(z) != 1 or (self.vae.spatial and any(n % self.size_multiple for n in size)):
            raise ValueError(
                "one image's activations, and images whose sides are multiples of"
                f" {self.size_multiple}, are needed; the activations' shape is {tuple(z.shape)},"
                f" the images' {size}"
            )
        latent_size = tuple(n // self.size_multiple for n in size) if self.vae.spatial else None
        with torch.no_grad():
            prepared = flow.prepared(flow.embed(z, latent_size))

        def draw(count: int, generator: torch.Generator | None = None) -> Tensor:
            with torch.no_grad():
                return self.vae.decode(prepared.sample(count, 1.0, generator), condition)

        return draw
