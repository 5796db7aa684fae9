"""Places that are unlike the target's people, in words and as a map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from .gate import Check
from .kept import blocks_of

if TYPE_CHECKING:
    from .estimate import Estimate
    from .scan import Scan

# Nearer to the middle than this, a place is on neither side.
MIDDLE_MM = 12.0
TENTHS = (0.1, 0.9)
LEAST_KEPT = 0.9  # of a place's contrast in the source
MAP_VALUES = "2: unlike the target's people, 1: beside it, 0: elsewhere"


def unlike_map(found: Estimate, scan: Scan) -> np.ndarray:
    """Where in a scan the brain is unlike the target's people.

    Args:
        found: Its estimate.
        scan: With its mask.

    Returns:
        uint8 of the scan's shape, [k, j, i]: 2 in places that are unlike the people, 1 beside
        them (left out of the estimate too), 0 elsewhere and outside the mask.
    """
    seen = np.zeros(scan.mask.shape, np.uint8)
    if not found.unlike.any():
        return seen
    for k, (part, inside) in enumerate(zip(seen, scan.mask)):
        j, i = np.nonzero(inside)
        ijk = np.stack([i, j, np.full(len(i), k)])
        matrix = scan.volume.ijk_to_ras
        points = matrix[:3, :3] @ ijk + matrix[:3, 3:]
        part[inside] = found.unlike.ravel()[blocks_of(points, found.template_to_ras)]
    return seen


def unlike_places(found: Estimate, scan: Scan) -> list[dict]:
    """The places that are unlike the target's people, the largest first.

    Args:
        found: The scan's estimate.
        scan: With its mask.

    Returns:
        Of each: "ml" of the mask in it, "where" in words, "centre": RAS mm in the scan.
    """
    labels, count = ndimage.label(found.unlike == 2, np.ones((3, 3, 3)))
    if not count:
        return []
    voxel_ml = float(np.prod(scan.volume.spacing_mm)) / 1000
    there = unlike_map(found, scan) == 2
    points = _points(scan, there)
    which = labels.ravel()[blocks_of(points, found.template_to_ras)]
    to_template = np.linalg.inv(found.template_to_ras)
    places = []
    for label in range(1, count + 1):
        mine = points[:, which == label]
        if mine.size:
            centre = mine.mean(axis=1)
            middle = to_template[:3, :3] @ centre + to_template[:3, 3]
            places.append(
                {
                    "ml": round(mine.shape[1] * voxel_ml, 1),
                    "where": _where(middle),
                    "centre": np.round(centre, 1).tolist(),
                }
            )
    return sorted(places, key=lambda place: -place["ml"])


def _where(middle: np.ndarray) -> str:
    """A place in the template (RAS mm) in words."""
    pairs = (("left", "right"), ("back", "front"), ("low", "high"))
    words = [pair[int(at > 0)] for at, pair in zip(middle, pairs) if abs(at) > MIDDLE_MM]
    return ", ".join(words) or "in the middle"


def _points(scan: Scan, where: np.ndarray) -> np.ndarray:
    """RAS mm, (3, n), of the voxels of a scan where a map [k, j, i] is true."""
    matrix = scan.volume.ijk_to_ras
    return matrix[:3, :3] @ np.stack(np.nonzero(where))[::-1] + matrix[:3, 3:]


def contrast_kept(found: Estimate, scan: Scan, image: np.ndarray) -> float:
    """How much of its contrast to what lies beside it the place that loses most has kept.

    A place is told by its brightest or its darkest tenth, whichever stands out more from the same
    tenth beside it; its contrast is to the median beside it.

    Args:
        found: The scan's estimate.
        scan: Scaled, with its mask.
        image: The result, scaled, [k, j, i].

    Returns:
        1 where nothing is lost, or no place is unlike the people; 0 where all is.
    """
    labels, count = ndimage.label(found.unlike == 2, np.ones((3, 3, 3)))
    if not count:
        return 1.0
    blocks = blocks_of(_points(scan, scan.mask), found.template_to_ras)
    which, beside = labels.ravel()[blocks], found.unlike.ravel()[blocks] == 1
    before, after = scan.image[scan.mask], image[scan.mask]
    kept = 1.0
    for place in (which == label for label in range(1, count + 1)):
        if place.any() and beside.any():
            ratios = np.quantile(before[place], TENTHS) / np.quantile(before[beside], TENTHS)
            tenth = TENTHS[int(np.argmax(np.abs(np.log(np.maximum(ratios, 1e-3)))))]
            first, last = (
                np.quantile(one[place], tenth) / np.median(one[beside]) - 1
                for one in (before, after)
            )
            kept = min(kept, last / first)
    return float(kept)


def unlike_check(places: list[dict]) -> Check:
    """The gate's word on such places: it names them, and nobody is refused for a lesion."""
    if not places:
        words = (
            "none: everywhere as in the target's people, but for what a tone curve or shading does"
        )
        return Check("places unlike the target's people (ml)", 0.0, -np.inf, np.inf, True, words)
    named = "; ".join(f"about {place['ml']:.0f} ml ({place['where']})" for place in places)
    return Check(
        "places unlike the target's people (ml)",
        sum(place["ml"] for place in places),
        -np.inf,
        np.inf,
        True,
        f"Looks like a lesion, not shading: {named}. Left out of the estimate, see the map.",
    )


def contrast_check(kept: float) -> Check:
    """The gate's word on what such places kept of their contrast, see ``contrast_kept``."""
    good = kept >= LEAST_KEPT
    words = "as in the source, or more" if kept >= 1 else "nearly as in the source"
    if not good:
        words = (
            f"A place that looks like a lesion keeps {100 * kept:.0f} % of its contrast to what"
            " lies beside it. That is right where the two scanners show contrasts so differently,"
            " and wrong where shading or the lesion itself bent the tone curve: compare it with the"
            " source, and measure lesions there."
        )
    return Check("contrast that unlike places kept", kept, LEAST_KEPT, np.inf, good, words)
