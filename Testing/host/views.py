"""The scene with what the application puts into it, its logics, and its layout manager."""

from pathlib import Path

import slicer
import vtk
from slicer import (
    vtkMRMLCrosshairNode,
    vtkMRMLLayoutLogic,
    vtkMRMLLayoutNode,
    vtkMRMLScene,
    vtkMRMLSliceLogic,
    vtkMRMLSliceNode,
    vtkMRMLSliceViewDisplayableManagerFactory,
    vtkSlicerApplicationLogic,
)

# What Slicer files in the subject hierarchy as soon as it is in the scene.
FILED = (
    "vtkMRMLVolumeNode",
    "vtkMRMLTableNode",
    "vtkMRMLPlotChartNode",
    "vtkMRMLPlotSeriesNode",
    "vtkMRMLTextNode",
    "vtkMRMLTransformNode",
    "vtkMRMLModelNode",
    "vtkMRMLMarkupsNode",
    "vtkMRMLSegmentationNode",
)
VIEW_SIZE = (360, 360)  # pixels of a slice view
# Slicer's modules whose logic the wheel has: slicer.modules.<name>.logic()
LOGICS = {
    "Colors": "vtkSlicerColorLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "Plots": "vtkSlicerPlotsLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "CropVolume": "vtkSlicerCropVolumeLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Sequences": "vtkSlicerSequencesLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
}


class Strict:
    """Says who is missing what."""

    __slots__ = ()

    def __getattr__(self, name):
        raise AttributeError(f"{type(self).__name__}.{name} is not in the test host")


class SliceWidget(Strict):
    """``layoutManager.sliceWidget(name)``: the logic and nodes of one slice view."""

    def __init__(self, logic):
        self._logic = logic

    def sliceLogic(self):
        return self._logic

    def mrmlSliceNode(self):
        return self._logic.GetSliceNode()

    def mrmlSliceCompositeNode(self):
        return self._logic.GetSliceCompositeNode()

    def fitSliceToBackground(self):
        self._logic.FitSliceToBackground()


class Legends(Strict):
    """What draws the colour legends of one slice view.

    It does so in a window of its own, for the view's whole life.

    As in Slicer it learns of a legend when that is added to the scene: one that was there before
    the view is not drawn until its volume is chosen in the view's own selectors.
    """

    def __init__(self, logic, application_logic):
        self.window, self.renderer = vtk.vtkRenderWindow(), vtk.vtkRenderer()
        self.window.SetOffScreenRendering(1)
        self.window.AddRenderer(self.renderer)
        self._interactor = vtk.vtkRenderWindowInteractor()
        self._interactor.SetRenderWindow(self.window)
        self._manager = slicer.vtkMRMLColorLegendDisplayableManager()
        self._manager.SetMRMLApplicationLogic(application_logic)
        self._group = slicer.vtkMRMLDisplayableManagerGroup()
        self._group.SetRenderer(self.renderer)
        self._group.AddDisplayableManager(self._manager)
        self._group.SetMRMLDisplayableNode(logic.GetSliceNode())

    def chosen_by_hand(self, composite):
        """The volumes are chosen in the view's own selectors."""
        flags = composite.GetInteractionFlags()
        composite.SetInteractionFlags(
            composite.BackgroundVolumeFlag + composite.ForegroundVolumeFlag
        )
        composite.Modified()
        composite.SetInteractionFlags(flags)


class LogicModule(Strict):
    """A module of Slicer itself, of which the host has only the logic.

    Such as ``slicer.modules.volumes.logic()``.
    """

    def __init__(self, name, logic):
        self.name, self._logic = name, logic

    def logic(self):
        return self._logic


class PlotWidget(Strict):
    """``layoutManager.plotWidget(0)``: names the plot view's node."""

    def __init__(self, node):
        self._node = node

    def mrmlPlotViewNode(self):
        return self._node


