"""How an image lies in the template of the target scanner's people."""

from __future__ import annotations

from itertools import permutations, product
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from .gate_figures import FOLDS_MM, SHADES_MM

if TYPE_CHECKING:
    from .gate_figures import Look


TEMPLATE_MM, TEMPLATE_SHAPE = 4.0, (42, 52, 42)
BINS = 16
ROUNDS, FIRST_STEPS, STEPS, SEARCH_STEPS = 3, 12, 8, 8
# Of the search among turns: every so many template points; each turn is given so many steps, and so
# many of the turns all of them.
SEARCH_EVERY, BRIEF_STEPS, LIKELY = 3, 3, 4


def anatomy(placed: np.ndarray, template: Template) -> dict[str, float]:
    """Likeness to the template, order of tissues and asymmetry of a scan.

    Args:
        placed: Flat image and mask on the template's grid, of shape (2, 42, 52, 42).
        template: The target's mean.

    Returns:
        Figures by name, no unit.
    """
    flat = placed[0]
    dark, grey, white = template.tissues
    return {
        "likeness": likeness(flat, template),
        "grey over fluid": float(flat[grey].mean() - flat[dark].mean()),
        "white over grey": float(flat[white].mean() - flat[grey].mean()),
        "asymmetry": _handedness(asymmetry(flat), template),
    }


def likeness(flat: np.ndarray, template: Template) -> float:
    """Correlation ratio: the share of the image's variance that the template's value explains.

    Args:
        flat: A flat image on the template's grid, [k, j, i].
        template: Of the target's people.

    Returns:
        0 to 1, for the best function of the template's value.
    """
    values = flat[template.inside].astype(np.float64)
    residual = values - _by_bin(values, template.bins[template.inside])
    return float(1 - np.mean(residual**2) / values.var()) if values.var() > 1e-9 else 0.0


def asymmetry(flat: np.ndarray) -> np.ndarray:
    """A flat image minus its mirror image, without what is finer than 4 mm or coarser than 8 mm.

    Finer folds differ between people; coarser shades are where remains of a field would be taken
    for anatomy.

    Args:
        flat: On the template's grid, [k, j, i].
    """
    difference = flat - flat[:, :, ::-1]
    fine, coarse = (
        ndimage.gaussian_filter(difference, mm / TEMPLATE_MM) for mm in (FOLDS_MM, SHADES_MM)
    )
    return (fine - coarse).astype(np.float32)


def _handedness(found: np.ndarray, template: Template) -> float:
    """How much there is of the people's mean asymmetry.

    It is 1 for their mean, -1 for its mirror image, 0 for a symmetric brain.
    """
    return float((found.astype(np.float64) * template.asymmetry)[template.inside].sum())


# Alignment ----------------------------------------------------------------------------------------

# Rotations by multiples of 90 degrees, the first three being none, front to back and upside down
# (with left and right exchanged, which hardly matters to the fit of a brain, as a mirror image
# would have it).
_SIGNED = [
    np.eye(3)[:, list(axes)] * signs
    for axes in permutations(range(3))
    for signs in product((1.0, -1.0), repeat=3)
]
_FIRST = [np.eye(3), np.diag([-1.0, -1.0, 1.0]), np.diag([-1.0, 1.0, -1.0])]
TURNS = _FIRST + [
    m for m in _SIGNED if np.linalg.det(m) > 0 and not any(np.array_equal(m, f) for f in _FIRST)
]


