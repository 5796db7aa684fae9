"""Scans of simulated scanners."""

import numpy as np

from NetInversionLib.core.volumes import Volume
from NetInversionLib.harmonize import scan as harmonize_scan


def make_scan(seed=0, shape=(14, 17, 15)):
    """A ball of uneven brightness in air."""
    rng = np.random.default_rng(seed)
    grids = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    image = (sum(g**2 for g in grids) < 0.7) * (rng.uniform(0.05, 1, shape) * 1000)
    return harmonize_scan.prepare(
        Volume(image.astype(np.float32), np.diag([1.0, 2.0, 1.5, 1.0]), "ball")
    )
