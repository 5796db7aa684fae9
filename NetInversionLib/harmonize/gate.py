"""The gate: may this scan be harmonized, and may the result be trusted?

What the target scanner's people look like is learned from their scans alone (``fit``), as a few
named arrays that a model file carries. A scan is compared with them on a grid of about 2 mm, after
an affine alignment to the people's mean on a grid of 4 mm that starts from the header's axes.
Neither trusts brightness: images are first freed of smooth fields, and alignment and likeness allow
any function from the mean's intensities to the scan's. The order of tissues is judged apart, and
shows what matched histograms hide: a T2 is dark in white matter whatever curve it went through.

    statistics = fit(scans of the target)
    checks = check_source(source, statistics)  # seconds, before any harmonization
    checks += check_result(source, result, statistics, bits_per_dim)
    word, reasons = verdict(checks)  # "accepted", "flagged" or "refused"

All limits come from the target's people, each one's figures taken with that person left out of the
mean:

    size        half the smallest to twice the largest volume, two thirds to one and a half times
    their extents likeness    halfway between the least likely person and the likeliest one turned
    upside down or back to front tissues     a quarter of the least contrast that a person shows
    left, right the mirror image of a tenth of the median person's asymmetry (refused: of half);
    within a tenth on either side
                nothing is decided, and a symmetric brain passes
    all others  where 99.9 % of further people would lie if figures (or their logarithms) were
                normal; three times as far out for the source, which comes from other scanners, but
                a quarter farther out for its unevenness, which a tone curve changes by a tenth, and
                no farther for repetition, which no scanner shows
    closer      the result's histogram distance is at most 1.05 times the source's, or what nine in
    ten people keep
    bits/dim    of the result inside its mask: as the others, of people whom the flow was not
                trained on, and higher by what the same people gain when shown coarsely, in
                proportion to the result's noise
    voxels      beyond 2.5 mm leave smoothness and stripes undecided
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from ..core.results import Table
from .gate_figures import FIGURES, LOGARITHMIC, SIZES, VERSION, histogram_distance, look, size
from .gate_reasons import ANATOMY, for_coarse, one_reason
from .gate_template import (
    TURNS,
    Moving,
    Template,
    anatomy,
    best_turn,
    likeness,
    place,
)
from .gate_words import NOT_CLOSER, QUALITY_WORDS, UNLIKE_INTENSITIES
from .reading import NOT_DECIDED, PASSED
from .scan import Scan

if TYPE_CHECKING:
    from .gate_figures import Look


# Correlation with the corrector's template: at least 0.94 in T1 of three data sets and of simulated
# scanners, 0.82 in a T2.
LEAST_ALIGNMENT = 0.85


def alignment_check(alignment: float) -> Check:
    """The gate's word on the corrector's alignment.

    What it compares lies elsewhere in a brain that is poorly aligned.
    """
    good = alignment >= LEAST_ALIGNMENT
    words = (
        "as in the target's people"
        if good
        else (
            "The image could not be aligned well to the target's people, so tone curve and fields "
            "may be wrong: another contrast, a part of the brain missing, or remains of the skull."
            + LOOK
        )
    )
    return Check(
        "alignment to the target", float(alignment), LEAST_ALIGNMENT, np.inf, bool(good), words
    )


RIDGE, UNDECIDED, SURE = 0.1, 0.1, 0.5
CONFIDENCE = 0.999
OTHER_SCANNERS = {
    "cut face": 3.0,
    "slice jump": 3.0,
    "noise": 3.0,
    "sharpness": 3.0,
    "stripes": 3.0,
    "unevenness": 1.25,
    "repetition": 1.0,
}
LOSS, GAIN, USUAL = 1.05, 1.25, 0.9


@dataclass(frozen=True)
class Check:
    """One figure and its limits. ``words`` say what was found, and what to do if it did not pass.

    ``severity`` is what a failure means: "refused" or "flagged". A figure without limits is
    reported only.
    """

    name: str
    value: float
    low: float
    high: float
    passed: bool
    words: str
    severity: str = "flagged"


def verdict(checks: Iterable[Check]) -> tuple[str, list[str]]:
    """("accepted", "flagged" or "refused"; what is wrong and what to do, the gravest first)."""
    failed = sorted((c for c in checks if not c.passed), key=lambda c: c.severity != "refused")
    return (failed[0].severity if failed else "accepted"), list(
        dict.fromkeys(c.words for c in failed)
    )


def table(checks: Iterable[Check]) -> Table:
    """All checks, for the scene and the report; an open limit is empty."""
    checks = list(checks)

    def limit(value: float) -> str:
        if not np.isfinite(value):
            return ""
        return np.format_float_positional(value, precision=3, fractional=False, trim="-")

    return Table(
        "Checks",
        {
            "check": [c.name for c in checks],
            "value": [float(c.value) for c in checks],
            "from": [limit(c.low) for c in checks],
            "to": [limit(c.high) for c in checks],
            "passed": [PASSED if c.passed else f"no, {c.severity}" for c in checks],
            "in words": [c.words for c in checks],
        },
    )


def seems_a_head(checks: Iterable[Check]) -> bool:
    """Whether a source that came without a mask may be refused because it shows the whole head.

    It is then too large for a brain, or its anatomy is not recognised.
    """
    return any(not c.passed and (c.name in SIZES or c.name == ANATOMY) for c in checks)


# Checks -------------------------------------------------------------------------------------------


def check_source(source: Scan | Look, statistics: dict[str, np.ndarray]) -> list[Check]:
    """Check the body part, its placement, its contrast, and that it is whole and clean.

    Args:
        source: A scaled scan, or its ``look``.
        statistics: From ``training.gate.fit``, by name, which says of which shape each is.
    """
    if not learned(statistics):
        return [_unlearned()]
    limits = Limits(statistics)
    seen = look(source)
    sizes = _size_checks(seen, limits)
    if not all(check.passed for check in sizes):
        return sizes
    anatomy_checks = _anatomy_checks(seen, statistics, limits, "source")
    return sizes + one_reason(anatomy_checks, _quality_checks(seen, limits))


def check_result(
    source: Scan | Look,
    result: Scan | Look,
    statistics: dict[str, np.ndarray],
    bits_per_dim: float | None = None,
) -> list[Check]:
    """Check that the result is typical of the target's people and as sharp as it may be.

    Typical is neither too unlikely nor too likely.

    Args:
        source: What was harmonized; its ``look``, where it was checked before, saves looking again.
        result: The same scan with the harmonized image.
        statistics: From ``training.gate.fit``, by name, which says of which shape each is;
            "bits_per_dim" and "held_out" of ``mrflow`` too, where a flow was trained.
        bits_per_dim: Of the result under that flow, the mean over the orientations; None leaves
            this check out.
    """
    if not learned(statistics):
        return [_unlearned()]
    limits = Limits(statistics)
    seen = look(result)
    checks = _anatomy_checks(seen, statistics, limits, "result")
    first = look(source)
    before, after = first.quality, seen.quality
    for name, low_words, high_words in (
        (
            "noise",
            "The result is smoother than images of the target scanner: detail may be lost.",
            "The result is noisier than images of the target scanner.",
        ),
        (
            "sharpness",
            "The result is blurred compared with images of the target scanner: detail may be lost.",
            "The result is sharper than images of the target scanner: edges may be exaggerated.",
        ),
    ):
        low, _ = limits.normal(name)
        # What the source was like is no fault of the result; a curve that gives grey and white
        # their due contrast raises noise. A result may be what a source may be.
        _, high = limits.normal(name, OTHER_SCANNERS[name])
        low, high = min(low, before[name] / LOSS), max(high, before[name] * GAIN)
        checks.append(
            _two_sided(
                f"{name} of the result", after[name], low, high, low_words + LOOK, high_words + LOOK
            )
        )
    at_first, at_last = (histogram_distance(x, statistics["gate_quantiles"]) for x in (first, seen))
    checks += _distance_checks(at_first, at_last, limits)
    if bits_per_dim is not None and "bits_per_dim" in statistics:
        checks.append(_bits_check(float(bits_per_dim), after["noise"], statistics))
    return checks


LOOK = " Look at the result beside the source before using it."


def learned(statistics: dict[str, np.ndarray]) -> bool:
    """Whether the statistics are there, and measured as this version of the gate measures."""
    version = int(statistics.get("gate_version", np.ones(1))[0])
    return "gate_figures" in statistics and version == VERSION


def _unlearned() -> Check:
    return Check(
        "gate",
        np.nan,
        -np.inf,
        np.inf,
        False,
        "This model file knows nothing of the target's people, so nothing was "
        "checked: train it with a newer version, or judge the images yourself.",
    )


def _two_sided(
    name: str,
    value: float,
    low: float,
    high: float,
    low_words: str,
    high_words: str,
    severity: str = "flagged",
) -> Check:
    good = bool(low <= value <= high)
    words = "as in the target's people" if good else low_words if value < low else high_words
    return Check(name, float(value), float(low), float(high), good, words, severity)


def _distance_checks(before: float, after: float, limits: Limits) -> list[Check]:
    """Whether the result is as near to the target as its people, and no further than the source.

    Within ``LOSS``, or below what nine in ten people keep, the second cannot be told: a person is
    as far from the others' mean as that without any scanner's doing.
    """
    usual = float(np.quantile(limits.column("histogram distance"), USUAL))
    most = max(before * LOSS, usual)
    further = NOT_CLOSER.format(before=before, after=after) if after > most else ""
    high = limits.normal("histogram distance")[1]
    return [
        _two_sided(name, after, -np.inf, limit, "", further or UNLIKE_INTENSITIES + LOOK)
        for name, limit in (
            ("histogram distance of the result", high),
            ("histogram distance beside the source's", most),
        )
    ]


def _size_checks(seen: Look, limits: Limits) -> list[Check]:
    measured = size(seen)
    # One reason for all that is too large, whichever figures say so: a reader can act on one.
    volume = measured["volume ml"]
    too_large = (
        f"What the mask covers is too large for a brain ({volume:.0f} ml): this image shows the "
        "whole head, or another body part. Give a brain mask, or choose another model."
    )
    checks = []
    for name, value in measured.items():
        low, high = limits.size(name)
        too_small = (
            f"What the mask covers is too small ({name}: {value:.0f}; "
            f"{low:.0f} to {high:.0f} are possible). The model was trained on another body part or "
            "another kind of mask: choose a mask of the whole brain, or another model."
        )
        checks.append(_two_sided(name, value, low, high, too_small, too_large, "refused"))
    return checks


def _anatomy_checks(
    seen: Look, statistics: dict[str, np.ndarray], limits: Limits, which: str
) -> list[Check]:
    moving, template = Moving(seen), Template.of(statistics)
    affine = place(moving, template)
    found = anatomy(moving.on_template(affine), template)
    low, unrecognised = limits.likeness()
    poor = found["likeness"] < low
    checks = [
        _two_sided(
            f"anatomy of the {which}",
            found["likeness"],
            low,
            np.inf,
            _turned_words(moving, template, low) if poor else "",
            "",
            "refused",
        )
    ]
    if found["likeness"] > unrecognised:
        for name, tissues in (
            ("grey over fluid", "Grey matter is not brighter than fluid"),
            ("white over grey", "White matter is not brighter than grey matter"),
        ):
            checks.append(
                _two_sided(
                    f"{name} in the {which}",
                    found[name],
                    limits.tissue(name),
                    np.inf,
                    f"{tissues} where the target's people show it so: this looks like another"
                    " contrast, such as T2 given to a T1 model. Choose a model of this contrast.",
                    "",
                    "refused",
                )
            )
    if not poor:
        checks.append(
            _side_check(found["asymmetry"], float(np.median(limits.column("asymmetry"))), which)
        )
    # Of a poor likeness to which the contrast is all that is wrong, the contrast is what to speak
    # of.
    wrong_contrast = poor and len(checks) > 1 and not all(c.passed for c in checks[1:])
    return checks[1:] + checks[:1] if wrong_contrast else checks


def _side_check(value: float, usual: float, which: str) -> Check:
    sure = value < -SURE * usual
    check = _two_sided(
        f"left and right of the {which}",
        value,
        -UNDECIDED * usual,
        np.inf,
        f"Left and right {'look' if sure else 'may be'} exchanged: the asymmetry of this brain is"
        " the mirror image of the target's people's. Check the header's axes and how the file was"
        " converted.",
        "",
        "refused" if sure else "flagged",
    )
    if check.passed and value < UNDECIDED * usual:
        words = f"{NOT_DECIDED}: this brain is too symmetric to tell left from right"
        return replace(check, words=words)
    return check


def _turned_words(moving: Moving, template: Template, low: float) -> str:
    """Why the anatomy was not recognised: another placement that fits, or none."""
    turn, affine = best_turn(moving, template)
    best = likeness(moving.on_template(affine)[0], template)
    if best < low * 0.8 or turn == 0:
        return (
            "The anatomy of the target's people is not recognised in it: no brain mask, or one that"
            " covers parts of the skull, another body part or contrast, a large part missing, or"
            " too poor an image. Look at the mask first: it should cover the brain and nothing"
            " else. Then check that the right file was chosen."
        )
    return (
        f"The voxels contradict the header: the image fits when it is {_turn_words(TURNS[turn])}."
        " Correct the axis directions of the file (convert it again from DICOM), so that it is"
        " shown upright."
    )


def _turn_words(turn: np.ndarray) -> str:
    if np.count_nonzero(np.diag(turn)) < 3:
        return "turned by 90 degrees"
    words = zip(np.diag(turn)[1:], ("turned front to back", "turned upside down"))
    return " and ".join(word for sign, word in words if sign < 0)


def _quality_checks(seen: Look, limits: Limits) -> list[Check]:
    found = seen.quality
    checks = []
    for name, (low_words, high_words) in QUALITY_WORDS.items():
        if not limits.know(name):
            continue
        low, high = limits.normal(name, OTHER_SCANNERS[name])
        low, high = low if low_words else -np.inf, high if high_words else np.inf
        check = _two_sided(f"{name} of the source", found[name], low, high, low_words, high_words)
        checks.append(for_coarse(check, name, seen.voxel_mm))
    return checks


def _bits_check(value: float, noise: float, statistics: dict[str, np.ndarray]) -> Check:
    """What is noisier or sampled more coarsely has more bits/dim; so much is granted.

    How much, the target's own people say, shown coarsely ("gate_coarse", ``training.gate.coarse``).
    """
    people = np.asarray(statistics["bits_per_dim"], np.float64)
    people = people[:, -1] if people.ndim == 2 else people
    apart = np.asarray(statistics.get("held_out", np.zeros(len(people)))) > 0
    low, high = prediction(people[apart] if apart.sum() > 1 else people)
    if "gate_coarse" in statistics:
        shown = np.asarray(statistics["gate_coarse"], np.float64)
        (usual, bits), (coarse, more) = shown[:, :2].mean(0), shown[:, 2:].mean(0)
        slope = max(more - bits, 0) / max(coarse - usual, 1e-6)
        high += slope * max(noise - usual, 0)
    return _two_sided(
        "bits/dim of the result",
        value,
        low,
        high,
        "The flow finds the result too likely for the target's people: it may be too smooth, or"
        " empty." + LOOK,
        "The flow finds the result too unlikely for an image of the target scanner." + LOOK,
    )


# Limits -------------------------------------------------------------------------------------------


class Limits:
    """What the target's people allow; the module's docstring has the rules."""

    def __init__(self, statistics: dict[str, np.ndarray]):
        self.figures = np.asarray(statistics["gate_figures"], np.float64)
        self.turned = np.asarray(statistics["gate_turned"], np.float64)

    def know(self, name: str) -> bool:
        """Whether the file's people were asked about a figure; newer ones it does not know."""
        return name in FIGURES[: self.figures.shape[1]]

    def column(self, name: str) -> np.ndarray:
        return self.figures[:, FIGURES.index(name)]

    def size(self, name: str) -> tuple[float, float]:
        low, high = (1 / 2, 2) if name == "volume ml" else (2 / 3, 3 / 2)
        return self.column(name).min() * low, self.column(name).max() * high

    def likeness(self) -> tuple[float, float]:
        """The limit, and the figure below which nothing is recognised."""
        return (self.column("likeness").min() + self.turned.max()) / 2, float(self.turned.max())

    def tissue(self, name: str) -> float:
        return max(self.column(name).min(), 0) / 4

    def normal(self, name: str, factor: float = 1.0) -> tuple[float, float]:
        if name not in LOGARITHMIC:
            return prediction(self.column(name), factor)
        low, high = prediction(np.log(self.column(name)), factor)
        return float(np.exp(low)), float(np.exp(high))


def prediction(people: np.ndarray, factor: float = 1.0) -> tuple[float, float]:
    """Where ``CONFIDENCE`` of further people lie if figures are normal.

    Args:
        people: A figure of each person, of shape (people,).
        factor: Widens the range.

    Returns:
        The lowest and the highest value.
    """
    n = len(people)
    wide = special.stdtrit(n - 1, (1 + CONFIDENCE) / 2) * np.sqrt(1 + 1 / n)
    half = wide * people.std(ddof=1) * factor
    return float(people.mean() - half), float(people.mean() + half)
