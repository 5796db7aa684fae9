"""Pairs of low and normal dose, simulated from normal CT or real, and patches drawn from them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .. import models
from ..core import files, meaning, volumes
from ..core.progress import Progress
from ..core.volumes import Volume
from ..invariances.low_dose import HU_HIGH, HU_LOW, LowDoseSettings, exposed, noise_images
from . import checkpoint as checkpoints
from .doubles import Doubles
from .held_out import is_held_out
from .people import file_stem, read_people

# The published networks' units: (HU + 1024 - 481.454...) / 502.185...
LOW_HU = 481.45419786099086 - 1024
CHANNEL = models.Channel("CT", "ct", "HU", LOW_HU, LOW_HU + 502.18507379395044)


class PatchSettings(Protocol):
    """What ``draw_batch`` goes by.

    Attributes:
        batch: Patches in each step.
        patch: Voxels along their sides.
        seed: Everything random follows from it and the step's number.
    """

    @property
    def batch(self) -> int:
        raise NotImplementedError

    @property
    def patch(self) -> int:
        raise NotImplementedError

    @property
    def seed(self) -> int:
        raise NotImplementedError


class SimulationSettings(Protocol):
    """What ``pairs_of`` goes by.

    Attributes:
        dose: Range of dose fractions, one drawn for each slice.
        noise_hu: Standard deviation of the noise in the body at the middle of these doses, HU.
        electronic, views: As in ``low_dose.LowDoseSettings``.
        seed: Everything random follows from it.
    """

    @property
    def dose(self) -> tuple[float, float]:
        raise NotImplementedError

    @property
    def noise_hu(self) -> float:
        raise NotImplementedError

    @property
    def electronic(self) -> float:
        raise NotImplementedError

    @property
    def views(self) -> int:
        raise NotImplementedError

    @property
    def seed(self) -> int:
        raise NotImplementedError


@dataclass(frozen=True)
class Pair:
    """One person's slice: normal dose and the noise that makes it low dose, (J, I) float32, HU."""

    person: str
    normal: np.ndarray
    noise: np.ndarray


def read_pairs(
    folder: Path | str,
    settings: SimulationSettings,
    every: int = 1,
    progress: Progress = Progress(),
    cache: Path | str | None = None,
) -> list[Pair]:
    """Every (n-th) axial slice of the CTs of a folder, with simulated noise.

    People are found as by ``people.read_people``.

    Args:
        folder: Of CT volumes.
        settings: Of the simulation.
        every: Take every n-th slice only.
        progress: Receives progress and warnings.
        cache: Folder in which each volume's noise is kept, and read again where the volume and the
            settings are the same.

    Raises:
        ValueError: No CT there, or one that is not in HU; a file of the cache is damaged.
    """
    found, people, doubles = [], read_people(folder), Doubles(progress)
    for number, (path, person) in enumerate(people.items()):
        progress.report(number / len(people), f"Simulating low dose of {path.name}")
        ct = files.load(path)
        doubles.add(path.name, person, ct)
        found += pairs_of(ct, person, settings, every, number, cache)
    return found


