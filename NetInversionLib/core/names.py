"""What is handed over by name: nothing is missing, and nothing is misspelt."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

from .text import shown


def require_names(
    what: str, given: Iterable[str], needed: Collection[str], possible: Collection[str] = ()
) -> None:
    """Check the names of what was handed over.

    Args:
        what: One of them, in a word: "volume".
        given: The names that there are.
        needed: Those that must be there.
        possible: Those that may be there besides.

    Raises:
        ValueError: One is missing, or there is one that means nothing here; says which, and what it
            may have been meant for.
    """
    given = list(given)
    known = [*needed, *possible]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name).lower(), known, 1)
            meant = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(
                f"nothing here takes a {what} called {shown(name)!r}{meant}; there may be"
                f" {', '.join(known)}"
            )
    missing = [name for name in needed if name not in given]
    if missing:
        raise ValueError(f"the {what} {missing[0]!r} is missing; it needs {', '.join(needed)}")
