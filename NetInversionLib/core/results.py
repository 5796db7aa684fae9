"""What every algorithm gives back: images, tables, curves and facts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from .keys import Column, Key, values_of
from .volumes import Volume

T = TypeVar("T")


def table_of_rows(title: str, headings: Iterable[str], rows: list[tuple]) -> Table:
    """A table of rows, which hold a value for each heading."""
    return Table(title, {heading: [row[n] for row in rows] for n, heading in enumerate(headings)})


@dataclass
class Table:
    """Columns of equal length by what they hold.

    Each heading is a ``Column``, and a plain one that is given is read as one.
    """

    title: str
    columns: dict[str, list]

    def __init__(self, title: str, columns: Mapping[str, list]):
        self.title = title
        known = {heading: values_of(values) for heading, values in columns.items()}
        self.columns = {
            Column.read(heading).holding(values): values for heading, values in known.items()
        }

    def column(self, name: str) -> Column | None:
        """The column of this name, whatever its unit; None if there is none."""
        columns = map(Column.read, self.columns)
        return next((column for column in columns if column.name == name), None)

    def values(self, name: str) -> list:
        """The values of the column of this name; empty if there is none."""
        column = self.column(name)
        return [] if column is None else self.columns[column]


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

    Images, tables and curves go by what they are: each key is a ``Key``, and a plain text that is
    given is read as one.
    ``roles`` says how a volume is to be shown, by its key: "input", "ct", "difference", "factor",
    "error", "spread", "phase", or "mask" for an outline that can be edited.
    """

    volumes: dict[str, Volume] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    facts: dict = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.volumes = by_key(self.volumes)
        self.tables = by_key(self.tables)
        self.curves = by_key(self.curves)
        self.roles = by_key(self.roles)


def by_key(parts: Mapping[str, T]) -> dict[str, T]:
    """Parts of a result, with the text that each goes by read as a key."""
    return {Key.read(text): part for text, part in parts.items()}
