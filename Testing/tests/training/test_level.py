"""A denoiser's own estimate of the noise's level, beginning with another's weights.

Also: the sources that a card names.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_denoising import made_up_ct

from NetInversionLib import models, networks
from NetInversionLib.networks.noise_level import AROUND, LEVEL_OF_ONE, LearnedLevel
from NetInversionLib.training import denoiser, noisy
from NetInversionLib.training.level import (
    QUIETEST_HU,
    SPAN_HU,
    begin_with,
    learned_level,
    level_error,
)
from NetInversionLib.training.sources import sources_of

NOISY = noisy.NoisySettings(
    spacings=((0.9, 1.1),), window=96, views=30, photons=2e4, exposure=1.0, identity=0.0
)
SMALL = denoiser.DenoiserSettings(
    "cnn10",
    (("residual", True), ("level", "learned")),
    steps=30,
    batch=4,
    patch=48,
    learning_rate=5e-3,
    average=0.5,
    listening=0.9,
    noisy=NOISY,
)


@pytest.fixture(scope="module")
def windows():
    return [
        window
        for n, person in enumerate("ab")
        for window in noisy.windows_of(made_up_ct(n, size=96), 1, person, NOISY, n)
    ]


def test_the_error_is_that_of_the_logarithm_and_0_for_the_true_level():
    generator = torch.Generator().manual_seed(0)
    normal, noise = torch.full((2, 1, 60, 60), 1.0), torch.randn(2, 1, 60, 60, generator=generator)

    def says(factor):
        def estimate(low):
            width = 2 * AROUND + 1
            square = torch.nn.functional.avg_pool2d(
                (0.1 * noise).square(), width, 1, AROUND, count_include_pad=False
            )
            return factor * LEVEL_OF_ONE * square.sqrt(), None

        return estimate

    low = normal + 0.1 * noise
    assert float(level_error(says(1.0), low, normal)) < 1e-8
    assert float(level_error(says(2.0), low, normal)) == pytest.approx(np.log(2) ** 2, rel=1e-4)
    quietest = torch.full_like(low, LEVEL_OF_ONE * QUIETEST_HU / SPAN_HU)
    assert float(level_error(lambda low: (quietest, None), normal, normal)) < 1e-8


def test_training_brings_the_level_nearer_and_a_network_can_begin_with_another_s_weights(
    windows, tmp_path
):
    low, normal, _ = noisy.draw_noisy(windows, NOISY, 16, 48, 1000)
    low, normal = denoiser.normalised(low), denoiser.normalised(normal)
    path = denoiser.train(windows, tmp_path / "a.safetensors", SMALL)
    network = models.load(path).network
    with torch.no_grad():
        after = float(level_error(learned_level(network), low, normal))
        assert after < 0.8 * float(level_error(LearnedLevel(), low, normal))
    still = replace(SMALL, steps=1, learning_rate=1e-12, listening=0.0)
    again = denoiser.train(windows, tmp_path / "b.safetensors", still, start=models.load(path))
    for name, weight in models.load(again).network.state_dict().items():
        torch.testing.assert_close(weight, network.state_dict()[name], rtol=1e-4, atol=1e-6)
    card = models.read_card(again)
    assert card.training["begun with"].startswith(models.read_card(path).name)
    assert dict(card.arguments)["level"] == "learned"


def test_only_a_network_with_the_same_layers_can_be_begun_with():
    plain = networks.build("cnn10", residual=True, level=True)
    learned = networks.build("cnn10", residual=True, level="learned")
    begin_with(learned, plain)
    assert torch.equal(learned.layers[0].weight, plain.layers[0].weight)
    for other in (networks.build("cnn10"), networks.build("wganvgg"), learned):
        with pytest.raises(ValueError, match="other layers"):
            begin_with(plain, other)


def test_a_card_names_the_sources_of_its_people_and_no_others():
    said = sources_of(["TCGA-17-Z011", "rider_0117", "upper_abdomen"])
    assert all(part in said for part in ("TCGA-LUAD", "RIDER", "TotalSegmentator"))
    assert "Lung-PET-CT-Dx" not in said and "COVID" not in said
    assert said.endswith("Low dose is simulated from these CTs.")
    said = sources_of(["chest", "patient 7"], simulated=False)
    assert "Lung-PET-CT-Dx" in said and "1 more" in said and "simulated" not in said
