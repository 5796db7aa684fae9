"""Normalizing flow: exact inverse, exact log-determinant, and known densities.

Also: gradients without stored activations.
"""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from torch import nn
from torch.nn import functional as F

from NetInversionLib import networks
from NetInversionLib.networks import flow as networks_flow
from NetInversionLib.networks import flow_steps
from NetInversionLib.networks.flow import ConditionalFlow

TINY = {"levels": 2, "steps": 2, "hidden": 4, "features": (3, 5)}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def far_from_start(module: nn.Module, amount: float = 0.3) -> nn.Module:
    """Random changes of all weights, so that nothing is zero or the identity any more."""
    with torch.no_grad():
        for parameter in module.parameters():
            width = parameter[0].numel() if parameter.ndim == 4 else 9
            parameter.add_(amount * torch.randn_like(parameter) / width**0.5)
    return module


def pair(*shape, dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(shape, dtype=dtype), (torch.rand(shape, dtype=dtype) < 0.2).to(dtype)


def as_if_trained(x, condition, amount: float = 0.2, **arguments) -> ConditionalFlow:
    """Weights far from the start, activations of about 1, as training leaves them."""
    flow = far_from_start(ConditionalFlow(**arguments), amount).to(x.dtype)
    flow.initialise(x, condition)
    return flow.eval()


def log_det_by_autograd(function, x) -> torch.Tensor:
    """log |det| of the Jacobian of function(x) -> tensor, batch of one."""
    size = x.numel()
    jacobian = torch.autograd.functional.jacobian(
        lambda v: function(v.view_as(x)).flatten(), x.flatten()
    )
    assert jacobian.shape == (size, size)
    return torch.linalg.slogdet(jacobian)[1]


def flat(z) -> torch.Tensor:
    return torch.cat([part.flatten() for part in z])


# --- inverse


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("size, batch", [((8, 8), 32), ((40, 24), 2), ((160, 192), 1)])
@torch.no_grad()
def test_decoding_undoes_encoding(size, batch, conditional):
    x, condition = pair(batch, 1, *size)
    flow = as_if_trained(x, condition, conditional=conditional)
    z, log_det = flow(x, condition)
    assert [part.shape for part in z] == flow.latent_shapes(
        x.shape
    ) and log_det.dtype == torch.float64
    assert flat(z).numel() == x.numel() and 0.5 < flat(z).std() < 2
    assert all(step.last.weight.abs().max() > 0.01 for level in flow.levels for step in level.steps)
    torch.testing.assert_close(flow.inverse(z, condition), x, rtol=0, atol=1e-4)
    other, _ = pair(batch, 1, *size)
    torch.testing.assert_close(
        flow.inverse(flow(other, condition)[0], condition), other, rtol=0, atol=1e-4
    )
    # Latents that come from no image: random weights, unlike trained ones, may take them anywhere;
    # so not as far.
    flow, noise = (
        as_if_trained(x, condition, 0.1, conditional=conditional),
        [torch.randn_like(part) for part in z],
    )
    torch.testing.assert_close(
        flat(flow(flow.inverse(noise, condition), condition)[0]), flat(noise), rtol=0, atol=1e-4
    )


@settings(max_examples=15, deadline=None)
@given(
    levels=st.integers(1, 3),
    steps=st.integers(1, 3),
    transition_steps=st.integers(0, 2),
    channels=st.integers(1, 3),
    conditional=st.booleans(),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
)
@torch.no_grad()
def test_every_shape_of_flow_is_invertible(
    levels, steps, transition_steps, channels, conditional, rows, columns
):
    size = (rows * 2**levels, columns * 2**levels)
    x, condition = (
        torch.rand(2, channels, *size, dtype=torch.float64),
        torch.rand(2, 2, *size, dtype=torch.float64),
    )
    flow = as_if_trained(
        x,
        condition,
        in_channels=channels,
        condition_channels=2,
        levels=levels,
        steps=steps,
        hidden=4,
        transition_steps=transition_steps,
        features=[3] * levels,
        conditional=conditional,
    )
    torch.testing.assert_close(flow.inverse(flow(x, condition)[0], condition), x, rtol=0, atol=1e-8)


@pytest.mark.parametrize("conditional", [True, False])
@torch.no_grad()
def test_prepared_flow_gives_the_same_and_serves_any_batch(conditional):
    x, condition = pair(3, 1, 16, 24)
    flow = as_if_trained(x, condition, conditional=conditional)
    prepared = flow.prepared(condition)
    z, log_det = flow(x, condition)
    torch.testing.assert_close(flat(prepared(x)[0]), flat(z), rtol=0, atol=0)
    torch.testing.assert_close(prepared.log_prob(x), flow.log_prob(x, condition), rtol=0, atol=0)
    torch.testing.assert_close(prepared.inverse(z), flow.inverse(z, condition), rtol=0, atol=0)
    of_one = flow.prepared(condition[:1])
    torch.testing.assert_close(of_one(x)[1], flow(x, condition[:1].expand(3, -1, -1, -1))[1])


def test_prepared_flow_passes_gradients_to_the_image_only():
    x, condition = pair(2, 1, 8, 8, dtype=torch.float64)
    flow = as_if_trained(x, condition, **TINY)
    prepared = flow.prepared(condition)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    prepared.log_prob(a).sum().backward()
    assert flow.condition_network.down[0][0].weight.grad is None
    flow.log_prob(b, condition).sum().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-9)


