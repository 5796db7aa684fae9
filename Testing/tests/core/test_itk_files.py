"""NRRD and MetaImage: valid files are read, headers are compared with what ITK gave."""

import gzip
import os

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import nifti
from strategies import volumes

from NetInversionLib.core import files
from NetInversionLib.core.volumes import VolumeError, to_image

few = settings(deadline=None, max_examples=40)
ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd")
ARRAY = np.arange(60, dtype=np.int16).reshape(5, 4, 3)


@few
@given(
    volume=volumes(types=("int8", "uint8", "int16", "uint16", "int32", "float32", "float64")),
    ending=st.sampled_from(ENDINGS),
    packed=st.booleans(),
)
def test_what_itk_writes_is_read_exactly(tmp_path_factory, volume, ending, packed):
    path = tmp_path_factory.mktemp("itk") / f"image{ending}"
    sitk.WriteImage(to_image(volume), str(path), useCompression=packed)
    back = files.load(path)
    assert back.array.tobytes() == volume.array.tobytes() and back.name == "image"
    assert np.allclose(back.ijk_to_ras, volume.ijk_to_ras, atol=1e-5)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("packed", [True, False])
def test_what_was_written_from_a_nifti_is_read(tmp_path, ending, packed):
    image = sitk.ReadImage(str(nifti(tmp_path / "a.nii.gz")))
    assert image.HasMetaDataKey("vox_offset")  # ITK carries the NIfTI header along
    path = tmp_path / f"b{ending}"
    sitk.WriteImage(image, str(path), useCompression=packed)
    volume, expected = files.load(path), nibabel.load(tmp_path / "a.nii.gz")
    assert np.array_equal(volume.array, np.asarray(expected.dataobj).T)
    assert np.allclose(volume.ijk_to_ras, expected.affine)


def nrrd(path, *lines, data=ARRAY.astype("<i2").tobytes(), without=()):
    """A NRRD file with these fields in place of, or besides, those of a small image."""
    fields = {
        "type": "short",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": "3 4 5",
        "space directions": "(1,0,0) (0,2,0) (0,0,3)",
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": "raw",
        "space origin": "(1,2,3)",
    }
    fields.update(line.split(": ", 1) for line in lines)
    text = "".join(f"{key}: {value}\n" for key, value in fields.items() if key not in without)
    path.write_bytes(b"NRRD0004\n" + text.encode() + b"\n" + data)
    return path


@pytest.mark.parametrize(
    "unit, scale", [("mm", 1), ("um", 1e-3), ("m", 1e3), ("cm", 10), ("microns", 1e-3), ("", 1)]
)
def test_space_units_become_millimetres(tmp_path, unit, scale):
    path = nrrd(tmp_path / "a.nrrd", f'space units: "{unit}" "{unit}" "{unit}"')
    expected = np.diag([-scale, -2 * scale, 3 * scale, 1])
    expected[:3, 3] = np.array([-1, -2, 3]) * scale
    volume = files.load(path)
    assert np.allclose(volume.ijk_to_ras, expected) and np.array_equal(volume.array, ARRAY)


@pytest.mark.parametrize(
    "line, says",
    [
        ('space units: "s" "s" "s"', "units"),
        ("sizes: 3 4 6", "not complete"),
        ("sizes: 3 4 4", "more are there"),
        ("sizes: 3 4", "contradicts"),
        ("sizes: 100000 100000 100000", "not complete"),
        ("dimension: 4", "contradicts|header cannot be read"),
        ("type: float", "not complete"),
        ("type: block", "numbers are needed"),
        ("endian: middle", "contradicts"),
        ("encoding: bz2", "not read here"),
        ("space directions: (1,0,0) (0,2,0) (0,4,0)", "do not span"),
        ("space directions: (1,0,0) (nan,2,0) (0,0,3)", "contradicts"),
        ("space origin: (1,2,inf)", "contradicts"),
        ("byte skip: 4", "not complete"),
        ("data file: ../outside.raw", "outside its folder"),
        ("data file: /etc/passwd", "outside its folder"),
        ("data file: absent.raw", "not there"),
    ],
)
def test_nrrd_headers_that_contradict_their_file_are_refused(tmp_path, line, says):
    (tmp_path / "outside.raw").write_bytes(ARRAY.tobytes())
    (tmp_path / "in").mkdir()
    with pytest.raises(VolumeError, match=says):
        files.load(nrrd(tmp_path / "in" / "a.nrrd", line))


def test_a_data_file_may_not_be_a_link_out_of_the_folder(tmp_path):
    (tmp_path / "outside.raw").write_bytes(ARRAY.tobytes())
    (tmp_path / "in").mkdir()
    try:
        (tmp_path / "in" / "link.raw").symlink_to(tmp_path / "outside.raw")
    except OSError:
        pytest.skip("no symbolic links here")
    for path, text in (
        ("a.nhdr", "data file: link.raw"),
        ("b.nhdr", "data file: ./in/../link.raw"),
    ):
        with pytest.raises(VolumeError, match="outside its folder"):
            files.load(nrrd(tmp_path / "in" / path, text, data=b""))


