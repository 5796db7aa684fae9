"""The qMRML widgets that panels use, over real MRML nodes and PySide6; ``application.start`` puts them in slicer."""
import weakref

import slicer
from PySide6 import QtCore, QtGui, QtWidgets
from shiboken6 import Shiboken

from . import plots
from .parts import Property, Signal, row, stored
from .pythonqt import emit, wrap

RETIRED = []
NODE_EVENTS = ("NodeAddedEvent", "NodeRemovedEvent", "EndImportEvent", "EndBatchProcessEvent", "EndCloseEvent")


def observe(widget, subject, event, slot):
    """Have ``slot(widget)`` called on an event of a MRML object while the widget lives; returns (subject, tag)."""
    alive = weakref.ref(widget)

    def relay(*_):
        if alive() is None or not Shiboken.isValid(alive()):
            subject.RemoveObserver(tag)
        else:
            slot(alive())

    tag = subject.AddObserver(event, relay)
    return subject, tag


class InScene:
    """What every qMRML widget has: its scene, and the MRML objects that it observes."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene, self._observed = None, []

    def mrmlScene(self):
        return self._scene

    def setMRMLScene(self, scene):
        self._scene = scene

    def _forget(self):
        for subject, tag in self._observed:
            subject.RemoveObserver(tag)
        self._observed = []


class qMRMLWidget(InScene, QtWidgets.QWidget):
    mrmlSceneChanged = Signal(object)

    def setMRMLScene(self, scene):
        changed, self._scene = scene is not self._scene, scene
        if changed:
            emit(self, "mrmlSceneChanged(PyObject)", scene)


class qMRMLNodeComboBox(InScene, QtWidgets.QWidget):
    """Chooses one node of a scene. The menu shows nodes, then None, then the actions that are enabled."""

    currentNodeChanged = Signal((object,), (bool,))
    currentNodeIDChanged = Signal(str)
    currentNodeRenamed = Signal(str)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    nodeAddedByUserAction = Signal(object)
    nodeAboutToBeRemoved = Signal(object)
    nodeActivated = Signal(object)
    nodeAboutToBeEdited = Signal(object)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._node = None
        self._attributes, self._labels = [], {}
        self._box = QtWidgets.QComboBox(self)
        self._box.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)
        self._box.setMinimumContentsLength(12)
        row(self, self._box)
        self._box.activated.connect(self._activated)
        self._requested = self._watched = None
        self._later = QtCore.QTimer(self, singleShot=True)
        self._later.timeout.connect(self._refresh)
        self._refresh()
        QtWidgets.QWidget.setEnabled(self, False)  # until there is a scene

    # The scene

    def setMRMLScene(self, scene):
        if scene is self._scene:
            return
        self._forget()
        self._scene = scene
        if scene is not None:
            self._observed = [observe(self, scene, getattr(scene, e), type(self)._scene_changed) for e in NODE_EVENTS]
        QtWidgets.QWidget.setEnabled(self, scene is not None)
        self.setCurrentNode(self._requested or self._node)
        self._refresh()

    def _scene_changed(self):
        if self._node is not None and self._node.GetScene() is None:
            # Without "None" in its menu, the selector goes on to the last node when its own is removed.
            nodes = self._nodes()
            self._set_node(None if self.noneEnabled or not nodes else nodes[-1])
        self._later.start()  # a result adds dozens of nodes: the menu is written once

    def _nodes(self):
        if self._scene is None:
            return []
        found = (node for kind in self.nodeTypes for node in slicer.util.getNodesByClass(kind, self._scene))
        return list(dict.fromkeys(node for node in found if self._offers(node)))

    def _offers(self, node) -> bool:
        kinds = [kind for kind in self.nodeTypes if node.IsA(kind)]
        exact = node.GetClassName() in kinds
        # A vector or label map volume is a scalar volume too: showChildNodeTypes=false is what keeps it out.
        if node.GetScene() is not self._scene or not kinds or not (exact or self.showChildNodeTypes):
            return False
        if not exact and any(node.IsA(kind) for kind in self.hideChildNodeTypes):
            return False
        for kind, name, value in self._attributes:
            has = node.GetAttribute(name)
            if node.IsA(kind) and (has is None or value is not None and has != value):
                return False
        return self.showHidden or not node.GetHideFromEditors()

    # The current node

    def currentNode(self):
        return self._node

    def setCurrentNode(self, node):
        if isinstance(node, str):
            return self.setCurrentNodeID(node)
        self._requested = node if self._scene is None else None
        self._set_node(node if node is not None and self._offers(node) else None)

    def setCurrentNodeID(self, identifier):
        self.setCurrentNode(self._scene.GetNodeByID(identifier) if self._scene and identifier else None)

    def setCurrentNodeIndex(self, index):
        self.setCurrentNode(self.nodeFromIndex(index))

    def nodeFromIndex(self, index):
        nodes = self._nodes()
        return nodes[index] if 0 <= index < len(nodes) else None

    def nodeCount(self):
        return len(self._nodes())

    def _set_node(self, node):
        if node is self._node:
            return
        self._node = node
        if self._watched:
            self._watched[0].RemoveObserver(self._watched[1])
        self._watched = observe(self, node, "ModifiedEvent", type(self)._node_changed) if node is not None else None
        self._refresh()
        emit(self, "currentNodeChanged(PyObject)", node)
        emit(self, "currentNodeChanged(bool)", node is not None)
        emit(self, "currentNodeIDChanged(QString)", node.GetID() if node else "")

    def _node_changed(self):
        if self._box.currentText() != self._node.GetName():
            self._refresh()
            emit(self, "currentNodeRenamed(QString)", self._node.GetName())

    def _refresh(self):
        """Write the menu anew: None, the nodes, then what can be done."""
        nodes, label = self._nodes(), self._label()
        if self._node is not None and self._node not in nodes:
            return self._set_node(None)
        self._menu = [(node.GetName(), "node", node) for node in nodes]
        if self.noneEnabled or self._node is None:
            self._menu.insert(0, (self.noneDisplay if self.noneEnabled else f"Select a {label}", "node", None))
        chosen = next(i for i, entry in enumerate(self._menu) if entry[2] is self._node)
        self._menu += [(text, action, None) for enabled, text, action in (
            (self.renameEnabled, f"Rename current {label}", self.renameCurrentNode),
            (self.editEnabled, f"Edit current {label}", self.editCurrentNode),
            (self.addEnabled, f"Create new {label}", self._add_by_user),
            (self.addEnabled and self.renameEnabled, f"Create new {label} as...", self._add_as),
            (self.removeEnabled, f"Delete current {label}", self.removeCurrentNode)) if enabled]
        self._box.clear()
        self._box.addItems([text for text, _, _ in self._menu])
        self._box.setCurrentIndex(chosen)

    def _label(self):
        return self.nodeTypeLabel(self.nodeTypes[0]) if self.nodeTypes else "node"

    def nodeTypeLabel(self, kind):
        return self._labels.get(kind) or (self._scene and self._scene.GetTypeDisplayNameByClassName(kind)) or "node"

    def _activated(self, index):
        _, action, node = self._menu[index]
        if action == "node":
            self._set_node(node)
            emit(self, "nodeActivated(PyObject)", node)
        else:
            self._refresh()
            action()

    # Actions

    def addNode(self, kind=None):
        """Create a node of the (first) type, select it and return it."""
        name = self._scene.GenerateUniqueName(self.baseName or self._label())
        node = self._scene.AddNewNodeByClass(kind or self.nodeTypes[0], name)
        for attribute_kind, attribute, value in self._attributes:
            if node.IsA(attribute_kind):
                node.SetAttribute(attribute, value or "")
        emit(self, "nodeAdded(PyObject)", node)
        if self.selectNodeUponCreation:
            self._set_node(node)
        emit(self, "nodeAddedByUser(PyObject)", node)
        return node

    def _add_by_user(self):
        emit(self, "nodeAddedByUserAction(PyObject)", self.addNode())

    def _add_as(self):
        self._add_by_user()
        self.renameCurrentNode()

    def removeCurrentNode(self):
        node = self._node
        if node is not None:
            emit(self, "nodeAboutToBeRemoved(PyObject)", node)
            self._scene.RemoveNode(node)

    def renameCurrentNode(self):
        from . import qt
        if self._node is not None:
            name = qt.QInputDialog.getText(None, "Rename", "New name:", None, self._node.GetName())
            if name:
                self._node.SetName(name)

    def editCurrentNode(self):
        raise NotImplementedError("qMRMLNodeComboBox.editCurrentNode is not in the test host")

    def addAttribute(self, kind, name, value=None):
        self._attributes.append((kind, name, value))
        self._refresh()

    def removeAttribute(self, kind, name):
        self._attributes = [a for a in self._attributes if a[:2] != (kind, name)]
        self._refresh()

    def setNodeTypeLabel(self, label, kind):
        self._labels[kind] = label
        self._refresh()

    def _set_id(self, identifier):
        self.setCurrentNodeID(identifier)

    def _again(self, _):
        self._refresh()

    nodeTypes = stored("QStringList", (), _again)
    hideChildNodeTypes = stored("QStringList", (), _again)
    showChildNodeTypes = stored(bool, True, _again)
    showHidden = stored(bool, False, _again)
    noneEnabled = stored(bool, False, _again)
    noneDisplay = stored(str, "None", _again)
    addEnabled = stored(bool, True, _again)
    removeEnabled = stored(bool, True, _again)
    editEnabled = stored(bool, False, _again)
    renameEnabled = stored(bool, False, _again)
    baseName = stored(str, "")
    selectNodeUponCreation = stored(bool, True)
    interactionNodeSingletonTag = stored(str, "")
    currentNodeID = Property(str, lambda self: self._node.GetID() if self._node else "", _set_id)
    currentNodeId = Property(str, lambda self: self._node.GetID() if self._node else "", _set_id)


class qMRMLTableView(InScene, QtWidgets.QTableView):
    """Shows a table node, read only."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self._node = None
        QtWidgets.QTableView.setEditTriggers(self, QtWidgets.QAbstractItemView.EditTrigger.NoEditTriggers)

    def mrmlTableNode(self):
        return self._node

    def setMRMLTableNode(self, node):
        self._forget()
        self._node = node
        if node is not None:
            self._observed = [observe(self, node, "ModifiedEvent", type(self)._fill)]
        self._fill()

    def _fill(self):
        model = QtGui.QStandardItemModel(self)
        for column in range(self._node.GetNumberOfColumns() if self._node else 0):
            model.setHorizontalHeaderItem(column, QtGui.QStandardItem(self._node.GetColumnName(column)))
            for line in range(self._node.GetNumberOfRows()):
                model.setItem(line, column, QtGui.QStandardItem(self._node.GetCellText(line, column)))
        QtWidgets.QTableView.setModel(self, model)
        QtWidgets.QTableView.resizeColumnsToContents(self)


