"""Model observers: how well could a known signal be told from noise, as the index d'?

An observer multiplies an image with its template and adds up; d' is the distance between its scores
with and without the signal, in units of their standard deviation. Two templates: the matched filter
is the signal as the images show it; the Hotelling observer also knows how the noise is correlated,
as far as some channels tell (Laguerre-Gauss, round like the nodule). Each is learned from some
draws of the noise and judged on others. Every draw comes twice, with and without the signal: the
signal in the images is then known nearly without noise.

Of two images that differ by such a signal an observer picks the right one with the probability
Phi(d' / sqrt(2)): 76 % at d' = 1, chance at 0. That is the lower threshold; the upper is Rose's.

Sources: Barrett & Myers, Foundations of Image Science, Wiley 2004 (observers, d'); Gallas and
Barrett, J Opt Soc Am A 2003;20:1725 (Laguerre-Gauss channels); Rose, Vision: Human and Electronic,
Plenum 1973, and Burgess, The Rose model, revisited, J Opt Soc Am A 1999;16:633 (seen reliably from
5 on); Vaishnav et al., Med Phys 2014;41:071904 (such observers for CT that is not linear).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

CHANNELS = 5
FEWEST_DRAWS = 4 * CHANNELS  # for two halves that each tell the channels' covariance
HIDDEN_BELOW, SEEN_FROM = 1.0, 5.0  # d': 76 % right of two; Rose's criterion
VANISHES, MISSED, TOO_CLOSE = "could vanish", "could be missed", "too close to a threshold to tell"
NORMAL, AS_IT_IS, DENOISED, BLURRED = WAYS = (
    "at normal dose",
    "as it is",
    "denoised",
    "blurred as much",
)
"""Images that d' is told of: the headings are "d' <way>" and "standard error of d' <way>"."""
IN_WORDS = "denoised, in words"

Template = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Of images without and with the signal, (N, P) each: the template, (P,)."""


@dataclass(frozen=True)
class Detection:
    """How far apart scores lie: ``dprime``, and its standard error over the draws."""

    dprime: float
    error: float


def detection(absent: np.ndarray, present: np.ndarray) -> Detection:
    """d' of scores, with its standard error by the jackknife.

    Args:
        absent: Scores of the draws without the signal, (N,).
        present: Of the same draws with it, or of as many others.

    Returns:
        Negative d' where the scores are the wrong way round; infinite where they do not vary.
    """
    both = np.stack([absent, present]).astype(np.float64)
    both -= both.mean(1, keepdims=True).mean()
    whole = float(_dprime(both.sum(1), np.square(both).sum(1), both.shape[1]))
    one_less = _dprime(
        both.sum(1, keepdims=True) - both,
        np.square(both).sum(1, keepdims=True) - np.square(both),
        both.shape[1] - 1,
    )
    if not np.isfinite([whole, *one_less]).all():
        return Detection(whole, math.nan)
    return Detection(whole, math.sqrt(both.shape[1] - 1) * float(one_less.std()))


def _dprime(sums: np.ndarray, squares: np.ndarray, count: int) -> np.ndarray:
    """d' from sums and sums of squares, (2, ...), of ``count`` scores without and with signal."""
    gap = (sums[1] - sums[0]) / count
    variance = (squares - sums**2 / count).clip(0).mean(0) / (count - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(gap == 0, 0.0, gap / np.sqrt(variance))


# Templates ----------------------------------------------------------------------------------------


def matched_filter(absent: np.ndarray, present: np.ndarray) -> np.ndarray:
    """The mean difference: the signal as the images (N, P) show it; (P,)."""
    return (present - absent).mean(0)


def hotelling(channels: np.ndarray) -> Template:
    """The best template that is a sum of channels (C, P), given their covariance in the draws.

    K^-1 s with the channels' covariance K, the mean of that with and that without the signal, and
    the channels' mean difference s.
    """

    def template(absent: np.ndarray, present: np.ndarray) -> np.ndarray:
        seen = [images @ channels.T for images in (absent, present)]
        covariance = sum(np.cov(values, rowvar=False) for values in seen) / 2
        signal = (seen[1] - seen[0]).mean(0)
        return np.linalg.pinv(np.atleast_2d(covariance), hermitian=True) @ signal @ channels

    return template


def laguerre_gauss(
    size: tuple[int, int],
    centre: tuple[float, float],
    spacing_mm: tuple[float, float],
    diameter_mm: float,
    count: int = CHANNELS,
) -> np.ndarray:
    """Channels that are round, orthonormal, and as wide as a nodule.

    The n-th is sqrt(2) / a exp(-pi r^2 / a^2) L_n(2 pi r^2 / a^2); with a the diameter, the first
    one falls to half of its height about where the nodule ends.

    Args:
        size: Rows and columns of the images.
        centre: (i, j) of the nodule's middle in them, voxels.
        spacing_mm: Voxel size along i, j.
        diameter_mm: Of the nodule, a.
        count: Of channels.

    Returns:
        (count, rows * columns), orthonormal where the images hold them whole.
    """
    x = (np.arange(size[1]) - centre[0]) * spacing_mm[0]
    y = (np.arange(size[0]) - centre[1]) * spacing_mm[1]
    square = 2 * np.pi * (x[None] ** 2 + y[:, None] ** 2).ravel() / diameter_mm**2
    height = math.sqrt(2 * spacing_mm[0] * spacing_mm[1]) / diameter_mm
    polynomials = [np.polynomial.laguerre.lagval(square, np.eye(count)[n]) for n in range(count)]
    return height * np.exp(-square / 2) * np.stack(polynomials)


# Judging ------------------------------------------------------------------------------------------


def judged(template: np.ndarray, absent: np.ndarray, present: np.ndarray) -> Detection:
    """A template (P,) on images (N, P) without and with the signal."""
    return detection(absent @ template, present @ template)


def cross_judged(make: Template, absent: np.ndarray, present: np.ndarray) -> Detection:
    """An observer that learns from one half of the draws and is judged on the other, both ways.

    Args:
        make: Its template.
        absent: Images without the signal, (N, P).
        present: The same draws with it.
    """
    halves = [slice(0, None, 2), slice(1, None, 2)]
    found = [
        judged(make(absent[learn], present[learn]), absent[judge], present[judge])
        for learn, judge in (halves, halves[::-1])
    ]
    error = math.hypot(found[0].error, found[1].error) / 2
    return Detection((found[0].dprime + found[1].dprime) / 2, error)


# Words --------------------------------------------------------------------------------------------


def class_of(dprime: float) -> int:
    """0: not seen, 1: uncertain, 2: seen."""
    return int(dprime >= HIDDEN_BELOW) + int(dprime >= SEEN_FROM)


def verdict(before: Detection, after: Detection) -> str:
    """Could this lesion vanish? d' as the image is and denoised.

    A lesion changes its class only where the two d' lie apart by more than twice their error.
    """
    then, now = class_of(before.dprime), class_of(after.dprime)
    if then != now and not told_apart(before, after):
        return TOO_CLOSE
    if now > then:
        return "better seen"
    if now == then:
        return ("not seen as it is either", "uncertain as it is and denoised", "stays seen")[now]
    return VANISHES if now == 0 else MISSED


def told_apart(one: Detection, other: Detection) -> bool:
    """Whether two d' differ by more than twice the error of their difference.

    That error is taken as if they were independent; of the same draws it is smaller.
    """
    error = math.hypot(one.error, other.error)
    return not abs(one.dprime - other.dprime) <= 2 * error
