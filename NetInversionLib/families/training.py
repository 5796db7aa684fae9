"""Training the small networks of the families (``families.rows``) on slices of people's brains.

Each learns in minutes of one core what its way of reconstructing can do; none is a clinical model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import models, networks
from ..core.progress import Progress
from ..core.results import Result
from ..core.volumes import Volume
from ..training import naming
from ..training.loop import Group, State, plain, run
from ..training.people import split_people
from . import rows
from .adversarial import Adversarial, Made
from .coils import SeveralCoils
from .reconstruction import DenoiserInside, Reconstruction
from .registration import Registration
from .restoration import Denoising, SuperResolution
from .rows import Row
from .settings import SCANNER, FamilySettings
from .slices import Slices, read_slices
from .synthesis import Synthesis
from .tasks import Task, Trial
from .translation import Translation
from .tumours import Tumours
from .volumes import VolumeSuperResolution

SOURCES = "OpenNeuro ds002748 (Bezmaternykh et al.), CC0; {} made of it"
INTENDED_USE = (
    "Research and teaching only, not for diagnosis or treatment. A small example of its family,"
    " trained for minutes on {}, so that its ideal inputs and invariances can be looked"
    " at."
)
TASKS: dict[str, Task] = {
    rows.RECONSTRUCTION: Reconstruction(),
    rows.DENOISER_INSIDE: DenoiserInside(),
    rows.COILS: SeveralCoils(),
    rows.DENOISING: Denoising(),
    rows.SUPER_RESOLUTION: SuperResolution(),
    rows.REGISTRATION: Registration(),
    rows.SYNTHESIS: Synthesis(),
    rows.TRANSLATION: Translation(),
    rows.TUMOURS: Tumours(),
    rows.VOLUME_SUPER_RESOLUTION: VolumeSuperResolution(),
}
"""By ``Row.recipe``."""
JUDGED_IN_TRAINING = 2
"""People left out whose figures the learning curve has; one is moved onto the other."""


def settings_for(name: str, **chosen: Any) -> FamilySettings:
    """The settings of a row's training.

    Args:
        name: Of the row.
        chosen: Fields that the user chose; the others are the row's.
    """
    row = trained_row(name)
    return FamilySettings(**{"steps": row.steps, **row.settings, **chosen})


class _State(State):
    """A network in training."""

    def __init__(self, row: Row, settings: FamilySettings, people: list[Slices], arguments: dict):
        torch.manual_seed(settings.seed)
        network = networks.build(row.architecture, **arguments)
        super().__init__(
            settings,
            [one.name for one in people],
            network,
            optimiser=torch.optim.Adam(network.parameters(), lr=settings.learning_rate),
        )
        self.people, self.task, self.made = people, TASKS[row.recipe], (row, arguments)

    def loss(self) -> Tensor:
        """Of the step that is being made."""
        return self.task.loss(self.network.train(), self.people, self.settings, self.step)

    def advance(self, group: Group) -> float:
        """One step; gives the root of what it makes smaller, mostly a root mean square error."""
        loss = self.loss()
        self.update(self.parts["optimiser"], list(self.network.parameters()), loss, group, clip=1.0)
        return math.sqrt(float(loss.detach()))

    def averaged(self) -> nn.Module:
        """The network with the mean weights."""
        row, arguments = self.made
        network = networks.build(row.architecture, **arguments)
        network.load_state_dict(self.averaged_state())
        return network.eval().requires_grad_(False)


class _Against(_State):
    """A network in training, and the critics that it is trained against."""

    task: Adversarial

    def __init__(self, row: Row, settings: FamilySettings, people: list[Slices], arguments: dict):
        super().__init__(row, settings, people, arguments)
        self.critics, self.known = self.task.critics(), self.task.known(people)
        self.parts["critics"] = self.critics
        self.parts["critics' optimiser"] = torch.optim.Adam(
            self.critics.parameters(), betas=(0.5, 0.99)
        )

    def loss(self) -> Tensor:
        """Of the step that is being made."""
        return self.task.against(self.critics, self.make())

    def make(self) -> Made:
        """What the network makes in this step."""
        drawn = self.task.draw(self.people, self.settings, self.step)
        return self.task.make(self.network.train(), drawn, self.known)

    def advance(self, group: Group) -> float:
        """One step of the network, and one of its critics; as ``_State``."""
        made = self.make()
        loss = self.task.against(self.critics, made)
        self.update(self.parts["optimiser"], list(self.network.parameters()), loss, group, clip=1.0)
        told = self.task.criticised(self.critics, made)
        weights = list(self.critics.parameters())
        self.update(self.parts["critics' optimiser"], weights, told, group)
        return math.sqrt(float(loss.detach()))


def begin(row: Row, settings: FamilySettings, people: list[Slices], arguments: dict) -> _State:
    """A row's training before its first step.

    Args:
        row: What is trained.
        settings: Of the training.
        people: Everybody trained on.
        arguments: Of the architecture.
    """
    kind = _Against if isinstance(TASKS[row.recipe], Adversarial) else _State
    return kind(row, settings, people, arguments)


def read(
    name: str, folder: Path | str, settings: FamilySettings, progress: Progress
) -> list[Slices]:
    """Everybody's slices, or cubes, as a row takes them.

    Raises:
        ValueError: As ``read_slices``.
    """
    dimensions = TASKS[trained_row(name).recipe].dimensions
    return read_slices(folder, settings.size, settings.spacing_mm, progress, dimensions)


def train(
    name: str,
    cases: list[Slices],
    output: Path | str,
    settings: FamilySettings | None = None,
    hold_out: list[str] | None = None,
    checkpoint: Path | str | None = None,
    progress: Progress = Progress(),
    card: dict | None = None,
    arguments: dict | None = None,
) -> Path:
    """Train a family's network and write its model file.

    It goes on from the checkpoint if it is there.

    Args:
        name: Of the row.
        cases: Everybody's slices, of the settings' size.
        output: The model file.
        settings: See ``FamilySettings``; the row's if None.
        hold_out: People not trained on, whose figures stand in the card; the last fifth if None.
        checkpoint: Where the state is kept.
        progress: Receives progress; may raise ``Cancelled``.
        card: Fields of the model's card that the user chose, such as its name.
        arguments: Of the architecture; the row's if None.

    Raises:
        ValueError: The row has nothing to train, nobody to train on, or a checkpoint of another
            training.
    """
    row = trained_row(name)
    settings = settings or settings_for(name)
    settings = replace(settings, steps=settings.steps or row.steps)
    training, held_out = split_people(cases, hold_out)
    state = begin(row, settings, training, row.arguments if arguments is None else arguments)
    few = state.task.judged(held_out[:JUDGED_IN_TRAINING], settings)
    judge = (lambda: _mean_score(state.task, state.averaged(), few)) if few else None
    run(
        state,
        lambda: state.advance(Group()),
        ("error", f"{state.task.figure} of a person left out"),
        Group(),
        checkpoint,
        progress,
        judge,
    )
    network = state.averaged()
    progress.log("measuring the people left out, beside what needs no learning")
    judged = state.task.judged(held_out, settings)
    peers = state.task.peers_of(training, settings)
    made = make_card(row, state, figures(state.task, network, judged, peers))
    naming.save(output, network, made, card)
    return Path(output)


def run_analysis(
    volumes: dict[str, Volume], model_paths: dict[str, str], settings: dict, progress: Progress
) -> Result:
    """``train`` as a job; fact "file" is the model file.

    Args:
        volumes, model_paths: None are taken.
        settings: "name" of the row, "folder" with brain-extracted scans, "output" file, and
            optionally fields of ``FamilySettings``.
        progress: Receives progress; may raise ``Cancelled``.
    """
    name, folder, output = (settings[key] for key in ("name", "folder", "output"))
    chosen = {n: v for n, v in settings.items() if n not in ("name", "folder", "output")}
    made = settings_for(name, **chosen)
    cases = read(name, folder, made, progress)
    path = train(name, cases, output, made, progress=progress)
    return Result(facts={"complete": True, "file": str(path)})


def trained_row(name: str) -> Row:
    """A row that can be trained.

    Raises:
        ValueError: There is none of the name, or nothing to train.
    """
    row = rows.row(name)
    if not row.recipe:
        raise ValueError(f"{row.title} cannot be trained; these can: {', '.join(rows.trainable())}")
    return row


def _mean_score(task: Task, network: nn.Module, trials: dict[str, Trial]) -> float:
    found = [task.scores(task.made(network, one), one.image) for one in trials.values()]
    return float(np.mean(found))


def figures(
    task: Task,
    network: nn.Module,
    trials: dict[str, Trial],
    peers: dict[str, Callable[[Any], Tensor]],
) -> dict[str, dict[str, float]]:
    """Each person's mean ``task.figure``: of the network and of its peers."""
    found = {}
    for person, trial in trials.items():
        images = {name: peer(trial) for name, peer in peers.items()}
        images["network"] = task.made(network, trial)
        found[person] = {
            name: float(np.mean(task.scores(image, trial.image))) for name, image in images.items()
        }
    return found


