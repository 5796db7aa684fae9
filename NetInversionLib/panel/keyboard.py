"""Reaching controls by keyboard."""

from __future__ import annotations

import qt
import slicer

CONTROLS = ("QComboBox", "QLineEdit", "QAbstractButton", "QAbstractSpinBox", "QAbstractSlider")


def visit_after(first: qt.QWidget, widgets: list[qt.QWidget]) -> None:
    """Have the Tab key go from ``first`` through widgets that were made later.

    From them it goes on to what followed ``first`` before.
    """
    stops = [_stop(widget) for widget in (first, *widgets)]
    for before, after in zip(stops, stops[1:]):
        qt.QWidget.setTabOrder(before, after)


def _stop(widget: qt.QWidget) -> qt.QWidget:
    """What the Tab key visits.

    The first control in a widget that is put together from several, or else itself.
    """
    parts = [
        part
        for part in slicer.util.findChildren(widget)
        if any(part.inherits(kind) for kind in CONTROLS)
    ]
    return parts[0] if parts else widget
