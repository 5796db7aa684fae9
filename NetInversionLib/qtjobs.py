"""Runs jobs from Slicer's event loop, which never waits for them, and sees to the packages that they need.

``ModulePanel`` and ``ModuleLogic`` are what the extension's modules have in common: a panel whose Apply starts a
job and whose results appear in the scene. They derive from Slicer's classes, hence their names in camelCase.

The one library file besides mrml.py that imports Slicer's modules.
"""

from __future__ import annotations

import html
import importlib
import importlib.metadata
import json
import logging
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic, ScriptedLoadableModuleWidget
from slicer.util import VTKObservationMixin

from . import jobs, models, mrml
from .panel import estimates, optional_model, runs
from .panel.reports import ReportLogic, ReportPanel
from .panel.texts import literal
from .results import Cancelled, Progress, Result, Table

LOGGER = logging.getLogger(__name__)

TICK_MS = 20
"""Milliseconds between two turns of a ``Stepper``, which drives jobs and the writing of results."""

BUDGET = 0.02
"""Seconds that a stepper takes of the event loop at a time; a step that has begun ends first."""

PACKAGES = {"torch": "2.2", "scikit-image": "0.22", "safetensors": "0.4"}
"""What the library needs and Slicer does not bring, with the oldest version that will do."""


class PackagesMissing(RuntimeError):
    """A package is not there and was not installed; the message says what to do."""


class Stepper:
    """Does the steps of a generator from the event loop, as many as fit into ``BUDGET`` every ``TICK_MS``.

    A step yields True if the next may follow at once, False if it has to wait for something.

    Args:
        steps: What to do, begun at the event loop's next turn.
        on_end: ``f(value)``, with the generator's value.
        on_error: ``f(exception)``; without it, the exception leaves through the event loop.
    """

    def __init__(self, steps: jobs.Steps, on_end: Callable[[Any], None] | None = None,
                 on_error: Callable[[Exception], None] | None = None):
        self._steps, self._on_end, self._on_error = steps, on_end, on_error
        self.running = True
        """Whether there may be more to do."""
        self._timer = qt.QTimer()
        self._timer.setInterval(TICK_MS)
        self._timer.timeout.connect(self._tick)
        self._timer.start()

    def close(self) -> None:
        """Do no more steps, and have the generator undo what it has begun; no callback follows. May be called again."""
        self._stop()
        if not self._steps.gi_running:  # else the generator itself ends the matter
            self._steps.close()

    def finish(self) -> None:
        """Do the rest now, and serve the event loop in between."""
        while self.running:
            self._tick()
            slicer.app.processEvents()

    def _tick(self) -> None:
        # Never entered twice: Qt fires no timer again while its slot runs, even if a callback runs the event loop.
        if self._steps.gi_running:  # a step under ``finish`` runs the event loop
            return
        deadline = time.monotonic() + BUDGET
        try:
            while self.running and next(self._steps) and time.monotonic() < deadline:
                pass
            if not self.running:  # closed by its own step
                self._steps.close()
            return
        except StopIteration as end:
            over, argument = self._on_end, end.value
        except Exception as error:  # noqa: BLE001 - for whoever started it
            if self._on_error is None:
                self._stop()
                raise
            over, argument = self._on_error, error
        wanted = over is not None and self.running
        self._stop()
        if wanted:
            over(argument)

    def _stop(self) -> None:
        if self.running:
            self.running = False
            self._timer.stop()
            self._timer.deleteLater()  # not at once: this may be its own timeout


