"""The results of a search for invariances in words, for the panel, the command line and the report.

``facts`` and ``tables`` are those of a result of ``invariances.invariances``, or what a scene kept
of them. Needs no torch.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping

from ..core.keys import SECOND, Key
from ..core.results import Table
from ..core.text import readable
from ..core.words import tr
from .observer import (
    AS_IT_IS,
    BLURRED,
    DENOISED,
    HIDDEN_BELOW,
    IN_WORDS,
    MISSED,
    NORMAL,
    SEEN_FROM,
    VANISHES,
)

REMOVED = "The text with this result's figures was removed from the scene."
SEARCHED = "but changes that were not tried may pass too"
AVERAGE = "the limit is an average over the region, so a small spot may change by more"


def answer(facts: Mapping, tables: Mapping[str, Table]) -> str:
    """What was asked, what came out, how sure that is and what to do next: up to five sentences.

    Args:
        facts: What is missing, because a run was stopped early, is left out.
        tables: By key; "proof" is needed for figures, "bands" and "lesions" say more.

    Returns:
        Plain text.
    """
    found = [_found(facts, tables), _certainty(facts), _next(facts, tables)]
    sentences = [*found, *seen(tables)]
    stopped = "" if facts.get("complete", True) else "Stopped early, so this is of a part only: "
    return tr(stopped + " ".join(sentence for sentence in sentences if sentence))


def summary(facts: Mapping | None, tables: Mapping[str, Table]) -> str:
    """The answer, and how many samples each denoiser's proof rests on, as HTML."""
    if not facts:
        return _escaped(REMOVED)
    lines = [f"<b>{_escaped(answer(facts, tables))}</b>"]
    if not facts.get("complete", True):
        lines.append("<b>Incomplete</b>: the run was stopped; the maps are partial.")
    for network, part in parts(facts).items():
        lines.append(
            f"<b>{_escaped(part['model']['name'])}</b>: {part['accepted']} of {part['projected']} "
            f"projected samples are proven to change {_escaped(looked_at(part))} by at most "
            f"{amount(part, part['epsilon'])}."
        )
        share = _mean(_column(tables, Key("proof", network=network), "survived"))
        if share is not None:
            lines.append(f"Of the proposed change {share:.0f} % survived.")
    lines.append("Research use only.")
    return "<br>".join(lines)


def parts(facts: Mapping) -> dict[str, Mapping]:
    """The facts about each denoiser, by the network of its keys: "" or ``SECOND``."""
    return {"": facts, **({SECOND: facts["second"]} if "second" in facts else {})}


def layer_change(layer: str) -> str:
    """What the change of a layer is called in headings."""
    return "change of the output" if layer == "output" else f"change of the layer {layer}"


def looked_at(part: Mapping) -> str:
    """What may not change, from the facts about one denoiser."""
    layer = part["settings"]["layer"]
    return "the network's output" if layer == "output" else f"the network's layer {layer}"


def amount(part: Mapping, value: float) -> str:
    """A change of that, with its unit: HU, or per cent of a hidden layer's own size."""
    if part["epsilon_units"] == "HU":
        return f"{readable(value, 2)} HU"
    return f"{readable(100 * value, 2)} %"


def tolerance(part: Mapping) -> str:
    """What counts as unnoticed, and where the figure comes from."""
    limit, settings = amount(part, part["epsilon"]), part["settings"]
    if part["epsilon_units"] == "HU" and settings.get("epsilon_hu") is None:
        share = settings.get("epsilon_noise", 0.1)
        return f"{limit}, {share:g} times the noise of {readable(part['epsilon'] / share, 2)} HU"
    return limit


def averaged(part: Mapping) -> str:
    """What the figure of the tolerance is an average of."""
    size = part["settings"].get("patch_mm")
    if part["epsilon_units"] != "HU" or size is None:
        return "root mean square over the region"
    return f"root mean square over the patch of {size:g} mm that changes most"


# The answer's sentences --------------------------------------------------------------------------


def _found(facts: Mapping, tables: Mapping[str, Table]) -> str:
    name, where = facts["model"]["name"], _where(facts)
    limit, accepted, tried = tolerance(facts), facts["accepted"], facts["projected"]
    if not tried:
        return (
            f"Nothing is proven about {name}: changes were tried {where}, none of them was moved "
            "to where the network does not notice."
        )
    if not accepted:
        return (
            f"None of {tried} changes tried {where} could be made unnoticed by {name} "
            f"({looked_at(facts)} within {limit})."
        )
    before, after, share = (
        _mean(_column(tables, "proof", heading))
        for heading in ("input change before", "input change after", "survived")
    )
    size = "other images"
    if after is not None:
        size = f"images that differ by {readable(after, 2)} HU on average"
    left = ""
    if before is not None and share is not None:
        left = f"; {share:.0f} % of what was proposed ({readable(before, 2)} HU) is left in them"
    left += _band(facts, tables) + _other(facts, tables)
    return (
        f"{where[0].upper()}{where[1:]}, {size} pass for the patient's with {name}: "
        f"{looked_at(facts)} stays within {limit}{left}."
    )


