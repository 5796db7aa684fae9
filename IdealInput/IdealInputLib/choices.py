"""What the panel's choices mean, and what is wrong with them: the part of the logic that answers
the panel before a run.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import slicer

from NetInversionLib.core import steps, volumes
from NetInversionLib.core.volumes import Region, Volume
from NetInversionLib.families import rows
from NetInversionLib.ideal_input.settings import PRESETS, PRICES, STARTS, STEPS
from NetInversionLib.models.card import Card
from NetInversionLib.panel import choices as panel_choices
from NetInversionLib.panel import examples, logic, placing
from NetInversionLib.panel.words import tr as _
from NetInversionLib.scene import read

from .views import shownView

MASK = "sampling"
"""Role of the mask that says where k-space was measured."""
EVALUATIONS, KSPACE_EVALUATIONS = 200, 60
"""Of the network, at most, where nobody chose: of images, and of k-space."""
SECONDS_PER_VOXEL = 3.3e-6
"""And evaluation, on the machine that NetInversionLib.jobs.speed speaks of."""


class Direction(enum.Enum):
    """Which input is looked for."""

    BEST, WORST = range(2)

    def label(self) -> str:
        """The choice in words."""
        return [_("Best input (least error)"), _("Worst input (greatest error)")][self.value]


class Preset(enum.Enum):
    """How it is looked for."""

    NEAR, FREE, PUBLISHED = range(3)
    DEFAULT, SEED = FREE, PUBLISHED  # their names in scenes of older versions

    def label(self) -> str:
        """The choice in words."""
        return [
            _("Near the patient's images"),
            _("Free: the least error at any price"),
            _("As published (fixed-step L-BFGS)"),
        ][self.value]


def take_older_starts(parameters: slicer.vtkMRMLNode) -> None:
    """Starts as a scene of an older version has them, one parameter each, become one."""
    names = {start: f"start{start.capitalize()}" for start in STARTS}
    said = {start: parameters.GetParameter(name) for start, name in names.items()}
    if any(said.values()):
        chosen = [start for start, value in said.items() if value.lower() == "true"]
        parameters.SetParameter("starts", ",".join(chosen))
        for name in names.values():
            parameters.UnsetParameter(name)


class Choices(examples.ExampleLogic):
    """Answers for a parameter node ``node`` (IdealInputParameterNode) and the chosen model's
    ``card``.
    """

    EXAMPLES = rows.trainable()

    def chooseExample(self, node: Any, nodes: Mapping[str, slicer.vtkMRMLNode]) -> None:
        """As ``ExampleLogic``; what the search leaves alone is locked.

        A scanner's settings say nothing here, and of k-space no image near the patient's is asked
        for: blurred, it is none.
        """
        examples.ExampleLogic.chooseExample(self, node, nodes)
        held = [
            role
            for role, volume in nodes.items()
            if role == MASK or volume.GetAttribute(examples.HELD)
        ]
        node.locked = ",".join(held)
        node.knobs = False
        node.preset = Preset.FREE if MASK in held else Preset.NEAR
        node.maxEvaluations = KSPACE_EVALUATIONS if MASK in held else EVALUATIONS

    def unchooseExample(self, node: Any) -> None:
        """Settings as they are before anything is chosen."""
        node.locked, node.knobs, node.preset = "", True, Preset.NEAR
        node.maxEvaluations = EVALUATIONS

    def chooseMarkedVolumes(self, node: Any, card: Card | None) -> None:
        """If no volume is chosen yet, choose those that say which channel they are (sample data
        do).
        """
        channels = (*card.inputs, *card.outputs) if card else ()
        if any(self.chosen(node, channel.role) for channel in channels):
            return
        marked = self.markedVolumes(card) if card else {}
        for channel in channels:
            if channel.role in marked:
                self.chooseVolume(node, channel.role, marked[channel.role])

    def problems(self, node: Any, card: Card | None) -> list[str]:
        """All reasons why Apply cannot be pressed, in words."""
        if node is None:
            return [_("Wait until the scene is open.")]
        if card is None:
            return [self.card(self.modelPath(node))[1]]
        return [*self._volumeProblems(node, card), *self._settingProblems(node, card)]

    def _volumeProblems(self, node: Any, card: Card) -> list[str]:
        found = self.channelProblems(node, card)
        if not found:
            try:
                self.region(node, card)
            except ValueError as error:
                found.append(str(error))
        return found

    def _settingProblems(self, node: Any, card: Card) -> list[str]:
        found = []
        starts = self._starts(node)
        if not starts:
            found.append(_("Choose at least one start."))
        if node.direction == Direction.WORST and not node.ball:
            found.append(
                _(
                    "For the worst input set the largest change (Advanced): without one the error"
                    " has no limit."
                )
            )
        if node.ball and (starts != ["patient"] or node.box or node.preset == Preset.PUBLISHED):
            found.append(
                _(
                    "A largest change (Advanced) needs the patient as the only start, no exact"
                    " range, and not the search as published."
                )
            )
        if node.box and node.preset == Preset.PUBLISHED:
            found.append(
                _(
                    "The search as published has no exact range (Advanced): choose another one,"
                    " or allow it to leave the range."
                )
            )
        if all(channel.role in node.locked.split(",") for channel in card.inputs):
            found.append(
                _("Every channel is kept as the patient's own (Advanced): leave at least one free.")
            )
        if node.secondModel:
            second, problem = self.card(self.secondPath(node))
            if second and not self._fits(second, card):
                problem = _(
                    "The second network (Advanced) takes or gives other images than the first."
                )
            found += [problem] if problem else []
        return found

    def _fits(self, second: Card, card: Card) -> bool:
        """Whether a second network takes and gives the same images as the first."""
        return [c.role for c in second.inputs + second.outputs] == [
            c.role for c in card.inputs + card.outputs
        ]

    def secondModels(self, node: Any, card: Card | None) -> dict[Path, Card]:
        """The shipped models that take and give the same images as the chosen one."""
        others = logic.ModuleLogic.secondModels(self, node, card)
        return {
            path: other for path, other in others.items() if card is None or self._fits(other, card)
        }

    def _starts(self, node: Any) -> list[str]:
        chosen = node.starts.split(",")
        return [start for start in STARTS if start in chosen]

    def sliceCount(self, node: Any, card: Card | None) -> int:
        """How many slices the first chosen volume has, along the network's slice axis; 0 if none is
        chosen.
        """
        if card is None:
            return 0
        return panel_choices.slice_count(
            self.chosen(node, card.inputs[0].role), card.orientation[2]
        )

    def region(self, node: Any, card: Card) -> Region | None:
        """(k0, k1, j0, j1, i0, i1) in the first input's voxels, or None for all of it. VolumeError
        if it is outside.
        """
        grid = read.grid_from_node(self.chosen(node, card.inputs[0].role))
        return panel_choices.region_of(node, grid, shownView(), card.orientation[2])

    def boxInView(self, node: Any, card: Card) -> tuple[Volume, Region]:
        """(grid (K, J, I), region): half of the first volume's displayed slice each way, around the
        view's centre.
        """
        grid = read.grid_from_node(self.chosen(node, card.inputs[0].role))
        through = volumes.axis_toward(grid, card.orientation[2])[0]
        point = placing.point_in(grid, placing.view_centre(shownView()))
        bounds = list(volumes.region_from_ras_points(grid, np.array([point])))
        for axis in {0, 1, 2} - {through}:
            half = (grid.shape[axis] + 1) // 2
            low = min(max(0, bounds[2 * axis] - half // 2), grid.shape[axis] - half)
            bounds[2 * axis : 2 * axis + 2] = low, low + half
        k0, k1, j0, j1, i0, i1 = bounds
        return grid, (k0, k1, j0, j1, i0, i1)

    def stepsFromParameterNode(self, node: Any, card: Card) -> steps.Steps:
        """Steps whose value is the request that the panel shows."""
        settings = dict(
            starts=self._starts(node),
            noise_seeds=node.noiseSeeds,
            direction=node.direction.name.lower(),
            ball=node.ball or None,
            above=node.above,
            below=node.below,
            box=node.box,
            max_evaluations=node.maxEvaluations,
            locked=[
                role
                for role in node.locked.split(",")
                if role in [channel.role for channel in card.inputs]
            ],
            region=self.region(node, card),
            device=node.device,
            allow_cpu=node.allowCpu,
            memory_gb=node.memoryGb or None,
            validity=node.validity,
            knobs=node.knobs,
            trade_off=node.tradeOff,
            optima=node.optima,
        )
        preset = PRESETS[node.preset.name.lower()]
        settings.update({**preset, "starts": settings["starts"]})
        if MASK in [channel.role for channel in card.inputs] and "optimiser" not in preset:
            # The annealed steps are shares of a channel's range, and nearly all of k-space is small
            # beside its middle: they overshoot until the last of them.
            settings["optimiser"] = "lbfgs"
        inputs, targets = (
            {channel.role: self.chosen(node, channel.role) for channel in channels}
            for channels in (card.inputs, card.outputs)
        )
        return self.requestSteps(
            inputs,
            targets,
            model=self.modelPath(node),
            mask=node.maskNode,
            settings=settings,
            secondModel=self.secondPath(node),
        )

    def cost(self, node: Any, card: Card) -> float:
        """Voxels that will pass through the network, forwards and backwards, in all."""
        grid = read.grid_from_node(self.chosen(node, card.inputs[0].role))
        region = self.region(node, card) or panel_choices.whole(grid)
        sizes = [high - low for low, high in zip(region[::2], region[1::2])]
        voxels = sizes[0] * sizes[1] * sizes[2]
        starts = len(self._starts(node)) + (node.noiseSeeds - 1) * ("noise" in self._starts(node))
        evaluations = 2000 if node.preset == Preset.PUBLISHED else node.maxEvaluations
        slices = (
            sizes[volumes.axis_toward(grid, card.orientation[2])[0]] if card.dimensions == 2 else 1
        )
        best = node.direction == Direction.BEST
        passes = 2 if node.preset == Preset.NEAR else 1
        of_some = min(1, 4 / slices) * best
        curve = len(PRICES) * STEPS * passes + 40
        more = of_some * (630 * node.knobs + curve * node.tradeOff)
        # Each is searched; all are then brought to one error, in 12 halvings.
        alike = node.optima * STEPS + (node.optima + starts) * 13 if node.optima else 0
        more += best * passes * alike
        return voxels * (starts * (evaluations + 8 * node.validity) + more + 10)

    def estimateText(self, node: Any, card: Card) -> str:
        """Time and memory of the run in words; the time is learnt from earlier runs of the same
        network.
        """
        seconds, known = self.secondsFor(
            card, node.device, self.cost(node, card), SECONDS_PER_VOXEL
        )
        memory = _("At most {memory:.1f} GB of memory.").format(memory=0.5 + (node.memoryGb or 2))
        text = f"{self.timeText(seconds, known, node.device)} {memory}"
        if node.region.name == "DISPLAYED":
            text = (
                _("Only the displayed slice is searched; choose another region for more.")
                + " "
                + text
            )
        return text
