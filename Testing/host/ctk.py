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


class ctkDoubleSpinBox(QtWidgets.QWidget):
    """A spin box in a frame; values are rounded to ``decimals`` (2 at first)."""

    valueChanged = Signal(float)
    decimalsChanged = Signal(int)
    editingFinished = Signal()

    def __init__(self, parent=None):
        super().__init__(parent)
        self._box = QtWidgets.QDoubleSpinBox(self)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._box)
        self._box.valueChanged.connect(lambda value: emit(self, "valueChanged(double)", value))
        self._box.editingFinished.connect(lambda: emit(self, "editingFinished()"))

    def _set_decimals(self, decimals):
        self._box.setDecimals(decimals)
        emit(self, "decimalsChanged(int)", decimals)

    value = Property(float, lambda self: self._box.value(), lambda self, v: self._box.setValue(v))
    minimum = Property(float, lambda self: self._box.minimum(), lambda self, v: self._box.setMinimum(v))
    maximum = Property(float, lambda self: self._box.maximum(), lambda self, v: self._box.setMaximum(v))
    singleStep = Property(float, lambda self: self._box.singleStep(), lambda self, v: self._box.setSingleStep(v))
    decimals = Property(int, lambda self: self._box.decimals(), _set_decimals)
    prefix = Property(str, lambda self: self._box.prefix(), lambda self, v: self._box.setPrefix(v))
    suffix = Property(str, lambda self: self._box.suffix(), lambda self, v: self._box.setSuffix(v))
    readOnly = Property(bool, lambda self: self._box.isReadOnly(), lambda self, v: self._box.setReadOnly(v))
    cleanText = Property(str, lambda self: self._box.cleanText())
    frame = Property(bool, lambda self: self._box.hasFrame(), lambda self, v: self._box.setFrame(v))
    invertedControls = stored(bool, False)

    def setValue(self, value):
        self._box.setValue(value)

    setValueIfDifferent = setValue

    def setDecimals(self, decimals):
        self._set_decimals(decimals)

    def setReadOnly(self, value):
        self._box.setReadOnly(value)

    def stepUp(self):
        self._box.stepUp()

    def stepDown(self):
        self._box.stepDown()


class ctkSliderWidget(QtWidgets.QWidget):
    """A slider with its spin box; values are rounded to ``decimals`` (2 at first)."""

    valueChanged = Signal(float)
    valueIsChanging = Signal(float)
    decimalsChanged = Signal(int)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal, self)
        self._slider.setMaximum(TICKS)
        self._box = QtWidgets.QDoubleSpinBox(self)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider, 1)
        layout.addWidget(self._box)
        self._slider.valueChanged.connect(self._from_slider)
        self._slider.sliderReleased.connect(self._released)
        self._box.valueChanged.connect(self._from_box)
        self._tracking = True

    def _from_slider(self, tick):
        low, high = self._box.minimum(), self._box.maximum()
        steps = round((high - low) * tick / TICKS / self._box.singleStep())
        value = min(high, low + steps * self._box.singleStep())
        if self._tracking or not self._slider.isSliderDown():
            self._box.setValue(value)
        else:
            emit(self, "valueIsChanging(double)", value)

    def _released(self):
        if not self._tracking:
            self._from_slider(self._slider.value())

    def _from_box(self, value):
        low, high = self._box.minimum(), self._box.maximum()
        self._slider.blockSignals(True)
        self._slider.setValue(round(TICKS * (value - low) / (high - low)) if high > low else 0)
        self._slider.blockSignals(False)
        emit(self, "valueIsChanging(double)", value)
        emit(self, "valueChanged(double)", value)

    def _bound(setter):
        def write(self, value):
            setter(self._box, value)
            before = self._slider.blockSignals(True)
            low, high = self._box.minimum(), self._box.maximum()
            self._slider.setValue(round(TICKS * (self._box.value() - low) / (high - low)) if high > low else 0)
            self._slider.blockSignals(before)
        return write

    def _set_decimals(self, decimals):
        self._box.setDecimals(decimals)
        emit(self, "decimalsChanged(int)", decimals)

    value = Property(float, lambda self: self._box.value(), lambda self, v: self._box.setValue(v))
    minimum = Property(float, lambda self: self._box.minimum(), _bound(QtWidgets.QDoubleSpinBox.setMinimum))
    maximum = Property(float, lambda self: self._box.maximum(), _bound(QtWidgets.QDoubleSpinBox.setMaximum))
    singleStep = Property(float, lambda self: self._box.singleStep(), lambda self, v: self._box.setSingleStep(v))
    pageStep = stored(float, 10.0)
    tickInterval = stored(float, 0.0)
    decimals = Property(int, lambda self: self._box.decimals(), _set_decimals)
    prefix = Property(str, lambda self: self._box.prefix(), lambda self, v: self._box.setPrefix(v))
    suffix = Property(str, lambda self: self._box.suffix(), lambda self, v: self._box.setSuffix(v))
    tracking = Property(bool, lambda self: self._tracking, lambda self, v: setattr(self, "_tracking", v))
    spinBoxVisible = Property(bool, lambda self: not self._box.isHidden(), lambda self, v: self._box.setVisible(v))
    popupSlider = Property(bool, lambda self: False)

    def setValue(self, value):
        self._box.setValue(value)

    def setDecimals(self, decimals):
        self._set_decimals(decimals)

    def setSpinBoxVisible(self, visible):
        self._box.setVisible(visible)

    def reset(self):
        self._box.setValue(min(max(0.0, self._box.minimum()), self._box.maximum()))


