"""Tables and curves as CSV; text that a spreadsheet would compute stays text."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from .results import Curve, Table
from .text import cell


def write_rows(path: Path, headings: Iterable[object], rows: Iterable[Iterable[object]]) -> None:
    """Write rows under headings.

    Args:
        path: Its folder is there.
        headings: Of the columns.
        rows: Each with a value for each heading.

    Raises:
        OSError: The file cannot be written.
    """
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([cell(heading) for heading in headings])
        for row in rows:
            writer.writerow([cell(value) for value in row])


def write_table(table: Table, folder: Path, name: str) -> Path:
    """Write a table as ``name``.csv into a folder, which is made.

    Raises:
        OSError: The file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.csv"
    write_rows(path, table.columns, zip(*table.columns.values()))
    return path


def curve_table(curve: Curve) -> Table:
    """A curve's points as a table: line, x and y."""
    rows = [(name, x, y) for name, (xs, ys) in curve.lines.items() for x, y in zip(xs, ys)]
    headings = ["line", curve.x_label or "x", curve.y_label or "y"]
    if headings[1] == headings[2]:
        headings[2] += " (y)"
    columns = zip(*rows) if rows else ((), (), ())
    return Table(curve.title, {h: list(c) for h, c in zip(headings, columns)})
