"""Is what may change anatomy or noise?

It is told by samples split by the size of their structures, their principal components, and their
spread inside segments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ..core.results import Table

BANDS = ("structure", "noise")
HALF_AT_PERIOD = float(
    np.sqrt(np.log(2) / 2) / np.pi
)  # sigma, in periods, of the Gaussian that halves a wave


def split(changes: Tensor, spacing_mm: tuple[float, float], period_mm: float) -> dict[str, Tensor]:
    """Images as a sum of "structure", what a Gaussian leaves, and "noise", what is finer.

    Args:
        changes: (N, H, W), any unit.
        spacing_mm: Voxel size along i and j, mm.
        period_mm: A wave of this period is shared equally by the two.

    Returns:
        "structure" and "noise", each of the shape of ``changes``.
    """
    sigma = [HALF_AT_PERIOD * period_mm / mm for mm in spacing_mm[::-1]]
    smooth = ndimage.gaussian_filter(changes.double().cpu().numpy(), (0, *sigma), mode="reflect")
    coarse = torch.from_numpy(smooth).to(changes)
    return {"structure": coarse, "noise": changes - coarse}


@dataclass(frozen=True)
class Components:
    """Directions along which samples differ most.

    Attributes:
        images: (C, h, w), each one standard deviation long, in the samples' units; the largest
            value of each is positive.
        explained: Share of the samples' variance, 0 to 1, (C,), descending.
    """

    images: Tensor
    explained: np.ndarray


def principal_components(changes: Tensor, count: int) -> Components:
    """Principal components of samples about their mean.

    Args:
        changes: Samples, (N, H, W), any unit.
        count: How many; there are at most N - 1, and only those that are not zero.
    """
    rows = changes.double().cpu().flatten(1)
    rows = rows - rows.mean(0)
    _, lengths, directions = torch.linalg.svd(rows, full_matrices=False)
    some = min(count, len(rows) - 1, int((lengths > 1e-9 * lengths.max().clamp(min=1e-12)).sum()))
    variance = lengths.square()
    images = directions[:some] * (variance[:some] / max(len(rows) - 1, 1)).sqrt()[:, None]
    sign = (
        torch.gather(images, 1, images.abs().argmax(1, keepdim=True)).sign()
        if some
        else images[:, :1]
    )
    explained = (variance[:some] / variance.sum().clamp(min=1e-300)).numpy()
    return Components((images * sign).reshape(some, *changes.shape[1:]), explained)


def segment_table(
    labels: np.ndarray, names: tuple[str, ...], deviations: dict[str, np.ndarray]
) -> Table:
    """Mean of maps inside segments.

    Args:
        labels: Whole numbers, 0 for none; label n is called ``names[n - 1]``, or "label n" beyond
            them.
        deviations: Maps of ``labels``' shape by heading, HU, NaN where nothing was sampled.
    """
    columns: dict[str, list] = {
        "segment": [],
        "voxels sampled": [],
        **{f"{heading} (HU)": [] for heading in deviations},
    }
    known = np.all([np.isfinite(a) for a in deviations.values()], axis=0)
    for label in (int(n) for n in np.unique(labels) if n):
        here = known & (labels == label)
        columns["segment"].append(names[label - 1] if 0 < label <= len(names) else f"label {label}")
        columns["voxels sampled"].append(int(here.sum()))
        for heading, array in deviations.items():
            columns[f"{heading} (HU)"].append(
                float(array[here].mean()) if here.any() else float("nan")
            )
    return Table("Mean standard deviation inside segments", columns)


def band_table(deviations: dict[str, np.ndarray], period_mm: float) -> Table:
    """Root mean square of maps over what was sampled, HU.

    Args:
        deviations: Maps "unproven <band>" and "proven <band>", [k, j, i] in HU; NaN where nothing
            was sampled.
        period_mm: The wave that the two bands share equally, mm.
    """

    def strength(key: str) -> float:
        array = deviations[key][np.isfinite(deviations[key])]
        return float(np.sqrt(np.mean(array**2))) if array.size else float("nan")

    before, after = (
        [strength(f"{kind} {band}") for band in BANDS] for kind in ("unproven", "proven")
    )
    return Table(
        "Anatomy or noise? The spread by size of structures",
        {
            "band": list(BANDS),
            "structures": [f"coarser than {period_mm:g} mm", f"finer than {period_mm:g} mm"],
            "unproven (HU)": before,
            "proven (HU)": after,
            "survived (%)": [100 * a / b if b > 0 else float("nan") for a, b in zip(after, before)],
        },
    )


def coverage_table(change: np.ndarray, deviations: dict[str, np.ndarray]) -> Table:
    """How often the true image lies within one and two standard deviations of the patient's.

    Args:
        change: What the true image, at normal dose, differs by from the patient's, (K, J, I), HU.
        deviations: Maps "unproven" and "proven" of that shape, HU, NaN where nothing was sampled.

    Returns:
        A line for each map and, as a null, for one value everywhere: the unproven map's own mean.
    """
    sampled = np.isfinite(deviations["unproven"])
    truth = np.abs(change[sampled])
    maps = {kind: np.nan_to_num(deviations[kind][sampled]) for kind in ("unproven", "proven")}
    everywhere = np.sqrt(np.mean(maps["unproven"] ** 2)) if truth.size else np.nan
    maps["one value everywhere"] = np.full(truth.shape, everywhere)
    columns: dict[str, list] = {"map": list(maps)}
    for times in (1, 2):
        columns[f"within {times} SD (%)"] = [
            float(100 * np.mean(truth <= times * deviation)) if truth.size else float("nan")
            for deviation in maps.values()
        ]
    return Table("How often the normal-dose image lies inside", columns)
