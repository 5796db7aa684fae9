"""What a user says of a network of their own: images, scaling, axes; what is left out is probed."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from ..card import DENOISING, IMAGE_TO_IMAGE, Channel, ModelError

SCALINGS = ("range", "percentile", "z-score", "mean-std", "none", "as input")
OVER = ("image", "nonzero", "body")
ORIENTATIONS = ("LPS", "RAS")
AXES = ("kji", "ijk")
DIMENSIONS = (2, 2.5, 3)
TAKES = ("channels", "separately")
MEANINGS = ("image", "logits", "displacement")
# What a z-score of an MR image reaches: the values between which starts are drawn and the
# penalty stays silent.
Z_RANGE = (-3.0, 8.0)
HU_RANGE = (-1024.0, 3071.0)


@dataclass(frozen=True)
class Image:
    """One image that a network takes or gives.

    Attributes:
        name: For people: "T1-weighted".
        units: "HU", or "" where there are none.
        scaling: "range" (``low`` to ``high`` become ``to``), "percentile" (the ``percentiles`` of
            the patient's image become ``to``), "z-score" (mean and standard deviation of the
            patient's image, over ``over``), "mean-std" (``mean`` and ``std`` given), "none" (values
            as they are), for an output also "as input"; None: probed.
        low, high: The plausible values, in ``units``.
        to: What the network has for low and high, or for the two percentiles.
        mean, std: Of the scaling "mean-std", in ``units``.
        percentiles: Of the scaling "percentile", 0 to 100.
        over: Voxels that statistics are taken over: "image" (all), "nonzero" (as nnU-Net and MONAI
            can), or "body" (above the image's mean).
        clipped: Whether values beyond low and high are cut off before the network sees them.
    """

    name: str
    units: str = ""
    scaling: str | None = None
    low: float | None = None
    high: float | None = None
    to: tuple[float, float] = (0.0, 1.0)
    mean: float | None = None
    std: float | None = None
    percentiles: tuple[float, float] = (0.5, 99.5)
    over: str = "image"
    clipped: bool = False

    @property
    def role(self) -> str:
        """An identifier made from the name: "T1-weighted" is "t1_weighted"."""
        word = re.sub(r"\W+", "_", self.name.lower(), flags=re.ASCII).strip("_")
        return word if word.isidentifier() else f"image_{word}".rstrip("_")


@dataclass(frozen=True)
class Description:
    """A network of the user's own, in short; everything may be left out.

    Attributes:
        inputs, outputs: The images, in the network's order; () where they are not told.
        every: What counts for every image that is not named here (its own name does not matter).
        name: Of the network.
        orientation: Axes of its arrays: "LPS" or "RAS".
        axes: "kji" (slices, rows, columns, as SimpleITK and nnU-Net have them) or "ijk" (as nibabel
            and MONAI have them).
        dimensions: 2, 3, or 2.5: slices with ``neighbours`` on each side as channels.
        spacing_mm: Smallest and largest voxel that it was trained on, mm.
        size_multiple, smallest_size: Of its images, voxels; others are padded.
        takes: "channels" (one tensor) or "separately" (one argument an image).
        gives: Which output counts, where it gives several: an index or a key.
        meaning: Of the output: "image", "logits" (made probabilities), or "displacement".
        task: ``IMAGE_TO_IMAGE`` or ``DENOISING``, as a card has it.
        trained_on, licence: In words, for the record.
    """

    inputs: tuple[Image, ...] = ()
    outputs: tuple[Image, ...] = ()
    every: Image = Image("")
    name: str = ""
    orientation: str = "LPS"
    axes: str = "kji"
    dimensions: float | None = None
    neighbours: int = 1
    spacing_mm: tuple[float, float] = (0.01, 100.0)
    size_multiple: int | None = None
    smallest_size: int | None = None
    takes: str | None = None
    gives: int | str | None = None
    meaning: str = "image"
    task: str = IMAGE_TO_IMAGE
    trained_on: str = "not told"
    licence: str = "not told"

    def with_images(self, kind: str, images: tuple[Image, ...]) -> Description:
        """The same with other images of a kind, "inputs" or "outputs"."""
        if kind == "inputs":
            return replace(self, inputs=images)
        return replace(self, outputs=images)

    def to_json(self) -> dict:
        """As JSON values; ``described`` reads them."""
        return asdict(self)


def described(given: Description | dict | None) -> Description:
    """A description from what the user says.

    Args:
        given: A ``Description``, a dictionary of its fields (images as names or dictionaries;
            "scaling", "units", "low", "high" and the like beside them count for every image that
            does not say otherwise), or None.

    Raises:
        ModelError: A field is unknown or has a value that it cannot have; says which.
    """
    if isinstance(given, Description):
        return _checked(_told_apart(given))
    if given is not None and not isinstance(given, dict):
        raise ModelError(f"the description is a dictionary, not {type(given).__name__}")
    values = dict(given or {})
    own = {f.name for f in fields(Image)} - {"name"}
    common = {key: values.pop(key) for key in own & values.keys()}
    unknown = values.keys() - {f.name for f in fields(Description)}
    if unknown:
        known = sorted({f.name for f in fields(Description)} | own)
        raise ModelError(
            f"the description has no field {sorted(unknown)[0]!r}; it has {', '.join(known)}"
        )
    for kind in ("inputs", "outputs"):
        images = values.get(kind, ())
        images = [images] if isinstance(images, (str, dict, Image)) else images
        if not isinstance(images, (list, tuple)):
            raise ModelError(f"{kind} of the description is a list of names, not {images!r}")
        values[kind] = tuple(_image(image, common, kind) for image in images)
    if "every" not in values:
        values["every"] = _image("", common, "every")
    elif not isinstance(values["every"], Image):
        values["every"] = _image(values["every"], common, "every")
    if "spacing_mm" in values:
        values["spacing_mm"] = _pair(values["spacing_mm"], "spacing_mm")
    return _checked(_told_apart(Description(**values)))


def _told_apart(description: Description) -> Description:
    """With another name for an output that is called as an input: "Output CT", of a denoiser
    "Denoised CT".
    """
    before = "Denoised" if description.task == DENOISING else "Output"
    roles = {image.role for image in description.inputs}
    given = {image.name for image in description.outputs}
    outputs = []
    for image in description.outputs:
        name = f"{before} {image.name}"
        free = image.role in roles and name not in given
        outputs.append(replace(image, name=name) if free else image)
    return replace(description, outputs=tuple(outputs))


def _image(given: Any, common: dict, kind: str) -> Image:
    """One image from its name, a dictionary or an ``Image``."""
    if isinstance(given, Image):
        return given
    values: Any = {"name": given} if isinstance(given, str) else given
    if not isinstance(values, dict) or not isinstance(values.get("name"), str):
        raise ModelError(f"each of the {kind} is a name or a dictionary with one, not {given!r}")
    values = {**common, **values}
    unknown = values.keys() - {f.name for f in fields(Image)}
    if unknown:
        raise ModelError(
            f"{kind}: an image has no field {sorted(unknown)[0]!r}; it has"
            f" {', '.join(f.name for f in fields(Image))}"
        )
    for name in ("to", "percentiles"):
        if name in values:
            values[name] = _pair(values[name], name)
    return Image(**values)


def _pair(values: Any, name: str) -> tuple[float, float]:
    if isinstance(values, (int, float)):
        return float(values), float(values)
    if not isinstance(values, (list, tuple)) or len(values) != 2 or not all(map(_number, values)):
        raise ModelError(f"{name} of the description is two numbers, not {values!r}")
    return float(values[0]), float(values[1])


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e12


def _checked(description: Description) -> Description:
    """The description, if each of its fields can be.

    Raises:
        ModelError: One cannot; says which.
    """
    choices = {
        "orientation": ORIENTATIONS,
        "axes": AXES,
        "dimensions": (None, *DIMENSIONS),
        "takes": (None, *TAKES),
        "meaning": MEANINGS,
    }
    for name, known in choices.items():
        _require(getattr(description, name), known, name)
    for name, least in (("neighbours", 1), ("size_multiple", 1), ("smallest_size", 1)):
        value = getattr(description, name)
        if value is not None and (type(value) is not int or not least <= value <= 4096):
            raise ModelError(f"{name} of the description is a whole number from 1, not {value!r}")
    if not 0 < description.spacing_mm[0] <= description.spacing_mm[1]:
        raise ModelError(f"spacing_mm is smallest and largest, not {description.spacing_mm!r}")
    images = (*description.inputs, *description.outputs)
    for image in images:
        _check_image(image, image in description.outputs)
    if description.every.scaling != "range":  # whose values each volume gives
        _check_image(description.every, False)
    roles = [image.role for image in images]
    if len(set(roles)) < len(roles):
        raise ModelError(
            f"two images have the same name ({', '.join(i.name for i in images)}): give each a name"
            " of its own"
        )
    return description


def _check_image(image: Image, is_output: bool) -> None:
    where = f"scaling of {image.name!r}"
    _require(image.scaling, (None, *SCALINGS), where)
    _require(image.over, OVER, f"over of {image.name!r}")
    numbers = (image.low, image.high, image.mean, image.std, *image.to, *image.percentiles)
    if not all(value is None or _number(value) for value in numbers):
        raise ModelError(f"{image.name!r}: low, high, to, mean, std, percentiles are numbers")
    if image.low is not None and image.high is not None and not image.low < image.high:
        raise ModelError(f"{image.name!r}: low is below high, not {image.low} and {image.high}")
    if not 0 <= image.percentiles[0] < image.percentiles[1] <= 100:
        raise ModelError(f"{image.name!r}: percentiles lie in order between 0 and 100")
    if image.to[0] == image.to[1]:
        raise ModelError(f"{image.name!r}: the two values of to are not the same")
    if image.scaling == "range" and (image.low is None or image.high is None):
        raise ModelError(f"{where} is 'range': give low and high")
    if image.scaling == "mean-std" and (image.mean is None or not (image.std or 0) > 0):
        raise ModelError(f"{where} is 'mean-std': give mean, and std above 0")
    if image.scaling == "as input" and not is_output:
        raise ModelError(f"{where}: only an output is scaled 'as input'")
    if is_output and image.scaling in ("percentile", "z-score"):
        raise ModelError(f"{where}: an output is scaled by 'range', 'mean-std', 'as input', 'none'")


def _require(value: Any, known: tuple, name: str) -> None:
    if value not in known:
        words = ", ".join(repr(k) for k in known if k is not None)
        raise ModelError(f"{name} of the description is one of {words}, not {value!r}")


# As channels of a card ----------------------------------------------------------------------------


@dataclass(frozen=True)
class ScaledChannel(Channel):
    """A channel whose 0 and 1 may come from the patient's image, and what the network has for them.

    Attributes:
        scaling, over, percentiles: As ``Image`` has them.
        network: What the network has for 0 and for 1.
        clipped: Whether values beyond 0 and 1 are cut off before the network sees them.
    """

    scaling: str = "range"
    over: str = "image"
    percentiles: tuple[float, float] = (0.5, 99.5)
    network: tuple[float, float] = (0.0, 1.0)
    clipped: bool = False

    def scaling_for(self, array: np.ndarray) -> dict:
        """{"role", "low", "high"} for a patient's volume of any shape, in its units.

        Raises:
            ModelError: The image is constant where its statistics are taken.
        """
        if self.scaling not in ("percentile", "z-score"):
            return super().scaling_for(array)
        values = _voxels(np.asarray(array, np.float32), self.over)
        if self.scaling == "percentile":
            low, high = (float(v) for v in np.percentile(values, self.percentiles))
        else:
            mean, std = values.mean(dtype=np.float64), values.std(dtype=np.float64)
            low, high = (float(mean + z * std) for z in self.network)
        if not low < high:
            raise ModelError(f"the image for {self.name!r} is constant; choose another volume")
        return {"role": self.role, "low": low, "high": high}


def _voxels(array: np.ndarray, over: str) -> np.ndarray:
    """The values that statistics are taken over."""
    if over == "nonzero":
        chosen = array[array != 0]
    elif over == "body":
        chosen = array[array > array.mean(dtype=np.float64)]
    else:
        chosen = array.ravel()
    return chosen if chosen.size else array.ravel()


def input_channel(image: Image) -> ScaledChannel:
    """The channel of an input whose scaling is known.

    Raises:
        ModelError: Its plausible values are not.
    """
    if image.scaling == "z-score":
        return _channel(image, 0.0, None, Z_RANGE)
    if image.scaling == "percentile":
        return _channel(image, 0.0, None, image.to)
    return _fixed_channel(image)


def output_channel(image: Image, inputs: tuple[ScaledChannel, ...]) -> ScaledChannel:
    """The channel of an output whose scaling is known; "as input" is that of the first input.

    Raises:
        ModelError: Its values depend on the patient's, or its plausible values are not known.
    """
    if image.scaling == "as input":
        first = inputs[0]
        if first.high is None:
            raise ModelError(
                f"{image.name!r} comes in the units of an input that is scaled by the patient's"
                " values: give its low and high, and 'range' as scaling"
            )
        return replace(first, name=image.name, role=image.role, units=image.units or first.units)
    return _fixed_channel(image)


def _channel(
    image: Image, low: float, high: float | None, network: tuple[float, float]
) -> ScaledChannel:
    return ScaledChannel(
        image.name,
        image.role,
        image.units,
        low,
        high,
        scaling=image.scaling or "none",
        over=image.over,
        percentiles=image.percentiles,
        network=network,
        clipped=image.clipped,
    )


def _fixed_channel(image: Image) -> ScaledChannel:
    low, high = plausible(image)
    network = (low, high)
    if image.scaling == "range":
        network = image.to
    elif image.scaling == "mean-std":
        mean, std = float(image.mean or 0.0), float(image.std or 1.0)
        network = ((low - mean) / std, (high - mean) / std)
    return _channel(image, low, high, network)


def plausible(image: Image) -> tuple[float, float]:
    """The values between which an image lies, in its units.

    Raises:
        ModelError: They are not known.
    """
    low: float | None = None
    high: float | None = None
    if image.units == "HU":
        low, high = HU_RANGE
    elif image.scaling == "mean-std" and image.mean is not None and image.std is not None:
        low, high = (image.mean + z * image.std for z in Z_RANGE)
    low = image.low if image.low is not None else low
    high = image.high if image.high is not None else high
    if low is None or high is None:
        raise ModelError(f"{image.name!r}: give low and high, the values that it may have")
    return float(low), float(high)


def channels(
    told: Description,
) -> tuple[tuple[ScaledChannel, ...], tuple[ScaledChannel, ...]]:
    """The channels of a complete description: inputs, and outputs.

    Raises:
        ModelError: As ``input_channel`` and ``output_channel``.
    """
    taken = tuple(input_channel(image) for image in told.inputs)
    given = tuple(output_channel(image, taken) for image in told.outputs)
    if told.task == DENOISING:
        given = tuple(_same_scale(channel, taken[0]) for channel in given)
    return taken, given


def _same_scale(given: ScaledChannel, taken: ScaledChannel) -> ScaledChannel:
    """The output channel with 0 and 1 where the input has them: a denoiser's are compared."""
    if (
        taken.high is None
        or given.high is None
        or (given.low, given.high) == (taken.low, taken.high)
    ):
        return given
    slope = (given.network[1] - given.network[0]) / (given.high - given.low)
    start, stop = (given.network[0] + slope * (v - given.low) for v in (taken.low, taken.high))
    return replace(given, low=taken.low, high=taken.high, network=(start, stop))
