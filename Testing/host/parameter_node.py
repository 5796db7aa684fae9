"""``slicer.parameterNodeWrapper``: typed attributes over a parameter node.

The node is a ``vtkMRMLScriptedModuleNode``; the attributes are bound to widgets.

Values are written as Slicer writes them (numbers and strings by ``str``, bool as "True"/"False", an
enum by its member name, a node as a node reference beside an empty parameter, a union under
``name.<index>``), so that a scene saved here is read by Slicer and the other way round. Types: str,
int, float, bool, Enum, pathlib.Path, MRML nodes, and unions of them (``Optional``). Other types
(lists, packs, ranges) raise NotImplementedError.
"""

import enum
import logging
import pathlib
import types
import typing
import weakref
from dataclasses import dataclass

import ctk
import qt
import slicer
import vtk

__all__ = [
    "parameterNodeWrapper",
    "isParameterNodeWrapper",
    "Default",
    "Decimals",
    "SingleStep",
    "NotNone",
    "WithinRange",
    "Minimum",
    "Maximum",
    "Choice",
    "Exclude",
    "Validator",
    "SlicerParameterNamePropertyName",
]

SlicerParameterNamePropertyName = "SlicerParameterName"


# Annotations


@dataclass
class Default:
    value: object = None


@dataclass
class Decimals:
    value: int


@dataclass
class SingleStep:
    value: float


class Validator:
    def validate(self, value):
        raise NotImplementedError


class NotNone(Validator):
    def validate(self, value):
        if value is None:
            raise ValueError("Value must not be None")


@dataclass
class WithinRange(Validator):
    minimum: float
    maximum: float

    def validate(self, value):
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{value} is not within [{self.minimum}, {self.maximum}]")


@dataclass
class Minimum(Validator):
    minimum: float

    def validate(self, value):
        if value < self.minimum:
            raise ValueError(f"{value} is less than {self.minimum}")


@dataclass
class Maximum(Validator):
    maximum: float

    def validate(self, value):
        if value > self.maximum:
            raise ValueError(f"{value} is greater than {self.maximum}")


@dataclass
class Choice(Validator):
    choices: list

    def validate(self, value):
        if value not in self.choices:
            raise ValueError(f"{value!r} is not one of {self.choices}")


@dataclass
class Exclude(Validator):
    excludedValues: list

    def validate(self, value):
        if value in self.excludedValues:
            raise ValueError(f"{value!r} is excluded")


# How each type is written


class _Parameter:
    """One value in a parameter node: ``accepts`` a Python value, ``read``s and ``write``s it."""

    def __init__(self, kind):
        self.kind, self.validators = kind, []

    def check(self, value):
        allowed = (int, float) if self.kind is float else self.kind
        if value is None or not isinstance(value, allowed):
            raise TypeError(f"Value must be of type {self.kind.__name__}, got {value!r}")
        for validator in self.validators:
            validator.validate(value)

    def default(self):
        return self.kind()

    def present(self, node, name):
        return node.HasParameter(name)

    def write(self, node, name, value):
        node.SetParameter(name, str(value))

    def read(self, node, name):
        return self.kind(node.GetParameter(name))

    def remove(self, node, name):
        node.UnsetParameter(name)


class _Bool(_Parameter):
    def read(self, node, name):
        return node.GetParameter(name) == "True"


class _Enum(_Parameter):
    def default(self):
        return next(iter(self.kind))

    def write(self, node, name, value):
        node.SetParameter(name, value.name)

    def read(self, node, name):
        text = node.GetParameter(name)
        if text not in self.kind.__members__:
            raise ValueError(
                f"Found {text!r} in parameter node but it is not a name in {self.kind!r}"
            )
        return self.kind[text]


class _Node(_Parameter):
    def check(self, value):
        if value is not None:
            super().check(value)

    def default(self):
        return None

    def write(self, node, name, value):
        node.SetParameter(name, "")
        node.SetNodeReferenceID(name, value.GetID() if value is not None else None)

    def read(self, node, name):
        return node.GetNodeReference(name)

    def remove(self, node, name):
        node.UnsetParameter(name)
        node.RemoveNodeReferenceIDs(name)


