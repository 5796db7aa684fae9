"""A batch: one run after the other, for a source and further volumes that are ticked."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import qt
import slicer
import vtk

from . import keyboard, texts
from .logic import ModuleLogic
from .panel import ModulePanel
from .words import tr as _

BATCH = "batch"
"""Node references of the parameter node: more volumes that are run."""
LOGGER = logging.getLogger(__name__)


class BatchLogic(ModuleLogic):
    """Which volumes a batch has.

    The parameter node ``node`` has the fields ``sourceVolume`` and ``maskNode``.
    """

    def batch(self, node: Any) -> list[slicer.vtkMRMLNode]:
        """The further volumes that are ticked."""
        references = range(node.parameterNode.GetNumberOfNodeReferences(BATCH))
        volumes = (node.parameterNode.GetNthNodeReference(BATCH, index) for index in references)
        return [
            volume for volume in volumes if volume is not None and volume is not node.sourceVolume
        ]

    def setBatch(self, node: Any, identifiers: Iterable[str]) -> None:
        """Tick the volumes with these identifiers, and no others."""
        wasModifying = node.parameterNode.StartModify()
        node.parameterNode.RemoveNodeReferenceIDs(BATCH)
        for identifier in identifiers:
            node.parameterNode.AddNodeReferenceID(BATCH, identifier)
        node.parameterNode.EndModify(wasModifying)

    def batchVolumes(self, node: Any) -> list[slicer.vtkMRMLNode]:
        """The scene's volumes that could be ticked: not the source, the mask, or a result."""
        return [
            volume
            for volume in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
            if volume.GetClassName() == "vtkMRMLScalarVolumeNode"
            and volume is not node.sourceVolume
            and volume is not node.maskNode
            and not volume.GetAttribute(f"{self.moduleName}.key")
            and not volume.GetHideFromEditors()
        ]

    def sources(self, node: Any) -> list[slicer.vtkMRMLNode]:
        """All volumes of a batch: the source, and those that are ticked."""
        return [node.sourceVolume, *self.batch(node)]


class BatchPanel(ModulePanel):
    """A panel whose Apply runs one volume after the other.

    Its .ui file has ``batchLabel``, ``batchGroupBox`` and ``batchWidget``, whose layout gets a
    check box for each volume.

    ``_ends`` has name and end ("done", "failed", "stopped"; "" before) of each volume, ``_waiting``
    place there and node of those still to come, ``_place`` is that of the one whose turn it is.
    A module's widget overrides ``batchFollows`` and ``batchText``, and its ``prepareRun`` is for
    ``nextSource()``.
    """

    def __init__(self, parent: qt.QWidget | None = None):
        self._waiting: list[tuple[int, Any]] = []
        self._ends: list[list[str]] = []
        self._place = 0
        self._boxes: dict[str, Any] = {}  # by identifier of a volume: its check box
        ModulePanel.__init__(self, parent)

    def batchFollows(self) -> qt.QWidget:
        """The control that the Tab key leaves for the check boxes."""
        raise NotImplementedError

    def batchText(self, ends: list[list[str]]) -> str:
        """How a batch went, in words, from name and end of each volume."""
        raise NotImplementedError

    def nextSource(self) -> slicer.vtkMRMLNode:
        """The volume whose turn it is."""
        self._place, source = self._waiting.pop(0)
        return source

    def _onTicked(self, state: bool) -> None:
        if not self._writing and self._parameterNode is not None:
            self.logic.setBatch(
                self._parameterNode,
                [identifier for identifier, box in self._boxes.items() if box.checked],
            )

    def _onNodeAdded(self, caller: vtk.vtkObject, event: str) -> None:
        if self._going is None:  # else at the run's end: a result adds many
            self.refresh()

    def _showBatch(self) -> None:
        """A check box for each of the scene's volumes that can be ticked.

        They are made anew only for other volumes.
        """
        offered = {
            volume.GetID(): texts.on_button(volume.GetName())
            for volume in self.logic.batchVolumes(self._parameterNode)
        }
        layout = self.ui.batchWidget.layout()
        if {identifier: box.text for identifier, box in self._boxes.items()} != offered:
            for box in self._boxes.values():
                layout.removeWidget(box)
                box.hide()  # at once; it is deleted when the event loop runs
                box.deleteLater()
            self._boxes = {identifier: qt.QCheckBox(name) for identifier, name in offered.items()}
            for box in self._boxes.values():
                box.connect("toggled(bool)", self._onTicked)
                layout.addWidget(box)
            keyboard.visit_after(self.batchFollows(), list(self._boxes.values()))
        for widget in (self.ui.batchLabel, self.ui.batchGroupBox):
            widget.setVisible(bool(offered))
        chosen = {volume.GetID() for volume in self.logic.batch(self._parameterNode)}
        for identifier, box in self._boxes.items():
            box.checked = identifier in chosen

    def onApplyButton(self, clicked: bool = False) -> None:
        """Start a run for each source, one after the other; while one goes on, cancel them all."""
        if self._going is None:
            sources = self.logic.sources(self._parameterNode)
            self._waiting = list(enumerate(sources))
            self._ends = [[source.GetName(), ""] for source in sources]
        else:
            self._waiting = []  # Cancel ends the batch
        ModulePanel.onApplyButton(self)

    def _cancelTip(self) -> str:
        """There is no intermediate result that could be kept."""
        if len(self._ends) > 1:
            return _(
                "Stop the batch. Nothing is kept of this volume, those after it are left out, and"
                " earlier results stay."
            )
        return _("Stop. Nothing is kept of this run.")

    def _onProgress(self, fraction: float, message: str) -> None:
        if len(self._ends) > 1:
            message = _("{number} of {count}, {name}: {message}").format(
                number=self._place + 1,
                count=len(self._ends),
                name=self._ends[self._place][0],
                message=message,
            )
        ModulePanel._onProgress(self, fraction, message)

    def _conclude(self, message: str, details: str | None = None) -> None:
        batch = len(self._ends) > 1
        if batch:
            end = self._ends[self._place]
            end[1] = "done" if self._going.written else "stopped"
            if details is not None:
                end[1] = "failed"
            message = f"{end[0]}: {message}"
            if details:
                LOGGER.error("%s\n%s", message, details)
            details = None  # a dialog would hold the others up
        ModulePanel._conclude(self, message, details)
        if self._waiting:
            qt.QTimer.singleShot(0, self._next)
        elif batch:
            self.say(self.batchText(self._ends))

    def _next(self) -> None:
        """Start the next volume of the batch that is there; without any, the batch is over."""
        self._waiting = [
            (place, node) for place, node in self._waiting if node.GetScene() is not None
        ]
        if self._going is not None or self._parameterNode is None:
            return
        if self._waiting:
            self._start(self.prepareRun())
        elif self._ends:
            self.say(self.batchText(self._ends))

    def _abandon(self, message: str) -> None:
        self._waiting, self._ends = [], []
        ModulePanel._abandon(self, message)
