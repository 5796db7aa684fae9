"""What still tells two scanners apart: a classifier, and the site effects that ComBat estimates.

The classifier sees a few simple features of each scan. It is asked twice: trained anew to
convergence on the images in question, with people dealt into folds from several seeds; and frozen,
as it was trained on the images as they came. Nobody is judged by a classifier that has seen them,
and no feature counts beyond the range of the scans trained on: a bin that is next to empty in these
would decide alone, from few voxels.

Sources: logistic regression on image features as a check of harmonization, Glocker et al.,
arXiv:1910.04597; additive and multiplicative site effects, Johnson, Li & Rabinovic, Biostatistics
2007;8:118, and Fortin et al., NeuroImage 2018;167:104.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, optimize, special

from ..harmonize import scan as harmonize_scan
from ..harmonize.similarity import box

SPACING_MM = 2.0
EROSION = 2  # voxels of the classifier's grid
FOLDS, SEEDS = 5, 5
STRENGTH = 1.0  # of the penalty on the weights

# Features ----------------------------------------------------------------------------------------


def features(scan: harmonize_scan.Scan) -> dict[str, np.ndarray]:
    """What the classifier sees of a scan, on a common 2 mm grid inside an eroded mask.

    Returns:
        "histogram" of shape (26,): shares of 26 bins, 0 to 1.3. "texture" of shape (12,): mean
        gradient magnitude, mean absolute Laplacian and standard deviation over 3x3x3 voxels, in
        four bands of brightness.
    """
    image, mask = _on_common_grid(scan)
    values = image[mask]
    shares = np.histogram(values, 26, (0, harmonize_scan.BRIGHTEST))[0] / len(values)
    maps = (
        ndimage.gaussian_gradient_magnitude(image, 0.5),
        np.abs(ndimage.laplace(image)),
        np.sqrt(
            np.maximum(
                ndimage.uniform_filter(image**2, 3) - ndimage.uniform_filter(image, 3) ** 2, 0
            )
        ),
    )
    band = np.digitize(values, np.quantile(values, (0.25, 0.5, 0.75)))
    texture = [
        m[mask][band == b].mean() if (band == b).any() else 0.0 for m in maps for b in range(4)
    ]
    return {"histogram": shares, "texture": np.array(texture)}


def _on_common_grid(scan: harmonize_scan.Scan) -> tuple[np.ndarray, np.ndarray]:
    """Image and eroded mask, resampled to 2 mm voxels; smoothed first where voxels are finer.

    The whole mask if all erodes.
    """
    near = box(scan.mask, 2)
    spacing = np.array(scan.volume.spacing_mm[::-1])
    image, mask = scan.image[near].astype(np.float32), scan.mask[near]
    # A Gaussian as wide as the new voxel, less the old voxel's own width.
    image = ndimage.gaussian_filter(
        image, np.sqrt(np.maximum(SPACING_MM**2 - spacing**2, 0)) / 2.355 / spacing
    )
    steps = SPACING_MM / spacing
    shape = np.maximum(((np.array(image.shape) - 1) / steps).astype(int) + 1, 1)
    image = ndimage.affine_transform(
        image, steps, output_shape=tuple(shape), order=1, mode="nearest"
    )
    mask = (
        ndimage.affine_transform(
            mask.astype(np.float32), steps, output_shape=tuple(shape), order=1, mode="nearest"
        )
        > 0.5
    )
    eroded = ndimage.binary_erosion(mask, iterations=EROSION)
    inside = eroded if eroded.any() else mask
    return image, inside if inside.any() else np.ones_like(mask)


# The classifier ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """How well the sites are told apart: balanced accuracies, 0 to 1; 0.5 is guessing.

    Attributes:
        anew: Of classifiers trained on the images in question, one for each seed.
        frozen: Of those trained on the images as they came, one for each seed.
    """

    anew: tuple[float, ...]
    frozen: tuple[float, ...]


def told_apart(
    seen: Mapping[str, np.ndarray],
    sites: Sequence[int],
    people: Sequence[str],
    seeds: int = SEEDS,
) -> dict[str, Told]:
    """How well a classifier tells the two sites apart, in people whom it has not seen.

    Args:
        seen: Features of shape (scans, features) by method. "source" is of the images as they came:
            the frozen classifier is trained on these.
        sites: 0 or 1 for each scan.
        people: Whose scan it is: all scans of a person are left out together.
        seeds: How often people are dealt into folds, and classifiers trained.

    Returns:
        By method; last "chance", where people are given sites at random before the training. What
        the classifier then reaches on "source" is what a figure is worth that means nothing.

    Raises:
        ValueError: One of the two sites has fewer than two people.
    """
    site_of, whose = np.asarray(sites), np.asarray(people)
    if any(len(set(whose[site_of == site])) < 2 for site in (0, 1)):
        raise ValueError("a site classifier needs at least two people of each of two sites")
    anew: dict[str, list[float]] = {name: [] for name in (*seen, "chance")}
    frozen: dict[str, list[float]] = {name: [] for name in (*seen, "chance")}
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        fold = _folds(site_of, whose, random)
        kept = _trained(seen["source"], site_of, fold)
        for name, x in seen.items():
            own = kept if name == "source" else _trained(x, site_of, fold)
            anew[name].append(_accuracy(own, x, site_of, fold))
            frozen[name].append(_accuracy(kept, x, site_of, fold))
        guessed = shuffled(site_of, whose, random)
        fold = _folds(guessed, whose, random)
        by_chance = _trained(seen["source"], guessed, fold)
        anew["chance"].append(_accuracy(by_chance, seen["source"], guessed, fold))
    return {name: Told(tuple(anew[name]), tuple(frozen[name])) for name in anew}


def shuffled(sites: np.ndarray, people: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The sites, (scans,), given to other people; who was on both is turned round or not.

    Args:
        sites: 0 or 1 for each scan.
        people: Whose it is.
        random: Decides.
    """
    names, first = np.unique(people, return_index=True)
    both = np.array([len(set(sites[people == name])) > 1 for name in names])
    given = sites[first]
    given[~both] = random.permutation(given[~both])
    turned = random.integers(0, 2, len(names))
    place = np.searchsorted(names, people)
    return np.where(both[place], sites ^ turned[place], given[place])


