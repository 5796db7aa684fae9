"""Low-dose simulation: projections of disks, scikit-image's radon, and the variance.

The projections are compared with a closed form, the variance with what the formula says.
"""

import math
import time

import numpy as np
import pytest
import timing
import torch
from skimage.transform import iradon, radon
from toy_models import LPS, random_matrix

from NetInversionLib.core import files, volumes
from NetInversionLib.core.volumes import Volume
from NetInversionLib.invariances import low_dose
from NetInversionLib.invariances.low_dose import (
    LowDoseSettings,
    back_project,
    exposed,
    line_integrals,
    noise_image,
    noise_images,
    project,
    projection_noise,
    simulate_low_dose,
    spread_over,
)


def disk(size, spacing, radius, centre=(0.0, 0.0)):
    """1 inside, in mm from the middle; smooth at the rim by 4 x 4 samples per voxel."""
    j, i = ((np.arange(4 * n) - (4 * n - 1) / 2) * s / 4 for n, s in zip(size, spacing[::-1]))
    inside = np.hypot(i[None] - centre[0], j[:, None] - centre[1]) < radius
    return torch.from_numpy(inside.reshape(size[0], 4, size[1], 4).mean((1, 3)).astype(np.float32))


def chord(offsets, radius):
    return 2 * np.sqrt(np.maximum(radius**2 - offsets**2, 0))


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.7, 1.1)])
@pytest.mark.parametrize("centre", [(0.0, 0.0), (9.0, -6.0)])
def test_a_disk_s_line_integrals_are_its_chords(spacing, centre):
    size, angles = (90, 84), torch.tensor([0.0, 0.4, math.pi / 2, 2.5])
    found = project(disk(size, spacing, 20, centre)[None], spacing, angles)[0].numpy()
    count, width = low_dose.detectors(size, spacing)
    offsets = width * (np.arange(count) - (count - 1) / 2)
    for row, theta in zip(found, angles.numpy()):
        expected = chord(offsets - centre[0] * np.cos(theta) - centre[1] * np.sin(theta), 20)
        assert np.abs(row - expected).mean() < 0.01 * expected.max()
        assert np.abs(row - expected).max() < 0.12 * expected.max()  # steep at the rim


def test_coarse_line_integrals_are_those_of_the_disk():
    size, spacing, views = (131, 122), (1.0, 1.0), 40
    found = line_integrals(disk(size, spacing, 40, (5.0, -7.0))[None], spacing, views)[0].numpy()
    count, width = low_dose.detectors(size, spacing)
    offsets = width * (np.arange(count) - (count - 1) / 2)
    theta = np.pi * np.arange(views)[:, None] / views
    expected = chord(offsets[None] - 5 * np.cos(theta) + 7 * np.sin(theta), 40)
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < 0.02 * expected.max()


def test_back_projection_agrees_with_scikit_image():
    """The same projections through both, without and with the Hann window."""
    image = disk((97, 97), (1.0, 1.0), 25, (8.0, 5.0)) + 0.5 * disk(
        (97, 97), (1.0, 1.0), 8, (-15.0, -12.0)
    )
    views = 180
    angles = math.pi * torch.arange(views) / views
    projections = project(image[None], (1.0, 1.0), angles)
    for window, cutoff in (("ramp", 0.0), ("hann", 1.0)):
        ours = back_project(projections, (97, 97), (1.0, 1.0), angles, cutoff)[0].numpy()
        theirs = iradon(
            projections[0].numpy().T, np.degrees(angles.numpy()), filter_name=window, circle=True
        )
        middle = (len(theirs) - 97) // 2
        # Its axes: rows downward with the angle turning the other way.
        theirs = theirs[::-1][middle : middle + 97, middle : middle + 97]
        inner = np.hypot(*np.mgrid[-48:49, -48:49]) < 42
        assert np.corrcoef(ours[inner], theirs[inner])[0, 1] > 0.995
        assert abs(ours[inner] - theirs[inner]).mean() < 0.02


def test_projections_agree_with_scikit_image():
    image = disk((64, 64), (1.0, 1.0), 12, (9.0, 4.0))
    degrees = np.array([0.0, 30, 75, 120])
    theirs = radon(image.numpy()[::-1], degrees, circle=True).T
    ours = project(image[None], (1.0, 1.0), torch.from_numpy(np.radians(degrees)))[0].numpy()
    start = (ours.shape[1] - 64) / 2
    ours = np.stack(
        [np.interp(np.arange(64) + start, np.arange(ours.shape[1]), row) for row in ours]
    )
    assert np.abs(ours - theirs).mean() < 0.03 * theirs.max()


