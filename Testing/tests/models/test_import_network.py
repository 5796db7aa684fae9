"""Network files of all kinds: imported with the same numbers as before, or refused in words."""

import importlib.util
import json
import os
import pickle
import random
import re
import shutil
import sys
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import test_cinn
import test_vae
import torch
import toy_models
from safetensors.torch import save_file

from NetInversionLib import cli, invariances, models, networks
from NetInversionLib.invariances.layers import layer_titles
from NetInversionLib.models import ModelError
from NetInversionLib.models.foreign import bundle, cards, formats, importing, trust
from NetInversionLib.models.foreign.importing import Wishes, import_network
from NetInversionLib.networks.layers import UpTo

pytestmark = pytest.mark.skipif(
    formats.torch_is_unsafe(), reason="checkpoints: PyTorch before 2.6 opens none safely"
)
MUTANTS = int(os.environ.get("NETINVERSION_MUTANTS", 40))
CODE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.down = nn.Conv2d(width, width, 2, stride=2)
        self.up = nn.ConvTranspose2d(width, 1, 2, stride=2)

    def forward(self, x):
        return x + self.up(torch.tanh(self.down(torch.relu(self.first(x)))))
"""
TOLD = {
    "inputs": [{"name": "T1", "scaling": "range", "low": 0, "high": 2, "to": (0, 2)}],
    "outputs": [{"name": "CT", "scaling": "range", "low": -1, "high": 3, "to": (-1, 3)}],
}


@pytest.fixture(autouse=True)
def settings(tmp_path, monkeypatch):
    """The user's list of trusted files is this test's own."""
    monkeypatch.setenv("NETINVERSION_SETTINGS", str(tmp_path / "settings"))


@pytest.fixture
def code(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(CODE)
    return path


@pytest.fixture
def network(tmp_path):
    """The reference network, in this process."""
    path = tmp_path / "reference_net.py"
    path.write_text(CODE)
    found = importlib.util.spec_from_file_location("reference_net", path)
    place = importlib.util.module_from_spec(found)
    found.loader.exec_module(place)
    torch.manual_seed(3)
    return place.Net().eval()


def yes(path, kind, sha256):
    return True


def never(path, kind, sha256):
    raise AssertionError(f"{path} was asked about")


def export(network, kind, folder, code):
    """A file of a kind, and what has to be said with it."""
    wishes = {"description": TOLD}
    if kind in ("state dict", "safetensors", "lightning", "KonfAI"):
        wishes["architecture"] = f"{code}:Net"
    if kind == "safetensors":
        save_file(network.state_dict(), folder / "own.safetensors")
        return folder / "own.safetensors", wishes
    suffix = {"torch.export": ".pt2", "ONNX": ".onnx", "ONNX of PyTorch": ".onnx"}.get(kind, ".pt")
    path = folder / f"own{suffix}"
    if kind == "state dict":
        torch.save(network.state_dict(), path)
    elif kind == "lightning":
        state = {f"model.{name}": weight for name, weight in network.state_dict().items()}
        torch.save({"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}}, path)
    elif kind == "KonfAI":
        state = {f"model.{name}": weight for name, weight in network.state_dict().items()}
        whole = {"epoch": 3, "it": 9, "loss": 0.1, "Model": {"Net": state}, "Net_it": 9}
        torch.save({**whole, "Net_optimizer_state_dict": {"state": {}}}, path)
    elif kind == "TorchScript":
        torch.jit.script(network).save(path)
    elif kind == "torch.export":
        if not hasattr(torch.export.Dim, "DYNAMIC"):
            pytest.skip("torch.export: sizes that change need a later PyTorch")
        sizes = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC}
        sizes[3] = torch.export.Dim.DYNAMIC
        example = (torch.rand(2, 1, 32, 48),)
        torch.export.save(torch.export.export(network, example, dynamic_shapes=(sizes,)), path)
    elif kind == "ONNX":
        write_onnx(network, path)
    elif kind == "ONNX of PyTorch":
        pytest.importorskip("onnxscript")
        free = {axis: torch.export.Dim.DYNAMIC for axis in (0, 2, 3)}
        images = torch.rand(2, 1, 32, 48)
        torch.onnx.export(
            network, (images,), path, dynamo=True, dynamic_shapes=(free,), external_data=False,
            verbose=False,
        )  # fmt: skip
    elif kind == "bundle":
        make_bundle(network, folder / "own_bundle")
        path = Path(shutil.make_archive(str(folder / "own"), "zip", folder, "own_bundle"))
        wishes = {"description": {**TOLD, "orientation": "LPS", "dimensions": 2}}
    return path, wishes


def write_onnx(network, path):
    """The reference network as an ONNX graph, put together by hand."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    weights = [
        numpy_helper.from_array(weight.numpy(), name)
        for name, weight in network.state_dict().items()
    ]

    def conv(kind, layer, taken, given, kernel, stride, pads):
        names = [taken, f"{layer}.weight", f"{layer}.bias"]
        return helper.make_node(
            kind, names, [given], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pads] * 4
        )

    nodes = [
        conv("Conv", "first", "x", "a", 3, 1, 1),
        helper.make_node("Relu", ["a"], ["b"]),
        conv("Conv", "down", "b", "c", 2, 2, 0),
        helper.make_node("Tanh", ["c"], ["d"]),
        conv("ConvTranspose", "up", "d", "e", 2, 2, 0),
        helper.make_node("Add", ["x", "e"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1, "h", "w"])
        for name in ("x", "y")
    ]
    graph = helper.make_graph(nodes, "own", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, path)


