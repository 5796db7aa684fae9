"""Invariances of a family's network: what it adds that nobody measured, and what it does not show.

    result = ask(volumes, models.load("family-deep-cascade.safetensors"))
    result.volumes["added"], result.tables["hallucination"], result.facts["findings"]

The volumes are those of ``sample.sample_for``, or a scanner's own in the same roles and units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core import devices
from ..core import volumes as core_volumes
from ..core.keys import Column, Key
from ..core.progress import Progress
from ..core.results import Curve, Result, table_of_rows
from ..core.volumes import Volume, VolumeError
from ..models import opening
from ..models.model import Model
from ..networks.reconstruction import IMAGE_RANGE
from ..networks.varnet import in_coils, root_sum_of_squares
from . import analysis, directions, kspace, quality, sample
from .coils import SeveralCoils
from .operators import Coarse, Fourier, Operator
from .reading import NETWORK
from .reconstruction import Reconstruction
from .restoration import FACTOR, SuperResolution
from .solvers import split
from .tasks import Task

SIDE = 16
"""Of the square in whose directions a network of images is asked, in voxels."""
SPOT_MM, SPOT_HEIGHT = 3.0, 0.2
"""Standard deviation and height of a small spot; the brightest tissue is 1."""
UNNOTICED = 0.1
"""Largest value of the change that a network shows least."""
UNITS = "brightest tissue: 1"
"""Of images, as their legends have them."""
DECADES = 4.0
"""That the picture of k-space shows below its strongest value."""


def run_analysis(
    volumes: dict[str, Volume], model_paths: dict[str, str], settings: dict, progress: Progress
) -> Result:
    """``ask`` as a job.

    Args:
        volumes: By the roles of the network's channels, targets included, [k, j, i].
        model_paths: "network", a family's model file.
        settings: None are taken.
        progress: Receives progress; may raise ``Cancelled``.
    """
    return ask(volumes, opening.opened(model_paths)["network"], progress)


def ask(volumes: dict[str, Volume], model: Model, progress: Progress = Progress()) -> Result:
    """What a family's network adds, hides and lacked.

    Args:
        volumes: By the roles of the network's channels, targets included, [k, j, i] of one grid, in
            the card's units.
        model: An example of a family.
        progress: Receives progress; may raise ``Cancelled``.

    Returns:
        Result with images "truth", "given", "image", "miss" and, where the scanner has a null
        space, "added" and "missing"; tables "quality" and what the kind of network has; curve
        "answers"; fact "findings".

    Raises:
        ValueError: A volume is missing or lies elsewhere, or the network is of no family.
    """
    asked = _asked(volumes, model)
    progress.report(0.1, "Running the network")
    with torch.no_grad():
        if isinstance(asked.task, (Reconstruction, SeveralCoils)):
            result, output = _of_kspace(asked, progress)
        else:
            result, output = _of_images(asked, progress)
        progress.report(0.8, "Running what needs no network")
        _add_quality(result, asked, output)
    result.facts.update(
        complete=True,
        settings={},
        family=model.card.family,
        name=model.card.name,
        model=model.facts(),
        device=devices.describe(torch.device("cpu")),
        versions=devices.versions(torch.device("cpu")),
    )
    progress.report(1.0, "Done")
    return result


@dataclass(frozen=True)
class _Asked:
    """A network and the images that it is asked about.

    Attributes:
        model, task: The network, and what it is asked.
        given, wanted: Its input (N, C, H, W) and what it should give (N, D, H, W), 0 to 1.
        frame: Where the images lie.
    """

    model: Model
    task: Task
    given: Tensor
    wanted: Tensor
    frame: Volume

    @property
    def middle(self) -> int:
        """The slice that is looked at where looking takes long."""
        return len(self.given) // 2

    @property
    def truth(self) -> Tensor:
        """(N, H, W), complex or real."""
        return self.task.image_of(self.wanted)

    def put(
        self, result: Result, key: str, values: Tensor, title: str, role: str, units: str = UNITS
    ) -> None:
        """Add real values (N, H, W), or of one volume (1, K, J, I), as an image."""
        array = np.ascontiguousarray(values.numpy(), np.float32).reshape(self.frame.shape)
        result.volumes[Key.read(key)] = self.frame.with_array(array, title, units)
        result.roles[Key.read(key)] = role


def _asked(volumes: dict[str, Volume], model: Model) -> _Asked:
    card, task = model.card, sample.task_of(model.card)
    channels = (*card.inputs, *card.outputs)
    missing = [channel.name for channel in channels if channel.role not in volumes]
    if missing:
        raise VolumeError(f"{card.name} is asked about more images: {', '.join(missing)}")
    turned = {}
    for channel in channels:
        one = core_volumes.reorient(volumes[channel.role], card.orientation)
        turned[channel.role] = one.with_array(np.array(one.array, np.float32))
    first = turned[card.inputs[0].role]
    for role, volume in turned.items():
        if volume.shape != first.shape or not np.allclose(volume.ijk_to_ras, first.ijk_to_ras):
            raise VolumeError(
                f"'{volume.name}' ({role}) is on another grid than '{first.name}': K-space and"
                " image must have the same voxels"
            )
    inputs = [turned[channel.role] for channel in card.inputs]
    given = model.normalise(inputs, model.scalings(inputs))
    wanted, _clipped = model.normalise_target([turned[channel.role] for channel in card.outputs])
    return _Asked(model, task, given, wanted, first)


def magnitude(images: Tensor) -> Tensor:
    """Of images (N, H, W), complex or real."""
    return images.abs() if images.is_complex() else images


def _add_images(result: Result, asked: _Asked, given: Tensor, output: Tensor) -> None:
    """Images "truth", "given", "image" and "miss", of (N, H, W); the phases of complex ones."""
    truth = asked.truth
    name = asked.model.card.name
    asked.put(result, "truth", magnitude(truth), "Truth", "input")
    asked.put(result, "given", magnitude(given), "Without a network", "input")
    asked.put(result, "image", magnitude(output), name, "input")
    asked.put(result, "miss", (output - truth).abs(), f"Error of {name}", "error")
    if output.is_complex():
        for key, image, title in (("image", output, name), ("truth", truth, "Truth")):
            _put_phase(result, asked, key, image, title)


def _put_phase(result: Result, asked: _Asked, key: str, image: Tensor, title: str) -> None:
    """The phase of a complex image (N, H, W), 0 in air, where it has none."""
    phase = torch.where(image.abs() > quality.INSIDE, image.angle(), 0)
    asked.put(result, f"{key} phase", phase, f"{title}, phase", "phase", "rad")


def _along(parts: Tensor, images: Tensor) -> Tensor:
    """What parts (N, C, H, W) add to the magnitude of images (N, C, H, W): (N, H, W), signed.

    It is 0 in air, where there is no phase to tell more from less.
    """
    size = root_sum_of_squares(images)
    added = (images.conj() * parts).real.sum(1) / size.clamp_min(1e-6)
    return torch.where(size > quality.INSIDE, added, 0)


# Networks that reconstruct ------------------------------------------------------------------------


def _of_kspace(asked: _Asked, progress: Progress) -> tuple[Result, Tensor]:
    """Of k-space of one coil or several; and the network's images, (N, H, W)."""
    result, network = Result(), asked.model.network
    measured, mask = in_coils(asked.given)
    if isinstance(asked.task, SeveralCoils):
        reconstruct, known = analysis.of_coils(network), None
        images = network.coil_images(measured, mask)
        output = root_sum_of_squares(images)
        scan: Any = kspace.Scan(asked.truth, measured, mask, measured)
        zero_filled = root_sum_of_squares(Fourier(mask[:, None]).adjoint(measured))
    else:
        measured, known = measured[:, 0], asked.truth
        reconstruct = analysis.of_network(network)
        output = asked.task.image_of(network(asked.given))
        images = output[:, None]
        rest = (1 - mask) * Fourier(torch.ones_like(mask)).forward(known)
        scan = kspace.Scan(known, measured, mask, measured + rest)
        zero_filled = Fourier(mask).adjoint(measured)
    _add_images(result, asked, zero_filled, output)
    _add_kspace(result, asked, measured, mask)
    progress.report(0.3, "Splitting off what nobody measured")
    _add_invented(result, asked, scan, images, known)
    progress.report(0.5, "Changing each measured line")
    answers = analysis.line_answers(reconstruct, scan)
    _add_lines(result, answers)
    if known is not None:
        progress.report(0.7, "Trying every line that is missing")
        _add_acquisition(result, asked, reconstruct, scan)
    return result, output


