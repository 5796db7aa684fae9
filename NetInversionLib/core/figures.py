"""Slices and curves as figures for reports.

They are right in proportion and have sides, position, window, unit and colour bar.

Slices are shown as radiologists have them: the patient's left is on the reader's right, anterior
and superior are up.
matplotlib is loaded only when something is drawn.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from . import colors, volumes
from .results import Curve
from .text import readable, shown
from .volumes import Region, Volume
from .words import title as in_language

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

AXIAL, CORONAL, SAGITTAL = range(3)
PLANES = ("axial", "coronal", "sagittal")
# Of each plane: letters left, right, top and bottom, the patient axis across it (of RAS) and its
# letter.
SIDES = (("R", "L", "A", "P", 2, "S"), ("R", "L", "S", "I", 1, "A"), ("A", "P", "S", "I", 0, "R"))
# Okabe and Ito's colours, told apart by colour-blind readers too; the dashes differ as well.
LINE_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("-", "--", "-.", ":", (0, (6, 2, 1, 2, 1, 2)), (0, (1, 1)))
DOTS_PER_INCH = 120
MARGIN = 0.06  # inches around what a picture shows
PICTURE_WIDTH, SHEET_WIDTH = 2.7, 10.8
"""Inches, of a picture and at most of a sheet: more than four in a row become smaller, so that the
letters of a page are of one size."""

Box = tuple[int, int, int, int]  # rows and columns of a slice, half-open


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice as it is shown.

    ``array`` [rows, columns], ``spacing_mm`` of rows and columns, its four ``sides`` (left, right,
    top, bottom) as letters, and ``position``, such as "S 12.5 mm".
    """

    array: np.ndarray
    spacing_mm: tuple[float, float]
    sides: tuple[str, str, str, str]
    position: str

    def cropped(self, box: Box) -> Slice:
        """A part of it."""
        return replace(self, array=self.array[box[0] : box[1], box[2] : box[3]])


@dataclass(frozen=True)
class Scale:
    """What grey levels or colours mean.

    Both ends, the ``units`` with what is measured, the colours by their role in ``core.colors`` or
    by matplotlib's name.
    """

    low: float
    high: float
    units: str
    colours: str = "gray"


@dataclass(frozen=True)
class Picture:
    """One picture of a sheet: a slice under a title.

    ``over``: a map (NaN: nothing there) laid over it with a scale of its own, whose colour bar it
    then has; ``box``: a frame around a part.
    """

    slice: Slice
    title: str
    scale: Scale
    over: tuple[Slice, Scale] | None = None
    box: Box | None = None


# Slices -------------------------------------------------------------------------------------------


def plane_of(volume: Volume) -> int:
    """The plane with the most to show: axial, unless the volume is a slab across another one.

    Args:
        volume: [k, j, i] with axes LPS.

    Returns:
        ``AXIAL``, ``CORONAL`` or ``SAGITTAL``: the array's axis that the plane lies across.
    """
    shape = np.array(volume.shape)
    thin = int(np.argmin(shape))
    return thin if shape[thin] * 4 <= np.sort(shape)[1] else AXIAL


def cut(volume: Volume, plane: int, index: int) -> Slice:
    """A slice of a volume, as it is shown.

    Args:
        volume: [k, j, i] with axes LPS (``volumes.reorient``).
        plane: The array's axis that the slice lies across.
        index: Of the slice along this axis.
    """
    array, (x, y, z) = np.asarray(volume.array).take(index, plane), volume.spacing_mm
    spacing = ((y, x), (z, x), (z, y))[plane]
    if plane != AXIAL:
        array = array[::-1]  # superior is up
    left, right, top, bottom, axis, letter = SIDES[plane]
    middle = (np.array(volume.shape[::-1]) - 1) / 2.0
    middle[2 - plane] = index
    mm = round(float((volume.ijk_to_ras @ [*middle, 1.0])[axis]), 1) + 0.0  # never -0.0
    return Slice(array, spacing, (left, right, top, bottom), f"{letter} {mm:.1f} mm")


def inside(volume: Volume, region: Region | None) -> Region:
    """A region of a volume as it is in the volume turned to LPS.

    Args:
        volume: [k, j, i], any orientation.
        region: (k0, k1, j0, j1, i0, i1), half-open; None for the whole volume.
    """
    array = np.zeros(volume.shape, np.uint8)
    bounds = region or tuple(bound for n in volume.shape for bound in (0, n))
    array[tuple(slice(*pair) for pair in zip(bounds[::2], bounds[1::2]))] = 1
    turned = volumes.reorient(volume.with_array(array), "LPS").array
    spans = (np.flatnonzero(turned.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3))
    return volumes.as_region(bound for span in spans for bound in (span[0], span[-1] + 1))


