"""Proposals of a sampler: known draws of a toy one, and the true context of the layer.

Also: no trace of padding, the floor, and bad input.
"""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from toy_ct import HU, SCALE, averaging, body, denoiser
from toy_sampler_files import VAE, card, random_sampler, saved

from NetInversionLib import cli, models, networks
from NetInversionLib.core import files
from NetInversionLib.invariances import invariances
from NetInversionLib.invariances.level_set import Window
from NetInversionLib.invariances.proposals import DECODER_REACH, Proposer
from NetInversionLib.invariances.sampler import Sampling
from NetInversionLib.invariances.settings import Settings
from NetInversionLib.models import Model, ModelError
from NetInversionLib.models.library import samplers_for
from NetInversionLib.networks.layers import UpTo, same_values


def sampler_of(network, **changes):
    """As a model made for ``test_invariances.denoiser``."""
    return Model(
        network.eval().requires_grad_(False),
        card(network, **changes),
        Path("sampler.safetensors"),
        "1" * 64,
    )


class Toy(nn.Module):
    """Draws z plus noise of known strength, and codes images with a known error.

    A perfect flow would give this if the layer kept everything but noise.
    """

    layers, size_multiple = ("output",), 4

    class Coder(nn.Module):
        spatial, image_channels, condition_channels = True, 1, 0

        def fold(self):
            return self

    def __init__(self, noise_hu=30.0, error_hu=5.0):
        super().__init__()
        self.vae, self.noise, self.error = self.Coder(), noise_hu / SCALE, error_hu / SCALE

    def forward(self, x):
        assert not any(n % 4 for n in x.shape[2:])
        return x + self.error

    def given(self, layer, z, size):
        assert tuple(z.shape[2:]) == size and not any(n % 4 for n in size)
        return lambda count, generator: (
            z + self.noise * torch.randn(count, *z.shape[1:], generator=generator)
        )


def keeping():
    conv = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(conv.weight)
    return conv


def run(network=None, sampler=None, volume=None, **changes):
    chosen = {
        "samples": 40,
        "projected": 0,
        "shown": 2,
        "epsilon_hu": 1.0,
        "proposals": ("cinn",),
        "device": "cpu",
        **changes,
    }
    given = {"denoiser": denoiser(network or keeping()), "sampler": sampler or sampler_of(Toy())}
    return invariances(
        {"low_dose": body() if volume is None else volume}, given, Settings(**chosen)
    )


def column(result, start):
    return next(
        values
        for heading, values in result.tables["proof"].columns.items()
        if heading.startswith(start)
    )


# -- known samplers --------------------------------------------------------------------------------


def test_a_known_sampler_gives_known_maps_measures_and_floor():
    """Noise of 30 HU changes the output by 30 HU, and an autoencoder 5 HU off by 5 HU.

    The network keeps every voxel.
    """
    volume = body((41, 46), 1)  # no multiples of four
    region = (0, 1, 3, 41, 5, 46)
    result = run(volume=volume, region=region, samples=200, patch_mm=None)  # of all of it
    assert column(result, "unproven samples")[0] == pytest.approx(30, rel=0.01)
    assert result.volumes["std unproven"].array[0, 3:, 5:].mean() == pytest.approx(30, rel=0.02)
    assert column(result, "autoencoder's error")[0] == pytest.approx(5, abs=1e-3)
    assert column(result, "autoencoder's image")[0] == pytest.approx(5, abs=1e-3)
    floor = result.volumes["vae floor"].array[0]
    np.testing.assert_allclose(floor[3:, 5:], 5, atol=1e-3)
    assert (
        not floor[:3].any() and not floor[:, :5].any() and result.roles["vae floor"] == "difference"
    )
    drawn = result.volumes["proposal 1"].array[0] - volume.array[0]
    assert drawn[3:, 5:].std() == pytest.approx(30, rel=0.05) and not drawn[:3].any()
    assert (
        result.facts["sampler"]["flow"] == "output"
        and result.facts["sampler"]["sha256"] == "1" * 64
    )