class ctkRangeWidget(QtWidgets.QWidget):
    """Two spin boxes that hold a range."""

    minimumValueChanged = Signal(float)
    maximumValueChanged = Signal(float)
    valuesChanged = Signal(float, float)
    rangeChanged = Signal(float, float)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._low, self._high = QtWidgets.QDoubleSpinBox(self), QtWidgets.QDoubleSpinBox(self)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._low)
        layout.addWidget(QtWidgets.QLabel("to", self))
        layout.addWidget(self._high)
        layout.addStretch(1)
        self._high.setValue(99.0)
        self._low.valueChanged.connect(lambda v: self._changed("minimumValueChanged(double)", v))
        self._high.valueChanged.connect(lambda v: self._changed("maximumValueChanged(double)", v))

    def _changed(self, signature, value):
        if self._low.value() > self._high.value():  # the other end gives way
            (self._high if signature.startswith("minimum") else self._low).setValue(value)
        emit(self, signature, value)
        emit(self, "valuesChanged(double,double)", self._low.value(), self._high.value())

    def _both(getter, setter):
        def write(self, value):
            setter(self._low, value)
            setter(self._high, value)
        return lambda self: getter(self._high), write

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

    _Box = QtWidgets.QDoubleSpinBox
    minimumValue = Property(float, lambda self: self._low.value(), lambda self, v: self._low.setValue(v))
    maximumValue = Property(float, lambda self: self._high.value(), lambda self, v: self._high.setValue(v))
    minimum = Property(float, *_both(_Box.minimum, _Box.setMinimum))
    maximum = Property(float, *_both(_Box.maximum, _Box.setMaximum))
    singleStep = Property(float, *_both(_Box.singleStep, _Box.setSingleStep))
    decimals = Property(int, *_both(_Box.decimals, _Box.setDecimals))
    prefix = Property(str, *_both(_Box.prefix, _Box.setPrefix))
    suffix = Property(str, *_both(_Box.suffix, _Box.setSuffix))
    tracking = stored(bool, True)


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
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._line, 1)
        layout.addWidget(self._button)
        self._line.textChanged.connect(lambda text: emit(self, "currentPathChanged(QString)", text))
        self._button.clicked.connect(lambda: self.browse())

    def _set_path(self, path):
        self._line.setText(path)

    currentPath = Property(str, lambda self: self._line.text(), _set_path)
    filters = stored(int, 0x1 | 0x2 | 0x4 | 0x80)
    nameFilters = stored("QStringList", ())
    label = stored(str, "")
    settingKey = stored(str, "")
    options = stored(int, 0)
    minimumContentsLength = stored(int, 0)
    showBrowseButton = Property(bool, lambda self: not self._button.isHidden(), lambda self, v: self._button.setVisible(v))
    showHistoryButton = stored(bool, True)

    def setCurrentPath(self, path):
        self._set_path(path)

    def browse(self):
        from . import qt
        dialog = qt.QFileDialog.getOpenFileName if self.filters & self.Files else qt.QFileDialog.getExistingDirectory
        path = dialog(None, self.label or "Select")
        if path:
            self._set_path(path)

    def addCurrentPathToHistory(self):
        from . import qt
        if self.settingKey:
            settings = qt.QSettings()
            settings.setValue(self.settingKey, [self._line.text()])

    def retrieveHistory(self):
        from . import qt
        kept = qt.QSettings().value(self.settingKey) if self.settingKey else None
        if kept:
            self._set_path(kept[0] if isinstance(kept, list) else kept)


