"""Held-out regions for the benchmarks.

They come from real CT and simulated Dixon, with a network that never saw the person.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from NetInversionLib import models  # noqa: E402
from NetInversionLib.core.volumes import Volume  # noqa: E402
from NetInversionLib.evaluation import synthetic_ct  # noqa: E402
from NetInversionLib.training import synthetic_ct as training_synthetic_ct  # noqa: E402

OUTPUT = ROOT / "Testing" / "output"
DATA = Path(os.environ.get("NETINVERSION_DATA", ROOT.parent / "shared" / "data")) / "ct"
# One scan per person: file stem and the network trained without that person.
PEOPLE = {"pelvis": "pelvis", "upper_abdomen": "upper_abdomen", "chest_b40f": "chest"}
NETWORKS = ("first", "second")
SIZE = 96


def case_volumes(scan_name: str) -> tuple[dict[str, Volume], np.ndarray]:
    """Volumes by role (simulated Dixon and CT, 3 mm in plane, LPS) and body mask of one scan."""
    from NetInversionLib.core import files

    path = DATA / f"{scan_name}.nii.gz"
    if not path.exists():
        sys.exit(
            f"This benchmark needs real CT: {path} is missing. Set NETINVERSION_DATA to the folder"
            " that holds ct/."
        )
    case = synthetic_ct.make_case(
        training_synthetic_ct.prepare(files.load(path), scan_name, PEOPLE[scan_name])
    )
    i, j, k = case.scan.spacing_mm
    geometry = np.diag([-i, -j, k, 1.0])
    arrays = dict(
        zip([channel.role for channel in training_synthetic_ct.INPUTS], case.images), ct=case.hu
    )
    return {role: Volume(array, geometry, role) for role, array in arrays.items()}, case.scan.body


def held_out_model(scan_name: str, networks: str = "first") -> models.Model:
    """A network that never saw the scan's person, after the first or after both trainings."""
    folder = ROOT / "Testing" / "models" / ("second" if networks == "second" else "")
    return models.load(folder / f"synthetic-ct-without-{PEOPLE[scan_name]}.safetensors")


def regions(body: np.ndarray, count: int, seed: int = 0) -> list[tuple[int, ...]]:
    """Random one-slice regions of SIZE x SIZE voxels with at least 25 % body.

    They are smaller where the slice is.
    """
    rng, found = np.random.default_rng(seed), []
    size = [min(SIZE, n) for n in body.shape[1:]]
    for _ in range(10_000):
        k, j, i = (
            int(rng.integers(n))
            for n in (body.shape[0], body.shape[1] - size[0] + 1, body.shape[2] - size[1] + 1)
        )
        if body[k, j : j + size[0], i : i + size[1]].mean() >= 0.25:
            found.append((k, k + 1, j, j + size[0], i, i + size[1]))
        if len(found) == count:
            return found
    sys.exit("no region with enough body found")


def write(name: str, facts: dict, lines: list[str]) -> None:
    """Print a report and keep it, as text and as JSON, in Testing/output."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    text = "\n".join(lines)
    print(text, flush=True)
    (OUTPUT / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    (OUTPUT / f"{name}.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