def make_card(row: Row, state: _State, found: dict[str, dict[str, float]]) -> models.Card:
    """The card of a family's network."""
    settings, task = state.settings, state.task
    told: dict[str, Any] = {}
    for person, values in found.items():
        text = ", ".join(f"{value:.1f} by {name}" for name, value in values.items())
        told[f"{person}, held out, {task.figure}"] = text
    for name in next(iter(found.values()), {}):
        mean = float(np.mean([values[name] for values in found.values()]))
        told[f"held out, mean {task.figure}, {name}"] = round(mean, 2)
    settled: dict[str, Any] = {
        name: value if type(value) in (int, float, str) else str(value)
        for name, value in plain(settings).items()
        if name in task.uses or name not in SCANNER
    }
    return models.Card(
        name=row.title,
        version="1",
        architecture=row.architecture,
        arguments=dict(state.made[1]),
        inputs=task.inputs,
        outputs=task.outputs,
        dimensions=task.dimensions,
        orientation="LPS",
        spacing_mm=(settings.spacing_mm, settings.spacing_mm),
        size_multiple=state.network.size_multiple,
        trained_on=tuple(state.names),
        sources=SOURCES.format(task.simulated),
        licence="MIT",
        intended_use=INTENDED_USE.format(task.simulated),
        quality=told,
        training={**settled, "family": row.name, "left out": ", ".join(found) or "nobody"},
    )
