"""Dixon MR images simulated from CT: for training and demonstration where no real pair can be had.

Every number a scanner would set is in ``DixonSettings``. What comes out is SIMULATED and must be
called so.

The way of a voxel: HU to fractions of water, fat and bone (``tissue_fractions``); to water and fat
signals with T2* decay at the in-phase echo time (``echo_signals``); times a smooth receive field,
blurred by the point spread; then two complex echoes, in phase (W + F) and opposed (W - F), each
with Gaussian noise in both channels, and from their sum and difference the water and fat images, as
a two-point Dixon scan does.

Left out: T1 weighting beyond ``fat_brightness``, decay between the two echoes, field inhomogeneity
and water-fat swaps, susceptibility, motion, flow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy import ndimage

from ..core import meaning, volumes
from ..core.volumes import Volume

CHANNELS = ("in_phase", "fat_fraction", "water_fraction")
# HU knots and the share of each tissue there. Air is -1000 and water 0 by definition; fat lies near
# -100, soft tissue between 20 and 80 (Schneider, Pedroni & Lomax, Phys Med Biol 1996;41:111). What
# is lighter than fat is air mixed with water-like tissue (lung, skin). Above 100 HU mineral grows,
# to dense cortical bone at 1600 HU (Schneider, Bortfeld & Schlegel, Phys Med Biol 2000;45:459).
# Between trabeculae (150 to 400 HU) lies marrow, a third to a half of it fat (Baum et al., Front
# Endocrinol 2018;9:141). Adipose tissue itself is 11 to 30 % water (Woodard & White, Br J Radiol
# 1986;59:1209); acquired images show it: see ``Testing/benchmarks/simulator.py``.
_AIR = ((-1000.0, -120.0), (1.0, 0.0))
_BONE = ((100.0, 1600.0), (0.0, 1.0))
_FAT_OF_REST = (
    (-250.0, -120.0, -80.0, 20.0, 80.0, 250.0, 800.0, 1600.0),
    (0.0, 0.82, 0.82, 0.03, 0.0, 0.5, 0.3, 0.1),
)


@dataclass(frozen=True)
class DixonSettings:
    """What the simulated scan is like.

    Attributes:
        echo_time_ms: In-phase echo time; 2.3 ms is the first one at 3 T.
        t2star_water_ms, t2star_fat_ms: Decay in soft tissue and fat, tens of ms at 3 T.
        t2star_bone_ms: Decay of the water in cortical bone, about half a millisecond: bone is dark
            at any Dixon echo.
        bone_water: Signal of that water before decay, relative to soft tissue; bone is about 20 %
            water (this and the decay: Ma et al., Front Endocrinol 2020;11:567417).
        fat_brightness: Signal of fat relative to soft tissue; above 1 because fat's T1 is short in
            a T1-weighted scan. This, ``bias`` and ``snr`` are such that the images' figures lie
            between those of acquired ones (``Testing/benchmarks/simulator.py``).
        bias: Largest relative departure of the receive field from 1 (0.2 = 20 %), smooth over the
            volume.
        psf_mm: Full width at half maximum of the Gaussian point spread, mm.
        snr: In-phase signal of soft tissue over the noise's standard deviation in each of the two
            complex channels; ``inf`` for none.
        background: Soft-tissue signals; fractions fade to 0 where water + fat falls below it, so
            that air has numbers and no division by zero: ``F (W + F) / ((W + F)^2 +
            background^2)``.
        gain: In-phase units of soft tissue's undecayed signal (a scanner's scale is arbitrary).
    """

    echo_time_ms: float = 2.3
    t2star_water_ms: float = 25.0
    t2star_fat_ms: float = 15.0
    t2star_bone_ms: float = 0.5
    bone_water: float = 0.2
    fat_brightness: float = 2.6
    bias: float = 0.3
    psf_mm: float = 3.0
    snr: float = 20.0
    background: float = 0.02
    gain: float = 1000.0

    def __post_init__(self):
        for name, value in asdict(self).items():
            at_least = (
                0.0
                if name in ("bone_water", "bias", "psf_mm", "background")
                else np.nextafter(0.0, 1.0)
            )
            finite = np.isfinite(value) or (name == "snr" and value > 0)
            if not finite or value < at_least or (name == "bias" and value >= 1):
                raise ValueError(f"{name} = {value} is out of range; see DixonSettings")

    @staticmethod
    def drawn(rng: np.random.Generator) -> DixonSettings:
        """Settings of a random, similar scan: training sees these, lest it learn a single one."""
        return DixonSettings(
            echo_time_ms=rng.uniform(2.25, 2.35),
            t2star_water_ms=rng.uniform(20, 30),
            t2star_fat_ms=rng.uniform(12, 18),
            t2star_bone_ms=rng.uniform(0.4, 0.6),
            bone_water=rng.uniform(0.15, 0.25),
            fat_brightness=rng.uniform(2.1, 3.1),
            bias=rng.uniform(0.1, 0.45),
            psf_mm=rng.uniform(2.0, 4.0),
            snr=float(np.exp(rng.uniform(np.log(13), np.log(40)))),
        )


def tissue_fractions(hu: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Water, fat and bone fractions of each voxel's content, each 0 to 1.

    What is missing to 1 is air.

    ``hu`` in Hounsfield units, any shape. Piecewise linear in HU; sources beside the knots above.
    """
    hu = np.asarray(hu, np.float32)
    bone = np.interp(hu, *_BONE).astype(np.float32)
    rest = 1 - np.interp(hu, *_AIR).astype(np.float32) - bone
    fat = rest * np.interp(hu, *_FAT_OF_REST).astype(np.float32)
    return rest - fat, fat, bone


