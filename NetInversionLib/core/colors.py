"""Colours of maps, by what they show: in the views, the panel and the reports alike."""

from __future__ import annotations

import numpy as np

# RGB at even steps; colours between them are linear. Error and spread follow matplotlib's inferno
# and viridis (CC0), phase, which ends where it begins, twilight (CC0), factor Brewer's purple and
# orange, difference his blues and oranges: the two ends differ for colour-blind readers too, and
# the middle, where nothing changed, is lighter than both.
COLORS = {
    "difference": "08306b 2171b5 6baed6 f0f0f0 fd8d3c d94801 7f2704",
    "factor": "542788 8073ac f7f7f7 e08214 7f3b08",
    "error": "000004 1b0c41 4a0c6b 781c6d a52c60 cf4446 ed6925 fb9b06 f7d13d fcffa4",
    "phase": "e2d9e2 95b5c7 6276ba 592a8f 2f1436 741e4f b25652 cca389 e2d9e2",
    "spread": "440154 482878 3e4989 31688e 26828e 1f9e89 35b779 6ece58 b5de2b fde725",
}
"""By role: "spread" is the maps of standard deviations."""


def stops(role: str) -> np.ndarray:
    """The colours of a role at even steps, RGB from 0 to 255, of shape (steps, 3)."""
    return np.array([list(bytes.fromhex(color)) for color in COLORS[role].split()])
