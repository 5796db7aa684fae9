"""Settings of Ideal Input and their presets.

Free of torch, so that a panel can show them before torch is installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..core.settings import Checked, setting

START_TEXTS = {
    "patient": (
        "Patient's images",
        "The chosen images: finds the ideal input nearest to what was acquired.",
    ),
    "zeros": ("Zeros", "Empty images: what the network needs when nothing is given."),
    "noise": (
        "Noise",
        "Random images: what stays noise is what the network does not look at.",
    ),
}
"""Of each start, what the panel calls it, and what it is for."""
STARTS = tuple(START_TEXTS)
DIRECTIONS = ("best", "worst")
OPTIMISERS = ("annealed", "lbfgs", "published")
NOISE = 0.02
"""Standard deviation of the noisier inputs in table "validity", as a share of the network's input
range.
"""
BLUR_VOXELS = 1.0
"""Standard deviation of the blur there, and of the one that the input has to serve under."""
NEAR, BLURRED = 0.1, 1.0
"""Usual price of leaving the patient's images, and weight of the blurred input's error.

With these the error falls to about a tenth, at a change of two to three times the images' noise,
and more than half of that stays under a blur; at 0 and 0 it falls further, and little or nothing
stays.
"""
PRICES = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.01)
"""Of the curve "trade-off", as the setting ``near``, from dear to cheap."""
STEPS = 60
"""Of a search that goes on from what another found (``onward``), as the one at each price does."""


@dataclass(frozen=True)
class IdealInputSettings(Checked):
    """What to look for, from where, and how far.

    Images are in the network's normalised units (0 to 1).

    ``starts``: any of "patient", "zeros" and "noise" (uniform in [0, 1]); ``noise_seeds`` noise
    images from ``seed`` on. ``direction``: "best" (least error) or "worst" (greatest error; needs
    ``ball``). ``ball``: greatest root-mean-square distance from the patient's images, or None for
    no limit. ``near``: price of leaving the patient's images, for searches that start there: what
    is minimised rises by near / 1000 where the root-mean-square change over the region is one
    standard deviation of the images' own noise (or, where there is less, 1 % of the range), and
    with its square; 0 for none. ``blurred``: what the error of the input blurred by a voxel weighs
    beside its own; 0 looks for the least error at any price, and finds fine patterns that no
    scanner can show. Both None: 0.1 and 1 for the best input by the annealed search, else 0.
    ``trade_off``: also the curve "trade-off", how much of the gain needs how much change.
    ``optima``: how many more inputs that are as good are looked for, each from the best one with
    noise added, for the table "optima" and the images of what they share and where they differ.
    ``above``, ``below``: lambda 1 and 2, the price of values above 1 and below 0: at 10 all but a
    few voxels in ten thousand stay within [-0.05, 1.05], at 1 some 3 % leave it; ``mean``: every
    term of the objective is a mean over voxels (so that the lambdas do not depend on image size),
    else a sum. ``box``: keep all values within [0, 1] exactly, instead of by price. ``optimiser``:
    "annealed" (``optimise.descent``), "lbfgs" (batched, also what looks within a ball) or
    "published" (torch.optim.LBFGS as the source used it: learning rate 1, 20 inner iterations,
    ``max_evaluations`` ignored, 100 steps). ``max_evaluations``: network evaluations per image;
    ``history``: L-BFGS pairs kept. ``locked``: roles of input channels that stay the patient's.
    ``region``: (k0, k1, j0, j1, i0, i1), half-open voxel indices of the first input, or None for
    everything. The input changes and the error counts only inside; the network also sees
    ``context`` voxels around it, as acquired. ``device``: "auto", "cpu", "cuda" or "mps";
    ``memory_gb``: memory for the run, or None for 2 GB on a CPU and 70 % of what is free on a GPU.
    ``allow_cpu``: go on on the CPU when the GPU's memory does not suffice. ``validity``: also
    compute the tables "swap back" and "validity"; ``knobs``: also the table "acquirable".
    """

    starts: tuple[str, ...] = setting(("patient",), choices=STARTS, filled=True)
    noise_seeds: int = setting(1, at_least=1)
    seed: int = 0
    direction: str = setting("best", choices=DIRECTIONS)
    ball: float | None = setting(None, above=0)
    near: float | None = setting(None, at_least=0)
    blurred: float | None = setting(None, at_least=0)
    above: float = setting(10.0, at_least=0)
    below: float = setting(10.0, at_least=0)
    mean: bool = True
    box: bool = False
    optimiser: str = setting(
        "annealed",
        choices=OPTIMISERS,
        formerly={"batched": "lbfgs", "fixed-step": "published"},
    )
    max_evaluations: int = setting(200, at_least=1)
    history: int = 20
    locked: tuple[str, ...] = ()
    region: tuple[int, ...] | None = None
    context: int = setting(16, at_least=0)
    device: str = "auto"
    memory_gb: float | None = None
    allow_cpu: bool = True
    validity: bool = True
    knobs: bool = True
    trade_off: bool = False
    optima: int = setting(0, at_least=0)

    def chosen(self) -> IdealInputSettings:
        """The same, with ``near`` and ``blurred`` as numbers: what a record holds."""
        return replace(self, near=self.price, blurred=self.blurred_weight)

    @classmethod
    def in_todays_names(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of a record as they are now: where it names no ``near`` or ``blurred``, there
        was none when it was written.
        """
        told = super().in_todays_names(settings)
        return {**told, **{name: told.get(name) or 0.0 for name in ("near", "blurred")}}

    @property
    def price(self) -> float:
        """``near``, chosen."""
        return self._chosen(self.near, NEAR)

    @property
    def blurred_weight(self) -> float:
        """``blurred``, chosen."""
        return self._chosen(self.blurred, BLURRED)

    @property
    def passes(self) -> int:
        """Network evaluations that a step of the search takes."""
        return 2 if self.blurred_weight else 1

    def _chosen(self, given: float | None, usual: float) -> float:
        if given is not None:
            return given
        best = self.direction == "best" and self.ball is None
        return usual if best and self.mean and self.optimiser == "annealed" else 0.0

    def check(self) -> None:
        """Raise ValueError for bounds that exclude each other, or a search without an end."""
        if self.direction == "worst" and self.ball is None:
            raise ValueError(
                "the worst input needs a ball (greatest distance from the patient's images): "
                "without one the error has no upper limit"
            )
        if self.ball is not None and (set(self.starts) != {"patient"} or self.box):
            raise ValueError("a ball needs starts only at the patient, and excludes box bounds")
        if self.near and not self.mean:
            raise ValueError(
                "the price of leaving the patient's images needs mean errors, not sums"
            )
        if (self.near or self.blurred) and self.optimiser == "published":
            raise ValueError(
                "the published optimiser knows no price of leaving the patient's images, and no"
                " blur"
            )
        if self.optimiser == "published" and (self.box or self.ball is not None):
            raise ValueError(
                "the published optimiser has neither box bounds nor a ball: choose another"
            )


PRESETS: dict[str, dict[str, Any]] = {
    "near": {},
    "free": {"near": 0.0, "blurred": 0.0},
    "published": {
        "optimiser": "published",
        "mean": False,
        "above": 1.0,
        "below": 1.0,
        "starts": STARTS,
    },
}
"""Searches by name. "near", the usual one: near the patient's images, and the input serves blurred
too. "free": the least error at any price. "published" is that of the source: sums as printed,
fixed-step L-BFGS.
"""


Settings = IdealInputSettings
"""By this name scripts know it: ``from NetInversionLib.ideal_input import Settings``."""
