"""Free-form refinement: closed forms, autograd's gradients, slices and orientations.

The closed forms are those with volume-preserving flows.
"""

import pytest
import torch

from NetInversionLib.harmonize.free_form import (
    SMOOTH_ABS,
    drawn,
    gradient_of_edges,
    gradient_of_ncc,
    refine,
)
from NetInversionLib.harmonize.settings import Settings
from NetInversionLib.networks.flow import ConditionalFlow

SHAPE = (5, 9, 14)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def images():
    """Start, source, edge map, mask with an empty slice in front."""
    mask = torch.rand(SHAPE) > 0.2
    mask[0] = False
    return torch.rand(SHAPE), torch.rand(SHAPE), (torch.rand(SHAPE) > 0.7).float(), mask


def rotation_flow():
    """An untrained flow, whose latents are x, rotated.

    Every coupling is the identity and every mixing a rotation.
    """
    return ConditionalFlow(steps=2, levels=2, features=(4, 4), hidden=4).eval()


def trained_like_flow():
    flow = rotation_flow()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return flow


def settings(**changes):
    return Settings(
        mode="published",
        **{"alpha": 0.1, "beta_edges": 0.0, "beta_similarity": 0.0, "iterations": 3, **changes},
    )


def test_shrinking_the_latents_of_a_rotation_shrinks_the_image():
    start, source, edges, mask = images()
    found = refine(
        start,
        source,
        edges,
        torch.ones_like(mask),
        rotation_flow(),
        settings(orientations=("axial",)),
    )
    # Odd sizes are padded with zeros, which a rotation of each 2 x 2 block and its features leaves
    # at zero on average only where whole blocks lie inside: compare there.
    torch.testing.assert_close(found[:, :8, :12], 0.9**3 * start[:, :8, :12], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("orientation", ["axial", "coronal", "sagittal"])
def test_without_steps_a_flow_gives_the_image_back(orientation):
    start, source, edges, mask = images()
    found = refine(
        start,
        source,
        edges,
        mask,
        trained_like_flow(),
        settings(alpha=0.0, orientations=(orientation,)),
    )
    torch.testing.assert_close(found, start, rtol=0, atol=1e-4)


def test_what_lies_outside_the_mask_stays():
    start, source, edges, mask = images()
    found = refine(
        start,
        source,
        edges,
        mask,
        trained_like_flow(),
        settings(beta_edges=0.1, beta_similarity=0.1),
    )
    assert torch.equal(found[~mask], start[~mask]) and not torch.allclose(
        found[mask], start[mask], atol=1e-2
    )


def test_three_orientations_are_the_average_of_each():
    start, source, edges, mask = images()
    flow = trained_like_flow()
    each = [
        refine(start, source, edges, mask, flow, settings(orientations=(name,)))
        for name in ("axial", "coronal", "sagittal")
    ]
    torch.testing.assert_close(refine(start, source, edges, mask, flow, settings()), sum(each) / 3)


def test_latents_are_drawn_to_the_typical_radius():
    latents = [3 * torch.randn(2, 4, 5, 5), 0.1 * torch.randn(2, 8, 2, 2)]
    radius = torch.tensor([1.0, 0.5])
    for z in drawn(latents, 1.0, radius):
        expected = 1.0 if z.shape[1] == 4 else 0.5
        torch.testing.assert_close(z.square().mean((1, 2, 3)).sqrt(), torch.full((2,), expected))
    for before, after, typical in zip(latents, drawn(latents, 0.25, radius), radius):
        rms = before.square().mean((1, 2, 3)).sqrt()
        torch.testing.assert_close(
            after.square().mean((1, 2, 3)).sqrt(), 0.75 * rms + 0.25 * typical
        )


def test_the_direction_of_similarity_is_the_gradient_of_ncc():
    start, source, _, mask = images()
    x, source, mask = (
        image[:, None].double() if image.is_floating_point() else image[:, None]
        for image in (start, source, mask)
    )
    x.requires_grad_()
    a, b = x[mask] - x[mask].mean(), source[mask] - source[mask].mean()
    expected = (a * b).sum() / (a.norm() * b.norm())
    (slope,) = torch.autograd.grad(expected, x)
    ncc, direction = gradient_of_ncc(x.detach(), source, mask)
    torch.testing.assert_close(ncc, expected.detach())
    torch.testing.assert_close(direction, slope * mask.sum() * x[mask].std(unbiased=False).detach())


def test_the_direction_against_edges_is_the_gradient_of_their_sum():
    x = torch.rand(3, 1, 7, 8, dtype=torch.float64, requires_grad=True)
    quiet = torch.rand(3, 1, 7, 8) > 0.3
    total = 0
    for axis in (2, 3):
        n = x.shape[axis]
        both = quiet.narrow(axis, 1, n - 1) & quiet.narrow(axis, 0, n - 1)
        total = total + ((x.diff(dim=axis) ** 2 + SMOOTH_ABS**2).sqrt() * both).sum()
    (slope,) = torch.autograd.grad(total, x)
    torch.testing.assert_close(gradient_of_edges(x.detach(), quiet), slope)


def test_without_a_flow_similarity_rises_and_noise_between_edges_falls():
    """The ablation draws a noisy, brightened copy of a step image back to it.

    It does not touch the step.
    """
    source = torch.zeros(4, 16, 16)
    source[:, :, 8:] = 1
    edges = torch.zeros_like(source)
    edges[:, :, 7:9] = 1
    mask = torch.ones_like(source, dtype=torch.bool)
    start = 0.8 * source + 0.1 * torch.randn(source.shape)
    seen = []
    found = refine(
        start,
        source,
        edges,
        mask,
        None,
        settings(beta_similarity=0.2, beta_edges=0.02, iterations=20),
        step=lambda orientation, iteration, ncc: seen.append(ncc),
    )
    assert seen[19] > seen[0] and seen[19] > 0.99
    flat = edges[0, 0] == 0
    assert (
        found[..., flat].diff(dim=1).abs().mean() < 0.5 * start[..., flat].diff(dim=1).abs().mean()
    )
    assert (found[..., 8] - found[..., 7]).mean() > 0.7 * 0.8


def test_the_same_settings_give_the_same_bits():
    start, source, edges, mask = images()
    flow = trained_like_flow()
    runs = [
        refine(start, source, edges, mask, flow, settings(beta_edges=0.05, beta_similarity=0.1))
        for _ in range(2)
    ]
    assert torch.equal(*runs)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"mode": "gan"}, "mode must be one of"),
        ({"output_range": "8 bit"}, "output_range"),
        ({"strength": 1.5}, "strength"),
        ({"alpha": 1.0}, "alpha"),
        ({"iterations": 0}, "iterations"),
        ({"beta_edges": -1.0}, "beta_edges"),
        ({"orientations": ()}, "empty"),
        ({"orientations": ("oblique",)}, "oblique"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Settings(**wrong)


def test_settings_come_from_json():
    assert Settings.from_json({"orientations": ["axial"]}).orientations == ("axial",)
    with pytest.raises(ValueError, match="unknown settings: tone"):
        Settings.from_json({"tone": 1})
