"""How a result is shown in Slicer's views.

That is the layout, what each view shows, its legend, and the part in sight.

    first = SliceView("MyView1", _("Patient"), patient)
    above = [first, over("MyView2", _("Change"), patient, change)]
    below = [TabViews({_("Table"): TableView("MyTable", table)})]
    yield from views.show(LAYOUT, [above, below], analysed=change)

A view is known by its tag, the singleton tag of its node: it stays the same from run to run and in
a saved scene.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import slicer
import vtk

from ..core.steps import Steps
from ..scene import display, read
from .words import tr as _

IMAGE, DIFFERENCE, MAP = "#6EB04B", "#EDD54C", "#F34A33"
"""Colours of the bars above slice views: Slicer's own green, yellow and red."""

MARGIN = 1.25
"""How much more than what was analysed a view shows, along each axis."""

SAMPLED = 2**20
"""Voxels that are looked at to find where a map is not 0: a whole volume takes a second."""


@dataclass(frozen=True)
class SliceView:
    """A slice view.

    It has a tag, what it shows in a few words, a volume and a map over it (nodes, or None).
    """

    tag: str
    label: str
    volume: Any = None
    overlay: Any = None
    opacity: float = 1.0
    color: str = IMAGE


def over(
    tag: str, label: str, below: Any, overlay: Any, opacity: float = 1.0, color: str = DIFFERENCE
) -> SliceView:
    """The view of a map over the image ``below``; empty where there is no map."""
    return SliceView(tag, label, below if overlay is not None else None, overlay, opacity, color)


@dataclass(frozen=True)
class TableView:
    """A table view: its tag and the table node (or None)."""

    tag: str
    node: Any = None


@dataclass(frozen=True)
class PlotView:
    """A plot view: its tag and the chart node (or None)."""

    tag: str
    node: Any = None


@dataclass(frozen=True)
class TabViews:
    """Views behind tabs, by the words on the tab."""

    views: dict[str, SliceView | TableView | PlotView]


Row = list[SliceView | TableView | PlotView | TabViews]


def show(number: int, rows: list[Row], analysed: Any = None, framed: Any = None) -> Steps:
    """Steps that arrange the views in rows and show what each holds; nothing without a main window.

    Args:
        number: Identifier of the layout.
        rows: From top to bottom, each from left to right.
        analysed: A volume node that is 0 where nothing was looked at: the views go there and show
            it with a margin.
        framed: The volume node whose planes and extent the views follow; default ``analysed``.
    """
    manager = slicer.app.layoutManager()
    if manager is None:
        return
    _arrange(manager, number, layout_description(rows))
    yield False  # the views appear
    views = _flat(rows)
    slices = [view for view in views if isinstance(view, SliceView)]
    for overlay in {view.overlay for view in slices if view.overlay is not None}:
        own = [view.opacity for view in slices if view.overlay is overlay]
        display.let_middle_through(overlay, through=min(own) < 1)
    box = analysed_box(analysed) if analysed is not None else None
    framed = framed if framed is not None else analysed
    for view in slices:
        widget = manager.sliceWidget(view.tag)
        show_slice(widget, view)
        if framed is not None:
            look_at(widget, framed, box)
        yield True
    for view in slices:  # Slicer draws a legend that is added where its volume is shown by then
        for volume in (view.volume, view.overlay):
            show_legend(volume)
        yield True
    for other in views:
        if isinstance(other, TableView):
            show_table(other.tag, other.node)
        elif isinstance(other, PlotView):
            show_chart(other.tag, other.node)
        yield True


def _flat(rows: list[Row]) -> list[SliceView | TableView | PlotView]:
    """All views, also those behind tabs."""
    inside = [
        list(cell.views.values()) if isinstance(cell, TabViews) else [cell]
        for row in rows
        for cell in row
    ]
    return [view for views in inside for view in views]


# The layout


