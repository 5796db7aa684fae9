"""NIfTI: every field by the standard's rule, beside nibabel; contradictions refused or said."""

import gzip
import os

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import little_memory, nifti, patched, require_whole_or_refused
from strategies import matrices

from NetInversionLib.core import files
from NetInversionLib.core.volumes import VolumeError

few = settings(deadline=None, max_examples=40)
VOX_OFFSET, PIXDIM, SLOPE, UNITS, CODES = 108, 76, 112, 123, 252
ARRAY = np.arange(60, dtype=np.int16).reshape(3, 4, 5)


def read_beside_nibabel(path):
    volume, image = files.load(path), nibabel.load(path)
    assert np.array_equal(volume.array, np.asarray(image.dataobj).T)
    return volume, image


@few
@given(sizes=st.tuples(*[st.floats(-9, 9, width=32) | st.just(0.0)] * 3), q=st.sampled_from([0, 1]))
def test_voxel_sizes_that_contradict_the_sform_never_move_the_image(tmp_path_factory, sizes, q):
    path = nifti(tmp_path_factory.mktemp("nifti") / "p.nii", s=2, q=q)
    path = patched(path, PIXDIM + 4, "<fff", *sizes)
    assert np.allclose(files.load(path).ijk_to_ras, np.diag([-1, -2, 3, 1]))


@few
@given(matrix=matrices(), signs=st.tuples(*[st.sampled_from([-1, 1])] * 3))
def test_with_a_qform_alone_sizes_count_without_their_sign(tmp_path_factory, matrix, signs):
    path = nifti(tmp_path_factory.mktemp("nifti") / "q.nii", affine=matrix, s=0, q=1)
    sizes = nibabel.load(path).header["pixdim"][1:4]
    patched(path, PIXDIM + 4, "<fff", *(sizes * signs))
    assert np.allclose(files.load(path).ijk_to_ras, matrix, atol=5e-3)


@pytest.mark.parametrize("sizes", [(0, 2, 3), (1, float("nan"), 3), (1, 2, float("inf"))])
def test_a_qform_without_sizes_is_refused(tmp_path, sizes):
    with pytest.raises(VolumeError, match="contradicts.*standard"):
        files.load(patched(nifti(tmp_path / "q.nii", s=0, q=1), PIXDIM + 4, "<fff", *sizes))


@few
@given(
    slope=st.sampled_from([0.0, float("nan"), float("inf"), 1.0, 2.0, 0.5, -1.0]),
    inter=st.sampled_from([0.0, 5.0, -1024.0, 0.25]),
)
def test_values_are_scaled_as_the_standard_says(tmp_path_factory, slope, inter):
    path = nifti(tmp_path_factory.mktemp("nifti") / "s.nii")
    patched(path, SLOPE, "<ff", slope, inter)
    usable = np.isfinite(slope) and slope != 0
    expected = ARRAY * slope + inter if usable else ARRAY
    assert np.array_equal(files.load(path).array, expected.T)
    if usable or np.isnan(slope) or slope == 0:
        assert np.array_equal(np.asarray(nibabel.load(path).dataobj).T, expected.T)


def test_a_slope_with_an_intercept_that_is_no_number_is_refused(tmp_path):
    with pytest.raises(VolumeError, match="scl_inter"):
        files.load(patched(nifti(tmp_path / "s.nii"), SLOPE, "<ff", 1, float("nan")))


@pytest.mark.parametrize("offset", [0, 348, 16])
def test_voxels_of_a_single_file_never_begin_inside_its_header(tmp_path, offset, caplog):
    path = patched(nifti(tmp_path / "o.nii"), VOX_OFFSET, "<f", offset)
    assert np.array_equal(files.load(path).array, ARRAY.T)
    assert "begin at byte 352" in caplog.text


@pytest.mark.parametrize("offset", [353, 354, 400, 352.5, -1, float("nan"), 3e38])
def test_an_offset_that_the_files_size_contradicts_is_refused(tmp_path, offset):
    with pytest.raises(VolumeError, match="complete|contradicts"):
        files.load(patched(nifti(tmp_path / "o.nii"), VOX_OFFSET, "<f", offset))


def test_without_a_form_axes_are_those_of_method_1_and_this_is_said(tmp_path, caplog):
    path = nifti(tmp_path / "n.nii", q=0, s=0)
    patched(path, CODES, "<hh", 0, 0)
    assert np.allclose(files.load(path).ijk_to_ras, np.diag([1, 2, 3, 1]))
    assert "does not say where it lies" in caplog.text


