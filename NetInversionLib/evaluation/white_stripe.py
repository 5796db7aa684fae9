"""WhiteStripe of the package intensity-normalization, brought to a target scanner's values.

Source: Shinohara et al., NeuroImage Clin 2014;6:9; Reinhold et al., Proc. SPIE 10949, 109493H
(2019) for the package.
"""

from __future__ import annotations

import importlib.util

import numpy as np

from ..harmonize.matching import FRACTIONS, Method
from ..harmonize.scan import BRIGHTEST, Scan

NAME = "WhiteStripe"
ABSENT = f"{NAME} (not run: the package intensity-normalization is not installed)"
DRAWN = 20_001  # values that stand for the target's distribution


def installed() -> bool:
    """Whether the package is there."""
    return importlib.util.find_spec("intensity_normalization") is not None


def white_stripe(target: np.ndarray) -> Method:
    """WhiteStripe: the white matter's mean and deviation become the target's.

    Both are those of the stripe: the 5 % of voxels on either side of white matter's peak.

    Args:
        target: The target's quantiles, (513,).

    Returns:
        A function from a scaled scan to the scaled image [k, j, i].

    Raises:
        ValueError: The package is not installed.
    """
    if not installed():
        raise ValueError(f"{NAME} needs a package: pip install intensity-normalization")
    values = np.interp(np.linspace(0, 1, DRAWN), FRACTIONS, np.asarray(target, np.float64))
    known: list[tuple[float, float]] = []

    def method(scan: Scan) -> np.ndarray:
        if not known:
            known.append(stripe(values.astype(np.float32)))
        mean, deviation = stripe(scan.inside)
        tissue = scan.mask | (scan.image > 0)
        changed = (scan.image - mean) / deviation * known[0][1] + known[0][0]
        return np.where(tissue, np.clip(changed, 0, BRIGHTEST), 0).astype(np.float32)

    return method


def stripe(values: np.ndarray) -> tuple[float, float]:
    """The stripe's mean and standard deviation, as the package finds them.

    Args:
        values: Inside the mask, scaled, of any shape.

    Raises:
        ValueError: It finds none.
    """
    from intensity_normalization import WhiteStripeNormalizer, create_image
    from intensity_normalization.domain.exceptions import NormalizationError

    flat = values.reshape(1, 1, -1)
    found = WhiteStripeNormalizer()
    try:
        found.fit(create_image(flat), create_image(np.ones_like(flat)))
    except NormalizationError as error:
        raise ValueError(f"{NAME} finds no white matter: {error}") from error
    return float(found.mean), float(found.std)
