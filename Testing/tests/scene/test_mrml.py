"""The MRML bridge on real nodes: exact round trips, results and how they show.

Refusals leave the scene alone.
"""

import itertools
import json
import time
import zipfile

import numpy as np
import pytest
import slicer
import timing
import vtk
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from skimage.color import rgb2lab
from strategies import finite, matrices, transforms, volumes, world
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from NetInversionLib.core import words
from NetInversionLib.core.files import load
from NetInversionLib.core.results import Curve, Result, Table
from NetInversionLib.core.steps import finish
from NetInversionLib.core.volumes import Volume, VolumeError, crop
from NetInversionLib.scene import display as scene_display
from NetInversionLib.scene import masks, read, results, write
from NetInversionLib.scene import runs as scene_runs
from NetInversionLib.scene import tables as scene_tables

few = settings(deadline=None, max_examples=50)


@pytest.fixture(autouse=True, params=["bare", "application"])
def scene(request, scene, monkeypatch):
    """A scene without an application, and the host's with its colours and hierarchy.

    Everything holds on both.
    """
    if request.param == "bare":
        monkeypatch.setattr(slicer, "mrmlScene", slicer.vtkMRMLScene())
    for role in scene_display.COLORS:  # singletons outlive a cleared scene
        for table in scene_display.color_tables(role):
            slicer.mrmlScene.RemoveNode(table)
    return slicer.mrmlScene


def add(array=None, matrix=None, name="image", kind=None, transform=None):
    """A volume node made by Slicer's own helper.

    It is under a linear parent transform if a matrix is given.
    """
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5) if array is None else array
    node = slicer.util.addVolumeFromArray(
        array, np.eye(4) if matrix is None else matrix, name, kind
    )
    if transform is not None:
        put_under(node, transform)
    return node


def put_under(node, matrix):
    parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "move")
    parent.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    node.SetAndObserveTransformNodeID(parent.GetID())
    return parent


def bend(node, shift=(5.0, 0.0, 0.0)):
    """Put a node under a grid transform: non-linear in kind, a plain shift in value."""
    grid = vtk.vtkImageData()
    grid.SetDimensions(2, 2, 2)
    grid.SetOrigin(-500, -500, -500)
    grid.SetSpacing(1000, 1000, 1000)
    grid.AllocateScalars(vtk.VTK_DOUBLE, 3)
    vtk_to_numpy(grid.GetPointData().GetScalars())[:] = shift
    displacement = slicer.vtkOrientedGridTransform()
    displacement.SetDisplacementGridData(grid)
    parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "bend")
    parent.SetAndObserveTransformToParent(displacement)
    node.SetAndObserveTransformNodeID(parent.GetID())


def contents():
    """All that a scene holds: its XML as Slicer would save it, voxels, tables."""
    scene = slicer.mrmlScene
    scene.SetSaveToXMLString(1)
    scene.Commit()
    scene.SetSaveToXMLString(0)  # later saves go to files again
    volumes = [
        node for node in scene.GetNodes() if node.IsA("vtkMRMLVolumeNode") and node.GetImageData()
    ]
    voxels = [slicer.util.arrayFromVolume(node).tobytes() for node in volumes]
    tables = [
        node.GetTable().GetMTime() for node in scene.GetNodes() if node.IsA("vtkMRMLTableNode")
    ]
    return scene.GetSceneXMLString(), voxels, tables


def world_of_voxel(node, ijk):
    """RAS of a voxel as Slicer computes it for display."""
    matrix, ras = vtk.vtkMatrix4x4(), [0.0, 0.0, 0.0]
    node.GetIJKToRASMatrix(matrix)
    node.TransformPointToWorld(matrix.MultiplyPoint((*ijk, 1.0))[:3], ras)
    return ras


# -------------------------------------------------------------------------------------- round trips


@few
@given(volumes(), st.none() | transforms())
def test_node_to_volume_to_node_is_exact(image, transform):
    slicer.mrmlScene.Clear(False)
    original = add(image.array, image.ijk_to_ras, transform=transform)
    before = contents()
    volume = read.volume_from_node(original)
    assert contents() == before
    assert (
        volume.array.dtype == image.array.dtype and volume.array.tobytes() == image.array.tobytes()
    )
    corner = np.array(image.shape) - 1
    assert np.allclose(world(volume, *corner), world_of_voxel(original, corner[::-1]), atol=1e-9)

    node = write.volume_to_node(volume, like=original)
    assert np.array_equal(
        read.volume_from_node(node).ijk_to_ras, volume.ijk_to_ras
    )  # to the last bit
    assert np.array_equal(read.node_ijk_to_ras(node), read.node_ijk_to_ras(original))
    assert node.GetTransformNodeID() == original.GetTransformNodeID()
    stored = slicer.util.arrayFromVolume(node)
    assert stored.dtype == image.array.dtype and stored.tobytes() == image.array.tobytes()


@few
@given(volumes(types=("float32",)), transforms(), transforms())
def test_a_result_lies_where_its_matrix_says_and_moves_with_the_input(image, transform, motion):
    slicer.mrmlScene.Clear(False)
    original = add(transform=transform)  # on another grid than the result
    node = write.volume_to_node(image, like=original)
    assert np.allclose(read.volume_from_node(node).ijk_to_ras, image.ijk_to_ras, atol=1e-6)
    original.GetParentTransformNode().SetMatrixTransformToParent(
        slicer.util.vtkMatrixFromArray(motion @ transform)
    )
    assert np.allclose(read.volume_from_node(node).ijk_to_ras, motion @ image.ijk_to_ras, atol=1e-6)


def test_nested_transforms_are_applied_once_each_outermost_last():
    node = add(matrix=np.diag([2.0, 2, 2, 1]))
    inner = put_under(node, np.diag([1.0, 3, 1, 1]))
    shift = np.eye(4)
    shift[:3, 3] = (10, 20, 30)
    put_under(inner, shift)
    assert np.allclose(read.volume_from_node(node).ijk_to_ras, shift @ np.diag([2.0, 6, 2, 1]))


def test_reading_in_steps_gives_the_same_and_finds_what_is_no_number():
    array = np.random.default_rng(1).random((40, 200, 200))  # several pieces
    node = add(array, np.diag([-1, 2, 3, 1]))
    steps = list(read.read_volume(node))
    volume, whole = finish(read.read_volume(node)), read.volume_from_node(node)
    assert (
        len(steps) > 4
        and np.array_equal(volume.array, array)
        and np.array_equal(whole.array, array)
    )
    assert np.array_equal(volume.ijk_to_ras, whole.ijk_to_ras) and volume.name == whole.name
    array[[3, 39], 5, 7] = np.nan, np.inf
    with pytest.raises(VolumeError, match="2 of 1600000 voxels"):
        finish(read.read_volume(add(array)))


