"""The card beside a network's file: what the user said, what was found, and what it all depends on.

A file NAME.network; the network's own file stays as it is, beside it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.writing import replacing
from ..card import DENOISING, Card, ModelError
from .description import Description, ScaledChannel, channels, described
from .formats import CAN_RUN_CODE, STATE
from .found import Probe
from .trust import require, sha256_of

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..model import Model

SUFFIX = ".network"
KEY, VERSION = "netinversion_network", 1
MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Imported:
    """A network's file and all that is needed to run it.

    Attributes:
        kind: Of the file, one of ``formats``.
        file: Its name, in the folder of the card.
        sha256: Of its content.
        architecture: Of a state dict: "spec" (``own.class_of``, or a name in
            ``networks.ARCHITECTURES``), "sha256" of its source, "arguments"; else empty.
        description: Complete.
        found: What ``probe`` found.
        layers: Titles of its layers, by name.
    """

    kind: str
    file: str
    sha256: str
    architecture: dict
    description: Description
    found: Probe
    layers: dict


def card_of(
    told: Description,
    found: Probe,
    taken: tuple[ScaledChannel, ...],
    given: tuple[ScaledChannel, ...],
    name: str,
) -> Card:
    """The card of an adopted network: axes are LPS, since the adapter turns them."""
    denoises = told.task == DENOISING
    by_slice = told.dimensions == 2 or denoises
    sentences = found.sentences()
    if told.dimensions == 2.5:
        sentences.append(
            f"Its channels are each image's neighbouring slices, {told.neighbours} on each side."
        )
    return Card(
        name=name,
        version="own",
        architecture=name,
        arguments={},
        inputs=taken,
        outputs=given,
        dimensions=2 if by_slice else 3,
        orientation="LPS",
        spacing_mm=told.spacing_mm,
        size_multiple=1 if told.dimensions == 2.5 and not denoises else (told.size_multiple or 1),
        trained_on=(told.trained_on,),
        sources="the user's own",
        licence=told.licence,
        intended_use="Not told: a network of the user's own. Research use only.",
        quality={"probe": " ".join(sentences)},
        task=told.task,
    )


# Files --------------------------------------------------------------------------------------------


def save(path: Path | str, imported: Imported) -> Path:
    """Write a card, whole or not at all."""
    path = Path(path)
    values = {
        KEY: VERSION,
        **{name: getattr(imported, name) for name in ("kind", "file", "sha256", "architecture")},
        "description": imported.description.to_json(),
        "found": asdict(imported.found),
        "layers": imported.layers,
    }
    with replacing(path) as part:
        part.write_text(json.dumps(values, indent=1), encoding="utf-8")
    return path


def read(path: Path | str) -> Imported:
    """A card's content, checked; the network's file is not looked at.

    Raises:
        ModelError: It is no card, damaged, or of a newer version.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            text = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}; check the path") from error
    try:
        if len(text) > MOST_BYTES:
            raise ValueError("it is too large")
        values = json.loads(text)
        if not isinstance(values, dict) or values.pop(KEY, None) != VERSION:
            raise ValueError("it is of another version")
        return _imported(values)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelError(
            f"{path.name} is no card of an imported network ({error}); import the network again"
        ) from error


def _imported(values: dict) -> Imported:
    if values.keys() != {f.name for f in fields(Imported)}:
        raise ValueError("its fields are not those of a card")
    if values["kind"] not in (STATE, *CAN_RUN_CODE):
        raise ValueError(f"there is no kind {values['kind']!r}")
    name = values["file"]
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
        raise ValueError("its file is not one beside it")
    if not isinstance(values["architecture"], dict) or not isinstance(values["layers"], dict):
        raise ValueError("architecture and layers are tables")
    found = values["found"]
    if not isinstance(found, dict) or found.keys() != {f.name for f in fields(Probe)}:
        raise ValueError("what was found is not complete")
    return Imported(
        **{
            **values,
            "description": described(values["description"]),
            "found": Probe(**{key: _plain(value) for key, value in found.items()}),
        }
    )


def _plain(value: Any) -> Any:
    if value is None or (isinstance(value, (bool, int, float)) and abs(value) < 1e12):
        return value
    if value != value:  # NaN: input and output differ in size
        return value
    raise ValueError(f"{value!r} is no figure of a network")


def read_card(path: Path | str) -> Card:
    """The card that every question reads. Needs no torch.

    Raises:
        ModelError: As ``read``.
    """
    return described_card(read(path), Path(path))


def described_card(imported: Imported, path: Path) -> Card:
    """The card that every question reads, of a card's content.

    Raises:
        ModelError: Its description is not complete.
    """
    told = imported.description
    taken, given = channels(told)
    return card_of(told, imported.found, taken, given, told.name or path.name)


def load(path: Path | str, device: torch.device | str = "cpu") -> Model:
    """The network of a card, ready for use.

    Raises:
        ModelError: The file is missing or not the one that was imported, may run code and is not
            trusted, or needs code that has changed.
    """
    from .adopt import adopt, adopt_denoiser

    path = Path(path)
    imported = read(path)
    file = path.with_name(imported.file)
    module = load_network(file, imported)
    told = imported.description
    adopting = adopt_denoiser if told.task == DENOISING else adopt
    model = adopting(module, told, found=imported.found, source=(path, imported.sha256))
    model.network.to(device)
    return replace(model, protected=True)


def load_network(file: Path, imported: Imported) -> nn.Module:
    """The user's network from its file, in eval mode.

    Raises:
        ModelError: As ``load``.
    """
    from . import formats, own

    found = sha256_of(file)
    if found != imported.sha256:
        raise ModelError(
            f"{file.name} is not the file that was imported (SHA-256 {found[:12]}... instead of"
            f" {imported.sha256[:12]}...): import it again"
        )
    if imported.kind in CAN_RUN_CODE:
        require(file, found)
        return formats.load(imported.kind, file)
    return own.with_weights(imported.architecture, formats.weights_of(file), file.name)


def is_card(path: Path | str) -> bool:
    """Whether a path is one of a card beside a network's file."""
    return str(path).endswith(SUFFIX)


def runs_code(path: object) -> bool:
    """Whether a model's file, or a Python file or package that it needs, can run code.

    Raises:
        ModelError: As ``read``.
    """
    if not isinstance(path, (str, Path)) or not is_card(path):
        return False
    imported = read(path)
    return imported.kind in CAN_RUN_CODE or ":" in str(imported.architecture.get("spec", ""))
