"""MRML plot charts drawn with QPainter.

Series, tables, titles, colours and log axes are read from the MRML nodes.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import slicer
from PySide6 import QtCore, QtGui

LEFT, RIGHT, TOP, BOTTOM = 66, 16, 28, 44  # pixels around the axes


def render_plot(chart, path, size=(640, 400)) -> Path:
    """Save a picture of a vtkMRMLPlotChartNode."""
    image = QtGui.QImage(*size, QtGui.QImage.Format.Format_RGB32)
    painter = QtGui.QPainter(image)
    draw_chart(painter, QtCore.QRect(0, 0, *size), chart)
    painter.end()
    return save_picture(image, path)


def save_picture(picture, path) -> Path:
    """Write a QImage or QPixmap, in a new folder if need be."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not picture.save(str(path)):
        raise OSError(f"Could not write {path}")
    return path


_PEN, _NODE = QtCore.Qt.PenStyle, slicer.vtkMRMLPlotSeriesNode
DASHES = {
    _NODE.LineStyleNone: None,
    _NODE.LineStyleSolid: _PEN.SolidLine,
    _NODE.LineStyleDash: _PEN.DashLine,
    _NODE.LineStyleDot: _PEN.DotLine,
    _NODE.LineStyleDashDot: _PEN.DashDotLine,
    _NODE.LineStyleDashDotDot: _PEN.DashDotDotLine,
}


@dataclass
class Series:
    name: str
    points: list[tuple[float, float]]
    colour: QtGui.QColor
    dash: object  # Qt's pen style, or None: no line
    marker: int
    bar: bool


def read_series(chart) -> list[Series]:
    """What a chart shows, from its series nodes and their tables.

    Points that are no numbers are left out.
    """
    found = []
    for index in range(chart.GetNumberOfPlotSeriesNodes()):
        node = chart.GetNthPlotSeriesNode(index)
        table = node.GetTableNode() if node is not None else None
        y = table.GetTable().GetColumnByName(node.GetYColumnName()) if table is not None else None
        if y is None:
            continue
        x = (
            table.GetTable().GetColumnByName(node.GetXColumnName())
            if node.GetXColumnName()
            else None
        )
        rows = range(y.GetNumberOfValues())
        points = [
            (x.GetVariantValue(i).ToDouble() if x else float(i), y.GetVariantValue(i).ToDouble())
            for i in rows
        ]
        found.append(
            Series(
                node.GetName(),
                [p for p in points if all(map(math.isfinite, p))],
                QtGui.QColor.fromRgbF(*node.GetColor()),
                DASHES[node.GetLineStyle()],
                node.GetMarkerStyle(),
                node.GetPlotType() in (node.PlotTypeBar, node.PlotTypeScatterBar),
            )
        )
    return found


class Axis:
    """Maps values to pixels, linearly or in decades, and chooses where ticks go."""

    def __init__(self, values, log, given, low_pixel, high_pixel):
        self.log = log
        values = [v for v in values if v > 0 or not log]
        self.low, self.high = given or (
            min(values, default=1.0 if log else 0.0),
            max(values, default=1.0),
        )
        if self.high <= self.low:
            self.high = self.low * 10 if log else self.low + 1
        self.low_pixel, self.high_pixel = low_pixel, high_pixel

    def pixel(self, value):
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, 1e-300))
        return self.low_pixel + (value - low) / (high - low) * (self.high_pixel - self.low_pixel)

    def ticks(self):
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            multiples = (1,) if len(decades) > 3 else (1, 2, 5)
            ticks = [m * 10.0**d for d in decades for m in multiples]
            return [t for t in ticks if self.low <= t <= self.high] or [self.low, self.high]
        raw = (self.high - self.low) / 6
        power = 10 ** math.floor(math.log10(raw))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def draw_chart(painter, rect, chart):
    """Draw a chart node (or None) into a rectangle."""
    painter.setRenderHint(QtGui.QPainter.RenderHint.Antialiasing)
    painter.fillRect(rect, QtGui.QColor("white"))
    painter.setBrush(QtCore.Qt.BrushStyle.NoBrush)  # whatever was drawn before
    series = read_series(chart) if chart is not None else []
    frame = rect.adjusted(LEFT, TOP, -RIGHT, -BOTTOM)
    if chart is None or not frame.isValid():
        return
    x = Axis(
        [p[0] for s in series for p in s.points],
        chart.GetXAxisLogScale(),
        None if chart.GetXAxisRangeAuto() else chart.GetXAxisRange(),
        frame.left(),
        frame.right(),
    )
    bars = [0.0] if any(s.bar for s in series) else []
    y = Axis(
        [p[1] for s in series for p in s.points] + bars,
        chart.GetYAxisLogScale(),
        None if chart.GetYAxisRangeAuto() else chart.GetYAxisRange(),
        frame.bottom(),
        frame.top(),
    )
    _draw_axes(painter, rect, frame, x, y, chart)
    painter.save()
    painter.setClipRect(frame.adjusted(-1, -1, 2, 2))
    for one in series:
        _draw_series(painter, one, x, y)
    painter.restore()
    if chart.GetLegendVisibility():
        _draw_legend(painter, frame, series)


