"""Volumes from MRML nodes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from ..core.steps import PIECE, Steps, finish
from ..core.volumes import Region, Volume, VolumeError, check, region_from_ras_points

HOUNSFIELD = ("[hnsf'U]", "UCUM", "Hounsfield unit")  # how Slicer's DICOM reader marks CT


# --------------------------------------------------------------------------------- nodes to volumes


def volume_from_node(node: slicer.vtkMRMLNode) -> Volume:
    """A copy (K, J, I) of a scalar volume node.

    Its matrix is to world RAS, with linear parent transforms.

    Raises VolumeError for None, a label map, a colour, vector, tensor or time-series volume, a node
    without voxels, or one under a non-linear transform.
    """
    return finish(_read_volume(node))


def read_volume(node: slicer.vtkMRMLNode) -> Steps:
    """Steps whose value is ``volume_from_node(node)``, checked.

    Also infinite and missing values raise VolumeError.
    """
    volume = yield from _read_volume(node)
    for first, last in pieces(volume.array):
        if not np.isfinite(volume.array[first:last]).all():
            check(volume)  # says how many
        yield True
    return check(volume, finite=False)


def _read_volume(node: slicer.vtkMRMLNode) -> Steps:
    image = _scalar_image(node)
    offset = _require_voxels(image, node.GetName())
    source = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
    place = world_matrix(node) @ node_ijk_to_ras(node) @ offset
    volume = Volume(np.empty_like(source), place, node.GetName(), units_of(node))
    for first, last in pieces(source):
        volume.array[first:last] = source[first:last]
        yield True
    return volume


def pieces(array: np.ndarray) -> Iterator[tuple[int, int]]:
    """(first, last) slices along the first axis of an array (K, ...).

    They hold a few megabytes each.
    """
    count = max(1, PIECE // max(array[0].nbytes, 1))
    return ((first, first + count) for first in range(0, len(array), count))


def grid_from_node(node: slicer.vtkMRMLNode) -> Volume:
    """As ``volume_from_node``, (K, J, I), for questions about size and place.

    Its values are zeros that take no memory.
    """
    image = _scalar_image(node)
    offset = _require_voxels(image, node.GetName())
    array = np.broadcast_to(np.uint8(0), image.GetDimensions()[::-1])
    return Volume(
        array, world_matrix(node) @ node_ijk_to_ras(node) @ offset, node.GetName(), units_of(node)
    )


def _scalar_image(node: slicer.vtkMRMLNode) -> vtk.vtkImageData:
    """A scalar volume node's vtkImageData (None if it has none).

    Raises VolumeError for any other node.
    """
    if node is None:
        raise VolumeError("No volume is chosen. Choose a scalar volume.")
    name = node.GetName()
    if node.IsA("vtkMRMLLabelMapVolumeNode"):
        raise VolumeError(
            f"'{name}' is a label map; an image is needed. If it is one after all, convert it to a "
            "scalar volume in the Volumes module."
        )
    image = node.GetImageData() if node.IsA("vtkMRMLVolumeNode") else None
    if (
        not node.IsA("vtkMRMLScalarVolumeNode")
        or node.IsA("vtkMRMLTensorVolumeNode")
        or (image and image.GetNumberOfScalarComponents() > 1)
    ):
        raise VolumeError(
            f"'{name}' is no scalar volume but a {node.GetNodeTagName()} (colour, vectors, a"
            " series?). Convert it to a scalar volume (module Vector to Scalar Volume) or extract"
            " one component."
        )
    return image


def image_array(image: vtk.vtkImageData, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A copy (K, J, I) of a vtkImageData's scalars, and their 4x4.

    That takes array indices to its (extent) indices.
    """
    offset = _require_voxels(image, name)
    return (
        vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1]).copy(),
        offset,
    )


def _require_voxels(image: vtk.vtkImageData, name: str) -> np.ndarray:
    """The 4x4 that takes array indices to a vtkImageData's (extent) indices.

    VolumeError if it has no voxels.
    """
    scalars = image.GetPointData().GetScalars() if image else None
    if scalars is None or scalars.GetNumberOfTuples() == 0:
        raise VolumeError(
            f"'{name}' is empty: it has no voxels. Load its image, or choose another one."
        )
    offset = np.eye(4)
    offset[:3, 3] = image.GetExtent()[::2]
    return offset


def node_ijk_to_ras(node: slicer.vtkMRMLNode) -> np.ndarray:
    """(4, 4), from a volume node's voxels (i, j, k) to its own RAS, mm."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def world_matrix(node: slicer.vtkMRMLTransformableNode) -> np.ndarray:
    """(4, 4), from the node's own RAS to world RAS.

    Raises VolumeError if a transform on the way is not linear.
    """
    parent, matrix = node.GetParentTransformNode(), vtk.vtkMatrix4x4()
    if parent is not None and not parent.IsTransformToWorldLinear():
        raise VolumeError(
            f"'{node.GetName()}' is under the non-linear transform '{parent.GetName()}'. Harden a"
            " copy first (Transforms module, or NetInversionLib.scene.write.harden)."
        )
    if parent is not None:
        parent.GetMatrixTransformToWorld(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def units_of(node: slicer.vtkMRMLNode) -> str:
    """The units of a volume node's values as text: "HU", another code, or ""."""
    entry = node.GetVoxelValueUnits()
    if entry is None:
        return ""
    return "HU" if entry.GetCodeValue() == HOUNSFIELD[0] else entry.GetCodeValue() or ""


def region_from_roi_node(roi_node: slicer.vtkMRMLMarkupsROINode, volume: Volume) -> Region:
    """The region of ``volume`` (K, J, I) that holds a markups ROI box.

    Turned boxes and linear parent transforms are included.

    Raises VolumeError if the ROI is not placed or lies outside the volume.
    """
    half = np.array(roi_node.GetSize()) / 2
    if roi_node.GetNumberOfControlPoints() == 0 or not half.all():
        raise VolumeError(
            f"The region '{roi_node.GetName()}' has no size yet. Place it in the views, or choose"
            " none."
        )
    corners = np.array([(*half * signs, 1.0) for signs in product((-1, 1), repeat=3)])
    box = world_matrix(roi_node) @ slicer.util.arrayFromVTKMatrix(roi_node.GetObjectToNodeMatrix())
    return region_from_ras_points(volume, (box @ corners.T)[:3].T)
