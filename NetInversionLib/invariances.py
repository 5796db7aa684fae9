"""Invariances of a CT denoiser: what may change in a low-dose image without the network noticing, sampled and proven.

    result = invariances({"low_dose": volume}, {"denoiser": model}, Settings())

Changes are proposed (fresh noise of the same dose, random texture), tried as they are, which is the unproven map, and moved onto
the network's level set (``level_set``), which is the proven one. Source: Eulig, Ommer & Kachelriess, Proc. SPIE 12304, 123040S
(2022); the projection is this project's own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from . import devices, level_set, volumes
from . import models as model_files
from .invariance_settings import Settings
from .level_set import LevelSet, Projected, Window
from .low_dose import FreshNoise, LowDoseSettings
from .models import Model
from .results import Progress, Result, Table
from .volumes import Volume

SAMPLES_AT_ONCE = 16
RANDOM_PAIRS = 8
INTERMEDIATE_EVERY_S = 10.0
SOFT_TISSUE_HU = (-150.0, 150.0)  # where the noise of a CT image is measured


def run_task(volumes: dict[str, Volume], model_paths: dict[str, str], settings: dict, progress: Progress) -> Result:
    """``invariances`` as a job: settings as JSON values, models as files."""
    models = {key: model_files.load(path) for key, path in model_paths.items()}
    return invariances(volumes, models, Settings.from_json(settings), progress)


def invariances(volumes: dict[str, Volume], models: dict[str, Model], settings: Settings = Settings(),
                progress: Progress = Progress()) -> Result:
    """Sample what may change in ``volumes["low_dose"]`` without ``models["denoiser"]`` noticing.

    Args:
        volumes: "low_dose", CT in HU, any orientation.
        models: "denoiser", one input and one output in HU, 2-D.
        settings: See ``Settings``.
        progress: Receives progress, log and intermediate results; may raise ``Cancelled``.

    Returns:
        Result with volumes on the input's grid, HU: "output" (the denoised image), "std unproven" (standard deviation of all
        proposals), "std proven" (of accepted projected samples, about the patient's image), "share survived" (their ratio),
        "sample <n>" and "proposal <n>"; table "proof"; facts with settings, model, epsilon and acceptance.

    Raises:
        ValueError: Volume or model cannot be used, or the region misses the volume; says what to do.
    """
    model = models["denoiser"]
    device = devices.choose(settings.device, progress.log)
    model.network.to(device)
    run = _Run(volumes["low_dose"], _checked(model), settings, progress, device)
    for k in run.slices:
        run.slice(k)
    progress.report(1.0, "Done")
    return run.result(complete=True)


def _checked(model: Model) -> Model:
    card = model.card
    if len(card.inputs) != 1 or len(card.outputs) != 1 or card.dimensions != 2:
        raise model_files.ModelError(f"{card.name!r} has {len(card.inputs)} inputs and {len(card.outputs)} outputs in "
                                     f"{card.dimensions}-D: a CT denoiser has one of each, slice by slice. Choose another model")
    if {card.inputs[0].units, card.outputs[0].units} != {"HU"}:
        raise model_files.ModelError(f"{card.name!r} does not work in HU: choose a CT denoiser")
    if not all(torch.isfinite(p).all() for p in model.network.parameters()):
        raise model_files.ModelError(f"{card.name!r} holds weights that are not numbers: its training has failed. Choose another")
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

@dataclass
class _Slice:
    """What was found in one slice so far."""

    unproven: Blended
    proven: Blended
    output: Tensor
    samples: dict[str, Tensor] = field(default_factory=dict)


class _Run:
    def __init__(self, volume: Volume, model: Model, settings: Settings, progress: Progress, device: torch.device):
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
        with torch.no_grad():
            output = self.model.network(x0)[0, 0].cpu() * self.scale + self.low
        self.found[k] = _Slice(Blended(size), Blended(size), output)
        proposer = Proposer(hu, self.volume.spacing_mm[:2], self.settings)
        every = list(tiles(self.region, self.settings.tile, self.settings.overlap))
        for number, (tile, weight) in enumerate(every):
            self.where = (k, number, len(every))
            self.tile(k, x0, tile, weight, proposer, generator)
        self.done += 1

    def tile(self, k: int, x0: Tensor, tile: Window, weight: Tensor, proposer: Proposer, generator: torch.Generator) -> None:
        s, found = self.settings, self.found[k]
        target = LevelSet(self.model.network, x0, tile, s.layer, self.scale)
        unproven, proven, measures, moved = Moments(tile.size), Moments(tile.size), [], []
        for first in range(0, s.samples, SAMPLES_AT_ONCE):
            count = min(SAMPLES_AT_ONCE, s.samples - first)
            self.tell(0.6 * first / s.samples, f"trying sample {first + 1} of {s.samples}")
            changes = proposer.draw(count, generator, tile.slices)
            unproven.add(changes)
            proposals = target.start + (changes / self.scale)[:, None].to(self.device)
            measures.append(target.measure(proposals))
            wanted = proposals[:max(0, min(count, s.projected - first))]
            if len(wanted):
                projected = level_set.project(target, wanted, self.epsilon, s.max_evaluations)
                moved.append(projected)
                proven.add((projected.images - target.start)[projected.accepted][:, 0] * self.scale)
                self.keep(found, tile, first, proposals, projected)
        found.unproven.add(unproven, tile, weight)
        found.proven.add(proven, tile, weight)
        self.row(k, tile, target, torch.cat(measures), moved, generator)
        self.intermediate()

    def keep(self, found: _Slice, tile: Window, first: int, proposals: Tensor, projected: Projected) -> None:
        """The first samples as images; where tiles overlap the later one counts (samples are never blended)."""
        for n in range(min(len(projected.images), self.settings.shown - first)):
            number = first + n + 1
            for name, image in ((f"proposal {number}", proposals[n, 0]), (f"sample {number}", projected.images[n, 0])):
                if name.startswith("sample") and not projected.accepted[n]:
                    continue
                whole = found.samples.setdefault(name, self.hu[self.where[0]].clone())
                whole[tile.slices] = image.cpu() * self.scale + self.low

    def row(self, k: int, tile: Window, target: LevelSet, measures: Tensor, moved: list[Projected],
            generator: torch.Generator) -> None:
        """One line of table "proof": what the tile's samples do to the layer, beside two references."""
        def mean(values: list[Tensor]) -> float:
            return float(torch.cat(values).double().mean()) if values else float("nan")

        accepted = [p.accepted for p in moved]
        values = {
            "slice": k, "rows": f"{tile.j0}-{tile.j1 - 1}", "columns": f"{tile.i0}-{tile.i1 - 1}",
            f"unproven samples, change of the {self.layer_name} ({target.units})": float(measures.mean()),
            f"projected samples, change ({target.units})": mean([p.measure for p in moved]),
            f"largest accepted ({target.units})": max((float(p.measure[p.accepted].max()) for p in moved if p.accepted.any()),
                                                      default=float("nan")),
            "accepted (%)": 100 * mean(accepted), "projected": int(sum(len(a) for a in accepted)),
            "input change before (HU)": mean([p.change_before for p in moved]) * self.scale,
            "input change after (HU)": mean([p.change_after for p in moved]) * self.scale,
            "survived (%)": 100 * mean([p.survived[p.accepted] for p in moved]),
            f"reference: other places of the slice ({target.units})": self.random_pairs(target, tile, k, generator),
            "evaluations per sample": mean([p.evaluations for p in moved]),
        }
        for heading, value in values.items():
            self.rows.setdefault(heading, []).append(value)

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
        self.progress.report(0.98 * done, f"Slice {k}, tile {number + 1} of {count}: {words}")

    def intermediate(self) -> None:
        if time.monotonic() - self.saved > INTERMEDIATE_EVERY_S:
            self.saved = time.monotonic()
            self.progress.intermediate(self.result(complete=False))

    # Result ---------------------------------------------------------------------------------------------------------

    def result(self, complete: bool) -> Result:
        model, s = self.model, self.settings
        accepted = np.nansum(np.array(self.rows.get("accepted (%)", [])) / 100 * np.array(self.rows.get("projected", [])))
        tried = sum(self.rows.get("projected", []))
        result = Result(facts={
            "complete": complete, "settings": asdict(s), "model": model.facts(), "epsilon": self.epsilon,
            "epsilon_units": "relative" if s.layer != "output" else "HU", "accepted": int(accepted), "projected": int(tried),
            "device": devices.describe(self.device), "versions": devices.versions(self.device),
            "slices_done": self.done, "slices": len(self.slices)})
        partial = "" if complete else " (partial)"
        name = self.original.name
        deviations = {key: self.assemble(lambda found, key=key: torch.from_numpy(getattr(found, key).deviation()))
                      for key in ("unproven", "proven")}
        self.put(result, "output", self.assemble(lambda f: f.output), "ct", f"{name} denoised")
        for key, array in deviations.items():
            self.put(result, f"std {key}", np.nan_to_num(array), "spread", f"{name} standard deviation, {key}{partial}")
        share = np.divide(deviations["proven"], deviations["unproven"], out=np.zeros_like(deviations["proven"]),
                          where=np.nan_to_num(deviations["unproven"]) > 0)
        self.put(result, "share survived", np.nan_to_num(share), "spread", f"{name} share of the change that survived{partial}",
                 units="")
        for key in sorted({key for found in self.found.values() for key in found.samples}):
            label = f"{name} {'proven ' if key.startswith('sample') else 'unproven '}{key}"
            self.put(result, key, self.assemble(lambda f, key=key: f.samples.get(key)), "ct", label)
        result.tables["proof"] = Table("Proof: how invariant the samples are", {h: list(v) for h, v in self.rows.items()})
        return result

    def assemble(self, of_slice) -> np.ndarray:
        """A volume from what ``of_slice`` gives of each slice; the patient's image where it gives nothing and 0 in maps."""
        array = np.zeros(self.hu.shape, np.float32)
        for k, found in self.found.items():
            image = of_slice(found)
            array[k] = (self.hu[k] if image is None else image).numpy()
        return array

    def put(self, result: Result, key: str, array: np.ndarray, role: str, name: str, units: str = "HU") -> None:
        volume = self.volume.with_array(array, name=name, units=units)
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