def with_converter(monkeypatch):
    """The converter, with a stand-in for the two operators that it takes from torchvision."""
    import types

    pytest.importorskip("onnx")
    if importlib.util.find_spec("onnx2torch") is None:
        pytest.skip("ONNX: the package onnx2torch is not installed")
    if importlib.util.find_spec("torchvision") is None:
        for name in ("torchvision", "torchvision.ops"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules["torchvision"].ops = sys.modules["torchvision.ops"]
        sys.modules["torchvision.ops"].nms = sys.modules["torchvision.ops"].roi_align = None


KINDS = ("state dict", "safetensors", "lightning", "TorchScript", "torch.export", "ONNX")
EXPORTS = (*KINDS, "ONNX of PyTorch", "bundle", "KonfAI")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", EXPORTS)
def test_an_imported_network_gives_the_same_outputs_and_gradients(
    kind, network, code, tmp_path, monkeypatch
):
    if kind.startswith("ONNX"):
        with_converter(monkeypatch)
    (tmp_path / "in").mkdir()
    path, wishes = export(network, kind, tmp_path / "in", code)
    made = import_network(path, Wishes(**wishes, folder=tmp_path / "out"), yes)
    model = models.load(made)
    assert models.read_card(made).inputs[0].role == "t1"
    assert [made] == [p for p in models.list_models([tmp_path / "out"])]

    x = torch.rand(2, 1, 20, 31)  # a size that it has to pad
    ours = x.clone().requires_grad_()
    output = model(ours) * 4 - 1
    padded = torch.nn.functional.pad(x, (0, 1, 0, 0), mode="replicate").requires_grad_()
    theirs = network(padded * 2)[..., :31]
    weights = torch.rand(output.shape)
    (slope,) = torch.autograd.grad((output * weights).sum(), ours)
    (expected,) = torch.autograd.grad((theirs * weights).sum(), padded)
    expected[..., 30] += expected[..., 31]  # what is repeated beyond the border
    torch.testing.assert_close(output, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(slope, expected[..., :31], rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_a_bundle_fills_the_description_from_its_metadata(network, tmp_path, code):
    folder = make_bundle(network, tmp_path / "brain_bundle")
    told = bundle.describe(folder)
    assert [i.name for i in told.inputs] == ["T1"] and told.inputs[0].to == (0.0, 2.0)
    assert (told.orientation, told.axes, told.dimensions) == ("RAS", "ijk", 2)
    assert (told.size_multiple, told.smallest_size) == (2, 2)
    made = import_network(folder, Wishes(folder=tmp_path / "out"), yes)
    x = torch.rand(1, 1, 8, 10)
    turned = (2 * x).flip((-1, -2)).transpose(2, 3)
    expected = network(turned).transpose(2, 3).flip((-1, -2))
    torch.testing.assert_close(models.load(made)(x) * 4 - 1, expected, rtol=1e-4, atol=1e-5)

    archive = shutil.make_archive(str(tmp_path / "zipped"), "zip", tmp_path, "brain_bundle")
    assert formats.kind_of(archive) == formats.BUNDLE and bundle.describe(archive) == told


def make_bundle(network, folder):
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    torch.jit.script(network).save(folder / "models" / "model.ts")
    entry = {
        "type": "image",
        "format": "magnitude",
        "num_channels": 1,
        "spatial_shape": ["2*n", "2*n"],
        "dtype": "float32",
        "value_range": [0, 2],
        "is_patch_data": False,
        "channel_def": {"0": "T1"},
    }
    given = {**entry, "value_range": [-1, 3], "channel_def": {"0": "CT"}}
    metadata = {
        "name": "brain",
        "network_data_format": {"inputs": {"image": entry}, "outputs": {"pred": given}},
    }
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS[:5])
def test_the_layers_of_an_imported_network_have_its_own_names(kind, network, code, tmp_path):
    path, wishes = export(network, kind, tmp_path, code)
    made = import_network(path, Wishes(**wishes), yes)
    titles, model = layer_titles(str(made)), models.load(made)
    x = torch.rand(1, 1, 12, 14)
    assert torch.equal(UpTo(model.network, "output", x)(x), model(x))
    if kind not in ("TorchScript", "torch.export"):
        assert list(titles) == ["first", "relu", "down", "tanh", "up", "add"]
    for name in titles:
        assert UpTo(model.network, name, x)(x).shape[0] == 1


def test_an_operator_that_is_not_known_is_named(network, tmp_path, monkeypatch):
    with_converter(monkeypatch)
    from onnx import TensorProto, helper, save

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 8, 8]) for name in "xy"]
    node = helper.make_node("Bernoulli", ["x"], ["y"])
    graph = helper.make_graph([node], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])
    model.ir_version = 8
    save(model, tmp_path / "b.onnx")
    with pytest.raises(ModelError, match="'ai.onnx': 15.*Bernoulli; not known.*all: Bernoulli"):
        import_network(tmp_path / "b.onnx", ask=yes)


