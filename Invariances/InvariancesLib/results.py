"""The section with results: a part of the panel."""

from __future__ import annotations

from NetInversionLib.core.keys import Key
from NetInversionLib.core.steps import Steps
from NetInversionLib.panel import lists, panel
from NetInversionLib.panel.texts import literal

from .views import KINDS, LESIONS, Nodes


class ResultSection(panel.ModulePanel):
    """Which denoiser, image and table of a result is shown, and how."""

    def _clearPreview(self) -> None:
        self.ui.previewLabel.setVisible(False)

    def showResults(self, nodes: Nodes) -> None:
        """Summary and choices of the run that the scene's parameter node names.

        A run whose nodes are gone is not shown.
        """
        ui = self.ui
        self._clearPreview()
        ui.summaryLabel.setText(self.logic.summary(nodes))
        network = lists.chosen(ui.shownModelSelector)
        for selector, entries in (
            (ui.shownModelSelector, self.logic.modelsOf(nodes)),
            (ui.shownImageSelector, self.logic.imagesOf(nodes, network)),
            (ui.shownTableSelector, lists.table_titles(nodes)),
        ):
            lists.fill(selector, entries)
            selector.enabled = selector.count > 0
        for widget in (ui.shownModelLabel, ui.shownModelSelector):
            widget.setVisible(ui.shownModelSelector.count > 1)
        self._limitSlider(nodes)

    def _chosen(self) -> tuple[str, str, str]:
        """(network of the denoiser's keys, key of the image, key of the table)."""
        ui = self.ui
        return (
            lists.chosen(ui.shownModelSelector),
            lists.chosen(ui.shownImageSelector),
            lists.chosen(ui.shownTableSelector),
        )

    def _limitSlider(self, nodes: Nodes) -> None:
        slider, key = self.ui.shownSlider, self._chosen()[1]
        kind = Key.read(key).kind
        limits = (1, max(1, self.logic.sampleCount(nodes, key))) if kind in KINDS else (-3, 3)
        decimals = 0 if kind in KINDS else 1
        if (slider.minimum, slider.maximum, slider.decimals) != (*limits, decimals):
            slider.blockSignals(True)  # each change of limits and decimals would draw the image
            slider.minimum, slider.maximum = limits
            slider.singleStep, slider.decimals = 10**-decimals, decimals
            slider.value = 1
            slider.blockSignals(False)
        slider.enabled = bool(key) and kind not in LESIONS

    def _onShown(self, index: int) -> None:
        self.refresh()  # the other denoiser has other images
        self.showResult()

    def _onImage(self, index: int) -> None:
        self._limitSlider(self.logic.resultNodes(self._parameterNode.run))
        self.showResult()

    def _onAmount(self, value: float) -> None:
        if self._parameterNode is None or self._writing:
            return
        nodes, key = self.logic.resultNodes(self._parameterNode.run), self._chosen()[1]
        if nodes and key:
            self.logic.choose(nodes, key, value)
            self.logic.showChanges(nodes, key)
            self.ui.shownProofLabel.setText(literal(self.logic.proofOf(nodes, key, value)))

    def _onOpacity(self, value: float) -> None:
        self.logic.setOpacity(value)

    def showSteps(self) -> Steps:
        """The chosen image and table in the views."""
        nodes = self.logic.resultNodes(self._parameterNode.run)
        if nodes:
            network, image, table = self._chosen()
            if image:
                self._onAmount(self.ui.shownSlider.value)
            yield from self.logic.showInViews(
                nodes,
                self._parameterNode.normalDose,
                network,
                image,
                table,
                self.ui.opacitySlider.value,
            )
