"""Linear operators: exact adjoints, agreement with scikit-image and NumPy, null space and range."""

import numpy as np
import pytest
import torch
from skimage.transform import radon

from NetInversionLib import families

SIDE = 16


def mask(generator, shape=(SIDE, SIDE)):
    return (torch.rand(shape, generator=generator) < 0.4).float()


def sensitivities(generator):
    return torch.randn(3, SIDE, SIDE, dtype=torch.complex64, generator=generator)


OPERATORS = {
    "matrix": lambda g: families.Matrix(torch.randn(7, 12, generator=g)),
    "complex matrix": lambda g: families.Matrix(
        torch.randn(7, 12, dtype=torch.complex64, generator=g)
    ),
    "k-space": lambda g: families.Fourier(mask(g)),
    "k-space of frames": lambda g: families.Fourier(mask(g, (2, 8, 9))),
    "k-space, odd sides": lambda g: families.Fourier(mask(g, (15, 13))),
    "coils": lambda g: families.Coils(sensitivities(g), mask(g)),
    "parallel beams": lambda g: families.ParallelBeam(SIDE, torch.arange(0, 180, 30.0)),
    "blur": lambda g: families.Blur(torch.rand(3, 5, generator=g), (SIDE, 18)),
    "coarse": lambda g: families.Coarse(2, (SIDE, 18)),
    "coarse volume": lambda g: families.Coarse(3, (6, 9, 12)),
    "identity": lambda g: families.Identity((5, 6)),
    "gradient": lambda g: families.Gradient((5, 7)),
    "wavelets": lambda g: families.Haar((SIDE, 24), 3),
}


@pytest.fixture(params=OPERATORS)
def operator(request):
    return OPERATORS[request.param](torch.Generator().manual_seed(0))


def random(operator, shape, batch=(2,), seed=1):
    dtype = torch.complex64 if operator.complex_image else torch.float32
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((*batch, *shape), dtype=dtype, generator=generator)


def dot(a, b):
    return (a.conj() * b).sum()


def test_the_adjoint_is_exact(operator):
    image, measured = (random(operator, s) for s in (operator.image_shape, operator.measured_shape))
    forward, adjoint = operator.forward(image), operator.adjoint(measured)
    assert forward.shape == measured.shape and adjoint.shape == image.shape
    size = forward.norm() * measured.norm()
    assert abs(dot(forward, measured) - dot(image, adjoint)) <= 1e-5 * size


def test_a_batch_is_its_images_one_by_one(operator):
    image = random(operator, operator.image_shape, (2, 3))
    together = operator.forward(image)
    alone = torch.stack([torch.stack([operator.forward(x) for x in row]) for row in image])
    assert torch.allclose(together, alone, atol=1e-5)


def test_gradients_are_the_adjoint(operator):
    image = random(operator, operator.image_shape).requires_grad_()
    measured = random(operator, operator.measured_shape)
    dot(measured, operator.forward(image)).real.backward()
    assert torch.allclose(image.grad, operator.adjoint(measured), rtol=1e-4, atol=1e-4)


def test_an_image_splits_into_what_is_seen_and_what_is_not(operator):
    image = random(operator, operator.image_shape)
    image = image.to(torch.promote_types(image.dtype, torch.float64))
    seen, hidden = families.split(operator, image, iterations=2000, tolerance=1e-9)
    whole = operator.forward(image)
    assert operator.forward(hidden).norm() <= 1e-4 * whole.norm()
    assert (operator.forward(seen) - whole).norm() <= 1e-4 * whole.norm()
    assert abs(dot(seen, hidden)) <= 1e-4 * image.norm() ** 2
    # Only where something is hidden does the scanner lose it.
    dense = dense_matrix(operator)
    rank = np.linalg.matrix_rank(dense, tol=1e-4 * np.linalg.norm(dense, 2))
    assert (hidden.norm() > 1e-2 * image.norm()) == (rank < dense.shape[1])


def dense_matrix(operator):
    """The operator's matrix, column by column, in float64."""
    basis = torch.eye(int(np.prod(operator.image_shape)))
    basis = basis.to(torch.complex64 if operator.complex_image else torch.float32)
    columns = operator.forward(basis.reshape(-1, *operator.image_shape))
    return columns.reshape(len(basis), -1).T.numpy().astype(complex)


