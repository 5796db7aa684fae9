"""Bands, principal components and segments of samples, against what is known of made-up ones."""

import numpy as np
import pytest
import torch

from NetInversionLib.invariances.components import (
    band_table,
    coverage_table,
    principal_components,
    segment_table,
    split,
)


@pytest.mark.parametrize("period, share", [(5.0, 0.5), (50.0, 0.993), (2.5, 0.0625)])
def test_a_wave_is_shared_by_its_period(period, share):
    """A Gaussian passes exp(-(5 mm / period)^2 ln 2) of a wave, at voxels that are not square."""
    i = torch.arange(400) * 0.5
    wave = torch.sin(2 * np.pi * i / period).expand(2, 30, 400)
    parts = split(wave, (0.5, 0.8), 5.0)
    torch.testing.assert_close(parts["structure"] + parts["noise"], wave)
    middle = np.s_[:, :, 100:300]
    assert float(parts["structure"][middle].std() / wave[middle].std()) == pytest.approx(
        share, rel=0.02
    )


def test_components_are_the_directions_that_were_put_in():
    torch.manual_seed(0)
    directions = torch.linalg.qr(torch.randn(35, 2, dtype=torch.float64))[0].T
    scores = torch.randn(4000, 2, dtype=torch.float64) * torch.tensor([30.0, 10.0])
    changes = (scores @ directions + 7).reshape(-1, 5, 7)
    found = principal_components(changes, 5)
    assert found.images.shape == (2, 5, 7) and found.explained.sum() == pytest.approx(1)
    np.testing.assert_allclose(found.explained, [0.9, 0.1], atol=0.01)
    for image, direction, length in zip(found.images, directions, (30, 10)):
        assert float(image.norm()) == pytest.approx(length, rel=0.05)
        assert abs(float(image.flatten() @ direction)) == pytest.approx(length, rel=0.06)
        assert float(image.flatten()[image.abs().argmax()]) > 0


def test_there_are_no_components_of_samples_that_do_not_differ():
    assert len(principal_components(torch.ones(4, 3, 3), 3).images) == 0
    assert len(principal_components(torch.randn(3, 4, 4), 9).images) == 2


def test_segments_count_only_what_was_sampled():
    labels = np.array([[0, 1, 1, 2], [3, 3, 1, 2]])
    maps = {"proven": np.array([[9, 1.0, 3.0, 5.0], [np.nan, np.nan, np.nan, 7.0]])}
    table = segment_table(labels, ("liver", "nodule"), maps)
    assert table.columns["segment"] == ["liver", "nodule", "label 3"] and table.columns[
        "voxels sampled"
    ] == [2, 2, 0]
    np.testing.assert_equal(table.columns["proven (HU)"], [2.0, 6.0, np.nan])


def test_bands_tell_what_survived():
    maps = {
        "unproven structure": np.array([3.0, 4.0, np.nan]),
        "proven structure": np.zeros(3),
        "unproven noise": np.full(3, 10.0),
        "proven noise": np.full(3, 5.0),
    }
    table = band_table(maps, 5.0).columns
    assert table["survived (%)"] == [0.0, 50.0] and table["unproven (HU)"][0] == pytest.approx(
        12.5**0.5
    )


def test_the_truth_lies_inside_as_often_as_the_map_is_right():
    rng = np.random.default_rng(0)
    spread = np.broadcast_to(np.linspace(1, 9, 200), (2, 150, 200)).copy()
    spread[0, :50] = np.nan  # nothing was sampled there
    change = np.nan_to_num(spread, nan=1e6) * rng.standard_normal(spread.shape)
    table = coverage_table(change, {"unproven": spread, "proven": spread / 10}).columns
    assert table["map"] == ["unproven", "proven", "one value everywhere"]
    one, two = table["within 1 SD (%)"], table["within 2 SD (%)"]
    assert (one[0], two[0]) == pytest.approx((68.3, 95.4), abs=1)
    assert (one[1], two[1]) == pytest.approx((8.0, 15.9), abs=1)  # of a tenth and a fifth
    assert one[2] > 70, "a value that is right on average is too large for most voxels"
    nothing = np.full((1, 2, 2), np.nan)
    empty = coverage_table(nothing, {"unproven": nothing, "proven": nothing})
    assert np.isnan(empty.columns["within 1 SD (%)"]).all()
