"""The search: optimises the inputs of a case, slice by slice, from each start."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..core import devices
from ..core.keys import Key
from ..core.progress import Progress
from ..core.results import Result
from ..optimise import descent, lbfgs
from ..optimise.objective import Objective, Terms
from .reading import image_title, start_words
from .served import priced
from .settings import IdealInputSettings

if TYPE_CHECKING:
    from .case import Case


INTERMEDIATE_EVERY_S = 5.0
ROWS_ON_CPU = 16
WORDS = {"best": "ideal", "worst": "worst"}  # what an input found in this direction is called


# -- optimisation ----------------------------------------------------------------------------------


@dataclass
class Found:
    """What a search found.

    Attributes:
        images: Of shape (starts, images, C, *space), normalised.
        trace: Best objective by evaluation, mean over images, per start.
        evaluations: Of the network, of shape (starts, images).
        status: How each search ended, of shape (starts, images).
        finished: How many images are done.
    """

    images: Tensor
    trace: list[list[float]]
    evaluations: Tensor
    status: Tensor
    finished: int = 0


def optimise(
    case: Case, names: list[str], starts: Tensor, settings: IdealInputSettings, progress: Progress
) -> Found:
    """Run the optimiser on all starts of a group of images at a time.

    Groups are as large as the memory allows.

    Args:
        case: Images, region and target.
        names: Of the starts.
        starts: Normalised, shape (starts, images, C, *space).
        settings: See ``IdealInputSettings``.
        progress: Receives progress and intermediate results; may raise ``Cancelled``.
    """
    count, total = starts.shape[:2]
    memory = budget(settings, starts.device)
    kept = descent.Options().kept if settings.optimiser == "annealed" else settings.history
    row = starts[0, 0].numel() * starts.element_size() * (2 * kept + 12)
    # On a CPU more rows at once gain nothing: memory stays the same however many slices there are.
    most = ROWS_ON_CPU // count if starts.device.type == "cpu" else total
    group = max(1, min(total, most, int(0.4 * memory / (row * count))))
    progress.log(
        f"Memory: about {(row * count * group + 0.5 * memory) / 1e9:.1f} GB for {group * count}"
        " images at a time, beside the program itself and the results."
    )
    found = Found(
        starts.clone(),
        [[] for _ in names],
        torch.zeros(count, total, dtype=torch.int64),
        torch.zeros(count, total, dtype=torch.int64),
    )
    solve = _fixed_step if settings.optimiser == "published" else _batched
    for first in range(0, total, group):
        part = slice(first, min(first + group, total))
        watch = _Watch(
            case,
            names,
            found,
            part,
            total,
            settings,
            progress,
            first // group * settings.max_evaluations,
        )
        solution = solve(case, part, starts[:, part], settings, memory, watch)
        found.images[:, part] = solution.x.reshape(found.images[:, part].shape)
        found.evaluations[:, part] = solution.evaluations.reshape(count, -1).cpu() * settings.passes
        found.status[:, part] = solution.status.reshape(count, -1).cpu()
        _add_trace(
            found.trace,
            solution.trace.reshape(len(solution.trace), count, -1).sum(2).cpu().numpy() / total,
        )
        found.finished = part.stop
    return found


def budget(settings: IdealInputSettings, device: torch.device) -> float:
    """Bytes that the run may take besides the program itself."""
    if settings.memory_gb is not None:
        return settings.memory_gb * 1e9
    free = devices.available_memory(device)
    return min(2e9, 0.7 * free) if device.type == "cpu" else 0.7 * free


def objective_for(
    case: Case, part: slice, settings: IdealInputSettings, memory: float, progress: Progress
) -> Objective:
    terms = Terms(
        settings.above, settings.below, settings.mean, 1 if settings.direction == "best" else -1
    )
    return Objective(
        case.model,
        case.target[part],
        case.weight[part],
        terms,
        budget=0.5 * memory,
        multiple=case.model.card.size_multiple,
        log=progress.log,
    )


def _batched(case, part, starts, settings, memory, watch) -> lbfgs.Solution:
    objective = objective_for(case, part, settings, memory, watch.progress)
    free, patient = case.free[part], case.patient[part]
    x = starts.flatten(0, 1)
    steps = max(1, settings.max_evaluations // settings.passes)
    options = lbfgs.Options(max_evaluations=steps, history=settings.history)
    minimize = partial(lbfgs.minimize, options=options, callback=watch)
    own = torch.tensor([float(name == "patient") for name in watch.names])
    own = own.repeat_interleave(len(free)).to(x)
    if settings.optimiser == "annealed" and settings.ball is None:
        annealed = descent.Options(max_evaluations=steps)
        # From the patient's images half the steps err less and change less.
        minimize = partial(descent.minimize, options=annealed, shares=1 - own / 2, callback=watch)
    near = settings.price * own if settings.price else None
    sigma = case.noise if settings.price else None
    total = priced(objective, patient, sigma, near, settings.blurred_weight)

    def value_and_gradient(
        x: Tensor, items: Tensor, rounding: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        value, gradient = total(x, items, rounding)
        return value, gradient * free[items % len(free)]

    def held(x: Tensor, items: Tensor) -> Tensor:
        image = items % len(free)
        return torch.where(free[image] > 0, x, patient[image])

    everything = torch.arange(len(x), device=x.device)
    if settings.ball is None and not settings.box:
        return minimize(value_and_gradient, x)
    if settings.box:
        # The bounds act on every voxel; those that may not change stay the patient's, in range or
        # not.
        watch.unfold = held
        solution = minimize(
            lambda x, items, *rounding: value_and_gradient(held(x, items), items, *rounding),
            x,
            lower=0.0,
            upper=1.0,
        )
        return lbfgs.Solution(held(solution.x, everything), *_rest(solution))

    ball = _Ball(patient, free, settings.ball)
    generator = torch.Generator().manual_seed(settings.seed)
    v = torch.randn(x.shape, generator=generator).to(x) * free * settings.ball
    watch.unfold = ball.point
    solution = minimize(ball.wrap(value_and_gradient), v)
    return lbfgs.Solution(ball.point(solution.x, everything), *_rest(solution))


class _Ball:
    """x = patient + v, with v drawn back to the sphere where it is longer than the radius: no bound
    is needed.
    """

    def __init__(self, patient: Tensor, free: Tensor, rms: float):
        self.patient, self.free = patient, free
        self.radius = rms * free.flatten(1).sum(1).sqrt()

    def shrink(self, v: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        norm = v.flatten(1).norm(dim=1).clamp(min=1e-12)
        factor = (self.radius[items % len(self.radius)] / norm).clamp(max=1)
        return factor.reshape(-1, *[1] * (v.dim() - 1)), norm.reshape(-1, *[1] * (v.dim() - 1))

    def point(self, v: Tensor, items: Tensor) -> Tensor:
        return self.patient[items % len(self.patient)] + self.shrink(v, items)[0] * v

    def wrap(self, value_and_gradient: Callable) -> Callable:
        def wrapped(v: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
            factor, norm = self.shrink(v, items)
            value, gradient = value_and_gradient(self.point(v, items), items)
            # On the sphere only the tangential part of the gradient moves x.
            unit = v / norm
            radial = (gradient * unit).flatten(1).sum(1).reshape(factor.shape)
            return value, factor * (gradient - torch.where(factor < 1, radial, 0) * unit)

        return wrapped


def _fixed_step(case, part, starts, settings, memory, watch) -> lbfgs.Solution:
    """torch.optim.LBFGS as the source used it, one image at a time."""
    objective = objective_for(case, part, settings, memory, watch.progress)
    x = starts.flatten(0, 1).clone()
    losses, evaluations = [], []
    for row in range(len(x)):
        item = torch.tensor([row], device=x.device)
        free = case.free[part][item % len(case.free[part])]
        image, trace = x[row : row + 1].clone().requires_grad_(), []
        optimiser = torch.optim.LBFGS([image], lr=1, max_iter=20)

        def closure():
            value, gradient = objective.value_and_gradient(image.detach(), item)
            image.grad = gradient * free
            trace.append(float(value[0]))
            return value[0]

        for step in range(100):
            optimiser.step(closure)
            if torch.isfinite(image).all():  # it may run away; what was found before counts
                x[row] = image.detach()[0]
            watch(
                step + 1,
                lambda: (x, torch.tensor([trace[-1]])),
                fraction=(row + (step + 1) / 100) / len(x),
            )
            if not math.isfinite(trace[-1]):
                break
        losses.append(trace)
        evaluations.append(len(trace))
    longest = max(map(len, losses))
    trace = torch.tensor(
        [[t[min(i, len(t) - 1)] for t in losses] for i in range(longest)], dtype=torch.float64
    )
    return lbfgs.Solution(
        x, trace[-1], torch.tensor(evaluations), torch.zeros(len(x), dtype=torch.int64), trace
    )


class _Watch:
    """Called after every evaluation: progress, the live loss curve and, every few seconds, an
    intermediate result.
    """

    def __init__(self, case, names, found, part, total, settings, progress, before):
        self.case, self.names, self.found, self.part, self.total = case, names, found, part, total
        self.settings, self.progress, self.before = (
            settings,
            progress,
            before,
        )  # evaluations of the groups before
        self.shown = time.monotonic()
        self.saved = (
            self.shown - INTERMEDIATE_EVERY_S + 1
        )  # the first one soon: a run may be cancelled early
        self.unfold = lambda x, items: x

    def __call__(
        self,
        evaluation: int,
        best: Callable[[], tuple[Tensor, Tensor]],
        fraction: float | None = None,
    ):
        now = time.monotonic()
        if now - self.shown < 0.2 and evaluation > 1:
            return
        self.shown = now
        x, loss = best()
        size = self.part.stop - self.part.start
        evaluation *= self.settings.passes
        inner = evaluation / self.settings.max_evaluations if fraction is None else fraction
        fraction = 0.95 * (self.part.start + inner * size) / self.total
        slices = (
            f"image {self.part.start + 1} to {self.part.stop} of {self.total}"
            if self.total > 1
            else "the image"
        )
        self.progress.report(fraction, f"Optimising {slices}, evaluation {evaluation}")
        for name, value in zip(
            self.names,
            loss.reshape(-1, size).mean(1).tolist() if loss.numel() > 1 else loss.tolist(),
        ):
            self.progress.point(f"from {start_words(name)}", self.before + evaluation, value)
        if now - self.saved > INTERMEDIATE_EVERY_S:
            self.saved = now
            images = self.found.images.clone()
            images[:, self.part] = self.unfold(x, torch.arange(len(x), device=x.device)).reshape(
                images[:, self.part].shape
            )
            facts = {
                "complete": False,
                "images_done": self.found.finished,
                "images": self.total,
                **self.case.facts,
                "settings": asdict(self.settings),
                "model": self.case.model.facts(),
            }
            self.progress.intermediate(
                ideal_volumes(
                    self.case, self.names, images, Result(facts=facts), self.settings.direction
                )
            )


def _rest(solution: lbfgs.Solution):
    return solution.loss, solution.evaluations, solution.status, solution.trace


def _add_trace(trace: list[list[float]], more: np.ndarray) -> None:
    """Add a group's share to the mean curve; groups that ended earlier keep their last value."""
    for line, new in zip(trace, more.T.tolist()):
        length = max(len(line), len(new))
        old = line + [line[-1] if line else 0.0] * (length - len(line))
        line[:] = [a + b for a, b in zip(old, new + [new[-1]] * (length - len(new)))]


