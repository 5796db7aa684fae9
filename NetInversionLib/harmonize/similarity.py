"""How alike are two MR images, or two scanners?

It is told by errors against a truth, distributions, edges, slices and tissues.

Images are scaled (0 to 1.3) and [k, j, i]; every figure is of the voxels inside a mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, special
from skimage import metrics

from .matching import FRACTIONS

PEAK = 1.0  # the range of PSNR and SSIM: scaled images reach it at their 99.5th percentile
SSIM_WINDOW = 7


# Against the truth --------------------------------------------------------------------------------


def psnr(image: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Peak signal-to-noise ratio inside the mask, dB, for a peak of 1.0; infinite for equal images.

    Args:
        image: [k, j, i], scaled.
        truth: Of the same shape.
        mask: Boolean, of the same shape.
    """
    difference = np.subtract(image[mask], truth[mask], dtype=np.float64)
    squared = np.mean(difference**2)
    return float(10 * np.log10(PEAK**2 / squared)) if squared else float("inf")


def mae(image: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Mean absolute difference inside the mask, scaled units.

    Args:
        image: [k, j, i], scaled.
        truth: Of the same shape.
        mask: Boolean, of the same shape.
    """
    return float(np.mean(np.abs(np.subtract(image[mask], truth[mask], dtype=np.float64))))


def ssim(image: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Structural similarity for a range of 1.0, its map averaged inside the mask.

    3-D, scikit-image's uniform window of 7 voxels a side (the largest odd one that fits a thin
    volume).

    Args:
        image: [k, j, i], scaled.
        truth: Of the same shape.
        mask: Boolean, of the same shape.

    Raises:
        ValueError: The volume has fewer than three slices along an axis.
    """
    window = min(SSIM_WINDOW, *((size - 1) // 2 * 2 + 1 for size in image.shape))
    if window < 3:
        raise ValueError(
            f"SSIM needs three slices along each axis, the volume has shape {image.shape}"
        )
    near = box(mask, window // 2)
    return _ssim(image[near], truth[near], mask[near], window)


def _ssim(image: np.ndarray, truth: np.ndarray, mask: np.ndarray, window: int) -> float:
    # The box may be thinner than the window near a border of the volume.
    pad = [(0, max(0, window - size)) for size in image.shape]
    image, truth = (np.pad(x.astype(np.float32), pad, mode="symmetric") for x in (image, truth))
    _, values = metrics.structural_similarity(
        image, truth, win_size=window, data_range=PEAK, full=True
    )
    return float(values[tuple(map(slice, mask.shape))][mask].mean(dtype=np.float64))


def box(mask: np.ndarray, margin: int = 0) -> tuple[slice, slice, slice]:
    """The slices that hold all of a mask and a margin, as far as the volume goes.

    Args:
        mask: Boolean, [k, j, i].
        margin: Voxels on each side.
    """
    slices = ndimage.find_objects(mask.astype(np.uint8))[0]
    k, j, i = (
        slice(max(s.start - margin, 0), min(s.stop + margin, size))
        for s, size in zip(slices, mask.shape)
    )
    return k, j, i


# Distributions ------------------------------------------------------------------------------------


def wasserstein(quantiles: np.ndarray, other: np.ndarray) -> float:
    """Wasserstein-1 distance of two distributions, scaled units.

    The integral of |difference| over the fractions, straight lines between, so exact also where the
    two cross.

    Args:
        quantiles: Of the one, shape (513,).
        other: Of the other, of the same shape.
    """
    difference = np.asarray(quantiles, np.float64) - np.asarray(other, np.float64)
    left, right = np.abs(difference[:-1]), np.abs(difference[1:])
    crosses = difference[:-1] * difference[1:] < 0
    total = left + right
    area = np.where(crosses, (left**2 + right**2) / np.where(total > 0, total, 1), total) / 2
    return float(np.sum(area * np.diff(FRACTIONS)))


def leave_one_out_distances(quantiles: np.ndarray) -> np.ndarray:
    """For each person of a cohort, the Wasserstein distance to the mean of the others'.

    Args:
        quantiles: Of shape (people, 513).

    Returns:
        Of shape (people,), scaled units.
    """
    others = (quantiles.sum(axis=0) - quantiles) / (len(quantiles) - 1)
    return np.array([wasserstein(own, rest) for own, rest in zip(quantiles, others)])


# Structure ----------------------------------------------------------------------------------------


def edge_agreement(image: np.ndarray, source: np.ndarray, mask: np.ndarray) -> float:
    """Whether edges are where they were and rise as they did: sum(g . h) / sum(|g| |h|).

    g and h are the gradients of the two images: central differences, in voxels. 1 for any image
    whose edges point as the source's do, however strong they are; 0 for unrelated ones; -1 for the
    negative.

    Args:
        image: [k, j, i], any unit.
        source: Of the same shape.
        mask: Boolean, of the same shape; it is eroded by one voxel, so that its border does not
            count.
    """
    near = box(mask, 1)
    inside = ndimage.binary_erosion(mask[near])
    one, other = (
        np.stack([np.asarray(g)[inside] for g in np.gradient(x[near].astype(np.float32))])
        for x in (image, source)
    )
    lengths = np.sqrt(np.sum(one**2, axis=0) * np.sum(other**2, axis=0)).sum(dtype=np.float64)
    return float(np.sum(one * other, dtype=np.float64) / lengths) if lengths else 1.0


def slice_score(image: np.ndarray, source: np.ndarray, mask: np.ndarray) -> float:
    """How much more an image jumps from slice to slice than the source does.

    J(x) along an axis is the root mean square of a[k-1] - 2 a[k] + a[k+1], divided by the standard
    deviation of x in the mask, where a is x averaged over 9x9 voxels of each slice (those of the
    mask). The score is the largest ln(J(image) / J(source)) of the three axes. A change of contrast
    or a smooth field hardly moves it; flicker of whole slices or patches does.

    Args:
        image: [k, j, i], any unit.
        source: Of the same shape.
        mask: Boolean, of the same shape.

    Returns:
        0 as the source, positive for more.
    """
    near = box(mask)
    image, source, mask = image[near], source[near], mask[near]
    scores = []
    for axis in range(3):
        if mask.shape[axis] > 2:
            jumps = [_jumps(x, mask, axis) for x in (image, source)]
            scores.append(np.log((jumps[0] + 1e-9) / (jumps[1] + 1e-9)))
    return float(max(scores, default=0.0))


def _jumps(image: np.ndarray, mask: np.ndarray, axis: int) -> float:
    size = [1 if a == axis else 9 for a in range(3)]
    weight = ndimage.uniform_filter(mask.astype(np.float32), size, mode="constant")
    mean = ndimage.uniform_filter(
        np.where(mask, image, 0).astype(np.float32), size, mode="constant"
    ) / np.maximum(weight, 0.01)
    mean, inside = np.moveaxis(mean, axis, 0), np.moveaxis(mask, axis, 0)
    second = mean[:-2] - 2 * mean[1:-1] + mean[2:]
    second = second[inside[:-2] & inside[1:-1] & inside[2:]].astype(np.float64)
    deviation = image[mask].std(dtype=np.float64)
    return float(np.sqrt(np.mean(second**2)) / deviation) if second.size and deviation > 0 else 0.0


# Tissues ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tissues:
    """Three Gaussians of one width that make up the histogram inside a mask.

    Dark to bright: CSF, grey and white matter in T1.

    Attributes:
        means, shares: (3,) each; scaled units; the shares add up to 1.
        deviation: Of each of the three. One for all: a class of its own width is free to swallow
            its neighbour's tail, and does.
    """

    means: np.ndarray
    shares: np.ndarray
    deviation: float

    @property
    def contrasts(self) -> tuple[float, float]:
        """White/grey and grey/CSF in T1.

        (bright - middle) / (bright + middle), and the same of middle and dark.
        """
        dark, middle, bright = self.means
        return float((bright - middle) / (bright + middle)), float(
            (middle - dark) / (middle + dark)
        )

    def classify(self, values: np.ndarray) -> np.ndarray:
        """The likeliest class, 0 to 2, of each value; of the shape of ``values``."""
        # Equal widths: the densities of two classes cross once, halfway but for their shares.
        gap = np.maximum(np.diff(self.means), 1e-9)
        borders = (self.means[1:] + self.means[:-1]) / 2 - self.deviation**2 * np.diff(
            np.log(self.shares)
        ) / gap
        return np.digitize(values, np.maximum.accumulate(borders))


def fit_tissues(values: np.ndarray, bins: int = 512, rounds: int = 5000) -> Tissues:
    """Three classes, fitted to a histogram by expectation-maximisation until nothing moves.

    No labels, no chance. Starts from the three groups of least variance (k-means on the histogram,
    from its 10, 50 and 90 % points).

    Args:
        values: Inside the mask, scaled, of any shape; zeros are left out.
        bins: Of the histogram.
        rounds: At most so many.

    Raises:
        ValueError: Fewer than three different values.
    """
    count, border = np.histogram(values[values > 0], bins)
    if np.count_nonzero(count) < 3:
        raise ValueError(
            "three tissue classes need at least three different values inside the mask"
        )
    x, weight = (border[1:] + border[:-1]) / 2, count / count.sum()
    means, shares = _three_means(x, weight), np.full(3, 1 / 3)
    deviation = (
        np.sqrt(np.sum(weight * np.min((x - means[:, None]) ** 2, axis=0))) + border[1] - border[0]
    )
    for _ in range(rounds):
        belongs = (
            special.softmax(
                np.log(shares)[:, None] - ((x - means[:, None]) / deviation) ** 2 / 2, axis=0
            )
            * weight
        )
        shares, before = belongs.sum(axis=1) + 1e-12, means
        means = belongs @ x / shares
        deviation = max(np.sqrt(np.sum(belongs * (x - means[:, None]) ** 2)), border[1] - border[0])
        if np.abs(means - before).max() < 1e-7:
            break
    order = np.argsort(means)
    return Tissues(means[order], (shares / shares.sum())[order], float(deviation))


def _three_means(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    cumulative = np.cumsum(weight)
    means = np.interp((0.1, 0.5, 0.9), cumulative, x)
    for _ in range(200):
        nearest = np.abs(x - means[:, None]).argmin(axis=0)
        mass = np.bincount(nearest, weight, 3)
        means = np.where(
            mass > 0, np.bincount(nearest, weight * x, 3) / np.maximum(mass, 1e-12), means
        )
    return means
