"""The report of one ideal input: what ``core.page`` builds, with the chapters of this question."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .. import __version__
from ..core import figures
from ..core import page as core_page
from ..core.keys import Key
from ..core.results import Result, Table
from ..core.volumes import Volume
from . import pictures, reading
from .settings import BLUR_VOXELS, IdealInputSettings

SETTINGS = {
    "starts": (
        "Starts of the search",
        "patient: the patient's images; zeros: empty ones; noise: random ones",
    ),
    "noise_seeds": ("Noise images", "how many random starts, if noise is one"),
    "direction": ("Looked for", "best: the least error; worst: the greatest"),
    "ball": (
        "Greatest change allowed",
        "root mean square, where 1 is a channel's range; none: no limit",
    ),
    "near": (
        "Price of leaving the patient's images",
        "thousandths, where the change is one standard deviation of their noise; 0: none",
    ),
    "above": (
        "Price of values above the channel's range",
        "weight in what is minimised (lambda 1)",
    ),
    "below": (
        "Price of values below the channel's range",
        "weight in what is minimised (lambda 2)",
    ),
    "mean": (
        "Mean over voxels",
        "yes: what is minimised does not depend on the image's size; no: sums, as published",
    ),
    "box": ("Values kept exactly in range", "yes or no"),
    "optimiser": (
        "Optimiser",
        "annealed: this project's; lbfgs: batched L-BFGS; published: the source's",
    ),
    "max_evaluations": ("Network evaluations", "for each image, at most"),
    "history": ("L-BFGS history", "pairs"),
    "locked": ("Channels kept as the patient's", ""),
    "region": (
        "Region",
        "voxels of the first input, first and last + 1 along k, j, i; none: everything",
    ),
    "context": ("Surroundings that the network also sees", "voxels around the region, as acquired"),
    "memory_gb": ("Memory at most", "GB"),
    "allow_cpu": ("Go on on the CPU if the GPU's memory does not suffice", "yes or no"),
    "validity": ("Try inputs that should not be better", "yes or no"),
    "knobs": ("Try what a scanner can do", "yes or no"),
    "blurred": ("Weight of the blurred input's error", "beside the input's own"),
    "trade_off": ("How much change buys how much?", "yes or no"),
    "optima": ("More inputs as good", "how many were looked for"),
}
LIMITS = (
    "That such an image could be acquired: voxels were free, and no scanner has one knob for "
    "each. What a scanner's "
    "settings would buy is in the table of knobs.",
    "That the ideal images are better images of the patient: they suit this network, not the "
    "reader.",
    "That another network would gain as much: that is only known where a second network was tried.",
    "That there is no better input: the search ends at a local optimum, and other starts end "
    "elsewhere.",
    "That the error is measured against the truth: the target is an image too, with noise and "
    "misregistration of its own.",
)
NOTES = {
    "share of the patient's own error (%)": "per cent of the mean error that the patient's own "
    "images "
    "give; 100 is no gain",
    "values outside [0, 1] (%)": "per cent of the input's voxels that lie outside the range that "
    "the network expects",
    "lowest value": "of the input, where 0 to 1 is the channel's range",
    "highest value": "of the input, where 0 to 1 is the channel's range",
    "mean change (normalised)": "in parts of the channel's range",
    "gradient-energy ratio": "squared gradients of the ideal image over the patient's; above 1 is "
    "sharper, or noisier",
    "autocorrelation, ideal": "of neighbouring voxels: near 0 for noise, near 1 for anatomy",
    "share of the gain lost (%)": "per cent of the whole gain (patient's error less ideal error) "
    "that is lost when this channel "
    "alone is the patient's again",
    "shared by all (%)": "per cent of the inputs' mean square change from the patient's own; the "
    "rest differs from one to the next",
    "share of the free-voxel gain (%)": "per cent of the gain that free voxels bring on the same "
    "images",
}


def write(result: Result, source: Volume | None, path: Path | str) -> Path:
    """Write the page for a result of ``ideal_input.ideal_input``; replaced whole.

    Args:
        result: Its volumes [k, j, i], tables, curves and facts.
        source: The first input channel, whole, to show where the region lies; None if it is gone.
        path: Of the page.

    Raises:
        ValueError: The result holds no images.
        OSError: The folder cannot be written.
    """
    return core_page.write(path, page(result, source))


def page(result: Result, source: Volume | None = None) -> str:
    """The page as text; it refers to no other file, and whatever a name holds is text.

    Args:
        result: Its volumes [k, j, i], tables, curves and facts.
        source: The first input channel, whole, or None if it is gone.

    Raises:
        ValueError: The result holds no images.
    """
    facts, tables = core_page.plain(result.facts), result.tables
    starts = pictures.starts_of(result)
    if not starts:
        raise ValueError(
            "the report needs the result's images, and they were removed from the scene: run it "
            "again"
        )
    what = _kind(facts)
    shown = pictures.shown_of(result, facts, starts[0])
    name = source.name if source is not None else _input_of(facts)
    return core_page.document(
        f"{what.capitalize()} input for {facts['model']['name']}: {name}",
        [
            core_page.lead(reading.answer(facts, tables), "", facts.get("warnings", ())),
            core_page.chapter(
                "Error of the network's output",
                pictures.errors(shown, starts, what),
                _table(tables, "error"),
            ),
            *pictures.inputs(shown, starts, what, source, facts),
            core_page.chapter(
                "What changed in the input",
                _table(tables, "change"),
                *_curves(result, "spectrum"),
                _note_on_spectra(result),
            ),
            core_page.chapter(
                "How the search went", *_curves(result, "convergence"), _ended(facts)
            ),
            core_page.chapter(
                "Whether to believe it",
                _table(tables, "swap back"),
                _table(tables, "validity"),
                _transfer(facts),
            ),
            _on_change(result, facts),
            _on_optima(facts, tables),
            core_page.chapter(
                "What a scanner could do",
                *(core_page.paragraph(facts[key]) for key in ("protocol", "bone") if key in facts),
                _table(tables, "acquirable"),
                *_curves(result, "scan time"),
            ),
            *(
                core_page.chapter(table.title, core_page.table(table, notes=NOTES))
                for key, table in tables.items()
                if key not in KNOWN
            ),
            *core_page.closing(
                facts,
                LIMITS,
                methods(facts),
                SETTINGS,
                {"network": facts["model"]},
                facts.get("inputs", {}),
            ),
        ],
    )


def _input_of(facts: Mapping) -> str:
    """The name of the first input, as the facts have it; the network's where they have none."""
    return next(iter(facts.get("inputs", {}).values()), facts["model"]["name"])


