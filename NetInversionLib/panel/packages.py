"""The Python packages that a run needs: asked for, installed, or said to be missing."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import subprocess
import threading

import slicer

from .texts import literal

PACKAGES = {"torch": "2.2", "scikit-image": "0.22", "safetensors": "0.4"}
"""What the library needs and Slicer does not bring, with the oldest version that will do."""


class PackagesMissing(RuntimeError):
    """A package is not there and was not installed; the message says what to do."""


def ensure_packages(requester: str, more: dict[str, str] | None = None) -> None:
    """See to it that everything a job imports is installed, asking the user first.

    Call it on Apply.

    Nothing is downloaded without the user's consent, and nothing at all in Slicer's testing mode.

    Args:
        requester: Name of the module that asks, shown to the user.
        more: Packages besides ``PACKAGES``, in the same form.

    Raises:
        PackagesMissing: Something is missing and was not installed.
        RuntimeError: Called outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("Packages can only be installed from the main thread.")
    wanted = {**PACKAGES, **(more or {})}
    missing = _missing(wanted)
    if missing and slicer.app.testingEnabled():
        raise PackagesMissing(
            f"{requester} needs {', '.join(missing)}, and testing mode installs nothing."
        )
    if "torch" in missing:
        _install_torch(requester, missing.pop("torch"))
    if missing:
        _install(requester, list(missing.values()))
    missing = _missing(wanted)
    if missing:
        raise PackagesMissing(
            f"{requester} needs {', '.join(missing.values())}, which the installation did not"
            " bring. Restart Slicer and try again."
        )


def _missing(wanted: dict[str, str]) -> dict[str, str]:
    """Packages that are absent or too old: name to requirement."""
    importlib.invalidate_caches()
    return {
        name: f"{name}>={minimum}"
        for name, minimum in wanted.items()
        if installed(name) < _numbers(minimum)
    }


def installed(name: str) -> tuple[int, ...]:
    try:
        return _numbers(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return ()


def _numbers(version: str) -> tuple[int, ...]:
    """Major and minor number: "2.13.0+cpu" gives (2, 13)."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _install_torch(requester: str, requirement: str) -> None:
    """Through the PyTorch extension, which knows which build fits the computer."""
    if installed("torch"):
        raise PackagesMissing(
            f"{requester} needs {requirement}, and an older PyTorch is installed. Open the module"
            " PyTorch Utils, press Uninstall, restart Slicer and try again."
        )
    try:
        logic = importlib.import_module("PyTorchUtils").PyTorchUtilsLogic()
    except ImportError:
        raise PackagesMissing(
            f"{requester} needs the PyTorch extension. Install it with the Extensions Manager,"
            " restart Slicer and try again."
        ) from None
    version = requirement.removeprefix("torch")
    try:
        torch = logic.installTorch(askConfirmation=True, torchVersionRequirement=version)
    except (subprocess.CalledProcessError, ImportError, OSError) as error:
        raise PackagesMissing(_failed("PyTorch", error)) from error
    if torch is None:
        raise PackagesMissing(_declined(requester, "PyTorch"))


def _install(requester: str, requirements: list[str]) -> None:
    """Through slicer.packaging, or through slicer.util after the same question.

    The latter in a Slicer before 5.12.
    """
    wanted = ", ".join(requirements)
    try:
        packaging = importlib.import_module("slicer.packaging")
    except ImportError:
        question = (
            f"{requester} needs Python packages that are not installed: {wanted}. Download and"
            " install them now?"
        )
        if not slicer.util.confirmOkCancelDisplay(
            literal(question), literal(f"{requester}: install Python packages")
        ):
            raise PackagesMissing(_declined(requester, wanted)) from None
        packaging = None
    try:
        if packaging:
            packaging.pip_ensure(requirements, requester=requester)
        else:
            slicer.util.pip_install(" ".join(requirements))
    except subprocess.CalledProcessError as error:
        raise PackagesMissing(_failed(wanted, error)) from error
    except RuntimeError as error:
        raise PackagesMissing(_declined(requester, wanted)) from error


def _declined(requester: str, wanted: str) -> str:
    return (
        f"{requester} cannot run without {wanted}. Press Apply again and agree to the installation."
    )


def _failed(wanted: str, error: Exception) -> str:
    return (
        f"{wanted} could not be installed ({error}). Check the connection to the internet and try"
        " again."
    )
