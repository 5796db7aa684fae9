"""Blind, anatomy-safe harmonization: which tone curve and smooth fields turn a scan into what the
target would have shown.

What is known of the target (``networks.corrector``): aligned to a template, every place in the head
has its expected distribution of intensities, and people differ from it in known ways. A scan is
compared with that, place by place:

1. It is aligned to the template (affine), its histogram matched for the time being, and the
quantiles of overlapping cells taken. 2. Four explanations compete: a tone curve alone; with a
multiplicative field; with an additive one; with both. Each is fitted
   as the most probable T given the people's deviations (a Gaussian of low rank plus variances),
   smooth fields and curves (Gauss-Newton, a few hundred unknowns), and weighed by its evidence
   (Laplace): a field is there only if people do not differ that way by themselves.
3. The curve is fitted anew to the quantiles of the whole brain without the field, voxels as they
   are (smoothing and a curve do not commute): halfway between matched landmarks and a
   log-polynomial, which, too simple to follow every fold of the histogram, takes a person's own
   share of each tissue less for the scanner's doing. Where it does not fit, all quantiles are
   matched.
4. A scan without a field is also weighed as "unchanged", by its quantiles in the whole brain and in
   all places. As far as it cannot be told from the target's own scans, T goes a third of the way
   back to the identity.

Everything is deterministic and needs no GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
from .brain import align, reduced
from .scan import BRIGHTEST, Scan
from .statistics import (
    TONE_FLOOR,
    Target,
    grid_to_template,
    local_quantiles,
    matching_curve,
    on_blocks,
    on_grid,
)
from .tone_field import ToneField

if TYPE_CHECKING:
    from .brain import Tissue


EXPLANATIONS = {
    "tone curve": "",
    "multiplicative field": "m",
    "additive field": "a",
    "both fields": "ma",
}
# Share of the people's covariance of the whole brain's quantiles that is believed. With all of it,
# the curve of a person unlike the others came out up to 5 dB worse than by matched histograms; with
# this share, in nobody of 24 by more than 0.5 dB.
TONE_BELIEF = 0.3
# A scan that cannot be told from the target's own keeps this share of itself.
MOST_KEPT, KEPT_FLOOR = 0.3, 0.01
DARKEST = 0.02  # below it a tone curve is straight, down to 0
# Of the tone curve while fields are fitted: a power law (deviations of its factor and exponent) and
# a smooth rest.
POWER_DEVIATIONS = (0.25, 0.5)
REST_KNOTS, REST_DEVIATION, REST_LENGTH = np.linspace(0, 1.2, 13), 0.1, 0.5
# Of log-polynomials, around mid-grey.
LOG_MIDDLE, TERM_DEVIATIONS = -0.5, (0.6, 1.0, 0.6, 0.3, 0.2)
TERMS = 4
# Squared misfit of the polynomial (2 for half of the people under a simulated curve, 5 for nine of
# ten; above 20 on a scanner with another sequence): up to the first it is taken, from the second on
# it is not.
MISFITS = (8.0, 16.0)
LANDMARKS = (0.002, 0.01, *np.linspace(0.1, 0.9, 9).tolist(), 0.99, 0.998)
MAX_LOG_M, MAX_A, MAX_SLOPE_A = 1.2, 0.5, 0.01  # the last per mm
CURVE_KNOTS = 129
SOME_VOXELS = 300_000


@dataclass(frozen=True)
class Settings:
    """How T is estimated.

    Attributes:
        fields: "auto", or one of the keys of ``EXPLANATIONS`` to take it without weighing.
        looks: How often local quantiles are taken anew under the fields found.
        steps: Gauss-Newton steps after each look.
    """

    fields: str = "auto"
    looks: int = 2
    steps: int = 3

    def __post_init__(self):
        if self.fields != "auto" and self.fields not in EXPLANATIONS:
            raise ValueError(
                f"fields must be 'auto' or one of {', '.join(EXPLANATIONS)}, not {self.fields!r}"
            )
        if self.looks < 1 or self.steps < 1:
            raise ValueError("looks and steps are at least 1")


@dataclass(frozen=True)
class Estimate:
    """What was found.

    Attributes:
        change: T.
        explanation: The key of ``EXPLANATIONS`` that was chosen.
        evidence: Natural logarithm of each explanation's evidence over that of a tone curve alone.
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


