"""Two families on what they were not made for: regions of another scanner's brains, moved by a
registration, and the measured k-space of a real scan of eight coils.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from NetInversionLib import models
from NetInversionLib.core import files
from NetInversionLib.families import coils, kspace, quality, registration, rows, slices, training
from NetInversionLib.families.settings import FamilySettings
from NetInversionLib.networks.fourier import centred_fft
from NetInversionLib.networks.registration import warp
from NetInversionLib.training import people

LEAST_VOXELS = 20
"""Of a region, in the fixed and in the moving slice, for its overlap to count."""
MASKS = 8
KEPT = 0.42
"""Of the real scan's k-space, in its middle: voxels then are about as large as in training."""


def told(row: rows.Row, path: Path, data: Path) -> list[str]:
    """Lines below the table, of the rows that have something to say."""
    if row.recipe == rows.REGISTRATION:
        return overlap_of_regions(models.load(path), data / "brain_t1")
    if row.recipe == rows.COILS:
        return real_scan(models.load(path), data / "kspace" / "sigpy_cartesian_ksp.npy")
    return []


# Regions ------------------------------------------------------------------------------------------


def overlap_of_regions(model: models.Model, folder: Path) -> list[str]:
    """Dice coefficients of regions after each way of registration, and what folds over."""
    found = people.find_scans(folder / "site_b")
    settings = training.settings_for(
        "registration", **{n: model.card.training[n] for n in ("size", "spacing_mm")}
    )
    cases, labels = [], []
    for name in sorted(found):
        image = files.load(found[name][0])
        regions = files.load(folder / "site_b_labels" / f"{name}.nii.gz")
        cases.append(slices.slices_of(image, name, settings.size, settings.spacing_mm))
        shown = slices.label_slices(image, regions, settings.size, settings.spacing_mm)
        labels.append(slices.at_shares(slices.Slices(name, shown), slices.JUDGED_SHARES))
    couples = registration.Registration().judged(cases, settings)
    overlaps: dict[str, list[float]] = {}
    folds: dict[str, list[float]] = {}
    for number, couple in enumerate(couples.values()):
        fixed, moving = labels[number], labels[(number + 1) % len(labels)]
        ways = {
            "none": torch.zeros(len(fixed), 2, *fixed.shape[1:]),
            "B-splines": registration.iterative(couple),
            "network": model.network.displacement(couple.given),
        }
        for way, displacement in ways.items():
            images = torch.from_numpy(moving[:, None].astype(np.float32))
            moved = warp(images, displacement, "nearest")[:, 0].numpy()
            overlaps.setdefault(way, []).append(dice(moved.astype(int), fixed, moving))
            folds.setdefault(way, []).append(float(registration.folded(displacement).mean()))
    figures = ", ".join(
        f"{way} {np.mean(values):.3f} ({100 * np.mean(folds[way]):.1f} % of voxels folded)"
        for way, values in overlaps.items()
    )
    return [f"- Registration, Dice of regions, {len(couples)} pairs of another scanner: {figures}"]


def dice(moved: np.ndarray, fixed: np.ndarray, moving: np.ndarray) -> float:
    """Mean overlap of the regions that fixed and moving slice both show, (S, H, W)."""
    found = []
    for one, other, before in zip(moved, fixed, moving):
        regions, counts = np.unique(other[other > 0], return_counts=True)
        for region, count in zip(regions, counts):
            if min(count, (before == region).sum()) < LEAST_VOXELS:
                continue
            both = ((one == region) & (other == region)).sum()
            found.append(2 * both / ((one == region).sum() + count))
    return float(np.mean(found))


# A real scan --------------------------------------------------------------------------------------


def real_scan(model: models.Model, path: Path) -> list[str]:
    """PSNR of the real slice, under-sampled afterwards with several masks."""
    told = {n: model.card.training[n] for n in ("acceleration", "centre")}
    settings = training.settings_for("varnet", **told)
    scan = undersampled(np.load(path), settings)
    task = coils.SeveralCoils()
    images = {name: peer(scan) for name, peer in task.peers.items()}
    images["network"] = task.made(model.network, scan)
    figures = ", ".join(
        f"{name} {np.mean(quality.psnr(image, scan.image)):.1f}" for name, image in images.items()
    )
    return [
        f"- VarNet, a real scan of {scan.measured.shape[1]} coils, {MASKS} masks, PSNR (dB):"
        f" {figures}"
    ]


def undersampled(measured: np.ndarray, settings: FamilySettings) -> coils.CoilScan:
    """K-space (C, H, W) of a real scan, with its middle kept and several masks drawn."""
    sides = [2 * round(KEPT * side / 2) for side in measured.shape[1:]]
    first = [(side - kept) // 2 for side, kept in zip(measured.shape[1:], sides)]
    middle = measured[:, first[0] : first[0] + sides[0], first[1] : first[1] + sides[1]].astype(
        np.complex64
    )
    images = centred_fft(torch.from_numpy(middle), inverse=True)
    magnitude = images.abs().square().sum(0).sqrt()
    inside = magnitude[magnitude > 0.1 * magnitude.max()].numpy()
    images = images / float(np.percentile(inside, slices.PERCENTILE))
    rng = np.random.default_rng(settings.seed)
    lines = [
        kspace.line_mask(sides[0], rng, settings.acceleration, settings.centre)
        for _ in range(MASKS)
    ]
    mask = torch.from_numpy(np.stack(lines).astype(np.float32))[:, :, None]
    return coils.measured_scan(
        images.repeat(MASKS, 1, 1, 1), mask.expand(-1, -1, sides[1]).contiguous()
    )
