"""Simulated scanners: formulas, fields, the list's grammar, and what must not change."""

import numpy as np
import pytest
from scipy import ndimage
from toy_scans import make_scan

from NetInversionLib.core import files, volumes
from NetInversionLib.harmonize import scan as harmonize_scan
from NetInversionLib.harmonize import simulated_scanners
from NetInversionLib.harmonize.simulated_scanners import (
    STANDARD,
    UNCHANGED,
    Domain,
    DomainError,
    Step,
    parse,
    smooth_field,
)


def test_the_standard_list_is_the_seven_families():
    assert [d.name for d in parse()] == [
        "gamma 0.7",
        "gamma 1.5",
        "log 3",
        "exp 1.5",
        "field 0.3 seed 1",
        "offset 0.15 seed 2",
        "gamma 0.75 + field 0.25 seed 3",
    ]
    assert [d.spatial for d in parse()] == [False] * 4 + [True] * 3


@pytest.mark.parametrize(
    "text",
    [STANDARD, "none", "none, gamma 2", "log 3 + offset 0.1 seed 7", "clip 0.9 + coil 0.2 seed 4"],
)
def test_a_name_is_what_it_is_read_from(text):
    domains = parse(text)
    assert parse(", ".join(d.name for d in domains)) == domains


def test_fields_have_the_stated_default_seeds():
    assert parse("field 0.3, offset 0.1") == parse("field 0.3 seed 1, offset 0.1 seed 2")


def test_unlisted_curves_have_their_formulas():
    x = np.linspace(0, 1.2, 25, dtype=np.float32).reshape(1, 5, 5)
    spacing = (1.0, 1.0, 1.0)
    bent = Step("sigmoid", 6).apply(x, spacing)
    expected = 1 / (1 + np.exp(-6 * (x - 0.5))) - 1 / (1 + np.exp(3))
    assert bent == pytest.approx(expected, abs=1e-6)
    clipped = Step("clip", 0.9).apply(x, spacing)
    assert set(np.unique(clipped[x >= 0.9])) == {1}
    assert np.abs(clipped - x / 0.9)[x < 0.9].max() <= 0.5 / 255 + 1e-6
    assert (clipped * 255) == pytest.approx(np.rint(clipped * 255), abs=1e-3)


@pytest.mark.parametrize("name", ["coil", "exponential", "polynomial"])
def test_unlisted_fields_are_factors_of_the_amount_that_lie_in_space(name):
    ones, amount = np.ones((24, 20, 28), np.float32), 0.3
    step = Step(name, amount, 5)
    factor = step.apply(ones, (6.0, 6.0, 6.0))
    assert np.abs(factor - 1).max() == pytest.approx(amount, abs=1e-5)
    assert step.apply(2 * ones, (6.0, 6.0, 6.0)) == pytest.approx(2 * factor)
    finer = step.apply(np.ones((48, 40, 56), np.float32), (3.0, 3.0, 3.0))
    assert finer[::47, ::39, ::55] == pytest.approx(factor[::23, ::19, ::27], abs=5e-3)
    head = ones.copy()
    head[:8] = head[:, :8] = 0
    seen = step.apply(head, (6.0, 6.0, 6.0))[head > 0]
    assert [seen.min(), seen.max()] == pytest.approx([1 - amount, 1 + amount], abs=1e-5)
    assert not np.allclose(factor, Step(name, amount, 6).apply(ones, (6.0, 6.0, 6.0)), atol=0.02)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gamma",
        "gamma x",
        "gamma 0",
        "gamma nan",
        "gamma -1",
        "gamma inf",
        "gama 0.7",
        "field 1",
        "field 0.3 1",
        "field 0.3 seed",
        "field 0.3 seed -1",
        "gamma 0.7 seed 1",
        "sigmoid 6 seed 1",
        "coil 1",
        "gamma 0.7,,",
        "gamma 0.7 +",
    ],
)
def test_what_cannot_be_read_is_refused_with_what_to_write(text):
    with pytest.raises(DomainError, match="gamma 0.7"):
        parse(text)


