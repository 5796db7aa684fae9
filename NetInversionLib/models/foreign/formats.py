"""Network files of all kinds: told apart without running them, and read with suspicion."""

from __future__ import annotations

import io
import logging
import pickle
import re
import stat
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ...core.text import shown
from ..card import ModelError
from ..header import METADATA_KEY

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

OWN, STATE, SCRIPT, EXPORTED, ONNX, BUNDLE = (
    "NetInversion model",
    "state dict",
    "TorchScript",
    "torch.export",
    "ONNX",
    "MONAI bundle",
)
# What a checkpoint calls the part that holds the weights.
CONTAINERS = (
    "model_state_dict",
    "state_dict",
    "network_weights",
    "params_ema",
    "params",
    "model",
    "Model_EMA",
    "Model",
    "net",
    "generator",
    "netG",
    "ema",
)
# torch and MONAI store weights as they are; text compresses well, but not a thousandfold.
MOST_EXPANDED = 200
# Before it, torch.load could be made to run code even with weights_only.
SAFE_TORCH = (2, 6)
SAVE_WEIGHTS = "torch.save(network.state_dict(), 'weights.pt')"


def kind_of(path: Path | str) -> str:
    """What kind of network file this is, from its first bytes and its list of content.

    Raises:
        ModelError: It is none of the kinds that can be read; says what to do.
    """
    path = Path(path)
    if path.is_dir():
        if (path / "configs" / "metadata.json").is_file():
            return BUNDLE
        raise ModelError(f"{path.name} is a folder without configs/metadata.json: no MONAI bundle")
    try:
        with open(path, "rb") as file:
            start = file.read(64 << 10)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}; check the path") from error
    if start[:4] == b"PK\x03\x04":
        kind = _kind_of_archive(path)
        _require_whole(path)
        return kind
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return OWN if f'"{METADATA_KEY}"'.encode() in start else STATE
    if path.suffix == ".onnx":
        return ONNX
    if start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04"):
        return STATE  # the format of torch before 1.6
    if not start:
        raise ModelError(f"{path.name} is empty: save or copy it again")
    raise ModelError(
        f"{path.name} is no network file that can be read (it begins with {start[:4]!r}). Known are"
        f" {KNOWN}"
    )


def _kind_of_archive(path: Path) -> str:
    names = [name.partition("/")[2] for name in checked_names(path)]
    whole = checked_names(path)
    if any(name.endswith("configs/metadata.json") for name in whole):
        return BUNDLE
    if any(name.startswith("code/") for name in names):
        return SCRIPT
    exported = ("models/model.json", "serialized_exported_program.json", "archive_format")
    if any(name in exported for name in (*names, *whole)):
        return EXPORTED
    if "data.pkl" in names:
        return STATE
    raise ModelError(f"{path.name} is an archive, and no network that can be read is in it")


def checked_names(path: Path) -> list[str]:
    """Names in a zip file that stays within its folder and its size.

    Raises:
        ModelError: It is damaged, leads out of its folder, or unpacks to far more than it is.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ModelError(f"{path.name} is damaged ({_first_line(error)}); get it again") from error
    for entry in entries:
        name = PurePosixPath(entry.filename.replace("\\", "/"))
        linked = stat.S_ISLNK(entry.external_attr >> 16)
        if name.is_absolute() or ".." in name.parts or ":" in entry.filename or linked:
            raise ModelError(
                f"{path.name} holds a name that leads out of its folder ({entry.filename[:80]!r})"
            )
    size = path.stat().st_size
    if sum(entry.file_size for entry in entries) > MOST_EXPANDED * size:
        raise ModelError(f"{path.name} would unpack to more than {MOST_EXPANDED} times its size")
    if len({entry.filename for entry in entries}) < len(entries):
        raise ModelError(f"{path.name} is damaged (a name occurs twice); get the file again")
    return [entry.filename for entry in entries]


def _require_whole(path: Path) -> None:
    """Compare every entry of a zip file with its sum, which torch does not.

    Raises:
        ModelError: One is not what was written.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # noqa: BLE001 - zlib and lzma have their own kinds of error
        raise ModelError(f"{path.name} is damaged ({_first_line(error)}); get it again") from error
    if damaged is not None:
        raise ModelError(
            f"{path.name} is damaged (the sum of {damaged[:80]!r} is wrong); get it again"
        )


# Weights ------------------------------------------------------------------------------------------


def weights_of(path: Path | str) -> dict[str, Tensor]:
    """The weights in a file of weights, whatever container they are in. Nothing in it is run.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        ModelError: The file is damaged, or holds Python objects, which are never opened; says how
            to get at the weights.
    """
    path = Path(path)
    if kind_of(path) not in (STATE, OWN):
        raise ModelError(f"{path.name} is a file of {kind_of(path)} and not of weights alone")
    values = _safetensors(path) if path.suffix == ".safetensors" else _checkpoint(path)
    state = _inner(values)
    if not state:
        raise ModelError(f"{path.name} holds no weights (it has: {_words(values)})")
    return state


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, MemoryError) as error:
        raise ModelError(f"{path.name} is damaged ({_first_line(error)}); get it again") from error


