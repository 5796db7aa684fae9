"""The conditional flow on latents: published numbers, exact inverse and log-determinant.

Also: known densities and shared conditions.
"""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from torch.distributions import MultivariateNormal
from torch.nn import functional as F

from NetInversionLib import models, networks
from NetInversionLib.models import published_flow
from NetInversionLib.networks import cinn_blocks
from NetInversionLib.networks.cinn import CINN
from NetInversionLib.networks.cinn_blocks import ActNorm

VECTORS = {
    "channels": 6,
    "condition_channels": 3,
    "condition_size": 8,
    "blocks": 3,
    "hidden": 16,
    "features": 5,
    "downs": 2,
    "embedder_width": 4,
}
MAPS = {**VECTORS, "channels": 4, "blocks": 2, "hidden": 8, "spatial": True, "latent_size": 3}
KINDS = {
    "vectors": VECTORS,
    "published activation": {**VECTORS, "negative_slope": 0.9, "embedder_norm": "none"},
    "maps": MAPS,
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=KINDS)
def kind(request) -> dict:
    return KINDS[request.param]


def latents(arguments: dict, count: int, dtype=torch.float32) -> torch.Tensor:
    size = [arguments["latent_size"]] * 2 if arguments.get("spatial") else []
    return torch.randn(count, arguments["channels"], *size, dtype=dtype)


