"""Tables and charts as MRML nodes."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk

from ..core import keys, words
from ..core.results import Curve, Table
from .write import NOTICE, all_or_nothing, file_under, in_scene, new_node, remove_nodes

FACTS = "Settings and facts"
TITLE, UP = "NetInversion.title", "NetInversion.y"
"""Attributes: a node's title, and the title of a chart's y axis, as the library has them."""
ChartParts = tuple[Any, list[Any], list[Any]]
"""A chart node, its series nodes, and their table nodes."""


# -------------------------------------------------------------------------------- tables and curves


def table_to_node(
    table: Table,
    node: slicer.vtkMRMLTableNode | None = None,
    like: slicer.vtkMRMLNode | None = None,
    name: str | None = None,
) -> slicer.vtkMRMLTableNode:
    """A table node with the table's columns.

    ``node``, if given and still in the scene, is filled anew instead.

    Its name is ``name``, or the table's title. Columns go by their English headings, which scripts
    and files read; Slicer shows their titles in the user's language.
    Whole numbers become an integer column, other numbers (None is NaN) a double one, all else text.
    Raises ValueError if the columns differ in length.
    """
    content = vtk_table(table.columns)
    with all_or_nothing():
        node = reused_node(node, "vtkMRMLTableNode", name or words.title(table.title), like)
        node.SetAndObserveTable(content)
        _title_columns(node, list(table.columns))
    return node


def _title_columns(node: slicer.vtkMRMLTableNode, headings: list[str]) -> None:
    """Have headings shown in the user's language, if that is not theirs."""
    titles = {heading: words.title(heading) for heading in headings}
    if all(heading == title for heading, title in titles.items()):
        return
    for heading, title in titles.items():
        node.SetColumnTitle(heading, title)
    node.SetUseColumnTitleAsColumnHeader(True)


def reused_node(
    node: Any, kind: str, name: str, like: slicer.vtkMRMLNode | None
) -> slicer.vtkMRMLNode:
    """``node`` renamed if it is still in the scene, else a new one.

    The new one stands beside ``like`` in the subject hierarchy.
    """
    if in_scene(node) is not None:
        node.SetName(name)
        return node
    node = new_node(kind, name)
    node.SetDescription(NOTICE)
    file_under(node, like)
    return node


def vtk_table(columns: dict[str, list]) -> vtk.vtkTable:
    """Columns by heading as a vtkTable; ValueError if they differ in length."""
    lengths = {title: len(values) for title, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"Columns must have one length; these have {lengths}")
    content = vtk.vtkTable()
    for title, values in columns.items():
        kind = keys.column_kind(values)
        if kind in (keys.TEXT, keys.TRUTH):
            column = vtk.vtkStringArray()
            for value in values:
                column.InsertNextValue("" if value is None else str(value))
        elif _fit_into_integers(values):
            column = numpy_to_vtk(np.array(values, np.intc), deep=True)
        else:
            column = numpy_to_vtk(
                np.array([np.nan if v is None else v for v in values], np.float64), deep=True
            )
        column.SetName(title)
        content.AddColumn(column)
    return content


def _fit_into_integers(values: list) -> bool:
    """Whether all are whole numbers of 32 bits."""
    whole = all(isinstance(value, Integral) for value in values)
    return whole and max(map(abs, values), default=0) < 2**31


# Okabe and Ito's colours, told apart by colour-blind readers too.
LINE_COLORS = ("0072b2", "d55e00", "009e73", "cc79a7", "e69f00", "56b4e9")
FEW_POINTS = 40
"""Points of a line that still get markers."""


def curve_to_nodes(
    curve: Curve,
    nodes: ChartParts | None = None,
    like: slicer.vtkMRMLNode | None = None,
    name: str | None = None,
) -> ChartParts:
    """(chart node, plot series nodes, table nodes) of a curve.

    There is one series and one table for each line of the curve.

    The chart's name is ``name``, or the curve's title. ``nodes``, an earlier return value, is
    filled anew where it is still in the scene; superfluous ones are removed.
    """
    chart, old_series, old_tables = nodes if nodes is not None else (None, [], [])
    contents = vtk_tables(curve)
    with all_or_nothing():
        series, tables = [], []
        for index, (line, content) in enumerate(zip(curve.lines, contents)):
            old = [
                nodes_of[index] if index < len(nodes_of) else None
                for nodes_of in (old_series, old_tables)
            ]
            of_line = words.tr("{line}, data of {chart}").format(
                line=words.title(line), chart=name or words.title(curve.title)
            )
            tables.append(reused_node(old[1], "vtkMRMLTableNode", of_line, like))
            tables[-1].SetAndObserveTable(content)
            series.append(reused_node(old[0], "vtkMRMLPlotSeriesNode", words.title(line), like))
            _style_line(series[-1], tables[-1], curve.x_label, line, index)
        of_chart = name or words.title(curve.title)
        chart = reused_node(chart, "vtkMRMLPlotChartNode", of_chart, like)
        _fill_chart(chart, curve, series)
    remove_nodes([*old_series[len(series) :], *old_tables[len(tables) :]])
    return chart, series, tables


def vtk_tables(curve: Curve) -> list[vtk.vtkTable]:
    """One table for each line of the curve."""
    return [
        vtk_table({curve.x_label: list(x), name: list(y)}) for name, (x, y) in curve.lines.items()
    ]


