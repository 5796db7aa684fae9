"""Does harmonization keep what is true of a person? Tissues and ventricles against given labels.

Exact matching of distributions gives everybody the same shares of dark and bright voxels: who has
large ventricles then gets a changed white matter. Correlations over people show it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core import meaning, volumes
from ..core.volumes import Volume
from ..harmonize.scan import Scan
from ..harmonize.similarity import Tissues

# Region numbers of MUSE/DLMUSE labels; every other one that is not 0 is grey matter.
MUSE_CSF = (1, 4, 11, 46, 49, 50, 51, 52)
MUSE_VENTRICLES = (4, 11, 49, 50, 51, 52)
MUSE_WHITE = (35, 40, 41, *range(81, 96))
DRAWS, INTERVAL = 2000, (2.5, 97.5)
TISSUES_ONLY = 3  # labels up to this number are CSF, grey and white matter


@dataclass(frozen=True)
class Labels:
    """What labels say of a person.

    Attributes:
        classes: 0, 1, 2 for CSF, grey and white matter on the scan's grid [k, j, i]; -1 elsewhere.
        ventricles: Share of the labelled voxels that are ventricles; of CSF, where labels name
            tissues only.
    """

    classes: np.ndarray
    ventricles: float


def read_labels(scan: Scan, labels: Volume) -> Labels:
    """Labels on the scan's grid, inside its mask.

    Args:
        scan: Scaled, with its mask.
        labels: MUSE numbers, or 1, 2, 3 for CSF, grey and white matter, [k, j, i].
    """
    turned = volumes.reorient(meaning.require_labels(volumes.check(labels)), "RAS")
    numbers = volumes.resample(turned, scan.volume, "nearest", fill=0).array
    few = numbers.max() <= TISSUES_ONLY
    classes = np.where(numbers > 0, 1, -1)
    classes[np.isin(numbers, (1,) if few else MUSE_CSF)] = 0
    classes[np.isin(numbers, (3,) if few else MUSE_WHITE)] = 2
    labelled = scan.mask & (numbers > 0)
    inner = np.isin(numbers, (1,) if few else MUSE_VENTRICLES) & labelled
    share = float(inner.sum() / max(int(labelled.sum()), 1))
    return Labels(np.where(scan.mask, classes, -1), share)


# Of one person -----------------------------------------------------------------------------------


LABEL_HEADINGS = [
    "white/grey in labels",
    "grey/CSF in labels",
    "CSF overlap",
    "grey overlap",
    "white overlap",
    "joint variation",
    "ventricle share",
    "fitted CSF share",
    "white value",
]


def in_labels(scan: Scan, labels: Labels | None, fitted: Tissues) -> tuple[float, ...]:
    """The figures of ``LABEL_HEADINGS``; NaN without labels.

    Contrasts of the labelled tissues' means as ``Tissues.contrasts``; Dice's overlap of the fitted
    classes with the labels; joint variation of white and grey matter; the ventricles' share by the
    labels and the CSF's by the fit; the mean of labelled white matter, scaled units.

    Args:
        scan: Scaled, source or harmonized.
        labels: Of the person.
        fitted: To the scan.
    """
    if labels is None:
        return (float("nan"),) * len(LABEL_HEADINGS)
    values = [scan.image[labels.classes == tissue] for tissue in range(3)]
    means = np.array([of.mean() for of in values])
    return (
        *Tissues(means, np.ones(3), 1.0).contrasts,
        *overlaps(scan, labels, fitted),
        joint_variation(values[2], values[1]),
        labels.ventricles,
        float(fitted.shares[0]),
        float(means[2]),
    )


def overlaps(scan: Scan, labels: Labels, fitted: Tissues) -> tuple[float, ...]:
    """Dice overlap of the fitted classes with labelled CSF, grey and white matter.

    Args:
        scan: Scaled, with its mask.
        labels: Of the same person.
        fitted: To the scan.
    """
    labelled = labels.classes >= 0
    told, truth = fitted.classify(scan.image[labelled]), labels.classes[labelled]
    return tuple(
        float(
            2 * np.sum((told == t) & (truth == t)) / max(np.sum(told == t) + np.sum(truth == t), 1)
        )
        for t in range(3)
    )


def joint_variation(white: np.ndarray, grey: np.ndarray) -> float:
    """The spread within two tissues, beside what lies between them: less is better.

    (sd of white + sd of grey) / |mean of white - mean of grey|; infinite where means are equal.

    Args:
        white: Values of any shape, any unit.
        grey: Likewise.

    Source:
        Likar, Viergever & Pernuš, IEEE Trans Med Imaging 2001;20:1398.
    """
    between = abs(float(white.mean(dtype=float)) - float(grey.mean(dtype=float)))
    spread = float(white.std(dtype=float) + grey.std(dtype=float))
    return spread / between if between else float("inf")


# Over people -------------------------------------------------------------------------------------


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's r of (people,) and (people,); NaN of fewer than three, or of no spread."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def kept(
    x: np.ndarray, before: np.ndarray, after: np.ndarray, seed: int = 0
) -> tuple[float, float, float, float]:
    """Whether a correlation with x stays what it was.

    Args:
        x: Of each person, (people,): what is true of them.
        before: A measurement on the images as they came, (people,).
        after: The same on the harmonized ones.
        seed: Of the bootstrap.

    Returns:
        The correlation after, its difference from before, and the interval (95 %, people drawn
        anew with replacement) in which the difference lies.
    """
    found = correlation(x, after)
    difference = found - correlation(x, before)
    if not np.isfinite(difference):
        return found, difference, float("nan"), float("nan")
    drawn = np.random.default_rng(seed).integers(0, len(x), (DRAWS, len(x)))
    apart = _rows(x[drawn], after[drawn]) - _rows(x[drawn], before[drawn])
    low, high = np.nanpercentile(apart, INTERVAL)
    return found, difference, float(low), float(high)


def _rows(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's r of each row of (draws, people); NaN where a draw has no spread."""
    x, y = (a - a.mean(axis=1, keepdims=True) for a in (x, y))
    scale = np.sqrt(np.sum(x**2, axis=1) * np.sum(y**2, axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(scale > 0, np.sum(x * y, axis=1) / scale, np.nan)
