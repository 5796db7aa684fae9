"""Every .ui file holds only what Slicer's loader and ``slicer.util.childWidgetVariables`` can do with it."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(ROOT.glob("*/Resources/UI/*.ui"))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def tree(request):
    return ElementTree.parse(request.param)


def test_there_is_a_file_for_each_module():
    assert {file.stem for file in FILES} == {"IdealInput", "Invariances", "MRFlowHarmonize"}


def test_no_named_layout_is_empty(tree):
    """An empty layout is false in PythonQt, and so has no attribute in ``self.ui``: code asks its widget for it."""
    empty = [layout.get("name") for layout in tree.iter("layout") if layout.get("name") and not layout.findall("item")]
    assert empty == []


# Every control is reached by keyboard

FOCUS = {"QComboBox", "QSpinBox", "QDoubleSpinBox", "QCheckBox", "QPushButton", "QToolButton", "QLineEdit", "QPlainTextEdit",
         "ctkSliderWidget", "ctkPathLineEdit", "qMRMLNodeComboBox"}


def controls(element):
    """The controls in a widget, a layout or a cell, in the order of the file, which is that in which Qt makes them."""
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
    """Controls are made, and so visited, from top to bottom and from left to right; none is left out."""
    assert tree.find("tabstops") is None  # the order of the file is the order of the keys
    for form in tree.iter("layout"):
        if form.get("class") == "QFormLayout":
            places = [(int(item.get("row")), int(item.get("column"))) for item in form.findall("item")]
            assert places == sorted(places), form.get("name")
    policies = [widget.get("name") for widget in tree.iter("widget")
                if "NoFocus" in (widget.findtext("property[@name='focusPolicy']/enum") or "")]
    assert policies == []


def test_the_label_of_each_row_is_its_controls_buddy(tree):
    """So a screen reader says what a control is, and a label's letter goes to it."""
    names = {widget.get("name") for widget in tree.iter("widget")}
    for form in tree.iter("layout"):
        for number, cells in rows(form).items() if form.get("class") == "QFormLayout" else ():
            label = cells[0].find("widget") if 0 in cells else None
            if label is None or label.get("class") != "QLabel" or 1 not in cells or not controls(cells[1]):
                continue
            first = controls(cells[1])[0].get("name")
            assert buddy_of(label) == first, f"{form.get('name')}, row {number}: {label.get('name')}"
    assert {buddy_of(widget) for widget in tree.iter("widget") if buddy_of(widget)} <= names


def test_controls_say_what_they_are(tree):
    """By a label, by their own words, or by their tooltip."""
    buddies = {buddy_of(widget) for widget in tree.iter("widget")}
    for widget in controls(tree):
        if widget.get("class") != "QPlainTextEdit":  # the log, below a title of its own
            assert widget.get("name") in buddies or text_of(widget) or text_of(widget, "toolTip"), widget.get("name")


def test_no_two_controls_have_the_same_letter(tree):
    letters = [text[text.index("&") + 1].lower() for text in map(text_of, tree.iter("widget"))
               if "&" in text.replace("&&", "")]
    assert len(letters) == len(set(letters)) >= 5, letters


def test_no_colour_is_fixed_without_its_ground_and_none_speaks_alone(tree):
    """In a dark theme letters of a fixed colour on the theme's own ground cannot be read, and the other way round."""
    styles = [found.text or "" for found in tree.iterfind(".//property[@name='styleSheet']/string")]
    code = [line for path in ROOT.glob("*/*.py") for line in path.read_text().splitlines() if "background-color" in line]
    for style in (*styles, *code):
        assert ("background" in style) == ("color:" in style.replace("background-color:", "")), style
