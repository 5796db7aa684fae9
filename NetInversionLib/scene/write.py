"""Volumes into the scene as new nodes, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import get_vtk_array_type, vtk_to_numpy

from ..core.steps import Steps, finish
from ..core.volumes import Volume, VolumeError, check
from .display import ROLES, show_by_role
from .read import HOUNSFIELD, node_ijk_to_ras, pieces, world_matrix

NOTICE = "NetInversion result: research use only, not for diagnosis."


def harden(node: slicer.vtkMRMLNode) -> slicer.vtkMRMLNode:
    """A copy of a volume node with its parent transforms, linear or not, applied to it.

    The node stays as it is.

    A non-linear transform resamples the values onto a new grid; a linear one only changes the
    matrix.
    """
    with all_or_nothing():
        copy = new_node(node.GetClassName(), f"{node.GetName()} hardened")
        image = vtk.vtkImageData()
        image.DeepCopy(node.GetImageData())
        copy.SetAndObserveImageData(image)
        _copy_geometry(copy, node)
        copy.SetVoxelValueUnits(node.GetVoxelValueUnits())
        copy.SetAndObserveTransformNodeID(node.GetTransformNodeID())
        copy.HardenTransform()
        show_by_role(copy, "input", node)
        file_under(copy, node)
    return copy


# --------------------------------------------------------------------------------- volumes to nodes


@contextmanager
def all_or_nothing(added: list | None = None) -> Iterator[None]:
    """Remove every node that is added inside the block if the block raises.

    Else append them to ``added``.
    """
    new = []

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def note(caller, event, node):
        if not node.IsA(
            "vtkMRMLSubjectHierarchyNode"
        ):  # which the first node brings, and others use by now
            new.append(node)

    scene = slicer.mrmlScene
    tag = scene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, note)
    try:
        yield
    except BaseException:
        remove_nodes(new[::-1])
        raise
    finally:
        scene.RemoveObserver(tag)
    if added is not None:
        added += new


def remove_nodes(nodes: list[slicer.vtkMRMLNode]) -> None:
    """Take nodes out of the scene and out of the subject hierarchy.

    The latter only the application does by itself.
    """
    hierarchy = subject_hierarchy()
    for node in nodes:
        if node.GetScene() is not slicer.mrmlScene:
            continue
        item = hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0
        if item:
            hierarchy.RemoveItem(item, False, False)
        slicer.mrmlScene.RemoveNode(node)


def subject_hierarchy() -> Any:
    """The scene's vtkMRMLSubjectHierarchyNode; None if it has none yet."""
    return slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode")


def new_node(kind: str, name: str) -> slicer.vtkMRMLNode:
    """A node named ``name``, or "name_1" where that is taken.

    So a second run's results are told from the first's.
    """
    return slicer.mrmlScene.AddNewNodeByClass(kind, slicer.mrmlScene.GenerateUniqueName(name))


def volume_to_node(
    volume: Volume,
    name: str | None = None,
    like: slicer.vtkMRMLNode | None = None,
    role: str | None = None,
    shown_as: slicer.vtkMRMLNode | None = None,
) -> slicer.vtkMRMLNode:
    """A new scalar volume node that lies where ``volume`` (K, J, I) lies.

    Args:
        like: an input's node. The new node gets its parent transform (and the local matrix with
            which the two overlay exactly) and its place in the subject hierarchy. One that has left
            the scene, or is under a non-linear transform by now, counts as None: the node is placed
            in world RAS.
        role: "input", "ct", "difference" (around 0), "factor" (around 1), "error", "spread" or
            "phase": how it is shown.
        shown_as: for role "input", a node whose window and colours it takes, so that the two can be
            compared.

    int64, uint64 and other types that Slicer does not show become int32, uint32 or float64 if that
    loses nothing. Raises VolumeError if it would, or if the volume is empty, not 3-D or not placed
    in space.
    """
    return finish(write_volume(volume, name, like, role, shown_as))