def _draw_axes(painter, rect, frame, x, y, chart):
    align = QtCore.Qt.AlignmentFlag
    painter.setPen(QtGui.QColor("#d8d8d8"))
    for tick in x.ticks():
        painter.drawLine(
            QtCore.QPointF(x.pixel(tick), frame.top()),
            QtCore.QPointF(x.pixel(tick), frame.bottom()),
        )
    for tick in y.ticks():
        painter.drawLine(
            QtCore.QPointF(frame.left(), y.pixel(tick)),
            QtCore.QPointF(frame.right(), y.pixel(tick)),
        )
    painter.setPen(QtGui.QColor("black"))
    painter.drawRect(frame)
    for tick in x.ticks():
        below = QtCore.QRectF(x.pixel(tick) - 40, frame.bottom() + 4, 80, 14)
        painter.drawText(below, align.AlignCenter, f"{tick:.4g}")
    for tick in y.ticks():
        painter.drawText(
            QtCore.QRectF(rect.left() + 14, y.pixel(tick) - 8, LEFT - 20, 16),
            align.AlignRight | align.AlignVCenter,
            f"{tick:.4g}",
        )
    if chart.GetTitleVisibility():
        above = QtCore.QRect(rect.left(), rect.top(), rect.width(), TOP)
        painter.drawText(above, align.AlignCenter, chart.GetTitle() or "")
    painter.drawText(
        QtCore.QRect(frame.left(), frame.bottom() + 20, frame.width(), 20),
        align.AlignCenter,
        chart.GetXAxisTitle() or "",
    )
    painter.save()
    painter.translate(rect.left() + 12, frame.center().y())
    painter.rotate(-90)
    painter.drawText(
        QtCore.QRect(-frame.height() // 2, -12, frame.height(), 16),
        align.AlignCenter,
        chart.GetYAxisTitle() or "",
    )
    painter.restore()


def _draw_series(painter, one, x, y):
    shown = ((a, b) for a, b in one.points if (a > 0 or not x.log) and (b > 0 or not y.log))
    points = [QtCore.QPointF(x.pixel(a), y.pixel(b)) for a, b in shown]
    painter.setPen(QtGui.QPen(one.colour, 2))
    painter.setBrush(one.colour)
    if one.bar:
        half = 0.4 * abs(x.high_pixel - x.low_pixel) / max(len(points), 1)
        for point in points:
            painter.drawRect(
                QtCore.QRectF(
                    QtCore.QPointF(point.x() - half, point.y()),
                    QtCore.QPointF(point.x() + half, y.low_pixel),
                )
            )
        return
    if one.dash is not None:
        painter.setPen(QtGui.QPen(one.colour, 2, one.dash))
        painter.drawPolyline(points)
    painter.setPen(QtGui.QPen(one.colour, 2))
    marker = one.marker or (_NODE.MarkerStyleCircle if len(points) == 1 else _NODE.MarkerStyleNone)
    for point in points:
        _draw_marker(painter, marker, point)


def _draw_marker(painter, marker, at, half=4.0):
    def corners(*steps):
        return [QtCore.QPointF(at.x() + half * x, at.y() + half * y) for x, y in steps]

    if marker == _NODE.MarkerStyleCircle:
        painter.drawEllipse(at, half - 1, half - 1)
    elif marker == _NODE.MarkerStyleSquare:
        painter.drawPolygon(corners((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)))
    elif marker == _NODE.MarkerStyleDiamond:
        painter.drawPolygon(corners((0, -1.1), (1.1, 0), (0, 1.1), (-1.1, 0)))
    elif marker in (_NODE.MarkerStyleCross, _NODE.MarkerStylePlus):
        ends = (
            ((-1, -1), (1, 1), (-1, 1), (1, -1))
            if marker == _NODE.MarkerStyleCross
            else ((-1, 0), (1, 0), (0, -1), (0, 1))
        )
        a, b, c, d = corners(*ends)
        painter.drawLine(a, b)
        painter.drawLine(c, d)


def _draw_legend(painter, frame, series):
    """In the upper right corner, as Slicer's charts have it, on a white ground."""
    width = max((painter.fontMetrics().horizontalAdvance(s.name) for s in series), default=0)
    ground = QtCore.QRect(
        frame.right() - width - 44, frame.top() + 5, width + 40, 18 * len(series) + 4
    )
    painter.fillRect(ground, QtGui.QColor(255, 255, 255, 200))
    for row, one in enumerate(series):
        top = frame.top() + 8 + 18 * row
        left = frame.right() - width - 40
        if one.dash is not None:
            painter.setPen(QtGui.QPen(one.colour, 3, one.dash))
            painter.drawLine(left, top + 8, left + 26, top + 8)
        painter.setPen(QtGui.QPen(one.colour, 2))
        painter.setBrush(one.colour)
        _draw_marker(painter, one.marker, QtCore.QPointF(left + 13, top + 8))
        painter.setPen(QtGui.QColor("black"))
        painter.drawText(
            QtCore.QRect(frame.right() - width - 8, top, width + 4, 16),
            QtCore.Qt.AlignmentFlag.AlignVCenter,
            one.name,
        )


def heading_of(node, column):
    """What stands above a column of a table node: its title where titles are to be shown."""
    name = node.GetColumnName(column)
    return (node.GetUseColumnTitleAsColumnHeader() and node.GetColumnTitle(name)) or name


def draw_table(painter, rect, node):
    """Draw what of a table node (or None) fits into a rectangle.

    Headings stand above columns, as a table view has them.
    """
    painter.fillRect(rect, QtGui.QColor("white"))
    if node is None:
        return
    top, line = rect.top() + 62, 18
    rows = min(node.GetNumberOfRows(), (rect.bottom() - top) // line)
    painter.save()
    painter.setClipRect(rect)
    painter.setPen(QtGui.QColor("black"))
    left = rect.left() + 6
    for column in range(node.GetNumberOfColumns()):
        texts = [_short(node.GetCellText(row, column)) for row in range(rows)]
        heading = heading_of(node, column)
        width = _column_width(painter.fontMetrics(), heading, texts)
        box = QtCore.QRect(left, rect.top() + 4, width, 54)
        align = QtCore.Qt.AlignmentFlag
        painter.drawText(box, align.AlignBottom | QtCore.Qt.TextFlag.TextWordWrap, heading)
        for row, text in enumerate(texts):
            box = QtCore.QRect(left, top + 4 + row * line, width, line)
            painter.drawText(box, align.AlignVCenter, text)
        left += width + 14
        if left > rect.right():
            break
    painter.restore()
    painter.drawLine(rect.left(), top, rect.right(), top)


def _column_width(metrics, heading, texts):
    """Pixels of a column: its cells in full, as a table view has them, and its heading's words."""
    words = [metrics.horizontalAdvance(word) for word in heading.split()]
    third = metrics.horizontalAdvance(heading) // 3 + max(words, default=0) // 2
    return max([*words, third, *(metrics.horizontalAdvance(text) for text in texts)])


def _short(text):
    try:
        return f"{float(text):.4g}"
    except ValueError:
        return text


def chart_of(view_node):
    """The chart that a plot view node shows, or None."""
    return (
        slicer.mrmlScene.GetNodeByID(view_node.GetPlotChartNodeID() or "")
        if view_node is not None
        else None
    )
