"""Fuzzes model files: python Testing/fuzz/models.py [--count 4000] [--first N] [--seed N].

Good files are the shipped ones as they are, the same as today's version writes them, and small ones
of every architecture. A mutant must be refused with a sentence, or be the same model to the last
bit; and take at most 5 s and, beside Python's own objects, twice its size of memory.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from common import Base, Reading, main

from NetInversionLib import models, networks

CHANNEL = models.Channel("CT", "ct", "HU", -1000.0, 2000.0)
SAMPLER = {
    "vae": {
        "latents": 4,
        "condition_channels": 0,
        "encoder": "small",
        "encoder_width": 2,
        "blocks": 2,
        "decoder_width": 2,
        "attention": False,
        "spatial": True,
    },
    "flows": {
        "output": {
            "channels": 4,
            "condition_channels": 1,
            "condition_size": 32,
            "blocks": 2,
            "hidden": 4,
            "depth": 1,
            "features": 4,
            "downs": 1,
            "embedder_width": 2,
            "spatial": True,
            "latent_size": 8,
        }
    },
}
FLOW = {"levels": 2, "steps": 2, "hidden": 4, "features": [4, 4]}
SMALL = {
    "unet": {"features": [3, 4]},
    "voxel_unet": {"features": [3, 4], "voxel_features": 4},
    "cnn10": {},
    "wganvgg": {},
    "redcnn": {"out_ch": 4},
    "conditional_flow": FLOW,
    "mrflow": {"flow": FLOW, "corrector": None, "statistics": {"quantiles": [9], "held_out": [3]}},
    "ct_sampler": SAMPLER,
    "ct_vae": {**SAMPLER["vae"], "latents": 6},
    "cinn": SAMPLER["flows"]["output"],
    "postprocessed_kspace": {"features": [2, 3]},
    "plug_and_play": {"width": 2, "depth": 2, "steps": 2},
    "unrolled": {"steps": 2, "shared": False, "width": 2, "depth": 2},
    "deep_cascade": {"cascades": 2, "width": 2, "depth": 2},
    "learned_inverse": {"side": 4, "width": 2, "depth": 2},
    "denoising_autoencoder": {"features": [2, 3]},
    "multi_scale_super_resolution": {"factor": 2, "width": 2, "depth": 2},
    "varnet": {"coils": 2, "cascades": 1, "width": 2, "depth": 2, "features": [2, 3]},
    "voxelmorph": {"features": [2, 3]},
}


def bases(folder: Path, small: bool) -> list[Base]:
    torch.manual_seed(0)
    files = []
    for architecture, arguments in SMALL.items():
        path = folder / f"small-{architecture}.safetensors"
        files.append(
            models.save(path, networks.build(architecture, **arguments), card(architecture))
        )
    for path in [] if small else sorted(models.model_folders()[-2].glob("*.safetensors")):
        model = models.load(path)
        again = folder / f"again-{path.name}"
        files += [path, models.save(again, model.network, model.card)]
    return [Base(path.name, path.read_bytes(), read(path)) for path in files]


def card(architecture: str) -> models.Card:
    return models.Card(
        name=f"small {architecture}",
        version="1",
        architecture=architecture,
        arguments=SMALL[architecture],
        inputs=channels(architecture, "in_channels"),
        outputs=channels(architecture, "out_channels"),
        dimensions=2,
        orientation="LPS",
        spacing_mm=(1.0, 3.0),
        size_multiple=1,
        trained_on=("nobody",),
        sources="random numbers",
        licence="MIT",
        intended_use="fuzzing",
        quality={"MAE (HU)": 1.5},
    )


def channels(architecture: str, which: str) -> tuple[models.Channel, ...]:
    """As many as the small network says that it has, or one."""
    count = getattr(networks.build(architecture, **SMALL[architecture]), which, 1)
    return tuple(replace(CHANNEL, role=f"ct_{n}") for n in range(count))


def read(path: Path) -> tuple[models.Card, dict[str, torch.Tensor]]:
    model = models.load(path)
    assert model.card == models.read_card(path)
    return model.card, model.network.state_dict()


def same(
    one: tuple[models.Card, dict[str, torch.Tensor]],
    other: tuple[models.Card, dict[str, torch.Tensor]],
) -> bool:
    return (
        one[0] == other[0]
        and one[1].keys() == other[1].keys()
        and all(torch.equal(one[1][name], other[1][name]) for name in one[1])
    )


READING = Reading(bases, read, same, (models.ModelError,), ".safetensors")

if __name__ == "__main__":
    sys.exit(main(__doc__.partition("\n")[0], 4000, READING, __file__))
