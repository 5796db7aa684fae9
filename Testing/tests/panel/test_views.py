"""Results in the views: layout, labels, legends with units, and the part in sight.

They are as Slicer's own logics have them.
"""

import host
import numpy as np
import pytest
import slicer
import vtk
from test_host_rendering import pixels

from NetInversionLib.core.steps import finish
from NetInversionLib.core.volumes import Volume
from NetInversionLib.scene import read, write

host.start()  # what the panel's code imports

from NetInversionLib.panel import views  # noqa: E402

LAYOUT = 7001
BOX = (slice(2, 5), slice(30, 50), slice(10, 40))  # [k, j, i] where the map is not 0


@pytest.fixture
def maps(scene):
    """A patient's image and a change inside a box of it, turned and with its own spacing."""
    matrix = np.array([[0.9, 0, 0.2, -30], [0, 1.1, 0, 20], [-0.2, 0, 3.0, 5], [0, 0, 0, 1.0]])
    change = np.zeros((8, 80, 90), np.float32)
    change[BOX] = np.random.default_rng(0).normal(0, 20, change[BOX].shape)
    patient = write.volume_to_node(
        Volume(np.full_like(change, 50), matrix, "Patient", "HU"), role="ct"
    )
    return patient, write.volume_to_node(Volume(change, matrix, "Change", "HU"), role="difference")


def arrangement(patient, change):
    return [
        [
            views.SliceView("ViewsA", "Patient", patient),
            views.SliceView("ViewsB", "Change & more", patient, change),
        ],
        [
            views.TabViews(
                {"Numbers": views.TableView("ViewsTable"), "Lines": views.PlotView("ViewsPlot")}
            )
        ],
    ]


def shown(patient, change, analysed=None):
    finish(views.show(LAYOUT, arrangement(patient, change), analysed))
    manager = slicer.app.layoutManager()
    return [manager.sliceWidget(tag) for tag in ("ViewsA", "ViewsB")]


def test_the_layout_has_what_was_asked_for_and_each_view_says_what_it_is(maps):
    patient, change = maps
    first, second = shown(patient, change, change)
    assert slicer.app.layoutManager().layout == LAYOUT
    assert slicer.views.slice_views_of_layout() == ["ViewsA", "ViewsB"]
    assert [w.mrmlSliceNode().GetLayoutLabel() for w in (first, second)] == [
        "Patient",
        "Change & more",
    ]
    assert first.mrmlSliceCompositeNode().GetForegroundVolumeID() is None
    assert second.mrmlSliceCompositeNode().GetForegroundVolumeID() == change.GetID()
    assert second.mrmlSliceCompositeNode().GetForegroundOpacity() == 1
    assert all(w.mrmlSliceCompositeNode().GetLinkedControl() for w in (first, second))
    for tag, kind in (("ViewsTable", "vtkMRMLTableViewNode"), ("ViewsPlot", "vtkMRMLPlotViewNode")):
        assert slicer.mrmlScene.GetSingletonNode(tag, kind) is not None
    again = views.SliceView("ViewsA", "Another", change)
    finish(views.show(LAYOUT, [[again, arrangement(patient, change)[0][1]]]))
    assert first.mrmlSliceNode().GetLayoutLabel() == "Another"
    assert first.mrmlSliceCompositeNode().GetBackgroundVolumeID() == change.GetID()


def in_slice(widget, corners):
    """How far points in RAS reach in a view.

    Returns mm across and up from its middle, and off its plane.
    """
    to_slice = np.linalg.inv(slicer.util.arrayFromVTKMatrix(widget.mrmlSliceNode().GetSliceToRAS()))
    return corners @ to_slice[:3, :3].T + to_slice[:3, 3]


