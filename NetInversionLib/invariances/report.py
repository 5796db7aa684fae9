"""The report of one search for invariances.

It is what ``core.page`` builds, with the chapters of this question.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from .. import __version__
from ..core import page as core_page
from ..core.keys import Key
from ..core.results import Result
from ..core.volumes import Volume
from . import pictures, reading
from .observer import AS_IT_IS, BLURRED, CHANNELS, DENOISED, IN_WORDS, NORMAL

FOLDED_ROWS = 20  # longer tables are folded away
NODULE = ("diameter (mm)", "contrast (HU)")
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
    "patch_mm": (
        "Change averaged over patches of",
        "mm; the patch that changes most counts; none: the whole region",
    ),
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
    "lesion_shape": ("Lesion shape", "ball: as a nodule; hollow: its inner half as it was"),
    "lesion_diameters_mm": ("Lesion sizes", "mm, diameter"),
    "lesion_contrasts_hu": ("Lesion contrasts", "HU"),
    "draws": ("Draws of noise", "by which it is told how well a lesion is seen"),
    "spectrum": ("Layers whose lost directions are counted", ""),
    "spectrum_size": ("Side of the square for that", "voxels"),
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
    "That readers see what an observer with a high d' sees: it knows what to look for, and where.",
)
NOTES = {
    "accepted (%)": "per cent of the projected samples whose change stays within the tolerance",
    "survived (%)": "per cent of the proposed change that is left when the network no longer "
    "notices",
    "survives (%)": "per cent of the nodule's contrast that is left when the network no longer "
    "notices",
    "explained variance (%)": "per cent of the accepted samples' variance in the region",
    "within 1 SD (%)": "per cent of the voxels at which the normal-dose image lies within one "
    "standard deviation of the low-dose image; 68 % if the map told how the two differ",
    "within 2 SD (%)": "within two; 95 % if it did",
    "reference: the normal-dose image (HU)": "what the output changes by when the normal-dose "
    "image stands in the region: above the limit it is not among the images that pass",
    f"d' {NORMAL}": "how far an observer's scores with and without the nodule lie apart, in their "
    "standard deviations, in images at normal dose",
    f"d' {AS_IT_IS}": "the same at the image's own dose, nothing done",
    f"d' {DENOISED}": "the same after the network",
    f"d' {BLURRED}": "the same after a Gaussian blur that leaves as much noise as the network",
    IN_WORDS: "denoised, beside as it is; a change counts where d' differs by more than twice its "
    "error",
    "lost (%)": "per cent of all directions of change in the square that the layer does not pass "
    "on above the tolerance",
    "input change before (HU)": "root mean square, in the region",
    "input change after (HU)": "root mean square, in the region",
    "projected": "number of samples that were moved until the network no longer notices",
}
TITLES = {
    "proof": "How invariant the samples are",
    "proof of samples": "Each sample",
    "coverage": "How often the normal-dose image lies inside",
    "bands": "By size of structures",
    "segments": "Inside segments",
    "components": "Directions in which the accepted samples differ most",
    "lesions": "Every size with every contrast",
    "spectrum": "Directions that are lost",
}


def write(result: Result, source: Volume | None, path: Path | str) -> Path:
    """Write the page for a result of ``invariances.invariances``; replaced whole.

    Args:
        result: Its volumes [k, j, i], tables, curves and facts.
        source: Not needed: the result holds the patient's image. It gives the page its name.

    Raises:
        ValueError: The result holds no images.
        OSError: The folder cannot be written.
    """
    return core_page.write(path, page(result, source))


def page(result: Result, source: Volume | None = None) -> str:
    """The page as text; it refers to no other file, and whatever a name holds is text.

    Args:
        result: Its volumes [k, j, i], tables, curves and facts.
        source: Gives the page its name, if it is there.

    Raises:
        ValueError: The result holds no images.
    """
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
    for network, words in pictures.NETWORKS.items():
        its_facts = facts.get(network, {}) if network else facts
        if Key("patient", network=network) in result.volumes and "model" in its_facts:
            one = pictures.Shown.of(result, network, its_facts)
            models[words or "denoiser"] = its_facts["model"]
            if "sampler" in its_facts:
                models[f"{words} sampler".strip()] = its_facts["sampler"]
            chapters += _chapters(one, f", {words}: {its_facts['model']['name']}" if words else "")
    return core_page.document(
        f"What {facts['model']['name']} does not notice: {name}",
        [
            core_page.lead(reading.answer(facts, result.tables), "", facts.get("warnings", ())),
            *chapters,
            *core_page.closing(
                facts, LIMITS, methods(facts), SETTINGS, models, facts.get("inputs", {})
            ),
        ],
    )


def tolerance(part: Mapping) -> str:
    """What counted as unnoticed, in a sentence; ``part``: the facts about one denoiser."""
    return (
        f"Unnoticed means that {reading.looked_at(part)} changes by at most "
        f"{reading.tolerance(part)} ({reading.averaged(part)})."
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
        "projected likewise.{observer}".format(
            sizes=", ".join(f"{d:g}" for d in s["lesion_diameters_mm"]),
            contrasts=", ".join(f"{c:g}" for c in s["lesion_contrasts_hu"]),
            observer=_observer(s),
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


def _observer(settings: Mapping) -> str:
    """Of the paragraph to paste, how d' was found; "" for results of versions before."""
    if "draws" not in settings:
        return ""
    return (
        f" How well each is seen was measured with a channelised Hotelling observer ({CHANNELS}"
        f" Laguerre-Gauss channels, {settings['draws']} draws of simulated noise, trained on one"
        " half and tested on the other, both ways; Gallas and Barrett, J Opt Soc Am A 2003;20:1725)"
        " before and after denoising and after a Gaussian blur of equal noise."
    )


