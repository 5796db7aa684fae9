"""The objective: closed forms, derivatives, and the same figures whole, in batches and in tiles."""

import math
import subprocess
import sys

import pytest
import torch
from torch import nn
from toy_models import linear

from NetInversionLib import networks
from NetInversionLib.optimise.objective import Objective, Terms, bytes_per_voxel, receptive_halo

DOUBLE = torch.float64


def random(*shape, seed=0, dtype=torch.float32):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def unet(dimensions, features, dtype=torch.float32, **arguments):
    torch.manual_seed(0)
    network = networks.build(
        "unet", dimensions=dimensions, in_channels=2, features=features, **arguments
    )
    return network.to(dtype).eval().requires_grad_(False)


def whole(network, x, target, weight, terms):
    """Eq. 2 as it is written, by autograd."""
    x = x.clone().requires_grad_()
    weight = torch.ones_like(target[:, :1]) if weight is None else weight
    values = []
    for image, y, w in zip(x, target, weight):
        error = ((network(image[None])[0] - y).abs() * w).sum()
        penalty = (
            terms.above * (image - 1).relu().square().sum()
            + terms.below * (-image).relu().square().sum()
        )
        if terms.mean:
            error, penalty = error / (w.sum() * len(y)), penalty / image.numel()
        values.append(terms.sign * error + penalty)
    value = torch.stack(values)
    return value.detach(), torch.autograd.grad(value.sum(), x)[0]


# -- closed forms ----------------------------------------------------------------------------------


def test_value_by_hand():
    """With y = 2 a - b + 0.5 on four voxels, errors are 0.5, 0, 2.5 and 1.

    a is 0.5 above 1 once and 0.25 below 0 once.
    """
    network = linear([[2.0, -1.0]], [0.5])
    x = torch.tensor(
        [[[[0.5, 1.5], [-0.25, 0.25]], [[0.0, 0.5], [0.0, 0.0]]]]
    )  # outputs 1.5, 3, 0, 1
    target = torch.tensor([[[[1.0, 3.0], [2.5, 0.0]]]])
    items = torch.tensor([0])
    value, gradient = Objective(network, target, terms=Terms(3, 7)).value_and_gradient(x, items)
    assert value.item() == pytest.approx(4.0 / 4 + (3 * 0.25 + 7 * 0.0625) / 8)
    # d/da: sign * 2 / 4, and the penalties' slopes; where the error is 0 only those.
    slope_a = [[2 / 4, 3 * 2 * 0.5 / 8], [-2 / 4 - 7 * 2 * 0.25 / 8, 2 / 4]]
    torch.testing.assert_close(gradient[0], torch.tensor([slope_a, [[-1 / 4, 0], [1 / 4, -1 / 4]]]))
    value, _ = Objective(network, target, terms=Terms(3, 7, mean=False)).value_and_gradient(
        x, items
    )
    assert value.item() == pytest.approx(4.0 + 3 * 0.25 + 7 * 0.0625)
    value, _ = Objective(network, target, terms=Terms(0, 0, sign=-1)).value_and_gradient(x, items)
    assert value.item() == pytest.approx(-1.0)


@pytest.mark.parametrize(
    "terms", [Terms(), Terms(2, 5, mean=False), Terms(2, 5, sign=-1), Terms(0, 0)]
)
@pytest.mark.parametrize("weighted", [False, True])
def test_value_and_gradient_are_those_of_the_formula(terms, weighted):
    network = (
        nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 2, 1))
        .double()
        .requires_grad_(False)
    )
    x, target = 3 * random(3, 2, 5, 7, dtype=DOUBLE) - 1, random(3, 2, 5, 7, seed=1, dtype=DOUBLE)
    weight = (random(3, 1, 5, 7, seed=2, dtype=DOUBLE) > 0.4).double() if weighted else None
    value, gradient = Objective(network, target, weight, terms).value_and_gradient(
        x, torch.arange(3)
    )
    expected, slope = whole(network, x, target, weight, terms)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, slope, rtol=1e-12, atol=1e-12)


