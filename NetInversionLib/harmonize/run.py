"""Harmonization: an MR volume as the scanner that a model knows would have shown it.

The volume may come from any scanner.

    result = harmonize({"source": volume}, {"model": model}, Settings())

Source: Jeong, Kang, Kim & Lee, "MRFlow", ISMRM abstract, for mode "published"; the
anatomy-safe mode is this project's own.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from .. import models as model_files
from ..core import devices, meaning
from ..core import volumes as core_volumes
from ..core.keys import Key
from ..core.names import require_names
from ..core.progress import Progress
from ..core.results import Result
from ..core.volumes import Volume
from ..models import Model
from ..networks.mrflow import MRFlow
from . import gate, gate_figures, heads
from . import scan as harmonize_scan
from .change import changeable, gate_statistics, harmonizer, restyle, scaled_uncut
from .figures import baselines, bits_per_dim, describe, detail
from .gate import alignment_check
from .places import (
    MAP_VALUES,
    contrast_check,
    contrast_kept,
    unlike_check,
    unlike_map,
    unlike_places,
)
from .scan import Scan
from .settings import HarmonizeSettings
from .statistics import Target

if TYPE_CHECKING:
    from .change import Restyled
    from .estimate import Estimate


def run_analysis(
    volumes: dict[str, Volume], model_paths: dict[str, str], settings: dict, progress: Progress
) -> Result:
    """``harmonize`` as a job.

    Args:
        volumes: See ``harmonize``, [k, j, i].
        model_paths: The model's file as "model".
        settings: Fields of ``HarmonizeSettings`` as JSON values.
        progress: Receives progress; may raise ``Cancelled``.
    """
    require_names("model", model_paths, ["model"])
    return harmonize(
        volumes,
        {"model": model_files.load(model_paths["model"])},
        HarmonizeSettings.from_json(settings),
        progress,
    )


def harmonize(
    volumes: dict[str, Volume],
    models: dict[str, Model],
    settings: HarmonizeSettings = HarmonizeSettings(),
    progress: Progress = Progress(),
) -> Result:
    """Bring ``volumes["source"]`` to the target scanner of ``models["model"]``.

    Args:
        volumes: "source", an MR volume of any orientation, spacing and type; optional "mask",
            nonzero inside the brain (or head, if the model was trained so), on any grid.
        models: "model", with task "harmonization".
        settings: See ``HarmonizeSettings``.
        progress: Receives progress, log, the correlation's curve; may raise ``Cancelled``.

    Returns:
        Result with volumes "harmonized" (on the source's grid and axes, in its intensities and type
        or the target's), "change", and in the anatomy-safe mode "multiplicative field" and
        "additive field", "unlike" if some places are unlike the target's people (2 there, 1
        beside them), and "mask" if the brain was found in a head (1 inside); tables "verdict",
        "summary", "detail", "curve" and, if asked for, "baselines"; curves "histograms", "tone
        curve" or "similarity"; facts with "verdict" ("accepted", "flagged" or "refused"),
        "reasons", and all that is needed to run it again. A refused volume has no images but "mask"
        unless ``force``.

        Of the facts, "whole_head" says whether the image, without a mask, seemed to show the whole
        head; "scale" and "result_scale" are what 1 means in the source's and the result's
        intensities. Those of the anatomy-safe mode: "tone_field" (see ``ToneField.to_dict``),
        "estimate" (see ``_estimate_facts``) and (at strength 0) "order_margin": two neighbours
        along an axis keep their order if they differ by more than this, scaled, and neither is
        brighter than 1.3.

    Raises:
        ValueError: An unusable volume, mask or model; says what to do.
    """
    require_names("volume", volumes, ["source"], ["mask"])
    require_names("model", models, ["model"])
    model = models["model"]
    device = devices.choose(settings.device, progress.log)
    network = harmonizer(model).to(device)
    target_scale = (
        _target_scale(network) if settings.output_range == "target" else None
    )  # raises before any work is done
    progress.report(0.0, "Reading the volume")
    source, mask = volumes["source"], volumes.get("mask")
    statistics = gate_statistics(network)
    looked, found, head = _brain_or_head(source, mask, network, settings, progress)
    scan, seen, checks = looked.scan, looked.seen, looked.checks
    result = Result(facts=_facts(model, settings, device, scan, source, mask or found))
    result.facts["whole_head"] = head
    if found is not None:
        _add_mask(result, found)
    word, reasons = gate.verdict(checks)
    if word == "refused" and not settings.force:
        result.tables[Key("verdict")] = gate.table(checks)
        result.facts.update(verdict=word, reasons=reasons)
        progress.report(1.0, "Refused")
        return result

    raw = scaled_uncut(scan)
    restyled = restyle(scan, raw, network, settings, model, progress)
    progress.report(0.8, "Checking the result")
    harmonized = scan.with_image(np.clip(restyled.image, 0, harmonize_scan.BRIGHTEST))
    bits = [bits_per_dim(network, one, model) for one in (scan, harmonized)]
    result_seen = gate_figures.look(harmonized)
    checks += gate.check_result(seen, result_seen, statistics, bits[1])
    if restyled.estimate is not None:
        checks += estimate_checks(restyled.estimate, scan, harmonized)
    word, reasons = _verdict_on_result(checks, settings.force)
    result.tables[Key("verdict")] = gate.table(checks)
    result.facts.update(verdict=word, reasons=reasons)
    describe(result, scan, harmonized, restyled, network, bits, settings)
    if gate.learned(statistics):
        result.tables[Key("detail")] = detail(seen, result_seen, statistics)
    if settings.baselines:
        progress.report(0.85, "Trying the classical methods")
        result.tables[Key("baselines")] = baselines(scan, harmonized, network, settings, model)
    if word != "refused":
        _add_images(
            result,
            scan,
            raw,
            restyled,
            scan.scale if target_scale is None else target_scale,
            settings,
        )
    progress.report(1.0, f"Done: {word}")
    return result


@dataclass(frozen=True)
class _LookedAt:
    """A source with the mask that was taken, and what the gate says of both."""

    scan: Scan
    seen: gate_figures.Look
    checks: list[gate.Check]


def _brain_or_head(
    source: Volume,
    mask: Volume | None,
    network: MRFlow,
    settings: HarmonizeSettings,
    progress: Progress,
) -> tuple[_LookedAt, Volume | None, bool]:
    """A source with its mask; the mask if it was found; whether it seems to show a whole head."""
    statistics = gate_statistics(network)
    looked = _looked_at(source, mask, statistics, progress)
    if mask is not None:
        return looked, None, False
    if not settings.find_brain:
        return looked, None, gate.seems_a_head(looked.checks)
    progress.report(0.03, "Finding the brain in the head")
    found = heads.find_brain(source, *heads.mean_brain(Target(network.corrector)))
    if not heads.is_more_than(looked.scan, found):
        return looked, None, False
    return _looked_at(source, found, statistics, progress), found, True


def _add_mask(result: Result, found: Volume) -> None:
    result.volumes[Key("mask")] = replace(found, name=TITLES["mask"])
    result.roles[Key("mask")] = "mask"
    voxel_ml = float(np.prod(found.spacing_mm)) / 1000
    result.facts.update(mask=heads.FOUND, found_ml=float(found.array.sum()) * voxel_ml)


def _looked_at(
    source: Volume, mask: Volume | None, statistics: dict[str, np.ndarray], progress: Progress
) -> _LookedAt:
    scan = harmonize_scan.prepare(source, mask, signal=False)
    progress.report(0.02, "Checking contrast, orientation and artefacts")
    seen = gate_figures.look(scan)
    checks = _signal_checks(scan, mask) + gate.check_source(seen, statistics)
    if mask is not None:
        checks.append(heads.mask_check(scan))
    return _LookedAt(scan, seen, checks)


def estimate_checks(found: Estimate, scan: Scan, harmonized: Scan) -> list[gate.Check]:
    """The gate's word on how the change of a scan was found, and on what it does to lesions."""
    return [
        alignment_check(found.alignment),
        unlike_check(unlike_places(found, scan)),
        contrast_check(contrast_kept(found, scan, harmonized.image)),
    ]


