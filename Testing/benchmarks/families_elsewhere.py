"""Families on what they were not made for: regions of another scanner's brains, moved by a
registration; the measured k-space of a real scan of eight coils; a person whose T1 and T2 were both
acquired; and what made images have in common with people's.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from NetInversionLib import models
from NetInversionLib.core import files
from NetInversionLib.core.volumes import Volume
from NetInversionLib.families import (
    coils,
    kspace,
    quality,
    registration,
    rows,
    slices,
    synthesis,
    training,
    translation,
)
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
    if row.recipe == rows.TRANSLATION:
        return real_contrasts(models.load(path), data / "brain_multicontrast")
    if row.recipe == rows.SYNTHESIS:
        return made_beside_people(models.load(path), data / "brain_t1" / "site_a")
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


# A real pair of contrasts -------------------------------------------------------------------------


def real_contrasts(model: models.Model, folder: Path) -> list[str]:
    """PSNR of a person's acquired T2, and of the T1 that comes back."""
    told = {n: model.card.training[n] for n in ("size", "spacing_mm")}
    settings = training.settings_for("cycle-gan", **told)
    scans = [files.load(folder / f"patient07_{contrast}.nii.gz") for contrast in ("T1", "T2")]
    brain = (scans[0].array != 0) & (scans[1].array != 0)  # one outline, so that slices agree
    first, second = (torch.from_numpy(judged_slices(one, brain, settings)) for one in scans)
    trial = translation.Contrasts(second, first)
    with torch.no_grad():
        there, again = (model.network(trial.given) * translation.IMAGE_RANGE).unbind(1)
    images = {
        "mean of the target": translation.best_constant(trial),
        "T1 as it is": first,
        "grey values turned and matched to its own": translation.turned_greys(
            first, translation.quantiles_of(second.numpy())
        ),
        "network": there,
    }
    figures = ", ".join(
        f"{name} {np.mean(quality.psnr(image, second)):.1f}" for name, image in images.items()
    )
    back = np.mean(quality.psnr(again, first))
    return [
        f"- CycleGAN, a person whose T2 was acquired, PSNR (dB): {figures}; T1 and back {back:.1f}"
    ]


def judged_slices(scan: Volume, brain: np.ndarray, settings: FamilySettings) -> np.ndarray:
    """The slices of a scan that people are judged on, of a brain that is given."""
    inside = replace(scan, array=np.where(brain, scan.array.clip(1e-3), 0).astype(np.float32))
    case = slices.slices_of(inside, scan.name, settings.size, settings.spacing_mm)
    return slices.at_shares(case, slices.JUDGED_SHARES)


# Made images --------------------------------------------------------------------------------------

MADE = 64
"""Images that are made of random latents."""


def made_beside_people(model: models.Model, folder: Path) -> list[str]:
    """Are made images copies, and are they brighter in their middle, as experts said?"""
    told = {n: model.card.training[n] for n in ("size", "spacing_mm")}
    settings = training.settings_for("gan-synthesis", **told)
    found = people.find_scans(folder)
    by_name = {
        name: slices.slices_of(files.load(found[name][0]), name, settings.size, settings.spacing_mm)
        for name in sorted(found)
    }
    seen = np.concatenate([by_name[name].images for name in model.card.trained_on])
    seen = np.concatenate([seen, seen[:, :, ::-1]])
    unseen = np.concatenate([by_name[n].images for n in by_name if n not in model.card.trained_on])
    latents = torch.randn(
        MADE, model.network.cells, model.network.cells, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        made = (model.network.generate(latents)[:, 0] * synthesis.IMAGE_RANGE).numpy()
    return [
        "- GAN, likeness to the nearest image trained on (correlation, mean and largest): made"
        f" {likeness(made, seen)}, of people left out {likeness(unseen, seen)}",
        f"- GAN, brightness of the middle over that of the rest of the head: made"
        f" {middle_over_rest(made)}, people left out {middle_over_rest(unseen)}, people trained on"
        f" {middle_over_rest(seen)} (mean and standard deviation)",
    ]


def likeness(images: np.ndarray, others: np.ndarray) -> str:
    """Of each image the largest correlation with another: their mean and largest."""

    def unit(values: np.ndarray) -> np.ndarray:
        flat = values.reshape(len(values), -1)
        flat = flat - flat.mean(1, keepdims=True)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    largest = (unit(images) @ unit(others).T).max(1)
    return f"{largest.mean():.3f}, {largest.max():.3f}"


def middle_over_rest(images: np.ndarray) -> str:
    """Mean grey value within half of the head's radius over that of the rest: mean and spread."""
    ratios = []
    for image in images:
        head = image > quality.INSIDE
        places = np.argwhere(head)
        away = np.abs(places - places.mean(0)) / (2 * places.std(0))  # 1 at an ellipse's edge
        values = image[head]
        middle = (away**2).sum(1) < 0.25
        ratios.append(values[middle].mean() / values[~middle].mean())
    return f"{np.mean(ratios):.2f} ({np.std(ratios):.2f})"
