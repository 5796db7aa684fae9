"""How fast a machine runs networks, from one small convolution.

The command ``python_command("NetInversionLib.jobs.speed")`` with a device and a time, such as
"auto 1700000000.0", prints as one line of JSON the seconds of a pass of that convolution
("pass_s") and, with the time at which the process was launched (s since 1970), the seconds that a
worker needs to start ("start_s").
"""

from __future__ import annotations

import json
import statistics
import sys
import time

from ..core import devices

CHANNELS, SIZE = 32, 128
SECONDS = 0.3
LEAST_PASSES = 3
REFERENCE_PASS_S = 0.0065
"""Seconds of a pass on the machine on which the modules' guesses were measured: two cores."""
REFERENCE_START_S = 5.0
"""Seconds that a worker needed to start there, torch and scikit-image included."""


def pass_seconds(device: str = "auto", seconds: float = SECONDS) -> float:
    """Median time of one 3 x 3 convolution of 32 channels of 128 x 128, there and back.

    The median counts what else the machine does meanwhile.

    Args:
        device: As for ``devices.choose``, which raises what this does.
        seconds: How long to look, about.
    """
    import torch

    place = devices.choose(device)
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1).to(place)
    image = torch.randn(1, CHANNELS, SIZE, SIZE, device=place, requires_grad=True)
    times: list[float] = []
    end = time.perf_counter() + seconds
    _pass(layer, image)  # the first allocates and chooses algorithms
    while len(times) < LEAST_PASSES or time.perf_counter() < end:
        began = time.perf_counter()
        _pass(layer, image)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _pass(layer, image) -> None:
    import torch

    (gradient,) = torch.autograd.grad(layer(image).square().sum(), image)
    float(gradient[0, 0, 0, 0])  # waits for a GPU


def main(arguments: list[str]) -> int:
    device, launched = arguments[0], float(arguments[1])
    import skimage  # noqa: F401
    import torch  # noqa: F401

    from . import worker  # noqa: F401 - what a worker imports before it begins

    start = time.time() - launched
    print(json.dumps({"pass_s": pass_seconds(device), "start_s": start}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
