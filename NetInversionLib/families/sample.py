"""What a scanner would have given of somebody's brain: a sample for the example of each family."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage

from .. import models
from ..core.progress import Progress
from ..core.results import Result
from ..core.volumes import Volume
from . import rows
from .settings import FamilySettings
from .slices import JUDGED_SHARES, SLICE_STEP_MM, Slices, cube_of, slices_of
from .tasks import Task
from .training import TASKS, settings_for

BENT_VOXELS = 2.0
"""Standard deviation of the displacements that make a second head of one."""
BENT_SMOOTH = 10.0
"""Voxels over which these displacements are alike."""


def run_analysis(
    volumes: dict[str, Volume], model_paths: dict[str, str], settings: dict, progress: Progress
) -> Result:
    """``sample_for`` as a job; the result's volumes go by the roles of the network's channels.

    Args:
        volumes: "brain", and optionally "other": brain-extracted MR images [k, j, i] of two people.
        model_paths: "network", a family's model file.
        settings: None are taken.
        progress: Receives progress.
    """
    card = models.read_card(model_paths["network"])
    progress.report(0.0, "Simulating what the scanner gives")
    made = sample_for(card, volumes["brain"], volumes.get("other"))
    facts = {"complete": True, "family": card.family, "held": list(task_of(card).held)}
    return Result(volumes=dict(made), facts=facts)


def sample_for(card: models.Card, brain: Volume, other: Volume | None = None) -> dict[str, Volume]:
    """Volumes by the roles of a family's network, targets included.

    Args:
        card: Of the network.
        brain: A brain-extracted MR image [k, j, i], 0 outside; best of somebody not trained on.
        other: Another person's, for networks that take two; without one the first is bent.

    Returns:
        Four axial slices each, or a cube, in the units of the card.

    Raises:
        ValueError: The network is of no family, or the brain has no voxel above 0.
    """
    task, settings = task_of(card), settings_of(card)
    take = cube_of if task.dimensions == 3 else slices_of
    first = take(brain, "first", settings.size, settings.spacing_mm)
    second = _bent(first)
    if other is not None:
        second = take(other, "second", settings.size, settings.spacing_mm)
    trial = task.judged([first, second], settings)["first"]
    share = float(JUDGED_SHARES[1] - JUDGED_SHARES[0])
    step_mm = max(1, round(share * (len(first.images) - 1))) * SLICE_STEP_MM
    return task.volumes(trial, card.spacing_mm[0], step_mm)


def task_of(card: models.Card) -> Task:
    """What a family's network is asked.

    Raises:
        ValueError: The network is of no family.
    """
    if not card.family:
        raise ValueError(f"{card.name} is not an example of a network family")
    return TASKS[rows.row(card.family).recipe]


def settings_of(card: models.Card) -> FamilySettings:
    """How the images are simulated that a network is for, as its training says."""
    told: dict[str, Any] = {"size": 0, "spacing_mm": 0, **dict.fromkeys(task_of(card).uses)}
    return settings_for(card.family, **{name: card.training[name] for name in told})


def _bent(one: Slices) -> Slices:
    """Another head: the same, mirrored and smoothly displaced."""
    rng = np.random.default_rng(0)
    shape = one.images.shape[1:]
    moves = np.stack([ndimage.gaussian_filter(rng.normal(size=shape), BENT_SMOOTH) for _ in "yx"])
    places = np.indices(shape) + BENT_VOXELS * moves / moves.std()
    bent = [
        ndimage.map_coordinates(image[:, ::-1], places, order=1, mode="nearest")
        for image in one.images
    ]
    return Slices("second", np.stack(bent).astype(np.float32))
