"""Figures of reports: what lies where, in which proportion, and in which colours.

Grey levels and colours have the meaning that is told.
"""

import io

import numpy as np
import pytest
from PIL import Image
from toy_models import LPS

from NetInversionLib.core import figures, volumes
from NetInversionLib.core.colors import stops
from NetInversionLib.core.figures import Picture, Scale
from NetInversionLib.core.results import Curve
from NetInversionLib.core.volumes import Volume

RIGHT, ANTERIOR, SUPERIOR = np.array([30.0, 0, 0]), np.array([0, 30.0, 0]), np.array([0, 0, 30.0])
AXES = ["LPS", "RAS", "LAS", "PIR", "SAL", "ILA"]


def marked(axes: str, point_mm, spacing=(2.0, 3.0, 5.0)) -> Volume:
    """A volume around the origin with bright voxels near a point (RAS, mm).

    It is stored along these axes.
    """
    matrix = LPS.copy()
    matrix[:3, :3] = np.diag([-spacing[0], -spacing[1], spacing[2]])
    shape = (21, 31, 41)
    matrix[:3, 3] = -matrix[:3, :3] @ ((np.array(shape[::-1]) - 1) / 2)
    k, j, i = np.indices(shape)
    ras = np.stack([i, j, k], -1) @ matrix[:3, :3].T + matrix[:3, 3]
    array = (np.abs(ras - point_mm).max(-1) < 6).astype(np.float32)
    return volumes.reorient(Volume(array, matrix, "marked"), axes)


