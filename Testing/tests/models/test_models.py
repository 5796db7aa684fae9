"""Model files: exact round trip, units, and every kind of bad file refused with a sentence."""

import json
import os
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_models
from safetensors.torch import save_file
from toy_cards import INPUTS, make_card, make_network

from NetInversionLib import models
from NetInversionLib.core.volumes import Volume
from NetInversionLib.models import ModelError
from NetInversionLib.models import model as models_model
from NetInversionLib.models.header import sealed


@pytest.fixture
def file(tmp_path):
    return models.save(tmp_path / "tiny.safetensors", make_network(), make_card())


# -- good files ------------------------------------------------------------------------------------


def test_round_trip_is_exact(tmp_path):
    network = make_network().to(memory_format=torch.channels_last)
    card = make_card(quality={"MAE (HU)": 12.5, "how": "guessed"}, training={"steps": 3})
    model = models.load(models.save(tmp_path / "a.safetensors", network, card))
    assert model.card == card
    image = torch.rand(2, 2, 9, 8)
    torch.testing.assert_close(model(image), network(image), rtol=1e-5, atol=1e-6)
    assert not model.network.training and not any(
        p.requires_grad for p in model.network.parameters()
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(network.state_dict().values(), model.network.state_dict().values())
    )


def test_same_model_same_bytes(tmp_path):
    paths = [models.save(tmp_path / name, make_network(), make_card()) for name in ("a", "b")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_three_dimensional_model(tmp_path):
    network = make_network(dimensions=3)
    card = make_card(
        dimensions=3, arguments={"dimensions": 3, "in_channels": 2, "features": [3, 4]}
    )
    model = models.verify(models.save(tmp_path / "a.safetensors", network, card))
    volumes = [Volume(np.ones((5, 6, 7), np.float32) * n, np.eye(4), "") for n in range(2)]
    images = model.as_images([v.array for v in volumes])
    assert images.shape == (1, 2, 5, 6, 7) and model(images).shape == (1, 1, 5, 6, 7)


def test_half_precision_weights_are_read(tmp_path):
    state = {n: w.half() for n, w in make_network().state_dict().items()}
    path = tmp_path / "half.safetensors"
    save_file(state, path, {"netinversion": json.dumps({"format": 1, **_plain(make_card())})})
    weights = models.load(path).network.state_dict()
    assert all(
        w.dtype == torch.float32 and torch.equal(w, state[n].float()) for n, w in weights.items()
    )


def test_card_without_torch(file):
    script = (
        "import sys; sys.modules['torch'] = None; import NetInversionLib.models as m;"
        f" m.read_card({str(file)!r})"
    )
    subprocess.run(
        [sys.executable, "-c", script], check=True, cwd=Path(models_model.__file__).parents[2]
    )


def test_list_tells_good_from_bad(file, monkeypatch):
    (file.parent / "bad.safetensors").write_bytes(b"nothing")
    found = models.list_models([file.parent, file.parent / "absent"])
    assert found[file] == make_card()
    assert isinstance(found[file.parent / "bad.safetensors"], ModelError) and len(found) == 2
    monkeypatch.setenv("NETINVERSION_MODELS", str(file.parent))
    again = models.list_models()
    assert again[file] == make_card() and found.keys() <= again.keys()


def test_quality_is_recorded_and_weights_stay(file):
    before = models.load(file)
    models.record_quality(file, {"MAE (HU)": 3.0})
    after = models.load(file)
    assert (
        after.card == replace(before.card, quality={"MAE (HU)": 3.0})
        and after.sha256 != before.sha256
    )
    image = torch.rand(1, 2, 8, 8)
    assert torch.equal(before(image), after(image))


def test_task_is_kept_and_older_files_are_image_to_image(file):
    assert make_card().task == "image-to-image"
    for task in ("harmonization", "something yet to come"):
        card = make_card(task=task, orientation="RAS")
        assert models.load(models.save(file, make_network(), card)).card == card
    old = _plain(make_card())
    del old["task"]
    save_file(make_network().state_dict(), file, {"netinversion": json.dumps({"format": 1, **old})})
    assert models.read_card(file) == make_card()


@pytest.mark.parametrize(
    "path", sorted(models.model_folders()[-2].glob("*.safetensors")), ids=lambda p: p.stem
)
def test_shipped_files_load(path):
    assert models.verify(path).card.task in (
        "image-to-image",
        "harmonization",
        "denoising",
        "invariance sampling",
    )


@pytest.mark.parametrize(
    "broken",
    [
        {"task": ""},
        {"task": 3},
        {"inputs": INPUTS[:1]},
        {"arguments": {"in_channels": 2, "features": [3, 5]}},
        {"dimensions": 3},
        {"quality": {"MAE": [1, 2]}},
        {"spacing_mm": (3.0, 1.0)},
        {"inputs": (INPUTS[0], INPUTS[0])},
        {"architecture": "gan"},
        {"orientation": "RAS"},
        {"outputs": (INPUTS[0],)},
    ],
)
def test_save_refuses_a_card_that_is_not_the_networks(tmp_path, broken):
    with pytest.raises(ModelError):
        models.save(tmp_path / "a.safetensors", make_network(), make_card(**broken))
    assert not list(tmp_path.iterdir())


# -- units -----------------------------------------------------------------------------------------


@pytest.fixture
def model(file):
    return models.load(file)


@pytest.fixture
def patient():
    rng = np.random.default_rng(0)
    return [
        Volume(rng.uniform(0, 4000, (3, 8, 9)).astype(np.int16), np.eye(4), "mr"),
        Volume(rng.random((3, 8, 9)), np.eye(4), "fat"),
    ]


def test_scaling_rule(model, patient):
    scaling = model.scalings(patient)
    above = patient[0].array[patient[0].array > patient[0].array.mean()]
    assert [s["role"] for s in scaling] == ["mr", "fat"] and json.loads(
        json.dumps(scaling)
    ) == scaling
    assert scaling[0]["low"] == 0 and scaling[0]["high"] == pytest.approx(
        np.percentile(above, 99) / 0.9
    )
    assert (scaling[1]["low"], scaling[1]["high"]) == (-0.5, 1.5)


def test_scaling_follows_the_scanners_gain(model, patient):
    louder = [patient[0].with_array(patient[0].array * 7.0), patient[1]]
    images = [model.normalise(v, model.scalings(v)) for v in (patient, louder)]
    torch.testing.assert_close(*images)


def test_input_units_there_and_back(model, patient):
    scaling = model.scalings(patient)
    images = model.normalise(patient, scaling)
    assert images.shape == (3, 2, 8, 9) and images.dtype == torch.float32
    torch.testing.assert_close(
        images[:, 1], torch.tensor((patient[1].array + 0.5) / 2, dtype=torch.float32)
    )
    back = model.denormalise(images, scaling)
    torch.testing.assert_close(
        back, model.as_images([v.array for v in patient]), rtol=1e-6, atol=1e-3
    )
    torch.testing.assert_close(model.normalise_tensor(back, scaling), images)
    assert model.scalings_of(back)[0]["high"] == pytest.approx(scaling[0]["high"], rel=1e-5)
    change = model.denormalise_change(torch.full_like(images, 0.1), scaling)
    torch.testing.assert_close(change[:, 0], torch.full((3, 8, 9), 0.1 * scaling[0]["high"]))
    torch.testing.assert_close(change[:, 1], torch.full((3, 8, 9), 0.2))


def test_output_units_there_and_back(model):
    hu = np.array([-1500, -1000, -100, 0, 500, 2000, 3000, 40], np.float32).reshape(2, 2, 2)
    images, clipped = model.normalise_target([Volume(hu, np.eye(4), "ct", "HU")])
    assert clipped == 2 and images.shape == (2, 1, 2, 2)
    torch.testing.assert_close(
        images.flatten(), torch.tensor([0, 0, 0.3, 1 / 3, 0.5, 1, 1, 1040 / 3000])
    )
    torch.testing.assert_close(
        model.denormalise_output(images)[:, 0], torch.from_numpy(hu.clip(-1000, 2000))
    )
    torch.testing.assert_close(model.normalise_target_tensor(torch.from_numpy(hu)[:, None]), images)
    assert model.error_scale == (3000, "HU")


@pytest.mark.parametrize(
    "outputs, scale",
    [
        ((("ct", "HU", -1000.0, 2000.0), ("spr", "HU", 0.0, 3000.0)), (3000, "HU")),
        ((("ct", "HU", -1000.0, 2000.0), ("bone", "HU", 0.0, 1.0)), (100, "% of range")),
        ((("ct", "HU", -1000.0, 2000.0), ("spr", "", 0.0, 3000.0)), (100, "% of range")),
        ((("mask", "", 0.0, 1.0),), (1, "a.u.")),
    ],
)
def test_outputs_without_a_common_unit_have_errors_in_per_cent(outputs, scale):
    assert (
        toy_models.model(
            torch.nn.Identity(), outputs=[toy_models.channel(*o) for o in outputs]
        ).error_scale
        == scale
    )


def test_flipped_and_unsigned_arrays_are_taken(model):
    array = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)[:, ::-1]
    assert np.array_equal(model.as_images([array, array])[:, 1].numpy(), array.astype(np.float32))