class QtJob:
    """A request running in a worker process; everything comes back through callbacks, in the main thread.

    The job starts when it is made; no callback is called before the event loop runs again. Exactly one of the last
    two is called, once, unless the job is discarded; by then the worker has ended and its temporary folder is gone.

    Args:
        request: What to run.
        on_progress: ``f(fraction, message)``, fraction from 0 to 1.
        on_log: ``f(message)``, a line worth keeping.
        on_point: ``f(curve, x, y)``, one more point of a live curve.
        on_finished: ``f(result, message)``; after ``cancel`` the last intermediate result, or None.
        on_failed: ``f(message, details, last_result)``: what to do about it, the traceback or the worker's last words,
            and the last intermediate result or None.
        python: Interpreter to use instead of Slicer's own.

    Raises:
        OSError: There is no room for a temporary folder.
        RuntimeError: See ``find_python``.
    """

    def __init__(
        self,
        request: jobs.Request,
        on_progress: Callable[[float, str], None] | None = None,
        on_log: Callable[[str], None] | None = None,
        on_point: Callable[[str, float, float], None] | None = None,
        on_finished: Callable[[Result | None, str], None] | None = None,
        on_failed: Callable[[str, str, Result | None], None] | None = None,
        python: str | None = None,
    ):
        self._callbacks = {"progress": on_progress, "log": on_log, "point": on_point}
        self._on_finished, self._on_failed = on_finished, on_failed
        self._python = python or find_python()
        self._temporary = tempfile.TemporaryDirectory(
            prefix="netinversion-", dir=slicer.app.temporaryPath, ignore_cleanup_errors=True
        )
        self._folder = Path(self._temporary.name)
        self._process = None
        self._pid = None  # of the worker, which Slicer's launcher stands before
        self._words: dict[str, str] = {}  # the worker's own account of a failure
        self._cancelled = self._over = False
        self._started = time.monotonic()
        self._stepper = Stepper(self._life(request))

    @property
    def running(self) -> bool:
        """Whether the final callback is still to come."""
        return not self._over

    def cancel(self) -> None:
        """End the worker now. The final callback follows within a second, with what there is; no other callback does.

        A result that is complete by now is still delivered. Calling this again, or after the end, does nothing.
        """
        self._cancelled = True
        self._kill()

    def intermediate(self) -> jobs.Steps:
        """Steps whose value is the newest intermediate result, or None; they raise OSError if the job ends meanwhile."""
        return jobs.load_intermediate(self._folder)

    def discard(self) -> None:
        """End the job at once and without any callback: the scene or the application closes. May be called again."""
        if self.running:
            self._kill()
            if self._process is not None:
                self._process.waitForFinished(1000)
            self._end()

    def _life(self, request: jobs.Request):
        """All that the job does, in steps: each yields True if the next may follow at once, False if it must wait."""
        result = failure = last = None
        try:
            for more in jobs.save_request(self._folder, request):
                yield more
                if self._cancelled:
                    break
            del request  # its images
            if not self._cancelled:
                self._start()
                yield from self._follow()
            result = yield from jobs.load_result(self._folder)
            if result is None:
                failure = self._explain_exit()
                last = yield from jobs.load_intermediate(self._folder)
        except Exception as error:  # noqa: BLE001 - whatever it is, the user is told and the worker ended
            self._kill()
            failure = jobs.explain(error), traceback.format_exc()
        while self._alive():
            yield False
        yield from jobs.remove(self._folder)
        self._end()
        if result is not None:
            self._tell_finished(result, f"Done in {time.monotonic() - self._started:.0f} s.")
        elif self._cancelled:
            kept = "the best result so far is kept." if last else "there was no result yet."
            self._tell_finished(last, f"Cancelled; {kept}")
        elif self._on_failed:
            self._on_failed(*failure, last)

    def _tell_finished(self, result: Result | None, message: str) -> None:
        if self._on_finished:
            self._on_finished(result, message)

    def _start(self) -> None:
        environment = qt.QProcessEnvironment.systemEnvironment()
        paths = [str(Path(__file__).parent.parent), environment.value("PYTHONPATH", "")]
        environment.insert("PYTHONPATH", os.pathsep.join(path for path in paths if path))
        self._process = qt.QProcess()
        self._process.setProcessEnvironment(environment)
        self._process.setWorkingDirectory(str(self._folder))  # Python looks for modules there too: nobody else's
        self._process.setStandardErrorFile(str(self._folder / "stderr.txt"))
        self._process.start(self._python, ["-m", "NetInversionLib.jobs", str(self._folder), "--attached"])

    def _follow(self):
        """Hand on what the worker says until it has ended."""
        rest = b""
        ended = False
        while not ended:
            ended = self._process.state() == qt.QProcess.NotRunning
            *lines, rest = (rest + self._process.readAllStandardOutput().data()).split(b"\n")
            for line in lines:
                yield from self._hand_on(line)
            yield False

    def _hand_on(self, line: bytes):
        message = _parse(line)
        self._pid = message.get("pid", self._pid)
        if "failed" in message:
            self._words = message
        told = [("log", text) for text in message.get("logs", [])]
        told += [("point", *point) for point in message.get("points", [])]
        if "progress" in message:
            told.append(("progress", *message["progress"]))
        for kind, *arguments in told:
            self._tell(kind, *arguments)
            yield True

    def _tell(self, kind: str, *arguments) -> None:
        callback = self._callbacks[kind]
        if callback and not self._cancelled:
            try:
                callback(*arguments)
            except Exception:
                # A live plot whose node was deleted must not cost the computation.
                LOGGER.exception("Showing the %s of a running job failed; it is not shown any more.", kind)
                self._callbacks[kind] = None

    def _explain_exit(self) -> tuple[str, str]:
        """Message and details for a worker that has left no result."""
        if self._cancelled:
            return "", ""
        if self._words:
            return self._words["failed"], self._words["details"]
        if self._process.error() == qt.QProcess.FailedToStart:
            return f"Python could not be started ({self._python}). Install the application again.", ""
        if self._pid:
            jobs.kill_tree(self._pid)  # what a crashed worker may have left running
        words = (self._folder / "stderr.txt").read_bytes()[-20000:].decode(errors="replace")
        crashed = self._process.exitStatus() == qt.QProcess.CrashExit
        return jobs.explain_exit(self._process.exitCode(), crashed, words), words

    def _alive(self) -> bool:
        return self._process is not None and self._process.state() != qt.QProcess.NotRunning

    def _kill(self) -> None:
        if self._alive():
            if self._pid:
                jobs.kill_tree(self._pid)
            # Before the worker has said its number this ends the launcher, and with it the worker's input.
            self._process.kill()

    def _end(self) -> None:
        self._over = True
        self._stepper.close()
        self._temporary.cleanup()


def _parse(line: bytes) -> dict:
    """A worker's message; what a launcher prints becomes a line of the log."""
    try:
        message = json.loads(line)
    except ValueError:
        message = None
    return message if isinstance(message, dict) else {"logs": [line.decode(errors="replace")]}


def find_python() -> str:
    """Slicer's Python interpreter; outside Slicer the one that runs this.

    Raises:
        RuntimeError: The application holds no interpreter that could be started.
    """
    beside = os.path.join(os.path.dirname(sys.executable), "PythonSlicer")
    found = shutil.which("PythonSlicer") or shutil.which(beside)
    if not found and os.path.basename(sys.executable).lower().startswith("python"):
        found = sys.executable  # never Slicer itself, which would open another window
    if not found:
        raise RuntimeError("Slicer's Python interpreter (PythonSlicer) was not found. Install Slicer again.")
    return found


