"""The form "Add a network...": a network of the user's own comes in from its file.

It is read, probed and written down in a process of its own (``netinversion models import``), so
that nothing of it ever runs inside Slicer.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ctk
import qt
import slicer

from ..core import steps
from ..models.card import ModelError
from ..models.foreign import formats, trust
from .job import find_python
from .stepper import Stepper
from .texts import literal
from .words import tr as _

SCALINGS = {
    "none": _("As they are"),
    "z-score": _("Mean 0, standard deviation 1, of each patient"),
    "percentile": _("0 to 1, of each patient's percentiles"),
    "unit": _("0 to 1, of the range given above"),
    "signed": _("-1 to 1, of the range given above"),
}
OF_PATIENT = ("z-score", "percentile")
"""Scalings of inputs alone."""
FIXED = {"unit": (0.0, 1.0), "signed": (-1.0, 1.0)}
IMAGE = re.compile(r"(.+?)\s*(?:\(([^)]*)\))?\s*(?:(-?[\d.]+) ?\.\. ?(-?[\d.]+))?")
"""A name, perhaps units in brackets, perhaps lowest and highest value: "CT (HU) -1000..2000"."""
MOST_WORDS = 4000
"""Characters of what the process said that are shown."""


class AddNetwork:
    """The form, shown until the network is in or the user closes it.

    Args:
        task: Of the module: "image-to-image" or "denoising".
        on_added: ``f(path)``, the card or model file that was made.
    """

    def __init__(self, task: str, on_added: Callable[[str], None]):
        self._task, self._on_added = task, on_added
        self._process: Any = None
        self._stepper: Stepper | None = None
        self.dialog = qt.QDialog(slicer.util.mainWindow())
        self.dialog.setWindowTitle(_("Add a network"))
        form = qt.QFormLayout(self.dialog)
        self.fileEdit = ctk.ctkPathLineEdit()
        self.codeEdit = ctk.ctkPathLineEdit()
        self.fileEdit.nameFilters = [
            _("Network") + " (*.pt *.pth *.ckpt *.safetensors *.ts *.pt2 *.onnx *.zip)"
        ]
        self.codeEdit.nameFilters = [_("Python file") + " (*.py)"]
        self.classEdit, self.inputsEdit, self.outputsEdit = (qt.QLineEdit() for _n in range(3))
        self.takenSelector, self.givenSelector, self.orientationSelector = (
            qt.QComboBox() for _n in range(3)
        )
        for data, text in SCALINGS.items():
            self.takenSelector.addItem(text, data)
            if data not in OF_PATIENT:
                self.givenSelector.addItem(text, data)
        for name in ("LPS", "RAS"):
            self.orientationSelector.addItem(name, name)
        self.trustCheckBox = qt.QCheckBox(_("I trust where these files come from"))
        self.statusLabel = qt.QLabel()
        self.statusLabel.setWordWrap(True)
        self.addButton = qt.QPushButton(_("Add"))
        for label, widget in (
            (_("File:"), self.fileEdit),
            (_("Its Python file (of weights alone):"), self.codeEdit),
            (_("Class in it, or package:Class:"), self.classEdit),
            (_("Images it takes, with commas:"), self.inputsEdit),
            (_("Images it gives, with commas:"), self.outputsEdit),
            (_("Values it takes:"), self.takenSelector),
            (_("Values it gives:"), self.givenSelector),
            (_("Axes it wants:"), self.orientationSelector),
        ):
            form.addRow(label, widget)
        for widget in (self.trustCheckBox, self.statusLabel, self.addButton):
            form.addRow(widget)
        self.fileEdit.connect("currentPathChanged(QString)", self._on_changed)
        self.codeEdit.connect("currentPathChanged(QString)", self._on_changed)
        self.trustCheckBox.connect("toggled(bool)", self._on_changed)
        self.addButton.connect("clicked(bool)", self.onAdd)
        self.dialog.connect("finished(int)", self.close)
        self._on_changed()
        self.dialog.show()

    # What the user says

    def _on_changed(self, *_arguments: Any) -> None:
        """Say what the chosen file is; a file that can run code needs the user's word."""
        self._sums: list[str] = []
        words, usable = [], bool(self.fileEdit.currentPath)
        try:
            if self.fileEdit.currentPath:
                kind = formats.kind_of(self.fileEdit.currentPath)
                words.append(_("Kind of file: {kind}.").format(kind=kind))
                if kind in formats.CAN_RUN_CODE:
                    self._sums.append(trust.sha256_of(self.fileEdit.currentPath))
            if self.codeEdit.currentPath:
                self._sums.append(trust.sha256_of(self.codeEdit.currentPath))
        except ModelError as error:
            words, usable = [str(error)], False
        unknown = [sha256 for sha256 in self._sums if not trust.is_trusted(sha256)]
        if unknown:
            words.append(
                _(
                    "What is chosen can run any code on this computer, with your rights. SHA-256:"
                    " {sums}"
                ).format(sums=", ".join(unknown))
            )
        self.trustCheckBox.setVisible(bool(unknown))
        self.statusLabel.setText(literal(" ".join(words)))
        self.addButton.setEnabled(usable and (not unknown or self.trustCheckBox.checked))

    def description(self) -> dict[str, Any]:
        """What the form says of the network; what it leaves out is probed."""
        told: dict[str, Any] = {"task": self._task}
        for key, edit, selector in (
            ("inputs", self.inputsEdit, self.takenSelector),
            ("outputs", self.outputsEdit, self.givenSelector),
        ):
            scaling = _scaling(selector.itemData(selector.currentIndex))
            images = [_image(text.strip()) for text in edit.text.split(",") if text.strip()]
            if images:
                told[key] = [{**image, **scaling} for image in images]
            elif key == "inputs":
                told.update(scaling)
        orientation = self.orientationSelector.itemData(self.orientationSelector.currentIndex)
        if orientation != "LPS":
            told["orientation"] = orientation
        return told

    def arguments(self) -> list[str]:
        """The command line that brings the network in."""
        words = ["-m", "NetInversionLib.cli", "models", "import", self.fileEdit.currentPath]
        words += ["--describe", json.dumps(self.description()), "--json"]
        architecture = self.classEdit.text.strip()
        if self.codeEdit.currentPath:
            architecture = f"{self.codeEdit.currentPath}:{architecture}"
        if architecture:
            words += ["--architecture", architecture]
        if self._sums and self.trustCheckBox.checked:
            words += ["--trust", *self._sums]
        return words

    # The process

    def onAdd(self, *_arguments: Any) -> None:
        """Start the import; the form says how it went."""
        self.addButton.setEnabled(False)
        self.statusLabel.setText(_("The network is read and tried..."))
        environment = qt.QProcessEnvironment.systemEnvironment()
        paths = [str(Path(__file__).parents[2]), environment.value("PYTHONPATH", "")]
        environment.insert("PYTHONPATH", os.pathsep.join(path for path in paths if path))
        self._process = qt.QProcess()
        self._process.setProcessEnvironment(environment)
        try:
            self._process.start(find_python(), self.arguments())
        except RuntimeError as error:
            self._failed(str(error))
            return
        self._stepper = Stepper(self._follow())

    def _follow(self) -> steps.Steps:
        said = b""
        ended = False
        while not ended:
            ended = self._process.state() == qt.QProcess.NotRunning
            said += self._process.readAllStandardOutput().data()
            yield False
        try:
            answer = json.loads(said.decode("utf-8", "replace") or "{}")
        except ValueError:
            answer = {}
        path = answer.get("file")
        if path:
            self.dialog.close()
            self._on_added(path)
            return
        words = self._process.readAllStandardError().data().decode("utf-8", "replace")
        self._failed(str(answer.get("error") or words or _("The import ended without a result.")))

    def _failed(self, words: str) -> None:
        self._on_changed()
        self.statusLabel.setText(literal(words[-MOST_WORDS:]))

    def close(self, *_arguments: Any) -> None:
        """End what goes on; nothing is written then."""
        if self._stepper is not None and self._stepper.running and self._process is not None:
            self._process.kill()


def _scaling(chosen: str) -> dict[str, Any]:
    """What a list's choice means in a description."""
    if chosen in FIXED:
        return {"scaling": "range", "to": FIXED[chosen]}
    return {"scaling": chosen}


def _image(text: str) -> dict[str, Any]:
    """A name with its units and range, as far as the text has them."""
    found = IMAGE.fullmatch(text)
    if found is None:
        return {"name": text}
    image: dict[str, Any] = {"name": found[1], "units": (found[2] or "").strip()}
    try:
        image |= {"low": float(found[3]), "high": float(found[4])} if found[3] else {}
    except ValueError:  # two points in a number: it belongs to the name
        return {"name": text}
    return image
