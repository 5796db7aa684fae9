"""The ctk widgets for numbers.

As in CTK they stay exact: decimals round what is shown and typed, single steps what is dragged. A
step that is wider than the range is not taken.
"""

import sys

from PySide6 import QtCore, QtWidgets

from .parts import Property, Signal, row, stored
from .pythonqt import emit

TICKS = 10000  # of a slider


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
    """What widgets for numbers share.

    These are limits, step, and how their spin boxes (``_boxes``) write numbers.
    """

    def __init__(self, parent, limits, *parts):
        super().__init__(parent)
        self._limits, self._parts = limits, [part(self) for part in parts]
        self._boxes = [part for part in self._parts if isinstance(part, QtWidgets.QDoubleSpinBox)]
        for part in self._parts:
            part.valueChanged.connect(lambda _, part=part: self._by_user(part))

    def _set_limits(self, low, high):
        before, self._limits = self._limits, (min(low, high), max(low, high))
        self._keep_within()  # the value tells first
        if self._limits != before and hasattr(self, "rangeChanged"):
            emit(self, "rangeChanged(double,double)", *self._limits)

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

    minimum = Property(
        float,
        lambda self: self._limits[0],
        lambda self, value: self._set_limits(value, max(value, self._limits[1])),
    )
    maximum = Property(
        float,
        lambda self: self._limits[1],
        lambda self, value: self._set_limits(min(value, self._limits[0]), value),
    )

    def _set_step(self, step, to_boxes=_to_boxes("setSingleStep")):
        low, high = self._limits
        alone = len(self._boxes) == len(self._parts) == 1
        if not alone and low < high and not 0 < step <= high - low:
            print(
                f"{self.className()}: a single step of {step} is out of the bounds {low} to {high}",
                file=sys.stderr,
            )
            return
        self._step = step
        to_boxes(self, step)

    singleStep = Property(float, lambda self: vars(self).get("_step", 1.0), _set_step)
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
            self._tell()

    def _tell(self):
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

    sliderPosition = Property(
        float,
        lambda self: given(self._parts[0], self._limits, self.singleStep),
        lambda self, value: self.setValue(value),
    )
    orientation = stored(
        int, 1, lambda self, value: self._parts[0].setOrientation(QtCore.Qt.Orientation(value))
    )
    pageStep = stored(float, 10.0)


class ctkSliderWidget(Number):
    """A slider with its spin box.

    New decimals tell the value again; without tracking, each change tells that it is changing
    before it tells the value.
    """

    valueIsChanging = Signal(float)
    decimalsChanged = Signal(int)

    def __init__(self, parent=None):
        super().__init__(parent, (0.0, 99.99), slider, QtWidgets.QDoubleSpinBox)
        self._decimals = 2
        row(self, *self._parts)
        self._parts[0].sliderReleased.connect(self._released)

    def _by_user(self, part):
        if self.tracking or not self._parts[0].isSliderDown():
            super()._by_user(part)
        else:
            emit(self, "valueIsChanging(double)", given(part, self._limits, self.singleStep))

    def _released(self):
        before, self._value = self._value, given(self._parts[0], self._limits, self.singleStep)
        self._show()
        if self._value != before:
            emit(self, "valueChanged(double)", self._value)

    def _tell(self):
        if not self.tracking:
            emit(self, "valueIsChanging(double)", self._value)
        super()._tell()

    def _set_decimals(self, decimals):
        changed, self._decimals = decimals != self._decimals, decimals
        self._boxes[0].blockSignals(True)
        self._boxes[0].setDecimals(decimals)
        self._boxes[0].blockSignals(False)
        self._show()
        for _ in range(1 + changed):  # its spin box tells it the same once more
            self._tell()
            emit(self, "decimalsChanged(int)", decimals)

    def reset(self):
        self.setValue(0.0)

    decimals = Property(int, lambda self: self._decimals, _set_decimals)
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
        self._ends = tuple(
            min(max(value, self._limits[0]), self._limits[1]) for value in sorted((low, high))
        )
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

    minimumValue = Property(
        float, lambda self: self._ends[0], lambda self, value: self.setMinimumValue(value)
    )
    maximumValue = Property(
        float, lambda self: self._ends[1], lambda self, value: self.setMaximumValue(value)
    )


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
