"""Denoisers beside doing nothing and classical peers, on the people who are never trained on.

One slice of each person, resampled to several voxel sizes before the noise is made; noise of
several doses and kernels; errors against normal dose in the body and in soft tissue. Noise is
scaled as exposure control would have it: 25 HU in soft tissue for a quarter of the dose and a
medium kernel.
The classical peers are told the noise's true standard deviation, and their strength is chosen for
each kernel on people that networks are trained on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from .. import models
from ..core import files, meaning, volumes
from ..core.progress import Progress
from ..core.results import Table
from ..invariances.low_dose import HU_HIGH, HU_LOW, LowDoseSettings, noise_image
from ..training.held_out import is_held_out
from ..training.noisy import kernel_response, resampled, soft_tissue, strength
from ..training.people import read_people
from . import classical
from .denoising_figures import figures_of

DOSES = (0.1, 0.25, 0.5)
KERNELS = {"sharp": 0.0, "medium": 1.0, "soft": 0.6}  # cutoff of the Hann window; 0: bare ramp
SPACINGS_MM = (0.7, 1.0, 1.5)
SIDE, MARGIN = 128, 8  # what a method sees, and what of it at each border is not judged
NOISE_HU = 25.0  # in soft tissue, at a quarter of the dose and a medium kernel
TUNED_AT = (0.1, 0.5)  # doses that the peers' strength is chosen at
NOTHING = "doing nothing"
Method = Callable[[np.ndarray, float], np.ndarray]


@dataclass(frozen=True)
class Region:
    """A square of one person's slice at one voxel size.

    Attributes:
        person, spacing_mm: Whose, and how large voxels are.
        normal: (SIDE, SIDE) float32, HU, at normal dose.
        soft: The same shape, bool: soft tissue.
        noise: By dose: (SIDE, SIDE) float32, HU, of the bare ramp.
    """

    person: str
    spacing_mm: float
    normal: np.ndarray
    soft: np.ndarray
    noise: dict[float, np.ndarray] = field(repr=False)

    def low(self, dose: float, kernel: str) -> tuple[np.ndarray, float]:
        """The region at a dose and with a kernel, and its noise.

        The region is (SIDE, SIDE), HU; the noise is its standard deviation in soft tissue.
        """
        if dose == 1:
            return self.normal, 0.0
        noise = filtered(self.noise[dose], KERNELS[kernel])
        low = (self.normal + noise).clip(HU_LOW, HU_HIGH).astype(np.float32)
        return low, float((low - self.normal)[self.soft].std())


def filtered(noise: np.ndarray, cutoff: float) -> np.ndarray:
    """Noise of the bare ramp, (N, N), as a kernel with this cutoff would have it."""
    response = kernel_response(len(noise), torch.tensor([cutoff]))
    spectrum = torch.fft.rfft2(torch.from_numpy(noise)[None]) * response
    return torch.fft.irfft2(spectrum, s=noise.shape)[0].numpy()


# Regions ------------------------------------------------------------------------------------------


def read_regions(
    folders: Iterable[Path | str],
    people: int | None = None,
    held_out: bool = True,
    seed: int = 0,
    progress: Progress = Progress(),
) -> list[Region]:
    """Regions of the held-out people of some folders, or of the others, at every voxel size.

    Args:
        folders: CT volumes or slices, HU.
        people: At most so many, evenly over their names.
        held_out: Those never trained on; else those that networks may be trained on.
        seed: Of the noise.
        progress: Receives progress.

    Raises:
        ValueError: Nobody like that is there.
    """
    paths: dict[str, list[Path]] = {}
    for folder in folders:
        for path, person in read_people(folder).items():
            if is_held_out(person) == held_out:
                paths.setdefault(person, []).append(path)
    if not paths:
        raise ValueError(
            "nobody of the held-out people is there (training/held_out.py lists them)"
            if held_out
            else "nobody is there to choose the peers' strength on: only held-out people"
        )
    names = sorted(paths)
    if people is not None and people < len(names):
        names = [names[int((n + 0.5) * len(names) / people)] for n in range(people)]
    found: list[Region] = []
    for number, name in enumerate(names):
        progress.report(number / len(names), f"Simulating low dose of {name}")
        mine = paths[name]
        found += _regions_of(mine[len(mine) // 2], name, seed)
    return found


def _regions_of(path: Path, person: str, seed: int) -> Iterator[Region]:
    """A person's regions, around what has most soft tissue."""
    axial = volumes.reorient(meaning.require_hu(volumes.check(files.load(path))), "LPS")
    hu = torch.from_numpy(np.ascontiguousarray(axial.float32()[axial.shape[0] // 2]))
    hu = hu.clamp(HU_LOW, HU_HIGH)
    for spacing in SPACINGS_MM:
        image = resampled(hu, axial.spacing_mm[:2], spacing)
        if min(image.shape) < SIDE:
            continue
        soft = soft_tissue(image, spacing).numpy()
        around = ndimage.uniform_filter(soft.astype(np.float32), SIDE - 2 * MARGIN)
        inside = around[SIDE // 2 : -SIDE // 2 + 1, SIDE // 2 : -SIDE // 2 + 1]
        corner = np.unravel_index(int(inside.argmax()), inside.shape)
        where = (
            slice(int(corner[0]), int(corner[0]) + SIDE),
            slice(int(corner[1]), int(corner[1]) + SIDE),
        )
        noise = {}
        for dose in DOSES:
            generator = torch.Generator().manual_seed(seed + round(1000 * dose + 10 * spacing))
            how = LowDoseSettings(dose=0.25, photons=1e6, views=360, cutoff=0.0)
            bare = noise_image(image[None], (spacing, spacing), how, generator, where)[0].numpy()
            wanted = NOISE_HU * strength(dose, 0.25)
            noise[dose] = bare * wanted / filtered(bare, KERNELS["medium"])[soft[where]].std()
        yield Region(person, spacing, image[where].numpy(), soft[where], noise)


# Methods ------------------------------------------------------------------------------------------


def network_method(model: models.Model) -> Method:
    """A denoiser's model as a method: it is told nothing but the image."""

    def denoise(low: np.ndarray, noise: float) -> np.ndarray:
        scaling = model.scalings_of(torch.zeros(1, 1, 1, 1))
        with torch.no_grad():
            given = model.normalise_tensor(torch.from_numpy(low)[None, None], scaling)
            return model.denormalise_output(model(given))[0, 0].numpy()

    return denoise


def whatever_the_kernel(method: Method) -> Callable[[str], Method]:
    """A method that does not ask for the kernel, as ``compare`` takes it."""
    return lambda kernel: method


def tuned_strengths(
    regions: list[Region], names: Iterable[str], progress: Progress = Progress()
) -> dict[str, dict[str, float]]:
    """The strength of each classical peer with the smallest error in soft tissue, by kernel.

    Args:
        regions: Of people that networks may be trained on.
        names: Of the peers.
        progress: Receives progress.
    """
    found: dict[str, dict[str, float]] = {}
    peers = classical.peers()
    for name in names:
        found[name] = {}
        for kernel in KERNELS:
            progress.report(0.0, f"Choosing the strength of {name}, {kernel} kernel")
            errors = []
            for value in classical.STRENGTHS[name]:
                squares = []
                for region in regions:
                    for dose in TUNED_AT:
                        low, noise = region.low(dose, kernel)
                        error = (peers[name](low, noise, value) - region.normal)[region.soft]
                        squares.append(math.sqrt(np.mean(error**2)) / noise)
                errors.append(np.mean(squares))
            found[name][kernel] = classical.STRENGTHS[name][int(np.argmin(errors))]
    return found


def peer_method(name: str, strengths: dict[str, float]) -> Callable[[str], Method]:
    """A classical peer for a kernel, at the strength chosen for it."""
    peer = classical.peers()[name]
    return lambda kernel: lambda low, noise: peer(low, noise, strengths[kernel])


def run(
    folders: Iterable[Path | str],
    loaded: dict[str, models.Model],
    people: int | None = None,
    tune_on: int = 3,
    seed: int = 0,
    record: Path | None = None,
    progress: Progress = Progress(),
) -> tuple[list[dict], Table]:
    """Networks and classical peers on the held-out people of some folders.

    Args:
        folders: CT volumes or slices, HU.
        loaded: The networks, by the name that the tables give them.
        people: At most so many held-out people.
        tune_on: Of so many others the peers' strengths are chosen.
        seed: Of the noise.
        record: File of figures already found.
        progress: Receives progress.

    Returns:
        The rows of ``compare``, and the chosen strengths as a table.
    """
    folders = list(folders)
    tuning = read_regions(folders, tune_on, False, seed, progress)
    tuning = [region for region in tuning if region.spacing_mm == SPACINGS_MM[1]]
    strengths = _kept_strengths(record, lambda names: tuned_strengths(tuning, names, progress))
    methods = {name: peer_method(name, chosen) for name, chosen in strengths.items()}
    for name, model in loaded.items():
        methods[name] = whatever_the_kernel(network_method(model))
    rows = compare(read_regions(folders, people, True, seed, progress), methods, record, progress)
    columns: dict[str, list] = {"peer": list(strengths)}
    columns |= {kernel: [chosen[kernel] for chosen in strengths.values()] for kernel in KERNELS}
    return rows, Table("Strength of the peers by kernel, in units of the noise", columns)


def _kept_strengths(
    record: Path | None, choose: Callable[[list[str]], dict[str, dict[str, float]]]
) -> dict[str, dict[str, float]]:
    """The strengths beside the record; those of peers that are not there yet are chosen."""
    path = record.with_name(record.stem + ".strengths.json") if record else None
    kept = json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else {}
    missing = [name for name in classical.peers() if name not in kept]
    if missing:
        kept |= choose(missing)
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(kept), encoding="utf-8")
    return {name: kept[name] for name in classical.peers()}


def change_of_phantom(truth: Path | str, loaded: dict[str, models.Model]) -> Table:
    """How far networks change a phantom without noise, in its water and inserts, HU."""
    volume = volumes.reorient(meaning.require_hu(volumes.check(files.load(truth))), "LPS")
    image = volume.float32()[0]
    inside = ndimage.binary_erosion(image > -50, iterations=5)
    columns: dict[str, list] = {"method": [], "change (HU)": [], "bias (HU)": []}
    for name, model in loaded.items():
        change = (network_method(model)(image, 0.0) - image)[inside]
        columns["method"].append(name)
        columns["change (HU)"].append(float(np.sqrt(np.mean(change**2))))
        columns["bias (HU)"].append(float(change.mean()))
    return Table("Change of the phantom's truth", columns)


# Comparing ----------------------------------------------------------------------------------------


def compare(
    regions: list[Region],
    methods: dict[str, Callable[[str], Method]],
    record: Path | str | None = None,
    progress: Progress = Progress(),
) -> list[dict]:
    """Every method's figures in every cell of dose, kernel and voxel size, and at normal dose.

    Args:
        regions: Of held-out people.
        methods: By name; each gives, for a kernel, a function of (image (J, I) HU, noise's standard
            deviation HU). Peers cannot run without noise and are not asked for normal dose.
        record: File of figures already found, which grows line by line.
        progress: Receives progress.

    Returns:
        A dictionary for each person, cell and method: "person", "dose", "kernel", "spacing",
        "method", and ``figures_of``.
    """
    rows = _recorded(record)
    known = {_key(row) for row in rows}
    nothing = {NOTHING: lambda kernel: lambda low, noise: low}
    cells = [(dose, kernel) for dose in DOSES for kernel in KERNELS] + [(1.0, "medium")]
    for number, region in enumerate(regions):
        progress.report(number / len(regions), f"{region.person}, {region.spacing_mm:g} mm")
        for dose, kernel in cells:
            low, noise = region.low(dose, kernel)
            for name, method in (nothing | methods).items():
                row = {
                    "person": region.person,
                    "dose": dose,
                    "kernel": kernel,
                    "spacing": region.spacing_mm,
                    "method": name,
                }
                if _key(row) in known or (dose == 1 and name in classical.STRENGTHS):
                    continue
                found = np.asarray(method(kernel)(low, noise), np.float32)
                row |= figures_of(found, region.normal, region.soft, region.spacing_mm, MARGIN)
                rows.append(row)
                if record:
                    _append(Path(record), row)
    wanted = {NOTHING, *methods}
    people = {region.person for region in regions}
    return [r for r in rows if r["method"] in wanted and r["person"] in people]


def _key(row: dict) -> tuple:
    return tuple(row[name] for name in ("person", "dose", "kernel", "spacing", "method"))


def _recorded(record: Path | str | None) -> list[dict]:
    if not record or not Path(record).exists():
        return []
    lines = Path(record).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def _append(record: Path, row: dict) -> None:
    record.parent.mkdir(parents=True, exist_ok=True)
    with open(record, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


# Tables -------------------------------------------------------------------------------------------


def cells(rows: list[dict], figure: str = "RMSE soft") -> Table:
    """A figure's means over people: a row for each cell, a column for each method."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    where = sorted({_cell(row) for row in rows if row["dose"] < 1})
    columns: dict[str, list] = {
        "dose (%)": [round(100 * cell[0]) for cell in where],
        "kernel": [cell[1] for cell in where],
        "spacing (mm)": [cell[2] for cell in where],
    }
    for method in methods:
        columns[method] = [_mean(rows, method, figure, cell) for cell in where]
    return Table(f"{figure}, means over people", columns)


def summary(rows: list[dict]) -> Table:
    """Each method over all cells, beside doing nothing and the classical peers."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    soft, body = cells(rows).columns, cells(rows, "RMSE body").columns
    columns: dict[str, list] = {"method": methods}
    for figure in ("RMSE soft", "RMSE body", "PSNR soft", "PSNR body", "SSIM soft", "SSIM body"):
        columns[figure] = [_mean(rows, method, figure) for method in methods]
    columns["bone against doing nothing"] = [
        _mean(rows, m, "RMSE bone") / _mean(rows, NOTHING, "RMSE bone") for m in methods
    ]
    columns["bias soft (HU)"] = [_mean(rows, method, "bias soft") for method in methods]
    columns["noise spectrum off (dB)"] = [_mean(rows, m, "spectrum off") for m in methods]
    columns["change of normal dose (HU)"] = [
        _mean([r for r in rows if r["dose"] == 1], m, "RMSE soft", None, 1.0) for m in methods
    ]
    for rival in (NOTHING, *classical.STRENGTHS):
        if rival in methods:
            columns[f"cells below {rival}, soft (%)"] = [
                _share_below(soft[method], soft[rival]) for method in methods
            ]
    columns[f"cells below {NOTHING}, body (%)"] = [
        _share_below(body[method], body[NOTHING]) for method in methods
    ]
    return Table("Denoisers on held-out people, means over people and cells", columns)


def quality(rows: list[dict], method: str) -> dict[str, float | str]:
    """What a model's card says: its errors by dose and kernel, and the peers' beside them."""
    found: dict[str, float | str] = {}
    rivals = [m for m in (NOTHING, *classical.STRENGTHS) if any(r["method"] == m for r in rows)]
    beside = ", ".join(rivals)
    for tissue in ("soft", "body"):
        for dose in DOSES:
            for kernel in KERNELS:
                these = [r for r in rows if r["dose"] == dose and r["kernel"] == kernel]
                errors = [_mean(these, m, f"RMSE {tissue}") for m in (method, *rivals)]
                title = f"{tissue}, {100 * dose:g} % dose, {kernel} kernel, RMSE (HU; {beside})"
                found[title] = f"{errors[0]:.1f} ({', '.join(f'{e:.1f}' for e in errors[1:])})"
        for figure, digits in (("PSNR", 1), ("SSIM", 3)):
            values = [_mean(rows, m, f"{figure} {tissue}") for m in (method, *rivals)]
            shown = [f"{value:.{digits}f}" for value in values]
            found[f"{tissue}, {figure} ({beside})"] = f"{shown[0]} ({', '.join(shown[1:])})"
    found["held-out people"] = len({r["person"] for r in rows})
    return found


def _cell(row: dict) -> tuple[float, str, float]:
    return row["dose"], row["kernel"], row["spacing"]


def _mean(
    rows: list[dict], method: str, figure: str, cell: tuple | None = None, dose: float | None = None
) -> float:
    """Of a figure where it is known; cells of low dose unless a dose is named."""
    values = [
        row[figure]
        for row in rows
        if row["method"] == method
        and row[figure] is not None
        and (row["dose"] == dose if dose else row["dose"] < 1)
        and (cell is None or _cell(row) == cell)
    ]
    return float(np.mean(values)) if values else math.nan


def _share_below(own: list[float], others: list[float]) -> float:
    """Per cent of the cells in which a method's error is smaller."""
    return 100 * float(np.mean([a < b for a, b in zip(own, others)]))
