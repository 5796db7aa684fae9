"""The summary of a cohort: one CSV table and one HTML page that needs no other file.

Whatever a file name holds is text.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterable
from html import escape
from itertools import groupby
from pathlib import Path

import numpy as np

from ..core import page, volumes
from ..core.table_files import write_rows
from ..core.volumes import Volume

SIDE = 96
"""Pixels of the longest side of a picture's three views."""
SIDE_MARKS = (("R", "L"), ("R", "L"), ("A", "P"))
"""Of each view: the patient's sides at its left and right edge, as radiologists have them."""
MOST_PICTURES = 1000
"""Volumes of each verdict with pictures on the page: 20 kB each."""
ORDER = ("failed", "refused", "flagged", "not run", "done", "accepted")
"""Verdicts as the page has them: what needs attention first."""
COLUMNS = ("source", "output", "status", "reasons", "error", "seconds", "time", "version")
FIRST = ("volume", "verdict", "first reason", "seconds")
UNKNOWN = "unknown"
"""Version in a record that does not name it."""
STYLE = """
body { max-width: none }
label { display: block; margin: 1em 0 }
input { font: inherit; width: 20em; max-width: 100%; margin-left: .5em }
.wide { max-height: 90vh; overflow: auto }
.rows { font-size: .9em }
.rows thead { position: sticky; top: 0; background: var(--paper) }
.rows th { font-weight: 600 }
.rows thead tr + tr th { border-top: 0; font-weight: normal }
.rows td { padding-top: .2em; padding-bottom: .2em }
.rows td.path { min-width: 12em }
.rows .number { text-align: right; white-space: nowrap }
.rows .why { max-width: 22em; overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
.rows details { margin: 0 }
.rows summary:focus-visible { outline: 2px solid #0072b2 }
.rows img { display: block; background: #000; margin: 2px 0 }
.rows ul { margin: .3em 0; padding-left: 1.2em }
@media print { .wide { max-height: none } }
"""
SCRIPT = """
const box = document.querySelector("input"), rows = [...document.querySelectorAll("tbody tr")];
const words = rows.map(row => row.textContent.toLowerCase());
const count = document.querySelector("output");
box.parentElement.hidden = false;
box.addEventListener("input", () => {
  const wanted = box.value.toLowerCase().split(" ").filter(word => word);
  rows.forEach((row, n) => { row.hidden = !wanted.every(word => words[n].includes(word)) });
  count.textContent = rows.filter(row => !row.hidden).length + " of " + rows.length;
});
"""
"""Shows the rows that have all words of the search."""
NOTHING_ELSE = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-"
    f"{base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()}'"
)
"""What the browser is told to load and run: this script, the pictures in the page, nothing else."""


def write(out: Path, records: Iterable[dict], temporary: Path) -> None:
    """``summary.csv`` and ``summary.html`` in folder ``out``, each replaced whole.

    Records are read one by one.
    """
    rows: list[dict] = []
    found: Counter[str] = Counter()
    versions: Counter[str] = Counter()
    whole, table = (temporary / name for name in ("summary.html", "summary.csv"))
    with open(temporary / "details.html", "w+b") as details:
        for record in records:
            record = {"version": UNKNOWN, **record}
            found[record["status"]] += 1
            versions[record["version"]] += bool(record["version"])  # none if it was not run
            begin = details.tell()
            more = _details(record, pictures=found[record["status"]] <= MOST_PICTURES)
            details.write(more.encode("utf-8"))
            kept = {key: record[key] for key in (*COLUMNS, "figures") if key in record}
            rows.append({**kept, "details": (begin, details.tell())})
        with open(whole, "w", encoding="utf-8") as file:
            headings = _headings(rows)
            file.write(_head(found, +versions) + _table_head(headings))
            for row in sorted(rows, key=_attention):
                begin, end = row["details"]
                details.seek(begin)
                file.write(_row(row, headings, details.read(end - begin).decode("utf-8")))
            file.write(f"</tbody></table></div><script>{SCRIPT}</script>{page.CLOSING}")
    _write_csv(table, rows)
    for path in (whole, table):
        os.replace(path, out / path.name)


def _attention(row: dict) -> tuple:
    known = row["status"] in ORDER
    return ORDER.index(row["status"]) if known else ORDER.index("done"), row["source"]


def thumbnails(*images: Volume) -> list[str]:
    """Axial, coronal and sagittal middle of each, radiological, as JPEG in base64.

    Args:
        images: [k, j, i], any orientation: the image before, and after where there is one; where
            the shapes are alike both are cut to what the first shows.

    Returns:
        A text for each; each picture goes from 0 to its own 99.5th percentile.
    """
    turned = [volumes.reorient(image, "LPS") for image in images]
    alike = [one.array if one.shape != turned[0].shape else turned[0].array for one in turned]
    return [_jpeg(volumes.crop(one, _box(array))) for one, array in zip(turned, alike)]


def _box(array: np.ndarray) -> tuple[int, ...]:
    """The region, as ``volumes.crop`` takes it, of what is above 0; everything if nothing is."""
    above = array > 0 if (array > 0).any() else np.ones(array.shape, bool)
    spans = (np.flatnonzero(above.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3))
    return tuple(int(bound) for span in spans for bound in (span[0], span[-1] + 1))