@pytest.mark.parametrize("code", [-1, 6, 300])
def test_form_codes_that_the_standard_does_not_have_are_refused(tmp_path, code):
    for place in (CODES, CODES + 2):
        with pytest.raises(VolumeError, match="form_code"):
            files.load(patched(nifti(tmp_path / "c.nii"), place, "<h", code))


@few
@given(matrix=matrices(), q=st.integers(-2, 8), s=st.integers(-2, 8))
def test_any_two_form_codes_place_the_image_by_the_standard_or_are_refused(
    tmp_path_factory, matrix, q, s
):
    path = nifti(tmp_path_factory.mktemp("nifti") / "f.nii", affine=matrix, q=1, s=1)
    patched(path, CODES, "<hh", q, s)
    if min(q, s) < 0 or max(q, s) > 5:
        with pytest.raises(VolumeError, match="form_code"):
            files.load(path)
        return
    sizes = np.linalg.norm(matrix[:3, :3], axis=0)
    expected = matrix if q or s else np.diag([*sizes, 1])
    assert np.allclose(files.load(path).ijk_to_ras, expected, rtol=1e-4, atol=5e-3)


@few
@given(
    offset=st.sampled_from([0.0, 352.0, 368.0, 384.0])
    | st.integers(-20, 500).map(float)
    | st.floats(-400, 500, width=32),
    between=st.sampled_from([0, 16, 32]),
    packed=st.booleans(),
)
def test_the_voxels_begin_where_they_lie_or_the_file_is_refused(
    tmp_path_factory, offset, between, packed
):
    path = patched(nifti(tmp_path_factory.mktemp("nifti") / "o.nii"), VOX_OFFSET, "<f", offset)
    whole = path.read_bytes()
    whole = whole[:352] + b"\7" * between + whole[352:]
    path.write_bytes(gzip.compress(whole) if packed else whole)
    there = float(offset).is_integer() and max(offset, 352) == 352 + between and offset >= 0
    if there:
        assert np.array_equal(files.load(path).array, ARRAY.T)
        return
    with pytest.raises(VolumeError, match="complete|contradicts"):
        files.load(path)


@pytest.mark.parametrize("q, s, taken", [(1, 2, "qform"), (1, 1, "sform"), (2, 4, "qform")])
def test_of_two_forms_that_differ_slicers_is_taken_and_said(tmp_path, q, s, taken, caplog):
    image = nibabel.Nifti1Image(ARRAY, np.eye(4))
    first, second = np.diag([-1.0, 2, 3, 1]), np.diag([1.0, -2, 3, 1])
    first[0, 3] = 40
    image.set_qform(first, q)
    image.set_sform(second, s)
    nibabel.save(image, tmp_path / "two.nii")
    volume = files.load(tmp_path / "two.nii")
    assert np.allclose(volume.ijk_to_ras, first if taken == "qform" else second)
    assert f"the {taken} is taken" in caplog.text


@pytest.mark.parametrize("unit, scale", [(0, 1), (2, 1), (10, 1), (1, 1000), (3, 0.001)])
def test_matrices_in_metres_or_microns_become_millimetres(tmp_path, unit, scale):
    path = patched(nifti(tmp_path / "u.nii"), UNITS, "<B", unit)
    expected = np.diag([-scale, -2 * scale, 3 * scale, 1])
    assert np.allclose(files.load(path).ijk_to_ras, expected)


