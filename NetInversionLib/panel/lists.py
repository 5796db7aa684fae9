"""Lists that a panel fills (QComboBox), whose entries have a text as data."""

from __future__ import annotations

from collections.abc import Mapping

import qt

from ..core import words
from ..scene import tables


def fill(selector: qt.QComboBox, entries: Mapping[str, str]) -> None:
    """Have a list offer ``entries``, texts by data, in the user's language.

    Where it does already, the choice stays.
    """
    entries = {data: words.tr(text) for data, text in entries.items()}
    shown = {selector.itemData(i): selector.itemText(i) for i in range(selector.count)}
    if shown != entries:
        selector.clear()
        for data, text in entries.items():
            selector.addItem(text, str(data))


def chosen(selector: qt.QComboBox) -> str:
    """The data of the chosen entry; "" if there is none."""
    return selector.itemData(selector.currentIndex) or ""


def table_titles(nodes: Mapping) -> dict[str, str]:
    """{key: title} of the table nodes among a result's nodes, in the user's language."""
    return {
        key: words.title(tables.title_of(node))
        for key, node in nodes.items()
        if node.IsA("vtkMRMLTableNode")
    }
