"""Published weights from their authors' server: only when asked, verified, whole or not at all."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..card import ModelError

BENCHMARK = "https://downloads.eeulig.com/ldct-benchmark/"
INVARIANCES = "https://downloads.eeulig.com/ldct-invariances/"
TIMEOUT_S = 30
PIECE = 1 << 18


@dataclass(frozen=True)
class Published:
    """A file of published weights: its address, and the SHA-256 that its authors give."""

    url: str
    sha256: str

    @property
    def file(self) -> str:
        return self.url.rpartition("/")[2]


WEIGHTS = {
    "cnn10": Published(
        BENCHMARK + "cnn10.pt", "ee96e494c8eda02e946464df29cf43c14163e63bc4b1df6d8907ee33a1a18c3e"
    ),
    "redcnn": Published(
        BENCHMARK + "redcnn.pt", "058ae58264a00116e5620ed88047e687c7e93c8b732bfd6d7796e76bae0c74f3"
    ),
    "wganvgg": Published(
        BENCHMARK + "wganvgg.pt",
        "1ad87d16aefea99a9eeb474c33127971131cc21a07e129bf464c764cf9ca6003",
    ),
    "dugan": Published(
        BENCHMARK + "dugan.pt", "c6faad8376994fe22eadc0a723f81705fda6f435f40ef0f999666e871216ac5e"
    ),
    "cnn10-vae": Published(
        INVARIANCES + "cnn10-vae.pt",
        "3c53d7d06fa0f09afe421e2fdf188fb9e26ea3988ad7f12c7108ea96c256afa8",
    ),
    "cnn10-cinn": Published(
        INVARIANCES + "cnn10-cinn.pt",
        "360a88d0b1d088b6bd00c3018c1c0e8ad39fcfb9c8ee95963a44e605e2f64b22",
    ),
    "redcnn-vae": Published(
        INVARIANCES + "redcnn-vae.pt",
        "479e0591eccabbb276be13ef786162c366e83761a9ba41870413f6a69a7e4093",
    ),
    "redcnn-cinn": Published(
        INVARIANCES + "redcnn-cinn.pt",
        "4c7f31ceeb634d1db3f1f56c4de8c30f5c0f5ce9d7e9c734ad4f7856d715b972",
    ),
    "wganvgg-vae": Published(
        INVARIANCES + "wganvgg-vae.pt",
        "606e5b6e5022eb9c28e3e6a5e8a31274f0804d429bbe784fb1626c2d72cccd1d",
    ),
    "wganvgg-cinn": Published(
        INVARIANCES + "wganvgg-cinn.pt",
        "7b08656cca960177ee2a84e046b074ff8562616b5344ddbcfcf7fb468d8d31c6",
    ),
    "dugan-vae": Published(
        INVARIANCES + "dugan-vae.pt",
        "ac168121eb23dd25e222ba48e69a2125a7c338e0be43e4bdfb7435206aa7ecd5",
    ),
    "dugan-cinn": Published(
        INVARIANCES + "dugan-cinn.pt",
        "7bc5c99cb99f4c13bb5c2971f0b8691a03a082b6d90c5866b942f52d42e504f2",
    ),
}


def published(name: str) -> Published:
    """Published weights by name.

    Raises:
        ModelError: There are none of this name; says which there are.
    """
    if name not in WEIGHTS:
        raise ModelError(
            f"no published weights are called {name!r}; there are {', '.join(WEIGHTS)}"
        )
    return WEIGHTS[name]


def size_of(weights: Published) -> int:
    """Bytes of a file on its server, as the server says.

    Raises:
        ModelError: It does not answer.
    """
    request = urllib.request.Request(weights.url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return int(answer.headers.get("Content-Length") or 0)
    except (OSError, ValueError) as error:
        raise ModelError(f"{weights.url} does not answer ({error}); try again later") from error


def download(
    weights: Published,
    folder: Path | str,
    report: Callable[[float, str], None] = lambda fraction, message: None,
    overwrite: bool = False,
) -> Path:
    """Fetch a file; what an earlier try has fetched is kept and gone on with.

    Args:
        weights: What to fetch.
        folder: Where it goes.
        report: ``f(fraction, message)``; it may raise to stop.
        overwrite: Another file of that name may be replaced.

    Returns:
        The file, which has the published SHA-256.

    Raises:
        ModelError: Another file is there; the server does not answer; or the file is not the
            published one, and nothing is left of it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / weights.file
    if target.is_file() and _sum(target) == weights.sha256:
        return target
    if target.exists() and not overwrite:
        raise ModelError(f"{target} is another file; move it, or --overwrite")
    part = target.with_name(target.name + ".part")
    try:
        _fetch(weights.url, part, report)
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise ModelError(
            f"{weights.url} could not be fetched ({error}); what is there is kept, try again"
        ) from error
    found = _sum(part)
    if found != weights.sha256:
        part.unlink()
        raise ModelError(
            f"{weights.url} is not the published file: SHA-256 {found[:16]}... instead of"
            f" {weights.sha256[:16]}...; it was deleted"
        )
    part.replace(target)
    return target


def _fetch(url: str, part: Path, report: Callable[[float, str], None]) -> None:
    """Bring a file up to its whole length, from where it ends."""
    there = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={there}-"} if there else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is missing
            return
        raise
    with answer:
        goes_on = answer.status == 206
        missing = int(answer.headers.get("Content-Length") or 0)
        done = there if goes_on else 0
        whole = done + missing
        with open(part, "ab" if goes_on else "wb") as file:
            while piece := answer.read(PIECE):
                file.write(piece)
                done += len(piece)
                report(done / max(whole, done, 1), f"{done / 1e6:.0f} of {whole / 1e6:.0f} MB")
        if missing and done < whole:
            raise OSError(f"the connection ended after {done} of {whole} bytes")


def _sum(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
