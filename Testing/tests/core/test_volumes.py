"""Volumes: refusals, exact reorientation and cropping, resampling, and files.

Resampling is compared with analytic fields, files with nibabel.
"""

import os
from itertools import permutations, product

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from strategies import VTK_TYPES, finite, matrices, ramp, volumes, world

from NetInversionLib.core import files
from NetInversionLib.core import volumes as core_volumes
from NetInversionLib.core.volumes import Volume, VolumeError

CODES = ["".join(code) for axes in permutations(("RL", "AP", "SI")) for code in product(*axes)]
few = settings(deadline=None, max_examples=60)


def simple(array=None, matrix=None, name="image"):
    return Volume(
        np.zeros((3, 4, 5)) if array is None else array,
        np.eye(4) if matrix is None else matrix,
        name,
    )


# ------------------------------------------------------------------------------------------- checks


@pytest.mark.parametrize(
    "array, says",
    [
        (np.zeros((0, 4, 5)), "empty.*Choose"),
        (np.zeros((2, 3, 4, 5)), "4 dimensions.*Choose one time point"),
        (np.zeros((4, 5)), "2 dimensions"),
        (np.zeros((2, 2, 2), complex), "complex128.*magnitude"),
        (np.full((2, 2, 2), "a"), "real numbers"),
        (np.array([[[1, np.nan, np.inf, -np.inf]]]), "3 of 4 voxels.*Replace"),
    ],
)
def test_check_refuses_arrays_that_no_algorithm_can_use(array, says):
    with pytest.raises(VolumeError, match=f"(?s)'image'.*{says}"):
        core_volumes.check(simple(array))


@pytest.mark.parametrize(
    "matrix",
    [
        np.diag([1, 1, 0, 1.0]),
        np.eye(3),
        np.full((4, 4), np.nan),
        np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
    ],
)
def test_check_refuses_geometry_that_cannot_be_inverted(matrix):
    with pytest.raises(VolumeError, match="cannot be inverted"):
        core_volumes.check(simple(matrix=matrix))


@pytest.mark.parametrize("kind", [*VTK_TYPES, "bool", "int64", "uint64", "float16", ">i2"])
def test_check_takes_every_real_type_and_one_slice(kind):
    volume = simple(np.ones((1, 4, 5), kind))
    assert core_volumes.check(volume) is volume
    array = volume.float32()
    assert array.dtype == np.float32 and array.flags.c_contiguous and (array == 1).all()


def test_float32_is_a_copy_and_refuses_what_single_precision_cannot_hold():
    volume = simple(np.ones((1, 1, 2), np.float32))
    volume.float32()[:] = 7
    assert (volume.array == 1).all()
    with pytest.raises(VolumeError, match="1 of 2 voxels"):
        simple(np.array([[[1.0, 1e300]]])).float32()


def test_with_array_refuses_another_shape():
    with pytest.raises(VolumeError, match="does not fit"):
        simple().with_array(np.zeros((3, 4, 4)))


# --------------------------------------------------------------------------------- axes and regions


@few
@given(volumes(), st.sampled_from(CODES))
def test_reorient_moves_no_voxel_and_its_inverse_gives_the_same_bytes(volume, code):
    numbered = volume.with_array(np.arange(volume.array.size).reshape(volume.shape))
    turned = core_volumes.reorient(numbered, code)
    # Every number is where it was.
    k, j, i = np.unravel_index(turned.array, volume.shape)
    assert np.allclose(world(turned, *np.indices(turned.shape)), world(volume, k, j, i), atol=1e-9)
    back = core_volumes.reorient_like(core_volumes.reorient(volume, code), volume)
    assert back.array.dtype == volume.array.dtype and back.array.tobytes() == volume.array.tobytes()
    assert back.ijk_to_ras.tobytes() == volume.ijk_to_ras.tobytes()


