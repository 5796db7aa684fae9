"""The selectors of the images that a network takes and gives: a part of the panel."""

from __future__ import annotations

from typing import Any

import qt
import slicer

from NetInversionLib.ideal_input import settings
from NetInversionLib.models.card import Channel
from NetInversionLib.panel import keyboard, panel
from NetInversionLib.panel.texts import literal, on_button
from NetInversionLib.panel.words import tr as _

from .choices import CHOSEN


class Channels(panel.ModulePanel):
    """One selector for each image that the chosen network takes and gives, one lock for each that
    it takes.
    """

    def __init__(self, parent: qt.QWidget | None = None):
        self._selectors: dict[str, Any] = {}  # by role: node selectors
        self._locks: dict[str, Any] = {}  # by role: check boxes
        self._starts: dict[str, Any] = {}  # by name: check boxes
        panel.ModulePanel.__init__(self, parent)

    def _onVolumeChosen(self, role: str, node: slicer.vtkMRMLNode | None) -> None:
        if not self._writing and self._parameterNode is not None:
            self._parameterNode.parameterNode.SetNodeReferenceID(
                CHOSEN + role, node.GetID() if node else None
            )

    def _onLock(self, state: bool) -> None:
        self.setValues(locked=",".join(role for role, box in self._locks.items() if box.checked))

    def _onStart(self, state: bool) -> None:
        self.setValues(starts=",".join(name for name, box in self._starts.items() if box.checked))

    def _addStarts(self) -> None:
        """One check box for each start that the library knows."""
        for name, (title, tip) in settings.START_TEXTS.items():
            box = self._starts[name] = qt.QCheckBox(on_button(_(title)))
            box.objectName = f"start{name.capitalize()}CheckBox"
            box.toolTip = literal(_(tip))
            box.connect("toggled(bool)", self._onStart)
            self.ui.startsWidget.layout().addWidget(box)
            setattr(self.ui, box.objectName, box)
        keyboard.visit_after(self.ui.maskSelector, list(self._starts.values()))

    def _showStarts(self, node: Any) -> bool:
        """Tick the starts that are chosen, and say whether noise is one."""
        chosen = node.starts.split(",")
        for name, box in self._starts.items():
            box.checked = name in chosen
        return "noise" in chosen

    def modelChanged(self) -> None:
        """One selector for each image that the network takes and gives, one lock for each that it
        takes.
        """
        locks = self.ui.locksWidget.layout()
        for selector in self._selectors.values():
            # A selector that waits for its deletion must not answer any more.
            selector.setMRMLScene(None)
            self.ui.inputsLayout.removeRow(selector)
        for box in self._locks.values():
            locks.removeWidget(box)
            box.hide()  # at once; it is deleted when the event loop runs
            box.deleteLater()
        self._selectors, self._locks = {}, {}
        for channel in self._card.inputs if self._card else ():
            self._addSelector(channel, _("{channel}:").format(channel=channel.name))
            box = self._locks[channel.role] = qt.QCheckBox(on_button(channel.name))
            box.connect("toggled(bool)", self._onLock)
            locks.addWidget(box)
        for channel in self._card.outputs if self._card else ():
            self._addSelector(channel, _("Target {channel}:").format(channel=channel.name))
        keyboard.visit_after(self.ui.modelFileEdit, list(self._selectors.values()))
        keyboard.visit_after(self.ui.boxCheckBox, list(self._locks.values()))

    def _addSelector(self, channel: Channel, label: str) -> None:
        selector = self._selectors[channel.role] = slicer.qMRMLNodeComboBox()
        selector.objectName = f"{channel.role}Selector"
        selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        selector.showChildNodeTypes = False  # label maps and colour volumes
        selector.addEnabled = selector.removeEnabled = False
        selector.noneEnabled = True
        selector.noneDisplay = _("Select a volume")
        selector.setMRMLScene(slicer.mrmlScene)
        selector.toolTip = literal(
            _("{channel}, in {units}").format(
                channel=channel.name, units=channel.units or _("no units")
            )
        )
        selector.connect(
            "currentNodeChanged(vtkMRMLNode*)",
            lambda node, role=channel.role: self._onVolumeChosen(role, node),
        )
        # The model takes three rows.
        self.ui.inputsLayout.insertRow(2 + len(self._selectors), literal(label), selector)
