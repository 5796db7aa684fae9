"""What a run has found so far, and the result that it comes to."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy as np
from torch import Tensor

from ..core import devices
from ..core import volumes as core_volumes
from ..core.keys import Column, Key
from ..core.progress import Part, Progress
from ..core.results import Curve, Result, Table
from . import components
from .moments import MAPS, Moments, SliceState, TileState
from .question import AIR_HU, Question

ACCEPTED = Column("accepted", "%")
INTERMEDIATE_EVERY_S = 5.0
SEARCH_SHARE = 0.9
"""Of the run's time, what the slices take; the experiments take the rest."""


@dataclass
class Findings:
    """What a run has found so far.

    Attributes:
        slices: By number, those that are done and the one that is worked on.
        current: The tile that is worked on; it counts in what is shown meanwhile.
        slices_done: How many slices are finished.
        rows: Columns of table "proof", a line for each finished tile.
        tables: Titles and columns of the other tables by key.
        curves: By key.
        lesions: Whole CTs (K, J, I), HU, by key.
    """

    slices: dict[int, SliceState] = field(default_factory=dict)
    current: TileState | None = None
    slices_done: int = 0
    rows: dict[str, list] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    lesions: dict[str, np.ndarray] = field(default_factory=dict)

    def add_lines(self, key: Key, title: str, columns: dict[str, list]) -> None:
        """Add lines to a table, which is made when it is not there yet."""
        if key not in self.tables:
            self.tables[key] = Table(title, columns)
            return
        for column, values in columns.items():
            self.tables[key].columns[column] += values


class Reporter:
    """Tells how far a run is, and hands on what it has found so far now and then.

    Args:
        progress: Of the run.
        findings: Of the run; their ``slices_done`` says how far it is.
        slices: How many there are.
        result: Makes a result of what was found so far.
    """

    def __init__(
        self,
        progress: Progress,
        findings: Findings,
        slices: int,
        result: Callable[[], Result],
    ):
        self.progress = progress
        self.findings = findings
        self.slices = slices
        self.result = result
        self.next_intermediate = time.monotonic() + INTERMEDIATE_EVERY_S

    def fraction(self, share: float) -> float:
        """Of the run, when a share of the slice that is worked on is done."""
        return SEARCH_SHARE * (self.findings.slices_done + share) / self.slices

    def tell(self, k: int, share: float, words: str) -> None:
        """Say what is done in slice ``k``, of which a share is done."""
        self.progress.report(self.fraction(share), f"Slice {k}: {words}")

    def part(self, first: float, last: float) -> Part:
        """Progress of something that takes from one share of the slice to another."""
        return Part(self.progress, self.fraction(first), self.fraction(last))

    def intermediate(self) -> None:
        """Hand on what was found so far, if that is due."""
        began = time.monotonic()
        if began > self.next_intermediate:
            self.progress.intermediate(self.result())
            # Of many slices it takes seconds: a twentieth of the time at most.
            now = time.monotonic()
            self.next_intermediate = now + max(INTERMEDIATE_EVERY_S, 20 * (now - began))


# Changes, as they are found -----------------------------------------------------------------------


def add_changes(
    question: Question, moments: dict[str, Moments], kind: str, changes: Tensor
) -> None:
    """Count changes (N, H, W) in HU in the moments of their kind, whole and by size."""
    moments[kind].add(changes)
    bands = components.split(
        changes, question.volume.spacing_mm[:2], question.settings.structure_mm
    )
    for band, part in bands.items():
        moments[f"{kind} {band}"].add(part)


