"""A harmonization's change used again: on another image of the same person, or backwards.

A receive coil shades every contrast of a visit alike, so the multiplicative field of a T1 is the
shading of its T2 and FLAIR. Tone curve and additive field are of the T1 alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..core import volumes
from ..core.volumes import Volume
from .run import as_type
from .tone_field import ToneField

WAYS = ("shading", "change", "inverse")


def apply_again(facts: dict[str, Any], image: Volume, way: str) -> Volume:
    """What was found of one image, applied to another that lies where it lay.

    Args:
        facts: Of a result of the anatomy-safe mode, see ``harmonize``: "tone_field", "scale",
            "result_scale" and "settings".
        image: [k, j, i] on any grid, in the same patient coordinates (RAS mm); values of 0 and
            below are air and stay.
        way: "shading" multiplies by the multiplicative field, for another contrast of the same
            visit; "change" does to the image what was done to the source; "inverse" makes of the
            result what the source was, but for rounding and what was cut to 0.

    Returns:
        [k, j, i] on the image's grid, in its voxel type.

    Raises:
        ValueError: No such way, or the facts do not hold the whole change.
    """
    if way not in WAYS:
        raise ValueError(f"'{way}' is no way to use a change: choose one of {', '.join(WAYS)}")
    change = _change(facts)
    ras = volumes.reorient(image, "RAS")
    values, where = ras.float32(), ras.array > 0
    if way == "shading":
        changed = values * change.fields(ras)[0].array
    else:
        first, last = np.float32(facts["scale"]), np.float32(facts["result_scale"])
        if way == "change":
            changed = change.apply(values / first, ras.ijk_to_ras, where) * last
        else:
            changed = change.inverse(values / last, ras.ijk_to_ras, where) * first
    kept = np.where(where, as_type(np.maximum(changed, 0), image.array.dtype), ras.array)
    return volumes.reorient_like(replace(ras, array=kept), image)


def _change(facts: dict[str, Any]) -> ToneField:
    settings = facts.get("settings", {})
    if "tone_field" not in facts or "result_scale" not in facts:
        raise ValueError(
            "this record holds no change to use again: it is of a volume that was refused, or of"
            " another mode than the anatomy-safe one"
        )
    if settings.get("strength", 0):
        raise ValueError(
            "a part of this change is free-form (strength above 0) and is not in the record:"
            " harmonize again with a strength of 0"
        )
    return ToneField.from_dict(facts["tone_field"])
