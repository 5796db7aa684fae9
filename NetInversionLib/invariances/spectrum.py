"""How many input directions a layer really loses.

That is told by the singular values of its Jacobian, all of them or their density.

A gain is what a change of the region's content of root mean square 1 (normalised units) does to the
level set's measure: HU of output, or the relative change of a hidden layer. A direction is lost for
a tolerance epsilon and an input change c when its gain is at most epsilon / c: a change of that
size along it stays within the tolerance. A layer without lost directions is injective there, and an
"invariance" shown for it would be the error of whatever drew it.

Source of the density: stochastic Lanczos quadrature, Ubaru, Chen & Saad, SIAM J. Matrix Anal. Appl.
2017;38:1075.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..core.progress import Progress
from ..core.results import Curve
from .choices import LANCZOS_STEPS, LARGEST_DENSE, PROBES
from .level_set import LevelSet


@dataclass(frozen=True)
class Spectrum:
    """Gains of a region's directions.

    Attributes:
        gains: In the level set's units per normalised unit, descending, float64 (G,).
        weights: How many directions each stands for, (G,); they add up to the region's voxels. 1
            each for a whole spectrum.
        whole: Every singular value, or an estimate of their density.
        units: "HU" or "relative".
    """

    gains: np.ndarray
    weights: np.ndarray
    whole: bool
    units: str

    def lost(self, epsilon: float, change: float) -> float:
        """Share of the directions, 0 to 1, along which a change stays within epsilon.

        Its root mean square is ``change``, normalised.
        """
        return float(self.weights[self.gains * change <= epsilon].sum() / self.weights.sum())

    def words(self, epsilon: float, change: float, layer: str) -> str:
        """What that means, for a clinician; ``layer`` as it is called."""
        lost, limit = (
            self.lost(epsilon, change),
            f"{epsilon:.3g} HU" if self.units == "HU" else f"{100 * epsilon:.3g} %",
        )
        if lost * self.weights.sum() < 0.5:
            return (
                f"{layer} loses no direction of the region: a change as large as those proposed"
                f" shows, whatever its pattern (tolerance {limit}). What passes unnoticed all the"
                " same is smaller."
            )
        about = "" if self.whole else "about "
        return (
            f"{layer} loses {about}{100 * lost:.2g} % of the region's directions (tolerance"
            f" {limit})."
        )


def spectrum(
    level_set: LevelSet,
    progress: Progress = Progress(),
    seed: int = 0,
    steps: int = LANCZOS_STEPS,
    probes: int = PROBES,
) -> Spectrum:
    """All gains of regions up to 24 x 24 voxels, their density above.

    Args:
        seed: Of the probes. steps: Lanczos steps, each a product with the Jacobian and its
            transpose. probes: Random vectors.
    """
    if level_set.start.numel() <= LARGEST_DENSE:
        return _dense(level_set, progress)
    return _density(level_set, progress, seed, steps, probes)


def curve(spectra: dict[str, Spectrum]) -> Curve:
    """Gain over the share of directions that have at least that gain.

    A line per layer, largest gain 1.
    """
    lines = {}
    for name, found in spectra.items():
        share = np.cumsum(found.weights) / found.weights.sum()
        lines[name] = (
            share.tolist(),
            (np.maximum(found.gains, 1e-12 * found.gains[0]) / found.gains[0]).tolist(),
        )
    return Curve(
        "How strongly does the network react to changes?",
        "share of all directions of change",
        "reaction / strongest reaction",
        lines,
        log_y=True,
    )


def _dense(level_set: LevelSet, progress: Progress) -> Spectrum:
    jacobian, n = _Jacobian(level_set), level_set.start.numel()
    basis = torch.eye(n, dtype=torch.float64, device=jacobian.device)
    columns = []
    for number, direction in enumerate(basis):
        progress.report(number / n, f"Counting lost directions, {number} of {n} tried")
        columns.append(jacobian.times(direction))
    # The Gram matrix would square the condition: small gains are what is looked for.
    values = torch.linalg.svdvals(torch.stack(columns, 1)).cpu().numpy()
    return Spectrum(_gains(values, level_set), np.ones(len(values)), True, level_set.units)


def _density(
    level_set: LevelSet, progress: Progress, seed: int, steps: int, probes: int
) -> Spectrum:
    generator = torch.Generator().manual_seed(seed)
    jacobian, n = _Jacobian(level_set), level_set.start.numel()
    squares, weights = [], []
    for probe in range(probes):
        progress.report(probe / probes, f"Density of the spectrum, probe {probe + 1} of {probes}")
        # Drawn on the CPU: the same numbers on every device.
        start = torch.randn(n, generator=generator, dtype=torch.float64, device="cpu").to(
            jacobian.device
        )
        diagonal, off = _lanczos(jacobian, start / start.norm(), min(steps, n))
        values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1))
        squares.append(np.maximum(values, 0))
        weights.append(vectors[0] ** 2 * n / probes)
    gains = np.concatenate(squares)
    order = np.argsort(-gains)
    return Spectrum(
        _gains(np.sqrt(gains[order]), level_set),
        np.concatenate(weights)[order],
        False,
        level_set.units,
    )


def _lanczos(jacobian: _Jacobian, q: Tensor, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Diagonal and off-diagonal of J'J in the Krylov basis of q.

    It is orthogonalised again at every step.
    """
    basis, diagonal, off = [q], [], []
    for step in range(steps):
        w = jacobian.transposed_times(jacobian.times(basis[-1]))
        diagonal.append(float(w @ basis[-1]))
        known = torch.stack(basis)
        for _ in range(2):
            w = w - known.T @ (known @ w)
        length = float(w.norm())
        if step == steps - 1 or length < 1e-12 * max(abs(d) for d in diagonal):
            break
        off.append(length)
        basis.append(w / length)
    return np.array(diagonal), np.array(off)


