"""Where the user looks, and boxes and points that a button places, for all modules' panels."""

from __future__ import annotations

import numpy as np
import slicer

from .. import volumes
from ..volumes import Volume

Point = tuple[float, float, float]  # RAS, mm


def view_centre(view: str) -> Point:
    """RAS position (mm) of the middle of a slice view, panned or not; ``view``: "Red", say."""
    node = slicer.app.layoutManager().sliceWidget(view).mrmlSliceNode()
    width, height = node.GetDimensions()[:2]
    return tuple(node.GetXYToRAS().MultiplyPoint((width / 2, height / 2, 0.0, 1.0))[:3])


def slice_point(view: str) -> Point:
    """RAS position (mm) of a point in the slice that a view shows."""
    matrix = slicer.app.layoutManager().sliceWidget(view).mrmlSliceNode().GetSliceToRAS()
    return tuple(matrix.GetElement(row, 3) for row in range(3))


def point_in(grid: Volume, point: Point) -> Point:
    """The point, or the grid's middle where it lies outside: the view shows another volume."""
    try:
        volumes.region_from_ras_points(grid, np.array([point]))
    except volumes.VolumeError:
        middle = [(size - 1) // 2 for size in grid.shape[::-1]]
        return tuple((grid.ijk_to_ras @ [*middle, 1.0])[:3].tolist())
    return point
