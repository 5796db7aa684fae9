"""The table of denoisers: figures of known errors, cells, shares, cards, whom it is made on."""

import math

import numpy as np
import pytest
from scipy import ndimage
from toy_denoising import made_up_ct
from toy_models import LPS

from NetInversionLib.core import files
from NetInversionLib.core.volumes import Volume
from NetInversionLib.evaluation import classical, denoisers
from NetInversionLib.evaluation.denoising_figures import band_powers, figures_of, spectrum_off

SIDE = denoisers.SIDE


@pytest.fixture(scope="module")
def region():
    rng = np.random.default_rng(0)
    normal = np.full((SIDE, SIDE), 40, np.float32) + rng.normal(0, 5, (SIDE, SIDE))
    normal[:, :20] = -900
    normal[:, 110:] = 600
    soft = np.zeros((SIDE, SIDE), bool)
    soft[:, 24:106] = True
    noise = {dose: rng.normal(0, 8 / dose**0.5, (SIDE, SIDE)) for dose in denoisers.DOSES}
    noise = {dose: n.astype(np.float32) for dose, n in noise.items()}
    return denoisers.Region("a", 1.0, normal.astype(np.float32), soft, noise)


def test_figures_of_a_known_error(region):
    found = region.normal + np.float32(10)
    figures = figures_of(found, region.normal, region.soft, 1.0, 8)
    for tissue in ("soft", "body", "bone"):
        assert figures[f"RMSE {tissue}"] == pytest.approx(10, rel=1e-4)
        assert figures[f"PSNR {tissue}"] == pytest.approx(40, rel=1e-4)
    assert figures["bias soft"] == pytest.approx(10, rel=1e-4)
    assert figures["spectrum off"] == pytest.approx(0, abs=1e-3)
    air = figures_of(found, np.full_like(found, -1000), ~(region.soft | True), 1.0, 8)
    assert air["RMSE soft"] is None and air["bias soft"] is None and air["spectrum off"] is None


def test_a_spectrum_is_off_by_six_decibels_where_noise_is_doubled(region):
    rest = region.normal - 40
    twice = np.where(region.soft, 40 + 2 * rest, region.normal)
    assert spectrum_off(twice, region.normal, region.soft) == pytest.approx(
        20 * math.log10(2), rel=0.01
    )
    smooth = ndimage.gaussian_filter(region.normal, 1.5)
    assert spectrum_off(smooth, region.normal, region.soft) > 10


def test_band_powers_tell_where_a_wave_is():
    j = np.arange(32)
    wave = np.cos(2 * np.pi * j * 11 / 32)[:, None] + np.zeros((32, 32))  # 0.69 of Nyquist
    powers = band_powers(wave + 0.3 * j)
    assert int(powers.argmax()) == 5 and powers[5] > 30 * np.delete(powers, [4, 5, 6]).max()


def test_regions_have_the_noise_that_was_asked_for(tmp_path, monkeypatch):
    ct = made_up_ct(0, 1, 160)
    files.save(ct, tmp_path / "A002304_0.nii.gz")
    files.save(made_up_ct(1, 1, 160), tmp_path / "somebody.nii.gz")
    monkeypatch.setattr(denoisers, "SPACINGS_MM", (1.0,))
    monkeypatch.setattr(denoisers, "DOSES", (0.25,))
    (found,) = denoisers.read_regions([tmp_path])
    assert found.person == "A002304"
    noise = denoisers.filtered(found.noise[0.25], 1.0)
    assert noise[found.soft].std() == pytest.approx(denoisers.NOISE_HU, rel=1e-3)
    low, sigma = found.low(0.25, "medium")
    assert sigma == pytest.approx(denoisers.NOISE_HU, rel=0.01) and low.shape == (SIDE, SIDE)
    assert found.low(0.25, "soft")[1] < sigma < found.low(0.25, "sharp")[1]
    (other,) = denoisers.read_regions([tmp_path], held_out=False)
    assert other.person == "somebody"
    (tmp_path / "A002304_0.nii.gz").unlink()
    with pytest.raises(ValueError, match="held_out.py"):
        denoisers.read_regions([tmp_path])


def half(kernel):
    """A method that takes half of the noise away, which nobody else can."""
    return lambda low, noise: truth[0] + (low - truth[0]) / 2


truth: list = []


def test_cells_and_shares_beside_doing_nothing(region, tmp_path):
    truth[:] = [region.normal]
    record = tmp_path / "cases.jsonl"
    methods = {"half": half, "worse": lambda kernel: lambda low, noise: low + 30}
    rows = denoisers.compare([region], methods, record)
    assert len(rows) == 3 * (3 * 3 + 1)
    table = denoisers.cells(rows).columns
    np.testing.assert_allclose(table["half"], np.array(table[denoisers.NOTHING]) / 2, rtol=1e-4)
    summary = denoisers.summary(rows)
    line = {
        name: dict(zip(summary.columns, values))
        for name, values in zip(summary.columns["method"], zip(*summary.columns.values()))
    }
    assert line["half"]["cells below doing nothing, soft (%)"] == 100
    assert line["worse"]["cells below doing nothing, soft (%)"] == 0
    assert line["half"]["bone against doing nothing"] == pytest.approx(0.5, rel=0.01)
    assert line["worse"]["change of normal dose (HU)"] == pytest.approx(30, rel=1e-3)
    assert line["half"]["change of normal dose (HU)"] == 0
    told = denoisers.quality(rows, "half")
    assert told["held-out people"] == 1 and len(told) == 2 * (9 + 2) + 1
    # What is on record is not computed again.
    never = {"half": None, "worse": None}
    again = denoisers.compare([region], {name: lambda kernel: never[0] for name in never}, record)
    assert again == rows


def test_the_peers_strength_is_the_one_with_the_smallest_error(region, monkeypatch):
    """Towards the truth by the strength: 1 is best, wherever it stands among those tried."""

    def peer(image, noise, strength):
        return region.normal + abs(strength - 1) * (image - region.normal)

    monkeypatch.setattr(classical, "peers", lambda: {"BM3D": peer})
    assert denoisers.tuned_strengths([region], ["BM3D"])["BM3D"] == dict.fromkeys(
        denoisers.KERNELS, 1.0
    )


@pytest.mark.parametrize("name", ["non-local means", "total variation"])
def test_classical_peers_take_noise_away_in_hu(name):
    rng = np.random.default_rng(1)
    clean = np.where(np.arange(48)[None] < 24, 0.0, 200.0) + np.zeros((48, 48))
    noisy = clean + rng.normal(0, 20, clean.shape)
    found = classical.peers()[name](noisy, 20.0, 1.0)
    assert np.sqrt(np.mean((found - clean) ** 2)) < 10
    other = classical.peers()[name](10 * noisy, 200.0, 1.0)
    np.testing.assert_allclose(other, 10 * found, rtol=0.02, atol=2)


def test_a_phantom_s_change_is_that_of_its_inside(tmp_path):
    image = np.full((1, 64, 64), -1000, np.float32)
    image[:, 10:54, 10:54] = 0
    files.save(Volume(image, LPS, "truth", "HU"), tmp_path / "truth.nii.gz")

    class Shift:
        def __call__(self, x):
            return x + 2

        def scalings_of(self, x):
            return []

        def normalise_tensor(self, x, scaling):
            return x

        def denormalise_output(self, x):
            return x

    found = denoisers.change_of_phantom(tmp_path / "truth.nii.gz", {"shift": Shift()})
    assert found.columns["change (HU)"] == [2.0] and found.columns["bias (HU)"] == [2.0]
