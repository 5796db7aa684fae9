"""Would a lesion be seen? d' in a run against closed forms, networks with known answers, noise."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from toy_ct import SCALE, averaging, body, denoiser

from NetInversionLib.core.results import Table
from NetInversionLib.core.volumes import VolumeError
from NetInversionLib.invariances import (
    detection,
    experiments,
    invariances,
    lesions,
    nulls,
    observer,
    reading,
    report,
)
from NetInversionLib.invariances.level_set import Window
from NetInversionLib.invariances.observer import AS_IT_IS, BLURRED, DENOISED, IN_WORDS, NORMAL
from NetInversionLib.invariances.settings import Settings

SPACING, CENTRE = (0.8, 0.9), (20.3, 17.6)  # mm; voxels along i, j
WINDOW = Window(4, 34, 6, 38)
SIGMA = 30.0  # HU


class Gain(nn.Module):
    """Multiplies with a number."""

    def __init__(self, gain):
        super().__init__()
        self.gain = gain

    def forward(self, x):
        return self.gain * x


def nodule(diameter, margin=8):
    reach = [round(diameter / 2 / mm) + margin for mm in SPACING]
    region = Window(18 - reach[1], 19 + reach[1], 20 - reach[0], 21 + reach[0])
    centre = CENTRE[0] * SPACING[0], CENTRE[1] * SPACING[1]
    change = lesions.draw(lesions.Nodule(centre, diameter, 1.0), region, SPACING)
    return detection.Shown(diameter, centre, region, change)


def white(count=200):
    """A scene with white noise, at normal dose half of the same."""
    generator = torch.Generator().manual_seed(0)
    background = torch.rand(1, 1, *WINDOW.size, generator=generator)
    noise = torch.randn(count, 1, *WINDOW.size, generator=generator) * SIGMA / SCALE
    return detection.Scene(WINDOW, SPACING, SCALE, background, noise, noise / 2)


def found(network, scene=None, sizes=(3.0, 5.0), contrasts=(-20.0, 40.0), blur=None):
    cpu, blur = torch.device("cpu"), blur or nulls.Blur(1.0)
    shown = [nodule(size, 5) for size in sizes]
    return detection.columns(scene or white(), network, blur, shown, list(contrasts), cpu)


def closed_form(size, contrast):
    """d' that round channels reach in white noise: the length of the signal's part in them."""
    one = nodule(size, 5)
    centre = CENTRE[0] - one.region.i0, CENTRE[1] - one.region.j0
    channels = observer.laguerre_gauss(one.region.size, centre, SPACING, size)
    seen = channels @ (contrast * one.change.double().numpy().ravel())
    return math.sqrt(seen @ np.linalg.solve(channels @ channels.T, seen)) / SIGMA


def test_doing_nothing_in_white_noise_has_the_closed_form_s_d_prime():
    table = found(nulls.Identity())
    expected = [closed_form(size, contrast) for size in (3, 5) for contrast in (-20, 40)]
    errors = table[f"standard error of d' {AS_IT_IS}"]
    for value, error, closed in zip(table[f"d' {AS_IT_IS}"], errors, expected):
        assert value == pytest.approx(closed, abs=4 * error) and 0 < error < 0.09 * closed + 0.03
    twice = 2 * np.array(table[f"d' {AS_IT_IS}"])
    np.testing.assert_allclose(table[f"d' {NORMAL}"], twice, rtol=1e-5)
    assert table[f"d' {DENOISED}"] == pytest.approx(table[f"d' {AS_IT_IS}"], rel=1e-5)
    assert set(table[IN_WORDS]) <= {"uncertain as it is and denoised", "stays seen"}


def test_brightness_is_no_detectability():
    """A network that multiplies by a number neither loses nor gains."""
    table = found(Gain(0.1))
    assert table[f"d' {DENOISED}"] == pytest.approx(table[f"d' {AS_IT_IS}"], rel=1e-4)


def test_what_a_network_takes_away_vanishes():
    table = found(Gain(0.0), contrasts=(150.0,))
    assert table[f"d' {DENOISED}"] == [0, 0] and table[IN_WORDS] == 2 * [observer.VANISHES]
    assert min(table[f"d' {AS_IT_IS}"]) > 2


def test_the_blur_is_judged_like_a_network():
    table = found(nulls.Blur(1.3), blur=nulls.Blur(1.3))
    assert table[f"d' {DENOISED}"] == table[f"d' {BLURRED}"]
    assert table[f"d' {DENOISED}"] != table[f"d' {AS_IT_IS}"]


def test_stronger_nodules_are_seen_better_and_others_change_nothing():
    table = found(nulls.Identity(), sizes=(5.0,), contrasts=(5.0, 10.0, 40.0))
    values = table[f"d' {AS_IT_IS}"]
    assert values == sorted(values) and values[2] == pytest.approx(8 * values[0], rel=0.05)
    alone = found(nulls.Identity(), sizes=(5.0,), contrasts=(10.0,))
    assert alone[f"d' {AS_IT_IS}"] == values[1:2]


# Noise --------------------------------------------------------------------------------------------


def scene(low, normal=None, **changes):
    settings = Settings(draws=24, **{"electronic": 0.0, **changes})
    window = Window(10, 30, 12, 32)
    background = torch.zeros(1, 1, *window.size)
    return detection.scene(background, window, low, normal, SPACING, SCALE, settings)


def test_noise_is_as_strong_as_the_image_s_and_less_at_normal_dose():
    low = torch.from_numpy(body(noise=SIGMA, slices=1).array[0])
    drawn = scene(low)
    assert drawn.low.shape == drawn.normal.shape == (24, 1, 20, 20)
    assert float(drawn.low.std()) * SCALE == pytest.approx(SIGMA, rel=0.25)
    # Photons alone: a quarter of the dose has twice the noise.
    assert float(drawn.low.std() / drawn.normal.std()) == pytest.approx(2, rel=0.1)
    again = scene(low)
    torch.testing.assert_close(again.low, drawn.low, rtol=0, atol=0)
    assert not torch.equal(scene(low, seed=1).low, drawn.low)


def test_a_normal_dose_image_says_how_strong_its_noise_is():
    low, normal = (torch.from_numpy(body(noise=sigma, slices=1).array[0]) for sigma in (40, 10))
    drawn = scene(low, normal)
    assert float(drawn.low.std()) * SCALE == pytest.approx(40, rel=0.25)
    assert float(drawn.normal.std()) * SCALE == pytest.approx(10, rel=0.25)


def test_too_few_draws_for_an_observer_are_refused():
    assert Settings(draws=observer.FEWEST_DRAWS)
    with pytest.raises(ValueError, match="draws must be a whole number at least 20"):
        Settings(draws=observer.FEWEST_DRAWS - 1)


# A run --------------------------------------------------------------------------------------------


def asked(volumes, network, **changes):
    point = volumes["low_dose"].ijk_to_ras @ (22, 20, 0, 1.0)
    chosen = {
        "samples": 2,
        "projected": 0,
        "shown": 0,
        "components": 0,
        "epsilon_hu": 1.0,
        "proposals": ("texture",),
        "device": "cpu",
        "max_evaluations": 5,
        "lesion": tuple(point[:3]),
        "lesion_diameters_mm": (6.0, 3.0),
        "lesion_contrasts_hu": (40.0, -80.0),
        "draws": 20,
        **changes,
    }
    return invariances(volumes, {"denoiser": denoiser(network)}, Settings(**chosen))


def test_a_run_tells_of_each_nodule_how_well_it_is_seen():
    low = body(slices=1)
    result = asked({"low_dose": low}, averaging())
    table = result.tables["lesions"]
    assert table.columns["diameter (mm)"] == [3, 3, 6, 6]
    for way in observer.WAYS:
        for name in (f"d' {way}", f"standard error of d' {way}"):
            column = table.column(name)
            assert (column.kind, column.unit) == ("number", "")
            assert np.isfinite(table.values(name)).all()
    seen = np.array(table.values(f"d' {AS_IT_IS}"))
    assert (seen[[0, 2]] > seen[[1, 3]]).all(), "80 HU are seen better than 40"
    assert (np.array(table.values(f"d' {NORMAL}")) > seen).all()
    assert len(table.values(IN_WORDS)) == 4 and table.column(IN_WORDS).kind == "text"
    assert "An observer who knows where to look sees" in reading.answer(result.facts, result.tables)
    page = report.page(result)
    assert "Would it be seen?" in page and "no normal-dose image was given" in page
    assert "a simulation of 4 times the dose" in page and "Hotelling observer (5" in page


def test_a_normal_dose_image_is_the_background_and_is_named():
    low, normal = body(slices=1), replace(body(noise=5.0, slices=1), name="full")
    result = asked({"low_dose": low, "normal_dose": normal}, averaging())
    assert result.facts["inputs"] == {"low_dose": "low dose", "normal_dose": "full"}
    assert "on the normal-dose image." in reading.seen_how(result.facts)
    proof = result.tables["proof"].columns
    # The average of 25 voxels leaves a fifth of the noise that the normal-dose image lacks.
    assert 3 < proof["reference: the normal-dose image (HU)"][0] < 300
    assert result.tables["coverage"].columns["map"][:2] == ["unproven", "proven"]
    assert "How often the normal-dose image lies inside" in report.page(result)
    matrix = normal.ijk_to_ras.copy()
    matrix[0, 3] += 500
    with pytest.raises(VolumeError, match="do not overlap"):
        asked({"low_dose": low, "normal_dose": replace(normal, ijk_to_ras=matrix)}, averaging())


def test_the_background_has_the_noise_once():
    """A level-blind network sees noise as strong as the image's, not that and the image's own."""
    low, sigmas = body((60, 64), 1, noise=SIGMA), []

    class Watching(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = averaging()

        def forward(self, x):
            if len(x) == detection.AT_ONCE:
                j, i = (length // 2 for length in x.shape[2:])
                sigmas.append(float(x[:, :, j - 6 : j + 6, i - 6 : i + 6].std()) * SCALE)
            return self.conv(x)

    point = tuple((low.ijk_to_ras @ (32, 30, 0, 1.0))[:3])
    settings = Settings(
        lesion=point,
        lesion_diameters_mm=(4.0,),
        lesion_contrasts_hu=(1.0,),
        max_evaluations=1,
        draws=24,
    )
    experiments.lesion(low, denoiser(Watching()), settings, 1.0, torch.device("cpu"))
    assert np.median(sigmas) == pytest.approx(SIGMA, rel=0.25)


# Words --------------------------------------------------------------------------------------------


def table(denoised, words):
    columns = {f"d' {way}": denoised for way in (NORMAL, BLURRED, DENOISED)}
    as_it_is = [2 * value for value in denoised]
    return {"lesions": Table("", {**columns, f"d' {AS_IT_IS}": as_it_is, IN_WORDS: words})}


def test_the_words_count_what_is_seen_and_lost():
    some = table([0.5, 3.0, 6.0], [observer.VANISHES, observer.MISSED, "stays seen"])
    first, second = reading.seen(some)
    assert "sees 2 of the 3 nodules as it is, 1 denoised, 1 blurred as much and 1 at" in first
    assert second == "Denoising could make 1 of them vanish and 1 be missed."
    assert reading.seen(table([6.0], ["stays seen"]))[1].startswith("Denoising is not found")
    assert "0.50 times that of doing nothing, and 1.00 times that of a blur" in reading.compared(
        some
    )


def test_results_of_versions_before_have_no_d_prime():
    before = {"lesions": Table("", {"diameter (mm)": [3.0]})}
    assert reading.seen(before) == [] and reading.compared(before) == ""
