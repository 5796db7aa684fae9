"""Published networks by their names and shapes: against closed forms, and written out in numpy."""

import json
import re
import shlex
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import signal

from NetInversionLib import models, networks
from NetInversionLib.cli import program as cli_program
from NetInversionLib.models import ModelError
from NetInversionLib.models.foreign import formats, published
from NetInversionLib.models.foreign.description import described
from NetInversionLib.models.foreign.importing import Wishes, import_network
from NetInversionLib.networks import shrinkage

pytestmark = pytest.mark.skipif(
    formats.torch_is_unsafe(), reason="checkpoints: PyTorch before 2.6 opens none safely"
)
RANGE = {"inputs": [{"name": "CT", "units": "HU", "low": -1000, "high": 1000}]}


def never(path, kind, sha256):
    raise AssertionError(f"{path} was asked about")


def imported(state, folder, **wishes):
    torch.save(state, folder / "weights.pyt")
    return models.load(import_network(folder / "weights.pyt", Wishes(**wishes), never))


def random_state(architecture, **arguments):
    torch.manual_seed(2)
    network = networks.build(architecture, **arguments)
    state = {name: torch.randn(w.shape) for name, w in network.state_dict().items()}
    network.load_state_dict(state)
    return network.eval(), state


# Wavelet shrinkage --------------------------------------------------------------------------------


def test_the_published_names_of_the_shrinkage_networks():
    """As the files LWFSN_L2_l4_wf8_ep500.pyt, dhsn1_L1_25.pyt and dhsn2_L1_25.pyt have them."""
    shapes = {n: tuple(w.shape) for n, w in networks.build("lwfsn").state_dict().items()}
    assert len(shapes) == 24
    assert shapes["shrink.3.t"] == (5, 1, 1) and shapes["shrink.0.a"] == (1, 5, 1, 1)
    assert (shapes["ew1.0.kern"], shapes["ew2.3.kern"]) == ((4, 1, 2, 2), (64, 32, 2, 2))
    assert (shapes["dw1.3.kern"], shapes["dw2.0.kern"]) == ((32, 32, 2, 2), (8, 4, 2, 2))
    shapes = {n: tuple(w.shape) for n, w in networks.build("dhsn", kind=1).state_dict().items()}
    assert len(shapes) == 24 and shapes["shrink.2.convblock1res.0.weight"] == (64, 128, 1, 1)
    shapes = {n: tuple(w.shape) for n, w in networks.build("dhsn").state_dict().items()}
    assert len(shapes) == 18 and shapes["shrink.1.wp_2"] == (16, 32, 1, 1)


@pytest.mark.parametrize("frame", ["haar", "overcomplete"])
def test_both_frames_give_an_image_back(frame):
    x = torch.rand(2, 3, 16, 24, dtype=torch.float64)
    if frame == "haar":
        back = shrinkage._joined(*shrinkage._split(x))
    else:
        back = shrinkage._frame_joined(shrinkage._frame_split(x))
    torch.testing.assert_close(back[..., 1:-1, 1:-1], x[..., 1:-1, 1:-1])


def test_haar_bands_are_half_sums_and_differences():
    x = np.random.default_rng(0).normal(size=(8, 8))
    means, details = shrinkage._split(torch.from_numpy(x)[None, None])
    a, b, c, d = x[1:-1:2, 1:-1:2], x[1:-1:2, 2::2], x[2::2, 1:-1:2], x[2::2, 2::2]
    expected = [a + b + c + d, a + b - c - d, -a + b - c + d, a - b - c + d]
    found = torch.cat([means, details], 1)[0, :, 1:, 1:].numpy()
    np.testing.assert_allclose(found, np.stack(expected) / 2, atol=1e-12)


