"""DICOM: values and places from every slice's own header, against closed forms and highdicom."""

import warnings

import highdicom
import numpy as np
import pydicom
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from image_files import AXIAL, STORED, enhanced, item, slice_of, write_series
from pydicom.data import get_testdata_file
from pydicom.uid import CTImageStorage
from scipy.spatial.transform import Rotation

from NetInversionLib.core import dicom_frames, files
from NetInversionLib.core.volumes import VolumeError

few = settings(deadline=None, max_examples=25)


def classic(count=6, **tags):
    return [slice_of(k + 1, STORED[k], (0, 0, 3 * k), **tags) for k in range(count)]


# ----------------------------------------------------------------------------------- classic slices


@pytest.mark.parametrize("left", [0, 60, 131, 300, -20, -2])
@pytest.mark.parametrize("which", [0, 3, 5])
def test_a_slice_that_is_empty_or_cut_is_named(tmp_path, left, which):
    folder = write_series(tmp_path, classic())
    cut = folder / f"{which}.dcm"
    cut.write_bytes(cut.read_bytes()[:left])
    with pytest.raises(VolumeError, match=rf"{which}\.dcm.*complete"):
        files.load(folder)


def test_a_slice_without_an_ending_that_is_empty_or_cut_is_named(tmp_path):
    write_series(tmp_path, classic())
    for path in sorted(tmp_path.iterdir()):
        path.rename(tmp_path / f"IM.{path.stem.zfill(4)}")
    (tmp_path / "README").write_text("What the scanner says.\n")
    (tmp_path / ".DS_Store").write_bytes(b"\0\0")
    assert files.load(tmp_path).shape == STORED.shape
    (tmp_path / "IM.0006").write_bytes(b"")
    with pytest.raises(VolumeError, match="IM.0006.*complete"):
        files.load(tmp_path)


def test_a_report_among_the_slices_is_no_image(tmp_path):
    folder = write_series(tmp_path, classic())
    report = slice_of(9, STORED[0], None, SOPClassUID=pydicom.uid.EnhancedSRStorage)
    del report.PixelData, report.Rows, report.Columns
    report.SeriesInstanceUID = "1.2.99"
    report.save_as(folder / "report.dcm", enforce_file_format=True)
    assert files.load(folder).shape == STORED.shape


@few
@given(
    slope=st.sampled_from([1, 2, 0.5, 0.1, -1]),
    intercept=st.sampled_from([-1024, 0, 3, -0.25]),
    photometric=st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
    signed=st.booleans(),
)
def test_values_are_stored_times_slope_plus_intercept_whatever_a_viewer_shows(
    tmp_path_factory, slope, intercept, photometric, signed
):
    folder = write_series(
        tmp_path_factory.mktemp("series"),
        classic(
            4,
            PhotometricInterpretation=photometric,
            RescaleSlope=slope,
            RescaleIntercept=intercept,
            PixelRepresentation=int(signed),
            BitsStored=16,
            HighBit=15,
            WindowCenter=40,
            WindowWidth=400,
        ),
    )
    assert np.array_equal(files.load(folder).array, STORED[:4] * slope + intercept)


def test_a_modality_lut_is_applied(tmp_path):
    table = np.arange(4096)[::-1] * 3
    lut = item(LUTDescriptor=[4096, 0, 16], ModalityLUTType="US")
    lut.add_new(0x00283006, "US", table.tolist())
    slices = classic(3, RescaleSlope=None, RescaleIntercept=None)
    for one in slices:
        one.ModalityLUTSequence = [lut]
    volume = files.load(write_series(tmp_path, slices))
    assert np.array_equal(volume.array, table[STORED[:3]]) and volume.units == ""


