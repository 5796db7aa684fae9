"""The autoencoder and its critic: published numbers and formulas, exact shortcuts.

Also: both kinds of latents, and what is refused.
"""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from NetInversionLib import models, networks
from NetInversionLib.models import published_vae
from NetInversionLib.networks import critic as networks_critic
from NetInversionLib.networks import vae, vae_blocks
from NetInversionLib.networks.critic import Critic
from NetInversionLib.networks.vae import VAE

SMALL = {
    "latents": 14,
    "encoder": "small",
    "encoder_width": 2,
    "size": 32,
    "blocks": 3,
    "decoder_width": 4,
    "code": 4,
    "classes": 5,
    "class_hidden": 6,
}
KINDS = {
    "vectors": SMALL,
    "vectors without classes, codes, attention, condition": {
        **SMALL,
        "code": 0,
        "classes": 0,
        "attention": False,
        "condition_channels": 0,
    },
    "maps": {**SMALL, "latents": 3, "spatial": True},
    "maps without attention": {
        **SMALL,
        "latents": 3,
        "spatial": True,
        "attention": False,
        "blocks": 2,
    },
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


def images(arguments: dict, count: int = 2, size=None) -> tuple[torch.Tensor, torch.Tensor | None]:
    size = size or [arguments["size"]] * 2
    condition = torch.randn(count, 1, *size) if arguments.get("condition_channels", 1) else None
    return torch.randn(count, 1, *size), condition


def as_if_trained(arguments: dict) -> VAE:
    """Weights, running means and scales far from the start."""
    network = VAE(**arguments)
    with torch.no_grad():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif (
                tensor.is_floating_point()
                and tensor.ndim == 1
                and not name.endswith((".u", "sign"))
            ):
                tensor.add_(0.3 * torch.randn_like(tensor))
    return network.eval().requires_grad_(False)


# --- published networks


def test_published_weights_give_the_published_numbers(parity):
    network = published_vae.from_published(
        load_file(parity / "ldctinv_vae_reduced.safetensors")
    ).requires_grad_(False)
    recorded = load_file(parity / "ldctinv_vae_reduced_io.safetensors")
    mean, log_variance = network.encode(recorded["x"], recorded["cond"])
    torch.testing.assert_close(mean[..., None, None], recorded["mean"], rtol=0, atol=2e-6)
    torch.testing.assert_close(log_variance[..., None, None], recorded["logvar"], rtol=0, atol=1e-5)
    assert log_variance.min() == -30 and log_variance.max() == 10
    torch.testing.assert_close(vae.kl(mean, log_variance), recorded["kl"])
    for z, image in (("mean", "decode_mean"), ("z_random", "decode_z_random")):
        found = network.decode(recorded[z], recorded["cond"])
        torch.testing.assert_close(
            found, recorded[image], rtol=0, atol=2e-6 * float(recorded[image].abs().max())
        )
        exact = (
            copy.deepcopy(network).double().decode(recorded[z].double(), recorded["cond"].double())
        )
        torch.testing.assert_close(exact, recorded[image].double(), rtol=0, atol=6e-6)
    torch.testing.assert_close(
        network.fold().decode(recorded["z_random"], recorded["cond"]), found, rtol=0, atol=1e-5
    )


def test_the_one_step_spectral_norm_is_not_the_exact_one(parity):
    state = load_file(parity / "ldctinv_vae_reduced.safetensors")
    network = published_vae.from_published(state).requires_grad_(False)
    ratios = []
    for name, module in network.named_modules():
        if isinstance(module, vae_blocks.Spectral):
            ratios.append(float(1 / torch.linalg.matrix_norm(module.effective().flatten(1), 2)))
            assert ratios[-1] <= 1 + 1e-5, name
    listing = json.loads((parity / "ldctinv_reduced.json").read_text())["vae"]["checks"]
    assert min(ratios) == pytest.approx(listing["estimated_over_true_spectral_norm_min"], abs=1e-4)
    assert max(ratios) == pytest.approx(listing["estimated_over_true_spectral_norm_max"], abs=1e-4)


def test_the_published_size_can_be_read_and_has_the_published_number_of_weights(parity):
    listing = json.loads((parity / "ldctinv_vae_full_keys.json").read_text())
    shapes = {
        entry["key"]: torch.empty(entry["shape"], device="meta") for entry in listing["state_dict"]
    }
    arguments = published_vae.published_arguments(shapes)
    with torch.device("meta"):
        network, default = VAE(**arguments), VAE()
    assert (
        sum(p.numel() for p in network.parameters())
        == listing["n_elements_trainable"]
        == 108_878_827
    )
    assert {k: v.shape for k, v in network.state_dict().items()} == {
        k: v.shape for k, v in default.state_dict().items()
    }


OURS_AND_THEIRS = (
    ("encoder.fc.", "encoder.model.fc.sub_layers.0."),
    ("encoder.", "encoder.model."),
    ("decoder.classes.", "decoder.map_to_class_embedding.main."),
    ("decoder.embedding.", "decoder.decoder.linear."),
    ("decoder.start.", "decoder.decoder.G_linear."),
    ("decoder.image.", "decoder.decoder.colorize."),
    ("decoder.blocks.", "decoder.decoder.GBlock."),
    ("decoder.", "decoder.decoder."),
)


def as_published(network: VAE) -> dict:
    """The network's state under the published names, with what the published files hold besides."""
    state = {}
    for name, tensor in network.state_dict().items():
        if name.startswith("decoder.norm.") or name == "decoder.initialised":
            continue
        for ours, theirs in OURS_AND_THEIRS:
            if name.startswith(ours):
                name = name.replace(ours, theirs, 1)
                break
        name = name.replace("norm0.running", "HyperBN.bn.running").replace(
            "norm1.running", "HyperBN_1.bn.running"
        )
        name = (
            name.replace("norm0.", "HyperBN.")
            .replace("norm1.", "HyperBN_1.")
            .replace("shortcut", "conv_sc")
        )
        name = name.replace(".gamma.", ".gamma_embed.").replace(".beta.", ".beta_embed.")
        spectral = (
            any(part in name for part in ("GBlock", "G_linear", "attention."))
            and "running" not in name
        )
        if spectral and not name.endswith("attention.gamma"):
            stem, last = name.rsplit(".", 1)
            name = (
                f"{stem}.module.{ {'weight': 'weight_bar', 'u': 'weight_u', 'bias': 'bias'}[last] }"
            )
            if last == "weight":
                state[f"{stem}.module.weight_v"] = tensor.flatten(1)[:, 0].clone()
        state[name] = tensor
        if name.endswith("running_var"):
            state[name.replace("running_var", "num_batches_tracked")] = torch.tensor(7)
    norm, p = network.decoder.norm, "decoder.decoder.ScaledCrossReplicaBN."
    return state | {
        p + "loc": norm.bias[None, :, None, None],
        p + "initialized": torch.tensor(1, dtype=torch.uint8),
        p + "scale": (norm.sign * norm.log_scale.exp())[None, :, None, None],
    }


PUBLISHED_KIND = {**SMALL, "encoder": "resnet50"}


def test_a_network_goes_through_the_published_names_and_comes_back():
    network = as_if_trained(PUBLISHED_KIND)
    network.decoder.norm.sign[1] = -1
    state = as_published(network)
    again = published_vae.from_published(state)
    x, condition = images(PUBLISHED_KIND)
    torch.testing.assert_close(again(x, condition), network(x, condition), rtol=0, atol=1e-6)
    assert published_vae.published_arguments(state) == {
        "image_channels": 1,
        "condition_channels": 1,
        **PUBLISHED_KIND,
    }


def test_published_key_names_are_the_listed_ones(parity):
    listing = json.loads((parity / "ldctinv_vae_full_keys.json").read_text())
    with torch.device("meta"):
        state = as_published(VAE())
    assert {k: list(v.shape) for k, v in state.items()} == {
        e["key"]: e["shape"] for e in listing["state_dict"]
    }


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: s.pop("decoder.decoder.linear.weight"),
        lambda s: s.pop("encoder.model.layer2.1.bn1.bias"),
        lambda s: s.clear(),
        lambda s: s["decoder.decoder.ScaledCrossReplicaBN.initialized"].zero_(),
    ],
)
def test_other_checkpoints_are_refused(spoil):
    state = as_published(as_if_trained(PUBLISHED_KIND))
    spoil(state)
    with pytest.raises(ValueError, match="not the weights of a published|never trained"):
        published_vae.from_published(state)