@few
@given(matrices(tilt=20), st.sampled_from(CODES), st.sampled_from(CODES))
def test_orientation_agrees_with_nibabel(matrix, start, code):
    array = np.arange(24).reshape(2, 3, 4)
    volume = core_volumes.reorient(simple(array, matrix), start)
    assert core_volumes.orientation(volume) == "".join(nibabel.aff2axcodes(volume.ijk_to_ras))
    image = nibabel.Nifti1Image(volume.array.T.astype(np.int32), volume.ijk_to_ras)
    change = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(code)
    )
    expected, turned = image.as_reoriented(change), core_volumes.reorient(volume, code)
    assert np.array_equal(turned.array, np.asarray(expected.dataobj).T)
    assert np.allclose(turned.ijk_to_ras, expected.affine, atol=1e-9)
    assert core_volumes.orientation(turned) == code


def test_axis_toward_names_array_axis_and_sense():
    volume = core_volumes.reorient(simple(), "LPS")
    assert [core_volumes.axis_toward(volume, d) for d in "SIPALR"] == [
        (0, 1),
        (0, -1),
        (1, 1),
        (1, -1),
        (2, 1),
        (2, -1),
    ]
    assert core_volumes.axis_toward(core_volumes.reorient(simple(), "SRA"), "S") == (2, 1)


def test_reorient_like_refuses_other_grids():
    for other in (simple(np.zeros((3, 4, 6))), simple(matrix=np.diag([1, 1, 1.1, 1]))):
        with pytest.raises(VolumeError, match="same voxels"):
            core_volumes.reorient_like(simple(), other)


@few
@given(volumes(shapes=st.tuples(*[st.integers(2, 6)] * 3)), st.data())
def test_crop_keeps_values_where_they_were(volume, data):
    bounds = [
        sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True)))
        for n in volume.shape
    ]
    region = tuple(bound for pair in bounds for bound in pair)
    part = core_volumes.crop(volume, region)
    k, j, i = np.indices(part.shape)
    k0, j0, i0 = region[::2]
    assert np.allclose(world(part, k, j, i), world(volume, k + k0, j + j0, i + i0), atol=1e-9)
    assert (
        part.array.tobytes()
        == volume.array[k0 : region[1], j0 : region[3], i0 : region[5]].tobytes()
    )


@pytest.mark.parametrize("region", [(0, 4, 0, 4, 0, 5), (-1, 2, 0, 4, 0, 5), (1, 1, 0, 4, 0, 5)])
def test_crop_refuses_empty_and_outside(region):
    with pytest.raises(VolumeError, match="Place the region"):
        core_volumes.crop(simple(), region)


@few
@given(matrices(), st.data())
def test_region_is_the_smallest_that_holds_the_points(matrix, data):
    volume = simple(np.zeros((6, 7, 8)), matrix)
    inside = st.tuples(finite(-0.49, 7.49), finite(-0.49, 6.49), finite(-0.49, 5.49))
    ijk = np.array(data.draw(st.lists(inside, min_size=1, max_size=5)))
    assume(
        np.abs(np.abs(ijk % 1 - 0.5)).min() > 1e-4
    )  # not on a face between two voxels: either would do there
    region = core_volumes.region_from_ras_points(volume, ijk @ matrix[:3, :3].T + matrix[:3, 3])
    nearest = np.rint(ijk).astype(int)[:, ::-1]
    assert region == tuple(
        int(x) for pair in zip(nearest.min(axis=0), nearest.max(axis=0) + 1) for x in pair
    )


def test_region_from_box_takes_whole_voxels_and_stops_at_the_border():
    volume = simple(np.zeros((10, 10, 10)), np.diag([-2.0, -2.0, 3.0, 1.0]))
    faces = (-2 * 5.5, -2 * 7.5, 3 * 2.5), (-2 * 1.5, -2 * 3.5, 3 * 4.5)
    assert core_volumes.region_from_ras_box(volume, *faces) == (3, 5, 4, 8, 2, 6)
    assert core_volumes.region_from_ras_box(volume, (-1e3,) * 3, (1e3,) * 3) == (
        0,
        10,
        0,
        10,
        0,
        10,
    )
    assert core_volumes.region_from_ras_box(volume, (-4.1, -4.1, 6), (-4.1, -4.1, 6)) == (
        2,
        3,
        2,
        3,
        2,
        3,
    )
    with pytest.raises(VolumeError, match="outside"):
        core_volumes.region_from_ras_box(volume, (2, 2, 2), (9, 9, 9))


