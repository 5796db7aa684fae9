"""The command line: exit status, sentences on stderr, files where they were asked for."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from pages import check_alone
from toy_brains import brain
from toy_cards import make_card, make_network

import NetInversionLib
from NetInversionLib import cli, models
from NetInversionLib.core import files, volumes
from NetInversionLib.core.volumes import Volume
from NetInversionLib.harmonize import scan as harmonize_scan
from NetInversionLib.ideal_input import dixon
from NetInversionLib.training import corrector, flow, flow_file
from NetInversionLib.training import gate as training_gate


@pytest.fixture
def file(tmp_path):
    return models.save(
        tmp_path / "tiny.safetensors", make_network(), make_card(quality={"MAE (HU)": 41.5})
    )


def test_list(file, capsys):
    (file.parent / "bad.safetensors").write_bytes(b"x")
    assert cli.main(["models", "list", str(file.parent)]) == 0
    out = capsys.readouterr().out
    assert f"{file}\n  tiny, version 1\n" in out and "bad.safetensors\n  cannot be used: " in out


def test_list_of_nothing_says_where_it_looked(tmp_path, capsys):
    assert cli.main(["models", "list", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"no models in {tmp_path}\n"


LIGHT = """
import sys

HEAVY = {"torch", "scipy", "skimage", "matplotlib"}


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HEAVY:
            raise AssertionError(f"{name} is imported")


sys.meta_path.insert(0, Refuse())
from NetInversionLib import cli