def ensure_packages(requester: str, more: dict[str, str] | None = None) -> None:
    """See to it that everything a job imports is installed, asking the user first; call it on Apply.

    Nothing is downloaded without the user's consent, and nothing at all in Slicer's testing mode.

    Args:
        requester: Name of the module that asks, shown to the user.
        more: Packages besides ``PACKAGES``, in the same form.

    Raises:
        PackagesMissing: Something is missing and was not installed.
        RuntimeError: Called outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("Packages can only be installed from the main thread.")
    wanted = {**PACKAGES, **(more or {})}
    missing = _missing(wanted)
    if missing and slicer.app.testingEnabled():
        raise PackagesMissing(f"{requester} needs {', '.join(missing)}, and testing mode installs nothing.")
    if "torch" in missing:
        _install_torch(requester, missing.pop("torch"))
    if missing:
        _install(requester, list(missing.values()))
    missing = _missing(wanted)
    if missing:
        raise PackagesMissing(
            f"{requester} needs {', '.join(missing.values())}, which the installation did not bring. Restart Slicer "
            "and try again."
        )


def _missing(wanted: dict[str, str]) -> dict[str, str]:
    """Packages that are absent or too old: name to requirement."""
    importlib.invalidate_caches()
    return {name: f"{name}>={minimum}" for name, minimum in wanted.items() if _installed(name) < _numbers(minimum)}


def _installed(name: str) -> tuple[int, ...]:
    try:
        return _numbers(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return ()


def _numbers(version: str) -> tuple[int, ...]:
    """Major and minor number: "2.13.0+cpu" gives (2, 13)."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _install_torch(requester: str, requirement: str) -> None:
    """Through the PyTorch extension, which knows which build fits the computer."""
    if _installed("torch"):
        raise PackagesMissing(
            f"{requester} needs {requirement}, and an older PyTorch is installed. Open the module PyTorch Utils, press "
            "Uninstall, restart Slicer and try again."
        )
    try:
        logic = importlib.import_module("PyTorchUtils").PyTorchUtilsLogic()
    except ImportError:
        raise PackagesMissing(
            f"{requester} needs the PyTorch extension. Install it with the Extensions Manager, restart Slicer and try "
            "again."
        ) from None
    version = requirement.removeprefix("torch")
    try:
        torch = logic.installTorch(askConfirmation=True, torchVersionRequirement=version)
    except (subprocess.CalledProcessError, ImportError, OSError) as error:
        raise PackagesMissing(_failed("PyTorch", error)) from error
    if torch is None:
        raise PackagesMissing(_declined(requester, "PyTorch"))


def _install(requester: str, requirements: list[str]) -> None:
    """Through slicer.packaging, or in a Slicer before 5.12 through slicer.util after the same question."""
    wanted = ", ".join(requirements)
    try:
        packaging = importlib.import_module("slicer.packaging")
    except ImportError:
        question = f"{requester} needs Python packages that are not installed: {wanted}. Download and install them now?"
        if not slicer.util.confirmOkCancelDisplay(question, f"{requester}: install Python packages"):
            raise PackagesMissing(_declined(requester, wanted)) from None
        packaging = None
    try:
        if packaging:
            packaging.pip_ensure(requirements, requester=requester)
        else:
            slicer.util.pip_install(" ".join(requirements))
    except subprocess.CalledProcessError as error:
        raise PackagesMissing(_failed(wanted, error)) from error
    except RuntimeError as error:
        raise PackagesMissing(_declined(requester, wanted)) from error


def _declined(requester: str, wanted: str) -> str:
    return f"{requester} cannot run without {wanted}. Press Apply again and agree to the installation."


def _failed(wanted: str, error: Exception) -> str:
    return f"{wanted} could not be installed ({error}). Check the connection to the internet and try again."


# What the extension's modules have in common


