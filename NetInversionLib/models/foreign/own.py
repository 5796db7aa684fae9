"""Architectures by name: registered ones, and a user's own class in a file or a package."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from ... import networks
from ...core.text import shown
from ..card import ModelError
from .formats import without_prefix
from .trust import code_of, code_sha256, require, spelt_out


def class_of(spec: str) -> tuple[Callable[..., nn.Module], str]:
    """The class (or function) that makes a network, and the SHA-256 of its source.

    Args:
        spec: "my_package.nets:MyNet", "path/to/net.py:MyNet", the name of an entry point of the
            group "netinversion.architectures", or a name in ``networks.ARCHITECTURES``.

    Raises:
        ModelError: There is none, or its code is not trusted.
    """
    if spec in networks.ARCHITECTURES:
        return networks.ARCHITECTURES[spec], ""
    spec = spelt_out(spec)
    if ":" not in spec:
        raise ModelError(
            f"there is no architecture {spec!r}. Registered are"
            f" {', '.join(sorted(networks.ARCHITECTURES))}; name your own as my_package:MyNet or"
            " net.py:MyNet"
        )
    place, _, name = spec.rpartition(":")
    code = code_of(spec)
    assert code is not None
    require(code, code_sha256(code))
    module = _module_of_file(code) if place.endswith(".py") else _module_of_package(place)
    made = getattr(module, name, None)
    if not callable(made):
        classes = [
            key
            for key, value in vars(module).items()
            if isinstance(value, type) and issubclass(value, nn.Module)
        ]
        has = ", ".join(classes[:20]) or "no class of torch.nn.Module"
        if not name:
            raise ModelError(f"say which class of {place} it is: {has}")
        raise ModelError(f"{place} has no {name!r}; it has {has}")
    return made, _source_hash(made, module)


def _module_of_file(path: Path) -> ModuleType:
    name = f"netinversion_own_{code_sha256(path)[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise ModelError(f"{path.name} is no Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the user's code raises
        del sys.modules[name]
        raise ModelError(
            f"{path.name} does not run: {type(error).__name__}: {error}{_way_out(path, error)}"
        ) from error
    return module


def _way_out(path: Path, error: BaseException) -> str:
    """What a user can do about a Python file that does not run: a sentence, or nothing."""
    if isinstance(error, SyntaxError):
        return ""
    if isinstance(error, ImportError):
        missing = (error.name or "").partition(".")[0]
        beside = f"{missing}.py" if (path.parent / f"{missing}.py").is_file() else "what lies"
        if missing and beside == "what lies":
            return ". Install it for this Python, or take the import out"
        return (
            f". It is read without {beside} beside it: put all that the class needs into one file,"
            " or install it as a package"
        )
    return (
        ". All of the file is run to find the class: put what trains, reads data or reads a command"
        " line under if __name__ == '__main__':"
    )


def _module_of_package(place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ImportError as error:
        raise ModelError(f"there is no package {place!r} ({error}): install it first") from error


def _source_hash(made: Any, module: ModuleType) -> str:
    """SHA-256 of the file that defines a class: of a package, the one that holds it."""
    defining = sys.modules.get(getattr(made, "__module__", ""), module)
    file = getattr(defining, "__file__", None)
    if not file or not Path(file).is_file():
        return ""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def with_weights(
    architecture: Mapping[str, Any], state: Mapping[str, Tensor], file: str
) -> nn.Module:
    """A network of an architecture with weights.

    Args:
        architecture: "spec", "arguments", and "sha256" of the source as it was when the network was
            imported ("" where that does not matter).
        state: Weights by name.
        file: Where they come from, for errors.

    Raises:
        ModelError: There is no such architecture, its source has changed, or the weights do not
            fit; says which.
    """
    spec, arguments = str(architecture.get("spec")), architecture.get("arguments") or {}
    made, sha256 = class_of(spec)
    if architecture.get("sha256") and architecture["sha256"] != sha256:
        raise ModelError(
            f"the source of {spec} has changed since {file} was imported: import it again"
        )
    try:
        network = made(**arguments)
    except Exception as error:  # noqa: BLE001 - whatever the user's code raises
        raise ModelError(
            f"{spec} cannot be made"
            f" {f'with the arguments {arguments}' if arguments else 'without arguments'}:"
            f""" {type(error).__name__}: {error}. Give them, such as {{"width": 32}}, with"""
            " --arguments"
        ) from error
    if not isinstance(network, nn.Module):
        raise ModelError(f"{spec} makes {type(network).__name__} and no torch.nn.Module")
    fill(network, state, f"{file} and {spec}")
    return network.eval()


def fill(network: nn.Module, state: Mapping[str, Tensor], called: str) -> None:
    """Load weights into a network, with or without a wrapper's prefix before every name.

    Raises:
        ModelError: They do not fit; says which.
    """
    wanted = network.state_dict()
    bare = without_prefix(state)
    given = state if len(wanted.keys() & state.keys()) >= len(wanted.keys() & bare.keys()) else bare
    counts = {n for n in wanted.keys() ^ given.keys() if n.endswith("num_batches_tracked")}
    missing = sorted(wanted.keys() - given.keys() - counts)
    unknown = sorted(given.keys() - wanted.keys() - counts)
    wrong = [n for n in wanted.keys() & given.keys() if wanted[n].shape != given[n].shape]
    if missing or unknown or wrong:
        parts = [
            f"{len(names)} {words} (first: {shown(sorted(names)[0])[:100]})"
            for names, words in (
                (missing, "weights are missing"),
                (unknown, "are unknown"),
                (wrong, "have another shape"),
            )
            if names
        ]
        if wrong:
            shapes = (" x ".join(map(str, of[min(wrong)].shape)) for of in (given, wanted))
            parts[-1] = parts[-1][:-1] + ", {} in the file and {} in the class)".format(*shapes)
        raise ModelError(
            f"{called} do not fit: {'; '.join(parts)}. Is the class the right one, and are its"
            " arguments those of the training?"
        )
    network.load_state_dict({n: given.get(n, wanted[n]) for n in wanted})
