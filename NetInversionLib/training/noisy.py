"""Windows of CT slices of many people with cached noise.

Patches are drawn from them at any dose and kernel.

A noise image is made once for each window, in the projections, with the bare ramp. A patch takes it
at a random strength (the dose), mixed with the same noise from a few voxels beside (new noise of
the same strength), and blurred as a soft kernel would have blurred it: exact for a parallel-beam
reconstruction, where the kernel is a filter of the image. Images are resampled to several voxel
sizes before the noise is made.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..core import files, meaning, volumes
from ..core.progress import Progress
from ..core.volumes import Volume
from ..core.writing import replacing
from ..invariances.low_dose import BODY_HU, HU_HIGH, HU_LOW, LowDoseSettings, noise_image
from .held_out import is_held_out
from .people import read_people

SOFT_TISSUE = (-100.0, 150.0)  # HU, of the smoothed image
SOFT_TISSUE_SMOOTHING_MM = 2.0
COARSEST = 1.7  # voxels are not made smaller than by this: there is nothing between them
SMALLEST_WINDOW = 96  # smaller images are mirrored
USUAL_NOISE_HU = 8.0  # errors are weighed by the noise added, and by this beside it
ELSEWHERE = 0.3  # weight of what is not soft tissue
MARGIN = 4  # voxels at a patch's border whose error does not count
BORDER = 8  # around a patch, for the kernel
FEWEST_BODY = 0.3  # share of a patch that is body


@dataclass(frozen=True)
class NoisySettings:
    """What the windows are.

    Attributes:
        spacings: Ranges of in-plane voxel sizes, mm; a window of each slice for each.
        window: Its largest side, voxels.
        slices: Most slices of one person.
        dose: Smallest and largest dose fraction that patches are drawn at.
        identity: Share of the patches at full dose, where low and normal dose are the same.
        cutoff: Smallest and largest Hann cutoff of kernels, in parts of the Nyquist frequency.
        sharp: Share of the patches with the bare ramp.
        photons, views, electronic: As in ``low_dose.LowDoseSettings``. Photons vary from window to
            window by a factor of ``photon_spread``, either way.
        exposure: A patch's noise is that of up to so many times the photons: people and protocols
            differ.
        seed: Everything random follows from it.
    """

    spacings: tuple[tuple[float, float], ...] = ((0.62, 0.85), (0.85, 1.15), (1.3, 1.65))
    window: int = 288
    slices: int = 4
    dose: tuple[float, float] = (0.05, 1.0)
    identity: float = 0.2
    cutoff: tuple[float, float] = (0.5, 1.4)
    sharp: float = 0.3
    photons: float = 3e5
    photon_spread: float = 1.5
    exposure: float = 10.0
    views: int = 360
    electronic: float = 10.0
    seed: int = 0


@dataclass(frozen=True)
class Window:
    """A part of one person's slice at normal dose, and noise of the bare ramp that belongs there.

    Attributes:
        person: Whose it is.
        normal: (J, I) float16, HU.
        noise: (J, I) float16, HU, that of ``dose``.
        soft: (J, I) bool, soft tissue.
        dose: Dose fraction of the noise.
    """

    person: str
    normal: np.ndarray
    noise: np.ndarray
    soft: np.ndarray
    dose: float


# Making windows -----------------------------------------------------------------------------------


def read_windows(
    folders: Iterable[Path | str],
    settings: NoisySettings = NoisySettings(),
    leave_out: Iterable[str] = (),
    every: int = 1,
    cache: Path | str | None = None,
    progress: Progress = Progress(),
) -> list[Window]:
    """Windows of all people of some folders but the held-out ones.

    Args:
        folders: With CT volumes or slices, in HU.
        settings: What the windows are.
        leave_out: People left out besides those that always are.
        every: Take every n-th slice of a volume only.
        cache: File to keep the windows in; read instead where it holds the same ones.
        progress: Receives progress.

    Raises:
        ValueError: No CT there, nobody is left, or one that is not in HU.
    """
    slices, known = _slices(folders, leave_out, every)
    strangers = sorted(set(leave_out) - known)
    if not slices or strangers:
        raise ValueError(
            f"nobody is left to train on, or nobody is called {', '.join(strangers)!r}; there are"
            f" {', '.join(sorted(known))}"
        )
    key = _key(settings, slices)
    if cache and Path(cache).exists() and (kept := _cached(Path(cache), key)):
        return kept
    windows: list[Window] = []
    for number, (person, places) in enumerate(sorted(slices.items())):
        progress.report(number / len(slices), f"Simulating low dose of {person}")
        count = min(len(places), settings.slices)
        chosen = (np.arange(count) + 0.5) * len(places) / count - 0.5
        for k in sorted({round(c) for c in chosen}):
            path, index = places[k]
            windows += windows_of(files.load(path), index, person, settings, number * 1000 + k)
    if cache:
        _keep(Path(cache), key, windows)
    return windows


def _slices(
    folders: Iterable[Path | str], leave_out: Iterable[str], every: int
) -> tuple[dict[str, list[tuple[Path, int]]], set[str]]:
    """File and number of each slice, by the people trained on; and everybody who is there."""
    slices: dict[str, list[tuple[Path, int]]] = {}
    known = set()
    for folder in folders:
        for path, person in read_people(folder).items():
            known.add(person)
            if not is_held_out(person) and person not in leave_out:
                count = volumes.reorient(files.load(path), "LPS").shape[0]
                places = [(path, k) for k in range(every // 2, count, every)]
                slices.setdefault(person, []).extend(places)
    return slices, known


def windows_of(
    ct: Volume, index: int, person: str, settings: NoisySettings, number: int = 0
) -> list[Window]:
    """A window of one slice for each range of voxel sizes.

    Args:
        ct: [k, j, i], HU.
        index: Of the axial slice.
        person: Whose it is.
        settings: What the windows are.
        number: Of the slice; the random numbers follow from it and the seed.

    Raises:
        VolumeError: The volume is not in HU.
    """
    axial = volumes.reorient(meaning.require_hu(volumes.check(ct)), "LPS")
    hu = torch.from_numpy(np.ascontiguousarray(axial.float32()[index])).clamp(HU_LOW, HU_HIGH)
    rng = np.random.default_rng([settings.seed, 2, number])
    found = []
    for low, high in settings.spacings:
        spacing = float(rng.uniform(low, high))
        image = resampled(hu, axial.spacing_mm[:2], spacing)
        rows = np.argwhere((image > BODY_HU).numpy())
        if len(rows) < 100 or max(axial.spacing_mm[:2]) > COARSEST * spacing:
            continue
        corner = _corner(rows[rng.integers(len(rows))], image.shape, settings.window)
        how = LowDoseSettings(
            dose=float(np.exp(rng.uniform(*np.log([0.1, 0.4])))),
            photons=settings.photons * float(settings.photon_spread ** rng.uniform(-1, 1)),
            electronic=settings.electronic,
            views=settings.views,
            cutoff=0.0,
        )
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        noise = noise_image(image[None], (spacing, spacing), how, generator, corner)[0].numpy()
        soft = soft_tissue(image, spacing)[corner].numpy()
        missing = [(0, max(0, SMALLEST_WINDOW - n)) for n in soft.shape]
        part, noise, soft = (
            np.pad(a, missing, mode="symmetric") for a in (image[corner].numpy(), noise, soft)
        )
        halves = part.astype(np.float16), noise.astype(np.float16)
        found.append(Window(person, halves[0], halves[1], soft, how.dose))
    return found


def resampled(hu: Tensor, spacing_mm: tuple[float, float], wanted_mm: float) -> Tensor:
    """A slice on a grid of another voxel size, smoothed first where that is coarser.

    Args:
        hu: (J, I), HU.
        spacing_mm: Voxel size along i, j.
        wanted_mm: The same along both.

    Returns:
        (j, i), HU.
    """
    size = [max(8, round(n * mm / wanted_mm)) for n, mm in zip(hu.shape, reversed(spacing_mm))]
    return F.interpolate(
        hu[None, None], size=size, mode="bilinear", antialias=True, align_corners=False
    )[0, 0]


def soft_tissue(hu: Tensor, spacing_mm: float) -> Tensor:
    """Where the image, smoothed, has the values of soft tissue.

    Args:
        hu: (J, I), HU, at normal dose.
        spacing_mm: Voxel size.

    Returns:
        (J, I), bool.
    """
    from scipy import ndimage

    sigma = SOFT_TISSUE_SMOOTHING_MM / spacing_mm
    smooth = torch.from_numpy(ndimage.gaussian_filter(hu.numpy(), sigma))
    return (smooth >= SOFT_TISSUE[0]) & (smooth <= SOFT_TISSUE[1])


def _corner(centre: np.ndarray, shape: Iterable[int], size: int) -> tuple[slice, slice]:
    """Rows and columns of a window around a place, moved into the image."""
    first = [int(np.clip(c - size // 2, 0, max(0, n - size))) for c, n in zip(centre, shape)]
    return slice(first[0], first[0] + size), slice(first[1], first[1] + size)


def _key(settings: NoisySettings, slices: dict[str, list[tuple[Path, int]]]) -> str:
    """What a cache of windows depends on, as text."""
    made_with = {
        name: value
        for name, value in asdict(settings).items()
        if name not in ("dose", "identity", "cutoff", "sharp", "exposure")
    }
    names = {person: [(f.name, k) for f, k in places] for person, places in slices.items()}
    return repr((made_with, sorted(names.items())))


def _keep(path: Path, key: str, windows: list[Window]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {"key": np.array(key)}
    for n, one in enumerate(windows):
        arrays[f"normal {n}"], arrays[f"noise {n}"] = one.normal, one.noise
        arrays[f"soft {n}"] = one.soft
        arrays[f"person {n}"], arrays[f"dose {n}"] = np.array(one.person), np.array(one.dose)
    with replacing(path, ".part.npz") as part:
        np.savez(part, allow_pickle=False, **arrays)


def _cached(path: Path, key: str) -> list[Window]:
    """The windows of a cache file; none if it holds others.

    Raises:
        ValueError: The file is damaged, or no cache.
    """
    try:
        with np.load(path, allow_pickle=False) as kept:
            return _windows_of(kept) if str(kept["key"]) == key else []
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} is no cache of windows that can be read; delete it, or choose another name"
        ) from error


def _windows_of(kept: Mapping[str, np.ndarray]) -> list[Window]:
    """The windows that a cache file's arrays, (J, I) or single values, hold."""
    return [
        Window(
            str(kept[f"person {n}"]),
            kept[f"normal {n}"],
            kept[f"noise {n}"],
            kept[f"soft {n}"],
            float(kept[f"dose {n}"]),
        )
        for n in range(sum(name.startswith("dose ") for name in kept))
    ]


