"""Invariances of a network of the user's own, in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .. import models as model_files
from ..core.progress import Progress
from ..core.results import Result
from ..core.volumes import Volume
from .run import invariances
from .settings import InvariancesSettings

if TYPE_CHECKING:
    from torch import nn


def of_network(
    ct: Volume,
    network: nn.Module | Callable[..., Any],
    description: model_files.Description | dict | None = None,
    settings: InvariancesSettings = InvariancesSettings(),
    progress: Progress = Progress(),
) -> Result:
    """``invariances`` of any differentiable CT denoiser.

    Args:
        ct: HU, [k, j, i], any orientation.
        network: Of tensors (N, C, *space), its output as large as its input.
        description: See ``models.adopt_denoiser``; what is left out is probed and said.
        settings: See ``InvariancesSettings``.
        progress: Receives progress and what was found; may raise ``Cancelled``.

    Returns:
        See ``invariances``.

    Raises:
        ValueError: The network or the CT cannot be used; says what to do.
    """
    model = model_files.adopt_denoiser(network, description, ct, log=progress.log)
    return invariances({"low_dose": ct}, {"denoiser": model}, settings, progress)
