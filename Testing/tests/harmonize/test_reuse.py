"""A change used again: backwards, on other images, on other grids."""

import json

import numpy as np
import pytest
import toy_brains

from NetInversionLib import cli
from NetInversionLib.core import files
from NetInversionLib.core.volumes import Volume
from NetInversionLib.harmonize import reuse
from NetInversionLib.harmonize.tone_field import ToneField


@pytest.fixture(scope="module")
def facts():
    random = np.random.default_rng(0)
    points = np.diag([60.0, 60, 60, 1])
    points[:3, 3] = -90
    x = np.linspace(0, 1.5, 9)
    change = ToneField(
        np.array([x, x**0.8]),
        random.uniform(-0.2, 0.2, (4, 4, 4)),
        random.uniform(0, 0.05, (4, 4, 4)),
        points,
    )
    settings = {"mode": "anatomy-safe", "strength": 0.0}
    return {
        "tone_field": change.to_dict(),
        "scale": 800.0,
        "result_scale": 500.0,
        "settings": settings,
    }


@pytest.fixture(scope="module")
def brain():
    volume = toy_brains.brain(0)
    return volume.with_array(volume.float32())


def test_the_inverse_gives_the_source_back(facts, brain):
    there = reuse.apply_again(facts, brain, "change")
    back = reuse.apply_again(facts, there, "inverse")
    assert np.abs(there.array - brain.array).max() > 50
    assert back.array == pytest.approx(brain.array, abs=0.05)
    assert np.array_equal(there.ijk_to_ras, brain.ijk_to_ras)


def test_shading_is_a_factor_that_is_the_same_on_every_grid_and_leaves_air(facts, brain):
    ones = brain.with_array(np.ones(brain.shape, np.float32))
    field = reuse.apply_again(facts, ones, "shading").array
    shaded = reuse.apply_again(facts, brain, "shading").array
    assert shaded == pytest.approx(brain.array * field, rel=1e-5)
    assert not shaded[brain.array == 0].any()
    every = Volume(ones.array[::2, ::2, ::2], brain.ijk_to_ras @ np.diag([2.0, 2, 2, 1]), "coarse")
    coarse = reuse.apply_again(facts, every, "shading").array
    assert coarse == pytest.approx(field[::2, ::2, ::2], rel=1e-5)


def test_voxel_types_are_kept(facts, brain):
    whole = brain.with_array(np.rint(brain.array).astype(np.int16))
    changed = reuse.apply_again(facts, whole, "shading")
    assert changed.array.dtype == np.int16
    exact = reuse.apply_again(facts, brain.with_array(whole.array.astype(np.float32)), "shading")
    assert np.abs(changed.array - exact.array).max() <= 0.5


@pytest.mark.parametrize(
    ("other", "way", "says"),
    [
        ({}, "backwards", "no way"),
        ({"settings": {"strength": 0.5}}, "inverse", "free-form"),
        ({"result_scale": None}, "change", "no change to use"),
    ],
)
def test_what_cannot_be_used_again_is_refused(facts, brain, other, way, says):
    asked = {name: value for name, value in {**facts, **other}.items() if value is not None}
    with pytest.raises(ValueError, match=says):
        reuse.apply_again(asked, brain, way)


@pytest.mark.parametrize("wrapped", ["alone", "of a folder", "sidecar"])
def test_command(facts, brain, tmp_path, wrapped):
    record = {
        "alone": facts,
        "of a folder": {"facts": facts},
        "sidecar": {"NetInversion": {"facts": facts}},
    }[wrapped]
    (tmp_path / "record.json").write_text(json.dumps(record), encoding="utf-8")
    files.save(brain, tmp_path / "t2.nii.gz")
    line = ["change", str(tmp_path / "record.json"), str(tmp_path / "t2.nii.gz")]
    line += ["--output", str(tmp_path / "out.nii.gz")]
    assert cli.main(line) == 0
    written = files.load(tmp_path / "out.nii.gz")
    expected = reuse.apply_again(facts, files.load(tmp_path / "t2.nii.gz"), "shading")
    assert written.array == pytest.approx(expected.array, rel=1e-5)
    assert cli.main(line) == 1, "nothing is replaced unasked"
