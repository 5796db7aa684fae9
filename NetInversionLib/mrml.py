"""The bridge to the MRML scene: nodes in, volumes out; results in, nodes out.

Works inside Slicer and on a scene without the application (``slicer.mrmlScene`` is the scene in both). Input nodes are
never changed. What is written is written whole or not at all: after an error the scene holds what it held before.
Large things are written in steps (``write_result``), so that an application can do it between two events.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from numbers import Integral, Real

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import get_vtk_array_type, numpy_to_vtk, vtk_to_numpy

from .jobs import PIECE, Steps, finish
from .results import Curve, Result, Table
from .volumes import Region, Volume, VolumeError, check, region_from_ras_points, resample

ROLES = ("input", "ct", "difference", "factor", "error", "spread")
HOUNSFIELD = ("[hnsf'U]", "UCUM", "Hounsfield unit")  # how Slicer's DICOM reader marks CT
FACTS, TITLE = "Settings and facts", "NetInversion.title"
NOTICE = "NetInversion result: research use only, not for diagnosis."


# ------------------------------------------------------------------------------------------------- nodes to volumes

def volume_from_node(node) -> Volume:
    """A copy of a scalar volume node; its matrix is to world RAS, linear parent transforms included.

    Raises VolumeError for a label map, a colour, vector, tensor or time-series volume, a node without voxels, or one
    under a non-linear transform.
    """
    return finish(_read_volume(node))


def read_volume(node) -> Steps:
    """Steps whose value is ``volume_from_node(node)``, checked: also infinite and missing values raise VolumeError."""
    volume = yield from _read_volume(node)
    for first, last in _pieces(volume.array):
        if not np.isfinite(volume.array[first:last]).all():
            check(volume)  # says how many
        yield True
    return check(volume, finite=False)


def _read_volume(node) -> Steps:
    image = _scalar_image(node)
    offset = _require_voxels(image, node.GetName())
    source = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
    place = _world_matrix(node) @ _ijk_to_ras(node) @ offset
    volume = Volume(np.empty_like(source), place, node.GetName(), units_of(node))
    for first, last in _pieces(source):
        volume.array[first:last] = source[first:last]
        yield True
    return volume


def _pieces(array: np.ndarray) -> Iterator[tuple[int, int]]:
    """(first, last) slices along the first axis that hold a few megabytes each."""
    count = max(1, PIECE // max(array[0].nbytes, 1))
    return ((first, first + count) for first in range(0, len(array), count))


def grid_from_node(node) -> Volume:
    """As ``volume_from_node``, with zeros that take no memory as values: for questions about size and place."""
    image = _scalar_image(node)
    offset = _require_voxels(image, node.GetName())
    array = np.broadcast_to(np.uint8(0), image.GetDimensions()[::-1])
    return Volume(array, _world_matrix(node) @ _ijk_to_ras(node) @ offset, node.GetName(), units_of(node))


def _scalar_image(node):
    """A scalar volume node's vtkImageData (None if it has none). Raises VolumeError for any other node."""
    if node is None:
        raise VolumeError("No volume is chosen. Choose a scalar volume.")
    name = node.GetName()
    if node.IsA("vtkMRMLLabelMapVolumeNode"):
        raise VolumeError(f"'{name}' is a label map; an image is needed. If it is one after all, convert it to a "
                          "scalar volume in the Volumes module.")
    image = node.GetImageData() if node.IsA("vtkMRMLVolumeNode") else None
    if not node.IsA("vtkMRMLScalarVolumeNode") or node.IsA("vtkMRMLTensorVolumeNode") or (
            image and image.GetNumberOfScalarComponents() > 1):
        raise VolumeError(f"'{name}' is no scalar volume but a {node.GetNodeTagName()} (colour, vectors, a series?). "
                          "Convert it to a scalar volume (module Vector to Scalar Volume) or extract one component.")
    return image


def _image_array(image, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A [k, j, i] copy of a vtkImageData's scalars, and the 4x4 that takes array indices to its (extent) indices."""
    offset = _require_voxels(image, name)
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1]).copy(), offset


def _require_voxels(image, name: str) -> np.ndarray:
    """The 4x4 that takes array indices to a vtkImageData's (extent) indices; VolumeError if it has no voxels."""
    scalars = image.GetPointData().GetScalars() if image else None
    if scalars is None or scalars.GetNumberOfTuples() == 0:
        raise VolumeError(f"'{name}' is empty: it has no voxels. Load its image, or choose another one.")
    offset = np.eye(4)
    offset[:3, 3] = image.GetExtent()[::2]
    return offset