# Trust --------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_what_can_run_code_is_asked_about_once_and_only_that(network, code, tmp_path):
    asked = []

    def ask(path, kind, sha256):
        asked.append((path.name, sha256))
        return True

    path, wishes = export(network, "TorchScript", tmp_path, code)
    made = import_network(path, Wishes(**wishes, folder=tmp_path / "out"), ask)
    assert asked == [("own.pt", trust.sha256_of(path))]
    again = Wishes(**wishes, folder=tmp_path / "out", overwrite=True)
    import_network(path, again, never)
    trust.forget(trust.sha256_of(path)[:10])
    with pytest.raises(ModelError, match="can run code.*SHA-256"):
        models.load(made)  # a card that came with a file trusts nothing


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["TorchScript", "torch.export", "ONNX", "state dict"])
def test_without_the_users_word_nothing_runs_and_nothing_is_written(kind, network, code, tmp_path):
    (tmp_path / "in").mkdir()
    code.write_text(CODE + f"\nopen({str(tmp_path / 'ran')!r}, 'w')\n")
    path, wishes = export(network, kind, tmp_path / "in", code)
    with pytest.raises(ModelError, match="without your word.*SHA-256 is [0-9a-f]{64}"):
        import_network(path, Wishes(**wishes, folder=tmp_path / "out"))
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["TorchScript", "published weights"])
def test_a_model_that_is_there_is_not_replaced_unasked(kind, network, code, tmp_path):
    """Neither the model or card, nor another network's file beside it."""
    out = tmp_path / "out"
    if kind == "published weights":
        path, wishes = tmp_path / "espcn.pth", {"name": "mine"}
        torch.save(networks.build("dncnn").state_dict(), path)
    else:
        path, wishes = export(network, kind, tmp_path, code)
    made = import_network(path, Wishes(**wishes, folder=out), yes)
    before = {one.name: one.read_bytes() for one in out.iterdir()}
    for asked in ({}, {"name": "other"} if kind == "TorchScript" else {}):
        if asked:  # the same name of a file, and another content
            (out / path.name).write_bytes(b"another network's")
            before[path.name] = b"another network's"
        with pytest.raises(ModelError, match="is there already.*--overwrite"):
            import_network(path, Wishes(**{**wishes, **asked}, folder=out), yes)
        assert {one.name: one.read_bytes() for one in out.iterdir()} == before
    assert import_network(path, Wishes(**wishes, folder=out, overwrite=True), yes) == made
    assert models.load(made)


@pytest.mark.filterwarnings("ignore")
def test_a_file_or_class_that_changed_is_refused(network, code, tmp_path):
    path, wishes = export(network, "state dict", tmp_path, code)
    made = import_network(path, Wishes(**wishes), yes)
    code.write_text(CODE + "\n# another\n")
    with pytest.raises(ModelError, match="net.py can run code"):
        models.load(made)
    trust.trust(trust.sha256_of(code), "net.py")
    with pytest.raises(ModelError, match="has changed since own.pt was imported"):
        models.load(made)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ModelError, match="not the file that was imported"):
        models.load(made)


