"""Reconstruction without learning: least squares, and sparsity by FISTA and ADMM.

    image = cgnr(scanner, measured, damping=0.01)                        # Tikhonov
    image = admm(scanner, measured, [Sparse(0.01, Gradient(shape))])     # total variation
    seen, hidden = split(scanner, image)       # image = seen + hidden, forward(hidden) = 0

The objective is |A x - b|^2 plus priors, as in T. Knopp's lecture "Deep Learning Based Image
Reconstruction" (Hamburg University of Technology), sections 1.1 and 3.3. Measurements have any
number of leading dimensions (a batch); what is found has them too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .operators import Operator


@dataclass(frozen=True)
class Sparse:
    """The prior weight * |K x|_1: sparsity of the image, its edges or its wavelets.

    K is an ``Identity`` for the image, a ``Gradient`` for its edges (anisotropic total variation),
    a ``Haar`` for its wavelets.
    """

    weight: float
    transform: Operator

    def value(self, image: Tensor) -> Tensor:
        """Of images (..., *image_shape): one number in all."""
        return self.weight * self.transform.forward(image).abs().sum()


def landweber(
    operator: Operator,
    measured: Tensor,
    iterations: int = 100,
    relaxation: float | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """Least squares by steps along the gradient: x - relaxation A^H (A x - b).

    Args:
        operator: A.
        measured: b, (..., *measured_shape).
        iterations: Steps.
        relaxation: Below 2 / |A|^2; default 1 / |A|^2.
        start: (..., *image_shape); default 0.

    Returns:
        Images (..., *image_shape).
    """
    step = relaxation if relaxation is not None else 1 / operator.norm() ** 2
    image = torch.zeros_like(operator.adjoint(measured)) if start is None else start
    for _ in range(iterations):
        image = image - step * operator.adjoint(operator.forward(image) - measured)
    return image


def kaczmarz(
    operator: Operator,
    measured: Tensor,
    sweeps: int = 20,
    relaxation: float = 1.0,
    start: Tensor | None = None,
) -> Tensor:
    """Projections on what one block after the other measured (``Operator.blocks``).

    Args:
        operator: A.
        measured: b, (..., *measured_shape).
        sweeps: How often all blocks come.
        relaxation: Between 0 and 2; 1 projects.
        start: (..., *image_shape); default 0, from where the shortest solution is reached.

    Returns:
        Images (..., *image_shape).
    """
    image = torch.zeros_like(operator.adjoint(measured)) if start is None else start
    blocks = [(block, block.row_scale()) for block in operator.blocks()]
    for _ in range(sweeps):
        for index, (block, scale) in enumerate(blocks):
            misfit = operator.part(index, measured) - block.forward(image)
            step = torch.where(scale > 0, relaxation / scale.clamp_min(1e-12), 0)
            image = image + block.adjoint(step * misfit)
    return image


def cgnr(
    operator: Operator,
    measured: Tensor,
    iterations: int = 100,
    damping: float = 0.0,
    tolerance: float = 1e-6,
) -> Tensor:
    """The image that makes |A x - b|^2 + damping |x|^2 smallest (Tikhonov).

    It is found by conjugate gradients on the normal equations from 0; without damping it is the
    shortest of them.

    Args:
        operator: A.
        measured: b, (..., *measured_shape).
        iterations: At most.
        damping: Not negative.
        tolerance: Norm of the normal equations' residual, over its first, at which it ends.

    Returns:
        Images (..., *image_shape).
    """

    def normal(image: Tensor) -> Tensor:
        return operator.normal(image) + damping * image

    return conjugate_gradients(
        normal, operator.adjoint(measured), len(operator.image_shape), iterations, tolerance
    )


def split(
    operator: Operator, image: Tensor, iterations: int = 500, tolerance: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """The part of an image that an operator sees, and the part that it does not.

    Their sum is the image, they are orthogonal, and the second one's measurements are 0: the first
    is the shortest image with the same measurements, which conjugate gradients reach from 0.

    Args:
        operator: What is measured.
        image: (..., *image_shape).
        iterations: At most, of conjugate gradients.
        tolerance: Largest norm of A x_seen - A x over that of A x at which they end.

    Returns:
        The seen and the hidden part, each (..., *image_shape).
    """
    seen = cgnr(operator, operator.forward(image), iterations=iterations, tolerance=tolerance)
    return seen, image - seen


def conjugate_gradients(
    matrix: Callable[[Tensor], Tensor],
    right: Tensor,
    axes: int,
    iterations: int,
    tolerance: float,
    start: Tensor | None = None,
) -> Tensor:
    """Solves matrix(x) = right for a self-adjoint map that is not negative.

    Args:
        matrix: Of images (..., *shape).
        right: (..., *shape); each of its leading dimensions is a problem of its own.
        axes: Length of shape.
        iterations: At most.
        tolerance: Norm of the residual over that of ``right`` at which a problem ends.
        start: As ``right``; default 0.

    Returns:
        x, (..., *shape).
    """
    over = tuple(range(-axes, 0))

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a.conj() * b).real.sum(over, keepdim=True)

    image = torch.zeros_like(right) if start is None else start
    residual = right - matrix(image) if start is not None else right
    direction, energy = residual, dot(residual, residual)
    enough = tolerance**2 * dot(right, right)
    for _ in range(iterations):
        if bool((energy <= enough).all()):
            break
        moved = matrix(direction)
        curvature = dot(direction, moved)
        step = torch.where((energy > enough) & (curvature > 0), energy / curvature, 0)
        image = image + step * direction
        residual = residual - step * moved
        newer = dot(residual, residual)
        direction = residual + torch.where(energy > 0, newer / energy, 0) * direction
        energy = newer
    return image


def fista(operator: Operator, measured: Tensor, prior: Sparse, iterations: int = 200) -> Tensor:
    """The image that makes |A x - b|^2 + prior smallest.

    The prior has an orthonormal transform; the image is found by accelerated proximal gradients
    (Beck and Teboulle, SIAM J. Imaging Sci. 2:183, 2009).

    Args:
        operator: A.
        measured: b, (..., *measured_shape).
        prior: Its transform is ``Identity`` or ``Haar``.
        iterations: Steps.

    Returns:
        Images (..., *image_shape).
    """
    step = 1 / (2.02 * operator.norm() ** 2)  # the power method's norm is from below
    image = ahead = torch.zeros_like(operator.adjoint(measured))
    momentum = 1.0
    for _ in range(iterations):
        moved = ahead - 2 * step * operator.adjoint(operator.forward(ahead) - measured)
        coefficients = soft_threshold(prior.transform.forward(moved), step * prior.weight)
        newer = prior.transform.adjoint(coefficients)
        faster = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = newer + (momentum - 1) / faster * (newer - image)
        image, momentum = newer, faster
    return image


def admm(
    operator: Operator,
    measured: Tensor,
    priors: Sequence[Sparse],
    penalty: float = 1.0,
    iterations: int = 200,
    inner: int = 10,
) -> Tensor:
    """The image that makes |A x - b|^2 plus all priors smallest.

    It is found by the alternating direction method of multipliers (Boyd and colleagues, Found.
    Trends Mach. Learn. 3:1, 2011).

    Args:
        operator: A.
        measured: b, (..., *measured_shape).
        priors: Any transforms: ``Gradient`` is total variation, with ``Identity`` the fused lasso.
        penalty: Weight of the splitting, above 0; changes how fast it gets there.
        iterations: Steps.
        inner: Conjugate gradients in each.

    Returns:
        Images (..., *image_shape).
    """
    transforms = [prior.transform for prior in priors]

    def normal(image: Tensor) -> Tensor:
        pulls = [penalty * transform.normal(image) for transform in transforms]
        return sum(pulls, 2 * operator.normal(image))

    data = 2 * operator.adjoint(measured)
    image = torch.zeros_like(data)
    split = [transform.forward(image) for transform in transforms]
    dual = [torch.zeros_like(part) for part in split]
    axes = len(operator.image_shape)
    for _ in range(iterations):
        pulls = [
            penalty * transform.adjoint(part - multiplier)
            for transform, part, multiplier in zip(transforms, split, dual)
        ]
        image = conjugate_gradients(normal, sum(pulls, data), axes, inner, 1e-7, image)
        for index, prior in enumerate(priors):
            shown = transforms[index].forward(image) + dual[index]
            split[index] = soft_threshold(shown, prior.weight / penalty)
            dual[index] = shown - split[index]
    return image


def soft_threshold(values: Tensor, threshold: float) -> Tensor:
    """Values, real or complex, with their magnitude made smaller by the threshold, at least 0."""
    magnitude = values.abs()
    return values * ((magnitude - threshold).clamp_min(0) / magnitude.clamp_min(1e-30))