def test_a_volume_is_a_copy_and_survives_its_node(scene):
    node = add()
    volume = read.volume_from_node(node)
    slicer.util.arrayFromVolume(node)[:] = -1
    scene.RemoveNode(node)
    assert volume.array.ravel().tolist() == list(range(60))


@pytest.mark.parametrize(
    "vtk_type",
    [
        vtk.VTK_CHAR,
        vtk.VTK_SIGNED_CHAR,
        vtk.VTK_UNSIGNED_CHAR,
        vtk.VTK_SHORT,
        vtk.VTK_UNSIGNED_SHORT,
        vtk.VTK_INT,
        vtk.VTK_UNSIGNED_INT,
        vtk.VTK_LONG,
        vtk.VTK_UNSIGNED_LONG,
        vtk.VTK_LONG_LONG,
        vtk.VTK_UNSIGNED_LONG_LONG,
        vtk.VTK_FLOAT,
        vtk.VTK_DOUBLE,
    ],
)
def test_every_scalar_type_of_vtk_is_read_and_written_back(scene, vtk_type):
    image = vtk.vtkImageData()
    image.SetExtent(
        2, 4, 3, 4, 0, 0
    )  # an extent that does not start at 0, as cropping in memory leaves it
    image.AllocateScalars(vtk_type, 1)
    for index in range(6):
        image.GetPointData().GetScalars().SetTuple1(index, 20 * index)
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "typed")
    node.SetAndObserveImageData(image)
    volume = read.volume_from_node(node)
    assert volume.array.tolist() == [[[0, 20, 40], [60, 80, 100]]]
    assert np.allclose(world(volume, 0, 0, 0), (2, 3, 0))
    back = read.volume_from_node(write.volume_to_node(volume, like=node))
    assert np.array_equal(back.array, volume.array) and np.array_equal(
        back.ijk_to_ras, volume.ijk_to_ras
    )


@pytest.mark.parametrize(
    "array, stored",
    [
        (np.array([[[-5, 2**31 - 1]]]), "int32"),
        (np.array([[[0, 2**32 - 1]]]), "uint32"),
        (np.array([[[-(2**53), 2**53]]]), "float64"),
        (np.array([[[0, 2**40]]], np.uint64), "float64"),
        (np.array([[[True, False]]]), "uint8"),
        (np.array([[[0.1]]], np.float16), "float32"),
        (np.array([[[1, 500]]], ">i2"), "int16"),
        (np.array([[[0.1]]], np.longdouble) * 0 + 0.25, "float64"),
        (np.array([[[np.nan, 1.0]]]), "float64"),
    ],
)
def test_types_that_slicer_does_not_show_are_stored_without_loss(array, stored):
    kept = slicer.util.arrayFromVolume(write.volume_to_node(Volume(array, np.eye(4), "image")))
    assert kept.dtype == stored and np.array_equal(kept, array, equal_nan=array.dtype.kind == "f")


@pytest.mark.parametrize(
    "array",
    [
        np.array([[[2**53 + 1]]]),
        np.array([[[2**64 - 1]]], np.uint64),
        np.zeros((2, 2)),
        np.zeros((0, 2, 2)),
        np.zeros((1, 1, 1), complex),
    ],
)
def test_what_a_node_cannot_hold_is_refused_before_the_scene_is_touched(scene, array):
    before = scene.GetNumberOfNodes()
    with pytest.raises(VolumeError):
        write.volume_to_node(Volume(array, np.eye(4), "image"))
    assert scene.GetNumberOfNodes() == before


@pytest.mark.parametrize("units", ["HU", "", "%", "mm2/s"])
def test_units_travel(units):
    volume = Volume(np.zeros((1, 1, 1)), np.eye(4), "image", units)
    assert read.volume_from_node(write.volume_to_node(volume)).units == units


def test_real_volume_survives_the_scene(data):
    volume = load(data / "ct" / "pelvis.nii.gz")
    back = read.volume_from_node(write.volume_to_node(volume, role="ct"))
    assert back.array.dtype == volume.array.dtype and np.array_equal(back.array, volume.array)
    assert np.allclose(back.ijk_to_ras, volume.ijk_to_ras, rtol=1e-12, atol=1e-12)


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "kind, array, says",
    [
        ("vtkMRMLLabelMapVolumeNode", np.ones((2, 3, 4), np.uint8), "label map.*convert"),
        ("vtkMRMLVectorVolumeNode", np.ones((2, 3, 4, 3), np.uint8), "VectorVolume.*Convert"),
        ("vtkMRMLVectorVolumeNode", np.ones((2, 3, 4, 7), np.float32), "VectorVolume.*Convert"),
        ("vtkMRMLScalarVolumeNode", np.ones((2, 3, 4, 3), np.uint8), "Convert"),
        ("vtkMRMLScalarVolumeNode", None, "empty"),
    ],
)
def test_inputs_that_are_no_scalar_image_are_refused_and_the_scene_stays(scene, kind, array, says):
    node = scene.AddNewNodeByClass(kind, "odd")
    if array is not None:
        image = vtk.vtkImageData()
        image.SetDimensions(array.shape[2::-1])
        image.GetPointData().SetScalars(numpy_to_vtk(array.reshape(24, -1).squeeze(), deep=True))
        node.SetAndObserveImageData(image)
    before = scene.GetNumberOfNodes()
    with pytest.raises(VolumeError, match=f"'odd'.*{says}"):
        read.volume_from_node(node)
    assert scene.GetNumberOfNodes() == before


def test_no_node_and_other_nodes_are_refused(scene):
    with pytest.raises(VolumeError, match="Choose a scalar volume"):
        read.volume_from_node(None)
    with pytest.raises(VolumeError, match="no scalar volume"):
        read.volume_from_node(scene.AddNewNodeByClass("vtkMRMLTableNode", "table"))


def test_non_linear_transform_is_refused_and_a_hardened_copy_is_taken():
    values = np.arange(1000, dtype=np.float32).reshape(10, 10, 10)
    node = add(values, name="bent")
    bend(node, shift=(5.0, 0.0, 0.0))
    before = contents()
    with pytest.raises(VolumeError, match="'bent'.*non-linear transform 'bend'.*Harden"):
        read.volume_from_node(node)
    assert contents() == before
    copy = write.harden(node)
    assert (
        node.GetParentTransformNode().GetName() == "bend" and copy.GetParentTransformNode() is None
    )
    assert slicer.util.arrayFromVolume(node).tobytes() == values.tobytes()
    # The shifted image: a voxel of value x is found 5 mm to the right of where it was.
    volume = read.volume_from_node(copy)
    k, j, i = np.rint(np.linalg.inv(volume.ijk_to_ras) @ (7.0, 4.0, 3.0, 1.0)).astype(int)[2::-1]
    assert volume.array[k, j, i] == pytest.approx(values[3, 4, 2], abs=1e-3)


