"""Invariances without a decoder: maps of known networks, and proof from the saved volumes.

Also: tiles that do not bias, and bad input.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toy_ct import HU, SCALE, averaging, body, denoiser, run
from toy_models import model, random_matrix

from NetInversionLib import networks
from NetInversionLib.core import volumes
from NetInversionLib.core.progress import Progress
from NetInversionLib.invariances import Blended, Moments, image_noise, invariances, tiles
from NetInversionLib.invariances.level_set import LevelSet, Window, verify
from NetInversionLib.invariances.settings import Settings
from NetInversionLib.models import ModelError
from NetInversionLib.networks.layers import LayerError

# -- moments and tiles -----------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    st.integers(5, 90),
    st.integers(5, 90),
    st.integers(8, 40),
    st.integers(0, 20),
    st.integers(0, 9),
)
def test_tiles_cover_the_region_and_nothing_else(height, width, tile, overlap, corner):
    overlap = min(overlap, tile // 2)
    region = Window(corner, corner + height, 3, 3 + width)
    total = torch.zeros(110, 110, dtype=torch.float64)
    for one, weight in tiles(region, tile, overlap):
        assert weight.shape == one.size and max(one.size) <= max(tile, 1) and (weight > 0).all()
        total[one.slices] += weight
    outside = torch.ones_like(total, dtype=torch.bool)
    outside[region.slices] = False
    assert (total[region.slices] > 0).all() and (total[outside] == 0).all()


def test_blended_moments_of_noise_are_the_noise_s_everywhere():
    """Blending the moments of independent tiles of the same noise loses nothing.

    Blending samples would lose up to 30 % in overlaps.
    """
    torch.manual_seed(0)
    found = Blended((40, 60))
    for tile, weight in tiles(Window(0, 40, 0, 60), 24, 8):
        moments = Moments(tile.size)
        for _ in range(20):
            moments.add(10 * torch.randn(50, *tile.size))
        found.add(moments, tile, weight)
    deviation = found.deviation()
    assert (
        deviation.mean() == pytest.approx(10, rel=0.005)
        and deviation.min() > 9
        and deviation.max() < 11
    )
    assert deviation[18:22].mean() == pytest.approx(10, rel=0.02)


def test_moments_are_numpy_s():
    torch.manual_seed(1)
    changes = torch.randn(30, 5, 6) * torch.arange(1, 7) + 3
    moments, found = Moments((5, 6)), Blended((5, 6))
    for part in changes.split(7):
        moments.add(part)
    found.add(moments, Window(0, 5, 0, 6), torch.ones(5, 6))
    np.testing.assert_allclose(
        found.deviation(), changes.double().numpy().std(0, ddof=1), rtol=1e-9
    )


def test_noise_is_measured_in_soft_tissue():
    assert image_noise(body((90, 90), noise=25.0).array) == pytest.approx(25, rel=0.1)


# -- whole runs ------------------------------------------------------------------------------------


def test_every_accepted_sample_is_on_the_level_set_when_read_back():
    """From the volumes alone, in float64, on whole slices: the changes stay within epsilon."""
    volume, network = body(), averaging()
    region = (0, 2, 10, 30, 12, 34)
    result = run(volume, network, region=region)
    table = result.tables["proof"].columns
    assert (
        table["accepted (%)"] == [100.0, 100.0]
        and result.facts["accepted"] == 12
        and result.facts["complete"]
    )
    each = result.tables["proof of samples"].columns
    assert (
        each["slice"] == 6 * [0] + 6 * [1]
        and each["sample"] == 2 * list(range(1, 7))
        and all(each["accepted"])
    )
    for number in (1, 2):
        after = result.volumes[f"sample {number}"].array
        changed = after != volume.array
        assert changed[:, 10:30, 12:34].any() and not np.delete(changed, slice(10, 30), 1).any()
        for k in range(2):
            found = measured_again(volume, after, k, Window(10, 30, 12, 34))
            row = 6 * k + number - 1
            assert 0 < found <= 1.0 and each["projected, change of the output (HU)"][
                row
            ] == pytest.approx(found, rel=1e-3)
            change = (after - volume.array)[k, 10:30, 12:34]
            assert each["input change after (HU)"][row] == pytest.approx(
                np.sqrt(np.mean(change**2)), rel=1e-4
            )


def measured_again(volume, after, k, region, network=None):
    """What a slice of a sample changes, HU, in float64 on the whole slice."""
    x0, x = (
        torch.from_numpy((a[k] + 542.5) / SCALE).float()[None, None] for a in (volume.array, after)
    )
    target = LevelSet(
        denoiser(network or averaging()).network,
        x0,
        region,
        scale=SCALE,
        patch=Settings().patch(volume.spacing_mm),
    )
    return verify(target, x0, x)


@pytest.mark.parametrize("epsilon_hu", [0.5, 1.0])
def test_samples_put_together_from_tiles_are_proven_as_a_whole(epsilon_hu):
    """What tiles change together is more than epsilon, and is taken back.

    Each tile by itself may use all of epsilon.
    """
    torch.manual_seed(0)
    volume, network, region = (
        body((72, 80), 1),
        networks.build("cnn10", last_kernel=3),
        (0, 1, 4, 68, 6, 70),
    )
    result = run(
        volume,
        network,
        region=region,
        tile=32,
        overlap=8,
        samples=3,
        projected=3,
        epsilon_hu=epsilon_hu,
    )
    each = result.tables["proof of samples"].columns
    assert each["sample"] == [1, 2] and all(each["accepted"])
    for number, told in zip(each["sample"], each["projected, change of the output (HU)"]):
        found = measured_again(
            volume, result.volumes[f"sample {number}"].array, 0, Window(4, 68, 6, 70), network
        )
        assert 0.8 * epsilon_hu < found <= epsilon_hu and told == pytest.approx(found, rel=1e-3)


def test_a_cropped_volume_has_the_same_samples():
    """The seed goes by the place in the patient: what lies around does not matter."""
    volume = body(slices=3)
    region = (1, 2, 10, 30, 12, 34)
    both = ((volume, region), (volumes.crop(volume, (1, 2, 0, 40, 0, 44)), (0, 1, *region[2:])))
    whole, part = (run(one, averaging(), region=box, samples=4, projected=2) for one, box in both)
    np.testing.assert_array_equal(
        whole.volumes["std proven"].array[1], part.volumes["std proven"].array[0]
    )
    assert part.volumes["std proven"].array.any()


def test_what_an_average_loses_survives_and_what_it_keeps_does_not():
    """Fine texture passes an average of 5 x 5 half unnoticed.

    A network that keeps every voxel lets nothing pass.
    """
    fine = run(body(), averaging(), region=(0, 1, 10, 30, 12, 34))
    keeping = run(body(), averaging(1), region=(0, 1, 10, 30, 12, 34))
    survived = [r.tables["proof"].columns["survived (%)"][0] for r in (fine, keeping)]
    assert survived[0] > 30 and survived[1] < 5
    inside = np.s_[0, 16:24, 18:28]
    ratio = (
        fine.volumes["std proven"].array[inside].mean()
        / fine.volumes["std unproven"].array[inside].mean()
    )
    assert 0.3 < ratio <= 1.05
    assert fine.volumes["std unproven"].array[inside].mean() == pytest.approx(50, rel=0.2)


def test_outside_of_the_region_maps_are_zero_and_the_output_is_the_network_s():
    volume = body()
    result = run(volume, averaging(), region=(1, 2, 10, 30, 12, 34))
    for key in ("std unproven", "std proven", "share survived"):
        array = result.volumes[key].array
        assert not array[0].any() and not array[1, :10].any() and array[1, 12:28, 14:32].any()
    with torch.no_grad():
        x = torch.from_numpy((volume.array[1] + 542.5) / SCALE)[None, None]
        expected = averaging()(x)[0, 0].numpy() * SCALE - 542.5
    np.testing.assert_allclose(result.volumes["output"].array[1], expected, atol=0.01)
    assert (result.volumes["output"].array[0] == -1024).all(), "air where nothing was denoised"
    assert np.array_equal(result.volumes["sample 1"].array[0], volume.array[0])


@pytest.mark.parametrize("axes", ["RAS", "SPL"])
def test_any_orientation_gives_the_same_maps(axes):
    volume = body(matrix=random_matrix(2))
    turned = volumes.reorient(volume, axes)
    first, second = (run(v, averaging(), samples=4, projected=2) for v in (volume, turned))
    assert second.volumes["std proven"].shape == turned.shape
    np.testing.assert_array_equal(second.volumes["std proven"].ijk_to_ras, turned.ijk_to_ras)
    back = volumes.reorient_like(volumes.reorient(second.volumes["std proven"], "LPS"), volume)
    np.testing.assert_allclose(back.array, first.volumes["std proven"].array, atol=1e-4)


def test_large_regions_are_tiled_and_the_seed_decides():
    runs = [
        run(body((60, 64), 1), averaging(), tile=32, overlap=8, samples=4, projected=2, seed=seed)
        for seed in (1, 1, 2)
    ]
    proof = runs[0].tables["proof"].columns
    assert (
        len(proof["rows"]) == 1 + 9 and proof["rows"][0] == "0-59"
    )  # tried on the whole, projected in tiles
    assert proof["projected"] == [0, *[2] * 9] and runs[0].facts["projected"] == 18
    assert runs[0].volumes["std unproven"].array[0, 20:40, 20:44].mean() == pytest.approx(
        50, rel=0.3
    )
    arrays = [r.volumes["std proven"].array for r in runs]
    assert np.array_equal(arrays[0], arrays[1]) and not np.array_equal(arrays[0], arrays[2])
    assert arrays[0][0, 20:40, 20:44].min() > 0


def test_fresh_noise_has_the_image_s_strength():
    volume = body((72, 72), 1, noise=40.0)
    result = run(
        volume, averaging(), proposals=("noise",), samples=24, projected=2, epsilon_hu=None
    )
    assert result.facts["epsilon"] == pytest.approx(4, rel=0.1)
    inside = result.volumes["std unproven"].array[0, 30:42, 30:42]
    assert 25 < inside.mean() < 60


def test_hidden_layers_are_compared_relative_to_themselves():
    torch.manual_seed(0)
    network = networks.build("cnn10", last_kernel=3)
    result = run(
        body(),
        network,
        region=(0, 1, 14, 26, 16, 28),
        layer="layers.1",
        samples=3,
        projected=3,
        epsilon_hu=None,
    )
    assert result.facts["epsilon"] == 0.01 and result.facts["epsilon_units"] == "relative"
    assert any("relative" in heading for heading in result.tables["proof"].columns)
    for heading in (
        "projected samples, change of the output (HU)",
        "projected, change of the output (HU)",
    ):
        table = result.tables["proof" if "samples" in heading else "proof of samples"].columns
        after, mean = result.volumes["sample 1"].array, np.mean(table[heading])
        assert mean > 0 and len(table[heading]) == (1 if "samples" in heading else 3)
    told = result.tables["proof of samples"].columns["projected, change of the output (HU)"][0]
    assert told == pytest.approx(
        measured_again(body(), after, 0, Window(14, 26, 16, 28), network), rel=1e-3
    )


def test_a_projection_tells_how_far_it_is_and_can_be_stopped():
    class Count(Progress):
        def __init__(self):
            self.told = []

        def report(self, fraction, message):
            self.told.append((fraction, message))

    progress = Count()
    run(
        body(slices=1), averaging(), progress, region=(0, 1, 10, 30, 12, 34), samples=4, projected=4
    )
    fractions = [f for f, _ in progress.told]
    assert fractions == sorted(fractions) and sum("evaluation" in m for _, m in progress.told) > 5


class Stop(Progress):
    def __init__(self):
        self.kept = None

    def intermediate(self, result):
        self.kept = result


def test_a_partial_result_is_usable_and_says_so(monkeypatch):
    monkeypatch.setattr("NetInversionLib.invariances.findings.INTERMEDIATE_EVERY_S", -1)
    progress = Stop()
    run(body(), averaging(), progress, region=(0, 2, 10, 30, 12, 34), samples=4, projected=2)
    assert (
        not progress.kept.facts["complete"]
        and "partial" in progress.kept.volumes["std proven"].name
    )
    assert progress.kept.volumes["std proven"].array[0].any()


# -- bad input -------------------------------------------------------------------------------------


def test_what_is_no_ct_in_hu_is_refused():
    raw = replace(body(), array=(body().array + 1024).astype(np.uint16))
    for volume in (raw, replace(body(), array=np.abs(body().array))):
        with pytest.raises(ValueError, match="is it a CT in HU.*rescale slope"):
            run(volume, averaging())


def test_a_crop_to_soft_tissue_is_taken_where_its_file_says_hu():
    tissue = 50 + 30 * np.random.default_rng(0).standard_normal(body().array.shape)
    liver = replace(body(), array=tissue.astype(np.float32), units="HU")
    settings = {"samples": 2, "projected": 0, "shown": 0}
    result = run(liver, averaging(), **settings)
    assert result.facts["complete"]
    with pytest.raises(ValueError, match="is it a CT in HU"):
        run(replace(liver, units=""), averaging(), **settings)


def test_networks_of_another_kind_are_refused():
    two = model(nn.Conv2d(2, 1, 1), inputs=("mr", "fat"), outputs=HU)
    with pytest.raises(ModelError, match="2 inputs and 1 outputs"):
        invariances({"low_dose": body()}, {"denoiser": two})
    with pytest.raises(ModelError, match="does not work in HU"):
        invariances(
            {"low_dose": body()},
            {"denoiser": model(nn.Conv2d(1, 1, 1), inputs=("mr",), outputs=HU)},
        )
    broken = averaging()
    with torch.no_grad():
        broken.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match="not numbers"):
        run(body(), broken)


def test_a_lesion_outside_is_refused_before_anything_is_computed():
    class Nothing(Progress):
        def report(self, fraction, message):
            raise AssertionError("the run has begun")

    with pytest.raises(ValueError, match="outside"):
        run(body(), averaging(), Nothing(), lesion=(500.0, 0.0, 0.0))


def test_layers_regions_and_tolerances_that_make_no_sense_are_refused():
    with pytest.raises(LayerError, match="no layer '7'"):
        run(body(), averaging(), layer="7")
    with pytest.raises(ValueError, match="does not lie within the volume"):
        run(body(), averaging(), region=(0, 9, 0, 5, 0, 5))
    with pytest.raises(
        ValueError, match="epsilon_hu must be a finite number above 0.*fraction of the noise"
    ):
        run(body(), averaging(), epsilon_hu=0.0)
    with pytest.raises(ValueError, match="give epsilon in HU"):
        run(
            replace(body(noise=0.0), array=np.full((1, 40, 44), -1000, np.float32)),
            averaging(),
            epsilon_hu=None,
        )


@pytest.mark.parametrize(
    "wrong",
    [
        {"proposals": ("gan",)},
        {"proposals": ()},
        {"samples": 1},
        {"projected": 300},
        {"tile": 4},
        {"overlap": 100},
        {"texture_hu": 0.0},
        {"max_evaluations": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError):
        Settings(**wrong)
