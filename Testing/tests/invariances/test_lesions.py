"""Lesions: their volume and place, linear networks with known answers, refusals."""

import numpy as np
import pytest
import torch
from torch import nn

from NetInversionLib.invariances.lesions import INSIDE, Nodule, detectability, draw, hide
from NetInversionLib.invariances.level_set import LevelSet, Window
from NetInversionLib.invariances.settings import LESION_SHAPES

HU = 500.0
SPACING = (0.8, 1.0)


def network(kernel):
    conv = nn.Conv2d(1, 1, kernel, padding=kernel // 2, bias=False)
    nn.init.constant_(conv.weight, 1 / kernel**2)
    return conv.eval().requires_grad_(False)


def level_set(kernel, size=(40, 44)):
    torch.manual_seed(0)
    return LevelSet(network(kernel), torch.rand(1, 1, *size), Window(6, 34, 6, 38), scale=HU)


def test_a_nodule_has_the_area_of_its_cut_and_its_place():
    change = draw(Nodule((12.0, 15.0), 10.0, 80.0), Window(2, 32, 3, 40), SPACING).numpy()
    assert change.shape == (30, 37) and change.sum() / 80 * SPACING[0] * SPACING[
        1
    ] == pytest.approx(np.pi * 25, rel=0.02)
    j, i = (np.average(np.indices(change.shape)[axis], weights=change) for axis in (0, 1))
    assert ((i + 3) * SPACING[0], (j + 2) * SPACING[1]) == pytest.approx((12.0, 15.0), abs=0.05)
    assert change.max() == pytest.approx(80, rel=0.02)


def test_every_shape_that_can_be_asked_for_can_be_drawn():
    assert set(LESION_SHAPES) == set(INSIDE)


def test_a_hollow_nodule_has_three_quarters_of_a_balls_area_and_nothing_in_its_middle():
    ball, hollow = (
        draw(Nodule((12.0, 15.0), 12.0, 80.0, shape), Window(0, 34, 0, 40), SPACING)
        for shape in ("ball", "hollow")
    )
    assert float(hollow.sum() / ball.sum()) == pytest.approx(0.75, rel=0.02)
    assert abs(hollow[15, 15]) < 1 and float(ball[15, 15]) == pytest.approx(80, rel=0.01)


def test_a_network_that_keeps_everything_hides_nothing():
    found = hide(level_set(1), [Nodule((16.8, 20.0), 8.0, 100.0)], SPACING, HU, 0.5)
    assert found.accepted.all() and abs(found.survived_hu[0]) < 5 and found.shown[0] > 10


def test_an_average_hides_small_nodules_better_than_large_ones():
    nodules = [Nodule((16.8, 20.0), diameter, 100.0) for diameter in (1.5, 10.0)]
    found = hide(level_set(5), nodules, SPACING, HU, 0.5, 300)
    assert (
        found.accepted.all()
        and found.survived[0] > 2 * found.survived[1]
        and found.shown[0] < found.shown[1]
    )


def test_within_the_tolerance_a_nodule_survives_whole():
    faint = Nodule((16.8, 20.0), 6.0, 1.0)
    found = hide(level_set(5), [faint], SPACING, HU, 5.0)
    assert (
        found.survived[0] == pytest.approx(1)
        and found.survived_hu[0] == pytest.approx(1)
        and found.shown[0] < 5
    )


def test_the_curve_has_a_line_for_each_contrast_and_the_table_every_pair():
    one = level_set(5)
    table, curve, images = detectability(
        {6.0: one, 2.0: one}, (16.8, 20.0), [40.0, -40.0], SPACING, HU, 0.5, 100
    )
    assert list(curve.lines) == ["-40 HU", "40 HU"] and curve.lines["40 HU"][0] == [2.0, 6.0]
    assert (
        table.columns["diameter (mm)"] == [2.0, 2.0, 6.0, 6.0]
        and table.columns["contrast (HU)"] == [-40.0, 40.0] * 2
    )
    assert all(table.columns["output unchanged"])
    # A linear network treats bright and dark alike.
    np.testing.assert_allclose(
        curve.lines["-40 HU"][1], -np.array(curve.lines["40 HU"][1]), rtol=0.1, atol=0.5
    )
    survived = table.columns["contrast that survives (HU)"]
    assert curve.lines["-40 HU"][1] == survived[::2] and curve.lines["40 HU"][1] == survived[1::2]
    strongest = max(range(4), key=lambda n: abs(survived[n]))
    (region, whole), (_, hidden) = images["lesion"], images["hidden lesion"]
    drawn = draw(
        Nodule(
            (16.8, 20.0),
            table.columns["diameter (mm)"][strongest],
            table.columns["contrast (HU)"][strongest],
        ),
        region,
        SPACING,
    )
    np.testing.assert_array_equal(whole, drawn)
    share = float((whole.double() * hidden).sum() / whole.double().square().sum())
    assert share == pytest.approx(
        survived[strongest] / table.columns["contrast (HU)"][strongest], rel=1e-3
    )


def test_where_the_search_finds_nothing_the_nodule_fades():
    """After one evaluation the search stands at the nodule itself, which the output shows.

    A faint nodule needs no search.
    """
    faint, strong, target = 0.1, 100.0, level_set(5)
    table, curve, images = detectability(
        {8.0: target}, (16.8, 20.0), [faint, strong], SPACING, HU, 0.5, 1
    )
    assert table.columns["output unchanged"] == [True, True]
    left = table.columns["contrast that survives (HU)"]
    faded = table.columns["left by fading alone (HU)"]
    assert faded == pytest.approx(left, rel=1e-4)
    assert left[0] == pytest.approx(faint, rel=1e-4) and 0 < left[1] < strong
    assert curve.lines["100 HU"][1] == [left[1]]
    changed = target.start + images["hidden lesion"][1][None, None] / HU
    assert 0.99 * 0.5 < float(target.measure(changed)) <= 0.5, "as much as may pass, and no more"


@pytest.mark.parametrize("wrong", [{"diameter_mm": 0.0}, {"contrast_hu": 0.0}])
def test_a_nodule_of_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match="diameter above 0"):
        Nodule(**{"centre_mm": (1.0, 1.0), "diameter_mm": 2.0, "contrast_hu": 10.0, **wrong})


@pytest.mark.parametrize(
    "nodule", [Nodule((500.0, 5.0), 4.0, 50.0), Nodule((10.0, 10.0), 0.01, 50.0)]
)
def test_a_nodule_beside_the_slice_or_between_its_voxels_is_refused(nodule):
    with pytest.raises(ValueError, match="does not touch the slice"):
        draw(nodule, Window(0, 32, 0, 40), SPACING)
