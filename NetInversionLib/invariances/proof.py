"""The proof: what is projected and accepted, what is measured again, and how tables tell it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.keys import Column, Key
from . import components, level_set
from .findings import ACCEPTED, Findings, Reporter, add_changes, keep_images
from .level_set import LevelSet, Projected
from .moments import SliceState, TileState
from .proposals import Proposer
from .question import Question
from .reading import layer_change

PROJECTED_AT_ONCE = 16
RANDOM_PAIRS = 8
FRESH_NOISES = 2
NOT_KNOWN = float("nan")
BEFORE = Column("input change before", "HU")
AFTER = Column("input change after", "HU")
SURVIVED = Column("survived", "%")


@dataclass(frozen=True)
class Turn:
    """A tile's place in its slice's time.

    Attributes:
        number: Of the tile, from 0.
        count: Tiles of the slice.
        tried: Share of the slice's time after which the first tile begins.
    """

    number: int
    count: int
    tried: float

    def share(self, done: float) -> float:
        """Share of the slice's time when a share of this tile is done."""
        return self.tried + (1 - self.tried) * (self.number + done) / self.count


# What is projected and accepted -------------------------------------------------------------------


def project_tile(
    question: Question,
    findings: Findings,
    tile: TileState,
    proposals: Tensor,
    turn: Turn,
    reporter: Reporter,
) -> None:
    """Move proposals onto the level set of a tile, and count those that are accepted.

    Args:
        question: What is asked.
        findings: Take the accepted samples as images.
        tile: Takes the rest.
        proposals: Changes (N, H, W), HU.
        turn: The tile's place in the slice's time.
        reporter: Is told how far it is.
    """
    findings.current = tile
    for first in range(0, len(proposals), PROJECTED_AT_ONCE):
        some = question.moved(tile.target, proposals[first : first + PROJECTED_AT_ONCE])
        begin = turn.share(first / len(proposals))
        end = turn.share((first + len(some)) / len(proposals))
        reporter.tell(tile.k, begin, f"tile {turn.number + 1} of {turn.count}, projecting")
        projected = level_set.project(
            tile.target,
            some,
            question.epsilon,
            question.settings.max_evaluations,
            reporter.part(begin, end),
        )
        _take(question, findings.slices[tile.k], tile, first, projected)
        reporter.intermediate()


def _take(
    question: Question, found: SliceState, tile: TileState, first: int, projected: Projected
) -> None:
    """Count what was projected; ``first``: its number in the tile, from 0."""
    changes = (projected.images - tile.target.start)[:, 0].cpu() * question.scale
    accepted = changes[projected.accepted]
    tile.moved.append(projected)
    if tile.output is not None:
        tile.outputs.append(tile.output.measure(projected.images))
    tile.accepted.append(accepted)
    add_changes(question, tile.moments, "proven", accepted)
    keep_images(question, found, tile, "sample", first, changes, projected.accepted)


def finish_tile(question: Question, findings: Findings, tile: TileState) -> None:
    """Take a tile into the slice's maps and the tables."""
    findings.current = None
    found = findings.slices[tile.k]
    for key, blended in found.deviations.items():
        blended.add(tile.moments[key], tile.window, tile.weight)
    accepted = sum(map(len, tile.accepted))
    whole = tile.window == question.region
    if whole and question.settings.components and accepted > 2:
        _tell_components(question, findings, tile, torch.cat(tile.accepted))
    for heading, value in _line(question, found, tile).items():
        findings.rows.setdefault(heading, []).append(value)


# What is measured again ---------------------------------------------------------------------------


