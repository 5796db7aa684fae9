"""Invariances of a CT denoiser: what may change in a low-dose image without the network noticing,
sampled and proven.

    result = invariances({"low_dose": volume}, {"denoiser": model}, Settings())

Changes are proposed (fresh noise of the same dose, random texture, draws of a trained sampler),
tried as they are, which is the unproven map, and moved onto the network's level set
(``level_set``), which is the proven one. Source: Eulig, Ommer & Kachelriess, Proc. SPIE 12304,
123040S (2022); the projection is this project's own.
"""

from __future__ import annotations

import copy
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from .. import models as model_files
from ..core import devices
from ..core import volumes as core_volumes
from ..core.progress import Part, Progress
from ..core.results import Result, Table
from ..core.volumes import Volume
from ..models import Model
from ..models.library import SAMPLING
from ..networks.layers import UpTo
from . import components, level_set
from . import experiments as invariances_experiments
from .choices import image_noise
from .level_set import LevelSet, Window
from .moments import MAPS, Blended, SliceState, TileState, tiles
from .proposals import Proposer
from .sampler import Sampling, placed
from .settings import Settings

if TYPE_CHECKING:
    from .moments import Moments


SAMPLES_AT_ONCE, VOXELS_AT_ONCE = 16, 16 * 128 * 128
RANDOM_PAIRS, FRESH_NOISES = 8, 2
EVALUATIONS_EACH = (
    100  # about what projecting a sample takes, beside trying it; for the progress alone
)
INTERMEDIATE_EVERY_S = 5.0
AIR_HU = -1024.0


def run_task(
    volumes: dict[str, Volume], model_paths: dict[str, str], settings: dict, progress: Progress
) -> Result:
    """``invariances`` as a job: settings as JSON values, models as files."""
    models = {key: model_files.load(path) for key, path in model_paths.items()}
    return invariances(volumes, models, Settings.from_json(settings), progress)


def invariances(
    volumes: dict[str, Volume],
    models: dict[str, Model],
    settings: Settings = Settings(),
    progress: Progress = Progress(),
) -> Result:
    """Sample what may change in ``volumes["low_dose"]`` without ``models["denoiser"]`` noticing.

    Args:
        volumes: "low_dose", CT in HU, any orientation. Optional "segments", whole numbers
            (``components.segment_table``).
        models: "denoiser", one input and one output in HU, 2-D. Optional "sampler", an autoencoder
            with flows trained for it, which proposals of the kind "cinn" need. Optional "second",
            another denoiser, asked about the same noise and textures, and with a "second sampler"
            about that one's draws; what is found for it has the same keys with " second" behind.
        settings: See ``Settings``.
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
        takes several tiles), "components", "segments", "lesions", "spectrum"; curves
        "detectability", "gains"; facts with settings, model, epsilon and acceptance (of the pieces
        in tiles).

    Raises:
        ValueError: Volume or model cannot be used, region or lesion miss the volume, or the sampler
            is not the denoiser's or has no flow for the layer; says what to do.
    """
    device = devices.choose(settings.device, progress.log)
    asked = {
        " second" if key == "second" else "": _checked(
            models[key], (settings.layer, *settings.spectrum)
        )
        for key in ("denoiser", "second")
        if key in models
    }
    for model in asked.values():
        placed(model.network, device)
    samplings = {
        suffix: _sampling(models.get(f"{suffix} sampler".strip()), model, settings, device)
        for suffix, model in asked.items()
    }
    results: dict[str, Result] = {}
    for suffix, model in asked.items():
        part = Part(
            progress,
            len(results) / len(asked),
            (len(results) + 1) / len(asked),
            lambda one, suffix=suffix: merged({**results, suffix: one}),
        )
        run = _Run(
            volumes["low_dose"],
            model,
            settings,
            part,
            device,
            volumes.get("segments"),
            samplings[suffix],
        )
        if len(asked) > 1:
            run.label = f", {model.card.name}"
        for k in run.slices:
            run.slice(k)
        run.experiments()
        results[suffix] = run.result(complete=True)
    progress.report(1.0, "Done")
    return merged(results)


