"""The anatomy-safe change of an MR image: a tone curve after smooth fields.

The curve is strictly monotone, the fields are a multiplicative and an additive one.

T(x) = curve(m x + a) at every voxel, x in scaled units (see ``mr``). No structure of clear contrast
can appear or vanish: at one place T never exchanges two intensities, between neighbouring places
only where they are closer than ``order_margin``, and ``inverse`` takes the change back. The fields
are uniform cubic B-splines whose control points lie at places in the patient (RAS mm), so that T
means the same on every grid. Nothing here cuts to a range: the caller does, afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..core.volumes import Volume

# Refused beyond these, so that a hostile file cannot ask for all the memory there is.
MAX_KNOTS = 4096
MAX_CONTROL_POINTS = 32_768
# |log m| stays below this: no place is made more than four times darker or brighter.
MAX_LOG_M = 1.4
SLAB_VOXELS = 1 << 20


class ToneFieldError(ValueError):
    """Numbers that are no tone curve or field; the message says which."""


@dataclass(frozen=True, eq=False)
class ToneField:
    """T(x) = curve(m x + a).

    Attributes:
        knots: (2, K) float64, K >= 2: where the curve is given and its values, both strictly
            increasing; straight between knots, and beyond the outermost as steep as the outermost
            piece.
        log_m: (k, j, i) control values of log m; m = exp of the B-spline.
        a: (k, j, i) control values of the additive field, scaled units; the shape of ``log_m``.
        control_to_ras: 4x4: indices (i, j, k, 1) of control points to millimetres. Beyond the outer
            control points their values go on.
    """

    knots: np.ndarray
    log_m: np.ndarray
    a: np.ndarray
    control_to_ras: np.ndarray

    def __post_init__(self):
        for name in ("knots", "log_m", "a", "control_to_ras"):
            object.__setattr__(self, name, np.array(getattr(self, name), np.float64))
        _check_curve(self.knots)
        _check_fields(self.log_m, self.a, self.control_to_ras)

    @staticmethod
    def identity() -> ToneField:
        """The T that changes nothing."""
        return ToneField(
            np.array([[0.0, 1.0], [0.0, 1.0]]), np.zeros((1, 1, 1)), np.zeros((1, 1, 1)), np.eye(4)
        )

    # The change -----------------------------------------------------------------------------------

    def apply(
        self, image: np.ndarray, ijk_to_ras: np.ndarray, where: np.ndarray | None = None
    ) -> np.ndarray:
        """T of a scaled image [k, j, i] on any grid, float32, not cut to a range.

        ``where`` limits it to tissue (boolean, the image's shape); elsewhere the image stays as it
        is.
        """
        return self._per_voxel(image, ijk_to_ras, where, lambda x, m, a: self.curve(m * x + a))

    def inverse(
        self, image: np.ndarray, ijk_to_ras: np.ndarray, where: np.ndarray | None = None
    ) -> np.ndarray:
        """The image that ``apply`` made this one of.

        Args:
            image: [k, j, i], scaled.
            ijk_to_ras: 4x4, voxel indices to RAS mm.
            where: Boolean, of the same shape: only there.

        Returns:
            float32, of the same shape.
        """
        return self._per_voxel(
            image, ijk_to_ras, where, lambda y, m, a: (self.curve_inverse(y) - a) / m
        )

    def curve(self, values: np.ndarray) -> np.ndarray:
        """The tone curve of values of any shape, float64."""
        return _straight_pieces(values, *self.knots)

    def curve_inverse(self, values: np.ndarray) -> np.ndarray:
        """What the curve takes to these values, float64 of the same shape."""
        return _straight_pieces(values, *self.knots[::-1])

    def fields(self, volume: Volume) -> tuple[Volume, Volume]:
        """m (no unit) and a (scaled units) on a volume's grid, [k, j, i] float32."""
        m, a = (np.empty(volume.shape, np.float32) for _ in range(2))
        for slab, points in _slabs(volume.shape, volume.ijk_to_ras, None):
            m[slab], a[slab] = (f.reshape(m[slab].shape) for f in self.fields_at(points))
        return (
            volume.with_array(m, "multiplicative field", ""),
            volume.with_array(a, "additive field", ""),
        )

    def fields_at(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """m and a at some points.

        Args:
            points: Of shape (3, N), RAS mm.

        Returns:
            Two of shape (N,), float64: m without unit, a in scaled units.
        """
        inverse = np.linalg.inv(self.control_to_ras)
        kji = (inverse[:3, :3] @ points + inverse[:3, 3:])[::-1]
        return np.exp(bspline(self.log_m, kji)), bspline(self.a, kji)

    def _per_voxel(self, image, ijk_to_ras, where, change) -> np.ndarray:
        result = np.array(image, np.float32, order="C")
        for slab, points in _slabs(image.shape, ijk_to_ras, where):
            # A view: what is assigned below lands in ``result``.
            part = result[slab]
            inside = slice(None) if where is None else where[slab].ravel()
            values = part.reshape(-1)
            values[inside] = change(values[inside].astype(np.float64), *self.fields_at(points))
        return result

    # How far it can go ----------------------------------------------------------------------------

    def steepest(self) -> tuple[float, float]:
        """Bounds on |grad log m| and |grad a|, per mm, that hold everywhere.

        A uniform cubic B-spline is nowhere steeper along an axis than the largest step between
        neighbouring control points; the matrix turns steps into millimetres.
        """
        per_mm = np.linalg.norm(np.linalg.inv(self.control_to_ras[:3, :3]), 2)
        of_log_m, of_a = (
            float(
                per_mm
                * np.linalg.norm(
                    [np.abs(np.diff(c, axis=axis)).max(initial=0) for axis in range(3)]
                )
            )
            for c in (self.log_m, self.a)
        )
        return of_log_m, of_a

    def order_margin(self, distance_mm: float, brightest: float = 1.3) -> float:
        """The difference above which two voxels so far apart keep their order.

        Neither is brighter than ``brightest``.

        For x_p > x_q, m_p x_p + a_p > m_q x_q + a_q follows from x_p - x_q > x_q (m_q / m_p - 1) +
        (a_q - a_p) / m_p.
        """
        slope_m, slope_a = self.steepest()
        return brightest * np.expm1(slope_m * distance_mm) + slope_a * distance_mm / np.exp(
            self.log_m.min()
        )

    # As numbers -----------------------------------------------------------------------------------

    def to_dict(self) -> dict:
        """Plain lists, for JSON: a T read back is the same to the last bit."""
        return {
            "formula": "T(x) = curve(m * x + a)",
            "curve": dict(zip(("input", "output"), self.knots.tolist())),
            "log_m": self.log_m.tolist(),
            "a": self.a.tolist(),
            "control_to_ras": self.control_to_ras.tolist(),
        }

    @staticmethod
    def from_dict(numbers: dict) -> ToneField:
        """Read what ``to_dict`` gave.

        Raises ToneFieldError if anything is missing or is no tone curve or field.
        """
        try:
            curve = [numbers["curve"]["input"], numbers["curve"]["output"]]
            return ToneField(
                np.array(curve), *(numbers[name] for name in ("log_m", "a", "control_to_ras"))
            )
        except (KeyError, TypeError, ValueError) as error:
            raise (
                error
                if isinstance(error, ToneFieldError)
                else ToneFieldError(f"not a tone field: {error!r}")
            ) from error


def bspline(control: np.ndarray, kji: np.ndarray) -> np.ndarray:
    """The uniform cubic B-spline of control values; beyond its ends it goes on.

    A weighted mean of control values, weights positive: it never leaves their range. It can be
    differentiated twice.

    Args:
        control: [k, j, i].
        kji: Positions among the control values, in their indices, shape (3, N).

    Returns:
        (N,) float64.
    """
    if control.size == 1:
        return np.full(kji.shape[1], control.item())
    # Ends repeated twice: SciPy's own way with ends would put a kink there. Farther out nothing
    # changes any more.
    inside = np.clip(kji, -2.0, np.array(control.shape)[:, None] + 1.0) + 2.0
    return ndimage.map_coordinates(
        np.pad(control, 2, mode="edge"), inside, order=3, prefilter=False, mode="nearest"
    )


def bspline_matrix(count: int, positions: np.ndarray) -> np.ndarray:
    """What ``bspline`` makes, along one axis, of each control value alone.

    Args:
        count: Control values along the axis.
        positions: In their indices, (N,).

    Returns:
        Matrix of shape (N, count).
    """
    where = np.zeros((3, len(positions)))
    where[2] = positions
    return np.stack([bspline(unit[None, None], where) for unit in np.eye(count)], axis=1)


def strictly_increasing(
    x: np.ndarray,
    y: np.ndarray,
    least_step: float = 1e-6,
    least_slope: float = 0.02,
    greatest_slope: float = 50.0,
) -> np.ndarray:
    """A tone curve from points that rise, but perhaps not strictly or not gently.

    Matched quantiles are such points.

    Points closer than ``least_step`` in x to the one before are left out; slopes are cut to the
    given range, and y is summed up again from the middle, so that the middle stays where it was.

    Args:
        x: Of shape (n,), never falling.
        y: Of shape (n,), never falling.
        least_step: In x.
        least_slope: Of the curve.
        greatest_slope: Of the curve.

    Returns:
        Knots of shape (2, K).
    """
    keep = [0]
    for k in range(1, len(x)):
        if x[k] > x[keep[-1]] + least_step:
            keep.append(k)
    x, y = np.asarray(x, np.float64)[keep], np.asarray(y, np.float64)[keep]
    if len(x) < 2:
        return np.array([[x[0], x[0] + 1], [y[0], y[0] + 1]])
    slopes = np.clip(np.diff(y) / np.diff(x), least_slope, greatest_slope)
    total = np.r_[0, np.cumsum(slopes * np.diff(x))]
    middle = len(x) // 2
    return np.array([x, total - total[middle] + y[middle]])


def _straight_pieces(values: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    piece = np.clip(np.searchsorted(x, values) - 1, 0, len(x) - 2)
    slope = np.diff(y) / np.diff(x)
    return y[piece] + (values - x[piece]) * slope[piece]


def _slabs(shape, ijk_to_ras, where) -> Iterator[tuple[slice, np.ndarray]]:
    """Slices of the first axis, and the RAS points (3, N) of their (chosen) voxels.

    They are about a million voxels each.
    """
    thickness = max(1, SLAB_VOXELS // max(1, shape[1] * shape[2]))
    for start in range(0, shape[0], thickness):
        slab = slice(start, min(start + thickness, shape[0]))
        chosen = np.ones((slab.stop - start, *shape[1:]), bool) if where is None else where[slab]
        k, j, i = np.nonzero(chosen)
        yield (
            slab,
            ijk_to_ras[:3, :3] @ np.stack([i, j, k + start]).astype(np.float64)
            + ijk_to_ras[:3, 3:],
        )


def _check_curve(knots: np.ndarray) -> None:
    if knots.ndim != 2 or knots.shape[0] != 2 or not 2 <= knots.shape[1] <= MAX_KNOTS:
        raise ToneFieldError(
            f"a tone curve needs 2 to {MAX_KNOTS} points (2, K), not an array of shape"
            f" {knots.shape}"
        )
    if not np.isfinite(knots).all() or not (np.diff(knots) > 0).all():
        raise ToneFieldError(
            "the tone curve is not strictly increasing: both rows of its points must rise"
        )


def _check_fields(log_m: np.ndarray, a: np.ndarray, matrix: np.ndarray) -> None:
    if log_m.ndim != 3 or log_m.shape != a.shape or not 1 <= log_m.size <= MAX_CONTROL_POINTS:
        raise ToneFieldError(
            f"log m {log_m.shape} and a {a.shape} must be control grids [k, j, i] of one shape, "
            f"at most {MAX_CONTROL_POINTS} points"
        )
    if not (np.isfinite(log_m).all() and np.isfinite(a).all() and np.abs(log_m).max() <= MAX_LOG_M):
        raise ToneFieldError(
            f"the fields must be finite, and log m between -{MAX_LOG_M} and {MAX_LOG_M}"
        )
    good = (
        matrix.shape == (4, 4)
        and np.isfinite(matrix).all()
        and np.allclose(matrix[3], (0, 0, 0, 1))
    )
    if not good or np.linalg.cond(matrix[:3, :3]) > 1e6:
        raise ToneFieldError("control_to_ras must be a 4x4 matrix that can be inverted")
