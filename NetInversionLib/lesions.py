"""Could this lesion vanish? A nodule is put into a CT slice and moved onto the denoiser's level set: what is left of its contrast
is what an image may hold without the output showing it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from .level_set import LevelSet, project
from .results import Curve, Progress, Table

SAMPLES_PER_VOXEL = 4
BLUR_VOXELS = 0.6  # the reconstruction's own: an edge takes about a voxel and a half


@dataclass(frozen=True)
class Nodule:
    """A ball. ``centre_mm``: (i, j) from the middle of the slice's first voxel; ``off_plane_mm``: the slice's distance from the
    ball's centre; ``diameter_mm``; ``contrast_hu``: difference from what surrounds it."""

    centre_mm: tuple[float, float]
    diameter_mm: float
    contrast_hu: float
    off_plane_mm: float = 0.0

    def __post_init__(self):
        if not self.diameter_mm > 0 or self.contrast_hu == 0:
            raise ValueError("a nodule needs a diameter above 0 mm and a contrast other than 0 HU")


def draw(nodule: Nodule, size: tuple[int, int], spacing_mm: tuple[float, float]) -> Tensor:
    """The nodule's change of a slice (J, I) in HU: the share of each voxel inside the ball, blurred like a reconstruction.

    Raises:
        ValueError: It does not touch the slice.
    """
    radius = np.sqrt(max(0.0, (nodule.diameter_mm / 2) ** 2 - nodule.off_plane_mm**2))
    fine = [(np.arange(n * SAMPLES_PER_VOXEL) + 0.5) / SAMPLES_PER_VOXEL - 0.5 for n in size]
    j, i = fine[0][:, None] * spacing_mm[1], fine[1][None] * spacing_mm[0]
    inside = np.hypot(i - nodule.centre_mm[0], j - nodule.centre_mm[1]) < radius
    if not inside.any():
        raise ValueError(f"the nodule of {nodule.diameter_mm:g} mm does not touch the slice: move it onto the image, or make it "
                         "larger")
    share = inside.reshape(size[0], SAMPLES_PER_VOXEL, size[1], SAMPLES_PER_VOXEL).mean((1, 3))
    return torch.from_numpy((nodule.contrast_hu * ndimage.gaussian_filter(share, BLUR_VOXELS)).astype(np.float32))


@dataclass(frozen=True)
class Hidden:
    """What is left of nodules with the output unchanged within epsilon.

    Attributes:
        images: Region contents (N, 1, h, w), normalised.
        survived_hu: Contrast along the nodule's own shape that is left, (N,); the input's contrast times the surviving share.
        survived: The share, (N,). accepted: On the level set, (N,).
        shown: How much the output changed (HU RMS) when the whole nodule was put in, (N,).
    """

    images: Tensor
    survived_hu: Tensor
    survived: Tensor
    accepted: Tensor
    shown: Tensor


def hide(level_set: LevelSet, nodules: list[Nodule], spacing_mm: tuple[float, float], hu_per_unit: float, epsilon: float,
         max_evaluations: int = 150, progress: Progress = Progress()) -> Hidden:
    """Put each nodule alone into the region and project; ``Nodule.centre_mm`` counts from the region's first voxel.

    Args:
        hu_per_unit: HU per normalised unit of the network's input.
    """
    changes = torch.stack([draw(nodule, level_set.region.size, spacing_mm) for nodule in nodules])[:, None]
    proposals = level_set.start + (changes / hu_per_unit).to(level_set.start)
    found = project(level_set, proposals, epsilon, max_evaluations, progress)
    contrast = torch.tensor([nodule.contrast_hu for nodule in nodules], dtype=torch.float64)
    return Hidden(found.images, contrast * found.survived.cpu(), found.survived.cpu(), found.accepted.cpu(), found.proposed.cpu())


def detectability(level_set: LevelSet, centre_mm: tuple[float, float], diameters_mm: list[float], contrasts_hu: list[float],
                  spacing_mm: tuple[float, float], hu_per_unit: float, epsilon: float, max_evaluations: int = 150,
                  progress: Progress = Progress()) -> tuple[Table, Curve, dict[str, Tensor]]:
    """Every size with every contrast at one place: how much of the contrast an unchanged output leaves room for.

    Returns:
        Table "lesions"; a curve, surviving contrast (HU) over diameter, a line for each contrast; and changes (h, w) of the
        region in HU by key, for the nodule of which most HU survive: "lesion", all of it, and "hidden lesion", what the output
        leaves room for. Empty if none was accepted.
    """
    pairs = list(product(contrasts_hu, diameters_mm))
    nodules = [Nodule(centre_mm, diameter, contrast) for contrast, diameter in pairs]
    found = hide(level_set, nodules, spacing_mm, hu_per_unit, epsilon, max_evaluations, progress)
    measure = f"output change with the whole nodule ({level_set.units})"
    table = Table("Could this lesion vanish?", {
        "diameter (mm)": [d for _, d in pairs], "contrast (HU)": [c for c, _ in pairs], measure: found.shown.tolist(),
        "contrast that survives (HU)": found.survived_hu.tolist(), "survives (%)": (100 * found.survived).tolist(),
        "output unchanged": found.accepted.tolist()})
    lines = {f"{contrast:g} HU": (list(diameters_mm), [float(h) for h, (c, _) in zip(found.survived_hu, pairs) if c == contrast])
             for contrast in contrasts_hu}
    images = {}
    if found.accepted.any():
        most = int(torch.where(found.accepted, found.survived_hu.abs(), -1.0).argmax())
        images = {"lesion": draw(nodules[most], level_set.region.size, spacing_mm),
                  "hidden lesion": (found.images[most] - level_set.start[0])[0].cpu() * hu_per_unit}
    curve = Curve("Contrast that an unchanged output leaves room for", "diameter (mm)", "surviving contrast (HU)", lines)
    return table, curve, images
