"""Harmonization: an MR volume of any scanner, as the scanner that a model knows would have shown
it.

    result = harmonize({"source": volume}, {"model": model}, Settings())

Source: Jeong, Kang, Kim & Lee, "MRFlow", ISMRM abstract, for mode "seed"; the anatomy-safe mode is
this project's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor

from . import (
    corrector,
    devices,
    free_form,
    intensity_matching,
    mr,
    mrflow,
    similarity,
    typicality,
    volumes,
)
from . import models as model_files
from .edges import edge_map
from .harmonize_settings import Settings
from .models import Model
from .mr import Scan
from .networks.mrflow import MRFlow
from .results import Curve, Part, Progress, Result, Table
from .tone_field import ToneField
from .volumes import Volume

FIGURES_EVERY = 3  # bits/dim of a source or result: from every third slice
# Correlation with the corrector's template: at least 0.94 in T1 of three data sets and of simulated
# scanners, 0.82 in a T2.
LEAST_ALIGNMENT = 0.85


@dataclass(frozen=True)
class Restyled:
    """A scaled image on the source's own grid [k, j, i] in RAS axes, not cut to a range, and how it
    came about.

    ``estimate``: the anatomy-safe change and how it was found; None in the free-form modes.
    ``trace``: per orientation, the correlation with the source after each iteration.
    """

    image: np.ndarray
    estimate: corrector.Estimate | None
    trace: dict[str, list[float]]

    @property
    def tone(self) -> ToneField | None:
        """The anatomy-safe change."""
        return None if self.estimate is None else self.estimate.change


def run_task(
    volumes: dict[str, Volume], model_paths: dict[str, str], settings: dict, progress: Progress
) -> Result:
    """``harmonize`` as a job: settings as JSON values, the model as a file."""
    return harmonize(
        volumes,
        {"model": model_files.load(model_paths["model"])},
        Settings.from_json(settings),
        progress,
    )


def method(model: Model, mode: str, **changes) -> Callable[[Scan], np.ndarray]:
    """A mode as the evaluations take it: scaled scan to scaled image on the same grid, float32, 0
    to 1.3.
    """
    settings = Settings(mode=mode, **changes)
    network = harmonizer(model)

    def run(scan: Scan) -> np.ndarray:
        return np.clip(restyle(scan, scan.image, network, settings, model).image, 0, mr.BRIGHTEST)

    return run


def harmonize(
    volumes: dict[str, Volume],
    models: dict[str, Model],
    settings: Settings = Settings(),
    progress: Progress = Progress(),
) -> Result:
    """Bring ``volumes["source"]`` to the target scanner of ``models["model"]``.

    Args:
        volumes: "source", an MR volume of any orientation, spacing and type; optional "mask",
            nonzero inside the brain (or head, if the model was trained so), on any grid.
        models: "model", with task "harmonization".
        settings: See ``Settings``.
        progress: Receives progress, log, the correlation's curve; may raise ``Cancelled``.

    Returns:
        Result with volumes "harmonized" (on the source's grid and axes, in its intensities and type
        or the target's), "change", and in the anatomy-safe mode "multiplicative field" and
        "additive field"; tables "verdict", "summary", "curve" and, if asked for, "baselines";
        curves "histograms", "tone curve" or "similarity"; facts with "verdict" ("accepted",
        "flagged" or "refused"), "reasons", and all that is needed to run it again. A refused volume
        has no images unless ``force``.

        Of the facts, "scale" and "result_scale" are what 1 means in the source's and the result's
        intensities. Those of the anatomy-safe mode: "tone_field" (see ``ToneField.to_dict``),
        "estimate" (see ``_estimate_facts``) and (at strength 0) "order_margin": two neighbours
        along an axis keep their order if they differ by more than this, scaled, and neither is
        brighter than 1.3.

    Raises:
        ValueError: An unusable volume, mask or model; says what to do.
    """
    model = models["model"]
    device = devices.choose(settings.device, progress.log)
    network = harmonizer(model).to(device)
    target_scale = (
        _target_scale(network) if settings.output_range == "target" else None
    )  # raises before any work is done
    progress.report(0.0, "Reading the volume")
    source = volumes["source"]
    scan = mr.prepare(source, volumes.get("mask"))
    statistics = gate_statistics(network)
    progress.report(0.02, "Checking contrast, orientation and artefacts")
    seen = typicality.look(scan)
    checks = typicality.check_source(seen, statistics)
    result = Result(facts=_facts(model, settings, device, scan, source, volumes.get("mask")))
    word, reasons = typicality.verdict(checks)
    if word == "refused" and not settings.force:
        result.tables["verdict"] = typicality.table(checks)
        result.facts.update(verdict=word, reasons=reasons)
        progress.report(1.0, "Refused")
        return result

    raw = scaled_uncut(scan)
    restyled = restyle(scan, raw, network, settings, model, progress)
    progress.report(0.8, "Checking the result")
    harmonized = scan.with_image(np.clip(restyled.image, 0, mr.BRIGHTEST))
    bits = [bits_per_dim(network, one, model) for one in (scan, harmonized)]
    checks += typicality.check_result(seen, harmonized, statistics, bits[1])
    if restyled.estimate is not None:
        checks.append(alignment_check(restyled.estimate.alignment))
    word, reasons = typicality.verdict(checks)
    if word == "refused" and settings.force:
        word, reasons = (
            "flagged",
            [
                "The volume would have been refused; the result was asked for all the same.",
                *reasons,
            ],
        )
    result.tables["verdict"] = typicality.table(checks)
    result.facts.update(verdict=word, reasons=reasons)
    describe(result, scan, harmonized, restyled, network, bits, settings)
    if settings.baselines:
        progress.report(0.85, "Trying the classical methods")
        result.tables["baselines"] = baselines(scan, harmonized, network, settings, model)
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


def harmonizer(model: Model) -> MRFlow:
    """The network of a model for harmonization.

    Raises:
        models.ModelError: The model is for something else.
    """
    if not isinstance(model.network, MRFlow):
        raise model_files.ModelError(
            f"{model.card.name!r} is no model for harmonization but for "
            f"{model.card.task}: choose one made by 'netinversion train flow'"
        )
    return model.network


def gate_statistics(network: MRFlow) -> dict[str, np.ndarray]:
    """Everything stored of the target domain, by name."""
    return {name: values.cpu().numpy() for name, values in network.statistics.named_buffers()}


def scaled_uncut(scan: Scan) -> np.ndarray:
    """The source in RAS axes divided by its scale, neither cut above 1.3 nor below 0; [k, j, i]
    float32.
    """
    return volumes.reorient(scan.original, "RAS").float32() / np.float32(scan.scale)


def changeable(scan: Scan, raw: np.ndarray) -> np.ndarray:
    """Where the image may change: the mask (which has zeros of its own) and what shines around it.

    Air stays as it is.

    Args:
        scan: With its mask.
        raw: The scaled image on the scan's own grid, [k, j, i].

    Returns:
        Boolean, of the shape of ``raw``.
    """
    return scan.mask | (raw > 0)


# The change ---------------------------------------------------------------------------------------


def restyle(
    scan: Scan,
    raw: np.ndarray,
    network: MRFlow,
    settings: Settings,
    model: Model,
    progress: Progress = Progress(),
) -> Restyled:
    """Estimate on the model's grid, apply in the mask and wherever the image shines.

    Args:
        scan: Scaled, with its mask.
        raw: Its image on the scan's own grid, scaled and not cut, [k, j, i].
        network: What is known of the target scanner.
        settings: See ``Settings``.
        model: Whose network it is.
        progress: Receives progress; may raise ``Cancelled``.
    """
    shines = changeable(scan, raw)
    if settings.mode != "anatomy-safe":
        flow = network.flow if settings.mode == "seed" else None
        change, trace = _free_form(scan, scan, flow, settings, model, None, progress)
        return Restyled(np.where(shines, np.maximum(raw + change, 0), raw), None, trace)
    progress.report(0.05, "Estimating tone curve and fields")
    found = corrector.explain(scan, network, progress=Part(progress, 0.05, 0.7))
    image = np.where(
        shines, np.maximum(found.change.apply(raw, scan.volume.ijk_to_ras, shines), 0), raw
    )
    if settings.strength == 0:
        return Restyled(image, found, {})
    start = scan.with_image(np.clip(image, 0, mr.BRIGHTEST))
    radius = network.statistic("typical_radius")[:, 0]
    change, trace = _free_form(start, scan, network.flow, settings, model, radius, progress)
    return Restyled(
        np.where(shines, np.maximum(image + np.float32(settings.strength) * change, 0), image),
        found,
        trace,
    )


def _free_form(
    start: Scan,
    source: Scan,
    flow,
    settings: Settings,
    model: Model,
    radius: Tensor | None,
    progress: Progress,
) -> tuple[np.ndarray, dict[str, list[float]]]:
    """What the refinement adds to ``start``, on the scan's own grid, and the correlation's course
    by orientation.
    """
    spacing = model.card.spacing_mm[0]
    grids = [mrflow.on_grid(scan, spacing) for scan in (start, source)]
    # The edge map is the source's: the refinement must not draw its own.
    edges = edge_map(grids[1].image, grids[1].mask, grids[1].volume.spacing_mm)
    device = next(flow.parameters()).device if flow is not None else torch.device("cpu")
    tensors = [
        torch.from_numpy(np.ascontiguousarray(a)).to(device)
        for a in (*(g.image for g in grids), edges, grids[1].mask)
    ]
    trace: dict[str, list[float]] = {}

    def step(orientation: str, iteration: int, ncc: float) -> None:
        trace.setdefault(orientation, []).append(ncc)
        progress.point(f"correlation, {orientation}", iteration, ncc)

    refined = free_form.refine(*tensors, flow, settings, radius, Part(progress, 0.1, 0.8), step)
    change = grids[0].volume.with_array(refined.cpu().numpy() - grids[0].image)
    return volumes.resample(change, start.volume, fill=0).array, trace


# The figures --------------------------------------------------------------------------------------


def bits_per_dim(network: MRFlow, scan: Scan, model: Model) -> float:
    """Bits/dim of a scan inside its mask under the target's flow, the mean of three orientations.
    """
    case = mrflow.make_case(scan, model.card.spacing_mm[0])
    return float(
        mrflow.figures(network.flow, case, float(model.card.training["bin_width"]), FIGURES_EVERY)[
            0
        ][3]
    )


def alignment_check(alignment: float) -> typicality.Check:
    """The gate's word on the corrector's alignment: what it compares lies elsewhere in a brain that
    is poorly aligned.
    """
    good = alignment >= LEAST_ALIGNMENT
    words = (
        "as in the target's people"
        if good
        else (
            "The image could not be aligned well to the target's people, so tone curve and fields "
            "may be wrong: another contrast, a part of the brain missing, or remains of the skull."
            + typicality.LOOK
        )
    )
    return typicality.Check(
        "alignment to the target", float(alignment), LEAST_ALIGNMENT, np.inf, bool(good), words
    )


def _estimate_facts(found: corrector.Estimate) -> dict:
    """What the corrector found besides the change, see ``corrector.Estimate``."""
    return {
        "explanation": found.explanation,
        "evidence": found.evidence,
        "unchanged": float(found.unchanged),
        "alignment": float(found.alignment),
    }


def describe(
    result: Result,
    scan: Scan,
    harmonized: Scan,
    restyled: Restyled,
    network: MRFlow,
    bits: list[float],
    settings: Settings,
) -> None:
    """Add the tables "summary" and "curve" and the curves."""
    target = network.statistic("quantiles").cpu().numpy()
    rows = {
        "source": figures_of(scan, scan, target, bits[0]),
        "harmonized": figures_of(harmonized, scan, target, bits[1]),
    }
    people = network.statistic("person_quantiles").cpu().numpy()
    typical = similarity.leave_one_out_distances(people) if len(people) > 1 else np.array([np.nan])
    rows["target, median person"] = {
        **dict.fromkeys(rows["source"], float("nan")),
        "Wasserstein distance to the target": float(np.median(typical)),
        "bits/dim": _held_out_median(network),
    }
    headings = list(rows["source"])
    columns = {heading: [row[heading] for row in rows.values()] for heading in headings}
    result.tables["summary"] = Table("What changed", {"image": list(rows), **columns})
    fractions = intensity_matching.FRACTIONS
    result.curves["histograms"] = Curve(
        "Do the intensities match the target scanner's?",
        "intensity (1 = the 99.5th percentile)",
        "share of voxels below",
        {
            name: (q.tolist(), fractions.tolist())
            for name, q in (
                ("source", intensity_matching.quantiles(scan)),
                ("harmonized", intensity_matching.quantiles(harmonized)),
                ("target", target),
            )
        },
    )
    if restyled.tone is not None:
        x, y = (knots.tolist() for knots in restyled.tone.knots)
        result.curves["tone curve"] = Curve(
            "What becomes of each intensity?",
            "intensity after the fields (1 = the 99.5th percentile)",
            "harmonized intensity (same scale)",
            {"tone curve": (x, y)},
        )
        result.tables["curve"] = Table("Tone curve", {"input (scaled)": x, "output (scaled)": y})
        result.facts.update(
            tone_field=restyled.tone.to_dict(), estimate=_estimate_facts(restyled.estimate)
        )
        if settings.strength == 0:
            result.facts["order_margin"] = float(
                restyled.tone.order_margin(max(scan.volume.spacing_mm))
            )
    if restyled.trace:
        result.curves["similarity"] = Curve(
            "Does the result still look like the source?",
            "iteration",
            "correlation with the source",
            {name: (list(range(1, len(line) + 1)), line) for name, line in restyled.trace.items()},
        )


def figures_of(scan: Scan, source: Scan, target: np.ndarray, bits: float) -> dict[str, float]:
    """One row of table "summary".

    Args:
        scan: What is judged, scaled.
        source: What it was made of.
        target: The target's quantiles, of shape (513,).
        bits: bits/dim under the flow, NaN without one.
    """
    try:
        contrasts = similarity.fit_tissues(scan.inside).contrasts
    except ValueError:  # nearly constant inside: there are no classes to tell apart
        contrasts = (float("nan"),) * 2
    return {
        "Wasserstein distance to the target": similarity.wasserstein(
            intensity_matching.quantiles(scan), target
        ),
        "bits/dim": bits,
        "contrast white/grey": contrasts[0],
        "contrast grey/CSF": contrasts[1],
        "edge agreement with the source": similarity.edge_agreement(
            scan.image, source.image, source.mask
        ),
        "slice-to-slice score": similarity.slice_score(scan.image, source.image, source.mask),
        "mean change": similarity.mae(scan.image, source.image, source.mask),
    }


def baselines(
    scan: Scan, harmonized: Scan, network: MRFlow, settings: Settings, model: Model
) -> Table:
    """The classical methods and the no-flow ablation beside the result, by the figures that need no
    truth.
    """
    target = network.statistic("quantiles").cpu().numpy()
    images = {name: peer(scan) for name, peer in intensity_matching.peers(target).items()}
    ablation = restyle(scan, scan.image, network, replace(settings, mode="no-flow"), model).image
    images |= {
        "no-flow": np.clip(ablation, 0, mr.BRIGHTEST),
        f"this run ({settings.mode})": harmonized.image,
    }
    rows = {
        name: figures_of(
            scan.with_image(image),
            scan,
            target,
            bits_per_dim(network, scan.with_image(image), model),
        )
        for name, image in images.items()
    }
    headings = list(next(iter(rows.values())))
    return Table(
        "Beside the classical methods",
        {"method": list(rows), **{h: [r[h] for r in rows.values()] for h in headings}},
    )


def _held_out_median(network: MRFlow) -> float:
    bits, held_out = (
        network.statistic(name).cpu().numpy() for name in ("bits_per_dim", "held_out")
    )
    chosen = held_out > 0 if (held_out > 0).any() else held_out == 0
    return float(np.median(bits[chosen, 3]))


def _facts(
    model: Model,
    settings: Settings,
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


# The images ---------------------------------------------------------------------------------------


def _add_images(
    result: Result, scan: Scan, raw: np.ndarray, restyled: Restyled, unit: float, settings: Settings
) -> None:
    """Add the volumes; ``unit``: what 1 means in the result's intensities."""
    source = scan.original
    result.facts["result_scale"] = unit

    def put(key: str, array: np.ndarray, role: str, label: str, units: str) -> None:
        image = replace(scan.volume, array=array, name=label, units=units)
        volume = volumes.reorient_like(image, source)
        result.volumes[key], result.roles[key] = volume, role

    image = restyled.image * np.float32(unit)
    if settings.output_range == "native":
        image = np.where(
            changeable(scan, raw),
            _as_type(image, source.array.dtype),
            volumes.reorient(source, "RAS").array,
        )
    put("harmonized", image, "input", f"Harmonized ({settings.mode})", source.units)
    put(
        "change",
        (restyled.image - raw) * np.float32(scan.scale),
        "difference",
        "Change by harmonization",
        source.units,
    )
    if restyled.tone is not None:
        m, a = restyled.tone.fields(scan.volume)
        put("multiplicative field", m.array, "factor", "Multiplicative field", "")
        put(
            "additive field",
            a.array * np.float32(scan.scale),
            "difference",
            "Additive field",
            source.units,
        )


def _target_scale(network: MRFlow) -> float:
    """What 1 means in the target's own intensities: the median over its people.

    Raises:
        models.ModelError: The model does not know.
    """
    scales = network.statistic("scale")
    if scales is None:
        raise model_files.ModelError(
            "the model does not say what intensities its scanner has: choose the native range, or a "
            "model made by 'netinversion train flow' of this version, which stores them"
        )
    return float(scales.median())


def _as_type(image: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Rounded and cut to what the source's voxel type can hold."""
    if not np.issubdtype(dtype, np.integer):
        return image.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(image), limits.min, limits.max).astype(dtype)
