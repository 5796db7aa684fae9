"""What a user may choose when harmonizing; needs neither torch nor a model."""

from __future__ import annotations

from dataclasses import dataclass, fields

MODES = ("anatomy-safe", "seed", "no-flow")
RANGES = ("native", "target")


@dataclass(frozen=True)
class Settings:
    """How an MR volume is brought to the target scanner.

    ``mode``: "anatomy-safe" (a monotone tone curve and two smooth fields, nothing else can change), "seed" (eq. 3 of the
    MRFlow abstract: latents drawn to the middle of the target's distribution, held to the source by correlation and
    edges) or "no-flow" (the same without the flow, to see what the flow adds).
    ``strength``: 0 to 1, how much of a free-form refinement is added to the anatomy-safe result; its latents are drawn to
    the target's typical radius instead of the origin.
    ``iterations``: N. ``alpha``: share of the latents' length taken away per iteration. ``beta_edges``: beta 1, the step
    against gradients where the source has no edge; ``beta_similarity``: beta 2, the step towards the source's
    correlation; both in standard deviations of the image, so that they do not depend on its size or scale.
    ``orientations``: any of "axial", "coronal", "sagittal"; slices of each are refined and the volumes averaged.
    ``output_range``: "native" (the source's intensities and voxel type) or "target" (the target's, float32).
    ``baselines``: also try the classical methods and list them beside. ``force``: give the result of a refused volume
    too, flagged. ``seed``: of everything random (there is little). ``device``: "auto", "cpu", "cuda" or "mps".
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
    seed: int = 0
    device: str = "auto"

    def __post_init__(self):
        if isinstance(self.orientations, list):  # from JSON
            object.__setattr__(self, "orientations", tuple(self.orientations))
        unknown = set(self.orientations) - {"axial", "coronal", "sagittal"}
        if unknown or not self.orientations:
            raise ValueError("orientations must be among axial, coronal, sagittal, not "
                             f"{', '.join(map(str, sorted(unknown))) or 'empty'}")
        if self.mode not in MODES or self.output_range not in RANGES:
            raise ValueError(f"mode is one of {', '.join(MODES)}; output_range is one of {', '.join(RANGES)}")
        if not 0 <= self.strength <= 1 or not 0 <= self.alpha < 1:
            raise ValueError("strength lies between 0 and 1, alpha between 0 and 1 (1 excluded)")
        if self.iterations < 1 or min(self.beta_edges, self.beta_similarity) < 0:
            raise ValueError("iterations is at least 1, the betas at least 0")

    @classmethod
    def from_json(cls, settings: dict) -> Settings:
        unknown = set(settings) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}")
        return cls(**settings)