def _checkpoint(path: Path) -> Any:
    """What torch reads of a file with weights_only, which runs nothing."""
    import torch

    if torch_is_unsafe():
        raise ModelError(
            f"{path.name} cannot be opened safely by PyTorch {torch.__version__} (CVE-2025-32434):"
            " use PyTorch 2.6 or later, or a .safetensors file"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found is None:
            raise ModelError(f"{path.name} is damaged; get the file again") from error
        raise ModelError(
            f"{path.name} holds Python objects ({found[1]}): opening it would run code, so it is"
            " not opened. Where it was made, save the weights alone, with"
            f" {SAVE_WEIGHTS}, and import that with --architecture"
        ) from error
    except Exception as error:  # noqa: BLE001 - whatever a damaged file makes torch raise
        raise ModelError(f"{path.name} is damaged ({_first_line(error)}); get it again") from error


def torch_is_unsafe() -> bool:
    """Whether this PyTorch is one whose ``torch.load`` could be made to run code."""
    import torch

    found = re.match(r"(\d+)\.(\d+)", torch.__version__)
    return found is None or (int(found[1]), int(found[2])) < SAFE_TORCH


def _inner(values: Any) -> dict[str, Tensor]:
    """The table of weights in a checkpoint: itself, or under one of the usual names."""
    import torch

    if not isinstance(values, Mapping):
        return {}
    tensors = {str(key): v for key, v in values.items() if isinstance(v, torch.Tensor)}
    if tensors and len(tensors) >= len(values) / 2:
        return tensors
    for name in CONTAINERS:
        part = values.get(name)
        # KonfAI has a table for each of its networks, mostly one.
        if isinstance(part, Mapping) and len(part) == 1:
            part = next(iter(part.values())) if not _inner(part) else part
        found = _inner(part)
        if found:
            return found
    return tensors


def _words(values: Any) -> str:
    if isinstance(values, Mapping):
        return ", ".join(shown(str(key))[:40] for key in list(values)[:8]) or "nothing"
    return type(values).__name__


def without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights without what wrappers put before every name ("module.", "model.", ...)."""
    names = list(state)
    while names and all("." in name for name in names):
        first = names[0].partition(".")[0]
        if first.isdigit() or not all(name.startswith(first + ".") for name in names):
            break
        if first not in ("module", "model", "net", "network", "generator", "netG", "_orig_mod"):
            break
        names = [name[len(first) + 1 :] for name in names]
    return dict(zip(names, state.values()))


# Networks with their own code ---------------------------------------------------------------------


def load_script(path: Path | str, device: torch.device | str = "cpu") -> nn.Module:
    """A TorchScript file as a module. It can run code: ask first.

    Raises:
        ModelError: It is damaged.
    """
    import torch

    _require_storages(Path(path))
    try:
        return torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelError(f"{Path(path).name} is damaged ({_first_line(error)})") from error


class _Anything:
    """Stands for whatever a pickle makes; does nothing."""

    def __init__(self, *of: Any) -> None: ...
    def __setstate__(self, state: Any) -> None: ...
    def __setitem__(self, key: Any, value: Any) -> None: ...
    def append(self, value: Any) -> None: ...
    def extend(self, values: Any) -> None: ...


class _Storages(pickle.Unpickler):
    """Reads which weights a pickle of torch names; imports, makes and runs nothing.

    Attributes:
        needed: Bytes of each, by the name of its entry.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.needed: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> type:
        return type(name, (_Anything,), {})

    def persistent_load(self, told: Any) -> _Anything:
        import torch

        _, kind, key, _, count = told
        with warnings.catch_warnings():  # that torch no longer likes these names
            warnings.simplefilter("ignore")
            dtype = getattr(getattr(torch, kind.__name__, None), "dtype", None)
        self.needed[str(key)] = int(count) * dtype.itemsize if dtype is not None else 0
        return _Anything()


def _require_storages(path: Path) -> None:
    """Compare the weights that a TorchScript file names with those in it.

    torch does not: of an entry that is too short it reads memory behind it.

    Raises:
        ModelError: An entry is too short, or damaged.
    """
    checked_names(path)
    try:
        _compare_storages(path)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError) as error:
        raise ModelError(f"{path.name} is damaged ({_first_line(error)})") from error


