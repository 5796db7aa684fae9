"""How well the brain is found in whole heads, and how long a head takes.

Truths are others': (a) people's given brain extraction, pasted into other people's heads, and (b)
masks of the real heads by another program, which a folder holds under the heads' names.

    python Testing/benchmarks/heads.py REFERENCES [--people 26 27 30] [--seconds]

REFERENCES has patient01_visit1_T1.nii.gz and so on, the brain masks of brain_longitudinal and
brain_other by another program (README's are deepbet 1.0.2's). Beside what is found stand nulls: the
aligned mean brain alone, and Otsu's threshold with its largest piece opened and filled.
--seconds times `netinversion harmonize` on a head of 288 x 288 x 181 voxels, with the brain to be
found, and with its mask given.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import common
import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from NetInversionLib import models
from NetInversionLib.core import files, volumes
from NetInversionLib.core.volumes import Volume
from NetInversionLib.harmonize import heads
from NetInversionLib.harmonize import scan as harmonize_scan
from NetInversionLib.harmonize.change import harmonizer
from NetInversionLib.harmonize.statistics import Target

BRAINS = common.DATA.parent / "brain_t1" / "site_a"
HEADS = (
    "brain_longitudinal/patient01_visit1_T1",
    "brain_longitudinal/patient12_visit1_T1",
    "brain_other/seg3d_T1",
)
OTHER_HEADS = ("brain_longitudinal/patient01_visit2_T1", "brain_longitudinal/patient12_visit2_T1")
MODEL = common.ROOT / "Resources" / "Models" / "t1-brain.safetensors"
FLUID_PERCENTILE, FLUID_NOISE = 4, 0.15


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("references", type=Path)
    parser.add_argument("--people", nargs="+", default=["25", "26", "27", "28", "29", "30"])
    parser.add_argument("--seconds", action="store_true")
    options = parser.parse_args()
    mean = heads.mean_brain(Target(harmonizer(models.load(MODEL)).corrector))
    rows = []
    for name in HEADS + OTHER_HEADS:
        head, own = read_head(options.references, name)
        rows.append((f"{Path(name).name}, another program's mask", *judged(head, own, mean)))
        print(rows[-1], flush=True)
    for number, person in enumerate(options.people):
        name = HEADS[number % len(HEADS)]
        head, truth = pasted(person, *read_head(options.references, name))
        rows.append((f"sub-{person} in {Path(name).name}", *judged(head, truth, mean)))
        print(rows[-1], flush=True)
    lines = ["| head | found | aligned mean brain | Otsu |", "|---|---|---|---|"]
    lines += [f"| {row[0]} | " + " | ".join(f"{d:.3f}" for d in row[1:]) + " |" for row in rows]
    found = {"rows": rows}
    if options.seconds:
        found["seconds"] = seconds(*pasted("28", *read_head(options.references, HEADS[0])))
        lines += ["", f"288 x 288 x 181 voxels: {found['seconds']}"]
    common.write("heads", found, lines)


def read_head(references: Path, name: str) -> tuple[Volume, Volume]:
    """A head and the other program's mask of it, RAS axes."""
    head = volumes.reorient(files.load(common.DATA.parent / f"{name}.nii.gz"), "RAS")
    own = files.load(references / f"{Path(name).name}.nii.gz")
    return head, volumes.resample(own, head, "nearest", fill=0)


def pasted(person: str, head: Volume, own: Volume) -> tuple[Volume, Volume]:
    """A person's brain in another's head, on the person's grid, and its given mask.

    The head is laid around the brain by an affine alignment, made so large that its own brain is as
    large as the person's; what is left of its own brain becomes fluid.
    """
    brain = volumes.reorient(files.load(BRAINS / f"sub-{person}.nii.gz"), "RAS")
    inside = harmonize_scan.foreground(brain.float32())
    given = brain.with_array(inside.astype(np.float32))
    found = sitk.AffineTransform(
        heads.alignment(
            heads.isotropic(head, heads.HEAD_MM),
            heads.isotropic(brain, heads.MEAN_MM),
            heads.isotropic(given, heads.MEAN_MM).array > 0.5,
        )
    )
    matrix = np.reshape(found.GetMatrix(), (3, 3))
    sizes = [(v.array > 0).sum() * np.prod(v.spacing_mm) for v in (own, given)]
    found.SetMatrix((matrix * (sizes[0] / sizes[1] / np.linalg.det(matrix)) ** (1 / 3)).ravel())
    around = _moved(head, found, brain)
    there = _moved(own.with_array((own.array > 0).astype(np.float32)), found, brain) > 0.5
    around *= np.median(brain.array[inside]) / np.median(around[there])
    rest = ndimage.binary_dilation(there) & ~inside
    fluid = np.percentile(around[there], FLUID_PERCENTILE)
    noise = np.random.default_rng(0).standard_normal(int(rest.sum()))
    around[rest] = np.maximum(fluid * (1 + FLUID_NOISE * noise), 0)
    return brain.with_array(np.where(inside, brain.array, around).astype(np.float32)), given


def _moved(volume: Volume, transform: sitk.Transform, reference: Volume) -> np.ndarray:
    images = [volumes.to_image(replace(v, array=v.float32())) for v in (volume, reference)]
    return sitk.GetArrayFromImage(sitk.Resample(*images, transform, sitk.sitkLinear, 0.0))


def judged(head: Volume, truth: Volume, mean: tuple[Volume, Volume]) -> list[float]:
    """Dice with the truth of what is found, of the aligned mean brain, and of Otsu's threshold."""
    small, outline = heads.rough_outline(head, *mean)
    masks = (heads.outlined(small.array, outline), outline, otsu(small))
    on_grid = [heads.on_grid(small.with_array(mask.astype(np.uint8)), head).array for mask in masks]
    return [dice(mask > 0, truth.array > 0) for mask in on_grid]


def otsu(head: Volume) -> np.ndarray:
    """The largest piece of what is brighter than Otsu's threshold, opened by 4 mm and filled."""
    bright = sitk.GetArrayFromImage(sitk.OtsuThreshold(volumes.to_image(head), 0, 1)) > 0
    labels, _ = ndimage.label(ndimage.binary_opening(bright, iterations=2))
    largest = labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1
    return ndimage.binary_fill_holes(largest)


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def seconds(head: Volume, mask: Volume) -> dict[str, float]:
    """Wall and processor seconds of the command with the brain to be found, and with a mask."""
    taken = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        files.save(head, place / "head.nii.gz")
        files.save(mask, place / "brain.nii.gz")
        for what, pattern in (("brain to be found", "auto"), ("mask given", "brain.nii.gz")):
            command = ["harmonize", "head.nii.gz", f"{pattern}.out.nii.gz", "--mask", pattern]
            began, before = time.perf_counter(), _processor()
            subprocess.run(
                [sys.executable, "-m", "NetInversionLib.cli", *command, "--quiet"],
                cwd=place,
                env={**os.environ, "PYTHONPATH": str(common.ROOT)},
                check=True,
                stdout=subprocess.DEVNULL,
            )
            taken[f"{what}, s"] = round(time.perf_counter() - began, 1)
            taken[f"{what}, s of processor"] = round(_processor() - before, 1)
    return taken


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