TURNED = (0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    "tags, says",
    [
        ({"ImagePositionPatient": None}, "no position in space.*ImagePositionPatient"),
        ({"ImageOrientationPatient": None}, "no direction in space"),
        ({"ImageOrientationPatient": list(TURNED)}, "differ in direction"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "contradicts.*ImageOrientationPatient"),
        ({"PixelSpacing": None}, "no size of its pixels"),
        ({"PixelSpacing": [0.75, 0.6]}, "differ in size of their pixels"),
        ({"PixelSpacing": [0, 0.5]}, "contradicts.*PixelSpacing"),
        ({"RescaleSlope": 0}, "contradicts.*RescaleSlope"),
        ({"RescaleIntercept": None}, "contradicts.*RescaleIntercept"),
        ({"Rows": 15}, "contradicts|differ"),
        ({"Rows": 60000, "Columns": 60000}, "not complete"),
        ({"FrameOfReferenceUID": "1.2.77"}, "differ in frame of reference"),
        ({"PatientID": "another"}, "patient"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "colour"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]}, "mosaic"),
        ({"DoseGridScaling": 0.001}, "radiotherapy dose"),
        ({"ImagePositionPatient": [0.0, 0.0, 3.0]}, "not evenly spaced.*repeated"),
        ({"ImagePositionPatient": [0.0, 0.0, 40.0]}, "not evenly spaced"),
        ({"ImagePositionPatient": [5.0, 0.0, 9.0]}, "not evenly spaced"),
    ],
)
@pytest.mark.parametrize("which", [0, 3, 5])
def test_slices_that_are_no_stack_are_refused_by_name(tmp_path, tags, says, which):
    slices = classic()
    for key, value in tags.items():
        if value is None:
            delattr(slices[which], key)
        else:
            setattr(slices[which], key, value)
    with pytest.raises(VolumeError, match=says):
        files.load(write_series(tmp_path, slices))


@few
@given(
    turn=st.tuples(*[st.floats(-180, 180)] * 3),
    tilt=st.floats(-25, 25),
    seed=st.integers(0, 99),
    step=st.floats(0.5, 6),
)
def test_slices_lie_where_their_positions_say_in_any_order_and_slant(
    tmp_path_factory, turn, tilt, seed, step
):
    axes = Rotation.from_rotvec(turn, degrees=True).as_matrix()
    slant = step * (axes[:, 2] + np.tan(np.deg2rad(tilt)) * axes[:, 1])
    corner = np.array([-120.0, -90.0, 40.0])
    slices = [
        slice_of(
            k + 1,
            STORED[k],
            np.round(corner + k * slant, 6),
            ImageOrientationPatient=np.round(axes[:, :2].T.ravel(), 8).tolist(),
        )
        for k in range(5)
    ]
    order = np.random.default_rng(seed).permutation(5)
    folder = write_series(tmp_path_factory.mktemp("turned"), [slices[k] for k in order])
    volume = files.load(folder)
    assert np.array_equal(volume.array, STORED[:5] - 1024)
    lps = np.column_stack([axes[:, 0] * 0.5, axes[:, 1] * 0.75, slant, corner])
    assert np.allclose(volume.ijk_to_ras[:3], np.diag([-1, -1, 1]) @ lps, atol=1e-4)


@few
@given(
    which=st.sampled_from([0, 3, 5]),
    left=st.floats(0, 1, exclude_max=True),
)
@example(which=5, left=0.28)  # inside its class
def test_a_slice_cut_at_any_byte_is_named(tmp_path_factory, which, left):
    folder = write_series(tmp_path_factory.mktemp("cut"), classic())
    cut = folder / f"{which}.dcm"
    whole = cut.read_bytes()
    cut.write_bytes(whole[: int(left * len(whole))])
    with pytest.raises(VolumeError, match=rf"{which}\.dcm"):
        files.load(folder)


DIRECTIONS = st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 0.1)


@few
@given(
    which=st.integers(0, 5),
    direction=DIRECTIONS,
    moved_mm=st.floats(0, 0.03) | st.floats(0.15, 2.5),
)
def test_a_slice_may_lie_off_its_place_by_a_rounding_only(
    tmp_path_factory, which, direction, moved_mm
):
    slices = classic()
    move = moved_mm * np.array(direction) / np.linalg.norm(direction)
    place = np.round(np.array([0, 0, 3.0 * which]) + move, 6)
    slices[which].ImagePositionPatient = place.tolist()
    folder = write_series(tmp_path_factory.mktemp("moved"), slices)
    if moved_mm <= 0.03:
        assert np.array_equal(files.load(folder).array, STORED - 1024)
    else:
        with pytest.raises(VolumeError, match="not evenly spaced"):
            files.load(folder)


