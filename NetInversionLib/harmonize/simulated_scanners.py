"""Scanners that nobody has, simulated on scans of a known one.

They are tone curves and smooth fields, so that the truth is at hand.

A domain is a chain of steps, written as text ("gamma 0.75 + field 0.25 seed 3"), a list of them
with commas. ``STANDARD`` are the seven families that harmonization is measured on: four tone
curves, which a histogram can undo, and three with smooth fields, which it cannot. The curves
"sigmoid" and "clip" and the fields by name ("coil", "exponential", "polynomial", see ``shading``)
are no part of what any model was trained on. Source of the idea: MRFlow's and BlindHarmony's
retrospective experiments.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage, special

from ..core import volumes
from ..core.volumes import Volume
from . import scan as harmonize_scan
from . import shading

STANDARD = (
    "gamma 0.7, gamma 1.5, log 3, exp 1.5, field 0.3 seed 1, offset 0.15 seed 2, "
    "gamma 0.75 + field 0.25 seed 3"
)
SAMPLE = "gamma 0.75 + field 0.25 seed 3"
FIELD_POINTS = (3, 4, 4)  # along k, j, i
DEFAULT_SEEDS = {"field": 1, "offset": 2, **dict.fromkeys(shading.GENERATORS, 1)}
CURVES = ("gamma", "log", "exp", "sigmoid", "clip")
GREYS = 255
WHAT_TO_WRITE = (
    "write steps such as 'gamma 0.7', 'log 3', 'exp 1.5', 'sigmoid 6', 'clip 0.9', 'field 0.3 seed"
    " 1', 'offset 0.15 seed 2', 'coil 0.3 seed 3' or 'none', joined by + within a domain and by"
    " commas between domains"
)


class DomainError(ValueError):
    """A list of domains that cannot be read; the message says what to write."""


@dataclass(frozen=True)
class Step:
    """One change of scaled intensities x.

    Attributes:
        kind: "gamma" (x ** amount), "log" (log(1 + amount x)), "exp" (exp(amount x) - 1), "sigmoid"
            (the logistic function of amount (x - 1/2), 0 at 0), "clip" (8 bit, white from amount
            on), "field" and the names of ``shading.GENERATORS`` (x (1 + amount s)) or "offset"
            (x + amount s), s a smooth field of largest magnitude 1 (among tissue, if by name).
        amount: A positive number; below 1 for a field.
        seed: Of the field.
    """

    kind: str
    amount: float
    seed: int = 0

    def apply(self, image: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
        """The change of a scaled image, [k, j, i], float32; not scaled again, air (0) stays air.

        ``spacing_mm``: (i, j, k), of the fields that lie in space.
        """
        amount = np.float32(self.amount)
        if self.kind == "gamma":
            return image**amount
        if self.kind == "log":
            return np.log1p(amount * image)
        if self.kind == "exp":
            return np.expm1(amount * image)
        if self.kind == "sigmoid":
            return special.expit(amount * (image - 0.5)) - special.expit(-amount / 2)
        if self.kind == "clip":
            return np.rint(np.minimum(image / amount, 1) * GREYS).astype(np.float32) / GREYS
        if self.kind in shading.GENERATORS:
            random = np.random.default_rng(self.seed)
            field = shading.drawn(self.kind, image.shape, spacing_mm, random)
            field = shading.within(field, image > 0)
            return image * (1 + amount * field.astype(np.float32))
        field = smooth_field(image.shape, self.seed) * amount
        return image * (1 + field) if self.kind == "field" else image + field


@dataclass(frozen=True)
class Domain:
    """A simulated scanner: ``domain(scan)`` is what it would have shown of the same person."""

    steps: tuple[Step, ...]

    @property
    def name(self) -> str:
        """The text that ``parse`` reads it from."""
        return (
            " + ".join(
                f"{s.kind} {s.amount:g}" + f" seed {s.seed}" * (s.kind in DEFAULT_SEEDS)
                for s in self.steps
            )
            or "none"
        )

    @property
    def spatial(self) -> bool:
        """Whether the change differs from place to place."""
        return any(step.kind in DEFAULT_SEEDS for step in self.steps)

    def __call__(self, scan: harmonize_scan.Scan) -> harmonize_scan.Scan:
        """The scan as the domain shows it: same grid and mask, scaled anew.

        Its scale is the 99.5th percentile inside the mask.

        Raises:
            mr.ScanError: Nothing positive is left inside the mask.
        """
        if not self.steps:
            return scan
        image = scan.image
        tissue = scan.mask | (image > 0)
        for step in self.steps:
            image = np.maximum(step.apply(image, scan.volume.spacing_mm), 0) * tissue
        return scan.with_image(harmonize_scan.rescaled(image, scan.mask))


UNCHANGED = Domain(())


def parse(text: str = STANDARD) -> list[Domain]:
    """Read a list of domains, such as "gamma 0.7, field 0.3, log 3 + offset 0.1 seed 5, none".

    A field without a seed takes 1 where it multiplies and 2 where it adds.

    Raises:
        DomainError: Something in it is no step.
    """
    return [
        Domain(
            tuple(_step(one.split(), chain) for one in chain.split("+") if one.strip() != "none")
        )
        for chain in text.split(",")
    ]


def _step(words: list[str], chain: str) -> Step:
    try:
        kind, amount, *seed = words
        step = Step(kind, float(amount), int(seed[1]) if seed else DEFAULT_SEEDS.get(kind, 0))
        good = 0 < step.amount < np.inf and step.seed >= 0
        if kind in DEFAULT_SEEDS:
            good &= step.amount < 1 and seed[:1] in ([], ["seed"]) and len(seed) in (0, 2)
        else:
            good &= kind in CURVES and not seed
    except (ValueError, IndexError):
        good = False
    if not good:
        raise DomainError(
            f"'{chain.strip()}' is no simulated domain: {WHAT_TO_WRITE}; a field's or offset's"
            " amount is below 1"
        )
    return step


def smooth_field(
    shape: tuple[int, int, int], seed: int, points: tuple[int, int, int] = FIELD_POINTS
) -> np.ndarray:
    """A random smooth field, float32 [k, j, i], whose largest magnitude is 1.

    ``points`` values uniform in [-1, 1] (NumPy's default_rng(seed)), enlarged to ``shape`` by cubic
    splines, the outer values on the outer voxels, as ``scipy.ndimage.zoom`` does.
    """
    field = enlarge(np.random.default_rng(seed).uniform(-1, 1, points), shape)
    return field / np.abs(field).max()


def enlarge(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """``scipy.ndimage.zoom(values, order=3)`` to ``shape``, float32, axis by axis.

    Seconds less on a whole volume.
    """
    for axis, size in enumerate(shape):
        # A spline is linear in its values: what it makes of unit vectors is the matrix of the axis.
        matrix = ndimage.zoom(np.eye(values.shape[axis]), (size / values.shape[axis], 1), order=3)
        values = np.moveaxis(
            np.tensordot(matrix.astype(np.float32), values.astype(np.float32), (1, axis)), 0, axis
        )
    return np.ascontiguousarray(values)


def sample(brain: Volume, domain: str = SAMPLE, brightest: float = 1000.0) -> Volume:
    """A brain-extracted volume as another scanner might have shown it.

    Args:
        brain: [k, j, i], 0 outside the brain.
        domain: See ``parse``.
        brightest: What its 99.5th percentile inside the brain becomes.

    Returns:
        [k, j, i] int16 on the same grid.
    """
    changed = parse(domain)[0](harmonize_scan.prepare(brain))
    array = np.rint(changed.image * np.float32(brightest)).astype(np.int16)
    name = f"{brain.name} (simulated scanner)"
    return volumes.reorient_like(replace(changed.volume, array=array, name=name, units=""), brain)
