"""A result in words and in Slicer's views: the part of the logic that shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import slicer
from slicer.i18n import tr as _

from NetInversionLib.core.steps import Steps
from NetInversionLib.invariances import reading
from NetInversionLib.panel import browsing, logic, views
from NetInversionLib.scene import results

LAYOUT = 12304
"""Identifier of the smallest layout, see showInViews. The number of the method's proceedings."""
LAYOUTS = range(LAYOUT, LAYOUT + 4)
KINDS = ("samples", "proposals")
"""Keys of the browsed sequences that can be chosen."""
ANSWERS = "answers"
"""Key of the sequence that follows: what the network makes of each sample."""
CHANGES = ("shown change", "shown change of answer")
"""Keys of what the shown image and its answer differ by."""
LESION = "lesion"
"""In the keys of the images of a nodule."""

Nodes = Mapping[str, Any]
"""The nodes of a result by their keys."""


class ResultViews(logic.ModuleLogic):
    """Shows results. A ``suffix`` is what the keys of one denoiser's images end with: "" or
    " second"; a ``key`` is that of an image, or of a sequence of images.
    """

    def suffixes(self, nodes: Nodes) -> list[str]:
        """What the keys of each denoiser's images end with."""
        return [suffix for suffix in ("", " second") if f"output{suffix}" in nodes]

    def modelsOf(self, nodes: Nodes) -> dict[str, str]:
        """{suffix: name} of the denoisers."""
        facts = self.facts(nodes)
        names = {"": facts.get("model", {}), " second": facts.get("second", {}).get("model", {})}
        return {suffix: names[suffix].get("name", suffix) for suffix in self.suffixes(nodes)}

    def imagesOf(self, nodes: Nodes, suffix: str) -> dict[str, str]:
        """{key: title} of what can be shown as image, of a denoiser."""
        found = {
            f"samples{suffix}": _("Samples (proven)"),
            f"proposals{suffix}": _("Proposals (unproven)"),
        }
        found.update(
            {f"component {n}{suffix}": _("Component {n}").format(n=n) for n in range(1, 21)}
        )
        found.update(
            {
                f"lesion{suffix}": _("Nodule put in"),
                f"hidden lesion{suffix}": _("Nodule as far as it stays unnoticed"),
            }
        )
        return {
            key: title
            for key, title in found.items()
            if key in nodes or browsing.singles(nodes, key)
        }

    def sampleCount(self, nodes: Nodes, key: str) -> int:
        """How many images of a kind, "samples" say, can be browsed."""
        return browsing.count(nodes, key)

    def choose(self, nodes: Nodes, key: str, value: float) -> None:
        """Select a sample in the browser by its number, or show the patient's image with ``value``
        times a component added.
        """
        if LESION in key:
            return
        if key.startswith(KINDS):
            browser = nodes.get("browser second" if key.endswith("second") else "browser")
            browsing.select(browser, round(value))
            return
        title = _("Patient with component")
        browsing.show_sum(nodes, nodes["patient"], nodes[key], value, self.moduleName, title)

    def showChanges(
        self, nodes: Nodes, key: str
    ) -> tuple[slicer.vtkMRMLNode | None, slicer.vtkMRMLNode | None]:
        """(what the shown image differs by from the patient's, what its answer does from the
        denoised), as nodes, in one window.

        The answer is known of samples only; else its node is None.
        """
        suffix = " second" if key.endswith("second") else ""
        patient, image, answer = nodes.get("patient"), self.imageNode(nodes, key, 1), None
        if patient is None or image is None:
            return None, None
        if key == f"samples{suffix}":
            answer = self.imageNode(nodes, f"{ANSWERS}{suffix}", 1)
        change, after = (
            words.format(name=image.GetName())
            for words in (_("Change: {name}"), _("Change of the denoised: {name}"))
        )
        change = results.show_difference(image, patient, change, self.moduleName, CHANGES[0])
        if answer is None or nodes.get(f"output{suffix}") is None:
            return change, None
        after = results.show_difference(
            answer, nodes[f"output{suffix}"], after, self.moduleName, CHANGES[1], change
        )
        return change, after

    def imageLabel(self, nodes: Nodes, key: str) -> str:
        """What the shown image is, in a few words."""
        return self.imagesOf(nodes, " second" if key.endswith("second") else "").get(
            key, _("Sample")
        )

    def imageNode(self, nodes: Nodes, key: str, value: float) -> slicer.vtkMRMLNode | None:
        """The node that shows what was chosen."""
        if key in nodes and not key.startswith("component"):
            return nodes[key]
        if key.startswith((*KINDS, ANSWERS)):
            return browsing.shown(nodes, key, round(value))
        if not key:
            return None
        run = nodes["patient"].GetAttribute(f"{self.moduleName}.run")
        return self.resultNodes(run).get(browsing.SUM)

    def proofOf(self, nodes: Nodes, key: str, value: float) -> str:
        """What is known of the shown image, in a sentence."""
        facts = self.facts(nodes)
        number = browsing.number_at(nodes, key, round(value)) if key.startswith(KINDS) else None
        return reading.proof(facts, self.tables(nodes), key, number) if facts else ""

    def summary(self, nodes: Nodes) -> str:
        """The answer, and what it rests on, as HTML."""
        return reading.summary(self.facts(nodes), self.tables(nodes))

    def showInViews(
        self,
        nodes: Nodes,
        normalDose: slicer.vtkMRMLNode | None,
        suffix: str = "",
        image: str = "",
        table: str = "",
        opacity: float = 0.6,
    ) -> Steps:
        """Steps that show low dose, (normal dose,) denoised and sample above the maps over the CT,
        tables and plots.

        The maps are the two standard deviations and, where there is one, the autoencoder's error,
        their floor.
        """
        patient, floor = nodes.get("patient"), nodes.get(f"vae floor{suffix}")
        unproven, proven = (nodes.get(f"std {kind}{suffix}") for kind in ("unproven", "proven"))
        if unproven is not None and proven is not None:  # one window for both
            display = unproven.GetDisplayNode()
            proven.GetDisplayNode().SetWindowLevelMinMax(
                display.GetWindowLevelMin(), display.GetWindowLevelMax()
            )
        rows = self._rows(nodes, normalDose, suffix, image, table, opacity)
        number = LAYOUT + (normalDose is not None) + 2 * (floor is not None)
        yield from views.show(number, rows, unproven, patient)

    def _rows(
        self,
        nodes: Nodes,
        normalDose: slicer.vtkMRMLNode | None,
        suffix: str,
        image: str,
        table: str,
        opacity: float,
    ) -> list[views.Row]:
        """The views from top to bottom, as ``showInViews`` describes them."""
        patient, floor = nodes.get("patient"), nodes.get(f"vae floor{suffix}")
        unproven, proven = (nodes.get(f"std {kind}{suffix}") for kind in ("unproven", "proven"))
        changes = self.showChanges(nodes, image)
        normal = (
            [views.Slice("InvariancesNormal", _("Normal dose"), normalDose)]
            if normalDose is not None
            else []
        )
        tabs = {
            _("Table"): views.Table("InvariancesTable", nodes.get(table)),
            _("Lesion"): views.Plot("InvariancesPlot1", nodes.get(f"detectability{suffix}")),
            _("Spectrum"): views.Plot("InvariancesPlot2", nodes.get(f"gains{suffix}")),
        }
        if floor is not None:
            tabs[_("Autoencoder")] = views.over(
                "InvariancesFloor", _("Autoencoder's error"), patient, floor, opacity, views.MAP
            )
        return [
            [
                views.Slice("InvariancesLow", _("Low dose"), patient),
                *normal,
                views.Slice("InvariancesDenoised", _("Denoised"), nodes.get(f"output{suffix}")),
            ],
            [
                views.Slice(
                    "InvariancesSample",
                    self.imageLabel(nodes, image),
                    self.imageNode(nodes, image, 1),
                ),
                views.over("InvariancesChange", _("Difference to low dose"), patient, changes[0]),
                views.over(
                    "InvariancesAnswer", _("Difference of the denoised"), patient, changes[1]
                ),
            ],
            [
                views.over(
                    "InvariancesUnproven", _("SD, unproven"), patient, unproven, opacity, views.MAP
                ),
                views.over(
                    "InvariancesProven", _("SD, proven"), patient, proven, opacity, views.MAP
                ),
                views.Tabs(tabs),
            ],
        ]

    def setOpacity(self, opacity: float) -> None:
        """Of the maps over the CT, where the module's views show them."""
        manager = slicer.app.layoutManager()
        if manager is not None and manager.layout in LAYOUTS:
            views.set_opacity(
                ["InvariancesUnproven", "InvariancesProven", "InvariancesFloor"], opacity
            )


def shownView() -> str:
    """The view whose slice the user looks at: the first of the module's own, or the red one."""
    return "InvariancesLow" if slicer.app.layoutManager().layout in LAYOUTS else "Red"
