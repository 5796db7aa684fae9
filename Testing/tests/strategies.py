"""Random grids and images for property tests."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.transform import Rotation

from NetInversionLib.core.volumes import Volume

VTK_TYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")


def finite(low, high):
    return st.floats(low, high, allow_nan=False)


@st.composite
def matrices(draw, tilt=180.0, spacing=(0.3, 5.0), handedness=(1, -1), reach=300.0):
    """IJK-to-RAS of a box-shaped grid.

    It has any rotation up to ``tilt`` degrees, any spacing, any corner, and either hand.
    """
    turn = Rotation.from_rotvec(
        draw(st.tuples(*[finite(-tilt, tilt)] * 3)), degrees=True
    ).as_matrix()
    matrix = np.eye(4)
    matrix[:3, :3] = turn * draw(st.tuples(*[finite(*spacing)] * 3))
    matrix[:3, 0] *= draw(st.sampled_from(handedness))
    matrix[:3, 3] = draw(st.tuples(*[finite(-reach, reach)] * 3))
    return matrix


@st.composite
def transforms(draw):
    """An invertible 4x4: rotation, unequal scaling and shear, and a shift."""
    matrix = draw(matrices(spacing=(0.5, 2.0)))
    matrix[:3, 1] += draw(finite(-0.5, 0.5)) * matrix[:3, 0]
    return matrix


@st.composite
def volumes(draw, types=VTK_TYPES, matrix=None, shapes=None):
    """A small volume with any values that its type holds, NaN and infinity left out."""
    kind = np.dtype(draw(st.sampled_from(types)))
    shape = draw(shapes if shapes is not None else st.tuples(*[st.integers(1, 5)] * 3))
    elements = {"allow_nan": False, "allow_infinity": False} if kind.kind == "f" else None
    array = draw(hnp.arrays(kind, shape, elements=hnp.from_dtype(kind, **(elements or {}))))
    return Volume(array, draw(matrix if matrix is not None else matrices()), "image")


def world(volume, k, j, i):
    """RAS of voxels, computed from the definition: (..., 3)."""
    return np.stack([i, j, k], axis=-1) @ volume.ijk_to_ras[:3, :3].T + volume.ijk_to_ras[:3, 3]


def ramp(matrix, shape, slope, offset):
    """A float64 volume whose value is ``slope`` . RAS + ``offset`` at every voxel centre."""
    grid = Volume(np.zeros(shape), matrix, "ramp")
    return grid.with_array(world(grid, *np.indices(shape)) @ np.asarray(slope) + offset)
