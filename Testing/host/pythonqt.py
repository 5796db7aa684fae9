"""PythonQt's view of a Qt object, laid over PySide6.

In PythonQt (the binding inside Slicer) a Q_PROPERTY is a value, ``button.clicked.connect(f)`` and
``button.connect("clicked(bool)", f)`` both work, a slot takes as many arguments as it declares, and
a C++ object takes no new attributes. ``wrap`` derives such a class from a PySide6 class. Which name
is a value, a signal or a method, and which names PySide6 has but PythonQt (Qt 5) has not, comes
from ``pythonqt_facts.json``, recorded from real PythonQt and CTK; a class that is not in it follows
its Qt meta-object.

Objects that Qt itself creates inside a widget (the line edit of a spin box) stay plain PySide6
objects.
"""

import ctypes
import enum
import json
import re
import sys
import types
from pathlib import Path

from PySide6 import QtCore, QtGui, QtWidgets
from shiboken6 import Shiboken

from . import conversions, dialogs
from .conversions import plain

if sys.version_info < (3, 12):
    # PySide6 (6.12) gives a reference to True or False away with each signal that is written in
    # Python and carries one. From Python 3.12 on these are immortal; before, the process would
    # abort when the last one is gone.
    for constant in (True, False, None):
        ctypes.c_ssize_t.from_address(id(constant)).value += 1 << 40

FACTS_FILE = Path(__file__).with_name("pythonqt_facts.json")
KEYWORDS = {"del", "exec", "print", "raise"}
# PySide6 keeps what is handed to these; in PythonQt it goes with the last Python variable.
KEEPS_NOTHING = {"setModel", "setSelectionModel", "setItemDelegate", "setValidator", "setCompleter"}
# Shiboken looks these up on the Python class when C++ calls them: they must stay reachable.
VIRTUALS = {"metaObject", "qt_metacall", "qt_metacast", "connectNotify", "disconnectNotify"}
# PythonQt gives these a truth value (``__nonzero__``): an empty one is false. All other objects are
# true.
FALSE_IF_EMPTY = (QtWidgets.QLayout, QtWidgets.QMenu, QtGui.QTextDocument, QtCore.QTranslator)


def expand(table: dict) -> dict:
    """Give every class of a recorded table all that it inherits.

    {class: {"values", "signals", "methods"}} of sets.
    """

    def everything(name):
        entry = table[name]
        nothing = {"values": {}, "signals": set(), "methods": set()}
        found = everything(entry["inherits"]) if "inherits" in entry else nothing
        return {
            "values": {**found["values"], **entry["values"]},
            "signals": found["signals"] | set(entry["signals"]),
            "methods": found["methods"] | set(entry["methods"]),
        }

    return {name: everything(name) for name in table if name != "about"}


FACTS = expand(json.loads(FACTS_FILE.read_text()))


def wrap(base: type, name: str) -> type:
    """The class ``name`` with PythonQt semantics.

    It is made from the PySide6 (or Python-written QObject) class ``base``.
    """
    meta = base.staticMetaObject
    facts = FACTS.get(name)
    kinds = {
        its.name(): "enum" if its.isEnumType() else its.typeName()
        for its in map(meta.property, range(meta.propertyCount()))
    }
    properties = set(kinds)
    signals = {signature.split("(")[0] for signature in signatures(meta)}
    namespace = {"__doc__": f"{name} as PythonQt shows it.", "__module__": base.__module__}
    for attribute in properties:
        # A property written in Python is a value already, and shadowing it would hide it from Qt's
        # own setProperty.
        if not isinstance(_static(base, attribute), QtCore.Property) and (
            not facts or attribute in facts["values"]
        ):
            namespace[attribute] = _value(base, attribute)
    namespace["_kinds"] = kinds  # C++ types of the properties
    namespace["_signals"] = frozenset(signals & facts["signals"] if facts else signals)
    if issubclass(base, FALSE_IF_EMPTY):
        namespace["__bool__"] = lambda self: not base.isEmpty(self)
    if issubclass(base, QtWidgets.QDialog):
        namespace["exec"] = namespace["exec_"] = dialogs.execute
    namespace.update(
        {function: dialogs.static(name, function) for function in dialogs.STATIC.get(name, ())}
    )
    if facts:
        # PySide6 has one of exec and exec_, PythonQt both.
        for attribute in facts["methods"] & KEYWORDS - namespace.keys():
            for method in (getattr(base, attribute + "_", None), getattr(base, attribute, None)):
                if method is not None:
                    namespace[attribute] = namespace[attribute + "_"] = method
        for attribute in properties:  # setValue for a property value that is written in Python
            setter = f"set{attribute[0].upper()}{attribute[1:]}"
            if setter in facts["methods"] and _static(base, setter) is None:
                namespace[setter] = lambda self, value, attribute=attribute: setattr(
                    self, attribute, value
                )
        known = (
            facts["values"].keys()
            | facts["signals"]
            | facts["methods"]
            | VIRTUALS
            | namespace.keys()
        )
        slots = {bytes(meta.method(i).name().data()).decode() for i in range(meta.methodCount())}
        namespace["_hidden"] = frozenset(
            n
            for n in slots.union(dir(base)) - known
            if not n.startswith("_") and (n in slots or _is_qt_member(_static(base, n)))
        )
    return type(base)(name, (Object, base), namespace)