def box_of(region: Region, plane: int, shape: tuple[int, ...], margin: int = 0) -> Box:
    """Rows and columns that a region (axes LPS) takes up in the slices of a volume.

    The box is ``margin`` voxels wider, as far as the slice goes.
    """
    pairs = [region[2 * axis : 2 * axis + 2] for axis in range(3) if axis != plane]
    sizes = [shape[axis] for axis in range(3) if axis != plane]
    (r0, r1), (c0, c1) = (
        (max(0, low - margin), min(n, high + margin)) for (low, high), n in zip(pairs, sizes)
    )
    if plane != AXIAL:
        r0, r1 = sizes[0] - r1, sizes[0] - r0
    return r0, r1, c0, c1


def window(values: np.ndarray, low: float = 1.0, high: float = 99.5) -> tuple[float, float]:
    """The grey window of an image, its ends rounded outwards to two digits of what lies between.

    Args:
        values: Of any shape; what is not finite does not count.
        low: Percentile at the lower end.
        high: Percentile at the upper end.

    Returns:
        (lowest, highest) in the image's unit; the second is larger.
    """
    values = _finite(values)
    bottom, top = (float(v) for v in np.percentile(values, (low, high)))
    if not top > bottom:
        return bottom, bottom + max(abs(bottom), 1e-6)
    step = 10.0 ** math.floor(math.log10((top - bottom) / 10))
    return math.floor(bottom / step) * step, math.ceil(top / step) * step


def reach(values: np.ndarray, percentile: float = 99.5) -> float:
    """What most magnitudes do not exceed, rounded up to two digits; above 0.

    Args:
        values: Of any shape; what is not finite does not count.
        percentile: Share of magnitudes that do not exceed it, 0 to 100.
    """
    magnitudes = np.abs(_finite(values))
    top = float(np.percentile(magnitudes, percentile)) or float(magnitudes.max())
    if not top > 0:
        return 1.0
    step = 10.0 ** math.floor(math.log10(top) - 1)
    return float(f"{math.ceil(top / step - 1e-9) * step:.6g}")


