"""Ideal input: the input image that a trained image-to-image network errs least on, found by L-BFGS
on the input.

    result = ideal_input(volumes, {"network": model}, Settings(starts=("patient", "zeros")))

Source: "Visualizing the 'ideal' input MRI for synthetic CT generation with a trained deep CNN",
ISMRM 2019, 4866.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import models as model_files
from ..core import devices
from ..core.keys import Key
from ..core.names import require_names
from ..core.progress import Progress
from ..core.results import Curve, Result
from ..core.volumes import Volume
from ..models import Model
from ..models.foreign.adapted import Adapted
from ..optimise import lbfgs
from ..optimise.objective import Objective, Terms
from . import complex_images, tables
from .acquirable import FREE, MOST_IMAGES, Errors, acquirable, freed
from .case import make_starts, prepare, require_same_images
from .knobs import Scanner
from .optima import Leeway, Member, common_and_spread, leeway, of_one_error, seeded, shared_part
from .quality import quality_line
from .reading import ALIKE, OWN, start_words
from .search import WORDS, budget, ideal_volumes, objective_for, optimise, put_volume
from .served import distance, has_noise
from .settings import IdealInputSettings
from .trade_off import trade_off

if TYPE_CHECKING:
    from .case import Case
    from .search import Found


def run_analysis(
    volumes: dict[str, Volume], model_paths: dict[str, str], settings: dict, progress: Progress
) -> Result:
    """``ideal_input`` as a job.

    Args:
        volumes: See ``ideal_input``, [k, j, i].
        model_paths: The models' files.
        settings: Fields of ``IdealInputSettings`` as JSON values.
        progress: Receives progress; may raise ``Cancelled``.
    """
    models = model_files.opened(model_paths)
    return ideal_input(volumes, models, IdealInputSettings.from_json(settings), progress)


def ideal_input(
    volumes: dict[str, Volume],
    models: dict[str, Model],
    settings: IdealInputSettings = IdealInputSettings(),
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
        settings: See ``IdealInputSettings``.
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
    settings = settings.chosen()
    device = devices.choose(settings.device, progress.log)
    try:
        return _run(volumes, models, settings, progress, device)
    except (RuntimeError, MemoryError) as error:
        if device.type == "cpu" or not settings.allow_cpu or not devices.is_out_of_memory(error):
            raise
    progress.log(
        f"The memory of {device} does not suffice, even in small pieces: starting again on the CPU,"
        " more slowly."
    )
    return _run(volumes, models, settings, progress, torch.device("cpu"))


def _run(
    volumes: dict[str, Volume],
    models: dict[str, Model],
    settings: IdealInputSettings,
    progress: Progress,
    device: torch.device,
) -> Result:
    require_names("model", models, ["network"], ["second"])
    model = models["network"]
    if "second" in models:
        require_same_images(model.card, models["second"].card)
    for network in models.values():
        network.network.to(device)
    progress.report(0.0, f"Preparing the images ({devices.describe(device)})")
    case = prepare(volumes, model, settings, progress, device)
    names, starts = make_starts(case, settings)
    found = optimise(case, names, starts, settings, progress)
    progress.report(0.95, "Measuring what changed")
    result = describe(case, names, found, settings, models.get("second"), progress)
    if isinstance(model.network, Adapted):
        _add_quality(result, case, settings, progress)
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


def describe(
    case: Case,
    names: list[str],
    found: Found,
    settings: IdealInputSettings,
    second: Model | None,
    progress: Progress,
) -> Result:
    """Everything worth knowing of what was found.

    Every figure is taken on f of the assembled image.
    """
    result = ideal_volumes(
        case, names, found.images, Result(facts={"complete": True}), settings.direction
    )
    if len(names) > 1:
        _add_spread(result, case, found.images)
    memory = budget(settings, case.patient.device)
    objective = objective_for(
        case, slice(None), replace(settings, mean=True, direction="best"), memory, progress
    )
    images = {OWN: case.patient, **dict(zip(names, found.images))}
    kind = WORDS[settings.direction]
    errors = {
        name: _output_volumes(result, case, name, kind, objective.forward(image))
        for name, image in images.items()
    }
    tables.add_error_table(result, case, errors, images, found.evaluations, kind)
    complex_images.add(result, case, names, kind)
    tables.add_change(result, case, names, found.images)
    _add_change_in_noise(result, case, names, found.images)
    if settings.validity:
        progress.report(0.96, "Trying inputs that should not be better")
        tables.add_swap_back(result, case, names, found.images, objective)
        tables.add_validity(
            result, case, names, found.images, objective, second, settings.seed, kind
        )
    if settings.direction == "best" and (settings.knobs or settings.trade_off):
        _add_of_some(result, case, names, found, settings, memory, progress)
    if settings.optima and settings.direction == "best":
        _add_optima(result, case, found, settings, memory, progress)
    result.curves[Key("convergence")] = Curve(
        "How far did the error fall?",
        "network evaluations",
        "error that was minimised (no unit)",
        {
            f"from {start_words(name)}": (
                [settings.passes * step for step in range(1, len(line) + 1)],
                line,
            )
            for name, line in zip(names, found.trace)
        },
        log_y=settings.direction == "best",
    )
    result.facts["ended"] = {
        name: {lbfgs.STATUS[s]: int((row == s).sum()) for s in row.unique().tolist()}
        for name, row in zip(names, found.status)
    }
    return result


def _add_quality(
    result: Result, case: Case, settings: IdealInputSettings, progress: Progress
) -> None:
    """Fact "quality": what a network that no card vouches for errs on the patient's own images."""
    memory = budget(settings, case.patient.device)
    output = objective_for(case, slice(None), settings, memory, progress).forward(case.patient)
    scale = case.model.error_scale
    words, figures = quality_line(output, case.target, case.patient, case.weight, scale)
    progress.log(words)
    result.facts["quality"] = {"words": words, **figures}
    if not figures["network"] < min(figures["constant"], figures["linear"]):
        case.facts["warnings"].append(words)


