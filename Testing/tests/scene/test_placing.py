"""Boxes and points that a panel's button places enclose what they should, whatever the grid."""

import host
import numpy as np
import pytest

host.start()

from NetInversionLib.core.volumes import Volume  # noqa: E402
from NetInversionLib.panel import placing  # noqa: E402
from NetInversionLib.scene import read  # noqa: E402

TURN = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
GRIDS = {
    "axial": np.diag([-1.0, -1.0, 2.0]),
    "left-handed": np.diag([1.0, -0.7, 3.0]),
    "sagittal": np.array([[0.0, 0.0, 3.0], [-0.5, 0.0, 0.0], [0.0, 0.5, 0.0]]),
    "turned": TURN @ np.diag([0.9, 0.9, 2.5]),
}


def grid(axes):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = axes, (12.5, -30.0, 7.0)
    return Volume(np.broadcast_to(np.uint8(0), (20, 40, 50)), matrix, "CT")


@pytest.mark.parametrize("axes", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize(
    "region", [(3, 4, 10, 26, 5, 45), (0, 20, 0, 40, 0, 50), (7, 9, 1, 2, 48, 50)]
)
def test_a_box_encloses_exactly_the_region(scene, axes, region):
    volume = grid(axes)
    node = placing.place_box(None, "Region", volume, region)
    assert read.region_from_roi_node(node, volume) == region
    moved = placing.place_box(node, "Region", volume, (1, 3, 2, 9, 2, 9))
    assert moved is node and read.region_from_roi_node(node, volume) == (1, 3, 2, 9, 2, 9)


def test_a_second_box_has_another_name(scene):
    names = {
        placing.place_box(None, "Region", grid(np.eye(3)), (0, 1, 0, 9, 0, 9)).GetName()
        for _ in range(2)
    }
    assert len(names) == 2


def test_the_middle_of_a_view_is_found_where_it_was_panned_to(scene):
    import slicer

    node = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    node.JumpSliceByCentering(10.0, 20.0, 30.0)
    np.testing.assert_allclose(placing.view_centre("Red"), (10, 20, 30), atol=1e-6)
    before = np.array(placing.view_centre("Red"))
    node.SetXYZOrigin(15.0, 0.0, 0.0)  # what dragging the image does
    panned = np.array(placing.view_centre("Red")) - before
    assert np.linalg.norm(panned) == pytest.approx(15) and panned[2] == pytest.approx(0)


def test_a_view_of_another_volume_gives_the_grid_s_middle():
    volume = grid(np.diag([1.0, 1.0, 2.0]))
    inside = (20.0, -20.0, 9.0)
    assert placing.point_in(volume, inside) == inside
    np.testing.assert_allclose(
        placing.point_in(volume, (500.0, 0.0, 0.0)), (12.5 + 24, -30 + 19, 7 + 18)
    )