def echo_signals(hu: np.ndarray, settings: DixonSettings) -> tuple[np.ndarray, np.ndarray]:
    """Water and fat signals at the in-phase echo, without noise, field or blur.

    Args:
        hu: [k, j, i], Hounsfield units.
        settings: Of the scan.

    Returns:
        Two of the same shape; soft tissue has 1 before decay.
    """
    water, fat, bone = tissue_fractions(hu)

    def decay(t2star_ms):
        return np.float32(np.exp(-settings.echo_time_ms / t2star_ms))

    water_signal = water * decay(settings.t2star_water_ms)
    water_signal += bone * np.float32(settings.bone_water) * decay(settings.t2star_bone_ms)
    return water_signal, fat * np.float32(settings.fat_brightness) * decay(settings.t2star_fat_ms)


def simulate_arrays(
    hu: np.ndarray, spacing_mm: Sequence[float], settings: DixonSettings, rng: np.random.Generator
) -> np.ndarray:
    """The three simulated images of a CT array.

    Args:
        hu: [k, j, i], Hounsfield units.
        spacing_mm: Voxel size along i, j, k.

    Returns:
        float32 [3, k, j, i] in the order of ``CHANNELS``: in-phase magnitude (units of ``gain``),
        fat fraction and water fraction (0 to 1).
    """
    water, fat = echo_signals(hu, settings)
    field = receive_field(hu.shape, settings.bias, rng)
    sigmas = [settings.psf_mm / 2.3548 / s for s in reversed(spacing_mm)]
    # A Gaussian much narrower than a voxel does nothing; skipping thin axes saves the time.
    sigmas = [s if s > 0.1 and n > 1 else 0.0 for s, n in zip(sigmas, hu.shape)]
    if any(sigmas):
        water, fat = (
            ndimage.gaussian_filter(x, sigmas, mode="nearest", truncate=3.0) for x in (water, fat)
        )

    reference = np.exp(-settings.echo_time_ms / settings.t2star_water_ms)
    sigma = np.float32(reference / settings.snr)
    in_phase = (water + fat) * field + _complex_noise(hu.shape, sigma, rng)
    opposed = (water - fat) * field + _complex_noise(hu.shape, sigma, rng)

    water, fat = np.abs(in_phase + opposed) / 2, np.abs(in_phase - opposed) / 2
    total = water + fat
    with np.errstate(invalid="ignore"):
        scale = np.nan_to_num(total / (total**2 + np.float32(settings.background) ** 2))
    return np.stack(
        [np.abs(in_phase) * np.float32(settings.gain), fat * scale, water * scale]
    ).astype(np.float32)