def merged(results: dict[str, Result]) -> Result:
    """Results by suffix as one; facts are the first's, the others' under "second"."""
    whole = Result()
    for suffix, result in results.items():
        for kind in ("volumes", "tables", "curves", "roles"):
            getattr(whole, kind).update(
                {key + suffix: value for key, value in getattr(result, kind).items()}
            )
        whole.facts.update({suffix.strip(): result.facts} if suffix else result.facts)
    whole.facts["complete"] = all(result.facts["complete"] for result in results.values())
    return whole


def _checked(model: Model, layers: tuple[str, ...]) -> Model:
    """The model, if it is a denoiser that has these layers."""
    card = model.card
    if card.task == SAMPLING:
        raise model_files.ModelError(
            f"{card.name!r} is no denoiser but a sampler made for one: choose the denoiser, and"
            " this file as its sampler"
        )
    if len(card.inputs) != 1 or len(card.outputs) != 1 or card.dimensions != 2:
        raise model_files.ModelError(
            f"{card.name!r} has {len(card.inputs)} inputs and {len(card.outputs)} outputs in"
            f" {card.dimensions}-D: a CT denoiser has one of each, slice by slice. Choose another"
            " model"
        )
    if {card.inputs[0].units, card.outputs[0].units} != {"HU"}:
        raise model_files.ModelError(f"{card.name!r} does not work in HU: choose a CT denoiser")
    if not all(torch.isfinite(p).all() for p in model.network.parameters()):
        raise model_files.ModelError(
            f"{card.name!r} holds weights that are not numbers: its training has failed. Choose"
            " another"
        )
    image = torch.zeros(
        1, 1, 64, 64, device=next((p.device for p in model.network.parameters()), "cpu")
    )
    for layer in layers:
        try:
            UpTo(model.network, layer, image, repr(card.name))
        except RuntimeError as error:
            raise model_files.ModelError(
                f"{card.name!r} does not run on images of one channel ({error}): choose a CT"
                " denoiser"
            ) from error
    return model


def _sampling(
    sampler: Model | None, denoiser: Model, settings: Settings, device: torch.device
) -> Sampling | None:
    """The sampler at work, if there is one; where proposals need it there must be."""
    draws = "cinn" in settings.proposals
    if sampler is not None:
        return Sampling(sampler, denoiser, settings.layer if draws else None, device)
    if draws:
        raise model_files.ModelError(
            "proposals 'cinn' are drawn by a sampler, and there is none for"
            f" {denoiser.card.name!r}: name one made by 'netinversion train cinn', or choose noise"
            " or texture"
        )
    return None


