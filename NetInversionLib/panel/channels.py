"""The images that a network takes and gives: a selector for each, and which node was chosen."""

from __future__ import annotations

from typing import Any

import qt
import slicer

from ..core import volumes
from ..models.card import Card, Channel
from ..scene import read
from . import keyboard, logic, panel
from .texts import literal
from .words import tr as _

CHANNEL = "NetInversion.channel"
"""Attribute of a volume node: the channel it is, as sample data say it."""
CHOSEN = "channel."
"""Node references of the parameter node: the volume chosen for a channel."""


class ChannelLogic(logic.ModuleLogic):
    """Part of a module's logic whose parameter node refers to a volume for each channel."""

    def chosen(self, node: Any, role: str) -> slicer.vtkMRMLNode | None:
        """The volume node chosen for a channel, or None."""
        return node.parameterNode.GetNodeReference(CHOSEN + role)

    def chosenVolumes(self, node: Any, card: Card) -> dict[str, slicer.vtkMRMLNode | None]:
        """The volume nodes chosen for all channels of a card, by role."""
        channels = (*card.inputs, *card.outputs)
        return {channel.role: self.chosen(node, channel.role) for channel in channels}

    def chooseVolume(self, node: Any, role: str, volume: slicer.vtkMRMLNode | None) -> None:
        """Choose a volume node for a channel, or none."""
        node.parameterNode.SetNodeReferenceID(CHOSEN + role, volume.GetID() if volume else None)

    def channelProblems(self, node: Any, card: Card) -> list[str]:
        """What is wrong with the volumes that are chosen for the channels, in words."""
        found: list[str] = []
        users: dict[Any, str] = {}
        for channel in (*card.inputs, *card.outputs):
            volume = self.chosen(node, channel.role)
            if volume is None:
                found.append(_("Choose a volume for {channel}.").format(channel=channel.name))
                continue
            if volume in users:
                found.append(
                    _("'{name}' is chosen for both {first} and {second}.").format(
                        name=volume.GetName(), first=users[volume], second=channel.name
                    )
                )
            users[volume] = channel.name
            try:
                read.grid_from_node(volume)
            except volumes.VolumeError as error:
                found.append(str(error))
        return found


class ChannelSelectors(panel.ModulePanel):
    """Part of a panel that has one selector for each image that the chosen network takes and gives.

    The module's logic is a ``ChannelLogic``.
    """

    def __init__(self, parent: qt.QWidget | None = None):
        self._selectors: dict[str, Any] = {}  # by role: node selectors
        panel.ModulePanel.__init__(self, parent)

    def dropSelectors(self) -> None:
        """Take all selectors out of the panel."""
        for selector in self._selectors.values():
            # A selector that waits for its deletion must not answer any more.
            selector.setMRMLScene(None)
            self.ui.inputsLayout.removeRow(selector)
        self._selectors = {}

    def addSelectors(self, card: Card | None, row: int) -> None:
        """Put selectors into ``inputsLayout``, from a row on, and none without a card."""
        for channel in card.inputs if card else ():
            self._addSelector(channel, _("{channel}:").format(channel=channel.name), row)
        for channel in card.outputs if card else ():
            self._addSelector(channel, _("Target {channel}:").format(channel=channel.name), row)
        keyboard.visit_after(self.ui.modelFileEdit, list(self._selectors.values()))

    def _addSelector(self, channel: Channel, label: str, row: int) -> None:
        selector = slicer.qMRMLNodeComboBox()
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
        self.ui.inputsLayout.insertRow(row + len(self._selectors), literal(label), selector)
        self._selectors[channel.role] = selector

    def _onVolumeChosen(self, role: str, node: slicer.vtkMRMLNode | None) -> None:
        if not self._writing and self._parameterNode is not None:
            self.logic.chooseVolume(self._parameterNode, role, node)

    def showSelectors(self) -> None:
        """Bring the selectors up to date with the parameter node."""
        for role, selector in self._selectors.items():
            selector.setCurrentNode(self.logic.chosen(self._parameterNode, role))