@few
@given(
    which=st.integers(0, 5),
    axis=DIRECTIONS,
    degrees=st.just(0.0) | st.floats(0.2, 179),
    scale=st.just(1.0) | st.floats(0.1, 0.99) | st.floats(1.01, 9),
    side=st.sampled_from([0, 1]),
)
def test_a_slice_that_is_turned_or_of_other_pixels_is_named(
    tmp_path_factory, which, axis, degrees, scale, side
):
    slices = classic()
    turn = Rotation.from_rotvec(degrees * np.array(axis) / np.linalg.norm(axis), degrees=True)
    cosines = turn.as_matrix()[:, :2].T.ravel()
    spacing = [0.75, 0.5]
    spacing[side] *= scale
    slices[which].ImageOrientationPatient = np.round(cosines, 8).tolist()
    slices[which].PixelSpacing = np.round(spacing, 8).tolist()
    folder = write_series(tmp_path_factory.mktemp("other"), slices)
    if degrees == 0 and scale == 1:
        assert np.array_equal(files.load(folder).array, STORED - 1024)
        return
    with pytest.raises(VolumeError, match=rf"differ in.*{which or 1}\.dcm") as caught:
        files.load(folder)
    assert ("direction" in str(caught.value)) == (degrees > 0)
    assert ("size of their pixels" in str(caught.value)) == (scale != 1)


CREATOR = "SIEMENS MR HEADER"


@few
@given(
    images=st.integers(2, 255),
    mark=st.sampled_from(["word", "US", "IS", "bytes"]),
    blocks=st.integers(0, 3),
    words=st.permutations(["M", "ND", "NORM", "MOSAIC"]),
    which=st.integers(0, 2),
)
def test_a_mosaic_is_refused_however_it_is_marked(
    tmp_path_factory, images, mark, blocks, words, which
):
    slices = classic(3, Modality="MR", RescaleIntercept=0)
    if mark == "word":
        slices[which].ImageType = ["ORIGINAL", "PRIMARY", *words]
    else:
        for n in range(blocks):  # those of others come first
            slices[which].private_block(0x19, f"OTHER {n}", create=True)
        block = slices[which].private_block(0x19, CREATOR, create=True)
        value = images.to_bytes(2, "little") if mark == "bytes" else images
        block.add_new(0x0A, {"bytes": "UN"}.get(mark, mark), value)
    with pytest.raises(VolumeError, match=rf"{which}\.dcm.*mosaic"):
        files.load(write_series(tmp_path_factory.mktemp("mosaic"), slices))


def test_one_image_in_a_mosaic_or_another_maker_s_number_is_none(tmp_path):
    slices = classic(3)
    for one, creator, number in zip(slices, (CREATOR, "GEMS_ACQU_01", "OTHER"), (1, 20, 6)):
        one.private_block(0x19, creator, create=True).add_new(0x0A, "US", number)
    assert np.array_equal(files.load(write_series(tmp_path, slices)).array, STORED[:3] - 1024)


def test_a_ct_is_in_hu_only_where_its_rescale_says_so(tmp_path, caplog):
    for name, tags, units in (
        ("plain", {}, "HU"),
        ("said", {"RescaleType": "HU"}, "HU"),
        ("density", {"RescaleType": "Z_EFF"}, ""),
        ("stored", {"RescaleSlope": None, "RescaleIntercept": None}, ""),
        ("mr", {"Modality": "MR", "RescaleIntercept": 0}, ""),
    ):
        volume = files.load(write_series(tmp_path / name, classic(3, **tags)))
        assert volume.units == units, name
    assert "without a rescale" in caplog.text


def test_bits_beyond_those_stored_are_dropped_and_said(tmp_path, caplog):
    slices = classic(3, PixelRepresentation=1)
    signed = np.where(STORED >= 2048, STORED - 4096, STORED)[:3]
    for one, values in zip(slices, signed):
        one.PixelData = values.astype("<i2").tobytes()  # the sign fills the bits above: no fault
    assert np.array_equal(files.load(write_series(tmp_path / "a", slices)).array, signed - 1024)
    assert not caplog.text
    slices = classic(3)
    slices[1].PixelData = (STORED[1] | 0x4000).astype("<u2").tobytes()
    volume = files.load(write_series(tmp_path / "b", slices))
    assert np.array_equal(volume.array, STORED[:3] - 1024)
    assert "beyond BitsStored" in caplog.text


