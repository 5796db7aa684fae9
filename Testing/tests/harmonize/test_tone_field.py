import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline

from NetInversionLib.core.volumes import Volume
from NetInversionLib.harmonize import tone_field
from NetInversionLib.harmonize.tone_field import ToneField, ToneFieldError


def random_change(seed: int, shape=(4, 5, 4), log_m=0.2, a=0.05, spacing=36.0) -> ToneField:
    """A change with a bent curve and both fields.

    Its control grid is turned and sheared against the patient's axes.
    """
    rng = np.random.default_rng(seed)
    matrix = np.eye(4)
    matrix[:3, :3] = spacing * (np.eye(3) + rng.uniform(-0.1, 0.1, (3, 3)))
    matrix[:3, 3] = -60
    knots = np.array([np.linspace(0, 1.3, 9), np.cumsum(rng.uniform(0.02, 0.3, 9))])
    return ToneField(knots, rng.uniform(-log_m, log_m, shape), rng.uniform(-a, a, shape), matrix)


def grid(spacing=(4.0, 5.0, 6.0), corner=(-50.0, -55.0, -45.0)) -> np.ndarray:
    matrix = np.diag([*spacing, 1.0])
    matrix[:3, 3] = corner
    return matrix


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_the_curve_is_strictly_monotone_and_its_inverse_exact(seed):
    change = random_change(seed)
    values = np.sort(np.random.default_rng(seed).uniform(-1, 3, 200))
    there = change.curve(values)
    assert (np.diff(there) > 0).all()
    assert np.allclose(change.curve_inverse(there), values, atol=1e-12)


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_the_change_is_taken_back(seed):
    change = random_change(seed)
    image = np.random.default_rng(seed).uniform(0, 1.3, (14, 12, 13)).astype(np.float32)
    where = image > 0.2
    changed = change.apply(image, grid(), where)
    assert np.abs(change.inverse(changed, grid(), where) - image).max() < 1e-6
    assert np.array_equal(changed[~where], image[~where])
    assert np.abs(changed[where] - image[where]).max() > 0.01


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_it_recovers_the_truth_when_given_the_parameters_of_the_simulation(seed):
    """Oracle: a scanner simulated by plain formulas, a field and a power law, is undone exactly."""
    rng = np.random.default_rng(seed)
    change = random_change(seed)
    truth = rng.uniform(0.01, 1.2, (9, 10, 11)).astype(np.float32)
    kji = np.stack(np.meshgrid(*map(np.arange, truth.shape), indexing="ij")).reshape(3, -1)
    points = grid()[:3, :3] @ kji[::-1] + grid()[:3, 3:]
    m, a = (f.reshape(truth.shape) for f in change.fields_at(points))
    seen = (np.interp(truth, *change.knots[::-1]) - a) / m
    truth_in_range = (truth > change.knots[1, 0]) & (truth < change.knots[1, -1])
    assert np.abs(change.apply(seen, grid()) - truth)[truth_in_range].max(initial=0) < 1e-5


def test_the_fields_are_cubic_b_splines_of_the_control_values():
    """Against SciPy's own B-splines, on the product of three axes."""
    rng = np.random.default_rng(0)
    control = rng.normal(size=(4, 6, 5))
    kji = rng.uniform(0, 1, (3, 50)) * np.array([[3], [5], [4]])
    expected = control
    weights = []
    for axis, size in enumerate(control.shape):
        knots = np.arange(-4, size + 4) + 0.0
        padded = np.pad(np.eye(size), ((2, 2), (0, 0)), mode="edge")
        weights.append(np.stack([BSpline(knots, padded[:, n], 3)(kji[axis]) for n in range(size)]))
    expected = np.einsum("abc,an,bn,cn->n", control, *weights)
    assert np.allclose(tone_field.bspline(control, kji), expected, atol=1e-12)


def test_fields_stay_within_their_control_values_and_have_no_kink_anywhere():
    change = random_change(3, a=0.1)
    ray = np.linspace(-400, 400, 8001)
    points = np.stack([ray, 0.7 * ray - 20, 0.4 * ray])
    _, a = change.fields_at(points)
    assert a.min() >= change.a.min() and a.max() <= change.a.max()
    slope = np.diff(a) / 0.1
    # A kink would be a jump of the slope, some 1e-3 here; steps of 0.1 mm along a smooth curve
    # change it by far less.
    assert np.abs(np.diff(slope)).max() < 2e-5


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_bounds_on_the_gradients_hold_everywhere(seed):
    change = random_change(seed, a=0.15, log_m=0.3)
    rng = np.random.default_rng(seed)
    points = rng.uniform(-120, 120, (3, 4000))
    step = rng.normal(size=(3, 4000))
    step *= 0.01 / np.linalg.norm(step, axis=0)
    (m, a), (m2, a2) = change.fields_at(points), change.fields_at(points + step)
    slope_m, slope_a = change.steepest()
    assert np.abs(np.log(m2 / m)).max() / 0.01 <= slope_m * (1 + 1e-6)
    assert np.abs(a2 - a).max() / 0.01 <= slope_a * (1 + 1e-6)


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_neighbours_keep_their_order_beyond_the_margin(seed):
    change = random_change(seed, a=0.15, log_m=0.3)
    image = np.random.default_rng(seed).uniform(0, 1.3, (20, 20, 20)).astype(np.float32)
    matrix = grid((1.0, 2.0, 1.5))
    changed = change.apply(image, matrix)
    for axis, distance in enumerate((1.5, 2.0, 1.0)):
        before, after = np.diff(image, axis=axis), np.diff(changed, axis=axis)
        kept = np.abs(before) > change.order_margin(distance) + 1e-6
        assert kept.mean() > 0.3
        assert (np.sign(after) == np.sign(before))[kept].all()


