"""The report of one ideal input: what ``core.page`` builds, with the chapters of this question."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import __version__
from ..core import figures, volumes
from ..core import page as core_page
from ..core.figures import Picture, Scale
from ..core.results import Result, Table
from ..core.volumes import Volume
from . import reading

MOST_STARTS = 4
"""Starts whose pictures are on the page; the tables have them all."""
CONTEXT_VOXELS = 8  # around the region in the pictures
SETTINGS = {
    "starts": (
        "Starts of the search",
        "patient: the patient's images; zeros: empty ones; noise: random ones",
    ),
    "noise_seeds": ("Noise images", "how many random starts, if noise is one"),
    "seed": ("Seed", "everything random follows from it"),
    "direction": ("Looked for", "best: the least error; worst: the greatest"),
    "ball": (
        "Greatest change allowed",
        "root mean square, where 1 is a channel's range; none: no limit",
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
    "optimiser": ("Optimiser", "batched: this project's L-BFGS; fixed-step: as published"),
    "max_evaluations": ("Network evaluations", "for each image, at most"),
    "history": ("L-BFGS history", "pairs"),
    "locked": ("Channels kept as the patient's", ""),
    "region": (
        "Region",
        "voxels of the first input, first and last + 1 along k, j, i; none: everything",
    ),
    "context": ("Surroundings that the network also sees", "voxels around the region, as acquired"),
    "device": ("Device asked for", "auto, cpu, cuda or mps"),
    "memory_gb": ("Memory at most", "GB"),
    "allow_cpu": ("Go on on the CPU if the GPU's memory does not suffice", "yes or no"),
    "validity": ("Try inputs that should not be better", "yes or no"),
    "knobs": ("Try what a scanner can do", "yes or no"),
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
    "share of the free-voxel gain (%)": "per cent of the gain that free voxels bring on the same "
    "images",
}


@dataclass(frozen=True)
class _Shown:
    """What the pictures show: volumes with axes LPS by key, a plane, the slice, the part of it, and
    the region's frame."""

    images: Mapping[str, Volume]
    plane: int
    index: int
    region: tuple[int, ...]
    box: tuple[int, int, int, int]
    frame: tuple[int, int, int, int]
    names: Mapping[str, str]  # of channels, by role

    def name(self, role: str) -> str:
        return self.names.get(role, role.replace("_", " "))

    def slice(self, key: str) -> figures.Slice:
        return figures.cut(self.images[key], self.plane, self.index).cropped(self.box)

    def values(self, key: str) -> np.ndarray:
        """The slice inside the region."""
        box = figures.box_of(self.region, self.plane, self.images[key].shape)
        return figures.cut(self.images[key], self.plane, self.index).cropped(box).array


def write(result: Result, source: Volume | None, path: Path | str) -> Path:
    """Write the page for a result of ``ideal_input.ideal_input``; replaced whole.

    Args:
        source: The first input channel, whole, to show where the region lies; None if it is gone.

    Raises:
        ValueError: The result holds no images.
        OSError: The folder cannot be written.
    """
    return core_page.write(path, page(result, source))


def page(result: Result, source: Volume | None = None) -> str:
    """The page as text; it refers to no other file, and whatever a name holds is text. Raises
    ValueError without images."""
    facts, tables = core_page.plain(result.facts), result.tables
    starts = starts_of(result)
    if not starts:
        raise ValueError(
            "the report needs the result's images, and they were removed from the scene: run it "
            "again"
        )
    what = _kind(facts)
    shown = _shown(result, facts, starts[0])
    name = (
        source.name
        if source is not None
        else next(iter(facts.get("inputs", {}).values()), facts["model"]["name"])
    )
    return core_page.document(
        f"{what.capitalize()} input for {facts['model']['name']}: {name}",
        [
            core_page.lead(reading.answer(facts, tables), "", facts.get("warnings", ())),
            core_page.chapter(
                "Error of the network's output",
                _errors(shown, starts, what),
                _table(tables, "error"),
            ),
            *_inputs(shown, starts, what, source, facts),
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
            core_page.chapter("What a scanner could do", _table(tables, "acquirable")),
            *(
                core_page.chapter(table.title, core_page.table(table, notes=NOTES))
                for key, table in tables.items()
                if key not in KNOWN
            ),
            core_page.chapter("What this does not say", core_page.bullets(LIMITS)),
            core_page.chapter("For the methods section", core_page.paragraph(methods(facts))),
            core_page.chapter("Settings", core_page.settings(facts["settings"], SETTINGS)),
            core_page.chapter(
                "Where it comes from",
                core_page.provenance(
                    facts,
                    f"{facts['settings']['seed']}: everything random follows from it",
                    {"network": facts["model"]},
                    {
                        role.replace("_", " "): name
                        for role, name in facts.get("inputs", {}).items()
                    },
                ),
                core_page.record(facts),
            ),
        ],
    )


