"""The edge map: where order says that there is an edge.

Curves, fields and scale do not move it, and it is empty in air.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from toy_brains import made_up_brain

from NetInversionLib.core import files, volumes
from NetInversionLib.harmonize import scan as harmonize_scan
from NetInversionLib.harmonize import simulated_scanners, slices
from NetInversionLib.harmonize.edges import edge_map

SPACING = (2.0, 2.0, 2.0)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_step_is_found_and_flat_noise_is_not():
    rng = np.random.default_rng(1)
    image = np.where(np.arange(24)[:, None, None] < 12, 0.4, 0.8) + rng.normal(
        0, 0.02, (24, 24, 24)
    )
    edges = edge_map(image, np.ones(image.shape, bool), SPACING)
    inner = edges[4:-4, 4:-4, 4:-4]
    step = np.r_[11 - 4, 12 - 4]
    assert inner[step].min() > 0.7
    assert np.delete(inner, step, 0).mean() < 0.02


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_strictly_monotone_curves_change_nothing(seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 50, (9, 10, 11)).astype(np.float32)
    mask = ndimage.binary_dilation(rng.random(image.shape) < 0.1)
    curve = np.cumsum(rng.uniform(0.01, 5, 50)) + rng.normal(0, 100)
    changed = curve[image.astype(int)]
    assert np.array_equal(edge_map(image, mask, SPACING), edge_map(changed, mask, SPACING))


def test_values_outside_the_mask_do_not_matter_and_have_no_edges():
    image, mask = made_up_brain()
    edges = edge_map(image, mask, SPACING)
    noisy = np.where(mask, image, np.random.default_rng(0).uniform(0, 9, image.shape))
    assert np.array_equal(edges, edge_map(noisy, mask, SPACING))
    assert (
        not edges[~mask].any()
        and 0 <= edges.min()
        and edges.max() <= 1
        and edges.dtype == np.float32
    )


def test_brain_surface_is_an_edge():
    mask = np.zeros((20, 20, 20), bool)
    mask[5:15, 5:15, 5:15] = True
    edges = edge_map(mask.astype(float), mask, SPACING)
    faces = np.zeros_like(mask)
    for axis in range(3):
        ends = np.moveaxis(faces, axis, 0)
        ends[[5, 14], 6:14, 6:14] = True
    assert (edges[faces] > 0.7).all() and not edges[7:13, 7:13, 7:13].any()


def test_turned_image_has_turned_edges():
    image, mask = made_up_brain(2, 24)
    edges = edge_map(image, mask, SPACING)
    for axes in ((2, 1, 0), (1, 2, 0)):
        assert np.allclose(
            edge_map(image.transpose(axes), mask.transpose(axes), SPACING),
            edges.transpose(axes),
            atol=1e-6,
        )
    assert np.allclose(edge_map(image[::-1], mask[::-1], SPACING), edges[::-1], atol=1e-6)


def test_finer_grid_finds_the_same_edges():
    image, mask = made_up_brain(3, 32)
    fine = [np.kron(a, np.ones((2, 2, 2), a.dtype)) for a in (image, mask)]
    edges = edge_map(*fine, (1.0, 1.0, 1.0))[::2, ::2, ::2]
    assert dice(edges > 0.5, edge_map(image, mask, SPACING) > 0.5) > 0.9


@pytest.mark.parametrize("domain", simulated_scanners.parse(), ids=lambda d: d.name)
def test_fields_and_curves_leave_edges_of_a_made_up_brain(domain):
    image, mask = made_up_brain()
    volume = volumes.Volume(image, np.diag([2.0, 2.0, 2.0, 1.0]), "ball")
    scan = harmonize_scan.prepare(volume)
    before, after = (edge_map(s.image, s.mask, SPACING) > 0.5 for s in (scan, domain(scan)))
    assert 0.1 < before[scan.mask].mean() < 0.9
    assert dice(before, after) >= 0.95


def test_every_simulated_family_leaves_edges_of_a_real_brain(data):
    scan = harmonize_scan.prepare(files.load(data / "brain_t1" / "site_a" / "sub-25.nii.gz"))

    def edges(s):
        grid = slices.on_grid(s, 2.0)
        return edge_map(grid.image, grid.mask, grid.volume.spacing_mm) > 0.5

    before = edges(scan)
    found = {
        domain.name: dice(before, edges(domain(scan))) for domain in simulated_scanners.parse()
    }
    assert min(found.values()) >= 0.95, found


def test_odd_sizes_and_bad_input():
    assert not edge_map(np.ones((3, 3, 3)), np.zeros((3, 3, 3), bool), SPACING).any()
    assert edge_map(np.ones((1, 2, 1)), np.ones((1, 2, 1), bool), (1.0, 1.0, 5.0)).shape == (
        1,
        2,
        1,
    )
    for image, mask in (
        (np.ones((3, 3)), np.ones((3, 3), bool)),
        (np.ones((3, 3, 3)), np.ones((3, 3, 4), bool)),
    ):
        with pytest.raises(ValueError, match="3-D and of one size"):
            edge_map(image, mask, SPACING)
