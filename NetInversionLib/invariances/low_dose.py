"""Low-dose CT simulated from a CT at normal dose.

Noise is made in the projections, reconstructed, and added to the image.

The image itself is never re-projected into the result: low dose = image + FBP(noise in the line
integrals), so that edges keep their sharpness and no voxel changes where no noise is added. With I0
photons per ray at normal dose, dose fraction a and electronic noise s (photons), a line integral p
has the variance

    v(a) = exp(p) / (a I0) + (s exp(p) / (a I0))^2,

of which v(1) is in the image already: Poisson and electronic noise are drawn at dose a and
multiplied by sqrt(1 - v(1) / v(a)).

Geometry: parallel beams in the axial plane, one detector element per voxel width, views over 180
degrees. Sources of the figures: LoDoPaB-CT (Leuschner et al., Sci Data 2021;8:109) for the
attenuation of water and the photon floor, CoreDiff (Gao et al., IEEE TMI 2024;43:745) for I0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..core import meaning, volumes
from ..core.progress import Progress
from ..core.settings import Checked, setting
from ..core.volumes import Volume

WATER_PER_MM = 0.02  # linear attenuation of water at CT energies
HU_LOW, HU_HIGH = (
    -1024.0,
    3071.0,
)  # what scanners write; lower values are padding beyond the field of view
FEWEST_PHOTONS = 0.1
SLICES_AT_ONCE = 4
IMAGES_AT_ONCE = 8
VOXELS_AT_ONCE = 1 << 16
JUDGED_ROWS = 128
COARSER = 4
BODY_HU = -500.0
MANY_PHOTONS = 1e8  # where exposure control begins


@dataclass(frozen=True)
class LowDoseSettings(Checked):
    """How much noise.

    ``dose``: fraction of the normal dose, above 0, up to 1. ``photons``: I0, per ray at normal
    dose. ``electronic``: standard deviation of the read-out, in photons. ``views``: projections
    over 180 degrees. ``cutoff``: of the Hann window on the ramp filter, as a share of the Nyquist
    frequency: 1 for a medium, 0.6 for a soft kernel, 0 for none (the bare, sharp ramp). ``seed``:
    of the noise; slices draw theirs one after the other.
    """

    dose: float = setting(0.25, above=0, at_most=1)
    photons: float = setting(1.5e5, above=0)
    electronic: float = setting(10.0, at_least=0)
    views: int = setting(720, at_least=2)
    cutoff: float = setting(1.0, at_least=0, at_most=1)
    seed: int = 0


def simulate_low_dose(
    ct: Volume, settings: LowDoseSettings = LowDoseSettings(), progress: Progress = Progress()
) -> Volume:
    """A CT volume as a scan at a fraction of its dose would show it.

    Values below -1024 (padding beyond the field of view) come back as they were.

    Args:
        ct: [k, j, i], HU, any orientation.
        settings: Dose, photons and detector.
        progress: Receives progress; may raise ``Cancelled``.

    Returns:
        [k, j, i] float32, HU, on the same grid.

    Raises:
        volumes.VolumeError: The volume cannot be used, or is not in HU.
    """
    axial = volumes.reorient(meaning.require_hu(volumes.check(ct)), "LPS")
    hu = axial.float32()
    padding = hu < HU_LOW
    generator = torch.Generator().manual_seed(settings.seed)
    result = np.empty_like(hu)
    for first in range(0, len(hu), SLICES_AT_ONCE):
        part = slice(first, first + SLICES_AT_ONCE)
        progress.report(first / len(hu), f"Simulating low dose, slice {first + 1} of {len(hu)}")
        slices = torch.from_numpy(hu[part]).clamp(HU_LOW, HU_HIGH)
        noise = noise_image(slices, axial.spacing_mm[:2], settings, generator)
        result[part] = (slices + noise).clamp(HU_LOW, HU_HIGH).numpy()
    result = np.where(padding, hu, result)
    progress.report(1.0, "Done")
    volume = axial.with_array(result, name=f"{ct.name} simulated at {100 * settings.dose:g} % dose")
    return volumes.reorient_like(volume, ct)


def spread_over(settings: LowDoseSettings, views: int) -> LowDoseSettings:
    """The same exposure in another number of projections: the image's noise stays as strong.

    Its variance is proportional to (1 / photons + (electronic / photons)^2) / views.
    """
    times = settings.views / views
    return replace(
        settings,
        photons=settings.photons * times,
        electronic=settings.electronic * math.sqrt(times),
        views=views,
    )


def noise_image(
    hu: Tensor,
    spacing_mm: tuple[float, float],
    settings: LowDoseSettings,
    generator: torch.Generator,
    window: tuple[slice, slice] = (slice(None), slice(None)),
) -> Tensor:
    """The noise that a scan at ``settings.dose`` has and one at normal dose has not.

    Args:
        hu: Slices of shape (slices, J, I), HU.
        spacing_mm: Voxel size along i, j.
        settings: Dose, photons and detector.
        generator: Random numbers, on the CPU.
        window: Rows and columns that are wanted.

    Returns:
        Of shape (slices, h, w), HU: the slices' own without a window.
    """
    angles = math.pi * torch.arange(settings.views) / settings.views
    attenuation = WATER_PER_MM * (1 + hu / 1000).clamp(min=0)
    noise = projection_noise(
        line_integrals(attenuation, spacing_mm, settings.views), settings, generator
    )
    images = back_project(noise, tuple(hu.shape[1:]), spacing_mm, angles, settings.cutoff, window)
    return images * (1000 / WATER_PER_MM)


def exposed(
    hu: Tensor, spacing_mm: tuple[float, float], settings: LowDoseSettings, noise_hu: float
) -> LowDoseSettings:
    """The settings with so many photons that the noise has a given strength.

    As exposure control does.

    Thick bodies take more photons than thin ones: one I0 for all would leave some without noise and
    starve others.

    Args:
        hu: Slices of shape (slices, J, I), HU.
        spacing_mm: Voxel size along i, j.
        settings: All but the photons.
        noise_hu: Standard deviation of the noise added inside the body, HU; reached within a tenth
            or so.

    Raises:
        ValueError: There is no body (no voxel above -500 HU).
    """
    body = hu > BODY_HU
    if not body.any():
        raise ValueError("these slices hold no body (nothing above -500 HU): choose others")
    found = replace(settings, photons=MANY_PHOTONS)
    angles = math.pi * torch.arange(settings.views) / settings.views
    attenuation = WATER_PER_MM * (1 + hu / 1000).clamp(min=0)
    lines = line_integrals(attenuation, spacing_mm, settings.views)
    judged = _judged(body)
    for power in (
        2,
        1,
        1,
        1,
    ):  # noise falls with the root of the photons; faster, once too few of them arrive
        generator = torch.Generator().manual_seed(settings.seed)
        noise = back_project(
            projection_noise(lines, found, generator),
            tuple(hu.shape[1:]),
            spacing_mm,
            angles,
            settings.cutoff,
            judged[1:],
        ) * (1000 / WATER_PER_MM)
        found = replace(
            found, photons=found.photons * (float(noise[body[judged]].std()) / noise_hu) ** power
        )
    return found


def _judged(body: Tensor) -> tuple[slice, slice, slice]:
    """Slices, rows and columns that tell the noise's strength in a body.

    The body is of shape (slices, J, I); some hundred rows and columns do.
    """
    apart = max(1, min(body.shape[1:]) // JUDGED_ROWS)
    some = (slice(None), slice(apart // 2, None, apart), slice(apart // 2, None, apart))
    return some if body[some].sum() > 1 else (slice(None),) * 3


def noise_images(
    hu: Tensor,
    spacing_mm: tuple[float, float],
    settings: Sequence[LowDoseSettings],
    generator: torch.Generator,
) -> Iterator[Tensor]:
    """Of each slice what ``noise_image`` gives with settings of its own.

    Some are made at a time, which is several times as fast.

    Args:
        hu: Slices of shape (slices, J, I), HU.
        spacing_mm: Voxel size along i, j.
        settings: Of each slice; all with the same views and cutoff.
        generator: Random numbers, on the CPU; slices draw theirs one after the other.

    Returns:
        Of each slice an image (J, I), HU.
    """
    views, cutoff = settings[0].views, settings[0].cutoff
    angles = math.pi * torch.arange(views) / views
    for first in range(0, len(hu), IMAGES_AT_ONCE):
        some = hu[first : first + IMAGES_AT_ONCE]
        lines = line_integrals(WATER_PER_MM * (1 + some / 1000).clamp(min=0), spacing_mm, views)
        noise = [
            projection_noise(lines[n : n + 1], how, generator)
            for n, how in enumerate(settings[first : first + IMAGES_AT_ONCE])
        ]
        images = back_project(torch.cat(noise), tuple(hu.shape[1:]), spacing_mm, angles, cutoff)
        yield from images * (1000 / WATER_PER_MM)


class FreshNoise:
    """All the noise that a scan at ``settings.dose`` has, drawn again and again for one slice.

    Args:
        hu: The slice (J, I), HU. spacing_mm: (i, j).
    """

    def __init__(self, hu: Tensor, spacing_mm: tuple[float, float], settings: LowDoseSettings):
        self.size, self.spacing_mm, self.settings = tuple(hu.shape), spacing_mm, settings
        attenuation = WATER_PER_MM * (1 + hu.clamp(HU_LOW, HU_HIGH)[None] / 1000).clamp(min=0)
        self.lines = line_integrals(attenuation, spacing_mm, settings.views)
        self.angles = math.pi * torch.arange(settings.views) / settings.views

    def draw(
        self,
        count: int,
        generator: torch.Generator,
        window: tuple[slice, slice] = (slice(None), slice(None)),
    ) -> Tensor:
        """Independent noise images of the whole slice or a window of it.

        Args:
            count: How many.
            generator: Random numbers, on the CPU.
            window: Rows and columns.

        Returns:
            Of shape (count, h, w), HU.
        """
        noise = projection_noise(
            self.lines.expand(count, -1, -1), self.settings, generator, all_of_it=True
        )
        images = back_project(
            noise, self.size, self.spacing_mm, self.angles, self.settings.cutoff, window
        )
        return images * (1000 / WATER_PER_MM)


def line_integrals(attenuation: Tensor, spacing_mm: tuple[float, float], views: int) -> Tensor:
    """Line integrals, found at a quarter of the resolution and enlarged.

    They only say how strong the noise is along each ray; 64 times less work for an error of a few
    per cent at edges.

    Args:
        attenuation: Of shape (slices, J, I), per mm.
        spacing_mm: Voxel size along i, j.
        views: How many, over a half circle.

    Returns:
        Of shape (slices, views, detectors), no unit.
    """
    size, coarse_views = attenuation.shape[1:], max(1, views // COARSER)
    pad = [p for n in reversed(size) for p in (0, -n % COARSER)]
    coarse = F.avg_pool2d(F.pad(attenuation, pad), COARSER)
    # Padding moved the centre by half of it.
    shift = 0.5 * spacing_mm[0] * pad[1], 0.5 * spacing_mm[1] * pad[3]
    found = project(
        coarse,
        (COARSER * spacing_mm[0], COARSER * spacing_mm[1]),
        math.pi * torch.arange(coarse_views) / coarse_views,
        shift,
    )
    count, width = detectors(tuple(size), spacing_mm)
    coarse_width = COARSER * min(spacing_mm)
    # Views lie on a half circle: beyond the last comes the first, mirrored.
    found = torch.cat([found, found[:, :1].flip(2)], 1)
    view = torch.arange(views) * coarse_views / views
    offset = (
        width * (torch.arange(count) - (count - 1) / 2) / coarse_width + (found.shape[2] - 1) / 2
    )
    return _between(_between(found, view, 1), offset, 2)


def _between(values: Tensor, place: Tensor, axis: int) -> Tensor:
    """Linear interpolation along an axis at fractional indices, the ends going on."""
    low = place.floor().clamp(0, max(0, values.shape[axis] - 2)).long()
    share = (
        (place - low)
        .clamp(0, 1)
        .to(values)
        .reshape([-1 if a == axis else 1 for a in range(values.ndim)])
    )
    return torch.lerp(
        values.index_select(axis, low),
        values.index_select(axis, (low + 1).clamp(max=values.shape[axis] - 1)),
        share,
    )


def projection_noise(
    line_integrals: Tensor,
    settings: LowDoseSettings,
    generator: torch.Generator,
    all_of_it: bool = False,
) -> Tensor:
    """Noise of line integrals of any shape; zero on average.

    Its variance is v(a) - v(1), what is to be added to an image at normal dose, or ``all_of_it``,
    v(a).
    """
    expected = settings.photons * settings.dose * torch.exp(-line_integrals.double())
    counts = torch.poisson(expected, generator=generator)
    counts += settings.electronic * torch.randn(
        counts.shape, generator=generator, dtype=counts.dtype
    )
    noise = -torch.log(counts.clamp(min=FEWEST_PHOTONS) / expected)
    if all_of_it:
        return noise.float()

    def variance(dose: float) -> Tensor:
        photons = expected * dose / settings.dose
        return 1 / photons + (settings.electronic / photons) ** 2

    return (noise * (1 - variance(1.0) / variance(settings.dose)).clamp(min=0).sqrt()).float()


# Projections --------------------------------------------------------------------------------------


def detectors(size: tuple[int, int], spacing_mm: tuple[float, float]) -> tuple[int, float]:
    """Number of detector elements and their width, mm.

    The image's diagonal fits, one element per (smaller) voxel.
    """
    width = min(spacing_mm)
    diagonal = math.hypot(size[0] * spacing_mm[1], size[1] * spacing_mm[0])
    return 2 * math.ceil(diagonal / width / 2) + 1, width


def project(
    images: Tensor,
    spacing_mm: tuple[float, float],
    angles: Tensor,
    centre_mm: tuple[float, float] = (0.0, 0.0),
) -> Tensor:
    """Line integrals of images, linear between voxels, in steps of one detector element.

    The ray of angle theta and offset t runs along (-sin theta, cos theta) through t (cos theta, sin
    theta), in mm along (i, j) from the image's centre minus ``centre_mm``.

    Args:
        images: Of shape (slices, J, I), any unit per mm.
        spacing_mm: Voxel size along i, j.
        angles: Of shape (views,), radians.
        centre_mm: Where the image's centre lies along (i, j), seen from the axis of rotation.

    Returns:
        Of shape (slices, views, detectors), the images' unit times mm.
    """
    count, width = detectors(tuple(images.shape[1:]), spacing_mm)
    offsets = width * (torch.arange(count) - (count - 1) / 2)
    half = [
        n * s / 2 for n, s in zip(reversed(images.shape[1:]), spacing_mm)
    ]  # half extents along i, j
    t, s = torch.meshgrid(offsets, offsets, indexing="ij")
    sums = []
    for theta in angles.tolist():
        x = t * math.cos(theta) - s * math.sin(theta) - centre_mm[0]
        y = t * math.sin(theta) + s * math.cos(theta) - centre_mm[1]
        grid = torch.stack([x / half[0], y / half[1]], -1)[None]
        sums.append(F.grid_sample(images[None], grid.to(images), align_corners=False)[0].sum(2))
    return torch.stack(sums, 1) * width


def back_project(
    projections: Tensor,
    size: tuple[int, int],
    spacing_mm: tuple[float, float],
    angles: Tensor,
    cutoff: float,
    window: tuple[slice, slice] = (slice(None), slice(None)),
) -> Tensor:
    """Filtered back-projection of images, or of a window of them.

    Args:
        projections: Of shape (slices, views, detectors); views lie evenly over 180 degrees.
        size: (J, I) of the images.
        spacing_mm: Voxel size along i, j.
        angles: Of shape (views,), radians.
        cutoff: Of the Hann window, a share of the Nyquist frequency.
        window: Rows and columns that are wanted.

    Returns:
        Of shape (slices, h, w).
    """
    count, width = detectors(size, spacing_mm)
    filtered = ramp_filtered(projections, width, cutoff).permute(1, 2, 0)
    # Each detector beside the way to the next one, all slices together: what a voxel needs of a
    # view is one row, (views, detectors, 2 slices).
    rows = torch.cat([filtered, F.pad(filtered.diff(dim=1), (0, 0, 0, 1))], 2)
    x = spacing_mm[0] / width * (torch.arange(size[1]) - (size[1] - 1) / 2)[window[1]]
    y = spacing_mm[1] / width * (torch.arange(size[0]) - (size[0] - 1) / 2)[window[0]]
    slices, middle = len(projections), (count - 1) / 2
    images = projections.new_zeros(len(y), len(x), slices)
    at_once = max(1, VOXELS_AT_ONCE // (len(x) * max(1, slices // 4)))  # rows that fit the cache
    for first in range(0, len(y), at_once):
        some = images[first : first + at_once].view(-1, slices)
        for row, theta in zip(rows, angles.tolist()):
            down = y[first : first + at_once] * math.sin(theta) + middle
            place = (down[:, None] + (x * math.cos(theta))[None]).flatten()
            low = place.int()  # no place is negative: the image's diagonal fits the detector
            found = row.index_select(0, low)
            some += found[:, :slices]
            some.addcmul_(found[:, slices:], place.sub_(low)[:, None].to(some))
    return images.permute(2, 0, 1).contiguous() * (math.pi / len(angles))


def ramp_filtered(projections: Tensor, width: float, cutoff: float) -> Tensor:
    """Every row convolved with the band-limited ramp, times a Hann window.

    Source: Kak & Slaney, Principles of Computerized Tomographic Imaging, 1988, eq. 3.61 (the ramp's
    samples).

    Args:
        projections: Of shape (..., detectors).
        width: Of a detector, mm.
        cutoff: Of the window, a share of the Nyquist frequency.

    Returns:
        Of the same shape.
    """
    count = projections.shape[-1]
    length = 1 << (2 * count - 1).bit_length()
    n = torch.fft.fftfreq(length, 1 / length).double()
    ramp = torch.where(n % 2 != 0, -1 / (math.pi * n) ** 2, 0.0)
    ramp[0] = 0.25
    response = torch.fft.rfft(ramp).real / width
    if cutoff > 0:
        share = torch.linspace(0, 1, len(response), dtype=torch.float64) / cutoff
        response = response * torch.where(share <= 1, 0.5 + 0.5 * torch.cos(math.pi * share), 0.0)
    spectrum = torch.fft.rfft(projections, n=length) * response.to(projections)
    return torch.fft.irfft(spectrum, n=length)[..., :count]
