"""The report of one harmonization.

It is what ``core.page`` builds, with the chapters of this question.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .. import __version__
from ..core import figures, volumes
from ..core import page as core_page
from ..core.figures import Picture, Scale
from ..core.results import Result
from ..core.volumes import Region, Volume
from . import reading
from .settings import HarmonizeSettings

MARGIN_VOXELS = 4  # around the brain in the pictures
# By key of an image: its title, its colours and what the colours tell.
IMAGES = {
    "source": ("source", "gray", "intensity"),
    "harmonized": ("result", "gray", "intensity"),
    "change": ("change (result - source)", "RdBu_r", "change of intensity"),
    "multiplicative field": ("multiplicative field", "PuOr_r", "factor (1: none)"),
    "additive field": ("additive field", "PuOr_r", "added intensity"),
    "unlike": ("unlike the target's people", "gray", "2: unlike, 1: beside it, left out too"),
}
ALWAYS = ("source", "harmonized")
"""Images that are shown whatever they hold."""
SETTINGS = {
    "mode": (
        "Method",
        "anatomy-safe: one rising tone curve and two smooth fields, nothing else can change; "
        "published: free-form, as the source has it; no-flow: the same without the flow",
    ),
    "strength": ("Share of free-form refinement", "0 (none) to 1"),
    "iterations": ("Iterations of the free-form refinement", "used by it only"),
    "alpha": (
        "Share of the latents' length taken away",
        "per iteration; free-form refinement only",
    ),
    "beta_edges": (
        "Step against new edges (beta 1)",
        "standard deviations of the image; free-form refinement only",
    ),
    "beta_similarity": (
        "Step towards the source's correlation (beta 2)",
        "standard deviations of the image; free-form refinement only",
    ),
    "orientations": (
        "Slices that are refined",
        "volumes of each are averaged; free-form refinement only",
    ),
    "output_range": (
        "Intensities of the result",
        "native: the source's; target: the target scanner's",
    ),
    "baselines": ("Classical methods beside it", "yes or no"),
    "find_brain": ("Find the brain in a whole head", "yes or no; where no mask is given"),
    "force": ("Give the result of a refused volume too", "yes or no; it is flagged then"),
}
LIMITS = (
    "Whether the scanner named by the model would really have shown this person so: nobody "
    "measured it.",
    "Whether every lesion keeps its contrast: one that covers much of a cube of 24 mm is looked "
    "for and left out of the estimate; a smaller one, or a gentle change of large parts, is not "
    "looked for, and the tone curve and the fields act on it as on everything.",
    "That the image may be used for diagnosis, or for measurements that were not checked on "
    "harmonized images.",
    '"Accepted" means that no check found anything unusual, not that the result is right.',
)
# Of tables; their own titles may have been changed in a scene.
TITLES = {
    "verdict": "Checks",
    "summary": "What changed",
    "baselines": "Beside the classical methods",
}
NOTES = {
    "Wasserstein distance to the target": "mean difference between the intensities' distribution "
    "and the target scanner's, "
    "intensities scaled so that 1 is the 99.5th percentile; 0 is the same distribution",
    "bits/dim": "how surprising the image is to the model of the target scanner; lower is more "
    "typical",
    "edge agreement with the source": "share of the source's gradients, by strength, that "
    "point as they did; 1 is all",
    "mean change": "mean absolute change, where 1 is the 99.5th percentile of the source",
}


def write(result: Result, source: Volume, path: Path | str) -> Path:
    """Write the page for a result of ``harmonize.harmonize``, replaced whole.

    The page shows the volume that the result came from, too.

    Raises:
        OSError: The folder cannot be written.
    """
    return core_page.write(path, page(result, source))


def page(result: Result, source: Volume) -> str:
    """The page as text; it refers to no other file, and whatever a name holds is text."""
    facts = core_page.plain(result.facts)
    tables = {
        key: table for key, table in result.tables.items() if key != "curve"
    }  # that one is drawn
    sheet = views(result, source)
    caption = (
        "Slices through the middle of what shines in the source. Source and result have the same "
        "grey scale"
        + (
            ", in the source's intensities."
            if facts["settings"]["output_range"] == "native"
            else " only if their numbers say so: the result is in the target scanner's intensities."
        )
        + " In the change and the fields white or pale is no change; a field that is not shown was "
        "not estimated."
    )
    inputs = {"source": facts.get("source", source.name)}
    if "mask" in facts:
        inputs["mask"] = facts["mask"]
    return core_page.document(
        f"Harmonization of {source.name}",
        [
            core_page.lead(
                reading.answer(facts, result.tables), facts["verdict"], facts["reasons"]
            ),
            core_page.chapter(
                "Source, result and change",
                core_page.picture(
                    sheet, "source, result, change and fields, three slices each", caption
                ),
            ),
            core_page.chapter(
                "Intensities",
                *(
                    core_page.picture(figures.plot(curve), curve.title)
                    for curve in result.curves.values()
                ),
            ),
            *(
                core_page.chapter(TITLES.get(key, table.title), core_page.table(table, notes=NOTES))
                for key, table in tables.items()
            ),
            *core_page.closing(
                facts, LIMITS, methods(facts), SETTINGS, {"model": facts["model"]}, inputs
            ),
        ],
    )


def methods(facts: dict) -> str:
    """A paragraph to paste: what was done, with what model, version and settings."""
    settings, model = HarmonizeSettings.in_todays_names(facts["settings"]), facts["model"]
    how = {
        "anatomy-safe": "a strictly monotone tone curve after smooth multiplicative and additive "
        "fields, estimated from the "
        "image and knowledge of the target scanner alone",
        "published": f"{settings['iterations']} iterations of latent shrinkage (alpha "
        f"{settings['alpha']:g}) in a normalizing "
        "flow trained on the target scanner, with correlation and edge terms (beta 1 "
        f"{settings['beta_edges']:g}, beta 2 {settings['beta_similarity']:g}), after Jeong et al. "
        f"(MRFlow, ISMRM "
        "abstract; BlindHarmony, ICCV 2023, arXiv:2305.10732)",
        "no-flow": "the correlation and edge terms of MRFlow without its normalizing flow (an "
        "ablation)",
    }[settings["mode"]]
    also = (
        f", followed by a free-form refinement of strength {settings['strength']:g}"
        if settings["mode"] == "anatomy-safe" and settings["strength"]
        else ""
    )
    masked = (
        f" ({facts['mask']})" if "mask" in facts else ""
    )  # scenes saved by older versions do not say
    return (
        f"MR images were harmonized with NetInversion {__version__} (mode {settings['mode']}: "
        f"{how}{also}). The target "
        f'domain was the model "{model["name"]}", version {model["version"]} (SHA-256 '
        f"{model['sha256'][:16]}), trained on "
        f"{len(model['trained_on'])} volumes. Intensities were scaled by the 99.5th percentile "
        f"inside the "
        f"mask{masked}. Each result was checked by a gate against the target domain, tissue "
        f"contrast, "
        f"orientation and artefacts; this one was {facts['verdict']}. The question of harmonizing "
        f"with a model of the target "
        "scanner alone is that of Jeong et al. (MRFlow, ISMRM abstract; BlindHarmony, ICCV 2023, "
        "arXiv:2305.10732)."
    )


# Pictures -----------------------------------------------------------------------------------------


def views(result: Result, source: Volume) -> bytes:
    """Axial, coronal and sagittal slices of every image [k, j, i], as a PNG."""
    return figures.sheet(pictures(result, source))


def pictures(result: Result, source: Volume) -> list[list[Picture]]:
    """Slices of every image [k, j, i] as rows of pictures, one for each plane.

    A map that is the same everywhere has none: there was no such field, or no change.
    """
    given = {**result.volumes, "source": source}
    images = {
        key: volumes.reorient(given[key], "LPS")
        for key in IMAGES
        if key in given and (key in ALWAYS or np.ptp(given[key].array) > 0)
    }
    region = _shining(images["source"].array)
    scales = {key: _scale(key, volume.array, source.units) for key, volume in images.items()}
    if "harmonized" in images and result.facts["settings"]["output_range"] == "native":
        scales["harmonized"] = scales["source"]  # the same window shows what changed
    rows = []
    for plane, name in enumerate(figures.PLANES):
        index = (region[2 * plane] + region[2 * plane + 1]) // 2
        row = []
        for key, volume in images.items():
            box = figures.box_of(region, plane, volume.shape, MARGIN_VOXELS)
            row.append(
                Picture(
                    figures.cut(volume, plane, index).cropped(box),
                    f"{IMAGES[key][0]}, {name}",
                    scales[key],
                )
            )
        rows.append(row)
    return rows


def _shining(array: np.ndarray) -> Region:
    """The region of what is above 0; everything if nothing is."""
    above = array > 0 if (array > 0).any() else np.ones(array.shape, bool)
    spans = (np.flatnonzero(above.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3))
    (k0, k1), (j0, j1), (i0, i1) = ((int(span[0]), int(span[-1]) + 1) for span in spans)
    return (k0, k1, j0, j1, i0, i1)


def _scale(key: str, array: np.ndarray, units: str) -> Scale:
    """From 0 for images, symmetric around no change (1 for a factor, else 0) for the rest."""
    _, colours, measured = IMAGES[key]
    sample = np.asarray(array[::2, ::2, ::2], np.float32)
    words = f"{measured} ({units})" if units and "factor" not in measured else measured
    if colours == "gray":
        return Scale(0.0, figures.reach(sample[sample > 0]), words, colours)
    neutral = 1.0 if key == "multiplicative field" else 0.0
    reach = figures.reach(sample - neutral)
    return Scale(neutral - reach, neutral + reach, words, colours)
