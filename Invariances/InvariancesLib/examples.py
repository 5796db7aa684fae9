"""Examples of network families in the panel: what each adds that nobody measured, and hides.

A denoiser is asked about a CT; an example about the images that its card names, which its sample
brings.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import slicer

from NetInversionLib import jobs
from NetInversionLib.core import steps
from NetInversionLib.core.results import Result
from NetInversionLib.core.steps import Steps
from NetInversionLib.families import reading as family_reading
from NetInversionLib.families import rows
from NetInversionLib.models.card import Card
from NetInversionLib.panel import examples, lists, packages, running
from NetInversionLib.panel import views as panel_views
from NetInversionLib.panel.words import tr as _
from NetInversionLib.scene import read

from . import asking
from . import choices as module_choices
from . import views as module_views

LAYOUT = 17004
"""Identifier of the layout of an example that reconstructs; the next one of the others."""
SECONDS_PER_VOXEL = 4e-6
"""And line or direction that is tried, on the machine that NetInversionLib.jobs.speed speaks of."""
TRIED = 200
"""Lines or directions, about."""
SEEN = 0.8
"""Opacity of a change over the image that it is a small part of."""
DENOISERS_ONLY = (
    *("lowDoseLabel", "lowDoseSelector", "normalDoseLabel", "normalDoseSelector"),
    *("simulateButton", "samplerLabel", "samplerSelector", "layerLabel", "layerSelector"),
    *("regionLabel", "regionWidget", "segmentationLabel", "segmentationSelector"),
    *("lesionLabel", "lesionWidget", "proposalsLabel", "proposalsWidget", "samplesLabel"),
    *("samplesSpinBox", "projectedLabel", "projectedSpinBox", "epsilonLabel", "epsilonWidget"),
    *("outputsCollapsibleButton", "advancedCollapsibleButton"),
)
"""Widgets that ask what only a denoiser is asked."""
AS_CHOSEN = (
    *("regionInfoLabel", "slicesLabel", "slicesWidget", "roiLabel", "roiSelector"),
    "previewLabel",
)
"""Those of them that are seen or not by what is chosen in others."""
IMAGES_ONLY = (
    *("shownImageLabel", "shownImageSelector", "shownNumberLabel", "shownSlider"),
    *("shownProofLabel", "opacityLabel", "opacitySlider"),
)
"""Widgets that say which image of a denoiser's result is shown, and how."""