def test_hardening_a_linear_transform_changes_the_matrix_only():
    node = add(transform=np.diag([1.0, 2, 3, 1]))
    copy = write.harden(node)
    before, after = read.volume_from_node(node), read.volume_from_node(copy)
    assert copy.GetParentTransformNode() is None and before.array.tobytes() == after.array.tobytes()
    assert np.allclose(before.ijk_to_ras, after.ijk_to_ras)


# -------------------------------------------------------------------------------- masks and regions


def label_node(mask, matrix, transform=None):
    return add(mask.astype(np.int16) * 7, matrix, "labels", "vtkMRMLLabelMapVolumeNode", transform)


def segmentation_node(mask, matrix, transform=None, start=(0, 0, 0)):
    image = slicer.vtkOrientedImageData()
    extent = [bound for s, n in zip(start, mask.shape[::-1]) for bound in (s, s + n - 1)]
    image.SetExtent(*extent)
    image.GetPointData().SetScalars(numpy_to_vtk(mask.astype(np.uint8).ravel(), deep=True))
    image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(matrix))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "labels")
    node.AddSegmentFromBinaryLabelmapRepresentation(image, "part", [1, 0, 0])
    if transform is not None:
        put_under(node, transform)
    return node


@settings(deadline=None, max_examples=25)
@given(matrices(), transforms(), st.sampled_from([label_node, segmentation_node]), st.data())
def test_mask_on_its_own_grid_is_taken_exactly(matrix, transform, make, data):
    slicer.mrmlScene.Clear(False)
    mask = np.zeros((4, 5, 6), bool)
    for _ in range(3):
        mask[
            data.draw(st.integers(0, 3)), data.draw(st.integers(0, 4)), data.draw(st.integers(0, 5))
        ] = True
    reference = Volume(np.zeros(mask.shape), transform @ matrix, "reference")
    assert np.array_equal(masks.mask_from_node(make(mask, matrix, transform), reference), mask)


@settings(deadline=None, max_examples=25)
@given(
    matrices(spacing=(0.5, 2), reach=3),
    matrices(spacing=(0.5, 2), reach=3),
    st.sampled_from([label_node, segmentation_node]),
)
def test_mask_on_another_grid_takes_the_nearest_voxel(own, other, make):
    slicer.mrmlScene.Clear(False)
    mask = np.random.default_rng(0).random((6, 7, 8)) < 0.5
    reference = Volume(np.zeros((5, 6, 7)), other, "reference")
    index = (
        np.linalg.inv(own)[:3]
        @ np.c_[world(reference, *np.indices(reference.shape)).reshape(-1, 3), np.ones(210)].T
    )
    nearest = np.rint(index).astype(int)[::-1]
    sure = (np.abs(index - np.rint(index)) < 0.49).all(axis=0)
    inside = ((nearest >= 0) & (nearest < np.array([[6], [7], [8]]))).all(axis=0)
    expected = np.zeros(210, bool)
    expected[inside] = mask[tuple(nearest[:, inside])]
    node = make(mask, own)
    assume((expected & sure).any())
    found = masks.mask_from_node(node, reference).ravel()
    assert np.array_equal(found[sure], expected[sure])


def test_segments_are_found_by_id_joined_and_placed_by_their_extent():
    mask, reference = np.ones((1, 1, 2), bool), Volume(np.zeros((4, 4, 4)), np.eye(4), "reference")
    node = segmentation_node(mask, np.eye(4), start=(1, 2, 3))
    expected = np.zeros((4, 4, 4), bool)
    expected[3, 2, 1:3] = True
    assert np.array_equal(masks.mask_from_segmentation(node, reference), expected)
    [first] = node.GetSegmentation().GetSegmentIDs()
    assert np.array_equal(masks.mask_from_segmentation(node, reference, first), expected)
    with pytest.raises(VolumeError, match="no segment 'other'"):
        masks.mask_from_segmentation(node, reference, "other")


@pytest.mark.parametrize("make", [label_node, segmentation_node])
def test_empty_masks_and_masks_elsewhere_are_refused(make):
    reference, far = Volume(np.zeros((3, 3, 3)), np.eye(4), "reference"), np.eye(4)
    far[:3, 3] = 2.6
    corner = np.zeros((3, 3, 3), bool)
    with pytest.raises(VolumeError, match="'labels' is empty"):
        masks.mask_from_node(make(corner, np.eye(4)), reference)
    corner[2, 2, 2] = True
    with pytest.raises(VolumeError, match="marks no voxel of 'reference'|do not overlap"):
        masks.mask_from_node(make(corner, far), reference)


def test_masks_of_other_kinds_are_refused(scene):
    reference = Volume(np.zeros((3, 3, 3)), np.eye(4), "reference")
    for node, says in (
        (None, "label map or a segmentation"),
        (add(), "label map or a segmentation"),
        (scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "blank"), "'blank' is empty"),
    ):
        with pytest.raises(VolumeError, match=says):
            masks.mask_from_node(node, reference)


@few
@given(
    matrices(), transforms(), st.tuples(*[finite(1.5, 5.5)] * 3), st.tuples(*[finite(0.5, 4.0)] * 3)
)
def test_roi_region_is_the_smallest_that_holds_its_corners(matrix, transform, center, size):
    """The ROI is drawn in voxel coordinates.

    Parent transforms carry it to where the volume is.
    """
    slicer.mrmlScene.Clear(False)
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "region")
    roi.SetCenter(*center)
    roi.SetSize(*size)
    parent = put_under(roi, matrix)
    put_under(parent, transform)
    volume = Volume(np.zeros((8, 8, 8)), transform @ matrix, "image")
    low, high = np.array(center) - np.array(size) / 2, np.array(center) + np.array(size) / 2
    assume(
        np.abs(np.concatenate([low, high]) % 1 - 0.5).min() > 1e-4
    )  # no face on the border of two voxels
    low, high = (
        np.maximum(np.rint(low), 0).astype(int),
        np.minimum(np.rint(high) + 1, 8).astype(int),
    )
    expected = tuple(int(x) for axis in (2, 1, 0) for x in (low[axis], high[axis]))
    assert read.region_from_roi_node(roi, volume) == expected
    assert crop(volume, expected).array.size


def test_turned_roi_takes_its_own_axes(scene):
    roi = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "region")
    turn = np.array([[0.0, -1, 0, 4], [1, 0, 0, 4], [0, 0, 1, 4], [0, 0, 0, 1]])
    roi.SetSize(6.8, 2.8, 0.8)
    roi.SetAndObserveObjectToNodeMatrix(slicer.util.vtkMatrixFromArray(turn))
    roi.SetCenter(4, 4, 4)
    region = read.region_from_roi_node(roi, Volume(np.zeros((9, 9, 9)), np.eye(4), "image"))
    assert region == (4, 5, 1, 8, 3, 6)  # the long side, x of the box, lies along y


