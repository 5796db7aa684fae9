"""Windows with cached noise: kernels as the simulator's, doses, and whom they show.

Also: real pairs and their split by patient.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_denoising import made_up_ct
from toy_models import LPS

from NetInversionLib.core import files
from NetInversionLib.core.volumes import Volume
from NetInversionLib.invariances.low_dose import LowDoseSettings, noise_image
from NetInversionLib.training import noisy, pairs
from NetInversionLib.training.held_out import COVID_NY_SBU, HELD_OUT, TCGA
from NetInversionLib.training.noisy import NoisySettings
from NetInversionLib.training.people import read_people

SETTINGS = NoisySettings(
    spacings=((0.9, 1.1),), window=96, views=30, photons=2e4, exposure=1.0, identity=0.0
)


@pytest.fixture(scope="module")
def windows():
    return [
        window
        for n, person in enumerate("ab")
        for window in noisy.windows_of(made_up_ct(n, size=96), 1, person, SETTINGS, n)
    ]


@pytest.mark.parametrize("cutoff", [0.6, 1.0])
def test_a_kernel_on_the_image_is_the_kernel_of_the_reconstruction(cutoff):
    """A reconstruction's kernel is a filter of the image.

    The exception is the linear interpolation between detector elements.
    """
    hu = torch.from_numpy(made_up_ct(0, 1, 128).array)
    how = LowDoseSettings(photons=1e5, views=180, cutoff=0.0)
    bare, wanted = (
        noise_image(hu, (1.0, 1.0), replace(how, cutoff=c), torch.Generator().manual_seed(1))[0]
        for c in (0.0, cutoff)
    )
    response = noisy.kernel_response(128, torch.tensor([cutoff]))
    made = torch.fft.irfft2(torch.fft.rfft2(bare[None]) * response, s=(128, 128))[0]
    inner = (slice(24, -24),) * 2
    assert float((made - wanted)[inner].std() / wanted[inner].std()) < 0.12
    assert float((bare - wanted)[inner].std() / wanted[inner].std()) > 0.5


def test_strength_scales_a_dose_s_noise_to_another_s():
    assert noisy.strength(1.0, 0.25) == 0
    assert noisy.strength(0.25, 0.25) == pytest.approx(1)
    assert noisy.strength(0.1, 0.5) == pytest.approx(3)  # variances 9 and 1


def test_patches_have_the_dose_s_noise_and_none_at_full_dose(windows):
    same = replace(SETTINGS, dose=(0.25, 0.25), sharp=1.0)
    low, normal, soft = noisy.draw_noisy(windows, same, 64, 48, 0)
    assert low.shape == normal.shape == soft.shape == (64, 1, 48, 48) and soft.dtype == torch.bool
    body = normal > -400
    found = float((low - normal)[body].std())
    kept = [
        one.noise[one.normal > -400].astype(np.float32).std() * noisy.strength(0.25, one.dose)
        for one in windows
    ]
    assert found == pytest.approx(np.sqrt(np.mean(np.square(kept))), rel=0.25)
    assert abs(float((low - normal)[body].mean())) < 0.05 * found
    low, normal, _ = noisy.draw_noisy(windows, replace(same, identity=1.0), 8, 48, 0)
    assert torch.equal(low, normal)
    again = noisy.draw_noisy(windows, same, 64, 48, 0)[0]
    assert torch.equal(again, noisy.draw_noisy(windows, same, 64, 48, 0)[0])
    assert not torch.equal(again, noisy.draw_noisy(windows, same, 64, 48, 1)[0])


def test_a_softer_kernel_leaves_less_noise(windows):
    def spread(**kernel):
        these = replace(SETTINGS, dose=(0.25, 0.25), **kernel)
        low, normal, _ = noisy.draw_noisy(windows, these, 32, 48, 0)
        return float((low - normal).std())

    assert spread(sharp=1.0) > spread(sharp=0.0, cutoff=(1.0, 1.0))
    assert spread(sharp=0.0, cutoff=(1.0, 1.0)) > spread(sharp=0.0, cutoff=(0.6, 0.6))


def test_weights_count_patches_alike_and_soft_tissue_more():
    normal = torch.zeros(2, 1, 8, 8)
    low = normal + torch.tensor([0.0, 20.0]).reshape(2, 1, 1, 1)
    soft = torch.zeros_like(normal, dtype=torch.bool)
    soft[..., 0] = True
    found, usual = noisy.weights(low, normal, soft), noisy.USUAL_NOISE_HU
    assert float(found[0, 0, 0, 0]) == pytest.approx(1 / usual**2)
    assert float(found[1, 0, 0, 0]) == pytest.approx(1 / (usual**2 + 20**2))
    assert float(found[1, 0, 0, 1] / found[1, 0, 0, 0]) == pytest.approx(0.3)


def test_the_held_out_are_those_of_the_rule():
    assert len(COVID_NY_SBU) == 7 and len(TCGA) == 8 and "chest" in HELD_OUT and len(HELD_OUT) == 16


def test_every_fifth_person_of_tcga_by_name(data):
    people = sorted(set(read_people(data / "ct_slices" / "tcga").values()))
    assert tuple(people[4::5]) == TCGA
    assert set(read_people(data / "ct_slices" / "covid_ny_sbu").values()) == set(COVID_NY_SBU)


def test_nobody_held_out_is_trained_on(tmp_path):
    for number, name in enumerate(("TCGA-17-Z028_0", "TCGA-17-Z011_1", "A002304_0", "other")):
        files.save(made_up_ct(number, 1), tmp_path / f"{name}.nii.gz")
    found = noisy.read_windows([tmp_path], SETTINGS)
    assert {window.person for window in found} == {"TCGA-17-Z011", "other"}
    with pytest.raises(ValueError, match="nobody is called 'x'; there are A002304"):
        noisy.read_windows([tmp_path], SETTINGS, ["x"])
    with pytest.raises(ValueError, match="nobody is left"):
        noisy.read_windows([tmp_path], SETTINGS, ["TCGA-17-Z011", "other"])
    simulated = [pairs.Pair(p, np.zeros((2, 2)), np.zeros((2, 2))) for p in ("chest", "other")]
    assert [pair.person for pair in pairs.split_people(simulated, None)[0]] == ["other"]


def test_a_cache_gives_the_same_windows_and_no_others(tmp_path):
    folder, cache = tmp_path / "ct", tmp_path / "cache.npz"
    folder.mkdir()
    files.save(made_up_ct(0), folder / "a.nii.gz")
    made = noisy.read_windows([folder], SETTINGS, cache=cache)
    stamp = cache.stat().st_mtime_ns
    kept = noisy.read_windows([folder], replace(SETTINGS, dose=(0.5, 1.0)), cache=cache)
    assert cache.stat().st_mtime_ns == stamp  # how patches are drawn does not matter to the cache
    for a, b in zip(made, kept, strict=True):
        assert a.person == b.person and a.dose == b.dose
        assert np.array_equal(a.noise, b.noise) and np.array_equal(a.normal, b.normal)
        assert np.array_equal(a.soft, b.soft)
    other = noisy.read_windows([folder], replace(SETTINGS, seed=1), cache=cache)
    assert not np.array_equal(other[0].noise, made[0].noise)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-30], lambda b: b"text", lambda b: b[:500] + b[501:]]
)
def test_a_damaged_cache_is_named_with_what_to_do(tmp_path, damage):
    folder, cache = tmp_path / "ct", tmp_path / "cache.npz"
    folder.mkdir()
    files.save(made_up_ct(0), folder / "a.nii.gz")
    noisy.read_windows([folder], SETTINGS, cache=cache)
    cache.write_bytes(damage(cache.read_bytes()))
    with pytest.raises(ValueError, match="cache.npz is no cache.*delete it"):
        noisy.read_windows([folder], SETTINGS, cache=cache)


def test_resampling_keeps_means_and_coarser_grids_have_less_noise():
    hu = torch.randn(120, 90, generator=torch.Generator().manual_seed(0)) * 20 + 40
    coarse = noisy.resampled(hu, (0.7, 0.7), 1.4)
    assert coarse.shape == (60, 45)
    assert float(coarse.mean()) == pytest.approx(float(hu.mean()), abs=0.5)
    assert float(coarse.std()) < 0.6 * float(hu.std())


def test_real_pairs_are_found_by_name_and_their_difference_is_the_noise(tmp_path):
    low, normal = tmp_path / "low", tmp_path / "normal"
    for folder in (low, normal):
        folder.mkdir()
    ct = made_up_ct(0)
    files.save(ct, normal / "a.nii.gz")
    with pytest.raises(ValueError, match="alone: a"):
        files.save(ct, low / "b.nii.gz")
        pairs.read_real_pairs(low, normal)
    (low / "b.nii.gz").unlink()
    files.save(Volume(ct.array + np.float32(7), LPS, "low", "HU"), low / "a.nii.gz")
    found = pairs.read_real_pairs(low, normal)
    assert len(found) == 3 and {pair.person for pair in found} == {"a"}
    np.testing.assert_allclose(found[0].noise[found[0].normal > -1000], 7, atol=1e-3)


def test_patients_are_split_70_20_10_and_nobody_is_in_two_groups():
    names = [f"p{n % 50:02d}" for n in range(150)]
    groups = pairs.split_by_patient(names, (0.7, 0.2, 0.1))
    assert [len(group) for group in groups] == [35, 10, 5]
    assert set().union(*groups) == set(names)
    assert pairs.split_by_patient(names, (0.7, 0.2, 0.1), 1)[0] != groups[0]
    assert [len(group) for group in pairs.split_by_patient("abc", (0.7, 0.2, 0.1))] == [1, 1, 1]
    assert "chest" in pairs.split_by_patient([*"abc", "chest"], (0.7, 0.2, 0.1))[2]
    with pytest.raises(ValueError, match="at least three patients"):
        pairs.split_by_patient("ab", (0.7, 0.2, 0.1))
