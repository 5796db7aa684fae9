"""An ideal input's result in words, for the panel, the command line and the report. Needs no torch.

    answer(result.facts, result.tables)

The words for the inputs of a run stand here, so that tables, selectors and sentences use the same:
the *patient's own input* is what was acquired; an *ideal input* is what was found, *from* the
images that the search started at.
"""

from __future__ import annotations

import html
import math

from ..core.keys import OWN, Key, start_of
from ..core.results import Table
from ..core.words import tr
from .settings import BLUR_VOXELS, NOISE

TISSUES = {"bone": (200.0, math.inf), "soft tissue": (-30.0, 150.0), "fat": (-150.0, -30.0)}
"""HU limits. Between soft tissue and bone lie vessels filled with contrast agent."""
EVERYTHING, BODY = "everything", "body"
"""Where errors are taken, beside the tissues."""
ALIKE = 1.5
"""Starts whose errors differ by less than this factor found inputs that are as good."""
REMOVED = "The text with this result's figures was removed from the scene."


def start_words(start: str) -> str:
    """Where a search started: "patient" is "the patient's images".

    "zeros", "noise" and "noise 2" say it themselves.
    """
    return "the patient's images" if start == "patient" else start


def input_words(name: str, kind: str = "ideal") -> str:
    """What a row of a table is about.

    Args:
        name: ``OWN``, or the start of an input that was found.
        kind: "ideal" or "worst".
    """
    if name == OWN:
        return "Patient's own input"
    return f"{kind.capitalize()}, from {start_words(name)}"


IMAGES = {
    "ideal ideal": "Ideal {channel}, from {start}",
    "ideal worst": "Worst {channel}, from {start}",
    "change ideal": "Change of {channel}, ideal from {start}",
    "change worst": "Change of {channel}, worst from {start}",
    "output ideal": "Synthetic {channel}, ideal input from {start}",
    "output worst": "Synthetic {channel}, worst input from {start}",
    "output own": "Synthetic {channel}, patient's own input",
    "error ideal": "Error of {channel}, ideal input from {start}",
    "error worst": "Error of {channel}, worst input from {start}",
    "error own": "Error of {channel}, patient's own input",
    "spread": "Spread of {channel} over the starts",
    "shared": "What inputs as good share of {channel}",
    "leeway": "Spread of {channel} over inputs as good",
    "direction": "Largest difference of {channel} between inputs as good",
}
"""Titles of images by what they show and the kind of the input, "ideal", "worst" or ``OWN``."""
OF_ALL = ("spread", "shared", "leeway", "direction")
"""Images that are of all inputs found."""


def image_title(key: Key, channel: str, kind: str = "ideal") -> str:
    """What an image of a result is, for its node and its file's header.

    Args:
        key: Of the image.
        channel: The name of the channel that it shows.
        kind: "ideal" or "worst".
    """
    of = OWN if key.start == OWN else kind
    form = IMAGES[key.kind if key.kind in OF_ALL else f"{key.kind} {of}"]
    return form.format(channel=channel, start=start_words(key.start))


def mae(tissue: str) -> str:
    """Name of the column with the mean absolute error in a tissue."""
    return f"MAE {tissue}"


def errors_of(facts: dict) -> dict[str, float]:
    """Mean absolute errors over the region by start, ``OWN`` first; empty if there are none."""
    return {start_of(name): error for name, error in facts.get("error", {}).items()}


def answer(facts: dict, tables: dict[str, Table]) -> str:
    """One to four sentences: what came out, how sure it is, how large the change is, what to look
    at next.

    Args:
        facts, tables: Of a result of ``ideal_input``; what is missing in them is left out of the
            words.
    """
    return tr(" ".join(_sentences(facts, tables)))


def _sentences(facts: dict, tables: dict[str, Table]) -> list[str]:
    """The answer, the main thing first."""
    if "error" not in facts or "error" not in tables:
        done, total = facts.get("images_done", 0), facts.get("images", 0)
        return [
            f"The run was stopped with {done} of {total} images finished, so there are no figures:"
            " what is shown is the best input until then."
        ]
    start = best_start(facts)
    sentences = [_what(facts, tables, start)]
    if _gain(facts, start) > 0:
        sentences += [
            _how_sure(facts, tables, start),
            _how_far(facts, start),
            _what_next(facts, tables, start),
        ]
    # Of a network of the user's own: whether it does its task at all.
    sentences.append(facts.get("quality", {}).get("words", ""))
    return [sentence for sentence in sentences if sentence]


