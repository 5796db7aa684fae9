"""The file that holds a flow and what was measured of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .. import models, networks
from ..core.progress import Progress
from ..harmonize.slices import figures
from ..networks.flow import ConditionalFlow
from ..networks.mrflow import MRFlow
from . import naming
from .loop import plain

if TYPE_CHECKING:
    from ..harmonize.slices import SliceCase
    from .flow import FlowSettings


INTENDED_USE = (
    "Research only, not for diagnosis or treatment. It describes T1-weighted brain images of the"
    " people and the scanner it was trained on; other contrasts, body parts and pathology are"
    " outside of what it knows."
)


# The model file -----------------------------------------------------------------------------------


def write_model(
    output: Path | str,
    flow: ConditionalFlow,
    training: list[SliceCase],
    held_out: list[SliceCase],
    settings: FlowSettings,
    card: dict,
    progress: Progress | None = None,
) -> Path:
    """Measure everybody and write flow and statistics as one model file."""
    statistics = measure(flow, training, held_out, settings.bin_width, progress)
    shapes = {name: list(values.shape) for name, values in statistics.items()}
    network = networks.build("mrflow", flow=settings.flow(), corrector=None, statistics=shapes)
    network.flow.load_state_dict(flow.state_dict())
    _fill(network, statistics)
    made = make_card(training, held_out, settings, network, shapes)
    return naming.save(output, network, made, card)


def measure(
    flow: ConditionalFlow,
    training: list[SliceCase],
    held_out: list[SliceCase],
    bin_width: float,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """The statistics that the module's docstring lists.

    Args:
        flow: Trained.
        training: People whom it was trained on.
        held_out: People whom it was not.
        bin_width: Of the bins, scaled units.
        progress: Receives progress.

    Returns:
        By name, float32, of the shape that the module's docstring says.
    """
    progress = progress or Progress()
    everybody = sorted([*training, *held_out], key=lambda c: c.name)
    bits: list[np.ndarray] = []
    rms: list[np.ndarray] = []
    for number, case in enumerate(everybody):
        progress.report(1.0, f"figures of {case.name}, {number + 1} of {len(everybody)}")
        for kept, found in zip((bits, rms), figures(flow, case, bin_width)):
            kept.append(found)
    apart = {c.name for c in held_out}
    new = np.array([c.name in apart for c in everybody])
    judged = np.array(rms)[new if new.any() else ~new]
    training = sorted(training, key=lambda c: c.name)
    people = np.stack([c.quantiles for c in training])
    found = {
        "quantiles": people.mean(0),
        "person_quantiles": people,
        "scale": [c.scale for c in training],
        "histogram": np.mean([c.histogram for c in training], 0),
        "bits_per_dim": np.array(bits),
        "latent_rms": np.array(rms),
        "held_out": new,
        "typical_radius": np.stack([judged.mean(0), judged.std(0)], 1),
    }
    return {
        name: torch.from_numpy(np.asarray(values, np.float32)) for name, values in found.items()
    }


def make_card(
    training: list[SliceCase],
    held_out: list[SliceCase],
    settings: FlowSettings,
    network: MRFlow,
    shapes: dict,
) -> models.Card:
    """The card of a flow; ``train``'s caller may replace fields."""
    bits = network.needed("bits_per_dim")[:, 3]
    new = network.needed("held_out") > 0
    quality = {"training people, bits/dim inside the mask": round(float(bits[~new].mean()), 4)}
    if new.any():
        quality["held-out people, bits/dim inside the mask"] = round(float(bits[new].mean()), 4)
    values = {k: v if type(v) in (int, float) else str(v) for k, v in plain(settings).items()}
    return models.Card(
        name="MR of one scanner",
        version="1",
        architecture="mrflow",
        arguments={"flow": settings.flow(), "corrector": None, "statistics": shapes},
        inputs=(
            models.Channel(
                "MR image, divided by its 99.5th percentile inside the mask", "source", "", 0.0, 1.0
            ),
        ),
        outputs=(
            models.Channel(
                "MR image as the target scanner shows it, scaled", "harmonized", "", 0.0, 1.0
            ),
        ),
        dimensions=2,
        orientation="RAS",
        spacing_mm=(settings.spacing_mm, settings.spacing_mm),
        size_multiple=2**settings.levels,
        trained_on=tuple(sorted(c.name for c in training)),
        sources="MR scans of the person who trained it",
        licence="MIT",
        intended_use=INTENDED_USE,
        quality=quality,
        training={**values, "held out": ", ".join(sorted(c.name for c in held_out)) or "nobody"},
        task=models.HARMONIZATION,
    )


def what_is_missing(model: Path | str) -> str:
    """A sentence on the corrector, if a flow's file has none yet; "" if it has one.

    Raises:
        models.ModelError: The file cannot be used, or holds no flow of a scanner.
    """
    card = models.read_card(model)
    if card.architecture != "mrflow":
        raise models.ModelError(
            f"{Path(model).name} holds no flow of a scanner's images, but {card.name!r}: name a"
            " file made by 'train flow'"
        )
    if card.arguments.get("corrector"):
        return ""
    return (
        f"Warning: {Path(model).name} has no corrector yet, which the anatomy-safe mode needs:"
        f" netinversion train corrector FOLDER --model {model} --output FILE"
    )


def combine(
    flow_file: Path | str,
    output: Path | str,
    corrector: torch.nn.Module | None = None,
    arguments: dict | None = None,
    statistics: dict[str, Tensor] | None = None,
    quality: dict | None = None,
    training: dict | None = None,
    chosen: dict | None = None,
) -> Path:
    """Write a model file with the flow of another, and other parts besides.

    The parts are a corrector, statistics or figures.

    Args:
        corrector, arguments: The corrector and the JSON arguments that build it; None keeps the one
            in ``flow_file``.
        statistics: Added to those of ``flow_file``, in the place of any that has the same name.
        quality, training: Added to the card's facts.
        chosen: Fields of the card that the user chose, such as its name.

    Raises:
        models.ModelError: ``flow_file`` cannot be used, or the card that comes out is not valid.
    """
    old = models.load(flow_file)
    everything = {**dict(old.network.statistics.named_buffers()), **(statistics or {})}
    if corrector is None:
        corrector, arguments = old.network.corrector, old.card.arguments["corrector"]
    built = {
        **old.card.arguments,
        "corrector": arguments,
        "statistics": {n: list(v.shape) for n, v in everything.items()},
    }
    network = networks.build("mrflow", **built)
    network.flow.load_state_dict(old.network.flow.state_dict())
    if corrector is not None:
        network.corrector.load_state_dict(corrector.state_dict())
    _fill(network, everything)
    card = replace(
        old.card,
        arguments=built,
        quality={**old.card.quality, **(quality or {})},
        training={**old.card.training, **(training or {})},
    )
    what = "gate" if statistics else "corrector"
    return models.save(
        output, network, replace(card, **naming.changed(network, old.card, what, chosen))
    )


def _fill(network: MRFlow, statistics: dict[str, Tensor]) -> None:
    for name, values in statistics.items():
        network.needed(name).copy_(values)