# Drawing patches ----------------------------------------------------------------------------------


def strength(dose: float, kept_at: float) -> float:
    """What noise kept at one dose is multiplied by to be that of another; 0 at full dose."""
    return math.sqrt((1 / dose - 1) / (1 / kept_at - 1))


def kernel_response(size: int, cutoff: Tensor) -> Tensor:
    """What a Hann window on the ramp does to an image reconstructed with the bare ramp.

    Args:
        size: Of the images, (size, size).
        cutoff: (N,), parts of the Nyquist frequency; 0 leaves the ramp as it is.

    Returns:
        (N, size, size // 2 + 1), to multiply with ``torch.fft.rfft2``.
    """
    along = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None]
    radius = 2 * torch.hypot(*torch.broadcast_tensors(*along))
    share = radius / cutoff.clamp(min=1e-6)[:, None, None]
    window = torch.where(share <= 1, 0.5 + 0.5 * torch.cos(math.pi * share), 0.0)
    return torch.where(cutoff[:, None, None] > 0, window, 1.0)


def draw_noisy(
    windows: list[Window], settings: NoisySettings, batch: int, patch: int, step: int, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Patches of low and normal dose; people are drawn with equal chance.

    Args:
        windows: Of everybody trained on.
        settings: Doses and kernels.
        batch, patch: How many, and their sides in voxels.
        step: Number of the step, from which the random numbers follow, and from the seed.
        seed: Of the training.

    Returns:
        Low dose and normal dose in HU, and soft tissue (bool), each (batch, 1, patch, patch).
    """
    rng = np.random.default_rng([seed, 3, step])
    people: dict[str, list[Window]] = {}
    for one in windows:
        people.setdefault(one.person, []).append(one)
    names = sorted(people)
    border = BORDER
    normal: list[np.ndarray] = []
    noise: list[np.ndarray] = []
    soft: list[np.ndarray] = []
    while len(normal) < batch:
        mine = people[names[rng.integers(len(names))]]
        one = mine[rng.integers(len(mine))]
        place = _patch(one.normal.shape, patch, border, rng)
        if place is None:
            continue
        inner = tuple(slice(s.start + border, s.stop - border) for s in place)
        image = one.normal[inner].astype(np.float32)
        if (image > BODY_HU).mean() < FEWEST_BODY and rng.random() < 0.95:
            continue
        mixed = _mixed(one, place, rng) * _strength_of(settings, one, rng)
        turns, mirrored = int(rng.integers(4)), rng.random() < 0.5
        for given, kept in ((image, normal), (mixed, noise), (one.soft[inner], soft)):
            kept.append(np.rot90(given[:, ::-1] if mirrored else given, turns).copy())
    cutoff = rng.uniform(*settings.cutoff, batch) * (rng.random(batch) >= settings.sharp)
    response = kernel_response(patch + 2 * border, torch.from_numpy(cutoff).float())
    spectrum = torch.fft.rfft2(torch.from_numpy(np.stack(noise))) * response
    filtered = torch.fft.irfft2(spectrum, s=(patch + 2 * border,) * 2)
    added = filtered[:, border:-border, border:-border]
    clean = torch.from_numpy(np.stack(normal))
    low = (clean + added).clamp(HU_LOW, HU_HIGH)
    return low[:, None], clean[:, None], torch.from_numpy(np.stack(soft))[:, None]


def _patch(shape, patch: int, border: int, rng) -> tuple[slice, slice] | None:
    """A random place for a patch and its border; none where the window is too small."""
    size = patch + 2 * border
    if min(shape) < size:
        return None
    first = [int(rng.integers(n - size + 1)) for n in shape]
    return slice(first[0], first[0] + size), slice(first[1], first[1] + size)


def _mixed(one: Window, place: tuple[slice, slice], rng) -> np.ndarray:
    """New noise of the same strength: that of the place, and that of one nearby, in any mixture."""
    beside = []
    for part, n in zip(place, one.noise.shape):
        by = int(rng.integers(-24, 25))
        first = int(np.clip(part.start + by, 0, n - (part.stop - part.start)))
        beside.append(slice(first, first + part.stop - part.start))
    far = max(abs(a.start - b.start) for a, b in zip(beside, place)) >= 6
    angle = rng.uniform(0, 2 * math.pi) if far else math.pi * rng.integers(2)
    here, there = one.noise[place], one.noise[tuple(beside)]
    return math.cos(angle) * here.astype(np.float32) + math.sin(angle) * there.astype(np.float32)


def _strength_of(settings: NoisySettings, one: Window, rng) -> float:
    if rng.random() < settings.identity:
        return 0.0
    dose = float(np.exp(rng.uniform(*np.log(settings.dose))))
    return strength(dose, one.dose) * settings.exposure ** (-0.5 * rng.random())


def weights(low: Tensor, normal: Tensor, soft: Tensor) -> Tensor:
    """What the square of each voxel's error weighs, in 1 / HU^2.

    Patches count alike whatever their dose, and soft tissue more than the rest.

    Args:
        low, normal: (N, 1, H, W), HU.
        soft: Soft tissue, the same shape, bool.

    Returns:
        Of the same shape.
    """
    added = (low - normal).square().mean((1, 2, 3), keepdim=True)
    return torch.where(soft, 1.0, ELSEWHERE) / (added + USUAL_NOISE_HU**2)
