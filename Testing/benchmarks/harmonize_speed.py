"""Time and peak memory of harmonizing one, two and four volumes.

They have 288 x 288 x 181 voxels; gate, figures and page are included.

    python Testing/benchmarks/harmonize_speed.py [--volumes 1 2 4]

Every count runs `netinversion harmonize` anew, in a folder of its own, on people that the shipped
model has not seen.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

from NetInversionLib.core import devices

PEOPLE = [f"sub-{n}.nii.gz" for n in range(25, 31)]
MODEL = common.ROOT / "Resources" / "Models" / "t1-brain.safetensors"
ALLOWED = 60


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--volumes", type=int, nargs="+", default=[1, 2, 4], help=f"at most {len(PEOPLE)}"
    )
    options = parser.parse_args()
    brains = common.DATA.parent / "brain_t1" / "site_a"
    if not brains.is_dir():
        sys.exit(
            f"This benchmark needs real brains: {brains} is missing. Set NETINVERSION_DATA to the"
            " folder that has them."
        )
    rows = {count: harmonized(brains, count) for count in options.volumes}
    lines = [
        f"288 x 288 x 181 voxels, anatomy-safe, {devices.describe()}, one process",
        "",
        "| volumes | seconds | peak memory (GB) |",
        "|---|---|---|",
    ]
    lines += [
        f"| {count} | {seconds:.0f} | {peak / 1e9:.2f} |" for count, (seconds, peak) in rows.items()
    ]
    lines += [
        "",
        (
            f"At most {ALLOWED} s for one are wanted; twice the volumes, twice the time, the same"
            " memory."
        ),
    ]
    common.write("harmonize_speed", {"rows": rows}, lines)


def harmonized(brains: Path, count: int) -> tuple[float, int]:
    """(seconds, peak memory in bytes) of the command on so many people."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in"
        source.mkdir()
        for name in PEOPLE[:count]:
            shutil.copy(brains / name, source)
        command = [
            sys.executable,
            "-m",
            "NetInversionLib.cli",
            "harmonize",
            str(source),
            str(Path(folder) / "out"),
            "--model",
            str(MODEL),
        ]
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=common.ROOT, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit("harmonize failed: see above")
        return time.perf_counter() - began, usage.ru_maxrss * (
            1 if sys.platform == "darwin" else 1024
        )


if __name__ == "__main__":
    main()