def test_views_show_what_was_analysed_with_a_margin_and_lie_on_one_of_its_slices(maps):
    patient, change = maps
    parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 3, 40)
    parent.SetMatrixTransformToParent(matrix)
    for node in maps:
        node.SetAndObserveTransformNodeID(parent.GetID())
    corners = views.analysed_box(change)
    inside = np.argwhere(slicer.util.arrayFromVolume(change))[:, ::-1]
    world = read.volume_from_node(change).ijk_to_ras
    points = inside @ world[:3, :3].T + world[:3, 3]
    for widget in shown(patient, change, change):
        node = widget.mrmlSliceNode()
        reach, box = in_slice(widget, points), in_slice(widget, corners)
        field = np.array(node.GetFieldOfView()[:2])
        assert (np.abs(reach[:, :2]) <= field / 2).all()  # all of it is in sight
        share = np.ptp(box[:, :2], axis=0) / field
        largest = (views.BESIDE_LEGENDS, 1 / views.MARGIN)
        assert (share / largest).max() == pytest.approx(1, rel=1e-6)  # and fills what is free
        assert reach[:, 2].min() <= 1e-6 and reach[:, 2].max() >= -1e-6
    # Fit, as Slicer's own button does, shows all again.
    before = node.GetFieldOfView()[0]
    widget.fitSliceToBackground()
    assert node.GetFieldOfView()[0] > 1.5 * before


def test_a_small_region_near_the_border_or_nothing_at_all_is_shown_too(maps):
    patient, change = maps
    slicer.util.updateVolumeFromArray(change, np.zeros((8, 80, 90), np.float32))
    assert views.analysed_box(change) is None
    whole = shown(patient, change, change)[0].mrmlSliceNode().GetFieldOfView()
    array = np.ones((8, 80, 90), np.float32)
    slicer.util.updateVolumeFromArray(change, array)
    assert shown(patient, change, change)[0].mrmlSliceNode().GetFieldOfView() == pytest.approx(
        whole
    )  # no more than all


def test_the_box_of_a_large_volume_holds_all_of_it_and_little_more():
    array = np.zeros((3, 1200, 1300), np.float32)
    array[1, 100:1003, 57:1100] = 1
    node = write.volume_to_node(Volume(array, np.eye(4), "large"))
    corners = views.analysed_box(node)
    low, high = corners.min(0), corners.max(0)
    assert (low <= (56.5, 99.5, 0.5)).all() and (high >= (1099.5, 1002.5, 1.5)).all()
    assert (low > (50, 90, 0)).all() and (high < (1106, 1010, 2)).all()


@pytest.mark.parametrize(
    "role, units, title",
    [
        ("difference", "HU", "Change (HU)"),
        ("factor", "", "Factor"),
        ("error", "HU", "Error (HU)"),
        ("spread", "HU", "SD (HU)"),
        ("spread", "", "Share"),
        ("difference", "", "Change (a.u.)"),
    ],
)
def test_a_legend_says_what_the_colours_mean_with_the_unit(scene, role, units, title):
    node = write.volume_to_node(
        Volume(np.ones((2, 3, 4), np.float32), np.eye(4), "map", units), role=role
    )
    views.show_legend(node)
    logic = slicer.modules.colors.logic()
    legend = logic.GetColorLegendDisplayNode(node)
    assert legend.GetTitleText() == title and not legend.GetUseColorNamesForLabels()
    views.show_legend(node)  # again, and still one
    assert logic.GetNumberOfColorLegendDisplayNodes(node) == 1


@pytest.mark.parametrize("role", ["ct", "input", None])
def test_an_image_that_is_no_map_gets_no_legend(scene, role):
    node = write.volume_to_node(
        Volume(np.ones((2, 3, 4), np.float32), np.eye(4), "image", "HU"), role=role
    )
    views.show_legend(node)
    views.show_legend(None)
    assert not slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode")


def has_legend(picture):
    """Whether the right quarter of a view shows both ends of the colours of differences."""
    right = picture[20:, -90:].reshape(-1, 3).astype(int)
    ends = (np.array([0x08, 0x30, 0x6B]), np.array([0x7F, 0x27, 0x04]))
    return all((np.abs(right - end).max(1) < 12).sum() > 10 for end in ends)


