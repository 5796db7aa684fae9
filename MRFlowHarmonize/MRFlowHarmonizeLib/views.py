"""A result in words and in Slicer's views: the part of the logic that shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from NetInversionLib.core.results import Result
from NetInversionLib.core.steps import Steps
from NetInversionLib.harmonize import reading
from NetInversionLib.panel import logic, views, words
from NetInversionLib.panel.words import tr as _
from NetInversionLib.scene import read, write

LAYOUT = 4867
"""Identifier of the layout."""
MAPS = {
    "change": _("Change"),
    "multiplicative field": _("Multiplicative field"),
    "additive field": _("Additive field"),
    "unlike": _("Unlike the target's people"),
}
"""What the third view can show: keys of images, in words."""
WAYS = {
    "shading": _("The shading alone"),
    "change": _("The whole change"),
    "inverse": _("The change backwards"),
}
"""How a result's change can be used on another volume: ``harmonize.reuse.WAYS``, in words."""

Nodes = Mapping[str, Any]
"""The nodes of a result, or of inputs, by their keys."""


class ResultViews(logic.ModuleLogic):
    """Shows results."""

    def summary(self, nodes: Nodes) -> tuple[str, str]:
        """(verdict, HTML): the verdict and the answer, the reasons, and what changed in figures."""
        return reading.summary(self.facts(nodes), self.tables(nodes))

    def runLabel(self, nodes: Nodes) -> str:
        """A result in a few words: of which image, and the verdict."""
        facts = self.facts(nodes)
        if not facts:
            return logic.ModuleLogic.runLabel(self, nodes)
        return f"{facts.get('source', self.TITLE)} ({facts.get('verdict', _('incomplete'))})"

    def useChange(self, nodes: Nodes, other: Any, way: str = "shading") -> Any:
        """A result's change on another volume of the visit, as a new node.

        Args:
            nodes: Of the result.
            other: Scalar volume node, in the patient coordinates of the source.
            way: A key of ``WAYS``.

        Raises:
            ValueError: The volume cannot be used, or the result holds no whole change.
        """
        from NetInversionLib.harmonize import reuse

        changed = reuse.apply_again(self.facts(nodes), read.volume_from_node(other), way)
        name = f"{other.GetName()} ({words.tr(WAYS[way])})"
        return write.volume_to_node(changed, name, other, "input", other)

    def shownAs(self, result: Result, inputs: Nodes) -> dict[str, Any]:
        """In its own intensities the result is shown with the source's window."""
        native = result.facts.get("settings", {}).get("output_range") == "native"
        return {"harmonized": inputs.get("source")} if native else {}

    def showInViews(
        self,
        nodes: Nodes,
        shownMap: str = "change",
        table: str = "verdict",
        overlay: bool = False,
    ) -> Steps:
        """Steps that show images above figures, on one slice.

        Source, result and map stand above histograms, tone curve and table.
        """
        source, result, change = self.sourceOf(nodes), nodes.get("harmonized"), nodes.get("change")
        shownMap = shownMap if shownMap in nodes else "change"
        shown = nodes.get(shownMap)
        rows: list[views.Row] = [
            [
                views.SliceView("MRFlowHarmonize1", _("Source"), source),
                views.SliceView(
                    "MRFlowHarmonize2", _("Harmonized"), result, shown if overlay else None, 0.5
                ),
                views.over("MRFlowHarmonize3", MAPS[shownMap], source, shown),
            ],
            [
                views.PlotView("MRFlowHarmonizePlot1", nodes.get("histograms")),
                views.PlotView(
                    "MRFlowHarmonizePlot2", nodes.get("tone curve") or nodes.get("similarity")
                ),
                views.TableView("MRFlowHarmonizeTable", nodes.get(table) or nodes.get("verdict")),
            ],
        ]
        yield from views.show(LAYOUT, rows, change, source or result)
