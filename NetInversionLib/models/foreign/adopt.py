"""A network of the user's own becomes a ``Model``: probed, its scaling found, adapted."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.volumes import Volume
from ..card import DENOISING, ModelError
from ..model import Model
from .adapted import Adapted, Called, Form, by_slice
from .cards import card_of
from .description import Description, Image, channels, described
from .found import Probe
from .probe import probe, told_by
from .scaling import found_scaling

MOST_REACH = 16
"""Slices on each side that a volume's network is shown when it is asked about one slice."""


def adopt(
    network: nn.Module | Callable[..., Any],
    description: Description | dict | None = None,
    inputs: list[Volume] | None = None,
    targets: list[Volume] | None = None,
    *,
    log: Callable[[str], None] = lambda message: None,
    source: tuple[Path, str] | None = None,
    found: Probe | None = None,
) -> Model:
    """A network of the user's own as a model that every question takes.

    Args:
        network: Differentiable, of tensors (N, C, *space), or of one tensor an image. It stays as
            it is: a copy is put into eval mode and frozen.
        description: What is known of it; the rest is probed and said.
        inputs: The volumes it is to run on, [k, j, i]: how many there are, and what scaling fits
            them, is read off where the description does not tell.
        targets: What it should give, likewise.
        log: Receives what was found, a sentence at a time.
        source: File and SHA-256, where it comes from one.
        found: What ``probe`` found, where that was kept.

    Raises:
        ModelError: The network does not run, its gradients are wrong, or the description does not
            fit it; says which field.
    """
    module = prepared(network, log)
    told, found, form = completed(module, described(description), inputs, targets, log, found)
    taken, given = channels(told)
    adapted = Adapted(module, form, taken, given)
    path, sha256 = source or (
        Path(f"{_name(network, told)} (from the console)"),
        weights_hash(module),
    )
    return Model(adapted, card_of(told, found, taken, given, _name(network, told)), path, sha256)


def completed(
    module: nn.Module,
    told: Description,
    inputs: list[Volume] | None,
    targets: list[Volume] | None,
    log: Callable[[str], None],
    found: Probe | None = None,
) -> tuple[Description, Probe, Form]:
    """A description in which nothing is left out, what the probe found, and the network's form.

    Args:
        module: From ``prepared``.
        told: What the user says.
        inputs, targets: As for ``adopt``.
        log: Receives what was found.
        found: What ``probe`` found, where that was kept.

    Raises:
        ModelError: As ``adopt``.
    """
    told = _with_images(told, inputs, targets)
    if found is None:
        found = probe(module, told)
    for sentence in found.sentences():
        log(sentence)
    if isinstance(module, Called):
        log("A function has no modes: see to it that dropout and the like are off in it.")
    told = _fitted(told_by(found, told), found, log)
    form = form_of(told, found)
    return found_scaling(module, form, told, inputs, targets, log), found, form


def adopt_denoiser(
    network: nn.Module | Callable[..., Any],
    description: Description | dict | None = None,
    ct: Volume | None = None,
    log: Callable[[str], None] = lambda message: None,
    *,
    source: tuple[Path, str] | None = None,
    found: Probe | None = None,
) -> Model:
    """``adopt`` for Invariances: one image in HU in, one out, slice by slice.

    Args:
        network: A CT denoiser.
        description: See ``adopt``; its task is denoising, and units are HU unless it says other.
        ct: The low-dose CT, [k, j, i]: scalings that are not told are tried on it.
        log: Receives what was found.
        source, found: As for ``adopt``.

    Raises:
        ModelError: As ``adopt``.
    """
    told = denoiser_told(described(description))
    volumes = None if ct is None else [ct]
    model = adopt(network, told, volumes, log=log, source=source, found=found)
    if model.network.form.dimensions != 2:
        log("It is asked slice by slice: the neighbours of a slice are taken to be equal to it.")
    card = replace(model.card, dimensions=2, size_multiple=model.network.form.multiple)
    return replace(model, network=by_slice(model.network), card=card)


def denoiser_told(told: Description) -> Description:
    """A description as Invariances need it: one image in HU in, one out."""
    told = replace(told, task=DENOISING)
    for kind, name in (("inputs", "low dose"), ("outputs", "denoised")):
        images = getattr(told, kind) or (_image(told, kind, name, "HU"),)
        images = tuple(replace(image, units=image.units or "HU") for image in images)
        told = told.with_images(kind, images)
    return told


