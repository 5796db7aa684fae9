"""Published weights to download, and the user's networks with a button that deletes one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer

from ..models.card import ModelError
from ..models.foreign import published, shelf
from . import lists
from .command import Command
from .texts import literal
from .words import tr as _

TITLES = {"cnn10": "CNN-10", "redcnn": "RED-CNN", "wganvgg": "WGAN-VGG", "dugan": "DU-GAN"}


class KeptNetworks:
    """Rows of a form: published weights with Download, the kept networks with Delete.

    Nothing goes to the network before the first press of Download, which asks the server how large
    the files are; the second one, with addresses, sizes and sums in sight, fetches them.

    Args:
        form: The layout that gets the rows.
        on_added: ``f(path)``, a model file that is ready.
        on_deleted: ``f(folder)``, of a network that is gone.
    """

    def __init__(
        self,
        form: qt.QFormLayout,
        on_added: Callable[[str], None],
        on_deleted: Callable[[str], None],
    ):
        self._on_added, self._on_deleted = on_added, on_deleted
        self._looked = ""  # what is known of the files of
        self.command: Command | None = None
        self.publishedSelector, self.keptSelector = qt.QComboBox(), qt.QComboBox()
        for name in published.READY:
            title = TITLES[name.removesuffix(published.SAMPLER)]
            is_sampler = name.endswith(published.SAMPLER)
            text = _("Sampler of {denoiser}").format(denoiser=title) if is_sampler else title
            self.publishedSelector.addItem(text, name)
        self.downloadButton, self.deleteButton = qt.QPushButton(), qt.QPushButton(_("Delete"))
        self.publishedLabel = qt.QLabel()
        self.publishedLabel.setWordWrap(True)
        form.addRow(_("Published weights:"), self.publishedSelector)
        form.addRow(self.publishedLabel)
        form.addRow(self.downloadButton)
        form.addRow(_("Networks that you added:"), self.keptSelector)
        form.addRow(self.deleteButton)
        self.publishedSelector.connect("currentIndexChanged(int)", self._onChosen)
        self.downloadButton.connect("clicked(bool)", self.onDownload)
        self.deleteButton.connect("clicked(bool)", self.onDelete)
        self._onChosen()
        self.show()

    def show(self) -> None:
        """Bring the list of kept networks up to date."""
        lists.fill(
            self.keptSelector,
            {
                str(path): f"{path.name} ({size / 1e6:.1f} MB)"
                for path, size in shelf.entries().items()
            },
        )
        self.deleteButton.setEnabled(self.keptSelector.count > 0)

    # Download

    def _onChosen(self, *_arguments: Any) -> None:
        self._looked = ""
        name = lists.chosen(self.publishedSelector)
        addresses = ", ".join(weights.url for weights in published.files_of(name))
        self.publishedLabel.setText(literal(addresses))
        self.downloadButton.text = _("How large is it?")

    def onDownload(self, *_arguments: Any) -> None:
        """Ask for the sizes; then, pressed again, fetch. While that goes on: stop."""
        if self.command is not None and self.command.running:
            self.command.close()
            self._failed(_("Stopped; what was fetched is kept, and the next try goes on there."))
            return
        name = lists.chosen(self.publishedSelector)
        self.publishedSelector.setEnabled(False)
        self.downloadButton.text = _("Stop")
        words = ["models", "download", name]
        if self._looked == name:
            words += ["--add", "--yes"]
            self.command = Command(words, self._tell, self._ready, self._failed)
        else:
            self.command = Command([*words, "--look"], self._tell, self._known, self._failed)

    def _tell(self, line: str) -> None:
        self.publishedLabel.setText(literal(line))

    def _known(self, answer: dict[str, Any]) -> None:
        self._rest()
        self._looked = lists.chosen(self.publishedSelector)
        files = answer.get("files", [])
        told = [
            f"{one['url']}: {one['bytes'] / 1e6:.1f} MB, SHA-256 {one['sha256']}" for one in files
        ]
        self.publishedLabel.setText(literal("\n".join(told)))
        size = sum(one["bytes"] for one in files) / 1e6
        self.downloadButton.text = _("Download {size} MB").format(size=f"{size:.1f}")

    def _ready(self, answer: dict[str, Any]) -> None:
        self._rest()
        self.show()
        self._tell(_("It is ready: {file}").format(file=answer.get("file", "")))
        self._on_added(str(answer.get("file", "")))

    def _failed(self, words: str) -> None:
        self._rest()
        self._onChosen()
        self._tell(words)
        self.show()

    def _rest(self) -> None:
        self.publishedSelector.setEnabled(True)
        self.downloadButton.text = _("How large is it?")

    # Delete

    def onDelete(self, *_arguments: Any) -> None:
        """Delete the chosen network with its files, once the user has said so."""
        entry = lists.chosen(self.keptSelector)
        if not entry:
            return
        question = _("Delete '{name}' with all its files? This cannot be undone.").format(
            name=Path(entry).name
        )
        if not slicer.util.confirmOkCancelDisplay(question, _("Networks that you added")):
            return
        try:
            shelf.delete(entry)
        except ModelError as error:
            self._tell(str(error))
        else:
            self._on_deleted(entry)
        self.show()

    def close(self) -> None:
        """End a download; what was fetched is kept."""
        if self.command is not None:
            self.command.close()
