"""Network architectures by name: a model file names one, and never carries code.

To add one, decorate its class with ``register`` and import its file at the end of this one. Its
constructor takes plain JSON values and checks them (they come from files that nobody vouches for);
every tensor it needs is in its ``state_dict``. Attributes that are compared with a model's card
where they exist: ``in_channels``, ``out_channels``, ``dimensions``.
"""

from . import (  # noqa: F401  (register themselves)
    autoencoder,
    cinn,
    corrector,
    denoisers,
    flow,
    mrflow,
    reconstruction,
    registration,
    restoration,
    sampler,
    shrinkage,
    super_resolution,
    synthesis,
    translation,
    unet,
    vae,
    varnet,
    vgg,
    volumes,
)
from .registry import ARCHITECTURES, build, register  # noqa: F401
