"""The builder of every report: one HTML document that needs no other file.

Whatever a name holds is text.

A page is made of parts (strings of HTML) that the functions here make: ``lead`` with the answer,
then ``chapter`` by
chapter with ``paragraph``, ``bullets``, ``picture``, ``table``, ``settings``, ``provenance`` and
``record``; ``document``
puts them together and ``write`` writes them. Everything that comes in as text is escaped here and
nowhere else.
"""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from .results import Table
from .text import readable, shown
from .words import title as in_language
from .words import tr
from .writing import replacing

WIDEST, MOST_TURNED = 9, 6
"""Columns above which a table of at most so many rows is turned."""

NOTICE = "Research use only, never for diagnosis or treatment."

STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --paper: #fff; --line: #c5ccd3; --soft: #f1f4f7;
  --quiet: #57606a; --good: #d5efd5; --care: #fdeebb; --bad: #f8d0cc }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --paper: #16191d; --line: #444c55; --soft: #20252b;
    --quiet: #a3adb7; --good: #1e4a26; --care: #574713; --bad: #5e2721 }
}
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; padding: 0 1.5em; max-width: 72em;
  color: var(--ink); background: var(--paper) }
h1 { font-size: 1.6em; line-height: 1.25; margin: 0 0 .4em; overflow-wrap: anywhere }
h2 { font-size: 1.25em; margin: 2em 0 .5em }
h3 { font-size: 1em; margin: 1.5em 0 .4em }
p, li { max-width: 48em }
.notice { font-weight: 600 }
.quiet { color: var(--quiet) }
.answer { font-size: 1.15em; background: var(--soft); border-left: 5px solid #0072b2;
  padding: .8em 1em; margin: 1em 0 }
.answer p { margin: 0; max-width: none }
.answer ul { margin: .5em 0 0; padding-left: 1.2em; font-size: .87em }
.wide { overflow-x: auto; margin: 1em 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
caption { text-align: left; color: var(--quiet); padding-bottom: .4em }
th, td { text-align: left; vertical-align: top; padding: .35em .8em .35em 0;
  border-top: 1px solid var(--line) }
td.path, .facts td { max-width: 34em; overflow-wrap: anywhere }
figure { margin: 1.2em 0 }
figure img { max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line) }
figcaption { color: var(--quiet); max-width: 60em }
.status { padding: 0 .5em; border-radius: .5em; background: var(--soft) }
.accepted, .done { background: var(--good) }
.flagged { background: var(--care) }
.refused, .failed { background: var(--bad) }
details { margin: 1em 0 }
summary { cursor: pointer }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--soft); padding: 1em;
  font-size: .85em }
