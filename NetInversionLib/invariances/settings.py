"""What a user may choose when looking for invariances; needs neither torch nor a model."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Real

PROPOSALS = ("noise", "texture", "cinn")


@dataclass(frozen=True)
class Settings:
    """Which changes to try, where, and what counts as unnoticed.

    ``region``: (k0, k1, j0, j1, i0, i1), half-open voxel indices of the low-dose volume, or None
    for everything; slices are the network's, axial. ``region_from``: how it was chosen, in words,
    for the reader of the result. ``layer``: "output", or a layer's name or number. ``proposals``:
    any of "noise" (fresh noise of the same dose), "texture" (random fine structure, ``texture_hu``
    strong) and "cinn" (drawn by a sampler, an autoencoder with a conditional flow, which has to be
    given); several take turns. ``samples``: changes tried per slice for the unproven map;
    ``projected``: how many of them are moved onto the level set; ``shown``: how many of each are
    kept as images. ``epsilon_hu``: root-mean-square output change that counts as unnoticed, or None
    for ``epsilon_noise`` times the noise of the low-dose image; ``epsilon_layer``: the same for a
    hidden layer, relative. ``max_evaluations``: of the network, per projected sample. ``dose``,
    ``photons``, ``electronic``: of the fresh noise, see ``low_dose``; ``match_noise``: scale it to
    the noise measured in the image. ``tile``, ``overlap``: of large regions, voxels.
    ``structure_mm``: period that divides structure from noise in the table "bands"; ``components``:
    how many principal components of the accepted samples are kept, where a slice's region is one
    tile. ``segments``: names of the labels 1, 2, ... of the volume "segments". ``lesion``: a point
    in RAS mm at which nodules of ``lesion_diameters_mm`` and ``lesion_contrasts_hu`` are tried, or
    None. ``spectrum``: layers ("output" too) whose lost directions are counted, in squares of
    ``spectrum_size`` voxels. ``seed``: everything random follows from it. ``device``: "auto",
    "cpu", "cuda" or "mps".
    """

    region: tuple[int, ...] | None = None
    region_from: str = ""
    layer: str = "output"
    proposals: tuple[str, ...] = ("noise",)
    samples: int = 250
    projected: int = 16
    shown: int = 5
    epsilon_hu: float | None = None
    epsilon_noise: float = 0.1
    epsilon_layer: float = 0.01
    max_evaluations: int = 150
    texture_hu: float = 50.0
    dose: float = 0.25
    photons: float = 1.5e5
    electronic: float = 10.0
    match_noise: bool = True
    tile: int = 128
    overlap: int = 32
    structure_mm: float = 5.0
    components: int = 3
    segments: tuple[str, ...] = ()
    lesion: tuple[float, float, float] | None = None
    lesion_diameters_mm: tuple[float, ...] = (3.0, 5.0, 8.0, 12.0)
    lesion_contrasts_hu: tuple[float, ...] = (-60.0, -20.0, 20.0, 60.0)
    spectrum: tuple[str, ...] = ()
    spectrum_size: int = 24
    seed: int = 0
    device: str = "auto"

    def __post_init__(self):
        for field in fields(self):  # lists, when they come from JSON
            if isinstance(getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))
        unknown = set(self.proposals) - set(PROPOSALS)
        if unknown or not self.proposals:
            raise ValueError(
                f"proposals must be among {', '.join(PROPOSALS)}, not "
                f"{', '.join(map(str, sorted(unknown))) or 'empty'}"
            )
        if (
            self.epsilon_hu is not None
            and not self.epsilon_hu > 0
            or not min(self.epsilon_noise, self.epsilon_layer) > 0
        ):
            raise ValueError(
                "epsilon must be above 0: at exactly the same output a network with as many outputs"
                " as inputs lets nothing change. Choose a fraction of the noise, 1 HU say"
            )
        if not (
            self.samples >= 2
            and 0 <= self.projected <= self.samples
            and 0 <= self.shown <= self.samples
        ):
            raise ValueError("samples is at least 2, projected and shown at most samples")
        if (
            self.max_evaluations < 1
            or not self.texture_hu > 0
            or not 0 <= 2 * self.overlap <= self.tile
            or self.tile < 8
        ):
            raise ValueError(
                "max_evaluations is at least 1, texture_hu above 0, tile at least 8 and at least"
                " twice the overlap"
            )
        if not self.structure_mm > 0 or self.components < 0 or not 4 <= self.spectrum_size <= 128:
            raise ValueError(
                "structure_mm is above 0, components not below 0, spectrum_size 4 to 128"
            )
        if self.lesion is not None and len(self.lesion) != 3:
            raise ValueError("lesion is a point: three numbers, RAS in mm")
        if self.lesion is not None and not all(_is_number(x) for x in self.lesion):
            raise ValueError(f"lesion must be numbers, RAS in mm, not {self.lesion}")
        if not self.lesion_diameters_mm or not all(
            _is_number(x) and x > 0 for x in self.lesion_diameters_mm
        ):
            raise ValueError(
                "lesion_diameters_mm must be one number or more, all above 0, not"
                f" {self.lesion_diameters_mm}"
            )
        if not self.lesion_contrasts_hu or not all(
            _is_number(x) and x != 0 for x in self.lesion_contrasts_hu
        ):
            raise ValueError(
                "lesion_contrasts_hu must be one number or more, none of them 0, not"
                f" {self.lesion_contrasts_hu}"
            )

    @classmethod
    def from_json(cls, settings: dict) -> Settings:
        unknown = set(settings) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}")
        return cls(**settings)


def _is_number(value) -> bool:
    return isinstance(value, Real) and math.isfinite(value)