class _Run:
    def __init__(
        self,
        volume: Volume,
        model: Model,
        settings: Settings,
        progress: Progress,
        device: torch.device,
        segments: Volume | None = None,
        sampling: Sampling | None = None,
    ):
        self.model, self.settings, self.progress, self.device, self.sampling = (
            model,
            settings,
            progress,
            device,
            sampling,
        )
        self.original, self.volume = (
            volume,
            core_volumes.reorient(core_volumes.check(volume), "LPS"),
        )
        self.hu = torch.from_numpy(np.ascontiguousarray(self.volume.float32()))
        if float(self.hu.min()) > -500:
            raise ValueError(
                f"'{volume.name}' holds no air (lowest value {float(self.hu.min()):g}): is it a CT"
                " in HU? Raw scanner values need their rescale slope and intercept first; MR"
                " images do not fit"
            )
        invariances_experiments.check_lesion(self.volume, settings)
        channel = model.card.inputs[0]
        self.low, self.scale = channel.low, channel.high - channel.low
        self.k, self.region = self._region()
        self.slices, self.found = range(*self.k), {}
        self.rows: dict[str, list] = {}
        self.tables, self.curves, self.lesions, self.label = {}, {}, {}, ""
        self.current: TileState | None = None
        self.headings: list[str] = []  # of the references
        self.segments, self.inputs = None, {"low_dose": volume.name}
        if segments is not None:
            self.inputs["segments"] = segments.name
            same = core_volumes.resample(segments, self.original, "nearest", 0)
            self.segments = core_volumes.reorient(same, "LPS").array
        self.next_intermediate, self.done = time.monotonic() + INTERMEDIATE_EVERY_S, 0
        self.epsilon = self._epsilon()

    def _region(self) -> tuple[tuple[int, int], Window]:
        box = self.settings.region or tuple(x for n in self.original.shape for x in (0, n))
        low, high = box[::2], box[1::2]
        if len(box) != 6 or any(
            a < 0 or b > n or a >= b for a, b, n in zip(low, high, self.original.shape)
        ):
            raise ValueError(
                f"the region {box} does not lie within the volume of {self.original.shape[::-1]}"
                " voxels (i, j, k): move it onto the image"
            )
        inside = np.zeros(self.original.shape, bool)
        inside[tuple(slice(a, b) for a, b in zip(low, high))] = True
        turned = core_volumes.reorient(self.original.with_array(inside), "LPS").array
        ((k, j, i),) = ndimage.find_objects(turned.astype(np.uint8))
        return (k.start, k.stop), Window(j.start, j.stop, i.start, i.stop)

    def _epsilon(self) -> float:
        """What counts as unnoticed, in the measure's units."""
        s = self.settings
        if s.layer != "output":
            return s.epsilon_layer
        if s.epsilon_hu is not None:
            return s.epsilon_hu
        self.noise_hu = image_noise(self.hu[self.k[0] : self.k[1]].numpy())
        if not self.noise_hu > 0:
            raise ValueError(
                "no noise could be measured in this region (is it constant?): give epsilon in HU"
            )
        return s.epsilon_noise * self.noise_hu

    def normalised(self, hu: Tensor) -> Tensor:
        return (hu - self.low) / self.scale

    def slice(self, k: int) -> None:
        """One axial slice: every proposal is tried on the whole region, then some are projected,
        tile by tile.
        """
        s, hu = self.settings, self.hu[k]
        x0 = self.normalised(hu)[None, None].to(self.device)
        found = self.found[k] = SliceState(
            {key: Blended(tuple(hu.shape)) for key in MAPS}, self.denoised(x0)
        )
        whole = self.current = self.tile_of(
            k, x0, self.region, torch.ones(self.region.size, dtype=torch.float64)
        )
        proposer = Proposer(
            hu,
            self.volume.spacing_mm[:2],
            self.region,
            s,
            self.sampling.changes(hu, x0, self.region) if "cinn" in s.proposals else None,
        )
        # By the slice's place in the patient, so that a cropped volume has the same samples.
        generator = torch.Generator().manual_seed(
            (s.seed * 100_003 + round(100 * self.height(k))) % 2**31
        )
        self.share = s.samples / (s.samples + EVALUATIONS_EACH * s.projected)  # of the slice's time
        self.reference(found, whole, proposer, generator)
        proposals = self.sample(whole, proposer, generator)
        every = list(tiles(self.region, s.tile, s.overlap)) if s.projected else []
        if len(every) != 1:
            self.finish(whole)
        for number, (window, weight) in enumerate(every):
            tile = whole if len(every) == 1 else self.tile_of(k, x0, window, weight)
            self.where = (k, number, len(every))
            self.project(tile, proposals[(slice(None), *window.within(self.region).slices)])
            if tile is whole:
                self.prove_each(
                    whole,
                    list(range(1, s.projected + 1)),
                    proposals,
                    torch.cat([p.images for p in whole.moved]),
                )
            self.finish(tile)
        if len(every) > 1:
            self.prove_shown(whole, proposals)
        self.answer(found)
        found.maps = {key: self.deviation(found, key).numpy() for key in MAPS}
        found.deviations = {}
        self.done += 1

    def denoised(self, x0: Tensor) -> Tensor:
        """The network's output for a slice (1, 1, J, I), HU (J, I)."""
        name, size = self.model.card.name, tuple(x0.shape[2:])
        try:
            with torch.no_grad():
                output = self.model.network(x0)
        except RuntimeError as error:
            if devices.is_out_of_memory(error):
                raise
            multiple = self.model.card.size_multiple
            raise model_files.ModelError(
                f"{name!r} cannot run on slices of {size[0]} x {size[1]} voxels ({error}): sizes"
                f" must be multiples of {multiple}. Crop the volume or choose another model"
            ) from error
        if tuple(output.shape) != tuple(x0.shape):
            raise model_files.ModelError(
                f"{name!r} makes {tuple(output.shape)} of {tuple(x0.shape)}: a CT denoiser gives an"
                " image of the same size. Choose another model"
            )
        return output[0, 0].cpu() * self.scale + self.low

    def answer(self, found: SliceState) -> None:
        """What the network makes of each sample that is kept, HU."""
        for key, image in found.samples.items():
            if key.startswith("sample"):
                normalised = self.normalised(image)[None, None].to(self.device)
                found.answers[key.replace("sample", "answer")] = self.denoised(normalised)

    def tile_of(self, k: int, x0: Tensor, window: Window, weight: Tensor) -> TileState:
        network, layer = self.model.network, self.settings.layer
        output = None if layer == "output" else LevelSet(network, x0, window, "output", self.scale)
        return TileState(
            k, window, weight, LevelSet(network, x0, window, layer, self.scale), output
        )

    def reference(
        self, found: SliceState, whole: TileState, proposer: Proposer, generator: torch.Generator
    ) -> None:
        """What the samples' measure is to be compared with: other places, fresh noise, and the
        autoencoder by itself.
        """
        target, hu = whole.target, self.hu[whole.k]
        whole.references = {
            f"reference: other places of the slice ({target.units})": self.random_pairs(
                target, whole.k, generator
            ),
            f"reference: fresh noise of the same dose ({target.units})": float(
                self.measured(target, proposer.noise(FRESH_NOISES, generator)).mean()
            ),
        }
        if self.sampling is not None:
            floor = self.sampling.floor(hu, self.region)
            found.floor = torch.zeros_like(hu)
            found.floor[self.region.slices] = floor
            changed = f"autoencoder's image, change of the {self.layer_name} ({target.units})"
            whole.references |= {
                "autoencoder's error (HU)": float(floor.double().square().mean().sqrt()),
                changed: float(self.measured(target, floor[None])),
            }

    def measured(self, target: LevelSet, changes: Tensor) -> Tensor:
        """The measure of changes (N, h, w), HU."""
        return target.measure(target.start + (changes / self.scale)[:, None].to(self.device))

    def sample(self, whole: TileState, proposer: Proposer, generator: torch.Generator) -> Tensor:
        """Try every proposal on the whole region; gives those that are to be projected, as changes
        (N, h, w), HU.
        """
        s, kept = self.settings, []
        at_once = max(1, min(SAMPLES_AT_ONCE, VOXELS_AT_ONCE // whole.weight.numel()))
        for first in range(0, s.samples, at_once):
            count = min(at_once, s.samples - first)
            self.tell(
                whole.k, self.share * first / s.samples, f"trying sample {first + 1} of {s.samples}"
            )
            changes = proposer.draw(first, count, generator)
            self.add(whole.moments, "unproven", changes)
            whole.measures.append(self.measured(whole.target, changes))
            self.keep(whole, "proposal", first, changes)
            kept.append(changes[: max(0, s.projected - first)].clone())
            self.intermediate()
            if first % SAMPLES_AT_ONCE == 0:
                devices.trim_memory()
        return torch.cat(kept)

    def project(self, tile: TileState, proposals: Tensor) -> None:
        """Move proposals, changes (N, h, w) in HU, onto the level set of a tile."""
        s, target, self.current = self.settings, tile.target, tile
        k, number, count = self.where
        for first in range(0, len(proposals), SAMPLES_AT_ONCE):
            some = target.start + (proposals[first : first + SAMPLES_AT_ONCE] / self.scale)[
                :, None
            ].to(self.device)
            ends = [
                self.share + (1 - self.share) * (number + n / len(proposals)) / count
                for n in (first, first + len(some))
            ]
            self.tell(k, ends[0], f"tile {number + 1} of {count}, projecting")
            projected = level_set.project(
                target,
                some,
                self.epsilon,
                s.max_evaluations,
                Part(self.progress, *map(self.fraction, ends)),
            )
            changes = (projected.images - target.start)[:, 0].cpu() * self.scale
            accepted = projected.accepted
            tile.moved.append(projected)
            if tile.output is not None:
                tile.outputs.append(tile.output.measure(projected.images))
            tile.accepted.append(changes[accepted])
            self.add(tile.moments, "proven", tile.accepted[-1])
            self.keep(tile, "sample", first, changes, accepted)
            self.intermediate()
            devices.trim_memory()

    def prove_shown(self, whole: TileState, proposals: Tensor) -> None:
        """Samples that were put together from tiles, which were proven one by one: each is taken
        back towards the patient's image until the whole of it is unnoticed.
        """
        samples, target = self.found[whole.k].samples, whole.target
        numbers = [n for n in range(1, len(proposals) + 1) if f"sample {n}" in samples]
        if not numbers:
            return
        inside = torch.stack([samples[f"sample {n}"][target.region.slices] for n in numbers])
        images, enough = (
            self.normalised(inside)[:, None].to(self.device),
            level_set.ENOUGH * self.epsilon,
        )
        unnoticed = (target.measure(images) <= enough).to(images.device).view(-1, 1, 1, 1)
        back = level_set.returned(target, target.start.expand_as(images), images, enough)
        images = torch.where(unnoticed, images, back)
        for n, image in zip(numbers, images):
            samples[f"sample {n}"][target.region.slices] = image[0].cpu() * self.scale + self.low
        self.prove_each(whole, numbers, proposals[[n - 1 for n in numbers]], images)

    def prove_each(
        self, whole: TileState, numbers: list[int], proposals: Tensor, images: Tensor
    ) -> None:
        """Lines of table "proof of samples": proposals, changes (N, h, w) in HU, and the images (N,
        1, h, w) they became.
        """
        target, layer = whole.target, f"change of the {self.layer_name} ({whole.target.units})"
        proposed = target.start + (proposals / self.scale)[:, None].to(self.device)
        measure = target.measure(images)
        columns = {
            "slice": [whole.k] * len(images),
            "sample": numbers,
            f"unproven, {layer}": torch.cat(whole.measures)[[n - 1 for n in numbers]].tolist(),
            f"projected, {layer}": measure.tolist(),
            "accepted": (measure <= self.epsilon).tolist(),
            **(
                {"projected, change of the output (HU)": whole.output.measure(images).tolist()}
                if whole.output
                else {}
            ),
            "input change before (HU)": (
                (level_set.rms(proposed - target.start) * self.scale).tolist()
            ),
            "input change after (HU)": (level_set.rms(images - target.start) * self.scale).tolist(),
            "survived (%)": (100 * level_set.survived(proposed, images, target.start)).tolist(),
        }
        table = self.tables.setdefault("proof of samples", Table("Proof of each sample", {}))
        for heading, values in columns.items():
            table.columns.setdefault(heading, []).extend(values)

    def finish(self, tile: TileState) -> None:
        """Take a tile into the slice's maps and tables."""
        self.current = None
        for key, blended in self.found[tile.k].deviations.items():
            blended.add(tile.moments[key], tile.window, tile.weight)
        if (
            tile.window == self.region
            and self.settings.components
            and sum(map(len, tile.accepted)) > 2
        ):
            self.principal(tile.k, tile.target, torch.cat(tile.accepted))
        for column, value in self.row(tile).items():
            self.rows.setdefault(column, []).append(value)
        self.intermediate()

    def add(self, moments: dict[str, Moments], kind: str, changes: Tensor) -> None:
        moments[kind].add(changes)
        for band, part in components.split(
            changes, self.volume.spacing_mm[:2], self.settings.structure_mm
        ).items():
            moments[f"{kind} {band}"].add(part)

    def principal(self, k: int, target: LevelSet, changes: Tensor) -> None:
        """Principal components of a slice's accepted samples; what each does to the layer is
        measured, not assumed.
        """
        found = components.principal_components(changes, self.settings.components)
        table = self.tables.setdefault(
            "components", Table("Principal components of the accepted samples", {})
        )
        for number, (image, explained) in enumerate(zip(found.images, found.explained), 1):
            whole = self.found[k].components.setdefault(
                f"component {number}", torch.zeros(self.hu[k].shape)
            )
            whole[target.region.slices] = image.float()
            step = (image.float() / self.scale)[None, None].to(target.start)
            one, two = (float(target.measure(target.start + t * step)) for t in (1, 2))
            row = {
                "slice": k,
                "component": number,
                "explained variance (%)": 100 * float(explained),
                "samples": len(changes),
                f"change of the {self.layer_name}, 1 standard deviation ({target.units})": one,
                f"2 standard deviations ({target.units})": two,
            }
            for heading, value in row.items():
                table.columns.setdefault(heading, []).append(value)

    def experiments(self) -> None:
        """The lesion and the spectrum, if asked for."""
        s = self.settings
        if s.lesion is not None:
            self.tables["lesions"], self.curves["detectability"], self.lesions = (
                invariances_experiments.lesion(
                    self.volume,
                    self.model,
                    s,
                    self.epsilon,
                    self.device,
                    Part(self.progress, 0.9, 0.95),
                )
            )
            self.intermediate()
        if s.spectrum:
            epsilon = s.epsilon_hu or s.epsilon_noise * image_noise(
                self.hu[self.k[0] : self.k[1]].numpy()
            )
            middle = self.slices[len(self.slices) // 2]
            strength = self.found[middle].maps["unproven"]
            self.tables["spectrum"], self.curves["gains"] = invariances_experiments.spectra(
                self.volume,
                middle,
                self.region,
                self.model,
                s,
                epsilon,
                float(np.sqrt(np.nanmean(strength**2))),
                self.device,
                Part(self.progress, 0.95, 1.0),
            )

    def keep(
        self, tile: TileState, kind: str, first: int, changes: Tensor, wanted: Tensor | None = None
    ) -> None:
        """The first samples as images; where tiles overlap the later one counts (samples are never
        blended).
        """
        for n in range(min(len(changes), self.settings.shown - first)):
            if wanted is None or wanted[n]:
                whole = self.found[tile.k].samples.setdefault(
                    f"{kind} {first + n + 1}", self.hu[tile.k].clone()
                )
                whole[tile.window.slices] = self.hu[tile.k][tile.window.slices] + changes[n]

    def row(self, now: TileState) -> dict[str, float | int | str]:
        """One line of table "proof": what the samples do to the layer, beside the references;
        figures that a tile or a whole region has not are not numbers.
        """

        def mean(values: list[Tensor]) -> float:
            return float(torch.cat(values).double().mean()) if values else float("nan")

        k, tile, target, moved = now.k, now.window, now.target, now.moved
        accepted = [p.accepted for p in moved]
        known = {
            "slice": k,
            "S (mm)": self.height(k),
            "rows": f"{tile.j0}-{tile.j1 - 1}",
            "columns": f"{tile.i0}-{tile.i1 - 1}",
            f"unproven samples, change of the {self.layer_name} ({target.units})": mean(
                now.measures or [p.proposed for p in moved]
            ),
            f"projected samples, change ({target.units})": mean([p.measure for p in moved]),
            **(
                {"projected samples, change of the output (HU)": mean(now.outputs)}
                if now.output
                else {}
            ),
            f"largest accepted ({target.units})": max(
                (float(p.measure[p.accepted].max()) for p in moved if p.accepted.any()),
                default=float("nan"),
            ),
            "accepted (%)": 100 * mean(accepted),
            "projected": int(sum(len(a) for a in accepted)),
            "input change before (HU)": mean([p.change_before for p in moved]) * self.scale,
            "input change after (HU)": mean([p.change_after for p in moved]) * self.scale,
            "survived (%)": 100 * mean([p.survived[p.accepted] for p in moved]),
            "evaluations per sample": mean([p.evaluations for p in moved]),
        }
        if now.references:
            self.headings = list(now.references)
        return known | {
            heading: now.references.get(heading, float("nan")) for heading in self.headings
        }

    def random_pairs(self, target: LevelSet, k: int, generator: torch.Generator) -> float:
        """The measure when the region shows another place of the slice: what two unrelated images
        differ by.

        Beyond the slice's edges comes its other side, so that there are other places however large
        the region is.
        """
        shifts = [
            [int(torch.randint(1, n, (1,), generator=generator)) for n in self.hu.shape[1:]]
            for _ in range(RANDOM_PAIRS)
        ]
        patches = torch.stack(
            [self.hu[k].roll(shift, (0, 1))[target.region.slices] for shift in shifts]
        )
        return float(target.measure(self.normalised(patches)[:, None].to(self.device)).mean())

    def height(self, k: int) -> float:
        """Where a slice's first voxel lies, S in mm."""
        return float((self.volume.ijk_to_ras @ (0, 0, k, 1.0))[2])

    @property
    def layer_name(self) -> str:
        return "output" if self.settings.layer == "output" else f"layer {self.settings.layer}"

    def tell(self, k: int, share: float, words: str) -> None:
        self.progress.report(self.fraction(share), f"Slice {k}: {words}")

    def fraction(self, share: float) -> float:
        """Of the run, when a share of the slice that is worked on is done."""
        return 0.9 * (self.done + share) / len(self.slices)

    def intermediate(self) -> None:
        began = time.monotonic()
        if began > self.next_intermediate:
            self.progress.intermediate(self.result(complete=False))
            # Of many slices it takes seconds: a twentieth of the time at most.
            now = time.monotonic()
            self.next_intermediate = now + max(INTERMEDIATE_EVERY_S, 20 * (now - began))

    # Result ---------------------------------------------------------------------------------------

    def result(self, complete: bool) -> Result:
        model, s = self.model, self.settings
        rows = {heading: list(values) for heading, values in self.rows.items()}
        for heading, value in self.row(self.current).items() if self.current else ():
            rows.setdefault(heading, []).append(value)
        accepted = np.nansum(
            np.array(rows.get("accepted (%)", [])) / 100 * np.array(rows.get("projected", []))
        )
        tried = sum(rows.get("projected", []))
        result = Result(
            facts={
                "complete": complete,
                "settings": asdict(s),
                "model": model.facts(),
                "epsilon": self.epsilon,
                "inputs": self.inputs,
                **({"sampler": self.sampling.facts} if self.sampling else {}),
                "epsilon_units": "relative" if s.layer != "output" else "HU",
                "accepted": int(accepted),
                "projected": int(tried),
                "device": devices.describe(self.device),
                "versions": devices.versions(self.device),
                "slices_done": self.done,
                "slices": len(self.slices),
            }
        )
        partial = "" if complete else " (partial)"
        deviations = {
            key: self.assemble(lambda f, key=key: self.deviation(f, key), np.nan) for key in MAPS
        }
        self.put(result, "patient", self.hu.numpy(), "ct", "Low dose")
        self.put(result, "output", self.assemble(lambda f: f.output, AIR_HU), "ct", "Denoised")
        for key in ("unproven", "proven", *(f"proven {band}" for band in components.BANDS)):
            kind, *band = key.split()
            words = f"{kind.capitalize()} SD{''.join(f' of {b}' for b in band)}{partial}"
            self.put(result, f"std {key}", np.nan_to_num(deviations[key]), "spread", words)
        share = np.divide(
            deviations["proven"],
            deviations["unproven"],
            out=np.zeros_like(deviations["proven"]),
            where=np.nan_to_num(deviations["unproven"]) > 0,
        )
        self.put(
            result,
            "share survived",
            np.nan_to_num(share),
            "spread",
            f"Share that survived{partial}",
            units="",
        )
        if self.sampling is not None:
            floor = self.assemble(lambda f: f.floor, 0.0)
            self.put(result, "vae floor", floor, "difference", f"Autoencoder's error{partial}")
        for key in sorted({key for found in self.found.values() for key in found.components}):
            array = self.assemble(lambda f, key=key: f.components.get(key), 0.0)
            self.put(result, key, array, "difference", f"{key.capitalize()}{partial}")
        for key in sorted({key for found in self.found.values() for key in found.samples}):
            words = f"{key.capitalize()}, {'proven' if key.startswith('sample') else 'unproven'}"
            self.put(result, key, self.assemble(lambda f, key=key: f.samples.get(key)), "ct", words)
        for key in sorted({key for found in self.found.values() for key in found.answers}):
            answer = self.assemble(lambda f, key=key: f.answers.get(key), AIR_HU)
            self.put(result, key, answer, "ct", f"Denoised {key.replace('answer', 'sample')}")
        for key, array in self.lesions.items():
            self.put(
                result,
                key,
                array,
                "ct",
                "Nodule put in" if key == "lesion" else "Nodule, its unnoticed part",
            )
        result.tables["proof"] = Table("Proof: how invariant the samples are", rows)
        result.tables["bands"] = components.band_table(deviations, s.structure_mm)
        if self.segments is not None:
            maps = {f"standard deviation, {key}": deviations[key] for key in ("unproven", "proven")}
            result.tables["segments"] = components.segment_table(self.segments, s.segments, maps)
        result.tables.update(self.tables)
        result.curves.update(self.curves)
        return result

    def deviation(self, found: SliceState, key: str) -> Tensor:
        """A map of a slice, float32; the tile that is being worked on counts with what it has."""
        if key in found.maps:
            return torch.from_numpy(found.maps[key])
        blended, now = found.deviations[key], self.current
        if now is not None and self.found[now.k] is found:
            blended = copy.deepcopy(blended)
            blended.add(now.moments[key], now.window, now.weight)
        return torch.from_numpy(blended.deviation()).float()

    def assemble(self, of_slice, nothing: float | None = None) -> np.ndarray:
        """A volume from what ``of_slice`` gives of each slice; where that is nothing, the patient's
        image or ``nothing``.
        """
        array = (
            self.hu.numpy().copy()
            if nothing is None
            else np.full(self.hu.shape, nothing, np.float32)
        )
        for k, found in self.found.items():
            image = of_slice(found)
            if image is not None:
                array[k] = image.numpy()
        return array

    def put(
        self, result: Result, key: str, array: np.ndarray, role: str, words: str, units: str = "HU"
    ) -> None:
        """Add an image; ``words`` say what it is."""
        volume = self.volume.with_array(array, name=words + self.label, units=units)
        result.volumes[key], result.roles[key] = (
            core_volumes.reorient_like(volume, self.original),
            role,
        )