def centre(one: figures.Slice):
    """(down, across) of what is bright, in parts of the slice."""
    rows, columns = np.nonzero(one.array > 0.5)
    return (rows.mean() + 0.5) / one.array.shape[0], (columns.mean() + 0.5) / one.array.shape[1]


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize(
    "plane, point, down, across",
    [
        (figures.AXIAL, RIGHT, "middle", "left"),
        (figures.AXIAL, -RIGHT, "middle", "right"),
        (figures.AXIAL, ANTERIOR, "top", "middle"),
        (figures.CORONAL, RIGHT, "middle", "left"),
        (figures.CORONAL, SUPERIOR, "top", "middle"),
        (figures.SAGITTAL, SUPERIOR, "top", "middle"),
        (figures.SAGITTAL, ANTERIOR, "middle", "left"),
    ],
)
def test_a_marker_lies_where_radiologists_have_it(axes, plane, point, down, across):
    """The patient's right is on the reader's left, and anterior and superior are up.

    Seen from the side, anterior is left.
    """
    turned = volumes.reorient(marked(axes, point), "LPS")
    found = centre(figures.cut(turned, plane, turned.shape[plane] // 2))
    for part, word in zip(found, (down, across)):
        assert {
            "top": part < 0.4,
            "left": part < 0.4,
            "right": part > 0.6,
            "middle": 0.4 < part < 0.6,
        }[word]


@pytest.mark.parametrize("axes", AXES)
def test_the_letters_name_the_sides(axes):
    turned = volumes.reorient(marked(axes, RIGHT), "LPS")
    slices = [figures.cut(turned, plane, turned.shape[plane] // 2) for plane in range(3)]
    assert [one.sides for one in slices] == [
        ("R", "L", "A", "P"),
        ("R", "L", "S", "I"),
        ("A", "P", "S", "I"),
    ]


@pytest.mark.parametrize(
    "plane, letter, step",
    [(figures.AXIAL, "S", 5.0), (figures.CORONAL, "A", -3.0), (figures.SAGITTAL, "R", -2.0)],
)
def test_the_position_is_that_of_the_slice_in_mm(plane, letter, step):
    volume = marked("LPS", RIGHT)
    middle = volume.shape[plane] // 2
    assert figures.cut(volume, plane, middle + 2).position == f"{letter} {2 * step:.1f} mm"
    assert (
        figures.cut(volume, plane, middle + 2).spacing_mm
        == {0: (3, 2), 1: (5, 2), 2: (5, 3)}[plane]
    )


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("plane", range(3))
def test_a_box_holds_the_region_and_nothing_else(axes, plane):
    volume = marked(axes, 0)
    array = np.zeros(volume.shape, np.float32)
    array[2:7, 3:5, 1:9] = 1
    region = figures.inside(volume, (2, 7, 3, 5, 1, 9))
    turned = volumes.reorient(volume.with_array(array), "LPS")
    one = figures.cut(turned, plane, region[2 * plane])
    assert one.array.sum() > 0
    assert one.cropped(figures.box_of(region, plane, turned.shape)).array.min() == 1
    wider = figures.box_of(region, plane, turned.shape, 2)
    assert one.cropped(wider).array.sum() == one.array.sum() and one.cropped(wider).array.min() == 0


def test_a_slab_is_shown_from_its_flat_side():
    volume = marked("LPS", 0)
    assert figures.plane_of(volume) == figures.AXIAL
    assert figures.plane_of(volumes.crop(volume, (0, 21, 0, 31, 20, 23))) == figures.SAGITTAL
    assert figures.plane_of(volumes.crop(volume, (0, 21, 15, 16, 0, 41))) == figures.CORONAL


def bars_of(figure):
    return [axis for axis in figure.axes if axis.get_label() == "<colorbar>"]


def test_the_colour_bar_ends_where_the_window_ends():
    one = figures.cut(marked("LPS", 0), figures.AXIAL, 10)
    over = figures.replace(one, array=np.where(one.array > 0, one.array, np.nan))
    figure = figures.drawn(
        [
            [
                Picture(one, "grey", Scale(-160.0, 240.0, "CT value (HU)")),
                Picture(
                    one,
                    "map",
                    Scale(0, 1, "HU"),
                    (over, Scale(0.0, 4.4, "standard deviation (HU)", "viridis")),
                ),
            ]
        ]
    )
    figure.draw_without_rendering()
    found = []
    for bar in bars_of(figure):
        found.append(
            (
                bar.get_xlim(),
                [label.get_text() for label in bar.get_xticklabels()],
                bar.get_xlabel(),
            )
        )
    assert found == [
        ((-160, 240), ["-160", "40", "240"], "CT value (HU)"),
        ((0, 4.4), ["0", "2.2", "4.4"], "standard deviation (HU)"),
    ]
    shown = [axis.images[-1].get_clim() for axis in figure.axes if axis.images]
    assert shown == [(-160, 240), (0, 4.4)]


def test_voxels_that_are_no_cubes_are_drawn_in_proportion():
    """A cube of 60 mm covers as many pixels down as across, in each plane.

    It is made of voxels of 2 x 3 x 5 mm.
    """
    volume = marked("LPS", 0)
    k, j, i = np.indices(volume.shape)
    cube = volume.with_array(
        ((abs(k - 10) < 6) & (abs(j - 15) < 10) & (abs(i - 20) < 15)).astype(np.float32)
    )
    for plane, size in enumerate(((57, 58), (55, 58), (55, 57))):
        one = figures.cut(cube, plane, cube.shape[plane] // 2)
        picture = Picture(
            figures.replace(one, sides=("",) * 4, position=""), "", Scale(0, 1, "", "gray")
        )
        figure = figures.drawn([[picture]])
        figure.draw_without_rendering()
        axis = figure.axes[0]
        rows, columns = np.nonzero(one.array)
        (x0, y0), (x1, y1) = (
            axis.transData.transform(corner)
            for corner in (
                (columns.min() - 0.5, rows.min() - 0.5),
                (columns.max() + 0.5, rows.max() + 0.5),
            )
        )
        assert abs(y1 - y0) / abs(x1 - x0) == pytest.approx(size[0] / size[1], rel=0.02)


@pytest.mark.parametrize(
    "values, wanted",
    [([0, 0, 0], 1.0), ([0, -0.0123], 0.013), ([4.4, 2.0], 4.4), ([np.nan, 431.0], 440.0)],
)
def test_a_reach_is_round_and_not_below_the_values(values, wanted):
    assert figures.reach(np.array(values), 100) == pytest.approx(wanted)


def test_a_window_is_round_and_holds_the_percentiles():
    values = np.random.default_rng(0).normal(40, 60, 10000)
    low, high = figures.window(values, 1, 99)
    assert low <= np.percentile(values, 1) and np.percentile(
        values, 99
    ) <= high < 1.2 * np.percentile(values, 99)
    assert low == round(low, -1) and high == round(high, -1)
    assert figures.window(np.full(5, 7.0))[1] > 7


def test_the_same_sheet_gives_the_same_bytes():
    one = figures.cut(marked("LPS", 0), figures.AXIAL, 10)
    sheets = [figures.sheet([[Picture(one, "a", Scale(0, 1, "HU")), None]]) for _ in range(2)]
    assert sheets[0] == sheets[1] and min(Image.open(io.BytesIO(sheets[0])).size) > 100


def test_a_curve_s_lines_differ_by_more_than_colour(monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "png", lambda figure: drawn.append(figure) or b"")
    figures.plot(
        Curve(
            "Decay",
            "time (s)",
            "level (HU)",
            {name: ([0, 1], [1, n + 1]) for n, name in enumerate("abcdef")},
        )
    )
    axis = drawn[0].axes[0]
    assert len({str(line._dash_pattern) for line in axis.lines}) == 6
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_title()) == (
        "time (s)",
        "level (HU)",
        "Decay",
    )


def test_a_scale_may_name_a_role_whose_colours_the_views_have_too():
    colours = figures._colour_map("spread")
    for place, stop in ((0.0, 0), (1.0, -1)):
        assert (
            np.round(np.array(colours(place)[:3]) * 255).tolist() == stops("spread")[stop].tolist()
        )
    assert figures._colour_map("gray") == "gray"
