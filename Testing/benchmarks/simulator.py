"""Is the Dixon simulator true to life? The same figures of acquired and of simulated images.

python Testing/benchmarks/simulator.py

Acquired: the two people of ``dixon_real_nc`` (2012 ISMRM fat-water challenge), used for
measuring only. Simulated: the default settings on CT of similar places. No figure needs the
voxel size or one scale of intensities.
"""

from __future__ import annotations

import common
import numpy as np
from scipy import ndimage

from NetInversionLib import models
from NetInversionLib.core import files
from NetInversionLib.evaluation import synthetic_ct
from NetInversionLib.training import synthetic_ct as training

REAL = ("case13", "case15")
SIMULATED = ("chest_b40f", "upper_abdomen")
FINE_MM = 2.0  # about the acquired voxel: the trunk of case13 is some 200 voxels wide


def main() -> None:
    rows = {f"{name}, acquired": figures(*acquired(name)) for name in REAL}
    rows |= {f"{name}, simulated": figures(*simulated(name)) for name in SIMULATED}
    headings = list(next(iter(rows.values())))
    lines = [f"| images | {' | '.join(headings)} |", "|---" * (len(headings) + 1) + "|"]
    lines += [f"| {n} | {' | '.join(f'{v:.2f}' for v in r.values())} |" for n, r in rows.items()]
    tissues = agreement()
    lines += [
        "",
        "| predictor | images | Dice of fat | Dice of soft tissue | bone outside signal |",
    ]
    lines += ["|---|---|---|---|---|"]
    lines += [f"| {' | '.join(map(str, r[:2]))} | {' | '.join(r[2:])} |" for r in tissues]
    common.write("simulator", {"figures": rows, "tissues": tissues}, lines)


def agreement() -> list[tuple[str, ...]]:
    """Tissue classes of the CT that the shipped network and a look-up make of acquired images.

    Beside those that the images themselves show: fat or water where there is signal.
    """
    model = models.load(common.ROOT / "Resources/Models/dixon-to-synthetic-ct.safetensors")
    scans = training.read_scans(common.DATA, common.DATA.parent / "ct_volumes")
    fit = [scan for scan in scans if scan.name in model.card.trained_on]
    predictors = synthetic_ct.predictors(fit, model)
    rows = []
    for name in REAL:
        in_phase, fat, water = acquired(name)
        total = np.maximum(fat + water, 1e-6)
        images = np.stack([in_phase, fat / total, water / total])
        scan = training.CTScan(name, name, in_phase, in_phase > 0, (FINE_MM,) * 3)
        case = synthetic_ct.HeldOutCase(scan, images)
        signal = in_phase > 0.15 * np.percentile(in_phase, 95)
        for predictor in ("network", "voxel by voxel", "linear regression"):
            hu = predictors[predictor](case)
            pairs = (
                (signal & (fat > water), (hu > -250) & (hu < -20)),
                (signal & (fat <= water), (hu >= -20) & (hu < 200)),
            )
            bone = (hu >= 200).sum()
            rows.append(
                (predictor, name)
                + tuple(f"{2 * (a & b).sum() / (a.sum() + b.sum()):.3f}" for a, b in pairs)
                + (f"{(~signal & (hu >= 200)).sum() / max(bone, 1):.2f}",)
            )
    return rows


