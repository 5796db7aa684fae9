"""What is measured of a denoised CT: errors, likeness and the texture of its noise."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from ..invariances.low_dose import BODY_HU

RANGE_HU = 1000.0  # of PSNR and SSIM
BONE_HU = 250.0  # of the image smoothed by 1 mm
PATCH, PATCHES = 32, 3  # of the noise's spectrum: the most uniform ones
BANDS = 8
FEWEST = 50  # voxels that a figure is taken of


def figures_of(
    found: np.ndarray, normal: np.ndarray, soft: np.ndarray, spacing_mm: float, margin: int
) -> dict[str, float | None]:
    """Figures of a denoised image; None where a tissue has too few voxels.

    Args:
        found, normal: (J, I), HU: denoised, and at normal dose.
        soft: (J, I), bool: soft tissue.
        spacing_mm: Voxel size.
        margin: Voxels at each border that do not count.

    Returns:
        "RMSE", "PSNR" and "SSIM" of "soft" and "body" (HU, dB with a range of 1000 HU, no unit),
        "RMSE bone", "bias soft" (HU), "spectrum off" (dB: the root mean square over 8 bands of how
        far the noise's power spectrum is from that at normal dose).
    """
    inner = (slice(margin, -margin),) * 2
    error = found - normal
    bone = ndimage.gaussian_filter(normal, 1 / spacing_mm) > BONE_HU
    tissues = {"soft": soft, "body": normal > BODY_HU, "bone": bone}
    likeness = _likeness(found, normal)
    figures: dict[str, float | None] = {}
    for name, mask in tissues.items():
        counted = mask[inner]
        if counted.sum() < FEWEST:
            figures |= {f"{f} {name}": None for f in ("RMSE", "PSNR", "SSIM")}
            continue
        rmse = math.sqrt(float(np.mean(error[inner][counted] ** 2)))
        figures[f"RMSE {name}"] = rmse
        figures[f"PSNR {name}"] = 20 * math.log10(RANGE_HU / rmse) if rmse else None
        figures[f"SSIM {name}"] = float(likeness[inner][counted].mean())
    counted = soft[inner]
    enough = counted.sum() >= FEWEST
    figures["bias soft"] = float(error[inner][counted].mean()) if enough else None
    figures["spectrum off"] = spectrum_off(found[inner], normal[inner], counted)
    return figures


def _likeness(found: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """SSIM around each voxel, (J, I), with a Gaussian of 1.5 voxels."""
    from skimage.metrics import structural_similarity

    return structural_similarity(
        normal,
        found,
        data_range=RANGE_HU,
        gaussian_weights=True,
        use_sample_covariance=False,
        full=True,
    )[1]


def spectrum_off(found: np.ndarray, normal: np.ndarray, soft: np.ndarray) -> float | None:
    """How far the noise's power spectrum is from that at normal dose, dB.

    Args:
        found, normal: (J, I), HU.
        soft: (J, I), bool: where patches may lie.

    Returns:
        The root mean square over bands of equal width; None where there is no uniform patch.
    """
    places = uniform_patches(normal, soft)
    if not places:
        return None
    powers = [np.mean([band_powers(a[p]) for p in places], 0) for a in (found, normal)]
    return float(np.sqrt(np.mean((10 * np.log10(powers[0] / powers[1])) ** 2)))


def uniform_patches(normal: np.ndarray, soft: np.ndarray) -> list[tuple[slice, slice]]:
    """The places of patches of soft tissue in which the smoothed image varies least."""
    smooth = ndimage.gaussian_filter(normal, 3.0)
    step, found = PATCH // 2, []
    for j in range(0, normal.shape[0] - PATCH + 1, step):
        for i in range(0, normal.shape[1] - PATCH + 1, step):
            place = slice(j, j + PATCH), slice(i, i + PATCH)
            if soft[place].mean() > 0.95:
                found.append((float(smooth[place].std()), place))
    return [place for _, place in sorted(found, key=lambda one: one[0])[:PATCHES]]


def band_powers(patch: np.ndarray) -> np.ndarray:
    """Power of a square patch without its plane, in bands of spatial frequency.

    Args:
        patch: (N, N), HU.

    Returns:
        (8,), HU^2, from the lowest to the Nyquist frequency.
    """
    size = len(patch)
    j, i = np.indices(patch.shape).reshape(2, -1)
    plane = np.stack([np.ones(size * size), j, i], 1)
    rest = (
        patch.ravel() - plane @ np.linalg.lstsq(plane, patch.ravel().astype(float), rcond=None)[0]
    )
    window = np.outer(np.hanning(size), np.hanning(size))
    power = np.abs(np.fft.fft2(rest.reshape(patch.shape) * window)) ** 2
    radius = 2 * np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    band = np.minimum((radius * BANDS).astype(int), BANDS)
    return np.array([power[band == n].mean() for n in range(BANDS)]) + 1e-6
