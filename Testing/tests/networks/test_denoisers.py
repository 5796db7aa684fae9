"""Denoisers and their layers: the published networks' numbers and key names.

Also: plain formulas, and layers by name and number.
"""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from NetInversionLib import networks
from NetInversionLib.networks.denoisers import denoisers
from NetInversionLib.networks.layers import LayerError, UpTo, layers

PUBLISHED = {"cnn10": {}, "wganvgg": {}, "redcnn": {"out_ch": 96}}
SMALL = {"cnn10": {"last_kernel": 3}, "wganvgg": {}, "redcnn": {"out_ch": 4}}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def rounding(network):
    """How far two orders of summation may be apart in values near 1.

    In each layer it is sqrt(n) last places for n summands.
    """
    summands = [
        module.weight[0].numel() for module in network.modules() if hasattr(module, "weight")
    ]
    return torch.finfo(torch.float32).eps * sum(n**0.5 for n in summands)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_give_the_published_numbers(name, parity):
    network = networks.build(name, **PUBLISHED[name]).eval()
    weights, recorded = (
        load_file(parity / f"{name}.safetensors"),
        load_file(parity / f"{name}_io.safetensors"),
    )
    listing = json.loads((parity / "denoisers_layers.json").read_text())[name]
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == {
        entry["key"]: entry["shape"] for entry in listing["state_dict"]
    }
    network.load_state_dict(weights)
    image, tolerance = recorded["input"], max(1e-5, rounding(network))
    with torch.no_grad():
        torch.testing.assert_close(network(image), recorded["output"], rtol=0, atol=tolerance)
        there = {layer.name: layer for layer in layers(network, image)}
        seen: dict[str, int] = {}
        for entry in listing["layers"]:
            kind = entry["module"] or "add"  # sums are no modules
            seen[kind] = seen.get(kind, 0) + 1
            layer = kind + (f" ({seen[kind]})" if seen[kind] > 1 else "")
            assert list(there.pop(layer).shape) == entry["full_shape"]
            found = UpTo(network, layer, image)(image)[..., ::7, ::7]
            torch.testing.assert_close(
                found,
                recorded[entry["key"]],
                rtol=0,
                atol=tolerance * max(1, entry["full_std"] * 10),
            )
        assert not there


def reference(name: str, weights: dict, x: torch.Tensor) -> torch.Tensor:
    """The papers' formulas, written out."""

    def conv(key, x, pad):
        return F.conv2d(x, weights[f"{key}.weight"], weights[f"{key}.bias"], padding=pad)

    if name == "cnn10":
        return conv("layers.4", conv("layers.2", conv("layers.0", x, 4).relu(), 1).relu(), 1)
    if name == "wganvgg":
        for n in range(8):
            x = conv(f"net.{2 * n}", x, 1)
            x = x.relu() if n < 7 else x
        return x
    first = x
    second = conv("conv2", conv("conv1", x, 0).relu(), 0).relu()
    fourth = conv("conv4", conv("conv3", second, 0).relu(), 0).relu()
    x = conv("conv5", fourth, 0).relu()

    def transposed(n, x):
        return F.conv_transpose2d(x, weights[f"tconv{n}.weight"], weights[f"tconv{n}.bias"])

    x = transposed(2, (transposed(1, x) + fourth).relu()).relu()
    x = transposed(4, (transposed(3, x) + second).relu()).relu()
    return transposed(5, x) + first


@pytest.mark.parametrize("name", SMALL)
def test_networks_compute_the_papers_formulas_at_any_size(name):
    network = networks.build(name, **SMALL[name]).eval()
    x = torch.randn(2, 1, 33, 26)
    with torch.no_grad():
        torch.testing.assert_close(network(x), reference(name, network.state_dict(), x))


def test_an_image_smaller_than_red_cnn_s_field_of_view_is_refused():
    with pytest.raises(ValueError, match="at least 21 x 21"):
        networks.build("redcnn", out_ch=2)(torch.zeros(1, 1, 20, 40))


@pytest.mark.parametrize(
    "name, wrong",
    [
        ("cnn10", {"last_kernel": 4}),
        ("redcnn", {"out_ch": 0}),
        ("redcnn", {"out_ch": 10**9}),
        ("redcnn", {"out_ch": 2.0}),
        ("wganvgg", {"width": 3}),
    ],
)
def test_hostile_arguments_are_refused(name, wrong):
    with pytest.raises(ValueError):
        networks.build(name, **wrong)


