"""Dixon simulation against closed forms, and its promises about geometry, seed and table."""

import math

import numpy as np
import pytest
from scipy import ndimage

from NetInversionLib.core import files, volumes
from NetInversionLib.core.volumes import Volume
from NetInversionLib.ideal_input import dixon
from NetInversionLib.ideal_input.dixon import DixonSettings

FAT_HU, SOFT_HU, CORTICAL_HU = -100.0, 100.0, 1600.0
IDEAL = DixonSettings(bias=0, psf_mm=0, snr=math.inf)


def images_of(hu, settings=IDEAL, shape=(4, 16, 16), seed=0, spacing=(1.0, 1.0, 1.0)):
    return dixon.simulate_arrays(
        np.full(shape, hu, np.float32), spacing, settings, np.random.default_rng(seed)
    )


def test_fractions_are_a_partition():
    hu = np.linspace(-1500, 3500, 20001)
    parts = np.stack(dixon.tissue_fractions(hu))
    assert parts.min() >= 0 and parts.sum(0).max() <= 1 + 1e-6
    np.testing.assert_allclose(parts[:, hu <= -1000], 0, atol=1e-7)
    np.testing.assert_allclose(parts.sum(0)[hu >= -120], 1, atol=1e-6)
    # No jumps: 1 HU changes no fraction by more than 1 %.
    assert np.abs(np.diff(parts)).max() < 0.01 * (hu[1] - hu[0])


@pytest.mark.parametrize(
    "hu, expected",
    [
        (-1000, (0, 0, 0)),
        (FAT_HU, (0.18, 0.82, 0)),
        (1600, (0.0, 0.0, 1.0)),
        (80, (1, 0, 0)),
        (-560, (0.5, 0, 0)),
    ],
)
def test_fractions_of_known_tissues(hu, expected):
    np.testing.assert_allclose(
        [float(x) for x in dixon.tissue_fractions(np.array(hu))], expected, atol=1e-6
    )


@pytest.mark.parametrize("te, t2star", [(2.3, 15.0), (1.15, 20.0), (4.6, 0.5)])
def test_decay_is_exact(te, t2star):
    water, _ = dixon.echo_signals(
        np.array(80.0), DixonSettings(echo_time_ms=te, t2star_water_ms=t2star)
    )
    brightness = DixonSettings().fat_brightness
    _, fat = dixon.echo_signals(
        np.array(FAT_HU), DixonSettings(echo_time_ms=te, t2star_fat_ms=t2star)
    )
    bone, _ = dixon.echo_signals(
        np.array(CORTICAL_HU), DixonSettings(echo_time_ms=te, t2star_bone_ms=t2star)
    )
    assert float(water) == pytest.approx(math.exp(-te / t2star), rel=1e-6)
    assert float(fat) == pytest.approx(0.82 * brightness * math.exp(-te / t2star), rel=1e-6)
    assert float(bone) == pytest.approx(0.2 * math.exp(-te / t2star), rel=1e-6)


def test_pure_water_and_adipose_tissue():
    in_phase, fat, water = images_of(80.0)
    assert in_phase == pytest.approx(1000 * math.exp(-2.3 / 25), rel=1e-6)
    assert np.all(fat == 0) and water == pytest.approx(1, abs=1e-3)
    in_phase, fat, water = images_of(FAT_HU)
    w = 0.18 * math.exp(-2.3 / 25)
    f = 0.82 * DixonSettings().fat_brightness * math.exp(-2.3 / 15)
    assert in_phase == pytest.approx(1000 * (w + f), rel=1e-6)
    assert fat == pytest.approx(f / (w + f), rel=1e-3)
    assert water == pytest.approx(w / (w + f), rel=1e-3)


@pytest.mark.parametrize(
    "settings", [IDEAL, DixonSettings(bias=0, psf_mm=0, snr=math.inf, background=0)]
)
def test_air_is_zero_and_not_a_number_nowhere(settings):
    assert np.all(images_of(-1000.0, settings) == 0)


