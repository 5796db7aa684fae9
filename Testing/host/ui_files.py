"""``qt.QUiLoader``: .ui files read into the host's classes, strictly."""

import re
import xml.etree.ElementTree as ElementTree

from PySide6 import QtCore, QtUiTools, QtWidgets

from . import ctk, mrml_widgets, qt
from .pythonqt import Object


class QUiLoader:
    """Reads a .ui file into the host's classes; unknown classes, wrong connections are errors."""

    def load(self, file, parent=None):
        text = bytes(file.readAll().data()).decode()
        tree = ElementTree.fromstring(text)
        self._problems = []
        later = _take_out(tree)
        loader = _Loader(self._problems)
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(tree))
        buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        widget = loader.load(buffer, parent)
        if self._problems or widget is None:
            raise RuntimeError(f"Could not load UI file: {self._problems or loader.errorString()}")
        below = QtCore.QObject.findChildren(widget, QtCore.QObject)
        named = {
            w.objectName: w for w in [widget, *below] if isinstance(w, Object) and w.objectName
        }
        for name, attribute, value in later["properties"]:
            setattr(named[name], attribute, _enum(type(named[name]), value))
        for sender, signal, receiver, slot in later["connections"]:
            named[sender].connect(signal, named[receiver], slot)
        return widget


def _take_out(tree) -> dict:
    """Remove from a .ui tree what Qt's loader can not do with classes written in Python.

    These are connections and enums.
    """
    later = {"properties": [], "connections": []}
    for connection in tree.findall("./connections/connection"):
        later["connections"].append(
            [connection.findtext(k) for k in ("sender", "signal", "receiver", "slot")]
        )
    for connections in tree.findall("./connections"):
        tree.remove(connections)
    for widget in tree.iter("widget"):
        for prop in widget.findall("property"):
            value = prop.find("enum") if prop.find("enum") is not None else prop.find("set")
            if value is not None and re.match("ctk|qMRML|qSlicer", value.text or ""):
                later["properties"].append((widget.get("name"), prop.get("name"), value.text))
                widget.remove(prop)
    return later


def _enum(cls, text):
    value = 0
    for member in filter(None, text.split("|")):
        value |= int(getattr(cls, member.split("::")[-1]))
    return value


def find_class(name):
    """The host's class for a class name in a .ui file."""
    if name.startswith("ctk"):
        return getattr(ctk, name)
    if name.startswith(("qMRML", "qSlicer")):
        return getattr(mrml_widgets, name)
    return getattr(qt, name)


class _Loader(QtUiTools.QUiLoader):
    def __init__(self, problems):
        super().__init__()
        self._problems = problems

    def _create(self, name, parent, objectName):
        try:
            made = find_class(name)(parent) if parent is not None else find_class(name)()
            made.setObjectName(objectName)
            return made
        except Exception as error:  # an exception can not pass through Qt: load() reports it
            self._problems.append(f"{name} '{objectName}': {error}")
            return None

    def createWidget(self, className, parent=None, name=""):
        return self._create("QFrame" if className == "Line" else className, parent, name)

    def createLayout(self, className, parent=None, name=""):
        made = self._create(className, None, name)
        if isinstance(parent, QtWidgets.QWidget) and parent.layout() is None:
            parent.setLayout(made)
        return made

    def createAction(self, parent=None, name=""):
        return self._create("QAction", parent, name)