class ExampleChoices(module_choices.Choices, module_views.ResultViews, examples.ExampleLogic):
    """Answers for an example's card too, and shows its results."""

    EXAMPLES = rows.trainable()

    def takes(self, card: Card) -> bool:
        """Denoisers, and examples of the network families."""
        return bool(card.family) or module_choices.Choices.takes(self, card)

    def secondModels(self, node: Any, card: Card | None) -> dict[Path, Card]:
        """Denoisers alone are asked beside another."""
        found = module_choices.Choices.secondModels(self, node, card)
        return {path: other for path, other in found.items() if not other.family}

    def problems(self, node: Any, card: Card | None) -> list[str]:
        """All reasons why Apply cannot be pressed, in words."""
        if node is None or card is None or not card.family:
            return module_choices.Choices.problems(self, node, card)
        return self.channelProblems(node, card)

    def runExample(
        self,
        nodes: Mapping[str, slicer.vtkMRMLNode],
        model: str | Path,
        progress: Any = None,
    ) -> Any:
        """Ask an example, here and now, and add the results to the scene.

        Args:
            nodes: Volume nodes by role, targets included, as ``addExample(model)`` gives them.
            model: The example's model file.
            progress: What is told meanwhile.

        Returns:
            See ``addResult``.
        """
        packages.ensure_packages(self.TITLE)
        request = steps.finish(self.exampleSteps(nodes, model))
        result = self.computed(request, progress)
        return self.addResult(result, next(iter(nodes.values())), dict(nodes))

    def exampleSteps(self, nodes: Mapping[str, slicer.vtkMRMLNode], model: str | Path) -> Steps:
        """Steps whose value is the request."""
        images = {}
        for role, node in nodes.items():
            images[role] = yield from read.read_volume(node)
        return jobs.Request("families", images, {"network": model})

    def exampleCost(self, node: Any, card: Card) -> float:
        """Voxels that pass through the network, about."""
        shape = read.grid_from_node(self.chosen(node, card.inputs[0].role)).shape
        return float(TRIED * shape[0] * shape[1] * shape[2])

    def exampleEstimate(self, node: Any, card: Card) -> str:
        """Time of the run in words; it is learnt from earlier runs of the same network."""
        cost = self.exampleCost(node, card)
        return self.timeText(
            *self.secondsFor(card, node.device, cost, SECONDS_PER_VOXEL), node.device
        )

    # Results

    def ofExample(self, nodes: module_views.Nodes) -> bool:
        """Whether a result is an example's."""
        return bool(self.facts(nodes).get("family"))

    def networks(self, nodes: module_views.Nodes) -> list[str]:
        """None of an example: it has no samples to browse."""
        return [] if self.ofExample(nodes) else module_views.ResultViews.networks(self, nodes)

    def shownAs(self, result: Result, inputs: dict) -> dict:
        """Images that are compared have one window."""
        if not result.facts.get("family"):
            return module_choices.Choices.shownAs(self, result, inputs)
        return {
            key: other
            for key, other in family_reading.SAME_WINDOW.items()
            if key in result.volumes and other in result.volumes
        }

    def summary(self, nodes: module_views.Nodes) -> str:
        """The answer, and what it rests on, as HTML."""
        if self.ofExample(nodes):
            return family_reading.summary(self.facts(nodes))
        return module_views.ResultViews.summary(self, nodes)

    def reportOf(self, nodes: module_views.Nodes) -> str:
        """Examples have a report of their own."""
        if self.ofExample(nodes):
            return "families.report"
        return module_views.ResultViews.reportOf(self, nodes)

    def showExample(self, nodes: module_views.Nodes, table: str) -> Steps:
        """Steps that show truth, what is given and the network's image above what it adds.

        Below are its error, and phases or the change that it shows least.
        """
        reconstructs = "kspace" in nodes
        layout = _of_kspace(nodes) if reconstructs else _of_images(nodes)
        tabs: dict[str, Any] = {
            _("Table"): panel_views.TableView("InvariancesTable", nodes.get(table)),
            _("Answers"): panel_views.PlotView("InvariancesPlot2", nodes.get("answers")),
        }
        if reconstructs:
            tabs[_("Measured lines")] = _slice(nodes, "sampling", "11", _("Measured lines"))
            tabs[_("True phase")] = _slice(nodes, "truth phase", "12", _("True phase"))
        layout[-1].append(panel_views.TabViews(tabs))
        yield from panel_views.show(LAYOUT + (not reconstructs), layout, None, nodes.get("truth"))


def _slice(nodes: module_views.Nodes, key: str, tag: str, label: str) -> panel_views.SliceView:
    return panel_views.SliceView(f"InvariancesExample{tag}", label, nodes.get(key))


def _over_image(
    nodes: module_views.Nodes,
    key: str,
    tag: str,
    label: str,
    below: str = "image",
    opacity: float = 1.0,
) -> panel_views.SliceView:
    tag = f"InvariancesExample{tag}"
    return panel_views.over(tag, label, nodes.get(below), nodes.get(key), opacity)


def _first_row(nodes: module_views.Nodes, given: str) -> panel_views.Row:
    return [
        _slice(nodes, "given", "1", given),
        _slice(nodes, "image", "2", _("The network's image")),
        _slice(nodes, "truth", "3", _("Truth")),
    ]


def _error(nodes: module_views.Nodes) -> panel_views.SliceView:
    node = nodes.get("miss")
    return panel_views.SliceView(
        "InvariancesExample6", _("Error of the network"), node, color=panel_views.MAP
    )