class ModuleLogic(ReportLogic, ScriptedLoadableModuleLogic):
    """Base of a module's logic: which models it takes, and its results in the scene.

    A module sets ``TITLE``, ``TASK`` and ``PARAMETERS`` and overrides, if it likes, ``shownAs``. The
    parameter node has the fields ``model`` (file name of a shipped model), ``fromFile`` and ``modelFile`` (another
    model instead), ``device``, ``worker`` (run in a process of its own) and ``run`` (the result that is shown).
    """

    TITLE = ""
    """Name of the module, for people."""

    TASK = models.IMAGE_TO_IMAGE
    """Task of the models that the module works with, as their cards say it."""

    PARAMETERS: Any = None
    """Class of the parameter node: a ``parameterNodeWrapper``."""

    _parameters = None

    def getParameterNode(self):
        """The scene's parameter node as ``PARAMETERS``: the same object as long as it is the same node.

        Every one that Slicer's wrapper makes observes the node, once for each of its fields.
        """
        node = ScriptedLoadableModuleLogic.getParameterNode(self)
        if self._parameters is None or self._parameters.parameterNode is not node:
            self._parameters = self.PARAMETERS(node)
        return self._parameters

    # Models

    def takes(self, card: models.Card) -> bool:
        """Whether the module works with models of this kind."""
        return card.task == self.TASK

    def models(self) -> dict[Path, models.Card]:
        """The shipped models that the module works with."""
        found = models.list_models().items()
        return {path: card for path, card in found if not isinstance(card, models.ModelError) and self.takes(card)}

    def modelPath(self, node) -> str | None:
        """Path of the model that a parameter node names; None if it is nowhere."""
        if node.fromFile:
            return node.modelFile or None
        return next((str(path) for path in self.models() if path.name == node.model), None)

    def secondModels(self, node, card: models.Card | None) -> dict[Path, models.Card]:
        """The shipped models that can be asked beside the chosen one, whose card is ``card``."""
        first = self.modelPath(node)
        return {path: other for path, other in self.models().items() if str(path) != first}

    def secondPath(self, node) -> str:
        """Path of the second model that a parameter node names: a shipped one by its file name. "" for none."""
        shipped = {path.name: str(path) for path in self.models()}
        return shipped.get(node.secondModel, node.secondModel)

    def card(self, path: str | None) -> tuple[models.Card | None, str]:
        """(card, problem): the card of a model file, or None and why it can not be used."""
        if not path:
            return None, _("Choose a network: a shipped one, or a model file.")
        try:
            card = models.read_card(path)
        except models.ModelError as error:
            return None, str(error)
        if not self.takes(card):
            return None, _("{name} is a network for another task ({task}). Choose one for {wanted}.").format(
                name=card.name, task=card.task, wanted=self.TASK)
        return card, ""

    def devices(self) -> list[str]:
        """Names of the devices that are there; none but the CPU before torch is installed."""
        from . import devices

        try:
            with slicer.util.WaitCursor():
                return devices.available()
        except ImportError:
            return ["cpu"]

    # How long runs take

    def secondsFor(self, card: models.Card, device: str, cost: float, guess: float) -> tuple[float, bool]:
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
        if not _installed("torch"):
            return _("Takes about {time} after installation of PyTorch (a first guess).").format(time=durationText(seconds))
        if estimates.MACHINE.is_measured(device):
            return text + " " + _("(Judged by this computer's speed; after a run it is measured.)")
        return text + " " + _("(A first guess; after a run it is measured.)")

    def learnSpeed(self, card: models.Card, device: str, cost: float, seconds: float) -> None:
        """Note how long a whole run took."""
        computing = max(seconds - estimates.MACHINE.start_seconds(device), 0.1)
        qt.QSettings().setValue(self._speedKey(card, device), f"{computing / max(cost, 1):.4g}")

    def _speedKey(self, card, device):
        name = "".join(letter if letter.isalnum() else "_" for letter in f"{card.name}_{card.version}_{device}")
        return f"{self.moduleName}/SecondsPerCost/{name}"

    # Results

    def shownAs(self, result: Result, inputs: dict) -> dict:
        """By key of the result, a node (or an earlier key) whose window an image takes. ``inputs``: nodes by role."""
        return {}

    def writeResult(self, result: Result, inputNode, inputs: dict | None = None) -> jobs.Steps:
        """Steps that write a result into the scene beside ``inputNode``, in a folder, whole or not at all.

        Their value is a ``NetInversionLib.mrml.Written``. Tables, charts and the text of an earlier run on the same
        input are filled anew.
        """
        name = inputNode.GetName() if inputNode is not None else ""
        return mrml.write_result(result, inputNode, self.shownAs(result, inputs or {}), self.moduleName,
                                 _("{title} for {name}").format(title=self.TITLE, name=name))

    def addResult(self, result: Result, inputNode, inputs: dict | None = None) -> SimpleNamespace:
        """``writeResult`` at once.

        Returns:
            Object with ``nodes`` (by the result's keys), ``tables``, ``charts``, ``facts``, ``result`` and ``run``,
            the identifier that all its nodes carry.
        """
        written = mrml.at_once(self.writeResult(result, inputNode, inputs))
        return SimpleNamespace(
            nodes=written.nodes, run=written.run, facts=result.facts, result=result,
            tables={key: written.nodes[key] for key in result.tables},
            charts={key: written.nodes[key] for key in result.curves})

    def runs(self) -> dict[str, str]:
        """{run: label} of the module's results in the scene, the newest last."""
        found = mrml.runs_of(self.moduleName)
        return runs.labelled({run: self.runLabel(found[run]) for run in reversed(found)})

    def runLabel(self, nodes: dict) -> str:
        """A result in a few words: of what, and whether it is complete."""
        first = next(iter(nodes.values()))
        source = first.GetNodeReference(f"{self.moduleName}.input")
        label = source.GetName() if source is not None else self.TITLE
        incomplete = first.GetAttribute(f"{self.moduleName}.incomplete")
        return _("{name} (incomplete)").format(name=label) if incomplete else label

    def deleteRun(self, run: str) -> None:
        """Take a result out of the scene with all its nodes, and nothing else."""
        runs.remove(self.moduleName, run)

    def resultNodes(self, run: str) -> dict:
        """The nodes of a run by their keys; empty if there is none."""
        return mrml.result_nodes(self.moduleName, run)

    def facts(self, nodes: dict) -> dict:
        """What a result's text records; empty if it was removed."""
        return json.loads(nodes["facts"].GetText()) if nodes.get("facts") is not None else {}

    def tables(self, nodes: dict) -> dict[str, Table]:
        """A result's tables by their keys, from its nodes."""
        return {key: Table(mrml.title_of(node), mrml.columns_of(node)) for key, node in nodes.items()
                if node is not None and node.IsA("vtkMRMLTableNode")}


@dataclass
class Run:
    """What a panel's Apply starts.

    ``request`` are steps whose value is a ``jobs.Request``: they read the volumes (``mrml.read_volume``). ``inputs`` are
    nodes by name; the first is the one that results are put beside. If one of them, or of ``others`` (a mask), is
    removed from the scene before there is a result, the run stops. ``cost``: see ``ModuleLogic.secondsFor``; 0: unknown.
    """

    request: jobs.Steps
    card: models.Card
    inputs: dict[str, Any]
    others: list = field(default_factory=list)
    cost: float = 0.0
    device: str = "auto"

    # The panel's own
    reader: Stepper | None = None
    job: QtJob | None = None
    progress: _PanelProgress | None = None
    viewer: Stepper | None = None  # loads an intermediate result for the preview
    previewed: float = field(default_factory=time.monotonic)
    writer: Stepper | None = None  # from here on there is a result
    written: bool = False
    started: float = field(default_factory=time.monotonic)
    drawn: float = 0.0
    curves: dict = field(default_factory=dict)
    problem: str = ""
    stopping: bool = False

    @property
    def like(self):
        return next(iter(self.inputs.values()), None)


