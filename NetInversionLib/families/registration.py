"""One person's slice moved onto another's, by a network and by an iterative registration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor, nn

from .. import models
from ..networks.reconstruction import IMAGE_RANGE
from ..networks.registration import warp
from .settings import FamilySettings
from .slices import JUDGED_SHARES, Slices, at_shares
from .tasks import UNITS, Task

SMOOTHNESS = 0.01
"""What the mean square step of the displacement from voxel to voxel weighs beside the error."""
MESH = 12
"""Cells of the spline along each side; best of 6, 8 and 12 on two people trained on."""
ITERATIONS = 100
GREYS = 100.0
"""What images are multiplied by for the spline, whose search ends at a gradient of fixed size."""


@dataclass(frozen=True)
class Couple:
    """Slices of two people at the same share of their heads' heights.

    Attributes:
        image: The fixed ones, (N, H, W); their brightest tissue is about 1.
        moving: What is to be moved onto them, (N, H, W).
    """

    image: Tensor
    moving: Tensor

    @property
    def given(self) -> Tensor:
        """What a network takes, (N, 2, H, W)."""
        return torch.stack([self.moving, self.image], 1) / IMAGE_RANGE

    @property
    def wanted(self) -> Tensor:
        """What it should give, (N, 1, H, W)."""
        return self.image[:, None] / IMAGE_RANGE


def moved(images: Tensor, displacement: Tensor) -> Tensor:
    """Images (N, H, W) moved by displacements (N, 2, H, W), as ``warp``."""
    return warp(images[:, None], displacement)[:, 0]


def roughness(displacement: Tensor) -> Tensor:
    """Mean square difference of a displacement (N, 2, H, W) from voxel to voxel."""
    return sum(displacement.diff(dim=axis).square().mean() for axis in (2, 3)) / 2


def folded(displacement: Tensor) -> Tensor:
    """Share of the voxels of each displacement (N, 2, H, W) at which the image folds over: (N,)."""
    down = displacement.diff(dim=2)[..., :-1]
    right = displacement.diff(dim=3)[:, :, :-1]
    area = (1 + down[:, 0]) * (1 + right[:, 1]) - down[:, 1] * right[:, 0]
    return (area <= 0).float().mean((1, 2))


def iterative(couple: Couple) -> Tensor:
    """Displacements (N, 2, H, W) that B-splines reach by mean squares, as elastix would.

    Two resolutions, L-BFGS; the finer spline has ``MESH`` cells along each side. Source: Klein,
    Staring, Murphy, Viergever & Pluim, IEEE TMI 2010;29:196; here by SimpleITK.
    """
    pairs = zip(couple.image.numpy(), couple.moving.numpy())
    return torch.stack([_spline(fixed, moving) for fixed, moving in pairs])


def _spline(fixed: np.ndarray, moving: np.ndarray) -> Tensor:
    """The displacement (2, H, W) of one slice."""
    target, source = (sitk.GetImageFromArray(GREYS * one) for one in (fixed, moving))
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMeanSquares()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsLBFGS2(numberOfIterations=ITERATIONS)
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([1, 0])
    spline = sitk.BSplineTransformInitializer(target, [MESH // 2, MESH // 2])
    method.SetInitialTransformAsBSpline(spline, inPlace=True, scaleFactors=[1, 2])
    found = method.Execute(target, source)
    field = sitk.TransformToDisplacementField(
        found, sitk.sitkVectorFloat64, target.GetSize(), target.GetOrigin(), target.GetSpacing()
    )
    columns_first = sitk.GetArrayFromImage(field).astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(columns_first[..., ::-1].transpose(2, 0, 1)))


def by_iterations(couple: Couple) -> Tensor:
    """The moving images, moved as ``iterative`` says: (N, H, W)."""
    return moved(couple.moving, iterative(couple))


class Registration(Task):
    """A moving and a fixed image to the moving one where the fixed one has it."""

    inputs = (
        models.Channel("Moving image", "moving", UNITS, 0.0, IMAGE_RANGE),
        models.Channel("Fixed image", "fixed", UNITS, 0.0, IMAGE_RANGE),
    )
    outputs = (models.Channel("Moved image", "moved", UNITS, 0.0, IMAGE_RANGE),)
    held = ("fixed",)
    simulated = "pairs of two people's slices"
    uses = ()
    peers = {"not registered": lambda couple: couple.moving, "B-splines": by_iterations}

    def draw(self, people: Sequence[Slices], settings: FamilySettings, step: int) -> Couple:
        """See ``Task``."""
        rng = np.random.default_rng([settings.seed, step])
        fixed: list[np.ndarray] = []
        moving: list[np.ndarray] = []
        for _ in range(settings.batch):
            who = rng.choice(len(people), 2, replace=len(people) < 2)
            share = rng.random(1)
            turn = 1 if rng.random() < 0.5 else -1  # left and right
            for number, images in zip(who, (fixed, moving)):
                images.append(at_shares(people[number], share)[0, :, ::turn])
        return Couple(*(torch.from_numpy(np.stack(images)) for images in (fixed, moving)))

    def judged(self, people: Sequence[Slices], settings: FamilySettings) -> dict[str, Couple]:
        """See ``Task``; the next person is moved onto each, or a person's own mirror image."""
        found = {}
        for number, one in enumerate(people):
            other = people[(number + 1) % len(people)]
            fixed, moving = (at_shares(who, JUDGED_SHARES) for who in (one, other))
            if other is one:
                moving = moving[:, :, ::-1].copy()
            found[one.name] = Couple(torch.from_numpy(fixed), torch.from_numpy(moving))
        return found

    def trial_of(self, given: Tensor, wanted: Tensor, settings: FamilySettings) -> Couple:
        """See ``Task``."""
        moving, fixed = (self.image_of(one[:, None]) for one in given.unbind(1))
        return Couple(fixed, moving)

    def loss(
        self, network: nn.Module, people: Sequence[Slices], settings: FamilySettings, step: int
    ) -> Tensor:
        """See ``Task``; with a price of rough displacements."""
        drawn = self.draw(people, settings, step)
        displacement = network.displacement(drawn.given)
        error = moved(drawn.moving, displacement) - drawn.image
        return error.square().mean() + SMOOTHNESS * roughness(displacement)
