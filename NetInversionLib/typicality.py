"""The gate: may this scan be harmonized, and may the result be trusted?

What the target scanner's people look like is learned from their scans alone (``fit``), as a few
named arrays that a model file carries. A scan is compared with them on a grid of about 2 mm, after
an affine alignment to the people's mean on a grid of 4 mm that starts from the header's axes.
Neither trusts brightness: images are first freed of smooth fields, and alignment and likeness allow
any function from the mean's intensities to the scan's. The order of tissues is judged apart, and
shows what matched histograms hide: a T2 is dark in white matter whatever curve it went through.

    statistics = fit(scans of the target)
    checks = check_source(source, statistics)  # seconds, before any harmonization
    checks += check_result(source, result, statistics, bits_per_dim)
    word, reasons = verdict(checks)  # "accepted", "flagged" or "refused"

All limits come from the target's people, each one's figures taken with that person left out of the
mean:

    size        half the smallest to twice the largest volume, two thirds to one and a half times
    their extents likeness    halfway between the least likely person and the likeliest one turned
    upside down or back to front tissues     a quarter of the least contrast that a person shows
    left, right the mirror image of a tenth of the median person's asymmetry (refused: of half);
    within a tenth on either side
                nothing is decided, and a symmetric brain passes
    all others  where 99.9 % of further people would lie if figures (or their logarithms) were
                normal; three times as far out for the source, which comes from other scanners, but
                a quarter farther out for its unevenness, which a tone curve changes by a tenth, and
                no farther for repetition, which no scanner shows
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import permutations, product

import numpy as np
from scipy import fft, ndimage, stats

from . import volumes
from .mr import Scan
from .results import Progress, Table
from .volumes import Volume

LOOK_MM, FIELD_MM = 2.0, 14.0
TEMPLATE_MM, TEMPLATE_SHAPE = 4.0, (42, 52, 42)
BINS = 16
# Asymmetry is judged between these standard deviations of blur, in mm.
FOLDS_MM, SHADES_MM = 4.0, 8.0
RIDGE, UNDECIDED, SURE = 0.1, 0.1, 0.5
GHOST_MM, OVERLAP = 20.0, 0.02
FRACTIONS = np.linspace(0, 1, 65)
CONFIDENCE = 0.999
OTHER_SCANNERS = {
    "cut face": 3.0,
    "slice jump": 3.0,
    "noise": 3.0,
    "sharpness": 3.0,
    "stripes": 3.0,
    "unevenness": 1.25,
    "repetition": 1.0,
}
LOSS, GAIN = 1.05, 1.25
ROUNDS, FIRST_STEPS, STEPS, SEARCH_STEPS = 3, 12, 8, 8

# What is measured of a person, in the order of the columns of "gate_figures".
FIGURES = (
    "volume ml",
    "extent right-left mm",
    "extent front-back mm",
    "extent up-down mm",
    "likeness",
    "grey over fluid",
    "white over grey",
    "asymmetry",
    "cut face",
    "slice jump",
    "noise",
    "sharpness",
    "stripes",
    "histogram distance",
    "unevenness",
    "repetition",
)
LOGARITHMIC = FIGURES[10:]


@dataclass(frozen=True)
class Check:
    """One figure and its limits. ``words`` say what was found, and what to do if it did not pass.

    ``severity`` is what a failure means: "refused" or "flagged". A figure without limits is
    reported only.
    """

    name: str
    value: float
    low: float
    high: float
    passed: bool
    words: str
    severity: str = "flagged"


def verdict(checks: Iterable[Check]) -> tuple[str, list[str]]:
    """("accepted", "flagged" or "refused"; what is wrong and what to do, the gravest first)."""
    failed = sorted((c for c in checks if not c.passed), key=lambda c: c.severity != "refused")
    return (failed[0].severity if failed else "accepted"), list(
        dict.fromkeys(c.words for c in failed)
    )


def table(checks: Iterable[Check]) -> Table:
    """All checks, for the scene and the report; an open limit is empty."""
    checks = list(checks)

    def limit(value: float) -> str:
        return f"{value:.3g}" if np.isfinite(value) else ""

    return Table(
        "Checks",
        {
            "check": [c.name for c in checks],
            "value": [float(c.value) for c in checks],
            "from": [limit(c.low) for c in checks],
            "to": [limit(c.high) for c in checks],
            "passed": ["yes" if c.passed else f"no, {c.severity}" for c in checks],
            "in words": [c.words for c in checks],
        },
    )


# Checks -------------------------------------------------------------------------------------------


def check_source(source: Scan | Look, statistics: dict[str, np.ndarray]) -> list[Check]:
    """Is this the body part that the model knows, placed as its header says, of the right contrast,
    whole and clean?
    """
    if not _learned(statistics):
        return [_unlearned()]
    limits = Limits(statistics)
    seen = look(source)
    sizes = _size_checks(seen, limits)
    if not all(check.passed for check in sizes):
        return sizes
    return (
        sizes + _anatomy_checks(seen, statistics, limits, "source") + _quality_checks(seen, limits)
    )


def check_result(
    source: Scan | Look,
    result: Scan | Look,
    statistics: dict[str, np.ndarray],
    bits_per_dim: float | None = None,
) -> list[Check]:
    """Is the result typical of the target's people, neither too unlikely nor too likely, and as
    sharp as it may be?

    Args:
        source: What was harmonized; its ``look``, where it was checked before, saves looking again.
        result: The same scan with the harmonized image.
        statistics: From ``fit``; "bits_per_dim" and "held_out" of ``mrflow`` too, where a flow was
            trained.
        bits_per_dim: Of the result under that flow, the mean over the orientations; None leaves
            this check out.
    """
    if not _learned(statistics):
        return [_unlearned()]
    limits = Limits(statistics)
    seen = look(result)
    checks = _anatomy_checks(seen, statistics, limits, "result")
    before, after = look(source).quality, seen.quality
    for name, low_words, high_words in (
        (
            "noise",
            "The result is smoother than images of the target scanner: detail may be lost.",
            "The result is noisier than images of the target scanner.",
        ),
        (
            "sharpness",
            "The result is blurred compared with images of the target scanner: detail may be lost.",
            "The result is sharper than images of the target scanner: edges may be exaggerated.",
        ),
    ):
        low, high = limits.normal(name)
        # What the source was like is no fault of the result; a curve that gives grey and white
        # their due contrast raises noise.
        low, high = min(low, before[name] / LOSS), max(high, before[name] * GAIN)
        checks.append(
            _two_sided(
                f"{name} of the result", after[name], low, high, low_words + LOOK, high_words + LOOK
            )
        )
    distance = histogram_distance(seen, statistics["gate_quantiles"])
    checks.append(
        _two_sided(
            "histogram distance of the result",
            distance,
            -np.inf,
            limits.normal("histogram distance")[1],
            "",
            "The intensities are not distributed as the target scanner's: it may not have been possible to "
            "harmonize this image." + LOOK,
        )
    )
    if bits_per_dim is not None and "bits_per_dim" in statistics:
        checks.append(_bits_check(float(bits_per_dim), statistics))
    return checks


LOOK = " Look at the result beside the source before using it."


def _learned(statistics: dict[str, np.ndarray]) -> bool:
    """Whether the statistics are there, and of this version of the gate."""
    return "gate_figures" in statistics and statistics["gate_figures"].shape[1:] == (len(FIGURES),)


def _unlearned() -> Check:
    return Check(
        "gate",
        np.nan,
        -np.inf,
        np.inf,
        False,
        "This model file knows nothing of the target's people, so nothing was "
        "checked: train it with a newer version, or judge the images yourself.",
    )


def _two_sided(
    name: str,
    value: float,
    low: float,
    high: float,
    low_words: str,
    high_words: str,
    severity: str = "flagged",
) -> Check:
    good = bool(low <= value <= high)
    words = "as in the target's people" if good else low_words if value < low else high_words
    return Check(name, float(value), float(low), float(high), good, words, severity)


def _size_checks(seen: Look, limits: Limits) -> list[Check]:
    advice = (
        " The model was trained on another body part or another kind of mask. If the image shows the whole head, give a "
        "brain mask; else choose another model."
    )
    checks = []
    for name, value in size(seen).items():
        low, high = limits.size(name)
        checks.append(
            _two_sided(
                name,
                value,
                low,
                high,
                *(
                    f"What the mask covers is too {word} ({name}: {value:.0f}; "
                    f"{low:.0f} to {high:.0f} are possible)." + advice
                    for word in ("small", "large")
                ),
                "refused",
            )
        )
    return checks


def _anatomy_checks(
    seen: Look, statistics: dict[str, np.ndarray], limits: Limits, which: str
) -> list[Check]:
    moving, template = Moving(seen), Template.of(statistics)
    affine = place(moving, template)
    found = anatomy(moving.on_template(affine), template)
    low, unrecognised = limits.likeness()
    poor = found["likeness"] < low
    checks = [
        _two_sided(
            f"anatomy of the {which}",
            found["likeness"],
            low,
            np.inf,
            _turned_words(moving, template, low) if poor else "",
            "",
            "refused",
        )
    ]
    if found["likeness"] > unrecognised:
        for name, tissues in (
            ("grey over fluid", "Grey matter is not brighter than fluid"),
            ("white over grey", "White matter is not brighter than grey matter"),
        ):
            checks.append(
                _two_sided(
                    f"{name} in the {which}",
                    found[name],
                    limits.tissue(name),
                    np.inf,
                    f"{tissues} where the target's people show it so: this looks like another contrast, such as "
                    "T2 given to a T1 model. Choose a model of this contrast.",
                    "",
                    "refused",
                )
            )
    if not poor:
        checks.append(
            _side_check(found["asymmetry"], float(np.median(limits.column("asymmetry"))), which)
        )
    # Of a poor likeness to which the contrast is all that is wrong, the contrast is what to speak
    # of.
    wrong_contrast = poor and len(checks) > 1 and not all(c.passed for c in checks[1:])
    return checks[1:] + checks[:1] if wrong_contrast else checks


def _side_check(value: float, usual: float, which: str) -> Check:
    sure = value < -SURE * usual
    check = _two_sided(
        f"left and right of the {which}",
        value,
        -UNDECIDED * usual,
        np.inf,
        f"Left and right {'look' if sure else 'may be'} exchanged: the asymmetry of this brain is the mirror "
        "image of the target's people's. Check the header's axes and how the file was converted.",
        "",
        "refused" if sure else "flagged",
    )
    if check.passed and value < UNDECIDED * usual:
        return replace(
            check, words="not decided: this brain is too symmetric to tell left from right"
        )
    return check


def _turned_words(moving: Moving, template: Template, low: float) -> str:
    """Why the anatomy was not recognised: another placement that fits, or none."""
    tried = [align(moving, template, moving.start(turn), 3, SEARCH_STEPS) for turn in TURNS]
    turn = int(np.argmin([cost for _, cost in tried]))
    best = likeness(moving.on_template(tried[turn][0])[0], template)
    if best < low * 0.8 or turn == 0:
        return (
            "The anatomy of the target's people is not recognised in it: another body part or contrast, no brain mask, a "
            "large part missing, or too poor an image. Check that the right file was chosen; give a brain mask if the image "
            "shows the whole head."
        )
    return (
        f"The voxels contradict the header: the image fits when it is {_turn_words(TURNS[turn])}. Correct the axis "
        "directions of the file (convert it again from DICOM), so that it is shown upright."
    )


def _turned_likeness(moving: Moving, template: Template, turn: np.ndarray) -> float:
    affine = align(moving, template, moving.start(turn), 3, SEARCH_STEPS)[0]
    return likeness(moving.on_template(affine)[0], template)


def _turn_words(turn: np.ndarray) -> str:
    if np.count_nonzero(np.diag(turn)) < 3:
        return "turned by 90 degrees"
    words = zip(np.diag(turn)[1:], ("turned front to back", "turned upside down"))
    return " and ".join(word for sign, word in words if sign < 0)


def _quality_checks(seen: Look, limits: Limits) -> list[Check]:
    words = {
        "cut face": (
            "",
            "The image or its mask ends in a flat face: part of the anatomy is cut off. Use a volume or mask that "
            "covers all of it.",
        ),
        "slice jump": (
            "",
            "Some slices are much darker or brighter than their neighbours, or empty. Look through the slices; "
            "repeat the conversion, or leave this image out.",
        ),
        "noise": (
            "The image is much smoother than those of the target's people: it was blurred or denoised, or its slices are "
            "thick. Use the original image.",
            "The image is much noisier than those of the target's people. Expect a noisy "
            "result; measurements on it are less reliable.",
        ),
        "sharpness": (
            "The image is blurred compared with those of the target's people: motion, thick slices or smoothing. Use "
            "the original image.",
            "",
        ),
        "stripes": (
            "",
            "Regular stripes run through the image (a spike in the raw data, or interference). Have the raw data "
            "reconstructed again, or leave this image out.",
        ),
        "unevenness": (
            "",
            "Fine detail lies everywhere instead of at edges: noise, or ripples from motion. Look for ripples "
            "along the outline; expect a poorer result.",
        ),
        "repetition": (
            "",
            "The image repeats itself at a distance: a ghost from motion or flow lies over the anatomy. Look for "
            "a second outline; measurements where it lies are wrong.",
        ),
    }
    found = seen.quality
    checks = []
    for name, (low_words, high_words) in words.items():
        low, high = limits.normal(name, OTHER_SCANNERS[name])
        low, high = low if low_words else -np.inf, high if high_words else np.inf
        checks.append(
            _two_sided(f"{name} of the source", found[name], low, high, low_words, high_words)
        )
    return checks


def _bits_check(value: float, statistics: dict[str, np.ndarray]) -> Check:
    people = np.asarray(statistics["bits_per_dim"], np.float64)
    people = people[:, -1] if people.ndim == 2 else people
    apart = np.asarray(statistics.get("held_out", np.zeros(len(people)))) > 0
    low, high = prediction(people[apart] if apart.sum() > 1 else people)
    return _two_sided(
        "bits/dim of the result",
        value,
        low,
        high,
        "The flow finds the result too likely for the target's people: it may be too smooth, or empty."
        + LOOK,
        "The flow finds the result too unlikely for an image of the target scanner." + LOOK,
    )


# Limits -------------------------------------------------------------------------------------------


class Limits:
    """What the target's people allow; the module's docstring has the rules."""

    def __init__(self, statistics: dict[str, np.ndarray]):
        self.figures = np.asarray(statistics["gate_figures"], np.float64)
        self.turned = np.asarray(statistics["gate_turned"], np.float64)

    def column(self, name: str) -> np.ndarray:
        return self.figures[:, FIGURES.index(name)]

    def size(self, name: str) -> tuple[float, float]:
        low, high = (1 / 2, 2) if name == "volume ml" else (2 / 3, 3 / 2)
        return self.column(name).min() * low, self.column(name).max() * high

    def likeness(self) -> tuple[float, float]:
        """The limit, and the figure below which nothing is recognised."""
        return (self.column("likeness").min() + self.turned.max()) / 2, float(self.turned.max())

    def tissue(self, name: str) -> float:
        return max(self.column(name).min(), 0) / 4

    def normal(self, name: str, factor: float = 1.0) -> tuple[float, float]:
        if name not in LOGARITHMIC:
            return prediction(self.column(name), factor)
        low, high = prediction(np.log(self.column(name)), factor)
        return float(np.exp(low)), float(np.exp(high))


def prediction(people: np.ndarray, factor: float = 1.0) -> tuple[float, float]:
    """Where ``CONFIDENCE`` of further people lie if figures are normal.

    Args:
        people: A figure of each person, of shape (people,).
        factor: Widens the range.

    Returns:
        The lowest and the highest value.
    """
    n = len(people)
    half = (
        stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * people.std(ddof=1) * np.sqrt(1 + 1 / n) * factor
    )
    return float(people.mean() - half), float(people.mean() + half)


# Learning the target ------------------------------------------------------------------------------


def fit(scans: Iterable[Scan], progress: Progress | None = None) -> dict[str, np.ndarray]:
    """What the gate needs to know of a target domain, float32 arrays; takes one scan at a time.

    Returns:
        "gate_template" and "gate_mask" (42, 52, 42): mean over people of the image freed of fields,
        and of the mask; "gate_asymmetry" (42, 52, 42): weights by which an asymmetry (see
        ``asymmetry``) tells an image from its mirror image; "gate_figures" (people, len(FIGURES));
        "gate_turned" (people,): each one's greatest likeness when turned; "gate_quantiles" (65,):
        mean over people of the quantiles of scaled values inside the mask.

    Raises:
        ValueError: Fewer than two scans.
    """
    return fit_looks([look(scan) for scan in scans], progress)


def fit_looks(looks: list[Look], progress: Progress | None = None) -> dict[str, np.ndarray]:
    """See ``fit``."""
    if len(looks) < 2:
        raise ValueError(
            "the gate's limits need at least two people of the target scanner; twenty or more make them useful"
        )
    progress = progress or Progress()
    moving = [Moving(seen) for seen in looks]
    affines = [one.start() for one in moving]
    total = None
    for turn in range(ROUNDS):
        placed = [one.on_template(affine) for one, affine in zip(moving, affines)]
        total = np.sum(placed, 0)
        template = Template(*total / len(looks))
        affines = [
            align(one, template, affine, 2, FIRST_STEPS)[0] for one, affine in zip(moving, affines)
        ]
        progress.report((turn + 1) / (ROUNDS + 2), "The gate learns the target's mean")
    placed = [
        one.on_template(align(one, template, affine)[0]) for one, affine in zip(moving, affines)
    ]
    total = np.sum(placed, 0)
    asymmetries = np.stack([asymmetry(one[0]) for one in placed])
    quantiles = [np.quantile(seen.inside, FRACTIONS) for seen in looks]
    figures, turned = [], []
    for number, (seen, one) in enumerate(zip(looks, moving)):
        others = Template(
            *(total - placed[number]) / (len(looks) - 1), _handed(np.delete(asymmetries, number, 0))
        )
        mean = (np.sum(quantiles, 0) - quantiles[number]) / (len(looks) - 1)
        affine = place(one, others)
        found = {
            **size(seen),
            **anatomy(one.on_template(affine), others),
            **seen.quality,
            "histogram distance": histogram_distance(seen, mean),
        }
        figures.append([found[name] for name in FIGURES])
        turned.append(max(_turned_likeness(one, others, turn) for turn in TURNS[1:3]))
        progress.report(
            (ROUNDS + 2 * (number + 1) / len(looks)) / (ROUNDS + 2),
            "The gate learns the target's limits",
        )
    template = total / len(looks)
    found = {
        "gate_template": template[0],
        "gate_mask": template[1],
        "gate_asymmetry": _handed(asymmetries),
        "gate_figures": figures,
        "gate_turned": turned,
        "gate_quantiles": np.mean(quantiles, 0),
    }
    return {name: np.asarray(values, np.float32) for name, values in found.items()}


def _handed(asymmetries: np.ndarray) -> np.ndarray:
    """The weights that tell people best from their mirror images, by Fisher's linear discriminant;
    the mean person gets 1.

    The covariance of so few people is made invertible by a share of its mean variance (Woodbury's
    identity spares the matrix).
    """
    count = len(asymmetries)
    flat = asymmetries.reshape(count, -1).astype(np.float64)
    mean, variance = flat.mean(0), flat.var(0)
    scale = np.sqrt(variance + 0.1 * variance.mean() + 1e-12)
    mean, apart = mean / scale, (flat - mean) / scale
    gram = apart @ apart.T
    ridge = RIDGE * np.trace(gram) / count + 1e-9
    weights = (mean - apart.T @ np.linalg.solve(gram + ridge * np.eye(count), apart @ mean)) / scale
    return (weights / max(weights @ (mean * scale), 1e-12)).reshape(asymmetries.shape[1:])


# Looking ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """A scan as the gate sees it: cropped to its mask, about 2 mm, axes as the scan's; arrays [k,
    j, i].

    Attributes:
        image: Scaled intensities, 0 outside the mask.
        flat: Freed of smooth fields: mean 0 and deviation 1 in every neighbourhood, 0 outside the
            mask.
        mask: Boolean.
        matrix: Indices (i, j, k, 1) to RAS mm.
    """

    image: np.ndarray
    flat: np.ndarray
    mask: np.ndarray
    matrix: np.ndarray

    @property
    def inside(self) -> np.ndarray:
        return self.image[self.mask]

    @cached_property
    def quality(self) -> dict[str, float]:
        """See ``quality``."""
        return quality(self)


def look(scan: Scan | Look) -> Look:
    """See ``Look``; what was looked at already stays as it is."""
    if isinstance(scan, Look):
        return scan
    small = shrink(scan)
    image = small.image * small.mask
    return Look(image, flattened(image, small.mask), small.mask, small.volume.ijk_to_ras)


def shrink(scan: Scan) -> Scan:
    """The scan on the grid that the gate looks at: cropped to its mask, smoothed where it is finer,
    and taken at 2 mm.

    What is at 2 mm already keeps its values: looking at a shrunk scan is looking at the scan.
    """
    region = [bound for axis in range(3) for bound in _extent(scan.mask, axis, 3)]
    image = volumes.crop(scan.volume, tuple(region))
    mask = scan.mask[region[0] : region[1], region[2] : region[3], region[4] : region[5]]
    step = LOOK_MM / np.array(image.spacing_mm[::-1])
    if np.allclose(step, 1, atol=0.01):
        return Scan(image, mask, scan.scale, image)
    sigma = np.where(step > 1, 0.42 * step, 0)
    shape = [int(np.floor((n - 1) / s + 1e-6)) + 1 for n, s in zip(image.shape, step)]

    def taken(array):
        smooth = ndimage.gaussian_filter(array.astype(np.float32), sigma)
        return ndimage.affine_transform(smooth, step, output_shape=shape, order=1, mode="nearest")

    matrix = image.ijk_to_ras.copy()
    matrix[:3, :3] *= step[::-1]
    small = Volume(taken(image.array), matrix, image.name, image.units)
    inside = taken(mask) > 0.5
    return Scan(small, inside if inside.any() else taken(mask) > 0, scan.scale, small)


def _extent(mask: np.ndarray, axis: int, margin: int = 0) -> tuple[int, int]:
    there = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
    return max(int(there[0]) - margin, 0), min(int(there[-1]) + 1 + margin, mask.shape[axis])


def flattened(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """An image freed of what varies slowly: inside the mask minus the mean of the neighbourhood.

    It is divided by the neighbourhood's deviation (Gaussian of 14 mm).

    Args:
        image: [k, j, i], any unit.
        mask: Boolean, of the same shape.

    Returns:
        Of the same shape; 0 outside the mask.
    """

    def blur(array):
        return ndimage.gaussian_filter(
            array.astype(np.float32), FIELD_MM / LOOK_MM, mode="constant", truncate=3
        )

    weight = np.maximum(blur(mask), 1e-3)
    centred = (image - blur(image * mask) / weight) * mask
    deviation = np.sqrt(blur(centred**2) / weight)
    floor = 0.1 * np.median(deviation[mask]) + 1e-6
    return np.clip(centred / np.maximum(deviation, floor), -4, 4).astype(np.float32) * mask


# Figures ------------------------------------------------------------------------------------------


def size(seen: Look) -> dict[str, float]:
    """Volume of the mask in ml; its extents in mm, each along the voxel axis nearest to it."""
    spacing = np.linalg.norm(seen.matrix[:3, :3], axis=0)
    extents = [
        float(np.subtract(*_extent(seen.mask, axis)[::-1]) * spacing[2 - axis])
        for axis in (2, 1, 0)
    ]
    return {
        "volume ml": float(seen.mask.sum() * spacing.prod() / 1000),
        **dict(zip(FIGURES[1:4], extents)),
    }


def anatomy(placed: np.ndarray, template: Template) -> dict[str, float]:
    """Likeness to the template, order of tissues and asymmetry, of a scan's (flat image, mask) on
    the template's grid.
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
    """How much there is of the people's mean asymmetry: 1 for their mean, -1 for its mirror image,
    0 for a symmetric brain.
    """
    return float((found.astype(np.float64) * template.asymmetry)[template.inside].sum())


