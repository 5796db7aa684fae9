"""The card of a model: what it takes, gives, was trained on and is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

IMAGE_TO_IMAGE = "image-to-image"
"""Task of the models that Ideal Input asks: inputs to outputs."""
DENOISING = "denoising"
"""Of the models that Invariances asks."""
SAMPLING = "invariance sampling"
"""Of the models that draw proposals of the kind "cinn" for a denoiser."""
HARMONIZATION = "harmonization"
"""Of the models that MRFlow Harmonize works with."""
FEATURES = "features"
"""Of the networks that a training takes features of."""
# Where a patient's chosen percentile comes to lie, so that the brightest voxels still fit below 1.
PERCENTILE_LANDS_AT = 0.9


class ModelError(ValueError):
    """A model file that cannot be used; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class Channel:
    """One image that a network takes or gives.

    In the network's units it is ``(value - low) / (high - low)``.

    Attributes:
        name: For a person choosing the image: "Dixon in-phase".
        role: Identifier by which volumes are handed over: "in_phase".
        units: Of the image's values, such as "HU".
        low: Value that becomes 0.
        high: Value that becomes 1; None where ``percentile`` is given.
        percentile: For images without a scale of their own (MR): ``high`` is ``percentile_high`` of
            the patient's volume. 0 < percentile <= 100, and None where ``high`` is given.
    """

    name: str
    role: str
    units: str
    low: float
    high: float | None
    percentile: float | None = None

    def scaling_for(self, array: np.ndarray) -> dict:
        """{"role", "low", "high"} for a patient's volume, in its units."""
        high = self.high if self.percentile is None else percentile_high(array, self.percentile)
        return {"role": self.role, "low": self.low, "high": high}


REAL, IMAGINARY = "_real", "_imaginary"
KSPACE = ("kspace", "coil_")
"""How the roles of k-space begin."""


@dataclass(frozen=True)
class ComplexPair:
    """Two channels that are one complex image.

    Attributes:
        real, imaginary: The channels, the second behind the first.
    """

    real: Channel
    imaginary: Channel

    @property
    def role(self) -> str:
        """What both roles begin with: "kspace"."""
        return self.real.role.removesuffix(REAL)

    @property
    def name(self) -> str:
        """What both names begin with: "K-space"."""
        return self.real.name.removesuffix(", real part")

    @property
    def is_kspace(self) -> bool:
        """Whether it is k-space, whose magnitudes are read as logarithms."""
        return self.role.startswith(KSPACE)


def complex_pairs(channels: Sequence[Channel]) -> list[ComplexPair]:
    """The complex images among channels: roles that end in "_real" and then "_imaginary"."""
    return [
        ComplexPair(first, second)
        for first, second in zip(channels, channels[1:])
        if first.role.endswith(REAL) and second.role == first.role.removesuffix(REAL) + IMAGINARY
    ]


def looked_at(channels: Sequence[Channel]) -> dict[str, str]:
    """{role: name} of what is looked at: of complex images magnitude and phase first."""
    found = {}
    for pair in complex_pairs(channels):
        found[f"{pair.role}_magnitude"] = f"{pair.name}, magnitude"
        found[f"{pair.role}_phase"] = f"{pair.name}, phase"
    return found | {channel.role: channel.name for channel in channels}


def percentile_high(array: np.ndarray, percentile: float) -> float:
    """The value that becomes 1 for an image without a scale of its own.

    The percentile of all values above the volume's mean (the body, by and large), divided by 0.9.

    Args:
        array: Of any shape, in the image's unit.
        percentile: 0 to 100.

    Raises:
        ModelError: No value lies above the mean (a constant image), or the percentile is not above
            0.
    """
    array = np.asarray(array, np.float32)
    inside = array[array > array.mean(dtype=np.float64)]
    high = float(np.percentile(inside, percentile)) / PERCENTILE_LANDS_AT if inside.size else 0.0
    if not high > 0:
        raise ModelError(
            "the image has no positive signal to scale by; choose another volume for this channel"
        )
    return high


