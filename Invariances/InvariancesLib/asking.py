"""What the panel asks of a denoiser, and what is wrong with it: a part of the panel."""

from __future__ import annotations

import sys
from typing import Any

from NetInversionLib.panel import running
from NetInversionLib.panel.choices import show_region
from NetInversionLib.panel.words import tr as _

from . import following, lists, results


class DenoiserSection(lists.DenoiserLists, following.Following, results.ResultSection):
    """The sections of the panel that ask a denoiser about a CT."""

    _second: tuple[Any, str] = (None, "")
    """(second denoiser, layer, flow) and what is wrong with them."""

    def modelChanged(self) -> None:
        self._layersOf = None

    def showChoices(self) -> None:
        node, ui = self._parameterNode, self.ui
        ui.segmentationSelector.setCurrentNode(self.logic.segmentation(node))
        self._showSampler()
        self._showLayers()
        show_region(ui, node.region, self.logic.sliceCount(node))
        self._showRegion()
        self._showTolerance()
        ui.layerToleranceSpinBox.enabled = node.layer != "output"
        ui.simulateButton.enabled = node.normalDose is not None
        ui.placeRegionButton.enabled = node.lowDose is not None
        self._watch(node.lesionNode, node.roiNode)

    def problems(self) -> list[str]:
        node, found = self._parameterNode, self.logic.problems(self._parameterNode, self._card)
        if (
            not found
            and node.flow
            and self._withFlow is not None
            and node.layer not in self._withFlow
        ):
            found.append(
                _(
                    "The sampler has no flow for layer '{name}', only for {others}: choose one of"
                    " these, or noise or texture as proposals."
                ).format(name=node.layer, others=", ".join(sorted(self._withFlow)))
            )
        if not found and node.secondModel and "torch" in sys.modules:  # else the run says it
            asked = (self.logic.secondPath(node), node.layer, node.flow)
            if self._second[0] != asked:
                self._second = asked, self.logic.layerProblem(*asked)
            found += filter(None, [self._second[1]])
        return found

    def estimate(self) -> str:
        return self.logic.estimateText(self._parameterNode, self._card)

    def prepareRun(self) -> running.Run:
        node = self._parameterNode
        others = [
            other for other in (self.logic.segmentation(node), node.lesionNode) if other is not None
        ]
        self._clearPreview()
        return running.Run(
            self.logic.stepsFromParameterNode(node),
            self._card,
            {"low_dose": node.lowDose},
            others,
            self.logic.cost(node),
            node.device,
        )