def write_volume(
    volume: Volume,
    name: str | None,
    like: slicer.vtkMRMLNode | None,
    role: str | None,
    shown_as: slicer.vtkMRMLNode | None,
    added: list | None = None,
) -> Steps:
    """``volume_to_node`` in steps.

    It writes the voxels (K, J, I) in pieces, then all that the scene sees at once.
    """
    if role is not None and role not in ROLES:
        raise ValueError(f"role is '{role}', must be one of {', '.join(ROLES)}")
    check(volume, finite=False)
    image = yield from _write_image(volume.array, _stored_type(volume))
    like, shown_as = in_scene(like), in_scene(shown_as)
    with all_or_nothing(added):
        node = new_node("vtkMRMLScalarVolumeNode", name or volume.name)
        node.SetAndObserveImageData(image)
        _place(node, volume.ijk_to_ras, like)
        if volume.units:
            units = slicer.vtkCodedEntry()
            units.SetValueSchemeMeaning(
                *(HOUNSFIELD if volume.units == "HU" else (volume.units, "UCUM", volume.units))
            )
            node.SetVoxelValueUnits(units)
        node.SetDescription(NOTICE)
        show_by_role(node, role, shown_as)
        file_under(node, like)
    yield True
    return node


def in_scene(node: slicer.vtkMRMLNode | None) -> slicer.vtkMRMLNode | None:
    """The node, or None if it has left the scene."""
    return node if node is not None and node.GetScene() is slicer.mrmlScene else None


def _write_image(array: np.ndarray, kind: np.dtype) -> Steps:
    """A vtkImageData with the array's values, copied in pieces."""
    image = vtk.vtkImageData()
    image.SetDimensions(array.shape[::-1])
    image.AllocateScalars(get_vtk_array_type(kind), 1)
    target = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(array.shape)
    for first, last in pieces(target):
        target[first:last] = array[first:last]
        yield True
    image.Modified()
    return image


def _stored_type(volume: Volume) -> np.dtype:
    """A type that Slicer stores and shows, and that holds the array value for value."""
    array = volume.array
    kind = {"bool": "uint8", "float16": "float32"}.get(array.dtype.name, array.dtype.name)
    if kind in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"):
        return np.dtype(kind)
    if array.dtype.kind in "iu":
        low, high = int(array.min()), int(array.max())
        for fits, bounds in (
            ("int32", (-(2**31), 2**31 - 1)),
            ("uint32", (0, 2**32 - 1)),
            ("float64", (-(2**53), 2**53)),
        ):
            if bounds[0] <= low and high <= bounds[1]:
                return np.dtype(fits)
    elif np.array_equal(array.astype(np.float64), array, equal_nan=True):
        return np.dtype(np.float64)
    raise VolumeError(
        f"'{volume.name}' holds {array.dtype} values that no volume in Slicer can hold exactly. "
        "Scale them, or convert them to float64 if the rounding does not matter."
    )


def _place(node: slicer.vtkMRMLNode, matrix: np.ndarray, like: slicer.vtkMRMLNode | None) -> None:
    """Give ``node`` the place in the world that ``matrix`` says.

    It gets the parent transform of ``like`` and the local matrix that puts it at ``matrix`` in
    world RAS.
    """
    parent = like.GetParentTransformNode() if like is not None else None
    if like is not None and (parent is None or parent.IsTransformToWorldLinear()):
        world = world_matrix(like)
        if np.array_equal(world @ node_ijk_to_ras(like), matrix):
            _copy_geometry(node, like)
        else:
            node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.linalg.solve(world, matrix)))
        node.SetAndObserveTransformNodeID(like.GetTransformNodeID())
    else:
        node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))


def _copy_geometry(node: slicer.vtkMRMLNode, like: slicer.vtkMRMLNode) -> None:
    """Part by part, so to the last bit: CopyOrientation multiplies and divides, which rounds."""
    directions = vtk.vtkMatrix4x4()
    like.GetIJKToRASDirectionMatrix(directions)
    node.SetIJKToRASDirectionMatrix(directions)
    node.SetSpacing(like.GetSpacing())
    node.SetOrigin(like.GetOrigin())


def file_under(node: slicer.vtkMRMLNode, like: slicer.vtkMRMLNode | None) -> None:
    """Put ``node`` beside ``like`` in the subject hierarchy.

    That is where there is one that knows ``like``.
    """
    hierarchy = subject_hierarchy()
    item = hierarchy.GetItemByDataNode(like) if hierarchy is not None and like is not None else 0
    if item:
        parent, own = hierarchy.GetItemParent(item), hierarchy.GetItemByDataNode(node)
        hierarchy.SetItemParent(own, parent) if own else hierarchy.CreateItem(parent, node)


def at_once(steps: Steps) -> Any:
    """Do all steps that write into the scene now, and give their value."""
    slicer.mrmlScene.StartState(
        slicer.vtkMRMLScene.BatchProcessState
    )  # selectors look once, not at every node
    try:
        return finish(steps)
    finally:
        slicer.mrmlScene.EndState(slicer.vtkMRMLScene.BatchProcessState)
