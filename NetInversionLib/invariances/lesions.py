"""Could this lesion vanish?

A nodule is put into a CT slice and moved onto the denoiser's level set: what is left of its
contrast is what an image may hold without the output showing it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ..core.progress import Part, Progress
from ..core.results import Curve, Table
from .level_set import BISECTIONS, ENOUGH, LevelSet, Window, project, returned, survived

SAMPLES_PER_VOXEL = 4
BLUR_VOXELS = 0.6  # the reconstruction's own: an edge takes about a voxel and a half


def _ball(across: np.ndarray, down: np.ndarray, radius: float) -> np.ndarray:
    return np.hypot(across, down) < radius


def _hollow(across: np.ndarray, down: np.ndarray, radius: float) -> np.ndarray:
    return _ball(across, down, radius) & ~_ball(across, down, radius / 2)


INSIDE = {"ball": _ball, "hollow": _hollow}
"""By shape, which points of a slice are in a nodule, from their distances in mm to its middle along
i and j (which broadcast), and its radius.
"""


@dataclass(frozen=True)
class Nodule:
    """A ball or another of ``INSIDE``, cut through its middle.

    ``centre_mm``: (i, j) from the middle of the slice's first voxel; ``diameter_mm``;
    ``contrast_hu``: difference from what surrounds it.
    """

    centre_mm: tuple[float, float]
    diameter_mm: float
    contrast_hu: float
    shape: str = "ball"

    def __post_init__(self):
        if not self.diameter_mm > 0 or self.contrast_hu == 0:
            raise ValueError("a nodule needs a diameter above 0 mm and a contrast other than 0 HU")


def draw(nodule: Nodule, region: Window, spacing_mm: tuple[float, float]) -> Tensor:
    """The nodule's change of a region in HU.

    It is the share of each voxel inside the nodule, blurred like a reconstruction.

    Args:
        nodule: Where, how large and of what contrast.
        region: The part of the slice that is drawn.
        spacing_mm: Voxel size along i and j, mm.

    Returns:
        HU, of shape (H, W), that of the region.

    Raises:
        ValueError: It does not touch the region.
    """
    fine = [
        (np.arange(first * SAMPLES_PER_VOXEL, last * SAMPLES_PER_VOXEL) + 0.5) / SAMPLES_PER_VOXEL
        - 0.5
        for first, last in ((region.j0, region.j1), (region.i0, region.i1))
    ]
    j, i = fine[0][:, None] * spacing_mm[1], fine[1][None] * spacing_mm[0]
    inside = INSIDE[nodule.shape](
        i - nodule.centre_mm[0], j - nodule.centre_mm[1], nodule.diameter_mm / 2
    )
    if not inside.any():
        raise ValueError(
            f"the nodule of {nodule.diameter_mm:g} mm does not touch the slice: move it onto the"
            " image, or make it larger"
        )
    share = inside.reshape(
        region.size[0], SAMPLES_PER_VOXEL, region.size[1], SAMPLES_PER_VOXEL
    ).mean((1, 3))
    return torch.from_numpy(
        (nodule.contrast_hu * ndimage.gaussian_filter(share, BLUR_VOXELS)).astype(np.float32)
    )


@dataclass(frozen=True)
class Hidden:
    """What is left of nodules with the output unchanged within epsilon.

    Attributes:
        images: Region contents (N, 1, h, w), normalised.
        accepted: On the level set, (N,).
        survived: The share of the nodule's own change that is left, (N,): what is hidden at least,
            since a longer search may find more.
        survived_hu: The same as contrast: the nodule's times that share, (N,).
        faded_hu: The contrast that is left when the nodule only fades, and nothing else changes,
            (N,).
        shown: How much the output changed (HU RMS) when the whole nodule was put in, (N,).
    """

    images: Tensor
    accepted: Tensor
    survived: Tensor
    survived_hu: Tensor
    faded_hu: Tensor
    shown: Tensor


def hide(
    level_set: LevelSet,
    nodules: list[Nodule],
    spacing_mm: tuple[float, float],
    hu_per_unit: float,
    epsilon: float,
    max_evaluations: int = 150,
    progress: Progress = Progress(),
) -> Hidden:
    """Put each nodule alone into the region and move it onto the level set.

    It is projected, and it fades: of the two images that of which more is left counts.

    Args:
        hu_per_unit: HU per normalised unit of the network's input.
    """
    changes = torch.stack([draw(nodule, level_set.region, spacing_mm) for nodule in nodules])[
        :, None
    ]
    proposals = level_set.start + (changes / hu_per_unit).to(level_set.start)
    found = project(level_set, proposals, epsilon, max_evaluations, progress)
    faded = _faded(level_set, proposals, ENOUGH * epsilon)
    left = survived(proposals, faded, level_set.start)
    projected = torch.where(found.accepted.cpu(), found.survived.cpu(), -math.inf)
    better = (projected > left).to(proposals.device).view(-1, 1, 1, 1)
    images = torch.where(better, found.images, faded)
    contrast = torch.tensor([nodule.contrast_hu for nodule in nodules], dtype=torch.float64)
    most = torch.maximum(projected, left)
    return Hidden(
        images,
        level_set.measure(images) <= epsilon,
        most,
        contrast * most,
        contrast * left,
        found.proposed.cpu(),
    )


def _faded(level_set: LevelSet, proposals: Tensor, epsilon: float) -> Tensor:
    """As much of each proposed change as passes, its shape unchanged; (N, 1, h, w)."""
    still = level_set.start.expand_as(proposals)
    coarse = returned(level_set, still, proposals, epsilon)
    step = (proposals - still) / 2**BISECTIONS
    return returned(level_set, coarse, coarse + step, epsilon)


def detectability(
    level_sets: dict[float, LevelSet],
    centre_mm: tuple[float, float],
    contrasts_hu: list[float],
    spacing_mm: tuple[float, float],
    hu_per_unit: float,
    epsilon: float,
    max_evaluations: int = 150,
    progress: Progress = Progress(),
    nulls: dict[str, dict[float, LevelSet]] | None = None,
    shape: str = "ball",
) -> tuple[Table, Curve, dict[str, tuple[Window, Tensor]]]:
    """Every size with every contrast at one place.

    How much of the contrast does an unchanged output leave room for?

    Args:
        level_sets: By diameter (mm). Each has a region that follows from this diameter alone: the
            measure is a mean over the region, so a nodule's answer would else depend on which
            others are asked about.
        centre_mm: Of the nodules, (i, j), from the middle of the slice's first voxel.
        contrasts_hu: Of the nodules, HU.
        spacing_mm: Voxel size along i, j.
        hu_per_unit: HU per normalised unit of the input.
        epsilon: What counts as unchanged, in the level sets' units.
        max_evaluations: Of the network, for each nodule.
        progress: Receives progress; may raise ``Cancelled``.
        nulls: Level sets of other networks, by their names, and by diameter: what the same nodules
            hide from them stands beside.
        shape: Of the nodules, one of ``INSIDE``.

    Returns:
        Table "lesions"; a curve, surviving contrast (HU) over diameter, a line for each contrast;
        and changes in HU by key, each with its region and its values, of shape (h, w), for the
        nodule of which most HU survive: "lesion", all of it, and "hidden lesion", what the output
        leaves room for.
    """
    contrasts, units = sorted(set(contrasts_hu)), next(iter(level_sets.values())).units
    rows = _empty_columns(units)
    beside: dict[str, list] = {f"the same with {name} (HU)": [] for name in (nulls or {})}
    most = 0.0
    images: dict[str, tuple[Window, Tensor]] = {}
    for number, (diameter, level_set) in enumerate(sorted(level_sets.items())):
        nodules = [Nodule(centre_mm, diameter, contrast, shape) for contrast in contrasts]
        part = Part(progress, number / len(level_sets), (number + 1) / len(level_sets))
        found = hide(level_set, nodules, spacing_mm, hu_per_unit, epsilon, max_evaluations, part)
        for row in zip(
            [diameter] * len(nodules),
            contrasts,
            ["{} x {}".format(*level_set.region.size)] * len(nodules),
            found.shown.tolist(),
            found.survived_hu.tolist(),
            (100 * found.survived).tolist(),
            found.faded_hu.tolist(),
            found.accepted.tolist(),
        ):
            for column, value in zip(rows.values(), row):
                column.append(value)
        for (name, others), column in zip((nulls or {}).items(), beside.values()):
            null = hide(
                others[diameter], nodules, spacing_mm, hu_per_unit, epsilon, max_evaluations
            )
            column.extend(null.survived_hu.tolist())
        strengths = found.survived_hu.abs()
        best = int(strengths.argmax())
        if strengths[best] > most:
            most = float(strengths[best])
            images = {
                "lesion": (level_set.region, draw(nodules[best], level_set.region, spacing_mm)),
                "hidden lesion": (
                    level_set.region,
                    (found.images[best] - level_set.start[0])[0].cpu() * hu_per_unit,
                ),
            }
    curve = _surviving(rows, sorted(level_sets), contrasts)
    return Table("Could this lesion vanish?", rows | beside), curve, images


def _empty_columns(units: str) -> dict[str, list]:
    """The columns of table "lesions" without rows; ``units`` are the level sets'."""
    headings = (
        "diameter (mm)",
        "contrast (HU)",
        "region (voxels)",
        f"output change with the whole nodule ({units})",
        "contrast that survives (HU)",
        "survives (%)",
        "left by fading alone (HU)",
        "output unchanged",
    )
    return {heading: [] for heading in headings}


def _surviving(rows: dict[str, list], diameters: list[float], contrasts: list[float]) -> Curve:
    """Contrast that survives over diameter, a line for each contrast, from table "lesions"."""
    lines = {
        f"{contrast:g} HU": (
            diameters,
            [
                left
                for left, its in zip(rows["contrast that survives (HU)"], rows["contrast (HU)"])
                if its == contrast
            ],
        )
        for contrast in contrasts
    }
    return Curve(
        "How much of a lesion's contrast could go unnoticed?",
        "lesion diameter (mm)",
        "unnoticed contrast (HU)",
        lines,
    )
