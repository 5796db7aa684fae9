"""The form "Add a network...": a network of the user's own comes in from its file.

It is read, probed and written down in a process of its own (``netinversion models import``), so
that nothing of it ever runs inside Slicer. What was found is shown, and the network is kept once
the user has confirmed it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ctk
import qt
import slicer

from ..core.words import tr as in_language
from ..models.card import ModelError
from ..models.foreign import formats, shelf, trust
from . import lists
from .command import Command
from .kept_networks import KeptNetworks
from .texts import literal
from .words import tr as _

SCALINGS = {
    "none": _("As they are"),
    "z-score": _("Mean 0, standard deviation 1, of each patient"),
    "percentile": _("0 to 1, of each patient's percentiles"),
    "unit": _("0 to 1, of the range given above"),
    "signed": _("-1 to 1, of the range given above"),
    "mean-std": _("Minus the mean, divided by the std, given above"),
}
OF_PATIENT = ("z-score", "percentile")
"""Scalings of inputs alone."""
FIXED = {"unit": (0.0, 1.0), "signed": (-1.0, 1.0)}
IMAGE = re.compile(
    r"(.+?)\s*(?:\(([^)]*)\))?\s*(?:(-?[\d.]+) ?\.\. ?(-?[\d.]+))?"
    r"\s*(?:\bmean (-?[\d.]+) std ([\d.]+))?"
)
"""A name, perhaps units in brackets, perhaps lowest and highest value, or mean and deviation:
"CT (HU) -1000..2000", "CT (HU) mean -500 std 500".
"""
IN_FORM = {
    "--architecture": _("'Its Python file' and 'Class in it'"),
    "--arguments": _("'What the class is made with'"),
}
"""The lines that stand for options of the command."""
PACKAGE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""A class in an installed package."""
NETWORK_FILES = f"({' '.join('*' + ending for ending in formats.ENDINGS)})"


