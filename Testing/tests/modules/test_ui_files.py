"""Every .ui file holds only what Slicer can do with it.

Code connects only signals that its widgets have.
"""

import ast
import re
import xml.etree.ElementTree as ElementTree
from functools import cache
from pathlib import Path

import host
import pytest
from extension import PANELS
from host import pythonqt

host.start()

from host.ui_files import find_class  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
FILES = sorted(ROOT.glob("*/Resources/UI/*.ui"))
TABLE = pythonqt.FACTS
LIBRARY = sorted((ROOT / "NetInversionLib" / "panel").glob("*.py"))
PARTS = sorted(ROOT.glob("*/*Lib/*.py"))
CODE = [ROOT / file.stem / f"{file.stem}.py" for file in FILES] + PARTS + LIBRARY
GIVEN = {"slicer.app": "qSlicerApplication", ("optional_model", "selector"): "QComboBox"}
"""Classes of objects that code is given: by expression, or by (file's name, parameter)."""


@cache
def parsed(file):
    return ElementTree.parse(file)


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def tree(request):
    return parsed(request.param)


def classes(file):
    """{name: class} of the widgets of a .ui file."""
    return {widget.get("name"): widget.get("class") for widget in parsed(file).iter("widget")}


def signals(name):
    """The signals of a class with their arguments.

    Both the host and the record of real PythonQt have them. The record has widgets; of another
    class of Qt (QProcess) the signals are those that Qt itself says.
    """
    import qt

    if name in TABLE:
        kind = type(find_class(name)())
    else:
        kind = getattr(qt, name, None) or type(host.application.slicer.app)
    offered = pythonqt.signatures(kind.staticMetaObject)
    return {s for s in offered if name not in TABLE or s.split("(")[0] in TABLE[name]["signals"]}


def plain(signal):
    """As the host names it: pointers to MRML objects travel as Python objects."""
    head, _, arguments = signal.replace(" ", "").rstrip(")").partition("(")
    kinds = ("PyObject" if a.startswith("vtk") else a for a in arguments.split(","))
    return f"{head}({','.join(kinds)})"


def test_there_is_a_file_for_each_module():
    assert {file.stem for file in FILES} == set(PANELS)


def test_no_named_layout_is_empty(tree):
    """An empty layout is false in PythonQt, and so has no attribute in ``self.ui``.

    Code asks its widget for it. A layout whose widgets are all hidden is empty, too.
    """

    def hidden(item):
        visible = item.find("./widget/property[@name='visible']/bool")
        return visible is not None and visible.text == "false"

    empty = [
        layout.get("name")
        for layout in tree.iter("layout")
        if layout.get("name") and all(hidden(item) for item in layout.findall("item"))
    ]
    assert empty == []


# Every control is reached by keyboard

FOCUS = {
    "QComboBox",
    "QSpinBox",
    "QDoubleSpinBox",
    "QCheckBox",
    "QPushButton",
    "QToolButton",
    "QLineEdit",
    "QPlainTextEdit",
    "ctkSliderWidget",
    "ctkPathLineEdit",
    "qMRMLNodeComboBox",
}


def controls(element):
    """The controls in a widget, a layout or a cell, in the order of the file.

    Qt makes them in that order.
    """
    return [widget for widget in element.iter("widget") if widget.get("class") in FOCUS]


def text_of(widget, name="text"):
    found = widget.find(f"property[@name='{name}']/string")
    return "" if found is None else found.text or ""


def buddy_of(widget):
    found = widget.find("property[@name='buddy']/cstring")
    return None if found is None else found.text


def rows(form):
    """{row: {column: item}} of a form layout."""
    cells = {}
    for item in form.findall("item"):
        cells.setdefault(int(item.get("row")), {})[int(item.get("column"))] = item
    return cells


def test_the_tab_key_follows_the_eye(tree):
    """Controls are made, and so visited, from top to bottom and from left to right.

    None is left out.
    """
    assert tree.find("tabstops") is None  # the order of the file is the order of the keys
    for form in tree.iter("layout"):
        if form.get("class") == "QFormLayout":
            places = [
                (int(item.get("row")), int(item.get("column"))) for item in form.findall("item")
            ]
            assert places == sorted(places), form.get("name")
    policies = [
        widget.get("name")
        for widget in tree.iter("widget")
        if "NoFocus" in (widget.findtext("property[@name='focusPolicy']/enum") or "")
    ]
    assert policies == []