class qMRMLPlotView(InScene, QtWidgets.QWidget):
    """Shows the chart of a plot view node, and follows it."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self._node = None
        QtWidgets.QWidget.setMinimumSize(self, 200, 160)

    def mrmlPlotViewNode(self):
        return self._node

    def setMRMLPlotViewNode(self, node):
        self._node = node
        self._follow()

    def _follow(self):
        self._forget()
        chart = plots.chart_of(self._node)
        series = [chart.GetNthPlotSeriesNode(i) for i in range(chart.GetNumberOfPlotSeriesNodes())] if chart else []
        tables = {s.GetTableNode() for s in series if s and s.GetTableNode()}
        self._observed = [observe(self, n, "ModifiedEvent", type(self)._follow) for n in (self._node, chart) if n]
        self._observed += [observe(self, t, "ModifiedEvent", lambda view: view.update()) for t in tables]
        self.update()

    def fitToContent(self):
        """Axes always fit here."""
        self.update()

    def paintEvent(self, event):
        painter = QtGui.QPainter(self)
        plots.draw_chart(painter, QtWidgets.QWidget.rect(self), plots.chart_of(self._node))
        painter.end()


class qSlicerMainWindow(QtWidgets.QMainWindow):
    """What ``slicer.util.mainWindow()`` finds: a status bar and the module selector."""

    def moduleSelector(self):
        return self

    selectedModule = Property(str, lambda self: next(
        (m.name for m in slicer.app.moduleManager()._loaded.values() if m._page is not None and m._page.isEntered), ""))

    def selectModule(self, name):
        from . import application
        application.open_module(name)


class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """The page of the module panel that holds a scripted module's widget."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self._python, self._entered, self._make = None, False, None

    def self(self):
        return self._python

    def setup(self, make):
        """Create the Python widget by ``make(parent)`` and set it up, as Slicer does when a module is first opened."""
        self._make = make
        self._python = make(self)
        setattr(slicer.modules, type(self._python).__name__, self._python)
        self._python.setup()

    def enter(self):
        self._entered = True
        self.show()
        if hasattr(self._python, "enter"):
            self._python.enter()

    def exit(self):
        self._entered = False
        if hasattr(self._python, "exit"):
            self._python.exit()
        self.hide()

    def reload(self):
        """Make the widget again from the module's present source (``slicer.util.reloadScriptedModule`` calls it)."""
        was_entered = self._entered
        self.setup(self._make)
        if was_entered:
            self.enter()

    def _retire(self):
        """End of the page. It stays in memory, as a reloaded one does in Slicer: scripts may still hold its widgets."""
        for selector in self.findChildren("qMRMLNodeComboBox"):
            selector._forget()
            selector._later.stop()
        RETIRED.append(self)

    isEntered = Property(bool, lambda self: self._entered)


class NotHere:
    """A class that Slicer's own parameterNodeWrapper names; the host has no such widget."""

    def __init__(self, *_, **__):
        raise NotImplementedError(f"{type(self).__name__} is not in the test host")


NAMED_ONLY = ("qMRMLSliderWidget", "qMRMLSpinBox", "qMRMLRangeWidget", "qMRMLCheckableNodeComboBox")
HERE = {name: wrap(cls, name) for name, cls in list(globals().items())
        if name.startswith(("qMRML", "qSlicer")) and isinstance(cls, type)}
HERE.update({name: type(name, (NotHere,), {}) for name in NAMED_ONLY})
globals().update(HERE)


def __getattr__(name):
    raise AttributeError(name if name.startswith("__") else f"slicer.{name} is not in the test host")