def measure_references(
    question: Question,
    found: SliceState,
    whole: TileState,
    proposer: Proposer,
    generator: torch.Generator,
) -> None:
    """What the samples' measure is to be compared with.

    That is with other places, fresh noise, and the autoencoder by itself.
    """
    target, hu = whole.target, question.hu[whole.k]
    elsewhere = _other_places(question, target, hu, generator)
    fresh = question.measured(target, proposer.noise(FRESH_NOISES, generator)).mean()
    found.references = {
        Column("reference: other places of the slice", target.units): elsewhere,
        Column("reference: fresh noise of the same dose", target.units): float(fresh),
    }
    if question.normal is not None:
        full = torch.from_numpy(question.normal.float32()[whole.k])
        truth = question.measured(target, (full - hu)[question.region.slices][None])
        found.references[Column("reference: the normal-dose image", target.units)] = float(truth)
    if question.sampling is not None:
        floor = question.sampling.floor(hu, question.region)
        found.floor = torch.zeros_like(hu)
        found.floor[question.region.slices] = floor
        changed = Column(f"autoencoder's image, {change_of(question)}", target.units)
        found.references |= {
            Column("autoencoder's error", "HU"): float(floor.double().square().mean().sqrt()),
            changed: float(question.measured(target, floor[None])),
        }


def _other_places(
    question: Question, target: LevelSet, hu: Tensor, generator: torch.Generator
) -> float:
    """The measure when the region shows another place of the slice (J, I), HU.

    That is what two unrelated images differ by.

    Beyond the slice's edges comes its other side, so that there are other places however large the
    region is.
    """
    shifts = [
        [int(torch.randint(1, n, (1,), generator=generator)) for n in hu.shape]
        for _ in range(RANDOM_PAIRS)
    ]
    patches = torch.stack([hu.roll(shift, (0, 1))[target.region.slices] for shift in shifts])
    return float(target.measure(question.batch(patches)).mean())


def prove_projected(
    question: Question, findings: Findings, whole: TileState, proposals: Tensor
) -> None:
    """Measure all that was projected in the only tile of a slice; proposals: (N, H, W), HU."""
    images = torch.cat([projected.images for projected in whole.moved])
    _tell_samples(question, findings, whole, list(range(1, len(images) + 1)), proposals, images)


def prove_shown(
    question: Question, findings: Findings, whole: TileState, proposals: Tensor
) -> None:
    """Prove samples that were put together from tiles, which were proven one by one.

    Each is taken back towards the patient's image until the whole of it is unnoticed.

    Args:
        question: What is asked.
        findings: Their samples are changed, and the table "proof of samples" is told.
        whole: The slice's region.
        proposals: Changes (N, H, W), HU, that the samples come from.
    """
    samples, target = findings.slices[whole.k].samples, whole.target
    numbers = [n for n in range(1, len(proposals) + 1) if Key("sample", number=n) in samples]
    if not numbers:
        return
    inside = torch.stack([samples[Key("sample", number=n)][target.region.slices] for n in numbers])
    images = question.batch(inside)
    enough = level_set.ENOUGH * question.epsilon
    unnoticed = (target.measure(images) <= enough).to(images.device).view(-1, 1, 1, 1)
    back = level_set.returned(target, target.start.expand_as(images), images, enough)
    images = torch.where(unnoticed, images, back)
    for n, image in zip(numbers, images):
        shown = image[0].cpu() * question.scale + question.low
        samples[Key("sample", number=n)][target.region.slices] = shown
    chosen = proposals[[n - 1 for n in numbers]]
    _tell_samples(question, findings, whole, numbers, chosen, images)


# How tables tell it -------------------------------------------------------------------------------


def lines_so_far(question: Question, findings: Findings) -> dict[str, list]:
    """Columns of table "proof", with a line for the tile that is worked on."""
    rows = {heading: list(values) for heading, values in findings.rows.items()}
    now = findings.current
    if now is not None:
        for heading, value in _line(question, findings.slices[now.k], now).items():
            rows.setdefault(heading, []).append(value)
    return rows