# --------------------------------------------------------------------------------------- resampling


@few
@given(
    matrices(spacing=(0.5, 3), reach=5),
    matrices(spacing=(0.5, 3), reach=5),
    st.tuples(*[finite(-3, 3)] * 3),
    st.tuples(*[st.integers(2, 9)] * 3),
)
def test_linear_resampling_of_a_linear_field_is_exact_inside(source, target, slope, shape):
    field, grid = ramp(source, shape, slope, 40.0), ramp(target, (5, 6, 7), slope, 40.0)
    index = np.linalg.inv(source)[:3] @ np.concatenate(
        [world(grid, *np.indices(grid.shape)).reshape(-1, 3).T, np.ones((1, grid.array.size))]
    )
    border = np.array(shape[::-1])[:, None] - 1
    inside = ((index > 1e-6) & (index < border - 1e-6)).all(axis=0).reshape(grid.shape)
    outside = (
        ((index < -0.5 - 1e-6) | (index > border + 0.5 + 1e-6)).any(axis=0).reshape(grid.shape)
    )
    assume(inside.any())
    moved = core_volumes.resample(field, grid, fill=-1e4)
    assert moved.array.dtype == np.float64 and moved.ijk_to_ras is grid.ijk_to_ras
    scale = 1 + np.abs(field.array).max()
    assert np.abs(moved.array - grid.array)[inside].max() < 1e-6 * scale
    assert (moved.array[outside] == -1e4).all()


@few
@given(
    volumes(types=("uint8", "int16", "float32"), matrix=matrices(tilt=40)),
    st.sampled_from(CODES),
    st.sampled_from(["nearest", "linear"]),
)
def test_resampling_onto_the_same_voxels_in_another_order_changes_no_value(volume, code, order):
    reference = core_volumes.reorient(volume.with_array(np.zeros(volume.shape)), code)
    expected = core_volumes.reorient(volume, code).array
    scale = 1e-5 * float(1 + np.abs(expected.astype(float)).max()) if order != "nearest" else 0
    assert (
        np.abs(core_volumes.resample(volume, reference, order).array.astype(float) - expected).max()
        <= scale
    )


def test_a_mask_does_not_spread_beyond_its_grid():
    whole = simple(np.ones((3, 4, 5), bool))
    shifted = np.eye(4)
    shifted[0, 3] = 3
    assert (
        core_volumes.resample(whole, simple(matrix=shifted), "nearest").array.tolist()
        == [[[True, True] + [False] * 3] * 4] * 3
    )