def _ijk_to_ras(node) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def _world_matrix(node) -> np.ndarray:
    """From the node's own RAS to world RAS. Raises VolumeError if a transform on the way is not linear."""
    parent, matrix = node.GetParentTransformNode(), vtk.vtkMatrix4x4()
    if parent is not None and not parent.IsTransformToWorldLinear():
        raise VolumeError(f"'{node.GetName()}' is under the non-linear transform '{parent.GetName()}'. Harden a copy "
                          "first (Transforms module, or NetInversionLib.mrml.harden).")
    if parent is not None:
        parent.GetMatrixTransformToWorld(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def units_of(node) -> str:
    """The units of a volume node's values as text: "HU", another code, or ""."""
    entry = node.GetVoxelValueUnits()
    if entry is None:
        return ""
    return "HU" if entry.GetCodeValue() == HOUNSFIELD[0] else entry.GetCodeValue() or ""


def harden(node):
    """A copy of a volume node with its parent transforms, linear or not, applied to it; the node stays as it is.

    A non-linear transform resamples the values onto a new grid; a linear one only changes the matrix.
    """
    with _all_or_nothing():
        copy = _new_node(node.GetClassName(), f"{node.GetName()} hardened")
        image = vtk.vtkImageData()
        image.DeepCopy(node.GetImageData())
        copy.SetAndObserveImageData(image)
        _copy_geometry(copy, node)
        copy.SetVoxelValueUnits(node.GetVoxelValueUnits())
        copy.SetAndObserveTransformNodeID(node.GetTransformNodeID())
        copy.HardenTransform()
        _show(copy, "input", node)
        _file_under(copy, node)
    return copy


def mask_from_node(node, reference: Volume, segment_id: str | None = None) -> np.ndarray:
    """Where a label map or segmentation node is set, as a bool array on the grid of ``reference`` (nearest neighbour).

    Any label counts; of a segmentation the named segment, or all of them. Raises VolumeError if nothing is marked, or
    nothing inside ``reference``.
    """
    if node is not None and node.IsA("vtkMRMLSegmentationNode"):
        return mask_from_segmentation(node, reference, segment_id)
    return mask_from_label_node(node, reference)


def mask_from_label_node(node, reference: Volume) -> np.ndarray:
    """As ``mask_from_node``, for a label map volume node."""
    if node is None or not node.IsA("vtkMRMLLabelMapVolumeNode"):
        raise VolumeError("The mask must be a label map or a segmentation. Choose one, or convert the volume to a "
                          "label map in the Volumes module.")
    array, offset = _image_array(node.GetImageData(), node.GetName())
    labels = Volume(array, _world_matrix(node) @ _ijk_to_ras(node) @ offset, node.GetName())
    return _mask([labels], reference, node.GetName())


def mask_from_segmentation(node, reference: Volume, segment_id: str | None = None) -> np.ndarray:
    """As ``mask_from_node``, for a segmentation node that has its binary label map (a drawn segmentation does)."""
    name, segments = node.GetName(), node.GetSegmentation()
    chosen = [segment_id] if segment_id else list(segments.GetSegmentIDs())
    if segment_id and segments.GetSegment(segment_id) is None:
        raise VolumeError(f"'{name}' has no segment '{segment_id}', only {list(segments.GetSegmentIDs())}.")
    if chosen and not segments.ContainsRepresentation(
            slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()):
        raise VolumeError(f"'{name}' has no binary label map. Create one in the Segmentations module.")
    world, labels = _world_matrix(node), []
    for segment in chosen:
        image, matrix = slicer.vtkOrientedImageData(), vtk.vtkMatrix4x4()
        node.GetBinaryLabelmapRepresentation(segment, image)
        if image.GetNumberOfPoints():
            array, offset = _image_array(image, name)
            image.GetImageToWorldMatrix(matrix)
            labels.append(Volume(array, world @ slicer.util.arrayFromVTKMatrix(matrix) @ offset, name))
    return _mask(labels, reference, name)


def segments_from_node(node, reference: Volume) -> tuple[Volume, tuple[str, ...]]:
    """Labels 1, 2, ... (uint16) on the grid of ``reference``, and their names; segments outside of it are left out.

    Where segments of a segmentation overlap the later one counts. Raises VolumeError as ``mask_from_node`` does.
    """
    if node is not None and node.IsA("vtkMRMLSegmentationNode"):
        found = _segments_within(node, reference)
    else:
        mask_from_label_node(node, reference)  # refuses what is no label map, or empty
        array, offset = _image_array(node.GetImageData(), node.GetName())
        there = resample(Volume(array, _world_matrix(node) @ _ijk_to_ras(node) @ offset, node.GetName()), reference, "nearest", 0)
        colors = node.GetDisplayNode().GetColorNode() if node.GetDisplayNode() else None
        values = [int(value) for value in np.unique(there.array) if value]
        found = {(colors.GetColorName(value) if colors else "") or f"label {value}": there.array == value for value in values}
    labels = np.zeros(reference.shape, np.uint16)
    for number, mask in enumerate(found.values(), 1):
        labels[mask] = number
    return reference.with_array(labels, node.GetName(), ""), tuple(found)


def _segments_within(node, reference: Volume) -> dict[str, np.ndarray]:
    found, problem = {}, None
    for segment in node.GetSegmentation().GetSegmentIDs():
        try:
            name = node.GetSegmentation().GetSegment(segment).GetName()
            found[f"{name} ({segment})" if name in found else name] = mask_from_segmentation(node, reference, segment)
        except VolumeError as error:
            problem = error
    if not found:
        raise problem or VolumeError(f"The segmentation '{node.GetName()}' has no segments. Draw one, or choose none.")
    return found


def _mask(labels: Iterable[Volume], reference: Volume, name: str) -> np.ndarray:
    labels = [volume for volume in labels if volume.array.any()]
    if not labels:
        raise VolumeError(f"The mask '{name}' is empty. Draw a region in it, or choose no mask.")
    mask = np.zeros(reference.shape, dtype=bool)
    for volume in labels:
        mask |= resample(volume.with_array(volume.array != 0), reference, "nearest", fill=0).array
    if not mask.any():
        raise VolumeError(f"The mask '{name}' marks no voxel of '{reference.name}'. Draw it on that image.")
    return mask


def region_from_roi_node(roi_node, volume: Volume) -> Region:
    """The region of ``volume`` that holds a markups ROI box, turned boxes and linear parent transforms included.

    Raises VolumeError if the ROI is not placed or lies outside the volume.
    """
    half = np.array(roi_node.GetSize()) / 2
    if roi_node.GetNumberOfControlPoints() == 0 or not half.all():
        raise VolumeError(f"The region '{roi_node.GetName()}' has no size yet. Place it in the views, or choose none.")
    corners = np.array([(*half * signs, 1.0) for signs in product((-1, 1), repeat=3)])
    box = _world_matrix(roi_node) @ slicer.util.arrayFromVTKMatrix(roi_node.GetObjectToNodeMatrix())
    return region_from_ras_points(volume, (box @ corners.T)[:3].T)


# ------------------------------------------------------------------------------------------------- volumes to nodes

@contextmanager
def _all_or_nothing(added: list | None = None) -> Iterator[None]:
    """Remove every node that is added inside the block if the block raises; else append them to ``added``."""
    new = []

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def note(caller, event, node):
        if not node.IsA("vtkMRMLSubjectHierarchyNode"):  # which the first node brings, and others use by now
            new.append(node)

    scene = slicer.mrmlScene
    tag = scene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, note)
    try:
        yield
    except BaseException:
        _remove(new[::-1])
        raise
    finally:
        scene.RemoveObserver(tag)
    if added is not None:
        added += new