@pytest.mark.parametrize(
    "text, formula",
    [
        ("gamma 0.7", lambda x: x**0.7),
        ("log 3", lambda x: np.log(1 + 3 * x)),
        ("exp 1.5", lambda x: np.exp(1.5 * x) - 1),
        ("field 0.3", lambda x: x * (1 + 0.3 * smooth_field(x.shape, 1))),
        ("offset 0.15", lambda x: np.maximum(x + 0.15 * smooth_field(x.shape, 2), 0)),
        (
            "gamma 0.75 + field 0.25 seed 3",
            lambda x: x**0.75 * (1 + 0.25 * smooth_field(x.shape, 3)),
        ),
    ],
)
def test_formulas(text, formula):
    scan = make_scan()
    changed = parse(text)[0](scan)
    expected = np.where(scan.mask | (scan.image > 0), formula(scan.image.astype(float)), 0)
    expected = np.clip(expected / np.percentile(expected[scan.mask], 99.5), 0, 1.3)
    np.testing.assert_allclose(changed.image, expected, atol=2e-6)


@pytest.mark.parametrize("domain", parse(STANDARD + ", none"), ids=lambda d: d.name)
def test_what_stays(domain):
    scan = make_scan()
    before = scan.image.copy()
    changed = domain(scan)
    assert (
        changed.mask is scan.mask
        and volumes.same_grid(changed.volume, scan.volume)
        and changed.original is scan.original
    )
    assert (changed.image[scan.image == 0][~scan.mask[scan.image == 0]] == 0).all()
    assert (
        changed.image.dtype == np.float32
        and changed.image.min() >= 0
        and changed.image.max() <= np.float32(1.3)
    )
    assert np.percentile(changed.inside, 99.5) == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(scan.image, before)
    np.testing.assert_array_equal(domain(scan).image, changed.image)
    if not domain.spatial and domain is not UNCHANGED:
        order = np.argsort(scan.inside)
        # A processor's float32 powers and logarithms are right to some last places: so much may
        # neighbours change places.
        assert (np.diff(changed.inside[order]) >= -8 * np.finfo(np.float32).eps).all()


def test_nothing_changes_without_steps():
    scan = make_scan()
    assert Domain(())(scan) is scan and UNCHANGED.name == "none"


@pytest.mark.parametrize("shape", [(20, 31, 27), (2, 5, 9)])
def test_field_is_scipys_zoom_of_the_drawn_values(shape):
    drawn = np.random.default_rng(5).uniform(-1, 1, (3, 4, 4))
    zoomed = ndimage.zoom(drawn, np.array(shape) / (3, 4, 4), order=3)
    field = smooth_field(shape, 5)
    np.testing.assert_allclose(field, zoomed / np.abs(zoomed).max(), atol=3e-6)
    assert np.abs(field).max() == 1 and field.dtype == np.float32


def test_air_between_voxels_of_the_mask_stays_out_of_the_scale():
    """Tissue outside a brain mask changes too, and the scale comes from inside.

    The mask covers a part of a head.
    """
    scan = make_scan()
    mask = scan.mask & (np.arange(scan.image.shape[0])[:, None, None] < 7)
    half = harmonize_scan.prepare(scan.original, scan.original.with_array(mask.astype(np.uint8)))
    changed = simulated_scanners.parse("gamma 2")[0](half)
    np.testing.assert_allclose(
        changed.image,
        np.clip(half.image**2 / np.percentile(half.inside**2, 99.5), 0, 1.3),
        atol=1e-5,
    )


def test_steps_are_applied_in_their_order():
    scan = make_scan()
    one, other = (
        Domain(steps)(scan).image
        for steps in (
            (Step("gamma", 2.0), Step("offset", 0.2, 1)),
            (Step("offset", 0.2, 1), Step("gamma", 2.0)),
        )
    )
    assert np.abs(one - other).max() > 0.01


def test_a_real_brain(data):
    scan = harmonize_scan.prepare(files.load(data / "brain_t1" / "site_b" / "ixi012_1211.nii.gz"))
    for domain in parse():
        changed = domain(scan)
        assert np.percentile(changed.inside, 99.5) == pytest.approx(1, abs=1e-5)
        error = np.sqrt(np.mean((changed.inside - scan.inside) ** 2))
        assert 0.03 < error < 0.25
