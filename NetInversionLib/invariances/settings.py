"""What a user may choose when looking for invariances; needs neither torch nor a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..core.settings import Checked, setting

PROPOSALS = ("noise", "texture", "cinn")
LESION_SHAPES = ("ball", "hollow")
"""Of the nodules; ``lesions.INSIDE`` says which voxels are in each."""
NOTHING_CHANGES = (
    "at exactly the same output a network with as many outputs as inputs lets nothing change."
    " Choose a fraction of the noise, 1 HU say"
)


@dataclass(frozen=True)
class InvariancesSettings(Checked):
    """Which changes to try, where, and what counts as unnoticed.

    ``region``: (k0, k1, j0, j1, i0, i1), half-open voxel indices of the low-dose volume, or None
    for everything; slices are the network's, axial. ``region_from``: how it was chosen, in words,
    for the reader of the result. ``layer``: "output", or a layer's name or number. ``proposals``:
    any of "noise" (fresh noise of the same dose), "texture" (random fine structure, ``texture_hu``
    strong) and "cinn" (drawn by a sampler, an autoencoder with a conditional flow, which has to be
    given); several take turns. ``samples``: changes tried per slice for the unproven map;
    ``projected``: how many of them are moved onto the level set; ``shown``: how many of each are
    kept as images. ``epsilon_hu``: root-mean-square output change that counts as unnoticed, or None
    for ``epsilon_noise`` times the noise of the low-dose image; ``patch_mm``: side of the patches
    that the output's change is averaged over, of which the largest average counts, or None for one
    average over the region (as in versions before); ``epsilon_layer``: the same for a
    hidden layer, relative. ``max_evaluations``: of the network, per projected sample. ``dose``,
    ``photons``, ``electronic``: of the fresh noise, see ``low_dose``; ``match_noise``: scale it to
    the noise measured in the image. ``tile``, ``overlap``: of large regions, voxels.
    ``structure_mm``: period that divides structure from noise in the table "bands"; ``components``:
    how many principal components of the accepted samples are kept, where a slice's region is one
    tile. ``segments``: names of the labels 1, 2, ... of the volume "segments". ``lesion``: a point
    in RAS mm at which nodules of ``lesion_diameters_mm`` and ``lesion_contrasts_hu`` are tried, or
    None; ``lesion_shape``: "ball", or "hollow" for one whose inner half is as it was; ``draws``: of
    noise, by which an observer tells how well each is seen (d').
    ``spectrum``: layers ("output" too) whose lost directions are counted, in squares of
    ``spectrum_size`` voxels. ``seed``: everything random follows from it. ``device``: "auto",
    "cpu", "cuda" or "mps".
    """

    region: tuple[int, ...] | None = None
    region_from: str = ""
    layer: str = "output"
    proposals: tuple[str, ...] = setting(("noise",), choices=PROPOSALS, filled=True)
    samples: int = setting(250, at_least=2)
    projected: int = setting(16, at_least=0)
    shown: int = setting(5, at_least=0)
    epsilon_hu: float | None = setting(None, above=0, because=NOTHING_CHANGES)
    epsilon_noise: float = setting(0.1, above=0, because=NOTHING_CHANGES)
    patch_mm: float | None = setting(5.0, above=0)
    epsilon_layer: float = setting(0.01, above=0, because=NOTHING_CHANGES)
    max_evaluations: int = setting(150, at_least=1)
    texture_hu: float = setting(50.0, above=0)
    dose: float = setting(0.25, above=0, at_most=1)
    photons: float = setting(1.5e5, above=0)
    electronic: float = setting(10.0, at_least=0)
    match_noise: bool = True
    tile: int = setting(128, at_least=8)
    overlap: int = setting(32, at_least=0)
    structure_mm: float = setting(5.0, above=0)
    components: int = setting(3, at_least=0)
    segments: tuple[str, ...] = ()
    lesion: tuple[float, float, float] | None = setting(None, because="a point, RAS in mm")
    lesion_shape: str = setting("ball", choices=LESION_SHAPES)
    lesion_diameters_mm: tuple[float, ...] = setting((3.0, 5.0, 8.0, 12.0), filled=True, above=0)
    lesion_contrasts_hu: tuple[float, ...] = setting(
        (-60.0, -20.0, 20.0, 60.0), filled=True, other_than=0
    )
    draws: int = setting(64, at_least=20)
    spectrum: tuple[str, ...] = ()
    spectrum_size: int = setting(24, at_least=4, at_most=128)
    seed: int = 0
    device: str = "auto"

    def patch(self, spacing_mm: Sequence[float]) -> tuple[int, int] | None:
        """Rows and columns of the patches; ``spacing_mm``: voxel size along i, j and more."""
        if self.patch_mm is None:
            return None
        from .patches import patch_voxels

        return patch_voxels(self.patch_mm, (spacing_mm[0], spacing_mm[1]))

    def check(self) -> None:
        """Raise ValueError where numbers that depend on each other do not fit."""
        for name in ("projected", "shown"):
            count = getattr(self, name)
            if count > self.samples:
                raise ValueError(f"{name} must be at most samples ({self.samples}), not {count}")
        if 2 * self.overlap > self.tile:
            raise ValueError(
                f"overlap must be at most half of tile ({self.tile}), not {self.overlap}"
            )


Settings = InvariancesSettings
"""By this name scripts know it: ``from NetInversionLib.invariances import Settings``."""
