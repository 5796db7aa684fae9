"""How far from the truth is the level of the noise that denoisers are told?

python Testing/benchmarks/noise_level.py [--people 6] [--model FILE]

On people that networks are trained on (nothing is to be chosen on the held-out ones): estimated
level over the true standard deviation in soft tissue, by dose and kernel; the geometric mean over
people and voxel sizes, and how far single images lie apart (standard deviation of the logarithm).
Beside ``noise_level`` that of a model's own, if it has learned one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import common
import numpy as np
import torch

from NetInversionLib import models
from NetInversionLib.evaluation import denoisers
from NetInversionLib.networks.noise_level import LEVEL_OF_ONE, noise_level
from NetInversionLib.training.level import SPAN_HU, learned_level
from NetInversionLib.training.pairs import normalised

SLICES = common.DATA.parent / "ct_slices"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=6)
    parser.add_argument("--model", type=Path, help="denoiser that has learned its level")
    options = parser.parse_args()
    regions = denoisers.read_regions([SLICES / "tcga"], options.people, held_out=False)
    estimates = {"not learned": noise_level}
    if options.model:
        learned = learned_level(models.load(options.model).network)
        if learned is None:
            parser.error(f"{options.model} has not learned its level")
        estimates["learned"] = learned
    lines = [f"| dose | kernel | {' | '.join(estimates)} |", "|---" * (2 + len(estimates)) + "|"]
    figures = {}
    for dose in denoisers.DOSES:
        for kernel in denoisers.KERNELS:
            found = [ratio(estimate, regions, dose, kernel) for estimate in estimates.values()]
            figures[f"{dose:g} {kernel}"] = dict(zip(estimates, found))
            said = " | ".join(f"x {np.exp(mean):.2f}, apart {apart:.2f}" for mean, apart in found)
            lines.append(f"| {100 * dose:.0f} % | {kernel} | {said} |")
    common.write("noise_level", figures, lines)


def ratio(estimate, regions, dose: float, kernel: str) -> tuple[float, float]:
    """Mean and standard deviation over regions of the logarithm of estimated to true noise."""
    found = []
    for region in regions:
        low, true = region.low(dose, kernel)
        with torch.no_grad():
            level, _ = estimate(normalised(torch.from_numpy(low))[None, None])
        hu = level[0, 0].numpy()[region.soft] / LEVEL_OF_ONE * (SPAN_HU / true)
        found.append(float(np.log(hu).mean()))
    return float(np.mean(found)), float(np.std(found))


if __name__ == "__main__":
    main()
