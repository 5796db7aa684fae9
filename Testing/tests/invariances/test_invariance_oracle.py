"""Invariances where they are known: Gaussian images and a linear network.

There p(x|z) has a closed form. Images of 8 x 8 voxels have a deviation that differs from place to
place, and correlated voxels. The network is a strided blur of 16 outputs. The autoencoder is exact
but for its posterior's noise, as trained ones have: latents are the voxels plus noise.
"""

import math

import pytest
import torch
from torch import nn

from NetInversionLib.invariances.level_set import LevelSet, Window, project
from NetInversionLib.networks.cinn import CINN
from NetInversionLib.training.sampler import CINNSettings, bits_per_latent, fit_flows

SIZE, NOISE, SAMPLES = 8, 0.2, 4000
SETTINGS = CINNSettings(
    steps=1000, batch=128, learning_rate=8e-3, average=0.99, checkpoint_every=100
)


class World:
    """x ~ N(mean, covariance), z = A x, and what follows exactly for latents given z.

    A is the network's first layer, and latents are x + noise.
    """

    def __init__(self):
        place = torch.cartesian_prod(torch.arange(SIZE), torch.arange(SIZE)).double()
        bump = torch.exp(
            -(place - torch.tensor([0.3, 0.6]) * SIZE).square().sum(1) / (2 * (SIZE / 4) ** 2)
        )
        deviation = 0.5 + 1.5 * bump
        near = torch.exp(-torch.cdist(place, place).square() / (2 * 1.5**2))
        self.mean = torch.linspace(-1, 1, SIZE**2, dtype=torch.float64)
        self.covariance = deviation[:, None] * deviation * (0.8 * near + 0.2 * torch.eye(SIZE**2))
        self.network = nn.Sequential(
            nn.Conv2d(1, 1, 4, stride=2, padding=1, bias=False), nn.Upsample(scale_factor=2)
        )
        self.network.requires_grad_(False).size_multiple = 2
        self.layer = self.network[0]
        row = torch.tensor([1.0, 3, 3, 1]) / 8
        self.layer.weight.copy_((row[:, None] * row)[None, None])
        basis = torch.eye(SIZE**2).reshape(-1, 1, SIZE, SIZE)
        self.a = self.layer(basis).flatten(1).T.double()
        gain = torch.linalg.solve(self.a @ self.covariance @ self.a.T, self.a @ self.covariance).T
        self.left = self.covariance - gain @ self.a @ self.covariance
        self.latents_left = self.left + NOISE**2 * torch.eye(SIZE**2)

    def images(self, count: int, generator: torch.Generator) -> torch.Tensor:
        noise = torch.randn(count, SIZE**2, dtype=torch.float64, generator=generator)
        return (
            (self.mean + noise @ torch.linalg.cholesky(self.covariance).T)
            .float()
            .reshape(-1, 1, SIZE, SIZE)
        )

    def batch(
        self, step: int, group=None, count: int = SETTINGS.batch
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        generator = torch.Generator().manual_seed(step)
        x = self.images(count, generator)
        latents = x.flatten(1) + NOISE * torch.randn(count, SIZE**2, generator=generator)
        return latents, [self.layer(x)]


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture(scope="module")
def flow(world):
    """Trained as ``train cinn`` trains."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    flows = nn.ModuleList(
        [CINN(SIZE**2, 1, SIZE // 2, blocks=4, hidden=64, depth=0, features=16, downs=0)]
    )
    state = fit_flows(flows, world.batch, SETTINGS, ["Gaussian images"])
    flows.load_state_dict(state.averaged_state())
    torch.set_num_threads(threads)
    return flows[0].eval().requires_grad_(False)


def samples(world, flow, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """An image, and what the flow draws given the network's output for it."""
    x0 = world.images(1, torch.Generator().manual_seed(10**6 + seed))
    drawn = flow.sample(
        flow.embed(world.layer(x0)), SAMPLES, 1.0, torch.Generator().manual_seed(seed)
    )
    return x0, drawn.reshape(-1, 1, SIZE, SIZE)


def error(found: torch.Tensor, exact: torch.Tensor) -> tuple[float, float]:
    """(correlation, root-mean-square relative error) of two maps."""
    found = found.flatten().double()
    return float(torch.corrcoef(torch.stack([found, exact]))[0, 1]), float(
        (found / exact - 1).square().mean().sqrt()
    )


def test_the_case_is_neither_flat_nor_free(world):
    """The map to be found varies by more than two, and conditions matter.

    Knowing z leaves less than half of most variances.
    """
    exact = world.latents_left.diagonal().sqrt()
    assert exact.max() > 2 * exact.min()
    assert (world.left.diagonal() / world.covariance.diagonal()).median() < 0.5
    assert torch.linalg.matrix_rank(world.a) == 16
    assert (world.a @ world.left).abs().max() < 1e-9  # given z, nothing moves that the network sees


def test_sampling_noise_alone_is_one_percent(world):
    """Exact samples give the figure to be reached.

    They are so many that the flow's own error is what the next test finds.
    """
    exact = world.latents_left.diagonal().sqrt()
    noise = torch.randn(
        SAMPLES, SIZE**2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    correlation, relative = error(
        (noise @ torch.linalg.cholesky(world.latents_left).T).std(0), exact
    )
    assert correlation > 0.999 and 0.005 < relative < 0.02


def test_the_likelihood_comes_close_to_the_entropy_and_not_below(world, flow):
    """No density has fewer bits than the true one, so a wrong log-determinant shows at once."""

    def entropy(covariance):
        return float(torch.logdet(2 * math.pi * math.e * covariance)) / (2 * SIZE**2 * math.log(2))

    found = float(bits_per_latent(nn.ModuleList([flow]), *world.batch(10**6, count=4000)))
    best = entropy(world.latents_left)
    unconditional = entropy(world.covariance + NOISE**2 * torch.eye(SIZE**2))
    assert best - 0.02 < found < best + 0.2 * (unconditional - best)


@pytest.mark.parametrize("seed", range(3))
def test_the_map_of_samples_is_the_exact_one(world, flow, seed):
    x0, drawn = samples(world, flow, seed)
    correlation, relative = error(drawn.std(0), world.latents_left.diagonal().sqrt())
    print(f"correlation {correlation:.4f}, relative error {relative:.3f}")
    assert correlation >= 0.98 and relative <= 0.10


def test_projected_samples_lie_on_the_exact_level_set_and_nowhere_else(world, flow):
    """A linear network's level set is a plane; from every proposal the way to it is straight."""
    x0, drawn = samples(world, flow, 0)
    proposals = drawn[:200]
    level_set = LevelSet(world.network, x0, Window(0, SIZE, 0, SIZE), layer="0")
    found = project(level_set, proposals, 1e-4)
    z, proposed, images = (x.double().flatten(1) @ world.a.T for x in (x0, proposals, found.images))
    relative = (images - z).norm(dim=1) / z.norm()
    print(f"relative mismatch {float(relative.max()):.1e}")
    assert found.accepted.all() and relative.max() <= 1e-4
    nearest = proposals.double().flatten(1) - (proposed - z) @ torch.linalg.pinv(world.a).T
    torch.testing.assert_close(found.images.double().flatten(1), nearest, rtol=0, atol=2e-3)