def acquired(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """In-phase, fat and water images of an acquired case, [k, j, i], any scale."""
    folder = common.DATA.parent / "dixon_real_nc"
    loaded = (files.load(folder / f"{name}_{part}.nii.gz") for part in ("in_phase", "fat", "water"))
    # The files' first axis runs to the back, their second to the left.
    return tuple(volume.float32().swapaxes(1, 2) for volume in loaded)


def simulated(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same of a CT seen with the simulator's defaults, four slices."""
    scan = training.prepare(files.load(common.DATA / f"{name}.nii.gz"), name, common.PEOPLE[name])
    middle = len(scan.hu) // 2
    case = synthetic_ct.make_case(scan, spacing_mm=FINE_MM)
    in_phase, fat, water = case.images[:, middle - 2 : middle + 2]
    return in_phase, fat * in_phase, water * in_phase


def figures(in_phase: np.ndarray, fat: np.ndarray, water: np.ndarray) -> dict[str, float]:
    """Contrast, noise and sharpness, each in parts of the images' own signal."""
    total = fat + water
    fraction = fat / np.maximum(total, 1e-6)
    signal = in_phase > 0.15 * np.percentile(in_phase, 95)
    fatty, watery = (eroded(signal & part) for part in (fraction > 0.5, fraction < 0.5))
    level = local_mean(in_phase, watery, 12.0)
    noise = np.abs(differences(in_phase))[watery] / 0.6745
    air = eroded(~ndimage.binary_dilation(signal, iterations=4))
    bright = local_mean(in_phase, fatty, 6.0) / local_mean(in_phase, watery, 6.0)
    both = ndimage.binary_dilation(fatty, iterations=4) & ndimage.binary_dilation(
        watery, iterations=4
    )
    return {
        "fat fraction of fat": float(np.median(fraction[fatty])),
        "fat fraction of water": float(np.median(fraction[watery])),
        "its spread": float(np.subtract(*np.percentile(fraction[watery], (84, 16))) / 2),
        "fat over water nearby": float(np.nanmedian(bright[both])),
        "SNR of water, at least": float(np.median(level[watery]) / np.median(noise)),
        "air over water": float(np.median(in_phase[air]) / np.median(in_phase[watery])),
        "field, spread of water": float(np.std(smooth_log(in_phase, watery))),
        "edge, voxels": edge_width(in_phase, signal),
    }


def eroded(mask: np.ndarray) -> np.ndarray:
    """``mask`` [k, j, i] less one voxel in each slice: no partial volume."""
    return ndimage.binary_erosion(mask, np.ones((1, 3, 3), bool))


def local_mean(image: np.ndarray, mask: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian mean over the mask's voxels in a slice, NaN far from any; all [k, j, i]."""
    weight = ndimage.gaussian_filter(mask.astype(np.float32), (0, sigma, sigma))
    total = ndimage.gaussian_filter(np.where(mask, image, 0).astype(np.float32), (0, sigma, sigma))
    return np.where(weight > 1e-3, total / np.maximum(weight, 1e-6), np.nan)


def differences(image: np.ndarray) -> np.ndarray:
    """Second differences along i in units of white noise's standard deviation, [k, j, i]."""
    return (2 * image - np.roll(image, 1, 2) - np.roll(image, -1, 2)) / np.sqrt(6)


def smooth_log(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The second-order polynomial in j and i that fits the logarithm of the masked voxels."""
    _, j, i = np.nonzero(mask)
    j, i = j / image.shape[1] * 2 - 1, i / image.shape[2] * 2 - 1
    terms = np.stack([np.ones_like(i), i, j, i * j, i * i, j * j], 1)
    values = np.log(np.maximum(image[mask], 1e-6))
    return terms @ np.linalg.lstsq(terms, values, rcond=None)[0]


def edge_width(image: np.ndarray, signal: np.ndarray) -> float:
    """Full width at half maximum of the derivative across the outermost edge, median, in voxels.

    Along j, where a row of 12 voxels holds one clean step from air.
    """
    widths = []
    for k in range(image.shape[0]):
        for i in np.flatnonzero(signal[k].sum(0) > 20):
            first = int(np.flatnonzero(signal[k, :, i])[0])
            if first < 6:
                continue
            step = np.clip(np.diff(image[k, first - 6 : first + 6, i]), 0, None)
            peak = int(step.argmax())
            if step.sum() > 0.3 * np.percentile(image, 95):
                widths.append(step[max(0, peak - 3) : peak + 4].sum() / step[peak] * 0.94)
    return float(np.median(widths))


if __name__ == "__main__":
    main()
