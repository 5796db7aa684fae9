"""Texts of panels in the user's language: Slicer's own translation, else the library's."""

from __future__ import annotations

import inspect

import qt
from slicer.i18n import getContext, translate

from ..core import words

words.use(str(qt.QSettings().value("language") or ""))


def tr(text: str) -> str:
    """A text of a panel in the language that Slicer speaks.

    Slicer finds a text by the file that it stands in, so this must be called there.
    """
    frame = inspect.currentframe()
    caller = frame.f_back if frame is not None else None
    context = getContext(caller.f_code.co_filename) if caller is not None else ""
    told = translate(context, text)
    return words.tr(text) if told == text else told
