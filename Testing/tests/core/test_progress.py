"""A part of a run: fractions in their place, nothing swallowed, results completed."""

import pytest

from NetInversionLib.core.progress import Cancelled, Part, Progress
from NetInversionLib.core.results import Result


class Recorder(Progress):
    def __init__(self):
        self.seen = []

    def report(self, fraction, message):
        self.seen.append((fraction, message))

    def log(self, message):
        self.seen.append(message)

    def point(self, curve, x, y):
        self.seen.append((curve, x, y))

    def intermediate(self, result):
        self.seen.append(result)


def test_a_part_hands_everything_on():
    whole, result = Recorder(), Result()
    part = Part(Part(whole, 0.5, 1.0), 0.2, 0.6)  # parts of parts too
    part.report(0.5, "half of it")
    part.log("a line")
    part.point("loss", 1, 2)
    part.intermediate(result)
    assert whole.seen == [(pytest.approx(0.7), "half of it"), "a line", ("loss", 1, 2), result]


def test_results_are_completed():
    whole = Recorder()
    Part(whole, 0, 1, lambda result: Result(facts={"part of": result})).intermediate(
        part := Result()
    )
    assert whole.seen[0].facts == {"part of": part}


def test_cancelling_passes_through():
    class Stop(Progress):
        def report(self, fraction, message):
            raise Cancelled

    with pytest.raises(Cancelled):
        Part(Stop(), 0, 0.5).report(0.1, "")
