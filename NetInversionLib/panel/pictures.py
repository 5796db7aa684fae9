"""Small pictures and texts that a panel draws without touching the scene."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import qt

from ..core import colors
from ..models.card import Card, Channel
from ..scene import tables
from .words import tr as _


def cardText(path: str, card: Card) -> str:
    """What a person wants to know of a model before using it, as HTML."""

    def channels(group: Iterable[Channel]) -> str:
        return ", ".join(
            channel.name + (f" ({channel.units})" if channel.units else "") for channel in group
        )

    low, high = card.spacing_mm
    scans = list(card.trained_on)
    if len(scans) > 6:
        scans[3:-1] = [_("{count} more").format(count=len(scans) - 4)]
    lines = [
        _("Takes {inputs}; gives {outputs}.").format(
            inputs=channels(card.inputs), outputs=channels(card.outputs)
        ),
        _("Voxels of {size} mm, {how}.").format(
            size=f"{low:g}" if low == high else _("{low:g} to {high:g}").format(low=low, high=high),
            how=_("slice by slice") if card.dimensions == 2 else _("in 3-D"),
        ),
        _("Trained on: {scans}.").format(scans=", ".join(scans) or _("not said")),
        card.intended_use,
    ]
    name = "<b>{name}</b>, {file}".format(
        name=html.escape(card.name), file=html.escape(Path(path).name)
    )
    return "<br>".join([name, *(html.escape(line, quote=False) for line in lines)])


def mapsPicture(maps: dict[str, np.ndarray], high: float, size: int = 220) -> qt.QPixmap:
    """A picture of maps side by side in the colours of role "spread".

    Maps are {title: (J, I), 0 to ``high``}.
    """
    stops = colors.stops("spread")
    picture = qt.QPixmap(size * len(maps), size + 20)
    picture.fill(qt.QColor("white"))
    painter = qt.QPainter()
    painter.begin(picture)
    for place, (title, array) in enumerate(maps.items()):
        level = np.clip(np.nan_to_num(array) / max(high, 1e-9), 0, 1) * (len(stops) - 1)
        shades = np.stack(
            [np.interp(level, range(len(stops)), channel) for channel in stops.T], -1
        ).astype(np.uint8)
        image = qt.QPixmap()
        image.loadFromData(
            qt.QByteArray(b"P6 %d %d 255\n" % array.shape[::-1] + shades.tobytes()), "PPM"
        )
        scale = (size - 4) / max(array.shape)
        painter.drawPixmap(
            size * place, 20, round(array.shape[1] * scale), round(array.shape[0] * scale), image
        )
        painter.drawText(size * place, 14, title)
    painter.end()
    return picture


def curvePicture(
    curves: dict[str, list[tuple[float, float]]], xLabel: str, yLabel: str
) -> qt.QPixmap:
    """A picture of curves ({name: [(x, y), ...]}) while they grow: it adds nothing to the scene."""
    picture = qt.QPixmap(460, 150)
    picture.fill(qt.QColor("white"))
    painter = qt.QPainter()
    painter.begin(picture)
    lines, labels = curvePixels(curves, 64, 10, 230, 110)
    painter.setPen(qt.QColor("#606060"))
    painter.drawRect(64, 10, 230, 110)
    for text, x, y in (*labels, *([(xLabel, 119, 136), (yLabel, 4, 65)] if labels else [])):
        painter.drawText(x, y, text)
    for index, (name, points) in enumerate(lines.items()):
        painter.setPen(qt.QColor("#" + tables.LINE_COLORS[index % len(tables.LINE_COLORS)]))
        for (x0, y0), (x1, y1) in zip(points, points[1:]):
            painter.drawLine(x0, y0, x1, y1)
        painter.drawText(302, 22 + 14 * index, name)
    painter.end()
    return picture


def curvePixels(curves: dict, left: int, top: int, width: int, height: int) -> tuple[dict, list]:
    """Lines as pixels by name, and labels of the axes' ends as (text, x, y).

    Upwards it is logarithmic where all are above 0.
    """
    points = [point for line in curves.values() for point in line if math.isfinite(point[1])]
    if len(points) < 2:
        return {}, []
    log = min(y for _x, y in points) > 0
    scale = math.log10 if log else float
    high, low = scale(max(y for _x, y in points)), scale(min(y for _x, y in points))
    last = max(x for x, _y in points)

    def pixel(x, y):
        share = (high - scale(y)) / (high - low) if high > low else 0.5
        return left + round(width * x / max(last, 1)), top + 4 + round((height - 8) * share)

    labels = [
        ("%.3g" % (10**high if log else high), 4, top + 12),
        ("%.3g" % (10**low if log else low), 4, top + height),
        ("0", left - 3, top + height + 16),
        ("%d" % last, left + width - 30, top + height + 16),
    ]
    return {
        name: [pixel(x, y) for x, y in line if math.isfinite(y)] for name, line in curves.items()
    }, labels


def durationText(seconds: float) -> str:
    """A time in words, rounded to what a person plans with."""
    if seconds < 90:
        return _("{count} s").format(count=max(1, round(seconds)))
    if seconds < 5400:
        return _("{count} min").format(count=round(seconds / 60))
    return _("{count} h").format(count=round(seconds / 3600, 1))