KNOWN = ("error", "change", "swap back", "validity", "acquirable")


def methods(facts: Mapping) -> str:
    """A paragraph to paste: what was done, with what network, version and settings."""
    s, model = facts["settings"], facts["model"]
    goal = "least" if s["direction"] == "best" else "greatest"
    how = (
        f"a batched L-BFGS (history {s['history']}, weak Wolfe line search, at most "
        f"{s['max_evaluations']} network "
        "evaluations for each image)"
        if s["optimiser"] == "batched"
        else "L-BFGS with learning rate 1 and 100 steps of 20 inner iterations, as published"
    )
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
        f"{limit}{locked} Every figure was taken on the network's output for the assembled image, "
        f"inside the region. The "
        'method is that of Leynes and colleagues, Visualizing the "ideal" input MRI for synthetic '
        "CT generation with a "
        "trained deep convolutional neural network, ISMRM 2019, abstract 4866."
    )


# What is shown ------------------------------------------------------------------------------------


def starts_of(result: Result) -> list[str]:
    """The starts whose images a result holds, in its order."""
    keys = [
        key.split(" ", 2)
        for key in result.volumes
        if key.startswith("change ") and f"ideal {key[7:]}" in result.volumes
    ]
    return list(dict.fromkeys(start for _, _, start in keys))


def _roles(images: Iterable[str], kind: str) -> list[str]:
    return list(dict.fromkeys(key.split(" ", 2)[1] for key in images if key.startswith(f"{kind} ")))


def _kind(facts: Mapping) -> str:
    return "ideal" if facts["settings"]["direction"] == "best" else "worst"


def _from(start: str) -> str:
    return f"from {reading.start_words(start)}"