def test_the_overcomplete_frame_keeps_four_times_the_energy():
    """Tight: its transpose over 4 is its inverse, so that squares add up to 4 of the image's."""
    x = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    x[..., 8:24, 8:24] = torch.rand(16, 16, dtype=torch.float64)
    bands = torch.cat(shrinkage._frame_split(x), 1)
    assert float(bands.square().sum()) == pytest.approx(4 * float(x.square().sum()))


def test_a_threshold_is_the_published_curve_and_has_a_slope_everywhere():
    threshold = shrinkage._Threshold(2)
    threshold.t.data[:, 0, 0] = torch.tensor([8.0, 1e-8])
    threshold.a.data.copy_(torch.tensor([0.5, 2.0]).reshape(1, 2, 1, 1))
    x = np.array([0.0, 1e-3, 3.0, 8.0, 40.0, -1000.0])
    shares = np.exp([0.5, 2.0]) / np.exp([0.5, 2.0]).sum()
    with np.errstate(over="ignore"):
        expected = sum(
            share * x * (1 - np.tanh(5 * t) * np.exp(-((x / t) ** 4)))
            for share, t in zip(shares, (8.0, 1e-8))
        )
    given = torch.tensor(x, dtype=torch.float32, requires_grad=True)
    found = threshold(given)
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-5)
    (slope,) = torch.autograd.grad(found.sum(), given)
    assert slope.isfinite().all()


def test_a_gain_of_one_leaves_the_image_and_a_gain_of_zero_its_means():
    torch.manual_seed(0)
    network = networks.build("dhsn", levels=2, kind=1)
    x = torch.rand(1, 1, 32, 40)
    for bias in (60.0, -60.0):
        for gate in network.shrink:
            gate.convblock2res[0].weight.data.zero_()
            gate.convblock2res[0].bias.data.fill_(bias)
        with torch.no_grad():
            y = network(x)
        if bias > 0:
            torch.testing.assert_close(y[..., 3:-3, 3:-3], x[..., 3:-3, 3:-3])
        else:
            assert y.std() < 0.4 * x.std() and float(y.mean()) == pytest.approx(0.5, abs=0.05)


