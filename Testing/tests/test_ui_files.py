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