def quality(seen: Look) -> dict[str, float]:
    """What artefacts change.

    "cut face": largest cross-section within 4 mm of an end of the mask, over the largest anywhere;
    "slice jump": largest difference of a slice's sum from its neighbours' mean, over the largest
    sum; "noise" and "sharpness": root mean square of what a Gaussian of 2 mm takes away, in the
    quiet tenth and at the upper quarter of places; "unevenness": the former over the latter (detail
    lies at edges, noise and what motion spreads lie everywhere); "stripes": strongest single
    frequency over the median of its length's; "repetition": see ``repetition``.
    """
    core = ndimage.binary_erosion(seen.mask, iterations=2)
    core = core if core.any() else seen.mask
    detail = seen.flat - ndimage.gaussian_filter(seen.flat, 1.0)
    fine = ndimage.uniform_filter(detail**2, 5)[core]
    noise, sharpness = np.sqrt(np.maximum(np.percentile(fine, [10, 75]), 1e-12))
    cuts, jumps = [], []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        low, high = _extent(seen.mask, axis)
        area = seen.mask.sum(axis=others)[low:high]
        cuts.append(max(area[:2].max(), area[-2:].max()) / area.max())
        total = np.pad(seen.image.sum(axis=others)[low:high], 1)
        jumps.append(
            np.abs(total[1:-1] - (total[2:] + total[:-2]) / 2)[1:-1].max(initial=0)
            / max(total.max(), 1e-6)
        )
    return {
        "cut face": float(max(cuts)),
        "slice jump": float(max(jumps)),
        "noise": float(noise),
        "sharpness": float(sharpness),
        "stripes": stripes(seen.flat),
        "unevenness": float(noise / sharpness),
        "repetition": repetition(detail * core, core),
    }


