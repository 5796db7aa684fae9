"""What the logic classes of all modules share."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import qt
import slicer
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

from .. import jobs, models
from ..core import steps
from ..core.progress import Progress
from ..core.results import Result, Table
from ..models.card import Card, ModelError
from ..scene import results, write
from ..scene import runs as scene_runs
from ..scene import tables as scene_tables
from . import estimates
from . import runs as panel_runs
from .job import find_python
from .packages import installed
from .pictures import durationText
from .reports import Nodes, ReportLogic
from .words import tr as _


def settings_of(settings: Any, single: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run by name.

    Args:
        settings: A table of them, an object of the question's ``Settings``, or None.
        single: Those that were given one by one; they count before the others.
    """
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        settings = dataclasses.asdict(settings)
    return {**(settings or {}), **single}


class ModuleLogic(ReportLogic, ScriptedLoadableModuleLogic):
    """Base of a module's logic: which models it takes, and its results in the scene.

    A module sets ``TITLE``, ``TASK`` and ``PARAMETERS`` and overrides, if it likes, ``shownAs``.
    The parameter node has the fields ``model`` (file name of a shipped model), ``fromFile`` and
    ``modelFile`` (another model instead), ``device``, ``worker`` (run in a process of its own) and
    ``run`` (the result that is shown).
    """

    TITLE = ""
    """Name of the module, for people."""

    TASK = models.IMAGE_TO_IMAGE
    """Task of the models that the module works with, as their cards say it."""

    OWN_NETWORKS = False
    """Whether the module takes networks of the user's own ("Add a network...")."""

    PARAMETERS: Any = None
    """Class of the parameter node: a ``parameterNodeWrapper``."""

    _parameters = None

    def getParameterNode(self) -> Any:
        """The scene's parameter node as ``PARAMETERS``.

        It is the same object as long as it is the same node.

        Every one that Slicer's wrapper makes observes the node, once for each of its fields.
        """
        node = ScriptedLoadableModuleLogic.getParameterNode(self)
        if self._parameters is None or self._parameters.parameterNode is not node:
            self._parameters = self.PARAMETERS(node)
        return self._parameters

    # A run

    def request(self, *inputs: Any, **choices: Any) -> jobs.Request:
        """What ``run`` would compute, as data for NetInversionLib.jobs.run_here or panel.job.QtJob.

        Args:
            inputs, choices: As for the module's ``run``.
        """
        return steps.finish(self.requestSteps(*inputs, **choices))

    def requestSteps(self, *inputs: Any, **choices: Any) -> steps.Steps:
        """Steps whose value is the request: a module's own."""
        raise NotImplementedError

    # Models

    def takes(self, card: Card) -> bool:
        """Whether the module works with models of this kind."""
        return card.task == self.TASK

    def models(self) -> dict[Path, Card]:
        """The shipped models that the module works with."""
        return models.usable(self.takes)

    def modelPath(self, node: Any) -> str | None:
        """Path of the model that a parameter node names; None if it is nowhere."""
        if node.fromFile:
            return node.modelFile or None
        return next((str(path) for path in self.models() if path.name == node.model), None)

    def secondModels(self, node: Any, card: Card | None) -> dict[Path, Card]:
        """The shipped models that can be asked beside the chosen one, whose card is ``card``."""
        first = self.modelPath(node)
        return {path: other for path, other in self.models().items() if str(path) != first}

    def secondPath(self, node: Any) -> str:
        """Path of the second model that a parameter node names; "" for none.

        A shipped one is named by its file name.
        """
        shipped = {path.name: str(path) for path in self.models()}
        return shipped.get(node.secondModel, node.secondModel)

    def card(self, path: str | None) -> tuple[Card | None, str]:
        """(card, problem): the card of a model file, or None and why it cannot be used."""
        if not path:
            return None, _("Choose a network: a shipped one, or a model file.")
        try:
            card = models.read_card(path)
        except ModelError as error:
            return None, str(error)
        if not self.takes(card):
            return None, _(
                "{name} is a network for another task ({task}). Choose one for {wanted}."
            ).format(name=card.name, task=card.task, wanted=self.TASK)
        return card, ""

    def devices(self) -> list[str]:
        """Names of the devices that are there; none but the CPU before torch is installed."""
        from ..core import devices as core_devices

        try:
            with slicer.util.WaitCursor():
                return core_devices.available()
        except ImportError:
            return ["cpu"]

    # Runs

    def computed(self, request: jobs.Request, progress: Progress | None = None) -> Result:
        """The request's result, computed here or in a worker.

        It is computed in a worker where a network's file can run code, so that nothing of it runs
        inside Slicer.

        Raises:
            Exception: Whatever the task raises; from a worker, JobError with its words.
        """
        if self.runsApart(request):
            return jobs.run_apart(request, progress, find_python())
        return jobs.run_here(request, progress)

    def runsApart(self, request: jobs.Request) -> bool:
        """Whether a request is one for a worker: a network's file can run code."""
        return any(models.runs_code(path) for path in request.model_paths.values())

    # How long runs take

    def secondsFor(self, card: Card, device: str, cost: float, guess: float) -> tuple[float, bool]:
        """(seconds, whether they are known from earlier runs) of a run that costs ``cost``.

        ``guess``: seconds per cost on the machine of ``speed.REFERENCE_PASS_S``.
        """
        known = qt.QSettings().value(self._speedKey(card, device))
        pace = float(known) if known else guess * estimates.MACHINE.slowness(device)
        return estimates.MACHINE.start_seconds(device) + cost * pace, bool(known)

    def timeText(self, seconds: float, known: bool, device: str) -> str:
        """How long a run takes, in words, and how sure that is."""
        text = _("Takes about {time}.").format(time=durationText(seconds))
        if known:
            return text
        if not installed("torch"):
            return _("Takes about {time} after installation of PyTorch (a first guess).").format(
                time=durationText(seconds)
            )
        if estimates.MACHINE.is_measured(device):
            return text + " " + _("(Judged by this computer's speed; after a run it is measured.)")
        return text + " " + _("(A first guess; after a run it is measured.)")

    def learnSpeed(self, card: Card, device: str, cost: float, seconds: float) -> None:
        """Note how long a whole run took."""
        computing = max(seconds - estimates.MACHINE.start_seconds(device), 0.1)
        qt.QSettings().setValue(self._speedKey(card, device), f"{computing / max(cost, 1):.4g}")

    def _speedKey(self, card: Card, device: str) -> str:
        name = "".join(
            letter if letter.isalnum() else "_" for letter in f"{card.name}_{card.version}_{device}"
        )
        return f"{self.moduleName}/SecondsPerCost/{name}"

    # Results

    def shownAs(self, result: Result, inputs: dict) -> dict:
        """By key of the result, a node (or an earlier key) whose window an image takes.

        ``inputs``: nodes by role.
        """
        return {}

    def writeResult(
        self,
        result: Result,
        inputNode: slicer.vtkMRMLNode | None,
        inputs: dict[str, slicer.vtkMRMLNode] | None = None,
    ) -> steps.Steps:
        """Steps that write a result into the scene beside ``inputNode``.

        It is in a folder, whole or not at all.

        Their value is a ``NetInversionLib.scene.results.Written``. Tables, charts and the text of
        an earlier run on the same input are filled anew.
        """
        name = inputNode.GetName() if inputNode is not None else ""
        return results.write_result(
            result,
            inputNode,
            self.shownAs(result, inputs or {}),
            self.moduleName,
            _("{title} for {name}").format(title=self.TITLE, name=name),
        )

    def addResult(
        self,
        result: Result,
        inputNode: slicer.vtkMRMLNode | None,
        inputs: dict[str, slicer.vtkMRMLNode] | None = None,
    ) -> SimpleNamespace:
        """``writeResult`` at once.

        Returns:
            Object with ``nodes`` (by the result's keys), ``tables``, ``charts``, ``facts``,
            ``result`` and ``run``, the identifier that all its nodes carry.
        """
        written = write.at_once(self.writeResult(result, inputNode, inputs))
        return SimpleNamespace(
            nodes=written.nodes,
            run=written.run,
            facts=result.facts,
            result=result,
            tables={key: written.nodes[key] for key in result.tables},
            charts={key: written.nodes[key] for key in result.curves},
        )

    def runs(self) -> dict[str, str]:
        """{run: label} of the module's results in the scene, the newest last."""
        found = scene_runs.runs_of(self.moduleName)
        return panel_runs.labelled({run: self.runLabel(found[run]) for run in reversed(found)})

    def runLabel(self, nodes: Nodes) -> str:
        """A result in a few words: of what, and whether it is complete."""
        first = next(iter(nodes.values()))
        source = first.GetNodeReference(f"{self.moduleName}.input")
        label = source.GetName() if source is not None else self.TITLE
        incomplete = first.GetAttribute(f"{self.moduleName}.incomplete")
        return _("{name} (incomplete)").format(name=label) if incomplete else label

    def deleteRun(self, run: str) -> None:
        """Take a result out of the scene with all its nodes, and nothing else."""
        panel_runs.remove(self.moduleName, run)

    def resultNodes(self, run: str) -> dict:
        """The nodes of a run by their keys; empty if there is none.

        Nodes that a scene was saved without the data of are left out, like those that were removed.
        """
        nodes = scene_runs.result_nodes(self.moduleName, run)
        return {key: node for key, node in nodes.items() if scene_runs.has_data(node)}

    def facts(self, nodes: Nodes) -> dict:
        """What a result's text records.

        They are empty if it was removed, or the scene was saved without it.
        """
        text = nodes["facts"].GetText() if nodes.get("facts") is not None else ""
        return json.loads(text) if text else {}

    def tables(self, nodes: Nodes) -> dict[str, Table]:
        """A result's tables by their keys, from its nodes."""
        return {
            key: Table(scene_tables.title_of(node), scene_tables.columns_of(node))
            for key, node in nodes.items()
            if node is not None and node.IsA("vtkMRMLTableNode")
        }
