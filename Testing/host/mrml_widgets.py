"""The qMRML widgets that panels use, over real MRML nodes and PySide6.

``application.start`` puts them in slicer.
"""

import weakref

import slicer
import vtk
from PySide6 import QtGui, QtWidgets
from shiboken6 import Shiboken

from . import plots, qt
from .parts import Property, Signal, row, stored
from .pythonqt import emit, wrap

RETIRED = []


def observe(widget, subject, event, slot, priority=0.0, node_data=False):
    """Have ``slot(widget)`` called on an event of a MRML object while the widget lives.

    Returns (subject, tag).

    With ``node_data`` it is ``slot(widget, node)``, with the node that the event is about.
    """
    alive = weakref.ref(widget)

    def relay(caller, event, *data):
        if alive() is None or not Shiboken.isValid(alive()):
            subject.RemoveObserver(tag)
        else:
            slot(alive(), *data)

    tag = subject.AddObserver(
        event, vtk.calldata_type(vtk.VTK_OBJECT)(relay) if node_data else relay, priority
    )
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
    """Chooses one node of a scene.

    The menu shows None, then the nodes, then the actions that are enabled.

    As in Slicer it has a model of its own (here the entries of its QComboBox), which fills by the
    scene's events and so in the order of the scene's observers. A node that the model does not have
    cannot be chosen: nothing is chosen then, and nobody is told why. While a scene is imported
    nothing is added; at its end all nodes are taken out and put in anew, so that the selector lets
    go of its node.
    """

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
        self._attributes, self._labels = [], {}
        self._ids = []  # of the nodes that the model has and the menu shows
        self._none, self._actions = [], []  # what stands before the nodes, and after
        self._watched = {}  # observer of each node, by identifier
        self._requested, self._switching = "", False
        self._box = QtWidgets.QComboBox(self)
        self._box.setSizePolicy(
            QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed
        )
        self._box.setMinimumContentsLength(12)
        row(self, self._box)
        self._box.currentIndexChanged.connect(lambda index: self._changed())
        self._box.activated.connect(self._activated)
        QtWidgets.QWidget.setEnabled(self, False)  # until there is a scene

    # The scene, and the model that follows it

    def setMRMLScene(self, scene):
        if scene is self._scene:
            return
        before, had_nodes = self.currentNodeID, self.nodeCount() > 0
        self._forget()
        self._scene, self._switching = scene, True
        if scene is not None:
            self._observed = [
                observe(self, scene, getattr(scene, event), slot, priority, node_data)
                for event, slot, priority, node_data in self._events()
            ]
        self._fill()
        self._write_actions()
        self._switching = False
        # Without None in its menu, a selector that is given a scene chooses the first node.
        first = "" if self.noneEnabled or not self._ids else self._ids[0]
        self._choose(before if had_nodes else self._requested or first)
        self._changed()
        self._requested = ""
        QtWidgets.QWidget.setEnabled(self, scene is not None)

    def _events(self):
        """How qMRMLSceneModel observes the scene.

        For each event (event, slot, priority, whether the slot takes a node).
        """
        kind = type(self)
        return [
            ("NodeAddedEvent", kind._node_added, 10.0, True),
            ("NodeAboutToBeRemovedEvent", kind._node_leaves, -10.0, True),
            ("EndImportEvent", kind._fill, 0.0, False),
            ("EndCloseEvent", kind._fill, 0.0, False),
        ]

    def _forget(self):
        super()._forget()
        for subject, tag in self._watched.values():
            subject.RemoveObserver(tag)
        self._watched = {}

    def _node_added(self, node):
        if not self._scene.IsImporting():
            self._watch(node)
            if self._offers(node):
                self._insert(node)

    def _node_leaves(self, node):
        if self._scene.IsClosing():
            return
        subject, tag = self._watched.pop(node.GetID(), (None, None))
        if subject is not None:
            subject.RemoveObserver(tag)
        if node.GetID() in self._ids:
            emit(self, "nodeAboutToBeRemoved(PyObject)", node)
            self._take_out(node.GetID())

    def _fill(self):
        """Take all nodes out and put in those of the scene."""
        for subject, tag in self._watched.values():
            subject.RemoveObserver(tag)
        self._watched = {}
        for identifier in list(self._ids):
            self._take_out(identifier)
        self._let_go()
        for node in self._scene_nodes():
            self._watch(node)
            if self._offers(node):
                self._insert(node)

    def _scene_nodes(self):
        count = self._scene.GetNumberOfNodes() if self._scene is not None else 0
        return [self._scene.GetNthNode(index) for index in range(count)]

    def _watch(self, node):
        if any(node.IsA(kind) for kind in self.nodeTypes) and node.GetID() not in self._watched:
            self._watched[node.GetID()] = observe(
                self, node, "ModifiedEvent", lambda me: me._node_changed(node)
            )

    def _node_changed(self, node):
        if (
            self._scene.IsImporting()
            or self._scene.IsClosing()
            or node.GetScene() is not self._scene
        ):
            return
        shown, offered = node.GetID() in self._ids, self._offers(node)
        if shown and not offered:
            self._take_out(node.GetID())
        elif offered and not shown:
            self._insert(node)
        elif shown and self._box.itemText(self._row(node.GetID())) != node.GetName():
            self._box.setItemText(self._row(node.GetID()), node.GetName())
            if node is self.currentNode():
                # Qt tells of the current text, and the selector takes that for another node.
                self._changed()

    def _offers(self, node) -> bool:
        kinds = [kind for kind in self.nodeTypes if node.IsA(kind)]
        exact = node.GetClassName() in kinds
        # A vector or label map volume is a scalar volume too: showChildNodeTypes=false is what
        # keeps it out.
        if (
            node.GetScene() is not self._scene
            or not kinds
            or not (exact or self.showChildNodeTypes)
        ):
            return False
        if not exact and any(node.IsA(kind) for kind in self.hideChildNodeTypes):
            return False
        for kind, name, value in self._attributes:
            has = node.GetAttribute(name)
            if node.IsA(kind) and (has is None or value is not None and has != value):
                return False
        return self.showHidden or not node.GetHideFromEditors()

    # The menu

    def _row(self, identifier) -> int:
        return len(self._none) + self._ids.index(identifier)

    def _insert(self, node):
        """Put a node where it stands among the scene's."""
        order = [other.GetID() for other in self._scene_nodes()]
        place = order.index(node.GetID())
        before = sum(order.index(identifier) < place for identifier in self._ids)
        self._ids.insert(before, node.GetID())
        self._box.insertItem(len(self._none) + before, node.GetName())
        emit(self, "nodeAdded(PyObject)", node)

    def _take_out(self, identifier):
        """Qt goes on to the entry before, where the current one is taken out."""
        at, was = self._row(identifier), self._box.currentIndex()
        blocked = self._box.blockSignals(True)
        self._ids.remove(identifier)
        self._box.removeItem(at)
        self._box.setCurrentIndex(was - (at <= was))
        self._box.blockSignals(blocked)
        if at <= was and not self._switching:
            self._changed()
            self._let_go()

    def _let_go(self):
        """Where no node is current, the entry for none is."""
        if self.currentNode() is None:
            self._box.setCurrentIndex(0 if self._none else -1)

    def _write_none(self):
        wanted = [self.noneDisplay] if self.noneEnabled and self._scene is not None else []
        if wanted == self._none:
            return
        was, had = self._box.currentIndex(), len(self._none)
        blocked = self._box.blockSignals(True)
        for _ in self._none:
            self._box.removeItem(0)
        for text in wanted:
            self._box.insertItem(0, text)
        self._none = wanted
        self._box.setCurrentIndex(
            was if was < 0 and not wanted else max(0, was - had + len(wanted))
        )
        self._box.blockSignals(blocked)
        if self._box.currentIndex() != was and not self._switching:
            self._changed()

    def _write_actions(self):
        """None and the actions; the text that stands where nothing is chosen."""
        self._write_none()
        label = self._label()
        self._box.setPlaceholderText(f"Select a {label}")
        wanted = [
            (text, action)
            for enabled, text, action in (
                (self.renameEnabled, f"Rename current {label}", self.renameCurrentNode),
                (self.editEnabled, f"Edit current {label}", self.editCurrentNode),
                (self.addEnabled, f"Create new {label}", self._add_by_user),
                (self.addEnabled and self.renameEnabled, f"Create new {label} as...", self._add_as),
                (self.removeEnabled, f"Delete current {label}", self.removeCurrentNode),
            )
            if enabled and self._scene is not None
        ]
        if wanted:
            wanted.insert(0, ("", lambda: None))
        was = self._box.currentIndex()
        blocked = self._box.blockSignals(True)
        for _ in self._actions:
            self._box.removeItem(self._box.count() - 1)
        for text, _ in wanted:
            if text:
                self._box.addItem(text)
                self._box.model().item(self._box.count() - 1).setSelectable(
                    False
                )  # pressing it chooses nothing
            else:
                self._box.insertSeparator(self._box.count())
        self._actions = wanted
        self._box.setCurrentIndex(was)
        self._box.blockSignals(blocked)

    def _label(self):
        return self.nodeTypeLabel(self.nodeTypes[0]) if self.nodeTypes else "node"

    def nodeTypeLabel(self, kind):
        return (
            self._labels.get(kind)
            or (self._scene and self._scene.GetTypeDisplayNameByClassName(kind))
            or "node"
        )

    def _activated(self, index):
        action = index - len(self._none) - len(self._ids)
        if action >= 0:
            self._actions[action][1]()
        else:
            emit(self, "nodeActivated(PyObject)", self.currentNode())

    # The current node

    def currentNode(self):
        return self._node_at(self._box.currentIndex())

    def _node_at(self, index):
        place = index - len(self._none)
        known = self._scene is not None and 0 <= place < len(self._ids)
        return self._scene.GetNodeByID(self._ids[place]) if known else None

    def setCurrentNode(self, node):
        if isinstance(node, str):
            return self.setCurrentNodeID(node)
        self.setCurrentNodeID(node.GetID() if node is not None else "")

    def setCurrentNodeID(self, identifier):
        if self._scene is None:
            self._requested = identifier or ""
        self._choose(identifier or "")

    def _choose(self, identifier):
        if identifier not in self._ids:
            self._box.setCurrentIndex(0 if self._none else -1)
        elif self._box.currentIndex() != self._row(identifier):
            self._box.setCurrentIndex(self._row(identifier))
            if not self._switching:
                emit(self, "nodeActivated(PyObject)", self.currentNode())

    def setCurrentNodeIndex(self, index):
        self._box.setCurrentIndex(len(self._none) + (index if index < len(self._ids) else -1))

    def nodeFromIndex(self, index):
        return self._node_at(index + len(self._none))

    def nodeCount(self):
        return len(self._ids) if self._scene is not None else 0

    def _changed(self):
        """Tell of the current node; from an action, the selector goes on to the last node."""
        if self._switching:
            return
        index, node = self._box.currentIndex(), self.currentNode()
        if node is None and index != (0 if self._none else -1):
            if self._ids:
                self._choose(self._ids[-1])
            return
        emit(self, "currentNodeChanged(PyObject)", node)
        emit(self, "currentNodeChanged(bool)", node is not None)
        emit(self, "currentNodeIDChanged(QString)", node.GetID() if node else "")

    # Actions

    def addNode(self, kind=None):
        """Create a node of the (first) type, select it and return it."""
        name = self._scene.GenerateUniqueName(self.baseName or self._label())
        node = self._scene.CreateNodeByClass(kind or self.nodeTypes[0])
        node.UnRegister(None)
        node.SetName(name)
        for attribute_kind, attribute, value in self._attributes:
            if node.IsA(attribute_kind):
                node.SetAttribute(attribute, value or "")
        self._scene.AddNode(node)
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        emit(self, "nodeAddedByUser(PyObject)", node)
        return node

    def _add_by_user(self):
        emit(self, "nodeAddedByUserAction(PyObject)", self.addNode())

    def _add_as(self):
        self._add_by_user()
        self.renameCurrentNode()

    def removeCurrentNode(self):
        if self.currentNode() is not None:
            self._scene.RemoveNode(self.currentNode())

    def renameCurrentNode(self):
        if self.currentNode() is not None:
            name = qt.QInputDialog.getText(
                None, "Rename", "New name:", None, self.currentNode().GetName()
            )
            if name:
                self.currentNode().SetName(name)
                emit(self, "currentNodeRenamed(QString)", name)

    def editCurrentNode(self):
        raise NotImplementedError("qMRMLNodeComboBox.editCurrentNode is not in the test host")

    def addAttribute(self, kind, name, value=None):
        self._attributes.append((kind, name, value))
        self._again()

    def removeAttribute(self, kind, name):
        self._attributes = [a for a in self._attributes if a[:2] != (kind, name)]
        self._again()

    def setNodeTypeLabel(self, label, kind):
        self._labels[kind] = label
        self._write_actions()

    def _set_id(self, identifier):
        self.setCurrentNodeID(identifier)

    def _again(self, *_):
        """Other nodes are offered: those that are not any more go, those that now are come."""
        if self._scene is None:
            return
        for node in self._scene_nodes():
            self._watch(node)
            shown, offered = node.GetID() in self._ids, self._offers(node)
            if shown and not offered:
                self._take_out(node.GetID())
            elif offered and not shown:
                self._insert(node)
        self._write_actions()

    def _write(self, *_):
        self._write_actions()

    nodeTypes = stored("QStringList", (), _again)
    hideChildNodeTypes = stored("QStringList", (), _again)
    showChildNodeTypes = stored(bool, True, _again)
    showHidden = stored(bool, False, _again)
    noneEnabled = stored(bool, False, _write)
    noneDisplay = stored(str, "None", _write)
    addEnabled = stored(bool, True, _write)
    removeEnabled = stored(bool, True, _write)
    editEnabled = stored(bool, False, _write)
    renameEnabled = stored(bool, False, _write)
    baseName = stored(str, "")
    selectNodeUponCreation = stored(bool, True)
    interactionNodeSingletonTag = stored(str, "")
    currentNodeID = Property(
        str, lambda self: node.GetID() if (node := self.currentNode()) else "", _set_id
    )
    currentNodeId = Property(
        str, lambda self: node.GetID() if (node := self.currentNode()) else "", _set_id
    )