def best_start(facts: dict) -> str:
    """The start whose input the network errs least on; of worst inputs, most on."""
    found = {name: error for name, error in errors_of(facts).items() if name != OWN}
    choose = min if _kind(facts) == "ideal" else max
    return choose(found, key=lambda name: found[name])


def summary(facts: dict, tables: dict[str, Table]) -> str:
    """HTML: the answer, the error of each input, and what the network is."""
    if not facts:
        return REMOVED
    first, *others = (_escaped(tr(sentence)) for sentence in _sentences(facts, tables))
    lines = [" ".join([f"<b>{first}</b>", *others])]
    if "error" not in facts or "error" not in tables:
        return f"<b>Incomplete.</b> {lines[0]}"
    units = _units(tables["error"])
    lines.append("Mean absolute error over all voxels of the region, air included:")
    errors = errors_of(facts)
    own = errors[OWN]
    for name, error in errors.items():
        line = f"- {input_words(name, _kind(facts))}: {amount(error, units)}"
        lines.append(
            line
            if name == OWN or not own
            else f"{line}, {100 * error / own:.0f} % of the patient's own"
        )
    model = facts["model"]
    lines.append(f"Network: {model['name']}. {model.get('intended_use', '')}")
    return "<br>".join([lines[0], *map(_escaped, lines[1:])])


# The sentences ------------------------------------------------------------------------------------


def _what(facts: dict, tables: dict[str, Table], start: str) -> str:
    """What was asked and what came out."""
    table, kind = tables["error"], _kind(facts)
    where = BODY if table.column(mae(BODY)) else EVERYTHING
    own, found = _errors(facts, table, where, start)
    place = "inside the body" if where == BODY else "over the region"
    units = _units(table)
    asked = (
        f"With the patient's own input the network's image differs from the target by"
        f" {amount(own, units)} on average {place}"
    )
    if not own > 0:
        return f"{asked}: there is nothing to gain."
    within = "" if kind == "ideal" else " within the largest change"
    return (
        f"{asked}; with the {kind} input (searched from {start_words(start)}{within}) by"
        f" {amount(found, units)}, {100 * found / own:.0f} % of that."
    )


def _how_sure(facts: dict, tables: dict[str, Table], start: str) -> str:
    """How the starts agree, and what noise and blur leave of the gain."""
    parts = []
    found = [error for name, error in errors_of(facts).items() if name != OWN]
    if len(found) > 1:
        alike = max(found) <= ALIKE * min(found)
        parts.append(
            f"the {len(found)} starts end between {min(found):.1f} and "
            f"{amount(max(found), _units(tables['error']))} over the whole region, so "
            + (
                "this input is one answer of several"
                if alike
                else "what is found depends on the start"
            )
        )
    kept = kept_of(tables, start)
    if kept:
        noisier, blurred = map(_share, kept)
        words = (
            f"of the gain {noisier} stays when noise of {100 * NOISE:.0f} % of the input's range is"
            f" added to both inputs, {blurred} when both are blurred by {BLUR_VOXELS:g} voxel"
        )
        words += (
            ": most of it lies in fine patterns and tells about this network, not about a scanner"
            if min(kept) < 0.5
            else ", so it does not hang on fine patterns alone"
        )
        parts.append(words)
    return f"How sure: {'; '.join(parts)}." if parts else ""


def _how_far(facts: dict, start: str) -> str:
    """How large the change is beside the images' noise, and how little of it gives half of the
    gain; only what was measured.
    """
    change = facts.get("change_in_noise", {}).get(start)
    if not change:
        return ""
    words = (
        f"How far: the {_kind(facts)} input differs from the patient's own by {change:.2g} times"
        " the images' own noise (root mean square)"
    )
    curve = facts.get("trade_off", {})
    half = curve.get("half")
    if half is not None and start == "patient":
        some, every = curve.get("images"), curve.get("of")
        where = f", on {some} of {every} images," if some != every else ""
        words += f"; half of the gain{where} needs {half:.2g} times that noise"
    return f"{words}."


def optima_in_words(optima: dict) -> str:
    """Facts "optima" in words: how many inputs are as good, what they share, where they differ."""
    shared = 100 * optima["shared"]
    words = (
        f"{optima['members']} inputs err alike ({optima['error']:.1f} {optima['units']}; the best"
        f" alone {optima['best']:.1f}, the patient's own {optima['own']:.1f}). Of their mean square"
        f" change {shared:.0f} % is shared by all; the rest is leeway, about which the network"
        " asks nothing of a scanner."
    )
    first = optima["components"][0]
    equal = 100 / len(optima["components"])
    return (
        f"{words} The largest direction of that holds {first:.0f} % of it; if all were alike, each"
        f" would hold {equal:.0f} %."
    )