class ModulePanel(ReportPanel, ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Base of a module's widget: the life of its panel, the list of models, and a run from Apply to the result shown.

    The panel is idle (``_going`` is None), or a run goes on: it reads its volumes, computes, then writes its result
    (``_going.writer``). All that time Apply is Cancel. Cancel, an input node that is removed, a scene that is closed and a module
    that is reloaded all end a run; what was written of a result by then is removed, except by a node's removal, which
    a result survives. The event loop is served all the time.

    A module's widget has ``setup`` call ``setupPanel(logic)``, which loads ``UI/<module>.ui``, then connect what is
    its own and call ``initializeParameterNode()``. It overrides

    - ``showChoices()``: bring the module's own widgets up to date with ``_parameterNode`` and ``_card``;
    - ``modelChanged()``: another ``_card`` (or None) was chosen;
    - ``problems()``: reasons why Apply can not be pressed; ``estimate()``: a line on time and memory;
    - ``prepareRun()``: the ``Run`` to start; it may raise ValueError with a message for the user;
    - ``showResults(nodes)``: bring the section with results up to date; ``showSteps()``: steps that show the result
      in the views; ``showPreview(result)``: draw in the panel what a run has so far (``PREVIEW_EVERY_S``).

    The .ui file has the widgets ``modelSelector`` (QComboBox), ``modelFileLabel``, ``modelFileEdit``
    (ctkPathLineEdit), ``modelInfoLabel``, ``deviceSelector`` (QComboBox), ``advancedCollapsibleButton``,
    ``inputsCollapsibleButton``, ``outputsCollapsibleButton``, ``resultsCollapsibleButton``, ``shownRunSelector``
    (QComboBox), ``deleteRunButton``, ``estimateLabel``,
    ``applyButton``, ``progressBar`` (0 to 1000), ``statusLabel``, ``curveLabel`` and ``logText`` (QPlainTextEdit).
    It may have ``secondModelSelector`` (QComboBox): the list for the parameter node's field ``secondModel``.
    Those with a dynamic property ``SlicerParameterName`` follow the parameter node by themselves.
    """

    APPLY_TIP = ""
    """What Apply does, as its tooltip."""

    CURVE_LABELS = ("", "")
    """Of the live curve: x axis and y axis."""

    PREVIEW_EVERY_S = 0.0
    """How often ``showPreview`` is given the newest intermediate result of a run that goes on; 0: never."""

    def __init__(self, parent=None):
        self.logic = None
        self._parameterNode = self._guiTag = self._nodeTag = None
        self._card = self._cardPath = None  # of the chosen model
        self._secondModel: optional_model.OptionalModel | None = None
        self._going: Run | None = None
        self._writing = False  # the panel is being brought up to date: its signals are not the user's
        self._catchingUp = False  # nodes were removed; the panel has still to look
        VTKObservationMixin.__init__(self)
        ScriptedLoadableModuleWidget.__init__(self, parent)

    # For the module to override

    def showChoices(self):
        pass

    def modelChanged(self):
        pass

    def problems(self) -> list[str]:
        return []

    def estimate(self) -> str:
        return ""

    def prepareRun(self) -> Run:
        raise NotImplementedError

    def showResults(self, nodes: dict):
        pass

    def showSteps(self) -> jobs.Steps:
        yield False

    def showPreview(self, result: Result):
        pass

    # Life

    def setupPanel(self, logic: ModuleLogic):
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath(f"UI/{self.moduleName}.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.logic = logic
        self.addReportButtons()
        for name in ("progressBar", "statusLabel", "curveLabel", "resultsCollapsibleButton"):
            getattr(self.ui, name).setVisible(False)
        self._fillModels()
        self._fillDevices()
        self.ui.modelSelector.connect("currentIndexChanged(int)", self._onModelChosen)
        self.ui.modelFileEdit.connect("currentPathChanged(QString)", self._onModelFile)
        self.ui.modelFileEdit.connect("validInputChanged(bool)", self._onModelFileValid)
        self.ui.deviceSelector.connect("currentIndexChanged(int)", self._onDeviceChosen)
        self.ui.advancedCollapsibleButton.connect("contentsCollapsed(bool)", self._onAdvanced)
        self.ui.applyButton.connect("clicked(bool)", self.onApplyButton)
        self._runs = runs.RunList(self)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.StartImportEvent, self.onSceneStartImport)
        # After the node selectors, which know the scene's nodes only then, whenever they were made.
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose, priority=-1.0)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneEndImport, priority=-1.0)
        self.addObserver(scene, scene.NodeRemovedEvent, self._onNodeRemoved)

    def cleanup(self):
        self._abandon("")
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self):
        self.initializeParameterNode()
        self._measureSpeed()

    def _measureSpeed(self):
        """Have the computer's speed measured, in a process of its own, so that the first estimate is right."""
        if self._parameterNode is None or not _installed("torch") or slicer.app.testingEnabled():
            return
        try:
            estimates.MACHINE.measure(find_python(), self._parameterNode.device, self.refresh)
        except RuntimeError:  # no Python: Apply says so
            pass

    def exit(self):
        self._disconnectGui()

    def _disconnectGui(self):
        if self._parameterNode is not None and self._guiTag is not None:
            self._parameterNode.disconnectGui(self._guiTag)
        self._guiTag = None

    def onReload(self):
        """Also load the library anew, whose modules Python would keep."""
        for name in [name for name in sys.modules if name.split(".")[0] == "NetInversionLib"]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, caller, event):
        self._abandon(_("The scene was closed: the run was stopped and its result is not kept."))
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onSceneStartImport(self, caller, event):
        """At the import's end the node selectors let go of their nodes, which is not the user's choice."""
        self._disconnectGui()
        self._writing = True

    def onSceneEndImport(self, caller, event):
        self._writing = False
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self):
        """Show the scene's parameter node.

        It is read anew: Slicer's wrapper keeps the values of the node's last change, and while a scene is loaded that
        comes before the nodes that it refers to are there.
        """
        parameters = self.logic.getParameterNode()
        self.setParameterNode(None)
        parameters.parameterNode.InvokeEvent(vtk.vtkCommand.ModifiedEvent)
        self.setParameterNode(parameters)

    def setParameterNode(self, node):
        """Show the values of another parameter node (or none: the scene closes), and follow it."""
        self._disconnectGui()
        if self._parameterNode is not None:
            self._parameterNode.parameterNode.RemoveObserver(self._nodeTag)
        self._parameterNode = node
        if node is not None:
            self._guiTag = node.connectGui(self.ui)
            # Not by addObserver, which would keep every wrapper and node that it was ever given.
            self._nodeTag = node.parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, self.refresh)
            self._showModelFile(node.modelFile)
            self.refresh()

    def _showModelFile(self, path):
        writing, self._writing = self._writing, True
        self.ui.modelFileEdit.currentPath = path
        self._writing = writing

    # What the user chooses and connectGui does not know

    def _fillModels(self):
        if hasattr(self.ui, "secondModelSelector"):
            self._secondModel = optional_model.OptionalModel(
                self.ui.secondModelSelector, lambda chosen: self.setValues(secondModel=chosen))
        for path, card in self.logic.models().items():
            self.ui.modelSelector.addItem(card.name, str(path))
        self.ui.modelSelector.addItem(_("From file..."), "")
        self.ui.modelFileEdit.nameFilters = [optional_model.file_filter()]

    def _fillDevices(self, names=("cpu",)):
        chosen = self._parameterNode.device if self._parameterNode is not None else "auto"
        self._writing = True
        self.ui.deviceSelector.clear()
        for name in dict.fromkeys(("auto", *names, chosen)):
            self.ui.deviceSelector.addItem(_("Automatic") if name == "auto" else name, name)
        self.ui.deviceSelector.setCurrentIndex(self.ui.deviceSelector.findData(chosen))
        self._writing = False

    def _onAdvanced(self, collapsed):
        """Look for devices when they are first wanted: that takes torch, which takes a second or two."""
        if not collapsed:
            self._fillDevices(self.logic.devices())

    def _onModelChosen(self, index):
        path = self.ui.modelSelector.itemData(index)
        self.setValues(fromFile=not path, **({"model": Path(path).name} if path else {}))

    def _onModelFile(self, path):
        self.setValues(modelFile=path)

    def _onModelFileValid(self, valid):
        """The line tells only of what could be a model file's path: not of a text that is cleared, for example."""
        if not valid:
            self.setValues(modelFile="")

    def _onDeviceChosen(self, index):
        self.setValues(device=self.ui.deviceSelector.itemData(index))

    def setValues(self, **values):
        """Change fields of the parameter node, for a widget that the user has changed."""
        if not self._writing and self._parameterNode is not None:
            for name, value in values.items():
                setattr(self._parameterNode, name, value)

    # What the panel shows

    def refresh(self, caller=None, event=None):
        """Bring everything up to date with the parameter node."""
        if self._parameterNode is None or self._writing or slicer.mrmlScene.IsImporting():
            return
        self._writing = True
        try:
            self._showModel()
            self._showDevice()
            self.showChoices()
            nodes = self.logic.resultNodes(self._parameterNode.run)
            self.ui.resultsCollapsibleButton.setVisible(bool(nodes) and self._going is None)
            if nodes:
                self._runs.show()
            if nodes and self._card is not None:
                self.showResults(nodes)
            self.showReportButtons(nodes)
        finally:
            self._writing = False
        self._showApply()

    def _showModel(self):
        node, ui = self._parameterNode, self.ui
        if not node.fromFile and not node.model:
            path = ui.modelSelector.itemData(0)
            node.model, node.fromFile = Path(path).name, not path
        path = self.logic.modelPath(node)
        ui.modelSelector.setCurrentIndex(ui.modelSelector.findData("" if node.fromFile else str(path)))
        ui.modelFileLabel.setVisible(node.fromFile)
        ui.modelFileEdit.setVisible(node.fromFile)
        if node.modelFile and ui.modelFileEdit.currentPath != node.modelFile:  # else the user may be typing
            ui.modelFileEdit.currentPath = node.modelFile
        if str(path) != self._cardPath:
            self._cardPath = str(path)
            self._card, problem = self.logic.card(path)
            ui.modelInfoLabel.setText(cardText(path, self._card) if self._card else literal(problem))
            self.modelChanged()
        if self._secondModel is not None:
            self._secondModel.show(self.logic.secondModels(node, self._card), node.secondModel)

    def _showDevice(self):
        selector, device = self.ui.deviceSelector, self._parameterNode.device
        if selector.findData(device) < 0:
            selector.addItem(device, device)
        selector.setCurrentIndex(selector.findData(device))

    def _showApply(self):
        """Apply, or Cancel while a run goes on; disabled with all reasons why."""
        going, button = self._going is not None, self.ui.applyButton
        problems = [] if going else self.problems()
        button.text = _("Cancel") if going else _("Apply")
        button.enabled = not problems and not (going and self._going.stopping)
        if problems:
            button.toolTip = literal("\n".join(problems))
        else:
            button.toolTip = self._cancelTip() if going else self.APPLY_TIP
        for name in ("inputsCollapsibleButton", "outputsCollapsibleButton", "advancedCollapsibleButton"):
            getattr(self.ui, name).enabled = not going
        estimate = "" if problems or going else self.estimate()
        self.ui.estimateLabel.setText(estimate)
        self.ui.estimateLabel.setVisible(bool(estimate))

    def _cancelTip(self):
        if self._going.writer is None:
            return _("Stop, and keep the best result so far.")
        return _("Stop, and remove what is written of the result.")

    def say(self, message):
        """A line in the log; the newest also stands under the button."""
        self.ui.logText.appendPlainText("{time}  {message}".format(time=time.strftime("%H:%M:%S"), message=message))
        self.ui.statusLabel.setVisible(True)
        self.ui.statusLabel.setText(literal(message))

    def fail(self, message, details=""):
        """Say what went wrong, in the log and in a dialog."""
        self.say(message)
        slicer.util.errorDisplay(literal(message), windowTitle=self.logic.TITLE, detailedText=details)

    # A run: computing

    def onApplyButton(self):
        if self._going is not None:
            self._cancel(_("Cancelling"))
            return
        try:
            with slicer.util.WaitCursor():
                ensure_packages(self.logic.TITLE)
                run = self.prepareRun()
        except (ValueError, PackagesMissing) as error:  # both are written for the user
            self.fail(str(error))
            return
        self._start(run)

    def _start(self, run):
        self._going = run
        for widget in (self.ui.progressBar, self.ui.statusLabel, self.ui.curveLabel):
            widget.setVisible(True)
        self.ui.resultsCollapsibleButton.setVisible(False)
        self.ui.progressBar.setValue(0)
        self._drawCurves()
        self.say(_("Starting"))
        self._showApply()
        run.reader = Stepper(run.request, lambda request: self._compute(run, request), self._onRefused)
        if not self._parameterNode.worker:
            run.reader.finish()

    def _onRefused(self, error):
        """No job can be made of the images or settings, or it can not be started."""
        for_user = isinstance(error, ValueError)
        self._conclude(jobs.explain(error), "" if for_user else "".join(traceback.format_exception(error)))

    def _compute(self, run, request):
        run.started = time.monotonic()
        if not self._parameterNode.worker:
            self._runHere(run, request)
            return
        try:
            run.job = QtJob(request, self._onProgress, self.say, self._onPoint, self._onFinished, self._onFailed)
        except (OSError, RuntimeError) as error:  # no room for the job's folder, no Python
            self._onRefused(error)

    def _runHere(self, run, request):
        """In this process, for when no other can be started; the panel is served whenever the run reports."""
        progress = run.progress = _PanelProgress(self._onProgress, self.say, self._onPoint)
        failure = None
        try:
            result, message = jobs.run_here(request, progress), _("Done.")
        except Cancelled:
            result, message = progress.last, _("Cancelled.")
        except Exception as error:  # noqa: BLE001 - whatever it is, the user is told
            failure = jobs.explain(error), traceback.format_exc()
        if self._going is not run:  # abandoned: the scene was closed
            return
        if failure:
            self._onFailed(*failure, progress.last)
        else:
            self._onFinished(result, message)
        while self._going is run:
            run.writer.finish()

    def _cancel(self, message):
        run = self._going
        if run.written:  # and nearly shown
            return
        self.ui.statusLabel.setText(literal(message))
        if run.writer is not None:
            run.writer.close()
            self._conclude(_("Cancelled while the result was written: it is not kept."))
            return
        if run.job is None and run.progress is None:
            run.reader.close()
            self._conclude(_("Cancelled."))
            return
        run.stopping = True  # pressed again, the button must not take the best result so far away
        self._showApply()
        if run.job is not None:
            run.job.cancel()
        else:
            run.progress.cancelled = True

    def _abandon(self, message):
        """Stop a run without a result: its scene goes away."""
        run, self._going = self._going, None
        if run is None:
            return
        for stepper in (run.reader, run.viewer, run.writer):
            if stepper is not None:
                stepper.close()
        if run.job is not None:
            run.job.discard()
        if run.progress is not None:
            run.progress.cancelled = True
        self.ui.progressBar.setVisible(False)
        if message:
            self.say(message)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeRemoved(self, caller, event, node):
        if self._parameterNode is not None:
            of_result = node.GetAttribute(f"{self.moduleName}.run") is not None
            if of_result or node is self._parameterNode.parameterNode:
                self._catchUpSoon()
        run = self._going
        if run is None or run.writer is not None or run.problem or node not in (*run.inputs.values(), *run.others):
            return
        run.problem = _("'{name}' was removed from the scene: the run was stopped.").format(name=node.GetName())
        self._cancel(run.problem)

    def _catchUpSoon(self):
        """Once the scene has settled: a deleted result has dozens of nodes, and undoing removes some to put others."""
        if not self._catchingUp:
            self._catchingUp = True
            qt.QTimer.singleShot(0, self._catchUp)

    def _catchUp(self):
        """Follow a new parameter node if a person has removed the old one; show no result that is gone."""
        self._catchingUp = False
        if self._parameterNode is None:  # the scene was closed, or the panel is gone
            return
        if self._parameterNode.parameterNode.GetScene() is None:
            self.initializeParameterNode()
        elif self._going is None:
            self.refresh()

    def _onProgress(self, fraction, message):
        self.ui.progressBar.setValue(int(1000 * fraction))
        elapsed = time.monotonic() - self._going.started
        if fraction > 0.05:
            message = _("{message}; about {left} left").format(
                message=message, left=durationText(elapsed * (1 - fraction) / fraction))
        self.ui.statusLabel.setText(literal(message))
        if self.PREVIEW_EVERY_S and time.monotonic() - self._going.previewed > self.PREVIEW_EVERY_S:
            self._preview(self._going)

    def _preview(self, run):
        """Have the newest intermediate result shown; one that cannot be read (the job may end meanwhile) is not."""
        run.previewed = time.monotonic()

        def show(result):
            if result is not None and self._going is run and run.writer is None:
                self.showPreview(result)

        if run.job is None:
            show(run.progress.last)
        elif run.viewer is None or not run.viewer.running:
            run.viewer = Stepper(run.job.intermediate(), show, lambda error: None)

    def _onPoint(self, curve, x, y):
        self._going.curves.setdefault(curve, []).append((x, y))
        if time.monotonic() - self._going.drawn > 0.2:
            self._going.drawn = time.monotonic()
            self._drawCurves()

    def _drawCurves(self):
        self.ui.curveLabel.setPixmap(curvePicture(self._going.curves, *self.CURVE_LABELS))
        self.ui.curveLabel.setVisible(bool(self._going.curves))  # not every run has some

    # A run: its result

    def _onFinished(self, result, message):
        run = self._going
        if result is None:
            self._conclude(message)
            return
        if result.facts.get("complete", True) and run.cost:
            self.logic.learnSpeed(run.card, run.device, run.cost, time.monotonic() - run.started)
        for warning in result.facts.get("warnings", []):
            message += " " + _("Warning: {warning}").format(warning=warning)
        self._write(result, lambda: self._conclude(message), lambda error: self._conclude(
            _("The result could not be added to the scene. {reason}").format(reason=jobs.explain(error)),
            "".join(traceback.format_exception(error))))

    def _onFailed(self, message, details, last):
        if last is None:
            self._conclude(message, details)
            return
        last.facts["complete"] = False
        kept = message + " " + _("The best result so far is kept, marked as incomplete.")

        def lost(error):
            LOGGER.error("The intermediate result could not be added to the scene", exc_info=error)
            self._conclude(message, details)

        self._write(last, lambda: self._conclude(kept, details), lost)

    def _write(self, result, done, failed):
        """Write a result into the scene and show it; then ``done()``, or ``failed(error)`` with the scene as it was."""
        run = self._going
        self.ui.progressBar.setValue(1000)
        self.ui.statusLabel.setText(_("Writing the results into the scene"))

        def written(value):
            run.written = True
            self._parameterNode.run = value.run
            if self.parent.isEntered:  # else the user works elsewhere by now
                run.writer = Stepper(self.showSteps(), lambda _: done(), not_shown)
            else:
                done()

        def not_shown(error):
            LOGGER.error("The result could not be shown", exc_info=error)
            done()

        run.writer = Stepper(self.logic.writeResult(result, run.like, run.inputs), written, failed)
        self._showApply()

    def _conclude(self, message, details=None):
        """The run is over: say how; ``details`` if it failed."""
        run = self._end()
        message = " ".join(filter(None, (run.problem, message)))
        if details is not None:
            self.fail(message, details)
        else:
            self.say(message)

    def _end(self):
        """Draw the last points and give the panel back."""
        self._drawCurves()
        run, self._going = self._going, None
        self.ui.progressBar.setVisible(False)
        self.refresh()
        return run

    def showResult(self):
        """Show the result in the views, at once."""
        jobs.finish(self.showSteps())


