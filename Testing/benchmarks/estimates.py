"""The time that the panels announce before a first run on this computer, beside the time taken.

    python Testing/benchmarks/estimates.py [IdealInput Invariances MRFlowHarmonize]

Each module's sample at its default settings and at three others. "free" is the time on a computer
that does nothing else: of the announcement, with a pass of the convolution as this process's CPU
time; of the run, the CPU time of the thread that leads it, and a worker's start as usual.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import common
import numpy as np

sys.path.insert(0, str(common.ROOT / "Testing"))
os.environ.setdefault("NETINVERSION_DATA", str(common.DATA.parent))
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import host  # noqa: E402

host.start()

import slicer  # noqa: E402

from NetInversionLib import jobs  # noqa: E402
from NetInversionLib.core import (
    files,  # noqa: E402
    steps,  # noqa: E402
)
from NetInversionLib.jobs import speed  # noqa: E402
from NetInversionLib.panel import estimates  # noqa: E402

WITHIN = 2.0


def ideal_input(widget) -> dict:
    widget.logic.addSample()
    widget.initializeParameterNode()
    return {
        "default": {},
        "40 evaluations, no checks": {"maxEvaluations": 40, "knobs": False, "validity": False},
        "two starts": {"maxEvaluations": 40, "starts": "patient,zeros"},
        "displayed slice": {"region": type(widget._parameterNode.region).DISPLAYED},
    }


def invariances(widget) -> dict:
    widget.logic.addSample()
    regions = type(widget._parameterNode.region)
    return {
        "default": {},
        "noise": {"flow": False, "noise": True},
        "with a spectrum": {"spectrum": True},
        "with a point": {"lesionNode": middle_of(widget._parameterNode.lowDose)},
        "displayed slice, 40 samples": {"region": regions.DISPLAYED, "samples": 40, "projected": 8},
        "three slices, none projected": {"region": regions.WHOLE, "samples": 40, "projected": 0},
    }


def middle_of(node):
    """A point in the middle of a volume."""
    bounds = np.zeros(6)
    node.GetRASBounds(bounds)
    point = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Lesion")
    point.AddControlPoint(bounds.reshape(3, 2).mean(1))
    return point


def harmonize(widget) -> dict:
    import nilearn.datasets

    folder = Path(nilearn.datasets.__file__).parent / "data"
    widget.logic.addSample(files.load(folder / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"))
    widget.initializeParameterNode()
    modes = type(widget._parameterNode.mode)
    return {
        "default": {},
        "with baselines": {"baselines": True},
        "published": {"mode": modes.PUBLISHED, "iterations": 4},
        "published, axial": {"mode": modes.PUBLISHED, "coronal": False, "sagittal": False},
    }


MODULES = {"IdealInput": ideal_input, "Invariances": invariances, "MRFlowHarmonize": harmonize}


def estimate(widget) -> float:
    """Seconds that the panel announces, from its own words' source."""
    logic, said = widget.logic, {}
    logic.timeText = lambda seconds, known, device: said.setdefault("seconds", seconds) and ""
    widget.estimate()
    del logic.timeText
    return said["seconds"]


def request_of(widget):
    """What Apply would compute, with the volume that is chosen as the only one of its batch."""
    if hasattr(widget, "_waiting"):
        widget._waiting = [(0, widget._parameterNode.sourceVolume)]
    return steps.finish(widget.prepareRun().request)


def pass_on_a_free_computer() -> float:
    """Seconds of a pass of the convolution: the leading thread's CPU time."""
    import torch

    layer = torch.nn.Conv2d(speed.CHANNELS, speed.CHANNELS, 3, padding=1)
    size = (1, speed.CHANNELS, speed.SIZE, speed.SIZE)
    image = torch.randn(size, requires_grad=True)
    began = time.thread_time()
    for _ in range(50):
        speed._pass(layer, image)
    return (time.thread_time() - began) / 50


def measured(widget) -> tuple[float, float, float, float]:
    """(announced, taken, announced free, taken free), s."""
    start = speed.REFERENCE_START_S
    known = {"pass_s": speed.pass_seconds("cpu"), "start_s": start}
    free = {"pass_s": pass_on_a_free_computer(), "start_s": start}
    announced = []
    for machine in (known, free):
        estimates.MACHINE._measured = {"auto": machine, "cpu": machine}
        announced.append(estimate(widget))
    request = request_of(widget)
    wall, leading = time.perf_counter(), time.thread_time()
    jobs.run_here(request)
    return (
        announced[0],
        start + time.perf_counter() - wall,
        announced[1],
        start + time.thread_time() - leading,
    )


def main() -> None:
    lines = [
        "| module | settings | announced (s) | taken (s) | free: announced (s) | taken (s) | |"
    ]
    lines.append("|" + "---|" * 7)
    facts = {}
    print("\n".join(lines), flush=True)
    for name in sys.argv[1:] or MODULES:
        widget = host.open_module(name)
        for title, values in MODULES[name](widget).items():
            before = {key: getattr(widget._parameterNode, key) for key in values}
            widget.setValues(**values)
            found = measured(widget)
            widget.setValues(**before)
            right = max(found[2] / found[3], found[3] / found[2]) <= WITHIN
            figures = " | ".join(f"{seconds:.0f}" for seconds in found)
            verdict = "" if right else "off"
            lines.append(f"| {name} | {title} | {figures} | {verdict} |")
            print(lines[-1], flush=True)
            facts[f"{name}, {title}"] = found
    common.write("estimates", facts, lines)


if __name__ == "__main__":
    main()
