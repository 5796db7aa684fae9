"""The report of one example: what it adds that nobody measured, and what it does not show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..core import figures, volumes
from ..core import page as core_page
from ..core.keys import Key
from ..core.results import Result
from ..core.volumes import Volume
from . import reading

LIMITS = (
    "How such a network does on a scanner's own data: what the scanner gives is simulated.",
    "What another network of the family would do: this one is tiny, and was trained for minutes.",
    "That what is added where nobody measured is true: only the truth beside it can say that, and a"
    " patient brings none.",
)
SHOWN = (
    ("given", "Without a network"),
    ("image", "The network's image"),
    ("truth", "Truth"),
    ("added", "Added where nobody measured"),
    ("missing", "What is true there"),
    ("miss", "Error of the network"),
    ("kspace", "K-space, decades"),
    ("image phase", "The network's phase"),
    ("truth phase", "True phase"),
    ("unnoticed", "A change that it does not show"),
    ("unnoticed answer", "What its image changes by"),
)
"""Images of a result by key, with their titles, three in a row."""


def write(result: Result, source: Volume | None, path: Path | str) -> Path:
    """Write the page for a result of ``question.ask``; replaced whole.

    Args:
        result: Its volumes [k, j, i], tables, curves and facts.
        source: The first input, for its name; None if it is gone.
        path: Of the page.

    Raises:
        ValueError: The result holds no images.
        OSError: The folder cannot be written.
    """
    return core_page.write(path, page(result, source))


def page(result: Result, source: Volume | None = None) -> str:
    """The page as text; it refers to no other file.

    Args:
        result: Its volumes [k, j, i], tables, curves and facts.
        source: The first input, or None if it is gone.

    Raises:
        ValueError: The result holds no images.
    """
    facts = core_page.plain(result.facts)
    if Key("truth") not in result.volumes:
        raise ValueError(
            "the report needs the result's images, and they were removed from the scene: run it"
            " again"
        )
    names = {"first image": source.name} if source is not None else {}
    return core_page.document(
        f"What '{facts['name']}' adds, and does not show",
        [
            core_page.lead(reading.answer(facts, result.tables)),
            core_page.chapter("Images", core_page.picture(sheet(result), "The images")),
            *(core_page.chapter(one.title, core_page.table(one)) for one in result.tables.values()),
            *(
                core_page.chapter(curve.title, core_page.picture(figures.plot(curve), curve.title))
                for curve in result.curves.values()
            ),
            *core_page.closing(
                facts, LIMITS, _methods(facts), {}, {"network": facts["model"]}, names
            ),
        ],
    )


def sheet(result: Result, keys: tuple[str, ...] = (), wide: int = 3) -> bytes:
    """Pictures of one slice, as PNG.

    Args:
        result: Of ``question.ask``.
        keys: Of the images; default all.
        wide: Pictures in a row.
    """
    turned = {key: volumes.reorient(one, "LPS") for key, one in result.volumes.items()}
    place = _place(result, turned[Key("truth")])
    shown = []
    for key, title in SHOWN:
        image = turned.get(Key.read(key))
        if image is not None and (not keys or key in keys):
            one = figures.cut(image, figures.AXIAL, place)
            shown.append(figures.Picture(one, title, _scale(result, key)))
    rows = math.ceil(len(shown) / wide)
    cells: list[figures.Picture | None] = [*shown, *[None] * (rows * wide - len(shown))]
    return figures.sheet([cells[wide * n : wide * (n + 1)] for n in range(rows)])


def _place(result: Result, truth: Volume) -> int:
    """The slice that is shown: the middle one, or of a network of volumes the one with most truth.

    Networks of slices are looked at closely in the middle one.
    """
    if Key("answers") in result.curves:
        return len(truth.array) // 2
    return int(np.abs(truth.array).sum((1, 2)).argmax())


def _scale(result: Result, key: str) -> figures.Scale:
    """Grey levels or colours of an image: those of the one that it is compared with."""
    of = Key.read(reading.SAME_WINDOW.get(key, key))
    of = of if of in result.volumes else Key.read(key)
    role, values = result.roles[of], result.volumes[of].array
    units = result.volumes[of].units
    if role == "phase":
        return figures.Scale(-math.pi, math.pi, units, "phase")
    if role == "input":
        return figures.Scale(*figures.window(values), units)
    most = figures.reach(np.abs(values))
    return figures.Scale(-most if role == "difference" else 0.0, most, units, role)


def _methods(facts: Mapping) -> str:
    return (
        f"The network '{facts['name']}', an example of its family, was run on simulated images."
        " What its image holds was split into what the scanner's linear operator sees and its null"
        " space by conjugate gradients; directions that the network answers to were counted by"
        " changing its input."
    )
