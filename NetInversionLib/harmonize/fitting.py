"""One explanation of a scan, fitted: a tone curve, alone or after smooth fields.

Each explanation is the most probable change under the target's people (Gauss-Newton, a few hundred
unknowns), and says how the data look where it ended: a linear model, by which explanations are
weighed (``unlike``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..core.settings import Checked, setting
from ..networks.corrector import CONTROL
from .statistics import Target, local_quantiles, matching_curve, on_blocks, on_grid

if TYPE_CHECKING:
    from .brain import Tissue

EXPLANATIONS = {
    "tone curve": "",
    "multiplicative field": "m",
    "additive field": "a",
    "both fields": "ma",
}
DARKEST = 0.02  # below it a tone curve is straight, down to 0
# Of the tone curve while fields are fitted: a power law (deviations of its factor and exponent) and
# a smooth rest, which is stiffer while places unlike the people are looked for.
POWER_DEVIATIONS = (0.25, 0.5)
REST_KNOTS, REST_DEVIATION, REST_LENGTH = np.linspace(0, 1.2, 13), 0.1, 0.5
STIFF_DEVIATION = 0.04
MAX_LOG_M, MAX_A = 1.2, 0.5


@dataclass(frozen=True)
class FitSettings(Checked):
    """How T is estimated.

    Attributes:
        fields: "auto", or one of the keys of ``EXPLANATIONS`` to take it without weighing.
        looks: How often local quantiles are taken anew under the fields found.
        steps: Gauss-Newton steps after each look.
    """

    fields: str = setting("auto", choices=("auto", *EXPLANATIONS))
    looks: int = setting(2, at_least=1)
    steps: int = setting(3, at_least=1)


@dataclass(frozen=True)
class Linear:
    """The data as a linear model of the unknowns u, where a fit ended.

    ``observed`` = ``jacobian`` u + the people's deviations; u is normal around ``mean``.

    Attributes:
        jacobian: Of shape (17 * blocks, unknowns).
        observed: Of shape (17 * blocks,), scaled units.
        precision: Of the unknowns before anything is seen, (unknowns, unknowns).
        mean: Of shape (unknowns,).
    """

    jacobian: np.ndarray
    observed: np.ndarray
    precision: np.ndarray
    mean: np.ndarray


@dataclass(frozen=True)
class Fit:
    """One explanation.

    Attributes:
        log_m, a: Control values, of shape (6, 8, 6).
        evidence: Natural logarithm of the evidence.
        linear: The data where it ended.
    """

    log_m: np.ndarray
    a: np.ndarray
    evidence: float
    linear: Linear


def fit(tissue: Tissue, target: Target, fields: str, settings: FitSettings = FitSettings()) -> Fit:
    """The most probable change with the given fields under the people's deviations.

    The fields are "", "m", "a" or "ma".

    Unknown are the weights of the fields' patterns (standard normal before anything is seen), a
    power law and a smooth rest of the curve. The data: expected minus transformed local quantiles,
    Gaussian with the people's covariance; blocks that the target leaves out do not count.
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
            evidence, linear = unknown.step(source)
    return Fit(*unknown.controls(), evidence, linear)


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
        self.curve_precision = np.zeros((2 + len(REST_KNOTS),) * 2)
        self.curve_precision[:2, :2] = np.diag(1 / np.square(POWER_DEVIATIONS))
        self.curve_precision[2:, 2:] = _rest_precision(REST_DEVIATION)

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

    def step(self, source: np.ndarray) -> tuple[float, Linear]:
        """One step from the source's local quantiles (17, blocks).

        The logarithm of the evidence there, and the linear model that the step was taken in.
        """
        target, old = self.target, np.concatenate(self._taken())
        jacobian, residual = self._linear(source)
        precision = np.eye(len(old))
        curve = len(old) - len(self.curve_precision)
        precision[curve:, curve:] = self.curve_precision
        mean = np.zeros(len(old))
        mean[curve + 1] = 1.0  # the exponent

        weighed = target.weigh(jacobian)
        hessian = jacobian.T @ weighed + precision
        observed = residual + jacobian @ old
        new = np.linalg.solve(hessian, weighed.T @ observed + precision @ mean)
        self._take(new)
        left = observed - jacobian @ new
        misfit = left @ target.weigh(left[:, None])[:, 0] + (new - mean) @ precision @ (new - mean)
        evidence = -0.5 * (misfit + np.linalg.slogdet(hessian)[1] - np.linalg.slogdet(precision)[1])
        return evidence, Linear(jacobian, observed, precision, mean)

    def _linear(self, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Derivatives by the unknowns, and what the unknowns as they are leave unexplained."""
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

        of_fields = []
        if "m" in self.fields:
            of_fields.append((slope * source * gain)[:, :, None] * target.m)
        if "a" in self.fields:
            of_fields.append(slope[:, :, None] * target.a)
        columns = [c.reshape(law.size, -1) for c in of_fields]
        columns += [
            np.stack([(steepness * law).ravel(), (steepness * law * np.log(value)).ravel()], 1),
            hats,
        ]
        return (
            np.concatenate(columns, 1),
            target.expected.ravel() - law.ravel() - hats @ self.rest,
        )

    def _taken(self) -> list[np.ndarray]:
        of = {"m": self.of_m, "a": self.of_a}
        return [*(of[letter] for letter in self.fields), self.power, self.rest]

    def _take(self, new: np.ndarray) -> None:
        parts = list(np.split(new, np.cumsum([len(self.of_m)] * len(self.fields) + [2])))
        if "m" in self.fields:
            self.of_m = parts.pop(0)
        if "a" in self.fields:
            self.of_a = parts.pop(0)
        self.power, self.rest = parts


def stiff(linear: Linear) -> Linear:
    """The same data, under a curve that hardly leaves a power law.

    What is brighter than all of the people (a lesion) else bends the curve's end, and is not found.
    """
    precision = linear.precision.copy()
    rest = slice(-len(REST_KNOTS), None)
    precision[rest, rest] = _rest_precision(STIFF_DEVIATION)
    return replace(linear, precision=precision)


def _rest_precision(deviation: float) -> np.ndarray:
    """Of the curve's rest at its knots, (13, 13)."""
    distance = (REST_KNOTS[:, None] - REST_KNOTS) / REST_LENGTH
    shape = np.exp(-0.5 * distance**2) + 0.03**2 * np.eye(len(REST_KNOTS))
    return np.linalg.inv(deviation**2 * shape)


def _hats(x: np.ndarray) -> np.ndarray:
    """(n, 13): how much of each knot's value a straight-line interpolation takes at x (n,)."""
    position = np.clip(x / REST_KNOTS[1], 0, len(REST_KNOTS) - 1 - 1e-9)
    left = position.astype(int)
    rows, hats = np.arange(len(x)), np.zeros((len(x), len(REST_KNOTS)))
    hats[rows, left], hats[rows, left + 1] = 1 - (position - left), position - left
    return hats
