"""The change itself: fields and tone curve, or free form, made into an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import models as model_files
from ..core import volumes
from ..core.progress import Part, Progress
from ..models import Model
from ..networks.mrflow import MRFlow
from . import estimate as harmonize_estimate
from . import free_form, slices
from . import scan as harmonize_scan
from .edges import edge_map
from .scan import Scan
from .settings import HarmonizeSettings
from .tone_field import ToneField


@dataclass(frozen=True)
class Restyled:
    """A scaled image on the source's own grid, and how it came about.

    [k, j, i] in RAS axes, not cut to a range.

    ``estimate``: the anatomy-safe change and how it was found; None in the free-form modes.
    ``trace``: per orientation, the correlation with the source after each iteration.
    """

    image: np.ndarray
    estimate: harmonize_estimate.Estimate | None
    trace: dict[str, list[float]]

    @property
    def tone(self) -> ToneField | None:
        """The anatomy-safe change."""
        return None if self.estimate is None else self.estimate.change


def method(model: Model, mode: str, **changes: Any) -> Callable[[Scan], np.ndarray]:
    """A mode as the evaluations take it.

    Args:
        model: Of the target scanner.
        mode: See ``HarmonizeSettings``.
        changes: Other fields of ``HarmonizeSettings``.

    Returns:
        A function from a scaled scan to the scaled image [k, j, i] on the same grid, float32, 0 to
        1.3.

    Raises:
        models.ModelError: The model is for something else.
    """
    settings = HarmonizeSettings(mode=mode, **changes)
    network = harmonizer(model)

    def run(scan: Scan) -> np.ndarray:
        return np.clip(
            restyle(scan, scan.image, network, settings, model).image, 0, harmonize_scan.BRIGHTEST
        )

    return run


def harmonizer(model: Model) -> MRFlow:
    """The network of a model for harmonization.

    Raises:
        models.ModelError: The model is for something else.
    """
    if not isinstance(model.network, MRFlow):
        raise model_files.ModelError(
            f"{model.card.name!r} is no model for harmonization but for "
            f"{model.card.task}: choose one made by 'netinversion train flow'"
        )
    return model.network


def gate_statistics(network: MRFlow) -> dict[str, np.ndarray]:
    """Everything stored of the target domain.

    Returns:
        Arrays by name, float32; ``training.gate.fit`` and ``training.flow_file`` say of which
        shape.
    """
    return {name: values.cpu().numpy() for name, values in network.statistics.named_buffers()}


def scaled_uncut(scan: Scan) -> np.ndarray:
    """The source in RAS axes divided by its scale, neither cut above 1.3 nor below 0.

    [k, j, i] float32.
    """
    return volumes.reorient(scan.original, "RAS").float32() / np.float32(scan.scale)


def changeable(scan: Scan, raw: np.ndarray) -> np.ndarray:
    """Where the image may change: the mask (which has zeros of its own) and what shines around it.

    Air stays as it is.

    Args:
        scan: With its mask.
        raw: The scaled image on the scan's own grid, [k, j, i].

    Returns:
        Boolean, of the shape of ``raw``.
    """
    return scan.mask | (raw > 0)


# The change ---------------------------------------------------------------------------------------


def restyle(
    scan: Scan,
    raw: np.ndarray,
    network: MRFlow,
    settings: HarmonizeSettings,
    model: Model,
    progress: Progress = Progress(),
) -> Restyled:
    """Estimate on the model's grid, apply in the mask and wherever the image shines.

    Args:
        scan: Scaled, with its mask.
        raw: Its image on the scan's own grid, scaled and not cut, [k, j, i].
        network: What is known of the target scanner.
        settings: See ``HarmonizeSettings``.
        model: Whose network it is.
        progress: Receives progress; may raise ``Cancelled``.
    """
    shines = changeable(scan, raw)
    if settings.mode != "anatomy-safe":
        flow = network.flow if settings.mode == "published" else None
        change, trace = _free_form(scan, scan, flow, settings, model, None, progress)
        return Restyled(np.where(shines, np.maximum(raw + change, 0), raw), None, trace)
    progress.report(0.05, "Estimating tone curve and fields")
    found = harmonize_estimate.explain(scan, network, progress=Part(progress, 0.05, 0.7))
    image = np.where(
        shines, np.maximum(found.change.apply(raw, scan.volume.ijk_to_ras, shines), 0), raw
    )
    if settings.strength == 0:
        return Restyled(image, found, {})
    start = scan.with_image(np.clip(image, 0, harmonize_scan.BRIGHTEST))
    radius = network.needed("typical_radius")[:, 0]
    change, trace = _free_form(start, scan, network.flow, settings, model, radius, progress)
    return Restyled(
        np.where(shines, np.maximum(image + np.float32(settings.strength) * change, 0), image),
        found,
        trace,
    )


def _free_form(
    start: Scan,
    source: Scan,
    flow,
    settings: HarmonizeSettings,
    model: Model,
    radius: Tensor | None,
    progress: Progress,
) -> tuple[np.ndarray, dict[str, list[float]]]:
    """What the refinement adds to ``start``, on the scan's own grid.

    With it comes the correlation's course by orientation.
    """
    spacing = model.card.spacing_mm[0]
    grids = [slices.on_grid(scan, spacing) for scan in (start, source)]
    # The edge map is the source's: the refinement must not draw its own.
    edges = edge_map(grids[1].image, grids[1].mask, grids[1].volume.spacing_mm)
    device = next(flow.parameters()).device if flow is not None else torch.device("cpu")
    tensors = [
        torch.from_numpy(np.ascontiguousarray(a)).to(device)
        for a in (*(g.image for g in grids), edges, grids[1].mask)
    ]
    trace: dict[str, list[float]] = {}

    def step(orientation: str, iteration: int, ncc: float) -> None:
        trace.setdefault(orientation, []).append(ncc)
        progress.point(f"correlation, {orientation}", iteration, ncc)

    first, wanted, edge, mask = tensors
    refined = free_form.refine(
        first, wanted, edge, mask, flow, settings, radius, Part(progress, 0.1, 0.8), step
    )
    change = grids[0].volume.with_array(refined.cpu().numpy() - grids[0].image)
    return volumes.resample(change, start.volume, fill=0).array, trace