# Chapters -----------------------------------------------------------------------------------------


def _chapters(one: pictures.Shown, behind: str) -> list[str]:
    others = [
        core_page.chapter(table.title, core_page.table(table, notes=NOTES))
        for key, table in one.result.tables.items()
        if not one.network and Key.read(key).of("") not in TITLES
    ]
    return [
        core_page.chapter(
            f"What may change unnoticed{behind}",
            core_page.paragraph(tolerance(one.facts)),
            pictures.maps(one),
        ),
        core_page.chapter(f"One sample{behind}", pictures.samples(one)),
        core_page.chapter(
            f"Proof{behind}",
            _table(one, "proof"),
            _table(one, "coverage"),
            _table(one, "proof of samples"),
        ),
        core_page.chapter(
            f"Anatomy or noise?{behind}",
            _table(one, "bands"),
            _table(one, "segments"),
            _table(one, "components"),
            pictures.principal_components(one),
        ),
        core_page.chapter(
            f"Could a lesion vanish?{behind}",
            pictures.lesion(one),
            one.curve("detectability"),
            _table(one, "lesions", _is_hidden),
            *_seen(one),
        ),
        core_page.chapter(
            f"How much the network loses{behind}", one.curve("gains"), _table(one, "spectrum")
        ),
        *others,
    ]


def _seen(one: pictures.Shown) -> list[str]:
    """How well the nodules are seen: sentences and the table's columns about it."""
    sentences = reading.seen(one.result.tables, one.network)
    if not sentences:
        return []
    words = " ".join([*sentences, reading.compared(one.result.tables, one.network)])
    return [
        core_page.heading("Would it be seen?"),
        core_page.paragraph(words),
        _table(one, "lesions", _is_seen, "How well each is seen"),
        core_page.paragraph(reading.seen_how(one.facts)),
    ]


def _is_seen(heading: str) -> bool:
    """Whether a column of the table of lesions is shown where it is told what is seen."""
    return "d' " in heading or heading in (IN_WORDS, *NODULE)


def _is_hidden(heading: str) -> bool:
    """Whether it is shown where it is told what can be hidden."""
    return heading in NODULE or not _is_seen(heading)


def _table(
    one: pictures.Shown,
    key: str,
    wanted: Callable[[str], bool] = lambda heading: True,
    title: str = "",
) -> str:
    """A table of one denoiser, or some of its columns, with its heading.

    A long one is folded away. ``title``: the heading, if not that of ``TITLES``.
    """
    table = one.result.tables.get(Key(key, network=one.network))
    if table is None:
        return ""
    shown = core_page.table(table, notes=NOTES, columns=filter(wanted, table.columns))
    if max(map(len, table.columns.values()), default=0) > FOLDED_ROWS:
        return core_page.folded(title or TITLES[key], shown)
    return core_page.heading(title or TITLES[key]) + shown