def signatures(meta) -> list[str]:
    """All signals of a meta-object with their argument types, first declared first."""
    methods = (meta.method(i) for i in range(meta.methodCount()))
    return [
        bytes(m.methodSignature().data()).decode()
        for m in methods
        if m.methodType() == QtCore.QMetaMethod.MethodType.Signal
    ]


def _static(cls, attribute):
    return next((vars(c)[attribute] for c in cls.__mro__ if attribute in vars(c)), None)


def _is_qt_member(member) -> bool:
    """Methods, signals and properties; not enums and nested types, which the record leaves out."""
    return member is not None and not isinstance(member, (type, enum.Enum, int, str))


def _value(base, attribute):
    reader = _static(base, attribute)
    # The C++ getter, where there is one: going through QObject.property would call it as a virtual,
    # and so this again.
    if isinstance(reader, property) or not callable(reader):
        reader = lambda self: QtCore.QObject.property(self, attribute)  # noqa: E731

    def write(self, value):
        meta = QtCore.QObject.metaObject(self)
        if not meta.property(meta.indexOfProperty(attribute)).isWritable():
            raise AttributeError(
                f"Property '{attribute}' of {self.className()} object is not writable"
            )
        if not QtCore.QObject.setProperty(self, attribute, value):
            raise AttributeError(
                f"Property '{attribute}' of {self.className()} does not accept {value!r}"
            )

    return property(lambda self: plain(reader(self)), write)


class Method:
    """A method of Qt's own, called as through PythonQt."""

    __slots__ = ("_owner", "_name", "_function")

    def __init__(self, owner, name, function):
        self._owner, self._name, self._function = owner, name, function

    def __call__(self, *given, **keywords):
        if not Shiboken.isValid(self._owner):
            raise ValueError(
                f"Trying to call '{self._name}' on a destroyed {type(self._owner).__name__} object"
            )
        _no_keywords(self._name, keywords)
        if (
            self._name in KEEPS_NOTHING
            and isinstance(given[0], QtCore.QObject)
            and given[0].parent() is None
        ):
            raise ValueError(
                f"{self._name}: in PythonQt nobody keeps a {type(given[0]).__name__} without a"
                " parent"
            )
        return conversions.tuples(self._function(*conversions.arguments(self._function, given)))


def _no_keywords(name, keywords):
    if keywords:
        raise ValueError(
            f"Called {name} with keyword arguments ({', '.join(keywords)}), which PythonQt does not"
            " know"
        )


