"""The ctk widgets that Slicer's panels use, written over PySide6.

Only what the recorded PythonQt table lists can be reached (``pythonqt.wrap`` hides the rest), so helper methods may
have any name that is not in it. A ctk class that is not here raises when it is asked for.
"""
from PySide6 import QtCore, QtGui, QtWidgets

from .pythonqt import emit, wrap

Property, Signal = QtCore.Property, QtCore.Signal
HEADER = 24  # pixels, of a collapsible button
TICKS = 10000  # of a slider


def stored(kind, default, apply=None):
    """A Qt property that is only kept; ``apply(self, value)`` passes a new value on."""
    key = f"_stored_{stored.count}"
    stored.count += 1

    def read(self):
        return self.__dict__.get(key, default)

    def write(self, value):
        changed = value != read(self)
        self.__dict__[key] = value
        if apply and changed:
            apply(self, value)
    return Property(kind, read, write)


stored.count = 0


def _show_children(widget, visible):
    for child in QtCore.QObject.children(widget):
        if isinstance(child, QtWidgets.QWidget):
            QtWidgets.QWidget.setVisible(child, visible)


class ctkCollapsibleButton(QtWidgets.QAbstractButton):
    """A titled section that folds: open while the button is checked."""

    contentsCollapsed = Signal(bool)

    def __init__(self, text="", parent=None):
        super().__init__(parent if isinstance(text, str) else text)
        if isinstance(text, str):
            QtWidgets.QAbstractButton.setText(self, text)
        QtWidgets.QAbstractButton.setCheckable(self, True)
        QtWidgets.QAbstractButton.setChecked(self, True)
        self.setSizePolicy(QtWidgets.QSizePolicy.Policy.Preferred, QtWidgets.QSizePolicy.Policy.Preferred)
        self.setContentsMargins(0, HEADER, 0, 0)
        QtCore.QObject.connect(self, QtCore.SIGNAL("toggled(bool)"), self._open)

    def _open(self, opened):
        _show_children(self, opened)
        QtWidgets.QWidget.setMaximumHeight(self, 16777215 if opened else HEADER)
        self.updateGeometry()
        emit(self, "contentsCollapsed(bool)", not opened)

    collapsed = Property(bool, lambda self: not QtWidgets.QAbstractButton.isChecked(self),
                         lambda self, value: QtWidgets.QAbstractButton.setChecked(self, not value))
    collapsedHeight = stored(int, 0)
    flat = stored(bool, False)

    def hitButton(self, position):
        return position.y() < HEADER

    def childEvent(self, event):
        child = event.child()
        if event.added() and isinstance(child, QtWidgets.QWidget) and not QtWidgets.QAbstractButton.isChecked(self):
            QtWidgets.QWidget.setVisible(child, False)
        super().childEvent(event)

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
        painter.drawPrimitive(arrow.PE_IndicatorArrowDown if opened else arrow.PE_IndicatorArrowRight, option)
        painter.setPen(option.palette.buttonText().color())
        text = QtWidgets.QAbstractButton.text(self).replace("&&", "&")
        painter.drawText(header.adjusted(24, 0, 0, 0), QtCore.Qt.AlignmentFlag.AlignVCenter, text)


class ctkCollapsibleGroupBox(QtWidgets.QGroupBox):
    def __init__(self, title="", parent=None):
        super().__init__(title, parent) if isinstance(title, str) else super().__init__(title)
        QtWidgets.QGroupBox.setCheckable(self, True)
        QtCore.QObject.connect(self, QtCore.SIGNAL("toggled(bool)"), lambda opened: _show_children(self, opened))

    collapsed = Property(bool, lambda self: not QtWidgets.QGroupBox.isChecked(self),
                         lambda self, value: QtWidgets.QGroupBox.setChecked(self, not value))
    collapsedHeight = stored(int, 14)


def row(widget, *parts, down=False):
    """Lay parts out side by side (or one below the other), the first one taking the room."""
    layout = (QtWidgets.QVBoxLayout if down else QtWidgets.QHBoxLayout)(widget)
    layout.setContentsMargins(0, 0, 0, 0)
    for part in parts:
        layout.addWidget(part, int(part is parts[0]))