status = cli.main(sys.argv[1:])
assert not HEAVY & set(sys.modules)
sys.exit(status)
"""


def run_light(*words: str) -> subprocess.CompletedProcess:
    """A command line in a process of its own that cannot import any heavy package."""
    paths = [os.path.dirname(os.path.dirname(NetInversionLib.__file__)), *sys.path]
    return subprocess.run(
        [sys.executable, "-c", LIGHT, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )


def test_version_needs_no_heavy_package():
    ended = run_light("--version")
    assert ended.stdout == f"netinversion {NetInversionLib.__version__}\n", ended.stderr


def test_list_needs_no_heavy_package(file):
    ended = run_light("models", "list", str(file.parent))
    assert ended.returncode == 0, ended.stderr
    assert f"{file}\n  tiny, version 1\n" in ended.stdout


def test_info(file, capsys):
    assert cli.main(["models", "info", str(file)]) == 0
    out = capsys.readouterr().out
    assert "licence: MIT" in out and "MAE (HU): 41.5" in out and "'role': 'ct'" in out


def test_verify(file, capsys):
    assert cli.main(["models", "verify", str(file)]) == 0
    assert models.load(file).sha256 in capsys.readouterr().out
    file.write_bytes(file.read_bytes()[:-5])
    assert cli.main(["models", "verify", str(file)]) == 1
    assert "incomplete" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        ["models", "info", "absent.safetensors"],
        ["simulate", "dixon", "absent", "--output", "x"],
    ],
)
def test_errors_are_sentences(line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(line) == 1
    err = capsys.readouterr().err
    assert err.startswith("netinversion: ") and "Traceback" not in err and "absent" in err


@pytest.mark.parametrize("line", [[], ["models"], ["nonsense"], ["train", "synthetic-ct"]])
def test_wrong_command_lines_show_the_usage(line, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(line)
    assert stop.value.code == 2 and "usage: netinversion" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("compute ideal-input ct=x --output x", "--settings"),
        ("compute invariances x --output x", "--settings"),
        ("harmonize x y", "--settings"),
        ("train flow x --output x", "--settings"),
        ("train denoiser x --output x", "--arguments"),
    ],
)
def test_settings_are_names_and_values(command, option, capsys):
    for text, says in (
        ("[1]", "[1] has no names"),
        ("3", "3 has no names"),
        ("null", "null has no names"),
        ("{seed: 1}", "{seed: 1} is not JSON"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main([*command.split(), option, text])
        assert stop.value.code == 2
        assert f"argument {option}: {says}" in capsys.readouterr().err


def test_simulate(tmp_path, capsys):
    hu = np.full((3, 24, 24), -1000, np.int16)
    hu[:, 4:20, 4:20] = 40
    ct = Volume(hu, np.diag([3.0, 3.0, 3.0, 1.0]), "ct", "HU")
    files.save(ct, tmp_path / "ct.nii.gz")
    line = ["simulate", "dixon", str(tmp_path / "ct.nii.gz"), "--output", str(tmp_path / "out")]
    assert cli.main([*line, "--snr", "15", "--seed", "3"]) == 0
    expected = dixon.simulate_dixon(ct, dixon.DixonSettings(snr=15), 3)
    for role, volume in expected.items():
        found = files.load(tmp_path / "out" / f"simulated_{role}.nii.gz")
        assert np.array_equal(found.array, volume.array) and volumes.same_grid(found, ct)


def test_every_command_has_a_help_line(capsys):
    for c in cli.COMMANDS:
        with pytest.raises(SystemExit) as stop:
            cli.main([c.group, c.name, "--help"])
        assert stop.value.code == 0 and c.summary in " ".join(capsys.readouterr().out.split())


def image_files(folder, roles):
    """One volume per role on an oblique grid, as NRRD; ROLE=FILE arguments for them."""
    matrix = np.array(
        [[0.0, -1.5, 0.3, 10], [2.0, 0.0, 0.0, -4], [0.0, 0.4, 1.2, 7], [0, 0, 0, 1.0]]
    )
    rng = np.random.default_rng(0)
    arguments = []
    for role in roles:
        array = rng.random((3, 9, 12)).astype(np.float32)
        path = files.save(
            Volume(array * 1000 if role == "ct" else array, matrix, role), folder / f"{role}.nrrd"
        )
        arguments.append(f"{role}={path}")
    return arguments, matrix


def test_compute_ideal_input_writes_images_tables_and_facts(file, tmp_path, capsys):
    card = models.read_card(file)
    arguments, matrix = image_files(tmp_path, [c.role for c in (*card.inputs, *card.outputs)])
    settings = json.dumps({"starts": ["patient", "zeros"], "max_evaluations": 4, "knobs": False})
    out = tmp_path / "out"
    assert (
        cli.main(
            [
                "compute",
                "ideal-input",
                *arguments,
                "--model",
                str(file),
                "--output",
                str(out),
                "--settings",
                settings,
            ]
        )
        == 0
    )
    ideal = files.load(out / f"ideal_{card.inputs[0].role}_from-zeros.nrrd")
    assert ideal.array.shape == (3, 9, 12)
    np.testing.assert_allclose(ideal.ijk_to_ras, matrix, atol=1e-6)
    rows = csv.reader((out / "error.csv").read_text().splitlines())
    assert [row[0] for row in rows] == [
        "input",
        "Patient's own input",
        "Ideal, from the patient's images",
        "Ideal, from zeros",
    ]
    assert (
        json.loads((out / "facts.json").read_text())["model"]["sha256"] == models.load(file).sha256
    )
    printed = capsys.readouterr().out
    assert (
        str(out) in printed
        and "With the patient's own input the network's image differs from the target by" in printed
    )
    check_alone((out / "report.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["ct.nrrd"], "write ROLE=FILE"),
        (["in_phase=missing.nrrd"], "no model takes and gives exactly in_phase"),
    ],
)
def test_compute_ideal_input_says_what_is_wrong(arguments, says, tmp_path, capsys):
    assert cli.main(["compute", "ideal-input", *arguments, "--output", str(tmp_path / "out")]) == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


class Stop(BaseException):
    """Not an Exception: of those the command makes a sentence."""


@pytest.mark.parametrize("name", ["flow", "corrector", "gate"])
def test_trainings_for_harmonization_read_the_same_scans_within_the_same_masks(
    name, tmp_path, monkeypatch
):
    """All heads but one have a mask file, and one lies in a deeper folder."""
    folder = tmp_path / "scans"
    (folder / "deeper").mkdir(parents=True)
    masks = {}
    for person in range(4):
        one = brain(person, (16, 20, 18), (8.0, 8.0, 8.0))
        where = folder / "deeper" if person == 2 else folder
        path = files.save(one.with_array(one.array + 300), where / f"sub-{person}_T1w.nii.gz")
        masks[path.name] = harmonize_scan.foreground(one.array + 300)
        if person != 1:
            masks[path.name] = one.array > 0
            files.save(
                one.with_array((one.array > 0).astype(np.uint8)),
                where / f"sub-{person}_T1w_mask.nrrd",
            )
    seen = {}
    prepare = harmonize_scan.prepare

    def noted(volume, mask=None):
        scan = prepare(volume, mask)
        seen[f"{volume.name}.nii.gz"] = scan.mask
        return scan

    def stop(scans=(), *_, **__):
        list(scans)
        raise Stop

    monkeypatch.setattr(harmonize_scan, "prepare", noted)
    for module, ends_reading in ((flow, "train"), (corrector, "_template"), (training_gate, "fit")):
        monkeypatch.setattr(module, ends_reading, stop)
    monkeypatch.setattr(flow_file, "what_is_missing", lambda model: "")  # no model is there
    line = ["train", name, str(folder), "--output", str(tmp_path / "out.safetensors")]
    line += {"flow": [], "corrector": [], "gate": ["--model", "none"]}[name]
    with pytest.raises(Stop):
        cli.main(line)
    assert seen.keys() == masks.keys()
    for file, mask in masks.items():
        np.testing.assert_array_equal(seen[file], mask)


@pytest.mark.parametrize("who", ["sub-1", "sub-1_ses-2"])
def test_people_and_single_scans_can_be_left_out(who, tmp_path):
    for name in ("sub-1_ses-1", "sub-1_ses-2", "sub-1_ses-2_mask", "sub-2"):
        (tmp_path / f"{name}.nii.gz").touch()
    found = corrector.find_scans(tmp_path, [who])
    kept = ["sub-1_ses-1", "sub-2"] if who == "sub-1_ses-2" else ["sub-2"]
    assert found == {tmp_path / f"{name}.nii.gz": None for name in kept}
    with pytest.raises(
        ValueError, match="no scan of sub-7 in .*: it holds sub-1_ses-1, sub-1_ses-2, sub-2"
    ):
        corrector.find_scans(tmp_path, ["sub-7"])