def test_gradient_agrees_with_finite_differences():
    network = (
        nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 1, 1))
        .double()
        .requires_grad_(False)
    )
    x = 3 * random(2, 2, 4, 5, dtype=DOUBLE) - 1
    objective = Objective(network, random(2, 1, 4, 5, seed=3, dtype=DOUBLE), terms=Terms(2, 5))

    class Value(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            value, gradient = objective.value_and_gradient(x.detach(), torch.arange(2))
            context.save_for_backward(gradient)
            return value

        @staticmethod
        def backward(context, slope):
            return slope[:, None, None, None] * context.saved_tensors[0]

    # Nowhere near a kink, where a difference across it would be no derivative.
    assert (network(x) - objective.target).abs().min() > 1e-4 and min(
        x.abs().min(), (x - 1).abs().min()
    ) > 1e-4
    assert torch.autograd.gradcheck(Value.apply, x.requires_grad_(), eps=1e-6, atol=1e-7)


def test_the_error_counts_only_where_the_weight_is():
    network = linear([[1.0]])
    target, weight = random(2, 1, 6, 5), torch.zeros(2, 1, 6, 5)
    weight[:, :, 1:3, 2:4] = 1
    x = target.clone()
    x[weight == 0] += 0.1
    objective = Objective(network, target, weight, Terms(0, 0))
    value, gradient = objective.value_and_gradient(x, torch.arange(2))
    assert (
        (value == 0).all()
        and (gradient == 0).all()
        and (objective.error(x, torch.arange(2)) == 0).all()
    )
    x[:, :, 1, 2] += 0.25
    torch.testing.assert_close(objective.error(x, torch.arange(2)), torch.full((2,), 0.25 / 4))


def test_error_is_the_mean_absolute_error_without_penalty_and_sign():
    network, target = unet(2, [3, 4]), random(3, 1, 9, 11)
    x = 5 * random(3, 2, 9, 11, seed=1) - 2
    objective = Objective(network, target, terms=Terms(9, 9, mean=False, sign=-1))
    torch.testing.assert_close(
        objective.error(x, torch.arange(3)), (network(x) - target).abs().flatten(1).mean(1)
    )


def test_rows_belong_to_images_modulo_their_number():
    """Several starts of the same images; rows may leave in any order."""
    network, target, x = unet(2, [3, 4]), random(3, 1, 8, 8), random(4, 2, 8, 8, seed=1)
    items = torch.tensor([5, 0, 7, 4])  # images 2, 0, 1, 1
    value, gradient = Objective(network, target).value_and_gradient(x, items)
    expected, slope = whole(network, x, target[[2, 0, 1, 1]], None, Terms())
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, slope)
    error = Objective(network, target).error(x, items)
    torch.testing.assert_close(error, (network(x) - target[[2, 0, 1, 1]]).abs().flatten(1).mean(1))


def test_an_image_whose_weight_is_nowhere_has_no_error_and_no_nan():
    weight = torch.zeros(2, 1, 4, 4)
    weight[0] = 1
    value, gradient = Objective(
        linear([[1.0]]), random(2, 1, 4, 4), weight, Terms(0, 0)
    ).value_and_gradient(torch.zeros(2, 1, 4, 4), torch.arange(2))
    assert value[1] == 0 and torch.isfinite(gradient).all() and value[0] > 0


# -- in pieces -------------------------------------------------------------------------------------


CASES = [(2, (101, 122), (3, 4)), (2, (161, 90), (3, 4, 5)), (3, (41, 37, 60), (3, 4))]


