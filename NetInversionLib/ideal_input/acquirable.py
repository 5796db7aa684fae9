"""Acquirable ideal input: the same objective over a scanner's settings, instead of free voxels.

Each setting is turned alone, then all together within a scan time, once for the least error over
all voxels and once for the least error in bone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.keys import Column
from ..core.progress import Progress
from ..core.results import Curve, Table
from ..optimise import lbfgs
from ..optimise.objective import Objective
from .knobs import LINES, Scanner
from .onward import gone_on
from .protocol import AVERAGES, ECHO_TIME, GATING, SETTINGS, SHORT_ECHO_MS
from .reading import mae
from .settings import STEPS

EVALUATIONS = 30
MOST_IMAGES = 4
TIMES = (1.0, 0.5, 2.0, 4.0, 8.0)
"""Scan times at which the best protocol is looked for, as multiples of the reference's."""
MATTERS = 0.05
"""Share of the patient's error in bone: what changes it by less is called no difference."""
BRIGHT = -0.9
"""Setting of the echo time, 0.05 ms, from which protocols that show bone are searched."""
OVER = 1.001
"""Times a scan may last as long as its row says."""
GATED = -0.7
"""Setting of the gating, 43 % kept, from which scans longer than a breath are searched."""
SHARE = "share of the free-voxel gain"
FREE = "free voxels"
NONE = "none (patient's own input)"
ALL, DARK = "all, 1 x the time", "all, 1 x the time, no short echo"
FOR_BONE, FOR_BONE_DARK = "for bone, 1 x the time", "for bone, 1 x the time, no short echo"


@dataclass(frozen=True)
class Errors:
    """What is made small: a mean error ``everywhere`` and, where there is bone, ``in_bone``.

    ``units`` of the errors, ``scale`` of them per normalised unit.
    """

    everywhere: Objective
    in_bone: Objective | None
    units: str
    scale: float

    def of(self, images: Tensor) -> list[float]:
        """Both errors of images (images, C, *space), in ``units``."""
        asked = [self.everywhere] + ([self.in_bone] if self.in_bone else [])
        return [self.scale * objective.mean_error(images) for objective in asked]


@dataclass(frozen=True)
class Row:
    """One search: which values it turns, and within what bounds.

    ``time``: of the reference's, which the averages then follow from; None leaves it free.
    ``soonest``: least value of the echo time's setting. ``bone``: for the least error there.
    """

    name: str
    turned: Tensor
    time: float | None = None
    soonest: float = -1.0
    bone: bool = False

    def within(self, other: Row) -> bool:
        """Whether whatever this row finds ``other`` could find as well."""
        return self.time == other.time and self.soonest >= other.soonest


def acquirable(
    scanner: Scanner, errors: Errors, ideal: Mapping[str, Tensor], progress: Progress
) -> tuple[Table, Curve, dict[str, str]]:
    """What a scanner's settings buy of the free-voxel improvement.

    Args:
        scanner: Of the images that ``errors`` are of.
        errors: What is made small.
        ideal: By what the table calls them, ideal inputs of the same images, each (images, C,
            *space); that of ``FREE``, the least error at any price, is the whole gain.
        progress: Receives progress; may raise ``Cancelled``.

    Returns:
        Table "acquirable", curve "error against scan time", and in words: "protocol", the best
        one, and "bone", whether bone must be enhanced ("" where that cannot be asked).
    """
    search = _Search(scanner, errors)
    found = search.run(progress)
    before = errors.of(scanner.patient)
    rows = [_Line(NONE, "as acquired", float(search.still), before)]
    rows += [_measured(search, row, values, before) for row, values in zip(search.rows, found)]
    rows += [_Line(name, "ideal input", math.nan, errors.of(x)) for name, x in ideal.items()]
    named = {row.name: row for row in rows}
    words = {"protocol": _best_in_words(named, errors.units)}
    words["bone"] = _bone_in_words(named, search)
    return _table(rows, errors), _curve(search, rows, errors.units), words