def _remove(nodes: list) -> None:
    """Take nodes out of the scene and, which only the application does by itself, out of the subject hierarchy."""
    hierarchy = _hierarchy()
    for node in nodes:
        if node.GetScene() is not slicer.mrmlScene:
            continue
        item = hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0
        if item:
            hierarchy.RemoveItem(item, False, False)
        slicer.mrmlScene.RemoveNode(node)


def _hierarchy():
    return slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode")


def _new_node(kind: str, name: str):
    """A node named ``name``, or "name_1" where that is taken: a second run's results are told from the first's."""
    return slicer.mrmlScene.AddNewNodeByClass(kind, slicer.mrmlScene.GenerateUniqueName(name))


def volume_to_node(volume: Volume, name: str | None = None, like=None, role: str | None = None, shown_as=None):
    """A new scalar volume node that lies where ``volume`` lies.

    Args:
        like: an input's node. The new node gets its parent transform (and the local matrix with which the two overlay
            exactly) and its place in the subject hierarchy. One that has left the scene, or is under a non-linear
            transform by now, counts as None: the node is placed in world RAS.
        role: "input", "ct", "difference" (around 0), "factor" (around 1), "error" or "spread": how it is shown.
        shown_as: for role "input", a node whose window and colours it takes, so that the two can be compared.

    int64, uint64 and other types that Slicer does not show become int32, uint32 or float64 if that loses nothing.
    Raises VolumeError if it would, or if the volume is empty, not 3-D or not placed in space.
    """
    return finish(_write_volume(volume, name, like, role, shown_as))


def _write_volume(volume: Volume, name, like, role, shown_as, added: list | None = None) -> Steps:
    """``volume_to_node`` in steps: the voxels in pieces, then all that the scene sees at once."""
    if role is not None and role not in ROLES:
        raise ValueError(f"role is '{role}', must be one of {', '.join(ROLES)}")
    check(volume, finite=False)
    image = yield from _write_image(volume.array, _stored_type(volume))
    like, shown_as = _in_scene(like), _in_scene(shown_as)
    with _all_or_nothing(added):
        node = _new_node("vtkMRMLScalarVolumeNode", name or volume.name)
        node.SetAndObserveImageData(image)
        _place(node, volume.ijk_to_ras, like)
        if volume.units:
            units = slicer.vtkCodedEntry()
            units.SetValueSchemeMeaning(*(HOUNSFIELD if volume.units == "HU" else (volume.units, "UCUM", volume.units)))
            node.SetVoxelValueUnits(units)
        node.SetDescription(NOTICE)
        _show(node, role, shown_as)
        _file_under(node, like)
    yield True
    return node


def _in_scene(node):
    """The node, or None if it has left the scene."""
    return node if node is not None and node.GetScene() is slicer.mrmlScene else None


def _write_image(array: np.ndarray, kind: np.dtype) -> Steps:
    """A vtkImageData with the array's values, copied in pieces."""
    image = vtk.vtkImageData()
    image.SetDimensions(array.shape[::-1])
    image.AllocateScalars(get_vtk_array_type(kind), 1)
    target = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(array.shape)
    for first, last in _pieces(target):
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
        for fits, bounds in (("int32", (-2**31, 2**31 - 1)), ("uint32", (0, 2**32 - 1)), ("float64", (-2**53, 2**53))):
            if bounds[0] <= low and high <= bounds[1]:
                return np.dtype(fits)
    elif np.array_equal(array.astype(np.float64), array, equal_nan=True):
        return np.dtype(np.float64)
    raise VolumeError(f"'{volume.name}' holds {array.dtype} values that no volume in Slicer can hold exactly. "
                      "Scale them, or convert them to float64 if the rounding does not matter.")


def _place(node, matrix: np.ndarray, like) -> None:
    """Give ``node`` the parent transform of ``like`` and the local matrix that puts it at ``matrix`` in world RAS."""
    parent = like.GetParentTransformNode() if like is not None else None
    if like is not None and (parent is None or parent.IsTransformToWorldLinear()):
        world = _world_matrix(like)
        if np.array_equal(world @ _ijk_to_ras(like), matrix):
            _copy_geometry(node, like)
        else:
            node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.linalg.solve(world, matrix)))
        node.SetAndObserveTransformNodeID(like.GetTransformNodeID())
    else:
        node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))


def _copy_geometry(node, like) -> None:
    """Part by part, so to the last bit: CopyOrientation multiplies and divides again, which rounds."""
    directions = vtk.vtkMatrix4x4()
    like.GetIJKToRASDirectionMatrix(directions)
    node.SetIJKToRASDirectionMatrix(directions)
    node.SetSpacing(like.GetSpacing())
    node.SetOrigin(like.GetOrigin())


