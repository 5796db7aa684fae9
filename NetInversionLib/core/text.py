"""Text and numbers as people read them, in a terminal, a table or a page."""

from __future__ import annotations

import math


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
