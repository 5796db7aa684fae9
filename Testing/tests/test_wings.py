"""The library's wings import only what stands below them (Resources/Docs/Architecture.md)."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "NetInversionLib"
APPLICATION = {"slicer", "qt", "ctk", "vtk"}

GROUND = {"core", "networks", "models", "optimise"}
QUESTIONS = {"ideal_input", "invariances", "harmonize"}
WORKSHOP = {"training", "evaluation"}
MAY_IMPORT = {
    "core": set(),
    "networks": set(),
    "models": {"core", "networks"},
    "optimise": {"core"},
    "ideal_input": GROUND,
    "invariances": GROUND,
    "harmonize": GROUND,
    "training": GROUND | QUESTIONS,
    "evaluation": GROUND | QUESTIONS | {"training"},
    "jobs": {"core", "models"},
    "scene": {"core"},
    "panel": {"core", "models", "jobs", "scene"},
    "cohort": {"core", "jobs"},
    "cli": GROUND | QUESTIONS | WORKSHOP | {"jobs", "cohort"},
}


def imports(path: Path, tree: ast.AST) -> set[tuple[str, ...]]:
    """Absolute names of all that a file imports, also inside functions and for type checks."""
    package = path.relative_to(ROOT).parts[:-1]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = tuple((node.module or "").split(".")) if node.module else ()
            found |= {(*base, *module, alias.name) for alias in node.names}
    return found


def broken_rules(path: Path, text: str) -> list[str]:
    """What a library file imports that its wing may not."""
    wing = path.relative_to(LIBRARY).parts[0]
    problems = []
    for name in imports(path, ast.parse(text)):
        if name[0] in APPLICATION and wing not in ("scene", "panel"):
            problems.append(f"{path.name} imports {name[0]}")
        if name[0] != "NetInversionLib" or len(name) < 3 or name[1] == wing:
            continue
        if name[1] in MAY_IMPORT and name[1] not in MAY_IMPORT[wing]:
            problems.append(f"{wing}/{path.name} imports {'.'.join(name)}")
    return problems


FILES = sorted(path for path in LIBRARY.rglob("*.py") if path.parent != LIBRARY)


def test_every_file_stands_in_a_wing():
    assert {path.name for path in LIBRARY.glob("*.py")} == {"__init__.py", "door.py"}
    assert {path.relative_to(LIBRARY).parts[0] for path in FILES} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", FILES, ids=lambda path: "/".join(path.relative_to(LIBRARY).parts))
def test_a_wing_imports_only_what_is_below_it(path):
    assert broken_rules(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("core/files.py", "from ..models import Card"),
        ("harmonize/run.py", "from ..invariances.lesions import nodule"),
        ("ideal_input/run.py", "from NetInversionLib.training import loop"),
        ("jobs/worker.py", "def f():\n    from ..harmonize import run"),
        ("invariances/run.py", "import slicer"),
    ],
)
def test_a_broken_rule_is_found(place, line):
    assert broken_rules(LIBRARY / place, line)


def test_a_question_names_no_other_question_and_no_door_to_the_outside():
    for question in QUESTIONS:
        forbidden = (
            (QUESTIONS - {question}) | WORKSHOP | {"jobs", "scene", "panel", "cli", "cohort"}
        )
        assert not MAY_IMPORT[question] & forbidden


def test_the_architecture_page_names_every_wing():
    page = (ROOT / "Resources" / "Docs" / "Architecture.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.M)) == set(MAY_IMPORT)