def test_the_label_of_each_row_is_its_controls_buddy(tree):
    """So a screen reader says what a control is, and a label's letter goes to it."""
    names = {widget.get("name") for widget in tree.iter("widget")}
    for form in tree.iter("layout"):
        for number, cells in rows(form).items() if form.get("class") == "QFormLayout" else ():
            label = cells[0].find("widget") if 0 in cells else None
            if (
                label is None
                or label.get("class") != "QLabel"
                or 1 not in cells
                or not controls(cells[1])
            ):
                continue
            first = controls(cells[1])[0].get("name")
            assert buddy_of(label) == first, (
                f"{form.get('name')}, row {number}: {label.get('name')}"
            )
    assert {buddy_of(widget) for widget in tree.iter("widget") if buddy_of(widget)} <= names


def test_controls_say_what_they_are(tree):
    """By a label, by their own words, or by their tooltip."""
    buddies = {buddy_of(widget) for widget in tree.iter("widget")}
    for widget in controls(tree):
        if widget.get("class") != "QPlainTextEdit":  # the log, below a title of its own
            assert widget.get("name") in buddies or text_of(widget) or text_of(widget, "toolTip"), (
                widget.get("name")
            )


def test_no_two_controls_have_the_same_letter(tree):
    letters = [
        text[text.index("&") + 1].lower()
        for text in map(text_of, tree.iter("widget"))
        if "&" in text.replace("&&", "")
    ]
    assert len(letters) == len(set(letters)) >= 5, letters


def test_no_colour_is_fixed_without_its_ground_and_none_speaks_alone(tree):
    """In a dark theme letters of a fixed colour on the theme's own ground cannot be read.

    The same holds the other way round.
    """
    styles = [found.text or "" for found in tree.iterfind(".//property[@name='styleSheet']/string")]
    code = [
        line
        for path in ROOT.glob("*/*.py")
        for line in path.read_text().splitlines()
        if "background-color" in line
    ]
    for style in (*styles, *code):
        assert ("background" in style) == ("color:" in style.replace("background-color:", "")), (
            style
        )


def test_every_class_is_slicer_s(tree):
    used = {widget.get("class") for widget in tree.iter("widget")}
    assert used <= TABLE.keys()
    declared = {custom.findtext("class") for custom in tree.iter("customwidget")}
    assert {name for name in used if not name.startswith("Q")} == declared


def test_every_property_is_the_class_s_own(tree):
    """Slicer's loader goes on without one that the class does not have."""
    unknown = [
        (widget.get("name"), prop.get("name"))
        for widget in tree.iter("widget")
        for prop in widget.findall("property")
        if prop.get("stdset") != "0"
        and prop.get("name") not in TABLE[widget.get("class")]["values"]
        and (widget.get("class"), prop.get("name")) != ("QLabel", "buddy")
    ]  # the loader's own
    assert unknown == []


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_every_connection_of_a_ui_file_can_be_made(file):
    kinds = classes(file)
    for connection in parsed(file).iter("connection"):
        sender, signal, receiver, slot = (
            connection.findtext(k) for k in ("sender", "signal", "receiver", "slot")
        )
        assert plain(signal) in signals(kinds[sender]), signal
        assert slot.split("(")[0] in TABLE[kinds[receiver]]["methods"], slot


# ---- what code connects


