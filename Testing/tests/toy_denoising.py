"""CT made up for denoisers that are trained in seconds."""

import numpy as np
from scipy import ndimage
from toy_models import LPS

from NetInversionLib.core.volumes import Volume
from NetInversionLib.training.denoiser import DenoiserSettings

SMALL = DenoiserSettings(
    "redcnn",
    (("out_ch", 4),),
    steps=12,
    batch=4,
    patch=24,
    views=30,
    noise_hu=150.0,
    checkpoint_every=5,
)


def made_up_ct(seed=0, slices=3, size=48):
    """A body of blobs in air."""
    rng = np.random.default_rng(seed)
    hu = 60 * ndimage.gaussian_filter(rng.normal(size=(slices, size, size)), (0, 3, 3)) * 8
    hu[:, np.hypot(*(np.indices((size, size)) - (size - 1) / 2)) > 0.46 * size] = -1000
    return Volume(hu.astype(np.float32), LPS, f"ct {seed}", "HU")
