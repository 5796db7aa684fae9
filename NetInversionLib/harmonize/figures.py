"""Figures of a harmonization: how far the image was from the target and is now."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..core.keys import Column, Key
from ..core.results import Curve, Result, Table, table_of_rows
from ..models import Model
from ..networks.mrflow import MRFlow
from . import estimate, matching, similarity, slices
from . import scan as harmonize_scan
from .change import restyle
from .gate import Limits
from .places import unlike_places
from .scan import Scan
from .settings import HarmonizeSettings

if TYPE_CHECKING:
    from .change import Restyled
    from .gate_figures import Look


FIGURES_EVERY = 3  # bits/dim of a source or result: from every third slice


# The figures --------------------------------------------------------------------------------------


def bits_per_dim(network: MRFlow, scan: Scan, model: Model) -> float:
    """Bits/dim of a scan inside its mask under the target's flow, mean of three orientations."""
    # What lies outside the mask (a skull) is no business of the model's.
    inside = scan.with_image(scan.image * scan.mask)
    case = slices.make_case(inside, model.card.spacing_mm[0])
    return float(
        slices.figures(network.flow, case, float(model.card.training["bin_width"]), FIGURES_EVERY)[
            0
        ][3]
    )


def _estimate_facts(found: estimate.Estimate, scan: Scan) -> dict:
    """What the corrector found besides the change, see ``corrector.Estimate``."""
    return {
        "explanation": found.explanation,
        "evidence": found.evidence,
        "unchanged": float(found.unchanged),
        "alignment": float(found.alignment),
        "foresight": found.foresight,
        "unlike": unlike_places(found, scan),
    }


def describe(
    result: Result,
    scan: Scan,
    harmonized: Scan,
    restyled: Restyled,
    network: MRFlow,
    bits: list[float],
    settings: HarmonizeSettings,
) -> None:
    """Add the tables "summary" and "curve" and the curves."""
    target = network.needed("quantiles").cpu().numpy()
    rows = {
        "source": figures_of(scan, scan, target, bits[0]),
        "harmonized": figures_of(harmonized, scan, target, bits[1]),
    }
    people = network.needed("person_quantiles").cpu().numpy()
    typical = similarity.leave_one_out_distances(people) if len(people) > 1 else np.array([np.nan])
    rows["target, median person"] = {
        **dict.fromkeys(rows["source"], float("nan")),
        "Wasserstein distance to the target": float(np.median(typical)),
        "bits/dim": _held_out_median(network),
    }
    headings = list(rows["source"])
    columns = {heading: [row[heading] for row in rows.values()] for heading in headings}
    result.tables[Key("summary")] = Table("What changed", {"image": list(rows), **columns})
    result.curves[Key("histograms")] = _histograms(scan, harmonized, target)
    if restyled.tone is not None and restyled.estimate is not None:
        x, y = (knots.tolist() for knots in restyled.tone.knots)
        result.curves[Key("tone curve")] = Curve(
            "What becomes of each intensity?",
            "intensity after the fields (1 = the 99.5th percentile)",
            "harmonized intensity (same scale)",
            {"tone curve": (x, y)},
        )
        result.tables[Key("curve")] = Table(
            "Tone curve", {Column("input", "scaled"): x, Column("output", "scaled"): y}
        )
        result.facts.update(
            tone_field=restyled.tone.to_dict(), estimate=_estimate_facts(restyled.estimate, scan)
        )
        if settings.strength == 0:
            result.facts["order_margin"] = float(
                restyled.tone.order_margin(max(scan.volume.spacing_mm))
            )
    if restyled.trace:
        result.curves[Key("similarity")] = Curve(
            "Does the result still look like the source?",
            "iteration",
            "correlation with the source",
            {name: (list(range(1, len(line) + 1)), line) for name, line in restyled.trace.items()},
        )


def _histograms(scan: Scan, harmonized: Scan, target: np.ndarray) -> Curve:
    """Cumulative histograms of source, result and target, whose quantiles are of shape (513,)."""
    fractions = matching.FRACTIONS
    return Curve(
        "Do the intensities match the target scanner's?",
        "intensity (1 = the 99.5th percentile)",
        "share of voxels below",
        {
            name: (q.tolist(), fractions.tolist())
            for name, q in (
                ("source", matching.quantiles(scan)),
                ("harmonized", matching.quantiles(harmonized)),
                ("target", target),
            )
        },
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
            matching.quantiles(scan), target
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


def detail(source: Look, result: Look, statistics: dict[str, np.ndarray]) -> Table:
    """How fine and how noisy source and result are beside the target's people.

    Neither is changed by harmonization but by what its curve does to contrasts.

    Args:
        source, result: What the gate sees of them.
        statistics: Of the target, see ``gate.check_source``.

    Returns:
        A row for each and for the people's median; "voxel" is the longest side, no number for the
        people; "noise" and "sharpness" see ``gate_figures.quality``, at 2 mm.
    """
    limits = Limits(statistics)
    rows = {
        "source": (source.voxel_mm, source.quality["noise"], source.quality["sharpness"]),
        "harmonized": (result.voxel_mm, result.quality["noise"], result.quality["sharpness"]),
        "target, median person": (
            np.nan,
            *(float(np.median(limits.column(name))) for name in ("noise", "sharpness")),
        ),
    }
    headings = ["image", Column("voxel", "mm"), "noise", "sharpness"]
    return table_of_rows(
        "Resolution and noise", headings, [(name, *row) for name, row in rows.items()]
    )


def baselines(
    scan: Scan, harmonized: Scan, network: MRFlow, settings: HarmonizeSettings, model: Model
) -> Table:
    """The classical methods and the no-flow ablation beside the result.

    By the figures that need no truth.
    """
    target = network.needed("quantiles").cpu().numpy()
    images = {name: peer(scan) for name, peer in matching.peers(target).items()}
    ablation = restyle(scan, scan.image, network, replace(settings, mode="no-flow"), model).image
    images |= {
        "no-flow": np.clip(ablation, 0, harmonize_scan.BRIGHTEST),
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
    bits, held_out = (network.needed(name).cpu().numpy() for name in ("bits_per_dim", "held_out"))
    chosen = held_out > 0 if (held_out > 0).any() else held_out == 0
    return float(np.median(bits[chosen, 3]))
