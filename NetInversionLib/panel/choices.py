"""The part of a volume that a panel's choices name: whole, a slice, some slices, or a box.

The panel's parameter node has the fields ``region`` (a ``RegionChoice``), ``firstSlice``,
``lastSlice`` (-1 is the last one) and ``roiNode``; its .ui file has ``slicesLabel``,
``slicesWidget``, ``firstSliceSpinBox``, ``lastSliceSpinBox``, ``roiLabel`` and ``roiSelector``.
"""

from __future__ import annotations

import enum
from typing import Any

import numpy as np
import slicer

from ..core import volumes
from ..core.volumes import Region, Volume
from ..scene import read
from . import placing
from .words import tr as _


class RegionChoice(enum.Enum):
    """Base of a module's own enum of regions.

    Its members have some of these names: AROUND, WHOLE, DISPLAYED, SLICES, ROI.
    """

    def label(self) -> str:
        """The choice in words."""
        return {
            "AROUND": _("Around the view's centre"),
            "WHOLE": _("Whole volume"),
            "DISPLAYED": _("Displayed slice"),
            "SLICES": _("Some slices"),
            "ROI": _("Region of interest"),
        }[self.name]


def whole(grid: Volume) -> list[int]:
    """[k0, k1, j0, j1, i0, i1] of all voxels of a volume (K, J, I)."""
    return [bound for size in grid.shape for bound in (0, size)]


def slice_count(volume: slicer.vtkMRMLNode, toward: str = "S") -> int:
    """How many slices a volume node has along a direction of the patient; 0 without a volume."""
    try:
        grid = read.grid_from_node(volume)
    except volumes.VolumeError:
        return 0
    return grid.shape[volumes.axis_toward(grid, toward)[0]]


def region_of(node: Any, grid: Volume, view: str, toward: str = "S") -> Region | None:
    """The region that the choices WHOLE, DISPLAYED, SLICES and ROI name.

    Args:
        node: The panel's parameter node.
        grid: The volume (K, J, I).
        view: The slice view whose slice is the displayed one; the middle of the volume if it shows
            another volume.
        toward: Direction of the patient that the slices follow each other in, "S" say.

    Returns:
        (k0, k1, j0, j1, i0, i1), half-open voxel indices; None for all of it.

    Raises:
        VolumeError: It lies outside, or is not placed yet.
    """
    choice = node.region.name
    if choice == "WHOLE":
        return None
    if choice == "ROI":
        if node.roiNode is None:
            raise volumes.VolumeError(_("Choose a region of interest, or press 'Place a box'."))
        return read.region_from_roi_node(node.roiNode, grid)
    axis = volumes.axis_toward(grid, toward)[0]
    if choice == "DISPLAYED":
        shown = volumes.region_from_ras_points(
            grid, np.array([placing.point_in(grid, placing.slice_point(view))])
        )
        first, after = shown[2 * axis : 2 * axis + 2]
    else:
        first, after = _chosen_slices(node, grid.shape[axis])
    region = whole(grid)
    region[2 * axis : 2 * axis + 2] = first, after
    k0, k1, j0, j1, i0, i1 = region
    return k0, k1, j0, j1, i0, i1


def _chosen_slices(node: Any, count: int) -> tuple[int, int]:
    last = count - 1 if node.lastSlice < 0 else node.lastSlice
    if not node.firstSlice <= last < count:
        raise volumes.VolumeError(
            _("Choose slices between 0 and {last}, the first not after the last.").format(
                last=count - 1
            )
        )
    return node.firstSlice, last + 1


def show_region(ui: Any, choice: RegionChoice, count: int) -> None:
    """Show the widgets that a choice needs, and no others.

    Args:
        ui: The panel's widgets.
        choice: The parameter node's ``region``.
        count: How many slices there are; 0 if it is not known.
    """
    for widgets, name in (
        ((ui.slicesLabel, ui.slicesWidget), "SLICES"),
        ((ui.roiLabel, ui.roiSelector), "ROI"),
    ):
        for widget in widgets:
            widget.setVisible(choice.name == name)
    if count:
        ui.firstSliceSpinBox.maximum = ui.lastSliceSpinBox.maximum = count - 1
