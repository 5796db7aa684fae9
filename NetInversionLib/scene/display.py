"""Windows, colours and samples of what is shown."""

from __future__ import annotations

import numpy as np
import slicer
from vtk.util.numpy_support import vtk_to_numpy

from ..core import colors
from ..core.colors import COLORS

ROLES = ("input", "ct", "difference", "factor", "error", "spread", "phase")
# ------------------------------------------------------------------------------------------ display

AROUND_A_VALUE = ("difference", "factor")
"""Roles whose colours run to both sides of a middle value, 0 or 1, that nothing was changed at."""
MIDDLE = 127
"""The colour that VTK takes for the middle of a window."""
SAMPLE = 2**18
"""Voxels of an image that its window is chosen from: finding a percentile of a whole volume takes
half a second.
"""


def show_by_role(
    node: slicer.vtkMRMLNode,
    role: str | None,
    shown_as: slicer.vtkMRMLNode | None,
) -> None:
    """A display node with the window, level and colours that fit the role."""
    # Slicer's own CreateDefaultDisplayNodes would look at every voxel for a window.
    display = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeDisplayNode")
    display.SetDefaultColorMap()
    values = sample(node)
    model = shown_as.GetDisplayNode() if shown_as is not None and role != "ct" else None
    if role is not None:
        node.SetAttribute("NetInversion.role", role)
    if model is not None:
        set_window(display, model.GetWindowLevelMin(), model.GetWindowLevelMax())
    elif role == "ct":
        set_window(display, -160, 240)
    elif role == "factor":
        reach = typical_largest(values - 1)
        set_window(display, 1 - reach, 1 + reach)
    elif role == "phase":
        set_window(display, -np.pi, np.pi)
    elif role in COLORS:
        largest = typical_largest(values)
        set_window(display, -largest if role == "difference" else 0, largest)
    else:
        set_window(display, *_typical_range(values))
    if model is not None:
        display.SetAndObserveColorNodeID(model.GetColorNodeID())
    elif role in COLORS:
        display.SetAndObserveColorNodeID(_color_node(role).GetID())
    if role == "spread":  # 0 is where nothing was looked at: what lies below shows through
        display.AutoThresholdOff()
        display.SetThreshold(float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max))
        display.ApplyThresholdOn()
    node.SetAndObserveDisplayNodeID(display.GetID())


def set_window(display: slicer.vtkMRMLScalarVolumeDisplayNode, low: float, high: float) -> None:
    """Show values from ``low`` (the first colour) to ``high`` (the last)."""
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(low, high)


def sample(node: slicer.vtkMRMLNode) -> np.ndarray:
    """Finite values (N,) spread evenly over a volume, as float64."""
    values = vtk_to_numpy(node.GetImageData().GetPointData().GetScalars())
    values = values[:: values.size // SAMPLE | 1].astype(
        np.float64
    )  # an odd step: not the same column of every row
    return values[np.isfinite(values)]


def typical_largest(values: np.ndarray) -> float:
    """The 99.5th percentile of the values' (N,) magnitudes, or what else is not 0."""
    values = np.abs(values)
    return float(np.percentile(values, 99.5) or values.max() or 1.0) if values.size else 1.0


def _typical_range(values: np.ndarray) -> tuple[float, float]:
    """The percentiles that Slicer's automatic window takes; never of zero width."""
    low, high = (
        (float(v) for v in np.percentile(values, (0.1, 99.9))) if values.size else (0.0, 1.0)
    )
    return (low, high) if high > low else (low, low + 1.0)


def let_middle_through(node: slicer.vtkMRMLNode, through: bool) -> None:
    """Whether a map around a middle value, laid over an image, shows that image where it has it.

    Alone in a view it should not: where it passes the value it would have black lines.
    """
    role, display = node.GetAttribute("NetInversion.role"), node.GetDisplayNode()
    if role in AROUND_A_VALUE and display is not None:
        display.SetAndObserveColorNodeID(_color_node(role, through).GetID())


def color_tables(role: str | None) -> list[slicer.vtkMRMLColorTableNode]:
    """The colour tables of a role that the scene has."""
    found = [
        slicer.mrmlScene.GetSingletonNode(_tag(role, through), "vtkMRMLColorTableNode")
        for through in (False, True)
        if role in COLORS
    ]
    return [node for node in found if node is not None]


def _tag(role: str | None, through: bool) -> str:
    return f"NetInversion{str(role).capitalize()}{'Through' if through else ''}"


def _color_node(role: str, through: bool = False) -> slicer.vtkMRMLColorTableNode:
    """The scene's own colour table for a role, made on first use.

    The scene carries it wherever it is opened.

    One that an older version made gets today's colours. ``through`` asks for the table whose middle
    is clear.
    """
    tag = _tag(role, through)
    node = slicer.mrmlScene.GetSingletonNode(tag, "vtkMRMLColorTableNode")
    if node is None:
        node = slicer.vtkMRMLColorTableNode()
        node.SetTypeToUser()
        node.SetNumberOfColors(256)
        node.SetName(f"NetInversion {role}{', clear middle' if through else ''}")
        node.SetSingletonTag(tag)
        node.SetAttribute("Category", "NetInversion")
        node.SetHideFromEditors(
            True
        )  # colour selectors list hidden tables too; other node lists stay clean
        _fill_colors(node, role, through)
        return slicer.mrmlScene.AddNode(node)
    if node.GetAttribute("NetInversion.colors") != _version(role, through):
        _fill_colors(node, role, through)
    return node


def _version(role: str, through: bool) -> str:
    """What a colour table is made of."""
    return COLORS[role] + (" clear" if through else " opaque")


def _fill_colors(node: slicer.vtkMRMLColorTableNode, role: str, through: bool) -> None:
    """Slicer's views take an opacity between 0 and 1 for 1: no map can fade to its middle."""
    stops = colors.stops(role) / 255
    at = np.linspace(0, len(stops) - 1, 256)
    clear = MIDDLE if through else None
    modifying = node.StartModify()
    for index, color in enumerate(
        zip(*(np.interp(at, range(len(stops)), channel) for channel in stops.T))
    ):
        node.SetColor(index, f"{role} {index}", *map(float, color), float(index != clear))
    node.SetAttribute("NetInversion.colors", _version(role, through))
    node.EndModify(modifying)
