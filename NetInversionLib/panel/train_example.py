"""The form that trains a family's example, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ctk
import qt
import slicer

from .. import jobs
from ..core.results import Result
from ..core.words import tr as in_language
from ..models.card import ModelError
from ..models.foreign import shelf
from . import job
from .texts import literal
from .words import tr as _


class TrainExample:
    """Asks for the scans, trains, and keeps the network with the user's own.

    Args:
        name, title: Of the family.
        on_trained: ``f(path)``, the model file that is kept.
    """

    def __init__(self, name: str, title: str, on_trained: Callable[[str], None]):
        self._name, self._on_trained = name, on_trained
        self._job: job.QtJob | None = None
        self._place: Path | None = None  # of the network that is being trained
        self.dialog = qt.QDialog(slicer.util.mainWindow())
        self.dialog.setWindowTitle(_("Train an example"))
        form = qt.QFormLayout(self.dialog)
        words = qt.QLabel(
            literal(
                _(
                    "'{title}' does not ship. It is trained here, in some minutes to half an hour,"
                    " on brain-extracted MR scans of several people: choose the folder with them."
                    " For research and teaching only."
                ).format(title=title)
            )
        )
        words.setWordWrap(True)
        form.addRow(words)
        self.folderEdit = ctk.ctkPathLineEdit()
        self.folderEdit.filters = ctk.ctkPathLineEdit.Dirs
        form.addRow(_("Folder with scans:"), self.folderEdit)
        self.progressBar = qt.QProgressBar()
        self.progressBar.maximum = 1000
        self.progressBar.setVisible(False)
        self.statusLabel = qt.QLabel()
        self.statusLabel.setWordWrap(True)
        self.trainButton = qt.QPushButton(_("Train"))
        for widget in (self.progressBar, self.statusLabel, self.trainButton):
            form.addRow(widget)
        self.trainButton.connect("clicked(bool)", self.onTrain)
        self.dialog.connect("finished(int)", self.close)
        self.dialog.show()

    def _say(self, words: str) -> None:
        self.statusLabel.setText(literal(in_language(words)))

    def onTrain(self, *_arguments: Any) -> None:
        """Start; while a training goes on, cancel it."""
        if self._job is not None and self._job.running:
            self.trainButton.setEnabled(False)
            self._job.cancel()
            return
        folder = self.folderEdit.currentPath
        if not folder or not Path(folder).is_dir():
            self._say(_("Choose the folder with scans first."))
            return
        try:
            self._place = shelf.begin()
            output = str(self._place / f"family-{self._name}.safetensors")
            settings = {"name": self._name, "folder": folder, "output": output}
            self._job = job.QtJob(
                jobs.Request("family_training", {}, {}, settings),
                self._onProgress,
                None,
                None,
                self._onFinished,
                self._onFailed,
            )
        except (OSError, RuntimeError) as error:
            self._over(jobs.explain(error))
            return
        self.trainButton.text = _("Cancel")
        self.progressBar.setVisible(True)
        self._say(_("Starting"))

    def _onProgress(self, fraction: float, message: str) -> None:
        self.progressBar.setValue(int(1000 * fraction))
        self._say(message)

    def _onFinished(self, result: Result | None, message: str) -> None:
        if result is None or self._place is None:
            self._over(message)
            return
        try:
            kept = shelf.keep(result.facts["file"])
        except (ModelError, OSError) as error:
            self._over(str(error))
            return
        self._place = None
        self.dialog.close()
        self._on_trained(str(kept))

    def _onFailed(self, message: str, details: str, last: Result | None) -> None:
        self._over(message)

    def _over(self, words: str) -> None:
        """No network came of it: say why, and let it be tried again."""
        self._forget()
        self.progressBar.setVisible(False)
        self.trainButton.text = _("Train")
        self.trainButton.setEnabled(True)
        self._say(words)

    def _forget(self) -> None:
        if self._place is not None:
            shelf.drop(self._place)
            self._place = None

    def close(self, *_arguments: Any) -> None:
        """End what goes on; nothing of a network that was not trained stays."""
        if self._job is not None:
            self._job.discard()
        self._forget()
