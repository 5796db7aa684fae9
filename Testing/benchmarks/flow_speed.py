"""Our flow beside Glows of the same size.

It measures the time of one encoding and decoding, and the memory of a training step by depth.

    python Testing/benchmarks/flow_speed.py [--size 160 192] [--levels 3] [--steps 8] [--hidden 32]
    [--threads 2]

The Glows come from normflows and FrEIA (`pip install -e ".[bench]"`); without them their rows are
left out. The published mode encodes and decodes once per slice and iteration under one condition,
so this is its time but for the similarity's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import common
import torch
from torch import Tensor, nn

from NetInversionLib.core import devices
from NetInversionLib.networks.flow import ConditionalFlow

DEPTHS = (4, 8, 16, 32)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, nargs=2, default=(160, 192))
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--batch", type=int, default=1, help="slices at once in the speed table")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--no-memory", action="store_true", help="leave the training step out")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory:
        print(
            json.dumps(
                training_step(options, int(options.memory[0]), options.memory[1] == "saving")
            )
        )
        return
    lines = [
        (
            f"{options.levels} levels of {options.steps} steps, {options.hidden} hidden channels,"
            f" {options.batch} slice(s) of {options.size[0]} x {options.size[1]},"
            f" {devices.describe()}"
        ),
        "",
    ]
    speed, more = compare_speed(options)
    memory = {} if options.no_memory else compare_memory(options)
    lines += [
        *more,
        "",
        "Training step (8 slices, Adam), memory above that before it:",
        "",
        "| steps per level | memory saving (MB) | plain (MB) | memory saving (s) | plain (s) |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {depth} | {a['megabytes']:.0f} | {b['megabytes']:.0f} | {a['seconds']:.2f} |"
        f" {b['seconds']:.2f} |"
        for depth, (a, b) in memory.items()
    ]
    common.write("flow_speed", {"milliseconds": speed, "training": memory}, lines)


def compare_speed(options) -> tuple[dict[str, dict], list[str]]:
    torch.manual_seed(0)
    x = torch.rand(options.batch, 1, *options.size)
    condition = (torch.rand(options.batch, 1, *options.size) < 0.1).float()
    runs, missing = {}, []
    with torch.no_grad():
        for name, make in {
            "ours, condition prepared once": ours,
            "ours, condition every time": ours_unprepared,
            "ours, unconditional": ours_unconditional,
            "normflows Glow": normflows_glow,
            "FrEIA Glow": freia_glow,
        }.items():
            try:
                runs[name], parameters = make(options, x, condition)
            except ImportError as error:
                missing.append(f'| {name} | {error}: pip install -e ".[bench]" | | | |')
                continue
            error = float((runs[name]() - x).abs().max())  # also the warm-up
            print(f"{name}: {parameters} parameters, round trip {error:.1e}", flush=True)
        wall, cpu = ({name: [] for name in runs} for _ in range(2))
        for _ in range(
            options.repeats
        ):  # in turn, so that a slow moment of the machine hits all of them
            for name, run in runs.items():
                began = time.perf_counter(), time.process_time()
                run()
                wall[name].append((time.perf_counter() - began[0]) * 1e3 / options.batch)
                cpu[name].append((time.process_time() - began[1]) * 1e3 / options.batch)
    facts = {
        name: {"best": min(wall[name]), "median": median(wall[name]), "cpu": median(cpu[name])}
        for name in runs
    }
    first = facts[next(iter(runs))]
    lines = [
        (
            "| encode + decode | ms per slice, best | median | CPU time, median | times ours: best"
            " / median / CPU time |"
        ),
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {f['best']:.1f} | {f['median']:.1f} | {f['cpu']:.1f} | "
        f"{' / '.join(format(f[k] / first[k], '.2f') for k in f)} |"
        for name, f in facts.items()
    ]
    return facts, lines + missing


def ours(options, x: Tensor, condition: Tensor) -> tuple[Callable, int]:
    flow = _ours(options, x, condition, True)
    prepared = flow.prepared(condition)
    return lambda: prepared.inverse(prepared(x)[0]), _count(flow)


def ours_unprepared(options, x: Tensor, condition: Tensor) -> tuple[Callable, int]:
    flow = _ours(options, x, condition, True)
    return lambda: flow.inverse(flow(x, condition)[0], condition), _count(flow)


def ours_unconditional(options, x: Tensor, condition: Tensor) -> tuple[Callable, int]:
    flow = _ours(options, x, condition, False)
    prepared = flow.prepared()
    return lambda: prepared.inverse(prepared(x)[0]), _count(flow)


def _ours(options, x: Tensor, condition: Tensor, conditional: bool) -> ConditionalFlow:
    features = [16 * 2**n for n in range(options.levels)]
    flow = ConditionalFlow(
        levels=options.levels,
        steps=options.steps,
        hidden=options.hidden,
        features=features,
        conditional=conditional,
    )
    flow.initialise(x, condition)
    return flow.eval()


def normflows_glow(options, x: Tensor, condition: Tensor) -> tuple[Callable, int]:
    import normflows as nf

    flows, merges, bases = [], [], []
    for level in reversed(range(options.levels)):  # it lists the coarsest level first
        channels, size = 4 * 2**level, [n >> level + 1 for n in options.size]
        flows.append(
            [nf.flows.GlowBlock(channels, options.hidden) for _ in range(options.steps)]
            + [nf.flows.Squeeze()]
        )
        last = level == options.levels - 1
        bases.append(nf.distributions.DiagGaussian((channels if last else channels // 2, *size)))
        merges += [] if last else [nf.flows.Merge()]
    glow = nf.MultiscaleFlow(bases, flows, merges)
    return lambda: glow.forward_and_log_det(glow.inverse_and_log_det(x)[0])[0], _count(glow)


def freia_glow(options, x: Tensor, condition: Tensor) -> tuple[Callable, int]:
    from FrEIA import framework, modules

    def network(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(inputs, options.hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(options.hidden, options.hidden, 1),
            nn.ReLU(),
            nn.Conv2d(options.hidden, outputs, 3, padding=1),
        )

    nodes = [framework.InputNode(1, *options.size)]
    outputs = []
    # ActNorm, 1 x 1 convolution (a rotation that is not learned) and coupling in one
    step = {"subnet_constructor": network, "permute_soft": True}
    for level in range(options.levels):
        nodes.append(framework.Node(nodes[-1], modules.IRevNetDownsampling, {}))
        for _ in range(options.steps):
            nodes.append(framework.Node(nodes[-1], modules.AllInOneBlock, step))
        if level < options.levels - 1:
            nodes.append(framework.Node(nodes[-1], modules.Split, {}))
            outputs.append(framework.OutputNode(nodes[-1].out1))
            nodes.append(
                framework.Node(
                    nodes[-1].out0, modules.Reshape, {"output_dims": _half(level, options.size)}
                )
            )
    outputs.append(framework.OutputNode(nodes[-1]))
    glow = framework.GraphINN(nodes + outputs)
    return lambda: glow(glow(x)[0], rev=True)[0], _count(glow)


def _half(level: int, size) -> tuple[int, ...]:
    return (2 * 2**level, *(n >> level + 1 for n in size))


def _count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def compare_memory(options) -> dict[int, tuple[dict, dict]]:
    found = {}
    for depth in DEPTHS:
        found[depth] = tuple(
            _in_a_process_of_its_own(options, depth, kind) for kind in ("saving", "plain")
        )
        print(f"depth {depth}: {found[depth]}", flush=True)
    return found


def _in_a_process_of_its_own(options, depth: int, kind: str) -> dict:
    """Peak memory never falls."""
    command = [
        sys.executable,
        __file__,
        "--memory",
        str(depth),
        kind,
        "--threads",
        str(options.threads),
        "--levels",
        str(options.levels),
        "--hidden",
        str(options.hidden),
        "--size",
        *map(str, options.size),
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def training_step(options, depth: int, saving: bool) -> dict[str, float]:
    torch.manual_seed(0)
    x = torch.rand(8, 1, *options.size)
    condition = (torch.rand(8, 1, *options.size) < 0.1).float()
    flow = ConditionalFlow(
        levels=options.levels,
        steps=depth,
        hidden=options.hidden,
        memory_saving=saving,
        features=[16 * 2**n for n in range(options.levels)],
    )
    optimiser = torch.optim.Adam(flow.parameters())
    flow.initialise(x[:1], condition[:1])
    before, began = devices.peak_memory(), time.perf_counter()
    for _ in range(2):
        optimiser.zero_grad()
        (-flow.log_prob(x, condition).mean()).backward()
        optimiser.step()
    return {
        "megabytes": (devices.peak_memory() - before) / 1e6,
        "seconds": (time.perf_counter() - began) / 2,
    }


if __name__ == "__main__":
    main()