def test_what_lwfsn_keeps_and_what_rlwfsn_takes_add_up():
    """Without thresholds (t near 0) one gives its frame's image, the other the image itself."""
    kept, state = random_state("lwfsn", levels=2, width=4)
    for name in state:
        if name.endswith(".t"):
            state[name].fill_(1e-9)
    kept.load_state_dict(state)
    taken = networks.build("lwfsn", levels=2, width=4, residual=True)
    taken.load_state_dict(state)
    x = torch.rand(1, 1, 16, 20, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(taken.double()(x), x)
        assert not torch.allclose(kept.double()(x), x)


def test_dhsn2_measures_neighbours_as_a_mean_of_nine():
    gate = shrinkage._Gate2(4)
    for weight in gate.parameters():
        weight.data = torch.rand(weight.shape, generator=torch.Generator().manual_seed(3))
    d = np.random.default_rng(1).normal(size=(4, 6, 7)) * 10
    near = np.stack([signal.convolve2d(band**2, np.ones((3, 3)) / 9, "same") for band in d])
    w_1, w_2, wp_1, bi_1, wp_2, bi_2 = (
        getattr(gate, name).detach().double().numpy().squeeze()
        for name in ("w_1", "w_2", "wp_1", "bi_1", "wp_2", "bi_2")
    )
    mixed = [
        np.maximum(1 - np.einsum("ab,bji->aji", w, 1 / (size + 1e-4)), 0)
        for w, size in ((w_1, np.abs(d)), (w_2, np.sqrt(near)))
    ]
    y = np.einsum("ab,bji->aji", wp_1, np.concatenate(mixed)) + bi_1[:, None, None]
    y = np.einsum("ab,bji->aji", wp_2, np.maximum(y, 0)) + bi_2[:, None, None]
    with torch.no_grad():
        found = gate(torch.from_numpy(d).float()[None])[0]
    np.testing.assert_allclose(found, d / (1 + np.exp(-y)), rtol=1e-4, atol=1e-5)


def test_a_flat_image_has_a_gradient():
    """Air is one value: coefficients are exactly 0 there."""
    torch.manual_seed(0)
    for network in (networks.build("dhsn"), networks.build("lwfsn")):
        x = torch.full((1, 1, 16, 16), -1.0, requires_grad=True)
        (slope,) = torch.autograd.grad(network(x).sum(), x)
        assert slope.isfinite().all()


@pytest.mark.parametrize("kind", [1, 2])
def test_dhsn_weights_are_recognised_and_work_on_hu(kind, tmp_path):
    network, state = random_state("dhsn", levels=2, kind=kind, unit=1.0)
    model = imported(state, tmp_path)
    hu = torch.rand(1, 1, 16, 20) * 100
    with torch.no_grad():
        torch.testing.assert_close(1000 * model(hu / 1000), network(hu), rtol=1e-4, atol=1e-3)
    assert model.card.task == "denoising" and model.card.size_multiple == 4
    assert (model.card.inputs[0].units, model.card.inputs[0].high) == ("HU", 1000.0)


def test_lwfsn_weights_do_not_tell_which_of_two_networks_they_are(tmp_path):
    network, state = random_state("lwfsn", levels=2, width=4, residual=True, unit=1.0)
    with pytest.raises(ModelError, match=r"do not tell 'residual'.*--arguments '.\"residual\": t"):
        imported(state, tmp_path)
    model = imported(state, tmp_path, arguments={"residual": True})
    hu = torch.rand(1, 1, 16, 20) * 100
    with torch.no_grad():
        torch.testing.assert_close(1000 * model(hu / 1000), network(hu), rtol=1e-4, atol=0.05)


def test_shared_kernels_become_a_red_cnn_on_hu(tmp_path):
    torch.manual_seed(0)
    layers = {
        "conv_first": torch.nn.Conv2d(1, 4, 5),
        "conv": torch.nn.Conv2d(4, 4, 5),
        "conv_t": torch.nn.ConvTranspose2d(4, 4, 5),
        "conv_t_last": torch.nn.ConvTranspose2d(4, 1, 5),
    }
    state = {f"{n}.{p}": w for n, layer in layers.items() for p, w in layer.state_dict().items()}
    model = imported(state, tmp_path)
    hu = torch.randn(1, 1, 30, 34) * 100
    with torch.no_grad():
        y = layers["conv_first"](hu).relu()
        kept = [hu]
        for n in range(4):
            y = layers["conv"](y).relu()
            if n in (0, 2):
                kept.append(y)
        for n in range(4):
            y = layers["conv_t"](y)
            y = (y + kept.pop() if n in (0, 2) else y).relu()
        expected = layers["conv_t_last"](y) + kept.pop()
        torch.testing.assert_close(1000 * model(hu / 1000), expected, rtol=1e-4, atol=1e-2)


# Super-resolution ---------------------------------------------------------------------------------


@pytest.mark.parametrize("names", ["yjn870", "Lornatang"])
def test_srcnn_weights_are_recognised_under_both_of_their_names(names, tmp_path):
    network, state = random_state("srcnn", widths=(6, 4), kernels=(9, 1, 5))
    if names == "Lornatang":
        other = {"conv1": "features.0", "conv2": "map.0", "conv3": "reconstruction"}
        state = {f"{other[n.split('.')[0]]}.{n.split('.')[1]}": w for n, w in state.items()}
    model = imported(state, tmp_path, description=RANGE)
    x = torch.rand(1, 1, 12, 14)
    with torch.no_grad():
        torch.testing.assert_close(model(x), network(x))
    assert model.card.architecture == "srcnn" and model.card.inputs[0].low == -1000


def test_espcn_weights_become_a_card_whose_output_is_averaged(tmp_path):
    network, state = random_state("espcn", scale=3, widths=(6, 4))
    model = imported(state, tmp_path, description=RANGE)
    hu = torch.rand(1, 1, 12, 15) * 2000 - 1000
    with torch.no_grad():
        fine = network((hu + 1000) / 2000)
        expected = torch.nn.functional.avg_pool2d(fine, 3) * 2000 - 1000
        taken, given = model.card.inputs[0], model.card.outputs[0]
        unit = (hu - taken.low) / (taken.high - taken.low)
        found = model(unit) * (given.high - given.low) + given.low
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0.05)
    assert fine.shape[-2:] == (36, 45) and model.card.inputs[0].name == "CT"


