"""Would this lesion be seen? d' of nodules as the image is, denoised, and what that compares with.

Noise is drawn again and again on a background without the image's own, and each nodule is put in or
not; an observer (``observer``) tells with d' how far apart it finds the two. The background is the
normal-dose image where there is one, else what the denoiser makes of the low-dose image: as it is,
it would have its noise twice. The observer knows the nodule, its place and the background, so it
sees more than any reader does: d' says what noise hides, not what anatomy does.

Source of drawing noise on an estimate: Efron & Tibshirani, An Introduction to the Bootstrap,
Chapman & Hall 1993, section 6.5 (the parametric bootstrap).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..core.progress import Progress
from . import observer
from .level_set import Window
from .observer import AS_IT_IS, BLURRED, DENOISED, IN_WORDS, NORMAL, WAYS, Detection
from .proposals import MatchedNoise
from .settings import InvariancesSettings

VIEWS = 360  # of the noise that is drawn
AT_ONCE = 8  # images


@dataclass(frozen=True)
class Scene:
    """A window of a slice in which nodules are put in, on the CPU.

    Attributes:
        window: Rows and columns of the slice.
        spacing_mm: Voxel size along i, j.
        scale: HU per normalised unit.
        background: (1, 1, H, W), normalised, without noise as far as that is known.
        low: Draws of the image's noise, (N, 1, H, W), normalised.
        normal: The same at normal dose.
    """

    window: Window
    spacing_mm: tuple[float, float]
    scale: float
    background: Tensor
    low: Tensor
    normal: Tensor


@dataclass(frozen=True)
class Shown:
    """Nodules of one size.

    Attributes:
        diameter_mm: Their size.
        centre_mm: Their middle, (i, j), from the middle of the slice's first voxel.
        region: What an observer looks at.
        change: What a contrast of 1 HU changes there, (h, w), HU.
    """

    diameter_mm: float
    centre_mm: tuple[float, float]
    region: Window
    change: Tensor


def scene(
    background: Tensor,
    window: Window,
    low_hu: Tensor,
    normal_hu: Tensor | None,
    spacing_mm: tuple[float, float],
    scale: float,
    settings: InvariancesSettings,
) -> Scene:
    """Draw the noise of ``settings.draws`` images, at the image's dose and at normal dose.

    Args:
        background: (1, 1, H, W), normalised, of the window.
        window: Rows and columns of the slice.
        low_hu: The slice (J, I), HU: says how strong its noise is.
        normal_hu: The same at normal dose. Where there is none, normal dose means a dose that is
            ``1 / settings.dose`` times as large.
        spacing_mm: Voxel size along i, j.
        scale: HU per normalised unit.
        settings: Dose, photons, electronic noise, match_noise, draws and seed.
    """
    low = MatchedNoise(low_hu, spacing_mm, settings, VIEWS)
    full = replace(settings, dose=1.0, match_noise=settings.match_noise and normal_hu is not None)
    normal = MatchedNoise(low_hu if normal_hu is None else normal_hu, spacing_mm, full, VIEWS)
    if normal_hu is None:
        normal.factor = low.factor
    generator = torch.Generator().manual_seed(settings.seed)
    drawn = [_drawn(one, settings.draws, generator, window) / scale for one in (low, normal)]
    return Scene(window, spacing_mm, scale, background.cpu(), *drawn)


def _drawn(noise: MatchedNoise, count: int, generator: torch.Generator, window: Window) -> Tensor:
    """(count, 1, h, w), HU; all at once would take much memory."""
    some = [min(AT_ONCE, count - first) for first in range(0, count, AT_ONCE)]
    return torch.cat([noise.draw(n, generator, window.slices) for n in some])[:, None]


def columns(
    where: Scene,
    network: nn.Module,
    blur: nn.Module,
    nodules: list[Shown],
    contrasts_hu: list[float],
    device: torch.device,
    progress: Progress = Progress(),
) -> dict[str, list]:
    """d' of every size with every contrast in every way, with its standard error.

    Args:
        where: The window and its noise.
        network: The denoiser.
        blur: What leaves as much noise as it does.
        nodules: By size.
        contrasts_hu: Of each size, HU.
        device: Where the network runs.
        progress: Receives progress; may raise ``Cancelled``.

    Returns:
        By heading, a value for each nodule: sizes in their order, each with every contrast.
    """
    ways: dict[str, tuple[Tensor, nn.Module | None]] = {
        NORMAL: (where.normal, None),
        AS_IT_IS: (where.low, None),
        BLURRED: (where.low, blur),
        DENOISED: (where.low, network),
    }
    found: dict[str, list[Detection]] = {}
    for number, (way, (noise, method)) in enumerate(ways.items()):
        images = where.background + noise
        absent = _through(method, images, device)
        found[way] = []
        for turn, nodule in enumerate(nodules):
            done = (number + turn / len(nodules)) / len(ways)
            progress.report(done, f"Would a nodule of {nodule.diameter_mm:g} mm be seen {way}?")
            observed = _Observed(where, nodule)
            for contrast in contrasts_hu:
                present = observed.put(images, contrast)
                seen = observed.detection(absent, _through(method, present, device))
                found[way].append(seen)
    return _told(found)


def _told(found: dict[str, list[Detection]]) -> dict[str, list]:
    """Columns of what was found by way."""
    table: dict[str, list] = {}
    for way in WAYS:
        table[f"d' {way}"] = [one.dprime for one in found[way]]
        table[f"standard error of d' {way}"] = [one.error for one in found[way]]
    pairs = zip(found[AS_IT_IS], found[DENOISED])
    return table | {IN_WORDS: [observer.verdict(before, after) for before, after in pairs]}


class _Observed:
    """Nodules of one size, put in and looked at by round channels."""

    def __init__(self, where: Scene, nodule: Shown):
        self.inside = (..., *nodule.region.within(where.window).slices)
        self.change = nodule.change / where.scale
        i, j = (middle / mm for middle, mm in zip(nodule.centre_mm, where.spacing_mm))
        centre = i - nodule.region.i0, j - nodule.region.j0
        channels = observer.laguerre_gauss(
            nodule.region.size, centre, where.spacing_mm, nodule.diameter_mm
        )
        self.template = observer.hotelling(channels)

    def put(self, images: Tensor, contrast_hu: float) -> Tensor:
        """The images (N, 1, H, W) with the nodule."""
        present = images.clone()
        present[self.inside] += contrast_hu * self.change
        return present

    def detection(self, absent: Tensor, present: Tensor) -> Detection:
        """d' of images (N, 1, H, W) without and with the nodule."""
        seen = [images[self.inside].flatten(1).double().numpy() for images in (absent, present)]
        return observer.cross_judged(self.template, *seen)


def _through(method: nn.Module | None, images: Tensor, device: torch.device) -> Tensor:
    """Images (N, 1, H, W) through a network, if there is one; on the CPU again."""
    if method is None:
        return images
    with torch.no_grad():
        return torch.cat([method(some.to(device)).cpu() for some in images.split(AT_ONCE)])