@pytest.mark.parametrize("dimensions, space, features", CASES)
def test_tiles_give_the_whole_image_s_figures(dimensions, space, features):
    """Tiles agree with the whole for the real architecture and a small budget.

    Sizes are no multiple of its pooling, and the budget is about an eighth of the image.
    """
    network = unet(dimensions, features)
    x, target = 2 * random(1, 2, *space) - 0.5, random(1, 1, *space, seed=1)
    weight = (random(1, 1, *space, seed=2) > 0.2).float()
    items, said = torch.tensor([0]), []
    multiple = network.size_multiple
    per_voxel = bytes_per_voxel(network, x, multiple)
    terms = Terms(2, 5)
    tiled = Objective(
        network,
        target,
        weight,
        terms,
        multiple=multiple,
        log=said.append,
        budget=0.55 * per_voxel * math.prod(space),
    )
    value, gradient = tiled.value_and_gradient(x, items)
    assert math.prod(-(-n // t) for n, t in zip(space, tiled.tile)) >= 2 and tiled.halo > 0
    assert any("tiles of" in line for line in said)
    expected, slope = whole(network, x, target, weight, terms)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    assert (gradient - slope).abs().max() < 1e-6 * slope.abs().max() + 1e-9
    torch.testing.assert_close(tiled.forward(x), network(x), rtol=0, atol=1e-6)
    error = Objective(network, target, weight).error(x, items)
    torch.testing.assert_close(tiled.error(x, items), error, rtol=1e-6, atol=0)


def test_tiles_in_double_precision_leave_nothing_but_rounding():
    """In single precision a voxel near its target can hide a seam or look like one.

    The reason is that an L1 error's gradient is a sign.
    """
    network = unet(2, (3, 4), DOUBLE)
    x, target = random(2, 2, 75, 64, dtype=DOUBLE), random(2, 1, 75, 64, seed=1, dtype=DOUBLE)
    budget = 0.4 * bytes_per_voxel(network, x, 2) * 75 * 64
    tiled = Objective(network, target, budget=budget, multiple=2)
    value, gradient = tiled.value_and_gradient(x, torch.arange(2))
    expected, slope = whole(network, x, target, None, Terms())
    assert tiled.halo
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-15)


def test_tiles_keep_to_the_budget():
    """No pass through the network is given more voxels than the budget holds."""
    network, given = unet(2, (3, 4)), []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            given.append(x.numel() // 2)
            return self.network(x)

    x = random(5, 2, 128, 100)
    voxels = 128 * 100 / 2
    objective = Objective(
        Watched(),
        random(5, 1, 128, 100, seed=1),
        multiple=2,
        budget=voxels * bytes_per_voxel(Watched(), x, 2),
    )
    objective.value_and_gradient(x, torch.arange(5))
    given.clear()
    objective.value_and_gradient(x, torch.arange(5))
    assert max(given) <= voxels
    objective.budget, objective.images, objective.tile = 2.5 * 2 * objective.budget, 0, (128, 100)
    given.clear()
    objective.value_and_gradient(x, torch.arange(5))
    assert set(given[-3:]) == {2 * 12800, 12800}, "two images at a time fit"


def test_a_network_that_mixes_the_whole_image_is_not_cut():
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.InstanceNorm2d(4), nn.Conv2d(4, 1, 1)
    ).eval()
    x = random(1, 1, 64, 64)
    assert (
        Objective(network, x).value_and_gradient(x, torch.tensor([0]))[0] > 0
    )  # whole, it is fine
    small = Objective(network, x, budget=1000.0)
    with pytest.raises(ValueError, match="depends on the whole image.*smaller region"):
        small.value_and_gradient(x, torch.tensor([0]))


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize(
    "kernels, dilation", [((1,), 1), ((3,), 1), ((3, 3, 3), 1), ((5, 3), 1), ((3, 3), 4)]
)
def test_halo_of_convolutions_is_their_reach(dimensions, kernels, dilation):
    conv = nn.Conv2d if dimensions == 2 else nn.Conv3d
    layers = [
        layer
        for k in kernels
        for layer in (conv(1, 1, k, padding="same", dilation=dilation), Swish())
    ]
    torch.manual_seed(1)
    reach = sum(dilation * (k - 1) // 2 for k in kernels)
    halo = receptive_halo(nn.Sequential(*layers), random(1, 1, *(50,) * dimensions), 1)
    assert reach <= halo <= reach + 1


def test_halo_of_the_unet_covers_its_reach():
    network = unet(2, (3, 4, 5))
    halo = receptive_halo(network, random(1, 2, 200, 200), network.size_multiple)
    # Two 3-wide convolutions per level, down and up: 2 * (1 + 2 + 4) + 2 * (1 + 2), and pooling and
    # upsampling besides.
    assert (
        halo % network.size_multiple == 0
        and 8 * network.size_multiple - 6 <= halo <= 8 * network.size_multiple + 2
    )


def test_finding_the_halo_is_no_larger_than_the_image():
    """A 3-D probe of a few hundred voxels a side would take too much memory.

    It would be more than that of the volume that did not fit.
    """
    network, given = unet(3, (2, 2, 2)), []

    def watched(x):
        given.append(x.shape[2:].numel())
        return network(x)

    receptive_halo(watched, random(1, 2, 96, 96, 96), network.size_multiple)
    assert max(given) <= 96**3 / 20


def test_halo_of_networks_that_look_along_one_axis_only():
    for kernel in ((1, 9), (9, 1)):
        network = nn.Conv2d(1, 1, kernel, padding="same")
        assert 4 <= receptive_halo(network, random(1, 1, 30, 30), 1) <= 5


def test_a_network_that_ends_in_a_dead_or_living_relu():
    network = nn.Sequential(nn.Conv2d(1, 1, 5, padding=2), nn.ReLU())
    nn.init.constant_(network[0].weight, -1.0)  # dead for everything positive
    nn.init.zeros_(network[0].bias)
    assert 2 <= receptive_halo(network, random(1, 1, 30, 30), 1) <= 3
    nn.init.zeros_(network[0].weight)
    with pytest.raises(ValueError, match="does not depend on its input"):
        receptive_halo(network, random(1, 1, 30, 30), 1)


class Hungry(nn.Module):
    """Runs out of memory when given more than ``most`` voxels."""

    def __init__(
        self, network, most, error=RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
    ):
        super().__init__()
        self.network, self.most, self.error, self.failures = network, most, error, 0

    def forward(self, x):
        if x[:, 0].numel() > self.most:
            self.failures += 1
            raise self.error
        return self.network(x)


@pytest.mark.parametrize("most", [2 * 7200, 7200, 4500])
@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), MemoryError()]
)
def test_out_of_memory_halves_the_images_then_the_tile(most, error):
    network, said = unet(2, (3, 4)), []
    x, target = random(6, 2, 90, 80), random(6, 1, 90, 80, seed=1)
    objective = Objective(Hungry(network, most, error), target, multiple=2, log=said.append)
    value, gradient = objective.value_and_gradient(x, torch.arange(6))
    expected, slope = whole(network, x, target, None, Terms())
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, slope, rtol=1e-5, atol=1e-9)
    assert objective.network.failures >= 1 and any("Out of memory" in line for line in said)
    assert (objective.halo > 0) == (most < 7200)
    failures = objective.network.failures
    objective.value_and_gradient(x, torch.arange(6))
    assert objective.network.failures == failures, "what was learnt is kept"


