"""The lists of a denoiser's samplers and layers: a part of the panel."""

from __future__ import annotations

import sys
from pathlib import Path

import slicer

from NetInversionLib.panel import lists, packages, panel
from NetInversionLib.panel.words import tr as _

READ_LAYERS = "?"
"""Item of the list of layers that has them read."""


class DenoiserLists(panel.ModulePanel):
    """Keeps ``samplerSelector`` and ``layerSelector`` up to date with the chosen denoiser."""

    _layersOf: tuple[str | None, str] | None = None
    """(denoiser, sampler) that the list of layers shows."""
    _withFlow: set[str] | None = None
    """Names of the layers that the sampler has a flow for, once they are read."""

    def _onSampler(self, index: int) -> None:
        self.setValues(sampler=self.ui.samplerSelector.itemData(index))

    def _onLayer(self, index: int) -> None:
        layer = self.ui.layerSelector.itemData(index)
        if layer != READ_LAYERS:
            self.setValues(layer=layer)
            return
        try:
            with slicer.util.WaitCursor():
                packages.ensure_packages(self.logic.TITLE)
                self._fillLayers(read=True)
        except (ValueError, packages.PackagesMissing) as error:
            self.fail(str(error))
        self.refresh()

    def _showSampler(self) -> None:
        """The samplers that fit the denoiser.

        Where another denoiser was chosen, its first sampler is taken.
        """
        node, selector = self._parameterNode, self.ui.samplerSelector
        entries = {
            "": _("none"),
            **{path.name: card.name for path, card in self.logic.samplers(self._cardPath).items()},
        }
        denoiser = Path(self._cardPath or "").name
        if self._card is not None and node.samplerOf != denoiser:
            node.samplerOf, node.sampler = denoiser, next((name for name in entries if name), "")
            if node.flow != bool(node.sampler):
                node.flow, node.noise = bool(node.sampler), not node.sampler
        if node.sampler not in entries:
            entries[node.sampler] = node.sampler  # is not there, or of another: Apply says so
        lists.fill(selector, entries)
        selector.setCurrentIndex(selector.findData(node.sampler))
        selector.enabled = selector.count > 1

    def _showLayers(self) -> None:
        node, selector = self._parameterNode, self.ui.layerSelector
        if self._layersOf != (self._cardPath, node.sampler):
            try:
                self._fillLayers(read="torch" in sys.modules)
            except (ValueError, RuntimeError):  # the network cannot be used: Apply says why
                self._fillLayers(read=False)
        if selector.findData(node.layer) < 0:  # of another network, or not read yet
            selector.addItem(node.layer, node.layer)
        selector.setCurrentIndex(selector.findData(node.layer))

    def _fillLayers(self, read: bool) -> None:
        """The output, and the network's layers once they are read.

        Reading them takes torch, and so a second or two.
        """
        self._layersOf, self._withFlow = (self._cardPath, self._parameterNode.sampler), None
        selector = self.ui.layerSelector
        selector.clear()
        if not read or self._card is None:
            selector.addItem(_("The denoised image (output)"), "output")
        if self._card is None:
            return
        if not read:
            selector.addItem(_("Read the network's layers..."), READ_LAYERS)
            return
        samplerPath = self.logic.samplerPath(self._parameterNode, self._cardPath)
        for name, title in self.logic.layers(self._cardPath, samplerPath).items():
            selector.addItem(_(title), name)
        self._withFlow = self.logic.layersWithFlow(self._cardPath, samplerPath)