def test_empty_bytes_behind_the_pixels_are_said_and_others_refused(tmp_path, caplog):
    slices = classic(3)
    slices[1].PixelData += bytes(128)
    volume = files.load(write_series(tmp_path / "a", slices))
    assert np.array_equal(volume.array, STORED[:3] - 1024)
    assert "128 empty bytes" in caplog.text
    slices[1].PixelData += b"\1\0"
    with pytest.raises(VolumeError, match="bytes of pixels"):
        files.load(write_series(tmp_path / "b", slices))


def test_spacing_that_the_positions_contradict_is_said(tmp_path, caplog):
    volume = files.load(write_series(tmp_path, classic(SpacingBetweenSlices=5)))
    assert volume.spacing_mm == (0.5, 0.75, 3)
    assert "SpacingBetweenSlices is 5 mm" in caplog.text


# -------------------------------------------------------------------------------------- multi-frame


@pytest.mark.parametrize("modality, offset", [("CT", -1024), ("MR", 0)])
@pytest.mark.parametrize("alone", [True, False])
def test_an_enhanced_object_is_the_volume_of_its_frames(tmp_path, modality, offset, alone):
    folder = write_series(tmp_path, [enhanced(STORED, 3.0 * np.arange(6), modality)])
    volume = files.load(folder / "0.dcm" if alone else folder)
    assert np.array_equal(volume.array, STORED + offset)
    assert volume.spacing_mm == (0.5, 0.75, 3)
    assert volume.units == ("HU" if modality == "CT" else "")