def stripes(flat: np.ndarray) -> float:
    """The strongest single frequency beyond 0.1 per voxel, over the median of frequencies as high.

    Args:
        flat: A flat image, [k, j, i].
    """
    amplitude = np.abs(np.fft.rfftn(flat))
    frequencies = np.meshgrid(
        *(np.fft.fftfreq(n) for n in flat.shape[:2]), np.fft.rfftfreq(flat.shape[2]), indexing="ij"
    )
    shell = np.digitize(np.sqrt(sum(f**2 for f in frequencies)), np.linspace(0.1, 0.5, 17))
    shells = [amplitude[shell == number] for number in range(1, 17) if (shell == number).any()]
    return float(max((one.max() / max(np.median(one), 1e-9) for one in shells), default=1.0))


def repetition(detail: np.ndarray, mask: np.ndarray) -> float:
    """Largest correlation of fine detail with itself 20 mm or farther along a voxel axis, as a
    ghost or a folded image has it, over the root mean square of those at all such distances, which
    is what chance gives.

    Each correlation is multiplied by the square root of the share of the mask that overlaps its
    shifted self (2 % at least), for chance correlations grow with its inverse.

    Args:
        detail: 0 outside ``mask``.
    """
    found = []
    for axis in range(3):
        lines, inside = (np.moveaxis(a, axis, 2).astype(np.float32) for a in (detail, mask))
        length, padded = lines.shape[2], fft.next_fast_len(2 * lines.shape[2], real=True)
        image, square, inside = (fft.rfft(a, padded) for a in (lines, lines**2, inside))

        def at_shifts(
            one, other, length=length, padded=padded
        ):  # sums over the overlap, for every shift
            return fft.irfft(np.einsum("kjf,kjf->f", one.conj(), other), padded)[:length]

        together, first, second = (
            at_shifts(image, image),
            at_shifts(square, inside),
            at_shifts(inside, square),
        )
        share = at_shifts(inside, inside) / mask.sum()
        far = (share > OVERLAP) & (np.arange(length) * LOOK_MM >= GHOST_MM)
        found += list(
            together[far] / np.sqrt(np.maximum(first * second, 1e-9))[far] * np.sqrt(share[far])
        )
    usual = np.sqrt(np.mean(np.square(found))) if found else 0.0
    return float(max(max(found) / usual, 0.1)) if usual > 0 else 1.0


