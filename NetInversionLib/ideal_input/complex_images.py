"""Complex images as people read them: magnitude and phase, beside their real and imaginary parts.

Two channels whose roles end in "_real" and "_imaginary" are one complex image, of the role before
these words.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..core import volumes
from ..core.keys import Column, Key
from ..core.results import Result, table_of_rows
from ..core.volumes import Volume
from ..models.card import ComplexPair, complex_pairs
from .case import Case
from .reading import OWN, image_title, input_words

DECADES = 4.0
"""That k-space is shown below its strongest value."""
HEAD = 0.05
"""Of the brightest magnitude of the target: where it is less there is air, which has no phase."""


def add(result: Result, case: Case, names: Iterable[str], kind: str = "ideal") -> None:
    """Add magnitude and phase of each complex image, and table "complex", to a result.

    Args:
        result: With all other images of the starts.
        case: What was asked.
        names: Of the starts.
        kind: "ideal" or "worst", as the inputs are called.
    """
    names = list(names)
    for pair in complex_pairs(case.model.card.inputs):
        for name in names:
            _add_input(result, pair, name, kind)
    for pair in complex_pairs(case.model.card.outputs):
        for name in (OWN, *names):
            _add_output(result, pair, name, kind)
        _add_table(result, case, pair, [OWN, *names], kind)


@dataclass(frozen=True)
class _Shown:
    """Magnitudes as they are shown: those of k-space in decades above a ten-thousandth of its peak.

    Attributes:
        pair: Whose they are.
        peak: Of all magnitudes that are compared; None where they are shown as they are.
    """

    pair: ComplexPair
    peak: float | None

    @property
    def units(self) -> str:
        return "decades" if self.peak is not None else self.pair.real.units

    def __call__(self, image: np.ndarray) -> np.ndarray:
        if self.peak is None:
            return np.abs(image)
        share = np.maximum(np.abs(image) / max(self.peak, 1e-30), 10**-DECADES)
        return (np.log10(share) + DECADES).astype(np.float32)


def _add_input(result: Result, pair: ComplexPair, name: str, kind: str) -> None:
    """An ideal input, its change, and the patient's own."""
    ideal, change = (_complex(result, what, pair, name) for what in ("ideal", "change"))
    patient = ideal - change
    shown = _Shown(pair, float(np.abs(patient).max()) if pair.is_kspace else None)
    frame = result.volumes[Key("ideal", pair.real.role, name)]
    role, title = f"{pair.role}_magnitude", f"{pair.name}, magnitude"
    for key, values, how in (
        (Key("ideal", role, name), shown(ideal), "input"),
        (Key("change", role, name), shown(ideal) - shown(patient), "difference"),
    ):
        _put(result, key, frame, values, image_title(key, title, kind), shown.units, how)
    _put_phase(result, Key("ideal", f"{pair.role}_phase", name), frame, ideal, pair, kind)
    own = Key("patient", role)
    _put(result, own, frame, shown(patient), f"Patient's {title}", shown.units, "input")
    own = Key("patient", f"{pair.role}_phase")
    words = f"Patient's {pair.name}, phase"
    _put(result, own, frame, np.angle(patient), words, "rad", "phase")


def _add_output(result: Result, pair: ComplexPair, name: str, kind: str) -> None:
    """The network's image from an input; its error is the magnitude of the complex one."""
    frame = result.volumes[Key("output", pair.real.role, name)]
    output = _complex(result, "output", pair, name)
    error = np.abs(_complex(result, "error", pair, name))
    role, title = f"{pair.role}_magnitude", f"{pair.name}, magnitude"
    for what, values, how in (("output", np.abs(output), "input"), ("error", error, "error")):
        key = Key(what, role, name)
        words = image_title(key, title, kind)
        _put(result, key, frame, values, words, pair.real.units, how)
    _put_phase(result, Key("output", f"{pair.role}_phase", name), frame, output, pair, kind)


def _put_phase(
    result: Result, key: Key, frame: Volume, image: np.ndarray, pair: ComplexPair, kind: str
) -> None:
    words = image_title(key, f"{pair.name}, phase", kind)
    _put(result, key, frame, np.angle(image), words, "rad", "phase")


def _put(
    result: Result, key: Key, frame: Volume, values: np.ndarray, title: str, units: str, how: str
) -> None:
    result.volumes[key] = frame.with_array(values.astype(np.float32), title, units)
    result.roles[key] = how


def _complex(result: Result, what: str, pair: ComplexPair, name: str) -> np.ndarray:
    """Both parts as one array [k, j, i]."""
    parts = (result.volumes[Key(what, one.role, name)].array for one in (pair.real, pair.imaginary))
    real, imaginary = parts
    return real + 1j * imaginary


def _add_table(result: Result, case: Case, pair: ComplexPair, names: list[str], kind: str) -> None:
    """Table "complex": how far magnitude and phase of the network's image are from the target's."""
    index = [channel.role for channel in case.model.card.outputs].index(pair.real.role)
    target = _pair_of(case.model.denormalise_output(case.target), index)
    inside = np.abs(target) > HEAD * np.abs(target).max()
    rows = []
    for name in names:
        output = _turned(case, result, pair, name)
        turn = np.angle(output * target.conj())
        magnitude = np.abs(np.abs(output) - np.abs(target))
        rows.append(
            (
                input_words(name, kind),
                float(magnitude[inside].mean()),
                float(np.abs(turn)[inside].mean()),
            )
        )
    headings = [
        Column("input"),
        Column("mean error of the magnitude", pair.real.units),
        Column("mean error of the phase", "rad"),
    ]
    result.tables[Key("complex")] = table_of_rows(
        "Magnitude and phase of the network's image, outside air", headings, rows
    )


def _turned(case: Case, result: Result, pair: ComplexPair, name: str) -> np.ndarray:
    """The network's image from an input in the order of the case's voxels, (images, *space)."""
    parts = [
        volumes.reorient_like(result.volumes[Key("output", one.role, name)], case.frame).array
        for one in (pair.real, pair.imaginary)
    ]
    return parts[0] + 1j * parts[1]


def _pair_of(images: Tensor, index: int) -> np.ndarray:
    """Two channels that follow each other, of (images, D, *space), as one complex array."""
    both = torch.complex(images[:, index], images[:, index + 1]).cpu().numpy()
    return both if images.dim() == 4 else both[0]