@pytest.mark.parametrize(
    ("architecture", "arguments", "words"),
    [
        ("lwfsn", {"width": 3}, "even"),
        ("lwfsn", {"residual": 1}, "residual"),
        ("lwfsn", {"levels": 9}, "levels"),
        ("dhsn", {"kind": 3}, "kind"),
        ("dhsn", {"unit": 0}, "unit"),
        ("dhsn", {"levels": 5}, "levels"),
        ("srcnn", {"kernels": [9, 2, 5]}, "kernels"),
        ("srcnn", {"widths": [64]}, "widths"),
        ("espcn", {"scale": 9}, "scale"),
        ("espcn", {"widths": [0, 1]}, "widths"),
    ],
)
def test_arguments_out_of_their_limits_are_refused(architecture, arguments, words):
    with pytest.raises(ValueError, match=words):
        networks.build(architecture, **arguments)


# The page -----------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[3] / "Resources" / "Docs" / "PublishedNetworks.md"


def test_the_commands_of_the_page_are_understood():
    """Every command parses, and what it describes can be."""
    lines = PAGE.read_text(encoding="utf-8").replace("\\\n", " ").split("\n")
    commands, open_one = [], ""
    for line in lines:
        if line.startswith("    netinversion ") or open_one:
            open_one += " " + line.strip()
            if open_one.count("'") % 2 == 0:
                commands.append(shlex.split(open_one, comments=True))
                open_one = ""
    assert len(commands) >= 11
    for program, *words in commands:
        options = cli_program.parser(words).parse_args(words)
        if getattr(options, "describe", None):
            assert described(json.loads(options.describe)).inputs
        if words[1] == "download":
            assert published.files_of(options.name)


def test_the_konfai_network_of_the_page_takes_a_checkpoint_of_konfai(tmp_path, monkeypatch):
    pytest.importorskip("segmentation_models_pytorch")
    monkeypatch.setenv("NETINVERSION_SETTINGS", str(tmp_path / "settings"))
    text = PAGE.read_text(encoding="utf-8")
    code = text[text.index("    import segmentation_models_pytorch") : text.index("The command:")]
    (tmp_path / "konfai_synthesis.py").write_text(textwrap.dedent(code))
    told = re.search(
        r"--architecture konfai_synthesis.py:Synthesis --describe \\\n\s+'(.*?)'", text, re.S
    )
    space = {}
    exec(textwrap.dedent(code), space)
    torch.manual_seed(0)
    network = space["Synthesis"]().eval()
    whole = {"epoch": 1, "it": 2, "loss": 0.5, "Model": {"UNetpp5": network.state_dict()}}
    torch.save(whole, tmp_path / "CV_0.pt")
    wishes = Wishes(
        f"{tmp_path / 'konfai_synthesis.py'}:Synthesis", description=json.loads(told[1])
    )
    model = models.load(import_network(tmp_path / "CV_0.pt", wishes, lambda *asked: True))
    assert (model.card.dimensions, len(model.card.inputs)) == (3, 1)
    x = torch.rand(1, 1, 3, 32, 32)
    with torch.no_grad():
        found = model(x)[0, 0, 1]
        low, high = model.card.inputs[0].network
        slices = x[0, 0, [0, 0, 1, 2, 2]] * (high - low) + low
        expected = (network(slices[None])[0, 0] + 1) / 2
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
