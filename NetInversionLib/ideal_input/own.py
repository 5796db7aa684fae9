"""Ideal input of a network of the user's own, in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .. import models as model_files
from ..core.progress import Progress
from ..core.results import Result
from ..core.volumes import Volume
from .run import ideal_input
from .settings import IdealInputSettings

if TYPE_CHECKING:
    from torch import nn


def of_network(
    inputs: list[Volume],
    targets: list[Volume],
    network: nn.Module | Callable[..., Any],
    description: model_files.Description | dict | None = None,
    settings: IdealInputSettings = IdealInputSettings(),
    progress: Progress = Progress(),
) -> Result:
    """``ideal_input`` of any differentiable image network.

    Args:
        inputs: The patient's images [k, j, i], in the network's order.
        targets: What it should give, likewise.
        network: Of tensors (N, C, *space) to (N, D, *space), or of one tensor an image.
        description: See ``models.adopt``; what is left out is probed and said.
        settings: See ``IdealInputSettings``.
        progress: Receives progress and what was found; may raise ``Cancelled``.

    Returns:
        See ``ideal_input``.

    Raises:
        ValueError: The network or an image cannot be used; says what to do.
    """
    model = model_files.adopt(network, description, inputs, targets, log=progress.log)
    channels = (*model.card.inputs, *model.card.outputs)
    volumes = {c.role: volume for c, volume in zip(channels, (*inputs, *targets))}
    return ideal_input(volumes, {"network": model}, settings, progress)