def _finite(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    kept = values[np.isfinite(values)]
    return kept if kept.size else np.zeros(1)


# Sheets of pictures -------------------------------------------------------------------------------


def sheet(rows: Sequence[Sequence[Picture | None]]) -> bytes:
    """Rows of pictures, each with its own colour bar below it, as a PNG.

    None leaves a place empty.
    """
    return png(drawn(rows))


def drawn(rows: Sequence[Sequence[Picture | None]]) -> Figure:
    """The same as a matplotlib figure."""
    columns = max(map(len, rows))
    width = min(PICTURE_WIDTH, SHEET_WIDTH / columns)
    heights = [max(_height(one, width) for one in row if one is not None) + 1.1 for row in rows]
    figure = new_figure(columns * width + 0.2, sum(heights))
    grid = figure.add_gridspec(len(rows), columns, height_ratios=heights)
    for r, row in enumerate(rows):
        for c, one in enumerate(row):
            if one is not None:
                _draw(figure, figure.add_subplot(grid[r, c]), one)
    return figure


def _height(one: Picture, width: float) -> float:
    """Inches that a picture takes at its full width."""
    (rows, columns), (down, across) = one.slice.array.shape, one.slice.spacing_mm
    return float(np.clip(0.9 * width * rows * down / (columns * across), 0.6, 1.6 * width))


def _draw(figure, axis, one: Picture) -> None:
    down, across = one.slice.spacing_mm
    shown_image = axis.imshow(
        one.slice.array,
        cmap=_colour_map(one.scale.colours),
        vmin=one.scale.low,
        vmax=one.scale.high,
        aspect=down / across,
        interpolation="nearest",
    )
    scale = one.scale
    if one.over is not None:
        over, scale = one.over
        shown_image = axis.imshow(
            np.ma.masked_invalid(over.array),
            cmap=_colour_map(scale.colours),
            vmin=scale.low,
            vmax=scale.high,
            aspect=down / across,
            interpolation="nearest",
            alpha=0.75,
        )
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title("\n".join(textwrap.wrap(shown(in_language(one.title)), 28)), fontsize=10)
    _letters(axis, one.slice)
    _ruler(axis, one.slice)
    if one.box is not None:
        from matplotlib.patches import Rectangle

        r0, r1, c0, c1 = one.box
        axis.add_patch(
            Rectangle(
                (c0 - 0.5, r0 - 0.5),
                c1 - c0,
                r1 - r0,
                fill=False,
                edgecolor="#ffd400",
                linewidth=1.6,
            )
        )
    _bar(figure, axis, shown_image, scale)


def _colour_map(name: str) -> str | Colormap:
    if name not in colors.COLORS:
        return name
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(name, colors.stops(name) / 255)


def _bar(figure, axis, image, scale: Scale) -> None:
    bar = figure.colorbar(
        image, ax=axis, orientation="horizontal", fraction=0.06, pad=0.03, aspect=25
    )
    ends = [scale.low, (scale.low + scale.high) / 2, scale.high]
    bar.set_ticks(ends, labels=[readable(end) for end in ends])
    bar.set_label(shown(scale.units), fontsize=9)
    bar.ax.tick_params(labelsize=9)
    if bar.solids is not None:
        bar.solids.set_alpha(1)


def _letters(axis, one: Slice) -> None:
    """The sides of the patient, and where the slice lies."""
    for words, x, y, across, up in (
        (one.sides[0], 0.02, 0.5, "left", "center"),
        (one.sides[1], 0.98, 0.5, "right", "center"),
        (one.sides[2], 0.5, 0.98, "center", "top"),
        (one.position, 0.02, 0.02, "left", "bottom"),
    ):
        _write_on(axis, x, y, words, across, up)


def _write_on(axis, x: float, y: float, words: str, across: str, up: str) -> None:
    from matplotlib import patheffects

    axis.text(
        x,
        y,
        words,
        transform=axis.transAxes,
        ha=across,
        va=up,
        color="white",
        fontsize=9,
        fontweight="bold",
        path_effects=[patheffects.withStroke(linewidth=2, foreground="black")],
    )


def _ruler(axis, one: Slice) -> None:
    """A bar of a round length, about a fifth of the width, at the lower right."""
    from matplotlib import patheffects

    width = one.array.shape[1] * one.spacing_mm[1]
    length = max((mm for mm in (1, 2, 5, 10, 20, 50, 100, 200) if mm <= width / 4), default=None)
    if length is None:
        return
    share = length / width
    axis.plot(
        [0.97 - share, 0.97],
        [0.035, 0.035],
        transform=axis.transAxes,
        color="white",
        linewidth=2.5,
        path_effects=[patheffects.withStroke(linewidth=4, foreground="black")],
    )
    _write_on(axis, 0.97, 0.055, f"{length} mm", "right", "bottom")


# Curves -------------------------------------------------------------------------------------------


def plot(curve: Curve) -> bytes:
    """The curve's lines as a PNG.

    The legend stands beside them, lines differ in colour and in dashes.
    """
    figure = new_figure(8.0, 3.6)
    axis = figure.subplots()
    for number, (name, (x, y)) in enumerate(curve.lines.items()):
        axis.plot(
            x,
            y,
            linestyle=DASHES[number % len(DASHES)],
            color=LINE_COLORS[number % len(LINE_COLORS)],
            label=shown(in_language(name)),
            linewidth=2,
            marker="o" if len(x) < 12 else None,
            markersize=4,
        )
    axis.set(
        title=shown(in_language(curve.title)),
        xlabel=shown(in_language(curve.x_label)),
        ylabel=shown(in_language(curve.y_label)),
        yscale="log" if curve.log_y else "linear",
    )
    axis.grid(True, alpha=0.3)
    if curve.lines:
        axis.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
    return png(figure)


def new_figure(width: float, height: float) -> Figure:
    """A matplotlib figure of so many inches; it needs no display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def png(figure: Figure) -> bytes:
    """The figure's picture, cut to what it shows; the same figure gives the same bytes.

    matplotlib's own cut ("tight") draws everything twice.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(DOTS_PER_INCH)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[..., :3]
    rows, columns = (np.flatnonzero((drawn < 255).any((axis, 2))) for axis in (1, 0))
    margin = round(MARGIN * DOTS_PER_INCH)
    box = [slice(max(0, place[0] - margin), place[-1] + 1 + margin) for place in (rows, columns)]
    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(drawn[tuple(box)])).save(data, format="png")
    return data.getvalue()