KNOWN = ("error", "change", "swap back", "validity", "acquirable", "optima")


def _optimiser(settings: Mapping) -> str:
    """The optimiser in words; one name of older results stands for what it was."""
    name = {"batched": "lbfgs", "fixed-step": "published"}.get(
        settings["optimiser"], settings["optimiser"]
    )
    if name == "published":
        return "L-BFGS with learning rate 1 and 100 steps of 20 inner iterations, as published"
    most = f"at most {settings['max_evaluations']} network evaluations for each image"
    if name == "lbfgs" or settings["ball"]:
        return f"a batched L-BFGS (history {settings['history']}, weak Wolfe line search, {most})"
    return (
        "annealed descent (full-matrix adaptive steps in blocks of voxels, cosine decay, the kinks"
        f" of the absolute error rounded ever less in the gradient; {most})"
    )


def _prices(settings: Mapping) -> str:
    """What a search near the patient's images asks besides, in words; "" for a free one."""
    text = ""
    if settings["blurred"]:
        text += (
            " The error of the input blurred by a Gaussian of standard deviation"
            f" {BLUR_VOXELS:g} voxel counted with it, with weight {settings['blurred']:g}."
        )
    if settings["near"] and "patient" in settings["starts"]:
        text += (
            f" From the patient's images, leaving them had a price of {settings['near'] / 1000:g}"
            " (of the output's range) times the mean square change in units of their own noise."
        )
    return text