def test_resampling_onto_the_same_grid_gives_the_same_values_back():
    volume = simple(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    assert core_volumes.resample(volume, simple()).array is volume.array


@pytest.mark.parametrize(
    "kind, order, expected",
    [
        ("int16", "nearest", "int16"),
        ("int16", "linear", "float32"),
        ("float32", "linear", "float32"),
        ("int32", "linear", "float64"),
        ("bool", "nearest", "bool"),
        ("float16", "linear", "float32"),
    ],
)
def test_resampled_types_and_default_fill(kind, order, expected):
    array = np.ones((3, 4, 5), kind)
    array[1, 1, 1] = 0
    shifted = np.eye(4)
    shifted[0, 3] = 3
    moved = core_volumes.resample(simple(array), simple(matrix=shifted), order)
    assert moved.array.dtype == expected
    assert (moved.array[:, :, -1] == 0).all() and np.allclose(moved.array[:, :, 0], 1)


@few
@given(matrices(spacing=(1, 3), reach=8), matrices(spacing=(1, 3), reach=8))
def test_overlap_is_the_share_of_reference_voxels_inside(source, target):
    volume, reference = simple(np.zeros((6, 5, 4)), source), simple(np.zeros((7, 8, 9)), target)
    index = (
        np.linalg.inv(source)[:3]
        @ np.c_[world(reference, *np.indices((7, 8, 9))).reshape(-1, 3), np.ones(504)].T
    )
    low, high = index + 0.5, index - np.array([[3.5], [4.5], [5.5]])
    assume(min(np.abs(low).min(), np.abs(high).min()) > 1e-4)  # no centre on a face
    inside = ((low > 0) & (high < 0)).all(axis=0)
    assert abs(core_volumes.overlap_fraction(volume, reference) - inside.mean()) < 1e-9


def test_no_overlap_is_zero_and_refused_and_a_small_part_of_a_large_grid_is_found():
    far = np.eye(4)
    far[:3, 3] = 1000
    assert core_volumes.overlap_fraction(simple(matrix=far), simple()) == 0
    with pytest.raises(VolumeError, match="do not overlap.*same patient"):
        core_volumes.resample(simple(matrix=far, name="target"), simple())
    small = np.eye(4)
    small[:3, 3] = 101
    large = simple(np.zeros((300, 300, 300), np.uint8))
    assert core_volumes.overlap_fraction(
        simple(np.zeros((2, 2, 2)), small), large
    ) == pytest.approx(8 / 300**3)


def test_same_grid_tolerates_a_hundredth_of_a_voxel_at_the_corners():
    nudged = np.eye(4)
    nudged[0, 3] = 0.009
    assert core_volumes.same_grid(simple(), simple(matrix=nudged))
    nudged[0, 3] = 0.011
    assert not core_volumes.same_grid(simple(), simple(matrix=nudged))
    assert not core_volumes.same_grid(simple(), simple(np.zeros((3, 4, 6))))


# -------------------------------------------------------------------------------------------- files


@settings(deadline=None, max_examples=40)
@given(
    volume=volumes(types=(*VTK_TYPES, "int64", "uint64")), suffix=st.sampled_from(files.SUFFIXES)
)
def test_files_give_back_the_same_values_in_the_same_place(tmp_path_factory, volume, suffix):
    path = files.save(volume, tmp_path_factory.mktemp("files") / f"some.image{suffix}")
    assert os.listdir(path.parent) == [path.name]
    back = files.load(path)
    assert back.name == "some.image" and back.array.dtype == volume.array.dtype
    assert back.array.tobytes() == volume.array.tobytes()
    single = (
        2e-5 if suffix.startswith(".nii") else 1e-9
    )  # NIfTI keeps its matrix in single precision
    assert np.allclose(back.ijk_to_ras, volume.ijk_to_ras, rtol=single, atol=single * 20)
    if suffix.startswith(".nii"):  # an independent reader agrees
        image = nibabel.load(path)
        assert np.array_equal(np.asarray(image.dataobj).T, volume.array)
        assert np.allclose(image.affine, volume.ijk_to_ras, rtol=single, atol=single * 20)


@settings(deadline=None, max_examples=15)
@given(matrix=matrices(tilt=40), code=st.sampled_from(CODES))
def test_nifti_of_another_writer_is_read_as_nibabel_reads_it(tmp_path_factory, matrix, code):
    affine = core_volumes.reorient(simple(matrix=matrix), code).ijk_to_ras
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_slope_inter(0.5, -1024)
    path = tmp_path_factory.mktemp("files") / "other.nii.gz"
    nibabel.save(image, path)
    volume, image = files.load(path), nibabel.load(path)
    assert np.allclose(volume.array, image.get_fdata().T, atol=1e-3)
    assert np.allclose(volume.ijk_to_ras, image.affine, atol=2e-3)


def test_real_files_are_read_as_nibabel_reads_them(data):
    one_of_each = {path.parent: path for path in sorted(data.rglob("*.nii.gz"))}
    for path in (*one_of_each.values(), data / "brain_t1" / "site_a" / "sub-21.nii.gz"):
        volume, image = files.load(path), nibabel.load(path)
        # Slicer and ITK believe a scanner's qform before an sform that leads elsewhere; nibabel
        # always the sform.
        scanner = image.header["sform_code"] == 1 or image.header["qform_code"] == 0
        assert np.allclose(
            volume.ijk_to_ras, image.get_sform() if scanner else image.get_qform(), atol=1e-3
        ), path
        thin = (slice(None, None, 5),) * 3
        assert np.allclose(volume.array[thin], np.asarray(image.dataobj).T[thin], rtol=1e-6), path


def test_axes_that_are_not_at_right_angles(tmp_path):
    sheared = np.diag([1.0, 2.0, 3.0, 1.0])
    sheared[0, 1] = 0.5
    volume = simple(matrix=sheared)
    for suffix in (".nrrd", ".mha"):
        assert np.allclose(
            files.load(files.save(volume, tmp_path / f"a{suffix}")).ijk_to_ras, sheared
        )
    with pytest.raises(VolumeError, match="right angles.*nrrd"):
        files.save(volume, tmp_path / "b.nii.gz")
    assert not list(tmp_path.glob("*b*"))
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5), np.float32), sheared), tmp_path / "c.nii")
    with pytest.raises(VolumeError, match="right angles"):
        files.load(tmp_path / "c.nii")