def test_background_rule_is_exact():
    settings = DixonSettings(bias=0, psf_mm=0, snr=math.inf, background=0.5)
    signal = math.exp(-2.3 / 25)
    assert images_of(80.0, settings)[2] == pytest.approx(signal**2 / (signal**2 + 0.25), rel=1e-5)


def test_noise_in_air_is_rician():
    # In air the magnitude of complex noise: mean sigma sqrt(pi/2), standard deviation sigma sqrt(2
    # - pi/2).
    settings = DixonSettings(bias=0, psf_mm=0, snr=20)
    sigma = 1000 * math.exp(-2.3 / 25) / 20
    air = images_of(-1000.0, settings, (16, 64, 64))[0]
    assert air.mean() == pytest.approx(sigma * math.sqrt(math.pi / 2), rel=0.01)
    assert air.std() == pytest.approx(sigma * math.sqrt(2 - math.pi / 2), rel=0.01)


@pytest.mark.parametrize("snr", [20, 40, 80])
def test_noise_in_tissue_scales_with_snr(snr):
    in_phase, _, water = images_of(
        80.0, DixonSettings(bias=0, psf_mm=0, snr=snr, background=0), (16, 64, 64)
    )
    assert in_phase.mean() / in_phase.std() == pytest.approx(snr, rel=0.02)
    # F is the magnitude of half the difference of two noises (sigma / sqrt 2): its mean is sigma
    # sqrt(pi) / 2.
    assert 1 - water.mean() == pytest.approx(math.sqrt(math.pi) / 2 / snr, rel=0.07)