def test_samples_are_not_clipped():
    loud = run(sampler=sampler_of(Toy(noise_hu=5000.0)), shown=1)
    assert (
        loud.volumes["proposal 1"].array.min() < -5000
        and loud.volumes["proposal 1"].array.max() > 5000
    )


def test_projected_draws_are_accepted_and_what_survived_is_told():
    """The flow's draws are moved on the level set as any other proposal.

    The network is an average, which loses fine noise.
    """
    result = run(
        averaging(), region=(0, 1, 10, 30, 12, 34), samples=8, projected=4, max_evaluations=200
    )
    assert result.facts["accepted"] == 4 and 20 < column(result, "survived")[0] < 105
    assert column(result, "largest accepted")[0] <= 1.0 < column(result, "unproven samples")[0]


def test_the_layer_is_that_of_the_whole_slice():
    """At a region's edge the denoiser sees what lies beyond.

    Its average is one of the slice, not of the region.
    """
    volume, network = body(slices=1), averaging()
    hu = torch.from_numpy(volume.array[0])
    x0 = ((hu + 542.5) / SCALE)[None, None]
    region = Window(12, 21, 13, 24)
    given = denoiser(network)
    drawn = Sampling(sampler_of(Toy(noise_hu=0.0)), given, "output", torch.device("cpu")).changes(
        hu, x0, region
    )
    with torch.no_grad():
        whole = given.network(x0)[0, 0] * SCALE - 542.5
    torch.testing.assert_close(
        drawn(1, torch.Generator())[0], (whole - hu)[region.slices], atol=1e-2, rtol=0
    )


def test_the_kinds_take_turns_however_few_are_drawn_at_once():
    hu = torch.from_numpy(body(slices=1).array[0])
    settings = Settings(proposals=("texture", "cinn"), match_noise=False)
    proposer = Proposer(
        hu,
        (1.0, 1.0),
        Window(0, 8, 0, 8),
        settings,
        lambda count, generator: torch.full((count, 8, 8), 7.0),
    )
    for at_once in (1, 3):
        generator = torch.Generator().manual_seed(0)
        found = torch.cat(
            [proposer.draw(first, at_once, generator) for first in range(0, 6, at_once)]
        )
        assert [bool((one == 7).all()) for one in found] == [False, True] * 3


def test_fresh_noise_and_other_places_stand_beside_every_measure():
    """The reference is the noise's own strength, whatever is proposed.

    The network keeps every voxel.
    """
    volume = body((72, 72), 1, noise=40.0)
    asked = {"region": (0, 1, 24, 48, 24, 48), "patch_mm": None}
    result = run(volume=volume, proposals=("texture",), samples=4, **asked)
    assert column(result, "reference: fresh noise")[0] == pytest.approx(40, rel=0.35)
    assert column(result, "reference: other places")[0] > 100


# -- real samplers with random weights -------------------------------------------------------------


