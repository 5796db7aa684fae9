"""Harmonization for tests of its panel: the real thing, made quick.

What takes long answers at once, as the volume's name asks: a name with "other contrast" is refused,
"whole head" too unless it has a mask, one with "unusual" flagged, "endless" never ends. As a
program it stands in for ``python -m NetInversionLib.jobs``, with this in the place of the real
task.
"""

import sys
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from NetInversionLib import harmonize, jobs, models, networks
from NetInversionLib.harmonize import estimate, gate, heads, run, slices
from NetInversionLib.harmonize.gate import Check
from NetInversionLib.harmonize.gate_reasons import ANATOMY
from NetInversionLib.harmonize.gate_words import WHOLE_HEAD
from NetInversionLib.harmonize.tone_field import ToneField
from NetInversionLib.training import flow_file
from NetInversionLib.training.flow import FlowSettings

ANALYSIS = {"harmonize": ("harmonize_analyses", "run_analysis")}
FLOW = FlowSettings(spacing_mm=4.0, levels=2, flow_steps=1, hidden=4, features=(4, 4))
TONE = ToneField(
    [[0.0, 0.5, 1.0, 1.3], [0.02, 0.6, 1.0, 1.2]],
    np.linspace(-0.2, 0.2, 27).reshape(3, 3, 3),
    np.linspace(0.01, -0.01, 27).reshape(3, 3, 3),
    np.diag([40.0, 40.0, 40.0, 1.0]),
)
ESTIMATE = estimate.Estimate(TONE, "m", {"m": 9.0}, 0.0, 0.95, np.eye(4))
BRAIN = (slice(3, 13), slice(4, 16), slice(4, 14))
"""Where the brain of a "whole head" is, [k, j, i]."""
OTHER = "This looks like another contrast: choose a model of this contrast."
UNUSUAL = "The image is noisier than the target's people."


def run_analysis(volumes, model_paths, settings, progress):
    name = volumes["source"].name
    while "endless" in name:
        progress.report(0.3, "Going on")
        progress.point("correlation, axial", time.monotonic(), 0.5)
        time.sleep(0.01)
    masks = [volumes["mask"]] if "mask" in volumes else []

    def find(volume, *mean):
        inside = np.zeros(volume.shape, np.uint8)
        inside[BRAIN] = 1
        masks.append(volume.with_array(inside))
        return masks[-1]

    def check(*seen):
        known = bool(masks) or "whole head" not in name
        return [*checks, Check(ANATOMY, 0.5, 0.4, 1.0, known, WHOLE_HEAD, "refused")]

    checks = [
        Check("contrast", 0.5, 1.0, 2.0, "other contrast" not in name, OTHER, "refused"),
        Check("noise", 0.5, 0.0, 0.4, "unusual" not in name, UNUSUAL, "flagged"),
    ]
    with (
        patch.object(estimate, "explain", lambda *_, **__: ESTIMATE),
        patch.object(gate, "check_source", check),
        patch.object(heads, "find_brain", find),
        patch.object(heads, "mean_brain", lambda *_: ()),
        patch.object(run, "Target", lambda *_: None),
        patch.object(gate, "check_result", lambda *_: []),
        patch.object(run, "bits_per_dim", lambda *_: 2.5),
    ):
        return harmonize.run_analysis(volumes, model_paths, settings, progress)


def save_model(path, **changes):
    """A model file with an untrained flow and the figures of three people who never were."""
    quantiles = np.linspace(0, 1, slices.QUANTILES)
    statistics = {
        "quantiles": quantiles,
        "person_quantiles": np.stack([quantiles**p for p in (0.9, 1.0, 1.1)]),
        "scale": [400.0, 500.0, 600.0],
        "bits_per_dim": np.full((3, 4), 2.5),
        "held_out": [0, 0, 1],
        "typical_radius": [[1.0, 0.1], [1.0, 0.1]],
    }
    arrays = {name: np.asarray(values, np.float32) for name, values in statistics.items()}
    arguments = {
        "flow": FLOW.flow(),
        "corrector": None,
        "statistics": {n: list(a.shape) for n, a in arrays.items()},
    }
    network = networks.build("mrflow", **arguments).eval()
    flow_file._fill(network, {name: torch.from_numpy(a) for name, a in arrays.items()})
    fields = dict(
        name="T1 of a toy scanner",
        version="1",
        architecture="mrflow",
        arguments=arguments,
        inputs=(models.Channel("MR image", "source", "", 0.0, 1.0),),
        outputs=(models.Channel("MR image of the target scanner", "harmonized", "", 0.0, 1.0),),
        dimensions=2,
        orientation="RAS",
        spacing_mm=(4.0, 4.0),
        size_multiple=4,
        trained_on=tuple(f"sub-{n}" for n in range(1, 9)),
        sources="none",
        licence="MIT",
        intended_use="Tests only. It expects brains without skull.",
        training={"bin_width": FLOW.bin_width},
        task=models.HARMONIZATION,
    )
    return models.save(path, network, models.Card(**{**fields, **changes}))


def launcher(folder: Path) -> str:
    """A program that starts the worker below in place of Python."""
    script = folder / "python-harmonize"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" "$@"\n')
    script.chmod(0o700)
    return str(script)


if __name__ == "__main__":
    sys.modules["harmonize_analyses"] = sys.modules["__main__"]
    jobs.ANALYSES.update(ANALYSIS)
    sys.exit(jobs.main(sys.argv[3:]))
