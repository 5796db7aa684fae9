"""What the parts of a result are: keys of its images, tables and curves, columns of its tables.

Keys and headings are made here, read again here and turned into names of files here, and nowhere
else: whoever wants a part of one asks its fields.

Both are also their text, so that dictionaries, files and nodes that hold the text alone are found
by it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from numbers import Integral, Real

OWN = "own"
"""As a start: no start at all but what the patient came with. "patient" is a search that began at
the patient's images."""
SECOND = "second"
"""As a network: the second of two that are asked the same."""
TEXT, TRUTH, COUNT, NUMBER = "text", "truth", "count", "number"
"""Kinds of columns."""

_OF_A_CHANNEL = (
    "ideal",
    "change",
    "output",
    "error",
    "spread",
    "shared",
    "leeway",
    "direction",
)
_OF_A_START = ("spectrum",)
_OLD_OWN = "patient's"  # what older versions called OWN


def start_of(text: str) -> str:
    """A start by today's name."""
    return OWN if text == _OLD_OWN else text


class Key(str):
    """What an image, table or curve of a result is; equal to its text, "change water zeros", say.

    Attributes:
        kind: What it shows: "ideal", "std proven", "sample", "proof".
        channel: Role of the channel that it shows; "" where a result has one kind of image only.
        start: Where the search for it began, or ``OWN``; "" where nothing was searched.
        number: Of several alike, from 1; None for the only one.
        network: "" for the network asked, ``SECOND`` for the second of two.
    """

    kind: str
    channel: str
    start: str
    number: int | None
    network: str

    def __new__(
        cls,
        kind: str,
        channel: str = "",
        start: str = "",
        number: int | None = None,
        network: str = "",
    ) -> Key:
        words = [kind, channel, start, "" if number is None else str(number), network]
        key = super().__new__(cls, " ".join(word for word in words if word))
        key.kind = kind
        key.channel = channel
        key.start = start
        key.number = number
        key.network = network
        return key

    @classmethod
    def read(cls, text: str) -> Key:
        """The key of a text: of a file, a node of a saved scene, or what a user typed."""
        if isinstance(text, Key):
            return text
        words = text.split(" ")
        network = words.pop() if len(words) > 1 and words[-1] == SECOND else ""
        first, *rest = words
        if first in _OF_A_CHANNEL and rest:
            start = " ".join(rest[1:])
            return cls(first, rest[0], start_of(start), network=network)
        if first in _OF_A_START and rest:
            return cls(first, start=" ".join(rest), network=network)
        number = int(words.pop()) if rest and rest[-1].isdecimal() else None
        return cls(" ".join(words), number=number, network=network)

    def of(self, network: str) -> Key:
        """The same of another network."""
        return Key(self.kind, self.channel, self.start, self.number, network)

    def member(self, number: int) -> Key:
        """One of the images that a sequence holds: of "samples" the key "sample 3"."""
        return Key(self.kind.removesuffix("s"), self.channel, self.start, number, self.network)

    @property
    def file_name(self) -> str:
        """A name for its file, without ending: letters, digits, "-" and "_" only."""
        start = f"from {self.start}" if self.start not in ("", OWN) else self.start
        number = "" if self.number is None else str(self.number)
        words = [self.kind, self.channel, start, number, self.network]
        return "_".join(re.sub(r"[^\w-]+", "-", word).strip("-") for word in words if word)


class Column(str):
    """A column of a table; equal to its heading, "MAE body (HU)", say.

    Attributes:
        name: What it holds.
        unit: Of its numbers; "" for none.
        kind: ``TEXT``, ``TRUTH``, ``COUNT`` or ``NUMBER``; "" until a table knows its values.
    """

    name: str
    unit: str
    kind: str

    def __new__(cls, name: str, unit: str = "", kind: str = "") -> Column:
        column = super().__new__(cls, f"{name} ({unit})" if unit else name)
        column.name = name
        column.unit = unit
        column.kind = kind
        return column

    @classmethod
    def read(cls, heading: str) -> Column:
        """The column of a heading: of a file, a node of a saved scene, or a plain table."""
        if isinstance(heading, Column):
            return heading
        parts = re.fullmatch(r"(.+) \(([^()]*)\)", heading)
        return cls(parts[1], parts[2]) if parts else cls(heading)

    def holding(self, values: Iterable) -> Column:
        """The same column with the kind that its values have, unless it was said."""
        return self if self.kind else Column(self.name, self.unit, column_kind(values))


def values_of(kept: list) -> list:
    """Values as they were before a scene or a file kept them: "True" and "False" are truths."""
    if kept and all(isinstance(value, str) and value in ("True", "False") for value in kept):
        return [value == "True" for value in kept]
    return kept


def column_kind(values: Iterable) -> str:
    """The kind of a column by its values; one that is missing (None) says nothing."""
    kinds = {type(value) for value in values if value is not None}
    if kinds and all(kind.__name__ in ("bool", "bool_") for kind in kinds):
        return TRUTH
    if any(kind.__name__ in ("bool", "bool_") or not issubclass(kind, Real) for kind in kinds):
        return TEXT
    return COUNT if kinds and all(issubclass(kind, Integral) for kind in kinds) else NUMBER
