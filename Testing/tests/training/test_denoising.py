"""Training denoisers: pairs of known noise, both losses, and honest cards.

A training resumes to the same weights, also with two processes.
"""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_denoising import SMALL, made_up_ct
from toy_models import LPS

from NetInversionLib import models
from NetInversionLib.cli import main
from NetInversionLib.core import files
from NetInversionLib.core.volumes import Volume
from NetInversionLib.training import checkpoint as checkpoints
from NetInversionLib.training import denoiser
from NetInversionLib.training import pairs as pairs_module
from NetInversionLib.training.pairs import Pair, draw_batch, normalised, pairs_of


@pytest.fixture(scope="module")
def pairs():
    return [
        pair
        for n, person in enumerate("ab")
        for pair in pairs_of(made_up_ct(n), person, SMALL, number=n)
    ]


def weights(path):
    return {name: w.clone() for name, w in models.load(path).network.state_dict().items()}


def test_pairs_are_the_slices_and_their_simulated_noise(pairs):
    assert len(pairs) == 6 and {pair.person for pair in pairs} == {"a", "b"}
    np.testing.assert_array_equal(pairs[0].normal, made_up_ct(0).array[0])
    inside = pairs[0].normal > -500
    assert abs(pairs[0].noise[inside].mean()) < pairs[0].noise[inside].std()
    again = pairs_of(made_up_ct(0), "a", SMALL)
    assert np.array_equal(again[1].noise, pairs[1].noise) and not np.array_equal(
        again[0].noise, again[1].noise
    )


def test_a_batch_is_normal_dose_plus_noise_of_either_sign_turned_alike():
    rng = np.random.default_rng(0)
    pair = Pair(
        "a",
        rng.normal(0, 50, (40, 40)).astype(np.float32),
        rng.normal(0, 20, (40, 40)).astype(np.float32),
    )
    low, normal = draw_batch([pair], replace(SMALL, batch=30), 3)
    assert low.shape == normal.shape == (30, 1, 24, 24)
    noise = (low - normal).numpy()[:, 0] * 502.18507379395044
    corners = [
        (sign * turned).ravel()
        for sign in (1, -1)
        for k in range(4)
        for flip in (1, -1)
        for turned in [np.rot90(pair.noise[:, ::flip], k)]
    ]
    # Every patch of noise occurs in some turn of the whole noise image, with some sign.
    whole = [np.lib.stride_tricks.sliding_window_view(c.reshape(40, 40), (24, 24)) for c in corners]
    for patch in noise:
        assert min(np.abs(w - patch).max((2, 3)).min() for w in whole) < 1e-2
    assert torch.equal(low, draw_batch([pair], replace(SMALL, batch=30), 3)[0])


def test_units_are_the_published_ones():
    assert float(normalised(torch.tensor(0.0))) == pytest.approx(
        (1024 - 481.45419786099086) / 502.18507379395044
    )


@pytest.mark.parametrize("loss", ["mse", "wgan"])
def test_a_killed_training_ends_with_the_same_weights(pairs, tmp_path, loss):
    features = None
    settings = replace(SMALL, loss=loss)
    if loss == "wgan":
        denoiser.train(
            pairs,
            tmp_path / "features.safetensors",
            replace(SMALL, architecture="cnn10", arguments=(), steps=2),
        )
        features = models.load(tmp_path / "features.safetensors")
    denoiser.train(pairs, tmp_path / "whole.safetensors", settings, features=features)

    class Kill(denoiser.Progress):
        def report(self, fraction, message):
            if fraction > 0.9:
                raise KeyboardInterrupt

    checkpoint = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        denoiser.train(
            pairs, tmp_path / "parts.safetensors", settings, None, checkpoint, features, Kill()
        )
    assert checkpoints.load(checkpoint)["step"] == 11
    denoiser.train(pairs, tmp_path / "parts.safetensors", settings, None, checkpoint, features)
    whole, parts = weights(tmp_path / "whole.safetensors"), weights(tmp_path / "parts.safetensors")
    assert all(torch.equal(whole[n], parts[n]) for n in whole)
    card = models.read_card(tmp_path / "whole.safetensors")
    assert card.task == "denoising" and card.training["loss"] == loss
    assert ("features" in card.training) == (loss == "wgan")


def test_a_checkpoint_of_another_training_is_refused(pairs, tmp_path):
    denoiser.train(
        pairs, tmp_path / "a.safetensors", replace(SMALL, steps=5), checkpoint=tmp_path / "state"
    )
    with pytest.raises(ValueError, match="other settings"):
        denoiser.train(
            pairs,
            tmp_path / "a.safetensors",
            replace(SMALL, steps=5, patch=25),
            checkpoint=tmp_path / "state",
        )


def test_training_removes_noise_from_a_person_not_trained_on(pairs, tmp_path):
    settings = replace(
        SMALL, steps=150, batch=8, learning_rate=3e-3, average=0.9, arguments=(("out_ch", 8),)
    )
    path = denoiser.train(pairs, tmp_path / "a.safetensors", settings, leave_out="b")
    table = denoiser.evaluate(pairs, models.load(path).network, "b")
    assert table.columns["held out"] == [False, True]
    assert all(
        after < before
        for before, after in zip(table.columns["low dose"], table.columns["denoised"])
    )
    card = models.read_card(path)
    assert (
        card.trained_on == ("a",)
        and any("b, held out" in key for key in card.quality)
        and "SIMULATED" in card.intended_use
    )


