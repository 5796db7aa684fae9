"""The extension as Slicer installs it, and the library as pip does.

CMake configures, builds and installs a copy of the tree against the stand-in in Testing/packaging.
What has to arrive is read from the folders, not from the CMake lists, so a file that somebody
forgot to list is found here.
"""

import collections
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from extension import MODULES

ROOT = Path(__file__).resolve().parents[3]
LATER = ("Invariances", "MRFlowHarmonize")
FLAT_FOLDER = Path("lib/Slicer-5.12/qt-scripted-modules")
RAW_URL = "https://raw.githubusercontent.com/NetInversion/SlicerNetInversion/main/"


def call(*command, **keywords) -> subprocess.CompletedProcess:
    """Run ``command`` with its output captured as one text in ``stdout``."""
    return subprocess.run(
        [str(c) for c in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **keywords,
    )


def cmake_program() -> str:
    """CMake beside this Python (a test dependency), else the machine's own."""
    beside = Path(sys.executable).parent
    return (
        shutil.which("cmake", path=beside)
        or shutil.which("cmake")
        or pytest.fail("CMake is not installed")
    )


def copy_of_tree(folder: Path) -> Path:
    """The files that git knows (tracked, or new and not ignored), copied to ``folder``."""
    listing = call("git", "ls-files", "-co", "--exclude-standard", "-z", cwd=ROOT)
    if listing.returncode:
        pytest.skip("packaging: this is not a git checkout")
    for name in filter(None, listing.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def add_module(tree: Path, name: str) -> None:
    """A small module beside IdealInput, listed as IdealInput is."""
    folder = tree / name
    for path in sorted((tree / "IdealInput").rglob("*")):
        if path.is_file() and path.name != "CMakeLists.txt" and path.suffix != ".pyc":
            part = folder / path.relative_to(tree / "IdealInput").as_posix().replace(
                "IdealInput", name
            )
            part.parent.mkdir(parents=True, exist_ok=True)
            part.write_text("" if part.suffix == ".py" else name)
    lists = (tree / "IdealInput/CMakeLists.txt").read_text()
    (folder / "CMakeLists.txt").write_text(lists.replace("IdealInput", name))


def shipped(tree: Path) -> dict[str, list[Path]]:
    """Path in the flat folder -> the files that want to be there.

    These are all that modules, library and models hold.
    """
    wanted = collections.defaultdict(list)
    for top, within in [
        ("NetInversionLib", tree),
        ("Resources/Models", tree),
        *((m, tree / m) for m in MODULES),
    ]:
        for path in sorted((tree / top).rglob("*")):
            beside = (
                path.name == "CMakeLists.txt"
                or path.suffix in {".md", ".pyc"}
                or "Testing" in path.parts
            )
            if path.is_file() and not beside:
                wanted[path.relative_to(within).as_posix()].append(path)
    return wanted


def configure(tree: Path, build: Path) -> subprocess.CompletedProcess:
    packaging = tree / "Testing/packaging"
    return call(
        cmake_program(),
        "-S",
        tree,
        "-B",
        build,
        f"-DSlicer_DIR={packaging}",
        f"-DCMAKE_TOOLCHAIN_FILE={packaging / 'no_compiler.cmake'}",
    )


def install(tree: Path, folder: Path) -> Path:
    """Configure, build and install ``tree`` below ``folder``; return the installed flat folder."""
    for step in (
        configure(tree, folder / "build"),
        call(cmake_program(), "--build", folder / "build"),
        call(cmake_program(), "--install", folder / "build", "--prefix", folder / "installed"),
    ):
        assert step.returncode == 0, step.stdout
    return folder / "installed" / FLAT_FOLDER


def installed_files(flat: Path) -> set[str]:
    return {path.relative_to(flat).as_posix() for path in flat.rglob("*") if path.is_file()}


def not_installed(tree: Path, flat: Path) -> set[str]:
    """Files that ship but are in no CMake list."""
    return set(shipped(tree)) - installed_files(flat)


def collisions(tree: Path) -> set[str]:
    """Paths in the flat folder that more than one file wants."""
    return {path for path, files in shipped(tree).items() if len(files) > 1}


@pytest.fixture
def tree(tmp_path):
    return copy_of_tree(tmp_path / "tree")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(copy of the tree, its installed flat folder), made once."""
    folder = tmp_path_factory.mktemp("packaging")
    tree = copy_of_tree(folder / "tree")
    return tree, install(tree, folder)


# ---- what the extension installs


def test_every_file_is_installed_unchanged_and_nothing_else(whole):
    tree, flat = whole
    assert not_installed(tree, flat) == set(), "list these in the CMakeLists.txt of their folder"
    assert installed_files(flat) == set(shipped(tree))
    for path, (source, *_) in shipped(tree).items():
        assert (flat / path).read_bytes() == source.read_bytes(), path


def test_library_and_models_keep_their_folders(whole):
    _, flat = whole
    assert (flat / "NetInversionLib/__init__.py").is_file()
    assert (flat / "IdealInput.py").is_file() and not (flat / "__init__.py").exists()


def test_modules_do_not_overwrite_each_other(whole):
    assert collisions(whole[0]) == set()


def test_modules_are_tested_in_slicer(whole):
    build = whole[1].parents[2].parent / "build"
    listing = call(Path(cmake_program()).with_name("ctest"), "-N", cwd=build).stdout
    assert (
        "py_IdealInput" in listing
        and "py_nomainwindow_qSlicerIdealInputModuleGenericTest" in listing
    )


def test_later_modules_join_when_they_come(tree, tmp_path):
    add_module(tree, "Invariances")
    add_module(tree, "MRFlowHarmonize")
    added = {
        f"{place}{module}{kind}"
        for module in LATER
        for place, kind in [("", ".py"), ("Resources/UI/", ".ui"), ("Resources/Icons/", ".png")]
    }
    assert installed_files(install(tree, tmp_path)) >= added | {"IdealInput.py"}
    assert collisions(tree) == set()


# ---- the checks themselves find what they look for


def test_listed_but_missing_file_stops_the_configuration(tree, tmp_path):
    (tree / "IdealInput/Resources/UI/IdealInput.ui").unlink()
    step = configure(tree, tmp_path / "build")
    assert step.returncode != 0 and "IdealInput.ui" in step.stdout


def test_unlisted_files_are_found(tree, tmp_path):
    new = {
        "NetInversionLib/new.py": "NetInversionLib/new.py",
        "IdealInput/Resources/Icons/New.png": "Resources/Icons/New.png",
        "Resources/Models/new.safetensors": "Resources/Models/new.safetensors",
    }
    for source in new:
        (tree / source).write_text("")
    assert not_installed(tree, install(tree, tmp_path)) >= set(new.values())


def test_colliding_resources_are_found(tree):
    for module in LATER:
        add_module(tree, module)
        (tree / module / "Resources/Icons/Start.png").write_text(module)
    assert collisions(tree) == {"Resources/Icons/Start.png"}


@pytest.mark.parametrize("name", ["HOMEPAGE", "ICONURL", "SCREENSHOTURLS", "DESCRIPTION"])
def test_missing_metadata_stops_the_configuration(tree, tmp_path, name):
    lists = tree / "CMakeLists.txt"
    lists.write_text(re.sub(rf"set\(EXTENSION_{name} .*\)\n", "", lists.read_text()))
    step = configure(tree, tmp_path / "build")
    assert step.returncode != 0 and f"EXTENSION_{name} is not set" in step.stdout


# ---- what the extension catalogue checks by machine


def catalogue_value(name: str) -> str:
    """The value of ``EXTENSION_<name>`` as the catalogue's own check reads it.

    It is one line, with nothing before the bracket.
    """
    found = re.findall(
        rf'set\s*\(EXTENSION_{name}\s*"([^"]+)"\)', (ROOT / "CMakeLists.txt").read_text()
    )
    assert len(found) == 1, f"the catalogue finds EXTENSION_{name} {len(found)} times"
    return found[0]


def test_catalogue_name_homepage_and_licence():
    name = re.findall(r"project\s*\(\s*([^\s)]+)", (ROOT / "CMakeLists.txt").read_text())[0]
    assert name == "NetInversion" and not name.lower().startswith("slicer")
    assert catalogue_value("HOMEPAGE").rsplit("/", 1)[1] == "Slicer" + name
    assert catalogue_value("DEPENDS") == "PyTorch"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    assert 1 <= catalogue_value("DESCRIPTION").count(". ") + 1 <= 2, "one or two sentences"


def test_catalogue_entry_agrees_with_cmake():
    path = ROOT / "Resources/Docs/NetInversion.json"
    entry = json.loads(path.read_text())
    assert b"\r" not in path.read_bytes()
    assert set(entry) == {
        "$schema",
        "build_dependencies",
        "build_subdirectory",
        "category",
        "scm_revision",
        "scm_url",
        "tier",
    }
    assert path.stem == re.findall(r"project\(([^\s)]+)", (ROOT / "CMakeLists.txt").read_text())[0]
    assert entry["scm_url"] == catalogue_value("HOMEPAGE") + ".git"
    assert entry["build_dependencies"] == catalogue_value("DEPENDS").split()


def test_catalogue_icon_is_a_png_of_128_pixels():
    url = catalogue_value("ICONURL")
    assert url.startswith(RAW_URL) and url.endswith(".png")
    head = (ROOT / url[len(RAW_URL) :]).read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", head[16:]) == (128, 128)


def test_catalogue_screenshots_are_in_the_tree():
    if not list((ROOT / "Resources/Screenshots").glob("*.png")):
        pytest.skip("screenshots: none made yet (make screenshots)")
    for url in catalogue_value("SCREENSHOTURLS").split():
        assert url.startswith(RAW_URL) and url.endswith((".png", ".jpg")), url
        assert (ROOT / url[len(RAW_URL) :]).is_file(), url


# ---- the installed tree works


@pytest.mark.module
def test_library_and_models_come_from_the_tree_under_test():
    from NetInversionLib import models
    from NetInversionLib.models import model

    expected = Path(os.environ.get("NETINVERSION_MODULES", ROOT)).resolve()
    assert Path(model.__file__).resolve().parents[2] == expected
    assert expected / "Resources/Models" in models.model_folders()


# Every file is installed unchanged (above), so a second run can only find what depends on where
# files lie: panels and icons, shipped models, workers, samples, reports, parts of a module, scenes.
# All other tests of modules stay as true there as they are here;
# NETINVERSION_INSTALLED=all runs them there too, which takes ten minutes of one core.
WHERE_FILES_LIE = [
    "panel/test_panel_life.py::test_nothing_is_said_at_load",
    "panel/test_panel_life.py::test_the_selectors_show_what_a_loaded_scene_has_chosen",
    "modules/test_ideal_input_module.py::test_module_opens_without_torch",
    "modules/test_ideal_input_module.py::test_apply_finds_inputs_that_the_network_errs_less_on",
    "modules/test_invariances_module.py::test_apply_finds_samples_that_the_network_does_not_notice",
    "modules/test_mrflow_harmonize_module.py::"
    "test_apply_in_a_process_of_its_own_gives_everything_and_shows_it",
    "modules/test_report_module.py::test_a_report_is_saved_and_shown_also_from_a_saved_scene",
    "repository/test_packaging.py::test_library_and_models_come_from_the_tree_under_test",
]


def test_module_tests_pass_on_the_installed_tree(whole, tmp_path):
    flat = whole[1]
    environment = {
        **os.environ,
        "NETINVERSION_MODULES": str(flat),
        "PYTHONPATH": str(flat),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    tests = ROOT / "Testing/tests"
    everything = os.environ.get("NETINVERSION_INSTALLED") == "all"
    run = call(
        sys.executable,
        "-m",
        "pytest",
        "-c",
        ROOT / "pyproject.toml",
        "--rootdir",
        ROOT,
        *([tests, "-m", "module"] if everything else [tests / name for name in WHERE_FILES_LIE]),
        "-p",
        "no:cacheprovider",
        cwd=tmp_path,
        env=environment,
    )
    assert run.returncode == 0, run.stdout  # 4 where a name of the list is no test any more
    print(run.stdout)


def test_pip_installs_library_models_and_command(tree, tmp_path):
    (tree / "Resources/Models/Probe.safetensors").write_bytes(b"probe")
    site = tmp_path / "site"
    step = call(
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--target",
        site,
        tree,
    )
    assert step.returncode == 0, step.stdout
    for path in (tree / "NetInversionLib").rglob("*.py"):
        assert (site / path.relative_to(tree)).read_bytes() == path.read_bytes(), path

    environment = {**os.environ, "PYTHONPATH": str(site)}
    probe = (
        "import NetInversionLib.models as m; "
        "print(m.__file__, [f for f in m.model_folders() if (f / 'Probe.safetensors').is_file()])"
    )
    found = call(sys.executable, "-c", probe, cwd=tmp_path, env=environment).stdout
    assert str(site) in found and "[]" not in found, found
    command = call(site / "bin/netinversion", "--help", cwd=tmp_path, env=environment)
    assert command.returncode == 0 and "usage: netinversion" in command.stdout, command.stdout
