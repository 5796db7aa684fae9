"""``slicer.app.layoutManager().viewport()``: a widget that draws the views of the layout."""

import tempfile
from pathlib import Path

from PySide6 import QtCore, QtGui, QtWidgets

from . import plots, rendering
from .pythonqt import wrap

COLUMNS = 3
CELL = (300, 260)


class _Viewport(QtWidgets.QWidget):
    def paintEvent(self, event):
        import slicer

        painter = QtGui.QPainter(self)
        painter.fillRect(QtWidgets.QWidget.rect(self), QtGui.QColor("#303030"))
        slices, charts = slicer.views.slice_views_of_layout(), _charts()
        if slices:
            with tempfile.TemporaryDirectory() as folder:
                sheet = rendering.render_slice_views(
                    Path(folder) / "views.png", slices, size=CELL, columns=COLUMNS
                )
                painter.drawImage(0, 0, QtGui.QImage(str(sheet)))
        for place, chart in enumerate(charts, len(slices)):
            column, line = place % COLUMNS, place // COLUMNS
            plots.draw_chart(
                painter, QtCore.QRect(column * (CELL[0] + 4), line * (CELL[1] + 24), *CELL), chart
            )
        painter.end()


_Wrapped = wrap(_Viewport, "QWidget")


def viewport():
    """A widget as large as the views of the present layout are together."""
    import slicer

    count = max(1, len(slicer.views.slice_views_of_layout()) + len(_charts()))
    widget = _Wrapped()
    QtWidgets.QWidget.resize(widget, COLUMNS * (CELL[0] + 4), -(-count // COLUMNS) * (CELL[1] + 24))
    return widget


def _charts():
    """The charts of the plot views that the layout shows."""
    import slicer

    nodes = slicer.views.layout_logic.GetViewNodes()
    views = (nodes.GetItemAsObject(index) for index in range(nodes.GetNumberOfItems()))
    return [
        chart
        for view in views
        if view.IsA("vtkMRMLPlotViewNode") and (chart := plots.chart_of(view)) is not None
    ]
