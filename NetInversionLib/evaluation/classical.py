"""Classical denoisers, which are told the noise's standard deviation: what a network has to beat.

Sources: Buades, Coll & Morel, CVPR 2005, 60 (non-local means); Rudin, Osher & Fatemi, Physica D
1992;60:259, and Chambolle, J Math Imaging Vis 2004;20:89 (total variation); Dabov et al., IEEE TIP
2007;16:2080 (BM3D).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np

# Strengths tried, in units of the noise's standard deviation.
STRENGTHS = {
    "non-local means": (0.3, 0.4, 0.6, 0.8, 1.1, 1.5, 2.1),
    "total variation": (0.2, 0.4, 0.7, 1.0, 1.5, 2.2, 3.2),
    "BM3D": (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0),
}


def non_local_means(image: np.ndarray, noise: float, strength: float) -> np.ndarray:
    """Patches of 5 x 5 voxels, looked for within 6 voxels.

    Args:
        image: (J, I), HU.
        noise: Its standard deviation, HU.
        strength: Of the smoothing, in units of the noise.

    Returns:
        (J, I), HU.
    """
    from skimage.restoration import denoise_nl_means

    return denoise_nl_means(
        image, patch_size=5, patch_distance=6, h=strength * noise, sigma=noise, fast_mode=True
    )


def total_variation(image: np.ndarray, noise: float, strength: float) -> np.ndarray:
    """Total variation by Chambolle's projection; (J, I) in HU and out, as ``non_local_means``."""
    from skimage.restoration import denoise_tv_chambolle

    scaled = denoise_tv_chambolle(image / noise, weight=strength, eps=1e-3, max_num_iter=60)
    return scaled * noise


def bm3d(image: np.ndarray, noise: float, strength: float) -> np.ndarray:
    """BM3D for white noise; (J, I) in HU and out, as ``non_local_means``.

    Raises:
        ValueError: The package is not installed.
    """
    if not has_bm3d():
        raise ValueError("BM3D needs the package bm3d (non-commercial): pip install bm3d")
    from bm3d import bm3d as denoise

    return denoise(image, sigma_psd=strength * noise)


def has_bm3d() -> bool:
    """Whether the package is there."""
    return importlib.util.find_spec("bm3d") is not None


def peers() -> dict[str, Callable[[np.ndarray, float, float], np.ndarray]]:
    """The classical denoisers that can run here, by name."""
    found: dict[str, Callable[[np.ndarray, float, float], np.ndarray]] = {
        "non-local means": non_local_means,
        "total variation": total_variation,
    }
    if has_bm3d():
        found["BM3D"] = bm3d
    return found
