"""What can be found out of a network by running it: axes, channels, sizes, reach, gradients."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..card import ModelError
from .adapted import chosen
from .description import Description
from .found import Probe

SIDES = (64, 96, 128, 32, 224, 256, 48, 16)
SIDES_3D = (32, 64, 16, 48, 96)
MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
GRADIENT_TOLERANCE = 1e-4
# Networks that stay in float32 (their file fixes it) are compared as float32 allows.
SINGLE_TOLERANCE = 2e-2


def probe(network: nn.Module, told: Description = Description(), seed: int = 0) -> Probe:
    """Find out what a network takes and gives by running it on small images.

    Args:
        network: In eval mode.
        told: What is known of it; that is not tried otherwise.
        seed: Of the images' values.

    Raises:
        ModelError: It runs on no image that was tried (with the network's own message), its output
            does not depend on its input, or its gradients are wrong.
    """
    runner = _Runner(network, told, torch.Generator().manual_seed(seed))
    dimensions, channels, side = _first_run(runner, told)
    runner.dimensions, runner.channels = dimensions, channels
    whole = runner.run((side,) * dimensions)
    magnification = whole.shape[-1] / side
    multiple, smallest, fixed = _sizes(runner, side, magnification, told)
    side = fixed or max(smallest, multiple * math.ceil(min(side, 64) / multiple))
    image = runner.image((side,) * dimensions)
    with torch.no_grad():
        output, again = runner.call(image), runner.call(image)
    repeatable = torch.equal(output, again)
    batch, alone = _batches(runner, image, output)
    error, double = _gradients(runner, side, repeatable)
    return Probe(
        dimensions=dimensions,
        inputs=channels,
        outputs=output.shape[1],
        separately=runner.separately,
        side=side,
        multiple=multiple,
        smallest=smallest,
        fixed=fixed,
        magnification=magnification,
        reach=_reach(runner, side, fixed),
        repeatable=repeatable,
        alone=alone,
        batch=batch,
        gradient_error=error,
        double=double,
        low=float(output.min()),
        high=float(output.max()),
        residual=_correlation(image, output),
    )


class _Runner:
    """Runs a network on random images, one tensor or one argument a channel."""

    def __init__(self, network: nn.Module, told: Description, generator: torch.Generator):
        self.network, self.gives, self.generator = network, told.gives, generator
        self.separately = told.takes == "separately"
        self.dimensions, self.channels = 2, 1
        weight = next(network.parameters(), None)
        self.device = "cpu" if weight is None else weight.device

    def image(self, size: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """(1, C, *size) of values between 0 and 1."""
        values = torch.rand(1, self.channels, *size, generator=self.generator, dtype=dtype)
        return values.to(self.device)

    def call(self, image: Tensor, network: nn.Module | None = None) -> Tensor:
        """The output that counts, (N, D, *space)."""
        network = network or self.network
        parts = image.split(1, dim=1) if self.separately else (image,)
        output = chosen(network(*parts), self.gives)
        if output.dim() != image.dim():
            raise ModelError(
                f"the output has the shape {tuple(output.shape)} for an input of"
                f" {tuple(image.shape)}: it is no image. Say with 'gives' which output counts"
            )
        return output

    @torch.no_grad()
    def run(self, size: tuple[int, ...]) -> Tensor:
        return self.call(self.image(size))

    def takes(self, side: int, magnification: float) -> bool:
        """Whether images of this side come out as large as they should."""
        try:
            shape = self.run((side,) * self.dimensions).shape
        except Exception:  # noqa: BLE001 - whatever a stranger's network raises
            return False
        return all(n == round(side * magnification) for n in shape[2:])


# What it takes ------------------------------------------------------------------------------------


def _first_run(runner: _Runner, told: Description) -> tuple[int, int, int]:
    """(axes, channels, side) of the first image that the network takes."""
    words: Exception | None = None
    tried = []
    for dimensions, channels in _guesses(runner.network, told):
        runner.dimensions, runner.channels = dimensions, channels
        tried.append(f"{channels} channel{'s' if channels > 1 else ''} in {dimensions}-D")
        for separately in _ways(runner, told, channels):
            runner.separately = separately
            for side in _sides(dimensions, told):
                try:
                    runner.run((side,) * dimensions)
                    return dimensions, channels, side
                except MemoryError:
                    raise
                except Exception as error:  # noqa: BLE001 - shown to the user below
                    words = words or error
    raise ModelError(
        f"the network runs on no image that was tried ({', '.join(tried)}). Say in the description"
        " how many 'inputs' it has, its 'dimensions' and 'smallest_size'. Its own words:"
        f" {type(words).__name__}: {words}"
    ) from words


def _ways(runner: _Runner, told: Description, channels: int) -> tuple[bool, ...]:
    if told.takes is not None or channels == 1:
        return (told.takes == "separately",)
    return (False, True)


def _sides(dimensions: int, told: Description) -> tuple[int, ...]:
    sides = SIDES if dimensions == 2 else SIDES_3D
    least, multiple = told.smallest_size or 1, told.size_multiple or 1
    fitting = tuple(n for n in sides if n >= least and n % multiple == 0)
    return fitting or (least + -least % multiple,)


def _guesses(network: nn.Module, told: Description) -> Iterator[tuple[int, int]]:
    """(axes, channels) to try: what is told, then what the first convolution says, then others."""
    known = None if told.dimensions is None else math.floor(told.dimensions)
    images, around = len(told.inputs) or None, 2 * told.neighbours + 1
    seen = set()
    for guess in (*_by_first_layer(network), *((d, c) for d in (2, 3) for c in (1, 3, 2, 4))):
        wanted = [guess[1]]
        if images:
            # A network of slices may take each image's neighbours as channels.
            wanted = [images * around] if told.dimensions == 2.5 else [images, images * around]
        for channels in wanted:
            trial = (known or guess[0], channels)
            if trial not in seen:
                seen.add(trial)
                yield trial


def _by_first_layer(network: nn.Module) -> list[tuple[int, int]]:
    """What the first convolution takes, read off its weight (outputs, inputs, *kernel)."""
    for module in network.modules():
        weight, groups = getattr(module, "weight", None), getattr(module, "groups", 1)
        if isinstance(weight, Tensor) and weight.dim() in (4, 5) and type(groups) is int:
            transposed = getattr(module, "transposed", False)
            return [(weight.dim() - 2, weight.shape[0 if transposed else 1] * groups)]
    for weight in network.state_dict().values():
        if isinstance(weight, Tensor) and weight.dim() in (4, 5):
            return [(weight.dim() - 2, weight.shape[1])]
    return []


def _sizes(
    runner: _Runner, side: int, magnification: float, told: Description
) -> tuple[int, int, int | None]:
    """(multiple, smallest side, the only side or None)."""
    if told.size_multiple is not None:
        multiple: int | None = told.size_multiple
    else:
        base = side + -side % MULTIPLES[-1] if runner.takes(2 * side, magnification) else side
        multiple = next((m for m in MULTIPLES if runner.takes(base + m, magnification)), None)
        if multiple and not all(runner.takes(base + n * multiple, magnification) for n in (2, 3)):
            multiple = next(
                (m for m in MULTIPLES if m > multiple and runner.takes(base + m, magnification)),
                MULTIPLES[-1],
            )
    if multiple is None:
        return 1, side, side
    if told.smallest_size is not None:
        return multiple, told.smallest_size, None
    smallest = side + -side % multiple
    while smallest - multiple >= 1 and runner.takes(smallest - multiple, magnification):
        smallest -= multiple
    return multiple, smallest, None


def _batches(runner: _Runner, image: Tensor, output: Tensor) -> tuple[bool, bool]:
    """(takes two images at once, each as if it were alone)."""
    other = runner.image(tuple(image.shape[2:]))
    try:
        with torch.no_grad():
            both = runner.call(torch.cat([image, other]))
    except Exception:  # noqa: BLE001 - whatever a stranger's network raises
        return False, True
    scale = float(output.abs().max()) + 1e-12
    return True, float((both[:1] - output).abs().max()) <= 1e-4 * scale


def _correlation(image: Tensor, output: Tensor) -> float:
    """Of the first input and the first output, where they have the same size; else NaN."""
    if image.shape[2:] != output.shape[2:]:
        return math.nan
    pair = torch.stack([image[0, 0].flatten(), output[0, 0].flatten()]).double()
    return float(torch.corrcoef(pair)[0, 1])


# How it looks around ------------------------------------------------------------------------------


def _reach(runner: _Runner, side: int, fixed: int | None) -> int | None:
    """How far the middle output voxel looks, or None where that is to the image's border."""
    growing = (side,) if fixed else tuple(side * n for n in (1, 2, 4)[: 5 - runner.dimensions])
    for size in growing:
        image = runner.image((size,) * runner.dimensions).requires_grad_()
        output = runner.call(image)
        middle = tuple(n // 2 for n in output.shape[2:])
        (slope,) = torch.autograd.grad(output[0][(slice(None),) + middle].abs().sum(), image)
        touched = slope[0].abs().amax(0).nonzero()
        if not len(touched):
            return 0
        ends = (touched.amin(0) == 0).any() and (touched.amax(0) == size - 1).any()
        if not bool(ends):
            centre = torch.tensor([size // 2] * runner.dimensions, device=touched.device)
            return int((touched - centre).abs().max())
    return None


def _gradients(runner: _Runner, side: int, repeatable: bool) -> tuple[float, bool]:
    """(relative error of input gradients along three directions, whether in float64).

    Raises:
        ModelError: No gradient reaches the input, or it is wrong.
    """
    image = runner.image((side,) * runner.dimensions)
    double = True
    try:
        with torch.no_grad():
            network = copy.deepcopy(runner.network).double()
        error = _largest_error(runner, image.double(), network, 1e-6)
    except Exception:  # noqa: BLE001 - the network cannot be converted: as it is
        double = False
        error = _largest_error(runner, image, runner.network, 1e-2)
    if not repeatable:
        return error, double
    if not error <= (GRADIENT_TOLERANCE if double else SINGLE_TOLERANCE):
        raise ModelError(
            f"the network's input gradients differ from finite differences by {error:.1e}, so its"
            " input cannot be optimised. Was the file made for inference only (TorchScript's"
            " optimize_for_inference), or does the network detach its input?"
        )
    return error, double


def _largest_error(runner: _Runner, image: Tensor, network: nn.Module, step: float) -> float:
    """Of directional derivatives against central differences, relative to the gradient's norm."""
    image = image.detach().requires_grad_()
    output = runner.call(image, network)
    weights = torch.rand(output.shape, generator=runner.generator, dtype=output.dtype)
    weights = weights.to(output.device)
    if not output.requires_grad:
        raise ModelError(
            "no gradient passes from the network's output to its input: take detach(),"
            " torch.no_grad() and NumPy out of its forward"
        )
    (slope,) = torch.autograd.grad((output * weights).sum(), image)
    if not slope.any():
        raise ModelError("the network's output does not depend on its input")
    worst = 0.0
    for _ in range(3):
        along = torch.randn(image.shape, generator=runner.generator, dtype=image.dtype)
        along = along.to(image.device) / along.norm()
        with torch.no_grad():
            ahead, behind = (
                (runner.call(image + sign * step * along, network) * weights).sum().double()
                for sign in (1, -1)
            )
        expected = float((ahead - behind) / (2 * step))
        found = float((slope * along).sum())
        size = float(slope.norm()) / math.sqrt(image.numel())
        worst = max(worst, abs(expected - found) / max(abs(expected), abs(found), size))
    return worst


def told_by(found: Probe, told: Description) -> Description:
    """A description with what was left out filled in."""
    dimensions = told.dimensions if told.dimensions is not None else found.dimensions
    return replace(
        told,
        dimensions=dimensions,
        size_multiple=told.size_multiple or found.multiple,
        smallest_size=told.smallest_size or found.smallest,
        takes=told.takes or ("separately" if found.separately else "channels"),
    )
