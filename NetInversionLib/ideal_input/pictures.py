"""Pictures of an ideal input for its report: outputs and errors, inputs and their changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..core import figures, volumes
from ..core import page as core_page
from ..core.figures import Box, Picture, Scale
from ..core.keys import OWN, Key
from ..core.results import Result
from ..core.volumes import Region, Volume
from . import reading

MOST_STARTS = 4
"""Starts whose pictures are on the page; the tables have them all."""
CONTEXT_VOXELS = 8  # around the region in the pictures


@dataclass(frozen=True)
class Shown:
    """What the pictures show: volumes with axes LPS by key, a plane, the slice, the part of it, and
    the region's frame."""

    images: Mapping[str, Volume]
    plane: int
    index: int
    region: Region
    box: Box
    frame: Box
    names: Mapping[str, str]  # of channels, by role

    def name(self, role: str) -> str:
        """A channel in words."""
        return self.names.get(role, role.replace("_", " "))

    def slice(self, key: str) -> figures.Slice:
        """The part that is shown of an image."""
        return figures.cut(self.images[key], self.plane, self.index).cropped(self.box)

    def values(self, key: str) -> np.ndarray:
        """An image's values in the slice inside the region, [row, column]."""
        box = figures.box_of(self.region, self.plane, self.images[key].shape)
        return figures.cut(self.images[key], self.plane, self.index).cropped(box).array


def starts_of(result: Result) -> list[str]:
    """The starts whose images a result holds, in its order."""
    changes = [key for key in map(Key.read, result.volumes) if key.kind == "change"]
    starts = [c.start for c in changes if Key("ideal", c.channel, c.start) in result.volumes]
    return list(dict.fromkeys(starts))


def _roles(images: Iterable[str], kind: str) -> list[str]:
    """Roles of the channels that there are images of a kind of."""
    return list(dict.fromkeys(key.channel for key in map(Key.read, images) if key.kind == kind))


def searched_from(start: str) -> str:
    """Where a search began, in words."""
    return f"from {reading.start_words(start)}"


def shown_of(result: Result, facts: Mapping, start: str) -> Shown:
    """The slice inside the region whose images changed most from this start, each channel by its
    own largest change."""
    first = next(v for key, v in result.volumes.items() if Key.read(key).kind == "ideal")
    region, window = facts["settings"].get("region"), facts.get("window")
    if region and window:
        region = _shifted(region, [-int(bound) for bound in window[::2]])
    turned = {key: volumes.reorient(volume, "LPS") for key, volume in result.volumes.items()}
    for role in _roles(result.volumes, "change"):
        ideal = turned[Key("ideal", role, start)]
        change = turned[Key("change", role, start)]
        turned[Key("patient", role)] = ideal.with_array(ideal.array - change.array)
    inside = figures.inside(first, region)
    whole = turned[Key("change", _roles(result.volumes, "change")[0], start)]
    plane = figures.plane_of(whole)
    scores = sum(
        _by_slice(turned[Key("change", role, start)].array, inside, plane)
        for role in _roles(result.volumes, "change")
    )
    index = inside[2 * plane] + int(np.argmax(scores))
    box = figures.box_of(inside, plane, whole.shape, CONTEXT_VOXELS)
    frame = figures.box_of(inside, plane, whole.shape)
    frame = (frame[0] - box[0], frame[1] - box[0], frame[2] - box[2], frame[3] - box[2])
    return Shown(turned, plane, index, inside, box, frame, facts.get("channels", {}))


def _by_slice(change: np.ndarray, region: Region, plane: int) -> np.ndarray:
    """Mean magnitude in each slice of the region, over the largest of them."""
    part = np.abs(change[tuple(slice(*region[2 * axis : 2 * axis + 2]) for axis in range(3))])
    means = part.mean(axis=tuple({0, 1, 2} - {plane}))
    return means / max(float(means.max()), 1e-12)


def _where(shown: Shown) -> str:
    first = next(iter(shown.images))
    return (
        f"{figures.PLANES[shown.plane].capitalize()} slice at {shown.slice(first).position}, the "
        f"one whose images changed "
        "most inside the region. "
    )


