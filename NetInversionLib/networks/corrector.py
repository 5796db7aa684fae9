"""What the corrector knows of one target scanner.

It knows where in the head which intensities lie, and how people differ.

It is a probabilistic model in closed form rather than a stack of layers: measured beside small
convolutional networks, it harmonized better by 2 to 4 dB, after minutes of training instead of
hours. ``NetInversionLib.harmonize.estimate`` reads it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from .registry import register

# The template space: RAS mm, its origin in the middle of the grid; all of it is fixed, so that
# files stay comparable.
VOXEL_MM = 2.0
GRID = (72, 96, 72)  # voxels along k, j, i
TEMPLATE_STEP = 2  # the template image, by which scans are aligned, has every second voxel
CELL = 6  # voxels along a side of a cell: 12 mm
CELLS = tuple(n // CELL for n in GRID)
CONTROL = tuple(
    n // 2 for n in CELLS
)  # blocks of 2 x 2 x 2 cells, and control points of the fields in their middles
BINS = 40  # of a cell's histogram, 0 to 1.3
LEVELS = tuple(np.linspace(0.03, 0.97, 17).tolist())  # fractions at which local quantiles are taken
MATCHED = 257  # quantiles of the first, global match
TONE_LEVELS = (
    0.002,
    0.005,
    0.01,
    0.02,
    *np.linspace(0.04, 0.96, 47).tolist(),
    0.98,
    0.99,
    0.995,
    0.998,
)

# Refused beyond these, so that a hostile model file cannot ask for all the memory there is.
MAX_BLOCKS = CONTROL[0] * CONTROL[1] * CONTROL[2]
MAX_RANK = 512


@register("corrector")
class Corrector(nn.Module):
    """Statistics of a target scanner's people, aligned; nothing in it is learnt by gradients.

    Args:
        blocks: Blocks of the template space that hold tissue in most people.
        rank: Directions in which people differ together.
        components: Patterns of which random smooth fields are made up.

    Buffers: template: (36, 48, 36) mean image of the aligned people, smoothed. matched: (257,) mean
        quantiles at even fractions, inside the mask. prior: (40, 12, 16, 12) histogram that a cell
        is taken to have before it is looked at; sums to a few voxels. used: (6, 8, 6) 1 for the
        blocks below. expected: (17, blocks) mean local quantiles. deviations: (rank, 17 blocks)
        directions and sizes of people's joint deviations from them. variance: (17 blocks,) what the
        deviations leave. patterns_m, patterns_a: (288, components) control values of log m and a,
        in order of their standard deviation. tone: (55,) mean quantiles at ``TONE_LEVELS`` of all
        voxels inside the mask, on the scans' own grids. tone_deviations: (55, 55) their covariance
        between people. whole: (257,) mean quantiles at even fractions of the same voxels.

    Raises:
        ValueError: Sizes out of range.
    """

    dimensions = 3

    def __init__(self, blocks: int = MAX_BLOCKS, rank: int = 60, components: int = 40):
        super().__init__()
        limits = (
            ("blocks", blocks, MAX_BLOCKS),
            ("rank", rank, MAX_RANK),
            ("components", components, MAX_BLOCKS),
        )
        for name, value, most in limits:
            if type(value) is not int or not 1 <= value <= most:
                raise ValueError(f"{name} must be a whole number from 1 to {most}, not {value!r}")
        local = len(LEVELS) * blocks
        shapes = {
            "template": tuple(n // TEMPLATE_STEP for n in GRID),
            "matched": (MATCHED,),
            "prior": (BINS, *CELLS),
            "used": CONTROL,
            "expected": (len(LEVELS), blocks),
            "deviations": (rank, local),
            "variance": (local,),
            "patterns_m": (MAX_BLOCKS, components),
            "patterns_a": (MAX_BLOCKS, components),
            "tone": (len(TONE_LEVELS),),
            "tone_deviations": (len(TONE_LEVELS),) * 2,
            "whole": (MATCHED,),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))
        self.arguments = {"blocks": blocks, "rank": rank, "components": components}
