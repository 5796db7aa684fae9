"""How long sampling invariances takes.

It is timed beside the straightforward loop, and with the shipped models on a whole CT slice.

    python Testing/benchmarks/invariance_speed.py [--only loop models slices]

loop: networks of the published size with random weights. The loop takes one sample at a time, finds
encoder, denoised image and H anew for each, and keeps all. models: 250 raw samples with output
check on 512 x 512 voxels, 16 projected ones on 128 x 128; peak memory of 250 and of 10. slices:
one, two and four.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import common
import torch
from cinn_speed import compared, ratios
from invariance_proof import MODELS, low_dose_chest

from NetInversionLib import models
from NetInversionLib.core import devices, volumes
from NetInversionLib.invariances import Settings, invariances
from NetInversionLib.networks.cinn import CINN
from NetInversionLib.networks.denoisers import CNN10
from NetInversionLib.networks.vae import VAE

WANTED, SECONDS, MEMORY = 1.6, 300, 1.25


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--samples", type=int, default=16, help="of the loop")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--run", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.run:
        print(json.dumps(run(options.device, **options.run)))
        return
    facts, lines = (
        {},
        [f"{devices.describe(devices.choose(options.device))}, {options.threads} threads", ""],
    )
    for part in options.only:
        PARTS[part](options, facts, lines)
    common.write("invariance_speed", facts, lines)


@torch.inference_mode()
def loop(options, facts: dict, lines: list[str]) -> None:
    """Raw samples of one patch with their denoised images, ours and one at a time."""
    device = devices.choose(options.device)
    torch.manual_seed(0)
    vae, flow, f = (
        VAE().to(device).eval(),
        CINN(256, blocks=12, features=256).to(device).eval(),
        CNN10().to(device).eval(),
    )
    x, v = (
        torch.randn(1, 1, 128, 128, device=device),
        torch.randn(options.samples, 256, device=device),
    )

    def one_at_a_time() -> torch.Tensor:
        kept = []
        for one in v:
            z = f(x)
            vae.encode(x, z)
            sample = vae.decode(flow.inverse(one[None], flow.embed(z)), z)
            kept.append(torch.cat([sample, f(sample)]))
        return torch.stack(kept, 1)

    def ours() -> torch.Tensor:
        z = f(x)
        samples = vae.decode(flow.prepared(flow.embed(z)).inverse(v), z)
        return torch.stack([samples, f(samples)])

    looped = one_at_a_time()
    vae.fold()
    difference = float((ours() - looped).abs().max() / looped.abs().max())
    # Timed apart: folding changes the network in place.
    mine = compared(options, {"ours": ours})["ours"]
    vae = VAE().to(device).eval()
    theirs = compared(options, {"loop": one_at_a_time})["loop"]
    best, middle, _ = ratios({"ours": mine, "loop": theirs})[1]
    facts["loop"] = {"ours": mine, "loop": theirs, "difference": difference}
    each = [times["best"] / options.samples for times in (theirs, mine)]
    lines += [
        (
            f"Published size, {options.samples} samples of a patch: the loop {each[0]:.3f} s a"
            f" sample, ours {each[1]:.3f} s: {best:.2f} times faster (median {middle:.2f}; {WANTED}"
            f" wanted on a CPU); outputs differ by {difference:.0e} of the largest"
        ),
        "",
    ]


def pair(name: str) -> dict[str, models.Model]:
    return {
        kind: models.load(MODELS / f"ct-{file}-{name}.safetensors")
        for kind, file in (("denoiser", "denoiser"), ("sampler", "invariances"))
    }


def apart(options, **settings) -> dict:
    """``run`` in a process of its own, since peak memory never falls."""
    command = [
        sys.executable,
        __file__,
        "--device",
        options.device,
        "--threads",
        str(options.threads),
        "--run",
        json.dumps(settings),
    ]
    return json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[
            -1
        ]
    )


def run(device: str, name: str, slices: int = 1, square: bool = False, **settings) -> dict:
    """One run with the shipped models on chest slices or a square: seconds and peak memory."""
    chest, region = low_dose_chest(slices)
    loaded = pair(name)
    layer = "output" if name == "cnn10" else "13"
    chosen = Settings(
        layer=layer,
        proposals=("cinn",),
        shown=0,
        components=0,
        device=device,
        region=region if square else None,
        **settings,
    )
    began = time.perf_counter()
    result = invariances({"low_dose": chest}, loaded, chosen)
    return {
        "seconds": time.perf_counter() - began,
        "peak_mb": devices.peak_memory() / 1e6,
        "accepted": result.facts["accepted"],
        "size": list(volumes.check(chest).shape),
    }


def shipped(options, facts: dict, lines: list[str]) -> None:
    """The shipped models on one slice."""
    lines += ["| shipped models | seconds | peak memory (MB) | accepted |", "|---|---|---|---|"]
    for name in ("cnn10", "wganvgg"):
        rows = {
            f"{name}: 250 raw on 512 x 512": apart(options, name=name, samples=250, projected=0),
            f"{name}: 10 raw on 512 x 512": apart(options, name=name, samples=10, projected=0),
            f"{name}: 16 projected on 128 x 128": apart(
                options, name=name, samples=16, projected=16, square=True
            ),
        }
        lines += [
            f"| {title} | {r['seconds']:.0f} | {r['peak_mb']:.0f} | {r['accepted']} |"
            for title, r in rows.items()
        ]
        many, few = (r["peak_mb"] for r in list(rows.values())[:2])
        lines.append(
            f"| {name}: memory of 250 over that of 10: {many / few:.2f} (at most {MEMORY});"
            f" {SECONDS} s allowed | | | |"
        )
        facts[name] = rows
    lines.append("")


def slices(options, facts: dict, lines: list[str]) -> None:
    """Twice the slices: twice the time, the same memory."""
    rows = {n: apart(options, name="cnn10", slices=n, samples=32, projected=0) for n in (1, 2, 4)}
    lines += [
        "| slices of 512 x 512, 32 raw samples each | seconds | peak memory (MB) |",
        "|---|---|---|",
    ]
    lines += [f"| {n} | {r['seconds']:.0f} | {r['peak_mb']:.0f} |" for n, r in rows.items()]
    facts["slices"] = rows


PARTS = {"loop": loop, "models": shipped, "slices": slices}

if __name__ == "__main__":
    main()
