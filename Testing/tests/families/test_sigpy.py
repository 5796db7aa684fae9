"""Operators and solvers without learning agree with SigPy's; skipped where it is not installed.

SigPy (Ong and Lustig, ISMRM 2019) minimises |A x - b|^2 / 2 + its priors, half of what is minimised
here: a weight here is twice its lambda.
"""

import numpy as np
import pytest
import torch

from NetInversionLib import families

sigpy = pytest.importorskip("sigpy", reason="pip install sigpy")
mri = pytest.importorskip("sigpy.mri")

SHAPE, COILS = (16, 16), 4
DAMPING = 0.05
WEIGHT = 0.04
ITERATIONS = 3000
"""Of SigPy's primal-dual method, which is slow to the last digits."""


@pytest.fixture(scope="module")
def scan():
    """(our operator, SigPy's, measurements): k-space of four coils, half of its lines measured."""
    rng = np.random.default_rng(0)
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    turns = np.exp(2j * np.pi * rng.random(COILS))
    places = [(-1, -1), (-1, 1), (1, -1), (1, 1)]
    coils = np.stack(
        [t * np.exp(-((x - a) ** 2 + (y - b) ** 2) / 3) for t, (a, b) in zip(turns, places)]
    )
    mask = np.zeros(SHAPE)
    mask[rng.permutation(16)[:8]] = 1
    mask[7:9] = 1
    truth = ((x**2 + y**2 < 0.6) + 0.5 * (np.abs(x - 0.2) < 0.3)) * np.exp(1j * x)
    theirs = mri.linop.Sense(coils, weights=mask)
    noise = rng.normal(size=(2, COILS, *SHAPE)) * 0.02
    measured = theirs(truth) + mask * (noise[0] + 1j * noise[1])
    ours = families.Coils(torch.from_numpy(coils), torch.from_numpy(mask))
    return ours, theirs, measured


def far(found, expected):
    return np.linalg.norm(found.numpy() - expected) / np.linalg.norm(expected)


def differences():
    """SigPy's operator of differences to the next voxel, without those across the border."""
    ends = (slice(1, None), slice(None, -1))
    whole = slice(None)
    down, right = (
        sigpy.linop.Slice(SHAPE, next_) + -1 * sigpy.linop.Slice(SHAPE, this)
        for next_, this in (
            ((ends[0], whole), (ends[1], whole)),
            ((whole, ends[0]), (whole, ends[1])),
        )
    )
    return sigpy.linop.Vstack([down, right])


def solved(theirs, measured, **more):
    return sigpy.app.LinearLeastSquares(theirs, measured, show_pbar=False, **more).run()


def test_kspace_of_coils_and_its_adjoint_are_sigpys(scan):
    ours, theirs, measured = scan
    image = np.random.default_rng(1).normal(size=(2, *SHAPE))
    image = image[0] + 1j * image[1]
    assert far(ours.forward(torch.from_numpy(image)), theirs(image)) < 1e-5
    assert far(ours.adjoint(torch.from_numpy(measured)), theirs.H(measured)) < 1e-5


def test_least_squares_and_tikhonov_are_sigpys(scan):
    ours, theirs, measured = scan
    given = torch.from_numpy(measured)
    expected = solved(theirs, measured, lamda=DAMPING, max_iter=400)
    assert far(families.cgnr(ours, given, 400, DAMPING, 1e-9), expected) < 1e-3
    # What nobody measured stays 0 from there: all of these reach the same image.
    plain = solved(theirs, measured, max_iter=ITERATIONS, solver="ConjugateGradient")
    assert far(families.cgnr(ours, given, 400, 0.0, 1e-9), plain) < 1e-3
    # Landweber's steps are those of SigPy's gradient method, on the way too.
    step = 0.9 / ours.norm() ** 2
    more = {"alpha": step, "accelerate": False, "max_iter": 200}
    stepped = solved(theirs, measured, solver="GradientMethod", **more)
    assert far(families.landweber(ours, given, 200, step), stepped) < 1e-3


def priors(name):
    """(ours, SigPy's operator in the prior, its proximal map) of a prior by its name."""
    identity = families.Sparse(WEIGHT, families.Identity(SHAPE))
    l1 = sigpy.prox.L1Reg(SHAPE, WEIGHT / 2)
    steps = differences()
    edges = families.Sparse(WEIGHT, families.Gradient(SHAPE))
    l1_of_edges = sigpy.prox.L1Reg(steps.oshape, WEIGHT / 2)
    if name == "L1":
        return [identity], None, l1
    if name == "wavelets":
        haar = sigpy.linop.Wavelet(SHAPE, wave_name="haar", level=3)
        wavelets = sigpy.prox.L1Reg(haar.oshape, WEIGHT / 2)
        transformed = sigpy.prox.UnitaryTransform(wavelets, haar)
        return [families.Sparse(WEIGHT, families.Haar(SHAPE, 3))], None, transformed
    if name == "total variation":
        return [edges], steps, l1_of_edges
    flat = sigpy.linop.Reshape((SHAPE[0] * SHAPE[1],), SHAPE)
    both = sigpy.linop.Vstack([flat, steps])
    stacked = sigpy.prox.Stack([sigpy.prox.L1Reg(flat.oshape, WEIGHT / 2), l1_of_edges])
    return [identity, edges], both, stacked


@pytest.mark.parametrize("name", ["L1", "wavelets", "total variation", "fused lasso"])
def test_sparse_priors_reach_what_sigpy_finds(scan, name):
    operator, theirs, measured = scan
    ours, transform, proximal = priors(name)
    given = torch.from_numpy(measured)
    expected = solved(theirs, measured, proxg=proximal, G=transform, max_iter=ITERATIONS)
    found = families.admm(operator, given, ours, 0.3, iterations=800, inner=20)
    assert far(found, expected) < 1e-3
    if transform is None:
        assert far(families.fista(operator, given, ours[0], 1500), expected) < 1e-3
    assert far(families.cgnr(operator, given), expected) > 0.02  # the prior does something