def test_detached_data_and_skipped_bytes_are_found(tmp_path):
    (tmp_path / "plain.raw").write_bytes(ARRAY.tobytes())
    (tmp_path / "headed.raw").write_bytes(b"head" + ARRAY.tobytes())
    (tmp_path / "packed.gz").write_bytes(gzip.compress(ARRAY.tobytes()))
    for n, lines in enumerate(
        (
            ["data file: plain.raw"],
            ["data file: headed.raw", "byte skip: 4"],
            ["data file: headed.raw", "byte skip: -1"],
            ["data file: packed.gz", "encoding: gzip"],
        )
    ):
        volume = files.load(nrrd(tmp_path / f"{n}.nhdr", *lines, data=b""))
        assert np.array_equal(volume.array, ARRAY)


@pytest.mark.parametrize(
    "space, flips", [("left-posterior-superior", (-1, -1)), ("right-anterior-superior", (1, 1))]
)
def test_spaces_are_told_apart(tmp_path, space, flips):
    volume = files.load(nrrd(tmp_path / "a.nrrd", f"space: {space}"))
    assert np.allclose(np.diag(volume.ijk_to_ras)[:3], (flips[0], 2 * flips[1], 3))


def test_an_image_without_directions_is_said(tmp_path, caplog):
    path = nrrd(
        tmp_path / "a.nrrd",
        "spacings: 1 2 3",
        without=("space", "space directions", "space origin"),
    )
    assert files.load(path).spacing_mm == (1, 2, 3)
    assert "does not say how its axes lie" in caplog.text


def metaimage(path, *lines, data=ARRAY.astype("<i2").tobytes()):
    """A MetaImage file with these fields in place of those of a small image."""
    fields = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "1 2 3",
        "ElementSpacing": "1 2 3",
        "DimSize": "3 4 5",
        "ElementType": "MET_SHORT",
        "ElementDataFile": "LOCAL",
    }
    fields.update(line.split(" = ", 1) for line in lines)
    fields["ElementDataFile"] = fields.pop("ElementDataFile")
    text = "".join(f"{key} = {value}\n" for key, value in fields.items())
    path.write_bytes(text.encode("latin-1") + data)
    return path


@pytest.mark.parametrize(
    "line, says",
    [
        ("DimSize = 3 4 6", "not complete"),
        ("DimSize = 3 4 4", "more are there"),
        ("DimSize = 3 4", "contradicts"),
        ("DimSize = 90000 90000 90000", "not complete"),
        ("DimSize = 3 0 5", "contradicts"),
        ("DimSize = 3 x 5", "contradicts"),
        ("NDims = 4", "contradicts"),
        ("ElementType = MET_FLOAT", "not complete"),
        ("ElementType = MET_CHAR", "more are there"),
        ("ElementType = MET_BLOCK", "numbers are needed"),
        ("ElementNumberOfChannels = 3", "3 values per voxel"),
        ("ElementSpacing = 1 0 3", "contradicts"),
        ("ElementSpacing = 1 -2 3", "contradicts"),
        ("TransformMatrix = 1 0 0 0 1 0 0 1 0", "contradicts"),
        ("TransformMatrix = 1 0 0 0 2 0 0 0 1", "contradicts"),
        ("Offset = 1 2 nan", "contradicts"),
        ("Position = 4 5 6", "stands there twice"),
        ("CompressedData = True", "not complete"),
        ("CompressedData = maybe", "True or False"),
        ("HeaderSize = 5", "contradicts"),
        ("DistanceUnits = furlong", "DistanceUnits"),
        ("ElementDataFile = ../outside.raw", "outside its folder"),
        ("ElementDataFile = /etc/passwd", "outside its folder"),
        ("ElementDataFile = absent.raw", "not there"),
        ("ElementDataFile = LIST", "not there|several"),
        ("ElementDataFile = a%02d.raw 1 5 1", "several data files"),
        ("Comment = caf\xe9", "no end"),
    ],
)
def test_metaimage_headers_that_contradict_their_file_are_refused(tmp_path, line, says):
    (tmp_path / "outside.raw").write_bytes(ARRAY.tobytes())
    (tmp_path / "in").mkdir()
    with pytest.raises(VolumeError, match=says):
        files.load(metaimage(tmp_path / "in" / "a.mha", line))


def test_metaimage_units_and_detached_data(tmp_path):
    volume = files.load(metaimage(tmp_path / "a.mha", "DistanceUnits = um"))
    assert np.allclose(volume.spacing_mm, (0.001, 0.002, 0.003))
    (tmp_path / "b.raw").write_bytes(b"head" + ARRAY.tobytes())
    for skip in (4, -1):
        lines = ("ElementDataFile = b.raw", f"HeaderSize = {skip}")
        volume = files.load(metaimage(tmp_path / "b.mhd", *lines, data=b""))
        assert np.array_equal(volume.array, ARRAY)


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_name_that_is_not_utf8_is_refused_and_never_kills(tmp_path, ending):
    path = tmp_path / os.fsdecode(b"caf\xe9" + ending.encode())
    path.write_bytes(b"NRRD0004\n")
    with pytest.raises(VolumeError, match="UTF-8"):
        files.load(path)


def test_an_ending_that_no_reader_has_is_refused_by_name(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(VolumeError, match=r"ending is none of .*\.nii"):
        files.load(tmp_path / "a.png")
