"""A result in words and in Slicer's views: the part of the logic that shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import slicer
from slicer.i18n import tr as _

from NetInversionLib.core.results import Result
from NetInversionLib.core.steps import Steps
from NetInversionLib.ideal_input import reading
from NetInversionLib.models.card import Card
from NetInversionLib.panel import logic, views

LAYOUT = 4866
"""Identifier of the layout; the number of the abstract that the method comes from."""

Nodes = Mapping[str, Any]
"""The nodes of a result, or of inputs, by their keys."""


class ResultViews(logic.ModuleLogic):
    """Shows results."""

    def startsOf(self, nodes: Nodes, card: Card) -> list[str]:
        """The starts whose inputs a result holds."""
        prefix = f"ideal {card.inputs[0].role} "
        return [key[len(prefix) :] for key in nodes if key.startswith(prefix)]

    def summary(self, nodes: Nodes) -> str:
        """The answer, and the errors that it rests on, as HTML."""
        return reading.summary(self.facts(nodes), self.tables(nodes))

    def shownAs(self, result: Result, inputs: Nodes) -> dict[str, Any]:
        """Images are shown as the patient's of that channel, errors of one channel all as the
        patient's.
        """
        shown = {}
        for key in result.volumes:
            kind, role = (key.split(" ") + [""])[:2]
            shown[key] = f"error {role} patient's" if kind == "error" else inputs.get(role)
            if kind not in ("ideal", "output", "error"):
                del shown[key]
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
        output = card.outputs[0].role
        worst = self.facts(nodes).get("settings", {}).get("direction") == "worst"
        kind = _("Worst") if worst else _("Ideal")
        change = nodes.get(f"change {channel} {start}")
        errors = [nodes.get(f"error {output} {name}") for name in ("patient's", start)]
        rows = [
            [
                views.Slice("IdealInput1", _("Patient's own input"), patient),
                views.Slice(
                    "IdealInput2",
                    _("{kind} input").format(kind=kind),
                    nodes.get(f"ideal {channel} {start}"),
                ),
                views.over(
                    "IdealInput3",
                    _("{kind} minus patient's own").format(kind=kind),
                    patient,
                    change,
                ),
            ],
            [
                views.Slice(
                    "IdealInput4", _("Error with patient's own input"), errors[0], color=views.MAP
                ),
                views.Slice(
                    "IdealInput5",
                    _("Error with {kind} input").format(kind=kind.lower()),
                    errors[1],
                    color=views.MAP,
                ),
                views.Tabs(
                    {
                        _("Table"): views.Table("IdealInputTable", nodes.get(table)),
                        _("Convergence"): views.Plot("IdealInputPlot1", nodes.get("convergence")),
                        _("Spectrum"): views.Plot(
                            "IdealInputPlot2", nodes.get(f"spectrum {start}")
                        ),
                    }
                ),
            ],
        ]
        yield from views.show(LAYOUT, rows, change, nodes.get(f"ideal {channel} {start}"))


def shownView() -> str:
    """The view whose slice the user looks at: the first of the module's own, or the red one."""
    return "IdealInput1" if slicer.app.layoutManager().layout == LAYOUT else "Red"
