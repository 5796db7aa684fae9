"""Fuzzes networks' files: python Testing/fuzz/networks.py [--count 22000] [--first N] [--seed N].

Good files are one small network in every format that ``models import`` takes, and a card. Some
2,000 mutants of each come in with the user's trust. A mutant must be refused with a sentence, or
come in; take at most 5 s; leave no part of a file behind, and run no code of its own.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import common
import numpy as np
import torch
from common import Base, Reading, main

from NetInversionLib.models.card import ModelError
from NetInversionLib.models.foreign import bundle, cards, importing, own, trust

CODE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, padding=1)
        self.last = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x):
        return x + self.last(torch.relu(self.first(x)))
"""
TOLD = {
    "inputs": [{"name": "T1", "scaling": "range", "low": 0, "high": 2, "to": (0, 2)}],
    "outputs": [{"name": "CT", "scaling": "range", "low": -1, "high": 3, "to": (-1, 3)}],
}
CANARY = "NETINVERSION_FUZZ_CANARY"
DAMAGE = [common.DAMAGE[kind] for kind in ("flip", "bytes", "block", "cut", "grow", "move")]


class Canary:
    """What a pickle of it would do, if anything opened it."""

    def __reduce__(self) -> tuple:
        return os.mkdir, (os.environ[CANARY],)


def bases(folder: Path, small: bool) -> list[Base]:
    warnings.simplefilter("ignore")
    os.environ["NETINVERSION_SETTINGS"] = str(folder / "settings")
    os.environ[CANARY] = str(folder / "canary")
    made, code = folder / "made", folder / "net.py"
    made.mkdir()
    code.write_text(CODE)
    trust.trust(trust.sha256_of(code), "net.py")
    torch.manual_seed(0)
    network = own.class_of(f"{code}:Net")[0]().eval()
    files = [_weights(made, network), _script(made, network), _bundle(made, network)]
    if not small:
        files += [_exported(made, network), _onnx(made, network)]
    paths = [path for some in files for path in some]
    wishes = importing.Wishes(f"{code}:Net", description=TOLD, folder=made)
    paths.append(importing.import_network(made / "state.pt", wishes))
    return [Base(path.name, path.read_bytes(), path.name, path.suffix) for path in paths]


def _weights(folder: Path, network: torch.nn.Module) -> list[Path]:
    from safetensors.torch import save_file

    state = network.state_dict()
    torch.save(state, folder / "state.pt")
    torch.save({"epoch": 1, "state_dict": state, "losses": [1.0, 2.0]}, folder / "container.ckpt")
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": state, "evil": Canary()}, folder / "pickled.pt")
    save_file(state, folder / "state.safetensors")
    names = ("state.pt", "container.ckpt", "old.pth", "pickled.pt", "state.safetensors")
    return [folder / name for name in names]


def _script(folder: Path, network: torch.nn.Module) -> list[Path]:
    torch.jit.script(network).save(folder / "script.ts")
    return [folder / "script.ts"]


def _bundle(folder: Path, network: torch.nn.Module) -> list[Path]:
    whole = folder / "a_bundle"
    (whole / "configs").mkdir(parents=True)
    (whole / "models").mkdir()
    torch.jit.script(network).save(whole / "models" / "model.ts")
    entry = {
        "format": "magnitude",
        "num_channels": 1,
        "spatial_shape": ["2*n", "2*n"],
        "value_range": [0, 2],
        "channel_def": {"0": "T1"},
    }
    formats = {"inputs": {"image": entry}, "outputs": {"pred": {**entry, "value_range": [-1, 3]}}}
    metadata = json.dumps({"name": "own", "network_data_format": formats})
    (whole / "configs" / "metadata.json").write_text(metadata)
    return [Path(shutil.make_archive(str(folder / "bundle"), "zip", folder, "a_bundle"))]


def _exported(folder: Path, network: torch.nn.Module) -> list[Path]:
    free = {axis: torch.export.Dim.DYNAMIC for axis in (0, 2, 3)}
    program = torch.export.export(network, (torch.rand(2, 1, 32, 48),), dynamic_shapes=(free,))
    torch.export.save(program, folder / "exported.pt2")
    return [folder / "exported.pt2"]


