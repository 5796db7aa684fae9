"""Acquirable ideal input: the same objective over knobs that a scanner has, instead of free voxels.

Each knob is one or a few numbers in [-1, 1] that act on the patient's images in the network's
normalised units; 0 leaves them as they are (for the echo mix, -1). The batched L-BFGS turns each
knob alone, and all together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from skimage.restoration import denoise_tv_chambolle
from torch import Tensor

from ..core.progress import Progress
from ..core.results import Table
from ..optimise import lbfgs
from ..optimise.objective import Objective

EVALUATIONS = 40
MOST_IMAGES = 8


@dataclass(frozen=True)
class Knob:
    """``apply(images, values) -> images``.

    Images of shape (N, C, *space); values are one number per entry of ``start``.

    ``describe(values)``: what the setting means to someone at a scanner.
    """

    name: str
    start: tuple[float, ...]
    apply: Callable[[Tensor, Tensor], Tensor]
    describe: Callable[[list[float]], str]


def knobs(patient: Tensor, roles: list[str]) -> list[Knob]:
    """The knobs that make sense for these channels, in the order in which they act.

    The echo mix needs the roles "in_phase", "fat_fraction" and "water_fraction"; the receive field
    acts on every channel that is not a fraction (a ratio cancels it).

    Args:
        patient: The patient's images, normalised, shape (images, C, *space).
        roles: Of the C channels.
    """
    magnitude = [index for index, role in enumerate(roles) if not role.endswith("fraction")]
    found = []
    if {"in_phase", "fat_fraction", "water_fraction"} <= set(roles):
        found.append(
            _echo_mix(*(roles.index(r) for r in ("in_phase", "fat_fraction", "water_fraction")))
        )
    if magnitude:
        found.append(_receive_field(magnitude, patient.shape))
    return found + [
        _point_spread(patient.dim() - 2),
        _noise_level(patient),
        _per_channel("gain", roles, _gain),
        _per_channel("offset", roles, _offset),
        _per_channel("gamma", roles, _gamma),
    ]


class _Turning:
    """Knobs that are turned each alone, then all together, one row of values for each of these.

    Attributes:
        start: Of shape (values,), all knobs at rest, one after the other.
        turned: Of shape (knobs + 1, values), 1 where a row turns a value.
    """

    def __init__(self, patient: Tensor, available: list[Knob]):
        self.patient, self.knobs = patient, available
        self.ends = np.cumsum([0, *(len(knob.start) for knob in available)])
        self.start = torch.tensor(
            [value for knob in available for value in knob.start], dtype=patient.dtype
        )
        self.turned = torch.zeros(len(available) + 1, len(self.start))
        for row in range(len(available)):
            self.turned[row, self.ends[row] : self.ends[row + 1]] = 1
        self.turned[-1] = 1

    def _of_row(self, values: Tensor, row: int) -> Iterator[tuple[Knob, Tensor]]:
        """The knobs that a row turns, each with its own values."""
        for index, knob in enumerate(self.knobs):
            if self.turned[row, self.ends[index]]:
                yield knob, values[self.ends[index] : self.ends[index + 1]]

    def images(self, values: Tensor, row: int) -> Tensor:
        """The patient's images (images, C, *space) behind the knobs of a row."""
        x = self.patient
        for knob, own in self._of_row(values, row):
            x = knob.apply(x, own)
        return x

    def describe(self, values: Tensor, row: int) -> list[str]:
        """What each knob of a row is set to, in words."""
        return [knob.describe(own.tolist()) for knob, own in self._of_row(values, row)]

    def value_and_gradient(
        self, objective: Objective, values: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The error (rows,) and its slope (rows, values), on the CPU."""
        losses, slopes = [], []
        for value, row in zip(values, rows.tolist()):
            with torch.enable_grad():
                value = value.detach().to(self.patient.device).requires_grad_()
                x = self.images(value, row)
                loss, slope = objective.value_and_gradient(
                    x.detach(), torch.arange(len(x), device=x.device)
                )
                (gradient,) = torch.autograd.grad(x, value, slope / len(x))
            losses.append(loss.mean())
            slopes.append(gradient)
        return torch.stack(losses).cpu(), torch.stack(slopes).cpu() * self.turned[rows]


def acquirable(
    patient: Tensor,
    objective: Objective,
    roles: list[str],
    units: str,
    scale: float,
    free_error: float,
    progress: Progress,
) -> Table:
    """Table "acquirable": what the knobs buy of the free-voxel improvement.

    Each alone, and all together.

    Args:
        patient: Of shape (images, C, *space), normalised.
        objective: For the same images, a mean over voxels.
        roles: Of the channels.
        units: Of the error.
        scale: ``units`` per normalised unit.
        free_error: Error of the free-voxel ideal input on the same images, in ``units``.
        progress: Receives progress; may raise ``Cancelled``.
    """
    turn = _Turning(patient, knobs(patient, roles))

    def report(evaluation: int, best: object) -> None:
        progress.report(
            0.96 + 0.03 * evaluation / EVALUATIONS,
            f"Turning the scanner's knobs, step {evaluation}",
        )

    options = lbfgs.Options(max_evaluations=EVALUATIONS, history=8, first_step=0.1)
    solution = lbfgs.minimize(
        lambda values, rows: turn.value_and_gradient(objective, values, rows),
        turn.start.repeat(len(turn.turned), 1),
        options,
        lower=-1.0,
        upper=1.0,
        callback=report,
    )

    before = objective.mean_error(patient) * scale
    columns: dict[str, list] = {
        heading: []
        for heading in ("knob", "setting", f"MAE ({units})", "share of the free-voxel gain (%)")
    }

    def add(*row) -> None:
        for heading, value in zip(columns, row):
            columns[heading].append(value)

    gain = before - free_error
    add("none (patient's own input)", "as acquired", before, 0.0)
    for row, name in enumerate([*(knob.name for knob in turn.knobs), "all together"]):
        values = solution.x[row]
        found = turn.images(values.to(patient.device), row).detach()
        error = objective.mean_error(found) * scale
        parts = turn.describe(values, row)
        # A knob that only makes things worse is left alone.
        setting, error = ("; ".join(parts), error) if error < before else ("as acquired", before)
        add(name, setting, error, 100 * (before - error) / gain if gain > 0 else float("nan"))
    add("free voxels", "ideal input", free_error, 100.0)
    return Table("What a scanner's knobs buy", columns)


# -- the knobs -------------------------------------------------------------------------------------


def _per_channel(name: str, roles: list[str], make: tuple) -> Knob:
    apply, word = make

    def on_all(x: Tensor, values: Tensor) -> Tensor:
        return apply(x, values.reshape(1, -1, *[1] * (x.dim() - 2)))

    return Knob(
        f"{name} of each channel",
        (0.0,) * len(roles),
        on_all,
        lambda values: ", ".join(f"{role} {word(v)}" for role, v in zip(roles, values)),
    )


_gain = (lambda x, v: x * 2**v, lambda v: f"x {2**v:.2f}")
_offset = (lambda x, v: x + 0.2 * v, lambda v: f"{0.2 * v:+.3f}")
# A gamma has infinite slope at 0 when below 1: values under 0.001 are moved along with it.
_gamma = (
    lambda x, v: x.clamp(min=1e-3) ** (2**v) + (x - x.clamp(min=1e-3)),
    lambda v: f"^ {2**v:.2f}",
)


def _echo_mix(in_phase: int, fat: int, water: int) -> Knob:
    """|W + F exp(i phi)|: phi 0 is in phase, pi opposed. -1..1 is 0..pi; flat at in phase, so it
    starts beside it.
    """

    def apply(x: Tensor, values: Tensor) -> Tensor:
        f, w = x[:, fat].clamp(min=0), x[:, water].clamp(min=0)
        cosine = torch.cos(math.pi * (values[0] + 1) / 2)
        mixed = (((w - f) ** 2 + 2 * w * f * (1 + cosine) + 1e-6) / ((w + f) ** 2 + 1e-6)).sqrt()
        factor = torch.where(w + f > 0.05, mixed, torch.ones_like(mixed))
        return torch.cat(
            [x[:, :in_phase], (x[:, in_phase] * factor)[:, None], x[:, in_phase + 1 :]], 1
        )

    return Knob(
        "echo mix", (-0.8,), apply, lambda v: f"water-fat phase {90 * (v[0] + 1):.0f} degrees"
    )


def _receive_field(channels: list[int], shape: torch.Size) -> Knob:
    """exp of a second-order polynomial of in-plane position (and first order along k), each term up
    to 30 %.
    """
    ramps = [
        torch.linspace(-1, 1, n).reshape([-1 if axis == a else 1 for a in range(len(shape) - 2)])
        for axis, n in enumerate(shape[2:])
    ]
    terms = [
        a * torch.ones(shape[2:])
        for a in (*ramps, *(r * r - 1 / 3 for r in ramps), ramps[-1] * ramps[-2])
    ]
    basis = torch.stack(terms)

    def apply(x: Tensor, values: Tensor) -> Tensor:
        field = torch.exp(0.3 * torch.tensordot(values, basis.to(x), 1))
        return torch.stack(
            [x[:, c] * field if c in channels else x[:, c] for c in range(x.shape[1])], 1
        )

    return Knob(
        "receive field",
        (0.0,) * len(terms),
        apply,
        lambda v: f"{100 * (math.exp(0.3 * max(map(abs, v))) - 1):.0f} % in its strongest term",
    )


def _point_spread(dimensions: int) -> Knob:
    """In-plane transfer function exp(v ln 4 (k / Nyquist)^2): -1 blurs to a quarter at Nyquist, 1
    sharpens fourfold.
    """

    def apply(x: Tensor, values: Tensor) -> Tensor:
        pad = 8
        size = x.shape[-2:]
        flat = torch.nn.functional.pad(x.flatten(0, -3)[None], (pad,) * 4, mode="replicate")
        k2 = (
            torch.fft.fftfreq(size[0] + 2 * pad)[:, None] ** 2
            + torch.fft.rfftfreq(size[1] + 2 * pad)[None] ** 2
        ) / 0.25
        transfer = torch.exp(values[0] * math.log(4) * k2.clamp(max=1).to(x))
        sharp = torch.fft.irfft2(torch.fft.rfft2(flat) * transfer, s=flat.shape[-2:])
        return sharp[..., pad:-pad, pad:-pad].reshape(x.shape)

    return Knob(
        "point spread",
        (0.0,),
        apply,
        lambda v: f"{'sharper' if v[0] > 0 else 'softer'}: {4 ** v[0]:.2f} x contrast at Nyquist",
    )


def _noise_level(patient: Tensor) -> Knob:
    """The image's noise, as total-variation denoising sees it, times 0 (perfect averaging) to 2
    (half the averages).
    """
    images = patient.cpu().numpy()
    smooth = np.empty_like(images)
    for n, image in enumerate(images):
        for c, channel in enumerate(image):
            sigma = noise_sigma(channel)
            smooth[n, c] = (
                denoise_tv_chambolle(channel, weight=1.5 * sigma) if sigma > 0 else channel
            )
    noise = torch.from_numpy(images - smooth).to(patient)
    return Knob(
        "noise level",
        (0.0,),
        lambda x, values: x + values[0] * noise,
        lambda v: f"x {1 + v[0]:.2f}",
    )


def noise_sigma(image: np.ndarray) -> float:
    """Standard deviation of white noise in an image, blind to linear structure.

    Only differences within a slice count.

    Args:
        image: [j, i] or [k, j, i], any unit.

    Returns:
        The deviation, in the image's unit.

    Source:
        Immerkaer, Comput. Vis. Image Underst. 64, 1996, with the median in place of the mean.
    """
    second = ndimage.convolve1d(ndimage.convolve1d(image, [1, -2, 1], axis=-1), [1, -2, 1], axis=-2)
    return float(np.median(np.abs(second)) / 0.6745 / 6)
