"""Learns what ``corrector`` needs to know of a target scanner, from scans of its people.

That takes minutes on one core.

The scans are aligned to each other (affine, a template that is their mean), and three things are
kept: how intensities are distributed at each place; how people deviate from that, the same people
also mirrored and gently warped, since two dozen do not show all shapes that heads have; and what
smooth fields look like (random cubic splines). No scan of another scanner is needed, and no domain
is simulated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from .. import models
from ..core.progress import Progress
from ..core.settings import Checked, setting
from ..core.volumes import Volume
from ..harmonize import brain as harmonize_brain
from ..harmonize import scan as harmonize_scan
from ..harmonize import statistics
from ..harmonize.scan import BRIGHTEST
from ..harmonize.statistics import (
    INSIDE,
    along_axes,
    cell_histograms,
    grid_to_template,
    local_quantiles,
    spline_matrix,
)
from ..networks.corrector import (
    CELL,
    CELLS,
    CONTROL,
    GRID,
    MATCHED,
    MAX_BLOCKS,
    MAX_RANK,
    TEMPLATE_STEP,
    TONE_LEVELS,
    VOXEL_MM,
    Corrector,
)
from . import flow_file, naming
from . import people as training_people
from .doubles import Doubles
from .kept import Kept, state_of, sum_of

PRIOR_VOXELS = 10.0
LEAST_SHARE = 0.25  # of tissue, in a block that is used
TEMPLATE_SMOOTHING_MM = 1.5
# Random fields: control points along k, j, i of a box about as large as a scan, and largest
# magnitudes.
USUAL_POINTS, FEWEST_POINTS, MOST_POINTS = (3, 4, 4), (2, 2, 2), (4, 5, 5)
BOX_MM, BOX_SHIFT_MM = (181.0, 250.0, 250.0), (8.0, 12.0, 6.0)
LARGEST_M, LARGEST_A = (0.08, 0.38), (0.03, 0.19)
# Random warps: standard deviations of the affine part's matrix and of its shift, sizes of the rest
# in half boxes.
WARP_MATRIX, WARP_SHIFT, WARP_SIZES, WARP_POINTS = 0.025, 0.02, (0.0, 0.015, 0.03), (5, 6, 5)


@dataclass(frozen=True)
class CorrectorSettings(Checked):
    """How a corrector is trained.

    Attributes:
        seed: Of everything random.
        views: Brains looked at: each person as they are, then mirrored and warped ones by turns.
        voxels: Random voxels taken of a warped brain.
        fields: Random fields whose patterns are kept.
        rank, components: See ``networks.corrector.Corrector``.
        rounds: How often the template is made anew from all aligned people.
    """

    seed: int = setting(0, at_least=0)
    views: int = setting(300, at_least=3)
    voxels: int = setting(60_000, at_least=1)
    fields: int = setting(1000, at_least=1)
    rank: int = setting(60, at_least=1, at_most=MAX_RANK)
    components: int = setting(40, at_least=1, at_most=MAX_BLOCKS)
    rounds: int = setting(2, at_least=0)


def train(
    paths: Sequence[Path | str],
    settings: CorrectorSettings = CorrectorSettings(),
    checkpoint: Path | str | None = None,
    progress: Progress | None = None,
    masks: Mapping[Path, Path | None] | None = None,
) -> Corrector:
    """A corrector for the scanner that made these scans (one for each person, at least three).

    ``masks`` are the mask files of scans that have one, by the scans' paths. What has been read and
    aligned is kept in the folder ``checkpoint``; a run that was stopped goes on from there and ends
    with the same figures to the last bit.

    Raises:
        ValueError: Fewer than three scans; VolumeError or ScanError if one cannot be used.
    """
    progress = progress or Progress()
    if len(paths) < 3:
        raise ValueError(
            f"{len(paths)} scans are too few to learn how people differ: give one of each of at"
            " least three people"
        )
    store = _Store(checkpoint, paths, masks)
    brains, tones, wholes, doubles = [], [], [], Doubles(progress)
    for n, path in enumerate(paths):
        progress.report(0.5 * n / len(paths), f"reading {Path(path).name}")
        brain, tone, whole = store.brain(Path(path))
        doubles.add(Path(path).name, training_people.person_of(Path(path).name), brain[0])
        brains.append(brain)
        tones.append(tone)
        wholes.append(whole)
    fractions = np.linspace(0, 1, MATCHED)
    matched = np.mean(
        [_quantiles(image.array[mask.array > INSIDE], fractions) for image, mask in brains], axis=0
    )
    template, alignments = _template(brains, matched, settings.rounds, store, progress)
    progress.report(0.8, "learning where in the head which intensities lie")
    people = [_on_grid(brain, alignment) for brain, alignment in zip(brains, alignments)]
    return _statistics(
        people, np.array(tones), np.mean(wholes, axis=0), template, settings, progress
    )


def find_scans(folder: Path | str, leave_out: Sequence[str] = ()) -> dict[Path, Path | None]:
    """The scans of a folder, each with its mask file, but for people left out.

    As ``people.find_scans`` finds them.

    Raises:
        ValueError: There is none, or one to be left out (a person's or a scan's name) is not there.
    """
    found = training_people.find_scans(folder)
    unknown = set(leave_out) - found.keys() - {training_people.person_of(name) for name in found}
    if unknown:
        raise ValueError(
            f"no scan of {', '.join(sorted(unknown))} in {folder}: it holds {', '.join(found)}"
        )
    return dict(
        scan
        for name, scan in found.items()
        if not {name, training_people.person_of(name)} & set(leave_out)
    )


def save(
    learnt: Corrector,
    paths: Sequence[Path],
    output: Path | str,
    settings: CorrectorSettings,
    model: Path | str | None = None,
    chosen: dict | None = None,
) -> Path:
    """Write a model file with a corrector.

    It is put into ``model`` (a flow of the same scanner), or stands alone. ``chosen`` are fields of
    the card that the user chose, such as its name.
    """
    training = {f"corrector: {name}": value for name, value in asdict(settings).items()}
    training["corrector: trained on"] = ", ".join(path.name for path in paths)
    if model is not None:
        return flow_file.combine(
            model, output, learnt, learnt.arguments, training=training, chosen=chosen
        )
    card = models.Card(
        name="Intensities of one scanner's MR, place by place",
        version="1",
        architecture="corrector",
        arguments=learnt.arguments,
        inputs=(
            models.Channel(
                "MR image, divided by its 99.5th percentile inside the mask", "source", "", 0.0, 1.0
            ),
        ),
        outputs=(
            models.Channel(
                "MR image as the target scanner shows it, scaled", "harmonized", "", 0.0, 1.0
            ),
        ),
        dimensions=3,
        orientation="RAS",
        spacing_mm=(VOXEL_MM, VOXEL_MM),
        size_multiple=1,
        trained_on=tuple(path.name for path in paths),
        sources="MR scans of the person who trained it",
        licence="MIT",
        intended_use=flow_file.INTENDED_USE,
        training=training,
        task=models.HARMONIZATION,
    )
    return naming.save(output, learnt, card, chosen)


# Reading and aligning -----------------------------------------------------------------------------


class _Store(Kept):
    """Reduced brains and alignments in a folder, by the files they came from."""

    def __init__(
        self,
        folder: Path | str | None,
        paths: Sequence[Path | str],
        masks: Mapping[Path, Path | None] | None = None,
    ):
        super().__init__(folder)
        self.masks = {
            Path(path): Path(mask) for path, mask in (masks or {}).items() if mask is not None
        }
        self.key = sum_of(*(self._key(Path(p)).encode() for p in paths))

    def _key(self, path: Path) -> str:
        return state_of(path, self.masks.get(path))

    def brain(self, path: Path) -> tuple[tuple[Volume, Volume], np.ndarray, np.ndarray]:
        """Reduced image and mask of a scan.

        Quantiles at ``TONE_LEVELS`` and at even fractions of its voxels as they are.
        """

        def read():
            scan = harmonize_scan.read(path, self.masks.get(path))
            image, mask = harmonize_brain.reduced(scan)
            levels = {"tone": TONE_LEVELS, "whole": np.linspace(0, 1, MATCHED)}
            quantiles = {
                name: _quantiles(scan.inside, fractions) for name, fractions in levels.items()
            }
            return {
                "image": image.array,
                "mask": mask.array,
                "matrix": image.ijk_to_ras,
                **quantiles,
            }

        kept = self.keep(f"scan-{self._key(path)}", read)
        image, mask = (Volume(kept[name], kept["matrix"], path.name) for name in ("image", "mask"))
        return (image, mask), kept["tone"], kept["whole"]


def _template(
    brains, matched, rounds, store: _Store, progress: Progress
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The template image, and each person's 4x4 from its mm to theirs."""
    images = [_matched(brain, matched) for brain in brains]
    start = np.eye(4)
    start[:3, 3] = harmonize_brain.centre_of(images[0])
    template = _coarse([images[0]], [start])
    for round_ in range(rounds + 1):
        alignments = []
        for n, image in enumerate(images):
            progress.report(
                0.5 + 0.3 * (round_ + n / len(images)) / (rounds + 1),
                f"aligning {image.name}, round {round_ + 1}",
            )
            fixed = Volume(template, grid_to_template(VOXEL_MM * TEMPLATE_STEP), "template")
            alignments.append(
                store.keep(
                    f"alignment-{store.key}-{round_}-{n}",
                    lambda: {"matrix": harmonize_brain.register(fixed, image)[0]},
                )["matrix"]
            )
        if round_ < rounds:
            template = _coarse(images, alignments)
    return template, alignments


