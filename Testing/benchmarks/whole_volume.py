"""Time and peak memory of the ideal input of parts of the pelvis CT.

The search is "free"; the parts are a quarter, a half and the whole.

python Testing/benchmarks/whole_volume.py [--evaluations 40]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import common

from NetInversionLib.core import devices, files, volumes
from NetInversionLib.ideal_input import PRESETS, Settings, dixon, ideal_input


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--evaluations", type=int, default=40)
    parser.add_argument("--slices", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.slices:
        print(json.dumps(run(options.slices, options.evaluations)))
        return
    rows = []
    for slices in (28, 56, 112):  # each in a process of its own: peak memory never falls
        command = [
            sys.executable,
            __file__,
            "--slices",
            str(slices),
            "--evaluations",
            str(options.evaluations),
        ]
        rows.append(
            json.loads(
                subprocess.run(
                    command, check=True, stdout=subprocess.PIPE, text=True
                ).stdout.splitlines()[-1]
            )
        )
    lines = [
        (
            f"Pelvis, 122 x 101 x 112 voxels, patient start, {options.evaluations} evaluations per"
            f" slice, {devices.describe()}"
        ),
        "",
        "| slices | seconds | peak memory (GB) | error (HU) |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {r['slices']} | {r['seconds']:.0f} | {r['peak_gb']:.2f} | {r['before']:.1f} ->"
        f" {r['after']:.1f} |"
        for r in rows
    ]
    common.write("whole_volume", {"rows": rows, "evaluations": options.evaluations}, lines)


def run(slices: int, evaluations: int) -> dict:
    ct = files.load(common.DATA / "pelvis.nii.gz")
    first = (ct.shape[0] - slices) // 2
    ct = volumes.crop(ct, (first, first + slices, 0, ct.shape[1], 0, ct.shape[2]))
    images = {**dixon.simulate_dixon(ct), "ct": ct}
    settings = Settings(**PRESETS["free"], max_evaluations=evaluations, validity=False, knobs=False)
    began = time.perf_counter()
    result = ideal_input(images, {"network": common.held_out_model("pelvis")}, settings)
    return {
        "slices": slices,
        "seconds": time.perf_counter() - began,
        "peak_gb": devices.peak_memory() / 1e9,
        "before": result.facts["error"]["own"],
        "after": result.facts["error"]["patient"],
    }


if __name__ == "__main__":
    main()
