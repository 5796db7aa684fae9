"""How a patient's images would look with other settings of the scanner.

``Scanner.images`` says how the patient's images would look with other settings: to each channel
the difference is added that the signal equations (``protocol``) see between the two protocols, from
the fractions of water, fat and bone that the target CT shows, the patient's motion blurs it, and
noise is taken away or added. ``acquirable`` searches the settings.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import ndimage
from skimage import restoration
from torch import Tensor
from torch.nn import functional as F

from .dixon import tissue_fractions
from .protocol import (
    AVERAGES,
    BONE,
    FAT,
    SETTINGS,
    WATER,
    Protocol,
    in_words,
)

LINES = 120 * 80 / 4
"""Rows times partitions of a body scan, accelerated fourfold: the reference takes a quarter of a
minute, a breath-hold."""
DIXON = ("in_phase", "fat_fraction", "water_fraction")
BACKGROUND = 0.02
"""Of soft tissue's signal: below it fractions fade to 0, as in the simulator."""
FIELD = 0.3
"""Largest logarithm of each term of the receive field."""
SEEN = (0.0, 1.0, 2.0)
"""Full widths at half maximum, in voxels, of blurs between which the patient's own lies."""
SMOOTH = 4.0
"""Voxels: what of the difference between an image and what the signal equations see in the CT is
smoother than this is no noise."""
LARGEST = 2.5
"""Standard deviations of noise: more is anatomy's, where MR and CT do not agree."""
BODY = 0.1
"""Of soft tissue's signal: less is air."""


class Scanner:
    """The patient's images as other settings would show them.

    Args:
        patient: Normalised, shape (images, C, *space).
        roles: Of the C channels.
        spacing_mm: In-plane edge of a voxel.
        hu: The target CT in HU, shape (images, 1, *space), or None: then the contrast stays.
    """

    def __init__(
        self, patient: Tensor, roles: list[str], spacing_mm: float, hu: Tensor | None = None
    ):
        self.patient, self.roles, self.spacing_mm = patient, roles, spacing_mm
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
            self.noise = self._noise_of_signals()
        else:
            self.noise = noise_of(patient)

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
        (images, *space), with soft tissue's undecayed signal 1, blurred by voxel and motion.
        """
        water, fat, bone = self.fractions or []
        unit = protocol.signal(WATER)
        water = water + bone * (protocol.signal(BONE) / unit)
        fat = fat * (protocol.signal(FAT) / unit)
        width = protocol.sharpness(LINES, self.spacing_mm)
        water, fat = (_blurred(part, width) for part in (water, fat))
        total = water + fat
        share = total / (total.square() + BACKGROUND**2)
        return [total, fat * share, water * share]

    def images(self, values: Tensor) -> Tensor:
        """The patient's images (images, C, *space) as acquired with ``values`` (settings + field
        terms,) in [-1, 1]; at 0 they are the patient's own.
        """
        protocol = self.protocol(values)
        still = self.protocol(torch.zeros_like(values))
        more = protocol.noise() / still.noise() - 1
        x = self.patient
        if self.fractions:
            more = (1 + more) * still.signal(WATER) / protocol.signal(WATER) - 1
            x = self._recontrasted(protocol, more)
        else:
            new, old = (p.sharpness(LINES, self.spacing_mm) for p in (protocol, still))
            x = x + _blurred(x, new) - _blurred(x, old) + more * self.noise
        field = torch.exp(FIELD * torch.tensordot(values[len(SETTINGS) :], self.basis, 1))
        lit = [x[:, n] * field if n in self.magnitude else x[:, n] for n in range(x.shape[1])]
        return torch.stack(lit, 1)

    def _recontrasted(self, protocol: Protocol, more: Tensor) -> Tensor:
        """The patient's images in another contrast, with ``more`` times the noise in addition."""
        channels = list(self.patient.unbind(1))
        places = [self.roles.index(role) for role in DIXON]
        changes = [new - old for new, old in zip(self.contrast(protocol), self.reference)]
        in_phase, fat, water = (channels[place] for place in places)
        in_phase = in_phase + self.scale * changes[0]
        fat, water = fat + changes[1], water + changes[2]
        noise = [more * part for part in self.noise]
        fat, water = _with_noise(in_phase, fat, water, noise, BACKGROUND * self.scale)
        in_phase = in_phase + sum(noise)
        # A scanner's in-phase scale is arbitrary: networks read it from a high percentile.
        in_phase = in_phase * (_high(channels[places[0]]) / _high(in_phase).clamp(min=1e-6))
        for place, changed in zip(places, (in_phase, fat, water)):
            channels[place] = changed
        return torch.stack(channels, 1)

    def _noise_of_signals(self) -> list[Tensor]:
        """Noise of the fat and of the water signal, each (images, *space), in in-phase units.

        What a signal has beside what the CT explains, as sharp as it may be and under a smooth
        field, is split at ``SMOOTH``: the finer part is noise, as far as it is no larger than noise
        is. That of water is what the in-phase image has beside that of fat.
        """
        in_phase, fat = (self.patient[:, self.roles.index(role)] for role in DIXON[:2])
        told = [
            _blurred(part, part.new_tensor(width))
            for part in self.fractions or []
            for width in SEEN
        ]
        body = self.reference[0] > BODY
        both, of_fat = (
            _fine_rest(signal, told, self.basis, body) for signal in (in_phase, in_phase * fat)
        )
        return [of_fat, both - of_fat]

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