def _compare_storages(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        for name in sizes:
            root, _, last = name.partition("/")
            if last not in ("data.pkl", "constants.pkl"):
                continue
            for key, needed in _storages(archive.read(name)).items():
                found = sizes.get(f"{root}/{last.removesuffix('.pkl')}/{key}", needed)
                if found < needed:
                    raise ModelError(
                        f"{path.name} is damaged (weights of {needed} bytes have {found}); get it"
                        " again"
                    )


def _storages(pickled: bytes) -> dict[str, int]:
    """Bytes that each of the weights needs that a pickle of torch names."""
    reading = _Storages(io.BytesIO(pickled))
    try:
        reading.load()
    except Exception:  # noqa: BLE001 - no pickle of torch: torch says what is wrong with it
        pass
    return reading.needed


def load_exported(path: Path | str) -> nn.Module:
    """A torch.export file as a module. It can run code: ask first.

    Raises:
        ModelError: It is damaged, or made by a version that this one cannot read.
    """
    import torch

    try:
        with _unlogged("torch.export"):
            return torch.export.load(str(path)).module()
    except Exception as error:  # noqa: BLE001 - whatever a damaged file makes torch raise
        raise ModelError(f"{Path(path).name} cannot be read ({_first_line(error)})") from error


def load_onnx(path: Path | str) -> nn.Module:
    """An ONNX file as a module, by the package onnx2torch. It can run code: ask first.

    The converter puts the names of nodes into Python code between quotes: what could end these is
    taken out of them before.

    Raises:
        ModelError: The package is missing, the file is damaged, or it has operators that the
            package does not know; says which.
    """
    path = Path(path)
    try:
        import onnx
        import onnx2torch
    except ImportError as error:
        raise ModelError(
            f"ONNX files are read by the package onnx2torch, which is missing ({error}): install it"
            " with 'pip install netinversion[onnx]'"
        ) from error
    try:
        graph = onnx.load(str(path), load_external_data=False)
        onnx.checker.check_model(graph)
        versions = {entry.domain or "ai.onnx": entry.version for entry in graph.opset_import}
        operators = sorted({node.op_type for node in graph.graph.node})
        for node in graph.graph.node:
            node.name = re.sub(r"\W", "_", node.name, flags=re.ASCII)
    except Exception as error:  # noqa: BLE001 - whatever a damaged file makes onnx raise
        raise ModelError(f"{path.name} is damaged ({_first_line(error)})") from error
    try:
        return onnx2torch.convert(graph)
    except Exception as error:  # noqa: BLE001 - whatever the converter raises
        unknown = [name for name in operators if name not in _converted_operators()]
        raise ModelError(
            f"{path.name} cannot be converted ({_first_line(error)}). It is of operator set"
            f" {versions} and uses {', '.join(operators)}; not known to onnx2torch at all:"
            f" {', '.join(unknown) or 'none of them'}. Export the network with an older operator"
            " set, or give its weights and class"
        ) from error


def _converted_operators() -> set[str]:
    """Names of the ONNX operators that the converter knows, in any version."""
    from onnx2torch.node_converters import registry

    return {known.operation_type for known in getattr(registry, "_CONVERTER_REGISTRY", ())}


def _load_bundle(path: Path) -> nn.Module:
    from . import bundle

    return bundle.load_network(path)


@dataclass(frozen=True)
class Format:
    """A kind of file that holds a network with its own code: ask before ``load`` is called.

    ``told``: it with its usual endings, as messages and help say it; ``endings``: those that a
    dialog offers.
    """

    load: Callable[[Path], nn.Module]
    told: str
    endings: tuple[str, ...]


FORMATS = {
    SCRIPT: Format(load_script, "TorchScript", (".ts",)),
    EXPORTED: Format(load_exported, "torch.export (.pt2)", (".pt2",)),
    # onnx2torch writes Python code with the file's names in it, which torch.fx then runs.
    ONNX: Format(load_onnx, "ONNX", (".onnx",)),
    BUNDLE: Format(_load_bundle, "MONAI bundles (folder or zip)", (".zip",)),
}
"""All kinds but weights alone; ``kind_of`` tells them apart."""
CAN_RUN_CODE = tuple(FORMATS)
WEIGHTS = (".pt", ".pth", ".ckpt", ".pyt", ".safetensors")
ENDINGS = (*WEIGHTS, *(ending for one in FORMATS.values() for ending in one.endings))
KNOWN = ", ".join(
    ["state dicts (.pt, .pth, .ckpt, .safetensors)", *(one.told for one in FORMATS.values())]
)
"""Every kind of file that can be read, in words."""


def load(kind: str, path: Path) -> nn.Module:
    """The network of a file of one of ``FORMATS``. It can run code: ask first.

    Raises:
        ModelError: It is damaged, or a package that reads it is missing.
    """
    return FORMATS[kind].load(path)


def _first_line(error: BaseException) -> str:
    """What another library says of a file, as text: it may quote the file's bytes."""
    lines = str(error).strip().splitlines()
    return shown(lines[0])[:300] if lines else type(error).__name__


@contextmanager
def _unlogged(name: str) -> Iterator[None]:
    """Without what a library logs: of a damaged file torch.export logs a traceback."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
