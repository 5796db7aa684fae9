"""Texts of panels in the user's language: Slicer's own translation, else the library's."""

from __future__ import annotations

import inspect

import qt
import slicer
from slicer.i18n import getContext, translate

from ..core import words

SHOWN = (
    "text",
    "title",
    "toolTip",
    "placeholderText",
    "noneDisplay",
    "prefix",
    "suffix",
    "specialValueText",
)
"""Properties of widgets that hold a text of the .ui file."""

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


def translate_panel(panel: qt.QWidget) -> None:
    """Put a panel that was loaded just now into the language of the library's catalogue.

    With it goes all that is in it.

    Slicer has put its own translation in already, where it has one: what is not English any more
    is not in the catalogue and stays. What fields hold is no text of the panel.
    """
    for widget in (panel, *slicer.util.findChildren(panel)):
        for name in SHOWN:
            text = getattr(widget, name, None)
            if not isinstance(text, str) or (name == "text" and _is_field(widget)):
                continue
            told = words.tr(text) if text else text
            if told != text:
                setattr(widget, name, told)


def _is_field(widget: qt.QWidget) -> bool:
    return widget.inherits("QLineEdit") or widget.inherits("QAbstractSpinBox")
