"""The ctk widgets that Slicer's panels use, written over PySide6.

Only what the recorded PythonQt table lists can be reached (``pythonqt.wrap`` hides the rest), so helper methods may
have any name that is not in it. A ctk class that is not here raises when it is asked for.
"""
from PySide6 import QtCore, QtWidgets

from .pythonqt import emit, wrap

Property, Signal = QtCore.Property, QtCore.Signal
HEADER = 24  # pixels, of a collapsible button
TICKS = 10000  # of a slider


def stored(kind, default, apply=None):
    """A Qt property kept as ``_name``; ``apply(self, value)`` passes a new value on."""
    key = f"_stored_{stored.count}"
    stored.count += 1

    def read(self):
        return self.__dict__.get(key, default)

    def write(self, value):
        self.__dict__[key] = value
        if apply:
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


def passed_on(kind, name, *parts):
    """A property of the ``parts`` (attribute names), which they have as ``name()`` and ``setName(value)``."""
    def write(self, value):
        for part in parts:
            getattr(getattr(self, part), f"set{name[0].upper()}{name[1:]}")(value)
    return Property(kind, lambda self: getattr(getattr(self, parts[-1]), name)(), write)


def row(widget, *parts):
    """Lay parts out side by side, the first one taking the room."""
    layout = QtWidgets.QHBoxLayout(widget)
    layout.setContentsMargins(0, 0, 0, 0)
    for part in parts:
        layout.addWidget(part, int(part is parts[0]))


class Boxed(QtWidgets.QWidget):
    """What the widgets around one spin box share; values are rounded to ``decimals`` (2 at first)."""

    valueChanged = Signal(float)
    decimalsChanged = Signal(int)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._box = QtWidgets.QDoubleSpinBox(self)
        self._box.valueChanged.connect(self._changed)

    def _changed(self, value):
        emit(self, "valueChanged(double)", value)

    def _set_decimals(self, decimals):
        self._box.setDecimals(decimals)
        emit(self, "decimalsChanged(int)", decimals)

    decimals = Property(int, lambda self: self._box.decimals(), _set_decimals)
    value = passed_on(float, "value", "_box")
    singleStep = passed_on(float, "singleStep", "_box")
    prefix = passed_on(str, "prefix", "_box")
    suffix = passed_on(str, "suffix", "_box")

    def setValue(self, value):
        self._box.setValue(value)

    def setDecimals(self, decimals):
        self._set_decimals(decimals)


class ctkDoubleSpinBox(Boxed):
    """A spin box in a frame."""

    editingFinished = Signal()

    def __init__(self, parent=None):
        super().__init__(parent)
        row(self, self._box)
        self._box.editingFinished.connect(lambda: emit(self, "editingFinished()"))

    minimum = passed_on(float, "minimum", "_box")
    maximum = passed_on(float, "maximum", "_box")
    readOnly = Property(bool, lambda self: self._box.isReadOnly(), lambda self, v: self._box.setReadOnly(v))
    cleanText = Property(str, lambda self: self._box.cleanText())


class ctkSliderWidget(Boxed):
    """A slider with its spin box."""

    valueIsChanging = Signal(float)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal, self)
        self._slider.setMaximum(TICKS)
        row(self, self._slider, self._box)
        self._slider.valueChanged.connect(self._slid)
        self._slider.sliderReleased.connect(lambda: self.tracking or self._slid(self._slider.value()))

    def _slid(self, tick):
        low, high, step = self._box.minimum(), self._box.maximum(), self._box.singleStep()
        value = min(high, low + step * round((high - low) * tick / TICKS / step))
        if self.tracking or not self._slider.isSliderDown():
            self._box.setValue(value)
        else:
            emit(self, "valueIsChanging(double)", value)

    def _place(self):
        low, high = self._box.minimum(), self._box.maximum()
        self._slider.blockSignals(True)
        self._slider.setValue(round(TICKS * (self._box.value() - low) / (high - low)) if high > low else 0)
        self._slider.blockSignals(False)

    def _changed(self, value):
        self._place()
        emit(self, "valueIsChanging(double)", value)
        emit(self, "valueChanged(double)", value)

    def _set_minimum(self, value):
        self._box.setMinimum(value)
        self._place()

    def _set_maximum(self, value):
        self._box.setMaximum(value)
        self._place()

    minimum = Property(float, lambda self: self._box.minimum(), _set_minimum)
    maximum = Property(float, lambda self: self._box.maximum(), _set_maximum)
    pageStep = stored(float, 10.0)
    tickInterval = stored(float, 0.0)
    tracking = stored(bool, True)
    spinBoxVisible = Property(bool, lambda self: not self._box.isHidden(), lambda self, v: self._box.setVisible(v))

    def setSpinBoxVisible(self, visible):
        self._box.setVisible(visible)


