"""Changes proposed to a CT slice, in HU.

They are fresh noise of the same dose, random texture, or what a trained sampler draws.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .choices import image_noise
from .level_set import Window
from .low_dose import FreshNoise, LowDoseSettings, spread_over
from .settings import PROPOSALS, InvariancesSettings

# How far the decoder of latent maps looks, in latents: one by its first layer, less than two by all
# of its blocks together.
DECODER_REACH = 3


class MatchedNoise:
    """Fresh noise of a slice's dose, as strong as the slice's own (``match_noise``).

    Args:
        hu: The slice (J, I), HU.
        spacing_mm: Voxel size along i, j.
        settings: Dose, photons, electronic noise, whether strengths are to match, and the seed.
        views: Projections that the exposure is spread over; None for as many as usual.
    """

    def __init__(
        self,
        hu: Tensor,
        spacing_mm: tuple[float, float],
        settings: InvariancesSettings,
        views: int | None = None,
    ):
        exposure = LowDoseSettings(settings.dose, settings.photons, settings.electronic)
        how = exposure if views is None else spread_over(exposure, views)
        self.fresh = FreshNoise(hu, spacing_mm, how)
        self.factor = 1.0
        if settings.match_noise:
            made = self.fresh.draw(1, torch.Generator().manual_seed(settings.seed))
            there, strength = (
                image_noise(hu[None].numpy()),
                image_noise(made.numpy(), hu[None].numpy()),
            )
            self.factor = there / strength if strength > 0 and there > 0 else 1.0

    def draw(self, count: int, generator: torch.Generator, window: tuple[slice, slice]) -> Tensor:
        """Independent noise images of a window, (count, h, w), HU."""
        return self.factor * self.fresh.draw(count, generator, window)


class Proposer:
    """Draws changes of a region of one slice, HU.

    The kinds asked for take turns, each with random numbers of its own.

    Args:
        hu: The slice (J, I), HU. spacing_mm: (i, j).
        drawn: For "cinn": a function of (count, generator) that draws changes (count, h, w) of the
            region, see ``Sampling``.
    """

    def __init__(
        self,
        hu: Tensor,
        spacing_mm: tuple[float, float],
        region: Window,
        settings: InvariancesSettings,
        drawn: Callable[[int, torch.Generator], Tensor] | None = None,
    ):
        self.hu, self.region, self.settings = hu, region, settings
        self.fresh = MatchedNoise(hu, spacing_mm, settings)
        self.kinds: dict[str, Callable[[int, torch.Generator], Tensor]]
        self.kinds = {"noise": self.noise, "texture": self.texture}
        if drawn is not None:
            self.kinds["cinn"] = drawn
        self.generators: dict[str, torch.Generator] = {}

    def draw(self, first: int, count: int, generator: torch.Generator) -> Tensor:
        """Some of the changes, by their number.

        Only the first call takes from ``generator``, a seed for each kind: how much a sampler draws
        does not change the others.

        Args:
            first: Number of the first.
            count: How many.
            generator: Random numbers, on the CPU.

        Returns:
            Of shape (count, h, w), HU.
        """
        if not self.generators:
            seeds = torch.randint(2**62, (len(PROPOSALS),), generator=generator)
            self.generators = {
                kind: torch.Generator().manual_seed(int(seed))
                for kind, seed in zip(PROPOSALS, seeds)
            }
        changes, kinds = torch.empty(count, *self.region.size), self.settings.proposals
        for n, kind in enumerate(kinds):
            turns = range((n - first) % len(kinds), count, len(kinds))
            if turns:
                changes[turns.start :: turns.step] = self.kinds[kind](
                    len(turns), self.generators[kind]
                )
        return changes

    def noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Fresh noise of the same dose, as strong as the image's (``match_noise``).

        Returns:
            Of shape (count, h, w), HU.
        """
        return self.fresh.draw(count, generator, self.region.slices)

    def texture(self, count: int, generator: torch.Generator) -> Tensor:
        """Band-passed noise, two to five voxels per period; none in air.

        Returns:
            Of shape (count, h, w), HU, of root mean square ``texture_hu``.
        """
        h, w = self.region.size
        white = torch.randn(count, h, w, generator=generator)
        radius = torch.hypot(torch.fft.fftfreq(h)[:, None], torch.fft.rfftfreq(w)[None])
        images = torch.fft.irfft2(
            torch.fft.rfft2(white) * ((radius > 0.2) & (radius < 0.5)), s=(h, w)
        )
        images = images / images.square().mean((1, 2), keepdim=True).sqrt().clamp(min=1e-12)
        return self.settings.texture_hu * images * (self.hu[self.region.slices] > -800)
