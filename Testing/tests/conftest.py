"""Fixtures that all tests share: real images, a running stand-in for Slicer, and its modules."""

import os
import signal
import sys
from pathlib import Path

# torch reads these: results and times are those of a small machine, and threads that wait leave the
# cores to others.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest

# What a shell starts in the background ignores Ctrl-C, and so does all that it starts in turn.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[2]
# Tests of one wing use the makers of another's: every folder of tests is on the path.
FOLDERS = sorted(str(folder) for folder in Path(__file__).parent.iterdir() if folder.is_dir())
sys.path[:0] = [str(ROOT / "Testing"), str(ROOT), *FOLDERS]
INSTALLED = os.environ.get("NETINVERSION_MODULES")
if INSTALLED:  # the flat folder of an installed extension: the library too comes from there
    sys.path.insert(0, str(Path(INSTALLED).resolve()))


# Files that take a minute or more of one core: begun first, or they end alone.
LONGEST = (
    "test_in_slicer",
    "test_ideal_input_module",
    "test_packaging",
    "test_invariances_module",
    "test_harmonize",
    "test_invariance_training",
    "test_mrflow_harmonize_module",
    "test_corrector",
    "test_reports",
    "test_results",
    "test_report_module",
    "test_mrflow",
    "test_cohort",
)


def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores: a test that waits for a program leaves its core to another."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items):
    """The longest files come first; tests that open a module run on the installed one too."""
    for item in items:
        if "module" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.module)
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same random numbers, whichever ran before it and in which process."""
    if "torch" in sys.modules:  # most tests of the host and the scene go without
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real images; tests that need it skip without it."""
    folder = Path(os.environ.get("NETINVERSION_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(
            "real images: set NETINVERSION_DATA to a folder with them (README.md says which)"
        )
    return folder


@pytest.fixture(scope="session")
def parity() -> Path:
    """The folder of numeric fixtures of published networks; tests that need it skip without it."""
    folder = Path(os.environ.get("NETINVERSION_PARITY", ROOT.parent / "shared" / "parity"))
    if not folder.is_dir():
        pytest.skip(
            "published networks: set NETINVERSION_PARITY to a folder with their numeric fixtures"
        )
    return folder


@pytest.fixture
def scene():
    """An empty scene in the running host.

    Fails at the end if a slot, timer or observer raised, or a dialog waits.
    """
    import host
    import slicer
    from host import qt

    host.start()
    yield slicer.mrmlScene
    errors, replies, cursor = list(host.errors), list(qt.replies), qt.QApplication.overrideCursor()
    host.clear()
    errors += host.errors
    host.errors.clear()
    assert not errors, "raised in a slot, timer or observer:\n" + "\n".join(errors)
    assert not replies, f"no dialog asked for these replies: {replies}"
    assert cursor is None, "the wait cursor was left on"


@pytest.fixture
def module(scene):
    """Opens a module and returns its widget, as Slicer shows it first.

    A module is known by its name, or by the path of its .py.
    """
    import host

    return host.open_module