def _jpeg(volume: Volume) -> str:
    from PIL import Image, ImageDraw

    array, (k, j, i) = volume.array, (size // 2 for size in volume.shape)
    lengths = np.array(volume.shape) * volume.spacing_mm[::-1]
    pixels = np.maximum(1, np.round(SIDE * lengths / lengths.max())).astype(int)
    kept = [
        np.minimum((np.arange(n) + 0.5) * size / n, size - 1).astype(int)
        for n, size in zip(pixels, volume.shape)
    ]
    up = kept[0][::-1]
    views = [
        array[k][np.ix_(kept[1], kept[2])],
        array[:, j][np.ix_(up, kept[2])],
        array[:, :, i][np.ix_(up, kept[1])],
    ]
    sample = np.asarray(array[::2, ::2, ::2], np.float32)
    brightest = float(np.percentile(sample[sample > 0], 99.5)) if (sample > 0).any() else 1.0
    canvas = np.zeros((SIDE, 3 * SIDE), np.uint8)
    for place, view in enumerate(views):
        grey = np.clip(np.asarray(view, np.float32) / brightest * 255, 0, 255)
        canvas[: len(view), place * SIDE : place * SIDE + view.shape[1]] = grey
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    for place, marks in enumerate(SIDE_MARKS):
        for x, mark in zip((place * SIDE + 2, place * SIDE + SIDE - 8), marks):
            draw.text((x, SIDE // 2 - 6), mark, fill=255, stroke_width=1, stroke_fill=0)
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=85)
    return base64.b64encode(data.getvalue()).decode()


def _headings(rows: list[dict]) -> list[str]:
    """Of all figures."""
    return list(dict.fromkeys(heading for row in rows for heading in row.get("figures", {})))


def _write_csv(path: Path, rows: list[dict]) -> None:
    headings = _headings(rows)
    write_rows(path, (*COLUMNS, *headings), (_cells(row, headings) for row in rows))


def _cells(row: dict, headings: list[str]) -> list[object]:
    """A volume's values, in the order of the columns and of the figures' headings.

    Older records lack newer columns.
    """
    figures = row.get("figures", {})
    known = {**row, "reasons": "; ".join(row["reasons"])}
    return [*(known.get(key, "") for key in COLUMNS), *(figures.get(name, "") for name in headings)]


def _head(found: Counter, versions: Counter) -> str:
    order = sorted(found, key=lambda status: _attention({"status": status, "source": status}))
    counts = ", ".join(f"{found[status]} {page.text(status)}" for status in order)
    guard = f"<meta http-equiv='Content-Security-Policy' content=\"{NOTHING_ELSE}\">"
    return (
        f"{page.opening('Harmonization', STYLE, guard)}<h1>Harmonization</h1>"
        f"{page.paragraph(page.NOTICE, 'notice')}"
        f"<p>{sum(found.values())} volumes: {counts}. {_made_by(versions)}</p>"
        "<p>What needs attention stands first. A click on a volume, or Enter, shows its pictures "
        "(axial, coronal, sagittal; before above, after below, each from 0 to its own 99.5th "
        "percentile) and all that is to be said of it.</p>"
        "<label hidden>Search<input type='search'> <output aria-live='polite'></output></label>\n"
    )


def _table_head(headings: list[str]) -> str:
    """Two lines: what is measured, and of which image."""
    parts = [heading.partition(", ") for heading in headings]
    above = "".join(
        f"<th class='number' colspan='{len(list(group))}' scope='colgroup'>{page.text(name)}</th>"
        for name, group in groupby(measured for measured, _, _ in parts)
    )
    below = "".join(
        f"<th class='number' scope='col'>{page.text(image)}</th>" for _, _, image in parts
    )
    first = "".join(f"<th rowspan='2' scope='col'>{name}</th>" for name in FIRST)
    return (
        "<div class='wide' tabindex='0' role='region' aria-label='volumes'><table class='rows'>"
        f"<thead><tr>{first}{above}</tr><tr>{below}</tr></thead><tbody>\n"
    )


def _made_by(versions: Counter) -> str:
    """The version that made the results.

    Of several the numbers of volumes, and that they may differ.
    """
    if len(versions) < 2:
        return page.text("".join(f"NetInversion {version}." for version in versions))
    made = ", ".join(f"{version} ({number})" for version, number in sorted(versions.items()))
    return (
        f"<strong>Made by different versions of NetInversion, whose results may differ: "
        f"{page.text(made)}.</strong> "
        "For one version throughout, choose another output folder."
    )


def _row(row: dict, headings: list[str], details: str) -> str:
    status, figures = page.text(row["status"]), row.get("figures", {})
    seconds = f"<td class='number'>{_figure(row['seconds'])}</td>"
    numbers = "".join(f"<td class='number'>{_figure(figures.get(name))}</td>" for name in headings)
    why = next(iter(_reasons(row)), "")
    return (
        f"<tr><td class='path'>{details}</td>"
        f"<td><span class='status {status}'>{status}</span></td>"
        f"<td class='why'>{page.text(why)}</td>{seconds}{numbers}</tr>\n"
    )


def _reasons(record: dict) -> list[str]:
    return [reason for reason in (record["error"], *record["reasons"]) if reason]


def _details(record: dict, pictures: bool) -> str:
    """What a volume's row shows when it is opened, below the volume's name."""
    images = "".join(
        f"<img alt='{label}' width='{3 * SIDE}' loading='lazy' "
        f"src='data:image/jpeg;base64,{escape(data, quote=True)}'>"
        for label, data in zip(("before", "after"), record.get("thumbnails", []))
        if pictures
    )
    lines = _reasons(record)
    lines += [f"NetInversion: {record['version']}"] if record["version"] else []
    return (
        f"<details><summary>{page.text(record['source'])}</summary>{images}"
        f"{page.bullets(lines)}</details>"
    )


def _figure(value: object) -> str:
    return "" if value is None else page.text(page.cell(value))
