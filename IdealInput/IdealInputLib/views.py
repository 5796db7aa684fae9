"""A result in words and in Slicer's views: the part of the logic that shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import slicer

from NetInversionLib.core.keys import OWN, Key
from NetInversionLib.core.results import Result
from NetInversionLib.core.steps import Steps
from NetInversionLib.ideal_input import reading
from NetInversionLib.models.card import Card, looked_at
from NetInversionLib.panel import logic, views
from NetInversionLib.panel.words import tr as _

LAYOUT = 4866
"""Identifier of the layout; the number of the abstract that the method comes from."""

Nodes = Mapping[str, Any]
"""The nodes of a result, or of inputs, by their keys."""


class ResultViews(logic.ModuleLogic):
    """Shows results."""

    def startsOf(self, nodes: Nodes, card: Card) -> list[str]:
        """The starts whose inputs a result holds."""
        first = card.inputs[0].role
        keys = map(Key.read, nodes)
        return [key.start for key in keys if (key.kind, key.channel) == ("ideal", first)]

    def summary(self, nodes: Nodes) -> str:
        """The answer, and the errors that it rests on, as HTML."""
        return reading.summary(self.facts(nodes), self.tables(nodes))

    def shownAs(self, result: Result, inputs: Nodes) -> dict[str, Any]:
        """Images are shown as the patient's of that channel, errors of one channel all as the
        patient's.
        """
        shown: dict[str, Any] = {}
        for key in map(Key.read, result.volumes):
            if key.start and key.channel.endswith(("_magnitude", "_phase")):
                shown[key] = _first_alike(key)
            elif key.kind == "error":
                shown[key] = Key("error", key.channel, OWN)
            elif key.kind in ("ideal", "output"):
                shown[key] = inputs.get(key.channel)
        return shown

    def showInViews(
        self,
        nodes: Nodes,
        card: Card,
        patient: slicer.vtkMRMLNode | None,
        start: str,
        channel: str,
        table: str,
    ) -> Steps:
        """Steps that show patient | ideal | change above error before | error after | table and
        plots, on one slice.
        """
        output = next(iter(looked_at(card.outputs)))
        worst = self.facts(nodes).get("settings", {}).get("direction") == "worst"
        if worst:
            titles = _("Worst input"), _("Worst minus patient's own"), _("Error with worst input")
        else:
            titles = _("Ideal input"), _("Ideal minus patient's own"), _("Error with ideal input")
        ideal = nodes.get(Key("ideal", channel, start))
        change = nodes.get(Key("change", channel, start))
        errors = [nodes.get(Key("error", output, name)) for name in (OWN, start)]
        tabs: dict[str, Any] = {
            _("Table"): views.TableView("IdealInputTable", nodes.get(table)),
            _("Convergence"): views.PlotView("IdealInputPlot1", nodes.get("convergence")),
            _("Spectrum"): views.PlotView(
                "IdealInputPlot2", nodes.get(Key("spectrum", start=start))
            ),
        }
        if "trade-off" in nodes:
            tabs[_("Change")] = views.PlotView("IdealInputPlot3", nodes["trade-off"])
        if card.family:
            for name, word in ((OWN, _("Image")), (start, _("Image, ideal input"))):
                tabs[word] = views.SliceView(
                    f"IdealInput{len(tabs)}Image", word, nodes.get(Key("output", output, name))
                )
        rows: list[views.Row] = [
            [
                views.SliceView("IdealInput1", _("Patient's own input"), patient),
                views.SliceView("IdealInput2", titles[0], ideal),
                views.over("IdealInput3", titles[1], patient, change),
            ],
            [
                views.SliceView(
                    "IdealInput4", _("Error with patient's own input"), errors[0], color=views.MAP
                ),
                views.SliceView("IdealInput5", titles[2], errors[1], color=views.MAP),
                views.TabViews(tabs),
            ],
        ]
        yield from views.show(LAYOUT, rows, change, ideal)


def _first_alike(key: Key) -> Key | None:
    """The image whose window a magnitude takes; phases have one of their own."""
    if key.kind in ("output", "error") and key.start != OWN and key.channel.endswith("_magnitude"):
        return Key(key.kind, key.channel, OWN)
    return None


def shownView() -> str:
    """The view whose slice the user looks at: the first of the module's own, or the red one."""
    return "IdealInput1" if slicer.app.layoutManager().layout == LAYOUT else "Red"