# --- formulas


def test_upsampling_and_convolving_at_once_gives_the_same():
    layer = vae_blocks._UpsamplingConv(3, 5).eval()
    x = torch.randn(2, 3, 17, 19)
    plain = F.conv2d(
        F.interpolate(x, scale_factor=2, mode="nearest"), layer.effective(), layer.bias, padding=1
    )
    torch.testing.assert_close(layer(x), plain)
    few = x[..., :7, :7]
    plain = F.conv2d(
        F.interpolate(few, scale_factor=2, mode="nearest"), layer.effective(), layer.bias, padding=1
    )
    torch.testing.assert_close(layer(few), plain)


def test_training_makes_the_spectral_norm_exact_and_use_does_not_change_it():
    layer = vae_blocks.SpectralLinear(7, 9)
    layer.eval()
    before = layer.u.clone()
    layer(torch.randn(2, 7))
    assert torch.equal(layer.u, before)
    layer.train()
    for _ in range(500):
        layer(torch.randn(2, 7))
    assert float(torch.linalg.matrix_norm(layer.effective().detach(), 2)) == pytest.approx(
        1, abs=3e-3
    )
    weight = layer.weight.detach().double()
    u = layer.u.double()
    v = F.normalize(weight.T @ u, dim=0)
    u = F.normalize(weight @ v, dim=0)
    torch.testing.assert_close(
        layer.eval().effective().detach().double(), weight / (u @ weight @ v), rtol=5e-3, atol=1e-5
    )


