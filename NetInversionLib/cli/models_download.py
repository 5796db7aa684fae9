"""`netinversion models download` and `models delete`: published weights, kept networks."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .. import models
from .options import command, overwrite_argument


def _download_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", nargs="?", help="of published weights; without it, all are listed with addresses"
    )
    parser.add_argument("--output", default=".", metavar="FOLDER", help="where the files go")
    overwrite_argument(parser)
    parser.add_argument(
        "--add",
        action="store_true",
        help="import what was downloaded and keep it with your networks, where every module finds"
        " it (denoisers, and NAME-sampler)",
    )
    parser.add_argument(
        "--look", action="store_true", help="only ask the server for the sizes; download nothing"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")


@command("models", "download", _download_arguments)
def models_download(options: argparse.Namespace) -> int:
    """Download published weights from their authors' server.

    Address, size and SHA-256 are shown first. A download that was interrupted goes on where it was;
    what arrives must have the published SHA-256. Nothing else ever goes to the network.
    """
    from ..models.foreign import download, published

    shell = options.shell
    if options.name is None:
        for name, weights in download.WEIGHTS.items():
            shell.say(f"{name}: {weights.url} (SHA-256 {weights.sha256})")
        shell.say(f"To use at once, with --add: {', '.join(published.READY)}")
        shell.tell(weights={name: w.url for name, w in download.WEIGHTS.items()})
        return 0
    looked = []
    for weights in published.files_of(options.name):
        size = download.size_of(weights)
        shell.say(f"{weights.url}\n{size / 1e6:.1f} MB, SHA-256 {weights.sha256}")
        looked.append({"url": weights.url, "bytes": size, "sha256": weights.sha256})
    shell.tell(files=looked)
    if options.look:
        return 0
    if not options.yes:
        if not sys.stdin.isatty():
            raise models.ModelError("say --yes to download it")
        if input("Download it? [y/N] ").strip().lower() not in ("y", "yes"):
            return 1
    if options.add:
        made = published.make_ready(options.name, shell.report, shell.log)
    else:
        for weights in published.files_of(options.name):
            made = download.download(weights, options.output, shell.report, options.overwrite)
    shell.say(made)
    shell.tell(file=str(made))
    return 0


def _delete_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="of a network; without it, all are listed")


@command("models", "delete", _delete_arguments)
def models_delete(options: argparse.Namespace) -> int:
    """Delete a network that you added from a panel or with --add, with all its files.

    Networks that 'models import' wrote beside their files are not listed: delete these files.
    """
    from ..models.foreign import shelf

    shell, entries = options.shell, shelf.entries()
    if options.name is not None:
        shelf.delete(next((path for path in entries if path.name == options.name), options.name))
        entries = shelf.entries()
    for path, size in entries.items():
        shell.say(f"{path.name}: {size / 1e6:.1f} MB, {path}")
    if not entries:
        shell.say(f"no networks in {shelf.folder()}")
    shell.tell(networks={str(Path(path)): size for path, size in entries.items()})
    return 0