def test_condition_matters_only_to_a_conditional_flow():
    x, condition = pair(1, 1, 16, 16)
    conditional = as_if_trained(x, condition)
    assert (conditional(x, condition)[1] - conditional(x, 1 - condition)[1]).abs() > 1
    with pytest.raises(ValueError, match="condition"):
        conditional(x)
    unconditional = as_if_trained(x, None, conditional=False)
    torch.testing.assert_close(unconditional(x)[1], unconditional(x, condition)[1], rtol=0, atol=0)


def test_shift_add_convolution_equals_the_library_s():
    layer = nn.Conv2d(5, 4, 3, padding=1)
    for size in ((40, 30), (1, 1200), (1200, 1)):
        h = torch.rand(2, 5, *size)
        with torch.no_grad():
            torch.testing.assert_close(
                flow_steps._conv_to_few(h, layer.weight, layer.bias), layer(h), rtol=1e-5, atol=1e-5
            )


# --- log-determinant


def test_log_determinant_of_affine_maps():
    mixing = far_from_start(flow_steps.Mixing(3, 6), 1).double()
    weights, offsets, log_det = mixing()
    torch.testing.assert_close(torch.linalg.slogdet(weights)[1].sum(), log_det)
    x = torch.rand(1, 6, 2, 2, dtype=torch.float64)
    by_hand = torch.einsum(
        "cd,ndhw->nchw",
        mixing.permutation[1]
        @ (mixing.lower[1].tril(-1) + torch.eye(6))
        @ (mixing.upper[1].triu(1) + torch.diag(mixing.sign[1] * mixing.log_diagonal[1].exp())),
        (x + mixing.bias[1][:, None, None]) * mixing.log_scale[1].exp()[:, None, None],
    )  # ActNorm, then 1 x 1 convolution
    torch.testing.assert_close(flow_steps.mix(x, weights[1], offsets[1]), by_hand)


def test_transition_steps_are_multiplied_out_exactly():
    level = far_from_start(networks_flow.Level(4, 0, 2, 2, 4, 1.0, False)).double()
    x = torch.rand(2, 4, 3, 3, dtype=torch.float64)
    weights, offsets, _ = level.mixing()
    one_by_one = x
    for weight, offset in zip(weights[:3], offsets[:3]):
        one_by_one = flow_steps.mix(one_by_one, weight, offset)
    fused_weights, fused_offsets, _ = level.affine_maps(torch.float64)
    assert len(fused_weights) == 2
    torch.testing.assert_close(flow_steps.mix(x, fused_weights[0], fused_offsets[0]), one_by_one)


@pytest.mark.parametrize("features", [0, 3])
def test_log_determinant_of_a_step_and_of_a_split(features):
    x = torch.rand(1, 4, 3, 2, dtype=torch.float64)
    given_features = torch.rand(1, features, 3, 2, dtype=torch.float64) if features else None
    step = far_from_start(flow_steps.FlowStep(4, features, 4, 1.0), 1).double()
    given = step.prepare(given_features)
    torch.testing.assert_close(
        step.encode(x, given)[1][0], log_det_by_autograd(lambda v: step.encode(v, given)[0], x)
    )
    torch.testing.assert_close(step.decode(step.encode(x, given)[0], given), x)
    split = far_from_start(flow_steps.Split(4, features, 1.0), 1).double()
    prior = split.prepare(given_features)
    torch.testing.assert_close(
        split.encode(x, prior)[2][0],
        log_det_by_autograd(lambda v: torch.cat(split.encode(v, prior)[:2], 1), x),
    )
    torch.testing.assert_close(split.decode(*split.encode(x, prior)[:2], prior), x)


