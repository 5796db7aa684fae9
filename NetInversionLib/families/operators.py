"""What a scanner measures of an image, as linear operators with their exact adjoints.

    scanner = Fourier(mask)                    # k-space of one coil, under-sampled
    measured = scanner.forward(image)
    zero_filled = scanner.adjoint(measured)

Images and measurements are tensors with any number of leading dimensions (a batch); complex ones
are complex. All operators are differentiable. The inner product is sum(conj(a) b).
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from ..networks.fourier import centred_fft


class Operator(ABC):
    """A linear map from images (..., *image_shape) to measurements (..., *measured_shape)."""

    image_shape: tuple[int, ...]
    measured_shape: tuple[int, ...]
    complex_image = False

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Measurements (..., *measured_shape) of images (..., *image_shape)."""

    @abstractmethod
    def adjoint(self, measured: Tensor) -> Tensor:
        """Images (..., *image_shape) of measurements (..., *measured_shape)."""

    def normal(self, image: Tensor) -> Tensor:
        """Adjoint after forward: a self-adjoint map of images."""
        return self.adjoint(self.forward(image))

    def norm(self, iterations: int = 50) -> float:
        """The largest singular value, from below, by the power method from a fixed start."""
        dtype = torch.complex64 if self.complex_image else torch.float32
        image = torch.randn(
            self.image_shape, dtype=dtype, generator=torch.Generator().manual_seed(0)
        )
        largest = 0.0
        for _ in range(iterations):
            image = self.normal(image / image.norm())
            largest = float(image.norm())
        return math.sqrt(largest)

    def blocks(self) -> Iterator[Operator]:
        """Parts of the operator that measure one after the other, for Kaczmarz.

        Here all measure at once.
        """
        yield self

    def part(self, index: int, measured: Tensor) -> Tensor:
        """What block ``index`` of ``blocks`` measures, of all measurements."""
        return measured

    def row_scale(self) -> Tensor:
        """What a block's misfit is divided by in a step of Kaczmarz.

        Broadcastable to (*measured_shape): the squared norm of each row where rows are orthogonal,
        so that the step is a projection; else what keeps it from overshooting, here the squared
        norm of all.
        """
        return torch.tensor(self.norm() ** 2)


class Matrix(Operator):
    """Any matrix (M, N), dense: images are vectors (..., N), measurements (..., M)."""

    def __init__(self, matrix: Tensor):
        self.matrix = matrix
        self.measured_shape, self.image_shape = matrix.shape[:1], matrix.shape[1:]
        self.complex_image = matrix.is_complex()

    def forward(self, image: Tensor) -> Tensor:
        """See ``Operator``."""
        return image @ self.matrix.T.to(image.dtype)

    def adjoint(self, measured: Tensor) -> Tensor:
        """See ``Operator``."""
        return measured @ self.matrix.conj().to(measured.dtype)

    def blocks(self) -> Iterator[Operator]:
        """Row by row."""
        for row in self.matrix:
            yield Matrix(row[None])

    def part(self, index: int, measured: Tensor) -> Tensor:
        """See ``Operator``."""
        return measured[..., index : index + 1]

    def row_scale(self) -> Tensor:
        """See ``Operator``."""
        return self.matrix.abs().square().sum(1)


class Fourier(Operator):
    """Cartesian k-space of one coil, at the places of a mask.

    It is the orthonormal, centred Fourier transform of the last two axes.

    Args:
        mask: (..., H, W), 1 where k-space is measured, else 0; leading axes (frames of a dynamic
            scan) are axes of the image.
    """

    complex_image = True

    def __init__(self, mask: Tensor):
        self.mask = mask.to(torch.float32)
        self.image_shape = self.measured_shape = tuple(mask.shape)

    def forward(self, image: Tensor) -> Tensor:
        """See ``Operator``."""
        return self.mask * centred_fft(image)

    def adjoint(self, measured: Tensor) -> Tensor:
        """The zero-filled image."""
        return centred_fft(self.mask * measured, inverse=True)

    def row_scale(self) -> Tensor:
        """See ``Operator``."""
        return self.mask


class Coils(Operator):
    """Cartesian k-space of several coils, (..., C, H, W), of one image (..., H, W).

    Args:
        sensitivities: (C, H, W), complex.
        mask: (H, W), 1 where k-space is measured, else 0.
    """

    complex_image = True

    def __init__(self, sensitivities: Tensor, mask: Tensor):
        self.sensitivities = sensitivities
        self.kspace = Fourier(mask)
        self.image_shape = tuple(sensitivities.shape[1:])
        self.measured_shape = tuple(sensitivities.shape)

    def forward(self, image: Tensor) -> Tensor:
        """See ``Operator``."""
        return self.kspace.forward(self.sensitivities * image[..., None, :, :])

    def adjoint(self, measured: Tensor) -> Tensor:
        """See ``Operator``."""
        return (self.sensitivities.conj() * self.kspace.adjoint(measured)).sum(-3)

    def blocks(self) -> Iterator[Operator]:
        """Coil by coil."""
        for coil in self.sensitivities:
            yield Coils(coil[None], self.kspace.mask)

    def part(self, index: int, measured: Tensor) -> Tensor:
        """See ``Operator``."""
        return measured[..., index : index + 1, :, :]

    def row_scale(self) -> Tensor:
        """See ``Operator``."""
        return self.sensitivities.abs().square().amax()