# Numbers. As in CTK they stay exact: decimals round what is shown and typed, and single steps what is dragged.

def slider(parent):
    made = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal, parent)
    made.setMaximum(TICKS)
    return made


def show(part, value, limits):
    """Have a spin box or a slider show a value, without a signal."""
    low, high = limits
    part.blockSignals(True)
    if isinstance(part, QtWidgets.QSlider):
        part.setValue(round(TICKS * (value - low) / (high - low)) if high > low else 0)
    else:
        part.setRange(low, high)
        part.setValue(value)
    part.blockSignals(False)


def given(part, limits, step):
    """The value at which the user has put a spin box or a slider."""
    low, high = limits
    if isinstance(part, QtWidgets.QSlider):
        return min(high, low + step * round((high - low) * part.value() / TICKS / step))
    return part.value()


class Numeric(QtWidgets.QWidget):
    """What widgets for numbers share: limits, step, and how their spin boxes (``_boxes``) write numbers."""

    def __init__(self, parent, limits, *parts):
        super().__init__(parent)
        self._limits, self._parts = limits, [part(self) for part in parts]
        self._boxes = [part for part in self._parts if isinstance(part, QtWidgets.QDoubleSpinBox)]
        for part in self._parts:
            part.valueChanged.connect(lambda _, part=part: self._by_user(part))

    def _set_limits(self, low, high):
        before, self._limits = self._limits, (min(low, high), max(low, high))
        if self._limits != before and hasattr(self, "rangeChanged"):
            emit(self, "rangeChanged(double,double)", *self._limits)
        self._keep_within()

    def _to_boxes(setter):
        def apply(self, value):
            for box in self._boxes:
                box.blockSignals(True)
                getattr(box, setter)(value)
                box.blockSignals(False)
            self._show()
            if setter == "setDecimals" and hasattr(self, "decimalsChanged"):
                emit(self, "decimalsChanged(int)", value)
        return apply

    minimum = Property(float, lambda self: self._limits[0],
                       lambda self, value: self._set_limits(value, max(value, self._limits[1])))
    maximum = Property(float, lambda self: self._limits[1],
                       lambda self, value: self._set_limits(min(value, self._limits[0]), value))
    singleStep = stored(float, 1.0, _to_boxes("setSingleStep"))
    decimals = stored(int, 2, _to_boxes("setDecimals"))
    prefix = stored(str, "", _to_boxes("setPrefix"))
    suffix = stored(str, "", _to_boxes("setSuffix"))
    tickInterval = stored(float, 0.0)
    tracking = stored(bool, True)


class Number(Numeric):
    """One value, shown by a spin box, a slider or both."""

    valueChanged = Signal(float)

    def __init__(self, parent, limits, *parts):
        super().__init__(parent, limits, *parts)
        self._value = 0.0
        self._show()

    def _show(self):
        for part in self._parts:
            show(part, self._value, self._limits)

    def _by_user(self, part):
        self.setValue(given(part, self._limits, self.singleStep))

    def _keep_within(self):
        self.setValue(self._value)
        self._show()

    def setValue(self, value):
        before, self._value = self._value, min(max(value, self._limits[0]), self._limits[1])
        if self._value != before:
            self._show()
            emit(self, "valueChanged(double)", self._value)

    value = Property(float, lambda self: self._value, lambda self, value: self.setValue(value))


class ctkDoubleSpinBox(Number):
    """A spin box in a frame."""

    editingFinished = Signal()
    decimalsChanged = Signal(int)

    def __init__(self, parent=None):
        super().__init__(parent, (0.0, 99.99), QtWidgets.QDoubleSpinBox)
        row(self, *self._parts)
        self._boxes[0].editingFinished.connect(lambda: emit(self, "editingFinished()"))

    readOnly = stored(bool, False, lambda self, value: self._boxes[0].setReadOnly(value))
    cleanText = Property(str, lambda self: self._boxes[0].cleanText())

    def stepUp(self):
        self._boxes[0].stepUp()

    def stepDown(self):
        self._boxes[0].stepDown()

    setValueAlways = setValueIfDifferent = Number.setValue