class Template:
    """The target's mean on the 4 mm grid, and where its tissues are.

    ``flat`` and ``mask`` are (42, 52, 42); ``asymmetry`` has the weights of the same shape that
    tell a scan from its mirror image.

    Scans are aligned to the mean of it and its mirror image, ``even_flat`` and ``even_mask``: a
    scan and its mirror image are then placed alike, and which of them is the right one shows
    fairly.
    """

    def __init__(self, flat: np.ndarray, mask: np.ndarray, asymmetry: np.ndarray | None = None):
        self.flat, self.mask = (np.asarray(a, np.float64) for a in (flat, mask))
        self.asymmetry = np.zeros(TEMPLATE_SHAPE) if asymmetry is None else asymmetry
        self.even_flat, self.even_mask = ((a + a[:, :, ::-1]) / 2 for a in (self.flat, self.mask))
        self.inside = self.even_mask > 0.5
        if not self.inside.any():  # people that hardly overlap; no limit will be met
            self.inside = self.even_mask >= self.even_mask.max()
        parts = np.linspace(0, 1, BINS + 1)[1:-1]
        self.bins, self.even_bins = (
            np.searchsorted(np.quantile(a[self.inside], parts), a)
            for a in (self.flat, self.even_flat)
        )
        core = self.mask > 0.9 if (self.mask > 0.9).any() else self.inside
        dark, low, high, bright = np.quantile(self.flat[core], [0.08, 0.3, 0.55, 0.75])
        self.tissues = (
            core & (self.flat <= dark),
            core & (self.flat >= low) & (self.flat <= high),
            core & (self.flat >= bright),
        )

    @staticmethod
    def of(statistics: dict[str, np.ndarray]) -> Template:
        return Template(
            statistics["gate_template"], statistics["gate_mask"], statistics["gate_asymmetry"]
        )


class Moving:
    """A look made ready for alignment: flat image and mask smoothed by 2 mm, with their slopes."""

    def __init__(self, seen: Look):
        self.inverse = np.linalg.inv(seen.matrix)
        self.channels = [
            ndimage.gaussian_filter(np.asarray(c, np.float32), 1.0, mode="constant")
            for c in (seen.flat, seen.mask)
        ]
        # Padded, so that masks which touch the border have slopes there too, and a volume of one
        # slice has any.
        self.slopes = [
            [s[1:-1, 1:-1, 1:-1] for s in np.gradient(np.pad(c, 1))] for c in self.channels
        ]
        k, j, i = (axis.mean() for axis in np.nonzero(seen.mask))
        self.centre = (seen.matrix @ [i, j, k, 1])[:3]

    def start(self, turn: np.ndarray = np.eye(3)) -> np.ndarray:
        """Template points to the scan's RAS mm, centre on centre.

        Args:
            turn: 3x3 rotation of the scan.

        Returns:
            Affine map of shape (3, 4).
        """
        return np.c_[turn, self.centre]

    def _indices(self, places: np.ndarray) -> np.ndarray:
        return (self.inverse[:3, :3] @ places + self.inverse[:3, 3:])[::-1]

    def values(self, places: np.ndarray) -> np.ndarray:
        """Flat image and mask at RAS places, 0 outside.

        Args:
            places: RAS mm, shape (3, N).

        Returns:
            Shape (2, N).
        """
        kji = self._indices(places)
        return np.stack([ndimage.map_coordinates(c, kji, order=1) for c in self.channels]).astype(
            np.float64
        )

    def gradients(self, places: np.ndarray) -> np.ndarray:
        """Gradients of flat image and mask, per RAS mm.

        Args:
            places: RAS mm, shape (3, N).

        Returns:
            Shape (2, 3, N).
        """
        kji = self._indices(places)
        along = np.stack(
            [
                [ndimage.map_coordinates(s, kji, order=1) for s in slopes[::-1]]
                for slopes in self.slopes
            ]
        )
        return np.einsum("cin,ij->cjn", along.astype(np.float64), self.inverse[:3, :3])

    def on_template(self, affine: np.ndarray) -> np.ndarray:
        """Flat image and mask on the template's grid.

        Args:
            affine: Template points to RAS mm, shape (3, 4).

        Returns:
            Shape (2, 42, 52, 42).
        """
        return self.values(affine @ _points()).reshape(2, *TEMPLATE_SHAPE)


