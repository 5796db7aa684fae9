"""What the documents tell a reader to import is there."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
IMPORT = re.compile(r"^    from (NetInversionLib[\w.]*) import ([\w, ]+)$", re.MULTILINE)
IMPORTS = [
    (document.name, module, name.strip())
    for document in [ROOT / "README.md", *sorted(ROOT.glob("Resources/**/*.md"))]
    for module, names in IMPORT.findall(document.read_text(encoding="utf-8"))
    for name in names.split(",")
]


def test_documents_import_something():
    assert len(IMPORTS) >= 4


@pytest.mark.parametrize(("document", "module", "name"), IMPORTS)
def test_an_import_of_the_documents_works(document, module, name):
    if not hasattr(importlib.import_module(module), name):
        importlib.import_module(f"{module}.{name}")