@pytest.mark.parametrize("maps", [False, True])
def test_conditional_batch_norm_is_the_formula_in_training_and_in_use(maps):
    make = (
        (lambda: vae_blocks.SpectralConv(4, 3, 1, bias=False))
        if maps
        else (lambda: vae_blocks.SpectralLinear(4, 3, bias=False))
    )
    norm = vae_blocks._ConditionalNorm(3, make(), make())
    x, told = (
        torch.randn(5, 3, 4, 6) * 2 + 1,
        torch.randn(5, 4, 2, 3) if maps else torch.randn(5, 4),
    )
    norm.running_mean.normal_()
    norm.eval()
    scale, shift = 1 + norm.gamma(told), norm.beta(told)
    if maps:
        scale, shift = (F.interpolate(t, size=(4, 6), mode="nearest") for t in (scale, shift))
    else:
        scale, shift = scale[:, :, None, None], shift[:, :, None, None]
    mean, variance = (t.view(1, 3, 1, 1) for t in (norm.running_mean, norm.running_var))
    torch.testing.assert_close(norm(x, told), (x - mean) / (variance + 1e-4).sqrt() * scale + shift)
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(
        norm.train()(x, told),
        (x - mean) / (variance + 1e-4).sqrt() * scale + shift,
        rtol=0,
        atol=1e-4,
    )


def test_attention_is_a_weighted_mean_of_the_half_sized_image():
    layer = vae_blocks.Attention(8).eval()
    x = torch.randn(2, 8, 6, 4)
    assert torch.equal(layer(x), x)  # its weight begins at zero
    with torch.no_grad():
        layer.gamma.fill_(0.7)
        theta, phi, g, out = (
            module.effective().flatten(1)
            for module in (layer.theta, layer.phi, layer.g, layer.o_conv)
        )
        expected = x.clone()
        small = torch.stack(
            [
                F.max_pool2d(torch.einsum("oc,nchw->nohw", w, x), 2).flatten(2)[:, k]
                for w in (phi, g)
                for k in range(len(w))
            ],
            1,
        )
        keys, values = small[:, : len(phi)], small[:, len(phi) :]
        for n in range(2):
            for i in range(6):
                for j in range(4):
                    weights = ((theta @ x[n, :, i, j]) @ keys[n]).softmax(0)
                    expected[n, :, i, j] += 0.7 * out @ (values[n] @ weights)
        torch.testing.assert_close(layer(x), expected)


def test_the_divergence_is_torch_s():
    mean, log_variance = torch.randn(3, 5, 2, 2), torch.randn(3, 5, 2, 2)
    normal = torch.distributions.Normal(mean, (log_variance / 2).exp())
    exact = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(
        (1, 2, 3)
    )
    torch.testing.assert_close(vae.kl(mean, log_variance), exact)


