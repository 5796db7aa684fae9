"""Published weights made ready: fetched, verified, imported, kept with the user's networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..card import ModelError
from . import shelf
from .download import WEIGHTS, Published, download, published

SAMPLER = "-sampler"
NAMES = (*(name for name in WEIGHTS if "-" not in name),)
READY = (*NAMES, *(name + SAMPLER for name in NAMES))
"""What can be made ready: denoisers, and the sampler of each, which needs it."""

Report = Callable[[float, str], None]


def files_of(name: str) -> tuple[Published, ...]:
    """The files that a network needs.

    Args:
        name: One of ``READY``, or of one file of ``WEIGHTS``.

    Raises:
        ModelError: There are none of this name; says which there are.
    """
    if name in READY and name.endswith(SAMPLER):
        denoiser = name.removesuffix(SAMPLER)
        return tuple(published(part) for part in (denoiser, f"{denoiser}-vae", f"{denoiser}-cinn"))
    if name not in WEIGHTS:
        raise ModelError(
            f"no published weights are called {name!r}; there are"
            f" {', '.join(dict.fromkeys((*WEIGHTS, *READY)))}"
        )
    return (published(name),)


def make_ready(
    name: str,
    report: Report = lambda fraction, message: None,
    log: Callable[[str], None] = lambda message: None,
) -> Path:
    """Fetch a network's files, import them, and keep the model.

    What was fetched is deleted once it is imported; of an interrupted download the part stays, and
    the next try goes on there.

    Args:
        name: One of ``READY``.
        report: ``f(fraction, message)``; it may raise to stop.
        log: Receives what was found.

    Returns:
        The model file, in the user's folder.

    Raises:
        ModelError: As ``download.download`` and ``importing.import_network``.
    """
    from .importing import Wishes, import_network

    if name not in READY:
        raise ModelError(f"{name!r} is no network by itself; there are {', '.join(READY)}")
    files = files_of(name)
    fetched = []
    for n, weights in enumerate(files):

        def share(fraction: float, message: str, n: int = n) -> None:
            report((n + fraction) / len(files), f"{files[n].file}: {message}")

        fetched.append(download(weights, shelf.downloads(), share, overwrite=True))
    place = shelf.begin()
    try:
        wishes = Wishes(folder=place)
        if len(fetched) > 1:
            denoiser = import_network(fetched[0], wishes, log=log)
            denoiser = shelf.keep(denoiser)
            place = shelf.begin()
            wishes = Wishes(folder=place, denoiser=denoiser, flow=fetched[2])
        made = shelf.keep(import_network(fetched[1 if len(fetched) > 1 else 0], wishes, log=log))
    except BaseException:
        shelf.drop(place)
        raise
    for path in fetched:
        path.unlink(missing_ok=True)
    return made
