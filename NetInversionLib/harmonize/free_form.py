"""Free-form harmonization: eq. 3 of the MRFlow abstract.

It is done on every slice of a volume, in one or three orientations.

Each iteration encodes the image with a flow trained on the target scanner, draws the latents
towards the middle of the target's distribution, decodes, and takes one step in image space towards
the source's correlation and away from gradients where the source has no edge:

    z = f(x_n),  z <- z towards |z| = r,  y = f^-1(z),
    x_{n+1} = y - beta_1 grad( M |G y| ) + beta_2 grad( NCC(y, x_s) )

The abstract prints the iteration with + NCC minimised and with f in place of f^-1; the signs here
are those that raise NCC and lower the gradients that M selects (M is 1 where the source has no
edge).

Source: Jeong, Kang, Kim & Lee, "MRFlow", ISMRM abstract; the same group's BlindHarmony,
arXiv:2305.10732.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.devices import halving
from ..core.progress import Progress
from ..networks.flow import ConditionalFlow
from .settings import HarmonizeSettings

SLICES_AT_ONCE = 16
# |g| is sqrt(g^2 + 0.01^2), in scaled units, so that flat regions are not pushed back and forth.
SMOOTH_ABS = 0.01
# The axis of an array [k, j, i] (k superior, j anterior, i right) along which slices are stacked.
STACKED_ALONG = {"axial": 0, "coronal": 1, "sagittal": 2}


def refine(
    start: Tensor,
    source: Tensor,
    edges: Tensor,
    mask: Tensor,
    flow: ConditionalFlow | None,
    settings: HarmonizeSettings,
    radius: Tensor | None = None,
    progress: Progress = Progress(),
    step: Callable[[str, int, float], None] = lambda orientation, iteration, ncc: None,
) -> Tensor:
    """Iterate from ``start`` in each of the chosen orientations.

    The result is their average, so that neighbouring slices agree.

    Args:
        start, source: (K, J, I) scaled images on the model's grid: where to begin, what to stay
            similar to.
        edges: (K, J, I) edge map of the source, 0 to 1. mask: (K, J, I) boolean; what lies outside
            is not changed.
        flow: Of the target domain; None leaves it out (the no-flow ablation).
        settings: ``alpha``, ``beta_edges``, ``beta_similarity``, ``iterations``, ``orientations``.
        radius: Per level, the root mean square of a typical latent, towards which latents are
            drawn; None: towards 0.
        step: Called with the orientation, the iteration and NCC after it.

    Returns:
        (K, J, I), equal to ``start`` outside the mask.
    """
    total = start.new_zeros(start.shape)
    for number, orientation in enumerate(settings.orientations):
        axis = STACKED_ALONG[orientation]
        stacks = [image.movedim(axis, 0)[:, None] for image in (start, source, edges, mask)]

        def report(iteration: int, ncc: float, orientation=orientation, number=number) -> None:
            done = (number + iteration / settings.iterations) / len(settings.orientations)
            progress.report(done, f"Refining {orientation} slices, iteration {iteration}")
            step(orientation, iteration, ncc)

        total += _iterate(*stacks, flow, settings, radius, report)[:, 0].movedim(0, axis)
    return torch.where(mask, total / len(settings.orientations), start)


@torch.no_grad()
def _iterate(
    start: Tensor,
    source: Tensor,
    edges: Tensor,
    mask: Tensor,
    flow: ConditionalFlow | None,
    settings: HarmonizeSettings,
    radius: Tensor | None,
    report: Callable[[int, float], None],
) -> Tensor:
    """One orientation: (slices, 1, H, W) each."""
    used = mask.flatten(1).any(1)
    x, source, mask, quiet = start[used], source[used], mask[used], (edges[used] == 0) & mask[used]
    through = (
        _through(flow, edges[used], settings.alpha, radius) if flow is not None else lambda x: x
    )
    for iteration in range(1, settings.iterations + 1):
        x = torch.where(mask, through(x), x)
        deviation = x[mask].std(unbiased=False)
        # Both directions are taken at the same image, as the equation has it.
        against = gradient_of_edges(x, quiet)
        ncc, towards = gradient_of_ncc(x, source, mask)
        x = x + deviation * (settings.beta_similarity * towards - settings.beta_edges * against)
        report(iteration, float(ncc))
    result = start.clone()
    result[used] = x
    return result


def _through(
    flow: ConditionalFlow, edges: Tensor, alpha: float, radius: Tensor | None
) -> Callable[[Tensor], Tensor]:
    """x -> f^-1(latents of x, drawn by alpha towards their typical radius), slices in turn."""
    pad = [p for n in reversed(edges.shape[2:]) for p in (0, -n % flow.size_multiple)]
    height, width = edges.shape[2:]
    edges = F.pad(edges, pad)
    prepared: dict[int, list] = {}

    def pieces(size: int) -> list:
        """The flow, prepared for every piece of the stack.

        Kept, since every iteration needs the same.
        """
        if size not in prepared:
            prepared.clear()
            prepared[size] = [flow.prepared(part) for part in edges.split(size)]
        return prepared[size]

    def run(x: Tensor, size: int) -> Tensor:
        out = []
        for part, given in zip(F.pad(x, pad).split(size), pieces(size)):
            out.append(given.inverse(drawn(given(part)[0], alpha, radius)))
        return torch.cat(out)[..., :height, :width]

    return lambda x: halving(lambda size: run(x, size), SLICES_AT_ONCE)


def drawn(latents: list[Tensor], alpha: float, radius: Tensor | None) -> list[Tensor]:
    """Latents drawn towards zero, or towards a given size.

    Args:
        latents: For each level of shape (N, c, H, W).
        alpha: Share of the way, 0 to 1.
        radius: Root mean square of each level that latents move to; None multiplies by 1 - alpha.

    Returns:
        Latents of the same shapes.
    """
    if radius is None:
        return [(1 - alpha) * z for z in latents]
    moved = []
    for z, typical in zip(latents, radius.tolist()):
        rms = z.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-6)
        moved.append(z * ((1 - alpha) + alpha * typical / rms))
    return moved


def gradient_of_ncc(x: Tensor, source: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Centred normalized cross-correlation inside the mask, and the direction that raises it.

    It is taken over the whole stack. The direction is the gradient times (voxels x standard
    deviation of x): it does not depend on size or scale.

    Args:
        x: Slices, (N, 1, H, W).
        source: What they are compared with, of the same shape.
        mask: Boolean, of the same shape.

    Returns:
        The correlation, -1 to 1, and the direction, of the shape of x.
    """
    a, b = x[mask].double(), source[mask].double()
    a, b = a - a.mean(), b - b.mean()
    a, b = (
        a / a.square().mean().sqrt().clamp(min=1e-12),
        b / b.square().mean().sqrt().clamp(min=1e-12),
    )
    ncc = (a * b).mean()
    direction = torch.zeros_like(x)
    direction[mask] = (b - ncc * a).to(x)
    return ncc, direction


def gradient_of_edges(x: Tensor, quiet: Tensor) -> Tensor:
    """Gradient of the sum of |G x| over in-plane neighbours that are both ``quiet``.

    Args:
        x: Slices, (N, 1, H, W).
        quiet: Boolean, of the same shape: where the source has no edge.

    Returns:
        Of the shape of x.
    """
    gradient = torch.zeros_like(x)
    for axis in (2, 3):
        difference = x.diff(dim=axis)
        both = quiet.narrow(axis, 1, x.shape[axis] - 1) & quiet.narrow(axis, 0, x.shape[axis] - 1)
        slope = difference / (difference.square() + SMOOTH_ABS**2).sqrt() * both
        gradient.narrow(axis, 1, x.shape[axis] - 1).add_(slope)
        gradient.narrow(axis, 0, x.shape[axis] - 1).sub_(slope)
    return gradient
