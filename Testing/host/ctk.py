"""The ctk widgets that Slicer's panels use, written over PySide6.

Only what the recorded PythonQt table lists can be reached (``pythonqt.wrap`` hides the rest), so
helper methods may have any name that is not in it. A ctk class that is not here raises when it is
asked for.
"""

import re

from PySide6 import QtCore, QtGui, QtWidgets

from . import ctk_numbers, qt
from .folding import Folding
from .parts import Property, Signal, row, stored
from .pythonqt import emit, wrap

HEADER = 24  # pixels, of a collapsible button


class ctkCollapsibleButton(Folding, QtWidgets.QAbstractButton):
    """A titled section that folds: open while the button is checked."""

    contentsCollapsed = Signal(bool)

    def __init__(self, text="", parent=None):
        super().__init__(parent if isinstance(text, str) else text)
        if isinstance(text, str):
            QtWidgets.QAbstractButton.setText(self, text)
        QtWidgets.QAbstractButton.setCheckable(self, True)
        QtWidgets.QAbstractButton.setChecked(self, True)
        self.setSizePolicy(
            QtWidgets.QSizePolicy.Policy.Preferred, QtWidgets.QSizePolicy.Policy.Preferred
        )
        self.setContentsMargins(0, HEADER, 0, 0)
        QtCore.QObject.connect(self, QtCore.SIGNAL("toggled(bool)"), self._open)

    def _open(self, opened):
        self._fold_children()
        QtWidgets.QWidget.setMaximumHeight(self, 16777215 if opened else HEADER)
        self.updateGeometry()
        emit(self, "contentsCollapsed(bool)", not opened)

    collapsed = Property(
        bool,
        lambda self: not QtWidgets.QAbstractButton.isChecked(self),
        lambda self, value: QtWidgets.QAbstractButton.setChecked(self, not value),
    )
    collapsedHeight = stored(int, 0)
    flat = stored(bool, False)

    def hitButton(self, position):
        return position.y() < HEADER

    def paintEvent(self, event):
        frame, opened = QtWidgets.QWidget.rect(self), QtWidgets.QAbstractButton.isChecked(self)
        header = QtCore.QRect(0, 0, frame.width(), HEADER)
        painter, option = QtWidgets.QStylePainter(self), QtWidgets.QStyleOptionButton()
        if opened:
            painter.setPen(QtWidgets.QWidget.palette(self).mid().color())
            painter.drawRect(frame.adjusted(0, HEADER // 2, -1, -1))
        option.initFrom(self)
        option.rect = header
        painter.drawControl(QtWidgets.QStyle.ControlElement.CE_PushButtonBevel, option)
        option.rect = QtCore.QRect(7, 7, 10, 10)
        arrow = QtWidgets.QStyle.PrimitiveElement
        painter.drawPrimitive(
            arrow.PE_IndicatorArrowDown if opened else arrow.PE_IndicatorArrowRight, option
        )
        painter.setPen(option.palette.buttonText().color())
        text = QtWidgets.QAbstractButton.text(self).replace("&&", "&")
        painter.drawText(header.adjusted(24, 0, 0, 0), QtCore.Qt.AlignmentFlag.AlignVCenter, text)


class ctkCollapsibleGroupBox(Folding, QtWidgets.QGroupBox):
    def __init__(self, title="", parent=None):
        super().__init__(title, parent) if isinstance(title, str) else super().__init__(title)
        QtWidgets.QGroupBox.setCheckable(self, True)
        QtCore.QObject.connect(self, QtCore.SIGNAL("toggled(bool)"), self._open)

    def _open(self, opened):
        self._fold_children()

    collapsed = Property(
        bool,
        lambda self: not QtWidgets.QGroupBox.isChecked(self),
        lambda self, value: QtWidgets.QGroupBox.setChecked(self, not value),
    )
    collapsedHeight = stored(int, 14)


# Paths and choices


def path_pattern(name_filters) -> str:
    """CTK's regular expression for the paths that name filters let through.

    Without any filter, all but the empty one pass.

    Of "*.nii.gz" it looks at "nii" alone, and it takes a path without its last letter ("a.nii",
    "a.ni"), as CTK does.
    """
    wildcards = [
        word
        for line in name_filters
        for word in (re.findall(r"^.*\((.*)\)$", line) or [line])[0].split(" ")
    ]
    suffixes = [
        found[1] for found in (re.search(r"\*\.(\w+)", word) for word in wildcards) if found
    ]
    return "(" + "|".join(rf".*\.{suffix}?$" for suffix in suffixes) + ")" if suffixes else ".+"


class ctkPathLineEdit(QtWidgets.QWidget):
    """A path with a browse button.

    It tells only of a text that its name filters let through, whether there is such a file or not:
    nobody hears of a text that is cleared, except through ``validInputChanged``.
    """

    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)
    # QDir's filter bits
    Dirs, Files, Drives, NoSymLinks, Readable, Writable, Executable = (
        0x1,
        0x2,
        0x4,
        0x8,
        0x10,
        0x20,
        0x40,
    )

    def __init__(self, parent=None):
        super().__init__(parent)
        self._line, self._button = QtWidgets.QLineEdit(self), QtWidgets.QToolButton(self)
        self._button.setText("…")
        row(self, self._line, self._button)
        self._valid = False
        self._filter(())
        self._line.textChanged.connect(lambda text: self._tell(text))
        self._button.clicked.connect(lambda: self.browse())

    def _filter(self, name_filters):
        self._line.setValidator(QtGui.QRegularExpressionValidator(path_pattern(name_filters), self))

    def _tell(self, text):
        before, self._valid = self._valid, self._line.hasAcceptableInput()
        if self._valid:
            emit(self, "currentPathChanged(QString)", text)
        if self._valid != before:
            emit(self, "validInputChanged(bool)", self._valid)

    currentPath = Property(
        str, lambda self: self._line.text(), lambda self, path: self._line.setText(path)
    )
    filters = stored(int, 0x1 | 0x2 | 0x4 | 0x80)
    nameFilters = stored("QStringList", (), _filter)
    label = stored(str, "")
    settingKey = stored(str, "")
    options = stored(int, 0)
    minimumContentsLength = stored(int, 0)
    showHistoryButton = stored(bool, True)
    showBrowseButton = stored(bool, True, lambda self, visible: self._button.setVisible(visible))

    def browse(self):
        dialog = (
            qt.QFileDialog.getOpenFileName
            if self.filters & self.Files
            else qt.QFileDialog.getExistingDirectory
        )
        path = dialog(None, self.label or "Select")
        if path:
            self._line.setText(path)


class ctkDirectoryButton(QtWidgets.QWidget):
    """A button that shows a folder and asks for another."""

    directoryChanged = Signal(str)
    directorySelected = Signal(str)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._button, self._directory = QtWidgets.QPushButton(self), "."
        self._button.setIcon(self.style().standardIcon(QtWidgets.QStyle.StandardPixmap.SP_DirIcon))
        row(self, self._button)
        self._button.clicked.connect(lambda: self.browse())
        self._name()

    def _name(self, *_):
        self._button.setText(self.text or QtCore.QDir(self._directory).absolutePath())

    def _choose(self, path):
        path = QtCore.QDir(path).absolutePath()
        changed = path != QtCore.QDir(self._directory).absolutePath()
        if changed:
            self._directory = path
            self._name()
        emit(self, "directorySelected(QString)", path)
        if changed:
            emit(self, "directoryChanged(QString)", path)

    def browse(self):
        path = qt.QFileDialog.getExistingDirectory(
            None, self.caption or self.toolTip, self._directory
        )
        if path:
            self._choose(path)
        return path

    directory = Property(str, lambda self: self._directory, _choose)
    caption = stored(str, "")
    text = stored(str, "", _name)
    icon = Property(
        QtGui.QIcon, lambda self: self._button.icon(), lambda self, icon: self._button.setIcon(icon)
    )


class ctkComboBox(QtWidgets.QComboBox):
    defaultText = stored(str, "")
    forceDefault = stored(bool, False)
    currentUserDataAsString = Property(
        str,
        lambda self: str(
            QtWidgets.QComboBox.itemData(self, QtWidgets.QComboBox.currentIndex(self)) or ""
        ),
        lambda self, v: QtWidgets.QComboBox.setCurrentIndex(
            self, QtWidgets.QComboBox.findData(self, v)
        ),
    )


class ctkCheckableComboBox(QtWidgets.QComboBox):
    """A combo box whose items carry check marks."""

    checkedIndexesChanged = Signal()

    def __init__(self, parent=None):
        super().__init__(parent)
        QtWidgets.QComboBox.model(self).dataChanged.connect(
            lambda *_: emit(self, "checkedIndexesChanged()")
        )

    def setCheckState(self, index, state):
        self.model().setData(
            index, QtCore.Qt.CheckState(state), QtCore.Qt.ItemDataRole.CheckStateRole
        )

    def checkState(self, index):
        state = self.model().data(index, QtCore.Qt.ItemDataRole.CheckStateRole)
        return int(getattr(state, "value", state) or 0)

    def checkableModel(self):
        return self.model()

    def checkedIndexes(self):
        model = self.model()
        rows = (model.index(i, 0) for i in range(model.rowCount()))
        return tuple(i for i in rows if self.checkState(i) == QtCore.Qt.CheckState.Checked.value)

    def allChecked(self):
        return len(self.checkedIndexes()) == self.model().rowCount()

    def noneChecked(self):
        return not self.checkedIndexes()


class ctkSearchBox(QtWidgets.QLineEdit):
    def __init__(self, parent=None):
        super().__init__(parent)
        QtWidgets.QLineEdit.setPlaceholderText(self, "Search...")


# Buttons and texts


class ctkCheckBox(QtWidgets.QCheckBox):
    pass


class ctkPushButton(QtWidgets.QPushButton):
    pass


class ctkCheckablePushButton(ctkPushButton):
    """A button with a check box of its own.

    While the box "controls the button" it makes it a toggle button.
    """

    checkBoxToggled = Signal(bool)
    checkStateChanged = Signal(QtCore.Qt.CheckState)

    def _check(self, state):
        if self.checkBoxControlsButton:
            self.setCheckable(bool(state))
        emit(self, "checkStateChanged(Qt::CheckState)", QtCore.Qt.CheckState(state))
        emit(self, "checkBoxToggled(bool)", state == 2)

    def _control(self, controls):
        if controls:
            self.checkState = 2 * self.checkable

    checkState = stored(int, 0, _check)
    checkBoxControlsButton = stored(bool, True, _control)
    checkBoxUserCheckable = stored(bool, True)


class ctkColorPickerButton(QtWidgets.QPushButton):
    """A button that shows a colour and asks for another."""

    colorChanged = Signal(QtGui.QColor)
    colorNameChanged = Signal(str)

    def __init__(self, text="", parent=None):
        super().__init__(text, parent) if isinstance(text, str) else super().__init__(text)
        QtWidgets.QPushButton.setCheckable(self, True)
        QtCore.QObject.connect(self, QtCore.SIGNAL("toggled(bool)"), self._asked)

    def _asked(self, pressed):
        if pressed:
            self.changeColor()
            self.setChecked(False)

    def changeColor(self):
        color = qt.QColorDialog.getColor(self.color, self)
        if color.isValid():
            self.color, self.colorName = color, ""

    def _repaint(self, color):
        self.update()
        emit(self, "colorChanged(QColor)", color)

    def paintEvent(self, event):
        painter, option = QtWidgets.QStylePainter(self), QtWidgets.QStyleOptionButton()
        self.initStyleOption(option)
        swatch = QtGui.QPixmap(16, 16)
        swatch.fill(self.color)
        option.icon, option.iconSize = QtGui.QIcon(swatch), swatch.size()
        option.text = (self.colorName or self.color.name()) if self.displayColorName else self.text
        painter.drawControl(QtWidgets.QStyle.ControlElement.CE_PushButton, option)

    color = stored(QtGui.QColor, QtGui.QColor("black"), _repaint)
    colorName = stored(str, "", lambda self, name: emit(self, "colorNameChanged(QString)", name))
    displayColorName = stored(bool, True, lambda self, _: self.update())


class ctkFittedTextBrowser(QtWidgets.QTextBrowser):
    """A text as high as it is.

    Of a collapsible one only the first line shows until its link is clicked.
    """

    def __init__(self, parent=None):
        super().__init__(parent)
        self._whole, self._break = None, "\n"
        QtCore.QObject.connect(self, QtCore.SIGNAL("anchorClicked(QUrl)"), self._clicked)

    def _clicked(self, url):
        if url.fragment() in ("show_details", "hide_details"):
            self.collapsed = url.fragment() == "hide_details"

    def _write(self, *_):
        if self._whole is None:
            return
        first, found, rest = self._whole.partition(self._break)
        link = "show_details" if self.collapsed else "hide_details"
        words = self.showDetailsText if self.collapsed else self.hideDetailsText
        shown = (
            first
            if self.collapsed
            else first + rest.replace("\n", "<br>" if self._break == "\n" else "\n")
        )
        self.setHtml(f'{shown} <a href="#{link}">{words}</a>' if found else self._whole)

    def _keep(self, text, is_html):
        self._whole, self._break = text, "<br>" if is_html else "\n"
        self._write()

    def setCollapsibleText(self, text):
        self._keep(text, "<html>" in text)

    setCollapsiblePlainText = setCollapsibleText

    def setCollapsibleHtml(self, text):
        self._keep(text, True)

    def collapsibleText(self):
        return self._whole or ""

    def sizeHint(self):
        document = QtWidgets.QTextEdit.document(self)
        return QtCore.QSize(200, int(document.size().height()) + 4)

    minimumSizeHint = sizeHint
    collapsed = stored(bool, True, _write)
    showDetailsText = stored(str, "Show details...", _write)
    hideDetailsText = stored(str, "Hide details.", _write)


class ctkMessageBox(QtWidgets.QMessageBox):
    dontShowAgainVisible = stored(bool, False)
    dontShowAgainSettingsKey = stored(str, "")


globals().update(
    {
        name: wrap(cls, name)
        for name, cls in {**vars(ctk_numbers), **globals()}.items()
        if name.startswith("ctk") and isinstance(cls, type)
    }
)


class ctkWidgetsUtils:
    """Static functions, of which the host has one."""

    @staticmethod
    def grabWidget(widget) -> QtGui.QImage:
        return QtWidgets.QWidget.grab(widget).toImage()


def __getattr__(name):
    raise AttributeError(name if name.startswith("__") else f"ctk.{name} is not in the test host")