def _add_change_in_noise(result: Result, case: Case, names: list[str], images: Tensor) -> None:
    """Fact "change_in_noise": how far each start's images (starts, images, C, *space) lie from the
    patient's, in standard deviations of the patient's noise; none for images without noise.
    """
    if has_noise(case.noise):
        result.facts["change_in_noise"] = {
            name: distance(image, case.patient, case.noise, case.free)
            for name, image in zip(names, images)
        }


def _add_spread(result: Result, case: Case, images: Tensor) -> None:
    """Add how far the starts' inputs (starts, images, C, *space) lie apart, by channel."""
    spread = case.model.denormalise_change(images.std(0, unbiased=False), case.scaling)
    for index, channel in enumerate(case.model.card.inputs):
        put_volume(result, case, spread, index, Key("spread", channel.role), "spread")


def _output_volumes(result: Result, case: Case, name: str, kind: str, normalised: Tensor) -> Tensor:
    """Add the network's output and its error for an input (``name``: its start) to ``result``.

    Gives the absolute error in ``Model.error_scale``.
    """
    output, target = (
        case.model.denormalise_output(normalised),
        case.model.denormalise_output(case.target),
    )
    error = (output - target).abs()
    for index, channel in enumerate(case.model.card.outputs):
        role = "ct" if channel.units == "HU" else "input"
        put_volume(result, case, output, index, Key("output", channel.role, name), role, kind)
        put_volume(result, case, error, index, Key("error", channel.role, name), "error", kind)
    return (normalised - case.target).abs() * case.model.error_scale[0]


def _first_those_near(found: Found, names: list[str], chosen: Tensor) -> list[Tensor]:
    """The inputs found from each start, of the images ``chosen``; from the patient's first."""
    order = sorted(range(len(names)), key=lambda n: names[n] != "patient")
    return [found.images[n][chosen] for n in order]


def _add_of_some(
    result: Result,
    case: Case,
    names: list[str],
    found: Found,
    settings: IdealInputSettings,
    memory: float,
    progress: Progress,
) -> None:
    """What is looked at on evenly spaced images only, since each is a search of its own."""
    count = len(case.patient)
    chosen = torch.linspace(0, count - 1, min(count, MOST_IMAGES)).round().long()

    def objective_where(weight: Tensor) -> Objective:
        return Objective(
            case.model,
            case.target[chosen],
            weight,
            Terms(settings.above, settings.below),
            budget=0.5 * memory,
            multiple=case.model.card.size_multiple,
            log=progress.log,
        )

    objective = objective_where(case.weight[chosen])
    scale, units = case.model.error_scale
    near_first = _first_those_near(found, names, chosen)
    if settings.trade_off:
        result.curves[Key("trade-off")], result.facts["trade_off"] = trade_off(
            case.patient[chosen],
            case.free[chosen],
            objective,
            settings.blurred_weight,
            case.noise,
            scale,
            units,
            near_first,
            progress,
        )
        result.facts["trade_off"]["of"] = count
    if settings.knobs:
        masks = tables.tissues(case)
        bone = masks["bone"][chosen.numpy()] if "bone" in masks else None
        in_bone = None
        if bone is not None and bone.any():
            in_bone = objective_where(torch.from_numpy(bone[:, None]).to(case.weight))
        errors = Errors(objective, in_bone, units, scale)
        best = min(near_first, key=objective.mean_error)
        ideal = _ideal(case, best, chosen, errors, settings, progress)
        _add_knobs(result, case, chosen, errors, ideal, progress)


