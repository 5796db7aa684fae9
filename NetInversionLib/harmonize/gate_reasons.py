"""One reason is said first, the one to act on: what follows from it is not said beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .gate_words import WHOLE_HEAD
from .reading import NOT_DECIDED

if TYPE_CHECKING:
    from .gate import Check

ANATOMY, CUT_FACE, SIDES = "anatomy of the source", "cut face of the source", "left and right"
NOT_THE_PEOPLE_S = f"{NOT_DECIDED}: it is not the anatomy and contrast of the target's people"
COARSE_MM = 2.5  # from this voxel size on, figures of fine detail say more of it than of the image


def one_reason(anatomy: list[Check], quality: list[Check]) -> list[Check]:
    """The checks of a source, where a whole head or another contrast is the only fault.

    Noise, stripes and ghosts are told by comparison with the target's people: of a head or of
    another contrast these figures say nothing. Where it is not known why the anatomy is not
    recognised, they stay: an artefact may be what hides it.

    Args:
        anatomy: Whether it is the target's anatomy and contrast, the right way round.
        quality: Whether it is whole and clean.
    """
    wrong = [c for c in anatomy if not c.passed and not c.name.startswith(SIDES)]
    if _shows_a_head(wrong, quality):
        first, same = WHOLE_HEAD, [*wrong, *_cut_face(quality)]
    elif any(check.name != ANATOMY for check in wrong):
        first, same = wrong[0].words, wrong
    else:
        return anatomy + quality
    told = []
    for check in [*anatomy, *quality]:
        if check in same:
            told.append(replace(check, words=first))
        elif check in quality:
            told.append(replace(check, passed=True, words=NOT_THE_PEOPLE_S))
        else:
            told.append(check)
    return told


def _shows_a_head(wrong: list[Check], quality: list[Check]) -> bool:
    """Whether it ends in a flat face, as at the neck, and has no brain's outline in any placement.

    That is one fault, not two.
    """
    unknown = [check.name for check in wrong] == [ANATOMY]
    return bool(_cut_face(quality)) and unknown and "contradict" not in wrong[0].words


def _cut_face(quality: list[Check]) -> list[Check]:
    """The check of flat faces, if it failed."""
    return [check for check in quality if check.name == CUT_FACE and not check.passed]


def for_coarse(check: Check, name: str, voxel_mm: float) -> Check:
    """Thick slices are no artefact: what they do by themselves is said, and flags nobody.

    Between slices that lie farther apart than the gate looks, values are interpolated: that is
    smooth, and repeats itself at the slices' distance.

    Args:
        check: Of a source.
        name: Of its figure.
        voxel_mm: Longest side of the source's voxels.
    """
    by_itself = name == "stripes" or (name in ("noise", "sharpness") and check.value < check.low)
    if check.passed or not by_itself or voxel_mm <= COARSE_MM:
        return check
    words = f"{NOT_DECIDED}: voxels of {voxel_mm:.1f} mm are too coarse to tell"
    return replace(check, passed=True, words=words)
