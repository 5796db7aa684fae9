"""Pictures show what MRML says.

This is asked of window and level, colour tables, layers, orientation, plots, and text on panels.
"""

import host
import numpy as np
import pytest
from host import plots, rendering
from PySide6 import QtGui

SIZE = (120, 90)


def pixels(path):
    """A picture as (height, width, 3) uint8."""
    image = QtGui.QImage(str(path)).convertToFormat(QtGui.QImage.Format.Format_RGB888)
    rows = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), image.bytesPerLine())
    return rows[:, : 3 * image.width()].reshape(image.height(), image.width(), 3).copy()


def volume(array, name="volume", kind="vtkMRMLScalarVolumeNode", window=None):
    """A volume whose voxels are 1 mm and whose middle voxel is at the origin."""
    import slicer

    matrix = np.eye(4)
    matrix[:3, 3] = [-(n // 2) for n in array.shape[::-1]]
    node = slicer.util.addVolumeFromArray(array, matrix, name, kind)
    node.CreateDefaultDisplayNodes()
    if window:
        node.GetDisplayNode().AutoWindowLevelOff()
        node.GetDisplayNode().SetWindowLevel(*window)
    return node


def middle(path, view=0, size=SIZE):
    """The colour in the middle of one view of a row."""
    picture = pixels(path)
    return picture[rendering.BAR + size[1] // 2, view * (size[0] + 4) + size[0] // 2].astype(int)


@pytest.mark.parametrize("value", [-500, -160, -100, 40, 100, 239, 3000])
def test_window_and_level_are_applied(scene, tmp_path, value):
    node = volume(np.full((3, 20, 20), value, np.int16), window=(400, 40))
    path = host.render_slice_views(tmp_path / "view.png", [node], size=SIZE)
    expected = 255 * np.clip((value - (40 - 200)) / 400, 0, 1)
    assert np.abs(middle(path) - expected).max() <= 1.5
    assert pixels(path).shape == (SIZE[1] + rendering.BAR, SIZE[0], 3)


def test_colour_table_label_and_opacity_mix_as_the_nodes_say(scene, tmp_path):
    import slicer

    grey = volume(np.full((3, 20, 20), 50.0), window=(100, 50))
    hot = volume(np.full((3, 20, 20), 70.0), "hot", window=(100, 50))
    hot.GetDisplayNode().SetAndObserveColorNodeID("vtkMRMLColorTableNodeRed")
    label = volume(np.full((3, 20, 20), 2, np.uint8), "label", "vtkMRMLLabelMapVolumeNode")
    colour = np.zeros(4)
    slicer.util.getNode(label.GetDisplayNode().GetColorNodeID()).GetColor(2, colour)
    path = host.render_slice_views(
        tmp_path / "views.png",
        size=SIZE,
        views=[
            hot,
            {"background": grey, "foreground": hot, "foreground_opacity": 0.25},
            {"background": grey, "label": label},
        ],
    )
    red, base = np.array([0.7, 0, 0]) * 255, np.full(3, 0.5) * 255
    assert np.abs(middle(path, 0) - red).max() <= 3
    assert np.abs(middle(path, 1) - (0.25 * red + 0.75 * base)).max() <= 3
    assert np.abs(middle(path, 2) - colour[:3] * 255).max() <= 2


@pytest.mark.parametrize("orientation", ["Axial", "Coronal"])
def test_patient_right_is_on_the_left_and_anterior_or_superior_up(scene, tmp_path, orientation):
    array = np.zeros((21, 21, 21))
    array[10:, :, :] += 50  # superior half
    array[:, 10:, :] += 25  # anterior half
    array[:, :, 10:] += 100  # right half: RAS axis 0 grows to the right
    path = host.render_slice_views(
        tmp_path / "view.png",
        [volume(array, window=(200, 100))],
        orientation=orientation,
        size=(100, 100),
    )
    picture = pixels(path)[rendering.BAR :, :, 0].astype(int)
    assert picture[:, :40].mean() > picture[:, 60:].mean() + 50
    assert picture[:40, 45].mean() > picture[60:, 45].mean() + 15


def test_opengl_and_the_logic_alone_give_the_same_picture(scene):
    if not rendering.opengl():
        pytest.skip("rendering: VTK has no OpenGL here, the logic's own picture is what is used")
    import slicer

    node = volume(np.random.default_rng(0).normal(40, 100, (9, 30, 40)), window=(400, 40))
    slicer.util.setSliceViewerLayers(background=node, fit=True)
    logic = slicer.app.layoutManager().sliceWidget("Red").sliceLogic()
    assert np.array_equal(rendering.slice_pixels(logic, SIZE), rendering._blended(logic, SIZE))
    assert rendering.slice_pixels(logic, SIZE).std() > 20


def test_views_of_the_layout_show_what_the_module_put_there(scene, tmp_path):
    import slicer

    layout = slicer.app.layoutManager()
    dark, light = (volume(np.full((5, 20, 20), float(v)), window=(100, 50)) for v in (10, 90))
    layout.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView)
    names = slicer.views.slice_views_of_layout()
    assert names == ["Red", "Yellow"]
    for name, node in zip(names, (dark, light), strict=True):
        layout.sliceWidget(name).mrmlSliceCompositeNode().SetBackgroundVolumeID(node.GetID())
        layout.sliceWidget(name).sliceLogic().FitSliceToBackground()
    path = host.render_slice_views(tmp_path / "layout.png", size=SIZE)
    assert np.abs(middle(path, 0) - 25.5).max() <= 2 and np.abs(middle(path, 1) - 229.5).max() <= 2
    bar = pixels(path)[2, 2]
    assert np.abs(bar.astype(int) - [243, 74, 51]).max() <= 3  # Slicer's red


def test_a_custom_layout_gets_its_views(scene):
    import slicer

    views = "".join(
        f'<item><view class="vtkMRMLSliceNode" singletontag="{tag}"><property name="orientation" '
        f'action="default">Axial</property></view></item>'
        for tag in ("Patient", "Ideal")
    )
    node = slicer.app.layoutManager().layoutLogic().GetLayoutNode()
    node.AddLayoutDescription(601, f'<layout type="horizontal">{views}</layout>')
    slicer.app.layoutManager().setLayout(601)
    assert slicer.views.slice_views_of_layout() == ["Patient", "Ideal"]
    assert (
        slicer.app.layoutManager().sliceWidget("Ideal").mrmlSliceNode().GetOrientation() == "Axial"
    )


def test_a_picture_leaves_the_scene_as_it_was(scene, tmp_path):
    node = volume(np.zeros((3, 4, 5)))
    before = sorted(n.GetID() for n in scene.GetNodes())
    for _ in range(2):
        host.render_slice_views(
            tmp_path / "a.png", [node, {"background": node, "title": "again"}], size=SIZE
        )
    assert sorted(n.GetID() for n in scene.GetNodes()) == before


@pytest.mark.parametrize(
    ("views", "says"),
    [(["Blue"], "No slice view"), ([], "no slice view"), ([{"back": 1}], "Unknown")],
)
def test_what_can_not_be_drawn_is_an_error(scene, tmp_path, views, says):
    with pytest.raises(ValueError, match=says):
        host.render_slice_views(tmp_path / "a.png", views)


@pytest.fixture
def chart(scene):
    import slicer

    nodes, x = {}, np.arange(50.0)
    values = np.stack([x, 100 * 0.9**x, np.full(50, 10.0)], 1)
    slicer.util.plot(values, 0, ["step", "patient", "zeros"], "Loss", nodes=nodes)
    for series, colour in zip(nodes["series"], ([1, 0, 0], [0, 0, 1]), strict=True):
        series.SetColor(colour)
        series.SetMarkerStyle(series.MarkerStyleNone)
    return nodes["chart"]


def test_plots_read_series_tables_and_colours(chart, tmp_path):
    first, second = plots.read_series(chart)
    assert (
        first.points == [(float(i), pytest.approx(100 * 0.9**i)) for i in range(50)]
        and second.name == "Loss zeros"
    )
    picture = pixels(host.render_plot(chart, tmp_path / "plot.png", (400, 300))).astype(int)
    red = np.argwhere((picture[..., 0] > 200) & (picture[..., 1:].sum(-1) < 60))
    blue = np.argwhere((picture[..., 2] > 200) & (picture[..., :2].sum(-1) < 60))
    inside = blue[blue[:, 0] > 70]  # below the legend
    assert inside[:, 0].std() < 1.5  # a level line
    start, end = red[red[:, 1] < plots.LEFT + 10][:, 0].mean(), red[red[:, 1] > 370][:, 0].mean()
    assert start < 60 and end > inside[:, 0].mean()  # falls from the top to below the level of 10


def test_a_log_axis_makes_a_decay_straight(chart):
    chart.SetYAxisLogScale(True)
    (points, _) = (s.points for s in plots.read_series(chart))
    axis = plots.Axis([y for _, y in points], True, None, 300, 0)
    rows = [axis.pixel(y) for _, y in points]
    assert np.ptp(np.diff(rows)) < 1e-6 and axis.ticks() == [1, 10, 100]
    assert plots.Axis([1.5, 60], True, None, 0, 1).ticks() == [2, 5, 10, 20, 50]
    assert plots.Axis([0, 3], False, None, 0, 1).ticks() == [0, 0.5, 1, 1.5, 2, 2.5, 3]


def test_a_plot_view_follows_its_table(chart, scene):
    import slicer

    view = slicer.qMRMLPlotView()
    view.setMRMLScene(scene)
    view.setMRMLPlotViewNode(slicer.app.layoutManager().plotWidget(0).mrmlPlotViewNode())
    view.resize(300, 200)
    view.show()
    assert (
        plots.chart_of(view.mrmlPlotViewNode()) is chart
    )  # slicer.util.plot showed it in the layout
    before = view.grab().toImage()
    host.wait(lambda: True)
    table = chart.GetNthPlotSeriesNode(0).GetTableNode()
    values = np.stack([np.arange(50.0), np.arange(50.0), np.zeros(50)], 1)
    slicer.util.updateTableFromArray(table, values, ["step", "patient", "zeros"])
    assert view.grab().toImage() != before
    view.hide()


def test_panels_show_text_and_have_slicers_width(scene, tmp_path):
    import qt

    panel = qt.QWidget()
    label = qt.QLabel("Ideal input", panel)
    qt.QVBoxLayout(panel).addWidget(label)
    first = pixels(host.grab(panel, tmp_path / "a.png"))
    label.text = "Input ideal"
    second = pixels(host.grab(panel, tmp_path / "b.png"))
    assert first.shape == second.shape and first.shape[1] == 500
    dark = (first < 100).all(-1)
    assert (
        60 < dark.sum() < 2000 and np.ptp(np.argwhere(dark)[:, 1]) > 40 and (first != second).any()
    )
    assert first[0, 0].min() > 200  # the light style


def test_a_chart_after_another_has_a_white_ground(chart, tmp_path):
    """A legend's colours do not fill the next chart's frame."""
    from PySide6 import QtCore

    image = QtGui.QImage(400, 600, QtGui.QImage.Format.Format_RGB32)
    painter = QtGui.QPainter(image)
    for top in (0, 300):
        plots.draw_chart(painter, QtCore.QRect(0, top, 400, 300), chart)
    painter.end()
    plots.save_picture(image, tmp_path / "two.png")
    white = (pixels(tmp_path / "two.png") > 240).all(-1)
    assert white[300:].mean() == pytest.approx(white[:300].mean(), abs=0.01) and white.mean() > 0.8


def test_lines_keep_their_dashes_and_markers(chart, tmp_path):
    first, second = (chart.GetNthPlotSeriesNode(index) for index in (0, 1))
    whole = plots.read_series(chart)
    second.SetLineStyle(second.LineStyleDot)
    first.SetMarkerStyle(first.MarkerStyleDiamond)
    changed = plots.read_series(chart)
    assert whole[1].dash != changed[1].dash and changed[0].marker == first.MarkerStyleDiamond
    blue = (pixels(host.render_plot(chart, tmp_path / "plot.png", (400, 300)))[..., 2] > 200).sum()
    assert blue > 0