class Views(Strict):
    """One scene for the life of the process, as in Slicer.

    ``clear`` brings it back to its first state. ``viewport`` makes the widget that holds the views.
    """

    def __init__(self, folder, viewport):
        self._viewport = viewport
        self.scene = slicer.mrmlScene = vtkMRMLScene()
        self.data_io = slicer.vtkDataIOManager()  # reading an .mrb unpacks it into its cache
        self.data_io.SetCacheManager(slicer.vtkCacheManager())
        self.data_io.GetCacheManager().SetRemoteCacheDirectory(folder)
        self.scene.SetDataIOManager(self.data_io)
        self.scene.SetCacheManager(self.data_io.GetCacheManager())
        self.application_logic = vtkSlicerApplicationLogic()
        self.application_logic.SetHomeDirectory(folder)  # in which there are no colour files
        self.application_logic.SetShareDirectory(".")
        Path(folder, "ColorFiles").mkdir(exist_ok=True)
        self.application_logic.SetMRMLScene(self.scene)
        self.application_logic.SetSliceLogics(vtk.vtkCollection())
        self.application_logic.SetViewLogics(vtk.vtkCollection())
        vtkMRMLSliceViewDisplayableManagerFactory.GetInstance().SetMRMLApplicationLogic(
            self.application_logic
        )
        for name, logic_class in LOGICS.items():
            logic = getattr(slicer, logic_class)()
            logic.SetMRMLApplicationLogic(self.application_logic)
            logic.SetMRMLScene(self.scene)
            self.application_logic.SetModuleLogic(name, logic)
            setattr(slicer.modules, name.lower(), LogicModule(name, logic))
        self.scene.AddObserver(vtkMRMLScene.NodeAddedEvent, self._node_added)
        for event in ("EndCloseEvent", "EndImportEvent", "EndBatchProcessEvent"):
            self.scene.AddObserver(getattr(vtkMRMLScene, event), self._scene_settled)
        self.layout_logic = vtkMRMLLayoutLogic()
        self._logics, self._legends = {}, {}
        self._fill()

    def _fill(self):
        """What qSlicerCoreApplication adds to an empty scene."""
        crosshair = vtkMRMLCrosshairNode()
        crosshair.SetCrosshairName("default")
        self.scene.AddNode(crosshair)
        slicer.modules.colors.logic().AddDefaultColorNodes()
        vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(self.scene, True)
        self.layout_logic.SetMRMLScene(self.scene)
        self.setLayout(vtkMRMLLayoutNode.SlicerLayoutFourUpView)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _node_added(self, scene, event, node):
        if not scene.IsImporting():
            self._file(node)

    def _scene_settled(self, *_):
        # Closing removes the hierarchy with the rest, and the scene would go on handing out the
        # dead node.
        slicer.vtkMRMLSubjectHierarchyNode.ResolveSubjectHierarchy(self.scene)
        if not (
            self.scene.IsBatchProcessing() or self.scene.IsImporting() or self.scene.IsClosing()
        ):
            for node in self.scene.GetNodes():
                self._file(node)

    def _file(self, node):
        """File a node in the subject hierarchy, as the application's plugins do."""
        if node.GetHideFromEditors() or not any(node.IsA(kind) for kind in FILED):
            return
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self.scene)
        if hierarchy.GetItemByDataNode(node) == hierarchy.GetInvalidItemID():
            hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)

    def clear(self):
        """Close the scene, and remove what modules left there.

        Closing keeps singletons such as views (reset).
        """
        slicer.mrmlScene = self.scene  # a test may have put another in its place
        self.scene.Clear(0)
        for node in slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode"):
            self.scene.RemoveNode(node)
        self.setLayout(vtkMRMLLayoutNode.SlicerLayoutFourUpView)

    # The layout manager

    def setLayout(self, layout):
        self.layout_logic.GetLayoutNode().SetViewArrangement(layout)
        self._complete()

    layout = property(
        lambda self: self.layout_logic.GetLayoutNode().GetViewArrangement(), setLayout
    )

    def layoutLogic(self):
        return self.layout_logic

    def _complete(self):
        """Give every slice view of the scene its logic."""
        for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
            name = node.GetLayoutName()
            if name not in self._logics:
                logic = self._logics[name] = vtkMRMLSliceLogic()
                logic.SetMRMLApplicationLogic(self.application_logic)
                logic.SetMRMLScene(self.scene)
                logic.SetSliceNode(node)
                logic.ResizeSliceNode(*VIEW_SIZE)
                self.application_logic.GetSliceLogics().AddItem(logic)
                self._legends[name] = Legends(logic, self.application_logic)

    def legends(self, logic):
        """Of a slice view of the layout; None of any other."""
        return next(
            (self._legends[name] for name, own in self._logics.items() if own is logic), None
        )

    def sliceViewNames(self):
        self._complete()
        return tuple(self._logics)

    def slice_views_of_layout(self):
        """Names of the slice views that the current layout shows, in its order."""
        self._complete()
        nodes = self.layout_logic.GetViewNodes()
        nodes = [nodes.GetItemAsObject(i) for i in range(nodes.GetNumberOfItems())]
        return [node.GetLayoutName() for node in nodes if node.IsA("vtkMRMLSliceNode")]

    def sliceWidget(self, name):
        self._complete()
        return SliceWidget(self._logics[name]) if name in self._logics else None

    def mrmlSliceLogics(self):
        self._complete()
        return self.application_logic.GetSliceLogics()

    def resetSliceViews(self):
        for logic in self._logics.values():
            logic.FitSliceToAll()

    def viewport(self):
        """The widget that holds the views."""
        return self._viewport()

    plotViewCount = property(lambda self: self.scene.GetNumberOfNodesByClass("vtkMRMLPlotViewNode"))

    def plotWidget(self, index):
        return PlotWidget(self.scene.GetNthNodeByClass(index, "vtkMRMLPlotViewNode"))

    threeDViewCount = 0