@pytest.mark.parametrize("most", [7200, 4500])
def test_out_of_memory_without_gradients(most):
    network, x, target = unet(2, (3, 4)), random(6, 2, 90, 80), random(6, 1, 90, 80, seed=1)
    objective = Objective(Hungry(network, most), target, multiple=2)
    torch.testing.assert_close(objective.forward(x), network(x), rtol=0, atol=1e-6)
    objective = Objective(Hungry(network, most), target, multiple=2)
    torch.testing.assert_close(
        objective.error(x, torch.arange(6)), (network(x) - target).abs().flatten(1).mean(1)
    )


def test_out_of_memory_with_nothing_left_to_halve():
    x = random(1, 2, 40, 40)
    objective = Objective(Hungry(unet(2, (3, 4)), 1000), random(1, 1, 40, 40), multiple=2)
    with pytest.raises(MemoryError, match="smaller region"):
        objective.value_and_gradient(x, torch.tensor([0]))


def test_other_errors_of_a_network_are_not_taken_for_lack_of_memory():
    class Broken(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls > 1:  # the first call measures memory
                raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
            return x

    network = Broken()
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        Objective(network, random(4, 1, 8, 8)).value_and_gradient(
            random(4, 1, 8, 8), torch.arange(4)
        )
    assert network.calls == 2


MEASURE = """
import re, sys, torch
from NetInversionLib import networks
from NetInversionLib.optimise.objective import Objective, bytes_per_voxel
torch.set_num_threads(1)
status = lambda: open("/proc/self/status").read()
peak = lambda name: 1024 * int(re.search(name + r":\\s+(\\d+)", status())[1])
network = networks.build("unet", in_channels=2, features=[16, 32, 64]).eval().requires_grad_(False)
x = torch.rand(1, 2, 320, 320)
small = Objective(network, torch.rand(1, 1, 16, 16), multiple=4)
small.value_and_gradient(x[..., :16, :16], torch.tensor([0]))
before = peak("VmRSS")
Objective(network, torch.rand(1, 1, 320, 320), multiple=4).value_and_gradient(x, torch.tensor([0]))
print((peak("VmHWM") - before) / 320**2, bytes_per_voxel(network, x, 4))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_estimated_memory_is_near_the_memory_taken():
    from conftest import ROOT

    run = subprocess.run(
        [sys.executable, "-c", MEASURE], cwd=ROOT, capture_output=True, text=True, check=True
    )
    measured, estimated = map(float, run.stdout.split())
    assert measured / 1.5 <= estimated <= 4 * measured, (
        f"bytes per voxel: {estimated:.0f} estimated, {measured:.0f} taken"
    )