def _verdict_on_result(checks: list[gate.Check], force: bool) -> tuple[str, list[str]]:
    """The gate's word and reasons; nothing is refused that was asked for all the same."""
    word, reasons = gate.verdict(checks)
    if word != "refused" or not force:
        return word, reasons
    told = "The volume would have been refused; the result was asked for all the same."
    return "flagged", [told, *reasons]


def _signal_checks(scan: Scan, mask: Volume | None) -> list[gate.Check]:
    """A failed check where values below 0 say that this is no MR signal; else none."""
    image = core_volumes.reorient(scan.original, "RAS")
    share = meaning.share_below_zero(image, None if mask is None else scan.mask)
    if not share:
        return []
    most = meaning.NEGATIVE_SHARE
    words = meaning.no_signal(image, share)
    return [gate.Check("share of values below 0", share, 0.0, most, False, words, "refused")]


def _facts(
    model: Model,
    settings: HarmonizeSettings,
    device: torch.device,
    scan: Scan,
    source: Volume,
    mask: Volume | None,
) -> dict:
    return {
        "settings": asdict(settings),
        "model": model.facts(),
        "device": devices.describe(device),
        "versions": devices.versions(device),
        "source": source.name,
        "scale": scan.scale,
        "mask": "voxels above 0" if mask is None else f"given: {mask.name}",
        "mask_voxels": int(scan.mask.sum()),
        "grid": " x ".join(map(str, scan.original.shape[::-1])),
    }