@few
@given(order=st.permutations(range(6)), slopes=st.lists(st.floats(0.1, 9), min_size=6, max_size=6))
def test_frames_lie_by_position_with_their_own_rescale_as_highdicom_reads_them(
    tmp_path_factory, order, slopes
):
    slopes = [float(f"{slope:.6g}") for slope in slopes]
    data = enhanced(STORED, 3.0 * np.array(order), "MR", slopes)
    path = write_series(tmp_path_factory.mktemp("frames"), [data]) / "0.dcm"
    volume = files.load(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frames = highdicom.imread(path).get_frames(apply_real_world_transform=False)
    assert np.array_equal(volume.array, frames[np.argsort(order)])
    assert volume.spacing_mm == (0.5, 0.75, 3)


GROUPS = {
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
    "PlanePositionSequence": ("ImagePositionPatient",),
}


def gathered(slices, own):
    """The enhanced object of classic slices; ``own``: groups that stand in every frame."""
    frames = np.stack([one.pixel_array for one in slices])
    data = enhanced(frames, range(len(slices)), slices[0].Modality)
    for key in ("PhotometricInterpretation", "PixelRepresentation"):
        setattr(data, key, getattr(slices[0], key))
    shared = data.SharedFunctionalGroupsSequence[0]
    for sequence in GROUPS:
        holders = [(shared, slices[0])]
        if sequence in own or sequence == "PlanePositionSequence":
            holders = list(zip(data.PerFrameFunctionalGroupsSequence, slices))
            if sequence in shared:
                delattr(shared, sequence)
        for holder, one in holders:
            group = item(**{key: getattr(one, key) for key in GROUPS[sequence]})
            setattr(holder, sequence, [group])
    return data


@few
@given(
    turn=st.tuples(*[st.floats(-180, 180)] * 3),
    step=st.floats(0.5, 6),
    order=st.permutations(range(5)),
    modality=st.sampled_from(["CT", "MR"]),
    photometric=st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
    signed=st.booleans(),
    slope=st.sampled_from([1, 2, 0.5]),
    own=st.sets(st.sampled_from(sorted(GROUPS))),
)
def test_an_enhanced_object_is_the_classic_series_of_its_frames(
    tmp_path_factory, turn, step, order, modality, photometric, signed, slope, own
):
    axes = Rotation.from_rotvec(turn, degrees=True).as_matrix()
    slices = [
        slice_of(
            k + 1,
            STORED[k] // 2,  # no sign in 12 bits
            np.round(k * step * axes[:, 2], 6),
            ImageOrientationPatient=np.round(axes[:, :2].T.ravel(), 8).tolist(),
            SOPClassUID=pydicom.uid.MRImageStorage if modality == "MR" else CTImageStorage,
            Modality=modality,
            PhotometricInterpretation=photometric,
            PixelRepresentation=int(signed),
            RescaleSlope=slope,
            RescaleType="HU" if modality == "CT" else "US",
            FrameOfReferenceUID="1.2.9",
        )
        for k in range(5)
    ]
    folder = tmp_path_factory.mktemp("both")
    classic_one = files.load(write_series(folder / "classic", slices))
    data = gathered([slices[k] for k in order], own)
    multi = files.load(write_series(folder / "enhanced", [data]))
    assert np.array_equal(classic_one.array, (STORED[:5] // 2) * slope - 1024)
    assert np.array_equal(multi.array, classic_one.array)
    assert np.allclose(multi.ijk_to_ras, classic_one.ijk_to_ras, atol=1e-5)
    assert multi.units == classic_one.units == ("HU" if modality == "CT" else "")


def test_frames_that_are_no_stack_are_refused_by_name(tmp_path):
    gap = 3.0 * np.arange(6)
    gap[3:] += 30
    undescribed = enhanced(STORED, 3.0 * np.arange(6))
    del undescribed.PerFrameFunctionalGroupsSequence[5]
    nowhere = enhanced(STORED, 3.0 * np.arange(6))
    del nowhere.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence
    loose = slice_of(1, STORED, (0, 0, 0), NumberOfFrames=6)
    fewer = enhanced(STORED, 3.0 * np.arange(6))
    fewer.PixelData = fewer.PixelData[:-576]
    for name, data, says in (
        ("gap", enhanced(STORED, gap), "not evenly spaced"),
        ("two times", enhanced(STORED, [0, 3, 6, 0, 3, 6]), "not evenly spaced.*times"),
        ("turned", enhanced(STORED, gap, orientations=[AXIAL] * 5 + [TURNED]), "differ in dir"),
        ("undescribed", undescribed, "contradicts.*NumberOfFrames"),
        ("nowhere", nowhere, "no position in space"),
        ("loose", loose, "6 frames without saying where"),
        ("fewer", fewer, "not complete"),
    ):
        with pytest.raises(VolumeError, match=says):
            files.load(write_series(tmp_path / name, [data]))


def test_several_enhanced_objects_of_one_series_are_one_stack(tmp_path):
    z = 3.0 * np.arange(6)
    parts = [enhanced(STORED[:4], z[:4]), enhanced(STORED[4:], z[4:])]
    assert np.array_equal(files.load(write_series(tmp_path, parts)).array, STORED - 1024)


# ------------------------------------------------------------------------------ real and compressed


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm"])
def test_pydicoms_own_slices_are_read(name):
    path = get_testdata_file(name, download=False)
    data = pydicom.dcmread(path)
    volume = files.load(path)
    slope, intercept = data.get("RescaleSlope", 1), data.get("RescaleIntercept", 0)
    assert np.array_equal(volume.array[0], data.pixel_array * float(slope) + float(intercept))


@pytest.mark.parametrize(
    "syntax", [pydicom.uid.RLELossless, pydicom.uid.JPEGLSLossless, "1.2.840.10008.1.2.4.90"]
)
def test_compressed_slices_have_the_same_values(tmp_path, syntax):
    slices = classic(3)
    for one in slices:
        try:
            one.compress(syntax, generate_instance_uid=False)
        except (RuntimeError, ValueError) as error:
            pytest.skip(f"no encoder here: {error}")
    volume = files.load(write_series(tmp_path, slices))
    assert np.array_equal(volume.array, STORED[:3] - 1024)
    slices[0].Rows = 60000
    with pytest.raises(VolumeError, match="contradicts|not complete|differ"):
        files.load(write_series(tmp_path, slices[:1] + slices[1:]))


def test_the_size_of_a_compressed_frame_stands_in_its_own_header():
    for name in ("JPEG2000.dcm", "JPEG-LL.dcm", "693_J2KR.dcm", "emri_small_jpeg_ls_lossless.dcm"):
        path = get_testdata_file(name, download=False)
        if path is None:
            continue
        data = pydicom.dcmread(path)
        frames = int(data.get("NumberOfFrames", 1))
        for coded in pydicom.encaps.generate_frames(data.PixelData, number_of_frames=frames):
            assert dicom_frames.coded_size(coded) == (data.Rows, data.Columns), name
