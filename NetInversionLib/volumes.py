"""Scalar volumes in physical space: checks, resampling, reorientation, files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Volume:
    """A scalar image in patient space.

    ``array`` is [k, j, i] in the type it came in; ``ijk_to_ras`` is 4x4 float64 and maps voxel indices (i, j, k, 1)
    to millimetres, right-anterior-superior, parent transforms included when it was read from a scene.
    """

    array: np.ndarray
    ijk_to_ras: np.ndarray
    name: str
    units: str = ""
