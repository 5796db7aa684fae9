"""What a volume's values mean: Hounsfield units, labels, MR signal. Asked at every door."""

from __future__ import annotations

import numpy as np

from .volumes import Volume, VolumeError

AIR_HU = -300.0
"""An image with values below this shows air, lung or bowel gas."""
FAT_HU = -50.0
PADDING_HU = -1100.0
"""Values below this fill the corners of a scan and say nothing."""
NEGATIVE_SHARE = 0.01
"""Share of an MR image's voxels that may be below 0: ringing and noise, not z-scores."""


def why_no_hu(volume: Volume) -> str:
    """Why a volume cannot be a CT in Hounsfield units; "" if it can.

    A CT shows air, or at least fat (a crop to soft tissue); or its file says that it is in HU, and
    some of its values are below 0. Stored values without their intercept, MR images and images
    between 0 and 1 are never below 0; z-scores never as far as fat.

    Args:
        volume: [k, j, i], any orientation.
    """
    values = np.asarray(volume.array)
    lowest = float(values.min())
    if lowest < PADDING_HU:
        within = values[values >= PADDING_HU]
        lowest = float(within.min()) if within.size else lowest
    if lowest <= AIR_HU or (lowest < 0 and volume.units == "HU"):
        return ""
    if lowest < FAT_HU and np.percentile(values, 1) < FAT_HU:
        return ""
    return f"'{volume.name}' holds no air (lowest value {lowest:g})"


def require_hu(volume: Volume) -> Volume:
    """The volume, if it can be a CT in Hounsfield units; see ``why_no_hu``.

    Args:
        volume: [k, j, i].

    Raises:
        VolumeError: It cannot; says what to do.
    """
    reason = why_no_hu(volume)
    if reason:
        raise VolumeError(
            f"{reason}: is it a CT in HU? Raw scanner values need their rescale slope and"
            " intercept first; MR images do not fit"
        )
    return volume


def require_labels(volume: Volume) -> Volume:
    """The volume, if its values are whole numbers from 0 on.

    Args:
        volume: [k, j, i], of any type.

    Raises:
        VolumeError: They are not; says what to do.
    """
    values = np.asarray(volume.array)
    if values.dtype.kind == "f" and not (values == np.rint(values)).all():
        raise VolumeError(
            f"'{volume.name}' is no label map: its values are not whole numbers. Choose the"
            " segmentation's label map, resampled by nearest neighbour only"
        )
    if values.size and values.min() < 0:
        raise VolumeError(
            f"'{volume.name}' is no label map: it holds {values.min():g}, and labels are 0, 1, 2,"
            " ... Choose the segmentation's label map"
        )
    return volume


def share_below_zero(volume: Volume, inside: np.ndarray | None = None) -> float:
    """The share (0 to 1) of an MR image's voxels below 0 that rules out a scanner's signal.

    Args:
        volume: [k, j, i].
        inside: Boolean [k, j, i], where the brain or head is; None where nobody has said.

    Returns:
        The share of what is inside, or without a mask of all voxels where 1 % of them are as far
        below 0 as 5 % of the brightest; 0 up to 1 %, which noise and ringing explain.
    """
    values = np.asarray(volume.array)
    if values.dtype.kind not in "if" or values.min() >= 0:
        return 0.0
    if inside is None:
        low, high = np.percentile(values, (1, 99.5))
        share = float(np.mean(values < 0)) if low < -0.05 * abs(high) else 0.0
    else:
        share = float(np.mean(values[inside] < 0)) if inside.any() else 0.0
    return share if share > NEGATIVE_SHARE else 0.0


def no_signal(volume: Volume, share: float) -> str:
    """What a share from ``share_below_zero`` means, and what to do."""
    return (
        f"{100 * share:.0f} % of the values of '{volume.name}' are below 0: was it z-scored or"
        " centred, or is it a CT or a phase image? Choose the MR image as the scanner gave it,"
        " before any intensity normalization."
    )


def require_mr(volume: Volume, inside: np.ndarray | None = None) -> Volume:
    """The volume, if its values can be the signal of an MR image, which is never below 0.

    Args:
        volume: [k, j, i].
        inside: As in ``share_below_zero``.

    Raises:
        VolumeError: They cannot; says what to do.
    """
    share = share_below_zero(volume, inside)
    if share:
        raise VolumeError(no_signal(volume, share))
    return volume
