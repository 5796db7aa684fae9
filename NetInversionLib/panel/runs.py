"""The list of a module's results in its panel.

It says which one is shown, and has a button that deletes one with all its nodes.
"""

from __future__ import annotations

from typing import Any

import slicer

from ..scene import runs as scene_runs
from . import lists
from .words import tr as _


class RunList:
    """Follows the scene's results of a module in two widgets of its panel.

    They are ``shownRunSelector`` and ``deleteRunButton``.

    Args:
        panel: The ``ModulePanel``; ``logic.runs()`` says what there is, the parameter node's
            ``run`` which one is shown.
    """

    def __init__(self, panel: Any):
        self._panel, self._selector = panel, panel.ui.shownRunSelector
        self._selector.connect("activated(int)", self._onChosen)
        panel.ui.deleteRunButton.connect("clicked(bool)", self._onDelete)

    def show(self) -> None:
        """Bring the list up to date with the scene."""
        entries, selector = self._panel.logic.runs(), self._selector
        lists.fill(selector, entries)
        selector.setCurrentIndex(max(0, selector.findData(self._panel._parameterNode.run)))
        selector.enabled = selector.count > 0

    def _onChosen(self, index: int) -> None:
        self._panel.setValues(run=self._selector.itemData(index))
        self._panel.showResult()

    def _onDelete(self, *_arguments: Any) -> None:
        panel, run = self._panel, self._panel._parameterNode.run
        label = panel.logic.runs().get(run)
        if label is None:
            return
        question = _(
            "Delete '{result}' with all its images, tables and plots? This cannot be undone."
        ).format(result=label)
        if not slicer.util.confirmOkCancelDisplay(question, panel.logic.TITLE):
            return
        panel.logic.deleteRun(run)
        panel.setValues(run=next(reversed(panel.logic.runs()), ""))
        panel.refresh()
        if panel._parameterNode.run:
            panel.showResult()
        panel.say(_("'{result}' was deleted.").format(result=label))


def labelled(runs: dict[str, str]) -> dict[str, str]:
    """{run: label}, in which labels that occur again get a number: "brain", "brain (2)"."""
    found: dict[str, str] = {}
    for run, label in runs.items():
        again = sum(other == label for other in list(runs.values())[: len(found)])
        found[run] = f"{label} ({again + 1})" if again else label
    return found


def remove(owner: str, run: str) -> None:
    """Take a run's nodes out of the scene while selectors and views look only once."""
    scene = slicer.mrmlScene
    scene.StartState(scene.BatchProcessState)
    try:
        scene_runs.remove_run(owner, run)
    finally:
        scene.EndState(scene.BatchProcessState)
