"""What a user may choose when harmonizing; needs neither torch nor a model."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.settings import Checked, setting

MODES = ("anatomy-safe", "published", "no-flow")
FORMER_MODES = {"seed": "published"}
"""Names in settings, records and results that older versions saved."""
RANGES = ("native", "target")
ORIENTATIONS = ("axial", "coronal", "sagittal")


@dataclass(frozen=True)
class HarmonizeSettings(Checked):
    """How an MR volume is brought to the target scanner.

    ``mode``: "anatomy-safe" (a monotone tone curve and two smooth fields, nothing else can change),
    "published" (eq. 3 of the MRFlow abstract: latents drawn to the middle of the target's
    distribution, held to the source by correlation and edges) or "no-flow" (the same without the
    flow, to see what the flow adds). ``strength``: 0 to 1, how much of a free-form refinement is
    added to the anatomy-safe result; its latents are drawn to the target's typical radius instead
    of the origin. ``iterations``: N, of it. ``alpha``: share of the latents' length taken away per
    iteration. ``beta_edges``: beta 1, the step against gradients where the source has no edge;
    ``beta_similarity``: beta 2, the step towards the source's correlation; both in standard
    deviations of the image, so that they do not depend on its size or scale. ``orientations``: any
    of "axial", "coronal", "sagittal"; slices of each are refined and the volumes averaged.
    ``output_range``: "native" (the source's intensities and voxel type) or "target" (the target's,
    float32). ``baselines``: also try the classical methods and list them beside. ``force``: give
    the result of a refused volume too, flagged. ``device``: "auto", "cpu", "cuda" or "mps".
    ``find_brain``: where no mask is given and the image seems to show the whole head, find the
    brain by the target's mean brain. Nothing is random: the same input gives the same bits.

    Raises:
        ValueError: A value of another type or out of its range; names the setting.
    """

    mode: str = setting("anatomy-safe", choices=MODES, formerly=FORMER_MODES)
    strength: float = setting(0.0, at_least=0, at_most=1)
    iterations: int = setting(10, at_least=1)
    alpha: float = setting(0.01, at_least=0, below=1)
    beta_edges: float = setting(0.01, at_least=0)
    beta_similarity: float = setting(0.1, at_least=0)
    orientations: tuple[str, ...] = setting(ORIENTATIONS, choices=ORIENTATIONS, filled=True)
    output_range: str = setting("native", choices=RANGES)
    baselines: bool = False
    force: bool = False
    device: str = "auto"
    find_brain: bool = False


Settings = HarmonizeSettings
"""By this name scripts know it: ``from NetInversionLib.harmonize import Settings``."""