def _style_line(series, table, x: str, y: str, index: int) -> None:
    """Have lines differ in colour, in dashes and in markers.

    Whoever sees no colours, or prints, tells them apart too.
    """
    kind = slicer.vtkMRMLPlotSeriesNode
    dashes = (
        kind.LineStyleSolid,
        kind.LineStyleDash,
        kind.LineStyleDot,
        kind.LineStyleDashDot,
        kind.LineStyleDashDotDot,
    )
    markers = (
        kind.MarkerStyleCircle,
        kind.MarkerStyleSquare,
        kind.MarkerStyleDiamond,
        kind.MarkerStyleCross,
        kind.MarkerStylePlus,
    )
    few = table.GetNumberOfRows() <= FEW_POINTS  # markers on many points hide the line
    series.SetName(words.title(y))  # the legend shows it: no "_1" for a second run
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName(x)
    series.SetYColumnName(y)
    series.SetPlotType(kind.PlotTypeScatter)
    series.SetLineStyle(dashes[index % len(dashes)])
    series.SetMarkerStyle(markers[index % len(markers)] if few else kind.MarkerStyleNone)
    series.SetLineWidth(3)
    color = LINE_COLORS[index % len(LINE_COLORS)]
    series.SetColor(*(channel / 255 for channel in bytes.fromhex(color)))


def _fill_chart(chart, curve: Curve, series: list) -> None:
    modifying = chart.StartModify()
    chart.SetTitle(words.title(curve.title))
    chart.SetXAxisTitle(words.title(curve.x_label))
    chart.SetYAxisTitle(words.title(curve.y_label))
    chart.SetAttribute(TITLE, curve.title)
    chart.SetAttribute(UP, curve.y_label)
    chart.SetTitleFontSize(14)  # a question fits into a third of the window
    chart.SetAxisTitleFontSize(13)
    chart.SetAxisLabelFontSize(12)
    chart.SetLegendFontSize(12)
    chart.SetYAxisLogScale(curve.log_y)
    chart.SetLegendVisibility(len(series) > 1)  # of one line the title says what it is
    limits = room_for_legend(curve) if len(series) > 1 else None
    chart.SetYAxisRangeAuto(limits is None)
    if limits is not None:
        chart.SetYAxisRange(*limits)
    chart.RemoveAllPlotSeriesNodeIDs()
    for node in series:
        chart.AddAndObservePlotSeriesNodeID(node.GetID())
    chart.EndModify(modifying)


LEGEND_WIDTH = 0.5
"""Share of a chart's width that its legend takes, at the right."""


def room_for_legend(curve: Curve) -> tuple[float, float] | None:
    """The range of the y axis with which no line runs under the legend.

    Slicer puts the legend into the upper right corner.

    None if there is room anyway, or nothing that could be drawn.
    """
    scale = np.log10 if curve.log_y else np.asarray
    lines = []
    for along, up in curve.lines.values():
        x = np.array(along, float)
        y = np.array(up, float)
        drawn = np.isfinite(x) & np.isfinite(y) & ((y > 0) | (not curve.log_y))
        if drawn.any():
            lines.append((x[drawn], scale(y[drawn])))
    if not lines:
        return None
    left, right = min(x.min() for x, _ in lines), max(x.max() for x, _ in lines)
    low, high = min(y.min() for _, y in lines), max(y.max() for _, y in lines)
    begin = right - LEGEND_WIDTH * (right - left)
    beside = max(
        [y[x >= begin].max() for x, y in lines if (x >= begin).any()]
        + [np.interp(begin, x, y) for x, y in lines if x.min() <= begin <= x.max()]
    )
    share = min(0.6, 0.05 + 0.08 * len(curve.lines))
    if high <= low or beside <= high - share * (high - low):
        return None
    top = low + (beside - low) / (1 - share)
    return (10.0**low, 10.0**top) if curve.log_y else (float(low), float(max(top, high)))


def title_of(node: slicer.vtkMRMLNode) -> str:
    """What a result's node is, in words: its name without its input and run."""
    return node.GetAttribute(TITLE) or node.GetName()


def with_parts(node: slicer.vtkMRMLNode) -> list[slicer.vtkMRMLNode]:
    """A node; of a chart also its series and their tables."""
    if not node.IsA("vtkMRMLPlotChartNode"):
        return [node]
    parts = chart_parts(node)
    if parts is None:
        return [node]
    chart, series, tables = parts
    return [chart, *series, *tables]


def chart_parts(chart: Any) -> ChartParts | None:
    """(chart node, its series nodes, their table nodes); None if it is gone.

    As ``curve_to_nodes`` gave them.
    """
    if in_scene(chart) is None:
        return None
    series = [
        chart.GetNthPlotSeriesNode(index) for index in range(chart.GetNumberOfPlotSeriesNodes())
    ]
    series = [node for node in series if node is not None and node.GetTableNode() is not None]
    return chart, series, [node.GetTableNode() for node in series]


def columns_of(table: slicer.vtkMRMLTableNode) -> dict[str, list]:
    """The columns of a table node: numbers, text, or what is true and what is not."""
    content = table.GetTable()
    found: dict[str, list] = {}
    for index in range(content.GetNumberOfColumns()):
        column = content.GetColumn(index)
        kept = [column.GetValue(row) for row in range(column.GetNumberOfValues())]
        values = keys.values_of(kept)
        found[keys.Column.read(column.GetName()).holding(values)] = values
    return found


def curve_from_chart(chart: slicer.vtkMRMLPlotChartNode) -> Curve:
    """The curve that ``curve_to_nodes`` wrote; without lines if the chart has left the scene."""
    _, series, tables = chart_parts(chart) or (None, [], [])
    lines = {}
    for one, table in zip(series, tables):
        columns = columns_of(table)
        x, y = one.GetXColumnName(), one.GetYColumnName()
        lines[y] = (columns[x], columns[y])
    return Curve(
        chart.GetAttribute(TITLE) or chart.GetTitle(),
        series[0].GetXColumnName() if series else chart.GetXAxisTitle(),
        chart.GetAttribute(UP) or chart.GetYAxisTitle(),
        lines,
        bool(chart.GetYAxisLogScale()),
    )