def test_the_decoder_sees_no_padding_inside_the_region():
    """What is drawn in a window equals what is drawn for the whole slice.

    Both come from the same latents; one latent less around the window would not do.
    """
    vae = random_sampler().vae.fold()
    z, size = torch.randn(1, 4, 20, 24, generator=torch.Generator().manual_seed(1)), (80, 96)
    region, whole = Window(32, 48, 36, 60), vae.decode(z)
    for margin, equal in ((DECODER_REACH, True), (DECODER_REACH - 1, False)):
        window = region.grown(4 * margin, size)
        part = vae.decode(z[:, :, window.j0 // 4 : window.j1 // 4, window.i0 // 4 : window.i1 // 4])
        difference = float(
            (part[(..., *region.within(window).slices)] - whole[(..., *region.slices)]).abs().max()
        )
        assert (difference < 2e-6 * float(whole.abs().max())) is equal


@pytest.mark.parametrize("region", [(0, 1, 9, 25, 7, 30), None])
def test_the_seed_decides_every_bit_and_the_caller_s_sampler_stays(region, tmp_path):
    sampler = sampler_of(random_sampler())
    before = {name: values.clone() for name, values in sampler.network.state_dict().items()}
    results = [
        run(averaging(), sampler, body((42, 45), 1), region=region, samples=5, seed=seed)
        for seed in (1, 1, 2)
    ]
    arrays = [one.volumes["std unproven"].array for one in results]
    assert np.array_equal(arrays[0], arrays[1]) and not np.array_equal(arrays[0], arrays[2])
    assert all(
        torch.equal(values, before[name]) for name, values in sampler.network.state_dict().items()
    )
    assert not any(getattr(module, "folded", False) for module in sampler.network.modules())


def test_vectors_draw_patches_of_their_size_and_no_more():
    vectors = dict(VAE, spatial=False, latents=16, size=32, code=2, classes=0)
    vectors = random_sampler(vae=vectors, channels=16, spatial=False, latent_size=8)
    for region in ((0, 1, 4, 30, 12, 44), (0, 1, 0, 32, 0, 32)):
        result = run(averaging(), sampler_of(vectors), body((40, 44), 1), region=region, samples=3)
        assert np.isfinite(column(result, "unproven samples")).all()
    with pytest.raises(
        ModelError, match="draws images of 32 x 32 voxels: choose a region that is not larger"
    ):
        run(averaging(), sampler_of(vectors), body((40, 44), 1))


def test_a_layer_of_another_size_is_seen_in_the_window_alone():
    """RED-CNN's convolutions have no padding: their maps are smaller than the image."""
    network = networks.build("redcnn", out_ch=2)
    result = run(
        network,
        sampler_of(random_sampler({"conv2": 2})),
        layer="conv2",
        samples=3,
        region=(0, 1, 8, 30, 8, 33),
    )
    assert np.isfinite(column(result, "unproven samples")).all()


@pytest.mark.parametrize(
    "flow, asked",
    [
        ("layers.4", ("5", "layers.4", "output")),
        ("output", ("5", "layers.4", "output")),
        ("layers.2", ("3", "layers.2")),
    ],
)
def test_a_flow_is_found_by_every_name_of_its_layer(flow, asked):
    network = networks.build("cnn10")
    sampler = sampler_of(random_sampler({flow: 1 if flow != "layers.2" else 32}))
    for name in asked:
        sampling = Sampling(sampler, denoiser(network), name, torch.device("cpu"))
        assert sampling.layer == flow


def test_all_names_of_a_layer():
    cnn10, redcnn = networks.build("cnn10"), networks.build("redcnn", out_ch=2)
    for name in (5, "layers.4", "output"):
        assert set(same_values(cnn10, name)) == {"layers.4", "output"}
        assert same_values(cnn10, name)[0] == UpTo(cnn10, name, torch.zeros(1, 1, 64, 64)).layer
    assert same_values(cnn10, "3") == ("layers.2",)
    assert same_values(redcnn, "output") == ("output", "add (3)")  # a sum comes last
    assert same_values(redcnn, "tconv5") == ("tconv5",)
    with pytest.raises(ValueError, match="^'A' has no layer 'conv9'"):
        same_values(cnn10, "conv9", called="'A'")


def test_noise_and_textures_are_the_same_whatever_a_sampler_draws():
    """Two denoisers are asked about the same noise and textures.

    This holds though each sampler takes as many random numbers as it likes.
    """
    volume, region = body(), Window(10, 30, 12, 34)
    hu, drawn = torch.from_numpy(volume.array[0]), []
    for takes in (1, 1000):

        def sampler(count, generator, takes=takes):
            torch.randn(takes, generator=generator)
            return torch.zeros(count, *region.size)

        proposer = Proposer(
            hu,
            volume.spacing_mm[:2],
            region,
            Settings(proposals=("cinn", "noise", "texture")),
            sampler,
        )
        generator = torch.Generator().manual_seed(3)
        changes = torch.cat([proposer.draw(first, 6, generator) for first in (0, 6)])
        drawn.append((changes, torch.rand(2, generator=generator)))
    for one, other in zip(*drawn):
        assert torch.equal(one, other)
    changes = drawn[0][0].flatten(1)
    # Number 0, 3, 6 and 9 are the sampler's nothing. Independent ones lie as far apart as their own
    # sizes together.
    asked = [number for number in range(12) if number % 3]
    assert changes[::3].count_nonzero() == 0
    for first, second in combinations(asked, 2):
        apart, sizes = changes[first] - changes[second], changes[[first, second]]
        assert apart.norm() > 0.5 * sizes.norm() > 0, (first, second)


# -- files and bad input ---------------------------------------------------------------------------


def test_files_that_fit_are_found_and_run(tmp_path, monkeypatch):
    denoiser, sampler = saved(tmp_path)
    saved(tmp_path, "other", training={"denoiser SHA-256": "1" * 64})
    monkeypatch.setenv("NETINVERSION_MODELS", str(tmp_path))
    assert list(samplers_for(denoiser)) == [sampler]
    result = invariances(
        {"low_dose": body()},
        {"denoiser": models.load(denoiser), "sampler": models.load(sampler)},
        Settings(
            layer="5",
            proposals=("cinn",),
            samples=2,
            projected=0,
            shown=1,
            region=(0, 1, 8, 24, 8, 24),
        ),
    )
    assert (
        result.facts["sampler"]["flow"] == "layers.4"
        and np.isfinite(result.volumes["vae floor"].array).all()
    )


def test_the_command_takes_the_sampler_that_fits(tmp_path, monkeypatch, capsys):
    saved(tmp_path)
    monkeypatch.setenv("NETINVERSION_MODELS", str(tmp_path))
    files.save(body((40, 44), 1), tmp_path / "low.nii.gz")
    command = [
        "compute",
        "invariances",
        str(tmp_path / "low.nii.gz"),
        "--output",
        str(tmp_path / "out"),
        "--device",
        "cpu",
        "--model",
        str(tmp_path / "denoiser.safetensors"),
        "--samples",
        "3",
        "--projected",
        "0",
        "--shown",
        "1",
        "--settings",
        '{"region": [0, 1, 8, 24, 8, 24]}',
    ]
    assert cli.main(command) == 0 and "sampler.safetensors" in capsys.readouterr().err
    facts = json.loads((tmp_path / "out" / "facts.json").read_text())
    assert facts["settings"]["proposals"] == ["cinn"] and facts["sampler"]["flow"] == "layers.4"
    assert files.load(tmp_path / "out" / "vae-floor.nii.gz").array.any()
    assert cli.main([*command, "--layer", "3", "--overwrite"]) == 1
    assert (
        "has no flow for layer '3' of 'Denoiser', only for layers.0, layers.4"
        in capsys.readouterr().err
    )
    assert cli.main([*command, "--layer", "3", "--proposals", "noise", "--overwrite"]) == 0
    assert (
        cli.main([*command, "--sampler", str(tmp_path / "denoiser.safetensors"), "--overwrite"])
        == 1
    )
    assert "is a model for denoising and not a sampler" in capsys.readouterr().err


def test_models_in_each_other_s_place_are_refused():
    with pytest.raises(ModelError, match="is no denoiser but a sampler.*choose the denoiser"):
        invariances({"low_dose": body()}, {"denoiser": sampler_of(random_sampler())})
    with pytest.raises(ModelError, match="is a model for image-to-image and not a sampler"):
        run(sampler=denoiser(averaging()))


def test_samplers_that_do_not_fit_are_refused():
    other = {"denoiser": "Yang's", "denoiser SHA-256": "ab" * 32}
    with pytest.raises(
        ModelError,
        match="was made for \"Yang's\" .SHA-256 ababab.* and not for 'denoiser'.*train a sampler",
    ):
        run(sampler=sampler_of(Toy(), training=other))
    with pytest.raises(ModelError, match="an autoencoder without flows"):
        run(sampler=sampler_of(random_sampler(()), training={}))
    two = random_sampler({"layers.0": 64, "layers.2": 32})
    with pytest.raises(
        ModelError, match="no flow for layer 'output' of 'denoiser', only for layers.0, layers.2"
    ):
        run(networks.build("cnn10"), sampler_of(two))
    with pytest.raises(ValueError, match="no layer '99'"):
        run(layer="99")
    broken = random_sampler()
    broken.vae.decoder.image.bias.fill_(float("nan"))
    with pytest.raises(ModelError, match="not numbers"):
        run(sampler=sampler_of(broken))
    seeing = random_sampler(vae=dict(VAE, condition_channels=2))
    with pytest.raises(ModelError, match="takes more than the image"):
        run(sampler=sampler_of(seeing))


@pytest.mark.parametrize("spatial", [True, False])
def test_a_published_sampler_is_told_what_its_denoiser_makes_of_the_image(spatial, monkeypatch):
    """Both parts of a published pair see the denoised image: in its own place, size and units."""
    vae = dict(VAE, condition_channels=1)
    flow = {}
    if not spatial:
        vae |= dict(spatial=False, latents=16, size=32, code=2, classes=0)
        flow = {"channels": 16, "spatial": False, "latent_size": 8}
    network = random_sampler(vae=vae, **flow)
    seen, decode = [], type(network.vae).decode

    def noted(self, z, condition=None):
        seen.append(condition)
        return decode(self, z, condition)

    monkeypatch.setattr(type(network.vae), "decode", noted)
    ct, region = body((40, 44), 1), (0, 1, 4, 30, 12, 40)
    result = run(averaging(), sampler_of(network), ct, region=region, samples=3)
    assert np.isfinite(column(result, "unproven samples")).all() and seen
    low, span = HU[0].low, HU[0].high - HU[0].low
    denoised = (result.volumes["output"].array[0] - low) / span
    for told in seen:
        window = told[0, 0].cpu().numpy()
        assert told.shape[2:] == (window.shape if spatial else (32, 32))
        places = np.lib.stride_tricks.sliding_window_view(denoised, window.shape)
        assert np.abs(places - window).max(axis=(2, 3)).min() < 1e-5


def test_proposals_of_a_sampler_need_one_for_each_denoiser():
    volume, settings = {"low_dose": body()}, Settings(proposals=("noise", "cinn"))
    with pytest.raises(ModelError, match="there is none for 'denoiser'.*choose noise or texture"):
        invariances(volume, {"denoiser": denoiser(averaging())}, settings)
    second = denoiser(averaging(3))
    second = replace(second, card=replace(second.card, name="second"))
    with pytest.raises(ModelError, match="there is none for 'second'"):
        invariances(
            volume,
            {"denoiser": denoiser(averaging()), "sampler": sampler_of(Toy()), "second": second},
            settings,
        )


def test_two_denoisers_with_a_sampler_each():
    models = {
        "denoiser": denoiser(keeping()),
        "sampler": sampler_of(Toy(noise_hu=20.0)),
        "second": denoiser(averaging()),
        "second sampler": sampler_of(Toy(noise_hu=60.0)),
    }
    result = invariances(
        {"low_dose": body(slices=1)},
        models,
        Settings(proposals=("cinn",), samples=30, projected=0, shown=1),
    )
    for suffix, noise in (("", 20), (" second", 60)):
        assert result.tables[f"proof{suffix}"].columns["slice"] == [0]
        drawn = result.volumes[f"std unproven{suffix}"].array.mean()
        assert drawn == pytest.approx(noise, rel=0.05)


def test_the_floor_needs_no_flow():
    """The autoencoder's error is told also where the sampler has no flow for the layer.

    The proposals there are fresh noise.
    """
    sampler = sampler_of(random_sampler({"layers.2": 32}))
    result = run(networks.build("cnn10"), sampler, proposals=("texture",), samples=3)
    assert (
        column(result, "autoencoder's error")[0] > 0
        and result.facts["sampler"]["flow"] == "none used"
    )


def test_draws_that_are_no_numbers_end_the_run():
    with pytest.raises(ModelError, match="drew values that are not numbers"):
        run(sampler=sampler_of(Toy(noise_hu=float("inf"))))