def _line(question: Question, found: SliceState, tile: TileState) -> dict[str, float | int | str]:
    """One line of table "proof": what the samples do to the layer, beside the references.

    Figures that a tile or a whole region has not are not numbers.
    """
    window, units, moved = tile.window, tile.target.units, tile.moved
    tried = tile.measures or [p.proposed for p in moved]
    line: dict[str, float | int | str] = {
        "slice": tile.k,
        ACCEPTED: 100 * _mean([p.accepted for p in moved]),
        Column("largest accepted", units): _largest_accepted(moved),
        AFTER: _mean([p.change_after for p in moved]) * question.scale,
        SURVIVED: 100 * _mean([p.survived[p.accepted] for p in moved]),
        BEFORE: _mean([p.change_before for p in moved]) * question.scale,
        Column(f"unproven samples, {change_of(question)}", units): _mean(tried),
        Column("projected samples, change", units): _mean([p.measure for p in moved]),
    }
    if tile.output is not None:
        line[Column("projected samples, change of the output", "HU")] = _mean(tile.outputs)
    line |= {
        "projected": sum(len(p.accepted) for p in moved),
        "evaluations per sample": _mean([p.evaluations for p in moved]),
        Column("S", "mm"): question.height_mm(tile.k),
        "rows": f"{window.j0}-{window.j1 - 1}",
        "columns": f"{window.i0}-{window.i1 - 1}",
    }
    for heading, value in found.references.items():
        line[heading] = value if tile.of_region else NOT_KNOWN
    return line


def change_of(question: Question) -> str:
    """What the network's change is called in headings."""
    return layer_change(question.settings.layer)


def _mean(values: list[Tensor]) -> float:
    """Of all figures (N,) together; not a number where there are none."""
    return float(torch.cat(values).double().mean()) if values else NOT_KNOWN


def _largest_accepted(moved: list[Projected]) -> float:
    accepted = [float(p.measure[p.accepted].max()) for p in moved if p.accepted.any()]
    return max(accepted, default=NOT_KNOWN)


def _tell_samples(
    question: Question,
    findings: Findings,
    whole: TileState,
    numbers: list[int],
    proposals: Tensor,
    images: Tensor,
) -> None:
    """Lines of table "proof of samples".

    Args:
        question: What is asked.
        findings: Take the lines.
        whole: The slice's region.
        numbers: Of the samples, from 1.
        proposals: The changes (N, H, W), HU, that were proposed.
        images: What they became, normalised contents (N, 1, H, W) of the region.
    """
    target = whole.target
    proposed = question.moved(target, proposals)
    measure = target.measure(images)
    layer, units = change_of(question), target.units
    tried = torch.cat(whole.measures)[[n - 1 for n in numbers]]
    columns = {
        "slice": [whole.k] * len(images),
        "sample": numbers,
        Column(f"unproven, {layer}", units): tried.tolist(),
        Column(f"projected, {layer}", units): measure.tolist(),
        "accepted": (measure <= question.epsilon).tolist(),
    }
    if whole.output is not None:
        output = whole.output.measure(images)
        columns[Column("projected, change of the output", "HU")] = output.tolist()
    before = level_set.rms(proposed - target.start) * question.scale
    after = level_set.rms(images - target.start) * question.scale
    survived = 100 * level_set.survived(proposed, images, target.start)
    columns |= {
        BEFORE: before.tolist(),
        AFTER: after.tolist(),
        SURVIVED: survived.tolist(),
    }
    findings.add_lines(Key("proof of samples"), "Proof of each sample", columns)


def _tell_components(
    question: Question, findings: Findings, whole: TileState, changes: Tensor
) -> None:
    """Principal components of a slice's accepted samples (N, H, W), HU.

    What each does to the layer is measured, not assumed.
    """
    target, found = whole.target, findings.slices[whole.k]
    components_found = components.principal_components(changes, question.settings.components)
    pairs = zip(components_found.images, components_found.explained)
    for number, (image, explained) in enumerate(pairs, 1):
        kept = found.components.setdefault(
            Key("component", number=number), torch.zeros(question.hu[whole.k].shape)
        )
        kept[target.region.slices] = image.float()
        step = (image.float() / question.scale)[None, None].to(target.start)
        one, two = (float(target.measure(target.start + times * step)) for times in (1, 2))
        layer = f"{change_of(question)}, 1 standard deviation"
        line: dict[str, list] = {
            "slice": [whole.k],
            "component": [number],
            Column("explained variance", "%"): [100 * float(explained)],
            "samples": [len(changes)],
            Column(layer, target.units): [one],
            Column("2 standard deviations", target.units): [two],
        }
        title = "Principal components of the accepted samples"
        findings.add_lines(Key("components"), title, line)
