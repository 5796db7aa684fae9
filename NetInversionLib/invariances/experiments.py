"""Two questions to a denoiser at one place of a CT.

Could this lesion vanish, and how many directions does a layer lose?
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..core.progress import Part, Progress
from ..core.results import Curve, Table
from ..core.volumes import Volume
from ..models import Model
from . import lesions, nulls, spectrum
from .level_set import LevelSet, Window
from .low_dose import FreshNoise, LowDoseSettings, spread_over
from .settings import InvariancesSettings

MARGIN_VOXELS = 8
NULL_VIEWS = 180  # of the noise that the blur is compared on


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
        self.network, self.spacing_mm, self.scale = (
            model.network,
            ct.spacing_mm[:2],
            channel.high - channel.low,
        )
        hu = torch.from_numpy(np.ascontiguousarray(ct.array[k], np.float32))
        self.image = ((hu - channel.low) / self.scale)[None, None].to(device)

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
) -> tuple[Table, Curve, dict[str, np.ndarray]]:
    """Nodules of all sizes and contrasts at one point: what an unchanged layer leaves room for.

    Each is put alone, by its middle, into the slice nearest to the point ``settings.lesion``; the
    input may change in the square ``around`` it.

    Args:
        ct: [k, j, i], HU, axes LPS.
        model: The denoiser.
        settings: Its lesion, sizes, contrasts and layer.
        epsilon: What counts as unchanged, in the units of ``LevelSet``.
        device: Where the network runs.
        progress: Receives progress; may raise ``Cancelled``.

    Returns:
        Table and curve of ``lesions.detectability``; and by name the whole CT [k, j, i], HU, with
        the changes that it gives.
    """
    assert settings.lesion is not None  # the caller asks for a lesion
    i, j, k = voxel_of(ct, settings.lesion)
    place = Place(ct, round(k), model, device, settings.patch(ct.spacing_mm))
    regions = {diameter: around(ct, i, j, diameter) for diameter in settings.lesion_diameters_mm}
    centre = _centre_mm(ct, i, j)
    one = partial(lesions.Nodule, centre, contrast_hu=1.0, shape=settings.lesion_shape)
    nodules = {
        diameter: lesions.draw(one(diameter), region, place.spacing_mm)
        for diameter, region in regions.items()
    }
    level_sets = {
        diameter: place.level_set(region, settings.layer, nodules[diameter])
        for diameter, region in regions.items()
    }
    hu = next(iter(level_sets.values())).units == "HU"
    table, curve, changes = lesions.detectability(
        level_sets,
        centre,
        list(settings.lesion_contrasts_hu),
        place.spacing_mm,
        place.scale,
        epsilon,
        settings.max_evaluations,
        progress,
        _nulls(place, level_sets, nodules, ct.array[round(k)], settings) if hu else None,
        settings.lesion_shape,
    )
    images = {}
    for key, (region, change) in changes.items():
        images[key] = np.array(ct.array, np.float32)
        images[key][round(k)][region.slices] += change.numpy()
    return table, curve, images


def _nulls(
    place: Place,
    level_sets: dict[float, LevelSet],
    nodules: dict[float, Tensor],
    hu: np.ndarray,
    settings: InvariancesSettings,
) -> dict[str, dict[float, LevelSet]]:
    """What the denoiser is compared with in the same regions: by name and diameter.

    The blur leaves as much of the dose's noise as the denoiser does, around the largest nodule.
    """
    widest = max(level_sets.values(), key=lambda one: one.region.size)
    exposure = LowDoseSettings(settings.dose, settings.photons, settings.electronic)
    how = spread_over(exposure, NULL_VIEWS)
    fresh = FreshNoise(
        torch.from_numpy(np.ascontiguousarray(hu, np.float32)), place.spacing_mm, how
    )
    generator = torch.Generator().manual_seed(settings.seed)
    noise = fresh.draw(1, generator, widest.window.slices)[:, None].to(widest.context)
    blur = nulls.equal_blur(place.network, widest.context, noise / place.scale).to(place.image)
    return {
        name: {
            diameter: place.level_set(one.region, "output", nodules[diameter], network.eval())
            for diameter, one in level_sets.items()
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