class _None(_Parameter):
    def check(self, value):
        if value is not None:
            raise TypeError(f"Value must be None, got {value!r}")

    def default(self):
        return None

    def write(self, node, name, value):
        node.SetParameter(name, "True")

    def read(self, node, name):
        return None


class _Union(_Parameter):
    def __init__(self, kind, members):
        super().__init__(kind)
        self.members = members

    def _chosen(self, value):
        problems = []
        for index, member in enumerate(self.members):
            if (
                value is None
                and not isinstance(member, _None)
                and any(isinstance(m, _None) for m in self.members)
            ):
                continue
            try:
                member.check(value)
                return index
            except (TypeError, ValueError) as problem:
                problems.append(str(problem))
        raise TypeError("; ".join(problems))

    def check(self, value):
        self._chosen(value)
        for validator in self.validators:
            validator.validate(value)

    def default(self):
        optional = len(self.members) == 2 and isinstance(self.members[1], _None)
        return None if optional else self.members[0].default()

    def _present(self, node, name):
        return next((i for i, m in enumerate(self.members) if m.present(node, f"{name}.{i}")), None)

    def present(self, node, name):
        return self._present(node, name) is not None

    def write(self, node, name, value):
        self.remove(node, name)
        index = self._chosen(value)
        self.members[index].write(node, f"{name}.{index}", value)

    def read(self, node, name):
        index = self._present(node, name)
        return self.members[index].read(node, f"{name}.{index}")

    def remove(self, node, name):
        for index, member in enumerate(self.members):
            member.remove(node, f"{name}.{index}")


def _split(hint):
    """A type hint as (type, annotations)."""
    arguments = typing.get_args(typing.Annotated[hint, None])
    return arguments[0], arguments[1:-1]


def _tell_unused(hint, used):
    """Log the annotations that Slicer's wrapper has no use for itself.

    Widgets are set up by them all the same; a Default beside a value that is assigned is one of
    them.
    """
    unused = [a for a in _split(hint)[1] if not isinstance(a, used)]
    if unused:
        logging.warning(f"Unused annotations: {unused}")


def _parameter(hint):
    kind, annotations = _split(hint)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        members = typing.get_args(kind)
        for member in members:
            _tell_unused(member, Validator)
        made = _Union(kind, [_parameter(member) for member in members])
    else:
        made = _maker(kind)(kind)
    made.validators = [a for a in annotations if isinstance(a, Validator)]
    return made


def _maker(kind):
    if isinstance(kind, type):
        for base, maker in (
            (bool, _Bool),
            (enum.Enum, _Enum),
            (slicer.vtkMRMLNode, _Node),
            (type(None), _None),
        ):
            if issubclass(kind, base):
                return maker
        if kind in (int, float, str, pathlib.Path):
            return _Parameter
    raise NotImplementedError(f"The test host's parameterNodeWrapper has no type {kind}")


# The wrapper


def parameterNodeWrapper(cls=None):
    """Class decorator: each annotated attribute becomes a value of the parameter node.

    The node is given to the constructor.
    """
    return _process if cls is None else _process(cls)


def isParameterNodeWrapper(class_or_object):
    return hasattr(class_or_object, "_hints")


def _process(cls):
    hints = typing.get_type_hints(cls, include_extras=True)
    parameters, defaults = {}, {}
    for name, hint in hints.items():
        parameter = parameters[name] = _parameter(hint)
        annotated = [a.value for a in _split(hint)[1] if isinstance(a, Default)]
        _tell_unused(hint, (Validator,) if hasattr(cls, name) else (Validator, Default))
        defaults[name] = (
            getattr(cls, name) if hasattr(cls, name) else (annotated or [parameter.default()])[0]
        )
        setattr(
            cls,
            name,
            property(
                lambda self, name=name: self.getValue(name),
                lambda self, value, name=name: self.setValue(name, value),
            ),
        )
    members = {k: v for k, v in vars(_Wrapper).items() if not k.startswith("__") or k == "__init__"}
    for name, member in members.items():
        if name in hints:
            raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
        setattr(cls, name, member)
    cls._hints, cls._parameters, cls._defaults = hints, parameters, defaults
    return cls


