"""How PythonQt takes Python's values into Qt, and gives Qt's to Python.

Its PythonQtConversion.cpp says so.

Qt's own conversions, and so PySide6's, differ: they round where PythonQt rounds down, read numbers
in texts that PythonQt does not take, and leave a text empty where PythonQt writes the word "None".
What PythonQt would do wrong in silence is an error here.
"""

import enum
import math
from typing import Any, get_args

from PySide6 import QtCore
from shibokensupport.signature import get_signature

WHOLE = {"int", "uint", "long", "ulong", "short", "ushort", "qlonglong", "qulonglong"}
REAL = {"double", "float"}


class Refused(ValueError):
    """PythonQt takes no such value, or makes nonsense of it."""


# From Qt


def tuples(value):
    """A value of Qt's as PythonQt hands it out: lists as tuples."""
    if isinstance(value, dict):
        return {key: tuples(inner) for key, inner in value.items()}
    return tuple(tuples(inner) for inner in value) if isinstance(value, (list, tuple)) else value


def plain(value):
    """The same of a property or a signal's argument, where enums come as int."""
    return int(value.value) if isinstance(value, enum.Enum) else tuples(value)


# To Qt


def to_type(value, kind: str):
    """What a property of the C++ type ``kind`` becomes when ``value`` is assigned.

    ``Refused`` if PythonQt cannot.
    """
    if kind == "bool":
        return bool(value)
    if kind in WHOLE:
        return whole(value)
    if kind in REAL:
        return _real(value)
    if kind == "QString":
        return text(value)
    if kind == "enum":
        return enumerated(value)
    if kind == "QStringList":
        return [text(inner) for inner in value]
    if value is None:
        raise Refused("None")
    return value


def whole(value) -> int:
    """An int; a float is rounded down.

    Any other number without __index__ (numpy's floats) is refused.
    """
    if type(value) is float:
        return math.floor(value)
    value = value.value if isinstance(value, enum.Enum) else value
    if not hasattr(value, "__index__"):
        raise Refused(f"{value!r}, which is no whole number")
    return value.__index__()


def _real(value) -> float:
    value = value.value if isinstance(value, enum.Enum) else value
    if not hasattr(value, "__float__") and not hasattr(value, "__index__"):
        raise Refused(f"{value!r}, which is no number")
    return float(value)


def enumerated(value):
    """A value for an enum: a member, an int, or a member's name.

    PythonQt does not count True among the ints.
    """
    names = isinstance(value, str) and not value.lstrip("-").isdigit()
    if not (names or isinstance(value, (int, enum.Enum)) and not isinstance(value, bool)):
        raise Refused(f"{value!r}, which is no value of an enum")
    if isinstance(value, int) and abs(value) >= 1 << 31:
        raise Refused(f"{value!r}, which is too large")
    return int(value) if isinstance(value, int) else value


def text(value) -> str:
    if value is None:
        raise Refused("None, for which PythonQt writes the word 'None'")
    return str(value)


def to_variant(value):
    """What is kept of a value in a QVariant: an item's data, a setting, a dynamic property."""
    if isinstance(value, dict):
        return {str(key): to_variant(inner) for key, inner in value.items()}
    if isinstance(value, bytes):
        return QtCore.QByteArray(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    kept = isinstance(value, (str, type)) or type(value).__module__.startswith("PySide6")
    return (
        value
        if kept or not hasattr(value, "__getitem__")
        else [to_variant(inner) for inner in value]
    )


def arguments(method, given: tuple) -> list:
    """The arguments of a Qt method as PythonQt converts them; ``Refused`` if it cannot."""
    if all(type(value) in (str, int, bool) for value in given):
        return given
    return [_argument(_kinds(method, place), value) for place, value in enumerate(given)]


def _argument(kinds: set, value):
    """An argument where a method's overloads take these types."""
    if Any in kinds:
        return to_variant(value)
    if value is None:
        return value if str not in kinds or any(map(_takes_none, kinds)) else text(value)
    numeric = hasattr(value, "__float__") and not isinstance(value, bool)
    return whole(value) if numeric and kinds == {int} else value


def _takes_none(kind) -> bool:
    return (
        type(None) in get_args(kind) or isinstance(kind, type) and issubclass(kind, QtCore.QObject)
    )


def _kinds(method, place: int) -> set:
    """The types that a method's overloads take at a place."""
    if method.__name__ == "setProperty":  # has no signature in PySide6
        return {Any}
    signatures = get_signature(method)
    signatures = signatures if isinstance(signatures, list) else [signatures] if signatures else []
    taken = [[p for p in s.parameters.values() if p.name != "self"] for s in signatures]
    return {parameters[place].annotation for parameters in taken if place < len(parameters)}