TITLES = {
    "harmonized": "Harmonized ({mode})",
    "change": "Change by harmonization",
    "multiplicative field": "Multiplicative field",
    "additive field": "Additive field",
    "mask": "Brain mask",
    "unlike": f"Unlike the target's people ({MAP_VALUES})",
}
"""What an image is, by its key's kind."""


# The images ---------------------------------------------------------------------------------------


def _add_images(
    result: Result,
    scan: Scan,
    raw: np.ndarray,
    restyled: Restyled,
    unit: float,
    settings: HarmonizeSettings,
) -> None:
    """Add the volumes; ``unit``: what 1 means in the result's intensities."""
    source = scan.original
    result.facts["result_scale"] = unit

    def put(kind: str, array: np.ndarray, role: str, units: str) -> None:
        title = TITLES[kind].format(mode=settings.mode)
        image = replace(scan.volume, array=array, name=title, units=units)
        key = Key(kind)
        result.volumes[key] = core_volumes.reorient_like(image, source)
        result.roles[key] = role

    image = restyled.image * np.float32(unit)
    if settings.output_range == "native":
        image = np.where(
            changeable(scan, raw),
            as_type(image, source.array.dtype),
            core_volumes.reorient(source, "RAS").array,
        )
    put("harmonized", image, "input", source.units)
    put("change", (restyled.image - raw) * np.float32(scan.scale), "difference", source.units)
    if restyled.tone is not None:
        m, a = restyled.tone.fields(scan.volume)
        put("multiplicative field", m.array, "factor", "")
        put("additive field", a.array * np.float32(scan.scale), "difference", source.units)
    if restyled.estimate is not None and restyled.estimate.unlike.any():
        put("unlike", unlike_map(restyled.estimate, scan), "spread", "")


def _target_scale(network: MRFlow) -> float:
    """What 1 means in the target's own intensities: the median over its people.

    Raises:
        models.ModelError: The model does not know.
    """
    scales = network.statistic("scale")
    if scales is None:
        raise model_files.ModelError(
            "the model does not say what intensities its scanner has: choose the native range, or a"
            " model made by 'netinversion train flow' of this version, which stores them"
        )
    return float(scales.median())


def as_type(image: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """An image of any shape and unit, rounded and cut to what a voxel type can hold."""
    if not np.issubdtype(dtype, np.integer):
        return image.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(image), limits.min, limits.max).astype(dtype)