def _file_under(node, like) -> None:
    """Put ``node`` beside ``like`` in the subject hierarchy, where there is one that knows ``like``."""
    hierarchy = _hierarchy()
    item = hierarchy.GetItemByDataNode(like) if hierarchy is not None and like is not None else 0
    if item:
        parent, own = hierarchy.GetItemParent(item), hierarchy.GetItemByDataNode(node)
        hierarchy.SetItemParent(own, parent) if own else hierarchy.CreateItem(parent, node)


# ---------------------------------------------------------------------------------------------------------- display

# RGB at even steps; colours between them are linear. Error and spread follow matplotlib's inferno and viridis (CC0), factor
# Brewer's purple and orange, difference his blues and oranges: the two ends differ for colour-blind readers too, and the
# middle, where nothing changed, is lighter than both.
COLORS = {
    "difference": "08306b 2171b5 6baed6 f0f0f0 fd8d3c d94801 7f2704",
    "factor": "542788 8073ac f7f7f7 e08214 7f3b08",
    "error": "000004 1b0c41 4a0c6b 781c6d a52c60 cf4446 ed6925 fb9b06 f7d13d fcffa4",
    "spread": "440154 482878 3e4989 31688e 26828e 1f9e89 35b779 6ece58 b5de2b fde725",
}

AROUND_A_VALUE = ("difference", "factor")
"""Roles whose colours run to both sides of a middle value, 0 or 1."""

SAMPLE = 2**18
"""Voxels of an image that its window is chosen from: finding a percentile of a whole volume takes half a second."""


def _show(node, role: str | None, shown_as) -> None:
    """A display node with the window, level and colours that fit the role."""
    # Slicer's own CreateDefaultDisplayNodes would look at every voxel for a window.
    display = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeDisplayNode")
    display.SetDefaultColorMap()
    values = _sample(node)
    model = shown_as.GetDisplayNode() if shown_as is not None and role != "ct" else None
    if role is not None:
        node.SetAttribute("NetInversion.role", role)
    if model is not None:
        _set_window(display, model.GetWindowLevelMin(), model.GetWindowLevelMax())
    elif role == "ct":
        _set_window(display, -160, 240)
    elif role == "factor":
        reach = _typical_largest(values - 1)
        _set_window(display, 1 - reach, 1 + reach)
    elif role in COLORS:
        largest = _typical_largest(values)
        _set_window(display, -largest if role == "difference" else 0, largest)
    else:
        _set_window(display, *_typical_range(values))
    if model is not None:
        display.SetAndObserveColorNodeID(model.GetColorNodeID())
    elif role in COLORS:
        display.SetAndObserveColorNodeID(_color_node(role).GetID())
    if role == "spread":  # 0 is where nothing was looked at: what lies below shows through
        display.AutoThresholdOff()
        display.SetThreshold(float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max))
        display.ApplyThresholdOn()
    node.SetAndObserveDisplayNodeID(display.GetID())


def _set_window(display, low: float, high: float) -> None:
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(low, high)


