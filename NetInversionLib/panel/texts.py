"""Texts as Qt's widgets show them."""

from __future__ import annotations

import html

from ..core import words


def literal(text: str) -> str:
    """The text in the user's language, as a label, a tooltip or a dialog has to be given it.

    They take for HTML what looks like it, and then show a node called "<b>CT" in bold, without its
    "<b>".

    Args:
        text: Plain text; line breaks stay.

    Returns:
        The text, or HTML that shows it where Qt would take it for HTML.
    """
    text = "\n".join(map(words.tr, text.split("\n")))
    if "<" not in text and "&lt;" not in text:
        return text
    return "<p>" + html.escape(text, quote=False).replace("\n", "<br>") + "</p>"


def on_button(text: str) -> str:
    """The text as a button or a check box has to be given it: they make "&" a keyboard shortcut."""
    return text.replace("&", "&&")
