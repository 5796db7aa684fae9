"""Blind, anatomy-safe harmonization.

Which tone curve and smooth fields turn a scan into what the target would have shown?

What is known of the target (``networks.corrector``): aligned to a template, every place in the head
has its expected distribution of intensities, and people differ from it in known ways. A scan is
compared with that, place by place:

1. It is aligned to the template (affine), its histogram matched for the time being, and the
   quantiles of overlapping cells taken.
2. Places that no tone curve explains (a lesion, a resection) are found and left out of everything
   that follows (``unlike``).
3. Four explanations compete: a tone curve alone; with a multiplicative field; with an additive one;
   with both. Each is fitted as the most probable T given the people's deviations (a Gaussian of
   low rank plus variances), smooth fields and curves (``fitting``). A field is taken only if its
   evidence (Laplace) says so, and if it foretells places that it has not seen: a lesion's
   neighbours know nothing of it, a field's do. Places unlike the people that a field which was
   taken foretells are given back, and others are looked for.
4. The curve is fitted anew to the quantiles of the whole brain without the field, voxels as they
   are (smoothing and a curve do not commute): halfway between matched landmarks and a
   log-polynomial, which, too simple to follow every fold of the histogram, takes a person's own
   share of each tissue less for the scanner's doing. Where it does not fit, all quantiles are
   matched. As far as a mere factor explains the quantiles as well, it is taken instead: it changes
   no contrast.
5. A scan without a field is also weighed as "unchanged", by its quantiles in the whole brain and in
   all places. As far as it cannot be told from the target's own scans, T goes up to 60 % of the
   way back to the identity.

Everything is deterministic and needs no GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from ..core.progress import Progress
from ..networks.corrector import (
    CELL,
    CONTROL,
    TONE_LEVELS,
    VOXEL_MM,
    Corrector,
)
from . import tone_field
from .brain import aligned_tissue, reduced
from .fitting import DARKEST, EXPLANATIONS, Fit, FitSettings, fit, stiff
from .kept import Kept, kept_voxels
from .scan import BRIGHTEST, Scan
from .statistics import TONE_FLOOR, Target, grid_to_template, local_quantiles, matching_curve
from .tone_field import ToneField
from .unlike import foresight, grown, not_foretold, on_template, unlike_blocks

if TYPE_CHECKING:
    from .brain import Tissue


# A field is taken if the logarithm of its evidence over that of a tone curve exceeds the first, and
# what it foretells of unseen places better (log likelihood) the second. Of 72 scans without a
# field, two thirds of them with lesions of 2 to 150 ml (16 people whom the statistics were not of),
# none exceeded either in the one figure and came near in the other: (7.8, 6.7) and (2.1, 17).
LEAST_EVIDENCE, LEAST_FORESIGHT = 10.0, 10.0
MOST_LEFT_OUT = 0.4  # share of the blocks; 150 ml and what is beside them are a third of a brain
# Share of the people's covariance of the whole brain's quantiles that is believed. With all of it,
# the curve of a person unlike the others came out up to 5 dB worse than by matched histograms; with
# this share, in nobody of 24 by more than 0.5 dB.
TONE_BELIEF = 0.3
# A scan that cannot be told from the target's own keeps this share of itself. Such are 14 of 16 of
# the target's people, and many under a gamma of 0.94 to 1.06: with all of it these would be left
# as they are.
MOST_KEPT, KEPT_FLOOR = 0.6, 0.01
# Of log-polynomials, around mid-grey.
LOG_MIDDLE, TERM_DEVIATIONS = -0.5, (0.6, 1.0, 0.6, 0.3, 0.2)
TERMS = 4
# A mere factor against the curves of more terms: what each quantile may deviate by besides the
# people's deviations, and the share of the evidence that is believed. With 0.02 and all of it,
# gammas of 0.9 and 1.12 were taken for a factor too often (1 dB lost).
FACTOR_FLOOR, FACTOR_BELIEF, RICHER = 0.007, 0.5, (2, 3, 4, 5)
# Squared misfit of the polynomial (2 for half of the people under a simulated curve, 5 for nine of
# ten; above 20 on a scanner with another sequence): up to the first it is taken, from the second on
# it is not.
MISFITS = (8.0, 16.0)
# The brightest tenth of the voxels may be a lesion's: their quantiles may deviate by so much more
# (standard deviation, scaled units, at the very top), and matched landmarks end below them.
TAIL, TAIL_DEVIATION = 0.9, 0.1
TAIL_TRUST = 0.02
LANDMARKS = (0.002, 0.01, *np.linspace(0.1, 0.9, 9).tolist(), 0.99, 0.998)
MAX_SLOPE_A = 0.01  # per mm
CURVE_KNOTS = 129


@dataclass(frozen=True)
class Estimate:
    """What was found.

    Attributes:
        change: T.
        explanation: The key of ``EXPLANATIONS`` that was chosen.
        evidence: Natural logarithm of each explanation's evidence over that of a tone curve alone.
        foresight: How much better (log likelihood) each foretells places that it has not seen than
            a tone curve alone.
        unlike: (6, 8, 6) blocks of the template's box: 2 where the brain is unlike the target's
            people, 1 beside, 0 elsewhere. Those above 0 were left out of the estimate.
        unchanged: Probability that the scan is one of the target's own and needs no change; 0 where
            a field was found.
        alignment: Correlation of the aligned scan with the template, 0 to 1; the lower, the less
            the change can be trusted.
        template_to_ras: 4x4, mm to mm.
    """

    change: ToneField
    explanation: str
    evidence: dict[str, float]
    unchanged: float
    alignment: float
    template_to_ras: np.ndarray
    foresight: dict[str, float] = field(default_factory=dict)
    unlike: np.ndarray = field(default_factory=lambda: np.zeros(CONTROL, np.uint8))


def explain(
    scan: Scan,
    network: nn.Module,
    progress: Progress | None = None,
    settings: FitSettings = FitSettings(),
) -> Estimate:
    """T for a scaled scan, from what a network knows of the target.

    Args:
        scan: Scaled, with its mask.
        network: A ``Corrector``, or a module with one as ``corrector``.
        progress: Receives progress; may raise ``Cancelled``.
        settings: Which fields are tried, and how long.

    Raises:
        ScanError: The scan is too thin for, or cannot be aligned to, the template, or hardly
            overlaps it.
        ValueError: The model has no corrector.
    """
    progress = progress or Progress()
    target = Target(network if isinstance(network, Corrector) else network.corrector)
    progress.report(0.0, "aligning the brain to the template")
    tissue = aligned_tissue(reduced(scan), target)
    progress.report(0.5, "looking for places unlike the target's people")
    tone_alone = fit(tissue, target, "", settings)
    unlike = unlike_blocks(stiff(tone_alone.linear), target)
    if grown(unlike, target.used).mean() > MOST_LEFT_OUT:
        unlike[:] = False  # no lesion is as large: this must be a field
    seen = target.leaving_out(grown(unlike, target.used))
    weighed = _weigh(tissue, seen, settings, progress)
    chosen = weighed.chosen
    found = weighed.fits[chosen]
    if EXPLANATIONS[chosen] and settings.fields == "auto":
        # What looked like a lesion under a tone curve alone may be the field.
        unlike = not_foretold(stiff(found.linear), target, unlike)
        seen = target.leaving_out(grown(unlike, target.used))
        unlike |= unlike_blocks(stiff(found.linear), seen)
        if grown(unlike, target.used).mean() > MOST_LEFT_OUT:
            unlike[:] = False
        seen = target.leaving_out(grown(unlike, target.used))
        found = fit(tissue, seen, EXPLANATIONS[chosen], settings)
    # Not their neighbours: the fewer places are left out, the better the people's shares of tissue
    # are known.
    kept = kept_voxels(scan, tissue, target, unlike)
    alone = settings.fields == "auto" and chosen == "tone curve"
    unchanged = probability_unchanged(tissue, seen, kept, found) if alone else 0.0
    change = _change(tissue, kept, found, unchanged)
    progress.report(1.0, "estimated")
    return Estimate(
        change,
        chosen,
        weighed.evidence,
        unchanged,
        tissue.alignment,
        tissue.template_to_ras,
        weighed.foresight,
        on_template(unlike, target.used),
    )


@dataclass(frozen=True)
class _Weighed:
    """Explanations by name, the evidence and foresight of each, and the one to believe."""

    fits: dict[str, Fit]
    evidence: dict[str, float]
    foresight: dict[str, float]
    chosen: str


def _weigh(tissue: Tissue, target: Target, settings: FitSettings, progress: Progress) -> _Weighed:
    names = list(EXPLANATIONS) if settings.fields == "auto" else ["tone curve", settings.fields]
    fits = {}
    for n, name in enumerate(dict.fromkeys(names)):
        progress.report(0.5 + 0.4 * n / len(names), f"trying the explanation: {name}")
        fits[name] = fit(tissue, target, EXPLANATIONS[name], settings)
    tone = fits["tone curve"]
    evidence = {name: float(f.evidence - tone.evidence) for name, f in fits.items()}
    best = max(evidence, key=lambda name: evidence[name])
    foretold = {"tone curve": 0.0}
    if evidence[best] > LEAST_EVIDENCE:
        foretold[best] = foresight(fits[best].linear, tone.linear, target)
    taken = foretold.get(best, 0.0) > LEAST_FORESIGHT
    chosen = settings.fields
    if chosen == "auto":
        chosen = best if taken else "tone curve"
    progress.log(
        "evidence (log): "
        + ", ".join(f"{name} {value:.1f}" for name, value in evidence.items())
        + "; unseen places foretold: "
        + ", ".join(f"{name} {value:.1f}" for name, value in foretold.items())
        + f"; taken: {chosen}"
    )
    return _Weighed(fits, evidence, foretold, chosen)


def harmonized(scan: Scan, change: ToneField) -> np.ndarray:
    """T of a scaled scan on its own grid; air stays air.

    Returns:
        [k, j, i] float32, cut to [0, 1.3].
    """
    where = scan.mask | (scan.image > 0)
    return np.clip(change.apply(scan.image, scan.volume.ijk_to_ras, where), 0, BRIGHTEST)


# The tone curve -----------------------------------------------------------------------------------


def _change(tissue: Tissue, kept: Kept, found: Fit, unchanged: float) -> ToneField:
    matrix = tissue.template_to_ras @ grid_to_template(VOXEL_MM * CELL * 2)
    fields = replace(
        ToneField.identity(),
        log_m=found.log_m,
        a=_gentle(found.a, tissue.template_to_ras),
        control_to_ras=matrix,
    )
    m, a = fields.fields_at(kept.points)
    knots = tone_curve(m * kept.values + a, kept.target)
    knots[1] += MOST_KEPT * unchanged * (knots[0] / kept.scale - knots[1])
    return replace(fields, knots=knots)


def probability_unchanged(tissue: Tissue, target: Target, kept: Kept, tone_alone: Fit) -> float:
    """How probable the identity is beside a tone curve, 0 to 1, even odds before anything is seen.

    By the whole brain's quantiles, and by the local ones, whose logarithm counts half: neighbouring
    places tell nearly the same. Places that are left out tell nothing, not even of the scale.

    Args:
        tissue: The scan's voxels in the template's grid.
        target: What is known of the people, with the places left out that are.
        kept: The voxels that are kept.
        tone_alone: The tone curve that is the alternative.
    """
    own = np.quantile(kept.values, TONE_LEVELS) / kept.scale
    expected = kept.target.tone
    precision = np.linalg.inv(_tone_covariance(target, 1.0, KEPT_FLOOR))
    curves = [_log_polynomial(own, expected, precision, terms, own)[1] for terms in (2, 3, 4, 5)]
    whole = (
        -0.5 * (expected - own) @ precision @ (expected - own)
        - np.logaddexp.reduce(curves)
        + np.log(len(curves))
    )
    values = tissue.values / kept.scale
    seen, wanted = matching_curve(values, target.matched)
    quantiles, _ = local_quantiles(np.interp(values, seen, wanted), tissue.places, target.prior)
    left = (target.expected - np.interp(quantiles[:, target.used], wanted, seen)).ravel()
    places = -0.5 * left @ target.weigh(left[:, None])[:, 0] - tone_alone.evidence
    return float(1 / (1 + np.exp(-np.clip(whole + places / 2, -50, 50))))


def _gentle(a: np.ndarray, template_to_ras: np.ndarray) -> np.ndarray:
    """An additive field whose gradient is at most ``MAX_SLOPE_A``.

    It is flattened around its mean as far as that needs.
    """
    matrix = template_to_ras @ grid_to_template(VOXEL_MM * CELL * 2)
    flat = np.zeros_like(a)
    steepest = ToneField(ToneField.identity().knots, flat, a, matrix).steepest()[1]
    return a if steepest <= MAX_SLOPE_A else a.mean() + (a - a.mean()) * (MAX_SLOPE_A / steepest)


def tone_curve(values: np.ndarray, target: Target) -> np.ndarray:
    """A strictly increasing curve that makes values the target's.

    The mean of two: matched landmarks (as Nyúl's), and the most probable log-polynomial under the
    people's deviations, of fewer terms if it does not rise. Where the polynomial misses the
    target's quantiles by more than people differ (another sequence, whose tissues lie differently),
    all quantiles are matched instead. As probable as a mere factor is beside log-polynomials, so
    much of the curve is that factor. In the brightest tenth, which may be a lesion's, matching
    counts only as far as it agrees with the simple curves. Straight below the darkest and beyond
    the brightest.

    Args:
        values: Of shape (n,), scaled, inside the mask.
        target: What is known of the target's people.

    Returns:
        Knots of shape (2, K): input and output, scaled.
    """
    expected = target.tone
    own = np.quantile(values, TONE_LEVELS)
    precision = np.linalg.inv(_tone_covariance(target, TONE_BELIEF, TONE_FLOOR))
    x = np.linspace(own[0], max(own[-1], own[0] + 0.1), CURVE_KNOTS - 2)
    for terms in (TERMS, 3, 2):
        y = _log_polynomial(own, expected, precision, terms, x)[0]
        if (np.diff(y[x >= DARKEST]) > 0).all():
            break
    left = expected - np.interp(own, x, y)
    simple = np.clip((MISFITS[1] - left @ precision @ left) / (MISFITS[1] - MISFITS[0]), 0, 1)
    marks, wanted = (np.interp(LANDMARKS, TONE_LEVELS, q) for q in (own, expected))
    all_matched = np.interp(x, *matching_curve(values, target.whole))
    matched = simple * (y + np.interp(x, marks, wanted)) / 2 + (1 - simple) * all_matched
    factor, share = _factor(own, expected, target, x)
    y, matched = (share * factor + (1 - share) * curve for curve in (y, matched))
    y = matched - _mistrust(x, y, matched, float(np.interp(TAIL, TONE_LEVELS, own)))
    beyond = max(values.max(), x[-1]) + 0.5
    end = y[-1] + (beyond - x[-1]) * np.diff(y[-3:]).mean() / np.diff(x[-3:]).mean()
    # An additive field may leave tissue at or below 0: there is no straight line down to 0 then,
    # and it must not end up as air.
    below, start = (0.0, 0.0) if own[0] > DARKEST else (min(values.min(), own[0]) - 0.1, y[0] / 2)
    return tone_field.strictly_increasing(np.r_[below, x, beyond], np.r_[start, y, end])


def _mistrust(x, simple, matched, tail: float) -> np.ndarray:
    """What of a matched curve (K,) is taken back beyond ``tail``, the value where the tail begins.

    There the simple curve goes on in proportion. Matched quantiles that leave it by more than
    ``TAIL_TRUST`` are a lesion's, and those that are brighter too.
    """
    alone = simple * (np.interp(tail, x, matched) / np.interp(tail, x, simple))
    left = np.where(x > tail, matched - alone, 0)
    believed = np.minimum.accumulate(np.clip(2 - np.abs(left) / TAIL_TRUST, 0, 1))
    return (1 - believed) * left


def _tone_covariance(target: Target, belief: float, floor: float) -> np.ndarray:
    """Of the whole brain's quantiles, (55, 55): people's, and what a bright lesion may add."""
    tail = TAIL_DEVIATION * np.clip((np.array(TONE_LEVELS) - TAIL) / (1 - TAIL), 0, 1)
    return belief * target.tone_deviations + np.diag(floor**2 + tail**2)


def _factor(own, expected, target: Target, x) -> tuple[np.ndarray, float]:
    """A curve that is but a factor: its values at x (K,), and how probable it is beside others.

    A scan of the target's own scanner, under shading or with a lesion, needs no more.
    """
    precision = np.linalg.inv(_tone_covariance(target, TONE_BELIEF, FACTOR_FLOOR))
    factor, evidence = _log_polynomial(own, expected, precision, 1, x)
    others = [_log_polynomial(own, expected, precision, terms, own)[1] for terms in RICHER]
    odds = np.exp(FACTOR_BELIEF * np.clip(np.array(others) - evidence, -700, 700))
    return factor, float(1 / (1 + odds.sum()))


def _log_polynomial(own, expected, precision, terms: int, x) -> tuple[np.ndarray, float]:
    """log(y / x) = polynomial of log x, most probable; one term is a factor, two a power law.

    Its values at x (K,), and the logarithm of its evidence.
    """

    def logs(v):
        return np.log(np.maximum(v, DARKEST))

    def powers(v):
        return (logs(v) - LOG_MIDDLE)[:, None] ** np.arange(terms)

    def curve(v, found):
        return np.exp(np.clip(logs(v) + powers(v) @ found, -10, 3))

    prior = np.diag(1 / np.square(TERM_DEVIATIONS[:terms]))
    found = np.zeros(terms)
    for _ in range(12):
        y = curve(own, found)
        jacobian = powers(own) * y[:, None]
        hessian = jacobian.T @ precision @ jacobian + prior
        gradient = jacobian.T @ precision @ (expected - y) - prior @ found
        step = np.linalg.solve(hessian, gradient)
        found = found + step / max(1.0, np.abs(step).max())  # Gauss-Newton, never a leap
    left = expected - curve(own, found)
    misfit = left @ precision @ left + found @ prior @ found
    evidence = -0.5 * (misfit + np.linalg.slogdet(hessian)[1] - np.linalg.slogdet(prior)[1])
    return curve(x, found), evidence