def test_roi_that_is_not_placed_outside_or_bent_is_refused(scene):
    volume = Volume(np.zeros((3, 3, 3)), np.eye(4), "image")
    roi = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "region")
    with pytest.raises(VolumeError, match="'region' has no size"):
        read.region_from_roi_node(roi, volume)
    roi.SetCenter(50, 0, 0)
    roi.SetSize(4, 4, 4)
    with pytest.raises(VolumeError, match="outside 'image'"):
        read.region_from_roi_node(roi, volume)
    bend(roi)
    with pytest.raises(VolumeError, match="non-linear"):
        read.region_from_roi_node(roi, volume)


# ------------------------------------------------------------------------------------------ display


def shown(role, array=None, **options):
    array = np.linspace(-2, 10, 60).reshape(3, 4, 5) if array is None else array
    return write.volume_to_node(
        Volume(array, np.eye(4), "image"), role=role, **options
    ).GetDisplayNode()


def test_windows_fit_the_roles():
    values = np.linspace(-2, 10, 2000).reshape(20, 10, 10)
    typical = pytest.approx(np.percentile(np.abs(values), 99.5))
    for role, low, high in (("ct", -160, 240), ("error", 0, typical), ("spread", 0, typical)):
        display = shown(role, values)
        assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (low, high)
        assert not display.GetAutoWindowLevel()
    display = shown("difference", values)
    assert display.GetLevel() == 0 and display.GetWindow() == pytest.approx(
        2 * np.percentile(np.abs(values), 99.5)
    )
    display = shown("factor", values)
    assert display.GetLevel() == 1 and display.GetWindow() == pytest.approx(
        2 * np.percentile(np.abs(values - 1), 99.5)
    )


def test_a_spread_of_nothing_lets_the_image_below_show_through():
    display = shown("spread", np.linspace(0, 10, 60).reshape(3, 4, 5))
    assert (
        display.GetApplyThreshold()
        and 0 < display.GetLowerThreshold() < 1e-30
        and display.GetUpperThreshold() > 1e30
    )
    assert not shown("error").GetApplyThreshold()


@pytest.mark.parametrize(
    "array, high",
    [
        (np.zeros((2, 2, 2)), 1),
        (np.full((2, 2, 2), np.nan), 1),
        (np.eye(100)[None] * 0 + (np.arange(10000) == 7).reshape(1, 100, 100) * 5, 5),
    ],
)
def test_windows_of_images_with_little_in_them(array, high):
    assert shown("error", array.astype(float)).GetWindowLevelMax() == high


def test_an_input_is_shown_as_the_patients_image_is(scene):
    patient = add()
    patient.CreateDefaultDisplayNodes()
    patient.GetDisplayNode().AutoWindowLevelOff()
    patient.GetDisplayNode().SetWindowLevel(30, 12)
    patient.GetDisplayNode().SetAndObserveColorNodeID(scene_display._color_node("spread").GetID())
    display = shown("input", shown_as=patient)
    assert (display.GetWindow(), display.GetLevel()) == (30, 12)
    assert display.GetColorNodeID() == patient.GetDisplayNode().GetColorNodeID()


def test_without_a_model_the_window_is_the_one_that_slicer_would_choose(scene):
    array = np.random.default_rng(1).gamma(2.0, 100.0, (20, 60, 70))
    slicers = add(array)
    slicers.CreateDefaultDisplayNodes()
    slicers = slicers.GetDisplayNode()
    for role in (None, "input"):
        display = shown(role, array)
        assert display.GetWindowLevelMax() == pytest.approx(slicers.GetWindowLevelMax(), rel=0.1)
        assert display.GetWindowLevelMin() == pytest.approx(
            slicers.GetWindowLevelMin(), abs=0.05 * array.max()
        )
        assert display.GetColorNodeID() == slicers.GetColorNodeID()
    assert shown(None, np.full((2, 2, 2), 7.0)).GetWindow() > 0


def test_a_window_found_in_a_sample_fits_the_whole():
    """More voxels than are looked at, and a structure that every row repeats."""
    array = np.tile(np.linspace(-1, 1, 512, dtype=np.float32), (8, 512, 1))
    array[:, :, :6] = 50
    assert scene_display.SAMPLE < array.size / 4
    assert shown("error", array).GetWindowLevelMax() == pytest.approx(
        np.percentile(np.abs(array), 99.5)
    )


def test_role_is_one_of_the_known():
    with pytest.raises(ValueError, match="must be one of input, ct"):
        shown("picture")


def table_of(role, **how):
    lookup = scene_display._color_node(role, **how).GetLookupTable()
    return np.array([lookup.GetTableValue(index) for index in range(256)])


def test_colour_tables_are_symmetric_or_rise_evenly_in_brightness(scene):
    for role in scene_display.AROUND_A_VALUE:  # light in the middle, as dark to both sides
        colors = table_of(role)
        lightness = rgb2lab(colors[None, :, :3])[0, :, 0]
        assert (
            lightness[127] > 90
            and (np.diff(lightness[:128:5]) > 0).all()
            and (np.diff(lightness[128::5]) < 0).all()
        )
        assert np.abs(lightness - lightness[::-1]).max() < 15
        assert set(colors[:, 3]) == {1}
        through = table_of(role, through=True)
        assert np.flatnonzero(through[:, 3] == 0).tolist() == [127]
        assert (through[:, :3] == colors[:, :3]).all() and set(through[:, 3]) == {0, 1}
    for role in ("error", "spread"):
        luminance = table_of(role)[:, :3] @ (0.2126, 0.7152, 0.0722)
        assert (np.diff(luminance[::5]) > 0).all() and luminance[-1] - luminance[0] > 0.6
    assert sum(node.GetName().startswith("NetInversion") for node in scene.GetNodes()) == 6
    assert scene_display._color_node("error").GetHideFromEditors()


# What red-, green- and blue-blind people see of linear RGB: Machado, Oliveira and Fernandes, IEEE
# TVCG 15:1291 (2009).
BLIND = {
    "red": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "green": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "blue": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def seen_by(kind, colors):
    """sRGB colours (n, 3) in [0, 1] as L*a*b* of what a colour-blind person sees."""
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(BLIND[kind]).T, 0, 1)
    return rgb2lab(
        np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)[None]
    )[0]


@pytest.mark.parametrize("kind", BLIND)
def test_more_and_less_are_told_apart_by_colour_blind_readers(scene, kind):
    for role in ("difference", "factor"):
        seen = seen_by(kind, table_of(role)[:, :3])
        apart = np.linalg.norm(seen - seen[::-1], axis=1)  # of a change and its opposite
        assert apart[:96].min() > 20, role  # from a quarter of the window on; 2 can just be seen
    lines = seen_by(
        kind, np.array([list(bytes.fromhex(color)) for color in scene_tables.LINE_COLORS[:3]]) / 255
    )
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(lines, 2)) > 15