def _add_kspace(result: Result, asked: _Asked, measured: Tensor, mask: Tensor) -> None:
    """Images of the mask, and of how strong k-space is, (N, H, W), in decades below its peak."""
    strength = measured.abs() if measured.ndim == 3 else root_sum_of_squares(measured)
    peak = strength.amax((1, 2), keepdim=True)
    decades = (strength / peak).clamp_min(10**-DECADES).log10() + DECADES
    title = f"K-space, decades above 1/{10**DECADES:g} of its peak"
    asked.put(result, "kspace", mask * decades, title, "input", "")
    asked.put(result, "sampling", mask, "Measured lines", "input", "")


def _add_invented(
    result: Result, asked: _Asked, scan: Any, images: Tensor, known: Tensor | None
) -> None:
    """What lies in the null space: of the network's images (N, C, H, W) and of the truth."""
    operators = [Fourier(mask) for mask in scan.mask]
    measured = scan.measured if scan.measured.ndim == 4 else scan.measured[:, None]
    invented = _hidden_parts(operators, images)
    asked.put(
        result, "added", _along(invented, images), "Added where nobody measured", "difference"
    )
    found = analysis.hallucination(
        kspace.Scan(images if known is None else known[:, None], measured, scan.mask, measured),
        images,
    )
    if known is not None:
        missing = _hidden_parts(operators, known[:, None])
        asked.put(
            result, "missing", _along(missing, images), "Truth where nobody measured", "difference"
        )
    _tell_hallucination(result, found, known is not None)


