"""What the shipped denoisers cannot see, and proof of it.

It is tried on a person that none of the models was trained on.

    python Testing/benchmarks/invariance_proof.py [--samples 32] [--projected 16] [--denoisers cnn10
    wganvgg]

Both denoisers, their preset layers: proposals drawn by the shipped autoencoder and flows, in a
square of a simulated low-dose chest CT. Every accepted sample is read again from the saved volumes
and proven anew: in float64, on the whole slice, by code that shares nothing with the projection.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

import common
import numpy as np
import torch
from torch import Tensor, nn

from NetInversionLib import models
from NetInversionLib.core import devices, files, volumes
from NetInversionLib.core.results import Result
from NetInversionLib.core.volumes import Volume
from NetInversionLib.invariances import Settings, invariances, low_dose

MODELS = common.ROOT / "Resources" / "Models"
# Modules whose outputs are the preset layers; "" is the network itself.
PRESETS = {
    "cnn10": {"1": "layers.0", "3": "layers.2", "output": ""},
    "wganvgg": {"1": "net.0", "7": "net.6", "13": "net.12", "output": ""},
}
# A hidden layer's change is told relative to its norm over the region and so many voxels around:
# half of the sum of (kernel - 1) over the convolutions, which is how far a voxel can move the
# output, and one more.
REACH = {"cnn10": 8, "wganvgg": 9}
NOISE_HU = 40.0
SIZE = 128


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=32, help="drawn for each layer")
    parser.add_argument(
        "--projected", type=int, default=16, help="moved onto the level set for each layer"
    )
    parser.add_argument("--denoisers", nargs="+", default=list(PRESETS), choices=PRESETS)
    options = parser.parse_args()
    chest, region = low_dose_chest()
    rows = []
    for name in options.denoisers:
        denoiser, sampler = (
            models.load(MODELS / f"ct-{kind}-{name}.safetensors")
            for kind in ("denoiser", "invariances")
        )
        for layer, module in PRESETS[name].items():
            settings = Settings(
                region=region,
                layer=layer,
                proposals=("cinn",),
                samples=options.samples,
                projected=options.projected,
                shown=options.projected,
                components=0,
            )
            result = invariances(
                {"low_dose": chest}, {"denoiser": denoiser, "sampler": sampler}, settings
            )
            rows.append(
                row(
                    name, layer, result, proven_again(result, denoiser, module, region, REACH[name])
                )
            )
            print(rows[-1], flush=True)
    columns = list(rows[0])
    lines = [
        (
            f"Chest (held out), {NOISE_HU:g} HU of simulated noise added, {SIZE} x {SIZE} voxels,"
            f" {options.samples} samples and {options.projected} projected for each layer,"
            f" {devices.describe()}"
        ),
        "",
        "| " + " | ".join(columns) + " |",
        "|---" * len(columns) + "|",
    ]
    lines += [
        "| " + " | ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in r.values()) + " |"
        for r in rows
    ]
    proven = sum(r["proven again"] for r in rows)
    accepted, tried = sum(r["accepted"] for r in rows), options.projected * len(rows)
    lines += [
        "",
        (
            f"{accepted} of {tried} accepted ({100 * accepted / tried:.0f} %; at least 90 %"
            f" wanted); {proven} of {accepted} proven again (all of them wanted)."
        ),
    ]
    common.write("invariance_proof", {"rows": rows}, lines)


def low_dose_chest(slices: int = 1, noise_hu: float = NOISE_HU) -> tuple[Volume, tuple[int, ...]]:
    """Middle slices of the chest with simulated noise, and a square of the first of them.

    The square lies around the body's middle.
    """
    chest = volumes.reorient(files.load(common.DATA / "chest_b40f.nii.gz"), "LPS")
    first = (chest.shape[0] - slices) // 2
    chest = volumes.crop(chest, (first, first + slices, 0, chest.shape[1], 0, chest.shape[2]))
    hu = torch.from_numpy(np.ascontiguousarray(chest.float32()[:1])).clamp(-1024, 3071)
    settings = low_dose.exposed(hu, chest.spacing_mm[:2], low_dose.LowDoseSettings(), noise_hu)
    middle = [int(round(c)) for c in np.argwhere(chest.array[0] > -500).mean(0)]
    j, i = (min(max(0, c - SIZE // 2), n - SIZE) for c, n in zip(middle, chest.shape[1:]))
    return low_dose.simulate_low_dose(chest, settings), (0, 1, j, j + SIZE, i, i + SIZE)


def proven_again(
    result: Result, denoiser: models.Model, module: str, region: tuple[int, ...], reach: int
) -> list[bool]:
    """Whether each accepted sample, saved and read again, lies within epsilon."""
    network = models.load(denoiser.path).network.double()
    with tempfile.TemporaryDirectory() as folder:
        kept = {}
        for key in result.volumes:
            if key == "patient" or key.startswith("sample "):
                files.save(result.volumes[key], Path(folder) / f"{key}.nrrd")
                kept[key] = normalised(files.load(Path(folder) / f"{key}.nrrd"), denoiser)
    patient = kept.pop("patient")
    wanted, found = output_of(network, module, patient), []
    area = math.prod(b - a for a, b in zip(region[2::2], region[3::2]))
    channel = denoiser.card.outputs[0]
    for sample in kept.values():
        change = output_of(network, module, sample) - wanted
        if module:
            rows, columns = (
                slice(max(0, a - reach), b + reach) for a, b in zip(region[2::2], region[3::2])
            )
            measure = float(change.norm() / wanted[..., rows, columns].norm())
        else:
            measure = float(change.norm()) / math.sqrt(area) * (channel.high - channel.low)
        found.append(measure <= result.facts["epsilon"])
    return found


def normalised(volume: Volume, model: models.Model) -> Tensor:
    channel = model.card.inputs[0]
    return (torch.from_numpy(volume.array[:1].astype(np.float64))[None] - channel.low) / (
        channel.high - channel.low
    )


def output_of(network: nn.Module, module: str, image: Tensor) -> Tensor:
    """What a module gives for the whole slice."""
    kept = []
    handle = network.get_submodule(module).register_forward_hook(
        lambda m, inputs, output: kept.append(output.clone())
    )
    with torch.no_grad():
        network(image)
    handle.remove()
    return kept[0]


def row(name: str, layer: str, result: Result, proven: list[bool]) -> dict:
    """A line of the report; every figure is of table "proof", the last is ours."""
    proof = {heading: values[0] for heading, values in result.tables["proof"].columns.items()}

    def of(words: str):
        return next(value for heading, value in proof.items() if words in heading)

    return {
        "denoiser": name,
        "layer": layer,
        "epsilon": result.facts["epsilon"],
        "units": result.facts["epsilon_units"],
        "autoencoder's error (HU)": of("autoencoder's error"),
        "autoencoder's image": of("autoencoder's image"),
        "raw samples": of("unproven samples"),
        "projected": of("projected samples"),
        "other places": of("reference: other places"),
        "fresh noise": of("reference: fresh noise"),
        "input change, raw (HU)": of("input change before"),
        "proven (HU)": of("input change after"),
        "survived (%)": of("survived"),
        "accepted": result.facts["accepted"],
        "proven again": sum(proven),
    }


if __name__ == "__main__":
    main()
