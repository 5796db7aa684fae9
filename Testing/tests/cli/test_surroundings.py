"""What stands around the command, from the folder that it is called in to a cluster's address.

In between: a torch that does not load, little memory, an output of few letters, and tables as
spreadsheets write them.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import NetInversionLib
from NetInversionLib import cli, cohort, jobs
from NetInversionLib.cohort import claims, records
from NetInversionLib.core import files
from NetInversionLib.core.volumes import Volume
from NetInversionLib.training import people

ROOT = Path(NetInversionLib.__file__).parents[1]


def command(*words, cwd, first=(), **environment):
    """`netinversion WORDS` in a process of its own; ``first``: folders before all others."""
    paths = [*map(str, first), str(ROOT), *filter(None, sys.path)]
    code = "import sys; from NetInversionLib.cli.entry import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:1] = []; {code}", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
    )


@pytest.mark.parametrize("name", ["queue.py", "copy.py", "numpy.py"])
def test_a_worker_runs_nothing_of_the_folder_it_was_called_in(name, tmp_path, monkeypatch):
    (tmp_path / name).write_text("open('EXECUTED', 'w').close()\nraise SystemExit('not it')\n")
    (tmp_path / "scans").mkdir()
    volume = Volume(np.ones((3, 4, 5), np.int16), np.eye(4), "a")
    files.save(volume, tmp_path / "scans/a.nii.gz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "")
    items = cohort.plan("scans", "out", analysis="nothing")
    (record,) = cohort.run(items)
    assert not (tmp_path / "EXECUTED").exists()
    assert "There is no analysis 'nothing'" in record["error"], "the worker itself did answer"


@pytest.mark.parametrize("package", ["cli", "cohort", "jobs"])
def test_a_program_started_by_hand_runs_nothing_of_its_folder(package, tmp_path):
    """``python -m``: what Python itself imports for that is not ours to choose."""
    for name in ("queue", "copy", "numpy", "torch", "statistics"):
        (tmp_path / f"{name}.py").write_text("open('EXECUTED', 'w').close()\nraise SystemExit(7)\n")
    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    words = {"cli": ["models", "list"], "cohort": ["absent.json"], "jobs": ["absent"]}[package]
    ended = subprocess.run(
        [sys.executable, "-m", f"NetInversionLib.{package}", *words],
        cwd=tmp_path,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert not (tmp_path / "EXECUTED").exists() and ended.returncode != 7, ended.stderr


def test_empty_parts_of_the_path_are_not_the_working_folder():
    found = jobs.environment({"PYTHONPATH": os.pathsep.join(["", "/one", "", "/two", ""])})
    assert found["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "/one", "/two"]


def test_a_torch_that_does_not_load_is_a_sentence(tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text(
        "raise ImportError('libtorch_cpu.so: cannot open shared object file')\n"
    )
    ended = command("models", "verify", "any.safetensors", cwd=tmp_path, first=[tmp_path])
    said = ended.stderr.decode()
    assert ended.returncode == 1 and said.startswith("netinversion: ")
    assert "'torch' is missing or does not load" in said and "line " not in said


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("libtorch_cpu.so: failed to map segment from shared object", jobs.MEMORY),
        ("libmkl.so: cannot allocate memory in static TLS block", jobs.MEMORY),
        ("libtorch_cpu.so: cannot open shared object file", "does not load"),
    ],
)
def test_too_little_memory_for_a_library_is_told_from_a_broken_one(message, says):
    assert says in jobs.explain(ImportError(message, name="torch._C"))


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_a_memory_limit_is_a_sentence(tmp_path):
    import resource

    model = next((ROOT / "Resources/Models").glob("*.safetensors"))

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (600 << 20, 600 << 20))

    code = "import sys; from NetInversionLib.cli.entry import main; sys.exit(main())"
    ended = subprocess.run(
        [sys.executable, "-c", code, "models", "verify", str(model)],
        cwd=tmp_path,
        capture_output=True,
        preexec_fn=limit,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
    )
    said = ended.stderr.decode()
    assert ended.returncode == 1 and "Traceback" not in said
    assert "ran out of memory" in said and "_C" not in said


def test_an_output_of_few_letters_ends_nothing(tmp_path):
    hu = np.full((4, 40, 40), -1000, np.int16)
    hu[:, 8:32, 8:32] = 40
    files.save(Volume(hu, np.diag([3.0, 3.0, 3.0, 1.0]), "ct"), tmp_path / "ct.nii.gz")
    words = ["simulate", "dixon", "ct.nii.gz", "--output", "日本"]
    ended = command(*words, cwd=tmp_path, PYTHONIOENCODING="cp1252")
    assert ended.returncode == 0, ended.stderr
    assert len(list((tmp_path / "日本").iterdir())) == 3
    assert rb"\u65e5\u672c" in ended.stdout


# Tables as spreadsheets write them

ROWS = [("file", "person"), ("a.nii.gz", "Ann"), ("b.nii.gz", "Ben"), ("c.nii.gz", "Ann")]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_people_as_spreadsheets_write_them(mark, encoding, end, tmp_path):
    for name, _ in ROWS[1:]:
        (tmp_path / name).write_bytes(b"")
    text = end.join(mark.join(row) for row in ROWS) + end
    (tmp_path / "people.csv").write_bytes(text.encode(encoding))
    found = people.read_people(tmp_path)
    assert {path.name: person for path, person in found.items()} == dict(ROWS[1:])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "needs the columns"),
        (b"name,who\na,b\n", "needs the columns file and person"),
        (b"file,person\na.nii.gz\n", "line 2"),
        (b"file,person\n,Ann\n", "line 2"),
        (b"file,person\nx.nii.gz,Ann\n", "not in the folder"),
        ("file,person\nä,b\n".encode("latin-1"), "not UTF-8"),
    ],
)
def test_a_table_of_people_that_is_none_is_a_sentence(content, says, tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"")
    (tmp_path / "people.csv").write_bytes(content)
    with pytest.raises(ValueError, match=says):
        people.read_people(tmp_path)


# Clusters


@pytest.mark.parametrize("address", ["tls://host:8786", "host:8786", "tcp://", "http://host", "x"])
def test_an_address_that_cannot_be_is_a_sentence(address, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    files.save(Volume(np.ones((3, 4, 5), np.int16), np.eye(4), "a"), tmp_path / "in/a.nii.gz")
    line = ["harmonize", str(tmp_path / "in"), str(tmp_path / "out"), "--scheduler", address]
    assert cli.main(line) == 1
    said = capsys.readouterr().err
    assert re.search(r"netinversion: .*(certificates|is no scheduler's address)", said)


# Nothing left behind


@pytest.mark.skipif(os.name != "posix", reason="processes of POSIX")
def test_what_a_dead_process_left_is_cleared_and_a_living_one_keeps_its_own(tmp_path):
    folder = tmp_path / ".netinversion/temporary"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead, living = (f"{claims.machine()}-{pid}-x" for pid in (gone.pid, os.getpid()))
    for name in (dead, living, "elsewhere-1-x"):
        (folder / name).mkdir(parents=True)
    records.clear(tmp_path)
    assert {path.name for path in folder.iterdir()} == {living, "elsewhere-1-x"}
    records.clear_own(tmp_path)
    assert {path.name for path in folder.iterdir()} == {"elsewhere-1-x"}


def test_what_is_said_of_a_failure_names_no_folder_of_this_computer(tmp_path, monkeypatch):
    (tmp_path / "secret/in").mkdir(parents=True)
    (tmp_path / "secret/in/a.nii.gz").write_bytes(b"nothing")
    items = cohort.plan(tmp_path / "secret/in", tmp_path / "out", analysis="harmonize")
    cohort.prepare(tmp_path / "secret/in", tmp_path / "out", items)
    record = records.work(vars(items[0]))
    assert record["status"] == "failed" and "a.nii.gz" in record["error"]
    assert "secret" not in record["error"]
