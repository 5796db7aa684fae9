"""Samples from a trained sampler (autoencoder and flow) around one image."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models import Model, ModelError
from ..models.card import SAMPLING
from ..networks.layers import UpTo, same_values
from .level_set import Window
from .proposals import DECODER_REACH


def placed(network: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """The network on a device, channels last.

    On a CPU its convolutions then take a quarter to a half less time.
    """
    return (
        network.to(device)
        if device.type == "mps"
        else network.to(device, memory_format=torch.channels_last)
    )


# Trained samplers ---------------------------------------------------------------------------------


def check_sampler(sampler: Model, denoiser: Model) -> None:
    """Raise ModelError where it is no sampler, or one of another denoiser.

    Likewise where its weights are not numbers.
    """
    card, network = sampler.card, sampler.network
    if card.task != SAMPLING:
        raise ModelError(
            f"{card.name!r} is a model for {card.task} and not a sampler: choose one made by"
            " 'netinversion train cinn', or none"
        )
    made_for = card.training.get("denoiser SHA-256")
    if made_for is None:
        raise ModelError(
            f"{card.name!r} is an autoencoder without flows: train them with 'netinversion train"
            " cinn'"
        )
    if made_for != denoiser.sha256:
        raise ModelError(
            f"{card.name!r} was made for {card.training.get('denoiser', 'another denoiser')!r}"
            f" (SHA-256 {str(made_for)[:12]}...) and not for {denoiser.card.name!r}"
            f" ({denoiser.sha256[:12]}...): choose that denoiser, or train a sampler for this one"
            " with 'netinversion train cinn'"
        )
    vae = network.vae
    if vae.image_channels != 1 or vae.condition_channels not in (0, 1):
        raise ModelError(
            f"the autoencoder of {card.name!r} takes more than the image and what its denoiser"
            " makes of it: choose a sampler made by 'netinversion train cinn', or a published one"
        )
    if not all(
        torch.isfinite(values).all() for values in (*network.parameters(), *network.buffers())
    ):
        raise ModelError(
            f"{card.name!r} holds weights that are not numbers: its training has failed. Choose"
            " another sampler"
        )


def flow_layer(sampler: Model, denoiser: Model, layer: str) -> str:
    """Which of a sampler's flows draws what this layer of its denoiser leaves open.

    Raises:
        ModelError: None does; says which layers have one. LayerError: The denoiser has no such
            layer.
    """
    flows = sampler.network.layers
    for name in same_values(
        denoiser.network, layer, _probe(denoiser.network), repr(denoiser.card.name)
    ):
        if name in flows:
            return name
    raise ModelError(
        f"{sampler.card.name!r} has no flow for layer {layer!r} of {denoiser.card.name!r}, only for"
        f" {', '.join(flows) or 'none'}: choose one of these layers or other proposals, or train a"
        " flow for it with 'netinversion train cinn'"
    )


def _probe(network: torch.nn.Module) -> Tensor:
    return torch.zeros(1, 1, 64, 64, device=next(network.parameters()).device)


class Sampling:
    """A sampler at work for one layer of its denoiser.

    The sampler is copied: what the caller holds can still be saved.

    Args:
        sampler, denoiser: As for ``check_sampler``, which raises what this does.
        layer: As for ``flow_layer``, likewise; None where the autoencoder alone is wanted.
    """

    def __init__(self, sampler: Model, denoiser: Model, layer: str | None, device: torch.device):
        check_sampler(sampler, denoiser)
        self.layer, self.name = layer and flow_layer(sampler, denoiser, layer), sampler.card.name
        self.facts = {**sampler.facts(), "flow": self.layer or "none used"}
        self.part, self.device = (
            UpTo(denoiser.network, layer or "output", _probe(denoiser.network)),
            device,
        )
        self.network = copy.deepcopy(sampler.network)
        self.network.vae.fold()
        placed(self.network, device)
        self.taken, self.given = sampler.card.inputs[0], sampler.card.outputs[0]
        self.denoiser = denoiser if sampler.network.vae.condition_channels else None

    def changes(
        self, hu: Tensor, x0: Tensor, region: Window
    ) -> Callable[[int, torch.Generator], Tensor]:
        """A function of (count, generator) that draws changes of a region, HU.

        Of shape (count, h, w), as they are: nothing is cut off.

        The layer's values are those of the whole slice; what is drawn is larger than the region by
        as much as the decoder looks around, so that nothing of its padding is seen.

        Args:
            hu: The slice (J, I). x0: The same as the denoiser takes it, (1, 1, J, I).

        Raises:
            ModelError: The sampler draws images of one size, and the region is larger.
        """
        window = self._window(region, tuple(hu.shape))
        with torch.no_grad():
            z = self.part(x0)
            z = _cut(z, window) if z.shape[2:] == x0.shape[2:] else self.part(_cut(x0, window))
        draw = self.network.given(self.layer, z, size=window.size, **self._told(hu, window))
        inside = region.within(window).slices
        low, span, patient = self.given.low, self.given.high - self.given.low, hu[region.slices]

        def drawn(count: int, generator: torch.Generator) -> Tensor:
            images = draw(count, generator)[:, 0][(slice(None),) + inside].cpu() * span + low
            if not torch.isfinite(images).all():
                raise ModelError(
                    f"{self.name!r} drew values that are not numbers: choose another sampler or"
                    " other proposals"
                )
            return images - patient

        return drawn

    def floor(self, hu: Tensor, region: Window) -> Tensor:
        """What the autoencoder changes by itself, no invariance at all.

        D(E(x)) - x inside a region, of shape (h, w), HU.
        """
        size = tuple(hu.shape)
        window = self._window(
            Window(0, size[0], 0, size[1]) if self.network.vae.spatial else region, size
        )
        x = (_cut(hu[None, None], window) - self.taken.low) / (self.taken.high - self.taken.low)
        with torch.no_grad():
            made = (
                self.network(x.to(self.device), **self._told(hu, window))[0, 0].cpu()
                * (self.given.high - self.given.low)
                + self.given.low
            )
        return made[region.within(window).slices] - hu[region.slices]

    def _told(self, hu: Tensor, window: Window) -> dict[str, Tensor]:
        """What a published autoencoder sees beside the image: what the denoiser makes of it.

        Args:
            hu: The slice (J, I). window: The part of it that is drawn.

        Returns:
            "condition" (1, 1, h, w) in the sampler's units; nothing for one that sees the image
            alone.
        """
        if self.denoiser is None:
            return {}
        asked, answer = self.denoiser.card.inputs[0], self.denoiser.card.outputs[0]
        x = (hu[None, None].to(self.device) - asked.low) / (asked.high - asked.low)
        with torch.no_grad():
            made = self.denoiser.network(x) * (answer.high - answer.low) + answer.low
        units = (made - self.taken.low) / (self.taken.high - self.taken.low)
        return {"condition": _cut(units, window)}

    def _window(self, region: Window, size: tuple[int, int]) -> Window:
        """What is drawn for a region.

        It may leave the slice at its end, since sides have to fit the network.
        """
        vae, multiple = self.network.vae, self.network.size_multiple
        if vae.spatial:
            return region.grown(DECODER_REACH * multiple, size).on_grid(multiple)
        if max(region.size) > vae.size:
            raise ModelError(
                f"{self.name!r} draws images of {vae.size} x {vae.size} voxels: choose a region"
                " that is not larger"
            )
        bounds = ((region.j0, region.j1, size[0]), (region.i0, region.i1, size[1]))
        starts = [
            max(0, min((first + last - vae.size) // 2, whole - vae.size))
            for first, last, whole in bounds
        ]
        return Window(*(bound for start in starts for bound in (start, start + vae.size)))


def _cut(images: Tensor, window: Window) -> Tensor:
    """A window of images (N, C, J, I); beyond their end the last row and column go on."""
    inside = images[(...,) + window.slices]
    beyond = [wanted - found for wanted, found in zip(window.size, inside.shape[2:])]
    return F.pad(inside, (0, beyond[1], 0, beyond[0]), mode="replicate") if any(beyond) else inside
