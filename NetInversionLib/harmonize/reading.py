"""A harmonization's result in words, for the panel, the command line and the report.

Needs no torch.

answer(result.facts, result.tables)
"""

from __future__ import annotations

import html
from collections.abc import Iterable

from ..core.results import Table
from ..core.words import tr

DISTANCE = "Wasserstein distance to the target"
TYPICAL = "target, median person"
PASSED = "yes"
"""What the table of checks says of one that passed."""
NOT_DECIDED = "not decided"
"""How the words of a check begin that passed because nothing could be said."""
REMOVED = "The text with this result's figures was removed from the scene."


def answer(facts: dict, tables: dict[str, Table]) -> str:
    """One to four sentences: what came out, how sure it is, what to look at next.

    Args:
        facts, tables: Of a result of ``harmonize``; what is missing in them is left out of the
            words.
    """
    word = facts.get("verdict", "")
    if word not in ("accepted", "flagged", "refused"):
        return tr("The run did not come to a verdict.")
    if "summary" not in tables:
        first = (
            "The model does not fit this volume, and no image was made."
            if word == "refused"
            else ""
        )
    else:
        first = _what(facts, tables["summary"])
    parts = (first, _head(facts), _how_sure(facts, tables), _unlike(facts), _what_next(facts))
    return tr(" ".join(part for part in parts if part))


def verdict_text(facts: dict) -> str:
    """One line: the verdict and its reasons, "" without a verdict."""
    words = {"accepted": "Accepted.", "flagged": "Flagged:", "refused": "Refused:"}
    return " ".join([words.get(facts.get("verdict", ""), ""), *facts.get("reasons", [])]).strip()


def summary(facts: dict, tables: dict[str, Table]) -> tuple[str, str]:
    """(verdict, HTML): the verdict and the answer, the reasons, and what changed in figures."""
    word = facts.get("verdict", "")
    if not word:
        return "", REMOVED
    lines = [f"<b>Verdict: {word}.</b> {_escaped(answer(facts, tables))}"]
    lines += [f"- {_escaped(reason)}" for reason in facts["reasons"]]
    if "summary" in tables:
        lines += figures(tables["summary"])
    lines.append(f"Model: {_escaped(facts['model']['name'])}, research use only.")
    return word, "<br>".join(lines)


def figures(table: Table) -> list[str]:
    """Lines of HTML with the figures of table "summary".

    Each says what it is a share or a distance of.
    """
    of = _Rows(table)
    distance = (
        "Distance of the intensities to the target's (1 is the brightest tissue): "
        f"{of('source', DISTANCE):.3f} before, <b>{of('harmonized', DISTANCE):.3f}</b> after"
    )
    if TYPICAL in of.names:
        distance += f" (the target's own people: {of(TYPICAL, DISTANCE):.3f})"
    agreement = of("harmonized", "edge agreement with the source")
    change = of("harmonized", "mean change")
    return [
        distance,
        f"Edges: {100 * agreement:.1f} % of the source's gradients point as they did, by strength",
        f"Mean change: {100 * change:.1f} % of the brightest tissue's intensity",
    ]


def batch_text(ends: Iterable[tuple[str, str]]) -> str:
    """How a batch ended.

    Args:
        ends: (name, "done", "failed", "stopped" or "" if it was not begun) of each volume.
    """
    ends = list(ends)
    done = sum(how == "done" for _, how in ends)
    parts = [f"Batch: {done} of {len(ends)} volumes done."]
    for end, label in (("failed", "Failed"), ("stopped", "Stopped"), ("", "Left out")):
        names = ", ".join(name for name, how in ends if how == end)
        if names:
            parts.append(f"{label}: {names}.")
    return " ".join(parts)


# The sentences ------------------------------------------------------------------------------------


def _what(facts: dict, table: Table) -> str:
    """What was asked and what came out."""
    of = _Rows(table)
    before, after = of("source", DISTANCE), of("harmonized", DISTANCE)
    asked = f"Shown as by the target scanner ({facts['model']['name']})"
    came = f"the image's intensities are {after:.3f} from the target's, {before:.3f} before"
    if TYPICAL not in of.names or not of(TYPICAL, DISTANCE) > 0:
        return f"{asked}, {came}."
    typical = of(TYPICAL, DISTANCE)
    if after <= 2 * typical:
        reached = "as near as the target's own people are"
    elif after < before:
        reached = "nearer, but not as near as the target's own people are"
    else:
        reached = "no nearer than before"
    return f"{asked}, {came}: {reached} ({typical:.3f})."


def _how_sure(facts: dict, tables: dict[str, Table]) -> str:
    """The gate's word, how many checks it rests on, and whether the anatomy could change."""
    word, sure = facts["verdict"], ""
    checks = tables.get("verdict", Table("", {}))
    passed = checks.values("passed")
    if passed:
        open_ = sum(words.startswith(NOT_DECIDED) for words in checks.values("in words"))
        good = sum(one == PASSED for one in passed) - open_
        sure = f"{good} of {len(passed)} checks passed" + (
            f", {open_} not decided" if open_ else ""
        )
    if word == "refused" or "summary" not in tables:
        return f"{sure[:1].upper()}{sure[1:]}." if sure else ""
    if _only_curve_and_fields(facts):
        anatomy = (
            "only one rising tone curve and two smooth fields could act, so no structure "
            f"{_bound(facts)}can have appeared or vanished"
        )
    else:
        anatomy = "every voxel could change, so structures may have been drawn or erased"
    return f"How sure: {sure}; {anatomy}." if sure else f"How sure: {anatomy}."


def _unlike(facts: dict) -> str:
    """Where the brain is unlike the target's people, if it is."""
    places = facts.get("estimate", {}).get("unlike", [])
    if not places or facts["verdict"] == "refused":
        return ""
    named = "; ".join(f"about {place['ml']:.0f} ml ({place['where']})" for place in places)
    what = "One place is" if len(places) == 1 else f"{len(places)} places are"
    return (
        f"{what} unlike the target's people: {named}. It looks like a lesion, not shading, and was "
        "left out of the estimate."
    )


def _head(facts: dict) -> str:
    """Of a whole head: where its brain's outline comes from."""
    if "found_ml" not in facts:
        return ""
    return (
        f"The image shows the whole head; the brain was found in it ({facts['found_ml']:.0f} ml):"
        " look at the outline of the mask."
    )


def _bound(facts: dict) -> str:
    """From which contrast on structures keep their order; "" if all do, or nothing is said."""
    margin = facts.get("order_margin", 0.0)
    return (
        f"of more contrast than {100 * margin:.1f} % of the brightest tissue " if margin > 0 else ""
    )


def _only_curve_and_fields(facts: dict) -> bool:
    settings = facts.get("settings", {})
    return settings.get("mode") == "anatomy-safe" and not settings.get("strength")


def _what_next(facts: dict) -> str:
    if _only_curve_and_fields(facts):
        accepted = "Look next at the two fields: they should look like shading, without anatomy."
    else:
        accepted = "Look next at the change: it should show nothing that is not in the source."
    return {
        "accepted": accepted,
        "flagged": (
            "Something is unusual: read the reasons, and compare result and source before any use."
        ),
        "refused": "Read the reasons: they say what to choose or to prepare.",
    }[facts["verdict"]]


class _Rows:
    """Cells of a table by the name in its column "image" and by the column's name."""

    def __init__(self, table: Table):
        self.names = list(table.values("image"))
        self.table = table

    def __call__(self, row: str, name: str) -> float:
        return self.table.values(name)[self.names.index(row)]


def _escaped(text: str) -> str:
    return html.escape(text, quote=False)