class _PanelProgress(Progress):
    """For a run in this process: hands on what it reports, keeps the last intermediate result, serves the panel."""

    def __init__(self, onProgress, onLog, onPoint):
        self._onProgress, self._onLog, self._onPoint = onProgress, onLog, onPoint
        self.cancelled, self.last = False, None

    def _serve(self, tell, *arguments):
        if not self.cancelled:
            tell(*arguments)
        slicer.app.processEvents()
        if self.cancelled:
            raise Cancelled

    def report(self, fraction, message):
        self._serve(self._onProgress, fraction, message)

    def log(self, message):
        self._serve(self._onLog, message)

    def point(self, curve, x, y):
        self._serve(self._onPoint, curve, x, y)

    def intermediate(self, result):
        self.last = result


def cardText(path: str, card: models.Card) -> str:
    """What a person wants to know of a model before using it, as HTML."""
    def channels(group):
        return ", ".join(channel.name + (f" ({channel.units})" if channel.units else "") for channel in group)

    low, high = card.spacing_mm
    scans = list(card.trained_on)
    if len(scans) > 6:
        scans[3:-1] = [_("{count} more").format(count=len(scans) - 4)]
    lines = [
        _("Takes {inputs}; gives {outputs}.").format(inputs=channels(card.inputs), outputs=channels(card.outputs)),
        _("Voxels of {size} mm, {how}.").format(
            size=f"{low:g}" if low == high else _("{low:g} to {high:g}").format(low=low, high=high),
            how=_("slice by slice") if card.dimensions == 2 else _("in 3-D")),
        _("Trained on: {scans}.").format(scans=", ".join(scans) or _("not said")),
        card.intended_use]
    name = "<b>{name}</b>, {file}".format(name=html.escape(card.name), file=html.escape(Path(path).name))
    return "<br>".join([name, *(html.escape(line, quote=False) for line in lines)])


