"""What a run of the invariances finds beside the maps.

These are lesions, spectra, segments, components, and a second denoiser.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from toy_ct import SCALE, averaging, body, denoiser, run

from NetInversionLib.core import files, volumes
from NetInversionLib.core.progress import Cancelled, Progress
from NetInversionLib.invariances import experiments, invariances, lesions, nulls
from NetInversionLib.invariances.level_set import LevelSet, Window
from NetInversionLib.invariances.observer import IN_WORDS, WAYS
from NetInversionLib.invariances.settings import Settings
from NetInversionLib.models import ModelError
from NetInversionLib.networks.layers import LayerError

REGION = (0, 1, 10, 30, 12, 34)


def ras(volume, i, j, k):
    return tuple((volume.ijk_to_ras @ (i, j, k, 1.0))[:3])


def level_set(volume, k, region, network, structure=None):
    x0 = torch.from_numpy((volume.array[k] + 542.5) / SCALE).float()[None, None]
    patch = Settings().patch(volume.spacing_mm)
    network = denoiser(network).network
    return LevelSet(network, x0, region, scale=SCALE, patch=patch, structure=structure)


@pytest.mark.parametrize("axes", ["LPS", "RAS"])
def test_a_lesion_at_a_point_is_the_experiment_around_its_voxel(axes):
    volume = body(slices=2)
    sizes, contrasts = (3.0, 6.0), (-40.0, 40.0)
    result = run(
        volumes.reorient(volume, axes),
        averaging(),
        region=None,
        samples=2,
        projected=0,
        shown=0,
        components=0,
        lesion=ras(volume, 20.0, 18.0, 1.0),
        lesion_diameters_mm=sizes,
        lesion_contrasts_hu=contrasts,
    )
    level_sets = {}
    centre = tuple(n * mm for n, mm in zip((20, 18), volume.spacing_mm))
    for size in sizes:
        reach = [round(size / 2 / mm) + 8 for mm in volume.spacing_mm[:2]]
        region = Window(18 - reach[1], 19 + reach[1], 20 - reach[0], 21 + reach[0])
        nodule = lesions.draw(lesions.Nodule(centre, size, 1.0), region, volume.spacing_mm[:2])
        level_sets[size] = level_set(volume, 1, region, averaging(), nodule)
    table, curve, images = lesions.detectability(
        level_sets, centre, list(contrasts), volume.spacing_mm[:2], SCALE, 1.0, 200
    )
    found = result.tables["lesions"].columns
    beside = {f"the same with {name} (HU)" for name in (nulls.IDENTITY, nulls.BLUR)}
    seen = {f"{what} {way}" for what in ("d'", "standard error of d'") for way in WAYS}
    assert (
        found.keys() == table.columns.keys() | beside | seen | {IN_WORDS}
        and len(found["diameter (mm)"]) == 4
    )
    assert np.isfinite([found[heading] for heading in beside]).all()
    np.testing.assert_allclose(
        found["survives (%)"], table.columns["survives (%)"], rtol=0.02, atol=0.2
    )
    assert result.curves["detectability"].lines.keys() == {"-40 HU", "40 HU"}
    change = volumes.reorient(result.volumes["lesion"], "LPS").array - volume.array
    region, expected = images["lesion"]
    np.testing.assert_allclose(change[1][region.slices], expected, atol=1e-3)
    assert not change[0].any() and change[1].any() and "hidden lesion" in result.volumes


def test_a_nodule_s_answer_does_not_depend_on_the_others():
    volume, answers = body((60, 64), 1), []
    for sizes in ((3.0,), (3.0, 25.0)):
        settings = Settings(
            lesion=ras(volume, 32.0, 30.0, 0.0),
            lesion_diameters_mm=sizes,
            lesion_contrasts_hu=(60.0,),
        )
        table, _, _ = experiments.lesion(
            volume, denoiser(averaging()), settings, 1.0, torch.device("cpu")
        )
        answers.append(
            [
                table.columns[column][0]
                for column in ("diameter (mm)", "region (voxels)", "survives (%)")
            ]
        )
    assert answers[0] == answers[1] and 0 < answers[0][2] < 100


def test_a_lesion_outside_of_the_image_or_too_small_is_refused():
    volume = body()
    inside, edge = Settings(lesion=ras(volume, 20.0, 18.0, 1.49)), ras(volume, 20.0, 18.0, 1.5)
    experiments.check_lesion(volume, inside)
    experiments.check_lesion(volume, Settings())
    for point in ((500.0, 0.0, 0.0), edge):
        with pytest.raises(ValueError, match="lies outside of 'low dose'.*put it where"):
            experiments.check_lesion(volume, replace(inside, lesion=point))
    with pytest.raises(ValueError, match="0.001 mm does not touch the slice"):
        experiments.check_lesion(
            volume,
            replace(inside, lesion=ras(volume, 20.0, 18.0, 1.0), lesion_diameters_mm=(4.0, 0.001)),
        )
    with pytest.raises(ValueError, match="lies outside of 'low dose'"):
        run(
            volume,
            averaging(),
            region=REGION,
            samples=2,
            projected=0,
            shown=0,
            lesion=(500.0, 0.0, 0.0),
        )


def test_spectra_tell_a_layer_that_loses_nothing():
    options = dict(
        region=(0, 1, 10, 22, 12, 24),
        samples=8,
        projected=2,
        spectrum=("output",),
        spectrum_size=12,
    )
    keeping, losing = nn.Conv2d(1, 1, 1, bias=False), averaging()
    nn.init.constant_(keeping.weight, 1.0)
    kept, lost = (run(body(), network, **options) for network in (keeping, losing))
    assert kept.tables["spectrum"].columns["lost (%)"] == [0.0]
    assert "loses no direction" in kept.tables["spectrum"].columns["in words"][0]
    # An average of 5 x 5 over 12 x 12 voxels is a product of two of 12, whose singular values are
    # known.
    one = np.linalg.svd(
        np.array([[abs(a - b) <= 2 for b in range(12)] for a in range(-2, 14)]) / 5,
        compute_uv=False,
    )
    change = np.sqrt(np.mean(lost.volumes["std unproven"].array[0, 10:22, 12:24] ** 2))
    expected = 100 * np.mean(np.outer(one, one) * change <= 1.0)
    assert (
        lost.tables["spectrum"].columns["lost (%)"][0] == pytest.approx(expected, abs=1.5)
        and expected > 5
    )
    assert "gains" in lost.curves


def test_counting_lost_directions_says_how_far_it_is_and_can_be_stopped():
    seen = []

    class Impatient(Progress):
        def report(self, fraction, message):
            if "lost directions" in message:
                seen.append(fraction)
            if len(seen) == 10:
                raise Cancelled

    options = dict(region=(0, 1, 10, 22, 12, 24), samples=2, projected=0, spectrum=("output",))
    with pytest.raises(Cancelled):
        run(body(), averaging(), progress=Impatient(), **options)
    assert 0.9 < seen[0] < seen[-1] < 1


def test_segments_are_counted_on_the_image_s_grid():
    volume = body()
    labels = np.zeros(volume.shape, np.uint8)
    labels[0, 14:20, 16:26], labels[0, 22:28, 16:26], labels[1] = 1, 2, 2
    for axes in ("LPS", "RAS"):
        turned = volumes.reorient(volume.with_array(labels), axes)
        result = invariances(
            {"low_dose": volume, "segments": turned},
            {"denoiser": denoiser(averaging())},
            Settings(
                region=REGION,
                samples=8,
                projected=4,
                epsilon_hu=1.0,
                proposals=("texture",),
                device="cpu",
                segments=("liver",),
            ),
        )
        table = result.tables["segments"].columns
        assert table["segment"] == ["liver", "label 2"] and table["voxels sampled"] == [60, 60]
        proven = result.volumes["std proven"].array[0, 14:20, 16:26].mean()
        assert table["standard deviation, proven (HU)"][0] == pytest.approx(proven, rel=1e-5)


def test_components_are_images_of_the_accepted_samples_and_their_effect_is_measured():
    volume = body()
    result = run(volume, averaging(), region=REGION, samples=8, projected=8, shown=8)
    changes = np.stack(
        [result.volumes[f"sample {n}"].array[0] - volume.array[0] for n in range(1, 9)]
    )[:, 10:30, 12:34]
    values = np.linalg.svd((changes - changes.mean(0)).reshape(8, -1), compute_uv=False) ** 2
    table = result.tables["components"].columns
    np.testing.assert_allclose(
        table["explained variance (%)"], 100 * values[:3] / values.sum(), rtol=1e-3
    )
    image = result.volumes["component 1"].array[0]
    assert (
        result.roles["component 1"] == "difference" and not np.delete(image, slice(10, 30), 0).any()
    )
    target = level_set(volume, 0, Window(10, 30, 12, 34), averaging())
    measured = target.measure(
        target.start + torch.from_numpy(2 * image[10:30, 12:34] / SCALE)[None, None]
    )
    assert table["2 standard deviations (HU)"][0] == pytest.approx(float(measured), rel=1e-3)
    assert np.square(image[10:30, 12:34]).sum() == pytest.approx(values[0] / 7, rel=1e-3)


def test_bands_add_up_and_fine_texture_is_noise():
    result = run(body(), averaging(), region=REGION, samples=8, projected=8, structure_mm=20.0)
    table = result.tables["bands"].columns
    assert table["unproven (HU)"][1] > 5 * table["unproven (HU)"][0] > 0
    assert {"std proven structure", "std proven noise"} <= result.volumes.keys()


def test_two_denoisers_see_the_same_textures():
    keeping = nn.Conv2d(1, 1, 1)
    nn.init.ones_(keeping.weight)
    models = {"denoiser": denoiser(averaging()), "second": denoiser(keeping)}
    settings = Settings(
        region=REGION,
        samples=6,
        projected=3,
        shown=1,
        epsilon_hu=1.0,
        proposals=("texture",),
        device="cpu",
    )
    both = invariances({"low_dose": body()}, models, settings)
    np.testing.assert_array_equal(
        both.volumes["proposal 1"].array, both.volumes["proposal 1 second"].array
    )
    np.testing.assert_array_equal(
        both.volumes["std unproven"].array, both.volumes["std unproven second"].array
    )
    survived = [both.tables[key].columns["survived (%)"][0] for key in ("proof", "proof second")]
    assert survived[0] > 30 > 5 > survived[1]
    assert (
        both.facts["second"]["model"]
        and both.facts["complete"]
        and both.roles["output second"] == "ct"
    )
    with pytest.raises(LayerError, match="no layer '2'"):
        invariances({"low_dose": body()}, models, replace(settings, layer="2"))


class Halving(nn.Module):
    """Runs on sizes that are multiples of four only."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.weight * x.reshape(*x.shape[:2], x.shape[2] // 4, 4, -1, 4).reshape(x.shape)


