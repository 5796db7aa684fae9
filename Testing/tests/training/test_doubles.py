"""One person under two names is told at the start; different people are not."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from NetInversionLib.cli import main
from NetInversionLib.core import files, volumes
from NetInversionLib.core.progress import Progress
from NetInversionLib.core.volumes import Volume
from NetInversionLib.training import synthetic_ct
from NetInversionLib.training.doubles import Doubles


class Recorder(Progress):
    def __init__(self):
        self.lines = []

    def log(self, message):
        self.lines.append(message)


def person(seed, size=(20, 48, 44)):
    """Blobs in a body, in HU, with axes of a scanner."""
    rng = np.random.default_rng(seed)
    blobs = 3000 * ndimage.gaussian_filter(rng.normal(size=size), 3)
    k, j, i = (np.linspace(-1, 1, n) for n in size)
    body = j[:, None] ** 2 + i[None] ** 2 < 0.8
    array = np.where(body[None], blobs, -1000) + 0 * k[:, None, None]
    matrix = np.diag([-2.0, -2.0, 3.0, 1.0])
    return Volume(array.astype(np.float32), matrix, f"person {seed}", "HU")


def told(*scans):
    recorder = Recorder()
    doubles = Doubles(recorder)
    for name, whose, volume in scans:
        doubles.add(name, whose, volume)
    return recorder.lines


def noisy(volume):
    rng = np.random.default_rng(0)
    return volume.with_array(volume.array + 30 * rng.normal(size=volume.array.shape))


@pytest.mark.parametrize(
    "again",
    [
        lambda v: v,
        noisy,
        lambda v: v.with_array(ndimage.gaussian_filter(v.array, (0, 0.7, 0.7))),
        lambda v: volumes.reorient(v, "RAS"),
        lambda v: volumes.reorient(v, "PIR"),
        lambda v: v.with_array(2 * v.array + 100),
    ],
    ids=["copy", "noise", "kernel", "axes", "turned", "scaled"],
)
def test_the_same_scan_under_two_names_is_told(again):
    lines = told(("a", "Ann", person(0)), ("b", "Bob", again(person(0))))
    assert len(lines) == 1 and "b and a show the same scan" in lines[0]
    assert told(("a", "Ann", person(0)), ("b", "Ann", again(person(0)))) == []


def test_different_people_are_not():
    assert told(*((str(n), str(n), person(n)) for n in range(6))) == []


@pytest.mark.parametrize("one, other", [("Ann B", "ann_b"), ("sub-01", "Sub01")])
def test_names_that_differ_in_signs_only_are_told(one, other):
    (line,) = told(("a", one, person(0)), ("b", other, person(1)))
    assert repr(one) in line and repr(other) in line


def test_real_people_are_told_apart_and_two_kernels_of_one_are_not(data):
    kernels = [files.load(data / "ct" / f"chest_{name}.nii.gz") for name in ("b40f", "b70f")]
    others = [files.load(data / "ct" / f"{n}.nii.gz") for n in ("pelvis", "upper_abdomen")]
    scans = [(str(n), str(n), volume) for n, volume in enumerate([*kernels, *others])]
    (line,) = told(*scans)
    assert "1 and 0 show the same scan" in line


def test_a_training_tells_at_its_start(tmp_path):
    for name, seed in (("ann", 0), ("bob", 0), ("cid", 1)):
        files.save(person(seed), tmp_path / f"{name}.nii.gz")
    recorder = Recorder()
    synthetic_ct.read_scans(tmp_path, progress=recorder)
    assert len(recorder.lines) == 1 and "ann.nii.gz" in recorder.lines[0]


def test_the_gate_wants_a_flow_and_tells_of_a_missing_corrector(tmp_path, capsys):
    from test_models import make_card, make_network

    from NetInversionLib import models, networks
    from NetInversionLib.training import flow_file

    path = models.save(tmp_path / "unet.safetensors", make_network(), make_card())
    line = ["train", "gate", str(tmp_path), "--model", str(path), "--output", str(path)]
    assert main(line) == 1 and "holds no flow" in capsys.readouterr().err
    arguments = {"flow": {"levels": 1, "steps": 1, "hidden": 2, "features": [2]}}
    card = replace(
        make_card(architecture="mrflow", task="harmonization", orientation="RAS"),
        arguments=arguments,
        inputs=make_card().inputs[:1],
    )
    models.save(path, networks.build("mrflow", **arguments), card)
    assert "no corrector yet" in flow_file.what_is_missing(path)
