"""Learns what one scanner's MR images look like: a flow over slices given their edges, and the
figures of its people.

``train`` reads scans of ONE scanner (the target domain) and writes a model file with task
"harmonization" that holds an ``MRFlow``. Its statistics, P people in the order of their names, the
held-out ones among them:

    quantiles           (513,)      mean over training people of the quantiles, at linspace(0, 1,
                                    513), of the scaled values in the mask, on the scan's own grid
    person_quantiles    (T, 513)    the same of each of the T training people scale
    (T,)        what the intensities of each of them were divided by histogram           (84,)
    share of values in bins 1/64 wide from 0, mean over training people bits_per_dim        (P, 4)
    of axial, coronal, sagittal slices and their mean, see ``figures`` latent_rms          (P,
    levels) root mean square of the latents of each level held_out            (P,)        1 for
    people that the flow was not trained on: theirs are the figures to judge others by
    typical_radius      (levels, 2) mean and deviation of latent_rms over held-out people (all
    people if nobody was held out)

Bits/dim are those of the image quantised in bins of ``bin_width``, divided by the voxels inside the
mask: air, which is certain, takes nearly none.

Sources: Lugmayr et al., arXiv:2006.14200 (conditional flow); Beizaee et al., arXiv:2301.11551
(negative examples, here up to a margin above the good ones); Theis, van den Oord & Bethge,
arXiv:1511.01844 (uniform dequantisation).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from . import models, mr, networks, volumes
from .edges import edge_map
from .networks.flow import ConditionalFlow, log_prob_of
from .networks.mrflow import MRFlow
from .results import Progress
from .training import Group, State, plain, run
from .volumes import Volume

# Slices are stacked along axis n of arrays [k, j, i] in RAS axes.
ORIENTATIONS = ("axial", "coronal", "sagittal")
QUANTILES = 513
HISTOGRAM_BINS = 84
SLICES_AT_ONCE = 16
# Spoilt slices come when the others have been learnt by and large: share of the steps.
NEGATIVES_FROM = 0.3
INTENDED_USE = (
    "Research only, not for diagnosis or treatment. It describes T1-weighted brain images of the people and the scanner it was "
    "trained on; other contrasts, body parts and pathology are outside of what it knows."
)


@dataclass(frozen=True)
class FlowSettings:
    """How the flow is built and trained.

    Attributes:
        steps: Optimiser steps. An epoch is one pass over the training slices, or a tenth of the
            steps if that is less.
        batch: Slices in each step, shared among the processes.
        learning_rate: AdamW's, at its highest; warms up over 5 % of the steps and falls as a
            cosine.
        clip: Largest norm of the gradient.
        average: Decay per step of the running mean of the weights, which is what is kept.
        spacing_mm: Voxel size of the isotropic grid that the flow works on.
        bin_width: Of the quantisation, in scaled units; noise fills the bins in training, their
            centres stand for them later.
        negative: Share of slices whose contrast is spoilt (a random curve and field) and whose
            likelihood is pushed DOWN.
        negative_margin: Bits/dim (of the whole slice) above the other slices of the batch up to
        which they are pushed. levels, flow_steps, hidden, features, conditional: Of
        ``ConditionalFlow``.
        seed: Everything random follows from it and the step's number.
        checkpoint_every: Steps between checkpoints.

    Raises:
        ValueError: A number out of its range.
    """

    steps: int = 4000
    batch: int = 8
    learning_rate: float = 1e-3
    clip: float = 1.0
    average: float = 0.998
    spacing_mm: float = 2.0
    bin_width: float = 1 / 64
    negative: float = 0.0
    negative_margin: float = 0.5
    levels: int = 3
    flow_steps: int = 8
    hidden: int = 32
    features: tuple[int, ...] = (16, 32, 64)
    conditional: bool = True
    seed: int = 0
    checkpoint_every: int = 100

    def __post_init__(self):
        for name in (
            "steps",
            "batch",
            "learning_rate",
            "clip",
            "spacing_mm",
            "bin_width",
            "checkpoint_every",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("average", "negative"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be from 0 to below 1, not {getattr(self, name)}")

    def flow(self) -> dict:
        """Arguments of ``ConditionalFlow``."""
        return {
            "levels": self.levels,
            "steps": self.flow_steps,
            "hidden": self.hidden,
            "features": list(self.features),
            "conditional": self.conditional,
        }


@dataclass(frozen=True)
class Case:
    """One person's scan on the flow's grid.

    ``image`` (scaled, float32), ``edges`` (float32, 0 to 1) and ``mask`` (bool) are [k, j, i] in
    RAS axes; ``quantiles`` (513,), ``histogram`` (84,) and ``scale``, what intensities were divided
    by, are of the scan's own grid.
    """

    name: str
    image: np.ndarray
    edges: np.ndarray
    mask: np.ndarray
    quantiles: np.ndarray
    histogram: np.ndarray
    scale: float


# Reading ------------------------------------------------------------------------------------------


def find_scans(folder: Path | str) -> dict[str, tuple[Path, Path | None]]:
    """Images of a folder and its sub-folders by name, each with its mask file where there is one.

    NIfTI, NRRD and MetaImage files (``NAME_mask`` beside ``NAME`` is its mask); a sub-folder
    without any is one DICOM series.

    Raises:
        ValueError: There is none, or a name comes twice.
    """
    folder, found = Path(folder), {}
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    for place in [folder, *sorted(p for p in folder.rglob("*") if p.is_dir())]:
        files = {
            volumes.scan_name(p): p
            for p in sorted(place.iterdir())
            if p.name.endswith(volumes.SUFFIXES) and not p.name.startswith(".")
        }
        images = {
            s: (p, files.get(s + "_mask")) for s, p in files.items() if not s.endswith("_mask")
        }
        if not files and any(p.is_file() for p in place.iterdir()) and _holds_dicom(place):
            images = {place.resolve().name: (place, None)}
        twice = sorted(images.keys() & found.keys())
        if twice:
            raise ValueError(f"two scans in {folder} are called {twice[0]}: rename one")
        found.update(images)
    if not found:
        raise ValueError(
            f"no MR volume (.nii, .nii.gz, .nrrd, .mha, or folders of DICOM slices) in {folder}"
        )
    return dict(sorted(found.items()))


def read_cases(
    folder: Path | str,
    spacing_mm: float = FlowSettings.spacing_mm,
    progress: Progress | None = None,
) -> list[Case]:
    """Every scan of a folder, masked, scaled and on the grid, in the order of their names.

    Raises:
        ValueError: As ``find_scans``, ``volumes.load`` and ``mr.prepare``; which scan it is stands
            in the message.
    """
    cases, progress = [], progress or Progress()
    scans = find_scans(folder)
    for number, (name, (path, mask)) in enumerate(scans.items()):
        progress.report(number / len(scans), f"reading {name}")
        scan = mr.prepare(volumes.load(path), volumes.load(mask) if mask else None)
        cases.append(make_case(scan, spacing_mm, name))
    return cases


def person_of(name: str) -> str:
    """The person that a scan shows: ``sub-01`` of ``sub-01_ses-2_T1w`` (BIDS), otherwise the scan's
    name.
    """
    return name.split("_")[0] if name.startswith("sub-") else name


def make_case(scan: mr.Scan, spacing_mm: float, name: str | None = None) -> Case:
    """A scan as the flow sees it."""
    grid = on_grid(scan, spacing_mm)
    inside = scan.inside
    counts = np.histogram(inside, HISTOGRAM_BINS, (0, HISTOGRAM_BINS / 64))[0]
    return Case(
        name or scan.volume.name,
        grid.image,
        edge_map(grid.image, grid.mask, grid.volume.spacing_mm),
        grid.mask,
        np.quantile(inside, np.linspace(0, 1, QUANTILES)).astype(np.float32),
        (counts / inside.size).astype(np.float32),
        scan.scale,
    )


def on_grid(scan: mr.Scan, spacing_mm: float, margin: int = 2) -> mr.Scan:
    """The scan on an isotropic grid along its own axes that just holds the mask and ``margin``
    voxels around it.

    Where the scan is finer, it is first smoothed to the new voxel size (Gaussian, full widths at
    half maximum in quadrature).

    Raises:
        mr.ScanError: Nothing of the mask is left on that grid.
    """
    old = np.array(scan.volume.spacing_mm[::-1])
    sigma = np.sqrt(np.maximum(0, spacing_mm**2 - old**2)) / 2.355 / old
    box = tuple(
        slice(*ends)
        for ends in _grown(scan.mask, np.ceil((margin + 1) * spacing_mm / old).astype(int))
    )
    offset = np.array([side.start for side in box][::-1])
    near = Volume(scan.image[box], _moved(scan.volume.ijk_to_ras, offset), scan.volume.name)
    smooth = near.with_array(ndimage.gaussian_filter(near.array, sigma, mode="nearest"))
    reference = _grid_over(near, spacing_mm)
    image = volumes.resample(smooth, reference, fill=0).array.clip(0, mr.BRIGHTEST)
    inside = near.with_array(
        ndimage.gaussian_filter(scan.mask[box].astype(np.float32), sigma, mode="nearest")
    )
    mask = volumes.resample(inside, reference, fill=0).array > 0.5
    if not mask.any():
        raise mr.ScanError(
            f"the mask covers less than a voxel of the model's grid ({spacing_mm:g} mm): draw or choose a mask "
            "that covers the brain"
        )
    volume = replace(reference, array=np.ascontiguousarray(image, np.float32))
    return mr.Scan(volume, mask, scan.scale, scan.original)


def _grid_over(near: Volume, spacing_mm: float) -> Volume:
    """An empty isotropic grid with the same middle and at least the same extent."""
    old = np.array(near.spacing_mm)
    extent = np.array(near.shape[::-1])
    size = np.ceil(extent * old / spacing_mm - 1e-6).astype(int)
    matrix = near.ijk_to_ras.copy()
    matrix[:3, :3] *= spacing_mm / old
    matrix[:3, 3] = (near.ijk_to_ras @ [*(extent - 1) / 2, 1])[:3] - matrix[:3, :3] @ (
        (size - 1) / 2
    )
    return Volume(np.zeros(size[::-1], np.float32), matrix, near.name)


def _grown(mask: np.ndarray, margin: np.ndarray) -> list[tuple[int, int]]:
    used = [np.flatnonzero(mask.any(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return [(max(0, int(w[0] - m)), int(w[-1] + 1 + m)) for w, m in zip(used, margin)]


def _moved(matrix: np.ndarray, ijk: np.ndarray) -> np.ndarray:
    moved = matrix.copy()
    moved[:3, 3] = (matrix @ [*ijk, 1])[:3]
    return moved


def _holds_dicom(folder: Path) -> bool:
    """Whether a file there has DICOM's mark."""
    for path in sorted(folder.iterdir()):
        if path.is_file():
            with open(path, "rb") as file:
                if file.read(132)[128:] == b"DICM":
                    return True
    return False