def _folds(sites: np.ndarray, people: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The fold of each scan: people of either site are dealt in turn, and nobody is split."""
    groups = [list(dict.fromkeys(people[sites == site])) for site in (0, 1)]
    folds = min(FOLDS, *map(len, groups))
    fold: dict[str, int] = {}
    for group in groups:
        new = [name for name in random.permutation(group) if name not in fold]
        fold |= {name: n % folds for n, name in enumerate(new)}
    return np.array([fold[name] for name in people])


@dataclass(frozen=True)
class _Trained:
    """A classifier of one fold.

    Attributes:
        mean, deviation, low, high: Of each feature in the scans trained on, (features,).
        weights: Intercept first, (features + 1,).
    """

    mean: np.ndarray
    deviation: np.ndarray
    low: np.ndarray
    high: np.ndarray
    weights: np.ndarray

    def second(self, x: np.ndarray) -> np.ndarray:
        """Whether scans, (scans, features), are told to be of the second site."""
        known = np.clip(x, self.low, self.high)
        standardised = (known - self.mean) / self.deviation
        return standardised @ self.weights[1:] + self.weights[0] > 0


def _trained(x: np.ndarray, sites: np.ndarray, fold: np.ndarray) -> list[_Trained]:
    """Of each fold: what is learned from the other folds."""
    found = []
    for out in range(fold.max() + 1):
        known, site_of = x[fold != out], sites[fold != out]
        mean, deviation = known.mean(axis=0), known.std(axis=0)
        deviation = np.where(deviation > 1e-9, deviation, np.inf)
        weights = converged((known - mean) / deviation, site_of, STRENGTH)
        found.append(_Trained(mean, deviation, known.min(axis=0), known.max(axis=0), weights))
    return found


def _accuracy(trained: list[_Trained], x: np.ndarray, sites: np.ndarray, fold: np.ndarray) -> float:
    right = np.zeros(len(sites), bool)
    for out, classifier in enumerate(trained):
        own = fold == out
        right[own] = classifier.second(x[own]) == (sites[own] == 1)
    return float(np.mean([right[sites == site].mean() for site in (0, 1)]))


def converged(x: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
    """Weights (intercept first) of least weighted cross-entropy and penalty.

    The problem is convex, so the end is the end, whatever the start.

    Args:
        x: Standardised features, (scans, features).
        y: 0 or 1 for each scan; the two weigh the same.
        strength: Half of it times the squared weights is the penalty.
    """
    x, sign = np.c_[np.ones(len(x)), x], 2.0 * y - 1
    weight = np.where(y, 1 / y.sum(), 1 / (1 - y).sum()) * len(y) / 2
    penalised = np.r_[0.0, np.ones(x.shape[1] - 1)] * strength

    def loss(w):
        margin = sign * (x @ w)
        value = np.sum(weight * np.logaddexp(0, -margin)) + np.sum(penalised * w**2) / 2
        return value, -(weight * sign * special.expit(-margin)) @ x + penalised * w

    return optimize.minimize(
        loss,
        np.zeros(x.shape[1]),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 10_000, "gtol": 1e-7, "ftol": 1e-14},
    ).x


# Site effects ------------------------------------------------------------------------------------


def site_effects(values: np.ndarray, sites: np.ndarray) -> tuple[float, float]:
    """The additive and multiplicative site effects, as ComBat estimates them before shrinking.

    Args:
        values: Measurements of shape (scans, measurements), such as the tissues' means.
        sites: 0 or 1 for each scan.

    Returns:
        How far the sites' means lie apart, in standard deviations within a site; and by which
        factor the two standard deviations differ, at least 1. Means over the measurements, that of
        factors geometric.
    """
    groups = [values[sites == site] for site in (0, 1)]
    least = 1e-9
    deviations = np.array([group.std(axis=0, ddof=1) for group in groups]) + least
    free = np.array([len(group) - 1 for group in groups])
    pooled = np.sqrt(free @ deviations**2 / free.sum())
    apart = np.abs(groups[1].mean(axis=0) - groups[0].mean(axis=0)) / pooled
    factors = np.abs(np.log(deviations[1] / deviations[0]))
    return float(apart.mean()), float(np.exp(factors.mean()))
