"""The same work in another checkout of this repository and in this one, run by turns.

    python Testing/benchmarks/pairs.py OTHER [--pairs 7] [--only invariances ideal_input harmonize]

OTHER is a folder made by `git worktree add OTHER COMMIT`, of a commit that has the three scripts
named below. Each turn begins with the other one of the two, so that a machine which slows down
speaks for neither. Printed: median of the ratios of a pair, and medians of seconds and of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

INVARIANCES = {"name": "cnn10", "samples": 32, "projected": 0}
WORK = {
    "invariances": ["Testing/benchmarks/invariance_speed.py", "--run", json.dumps(INVARIANCES)],
    "ideal_input": ["Testing/benchmarks/whole_volume.py", "--slices", "28", "--evaluations", "10"],
    "harmonize": [
        *("-m", "NetInversionLib.cli", "harmonize", "{scans}", "{output}"),
        *("--model", "Resources/Models/t1-brain.safetensors"),
    ],
}
SLOWER = 1.05


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("other", type=Path)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--only", nargs="+", default=list(WORK), choices=WORK)
    options = parser.parse_args()
    trees = {"before": options.other.resolve(), "here": common.ROOT}
    lines = [
        f"| work, {options.pairs} pairs | before (s) | here (s) | here / before |"
        " before (MB) | here (MB) |",
        "|---|---|---|---|---|---|",
    ]
    facts = {}
    for name in options.only:
        runs = measured(name, trees, options.pairs)
        facts[name] = runs
        lines.append(row(name, runs))
    lines.append(f"At most {SLOWER} times as slow is wanted.")
    common.write("pairs", facts, lines)


def measured(name: str, trees: dict[str, Path], pairs: int) -> dict[str, list[tuple[float, float]]]:
    """(seconds, megabytes) of every run by checkout."""
    runs = {tree: [] for tree in trees}
    for turn in range(pairs):
        for tree in list(trees)[:: 1 if turn % 2 else -1]:
            runs[tree].append(timed(WORK[name], trees[tree]))
        print(name, {tree: runs[tree][-1] for tree in trees}, file=sys.stderr, flush=True)
    return runs


def timed(work: list[str], tree: Path) -> tuple[float, float]:
    """Seconds and peak memory in MB of a program that is run in a checkout."""
    with tempfile.TemporaryDirectory() as folder:
        scans = Path(folder) / "in"
        scans.mkdir()
        shutil.copy(common.DATA.parent / "brain_t1" / "site_a" / "sub-25.nii.gz", scans)
        places = {"{scans}": str(scans), "{output}": str(Path(folder) / "out")}
        command = [sys.executable, *(places.get(word, word) for word in work)]
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
    if status:
        sys.exit(f"{' '.join(command)} failed in {tree}")
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def row(name: str, runs: dict[str, list[tuple[float, float]]]) -> str:
    ratio = statistics.median(
        here[0] / before[0] for before, here in zip(runs["before"], runs["here"])
    )
    middle = [
        [statistics.median(run[part] for run in runs[tree]) for tree in ("before", "here")]
        for part in (0, 1)
    ]
    return (
        f"| {name} | {middle[0][0]:.1f} | {middle[0][1]:.1f} | {ratio:.2f} | {middle[1][0]:.0f} |"
        f" {middle[1][1]:.0f} |"
    )


if __name__ == "__main__":
    main()
