"""Ideal input: the input image that a trained image-to-image network errs least on, found by L-BFGS
on the input.

    result = ideal_input(volumes, {"network": model}, Settings(starts=("patient", "zeros")))

Source: "Visualizing the 'ideal' input MRI for synthetic CT generation with a trained deep CNN",
ISMRM 2019, 4866.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from . import acquisition, change_analysis, devices, lbfgs
from . import models as model_files
from . import volumes as vol
from .ideal_input_reading import start_words
from .ideal_input_settings import Settings
from .models import Model
from .objective import Objective, Terms
from .results import Curve, Progress, Result
from .volumes import Volume

INTERMEDIATE_EVERY_S = 5.0
ROWS_ON_CPU = 16
WORDS = {"best": "ideal", "worst": "worst"}  # what an input found in this direction is called


@dataclass(frozen=True)
class Case:
    """The images of one run, as tensors in the network's units and axes.

    ``patient`` (images, C, *space), ``target`` (images, D, *space), ``weight`` and ``free``
    (images, 1, *space) and (images, C, *space): where the error counts, where the input may change.
    A 2-D network has one image per slice, a 3-D network one image. ``frame``: the window as a
    volume on the network's axes; ``original``: the same, cut out of the first input; ``whole``: the
    inputs before anything was cut out, on the first one's grid. ``others``: other patients' inputs,
    shaped like ``patient``.
    """

    model: Model
    patient: Tensor
    target: Tensor
    weight: Tensor
    free: Tensor
    frame: Volume
    original: Volume
    whole: list[Volume]
    scaling: list[dict]
    facts: dict
    others: list[Tensor] = field(default_factory=list)

    def volume(self, images: Tensor, channel: int, name: str, units: str) -> Volume:
        """A channel as a volume with the first input's voxel order.

        Args:
            images: Shape (images, C, *space), already in ``units``.
            channel: Which of the C.
            name: Of the volume.
            units: Of its values.
        """
        array = (
            images[:, channel].cpu().numpy()
            if images.dim() == 4
            else images[0, channel].cpu().numpy()
        )
        return vol.reorient_like(Volume(array, self.frame.ijk_to_ras, name, units), self.original)


def run_task(
    volumes: dict[str, Volume], model_paths: dict[str, str], settings: dict, progress: Progress
) -> Result:
    """``ideal_input`` as a job: settings as JSON values, models as files."""
    models = {key: model_files.load(path) for key, path in model_paths.items()}
    return ideal_input(volumes, models, Settings.from_json(settings), progress)


def ideal_input(
    volumes: dict[str, Volume],
    models: dict[str, Model],
    settings: Settings = Settings(),
    progress: Progress = Progress(),
) -> Result:
    """Optimise the input of ``models["network"]`` so that its output comes closest to the target.

    Args:
        volumes: One per input channel and per output channel (the targets), by the roles that the
            model's card names ("in_phase", ..., "ct"), in scanner units; optional "mask": the input
            changes only where it is not 0. All are brought onto the grid of the first input
            channel. Optional "other <n> in_phase" and so on: input channels of other patients (n =
            1, 2, ...), who give table "validity" its null distribution.
        models: "network", and optionally "second", a network on which the gain is tried.
        settings: See ``Settings``.
        progress: Receives progress, log, the loss curve, intermediate results; may raise
            ``Cancelled``.

    Returns:
        Result with, per start, the ideal inputs, their change, the network's output and its error;
        tables "error", "change", "swap back", "validity"; curves "convergence" and "spectrum
        <start>". Values in scanner units.

    Raises:
        ValueError: Missing or unusable volumes, settings that contradict each other; says what to
        do. devices.DeviceError: The asked-for device is not there.
    """
    device = devices.choose(settings.device, progress.log)
    try:
        return _run(volumes, models, settings, progress, device)
    except (RuntimeError, MemoryError) as error:
        if device.type == "cpu" or not settings.allow_cpu or not devices.is_out_of_memory(error):
            raise
    progress.log(
        f"The memory of {device} does not suffice, even in small pieces: starting again on the CPU, more slowly."
    )
    return _run(volumes, models, settings, progress, torch.device("cpu"))


def _run(
    volumes: dict[str, Volume],
    models: dict[str, Model],
    settings: Settings,
    progress: Progress,
    device: torch.device,
) -> Result:
    model = models["network"]
    if "second" in models:
        _require_same_images(model.card, models["second"].card)
    for network in models.values():
        network.network.to(device)
    progress.report(0.0, f"Preparing the images ({devices.describe(device)})")
    case = prepare(volumes, model, settings, progress, device)
    names, starts = make_starts(case, settings)
    found = optimise(case, names, starts, settings, progress)
    progress.report(0.95, "Measuring what changed")
    result = describe(case, names, found, settings, models.get("second"), progress)
    result.facts.update(
        case.facts,
        settings=asdict(settings),
        device=devices.describe(device),
        versions=devices.versions(device),
        model=model.facts(),
        peak_memory_gb=devices.peak_memory(device) / 1e9,
    )
    progress.report(1.0, "Done")
    return result


# -- images ----------------------------------------------------------------------------------------


def prepare(
    volumes: dict[str, Volume],
    model: Model,
    settings: Settings,
    progress: Progress,
    device: torch.device,
) -> Case:
    """Check the volumes, bring them onto one grid, the network's axes and units, and cut out the
    region.
    """
    card = model.card
    roles = [channel.role for channel in (*card.inputs, *card.outputs)]
    missing = [role for role in roles if role not in volumes]
    if missing:
        raise ValueError(
            f"the network {card.name!r} needs a volume for each of {', '.join(roles)}; "
            f"missing: {', '.join(missing)}"
        )
    wrong = set(settings.locked) - {channel.role for channel in card.inputs}
    if wrong:
        raise ValueError(
            f"cannot lock {', '.join(sorted(wrong))}: the network has no such input channel"
        )
    original = volumes[card.inputs[0].role]
    gridded = {
        role: _on_grid(volume, original, role, progress)
        for role, volume in volumes.items()
        if role in (*roles, "mask")
    }
    facts = {"warnings": [*_check_spacing(original, card), *_check_roles(gridded, card)]}
    for warning in facts["warnings"]:
        progress.log(f"Warning: {warning}")
    window, inside = _window(original, settings, card)
    turned = {
        role: vol.reorient(vol.crop(volume, window), card.orientation)
        for role, volume in gridded.items()
    }
    inside = vol.reorient(vol.crop(original.with_array(inside), window), card.orientation).array

    # Scalings come from the whole patient volume, not from the region, so that a region does not
    # change the problem.
    whole = [gridded[channel.role] for channel in card.inputs]
    scaling = model.scalings(whole)
    patient = model.normalise([turned[channel.role] for channel in card.inputs], scaling)
    target, clipped = model.normalise_target([turned[channel.role] for channel in card.outputs])
    if clipped:
        progress.log(
            f"{clipped} target voxels lie outside the range the network can give; they are clipped to it."
        )
    weight = model.as_images([inside])
    free = weight.expand_as(patient).clone()
    if "mask" in turned:
        free *= model.as_images([turned["mask"].array != 0])
        if not free.any():
            raise ValueError(
                "the mask is empty inside the region: nothing may change; choose another mask"
            )
    for index, channel in enumerate(card.inputs):
        if channel.role in settings.locked:
            free[:, index] = 0
    if not free.any():
        raise ValueError("every input channel is locked: unlock at least one")
    facts.update(
        inputs={role: volume.name for role, volume in volumes.items()},
        channels={channel.role: channel.name for channel in (*card.inputs, *card.outputs)},
        clipped_target_voxels=clipped,
        scaling=scaling,
        window=list(window),
        grid=f"{' x '.join(map(str, patient.shape[2:]))}, {len(patient)} image(s)",
    )
    return Case(
        model,
        patient.to(device),
        target.to(device),
        weight.to(device),
        free.to(device),
        turned[card.inputs[0].role],
        vol.crop(original, window),
        whole,
        scaling,
        facts,
        [images.to(device) for images in _other_patients(volumes, original, window, model)],
    )


def _require_same_images(first: model_files.Card, second: model_files.Card) -> None:
    def takes(card):
        return (
            [channel.role for channel in (*card.inputs, *card.outputs)],
            card.dimensions,
            card.orientation,
        )

    if takes(first) != takes(second):
        kinds = [
            f"{', '.join(roles)}, {dimensions}-D"
            for roles, dimensions, _ in map(takes, (first, second))
        ]
        raise ValueError(
            f"the second network, {second.name!r}, is for other images ({kinds[1]}) than {first.name!r} "
            f"({kinds[0]}): choose one for the same images, or none"
        )


def _on_grid(volume: Volume, reference: Volume, role: str, progress: Progress) -> Volume:
    vol.check(volume)
    if vol.same_grid(volume, reference):
        return volume
    is_mask = role == "mask"
    if not is_mask and vol.overlap_fraction(volume, reference) < 0.5:
        raise ValueError(
            f"'{volume.name}' ({role}) covers less than half of '{reference.name}': they are probably not "
            "of the same patient or not registered. Check the volumes, or crop the first input to the part "
            "that both show"
        )
    progress.log(
        f"'{volume.name}' ({role}) is on another grid: resampled to that of '{reference.name}'."
    )
    # A mask is empty beyond its own grid.
    return (
        vol.resample(volume, reference, "nearest", fill=0)
        if is_mask
        else vol.resample(volume, reference)
    )


def _other_patients(
    volumes: dict[str, Volume], original: Volume, window: tuple[int, ...], model: Model
) -> list[Tensor]:
    """Normalised inputs of each other patient, seen through the same window of a grid moved onto
    that patient.
    """
    found, card = [], model.card
    for number in sorted({int(role.split()[1]) for role in volumes if role.startswith("other ")}):
        roles = [f"other {number} {channel.role}" for channel in card.inputs]
        missing = [role for role in roles if role not in volumes]
        if missing:
            raise ValueError(
                f"other patient {number} lacks {', '.join(missing)}: give every channel"
            )
        channels = [_recentred(vol.check(volumes[role]), original, card) for role in roles]
        scaling = model.scalings([volumes[role] for role in roles])
        turned = [vol.reorient(vol.crop(channel, window), card.orientation) for channel in channels]
        found.append(model.normalise(turned, scaling))
    return found


def _recentred(volume: Volume, grid: Volume, card: model_files.Card) -> Volume:
    """``volume`` sampled on ``grid`` moved so that both have the same centre.

    A 2-D network gets no empty slices: where the volume shows less of the body than the grid, its
    slices are repeated.
    """

    def centre(v: Volume) -> np.ndarray:
        return v.ijk_to_ras @ [*((np.array(v.array.shape[::-1]) - 1) / 2), 1]

    matrix = grid.ijk_to_ras.copy()
    matrix[:3, 3] += (centre(volume) - centre(grid))[:3]
    moved = Volume(grid.array, matrix, grid.name, grid.units)
    sampled = vol.resample(volume, moved).array
    if card.dimensions == 2:
        axis = vol.axis_toward(grid, card.orientation[2])[0]
        covered = vol.resample(
            volume.with_array(np.ones(volume.array.shape, np.uint8)), moved, "nearest", fill=0
        ).array
        slices = np.flatnonzero(covered.any(tuple(a for a in range(3) if a != axis)))
        sampled = sampled.take(slices[np.arange(sampled.shape[axis]) % len(slices)], axis)
    return grid.with_array(sampled, volume.name)


def _check_spacing(volume: Volume, card: model_files.Card) -> list[str]:
    low, high = card.spacing_mm
    axes = vol.reorient(volume, card.orientation).spacing_mm[: card.dimensions]
    if all(0.95 * low <= spacing <= 1.05 * high for spacing in axes):
        return []
    return [
        f"The network was trained on voxels of {low:g} to {high:g} mm; these measure "
        f"{' x '.join(f'{s:.2f}' for s in axes)} mm. Its errors may be larger than its card says."
    ]


def _check_roles(volumes: dict[str, Volume], card: model_files.Card) -> list[str]:
    """Signs that a volume was chosen for the wrong channel: values far off what the card says,
    another channel's name.
    """
    found = []
    roles = {channel.role: channel.name for channel in (*card.inputs, *card.outputs)}
    for channel in (*card.inputs, *card.outputs):
        volume = volumes[channel.role]
        sample = volume.array[:: max(1, len(volume.array) // 16)].astype(np.float32)
        low, high = np.percentile(sample, (0.5, 99.5))
        if channel.high is not None:
            margin = (0.1 if channel in card.inputs else 0.5) * (channel.high - channel.low)
            if low < channel.low - margin or high > channel.high + margin:
                found.append(
                    f"'{volume.name}' is chosen as {channel.name}, but its values reach from {low:.4g} to "
                    f"{high:.4g} instead of {channel.low:g} to {channel.high:g} {channel.units}. Is it the "
                    "right volume, in the right units?".replace("  ", " ")
                )
        elif low < 0 or high <= 1.05:
            what = (
                "negative values"
                if low < 0
                else f"no value above {high:.3g}: it looks like a fraction"
            )
            found.append(
                f"'{volume.name}' is chosen as {channel.name}, but has {what}. Is it the right volume?"
            )
        named = [role for role in roles if _says(volume.name, role)]
        if named and channel.role not in named:
            found.append(
                f"'{volume.name}' is chosen as {channel.name}, but by its name it is the {roles[named[0]]}. "
                "Are two volumes swapped?"
            )
    return found


def _says(name: str, role: str) -> bool:
    """Whether a volume's name holds all words of a role: "Subject 3 fat-fraction" is a
    "fat_fraction".
    """
    words = "".join(letter if letter.isalnum() else " " for letter in name.lower()).split()
    return all(word in words for word in role.lower().split("_"))


def _window(
    volume: Volume, settings: Settings, card: model_files.Card
) -> tuple[tuple[int, ...], np.ndarray]:
    """(region plus context as k0, k1, j0, j1, i0, i1; array of uint8, 1 inside the region itself).
    """
    shape = volume.array.shape
    inside = np.zeros(shape, np.uint8)
    region = settings.region or tuple(x for n in shape for x in (0, n))
    low, high = region[::2], region[1::2]
    if len(region) != 6 or any(a < 0 or b > n or a >= b for a, b, n in zip(low, high, shape)):
        raise ValueError(
            f"the region {region} does not lie within the volume of {shape[::-1]} voxels (i, j, k): "
            "move it onto the image"
        )
    inside[tuple(slice(a, b) for a, b in zip(low, high))] = 1
    margins = [settings.context] * 3
    if card.dimensions == 2:  # slices do not see each other
        margins[vol.axis_toward(volume, card.orientation[2])[0]] = 0
    grown = [(max(0, a - m), min(n, b + m)) for a, b, n, m in zip(low, high, shape, margins)]
    return tuple(x for pair in grown for x in pair), inside


def make_starts(case: Case, settings: Settings) -> tuple[list[str], Tensor]:
    """The starts; what may not change is the patient's in each.

    Returns:
        Names of the starts, and their normalised images, shape (starts, images, C, *space).
    """
    names, images = [], []
    for start in settings.starts:
        for number in range(settings.noise_seeds if start == "noise" else 1):
            if start == "noise":
                generator = torch.Generator().manual_seed(settings.seed + number)
                image = torch.rand(case.patient.shape, generator=generator).to(case.patient)
            else:
                image = torch.zeros_like(case.patient) if start == "zeros" else case.patient.clone()
            names.append(
                f"{start} {number + 1}" if start == "noise" and settings.noise_seeds > 1 else start
            )
            images.append(torch.where(case.free > 0, image, case.patient))
    return names, torch.stack(images)


# -- optimisation ----------------------------------------------------------------------------------


@dataclass
class Found:
    """``images`` (starts, images, C, *space); ``trace`` best objective by evaluation, mean over
    images, per start; ``evaluations`` and ``status`` per start and image; ``finished``: how many
    images are done.
    """

    images: Tensor
    trace: list[list[float]]
    evaluations: Tensor
    status: Tensor
    finished: int = 0


def optimise(
    case: Case, names: list[str], starts: Tensor, settings: Settings, progress: Progress
) -> Found:
    """Run the optimiser on all starts of a group of images at a time.

    Groups are as large as the memory allows.

    Args:
        case: Images, region and target.
        names: Of the starts.
        starts: Normalised, shape (starts, images, C, *space).
        settings: See ``Settings``.
        progress: Receives progress and intermediate results; may raise ``Cancelled``.
    """
    count, total = starts.shape[:2]
    memory = budget(settings, starts.device)
    row = starts[0, 0].numel() * starts.element_size() * (2 * settings.history + 12)
    # On a CPU more rows at once gain nothing: memory stays the same however many slices there are.
    most = ROWS_ON_CPU // count if starts.device.type == "cpu" else total
    group = max(1, min(total, most, int(0.4 * memory / (row * count))))
    progress.log(
        f"Memory: about {(row * count * group + 0.5 * memory) / 1e9:.1f} GB for {group * count} images at a time, "
        f"beside the program itself and the results."
    )
    found = Found(
        starts.clone(),
        [[] for _ in names],
        torch.zeros(count, total, dtype=torch.int64),
        torch.zeros(count, total, dtype=torch.int64),
    )
    solve = _fixed_step if settings.optimiser == "fixed-step" else _batched
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
        found.evaluations[:, part] = solution.evaluations.reshape(count, -1).cpu()
        found.status[:, part] = solution.status.reshape(count, -1).cpu()
        _add_trace(
            found.trace,
            solution.trace.reshape(len(solution.trace), count, -1).sum(2).cpu().numpy() / total,
        )
        found.finished = part.stop
    return found


def budget(settings: Settings, device: torch.device) -> float:
    """Bytes that the run may take besides the program itself."""
    if settings.memory_gb is not None:
        return settings.memory_gb * 1e9
    free = devices.available_memory(device)
    return min(2e9, 0.7 * free) if device.type == "cpu" else 0.7 * free


def objective_for(
    case: Case, part: slice, settings: Settings, memory: float, progress: Progress
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
    options = lbfgs.Options(max_evaluations=settings.max_evaluations, history=settings.history)
    x = starts.flatten(0, 1)

    def value_and_gradient(x: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = objective.value_and_gradient(x, items)
        return value, gradient * free[items % len(free)]

    def held(x: Tensor, items: Tensor) -> Tensor:
        image = items % len(free)
        return torch.where(free[image] > 0, x, patient[image])

    everything = torch.arange(len(x), device=x.device)
    if settings.ball is None and not settings.box:
        return lbfgs.minimize(value_and_gradient, x, options, callback=watch)
    if settings.box:
        # The bounds act on every voxel; those that may not change stay the patient's, in range or
        # not.
        watch.unfold = held
        solution = lbfgs.minimize(
            lambda x, items: value_and_gradient(held(x, items), items),
            x,
            options,
            lower=0.0,
            upper=1.0,
            callback=watch,
        )
        return lbfgs.Solution(held(solution.x, everything), *_rest(solution))

    ball = _Ball(patient, free, settings.ball)
    generator = torch.Generator().manual_seed(settings.seed)
    v = torch.randn(x.shape, generator=generator).to(x) * free * settings.ball
    watch.unfold = ball.point
    solution = lbfgs.minimize(ball.wrap(value_and_gradient), v, options, callback=watch)
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
            _put(
                result,
                case,
                ideal,
                index,
                f"ideal {channel.role} {name}",
                channel.units,
                "input",
                f"{kind.capitalize()} {channel.name}, from {start_words(name)}",
            )
            _put(
                result,
                case,
                ideal - patient,
                index,
                f"change {channel.role} {name}",
                channel.units,
                "difference",
                f"Change of {channel.name}, {kind} from {start_words(name)}",
            )
    return result


def describe(
    case: Case,
    names: list[str],
    found: Found,
    settings: Settings,
    second: Model | None,
    progress: Progress,
) -> Result:
    """Everything worth knowing of what was found. Every figure is taken on f of the assembled
    image.
    """
    result = ideal_volumes(
        case, names, found.images, Result(facts={"complete": True}), settings.direction
    )
    if len(names) > 1:
        spread = case.model.denormalise_change(found.images.std(0, unbiased=False), case.scaling)
        for index, channel in enumerate(case.model.card.inputs):
            _put(
                result,
                case,
                spread,
                index,
                f"spread {channel.role}",
                channel.units,
                "spread",
                f"Spread of {channel.name} over the starts",
            )
    memory = budget(settings, case.patient.device)
    objective = objective_for(
        case, slice(None), replace(settings, mean=True, direction="best"), memory, progress
    )
    images = {"patient's": case.patient, **dict(zip(names, found.images))}
    kind = WORDS[settings.direction]
    inputs = {
        name: f"{kind} input from {start_words(name)}" if name in names else "patient's own input"
        for name in images
    }
    errors = {
        name: _output_volumes(result, case, name, inputs[name], objective.forward(image))
        for name, image in images.items()
    }
    change_analysis.add_error_table(result, case, errors, images, found.evaluations, kind)
    change_analysis.add_change(result, case, names, found.images)
    if settings.validity:
        progress.report(0.96, "Trying inputs that should not be better")
        change_analysis.add_swap_back(result, case, names, found.images, objective)
        change_analysis.add_validity(
            result, case, names, found.images, objective, second, settings.seed, kind
        )
    if settings.knobs and settings.direction == "best":
        _add_knobs(result, case, found, settings, memory, progress)
    result.curves["convergence"] = Curve(
        "How far did the error fall?",
        "network evaluations",
        "error that was minimised (no unit)",
        {
            f"from {start_words(name)}": (list(range(1, len(line) + 1)), line)
            for name, line in zip(names, found.trace)
        },
        log_y=settings.direction == "best",
    )
    result.facts["ended"] = {
        name: {lbfgs.STATUS[s]: int((row == s).sum()) for s in row.unique().tolist()}
        for name, row in zip(names, found.status)
    }
    return result


def _output_volumes(
    result: Result, case: Case, name: str, words: str, normalised: Tensor
) -> Tensor:
    """Add the network's output and its error to ``result``; gives the absolute error in
    ``Model.error_scale``.
    """
    output, target = (
        case.model.denormalise_output(normalised),
        case.model.denormalise_output(case.target),
    )
    error = (output - target).abs()
    for index, channel in enumerate(case.model.card.outputs):
        label = f"{channel.role} {name}"
        _put(
            result,
            case,
            output,
            index,
            f"output {label}",
            channel.units,
            "ct" if channel.units == "HU" else "input",
            f"Synthetic {channel.name}, {words}",
        )
        _put(
            result,
            case,
            error,
            index,
            f"error {label}",
            channel.units,
            "error",
            f"Error of {channel.name}, {words}",
        )
    return (normalised - case.target).abs() * case.model.error_scale[0]


def _put(
    result: Result,
    case: Case,
    images: Tensor,
    channel: int,
    label: str,
    units: str,
    role: str,
    name: str,
) -> None:
    result.volumes[label] = case.volume(images, channel, name, units)
    result.roles[label] = role


def _add_knobs(
    result: Result, case: Case, found: Found, settings: Settings, memory: float, progress: Progress
) -> None:
    """Table "acquirable", on evenly spaced images, compared with the best of the free-voxel inputs
    there.
    """
    count = len(case.patient)
    chosen = torch.linspace(0, count - 1, min(count, acquisition.MOST_IMAGES)).round().long()
    objective = Objective(
        case.model,
        case.target[chosen],
        case.weight[chosen],
        Terms(settings.above, settings.below),
        budget=0.5 * memory,
        multiple=case.model.card.size_multiple,
        log=progress.log,
    )
    scale, units = case.model.error_scale
    free = min(objective.mean_error(images[chosen]) for images in found.images) * scale
    roles = [channel.role for channel in case.model.card.inputs]
    result.tables["acquirable"] = acquisition.acquirable(
        case.patient[chosen], objective, roles, units, scale, free, progress
    )