def test_wrong_volumes_are_refused(model, patient):
    with pytest.raises(ModelError, match="2 volumes .MR, Fat fraction. and got 1"):
        model.normalise(patient[:1], [])
    with pytest.raises(ModelError, match="one size"):
        model.as_images([np.zeros((3, 4, 5)), np.zeros((3, 4, 6))])
    with pytest.raises(ModelError, match="no positive signal"):
        model.scalings([Volume(np.full((2, 2, 2), 5.0), np.eye(4), ""), patient[1]])


# -- bad files -------------------------------------------------------------------------------------


def _plain(card):
    return json.loads(json.dumps(card, default=lambda c: c.__dict__))


def rewrite(file, change=None, card=None, tail=b""):
    """The file with its header changed: ``change(header)``, ``card(card)``.

    Its sums are right, as whoever means harm would write them.
    """
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    if change:
        header = change(header) or header
    if card:
        values = json.loads(header["__metadata__"]["netinversion"])
        values = card(values) or values
        header["__metadata__"]["netinversion"] = json.dumps(values)
    text = json.dumps(header).encode()
    rewritten = len(text).to_bytes(8, "little") + text + data[8 + length :] + tail
    file.write_bytes(with_right_sums(rewritten))


def with_right_sums(data):
    """A file's bytes with the sums that its content now has, if it still has a place for them."""
    length = int.from_bytes(data[:8], "little")
    found = re.search(rb"[0-9a-f]{64} [0-9a-f]{64}", data[: 8 + length])
    if found is None:
        return data
    return sealed(data.replace(found[0], b"0" * 64 + b" " + b"0" * 64, 1))


