"""The models that are there, those that fit, and which of them is taken where nobody names one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from . import header
from .card import SAMPLING, Card, ModelError
from .foreign import cards, shelf

SUFFIX = ".safetensors"
FIRST = ("ct-denoiser-learned-cnn10.safetensors", "ct-denoiser-learned-redcnn.safetensors")
"""Of a folder's models these come before the others, which come by name: the shipped denoisers that
leave the least error (README.md, "Denoisers"), the quicker one first: a first answer is to take
less than two minutes. The first that fits is what panels show and commands take where nobody
chose."""


def usable(fits: Callable[[Card], bool]) -> dict[Path, Card]:
    """The models of ``list_models`` that can be used and whose cards fit, in its order."""
    return {
        path: card for path, card in list_models().items() if isinstance(card, Card) and fits(card)
    }


def default_model(fits: Callable[[Card], bool], missing: str) -> Path:
    """The model that is taken where nobody names one: the first that fits.

    Args:
        fits: Whether a model will do, by its card.
        missing: Says that none is there, and what to do.

    Raises:
        ModelError: None is there.
    """
    for path in usable(fits):
        return path
    raise ModelError(missing)


def samplers_for(denoiser: Path | str) -> dict[Path, Card]:
    """The samplers among ``list_models`` that were made for a denoiser's file.

    Raises:
        OSError: The denoiser's file cannot be read.
    """
    identity = hashlib.sha256(Path(denoiser).read_bytes()).hexdigest()
    return usable(
        lambda card: card.task == SAMPLING and card.training.get("denoiser SHA-256") == identity
    )


def default_sampler(denoiser: Path | str) -> Path | None:
    """The sampler that is taken where nobody names one: the first that was made for a denoiser.

    Raises:
        OSError: The denoiser's file cannot be read.
    """
    return next(iter(samplers_for(denoiser)), None)


def model_folders() -> list[Path]:
    """Where models are looked for.

    The folders of ``NETINVERSION_MODELS``, those of networks that the user added, then those that
    came with the extension.
    """
    named = [Path(p) for p in os.environ.get("NETINVERSION_MODELS", "").split(os.pathsep) if p]
    library = Path(__file__).resolve().parents[1]
    # In a source checkout and in Slicer the models lie beside the library; pip can put them only
    # inside it.
    return [
        *named,
        *shelf.folders(),
        library.parent / "Resources" / "Models",
        library / "reference_models",
    ]


def shipped() -> list[Path]:
    """The model files that came with the extension."""
    folders = model_folders()[-2:]
    return [path for folder in folders for path in sorted(folder.glob("*" + SUFFIX))]


def list_models(folders: Iterable[Path | str] | None = None) -> dict[Path, Card | ModelError]:
    """Model files of folders, each with its card, or why it cannot be used.

    ``model_folders()`` unless folders are given. In each, those of ``FIRST`` come first.
    """
    found: dict[Path, Card | ModelError] = {}
    for folder in model_folders() if folders is None else folders:
        beside = sorted(Path(folder).glob("*" + cards.SUFFIX))
        imported = {path: _imported(path) for path in beside}
        # Weights that a card stands beside are the card's.
        taken = {c.file for c in imported.values() if isinstance(c, cards.Imported)}
        for path in sorted(Path(folder).glob("*" + SUFFIX), key=_place):
            if path.name in taken:
                continue
            try:
                found[path] = header.read(path).card
            except ModelError as error:
                found[path] = error
        for path, content in imported.items():
            if isinstance(content, cards.Imported):
                found[path] = cards.described_card(content, path)
            else:
                found[path] = content
    return found


def _place(path: Path) -> tuple[int, str]:
    """Where a file comes among its folder's models."""
    return (FIRST.index(path.name) if path.name in FIRST else len(FIRST)), path.name


def _imported(path: Path) -> cards.Imported | ModelError:
    try:
        imported = cards.read(path)
        cards.described_card(imported, path)
        return imported
    except ModelError as error:
        return error