def layout_description(rows: list[Row]) -> str:
    """Rows of views as Slicer's layout XML.

    What slice views are called is no part of it: that changes with the result.
    """
    lines = ["".join(f"<item>{_cell(cell)}</item>" for cell in row) for row in rows]
    return (
        '<layout type="vertical" split="true">'
        + "".join(
            f'<item><layout type="horizontal" split="true">{line}</layout></item>' for line in lines
        )
        + "</layout>"
    )


def _cell(cell: SliceView | TableView | PlotView | TabViews) -> str:
    if isinstance(cell, TabViews):
        tabs = "".join(
            f"<item name={quoteattr(name)}>{_cell(view)}</item>"
            for name, view in cell.views.items()
        )
        return f'<layout type="tab">{tabs}</layout>'
    if isinstance(cell, SliceView):
        return _view("Slice", cell.tag, orientation="Axial", viewcolor=cell.color)
    kind = "TableView" if isinstance(cell, TableView) else "PlotView"
    return _view(kind, cell.tag, viewlabel=kind[0])


def _view(kind: str, tag: str, **properties: str) -> str:
    inside = "".join(
        f'<property name="{name}" action="default">{quoteattr(value)[1:-1]}</property>'
        for name, value in properties.items()
    )
    return f'<view class="vtkMRML{kind}Node" singletontag="{tag}">{inside}</view>'


def _arrange(manager: Any, number: int, description: str) -> None:
    layout = manager.layoutLogic().GetLayoutNode()
    if not layout.IsLayoutDescription(number):
        layout.AddLayoutDescription(number, description)
    elif layout.GetLayoutDescription(number) != description:
        layout.SetLayoutDescription(number, description)
    manager.setLayout(number)


# A view's content


def show_slice(widget: slicer.qMRMLSliceWidget, view: SliceView) -> None:
    """Show a volume, and a map over it, in a slice view that says what it is.

    Linked views move together from then on.
    """
    composite = widget.mrmlSliceCompositeNode()
    composite.SetBackgroundVolumeID(view.volume.GetID() if view.volume is not None else None)
    composite.SetForegroundVolumeID(view.overlay.GetID() if view.overlay is not None else None)
    composite.SetForegroundOpacity(view.opacity if view.overlay is not None else 0)
    composite.SetLinkedControl(1)
    widget.mrmlSliceNode().SetLayoutLabel(view.label)


def show_table(tag: str, node: slicer.vtkMRMLTableNode | None) -> None:
    """Show a table node in the table view of this tag, or nothing."""
    view = slicer.mrmlScene.GetSingletonNode(tag, "vtkMRMLTableViewNode")
    view.SetTableNodeID(node.GetID() if node is not None else None)


def show_chart(tag: str, node: slicer.vtkMRMLPlotChartNode | None) -> None:
    """Show a chart node in the plot view of this tag, or nothing."""
    view = slicer.mrmlScene.GetSingletonNode(tag, "vtkMRMLPlotViewNode")
    view.SetPlotChartNodeID(node.GetID() if node is not None else None)


def set_opacity(tags: list[str], opacity: float) -> None:
    """Of the maps in the slice views with these tags, where the layout has them."""
    manager = slicer.app.layoutManager()
    widgets = [manager.sliceWidget(tag) for tag in tags] if manager is not None else []
    for widget in widgets:
        if widget is not None:
            widget.mrmlSliceCompositeNode().SetForegroundOpacity(opacity)


# The part in sight


def analysed_box(volume: slicer.vtkMRMLNode) -> np.ndarray | None:
    """Corners of the box of a volume node in which it is not 0; None if it is 0 everywhere.

    (8, 3), world RAS in mm.

    Of a large volume only some rows and columns are looked at; the box is as much larger.
    """
    array = slicer.util.arrayFromVolume(volume)
    step = max(1, int(np.ceil((array.size / SAMPLED) ** 0.5)))
    inside = np.nan_to_num(array[:, ::step, ::step]) != 0
    if not inside.any():
        return None
    bounds = []
    for axis, stride in ((2, step), (1, step), (0, 1)):  # i, j, k
        places = np.flatnonzero(inside.any(tuple({0, 1, 2} - {axis})))
        low, high = places[0] * stride - (stride - 1), places[-1] * stride + stride - 1
        bounds.append((max(low, 0) - 0.5, min(high, array.shape[axis] - 1) + 0.5))
    return _world_points(volume, np.array(list(product(*bounds))))


