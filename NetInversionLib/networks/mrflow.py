"""All that harmonization knows of one target scanner.

It holds the flow, the estimator of corrections, and figures of its people.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .flow import ConditionalFlow
from .registry import register

# Refused beyond it, so that a hostile model file cannot ask for all the memory there is.
MAX_FIGURES = 10_000_000


@register("mrflow")
class MRFlow(nn.Module):
    """A conditional flow over slices, a 3-D corrector, and statistics as buffers by name.

    The corrector may be left out.

    Args:
        flow: Arguments of ``ConditionalFlow``.
        corrector: Arguments of ``networks.corrector.Corrector``, or None.
        statistics: Name to shape; ``statistic(name)`` gives the tensor. ``mrflow.py`` says which
            there are.

    Raises:
        ValueError: Arguments out of range, names that are no names, or more than ten million
            figures.
    """

    dimensions = 2
    in_channels = out_channels = 1

    def __init__(self, flow: dict, corrector: dict | None = None, statistics: dict | None = None):
        super().__init__()
        self.flow = ConditionalFlow(**flow)
        self.corrector = _corrector(corrector) if corrector is not None else None
        self.statistics = nn.Module()
        for name, shape in _checked(statistics or {}).items():
            self.statistics.register_buffer(name, torch.zeros(shape))

    def statistic(self, name: str) -> Tensor | None:
        """A stored figure, float32, of the shape that the file gives.

        None where it has none of this name.
        """
        return dict(self.statistics.named_buffers()).get(name)

    def needed(self, name: str) -> Tensor:
        """A stored figure without which nothing can be harmonized, of the shape that it was given.

        Raises:
            ValueError: The file has none of this name.
        """
        found = self.statistic(name)
        if found is None:
            raise ValueError(f"the model file says nothing of its target's {name!r}")
        return found

    def forward(self, image: Tensor) -> Tensor:
        """Scaled slices to latents and back by the whole flow: the same slices.

        Of shape (N, 1, H, W), under an empty condition.
        """
        height, width = image.shape[2:]
        padding = [p for n in (width, height) for p in (0, -n % self.flow.size_multiple)]
        image = F.pad(image, padding, mode="replicate")
        condition = torch.zeros_like(image)
        z, _ = self.flow(image, condition)
        return self.flow.inverse(z, condition)[..., :height, :width]


def _corrector(arguments: dict) -> nn.Module:
    from .corrector import Corrector

    return Corrector(**arguments)


def _checked(statistics: dict) -> dict[str, list[int]]:
    if not isinstance(statistics, dict):
        raise ValueError(f"statistics must map names to shapes, not {statistics!r}")
    for name, shape in statistics.items():
        if not name.isidentifier() or hasattr(nn.Module(), name) or len(name) > 100:
            raise ValueError(f"a statistic cannot be called {name!r}")
        if not isinstance(shape, (list, tuple)) or any(type(n) is not int or n < 0 for n in shape):
            raise ValueError(f"the shape of {name} must list whole numbers, not {shape!r}")
    if sum(math.prod(shape) for shape in statistics.values()) > MAX_FIGURES:
        raise ValueError(f"more than {MAX_FIGURES} figures of statistics")
    return statistics
