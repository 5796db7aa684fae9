"""Acquirable ideal input: the same objective over a scanner's settings, instead of free voxels.

``Scanner.images`` says how the patient's images would look with other settings: to each channel
the difference is added that the signal equations (``protocol``) see between the two protocols, from
the fractions of water, fat and bone that the target CT shows, and the image's own noise is scaled.
The batched L-BFGS turns each setting alone, then all together within a scan time.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from skimage import restoration
from torch import Tensor
from torch.nn import functional as F

from ..core.progress import Progress
from ..core.results import Curve, Table
from ..optimise import lbfgs
from ..optimise.objective import Objective
from .dixon import tissue_fractions
from .protocol import (
    AVERAGES,
    BONE,
    ECHO_TIME,
    FAT,
    SETTINGS,
    SHORT_ECHO_MS,
    WATER,
    Protocol,
    in_words,
)

EVALUATIONS = 30
MOST_IMAGES = 4
LINES = 120 * 80 / 4
"""Rows times partitions of a body scan, accelerated fourfold: the reference takes a quarter of a
minute, a breath-hold."""
TIMES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Scan times at which the best protocol is looked for, as multiples of the reference's."""
DIXON = ("in_phase", "fat_fraction", "water_fraction")
BACKGROUND = 0.02
"""Of soft tissue's signal: below it fractions fade to 0, as in the simulator."""
FIELD = 0.3
"""Largest logarithm of each term of the receive field."""


class Scanner:
    """The patient's images as other settings would show them.

    Args:
        patient: Normalised, shape (images, C, *space).
        roles: Of the C channels.
        hu: The target CT in HU, shape (images, 1, *space), or None: then the contrast stays.
    """

    def __init__(self, patient: Tensor, roles: list[str], hu: Tensor | None = None):
        self.patient, self.roles = patient, roles
        self.noise = noise_of(patient)
        self.magnitude = [n for n, role in enumerate(roles) if not role.endswith("fraction")]
        self.basis = _field_terms(patient.shape[2:]).to(patient)
        self.fractions: list[Tensor] | None = None
        if hu is not None and set(DIXON) <= set(roles):
            parts = tissue_fractions(hu[:, 0].cpu().numpy())
            self.fractions = [torch.from_numpy(part).to(patient) for part in parts]
            self.reference = self.contrast(Protocol.of(patient.new_zeros(len(SETTINGS))))
            total = self.reference[0].flatten()
            in_phase = patient[:, roles.index("in_phase")].flatten()
            # Units of the patient's in-phase image for one of the signal equation's.
            self.scale = float((in_phase * total).sum() / total.square().sum().clamp(min=1e-12))

    @property
    def names(self) -> list[str]:
        """Settings that matter here, in the order of ``values``; the receive field comes last."""
        names = [setting.name for setting in SETTINGS]
        return [*(names if self.fractions else names[AVERAGES:]), "receive field"]

    def protocol(self, values: Tensor) -> Protocol:
        """The protocol of ``values``, (settings + field terms,) in [-1, 1]."""
        return Protocol.of(values[: len(SETTINGS)])

    def contrast(self, protocol: Protocol) -> list[Tensor]:
        """In-phase signal, fat fraction and water fraction that the signal equations give, each
        (images, *space), with soft tissue's undecayed signal 1, blurred by the voxel.
        """
        water, fat, bone = self.fractions or []
        unit = protocol.signal(WATER)
        water = water + bone * (protocol.signal(BONE) / unit)
        fat = fat * (protocol.signal(FAT) / unit)
        water, fat = (_blurred(part, protocol.voxel) for part in (water, fat))
        total = water + fat
        share = total / (total.square() + BACKGROUND**2)
        return [total, fat * share, water * share]

    def images(self, values: Tensor) -> Tensor:
        """The patient's images (images, C, *space) as acquired with ``values`` (settings + field
        terms,) in [-1, 1]; at 0 they are the patient's own.
        """
        protocol = self.protocol(values)
        still = self.protocol(torch.zeros_like(values))
        noise = protocol.noise() / still.noise()
        x = self.patient
        if self.fractions:
            noise = noise * still.signal(WATER) / protocol.signal(WATER)
            x = self._recontrasted(protocol)
        else:
            x = x + _blurred(x, protocol.voxel) - _blurred(x, still.voxel)
        x = x + (noise - 1) * self.noise
        field = torch.exp(FIELD * torch.tensordot(values[len(SETTINGS) :], self.basis, 1))
        lit = [x[:, n] * field if n in self.magnitude else x[:, n] for n in range(x.shape[1])]
        return torch.stack(lit, 1)

    def _recontrasted(self, protocol: Protocol) -> Tensor:
        channels = list(self.patient.unbind(1))
        for role, new, old in zip(DIXON, self.contrast(protocol), self.reference):
            place = self.roles.index(role)
            scale = self.scale if role == "in_phase" else 1.0
            changed = channels[place] + scale * (new - old)
            # A scanner's in-phase scale is arbitrary: networks read it from a high percentile.
            if role == "in_phase":
                changed = changed * (_high(channels[place]) / _high(changed).clamp(min=1e-6))
            channels[place] = changed
        return torch.stack(channels, 1)

    def words(self, values: Tensor, turned: Tensor) -> str:
        """The settings that a row turns."""
        told = self.protocol(values)
        parts = [
            in_words(setting, float(getattr(told, name)))
            for n, (setting, name) in enumerate(zip(SETTINGS, told.__dataclass_fields__))
            if turned[n]
        ]
        strongest = float(values[len(SETTINGS) :].abs().max())
        if turned[len(SETTINGS)]:
            parts.append(f"receive field {100 * (math.exp(FIELD * strongest) - 1):.0f} %")
        return ", ".join(parts)