# Slices -------------------------------------------------------------------------------------------


def quantised(image: Tensor, bin_width: float) -> Tensor:
    """Scaled values moved to the centres of their bins: what a flow is asked about outside of
    training.

    Args:
        image: (N, 1, H, W), scaled.
        bin_width: In scaled units.

    Returns:
        Of the shape of ``image``.
    """
    return (torch.floor(image / bin_width) + 0.5) * bin_width


def slices(case: Case, axis: int, multiple: int, every: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """All slices along an axis that meet the mask (or every n-th, one at least): images, edges,
    masks (N, 1, H, W).

    Zeros at the far sides fill heights and widths up to a multiple.
    """
    used = np.flatnonzero(case.mask.any(tuple({0, 1, 2} - {axis})))
    used = used[min(every // 2, len(used) - 1) :: every]
    found = []
    for array in (case.image, case.edges, case.mask.astype(np.float32)):
        stack = np.moveaxis(np.take(array, used, axis), axis, 0)
        stack = np.pad(stack, [(0, 0), *((0, -n % multiple) for n in stack.shape[1:])])
        found.append(torch.from_numpy(np.ascontiguousarray(stack))[:, None])
    return tuple(found)


@torch.no_grad()
def figures(
    flow: ConditionalFlow, case: Case, bin_width: float, every: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Bits/dim (4,) of axial, coronal and sagittal slices and their mean, and the root mean square
    of latents, (levels,).

    Bits/dim are -log2 of the probability of the slices' bins, summed over slices, per voxel inside
    the mask.

    Args:
        every: Take every n-th slice only.
    """
    device = next(flow.parameters()).device
    bits, squares, counts = [], 0.0, 0.0
    for axis in range(3):
        total, voxels = 0.0, 0
        images, edges, masks = slices(case, axis, flow.size_multiple, every)
        for x, edge, mask in zip(
            *(stack.split(SLICES_AT_ONCE) for stack in (images, edges, masks))
        ):
            x = quantised(x, bin_width).to(device)
            z, log_det = flow(x, edge.to(device))
            total += float(_bits(z, log_det, bin_width).sum())
            voxels += int(mask.sum())
            squares = squares + np.array([float(part.cpu().double().square().sum()) for part in z])
            counts = counts + np.array([part.numel() for part in z])
        bits.append(total / voxels)
    return np.array([*bits, np.mean(bits)]), np.sqrt(squares / counts)


def _bits(z: list[Tensor], log_det: Tensor, bin_width: float) -> Tensor:
    """(N,) bits of the bins that the images fall into."""
    dimension = sum(part[0].numel() for part in z)
    return -log_prob_of(z, log_det) / math.log(2) - dimension * math.log2(bin_width)


def draw_batch(
    cases: list[Case], settings: FlowSettings, step: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy slices, their edges, and labels.

    All of one orientation and size; people are drawn with equal chance, then a slice; it may be
    mirrored left to right and lies anywhere in the frame.

    Args:
        cases: Everybody trained on.
        settings: Sizes, noise, and the seed.
        step: Number of the step, from which the random numbers follow.

    Returns:
        Slices (N, 1, H, W), edges of the same shape, and labels (N,): 1, or -1 for a spoilt slice.
    """
    rng = np.random.default_rng([settings.seed, step])
    axis, multiple = int(rng.integers(3)), 2**settings.levels
    frame = [max(c.image.shape[n] for c in cases) for n in range(3) if n != axis]
    frame = [(n // multiple + 1) * multiple for n in frame]
    images, edges = np.zeros((2, settings.batch, 1, *frame), np.float32)
    labels = np.ones(settings.batch, np.float32)
    for n in range(settings.batch):
        case = cases[rng.integers(len(cases))]
        k = int(rng.choice(np.flatnonzero(case.mask.any(tuple({0, 1, 2} - {axis})))))
        image, edge = (np.take(array, k, axis) for array in (case.image, case.edges))
        if axis < 2 and rng.random() < 0.5:
            image, edge = image[:, ::-1], edge[:, ::-1]
        if rng.random() < settings.negative * (step >= NEGATIVES_FROM * settings.steps):
            image, labels[n] = spoilt(image, rng), -1
        corner = [int(rng.integers(f - s + 1)) for f, s in zip(frame, image.shape)]
        place = tuple(slice(c, c + s) for c, s in zip(corner, image.shape))
        images[n, 0][place], edges[n, 0][place] = image, edge
    width = np.float32(settings.bin_width)
    images = (np.floor(images / width) + rng.random(images.shape, np.float32)) * width
    return torch.from_numpy(images), torch.from_numpy(edges), torch.from_numpy(labels)


def spoilt(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A slice [H, W] as another scanner might show it: a random rising curve through 0 and 1, then
    smooth fields; air stays.
    """
    knots = np.concatenate([[0], np.cumsum(np.exp(rng.normal(0, 0.6, 6)))])
    knots *= rng.uniform(0.85, 1.15) / knots[-1]
    beyond = knots[-1] + (mr.BRIGHTEST - 1) * (knots[-1] - knots[-2]) * 6
    changed = np.interp(image, [*np.linspace(0, 1, 7), mr.BRIGHTEST], [*knots, beyond])
    times, plus = (
        amplitude * _smooth(image.shape, rng)
        for amplitude in (rng.uniform(0, 0.4), rng.uniform(0, 0.15))
    )
    return (
        np.where(image > 0, changed * (1 + times) + plus, 0)
        .clip(0, mr.BRIGHTEST)
        .astype(np.float32)
    )


def _smooth(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A smooth random field, at most 1 in magnitude."""
    field = ndimage.zoom(
        rng.uniform(-1, 1, (4, 4)), [n / 4 for n in shape], order=3, mode="nearest", grid_mode=True
    )
    return field / np.abs(field).max()


# Training -----------------------------------------------------------------------------------------


def train(
    cases: list[Case],
    output: Path | str,
    settings: FlowSettings = FlowSettings(),
    hold_out: list[str] | None = None,
    checkpoint: Path | str | None = None,
    progress: Progress = Progress(),
    device: torch.device | str = "cpu",
    card: dict | None = None,
) -> Path:
    """Train a flow on ``cases`` and write the model file, and its learning curve as a picture
    beside it.

    Under torchrun every process calls this; the first one writes.

    Args:
        hold_out: People not trained on, by name; the last fifth if None.
        checkpoint: Where the state is kept; if it is there already, training goes on from it, to
            the very weights that an uninterrupted run gives (same machine, same numbers of threads
            and processes).
        card: Fields of the model's card to write instead of the usual ones (name, sources, licence,
            ...).

    Raises:
        ValueError: Nobody to train on, unknown people to hold out, a batch that the processes
            cannot share evenly, or a checkpoint of other settings or scans.
    """
    training, held_out = split_people(cases, hold_out)
    device = torch.device(device)
    group = Group.joined(device)
    group.check_batch(settings.batch)
    state = _State(settings, [c.name for c in training], device)
    run(
        state,
        lambda: state.advance(draw_batch(training, settings, state.step), group),
        ("bits/dim", "held-out bits/dim"),
        group,
        checkpoint,
        progress,
        lambda: held_out_bits(state.averaged(), held_out, settings.bin_width),
        epoch_steps(training, settings),
        lambda: state.initialise(draw_batch(training, settings, 0)),
    )
    if group.rank == 0:
        draw_curve(state.history, Path(output).with_suffix(".png"))
        write_model(output, state.averaged(), training, held_out, settings, card or {}, progress)
    group.leave()
    return Path(output)


def split_people(cases: list[Case], hold_out: list[str] | None) -> tuple[list[Case], list[Case]]:
    """(training, held out), by person or by scan name; None holds out the last fifth of people by
    name, one at least.
    """
    people = sorted({person_of(c.name) for c in cases})
    if hold_out is None:
        hold_out = people[-max(1, len(people) // 5) :] if len(people) > 1 else []
    known = set(people) | {c.name for c in cases}
    unknown = sorted(set(hold_out) - known)
    if unknown:
        raise ValueError(
            f"nobody to hold out is called {', '.join(unknown)}; there are {', '.join(people)}"
        )
    held_out = [c for c in cases if {c.name, person_of(c.name)} & set(hold_out)]
    training = [c for c in cases if not {c.name, person_of(c.name)} & set(hold_out)]
    if not training:
        raise ValueError("nobody is left to train on: hold out fewer people, or give more scans")
    return training, held_out


def epoch_steps(training: list[Case], settings: FlowSettings) -> int:
    """Steps in an epoch: one pass over the slices, at most a tenth of the training."""
    count = sum(
        int(c.mask.any(tuple({0, 1, 2} - {axis})).sum()) for c in training for axis in range(3)
    )
    return max(1, min(math.ceil(count / settings.batch), math.ceil(settings.steps / 10)))


def held_out_bits(flow: ConditionalFlow, held_out: list[Case], bin_width: float) -> float:
    """Mean bits/dim inside the mask over people, from every fifth slice; NaN without people."""
    return (
        float(np.mean([figures(flow, c, bin_width, every=5)[0][3] for c in held_out]))
        if held_out
        else math.nan
    )


class _State(State):
    """The flow in training."""

    def __init__(self, settings: FlowSettings, names: list[str], device: torch.device):
        torch.manual_seed(settings.seed)
        self.device, self.flow = (
            device,
            networks.build("conditional_flow", **settings.flow()).to(device),
        )
        # On a CPU memory is not what is short.
        self.flow.memory_saving = device.type != "cpu"
        super().__init__(
            settings,
            names,
            self.flow,
            optimiser=torch.optim.AdamW(
                self.flow.parameters(), lr=settings.learning_rate, weight_decay=1e-5
            ),
        )

    def initialise(self, batch: tuple[Tensor, Tensor, Tensor]) -> None:
        """Set every ActNorm from the whole first batch, the same in every process."""
        images, edges, _ = (part.to(self.device) for part in batch)
        self.flow.initialise(images, edges)
        self.begin_mean()

    def advance(self, batch: tuple[Tensor, Tensor, Tensor], group: Group) -> float:
        """One optimiser step; the batch's mean bits/dim of whole slices (negative examples left
        out).

        Raises:
            ValueError: The loss is not finite; the weights are those of the step before.
        """
        s = self.settings
        images, edges, labels = (part.to(self.device) for part in group.share(*batch))
        z, log_det = self.flow.train()(images, edges)
        bits = _bits(z, log_det, s.bin_width) / images[0].numel()
        good = labels > 0
        enough = (bits[good].mean() if good.any() else bits.mean()).detach() + s.negative_margin
        loss = torch.where(good, bits, -bits.clamp(max=enough)).mean()
        self.update(self.parts["optimiser"], list(self.flow.parameters()), loss, group, clip=s.clip)
        shown = torch.stack([bits.detach()[good].sum(), good.sum().to(bits)])
        group.average([shown])
        return float(shown[0] / shown[1].clamp(min=1e-9))

    def averaged(self) -> ConditionalFlow:
        """A flow with the mean weights."""
        flow = networks.build("conditional_flow", **self.settings.flow())
        flow.load_state_dict(self.averaged_state())
        return flow.to(self.device).eval().requires_grad_(False)


def draw_curve(history: list[list[float]], path: Path | str) -> None:
    """Write the learning curve as a picture: bits/dim over steps, in training and on held-out
    people.
    """
    from matplotlib.figure import Figure

    steps, known, new = zip(*history)
    figure = Figure((6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="bits/dim of whole slices, training")
    lines = axes.plot(steps, known, "o-", label="training")
    right = axes.twinx()
    right.set_ylabel("bits/dim inside the mask, held-out people")
    lines += right.plot(
        steps, new, "s-", color="tab:orange", label="held-out people (running mean of the weights)"
    )
    axes.legend(handles=lines)
    figure.savefig(path, dpi=120)


# The model file -----------------------------------------------------------------------------------


def write_model(
    output: Path | str,
    flow: ConditionalFlow,
    training: list[Case],
    held_out: list[Case],
    settings: FlowSettings,
    card: dict,
    progress: Progress | None = None,
) -> Path:
    """Measure everybody and write flow and statistics as one model file."""
    statistics = measure(flow, training, held_out, settings.bin_width, progress)
    shapes = {name: list(values.shape) for name, values in statistics.items()}
    network = networks.build("mrflow", flow=settings.flow(), corrector=None, statistics=shapes)
    network.flow.load_state_dict(flow.state_dict())
    _fill(network, statistics)
    return models.save(
        output, network, replace(make_card(training, held_out, settings, network, shapes), **card)
    )


def measure(
    flow: ConditionalFlow,
    training: list[Case],
    held_out: list[Case],
    bin_width: float,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """The statistics that the module's docstring lists."""
    progress = progress or Progress()
    everybody = sorted([*training, *held_out], key=lambda c: c.name)
    bits, rms = [], []
    for number, case in enumerate(everybody):
        progress.report(1.0, f"figures of {case.name}, {number + 1} of {len(everybody)}")
        for kept, found in zip((bits, rms), figures(flow, case, bin_width)):
            kept.append(found)
    apart = {c.name for c in held_out}
    new = np.array([c.name in apart for c in everybody])
    judged = np.array(rms)[new if new.any() else ~new]
    training = sorted(training, key=lambda c: c.name)
    people = np.stack([c.quantiles for c in training])
    found = {
        "quantiles": people.mean(0),
        "person_quantiles": people,
        "scale": [c.scale for c in training],
        "histogram": np.mean([c.histogram for c in training], 0),
        "bits_per_dim": np.array(bits),
        "latent_rms": np.array(rms),
        "held_out": new,
        "typical_radius": np.stack([judged.mean(0), judged.std(0)], 1),
    }
    return {
        name: torch.from_numpy(np.asarray(values, np.float32)) for name, values in found.items()
    }


def make_card(
    training: list[Case],
    held_out: list[Case],
    settings: FlowSettings,
    network: MRFlow,
    shapes: dict,
) -> models.Card:
    """The card of a flow; ``train``'s caller may replace fields."""
    bits = network.statistic("bits_per_dim")[:, 3]
    new = network.statistic("held_out") > 0
    quality = {"training people, bits/dim inside the mask": round(float(bits[~new].mean()), 4)}
    if new.any():
        quality["held-out people, bits/dim inside the mask"] = round(float(bits[new].mean()), 4)
    values = {k: v if type(v) in (int, float) else str(v) for k, v in plain(settings).items()}
    return models.Card(
        name="MR of one scanner",
        version="1",
        architecture="mrflow",
        arguments={"flow": settings.flow(), "corrector": None, "statistics": shapes},
        inputs=(
            models.Channel(
                "MR image, divided by its 99.5th percentile inside the mask", "source", "", 0.0, 1.0
            ),
        ),
        outputs=(
            models.Channel(
                "MR image as the target scanner shows it, scaled", "harmonized", "", 0.0, 1.0
            ),
        ),
        dimensions=2,
        orientation="RAS",
        spacing_mm=(settings.spacing_mm, settings.spacing_mm),
        size_multiple=2**settings.levels,
        trained_on=tuple(sorted(c.name for c in training)),
        sources="MR scans of the person who trained it",
        licence="MIT",
        intended_use=INTENDED_USE,
        quality=quality,
        training={**values, "held out": ", ".join(sorted(c.name for c in held_out)) or "nobody"},
        task=models.HARMONIZATION,
    )


def combine(
    flow_file: Path | str,
    output: Path | str,
    corrector: torch.nn.Module | None = None,
    arguments: dict | None = None,
    statistics: dict[str, Tensor] | None = None,
    quality: dict | None = None,
    training: dict | None = None,
) -> Path:
    """Write a model file with the flow and statistics of ``flow_file`` and another corrector,
    statistics or figures besides.

    Args:
        corrector, arguments: The corrector and the JSON arguments that build it; None keeps the one
            in ``flow_file``.
        statistics: Added to those of ``flow_file``, in the place of any that has the same name.
        quality, training: Added to the card's facts.

    Raises:
        models.ModelError: ``flow_file`` cannot be used, or the card that comes out is not valid.
    """
    old = models.load(flow_file)
    everything = {**dict(old.network.statistics.named_buffers()), **(statistics or {})}
    if corrector is None:
        corrector, arguments = old.network.corrector, old.card.arguments["corrector"]
    built = {
        **old.card.arguments,
        "corrector": arguments,
        "statistics": {n: list(v.shape) for n, v in everything.items()},
    }
    network = networks.build("mrflow", **built)
    network.flow.load_state_dict(old.network.flow.state_dict())
    if corrector is not None:
        network.corrector.load_state_dict(corrector.state_dict())
    _fill(network, everything)
    card = replace(
        old.card,
        arguments=built,
        quality={**old.card.quality, **(quality or {})},
        training={**old.card.training, **(training or {})},
    )
    return models.save(output, network, card)


def _fill(network: MRFlow, statistics: dict[str, Tensor]) -> None:
    for name, values in statistics.items():
        network.statistic(name).copy_(values)