@pytest.mark.parametrize(
    "place, layout, value, says",
    [
        (0, "<i", 347, "no complete NIfTI"),
        (40, "<h", 0, "dim"),
        (40, "<h", 9, "dim"),
        (42, "<h", -3, "dim"),
        (42, "<h", 4, "not complete"),
        (42, "<h", 2, "more are there"),
        (40, "<h", 2, "2 dimensions"),
        (70, "<h", 16, "bits"),
        (70, "<h", 512, "^(?!.*contradicts)"),
        (70, "<h", 3, "no type of values"),
        (70, "<h", 128, "no scalar image"),
        (70, "<h", 32, "no scalar image"),
        (72, "<h", 8, "bits"),
        (123, "<B", 7, "xyzt_units"),
        (344, "<4s", b"ni1\0", "pair"),
        (344, "<4s", b"n+2\0", "standard"),
        (344, "<4s", b"\0\0\0\0", "Analyze"),
        (280, "<f", float("nan"), "sform"),
        (280, "<ffff", (0, 0, 0, 0), "sform|right angles"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(tmp_path, place, layout, value, says):
    values = value if isinstance(value, tuple) else (value,)
    path = patched(nifti(tmp_path / "x.nii"), place, layout, *values)
    if says.startswith("^"):  # 512 is uint16: as many bits, so nothing contradicts it
        assert files.load(path).array.dtype == np.uint16
        return
    with pytest.raises(VolumeError, match=says):
        files.load(path)


@few
@given(
    kind=st.sampled_from(
        [nibabel.Nifti1Image, nibabel.Nifti2Image, nibabel.Nifti1Pair, nibabel.Nifti2Pair]
    ),
    order=st.sampled_from("<>"),
    ending=st.sampled_from([".nii", ".nii.gz", ".Nii.Gz", ".NII"]),
    matrix=matrices(),
)
def test_every_kind_of_nifti_is_read_as_nibabel_reads_it(
    tmp_path_factory, kind, order, ending, matrix
):
    folder = tmp_path_factory.mktemp("kinds")
    header = kind.header_class(endianness=order)
    header.set_data_dtype(np.int16)
    image = kind(ARRAY.astype(order + "i2"), matrix, header)
    pair = "Pair" in kind.__name__
    name = "a.img" + (".gz" if ending.lower().endswith("gz") else "") if pair else "a" + ending
    nibabel.save(image, folder / name.lower())
    (folder / name.lower()).rename(folder / name)
    paths = sorted(folder.iterdir()) if pair else [folder / name]
    for path in paths:
        volume = files.load(path)
        assert volume.name == "a" and volume.array.dtype == np.int16
        assert np.array_equal(volume.array, ARRAY.T)
        assert np.allclose(volume.ijk_to_ras, matrix, rtol=1e-5, atol=2e-4)


def test_a_file_of_a_pair_without_the_other_is_refused_by_name(tmp_path):
    nibabel.save(nibabel.Nifti1Pair(ARRAY, np.eye(4)), tmp_path / "a.img")
    (tmp_path / "a.img").unlink()
    with pytest.raises(VolumeError, match="a.img is not beside it"):
        files.load(tmp_path / "a.hdr")


@few
@given(behind=st.binary(min_size=1, max_size=300))
def test_bytes_behind_a_gzip_stream_change_nothing(tmp_path_factory, behind):
    path = nifti(tmp_path_factory.mktemp("gzip") / "t.nii.gz")
    path.write_bytes(path.read_bytes() + behind)
    try:
        assert np.array_equal(files.load(path).array, ARRAY.T)
    except VolumeError as error:  # bytes that begin as another gzip stream does
        assert behind.startswith(b"\x1f\x8b") and "complete" in str(error)


def test_a_file_of_several_gzip_streams_is_one_file(tmp_path):
    path = nifti(tmp_path / "m.nii")
    whole = path.read_bytes()
    pieces = (whole[:100], whole[100:360], whole[360:])
    packed = tmp_path / "m.nii.gz"
    packed.write_bytes(b"".join(map(gzip.compress, pieces)))
    assert np.array_equal(files.load(packed).array, ARRAY.T)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_what_packs_a_file_is_told_by_its_bytes(tmp_path, name):
    whole = nifti(tmp_path / "b.nii").read_bytes()
    (tmp_path / name).write_bytes(whole if name.endswith("gz") else gzip.compress(whole))
    assert np.array_equal(files.load(tmp_path / name).array, ARRAY.T)


def test_a_small_file_cannot_ask_for_memory(tmp_path):
    path = patched(nifti(tmp_path / "big.nii"), 42, "<hhh", 1290, 1290, 1290)
    packed = tmp_path / "big.nii.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with little_memory():
        for big in (path, packed):
            with pytest.raises(VolumeError, match="not complete"):
                files.load(big)


SIZES = st.sampled_from([1, 2, 3, 4, 5, 12, 20, 60]) | st.integers(1, 32767)


@few
@given(sizes=st.tuples(SIZES, SIZES, SIZES) | st.permutations([3, 4, 5]), packed=st.booleans())
def test_sizes_are_those_of_the_data_or_refused_before_memory_is_taken(
    tmp_path_factory, sizes, packed
):
    path = patched(nifti(tmp_path_factory.mktemp("sizes") / "s.nii"), 42, "<hhh", *sizes)
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    require_whole_or_refused(path, sizes, ARRAY.T)


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_a_name_that_is_not_utf8_is_read_or_refused_but_never_kills(tmp_path):
    whole = nifti(tmp_path / "a.nii").read_bytes()
    path = tmp_path / os.fsdecode(b"caf\xe9.nii")
    path.write_bytes(whole)
    assert np.array_equal(files.load(path).array, ARRAY.T)
    with pytest.raises(VolumeError, match="UTF-8"):
        files.save(files.load(path), tmp_path / os.fsdecode(b"na\xefve.nrrd"))