def test_an_installed_package_is_asked_about_before_any_of_it_runs(network, tmp_path, monkeypatch):
    """By what lies in all of its files; and it runs in a process of its own."""
    package = tmp_path / "site" / "own_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (package / "nets.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(package.parent))
    torch.save(network.state_dict(), tmp_path / "own.pt")
    wishes = Wishes("own_package.nets:Net", description=TOLD)
    asked = []
    with pytest.raises(ModelError, match="own_package .*without your word"):
        import_network(tmp_path / "own.pt", wishes, lambda *of: asked.append(of) or False)
    assert not (tmp_path / "ran").exists() and "own_package" not in sys.modules
    assert asked == [(package, "Python code", trust.code_sha256(package))]
    made = import_network(tmp_path / "own.pt", wishes, yes)
    assert (tmp_path / "ran").exists() and models.runs_code(made)
    (package / "__pycache__").mkdir(exist_ok=True)
    (package / "__pycache__" / "nets.pyc").write_bytes(b"x")  # what Python compiles does not count
    import_network(tmp_path / "own.pt", replace(wishes, overwrite=True), never)
    for name in [name for name in sys.modules if name.startswith("own_package")]:
        monkeypatch.delitem(sys.modules, name)
    (package / "__init__.py").write_text("")
    with pytest.raises(ModelError, match="own_package can run code"):
        models.load(made)


def test_a_registered_architecture_runs_no_code_of_others(tmp_path):
    state = networks.build("espcn", scale=2, widths=(3, 3)).state_dict()
    torch.save(state, tmp_path / "espcn.pth")
    assert not models.runs_code(import_network(tmp_path / "espcn.pth", ask=never))
    assert trust.code_of("espcn") is None
    with pytest.raises(ModelError, match="part of Python itself"):
        trust.code_of("sys:exit")