def test_colours_of_an_older_version_become_todays(scene):
    node = scene_display._color_node("difference")
    node.SetColor(0, "old", 0, 0, 0.5, 1)
    node.SetAttribute("NetInversion.colors", None)
    assert scene_display._color_node("difference") is node
    assert np.allclose(table_of("difference")[0, :3] * 255, [0x08, 0x30, 0x6B], atol=1)


def open_saved(scene, folder, monkeypatch):
    """Save the scene, and go on with a new one that is read from the file."""
    assert scene.WriteToMRB(str(folder / "saved.mrb"), None)
    with zipfile.ZipFile(folder / "saved.mrb") as bundle:
        bundle.extractall(folder)
    opened = slicer.vtkMRMLScene()
    monkeypatch.setattr(slicer, "mrmlScene", opened)
    opened.SetURL(str(next(folder.rglob("*.mrml"))))
    assert opened.Connect()
    return opened


def test_a_saved_scene_opens_with_its_colours_windows_units_and_places(
    scene, tmp_path, monkeypatch
):
    patient = add(transform=np.diag([1.0, 2, 1, 1]))
    volume = read.volume_from_node(patient)
    result = Result(
        {"change": volume.with_array(volume.array - 30.5, "change", "HU")},
        {"table": Table("numbers", {"n": [1, 2]})},
        facts={"seed": 3},
        roles={"change": "difference"},
    )
    node = results.add_result(result, patient).nodes["change"]
    place, window = read.volume_from_node(node).ijk_to_ras, node.GetDisplayNode().GetWindow()
    opened = open_saved(scene, tmp_path, monkeypatch)
    again = opened.GetFirstNodeByName(f"change: {patient.GetName()}")
    color = again.GetDisplayNode().GetColorNode()
    assert color.GetName() == "NetInversion difference" and color is scene_display._color_node(
        "difference"
    )
    assert np.allclose(
        [color.GetLookupTable().GetTableValue(0)], [(8 / 255, 48 / 255, 107 / 255, 1)], atol=0.01
    )
    assert again.GetDisplayNode().GetWindow() == pytest.approx(window)
    back = read.volume_from_node(again)
    assert np.array_equal(back.array, volume.array - 30.5) and np.allclose(back.ijk_to_ras, place)
    assert back.units == "HU"
    assert json.loads(
        opened.GetFirstNodeByName(f"Settings and facts: {patient.GetName()}").GetText()
    ) == {"seed": 3}


# -------------------------------------------------------------------------------- tables and curves


def test_table_columns_keep_values_and_kinds():
    node = scene_tables.table_to_node(
        Table(
            "errors",
            {
                "tissue": ["bone", "fat", None],
                "voxels": [3, np.int64(4), 5],
                "MAE [HU]": [1.5, None, np.float32(2)],
                "used": [True, False, True],
            },
        )
    )
    content = node.GetTable()
    assert node.GetName() == "errors" and content.GetNumberOfRows() == 3
    assert [content.GetColumnName(c) for c in range(4)] == ["tissue", "voxels", "MAE [HU]", "used"]
    assert [content.GetColumn(c).GetDataTypeAsString() for c in range(4)] == [
        "string",
        "int",
        "double",
        "string",
    ]
    assert [content.GetValue(r, 0).ToString() for r in range(3)] == ["bone", "fat", ""]
    assert [content.GetValue(r, 1).ToInt() for r in range(3)] == [3, 4, 5]
    numbers = [content.GetValue(r, 2).ToDouble() for r in range(3)]
    assert numbers[::2] == [1.5, 2.0] and np.isnan(numbers[1])


def test_table_node_is_reused_while_it_is_in_the_scene(scene):
    node = scene_tables.table_to_node(Table("first", {"a": [1]}))
    assert scene_tables.table_to_node(Table("second", {"b": [1, 2]}), node) is node
    assert node.GetName() == "second" and node.GetTable().GetColumnName(0) == "b"
    scene.RemoveNode(node)
    assert scene_tables.table_to_node(Table("third", {}), node) is not node


def test_uneven_table_is_refused_and_changes_nothing(scene):
    node = scene_tables.table_to_node(Table("first", {"a": [1]}))
    before = contents()
    with pytest.raises(ValueError, match="one length"):
        scene_tables.table_to_node(Table("bad", {"a": [1], "b": [1, 2]}), node)
    assert contents() == before


def test_curves_become_a_chart_and_are_filled_anew(scene):
    curve = Curve(
        "Loss",
        "evaluation",
        "HU",
        {"patient": ([1, 2, 3], [9.0, 4.0, 1.0]), "noise": ([2], [5.0])},
        True,
    )
    nodes = chart, series, tables = scene_tables.curve_to_nodes(curve)
    assert (chart.GetTitle(), chart.GetXAxisTitle(), chart.GetYAxisTitle()) == (
        "Loss",
        "evaluation",
        "HU",
    )
    assert chart.GetYAxisLogScale() and chart.GetNumberOfPlotSeriesNodes() == 2
    assert [node.GetName() for node in series] == ["patient", "noise"]
    for node, name, x, y in zip(series, curve.lines, ([1, 2, 3], [2]), ([9, 4, 1], [5])):
        content = node.GetTableNode().GetTable()
        for column, values in ((node.GetXColumnName(), x), (node.GetYColumnName(), y)):
            array = content.GetColumnByName(column)
            assert [array.GetTuple1(r) for r in range(array.GetNumberOfTuples())] == values
    assert series[0].GetColor() != series[1].GetColor()

    count = scene.GetNumberOfNodes()
    again = scene_tables.curve_to_nodes(Curve("Loss", "step", "HU", {"only": ([1], [2.0])}), nodes)
    assert again == (chart, series[:1], tables[:1]) and chart.GetNumberOfPlotSeriesNodes() == 1
    assert scene.GetNumberOfNodes() == count - 2 and not chart.GetYAxisLogScale()
    second = scene_tables.curve_to_nodes(curve)
    assert [node.GetName() for node in second[1]] == ["patient", "noise"]  # legends carry no "_1"


# ------------------------------------------------------------------------------------------ results


@pytest.fixture
def patient():
    """A volume under a linear transform, filed in a study folder."""
    node = add(transform=np.diag([1.0, 2, 1, 1]), name="patient")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    hierarchy.CreateItem(hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "study"), node)
    return node


def a_result(volume):
    return Result(
        {
            "ideal": volume.with_array(volume.array * 2.0, "ideal"),
            "change": volume.with_array(volume.array - 1.0),
        },
        {"errors": Table("errors", {"MAE [HU]": [1.0]})},
        {"loss": Curve("Loss", "evaluation", "HU", {"patient": ([1], [2.0])})},
        {"seed": np.int64(3), "settings": {"steps": 10}, "weights": np.ones(2)},
        {"change": "difference"},
    )


