"""Figures that follow the view and the placed points: a part of the panel."""

from __future__ import annotations

from typing import Any

import qt
import slicer
import vtk

from NetInversionLib.panel import panel

from .views import shownView


class Following(panel.ModulePanel):
    """Says where the input may change and what counts as unnoticed.

    Also follows points and a view that are moved.
    """

    _watched: list[tuple[Any, Any, Any]] = []
    """(node, event, what is done): markups whose points decide on Apply, and the view."""

    def _followView(self) -> None:
        self._viewTimer = qt.QTimer(self.parent)
        self._viewTimer.setSingleShot(True)
        self._viewTimer.setInterval(200)
        self._viewTimer.timeout.connect(self.refresh)

    def _showTolerance(self) -> None:
        """The figure that counts.

        It is what is set here, or what automatic or a hidden layer makes of it.
        """
        words = self.logic.toleranceWords(self._parameterNode)
        self.ui.automaticLabel.setText(words)
        self.ui.automaticLabel.setVisible(bool(words))
        self.ui.epsilonSlider.setVisible(not words)
        self.ui.automaticCheckBox.enabled = self._parameterNode.layer == "output"

    def _showRegion(self) -> None:
        """Where the square around the view's centre lies.

        The views are followed, which do not change the parameter node.
        """
        words = self.logic.regionWords(self._parameterNode)
        self.ui.regionInfoLabel.setText(words)
        self.ui.regionInfoLabel.setVisible(bool(words))

    def _watch(self, *markups: slicer.vtkMRMLNode | None) -> None:
        """Follow points that are placed or moved, and the view.

        None of these changes the parameter node.
        """
        placed = slicer.vtkMRMLMarkupsNode
        events = (
            placed.PointPositionDefinedEvent,
            placed.PointRemovedEvent,
            placed.PointEndInteractionEvent,
        )
        watched: list[tuple[Any, Any, Any]] = [
            (node, event, self.refresh) for node in markups if node is not None for event in events
        ]
        view = slicer.app.layoutManager().sliceWidget(shownView()).mrmlSliceNode()
        watched.append((view, vtk.vtkCommand.ModifiedEvent, self._onView))
        if watched != self._watched:
            for change, observers in (
                (self.removeObserver, self._watched),
                (self.addObserver, watched),
            ):
                for observer in observers:
                    change(*observer)
            self._watched = watched

    def _onView(self, caller: vtk.vtkObject, event: str) -> None:
        if self._parameterNode is not None and self._parameterNode.region.name == "AROUND":
            self._viewTimer.start()  # not at each step of a scroll

    def cleanup(self) -> None:
        self._viewTimer.stop()
        super().cleanup()