class ctkRangeWidget(QtWidgets.QWidget):
    """Two spin boxes that hold a range."""

    minimumValueChanged = Signal(float)
    maximumValueChanged = Signal(float)
    valuesChanged = Signal(float, float)
    rangeChanged = Signal(float, float)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._low, self._high = QtWidgets.QDoubleSpinBox(self), QtWidgets.QDoubleSpinBox(self)
        row(self, self._low, QtWidgets.QLabel("to", self), self._high)
        self._high.setValue(99.0)
        self._low.valueChanged.connect(lambda value: self._changed("minimumValueChanged(double)", value))
        self._high.valueChanged.connect(lambda value: self._changed("maximumValueChanged(double)", value))

    def _changed(self, signature, value):
        if self._low.value() > self._high.value():  # the other end gives way
            (self._high if signature.startswith("minimum") else self._low).setValue(value)
        emit(self, signature, value)
        emit(self, "valuesChanged(double,double)", self._low.value(), self._high.value())

    def setRange(self, minimum, maximum):
        self._low.setRange(minimum, maximum)
        self._high.setRange(minimum, maximum)
        emit(self, "rangeChanged(double,double)", minimum, maximum)

    def setValues(self, low, high):
        self._high.setValue(high)
        self._low.setValue(low)

    def setMinimumValue(self, value):
        self._low.setValue(value)

    def setMaximumValue(self, value):
        self._high.setValue(value)

    minimumValue = Property(float, lambda self: self._low.value(), setMinimumValue)
    maximumValue = Property(float, lambda self: self._high.value(), setMaximumValue)
    minimum = passed_on(float, "minimum", "_low", "_high")
    maximum = passed_on(float, "maximum", "_low", "_high")
    singleStep = passed_on(float, "singleStep", "_low", "_high")
    decimals = passed_on(int, "decimals", "_low", "_high")
    prefix = passed_on(str, "prefix", "_low", "_high")
    suffix = passed_on(str, "suffix", "_low", "_high")


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

    def setCurrentPath(self, path):
        self._line.setText(path)

    currentPath = Property(str, lambda self: self._line.text(), setCurrentPath)
    filters = stored(int, 0x1 | 0x2 | 0x4 | 0x80)
    nameFilters = stored("QStringList", ())
    label = stored(str, "")
    settingKey = stored(str, "")
    options = stored(int, 0)
    minimumContentsLength = stored(int, 0)
    showHistoryButton = stored(bool, True)

    def _show_button(self, visible):
        self._button.setVisible(visible)

    showBrowseButton = Property(bool, lambda self: not self._button.isHidden(), _show_button)

    def browse(self):
        from . import qt
        dialog = qt.QFileDialog.getOpenFileName if self.filters & self.Files else qt.QFileDialog.getExistingDirectory
        path = dialog(None, self.label or "Select")
        if path:
            self._line.setText(path)


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


class ctkCheckBox(QtWidgets.QCheckBox):
    pass


class ctkMessageBox(QtWidgets.QMessageBox):
    dontShowAgainVisible = stored(bool, False)
    dontShowAgainSettingsKey = stored(str, "")


class NotHere:
    """A class that Slicer's own files name; the host has no such widget."""

    def __init__(self, *_, **__):
        raise NotImplementedError(f"{type(self).__name__} is not in the test host")


NAMED_ONLY = ("ctkDoubleSlider", "ctkDoubleRangeSlider", "ctkDirectoryButton", "ctkColorPickerButton",
              "ctkCheckablePushButton")
globals().update({name: wrap(cls, name) for name, cls in list(globals().items())
                  if name.startswith("ctk") and isinstance(cls, type)})
globals().update({name: type(name, (NotHere,), {}) for name in NAMED_ONLY})


def __getattr__(name):
    raise AttributeError(name if name.startswith("__") else f"ctk.{name} is not in the test host")
