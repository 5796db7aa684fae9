"""Testing/in_slicer.py, with the host in the place of Slicer, which it is started as."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from extension import PANELS

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "Testing" / "in_slicer.py"
ACCOUNT = "jane.doe"


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "home" / ACCOUNT
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def in_slicer(home):
    """Runs the script: (exit code, the page without its pictures, what was printed)."""

    def run(*arguments, modules=(), **environment):
        page = home / "page.html"
        paths = os.pathsep.join([str(ROOT), str(ROOT / "Testing")])
        command = [
            sys.executable,
            "-m",
            "host",
            "--no-splash",
            "--testing",
            "--python-script",
            str(SCRIPT),
            *(["--additional-module-paths", *map(str, modules)] if modules else []),
            "--",
            "--page",
            str(page),
            *arguments,
        ]
        named = {
            "PYTHONPATH": paths,
            "HOME": str(home),
            "USER": ACCOUNT,
            "LOGNAME": ACCOUNT,
            **environment,
        }
        done = subprocess.run(
            command,
            cwd=home,
            env={**os.environ, **named},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert page.is_file(), done.stdout + done.stderr
        text = re.sub(r"data:image/png;base64,[^']+", "PICTURE", page.read_text(encoding="utf-8"))
        return done.returncode, text, done.stdout + done.stderr

    return run


def changed_module(home, name, more) -> Path:
    """A folder with a copy of a module whose file has ``more`` at its end."""
    folder = home / "changed" / name
    shutil.copytree(ROOT / name, folder)
    with open(folder / f"{name}.py", "a") as file:
        file.write("\n\n" + more)
    return folder


def states(page) -> dict:
    """{title of a step: its end}"""
    rows = re.findall(r"<tr><td>(.*?)</td><td class='\w+'>(.*?)</td>", page)
    return {re.sub("<[^>]*>", "", title): end for title, end in rows}


def test_every_panel_goes_from_sample_to_a_loaded_result(in_slicer):
    code, page, said = in_slicer("--made-up", "--short")
    assert code == 0, said
    ends = states(page)
    assert set(ends.values()) == {"passed"}
    for name in PANELS:
        assert {
            f"{name}: its own test",
            f"{name}: Apply",
            f"{name}: the scene is loaded again",
        } <= set(ends)
    assert page.count("PICTURE") == 3 * 2 * 2  # panel and views, twice of each module
    assert page.count("MADE-UP") == 3  # nobody takes the answer for one
    for wanted in ("not Slicer", "numpy", "torch", "VTK", "Screen", "Done in"):
        assert wanted in page
    assert "page.html" in said.splitlines()[-1]


def test_an_error_in_apply_is_on_a_page_that_names_no_person(in_slicer, home):
    broken = changed_module(
        home,
        "IdealInput",
        "def broken(self):\n    raise RuntimeError('broken on purpose')\n\n\n"
        "IdealInputWidget.prepareRun = broken\nIdealInputTest.runTest = lambda self: None\n",
    )
    code, page, said = in_slicer(
        "--made-up", "--short", "--modules", "IdealInput", modules=[broken]
    )
    assert code == 1
    ends = states(page)
    assert ends["IdealInput: sample data"] == "passed"
    assert ends["IdealInput: Apply"] == "FAILED"
    assert ends["IdealInput: the result is shown"] == "not begun"
    assert "RuntimeError: broken on purpose" in page and "IdealInput.py&quot;, line" in page
    assert "FAILED: IdealInput: Apply" in said
    assert (
        ACCOUNT not in page and str(ROOT) not in page
    )  # the module lies in the home folder: its path is shortened
    assert "~/changed/IdealInput/IdealInput.py" in page


LOST = """
_whole = IdealInputLogic.writeResult
IdealInputTest.runTest = lambda self: None


def _lost(self, *arguments):
    written = yield from _whole(self, *arguments)
    for node in written.nodes.values():
        slicer.mrmlScene.RemoveNode(node)
    return written


IdealInputLogic.writeResult = _lost
"""


def test_a_missing_result_fails_where_it_should_be_shown(in_slicer, home):
    broken = changed_module(home, "IdealInput", LOST)
    code, page, _ = in_slicer("--made-up", "--short", "--modules", "IdealInput", modules=[broken])
    assert code == 1
    assert states(page)["IdealInput: the result is shown"] == "FAILED"
    assert "The scene has no node of the result." in page


ENDLESS = """
IdealInputTest.runTest = lambda self: None


def _forever(self, *arguments, **settings):
    while True:
        yield False


IdealInputLogic.requestSteps = _forever
"""


def test_a_step_that_does_not_end_is_named(in_slicer, home):
    broken = changed_module(home, "IdealInput", ENDLESS)
    code, page, _ = in_slicer(
        "--made-up", "--short", "--modules", "IdealInput", "--limit", "10", modules=[broken]
    )
    assert code == 1
    assert states(page)["IdealInput: Apply"] == "FAILED"
    assert "It took longer than 10 s. It waited until the run ends." in page


BLOCKING = """
def _block(self):
    import time

    time.sleep(600)


IdealInputTest.runTest = _block
"""


def test_a_step_that_blocks_slicer_is_named_and_ends_it(in_slicer, home):
    broken = changed_module(home, "IdealInput", BLOCKING)
    code, page, said = in_slicer(
        "--made-up", "--modules", "IdealInput", "--limit", "2", modules=[broken]
    )
    assert code == 1
    assert states(page)["IdealInput: its own test"] == "FAILED"
    assert "Slicer did not answer" in page and "in _block" in page


def test_without_a_network_the_image_is_made_up_and_says_so(in_slicer, home):
    module = changed_module(home, "Invariances", "InvariancesTest.runTest = lambda self: None\n")
    nowhere = "http://127.0.0.1:9"
    code, page, said = in_slicer(
        "--short",
        "--modules",
        "Invariances",
        https_proxy=nowhere,
        HTTPS_PROXY=nowhere,
        NETINVERSION_DATA="",
        modules=[module],
    )
    assert code == 0, said
    assert "The sample could not be downloaded" in page
    assert "A MADE-UP image, not the sample" in page


SAMPLE = """
InvariancesTest.runTest = lambda self: None


def registerSampleData():
    import SampleData

    from NetInversionLib.core import files

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="NetInversion", sampleName=SAMPLE, uris="file://{file}", fileNames="ct.nrrd",
        nodeNames="CT",
        customDownloader=lambda source: InvariancesLogic().addSample(files.load("{file}")))
"""


def test_the_sample_comes_from_its_button(in_slicer, home):
    import SimpleITK

    hu = np.full((3, 32, 36), -1000.0, np.float32)
    hu[:, 6:26, 6:30] = 40 + 30 * np.random.default_rng(0).normal(size=(3, 20, 24))
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(hu), str(home / "ct.nrrd"))
    module = changed_module(home, "Invariances", SAMPLE.format(file=home / "ct.nrrd"))
    code, page, said = in_slicer("--short", "--modules", "Invariances", modules=[module])
    assert code == 0, said
    assert "MADE-UP" not in page and "could not be downloaded" not in page