def _hidden_parts(operators: list[Fourier], images: Tensor) -> Tensor:
    """The parts of images (N, C, H, W) in the null space of each one's operator."""
    pairs = zip(operators, images)
    return torch.stack([split(operator, image)[1] for operator, image in pairs])


def _tell_hallucination(result: Result, found: list[analysis.Hallucination], known: bool) -> None:
    """Table "hallucination" and its findings.

    Args:
        result: Takes them.
        found: Of each slice.
        known: Whether the truth in the null space is, beside which the error stands.
    """
    headings = [Column("slice"), Column("added, in the null space", "%")]
    if known:
        headings += [Column("error there (1: adding nothing)"), Column("agreement there")]
    headings.append(Column("contradicts what was measured", "%"))
    rows = []
    for number, one in enumerate(found):
        truth = (one.error, one.agreement) if known else ()
        rows.append((number, 100 * one.hidden, *truth, 100 * one.contradiction))
    result.tables[Key("hallucination")] = table_of_rows(
        "What does it add that nobody measured?", headings, rows
    )
    findings = result.facts.setdefault("findings", {})
    findings["hidden"] = float(np.mean([one.hidden for one in found]))
    findings["contradiction"] = float(np.mean([one.contradiction for one in found]))
    if known:
        findings["error"] = float(np.mean([one.error for one in found]))


def _add_lines(result: Result, answers: Tensor) -> None:
    """Curve "answers", table "lost" and findings, of answers (N, H) to each line."""
    middle = answers.shape[1] // 2
    lines = {}
    for number, one in enumerate(answers):
        places = one.nonzero()[:, 0]
        lines[f"slice {number}"] = ((places - middle).tolist(), one[places].tolist())
    result.curves[Key("answers")] = Curve(
        "How strongly does the image answer to each measured line?",
        "line of k-space (0: the middle)",
        "answer (1: as it is)",
        lines,
    )
    shares = analysis.lost(answers)
    result.tables[Key("lost")] = table_of_rows(
        "Which lines are lost?",
        [Column("slice"), Column("not measured", "%"), Column("measured, not looked at", "%")],
        [(number, 100 * one, 100 * other) for number, (one, other) in enumerate(shares)],
    )
    lost = float(np.mean([other / max(1 - one, 1e-9) for one, other in shares]))
    result.facts["findings"]["deaf lines"] = lost


def _add_acquisition(result: Result, asked: _Asked, reconstruct: Any, scan: kspace.Scan) -> None:
    """Table "acquisition" and findings, of the middle slice."""
    one = slice(asked.middle, asked.middle + 1)
    alone = kspace.Scan(scan.image[one], scan.measured[one], scan.mask[one], scan.complete[one])
    best = analysis.ideal_acquisition(reconstruct, alone, 1)[0]
    line = best.lines[0] - scan.mask.shape[1] // 2
    rows = [
        (f"the best, line {line}", best.gains[0]),
        ("the missing one nearest the middle", best.usual),
        ("any, on average", best.any),
    ]
    result.tables[Key("acquisition")] = table_of_rows(
        "Which line would have helped most?", [Column("line added"), Column("gain", "dB")], rows
    )
    gains = {"best": best.gains[0], "usual": best.usual, "any": best.any}
    result.facts["findings"]["lines"] = {"line": line, **gains}