def _onnx(folder: Path, network: torch.nn.Module) -> list[Path]:
    """Where the converter is there; Testing/real_networks.sh makes an environment that has it."""
    try:
        import onnx2torch  # noqa: F401
    except (ImportError, RuntimeError):
        print("onnx2torch is not installed: no ONNX files", file=sys.stderr)
        return []
    free = {axis: torch.export.Dim.DYNAMIC for axis in (0, 2, 3)}
    torch.onnx.export(
        network, (torch.rand(2, 1, 32, 48),), folder / "own.onnx", dynamo=True,
        dynamic_shapes=(free,), external_data=False, verbose=False,
    )  # fmt: skip
    return [folder / "own.onnx"]


def read(path: Path) -> str:
    """Bring a file in, by somebody who trusts it."""
    if path.suffix == cards.SUFFIX:
        cards.read_card(path)
        return ""
    folder = path.parent
    weights = path.suffix in (".pt", ".pth", ".ckpt", ".safetensors")
    wishes = importing.Wishes(
        f"{folder / 'net.py'}:Net" if weights else "",
        description=None if path.suffix == ".zip" else TOLD,
        folder=folder / "out",
    )
    known = set(folder.iterdir())
    with tempfile.TemporaryDirectory(dir=folder) as elsewhere:
        before, tempfile.tempdir = tempfile.tempdir, elsewhere
        try:
            if path.suffix == ".zip":
                bundle.describe(path)
            importing.import_network(path, wishes, lambda *asked: True)
        except ModelError as error:
            # What is found while a network is tried is told without the file's name.
            words = str(error)
            raise ModelError(words if path.name in words else f"{path.name}: {words}") from error
        finally:
            tempfile.tempdir = before
            left = [p for p in folder.rglob("*") if p.suffix in (".part", ".partial")]
            left += list(Path(elsewhere).iterdir())
            shutil.rmtree(folder / "out", ignore_errors=True)
            _require(not left, f"left behind: {left}")
            _require(not Path(os.environ[CANARY]).exists(), "code was run")
            _require(set(folder.iterdir()) - known <= {folder / "out", Path(elsewhere)}, "files")
    return ""


def _require(so: bool, words: str) -> None:
    if not so:
        raise AssertionError(words)


def mutant(data: bytes, random: np.random.Generator) -> tuple[bytes, bool]:
    """Damaged; or, of archives, with an entry changed and right sums."""
    if data[:4] == b"PK\x03\x04" and random.random() < 0.3:
        return _other_entry(data, random), False
    if random.random() < 0.1:
        return random.bytes(int(random.integers(1, 2000))), True
    for _ in range(int(random.integers(1, 4)) if random.random() < 0.3 else 1):
        data = DAMAGE[int(random.integers(len(DAMAGE)))](data, random)
    return data, True


def _other_entry(data: bytes, random: np.random.Generator) -> bytes:
    """The archive with one entry damaged, renamed, doubled or taken out; all sums are right.

    Programs stay as they are: what a trusted one does is its author's.
    """
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(written, "w") as new:
        names = old.namelist()
        safe = [name for name in names if not name.endswith((".py", ".ts", ".debug_pkl"))]
        chosen = safe[int(random.integers(len(safe)))]
        programs = any("/code/" in name or name.endswith(".ts") for name in names)
        what = int(random.integers(4))
        for name in names:
            content = old.read(name)
            if name == chosen and what == 0 and not (programs and name.endswith(".pkl")):
                content = DAMAGE[int(random.integers(len(DAMAGE)))](content or b"x", random)
            if name == chosen and what == 1:
                name = ("../" if random.random() < 0.5 else "other/") + name
            if name == chosen and what == 2:
                continue
            new.writestr(name, content)
            if name == chosen and what == 3:
                warnings.simplefilter("ignore")
                new.writestr(name, content)
    return written.getvalue()


READING = Reading(
    bases, read, lambda one, other: True, (ModelError,), ".pt", mutant, most_bytes=600_000_000
)

if __name__ == "__main__":
    sys.exit(main(__doc__.partition("\n")[0], 22_000, READING, __file__))
