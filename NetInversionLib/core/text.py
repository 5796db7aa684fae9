"""Text and numbers as people read them, in a terminal, a table or a page."""

from __future__ import annotations

import math
from numbers import Real

FORMULA_BEGINS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Signs at which a spreadsheet takes text for a formula; the last four are the wide ones."""


def shown(text: object) -> str:
    """Text for a terminal, table or page.

    Line breaks, control characters and undecodable bytes stand as their codes.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def readable(value: float, digits: int = 3) -> str:
    """A number to so many significant digits, without an exponent between 0.0001 and a million.

    1000, not 1e+03.
    """
    large = math.isfinite(value) and 10**digits - 0.5 <= abs(value) < 1e6
    return f"{value:.0f}" if large else f"{value:.{digits}g}"


def cell(value: object) -> object:
    """A value for a table as CSV.

    Numbers as they are; text that a spreadsheet would compute is kept from it by an apostrophe.
    """
    if value is None or isinstance(value, Real):
        return value
    text = shown(value)
    return "'" + text if text.lstrip().startswith(FORMULA_BEGINS) else text


def duration(seconds: float) -> str:
    """A time as one says it: "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