def _of_kspace(nodes: module_views.Nodes) -> list[panel_views.Row]:
    """Views of what reconstructs."""
    return [
        _first_row(nodes, _("Zero-filled, magnitude")),
        [
            _over_image(nodes, "added", "4", _("Added where nobody measured")),
            _over_image(nodes, "missing", "5", _("What is true there")),
            _error(nodes),
        ],
        [
            _slice(nodes, "kspace", "7", _("K-space, logarithm; black: not measured")),
            _slice(nodes, "image phase", "8", _("The network's phase")),
        ],
    ]


def _of_images(nodes: module_views.Nodes) -> list[panel_views.Row]:
    """Views of what takes images."""
    return [
        _first_row(nodes, _("What the network is given")),
        [
            _over_image(nodes, "added", "4", _("Added where nobody measured")),
            _over_image(nodes, "missing", "5", _("What is true there")),
            _error(nodes),
        ],
        [
            _over_image(
                nodes, "unnoticed", "9", _("A change that it does not show"), "given", SEEN
            ),
            _over_image(
                nodes, "unnoticed answer", "10", _("What its image changes by"), opacity=SEEN
            ),
        ],
    ]


class ExampleSection(asking.DenoiserSection, examples.ExamplePanel):
    """The panel for denoisers and for examples."""

    def _isExample(self) -> bool:
        return self._card is not None and bool(self._card.family)

    def modelChanged(self) -> None:
        """Selectors for what an example takes and gives; a denoiser has its own in the panel."""
        asking.DenoiserSection.modelChanged(self)
        self.dropSelectors()
        self.addSelectors(self._card if self._isExample() else None, 6)

    def showChoices(self) -> None:
        example = self._isExample()
        for name in DENOISERS_ONLY:
            getattr(self.ui, name).setVisible(not example)
        self.ui.modelLabel.text = _("&Network:") if example else _("&Denoiser:")
        if not example:
            asking.DenoiserSection.showChoices(self)
            return
        for name in AS_CHOSEN:
            getattr(self.ui, name).setVisible(False)
        self.showSelectors()

    def problems(self) -> list[str]:
        if self._isExample():
            return self.logic.problems(self._parameterNode, self._card)
        return asking.DenoiserSection.problems(self)

    def estimate(self) -> str:
        if self._isExample():
            return self.logic.exampleEstimate(self._parameterNode, self._card)
        return asking.DenoiserSection.estimate(self)

    def prepareRun(self) -> running.Run:
        if not self._isExample():
            return asking.DenoiserSection.prepareRun(self)
        node = self._parameterNode
        chosen = self.logic.chosenVolumes(node, self._card)
        return running.Run(
            self.logic.exampleSteps(chosen, self.logic.modelPath(node)),
            self._card,
            chosen,
            [],
            self.logic.exampleCost(node, self._card),
            node.device,
        )

    def showResults(self, nodes: module_views.Nodes) -> None:
        example = self.logic.ofExample(nodes)
        for name in IMAGES_ONLY:
            getattr(self.ui, name).setVisible(not example)
        if not example:
            asking.DenoiserSection.showResults(self, nodes)
            return
        self._clearPreview()
        self.ui.summaryLabel.setText(self.logic.summary(nodes))
        for widget in (self.ui.shownModelLabel, self.ui.shownModelSelector):
            widget.setVisible(False)
        lists.fill(self.ui.shownTableSelector, lists.table_titles(nodes))
        self.ui.shownTableSelector.enabled = self.ui.shownTableSelector.count > 0

    def showSteps(self) -> Steps:
        nodes = self.logic.resultNodes(self._parameterNode.run)
        if not self.logic.ofExample(nodes):
            yield from asking.DenoiserSection.showSteps(self)
            return
        table = lists.chosen(self.ui.shownTableSelector)
        yield from self.logic.showExample(nodes, table)
