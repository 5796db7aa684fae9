"""What every algorithm takes besides volumes (progress) and gives back (results)."""

from __future__ import annotations

from dataclasses import dataclass, field

from .volumes import Volume


def table_of_rows(title: str, headings: list[str], rows: list[tuple]) -> Table:
    return Table(title, {heading: [row[n] for row in rows] for n, heading in enumerate(headings)})


@dataclass
class Table:
    """Columns of equal length: ``columns`` maps a heading (with its unit) to numbers or strings."""

    title: str
    columns: dict[str, list]


@dataclass
class Curve:
    """Lines over one x axis: ``lines`` maps a legend entry to (x values, y values)."""

    title: str
    x_label: str
    y_label: str
    lines: dict[str, tuple[list[float], list[float]]]
    log_y: bool = False


@dataclass
class Result:
    """What an algorithm gives back: images, tables, curves, and the facts that let it be run again.

    ``roles`` says how a volume is to be shown, by its key: "input", "ct", "difference", "factor",
    "error" or "spread".
    """

    volumes: dict[str, Volume] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    facts: dict = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)
