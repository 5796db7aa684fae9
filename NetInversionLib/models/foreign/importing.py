"""A network's file becomes a model: recognised, probed, and written down."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import networks
from ...core.text import shown
from .. import files
from ..card import DENOISING, Card, ModelError
from . import bundle, cards, formats, own, recognise, trust
from .adopt import completed, denoiser_told, prepared
from .cards import Imported
from .description import Description, Image, described
from .formats import BUNDLE, CAN_RUN_CODE, OWN, STATE

if TYPE_CHECKING:
    from torch import nn

    from ...core.volumes import Volume

Ask = Callable[[Path, str, str], bool]
"""Of a file, what it is and its SHA-256: whether the user trusts it."""


@dataclass(frozen=True)
class Wishes:
    """What a user says with a file.

    Attributes:
        architecture: Of a state dict, see ``own.class_of``.
        arguments: That it is made with.
        description: See ``description.described``.
        name: Of the model.
        folder: Where the model goes; by default beside the file.
        denoiser: Of published samplers: the model file of their denoiser.
        flow: Of published samplers: the file of the flow; the other file is the autoencoder.
        inputs, targets: Volumes that scalings are tried on.
        overwrite: Whether a model or file of that name may be replaced.
    """

    architecture: str = ""
    arguments: dict | None = None
    description: Description | dict | None = None
    name: str = ""
    folder: Path | None = None
    denoiser: Path | None = None
    flow: Path | None = None
    inputs: list[Volume] | None = None
    targets: list[Volume] | None = None
    overwrite: bool = False


def import_network(
    path: Path | str,
    wishes: Wishes = Wishes(),
    ask: Ask = lambda path, kind, sha256: False,
    log: Callable[[str], None] = lambda message: None,
) -> Path:
    """Bring a network's file in.

    Published weights become a model file of the project; any other network keeps its file and gets
    a card beside it.

    Args:
        path: A file, or a bundle's folder.
        wishes: What the user says.
        ask: Whether a file that can run code is trusted; asked once for each content.
        log: Receives what was found.

    Returns:
        The model file, or the card.

    Raises:
        ModelError: The file cannot be used, or is not trusted, or the model is there already; says
            what to do. Nothing is written then.
    """
    path = Path(path)
    kind = formats.kind_of(path)
    if kind == OWN:
        raise ModelError(f"{path.name} is a model file of NetInversion already")
    sha256 = trust.sha256_of(path)
    if kind in CAN_RUN_CODE:
        _ask(path, kind, sha256, ask)
    code = trust.code_of(wishes.architecture)
    if code is not None:
        _ask(code, "Python code", trust.code_sha256(code), ask)
    if kind == STATE and not wishes.architecture:
        return _published(path, sha256, wishes, log)
    return _beside(path, kind, sha256, wishes, log)


def _ask(path: Path, kind: str, sha256: str, ask: Ask) -> None:
    """Have the user say once whether a content may run.

    Raises:
        ModelError: It may not.
    """
    if trust.is_trusted(sha256):
        return
    if not ask(path, kind, sha256):
        raise ModelError(
            f"{path.name} ({kind}) can run code on this computer, so it is not opened without your"
            f" word. Its SHA-256 is {sha256}"
        )
    trust.trust(sha256, path.name)


def _published(path: Path, sha256: str, wishes: Wishes, log: Callable[[str], None]) -> Path:
    """A model file from recognised weights."""
    state = formats.weights_of(path)
    found = recognise.recognise(state)
    if found is None:
        first = shown(next(iter(state)))[:100]
        raise ModelError(
            f"{path.name} holds {len(state)} weights (first: {first}) of a network that"
            " is not known here: name its class, as my_package:MyNet or net.py:MyNet, with"
            " --architecture"
        )
    log(f"Recognised: {found.words}.")
    if found.architecture in ("vae", "cinn"):
        return _published_sampler(found, wishes, log)
    found = _with_arguments(found, sha256, wishes.arguments)
    target = _target(path, wishes, ".safetensors")
    told = described(wishes.description)
    if found.channel is None:
        if not told.inputs:
            log("Its images are 0 to 1: say with --describe what these mean (units, low, high).")
        if found.architecture == "espcn":  # its output is larger: probed, and averaged
            return _beside(path, STATE, sha256, _enlarging(found, told, wishes), log)
        card = recognise.image_card(found, sha256, path.name, told, wishes.name)
    else:
        card = recognise.denoiser_card(found, sha256, path.name, wishes.name)
    return _written(target, found.network, card)


def _enlarging(found: recognise.Recognised, told: Description, wishes: Wishes) -> Wishes:
    """What is said of a network whose output is larger, with its images scaled to 0 to 1."""
    images = told.inputs or (Image("Image", "", "range", 0.0, 1.0),)
    images = tuple(replace(image, scaling=image.scaling or "range") for image in images)
    given = told.outputs or tuple(
        replace(image, name=f"Enlarged {image.name}", scaling="as input") for image in images
    )
    told = replace(told, inputs=images, outputs=given)
    return replace(
        wishes, architecture=found.architecture, arguments=found.arguments, description=told
    )


def _with_arguments(
    found: recognise.Recognised, sha256: str, arguments: dict | None
) -> recognise.Recognised:
    """With what weights cannot tell: DRUNet's sigma, and whether an LWFSN finds the noise.

    Raises:
        ModelError: There is no such argument, it changes the shapes, or one has to be said.
    """
    known = recognise.PUBLISHED.get(sha256)
    arguments = {**(known.arguments if known else {}), **(arguments or {})}
    if found.undecided and found.undecided not in arguments:
        raise ModelError(
            f"these weights are those of {found.words}, and they do not tell {found.undecided!r}:"
            f""" say it with --arguments '{{"{found.undecided}": true}}' (or false)"""
        )
    if not arguments:
        return found
    every = {**found.arguments, **arguments}
    try:
        network = networks.build(found.architecture, **every)
        network.load_state_dict(found.network.state_dict())
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"--arguments do not fit {found.words}: {error}") from error
    network.eval().requires_grad_(False)
    return replace(found, arguments=every, network=network)


def _published_sampler(
    vae: recognise.Recognised, wishes: Wishes, log: Callable[[str], None]
) -> Path:
    if wishes.flow is None or wishes.denoiser is None:
        raise ModelError(
            f"this is {vae.words}: it needs its other half and its denoiser. Import the"
            " autoencoder's file with --flow FLOW --denoiser MODEL"
        )
    name = wishes.denoiser.with_name(f"sampler-{wishes.denoiser.stem}")
    target = _target(name, wishes, ".safetensors")
    flow = recognise.recognise(formats.weights_of(wishes.flow))
    if flow is None:
        raise ModelError(f"{wishes.flow.name} is no published flow")
    log(f"Recognised: {flow.words}.")
    denoiser = files.load(wishes.denoiser)
    model = recognise.sampler_of(vae, flow, denoiser, wishes.name)
    return _written(target, model.network, model.card)


def _written(target: Path, network: nn.Module, card: Card) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return files.save(target, network, card)


def _beside(path: Path, kind: str, sha256: str, wishes: Wishes, log: Callable[[str], None]) -> Path:
    """A card beside a network's own file."""
    target = _target(path, wishes, cards.SUFFIX)
    copied = _free(target.with_name(path.name), wishes, sha256)
    module, architecture = _module(path, kind, wishes)
    told = described(wishes.description)
    if kind == BUNDLE and not told.inputs:
        told = replace(bundle.describe(path), task=told.task)
        log("Channels, ranges and sizes are those of the bundle's metadata.")
    told = replace(told, name=wishes.name or told.name or path.stem)
    if told.task == DENOISING:
        told = denoiser_told(told)
    module = prepared(module, log)
    told, found, _ = completed(module, told, wishes.inputs, wishes.targets, log)
    imported = Imported(
        kind=kind,
        file=path.name,
        sha256=sha256,
        architecture=architecture,
        description=told,
        found=found,
        layers=_layers(module, found),
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    if not copied.exists() or trust.sha256_of(copied) != sha256:
        _copy(path, copied)
    return cards.save(target, imported)


def _module(path: Path, kind: str, wishes: Wishes) -> tuple[nn.Module, dict]:
    """The network of a file, and what is written down of its architecture."""
    if kind == STATE:
        made, sha256 = own.class_of(wishes.architecture)
        spec = trust.spelt_out(wishes.architecture)
        place, _, name = spec.rpartition(":")
        if place.endswith(".py"):
            spec = f"{Path(place).resolve()}:{name}"
        architecture = {"spec": spec, "sha256": sha256, "arguments": wishes.arguments or {}}
        return own.with_weights(architecture, formats.weights_of(path), path.name), architecture
    if wishes.architecture:
        raise ModelError(f"{path.name} ({kind}) has its own architecture: leave that out")
    return formats.load(kind, path), {}


def _layers(module: nn.Module, found: Any) -> dict[str, str]:
    """Titles of the network's layers by name; none where it does not show any."""
    import torch

    from ...networks.layers import layers

    image = torch.zeros(1, found.inputs, *[found.side] * found.dimensions)
    try:
        return {layer.name: layer.title for layer in layers(module, image)}
    except Exception:  # noqa: BLE001 - exported programs take no hooks
        return {}


def _target(path: Path, wishes: Wishes, suffix: str) -> Path:
    """Where the model goes; nothing is made yet.

    Raises:
        ModelError: A model is there already.
    """
    folder = wishes.folder or path.parent
    name = wishes.name or path.stem
    safe = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
    target = folder / f"{safe}{suffix}"
    if target.exists() and target.resolve() == path.resolve():
        target = folder / f"{safe}-imported{suffix}"
    return _free(target, wishes)


def _free(path: Path, wishes: Wishes, sha256: str = "") -> Path:
    """The path, if nothing is there that would be lost; what has this SHA-256 would not.

    Raises:
        ModelError: It is taken.
    """
    if path.exists() and not wishes.overwrite and trust.sha256_of(path) != sha256:
        raise ModelError(f"{path} is there already; choose another name, or --overwrite")
    return path


def _copy(source: Path, target: Path) -> None:
    """Whole or not at all."""
    part = target.with_name(target.name + ".part")
    try:
        if source.is_dir():
            shutil.copytree(source, part)
        else:
            shutil.copyfile(source, part)
        if target.is_dir():
            shutil.rmtree(target)
        part.replace(target)
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        elif part.exists():
            part.unlink()