def test_the_change_does_not_depend_on_the_grid_it_is_evaluated_on():
    """A coarse grid's voxels, every second one of a fine grid, have the same values there.

    The same holds where an axis is flipped.
    """
    change = random_change(5)
    fine = np.random.default_rng(0).uniform(0, 1, (16, 18, 20)).astype(np.float32)
    matrix = grid()
    coarse_matrix = matrix.copy()
    coarse_matrix[:3, :3] *= 2
    changed = change.apply(fine, matrix)
    assert np.allclose(
        change.apply(fine[::2, ::2, ::2], coarse_matrix), changed[::2, ::2, ::2], atol=1e-6
    )
    flipped = matrix.copy()
    flipped[:3, 0] *= -1
    flipped[:3, 3] += matrix[:3, 0] * (fine.shape[2] - 1)
    assert np.allclose(change.apply(fine[..., ::-1], flipped), changed[..., ::-1], atol=1e-6)


def test_volumes_of_the_fields_are_what_apply_uses():
    change = random_change(7)
    image = np.random.default_rng(0).uniform(0, 1, (8, 9, 10)).astype(np.float32)
    m, a = change.fields(Volume(image, grid(), "scan"))
    assert np.allclose(
        change.curve(m.array * image + a.array), change.apply(image, grid()), atol=1e-6
    )
    assert np.array_equal(m.ijk_to_ras, grid()) and m.array.dtype == np.float32


def test_slabs_join_without_a_seam(monkeypatch):
    change, image = (
        random_change(8),
        np.random.default_rng(0).uniform(0, 1, (9, 10, 11)).astype(np.float32),
    )
    whole = change.apply(image, grid(), image > 0.3)
    monkeypatch.setattr(tone_field, "SLAB_VOXELS", 200)
    # Not to the last bit: a product of matrices is rounded by its width, and the slabs are
    # narrower.
    found = change.apply(image, grid(), image > 0.3)
    np.testing.assert_allclose(found, whole, rtol=4 * np.finfo(np.float32).eps)


def test_json_gives_the_same_change_to_the_last_bit():
    change = random_change(9)
    again = ToneField.from_dict(json.loads(json.dumps(change.to_dict())))
    image = np.random.default_rng(0).uniform(0, 1, (8, 9, 10)).astype(np.float32)
    assert np.array_equal(again.apply(image, grid()), change.apply(image, grid()))


def test_the_identity_changes_nothing():
    image = np.random.default_rng(0).uniform(0, 1.3, (5, 6, 7)).astype(np.float32)
    assert np.array_equal(ToneField.identity().apply(image, grid()), image)


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_points_with_ties_and_cliffs_become_a_strict_curve(seed):
    rng = np.random.default_rng(seed)
    x = np.sort(np.round(rng.uniform(0, 1, 60), 1))
    y = np.sort(np.round(rng.uniform(0, 1, 60), 1))
    knots = tone_field.strictly_increasing(x, y)
    slopes = np.diff(knots[1]) / np.diff(knots[0])
    assert (np.diff(knots) > 0).all() and slopes.min() > 0.019 and slopes.max() < 50.1
    gentle = np.linspace(0, 1, 20)
    assert np.allclose(
        tone_field.strictly_increasing(gentle, gentle**1.5 + gentle)[1],
        gentle**1.5 + gentle,
        atol=1e-12,
    )


@pytest.mark.parametrize(
    ("part", "value", "says"),
    [
        ("curve", {"input": [0, 1, 1], "output": [0, 1, 2]}, "strictly increasing"),
        ("curve", {"input": [0, 1], "output": [1, 0]}, "strictly increasing"),
        ("curve", {"input": [0], "output": [0]}, "points"),
        ("curve", {"input": [0, float("nan")], "output": [0, 1]}, "strictly increasing"),
        ("curve", {"input": [0, 1, 2], "output": [0, 1]}, "not a tone field"),
        ("log_m", [[[0.0, 0.1]]], "one shape"),
        ("log_m", [[[9.0]]], "between"),
        ("a", [[[float("inf")]]], "finite"),
        ("control_to_ras", [[0] * 4] * 4, "inverted"),
        ("a", None, "one shape"),
    ],
)
def test_numbers_that_are_no_tone_field_are_refused(part, value, says):
    numbers = ToneField.identity().to_dict() | {part: value}
    with pytest.raises(ToneFieldError, match=says):
        ToneField.from_dict(numbers)


def test_a_missing_part_is_named():
    numbers = ToneField.identity().to_dict()
    del numbers["a"]
    with pytest.raises(ToneFieldError, match="a"):
        ToneField.from_dict(numbers)