def test_what_cannot_be_trained_is_refused(pairs, tmp_path):
    out = tmp_path / "a.safetensors"
    with pytest.raises(ValueError, match="nobody is called 'c'; there are a, b"):
        denoiser.train(pairs, out, SMALL, leave_out="c")
    with pytest.raises(ValueError, match="--features"):
        denoiser.train(pairs, out, replace(SMALL, loss="wgan"))
    with pytest.raises(ValueError, match="is it a CT in HU"):
        pairs_of(Volume(np.full((2, 9, 9), 100.0, np.float32), LPS, "mr", ""), "a", SMALL)
    for wrong in ({"loss": "l1"}, {"dose": (0.5, 0.1)}, {"dose": (0.0, 0.5)}):
        with pytest.raises(ValueError):
            replace(SMALL, **wrong)
    assert not out.exists()


TWO = """
import sys
from test_denoising import SMALL, made_up_ct
from NetInversionLib.training import checkpoint as checkpoints
from NetInversionLib.training import denoiser
from NetInversionLib.training.pairs import pairs_of
pairs = [
    pair
    for n, person in enumerate("ab")
    for pair in pairs_of(made_up_ct(n), person, SMALL, number=n)
]
denoiser.train(pairs, sys.argv[1], SMALL)
"""


def test_two_processes_train_what_one_does(tmp_path):
    """Batches shared between two processes give the same weights, but for rounding.

    One file is written.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join(sys.path)

    def start(name, **more):
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}
        return subprocess.Popen(
            [sys.executable, "-c", TWO, str(tmp_path / name)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        start("two.safetensors", **group, RANK="0", LOCAL_RANK="0"),
        start("second.safetensors", **group, RANK="1", LOCAL_RANK="1"),
        start("one.safetensors"),
    ]
    for process in started:
        errors = process.communicate()[1]
        assert process.returncode == 0, errors
    assert not (tmp_path / "second.safetensors").exists()
    one, two = weights(tmp_path / "one.safetensors"), weights(tmp_path / "two.safetensors")
    assert (
        max(float((one[n] - two[n]).abs().max()) for n in one)
        < 0.2 * SMALL.learning_rate * SMALL.steps
    )


def test_command(tmp_path, capsys):
    folder = tmp_path / "ct"
    folder.mkdir()
    for n in range(2):
        files.save(made_up_ct(n), folder / f"person{n}.nii.gz")
    output = tmp_path / "denoiser.safetensors"
    assert (
        main(
            [
                "train",
                "denoiser",
                str(folder),
                "--architecture",
                "redcnn",
                "--arguments",
                json.dumps({"out_ch": 2}),
                "--leave-out",
                "person1",
                "--output",
                str(output),
                "--steps",
                "3",
                "--every",
                "2",
            ]
        )
        == 0
    )
    assert str(output) in capsys.readouterr().out and output.with_suffix(".checkpoint").exists()
    assert models.verify(output).card.arguments == {"out_ch": 2}
    assert (
        main(
            [
                "train",
                "denoiser",
                str(folder),
                "--leave-out",
                "nobody",
                "--output",
                str(output),
                "--steps",
                "3",
            ]
        )
        == 1
    )
    assert "there are person0, person1" in capsys.readouterr().err


def test_simulated_noise_is_kept_and_made_anew_where_anything_differs(tmp_path, monkeypatch):
    ct = made_up_ct()
    first = pairs_of(ct, "a", SMALL, number=3, cache=tmp_path)
    fresh = pairs_of(ct, "a", SMALL, number=3)
    assert all(np.array_equal(one.noise, other.noise) for one, other in zip(first, fresh))
    made = []
    monkeypatch.setattr(
        pairs_module, "simulated_noise", lambda hu, *others: made.append(1) or hu.numpy() * 0
    )
    again = pairs_of(ct, "b", SMALL, number=3, cache=tmp_path)
    assert not made and all(np.array_equal(a.noise, b.noise) for a, b in zip(first, again))
    for other in (
        (made_up_ct(1), SMALL, 3),
        (ct, replace(SMALL, noise_hu=50.0), 3),
        (ct, replace(SMALL, seed=1), 3),
        (ct, SMALL, 4),
    ):
        volume, settings, number = other
        pairs_of(volume, "a", settings, number=number, cache=tmp_path)
    assert len(made) == 4
    damaged = min(tmp_path.iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(ValueError, match="delete it"):
        for volume, settings, number in (
            (ct, SMALL, 3),
            (ct, SMALL, 4),
            (made_up_ct(1), SMALL, 3),
            (ct, replace(SMALL, noise_hu=50.0), 3),
            (ct, replace(SMALL, seed=1), 3),
        ):
            pairs_of(volume, "a", settings, number=number, cache=tmp_path)


def test_settings_of_a_paper_are_refused_for_a_network_without_one():
    assert denoiser.as_published("redcnn").patch == 55
    with pytest.raises(ValueError, match="only for cnn10, redcnn, wganvgg"):
        denoiser.as_published("unet")
