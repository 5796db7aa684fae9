"""A list from which a second network is chosen, and taken away again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import qt
import slicer

from ..models.card import Card
from . import lists
from .words import tr as _

FROM_FILE = "*"
"""Data of the entry that asks for a file; no file is called so."""


def file_filter() -> str:
    """Of a file dialog and of a path's line: the model files."""
    return _("NetInversion model") + " (*.safetensors *.network)"


class OptionalModel:
    """None, the shipped models that fit, the user's own file if one is chosen, and "From file...".

    What is chosen is a text: "" for none, the file name of a shipped model, or the path of another
    file.

    A path's line (ctkPathLineEdit) will not do: it is silent when its text is cleared.

    Args:
        selector: The list, an empty QComboBox.
        on_chosen: ``f(text)``, called when the user has chosen; it has ``show`` called.
    """

    def __init__(self, selector: qt.QComboBox, on_chosen: Callable[[str], None]):
        self._selector, self._on_chosen = selector, on_chosen
        self._shown = ""
        selector.connect("activated(int)", self._on_activated)

    def show(self, shipped: Mapping[Path, Card], chosen: str) -> None:
        """Bring the list up to date.

        Args:
            shipped: The models that it offers, by their paths.
            chosen: What is chosen; it is in the list too where no shipped model is called so.
        """
        entries = {"": _("None"), **{path.name: card.name for path, card in shipped.items()}}
        entries.setdefault(chosen, Path(chosen).name)
        entries[FROM_FILE] = _("From file...")
        selector = self._selector
        lists.fill(selector, entries)
        self._shown = chosen
        selector.setCurrentIndex(selector.findData(chosen))

    def _on_activated(self, index: int) -> None:
        chosen = self._selector.itemData(index)
        if chosen == FROM_FILE:
            self._selector.setCurrentIndex(self._selector.findData(self._shown))
            folder = str(Path(self._shown).parent) if self._shown else ""
            chosen = qt.QFileDialog.getOpenFileName(
                slicer.util.mainWindow(), _("Choose a model file"), folder, file_filter()
            )
            if not chosen:  # the dialog was cancelled
                return
        self._on_chosen(chosen)
