"""Brains drawn with formulas: ventricles, white matter with folds, a grey rim.

No two are alike, and none is a scan of anybody.
"""

import numpy as np
from scipy import ndimage

from NetInversionLib.core.volumes import Volume
from NetInversionLib.harmonize import scan as harmonize_scan

SPACING = (3.0, 3.2, 3.0)  # i, j, k


def brain(person: int, shape=(46, 56, 50), spacing=SPACING, tones=(0.25, 0.55, 0.85)) -> Volume:
    """A scan of intensities 0 to about 1000.

    ``tones`` are those of CSF, grey and white matter. The person decides sizes and folds.
    """
    random = np.random.default_rng(person)
    kji = np.indices(shape).astype(float)
    mm = [(kji[axis] - (shape[axis] - 1) / 2) * spacing[2 - axis] for axis in range(3)]
    z, y, x = (
        m / radius for m, radius in zip(mm, np.array([58, 76, 62]) * random.uniform(0.96, 1.04, 3))
    )
    radius = np.sqrt(x**2 + y**2 + z**2)
    phase = random.uniform(0, 2 * np.pi, 3)
    folds = 0.06 * (np.sin(9 * x + phase[0]) + np.sin(8 * y + phase[1]) + np.sin(9 * z + phase[2]))
    inside = radius < 1
    white = radius + folds < 0.78
    ventricles = np.sqrt(
        (np.abs(x) / 0.3 - 0.5) ** 2 + (y / 0.4) ** 2 + (z / 0.3) ** 2
    ) < random.uniform(0.85, 1.0)
    sulci = (radius - folds > 0.97) & inside
    image = np.select([~inside, ventricles | sulci, white], [0, tones[0], tones[2]], tones[1])
    image = ndimage.gaussian_filter(image, 0.6) + random.normal(0, 0.04, shape)
    image = np.where(inside, np.maximum(image, 0.01), 0) * 1000
    matrix = np.diag([*spacing, 1.0])
    matrix[:3, 3] = [
        -(n - 1) / 2 * s + shift
        for n, s, shift in zip(shape[::-1], spacing, random.uniform(-4, 4, 3))
    ]
    return Volume(image.astype(np.float32), matrix, f"person{person}")


def scan(person: int, **changes) -> harmonize_scan.Scan:
    return harmonize_scan.prepare(brain(person, **changes))


def made_up_brain(seed=0, size=72):
    """(image, mask): a ball of folded tissue with little noise and a dark core, 0 outside."""
    rng = np.random.default_rng(seed)
    radius = np.sqrt(
        sum(((n - size / 2) / (size / 2 - 4)) ** 2 for n in np.mgrid[:size, :size, :size])
    )
    tissue = ndimage.gaussian_filter(rng.standard_normal((size,) * 3), 1.5)
    image = 0.6 + 0.25 * np.tanh(tissue / tissue.std())
    image[radius < 0.25] = 0.2
    image += rng.normal(0, 0.01, image.shape)
    mask = radius < 1
    return np.where(mask, image, 0).clip(0).astype(np.float32), mask
