"""A result in words and in Slicer's views: the part of the logic that shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import slicer

from NetInversionLib.core.keys import SECOND, Key
from NetInversionLib.core.steps import Steps
from NetInversionLib.invariances import reading
from NetInversionLib.panel import browsing, logic, views
from NetInversionLib.panel.words import tr as _
from NetInversionLib.scene import results

LAYOUT = 12304
"""Identifier of the smallest layout, see showInViews. The number of the method's proceedings."""
LAYOUTS = range(LAYOUT, LAYOUT + 4)
KINDS = ("samples", "proposals")
"""Keys of the browsed sequences that can be chosen."""
ANSWERS = "answers"
"""Key of the sequence that follows: what the network makes of each sample."""
CHANGES = (Key("shown change"), Key("shown change of answer"))
"""Keys of what the shown image and its answer differ by."""
LESIONS = ("lesion", "hidden lesion")
"""Kinds of the images of a nodule."""

Nodes = Mapping[str, Any]
"""The nodes of a result by their keys."""


class ResultViews(logic.ModuleLogic):
    """Shows results.

    A ``network`` is that of the keys of one denoiser's images: "" or ``SECOND``; a ``key`` is that
    of an image, or of a sequence of images.
    """

    def networks(self, nodes: Nodes) -> list[str]:
        """Of the keys of each denoiser's images."""
        return [network for network in ("", SECOND) if Key("output", network=network) in nodes]

    def modelsOf(self, nodes: Nodes) -> dict[str, str]:
        """{network: name} of the denoisers."""
        facts = self.facts(nodes)
        names = {"": facts.get("model", {}), SECOND: facts.get("second", {}).get("model", {})}
        return {network: names[network].get("name", network) for network in self.networks(nodes)}

    def imagesOf(self, nodes: Nodes, network: str) -> dict[str, str]:
        """{key: title} of what can be shown as image, of a denoiser."""
        found = {
            Key("samples"): _("Samples (proven)"),
            Key("proposals"): _("Proposals (unproven)"),
            **{Key("component", number=n): _("Component {n}").format(n=n) for n in range(1, 21)},
            Key("lesion"): _("Nodule put in"),
            Key("hidden lesion"): _("Nodule as far as it stays unnoticed"),
        }
        own = {key.of(network): title for key, title in found.items()}
        return {
            key: title for key, title in own.items() if key in nodes or browsing.singles(nodes, key)
        }

    def sampleCount(self, nodes: Nodes, key: str) -> int:
        """How many images of a kind, "samples" say, can be browsed."""
        return browsing.count(nodes, key)

    def choose(self, nodes: Nodes, key: str, value: float) -> None:
        """Select a sample by its number, or show the patient's image with a component added.

        The sample is selected in the browser; the component is added ``value`` times.
        """
        image = Key.read(key)
        if image.kind in LESIONS:
            return
        if image.kind in KINDS:
            browsing.select(nodes.get(Key("browser", network=image.network)), round(value))
            return
        title = _("Patient with component")
        browsing.show_sum(nodes, nodes["patient"], nodes[key], value, self.moduleName, title)

    def showChanges(
        self, nodes: Nodes, key: str
    ) -> tuple[slicer.vtkMRMLNode | None, slicer.vtkMRMLNode | None]:
        """What the shown image and its answer differ by, as two nodes in one window.

        The image from the patient's, its answer from the denoised.

        The answer is known of samples only; else its node is None.
        """
        network = Key.read(key).network
        patient, image, answer = nodes.get("patient"), self.imageNode(nodes, key, 1), None
        if patient is None or image is None:
            return None, None
        if key == Key("samples", network=network):
            answer = self.imageNode(nodes, Key(ANSWERS, network=network), 1)
        output = nodes.get(Key("output", network=network))
        change, after = (
            words.format(name=image.GetName())
            for words in (_("Change: {name}"), _("Change of the denoised: {name}"))
        )
        change = results.show_difference(image, patient, change, self.moduleName, CHANGES[0])
        if answer is None or output is None:
            return change, None
        after = results.show_difference(answer, output, after, self.moduleName, CHANGES[1], change)
        return change, after

    def imageLabel(self, nodes: Nodes, key: str) -> str:
        """What the shown image is, in a few words."""
        return self.imagesOf(nodes, Key.read(key).network).get(key, _("Sample"))

    def imageNode(self, nodes: Nodes, key: str, value: float) -> slicer.vtkMRMLNode | None:
        """The node that shows what was chosen."""
        kind = Key.read(key).kind
        if key in nodes and kind != "component":
            return nodes[key]
        if kind in (*KINDS, ANSWERS):
            return browsing.shown(nodes, key, round(value))
        if not key:
            return None
        run = nodes["patient"].GetAttribute(f"{self.moduleName}.run")
        return self.resultNodes(run).get(browsing.SUM)

    def proofOf(self, nodes: Nodes, key: str, value: float) -> str:
        """What is known of the shown image, in a sentence."""
        facts = self.facts(nodes)
        browsed = Key.read(key).kind in KINDS
        number = browsing.number_at(nodes, key, round(value)) if browsed else None
        return reading.proof(facts, self.tables(nodes), key, number) if facts else ""

    def summary(self, nodes: Nodes) -> str:
        """The answer, and what it rests on, as HTML."""
        return reading.summary(self.facts(nodes), self.tables(nodes))

    def showInViews(
        self,
        nodes: Nodes,
        normalDose: slicer.vtkMRMLNode | None,
        network: str = "",
        image: str = "",
        table: str = "",
        opacity: float = 0.6,
    ) -> Steps:
        """Steps that show images above maps, tables and plots.

        The images are low dose, (normal dose,) denoised and sample; the maps lie over the CT.

        The maps are the two standard deviations and, where there is one, the autoencoder's error,
        their floor.
        """
        patient, floor = nodes.get("patient"), nodes.get(Key("vae floor", network=network))
        unproven, proven = self._maps(nodes, network)
        if unproven is not None and proven is not None:  # one window for both
            display = unproven.GetDisplayNode()
            proven.GetDisplayNode().SetWindowLevelMinMax(
                display.GetWindowLevelMin(), display.GetWindowLevelMax()
            )
        rows = self._rows(nodes, normalDose, network, image, table, opacity)
        number = LAYOUT + (normalDose is not None) + 2 * (floor is not None)
        yield from views.show(number, rows, unproven, patient)

    def _maps(self, nodes: Nodes, network: str) -> list[slicer.vtkMRMLNode | None]:
        """The unproven and the proven standard deviation."""
        return [nodes.get(Key(f"std {kind}", network=network)) for kind in ("unproven", "proven")]

    def _rows(
        self,
        nodes: Nodes,
        normalDose: slicer.vtkMRMLNode | None,
        network: str,
        image: str,
        table: str,
        opacity: float,
    ) -> list[views.Row]:
        """The views from top to bottom, as ``showInViews`` describes them."""
        output, floor, detectability, gains = (
            nodes.get(Key(kind, network=network))
            for kind in ("output", "vae floor", "detectability", "gains")
        )
        patient, (unproven, proven) = nodes.get("patient"), self._maps(nodes, network)
        changes = self.showChanges(nodes, image)
        normal = (
            [views.SliceView("InvariancesNormal", _("Normal dose"), normalDose)]
            if normalDose is not None
            else []
        )
        tabs: dict[str, views.SliceView | views.TableView | views.PlotView] = {
            _("Table"): views.TableView("InvariancesTable", nodes.get(table)),
            _("Lesion"): views.PlotView("InvariancesPlot1", detectability),
            _("Spectrum"): views.PlotView("InvariancesPlot2", gains),
        }
        if floor is not None:
            tabs[_("Autoencoder")] = views.over(
                "InvariancesFloor", _("Autoencoder's error"), patient, floor, opacity, views.MAP
            )
        return [
            [
                views.SliceView("InvariancesLow", _("Low dose"), patient),
                *normal,
                views.SliceView("InvariancesDenoised", _("Denoised"), output),
            ],
            [
                views.SliceView(
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
                views.TabViews(tabs),
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