class _Kept:
    """One value of a wrapper.

    As in Slicer it is what was read at the node's last change: a reference to a node that comes
    into the scene only later is None until the next one. As there, each has an observer of the node
    of its own, which goes when the wrapper does.
    """

    def __init__(self, parameter, default, node, name):
        self._parameter, self._default, self._node, self._name = parameter, default, node, name
        self._writing = False
        self._read()
        kept = weakref.ref(self)
        self._tag = node.AddObserver(
            vtk.vtkCommand.ModifiedEvent, lambda *_: kept() and kept()._modified()
        )

    def __del__(self):
        if hasattr(self, "_tag"):  # else its first value could not be read
            self._node.RemoveObserver(self._tag)

    def _modified(self):
        if not self._writing:
            self._read()

    def _read(self):
        if not self._parameter.present(self._node, self._name):
            self._parameter.write(self._node, self._name, self._default)
        self.value = self._parameter.read(self._node, self._name)

    def write(self, value):
        self._parameter.check(value)
        self._writing = True
        try:
            with slicer.util.NodeModify(self._node):
                self._parameter.write(self._node, self._name, value)
                self.value = self._parameter.read(self._node, self._name)
        finally:
            self._writing = False


class _Wrapper:
    """The members that ``parameterNodeWrapper`` adds to a class.

    Every one that is made observes the node anew.
    """

    def __init__(self, parameterNode):
        self.parameterNode = parameterNode
        self._guis, self._updating, self._kept = {}, False, {}
        for name, parameter in self._parameters.items():
            self._kept[name] = _Kept(parameter, self._defaults[name], parameterNode, name)

    def getValue(self, name):
        return self._kept[name].value

    def setValue(self, name, value):
        self._kept[name].write(value)

    def default(self, name):
        return Default(self._defaults[name])

    def dataType(self, name):
        return self._hints[name]

    def connectGui(self, gui):
        """Bind every widget whose property SlicerParameterName names a parameter.

        The property is a dynamic one. Returns a tag.
        """
        widgets = (
            gui.findChildren(qt.QWidget) if hasattr(gui, "isWidgetType") else gui.__dict__.values()
        )
        named = ((w.property(SlicerParameterNamePropertyName), w) for w in widgets)
        return self.connectParametersToGui({name: widget for name, widget in named if name})

    def connectParametersToGui(self, mapping):
        unknown = set(mapping) - set(self._parameters)
        if unknown:
            raise ValueError(
                f"Cannot find a param with the given name: {sorted(unknown)} in"
                f" {list(self._parameters)}"
            )
        bindings = {name: _bind(widget, self._hints[name]) for name, widget in mapping.items()}
        slots = []
        for name, (signal, read, write) in bindings.items():
            write(self.getValue(name))
            slot = self._reader(name, read)
            if signal is not None:
                signal.connect(slot)
            slots.append((signal, slot))
        tag = len(self._guis)
        observer = self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._updateGui())
        self._guis[tag] = (bindings, slots, observer)
        return tag

    def _reader(self, name, read):
        def changed():
            if not self._updating:
                self.setValue(name, read())

        return changed

    def _updateGui(self):
        if self._updating:
            return
        self._updating = True
        try:
            with slicer.util.NodeModify(self.parameterNode):
                for bindings, _, _ in self._guis.values():
                    for name, (_, _, write) in (bindings or {}).items():
                        write(self.getValue(name))
        finally:
            self._updating = False

    def disconnectGui(self, tag):
        bindings, slots, observer = self._guis.get(tag, (None, [], None))
        for signal, slot in slots:
            if signal is not None:
                signal.disconnect(slot)
        if observer is not None:
            self.RemoveObserver(observer)
        if tag in self._guis:
            self._guis[tag] = (None, [], None)

    def StartModify(self):
        return self.parameterNode.StartModify()

    def EndModify(self, wasModified):
        return self.parameterNode.EndModify(wasModified)

    def AddObserver(self, event, callback, priority=0.0):
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag):
        self.parameterNode.RemoveObserver(tag)

    def Modified(self):
        self.parameterNode.Modified()


# Widgets: each binding is (signal or None, read(), write(value)). As in Slicer, only exact classes
# are known.


def _bind(widget, hint):
    kind, annotations = _split(hint)
    for classes, accepts, bind in _BINDINGS:
        if type(widget) in classes and accepts(kind):
            return bind(widget, kind, annotations)
    raise RuntimeError(
        f"Unable to create GUI connector from datatype '{hint}' to widget type '{type(widget)}'."
    )