def _gains(singular: np.ndarray, level_set: LevelSet) -> np.ndarray:
    """A unit-length change has RMS 1 / sqrt(n); its measure is sigma / sqrt(norm) x scale."""
    return singular * level_set.scale * np.sqrt(level_set.start.numel() / level_set.norm)


def float64_device(device: torch.device) -> torch.device:
    """Where to compute in float64 for a network on this device.

    There, or on the CPU for an Apple GPU, which has no float64.
    """
    return torch.device("cpu") if device.type == "mps" else device


class _Jacobian:
    """The Jacobian J of a level set's layer at the patient's content.

    It is taken by a copy of the network in float64 on ``device``. The network runs once: a product
    then goes through its graph only.
    """

    def __init__(self, level_set: LevelSet):
        self.device = float64_device(level_set.start.device)
        # First to the device: what comes from an Apple GPU cannot become float64 on the way.
        part = copy.deepcopy(level_set.part).to(self.device).double()
        whole, content = (x.to(self.device).double() for x in (level_set.context, level_set.start))
        with torch.enable_grad():
            self.content = content.clone().requires_grad_()
            whole = whole.clone()
            whole[(...,) + level_set.inside] = self.content
            self.layer = part(whole)[level_set.counted].flatten()
            # The double-backward trick: J d is the derivative of J' u with respect to u, along d.
            self.u = torch.zeros_like(self.layer, requires_grad=True)
            (self.back,) = torch.autograd.grad(self.layer, self.content, self.u, create_graph=True)

    def times(self, direction: Tensor) -> Tensor:
        """J d, (outputs,), for d of shape (voxels,)."""
        along = direction.reshape(self.content.shape)
        return torch.autograd.grad(self.back, self.u, along, retain_graph=True)[0].detach()

    def transposed_times(self, output: Tensor) -> Tensor:
        """J' u, (voxels,), for u of shape (outputs,)."""
        found = torch.autograd.grad(self.layer, self.content, output, retain_graph=True)[0]
        return found.detach().flatten()