class ctkDoubleSlider(Number):
    """A slider over real numbers."""

    sliderMoved = Signal(float)
    sliderPressed = Signal()
    sliderReleased = Signal()
    rangeChanged = Signal(float, float)

    def __init__(self, parent=None):
        super().__init__(parent, (0.0, 99.0), slider)
        row(self, *self._parts)
        self._parts[0].sliderPressed.connect(lambda: emit(self, "sliderPressed()"))
        self._parts[0].sliderReleased.connect(self._released)

    def _by_user(self, part):
        if part.isSliderDown():
            emit(self, "sliderMoved(double)", self.sliderPosition)
        if self.tracking or not part.isSliderDown():
            super()._by_user(part)

    def _released(self):
        self.setValue(self.sliderPosition)
        emit(self, "sliderReleased()")

    sliderPosition = Property(float, lambda self: given(self._parts[0], self._limits, self.singleStep),
                              lambda self, value: self.setValue(value))
    orientation = stored(int, 1, lambda self, value: self._parts[0].setOrientation(QtCore.Qt.Orientation(value)))
    pageStep = stored(float, 10.0)


class ctkSliderWidget(Number):
    """A slider with its spin box."""

    valueIsChanging = Signal(float)
    decimalsChanged = Signal(int)

    def __init__(self, parent=None):
        super().__init__(parent, (0.0, 99.99), slider, QtWidgets.QDoubleSpinBox)
        row(self, *self._parts)
        self._parts[0].sliderReleased.connect(lambda: Number._by_user(self, self._parts[0]))

    def _by_user(self, part):
        if self.tracking:
            return super()._by_user(part)
        emit(self, "valueIsChanging(double)", given(part, self._limits, self.singleStep))
        if not self._parts[0].isSliderDown():
            super()._by_user(part)

    def reset(self):
        self.setValue(0.0)

    pageStep = stored(float, 10.0)
    spinBoxVisible = stored(bool, True, lambda self, visible: self._boxes[0].setVisible(visible))


class Ends(Numeric):
    """Two values of which the first is never above the second."""

    minimumValueChanged = Signal(float)
    maximumValueChanged = Signal(float)
    valuesChanged = Signal(float, float)
    rangeChanged = Signal(float, float)

    def __init__(self, parent, part, down):
        super().__init__(parent, (0.0, 99.0), part, part)
        self._ends = (0.0, 99.0)
        row(self, *self._parts, down=down)
        self._show()

    def _show(self):
        for part, value in zip(self._parts, self._ends):
            show(part, value, self._limits)

    def _by_user(self, part):
        value = given(part, self._limits, self.singleStep)
        self.setMinimumValue(value) if part is self._parts[0] else self.setMaximumValue(value)

    def _keep_within(self):
        self.setValues(*self._ends)

    def setRange(self, low, high):
        self._set_limits(low, high)

    def setValues(self, low, high):
        before = self._ends
        self._ends = tuple(min(max(value, self._limits[0]), self._limits[1]) for value in sorted((low, high)))
        self._show()
        if self._ends != before:
            emit(self, "valuesChanged(double,double)", *self._ends)
        for name, old, new in zip(("minimum", "maximum"), before, self._ends):
            if new != old:
                emit(self, f"{name}ValueChanged(double)", new)

    # The other end gives way.
    def setMinimumValue(self, value):
        self.setValues(value, max(value, self._ends[1]))

    def setMaximumValue(self, value):
        self.setValues(min(value, self._ends[0]), value)

    minimumValue = Property(float, lambda self: self._ends[0], lambda self, value: self.setMinimumValue(value))
    maximumValue = Property(float, lambda self: self._ends[1], lambda self, value: self.setMaximumValue(value))