def _where(facts: Mapping) -> str:
    settings = facts["settings"]
    if settings.get("region_from"):
        return f"in {settings['region_from']}"
    return "in the chosen region" if settings.get("region") else "in the whole image"


def _band(facts: Mapping, tables: Mapping[str, Table]) -> str:
    """Whether what is left is mostly fine or coarse."""
    values = dict(zip(_column(tables, "bands", "band"), _column(tables, "bands", "proven")))
    coarse, fine = values.get("structure", math.nan), values.get("noise", math.nan)
    if not (coarse + fine > 0) or max(coarse, fine) < 1.2 * min(coarse, fine):
        return ""
    side = "finer" if fine > coarse else "coarser"
    return f", mostly {side} than {facts['settings']['structure_mm']:g} mm"


def _other(facts: Mapping, tables: Mapping[str, Table]) -> str:
    """What a second denoiser leaves, beside the first."""
    share = _mean(_column(tables, Key("proof", network=SECOND), "survived"))
    if "second" not in facts or share is None:
        return ""
    return f" (with {facts['second']['model']['name']}: {share:.0f} %)"


def _certainty(facts: Mapping) -> str:
    if not facts["projected"]:
        return ""
    if not facts["accepted"]:
        return (
            "That does not prove that everything is noticed: a larger limit or more evaluations "
            "per sample may find some."
        )
    hidden = facts["settings"]["layer"] != "output"
    patch = facts["settings"].get("patch_mm")
    limit = AVERAGE if patch is None else f"no patch of {patch:g} mm changes by more than the limit"
    if hidden:
        limit = "of the denoised image nothing is proven"
    return (
        f"{facts['accepted']} of {facts['projected']} were proven by running the network, "
        f"{SEARCHED}; {limit}."
    )


def _next(facts: Mapping, tables: Mapping[str, Table]) -> str:
    if not facts["projected"]:
        return "Next: set Projected above 0."
    if not facts["accepted"]:
        return ""
    nodule = _largest_nodule(tables)
    if nodule is not None:
        return (
            f"At the point, a nodule of {nodule[0]:g} mm could be there with"
            f" {readable(abs(nodule[1]), 2)} of its {abs(nodule[2]):g} HU and not show: see the"
            " table of lesions."
        )
    if facts["settings"].get("lesion") is not None:
        return "Next: read the table of lesions."
    return (
        "Next: see in the proven map where it is largest, and place a point there to ask about a "
        "nodule."
    )


def _largest_nodule(tables: Mapping[str, Table]) -> tuple[float, float, float] | None:
    """(diameter in mm, HU that survive, HU put in) of the nodule of which most survives."""
    headings = ("diameter", "contrast that survives", "contrast")
    rows = zip(*(_column(tables, "lesions", heading) for heading in headings))
    known = [row for row in rows if math.isfinite(row[1])]
    return max(known, key=lambda row: abs(row[1]), default=None)


# Would a lesion be seen? --------------------------------------------------------------------------


def seen(tables: Mapping[str, Table], network: str = "") -> list[str]:
    """How many nodules an observer sees in each way, and how many denoising loses; sentences.

    Args:
        tables: By key; empty without d' in "lesions", as of versions before.
        network: Of the key, "" or ``SECOND``.
    """
    key = Key("lesions", network=network)
    low, denoised, blurred, normal = (
        sum(value >= SEEN_FROM for value in _column(tables, key, f"d' {way}"))
        for way in (AS_IT_IS, DENOISED, BLURRED, NORMAL)
    )
    verdicts = _column(tables, key, IN_WORDS)
    if not verdicts:
        return []
    first = (
        f"An observer who knows where to look sees {low} of the {len(verdicts)} nodules as it is,"
        f" {denoised} denoised, {blurred} blurred as much and {normal} at normal dose (d' of"
        f" {SEEN_FROM:g} or more)."
    )
    vanished, missed = verdicts.count(VANISHES), verdicts.count(MISSED)
    if not vanished + missed:
        return [first, "Denoising is not found to lose any of them."]
    lost = f"Denoising could make {vanished} of them vanish and {missed} be missed."
    return [first, lost]


def compared(tables: Mapping[str, Table], network: str = "") -> str:
    """d' denoised as a share of that as it is and blurred, on average over the nodules.

    "" where there is none.
    """
    key = Key("lesions", network=network)
    denoised = _column(tables, key, f"d' {DENOISED}")
    nothing, blur = (
        _mean_ratio(denoised, _column(tables, key, f"d' {way}")) for way in (AS_IT_IS, BLURRED)
    )
    if nothing is None or blur is None:
        return ""
    return (
        f"On average d' denoised is {nothing:.2f} times that of doing nothing, and {blur:.2f} times"
        " that of a blur that leaves as much noise."
    )