@media print {
  :root { --ink: #000; --paper: #fff; --line: #999; --soft: #fff; --quiet: #333; --good: #fff;
    --care: #fff; --bad: #fff }
  body { margin: 0; max-width: none; font-size: 10pt }
  .status { border: 1px solid #000 }
  figure, tr { break-inside: avoid }
  h2, h3 { break-after: avoid }
  .wide { overflow: visible }
}
"""


# The document -------------------------------------------------------------------------------------


def opening(title: str, style: str = "", head: str = "") -> str:
    """The page up to its first part; ``style``, ``head``: CSS and HTML of the page's own."""
    return (
        f"<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'>{head}"
        f"<title>{text(title)}</title>"
        f"<style>{STYLE}{style}</style></head><body>\n"
    )


CLOSING = "</body></html>\n"


def document(title: str, parts: Iterable[str], style: str = "") -> str:
    """The whole page: heading, notice of research use, then the parts."""
    return opening(title, style) + "\n".join(
        [f"<h1>{text(title)}</h1>", paragraph(NOTICE, "notice"), *parts, CLOSING]
    )


def write(path: Path | str, page: str) -> Path:
    """Write a page, replaced whole.

    Raises:
        OSError: The folder cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_text(page, encoding="utf-8")
    return path


# Parts --------------------------------------------------------------------------------------------


def lead(answer: str, word: str = "", notes: Iterable[str] = ()) -> str:
    """The answer in a sentence or three, on top of the page.

    Args:
        answer: Plain text.
        word: A verdict ("accepted", "flagged", "refused") to stand before it.
        notes: Warnings or reasons, as a list below it.
    """
    badge = f"<span class='status {text(word)}'>{text(word)}</span> " if word else ""
    return f"<div class='answer'><p>{badge}{text(answer)}</p>{bullets(notes)}</div>"


def chapter(heading: str, *parts: str) -> str:
    """Parts under a heading; nothing if no part holds anything."""
    held = "\n".join(part for part in parts if part)
    return f"<section><h2>{text(heading)}</h2>\n{held}</section>" if held else ""


def folded(summary: str, *parts: str) -> str:
    """Parts that are shown when the reader asks for them."""
    return f"<details><summary>{text(summary)}</summary>{''.join(parts)}</details>"


def heading(words: str) -> str:
    """A heading within a chapter."""
    return f"<h3>{text(words)}</h3>"


def paragraph(words: str, kind: str = "") -> str:
    """Plain text as a paragraph; ``kind``: a class of ``STYLE``, such as "quiet"."""
    return f"<p class='{text(kind)}'>{text(words)}</p>" if kind else f"<p>{text(words)}</p>"


def bullets(lines: Iterable[str]) -> str:
    """Plain texts as a list; nothing if there are none."""
    items = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def picture(png: bytes, alternative: str, caption: str = "") -> str:
    """An image in the page itself.

    Args:
        png: The file's bytes.
        alternative: What it shows, for who cannot see it.
        caption: Plain text below it; "": none.
    """
    below = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    data = base64.b64encode(png).decode()
    source = f"data:image/png;base64,{data}"
    return f"<figure><img alt='{text(alternative)}' src='{source}'>{below}</figure>"


def table(
    table: Table,
    caption: str = "",
    notes: Mapping[str, str] | None = None,
    columns: Iterable[str] | None = None,
) -> str:
    """A table with its headings (which hold the units).

    A short and wide one is turned, a heading a line.

    Args:
        table: Numbers are shown to four digits, a missing one as a dash.
        caption: Plain text above it.
        notes: What a heading means, by heading, as a list below it; those of columns that are not
            there are left out.
        columns: Headings to show, those that are there; default all.
    """
    kept = [name for name in (columns or table.columns) if name in table.columns]
    heads = [f"<th>{text(in_language(name))}</th>" for name in kept]
    cells = [[f"<td>{text(cell(value))}</td>" for value in table.columns[name]] for name in kept]
    if len(kept) > WIDEST and max(map(len, cells)) <= MOST_TURNED:
        lines = ["".join([head, *column]) for head, column in zip(heads, cells)]
    else:
        lines = ["".join(heads), *map("".join, zip(*cells))]
    rows = "".join(f"<tr>{line}</tr>" for line in lines)
    above = f"<caption>{text(caption)}</caption>" if caption else ""
    below = bullets(
        f"{in_language(name)}: {tr(words)}" for name, words in (notes or {}).items() if name in kept
    )
    return f"<div class='wide'><table>{above}{rows}</table></div>{below}"


def pairs(rows: Iterable[tuple[str, object]], headings: tuple[str, str] = ("what", "value")) -> str:
    """Names and values, one a line."""
    lines = "".join(
        f"<tr><td>{text(name)}</td><td>{text(cell(value))}</td></tr>" for name, value in rows
    )
    head = "".join(f"<th>{text(words)}</th>" for words in headings)
    return f"<div class='wide'><table class='facts'><tr>{head}</tr>{lines}</table></div>"


COMMON_SETTINGS = {
    "seed": ("Seed", "everything random follows from it"),
    "device": ("Device asked for", "auto, cpu, cuda or mps"),
}
"""Words for the settings that mean the same in every question."""


def settings(values: Mapping[str, object], words: Mapping[str, tuple[str, str]]) -> str:
    """Every setting of a run: its name in words, its value, and its unit or meaning.

    Args:
        values: Settings as a result's facts hold them.
        words: By setting, (name, unit or meaning), plain text, beside ``COMMON_SETTINGS``; a
            setting without words is shown by its own name.
    """
    rows = []
    known = {**COMMON_SETTINGS, **words}
    for key, value in values.items():
        name, unit = known.get(key, (key, ""))
        cells = (text(name), text(value_of(value)), text(unit), f"<code>{text(key)}</code>")
        rows.append("<tr>" + "".join(f"<td>{one}</td>" for one in cells) + "</tr>")
    headings = ("setting", "value", "unit or meaning", "name in the library")
    head = "".join(f"<th>{words}</th>" for words in headings)
    return f"<div class='wide'><table class='facts'><tr>{head}</tr>{''.join(rows)}</table></div>"


def closing(
    facts: Mapping,
    limits: Iterable[str],
    methods: str,
    words: Mapping[str, tuple[str, str]],
    models: Mapping[str, Mapping],
    inputs: Mapping[str, str],
) -> list[str]:
    """The last chapters of a result's page, the same in every question.

    What it does not say, a paragraph for the methods section, settings, and where it comes from.

    Args:
        facts: Of the result.
        limits: What the page does not say, plain sentences.
        methods: The paragraph.
        words: Of the settings, see ``settings``.
        models, inputs: See ``provenance``.
    """
    seed = facts["settings"].get("seed")
    random = "none: nothing is random"
    if seed is not None:
        random = f"{seed}: everything random follows from it"
    named = {part.replace("_", " "): name for part, name in inputs.items()}
    return [
        chapter("What this does not say", bullets(limits)),
        chapter("For the methods section", paragraph(methods)),
        chapter("Settings", settings(facts["settings"], words)),
        chapter("Where it comes from", provenance(facts, random, models, named), record(facts)),
    ]


def provenance(
    facts: Mapping, seed: str, models: Mapping[str, Mapping], inputs: Mapping[str, str]
) -> str:
    """What is needed to say where a result comes from, and to run it again.

    Args:
        facts: The result's; of them "versions", "device", "grid", "complete" are shown where they
        are there.
        seed: What everything random follows from, in words.
        models: By their part in the run ("network"), ``models.Model.facts``.
        inputs: By their part in the run, the names of the images.
    """
    rows: list[tuple[str, object]] = [(f"image: {part}", name) for part, name in inputs.items()]
    rows += [row for part, model in models.items() for row in _model_rows(part, model)]
    versions = facts.get("versions", {})
    rows += [(name, versions[name]) for name in versions if name != "device"]
    rows += [("device", facts.get("device") or versions.get("device", "not said")), ("seed", seed)]
    if "grid" in facts:
        rows.append(("voxels", facts["grid"]))
    if facts.get("complete") is False:
        rows.append(("state", "incomplete: the run was stopped before its end"))
    rows.append(("page written", time.strftime("%Y-%m-%d %H:%M:%S %z")))
    return pairs(rows)


def _model_rows(part: str, model: Mapping) -> list[tuple[str, object]]:
    trained = list(model.get("trained_on", ()))
    scans = f"{len(trained)}: {', '.join(trained)}" if trained else "not said"
    rows = [(part, f"{model.get('name', 'not said')}, version {model.get('version', 'not said')}")]
    if model.get("file"):
        rows.append((f"{part}, file", model["file"]))
    rows += [(f"{part}, SHA-256", model.get("sha256", "not said")), (f"{part}, trained on", scans)]
    return rows + [
        (f"{part}, {name.replace('_', ' ')}", model[name])
        for name in ("licence", "intended_use")
        if model.get(name)
    ]


def record(facts: Mapping) -> str:
    """All facts of a result as JSON, folded away."""
    return folded(
        "Everything the result records, as JSON",
        f"<pre>{escape(json.dumps(_finite(plain(facts)), indent=1))}</pre>",
    )


def _finite(value: Any) -> Any:
    """The same with null for what is not finite: JSON knows no such numbers."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plain(facts: Mapping) -> dict:
    """Facts as they are after a scene was saved and opened again.

    Numbers, text, lists and names.
    """
    return json.loads(json.dumps(facts, default=_plain))


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else str(value)


# Text ---------------------------------------------------------------------------------------------


def text(words: object) -> str:
    """Whatever it is, as text in HTML, in the reader's language."""
    return escape(shown(tr(str(words))), quote=True)


def cell(value: object) -> str:
    """A value in a table; nothing where there is none."""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (float, np.floating)):
        if not math.isfinite(value):
            return "–"
        return readable(float(f"{value:.6g}"), 4)  # a scene keeps six digits
    return "–" if value is None or value == "" else str(value)


def value_of(value: object) -> str:
    """A setting's value."""
    if value is None:
        return "automatic, or none"
    if isinstance(value, (list, tuple)):
        return ", ".join(cell(one) for one in value) or "none"
    return cell(value)