def test_a_result_is_added_beside_its_input(scene, patient):
    volume = read.volume_from_node(patient)
    nodes = results.add_result(a_result(volume), patient).nodes
    assert {key: node.GetClassName()[7:] for key, node in nodes.items()} == {
        "ideal": "ScalarVolumeNode",
        "change": "ScalarVolumeNode",
        "errors": "TableNode",
        "loss": "PlotChartNode",
        "facts": "TextNode",
    }
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    folders = {
        hierarchy.GetItemName(hierarchy.GetItemParent(hierarchy.GetItemByDataNode(n)))
        for n in nodes.values()
    }
    assert folders == {"study"}
    assert nodes["ideal"].GetTransformNodeID() == patient.GetTransformNodeID()
    assert np.array_equal(slicer.util.arrayFromVolume(nodes["ideal"]), volume.array * 2.0)
    assert json.loads(nodes["facts"].GetText()) == {
        "seed": 3,
        "settings": {"steps": 10},
        "weights": [1, 1],
    }
    assert all("research use only" in node.GetDescription() for node in nodes.values())
    again = results.add_result(a_result(volume), patient).nodes
    assert nodes["ideal"].GetName() == f"ideal: {patient.GetName()}" and again[
        "ideal"
    ].GetName() == (f"ideal: {patient.GetName()} (run 2)")
    names = [
        node.GetName()
        for kind in ("Volume", "Table", "PlotChart", "Text")
        for node in slicer.util.getNodesByClass(f"vtkMRML{kind}Node")
    ]
    assert not any(name.endswith("_1") for name in names)


def test_a_result_can_be_read_back_also_from_a_saved_scene(scene, patient, tmp_path, monkeypatch):
    volume = read.volume_from_node(patient)
    written = a_result(volume)
    written.tables["mixed"] = Table(
        "Mixed", {"word": ["a", "b"], "count": [1, 2], "share": [0.5, float("inf")]}
    )
    written.curves["loss"] = Curve(
        "Loss", "step", "HU", {"a": ([1, 2], [2.5, 3.5]), "b": ([1, 2], [4.0, 5.0])}, True
    )
    nodes = results.add_result(written, patient, owner="Test")
    run = nodes.run
    for saved in (False, True):
        if saved:
            open_saved(scene, tmp_path, monkeypatch)
        found = scene_runs.result_from_nodes(scene_runs.result_nodes("Test", run))
        assert found.curves == written.curves and found.roles == {"change": "difference"}
        assert found.tables["mixed"].columns == written.tables["mixed"].columns
        assert found.facts == {"seed": 3, "settings": {"steps": 10}, "weights": [1.0, 1.0]}
        for key, image in written.volumes.items():
            np.testing.assert_array_equal(found.volumes[key].array, image.array)
            np.testing.assert_allclose(found.volumes[key].ijk_to_ras, image.ijk_to_ras, atol=1e-9)


@pytest.mark.parametrize(
    "broken, error",
    [
        ("volume", VolumeError),
        ("table", ValueError),
        ("key", ValueError),
        ("role", ValueError),
        ("memory", MemoryError),
        ("facts", MemoryError),
        ("interrupt", KeyboardInterrupt),
    ],
)
def test_a_failed_result_leaves_the_scene_as_it_was(scene, patient, monkeypatch, broken, error):
    result = a_result(read.volume_from_node(patient))
    if broken == "volume":
        result.volumes["last"] = Volume(np.zeros((0, 1, 1)), np.eye(4), "empty")
    elif broken == "table":
        result.tables["uneven"] = Table("uneven", {"a": [1], "b": []})
    elif broken == "key":
        result.tables["ideal"] = Table("ideal", {})
    elif broken == "role":
        result.roles["change"] = "picture"
    else:

        def fail(*_):
            raise error("no room")

        places = {
            "memory": (write, "show_by_role"),
            "facts": (results, "_plain"),
            "interrupt": (scene_tables, "_fill_chart"),
        }
        monkeypatch.setattr(*places[broken], fail)
    before = contents()
    with pytest.raises(error):
        results.add_result(result, patient)
    assert contents() == before


def test_a_result_given_up_at_any_step_leaves_the_scene_as_it_was(scene, patient):
    result = a_result(read.volume_from_node(patient))
    results.add_result(result, patient, owner="A", folder="Results")
    before, total = contents(), 7
    for count in range(total + 1):
        steps = results.write_result(result, patient, owner="A", folder="Results")
        assert [next(steps) for _ in range(count)] == [True] * count
        steps.close()
        assert contents() == before, f"after {count} steps"
    assert len(list(results.write_result(result, patient, owner="A"))) == total


def test_what_others_do_between_two_steps_stays(scene, patient):
    steps = results.write_result(a_result(read.volume_from_node(patient)), patient)
    next(steps)
    others = add(name="another's")
    next(steps)
    others.SetName("renamed")
    steps.close()
    assert others.GetScene() is scene and others.GetName() == "renamed"
    assert not scene.GetNodesByName("ideal").GetNumberOfItems()


def test_a_result_is_written_on_when_one_of_its_nodes_or_its_input_is_deleted(scene, patient):
    volume = read.volume_from_node(patient)
    steps = results.write_result(a_result(volume), patient, owner="Test", folder="Results")
    name = f"ideal: {patient.GetName()}"
    while not scene.GetNodesByName(name).GetNumberOfItems():
        next(steps)
    scene.RemoveNode(scene.GetFirstNodeByName(name))
    scene.RemoveNode(patient)
    written = finish(steps)
    assert written.nodes.keys() == {"change", "errors", "loss", "facts"}
    assert scene_runs.result_nodes("Test", written.run) == written.nodes
    assert np.allclose(read.volume_from_node(written.nodes["change"]).ijk_to_ras, volume.ijk_to_ras)


def test_every_run_has_nodes_of_its_own(patient):
    result = a_result(read.volume_from_node(patient))
    runs = [results.add_result(result, patient, owner=owner, folder="Results") for owner in "AAB"]
    nodes = [node for run in runs for node in run.nodes.values()]
    assert len({node.GetID() for node in nodes}) == len({node.GetName() for node in nodes}) == 3 * 5
    assert (
        list(scene_runs.runs_of("A")) == [runs[1].run, runs[0].run]
        and scene_runs.runs_of("A")[runs[0].run] == runs[0].nodes
    )
    assert (
        scene_runs.result_nodes("B", runs[2].run) == runs[2].nodes
        and scene_runs.result_nodes("A", "") == {}
    )