def test_there_and_back_gives_the_image():
    image = disk((80, 70), (0.8, 1.0), 18, (4.0, 3.0))
    angles = math.pi * torch.arange(240) / 240
    found = back_project(
        project(image[None], (0.8, 1.0), angles), (80, 70), (0.8, 1.0), angles, 1.0
    )[0]
    assert found[30:50, 30:45].mean() == pytest.approx(1, abs=0.02)
    assert (found - image).abs().mean() < 0.03


@pytest.mark.parametrize("dose, electronic", [(0.25, 0.0), (0.1, 30.0), (0.9, 10.0)])
def test_the_noise_of_a_line_integral_has_the_variance_that_is_missing(dose, electronic):
    settings = LowDoseSettings(dose=dose, photons=1e5, electronic=electronic)
    generator = torch.Generator().manual_seed(0)
    for p in (0.0, 1.0, 2.5):  # at still fewer photons the logarithm's curvature adds to it
        noise = projection_noise(torch.full((200_000,), p), settings, generator)

        def variance(share):
            photons = 1e5 * share * math.exp(-p)
            return 1 / photons + (electronic / photons) ** 2

        assert float(noise.var()) == pytest.approx(variance(dose) - variance(1.0), rel=0.03)
        assert abs(float(noise.mean())) < 0.02 * float(noise.std()) + 1 / (
            1e5 * dose * math.exp(-p)
        )


def water(size=72, slices=2, matrix=LPS):
    hu = np.full((slices, size, size), -1000, np.float32)
    hu[:, np.hypot(*np.mgrid[-35.5:36, -35.5:36]) < 28] = 0
    return Volume(hu, matrix, "phantom", "HU")


def test_noise_in_hu_grows_as_dose_falls_and_the_mean_stays():
    """Without electronic noise the added deviation goes as sqrt(1/a - 1), whatever the object."""
    phantom, deviation = water(), {}
    for dose in (0.5, 0.1):
        settings = LowDoseSettings(dose=dose, electronic=0.0, views=120, photons=1e5)
        change = simulate_low_dose(phantom, settings).array - phantom.array
        inside = change[:, 26:46, 26:46]
        deviation[dose] = inside.std()
        assert abs(inside.mean()) < 0.2 * inside.std()
    assert deviation[0.1] / deviation[0.5] == pytest.approx(math.sqrt(9 / 1), rel=0.1)


def test_fresh_noise_of_a_window_is_that_of_the_slice_and_has_all_of_the_variance():
    hu = torch.from_numpy(water(slices=1).array[0])
    settings = LowDoseSettings(dose=0.5, electronic=0.0, views=60, photons=1e5)
    source = low_dose.FreshNoise(hu, (1.0, 1.0), settings)
    window = slice(20, 50), slice(30, 44)
    whole, part = (
        source.draw(3, torch.Generator().manual_seed(1), *where) for where in ((), (window,))
    )
    assert part.shape == (3, 30, 14)
    torch.testing.assert_close(part, whole[(slice(None), *window)])
    assert not torch.equal(part[0], part[1])
    # At half the dose, half of the variance is in the image already: all of it is twice what is
    # added.
    many = source.draw(40, torch.Generator().manual_seed(2), window)
    added = low_dose.noise_image(
        hu.expand(40, -1, -1), (1.0, 1.0), settings, torch.Generator().manual_seed(3)
    )
    assert float(many.var() / added[(slice(None), *window)].var()) == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("spacing, noise_hu", [(1.0, 20.0), (4.0, 20.0), (4.0, 60.0)])
def test_exposure_control_gives_thin_and_thick_bodies_the_noise_asked_for(spacing, noise_hu):
    hu = torch.from_numpy(water(slices=1).array)
    settings = exposed(hu, (spacing, spacing), LowDoseSettings(dose=0.25, views=60), noise_hu)
    noise = noise_image(hu, (spacing, spacing), settings, torch.Generator().manual_seed(7))
    assert float(noise[hu > -500].std()) == pytest.approx(noise_hu, rel=0.15)
    assert (settings.dose, settings.views) == (0.25, 60)


