"""The network families of the field: one row each, built or not yet.

Sources: "002" is a survey of deep learning in MRI beyond segmentation, which names the papers;
"004" is T. Knopp's lecture "Deep Learning Based Image Reconstruction" (Hamburg University of
Technology).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

RECONSTRUCTION, DENOISER_INSIDE, DENOISING = "reconstruction", "denoiser inside", "denoising"
SUPER_RESOLUTION, REGISTRATION, COILS = "super-resolution", "registration", "several coils"
SYNTHESIS, TRANSLATION, TUMOURS = "synthesis", "translation", "tumours"
VOLUME_SUPER_RESOLUTION = "super-resolution of volumes"
PEOPLE = "T1-weighted brain slices of 30 people (OpenNeuro ds002748, CC0)"
KSPACE_DATA = (
    PEOPLE + " at 2.4 mm, with simulated phase, noise and Cartesian under-sampling; six people left"
    " out"
)


@dataclass(frozen=True)
class Row:
    """A family, and how it is built here.

    Attributes:
        name: As ``netinversion train family`` takes it; also that of its model file.
        title: For people.
        source: Where it is from.
        network: By whose code.
        optimised, held: Of what goes in, what Ideal Input changes, and what stays.
        data: What it is trained on.
        architecture, arguments: Of ``networks``; none for a row without learning, or one that is
            not built.
        smaller: Arguments of its small sibling, which the tests train.
        recipe: How it is trained; none for a row that is not. steps: How long, of the optimiser.
        settings: Of its training, where they are not those of ``FamilySettings``.
        learnt: Whether there is anything to learn.
    """

    name: str
    title: str
    source: str
    network: str
    optimised: str
    held: str
    data: str = ""
    architecture: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    smaller: dict[str, Any] = field(default_factory=dict)
    recipe: str = ""
    steps: int = 0
    settings: dict[str, float] = field(default_factory=dict)
    learnt: bool = True

    @property
    def built(self) -> bool:
        """Whether the row works."""
        return bool(self.architecture) or not self.learnt


ROWS = (
    Row(
        "learned-inverse",
        "Learned inverse (AUTOMAP)",
        "004, 3.1",
        "own: dense layers along both axes, then convolutions",
        "k-space",
        "mask",
        KSPACE_DATA,
        "learned_inverse",
        {"side": 80, "width": 16, "depth": 3},
        {"side": 32, "width": 4, "depth": 2},
        RECONSTRUCTION,
        1500,
    ),
    Row(
        "post-processing",
        "Post-processing",
        "004, 3.2",
        "own: zero-filled image, a U-Net, then one step of data consistency",
        "k-space",
        "mask",
        KSPACE_DATA,
        "postprocessed_kspace",
        {"features": [16, 32, 64]},
        {"features": [8, 16, 32]},
        RECONSTRUCTION,
        1000,
    ),
    Row(
        "plug-and-play",
        "Plug-and-play",
        "004, 3.3.1",
        "own: data consistency, then a DnCNN that is told the noise's level",
        "k-space",
        "mask",
        KSPACE_DATA + "; the denoiser has seen noisy images only",
        "plug_and_play",
        {"width": 16, "depth": 5, "steps": 20},
        {"width": 8, "depth": 3, "steps": 8},
        DENOISER_INSIDE,
        1200,
    ),
    Row(
        "unrolled-shared",
        "Unrolled, shared weights, P = 10",
        "004, 3.3.2",
        "own: Landweber steps, a DnCNN behind each",
        "k-space",
        "mask",
        KSPACE_DATA,
        "unrolled",
        {"steps": 10, "shared": True, "width": 24, "depth": 4},
        {"steps": 4, "shared": True, "width": 8, "depth": 3},
        RECONSTRUCTION,
        400,
    ),
    Row(
        "unrolled-separate",
        "Unrolled, separate weights, P = 10",
        "004, 3.3.2",
        "own: Landweber steps, a DnCNN behind each",
        "k-space",
        "mask",
        KSPACE_DATA,
        "unrolled",
        {"steps": 10, "shared": False, "width": 12, "depth": 3},
        {"steps": 4, "shared": False, "width": 8, "depth": 3},
        RECONSTRUCTION,
        300,
    ),
    Row(
        "deep-cascade",
        "Deep cascade",
        "Schlemper and colleagues (002)",
        "own: DnCNNs with data consistency between them; single frames, not yet a moving heart",
        "k-space",
        "mask",
        KSPACE_DATA,
        "deep_cascade",
        {"cascades": 5, "width": 16, "depth": 4},
        {"cascades": 3, "width": 8, "depth": 3},
        RECONSTRUCTION,
        1500,
    ),
    Row(
        "varnet",
        "End-to-end VarNet, several coils",
        "Sriram and colleagues (002)",
        "own: steps on the k-space of all coils, a DnCNN beside each; a U-Net estimates the coils",
        "k-space",
        "mask",
        PEOPLE + " at 2.4 mm, with simulated phase, coils, noise and Cartesian under-sampling; six"
        " people left out, with coils of another kind",
        "varnet",
        {"coils": 8, "cascades": 5, "width": 16, "depth": 4, "features": [4, 8]},
        {"coils": 8, "cascades": 1, "width": 8, "depth": 3, "features": [2, 4]},
        COILS,
        800,
        {"acceleration": 4.0},
    ),
    Row(
        "denoising-autoencoder",
        "Denoising autoencoder with skips",
        "Bermudez and colleagues (002)",
        "own: a U-Net that finds the noise",
        "image",
        "-",
        PEOPLE + " at 2.4 mm, with simulated noise; six people left out",
        "denoising_autoencoder",
        {"features": [12, 24, 48]},
        {"features": [6, 12]},
        DENOISING,
        800,
        {"noise": 0.08, "batch": 4},
    ),
    Row(
        "gan-synthesis",
        "Synthesis by a GAN",
        "Bermudez and colleagues (002)",
        "own: a dense layer, then convolutions, against a critic; begins with components",
        "latent",
        "-",
        PEOPLE + " at 2.4 mm; six people left out",
        "latent_generator",
        {"cells": 10, "width": 12},
        {"cells": 4, "width": 4},
        SYNTHESIS,
        600,
        {"batch": 8, "learning_rate": 1e-3},
    ),
    Row(
        "cycle-gan",
        "CycleGAN, T1 and T2",
        "Welander and colleagues (002)",
        "own: a U-Net there and another back, against two critics by least squares",
        "image",
        "-",
        PEOPLE + " at 2.4 mm, and T2-weighted slices simulated from half of them; six people left"
        " out, whose T2 is simulated in another way",
        "cycle_translation",
        {"features": [8, 16, 32]},
        {"features": [4, 8]},
        TRANSLATION,
        1200,
        {"learning_rate": 1e-3},
    ),
    Row(
        "vox2vox",
        "Vox2Vox",
        "Cirillo and colleagues (002)",
        "own: a U-Net in three dimensions, against a critic by least squares",
        "channels",
        "-",
        PEOPLE + " at 3.6 mm, with simulated T2 and simulated tumours (balls with bumps); six"
        " people left out, whose tumours grow and spread",
        "vox2vox",
        {"features": [8, 16, 32]},
        {"features": [4, 8]},
        TUMOURS,
        900,
        {"size": 48, "spacing_mm": 3.6},
    ),
    Row(
        "super-resolution",
        "Multi-scale super-resolution",
        "Liu and colleagues (002)",
        "own: convolutions in a row whose answers at every depth are fused",
        "low resolution",
        "-",
        PEOPLE + " at 1.2 mm, and means over twice that in plane with noise; six people left out",
        "multi_scale_super_resolution",
        {"factor": 2, "width": 20, "depth": 6},
        {"factor": 2, "width": 8, "depth": 3},
        SUPER_RESOLUTION,
        1000,
        {"size": 160, "spacing_mm": 1.2},
    ),
    Row(
        "srgan-3d",
        "3D SRGAN",
        "Sanchez and Vilaplana (002)",
        "own: residual blocks, against a critic by least squares",
        "low resolution",
        "-",
        PEOPLE + " at 2.4 mm, and means over twice that in all directions with noise; six people"
        " left out",
        "volume_super_resolution",
        {"factor": 2, "width": 20, "depth": 4},
        {"factor": 2, "width": 6, "depth": 1},
        VOLUME_SUPER_RESOLUTION,
        1000,
        {"size": 72, "spacing_mm": 2.4},
    ),
    Row(
        "registration",
        "VoxelMorph, and an iterative peer",
        "Balakrishnan; Klein and colleagues (002)",
        "own: a U-Net that finds a displacement, in two dimensions; the peer by SimpleITK",
        "moving image",
        "fixed image",
        PEOPLE + " at 2.4 mm, each moved onto another person; six people left out",
        "voxelmorph",
        {"features": [12, 24, 24, 24]},
        {"features": [8, 16, 16]},
        REGISTRATION,
        1500,
    ),
    Row(
        "no-learning",
        "Tikhonov, L1, TV, fused lasso, wavelets",
        "004, 1 and 3.3",
        "own: Landweber, Kaczmarz, CGNR, FISTA, ADMM",
        "raw data",
        "operator",
        "none",
        learnt=False,
    ),
)
"""All rows."""


def row(name: str) -> Row:
    """A row by its name.

    Raises:
        ValueError: There is none; says which there are.
    """
    for one in ROWS:
        if one.name == name:
            return one
    raise ValueError(f"no family is called {name!r}; there are {', '.join(r.name for r in ROWS)}")


def trainable() -> dict[str, str]:
    """Titles of the rows that can be trained, by name."""
    return {one.name: one.title for one in ROWS if one.recipe}