def methods(facts: Mapping) -> str:
    """A paragraph to paste: what was done, with what network, version and settings."""
    s, model = IdealInputSettings.in_todays_names(facts["settings"]), facts["model"]
    goal = "least" if s["direction"] == "best" else "greatest"
    how = _optimiser(s)
    terms = "mean" if s["mean"] else "sum"
    bounds = (
        "kept within the range of each channel exactly"
        if s["box"]
        else f"kept in range by squared penalties (weights {s['above']:g} above, {s['below']:g} "
        f"below)"
    )
    limit = (
        f" The root-mean-square change was at most {s['ball']:g} of a channel's range."
        if s["ball"]
        else ""
    )
    locked = (
        f" These channels stayed the patient's: {', '.join(s['locked'])}." if s["locked"] else ""
    )
    return (
        f'The input that gives the {goal} error of the network "{model["name"]}", version '
        f"{model['version']} (SHA-256 "
        f"{model['sha256'][:16]}), trained on {len(model['trained_on'])} volumes, was searched "
        f"for with NetInversion "
        f"{__version__}. Each voxel of the input was free; the {terms} of the absolute difference "
        f"between output and target "
        f"was optimised with {how}, starting from {', '.join(s['starts'])} (seed {s['seed']}); "
        f"values were {bounds}."
        f"{_prices(s)}{limit}{locked} Every figure was taken on the network's output for the "
        "assembled image, inside the region. The "
        'method is that of Leynes and colleagues, Visualizing the "ideal" input MRI for synthetic '
        "CT generation with a "
        "trained deep convolutional neural network, ISMRM 2019, abstract 4866."
    )


# What is shown ------------------------------------------------------------------------------------


def _kind(facts: Mapping) -> str:
    return "ideal" if facts["settings"]["direction"] == "best" else "worst"


# Chapters -----------------------------------------------------------------------------------------


def _table(tables: Mapping[str, Table], key: str) -> str:
    if key not in tables:
        return ""
    return core_page.heading(TITLES[key]) + core_page.table(tables[key], notes=NOTES)


TITLES = {
    "error": "Mean absolute error by tissue",
    "change": "By start, channel and tissue",
    "swap back": "One channel back to the patient's",
    "validity": "Would other inputs do as well?",
    "acquirable": "What a scanner's knobs buy",
    "optima": "By channel",
}


def _curves(result: Result, kind: str) -> list[str]:
    found = [curve for key, curve in result.curves.items() if Key.read(key).kind == kind]
    return [core_page.picture(figures.plot(curve), curve.title) for curve in found]


def _note_on_spectra(result: Result) -> str:
    if not any(Key.read(key).kind == "spectrum" for key in result.curves):
        return ""
    return core_page.paragraph(
        "Above 1 the found image has more structure of that fineness than the patient's, below 1 "
        "less; to the "
        "right are fine structures and noise.",
        "quiet",
    )


def _on_change(result: Result, facts: Mapping) -> str:
    """The chapter with the curve of error against change; "" if it was not asked for."""
    if "trade_off" not in facts:
        return ""
    note = core_page.paragraph(
        "Each point is the best input found at one price of leaving the patient's images, the"
        " first is these images unchanged. 1 is a root-mean-square change as large as the images'"
        " own noise, or as 1 % of a channel's range where there is less.",
        "quiet",
    )
    return core_page.chapter("How much change buys how much?", *_curves(result, "trade-off"), note)


def _on_optima(facts: Mapping, tables: Mapping[str, Table]) -> str:
    """The chapter about several optima; "" if they were not asked for."""
    if "optima" not in facts:
        return ""
    return core_page.chapter(
        "Which inputs do as well?",
        core_page.paragraph(reading.optima_in_words(facts["optima"])),
        _table(tables, "optima"),
    )


def _ended(facts: Mapping) -> str:
    lines = [
        f"Searched {pictures.searched_from(start)}: "
        + ", ".join(
            f'{count} image{"s" if count != 1 else ""} ended with "{words}"'
            for words, count in ends.items()
        )
        + "."
        for start, ends in facts.get("ended", {}).items()
    ]
    return core_page.bullets(lines)


def _transfer(facts: Mapping) -> str:
    gains = facts.get("gain that transfers", {})
    return core_page.bullets(
        f"Of the gain of the {name} input, {100 * share:.0f} % is also a gain of the second "
        f"network."
        for name, share in gains.items()
    )