def errors(shown: Shown, starts: list[str], what: str) -> str:
    """Output above error, for the patient's input and each start, errors on one scale."""
    rows = []
    names = [OWN, *starts[:MOST_STARTS]]
    for role in _roles(shown.images, "error"):
        there = [
            name
            for name in names
            if {Key("error", role, name), Key("output", role, name)} <= shown.images.keys()
        ]
        if OWN not in there:  # removed from the scene: there is nothing to compare with
            continue
        units = shown.images[Key("error", role, OWN)].units
        low, high = figures.window(shown.values(Key("output", role, OWN)))
        grey = Scale(low, high, f"{shown.name(role)} ({units})")
        # Of ideal inputs the patient's own error makes the scale: a start that failed would hide
        # it.
        scaled = [Key("error", role, name) for name in (there if what == "worst" else [OWN])]
        top = figures.reach(np.concatenate([shown.values(key).ravel() for key in scaled]))
        error = Scale(0.0, top, f"absolute error ({units})", "error")
        titles = {name: reading.input_words(name, what) for name in there}
        for kind, scale, words in (
            ("output", grey, f"Synthetic {shown.name(role)}"),
            ("error", error, "Error"),
        ):
            rows.append(
                [
                    Picture(
                        shown.slice(Key(kind, role, name)),
                        f"{words}: {titles[name]}",
                        scale,
                        box=_frame(shown),
                    )
                    for name in there
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


def inputs(
    shown: Shown, starts: list[str], what: str, source: Volume | None, facts: Mapping
) -> list[str]:
    """A chapter for each start: patient's, ideal and change of every channel.

    Args:
        shown: What the pictures show.
        starts: Where the searches began.
        what: "ideal" or "worst".
        source: The first input channel, whole, [k, j, i], or None if it is gone.
        facts: Of the result.
    """
    made: list[str] = []
    for start in starts[:MOST_STARTS]:
        rows = [_input_row(shown, role, start, what) for role in _roles(shown.images, "change")]
        first = _overview(shown, source, facts)
        if first is not None and not made:
            rows = [[first if n == 0 else None, *row] for n, row in enumerate(rows)]
        caption = (
            f"{_where(shown)}Patient's and {what} image of a channel have the same grey scale; in"
            " the change red is more, blue is less and white is none."
        )
        if _frame(shown):
            caption += " Only inside the yellow frame the input was free."
        alternative = (
            f"patient's image, {what} image and change of each channel, {searched_from(start)}"
        )
        drawn = core_page.picture(figures.sheet(rows), alternative, caption)
        made.append(core_page.chapter(f"The input, searched {searched_from(start)}", drawn))
    return made


def _input_row(shown: Shown, role: str, start: str, what: str) -> list[Picture | None]:
    """A channel: the patient's, the one that was found, and the change."""
    name, frame = shown.name(role), _frame(shown)
    patient = Key("patient", role)
    ideal, changed = (Key(kind, role, start) for kind in ("ideal", "change"))
    units = shown.images[ideal].units
    measured = f"{name} ({units})" if units else f"{name} (no unit)"
    grey = Scale(*figures.window(shown.values(patient)), measured)
    top = figures.reach(shown.values(changed))
    behind = f" ({units})" if units else ""
    change = Scale(-top, top, f"change, {what} - patient's own{behind}", "RdBu_r")
    return [
        Picture(shown.slice(patient), f"{name}, patient's own", grey, box=frame),
        Picture(shown.slice(ideal), f"{name}, {what}", grey, box=frame),
        Picture(shown.slice(changed), f"{name}, change", change, box=frame),
    ]


def _overview(shown: Shown, source: Volume | None, facts: Mapping) -> Picture | None:
    """The whole slice of the first input with the region framed, where the pictures show only a
    part of it."""
    window = facts.get("window")
    if source is None or not window:
        return None
    whole = volumes.reorient(source, "LPS")
    offset = figures.inside(source, _shifted(window, (0, 0, 0)))
    if any(bound > n for bound, n in zip(offset[1::2], whole.shape)):
        return None  # another volume by now
    region = _shifted(shown.region, offset[::2])
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


def _shifted(bounds: Sequence[int], by: Sequence[int]) -> Region:
    """Bounds of a region, moved by (k, j, i) voxels."""
    k0, k1, j0, j1, i0, i1 = (int(bound) for bound in bounds)
    k, j, i = by
    return (k0 + k, k1 + k, j0 + j, j1 + j, i0 + i, i1 + i)


def _frame(shown: Shown) -> Box | None:
    """The region's frame, unless it is all that is shown."""
    rows, columns = shown.box[1] - shown.box[0], shown.box[3] - shown.box[2]
    return None if shown.frame == (0, rows, 0, columns) else shown.frame