@pytest.mark.parametrize("memory_saving", [True, False])
@pytest.mark.parametrize("conditional", [True, False])
def test_log_determinant_of_the_flow(conditional, memory_saving):
    x, condition = pair(1, 1, 8, 4, dtype=torch.float64)
    flow = as_if_trained(x, condition, conditional=conditional, memory_saving=memory_saving, **TINY)
    expected = log_det_by_autograd(lambda v: flat(flow(v, condition)[0]), x)
    torch.testing.assert_close(flow(x, condition)[1][0], expected, rtol=0, atol=1e-8)
    single = copy.deepcopy(flow).float()(x.float(), condition.float())[1][0]
    torch.testing.assert_close(
        single, expected, rtol=2e-6, atol=1e-4
    )  # some last places of float32 sums above 100


# --- gradients


def gradients(flow, x, condition, memory_saving: bool) -> list[torch.Tensor]:
    """Gradients of a loss that weighs latents and log-determinant at random.

    They are those to image, condition and all weights.
    """
    flow.memory_saving = memory_saving
    flow.zero_grad()
    x, condition = x.clone().requires_grad_(), condition.clone().requires_grad_()
    z, log_det = flow(x, condition)
    weights = torch.rand(flat(z).shape, generator=torch.Generator().manual_seed(3)).to(x.dtype)
    ((flat(z) ** 2 * weights).sum() - (log_det * torch.arange(1, len(x) + 1)).sum()).backward()
    return [t.grad for t in (x, condition, *flow.parameters())]


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_memory_saving_gradients_equal_the_plain_ones(dtype, tolerance, conditional):
    x, condition = pair(3, 1, 16, 24, dtype=dtype)
    flow = as_if_trained(x, condition, conditional=conditional)
    saving, plain = (gradients(flow, x, condition, kind) for kind in (True, False))
    names = ["x", "condition", *(name for name, _ in flow.named_parameters())]
    for name, a, b in zip(names, saving, plain):
        if b is None:
            assert a is None and name == "condition" and not conditional
        else:
            assert b.norm() > 0 and (a - b).norm() <= tolerance * b.norm(), name


def test_memory_saving_gradients_equal_numerical_ones():
    x, condition = pair(1, 1, 4, 4, dtype=torch.float64)
    flow = as_if_trained(x, condition, **TINY)
    x, condition = x.requires_grad_(), condition.requires_grad_()
    # Lines of its ReLUs are met with probability zero.
    assert torch.autograd.gradcheck(
        lambda a, b: (*flow(a, b)[0], flow(a, b)[1]), (x, condition), atol=1e-6
    )


def test_frozen_parts_get_no_gradient_and_others_theirs():
    x, condition = pair(2, 1, 8, 8, dtype=torch.float64)
    flow = as_if_trained(x, condition, **TINY)
    whole = gradients(flow, x, condition, True)
    names = [name for name, _ in flow.named_parameters()]
    for frozen in ("condition_network", "injector", "from_features", "first", "last", "mixing", ""):
        for name, parameter in flow.named_parameters():
            parameter.requires_grad_(frozen not in name)
        found = gradients(flow, x, condition, True)
        for name, a, b in zip(["x", "condition", *names], found, whole):
            if name in names and frozen in name:
                assert a is None, name
            else:
                torch.testing.assert_close(a, b, msg=f"{name} with {frozen} frozen")


def test_nothing_is_kept_that_grows_with_depth():
    # Bytes that autograd keeps between forward and backward: what makes the peak of a training
    # step.
    def kept(steps: int, memory_saving: bool) -> int:
        x, condition = pair(2, 1, 32, 32)
        flow = ConditionalFlow(steps=steps, memory_saving=memory_saving)
        own = {p.untyped_storage().data_ptr() for p in flow.parameters()}
        storages = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if (
                tensor.ndim == 4 and tensor.shape[0] == 2 and storage.data_ptr() not in own
            ):  # activations: batch of two
                storages[storage.data_ptr()] = (storage.nbytes(), tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            log_prob = flow.log_prob(x, condition)
        total = sum(size for size, _ in storages.values())
        log_prob.sum().backward()
        return total

    assert kept(2, True) == kept(12, True) < kept(2, False) < kept(12, False) / 3


# --- ActNorm


def test_first_training_batch_sets_actnorm_once_and_for_good():
    x, condition = pair(4, 1, 16, 16)
    flow = ConditionalFlow(**TINY)
    flow.eval()(x, condition)
    assert not flow.initialised
    z, _ = flow.train()(5 * x - 2, condition)
    for part in z:
        torch.testing.assert_close(
            part.std((0, 2, 3), correction=0), torch.ones(part.shape[1]), rtol=0.5, atol=0
        )
    before = copy.deepcopy(flow.state_dict())
    assert before["initialised"]
    flow(x * 100, condition)
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())
    loaded = ConditionalFlow(**TINY).train()
    loaded.load_state_dict(before)
    torch.testing.assert_close(loaded(x, condition)[1], flow(x, condition)[1], rtol=0, atol=0)


