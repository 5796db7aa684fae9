"""Pictures of slice views, drawn by MRML's own slice logic and displayable managers.

Layers, window and level, colour tables, opacities, segmentations and markups are therefore
Slicer's; only the bar on top (view name, volumes, offset) is drawn here. Without OpenGL (no EGL,
OSMesa or display) the picture is the slice logic's blended image, which has the same layers and
lacks only what displayable managers draw over them.
"""

import ctypes.util
import os
import sys
from pathlib import Path

if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
    os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")

import numpy as np
import slicer
import vtk
from PySide6 import QtCore, QtGui
from vtk.util.numpy_support import vtk_to_numpy

from .plots import save_picture
from .views import VIEW_SIZE, Legends

MANAGERS = (
    "vtkMRMLVolumeGlyphSliceDisplayableManager",
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLTransformsDisplayableManager2D",
    "vtkMRMLCrosshairDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
)
BAR = 20  # pixels
ORIENTATIONS = {
    "Axial": "S",
    "Sagittal": "R",
    "Coronal": "A",
}  # the axis that the offset runs along


def render_slice_views(
    path, views=None, *, orientation="Axial", offset_mm=None, size=VIEW_SIZE, columns=None
) -> Path:
    """Save slice views side by side.

    Args:
        path: The .png to write.
        views: What to show: names of slice views as the module left them (default: those of the
            current layout), or volume nodes, or dicts with ``background`` and any of
            ``foreground``, ``label`` (nodes), ``foreground_opacity``, ``label_opacity``, ``title``.
        orientation: Of views made for volumes: "Axial", "Sagittal" or "Coronal".
        offset_mm: Position of those views along their normal; default the middle of the background.
        size: Width and height of one view in pixels.
        columns: Views in a row; default all.
    """
    views = slicer.views.slice_views_of_layout() if views is None else list(views)
    if not views:
        raise ValueError(
            "There is no slice view to draw: give volumes, or set a layout that has slice views"
        )
    pictures = [_view_picture(view, orientation, offset_mm, size) for view in views]
    columns = columns or len(pictures)
    rows = -(-len(pictures) // columns)
    sheet = QtGui.QImage(
        columns * (size[0] + 4) - 4,
        rows * (size[1] + BAR + 4) - 4,
        QtGui.QImage.Format.Format_RGB32,
    )
    sheet.fill(QtGui.QColor("#303030"))
    painter = QtGui.QPainter(sheet)
    for index, picture in enumerate(pictures):
        painter.drawImage(
            index % columns * (size[0] + 4), index // columns * (size[1] + BAR + 4), picture
        )
    painter.end()
    return save_picture(sheet, path)


def _view_picture(view, orientation, offset_mm, size) -> QtGui.QImage:
    if isinstance(view, str):
        widget = slicer.app.layoutManager().sliceWidget(view)
        if widget is None:
            raise ValueError(
                f"No slice view {view!r}; there is {slicer.app.layoutManager().sliceViewNames()}"
            )
        return _with_bar(slice_pixels(widget.sliceLogic(), size), widget.sliceLogic())
    layers = view if isinstance(view, dict) else {"background": view}
    unknown = set(layers) - {
        "background",
        "foreground",
        "label",
        "foreground_opacity",
        "label_opacity",
        "title",
    }
    if unknown:
        raise ValueError(f"Unknown layers {sorted(unknown)}")
    before = {node.GetID() for node in slicer.mrmlScene.GetNodes()}
    logic = _own_logic(layers, orientation)
    try:
        logic.ResizeSliceNode(*size)
        logic.FitSliceToBackground()
        if offset_mm is not None:
            logic.SetSliceOffset(offset_mm)
        return _with_bar(slice_pixels(logic, size), logic, layers.get("title"))
    finally:
        logic.SetMRMLScene(None)
        for node in [node for node in slicer.mrmlScene.GetNodes() if node.GetID() not in before]:
            slicer.mrmlScene.RemoveNode(node)


def _own_logic(layers, orientation):
    """A slice view of its own for a picture, beside those of the layout."""
    logic = slicer.vtkMRMLSliceLogic()
    logic.SetMRMLApplicationLogic(slicer.app.applicationLogic())
    logic.SetMRMLScene(slicer.mrmlScene)
    node = logic.AddSliceNode("Picture")
    node.SetOrientation(orientation)
    composite = logic.GetSliceCompositeNode()
    for layer in ("background", "foreground", "label"):
        volume = layers.get(layer)
        getattr(composite, f"Set{layer.capitalize()}VolumeID")(
            volume.GetID() if volume is not None else None
        )
    composite.SetForegroundOpacity(
        layers.get("foreground_opacity", 0.5 if layers.get("foreground") else 0.0)
    )
    composite.SetLabelOpacity(layers.get("label_opacity", 1.0))
    return logic


def slice_pixels(logic, size) -> np.ndarray:
    """One slice view as uint8 (height, width, 3), top row first."""
    logic.ResizeSliceNode(*size)
    return _rendered(logic, size) if opengl() else _blended(logic, size)


def opengl() -> bool:
    """Whether VTK can render offscreen on this machine."""
    if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
        return any(ctypes.util.find_library(name) for name in ("EGL", "OSMesa"))
    return True


def _blended(logic, size) -> np.ndarray:
    width, height = size
    connection = logic.GetImageDataConnection()
    if connection is None:
        return np.zeros((height, width, 3), np.uint8)
    producer = connection.GetProducer()
    producer.Update()
    image = producer.GetOutputDataObject(connection.GetIndex())
    rgba = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)
    visible = rgba[::-1, :, :3] * (rgba[::-1, :, 3:] / 255.0)  # outside the volumes alpha is 0
    return np.round(visible).astype(np.uint8)


