"""Training what proposes invariances: honest cards, and what is refused.

Resume and two processes give one training's weights.
"""

import os
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from toy_denoising import SMALL, made_up_ct
from toy_models import LPS, model
from toy_samplers import FLOW, VAE_MAPS

from NetInversionLib import models
from NetInversionLib.cli import main
from NetInversionLib.core import files
from NetInversionLib.core.volumes import Volume
from NetInversionLib.models.card import SAMPLING
from NetInversionLib.networks.cinn import CINN
from NetInversionLib.networks.layers import LayerError
from NetInversionLib.training import checkpoint as checkpoints
from NetInversionLib.training import denoiser as training_denoiser
from NetInversionLib.training import pairs as training_pairs
from NetInversionLib.training import sampler
from NetInversionLib.training.denoiser import CHANNEL, Pair
from NetInversionLib.training.sampler import (
    CINNSettings,
    VAESettings,
    bits_per_latent,
    train_cinn,
    train_vae,
)

VAE_SETTINGS = VAESettings(
    tuple(VAE_MAPS.items()), steps=6, batch=2, patch=32, critic_width=2, checkpoint_every=2
)
CINN_SETTINGS = CINNSettings(
    layers=("3", "output"), **FLOW, steps=6, batch=2, patch=32, checkpoint_every=2
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(sampler, "HELD_OUT_BATCHES", 2)


@pytest.fixture(scope="module")
def pairs():
    return made_up_pairs()


def made_up_pairs():
    return [
        pair
        for n, person in enumerate("ab")
        for pair in training_pairs.pairs_of(made_up_ct(n), person, SMALL, number=n)
    ]


@pytest.fixture(scope="module")
def made(pairs, tmp_path_factory):
    """Files of a denoiser and an autoencoder."""
    folder = tmp_path_factory.mktemp("made")
    training_denoiser.train(
        pairs,
        folder / "denoiser.safetensors",
        replace(SMALL, architecture="cnn10", arguments=(), steps=2),
    )
    learns = replace(
        VAE_SETTINGS,
        steps=40,
        batch=4,
        learning_rate=5e-3,
        average=0.9,
        critic_from=1.0,
        divergence=0.0,
    )
    train_vae(
        pairs, folder / "vae.safetensors", learns, leave_out="b"
    )  # long enough for latents to depend on the image
    return folder


@pytest.fixture
def vae(made):
    return models.load(made / "vae.safetensors")


@pytest.fixture
def denoiser(made):
    return models.load(made / "denoiser.safetensors")


def weights(path):
    return {name: w.clone() for name, w in models.load(path).network.state_dict().items()}


class Kill(sampler.Progress):
    """Ends the training after its fourth step."""

    def report(self, fraction, message):
        if fraction > 0.6:
            raise KeyboardInterrupt


@pytest.mark.parametrize("kind", ["vae", "cinn"])
def test_a_killed_training_ends_with_the_same_weights(pairs, made, tmp_path, kind):
    def train(output, **options):
        if kind == "vae":
            return train_vae(pairs, tmp_path / output, VAE_SETTINGS, "b", **options)
        networks = {name: models.load(made / f"{name}.safetensors") for name in ("vae", "denoiser")}
        return train_cinn(
            pairs, tmp_path / output, settings=CINN_SETTINGS, leave_out="b", **networks, **options
        )

    train("whole.safetensors")
    checkpoint = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        train("parts.safetensors", checkpoint=checkpoint, progress=Kill())
    assert (
        checkpoints.load(checkpoint)["step"] == 4 and not (tmp_path / "parts.safetensors").exists()
    )
    torch.manual_seed(17)  # nothing may follow from what happened in the process before
    train("parts.safetensors", checkpoint=checkpoint)
    whole, parts = weights(tmp_path / "whole.safetensors"), weights(tmp_path / "parts.safetensors")
    assert whole.keys() == parts.keys() and all(torch.equal(whole[n], parts[n]) for n in whole)


def test_the_autoencoder_learns_and_its_card_tells_the_held_out_person_apart(pairs, tmp_path):
    settings = replace(
        VAE_SETTINGS,
        steps=60,
        batch=4,
        learning_rate=5e-3,
        average=0.9,
        critic_from=1.0,
        checkpoint_every=20,
    )
    seen = []

    class Look(sampler.Progress):
        def point(self, curve, x, y):
            seen.append((curve, x, y))

    path = train_vae(pairs, tmp_path / "vae.safetensors", settings, "b", progress=Look())
    held_out = [y for curve, x, y in seen if curve == "held-out RMSE (HU)"]
    assert len(held_out) == 3 and held_out[-1] < held_out[0]
    card = models.read_card(path)
    assert card.task == SAMPLING and card.trained_on == ("a",) and card.training["left out"] == "b"
    a, b = (
        card.quality[f"{who}, RMSE of D(E(x)) to x (HU)"]
        for who in ("a, trained on", "b, held out")
    )
    assert b == pytest.approx(held_out[-1], rel=1e-4) and a > 0
    # The figure is what the file's network does, not what the training remembers.
    network, apart = models.load(path).network, [p for p in pairs if p.person == "b"]
    squares = [
        (network(x) - x).square().mean()
        for x in (
            training_pairs.draw_batch(apart, settings, n)[0]
            for n in range(sampler.HELD_OUT_BATCHES)
        )
    ]
    assert b == pytest.approx(
        float(torch.stack(squares).mean().sqrt()) * (CHANNEL.high - CHANNEL.low), rel=1e-4
    )


def test_flows_learn_and_their_card_names_networks_layers_and_people(
    pairs, vae, denoiser, tmp_path
):
    settings = replace(
        CINN_SETTINGS, steps=20, batch=4, learning_rate=5e-3, average=0.9, checkpoint_every=20
    )
    before = {name: w.clone() for name, w in vae.network.vae.state_dict().items()}
    path = train_cinn(pairs, tmp_path / "flows.safetensors", vae, denoiser, settings, "b")
    found = models.load(path)
    assert (
        found.card.training["denoiser SHA-256"] == denoiser.sha256
        and found.card.training["autoencoder SHA-256"] == vae.sha256
    )
    assert found.network.layers == ["layers.2", "output"] and found.card.trained_on == ("a",)
    assert all(torch.equal(w, before[name]) for name, w in found.network.vae.state_dict().items())
    bits = {
        key: value for key, value in found.card.quality.items() if key.endswith("(bits per latent)")
    }
    assert set(bits) == {
        f"{who}, layer {layer} (bits per latent)"
        for who in ("a, trained on", "b, held out")
        for layer in found.network.layers
    }
    start = train_cinn(
        pairs, tmp_path / "start.safetensors", vae, denoiser, replace(settings, steps=1), "b"
    )
    assert all(value < models.read_card(start).quality[key] for key, value in bits.items())
    assert any("D(E(x))" in key for key in found.card.quality)


def test_bits_are_those_of_the_normal_density(vae):
    """An untrained flow with its ActNorms set gives the bits of a normal density.

    The density has each channel's mean and deviation.
    """
    torch.manual_seed(0)
    flows = torch.nn.ModuleList(
        CINN(4, 1, 16, **FLOW, spatial=True, latent_size=4) for _ in range(2)
    )
    latents = 3 + 5 * torch.randn(500, 4, 4, 4)
    z = torch.randn(500, 1, 16, 16)
    bits_per_latent(flows.train(), latents, [z, 2 * z])
    found = bits_per_latent(flows.eval(), latents, [z, 2 * z])
    entropy = 0.5 * torch.log2(2 * torch.pi * torch.e * torch.tensor(25.0))
    torch.testing.assert_close(found, entropy.double().expand(2), rtol=1e-2, atol=0)


def test_the_first_batch_sets_every_scale_also_when_nothing_varies(pairs, vae, denoiser, tmp_path):
    """Nothing becomes infinite on a CT without noise or tissue borders.

    Activations and latents hardly differ there.
    """
    flat = [
        Pair(p, v * torch.ones(40, 40).numpy(), torch.zeros(40, 40).numpy())
        for p, v in (("a", 30.0), ("b", 35.0))
    ]
    path = train_cinn(flat, tmp_path / "flat.safetensors", vae, denoiser, CINN_SETTINGS, "b")
    found = models.load(path)
    assert all(w.isfinite().all() for w in found.network.state_dict().values())
    assert all(torch.isfinite(torch.tensor(v)) for v in found.card.quality.values())
    z = torch.full((1, 1, 32, 32), 0.1)
    assert found.network.given("output", z)(3).isfinite().all()
    for flow in found.network.flows:
        assert flow.initialised and flow.embedder.initialised


def test_the_layers_are_the_denoisers(pairs, vae, denoiser, tmp_path):
    """A number and a name of one layer are one flow; each has its layer's channels."""
    settings = replace(CINN_SETTINGS, layers=("1", "layers.2", "3", "output"), steps=1)
    path = train_cinn(pairs, tmp_path / "flows.safetensors", vae, denoiser, settings)
    card = models.read_card(path)
    assert list(card.arguments["flows"]) == ["layers.0", "layers.2", "output"]
    assert [a["condition_channels"] for a in card.arguments["flows"].values()] == [64, 32, 1]


def test_what_cannot_be_trained_is_refused(pairs, vae, denoiser, tmp_path):
    out = tmp_path / "a.safetensors"
    with pytest.raises(
        LayerError,
        match="no layer 'conv9'; choose 'output' or one of: 1: layers.0, Conv2d, 64 channels; 2:",
    ):
        train_cinn(pairs, out, vae, denoiser, replace(CINN_SETTINGS, layers=("conv9",)))
    for people, leave_out in (
        (pairs, "c"),
        ([p for p in pairs if p.person == "b"], "b"),
        ([], None),
    ):
        with pytest.raises(ValueError, match="nobody"):
            train_cinn(people, out, vae, denoiser, CINN_SETTINGS, leave_out)
        with pytest.raises(ValueError, match="nobody"):
            train_vae(people, out, VAE_SETTINGS, leave_out)
    with pytest.raises(ValueError, match="no autoencoder made by 'train vae'"):
        train_cinn(pairs, out, denoiser, denoiser, CINN_SETTINGS)
    with pytest.raises(ValueError, match="denoiser"):
        train_cinn(
            pairs,
            out,
            vae,
            model(torch.nn.Conv2d(1, 1, 3, padding=1), name="other units"),
            CINN_SETTINGS,
        )
    assert not out.exists()


def test_checkpoints_of_other_networks_are_refused(pairs, vae, denoiser, tmp_path):
    state, out = tmp_path / "state", tmp_path / "a.safetensors"
    train_cinn(pairs, out, vae, denoiser, replace(CINN_SETTINGS, steps=1), checkpoint=state)
    for wrong in (
        {"vae": replace(vae, sha256="1" * 64)},
        {"denoiser": replace(denoiser, sha256="1" * 64)},
        {"leave_out": "b"},
    ):
        with pytest.raises(
            ValueError, match="other settings, or of other people, scans or networks"
        ):
            train_cinn(
                pairs,
                out,
                **{"vae": vae, "denoiser": denoiser, **wrong},
                settings=replace(CINN_SETTINGS, steps=1),
                checkpoint=state,
            )
    with pytest.raises(ValueError, match="other settings"):
        train_vae(pairs, out, VAE_SETTINGS, checkpoint=state)


TWO = """
import sys
from test_invariance_training import CINN_SETTINGS, VAE_SETTINGS, made_up_pairs
from NetInversionLib import models
from NetInversionLib.training.sampler import train_cinn, train_vae
if len(sys.argv) == 2:
    train_vae(made_up_pairs(), sys.argv[1], VAE_SETTINGS, "b")
else:
    train_cinn(made_up_pairs(), sys.argv[1], *map(models.load, sys.argv[2:]), CINN_SETTINGS, "b")
"""


@pytest.mark.parametrize("kind", ["vae", "cinn"])
def test_two_processes_train_what_one_does(kind, made, pairs, vae, denoiser, tmp_path):
    """Also the ActNorms and batch norm's statistics are those of one process.

    The ActNorms are set from the whole first batch. One file is written.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join(sys.path)
    group = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
    }
    command = (
        [str(made / "vae.safetensors"), str(made / "denoiser.safetensors")]
        if kind == "cinn"
        else []
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, str(tmp_path / f"{rank}.safetensors"), *command],
            env={**os.environ, **group, "RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    settings = VAE_SETTINGS if kind == "vae" else CINN_SETTINGS
    if kind == "vae":
        train_vae(pairs, tmp_path / "one.safetensors", settings, "b")
    else:
        train_cinn(pairs, tmp_path / "one.safetensors", vae, denoiser, settings, "b")
    for process in started:
        errors = process.communicate()[1]
        assert process.returncode == 0, errors
    assert not (tmp_path / "1.safetensors").exists()
    one, two = weights(tmp_path / "one.safetensors"), weights(tmp_path / "0.safetensors")
    # Adam makes whole steps of gradients that are rounding: a few weights may differ by that, not
    # all.
    differences = torch.cat([(one[n].float() - two[n].float()).abs().flatten() for n in one])
    step = settings.learning_rate
    assert differences.max() < step * settings.steps and differences.mean() < 0.05 * step


def test_a_batch_that_processes_cannot_share_is_refused(pairs, tmp_path, monkeypatch):
    from NetInversionLib import training

    monkeypatch.setattr(training.Group, "joined", classmethod(lambda cls, device: cls(0, 3)))
    with pytest.raises(ValueError, match="a batch of 2 cannot be shared by 3 processes"):
        train_vae(pairs, tmp_path / "a.safetensors", VAE_SETTINGS)


def test_commands(tmp_path, capsys, made):
    folder = tmp_path / "ct"
    folder.mkdir()
    for n in range(2):
        files.save(
            Volume(made_up_ct(n, slices=1, size=66).array, LPS, "ct", "HU"),
            folder / f"person{n}.nii.gz",
        )
    output = tmp_path / "flows.safetensors"
    networks = [
        "--vae",
        str(made / "vae.safetensors"),
        "--denoiser",
        str(made / "denoiser.safetensors"),
        "--output",
        str(output),
    ]
    assert (
        main(
            [
                "train",
                "cinn",
                str(folder),
                *networks,
                "--steps",
                "1",
                "--layers",
                "3",
                "--leave-out",
                "person1",
            ]
        )
        == 0
    )
    assert str(output) in capsys.readouterr().out and output.with_suffix(".checkpoint").exists()
    assert models.verify(output).card.training["left out"] == "person1"
    assert main(["train", "cinn", str(folder), *networks, "--layers", "77"]) == 1
    assert "no layer '77'; choose 'output' or one of: 1: layers.0" in capsys.readouterr().err
    assert (
        main(["train", "vae", str(folder), "--leave-out", "nobody", "--output", str(output)]) == 1
    )
    assert "there are person0, person1" in capsys.readouterr().err