class Object:
    """What every PythonQt object has, whatever its class."""

    def __init__(self, *arguments, **keywords):
        _no_keywords(type(self).__name__, keywords)
        super().__init__(*arguments)

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        # PySide6 finds its own connect before that of a base class written in Python, but not
        # before the class's own.
        cls.connect, cls.disconnect = Object.connect, Object.disconnect

    name = property(
        lambda self: QtCore.QObject.objectName(self),
        lambda self, value: QtCore.QObject.setObjectName(self, value),
    )

    def className(self) -> str:
        return QtCore.QObject.metaObject(self).className()

    def help(self):
        print(self.className())

    def connect(self, signal: str, *receiver) -> bool:
        """``connect("clicked(bool)", f)`` or ``connect("clicked(bool)", receiver, "slot(bool)")``.

        An unknown signal raises here; PythonQt only returns False, which nobody notices.
        """
        signature = self._signature(signal)
        return _connect(self, signature, _callable(*receiver))

    def disconnect(self, signal: str, *receiver) -> bool:
        return _disconnect(self, self._signature(signal), _callable(*receiver))

    def findChildren(self, kind, name=None, /) -> tuple:
        """All descendants of a class and, if given, with an object name.

        The class is given as class or class name.
        """
        found = []
        for child in QtCore.QObject.children(self):
            found += (
                [child, *Object.findChildren(child, kind, name)]
                if _is(child, kind, name)
                else (Object.findChildren(child, kind, name))
            )
        return tuple(found)

    def findChild(self, kind, name=None, /):
        """The first of these, nearer ones first; None if there is none."""
        children = QtCore.QObject.children(self)
        below = (Object.findChild(child, kind, name) for child in children)
        return next(
            (child for child in children if _is(child, kind, name)),
            next((child for child in below if child is not None), None),
        )

    def _signature(self, signal: str) -> str:
        # Pointers to VTK objects travel as Python objects in the signals that are written in
        # Python.
        wanted = re.sub(r"vtk\w+\s*\*", "PyObject", signal.replace(" ", ""))
        offered = signatures(QtCore.QObject.metaObject(self))
        if wanted not in offered:
            named = [s for s in offered if s.split("(")[0] == wanted.split("(")[0]]
            raise ValueError(
                f"{self.className()} has no signal '{signal}'; there is {named or sorted(offered)}"
            )
        return wanted

    def _accepted(self, attribute, value):
        """What a property becomes when a value is assigned."""
        if not Shiboken.isValid(self):
            raise AttributeError(
                f"Trying to set property '{attribute}' on a destroyed {type(self).__name__} object"
            )
        kind = type(self)._kinds.get(attribute, "")
        try:
            return conversions.to_type(value, kind)
        except conversions.Refused as error:
            raise AttributeError(
                f"Property '{attribute}' of type '{kind}' does not accept {error}"
            ) from error

    _hidden = frozenset()  # names that PySide6 has and PythonQt has not
    _signals = frozenset()
    _kinds = types.MappingProxyType({})

    def __bool__(self):
        return Shiboken.isValid(self)

    def __eq__(self, other):
        return self is other or other is None and not Shiboken.isValid(self)

    __hash__ = object.__hash__

    def __getattribute__(self, attribute):
        if (
            attribute in type(self)._signals
        ):  # PySide6 puts its own into the instance, ahead of any property
            return Signal(self, attribute)
        if attribute in type(self)._hidden:
            raise AttributeError  # __getattr__ says why
        if attribute.startswith("_"):
            return super().__getattribute__(attribute)
        if isinstance(
            _static(type(self), attribute), (property, QtCore.Property)
        ) and not Shiboken.isValid(self):
            raise ValueError(
                f"Trying to read property '{attribute}' from a destroyed {type(self).__name__}"
                " object"
            )
        found = super().__getattribute__(attribute)
        qts = isinstance(found, types.BuiltinFunctionType)
        return (
            Method(self, attribute, found)
            if qts or callable(found) and not Shiboken.isValid(self)
            else found
        )

    def __getattr__(self, attribute):
        # PythonQt's last two places to look: dynamic properties, then children by object name.
        if (
            not attribute.startswith("_")
            and attribute not in type(self)._hidden
            and Shiboken.isValid(self)
        ):
            if attribute.encode() in [
                bytes(n.data()) for n in QtCore.QObject.dynamicPropertyNames(self)
            ]:
                return plain(QtCore.QObject.property(self, attribute))
            for child in QtCore.QObject.children(self):
                if QtCore.QObject.objectName(child) == attribute:
                    return child
        if attribute in type(self)._hidden:
            where = f"is in PySide6 but not in PythonQt ({FACTS_FILE.name})"
            raise AttributeError(f"{type(self).__name__}.{attribute} {where}")
        raise AttributeError(
            f"{type(self).__name__} has no attribute '{attribute}' in the test host (PythonQt"
            " rules)"
        )

    def __setattr__(self, attribute, value):
        member = _static(type(self), attribute)
        if isinstance(member, (property, QtCore.Property)) and getattr(member, "fset", None):
            return super().__setattr__(attribute, self._accepted(attribute, value))
        if (
            member is not None
            and not isinstance(member, types.FunctionType)
            or hasattr(QtCore.QObject, attribute)
        ):
            raise AttributeError(
                f"'{attribute}' can not be overwritten on {type(self).__name__} object"
            )
        if isinstance(member, types.FunctionType) and not attribute.startswith("_"):
            raise AttributeError(
                f"Slot '{attribute}' can not be overwritten on {type(self).__name__} object"
            )
        if attribute.encode() in [
            bytes(n.data()) for n in QtCore.QObject.dynamicPropertyNames(self)
        ]:
            QtCore.QObject.setProperty(self, attribute, value)
        elif (
            attribute.startswith("_") or Object not in type(self).__bases__
        ):  # own state, or a class derived in Python
            super().__setattr__(attribute, value)
        else:
            raise AttributeError(
                f"'{attribute}' does not exist on {type(self).__name__} and creating new attributes"
                " on C++ objects is not allowed"
            )