def _mean_ratio(values: Iterable[float], others: Iterable[float]) -> float | None:
    """The geometric mean of ratios, of those that are numbers above 0."""
    logarithms = [
        math.log(one / other)
        for one, other in zip(values, others)
        if 0 < one < math.inf and 0 < other < math.inf
    ]
    mean = _mean(logarithms)
    return None if mean is None else math.exp(mean)


def seen_how(part: Mapping) -> str:
    """What d' means here, and what it cannot say; ``part``: the facts about one denoiser."""
    dose = part["settings"]["dose"]
    if "normal_dose" in part.get("inputs", {}):
        drawn = "on the normal-dose image"
    else:
        drawn = (
            "on what the denoiser makes of the low-dose image, because no normal-dose image was"
            f" given; normal dose is a simulation of {readable(1 / dose)} times the dose, not this"
            " patient's image"
        )
    return (
        f"Noise was drawn {part['settings']['draws']} times {drawn}. An observer (channelised"
        " Hotelling) that knows the nodule, its place and what lies around it then scores images"
        " with and without it; d' is how far the scores lie apart, in their standard deviations."
        f" Of two images it picks the right one in 76 % at {HIDDEN_BELOW:g}, which is called not"
        f" seen below that; {SEEN_FROM:g} is Rose's criterion for what is seen reliably. It counts"
        " what noise hides, not what anatomy hides: readers see less. The noise has the texture of"
        " a medium kernel, not of this scanner's."
    )


# One image of a result ---------------------------------------------------------------------------


def proof(facts: Mapping, tables: Mapping[str, Table], key: str, number: int | None) -> str:
    """What is known of an image of the result, in a sentence.

    Args:
        key: "samples", "proposals", "component 2", "lesion" or "hidden lesion", of either
            denoiser.
        number: Of the sample or proposal; None if it is not known.
    """
    image = Key.read(key)
    part = parts(facts)[image.network]
    if image.kind in ("samples", "proposals"):
        table = tables.get(Key("proof of samples", network=image.network), Table("", {}))
        return _sample(part, table, image.kind == "samples", number)
    if image.kind == "lesion":
        return (
            "Unproven: the nodule of which most stays unnoticed, put in whole. See the table of "
            "lesions."
        )
    if image.kind == "hidden lesion":
        limit = amount(part, part["epsilon"])
        return f"Proven: with so much of that nodule {looked_at(part)} changes by at most {limit}."
    table = tables.get(Key("components", network=image.network), Table("", {}))
    return _component(part, table, image.number)


def _sample(part: Mapping, table: Table, proven: bool, number: int | None) -> str:
    """Of several slices and tiles, the largest changes."""
    layer, limit = looked_at(part), amount(part, part["epsilon"])
    rows = [row for row, its in enumerate(table.values("sample")) if its == number]
    accepted = [row for row in rows if table.values("accepted")[row]]
    change = layer_change(part["settings"]["layer"])
    if proven and accepted:
        largest = amount(part, _largest(table, f"projected, {change}", accepted))
        words = [
            f"Sample {number}, proven: {layer} changes by {largest}, at most {limit} are allowed."
        ]
        output = _largest(table, "projected, change of the output", accepted)
        if part["epsilon_units"] != "HU" and math.isfinite(output):
            words.append(f"Its output changes by {readable(output, 2)} HU.")
        survived = table.values("survived")
        share = sum(survived[row] for row in accepted) / len(accepted)
        return " ".join([*words, f"{share:.0f} % of the proposed change survived."])
    if proven:
        return f"Proven: {layer} changes by at most {limit}."
    if rows:
        largest = amount(part, _largest(table, f"unproven, {change}", rows))
        return (
            f"Proposal {number}, unproven: {layer} changes by {largest}; {limit} count as "
            "unnoticed."
        )
    return "Unproven: as proposed. The table of proofs says how much the network notices."


def _component(part: Mapping, table: Table, number: int | None) -> str:
    """What one standard deviation of a component does, and how much of the samples it tells."""
    rows = [row for row, its in enumerate(table.values("component")) if its == number]
    name = f"{layer_change(part['settings']['layer'])}, 1 standard deviation"
    heading = table.column(name)
    if heading is None:
        return ""
    share = _largest(table, "explained variance", rows)
    change = _largest(table, name, rows)
    return (
        f"Component {number}: {share:.0f} % of the variance; {heading}: {readable(change, 2)}. "
        "Other amounts are not proven."
    )


# Figures -----------------------------------------------------------------------------------------


def _column(tables: Mapping[str, Table], key: str, name: str) -> list:
    return tables[key].values(name) if key in tables else []


def _mean(values: Iterable[float]) -> float | None:
    """Of those that are numbers; None if there is none."""
    known = [float(value) for value in values if math.isfinite(float(value))]
    return sum(known) / len(known) if known else None


def _largest(table: Table, name: str, rows: Iterable[int]) -> float:
    """In the column of this name; NaN if there is none."""
    values = table.values(name)
    return max((values[row] for row in rows), default=math.nan) if values else math.nan


def _escaped(text: str) -> str:
    return html.escape(text, quote=False)