@dataclass(frozen=True)
class Card:
    """What a model is, as its file's header says.

    Attributes:
        name, version: Of the model.
        architecture, arguments: Name in ``networks.ARCHITECTURES`` and what it is built with (JSON
            values).
        inputs, outputs: The channels, in the network's order.
        dimensions: 2 (one slice at a time) or 3.
        orientation: Axes that arrays [k, j, i] must have: "LPS" means i toward left, j posterior, k
            superior. "RAS" for other tasks than image-to-image.
        spacing_mm: Smallest and largest in-plane voxel size trained on, mm.
        size_multiple: Sizes that need no padding inside the network are multiples of it.
        trained_on: Names of the scans trained on.
        sources: Where those come from, with their licences.
        licence: Of the weights.
        intended_use: In words that a clinician reads.
        quality: Measured figures, each a number or a sentence.
        training: Settings of the training, numbers and strings.
        task: What the model is for: one of the tasks above, or another word that this version may
            not know. Files without it are "image-to-image".
    """

    name: str
    version: str
    architecture: str
    arguments: dict
    inputs: tuple[Channel, ...]
    outputs: tuple[Channel, ...]
    dimensions: int
    orientation: str
    spacing_mm: tuple[float, float]
    size_multiple: int
    trained_on: tuple[str, ...]
    sources: str
    licence: str
    intended_use: str
    quality: dict = field(default_factory=dict)
    training: dict = field(default_factory=dict)
    task: str = IMAGE_TO_IMAGE

    @property
    def family(self) -> str:
        """The network family that the model is an example of; "" for none."""
        return str(self.training.get("family", ""))


def read_channel(values: Any) -> Channel:
    """A channel of a card as a model file gives it.

    Raises:
        ValueError: Names or values are not those of a channel; says which.
    """
    check_fields(Channel, values, _CHANNEL_RULES)
    high, percentile = values["high"], values["percentile"]
    if (high is None) == (percentile is None) or (high is not None and high <= values["low"]):
        raise ValueError("a channel needs either high above low, or a percentile")
    return Channel(**values)


def check_fields(kind: type, values: Any, rules: dict[str, Callable]) -> None:
    """Check that values are a dictionary with exactly a dataclass's fields, each by its rule.

    Raises:
        ValueError: They are not; says which.
    """
    if not isinstance(values, dict) or values.keys() != {f.name for f in fields(kind)}:
        raise ValueError(f"{kind.__name__} needs exactly {', '.join(f.name for f in fields(kind))}")
    for name, rule in rules.items():
        if not rule(values[name]):
            raise ValueError(f"{kind.__name__}.{name} is not valid: {str(values[name])[:80]}")


def _text(value, longest: int = 20_000) -> bool:
    return isinstance(value, str) and len(value) <= longest


def _number(value) -> bool:
    return type(value) in (int, float) and abs(value) < 1e12


def _facts(value) -> bool:
    return isinstance(value, dict) and all(
        _text(k) and (_text(v) or _number(v)) for k, v in value.items()
    )


def _spacing(value) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(map(_number, value))
        and 0 < value[0] <= value[1]
    )


_CHANNEL_RULES = {
    "name": _text,
    "role": lambda v: _text(v, 100) and v.isidentifier(),
    "units": _text,
    "low": _number,
    "high": lambda v: v is None or _number(v),
    "percentile": lambda v: v is None or (_number(v) and 0 < v <= 100),
}
CARD_RULES = {
    **dict.fromkeys(
        ("name", "version", "architecture", "sources", "licence", "intended_use"), _text
    ),
    "arguments": lambda v: isinstance(v, dict),
    "inputs": lambda v: 0 < len(v) == len({c.role for c in v}),
    "outputs": lambda v: (
        0 < len(v) == len({c.role for c in v}) and all(c.high is not None for c in v)
    ),
    "dimensions": lambda v: type(v) is int and v in (2, 3),
    "orientation": lambda v: v in ("LPS", "RAS"),
    "spacing_mm": _spacing,
    "size_multiple": lambda v: type(v) is int and 1 <= v <= 1024,
    "trained_on": lambda v: isinstance(v, list) and all(map(_text, v)),
    "quality": _facts,
    "training": _facts,
    "task": lambda v: _text(v, 100) and bool(v),
}
