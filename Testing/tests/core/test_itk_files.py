"""NRRD and MetaImage: valid files are read, headers are compared with what ITK gave."""

import gzip
import os
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import nifti, require_whole_or_refused
from strategies import matrices, volumes

from NetInversionLib.core import files
from NetInversionLib.core.volumes import Volume, VolumeError, to_image

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


UNITS = {"mm": 1, "um": 1e-3, "m": 1e3, "cm": 10, "microns": 1e-3, "": 1}


@few
@given(
    matrix=matrices(),
    units=st.tuples(*[st.sampled_from(sorted(UNITS))] * 3),
    space=st.sampled_from(
        ["left-posterior-superior", "right-anterior-superior", "left-anterior-superior"]
    ),
)
def test_a_nrrd_lies_where_its_directions_and_units_say(tmp_path_factory, matrix, units, space):
    path = tmp_path_factory.mktemp("units") / "a.nrrd"
    flips = {"left": -1, "right": 1, "posterior": -1, "anterior": 1, "superior": 1}
    own = np.diag([flips[side] for side in space.split("-")]) @ matrix[:3]
    vectors = ["(" + ",".join(map(repr, map(float, own[:, n]))) + ")" for n in range(4)]
    nrrd(
        path,
        f"space: {space}",
        "space directions: " + " ".join(vectors[:3]),
        f"space origin: {vectors[3]}",
        "space units: " + " ".join(f'"{unit}"' for unit in units),
    )
    volume = files.load(path)
    expected = np.diag([UNITS[unit] for unit in units]) @ matrix[:3]
    scale = np.abs(expected).max()
    assert np.allclose(volume.ijk_to_ras[:3], expected, rtol=1e-5, atol=1e-6 * scale)
    assert np.array_equal(volume.array, ARRAY)


SIZES = st.sampled_from([1, 2, 3, 4, 5, 12, 20, 60]) | st.integers(1, 10**6)


@few
@given(
    sizes=st.tuples(SIZES, SIZES, SIZES) | st.permutations([3, 4, 5]),
    packed=st.booleans(),
    kind=st.sampled_from(["nrrd", "mha"]),
)
def test_sizes_are_those_of_the_data_or_refused_before_memory_is_taken(
    tmp_path_factory, sizes, packed, kind
):
    path = tmp_path_factory.mktemp("sizes") / f"a.{kind}"
    data, text = ARRAY.astype("<i2").tobytes(), " ".join(map(str, sizes))
    if kind == "nrrd":
        encoding = "encoding: gzip" if packed else "encoding: raw"
        nrrd(path, f"sizes: {text}", encoding, data=gzip.compress(data) if packed else data)
    else:
        data = zlib.compress(data) if packed else data
        lines = (f"DimSize = {text}", f"CompressedData = {packed}")
        lines += (f"CompressedDataSize = {len(data)}",) if packed else ()
        metaimage(path, *lines, data=data)
    require_whole_or_refused(path, sizes, ARRAY)


@pytest.fixture(scope="module")
def nest(tmp_path_factory):
    """A folder `in` for headers, with data files of one name in it, below it and beside it."""
    root = tmp_path_factory.mktemp("nest")
    for n, place in enumerate(("", "in", "in/deep", "other")):
        (root / place).mkdir(exist_ok=True)
        (root / place / "x.raw").write_bytes((ARRAY + n).astype("<i2").tobytes())
    return root


PARTS = st.sampled_from(["..", ".", "in", "deep", "other", "x.raw", ""])


@few
@given(
    parts=st.lists(PARTS, min_size=1, max_size=5),
    whole=st.booleans(),
    kind=st.sampled_from(["nhdr", "mhd"]),
)
def test_data_lies_in_the_headers_folder_or_is_not_read(nest, parts, whole, kind):
    name = "/".join([*parts, "x.raw"])
    name = str(nest / "in" / name) if whole else name.lstrip("/")
    path = nest / "in" / f"a.{kind}"
    if kind == "nhdr":
        nrrd(path, f"data file: {name}", data=b"")
    else:
        metaimage(path, f"ElementDataFile = {name}", data=b"")
    data = Path(os.path.normpath(nest / "in" / name))
    if data.is_file() and not (nest / "in" / name).is_file():
        with pytest.raises(VolumeError):  # by way of a folder that is not there
            files.load(path)
    elif not data.is_relative_to(nest / "in"):
        with pytest.raises(VolumeError, match="outside its folder"):
            files.load(path)
    elif not data.is_file():
        with pytest.raises(VolumeError, match="not there"):
            files.load(path)
    else:
        expected = ARRAY + (1 if data.parent == nest / "in" else 2)
        assert np.array_equal(files.load(path).array, expected)


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


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
@few
@given(
    stem=st.binary(min_size=1, max_size=12).filter(lambda b: not {0, 47} & set(b)),
    ending=st.sampled_from([*ENDINGS, ".nii", ".nii.gz", ".NRRD"]),
)
def test_an_image_of_any_name_is_read_or_refused_and_never_kills(tmp_path_factory, stem, ending):
    path = tmp_path_factory.mktemp("names") / os.fsdecode(stem + ending.encode())
    volume = Volume(ARRAY, np.diag([-1.0, -2.0, 3.0, 1.0]), "a")
    made = tmp_path_factory.mktemp("made") / f"a{ending.lower()}"
    if ending in (".nhdr", ".mhd"):
        (nrrd if ending == ".nhdr" else metaimage)(path)  # with the voxels behind the header
    else:
        path.write_bytes(files.save(volume, made).read_bytes())
    try:
        assert np.array_equal(files.load(path).array, ARRAY)
    except VolumeError as error:
        assert "UTF-8" in str(error) and str(error).isprintable()


def test_an_ending_that_no_reader_has_is_refused_by_name(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(VolumeError, match=r"ending is none of .*\.nii"):
        files.load(tmp_path / "a.png")