class ctkDirectoryButton(QtWidgets.QWidget):
    directoryChanged = Signal(str)
    directorySelected = Signal(str)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._button = QtWidgets.QPushButton(self)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._button)
        self._directory = QtCore.QDir.currentPath()
        self._button.setText(self._directory)
        self._button.clicked.connect(lambda: self.browse())

    def _set_directory(self, directory):
        if directory != self._directory:
            self._directory = directory
            self._button.setText(directory)
            emit(self, "directoryChanged(QString)", directory)

    directory = Property(str, lambda self: self._directory, _set_directory)
    caption = stored(str, "")
    text = Property(str, lambda self: self._button.text(), lambda self, v: self._button.setText(v))

    def browse(self):
        from . import qt
        directory = qt.QFileDialog.getExistingDirectory(None, self.caption)
        if directory:
            self._set_directory(directory)
            emit(self, "directorySelected(QString)", directory)


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


class ctkPushButton(QtWidgets.QPushButton):
    pass


class ctkCheckablePushButton(QtWidgets.QPushButton):
    checkBoxControlsButtonToggleState = stored(bool, False)


class ctkSearchBox(QtWidgets.QLineEdit):
    showSearchIcon = stored(bool, False)


class ctkFittedTextBrowser(QtWidgets.QTextBrowser):
    collapsed = stored(bool, False)


class ctkColorPickerButton(QtWidgets.QPushButton):
    colorChanged = Signal(QtGui.QColor)

    def _set_color(self, color):
        self._color = QtGui.QColor(color)
        emit(self, "colorChanged(QColor)", self._color)

    color = Property(QtGui.QColor, lambda self: self.__dict__.get("_color", QtGui.QColor()), _set_color)

    def setColor(self, color):
        self._set_color(color)


class ctkMessageBox(QtWidgets.QMessageBox):
    dontShowAgainVisible = stored(bool, False)
    dontShowAgainSettingsKey = stored(str, "")


class _NotHere:
    """A class that Slicer's own files name; the host has no such widget."""

    def __init__(self, *_, **__):
        raise NotImplementedError(f"{type(self).__name__} is not in the test host")


def _expose():
    """Replace each class of this file by its PythonQt view."""
    from .qt import _answer
    for name, cls in list(globals().items()):
        if name.startswith("ctk") and isinstance(cls, type):
            globals()[name] = wrap(cls, name)
    globals()["ctkMessageBox"].exec = globals()["ctkMessageBox"].exec_ = _answer
    for name in ("ctkDoubleSlider", "ctkDoubleRangeSlider"):
        globals()[name] = type(name, (_NotHere,), {})


_expose()


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    raise AttributeError(f"ctk.{name} is not in the test host")