def test_actnorm_standardises_its_channels():
    mixing = flow_steps.Mixing(1, 4)
    x = (
        torch.randn(3, 4, 9, 9) * torch.tensor([1, 0.05, 30, 2])[:, None, None]
        + torch.tensor([0, 1, -50, 3.0])[:, None, None]
    )
    with torch.no_grad():
        mixing.initialise(0, x)
        y = (x + mixing.bias[0][:, None, None]) * mixing.log_scale[0].exp()[:, None, None]
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(y.std((0, 2, 3), correction=0), torch.ones(4), rtol=1e-4, atol=0)


@pytest.mark.parametrize("value", [0.0, 0.7, 1e6])
def test_constant_first_batch_leaves_a_usable_flow(value):
    flow = ConditionalFlow(**TINY).train()
    constant = torch.full((2, 1, 8, 8), value)
    z, log_det = flow(constant, torch.zeros_like(constant))
    assert torch.isfinite(flat(z)).all() and torch.isfinite(log_det).all()
    x, condition = pair(2, 1, 8, 8)
    torch.testing.assert_close(
        flow.inverse(flow(x + value, condition)[0], condition), x + value, rtol=1e-5, atol=1e-4
    )


# --- density


def test_density_of_a_linear_flow_is_the_gaussian_s():
    # Couplings, injectors and priors still at zero: z = A x + b, so x is Gaussian with covariance
    # (A' A)^-1.
    flow = ConditionalFlow(**TINY).double()
    far_from_start(flow.levels[0].mixing, 1)
    far_from_start(flow.levels[1].mixing, 1)
    x, condition = pair(5, 1, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        origin = flat(flow(torch.zeros(1, 1, 4, 4, dtype=torch.float64), condition[:1])[0])
        unit = torch.eye(16, dtype=torch.float64).view(16, 1, 4, 4)
        z = flow(unit, condition[:1].expand(16, -1, -1, -1))[0]
        matrix = torch.cat([part.flatten(1) for part in z], 1).T - origin[:, None]
        log_prob = flow.log_prob(x, condition)
    # Not by the covariance, whose condition is that of the matrix squared: 4e9 here.
    latents = x.flatten(1).numpy() @ matrix.numpy().T + origin.numpy()
    expected = norm.logpdf(latents).sum(1) + np.linalg.slogdet(matrix.numpy())[1]
    np.testing.assert_allclose(log_prob, expected, rtol=1e-10)


def test_density_integrates_to_one():
    # Importance sampling of the whole nonlinear density of a 2 x 2 image with a wide Gaussian.
    flow = far_from_start(ConditionalFlow(levels=1, steps=2, hidden=4, features=[3]), 0.6).double()
    condition = torch.rand(1, 1, 2, 2, dtype=torch.float64)
    with torch.no_grad():
        prepared = flow.prepared(condition)
        samples = prepared.inverse([torch.randn(100_000, 4, 1, 1, dtype=torch.float64)]).flatten(1)
        wide = torch.distributions.MultivariateNormal(samples.mean(0), 2 * samples.T.cov())
        x = wide.sample((200_000,))
        ratio = (prepared.log_prob(x.view(-1, 1, 2, 2)) - wide.log_prob(x)).exp()
    error = float(ratio.std() / len(ratio) ** 0.5)
    assert error < 0.02 and abs(float(ratio.mean()) - 1) < 4 * error


def test_samples_are_reproducible_and_follow_the_temperature():
    x, condition = pair(2, 1, 16, 16)
    flow = as_if_trained(x, condition, 0.1)
    with torch.no_grad():

        def draw(temperature: float, seed: int) -> torch.Tensor:
            return flow.sample(condition, temperature, torch.Generator().manual_seed(seed))

        assert (
            draw(1, 5).shape == x.shape
            and torch.equal(draw(1, 5), draw(1, 5))
            and not torch.equal(draw(1, 5), draw(1, 6))
        )
        assert torch.equal(draw(0, 5), draw(0, 6))
        radius = flat(flow(draw(0.5, 5), condition)[0]).std()
    assert radius == pytest.approx(0.5, rel=0.1)


def test_training_finds_the_density_of_correlated_gaussian_noise():
    # Noise smoothed along the rows has a known entropy; the flow must come close to it, and never
    # below on average.
    generator = torch.Generator().manual_seed(0)
    kernel = torch.tensor([0.9, 0.5])

    def batch(n: int) -> torch.Tensor:
        noise = torch.randn(n, 1, 8, 8, generator=generator)
        return kernel[0] * noise + kernel[1] * noise.roll(1, 3)

    matrix = kernel[0] * torch.eye(8) + kernel[1] * torch.eye(8).roll(1, 1)
    entropy = 64 * 0.5 * np.log(2 * np.pi * np.e) + 8 * float(torch.linalg.slogdet(matrix)[1])
    flow = ConditionalFlow(levels=2, steps=3, hidden=8, conditional=False)
    optimiser = torch.optim.Adam(flow.parameters(), 1e-2)
    for step in range(80):
        optimiser.param_groups[0]["lr"] = 1e-2 * (1 - step / 80)
        loss = -flow.log_prob(batch(64)).mean() / 64
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        found = -flow.log_prob(batch(500)) / 64
        independent = 0.5 * np.log(2 * np.pi * np.e * float((kernel**2).sum()))
    error = float(found.std()) / 500**0.5
    assert (
        entropy / 64 - 4 * error
        < float(found.mean())
        < entropy / 64 + 0.3 * (independent - entropy / 64)
    )


# --- robustness


@pytest.mark.parametrize("scale", [0, 1e-30, 10, 1e4])
@torch.no_grad()
def test_wild_images_and_weights_give_finite_numbers(scale):
    x, condition = pair(2, 1, 16, 16)
    flow = as_if_trained(x, condition)
    wild = scale * (2 * x - 1)
    z, log_det = flow(wild, condition)
    assert torch.isfinite(flat(z)).all() and torch.isfinite(flow.log_prob(wild, condition)).all()
    assert torch.isfinite(
        flow.inverse([scale * torch.randn_like(part) for part in z], condition)
    ).all()
    for step in (step for level in flow.levels for step in level.steps):
        step.last.weight[: step.half] *= 1e6  # those of log-scales
        step.injector.weight[: 2 * step.half] *= 1e6
    dimension, layers = x[0].numel(), 3 * (2 * 8 + 1)
    fixed = sum(level.mixing()[2] * dimension / 4 ** (n + 1) for n, level in enumerate(flow.levels))
    log_det = flow(x, condition)[1]
    assert (
        not log_det.isnan().any() and (log_det.abs() <= dimension * layers + abs(fixed)).all()
    )  # every log-scale is bounded


@pytest.mark.parametrize("size", [(12, 16), (16, 12), (0, 8)])
def test_sizes_that_do_not_fit_are_refused(size):
    flow = ConditionalFlow()
    with pytest.raises(ValueError, match="multiples of 8"):
        flow(torch.zeros(1, 1, *size), torch.zeros(1, 1, *size))


@pytest.mark.parametrize(
    "arguments",
    [
        {"levels": 0},
        {"levels": 7},
        {"steps": 10**6},
        {"steps": 2.0},
        {"hidden": True},
        {"features": (16, 32)},
        {"features": (16, 32, 10**6)},
        {"features": 16},
        {"max_log_scale": 0},
        {"max_log_scale": float("nan")},
        {"max_log_scale": "1"},
        {"transition_steps": -1},
        {"in_channels": 0},
        {"colour": 3},
    ],
)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError):
        networks.build("conditional_flow", **arguments)


def test_features_match_the_levels_and_see_around_them():
    flow = ConditionalFlow()
    condition = torch.zeros(1, 1, 64, 64)
    dot = F.pad(torch.ones(1, 1, 2, 2), (31, 31, 31, 31))
    for depth, (empty, seen) in enumerate(zip(flow.features(condition), flow.features(dot)), 1):
        assert empty.shape == (1, 8 * 2**depth, 64 >> depth, 64 >> depth)
        changed = ((seen - empty).abs().sum(1)[0] > 1e-6).nonzero()
        assert (
            changed.amax(0) - changed.amin(0) >= 4
        ).all()  # in its own pixels, two on each side at least