def _points(every: int = 1) -> np.ndarray:
    """The template's voxels as (x, y, z, 1), mm around its centre, (4, N)."""
    k, j, i = np.meshgrid(*(np.arange(0, n, every) for n in TEMPLATE_SHAPE), indexing="ij")
    centre = (np.array(TEMPLATE_SHAPE[::-1])[:, None] - 1) / 2
    places = TEMPLATE_MM * (np.stack([i.ravel(), j.ravel(), k.ravel()]) - centre)
    return np.vstack([places, np.ones(places.shape[1])])


def place(moving: Moving, template: Template) -> np.ndarray:
    """The best affine map from the header's placement, on every other template point first.

    Returns:
        Of shape (3, 4), see ``fit_affine``.
    """
    coarse, _ = fit_affine(moving, template, moving.start(), 2, FIRST_STEPS)
    return fit_affine(moving, template, coarse)[0]


def fit_affine(
    moving: Moving,
    template: Template,
    start: np.ndarray,
    every: int = 1,
    steps: int = STEPS,
    image_weight: float = 0.3,
) -> tuple[np.ndarray, float]:
    """The affine map from template points to the scan that fits best.

    Gauss-Newton on two residuals: mask minus mask near the template, and, inside it, the image
    minus its mean over the places of like template value (so that any contrast fits as well).
    Nothing random: the same scan gives the same map. The corrector's alignment (``brain.register``)
    will not do here: it needs a scan of the people's contrast, which the gate is to find out.

    Args:
        moving: The scan.
        template: The target's mean.
        start: Where it begins, of shape (3, 4).
        every: Take every n-th template point along each axis.
        steps: Of Gauss-Newton, at most.
        image_weight: Of the image's residual beside the mask's.

    Returns:
        The map of shape (3, 4) from template points to RAS mm, and its cost.
    """
    thin = (slice(None, None, every),) * 3
    near = ndimage.binary_dilation(template.even_mask[thin] > 0.05, iterations=2).ravel()
    points = _points(every)[:, near]
    inside, expected_mask, bins = (
        a[thin].ravel()[near] for a in (template.inside, template.even_mask, template.even_bins)
    )
    affine, best = start, (start, np.inf)
    for _ in range(steps):
        image, mask = moving.values(affine @ points)
        missing = image_weight * (_by_bin(image[inside], bins[inside]) - image[inside])
        residual = np.concatenate([expected_mask - mask, missing])
        cost, before = float(np.mean(residual**2)), best[1]
        if cost < before:
            best = (affine, cost)
        if before - cost < 1e-3 * cost and before < np.inf and cost <= before:
            break
        of_image, of_mask = moving.gradients(affine @ points)
        jacobian = np.concatenate(
            [
                (slope[:, None] * at[None]).reshape(12, -1)
                for slope, at in (
                    (of_mask, points),
                    (image_weight * of_image[:, inside], points[:, inside]),
                )
            ],
            axis=1,
        )
        normal = jacobian @ jacobian.T
        normal += np.diag(1e-3 * np.diag(normal) + 1e-9)
        affine = affine + np.linalg.solve(normal, jacobian @ residual).reshape(3, 4)
    return best


def best_turn(moving: Moving, template: Template) -> tuple[int, np.ndarray]:
    """In which of the ``TURNS`` a scan fits the template best.

    All are tried briefly, and the likeliest of them to the end.

    Returns:
        The turn's number, and the affine map of shape (3, 4), see ``fit_affine``.
    """

    def fitted(start: np.ndarray, steps: int) -> tuple[np.ndarray, float]:
        return fit_affine(moving, template, start, SEARCH_EVERY, steps)

    brief = [fitted(moving.start(turn), BRIEF_STEPS) for turn in TURNS]
    likely = sorted(range(len(TURNS)), key=lambda turn: brief[turn][1])[:LIKELY]
    whole = {turn: fitted(brief[turn][0], SEARCH_STEPS - BRIEF_STEPS) for turn in likely}
    best = min(likely, key=lambda turn: whole[turn][1])
    return best, whole[best][0]


def _by_bin(values: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """The mean of the values of the same bin, at each value."""
    count = np.maximum(np.bincount(bins, minlength=BINS), 1)
    return (np.bincount(bins, values, BINS) / count)[bins]