def _matched(brain: tuple[Volume, Volume], quantiles: np.ndarray) -> Volume:
    image, mask = brain
    inside, result = mask.array > INSIDE, np.zeros_like(image.array)
    result[inside] = np.interp(
        image.array[inside], *statistics.matching_curve(image.array[inside], quantiles)
    )
    return image.with_array(result)


def _coarse(images: list[Volume], alignments: list[np.ndarray]) -> np.ndarray:
    """Mean of aligned images, smoothed, on the template image's grid."""
    fine = Volume(np.broadcast_to(np.float32(0), GRID), grid_to_template(), "")
    total = np.zeros(GRID)
    for image, alignment in zip(images, alignments):
        total += harmonize_brain.sampled(image, Volume(fine.array, alignment @ fine.ijk_to_ras, ""))
    smooth = ndimage.gaussian_filter(total / len(images), TEMPLATE_SMOOTHING_MM / VOXEL_MM)
    shape = [n // TEMPLATE_STEP for n in GRID]
    return (
        smooth.reshape(shape[0], 2, shape[1], 2, shape[2], 2)
        .mean(axis=(1, 3, 5))
        .astype(np.float32)
    )


def _on_grid(brain: tuple[Volume, Volume], alignment: np.ndarray) -> np.ndarray:
    """(2, 72, 96, 72): image inside the mask, and share of mask, in the template's grid."""
    reference = Volume(np.broadcast_to(np.float32(0), GRID), alignment @ grid_to_template(), "")
    return np.stack([harmonize_brain.sampled(v, reference) for v in brain]).astype(np.float32)


# Statistics ---------------------------------------------------------------------------------------


def _statistics(
    people: list[np.ndarray],
    tone: np.ndarray,
    whole: np.ndarray,
    template: np.ndarray,
    settings: CorrectorSettings,
    progress: Progress,
) -> Corrector:
    random = np.random.default_rng(settings.seed)
    plain = [
        _tissue(person[0].ravel(), person[1].ravel(), np.arange(person[0].size))
        for person in people
    ]
    matched = np.mean(
        [_quantiles(values, np.linspace(0, 1, MATCHED)) for values, _ in plain], axis=0
    )
    prior = _prior(plain, matched)
    views, shares = [], []
    for n in range(settings.views):
        progress.report(0.8 + 0.2 * n / settings.views, "learning how people differ")
        values, places = (
            plain[n]
            if n < len(plain)
            else _warped(people[n % len(people)], settings.voxels, random)
        )
        quantiles, share = local_quantiles(values, places, prior)
        views.append(quantiles)
        shares.append(share)
    used = np.mean(shares, axis=0) > LEAST_SHARE
    seen = np.array(views)[:, :, used]
    expected = seen.mean(axis=0)
    deviations, variance = _low_rank((seen - expected).reshape(len(seen), -1), settings.rank)
    figures = {
        "template": template,
        "matched": matched,
        "prior": prior,
        "used": used.reshape(CONTROL),
        "expected": expected,
        "deviations": deviations,
        "variance": variance,
        "tone": tone.mean(axis=0),
        "tone_deviations": np.cov(tone.T),
        "whole": whole,
        "patterns_m": _patterns(settings, random, lambda f: -np.log1p(f), LARGEST_M),
        "patterns_a": _patterns(settings, random, lambda f: -f, LARGEST_A),
    }
    learnt = Corrector(int(used.sum()), len(deviations), settings.components)
    learnt.load_state_dict(
        {
            name: torch.from_numpy(np.asarray(figure, np.float32).copy())
            for name, figure in figures.items()
        }
    )
    return learnt


def _tissue(
    image: np.ndarray, mask: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Values and places of voxels that lie well inside the mask."""
    inside = mask > INSIDE
    return np.clip(image[inside] / mask[inside], 0, BRIGHTEST).astype(np.float64), places[inside]


def _quantiles(values: np.ndarray, levels) -> np.ndarray:
    return np.quantile(values.astype(np.float64), levels)


def _prior(plain, matched: np.ndarray) -> np.ndarray:
    """What a cell's histogram is before it is looked at.

    It is the mean over people, with a little of the whole brain's added.
    """
    histograms = [
        cell_histograms(np.interp(values, *statistics.matching_curve(values, matched)), places)
        for values, places in plain
    ]
    mean = np.mean(histograms, axis=0)
    for axis in (1, 2, 3):
        mean = ndimage.convolve1d(mean, [0.25, 0.5, 0.25], axis=axis, mode="constant")
    whole = mean.sum(axis=(1, 2, 3)) / mean.sum()
    mean += 3 * whole[:, None, None, None]
    return mean / mean.sum(axis=0) * PRIOR_VOXELS


def _warped(
    person: np.ndarray, voxels: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Values and places of random voxels of a brain that is gently deformed.

    Half of the time it is mirrored.
    """
    places = np.sort(random.choice(np.flatnonzero(person[1] > 0.02), voxels))
    size = np.array(GRID)[:, None]
    where = (np.stack(np.unravel_index(places, GRID)) + 0.5) / size * 2 - 1  # -1 to 1 over the grid
    moved = (np.eye(3) + random.normal(0, WARP_MATRIX, (3, 3))) @ where + random.normal(
        0, WARP_SHIFT, (3, 1)
    )
    bend = random.normal(0, 1, (3, *WARP_POINTS)) * random.choice(WARP_SIZES)
    at = (where + 1) / 2 * (np.array(WARP_POINTS)[:, None] - 1)
    moved += np.stack([ndimage.map_coordinates(b, at, order=1) for b in bend])
    if random.random() < 0.5:
        moved[2] *= -1
    index = (moved + 1) / 2 * size - 0.5
    image, mask = (
        ndimage.map_coordinates(part, index, order=1, mode="constant") for part in person
    )
    return _tissue(image, mask, places)


def _low_rank(deviations: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """The strongest directions (rank, d), and the variance (d,) of the rest.

    Directions are as long as their standard deviations.
    """
    _, sizes, directions = np.linalg.svd(deviations / np.sqrt(len(deviations)), full_matrices=False)
    scaled = directions * sizes[:, None]
    return scaled[:rank], (scaled[rank:] ** 2).sum(axis=0)


def _patterns(
    settings: CorrectorSettings, random: np.random.Generator, inverse, largest: tuple[float, float]
) -> np.ndarray:
    """(288, components): control values for inverses of random fields.

    Their standard normal mixtures resemble the inverse of random fields.
    """
    to_control = [np.linalg.pinv(spline_matrix(n, c)) for n, c in zip(CONTROL, CELLS)]
    fields = [
        along_axes(to_control, inverse(random_field(random) * random.uniform(*largest))).ravel()
        for _ in range(settings.fields)
    ]
    _, sizes, directions = np.linalg.svd(
        np.array(fields) / np.sqrt(len(fields)), full_matrices=False
    )
    return (directions * sizes[:, None])[: settings.components].T


def random_field(random: np.random.Generator) -> np.ndarray:
    """A smooth field at the cells' centres: a cubic spline over a box about the head.

    Returns:
        Of shape (12, 16, 12); the largest magnitude is 1.
    """
    usual = random.random() < 0.6
    points = (
        USUAL_POINTS
        if usual
        else tuple(random.integers(FEWEST_POINTS, MOST_POINTS, endpoint=True).tolist())
    )
    values = random.uniform(-1, 1, points)
    box, shift = np.array(BOX_MM) * random.uniform(0.85, 1.12, 3), random.normal(0, BOX_SHIFT_MM)
    inside, whole = [], []
    for axis, count in enumerate(points):
        mm = ((np.arange(CELLS[axis]) + 0.5) * CELL - GRID[axis] / 2) * VOXEL_MM + shift[axis]
        inside.append(_cubic_matrix(count, np.clip(mm / box[axis] + 0.5, 0, 1)))
        whole.append(_cubic_matrix(count, np.linspace(0, 1, 15)))
    return along_axes(inside, values) / np.abs(along_axes(whole, values)).max()


def _cubic_matrix(count: int, positions: np.ndarray) -> np.ndarray:
    """Cubic spline interpolation of ``count`` values spread evenly from 0 to 1.

    Of shape (len(positions), count).
    """
    at = [positions * (count - 1)]
    return np.stack(
        [ndimage.map_coordinates(unit, at, order=3, mode="mirror") for unit in np.eye(count)],
        axis=1,
    )