def explain(
    scan: Scan,
    network: nn.Module,
    progress: Progress | None = None,
    settings: Settings = Settings(),
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
    tissue = align(reduced(scan), target)
    names = list(EXPLANATIONS) if settings.fields == "auto" else ["tone curve", settings.fields]
    fits = {}
    for n, name in enumerate(dict.fromkeys(names)):
        progress.report(0.5 + 0.4 * n / len(names), f"trying the explanation: {name}")
        fits[name] = fit(tissue, target, EXPLANATIONS[name], settings)
    evidence = {name: float(f.evidence - fits["tone curve"].evidence) for name, f in fits.items()}
    chosen = (
        max(evidence, key=lambda name: evidence[name])
        if settings.fields == "auto"
        else settings.fields
    )
    progress.log(
        "evidence (log): "
        + ", ".join(f"{name} {value:.1f}" for name, value in evidence.items())
        + f"; taken: {chosen}"
    )
    alone = settings.fields == "auto" and chosen == "tone curve"
    unchanged = probability_unchanged(scan, tissue, target, fits[chosen]) if alone else 0.0
    change = _change(scan, tissue, target, fits[chosen], unchanged)
    progress.report(1.0, "estimated")
    return Estimate(change, chosen, evidence, unchanged, tissue.alignment, tissue.template_to_ras)


def harmonized(scan: Scan, change: ToneField) -> np.ndarray:
    """T of a scaled scan on its own grid; air stays air.

    Returns:
        [k, j, i] float32, cut to [0, 1.3].
    """
    where = scan.mask | (scan.image > 0)
    return np.clip(change.apply(scan.image, scan.volume.ijk_to_ras, where), 0, BRIGHTEST)


# Fitting one explanation --------------------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """Control values (6, 8, 6) of log m and a, and the logarithm of the evidence."""

    log_m: np.ndarray
    a: np.ndarray
    evidence: float


def fit(tissue: Tissue, target: Target, fields: str, settings: Settings = Settings()) -> Fit:
    """The most probable change with the given fields under the people's deviations.

    The fields are "", "m", "a" or "ma".

    Unknown are the weights of the fields' patterns (standard normal before anything is seen), a
    power law and a smooth rest of the curve. The data: expected minus transformed local quantiles,
    Gaussian with the people's covariance.
    """
    unknown = _Unknown(target, fields)
    for _ in range(settings.looks):
        log_m, a = unknown.controls()
        seen = _corrected(tissue, log_m, a)
        own, wanted = matching_curve(seen, target.matched)
        quantiles, _ = local_quantiles(np.interp(seen, own, wanted), tissue.places, target.prior)
        # Back through the match and the fields: local quantiles of the source itself.
        corrected = np.interp(quantiles[:, target.used], wanted, own)
        source = (corrected - on_blocks(a).ravel()[target.used]) * np.exp(
            -on_blocks(log_m).ravel()[target.used]
        )
        unknown.start_curve(corrected, quantiles[:, target.used])
        for _ in range(settings.steps):
            evidence = unknown.step(source)
    return Fit(*unknown.controls(), evidence)


def _corrected(tissue: Tissue, log_m: np.ndarray, a: np.ndarray) -> np.ndarray:
    if not (log_m.any() or a.any()):
        return tissue.values
    return (
        np.exp(on_grid(log_m).ravel()[tissue.places]) * tissue.values
        + on_grid(a).ravel()[tissue.places]
    )


class _Unknown:
    """The unknowns of one explanation, and one Gauss-Newton step for them."""

    def __init__(self, target: Target, fields: str):
        self.target, self.fields = target, fields
        self.of_m, self.of_a = (np.zeros(target.m.shape[1]) for _ in range(2))
        self.started, self.power, self.rest = False, np.zeros(2), np.zeros(len(REST_KNOTS))
        distance = (REST_KNOTS[:, None] - REST_KNOTS) / REST_LENGTH
        covariance = REST_DEVIATION**2 * (
            np.exp(-0.5 * distance**2) + 0.03**2 * np.eye(len(REST_KNOTS))
        )
        self.curve_precision = np.zeros((2 + len(REST_KNOTS),) * 2)
        self.curve_precision[:2, :2] = np.diag(1 / np.square(POWER_DEVIATIONS))
        self.curve_precision[2:, 2:] = np.linalg.inv(covariance)

    def controls(self) -> tuple[np.ndarray, np.ndarray]:
        log_m = np.clip(self.target.patterns_m @ self.of_m, -MAX_LOG_M, MAX_LOG_M)
        a = np.clip(self.target.patterns_a @ self.of_a, -MAX_A, MAX_A)
        return log_m.reshape(CONTROL), a.reshape(CONTROL)

    def start_curve(self, x: np.ndarray, y: np.ndarray) -> None:
        """A power law through the points, the first time."""
        if not self.started:
            self.started = True
            self.power = np.polyfit(
                np.log(np.maximum(x, 0.05)).ravel(), np.log(np.maximum(y, 0.05)).ravel(), 1
            )[::-1]

    def step(self, source: np.ndarray) -> float:
        """One step from the source's local quantiles (17, blocks).

        The logarithm of the evidence there.
        """
        target = self.target
        gain = np.exp(target.m @ self.of_m)
        value = np.maximum(source * gain + target.a @ self.of_a, DARKEST)
        law = np.exp(self.power[0] + self.power[1] * np.log(value))
        hats = _hats(law.ravel())
        # Where the curve's rest would turn it over, it is followed only as far as it still rises.
        rise = np.interp(
            law, (REST_KNOTS[1:] + REST_KNOTS[:-1]) / 2, np.diff(self.rest) / np.diff(REST_KNOTS)
        )
        steepness = np.maximum(1 + rise, 0.2)
        slope = steepness * self.power[1] * law / value

        of_fields, unknowns = [], []
        if "m" in self.fields:
            of_fields.append((slope * source * gain)[:, :, None] * target.m)
            unknowns.append(self.of_m)
        if "a" in self.fields:
            of_fields.append(slope[:, :, None] * target.a)
            unknowns.append(self.of_a)
        columns = [c.reshape(law.size, -1) for c in of_fields]
        columns += [
            np.stack([(steepness * law).ravel(), (steepness * law * np.log(value)).ravel()], 1),
            hats,
        ]
        jacobian = np.concatenate(columns, 1)
        old = np.concatenate([*unknowns, self.power, self.rest])
        precision = np.eye(len(old))
        curve = len(old) - len(self.curve_precision)
        precision[curve:, curve:] = self.curve_precision
        mean = np.zeros(len(old))
        mean[curve + 1] = 1.0  # the exponent

        residual = target.expected.ravel() - law.ravel() - hats @ self.rest
        weighed = target.weigh(jacobian)
        hessian = jacobian.T @ weighed + precision
        new = np.linalg.solve(hessian, weighed.T @ (residual + jacobian @ old) + precision @ mean)
        self._take(new)
        left = residual - jacobian @ (new - old)
        misfit = left @ target.weigh(left[:, None])[:, 0] + (new - mean) @ precision @ (new - mean)
        return -0.5 * (misfit + np.linalg.slogdet(hessian)[1] - np.linalg.slogdet(precision)[1])

    def _take(self, new: np.ndarray) -> None:
        parts = list(np.split(new, np.cumsum([len(self.of_m)] * len(self.fields) + [2])))
        if "m" in self.fields:
            self.of_m = parts.pop(0)
        if "a" in self.fields:
            self.of_a = parts.pop(0)
        self.power, self.rest = parts


def _hats(x: np.ndarray) -> np.ndarray:
    """(n, 13): how much of each knot's value a straight-line interpolation takes at x (n,)."""
    position = np.clip(x / REST_KNOTS[1], 0, len(REST_KNOTS) - 1 - 1e-9)
    left = position.astype(int)
    rows, hats = np.arange(len(x)), np.zeros((len(x), len(REST_KNOTS)))
    hats[rows, left], hats[rows, left + 1] = 1 - (position - left), position - left
    return hats


# The tone curve -----------------------------------------------------------------------------------


def _change(scan: Scan, tissue: Tissue, target: Target, found: Fit, unchanged: float) -> ToneField:
    matrix = tissue.template_to_ras @ grid_to_template(VOXEL_MM * CELL * 2)
    fields = replace(
        ToneField.identity(),
        log_m=found.log_m,
        a=_gentle(found.a, tissue.template_to_ras),
        control_to_ras=matrix,
    )
    values, points = _some_voxels(scan)
    m, a = fields.fields_at(points)
    knots = tone_curve(m * values + a, target)
    knots[1] += MOST_KEPT * unchanged * (knots[0] - knots[1])
    return replace(fields, knots=knots)


def _some_voxels(scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """Scaled values (n,) float64 of voxels spread evenly over the mask, and their places (3, n) in
    RAS mm.
    """
    places = np.flatnonzero(scan.mask)
    places = places[:: max(1, len(places) // SOME_VOXELS)]
    ijk = np.stack(np.unravel_index(places, scan.mask.shape)[::-1])
    matrix = scan.volume.ijk_to_ras
    return scan.image.ravel()[places].astype(np.float64), matrix[:3, :3] @ ijk + matrix[:3, 3:]


def probability_unchanged(scan: Scan, tissue: Tissue, target: Target, tone_alone: Fit) -> float:
    """How probable the identity is beside a tone curve, 0 to 1, even odds before anything is seen.

    By the whole brain's quantiles, and by the local ones, whose logarithm counts half: neighbouring
    places tell nearly the same.
    """
    own = np.quantile(_some_voxels(scan)[0], TONE_LEVELS)
    precision = np.linalg.inv(target.tone_deviations + KEPT_FLOOR**2 * np.eye(len(own)))
    curves = [_log_polynomial(own, target.tone, precision, terms, own)[1] for terms in (2, 3, 4, 5)]
    whole = (
        -0.5 * (target.tone - own) @ precision @ (target.tone - own)
        - np.logaddexp.reduce(curves)
        + np.log(len(curves))
    )
    seen, wanted = matching_curve(tissue.values, target.matched)
    quantiles, _ = local_quantiles(
        np.interp(tissue.values, seen, wanted), tissue.places, target.prior
    )
    left = (target.expected - np.interp(quantiles[:, target.used], wanted, seen)).ravel()
    places = -0.5 * left @ target.weigh(left[:, None])[:, 0] - tone_alone.evidence
    return float(1 / (1 + np.exp(-np.clip(whole + places / 2, -50, 50))))


def _gentle(a: np.ndarray, template_to_ras: np.ndarray) -> np.ndarray:
    """An additive field whose gradient is at most ``MAX_SLOPE_A``: flattened around its mean as far
    as that needs.
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
    all quantiles are matched instead. Straight below the darkest and beyond the brightest.

    Args:
        values: Of shape (n,), scaled, inside the mask.
        target: What is known of the target's people.

    Returns:
        Knots of shape (2, K): input and output, scaled.
    """
    expected = target.tone
    own = np.quantile(values, TONE_LEVELS)
    precision = np.linalg.inv(
        TONE_BELIEF * target.tone_deviations + TONE_FLOOR**2 * np.eye(len(expected))
    )
    x = np.linspace(own[0], max(own[-1], own[0] + 0.1), CURVE_KNOTS - 2)
    for terms in (TERMS, 3, 2):
        y = _log_polynomial(own, expected, precision, terms, x)[0]
        if (np.diff(y[x >= DARKEST]) > 0).all():
            break
    left = expected - np.interp(own, x, y)
    simple = np.clip((MISFITS[1] - left @ precision @ left) / (MISFITS[1] - MISFITS[0]), 0, 1)
    landmarks = np.interp(
        x, *(np.interp(LANDMARKS, TONE_LEVELS, quantiles) for quantiles in (own, expected))
    )
    y = simple * (y + landmarks) / 2 + (1 - simple) * np.interp(
        x, *matching_curve(values, target.whole)
    )
    beyond = max(values.max(), x[-1]) + 0.5
    end = y[-1] + (beyond - x[-1]) * np.diff(y[-3:]).mean() / np.diff(x[-3:]).mean()
    # An additive field may leave tissue at or below 0: there is no straight line down to 0 then,
    # and it must not end up as air.
    below, start = (0.0, 0.0) if own[0] > DARKEST else (min(values.min(), own[0]) - 0.1, y[0] / 2)
    return tone_field.strictly_increasing(np.r_[below, x, beyond], np.r_[start, y, end])


def _log_polynomial(own, expected, precision, terms: int, x) -> tuple[np.ndarray, float]:
    """log y = polynomial of log x, most probable.

    Its values at x (K,), and the logarithm of its evidence.
    """

    def powers(v):
        return (np.log(np.maximum(v, DARKEST)) - LOG_MIDDLE)[:, None] ** np.arange(terms)

    mean, prior = np.zeros(terms), np.diag(1 / np.square(TERM_DEVIATIONS[:terms]))
    mean[:2] = LOG_MIDDLE, 1
    design, found = powers(own), mean
    for _ in range(12):
        y = np.exp(np.clip(design @ found, -10, 3))
        jacobian = design * y[:, None]
        hessian = jacobian.T @ precision @ jacobian + prior
        step = np.linalg.solve(
            hessian, jacobian.T @ precision @ (expected - y) + prior @ (mean - found)
        )
        found = found + step / max(1.0, np.abs(step).max())  # Gauss-Newton, never a leap
    left = expected - np.exp(design @ found)
    misfit = left @ precision @ left + (found - mean) @ prior @ (found - mean)
    evidence = -0.5 * (misfit + np.linalg.slogdet(hessian)[1] - np.linalg.slogdet(prior)[1])
    return np.exp(np.clip(powers(x) @ found, -10, 3)), evidence