class Signal:
    """``widget.clicked``: has connect, disconnect and emit, and emits when called."""

    def __init__(self, sender, name):
        self._sender, self._name = sender, name

    def _all(self):
        return [s for s in signatures(self._sender.metaObject()) if s.split("(")[0] == self._name]

    def connect(self, slot) -> bool:
        if not Shiboken.isValid(self._sender):
            raise SystemError(
                f"connect of '{self._name}' of a destroyed {type(self._sender).__name__} object"
            )
        return _connect(self._sender, self._all()[0], slot)

    def disconnect(self, slot=None) -> bool:
        return _disconnect(self._sender, self._all()[0], slot)

    def emit(self, *arguments):
        """Emit the first overload that takes this many arguments."""
        for signature in self._all():
            if _count(signature) == len(arguments):
                return emit(self._sender, signature, *arguments)
        raise TypeError(
            f"{self._name} takes the arguments of one of {self._all()}, {len(arguments)} given"
        )

    __call__ = emit


def emit(sender, signature: str, *arguments):
    """Emit one overload, e.g. ``emit(w, "currentNodeChanged(bool)", True)``."""
    name, types_ = signature.rstrip(")").split("(")
    for cls in type(sender).__mro__:
        if isinstance(vars(cls).get(name), QtCore.Signal):
            instance = vars(cls)[name].__get__(sender, cls)
            return (instance[tuple(types_.split(","))] if types_ else instance).emit(*arguments)
    raise AttributeError(f"{type(sender).__name__} has no signal {signature}")


def _count(signature) -> int:
    inside = signature[signature.index("(") + 1 : -1]
    return inside.count(",") + 1 if inside else 0


def _is(child, kind, name) -> bool:
    """Whether an object is of a class and, unless it is None, has a name.

    No object is of the class None.
    """
    kind = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    return child.inherits(kind) and (name is None or QtCore.QObject.objectName(child) == name)


def _callable(*receiver):
    if len(receiver) == 2:
        target, slot = receiver
        return getattr(target, slot.split("(")[0])
    if not callable(receiver[0]):
        raise TypeError(f"connect needs a callable, got {receiver[0]!r}")
    return receiver[0]


def _accepted(slot) -> int:
    """How many signal arguments PythonQt hands to a slot.

    All declared ones (defaults included), or all there are.
    """
    function = slot.__func__ if isinstance(slot, types.MethodType) else slot
    if not isinstance(function, types.FunctionType) or function.__code__.co_flags & 0x04:  # *args
        return sys.maxsize
    return function.__code__.co_argcount - isinstance(slot, types.MethodType)


def _connect(sender, signature, slot) -> bool:
    accepted, offered = _accepted(slot), _count(signature)

    def call(*arguments):
        try:
            slot(*[plain(a) for a in arguments[:accepted]])
        except Exception:  # PythonQt prints the error and goes on; the host records it as well
            sys.excepthook(*sys.exc_info())

    # PySide6 passes as many arguments as a function names, and none to *args.
    relay = [
        lambda: call(),
        lambda a: call(a),
        lambda a, b: call(a, b),
        lambda a, b, c: call(a, b, c),
        lambda a, b, c, d: call(a, b, c, d),
    ][offered]
    sender.__dict__.setdefault("_connections", []).append((signature, slot, relay))
    QtCore.QObject.connect(sender, QtCore.SIGNAL(signature), relay)
    return True


def _disconnect(sender, signature, slot=None) -> bool:
    """Disconnect one connection of ``slot``, or all of the signal's."""
    connections = sender.__dict__.get("_connections", [])
    found = [c for c in connections if c[0] == signature and (slot is None or c[1] == slot)]
    for connection in found if slot is None else found[:1]:
        connections.remove(connection)
        QtCore.QObject.disconnect(sender, QtCore.SIGNAL(signature), connection[2])
    return bool(found)
