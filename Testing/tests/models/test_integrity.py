"""Model files cannot change unnoticed, and a small one cannot ask for much time or memory."""

import hashlib
import json
import shutil
import threading
import time
import tracemalloc
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from toy_cards import INPUTS, OUTPUTS, make_card, make_network

from NetInversionLib import models, networks
from NetInversionLib.models import ModelError, header, skeleton, sums
from NetInversionLib.networks import cinn, flow, vae

SHIPPED = models.model_folders()[-2]
PROBES = Path(__file__).parents[2] / "models"
CHECKED = [SHIPPED, PROBES, PROBES / "second"]
CHECKED_FOLDERS = pytest.mark.parametrize("folder", CHECKED, ids=lambda f: f.name)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    return models.save(folder / "small.safetensors", make_network(), make_card())


def older(path, card=None):
    """A file as versions before the sums wrote it."""
    text = json.dumps({"format": 1, **asdict(card or make_card())})
    save_file(make_network().state_dict(), path, {models.METADATA_KEY: text})
    return path


# -- sums ------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_bit_changes_unnoticed(small, tmp_path_factory, data):
    content = bytearray(small.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("flipped") / "flipped.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError):
        models.load(path)
    if place < header.read(small).start:
        with pytest.raises(ModelError):
            models.read_card(path)


def test_the_sums_are_sha_256_of_header_and_weights(small):
    content, found = small.read_bytes(), header.read(small)
    weights = hashlib.sha256(content[found.start :]).hexdigest()
    assert found.weights_sum == weights
    own = content.split(weights.encode())[0][-65:-1]
    blank = content[: found.start].replace(own, b"0" * 64)
    assert hashlib.sha256(blank).hexdigest() == own.decode()
    model = models.load(small)
    assert model.protected and model.sha256 == hashlib.sha256(content).hexdigest()


def test_files_of_older_versions_load_and_are_said_to_be_unprotected(tmp_path):
    model = models.load(older(tmp_path / "older.safetensors"))
    assert model.card == make_card() and not model.protected
    models.record_quality(model.path, {"MAE (HU)": 1.0})
    assert models.load(model.path).protected


def test_a_card_cannot_stand_for_the_place_of_the_sums(tmp_path):
    zeros = "0" * 64 + " " + "0" * 64
    with pytest.raises(ModelError, match="zeros"):
        models.save(tmp_path / "a.safetensors", make_network(), make_card(sources=zeros))
    assert not list(tmp_path.iterdir())


# -- lists of sums ---------------------------------------------------------------------------------


@CHECKED_FOLDERS
def test_the_published_sums_are_those_of_the_files(folder):
    """If a model was trained again: sha256sum *.safetensors > SHA256SUMS in its folder."""
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.glob("*.safetensors")
    }
    assert sums.listed(folder) == found


def test_shipped_files_are_protected():
    assert all(models.load(path).protected for path in SHIPPED.glob("*.safetensors"))


def test_a_file_that_is_not_what_its_folders_list_says_is_refused(tmp_path):
    path = older(tmp_path / "a.safetensors")
    line = f"{hashlib.sha256(path.read_bytes()).hexdigest()}  a.safetensors\n"
    (tmp_path / sums.NAME).write_text(line)
    assert models.load(path).protected
    (tmp_path / sums.NAME).write_text(("f" if line[0] != "f" else "0") + line[1:])
    with pytest.raises(ModelError, match="SHA256SUMS"):
        models.load(path)
    for damaged in ("not a sum", "\xe9" * 80):
        (tmp_path / sums.NAME).write_text(damaged, "latin-1")
        with pytest.raises(ModelError, match="list of sums"):
            models.load(path)


def test_saving_keeps_the_list_of_the_folder_right(tmp_path):
    path = older(tmp_path / "a.safetensors")
    (tmp_path / sums.NAME).write_text(f"{'1' * 64}  a.safetensors\n{'2' * 64}  b.safetensors\n")
    models.save(path, make_network(1), make_card())
    assert sums.listed(tmp_path) == {
        "a.safetensors": models.load(path).sha256,
        "b.safetensors": "2" * 64,
    }
    models.save(tmp_path / "c.safetensors", make_network(1), make_card())
    assert "c.safetensors" not in sums.listed(tmp_path)


@pytest.mark.parametrize("where", ["header", "weights", "both"])
def test_a_damaged_copy_of_a_shipped_file_is_refused_wherever_it_lies(tmp_path, where):
    # A file of format 1, which holds no sum of its own.
    original = SHIPPED / "ct-denoiser-cnn10.safetensors"
    copy = tmp_path / "copy.safetensors"
    shutil.copy(original, copy)
    assert models.load(copy).card == models.read_card(original)
    content = bytearray(copy.read_bytes())
    if where in ("weights", "both"):
        content[-4000] ^= 1
    if where in ("header", "both"):
        place = content.index(b"CT denoiser")
        content[place : place + 2] = b"MR"
    copy.write_bytes(content)
    with pytest.raises(ModelError, match="copy of ct-denoiser-cnn10"):
        models.load(copy)