@pytest.mark.parametrize("bias", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("shape", [(5, 20, 30), (1, 20, 30)])
def test_field_is_smooth_and_as_large_as_stated(bias, shape):
    field = dixon.receive_field(shape, bias, np.random.default_rng(3))
    assert np.abs(field - 1).max() == pytest.approx(bias, abs=1e-6)
    # A second-order polynomial: third differences vanish.
    assert np.abs(np.diff(field, 3, axis=2)).max() < 1e-5


def test_field_leaves_fractions_alone():
    hu = np.random.default_rng(0).uniform(-100, 300, (3, 12, 12)).astype(np.float32)
    with_field = DixonSettings(bias=0.4, psf_mm=0, snr=math.inf, background=0)
    flat = DixonSettings(bias=0, psf_mm=0, snr=math.inf, background=0)
    a, b = (
        dixon.simulate_arrays(hu, (1, 1, 1), s, np.random.default_rng(1))
        for s in (with_field, flat)
    )
    np.testing.assert_allclose(a[1:], b[1:], atol=1e-5)
    assert np.abs(a[0] / b[0] - 1).max() == pytest.approx(0.4, abs=1e-4)


def test_point_spread_has_its_width_in_millimetres():
    # The in-phase image of an edge between tissue and air is the Gaussian's cumulative
    # distribution.
    hu = np.full((1, 8, 64), -1000.0, np.float32)
    hu[..., 32:] = 80.0
    settings = DixonSettings(bias=0, psf_mm=6.0, snr=math.inf)
    edge = dixon.simulate_arrays(hu, (1.5, 1.5, 3.0), settings, np.random.default_rng(0))[0, 0, 4]
    spread = np.diff(edge) / edge.max()
    x = 1.5 * (np.arange(63) - 31)
    assert math.sqrt((spread * x**2).sum()) * 2.3548 == pytest.approx(6.0, rel=0.03)


def test_same_seed_same_images():
    settings = DixonSettings()
    first, again, other = (images_of(50.0, settings, seed=s) for s in (4, 4, 5))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize(
    "wrong",
    [
        {"snr": 0},
        {"snr": math.nan},
        {"t2star_bone_ms": 0},
        {"psf_mm": -1},
        {"bias": 1.0},
        {"echo_time_ms": math.inf},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DixonSettings(**wrong)


def body_on_a_table(k=6, j=80, i=100):
    """Two ellipses (trunk and an arm) with lung and bone, above a thin table; 3 mm."""
    y, x = np.mgrid[:j, :i]
    hu = np.full((k, j, i), -1000.0, np.float32)
    trunk = ((y - 36) / 24) ** 2 + ((x - 42) / 34) ** 2 < 1
    arm = ((y - 40) / 9) ** 2 + ((x - 88) / 8) ** 2 < 1
    lung = ((y - 34) / 9) ** 2 + ((x - 30) / 8) ** 2 < 1
    hu[:, trunk] = 40
    hu[:, arm] = 40
    hu[:, lung] = -800
    hu[:, 66:68, 5:95] = 100
    return hu, trunk | arm, lung


def test_body_mask_keeps_arm_and_lung_and_drops_the_table():
    hu, body, lung = body_on_a_table()
    mask = dixon.body_mask(hu, (3.0, 3.0, 3.0))
    # The opening may round corners by a voxel.
    assert not (mask & ~ndimage.binary_dilation(body)).any()
    assert mask[:, ndimage.binary_erosion(body, iterations=2)].all()
    assert np.all(dixon.without_couch(hu, (3.0, 3.0, 3.0))[:, 66:68] == -1000)


def couch(kind, first):
    """A couch's cross-section from row ``first``, bool [j, i].

    It lies on the grid of ``body_on_a_table``.
    """
    there = np.zeros((80, 100), bool)
    if kind == "block":  # a rail or the head of a couch: as thick as an arm
        there[first : first + 10, 30:70] = True
    if kind in ("shell", "hollow"):
        there[first : first + 2, 5:95] = True
    if kind == "hollow":  # two shells and their ends, foam between them
        there[first + 8 : first + 10, 5:95] = True
        there[first : first + 10, 5:7] = there[first : first + 10, 93:95] = True
    return there


@pytest.mark.parametrize(
    "kind, first", [("block", 66), ("shell", 61), ("shell", 66), ("hollow", 61), ("hollow", 66)]
)
def test_no_kind_of_couch_is_body(kind, first):
    """No couch is body, also where the patient lies on it.

    Then a strip as thick as its shell may stay, as wide as the skin is flat.
    """
    hu, body, _ = body_on_a_table()
    hu[:, 61:] = -1000
    hu[:, couch(kind, first)] = 185
    mask = dixon.body_mask(hu, (3.0, 3.0, 3.0))
    wrong = (mask & ~ndimage.binary_dilation(body)).any(0)
    assert wrong.any(1).sum() <= (2 if first == 61 else 0) and wrong.sum() <= 40, "3 mm voxels"
    assert mask[:, ndimage.binary_erosion(body, iterations=2)].all(), "trunk, arm and lung"


def test_a_chest_wall_thinner_than_the_opening_keeps_its_lung():
    y, x = np.mgrid[:80, :100]
    radius = np.hypot((y - 40) / 30, (x - 50) / 40)
    hu = np.full((3, 80, 100), -1000.0, np.float32)
    hu[:, radius < 1] = 40
    hu[:, radius < 0.92] = -800  # a wall of 2 or 3 voxels
    hu[:, 30:50, 45:55] = 40  # heart and spine, or there would be no trunk
    assert dixon.body_mask(hu, (3.0, 3.0, 3.0))[:, radius < 0.95].all()


def test_a_lung_at_the_border_of_the_image_is_body():
    hu, _, lung = body_on_a_table()
    cut = hu[..., 30:]  # through the middle of the lung
    assert dixon.body_mask(cut, (3.0, 3.0, 3.0))[:, lung[:, 30:]].all()


def test_the_sample_shows_no_couch_in_any_image():
    """A block beneath the patient is air in the CT, noise in the in-phase image."""
    hu, body, _ = body_on_a_table(k=12)
    hu[:, 61:] = -1000
    hu[:, couch("block", 66)] = 185
    found = dixon.sample(Volume(hu, np.diag([-3.0, -3.0, 3.0, 1.0]), "CT", "HU"))
    rows = np.flatnonzero(body.any(1))
    assert found["ct"].shape[1] <= len(rows) + 2 * 8 + 2, "cut to the body, with 8 voxels around it"
    below = found["ct"].array[:, -5:]
    assert (below == -1000).all()
    assert (
        found["in_phase"].array[:, -5:].max()
        < 250
        < 0.5 * np.percentile(found["in_phase"].array, 90)
    )


@pytest.mark.parametrize(
    "name", ["chest_b40f", "chest_b70f", "pelvis", "abdomen_slab", "upper_abdomen"]
)
def test_the_samples_of_real_ct_show_no_couch(data, name):
    """Beneath the trunk's last row nothing is denser than air; arms beside it stay."""
    ct = dixon.sample(files.load(data / "ct" / f"{name}.nii.gz"))["ct"].array
    labels, count = ndimage.label(ct > -300)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    trunk = labels == sizes.argmax()
    last = np.flatnonzero(trunk.any((0, 2)))[-1]
    assert (ct[:, last + 1 :] == -1000).all()
    if name == "upper_abdomen":
        assert np.ptp(np.flatnonzero((ct > -300).any((0, 1)))) * 3 > 450, "arms beside 360 mm"


def test_body_at_the_edge_of_the_image_stays():
    mask = dixon.body_mask(np.full((2, 20, 20), 30.0, np.float32), (3.0, 3.0, 3.0))
    assert mask.all()


def test_empty_image_has_no_body():
    assert not dixon.body_mask(np.full((2, 20, 20), -1000.0, np.float32), (3.0, 3.0, 3.0)).any()


@pytest.mark.parametrize("axes", ["LPS", "RAS", "SLA", "PIR"])
def test_orientation_of_the_array_does_not_matter(axes):
    hu, _, _ = body_on_a_table()
    ct = Volume(hu.astype(np.int16), np.diag([-3.0, -3.0, 3.0, 1.0]), "ct", "HU")
    turned = volumes.reorient(ct, axes)
    expected, found = (dixon.simulate_dixon(v, seed=2) for v in (ct, turned))
    assert list(found) == ["in_phase", "fat_fraction", "water_fraction"]
    for role, volume in found.items():
        assert volume.array.dtype == np.float32 and "simulated" in volume.name
        assert np.array_equal(volume.ijk_to_ras, turned.ijk_to_ras)
        assert np.array_equal(volumes.reorient(volume, "LPS").array, expected[role].array)


def test_not_a_number_is_refused():
    ct = Volume(np.full((3, 4, 5), np.nan, np.float32), np.eye(4), "ct")
    with pytest.raises(volumes.VolumeError, match="60"):
        dixon.simulate_dixon(ct)


def check_real(ct):
    found = dixon.simulate_dixon(ct)
    hu = volumes.reorient(ct, "LPS")
    mask = volumes.reorient_like(
        hu.with_array(dixon.body_mask(hu.float32(), hu.spacing_mm)), ct
    ).array
    fat = mask & (np.abs(ct.array + 100) < 15)
    muscle = mask & (np.abs(ct.array - 60) < 15)
    # Acquired images have 0.88 to 0.91 there: adipose tissue holds water.
    assert np.median(found["fat_fraction"].array[fat]) > 0.85
    assert np.median(found["water_fraction"].array[muscle]) > 0.9
    bone = mask & (ct.array > 600)
    dark, grey, bright = (np.median(found["in_phase"].array[m]) for m in (bone, muscle, fat))
    # Bone is dark, but at 3 mm no voxel of it is free of the bright marrow beside it.
    assert dark < 0.95 * grey and grey < 0.7 * bright


def test_tissues_of_generated_ct_look_as_they_should():
    hu, body, lung = body_on_a_table()
    hu[:, 20:28, 40:50] = -100
    hu[:, 40:50, 45:55] = 900
    hu[:, 50:56, 20:30] = 60
    check_real(Volume(hu, np.diag([-3.0, -3.0, 3.0, 1.0]), "generated", "HU"))


def test_tissues_of_real_ct_look_as_they_should(data):
    check_real(files.load(data / "ct" / "abdomen_slab.nii.gz"))