def keep_images(
    question: Question,
    found: SliceState,
    tile: TileState,
    kind: str,
    first: int,
    changes: Tensor,
    wanted: Tensor | None = None,
) -> None:
    """Keep the first samples as images of the whole slice.

    Where tiles overlap the later one counts: samples are never blended.

    Args:
        question: Says how many are kept.
        found: The slice that the images are kept in.
        tile: Where the changes are.
        kind: Of their keys, "sample" or "proposal".
        first: Number of the first change, from 0.
        changes: (N, H, W), HU.
        wanted: (N,) bool, which of them; None for all.
    """
    hu, inside = question.hu[tile.k], tile.window.slices
    for n in range(min(len(changes), question.settings.shown - first)):
        if wanted is None or wanted[n]:
            whole = found.samples.setdefault(Key(kind, number=first + n + 1), hu.clone())
            whole[inside] = hu[inside] + changes[n]


# The result ---------------------------------------------------------------------------------------


def result_of(
    question: Question, findings: Findings, rows: dict[str, list], complete: bool
) -> Result:
    """What was found as a result.

    Args:
        question: What was asked.
        findings: What was found so far.
        rows: Columns of table "proof", with a line of the tile that is worked on.
        complete: Whether the run is at its end.
    """
    result = Result(facts=_facts(question, findings, rows, complete))
    maker = _Images(question, findings, result, "" if complete else "partial")
    deviations = maker.put_maps()
    maker.put_samples()
    result.tables[Key("proof")] = Table("Proof: how invariant the samples are", rows)
    settings = question.settings
    result.tables[Key("bands")] = components.band_table(deviations, settings.structure_mm)
    if question.segments is not None:
        maps = {f"standard deviation, {key}": deviations[key] for key in ("unproven", "proven")}
        result.tables[Key("segments")] = components.segment_table(
            question.segments, settings.segments, maps
        )
    if question.normal is not None:
        truth = question.normal.float32() - question.hu.numpy()
        result.tables[Key("coverage")] = components.coverage_table(truth, deviations)
    result.tables.update(findings.tables)
    result.curves.update(findings.curves)
    return result


def _facts(question: Question, findings: Findings, rows: dict[str, list], complete: bool) -> dict:
    """What lets the run be judged and run again."""
    tried = rows.get("projected", [])
    accepted = np.nansum(np.array(rows.get(ACCEPTED, [])) / 100 * np.array(tried))
    facts = {
        "complete": complete,
        "settings": asdict(question.settings),
        "model": question.model.facts(),
        "epsilon": question.epsilon,
        "inputs": question.inputs,
    }
    if question.sampling is not None:
        facts["sampler"] = question.sampling.facts
    return facts | {
        "epsilon_units": "relative" if question.settings.layer != "output" else "HU",
        "accepted": int(accepted),
        "projected": int(sum(tried)),
        "device": devices.describe(question.device),
        "versions": devices.versions(question.device),
        "slices_done": findings.slices_done,
        "slices": len(question.slices),
    }


def deviation(findings: Findings, found: SliceState, key: str) -> np.ndarray:
    """A map of a slice, (J, I) float32, HU, NaN where too little was sampled.

    The tile that is worked on counts with what it has.
    """
    if key in found.maps:
        return found.maps[key]
    blended, now = found.deviations[key], findings.current
    if now is not None and findings.slices[now.k] is found:
        blended = copy.deepcopy(blended)
        blended.add(now.moments[key], now.window, now.weight)
    return blended.deviation().astype(np.float32)


def finished_maps(findings: Findings, found: SliceState) -> None:
    """Keep a finished slice's maps instead of the moments that they come from."""
    found.maps = {key: deviation(findings, found, key) for key in MAPS}
    found.deviations = {}


