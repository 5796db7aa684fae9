"""Our conditional flow on latents alone: beside FrEIA, and beside the straightforward loop.

FrEIA has the same layers.

    python Testing/benchmarks/cinn_speed.py [--samples 250] [--threads 2] [--blocks 12] [--hidden
    1024]

FrEIA is needed here only (`pip install -e ".[bench]"`); without it its rows are left out. The loop
takes one sample at a time and embeds the condition anew for each. The defaults are the published
size.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import common
import torch
from torch import Tensor, nn

from NetInversionLib.core import devices
from NetInversionLib.networks.cinn import CINN

CHANNELS, FEATURES, DEPTH = 256, 256, 2
ALLOWED, WANTED = 1.05, 15
OURS, FREIA = "ours", "FrEIA"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=250)
    parser.add_argument(
        "--loop-samples", type=int, default=20, help="so many in the straightforward loop"
    )
    parser.add_argument("--batch", type=int, default=32, help="of a training step")
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = devices.choose(options.device)
    torch.manual_seed(0)
    flow = CINN(
        CHANNELS, blocks=options.blocks, hidden=options.hidden, depth=DEPTH, features=FEATURES
    ).to(device)
    for _, last in _last_layers(flow):
        nn.init.normal_(last.weight, std=0.01)
    flow.eval()
    z, v = (
        torch.randn(1, 1, 128, 128, device=device),
        torch.randn(options.samples, CHANNELS, device=device),
    )

    facts, lines = (
        {},
        [
            (
                f"{options.blocks} blocks, {CHANNELS} channels, {options.hidden} hidden,"
                f" {_count(flow) / 1e6:.1f} million weights, {devices.describe(device)}"
            ),
            "",
            (
                "| what | best (s) | median (s) | CPU time, median (s) | times ours: best / median"
                " / CPU time |"
            ),
            "|---|---|---|---|---|",
        ],
    )
    loop(options, flow, z, v, facts, lines)
    try:
        freia = freia_flow(options).to(device)
    except ImportError as error:
        lines += [
            "",
            f'FrEIA was left out ({error}). To compare with it: pip install -e ".[bench]"',
        ]
    else:
        with_freia(options, flow, freia, z, v, facts, lines)
    common.write("cinn_speed", facts, lines)


@torch.inference_mode()
def loop(options, flow: CINN, z: Tensor, v: Tensor, facts: dict, lines: list[str]) -> None:
    """Samples under one condition: seconds per sample.

    They are drawn shared and in one batch, or one at a time with everything anew.
    """
    few = v[: options.loop_samples]
    runs = {
        "ours, H and its part of the layers once": lambda: flow.prepared(flow.embed(z)).inverse(v),
        "straightforward loop": lambda: torch.cat(
            [flow.inverse(one[None], flow.embed(z)) for one in few]
        ),
    }
    outputs = [run()[: len(few)] for run in runs.values()]
    difference = float((outputs[0] - outputs[1]).abs().max() / outputs[0].abs().max())
    found = compared(options, runs, dict(zip(runs, (len(v), len(few)))))
    facts["loop"] = {**found, "difference": difference, "speed-up": ratios(found)[-1]}
    lines += rows("a sample", found)
    best, middle, cpu = ratios(found)[-1]
    verdict = "reached" if best >= WANTED else "missed"
    print(
        f"loop: {best:.1f} times, largest difference {difference:.1e} of the largest value",
        flush=True,
    )
    lines.append(
        f"| target: the loop takes {WANTED} times as long: {verdict} ({best:.1f} / {middle:.1f} /"
        f" {cpu:.1f}); outputs differ by {difference:.0e} of the largest value | | | | |"
    )


def with_freia(
    options, flow: CINN, freia: nn.Module, z: Tensor, v: Tensor, facts: dict, lines: list[str]
) -> None:
    with torch.no_grad():
        h = flow.embed(z)
    many = h.expand(len(v), -1)

    def freia_samples() -> Tensor:
        return freia(v, [many], rev=True, jac=False)[0]

    with torch.inference_mode():
        weights = [
            _count(flow) - _count(flow.embedder),
            sum(p.numel() for p in freia.parameters() if p.requires_grad),
        ]
        assert weights[0] == weights[1], f"not the same layers: {weights}"
        back = float((freia(freia_samples(), [many])[0] - v).abs().max())
        facts["sampling"] = compared(
            options, {OURS: lambda: flow.prepared(h).inverse(v), FREIA: freia_samples}
        )
    print(f"FrEIA's round trip {back:.1e}; sampling {ratios(facts['sampling'])[-1]}", flush=True)
    lines += rows(f"{len(v)} samples of one condition", facts["sampling"])

    x, each = (
        torch.randn(options.batch, CHANNELS, device=v.device),
        torch.randn(options.batch, FEATURES, device=v.device),
    )

    def step(network: nn.Module, log_prob: Callable[[], Tensor]) -> Callable[[], None]:
        def run() -> None:
            network.zero_grad()
            (-log_prob().mean()).backward()

        return run

    def freia_log_prob() -> Tensor:
        noise, log_det = freia(x, [each])
        return log_det - 0.5 * noise.square().sum(1)

    flow.requires_grad_(True)
    facts["training"] = compared(
        options,
        {OURS: step(flow, lambda: flow.log_prob(x, each)), FREIA: step(freia, freia_log_prob)},
    )
    lines += rows(f"loss and gradient of {options.batch} items", facts["training"])
    for name in ("sampling", "training"):
        share = (
            1 / ratios(facts[name])[-1][0]
        )  # of the best times: a busy machine spoils the others first
        facts[name]["ours over FrEIA"] = share
        lines.append(
            f"| {name}: ours takes {share:.2f} times FrEIA's time (best), at most {ALLOWED}"
            f" allowed: {'kept' if share <= ALLOWED else 'missed'} | | | | |"
        )


def freia_flow(options) -> nn.Module:
    """FrEIA's ActNorm, double affine coupling and fixed permutation, with networks like ours.

    Ours concatenates nothing.
    """
    from FrEIA import framework, modules

    def network(inputs: int, outputs: int) -> nn.Module:
        layers: list[nn.Module] = []
        widths = [inputs, *[options.hidden] * (DEPTH + 1)]
        for i, o in zip(widths, widths[1:]):
            layers += [nn.Linear(i, o), nn.LeakyReLU(inplace=True)]
        last = nn.Linear(options.hidden, outputs)
        nn.init.normal_(last.weight, std=0.01)
        return nn.Sequential(*layers, last)

    flow = framework.SequenceINN(CHANNELS)
    for _ in range(options.blocks):
        flow.append(modules.ActNorm)
        flow.append(
            modules.RNVPCouplingBlock,
            cond=0,
            cond_shape=(FEATURES,),
            subnet_constructor=network,
            clamp=1.0,
            clamp_activation="TANH",
        )
        flow.append(modules.PermuteRandom)
    with torch.no_grad():  # ActNorm takes its first batch
        flow(torch.randn(64, CHANNELS), [torch.randn(64, FEATURES)])
    return flow


def compared(
    options, runs: dict[str, Callable], items: dict[str, int] | None = None
) -> dict[str, dict[str, float]]:
    """Seconds of each, by item where ``items`` says how many there are.

    They run in turn, so that a slow moment hits all of them.
    """
    wall, cpu = ({name: [] for name in runs} for _ in range(2))
    for repeat in range(options.repeats + 1):
        for name, run in runs.items():
            began = time.perf_counter(), time.process_time()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds = time.perf_counter() - began[0], time.process_time() - began[1]
            if repeat:  # the first one warms up
                for kept, value in zip((wall, cpu), seconds):
                    kept[name].append(value / (items[name] if items else 1))
    return {
        name: {"best": min(wall[name]), "median": median(wall[name]), "cpu": median(cpu[name])}
        for name in runs
    }


def ratios(found: dict[str, dict[str, float]]) -> list[tuple[float, ...]]:
    """Each one's times over the first one's."""
    first = next(iter(found.values()))
    return [tuple(times[kind] / first[kind] for kind in first) for times in found.values()]


def rows(what: str, found: dict[str, dict[str, float]]) -> list[str]:
    return [
        f"| {what}: {name} | "
        + " | ".join(f"{seconds:.4f}" for seconds in times.values())
        + f" | {' / '.join(format(ratio, '.2f') for ratio in times_ours)} |"
        for (name, times), times_ours in zip(found.items(), ratios(found))
    ]


def _last_layers(flow: CINN):
    return [
        (name, module)
        for name, module in flow.named_modules()
        if name.startswith("blocks") and name.endswith(".last")
    ]


def _count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


if __name__ == "__main__":
    main()