def _first(annotations, kind):
    return next((a for a in annotations if isinstance(a, kind)), None)


def _property(signal, attribute):
    def bind(widget, kind, annotations):
        def write(value):
            value = str(value) if isinstance(value, pathlib.PurePath) else value
            if (
                getattr(widget, attribute) != value
            ):  # writing the same text again would move the cursor
                setattr(widget, attribute, value)

        return (
            getattr(widget, signal) if signal else None,
            lambda: kind(getattr(widget, attribute)),
            write,
        )

    return bind


def _number(widget, kind, annotations):
    if type(widget) not in (qt.QSlider, qt.QSpinBox, ctk.ctkDoubleSlider):
        decimals = _first(annotations, Decimals)
        if kind is int or decimals:
            widget.decimals = 0 if kind is int else decimals.value
    step, within = _first(annotations, SingleStep), _first(annotations, WithinRange)
    low, high = _first(annotations, Minimum), _first(annotations, Maximum)
    if step:
        widget.singleStep = step.value
    if type(widget) in (qt.QSlider, ctk.ctkSliderWidget) and not (within or low and high):
        raise RuntimeError(f"Cannot connect an unbounded number to a {type(widget).__name__}")
    widest = 2**31 - 1 if type(widget) in (qt.QSlider, qt.QSpinBox) else float("inf")
    widget.minimum = within.minimum if within else low.minimum if low else -widest
    widget.maximum = within.maximum if within else high.maximum if high else widest
    return _property("valueChanged", "value")(widget, kind, annotations)


def _choices(widget, labels, values):
    widget.clear()
    for label in labels:
        widget.addItem(label)

    def write(value):
        widget.currentIndex = values.index(value)

    return widget.currentIndexChanged, lambda: values[widget.currentIndex], write


def _choice(widget, kind, annotations):
    choice = _first(annotations, Choice)
    if choice is None:
        raise RuntimeError("A combo box needs the Choice annotation.")
    return _choices(widget, [str(c) for c in choice.choices], list(choice.choices))


def _enum_choice(widget, kind, annotations):
    label = getattr(kind, "label", lambda member: member.name)
    return _choices(widget, [label(member) for member in kind], list(kind))


def _text_edit(widget, kind, annotations):
    return widget.textChanged, widget.toPlainText, widget.setPlainText


def _node_selector(widget, kind, annotations):
    kinds = [k for k in typing.get_args(kind) or (kind,) if k is not type(None)]
    widget.nodeTypes = tuple(_split(k)[0]().GetClassName() for k in kinds)
    return widget.currentNodeChanged, widget.currentNode, widget.setCurrentNode


def _is(*kinds):
    return lambda kind: kind in kinds


def _is_enum(kind):
    return isinstance(kind, type) and issubclass(kind, enum.Enum)


def _is_node(kind):
    return all(
        isinstance(k, type) and issubclass(k, (slicer.vtkMRMLNode, type(None)))
        for k in (_split(k)[0] for k in typing.get_args(kind) or (kind,))
    )


_BINDINGS = [
    ((qt.QCheckBox, ctk.ctkCheckBox), _is(bool), _property("stateChanged", "checked")),
    ((qt.QPushButton,), _is(bool), _property("toggled", "checked")),
    ((qt.QSlider, qt.QSpinBox), _is(int), _number),
    (
        (qt.QDoubleSpinBox, ctk.ctkSliderWidget, ctk.ctkDoubleSlider, ctk.ctkDoubleSpinBox),
        _is(int, float),
        _number,
    ),
    ((qt.QComboBox, ctk.ctkComboBox), _is(int, float, str, bool), _choice),
    ((qt.QComboBox, ctk.ctkComboBox), _is_enum, _enum_choice),
    ((qt.QLineEdit,), _is(str), _property("textChanged", "text")),
    ((qt.QLabel,), _is(str), _property(None, "text")),
    ((qt.QTextEdit,), _is(str), _text_edit),
    ((ctk.ctkPathLineEdit,), _is(pathlib.Path), _property("currentPathChanged", "currentPath")),
    ((ctk.ctkDirectoryButton,), _is(pathlib.Path), _property("directoryChanged", "directory")),
    ((slicer.qMRMLNodeComboBox,), _is_node, _node_selector),
]