class ctkDoubleRangeSlider(Ends):
    """A slider with two handles; here two sliders."""

    sliderPressed = Signal()
    sliderReleased = Signal()

    def __init__(self, parent=None):
        super().__init__(parent, slider, down=True)
        for part in self._parts:
            part.sliderPressed.connect(lambda: emit(self, "sliderPressed()"))
            part.sliderReleased.connect(lambda: emit(self, "sliderReleased()"))


class ctkRangeWidget(Ends):
    """Two spin boxes that hold a range; the end that is set stops at the other."""

    def __init__(self, parent=None):
        super().__init__(parent, QtWidgets.QDoubleSpinBox, down=False)

    def setMinimumValue(self, value):
        self.setValues(min(value, self._ends[1]), self._ends[1])

    def setMaximumValue(self, value):
        self.setValues(self._ends[0], max(value, self._ends[0]))

    def reset(self):
        self.setValues(*self._limits)


# Paths and choices

class ctkPathLineEdit(QtWidgets.QWidget):
    """A path with a browse button."""

    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)
    # QDir's filter bits
    Dirs, Files, Drives, NoSymLinks, Readable, Writable, Executable = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20, 0x40

    def __init__(self, parent=None):
        super().__init__(parent)
        self._line, self._button = QtWidgets.QLineEdit(self), QtWidgets.QToolButton(self)
        self._button.setText("…")
        row(self, self._line, self._button)
        self._line.textChanged.connect(lambda text: emit(self, "currentPathChanged(QString)", text))
        self._button.clicked.connect(lambda: self.browse())

    currentPath = Property(str, lambda self: self._line.text(), lambda self, path: self._line.setText(path))
    filters = stored(int, 0x1 | 0x2 | 0x4 | 0x80)
    nameFilters = stored("QStringList", ())
    label = stored(str, "")
    settingKey = stored(str, "")
    options = stored(int, 0)
    minimumContentsLength = stored(int, 0)
    showHistoryButton = stored(bool, True)
    showBrowseButton = stored(bool, True, lambda self, visible: self._button.setVisible(visible))

    def browse(self):
        from . import qt
        dialog = qt.QFileDialog.getOpenFileName if self.filters & self.Files else qt.QFileDialog.getExistingDirectory
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
        from . import qt
        path = qt.QFileDialog.getExistingDirectory(None, self.caption or self.toolTip, self._directory)
        if path:
            self._choose(path)
        return path

    directory = Property(str, lambda self: self._directory, _choose)
    caption = stored(str, "")
    text = stored(str, "", _name)
    icon = Property(QtGui.QIcon, lambda self: self._button.icon(), lambda self, icon: self._button.setIcon(icon))


class ctkComboBox(QtWidgets.QComboBox):
    defaultText = stored(str, "")
    forceDefault = stored(bool, False)
    currentUserDataAsString = Property(
        str, lambda self: str(QtWidgets.QComboBox.itemData(self, QtWidgets.QComboBox.currentIndex(self)) or ""),
        lambda self, v: QtWidgets.QComboBox.setCurrentIndex(self, QtWidgets.QComboBox.findData(self, v)))


class ctkCheckableComboBox(QtWidgets.QComboBox):
    """A combo box whose items carry check marks."""

    checkedIndexesChanged = Signal()

    def __init__(self, parent=None):
        super().__init__(parent)
        QtWidgets.QComboBox.model(self).dataChanged.connect(lambda *_: emit(self, "checkedIndexesChanged()"))

    def setCheckState(self, index, state):
        self.model().setData(index, QtCore.Qt.CheckState(state), QtCore.Qt.ItemDataRole.CheckStateRole)

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
    """A button with a check box of its own, which while it "controls the button" makes it a toggle button."""

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
        from . import qt
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
    """A text as high as it is; of a collapsible one only the first line shows until its link is clicked."""

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
        shown = first if self.collapsed else first + rest.replace("\n", "<br>" if self._break == "\n" else "\n")
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


globals().update({name: wrap(cls, name) for name, cls in list(globals().items())
                  if name.startswith("ctk") and isinstance(cls, type)})


def __getattr__(name):
    raise AttributeError(name if name.startswith("__") else f"ctk.{name} is not in the test host")