# -- result ----------------------------------------------------------------------------------------


def ideal_volumes(
    case: Case, names: list[str], images: Tensor, result: Result, direction: str = "best"
) -> Result:
    """Add the ideal inputs and their change to ``result``, keys "ideal <role> <start>" and so on.

    Args:
        case: Scaling and geometry.
        names: Of the starts.
        images: Normalised, shape (starts, images, C, *space).
        result: What they are added to, in scanner units.
        direction: "best" or "worst".
    """
    patient = case.model.denormalise(case.patient, case.scaling)
    kind = WORDS[direction]
    for name, image in zip(names, images):
        ideal = case.model.denormalise(image, case.scaling)
        for index, channel in enumerate(case.model.card.inputs):
            found = Key("ideal", channel.role, name)
            put_volume(result, case, ideal, index, found, "input", kind)
            change = Key("change", channel.role, name)
            put_volume(result, case, ideal - patient, index, change, "difference", kind)
    return result


def put_volume(
    result: Result,
    case: Case,
    images: Tensor,
    index: int,
    key: Key,
    role: str,
    kind: str = "ideal",
) -> None:
    """Add an image to a result under its key, with its title.

    Args:
        result: Takes it.
        case: Scaling and geometry.
        images: In scanner units, of shape (images, C, *space).
        index: Of the channel among the card's inputs; for outputs and errors among its outputs.
        key: What the image is.
        role: How it is to be shown.
        kind: "ideal" or "worst", as the inputs are called.
    """
    card = case.model.card
    channel = (card.outputs if key.kind in ("output", "error") else card.inputs)[index]
    title = image_title(key, channel.name, kind)
    result.volumes[key] = case.volume(images, index, title, channel.units)
    result.roles[key] = role
