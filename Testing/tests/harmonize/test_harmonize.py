"""Harmonization from volume to result: geometry, types, modes, refusals.

The volumes are generated brains, with a small model of their scanner.
"""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from toy_brains import brain, scan
from toy_models import random_matrix

from NetInversionLib import harmonize as method
from NetInversionLib import jobs, models
from NetInversionLib.core import files, volumes
from NetInversionLib.core.progress import Cancelled, Progress
from NetInversionLib.harmonize import (
    estimate,
    gate,
    harmonize,
    similarity,
    simulated_scanners,
    slices,
)
from NetInversionLib.harmonize import report as harmonize_report
from NetInversionLib.harmonize import scan as harmonize_scan
from NetInversionLib.harmonize.settings import Settings
from NetInversionLib.harmonize.tone_field import ToneField
from NetInversionLib.training import corrector, flow_file
from NetInversionLib.training import flow as training_flow

FLOW = training_flow.FlowSettings(
    steps=6, batch=4, spacing_mm=4.0, levels=2, flow_steps=2, hidden=8, features=(4, 8)
)
LEARN = corrector.CorrectorSettings(
    views=24, voxels=15_000, fields=200, rank=12, components=20, rounds=1
)
FIELD = "field 0.3 seed 1"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A model of the scanner that drew people 0 to 7."""
    folder = tmp_path_factory.mktemp("target")
    people = [scan(person) for person in range(8)]
    for person in range(8):
        files.save(brain(person), folder / f"person{person}.nii.gz")
    cases = [slices.make_case(s, FLOW.spacing_mm, f"person{n}") for n, s in enumerate(people)]
    flow = training_flow.train(cases, folder / "flow.safetensors", FLOW)
    learnt = corrector.train(sorted(folder.glob("*.nii.gz")), LEARN)
    # No gate: these heads are too symmetric for it, and its own tests judge it.
    scales = torch.tensor([s.scale for s in people])
    return flow_file.combine(
        flow, folder / "target.safetensors", learnt, learnt.arguments, {"scale": scales}
    )


@pytest.fixture(scope="module")
def model(path):
    return models.load(path)


def shown(domain, person=21):
    """A person new to the model as a simulated scanner shows them.

    Returns (truth, source volume in its own intensities).
    """
    truth = scan(person)
    source = simulated_scanners.parse(domain)[0](truth)
    return truth, replace(
        truth.original, array=(source.image * 700).astype(np.float32), name="source"
    )


def run(source, model, mask=None, **settings):
    given = {"source": source} | ({"mask": mask} if mask is not None else {})
    return harmonize(given, {"model": model}, Settings(**{"device": "cpu", **settings}))


def test_a_smooth_field_is_taken_out_and_everything_is_told(model):
    truth, source = shown(FIELD)
    result = run(source, model, baselines=True)
    assert result.facts["verdict"] in ("accepted", "flagged"), result.facts["reasons"]
    image = result.volumes["harmonized"]
    before = harmonize_scan.rescaled(source.array, truth.mask)
    after = harmonize_scan.rescaled(image.array, truth.mask)
    assert (
        similarity.psnr(after, truth.image, truth.mask)
        > similarity.psnr(before, truth.image, truth.mask) + 3
    )
    # Of so few drawn people, a place may look unlike them by chance: told as a map of its own.
    told = {"harmonized", "change", "multiplicative field", "additive field"}
    assert set(result.volumes) - {"unlike"} == told
    assert set(result.roles) == set(result.volumes)
    columns = result.tables["summary"].columns
    summary = dict(zip(columns["image"], columns["Wasserstein distance to the target"]))
    assert summary["harmonized"] < summary["source"]
    assert "histogram matching" in result.tables["baselines"].columns["method"]
    assert "no-flow" in result.tables["baselines"].columns["method"]
    page = harmonize_report.page(result, source)
    assert result.facts["verdict"] in page and "Beside the classical methods" in page


def test_change_is_the_difference_and_the_change_can_be_taken_back(model):
    truth, source = shown("gamma 0.75 + field 0.25 seed 3")
    result = run(source, model)
    np.testing.assert_allclose(
        result.volumes["harmonized"].array - source.array, result.volumes["change"].array, atol=0.05
    )
    tone = ToneField.from_dict(result.facts["tone_field"])
    scale = result.facts["scale"]
    shines = source.array > 0
    back = (
        tone.inverse(result.volumes["harmonized"].array / scale, source.ijk_to_ras, shines) * scale
    )
    # Cutting negative values to 0 cannot be taken back; nothing else is lost.
    kept = shines & (result.volumes["harmonized"].array > 0)
    assert kept.mean() > 0.95 * shines.mean()
    np.testing.assert_allclose(back[kept], source.array[kept], rtol=2e-3, atol=0.5)


@pytest.mark.parametrize("output_range", ["native", "target"])
def test_the_volumes_and_the_table_undo_the_change_as_the_tutorial_says(model, output_range):
    _, source = shown("gamma 0.75 + field 0.25 seed 3")
    result = run(source, model, output_range=output_range)
    y, m, a = (
        result.volumes[key].array
        for key in ("harmonized", "multiplicative field", "additive field")
    )
    table, facts = result.tables["curve"].columns, result.facts
    scaled = y / facts["result_scale"]
    kept = (source.array > 0) & (y > 0) & (scaled < table["output (scaled)"][-1])
    x = (
        facts["scale"] * np.interp(scaled, table["output (scaled)"], table["input (scaled)"]) - a
    ) / m
    assert kept.mean() > 0.9 * (source.array > 0).mean()
    np.testing.assert_allclose(x[kept], source.array[kept], rtol=2e-3, atol=0.5)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.uint8, np.float64])
def test_native_range_and_type_are_kept(model, dtype):
    _, source = shown(FIELD)
    factor = 0.25 if dtype == np.uint8 else 1
    source = replace(source, array=(source.array * factor).astype(dtype))
    image = run(source, model).volumes["harmonized"]
    assert image.array.dtype == dtype and np.array_equal(image.ijk_to_ras, source.ijk_to_ras)
    assert np.array_equal(image.array[source.array <= 0], source.array[source.array <= 0])
    assert (
        0.5
        < np.percentile(image.array[source.array > 0], 99.5)
        / np.percentile(source.array[source.array > 0], 99.5)
        < 2
    )


def test_the_target_s_range_is_that_of_its_people(model):
    _, source = shown("gamma 0.7")
    image = run(source, model, output_range="target").volumes["harmonized"].array
    typical = float(np.median(model.network.statistic("scale").numpy()))
    assert image.dtype == np.float32
    assert np.percentile(image[image > 0], 99.5) == pytest.approx(typical, rel=0.15)


def test_a_model_without_the_target_s_intensities_is_refused_before_any_work(model, monkeypatch):
    _, source = shown("none")
    known = type(model.network).statistic
    monkeypatch.setattr(
        type(model.network),
        "statistic",
        lambda self, name: None if name == "scale" else known(self, name),
    )
    monkeypatch.setattr(
        harmonize_scan, "prepare", lambda *given: pytest.fail("the volume was looked at")
    )
    with pytest.raises(models.ModelError, match="train flow"):
        run(source, model, output_range="target")


def test_neighbours_farther_apart_than_the_margin_keep_their_order(model):
    _, source = shown(FIELD)
    result = run(source, model)
    scale, margin = result.facts["scale"], result.facts["order_margin"]
    assert (
        0 < margin < 0.2
        and "order_margin" not in run(source, model, strength=0.5, iterations=1).facts
    )
    seen, given = source.array / scale, result.volumes["harmonized"].array
    for axis in range(3):
        ends = [np.take(seen, range(n, seen.shape[axis] - 1 + n), axis) for n in (0, 1)]
        clear = (
            (np.diff(seen, axis=axis) > margin)
            & (np.minimum(*ends) > 0)
            & (np.maximum(*ends) < harmonize_scan.BRIGHTEST)
        )
        assert clear.sum() > 100 and (np.diff(given, axis=axis)[clear] >= 0).all()


def test_what_was_found_is_told_and_a_poor_alignment_is_flagged(model, monkeypatch):
    _, source = shown(FIELD)
    told = run(source, model)
    found = told.facts["estimate"]
    assert (
        "field" in found["explanation"]
        and found["evidence"]["tone curve"] == 0
        and found["unchanged"] == 0
    )
    assert found["alignment"] > method.LEAST_ALIGNMENT and told.facts["mask"] == "voxels above 0"
    verdict = dict(
        zip(told.tables["verdict"].columns["check"], told.tables["verdict"].columns["passed"])
    )
    assert verdict["alignment to the target"] == "yes"
    known = estimate.explain
    monkeypatch.setattr(
        estimate,
        "explain",
        lambda *given, **more: replace(known(*given, **more), alignment=0.8),
    )
    poor = run(source, model)
    assert poor.facts["verdict"] == "flagged" and "harmonized" in poor.volumes
    assert any("could not be aligned" in reason for reason in poor.facts["reasons"])


@pytest.mark.parametrize("axes", ["LPS", "SPR"])
def test_voxel_order_does_not_matter(model, axes):
    _, source = shown(FIELD)
    turned = volumes.reorient(source, axes)
    first, second = (run(v, model).volumes["harmonized"] for v in (source, turned))
    assert second.shape == turned.shape and np.array_equal(second.ijk_to_ras, turned.ijk_to_ras)
    back = volumes.reorient_like(volumes.reorient(second, "RAS"), source)
    np.testing.assert_allclose(back.array, first.array, rtol=1e-3, atol=0.5)


def test_values_beyond_the_scaled_range_are_not_cut(model):
    """A bright vessel, twice the 99.5th percentile, stays brighter than all else."""
    _, source = shown("gamma 1.5")
    centre = tuple(int(n.mean()) for n in np.nonzero(source.array > 0))
    bright = source.array.copy()
    bright[centre] = 2 * bright.max()
    image = run(replace(source, array=bright), model).volumes["harmonized"].array
    assert (
        image[centre]
        > 1.3 * np.delete(image.ravel(), np.ravel_multi_index(centre, image.shape)).max()
    )


@pytest.mark.parametrize("mode", ["published", "no-flow"])
def test_free_form_modes_stay_close_to_the_source_and_tell_their_course(model, mode):
    _, source = shown("gamma 0.7")
    result = run(source, model, mode=mode, iterations=3, force=True)
    image = result.volumes["harmonized"].array
    assert "multiplicative field" not in result.volumes and "similarity" in result.curves
    assert [len(x) for x, _ in result.curves["similarity"].lines.values()] == [3, 3, 3]
    inside = source.array > 0
    assert np.corrcoef(image[inside], source.array[inside])[0, 1] > 0.9 and not np.allclose(
        image, source.array, atol=1
    )


def test_strength_blends_and_is_off_by_default(model):
    _, source = shown(FIELD)
    images = {
        s: run(source, model, strength=s, iterations=1).volumes["harmonized"].array
        for s in (0, 0.5, 1)
    }
    assert np.array_equal(images[0], run(source, model).volumes["harmonized"].array)
    np.testing.assert_allclose(images[0.5], (images[0] + images[1]) / 2, rtol=1e-3, atol=1.0)


def test_the_same_settings_give_the_same_bits_also_as_a_job(model, path):
    _, source = shown(FIELD)
    first = run(source, model)
    request = jobs.Request(
        "harmonize", {"source": source}, {"model": str(path)}, asdict(Settings(device="cpu"))
    )
    second = jobs.run_here(request)
    assert np.array_equal(first.volumes["harmonized"].array, second.volumes["harmonized"].array)


def test_what_the_gate_refuses_is_not_given_but_flagged_if_forced(model, monkeypatch):
    words = "White matter is darker than grey: is it a T2?"
    failed = gate.Check("tissues of the source", 0.1, 0.5, 1.0, False, words, "refused")
    monkeypatch.setattr(gate, "check_source", lambda scan, statistics: [failed])
    _, source = shown("none")
    result = run(source, model)
    assert (
        result.facts["verdict"] == "refused"
        and "is it a T2" in result.facts["reasons"][0]
        and not result.volumes
    )
    assert "tissues of the source" in result.tables["verdict"].columns["check"]
    forced = run(source, model, force=True)
    assert forced.facts["verdict"] == "flagged" and "harmonized" in forced.volumes
    assert "asked for all the same" in forced.facts["reasons"][0]


def test_a_given_mask_on_another_grid_is_used(model):
    truth, source = shown(FIELD)
    coarse = volumes.Volume(
        np.ones((6, 6, 6), np.uint8), source.ijk_to_ras @ np.diag([8.0, 8.0, 8.0, 1.0]), "mask"
    )
    result = run(source, model, coarse, force=True)
    assert result.facts["mask_voxels"] > truth.mask.sum() and result.facts["mask"] == "given: mask"
    assert "mask (given: mask)" in harmonize_report.methods(result.facts)


def test_cancelling_leaves_at_once(model):
    class Stop(Progress):
        def report(self, fraction, message):
            raise Cancelled

    with pytest.raises(Cancelled):
        harmonize({"source": shown(FIELD)[1]}, {"model": model}, Settings(device="cpu"), Stop())


# -- bad input -------------------------------------------------------------------------------------


def test_what_is_no_volume_to_harmonize_is_refused(model):
    _, source = shown("none")

    def refused(array, message, **more):
        with pytest.raises(ValueError, match=message):
            run(replace(source, array=array), model, **more)

    refused(np.full_like(source.array, 5.0), "constant")
    refused(np.where(source.array > 300, np.nan, source.array), "finite|NaN")
    refused(source.array[:1], "single slice")
    refused(-source.array - 1, "no positive signal|empty")
    empty = replace(source, array=np.zeros(source.shape, np.uint8), name="mask")
    refused(source.array, "mask of source is empty", mask=empty)


def test_a_z_scored_brain_gets_no_image_but_a_sentence(model):
    truth, source = shown("none")
    mask = replace(source, array=truth.mask.astype(np.uint8), name="mask")
    values = source.array[truth.mask]
    scored = np.where(truth.mask, (source.array - values.mean()) / values.std(), 0)
    result = run(replace(source, array=scored.astype(np.float32)), model, mask=mask)
    assert result.facts["verdict"] == "refused" and not result.volumes
    assert "are below 0: was it z-scored" in result.facts["reasons"][0]


def test_negative_background_is_left_alone(model):
    _, source = shown(FIELD)
    noisy = source.array.copy()
    noisy[0, 0, :5] = -3
    image = run(replace(source, array=noisy), model).volumes["harmonized"].array
    assert (image[0, 0, :5] == -3).all()


def test_thick_slices_and_oblique_axes_are_taken(model):
    _, source = shown(FIELD)
    thick = replace(
        source,
        array=source.array[::2].copy(),
        ijk_to_ras=source.ijk_to_ras @ np.diag([1.0, 1.0, 2.0, 1.0]),
    )
    result = run(thick, model, force=True)
    assert result.volumes["harmonized"].shape == thick.shape
    oblique = replace(source, ijk_to_ras=random_matrix(1, (2.0, 2.0, 2.0)))
    assert run(oblique, model, force=True).volumes["harmonized"].shape == source.shape


@pytest.mark.parametrize(
    "name, value",
    [
        ("alpha", "x"),
        ("alpha", float("nan")),
        ("beta_edges", float("inf")),
        ("strength", True),
        ("iterations", 2.5),
        ("iterations", "3"),
        ("iterations", True),
        ("baselines", "no"),
        ("force", 1),
        ("orientations", "axial"),
        ("orientations", [1]),
        ("orientations", ["oblique"]),
        ("mode", None),
        ("mode", ["published"]),
        ("device", 0),
        ("seed", 0),
    ],
)
def test_settings_of_the_wrong_type_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        Settings.from_json({name: value})


def test_settings_that_fit_are_taken_as_json_writes_them():
    assert Settings.from_json({"alpha": 0, "orientations": ["axial"]}) == Settings(
        alpha=0.0, orientations=("axial",)
    )
    with pytest.raises(ValueError, match="JSON object"):
        Settings.from_json([1])


def test_a_model_for_something_else_is_refused():
    from toy_models import linear
    from toy_models import model as toy

    with pytest.raises(models.ModelError, match="no model for harmonization"):
        run(shown("none")[1], toy(linear([[1.0]])))