def test_a_size_rule_is_told():
    with pytest.raises(ModelError, match="cannot run on slices of 41 x 44 voxels"):
        run(body((41, 44)), Halving())
    with pytest.raises(ModelError, match="does not run on images of one channel"):
        run(body(), nn.Conv2d(2, 1, 1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"structure_mm": 0.0},
        {"spectrum_size": 2},
        {"lesion": (1.0, 2.0)},
        {"components": -1},
        {"lesion": (1.0, 2.0, float("nan"))},
        {"lesion_diameters_mm": ()},
        {"lesion_diameters_mm": (3.0, 0.0)},
        {"lesion_diameters_mm": ("3",)},
        {"lesion_contrasts_hu": (20.0, 0.0)},
        {"lesion_contrasts_hu": (float("inf"),)},
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Settings(**wrong)


def test_the_command_writes_maps_and_tables(tmp_path, capsys):
    """The same as the library finds, from files to files."""
    import csv
    import json

    from toy_ct import HU

    from NetInversionLib import cli, models, networks

    network = networks.build("cnn10", last_kernel=3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.1)
    card = models.Card(
        "Tiny",
        "1",
        "cnn10",
        {"last_kernel": 3},
        HU,
        HU,
        2,
        "LPS",
        (0.5, 4.0),
        1,
        ("nothing",),
        "none",
        "MIT",
        "Tests.",
        task="denoising",
    )
    path = models.save(tmp_path / "tiny.safetensors", network, card)
    files.save(body(), tmp_path / "low.nii.gz")
    command = [
        "compute",
        "invariances",
        str(tmp_path / "low.nii.gz"),
        "--model",
        str(path),
        "--output",
        str(tmp_path / "out"),
        "--slices",
        "1",
        "1",
        "--samples",
        "4",
        "--projected",
        "2",
        "--shown",
        "1",
        "--epsilon",
        "5",
        "--proposals",
        "texture",
    ]
    assert cli.main(command) == 0, capsys.readouterr().err
    found = files.load(tmp_path / "out" / "std-unproven.nii.gz")
    assert not found.array[0].any() and found.array[1, 15:25, 15:25].mean() == pytest.approx(
        50, rel=0.4
    )
    rows = list(csv.DictReader(open(tmp_path / "out" / "proof.csv", encoding="utf-8")))
    assert (
        len(rows) == 1 and json.loads((tmp_path / "out" / "facts.json").read_text())["epsilon"] == 5
    )
    assert "2 of 2 were proven by running the network" in capsys.readouterr().out
    other = ["--output", str(tmp_path / "other"), "--model", str(path), "--layer", "99"]
    assert cli.main([*command[:3], *other]) == 1
    assert "no layer '99'" in capsys.readouterr().err
