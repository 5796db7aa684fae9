"""Invariances of a CT denoiser, sampled and proven.

What may change in a low-dose image without the network noticing?

    result = invariances({"low_dose": volume}, {"denoiser": model}, Settings())

Changes are proposed (fresh noise of the same dose, random texture, draws of a trained sampler),
tried as they are, which is the unproven map, and moved onto the network's level set
(``level_set``), which is the proven one. Source: Eulig, Ommer & Kachelriess, Proc. SPIE 12304,
123040S (2022); the projection is this project's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from .. import models as model_files
from ..core import devices
from ..core.keys import SECOND, Key
from ..core.names import require_names
from ..core.progress import Part, Progress
from ..core.results import Result
from . import experiments, proof
from .choices import image_noise
from .findings import (
    SEARCH_SHARE,
    Findings,
    Reporter,
    add_changes,
    finished_maps,
    keep_images,
    result_of,
)
from .level_set import Window
from .moments import MAPS, Blended, SliceState, TileState, tiles
from .proposals import Proposer
from .question import Question, checked_denoiser, question, sampler_at_work
from .sampler import placed
from .settings import InvariancesSettings

if TYPE_CHECKING:
    from ..core.volumes import Volume
    from ..models import Model

T = TypeVar("T")
SAMPLES_AT_ONCE = 16
VOXELS_AT_ONCE = 16 * 128 * 128
EVALUATIONS_EACH = 100
"""About what projecting a sample takes, beside trying it; for the progress alone."""
LESION_ENDS = 0.95
"""Share of the run's time when the lesion is done; what remains is the spectrum's."""


def run_analysis(
    volumes: dict[str, Volume], model_paths: dict[str, str], settings: dict, progress: Progress
) -> Result:
    """``invariances`` as a job: volumes [k, j, i], settings as JSON values, models as files."""
    models = model_files.opened(model_paths)
    return invariances(volumes, models, InvariancesSettings.from_json(settings), progress)


def invariances(
    volumes: dict[str, Volume],
    models: dict[str, Model],
    settings: InvariancesSettings = InvariancesSettings(),
    progress: Progress = Progress(),
) -> Result:
    """Sample what may change in ``volumes["low_dose"]`` without ``models["denoiser"]`` noticing.

    Args:
        volumes: "low_dose", CT in HU, [k, j, i], any orientation. Optional "normal_dose", the same
            at normal dose, HU, on any grid, from which it is told how well lesions are seen and how
            often the truth lies inside the maps, and "segments", whole numbers
            (``components.segment_table``).
        models: "denoiser", one input and one output in HU, 2-D. Optional "sampler", an autoencoder
            with flows trained for it, which proposals of the kind "cinn" need. Optional "second",
            another denoiser, asked about the same noise and textures, and with a "second sampler"
            about that one's draws; what is found for it has the same keys, of network "second".
        settings: See ``InvariancesSettings``.
        progress: Receives progress, log and intermediate results; may raise ``Cancelled``.

    Returns:
        Result with volumes on the input's grid, HU: "patient" (the input, float32), "output" (the
        denoised image, air in slices that were not looked at), "std unproven" (standard deviation
        of all proposals), "std proven" (of accepted projected samples; 0 where fewer than two
        were), "share survived" (their ratio), "std proven structure" and "std proven noise" (the
        same by size of structures), "sample <n>" and "proposal <n>" (a sample put together from
        tiles is proven as a whole), "answer <n>" (what the network makes of sample <n>, once a
        slice is done), "component <n>" (one standard deviation), "lesion" and "hidden lesion" (the
        nodule of which most stays unnoticed, put in and as far as it does), and with a sampler "vae
        floor" (what its autoencoder changes by itself, signed); tables "proof", "bands" and, as
        asked for, "proof of samples" (of each that was projected; of those shown where a slice
        takes several tiles), "coverage", "components", "segments", "lesions", "spectrum"; curves
        "detectability", "gains"; facts with settings, model, epsilon and acceptance (of the pieces
        in tiles).

    Raises:
        ValueError: Volume or model cannot be used, region or lesion miss the volume, or the sampler
            is not the denoiser's or has no flow for the layer; says what to do.
    """
    require_names("volume", volumes, ["low_dose"], ["normal_dose", "segments"])
    require_names("model", models, ["denoiser"], ["sampler", "second", "second sampler"])
    device = devices.choose(settings.device, progress.log)
    layers = (settings.layer, *settings.spectrum)
    asked = {
        network: checked_denoiser(models[key], layers)
        for network, key in (("", "denoiser"), (SECOND, "second"))
        if key in models
    }
    for model in asked.values():
        placed(model.network, device)
    samplings = {
        network: sampler_at_work(models.get(f"{network} sampler".strip()), model, settings, device)
        for network, model in asked.items()
    }
    results: dict[str, Result] = {}
    for network, model in asked.items():

        def with_the_others(one: Result, network: str = network) -> Result:
            return merged({**results, network: one})

        first, last = len(results) / len(asked), (len(results) + 1) / len(asked)
        one = question(
            volumes,
            model,
            samplings[network],
            settings,
            device,
            label=f", {model.card.name}" if len(asked) > 1 else "",
        )
        results[network] = answered(one, Part(progress, first, last, with_the_others))
    progress.report(1.0, "Done")
    return merged(results)


def merged(results: dict[str, Result]) -> Result:
    """Results by network as one; facts are the first's, the others' under "second"."""
    whole = Result()
    for network, result in results.items():
        whole.volumes.update(_of(network, result.volumes))
        whole.tables.update(_of(network, result.tables))
        whole.curves.update(_of(network, result.curves))
        whole.roles.update(_of(network, result.roles))
        whole.facts.update({network: result.facts} if network else result.facts)
    whole.facts["complete"] = all(result.facts["complete"] for result in results.values())
    return whole


def _of(network: str, parts: dict[str, T]) -> dict[str, T]:
    """Parts of a result under the keys of a network."""
    return {Key.read(key).of(network): part for key, part in parts.items()}


def answered(asked: Question, progress: Progress = Progress()) -> Result:
    """What may change without one denoiser noticing: every slice, then the experiments."""
    findings = Findings()

    def so_far(complete: bool = False) -> Result:
        return result_of(asked, findings, proof.lines_so_far(asked, findings), complete)

    reporter = Reporter(progress, findings, len(asked.slices), so_far)
    for k in asked.slices:
        _search_slice(asked, findings, k, reporter)
    if asked.settings.lesion is not None:
        _try_lesions(asked, findings, Part(progress, SEARCH_SHARE, LESION_ENDS))
        reporter.intermediate()
    if asked.settings.spectrum:
        _count_directions(asked, findings, Part(progress, LESION_ENDS, 1.0))
    return so_far(complete=True)


# One slice ----------------------------------------------------------------------------------------


def _search_slice(asked: Question, findings: Findings, k: int, reporter: Reporter) -> None:
    """One axial slice: every proposal is tried on the whole region.

    Then some are projected, tile by tile.
    """
    settings, region, hu = asked.settings, asked.region, asked.hu[k]
    x0 = asked.batch(hu[None])
    blended = {key: Blended(tuple(hu.shape)) for key in MAPS}
    found = findings.slices[k] = SliceState(blended, asked.denoised(x0))
    everywhere = torch.ones(region.size, dtype=torch.float64)
    whole = findings.current = _tile(asked, k, x0, region, everywhere, of_region=True)
    generator = _generator(asked, k)
    proposer = _proposer(asked, hu, x0)
    proof.measure_references(asked, found, whole, proposer, generator)
    # Of the slice's time.
    tried = settings.samples / (settings.samples + EVALUATIONS_EACH * settings.projected)
    proposals = _try_samples(asked, findings, whole, proposer, generator, tried, reporter)
    every = list(tiles(region, settings.tile, settings.overlap)) if settings.projected else []
    if len(every) != 1:
        proof.finish_tile(asked, findings, whole)
        reporter.intermediate()
    for number, (window, weight) in enumerate(every):
        tile = whole if len(every) == 1 else _tile(asked, k, x0, window, weight)
        rows, columns = window.within(region).slices
        inside = proposals[:, rows, columns]
        turn = proof.Turn(number, len(every), tried)
        proof.project_tile(asked, findings, tile, inside, turn, reporter)
        if tile is whole:
            proof.prove_projected(asked, findings, whole, proposals)
        proof.finish_tile(asked, findings, tile)
        reporter.intermediate()
    if len(every) > 1:
        proof.prove_shown(asked, findings, whole, proposals)
    _denoise_samples(asked, found)
    finished_maps(findings, found)
    findings.slices_done += 1


def _generator(asked: Question, k: int) -> torch.Generator:
    """Random numbers of a slice, by its place in the patient: a cropped volume has the same."""
    place = round(100 * asked.height_mm(k))
    return torch.Generator().manual_seed((asked.settings.seed * 100_003 + place) % 2**31)


def _proposer(asked: Question, hu: Tensor, x0: Tensor) -> Proposer:
    """Draws changes of a slice: (J, I) in HU, and (1, 1, J, I) normalised."""
    drawn = None
    if asked.sampling is not None and "cinn" in asked.settings.proposals:
        drawn = asked.sampling.changes(hu, x0, asked.region)
    return Proposer(hu, asked.volume.spacing_mm[:2], asked.region, asked.settings, drawn)


def _tile(
    asked: Question,
    k: int,
    x0: Tensor,
    window: Window,
    weight: Tensor,
    of_region: bool = False,
) -> TileState:
    """A tile of slice ``k``, (1, 1, J, I) normalised, of which nothing is known yet."""
    layer = asked.settings.layer
    output = None if layer == "output" else asked.level_set(x0, window, "output")
    target = asked.level_set(x0, window, layer)
    return TileState(k, window, weight, target, output, of_region)


def _try_samples(
    asked: Question,
    findings: Findings,
    whole: TileState,
    proposer: Proposer,
    generator: torch.Generator,
    ends: float,
    reporter: Reporter,
) -> Tensor:
    """Try every proposal on the whole region.

    Args:
        asked: What is asked.
        findings: Take the proposals that are kept as images.
        whole: Takes the measures and the moments.
        proposer: Draws the changes.
        generator: Random numbers.
        ends: Share of the slice's time when all are tried.
        reporter: Is told how far it is.

    Returns:
        Those that are to be projected, as changes (N, H, W), HU.
    """
    settings = asked.settings
    kept = torch.empty(min(settings.projected, settings.samples), *whole.window.size)
    at_once = max(1, min(SAMPLES_AT_ONCE, VOXELS_AT_ONCE // whole.weight.numel()))
    for first in range(0, settings.samples, at_once):
        count = min(at_once, settings.samples - first)
        share = ends * first / settings.samples
        reporter.tell(whole.k, share, f"trying sample {first + 1} of {settings.samples}")
        changes = proposer.draw(first, count, generator)
        add_changes(asked, whole.moments, "unproven", changes)
        whole.measures.append(asked.measured(whole.target, changes))
        keep_images(asked, findings.slices[whole.k], whole, "proposal", first, changes)
        kept[first : first + count] = changes[: max(0, len(kept) - first)]
        reporter.intermediate()
    return kept


def _denoise_samples(asked: Question, found: SliceState) -> None:
    """Keep what the network makes of each sample that is kept."""
    for key, image in found.samples.items():
        if key.kind == "sample":
            answer = asked.denoised(asked.batch(image[None]))
            found.answers[Key("answer", number=key.number)] = answer


# Experiments --------------------------------------------------------------------------------------


def _try_lesions(asked: Question, findings: Findings, progress: Progress) -> None:
    """Nodules at the point that was given."""
    table, curve, images = experiments.lesion(
        asked.volume,
        asked.model,
        asked.settings,
        asked.epsilon,
        asked.device,
        progress,
        asked.normal,
    )
    findings.tables[Key("lesions")] = table
    findings.curves[Key("detectability")] = curve
    findings.lesions = images


def _count_directions(asked: Question, findings: Findings, progress: Progress) -> None:
    """How many directions the layers lose, in the middle slice.

    They are counted for changes as strong as those that were tried there.
    """
    settings, slices = asked.settings, asked.slices
    epsilon_hu = settings.epsilon_hu
    if epsilon_hu is None:
        noise_hu = image_noise(asked.hu[slices.start : slices.stop].numpy())
        epsilon_hu = settings.epsilon_noise * noise_hu
    middle = slices[len(slices) // 2]
    strength = findings.slices[middle].maps["unproven"]
    findings.tables[Key("spectrum")], findings.curves[Key("gains")] = experiments.spectra(
        asked.volume,
        middle,
        asked.region,
        asked.model,
        settings,
        epsilon_hu,
        float(np.sqrt(np.nanmean(strength**2))),
        asked.device,
        progress,
    )
