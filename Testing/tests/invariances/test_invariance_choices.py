"""Where the first click looks: a square in the image, in the body, and within one tile."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from NetInversionLib.core import volumes
from NetInversionLib.core.volumes import Volume, VolumeError
from NetInversionLib.invariances.choices import body, region_around

LUNG, COUCH = (slice(60, 90), slice(70, 110)), (slice(150, 154), slice(20, 180))


def patient(spacing=1.0):
    """A disk of tissue around column 100, row 80, with a lung in it, above a thin couch."""
    hu = np.full((3, 160, 200), -1000.0, np.float32)
    rows, columns = np.indices(hu.shape[1:])
    hu[:, np.hypot(rows - 80, columns - 100) < 60] = 40
    hu[(slice(None), *LUNG)] = -850
    hu[(slice(None), *COUCH)] = 100
    return Volume(hu, np.diag([-spacing, -spacing, 2.0, 1.0]), "CT", "HU")


def ras(ct, i, j, k=1):
    return tuple((ct.ijk_to_ras @ (i, j, k, 1.0))[:3])


def test_the_body_has_its_lungs_and_no_couch():
    ct = patient()
    found = body(ct.array[0], np.ones(2))
    assert found[LUNG].all() and not found[COUCH].any() and not found[0].any()
    assert found.sum() == pytest.approx(np.pi * 60**2, rel=0.02)


@pytest.mark.parametrize("axes", ["LPS", "RAS", "SPL", "ASR"])
def test_it_lies_around_the_point_whatever_the_array_s_axes(axes):
    ct = patient()
    point = ras(ct, 110, 75)
    found = region_around(volumes.reorient(ct, axes), point, 40)
    inside = np.zeros(ct.shape, bool)
    turned = volumes.reorient(ct.with_array(inside), axes)
    marked = turned.array.copy()
    marked[tuple(slice(*found.region[n : n + 2]) for n in (0, 2, 4))] = True
    k, j, i = np.nonzero(volumes.reorient(turned.with_array(marked), "LPS").array)
    assert set(k) == {1} and np.ptp(j) == np.ptp(i) == 39 and found.moved_mm == 0
    assert abs(j.mean() - 75) <= 0.5 and abs(i.mean() - 110) <= 0.5
    assert found.words == "40 x 40 mm around the view's centre"


def test_a_lung_is_within_the_body():
    ct = patient()
    assert region_around(ct, ras(ct, 90, 75), 40).moved_mm == 0


@pytest.mark.parametrize("corner", [(2, 2), (197, 2), (100, 158), (100, 152)])
def test_from_the_air_and_the_couch_it_moves_into_the_body(corner):
    ct = patient()
    found = region_around(ct, ras(ct, *corner), 40)
    k0, k1, j0, j1, i0, i1 = found.region
    inside = body(ct.array[1], np.ones(2))[j0:j1, i0:i1]
    assert inside.mean() > 0.5  # its middle lies a quarter of the square's side under the skin
    middle = np.array([(i0 + i1) / 2, (j0 + j1) / 2])
    assert found.moved_mm == pytest.approx(np.linalg.norm(middle - corner), abs=1.5)
    assert f"moved {found.moved_mm:.0f} mm into the body" in found.words


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 199),
    st.integers(0, 159),
    st.floats(1, 500),
    st.integers(16, 300),
    st.floats(0.3, 3),
)
def test_it_never_leaves_the_image_or_a_tile(i, j, side, tile, spacing):
    ct = patient(spacing)
    found = region_around(ct, ras(ct, i, j), side, tile)
    low, high = np.array(found.region[::2]), np.array(found.region[1::2])
    assert (low >= 0).all() and (high <= ct.shape).all()
    sides = high - low
    assert sides[0] == 1 and (sides[1:] >= 8).all() and (sides[1:] <= tile).all()
    np.testing.assert_allclose(found.size_mm, sides[1:] * spacing)


def test_an_image_of_nothing_but_air_is_looked_at_where_it_was_asked():
    ct = patient()
    air = ct.with_array(np.full(ct.shape, -1000, np.float32))
    assert region_around(air, ras(ct, 100, 80), 40).moved_mm == 0


def test_a_point_outside_of_the_image_is_refused():
    ct = patient()
    with pytest.raises(VolumeError, match="outside 'CT'"):
        region_around(ct, ras(ct, 100, 80, 9))