# Networks of images -------------------------------------------------------------------------------


def _of_images(asked: _Asked, progress: Progress) -> tuple[Result, Tensor]:
    """Of images of one size, the first of which may change; and the network's, (N, H, W)."""
    result, network = Result(), asked.model.network
    output = asked.task.image_of(network(asked.given))
    given = asked.given[:, 0] * IMAGE_RANGE
    _add_images(result, asked, given, output)
    if isinstance(asked.task, SuperResolution):
        _add_beyond(result, asked, output)
    if asked.given.ndim == 4:  # of a volume that takes too long
        progress.report(0.3, "Changing each voxel of a square")
        _add_directions(result, asked)
    return result, output


def _add_beyond(result: Result, asked: _Asked, output: Tensor) -> None:
    """What super-resolved images (N, H, W) or volumes have that the coarse ones do not."""
    operator: Operator = Coarse(FACTOR, tuple(output.shape[1:]))
    every = slice(None), *[slice(None, None, FACTOR)] * (output.ndim - 1)
    coarse = (asked.given[:, 0] * IMAGE_RANGE)[every]
    for key, image, title in (
        ("added", output, "Added between coarse voxels"),
        ("missing", asked.truth, "Truth between coarse voxels"),
    ):
        asked.put(result, key, split(operator, image)[1], title, "difference")
    three = zip(asked.truth, coarse, output)
    found = [analysis.hallucinated(operator, truth, low, image) for truth, low, image in three]
    _tell_hallucination(result, found, True)


def _add_directions(result: Result, asked: _Asked) -> None:
    """Curve "answers", table "lost", images of the change that shows least; of the middle slice."""
    network, given = asked.model.network, asked.given[asked.middle]
    side = min(SIDE, *given.shape[1:])
    values, least = directions.spectrum(network, given, side=side)
    result.curves[Key("answers")] = Curve(
        f"How strongly are the changes of a square of {side} x {side} voxels answered to?",
        "change, the strongest first",
        "answer (1: at its own size)",
        {"derivative of the network": (list(range(1, len(values) + 1)), values.tolist())},
    )
    unseen, deaf = directions.lost(values)
    spot = directions.spot(
        tuple(given.shape[1:]), SPOT_MM / asked.model.card.spacing_mm[0], SPOT_HEIGHT
    )
    shown = directions.shown(network, given, spot / IMAGE_RANGE)
    change = UNNOTICED * least / least.abs().max()
    answered = directions.shown(network, given, change / IMAGE_RANGE)
    rows = [
        ("of all changes of the square, not answered to at all", 100 * unseen),
        ("of all changes of the square, answered to by less than a tenth", 100 * deaf),
        (f"of a spot of {SPOT_MM:g} mm, shown", 100 * shown),
        ("of the change that shows least, shown", 100 * answered),
    ]
    result.tables[Key("lost")] = table_of_rows(
        "Which changes are lost?", [Column("what"), Column("share", "%")], rows
    )
    changed = given.clone()
    changed[0] += change / IMAGE_RANGE
    answer = IMAGE_RANGE * (network(changed[None]) - network(given[None]))[0, 0]
    for key, image, title in (
        ("unnoticed", change, "A change that it does not show"),
        ("unnoticed answer", answer, "What its image changes by"),
    ):
        stack = torch.zeros_like(asked.given[:, 0])
        stack[asked.middle] = image
        asked.put(result, key, stack, title, "difference")
    result.facts.setdefault("findings", {}).update(
        unseen=unseen, deaf=deaf, spot=shown, least=answered, side=side
    )


# Beside what needs no network ---------------------------------------------------------------------


def _add_quality(result: Result, asked: _Asked, output: Tensor) -> None:
    """Table "quality" and findings: how near the network comes, and what needs none."""
    truth, task = asked.truth, asked.task
    images = {NETWORK: output}
    trial = task.trial_of(asked.given, asked.wanted, sample.settings_of(asked.model.card))
    if trial is not None:
        images |= {name: peer(trial) for name, peer in task.peers.items()}
    reached = {name: float(np.mean(task.scores(image, truth))) for name, image in images.items()}
    result.tables[Key("quality")] = table_of_rows(
        "How near is it to the truth?",
        [Column("by"), Column.read(task.figure)],
        list(reached.items()),
    )
    result.facts.setdefault("findings", {}).update(reached=reached, figure=task.figure)
