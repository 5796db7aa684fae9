"""Learns what one scanner's MR images look like.

It fits a flow over slices given their edges, and the figures of its people.

``train`` reads scans of ONE scanner (the target domain) and writes a model file with task
"harmonization" that holds an ``MRFlow``. Its statistics, P people in the order of their names, the
held-out ones among them:

    quantiles         (513,)       mean over training people of the quantiles, at
                                   linspace(0, 1, 513), of the scaled values in the mask, on the
                                   scan's own grid
    person_quantiles  (T, 513)     the same of each of the T training people
    scale             (T,)         what the intensities of each of them were divided by
    histogram         (84,)        share of values in bins 1/64 wide from 0, mean over training
                                   people
    bits_per_dim      (P, 4)       of axial, coronal, sagittal slices and their mean, see
                                   ``figures``
    latent_rms        (P, levels)  root mean square of the latents of each level
    held_out          (P,)         1 for people that the flow was not trained on: theirs are the
                                   figures to judge others by
    typical_radius    (levels, 2)  mean and deviation of latent_rms over held-out people (all
                                   people if nobody was held out)

Bits/dim are those of the image quantised in bins of ``bin_width``, divided by the voxels inside the
mask: air, which is certain, takes nearly none.

Sources: Lugmayr et al., arXiv:2006.14200 (conditional flow); Beizaee et al., arXiv:2301.11551
(negative examples, here up to a margin above the good ones); Theis, van den Oord & Bethge,
arXiv:1511.01844 (uniform dequantisation).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from .. import networks
from ..core import files
from ..core.progress import Progress
from ..core.settings import Checked, setting
from ..harmonize import scan as harmonize_scan
from ..harmonize.slices import bits_of_bins, figures, make_case
from ..networks.flow import MAX_FEATURES, MOST, ConditionalFlow
from .doubles import read_scans
from .flow_file import write_model
from .loop import Group, State, run
from .people import split_people

if TYPE_CHECKING:
    from ..harmonize.slices import SliceCase


# Spoilt slices come when the others have been learnt by and large: share of the steps.
NEGATIVES_FROM = 0.3


@dataclass(frozen=True)
class FlowSettings(Checked):
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

    steps: int = setting(4000, at_least=1)
    batch: int = setting(8, at_least=1)
    learning_rate: float = setting(1e-3, above=0)
    clip: float = setting(1.0, above=0)
    average: float = setting(0.998, at_least=0, below=1)
    spacing_mm: float = setting(2.0, above=0)
    bin_width: float = setting(1 / 64, above=0)
    negative: float = setting(0.0, at_least=0, below=1)
    negative_margin: float = 0.5
    levels: int = setting(3, at_least=1, at_most=MOST["levels"])
    flow_steps: int = setting(8, at_least=1, at_most=MOST["steps"])
    hidden: int = setting(32, at_least=1, at_most=MOST["hidden"])
    features: tuple[int, ...] = setting((16, 32, 64), at_least=1, at_most=MAX_FEATURES)
    conditional: bool = True
    seed: int = setting(0, at_least=0)
    checkpoint_every: int = setting(100, at_least=1)

    def check(self) -> None:
        if self.conditional and len(self.features) != self.levels:
            raise ValueError(
                f"features must list one number for each of the {self.levels} levels, not"
                f" {list(self.features)}"
            )

    def flow(self) -> dict:
        """Arguments of ``ConditionalFlow``."""
        return {
            "levels": self.levels,
            "steps": self.flow_steps,
            "hidden": self.hidden,
            "features": list(self.features),
            "conditional": self.conditional,
        }


def read_cases(
    folder: Path | str,
    spacing_mm: float = FlowSettings.spacing_mm,
    progress: Progress | None = None,
) -> list[SliceCase]:
    """Every scan of a folder, masked, scaled and on the grid, in the order of their names.

    Raises:
        ValueError: As ``find_scans``, ``volumes.load`` and ``mr.prepare``; which scan it is stands
            in the message.
    """
    cases, progress = [], progress or Progress()
    for name, image, mask in read_scans(folder, progress):
        scan = harmonize_scan.prepare(image, files.load(mask) if mask else None)
        cases.append(make_case(scan, spacing_mm, name))
    return cases


def draw_batch(
    cases: list[SliceCase], settings: FlowSettings, step: int
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
    """A slice [H, W] as another scanner might show it.

    A random rising curve through 0 and 1, then smooth fields; air stays.
    """
    knots = np.concatenate([[0], np.cumsum(np.exp(rng.normal(0, 0.6, 6)))])
    knots *= rng.uniform(0.85, 1.15) / knots[-1]
    beyond = knots[-1] + (harmonize_scan.BRIGHTEST - 1) * (knots[-1] - knots[-2]) * 6
    changed = np.interp(image, [*np.linspace(0, 1, 7), harmonize_scan.BRIGHTEST], [*knots, beyond])
    times, plus = (
        amplitude * _smooth(image.shape, rng)
        for amplitude in (rng.uniform(0, 0.4), rng.uniform(0, 0.15))
    )
    return (
        np.where(image > 0, changed * (1 + times) + plus, 0)
        .clip(0, harmonize_scan.BRIGHTEST)
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
    cases: list[SliceCase],
    output: Path | str,
    settings: FlowSettings = FlowSettings(),
    hold_out: list[str] | None = None,
    checkpoint: Path | str | None = None,
    progress: Progress = Progress(),
    device: torch.device | str = "cpu",
    card: dict | None = None,
) -> Path:
    """Train a flow on cases and write the model file.

    Its learning curve is written as a picture beside it.

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
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        draw_curve(state.history, Path(output).with_suffix(".png"))
        write_model(output, state.averaged(), training, held_out, settings, card or {}, progress)
    group.leave()
    return Path(output)


def epoch_steps(training: list[SliceCase], settings: FlowSettings) -> int:
    """Steps in an epoch: one pass over the slices, at most a tenth of the training."""
    count = sum(
        int(c.mask.any(tuple({0, 1, 2} - {axis})).sum()) for c in training for axis in range(3)
    )
    return max(1, min(math.ceil(count / settings.batch), math.ceil(settings.steps / 10)))


def held_out_bits(flow: ConditionalFlow, held_out: list[SliceCase], bin_width: float) -> float:
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
        saving = device.type != "cpu"  # on a CPU memory is not what is short
        flow = networks.build("conditional_flow", **settings.flow(), memory_saving=saving)
        self.device, self.flow = device, flow.to(device)
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
        """One optimiser step.

        The batch's mean bits/dim of whole slices (negative examples left out).

        Raises:
            ValueError: The loss is not finite; the weights are those of the step before.
        """
        s = self.settings
        images, edges, labels = (part.to(self.device) for part in group.share(*batch))
        z, log_det = self.flow.train()(images, edges)
        bits = bits_of_bins(z, log_det, s.bin_width) / images[0].numel()
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
    """Write the learning curve as a picture.

    Bits/dim over steps, in training and on held-out people.
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
