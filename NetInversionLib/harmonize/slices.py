"""Slices of a scan on the grid and with the quantised values that a flow was trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ..core import volumes
from ..core.volumes import Volume
from ..networks.flow import ConditionalFlow, log_prob_of
from . import scan as harmonize_scan
from .edges import edge_map

# Slices are stacked along axis n of arrays [k, j, i] in RAS axes.
ORIENTATIONS = ("axial", "coronal", "sagittal")
QUANTILES = 513
HISTOGRAM_BINS = 84
SLICES_AT_ONCE = 16


@dataclass(frozen=True)
class SliceCase:
    """One person's scan on the flow's grid.

    ``image`` (scaled, float32), ``edges`` (float32, 0 to 1) and ``mask`` (bool) are [k, j, i] in
    RAS axes; ``quantiles`` (513,), ``histogram`` (84,) and ``scale``, what intensities were divided
    by, are of the scan's own grid.
    """

    name: str
    image: np.ndarray
    edges: np.ndarray
    mask: np.ndarray
    quantiles: np.ndarray
    histogram: np.ndarray
    scale: float


def make_case(scan: harmonize_scan.Scan, spacing_mm: float, name: str | None = None) -> SliceCase:
    """A scan as the flow sees it."""
    grid = on_grid(scan, spacing_mm)
    inside = scan.inside
    counts = np.histogram(inside, HISTOGRAM_BINS, (0, HISTOGRAM_BINS / 64))[0]
    return SliceCase(
        name or scan.volume.name,
        grid.image,
        edge_map(grid.image, grid.mask, grid.volume.spacing_mm),
        grid.mask,
        np.quantile(inside, np.linspace(0, 1, QUANTILES)).astype(np.float32),
        (counts / inside.size).astype(np.float32),
        scan.scale,
    )


def on_grid(scan: harmonize_scan.Scan, spacing_mm: float, margin: int = 2) -> harmonize_scan.Scan:
    """The scan on an isotropic grid along its own axes.

    The grid just holds the mask and ``margin`` voxels around it.

    Where the scan is finer, it is first smoothed to the new voxel size (Gaussian, full widths at
    half maximum in quadrature).

    Raises:
        mr.ScanError: Nothing of the mask is left on that grid.
    """
    old = np.array(scan.volume.spacing_mm[::-1])
    sigma = np.sqrt(np.maximum(0, spacing_mm**2 - old**2)) / 2.355 / old
    box = tuple(
        slice(*ends)
        for ends in _grown(scan.mask, np.ceil((margin + 1) * spacing_mm / old).astype(int))
    )
    offset = np.array([side.start for side in box][::-1])
    near = Volume(scan.image[box], _moved(scan.volume.ijk_to_ras, offset), scan.volume.name)
    smooth = near.with_array(ndimage.gaussian_filter(near.array, sigma, mode="nearest"))
    reference = _grid_over(near, spacing_mm)
    image = volumes.resample(smooth, reference, fill=0).array.clip(0, harmonize_scan.BRIGHTEST)
    inside = near.with_array(
        ndimage.gaussian_filter(scan.mask[box].astype(np.float32), sigma, mode="nearest")
    )
    mask = volumes.resample(inside, reference, fill=0).array > 0.5
    if not mask.any():
        raise harmonize_scan.ScanError(
            f"the mask covers less than a voxel of the model's grid ({spacing_mm:g} mm): draw or"
            " choose a mask that covers the brain"
        )
    volume = replace(reference, array=np.ascontiguousarray(image, np.float32))
    return harmonize_scan.Scan(volume, mask, scan.scale, scan.original)


def _grid_over(near: Volume, spacing_mm: float) -> Volume:
    """An empty isotropic grid with the same middle and at least the same extent."""
    old = np.array(near.spacing_mm)
    extent = np.array(near.shape[::-1])
    size = np.ceil(extent * old / spacing_mm - 1e-6).astype(int)
    matrix = near.ijk_to_ras.copy()
    matrix[:3, :3] *= spacing_mm / old
    matrix[:3, 3] = (near.ijk_to_ras @ [*(extent - 1) / 2, 1])[:3] - matrix[:3, :3] @ (
        (size - 1) / 2
    )
    return Volume(np.zeros(size[::-1], np.float32), matrix, near.name)


def _grown(mask: np.ndarray, margin: np.ndarray) -> list[tuple[int, int]]:
    used = [np.flatnonzero(mask.any(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return [(max(0, int(w[0] - m)), int(w[-1] + 1 + m)) for w, m in zip(used, margin)]


def _moved(matrix: np.ndarray, ijk: np.ndarray) -> np.ndarray:
    moved = matrix.copy()
    moved[:3, 3] = (matrix @ [*ijk, 1])[:3]
    return moved


# Slices -------------------------------------------------------------------------------------------


def quantised(image: Tensor, bin_width: float) -> Tensor:
    """Scaled values moved to the centres of their bins.

    This is what a flow is asked about outside of training.

    Args:
        image: (N, 1, H, W), scaled.
        bin_width: In scaled units.

    Returns:
        Of the shape of ``image``.
    """
    return (torch.floor(image / bin_width) + 0.5) * bin_width


def slices(
    case: SliceCase, axis: int, multiple: int, every: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """All slices along an axis that meet the mask, or every n-th, one at least.

    Images, edges and masks of shape (N, 1, H, W).

    Zeros at the far sides fill heights and widths up to a multiple.
    """
    used = np.flatnonzero(case.mask.any(tuple({0, 1, 2} - {axis})))
    used = used[min(every // 2, len(used) - 1) :: every]
    found = []
    for array in (case.image, case.edges, case.mask.astype(np.float32)):
        stack = np.moveaxis(np.take(array, used, axis), axis, 0)
        stack = np.pad(stack, [(0, 0), *((0, -n % multiple) for n in stack.shape[1:])])
        found.append(torch.from_numpy(np.ascontiguousarray(stack))[:, None])
    return tuple(found)


@torch.no_grad()
def figures(
    flow: ConditionalFlow, case: SliceCase, bin_width: float, every: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """How likely the slices of a case are under a flow, and how large their latents.

    Bits/dim are -log2 of the probability of the slices' bins, summed over slices, per voxel inside
    the mask.

    Args:
        flow: Of the target.
        case: A scan on the flow's grid.
        bin_width: Of the bins, scaled units.
        every: Take every n-th slice only.

    Returns:
        Bits/dim of shape (4,), of axial, coronal and sagittal slices and their mean; the root mean
        square of latents, of shape (levels,).
    """
    device = next(flow.parameters()).device
    bits: list[float] = []
    squares: np.ndarray | float = 0.0
    counts: np.ndarray | float = 0.0
    for axis in range(3):
        total, voxels = 0.0, 0
        images, edges, masks = slices(case, axis, flow.size_multiple, every)
        for x, edge, mask in zip(
            *(stack.split(SLICES_AT_ONCE) for stack in (images, edges, masks))
        ):
            x = quantised(x, bin_width).to(device)
            z, log_det = flow(x, edge.to(device))
            total += float(bits_of_bins(z, log_det, bin_width).sum())
            voxels += int(mask.sum())
            squares = squares + np.array([float(part.cpu().double().square().sum()) for part in z])
            counts = counts + np.array([part.numel() for part in z])
        bits.append(total / voxels)
    return np.array([*bits, np.mean(bits)]), np.sqrt(squares / counts)


def bits_of_bins(z: list[Tensor], log_det: Tensor, bin_width: float) -> Tensor:
    """Bits of the bins that the images fall into.

    Args:
        z: Latents, for each level of shape (N, c, h, w).
        log_det: Of the flow, of shape (N,).
        bin_width: Scaled units.

    Returns:
        Of shape (N,), summed over each image.
    """
    dimension = sum(part[0].numel() for part in z)
    return -log_prob_of(z, log_det) / math.log(2) - dimension * math.log2(bin_width)