# -- time and memory -------------------------------------------------------------------------------

WIDEST_FLOW = {
    "channels": 8,
    "condition_channels": 4,
    "condition_size": 8,
    "blocks": cinn.RANGES["blocks"][1],
    "hidden": 1,
    "depth": cinn.RANGES["depth"][1],
    "features": 1,
    "downs": 0,
    "spatial": True,
}
SMALL_VAE = {
    "latents": 8,
    "condition_channels": 0,
    "encoder": "resnet101",
    "encoder_width": 1,
    "blocks": 2,
    "decoder_width": 1,
    "attention": False,
    "spatial": True,
}
GREEDY = {
    "ct_sampler": {"vae": SMALL_VAE, "flows": {str(n): WIDEST_FLOW for n in range(64)}},
    "cinn": WIDEST_FLOW,
    "ct_vae": {"latents": vae.RANGES["latents"][1], "encoder": "resnet101", "encoder_width": 128},
    "conditional_flow": {**flow.MOST, "features": [512] * 6},
    "mrflow": {
        "flow": {**flow.MOST, "features": [512] * 6},
        "statistics": {f"s{n}": [1] for n in range(5000)},
    },
    "unet": {"features": [512] * 6, "in_channels": 2},
    "voxel_unet": {"features": [512] * 6, "voxel_features": 512},
    "redcnn": {"out_ch": 512},
    "corrector": {"blocks": 288, "rank": 512, "components": 288},
}


@pytest.mark.parametrize("architecture", GREEDY)
def test_a_small_file_is_refused_at_once_whatever_its_card_asks_for(tmp_path, architecture):
    """The worst of these took 240 s."""
    path = tmp_path / "greedy.safetensors"
    card = make_card(architecture=architecture, arguments=GREEDY[architecture])
    text = json.dumps({"format": 1, **asdict(card)})
    save_file({"a": torch.zeros(4)}, path, {models.METADATA_KEY: text})
    models.load(SHIPPED / "ct-denoiser-cnn10.safetensors")  # what loads lazily is there now
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(ModelError, match="do not fit|dimensions|channels"):
        models.load(path)
    took, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert took < 1 and peak < 2 * path.stat().st_size + 2e6


def test_weights_lie_in_memory_once(tmp_path):
    network = make_network(features=[64, 256])
    card = make_card(arguments={"in_channels": 2, "features": [64, 256]})
    path = models.save(tmp_path / "large.safetensors", network, card)
    tracemalloc.start()
    model = models.load(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert model.protected and peak < 1.5 * path.stat().st_size


def test_a_header_of_brackets_takes_no_memory(tmp_path):
    path = tmp_path / "brackets.safetensors"
    text = b'{"a": [' + b"[]," * 300_000 + b"[]]}"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    tracemalloc.start()
    with pytest.raises(ModelError, match="parts"):
        models.load(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * len(text)


def test_the_bound_is_that_of_the_thread_that_loads():
    """Another thread builds what it likes meanwhile, and nothing stays behind."""
    with skeleton.within([]):
        built = []
        thread = threading.Thread(target=lambda: built.append(make_network()))
        thread.start()
        thread.join()
        assert built
        with pytest.raises(skeleton.TooMuch):
            make_network()
    make_network()


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.safetensors")), ids=lambda path: path.stem)
def test_what_a_network_registers_is_its_state(path):
    """Else the bound would refuse a network that fits."""
    card = models.read_card(path)
    with torch.device("meta"):
        network = networks.build(card.architecture, **card.arguments)
    shapes = [tuple(weight.shape) for weight in network.state_dict().values()]
    with torch.device("meta"), skeleton.within(shapes):
        networks.build(card.architecture, **card.arguments)


# -- text ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["\x1b[31m", "\r", "\x9b", "\u202e", "\x00", "\ud800", "\x7f"])
@pytest.mark.parametrize("field", ["name", "licence", "quality", "arguments", "inputs"])
def test_a_card_holds_nothing_that_steers_a_terminal(tmp_path, field, bad):
    values = {
        "quality": {f"MAE{bad}": 1.0},
        "arguments": {"in_channels": 2, "features": [3, 4], bad: 1},
        "inputs": [{**asdict(INPUTS[0]), "units": bad}, asdict(INPUTS[1])],
    }
    card = {**asdict(make_card()), field: values.get(field, f"a{bad}b")}
    path = tmp_path / "a.safetensors"
    save_file(
        make_network().state_dict(),
        path,
        {models.METADATA_KEY: json.dumps({"format": 1, **card})},
    )
    with pytest.raises(ModelError, match="control characters") as error:
        models.load(path)
    assert str(error.value).isprintable()


def test_line_ends_tabs_and_foreign_letters_are_text(tmp_path):
    card = make_card(intended_use="a\n\tb", sources="Zürich, 東京, עברית \u00a0", outputs=OUTPUTS)
    assert models.load(models.save(tmp_path / "a.safetensors", make_network(), card)).card == card
