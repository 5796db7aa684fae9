"""Solvers without learning agree with SciPy's.

These are least squares, Tikhonov, and every sparse prior by its dual, a quadratic program in a box.
"""

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import torch

from NetInversionLib import families

ROWS, SHAPE = 80, (4, 8)


@pytest.fixture
def problem():
    """A well-posed A (80, 32) of images of 4 x 8, as an operator and as NumPy's, and b."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(ROWS, 32, generator=generator) / ROWS**0.5
    truth = torch.zeros(SHAPE)
    truth[1:3, 2:6] = 1
    noise = 0.05 * torch.randn(ROWS, generator=generator)
    return Reshaped(matrix, SHAPE), matrix.double().numpy(), matrix @ truth.flatten() + noise


class Reshaped(families.Operator):
    """A matrix whose vectors are images."""

    def __init__(self, matrix, shape):
        self.matrix = families.Matrix(matrix)
        self.image_shape, self.measured_shape = shape, matrix.shape[:1]

    def forward(self, image):
        return self.matrix.forward(image.flatten(-len(self.image_shape)))

    def adjoint(self, measured):
        return self.matrix.adjoint(measured).unflatten(-1, self.image_shape)

    def blocks(self):
        for row in self.matrix.matrix:
            yield Reshaped(row[None], self.image_shape)

    def part(self, index, measured):
        return self.matrix.part(index, measured)

    def row_scale(self):
        return self.matrix.row_scale()


def far(found, expected):
    return np.linalg.norm(found.flatten().numpy() - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(
    "solve",
    [
        lambda a, b: families.cgnr(a, b),
        lambda a, b: families.landweber(a, b, iterations=3000),
        lambda a, b: families.admm(a, b, [], iterations=1, inner=100),
    ],
    ids=["CGNR", "Landweber", "ADMM without a prior"],
)
def test_least_squares_is_scipys(problem, solve):
    operator, matrix, measured = problem
    expected = scipy.linalg.lstsq(matrix, measured.double().numpy())[0]
    assert far(solve(operator, measured), expected) < 1e-3


@pytest.mark.parametrize("damping", [0.01, 0.3])
def test_tikhonov_is_scipys(problem, damping):
    operator, matrix, measured = problem
    padded = np.vstack([matrix, damping**0.5 * np.eye(32)])
    expected = scipy.linalg.lstsq(padded, np.r_[measured.double().numpy(), np.zeros(32)])[0]
    assert far(families.cgnr(operator, measured, damping=damping), expected) < 1e-3


@pytest.mark.parametrize("rows", [20, 80])
def test_kaczmarz_reaches_the_shortest_solution(rows):
    """Also of fewer rows than unknowns; consistent, for inconsistent ones have no limit."""
    matrix = torch.randn(rows, 32, generator=torch.Generator().manual_seed(1))
    measured = matrix @ torch.randn(32, generator=torch.Generator().manual_seed(2))
    found = families.kaczmarz(Reshaped(matrix, SHAPE), measured, sweeps=400 if rows < 32 else 60)
    expected = scipy.linalg.lstsq(matrix.double().numpy(), measured.double().numpy())[0]
    assert far(found, expected) < 1e-3


def test_a_sweep_of_kaczmarz_is_the_textbooks():
    matrix = torch.randn(6, 32, generator=torch.Generator().manual_seed(3))
    measured = torch.randn(6, generator=torch.Generator().manual_seed(4))
    image = np.zeros(32)
    for row, value in zip(matrix.double().numpy(), measured.double().numpy()):
        image += row * (value - row @ image) / (row @ row)
    assert far(families.kaczmarz(Reshaped(matrix, SHAPE), measured, sweeps=1), image) < 1e-5


def of_images(operator):
    """The dense matrix of a transform."""
    basis = torch.eye(32).reshape(32, *SHAPE)
    return operator.forward(basis).reshape(32, -1).T.double().numpy()


def by_the_dual(matrix, measured, priors):
    """The image that makes |A x - b|^2 + sum_k w_k |K_k x|_1 smallest.

    With H = 2 A^T A = L L^T and multipliers p in [-1, 1], x = H^-1 (2 A^T b - K^T p). The p is the
    one that makes |L^-1 (2 A^T b - K^T p)| least.
    """
    weighted = np.vstack([prior.weight * of_images(prior.transform) for prior in priors])
    lower = np.linalg.cholesky(2 * matrix.T @ matrix)
    solve = np.linalg.solve
    right = 2 * matrix.T @ measured.double().numpy()
    box = scipy.optimize.lsq_linear(
        solve(lower, weighted.T), solve(lower, right), (-1, 1), "bvls", tol=1e-14, max_iter=2000
    )
    return solve(lower.T, solve(lower, right - weighted.T @ box.x))


PRIORS = {
    "L1": [families.Sparse(0.1, families.Identity(SHAPE))],
    "wavelets": [families.Sparse(0.1, families.Haar(SHAPE, 2))],
    "total variation": [families.Sparse(0.1, families.Gradient(SHAPE))],
    "fused lasso": [
        families.Sparse(0.05, families.Identity(SHAPE)),
        families.Sparse(0.1, families.Gradient(SHAPE)),
    ],
}


@pytest.mark.parametrize("name", PRIORS)
def test_sparse_priors_reach_what_quadratic_programming_finds(problem, name):
    operator, matrix, measured = problem
    expected = by_the_dual(matrix, measured, PRIORS[name])
    found = families.admm(operator, measured, PRIORS[name], 0.3, iterations=600, inner=20)
    assert far(found, expected) < 1e-3
    if name in ("L1", "wavelets"):
        assert far(families.fista(operator, measured, PRIORS[name][0], 800), expected) < 1e-3
    least = np.linalg.lstsq(matrix, measured.double().numpy(), rcond=None)[0]
    assert far(torch.from_numpy(least), expected) > 0.05  # the prior does something


def test_a_batch_and_complex_images_are_solved_one_by_one():
    generator = torch.Generator().manual_seed(5)
    scanner = families.Fourier((torch.rand(8, 8, generator=generator) < 0.6).float())
    images = torch.randn(3, 8, 8, dtype=torch.complex64, generator=generator)
    measured = scanner.forward(images)
    prior = families.Sparse(0.2, families.Haar((8, 8), 2))
    for solve in (
        lambda b: families.cgnr(scanner, b, damping=0.1),
        lambda b: families.kaczmarz(scanner, b, 3),
        lambda b: families.fista(scanner, b, prior, 30),
        lambda b: families.admm(scanner, b, [prior], iterations=30),
    ):
        together, alone = solve(measured), torch.stack([solve(b) for b in measured])
        assert torch.allclose(together, alone, atol=1e-4)
    # One projection of k-space's orthonormal rows is the answer.
    once = families.kaczmarz(scanner, measured, 1)
    assert torch.allclose(once, scanner.adjoint(measured), atol=1e-5)


def test_sart_finds_the_image_of_enough_beams():
    beams = families.ParallelBeam(16, torch.arange(0, 180, 6.0))
    image = torch.zeros(16, 16)
    image[5:11, 4:9] = 1
    found = families.kaczmarz(beams, beams.forward(image), sweeps=60)
    filtered = beams.filtered_back_projection(beams.forward(image))
    assert (found - image).norm() < min(0.15 * image.norm(), 0.5 * (filtered - image).norm())
