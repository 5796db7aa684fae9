"""Two questions to a denoiser at one place of a CT.

Could this lesion vanish, and how many directions does a layer lose?
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..core.progress import Part, Progress
from ..core.results import Curve, Table
from ..core.volumes import Volume
from ..models import Model
from . import detection, lesions, nulls, spectrum
from .level_set import LevelSet, Window
from .settings import InvariancesSettings

MARGIN_VOXELS = 8
BLURRED_ON = 8  # draws of noise, of which a blur leaves as much as the denoiser
HIDING_SHARE = 0.7
"""Of the time, what looking for hidden nodules takes; the rest is for those that are seen."""


class Place:
    """A denoiser and one axial slice of a CT.

    Args:
        ct: HU, axes LPS. k: The slice. model: One input, one output, on ``device``. patch: Rows and
            columns that an output's change is averaged over.
    """

    def __init__(
        self,
        ct: Volume,
        k: int,
        model: Model,
        device: torch.device,
        patch: tuple[int, int] | None = None,
    ):
        self.patch = patch
        channel = model.card.inputs[0]
        self.network, self.spacing_mm = model.network, ct.spacing_mm[:2]
        self.low, self.scale = channel.low, channel.high - channel.low
        hu = torch.from_numpy(np.ascontiguousarray(ct.array[k], np.float32))
        self.image = self.normalised(hu).to(device)

    def normalised(self, hu: Tensor) -> Tensor:
        """A slice (J, I), HU, as the network takes it: (1, 1, J, I)."""
        return ((hu - self.low) / self.scale)[None, None]

    def level_set(
        self,
        region: Window,
        layer: str,
        structure: Tensor | None = None,
        network: torch.nn.Module | None = None,
    ) -> LevelSet:
        """What may not change of the denoiser, or of another network; see ``LevelSet``."""
        shown = network or self.network
        return LevelSet(shown, self.image, region, layer, self.scale, self.patch, structure)


def voxel_of(ct: Volume, ras_mm: tuple[float, float, float]) -> tuple[float, float, float]:
    """(i, j, k) of a point in a volume's [k, j, i] array, not rounded.

    Raises:
        ValueError: It lies outside.
    """
    ijk = np.linalg.solve(ct.ijk_to_ras, np.append(ras_mm, 1.0))[:3]
    if (ijk < -0.5).any() or (ijk >= np.array(ct.shape[::-1]) - 0.5).any():
        raise ValueError(
            f"the point at ({', '.join(f'{x:.0f}' for x in ras_mm)}) mm lies outside of"
            f" '{ct.name}': put it where the lesion is to be"
        )
    i, j, k = (float(x) for x in ijk)
    return i, j, k


def check_lesion(ct: Volume, settings: InvariancesSettings) -> None:
    """Check that a lesion is in the image and large enough for its voxels.

    Args:
        ct: [k, j, i], HU, axes LPS.
        settings: Its ``lesion`` and the nodules' diameters.

    Raises:
        ValueError: The lesion lies outside of the CT, or a nodule is too small.
    """
    if settings.lesion is not None:
        i, j, _ = voxel_of(ct, settings.lesion)
        for diameter in settings.lesion_diameters_mm:
            lesions.draw(
                lesions.Nodule(_centre_mm(ct, i, j), diameter, 1.0, settings.lesion_shape),
                around(ct, i, j, diameter),
                ct.spacing_mm[:2],
            )


def around(ct: Volume, i: float, j: float, diameter_mm: float) -> Window:
    """The square around a nodule in which the input may change; it depends on this nodule alone.

    Args:
        ct: [k, j, i], axes LPS.
        i: Column of the nodule's middle.
        j: Its row.
        diameter_mm: Of the nodule.
    """
    reach = [round(diameter_mm / 2 / mm) + MARGIN_VOXELS for mm in ct.spacing_mm[:2]]
    return Window(
        *(
            bound
            for centre, half, size in zip((j, i), reach[::-1], ct.shape[1:])
            for bound in (max(0, round(centre) - half), min(size, round(centre) + half + 1))
        )
    )


def _centre_mm(ct: Volume, i: float, j: float) -> tuple[float, float]:
    return i * ct.spacing_mm[0], j * ct.spacing_mm[1]


def lesion(
    ct: Volume,
    model: Model,
    settings: InvariancesSettings,
    epsilon: float,
    device: torch.device,
    progress: Progress = Progress(),
    normal: Volume | None = None,
) -> tuple[Table, Curve, dict[str, np.ndarray]]:
    """Nodules of all sizes and contrasts at one point: what could be hidden, what would be seen.

    Each is put alone, by its middle, into the slice nearest to the point ``settings.lesion``; the
    input may change in the square ``around`` it.

    Args:
        ct: [k, j, i], HU, axes LPS.
        model: The denoiser.
        settings: Its lesion, sizes, contrasts, layer, dose and draws.
        epsilon: What counts as unchanged, in the units of ``LevelSet``.
        device: Where the network runs.
        progress: Receives progress; may raise ``Cancelled``.
        normal: The same at normal dose, on the same grid, HU.

    Returns:
        Table of ``lesions.detectability`` with the columns of ``detection``, and its curve; and by
        name the whole CT [k, j, i], HU, with the changes that it gives.
    """
    assert settings.lesion is not None  # the caller asks for a lesion
    i, j, k = voxel_of(ct, settings.lesion)
    place = Place(ct, round(k), model, device, settings.patch(ct.spacing_mm))
    nodules = _nodules(ct, i, j, settings)
    level_sets = {
        one.diameter_mm: place.level_set(one.region, settings.layer, one.change) for one in nodules
    }
    widest = level_sets[nodules[-1].diameter_mm]
    where = _scene(place, widest, ct, normal, round(k), settings)
    blur = nulls.equal_blur(
        place.network, where.background.to(device), where.low[:BLURRED_ON].to(device)
    ).to(device)
    hu = widest.units == "HU"
    table, curve, changes = lesions.detectability(
        level_sets,
        nodules[0].centre_mm,
        list(settings.lesion_contrasts_hu),
        place.spacing_mm,
        place.scale,
        epsilon,
        settings.max_evaluations,
        Part(progress, 0, HIDING_SHARE),
        _nulls(place, nodules, blur) if hu else None,
        settings.lesion_shape,
    )
    contrasts = sorted(set(settings.lesion_contrasts_hu))
    seeing = Part(progress, HIDING_SHARE, 1)
    seen = detection.columns(where, place.network, blur, nodules, contrasts, device, seeing)
    images = {}
    for key, (region, change) in changes.items():
        images[key] = np.array(ct.array, np.float32)
        images[key][round(k)][region.slices] += change.numpy()
    return Table(table.title, table.columns | seen), curve, images


def _nodules(
    ct: Volume, i: float, j: float, settings: InvariancesSettings
) -> list[detection.Shown]:
    """Nodules of every size, rising, with their middle at a place of a slice."""
    centre = _centre_mm(ct, i, j)
    found = []
    for diameter in sorted(set(settings.lesion_diameters_mm)):
        region = around(ct, i, j, diameter)
        one = lesions.Nodule(centre, diameter, 1.0, settings.lesion_shape)
        change = lesions.draw(one, region, ct.spacing_mm[:2])
        found.append(detection.Shown(diameter, centre, region, change))
    return found


def _scene(
    place: Place,
    widest: LevelSet,
    ct: Volume,
    normal: Volume | None,
    k: int,
    settings: InvariancesSettings,
) -> detection.Scene:
    """Where the nodules are looked for: what the network sees around the largest, and its noise."""
    low, full = (
        None if volume is None else torch.from_numpy(np.array(volume.array[k], np.float32))
        for volume in (ct, normal)
    )
    assert low is not None
    near = widest.near
    if full is None:
        with torch.no_grad():
            denoised = place.network(widest.context)
        background = denoised[(...,) + near.within(widest.window).slices]
    else:
        background = place.normalised(full)[(...,) + near.slices]
    return detection.scene(background, near, low, full, place.spacing_mm, place.scale, settings)


def _nulls(
    place: Place, nodules: list[detection.Shown], blur: torch.nn.Module
) -> dict[str, dict[float, LevelSet]]:
    """What the denoiser is compared with in the same regions: by name and diameter."""
    return {
        name: {
            one.diameter_mm: place.level_set(one.region, "output", one.change, network.eval())
            for one in nodules
        }
        for name, network in ((nulls.IDENTITY, nulls.Identity()), (nulls.BLUR, blur))
    }


def spectra(
    ct: Volume,
    k: int,
    region: Window,
    model: Model,
    settings: InvariancesSettings,
    epsilon_hu: float,
    change_hu: float,
    device: torch.device,
    progress: Progress = Progress(),
) -> tuple[Table, Curve]:
    """Of each layer of ``settings.spectrum``, the share of directions that it loses in a square.

    Args:
        ct: [k, j, i], HU, axes LPS.
        k: The slice.
        region: The square lies at its middle.
        model: The denoiser.
        settings: Its spectrum, the square's size, and the seed.
        epsilon_hu: What counts as unchanged in the output.
        change_hu: Size of the changes looked at, root mean square.
        device: Where the network runs.
        progress: Receives progress; may raise ``Cancelled``.
    """
    place = Place(ct, k, model, device)
    found: dict[str, spectrum.Spectrum] = {}
    rows: dict[str, list] = {"layer": [], "lost (%)": [], "in words": []}
    middle = [(region.j0 + region.j1) // 2, (region.i0 + region.i1) // 2]
    bounds = ((region.j0, region.j1), (region.i0, region.i1))
    square = Window(
        *(
            bound
            for centre, (first, last) in zip(middle, bounds)
            for bound in (
                max(first, centre - settings.spectrum_size // 2),
                min(last, centre + (settings.spectrum_size + 1) // 2),
            )
        )
    )
    layers = len(settings.spectrum)
    for number, layer in enumerate(settings.spectrum):
        part = Part(progress, number / layers, (number + 1) / layers)
        target = place.level_set(square, layer)
        found[layer] = one = spectrum.spectrum(target, part, settings.seed)
        epsilon = settings.epsilon_layer if target.hidden else epsilon_hu
        rows["layer"].append(layer)
        change = change_hu / place.scale
        rows["lost (%)"].append(100 * one.lost(epsilon, change))
        rows["in words"].append(
            one.words(epsilon, change, "The output" if layer == "output" else f"Layer {layer}")
        )
    return Table(
        f"Directions that a layer loses, {square.size[0]} x {square.size[1]} voxels", rows
    ), spectrum.curve(found)