class AddNetwork:
    """The form, shown until a network is in or the user closes it.

    Args:
        task: Of the module: "image-to-image" or "denoising".
        on_added: ``f(path)``, the card or model file that is kept.
        on_deleted: ``f(folder)``, of a network that the user deleted.
    """

    def __init__(
        self,
        task: str,
        on_added: Callable[[str], None],
        on_deleted: Callable[[str], None] = lambda folder: None,
    ):
        self._task, self._on_added = task, on_added
        self._command: Command | None = None
        self._place: Path | None = None  # of a network that is not confirmed yet
        self._made, self._filling = "", False
        self._known: dict[str, tuple[Path, str]] = {}  # by package: its folder and SHA-256
        self.dialog = qt.QDialog(slicer.util.mainWindow())
        self.dialog.setWindowTitle(_("Add a network"))
        form = qt.QFormLayout(self.dialog)
        self._make_widgets()
        for label, widget in (
            (_("File:"), self.fileEdit),
            (_("Its Python file (of weights alone):"), self.codeEdit),
            (_("Class in it, or package:Class:"), self.classEdit),
            (_("What the class is made with (JSON):"), self.argumentsEdit),
            (_("Images it takes, with commas:"), self.inputsEdit),
            (_("Images it gives, with commas:"), self.outputsEdit),
            (_("Values it takes:"), self.takenSelector),
            (_("Values it gives:"), self.givenSelector),
            (_("Axes it wants:"), self.orientationSelector),
        ):
            form.addRow(label, widget)
        for widget in (self.trustCheckBox, self.statusLabel, self.addButton, self.useButton):
            form.addRow(widget)
        self.kept = KeptNetworks(form, on_added, on_deleted)
        self._connect()
        self._on_changed()
        self.dialog.show()

    def _make_widgets(self) -> None:
        self.fileEdit, self.codeEdit = ctk.ctkPathLineEdit(), ctk.ctkPathLineEdit()
        self.fileEdit.nameFilters = [_("Network") + " " + NETWORK_FILES]
        self.codeEdit.nameFilters = [_("Python file") + " (*.py)"]
        self.classEdit = qt.QLineEdit()
        self.argumentsEdit = qt.QLineEdit()
        self.inputsEdit = qt.QLineEdit()
        self.outputsEdit = qt.QLineEdit()
        self.takenSelector = qt.QComboBox()
        self.givenSelector = qt.QComboBox()
        self.orientationSelector = qt.QComboBox()
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
        self.useButton = qt.QPushButton(_("Yes, use this network"))

    def _connect(self) -> None:
        self.fileEdit.connect("currentPathChanged(QString)", self._on_changed)
        self.codeEdit.connect("currentPathChanged(QString)", self._on_changed)
        self.classEdit.connect("textChanged(QString)", self._on_changed)
        self.argumentsEdit.connect("textChanged(QString)", self._on_edited)
        self.inputsEdit.connect("textChanged(QString)", self._on_edited)
        self.outputsEdit.connect("textChanged(QString)", self._on_edited)
        self.takenSelector.connect("currentIndexChanged(int)", self._on_edited)
        self.givenSelector.connect("currentIndexChanged(int)", self._on_edited)
        self.orientationSelector.connect("currentIndexChanged(int)", self._on_edited)
        self.trustCheckBox.connect("toggled(bool)", self._on_changed)
        self.addButton.connect("clicked(bool)", self.onAdd)
        self.useButton.connect("clicked(bool)", self.onUse)
        self.dialog.connect("finished(int)", self.close)

    def _say(self, words: str) -> None:
        """Words under the form, which makes room for them."""
        self.statusLabel.setText(literal(words))
        self.dialog.adjustSize()

    # What the user says

    def _on_changed(self, *_arguments: Any) -> None:
        """Say what the chosen file is; a file that can run code needs the user's word."""
        self._forget()
        self._sums: list[str] = []
        words, usable = [], bool(self.fileEdit.currentPath)
        try:
            if self.fileEdit.currentPath:
                kind = formats.kind_of(self.fileEdit.currentPath)
                words.append(_("Kind of file: {kind}.").format(kind=kind))
                if kind in formats.CAN_RUN_CODE:
                    self._sums.append(trust.sha256_of(self.fileEdit.currentPath))
            self._sums += self._code_sums()
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
        self._say(" ".join(words))
        self.addButton.setEnabled(usable and (not unknown or self.trustCheckBox.checked))

    def _on_edited(self, *_arguments: Any) -> None:
        """What was tried is no longer what the form says: it has to be tried again."""
        if self._made and not self._filling:
            self._on_changed()

    def _code_sums(self) -> list[str]:
        """SHA-256 of the Python file or package that is named; a text that is no name yet has none.

        Raises:
            ModelError: It cannot be read.
        """
        if self.codeEdit.currentPath:
            return [trust.sha256_of(self.codeEdit.currentPath)]
        name = self.classEdit.text.strip()
        if not PACKAGE.fullmatch(name):
            return []
        package = name.partition(":")[0].partition(".")[0]
        if package not in self._known:
            code = trust.code_of(name)
            assert code is not None
            self._known[package] = code, trust.code_sha256(code)
        return [self._known[package][1]]

    def description(self) -> dict[str, Any]:
        """What the form says of the network; what it leaves out is probed."""
        told: dict[str, Any] = {"task": self._task}
        for key, edit, selector in (
            ("inputs", self.inputsEdit, self.takenSelector),
            ("outputs", self.outputsEdit, self.givenSelector),
        ):
            scaling = _scaling(lists.chosen(selector))
            images = [_image(text.strip()) for text in edit.text.split(",") if text.strip()]
            if images:
                told[key] = [{**image, **scaling} for image in images]
            elif key == "inputs":
                told.update(scaling)
        orientation = lists.chosen(self.orientationSelector)
        if orientation != "LPS":
            told["orientation"] = orientation
        return told

    def lacking(self) -> str:
        """What the choice of a scaling needs and the images' lines lack; "" where nothing."""
        for edit, selector in (
            (self.inputsEdit, self.takenSelector),
            (self.outputsEdit, self.givenSelector),
        ):
            chosen = lists.chosen(selector)
            images = [_image(text.strip()) for text in edit.text.split(",") if text.strip()]
            if chosen in FIXED and any("low" not in image for image in images):
                return _("Write the range behind each image, as here: CT (HU) -1000..2000")
            if chosen == "mean-std" and any("mean" not in image for image in images):
                return _("Write both numbers behind each image, as here: CT (HU) mean -500 std 500")
            if chosen != "mean-std" and any("mean" in image for image in images):
                return _("Of a mean and std, choose the values: {choice}").format(
                    choice=SCALINGS["mean-std"]
                )
        return ""

    def arguments(self, folder: Path) -> list[str]:
        """The words of the command that brings the network in, into a folder."""
        words = ["models", "import", self.fileEdit.currentPath, "--output", str(folder)]
        words += ["--describe", json.dumps(self.description())]
        architecture = self.classEdit.text.strip()
        if self.codeEdit.currentPath:
            architecture = f"{self.codeEdit.currentPath}:{architecture}"
        if architecture:
            words += ["--architecture", architecture]
        if self.argumentsEdit.text.strip():
            words += ["--arguments", self.argumentsEdit.text.strip()]
        if self._sums and self.trustCheckBox.checked:
            words += ["--trust", *self._sums]
        return words

    # What becomes of it

    def onAdd(self, *_arguments: Any) -> None:
        """Start the import; the form says how it went."""
        self._forget()
        if lacking := self.lacking():
            self._say(lacking)
            return
        self.addButton.setEnabled(False)
        self._say(_("The network is read and tried..."))
        try:
            self._place = shelf.begin()
        except OSError as error:
            self._failed(f"{shelf.folder()}: {error.strerror}")
            return
        self._command = Command(
            self.arguments(self._place), lambda line: None, self._found, self._failed
        )

    def _found(self, answer: dict[str, Any]) -> None:
        """Show what the network turned out to be, for the user to confirm."""
        card = answer.get("card", {})
        self._made, self._filling = str(answer.get("file", "")), True
        for edit, key in ((self.inputsEdit, "inputs"), (self.outputsEdit, "outputs")):
            if not edit.text.strip():
                edit.text = ", ".join(_shown(channel) for channel in card.get(key, []))
        self._filling = False
        self._say(found_words(card, lists.chosen(self.orientationSelector)))
        self.addButton.text = _("Add again, as the form says now")
        self.addButton.setEnabled(True)
        self.useButton.setVisible(True)

    def onUse(self, *_arguments: Any) -> None:
        """The network is confirmed: keep it, and choose it."""
        try:
            kept = shelf.keep(self._made)
        except (ModelError, OSError) as error:
            self._failed(str(error))
            return
        self._place = None
        self.dialog.close()
        self._on_added(str(kept))

    def _failed(self, words: str) -> None:
        self._on_changed()
        words = in_language(words)  # before the form's lines, whose words the library does not know
        for option, line in IN_FORM.items():
            words = words.replace(option, line)
        self._say(words)

    def _forget(self) -> None:
        """Let go of a network that was not confirmed."""
        self.useButton.setVisible(False)
        self.addButton.text = _("Add")
        self._made = ""
        if self._place is not None:
            shelf.drop(self._place)
            self._place = None

    def close(self, *_arguments: Any) -> None:
        """End what goes on; nothing of a network that was not confirmed stays."""
        if self._command is not None:
            self._command.close()
        self.kept.close()
        self._forget()