def mapsPicture(maps: dict, high: float, size: int = 220):
    """A QPixmap of maps ({title: array [j, i], 0 to ``high``}) side by side in the colours of role "spread"."""
    stops = np.array([list(bytes.fromhex(color)) for color in mrml.COLORS["spread"].split()])
    picture = qt.QPixmap(size * len(maps), size + 20)
    picture.fill(qt.QColor("white"))
    painter = qt.QPainter()
    painter.begin(picture)
    for place, (title, array) in enumerate(maps.items()):
        level = np.clip(np.nan_to_num(array) / max(high, 1e-9), 0, 1) * (len(stops) - 1)
        colors = np.stack([np.interp(level, range(len(stops)), channel) for channel in stops.T], -1).astype(np.uint8)
        image = qt.QPixmap()
        image.loadFromData(qt.QByteArray(b"P6 %d %d 255\n" % array.shape[::-1] + colors.tobytes()), "PPM")
        scale = (size - 4) / max(array.shape)
        painter.drawPixmap(size * place, 20, round(array.shape[1] * scale), round(array.shape[0] * scale), image)
        painter.drawText(size * place, 14, title)
    painter.end()
    return picture


def curvePicture(curves: dict, xLabel: str, yLabel: str):
    """A QPixmap of curves ({name: [(x, y), ...]}) while they grow: it adds nothing to the scene."""
    picture = qt.QPixmap(460, 150)
    picture.fill(qt.QColor("white"))
    painter = qt.QPainter()
    painter.begin(picture)
    lines, labels = curvePixels(curves, 64, 10, 230, 110)
    painter.setPen(qt.QColor("#606060"))
    painter.drawRect(64, 10, 230, 110)
    for text, x, y in (*labels, *([(xLabel, 119, 136), (yLabel, 4, 65)] if labels else [])):
        painter.drawText(x, y, text)
    for index, (name, points) in enumerate(lines.items()):
        painter.setPen(qt.QColor("#" + mrml.LINE_COLORS[index % len(mrml.LINE_COLORS)]))
        for (x0, y0), (x1, y1) in zip(points, points[1:]):
            painter.drawLine(x0, y0, x1, y1)
        painter.drawText(302, 22 + 14 * index, name)
    painter.end()
    return picture