class Connections(ast.NodeVisitor):
    """The signals that a file connects.

    Each is (line, expression of the object, classes that it can have, signal).
    """

    def __init__(self, file, widgets):
        self.file, self.widgets, self.found = file, widgets, []
        self.module = ast.parse(file.read_text())
        self.function = self.module
        self.visit(self.module)

    def visit_FunctionDef(self, node):
        outer, self.function = self.function, node
        self.generic_visit(node)
        self.function = outer

    def visit_Call(self, node):
        self.generic_visit(node)
        if not (
            isinstance(node.func, ast.Attribute) and node.func.attr in ("connect", "disconnect")
        ):
            return
        sender, first = node.func.value, node.args[0] if node.args else None
        if isinstance(first, ast.Constant):  # widget.connect("clicked(bool)", f)
            signal = first.value
        else:  # widget.clicked.connect(f)
            sender, signal = sender.value, sender.attr
        self.found.append((node.lineno, ast.unparse(sender), self.classes_of(sender), signal))

    def classes_of(self, sender):
        text = ast.unparse(sender)
        if text in GIVEN:
            return {GIVEN[text]}
        if widget_of(text) in self.widgets:
            return {self.widgets[widget_of(text)]}
        where = self.module if isinstance(sender, ast.Attribute) else self.function
        found = (
            {GIVEN[key]}
            if (key := (self.file.stem, text.removeprefix("self._"))) in GIVEN
            else set()
        )
        for value in assigned(where, text):
            found |= self.made_in(value)
        return found

    def made_in(self, value):
        """Classes of the widgets that an expression names or makes."""
        calls = [node.func for node in ast.walk(value) if isinstance(node, ast.Call)]
        made = {
            call.attr
            for call in calls
            if isinstance(call, ast.Attribute)
            and call.attr[:1].isalpha()
            and ast.unparse(call.value) in ("qt", "ctk", "slicer")
        }
        named = [node for node in ast.walk(value) if isinstance(node, ast.Attribute)]
        for node in named:
            text = ast.unparse(node)
            if widget_of(text) in self.widgets:
                made.add(self.widgets[node.attr])
            elif text.startswith("self._") and text.count(".") == 1:
                for inner in assigned(self.module, text):
                    made |= self.made_in(inner)
        return made


def widget_of(text):
    """The widget's name in "ui.name", "self.ui.name" or "panel.ui.name"."""
    found = re.fullmatch(r"(?:self\.)?(?:_?panel\.)?ui\.(\w+)", text)
    return found[1] if found else None


def assigned(where, text):
    """What is assigned to an expression, or gone through by it in a loop."""
    for node in ast.walk(where):
        for target in node.targets if isinstance(node, ast.Assign) else ():
            both = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
            pairs = zip(target.elts, node.value.elts) if both else [(target, node.value)]
            yield from (value for name, value in pairs if ast.unparse(name).split("[")[0] == text)
        if isinstance(node, ast.For) and ast.unparse(node.target) == text:
            yield node.iter


def connections(file):
    module = [ui for ui in FILES if ui.stem == file.stem]
    widgets = {}
    for ui in module or FILES:
        widgets.update(classes(ui))
    return Connections(file, widgets).found


@pytest.mark.parametrize("file", CODE, ids=lambda path: path.stem)
def test_every_signal_that_code_connects_exists(file):
    for line, sender, kinds, signal in connections(file):
        assert kinds, f"{file.name}:{line}: of what class is {sender}?"
        for kind in kinds:
            offered = (
                {s.split("(")[0] for s in signals(kind)} if "(" not in signal else signals(kind)
            )
            assert (plain(signal) if "(" in signal else signal) in offered, (
                f"{file.name}:{line}: {kind} has no {signal}"
            )


def test_the_walk_sees_every_connection_and_a_wrong_one(tmp_path):
    assert sum(len(connections(file)) for file in CODE) > 30
    wrong = tmp_path / "IdealInput.py"
    wrong.write_text(
        "def setup(self):\n    ui = self.ui\n    ui.applyButton.connect('pressd()', print)\n    for"
        " box in (ui.maskSelector, ui.boxCheckBox):\n        box.connect('toggled(bool)', print)\n"
    )
    assert [(sender, kinds, signal) for _, sender, kinds, signal in connections(wrong)] == [
        ("ui.applyButton", {"QPushButton"}, "pressd()"),
        ("box", {"qMRMLNodeComboBox", "QCheckBox"}, "toggled(bool)"),
    ]
    assert "pressd()" not in signals("QPushButton") and "toggled(bool)" not in signals(
        "qMRMLNodeComboBox"
    )
    with pytest.raises(AssertionError, match="QPushButton has no pressd"):
        test_every_signal_that_code_connects_exists(wrong)
