"""Scalar volumes in physical space: checks, regions, reorientation, resampling, files.

Arrays are [k, j, i] (slice, row, column); matrices map voxel indices (i, j, k, 1) to millimetres in
RAS. ITK, which reads, writes and resamples here, works in LPS: `to_image` and `_geometry` are the
only places that convert.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product

import numpy as np
import SimpleITK as sitk

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
INTERPOLATORS = {"nearest": sitk.sitkNearestNeighbor, "linear": sitk.sitkLinear}
Region = tuple[int, int, int, int, int, int]  # (k0, k1, j0, j1, i0, i1), half-open


class VolumeError(ValueError):
    """A volume cannot be used; the message says what is wrong and what to do."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A scalar image in patient space.

    ``array`` is [k, j, i] in the type it came in; ``ijk_to_ras`` is 4x4 float64 and maps voxel
    indices (i, j, k, 1) to millimetres, right-anterior-superior, parent transforms included when it
    was read from a scene.
    """

    array: np.ndarray
    ijk_to_ras: np.ndarray
    name: str
    units: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Array shape, (k, j, i)."""
        return self.array.shape

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along i, j and k."""
        i, j, k = np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0)
        return float(i), float(j), float(k)

    def float32(self) -> np.ndarray:
        """A contiguous float32 copy of the array.

        Raises VolumeError if a value is not finite or too large.
        """
        with np.errstate(over="ignore"):
            array = np.array(self.array, dtype=np.float32, order="C")
        _require_finite(array, self.name)
        return array

    def with_array(
        self, array: np.ndarray, name: str | None = None, units: str | None = None
    ) -> Volume:
        """The same grid with other values. Raises VolumeError if the shape differs."""
        if array.shape != self.shape:
            raise VolumeError(
                f"An array of shape {array.shape} does not fit '{self.name}', {self.shape}."
            )
        return replace(
            self,
            array=array,
            name=self.name if name is None else name,
            units=self.units if units is None else units,
        )


# ------------------------------------------------------------------------------------------- checks


def check(volume: Volume, finite: bool = True) -> Volume:
    """Return ``volume`` if it can be used.

    Args:
        volume: Its array must be [k, j, i], not empty and real.
        finite: Whether every value must be finite.

    Raises:
        VolumeError: It is not 3-D, empty, not real, not placed in space, or not finite.
    """
    array, name = volume.array, volume.name
    if array.ndim != 3:
        raise VolumeError(
            f"'{name}' has {array.ndim} dimensions, {array.shape}; one scalar 3-D image is needed. "
            "Choose one time point or one component and save it as a volume of its own."
        )
    if array.size == 0:
        raise VolumeError(
            f"'{name}' is empty, shape {array.shape}. Choose a volume that has voxels."
        )
    if array.dtype.kind not in "biuf":
        raise VolumeError(
            f"'{name}' holds values of type {array.dtype}; real numbers are needed. "
            "Convert it to a real type first (the magnitude of a complex image)."
        )
    if finite and array.dtype.kind == "f":
        _require_finite(array, name)
    _require_geometry(volume)
    return volume


def _require_finite(array: np.ndarray, name: str) -> None:
    bad = int(array.size - np.count_nonzero(np.isfinite(array)))
    if bad:
        raise VolumeError(
            f"'{name}': {bad} of {array.size} voxels are NaN, infinite or beyond single precision. "
            "Replace them with a real background value (numpy.nan_to_num) or crop them away."
        )


def _require_geometry(volume: Volume) -> None:
    matrix = np.asarray(volume.ijk_to_ras)
    good = (
        matrix.shape == (4, 4)
        and np.isfinite(matrix).all()
        and np.allclose(matrix[3], (0, 0, 0, 1), atol=1e-9)
    )
    if good:
        lengths = np.linalg.norm(matrix[:3, :3], axis=0)
        good = lengths.min() > 0 and abs(np.linalg.det(matrix[:3, :3] / lengths)) > 1e-6
    if not good:
        raise VolumeError(
            f"'{volume.name}' has no usable position in space: its IJK-to-RAS matrix cannot be"
            f" inverted ({np.array2string(matrix, precision=3)}). Correct its spacing and axis"
            " directions."
        )


def same_grid(a: Volume, b: Volume, tolerance: float = 0.01) -> bool:
    """Whether voxel (i, j, k) of both is the same place, and their shapes are alike.

    Args:
        a: The one volume, [k, j, i].
        b: The other.
        tolerance: In voxels, at every corner.
    """
    if a.shape != b.shape:
        return False
    corners = _corners(_whole(a))
    moved = np.linalg.inv(a.ijk_to_ras) @ b.ijk_to_ras @ corners - corners
    return bool(np.abs(moved).max() <= tolerance)


# --------------------------------------------------------------------------------- axes and regions


def orientation(volume: Volume) -> str:
    """Where the axes of the [k, j, i] array rise to, nearest patient axes.

    "LPS" means i to the left, j posterior, k superior.
    """
    axes = _patient_axes(volume.ijk_to_ras)
    return "".join(
        "RAS"[axis] if volume.ijk_to_ras[axis, column] > 0 else "LPI"[axis]
        for column, axis in enumerate(axes)
    )


def axis_toward(volume: Volume, direction: str) -> tuple[int, int]:
    """The array axis nearest to a patient direction, one of R L A P S I.

    Returns:
        The axis of the [k, j, i] array (0 is k), and +1 if its index rises toward ``direction``,
        else -1.
    """
    code = orientation(volume)
    opposite = dict(zip("RLAPSI", "LRPAIS"))[direction]
    column = code.find(direction) if direction in code else code.find(opposite)
    return 2 - column, 1 if direction in code else -1


def _patient_axes(matrix: np.ndarray) -> tuple[int, int, int]:
    """For i, j, k the patient axis (0 R, 1 A, 2 S) that each lies along.

    They are chosen together: none is taken twice.
    """
    cosines = np.abs(matrix[:3, :3]) / np.linalg.norm(matrix[:3, :3], axis=0)
    return max(
        permutations(range(3), 3),
        key=lambda axes: round(sum(cosines[axes[c], c] for c in range(3)), 9),
    )


def as_region(bounds: Iterable[int]) -> Region:
    """Six bounds (k0, k1, j0, j1, i0, i1), numpy's numbers too, as a region of Python's numbers.

    Raises:
        ValueError: There are not six.
    """
    k0, k1, j0, j1, i0, i1 = (int(bound) for bound in bounds)
    return k0, k1, j0, j1, i0, i1


def _whole(volume: Volume) -> Region:
    return (0, volume.shape[0], 0, volume.shape[1], 0, volume.shape[2])


def _corners(region: Region) -> np.ndarray:
    """The 8 corners of a region's outer faces, as columns (i, j, k, 1).

    Voxel centres are whole numbers.
    """
    k0, k1, j0, j1, i0, i1 = (index - 0.5 for index in region)
    return np.array([(i, j, k, 1.0) for k, j, i in product((k0, k1), (j0, j1), (i0, i1))]).T


def crop(volume: Volume, region: Sequence[int]) -> Volume:
    """The voxels of a region, where they were in space.

    Args:
        volume: [k, j, i].
        region: (k0, k1, j0, j1, i0, i1), half-open.

    Raises:
        VolumeError: The region is empty or not inside the volume.
    """
    k0, k1, j0, j1, i0, i1 = region
    if not all(
        0 <= low < high <= size for low, high, size in zip(region[::2], region[1::2], volume.shape)
    ):
        raise VolumeError(
            f"Region {tuple(region)} is empty or reaches outside '{volume.name}', shape"
            f" {volume.shape}. Place the region inside the volume."
        )
    matrix = volume.ijk_to_ras.copy()
    matrix[:, 3] = volume.ijk_to_ras @ (i0, j0, k0, 1.0)
    array = np.ascontiguousarray(volume.array[k0:k1, j0:j1, i0:i1])
    return replace(volume, array=array, ijk_to_ras=matrix)


def region_from_ras_points(volume: Volume, points: np.ndarray) -> Region:
    """The smallest region whose voxels hold all points, cut off at the volume's border.

    Args:
        volume: [k, j, i].
        points: RAS mm, shape (N, 3).

    Raises:
        VolumeError: It lies outside the volume.
    """
    points = np.asarray(points, dtype=np.float64)
    ijk = (np.linalg.inv(volume.ijk_to_ras) @ np.c_[points, np.ones(len(points))].T)[:3]
    size = np.array(volume.shape[::-1])
    # A face that lies on the border between two voxels (a millionth of a voxel either way) takes
    # neither neighbour in.
    low = np.floor(ijk.min(axis=1) + 0.5 + 1e-6).astype(int)
    high = np.maximum(np.ceil(ijk.max(axis=1) + 0.5 - 1e-6).astype(int), low + 1)
    if (low >= size).any() or (high <= 0).any():
        raise VolumeError(f"The region lies outside '{volume.name}'. Move it onto the volume.")
    low, high = np.maximum(low, 0), np.minimum(high, size)
    return as_region(bound for axis in (2, 1, 0) for bound in (low[axis], high[axis]))


def region_from_ras_box(
    volume: Volume, low: tuple[float, float, float], high: tuple[float, float, float]
) -> Region:
    """The region of a [k, j, i] volume that holds the box between two RAS corners, mm.

    Raises:
        VolumeError: See ``region_from_ras_points``.
    """
    return region_from_ras_points(volume, np.array(list(product(*zip(low, high)))))


# ------------------------------------------------------------------------------------ reorientation


def reorient(volume: Volume, axes: str = "LPS") -> Volume:
    """Permute and flip the [k, j, i] array so that i, j, k rise nearest to ``axes``.

    No value and no place changes.
    """
    letters = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    wanted = [letters[letter] for letter in axes]
    present = _patient_axes(volume.ijk_to_ras)
    columns = [present.index(axis) for axis, _ in wanted]
    flips = [
        (volume.ijk_to_ras[axis, column] > 0) != (sign > 0)
        for (axis, sign), column in zip(wanted, columns)
    ]
    return _permuted(volume, columns, flips)


def reorient_like(volume: Volume, original: Volume) -> Volume:
    """Undo ``reorient``: put a [k, j, i] volume back on the array axes of another.

    Args:
        volume: It covers the grid of ``original`` exactly.
        original: Its array axes are taken.

    Raises:
        VolumeError: The two grids are not the same voxels in another order.
    """
    relation = (
        np.linalg.inv(volume.ijk_to_ras) @ original.ijk_to_ras
    )  # original indices -> volume indices
    signs = np.rint(relation[:3, :3]).astype(int)
    columns = np.abs(signs).argmax(axis=0)
    back = volume
    if sorted(columns) == [0, 1, 2]:
        back = _permuted(
            volume, list(columns), [signs[column, new] < 0 for new, column in enumerate(columns)]
        )
    if not same_grid(back, original):
        raise VolumeError(
            f"'{volume.name}' and '{original.name}' do not cover the same voxels; resample one"
            " first."
        )
    return replace(back, ijk_to_ras=original.ijk_to_ras)


def _permuted(volume: Volume, columns: list[int], flips: list[bool]) -> Volume:
    """New index axis n is the old axis ``columns[n]`` (0 is i), reversed where ``flips[n]``."""
    change = np.zeros((4, 4))  # new indices -> old indices
    change[3, 3] = 1
    for new, (old, flip) in enumerate(zip(columns, flips)):
        change[old, new] = -1 if flip else 1
        change[old, 3] = volume.shape[2 - old] - 1 if flip else 0
    array = volume.array.transpose([2 - columns[2 - axis] for axis in range(3)])
    array = array[tuple(slice(None, None, -1 if flips[2 - axis] else 1) for axis in range(3))]
    return replace(volume, array=np.ascontiguousarray(array), ijk_to_ras=volume.ijk_to_ras @ change)


# --------------------------------------------------------------------------------------- resampling


def overlap_fraction(volume: Volume, reference: Volume) -> float:
    """Share (0 to 1) of the reference's voxels whose centres lie inside another volume [k, j, i].

    Counted on at most 64 positions per axis inside the box that can overlap.
    """
    to_volume = np.linalg.inv(volume.ijk_to_ras) @ reference.ijk_to_ras
    try:
        region = region_from_ras_points(
            reference, (volume.ijk_to_ras @ _corners(_whole(volume)))[:3].T
        )
    except VolumeError:
        return 0.0
    # Sampling inside the box only: a small volume in a large reference is not missed.
    k, j, i = (
        np.linspace(low, high - 1, min(high - low, 64))
        for low, high in zip(region[::2], region[1::2])
    )
    inside = np.ones((len(k), len(j), len(i)), dtype=bool)
    for row, size in zip(to_volume[:3], volume.shape[::-1]):
        index = row[0] * i + row[1] * j[:, None] + row[2] * k[:, None, None] + row[3]
        inside &= (index >= -0.5 - 1e-6) & (index <= size - 0.5 + 1e-6)
    box = np.prod([high - low for low, high in zip(region[::2], region[1::2])])
    return float(inside.mean() * box / np.prod(reference.shape))


def resample(
    volume: Volume, reference: Volume, order: str = "linear", fill: float | None = None
) -> Volume:
    """A volume on the grid of another; the same grid gives the same values back, untouched.

    Args:
        volume: [k, j, i].
        reference: Its grid is taken.
        order: "nearest" keeps the type; "linear" gives float32, or float64 for float64 and integers
            of 32 bits or more. No smoothing goes before: detail finer than the reference's spacing
            aliases.
        fill: Value outside ``volume``; None takes its smallest value (air in CT, background in MR),
            False in a mask.

    Raises:
        VolumeError: Either grid is unusable, a voxel is not finite, or the two do not overlap.
    """
    check(volume)
    _require_geometry(reference)
    if same_grid(volume, reference, tolerance=1e-6):
        return replace(volume, ijk_to_ras=reference.ijk_to_ras)
    if overlap_fraction(volume, reference) == 0:
        raise VolumeError(
            f"'{volume.name}' and '{reference.name}' do not overlap in space. Choose images of the"
            " same patient and place, or register them first (check their transforms)."
        )
    if fill is None:
        fill = 0 if volume.array.dtype == bool else volume.array.min()
    image = to_image(volume)
    kind = image.GetPixelID()
    if order != "nearest":
        kind = sitk.sitkFloat32 if np.can_cast(volume.array.dtype, np.float32) else sitk.sitkFloat64
    origin, spacing, direction = _geometry(reference)
    size = [int(length) for length in reference.shape[::-1]]
    image = sitk.Resample(
        image,
        size,
        sitk.Transform(),
        INTERPOLATORS[order],
        origin,
        spacing,
        direction,
        float(fill),
        kind,
    )
    array = sitk.GetArrayFromImage(image)
    if volume.array.dtype == bool and order == "nearest":
        array = array.astype(bool)
    return replace(volume, array=array, ijk_to_ras=reference.ijk_to_ras)


def _geometry(volume: Volume) -> tuple[list[float], list[float], list[float]]:
    """ITK's origin, spacing and direction (row by row), in LPS."""
    lps = RAS_FROM_LPS @ volume.ijk_to_ras
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    direction = lps[:3, :3] / spacing
    direction[np.abs(direction) < 1e-15] = (
        0  # ITK inverts by SVD, which underflows on denormal numbers
    )
    return lps[:3, 3].tolist(), spacing.tolist(), direction.ravel().tolist()


def to_image(volume: Volume) -> sitk.Image:
    """An ITK image of a [k, j, i] volume.

    bool becomes uint8 and float16 float32, types that ITK lacks.
    """
    kind = volume.array.dtype
    kind = {"bool": np.uint8, "float16": np.float32}.get(kind.name, kind.newbyteorder("="))
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array, kind))
    origin, spacing, direction = _geometry(volume)
    image.SetOrigin(origin)
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    return image


def image_ijk_to_ras(image: sitk.Image | sitk.ImageFileReader) -> np.ndarray:
    """The matrix of a 3-D ITK image or image reader.

    Returns:
        Of shape (4, 4), voxel indices (i, j, k, 1) to millimetres in RAS.
    """
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    lps[:3, 3] = image.GetOrigin()
    return RAS_FROM_LPS @ lps