def _world_points(volume: slicer.vtkMRMLNode, points: np.ndarray) -> np.ndarray:
    """Points (n, 3) in a volume node's voxels (i, j, k) in world RAS, mm, with its transforms."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    points = (
        points @ slicer.util.arrayFromVTKMatrix(matrix)[:3, :3].T
        + slicer.util.arrayFromVTKMatrix(matrix)[:3, 3]
    )
    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(
        volume.GetParentTransformNode(), None, transform
    )
    return np.array([transform.TransformPoint(point) for point in points])


def look_at(
    widget: slicer.qMRMLSliceWidget, framed: slicer.vtkMRMLNode, box: np.ndarray | None = None
) -> None:
    """Turn a slice view to a volume's planes, and show a box or the whole volume.

    The box (corners (8, 3), RAS) is shown with a margin; without one it is the whole volume.

    The view's own button "Fit" shows the whole volume again.
    """
    node, logic = widget.mrmlSliceNode(), widget.sliceLogic()
    node.RotateToVolumePlane(framed)
    width, height = node.GetDimensions()[:2]
    logic.FitSliceToVolume(framed, width, height)
    if box is not None:
        to_slice = np.linalg.inv(slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS()))
        corners = box @ to_slice[:3, :3].T + to_slice[:3, 3]
        across, up = np.ptp(corners, axis=0)[:2]
        whole = node.GetFieldOfView()
        free = BESIDE_LEGENDS * width
        mm = min(max(across / free, MARGIN * up / height), whole[0] / width)
        # The view's centre is the box's: a run that follows is of the region around it.
        centre = (box.min(0) + box.max(0)) / 2
        node.JumpSliceByCentering(*centre)
        node.SetXYZOrigin(0, 0, 0)
        node.SetFieldOfView(mm * width, mm * height, whole[2])
    logic.SnapSliceOffsetToIJK()


# Legends


def show_legend(volume: slicer.vtkMRMLNode | None) -> None:
    """Give a map its colour legend, with units, in every view that shows it; other images get none.

    A legend that is there already is made anew: Slicer draws one only in views that are older than
    it.
    """
    role = volume.GetAttribute("NetInversion.role") if volume is not None else None
    if volume is None or role not in display.COLORS:
        return
    logic = slicer.modules.colors.logic()
    old = logic.GetColorLegendDisplayNode(volume)
    if old is not None:
        slicer.mrmlScene.RemoveNode(old)
    legend = logic.AddDefaultColorLegendDisplayNode(volume)
    legend.SetName(_("Legend of {name}").format(name=volume.GetName()))
    legend.SetTitleText(legend_title(role, read.units_of(volume)))
    legend.SetUseColorNamesForLabels(False)
    legend.SetLabelFormat("%.3g")
    legend.SetNumberOfLabels(5)
    for text in (
        legend.GetTitleTextProperty(),
        legend.GetLabelTextProperty(),
    ):  # read on light and dark images
        text.SetBackgroundColor(0, 0, 0)
        text.SetBackgroundOpacity(0.6)
    legend.SetSize(0.15, 0.5)
    legend.SetPosition(0.97, 0.5)


BRIGHTEST = "1 of the image's "
"""How units begin that are long for a legend."""


def legend_title(role: str, units: str) -> str:
    """What a map's colours mean, in a word or two, with the unit."""
    words = {
        "difference": _("Change"),
        "factor": _("Factor"),
        "error": _("Error"),
        "phase": _("Phase"),
        "spread": _("SD") if units else _("Share"),
    }[role]
    if units.startswith(BRIGHTEST):
        units = units.removeprefix(BRIGHTEST) + ": 1"
    if not units and role in ("difference", "error"):
        units = _("a.u.")  # an MR image's own, arbitrary
    return f"{words} ({units})" if units else words


BESIDE_LEGENDS = 0.66
"""Share of a view's width, in its middle, on which no legend lies."""
