"""The lesion suite: what is put into a brain is what was asked for, and is measured as it is."""

import numpy as np
import pytest
from toy_brains import scan

from NetInversionLib.core.results import table_of_rows
from NetInversionLib.evaluation import lesions
from NetInversionLib.evaluation.lesions import Lesion
from NetInversionLib.harmonize import shading


@pytest.fixture(scope="module")
def healthy():
    return lesions.cropped(scan(21))


def test_every_place_contrast_and_shading_is_planned_at_every_size():
    planned = [one for person in lesions.plan(6, 60) for one in person]
    assert len(planned) == 60 and len({one.seed for one in planned}) == 60
    sizes = sorted(one.ml for one in planned)
    assert sizes[0] == pytest.approx(1) and sizes[-1] == pytest.approx(150)
    assert {one.place for one in planned} == set(lesions.PLACES)
    assert {one.contrast for one in planned} == set(lesions.CONTRASTS)
    assert sum(one.shading == "" for one in planned) == 30
    assert planned == [one for person in lesions.plan(6, 60) for one in person]


@pytest.mark.parametrize("place", lesions.PLACES)
@pytest.mark.parametrize("ml", [3.0, 60.0])
def test_a_lesion_has_the_size_and_the_contrast_that_were_asked_for(healthy, place, ml):
    lesion = Lesion(place, ml, -0.35, "", 7)
    truth, share = lesions.with_lesion(healthy, lesion)
    voxel = np.prod(healthy.volume.spacing_mm) / 1000
    assert share.sum() * voxel == pytest.approx(ml, rel=0.25)
    assert not share[~healthy.mask].any()
    inside = share > 0.95
    ratio = truth[inside].mean() / healthy.image[inside].mean()
    assert ratio == pytest.approx(0.65, abs=0.05)
    assert np.array_equal(truth[share == 0], healthy.image[share == 0])


def test_the_measured_contrast_does_not_change_with_scale_and_falls_with_the_lesion(healthy):
    truth, share = lesions.with_lesion(healthy, Lesion("deep", 20.0, -0.35, "", 3))
    like = lesions.control(healthy, share)
    before = lesions.contrast(truth, share, like)
    assert lesions.contrast(truth * 3, share, like) == pytest.approx(before)
    half = (truth + healthy.image) / 2
    assert lesions.contrast(half, share, like) == pytest.approx(before / 2, abs=0.03)


@pytest.mark.parametrize("name", shading.GENERATORS)
def test_shading_is_smooth_and_as_strong_as_said(healthy, name):
    points = np.stack(np.meshgrid(*[np.linspace(-60, 60, 9)] * 3, indexing="ij")).reshape(3, -1)
    field = shading.GENERATORS[name](points, np.random.default_rng(0)).reshape(9, 9, 9)
    assert np.abs(field).max() == pytest.approx(1) and field.min() == pytest.approx(-field.max())
    assert max(np.abs(np.diff(field, axis=axis)).max() for axis in range(3)) < 0.8
    lesion = Lesion("deep", 20.0, -0.35, name, 5)
    source = lesions.shaded(healthy, healthy.image, lesion)
    ratio = source.image[healthy.mask] / np.maximum(healthy.image[healthy.mask], 0.05)
    assert np.ptp(np.percentile(ratio, [5, 95])) > 0.05


def test_without_shading_the_source_is_the_truth(healthy):
    truth, _ = lesions.with_lesion(healthy, Lesion("deep", 20.0, 0.3, "", 3))
    assert np.array_equal(
        lesions.shaded(healthy, truth, Lesion("deep", 20, 0.3, "", 3)).image, truth
    )


def test_the_summary_counts_what_was_kept():
    def row(contrast, change, field):
        return (
            "p",
            "deep",
            9.0,
            contrast,
            "",
            "ours",
            -0.3,
            -0.3,
            change,
            40.0,
            field,
            0.0,
            "accepted",
            1.0,
        )

    rows = [row(-0.3, -0.02, ""), row(-0.3, -0.2, "additive field"), row(0.3, 0.08, "")]
    columns = lesions.summary(table_of_rows("", lesions.HEADINGS, rows)).columns
    assert columns["cases"] == [3] and columns["fields found"] == [1]
    assert columns["dark, contrast within 5 % (%)"] == [50.0]
    assert columns["bright, within 10 % (%)"] == [100.0]
    assert columns["greatest loss of contrast (%)"] == [-20.0]
    assert columns["accepted"] == [3]
    assert columns["accepted though contrast fell by more than 10 %"] == [1]