def test_the_hidden_part_is_the_null_space_of_the_matrix(operator):
    dense = dense_matrix(operator)
    strengths = np.linalg.svd(dense, compute_uv=False)
    seen = strengths[strengths > 1e-5 * strengths[0]]
    if seen[-1] < 0.02 * seen[0]:
        pytest.skip("float32 weights cannot tell what is hidden from what is faint")
    image = random(operator, operator.image_shape, ())
    image = image.to(torch.promote_types(image.dtype, torch.float64))
    _seen, hidden = families.split(operator, image, iterations=3000, tolerance=1e-9)
    flat = image.reshape(-1).numpy()
    expected = flat - np.linalg.pinv(dense, rcond=1e-5) @ (dense @ flat)
    assert np.linalg.norm(hidden.reshape(-1).numpy() - expected) <= 1e-4 * np.linalg.norm(flat)


def test_the_norm_is_the_largest_singular_value(operator):
    largest = np.linalg.norm(dense_matrix(operator), 2)
    assert 0.97 * largest <= operator.norm() <= 1.0001 * largest


@pytest.mark.parametrize("name", [name for name in OPERATORS if "k-space" in name])
def test_kspace_is_numpys(name):
    operator = OPERATORS[name](torch.Generator().manual_seed(0))
    image = random(operator, operator.image_shape, ())
    numpys = np.fft.ifftshift(image.numpy(), (-2, -1))
    numpys = np.fft.fftshift(np.fft.fft2(numpys, norm="ortho"), (-2, -1)) * operator.mask.numpy()
    assert np.allclose(operator.forward(image).numpy(), numpys, atol=1e-4)


def test_beams_are_those_of_scikit_image_and_are_inverted_by_filtering():
    y, x = np.mgrid[:64, :64] - 31.5
    disc = (np.hypot(x - 8, y + 5) < 14).astype(np.float32) + (np.hypot(x + 9, y) < 7)
    angles = torch.arange(0, 180, 2.0)
    beams = families.ParallelBeam(64, angles)
    image = torch.from_numpy(disc.astype(np.float32))
    sinogram = beams.forward(image)
    assert torch.allclose(sinogram.sum(-1), image.sum().expand(90), rtol=1e-4)  # nothing is lost
    # A disc's shadow in closed form: chords of 2 sqrt(r^2 - s^2) around its centre's shadow.
    radians = np.deg2rad(angles.numpy())[:, None]
    s = np.arange(beams.detectors) - (beams.detectors - 1) / 2
    expected = sum(
        2
        * np.sqrt(np.clip(r**2 - (s - (cx * np.cos(radians) + cy * np.sin(radians))) ** 2, 0, None))
        for cx, cy, r in ((8, -5, 14), (-9, 0, 7))
    )
    error = np.linalg.norm(sinogram.numpy() - expected) / np.linalg.norm(expected)
    theirs = radon(disc, angles.numpy(), circle=False).T
    assert error < 0.05 and abs(theirs.sum() / float(sinogram.sum()) - 1) < 0.02
    back = beams.filtered_back_projection(sinogram)
    inside = torch.from_numpy(np.hypot(x - 8, y + 5) < 11)
    assert back[inside].mean() == pytest.approx(1, abs=0.03)
    assert (back - image).norm() < 0.25 * image.norm()  # edges ring


def test_wavelets_and_identity_keep_lengths_and_constants_have_no_gradient():
    image = torch.randn(3, SIDE, 24)
    wavelets = families.Haar((SIDE, 24), 3)
    coefficients = wavelets.forward(image)
    assert torch.allclose(wavelets.adjoint(coefficients), image, atol=1e-5)
    assert float(coefficients.norm()) == pytest.approx(float(image.norm()), rel=1e-5)
    flat = wavelets.forward(torch.ones(SIDE, 24))
    assert flat[2:].abs().max() < 1e-5 and flat[:, 3:].abs().max() < 1e-5
    assert families.Gradient((5, 6)).forward(torch.ones(5, 6)).abs().max() == 0
