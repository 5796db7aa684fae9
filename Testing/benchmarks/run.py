"""All benchmarks, one after another; reports lie in Testing/output afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NAMES = (
    "optimisers",
    "regions",
    "protocol",
    "whole_volume",
    "flow_speed",
    "harmonize_speed",
    "cinn_speed",
    "invariance_proof",
    "invariance_speed",
    "families",
)

if __name__ == "__main__":
    for name in NAMES:
        print(f"\n== {name}", flush=True)
        subprocess.run([sys.executable, str(Path(__file__).with_name(f"{name}.py"))], check=True)
