"""Where the user looks, and boxes and points that a button places, for all modules' panels."""

from __future__ import annotations

import numpy as np
import slicer

from ..core import volumes
from ..core.volumes import Region, Volume

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
    """The point, or the middle of the grid (K, J, I) where it lies outside.

    Then the view shows another volume.
    """
    try:
        volumes.region_from_ras_points(grid, np.array([point]))
    except volumes.VolumeError:
        middle = [(size - 1) // 2 for size in grid.shape[::-1]]
        return tuple((grid.ijk_to_ras @ [*middle, 1.0])[:3].tolist())
    return point


def place_box(
    node: slicer.vtkMRMLMarkupsROINode | None, name: str, grid: Volume, region: Region
) -> slicer.vtkMRMLMarkupsROINode:
    """A markups ROI node that encloses a region of a volume: ``node`` moved there, or a new one.

    It can be dragged by its handles from then on.

    Args:
        node: A vtkMRMLMarkupsROINode, or None.
        name: Of a new one; made unique.
        grid: The volume (K, J, I), transforms included.
        region: (k0, k1, j0, j1, i0, i1), half-open voxel indices of it.
    """
    scene = slicer.mrmlScene
    if node is None:
        title = scene.GenerateUniqueName(name)
        node = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", title)
        node.CreateDefaultDisplayNodes()
    low, high = (np.array(region[start::2][::-1], float) for start in (0, 1))  # i, j, k
    place = np.eye(4)
    place[:3, :3] = grid.ijk_to_ras[:3, :3] / np.array(grid.spacing_mm)
    place[:3, 3] = (grid.ijk_to_ras @ np.append((low + high - 1) / 2, 1.0))[:3]
    if np.linalg.det(place[:3, :3]) < 0:  # a box has no handedness, its matrix must be a rotation
        place[:3, 0] *= -1
    node.SetAndObserveTransformNodeID(None)
    node.SetSize(*((high - low) * grid.spacing_mm))
    node.SetAndObserveObjectToNodeMatrix(slicer.util.vtkMatrixFromArray(place))
    display = node.GetDisplayNode()
    display.SetHandlesInteractive(True)
    display.SetFillVisibility(False)  # it would tint the map that is read inside it
    display.SetPropertiesLabelVisibility(False)  # its name would lie over the map too
    return node


def place_point(
    node: slicer.vtkMRMLMarkupsFiducialNode | None, name: str
) -> slicer.vtkMRMLMarkupsFiducialNode:
    """A markups point list whose one point the next click in a view places: ``node``, or a new one.

    Args:
        node: A vtkMRMLMarkupsFiducialNode, whose points are taken away, or None.
        name: Of a new one; made unique.
    """
    if node is None:
        title = slicer.mrmlScene.GenerateUniqueName(name)
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", title)
        node.CreateDefaultDisplayNodes()
    node.RemoveAllControlPoints()
    logic = slicer.modules.markups.logic()
    logic.SetActiveList(node)
    logic.StartPlaceMode(False)  # one point only
    return node


def point_of(node: slicer.vtkMRMLMarkupsFiducialNode) -> Point:
    """RAS position (mm) of the first point of a markups node, transforms included.

    Raises:
        VolumeError: There is no point.
    """
    if not node.GetNumberOfControlPoints():
        raise volumes.VolumeError(
            f"'{node.GetName()}' has no point. Place one where the lesion is to be."
        )
    position = [0.0, 0.0, 0.0]
    node.GetNthControlPointPositionWorld(0, position)
    right, anterior, superior = position
    return right, anterior, superior