def read_real_pairs(
    low: Path | str, normal: Path | str, every: int = 1, progress: Progress = Progress()
) -> list[Pair]:
    """Every (n-th) axial slice of scans that two folders hold at low and at normal dose.

    Files are paired by their names, people found as by ``people.read_people`` in the folder of
    normal dose.

    Raises:
        ValueError: A file has no partner or is not in HU, or partners differ in their grids.
    """
    found, people = [], read_people(normal)
    partners = {file_stem(path): path for path in read_people(low)}
    alone = sorted(partners.keys() ^ {file_stem(path) for path in people})
    if alone:
        raise ValueError(f"low and normal dose need files of the same names; alone: {alone[0]}")
    for number, (path, person) in enumerate(people.items()):
        progress.report(number / len(people), f"Reading {path.name}")
        pair = files.load(partners[file_stem(path)]), files.load(path)
        if pair[0].shape != pair[1].shape:
            raise ValueError(f"{path.name} has another size at low dose than at normal dose")
        low_hu, normal_hu = (
            volumes.reorient(meaning.require_hu(volumes.check(v)), "LPS")
            .float32()[every // 2 :: every]
            .clip(HU_LOW, HU_HIGH)
            for v in pair
        )
        found += [Pair(person, n, m - n) for m, n in zip(low_hu, normal_hu)]
    return found


def pairs_of(
    ct: Volume,
    person: str,
    settings: SimulationSettings,
    every: int = 1,
    number: int = 0,
    cache: Path | str | None = None,
) -> list[Pair]:
    """The slices of one CT, with noise.

    Args:
        ct: [k, j, i], HU.
        person: Whose it is.
        settings: Of the training; the noise follows from their seed and ``number``.
        every: Take every n-th slice only.
        number: Of the volume.
        cache: As for ``read_pairs``.

    Raises:
        VolumeError: The volume is not in HU.
    """
    axial = volumes.reorient(meaning.require_hu(volumes.check(ct)), "LPS")
    hu = torch.from_numpy(np.ascontiguousarray(axial.float32()[every // 2 :: every])).clamp(
        -1024, 3071
    )
    spacing = (float(axial.spacing_mm[0]), float(axial.spacing_mm[1]))
    if cache is None:
        noise = simulated_noise(hu, spacing, settings, number)
    else:
        name = f"{_key(hu, spacing, settings, number)}.checkpoint"
        noise = _kept(Path(cache) / name, lambda: simulated_noise(hu, spacing, settings, number))
    return [Pair(person, image.numpy(), one) for image, one in zip(hu, noise)]


def simulated_noise(
    hu: Tensor, spacing_mm: tuple[float, float], settings: SimulationSettings, number: int = 0
) -> np.ndarray:
    """The noise of one volume's slices, each at a dose of its own.

    Args:
        hu: Slices of shape (slices, J, I), HU.
        spacing_mm: Voxel size along i, j.
        settings: Doses and strength; the noise follows from their seed and ``number``.
        number: Of the volume.

    Returns:
        Of the same shape, HU, float32.
    """
    rng = np.random.default_rng([settings.seed, number])
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    middle = LowDoseSettings(
        math.sqrt(math.prod(settings.dose)), electronic=settings.electronic, views=settings.views
    )
    middle = exposed(hu[len(hu) // 2][None], spacing_mm, middle, settings.noise_hu)
    low, high = np.log(settings.dose)
    doses = [replace(middle, dose=float(np.exp(rng.uniform(low, high)))) for _ in hu]
    return torch.stack(list(noise_images(hu, spacing_mm, doses, generator))).numpy()


def _key(
    hu: Tensor, spacing_mm: tuple[float, float], settings: SimulationSettings, number: int
) -> str:
    """What the noise of a volume depends on, as a short name."""
    facts = (spacing_mm, settings.dose, settings.noise_hu, settings.electronic, settings.views)
    found = hashlib.sha256(repr((tuple(hu.shape), *facts, settings.seed, number)).encode())
    found.update(hu.numpy().tobytes())
    return found.hexdigest()[:32]


def _kept(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """What ``make`` gives, (slices, J, I), from the file if it is there already."""
    if path.exists():
        return checkpoints.load(path)["noise"]
    noise = make()
    checkpoints.save(path, {"noise": noise})
    return noise


def split_people(pairs: list[Pair], leave_out: str | None) -> tuple[list[Pair], list[Pair]]:
    """(training, held out). Raises ValueError: nobody is left, or nobody has this name."""
    training = [pair for pair in pairs if pair.person != leave_out and not is_held_out(pair.person)]
    if (
        not training
        or not any(pair.person == leave_out for pair in pairs)
        and leave_out is not None
    ):
        known = ", ".join(sorted({pair.person for pair in pairs}))
        raise ValueError(
            f"nobody is left to train on, or nobody is called {leave_out!r}; there are {known}"
        )
    return training, [pair for pair in pairs if pair.person == leave_out]


def split_by_patient(
    names: Iterable[str], shares: tuple[float, float, float], seed: int = 0
) -> tuple[set[str], set[str], set[str]]:
    """Patients trained on, those who judge the training, and those kept for its end.

    Held-out people are never trained on: they are among the last.

    Args:
        names: Of the patients, repeated or not.
        shares: Of the three groups.
        seed: Of the order that they are dealt in.

    Raises:
        ValueError: There are too few for one in each group.
    """
    kept = {name for name in names if is_held_out(name)}
    known = np.array(sorted(set(names) - kept))
    known = known[np.random.default_rng(seed).permutation(len(known))]
    ends = np.round(np.cumsum(shares) / sum(shares) * len(known)).astype(int)
    first = int(np.clip(ends[0], 1, max(1, len(known) - 2)))
    second = int(np.clip(ends[1], first + 1, max(first + 1, len(known) - 1)))
    groups = tuple(set(map(str, part)) for part in np.split(known, [first, second]))
    if len(known) < 3:
        raise ValueError(f"a split by patient needs at least three patients, not {len(known)}")
    return groups[0], groups[1], groups[2] | kept


def draw_batch(pairs: list[Pair], settings: PatchSettings, step: int) -> tuple[Tensor, Tensor]:
    """Patches of low and of normal dose; people are drawn with equal chance.

    Noise may change its sign, and both are turned and mirrored: the same statistics, more examples.

    Args:
        pairs: Slices of everybody trained on.
        settings: Sizes, and the seed.
        step: Number of the step, from which the random numbers follow.

    Returns:
        Low and normal dose, normalised, of shape (batch, 1, patch, patch) each.
    """
    rng = np.random.default_rng([settings.seed, 1, step])
    people = sorted({pair.person for pair in pairs})
    size = settings.patch
    low: list[np.ndarray] = []
    normal: list[np.ndarray] = []
    while len(low) < settings.batch:
        person = people[rng.integers(len(people))]
        mine = [pair for pair in pairs if pair.person == person]
        pair = mine[rng.integers(len(mine))]
        corner = [int(rng.integers(max(1, n - size + 1))) for n in pair.normal.shape]
        window = tuple(slice(c, c + size) for c in corner)
        image, noise = pair.normal[window], pair.noise[window] * rng.choice((-1, 1))
        if image.shape != (size, size) or (image > -500).mean() < 0.1:  # mostly air
            if rng.random() < 0.98:
                continue
            image, noise = (
                np.pad(a, [(0, size - n) for n in a.shape], mode="reflect") for a in (image, noise)
            )
        turns, mirrored = int(rng.integers(4)), rng.random() < 0.5
        image, noise = (np.rot90(a[:, ::-1] if mirrored else a, turns) for a in (image, noise))
        normal.append(image.copy())
        low.append((image + noise).clip(-1024, 3071).astype(np.float32))
    return tuple(
        normalised(torch.from_numpy(np.stack(images)))[:, None] for images in (low, normal)
    )


def normalised(hu: Tensor) -> Tensor:
    return (hu - CHANNEL.low) / (CHANNEL.high - CHANNEL.low)
