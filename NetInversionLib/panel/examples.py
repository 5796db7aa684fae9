"""Examples of the network families: in the list of networks, with a sample that loads at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import slicer

from .. import jobs
from ..core.results import Result
from ..core.volumes import Volume
from ..models.card import Card
from ..scene import write
from . import channels, packages, samples, train_example
from .words import tr as _

TRAIN = "train:"
"""Begins the data of an entry whose example is to be trained; no path does."""
FAMILY = "NetInversion.family"
"""Attribute of a sample's volume node: the family whose sample it is."""
HELD = "NetInversion.held"
"""Attribute of a sample's volume node that a search leaves alone."""


class ExampleLogic(channels.ChannelLogic):
    """Part of a module's logic that has the examples' samples.

    A module sets ``EXAMPLES``, the titles by name of the families that can be trained.
    """

    EXAMPLES: Mapping[str, str] = {}

    def untrained(self) -> dict[str, str]:
        """Titles by name of the families without a model."""
        there = {card.family for card in self.models().values()}
        return {name: title for name, title in self.EXAMPLES.items() if name not in there}

    def markedVolumes(self, card: Card) -> dict[str, slicer.vtkMRMLNode]:
        """The newest sample volumes in the scene for networks of a card's family, by role."""
        return {
            volume.GetAttribute(channels.CHANNEL): volume
            for volume in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
            if (volume.GetAttribute(FAMILY) or "") == card.family
        }

    def exampleNodes(self, card: Card) -> dict[str, slicer.vtkMRMLNode]:
        """The newest sample of a card's family in the scene, by role; empty if one is missing."""
        marked = self.markedVolumes(card)
        roles = [channel.role for channel in (*card.inputs, *card.outputs)]
        return {role: marked[role] for role in roles} if set(roles) <= set(marked) else {}

    def addExample(
        self, path: str | Path, brain: Volume | None = None, other: Volume | None = None
    ) -> dict[str, slicer.vtkMRMLNode]:
        """The sample of an example, simulated from a brain: its nodes by role.

        Args:
            path: The example's model file.
            brain, other: Brain-extracted MR images (K, J, I) of two people; default as
                ``samples.sample_brains``.
        """
        card = self.card(str(path))[0]
        assert card is not None
        images = {"brain": brain, "other": other}
        if brain is None:
            images = dict(zip(images, samples.sample_brains(card)))
        given = {name: image for name, image in images.items() if image is not None}
        made = jobs.run_here(jobs.Request("family_sample", given, {"network": path}))
        return self._writeSample(card, made)

    def _writeSample(self, card: Card, made: Result) -> dict[str, slicer.vtkMRMLNode]:
        nodes = {}
        for channel in (*card.inputs, *card.outputs):
            volume = made.volumes[channel.role]
            title = f"{channel.name} ({card.name})"
            nodes[channel.role] = node = write.volume_to_node(volume, title, role="input")
            node.SetAttribute(channels.CHANNEL, channel.role)
            node.SetAttribute(FAMILY, card.family)
            if channel.role in made.facts["held"]:
                node.SetAttribute(HELD, "1")
        slicer.util.setSliceViewerLayers(background=nodes[card.outputs[0].role], fit=True)
        return nodes

    def chooseExample(self, node: Any, nodes: Mapping[str, slicer.vtkMRMLNode]) -> None:
        """Choose a sample's volumes for the channels."""
        for role, volume in nodes.items():
            self.chooseVolume(node, role, volume)

    def chosenExample(self, node: Any, card: Card) -> dict[str, slicer.vtkMRMLNode]:
        """The volumes chosen for all channels, by role; empty if one is another family's sample."""
        chosen = self.chosenVolumes(node, card)
        fit = all(
            one is not None and one.GetAttribute(FAMILY) in (None, card.family)
            for one in chosen.values()
        )
        return chosen if fit else {}


class ExamplePanel(channels.ChannelSelectors):
    """Part of a panel that offers the examples; its logic is an ``ExampleLogic``."""

    trainExample: train_example.TrainExample | None = None
    """The form that trains one, once it was wanted."""

    def addExamples(self) -> None:
        """The group "Examples" of the list of networks: shipped, or to be trained."""
        selector = self.ui.modelSelector
        trained = {p: card for p, card in self.logic.models().items() if card.family}
        missing = self.logic.untrained()
        if trained or missing:
            selector.insertSeparator(selector.count)
        for path, card in trained.items():
            selector.addItem(_("Example: {name}").format(name=card.name), str(path))
        for name, title in missing.items():
            selector.addItem(_("Example, to be trained: {name}").format(name=title), TRAIN + name)
        if trained or missing:
            selector.insertSeparator(selector.count)

    def _onModelChosen(self, index: int) -> None:
        data = self.ui.modelSelector.itemData(index) or ""
        if data.startswith(TRAIN):
            if not self._writing:
                self.refresh()  # the list shows the model that is chosen
                name = data.removeprefix(TRAIN)
                title = self.logic.EXAMPLES[name]
                self.trainExample = train_example.TrainExample(name, title, self._onTrained)
            return
        before = self._card
        super()._onModelChosen(index)
        if self._writing or self._parameterNode is None:
            return
        if before is not None and before.family and not (self._card and self._card.family):
            self.exampleLeft()
        self._loadExample()

    def _onTrained(self, path: str) -> None:
        """An example has been trained: it is the chosen one."""
        self._onNetworkAdded(path)
        self._loadExample()

    def _loadExample(self) -> None:
        """Choose the sample of the chosen example, made if it is not there yet.

        Volumes that are chosen already stay, unless they are another family's sample.
        """
        card, node = self._card, self._parameterNode
        if card is None or not card.family:
            return
        try:
            with slicer.util.WaitCursor():
                nodes = self.logic.chosenExample(node, card) or self.logic.exampleNodes(card)
                if not nodes:
                    packages.ensure_packages(self.logic.TITLE)
                    nodes = self.logic.addExample(self._cardPath)
        except (ValueError, OSError, RuntimeError, packages.PackagesMissing) as error:
            self.fail(
                _("The sample of '{name}' could not be made. {reason}").format(
                    name=card.name, reason=error
                )
            )
            return
        self.logic.chooseExample(node, nodes)
        self.say(_("The sample of '{name}' is chosen: press Apply.").format(name=card.name))

    def exampleLeft(self) -> None:
        """Another network was chosen behind an example: for the module to override."""

    def cleanup(self) -> None:
        if self.trainExample is not None:
            self.trainExample.close()
        super().cleanup()
