"""What the widgets that are written here are made with."""

from PySide6 import QtCore, QtWidgets

Property, Signal = QtCore.Property, QtCore.Signal


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


def row(widget, *parts, down=False):
    """Lay parts out side by side (or one below the other), the first one taking the room."""
    layout = (QtWidgets.QVBoxLayout if down else QtWidgets.QHBoxLayout)(widget)
    layout.setContentsMargins(0, 0, 0, 0)
    for part in parts:
        layout.addWidget(part, int(part is parts[0]))
