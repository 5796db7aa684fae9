"""One person under two names, told before a training.

For nobody may be both trained on and tested on.

Two images are of one scan if they look the same on a coarse grid over the same extent, whatever
their kernel, format or axes: different people of one scanner reach a correlation of 0.98 there, two
kernels of one CT 0.99999. Two visits of one person look as unlike as two people; only names can
tell of those.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from ..core import files, volumes
from ..core.progress import Progress
from ..core.volumes import Volume
from .people import find_scans, person_of

CELLS = 16  # along each side of the coarse grid
SAME = 0.998
SAME_EXTENT = 0.03


class Doubles:
    """Compares each image of a training with those before it, and tells of two of one person.

    Args:
        progress: Receives a warning for each.
    """

    def __init__(self, progress: Progress):
        self.progress = progress
        self._seen: list[tuple[str, str, np.ndarray, np.ndarray]] = []
        self._names: dict[str, str] = {}

    def add(self, name: str, person: str, volume: Volume) -> None:
        """Look at one more image.

        Args:
            name: Of the scan.
            person: Whom it is taken to show.
            volume: [k, j, i], any orientation and unit.
        """
        cells, extent = _coarse(volume)
        for other, whose, theirs, size in self._seen:
            near = np.all(np.abs(extent - size) <= SAME_EXTENT * size)
            if whose != person and near and float(cells @ theirs) >= SAME:
                self.progress.log(
                    f"Warning: {name} and {other} show the same scan, but are taken for two people"
                    f" ({person}, {whose}): give them one name, or leave one out, before anybody is"
                    " both trained on and tested on"
                )
        self._seen.append((name, person, cells, extent))
        self._compare_names(person)

    def _compare_names(self, person: str) -> None:
        alike = re.sub(r"[\W_]+", "", person).casefold()
        before = self._names.setdefault(alike, person)
        if before != person:
            self.progress.log(
                f"Warning: {before!r} and {person!r} are taken for two people; if they are one, use"
                " one name"
            )


def read_scans(folder: Path | str, progress: Progress) -> Iterator[tuple[str, Volume, Path | None]]:
    """Name, image and mask file of every scan of a folder, in the order of their names.

    Args:
        folder: As ``find_scans`` takes it.
        progress: Receives progress, and a warning for each two scans that look the same.

    Raises:
        ValueError: As ``find_scans`` and ``files.load``.
    """
    scans, doubles = find_scans(folder), Doubles(progress)
    for number, (name, (path, mask)) in enumerate(scans.items()):
        progress.report(number / len(scans), f"reading {name}")
        image = files.load(path)
        doubles.add(name, person_of(name), image)
        yield name, image, mask


def _coarse(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Means of a volume's cells, of mean 0 and length 1, of shape (4096,); its extent in mm."""
    turned = volumes.reorient(volume, "RAS")
    array = torch.from_numpy(np.ascontiguousarray(turned.float32()))
    cells = F.adaptive_avg_pool3d(array[None, None], CELLS).flatten().numpy().astype(np.float64)
    cells -= cells.mean()
    extent = np.array(array.shape[::-1]) * np.array(turned.spacing_mm)
    return cells / max(float(np.linalg.norm(cells)), 1e-12), extent
