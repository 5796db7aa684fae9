"""How the command prints: lines of progress, tables and results on the shell."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

from ..core.progress import Progress
from ..core.results import Result, Table

REPORT = "report.html"
"""Name of the report beside the images of a result."""


class Lines(Progress):
    """Progress on stderr: a line every few per cent."""

    def __init__(self, every: float = 0.02):
        self.every, self.last = every, -1.0

    def report(self, fraction: float, message: str) -> None:
        if fraction >= self.last + self.every:
            self.last = fraction
            self.log(message)

    def log(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)


def print_table(table: Table) -> None:
    columns = [
        [heading, *(f"{v:.1f}" if isinstance(v, float) else str(v) for v in values)]
        for heading, values in table.columns.items()
    ]
    widths = [max(map(len, column)) for column in columns]
    for row in zip(*columns):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def write_result(result: Result, folder: Path) -> None:
    """Images as NRRD, tables as CSV and all facts as JSON."""
    from ..core import files

    folder.mkdir(parents=True, exist_ok=True)
    for key, volume in result.volumes.items():
        files.save(volume, folder / f"{key}.nrrd")
    for key, table in result.tables.items():
        write_table(table, folder, key)
    (folder / "facts.json").write_text(json.dumps(result.facts, indent=1), encoding="utf-8")


def write_table(table: Table, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(table.columns)
        writer.writerows(zip(*table.columns.values()))