def _what_next(facts: dict, tables: dict[str, Table], start: str) -> str:
    """The channel that the gain needs most, and the tissue in which the error changes most."""
    parts = []
    needed = _needed_channel(tables, start)
    if needed:
        lost = "nothing of" if needed[1] >= 1 else f"only {100 * (1 - needed[1]):.0f} % of"
        parts.append(f"the change of the {needed[0]} (without it {lost} the gain is left)")
    tissue = _changed_tissue(facts, tables["error"], start)
    if tissue:
        parts.append(
            f"{tissue[0]} (error {tissue[1]:.0f} before, {tissue[2]:.0f} {_units(tables['error'])}"
            " after)"
        )
    return f"Look next at {' and at '.join(parts)}." if parts else ""


SHARE_OF = "1 of "
"""How units begin that are a whole: values in them are read as per cent of it."""


def amount(value: float, units: str) -> str:
    """A value with its units: "23.1 HU", or "2.1 % of the image's brightest tissue"."""
    if units.startswith(SHARE_OF):
        return f"{100 * value:.1f} % of {units.removeprefix(SHARE_OF)}"
    return f"{value:.1f} {units}"


def _share(share: float) -> str:
    """A share of the gain in words; less than nothing is nothing."""
    return f"{100 * share:.0f} %" if share > 0 else "nothing"


# The figures --------------------------------------------------------------------------------------


def _kind(facts: dict) -> str:
    return "worst" if facts.get("settings", {}).get("direction") == "worst" else "ideal"


def _units(table: Table) -> str:
    column = table.column(mae(EVERYTHING))
    return column.unit if column else ""


def _gain(facts: dict, start: str) -> float:
    """How much less the network errs; of a worst input, how much more."""
    errors = errors_of(facts)
    gain = errors[OWN] - errors[start]
    return gain if _kind(facts) == "ideal" else -gain


def _errors(facts: dict, table: Table, tissue: str, start: str) -> tuple[float, float]:
    """Errors in a tissue of the patient's own and of the found input.

    The rows are in the order of ``facts["error"]``.
    """
    column = table.values(mae(tissue))
    names = list(errors_of(facts))
    return column[names.index(OWN)], column[names.index(start)]


def kept_of(tables: dict[str, Table], start: str) -> tuple[float, float] | None:
    """Shares of the gain that stay when both inputs are noisier, and when both are blurred.

    Args:
        tables: Of a result.
        start: Whose input is asked about.

    Returns:
        Below 0 where the found input then errs more than the patient's; None without the table
        "validity", or without a gain.
    """
    table = tables.get("validity")
    if table is None:
        return None
    labels, values = list(table.columns.values())[:2]
    error = dict(zip(labels, values))
    gains = []
    for change in ("", ", noisier", ", blurred"):
        own, found = error.get(input_words(OWN) + change), error.get(input_words(start) + change)
        if own is None or found is None:
            return None
        gains.append(own - found)
    if not gains[0] > 0:
        return None
    noisier, blurred = (gain / gains[0] for gain in gains[1:])
    return noisier, blurred


def _needed_channel(tables: dict[str, Table], start: str) -> tuple[str, float] | None:
    """The channel whose return to the patient's own loses most of the gain, and the share lost."""
    if "swap back" not in tables:
        return None
    table = tables["swap back"]
    headings = ("start", "channel put back", "share of the gain lost")
    rows = zip(*(table.values(heading) for heading in headings))
    lost = {
        channel: share / 100
        for name, channel, share in rows
        if name == start_words(start) and math.isfinite(share)
    }
    if not lost:
        return None
    channel = max(lost, key=lambda name: lost[name])
    return channel.replace("_", " "), lost[channel]


def _changed_tissue(facts: dict, table: Table, start: str) -> tuple[str, float, float] | None:
    """The tissue whose error changes most, with its error before and after."""
    errors = {
        tissue: _errors(facts, table, tissue, start)
        for tissue in TISSUES
        if table.column(mae(tissue))
    }
    if not errors:
        return None
    tissue = max(errors, key=lambda name: abs(errors[name][0] - errors[name][1]))
    return tissue, *errors[tissue]


def _escaped(text: str) -> str:
    return html.escape(text, quote=False)
