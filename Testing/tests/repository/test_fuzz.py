"""A short sample of fuzzing (``make fuzz`` has the whole), and that it finds what it looks for."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FUZZ = Path(__file__).parents[2] / "fuzz"
sys.path.insert(0, str(FUZZ))
import common


@pytest.mark.parametrize("kind", ["models", "checkpoints", "images", "networks"])
def test_a_sample_of_mutants_does_no_harm(kind):
    done = subprocess.run(
        [sys.executable, FUZZ / f"{kind}.py", "--small", "--count", "60", "--first", "1000000"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "faults: none" in done.stdout, done.stdout + done.stderr


def reading(read, refusals=(ValueError,)):
    return common.Reading(lambda folder, small: [], read, lambda a, b: a == b, refusals, ".file")


def faults(tmp_path, read, damaged=True):
    base = common.Base("base", b"x" * 1000, b"x" * 1000)
    return common._judged(reading(read), tmp_path, base, b"y" * 1000, damaged)["faults"]


def test_every_kind_of_fault_is_found(tmp_path, monkeypatch):
    def refuses(path):
        raise ValueError(f"{path.name} is damaged")

    def mute(path):
        raise ValueError("damaged")

    def crashes(path):
        raise KeyError(path.name)

    def greedy(path):
        return np.ones(64_000_000).sum()  # half a GB: more than the process has lying free

    def slow(path):
        return sum(range(300_000))

    assert faults(tmp_path, refuses) == []
    assert faults(tmp_path, lambda path: path.read_bytes()) == ["silent other value"]
    assert faults(tmp_path, lambda path: path.read_bytes(), damaged=False) == []
    assert faults(tmp_path, mute) == ["no sentence"]
    assert faults(tmp_path, crashes) == ["crash"]
    if common.MEMORY.exists():
        assert "memory" in faults(tmp_path, greedy)
    monkeypatch.setattr(common, "SECONDS", 1e-4)
    assert "hang" in faults(tmp_path, slow)


DIES = """
import json, os, sys, time
first, count = int(sys.argv[3]), int(sys.argv[5])
for number in range(first, first + count):
    print(json.dumps({"begins": number, "base": "b"}), flush=True)
    if number == 1:
        os._exit(3)
    if number == 3:
        time.sleep(60)
    print(json.dumps({"number": number, "base": "b", "words": "same", "faults": []}), flush=True)
"""


def test_a_process_that_dies_or_hangs_is_a_fault_and_the_others_are_read(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "dies.py").write_text(DIES)
    monkeypatch.setattr(common, "GRACE_SECONDS", 3)
    found = common.watched(str(tmp_path / "dies.py"), 0, 5, 0)
    assert [one["number"] for one in found] == [0, 1, 2, 3, 4]
    assert [one["faults"] for one in found] == [[], ["crash"], [], ["hang"], []]
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["number"], one["faults"]) for one in told] == [(1, ["crash"]), (3, ["hang"])]
    assert common.report(found, 5) == 1


def test_a_mutant_comes_again_from_its_number():
    data = (FUZZ / "common.py").read_bytes()
    made = [common.mutant(b"\x10" + bytes(7) + data, np.random.default_rng([0, 7])) for _ in "ab"]
    assert made[0] == made[1]