def prepared(network: nn.Module | Callable[..., Any], log: Callable[[str], None]) -> nn.Module:
    """A copy of a network in eval mode and frozen; of a callable, a module that calls it.

    Raises:
        ModelError: It cannot be called.
    """
    if not isinstance(network, nn.Module):
        if not callable(network):
            raise ModelError(
                f"a network is a torch.nn.Module or a function of tensors, not {network!r}"
            )
        return Called(network)
    try:
        with torch.no_grad():  # else the copies in TorchScript have a history
            module = copy.deepcopy(network)
    except Exception as error:  # noqa: BLE001 - whatever a stranger's network raises
        log(f"The network cannot be copied ({error}): it is put into eval mode as it is.")
        module = network
    try:
        module.eval()
    except NotImplementedError:  # what torch.export makes has no modes
        pass
    for weight in module.parameters():  # TorchScript has no requires_grad_ of its own
        weight.requires_grad_(False)
    return module


def weights_hash(network: nn.Module) -> str:
    """SHA-256 of a network's weights, by name."""
    digest = hashlib.sha256()
    for name, weight in sorted(network.state_dict().items()):
        digest.update(name.encode())
        if isinstance(weight, Tensor):
            digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def form_of(told: Description, found: Probe) -> Form:
    """How a network wants its images, from a full description."""
    return Form(
        dimensions=told.dimensions or found.dimensions,
        neighbours=told.neighbours,
        flipped=told.orientation == "RAS",
        reversed_axes=told.axes == "ijk",
        multiple=told.size_multiple or 1,
        smallest=told.smallest_size or 1,
        fixed=found.fixed,
        reach=MOST_REACH if found.reach is None else min(found.reach, MOST_REACH),
        magnification=found.magnification,
        takes=told.takes or "channels",
        gives=told.gives,
        meaning=told.meaning,
    )


# What is left out ---------------------------------------------------------------------------------


def _name(network: Any, told: Description) -> str:
    return told.name or getattr(network, "__name__", type(network).__name__)


def _with_images(
    told: Description, inputs: list[Volume] | None, targets: list[Volume] | None
) -> Description:
    """The description with an image for each volume, where it names none.

    Raises:
        ModelError: It names another number.
    """
    for kind, volumes, word in (("inputs", inputs, "input"), ("outputs", targets, "target")):
        images = getattr(told, kind)
        if volumes is None:
            continue
        if images and len(images) != len(volumes):
            raise ModelError(
                f"{kind} of the description names {len(images)} images"
                f" ({', '.join(i.name for i in images)}), and {len(volumes)} volumes are given"
            )
        if not images:
            images = tuple(
                _image(told, kind, f"{word} {n}" if len(volumes) > 1 else word, volume.units)
                for n, volume in enumerate(volumes, 1)
            )
            told = told.with_images(kind, images)
    return told


def _image(told: Description, kind: str, name: str, units: str = "") -> Image:
    """An image that is not described, with what counts for every image."""
    every = told.every
    scaling = every.scaling
    if kind == "outputs" and scaling in ("percentile", "z-score"):
        scaling = None  # a patient's statistics: of inputs only
    return replace(every, name=name, units=units or every.units, scaling=scaling)


def _fitted(told: Description, found: Probe, log: Callable[[str], None]) -> Description:
    """The description with as many images as the network has channels.

    Raises:
        ModelError: They cannot be brought together; says which field.
    """
    around = 2 * told.neighbours + 1
    if told.dimensions == 2 and told.inputs and found.inputs == around * len(told.inputs):
        log(f"It takes {around} channels of each image: neighbouring slices (2.5-D).")
        told = replace(told, dimensions=2.5)
    per_image = around if told.dimensions == 2.5 else 1
    if not told.inputs:
        count = found.inputs // per_image
        images = tuple(_image(told, "inputs", f"input {n + 1}") for n in range(count))
        told = replace(told, inputs=images)
    if len(told.inputs) * per_image != found.inputs:
        raise ModelError(
            f"inputs: the network takes {found.inputs} channels, and {len(told.inputs)} images are"
            f" described{' with ' + str(around) + ' slices each' if per_image > 1 else ''}:"
            " name one for each"
        )
    if not told.outputs:
        count = found.outputs
        images = tuple(_image(told, "outputs", f"output {n + 1}") for n in range(count))
        told = replace(told, outputs=images)
    if len(told.outputs) != found.outputs:
        raise ModelError(
            f"outputs: the network gives {found.outputs} channels, and {len(told.outputs)} are"
            " described: name one for each"
        )
    return told