def curvePixels(curves: dict, left: int, top: int, width: int, height: int) -> tuple[dict, list]:
    """(lines as pixels by name, labels of the axes' ends as (text, x, y)): logarithmic upwards where all are above 0."""
    points = [point for line in curves.values() for point in line if math.isfinite(point[1])]
    if len(points) < 2:
        return {}, []
    log = min(y for _x, y in points) > 0
    scale = math.log10 if log else float
    high, low = scale(max(y for _x, y in points)), scale(min(y for _x, y in points))
    last = max(x for x, _y in points)

    def pixel(x, y):
        share = (high - scale(y)) / (high - low) if high > low else 0.5
        return left + round(width * x / max(last, 1)), top + 4 + round((height - 8) * share)

    labels = [("%.3g" % (10**high if log else high), 4, top + 12), ("%.3g" % (10**low if log else low), 4, top + height),
              ("0", left - 3, top + height + 16), ("%d" % last, left + width - 30, top + height + 16)]
    return {name: [pixel(x, y) for x, y in line if math.isfinite(y)] for name, line in curves.items()}, labels


def durationText(seconds: float) -> str:
    if seconds < 90:
        return _("{count} s").format(count=max(1, round(seconds)))
    if seconds < 5400:
        return _("{count} min").format(count=round(seconds / 60))
    return _("{count} h").format(count=round(seconds / 3600, 1))