def refused(path, words):
    for read in (models.load, models.verify):
        with pytest.raises(ModelError, match=words):
            read(path)


def test_every_truncation_is_noticed(file):
    data = file.read_bytes()
    for length in {0, 1, 7, 8, 9, 100, len(data) // 2, len(data) - 1}:
        file.write_bytes(data[:length])
        with pytest.raises(ModelError, match="incomplete|not a safetensors|appended"):
            models.read_card(file)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**40, models.MAX_HEADER_BYTES + 1, 0, 1])
def test_absurd_header_length(file, length):
    file.write_bytes(length.to_bytes(8, "little") + b"{}" * 100)
    refused(file, "not a safetensors file")


def test_renamed_pickle_is_not_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    (tmp_path / "a").write_bytes(pickle.dumps(Bomb()))
    torch.save(Bomb(), tmp_path / "b")
    for name in ("a", "b"):
        refused(tmp_path / name, "not a safetensors file")
    assert not (tmp_path / "exploded").exists()


def test_foreign_safetensors(tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file(make_network().state_dict(), path)
    refused(path, "no NetInversion card")
    save_file(make_network().state_dict(), path, {"netinversion": "not json"})
    refused(path, "unreadable header")


def test_missing_file_and_folder(tmp_path):
    refused(tmp_path / "absent.safetensors", "cannot read")
    refused(tmp_path, "cannot read")


def first(header):
    return next(name for name in sorted(header) if name != "__metadata__")


def drop(header):
    del header[first(header)]


def rename(header):
    header["stranger"] = header.pop(first(header))


def overlap(header):
    header[first(header)]["data_offsets"] = [0, 4]


def reshape(header):
    entry = header["out.weight"]
    entry["shape"] = entry["shape"][::-1]


def grow(header):
    header["out.weight"]["shape"] = [2**40, 2**40]


@pytest.mark.parametrize(
    "change, words",
    [
        (drop, "damaged|size"),
        (rename, "do not fit.*stranger|do not fit"),
        (overlap, "damaged|size"),
        (reshape, "out.weight"),
        (grow, "size does not match"),
        (lambda h: h["out.weight"].update(dtype="I64"), "damaged"),
        (lambda h: h["out.weight"].update(dtype=["F32"]), "damaged"),
        (lambda h: h["out.weight"].update(shape="abc"), "damaged"),
        (lambda h: h["out.weight"].update(shape=[-3, 1, 1, 1]), "damaged"),
        (lambda h: h["out.weight"].update(data_offsets=[True, 4.0]), "damaged"),
        (lambda h: h.update({"out.weight": 5}), "damaged"),
        (lambda h: h.update({"__metadata__": []}), "no NetInversion card"),
        (lambda h: [1, 2], "not an object"),
    ],
)
def test_damaged_list_of_weights(file, change, words):
    rewrite(file, change)
    refused(file, words)


@pytest.mark.parametrize(
    "values, words",
    [
        ({"format": 3}, "format.*update"),
        ({"format": True}, "format.*update"),
        ({"architecture": "gan"}, "unknown architecture"),
        ({"architecture": 3}, "architecture"),
        ({"arguments": {"in_channels": 2, "features": [10**9]}}, "features"),
        (
            {"arguments": {"in_channels": 2, "features": [512] * 6, "dimensions": 3}},
            "do not fit|dimensions",
        ),
        ({"arguments": {"name": "x"}}, "does not take"),
        ({"arguments": []}, "arguments"),
        ({"inputs": []}, "inputs"),
        ({"inputs": 3}, "not valid"),
        ({"inputs": [{"name": "a"}]}, "Channel needs exactly"),
        ({"dimensions": "2"}, "dimensions"),
        ({"spacing_mm": [1]}, "spacing_mm"),
        ({"spacing_mm": [0, 1]}, "spacing_mm"),
        ({"quality": {"a": {"b": 1}}}, "quality"),
        ({"size_multiple": 0}, "size_multiple"),
        ({"trained_on": "abc"}, "trained_on"),
        ({"licence": None}, "licence"),
        ({"surprise": 1}, "needs exactly"),
        ({"name": "x" * 100_000}, "name"),
    ],
)
def test_card_that_makes_no_sense(file, values, words):
    rewrite(file, card=lambda card: card.update(values))
    refused(file, words)


@pytest.mark.parametrize(
    "values",
    [
        {"low": 5.0, "high": 5.0},
        {"high": None},
        {"percentile": 50.0},
        {"low": "0"},
        {"low": 1e300},
        {"role": "../x"},
        {"low": True},
    ],
)
def test_channel_that_makes_no_sense(file, values):
    rewrite(file, card=lambda card: card["outputs"][0].update(values))
    refused(file, "not valid")


@pytest.mark.parametrize("text", ["NaN", "[" * 100_000, "1" * 10_000, '{"a": Infinity}'])
def test_hostile_json(file, text):
    rewrite(file, lambda h: h["__metadata__"].update(netinversion=text))
    refused(file, "header")


def test_something_appended(file):
    rewrite(file, tail=b"extra")
    refused(file, "appended")


def test_weights_that_are_not_numbers(tmp_path):
    network = make_network()
    with torch.no_grad():
        network.out.weight[0, 0] = torch.nan
    refused(
        models.save(tmp_path / "nan.safetensors", network, make_card()),
        "not finite numbers .out.weight",
    )


def test_dead_network_does_not_verify(tmp_path):
    network = make_network()
    with torch.no_grad():
        network.out.weight.zero_()
    path = models.save(tmp_path / "dead.safetensors", network, make_card())
    with pytest.raises(ModelError, match="gradient is zero"):
        models.verify(path)


def test_the_synthetic_ct_network_opens_without_torch_s_compiler():
    program = (
        "import sys, torch; from NetInversionLib.models import library, load;"
        " before = set(sys.modules);"
        " [load(path) for path in library.shipped() if path.stem == 'dixon-to-synthetic-ct'];"
        " print([name for name in set(sys.modules) - before if '_dynamo' in name])"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
