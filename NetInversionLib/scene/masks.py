"""Masks from label maps and segmentations."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk

from ..core.steps import Steps
from ..core.volumes import Volume, VolumeError, resample
from .read import image_array, node_ijk_to_ras, world_matrix
from .write import NOTICE, all_or_nothing, file_under, in_scene, new_node

MASK_COLOR = (0.2, 0.9, 0.3)


def mask_from_node(
    node: slicer.vtkMRMLNode, reference: Volume, segment_id: str | None = None
) -> np.ndarray:
    """Where a label map or segmentation node is set, as bool (K, J, I).

    It is on the grid of ``reference`` (nearest neighbour).

    Any label counts; of a segmentation the named segment, or all of them. Raises VolumeError if
    nothing is marked, or nothing inside ``reference``.
    """
    if node is not None and node.IsA("vtkMRMLSegmentationNode"):
        return mask_from_segmentation(node, reference, segment_id)
    return mask_from_label_node(node, reference)


def mask_from_label_node(node: slicer.vtkMRMLNode, reference: Volume) -> np.ndarray:
    """As ``mask_from_node``, bool (K, J, I), for a label map volume node."""
    if node is None or not node.IsA("vtkMRMLLabelMapVolumeNode"):
        raise VolumeError(
            "The mask must be a label map or a segmentation. Choose one, or convert the volume to a"
            " label map in the Volumes module."
        )
    array, offset = image_array(node.GetImageData(), node.GetName())
    labels = Volume(array, world_matrix(node) @ node_ijk_to_ras(node) @ offset, node.GetName())
    return _mask([labels], reference, node.GetName())


def mask_from_segmentation(
    node: slicer.vtkMRMLSegmentationNode, reference: Volume, segment_id: str | None = None
) -> np.ndarray:
    """As ``mask_from_node``, for a segmentation node that has its binary label map.

    It is bool (K, J, I); a drawn segmentation has its label map.
    """
    name, segments = node.GetName(), node.GetSegmentation()
    chosen = [segment_id] if segment_id else list(segments.GetSegmentIDs())
    if segment_id and segments.GetSegment(segment_id) is None:
        raise VolumeError(
            f"'{name}' has no segment '{segment_id}', only {list(segments.GetSegmentIDs())}."
        )
    if chosen and not segments.ContainsRepresentation(
        slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    ):
        raise VolumeError(
            f"'{name}' has no binary label map. Create one in the Segmentations module."
        )
    world, labels = world_matrix(node), []
    for segment in chosen:
        image, matrix = slicer.vtkOrientedImageData(), vtk.vtkMatrix4x4()
        node.GetBinaryLabelmapRepresentation(segment, image)
        if image.GetNumberOfPoints():
            array, offset = image_array(image, name)
            image.GetImageToWorldMatrix(matrix)
            labels.append(
                Volume(array, world @ slicer.util.arrayFromVTKMatrix(matrix) @ offset, name)
            )
    return _mask(labels, reference, name)


def write_mask(
    volume: Volume, name: str, like: slicer.vtkMRMLNode | None, added: list | None = None
) -> Steps:
    """A new segmentation of one segment, set where a volume (K, J, I) is not 0: it can be edited.

    In steps, whose value is the node; for ``like`` and ``added`` see ``write.write_volume``.
    """
    like = in_scene(like)
    parent = like.GetParentTransformNode() if like is not None else None
    linear = parent is None or parent.IsTransformToWorldLinear()
    under = like if linear else None
    place = volume.ijk_to_ras
    if under is not None:
        place = np.linalg.solve(world_matrix(under), place)
    image = slicer.vtkOrientedImageData()
    image.SetExtent(*(bound for n in volume.shape[::-1] for bound in (0, n - 1)))
    set_voxels = (volume.array != 0).astype(np.uint8).ravel()
    image.GetPointData().SetScalars(numpy_to_vtk(set_voxels, deep=True))
    image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(place))
    yield True
    with all_or_nothing(added):
        node = new_node("vtkMRMLSegmentationNode", name)
        node.CreateDefaultDisplayNodes()
        node.AddSegmentFromBinaryLabelmapRepresentation(image, volume.name, MASK_COLOR)
        if under is not None:
            node.SetAndObserveTransformNodeID(under.GetTransformNodeID())
        if like is not None:
            node.SetReferenceImageGeometryParameterFromVolumeNode(like)
        node.SetDescription(NOTICE)
        file_under(node, like)
    yield True
    return node


def segments_from_node(
    node: slicer.vtkMRMLNode, reference: Volume
) -> tuple[Volume, tuple[str, ...]]:
    """Labels 1, 2, ... on the grid of ``reference``, and their names.

    They are uint16, (K, J, I); segments outside of it are left out.

    Where segments of a segmentation overlap the later one counts. Raises VolumeError as
    ``mask_from_node`` does.
    """
    if node is not None and node.IsA("vtkMRMLSegmentationNode"):
        found = _segments_within(node, reference)
    else:
        mask_from_label_node(node, reference)  # refuses what is no label map, or empty
        array, offset = image_array(node.GetImageData(), node.GetName())
        there = resample(
            Volume(array, world_matrix(node) @ node_ijk_to_ras(node) @ offset, node.GetName()),
            reference,
            "nearest",
            0,
        )
        colors = node.GetDisplayNode().GetColorNode() if node.GetDisplayNode() else None
        values = [int(value) for value in np.unique(there.array) if value]
        found = {
            (colors.GetColorName(value) if colors else "") or f"label {value}": there.array == value
            for value in values
        }
    labels = np.zeros(reference.shape, np.uint16)
    for number, mask in enumerate(found.values(), 1):
        labels[mask] = number
    return reference.with_array(labels, node.GetName(), ""), tuple(found)


def _segments_within(
    node: slicer.vtkMRMLSegmentationNode, reference: Volume
) -> dict[str, np.ndarray]:
    found, problem = {}, None
    for segment in node.GetSegmentation().GetSegmentIDs():
        try:
            name = node.GetSegmentation().GetSegment(segment).GetName()
            found[f"{name} ({segment})" if name in found else name] = mask_from_segmentation(
                node, reference, segment
            )
        except VolumeError as error:
            problem = error
    if not found:
        raise problem or VolumeError(
            f"The segmentation '{node.GetName()}' has no segments. Draw one, or choose none."
        )
    return found


def _mask(labels: Iterable[Volume], reference: Volume, name: str) -> np.ndarray:
    labels = [volume for volume in labels if volume.array.any()]
    if not labels:
        raise VolumeError(f"The mask '{name}' is empty. Draw a region in it, or choose no mask.")
    mask = np.zeros(reference.shape, dtype=bool)
    for volume in labels:
        mask |= resample(volume.with_array(volume.array != 0), reference, "nearest", fill=0).array
    if not mask.any():
        raise VolumeError(
            f"The mask '{name}' marks no voxel of '{reference.name}'. Draw it on that image."
        )
    return mask