# --- the whole


@torch.no_grad()
def test_shapes_batches_and_shortcuts(kind):
    network = as_if_trained(kind)
    x, condition = images(kind, 3)
    image, mean, log_variance = network(x, condition)
    size = kind["size"] >> kind["blocks"]
    assert (
        mean.shape
        == log_variance.shape
        == ((3, kind["latents"], size, size) if kind.get("spatial") else (3, kind["latents"]))
    )
    assert image.shape == x.shape and image.std() > 1e-3
    alone = [
        network(x[n : n + 1], None if condition is None else condition[n : n + 1]) for n in range(3)
    ]
    torch.testing.assert_close(torch.cat([one[0] for one in alone]), image, rtol=0, atol=1e-4)
    assert (image[0] - image[1]).abs().max() > 1e-4
    noise = torch.randn_like(mean)
    drawn = network(x, condition, noise)[0]
    torch.testing.assert_close(
        drawn,
        network.decode(mean + (0.5 * log_variance).exp() * noise, condition),
        rtol=0,
        atol=1e-5,
    )
    z = torch.randn(6, *mean.shape[1:])
    decoded = network.decode(z, None if condition is None else condition.repeat_interleave(2, 0))
    torch.testing.assert_close(network.decode(z, condition), decoded, rtol=0, atol=1e-5)
    torch.testing.assert_close(network.fold().decode(z, condition), decoded, rtol=0, atol=1e-4)
    torch.testing.assert_close(network.decode(z, condition), decoded, rtol=0, atol=1e-4)


def test_decoding_without_gradients_writes_over_its_own_buffers_alone(kind):
    """Without gradients norms and sums are computed in place: the same image, latents untouched."""
    network = as_if_trained(kind)
    images_, condition = images(kind)
    z = network.encode(images_, condition)[0].detach().requires_grad_()
    before = z.detach().clone()
    with_gradients = network.decode(z, condition)
    assert with_gradients.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(network.decode(z, condition), with_gradients)
    assert torch.equal(z, before)


@torch.no_grad()
def test_maps_take_images_of_any_size_and_keep_places():
    arguments = KINDS["maps without attention"]
    network = as_if_trained(arguments)
    x, condition = images(arguments, 1, (64, 40))
    image, mean, _ = network(x, condition)
    assert image.shape == x.shape and mean.shape == (1, 3, 16, 10)
    z = mean.clone()
    z[:, :, :4] += 1  # the upper quarter only
    change = (network.decode(z, condition) - image).abs().amax((0, 1, 3))
    assert change[:16].max() > 1e-4 and change[40:].max() == 0


def test_a_step_of_training_improves_the_reconstruction_and_reaches_every_weight(kind):
    network = VAE(**kind).train()
    x, condition = images(kind, 4)
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    losses = []
    for step in range(12):
        image, mean, log_variance = network(
            x, condition, torch.zeros_like(losses[0][1]) if losses else None
        )
        loss = (image - x).abs().mean() + 1e-3 * vae.kl(mean, log_variance).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append((float(loss.detach()), mean.detach()))
    assert losses[-1][0] < losses[0][0] and network.decoder.initialised
    without = [name for name, p in network.named_parameters() if p.grad is None]
    assert not without


def test_encoders_are_the_resnets():
    """The encoders are the convolutions of ResNet-50 and -101 at full width.

    They have 23.5 and 42.5 million weights without the classifier.
    """
    for name, convolutions, weights in (
        ("resnet50", 53, 23_508_032),
        ("resnet101", 104, 42_500_160),
    ):
        with torch.device("meta"):
            encoder = VAE(
                encoder=name, image_channels=2
            ).encoder  # two images and a condition: three channels
        found = [m for m in encoder.modules() if isinstance(m, torch.nn.Conv2d)]
        assert len(found) == convolutions + 1
        assert (
            sum(p.numel() for p in encoder.parameters())
            - sum(p.numel() for p in encoder.fc.parameters())
            == weights
        )


