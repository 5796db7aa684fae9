"""How a family's network is trained, and on which images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.settings import Checked, setting

SCANNER = ("acceleration", "centre", "noise")
"""Settings of how k-space is simulated."""


@dataclass(frozen=True)
class FamilySettings(Checked):
    """How a family's network is trained; a row may have defaults of its own.

    Attributes:
        steps, batch: Optimiser steps (the row's where none are given), slices in each.
        learning_rate: Adam's, at its highest; warms up over 5 % of the steps and falls as a cosine.
        average: Decay per step of the running mean of the weights, which is what is kept.
        size, spacing_mm: Of a slice: voxels along each side, and their size; super-resolution has
            160 of 1.2 mm where none is given, of cubes the 3D SRGAN 72 of 2.4 mm, Vox2Vox 48 of
            3.6 mm.
        acceleration: All lines of k-space over those that are measured.
        centre: Share of the lines, in the middle, that always are.
        noise: Its standard deviation, in either part of k-space or of the image; the brightest
            tissue is 1. A denoiser has 0.08 where none is given, and sees half to twice of it.
        seed: Everything random follows from it and the step's number. checkpoint_every: Steps
            between checkpoints.
    """

    steps: int | None = setting(None, at_least=1)
    batch: int = setting(2, at_least=1)
    learning_rate: float = setting(2e-3, above=0)
    average: float = setting(0.98, at_least=0, below=1)
    size: int = setting(80, at_least=16, at_most=256)
    spacing_mm: float = setting(2.4, above=0)
    acceleration: float = setting(3.0, at_least=1)
    centre: float = setting(0.1, above=0, at_most=1)
    noise: float = setting(0.01, at_least=0)
    seed: int = setting(0, at_least=0)
    checkpoint_every: int = setting(100, at_least=1)

    @property
    def scanner(self) -> dict[str, Any]:
        """What ``kspace.scan`` is told."""
        return {name: getattr(self, name) for name in SCANNER}