def receive_field(shape: Sequence[int], bias: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth field: 1 plus a random second-order polynomial.

    Args:
        shape: (k, j, i) of the field.
        bias: Largest magnitude of the polynomial.
        rng: Draws the polynomial's nine weights.

    Returns:
        [k, j, i] float32, 1 - bias to 1 + bias.
    """
    k, j, i = (
        np.linspace(-1, 1, n, dtype=np.float32) if n > 1 else np.zeros(1, np.float32) for n in shape
    )
    k, j, i = k[:, None, None], j[None, :, None], i[None, None, :]
    terms = (i, j, k, i * j, j * k, i * k, i * i - 1 / 3, j * j - 1 / 3, k * k - 1 / 3)
    field = np.zeros(shape, np.float32)
    for weight, term in zip(rng.uniform(-1, 1, len(terms)).astype(np.float32), terms):
        field += weight * term
    return 1 + field * np.float32(bias / max(float(np.abs(field).max()), 1e-6))


def simulate_dixon(
    ct: Volume, settings: DixonSettings | None = None, seed: int = 0
) -> dict[str, Volume]:
    """Simulated Dixon images of a CT volume.

    What is not the body (the couch) is taken for air.

    Args:
        ct: [k, j, i], Hounsfield units.
        settings: Of the scan; the usual ones by default.
        seed: The same one gives the same images.

    Returns:
        "in_phase", "fat_fraction" and "water_fraction", on the CT's grid.

    Raises:
        volumes.VolumeError: Empty, not finite, without a usable geometry, or not in HU.
    """
    meaning.require_hu(volumes.check(ct))
    axial = volumes.reorient(ct, "LPS")
    hu = without_couch(axial.float32(), axial.spacing_mm)
    images = simulate_arrays(
        hu, axial.spacing_mm, settings or DixonSettings(), np.random.default_rng(seed)
    )
    found = {}
    for role, image, units in zip(CHANNELS, images, ("a.u.", "", "")):
        image = axial.with_array(image, f"{ct.name} simulated {role.replace('_', ' ')}", units)
        found[role] = volumes.reorient_like(image, ct)
    return found


def sample(
    ct: Volume, spacing_mm: float = 3.0, slices: int = 4, seed: int = 0
) -> dict[str, Volume]:
    """A small case for a first try: middle slices of a CT, and Dixon images simulated from them.

    Args:
        ct: [k, j, i], Hounsfield units, any orientation and voxel size.
        spacing_mm: Voxel size of the case in all directions; the CT is smoothed to it first.
        slices: How many axial slices, cut to the body.
        seed: The same one gives the same images.

    Returns:
        "in_phase", "fat_fraction", "water_fraction" and "ct", on one LPS grid. The couch is air in
        all of them: what the MR images do not show the network is not asked for.

    Raises:
        volumes.VolumeError: As ``simulate_dixon``, or there is no body in the middle of the CT.
    """
    axial = volumes.reorient(volumes.check(ct), "LPS")
    middle, half = (
        len(axial.array) // 2,
        math.ceil((0.5 * slices + 2) * spacing_mm / axial.spacing_mm[2]),
    )
    low, high = max(0, middle - half), min(len(axial.array), middle + half + 1)
    axial = volumes.crop(axial, (low, high, 0, axial.shape[1], 0, axial.shape[2]))
    sigmas = [
        spacing_mm / 2.3548 / s if s < 0.9 * spacing_mm else 0.0 for s in reversed(axial.spacing_mm)
    ]
    smooth = axial.with_array(ndimage.gaussian_filter(axial.float32(), sigmas, mode="nearest"))
    grid = volumes.resample(smooth, _coarser(axial, spacing_mm))
    first = max(0, (len(grid.array) - slices) // 2)
    grid = volumes.crop(
        grid, (first, min(len(grid.array), first + slices), 0, grid.shape[1], 0, grid.shape[2])
    )

    body = body_mask(grid.array, grid.spacing_mm)
    if not body.any():
        raise volumes.VolumeError(
            f"'{ct.name}' shows no body in its middle slices. Choose a CT in Hounsfield units."
        )
    margin, box = 8, [0, len(body)]
    for axis in (1, 2):
        found = np.flatnonzero(body.any(axis=tuple({0, 1, 2} - {axis})))
        box += [max(0, found[0] - margin), min(body.shape[axis], found[-1] + 1 + margin)]
    target = volumes.crop(
        grid.with_array(np.where(body, grid.array, np.float32(-1000)), "Sample CT", "HU"),
        tuple(box),
    )
    images = simulate_dixon(target, seed=seed)
    names = dict(zip(CHANNELS, ("in-phase", "fat fraction", "water fraction")))
    named = {
        role: image.with_array(image.array, f"Sample {names[role]} (simulated)")
        for role, image in images.items()
    }
    return {**named, "ct": target}


def _coarser(volume: Volume, spacing_mm: float) -> Volume:
    """An empty grid over the same space with another voxel size."""
    factors = [spacing_mm / s for s in volume.spacing_mm]
    size = [max(1, int(n / f)) for n, f in zip(reversed(volume.shape), factors)]
    change = np.diag([*factors, 1.0])
    change[:3, 3] = [(f - 1) / 2 for f in factors]
    return Volume(np.broadcast_to(np.uint8(0), size[::-1]), volume.ijk_to_ras @ change, volume.name)


def without_couch(hu: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """A CT with everything outside ``body_mask`` set to air.

    Args:
        hu: [k, j, i], Hounsfield units.
        spacing_mm: Voxel size along i, j, k.

    Returns:
        [k, j, i], air being -1000 HU.
    """
    return np.where(body_mask(hu, spacing_mm), hu, np.float32(-1000))


def body_mask(hu: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Where the body is, without the couch.

    Denser than -300 HU, with what it surrounds in a slice (lung, bowel gas), then opened in the
    slice, so that shells thinner than 12 mm fall off. Of the pieces in three dimensions the largest
    is the trunk. Others stay if they have 1 % of its size and do not lie beneath it: an arm stays,
    a thick part of the couch goes.

    Of a shell that touches the skin a strip may stay where they touch, as thick as the shell. A
    patient who lies prone has the couch in front: its thin shells fall off, thick and hollow parts
    stay.

    Args:
        hu: [k, j, i], Hounsfield units, j running to the patient's back (as in LPS).
        spacing_mm: Voxel size along i, j, k.

    Returns:
        Boolean, [k, j, i]; all false if nothing is denser than -300 HU.
    """
    radius = 6.0
    disk = _disk(radius / spacing_mm[0], radius / spacing_mm[1])
    dense = hu > -300
    labels, count = ndimage.label(_opened(dense, disk))
    if not count:
        return np.zeros(dense.shape, bool)
    beneath = _beneath(labels == np.bincount(labels[labels > 0]).argmax())
    # Filled before it is opened, else a chest wall thinner than 12 mm falls off. The hollow of a
    # couch stays empty.
    in_slice = ndimage.generate_binary_structure(3, 1)
    in_slice[[0, 2]] = False
    holes = np.stack([ndimage.binary_fill_holes(slice_) for slice_ in dense]) & ~dense
    solid = dense | _pieces_above(holes, beneath, 0.0, in_slice)
    return np.stack([_closed(body) for body in _pieces_above(_opened(solid, disk), beneath, 0.01)])


def _beneath(trunk: np.ndarray) -> np.ndarray:
    """Where j is beyond the trunk's last row in the same slice.

    In slices without trunk, beyond its last row of all.
    """
    rows = np.asarray(trunk.any(2))
    last = rows.shape[1] - 1 - rows[:, ::-1].argmax(1)
    last[~rows.any(1)] = last[rows.any(1)].max()
    beneath = np.arange(rows.shape[1]) > last[:, None]
    return np.broadcast_to(beneath[..., None], trunk.shape)


def _pieces_above(
    mask: np.ndarray, beneath: np.ndarray, smallest: float, connected: np.ndarray | None = None
) -> np.ndarray:
    """Pieces of ``mask`` that lie less than half beneath and have at least this share of the
    largest one's size.
    """
    labels, count = ndimage.label(mask, connected)
    sizes = np.bincount(labels.ravel(), minlength=2)
    sizes[0] = 0
    under = np.bincount(labels[beneath], minlength=count + 1)[: len(sizes)]
    above = under < 0.5 * sizes
    return (above & (sizes >= smallest * sizes.max()))[labels]


def _closed(body: np.ndarray) -> np.ndarray:
    """A slice's body without holes.

    Where the image's border cuts it, all between its ends there counts as its skin.
    """
    closed = np.pad(body, 1)
    for outside, inside in (
        (closed[0], closed[1]),
        (closed[-1], closed[-2]),
        (closed[:, 0], closed[:, 1]),
        (closed[:, -1], closed[:, -2]),
    ):
        found = np.flatnonzero(inside)
        if len(found):
            outside[found[0] : found[-1] + 1] = True
    return ndimage.binary_fill_holes(closed)[1:-1, 1:-1]


def _opened(mask: np.ndarray, disk: np.ndarray) -> np.ndarray:
    """``mask`` opened in each slice.

    Edges repeat outwards: a body that the field of view cuts is not worn away there.
    """
    pad = [(n // 2 + 1,) * 2 for n in disk.shape]
    inside = tuple(slice(before, -after) for before, after in pad)
    return np.stack(
        [ndimage.binary_opening(np.pad(slice_, pad, mode="edge"), disk)[inside] for slice_ in mask]
    )


def _disk(radius_i: float, radius_j: float) -> np.ndarray:
    j = np.arange(-int(radius_j), int(radius_j) + 1)[:, None] / max(radius_j, 1e-6)
    i = np.arange(-int(radius_i), int(radius_i) + 1)[None, :] / max(radius_i, 1e-6)
    return i**2 + j**2 <= 1


def _complex_noise(shape, sigma: np.float32, rng: np.random.Generator) -> np.ndarray | np.float32:
    if sigma == 0:
        return np.float32(0)
    noise = rng.standard_normal((2, *shape), np.float32) * sigma
    return noise[0] + 1j * noise[1]