def test_files_that_hold_no_scalar_volume_are_refused(tmp_path):
    nibabel.save(
        nibabel.Nifti1Image(np.zeros((4, 5, 6, 2), np.float32), np.eye(4)),
        tmp_path / "series.nii.gz",
    )
    sitk.WriteImage(sitk.Image([4, 5, 6], sitk.sitkVectorUInt8, 3), str(tmp_path / "rgb.nrrd"))
    sitk.WriteImage(sitk.Image([4, 5], sitk.sitkUInt8), str(tmp_path / "flat.mha"))
    (tmp_path / "text.nrrd").write_text("not an image")
    for name, says in {
        "series.nii.gz": "4 dimensions.*time point",
        "rgb.nrrd": "3 values per voxel.*component",
        "flat.mha": "2 dimensions",
        "text.nrrd": "complete",
        "absent.nii": "no file",
    }.items():
        with pytest.raises(VolumeError, match=says):
            files.load(tmp_path / name)


@pytest.mark.parametrize("suffix", files.SUFFIXES)
@pytest.mark.parametrize("left", [0, 0.1, 0.5, 0.999])
def test_truncated_files_are_refused(tmp_path, suffix, left):
    path = files.save(simple(np.random.default_rng(0).random((9, 9, 9))), tmp_path / f"cut{suffix}")
    path.write_bytes(path.read_bytes()[: int(left * path.stat().st_size)])
    with pytest.raises(VolumeError, match="complete"):
        files.load(path)


def test_nifti_with_a_fourth_axis_of_length_one_is_three_dimensional(tmp_path):
    nibabel.save(
        nibabel.Nifti1Image(np.zeros((4, 5, 6, 1), np.float32), np.eye(4)), tmp_path / "a.nii"
    )
    assert files.load(tmp_path / "a.nii").shape == (6, 5, 4)


def test_save_refuses_and_leaves_nothing_behind(tmp_path, monkeypatch):
    with pytest.raises(VolumeError, match="use one of .nii.gz"):
        files.save(simple(), tmp_path / "image.png")
    with pytest.raises(VolumeError, match="cannot be written"):
        files.save(simple(), tmp_path / "no_such_folder" / "a.nrrd")
    good = files.save(simple(np.ones((2, 2, 2))), tmp_path / "a.nrrd").read_bytes()

    def disk_full(image, path, **_):
        with open(path, "wb") as file:
            file.write(good[:20])
        raise RuntimeError("ITK ERROR\nNo space left on device")

    monkeypatch.setattr(sitk, "WriteImage", disk_full)
    with pytest.raises(VolumeError, match="disk not full.*No space left"):
        files.save(simple(), tmp_path / "a.nrrd")
    assert os.listdir(tmp_path) == ["a.nrrd"] and (tmp_path / "a.nrrd").read_bytes() == good


