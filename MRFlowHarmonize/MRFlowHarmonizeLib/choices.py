"""What the panel's choices mean, and what is wrong with them.

It is the part of the logic that answers the panel before a run.
"""

from __future__ import annotations

import enum
from typing import Any

import slicer

from NetInversionLib.core import steps
from NetInversionLib.core.volumes import VolumeError
from NetInversionLib.harmonize.settings import Settings
from NetInversionLib.models.card import Card
from NetInversionLib.panel import batch
from NetInversionLib.panel.words import tr as _
from NetInversionLib.scene import read

SECONDS_PER_VOXEL = 1.6e-6
"""On the machine that NetInversionLib.jobs.speed speaks of."""
SAMPLE_NODE = "MNI152 T1 brain (simulated scanner)"


FIND = "find"
"""Data of the entry that has the brain found; no node is called so."""
MASK_WORDS = ("brain", "bet", "mask", "strip")
"""In names of brain masks, those of HDBrainExtraction and SwissSkullStripper among them."""


class Mode(enum.Enum):
    """How the image is changed."""

    ANATOMY_SAFE, PUBLISHED, NO_FLOW = range(3)
    SEED = PUBLISHED  # its name in scenes of older versions

    def label(self) -> str:
        """The choice in words."""
        return [
            _("Anatomy-safe (recommended)"),
            _("Free-form, as published"),
            _("Free-form without the flow"),
        ][self.value]

    def key(self) -> str:
        """As NetInversionLib.harmonize.Settings has it."""
        return self.name.lower().replace("_", "-")


class OutputRange(enum.Enum):
    """The intensities of the result."""

    NATIVE, TARGET = range(2)

    def label(self) -> str:
        """The choice in words."""
        return [_("As the source's"), _("As the target scanner's")][self.value]


class Choices(batch.BatchLogic):
    """Answers for a parameter node and the chosen model's card.

    ``node`` is an MRFlowHarmonizeParameterNode, ``card`` the card.
    """

    def chooseSample(self, node: Any) -> None:
        """If no volume is chosen yet, choose the module's sample, if it was loaded."""
        if node.sourceVolume is None:
            node.sourceVolume = slicer.mrmlScene.GetFirstNodeByName(SAMPLE_NODE)

    def headMasks(self, nodes: Any) -> dict[str, str]:
        """What is offered as the mask of a whole head: by a node's identifier, its name.

        Those whose name speaks of a brain come first, then finding the brain, then the others. {}
        for a result of no whole head.
        """
        facts, source = self.facts(nodes), self.sourceOf(nodes)
        if not facts.get("whole_head") or source is None:
            return {}
        masks = {
            node.GetID(): node.GetName()
            for kind in ("vtkMRMLSegmentationNode", "vtkMRMLLabelMapVolumeNode")
            for node in slicer.util.getNodesByClass(kind)
            if not node.GetHideFromEditors()
        }
        named = {
            identifier: name
            for identifier, name in masks.items()
            if any(word in name.lower() for word in MASK_WORDS)
        }
        return {**named, FIND: _("Find the brain in the image"), **masks}

    def isFreeForm(self, node: Any) -> bool:
        """Whether the free-form steps are part of the run."""
        return node.mode != Mode.ANATOMY_SAFE or node.strength > 0

    def problems(self, node: Any, card: Card | None) -> list[str]:
        """All reasons why Apply cannot be pressed, in words."""
        if node is None:
            return [_("Wait until the scene is open.")]
        if card is None:
            return [self.card(self.modelPath(node))[1]]
        if node.sourceVolume is None:
            return [_("Choose a source volume.")]
        found = []
        if node.maskNode is node.sourceVolume:
            found.append(
                _("'{name}' is both source and mask: choose another mask, or none.").format(
                    name=node.sourceVolume.GetName()
                )
            )
        if node.maskNode is not None and self.batch(node):
            found.append(
                _(
                    "A mask belongs to one volume: choose no mask, or take the ticks off the"
                    " volumes under Batch."
                )
            )
        try:
            read.grid_from_node(node.sourceVolume)
            Settings.from_json(self.settings(node))
        except ValueError as error:
            found.append(str(error))
        return found

    def settings(self, node: Any) -> dict[str, Any]:
        """The fields of NetInversionLib.harmonize.Settings that the panel shows."""
        orientations = [name for name in ("axial", "coronal", "sagittal") if getattr(node, name)]
        safe = node.mode == Mode.ANATOMY_SAFE
        return dict(
            mode=node.mode.key(),
            strength=node.strength if safe else 0.0,
            iterations=node.iterations,
            alpha=node.alpha,
            beta_edges=node.betaEdges,
            beta_similarity=node.betaSimilarity,
            orientations=orientations,
            output_range=node.outputRange.name.lower(),
            baselines=node.baselines,
            force=node.force,
            device=node.device,
            find_brain=node.findBrain,
        )

    def stepsFromParameterNode(self, node: Any, source: slicer.vtkMRMLNode) -> steps.Steps:
        """Steps whose value is the request that the panel shows, for one of its volumes."""
        return self.requestSteps(
            source, model=self.modelPath(node), mask=node.maskNode, settings=self.settings(node)
        )

    def cost(self, node: Any, source: slicer.vtkMRMLNode) -> float:
        """Voxels of the source, each as often as it is looked at; 0 if it cannot be read."""
        try:
            grid = read.grid_from_node(source)
        except VolumeError:
            return 0.0
        size = grid.shape[0] * grid.shape[1] * grid.shape[2]
        orientations = node.axial + node.coronal + node.sagittal
        # The change itself takes most of the time.
        found = 1 if node.mode == Mode.ANATOMY_SAFE else 0.35
        freeForm = 0.04 * node.iterations * orientations if self.isFreeForm(node) else 0
        return size * (found + freeForm + 1.3 * node.baselines)

    def estimateText(self, node: Any, card: Card) -> str:
        """Time of the run, or of the whole batch, in words.

        It is learnt from earlier runs of the same model.
        """
        seconds, known = 0.0, True
        for source in self.sources(node):
            more, known = self.secondsFor(
                card, node.device, self.cost(node, source), SECONDS_PER_VOXEL
            )
            seconds += more
        return self.timeText(seconds, known, node.device)