def freed(images: Tensor, free: Tensor, objective: Objective, progress: Progress) -> Tensor:
    """Ideal inputs with every voxel free, at any price, that go on from ``images``.

    Args:
        images: Where the search begins, (images, C, *space), normalised.
        free: Where they may change, of the same shape.
        objective: Of these images, a mean over voxels.
        progress: Receives progress; may raise ``Cancelled``.
    """

    def told(step: int) -> None:
        progress.report(0.96, f"Every voxel free, step {step} of {STEPS}")

    return gone_on(images, free, objective.value_and_gradient, 0.5, told)


# -- the search ------------------------------------------------------------------------------------


class _Search:
    """All rows, one row of values each, shape (rows, settings + field terms)."""

    def __init__(self, scanner: Scanner, errors: Errors):
        self.scanner, self.errors = scanner, errors
        self.size = len(SETTINGS) + len(scanner.basis)
        self.rows = [*self._alone(), *self._together()]
        self.still = scanner.protocol(torch.zeros(self.size)).minutes(LINES)

    def _alone(self) -> list[Row]:
        rows = []
        for name in self.scanner.names:
            turned = torch.zeros(self.size)
            if name == "receive field":
                turned[len(SETTINGS) :] = 1
            else:
                turned[[setting.name for setting in SETTINGS].index(name)] = 1
            rows.append(Row(name, turned))
        return rows

    def _together(self) -> list[Row]:
        turned = torch.ones(self.size)
        if not self.scanner.fractions:
            turned[:AVERAGES] = 0
        turned[AVERAGES] = 0  # follows from the time
        rows = [Row(f"all, {time:g} x the time", turned, time) for time in TIMES]
        if self.scanner.fractions:
            setting = SETTINGS[ECHO_TIME]
            span = math.log(setting.reference / setting.low)
            soonest = -math.log(setting.reference / SHORT_ECHO_MS) / span
            rows.append(Row(DARK, turned, 1.0, soonest))
            if self.errors.in_bone:
                rows.append(Row(FOR_BONE, turned, 1.0, bone=True))
                rows.append(Row(FOR_BONE_DARK, turned, 1.0, soonest, bone=True))
        return rows

    def settled(self, values: Tensor, row: Row) -> Tensor:
        """``values`` within the row's bounds, its averages such that its time is kept."""
        values = values * row.turned.to(values)
        first = values[:1].clamp(min=row.soonest)
        values = torch.cat([first, values[1:]])
        if row.time is None:
            return values
        once = self.scanner.protocol(values).minutes(LINES)
        ratio = (row.time * self.still / once).clamp(SETTINGS[AVERAGES].low, 64)
        setting = SETTINGS[AVERAGES]
        up, down = math.log(setting.high), -math.log(setting.low)
        averages = torch.where(ratio > 1, ratio.log() / up, ratio.log() / down)
        return torch.cat([values[:AVERAGES], averages[None], values[AVERAGES + 1 :]])

    def _over(self, settled: Tensor, row: Row) -> Tensor:
        """Scan time beyond the row's, as a part of it: the averages cannot fall without end.

        Added to a mean error of some hundredths, it is not worth having.
        """
        if row.time is None:
            return 0 * settled.sum()
        minutes = self.scanner.protocol(settled).minutes(LINES)
        return (minutes / (row.time * self.still.to(minutes)) - OVER).clamp(min=0)

    def run(self, progress: Progress) -> Tensor:
        """Values found, (rows, settings + field terms).

        Each setting alone from the patient's own; all together, in the reference's time, from the
        best of these and from the same with an echo that shows bone; in other times from there,
        in longer ones gated.
        """
        alone = [n for n, row in enumerate(self.rows) if row.time is None]
        same = [n for n, row in enumerate(self.rows) if row.time == 1]
        other = [n for n, row in enumerate(self.rows) if row.time not in (None, 1)]
        first = self._minimised(alone, torch.zeros(len(alone), self.size), progress, 0.965)
        start = first.x[first.loss.argmin()]
        starts = [start] + ([self._showing_bone(start)] if self.scanner.fractions else [])
        tried = [(n, x) for n in same for x in starts if self.rows[n].soonest == -1 or x is start]
        second = self._minimised(
            [n for n, _ in tried], torch.stack([x for _, x in tried]), progress, 0.97
        )
        ends = [(self.rows[n], x) for (n, _), x in zip(tried, second.x)]
        found = {n: self._best(n, ends) for n in same}
        starts = found[same[0]].repeat(len(other), 1)
        longer = [place for place, n in enumerate(other) if (self.rows[n].time or 0) > 1]
        starts[longer, GATING] = GATED
        third = self._minimised(other, starts, progress, 0.975)
        found |= dict(zip(alone, first.x)) | dict(zip(other, third.x))
        return torch.stack([found[n] for n in range(len(self.rows))])

    def _best(self, number: int, ends: list[tuple[Row, Tensor]]) -> Tensor:
        """What serves a row best of where searches ended, by its own measure.

        What keeps to narrower bounds counts, too, and what was found for the other measure.
        """
        found = [self.settled(x, row) for row, x in ends if row.within(self.rows[number])]
        losses, _ = self.value_and_gradient(torch.stack(found), torch.full((len(found),), number))
        return found[int(losses.argmin())]

    @staticmethod
    def _showing_bone(values: Tensor) -> Tensor:
        values = values.clone()
        values[ECHO_TIME] = BRIGHT
        return values

    def _minimised(
        self, rows: list[int], start: Tensor, progress: Progress, fraction: float
    ) -> lbfgs.Solution:
        def report(evaluation: int, best: object) -> None:
            progress.report(
                fraction + 0.005 * evaluation / EVALUATIONS,
                f"Turning the scanner's knobs, step {evaluation}",
            )

        numbers = torch.tensor(rows)
        return lbfgs.minimize(
            lambda values, items: self.value_and_gradient(values, numbers[items]),
            start,
            lbfgs.Options(max_evaluations=EVALUATIONS, history=8, first_step=0.1),
            lower=-1.0,
            upper=1.0,
            callback=report,
        )

    def value_and_gradient(self, values: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The error (rows,) and its slope (rows, values), on the CPU."""
        losses, slopes = [], []
        for value, number in zip(values, rows.tolist()):
            row = self.rows[number]
            in_bone = self.errors.in_bone if row.bone else None
            with torch.enable_grad():
                value = value.detach().to(self.scanner.patient.device).requires_grad_()
                settled = self.settled(value, row)
                x, over = self.scanner.images(settled), self._over(settled, row)
                loss, slope = (in_bone or self.errors.everywhere).value_and_gradient(
                    x.detach(), torch.arange(len(x), device=x.device)
                )
                slopes_of = slope / len(x), torch.ones_like(over)
                (gradient,) = torch.autograd.grad((x, over), value, slopes_of)
            losses.append(loss.mean() + over.detach())
            slopes.append(gradient)
        turned = torch.stack([self.rows[number].turned for number in rows.tolist()])
        return torch.stack(losses).cpu(), torch.stack(slopes).cpu() * turned


# -- table, curve and words ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Line:
    """A row of the table: ``errors`` everywhere and, if asked, in bone; ``echo_ms`` its echo."""

    name: str
    setting: str
    minutes: float
    errors: list[float]
    echo_ms: float = SETTINGS[ECHO_TIME].reference


def _measured(search: _Search, row: Row, values: Tensor, before: list[float]) -> _Line:
    """A row of the table; a knob that only makes things worse is left alone."""
    scanner = search.scanner
    settled = search.settled(values.to(scanner.patient.device), row)
    errors = search.errors.of(scanner.images(settled).detach())
    asked = int(row.bone)
    if errors[asked] >= before[asked]:
        return _Line(row.name, "as acquired", float(search.still), before)
    protocol = scanner.protocol(settled)
    words = scanner.words(settled, row.turned + (row.time is not None) * _one_at(AVERAGES, row))
    minutes = float(protocol.minutes(LINES))
    return _Line(row.name, words, minutes, errors, float(protocol.echo_time))


def _one_at(place: int, row: Row) -> Tensor:
    one = torch.zeros_like(row.turned)
    one[place] = 1
    return one


def _share(rows: Mapping[str, _Line], row: _Line) -> float:
    """Per cent of the whole gain; NaN where there is none."""
    before, least = rows[NONE].errors[0], rows[FREE].errors[0]
    return 100 * (before - row.errors[0]) / (before - least) if before > least else math.nan


def _table(rows: list[_Line], errors: Errors) -> Table:
    named = {row.name: row for row in rows}
    columns: dict[str, list] = {
        "knob": [row.name for row in rows],
        "setting": [row.setting for row in rows],
        Column("scan time", "min"): [row.minutes for row in rows],
        Column("MAE", errors.units): [row.errors[0] for row in rows],
    }
    if errors.in_bone:
        columns[Column(mae("bone"), errors.units)] = [row.errors[1] for row in rows]
    columns[Column(SHARE, "%")] = [0.0 if row.name == NONE else _share(named, row) for row in rows]
    return Table("What a scanner's knobs buy", columns)


def _curve(search: _Search, rows: list[_Line], units: str) -> Curve:
    timed = {row.name for row in search.rows if row.time and row.soonest == -1 and not row.bone}
    points = sorted((row.minutes, row.errors[0]) for row in rows if row.name in timed)
    times = [time for time, _ in points]
    # More time need not be used.
    errors = list(itertools.accumulate((error for _, error in points), min))
    named = {row.name: row for row in rows}
    lines = {
        "best protocol": (times, errors),
        "as acquired": (times, [named[NONE].errors[0]] * len(times)),
        FREE: (times, [named[FREE].errors[0]] * len(times)),
    }
    return Curve("What does scan time buy?", "scan time (min)", f"error left ({units})", lines)


def _best_in_words(rows: Mapping[str, _Line], units: str) -> str:
    """The best protocol at the reference's time, and what it is without short echoes."""
    before, best = rows[NONE].errors[0], rows[ALL]
    text = (
        f"In the same scan time ({60 * best.minutes:.0f} s) the best protocol found is:"
        f" {best.setting}. It lowers the error from {before:.1f} to {best.errors[0]:.1f} {units},"
        f" {_share(rows, best):.0f} % of what free voxels gain."
    )
    if DARK in rows:
        text += (
            f" With echoes no sooner than {SHORT_ECHO_MS:g} ms, where bone is dark, it is"
            f" {rows[DARK].errors[0]:.1f} {units}, {_share(rows, rows[DARK]):.0f} %."
        )
    return text


def _bone_in_words(rows: Mapping[str, _Line], search: _Search) -> str:
    """Whether bone must be enhanced in the acquisition, with its figures.

    It must if, in the same scan time, echoes that show bone lower the error there by more than
    ``MATTERS`` of the patient's below what other echoes do.
    """
    if FOR_BONE not in rows:
        return ""
    own, shown, dark = (rows[name].errors[1] for name in (NONE, FOR_BONE, FOR_BONE_DARK))
    scanner, units = search.scanner, search.errors.units
    bright = search._showing_bone(torch.zeros(search.size)).to(scanner.patient.device)
    only = search.errors.of(scanner.images(bright).detach())[1]
    must = dark - shown > MATTERS * own
    answer = "yes" if must else "no"
    return (
        f"Must bone be enhanced in the acquisition? For this network, as it was trained: {answer}."
        f" Of protocols of the same scan time, chosen for the least error in bone, the best errs"
        f" there by {shown:.0f} {units} (echo time {rows[FOR_BONE].echo_ms:.2f} ms), the best with"
        f" echoes no sooner than {SHORT_ECHO_MS:g} ms, where bone is dark, by {dark:.0f} {units};"
        f" as acquired {own:.0f} {units}; with an echo of"
        f" {float(scanner.protocol(bright).echo_time):.2f} ms and nothing else changed"
        f" {only:.0f} {units}."
    )