@dataclass(frozen=True)
class Row:
    """One search: which values it turns, from where, and within what bounds.

    ``time``: of the reference's, which the averages then follow from; None leaves it free.
    ``soonest``: least value of the echo time's setting.
    """

    name: str
    turned: Tensor
    time: float | None = None
    soonest: float = -1.0


class _Search:
    """All rows at once, one row of values each, shape (rows, settings + field terms)."""

    def __init__(self, scanner: Scanner, objective: Objective):
        self.scanner, self.objective = scanner, objective
        self.size = len(SETTINGS) + len(scanner.basis)
        self.rows = [*self._alone(), *self._together()]
        self.still = scanner.protocol(torch.zeros(self.size)).minutes(LINES)

    def _alone(self) -> list[Row]:
        rows = []
        for name in self.scanner.names:
            turned = torch.zeros(self.size)
            if name == "receive field":
                turned[len(SETTINGS) :] = 1
            else:
                turned[[setting.name for setting in SETTINGS].index(name)] = 1
            rows.append(Row(name, turned))
        return rows

    def _together(self) -> list[Row]:
        turned = torch.ones(self.size)
        if not self.scanner.fractions:
            turned[:AVERAGES] = 0
        turned[AVERAGES] = 0  # follows from the time
        rows = [Row(f"all, {time:g} x the time", turned, time) for time in TIMES]
        if self.scanner.fractions:
            setting = SETTINGS[ECHO_TIME]
            soonest = -math.log(setting.reference / SHORT_ECHO_MS) / math.log(
                setting.reference / setting.low
            )
            rows.append(Row("all, 1 x the time, no short echo", turned, 1.0, soonest))
        return rows

    def settled(self, values: Tensor, row: Row) -> Tensor:
        """``values`` within the row's bounds, its averages such that its time is kept."""
        values = values * row.turned.to(values)
        first = values[:1].clamp(min=row.soonest)
        values = torch.cat([first, values[1:]])
        if row.time is None:
            return values
        once = self.scanner.protocol(values).minutes(LINES)
        ratio = (row.time * self.still / once).clamp(SETTINGS[AVERAGES].low, 64)
        setting = SETTINGS[AVERAGES]
        up, down = math.log(setting.high), -math.log(setting.low)
        averages = torch.where(ratio > 1, ratio.log() / up, ratio.log() / down)
        return torch.cat([values[:AVERAGES], averages[None], values[AVERAGES + 1 :]])

    def run(self, progress: Progress) -> Tensor:
        """Values found, (rows, settings + field terms): each setting alone from the patient's own,
        then all together from the best of them.
        """
        alone = [number for number, row in enumerate(self.rows) if row.time is None]
        first = self._minimised(alone, torch.zeros(len(alone), self.size), progress, 0.96)
        start = first.x[first.loss.argmin()]
        together = list(range(len(alone), len(self.rows)))
        second = self._minimised(together, start.repeat(len(together), 1), progress, 0.975)
        return torch.cat([first.x, second.x])

    def _minimised(
        self, rows: list[int], start: Tensor, progress: Progress, fraction: float
    ) -> lbfgs.Solution:
        def report(evaluation: int, best: object) -> None:
            progress.report(
                fraction + 0.015 * evaluation / EVALUATIONS,
                f"Turning the scanner's knobs, step {evaluation}",
            )

        numbers = torch.tensor(rows)
        return lbfgs.minimize(
            lambda values, items: self.value_and_gradient(values, numbers[items]),
            start,
            lbfgs.Options(max_evaluations=EVALUATIONS, history=8, first_step=0.1),
            lower=-1.0,
            upper=1.0,
            callback=report,
        )

    def value_and_gradient(self, values: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The error (rows,) and its slope (rows, values), on the CPU."""
        losses, slopes = [], []
        for value, number in zip(values, rows.tolist()):
            row = self.rows[number]
            with torch.enable_grad():
                value = value.detach().to(self.scanner.patient.device).requires_grad_()
                x = self.scanner.images(self.settled(value, row))
                loss, slope = self.objective.value_and_gradient(
                    x.detach(), torch.arange(len(x), device=x.device)
                )
                (gradient,) = torch.autograd.grad(x, value, slope / len(x))
            losses.append(loss.mean())
            slopes.append(gradient)
        turned = torch.stack([self.rows[number].turned for number in rows.tolist()])
        return torch.stack(losses).cpu(), torch.stack(slopes).cpu() * turned


def acquirable(
    scanner: Scanner,
    objective: Objective,
    units: str,
    scale: float,
    free_error: float,
    progress: Progress,
) -> tuple[Table, Curve, str]:
    """What a scanner's settings buy of the free-voxel improvement.

    Args:
        scanner: Of the images that ``objective`` is of.
        objective: A mean over voxels.
        units: Of the error.
        scale: ``units`` per normalised unit.
        free_error: Error of the free-voxel ideal input on the same images, in ``units``.
        progress: Receives progress; may raise ``Cancelled``.

    Returns:
        Table "acquirable", curve "error against scan time", and the best protocol in words.
    """
    search = _Search(scanner, objective)

    found = search.run(progress)
    before = objective.mean_error(scanner.patient) * scale
    rows: list[tuple] = [
        ("none (patient's own input)", "as acquired", float(search.still), before, 0.0)
    ]
    for row, values in zip(search.rows, found):
        rows.append(_measured(search, row, values, scale, before, free_error))
    rows.append(("free voxels", "ideal input", math.nan, free_error, 100.0))
    headings = ("knob", "setting", "scan time (min)", f"MAE ({units})", SHARE)
    columns = {heading: [row[n] for row in rows] for n, heading in enumerate(headings)}
    return (
        Table("What a scanner's knobs buy", columns),
        _curve(search, rows, units),
        _words(rows, before, units),
    )


SHARE = "share of the free-voxel gain (%)"


def _measured(
    search: _Search, row: Row, values: Tensor, scale: float, before: float, free_error: float
) -> tuple:
    """A row of the table; a knob that only makes things worse is left alone."""
    scanner, gain = search.scanner, before - free_error
    settled = search.settled(values.to(scanner.patient.device), row)
    error = search.objective.mean_error(scanner.images(settled).detach()) * scale
    minutes = float(scanner.protocol(settled).minutes(LINES))
    words = scanner.words(settled, row.turned + (row.time is not None) * _one_at(AVERAGES, row))
    if error >= before:
        words, error, minutes = "as acquired", before, float(search.still)
    return row.name, words, minutes, error, 100 * (before - error) / gain if gain > 0 else math.nan


def _one_at(place: int, row: Row) -> Tensor:
    one = torch.zeros_like(row.turned)
    one[place] = 1
    return one


def _curve(search: _Search, rows: list[tuple], units: str) -> Curve:
    points = sorted(
        (rows[n][2], rows[n][3])
        for n, row in enumerate(search.rows, 1)
        if row.time is not None and row.soonest == -1
    )
    times = [time for time, _ in points]
    # More time need not be used.
    errors = list(itertools.accumulate((error for _, error in points), min))
    lines = {
        "best protocol": (times, errors),
        "as acquired": (times, [rows[0][3]] * len(times)),
        "free voxels": (times, [rows[-1][3]] * len(times)),
    }
    return Curve("What does scan time buy?", "scan time (min)", f"error left ({units})", lines)


def _words(rows: list[tuple], before: float, units: str) -> str:
    """The best protocol at the reference's time, and what it is without short echoes."""
    named = {row[0]: row for row in rows}
    _, setting, minutes, error, share = named["all, 1 x the time"]
    text = (
        f"In the same scan time ({60 * minutes:.0f} s) the best protocol found is: {setting}. It"
        f" lowers the error from {before:.1f} to {error:.1f} {units}, {share:.0f} % of what free"
        " voxels gain."
    )
    without = named.get("all, 1 x the time, no short echo")
    if without:
        text += (
            f" With echoes no sooner than {SHORT_ECHO_MS:g} ms, where bone is dark, it is"
            f" {without[3]:.1f} {units}, {without[4]:.0f} %."
        )
    return text


# -- pieces ----------------------------------------------------------------------------------------


def _high(image: Tensor) -> Tensor:
    """The 99.5th percentile of an image, any shape."""
    flat = image.flatten()
    return flat.kthvalue(max(1, round(0.995 * flat.numel()))).values


def _blurred(image: Tensor, voxels: Tensor) -> Tensor:
    """An image (images, ..., J, I) seen by a Gaussian, full width at half maximum in its voxels, in
    plane.
    """
    pad, size = 8, image.shape[-2:]
    flat = F.pad(image.reshape(1, -1, *size), (pad,) * 4, mode="replicate")
    k2 = (
        torch.fft.fftfreq(size[0] + 2 * pad)[:, None] ** 2
        + torch.fft.rfftfreq(size[1] + 2 * pad)[None] ** 2
    ).to(image)
    transfer = torch.exp(-2 * (math.pi * voxels / 2.3548) ** 2 * k2)
    seen = torch.fft.irfft2(torch.fft.rfft2(flat) * transfer, s=flat.shape[-2:])
    return seen[..., pad:-pad, pad:-pad].reshape(image.shape)


def _field_terms(space: torch.Size) -> Tensor:
    """Terms of a smooth receive field: a second-order polynomial of in-plane position (first order
    along k), (terms, *space).
    """
    ramps = [
        torch.linspace(-1, 1, n).reshape([-1 if axis == a else 1 for a in range(len(space))])
        for axis, n in enumerate(space)
    ]
    terms = (*ramps, *(r * r - 1 / 3 for r in ramps), ramps[-1] * ramps[-2])
    return torch.stack([term * torch.ones(space) for term in terms])


def noise_of(patient: Tensor) -> Tensor:
    """The images' noise as total-variation denoising sees it, like ``patient`` (images, C,
    *space).
    """
    images = patient.cpu().numpy()
    smooth = np.empty_like(images)
    for n, image in enumerate(images):
        for c, channel in enumerate(image):
            sigma = noise_sigma(channel)
            smooth[n, c] = (
                restoration.denoise_tv_chambolle(channel, weight=1.5 * sigma)
                if sigma > 0
                else channel
            )
    return torch.from_numpy(images - smooth).to(patient)


def noise_sigma(image: np.ndarray) -> float:
    """Standard deviation of white noise in an image, blind to linear structure.

    Only differences within a slice count. A background that was set to one value, the image's most
    frequent one, has no noise to tell, and is left out.

    Args:
        image: [j, i] or [k, j, i], any unit.

    Returns:
        The deviation, in the image's unit; 0 for an image of one value.

    Source:
        Immerkaer, Comput. Vis. Image Underst. 64, 1996, with the median in place of the mean.
    """
    second = ndimage.convolve1d(ndimage.convolve1d(image, [1, -2, 1], axis=-1), [1, -2, 1], axis=-2)
    values, counts = np.unique(image, return_counts=True)
    background = values[counts.argmax()]
    around = (1,) * (image.ndim - 2) + (3, 3)
    told = ndimage.maximum_filter(image != background, around)
    return float(np.median(np.abs(second[told])) / 0.6745 / 6) if told.any() else 0.0