@pytest.mark.parametrize("saved", [False, True])
def test_a_run_is_removed_with_all_its_nodes_and_nothing_else(
    scene, patient, tmp_path, monkeypatch, saved
):
    result = a_result(read.volume_from_node(patient))
    first = results.add_result(result, patient, owner="A", folder="Results").run
    before = contents()
    second = results.add_result(result, patient, owner="A", folder="Results").run
    assert contents() != before
    if saved:
        open_saved(scene, tmp_path, monkeypatch)
    scene_runs.remove_run("A", "")  # of no run
    assert list(scene_runs.runs_of("A")) == [second, first]
    scene_runs.remove_run("A", second)
    assert (
        list(scene_runs.runs_of("A")) == [first] and len(scene_runs.result_nodes("A", first)) == 5
    )
    if not saved:
        assert contents() == before
    scene_runs.remove_run("A", first)
    left = {node.GetClassName() for node in slicer.mrmlScene.GetNodes()}
    assert not left & {
        "vtkMRMLTableNode",
        "vtkMRMLPlotChartNode",
        "vtkMRMLPlotSeriesNode",
        "vtkMRMLTextNode",
    }
    volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    assert [node.GetName() for node in volumes] == [patient.GetName()]
    assert len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeDisplayNode")) <= 1  # the patient's
    assert (
        slicer.mrmlScene.GetSingletonNode("NetInversionDifference", "vtkMRMLColorTableNode") is None
    )


def test_what_others_put_into_a_runs_folder_stays(scene, patient):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    written = results.add_result(
        a_result(read.volume_from_node(patient)), patient, owner="A", folder="Results"
    )
    folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(written.nodes["ideal"]))
    mine = add(name="mine")
    own = hierarchy.GetItemByDataNode(mine) or hierarchy.CreateItem(folder, mine)
    hierarchy.SetItemParent(own, folder)
    scene_runs.remove_run("A", written.run)
    assert (
        mine.GetScene() is scene
        and hierarchy.GetItemName(hierarchy.GetItemParent(own)) == "Results"
    )


def test_a_result_goes_into_a_folder_beside_its_input(scene, patient):
    nodes = results.add_result(
        a_result(read.volume_from_node(patient)), patient, folder="Results"
    ).nodes
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    series = nodes["loss"].GetNthPlotSeriesNode(0)
    for node in [*nodes.values(), series, series.GetTableNode()]:
        folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node))
        assert hierarchy.GetItemName(folder) == "Results"
        assert hierarchy.GetItemName(hierarchy.GetItemParent(folder)) == "study"


def test_an_image_is_shown_as_an_earlier_one_of_its_result(patient):
    volume = read.volume_from_node(patient)
    volumes = {
        name: volume.with_array(np.full(volume.shape, high), name)
        for name, high in (("a", 3.0), ("b", 9.0))
    }
    result = Result(volumes, roles={"a": "error", "b": "error"})
    nodes = results.add_result(result, patient, {"a": "a", "b": "a"}).nodes
    assert [nodes[key].GetDisplayNode().GetWindowLevelMax() for key in "ab"] == [3, 3]
    assert (
        nodes["a"].GetDisplayNode().GetColorNodeID() == nodes["b"].GetDisplayNode().GetColorNodeID()
    )


def test_no_step_of_a_large_result_takes_long(patient):
    """Volumes of 512 x 512 x 112 and long curves are written in short steps.

    The best of three counts, since other programs may take the processor away.
    """
    array = np.random.default_rng(1).random((112, 512, 512), np.float32)
    volumes = {
        role: Volume(array, np.eye(4), role) for role in ("input", "ct", "difference", "error")
    }
    lines = {str(i): (list(range(5000)), [1.0] * 5000) for i in range(4)}
    result = Result(
        volumes,
        {"table": Table("t", {"a": list(range(5000))})},
        {"curve": Curve("c", "x", "y", lines)},
        roles={role: role for role in volumes},
    )
    longest = []
    while len(longest) < 3 and min(longest, default=1) >= 0.1:
        times = [time.perf_counter()]
        for _ in results.write_result(result, patient):
            times.append(time.perf_counter())
        longest.append(np.diff([*times, time.perf_counter()]).max())
    assert min(longest) < max(timing.limit(timing.SERVED_S), 2 * timing.copying(array))
    assert np.array_equal(
        slicer.util.arrayFromVolume(slicer.util.getNode(f"error: {patient.GetName()}")), array
    )


