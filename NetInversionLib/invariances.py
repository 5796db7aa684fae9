"""Invariances of a CT denoiser: what may change in a low-dose image without the network noticing, sampled and proven.

    result = invariances({"low_dose": volume}, {"denoiser": model}, Settings())

Changes are proposed (fresh noise of the same dose, random texture), tried as they are, which is the unproven map, and moved onto
the network's level set (``level_set``), which is the proven one. Source: Eulig, Ommer & Kachelriess, Proc. SPIE 12304, 123040S
(2022); the projection is this project's own.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from . import components, devices, invariance_experiments, level_set, volumes
from . import models as model_files
from .invariance_settings import Settings
from .layers import UpTo
from .level_set import LevelSet, Projected, Window
from .low_dose import FreshNoise, LowDoseSettings
from .models import Model
from .results import Progress, Result, Table
from .volumes import Volume

SAMPLES_AT_ONCE = 16
RANDOM_PAIRS = 8
INTERMEDIATE_EVERY_S = 5.0
SOFT_TISSUE_HU = (-150.0, 150.0)  # where the noise of a CT image is measured


def run_task(volumes: dict[str, Volume], model_paths: dict[str, str], settings: dict, progress: Progress) -> Result:
    """``invariances`` as a job: settings as JSON values, models as files."""
    models = {key: model_files.load(path) for key, path in model_paths.items()}
    return invariances(volumes, models, Settings.from_json(settings), progress)


def invariances(volumes: dict[str, Volume], models: dict[str, Model], settings: Settings = Settings(),
                progress: Progress = Progress()) -> Result:
    """Sample what may change in ``volumes["low_dose"]`` without ``models["denoiser"]`` noticing.

    Args:
        volumes: "low_dose", CT in HU, any orientation. Optional "segments", whole numbers (``components.segment_table``).
        models: "denoiser", one input and one output in HU, 2-D. Optional "second", another one, asked about the same proposals;
            what is found for it has the same keys with " second" behind.
        settings: See ``Settings``.
        progress: Receives progress, log and intermediate results; may raise ``Cancelled``.

    Returns:
        Result with volumes on the input's grid, HU: "patient" (the input, float32), "output" (the denoised
        image), "std unproven" (standard deviation of all
        proposals), "std proven" (of accepted projected samples, about the patient's image), "share survived" (their ratio),
        "std proven structure" and "std proven noise" (the same by size of structures), "sample <n>" and "proposal <n>",
        "component <n>" (one standard deviation); tables "proof", "bands" and, as asked for, "components", "segments", "lesions",
        "spectrum"; curves "detectability", "gains"; facts with settings, model, epsilon and acceptance.

    Raises:
        ValueError: Volume or model cannot be used, or the region misses the volume; says what to do.
    """
    device = devices.choose(settings.device, progress.log)
    asked = {" second" if key == "second" else "": _checked(models[key], (settings.layer, *settings.spectrum))
             for key in ("denoiser", "second") if key in models}
    results: dict[str, Result] = {}
    for suffix, model in asked.items():
        model.network.to(device)
        part = _Part(progress, len(results) / len(asked), 1 / len(asked),
                     lambda one, suffix=suffix: merged({**results, suffix: one}))
        run = _Run(volumes["low_dose"], model, settings, part, device, volumes.get("segments"))
        if len(asked) > 1:
            run.label = f", {model.card.name}"
        for k in run.slices:
            run.slice(k)
        run.experiments()
        results[suffix] = run.result(complete=True)
    progress.report(1.0, "Done")
    return merged(results)


class _Part(Progress):
    """A part of the whole way: its fractions are put in their place, its results are completed."""

    def __init__(self, whole: Progress, start: float, share: float, completed: Callable[[Result], Result] | None = None):
        self.whole, self.start, self.share, self.completed = whole, start, share, completed
        self.log, self.point = whole.log, whole.point

    def report(self, fraction: float, message: str) -> None:
        self.whole.report(self.start + self.share * fraction, message)

    def intermediate(self, result: Result) -> None:
        self.whole.intermediate(self.completed(result) if self.completed else result)


def merged(results: dict[str, Result]) -> Result:
    """Results by suffix as one; facts are the first's, the others' under "second"."""
    whole = Result()
    for suffix, result in results.items():
        for kind in ("volumes", "tables", "curves", "roles"):
            getattr(whole, kind).update({key + suffix: value for key, value in getattr(result, kind).items()})
        whole.facts.update({suffix.strip(): result.facts} if suffix else result.facts)
    whole.facts["complete"] = all(result.facts["complete"] for result in results.values())
    return whole


def _checked(model: Model, layers: tuple[str, ...]) -> Model:
    """The model, if it is a denoiser that has these layers."""
    card = model.card
    if len(card.inputs) != 1 or len(card.outputs) != 1 or card.dimensions != 2:
        raise model_files.ModelError(f"{card.name!r} has {len(card.inputs)} inputs and {len(card.outputs)} outputs in "
                                     f"{card.dimensions}-D: a CT denoiser has one of each, slice by slice. Choose another model")
    if {card.inputs[0].units, card.outputs[0].units} != {"HU"}:
        raise model_files.ModelError(f"{card.name!r} does not work in HU: choose a CT denoiser")
    if not all(torch.isfinite(p).all() for p in model.network.parameters()):
        raise model_files.ModelError(f"{card.name!r} holds weights that are not numbers: its training has failed. Choose another")
    for layer in layers:
        try:
            UpTo(model.network, layer, torch.zeros(1, 1, 64, 64))
        except RuntimeError as error:
            raise model_files.ModelError(f"{card.name!r} does not run on images of one channel ({error}): choose a CT denoiser"
                                         ) from error
    return model


# Moments ------------------------------------------------------------------------------------------------------------

class Moments:
    """Running first and second moments of images, float64; memory does not grow with their number."""

    def __init__(self, size: tuple[int, int]):
        self.count, self.first, self.second = 0, torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)

    def add(self, changes: Tensor) -> None:
        """Images (N, h, w) as changes from the patient's, so that no digits are lost."""
        changes = changes.double().cpu()
        self.count += len(changes)
        self.first += changes.sum(0)
        self.second += changes.square().sum(0)


class Blended:
    """Moments of a slice put together from overlapping tiles: moments are averaged by weight, never the samples."""

    def __init__(self, size: tuple[int, int]):
        self.weight, self.first, self.second = (torch.zeros(size, dtype=torch.float64) for _ in range(3))

    def add(self, moments: Moments, tile: Window, weight: Tensor) -> None:
        if moments.count == 0:
            return
        for total, part in ((self.weight, 1.0), (self.first, moments.first / moments.count),
                            (self.second, moments.second / moments.count)):
            total[tile.slices] += weight * part

    def deviation(self) -> np.ndarray:
        """Standard deviation, NaN where no tile had a sample."""
        mean, square = self.first / self.weight, self.second / self.weight
        return (square - mean.square()).clamp(min=0).sqrt().numpy()


def tiles(region: Window, tile: int, overlap: int) -> Iterator[tuple[Window, Tensor]]:
    """Tiles that cover a region, each with its weights (h, w) in ``Blended``, which fall linearly towards a neighbour."""
    rows, columns = _steps(region.j0, region.j1, tile, overlap), _steps(region.i0, region.i1, tile, overlap)
    for j0, j1, up, down in rows:
        for i0, i1, left, right in columns:
            yield Window(j0, j1, i0, i1), _ramp(j1 - j0, up, down)[:, None] * _ramp(i1 - i0, left, right)[None]


def _steps(start: int, stop: int, tile: int, overlap: int) -> list[tuple[int, int, int, int]]:
    """(first, last, overlap before, overlap after) along one axis; tiles of equal length as far as that goes."""
    length = stop - start
    count = max(1, -(-(length - overlap) // (tile - overlap))) if length > tile else 1
    edges = np.linspace(0, length - overlap, count + 1).round().astype(int) if count > 1 else np.array([0, length])
    extra = overlap if count > 1 else 0
    return [(start + int(a), start + int(b) + extra, extra if n else 0, extra if n < count - 1 else 0)
            for n, (a, b) in enumerate(zip(edges, edges[1:]))]


def _ramp(length: int, before: int, after: int) -> Tensor:
    weight = torch.ones(length, dtype=torch.float64)
    if before:
        weight[:before] = (torch.arange(before, dtype=torch.float64) + 0.5) / before
    if after:
        weight[length - after:] = weight[length - after:] * (torch.arange(after, dtype=torch.float64).flip(0) + 0.5) / after
    return weight


# The run ------------------------------------------------------------------------------------------------------------

MAPS = [f"{kind}{band}" for kind in ("unproven", "proven") for band in ("", *(f" {b}" for b in components.BANDS))]


@dataclass
class _Slice:
    """What was found in one slice so far."""

    deviations: dict[str, Blended]  # by MAPS
    output: Tensor
    samples: dict[str, Tensor] = field(default_factory=dict)
    components: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class _Tile:
    """What was found in one tile of a slice so far."""

    k: int
    window: Window
    weight: Tensor
    target: LevelSet
    moments: dict[str, Moments]
    measures: list[Tensor] = field(default_factory=list)
    moved: list[Projected] = field(default_factory=list)
    accepted: list[Tensor] = field(default_factory=list)


class _Run:
    def __init__(self, volume: Volume, model: Model, settings: Settings, progress: Progress, device: torch.device,
                 segments: Volume | None = None):
        self.model, self.settings, self.progress, self.device = model, settings, progress, device
        self.original, self.volume = volume, volumes.reorient(volumes.check(volume), "LPS")
        self.hu = torch.from_numpy(np.ascontiguousarray(self.volume.float32()))
        if float(self.hu.min()) > -500:
            raise ValueError(f"'{volume.name}' holds no air (lowest value {float(self.hu.min()):g}): is it a CT in HU? Raw "
                             "scanner values need their rescale slope and intercept first; MR images do not fit")
        channel = model.card.inputs[0]
        self.low, self.scale = channel.low, channel.high - channel.low
        self.k, self.region = self._region()
        self.slices, self.found = range(*self.k), {}
        self.rows: dict[str, list] = {}
        self.tables, self.curves, self.label = {}, {}, ""
        self.current: _Tile | None = None
        self.segments = None
        if segments is not None:
            same = volumes.resample(segments, self.original, "nearest", 0)
            self.segments = volumes.reorient(same, "LPS").array
        self.saved, self.done = time.monotonic(), 0
        self.epsilon = self._epsilon()

    def _region(self) -> tuple[tuple[int, int], Window]:
        box = self.settings.region or tuple(x for n in self.original.shape for x in (0, n))
        low, high = box[::2], box[1::2]
        if len(box) != 6 or any(a < 0 or b > n or a >= b for a, b, n in zip(low, high, self.original.shape)):
            raise ValueError(f"the region {box} does not lie within the volume of {self.original.shape[::-1]} voxels (i, j, k): "
                             "move it onto the image")
        inside = np.zeros(self.original.shape, bool)
        inside[tuple(slice(a, b) for a, b in zip(low, high))] = True
        turned = volumes.reorient(self.original.with_array(inside), "LPS").array
        (k, j, i), = ndimage.find_objects(turned.astype(np.uint8))
        return (k.start, k.stop), Window(j.start, j.stop, i.start, i.stop)

    def _epsilon(self) -> float:
        """What counts as unnoticed, in the measure's units."""
        s = self.settings
        if s.layer != "output":
            return s.epsilon_layer
        if s.epsilon_hu is not None:
            return s.epsilon_hu
        self.noise_hu = image_noise(self.hu[self.k[0]:self.k[1]].numpy())
        if not self.noise_hu > 0:
            raise ValueError("no noise could be measured in this region (is it constant?): give epsilon in HU")
        return s.epsilon_noise * self.noise_hu

    def normalised(self, hu: Tensor) -> Tensor:
        return (hu - self.low) / self.scale

    def slice(self, k: int) -> None:
        """One axial slice, tile by tile."""
        hu, generator = self.hu[k], torch.Generator().manual_seed(self.settings.seed * 100_003 + k)
        x0 = self.normalised(hu)[None, None].to(self.device)
        size = tuple(hu.shape)
        self.found[k] = _Slice({key: Blended(size) for key in MAPS}, self.denoised(x0))
        proposer = Proposer(hu, self.volume.spacing_mm[:2], self.settings)
        every = list(tiles(self.region, self.settings.tile, self.settings.overlap))
        for number, (tile, weight) in enumerate(every):
            self.where = (k, number, len(every))
            self.tile(k, x0, tile, weight, proposer, generator)
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
            raise model_files.ModelError(f"{name!r} cannot run on slices of {size[0]} x {size[1]} voxels ({error}): sizes must "
                                         f"be multiples of {multiple}. Crop the volume or choose another model") from error
        if tuple(output.shape) != tuple(x0.shape):
            raise model_files.ModelError(f"{name!r} makes {tuple(output.shape)} of {tuple(x0.shape)}: a CT denoiser gives an "
                                         "image of the same size. Choose another model")
        return output[0, 0].cpu() * self.scale + self.low

    def tile(self, k: int, x0: Tensor, tile: Window, weight: Tensor, proposer: Proposer, generator: torch.Generator) -> None:
        s, found = self.settings, self.found[k]
        target = LevelSet(self.model.network, x0, tile, s.layer, self.scale)
        self.current = now = _Tile(k, tile, weight, target, {key: Moments(tile.size) for key in MAPS})
        for first in range(0, s.samples, SAMPLES_AT_ONCE):
            count = min(SAMPLES_AT_ONCE, s.samples - first)
            self.tell(first / s.samples, f"trying sample {first + 1} of {s.samples}")
            changes = proposer.draw(count, generator, tile.slices)
            self.add(now.moments, "unproven", changes)
            proposals = target.start + (changes / self.scale)[:, None].to(self.device)
            now.measures.append(target.measure(proposals))
            wanted = proposals[:max(0, min(count, s.projected - first))]
            if len(wanted):
                projected = level_set.project(target, wanted, self.epsilon, s.max_evaluations)
                now.moved.append(projected)
                now.accepted.append((projected.images - target.start)[projected.accepted][:, 0].cpu() * self.scale)
                self.add(now.moments, "proven", now.accepted[-1])
                self.keep(found, tile, first, proposals, projected)
            self.intermediate()
        self.current = None
        for key, blended in found.deviations.items():
            blended.add(now.moments[key], tile, weight)
        if self.where[2] == 1 and s.components and sum(map(len, now.accepted)) > 2:
            self.principal(k, target, torch.cat(now.accepted))
        for heading, value in self.row(now, generator).items():
            self.rows.setdefault(heading, []).append(value)
        self.intermediate()

    def add(self, moments: dict[str, Moments], kind: str, changes: Tensor) -> None:
        moments[kind].add(changes)
        for band, part in components.split(changes, self.volume.spacing_mm[:2], self.settings.structure_mm).items():
            moments[f"{kind} {band}"].add(part)

    def principal(self, k: int, target: LevelSet, changes: Tensor) -> None:
        """Principal components of a slice's accepted samples; what each does to the layer is measured, not assumed."""
        found = components.principal_components(changes, self.settings.components)
        table = self.tables.setdefault("components", Table("Principal components of the accepted samples", {}))
        for number, (image, explained) in enumerate(zip(found.images, found.explained), 1):
            whole = self.found[k].components.setdefault(f"component {number}", torch.zeros(self.hu[k].shape))
            whole[target.region.slices] = image.float()
            step = (image.float() / self.scale)[None, None].to(target.start)
            one, two = (float(target.measure(target.start + t * step)) for t in (1, 2))
            row = {"slice": k, "component": number, "explained variance (%)": 100 * float(explained), "samples": len(changes),
                   f"change of the {self.layer_name}, 1 standard deviation ({target.units})": one,
                   f"2 standard deviations ({target.units})": two}
            for heading, value in row.items():
                table.columns.setdefault(heading, []).append(value)

    def experiments(self) -> None:
        """The lesion and the spectrum, if asked for."""
        s = self.settings
        if s.lesion is not None:
            self.tables["lesions"], self.curves["detectability"] = invariance_experiments.lesion(
                self.volume, self.model, s, self.epsilon, self.device, _Part(self.progress, 0.9, 0.05))
            self.intermediate()
        if s.spectrum:
            epsilon = s.epsilon_hu or s.epsilon_noise * image_noise(self.hu[self.k[0]:self.k[1]].numpy())
            middle = self.slices[len(self.slices) // 2]
            strength = self.found[middle].deviations["unproven"].deviation()
            self.tables["spectrum"], self.curves["gains"] = invariance_experiments.spectra(
                self.volume, middle, self.region, self.model, s, epsilon, float(np.sqrt(np.nanmean(strength**2))),
                self.device, _Part(self.progress, 0.95, 0.05))

    def keep(self, found: _Slice, tile: Window, first: int, proposals: Tensor, projected: Projected) -> None:
        """The first samples as images; where tiles overlap the later one counts (samples are never blended)."""
        for n in range(min(len(projected.images), self.settings.shown - first)):
            number = first + n + 1
            for name, image in ((f"proposal {number}", proposals[n, 0]), (f"sample {number}", projected.images[n, 0])):
                if name.startswith("sample") and not projected.accepted[n]:
                    continue
                whole = found.samples.setdefault(name, self.hu[self.where[0]].clone())
                whole[tile.slices] = image.cpu() * self.scale + self.low

    def row(self, now: _Tile, generator: torch.Generator | None) -> dict[str, float | int | str]:
        """One line of table "proof": what the tile's samples do to the layer, beside a reference (with a generator)."""
        def mean(values: list[Tensor]) -> float:
            return float(torch.cat(values).double().mean()) if values else float("nan")

        k, tile, target, moved = now.k, now.window, now.target, now.moved
        height = float((self.volume.ijk_to_ras @ (0, 0, k, 1.0))[2])
        reference = self.random_pairs(target, tile, k, generator) if generator else float("nan")
        accepted = [p.accepted for p in moved]
        return {
            "slice": k, "S (mm)": height, "rows": f"{tile.j0}-{tile.j1 - 1}", "columns": f"{tile.i0}-{tile.i1 - 1}",
            f"unproven samples, change of the {self.layer_name} ({target.units})": mean(now.measures),
            f"projected samples, change ({target.units})": mean([p.measure for p in moved]),
            f"largest accepted ({target.units})": max((float(p.measure[p.accepted].max()) for p in moved if p.accepted.any()),
                                                      default=float("nan")),
            "accepted (%)": 100 * mean(accepted), "projected": int(sum(len(a) for a in accepted)),
            "input change before (HU)": mean([p.change_before for p in moved]) * self.scale,
            "input change after (HU)": mean([p.change_after for p in moved]) * self.scale,
            "survived (%)": 100 * mean([p.survived[p.accepted] for p in moved]),
            f"reference: other places of the slice ({target.units})": reference,
            "evaluations per sample": mean([p.evaluations for p in moved]),
        }

    def random_pairs(self, target: LevelSet, tile: Window, k: int, generator: torch.Generator) -> float:
        """The measure when the region shows another place of the slice: what two unrelated images differ by."""
        h, w = tile.size
        rows, columns = self.hu.shape[1] - h, self.hu.shape[2] - w
        if rows + columns == 0:
            return float("nan")
        patches = []
        for _ in range(RANDOM_PAIRS):
            j, i = (int(torch.randint(n + 1, (1,), generator=generator)) for n in (rows, columns))
            patches.append(self.hu[k, j:j + h, i:i + w])
        return float(target.measure(self.normalised(torch.stack(patches))[:, None].to(self.device)).mean())

    @property
    def layer_name(self) -> str:
        return "output" if self.settings.layer == "output" else f"layer {self.settings.layer}"

    def tell(self, share: float, words: str) -> None:
        k, number, count = self.where
        done = (self.done + (number + share) / count) / len(self.slices)
        self.progress.report(0.9 * done, f"Slice {k}, tile {number + 1} of {count}: {words}")

    def intermediate(self) -> None:
        if time.monotonic() - self.saved > INTERMEDIATE_EVERY_S:
            self.saved = time.monotonic()
            self.progress.intermediate(self.result(complete=False))

    # Result ---------------------------------------------------------------------------------------------------------

    def result(self, complete: bool) -> Result:
        model, s = self.model, self.settings
        rows = {heading: list(values) for heading, values in self.rows.items()}
        for heading, value in self.row(self.current, None).items() if self.current else ():
            rows.setdefault(heading, []).append(value)
        accepted = np.nansum(np.array(rows.get("accepted (%)", [])) / 100 * np.array(rows.get("projected", [])))
        tried = sum(rows.get("projected", []))
        result = Result(facts={
            "complete": complete, "settings": asdict(s), "model": model.facts(), "epsilon": self.epsilon,
            "epsilon_units": "relative" if s.layer != "output" else "HU", "accepted": int(accepted), "projected": int(tried),
            "device": devices.describe(self.device), "versions": devices.versions(self.device),
            "slices_done": self.done, "slices": len(self.slices)})
        partial = "" if complete else " (partial)"
        name = self.original.name
        deviations = {key: self.assemble(lambda f, key=key: self.deviation(f, key), np.nan) for key in MAPS}
        self.put(result, "patient", self.hu.numpy(), "ct", f"{name}, these slices")
        self.put(result, "output", self.assemble(lambda f: f.output), "ct", f"{name} denoised")
        for key in ("unproven", "proven", *(f"proven {band}" for band in components.BANDS)):
            self.put(result, f"std {key}", np.nan_to_num(deviations[key]), "spread", f"{name} standard deviation, {key}{partial}")
        share = np.divide(deviations["proven"], deviations["unproven"], out=np.zeros_like(deviations["proven"]),
                          where=np.nan_to_num(deviations["unproven"]) > 0)
        self.put(result, "share survived", np.nan_to_num(share), "spread", f"{name} share of the change that survived{partial}",
                 units="")
        for key in sorted({key for found in self.found.values() for key in found.components}):
            array = self.assemble(lambda f, key=key: f.components.get(key), 0.0)
            self.put(result, key, array, "difference", f"{name} {key}{partial}")
        for key in sorted({key for found in self.found.values() for key in found.samples}):
            label = f"{name} {'proven ' if key.startswith('sample') else 'unproven '}{key}"
            self.put(result, key, self.assemble(lambda f, key=key: f.samples.get(key)), "ct", label)
        result.tables["proof"] = Table("Proof: how invariant the samples are", rows)
        result.tables["bands"] = components.band_table(deviations, s.structure_mm)
        if self.segments is not None:
            maps = {f"standard deviation, {key}": deviations[key] for key in ("unproven", "proven")}
            result.tables["segments"] = components.segment_table(self.segments, s.segments, maps)
        result.tables.update(self.tables)
        result.curves.update(self.curves)
        return result

    def deviation(self, found: _Slice, key: str) -> Tensor:
        """A map of a slice; the tile that is being worked on counts with what it has."""
        blended, now = found.deviations[key], self.current
        if now is not None and self.found[now.k] is found:
            blended = copy.deepcopy(blended)
            blended.add(now.moments[key], now.window, now.weight)
        return torch.from_numpy(blended.deviation())

    def assemble(self, of_slice, nothing: float | None = None) -> np.ndarray:
        """A volume from what ``of_slice`` gives of each slice; where that is nothing, the patient's image or ``nothing``."""
        array = np.full(self.hu.shape, nothing or 0.0, np.float32)
        for k, found in self.found.items():
            image = of_slice(found)
            if image is None:
                image = self.hu[k] if nothing is None else torch.tensor(nothing)
            array[k] = image.numpy()
        return array

    def put(self, result: Result, key: str, array: np.ndarray, role: str, name: str, units: str = "HU") -> None:
        volume = self.volume.with_array(array, name=name + self.label, units=units)
        result.volumes[key], result.roles[key] = volumes.reorient_like(volume, self.original), role


# Proposals ----------------------------------------------------------------------------------------------------------

class Proposer:
    """Draws changes of one slice, in HU: fresh noise of the same dose, random texture, or both in turn."""

    def __init__(self, hu: Tensor, spacing_mm: tuple[float, float], settings: Settings):
        self.hu, self.settings, self.factor = hu, settings, 1.0
        noise = LowDoseSettings(dose=settings.dose, photons=settings.photons, electronic=settings.electronic)
        self.noise = FreshNoise(hu, spacing_mm, noise) if "noise" in settings.proposals else None
        if self.noise is not None and settings.match_noise:
            drawn = self.noise.draw(1, torch.Generator().manual_seed(settings.seed))[0]
            there, made = image_noise(hu[None].numpy()), image_noise(drawn[None].numpy(), hu[None].numpy())
            self.factor = there / made if made > 0 and there > 0 else 1.0

    def draw(self, count: int, generator: torch.Generator, window: tuple[slice, slice]) -> Tensor:
        """(count, h, w) changes in HU inside a window (rows, columns)."""
        kinds = self.settings.proposals
        each = [count // len(kinds) + (n < count % len(kinds)) for n in range(len(kinds))]
        parts = [self._noise(n, generator, window) if kind == "noise" else self._texture(n, generator, window)
                 for kind, n in zip(kinds, each) if n]
        return torch.cat(parts)

    def _noise(self, count: int, generator: torch.Generator, window: tuple[slice, slice]) -> Tensor:
        return self.factor * self.noise.draw(count, generator, window)

    def _texture(self, count: int, generator: torch.Generator, window: tuple[slice, slice]) -> Tensor:
        """Band-passed noise, two to five voxels per period, root mean square ``texture_hu``; none in air."""
        h, w = self.hu[window].shape
        white = torch.randn(count, h, w, generator=generator)
        radius = torch.hypot(torch.fft.fftfreq(h)[:, None], torch.fft.rfftfreq(w)[None])
        images = torch.fft.irfft2(torch.fft.rfft2(white) * ((radius > 0.2) & (radius < 0.5)), s=(h, w))
        images = images / images.square().mean((1, 2), keepdim=True).sqrt().clamp(min=1e-12)
        return self.settings.texture_hu * images * (self.hu[window] > -800)


def image_noise(hu: np.ndarray, tissue_of: np.ndarray | None = None) -> float:
    """Standard deviation of the noise in soft tissue, HU, from slices (K, J, I); of the whole image where there is none.

    The median distance from the mean of 9 x 9 voxels: it counts noise of any texture finer than that, and few edges.
    ``tissue_of``: where to look for soft tissue, if not in the image itself.
    """
    where = ndimage.uniform_filter(hu if tissue_of is None else tissue_of, (1, 5, 5))
    soft = (where > SOFT_TISSUE_HU[0]) & (where < SOFT_TISSUE_HU[1])
    tissue = ndimage.binary_erosion(soft, np.ones((1, 9, 9)))
    rest = hu - ndimage.uniform_filter(hu, (1, 9, 9))
    return float(1.4826 * np.median(np.abs(rest[tissue] if tissue.sum() >= 100 else rest)))