def histogram_distance(seen: Look, quantiles: np.ndarray) -> float:
    """Wasserstein distance of the scaled values inside the mask to a known distribution.

    Args:
        seen: Of the scan.
        quantiles: Of the distribution, at even fractions, of shape (65,).
    """
    return float(np.mean(np.abs(np.quantile(seen.inside, FRACTIONS) - quantiles)))


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
    """The target's mean on the 4 mm grid: ``flat`` and ``mask`` (42, 52, 42), and where its tissues
    are; ``asymmetry``, the weights of the same shape that tell a scan from its mirror image.

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
    """The best affine map (see ``align``) from the header's placement, on every other template
    point first.
    """
    return align(moving, template, align(moving, template, moving.start(), 2, FIRST_STEPS)[0])[0]


def align(
    moving: Moving,
    template: Template,
    start: np.ndarray,
    every: int = 1,
    steps: int = STEPS,
    image_weight: float = 0.3,
) -> tuple[np.ndarray, float]:
    """The affine map (3, 4) from template points to the scan's RAS mm that fits best, and its cost.

    Gauss-Newton on two residuals: mask minus mask near the template, and, inside it, the image
    minus its mean over the places of like template value (so that any contrast fits as well).
    Nothing random: the same scan gives the same map.

    Args:
        every: Take every n-th template point along each axis.
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


def _by_bin(values: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """The mean of the values of the same bin, at each value."""
    count = np.maximum(np.bincount(bins, minlength=BINS), 1)
    return (np.bincount(bins, values, BINS) / count)[bins]