def test_legends_are_drawn_in_the_views_that_show_the_map_and_in_no_other(maps, tmp_path):
    if not host.rendering.opengl():
        pytest.skip("rendering: VTK has no OpenGL here, and legends are drawn by it")
    patient, change = maps
    change_array = slicer.util.arrayFromVolume(change)
    change_array[BOX] = np.sign(change_array[BOX])  # not of the colours of the ends
    change.GetDisplayNode().SetWindowLevelMinMax(-20, 20)
    shown(patient, change, change)
    left, right = (
        pixels(host.render_slice_views(tmp_path / "view.png", [tag], size=(360, 300)))
        for tag in ("ViewsA", "ViewsB")
    )
    assert not has_legend(left) and has_legend(right)
    slicer.mrmlScene.RemoveNode(slicer.modules.colors.logic().GetColorLegendDisplayNode(change))
    assert not has_legend(
        pixels(host.render_slice_views(tmp_path / "view.png", ["ViewsB"], size=(360, 300)))
    )


def test_a_legend_older_than_a_view_is_not_drawn_in_it_until_it_is_made_anew(maps, tmp_path):
    """As Slicer has it: what draws legends learns of them when they are added."""
    if not host.rendering.opengl():
        pytest.skip("rendering: VTK has no OpenGL here, and legends are drawn by it")
    patient, change = maps
    change.GetDisplayNode().SetWindowLevelMinMax(
        -1e4, 1e4
    )  # none of the colours of the ends in the image
    views.show_legend(change)
    manager = slicer.app.layoutManager()
    manager.layoutLogic().GetLayoutNode().AddLayoutDescription(
        7002, views.layout_description([[views.SliceView("ViewsNew", "")]])
    )
    manager.setLayout(7002)
    views.show_slice(
        manager.sliceWidget("ViewsNew"), views.SliceView("ViewsNew", "New", patient, change)
    )
    manager.sliceWidget("ViewsNew").fitSliceToBackground()

    def drawn():
        return has_legend(
            pixels(host.render_slice_views(tmp_path / "view.png", ["ViewsNew"], size=(360, 300)))
        )

    assert not drawn()
    views.show_legend(change)
    assert drawn()


@pytest.mark.parametrize("opacity", (0.5, 1))
def test_a_map_covers_what_lies_below_unless_it_is_laid_over_it(maps, tmp_path, opacity):
    patient, change = maps
    patient.GetDisplayNode().SetWindowLevelMinMax(0, 100)
    for now in (1.5 - opacity, opacity):  # whatever it was before
        row = [views.SliceView("ViewsB", "Change", patient, change, now)]
        finish(views.show(LAYOUT, [row]))
    slicer.app.layoutManager().sliceWidget("ViewsB").sliceLogic().FitSliceToBackground()
    picture = pixels(host.render_slice_views(tmp_path / "view.png", ["ViewsB"], size=(300, 300)))[
        20:, :200
    ].astype(int)
    coloured = np.ptp(picture, axis=2) > 20
    grey = np.abs(picture - 127).max(2) < 4  # the patient's 50 in a window of 0 to 100
    light = np.abs(picture - 240).max(2) < 4  # nothing changed
    assert 100 < coloured.sum() < 0.2 * (grey if opacity < 1 else light).sum()
    assert (light if opacity < 1 else grey).sum() < 0.01 * picture[..., 0].size


def focus_chain(panel):
    """Names of a panel's controls in the order in which the Tab key visits them.

    A part is named by what it is part of.
    """
    from PySide6.QtWidgets import QWidget

    found, widget = [], QWidget.nextInFocusChain(panel)
    while widget is not panel:
        if QWidget.focusPolicy(widget).value:
            named = widget
            while named is not None and QWidget.objectName(named)[:3] in ("", "qt_"):
                named = QWidget.parentWidget(named)
            found.append(QWidget.objectName(named) if named is not None else "")
        widget = QWidget.nextInFocusChain(widget)
    return found


def test_the_tab_key_visits_controls_made_in_code_where_they_stand(module):
    widget = module("IdealInput")
    selectors = [selector.objectName for selector in widget._selectors.values()]
    wanted = ("modelFileEdit", *selectors, "regionSelector")
    chain = list(dict.fromkeys(name for name in focus_chain(widget.parent) if name in wanted))
    assert tuple(chain) == wanted