@pytest.mark.parametrize(
    "name",
    [
        'a"), open(PLACE, "w"), getattr(self, "a',
        'a"))\nopen(PLACE, "w")\n#',
        "a\";open(PLACE,'w');\"",
    ],
)
def test_names_in_an_onnx_file_are_no_code(name, tmp_path, monkeypatch):
    """The converter puts them into Python code between quotes."""
    with_converter(monkeypatch)
    from onnx import TensorProto, helper, save

    place = repr(str(tmp_path / "ran"))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1, 8, 8]) for n in "xy"]
    nodes = [
        helper.make_node("Relu", ["x"], ["z"], name=name.replace("PLACE", place)),
        helper.make_node("Tanh", ["z"], ["y"], name="a"),
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    save(model, tmp_path / "b.onnx")
    with pytest.raises(ModelError, match="b.onnx .ONNX. can run code"):
        import_network(tmp_path / "b.onnx")
    x = torch.randn(1, 1, 8, 8)
    torch.testing.assert_close(formats.load_onnx(tmp_path / "b.onnx")(x), x.relu().tanh())
    assert not (tmp_path / "ran").exists()


class Evil:
    def __reduce__(self):
        return (os.mkdir, (os.environ["NETINVERSION_SETTINGS"] + "-evil",))


def test_pickled_modules_are_refused_with_the_way_out(network, tmp_path):
    for what in (torch.nn.Conv2d(1, 1, 3), {"state_dict": Evil()}):
        torch.save(what, tmp_path / "whole.pt")
        with pytest.raises(ModelError, match=r"Python objects .*torch.save\(network.state_dict"):
            import_network(tmp_path / "whole.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(ModelError):
        import_network(tmp_path / "old.pt")
    assert not os.path.exists(os.environ["NETINVERSION_SETTINGS"] + "-evil")


# Refusals -----------------------------------------------------------------------------------------


def test_a_pytorch_that_is_not_safe_opens_no_checkpoint(network, tmp_path, monkeypatch):
    torch.save(network.state_dict(), tmp_path / "own.pt")
    save_file(network.state_dict(), tmp_path / "own.safetensors")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(ModelError, match="CVE-2025-32434.*safetensors"):
        formats.weights_of(tmp_path / "own.pt")
    assert len(formats.weights_of(tmp_path / "own.safetensors")) == 6


def test_weights_that_do_not_fit_say_which(network, code, tmp_path):
    state = network.state_dict()
    state["extra"] = state.pop("down.bias")
    torch.save(state, tmp_path / "own.pt")
    with pytest.raises(ModelError, match="missing .first: down.bias.*unknown .first: extra"):
        import_network(tmp_path / "own.pt", Wishes(architecture=f"{code}:Net"), yes)
    with pytest.raises(ModelError, match="not known here: name its class"):
        import_network(tmp_path / "own.pt")
    with pytest.raises(ModelError, match="has no 'Other'; it has Net"):
        import_network(tmp_path / "own.pt", Wishes(architecture=f"{code}:Other"), yes)
    with pytest.raises(ModelError, match="say which class of .*net.py it is: Net"):
        import_network(tmp_path / "own.pt", Wishes(architecture=f"{code}:"), yes)
    torch.save({**network.state_dict(), "down.bias": torch.zeros(11)}, tmp_path / "wide.pt")
    with pytest.raises(ModelError, match="down.bias, 11 in the file and 6 in the class"):
        import_network(tmp_path / "wide.pt", Wishes(architecture=f"{code}:Net"), yes)
    (tmp_path / "empty.pt").write_bytes(b"")
    with pytest.raises(ModelError, match="empty.pt is empty"):
        import_network(tmp_path / "empty.pt")
    torch.save({"a\x1b[2Jb\u202e": torch.zeros(1)}, tmp_path / "odd.pt")
    for wishes in (Wishes(), Wishes(architecture=f"{code}:Net")):
        with pytest.raises(ModelError, match="a.x1b.2Jb") as told:
            import_network(tmp_path / "odd.pt", wishes, yes)
        assert str(told.value).isprintable()
    with pytest.raises(ModelError, match="no package 'nowhere'"):
        import_network(tmp_path / "own.pt", Wishes(architecture="nowhere:Net"), yes)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("import sys; sys.exit('no --data')", "SystemExit: no --data.*__main__"),
        ("open('/no/such/data')", "FileNotFoundError.*__main__"),
        ("import parts_beside", "parts_beside.py beside it.*one file"),
        ("from .parts_beside import Block", "beside it.*one file"),
        ("import no_such_library", "No module named 'no_such_library'. Install it"),
        ("def (", r"SyntaxError.*\(net.py, line \d+\)$"),
    ],
)
def test_a_python_file_that_does_not_run_says_what_to_do(line, words, network, code, tmp_path):
    (tmp_path / "parts_beside.py").write_text("")
    code.write_text(f"{CODE}\n{line}\n")
    torch.save(network.state_dict(), tmp_path / "own.pt")
    with pytest.raises(ModelError, match=words):
        import_network(tmp_path / "own.pt", Wishes(architecture=f"{code}:Net"), yes)


def test_a_python_file_that_is_gone_is_named(network, code, tmp_path):
    path, wishes = export(network, "state dict", tmp_path, code)
    made = import_network(path, Wishes(**wishes), yes)
    code.unlink()
    with pytest.raises(ModelError, match="no file .*net.py.*put it back"):
        models.load(made)


@pytest.mark.parametrize("name", ["../evil.json", "/etc/evil", "C:\\evil", "a/../../evil"])
def test_archives_that_lead_out_of_their_folder_are_refused(name, tmp_path):
    path = tmp_path / "bundle.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("b/configs/metadata.json", "{}")
        archive.writestr(name, "x")
    with pytest.raises(ModelError, match="leads out of its folder"):
        import_network(path, ask=never)


def test_archives_that_unpack_without_end_are_refused(tmp_path):
    path = tmp_path / "bundle.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("configs/metadata.json", b"0" * (64 << 20))
    with pytest.raises(ModelError, match="unpack to more than"):
        import_network(path, ask=never)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [*KINDS, "bundle", "card"])
