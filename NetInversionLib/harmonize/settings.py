"""What a user may choose when harmonizing; needs neither torch nor a model."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Integral, Real

MODES = ("anatomy-safe", "seed", "no-flow")
RANGES = ("native", "target")
# Whether a value fits a field's annotation, and what to say if it does not; True and False are no
# numbers here.
TYPES = {
    "str": (lambda value: isinstance(value, str), "text"),
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "int": (
        lambda value: isinstance(value, Integral) and not isinstance(value, bool),
        "a whole number",
    ),
    "float": (
        lambda value: (
            isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        ),
        "a finite number",
    ),
    "tuple[str, ...]": (
        lambda value: isinstance(value, tuple) and all(isinstance(v, str) for v in value),
        "a list of words",
    ),
}


@dataclass(frozen=True)
class Settings:
    """How an MR volume is brought to the target scanner.

    ``mode``: "anatomy-safe" (a monotone tone curve and two smooth fields, nothing else can change),
    "seed" (eq. 3 of the MRFlow abstract: latents drawn to the middle of the target's distribution,
    held to the source by correlation and edges) or "no-flow" (the same without the flow, to see
    what the flow adds). ``strength``: 0 to 1, how much of a free-form refinement is added to the
    anatomy-safe result; its latents are drawn to the target's typical radius instead of the origin.
    ``iterations``: N. ``alpha``: share of the latents' length taken away per iteration.
    ``beta_edges``: beta 1, the step against gradients where the source has no edge;
    ``beta_similarity``: beta 2, the step towards the source's correlation; both in standard
    deviations of the image, so that they do not depend on its size or scale. ``orientations``: any
    of "axial", "coronal", "sagittal"; slices of each are refined and the volumes averaged.
    ``output_range``: "native" (the source's intensities and voxel type) or "target" (the target's,
    float32). ``baselines``: also try the classical methods and list them beside. ``force``: give
    the result of a refused volume too, flagged. ``device``: "auto", "cpu", "cuda" or "mps". Nothing
    is random: the same input gives the same bits.

    Raises:
        ValueError: A value of another type or out of its range; names the setting.
    """

    mode: str = "anatomy-safe"
    strength: float = 0.0
    iterations: int = 10
    alpha: float = 0.01
    beta_edges: float = 0.01
    beta_similarity: float = 0.1
    orientations: tuple[str, ...] = ("axial", "coronal", "sagittal")
    output_range: str = "native"
    baselines: bool = False
    force: bool = False
    device: str = "auto"

    def __post_init__(self):
        if isinstance(self.orientations, list):  # from JSON
            object.__setattr__(self, "orientations", tuple(self.orientations))
        for field in fields(self):
            fits, words = TYPES[field.type]
            value = getattr(self, field.name)
            if not fits(value):
                raise ValueError(f"{field.name} must be {words}, not {value!r}")
        unknown = set(self.orientations) - {"axial", "coronal", "sagittal"}
        if unknown or not self.orientations:
            raise ValueError(
                "orientations must be among axial, coronal, sagittal, not "
                f"{', '.join(map(str, sorted(unknown))) or 'empty'}"
            )
        if self.mode not in MODES or self.output_range not in RANGES:
            raise ValueError(
                f"mode is one of {', '.join(MODES)}; output_range is one of {', '.join(RANGES)}"
            )
        if not 0 <= self.strength <= 1 or not 0 <= self.alpha < 1:
            raise ValueError("strength lies between 0 and 1, alpha between 0 and 1 (1 excluded)")
        if self.iterations < 1 or min(self.beta_edges, self.beta_similarity) < 0:
            raise ValueError("iterations is at least 1, the betas at least 0")

    @classmethod
    def from_json(cls, settings: dict) -> Settings:
        """From JSON's values. Raises ValueError also for what is no object, or names no setting."""
        if not isinstance(settings, dict):
            raise ValueError(
                f'settings must be a JSON object, such as {{"mode": "seed"}}, not {settings!r}'
            )
        unknown = set(settings) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}")
        return cls(**settings)