def found_words(card: dict[str, Any], axes: str) -> str:
    """What a network turned out to be, in lines: its images, their values, what the probe found.

    Args:
        card: As JSON, of a ``Card``, whose own axes are those of the questions.
        axes: That the form says.
    """
    lines = [_("Is this right? If not, change the form and add it again.")]
    for key, title in (("inputs", _("It takes:")), ("outputs", _("It gives:"))):
        lines.append(title + " " + "; ".join(_told(channel) for channel in card.get(key, [])))
    lines.append(_("Axes: {axes}.").format(axes=axes))
    probe = card.get("quality", {}).get("probe")
    return "\n".join([*lines, probe] if probe else lines)


def _shown(channel: dict[str, Any]) -> str:
    """An image as the form's lines have it: "CT (HU) -1000..2000"."""
    units = f" ({channel['units']})" if channel.get("units") else ""
    low, high = channel.get("low"), channel.get("high")
    values = "" if low is None or high is None else f" {low:g}..{high:g}"
    return f"{channel['name']}{units}{values}"


def _told(channel: dict[str, Any]) -> str:
    """An image with how its values reach the network."""
    low, high = channel.get("network", (0.0, 1.0))
    scaling = channel.get("scaling", "range")
    words = {
        "none": _("as they are"),
        "z-score": _("mean 0, standard deviation 1, of each patient"),
        "percentile": _("the patient's percentiles become {low:g} and {high:g}"),
    }.get(scaling, _("these become {low:g} and {high:g}"))
    return f"{_shown(channel)} ({words.format(low=low, high=high)})"


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
        image |= {"mean": float(found[5]), "std": float(found[6])} if found[5] else {}
    except ValueError:  # two points in a number: it belongs to the name
        return {"name": text}
    return image