def _sample(node) -> np.ndarray:
    """Finite values spread evenly over a volume, as float64."""
    values = vtk_to_numpy(node.GetImageData().GetPointData().GetScalars())
    values = values[::values.size // SAMPLE | 1].astype(np.float64)  # an odd step: not the same column of every row
    return values[np.isfinite(values)]


def _typical_largest(values: np.ndarray) -> float:
    """The 99.5th percentile of the magnitudes, or what else is not 0."""
    values = np.abs(values)
    return float(np.percentile(values, 99.5) or values.max() or 1.0) if values.size else 1.0


def _typical_range(values: np.ndarray) -> tuple[float, float]:
    """The percentiles that Slicer's automatic window takes; never of zero width."""
    low, high = (float(v) for v in np.percentile(values, (0.1, 99.9))) if values.size else (0.0, 1.0)
    return (low, high) if high > low else (low, low + 1.0)


def _color_node(role: str):
    """The scene's own colour table for a role, made on first use: the scene carries it wherever it is opened.

    One that an older version made gets today's colours.
    """
    tag = f"NetInversion{role.capitalize()}"
    node = slicer.mrmlScene.GetSingletonNode(tag, "vtkMRMLColorTableNode")
    if node is None:
        node = slicer.vtkMRMLColorTableNode()
        node.SetTypeToUser()
        node.SetNumberOfColors(256)
        node.SetName(f"NetInversion {role}")
        node.SetSingletonTag(tag)
        node.SetAttribute("Category", "NetInversion")
        node.SetHideFromEditors(True)  # colour selectors list hidden tables too; other node lists stay clean
        _fill_colors(node, role)
        return slicer.mrmlScene.AddNode(node)
    if node.GetAttribute("NetInversion.colors") != COLORS[role]:
        _fill_colors(node, role)
    return node


def _fill_colors(node, role: str) -> None:
    """Where a map around a middle value has that value, nothing was changed or looked at: what lies below shows through."""
    stops = np.array([list(bytes.fromhex(color)) for color in COLORS[role].split()]) / 255
    at = np.linspace(0, len(stops) - 1, 256)
    clear = (127,) if role in AROUND_A_VALUE else ()  # what VTK takes for the middle of a window
    modifying = node.StartModify()
    for index, color in enumerate(zip(*(np.interp(at, range(len(stops)), channel) for channel in stops.T))):
        node.SetColor(index, f"{role} {index}", *map(float, color), 0.0 if index in clear else 1.0)
    node.SetAttribute("NetInversion.colors", COLORS[role])
    node.EndModify(modifying)


# ------------------------------------------------------------------------------------------------ tables and curves

def table_to_node(table: Table, node=None, like=None, name: str | None = None):
    """A table node with the table's columns; ``node``, if given and still in the scene, is filled anew instead.

    Its name is ``name``, or the table's title.
    Whole numbers become an integer column, other numbers (None is NaN) a double one, all else text.
    Raises ValueError if the columns differ in length.
    """
    content = _vtk_table(table.columns)
    with _all_or_nothing():
        node = _reused(node, "vtkMRMLTableNode", name or table.title, like)
        node.SetAndObserveTable(content)
    return node


def _reused(node, kind: str, name: str, like):
    """``node`` renamed if it is still in the scene, else a new one beside ``like`` in the subject hierarchy."""
    if _in_scene(node) is not None:
        node.SetName(name)
        return node
    node = _new_node(kind, name)
    node.SetDescription(NOTICE)
    _file_under(node, like)
    return node


def _vtk_table(columns: dict[str, list]):
    lengths = {title: len(values) for title, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"Columns must have one length; these have {lengths}")
    content = vtk.vtkTable()
    for title, values in columns.items():
        kinds = {type(value) for value in values}
        if any(issubclass(kind, bool) or not issubclass(kind, Real) for kind in kinds - {type(None)}):
            column = vtk.vtkStringArray()
            for value in values:
                column.InsertNextValue("" if value is None else str(value))
        elif all(issubclass(kind, Integral) for kind in kinds) and max(map(abs, values), default=0) < 2**31:
            column = numpy_to_vtk(np.array(values, np.intc), deep=True)
        else:
            column = numpy_to_vtk(np.array([np.nan if v is None else v for v in values], np.float64), deep=True)
        column.SetName(title)
        content.AddColumn(column)
    return content


# Okabe and Ito's colours, told apart by colour-blind readers too.
LINE_COLORS = ("0072b2", "d55e00", "009e73", "cc79a7", "e69f00", "56b4e9")


FEW_POINTS = 40
"""Points of a line that still get markers."""


def curve_to_nodes(curve: Curve, nodes=None, like=None, name: str | None = None):
    """(chart node, plot series nodes, table nodes), one series and one table for each line of the curve.

    The chart's name is ``name``, or the curve's title.
    ``nodes``, an earlier return value, is filled anew where it is still in the scene; superfluous ones are removed.
    """
    chart, old_series, old_tables = nodes or (None, [], [])
    contents = _vtk_tables(curve)
    with _all_or_nothing():
        series, tables = [], []
        for index, (line, content) in enumerate(zip(curve.lines, contents)):
            old = [group[index] if index < len(group) else None for group in (old_series, old_tables)]
            tables.append(_reused(old[1], "vtkMRMLTableNode", f"{line}, data of {name or curve.title}", like))
            tables[-1].SetAndObserveTable(content)
            series.append(_reused(old[0], "vtkMRMLPlotSeriesNode", line, like))
            _style_line(series[-1], tables[-1], curve.x_label, line, index)
        chart = _reused(chart, "vtkMRMLPlotChartNode", name or curve.title, like)
        _fill_chart(chart, curve, series)
    _remove([*old_series[len(series):], *old_tables[len(tables):]])
    return chart, series, tables


def _vtk_tables(curve: Curve) -> list:
    return [_vtk_table({curve.x_label: list(x), name: list(y)}) for name, (x, y) in curve.lines.items()]


def _style_line(series, table, x: str, y: str, index: int) -> None:
    """Lines differ in colour, in dashes and in markers: whoever sees no colours, or prints, tells them apart too."""
    kind = slicer.vtkMRMLPlotSeriesNode
    dashes = (kind.LineStyleSolid, kind.LineStyleDash, kind.LineStyleDot, kind.LineStyleDashDot, kind.LineStyleDashDotDot)
    markers = (kind.MarkerStyleCircle, kind.MarkerStyleSquare, kind.MarkerStyleDiamond, kind.MarkerStyleCross,
               kind.MarkerStylePlus)
    few = table.GetNumberOfRows() <= FEW_POINTS  # markers on many points hide the line
    series.SetName(y)  # the legend shows it: no "_1" for a second run
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName(x)
    series.SetYColumnName(y)
    series.SetPlotType(kind.PlotTypeScatter)
    series.SetLineStyle(dashes[index % len(dashes)])
    series.SetMarkerStyle(markers[index % len(markers)] if few else kind.MarkerStyleNone)
    series.SetLineWidth(3)
    color = LINE_COLORS[index % len(LINE_COLORS)]
    series.SetColor(*(channel / 255 for channel in bytes.fromhex(color)))


def _fill_chart(chart, curve: Curve, series: list) -> None:
    modifying = chart.StartModify()
    chart.SetTitle(curve.title)
    chart.SetXAxisTitle(curve.x_label)
    chart.SetYAxisTitle(curve.y_label)
    chart.SetTitleFontSize(14)  # a question fits into a third of the window
    chart.SetAxisTitleFontSize(13)
    chart.SetAxisLabelFontSize(12)
    chart.SetLegendFontSize(12)
    chart.SetYAxisLogScale(curve.log_y)
    chart.SetLegendVisibility(len(series) > 1)  # of one line the title says what it is
    limits = room_for_legend(curve) if len(series) > 1 else None
    chart.SetYAxisRangeAuto(limits is None)
    if limits is not None:
        chart.SetYAxisRange(*limits)
    chart.RemoveAllPlotSeriesNodeIDs()
    for node in series:
        chart.AddAndObservePlotSeriesNodeID(node.GetID())
    chart.EndModify(modifying)


LEGEND_WIDTH = 0.5
"""Share of a chart's width that its legend takes, at the right."""


def room_for_legend(curve: Curve) -> tuple[float, float] | None:
    """The range of the y axis with which no line runs under the legend, which Slicer puts into the upper right corner.

    None if there is room anyway, or nothing that could be drawn.
    """
    scale = np.log10 if curve.log_y else np.asarray
    lines = []
    for x, y in curve.lines.values():
        x, y = np.array(x, float), np.array(y, float)
        drawn = np.isfinite(x) & np.isfinite(y) & ((y > 0) | (not curve.log_y))
        if drawn.any():
            lines.append((x[drawn], scale(y[drawn])))
    if not lines:
        return None
    left, right = min(x.min() for x, _ in lines), max(x.max() for x, _ in lines)
    low, high = min(y.min() for _, y in lines), max(y.max() for _, y in lines)
    begin = right - LEGEND_WIDTH * (right - left)
    beside = max([y[x >= begin].max() for x, y in lines if (x >= begin).any()]
                 + [np.interp(begin, x, y) for x, y in lines if x.min() <= begin <= x.max()])
    share = min(0.6, 0.05 + 0.08 * len(curve.lines))
    if high <= low or beside <= high - share * (high - low):
        return None
    top = low + (beside - low) / (1 - share)
    return (10.0**low, 10.0**top) if curve.log_y else (float(low), float(max(top, high)))


def show_difference(image, other, name: str, owner: str, key: str, window=None):
    """The volume node that holds ``image - other``, two volumes of one run of a module: made, or filled anew.

    Args:
        owner, key: Under which it belongs to the run (``result_nodes``), as ``other`` does.
        window: A difference node whose window it takes; default is one that fits its values, symmetric around 0.

    Raises ValueError if the volumes differ in size.
    """
    arrays = [slicer.util.arrayFromVolume(node).astype(np.float32) for node in (image, other)]
    if arrays[0].shape != arrays[1].shape:
        raise ValueError(f"'{image.GetName()}' and '{other.GetName()}' differ in size")
    run = other.GetAttribute(f"{owner}.run")
    node = result_nodes(owner, run).get(key)
    if node is None:
        place = _world_matrix(other) @ _ijk_to_ras(other)
        node = volume_to_node(Volume(arrays[0] - arrays[1], place, name, units_of(other)), name, other, "difference")
        node.SetAttribute(f"{owner}.key", key)
        node.SetAttribute(f"{owner}.run", run)
    else:
        slicer.util.updateVolumeFromArray(node, arrays[0] - arrays[1])
    node.SetName(name)
    largest = window.GetDisplayNode().GetWindowLevelMax() if window is not None else _typical_largest(_sample(node))
    _set_window(node.GetDisplayNode(), -largest, largest)
    return node


# ---------------------------------------------------------------------------------------------------------- results

@dataclass
class Written:
    """A result in the scene: ``nodes`` by the result's keys, and ``run``, the identifier that all of them carry."""

    nodes: dict
    run: str


def add_result(result: Result, like=None, shown_as: dict | None = None, owner: str = "NetInversion",
               folder: str | None = None) -> Written:
    """Add a whole result to the scene beside ``like``, or, if anything fails, nothing of it. See ``write_result``."""
    return at_once(write_result(result, like, shown_as, owner, folder))


def at_once(steps: Steps):
    """Do all steps that write into the scene now, and give their value."""
    slicer.mrmlScene.StartState(slicer.vtkMRMLScene.BatchProcessState)  # selectors look once, not at every node
    try:
        return finish(steps)
    finally:
        slicer.mrmlScene.EndState(slicer.vtkMRMLScene.BatchProcessState)


def write_result(result: Result, like=None, shown_as: dict | None = None, owner: str = "NetInversion",
                 folder: str | None = None) -> Steps:
    """``add_result`` in steps of a few milliseconds, whose value is the ``Written`` result.

    If a step raises, or the generator is closed before its end, what was added is removed again. What others do to
    the scene between two steps stays; a node that they delete is missing from the value.

    The nodes are volumes, tables and charts by the result's keys, and "facts", a text with what is needed to run it
    again, as JSON. All of them are new: a run's nodes are its own, and can be removed with it (``remove_run``). Their names
    say first what they are, then of which input, from its second run on which run, and that it is not complete.

    Args:
        like: The input's node; the result gets its parent transform and place (``volume_to_node``).
        shown_as: By key, a node whose window and colours the image takes, or the key of an earlier image of the result.
        owner: Name of the module; with it the nodes are found again (``result_nodes``).
        folder: Name of a new folder beside ``like`` in the subject hierarchy for all nodes; None: no folder.
    """
    _refuse_double_keys(result)
    facts = json.dumps(result.facts, indent=1, default=_plain)
    named = _Names(result, like)
    nodes, added, place = {}, [], _Place(like, named.of_run(folder) if folder else None)
    try:
        for key, volume in result.volumes.items():
            shown = (shown_as or {}).get(key)
            shown = nodes.get(shown) if isinstance(shown, str) else shown
            name = named(volume.name)
            nodes[key] = yield from _write_volume(volume, name, like, result.roles.get(key), shown, added)
            nodes[key].SetAttribute(TITLE, volume.name)
            place.put([nodes[key]])
        for key, write in _writers(result, facts, like, named).items():
            with _all_or_nothing(added):
                nodes[key] = write()
            place.put(_with_parts(nodes[key]))
            yield True
        written = Written({key: node for key, node in nodes.items() if _in_scene(node)}, f"{time.time():.6f}")
        _mark(written, owner, like, result.facts.get("complete", True), place)
    except BaseException:  # also GeneratorExit: closed
        _remove(added[::-1])
        place.remove()
        raise
    return written


class _Names:
    """Names of a run's nodes: what each is, then of what, and which run; none of them is taken."""

    def __init__(self, result: Result, like):
        like = _in_scene(like)
        self._source = f": {like.GetName()}" if like is not None else ""
        self._number = 1
        titles = [*(v.name for v in result.volumes.values()), *(t.title for t in result.tables.values()),
                  *(c.title for c in result.curves.values()), FACTS]
        while any(slicer.mrmlScene.GetFirstNodeByName(self(title)) for title in titles):
            self._number += 1

    def __call__(self, title: str) -> str:
        return self.of_run(title + self._source)

    def of_run(self, name: str) -> str:
        return f"{name} (run {self._number})" if self._number > 1 else name


def _refuse_double_keys(result: Result) -> None:
    keys = [*result.volumes, *result.tables, *result.curves, *(["facts"] if result.facts else [])]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ValueError(f"Keys used more than once in a result: {', '.join(twice)}")


def _writers(result: Result, facts: str, like, named: _Names) -> dict[str, Callable]:
    """By key, a function that adds a table, curve or text to the scene and gives the node."""
    def text():
        node = _reused(None, "vtkMRMLTextNode", named(FACTS), like)
        node.SetText(facts)
        return node

    def titled(write, content, node_name):
        node = write(content, node_name)
        node.SetAttribute(TITLE, content.title)
        return node

    for table in result.tables.values():
        _vtk_table(table.columns)  # refuses uneven ones before anything is added
    for curve in result.curves.values():
        _vtk_tables(curve)
    writers = {key: lambda table=table: titled(lambda t, name: table_to_node(t, None, like, name), table, named(table.title))
               for key, table in result.tables.items()}
    writers |= {key: lambda curve=curve: titled(lambda c, name: curve_to_nodes(c, None, like, name)[0], curve, named(curve.title))
                for key, curve in result.curves.items()}
    return {**writers, **({"facts": text} if result.facts else {})}


def _mark(written: Written, owner: str, like, complete: bool, place: _Place) -> None:
    """Write on every node which one of which run it is, and what it is about; on its folder, which run's it is."""
    like = _in_scene(like)
    for key, node in written.nodes.items():
        node.SetAttribute(f"{owner}.key", key)
        node.SetAttribute(f"{owner}.run", written.run)
        node.SetAttribute(f"{owner}.incomplete", None if complete else "1")
        node.SetNodeReferenceID(f"{owner}.input", like.GetID() if like is not None else None)
        if not complete:
            node.SetName(f"{node.GetName()} (incomplete)")
    place.mark(f"{owner}.run", written.run)


def add_browser(nodes: dict, sequences: dict[str, list[str]], titles: dict[str, str], owner: str,
                key: str = "browser") -> dict:
    """Volumes of a written result as Slicer Sequences with one browser; gives the nodes by key with the change made.

    Of each sequence, a key and the keys of its images in order, all equally many: the images go into a sequence node, and one
    volume under the sequence's key shows what the browser, under ``key``, has selected. Where the application has no
    Sequences, or nothing is to be browsed, the nodes stay as they are. ``titles`` say by key what the images are, and what is
    browsed; the names go on as the images' do.
    """
    sequences = {key: members for key, members in sequences.items() if members and all(m in nodes for m in members)}
    if not sequences or not slicer.mrmlScene.GetClassNameByTag("SequenceBrowser"):
        return nodes
    found = dict(nodes)
    first = nodes[next(iter(sequences.values()))[0]]
    source = "".join(first.GetName().partition(": ")[1:])
    marks = {mark: first.GetAttribute(mark) for mark in (f"{owner}.run", f"{owner}.incomplete")}

    def marked(node, own):
        found[own] = node
        for mark, value in {**marks, f"{owner}.key": own}.items():
            node.SetAttribute(mark, value)
        return node

    with _all_or_nothing():
        browser = marked(_new_node("vtkMRMLSequenceBrowserNode", titles[key] + source), key)
        for images, members in sequences.items():
            sequence = marked(_new_node("vtkMRMLSequenceNode", f"{titles[images]}, all{source}"), f"sequence of {images}")
            sequence.SetIndexName("number")
            sequence.SetIndexUnit("")
            for member in members:  # each gets the marks: showing it, the browser copies them too
                sequence.SetDataNodeAtValue(marked(nodes[member], images), member.split()[1])
            marked(nodes[members[0]], images)
            browser.AddSynchronizedSequenceNodeID(sequence.GetID())
            its_own = browser.GetProxyNode(sequence)  # which the application may have made at once
            browser.AddProxyNode(nodes[members[0]], sequence, False)
            if its_own is not None and its_own is not nodes[members[0]]:
                _remove([its_own, *_belongings(its_own)])
            browser.SetSaveChanges(sequence, False)
            browser.SetOverwriteProxyName(sequence, False)
    for images, members in sequences.items():
        found[images].SetName(titles[images] + source)
        _remove([own for member in members[1:] for own in (nodes[member], *_belongings(nodes[member]))])
        for member in members:
            del found[member]
    return found


def result_nodes(owner: str, run: str) -> dict:
    """The nodes of a run of a module by their keys; empty if there is none."""
    nodes = slicer.mrmlScene.GetNodes() if run else ()
    return {node.GetAttribute(f"{owner}.key"): node for node in nodes if node.GetAttribute(f"{owner}.run") == run}


def title_of(node) -> str:
    """What a result's node is, in words: its name without its input and run."""
    return node.GetAttribute(TITLE) or node.GetName()


def runs_of(owner: str) -> dict[str, dict]:
    """{run: its nodes by key} of a module in the scene, the newest first."""
    found: dict[str, dict] = {}
    for node in slicer.mrmlScene.GetNodes():
        run = node.GetAttribute(f"{owner}.run")
        if run and node.GetAttribute(f"{owner}.key"):
            found.setdefault(run, {})[node.GetAttribute(f"{owner}.key")] = node
    return dict(sorted(found.items(), key=lambda item: float(item[0]), reverse=True))


def remove_run(owner: str, run: str) -> None:
    """Take all nodes of a run out of the scene, and nothing else.

    That is, what carries the run's mark, charts' lines and their tables, how the images are displayed and stored, the
    run's folder unless others have put something there, and colour tables that nothing shows any more.
    """
    if not run:
        return
    nodes = [node for node in slicer.mrmlScene.GetNodes() if node.GetAttribute(f"{owner}.run") == run]
    nodes.sort(key=lambda node: not node.IsA("vtkMRMLSequenceBrowserNode"))  # which would make its volumes anew
    parts = [part for node in nodes for part in _with_parts(node)]
    own = list(dict.fromkeys(one for part in parts for one in (part, *_belongings(part))))
    tables = {node.GetColorNode() for node in own if node.IsA("vtkMRMLDisplayNode")}
    _remove(own)
    _remove_folder(f"{owner}.run", run)
    shown = {node.GetColorNode() for node in slicer.util.getNodesByClass("vtkMRMLDisplayNode")}
    _remove([table for table in tables - shown if table and table.GetAttribute("NetInversion.colors")])


def _belongings(node) -> list:
    """How a node is displayed (legends too) and where it is stored."""
    found = []
    if node.IsA("vtkMRMLDisplayableNode"):
        found += [node.GetNthDisplayNode(index) for index in range(node.GetNumberOfDisplayNodes())]
    if node.IsA("vtkMRMLStorableNode"):
        found += [node.GetNthStorageNode(index) for index in range(node.GetNumberOfStorageNodes())]
    return [own for own in found if own is not None]


def _remove_folder(attribute: str, value: str) -> None:
    hierarchy = _hierarchy()
    if hierarchy is None:
        return
    items = vtk.vtkIdList()
    hierarchy.GetItemChildren(hierarchy.GetSceneItemID(), items, True)
    for item in [items.GetId(n) for n in range(items.GetNumberOfIds())]:
        if hierarchy.GetItemAttribute(item, attribute) == value and not hierarchy.GetNumberOfItemChildren(item):
            hierarchy.RemoveItem(item, False, False)


class _Place:
    """A new folder beside a node in the subject hierarchy, made when it is first needed; nothing without a hierarchy."""

    def __init__(self, like, name: str | None):
        self._like, self._name, self._folder = like, name, 0

    def put(self, nodes: list) -> None:
        hierarchy = _hierarchy()
        item = hierarchy.GetItemByDataNode(self._like) if hierarchy is not None and _in_scene(self._like) else 0
        if not self._folder and item and self._name:
            name = hierarchy.GenerateUniqueItemName(self._name)
            self._folder = hierarchy.CreateFolderItem(hierarchy.GetItemParent(item), name)
        for node in nodes if self._folder else ():
            own = hierarchy.GetItemByDataNode(node)
            if own:
                hierarchy.SetItemParent(own, self._folder)

    def mark(self, attribute: str, value: str) -> None:
        if self._folder:
            _hierarchy().SetItemAttribute(self._folder, attribute, value)

    def remove(self) -> None:
        if self._folder and _hierarchy() is not None:
            _hierarchy().RemoveItem(self._folder, False, False)


def _with_parts(node) -> list:
    """A node; of a chart also its series and their tables."""
    if not node.IsA("vtkMRMLPlotChartNode"):
        return [node]
    chart, series, tables = _parts(node)
    return [chart, *series, *tables]


def _parts(chart):
    """(chart node, its series nodes, their table nodes), as ``curve_to_nodes`` gave them; None if it is gone."""
    if _in_scene(chart) is None:
        return None
    series = [chart.GetNthPlotSeriesNode(index) for index in range(chart.GetNumberOfPlotSeriesNodes())]
    series = [node for node in series if node is not None and node.GetTableNode() is not None]
    return chart, series, [node.GetTableNode() for node in series]


def _plain(value):
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else str(value)


# ------------------------------------------------------------------------------------------------- results from nodes

def result_from_nodes(nodes: dict) -> Result:
    """The result that ``write_result`` wrote as these nodes, by key, also after the scene was saved and opened again.

    What was removed from the scene meanwhile is missing. Raises VolumeError for an image that cannot be read any more.
    """
    result = Result()
    for key, node in nodes.items():
        if node.IsA("vtkMRMLVolumeNode"):
            result.volumes[key] = volume_from_node(node)
            if node.GetAttribute("NetInversion.role"):
                result.roles[key] = node.GetAttribute("NetInversion.role")
        elif node.IsA("vtkMRMLTableNode"):
            result.tables[key] = Table(title_of(node), columns_of(node))
        elif node.IsA("vtkMRMLPlotChartNode"):
            result.curves[key] = _curve_from_chart(node)
        elif node.IsA("vtkMRMLTextNode"):
            result.facts = json.loads(node.GetText())
    return result


def columns_of(table) -> dict[str, list]:
    """The columns of a table node by heading: numbers, or text."""
    content = table.GetTable()
    columns = [content.GetColumn(index) for index in range(content.GetNumberOfColumns())]
    return {column.GetName(): [column.GetValue(row) for row in range(column.GetNumberOfValues())] for column in columns}


def _curve_from_chart(chart) -> Curve:
    _, series, tables = _parts(chart)
    lines = {}
    for one, table in zip(series, tables):
        columns = columns_of(table)
        lines[one.GetName()] = (columns[one.GetXColumnName()], columns[one.GetYColumnName()])
    return Curve(chart.GetTitle(), chart.GetXAxisTitle(), chart.GetYAxisTitle(), lines, bool(chart.GetYAxisLogScale()))