def _ideal(
    case: Case,
    best: Tensor,
    chosen: Tensor,
    errors: Errors,
    settings: IdealInputSettings,
    progress: Progress,
) -> dict[str, Tensor]:
    """Ideal inputs beside a scanner's settings: the one found, and one found at any price."""
    if not (settings.price or settings.blurred_weight):
        return {FREE: best}
    free = freed(best, case.free[chosen], errors.everywhere, progress)
    return {"the ideal input of this run": best, FREE: free}


def _add_knobs(
    result: Result,
    case: Case,
    chosen: Tensor,
    errors: Errors,
    ideal: dict[str, Tensor],
    progress: Progress,
) -> None:
    """Table "acquirable", curve "scan time" and facts "protocol" and "bone".

    Args:
        result: Takes them.
        case: What is asked.
        chosen: Numbers of the images that ``errors`` are of, (n,).
        errors: What is made small.
        ideal: Ideal inputs of these images by name.
        progress: Receives progress.
    """
    roles = [channel.role for channel in case.model.card.inputs]
    hu = None
    if [channel.units for channel in case.model.card.outputs] == ["HU"]:
        hu = case.model.denormalise_output(case.target[chosen])
    scanner = Scanner(case.patient[chosen], roles, case.frame.spacing_mm[0], hu)
    table, curve, words = acquirable(scanner, errors, ideal, progress)
    result.tables[Key("acquirable")] = table
    result.curves[Key("scan time")] = curve
    result.facts |= {name: text for name, text in words.items() if text}


def _add_optima(
    result: Result,
    case: Case,
    found: Found,
    settings: IdealInputSettings,
    memory: float,
    progress: Progress,
) -> None:
    """Table "optima", fact "optima" and images "shared", "leeway" and "direction" of each channel.

    Members are the inputs that were found from the starts, as far as they err little more than the
    best (or by 1 % of the patient's error), and ``settings.optima`` more.
    """
    objective = objective_for(case, slice(None), replace(settings, mean=True), memory, progress)
    scale, units = case.model.error_scale
    _, starts = make_starts(case, settings)
    errors = [objective.mean_error(image) for image in found.images]
    best = found.images[errors.index(min(errors))]
    own = objective.mean_error(case.patient)
    most = max(ALIKE * min(errors), min(errors) + 0.01 * own)
    pairs = zip(errors, found.images, starts)
    members = [Member(x, began) for error, x, began in pairs if error <= most]
    weight = settings.blurred_weight
    for number in range(settings.optima):
        seed = settings.seed + 1000 + number
        members.append(seeded(best, case.free, objective, weight, seed, progress))
    inputs, _ = of_one_error(members, objective, weight)
    told = leeway(inputs)
    alike = [objective.mean_error(x) for x in inputs]
    both = common_and_spread(inputs, case.patient, case.free)
    result.facts["optima"] = {
        "members": len(inputs),
        "error": scale * sum(alike) / len(alike),
        "best": scale * min(errors),
        "own": scale * own,
        "units": units,
        "shared": shared_part(*both),
        "components": [100 * share for share in told.shares.tolist()],
    }
    tables.add_optima(result, case, inputs)
    _add_optima_images(result, case, told)


def _add_optima_images(result: Result, case: Case, told: Leeway) -> None:
    """Images "shared", "leeway" and "direction" of each channel, in scanner units."""
    shared = case.model.denormalise(told.common, case.scaling)
    spread, first = (
        case.model.denormalise_change(images, case.scaling)
        for images in (told.spread, told.components[0])
    )
    for index, channel in enumerate(case.model.card.inputs):
        for kind, images, role in (
            ("shared", shared, "input"),
            ("leeway", spread, "spread"),
            ("direction", first, "difference"),
        ):
            put_volume(result, case, images, index, Key(kind, channel.role), role)