def test_a_failed_hardening_leaves_the_scene_as_it_was(patient, monkeypatch):
    before = contents()
    monkeypatch.setattr(write, "show_by_role", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write.harden(patient)
    assert contents() == before


@pytest.mark.parametrize("happened", ["removed", "bent", "scene closed"])
def test_results_are_not_lost_when_the_input_is_gone(scene, patient, happened):
    volume = read.volume_from_node(patient)
    if happened == "removed":
        scene.RemoveNode(patient)
    elif happened == "bent":
        bend(patient)
    else:
        scene.Clear(False)
    node = results.add_result(a_result(volume), patient).nodes["ideal"]
    assert node.GetParentTransformNode() is None
    assert np.allclose(read.volume_from_node(node).ijk_to_ras, volume.ijk_to_ras)


# ---- segments and sequences


def segmentation(segments):
    """A segmentation node of binary label maps by name, at the origin with voxels of 1 mm."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "organs")
    for name, mask in segments.items():
        image = slicer.vtkOrientedImageData()
        image.SetDimensions(*mask.shape[::-1])
        image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
        vtk_to_numpy(image.GetPointData().GetScalars())[:] = mask.ravel()
        segment = slicer.vtkSegment()
        segment.SetName(name)
        segment.AddRepresentation(
            slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName(), image
        )
        node.GetSegmentation().AddSegment(segment, name)
    return node


def test_segments_are_numbered_on_the_reference_and_those_outside_are_left_out():
    liver, nodule, far = (np.zeros((4, 5, 6), np.uint8) for _ in range(3))
    liver[1, 1:4, 1:5], nodule[1, 2, 2], far[3, 4, 5] = 1, 1, 1
    reference = Volume(np.zeros((2, 5, 6), np.float32), np.eye(4), "CT")
    labels, names = masks.segments_from_node(
        segmentation({"liver": liver, "far": far, "nodule": nodule}), reference
    )
    assert names == ("liver", "nodule") and labels.array.dtype == np.uint16
    expected = np.where(nodule, 2, liver)[:2]
    np.testing.assert_array_equal(labels.array, expected)
    with pytest.raises(VolumeError, match="organs"):
        masks.segments_from_node(segmentation({"far": far}), reference)


def test_the_values_of_a_label_map_are_segments_too():
    array = np.zeros((2, 5, 6), np.uint8)
    array[0, 1:3], array[1, 2] = 4, 9
    node = slicer.util.addVolumeFromArray(
        array, name="labels", nodeClassName="vtkMRMLLabelMapVolumeNode"
    )
    labels, names = masks.segments_from_node(
        node, Volume(np.zeros((2, 5, 6), np.float32), np.eye(4), "CT")
    )
    np.testing.assert_array_equal(labels.array, np.where(array == 4, 1, np.where(array == 9, 2, 0)))
    assert len(names) == 2
    with pytest.raises(VolumeError, match="must be a label map or a segmentation"):
        masks.segments_from_node(None, labels)


@pytest.mark.parametrize("complete", [True, False])
def test_in_german_titles_are_told_and_keys_and_headings_stay(monkeypatch, tmp_path, complete):
    """What the scene shows is German; what is read back of it, or saved as a file, is as before."""
    monkeypatch.setenv(words.VARIABLE, "de")
    wanted = Result(
        {"std proven": Volume(np.ones((2, 3, 4), np.float32), np.eye(4), "Proven SD")},
        {"error": Table("What changed", {"input": ["a"], "MAE body (HU)": [1.5], "kept": [2]})},
        {
            "convergence": Curve(
                "How far did the error fall?",
                "network evaluations",
                "error that was minimised (no unit)",
                {f"from {start}": ([1, 2], [9.0, 4.0]) for start in ("zeros", "noise 2")},
            )
        },
        facts={"complete": complete},
    )
    mine = add(name="Error, from me")
    for _run in range(2 if complete else 1):
        nodes = results.add_result(wanted, mine, None, "Owner").nodes
    end = ": Error, from me" + (" (Lauf 2)" if complete else " (unvollständig)")
    assert {key: node.GetName() for key, node in nodes.items()} == {
        "std proven": "Bewiesene SD" + end,
        "error": "Was sich geändert hat" + end,
        "convergence": "Wie weit sank der Fehler?" + end,
        "facts": "Einstellungen und Angaben" + end,
    }
    table, chart = nodes["error"], nodes["convergence"]
    names = [table.GetColumnName(column) for column in range(3)]
    assert names == ["input", "MAE body (HU)", "kept"] and table.GetUseColumnTitleAsColumnHeader()
    assert [*map(table.GetColumnTitle, names)] == ["Eingabe", "MAE Körper (HU)", "kept"]
    assert chart.GetTitle() == "Wie weit sank der Fehler?"
    assert chart.GetXAxisTitle() == "Auswertungen des Netzes"
    assert chart.GetYAxisTitle() == "minimierter Fehler (ohne Einheit)"
    lines = [chart.GetNthPlotSeriesNode(n).GetName() for n in range(2)]
    assert lines == ["Anfang: Nullen", "Anfang: noise 2"]

    store = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableStorageNode")
    store.SetFileName(str(tmp_path / "error.tsv"))
    assert store.WriteData(table)
    assert (tmp_path / "error.tsv").read_text().split("\n")[0] == "\t".join(names)
    monkeypatch.setenv(words.VARIABLE, "en")  # as when the scene is opened on another computer
    found = scene_runs.result_from_nodes(nodes)
    assert found.tables == wanted.tables and found.curves == wanted.curves
    assert found.volumes.keys() == wanted.volumes.keys() and found.facts == wanted.facts


def test_samples_become_a_sequence_with_one_shown():
    images = {
        f"{kind} {n}": Volume(
            np.full((2, 3, 4), n + 10 * (kind == "proposal"), np.float32), np.eye(4), f"{kind} {n}"
        )
        for n in (1, 2, 3)
        for kind in ("sample", "proposal")
    }
    mine = add(name="Mine")
    before = contents()
    written = results.add_result(Result(images, facts={"complete": False}), mine, None, "Owner")
    keys = {
        "samples": [f"sample {n}" for n in (1, 2, 3)],
        "proposals": [f"proposal {n}" for n in (1, 2, 3)],
    }
    titles = {"samples": "Samples", "proposals": "Proposals", "browser": "Both"}
    nodes = results.add_browser(written.nodes, keys, titles, "Owner")
    if not slicer.mrmlScene.GetClassNameByTag(
        "SequenceBrowser"
    ):  # without the module Sequences they stay volumes
        assert nodes == written.nodes
        return
    assert scene_runs.result_nodes("Owner", written.run) == nodes
    assert nodes.keys() == {
        "facts",
        "browser",
        "samples",
        "proposals",
        "sequence of samples",
        "sequence of proposals",
    }
    assert len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")) == 3  # Mine too
    for number in (3, 1, 2):
        nodes["browser"].SetSelectedItemNumber(number - 1)
        slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(nodes["browser"])
        assert [slicer.util.arrayFromVolume(nodes[key]).max() for key in keys] == [
            number,
            number + 10,
        ]
        assert all(nodes[key].GetDisplayNode().GetScene() is slicer.mrmlScene for key in keys)
    assert (
        nodes["samples"].GetName() == "Samples: Mine (incomplete)"
        and nodes["browser"].GetName() == "Both: Mine (incomplete)"
    )
    assert results.add_browser(nodes, {"samples": []}, titles, "Owner") == nodes
    scene_runs.remove_run("Owner", written.run)
    assert [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLVolumeNode")] == ["Mine"]
    assert not slicer.util.getNodesByClass("vtkMRMLSequenceNode") + slicer.util.getNodesByClass(
        "vtkMRMLSequenceBrowserNode"
    )
    assert contents() == before


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("shape", ["falls", "rises", "level"])
def test_no_line_runs_under_the_legend(log, shape):
    x = np.linspace(0, 10, 60)
    y = {"falls": np.exp(-x), "rises": np.exp(x - 10), "level": np.full(60, 0.5)}[shape] + 1e-3
    curve = Curve(
        "Which?",
        "x",
        "y",
        {"a": (x.tolist(), y.tolist()), "b": (x.tolist(), (0.9 * y).tolist())},
        log,
    )
    limits = scene_tables.room_for_legend(curve)
    if shape == "falls" and log:
        assert limits is None or limits[1] > y.max()
    low, high = limits or (0.9 * y.min(), y.max())
    scale = np.log10 if log else np.asarray
    beside = (scale(y[x >= 5.1].max()) - scale(low)) / (scale(high) - scale(low))
    assert beside <= 1 - 0.05 - 0.08 * 2 + 1e-6 and high >= y.max() * (1 - 1e-9)


def test_lines_differ_in_dashes_and_markers_and_not_only_in_colour(scene):
    few, many = [1.0, 2.0, 3.0], np.linspace(0, 1, 200).tolist()
    for x in (few, many):
        _chart, series, _tables = scene_tables.curve_to_nodes(
            Curve("Which?", "x", "y", {str(n): (x, x) for n in range(4)})
        )
        assert len({node.GetLineStyle() for node in series}) == 4
        assert len({node.GetMarkerStyle() for node in series}) == (4 if x is few else 1)
    chart, *_ = scene_tables.curve_to_nodes(Curve("One line", "x", "y", {"only": (few, few)}))
    assert not chart.GetLegendVisibility()
