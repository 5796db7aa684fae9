"""What a run that goes on has so far."""

from __future__ import annotations

import numpy as np

from ..core import volumes
from ..core.keys import SECOND, Key
from ..core.results import Result


def maps_of_newest_slice(result: Result) -> tuple[str, dict[str, np.ndarray]]:
    """Both standard-deviation maps of the slice, and of the denoiser, that is being worked on.

    Args:
        result: An intermediate result of ``invariances``.

    Returns:
        "" or ``SECOND``, the network of the denoiser's keys, and "unproven" and "proven" as
        maps (J, I), HU, cut to the region.
    """
    network = SECOND if Key("std unproven", network=SECOND) in result.volumes else ""
    turned = {
        kind: volumes.reorient(result.volumes[Key(f"std {kind}", network=network)], "LPS").array
        for kind in ("unproven", "proven")
    }
    slices = result.tables[Key("proof", network=network)].values("slice")
    newest = slices[-1] if slices else 0
    drawn = turned["unproven"][newest]
    rows, columns = (np.flatnonzero(drawn.any(axis)) for axis in (1, 0))
    seen: tuple[slice, ...] = ()
    if len(rows):
        seen = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    return network, {kind: values[newest][seen] for kind, values in turned.items()}
