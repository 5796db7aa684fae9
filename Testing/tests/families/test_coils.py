"""Several coils: what is simulated, and the network, against closed forms."""

import numpy as np
import pytest
import torch
from toy_slices import SIDE, heads, small

from NetInversionLib import networks
from NetInversionLib.families import analysis, coils, kspace, quality, rows
from NetInversionLib.networks import fourier, varnet
from NetInversionLib.networks.fourier import centred_fft

SCANNER = {"acceleration": 4.0, "centre": 0.15, "noise": 0.01}


def a_scan(**chosen):
    return coils.coil_scan(heads(2), np.random.default_rng(1), **{**SCANNER, **chosen})


@pytest.mark.parametrize("see", [coils.bells, coils.birdcage])
def test_coils_see_different_parts_and_together_all(see):
    seen = see((SIDE, SIDE), np.random.default_rng(0))
    assert seen.shape == (coils.COILS, SIDE, SIDE)
    assert np.allclose((np.abs(seen) ** 2).sum(0), 1)
    brightest = {int(np.abs(one).argmax()) for one in seen}
    assert len(brightest) == coils.COILS
    steps = [np.abs(np.diff(seen, axis=axis)).max() for axis in (1, 2)]
    assert 0 < max(steps) < 0.5


def test_a_complete_scan_without_noise_is_the_image():
    scan = a_scan(acceleration=1.0, centre=1.0, noise=0.0)
    assert np.allclose(scan.image, heads(2), atol=1e-5)
    assert torch.allclose(coils.zero_filled(scan), scan.image, atol=1e-5)


def test_an_input_holds_kspace_and_mask():
    scan = a_scan()
    measured, mask = varnet.in_coils(scan.given)
    assert torch.allclose(measured, scan.measured, atol=1e-5) and torch.equal(mask, scan.mask)


def test_middle_lines_are_those_that_hang_together():
    mask = torch.tensor([[1, 0, 1, 1, 1, 0, 1, 1], [1, 1, 1, 1, 0, 1, 1, 1]])
    found = fourier.middle_lines(mask[:, :, None].expand(-1, -1, 3).float())
    assert found[0, :, 0].tolist() == [0, 0, 1, 1, 1, 0, 0, 0]
    assert found[1].sum() == 0  # the middle one itself is not measured


def test_what_coils_see_is_estimated_from_the_middle():
    """Of an image without edges, the middle lines alone say it all."""
    one = torch.ones(1, SIDE, SIDE, dtype=torch.complex64)
    seen = torch.from_numpy(coils.bells((SIDE, SIDE), np.random.default_rng(0))).to(one.dtype)
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, SIDE // 2 - 8 : SIDE // 2 + 8] = 1
    scan = coils.measured_scan(seen[None] * one, mask)
    network = networks.build("varnet", features=[2, 4], width=2, depth=2)
    with torch.no_grad():
        found = network.sensitivities(scan.measured, mask)
    assert torch.allclose(found.abs().square().sum(1), torch.tensor(1.0), atol=1e-4)
    inner = slice(6, -6)
    assert (found - seen)[..., inner, inner].abs().max() < 0.1


def test_training_begins_with_the_zero_filled_image_and_its_lines_stay():
    scan = a_scan()
    network = networks.build("varnet", **rows.row("varnet").smaller)
    with torch.no_grad():
        found = coils.SeveralCoils().made(network, scan)
        images = network.coil_images(scan.measured, scan.mask)
    assert torch.allclose(found, coils.zero_filled(scan), atol=1e-4)
    assert torch.allclose(scan.mask[:, None] * centred_fft(images), scan.measured, atol=1e-4)


def test_what_was_not_measured_is_not_looked_at_and_scans_do_not_see_each_other():
    network, scan = small(rows.row("varnet")), a_scan()
    other = scan.measured + (1 - scan.mask[:, None]) * 7
    with torch.no_grad():
        expected = network(scan.given)
        found = network(coils.given(other, scan.mask))
        alone = torch.cat([network(one[None]) for one in scan.given])
    assert expected.shape == (2, 1, SIDE, SIDE)
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(alone, expected, atol=1e-5)


def test_total_variation_undoes_some_of_the_under_sampling():
    scan = coils.coil_scan(heads(1), np.random.default_rng(1), **SCANNER, judged=True)
    (found,) = quality.psnr(coils.total_variation(scan), scan.image)
    (before,) = quality.psnr(coils.zero_filled(scan), scan.image)
    assert found > before + 1


def test_lines_of_all_coils_are_asked_together():
    scan, network = a_scan(), small(rows.row("varnet"))
    reconstruct = analysis.of_coils(network)
    with torch.no_grad():
        answers = analysis.line_answers(reconstruct, scan)
        (best, _) = analysis.ideal_acquisition(reconstruct, scan, 1)
        known = kspace.Scan(scan.coil_images, scan.measured, scan.mask, scan.complete)
        images = network.coil_images(scan.measured, scan.mask)
        told = analysis.hallucination(known, images)
    assert torch.equal(answers > 0, scan.mask[:, :, 0] > 0)
    assert best.lines[0] in (scan.mask[0, :, 0] == 0).nonzero()[:, 0].tolist()
    assert best.gains[0] >= max(best.usual, best.any)
    assert all(0 < one.error < 2 and 0 <= one.hidden <= 1 for one in told)
