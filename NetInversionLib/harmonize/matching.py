"""The classical ways to make one scanner's intensities look like another's.

They are what harmonization has to beat.

Every method takes a scaled scan and knows the target by its quantiles alone (513, mean over its
people), and gives the scaled image back, float32 [k, j, i], 0 to 1.3, air left 0. ``peers`` has
them all by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..core import volumes
from . import scan as harmonize_scan
from .scan import Scan

FRACTIONS = np.linspace(0, 1, 513)
LANDMARKS = np.array([1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99]) / 100
N4_SHRINK, N4_ITERATIONS = 4, (30, 30, 30)
Method = Callable[[Scan], np.ndarray]


def quantiles(scan: Scan) -> np.ndarray:
    """The quantiles (0 to 100 %) of the scaled values inside the mask.

    Returns:
        Of shape (513,), float64.
    """
    return np.quantile(scan.inside.astype(np.float64), FRACTIONS)


def mean_quantiles(scans: Iterable[Scan]) -> np.ndarray:
    """A target's quantiles, the mean over its people; takes one scan at a time.

    Returns:
        Of shape (513,), float64, scaled units.

    Raises:
        ValueError: There is no scan.
    """
    rows = [quantiles(scan) for scan in scans]
    if not rows:
        raise ValueError(
            "no scans to take the target's quantiles from: name a folder with volumes of the target"
            " scanner"
        )
    return np.mean(rows, axis=0)


def match_histogram(scan: Scan, target: np.ndarray) -> np.ndarray:
    """Histogram matching: the source's 513 quantiles become the target's, straight lines between.

    Whatever outside the mask is darker or brighter than all inside takes the outermost value.

    Args:
        scan: Scaled, with its mask.
        target: The target's quantiles, (513,).

    Returns:
        The scaled image, [k, j, i] float32.
    """
    own, target = _knots(quantiles(scan), _checked(target))
    return _on_tissue(scan, lambda x: np.interp(x, own, target))


def match_landmarks(scan: Scan, target: np.ndarray) -> np.ndarray:
    """Nyúl's matching: percentiles 1, 10, 20, ..., 90, 99 become the target's.

    Straight lines lie between and beyond.

    Args:
        scan: Scaled, with its mask.
        target: The target's quantiles, (513,).

    Returns:
        The scaled image, [k, j, i] float32.

    Source:
        Nyúl, Udupa, Zhang, IEEE Trans Med Imaging 2000;19:143, with the target's mean percentiles
        as standard scale.
    """
    own = np.quantile(scan.inside.astype(np.float64), LANDMARKS)
    own, target = _knots(own, np.interp(LANDMARKS, FRACTIONS, _checked(target)))
    return _on_tissue(scan, lambda x: _through(x, own, target))


def match_moments(scan: Scan, target: np.ndarray) -> np.ndarray:
    """Z-score: the mean and standard deviation inside the mask become the target's.

    Args:
        scan: Scaled, with its mask.
        target: The target's quantiles, (513,).

    Returns:
        The scaled image, [k, j, i] float32.
    """
    inside = scan.inside.astype(np.float64)
    mean, deviation = moments(_checked(target))
    factor = deviation / max(inside.std(), 1e-12)
    return _on_tissue(scan, lambda x: (x - inside.mean()) * factor + mean)


def remove_field(scan: Scan) -> np.ndarray:
    """N4: estimate and remove a smooth multiplicative field inside the mask.

    The image is scaled anew by the 99.5th percentile. The field is fitted on every fourth voxel
    along each axis (all of them where that would leave less than 16), 30 iterations on each of
    three levels.

    Returns:
        The scaled image, [k, j, i] float32.

    Source:
        Tustison et al., IEEE Trans Med Imaging 2010;29:1310, in SimpleITK.
    """
    inside = scan.mask & (scan.image > 0)
    shrink = [max(1, min(N4_SHRINK, size // 16)) for size in scan.volume.shape[::-1]]
    image = volumes.to_image(scan.volume)
    mask = sitk.GetImageFromArray(inside.astype(np.uint8))
    mask.CopyInformation(image)
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations(N4_ITERATIONS)
    n4.SetNumberOfThreads(
        1
    )  # sums in another order round otherwise: the same scan must give the same bits
    n4.Execute(sitk.Shrink(image, shrink), sitk.Shrink(mask, shrink))
    field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image))
    return harmonize_scan.rescaled(scan.image / np.exp(field), scan.mask)


def peers(target: np.ndarray) -> dict[str, Method]:
    """The classical methods by name, and "source", which changes nothing.

    Args:
        target: Quantiles of shape (513,), as from ``mean_quantiles``.

    Returns:
        Functions from a scaled scan to the scaled image [k, j, i].
    """
    last: dict[str, Any] = {}

    # N4 takes seconds and two methods ask for it in turn
    def without_field(scan: Scan) -> np.ndarray:
        if last.get("scan") is not scan:
            last.update(scan=scan, image=remove_field(scan))
        return last["image"]

    return {
        "source": lambda scan: scan.image,
        "histogram matching": lambda scan: match_histogram(scan, target),
        "Nyúl": lambda scan: match_landmarks(scan, target),
        "N4": without_field,
        "N4 + Nyúl": lambda scan: match_landmarks(scan.with_image(without_field(scan)), target),
        "z-score": lambda scan: match_moments(scan, target),
    }


def moments(target: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of a distribution known by its quantiles, straight lines between.

    Args:
        target: Quantiles at even fractions from 0 to 1, of shape (513,).
    """
    low, high = target[:-1], target[1:]
    mean = np.mean(low + high) / 2
    return float(mean), float(np.sqrt(max(np.mean(low**2 + low * high + high**2) / 3 - mean**2, 0)))


# Pieces -------------------------------------------------------------------------------------------


def _checked(target: np.ndarray) -> np.ndarray:
    target = np.asarray(target, np.float64)
    if (
        target.shape != FRACTIONS.shape
        or not np.isfinite(target).all()
        or (np.diff(target) < 0).any()
    ):
        raise ValueError(
            f"a target is known by {len(FRACTIONS)} quantiles that never fall; these are not (shape"
            f" {target.shape})"
        )
    return target


def _knots(own: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (own value, target value) with each own value once.

    Equal values go to the mean of where they would.
    """
    values, place, count = np.unique(own, return_inverse=True, return_counts=True)
    return values, np.bincount(place, target) / count


def _through(x: np.ndarray, own: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Straight lines through the knots, the outer ones going on beyond."""
    if len(own) < 2:
        return x + (target[0] - own[0])
    line = np.clip(np.searchsorted(own, x, side="right") - 1, 0, len(own) - 2)
    slope = np.diff(target) / np.diff(own)
    return target[line] + (x - own[line]) * slope[line]


def _on_tissue(scan: Scan, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Apply to the mask and to all that shines outside it; cut to the range; air stays 0."""
    tissue = scan.mask | (scan.image > 0)
    image = np.zeros_like(scan.image)
    image[tissue] = np.clip(
        change(scan.image[tissue].astype(np.float64)), 0, harmonize_scan.BRIGHTEST
    )
    return image