def test_damaged_files_are_refused_in_words(kind, network, code, tmp_path, monkeypatch):
    """Mutants: a sentence, no code, no file left. NETINVERSION_MUTANTS=2000 tries that many."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    if kind == "ONNX":
        with_converter(monkeypatch)
    if kind == "bundle":
        folder = make_bundle(network, tmp_path / "brain_bundle")
        path = tmp_path / "in" / "b.zip"
        shutil.make_archive(str(path)[:-4], "zip", folder)
        wishes = {}
    elif kind == "card":
        path, wishes = export(network, "state dict", source, code)
        path = import_network(path, Wishes(**wishes), yes)
    else:
        path, wishes = export(network, kind, source, code)
    whole, rng = path.read_bytes(), random.Random(5)
    good = trust.sha256_of(path)
    for number in range(MUTANTS):
        path.write_bytes(mutant(whole, rng, number))
        if kind == "card":
            with_words(cards.read_card, path)
            continue
        if trust.sha256_of(path) == good:
            continue

        def ask(asked, *words):  # nobody trusts a mutant; the class is the user's own
            return asked == code

        with_words(import_network, path, Wishes(**wishes, folder=out), ask)
        if kind == "bundle":
            with_words(bundle.describe, path)
    left = [p for p in tmp_path.rglob("*") if p.suffix in (".part", ".partial")]
    assert not left and trust.sha256_of(code) in trust.trusted() or kind not in ("state dict",)


@pytest.mark.parametrize(
    ("kind", "entry"), [("state dict", "byteorder"), ("torch.export", "archive_version")]
)
def test_what_torch_quotes_of_a_damaged_file_is_text(kind, entry, network, code, tmp_path, capfd):
    """It quotes bytes of the file, and torch.export logs a traceback of its own."""
    path, _ = export(network, kind, tmp_path, code)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    assert any(name.endswith(entry) for name in entries)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, b"\x1b[31m\0" if name.endswith(entry) else content)
    read = formats.weights_of if kind == "state dict" else formats.load_exported
    with pytest.raises(ModelError) as caught:
        read(path)
    assert str(caught.value).isprintable() and "x1b[31m" in str(caught.value)
    assert path.name in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("left", [0, 4, 20])
@pytest.mark.parametrize("constant", [True, False])
def test_weights_shorter_than_told_are_refused_before_torch_reads_behind_them(
    left, constant, tmp_path
):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Conv2d(1, 7, 3)
            self.plain = torch.arange(9.0)

        def forward(self, x):
            return self.inner(x) + self.plain.sum()

    path = tmp_path / "own.ts"
    script = torch.jit.script(Net().eval())
    script = torch.jit.freeze(script) if constant else script  # weights become constants
    script.save(path)
    formats.load_script(path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    weights = [name for name in entries if re.search(r"/(data|constants)/\d+$", name)]
    assert len(weights) >= 2
    for cut in (name for name in weights if len(entries[name]) > left):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, content[:left] if name == cut else content)
        with pytest.raises(ModelError, match=rf"own.ts is damaged .weights of .* have {left}"):
            formats.load_script(path)


@pytest.mark.filterwarnings("error")
def test_a_script_with_a_wrong_sum_is_damaged_and_a_good_one_warns_of_nothing(tmp_path):
    path = tmp_path / "own.ts"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Conv2d(1, 7, 3)).save(path)
    formats._require_storages(path)
    content = bytearray(path.read_bytes())
    content[content.index(b"data.pkl") + 200] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match="own.ts is damaged"):
        formats._require_storages(path)


def with_words(run, *arguments):
    """Run it; if it refuses, then with a ModelError that says something."""
    try:
        run(*arguments)
    except ModelError as error:
        assert len(str(error)) > 20 and str(error).isprintable()


def mutant(data, rng, number):
    """Truncated, with flipped bytes, with a part repeated or cut out, or random."""
    kind = number % 5
    if kind == 0:
        return data[: rng.randrange(len(data))]
    if kind == 4:
        return rng.randbytes(rng.randrange(1, 2000))
    changed = bytearray(data)
    if kind == 1:
        for _ in range(rng.randrange(1, 20)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    first = rng.randrange(len(changed))
    last = min(len(changed), first + rng.randrange(1, 300))
    if kind == 2:
        del changed[first:last]
    if kind == 3:
        changed[first:first] = changed[first:last]
    return bytes(changed)


# Published weights --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cnn10", "redcnn", "wganvgg"])
def test_published_denoisers_come_in_by_name_with_their_own_normalisation(name, parity, tmp_path):
    from safetensors.torch import load_file

    state = load_file(parity / f"{name}.safetensors")
    recorded = load_file(parity / f"{name}_io.safetensors")
    torch.save({"model_state_dict": state, "epoch": 1}, tmp_path / f"{name}.pt")
    made = import_network(tmp_path / f"{name}.pt", ask=never)
    model = models.load(made)
    output = model(recorded["input"])
    scale = recorded["output"].abs().max()
    assert (output - recorded["output"]).abs().max() <= 1e-5 * scale
    channel = model.card.inputs[0]
    # x = HU + 1024, (x - mean) / std
    assert (0 - channel.low) / (channel.high - channel.low) == pytest.approx(
        (1024 - 481.45419786099086) / 502.18507379395044
    )
    assert model.card.task == "denoising" and networks.build(name)


@pytest.mark.parametrize("names", ["published", "deepinv"])
def test_dncnn_weights_come_in_under_both_of_their_names(names, tmp_path):
    torch.manual_seed(0)
    convs = [torch.nn.Conv2d(a, b, 3, padding=1) for a, b in ((1, 6), (6, 6), (6, 6), (6, 1))]
    keys = [f"model.{2 * n}" for n in range(4)]
    if names == "deepinv":
        keys = ["in_conv", "conv_list.0", "conv_list.1", "out_conv"]
    state = {f"{k}.{n}": w for k, c in zip(keys, convs) for n, w in c.state_dict().items()}
    torch.save(state, tmp_path / "dncnn.pth")
    told = {"inputs": [{"name": "CT", "units": "HU", "low": -1000, "high": 1000}]}
    model = models.load(import_network(tmp_path / "dncnn.pth", Wishes(description=told), never))
    x = torch.rand(1, 1, 9, 10)
    with torch.no_grad():
        y = convs[3](convs[2](convs[1](convs[0](x).relu()).relu()).relu())
        expected = x + y if names == "deepinv" else x - y
    torch.testing.assert_close(model(x), expected)
    assert (model.card.task, model.card.inputs[0].low) == ("denoising", -1000)


def test_drunet_weights_come_in_with_the_noise_that_they_are_told(tmp_path):
    torch.manual_seed(0)
    made = networks.build("drunet", widths=[4, 4, 6, 6], blocks=2, sigma=0.1).eval()
    torch.save(made.state_dict(), tmp_path / "drunet_gray.pth")
    wishes = Wishes(arguments={"sigma": 0.1})
    model = models.load(import_network(tmp_path / "drunet_gray.pth", wishes, never))
    x = torch.rand(1, 1, 13, 18)
    with torch.no_grad():
        torch.testing.assert_close(model(x), made(x))
        other = networks.build("drunet", **{**model.card.arguments, "sigma": 0.3})
        other.load_state_dict(made.state_dict())
        assert not torch.allclose(other(x), made(x))
    assert model.card.task == "image-to-image" and len(made.state_dict()) == 2 + 3 * 2 * 5 + 4
    with pytest.raises(ModelError, match="--arguments do not fit DRUNet.*sigma"):
        import_network(tmp_path / "drunet_gray.pth", Wishes(arguments={"sigma": 3}), never)


def test_a_published_sampler_comes_in_with_its_denoiser(parity, tmp_path):
    shutil.copy(parity / "cnn10.safetensors", tmp_path / "cnn10.safetensors")
    wishes = Wishes(name="denoiser")
    denoiser = import_network(tmp_path / "cnn10.safetensors", wishes, never)
    for half in ("vae", "cinn"):
        shutil.copy(parity / f"ldctinv_{half}_reduced.safetensors", tmp_path)
    vae = tmp_path / "ldctinv_vae_reduced.safetensors"
    with pytest.raises(ModelError, match="--flow FLOW --denoiser MODEL"):
        import_network(vae, ask=never)
    wishes = Wishes(flow=tmp_path / "ldctinv_cinn_reduced.safetensors", denoiser=denoiser)
    with pytest.raises(ModelError, match="do not fit each other"):  # 108 and 16 latents
        import_network(vae, wishes, never)


def test_a_published_pair_becomes_the_sampler_of_its_denoiser_and_draws(tmp_path):
    torch.manual_seed(0)
    kind = test_vae.PUBLISHED_KIND
    vae = test_vae.as_published(test_vae.as_if_trained(kind))
    flow = test_cinn.published_state(channels=kind["latents"], size=kind["size"], downs=2)
    torch.save(networks.build("cnn10").state_dict(), tmp_path / "cnn10.pt")
    torch.save({"model_state_dict": vae}, tmp_path / "cnn10-vae.pt")
    torch.save({"model_state_dict": flow}, tmp_path / "cnn10-cinn.pt")
    denoiser = import_network(tmp_path / "cnn10.pt", ask=never)
    wishes = Wishes(flow=tmp_path / "cnn10-cinn.pt", denoiser=denoiser)
    said = []
    made = import_network(tmp_path / "cnn10-vae.pt", wishes, never, said.append)
    assert any("log-determinant" in line for line in said)
    assert made in samplers_in(tmp_path, denoiser)
    hu = np.full((1, kind["size"] + 8, kind["size"] + 4), -1000.0, np.float32)
    hu[:, 6:-6, 6:-6] = 40 + 20 * np.random.default_rng(0).normal(size=hu[:, 6:-6, 6:-6].shape)
    result = invariances.invariances(
        {"low_dose": toy_models.volume(hu, "low dose", units="HU")},
        {"denoiser": models.load(denoiser), "sampler": models.load(made)},
        invariances.Settings(
            samples=3, projected=1, shown=1, max_evaluations=5, proposals=("cinn",), device="cpu",
            region=(0, 1, 4, 20, 4, 20), epsilon_hu=5.0,
        ),
    )  # fmt: skip
    assert np.nanmax(result.volumes["std unproven"].array) > 0
    assert np.abs(result.volumes["vae floor"].array).max() > 0


def samplers_in(folder, denoiser):
    sum_of_file = models.load(denoiser).sha256
    return [
        path
        for path, card in models.list_models([folder]).items()
        if getattr(card, "training", {}).get("denoiser SHA-256") == sum_of_file
    ]


@pytest.mark.filterwarnings("ignore")
def test_monai_networks_come_in_by_class_and_by_bundle(tmp_path):
    nets = pytest.importorskip("monai.networks.nets")
    pytest.importorskip("monai.bundle")
    arguments = {
        "spatial_dims": 2, "in_channels": 1, "out_channels": 1,
        "channels": [4, 8], "strides": [2], "norm": "instance",
    }  # fmt: skip
    torch.manual_seed(0)
    network = nets.UNet(**arguments).eval()
    torch.save(network.state_dict(), tmp_path / "unet.pt")
    wishes = Wishes("monai.networks.nets:UNet", arguments, TOLD)
    with pytest.raises(ModelError, match="monai .Python code. can run code.*SHA-256"):
        import_network(tmp_path / "unet.pt", wishes)
    model = models.load(import_network(tmp_path / "unet.pt", wishes, yes))
    x = torch.rand(1, 1, 16, 20)
    torch.testing.assert_close(model(x) * 4 - 1, network(2 * x), rtol=1e-5, atol=1e-5)

    folder = make_bundle(torch.nn.Identity(), tmp_path / "bundle")
    (folder / "models" / "model.ts").unlink()
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    definition = {"network_def": {"_target_": "UNet", **arguments}}
    (folder / "configs" / "inference.json").write_text(json.dumps(definition))
    with pytest.raises(ModelError, match="without your word"):
        import_network(folder, Wishes(folder=tmp_path / "out"))
    made = import_network(folder, Wishes(folder=tmp_path / "out"), yes)
    turned = (2 * x).flip((-1, -2)).transpose(2, 3)
    expected = network(turned).transpose(2, 3).flip((-1, -2))
    torch.testing.assert_close(models.load(made)(x) * 4 - 1, expected, rtol=1e-4, atol=1e-5)


# The command --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_the_command_asks_with_the_sum_and_takes_it_as_an_answer(network, code, tmp_path, capsys):
    path, _ = export(network, "TorchScript", tmp_path, code)
    words = ["models", "import", str(path), "--describe", json.dumps(TOLD)]
    assert cli.main(words) == 1
    told = capsys.readouterr().err
    sha256 = trust.sha256_of(path)
    assert sha256 in told and f"--trust {sha256[:16]}" in told
    assert cli.main([*words, "--trust", sha256[:7]]) == 1  # too short
    assert cli.main([*words, "--trust", sha256[:16]]) == 0
    said = capsys.readouterr().out
    assert "own: T1 to CT" in said and "multiples of 2" in said
    assert cli.main(["models", "trust"]) == 0
    assert sha256 in capsys.readouterr().out
    assert cli.main(["models", "list", str(tmp_path)]) == 0
    assert "own.network" in capsys.readouterr().out
    assert cli.main(["models", "import", str(path), "--describe", "{"]) == 1
    assert "--describe is not JSON" in capsys.readouterr().err
    assert importing.import_network


@pytest.mark.filterwarnings("ignore")
def test_what_the_networks_code_prints_is_not_in_the_answer(network, code, tmp_path, capsys):
    code.write_text(f"{CODE}\nprint('hello from the lab')\n")
    path, wishes = export(network, "state dict", tmp_path, code)
    words = ["models", "import", str(path), "--architecture", wishes["architecture"], "--json"]
    words += ["--describe", json.dumps(TOLD), "--trust", trust.sha256_of(code)]
    assert cli.main(words) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["card"]["name"] == "own" and "hello from the lab" in said.err