def _shown(result: Result, facts: Mapping, start: str) -> _Shown:
    """The slice inside the region whose images changed most from this start, each channel by its
    own largest change."""
    first = next(volume for key, volume in result.volumes.items() if key.startswith("ideal "))
    region, window = facts["settings"].get("region"), facts.get("window")
    if region and window:
        region = tuple(int(bound) - int(window[2 * (n // 2)]) for n, bound in enumerate(region))
    turned = {key: volumes.reorient(volume, "LPS") for key, volume in result.volumes.items()}
    for role in _roles(result.volumes, "change"):
        ideal = turned[f"ideal {role} {start}"]
        turned[f"patient {role}"] = ideal.with_array(
            ideal.array - turned[f"change {role} {start}"].array
        )
    inside = figures.inside(first, region)
    whole = turned[f"change {_roles(result.volumes, 'change')[0]} {start}"]
    plane = figures.plane_of(whole)
    scores = sum(
        _by_slice(turned[f"change {role} {start}"].array, inside, plane)
        for role in _roles(result.volumes, "change")
    )
    index = inside[2 * plane] + int(np.argmax(scores))
    box = figures.box_of(inside, plane, whole.shape, CONTEXT_VOXELS)
    frame = figures.box_of(inside, plane, whole.shape)
    frame = (frame[0] - box[0], frame[1] - box[0], frame[2] - box[2], frame[3] - box[2])
    return _Shown(turned, plane, index, inside, box, frame, facts.get("channels", {}))


def _by_slice(change: np.ndarray, region: tuple[int, ...], plane: int) -> np.ndarray:
    """Mean magnitude in each slice of the region, over the largest of them."""
    part = np.abs(change[tuple(slice(*region[2 * axis : 2 * axis + 2]) for axis in range(3))])
    means = part.mean(axis=tuple({0, 1, 2} - {plane}))
    return means / max(float(means.max()), 1e-12)


def _where(shown: _Shown) -> str:
    first = next(iter(shown.images))
    return (
        f"{figures.PLANES[shown.plane].capitalize()} slice at {shown.slice(first).position}, the "
        f"one whose images changed "
        "most inside the region. "
    )


# Chapters -----------------------------------------------------------------------------------------


def _errors(shown: _Shown, starts: list[str], what: str) -> str:
    """Output above error, for the patient's input and each start, errors on one scale."""
    rows = []
    names = [reading.OWN, *starts[:MOST_STARTS]]
    for role in _roles(shown.images, "error"):
        keys = {
            name: f"{role} {name}"
            for name in names
            if {f"error {role} {name}", f"output {role} {name}"} <= shown.images.keys()
        }
        if names[0] not in keys:  # removed from the scene: there is nothing to compare with
            continue
        units = shown.images[f"error {role} {names[0]}"].units
        low, high = figures.window(shown.values(f"output {role} patient's"))
        grey = Scale(low, high, f"{shown.name(role)} ({units})")
        # Of ideal inputs the patient's own error makes the scale: a start that failed would hide
        # it.
        scaled = [keys[names[0]]] if what == "ideal" else list(keys.values())
        top = figures.reach(
            np.concatenate([shown.values(f"error {key}").ravel() for key in scaled])
        )
        error = Scale(0.0, top, f"absolute error ({units})", "inferno")
        titles = {name: reading.input_words(name, what) for name in keys}
        for kind, scale, words in (
            ("output", grey, f"Synthetic {shown.name(role)}"),
            ("error", error, "Error"),
        ):
            rows.append(
                [
                    Picture(
                        shown.slice(f"{kind} {key}"),
                        f"{words}: {titles[name]}",
                        scale,
                        box=_frame(shown),
                    )
                    for name, key in keys.items()
                ]
            )
    if not rows:
        return ""
    left_out = len(starts) - MOST_STARTS
    more = f" {left_out} more starts are in the tables only." if left_out > 0 else ""
    return core_page.picture(
        figures.sheet(rows),
        "output of the network and its error, for the patient's input and each start",
        _where(shown)
        + "Below each output its absolute difference from the target, all on one scale; what "
        "exceeds it has its last colour." + more,
    )


def _inputs(
    shown: _Shown, starts: list[str], what: str, source: Volume | None, facts: Mapping
) -> list[str]:
    """A chapter for each start: patient's, ideal and change of every channel."""
    made = []
    for start in starts[:MOST_STARTS]:
        rows = []
        for role in _roles(shown.images, "change"):
            units = shown.images[f"ideal {role} {start}"].units
            measured = f"{shown.name(role)} ({units})" if units else f"{shown.name(role)} (no unit)"
            grey = Scale(*figures.window(shown.values(f"patient {role}")), measured)
            top = figures.reach(shown.values(f"change {role} {start}"))
            change = Scale(
                -top,
                top,
                f"change, {what} - patient's own" + (f" ({units})" if units else ""),
                "RdBu_r",
            )
            rows.append(
                [
                    Picture(
                        shown.slice(f"patient {role}"),
                        f"{shown.name(role)}, patient's own",
                        grey,
                        box=_frame(shown),
                    ),
                    Picture(
                        shown.slice(f"ideal {role} {start}"),
                        f"{shown.name(role)}, {what}",
                        grey,
                        box=_frame(shown),
                    ),
                    Picture(
                        shown.slice(f"change {role} {start}"),
                        f"{shown.name(role)}, change",
                        change,
                        box=_frame(shown),
                    ),
                ]
            )
        first = _overview(shown, source, facts)
        if first is not None and not made:
            rows = [[first if n == 0 else None, *row] for n, row in enumerate(rows)]
        caption = (
            _where(shown)
            + f"Patient's and {what} image of a channel have the same grey scale; in the change "
            f"red is more, "
            "blue is less and white is none."
            + (" Only inside the yellow frame the input was free." if _frame(shown) else "")
        )
        made.append(
            core_page.chapter(
                f"The input, searched {_from(start)}",
                core_page.picture(
                    figures.sheet(rows),
                    f"patient's image, {what} image and change of each channel, {_from(start)}",
                    caption,
                ),
            )
        )
    return made


def _overview(shown: _Shown, source: Volume | None, facts: Mapping) -> Picture | None:
    """The whole slice of the first input with the region framed, where the pictures show only a
    part of it."""
    window = facts.get("window")
    if source is None or not window:
        return None
    whole = volumes.reorient(source, "LPS")
    offset = figures.inside(source, tuple(int(bound) for bound in window))
    if any(bound > n for bound, n in zip(offset[1::2], whole.shape)):
        return None  # another volume by now
    region = tuple(bound + offset[2 * (n // 2)] for n, bound in enumerate(shown.region))
    box = figures.box_of(region, shown.plane, whole.shape)
    seen = figures.cut(whole, shown.plane, shown.index + offset[2 * shown.plane])
    if (box[1] - box[0]) * (box[3] - box[2]) > 0.7 * seen.array.size:
        return None
    return Picture(
        seen,
        "Where the region lies",
        Scale(
            *figures.window(seen.array),
            f"first input ({source.units})" if source.units else "first input",
        ),
        box=box,
    )


def _frame(shown: _Shown) -> tuple[int, int, int, int] | None:
    """The region's frame, unless it is all that is shown."""
    rows, columns = shown.box[1] - shown.box[0], shown.box[3] - shown.box[2]
    return None if shown.frame == (0, rows, 0, columns) else shown.frame


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
}


def _curves(result: Result, beginning: str) -> list[str]:
    found = [curve for key, curve in result.curves.items() if key.startswith(beginning)]
    return [core_page.picture(figures.plot(curve), curve.title) for curve in found]


def _note_on_spectra(result: Result) -> str:
    if not any(key.startswith("spectrum") for key in result.curves):
        return ""
    return core_page.paragraph(
        "Above 1 the found image has more structure of that fineness than the patient's, below 1 "
        "less; to the "
        "right are fine structures and noise.",
        "quiet",
    )


def _ended(facts: Mapping) -> str:
    lines = [
        f"Searched {_from(start)}: "
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