def test_images_made_together_are_those_made_one_by_one():
    hu = torch.stack([head(64 + n) for n in range(11)])
    doses = [LowDoseSettings(dose=0.05 + 0.05 * n, views=40) for n in range(11)]
    one, all_ = (torch.Generator().manual_seed(7) for _ in range(2))
    apart = [noise_image(h[None], (1.0, 1.0), d, one)[0] for h, d in zip(hu, doses)]
    together = list(noise_images(hu, (1.0, 1.0), doses, all_))
    assert len(together) == 11
    for found, expected in zip(together, apart):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def head(radius, size=96):
    return 1000 * (2 * disk((size, size), (1.0, 1.0), radius / 2) - 1).clamp(-1, 0.04)


@pytest.mark.parametrize("slices, most", [(1, 2.0), (8, 2.0)])
def test_a_slice_of_full_size_takes_at_most_two_seconds_of_one_core(slices, most):
    """Once the photons are found, which is done once for a volume; it took 8 s."""
    hu = head(400, 512)[None].expand(slices, -1, -1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    took = []
    try:
        how = exposed(hu[:1], (0.8, 0.8), LowDoseSettings(views=360), 40.0)
        for _ in range(3):  # the quickest: a core that others use too is slower
            start = time.thread_time()
            list(noise_images(hu, (0.8, 0.8), [how] * slices, torch.Generator()))
            took.append(time.thread_time() - start)
    finally:
        torch.set_num_threads(threads)
    assert min(took) / slices <= timing.limit(most)


def test_exposure_control_needs_a_body():
    with pytest.raises(ValueError, match="no body"):
        exposed(torch.full((1, 16, 16), -1000.0), (1.0, 1.0), LowDoseSettings(views=30), 20.0)


def test_full_dose_adds_nothing_and_the_same_seed_the_same():
    phantom = water()
    assert np.array_equal(
        simulate_low_dose(phantom, LowDoseSettings(dose=1.0, views=30)).array, phantom.array
    )
    first, again, other = (
        simulate_low_dose(phantom, LowDoseSettings(seed=n, views=30)).array for n in (1, 1, 2)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_grid_padding_and_orientation_are_kept():
    matrix = random_matrix(3, (0.9, 0.9, 2.0))
    phantom = water(matrix=matrix)
    phantom.array[:, :3] = -2000  # beyond the field of view
    found = simulate_low_dose(phantom, LowDoseSettings(views=30))
    assert (
        np.array_equal(found.ijk_to_ras, matrix)
        and found.array.dtype == np.float32
        and found.units == "HU"
    )
    assert (
        (found.array[:, :3] == -2000).all()
        and found.array.min() >= -2000
        and "25 % dose" in found.name
    )
    # The same body in another voxel order is the same body: only the draw of the noise differs.
    turned = volumes.reorient(phantom, "RAS")
    assert (
        simulate_low_dose(turned, LowDoseSettings(dose=1.0, views=30)).array.tobytes()
        == turned.array.tobytes()
    )


def test_raw_values_are_no_hu():
    with pytest.raises(ValueError, match="holds no air.*rescale"):
        simulate_low_dose(Volume(np.full((2, 8, 8), 1024.0, np.float32), LPS, "raw", ""))


@pytest.mark.parametrize(
    "wrong",
    [
        {"dose": 0.0},
        {"dose": 1.5},
        {"photons": 0.0},
        {"electronic": -1.0},
        {"views": 1},
        {"cutoff": 2.0},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError):
        LowDoseSettings(**wrong)


def test_a_real_chest_at_a_tenth_of_its_dose(data):
    """Noise is stronger between the shoulders and inside the body than in the air around."""
    chest = files.load(data / "ct" / "chest_b40f.nii.gz")
    slice_ = volumes.crop(chest, (10, 11, 0, chest.array.shape[1], 0, chest.array.shape[2]))
    found = simulate_low_dose(slice_, LowDoseSettings(dose=0.1, views=180))
    change = found.array - np.clip(slice_.float32(), -1024, 3071)
    tissue = (slice_.array > -30) & (slice_.array < 80)
    assert 10 < change[tissue].std() < 300 and abs(change[tissue].mean()) < 5


@pytest.mark.parametrize("electronic", [0.0, 300.0])
def test_the_same_exposure_in_fewer_views_leaves_the_noise_as_strong(electronic):
    hu = 1000 * disk((64, 64), (1.0, 1.0), 25)[None] - 1000
    whole = LowDoseSettings(0.2, photons=2e4, electronic=electronic, views=360)
    strengths = [
        float(noise_image(hu, (1.0, 1.0), how, torch.Generator().manual_seed(1)).std())
        for how in (whole, spread_over(whole, 90))
    ]
    assert strengths[1] == pytest.approx(strengths[0], rel=0.1)