def _rendered(logic, size) -> np.ndarray:
    legends = slicer.views.legends(logic) or _own_legends(logic)
    window, renderer = legends.window, legends.renderer
    renderer.RemoveAllViewProps()
    window.SetSize(*size)
    renderer.GetActiveCamera().ParallelProjectionOn()
    mapper, actor = vtk.vtkImageMapper(), vtk.vtkActor2D()
    mapper.SetColorWindow(255)  # the slice logic hands over finished colours
    mapper.SetColorLevel(127.5)
    mapper.SetInputConnection(logic.GetImageDataConnection())
    actor.SetMapper(mapper)
    actor.GetProperty().SetDisplayLocationToBackground()
    if logic.GetImageDataConnection() is not None:
        renderer.AddViewProp(actor)
    group = _displayable_managers(renderer, logic.GetSliceNode())
    window.Render()
    grabber = vtk.vtkWindowToImageFilter()
    grabber.SetInput(window)
    grabber.ReadFrontBufferOff()
    grabber.Update()
    image = grabber.GetOutput()
    pixels = (
        vtk_to_numpy(image.GetPointData().GetScalars())
        .reshape(size[1], size[0], -1)[::-1, :, :3]
        .copy()
    )
    del group
    renderer.RemoveAllViewProps()
    window.Finalize()
    return pixels


def _own_legends(logic):
    """Of a view that is made for a picture: its volumes count as chosen by hand."""
    slicer.app.applicationLogic().GetSliceLogics().AddItem(logic)
    legends = Legends(logic, slicer.app.applicationLogic())
    legends.chosen_by_hand(logic.GetSliceCompositeNode())
    slicer.app.applicationLogic().GetSliceLogics().RemoveItem(logic)
    return legends


def _displayable_managers(renderer, node):
    factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
    for name in MANAGERS:
        if not factory.IsDisplayableManagerRegistered(name):
            factory.RegisterDisplayableManager(name)
    group = slicer.vtkMRMLDisplayableManagerGroup()
    group.SetRenderer(renderer)
    group.Initialize(factory, renderer)
    group.SetMRMLDisplayableNode(node)
    return group


def _with_bar(pixels, logic, title=None) -> QtGui.QImage:
    """A view under a bar in its layout colour, as in Slicer."""
    height, width = pixels.shape[:2]
    pixels = np.ascontiguousarray(pixels)
    view = QtGui.QImage(pixels.data, width, height, 3 * width, QtGui.QImage.Format.Format_RGB888)
    picture = QtGui.QImage(width, height + BAR, QtGui.QImage.Format.Format_RGB32)
    node, composite = logic.GetSliceNode(), logic.GetSliceCompositeNode()
    own = node.GetLayoutName() == "Picture"
    colour = QtGui.QColor("#3a5f8a") if own else QtGui.QColor.fromRgbF(*node.GetLayoutColor())
    painter = QtGui.QPainter(picture)
    painter.fillRect(0, 0, width, BAR, colour)
    painter.setPen(QtGui.QColor("white") if colour.lightness() < 140 else QtGui.QColor("black"))
    text = title or " / ".join(_names(composite))
    text = text if own else f"{node.GetLayoutLabel()}:  {text}"
    bar = QtCore.QRect(6, 0, width - 12, BAR)
    offset = f"{ORIENTATIONS.get(node.GetOrientation(), '')} {logic.GetSliceOffset():.1f} mm"
    room = bar.width() - painter.fontMetrics().horizontalAdvance(offset) - 10
    text = painter.fontMetrics().elidedText(text, QtCore.Qt.TextElideMode.ElideRight, room)
    painter.drawText(
        bar, QtCore.Qt.AlignmentFlag.AlignVCenter | QtCore.Qt.AlignmentFlag.AlignLeft, text
    )
    painter.drawText(
        bar, QtCore.Qt.AlignmentFlag.AlignVCenter | QtCore.Qt.AlignmentFlag.AlignRight, offset
    )
    painter.drawImage(0, BAR, view)
    painter.end()
    return picture


def _names(composite):
    identifiers = (
        composite.GetBackgroundVolumeID(),
        composite.GetForegroundVolumeID(),
        composite.GetLabelVolumeID(),
    )
    nodes = (slicer.mrmlScene.GetNodeByID(i) for i in identifiers if i)
    return [node.GetName() for node in nodes if node is not None]
