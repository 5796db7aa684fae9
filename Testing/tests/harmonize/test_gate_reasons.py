"""One reason first, the one to act on; the others are not said, or not true."""

from pathlib import Path

import pytest

from NetInversionLib import models
from NetInversionLib.core import files
from NetInversionLib.harmonize import change, gate, gate_reasons
from NetInversionLib.harmonize import scan as harmonize_scan

SHIPPED = Path(__file__).resolve().parents[3] / "Resources" / "Models" / "t1-brain.safetensors"


def check(name, words, passed=False, severity="refused"):
    return gate.Check(name, 0.0, 1.0, 2.0, passed, words, severity)


UNKNOWN = check("anatomy of the source", "The anatomy is not recognised.")
TURNED = check("anatomy of the source", "The voxels contradict the header.")
CUT = check("cut face of the source", "It is cut.", severity="flagged")
GHOST = check("repetition of the source", "A ghost.", severity="flagged")
FINE = check("noise of the source", "as in the target's people", True)


def test_a_whole_head_needs_a_mask_and_nothing_else_is_said():
    told = gate_reasons.one_reason([UNKNOWN], [CUT, GHOST, FINE])
    word, reasons = gate.verdict(told)
    assert word == "refused" and len(reasons) == 1 and "give a brain mask" in reasons[0]
    assert [one.name for one in told] == [one.name for one in (UNKNOWN, CUT, GHOST, FINE)]
    assert all(one.words.startswith("not decided") for one in told[2:])


def test_another_contrast_is_the_only_reason():
    tissues = [check(f"{name} in the source", f"{name}?") for name in ("grey over fluid", "white")]
    told = gate_reasons.one_reason([*tissues, UNKNOWN], [CUT, GHOST])
    assert gate.verdict(told) == ("refused", ["grey over fluid?"])


@pytest.mark.parametrize("anatomy", [UNKNOWN, TURNED])
def test_an_artefact_may_be_what_hides_the_anatomy(anatomy):
    told = gate_reasons.one_reason([anatomy], [GHOST, FINE])
    assert gate.verdict(told) == ("refused", [anatomy.words, GHOST.words])
    assert gate_reasons.one_reason([TURNED], [CUT]) == [TURNED, CUT]


@pytest.mark.parametrize("passed", [True, False])
def test_artefacts_of_the_target_s_anatomy_are_said_whichever_way_round_it_lies(passed):
    anatomy = [check(UNKNOWN.name, "", True), check("left and right of the source", "R", passed)]
    assert gate_reasons.one_reason(anatomy, [CUT, GHOST]) == [*anatomy, CUT, GHOST]


@pytest.mark.parametrize(
    ("name", "value", "voxel_mm", "passes"),
    [
        ("stripes", 3.0, 5.0, True),
        ("stripes", 3.0, 1.0, False),
        ("noise", 0.5, 5.0, True),
        ("noise", 3.0, 5.0, False),
        ("repetition", 3.0, 5.0, False),
    ],
)
def test_thick_slices_are_excused_for_what_they_do_by_themselves(name, value, voxel_mm, passes):
    one = gate.Check(f"{name} of the source", value, 1.0, 2.0, False, "An artefact.")
    found = gate_reasons.for_coarse(one, name, voxel_mm)
    assert found.passed == passes and found.words.startswith("not decided") == passes


def test_a_head_of_thick_slices_as_it_came(data):
    """No ghost, though fine detail repeats itself: a mask is what is missing."""
    head = data / "brain_longitudinal" / "patient01_visit1_T2.nii.gz"
    scan = harmonize_scan.prepare(files.load(head))
    statistics = change.gate_statistics(change.harmonizer(models.load(SHIPPED, "cpu")))
    word, reasons = gate.verdict(gate.check_source(scan, statistics))
    assert word == "refused" and len(reasons) == 1 and "give a brain mask" in reasons[0]