def dicom_slice(
    folder, number, stored, position, slope=1.0, intercept=-1024.0, series="1.2.3", modality="CT"
):
    """One CT slice file with pixels of 0.5 x 0.75 mm.

    ``stored`` is (rows, columns) uint16, ``position`` its LPS corner.
    """
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.Modality, data.SeriesInstanceUID, data.StudyInstanceUID, data.InstanceNumber = (
        modality,
        series,
        "1.2",
        number,
    )
    data.Rows, data.Columns = stored.shape
    data.PixelSpacing, data.SliceThickness = [0.75, 0.5], 3
    data.ImageOrientationPatient, data.ImagePositionPatient = (
        [1, 0, 0, 0, 1, 0],
        [float(x) for x in position],
    )
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = (
        1,
        "MONOCHROME2",
        0,
    )
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.RescaleSlope, data.RescaleIntercept = slope, intercept
    data.PixelData = stored.astype("<u2").tobytes()
    data.save_as(folder / f"{number}.dcm", enforce_file_format=True)


@pytest.fixture
def stored():
    return np.random.default_rng(3).integers(0, 4096, (4, 5, 6))


@pytest.mark.parametrize(
    "slopes, intercept", [([1, 1, 1, 1], -1024), ([0.5] * 4, -1024), ([1, 2.5, 0.125, 4], 3)]
)
def test_dicom_series_comes_in_exact_hounsfield_units(tmp_path, stored, slopes, intercept):
    for k in (2, 0, 3, 1):  # file order is not slice order
        dicom_slice(tmp_path, 9 - k, stored[k], (-10, -20, 30 + 3 * k), slopes[k], intercept)
    volume = files.load(tmp_path)
    assert np.array_equal(volume.array, stored * np.array(slopes)[:, None, None] + intercept)
    assert np.allclose(
        volume.ijk_to_ras, [[-0.5, 0, 0, 10], [0, -0.75, 0, 20], [0, 0, 3, 30], [0, 0, 0, 1]]
    )
    assert volume.units == "HU" and volume.name == tmp_path.name


def test_dicom_with_a_tilted_gantry_keeps_its_slant(tmp_path, stored):
    for k in range(4):
        dicom_slice(tmp_path, k, stored[k], (0, -0.8 * k, 3 * k))
    assert np.allclose(files.load(tmp_path).ijk_to_ras[:3, 2], (0, 0.8, 3))


def test_dicom_of_one_slice_and_of_mr(tmp_path, stored):
    dicom_slice(tmp_path, 1, stored[0], (1, 2, 3), intercept=0, modality="MR")
    volume = files.load(tmp_path)
    assert (
        volume.shape == (1, 5, 6)
        and volume.units == ""
        and np.array_equal(volume.array[0], stored[0])
    )
    assert np.allclose(volume.ijk_to_ras[:3, 3], (-1, -2, 3))


def test_dicom_folders_that_are_not_one_whole_series_are_refused(tmp_path, stored):
    with pytest.raises(VolumeError, match="no DICOM images"):
        files.load(tmp_path)
    for k in (0, 1, 3):
        dicom_slice(tmp_path, k, stored[k], (0, 0, 3 * k))
    with pytest.raises(VolumeError, match="missing"):
        files.load(tmp_path)
    dicom_slice(tmp_path, 2, stored[2], (0, 0, 6), series="1.2.4")
    with pytest.raises(VolumeError, match="2 DICOM series.*1.2.4"):
        files.load(tmp_path)