@dataclass(frozen=True)
class _Images:
    """Puts images of the whole CT into a result."""

    question: Question
    findings: Findings
    result: Result
    partial: str  # what stands in brackets behind the names of images that are not finished

    def put(self, key: Key, array: np.ndarray, role: str, units: str = "HU") -> None:
        """Add an image (K, J, I) under its key, with its title."""
        question = self.question
        name = image_title(key, self.partial) + question.label
        volume = question.volume.with_array(array, name=name, units=units)
        self.result.volumes[key] = core_volumes.reorient_like(volume, question.original)
        self.result.roles[key] = role

    def whole(self, slices: dict[int, np.ndarray | Tensor], nothing: float | None) -> np.ndarray:
        """A volume (K, J, I) of slices (J, I).

        Elsewhere it is ``nothing``, or the patient's image where that is None.
        """
        hu = self.question.hu
        array = hu.numpy().copy() if nothing is None else np.full(hu.shape, nothing, np.float32)
        for k, image in slices.items():
            array[k] = np.asarray(image)
        return array

    def put_maps(self) -> dict[str, np.ndarray]:
        """Add the patient's image, the output and the maps.

        Gives the standard deviations (K, J, I) by ``MAPS``, HU, NaN where nothing was sampled.
        """
        found = self.findings.slices
        deviations = {
            key: self.whole(
                {k: deviation(self.findings, one, key) for k, one in found.items()}, np.nan
            )
            for key in MAPS
        }
        output = self.whole({k: one.output for k, one in found.items()}, AIR_HU)
        self.put(Key("patient"), self.question.hu.numpy(), "ct")
        self.put(Key("output"), output, "ct")
        for key in ("unproven", "proven", *(f"proven {band}" for band in components.BANDS)):
            self.put(Key(f"std {key}"), np.nan_to_num(deviations[key]), "spread")
        share = np.divide(
            deviations["proven"],
            deviations["unproven"],
            out=np.zeros_like(deviations["proven"]),
            where=np.nan_to_num(deviations["unproven"]) > 0,
        )
        self.put(Key("share survived"), np.nan_to_num(share), "spread", units="")
        return deviations

    def put_samples(self) -> None:
        """Add what single images there are: of the sampler, components, samples, lesions."""
        found = self.findings.slices
        if self.question.sampling is not None:
            floors = {k: one.floor for k, one in found.items() if one.floor is not None}
            self.put(Key("vae floor"), self.whole(floors, 0.0), "difference")
        for key, images in _by_key({k: one.components for k, one in found.items()}):
            self.put(key, self.whole(images, 0.0), "difference")
        for key, images in _by_key({k: one.samples for k, one in found.items()}):
            self.put(key, self.whole(images, None), "ct")
        for key, images in _by_key({k: one.answers for k, one in found.items()}):
            self.put(key, self.whole(images, AIR_HU), "ct")
        for kind, array in self.findings.lesions.items():
            self.put(Key(kind), array, "ct")


TITLES = {
    "patient": "Low dose",
    "output": "Denoised",
    "share survived": "Share that survived",
    "vae floor": "Autoencoder's error",
    "sample": "Sample {number}, proven",
    "proposal": "Proposal {number}, unproven",
    "answer": "Denoised sample {number}",
    "component": "Component {number}",
    "lesion": "Nodule put in",
    "hidden lesion": "Nodule, its unnoticed part",
    "std unproven": "Unproven SD",
    "std proven": "Proven SD",
    **{f"std proven {band}": f"Proven SD of {band}" for band in components.BANDS},
}
"""What an image is, by its key's kind."""
FINISHED = ("patient", "output", "sample", "proposal", "answer", "lesion", "hidden lesion")
"""Kinds of images that no more slices and samples change."""


def image_title(key: Key, partial: str = "") -> str:
    """What an image is, for its node and its file; ``partial``: words for one that still grows."""
    title = TITLES[key.kind].format(number=key.number)
    return f"{title} ({partial})" if partial and key.kind not in FINISHED else title


def _by_key(of_slices: dict[int, dict[Key, Tensor]]) -> list[tuple[Key, dict[int, Tensor]]]:
    """Images by slice for each key that any slice has, in the keys' order."""
    keys = sorted({key for images in of_slices.values() for key in images})
    return [
        (key, {k: images[key] for k, images in of_slices.items() if key in images}) for key in keys
    ]