def activations(arguments: dict, count: int, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(
        count, arguments["condition_channels"], *[arguments["condition_size"]] * 2, dtype=dtype
    )


def as_if_trained(arguments: dict, dtype=torch.float32, amount: float = 0.5) -> CINN:
    """Weights far from the start, some scales negative, activations of about 1."""
    flow = CINN(**arguments).to(dtype)
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            width = parameter[0].numel() if parameter.ndim > 1 else 9
            parameter.add_(amount * torch.randn_like(parameter) / width**0.5)
    flow(
        latents(arguments, 64, dtype), flow.embed(activations(arguments, 64, dtype))
    )  # the first batch sets the ActNorms
    flow.blocks[0].norm.sign[::2] = -1
    assert flow.initialised
    return flow.eval().requires_grad_(False)


# --- published networks


def test_published_weights_give_the_published_numbers(parity):
    flow = published_flow.from_published(
        load_file(parity / "ldctinv_cinn_reduced.safetensors")
    ).requires_grad_(False)
    recorded = load_file(parity / "ldctinv_cinn_reduced_io.safetensors")
    h = flow.embed(recorded["conditioning"])
    torch.testing.assert_close(h, recorded["embedding"], rtol=0, atol=1e-5)
    v, log_det = flow(recorded["x"], h)
    torch.testing.assert_close(v, recorded["forward_out"], rtol=0, atol=1e-5)
    torch.testing.assert_close(
        flow.inverse(recorded["v"], h), recorded["reverse_v"], rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(
        flow.prepared(h).inverse(v), recorded["reverse_of_forward_out"], rtol=0, atol=1e-5
    )
    torch.testing.assert_close(log_det, recorded["logdet_true_autograd_float64"], rtol=0, atol=1e-5)
    left_out = recorded["lrelu_negative_count"] * math.log(0.9)
    torch.testing.assert_close(
        log_det, recorded["logdet_as_returned_float64"] + left_out, rtol=0, atol=1e-5
    )
    assert (log_det - recorded["forward_logdet_as_returned"]).abs().min() > 1.5


def test_the_published_size_can_be_read_and_has_the_published_number_of_weights(parity):
    listing = json.loads((parity / "ldctinv_cinn_full_keys.json").read_text())
    shapes = {
        entry["key"]: torch.empty(entry["shape"], device="meta") for entry in listing["state_dict"]
    }
    with torch.device("meta"):
        flow = CINN(**published_flow.published_arguments(shapes))
    assert (
        sum(p.numel() for p in flow.parameters()) == listing["n_elements_parameters"] == 137_133_184
    )
    assert len(flow.blocks) == 12


def published_state(channels=4, hidden=6, depth=2, blocks=2, features=3, downs=1, size=4) -> dict:
    """Random weights under the published key names."""
    state = {}
    for n in range(blocks):
        p = f"flow.sub_layers.{n}."
        order = torch.randperm(channels)
        state |= {
            p + "norm_layer.loc": torch.randn(1, channels, 1, 1),
            p + "norm_layer.scale": torch.randn(1, channels, 1, 1),
            p + "norm_layer.initialized": torch.tensor(1, dtype=torch.uint8),
            p + "shuffle.forward_shuffle_idx": order,
            p + "shuffle.backward_shuffle_idx": order.argsort(),
        }
        widths = [channels // 2 + features, *[hidden] * (depth + 1), channels // 2]
        for k, (i, o) in enumerate(zip(widths, widths[1:])):
            for name in ("s.0", "s.1", "t.0", "t.1"):
                state[f"{p}coupling.{name}.main.{2 * k}.weight"] = torch.randn(o, i) / i**0.5
                state[f"{p}coupling.{name}.main.{2 * k}.bias"] = torch.randn(o)
    for n in range(downs):
        p, width = f"embedder.feature_layers.{n}.sub_layers.", 8 << n
        state |= {
            p + "0.weight": torch.randn(width, 1 if n == 0 else width // 2, 4, 4) / 4,
            p + "1.loc": torch.randn(1, width, 1, 1),
            p + "1.scale": torch.randn(1, width, 1, 1),
            p + "1.initialized": torch.tensor(1, dtype=torch.uint8),
        }
    p, final = "embedder.dense_encode.sub_layers.0.", size >> downs
    return state | {
        p + "weight": torch.randn(features, 8 << downs - 1, final, final) / 4,
        p + "bias": torch.randn(features),
    }


def test_published_key_names_mean_the_published_formulas():
    state = published_state()
    x, z = torch.randn(5, 4, 1, 1), torch.randn(5, 1, 4, 4)
    p = "embedder.feature_layers.0.sub_layers."
    h = state[p + "1.scale"] * (
        F.conv2d(z, state[p + "0.weight"], stride=2, padding=1) + state[p + "1.loc"]
    )
    p = "embedder.dense_encode.sub_layers.0."
    h = F.conv2d(F.leaky_relu(h, 0.2), state[p + "weight"], state[p + "bias"]).flatten(1)

    def network(name, inputs):
        for k in range(0, 8, 2):
            inputs = F.leaky_relu(inputs) if k else inputs
            inputs = F.linear(
                inputs, state[f"{name}.main.{k}.weight"], state[f"{name}.main.{k}.bias"]
            )
        return inputs

    y = x.flatten(1)
    for n in range(2):
        p = f"flow.sub_layers.{n}."
        y = F.leaky_relu(
            state[p + "norm_layer.scale"].flatten() * (y + state[p + "norm_layer.loc"].flatten()),
            0.9,
        )
        for i in range(2):
            kept, changed = y.chunk(2, 1) if i == 0 else y.chunk(2, 1)[::-1]
            seen = torch.cat([kept, h], 1)
            changed = changed * network(f"{p}coupling.s.{i}", seen).tanh().exp() + network(
                f"{p}coupling.t.{i}", seen
            )
            y = torch.cat([kept, changed], 1)
        y = y[:, state[p + "shuffle.forward_shuffle_idx"]]
    flow = published_flow.from_published(state).requires_grad_(False)
    torch.testing.assert_close(flow.embed(z), h)
    v, _ = flow(x, h)
    assert v.shape == x.shape
    torch.testing.assert_close(v.flatten(1), y)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (
            lambda s: s.pop("flow.sub_layers.1.coupling.s.0.main.2.bias"),
            "not the weights of a published",
        ),
        (lambda s: s.clear(), "not the weights of a published"),
        (lambda s: s["flow.sub_layers.0.norm_layer.initialized"].zero_(), "never trained"),
    ],
)
def test_other_checkpoints_are_refused(spoil, message):
    state = published_state()
    spoil(state)
    with pytest.raises(ValueError, match=message):
        published_flow.from_published(state)


# --- inverse and log-determinant


@torch.no_grad()
def test_decoding_undoes_encoding(kind):
    flow = as_if_trained(kind)
    x, h = latents(kind, 50), flow.embed(activations(kind, 50))
    v, log_det = flow(x, h)
    assert v.shape == x.shape and log_det.shape == (50,) and log_det.dtype == torch.float64
    assert 0.3 < (v - x).std() < 10
    torch.testing.assert_close(flow.inverse(v, h), x, rtol=0, atol=1e-4)
    torch.testing.assert_close(flow(flow.inverse(x, h), h)[0], x, rtol=0, atol=1e-4)


def test_decoding_undoes_encoding_at_twenty_blocks():
    arguments = {**VECTORS, "channels": 64, "blocks": 20, "hidden": 64}
    # Weights of pure chance amplify rounding from block to block, which trained ones do not: so
    # less of it than elsewhere.
    flow = as_if_trained(arguments, amount=0.2)
    x, h = latents(arguments, 8), flow.embed(activations(arguments, 8))
    torch.testing.assert_close(flow.inverse(flow(x, h)[0], h), x, rtol=0, atol=1e-4)


def test_log_determinant_is_that_of_the_jacobian(kind):
    flow = as_if_trained(kind, torch.float64)
    x, h = latents(kind, 2, torch.float64), flow.embed(activations(kind, 2, torch.float64))
    _, log_det = flow(x, h)
    for n in range(2):
        jacobian = torch.autograd.functional.jacobian(
            lambda u: flow(u.view_as(x[:1]), h[n : n + 1])[0].flatten(), x[n].flatten()
        )
        torch.testing.assert_close(log_det[n], torch.linalg.slogdet(jacobian)[1], rtol=0, atol=1e-4)


def test_log_scales_are_bounded_whatever_the_input():
    flow = as_if_trained({**VECTORS, "max_log_scale": 0.5})
    h = flow.embed(activations(VECTORS, 1))
    _, log_det = flow(1e6 * latents(VECTORS, 20), h)
    own = sum(float(block.norm.log_scale.sum()) for block in flow.blocks)
    assert ((log_det - own).abs() <= 0.5 * VECTORS["channels"] * VECTORS["blocks"] + 1e-4).all()
    assert torch.isfinite(flow.inverse(100 * latents(VECTORS, 20), h)).all()


def test_a_new_network_only_normalises_and_shuffles():
    flow = CINN(**VECTORS)
    x = 3 + 2 * latents(VECTORS, 200)
    v, log_det = flow(x, flow.embed(activations(VECTORS, 200)))
    torch.testing.assert_close(v.mean(0), torch.zeros(6), rtol=0, atol=1e-4)
    torch.testing.assert_close(v.std(0, correction=0), torch.ones(6), rtol=0, atol=1e-4)
    torch.testing.assert_close(
        v.sort(1)[0], ((x - x.mean(0)) / x.std(0, correction=0)).sort(1)[0], rtol=0, atol=1e-3
    )
    torch.testing.assert_close(log_det, log_det[:1].expand(200), rtol=0, atol=1e-10)


# --- known densities


def linear_network(
    subnet: cinn_blocks.Subnet,
    of_half: torch.Tensor,
    of_condition: torch.Tensor,
    offset: torch.Tensor,
) -> None:
    """Set weights that make the network the affine map given.

    LeakyReLU(u) - LeakyReLU(-u) is (1 + slope) u.
    """
    outputs = len(of_half)
    for parameter in subnet.parameters():
        parameter.zero_()
    subnet.first.weight[: 2 * outputs] = torch.cat([of_half, -of_half])
    subnet.condition.weight[: 2 * outputs] = torch.cat([of_condition, -of_condition])
    one = torch.eye(outputs, dtype=of_half.dtype) / 1.01
    subnet.last.weight[:, : 2 * outputs] = torch.cat([one, -one], 1)
    subnet.last.bias.copy_(offset)


@torch.no_grad()
def test_fixed_weights_give_a_known_conditional_gaussian():
    """One block whitens x given z exactly, and its density is the textbook's.

    (x, z) are jointly Gaussian, with x of two numbers.
    """
    root, mean_x, mean_z = (
        torch.randn(5, 5).double(),
        torch.tensor([2.0, -1]).double(),
        torch.ones(3).double(),
    )
    joint = root @ root.T + torch.eye(5)
    gain = joint[:2, 2:] @ joint[2:, 2:].inverse()
    covariance = joint[:2, :2] - gain @ joint[2:, :2]
    slope = covariance[1, 0] / covariance[0, 0]  # of the second number on the first

    flow = (
        CINN(2, 3, 1, blocks=1, hidden=4, depth=0, features=3, downs=0, max_log_scale=5)
        .double()
        .eval()
    )
    flow.embedder.last.weight.copy_(torch.eye(3)[:, :, None, None])
    flow.embedder.last.bias.copy_(-mean_z)
    flow.blocks[0].norm.bias.copy_(-mean_x)
    zero = torch.zeros(1, 1).double()
    # First the second number is whitened given the first, then the first given z alone.
    rules = (
        (
            (covariance[1, 1] - slope * covariance[0, 1]).sqrt(),
            zero + slope,
            gain[1:] - slope * gain[:1],
        ),
        (covariance[0, 0].sqrt(), zero, gain[:1]),
    )
    for coupling, (deviation, of_half, of_condition) in zip(flow.blocks[0].couplings, rules):
        linear_network(coupling.shift, -of_half / deviation, -of_condition / deviation, zero[0])
        linear_network(
            coupling.log_scale, zero, 0 * of_condition, 5 * torch.atanh(-deviation.log() / 5)[None]
        )

    z = torch.randn(7, 3, dtype=torch.float64) + mean_z
    x, h = 3 * torch.randn(7, 2, dtype=torch.float64), flow.embed(z)
    mean = mean_x + (z - mean_z) @ gain.T
    torch.testing.assert_close(
        flow.log_prob(x, h), MultivariateNormal(mean, covariance).log_prob(x), rtol=0, atol=1e-9
    )
    drawn = flow.sample(h[:1], 40_000, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(drawn.mean(0), mean[0], rtol=0, atol=0.05)
    torch.testing.assert_close(drawn.T.cov(), covariance, rtol=0.05, atol=0.05)


def test_likelihood_training_finds_the_scale_that_z_tells():
    """x is noise of deviation exp(z), whose conditional entropy is known.

    No network that ignores z comes near it.
    """
    flow = CINN(2, 1, 1, blocks=2, hidden=16, depth=1, features=4, downs=0)
    optimiser = torch.optim.Adam(flow.parameters(), lr=1e-2)
    for _ in range(120):
        z = torch.rand(128, 1) * 2 - 1
        loss = -flow.log_prob(torch.randn(128, 2) * z.exp(), flow.embed(z)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    z = torch.rand(4000, 1) * 2 - 1
    with torch.no_grad():
        found = float(-flow.log_prob(torch.randn(4000, 2) * z.exp(), flow.embed(z)).mean())
    entropy = 1 + math.log(2 * math.pi)  # of two standard normals; the mean of z is 0
    assert entropy - 0.1 < found < entropy + 0.15


# --- ActNorm


@pytest.mark.parametrize("shape", [(40, 3), (8, 3, 4, 5), (1, 3)])
def test_actnorm_is_not_upset_by_constant_channels(shape):
    x = torch.randn(shape) * 5 + 2
    x[:, 1] = -7.25
    norm = ActNorm(3)
    norm.initialise(x)
    y, log_det = norm.encode(x)
    assert torch.isfinite(y).all() and torch.isfinite(log_det) and norm.log_scale[1] == 0
    torch.testing.assert_close(
        y.transpose(0, 1).flatten(1).mean(1), torch.zeros(3), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(norm.decode(y), x, rtol=0, atol=1e-4)


def test_a_constant_condition_and_constant_latents_are_survived():
    flow = CINN(**VECTORS)
    x, z = torch.ones(4, 6), torch.zeros(4, 3, 8, 8)
    loss = -flow.log_prob(x, flow.embed(z)).mean()
    loss.backward()
    assert torch.isfinite(loss) and all(
        torch.isfinite(p.grad).all() for p in flow.parameters() if p.grad is not None
    )


def test_only_the_first_batch_in_training_sets_the_actnorms():
    flow = CINN(**VECTORS).eval()
    flow(latents(VECTORS, 8), flow.embed(activations(VECTORS, 8)))
    assert not flow.initialised and not flow.embedder.initialised
    flow.train()
    flow(latents(VECTORS, 8), flow.embed(activations(VECTORS, 8)))
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    flow(5 * latents(VECTORS, 8), flow.embed(5 * activations(VECTORS, 8)))
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())


# --- conditions


@torch.no_grad()
def test_prepared_gives_the_same_and_one_condition_serves_any_batch(kind):
    flow = as_if_trained(kind)
    x, h = latents(kind, 6), flow.embed(activations(kind, 6))
    v, log_det = flow(x, h)
    prepared = flow.prepared(h)
    torch.testing.assert_close(prepared(x), (v, log_det), rtol=0, atol=0)
    torch.testing.assert_close(prepared.inverse(v), flow.inverse(v, h), rtol=0, atol=0)
    torch.testing.assert_close(prepared.log_prob(x), flow.log_prob(x, h), rtol=0, atol=0)
    of_two = flow.prepared(h[:2])
    repeated = h[:2].repeat_interleave(3, 0)
    torch.testing.assert_close(of_two(x)[0], flow(x, repeated)[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(
        flow.prepared(h[:1]).inverse(x), flow.inverse(x, h[:1].expand_as(h)), rtol=0, atol=1e-5
    )
    with pytest.raises(ValueError, match="do not divide"):
        of_two(x[:5])


@torch.no_grad()
def test_each_item_of_a_batch_is_treated_alone(kind):
    flow = as_if_trained(kind)
    x, z = latents(kind, 4), activations(kind, 4)
    h = flow.embed(z)
    v, log_det = flow(x, h)
    for n in range(4):
        torch.testing.assert_close(flow.embed(z[n : n + 1]), h[n : n + 1], rtol=0, atol=1e-5)
        one, one_log_det = flow(x[n : n + 1], h[n : n + 1])
        torch.testing.assert_close(one, v[n : n + 1], rtol=0, atol=1e-5)
        torch.testing.assert_close(one_log_det, log_det[n : n + 1], rtol=0, atol=1e-4)
        assert (flow(x[n : n + 1], h[n - 1 : n or None])[0] - one).abs().max() > 1e-3, (
            "the condition changes nothing"
        )


@torch.no_grad()
def test_samples_are_seeded_and_ordered_by_condition(kind):
    flow = as_if_trained(kind)
    h = flow.embed(activations(kind, 2))
    drawn = flow.sample(h, 5, generator=torch.Generator().manual_seed(3))
    again = flow.sample(h, 5, generator=torch.Generator().manual_seed(3))
    assert torch.equal(drawn, again) and drawn.shape == latents(kind, 10).shape
    v = torch.randn(drawn.shape, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(drawn[5:], flow.inverse(v[5:], h[1:]), rtol=0, atol=1e-5)


def test_gradients_reach_weights_condition_and_latents_but_prepared_only_latents():
    flow = CINN(**VECTORS)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x, z = latents(VECTORS, 4).requires_grad_(), activations(VECTORS, 4).requires_grad_()
    flow.log_prob(x, flow.embed(z)).sum().backward()
    assert (
        all(p.grad is not None and p.grad.any() for p in flow.parameters())
        and x.grad.any()
        and z.grad.any()
    )
    grad, x.grad = x.grad, None
    flow.eval().requires_grad_(False).prepared(flow.embed(z)).log_prob(x).sum().backward()
    torch.testing.assert_close(x.grad, grad)


@pytest.mark.parametrize("shape", [(64, 32, 32), (1, 128, 128), (32, 31, 45), (300,)])
@pytest.mark.parametrize("spatial", [False, True])
def test_any_layer_can_be_the_condition(shape, spatial):
    size = shape[1] if len(shape) == 3 else 1
    flow = CINN(
        4,
        shape[0],
        size,
        blocks=1,
        hidden=8,
        downs=3 if size > 1 else 0,
        embedder_width=4,
        spatial=spatial,
        latent_size=2,
    )
    z = torch.randn(2, *shape)
    h = flow.embed(z)
    assert h.shape == ((2, 128, 2, 2) if spatial else (2, 128))
    x = torch.randn(2, 4, *[2] * 2 * spatial)
    torch.testing.assert_close(flow.inverse(flow(x, h)[0], h), x)
    if spatial:  # convolutions: another size of image than in training
        h = flow.embed(z, (3, 4))
        x = torch.randn(2, 4, 3, 4)
        torch.testing.assert_close(flow.inverse(flow(x, h)[0], h), x)


def test_wrong_shapes_are_told():
    flow = CINN(**VECTORS)
    h = flow.embed(activations(VECTORS, 2))
    with pytest.raises(ValueError, match=r"latents must have the shape \(N, 6\)"):
        flow(torch.zeros(2, 7), h)
    with pytest.raises(ValueError, match="comes from embed"):
        flow(torch.zeros(2, 6), h[:, :4])
    with pytest.raises(ValueError, match="3 channels and at least 4 x 4"):
        flow.embed(torch.zeros(2, 3, 3, 9))
    flow = CINN(**MAPS)
    with pytest.raises(ValueError, match="need a condition of that size"):
        flow(torch.zeros(2, 4, 5, 5), flow.embed(activations(MAPS, 2)))


# --- files


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": 7},
        {"channels": 0},
        {"channels": 4.0},
        {"channels": 10**9},
        {"blocks": 1000},
        {"hidden": 10**6},
        {"depth": -1},
        {"hidden": True},
        {"downs": 8},
        {"condition_size": 4096, "downs": 1},
        {"embedder_norm": "batch"},
        {"spatial": 1},
        {"negative_slope": 0},
        {"negative_slope": float("nan")},
        {"max_log_scale": 1e9},
        {"max_log_scale": "1"},
        {"latent_size": None},
        {"hidden": 4096, "blocks": 64},
        {"features": 2048, "condition_size": 1024},
        {"colour": "red"},
    ],
)
def test_hostile_arguments_are_refused(wrong):
    with pytest.raises(ValueError):
        networks.build("cinn", **wrong)


def test_a_model_file_keeps_the_network_and_cannot_break_the_shuffle(tmp_path):
    card = models.Card(
        "Toy flow",
        "1",
        "cinn",
        VECTORS,
        (models.Channel("CT", "ct", "HU", 0.0, 1.0),),
        (models.Channel("CT", "ct", "HU", 0.0, 1.0),),
        2,
        "LPS",
        (0.5, 1.0),
        1,
        ("toy",),
        "none",
        "CC0",
        "Tests.",
        task="invariance flow",
    )
    flow = as_if_trained(VECTORS)
    x, h = latents(VECTORS, 3), flow.embed(activations(VECTORS, 3))
    loaded = models.load(models.save(tmp_path / "flow.safetensors", flow, card)).network
    torch.testing.assert_close(loaded(x, h), flow(x, h), rtol=0, atol=0)
    flow.blocks[0].shuffle_keys[:] = torch.tensor([1e30, -5, -5, -5, 0.5, -1e30])
    loaded = models.load(models.save(tmp_path / "flow.safetensors", flow, card)).network
    torch.testing.assert_close(loaded.inverse(loaded(x, h)[0], h), x, rtol=0, atol=1e-4)