class qMRMLTableView(InScene, QtWidgets.QTableView):
    """Shows a table node, read only."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self._node = None
        QtWidgets.QTableView.setEditTriggers(
            self, QtWidgets.QAbstractItemView.EditTrigger.NoEditTriggers
        )

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
            heading = plots.heading_of(self._node, column)
            model.setHorizontalHeaderItem(column, QtGui.QStandardItem(heading))
            for line in range(self._node.GetNumberOfRows()):
                model.setItem(
                    line, column, QtGui.QStandardItem(self._node.GetCellText(line, column))
                )
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
        series = (
            [chart.GetNthPlotSeriesNode(i) for i in range(chart.GetNumberOfPlotSeriesNodes())]
            if chart
            else []
        )
        tables = {s.GetTableNode() for s in series if s and s.GetTableNode()}
        self._observed = [
            observe(self, n, "ModifiedEvent", type(self)._follow) for n in (self._node, chart) if n
        ]
        self._observed += [
            observe(self, t, "ModifiedEvent", lambda view: view.update()) for t in tables
        ]
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

    selectedModule = Property(
        str,
        lambda self: next(
            (
                m.name
                for m in slicer.app.moduleManager()._loaded.values()
                if m._page is not None and m._page.isEntered
            ),
            "",
        ),
    )

    def selectModule(self, name):
        slicer.app._open_module(name)


class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """The page of the module panel that holds a scripted module's widget."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self._python, self._entered, self._make = None, False, None

    def self(self):
        return self._python

    def setup(self, make):
        """Create the Python widget by ``make(parent)`` and set it up.

        Slicer does so when a module is first opened.
        """
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
        """Make the widget again from the module's present source.

        ``slicer.util.reloadScriptedModule`` calls it.
        """
        was_entered = self._entered
        self.setup(self._make)
        if was_entered:
            self.enter()

    def _retire(self):
        """End of the page.

        It stays in memory, as a reloaded one does in Slicer: scripts may still hold its widgets.
        """
        for selector in self.findChildren("qMRMLNodeComboBox"):
            selector._forget()
        RETIRED.append(self)

    isEntered = Property(bool, lambda self: self._entered)


class NotHere:
    """A class that Slicer's own parameterNodeWrapper names; the host has no such widget."""

    def __init__(self, *_, **__):
        raise NotImplementedError(f"{type(self).__name__} is not in the test host")


NAMED_ONLY = ("qMRMLSliderWidget", "qMRMLSpinBox", "qMRMLRangeWidget", "qMRMLCheckableNodeComboBox")
HERE = {
    name: wrap(cls, name)
    for name, cls in list(globals().items())
    if name.startswith(("qMRML", "qSlicer")) and isinstance(cls, type)
}
HERE.update({name: type(name, (NotHere,), {}) for name in NAMED_ONLY})
globals().update(HERE)


def __getattr__(name):
    raise AttributeError(
        name if name.startswith("__") else f"slicer.{name} is not in the test host"
    )