@pytest.mark.parametrize(
    "wrong",
    [
        {"latents": 0},
        {"latents": 10.0},
        {"encoder": "vgg"},
        {"encoder": ["small"]},
        {"encoder_width": 4096},
        {"decoder_width": 0},
        {"size": 100},
        {"size": 10**9},
        {"blocks": 8},
        {"blocks": 6, "spatial": True},
        {"latents": 100},
        {"code": -1},
        {"classes": 10**7},
        {"attention": 1},
        {"spatial": "yes"},
        {"condition_channels": True},
        {"decoder_width": 192, "size": 1024, "latents": 1024},
        {"colour": "red"},
    ],
)
def test_hostile_arguments_are_refused(wrong):
    with pytest.raises(ValueError):
        networks.build("ct_vae", **wrong)


def test_wrong_images_and_latents_are_told():
    network = as_if_trained(SMALL)
    x, condition = images(SMALL)
    for wrong in (x[..., :-1], x.repeat(1, 2, 1, 1)):
        with pytest.raises(ValueError, match="1 channels and 32 x 32 voxels"):
            network.encode(wrong, condition)
    for wrong in (None, condition[..., :16, :16]):
        with pytest.raises(
            ValueError, match=r"wants a condition of \(channels, height, width\) \(1, 32, 32\)"
        ):
            network.encode(x, wrong)
        with pytest.raises(ValueError, match="wants a condition"):
            network.decode(torch.zeros(2, 14), wrong)
    with pytest.raises(ValueError, match="latents must have 14 channels"):
        network.decode(torch.zeros(2, 13), condition)
    maps = as_if_trained(KINDS["maps"])
    with pytest.raises(ValueError, match="sides that are multiples of 8"):
        maps.encode(torch.zeros(1, 1, 36, 32), torch.zeros(1, 1, 36, 32))


def test_a_model_file_keeps_the_network(tmp_path, kind):
    channel = (models.Channel("CT", "ct", "HU", 0.0, 1.0),)
    card = models.Card(
        "Toy",
        "1",
        "ct_vae",
        kind,
        channel,
        channel,
        2,
        "LPS",
        (0.5, 1.0),
        8,
        ("toy",),
        "none",
        "CC0",
        "Tests.",
        task="invariance autoencoder",
    )
    network = as_if_trained(kind)
    x, condition = images(kind)
    loaded = models.load(models.save(tmp_path / "vae.safetensors", network, card)).network
    torch.testing.assert_close(loaded(x, condition), network(x, condition), rtol=0, atol=0)


# --- critic


@pytest.mark.parametrize("condition_channels", [0, 1])
def test_the_critic_learns_to_tell_images_apart_under_its_penalty(condition_channels):
    critic = networks.build("ct_critic", condition_channels=condition_channels, width=8, downs=3)
    optimiser = torch.optim.Adam(critic.parameters(), lr=1e-2, betas=(0.5, 0.9))
    condition = torch.randn(8, 1, 32, 32) if condition_channels else None
    for _ in range(
        120
    ):  # after 40, rounding and the seed decide whether the last pair is told apart
        real, made = torch.randn(8, 1, 32, 32), F.avg_pool2d(torch.randn(8, 1, 34, 34), 3, 1)
        penalty = networks_critic.gradient_penalty(critic, real, made, condition)
        loss = critic(made, condition).mean() - critic(real, condition).mean() + 10 * penalty
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        assert (critic(real, condition) > critic(made, condition)).all()
    assert all(p.grad is not None for p in critic.parameters())


def test_the_gradient_penalty_of_a_linear_critic_is_known():
    weights = torch.randn(1, 5, 6)

    def critic(x, condition):
        return (x * weights).sum((1, 2, 3))

    penalty = networks_critic.gradient_penalty(
        critic, torch.randn(4, 1, 5, 6), torch.randn(4, 1, 5, 6)
    )
    assert float(penalty) == pytest.approx(float((weights.norm() - 1) ** 2), rel=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [{"width": 0}, {"downs": 9}, {"image_channels": 1.0}, {"condition_channels": -1}, {"depth": 2}],
)
def test_hostile_arguments_of_the_critic_are_refused(wrong):
    with pytest.raises(ValueError):
        networks.build("ct_critic", **wrong)
    with pytest.raises(ValueError, match="at least 64 x 64"):
        Critic(condition_channels=0)(torch.zeros(1, 1, 32, 64))
