"""The module ``qt`` as Slicer has it: every Qt class under one name, with PythonQt semantics.

Classes are made on first use; ``QUiLoader`` stands in ui_files.py. ``qt.dialogs`` and
``qt.replies`` are the host's own: see dialogs.py.
"""

from PySide6 import QtCore, QtGui, QtWidgets

from . import dialogs as modal
from .pythonqt import wrap

dialogs, replies = modal.shown, modal.replies


def __getattr__(name):
    for module in (QtWidgets, QtGui, QtCore):
        base = getattr(module, name, None)
        if base is not None:
            made = _make(base, name)
            globals()[name] = made
            return made
    if name.startswith("__"):
        raise AttributeError(name)
    raise AttributeError(f"qt.{name} is not in the test host (PySide6 has no such class)")


def _make(base, name):
    if not (isinstance(base, type) and issubclass(base, QtCore.QObject)):
        # Functions, enums and value classes (QSize, ...) have the same methods in both bindings.
        return base
    made = wrap(base, name)
    if issubclass(base, QtWidgets.QMenu):
        made.__init__ = lambda self, first=None, *rest: base.__init__(
            self, _text_or_widget(first), *rest
        )
    if issubclass(base, QtCore.QThread):
        raise NotImplementedError(
            "qt.QThread is not in the test host: Python code must not run in a QThread in Slicer"
        )
    return made


def _text_or_widget(argument):
    """PythonQt takes any object where a text is expected.

    Slicer's developer section makes its menu that way.
    """
    return (
        argument
        if argument is None or isinstance(argument, (str, QtWidgets.QWidget))
        else str(argument)
    )
