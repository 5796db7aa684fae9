"""What was found of a family's network, in words."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from ..core.keys import Column
from ..core.results import Table
from ..core.text import readable
from ..core.words import tr

NETWORK = "the network"
"""In ``findings["reached"]``, beside what needs none."""
SAME_WINDOW = {
    "given": "truth",
    "image": "truth",
    "missing": "added",
    "unnoticed answer": "unnoticed",
}
"""Images of a result by key, and the one whose window each takes."""
REMOVED = "The text with the figures was removed from the scene."


def answer(facts: Mapping[str, Any], tables: Mapping[str, Table]) -> str:
    """Two to four sentences, the main thing first.

    Args:
        facts: Of a result of ``question.ask``.
        tables: Of the same; all that is told stands in the facts.
    """
    return " ".join(tr(sentence) for sentence in _sentences(facts))


def summary(facts: Mapping[str, Any]) -> str:
    """The same as HTML."""
    if not facts:
        return html.escape(tr(REMOVED))
    first, *others = (html.escape(tr(one), quote=False) for one in _sentences(facts))
    return "<br>".join([f"<b>{first}</b>", *others, tr("Research use only.")])


def _sentences(facts: Mapping[str, Any]) -> list[str]:
    found, name = facts["findings"], facts["name"]
    sentences = [*_added(found, name), _quality(found, name)]
    if "deaf lines" in found:
        sentences += [_looked_at(found), _lacked(found)]
    else:
        sentences.append(_shown(found))
    return [sentence for sentence in sentences if sentence]


def _added(found: Mapping[str, Any], name: str) -> list[str]:
    if "hidden" not in found:
        return []
    hidden, against = 100 * found["hidden"], 100 * found["contradiction"]
    words = [f"Of what '{name}' adds, {hidden:.0f} % lies where nobody measured (the null space)."]
    if "error" in found:
        wrong = readable(found["error"], 2)
        words.append(f"There it is wrong by {wrong} of what is missing (1: adding nothing).")
    return [*words, f"It contradicts what was measured by {against:.1f} %."]


def _quality(found: Mapping[str, Any], name: str) -> str:
    reached, figure = dict(found["reached"]), Column.read(found["figure"])
    what, unit = figure.name, figure.unit
    own = reached.pop(NETWORK)
    if not reached:
        return f"'{name}' reaches {own:.1f} {unit} ({what})."
    peer = max(reached, key=lambda one: reached[one])
    best = reached[peer]
    return (
        f"'{name}' reaches {own:.1f} {unit} ({what}); the best without a network, {peer},"
        f" {best:.1f} {unit}."
    )


def _looked_at(found: Mapping[str, Any]) -> str:
    share = 100 * found["deaf lines"]
    if not share:
        return "It looks at every measured line."
    return f"Of the measured lines it does not look at {share:.0f} %."


def _lacked(found: Mapping[str, Any]) -> str:
    lines = found.get("lines")
    if not lines:
        return ""
    line, best, usual, any_ = (lines[key] for key in ("line", "best", "usual", "any"))
    return (
        f"The line that would have helped most, {line} from the middle, brings {best:.2f} dB; the"
        f" missing one nearest the middle {usual:.2f} dB, any {any_:.2f} dB."
    )


def _shown(found: Mapping[str, Any]) -> str:
    if "side" not in found:
        return ""
    side = found["side"]
    unseen, deaf, spot = (100 * found[key] for key in ("unseen", "deaf", "spot"))
    return (
        f"Of the changes of a square of {side} x {side} voxels, {unseen:.0f} % are not answered to"
        f" at all and {deaf:.0f} % by less than a tenth; a small spot is shown at {spot:.0f} % of"
        " its size."
    )