def test_the_seed_s_layers_are_the_ones_it_counts():
    image = torch.zeros(1, 1, 24, 24)
    chen, yang = (layers(networks.build(name), image) for name in ("cnn10", "wganvgg"))
    assert [layer.kind for layer in chen] == ["Conv2d", "ReLU", "Conv2d", "ReLU", "Conv2d"]
    assert [chen[n - 1].shape[1] for n in (1, 3, 5)] == [64, 32, 1]
    assert [(yang[n - 1].kind, yang[n - 1].shape[1]) for n in (1, 7, 13, 15)] == [
        ("Conv2d", 32)
    ] * 3 + [("Conv2d", 1)]
    assert chen[2].title == "3: layers.2, Conv2d, 32 channels"


@pytest.mark.parametrize("layer", [4, "4", "layers.3"])
def test_a_layer_by_number_or_name_with_gradients(layer):
    network = networks.build("cnn10", last_kernel=3)
    x = torch.randn(1, 1, 12, 13, requires_grad=True)
    found = UpTo(network, layer, x.detach())(x)
    expected = network.layers[:4](x)
    assert torch.equal(found, expected)
    assert torch.equal(*(torch.autograd.grad(y.square().sum(), x)[0] for y in (found, expected)))


def test_the_output_is_a_layer_too_and_nothing_stays_hooked():
    network = networks.build("redcnn", out_ch=3)
    x = torch.randn(1, 1, 30, 30)
    assert torch.equal(UpTo(network, "output", x)(x), network(x))
    UpTo(network, "relu (3)", x)(x)
    assert not any(module._forward_hooks for module in network.modules())


def test_sums_joints_and_functions_are_layers_too():
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x):
            y = torch.nn.functional.relu(self.conv(x))
            y += x
            return torch.cat([y * 2, x * y], 1)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.last = Block(), torch.nn.Conv2d(4, 1, 1)

        def forward(self, x):
            if x.mean() > 100:  # what a symbolic trace could not follow
                return x
            y = self.last(self.block(torch.cat([x, x], 1)))
            return torch.nn.functional.interpolate(y, scale_factor=2.0)

    network, x = Net().eval(), torch.randn(1, 1, 8, 9)
    found = layers(network, x)
    assert [layer.name for layer in found] == [
        "cat", "block.conv", "block.relu", "block.add", "block.mul", "block.cat", "last",
        "interpolate",
    ]  # fmt: skip
    with torch.no_grad():
        two = torch.cat([x, x], 1)
        total = network.block.conv(two).relu() + two
        torch.testing.assert_close(UpTo(network, "block.add", x)(x), total)
        torch.testing.assert_close(UpTo(network, 5, x)(x), two * total)


def test_what_comes_after_the_layer_is_not_computed():
    class Explosive(torch.nn.Module):
        def forward(self, x):
            assert not armed, "the layer after the wanted one ran"
            return x

    armed = False
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), Explosive())
    part = UpTo(network, 1, torch.zeros(1, 1, 5, 5))
    armed = True
    assert part(torch.zeros(1, 1, 5, 5)).shape == (1, 2, 3, 3)


def test_a_layer_that_does_not_exist_lists_those_that_do():
    with pytest.raises(
        LayerError,
        match="no layer 'layers.9'.*'output' or one of: 1: layers.0, Conv2d, 64 channels; 2:",
    ):
        UpTo(networks.build("cnn10"), "layers.9", torch.zeros(1, 1, 16, 16))


@pytest.mark.parametrize("name", SMALL)
def test_activations_in_place_leave_the_image_and_the_gradient_as_they_are(name):
    network = networks.build(name, **SMALL[name]).eval().double()
    image = torch.randn(1, 1, 24, 26, dtype=torch.float64, requires_grad=True)
    before, step = image.detach().clone(), 1e-7 * torch.randn(1, 1, 24, 26, dtype=torch.float64)
    network(image).square().sum().backward()
    with torch.no_grad():
        assert torch.equal(image, before)
        up, down = (network(before + sign * step).square().sum() for sign in (1, -1))
    assert float(up - down) / 2 == pytest.approx(float((image.grad * step).sum()), rel=1e-4)


def test_the_denoisers_are_found_among_the_architectures():
    assert set(PUBLISHED) <= set(denoisers())
    assert "unet" in networks.ARCHITECTURES and "unet" not in denoisers()
