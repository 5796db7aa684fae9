"""The extension's modules, as its folders have them."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULES = tuple(sorted(lists.parent.name for lists in ROOT.glob("*/CMakeLists.txt")))
PANELS = tuple(name for name in MODULES if (ROOT / name / "Resources/UI" / f"{name}.ui").is_file())
"""Modules whose widget is a ``panel.ModulePanel`` with a .ui file."""
