"""The selectors of the images that a network takes and gives: a part of the panel."""

from __future__ import annotations

from typing import Any

import qt

from NetInversionLib.ideal_input import settings
from NetInversionLib.panel import examples, keyboard
from NetInversionLib.panel.texts import literal, on_button
from NetInversionLib.panel.words import tr as _


class Channels(examples.ExamplePanel):
    """One selector for each image that the chosen network takes and gives, one lock for each that
    it takes.
    """

    def __init__(self, parent: qt.QWidget | None = None):
        self._locks: dict[str, Any] = {}  # by role: check boxes
        self._starts: dict[str, Any] = {}  # by name: check boxes
        examples.ExamplePanel.__init__(self, parent)

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
        self.dropSelectors()
        for box in self._locks.values():
            locks.removeWidget(box)
            box.hide()  # at once; it is deleted when the event loop runs
            box.deleteLater()
        self._locks = {}
        self.addSelectors(self._card, 3)
        for channel in self._card.inputs if self._card else ():
            box = self._locks[channel.role] = qt.QCheckBox(on_button(channel.name))
            box.connect("toggled(bool)", self._onLock)
            locks.addWidget(box)
        keyboard.visit_after(self.ui.boxCheckBox, list(self._locks.values()))

    def exampleLeft(self) -> None:
        """What was chosen for an example only is as it was for the network that follows."""
        self.logic.unchooseExample(self._parameterNode)