def _with_noise(
    in_phase: Tensor, fat: Tensor, water: Tensor, noise: list[Tensor], background: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Fat and water fractions once their signals, fractions of ``in_phase``, have more noise.

    Noise is the same in all of an image, so where there is little signal fractions have most.
    """

    def fractions(signals: list[Tensor]) -> list[Tensor]:
        total = sum((signal.abs() for signal in signals), torch.zeros_like(in_phase))
        return [signal * total / (total.square() + background**2) for signal in signals]

    signals = [fat * in_phase, water * in_phase]
    before = fractions(signals)
    after = fractions([signal + more for signal, more in zip(signals, noise)])
    return fat + after[0] - before[0], water + after[1] - before[1]


def _fine_rest(signal: Tensor, told: list[Tensor], basis: Tensor, body: Tensor) -> Tensor:
    """Noise of a signal (images, *space) that ``told``, each of this shape, explain under a smooth
    field; zero outside of ``body``.
    """
    ramps = [torch.ones_like(basis[0]), *basis]
    found = torch.zeros_like(signal)
    for n, image in enumerate(signal):
        columns = torch.stack([(part[n] * ramp).flatten() for part in told for ramp in ramps])
        gram = (columns @ columns.T).double()
        gram += 1e-9 * gram.diagonal().max().clamp(min=1e-12) * torch.eye(len(gram)).to(gram)
        weights = torch.linalg.solve(gram, (columns @ image.flatten()).double())
        rest = image - (weights.to(columns) @ columns).reshape(image.shape)
        rest = (rest * body[n]).cpu().numpy()
        sigma = noise_sigma(rest)
        smooth = ndimage.gaussian_filter(rest, [0] * (rest.ndim - 2) + [SMOOTH] * 2)
        fine = np.clip(rest - smooth, -LARGEST * sigma, LARGEST * sigma)
        found[n] = torch.from_numpy(fine).to(signal) * body[n]
    return found


def noise_of(patient: Tensor) -> Tensor:
    """The images' noise as non-local means see it, like ``patient`` (images, C, *space).

    Source:
        Buades, Coll & Morel, CVPR 2005.
    """
    images = patient.cpu().numpy()
    smooth = np.empty_like(images)
    for place in np.ndindex(*images.shape[:-2]):
        sigma = noise_sigma(images[place[:2]])
        smooth[place] = (
            restoration.denoise_nl_means(
                images[place], patch_size=3, patch_distance=7, h=sigma, sigma=sigma
            )
            if sigma > 0
            else images[place]
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
