"""Small image files for tests, made here, and how they are read.

They are classic and enhanced DICOM, NIfTI, and files with bytes changed.
"""

import contextlib
import math
import struct
import tracemalloc

import nibabel
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)

from NetInversionLib.core import files
from NetInversionLib.core.volumes import VolumeError

STORED = np.random.default_rng(1).integers(0, 4096, (6, 16, 18))
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def slice_of(number, stored, position, **tags):
    """A classic CT slice: 0.75 x 0.5 mm pixels, stored values - 1024 = HU; None leaves a tag out.

    ``stored`` is (rows, columns), or (frames, rows, columns); ``position`` its LPS corner, or None.
    """
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = tags.pop(
        "SOPClassUID", CTImageStorage
    )
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    fields = {
        "Modality": "CT",
        "SeriesInstanceUID": "1.2.3",
        "StudyInstanceUID": "1.2",
        "InstanceNumber": number,
        "PatientName": "A^B",
        "Rows": stored.shape[-2],
        "Columns": stored.shape[-1],
        "PixelSpacing": [0.75, 0.5],
        "SliceThickness": 3,
        "ImageOrientationPatient": list(AXIAL),
        "ImagePositionPatient": None if position is None else [float(x) for x in position],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "PixelRepresentation": 0,
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
    }
    for key, value in {**fields, **tags}.items():
        if value is not None:
            setattr(data, key, value)
    data.PixelData = stored.astype("<u2").tobytes()
    return data


def item(**tags):
    data = Dataset()
    for key, value in tags.items():
        setattr(data, key, value)
    return data


def enhanced(frames, z, modality="CT", slopes=None, orientations=None):
    """An enhanced multi-frame object, whose frame n lies at z[n] mm.

    One rescale serves all frames, or each frame has its slope, or its orientation.
    """
    ct = modality == "CT"
    data = slice_of(
        1,
        frames,
        None,
        SOPClassUID=EnhancedCTImageStorage if ct else EnhancedMRImageStorage,
        Modality=modality,
        NumberOfFrames=len(frames),
        FrameOfReferenceUID="1.2.9",
        **dict.fromkeys(("RescaleSlope", "RescaleIntercept", "PixelSpacing", "SliceThickness")),
        ImageOrientationPatient=None,
    )
    kind = "HU" if ct else "US"

    def rescale(slope, intercept):
        return [item(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType=kind)]

    shared = item(PixelMeasuresSequence=[item(PixelSpacing=[0.75, 0.5], SliceThickness=3)])
    if orientations is None:
        shared.PlaneOrientationSequence = [item(ImageOrientationPatient=list(AXIAL))]
    if slopes is None:
        shared.PixelValueTransformationSequence = rescale(1, -1024 if ct else 0)
    data.SharedFunctionalGroupsSequence = [shared]
    data.PerFrameFunctionalGroupsSequence = []
    for n in range(len(frames)):
        rank = int(np.argsort(np.argsort(z))[n]) + 1
        frame = item(
            PlanePositionSequence=[item(ImagePositionPatient=[0.0, 0.0, float(z[n])])],
            FrameContentSequence=[item(StackID="1", InStackPositionNumber=rank)],
        )
        if slopes is not None:
            frame.PixelValueTransformationSequence = rescale(slopes[n], 0)
        if orientations is not None:
            frame.PlaneOrientationSequence = [item(ImageOrientationPatient=list(orientations[n]))]
        data.PerFrameFunctionalGroupsSequence.append(frame)
    return data


def write_series(folder, slices):
    """Datasets as 0.dcm, 1.dcm, ... of a folder; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    for n, data in enumerate(slices):
        data.save_as(folder / f"{n}.dcm", enforce_file_format=True)
    return folder


def patched(path, offset, layout, *values):
    """Bytes of a file's header changed in place; returns its path."""
    data = bytearray(path.read_bytes())
    struct.pack_into(layout, data, offset, *values)
    path.write_bytes(data)
    return path


def nifti(path, array=None, affine=None, kind=nibabel.Nifti1Image, q=0, s=2):
    """A NIfTI file with these form codes; returns its path."""
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5) if array is None else array
    affine = np.diag([-1.0, -2.0, 3.0, 1.0]) if affine is None else affine
    image = kind(array, affine)
    image.set_qform(affine, q)
    image.set_sform(affine, s)
    nibabel.save(image, path)
    return path


@contextlib.contextmanager
def little_memory():
    """What is done meanwhile takes less than 20 MB."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def require_whole_or_refused(path, sizes, values):
    """Read a file whose header says ``sizes``: it is whole, or it is refused.

    A whole file holds ``values`` in the order of the file; a refusal comes before memory is taken.
    """
    with little_memory():
        if math.prod(sizes) == values.size:
            read = files.load(path).array
            assert read.shape == tuple(sizes[::-1])
            assert np.array_equal(read.ravel(), values.ravel())
        else:
            with pytest.raises(VolumeError, match="complete|contradicts"):
                files.load(path)
