"""The summary of a cohort: one CSV table and one HTML page that needs no other file.

Whatever a file name holds is text.
"""

from __future__ import annotations

import base64
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

import numpy as np

from ..core import page, volumes
from ..core.table_files import write_rows
from ..core.volumes import Volume

SIDE = 96
"""Pixels of the longest side of a picture's three views."""
MOST_PICTURES = 1000
"""Accepted volumes with pictures on the page: 20 kB each."""
COLUMNS = ("source", "output", "status", "reasons", "error", "seconds", "time", "version")
UNKNOWN = "unknown"
"""Version in a record that does not name it."""
STYLE = """
body { max-width: none } .rows img { display: block; background: #000; margin-bottom: 2px }
.rows ul { margin: 0; padding: 0; list-style: none }
"""


def write(out: Path, records: Iterable[dict], temporary: Path) -> None:
    """``summary.csv`` and ``summary.html`` in folder ``out``, each replaced whole.

    Records are read one by one.
    """
    rows: list[dict] = []
    found: Counter[str] = Counter()
    versions: Counter[str] = Counter()
    body, whole, table = (temporary / name for name in ("rows.html", "summary.html", "summary.csv"))
    with open(body, "w", encoding="utf-8") as file:
        for record in records:
            record = {"version": UNKNOWN, **record}
            found[record["status"]] += 1
            versions[record["version"]] += bool(record["version"])  # none if it was not run
            rows.append(
                {key: value for key, value in record.items() if key in (*COLUMNS, "figures")}
            )
            file.write(_row(record, pictures=found[record["status"]] <= MOST_PICTURES))
    with open(whole, "w", encoding="utf-8") as file, open(body, encoding="utf-8") as lines:
        file.write(_head(found, +versions))
        file.writelines(lines)
        file.write("</table>" + page.CLOSING)
    body.unlink()
    _write_csv(table, rows)
    for path in (whole, table):
        os.replace(path, out / path.name)


def thumbnails(before: Volume, after: Volume) -> list[str]:
    """Axial, coronal and sagittal middle of both, radiological, as JPEG in base64.

    Args:
        before: [k, j, i], any orientation.
        after: Likewise; where the shapes are alike both are cut to what ``before`` shows.

    Returns:
        A text for each of the two; each picture goes from 0 to its own 99.5th percentile.
    """
    before, after = volumes.reorient(before, "LPS"), volumes.reorient(after, "LPS")
    boxes = _box(before.array), _box(before.array if before.shape == after.shape else after.array)
    return [_jpeg(volumes.crop(volume, box)) for volume, box in zip((before, after), boxes)]


def _box(array: np.ndarray) -> tuple[int, ...]:
    """The region, as ``volumes.crop`` takes it, of what is above 0; everything if nothing is."""
    above = array > 0 if (array > 0).any() else np.ones(array.shape, bool)
    spans = (np.flatnonzero(above.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3))
    return tuple(int(bound) for span in spans for bound in (span[0], span[-1] + 1))


def _jpeg(volume: Volume) -> str:
    from PIL import Image

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
    data = io.BytesIO()
    Image.fromarray(canvas).save(data, "JPEG", quality=85)
    return base64.b64encode(data.getvalue()).decode()


def _write_csv(path: Path, rows: list[dict]) -> None:
    headings = list(dict.fromkeys(heading for row in rows for heading in row.get("figures", {})))
    write_rows(path, (*COLUMNS, *headings), (_cells(row, headings) for row in rows))


def _cells(row: dict, headings: list[str]) -> list[object]:
    """A volume's values, in the order of the columns and of the figures' headings.

    Older records lack newer columns.
    """
    figures = row.get("figures", {})
    known = {**row, "reasons": "; ".join(row["reasons"])}
    return [*(known.get(key, "") for key in COLUMNS), *(figures.get(name, "") for name in headings)]


def _head(found: Counter, versions: Counter) -> str:
    counts = ", ".join(f"{number} {page.text(status)}" for status, number in found.items())
    return (
        f"{page.opening('Harmonization', STYLE)}<h1>Harmonization</h1>"
        f"{page.paragraph(page.NOTICE, 'notice')}"
        f"<p>{sum(found.values())} volumes: {counts}. {_made_by(versions)}</p><p>Pictures: axial, "
        f"coronal, sagittal; "
        "before (above) and after (below), each from 0 to its own 99.5th percentile.</p>\n"
        "<table "
        "class='rows'><tr><th>volume</th><th>verdict</th><th>why</th><th>figures</th><th>before "
        "and after</th></tr>\n"
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


def _row(record: dict, pictures: bool) -> str:
    status = page.text(record["status"])
    why = "".join(
        f"<li>{page.text(reason)}</li>"
        for reason in (*record["reasons"], record["error"])
        if reason
    )
    figures = "".join(
        f"<li>{page.text(name)}: {page.text(_figure(value))}</li>"
        for name, value in _figures(record)
    )
    images = "".join(
        f"<img alt='{label}' width='{3 * SIDE}' "
        f"src='data:image/jpeg;base64,{escape(data, quote=True)}'>"
        for label, data in zip(("before", "after"), record.get("thumbnails", []))
        if pictures
    )
    return (
        f"<tr><td class='path'>{page.text(record['source'])}</td><td><span class='status "
        f"{status}'>{status}</span></td>"
        f"<td><ul>{why}</ul></td><td><ul>{figures}</ul></td><td>{images}</td></tr>\n"
    )


def _figures(record: dict) -> Iterator[tuple[str, object]]:
    yield from record.get("figures", {}).items()
    yield "seconds", record["seconds"]
    yield "NetInversion", record["version"]


def _figure(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
