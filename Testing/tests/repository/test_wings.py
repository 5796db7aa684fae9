"""The library's wings import only what stands below them (Resources/Docs/Architecture.md)."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
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
    "families": GROUND | {"training"},
    "evaluation": GROUND | QUESTIONS | {"training"},
    "jobs": {"core", "models"},
    "scene": {"core"},
    "panel": {"core", "models", "jobs", "scene"},
    "cohort": {"core", "jobs"},
    "cli": GROUND | QUESTIONS | WORKSHOP | {"families", "jobs", "cohort"},
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


OWN_QUESTION = {
    "IdealInput": "ideal_input",
    "Invariances": "invariances",
    "MRFlowHarmonize": "harmonize",
}


def broken_module_rules(module: str, path: Path, text: str) -> list[str]:
    """What a file of a module imports that it may not: other modules, questions, the workshop."""
    forbidden = (QUESTIONS - {OWN_QUESTION[module]}) | WORKSHOP | {"cohort", "cli"}
    others = {f"{other}{part}" for other in OWN_QUESTION for part in ("", "Lib")}
    others -= {module, f"{module}Lib"}
    return [
        f"{path.name} imports {'.'.join(name)}"
        for name in imports(path, ast.parse(text))
        if name[0] in others or (name[0] == "NetInversionLib" and name[1] in forbidden)
    ]


@pytest.mark.parametrize("module", OWN_QUESTION)
def test_a_module_imports_its_own_parts_and_its_own_question(module):
    paths = sorted((ROOT / module).rglob("*.py"))
    assert len(paths) > 1
    for path in paths:
        text = path.read_text(encoding="utf-8")
        assert broken_module_rules(module, path, text) == []
        assert len(text.splitlines()) <= 500


@pytest.mark.parametrize(
    "line",
    [
        "from NetInversionLib.harmonize import reading",
        "from NetInversionLib import cohort",
        "from InvariancesLib import views",
        "import MRFlowHarmonize",
    ],
)
def test_a_broken_rule_of_a_module_is_found(line):
    path = ROOT / "IdealInput" / "IdealInput.py"
    assert broken_module_rules("IdealInput", path, line)


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("core/files.py", "from ..models import Card"),
        ("harmonize/run.py", "from ..invariances.lesions import nodule"),
        ("ideal_input/run.py", "from NetInversionLib.training import loop"),
        ("jobs/worker.py", "def f():\n    from ..harmonize import run"),
        ("invariances/run.py", "import slicer"),
        ("families/analysis.py", "from ..ideal_input import run"),
        ("ideal_input/run.py", "from ..families import split"),
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