class ParallelBeam(Operator):
    """Line integrals of a square image by parallel beams.

    They are (..., A, D) of (..., N, N), in units of value times pixel.

    Each pixel casts its value on the two detector elements beside its centre's shadow, in
    proportion to their nearness (pixel-driven linear interpolation); elements are a pixel wide, and
    the axis of rotation is the image's centre.

    Args:
        size: N.
        angles: (A,), degrees; at 0 the beams run along columns.
    """

    def __init__(self, size: int, angles: Tensor):
        self.angles = angles.to(torch.float64)
        self.detectors = 2 * math.ceil(size / math.sqrt(2)) + 3
        self.image_shape, self.measured_shape = (size, size), (len(angles), self.detectors)
        self._matrix = _beam_matrix(size, self.angles.numpy(), self.detectors)
        self._forward, self._adjoint = _csr(self._matrix), _csr(self._matrix.T)

    def forward(self, image: Tensor) -> Tensor:
        """See ``Operator``."""
        flat = image.reshape(-1, math.prod(self.image_shape))
        projected = _Sparse.apply(flat, self._forward, self._adjoint)
        return projected.reshape(*image.shape[:-2], *self.measured_shape)

    def adjoint(self, measured: Tensor) -> Tensor:
        """Back-projection without a filter."""
        flat = measured.reshape(-1, math.prod(self.measured_shape))
        image = _Sparse.apply(flat, self._adjoint, self._forward)
        return image.reshape(*measured.shape[:-2], *self.image_shape)

    def filtered_back_projection(self, measured: Tensor) -> Tensor:
        """The image by Ram-Lak's filter, for angles spread evenly over 180 degrees."""
        length = 2 ** math.ceil(math.log2(2 * self.detectors))
        ramp = torch.zeros(length, dtype=measured.dtype)
        odd = torch.arange(1, length // 2, 2)
        ramp[0] = 0.25
        ramp[odd] = ramp[-odd] = -1 / (math.pi * odd.to(measured.dtype)) ** 2
        response = torch.fft.rfft(ramp)
        filtered = torch.fft.irfft(torch.fft.rfft(measured, length) * response, length)
        return self.adjoint(filtered[..., : self.detectors]) * math.pi / len(self.angles)

    def blocks(self) -> Iterator[Operator]:
        """One angle after the other."""
        for angle in self.angles:
            yield ParallelBeam(self.image_shape[0], angle[None])

    def part(self, index: int, measured: Tensor) -> Tensor:
        """See ``Operator``."""
        return measured[..., index : index + 1, :]

    def row_scale(self) -> Tensor:
        """See ``Operator``; steps of a block are simultaneous ones (SART's).

        Neighbours share pixels, so each row is weighed by its sum times the largest column sum,
        which is 1.
        """
        sums = np.asarray(self._matrix.sum(1)).reshape(self.measured_shape)
        return torch.from_numpy(sums).to(torch.float32)


class Blur(Operator):
    """Circular convolution with a kernel.

    Args:
        kernel: (h, w), odd sides, its centre at the origin.
        shape: (H, W) of the images.
    """

    def __init__(self, kernel: Tensor, shape: tuple[int, int]):
        self.image_shape = self.measured_shape = tuple(shape)
        padded = torch.zeros(self.image_shape, dtype=kernel.dtype)
        padded[: kernel.shape[0], : kernel.shape[1]] = kernel
        shift = [-(side // 2) for side in kernel.shape]
        self.response = torch.fft.rfft2(padded.roll(shift, (0, 1)))

    def forward(self, image: Tensor) -> Tensor:
        """See ``Operator``."""
        return torch.fft.irfft2(torch.fft.rfft2(image) * self.response, self.image_shape)

    def adjoint(self, measured: Tensor) -> Tensor:
        """See ``Operator``."""
        spectrum = torch.fft.rfft2(measured) * self.response.conj()
        return torch.fft.irfft2(spectrum, self.image_shape)


class Coarse(Operator):
    """A scan of lower resolution.

    It takes means over blocks of ``factor`` voxels along each of the image's axes.

    Args:
        factor: Whole number, above 0, along all axes.
        shape: Of the images, 2 or 3 axes, divisible by the factor.
    """

    def __init__(self, factor: int, shape: tuple[int, ...]):
        self.factor, self.image_shape = factor, tuple(shape)
        self.measured_shape = tuple(side // factor for side in shape)

    def forward(self, image: Tensor) -> Tensor:
        """See ``Operator``."""
        split_axes = [length for side in self.measured_shape for length in (side, self.factor)]
        blocks = image.reshape(*image.shape[: image.ndim - len(self.image_shape)], *split_axes)
        return blocks.mean(list(range(-1, -2 * len(self.image_shape), -2)))

    def adjoint(self, measured: Tensor) -> Tensor:
        """See ``Operator``."""
        axes = len(self.image_shape)
        for axis in range(-axes, 0):
            measured = measured.repeat_interleave(self.factor, axis)
        return measured / self.factor**axes

    def row_scale(self) -> Tensor:
        """See ``Operator``."""
        return torch.full(self.measured_shape, self.factor ** -len(self.image_shape))


class Identity(Operator):
    """The image itself.

    Args:
        shape: Of the images.
    """

    def __init__(self, shape: tuple[int, ...]):
        self.image_shape = self.measured_shape = tuple(shape)

    def forward(self, image: Tensor) -> Tensor:
        """See ``Operator``."""
        return image

    def adjoint(self, measured: Tensor) -> Tensor:
        """See ``Operator``."""
        return measured


class Gradient(Operator):
    """Differences to the next voxel along both axes, (..., 2, H, W), 0 beyond the border.

    Args:
        shape: (H, W) of the images.
    """

    def __init__(self, shape: tuple[int, int]):
        self.image_shape, self.measured_shape = tuple(shape), (2, *shape)

    def forward(self, image: Tensor) -> Tensor:
        """See ``Operator``."""
        down, right = torch.zeros_like(image), torch.zeros_like(image)
        down[..., :-1, :] = image.diff(dim=-2)
        right[..., :-1] = image.diff(dim=-1)
        return torch.stack([down, right], -3)

    def adjoint(self, measured: Tensor) -> Tensor:
        """See ``Operator``."""
        down, right = measured[..., 0, :-1, :], measured[..., 1, :, :-1]
        image = torch.zeros_like(measured[..., 0, :, :])
        image[..., 1:, :] += down
        image[..., :-1, :] -= down
        image[..., 1:] += right
        image[..., :-1] -= right
        return image


class Haar(Operator):
    """The orthonormal Haar wavelet transform, its coefficients in the places of the image.

    Args:
        shape: (H, W), divisible by 2 ** levels.
        levels: How often the coarse part is split again.
    """

    def __init__(self, shape: tuple[int, int], levels: int = 3):
        self.image_shape = self.measured_shape = tuple(shape)
        self.levels = levels

    def forward(self, image: Tensor) -> Tensor:
        """See ``Operator``."""
        found = image.clone()
        for height, width in self._sides():
            part = found[..., :height, :width]
            for axis in (-2, -1):
                even, odd = (part[..., n::2, :] if axis == -2 else part[..., n::2] for n in (0, 1))
                part = torch.cat([even + odd, even - odd], axis) / math.sqrt(2)
            found[..., :height, :width] = part
        return found

    def adjoint(self, measured: Tensor) -> Tensor:
        """See ``Operator``; also the inverse."""
        found = measured.clone()
        for height, width in reversed(self._sides()):
            part = found[..., :height, :width]
            for axis in (-1, -2):
                low, high = part.chunk(2, axis)
                pairs = torch.stack([low + high, low - high], part.ndim + axis + 1)
                part = pairs.flatten(part.ndim + axis, part.ndim + axis + 1) / math.sqrt(2)
            found[..., :height, :width] = part
        return found

    def _sides(self) -> list[tuple[int, int]]:
        height, width = self.image_shape
        return [(height >> level, width >> level) for level in range(self.levels)]


class _Sparse(torch.autograd.Function):
    """Rows (B, N) times the transpose of a sparse matrix (M, N)."""

    @staticmethod
    def forward(ctx, rows, matrix, transposed):
        ctx.matrices = matrix, transposed
        return (matrix.to(rows.dtype) @ rows.T).T

    @staticmethod
    def backward(ctx, gradient):
        matrix, transposed = ctx.matrices
        return _Sparse.apply(gradient, transposed, matrix), None, None


def _csr(matrix: scipy.sparse.spmatrix) -> Tensor:
    matrix = matrix.tocsr()
    parts = (torch.from_numpy(part.astype(np.int64)) for part in (matrix.indptr, matrix.indices))
    values = torch.from_numpy(matrix.data.astype(np.float32))
    with warnings.catch_warnings():  # torch calls its sparse matrices a beta version
        warnings.simplefilter("ignore")
        return torch.sparse_csr_tensor(*parts, values, matrix.shape, check_invariants=True)


def _beam_matrix(size: int, angles: np.ndarray, detectors: int) -> scipy.sparse.csr_matrix:
    """Weights (A D, N N) of pixels in detector elements."""
    centre = (size - 1) / 2
    y, x = np.mgrid[:size, :size].reshape(2, -1) - centre
    rows, columns, values = [], [], []
    for number, angle in enumerate(np.deg2rad(angles)):
        place = x * np.cos(angle) + y * np.sin(angle) + (detectors - 1) / 2
        low = np.floor(place).astype(np.int64)
        for element, weight in ((low, 1 - (place - low)), (low + 1, place - low)):
            rows.append(number * detectors + element)
            columns.append(np.arange(size * size))
            values.append(weight)
    shape = (len(angles) * detectors, size * size)
    triplets = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return scipy.sparse.csr_matrix(triplets, shape=shape)
