"""An array of `netinversion harmonize` commands in one folder, of which some are killed.

    python Testing/benchmarks/shared_folder.py FOLDER [--jobs 8] [--kill 2] [-- OPTIONS]

The killed ones (SIGKILL, one after the other) are among those that have a volume in hand. It ends
with status 1 unless every volume was done once, all other commands ended well and the summary has
every volume. Options after `--` go to the commands, such as `--strength 0`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import common

EVERY_S = 0.2
"""Seconds between two looks."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="volumes")
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--kill", type=int, default=2)
    parser.add_argument("options", nargs="*", help="of netinversion harmonize, after --")
    options = parser.parse_args()
    out = Path(tempfile.mkdtemp(prefix="shared-"))
    try:
        return array(options, out)
    finally:
        shutil.rmtree(out)


def array(options: argparse.Namespace, out: Path) -> int:
    command = [sys.executable, "-m", "NetInversionLib.cli", "harmonize", options.folder, out]
    words = [*map(str, command), "--quiet", "--threads", "1", *options.options]
    environment = {**os.environ, "PYTHONPATH": str(common.ROOT)}
    start = time.monotonic()
    jobs = {}
    for _ in range(options.jobs):
        job = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL)
        jobs[job.pid] = job
    records = out / ".netinversion" / "records"
    done: Counter[str] = Counter()
    seen: dict[str, int] = {}
    killed: set[int] = set()
    while any(job.poll() is None for job in jobs.values()):
        for path in records.glob("*.json"):
            written = path.stat().st_mtime_ns
            done[path.name] += seen.get(path.name) != written
            seen[path.name] = written
        holders = {pid for path in records.glob("*.claim-*") if (pid := _holder(path)) in jobs}
        for pid in sorted(holders - killed)[: min(1, options.kill - len(killed))]:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        time.sleep(EVERY_S)
    ends = Counter(job.returncode for job in jobs.values())
    with open(out / "summary.csv", encoding="utf-8") as file:
        verdicts = Counter(row["status"] for row in csv.DictReader(file))
    once = set(done.values()) <= {1} and ends == {0: options.jobs - len(killed), -9: len(killed)}
    whole = sum(verdicts.values()) == len(done) and not {"failed", "not run"} & set(verdicts)
    print(f"{time.monotonic() - start:.0f} s; exit statuses {dict(ends)}; records written")
    print(f"{sum(done.values())} of {len(done)} volumes; summary: {dict(verdicts)}")
    return 0 if once and whole and len(killed) == options.kill else 1


def _holder(path: Path) -> int | None:
    """Whose claim it is."""
    try:
        return json.loads(path.read_bytes())["pid"]
    except (OSError, ValueError):
        return None


if __name__ == "__main__":
    sys.exit(main())
