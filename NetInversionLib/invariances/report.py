"""The report of one search for invariances: what ``core.page`` builds, with the chapters of this
question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import __version__
from ..core import figures, volumes
from ..core import page as core_page
from ..core.figures import Box, Picture, Scale
from ..core.results import Result
from ..core.volumes import Volume
from . import reading

SUFFIXES = {
    "": "",
    " second": "second denoiser",
}  # of the result's keys, as ``invariances.invariances`` makes them
CONTEXT_VOXELS = 12  # around the region in the pictures
AIR_AND_LUNG_HU = -300.0
LESION_MM = 30.0  # half the side of the pictures of a lesion
SHOWN_COMPONENTS = 3
SMALL = 0.6  # regions below this share of the slice are shown on the whole of it, too
FOLDED_ROWS = 20  # longer tables are folded away
SETTINGS = {
    "region": (
        "Region",
        "voxels of the slices looked at, first and last + 1 along k, j, i; none: everything",
    ),
    "region_from": ("Chosen", "how the region was chosen"),
    "layer": ("What must not notice", "output: the denoised image; else a layer of the network"),
    "proposals": (
        "Changes proposed",
        "noise: fresh noise of the same dose; texture: random fine structure; cinn: draws of a "
        "trained autoencoder with flow",
    ),
    "samples": ("Changes tried", "for each slice; they make the unproven map"),
    "projected": ("Changes projected", "for each slice or tile; they make the proven map"),
    "shown": ("Samples kept as images", ""),
    "epsilon_hu": (
        "Unnoticed up to",
        "HU, root mean square change of the output; automatic: from the image's noise",
    ),
    "epsilon_noise": ("Unnoticed up to, automatic", "in parts of the noise measured in the image"),
    "epsilon_layer": ("Unnoticed up to, hidden layer", "in parts of the layer's own size"),
    "max_evaluations": ("Network evaluations", "for each projected sample, at most"),
    "texture_hu": ("Strength of texture", "HU"),
    "dose": ("Dose of the fresh noise", "in parts of the normal dose"),
    "photons": ("Photons", "per detector reading at normal dose"),
    "electronic": ("Electronic noise", "standard deviation, in photons"),
    "match_noise": ("Fresh noise as strong as the image's", "yes or no"),
    "tile": ("Side of a tile", "voxels; larger regions are projected in tiles"),
    "overlap": ("Overlap of tiles", "voxels"),
    "structure_mm": ("Structure or noise: divided at", "mm, period"),
    "components": ("Principal components", "how many are kept"),
    "segments": ("Segments", "statistics inside each"),
    "lesion": ("Point of the lesion", "R, A, S in mm; none: no lesion was tried"),
    "lesion_diameters_mm": ("Lesion sizes", "mm, diameter"),
    "lesion_contrasts_hu": ("Lesion contrasts", "HU"),
    "spectrum": ("Layers whose lost directions are counted", ""),
    "spectrum_size": ("Side of the square for that", "voxels"),
    "seed": ("Seed", "everything random follows from it"),
    "device": ("Device asked for", "auto, cpu, cuda or mps"),
}
LIMITS = (
    "That nothing else goes unnoticed: only the proposed changes were tried, and more may exist.",
    "That such changes occur in patients: the network's blindness was looked for, not what a "
    "scanner or a disease does.",
    "That the network is unfit or fit for use: every denoiser has to ignore noise, and what it "
    "ignores is what is shown here.",
    "That the tolerance is clinically right: what counts as unnoticed was set in HU or in parts "
    "of the noise.",
    "That a lesion of another shape, place or contrast would be seen: each was tried alone, at "
    "one point.",
)
NOTES = {
    "accepted (%)": "per cent of the projected samples whose change stays within the tolerance",
    "survived (%)": "per cent of the proposed change that is left when the network no longer "
    "notices",
    "survives (%)": "per cent of the nodule's contrast that is left when the network no longer "
    "notices",
    "explained variance (%)": "per cent of the accepted samples' variance in the region",
    "lost (%)": "per cent of all directions of change in the square that the layer does not pass "
    "on above the tolerance",
    "input change before (HU)": "root mean square, in the region",
    "input change after (HU)": "root mean square, in the region",
    "projected": "number of samples that were moved until the network no longer notices",
}
TITLES = {
    "proof": "How invariant the samples are",
    "proof of samples": "Each sample",
    "bands": "By size of structures",
    "segments": "Inside segments",
    "components": "Directions in which the accepted samples differ most",
    "lesions": "Every size with every contrast",
    "spectrum": "Directions that are lost",
}


def write(result: Result, source: Volume | None, path: Path | str) -> Path:
    """Write the page for a result of ``invariances.invariances``; replaced whole.

    Args:
        source: Not needed: the result holds the patient's image. It gives the page its name.

    Raises:
        ValueError: The result holds no images.
        OSError: The folder cannot be written.
    """
    return core_page.write(path, page(result, source))


def page(result: Result, source: Volume | None = None) -> str:
    """The page as text; it refers to no other file, and whatever a name holds is text. Raises
    ValueError without images."""
    if "patient" not in result.volumes:
        raise ValueError(
            "the report needs the result's images, and they were removed from the scene: run it "
            "again"
        )
    facts = core_page.plain(result.facts)
    name = (
        source.name
        if source is not None
        else facts.get("inputs", {}).get("low_dose", facts["model"]["name"])
    )
    chapters, models = [], {}
    for suffix, words in SUFFIXES.items():
        its_facts = facts.get(suffix.strip(), {}) if suffix else facts
        if f"patient{suffix}" in result.volumes and "model" in its_facts:
            one = _Shown.of(result, suffix, its_facts)
            models[words or "denoiser"] = its_facts["model"]
            if "sampler" in its_facts:
                models[f"{words} sampler".strip()] = its_facts["sampler"]
            chapters += _chapters(one, f", {words}: {its_facts['model']['name']}" if words else "")
    return core_page.document(
        f"What {facts['model']['name']} does not notice: {name}",
        [
            core_page.lead(reading.answer(facts, result.tables), "", facts.get("warnings", ())),
            *chapters,
            core_page.chapter("What this does not say", core_page.bullets(LIMITS)),
            core_page.chapter("For the methods section", core_page.paragraph(methods(facts))),
            core_page.chapter("Settings", core_page.settings(facts["settings"], SETTINGS)),
            core_page.chapter(
                "Where it comes from",
                core_page.provenance(
                    facts,
                    f"{facts['settings']['seed']}: everything random follows from it",
                    models,
                    {
                        role.replace("_", " "): image
                        for role, image in facts.get("inputs", {}).items()
                    },
                ),
                core_page.record(facts),
            ),
        ],
    )


def tolerance(part: Mapping) -> str:
    """What counted as unnoticed, in a sentence; ``part``: the facts about one denoiser."""
    return (
        f"Unnoticed means that {reading.looked_at(part)} changes by at most "
        f"{reading.tolerance(part)} (root mean square over the region)."
    )


def methods(facts: Mapping) -> str:
    """A paragraph to paste: what was done, with what network, version and settings."""
    s, model = facts["settings"], facts["model"]
    kinds = {
        "noise": "fresh noise of the same dose",
        "texture": f"random fine structure of {s['texture_hu']:g} HU",
        "cinn": "draws of an autoencoder with a conditional invertible network",
    }
    sampler = facts.get("sampler", {})
    drawn = (
        f' ("{sampler["name"]}", version {sampler.get("version", "not said")})'
        if "cinn" in s["proposals"] and "name" in sampler
        else ""
    )
    lesions = (
        " Nodules of {sizes} mm with {contrasts} HU were put in at one point, each alone, and "
        "projected likewise.".format(
            sizes=", ".join(f"{d:g}" for d in s["lesion_diameters_mm"]),
            contrasts=", ".join(f"{c:g}" for c in s["lesion_contrasts_hu"]),
        )
        if s["lesion"]
        else ""
    )
    return (
        f'Changes of a CT image that the denoiser "{model["name"]}", version {model["version"]} '
        f"(SHA-256 "
        f"{model['sha256'][:16]}), does not notice were searched for with NetInversion "
        f"{__version__}. In each axial slice "
        f"{s['samples']} changes were proposed "
        f"({', '.join(kinds[kind] for kind in s['proposals'])}{drawn}; seed "
        f"{s['seed']}), and {s['projected']} of them were projected onto the network's level set "
        f"with at most "
        f"{s['max_evaluations']} evaluations each; {facts['accepted']} of {facts['projected']} "
        f"were accepted. {tolerance(facts)} The unproven map is the standard deviation of all "
        f"proposals, the "
        f"proven map that of the accepted "
        f"projected samples.{lesions} The question is that of Eulig, Ommer and Kachelrieß, "
        f"Reconstructing invariances of CT "
        "image denoising networks using invertible neural networks, Proc. SPIE 12304, 123040S "
        "(2022), "
        "doi:10.1117/12.2647170; the projection is this project's own."
    )


# What is shown ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shown:
    """The images of one denoiser by key without suffix, axes LPS; the slice, the region and what of
    it is shown."""

    result: Result
    suffix: str
    facts: Mapping
    images: Mapping[str, Volume]
    index: int
    region: tuple[int, ...]
    box: Box
    grey: Scale

    @classmethod
    def of(cls, result: Result, suffix: str, facts: Mapping) -> _Shown:
        own = {
            key.removesuffix(suffix): volume
            for key, volume in result.volumes.items()
            if (key.endswith(suffix) if suffix else not key.endswith(tuple(filter(None, SUFFIXES))))
        }
        images = {key: volumes.reorient(volume, "LPS") for key, volume in own.items()}
        region = figures.inside(result.volumes[f"patient{suffix}"], facts["settings"].get("region"))
        k0, k1, j0, j1, i0, i1 = region
        scores = np.zeros(k1 - k0)
        for key in ("std unproven", "std proven"):
            means = (
                images[key].array[k0:k1, j0:j1, i0:i1].mean(axis=(1, 2))
                if key in images
                else scores
            )
            scores = means if means.max() > 0 else scores
        index = k0 + int(np.argmax(scores))
        shape = images["patient"].shape
        calm = images.get("output", images["patient"]).array[index, j0:j1, i0:i1]
        return cls(
            result,
            suffix,
            facts,
            images,
            index,
            region,
            figures.box_of(region, figures.AXIAL, shape, CONTEXT_VOXELS),
            _window(calm),
        )

    def whole(self, key: str) -> figures.Slice:
        return figures.cut(self.images[key], figures.AXIAL, self.index)

    def slice(self, key: str) -> figures.Slice:
        return self.whole(key).cropped(self.box)

    def values(self, key: str) -> np.ndarray:
        k0, k1, j0, j1, i0, i1 = self.region
        return self.images[key].array[self.index, j0:j1, i0:i1]

    @property
    def place(self) -> Box:
        """The region within the whole slice."""
        return figures.box_of(self.region, figures.AXIAL, self.images["patient"].shape)

    @property
    def frame(self) -> Box | None:
        """The region within what is shown, unless it is all of it."""
        inner = self.place
        if inner == self.box:
            return None
        return (
            inner[0] - self.box[0],
            inner[1] - self.box[0],
            inner[2] - self.box[2],
            inner[3] - self.box[2],
        )

    def key(self, *names: str) -> str | None:
        """The first of these keys that there is."""
        return next((name for name in names if name in self.images), None)

    def first(self, kind: str) -> str | None:
        """Of a scene the image that its browser shows ("samples"), of a fresh result the first one
        ("sample 1")."""
        numbered = sorted(
            (int(key.split()[1]), key) for key in self.images if key.startswith(f"{kind} ")
        )
        return self.key(f"{kind}s") or (numbered[0][1] if numbered else None)

    def table(self, key: str) -> str:
        table = self.result.tables.get(f"{key}{self.suffix}")
        if table is None:
            return ""
        shown = core_page.table(table, notes=NOTES)
        if max(map(len, table.columns.values()), default=0) > FOLDED_ROWS:
            return core_page.folded(TITLES[key], shown)
        return core_page.heading(TITLES[key]) + shown

    def curve(self, key: str) -> str:
        curve = self.result.curves.get(f"{key}{self.suffix}")
        return core_page.picture(figures.plot(curve), curve.title) if curve is not None else ""


# Chapters -----------------------------------------------------------------------------------------


def _chapters(one: _Shown, behind: str) -> list[str]:
    others = [
        core_page.chapter(table.title, core_page.table(table, notes=NOTES))
        for key, table in one.result.tables.items()
        if not one.suffix and key.removesuffix(" second") not in TITLES
    ]
    return [
        core_page.chapter(
            f"What may change unnoticed{behind}",
            core_page.paragraph(tolerance(one.facts)),
            _maps(one),
        ),
        core_page.chapter(f"One sample{behind}", _samples(one)),
        core_page.chapter(f"Proof{behind}", one.table("proof"), one.table("proof of samples")),
        core_page.chapter(
            f"Anatomy or noise?{behind}",
            one.table("bands"),
            one.table("segments"),
            _components(one),
        ),
        core_page.chapter(
            f"Could a lesion vanish?{behind}",
            _lesion(one),
            one.curve("detectability"),
            one.table("lesions"),
        ),
        core_page.chapter(
            f"How much the network loses{behind}", one.curve("gains"), one.table("spectrum")
        ),
        *others,
    ]


def _maps(one: _Shown) -> str:
    """Low dose, denoised, and both maps over the CT."""
    first = [Picture(one.slice("patient"), "Low dose", one.grey, box=one.frame)]
    whole, box = one.whole("patient"), one.place
    if (box[1] - box[0]) * (box[3] - box[2]) < SMALL * whole.array.size:
        first.insert(0, Picture(whole, "Low dose, the whole slice", one.grey, box=box))
    if "output" in one.images:
        first.append(Picture(one.slice("output"), "Denoised", one.grey, box=one.frame))
    keys = [key for key in ("std unproven", "std proven") if key in one.images]
    if not keys:
        return core_page.picture(figures.sheet([first]), "low dose and denoised image", _where(one))
    top = figures.reach(np.concatenate([one.values(key).ravel() for key in keys]))
    titles = {
        "std unproven": "Unproven: what was tried",
        "std proven": "Proven: what goes unnoticed",
    }
    second = [_over(one, key, titles[key], top) for key in keys]
    if "std proven" in one.images and one.values("std proven").any():
        second.append(
            _over(
                one,
                "std proven",
                "Proven, with a scale of its own",
                figures.reach(one.values("std proven")),
            )
        )
    caption = (
        _where(one)
        + "The maps lie over the low-dose image: standard deviation of the samples at each voxel. "
        "Unproven and "
        "proven have the same scale; the last picture shows the proven map again with a scale of "
        "its own."
    )
    return core_page.picture(
        figures.sheet([first, second]),
        "low dose, denoised, and the unproven and the proven standard deviation "
        "over the low-dose image",
        caption,
    )


def _over(one: _Shown, key: str, title: str, top: float) -> Picture:
    over = one.slice(key)
    seen = np.where(over.array > 0, over.array, np.nan)
    return Picture(
        one.slice("patient"),
        title,
        one.grey,
        (figures.replace(over, array=seen), Scale(0.0, top, "standard deviation (HU)", "viridis")),
        one.frame,
    )


def _samples(one: _Shown) -> str:
    """A proposal, the sample that it became, and what each changes."""
    rows = []
    for kind, words in (("proposal", "Proposed change"), ("sample", "After projection: unnoticed")):
        key = one.first(kind)
        if key is not None:
            change = figures.replace(
                one.slice(key), array=one.slice(key).array - one.slice("patient").array
            )
            rows.append((one.slice(key), change, words))
    if not rows:
        return core_page.paragraph(
            "No sample is there as an image: none was to be kept, or none was accepted."
        )
    top = figures.reach(np.concatenate([change.array.ravel() for _, change, _ in rows]))
    sheet = []
    for image, change, words in rows:
        own = figures.reach(change.array)
        line = [
            Picture(image, f"{words}: the image", one.grey, box=one.frame),
            Picture(
                change,
                f"{words}: less the low dose",
                Scale(-top, top, "change (HU)", "RdBu_r"),
                box=one.frame,
            ),
        ]
        if own < 0.5 * top:
            line.append(
                Picture(
                    change,
                    "The same with a scale of its own",
                    Scale(-own, own, "change (HU)", "RdBu_r"),
                    box=one.frame,
                )
            )
        sheet.append(line)
    return core_page.picture(
        figures.sheet(sheet),
        "a proposed change and what is left of it when the network no longer notices",
        _where(one)
        + "In the changes red is brighter, blue darker and white unchanged; both have the same "
        "scale.",
    )


def _components(one: _Shown) -> str:
    keys = sorted(
        key for key in one.images if key.startswith("component ") and one.values(key).any()
    )[:SHOWN_COMPONENTS]
    if not keys:
        return one.table("components")
    top = figures.reach(np.concatenate([one.values(key).ravel() for key in keys]))
    row = [
        Picture(
            one.slice(key),
            f"{key.capitalize()}, one standard deviation",
            Scale(-top, top, "change (HU)", "RdBu_r"),
            box=one.frame,
        )
        for key in keys
    ]
    return one.table("components") + core_page.picture(
        figures.sheet([row]), "principal components of the accepted samples", _where(one)
    )


def _lesion(one: _Shown) -> str:
    """The nodule of which most stays unnoticed: put in, and what is left of it, around the
    point."""
    point = one.facts["settings"].get("lesion")
    if point is None or "lesion" not in one.images or "hidden lesion" not in one.images:
        return ""
    patient = one.images["patient"]
    i, j, k = np.linalg.solve(patient.ijk_to_ras, np.append(point, 1.0))[:3]
    reach = [max(8, round(LESION_MM / mm)) for mm in patient.spacing_mm[1::-1]]
    box = (
        max(0, round(j) - reach[0]),
        min(patient.shape[1], round(j) + reach[0] + 1),
        max(0, round(i) - reach[1]),
        min(patient.shape[2], round(i) + reach[1] + 1),
    )

    def cut(key: str) -> figures.Slice:
        return figures.cut(one.images[key], figures.AXIAL, round(k)).cropped(box)

    grey = _window(cut("patient").array)
    changes = {
        key: figures.replace(cut(key), array=cut(key).array - cut("patient").array)
        for key in ("lesion", "hidden lesion")
    }
    top = figures.reach(np.concatenate([change.array.ravel() for change in changes.values()]), 100)
    scale = Scale(-top, top, "change (HU)", "RdBu_r")
    rows = [
        [
            Picture(cut("patient"), "Low dose", grey),
            Picture(cut("lesion"), "With a nodule", grey),
            Picture(cut("hidden lesion"), "With what of it stays unnoticed", grey),
        ],
        [
            None,
            Picture(changes["lesion"], "The nodule", scale),
            Picture(changes["hidden lesion"], "What stays unnoticed", scale),
        ],
    ]
    return core_page.picture(
        figures.sheet(rows),
        "a nodule, and what of it the network does not notice",
        f"Axial slice at {cut('patient').position}, around the point; of all sizes and contrasts "
        f"the nodule of "
        "which most HU stay unnoticed. Both changes have the same scale.",
    )


def _window(hu: np.ndarray) -> Scale:
    """Grey levels for soft tissue and bone where there is some, else for all there is."""
    tissue = hu[hu > AIR_AND_LUNG_HU]
    values = tissue if tissue.size > 0.3 * hu.size else hu
    return Scale(*figures.window(values, 1, 99), "CT value (HU)")


def _where(one: _Shown) -> str:
    return (
        f"Axial slice at {one.whole('patient').position}, the one with the largest standard "
        "deviation inside the region. "
    )
